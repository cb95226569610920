//! Measures the engine against stock rsync, both between two directories of this machine, and prints a table: the bytes that
//! cross between the two ends, the changes of direction that a line would make round trips of, the time, and the memory.
//!
//! `cargo run --release -p skpr-rsync --example bench-rsync [DIRECTORY]`. rsync's two ends are joined by this program as
//! well (it is its own `--rsh`), so that its bytes are counted the same way.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a benchmark fails by panicking, and its output is its purpose"
)]

use skpr_rsync::options::Options;
use skpr_rsync::{Base, Link, Local, Policy, pull, push, serve};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// What crossed a connection: bytes, and how often the direction changed.
#[derive(Default)]
struct Count {
    bytes: AtomicU64,
    turns: AtomicU64,
    direction: AtomicU8,
}

impl Count {
    fn add(&self, bytes: usize, direction: u8) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if self.direction.swap(direction, Ordering::Relaxed) != direction {
            self.turns.fetch_add(1, Ordering::Relaxed);
        }
    }
}

struct Measured {
    bytes: u64,
    round_trips: u64,
    time: Duration,
    /// The larger of the two ends', where they are processes.
    memory: Option<u64>,
}

/// One end as a process of its own, on standard input and output: so that its memory can be told.
fn end(arguments: &[String]) {
    let link = Link {
        reader: Box::new(std::io::stdin()),
        writer: Box::new(std::io::stdout()),
        close: Box::new(|| std::process::exit(12)),
    };
    let summary = match arguments[0].as_str() {
        "serve" => {
            serve(Base::Own, Policy { devices: true, set_id: true, ..Policy::default() }, &|_| {}, link)
        }
        way => {
            let options = Options { sparse: arguments[3] == "sparse", ..Options::archive() };
            let (from, to) = (arguments[1].as_bytes(), arguments[2].as_bytes());
            let local = |path| Local { base: Base::Own, path, watcher: &|_| {}, silence: None };
            if way == "push" {
                push(local(from), to, &options, link)
            } else {
                pull(local(to), from, &options, link)
            }
        }
    };
    summary.expect("transfer");
    let note = std::env::temp_dir().join(format!("skpr-bench-memory-{}", std::process::id()));
    fs::copy("/proc/self/status", note).unwrap();
}

/// Joins two processes and counts what they say.
fn join(mut one: Command, mut other: Command) -> Measured {
    let begun = Instant::now();
    let spawn = |command: &mut Command| command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut one, mut other) = (spawn(&mut one), spawn(&mut other));
    let count = Arc::new(Count::default());
    let (mut from_one, mut to_one) = (one.stdout.take().unwrap(), one.stdin.take().unwrap());
    let (mut from_other, mut to_other) = (other.stdout.take().unwrap(), other.stdin.take().unwrap());
    let there = count.clone();
    let thread = std::thread::spawn(move || carry(&mut from_one, &mut to_other, &there, 1));
    carry(&mut from_other, &mut to_one, &count, 2);
    drop(to_one);
    thread.join().unwrap();
    let memory = [wait(&mut one), wait(&mut other)].into_iter().max();
    let (bytes, turns) = (count.bytes.load(Ordering::Relaxed), count.turns.load(Ordering::Relaxed));
    Measured { bytes, round_trips: turns / 2, time: begun.elapsed(), memory }
}

fn carry(from: &mut impl Read, to: &mut impl Write, count: &Count, direction: u8) {
    let mut buffer = vec![0; 256 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        count.add(read, direction);
        if to.write_all(&buffer[..read]).is_err() {
            return;
        }
    }
}

/// The largest memory that a process had, which it has written down at its end.
fn wait(child: &mut std::process::Child) -> u64 {
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}");
    let note = std::env::temp_dir().join(format!("skpr-bench-memory-{}", child.id()));
    let text = fs::read_to_string(&note).unwrap();
    fs::remove_file(note).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().split(' ').next().unwrap().parse::<u64>().unwrap() * 1024
}

fn ours(way: &str, from: &Path, to: &Path, sparse: bool) -> Measured {
    let program = std::env::current_exe().unwrap();
    let from = format!("{}/", from.display());
    let mut client = Command::new(&program);
    client.args(["end", way, &from, &to.display().to_string(), if sparse { "sparse" } else { "whole" }]);
    let mut server = Command::new(&program);
    server.args(["end", "serve"]);
    join(client, server)
}

