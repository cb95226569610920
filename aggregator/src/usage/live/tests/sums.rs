//! What environments have used, whatever becomes of their instances.

use super::*;
use jiff::Timestamp;

/// Made at this second.
fn born(instance: &str, second: i64) -> Pod {
    let detail = Detail { created: Timestamp::from_second(second).ok(), ..Detail::default() };
    Pod { detail, ..pod(instance, "n1", &[]) }
}

fn seconds(uid: &str, cpu: u64) -> PodSample {
    let total = Sample {
        cpu_nanos: Some(cpu * 1_000_000_000),
        memory_working_set_bytes: Some(100),
        oom_kills: Some(cpu / 100),
        periods: Some(cpu * 10),
        throttled_periods: Some(cpu),
        ..Sample::default()
    };
    of(uid, total)
}

impl Told {
    fn sum(&self, second: u64) -> Sum {
        let sums = self.live.sums(&self.inventory, self.at(second));
        sums.get(&key("sites", "shop", "prod")).copied().unwrap_or_default()
    }

    fn used(&self, second: u64) -> u64 {
        self.sum(second).totals.cpu_nanos / 1_000_000_000
    }
}

#[test]
fn what_an_environment_has_used_does_not_go_back_when_an_instance_goes() {
    let mut told = Told::new(inventory(vec![("u1", born("a", -1000)), ("u2", born("b", -1000))]));
    // What they used before anybody looked is no increase.
    told.round("n1", 0, 0, vec![seconds("u1", 1000), seconds("u2", 50)]);
    assert_eq!(told.sum(0).totals, Totals::default());
    told.round("n1", 5, 5, vec![seconds("u1", 1002), seconds("u2", 53)]);
    assert_eq!(told.used(5), 5);
    told.inventory = inventory(vec![("u2", born("b", -1000))]);
    told.round("n1", 10, 10, vec![seconds("u2", 54)]);
    told.live.prune(&told.inventory, told.at(10));
    assert_eq!((told.used(10), told.sum(10).fresh), (6, 1));
    // One that has begun since counts from its first moment.
    told.inventory = inventory(vec![("u2", born("b", -1000)), ("u3", born("a", 12))]);
    told.round("n1", 15, 15, vec![seconds("u2", 54), seconds("u3", 3)]);
    assert_eq!(told.used(15), 9);
    let totals = told.sum(15).totals;
    assert_eq!((totals.periods, totals.throttled_periods), (90, 9));
    // With its last instance the samples go, and what was used stays.
    let none = BTreeMap::from([(key("sites", "shop", "prod"), Default::default())]);
    told.inventory = Inventory::of(Default::default(), &none);
    told.live.prune(&told.inventory, told.at(16));
    assert_eq!((told.used(16), told.sum(16).sample), (9, None));
    // With the environment itself it is forgotten.
    told.inventory = Inventory::of(Default::default(), &BTreeMap::new());
    told.live.prune(&told.inventory, told.at(17));
    assert!(told.live.totals.lock().unwrap().is_empty());
}

#[test]
fn an_old_instance_that_is_heard_of_late_brings_no_past() {
    let mut told = Told::new(inventory(vec![("u1", born("a", -1000))]));
    told.round("n1", 100, 100, vec![seconds("u1", 7)]);
    // It was labelled only now.
    told.inventory = inventory(vec![("u1", born("a", -1000)), ("u2", born("b", -1000))]);
    told.round("n1", 105, 105, vec![seconds("u1", 7), seconds("u2", 15)]);
    assert_eq!(told.used(105), 0);
    // Its agent was away for so long that it was forgotten.
    told.live.prune(&told.inventory, told.at(900));
    told.round("n1", 905, 905, vec![seconds("u1", 500), seconds("u2", 500)]);
    assert_eq!(told.used(905), 0);
    told.round("n1", 910, 910, vec![seconds("u1", 501), seconds("u2", 500)]);
    assert_eq!(told.used(910), 1);
}

#[test]
fn what_cannot_be_true_counts_nothing() {
    let told = Told::new(inventory(vec![("u1", born("a", 0))]));
    told.round("n1", 0, 0, vec![seconds("u1", 0)]);
    told.round("n1", 5, 5, vec![seconds("u1", 1_000_000)]);
    assert_eq!(told.used(5), 0);
    told.round("n1", 10, 10, vec![seconds("u1", 1_000_001)]);
    assert_eq!(told.used(10), 1);
}

#[test]
fn gauges_are_of_what_is_fresh() {
    let told = Told::new(inventory(vec![("u1", born("a", 0)), ("u2", pod("b", "n2", &[]))]));
    told.round("n1", 0, 0, vec![seconds("u1", 0)]);
    told.round("n2", 5, 5, vec![seconds("u2", 0)]);
    let memory = |second| told.sum(second).sample.and_then(|sample| sample.memory_working_set_bytes);
    assert_eq!([memory(5), memory(10), memory(15)], [Some(200), Some(100), None]);
    assert_eq!([told.sum(5).fresh, told.sum(10).fresh, told.sum(15).fresh], [2, 1, 0]);
}

