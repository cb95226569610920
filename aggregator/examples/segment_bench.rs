//! Measures sealed segments: writing, size, searching and a short window, over a seeded day of mixed log lines.
//!
//! `segment_bench text MIB FILE` writes the lines, `write DIR FILE` seals them, `count DIR NEEDLE THREADS` and
//! `window DIR` read them back. Each prints one line of figures; a process each, so that peak memory is its own.

#![expect(
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a tool for developers that prints figures"
)]

use anyhow::{Context as _, Result, bail};
use skpr_aggregator::environment::EnvironmentKey;
use skpr_aggregator::record::{Filter, RecordKind};
use skpr_aggregator::store::segment::{self, Hour, Range, Row, SegmentFile};
use skpr_proto::{EnvironmentName, Label, UnixNanos};
use std::fs;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

const HOUR: i64 = 3_600_000_000_000;
const DAY_START: i64 = 1_764_000_000_000_000_000 / HOUR * HOUR;
const INDEX: &str = "segments.json";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["text", mebibytes, file] => text(mebibytes.parse()?, Path::new(file)),
        ["write", directory, file] => write(Path::new(directory), Path::new(file)),
        ["count", directory, needle, threads] => count(Path::new(directory), needle, threads.parse()?),
        ["window", directory] => window(Path::new(directory)),
        _ => bail!(
            "usage: segment_bench text MIB FILE | write DIR FILE | count DIR NEEDLE THREADS | window DIR"
        ),
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len() as u64) as usize]
    }
}

const PATHS: [&str; 12] = [
    "/",
    "/node/1842",
    "/user/login",
    "/core/misc/drupal.js",
    "/sites/default/files/css/css_x8b.css",
    "/api/v1/weather",
    "/admin/content",
    "/search?keys=rain",
    "/forecast/sydney",
    "/forecast/perth",
    "/robots.txt",
    "/jsonapi/node/article",
];
const AGENTS: [&str; 5] = [
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/129.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    "curl/8.9.1",
    "kube-probe/1.34",
];
const CLASSES: [&str; 6] = [
    "Drupal\\node\\Entity\\Node",
    "Drupal\\views\\ViewExecutable",
    "Drupal\\Core\\Render\\Renderer",
    "GuzzleHttp\\Client",
    "Drupal\\Core\\Database\\Connection",
    "Symfony\\Component\\HttpKernel\\HttpKernel",
];

fn message(random: &mut Random, at: i64) -> String {
    let second = at / 1_000_000_000;
    let clock = format!("{:02}:{:02}:{:02}", second / 3600 % 24, second / 60 % 60, second % 60);
    let (path, id) = (random.pick(&PATHS), random.below(1_000_000));
    match random.below(100) {
        0..55 => {
            let status = random.pick(&["200", "200", "200", "200", "200", "304", "301", "404", "500"]);
            let address = format!("10.{}.{}.{}", random.below(4), random.below(256), random.below(256));
            let (size, took, agent) = (random.below(90_000), random.below(2000), random.pick(&AGENTS));
            format!(
                "{address} - - [24/Nov/2025:{clock} +0000] \"GET {path} HTTP/1.1\" {status} {size} \"https://www.example.com/\" \"{agent}\" rt=0.{took:03} uct=0.000 id={id:06x}{:08x}",
                random.below(1 << 32)
            )
        }
        55..75 => {
            let level = random.pick(&[
                "PHP Warning",
                "PHP Notice",
                "PHP Warning",
                "PHP Deprecated",
                "PHP Notice",
                "PHP Fatal error",
            ]);
            let class = random.pick(&CLASSES);
            format!(
                "[24-Nov-2025 {clock} UTC] {level}:  Uncaught TypeError: {class}::load(): Argument #{} must be of type string, null given, called in /data/app/web/core/lib/Drupal.php on line {} and defined in /data/app/vendor/x/{}.php:{}",
                random.below(4),
                random.below(900),
                random.below(60),
                random.below(500)
            )
        }
        75..92 => format!(
            "{{\"level\":\"{}\",\"time\":\"2025-11-24T{clock}.{:03}Z\",\"logger\":\"{}\",\"request_id\":\"{:08x}-{:08x}\",\"user\":{},\"path\":\"{path}\",\"duration_ms\":{},\"message\":\"request handled\"}}",
            random.pick(&["info", "info", "debug", "warn", "error"]),
            at / 1_000_000 % 1000,
            random.pick(&["http", "cache", "queue", "mail"]),
            random.below(1 << 32),
            random.below(1 << 32),
            random.below(5000),
            random.below(4000)
        ),
        _ => format!(
            "I1124 {clock}.{:06}       1 {}.go:{}] \"Reconciled object\" namespace=\"site-{}\" name=\"web-{}\" generation={} took=\"{}ms\"",
            at / 1000 % 1_000_000,
            random.pick(&["controller", "reflector", "leaderelection", "queue"]),
            random.below(800),
            random.below(40),
            random.below(9),
            random.below(300),
            random.below(90)
        ),
    }
}

