//! Trees of cgroups as nodes have them, written down: v2, v1 and a hybrid, read as the sampler reads them.

use super::files::RARE_EVERY;
use super::{INTERVAL, Limits, Local, Sampler, Sources};
use proptest::prelude::*;
use skpr_proto::{PodUid, v1};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{create_dir_all, remove_dir_all, remove_file, write};
use std::path::Path;
use tempfile::TempDir;
use tokio::sync::watch;

const LIMITS: Limits = Limits { containers: 5000, directories: 50_000, depth: 24, open_files: 1000 };
const POD: &str = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0f2a7f34_5c1d_4f4e_9d55_000000000001.slice";
const V1_POD: &str = "kubepods/burstable/pod0f2a7f34-5c1d-4f4e-9d55-000000000001";

/// Of a PHP container on Debian 12, kernel 6.1.
const V2: &[(&str, &str)] = &[
    (
        "cpu.stat",
        "usage_usec 48213377\nuser_usec 40177814\nsystem_usec 8035563\ncore_sched.force_idle_usec 0\n\
         nr_periods 11842\nnr_throttled 97\nthrottled_usec 3319482\nnr_bursts 0\nburst_usec 0\n",
    ),
    ("cpu.max", "50000 100000\n"),
    ("cpu.weight", "10\n"),
    (
        "cpu.pressure",
        "some avg10=0.31 avg60=0.28 avg300=0.14 total=5120044\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=12\n",
    ),
    (
        "memory.pressure",
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=177\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=170\n",
    ),
    (
        "io.pressure",
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=88123\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=81000\n",
    ),
    ("memory.current", "149946368\n"),
    (
        "memory.stat",
        "anon 61865984\nfile 78499840\nkernel 8740864\nkernel_stack 327680\npagetables 1155072\nsec_pagetables 0\n\
         percpu 2160\nsock 4096\nvmalloc 0\nshmem 1212416\nzswap 0\nzswapped 0\nfile_mapped 30994432\nfile_dirty 0\n\
         file_writeback 0\nswapcached 0\nanon_thp 0\nfile_thp 0\nshmem_thp 0\ninactive_anon 62566400\n\
         active_anon 446464\ninactive_file 41324544\nactive_file 35962880\nunevictable 0\nslab_reclaimable 5632520\n\
         slab_unreclaimable 1470432\nslab 7102952\nworkingset_refault_anon 0\nworkingset_refault_file 1841\n\
         pgscan 2048\npgsteal 2011\npgfault 905512\npgmajfault 312\n",
    ),
    ("memory.peak", "171237376\n"),
    ("memory.max", "268435456\n"),
    ("memory.events", "low 0\nhigh 0\nmax 12\noom 0\noom_kill 0\noom_group_kill 0\n"),
    ("pids.current", "9\n"),
];

fn uid(n: u32) -> PodUid {
    PodUid::parse(&format!("0f2a7f34-5c1d-4f4e-9d55-{n:012x}")).unwrap()
}

fn id(n: u32) -> String {
    format!("{n:064x}")
}

fn put(root: &Path, directory: &str, files: &[(&str, &str)]) {
    create_dir_all(root.join(directory)).unwrap();
    for (name, text) in files {
        write(root.join(directory).join(name), text).unwrap();
    }
}

fn v2() -> TempDir {
    let root = TempDir::new().unwrap();
    put(root.path(), "", &[("cgroup.controllers", "cpuset cpu io memory hugetlb pids rdma misc\n")]);
    put(root.path(), "kubepods.slice", &[("cpu.weight", "79\n")]);
    put(root.path(), "kubepods.slice/kubepods-burstable.slice", &[("cpu.weight", "22\n")]);
    put(root.path(), POD, V2);
    put(root.path(), POD, &[("memory.events", "oom 3\noom_kill 3\n"), ("cpu.stat", "usage_usec 60000000\n")]);
    put(root.path(), &container(1), V2);
    root
}

fn container(n: u32) -> String {
    format!("{POD}/cri-containerd-{}.scope", id(n))
}

fn sampler(root: &Path) -> Sampler {
    Sampler::new(Sources::Cgroups(root.to_owned()), LIMITS)
}

fn one(sampler: &mut Sampler) -> v1::PodSample {
    let usage = sampler.round(&[uid(1)].into(), INTERVAL);
    assert_eq!(usage.pods.len(), 1);
    usage.pods.into_iter().next().unwrap()
}

