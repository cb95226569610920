//! `make bench-rsync`: transfers of files into a container of a Kubernetes cluster, beside stock rsync over OpenSSH's sshd
//! into the same container, in the same run.
//!
//! `bench-rsync [PART]...` — parts: `tree`, `small`, `edits`, `large`, `keys`, `memory`, `far` (default: all). `scripts/bench-rsync` gives it a
//! cluster and says what shortens it. Prints a table and writes `target/bench/rsync.json`.
//!
//! * Both push from this machine, take turns, and find the same state before each turn. What came is compared each time.
//! * Bytes are those of the network interface that leads to the nodes, both ways, with all that TLS and SSH add.
//! * The place is a site of `bench-shell`, whose files for that are used here as they are.

#![expect(clippy::print_stderr, reason = "a program for a terminal")]

mod beside;
mod far;
#[path = "../bench-shell/guard.rs"]
#[expect(dead_code, reason = "bench-shell uses more of it")]
mod guard;
mod network;
mod options;
#[path = "../bench-shell/processes.rs"]
#[expect(dead_code, reason = "bench-shell uses more of it")]
mod processes;
mod pushes;
#[path = "../bench-shell/site.rs"]
mod site;
#[path = "../bench-shell/sshd.rs"]
mod sshd;
#[path = "../bench-shell/terminal.rs"]
mod terminal;
mod trees;
#[path = "../bench-shell/ways.rs"]
#[expect(dead_code, reason = "bench-shell uses more of it")]
mod ways;

use anyhow::{Context as _, Result, ensure};
use options::Options;
use pushes::{Bench, Compared};
use skpr_tests::report::{Better, Figure, publish};
use std::path::{Path, PathBuf};
use std::time::Duration;

const PARTS: [&str; 7] = ["tree", "small", "edits", "large", "keys", "memory", "far"];
const RSYNC: &str = "rsync over sshd";
/// In bytes: what an unchanged tree may cost, and one of which a hundredth has grown.
const UNCHANGED: f64 = 20e3;
const GROWN: f64 = 30e3;

fn main() -> Result<()> {
    guard::watch()?;
    let asked: Vec<String> = std::env::args().skip(1).collect();
    for part in &asked {
        ensure!(PARTS.contains(&part.as_str()), "there is no part `{part}`: there are {}", PARTS.join(", "));
    }
    let options = Options::read()?;
    let site = site::Site::start(1)?;
    let mut bench = Bench::new(&site, &options)?;
    let mut figures = Vec::new();
    for part in PARTS.into_iter().filter(|part| asked.is_empty() || asked.iter().any(|name| name == part)) {
        eprintln!("{part} …");
        let measured = match part {
            "tree" => tree(&bench, &options),
            "small" => small(&bench, &options),
            "edits" => edits(&bench, &options),
            "large" => large(&bench, &options),
            "keys" => beside::keys(&bench, &options),
            "memory" => beside::memory(&bench),
            // The last, since from then on all are far away.
            _ => far(&mut bench, &options),
        };
        figures.extend(measured.context(part)?);
    }
    drop(bench);
    drop(site);
    guard::check()?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    publish(&figures, &target.join("bench/rsync.json"))
}

fn bytes(name: &str, compared: &Compared) -> Figure {
    Figure::new(format!("{name}: bytes"), compared.ours.bytes, "B", Better::Lower)
        .against(RSYNC, compared.theirs.bytes)
}

fn seconds(name: &str, compared: &Compared) -> Figure {
    Figure::new(format!("{name}: time"), compared.ours.seconds, "s", Better::Lower)
        .against(RSYNC, compared.theirs.seconds)
}

fn tree(bench: &Bench<'_>, options: &Options) -> Result<Vec<Figure>> {
    let from = bench.here("tree")?;
    trees::sources(&from, options.files)?;
    let first = bench.compare(&from, "", &["-a"])?;
    let packed = bench.compare(&from, "", &["-az"])?;
    bench.keep(&from, "before")?;
    let unchanged = bench.compare(&from, "before", &["-a"])?;
    trees::append(&from, options.files)?;
    let grown = bench.compare(&from, "before", &["-a"])?;
    Ok(vec![
        bytes("tree, first copy beside -az", &packed).target_ratio(1.0),
        seconds("tree, first copy beside -a", &first).target_ratio(1.0),
        bytes("tree, unchanged", &unchanged).target(UNCHANGED),
        seconds("tree, unchanged", &unchanged),
        bytes("tree, 1 % of files appended", &grown).target(GROWN),
        seconds("tree, 1 % of files appended", &grown),
    ])
}

fn small(bench: &Bench<'_>, options: &Options) -> Result<Vec<Figure>> {
    let from = bench.here("small")?;
    trees::small(&from, options.small)?;
    let name = format!("{} files of 200 bytes", options.small);
    let first = bench.compare(&from, "", &["-a"])?;
    Ok(vec![bytes(&name, &first), seconds(&name, &first).target_ratio(1.0)])
}

fn edits(bench: &Bench<'_>, options: &Options) -> Result<Vec<Figure>> {
    let from = bench.here("edits")?;
    let name = format!("{} MiB", options.mib);
    trees::noise_file(&from, options.mib, 1)?;
    bench.keep(&from, "before")?;
    trees::edit(&from)?;
    let edited = bench.compare(&from, "before", &["-a"])?;
    trees::noise_file(&from, options.mib, 2)?;
    let unrelated = bench.compare(&from, "before", &["-aW"])?;
    Ok(vec![
        bytes(&format!("{name}, 100 edits and an insertion"), &edited).target_ratio(0.2),
        seconds(&format!("{name}, 100 edits and an insertion"), &edited).target_ratio(1.0),
        seconds(&format!("{name}, unrelated, beside -W"), &unrelated).target_ratio(1.15),
    ])
}

/// A dump and a machine's disk, of which a day's changes are to come.
fn large(bench: &Bench<'_>, options: &Options) -> Result<Vec<Figure>> {
    let mut figures = day(bench, options, "SQL dump", &["-az"], &trees::dump)?;
    figures.extend(day(bench, options, "disk of a machine", &["-a", "-S"], &trees::image)?);
    Ok(figures)
}

fn day(
    bench: &Bench<'_>,
    options: &Options,
    kind: &str,
    flags: &[&str],
    make: &dyn Fn(&Path, u64, u64) -> Result<()>,
) -> Result<Vec<Figure>> {
    let from = bench.here("large")?;
    make(&from, options.large, 0)?;
    bench.keep(&from, "before")?;
    make(&from, options.large, 1)?;
    let changed = bench.compare(&from, "before", flags)?;
    std::fs::remove_dir_all(&from)?;
    let name = format!("{kind} of {} MiB, a day's changes", options.large);
    Ok(vec![bytes(&name, &changed).target_ratio(1.0), seconds(&name, &changed).target_ratio(1.0)])
}

/// The same over a longer way, where every round trip shows.
fn far(bench: &mut Bench<'_>, options: &Options) -> Result<Vec<Figure>> {
    let from = bench.here("far")?;
    trees::sources(&from, options.files)?;
    bench.keep(&from, "before")?;
    let mut figures = vec![];
    for millis in [20, 100] {
        bench.move_away(Duration::from_millis(millis))?;
        let unchanged = bench.compare(&from, "before", &["-a"])?;
        let first = bench.compare(&from, "", &["-a"])?;
        figures.push(seconds(&format!("tree, unchanged, at {millis} ms"), &unchanged).target_ratio(1.0));
        figures.push(seconds(&format!("tree, first copy, at {millis} ms"), &first).target_ratio(1.0));
    }
    Ok(figures)
}
