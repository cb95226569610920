//! Recordings, from what a terminal shows to what a reader finds.

use super::queue::PER_RECORDING;
use super::*;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

fn dial(project: &str, environment: &str, instance: &str, session: &str) -> v1::Dial {
    v1::Dial {
        project: project.into(),
        environment: environment.into(),
        instance: instance.into(),
        session: session.into(),
        ..v1::Dial::default()
    }
}

fn subject(session: &str) -> Subject {
    Subject::of(&dial("shop", "dev", "shop-dev-1", session)).unwrap()
}

fn terminal() -> Terminal {
    Terminal { kind: "xterm".into(), size: Size::of(80, 24), modes: vec![] }
}

fn settings(directory: &Path, max_bytes: u64) -> Settings {
    Settings { directory: directory.join("recordings"), max_bytes }
}

/// A recorder whose writer has still to run.
fn recorder(directory: &TempDir, max_bytes: u64) -> (Recorder, Writer) {
    Recorder::with(Shelf::open(settings(directory.path(), max_bytes)).unwrap())
}

/// The files of all recordings, oldest first.
fn files(directory: &TempDir) -> Vec<PathBuf> {
    let folder = directory.path().join("recordings/shop/dev");
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// The header and the events of a recording, read by nothing of ours.
fn read(path: &Path) -> (Value, Vec<(f64, String, String)>) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.ends_with('\n'));
    let mut lines = text.lines();
    let header: Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    let events: Vec<(f64, String, String)> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(events.is_sorted_by(|one, other| one.0 <= other.0), "{events:?}");
    (header, events)
}

fn shown(events: &[(f64, String, String)], code: &str) -> String {
    events.iter().filter(|(_, kind, _)| kind == code).map(|(_, _, text)| text.as_str()).collect()
}

#[test]
fn a_recording_has_what_was_shown_and_every_size_and_is_its_owner_s_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (recorder, writer) = recorder(&directory, 64 * MIB);
    let record = recorder.of(subject("5e55"));
    let recording = record.begin(&terminal(), Some("/bin/bash".into()));
    recording.output(b"caf\xc3");
    recording.output(b"\xa9\r\n");
    recording.resize(Size::of(132, 43));
    recording.output(b"\x1b[1mbold\xff\xe2\x82");
    drop(recording);
    drop(record.begin(&terminal(), None));
    recorder.0.stop();
    writer.run();
    let files = files(&directory);
    assert_eq!(files.len(), 2);
    let second = files.iter().position(|file| file.display().to_string().ends_with("-5e55-2.cast")).unwrap();
    let first = &*files[1 - second];
    let (header, events) = read(first);
    assert_eq!(
        (&header["version"], &header["width"], &header["height"]),
        (&2.into(), &80.into(), &24.into())
    );
    assert_eq!(header["title"], "shop/dev shop-dev-1");
    assert_eq!(header["env"], serde_json::json!({"TERM": "xterm", "SHELL": "/bin/bash"}));
    let age = Timestamp::now().as_second() - header["timestamp"].as_i64().unwrap();
    assert!((0..60).contains(&age), "{header}");
    assert_eq!(shown(&events, "o"), "café\r\n\u{1b}[1mbold\u{fffd}\u{fffd}");
    assert_eq!(shown(&events, "r"), "132x43");
    assert!(events.iter().all(|(_, kind, _)| kind == "o" || kind == "r"));
    let name = first.file_name().unwrap().to_str().unwrap();
    assert!(name.ends_with("Z-shop-dev-1-5e55.cast") && name.starts_with("20"), "{name}");
    for (path, mode) in [(first, 0o600), (first.parent().unwrap(), 0o700)] {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, mode, "{}", path.display());
    }
}

#[test]
fn only_names_that_can_be_names_of_files_are_recorded_under() {
    assert!(Subject::of(&dial("shop", "dev", "shop-dev-1.a", "5e55")).is_some());
    let long = "a".repeat(254);
    for (project, environment, instance, session) in [
        ("", "dev", "i", "s"),
        ("..", "dev", "i", "s"),
        ("shop", "a/b", "i", "s"),
        ("shop", "dev", "", "s"),
        ("shop", "dev", "../i", "s"),
        ("shop", "dev", ".i", "s"),
        ("shop", "dev", &long, "s"),
        ("shop", "dev", "i", ""),
        ("shop", "dev", "i", "/"),
        ("shop", "dev", "i", "s\n"),
        ("shop", "dev", "i", &long),
    ] {
        assert_eq!(
            Subject::of(&dial(project, environment, instance, session)),
            None,
            "{instance:?} {session:?}"
        );
    }
    let directory = tempfile::tempdir().unwrap();
    let (recorder, writer) = recorder(&directory, MIB);
    let longest = Subject::of(&dial("shop", "dev", &long[1..], &long[..LONGEST_SESSION])).unwrap();
    drop(recorder.of(longest).begin(&terminal(), None));
    recorder.0.stop();
    writer.run();
    assert_eq!(files(&directory).len(), 1);
}

