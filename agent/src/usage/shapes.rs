//! v2 trees of every cgroup driver, runtime and class of service, made as each makes them, and read by the sampler: one pod
//! with its application, its sandbox, and what the runtime puts beside them.

use super::{INTERVAL, Limits, Sampler, Sources};
use skpr_proto::{PodUid, v1};
use std::fs::{create_dir_all, write};
use std::path::Path;

const LIMITS: Limits = Limits { containers: 5000, directories: 50_000, depth: 24, open_files: 1000 };
const UID: &str = "0f2a7f34-5c1d-4f4e-9d55-2d9d3a9c1b7e";
const NODE: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const CLASSES: [&str; 3] = ["burstable", "besteffort", "guaranteed"];

/// Who names the cgroups above the containers.
#[derive(Clone, Copy, Debug)]
enum Driver {
    Systemd,
    Cgroupfs,
}

/// Who names those of the containers.
#[derive(Clone, Copy, Debug)]
enum Runtime {
    Containerd,
    Crio,
    /// CRI-O with crun, which puts the processes one deeper.
    Crun,
    /// containerd on a node that is itself a container.
    Kind,
}

fn id(n: usize) -> String {
    format!("{n:064x}")
}

fn pod(driver: Driver, runtime: Runtime, class: &str) -> String {
    let (above, prefix) = match (runtime, driver) {
        (Runtime::Kind, Driver::Systemd) => ("kubelet.slice/kubelet-".to_owned(), "kubelet-"),
        (Runtime::Kind, Driver::Cgroupfs) => (format!("docker/{NODE}/kubelet/"), ""),
        _ => (String::new(), ""),
    };
    let escaped = UID.replace('-', "_");
    match (driver, class) {
        (Driver::Systemd, "guaranteed") => {
            format!("{above}kubepods.slice/{prefix}kubepods-pod{escaped}.slice")
        }
        (Driver::Systemd, class) => format!(
            "{above}kubepods.slice/{prefix}kubepods-{class}.slice/{prefix}kubepods-{class}-pod{escaped}.slice"
        ),
        (Driver::Cgroupfs, "guaranteed") => format!("{above}kubepods/pod{UID}"),
        (Driver::Cgroupfs, class) => format!("{above}kubepods/{class}/pod{UID}"),
    }
}

fn container(driver: Driver, runtime: Runtime, n: usize) -> String {
    let id = id(n);
    match (driver, runtime) {
        (Driver::Systemd, Runtime::Containerd | Runtime::Kind) => format!("cri-containerd-{id}.scope"),
        (Driver::Systemd, Runtime::Crio | Runtime::Crun) => format!("crio-{id}.scope"),
        (Driver::Cgroupfs, Runtime::Containerd | Runtime::Kind) => id,
        (Driver::Cgroupfs, Runtime::Crio | Runtime::Crun) => format!("crio-{id}"),
    }
}

/// A cgroup of v2 that has used so many seconds.
fn put(root: &Path, path: &str, seconds: u64) {
    let directory = root.join(path);
    create_dir_all(&directory).unwrap();
    let cpu = format!("usage_usec {0}000000\nuser_usec {0}000000\nsystem_usec 0\n", seconds);
    for (file, text) in [
        ("cpu.stat", cpu.as_str()),
        ("memory.current", "8388608\n"),
        ("memory.stat", "anon 4194304\nfile 4194304\ninactive_file 1048576\n"),
        ("memory.events", "low 0\nhigh 0\nmax 0\noom 0\noom_kill 2\n"),
        ("memory.max", "max\n"),
        ("cpu.max", "max 100000\n"),
    ] {
        write(directory.join(file), text).unwrap();
    }
}

fn check(driver: Driver, runtime: Runtime, class: &str) {
    let root = tempfile::tempdir().unwrap();
    write(root.path().join("cgroup.controllers"), "cpu memory pids\n").unwrap();
    let pod = pod(driver, runtime, class);
    put(root.path(), &pod, 30);
    for (n, seconds) in [(1, 20), (2, 1)] {
        let path = format!("{pod}/{}", container(driver, runtime, n));
        put(root.path(), &path, seconds);
        if matches!(runtime, Runtime::Crun) {
            put(root.path(), &format!("{path}/container"), seconds);
        }
    }
    if matches!(runtime, Runtime::Crio | Runtime::Crun) {
        // Its monitor is in the pod, and none of its containers.
        put(root.path(), &format!("{pod}/crio-conmon-{}.scope", id(1)), 9);
    }
    put(root.path(), &format!("system.slice/cri-containerd-{}.scope", id(7)), 5);

    let uid = PodUid::parse(UID).unwrap();
    let mut sampler = Sampler::new(Sources::Cgroups(root.path().to_owned()), LIMITS);
    let usage = sampler.round(&[uid].into(), INTERVAL);
    let seen = |sample: Option<v1::Sample>| {
        let sample = sample.unwrap();
        (
            sample.cpu_nanos.unwrap() / 1_000_000_000,
            sample.memory_working_set_bytes,
            sample.memory_limit_bytes,
        )
    };
    let at = format!("{driver:?} {runtime:?} {class}: {usage:?}");
    let [found] = usage.pods.as_slice() else { panic!("{at}") };
    assert_eq!((found.uid.as_str(), found.misses_last_kills), (UID, false), "{at}");
    let total = found.total.unwrap();
    assert_eq!((total.cpu_nanos, total.oom_kills), (Some(30_000_000_000), Some(2)), "{at}");
    let containers: Vec<_> = found.containers.iter().map(|one| (one.id.clone(), seen(one.sample))).collect();
    let expected = [(1, 20), (2, 1)].map(|(n, seconds)| (id(n), (seconds, Some(7 << 20), None)));
    assert_eq!(containers, expected, "{at}");
}

#[test]
fn pods_of_every_driver_runtime_and_class_are_sampled() {
    for driver in [Driver::Systemd, Driver::Cgroupfs] {
        for runtime in [Runtime::Containerd, Runtime::Crio, Runtime::Crun, Runtime::Kind] {
            CLASSES.iter().for_each(|class| check(driver, runtime, class));
        }
    }
}
