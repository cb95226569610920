//! What agents say of pods, taken as an aggregator takes it: believed only as far as it can be true.

mod sums;

use super::*;
use crate::inventory::tests::key;
use crate::inventory::{Container, Detail, Pod};
use crate::usage::counts::Outcome;
use crate::usage::row::Row;
use proptest::prelude::*;
use skpr_proto::v1::{ContainerSample, PodSample, Usage};
use std::collections::BTreeMap;

const SECOND: Duration = Duration::from_secs(1);

fn pod(instance: &str, node: &str, containers: &[(&str, &str)]) -> Pod {
    Pod {
        environment: key("sites", "shop", "prod"),
        node: Some(NodeName::parse(node).unwrap()),
        instance: instance.into(),
        main_container: Label::parse("container", "app").unwrap(),
        task: None,
        version: "v1".into(),
        ready: true,
        production: false,
        presence: Presence::Present,
        detail: Detail::default(),
        labels: Default::default(),
        containers: containers
            .iter()
            .map(|(id, name)| {
                let name = Label::parse("container", name).unwrap();
                ((*id).into(), Container { name, running: *id != "ended" })
            })
            .collect(),
    }
}

fn inventory(pods: Vec<(&str, Pod)>) -> Inventory {
    let pods = pods.into_iter().map(|(uid, pod)| (PodUid::parse(uid).unwrap(), pod)).collect();
    Inventory::of(pods, &BTreeMap::new())
}

fn cpu(nanos: u64) -> Sample {
    Sample { cpu_nanos: Some(nanos), memory_working_set_bytes: Some(100), ..Sample::default() }
}

fn of(uid: &str, total: Sample) -> PodSample {
    PodSample { uid: uid.into(), total: Some(total), ..PodSample::default() }
}

/// What agents report, second by second.
struct Told {
    live: Live,
    began: Instant,
    inventory: Inventory,
}

impl Told {
    fn new(inventory: Inventory) -> Told {
        Told { live: Live::new(Arc::default()), began: Instant::now(), inventory }
    }

    fn at(&self, second: u64) -> Instant {
        self.began + SECOND * u32::try_from(second).unwrap()
    }

    /// A round of `node` that arrives at a second of ours and was at a second of its own clock; how many rows come of it.
    fn round(&self, node: &str, second: u64, its: u64, pods: Vec<PodSample>) -> usize {
        self.rows(node, second, its, pods).len()
    }

    fn rows(&self, node: &str, second: u64, its: u64, pods: Vec<PodSample>) -> Vec<Row> {
        let at = Moment { instant: self.at(second), wall: i64::try_from(second * 1000).unwrap() };
        let sample = NodeSample { cores: 4, cpu_nanos: Some(its * 2_000_000_000), ..NodeSample::default() };
        let usage =
            Usage { monotonic_nanos: its * 1_000_000_000, interval_millis: 5000, node: Some(sample), pods };
        let rows = self.live.take(&NodeName::parse(node).unwrap(), usage, at, &self.inventory);
        rows.into_iter().map(|(_, row)| row).collect()
    }

    fn instance(&self, name: &str, second: u64) -> Option<InstanceUsage> {
        self.live.instance(&self.inventory, &key("sites", "shop", "prod"), name, self.at(second))
    }

    fn whole(&self, second: u64) -> EnvironmentUsage {
        self.live.environment(&self.inventory, &key("sites", "shop", "prod"), |_| true, self.at(second))
    }

    /// Every container that is shown, by name, with its time of CPU.
    fn containers(&self, second: u64) -> Vec<(String, Option<u64>)> {
        let mut shown = Vec::new();
        self.live.look_at_containers(&self.inventory, self.at(second), |view| {
            shown.push((view.container.to_owned(), view.sample.cpu_nanos));
        });
        shown.sort();
        shown
    }

    fn millicores(&self, name: &str, second: u64) -> Option<u64> {
        self.instance(name, second)?.rates?.cpu_nanocores.map(|nanocores| nanocores / 1_000_000)
    }

    #[track_caller]
    fn counted(&self, outcome: Outcome, expected: u64) {
        assert_eq!(self.live.counts.sample(outcome), expected, "{outcome:?}");
    }
}

