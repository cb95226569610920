//! The agent's sampler over 250 real cgroups of this machine, against a bare loop that reads the same files.
//!
//! Between rounds this process moves through all of them, so that each has used CPU and none is read less because it rests.

use crate::cgroups::{Pods, memory};
use crate::median;
use anyhow::ensure;
use rustix::time::{ClockId, clock_gettime};
use skpr_agent::usage::{INTERVAL, Limits, Sampler, Sources};
use skpr_tests::fleet::uid;
use skpr_tests::report::{Better, Figure};
use std::collections::BTreeSet;
use std::os::unix::fs::FileExt as _;

const CONTAINERS: usize = 250;
const ROUNDS: usize = 61;

pub(crate) fn measure() -> anyhow::Result<Vec<Figure>> {
    let pods = Pods::make(0..CONTAINERS)?;
    let files = pods.files()?;
    let claimed = (0..CONTAINERS).map(uid).collect::<anyhow::Result<BTreeSet<_>>>()?;
    let own = std::process::id();
    let before = memory(own, "VmRSS:")?;
    let mut sampler = Sampler::new(Sources::Cgroups(pods.root()), Limits::of_this_process());
    let mut buffer = vec![0; 16 << 10];
    let (mut floor, mut busy, mut idle) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        pods.stir()?;
        let took = cpu(|| {
            for file in &files {
                file.read_at(&mut buffer, 0)?;
            }
            Ok(())
        })?;
        floor.push(took);
        for times in [&mut busy, &mut idle] {
            let took = cpu(|| {
                let usage = sampler.round(&claimed, INTERVAL);
                let complete = usage.pods.iter().filter(|pod| {
                    let sample = pod.containers.first().and_then(|container| container.sample);
                    sample.is_some_and(|sample| {
                        sample.cpu_nanos.is_some() && sample.memory_working_set_bytes.is_some()
                    })
                });
                ensure!(complete.count() == CONTAINERS, "round {round} is not complete");
                Ok(())
            })?;
            times.push(took);
        }
    }
    let per_container = |mut times: Vec<f64>| {
        // The first rounds open files.
        times.drain(..2);
        median(times) * 1e6 / CONTAINERS as f64
    };
    let (floor, busy, idle) = (per_container(floor), per_container(busy), per_container(idle));
    let name = "a bare pread loop";
    Ok(vec![
        Figure::new("sampler: CPU of a container's sample", busy, "µs", Better::Lower)
            .against(name, floor)
            .target_ratio(1.5),
        Figure::new("sampler: CPU of one that has rested", idle, "µs", Better::Lower).against(name, floor),
        Figure::new("sampler: RSS", memory(own, "VmRSS:")? - before, "MiB", Better::Lower).target(4.0),
    ])
}

/// The CPU time that this thread took, in seconds.
fn cpu(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    };
    let begun = now();
    work()?;
    Ok(now() - begun)
}
