//! Noise through stdin into the container, and through stdout out of it: how fast, the start of the programs included, and
//! whether every byte came as it was.
//!
//! Both ends are memory, and compare every byte: here while it comes, there when all have come and the clock has stopped.

use crate::guard::{Client, check};
use crate::median;
use crate::options::Options;
use crate::site::Site;
use crate::ways::{ALL, Input, Way, in_turn};
use anyhow::{Context as _, Result, ensure};
use skpr_tests::report::{Better, Figure};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const NOISE: &str = "/data/noise";
const COPY: &str = "/data/copy";
/// In MB/s.
const TARGET: f64 = 150.0;
/// Even a slow one of the largest size is done by then.
const LIMIT: Duration = Duration::from_secs(120);
const PIECE: usize = 1 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Out,
    In,
}

#[derive(Default)]
struct Taken {
    /// MB/s of those that were exact.
    rates: Vec<f64>,
    runs: usize,
}

pub(crate) fn measure(site: &Site, options: &Options) -> Result<Vec<Figure>> {
    let mut noise = vec![0; options.mib << 20];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut noise)).context("make noise")?;
    put(site, &noise)?;
    let mut figures = vec![];
    for direction in [Direction::Out, Direction::In] {
        let mut taken: [Taken; ALL.len()] = Default::default();
        let rounds = options.runs.max(options.peer_runs);
        for round in 0..rounds {
            for (number, way) in in_turn(round) {
                let runs = if way == Way::Skpr { options.runs } else { options.peer_runs };
                // Spread over all rounds.
                if (round * runs) % rounds < runs {
                    run(site, way, direction, &noise, taken.get_mut(number).context("a way")?)?;
                }
            }
        }
        figures.extend(described(direction, options, taken));
    }
    Ok(figures)
}

fn described(direction: Direction, options: &Options, taken: [Taken; ALL.len()]) -> Vec<Figure> {
    let way = if direction == Direction::Out { "out" } else { "in" };
    let exact = taken.each_ref().map(|taken| (taken.rates.len(), taken.runs));
    let [skpr, through, sshd, kubectl] = taken.map(|taken| median(taken.rates));
    let of = |by: Way, rate: f64| {
        Figure::new(format!("{} MiB {way}: {}", options.mib, by.name()), rate, "MB/s", Better::Higher)
    };
    let mut figures = vec![
        of(Way::Skpr, skpr).against(Way::Sshd.name(), sshd).target(TARGET),
        of(Way::Skpr, skpr).against(Way::Kubectl.name(), kubectl),
        of(Way::ThroughSkpr, through).against(Way::Sshd.name(), sshd).target(TARGET),
    ];
    for (by, (good, runs)) in ALL.into_iter().zip(exact) {
        let name = format!("{} MiB {way}, exact of {runs}: {}", options.mib, by.name());
        let figure = Figure::new(name, good as f64, "runs", Better::Higher);
        let ours = matches!(by, Way::Skpr | Way::ThroughSkpr);
        figures.push(if ours { figure.target(runs as f64) } else { figure });
    }
    figures
}

/// Puts the noise where it comes from, and sees by a hash that it is there.
fn put(site: &Site, noise: &[u8]) -> Result<()> {
    let mut client = Client::start(&mut into(site, Way::Skpr, NOISE)?, LIMIT)?;
    client.stdin()?.write_all(noise).context("send the noise")?;
    client.success()?;
    let mut hash = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    hash.stdin.take().context("its stdin is a pipe")?.write_all(noise).context("hash the noise")?;
    let here = String::from_utf8(hash.wait_with_output()?.stdout)?;
    let there = site.said(&["sha256sum", NOISE])?;
    ensure!(here.split(' ').next() == there.split(' ').next(), "the noise is {here} here and {there} there");
    Ok(())
}

fn into(site: &Site, way: Way, path: &str) -> Result<Command> {
    let mut command = way.exec(site, Input::Pipe, &["dd", &format!("of={path}"), "bs=65536"])?;
    command.stdout(Stdio::null());
    Ok(command)
}

#[expect(clippy::print_stderr, reason = "what went wrong with a run is no figure")]
fn run(site: &Site, way: Way, direction: Direction, noise: &[u8], taken: &mut Taken) -> Result<()> {
    check()?;
    let begun = Instant::now();
    let done = match direction {
        Direction::Out => out(site, way, noise),
        Direction::In => inward(site, way, noise),
    };
    let seconds = begun.elapsed().as_secs_f64();
    check()?;
    let done = done.and_then(|()| if direction == Direction::In { compared(site) } else { Ok(()) });
    taken.runs += 1;
    match done {
        Ok(()) => taken.rates.push(noise.len() as f64 / 1e6 / seconds),
        Err(error) => eprintln!("{}: {error:#}", way.name()),
    }
    Ok(())
}

fn out(site: &Site, way: Way, noise: &[u8]) -> Result<()> {
    let mut command = way.exec(site, Input::Nothing, &["cat", NOISE])?;
    let mut client = Client::start(command.stdout(Stdio::piped()), LIMIT)?;
    let mut stdout = client.stdout()?;
    let (mut piece, mut rest) = (vec![0; PIECE], noise);
    loop {
        let length = stdout.read(&mut piece).context("read what comes")?;
        if length == 0 {
            break;
        }
        let expected = rest.split_at_checked(length).filter(|(next, _)| piece.get(..length) == Some(next));
        let at = noise.len() - rest.len();
        (_, rest) = expected.with_context(|| format!("what came after byte {at} is something else"))?;
    }
    client.success()?;
    ensure!(rest.is_empty(), "the last {} bytes did not come", rest.len());
    Ok(())
}

fn inward(site: &Site, way: Way, noise: &[u8]) -> Result<()> {
    let mut client = Client::start(&mut into(site, way, COPY)?, LIMIT)?;
    let sent = client.stdin()?.write_all(noise);
    // A program that has failed says more than that it reads no more.
    client.success()?;
    sent.context("send the noise")
}

/// Whether what has come is what was sent; it is removed.
fn compared(site: &Site) -> Result<()> {
    let script = format!("cmp {COPY} {NOISE} 2>&1 && echo same; rm -f {COPY}");
    let said = site.said(&["sh", "-c", &script])?;
    ensure!(said == "same\n", "{said}");
    Ok(())
}