#[test]
fn a_rate_takes_two_samples_by_the_agents_clock() {
    let told = Told::new(inventory(vec![("u1", pod("a", "n1", &[]))]));
    assert_eq!(told.round("n1", 0, 100, vec![of("u1", cpu(0))]), 1);
    let first = told.instance("a", 1).unwrap();
    assert_eq!((first.rates, first.age, first.stale), (None, SECOND, false));
    // It arrives a second late: what counts is when it was.
    told.round("n1", 6, 105, vec![of("u1", cpu(2_500_000_000))]);
    assert_eq!(told.millicores("a", 6), Some(500));
    let node = told.live.nodes(told.at(6)).pop().unwrap();
    assert_eq!((node.cpu_nanocores, node.window), (Some(2_000_000_000), Some(SECOND * 5)));
}

#[test]
fn what_is_not_heard_of_is_stale_and_then_gone() {
    let told = Told::new(inventory(vec![("u1", pod("a", "n1", &[])), ("u2", pod("b", "n1", &[]))]));
    told.round("n1", 0, 0, vec![of("u1", cpu(0))]);
    assert_eq!(told.whole(9).fresh, 1);
    assert_eq!(told.whole(9).unknown, [Arc::from("b")]);
    let late = told.whole(10);
    assert_eq!((late.fresh, &*late.stale, late.cpu_nanocores), (0, &[Arc::from("a")][..], None));
    // The last that is known goes on being told, as what it is.
    assert_eq!((late.sample.memory_working_set_bytes, late.age), (Some(100), SECOND * 10));
    assert!(told.instance("a", 299).unwrap().stale && told.containers(10).is_empty());
    assert_eq!(told.instance("a", 300), None);
    told.live.prune(&told.inventory, told.at(300));
    assert!(told.live.nodes(told.at(300)).is_empty());
}

#[test]
fn a_counter_that_goes_back_or_another_clock_begins_anew() {
    let told = Told::new(inventory(vec![("u1", pod("a", "n1", &[]))]));
    told.round("n1", 0, 100, vec![of("u1", cpu(9_000_000_000))]);
    told.round("n1", 5, 105, vec![of("u1", cpu(0))]);
    assert_eq!(told.millicores("a", 5), None);
    told.round("n1", 10, 110, vec![of("u1", cpu(5_000_000_000))]);
    assert_eq!(told.millicores("a", 10), Some(1000));
    // The node was started again: its clock begins at 0, and so do its counters.
    told.round("n1", 15, 3, vec![of("u1", cpu(6_000_000_000))]);
    assert_eq!(told.millicores("a", 15), None);
    // A clock that runs four times as fast would make a quarter of the rate.
    told.round("n1", 20, 43, vec![of("u1", cpu(7_000_000_000))]);
    assert_eq!(told.millicores("a", 20), None);
}

#[test]
fn an_agent_speaks_for_the_pods_of_its_node_only() {
    let mut gone = pod("c", "n1", &[]);
    gone.presence = Presence::Gone;
    let told =
        Told::new(inventory(vec![("u1", pod("a", "n1", &[])), ("u2", pod("b", "n2", &[])), ("u3", gone)]));
    let pods = ["u1", "u2", "u3", "u4", "../etc"].map(|uid| of(uid, cpu(1)));
    assert_eq!(told.round("n1", 0, 0, pods.to_vec()), 1);
    assert_eq!(told.instance("b", 0), None);
    told.counted(Outcome::Taken, 1);
    told.counted(Outcome::Foreign, 1);
    told.counted(Outcome::Unclaimed, 2);
    told.counted(Outcome::Malformed, 1);
    // The same pod twice in one round.
    assert_eq!(told.round("n1", 5, 5, vec![of("u1", cpu(2)), of("u1", cpu(3))]), 1);
    told.counted(Outcome::Malformed, 2);
}