/// rsync reaches its other end through this program, which writes down what passed.
fn rsync(flags: &[&str], from: &Path, to: &Path, notes: &Path) -> Measured {
    let program = std::env::current_exe().unwrap();
    let begun = Instant::now();
    let status = Command::new("rsync")
        .args(flags)
        .arg("--rsh")
        .arg(format!("{} shell {}", program.display(), notes.display()))
        .arg(format!("{}/", from.display()))
        .arg(format!("host:{}", to.display()))
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
    let time = begun.elapsed();
    let text = fs::read_to_string(notes).unwrap();
    let numbers: Vec<u64> = text.split(' ').map(|number| number.parse().unwrap()).collect();
    Measured { bytes: numbers[0], round_trips: numbers[1] / 2, time, memory: None }
}

/// The `--rsh` of [`rsync`]: NOTES host rsync --server …
fn shell(arguments: &[String]) {
    let mut command = Command::new(&arguments[2]);
    command.args(&arguments[3..]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let count = Arc::new(Count::default());
    let (mut to, mut from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let there = count.clone();
    let notes = arguments[0].clone();
    // It is let go when the process ends: rsync leaves its end open.
    let _sending = std::thread::spawn(move || carry(&mut std::io::stdin(), &mut to, &there, 1));
    carry(&mut from, &mut FlushedOut(std::io::stdout()), &count, 2);
    let text = format!("{} {}", count.bytes.load(Ordering::Relaxed), count.turns.load(Ordering::Relaxed));
    fs::write(notes, text).unwrap();
    std::process::exit(child.wait().unwrap().code().unwrap_or(1));
}

struct FlushedOut(std::io::Stdout);

impl Write for FlushedOut {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.0.write(bytes)?;
        self.0.flush()?;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Text that compresses like a program's source.
fn source(seed: u64, length: usize) -> Vec<u8> {
    let words: Vec<String> = (0..400).map(|at| format!("word{}", at * at % 977)).collect();
    let dice = noise(seed, length / 2 + 2);
    let mut text = Vec::with_capacity(length + 16);
    for pair in dice.chunks_exact(2) {
        let at = usize::from(pair[0]) * usize::from(pair[1]) % words.len();
        text.extend_from_slice(words[at].as_bytes());
        text.push(if pair[0] < 30 { b'\n' } else { b' ' });
        if text.len() >= length {
            break;
        }
    }
    text
}

fn old(path: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000 + seconds);
    File::open(path).unwrap().set_modified(time).unwrap();
}

/// 4,000 files in 800 directories, 92 MB.
fn tree(root: &Path) {
    for directory in 0..800 {
        let path = root.join(format!("module{}/part{}", directory / 20, directory % 20));
        fs::create_dir_all(&path).unwrap();
        for file in 0..5 {
            let name = path.join(format!("source_{file}.txt"));
            let seed = directory * 5 + file;
            fs::write(&name, source(seed, 2000 + (seed as usize * 7919) % 42_000)).unwrap();
            old(&name, seed);
        }
        old(&path, directory);
    }
}

struct Bench {
    root: PathBuf,
    rows: Vec<String>,
}

impl Bench {
    fn fresh(&self, name: &str) -> PathBuf {
        let path = self.root.join(name);
        drop(fs::remove_dir_all(&path));
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn row(&mut self, what: &str, ours: &Measured, theirs: Option<&Measured>) {
        let one = |measured: &Measured| {
            format!(
                "{:>13} {:>5} {:>8.3} s",
                measured.bytes,
                measured.round_trips,
                measured.time.as_secs_f64()
            )
        };
        let memory = ours.memory.map_or(String::new(), |bytes| format!("{:>4} MiB", bytes >> 20));
        let row = format!("{what:<34} {} {memory} | {}", one(ours), theirs.map_or(String::new(), one));
        println!("{row}");
        self.rows.push(row);
    }

    fn compare(&mut self, what: &str, from: &Path, prepare: &dyn Fn(&Path), flags: &[&str]) {
        let (one, other) = (self.fresh("ours"), self.fresh("theirs"));
        prepare(&one);
        prepare(&other);
        let mine = ours("push", from, &one, flags.contains(&"-S"));
        let theirs = rsync(flags, from, &other, &self.root.join("notes"));
        self.row(what, &mine, Some(&theirs));
        let same = Command::new("diff").arg("-rq").arg(from).arg(&one).status().unwrap();
        assert!(same.success(), "{what}: not the same");
    }
}

fn copy(from: &Path, to: &Path) {
    assert!(
        Command::new("cp").arg("-a").arg(format!("{}/.", from.display())).arg(to).status().unwrap().success()
    );
}

fn run(root: PathBuf, only: Option<&str>) {
    let wanted = |name: &str| only.is_none_or(|only| name.contains(only));
    let mut bench = Bench { root, rows: vec![] };
    println!(
        "{:<34} {:>13} {:>5} {:>10} {:>8} | rsync: {:>6} {:>5} {:>10}",
        "", "bytes", "trips", "time", "memory", "bytes", "trips", "time"
    );
    let from = bench.fresh("from");
    if wanted("tree") {
        tree(&from);
        bench.compare("tree: first copy (rsync -a)", &from, &|_| {}, &["-a"]);
        bench.compare("tree: first copy (rsync -az)", &from, &|_| {}, &["-az"]);
        bench.compare("tree: unchanged", &from, &|to| copy(&from, to), &["-a"]);
        let pulled = bench.fresh("ours");
        copy(&from, &pulled);
        let mine = ours("pull", &from, &pulled, false);
        bench.row("tree: unchanged, pulled", &mine, None);
        let before = bench.fresh("before");
        copy(&from, &before);
        for at in 0..40 {
            let seed = at * 97;
            let path =
                from.join(format!("module{}/part{}/source_{}.txt", seed / 100, seed / 5 % 20, seed % 5));
            fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"one more line\n").unwrap();
            old(&path, 1_000_000);
        }
        bench.compare("tree: 1 % appended", &from, &|to| copy(&before, to), &["-a"]);
    }
    if wanted("small") {
        let from = bench.fresh("from");
        for file in 0..100_000_u64 {
            let directory = from.join(format!("{}", file / 1000));
            if file % 1000 == 0 {
                fs::create_dir(&directory).unwrap();
            }
            fs::write(directory.join(format!("file{file}")), source(file, 190)).unwrap();
        }
        bench.compare("100,000 files of 200 bytes", &from, &|_| {}, &["-a"]);
        bench.compare("the same, unchanged", &from, &|to| copy(&from, to), &["-a"]);
    }
    if wanted("edits") {
        let from = bench.fresh("from");
        let data = noise(1, 256 << 20);
        let mut changed = data.clone();
        for edit in 0..100_u64 {
            let at = (edit as usize * 2_654_435_761) % (data.len() - 100);
            changed[at..at + 64].copy_from_slice(&noise(edit + 10, 64));
        }
        changed.splice(100_000_000..100_000_000, noise(2, 1000));
        fs::write(from.join("file"), &changed).unwrap();
        bench.compare(
            "256 MiB, 100 edits, an insertion",
            &from,
            &|to| fs::write(to.join("file"), &data).unwrap(),
            &["-a"],
        );
        bench.compare(
            "256 MiB, unrelated (rsync -W)",
            &from,
            &|to| fs::write(to.join("file"), noise(3, 256 << 20)).unwrap(),
            &["-aW"],
        );
        bench.compare("256 MiB, first copy (rsync -W)", &from, &|_| {}, &["-aW"]);
    }
    if wanted("dump") {
        let from = bench.fresh("from");
        let line = |row: u64, change: u64| {
            format!(
                "INSERT INTO users VALUES ({row}, 'user{row}@example.com', '{:x}', {change});\n",
                row.wrapping_mul(0x9e37_79b9_7f4a_7c15)
            )
        };
        let (mut before, mut after) = (vec![], vec![]);
        for row in 0..3_000_000 {
            before.extend_from_slice(line(row, 0).as_bytes());
            if row % 9973 != 0 {
                after.extend_from_slice(line(row, u64::from(row % 4999 == 0)).as_bytes());
            }
        }
        fs::write(from.join("dump.sql"), &after).unwrap();
        bench.compare(
            "SQL dump, a day's changes (-az)",
            &from,
            &|to| fs::write(to.join("dump.sql"), &before).unwrap(),
            &["-az"],
        );
    }
    if wanted("huge") {
        let from = bench.fresh("from");
        let file = File::create(from.join("image")).unwrap();
        file.set_len(12 << 30).unwrap();
        for part in 0..48_u64 {
            file.write_all_at(&noise(part, 16 << 20), part * (256 << 20)).unwrap();
        }
        bench.compare("12 GiB, 768 MiB of it data (-S)", &from, &|_| {}, &["-aS"]);
        let before = bench.fresh("before");
        copy(&from, &before);
        for part in 0..200_u64 {
            file.write_all_at(&noise(part + 100, 500), part * 61_000_003).unwrap();
        }
        bench.compare("the same, 200 edits (-S)", &from, &|to| copy(&before, to), &["-aS"]);
    }
    drop(fs::remove_dir_all(&bench.root));
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("end") => end(&arguments[1..]),
        Some("shell") => shell(&arguments[1..]),
        directory => {
            let root = directory.map_or_else(std::env::temp_dir, PathBuf::from).join("skpr-bench-rsync");
            run(root, arguments.get(1).map(String::as_str));
        }
    }
}
