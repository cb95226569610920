//! Runs that are followed and waited for: what is shown until their end, and how this program ends with them.

use super::{answer, because, beginning, due, ended, line, running, serving, told, with_lines};
use crate::fake::{Fake, State, Tasks};
use crate::{Home, run};
use skpr_proto::v1::{Run, RunsResponse};
use skpr_proto::{ErrorKind, Failure};
use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use tokio::sync::Notify;

/// Starts a program, and gives its lines on stdout.
fn start(command: &mut Command) -> (Child, impl Iterator<Item = String> + use<>) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    (child, lines)
}

fn end(mut child: Child) -> (Option<i32>, String) {
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    (child.wait().unwrap().code(), stderr)
}

#[test]
fn following_ends_with_the_run_and_shows_what_came_last() {
    let looks: VecDeque<RunsResponse> = [
        answer(vec![due("drush-7", "waiting")]),
        answer(vec![running("drush-7")]),
        answer(vec![running("drush-7")]),
        answer(vec![Run { output_coming: true, ..ended("drush-7", "failed", Some(3)) }]),
    ]
    .into();
    let fake = serving(Tasks { runs: looks, ..Tasks::default() });
    with_lines(&fake, 25);
    let home = Home::new();
    let (child, mut lines) = start(&mut home.with(&fake, &["cron", "logs", "prod", "drush-7", "-f"]));
    for index in 0..25 {
        assert!(lines.next().unwrap().ends_with(&format!(" | line {index}")));
    }
    // What a process said last comes after the news of its end.
    while fake.script().cron.runs.len() > 1 {
        std::thread::yield_now();
    }
    fake.state.lock().unwrap().records.push(line(25, "stderr", "last words"));
    fake.script().cron.runs = [answer(vec![ended("drush-7", "failed", Some(3))])].into();
    assert!(lines.next().unwrap().ends_with(" ! last words"));
    assert!(lines.next().is_none());
    let (code, stderr) = end(child);
    assert_eq!((code, stderr.as_str()), (Some(0), "run `drush-7` failed with exit code 3 after 12s\n"));
}

#[test]
fn that_a_node_does_not_say_that_all_was_said_is_told() {
    let just_now = Run { output_coming: true, ..ended("drush-7", "succeeded", Some(0)) };
    let fake = told(vec![just_now]);
    with_lines(&fake, 3);
    let shown = run(&mut Home::new().with(&fake, &["cron", "logs", "prod", "drush-7"]), Some(&fake));
    assert_eq!(shown.matches(" | line ").count(), 3, "{shown}");
    assert!(shown.starts_with("exit 0\n"), "{shown}");
    let told = "warning: the node of run `drush-7` is not heard from: its last lines may come later\n";
    assert!(shown.ends_with(told), "{shown}");
}

#[test]
fn following_goes_on_after_a_cut() {
    let gate = Arc::new(Notify::new());
    let fake = Fake::start(State { cuts: [2].into(), gate: Some(Arc::clone(&gate)), ..State::default() });
    with_lines(&fake, 40);
    fake.script().cron.runs = [answer(vec![running("drush-7")])].into();
    let home = Home::new();
    let (child, mut lines) = start(&mut home.with(&fake, &["cron", "logs", "prod", "drush-7", "-f"]));
    for index in 0..40 {
        assert!(lines.next().unwrap().ends_with(&format!(" | line {index}")));
        if index == 19 {
            gate.notify_one();
        }
    }
    fake.script().cron.runs = [answer(vec![ended("drush-7", "succeeded", Some(0))])].into();
    assert!(lines.next().is_none());
    let (code, stderr) = end(child);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.starts_with("connection lost, reconnecting…\nconnected again\n"), "{stderr}");
    assert!(stderr.ends_with("run `drush-7` succeeded after 12s\n"), "{stderr}");
}

#[test]
fn a_run_that_is_waited_for_ends_the_program_as_it_ended() {
    for (outcome, exit_code, expected, said) in [
        ("succeeded", Some(0), 0, "succeeded after 12s"),
        ("failed", Some(3), 3, "failed with exit code 3 after 12s"),
        ("timed-out", Some(143), 7, "timed out after 12s"),
        ("out-of-memory", None, 137, "was killed for memory after 12s"),
        ("replaced", Some(143), 255, "was replaced by the next after 12s"),
        ("unknown", None, 255, "ended in a way that is not known"),
    ] {
        let fake = beginning(vec![running("drush-k2x9vq"), ended("drush-k2x9vq", outcome, exit_code)]);
        let shown =
            run(&mut Home::new().with(&fake, &["cron", "run", "prod", "drush", "--wait"]), Some(&fake));
        assert!(shown.starts_with(&format!("exit {expected}\n")), "{shown}");
        assert!(shown.ends_with(&format!("run `drush-k2x9vq` {said}\n")), "{shown}");
        assert_eq!(shown.matches(" | line ").count(), 3, "{shown}");
    }
    let never = because(
        Run { instance: None, began: None, ..ended("drush-k2x9vq", "failed", None) },
        "no such image",
    );
    let fake = beginning(vec![never]);
    let shown = run(&mut Home::new().with(&fake, &["cron", "run", "prod", "drush", "--wait"]), Some(&fake));
    assert!(shown.starts_with("exit 1\n") && shown.ends_with("failed: no such image\n"), "{shown}");
}