#[test]
fn only_containers_with_a_name_are_shown() {
    let told = Told::new(inventory(vec![("u1", pod("a", "n1", &[("c1", "app"), ("c2", "proxy")]))]));
    let container = |id: &str, nanos| ContainerSample { id: id.into(), sample: Some(cpu(nanos)) };
    let round = |nanos| PodSample {
        uid: "u1".into(),
        total: Some(cpu(nanos * 3)),
        containers: ["c1", "c2", "sandbox", "c1"].map(|id| container(id, nanos)).to_vec(),
        misses_last_kills: false,
    };
    told.round("n1", 0, 0, vec![round(0)]);
    told.round("n1", 5, 5, vec![round(1_000_000_000)]);
    let shown = told.containers(5);
    assert_eq!(shown, [("app".to_owned(), Some(1_000_000_000)), ("proxy".to_owned(), Some(1_000_000_000))]);
    let whole = told.instance("a", 5).unwrap();
    assert_eq!(
        (whole.sample.memory_working_set_bytes, whole.rates.unwrap().cpu_nanocores),
        (Some(200), Some(600_000_000))
    );
}

#[test]
fn kubernetes_is_told_of_pods_of_which_all_is_known() {
    let mut told = Told::new(inventory(vec![
        ("u1", pod("a", "n1", &[("c2", "proxy"), ("c1", "app"), ("ended", "setup")])),
        ("u2", pod("b", "n1", &[("c3", "app"), ("c4", "proxy")])),
        ("u3", pod("c", "n1", &[])),
    ]));
    let container = |id: &str, nanos| ContainerSample { id: id.into(), sample: Some(cpu(nanos)) };
    let of = |uid: &str, ids: &[&str], nanos| PodSample {
        uid: uid.into(),
        total: Some(cpu(nanos)),
        containers: ids.iter().map(|id| container(id, nanos)).collect(),
        ..PodSample::default()
    };
    // The second container of `b` has just been started.
    let round = |second, nanos, second_of_b: &[&str]| {
        let b = [&["c3", "sandbox"], second_of_b].concat();
        let pods = vec![of("u1", &["c1", "c2"], nanos), of("u2", &b, nanos), of("u3", &["c5"], nanos)];
        told.round("n1", second, second, pods);
    };
    let shown = |told: &Told, second| {
        let wanted = |pod: &Pod| pod.labels.contains_key("app") || pod.labels.is_empty();
        told.live.pods(&told.inventory, None, wanted, told.at(second))
    };
    let names = |pods: &[PodResources]| pods.iter().map(|pod| pod.instance.to_string()).collect::<Vec<_>>();
    round(0, 0, &["c4"]);
    assert!(shown(&told, 0).is_empty());
    round(5, 1_000_000_123, &[]);
    let pods = shown(&told, 5);
    assert_eq!(names(&pods), ["a"]);
    assert_eq!((pods[0].time, pods[0].window), (5000, SECOND * 5));
    let found: Vec<_> =
        pods[0].containers.iter().map(|c| (c.container.as_str(), c.cpu_nanocores, c.memory_bytes)).collect();
    assert_eq!(found, [("app", 200_000_024, 100), ("proxy", 200_000_024, 100)]);
    round(10, 2_000_000_000, &["c4"]);
    assert_eq!(names(&shown(&told, 10)), ["a"]);
    round(15, 3_000_000_000, &["c4"]);
    assert_eq!(names(&shown(&told, 15)), ["a", "b"]);
    let elsewhere = Label::parse("namespace", "other").unwrap();
    assert!(told.live.pods(&told.inventory, Some(&elsewhere), |_| true, told.at(15)).is_empty());
    // Silent for two intervals; one that is not selected.
    assert!(shown(&told, 25).is_empty());
    for pod in told.inventory.pods.values_mut() {
        Arc::make_mut(pod).labels = Arc::new([("tier".to_owned(), "web".to_owned())].into());
    }
    assert!(shown(&told, 15).is_empty());
}

#[test]
fn one_node_cannot_fill_the_memory() {
    let told = Told::new(inventory(vec![("u1", pod("a", "n1", &[("c1", "app")]))]));
    let containers = vec![ContainerSample { id: "c1".into(), sample: None }; 200];
    let many = PodSample { uid: "u1".into(), containers, ..PodSample::default() };
    told.round("n1", 0, 0, vec![many]);
    told.counted(Outcome::Excess, 136);
    told.round("n1", 5, 5, (0..1500).map(|number| of(&format!("x{number}"), cpu(1))).collect());
    told.counted(Outcome::Excess, 636);
    assert_eq!(told.live.lock().values().map(|node| node.instances.len()).sum::<usize>(), 1);
}

