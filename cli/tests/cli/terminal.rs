//! What only happens on a terminal: questions, and lines that are replaced in place.

use crate::Home;
use crate::environments::{deploying, script};
use crate::fake::{Fake, Script, Tasks};
use crate::release::{answer, instance, project, scripted, succeeded};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use skpr_proto::{ErrorKind, Failure};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

/// Runs with stdin and stderr on a terminal; each answer is typed when its question has been shown.
fn on_terminal(command: &mut Command, answers: &[(&str, &str)]) -> (Option<i32>, String) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let side = || File::options().read(true).write(true).open(&name).unwrap();
    let mut child = command.stdin(side()).stderr(side()).stdout(Stdio::null()).spawn().unwrap();
    // Ours would keep the terminal open after the end of the program.
    command.stdin(Stdio::null()).stderr(Stdio::null());
    let mut master = File::from(master);
    let mut shown = Vec::new();
    let mut answers = answers.iter();
    let mut next = answers.next();
    let mut buffer = [0; 4096];
    // The end of a terminal is an error on Linux.
    while let Ok(read @ 1..) = master.read(&mut buffer) {
        shown.extend_from_slice(&buffer[..read]);
        if let Some((question, typed)) = next
            && String::from_utf8_lossy(&shown).contains(question)
        {
            master.write_all(format!("{typed}\n").as_bytes()).unwrap();
            next = answers.next();
        }
    }
    (child.wait().unwrap().code(), String::from_utf8_lossy(&shown).replace("\r\n", "\n"))
}

#[test]
fn a_production_environment_is_deleted_only_by_its_name() {
    let question = "Type `prod` to delete it: ";
    for (typed, code) in [("prod", Some(0)), ("y", Some(1)), ("", Some(1)), ("shop/prod", Some(1))] {
        let (home, fake) = (Home::new(), Fake::scripted(script()));
        let (exit, shown) = on_terminal(&mut home.with(&fake, &["delete", "prod"]), &[(question, typed)]);
        assert_eq!(exit, code, "{shown}");
        assert!(shown.contains("stays  volume `files` (5Gi)\n"), "{shown}");
        assert_eq!(shown.contains("nothing was deleted"), code != Some(0), "{shown}");
        assert_eq!(fake.script().calls.contains(&"delete shop/prod".to_owned()), code == Some(0));
    }
}

#[test]
fn a_deploy_is_ended_only_by_somebody_who_was_told_of_it() {
    let question = "Type `prod` to delete it: ";
    let (home, fake) = (Home::new(), Fake::scripted(deploying()));
    let (exit, shown) = on_terminal(&mut home.with(&fake, &["delete", "prod"]), &[(question, "prod")]);
    assert_eq!(exit, Some(0), "{shown}");
    assert!(shown.contains("ends   release `shop/prod/5` (`v5`) is being deployed by dana"), "{shown}");
    assert!(fake.script().calls.contains(&"delete! shop/prod".to_owned()));
    // One that began while the question was read.
    let fake = Fake::scripted(script());
    let locked = Failure::new(ErrorKind::Locked, "`shop/prod` is locked: dana has been deploying `v5`");
    fake.script().refusals.insert("delete", [locked].into());
    let (exit, shown) = on_terminal(&mut home.with(&fake, &["delete", "prod"]), &[(question, "prod")]);
    assert_eq!(exit, Some(8), "{shown}");
    assert!(shown.contains("skpr delete shop/prod -y ends it with the environment"), "{shown}");
    assert!(fake.script().calls.contains(&"delete shop/prod".to_owned()));
}

#[test]
fn all_tasks_of_production_are_suspended_only_by_its_name() {
    let question = "shop/prod is production. Type `prod` to suspend all its tasks: ";
    for (typed, code) in [("prod", Some(0)), ("y", Some(1))] {
        let suspended = vec![("drush".to_owned(), false)];
        let cron = Tasks { suspended, production: true, ..Tasks::default() };
        let (home, fake) = (Home::new(), Fake::scripted(Script { cron, ..Script::default() }));
        let (exit, shown) =
            on_terminal(&mut home.with(&fake, &["cron", "suspend", "prod"]), &[(question, typed)]);
        assert_eq!(exit, code, "{shown}");
        assert!(shown.starts_with("suspending drush of shop/prod\n"), "{shown}");
        assert_eq!(fake.script().cron.suspended, [("drush".to_owned(), code == Some(0))]);
    }
}

#[test]
fn another_environment_is_deleted_with_a_yes_and_none_is_asked_about_with_y() {
    let mut script = script();
    script.described.summary.as_mut().unwrap().production = false;
    let (home, fake) =
        (Home::new(), Fake::scripted(Script { described: script.described, ..Script::default() }));
    let delete =
        |arguments: &[&str], answers: &[(&str, &str)]| on_terminal(&mut home.with(&fake, arguments), answers);
    assert_eq!(delete(&["delete", "dev"], &[("Delete shop/dev? [y/N] ", "n")]).0, Some(1));
    assert_eq!(delete(&["delete", "dev"], &[("Delete shop/dev? [y/N] ", "y")]).0, Some(0));
    let (exit, shown) = delete(&["delete", "dev", "-y"], &[]);
    assert_eq!((exit, shown.as_str()), (Some(0), ""));
}

#[test]
fn a_deploy_is_drawn_in_place_and_leaves_nothing_behind() {
    let fake = scripted(vec![
        answer("deploying", &[instance("old-a", 41, true), instance("web-a", 42, false)]),
        succeeded(),
    ]);
    let home = project();
    let (exit, shown) = on_terminal(home.with(&fake, &["deploy", "dev", "v42"]).env("TERM", "xterm"), &[]);
    assert_eq!(exit, Some(0), "{shown}");
    assert!(
        shown.contains("shop/dev/42 (0s): 1 of 2 new instances are ready; v41 serves; `web-b` waits"),
        "{shown}"
    );
    assert!(shown.contains("\n  web-a  v42  starting\n  old-a  v41  ready\n\u{1b}[3A\r\u{1b}[J"), "{shown}");
    assert!(shown.ends_with("\u{1b}[J"), "{shown:?}");
    let (_, plain) = on_terminal(
        home.with(&scripted(vec![succeeded()]), &["deploy", "dev", "v42"]).env("TERM", "dumb"),
        &[],
    );
    assert!(!plain.contains('\u{1b}') && plain.contains("web-a (v42): ready\n"), "{plain}");
}