/// When and by whom line `index` was logged.
fn stamp(index: u64, step: i64) -> (i64, usize) {
    let jitter = (index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as i64 % step;
    (DAY_START + index as i64 * step + jitter, (index.wrapping_mul(0xff51_afd7_ed55_8ccd) >> 61) as usize)
}

/// A day has this many lines of about 230 bytes.
fn step(lines: u64) -> i64 {
    24 * HOUR / lines as i64
}

fn text(mebibytes: u64, file: &Path) -> Result<()> {
    let mut random = Random(0x5eed_5eed_5eed_5eed);
    let lines = mebibytes * (1 << 20) / 205;
    let mut out = BufWriter::new(fs::File::create(file)?);
    for index in 0..lines {
        writeln!(out, "{}", message(&mut random, stamp(index, step(lines)).0))?;
    }
    println!("text: {lines} lines, {} bytes", out.into_inner()?.metadata()?.len());
    Ok(())
}

fn write(directory: &Path, file: &Path) -> Result<()> {
    let environment = EnvironmentKey {
        namespace: Label::parse("namespace", "bench")?,
        name: EnvironmentName::parse("bench", "day")?,
    };
    let text = fs::read(file)?;
    let total = memchr::memchr_iter(b'\n', &text).count() as u64;
    let (held, before, start) = (peak_memory()?, cpu()?, Instant::now());
    let instances: Vec<String> = (0..8).map(|i| format!("web-7d4b9c-{i}x2x1z")).collect();
    let mut lines = text.split(|byte| *byte == b'\n').enumerate().peekable();
    let mut files: Vec<SegmentFile> = Vec::new();
    for hour in 0..24 {
        let hour = Hour::of(UnixNanos(DAY_START + hour * HOUR));
        let rows = std::iter::from_fn(|| {
            let next = |(index, _): &(usize, &[u8])| {
                (*index as u64) < total && hour.contains(UnixNanos(stamp(*index as u64, step(total)).0))
            };
            let (index, message) = lines.next_if(next)?;
            let (time, instance) = stamp(index as u64, step(total));
            let stream = if index % 11 == 0 { "stderr" } else { "stdout" };
            Some(Row {
                order_time: UnixNanos(time),
                time: UnixNanos(time),
                sequence: index as u64 + 1,
                instance: &instances[instance],
                stream,
                kind: RecordKind::Line,
                message,
            })
        });
        files.push(segment::write(directory, &environment, hour, rows)?);
    }
    let (cpu, wall) = (cpu()? - before, start.elapsed());
    let bytes: u64 = files.iter().map(|file| file.bytes).sum();
    println!(
        "write: {bytes} bytes, {:.1} MB/CPU-s, wall {:.2} s, peak memory beyond the text {} MiB",
        text.len() as f64 / 1e6 / cpu.as_secs_f64(),
        wall.as_secs_f64(),
        (peak_memory()? - held) >> 10
    );
    fs::write(directory.join(INDEX), serde_json::to_vec(&files)?)?;
    Ok(())
}

fn index(directory: &Path) -> Result<Vec<SegmentFile>> {
    Ok(serde_json::from_slice(&fs::read(directory.join(INDEX))?)?)
}

fn count(directory: &Path, needle: &str, threads: usize) -> Result<()> {
    let filter = Filter { grep: vec![regex::bytes::Regex::new(needle)?], ..Filter::default() };
    let files = index(directory)?;
    let (before, start) = (cpu()?, Instant::now());
    let found = segment::count_files(directory, &files, &Range::default(), &filter, threads)?;
    let (wall, cpu) = (start.elapsed(), cpu()? - before);
    println!(
        "count {needle:?}, {threads} threads: {found}, wall {:.2} s, CPU {:.2} s, peak memory {} MiB",
        wall.as_secs_f64(),
        cpu.as_secs_f64(),
        peak_memory()? >> 10
    );
    Ok(())
}

fn window(directory: &Path) -> Result<()> {
    let files = index(directory)?;
    for at in [
        DAY_START + 3 * HOUR / 2,
        DAY_START + 7 * HOUR + HOUR * 9 / 10,
        DAY_START + 13 * HOUR,
        DAY_START + 22 * HOUR + HOUR / 3,
    ] {
        let (since, until) = (UnixNanos(at), UnixNanos(at + HOUR / 6));
        let range = Range { since: Some(since), until: Some(until), ..Range::default() };
        let start = Instant::now();
        let (mut first, mut records, mut bytes) = (None, 0, 0);
        for file in files.iter().filter(|file| file.max_time >= since && file.min_time < until) {
            for batch in segment::scan(directory, file, &range, &Filter::default())? {
                let batch = batch?;
                first.get_or_insert_with(|| start.elapsed());
                records += batch.len();
                bytes += batch.iter().map(|scanned| scanned.record.message.len()).sum::<usize>();
            }
        }
        println!(
            "window: first {:.1} ms, all {:.1} ms, {records} records, {:.1} MB, peak memory {} MiB",
            first.unwrap_or_default().as_secs_f64() * 1e3,
            start.elapsed().as_secs_f64() * 1e3,
            bytes as f64 / 1e6,
            peak_memory()? >> 10
        );
    }
    Ok(())
}

/// User and system time of this process.
fn cpu() -> Result<Duration> {
    const TICKS_PER_SECOND: u64 = 100;
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// The most memory this process has had, in KiB.
fn peak_memory() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("read peak memory")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