/// An agent that sent rounds without a pause once took the room of all other nodes' rows.
#[test]
fn a_flood_of_rounds_is_not_taken() {
    let told = Told::new(inventory(vec![("u1", pod("a", "n1", &[])), ("u2", pod("b", "n2", &[]))]));
    let taken: usize = (0..1000).map(|its| told.round("n1", 1, its, vec![of("u1", cpu(its))])).sum();
    assert_eq!(taken, 1, "of one moment history has one row");
    told.counted(Outcome::Excess, 970);
    // Others are not held up, and after a while it may go on.
    assert_eq!(told.round("n2", 1, 0, vec![of("u2", cpu(1))]), 1);
    assert_eq!(told.round("n1", 2, 2000, vec![of("u1", cpu(2000))]), 1);
    assert_eq!(told.round("n1", 30, 2030, vec![of("u1", cpu(2001))]), 1);
}

/// A sidecar's restart once made history count again what the container that went on had counted.
#[test]
fn a_container_that_begins_anew_adds_nothing_to_history_that_was_there_before() {
    let told = Told::new(inventory(vec![(
        "u1",
        pod("a", "n1", &[("c1", "app"), ("c2", "proxy"), ("c3", "proxy")]),
    )]));
    let container = |id: &str, periods| {
        let sample = Sample { periods: Some(periods), throttled_periods: Some(periods / 2), ..cpu(0) };
        ContainerSample { id: id.into(), sample: Some(sample) }
    };
    let round = |second, total: Option<u64>, containers: Vec<ContainerSample>| {
        let pod = PodSample { uid: "u1".into(), total: total.map(cpu), containers, ..PodSample::default() };
        let row = told.rows("n1", second, second, vec![pod]).pop().unwrap();
        (row.counters[0].get(), row.counters[1].get(), row.counters[2].get())
    };
    let first = round(0, Some(1000), vec![container("c1", 100), container("c2", 1000)]);
    assert_eq!(first, (Some(1000), Some(1100), Some(550)));
    let restarted = round(5, Some(1500), vec![container("c1", 110), container("c3", 4)]);
    assert_eq!(restarted, (Some(1500), Some(1114), Some(557)));
    // Without the pod's own, the containers' CPU is not comparable with what there was.
    assert_eq!(round(10, None, vec![container("c1", 110), container("c3", 4)]).0, None);
    // What was used around that sample is not lost, and the two kinds make no rate.
    assert_eq!(round(15, Some(1700), vec![container("c1", 110), container("c3", 4)]).0, Some(1700));
    assert_eq!(told.millicores("a", 15), None);
    // A number that the node cannot have reached is not believed.
    assert_eq!(round(20, Some(1 << 62), vec![container("c1", 110), container("c3", 4)]).0, Some(1700));
}

/// Two containers that waited at the same time once made an instance that waited twice as long.
#[test]
fn an_instance_waits_as_long_as_one_of_its_containers() {
    let told = Told::new(inventory(vec![("u1", pod("a", "n1", &[("c1", "app"), ("c2", "proxy")]))]));
    let round = |second: u64, micros: [u64; 2]| {
        let container = |id: &str, micros| {
            let sample = Sample { cpu_pressure_micros: Some(micros), ..cpu(second) };
            ContainerSample { id: id.into(), sample: Some(sample) }
        };
        let containers = vec![container("c1", micros[0]), container("c2", micros[1])];
        told.round("n1", second, second, vec![PodSample { containers, ..of("u1", cpu(second)) }]);
    };
    round(0, [0, 7_000_000]);
    round(5, [1_000_000, 8_500_000]);
    assert_eq!(told.instance("a", 5).unwrap().rates.unwrap().pressures, [Some(300), None, None]);
    assert_eq!(told.whole(5).pressures, [Some(300), None, None]);
}

#[test]
fn the_share_beside_what_is_used_is_of_those_that_use_it() {
    let told = Told::new(inventory(vec![("u1", pod("a", "n1", &[])), ("u2", pod("b", "n1", &[]))]));
    let with_share = |nanos| Sample { cpu_share_millicores: Some(500), ..cpu(nanos) };
    told.round("n1", 0, 0, vec![of("u1", with_share(0))]);
    let second = vec![of("u1", with_share(1_000_000_000)), of("u2", with_share(0))];
    told.round("n1", 5, 5, second);
    let whole = told.whole(5);
    assert_eq!(
        (whole.fresh, whole.cpu_nanocores, whole.sample.cpu_share_millicores),
        (2, Some(200_000_000), Some(500))
    );
    assert_eq!(whole.sample.memory_working_set_bytes, Some(200));
    told.round("n1", 10, 10, vec![of("u1", with_share(1_000_000_000)), of("u2", with_share(500_000_000))]);
    assert_eq!(told.whole(10).sample.cpu_share_millicores, Some(1000));
}