fn of(pod: &v1::PodSample, n: u32) -> v1::Sample {
    pod.containers.iter().find(|container| container.id == id(n)).unwrap().sample.unwrap()
}

#[test]
fn a_container_of_v2() {
    let root = v2();
    let pod = one(&mut sampler(root.path()));
    assert_eq!(pod.uid, uid(1).as_str());
    let expected = v1::Sample {
        cpu_nanos: Some(48_213_377_000),
        cpu_user_nanos: Some(40_177_814_000),
        cpu_system_nanos: Some(8_035_563_000),
        periods: Some(11_842),
        throttled_periods: Some(97),
        throttled_nanos: Some(3_319_482_000),
        cpu_limit_millicores: Some(500),
        cpu_share_millicores: Some(250),
        memory_usage_bytes: Some(149_946_368),
        memory_working_set_bytes: Some(149_946_368 - 41_324_544),
        memory_not_reclaimable_bytes: Some(61_865_984 + 1_212_416 + 1_470_432 + 327_680 + 1_155_072),
        memory_cache_bytes: Some(78_499_840 - 1_212_416),
        memory_peak_bytes: Some(171_237_376),
        memory_limit_bytes: Some(268_435_456),
        oom_kills: Some(0),
        cpu_pressure_micros: Some(5_120_044),
        memory_pressure_micros: Some(177),
        io_pressure_micros: Some(88_123),
        processes: Some(9),
    };
    assert_eq!(of(&pod, 1), expected);
    let total = pod.total.unwrap();
    assert_eq!((total.cpu_nanos, total.oom_kills), (Some(60_000_000_000), Some(3)));
    assert_eq!(total.memory_working_set_bytes, None);
}

#[test]
fn counters_that_move_are_seen_in_each_round() {
    let root = v2();
    let mut sampler = sampler(root.path());
    one(&mut sampler);
    assert_eq!(sampler.open_files(), 9);
    // Nothing moves, so the dear file is not read; then something does.
    put(root.path(), &container(1), &[("memory.stat", "anon 1\ninactive_file 7\n")]);
    assert_eq!(of(&one(&mut sampler), 1).memory_working_set_bytes, Some(149_946_368 - 41_324_544));
    put(root.path(), &container(1), &[("memory.current", "149946369\n")]);
    assert_eq!(of(&one(&mut sampler), 1).memory_working_set_bytes, Some(149_946_369 - 7));
    put(root.path(), POD, &[("memory.events", "oom_kill 4\n")]);
    assert_eq!(one(&mut sampler).total.unwrap().oom_kills, Some(4));
    // What changes rarely is there after a few rounds.
    put(
        root.path(),
        &container(1),
        &[("memory.max", "max\n"), ("cpu.max", "max 100000\n"), ("memory.stat", "anon 5\n")],
    );
    for _ in 0..RARE_EVERY {
        one(&mut sampler);
    }
    let sample = of(&one(&mut sampler), 1);
    assert_eq!((sample.memory_limit_bytes, sample.cpu_limit_millicores), (None, None));
    assert_eq!((sample.memory_working_set_bytes, sample.memory_not_reclaimable_bytes), (None, Some(5)));
}

#[test]
fn containers_and_pods_come_and_go() {
    let root = v2();
    let mut sampler = sampler(root.path());
    let claimed = BTreeSet::from([uid(1), uid(2)]);
    let mut pods = |claimed: &BTreeSet<PodUid>| {
        let usage = sampler.round(claimed, INTERVAL);
        let containers = |pod: &v1::PodSample| pod.containers.iter().map(|all| all.id.clone()).collect();
        usage.pods.iter().map(|pod| (pod.uid.clone(), containers(pod))).collect::<Vec<(_, Vec<_>)>>()
    };
    let first = (uid(1).as_str().to_owned(), vec![id(1)]);
    assert_eq!(pods(&claimed), std::slice::from_ref(&first));
    // A restart: the new container is told of by the kernel.
    put(root.path(), &container(2), V2);
    put(root.path(), "kubepods.slice/kubepods-pod0f2a7f34_5c1d_4f4e_9d55_000000000002.slice", V2);
    put(root.path(), "kubepods.slice/kubepods-pod0f2a7f34_5c1d_4f4e_9d55_000000000003.slice", V2);
    let both = (uid(1).as_str().to_owned(), vec![id(1), id(2)]);
    assert_eq!(pods(&claimed), [both.clone(), (uid(2).as_str().to_owned(), vec![])]);
    // One in a pod that has come since.
    let of_second =
        format!("kubepods.slice/kubepods-pod0f2a7f34_5c1d_4f4e_9d55_000000000002.slice/crio-{}.scope", id(3));
    put(root.path(), &of_second, V2);
    assert_eq!(pods(&claimed), [both.clone(), (uid(2).as_str().to_owned(), vec![id(3)])]);
    assert_eq!(pods(&[uid(1)].into()), [both]);
    assert_eq!(pods(&BTreeSet::new()), []);
}

