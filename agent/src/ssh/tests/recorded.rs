//! Terminals that are recorded.

use super::{Recorder, Server, Subject, text, v1};
use std::time::{Duration, Instant};

fn subject() -> Subject {
    let dial = v1::Dial {
        session: "5e55".into(),
        project: "shop".into(),
        environment: "dev".into(),
        instance: "shop-dev-1".into(),
        ..v1::Dial::default()
    };
    Subject::of(&dial).unwrap()
}

#[test]
fn a_recording_whose_disk_takes_nothing_holds_up_nobody() {
    let server = Server::with(1 << 30, |directory| Some(Recorder::blocked(directory).of(subject())));
    let begun = Instant::now();
    let lines = "yes 0123456789abcdef | head -n 500000; exit 7";
    let done = server.run(&["-tt"], &[lines]);
    assert_eq!(done.status.code(), Some(7));
    assert_eq!(done.stdout.len(), 500_000 * 18);
    assert!(text(&done.stderr).starts_with("skpr: this session is recorded\r\n"), "{}", text(&done.stderr));
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    // Pipes are not recorded, and nobody is told so.
    let plain = server.run(&[], &["echo plain; echo err >&2"]);
    assert_eq!((text(&plain.stdout), text(&plain.stderr)), ("plain\n".into(), "err\n".into()));
}
