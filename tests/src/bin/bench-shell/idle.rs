//! Many shells at once at which nobody types: what each takes of the memory of the programs that serve it.

use crate::guard::check;
use crate::options::Options;
use crate::processes::{self, Memory, Processes};
use crate::site::{CONTAINER, Site};
use crate::terminal::Terminal;
use crate::ways::Way;
use anyhow::{Context as _, Result};
use skpr_tests::report::{Better, Figure};
use std::time::{Duration, Instant};

/// In MiB: the promise for each program.
const TARGET: f64 = 1.0;
/// Memory is at rest when it is the same after this time.
const REST: Duration = Duration::from_secs(1);
const SAME: f64 = 0.05;
const RESTS_WITHIN: Duration = Duration::from_secs(20);

pub(crate) fn measure(site: &Site, options: &Options) -> Result<Vec<Figure>> {
    let programs = processes::of_skpr(site)?;
    let processes = programs.each_ref().map(|(_, processes)| processes.clone());
    let Some(grown) = grown(site, Way::Skpr, options.shells, &processes, Memory::Resident)? else {
        let elsewhere = Figure::new("RSS of an idle shell", f64::NAN, "MiB", Better::Lower);
        return Ok(vec![elsewhere.without("the nodes are not on this machine")]);
    };
    let peer = [Processes::of(&site.sites, CONTAINER, "sshd", |_| true)?];
    let peer = self::grown(site, Way::Sshd, options.shells, &peer, Memory::Proportional)?;
    let peer = peer.into_iter().flatten().next().context("find sshd")?;

    let of = |name: &str, mib: f64| {
        Figure::new(format!("{} idle shells, each: {name}", options.shells), mib, "MiB", Better::Lower)
    };
    let each = programs.iter().zip(&grown);
    let mut figures: Vec<Figure> =
        each.map(|((name, _), mib)| of(&format!("RSS of the {name}"), *mib).target(TARGET)).collect();
    figures.push(of("RSS of all three", grown.iter().sum()).against("sshd, PSS", peer));
    Ok(figures)
}

/// MiB by which each of the programs grows with a shell; none where they are not on this machine.
fn grown(
    site: &Site,
    way: Way,
    shells: usize,
    programs: &[Processes],
    memory: Memory,
) -> Result<Option<Vec<f64>>> {
    let open = |number: usize| -> Result<Terminal> {
        let mut terminal = Terminal::open(way.shell(site, number)?)?;
        terminal.prompt()?;
        Ok(terminal)
    };
    // What the first one brings along is not each one's, so that it stays open beside the others.
    let _first = open(0)?;
    let Some(before) = at_rest(programs, memory)? else { return Ok(None) };
    let opened: Vec<Terminal> = (1..=shells).map(open).collect::<Result<_>>()?;
    let after = at_rest(programs, memory)?.context("the programs are gone")?;
    drop(opened);
    Ok(Some(before.iter().zip(after).map(|(before, after)| (after - before) / shells as f64).collect()))
}

/// MiB of each, once they stay the same, or have had their time.
fn at_rest(programs: &[Processes], memory: Memory) -> Result<Option<Vec<f64>>> {
    let read = || programs.iter().map(|program| program.mib(memory)).collect::<Result<Option<Vec<f64>>>>();
    let (begun, mut before) = (Instant::now(), read()?);
    while let Some(known) = &before {
        check()?;
        std::thread::sleep(REST);
        let now = read()?;
        let same = now.iter().flatten().zip(known).all(|(now, known)| (now - known).abs() < SAME);
        before = now;
        if same || begun.elapsed() > RESTS_WITHIN {
            break;
        }
    }
    Ok(before)
}