#[test]
fn what_is_not_claimed_is_not_opened() {
    let root = v2();
    let mut sampler = sampler(root.path());
    assert_eq!(sampler.round(&[uid(7)].into(), INTERVAL).pods, []);
    assert_eq!(sampler.open_files(), 0);
}

#[test]
fn files_that_an_older_kernel_lacks_are_unknown_values() {
    let root = v2();
    for file in ["memory.peak", "cpu.pressure", "memory.pressure", "io.pressure", "cpu.max", "pids.current"] {
        remove_file(root.path().join(container(1)).join(file)).unwrap();
    }
    let mut sampler = sampler(root.path());
    for _ in 0..2 * RARE_EVERY {
        let sample = of(&one(&mut sampler), 1);
        assert_eq!(sample.memory_peak_bytes, None);
        assert_eq!((sample.cpu_pressure_micros, sample.cpu_limit_millicores), (None, None));
        assert_eq!(sample.cpu_nanos, Some(48_213_377_000));
    }
    assert_eq!(sampler.unreadable(), 0);
}

#[test]
fn nonsense_in_a_file_is_an_unknown_value() {
    let root = v2();
    put(
        root.path(),
        &container(1),
        &[
            (
                "cpu.stat",
                "usage_usec minus one\nuser_usec 18446744073709551615\nnr_periods 9007199254740992\n",
            ),
            ("memory.current", "9007199254740992\n"),
            ("memory.stat", "\u{1}\u{2}\nanon\n anon 4\nfile 12 13\ninactive_file 3\n"),
            ("cpu.weight", ""),
        ],
    );
    let sample = of(&one(&mut sampler(root.path())), 1);
    assert_eq!((sample.cpu_nanos, sample.cpu_user_nanos, sample.periods), (None, None, None));
    assert_eq!((sample.memory_usage_bytes, sample.memory_working_set_bytes), (None, None));
    assert_eq!((sample.memory_not_reclaimable_bytes, sample.memory_cache_bytes), (None, None));
    assert_eq!((sample.cpu_share_millicores, sample.memory_limit_bytes), (None, Some(268_435_456)));
}

/// A container of v1, whose kernel counts no kills below a cgroup.
fn v1_container(root: &Path, cpu: &str, n: u32, kills: &str) {
    let container = format!("{V1_POD}/{}", id(n));
    let kills = format!("oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n");
    put(
        root,
        &format!("{cpu}/{container}"),
        &[
            ("cpuacct.usage", "48213377123\n"),
            ("cpuacct.stat", "user 4017\nsystem 803\n"),
            ("cpu.stat", "nr_periods 11842\nnr_throttled 97\nthrottled_time 3319482000\n"),
            ("cpu.cfs_quota_us", "-1\n"),
            ("cpu.cfs_period_us", "100000\n"),
            ("cpu.shares", "256\n"),
        ],
    );
    put(
        root,
        &format!("memory/{container}"),
        &[
            ("memory.usage_in_bytes", "149946368\n"),
            ("memory.kmem.usage_in_bytes", "8740864\n"),
            (
                "memory.stat",
                "cache 1\nrss 2\nshmem 3\ninactive_file 4\nhierarchical_memory_limit 268435456\ntotal_cache 78499840\n\
                 total_rss 61865984\ntotal_shmem 1212416\ntotal_inactive_file 41324544\n",
            ),
            ("memory.max_usage_in_bytes", "171237376\n"),
            ("memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory.oom_control", &kills),
        ],
    );
    put(root, &format!("pids/{container}"), &[("pids.current", "9\n")]);
}

fn v1_pod(root: &Path, cpu: &str) {
    put(root, &format!("{cpu}/{V1_POD}"), &[("cpuacct.usage", "60000000000\n"), ("cpu.shares", "256\n")]);
    let none = "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n";
    put(root, &format!("memory/{V1_POD}"), &[("memory.oom_control", none)]);
    v1_container(root, cpu, 1, "1");
}