/// A disk that takes nothing is, to a session, a writer that does not come.
#[test]
fn what_a_blocked_disk_does_not_take_is_missing_and_nobody_waits() {
    let directory = tempfile::tempdir().unwrap();
    let (recorder, writer) = recorder(&directory, 64 * MIB);
    let recording = recorder.of(subject("5e55")).begin(&terminal(), None);
    let other = recorder.of(subject("5e56")).begin(&terminal(), None);
    let begun = Instant::now();
    let piece = [b'x'; 1024];
    for _ in 0..64 * 1024 {
        recording.output(&piece);
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    recording.resize(Size::of(100, 30));
    // One that pours takes nothing of another's place.
    other.output(b"here");
    let writing = std::thread::spawn(|| writer.run());
    let deadline = Instant::now() + Duration::from_secs(20);
    while files(&directory).len() < 2
        || files(&directory).iter().any(|file| file.metadata().unwrap().len() < 100)
    {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(300));
    recording.output(b"the end");
    drop((recording, other));
    recorder.0.stop();
    writing.join().unwrap();
    let (_, events) = read(&files(&directory)[0]);
    let text = shown(&events, "o");
    let kept = text.len() as u64 - 7;
    assert!(text.ends_with("xthe end") && kept < PER_RECORDING && kept > PER_RECORDING / 2, "{kept}");
    assert_eq!(shown(&events, "m"), format!("{} bytes are missing here", 64 * MIB - kept));
    assert_eq!(shown(&events, "r"), "100x30");
    let codes: Vec<&str> = events.iter().rev().take(3).map(|(_, code, _)| code.as_str()).collect();
    assert_eq!(codes, ["o", "r", "m"]);
    assert_eq!(shown(&read(&files(&directory)[1]).1, "o"), "here");
}

#[test]
fn what_a_disk_refuses_is_counted_and_marked_when_it_takes_something_again() {
    let directory = tempfile::tempdir().unwrap();
    let (recorder, writer) = recorder(&directory, 64 * MIB);
    // Where the project's directory is to be, something else is.
    let in_the_way = directory.path().join("recordings/shop");
    fs::write(&in_the_way, "").unwrap();
    let recording = recorder.of(subject("5e55")).begin(&terminal(), None);
    recording.output(b"lost, with half a character \xe2\x82");
    let writing = std::thread::spawn(|| writer.run());
    std::thread::sleep(Duration::from_millis(800));
    fs::remove_file(&in_the_way).unwrap();
    recording.output(b"kept");
    drop(recording);
    recorder.0.stop();
    writing.join().unwrap();
    let (_, events) = read(&files(&directory)[0]);
    assert_eq!(shown(&events, "m"), "30 bytes are missing here");
    assert_eq!(shown(&events, "o"), "kept");
    assert_eq!(events[0].1, "m");
}

#[test]
fn the_newest_stay_and_what_is_no_recording_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let old = directory.path().join("recordings/shop/old");
    fs::create_dir_all(&old).unwrap();
    for (name, bytes) in
        [("20200101T000000.000Z-a.cast", 40_000), ("20210101T000000.000Z-b.cast", 40_000), ("notes", 90_000)]
    {
        fs::write(old.join(name), vec![b'x'; bytes]).unwrap();
    }
    let outside = directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("20190101T000000.000Z-c.cast"), vec![b'x'; 90_000]).unwrap();
    symlink(&outside, directory.path().join("recordings/shop/link")).unwrap();
    let (recorder, writer) = recorder(&directory, 100_000);
    let recording = recorder.of(subject("5e55")).begin(&terminal(), None);
    recording.output(&[b'y'; 30_000]);
    // Two of these are too much even alone, and neither goes: both are being written.
    let another = recorder.of(subject("5e56")).begin(&terminal(), None);
    another.output(&[b'z'; 80_000]);
    let writing = std::thread::spawn(|| writer.run());
    std::thread::sleep(Duration::from_millis(800));
    drop((recording, another));
    recorder.0.stop();
    writing.join().unwrap();
    assert!(old.join("notes").exists() && outside.join("20190101T000000.000Z-c.cast").exists());
    assert!(!old.join("20200101T000000.000Z-a.cast").exists());
    let files = files(&directory);
    assert_eq!(shown(&read(&files[0]).1, "o").len(), 30_000);
    let (_, events) = read(&files[1]);
    assert_eq!(shown(&events, "o"), "");
    assert!(files[1].metadata().unwrap().len() < 1000);
}

#[tokio::test]
async fn a_reader_is_no_second_behind_and_a_stop_writes_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let (recorder, writing) = Recorder::start(settings(directory.path(), MIB)).unwrap();
    let recording = recorder.of(subject("5e55")).begin(&terminal(), None);
    recording.output(b"one");
    let deadline = Instant::now() + Duration::from_secs(10);
    let begun = Instant::now();
    while files(&directory).first().is_none_or(|file| shown(&read(file).1, "o") != "one") {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    recording.output(b" two");
    drop(recording);
    writing.finish(Duration::from_secs(10)).await;
    assert_eq!(shown(&read(&files(&directory)[0]).1, "o"), "one two");
    assert!(Recorder::start(settings(Path::new("/proc/version"), MIB)).is_err());
}