#[test]
fn an_instance_that_is_not_ready_may_have_no_sample() {
    let mut starting = pod("b", "n1", &[]);
    starting.ready = false;
    let told = Told::new(inventory(vec![("u1", pod("a", "n1", &[])), ("u2", starting)]));
    told.round("n1", 0, 0, vec![of("u1", cpu(0))]);
    assert!(told.whole(0).unknown.is_empty());
}

#[test]
fn a_kill_that_ended_a_container_is_the_platforms_to_tell_where_its_cgroup_took_it_away() {
    let mut ended = pod("a", "n1", &[]);
    ended.detail.out_of_memory_kills = 1;
    let told = Told::new(inventory(vec![("u1", ended)]));
    let kills = |misses_last_kills| {
        let total = Sample { oom_kills: Some(2), ..cpu(1) };
        PodSample { misses_last_kills, ..of("u1", total) }
    };
    told.round("n1", 0, 0, vec![kills(true)]);
    assert_eq!(told.instance("a", 0).unwrap().sample.oom_kills, Some(3));
    told.round("n1", 5, 5, vec![kills(false)]);
    assert_eq!(told.instance("a", 5).unwrap().sample.oom_kills, Some(2));
}

#[test]
fn what_the_platform_has_no_more_is_not_shown() {
    let mut told = Told::new(inventory(vec![("u1", pod("a", "n1", &[]))]));
    told.round("n1", 0, 0, vec![of("u1", cpu(1))]);
    told.inventory = inventory(vec![("u9", pod("a", "n1", &[]))]);
    assert_eq!(told.instance("a", 1), None);
    assert!(told.live.instances(&told.inventory, told.at(1)).is_empty());
    told.live.prune(&told.inventory, told.at(1));
    assert_eq!(told.live.lock().values().map(|node| node.instances.len()).sum::<usize>(), 0);
}

proptest! {
    /// Whatever agents send in whatever order, no rate is more than the node can do, and what is shown is the platform's.
    #[test]
    fn nothing_absurd_is_ever_shown(
        rounds in proptest::collection::vec(
            (0..3u8, 0..40u64, any::<u32>(), proptest::collection::vec((0..4u8, any::<Option<u64>>()), 0..4)), 0..24,
        ),
    ) {
        let told = Told::new(inventory(vec![
            ("u0", pod("a", "n0", &[])), ("u1", pod("b", "n1", &[("c", "app")])), ("u2", pod("c", "n2", &[])),
        ]));
        let mut second = 0;
        for (node, later, its, pods) in rounds {
            second += later;
            let pods = pods
                .into_iter()
                .map(|(uid, nanos)| {
                    let sample = Sample { cpu_nanos: nanos, periods: nanos, throttled_periods: nanos, ..Sample::default() };
                    let containers = vec![ContainerSample { id: "c".into(), sample: Some(sample) }];
                    PodSample { uid: format!("u{uid}"), total: Some(sample), containers, ..PodSample::default() }
                })
                .collect();
            told.round(&format!("n{node}"), second, u64::from(its) % 100_000, pods);
            for found in told.live.instances(&told.inventory, told.at(second)) {
                let uid = format!("u{}", ["a", "b", "c"].iter().position(|name| **name == *found.instance).unwrap());
                let uid = PodUid::parse(&uid).unwrap();
                prop_assert!(present(&told.inventory, &uid, &found.node).is_some());
                prop_assert!(found.sample.cpu_nanos.is_none_or(|nanos| nanos < 1 << 63));
                if let Some(rates) = found.rates {
                    prop_assert!(rates.cpu_nanocores.is_none_or(|rate| rate <= 6_000_000_000), "{rates:?}");
                    prop_assert!(rates.throttled().is_none_or(|share| (0.0..=1.0).contains(&share)), "{rates:?}");
                }
            }
        }
    }
}