#[track_caller]
fn check_v1(root: &Path) {
    let pod = one(&mut sampler(root));
    let expected = v1::Sample {
        cpu_nanos: Some(48_213_377_123),
        cpu_user_nanos: Some(40_170_000_000),
        cpu_system_nanos: Some(8_030_000_000),
        periods: Some(11_842),
        throttled_periods: Some(97),
        throttled_nanos: Some(3_319_482_000),
        cpu_limit_millicores: None,
        cpu_share_millicores: Some(250),
        memory_usage_bytes: Some(149_946_368),
        memory_working_set_bytes: Some(149_946_368 - 41_324_544),
        memory_not_reclaimable_bytes: Some(61_865_984 + 1_212_416 + 8_740_864),
        memory_cache_bytes: Some(78_499_840 - 1_212_416),
        memory_peak_bytes: Some(171_237_376),
        memory_limit_bytes: None,
        oom_kills: Some(1),
        processes: Some(9),
        ..v1::Sample::default()
    };
    assert_eq!(v1::Sample { cpu_pressure_micros: None, ..of(&pod, 1) }, expected);
    assert_eq!(pod.total.unwrap().cpu_nanos, Some(60_000_000_000));
}

#[test]
fn a_container_of_v1_with_controllers_joined_or_apart() {
    let root = TempDir::new().unwrap();
    v1_pod(root.path(), "cpu,cpuacct");
    check_v1(root.path());

    let root = TempDir::new().unwrap();
    v1_pod(root.path(), "both");
    for controller in ["cpu", "cpuacct"] {
        std::os::unix::fs::symlink("both", root.path().join(controller)).unwrap();
    }
    check_v1(root.path());
}

#[test]
fn a_hybrid_has_the_values_of_v1_and_the_pressure_of_v2() {
    let root = TempDir::new().unwrap();
    v1_pod(root.path(), "cpu,cpuacct");
    put(root.path(), "unified", &[("cgroup.controllers", "\n")]);
    put(
        root.path(),
        &format!("unified/{V1_POD}/{}", id(1)),
        &[("cpu.pressure", "some total=77\n"), ("cpu.stat", "usage_usec 1\n")],
    );
    check_v1(root.path());
    assert_eq!(of(&one(&mut sampler(root.path())), 1).cpu_pressure_micros, Some(77));
}

#[test]
fn oom_kills_of_v1_outlive_their_container() {
    let root = TempDir::new().unwrap();
    v1_pod(root.path(), "cpu,cpuacct");
    let mut sampler = sampler(root.path());
    let mut kills = || one(&mut sampler).total.unwrap().oom_kills;
    assert_eq!(kills(), Some(1));
    v1_container(root.path(), "cpu,cpuacct", 2, "2");
    assert_eq!(kills(), Some(3));
    // Its end is seen by files that cannot be opened: as when none may stay open.
    let container = format!("{V1_POD}/{}", id(1));
    for controller in ["memory", "cpu,cpuacct", "pids"] {
        remove_dir_all(root.path().join(controller).join(&container)).unwrap();
    }
    let mut closed =
        Sampler::new(Sources::Cgroups(root.path().to_owned()), Limits { open_files: 0, ..LIMITS });
    assert_eq!(one(&mut closed).total.unwrap().oom_kills, Some(2));
    v1_container(root.path(), "cpu,cpuacct", 3, "0");
    assert_eq!(one(&mut closed).containers.len(), 2);
    let container = format!("{V1_POD}/{}", id(2));
    for controller in ["memory", "cpu,cpuacct", "pids"] {
        remove_dir_all(root.path().join(controller).join(&container)).unwrap();
    }
    let pod = one(&mut closed);
    assert_eq!((pod.containers.len(), pod.total.unwrap().oom_kills), (1, Some(2)));
}

#[test]
fn five_thousand_containers_with_few_open_files() {
    let root = TempDir::new().unwrap();
    put(root.path(), "", &[("cgroup.controllers", "")]);
    let mut claimed = BTreeSet::new();
    for n in 0..110 {
        claimed.insert(uid(n));
        put(root.path(), &format!("kubepods/pod{}", uid(n)), &[("cpu.stat", "usage_usec 9\n")]);
        for m in 0..46 {
            let path = format!("kubepods/pod{}/{}", uid(n), id(n * 100 + m));
            put(root.path(), &path, &[("cpu.stat", "usage_usec 5\n"), ("memory.current", "4096\n")]);
        }
    }
    let limits = Limits { containers: 5000, open_files: 300, ..LIMITS };
    let mut sampler = Sampler::new(Sources::Cgroups(root.path().to_owned()), limits);
    for _ in 0..3 {
        let usage = sampler.round(&claimed, INTERVAL);
        let containers: Vec<_> = usage.pods.iter().flat_map(|pod| &pod.containers).collect();
        assert_eq!(containers.len(), 5000);
        assert!(containers.iter().all(|container| container.sample.unwrap().cpu_nanos == Some(5000)));
        assert_eq!(sampler.open_files(), 300);
    }
    assert_eq!(sampler.unreadable(), 0);
}

