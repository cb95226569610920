//! How long a key takes to come back: alone, and beside a transfer of the same user by the same way.
//!
//! At the other end is `cat` on a terminal that does nothing by itself, so that a key is on the way as one of an editor is.

use crate::guard::{Client, check, eventually};
use crate::options::Options;
use crate::site::{Site, TIMEOUT};
use crate::terminal::Terminal;
use crate::ways::{ALL, Input, OURS, Way, in_turn};
use crate::{median, percentile};
use anyhow::{Context as _, Result};
use skpr_tests::numbers::Numbers;
use skpr_tests::report::{Better, Figure};
use std::process::Stdio;
use std::time::{Duration, Instant};

const WARM_UP: usize = 20;
/// Between two keys, in microseconds: not always the same, so that no clock beats in time with it.
const PAUSE: std::ops::Range<u64> = 7_000..13_000;
const SEED: u64 = 6;
/// The 99th of a hundred is the worst of fewer than these, and called so.
const ENOUGH: usize = 200;
/// What a transfer that was ended still does at both ends is over by then.
const CALM: Duration = Duration::from_secs(1);
/// Keys that are not counted after a transfer has begun.
const WARM_UP_BESIDE: usize = 3;
/// A transfer is begun anew this many times, so that the ways take turns with it.
const BLOCKS: usize = 5;
/// What a transfer has moved once it is under way.
const UNDER_WAY: u64 = 8 << 20;
const TRANSFER_LIMIT: Duration = Duration::from_secs(300);
/// Ends it in the container: what kubectl has started goes on without it.
const END: &str = "killall -KILL dd 2>/dev/null; while pidof dd >/dev/null; do sleep 0.1; done";
/// In ms, of the 99th of a hundred keys.
const TARGET: f64 = 8.0;

/// Milliseconds of every key of each way, and MB/s of what went on beside.
#[derive(Default)]
struct Taken {
    keys: [Vec<f64>; 4],
    beside: [Vec<f64>; 4],
}

struct Typist {
    numbers: Numbers,
    terminals: Vec<Terminal>,
}

pub(crate) fn measure(site: &Site, options: &Options) -> Result<Vec<Figure>> {
    let mut typist = Typist { numbers: Numbers::new(SEED), terminals: vec![] };
    for way in ALL {
        let mut terminal = Terminal::open(way.shell(site, 0)?)?;
        terminal.become_echo().with_context(|| way.name())?;
        typist.terminals.push(terminal);
    }
    for round in 0..WARM_UP {
        typist.each_once(round, &mut Taken::default())?;
    }
    let mut alone = Taken::default();
    for round in 0..options.keys {
        typist.each_once(round, &mut alone)?;
    }
    let mut beside = Taken::default();
    let keys = options.keys.div_ceil(BLOCKS);
    for block in 0..BLOCKS {
        for (number, way) in in_turn(block) {
            let transfer = Transfer::start(site, way)?;
            for _ in 0..WARM_UP_BESIDE {
                typist.once(number, &mut Taken::default())?;
            }
            for _ in 0..keys {
                typist.once(number, &mut beside)?;
            }
            let rate = transfer.end(site)?;
            beside.beside.get_mut(number).context("a way")?.push(rate);
        }
    }
    let mut figures = described("alone", &alone)?;
    figures.extend(described("beside a transfer", &beside)?);
    let rate = |way: Way| -> Result<f64> { Ok(median(of(&beside.beside, way)?)) };
    for peer in [Way::Sshd, Way::Kubectl] {
        let figure = Figure::new("that transfer: skpr", rate(Way::Skpr)?, "MB/s", Better::Higher);
        figures.push(figure.against(peer.name(), rate(peer)?));
    }
    Ok(figures)
}

fn of(values: &[Vec<f64>; 4], way: Way) -> Result<Vec<f64>> {
    let number = ALL.iter().position(|known| *known == way).context("a way")?;
    values.get(number).cloned().context("a way")
}

fn described(when: &str, taken: &Taken) -> Result<Vec<Figure>> {
    let mut figures = vec![];
    let at = |way: Way, share: f64| -> Result<f64> { Ok(percentile(of(&taken.keys, way)?, share)) };
    let keys = taken.keys.iter().map(Vec::len).min().unwrap_or_default();
    let worst = if keys < ENOUGH { "max" } else { "p99" };
    for way in OURS {
        for peer in [Way::Sshd, Way::Kubectl] {
            for (name, share) in [("p50", 0.5), (worst, if keys < ENOUGH { 1.0 } else { 0.99 })] {
                let name = format!("key echo {when}, {name}: {}", way.name());
                let figure = Figure::new(name, at(way, share)?, "ms", Better::Lower);
                let figure = figure.against(peer.name(), at(peer, share)?);
                figures.push(match (peer, share < 0.9) {
                    (Way::Sshd, true) => figure.target_ratio(1.0),
                    (Way::Sshd, false) => figure.target(TARGET),
                    _ => figure,
                });
            }
        }
    }
    Ok(figures)
}

impl Typist {
    /// A key at each terminal, another one first each time.
    fn each_once(&mut self, round: usize, taken: &mut Taken) -> Result<()> {
        for (number, _) in in_turn(round) {
            self.once(number, taken)?;
        }
        Ok(())
    }

    fn once(&mut self, number: usize, taken: &mut Taken) -> Result<()> {
        check()?;
        let key = b'a' + self.numbers.below(26) as u8;
        std::thread::sleep(Duration::from_micros(PAUSE.start + self.numbers.below(PAUSE.end - PAUSE.start)));
        let took = self.terminals.get_mut(number).context("a terminal")?.echo(key)?;
        taken.keys.get_mut(number).context("a way")?.push(took.as_secs_f64() * 1000.0);
        Ok(())
    }
}

/// Zeros out of the container, as fast as they come.
struct Transfer {
    client: Client,
    begun: Instant,
    before: u64,
}

impl Transfer {
    /// Starts it, and waits until it is under way.
    fn start(site: &Site, way: Way) -> Result<Transfer> {
        // With `ssh` it is skpr's own that goes on beside: the same user, and another connection.
        let way = if way == Way::ThroughSkpr { Way::Skpr } else { way };
        let mut command = way.exec(site, Input::Nothing, &["dd", "if=/dev/zero", "bs=65536"])?;
        let client = Client::start(command.stdout(Stdio::null()), TRANSFER_LIMIT)?;
        let process = client.id();
        eventually("a transfer is under way", TIMEOUT, || Ok((written(process)? > UNDER_WAY).then_some(())))?;
        Ok(Transfer { begun: Instant::now(), before: written(process)?, client })
    }

    /// Ends it at both ends; MB/s until then.
    fn end(self, site: &Site) -> Result<f64> {
        let moved = written(self.client.id())? - self.before;
        let rate = moved as f64 / 1e6 / self.begun.elapsed().as_secs_f64();
        drop(self.client);
        site.said(&["sh", "-c", END])?;
        std::thread::sleep(CALM);
        Ok(rate)
    }
}

/// Bytes that a process has written so far.
fn written(process: u32) -> Result<u64> {
    let counters = std::fs::read_to_string(format!("/proc/{process}/io")).context("the transfer ended")?;
    let line = counters.lines().find_map(|line| line.strip_prefix("wchar: "));
    line.and_then(|number| number.parse().ok()).context("read how much a process has written")
}