#[test]
fn containers_that_are_not_told_apart_are_looked_at_as_one() {
    let told = Told::new(inventory(vec![
        ("u1", pod("a", "n1", &[("c1", "web"), ("c2", "proxy")])),
        ("u2", pod("b", "n1", &[])),
    ]));
    let container = |id: &str| ContainerSample { id: id.into(), sample: Some(cpu(1)) };
    let several = PodSample {
        uid: "u1".into(),
        total: Some(cpu(2)),
        containers: ["c1", "c2", "sandbox"].map(container).to_vec(),
        ..PodSample::default()
    };
    told.round("n1", 0, 0, vec![several, of("u2", cpu(5))]);
    let look = |second| {
        let mut found = vec![];
        told.live.look_at_containers(&told.inventory, told.at(second), |view| {
            found.push(format!("{}/{} {}", view.instance, view.container, view.node));
        });
        found.sort();
        found
    };
    assert_eq!(look(9), ["a/proxy n1", "a/web n1", "b/app n1"]);
    assert!(look(10).is_empty());
}

proptest! {
    /// Instances come, work, are started again and go; whatever they do, the total is what was added while somebody looked,
    /// and never less than before.
    #[test]
    fn the_total_is_what_was_added(
        rounds in proptest::collection::vec(proptest::collection::vec((any::<bool>(), 0..8u64, any::<bool>()), 4), 1..40),
    ) {
        let mut told = Told::new(inventory(vec![]));
        // Of each place: the pod's number, and its counter.
        let mut there: [Option<(u64, u64)>; 4] = [None; 4];
        let (mut expected, mut next, mut before) = (0, 0, 0);
        for (index, moves) in rounds.into_iter().enumerate() {
            let second = index as u64 * 5;
            for (place, (comes_or_goes, used, again)) in there.iter_mut().zip(moves) {
                *place = match *place {
                    Some(_) if comes_or_goes => None,
                    // A counter that is soon above where it was does not show that it began anew.
                    Some((uid, counter)) if again => {
                        expected += used.checked_sub(counter).unwrap_or(used);
                        Some((uid, used))
                    }
                    Some((uid, counter)) => { expected += used; Some((uid, counter + used)) }
                    // Nobody can tell whether the first round's were there before.
                    None => { next += 1; expected += if index == 0 { 0 } else { used }; Some((next, used)) }
                };
            }
            let present = there.iter().enumerate().filter_map(|(place, pod)| Some((place, (*pod)?)));
            let names: Vec<(String, String, u64)> = present
                .map(|(place, (uid, counter))| (format!("u{uid}"), format!("instance-{place}"), counter))
                .collect();
            let pods = names.iter().map(|(uid, name, _)| (uid.as_str(), born(name, second as i64))).collect();
            told.inventory = inventory(pods);
            told.round("n1", second, second, names.iter().map(|(uid, _, counter)| seconds(uid, *counter)).collect());
            if !told.inventory.environments.is_empty() {
                let used = told.used(second);
                prop_assert!(used >= before, "{used} after {before}");
                prop_assert_eq!(used, expected);
                before = used;
            }
        }
    }
}

#[test]
fn what_a_run_of_a_task_uses_is_told_to_kubernetes_and_is_no_instances() {
    let run =
        Pod { task: Some(Label::parse("task", "drush").unwrap()), ..pod("run-1", "n1", &[("c2", "app")]) };
    let told = Told::new(inventory(vec![("u1", pod("a", "n1", &[("c1", "app")])), ("u2", run)]));
    let of = |uid: &str, id: &str, nanos| PodSample {
        containers: vec![ContainerSample { id: id.into(), sample: Some(cpu(nanos)) }],
        ..of(uid, cpu(nanos))
    };
    for (second, nanos) in [(0, 0), (5, 1_000_000_000)] {
        let rows = told.rows("n1", second, second, vec![of("u1", "c1", nanos), of("u2", "c2", 2 * nanos)]);
        assert_eq!(
            rows.iter().map(|row| &*row.instance).collect::<Vec<_>>(),
            ["a"],
            "history is of instances"
        );
    }
    assert_eq!((told.used(5), told.sum(5).fresh), (1, 1));
    assert_eq!((told.whole(5).fresh, told.instance("run-1", 5)), (1, None));
    assert_eq!(told.containers(5), [("app".to_owned(), Some(1_000_000_000))]);
    let pods = told.live.pods(&told.inventory, None, |_| true, told.at(5));
    let used: Vec<_> = pods.iter().map(|pod| (&*pod.instance, pod.containers[0].cpu_nanocores)).collect();
    assert_eq!(used, [("a", 200_000_000), ("run-1", 400_000_000)]);
    let elsewhere = Label::parse("namespace", "other").unwrap();
    assert!(told.live.pods(&told.inventory, Some(&elsewhere), |_| true, told.at(5)).is_empty());
}
