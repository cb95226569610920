//! What a transfer does to others: to a shell of the same user, and to the memory of the programs on its way.

use crate::guard::{Client, check, eventually};
use crate::network;
use crate::options::Options;
use crate::processes::{self, Memory, Processes};
use crate::pushes::{Bench, By};
use crate::site::{CONTAINER, TIMEOUT};
use crate::terminal::Terminal;
use crate::trees;
use crate::ways::Way;
use anyhow::{Context as _, Result};
use skpr_tests::numbers::Numbers;
use skpr_tests::report::{Better, Figure};
use std::time::Duration;

/// Between two keys, in microseconds.
const PAUSE: std::ops::Range<u64> = 7_000..13_000;
const KEYS: usize = 150;
const BLOCKS: usize = 3;
/// What has passed once a transfer is under way.
const UNDER_WAY: u64 = 8 << 20;
/// In ms, of the 99th of a hundred keys.
const ECHO: f64 = 8.0;
/// In MiB, of each process.
const MEMORY: f64 = 128.0;
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long a key takes beside a push of new content: each shell by the way of the push.
pub(crate) fn keys(bench: &Bench<'_>, options: &Options) -> Result<Vec<Figure>> {
    let from = bench.here("keys")?;
    trees::noise_file(&from, options.large, 3)?;
    let mut numbers = Numbers::new(8);
    let mut taken: [Vec<f64>; 2] = Default::default();
    let ways = [(By::Skpr, Way::Skpr), (By::Rsync, Way::Sshd)];
    let mut terminals = vec![];
    for (_, way) in ways {
        let mut terminal = Terminal::open(way.shell(bench.site, 0)?)?;
        terminal.become_echo()?;
        terminals.push(terminal);
    }
    for _ in 0..BLOCKS {
        for (((by, _), terminal), taken) in ways.iter().zip(&mut terminals).zip(&mut taken) {
            let before = network::passed(&bench.interface)?;
            let transfer = bench.begin(*by, &from, &["-aW"])?;
            eventually("a transfer is under way", TIMEOUT, || {
                Ok((network::passed(&bench.interface)? - before > UNDER_WAY).then_some(()))
            })?;
            for _ in 0..KEYS {
                check()?;
                let pause = PAUSE.start + numbers.below(PAUSE.end - PAUSE.start);
                std::thread::sleep(Duration::from_micros(pause));
                let key = b'a' + numbers.below(26) as u8;
                taken.push(terminal.echo(key)?.as_secs_f64() * 1000.0);
            }
            transfer.success()?;
        }
    }
    let at = |taken: &[f64], share: f64| {
        let mut sorted = taken.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted.get((sorted.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN)
    };
    let [ours, theirs] = &taken;
    let figure = |name: &str, share| {
        Figure::new(format!("key echo beside a push, {name}"), at(ours, share), "ms", Better::Lower)
            .against("sshd beside rsync", at(theirs, share))
    };
    Ok(vec![figure("p50", 0.5), figure("p99", 0.99).target(ECHO)])
}

/// The most memory that each process has while a file of 12 GiB is pushed, of which all but 768 MiB is a hole.
pub(crate) fn memory(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let from = bench.here("memory")?;
    trees::image(&from, 12 << 10, 0)?;
    let (site, mut most) = (bench.site, vec![]);
    let mut programs = processes::of_skpr(site)?.to_vec();
    programs.push(("worker", Processes::of(&site.sites, CONTAINER, "skpr-agent", |_| true)?));
    let transfer = bench.begin(By::Skpr, &from, &["-S"])?;
    most.resize(programs.len() + 1, 0.0_f64);
    while let Some(client) = resident(&transfer) {
        check()?;
        let others = programs.iter().map(|(_, processes)| processes.mib(Memory::Resident));
        for (most, now) in most.iter_mut().zip(std::iter::once(Ok(Some(client))).chain(others)) {
            *most = most.max(now?.unwrap_or(0.0));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    transfer.success()?;
    let names = std::iter::once("skpr").chain(programs.iter().map(|(name, _)| *name));
    let figures = names.zip(most).map(|(name, mib)| {
        let figure = Figure::new(format!("12 GiB: most memory of {name}"), mib, "MiB", Better::Lower);
        if mib > 0.0 { figure.target(MEMORY) } else { figure.without("not seen on this machine") }
    });
    Ok(figures.collect())
}

/// MiB of a client; none once it has ended.
fn resident(client: &Client) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", client.id())).context("look").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").parse::<f64>().ok().map(|kib| kib / 1024.0)
}