#[test]
fn where_there_are_too_many_the_same_ones_are_sampled_each_time() {
    let root = v2();
    (1..9).for_each(|n| put(root.path(), &container(n), V2));
    let limits = Limits { containers: 3, ..LIMITS };
    let mut sampler = Sampler::new(Sources::Cgroups(root.path().to_owned()), limits);
    let mut sampled = |claimed: &BTreeSet<PodUid>| {
        let pod = sampler.round(claimed, INTERVAL).pods.remove(0);
        pod.containers.into_iter().map(|container| container.id).collect::<BTreeSet<_>>()
    };
    let first = sampled(&[uid(1)].into());
    assert_eq!(first.len(), 3);
    for n in 20..40 {
        // A walk finds them in another order when some are new; other claims make it walk.
        put(root.path(), &container(n), V2);
        assert_eq!(sampled(&[uid(1), uid(n)].into()), first);
    }
}

#[test]
fn a_directory_without_cgroups_gives_the_node_alone() {
    let root = TempDir::new().unwrap();
    let usage = sampler(root.path()).round(&[uid(1)].into(), INTERVAL);
    assert_eq!(usage.pods, []);
    assert!(usage.node.unwrap().cores >= 1);
    assert_eq!(usage.interval_millis, 5000);
    assert!(usage.monotonic_nanos > 0);
}

#[test]
fn an_instance_of_this_process_is_known_by_its_cgroup_or_its_group() {
    let root = v2();
    let (tell, told) = watch::channel(BTreeMap::new());
    let mut sampler = Sampler::new(Sources::Local(told), LIMITS);
    let claimed = BTreeSet::from([uid(1), uid(2)]);
    assert_eq!(sampler.round(&claimed, INTERVAL).pods, []);
    let group = rustix::process::getpgrp().as_raw_nonzero().get();
    tell.send_modify(|locals| {
        let cgroups = vec![root.path().join(container(1))];
        locals.insert(uid(1), Local { cgroups, cpu_share: Some(70), ..Local::default() });
        locals
            .insert(uid(2), Local { cgroups: vec!["/nowhere".into()], group: Some(group), cpu_share: None });
        locals.insert(uid(3), Local { group: Some(group), ..Local::default() });
    });
    let usage = sampler.round(&claimed, INTERVAL);
    let [first, second] = usage.pods.as_slice() else { panic!("{usage:?}") };
    assert_eq!(first.total.unwrap().cpu_nanos, Some(48_213_377_000));
    assert_eq!(first.containers[0].id, "app");
    // The weight of its cgroup is 10, and was not what was asked for.
    assert_eq!(
        (first.total.unwrap().cpu_share_millicores, second.total.unwrap().cpu_share_millicores),
        (Some(70), None)
    );
    assert!(second.total.unwrap().memory_working_set_bytes.unwrap() > 0);
    // No pod counts its kills: they were once seen minutes later.
    put(root.path(), &container(1), &[("memory.events", "oom 1\noom_kill 1\n")]);
    let usage = sampler.round(&claimed, INTERVAL);
    assert_eq!(usage.pods[0].total.unwrap().oom_kills, Some(1));
    tell.send_replace(BTreeMap::new());
    assert_eq!(sampler.round(&claimed, INTERVAL).pods, []);
}

proptest! {
    #[test]
    fn hostile_files_are_survived(
        file in 0..V2.len(),
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        cut in 0..600_usize,
    ) {
        let root = v2();
        let (name, text) = V2[file];
        let path = root.path().join(container(1)).join(name);
        write(&path, &bytes).unwrap();
        let mut sampler = sampler(root.path());
        one(&mut sampler);
        write(&path, &text.as_bytes()[..cut.min(text.len())]).unwrap();
        one(&mut sampler);
        // Longer than anything that is read.
        write(&path, "x 1\n".repeat(100_000)).unwrap();
        one(&mut sampler);
    }
}