#[test]
fn a_run_whose_output_nobody_reads_is_waited_for_all_the_same() {
    let fake = beginning(vec![running("drush-k2x9vq"), ended("drush-k2x9vq", "failed", Some(3))]);
    let home = Home::new();
    let (child, lines) = start(&mut home.with(&fake, &["cron", "run", "prod", "drush", "--wait"]));
    drop(lines);
    let (code, stderr) = end(child);
    assert_eq!(code, Some(3), "{stderr}");
    assert!(stderr.ends_with("run `drush-k2x9vq` failed with exit code 3 after 12s\n"), "{stderr}");
}

#[test]
fn what_cannot_be_waited_for_to_its_end_is_255() {
    let home = Home::new();
    let wait = ["cron", "run", "prod", "drush", "--wait"];
    // The connection went before it was said whether it has begun.
    let fake = serving(Tasks::default());
    let shown = run(&mut home.with(&fake, &wait), Some(&fake));
    assert!(
        shown.starts_with("exit 255\n") && shown.contains("hint: skpr cron history shop/prod drush shows"),
        "{shown}"
    );
    let shown = run(&mut home.with(&fake, &wait[..4]), Some(&fake));
    assert!(shown.starts_with("exit 1\n"), "{shown}");
    // The right went meanwhile.
    let fake = beginning(vec![running("drush-k2x9vq")]);
    fake.script()
        .refusals
        .insert("one run", [Failure::new(ErrorKind::NotLoggedIn, "the token has expired")].into());
    let shown = run(&mut home.with(&fake, &wait), Some(&fake));
    assert!(shown.starts_with("exit 255\n") && shown.contains("error: the token has expired\n"), "{shown}");
    assert!(shown.ends_with("run `drush-k2x9vq` goes on, as far as is known; skpr cron logs shop/prod drush-k2x9vq -f follows it\n"), "{shown}");
    // Who may not see how it goes has begun nothing.
    let fake = beginning(vec![running("drush-k2x9vq")]);
    let denied = Failure::new(ErrorKind::NotAllowed, "you may not read logs");
    fake.script().refusals.insert("runs", [denied].into());
    let shown = run(&mut home.with(&fake, &wait), Some(&fake));
    assert!(shown.starts_with("exit 4\n") && fake.script().cron.run_requests.is_empty(), "{shown}");
    // What was never begun has the code of every command.
    let fake = serving(Tasks::default());
    fake.script()
        .refusals
        .insert("run", [Failure::new(ErrorKind::NotAllowed, "you may not run tasks")].into());
    assert!(run(&mut home.with(&fake, &wait), Some(&fake)).starts_with("exit 4\n"));
}

#[test]
fn a_wait_that_is_cut_goes_on_and_one_that_is_interrupted_leaves_the_run_alone() {
    let home = Home::new();
    let fake = beginning(vec![running("drush-k2x9vq")]);
    fake.state.lock().unwrap().cuts = [1].into();
    with_lines(&fake, 20);
    let (child, mut lines) = start(&mut home.with(&fake, &["cron", "run", "prod", "drush", "--wait"]));
    for index in 0..20 {
        assert!(lines.next().unwrap().ends_with(&format!(" | line {index}")));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let (code, stderr) = end(child);
    assert_eq!(code, Some(130), "{stderr}");
    assert!(stderr.contains("connection lost, reconnecting…\nconnected again\n"), "{stderr}");
    assert!(
        stderr.ends_with("run `drush-k2x9vq` goes on; skpr cron logs shop/prod drush-k2x9vq -f follows it\n"),
        "{stderr}"
    );
    assert!(lines.next().is_none());
}

#[test]
fn who_interrupts_before_the_answer_is_told_where_to_look() {
    let (home, fake) = (Home::new(), serving(Tasks { silent: true, ..Tasks::default() }));
    let (child, _lines) = start(&mut home.with(&fake, &["cron", "run", "prod", "drush"]));
    while fake.script().cron.run_requests.is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let (code, stderr) = end(child);
    assert_eq!(code, Some(130), "{stderr}");
    assert!(
        stderr.ends_with("whether a run has begun, skpr cron history shop/prod drush shows\n"),
        "{stderr}"
    );
}
