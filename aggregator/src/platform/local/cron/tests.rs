//! Tasks from when they are due to what is told of them: real processes, and a clock that stands until it is set.

mod fixture;

use super::super::git::tests::commit;
use super::super::{CONTAINER, NAMESPACE};
use super::*;
use crate::inventory::Inventory;
use crate::platform::Delete;
use crate::run::{Outcome, Trigger};
use fixture::{BEGIN, Fixture, PATIENCE, at, eventually, label, name};
use skpr_proto::Source;
use std::fs;
use std::time::Duration;
use tokio::time::timeout;

fn stages(told: &[Run]) -> Vec<(&str, &str)> {
    told.iter().map(|run| (run.task.as_str(), run.stage())).collect()
}

#[tokio::test]
async fn each_end_is_told_for_what_it_is_and_output_is_kept_under_the_task() {
    let fixture = Fixture::new(&[
        (
            "says",
            "command: 'echo $SKPR_TASK $SKPR_RUN $SKPR_INSTANCE $GREETING ${PORT-none}; ls -d $SKPR_VOLUME_FILES'",
        ),
        ("three", "command: 'echo oops >&2; exit 3'"),
        ("missing", "command: no-such-program"),
        ("killed", "command: 'kill -SEGV $$'"),
        ("slow", "command: 'trap \"\" HUP; sleep 100', timeout: 1s"),
        ("quick", "command: 'true'"),
        ("loud", "command: seq 100000"),
    ]);
    let mut up = fixture.ready().await;
    fixture.clock.set(at(60));
    let says = up.ended("says", 1).await;
    let id = format!("says-{}", (BEGIN + 60) / 60);
    assert_eq!((says.outcome, says.exit_code, says.id.as_str()), (Some(Outcome::Succeeded), Some(0), &*id));
    assert_eq!((says.began, says.ended, &*says.version), (Some(at(60)), Some(at(60)), "unversioned"));
    let volume = fixture.data().join("volumes/shop/dev/files");
    let expected = format!("stdout F says {id} shop-dev--{id} hello none\nstdout F {}\n", volume.display());
    assert_eq!(fixture.printed(&says), expected);
    for (task, outcome, code) in [
        ("three", Outcome::Failed, Some(3)),
        ("missing", Outcome::Failed, Some(127)),
        ("killed", Outcome::Failed, Some(139)),
        ("slow", Outcome::TimedOut, Some(143)),
        ("quick", Outcome::Succeeded, Some(0)),
        ("loud", Outcome::Succeeded, Some(0)),
    ] {
        let run = up.ended(task, 1).await;
        assert_eq!((run.outcome, run.exit_code), (Some(outcome), code), "{task}");
    }
    let three = up.ended("three", 1).await;
    assert_eq!(fixture.printed(&three), "stderr F oops\n");
    let loud = fixture.printed(&up.ended("loud", 1).await);
    assert!(
        loud.lines().eq((1..=100_000).map(|number| format!("stdout F {number}"))),
        "{} lines",
        loud.lines().count()
    );

    // A run is no instance, and what it wrote stays claimed.
    let inventory = up.inventory.borrow().clone();
    let instances: Vec<_> =
        inventory.environments[&up.key()].instances.keys().map(ToString::to_string).collect();
    assert_eq!(instances, ["shop-dev-r1-0"]);
    let (uid, pod) = inventory.pods.iter().find(|(_, pod)| pod.task == Some(label("three"))).unwrap();
    let source = Source::parse(NAMESPACE, &pod.instance, uid.as_str(), CONTAINER).unwrap();
    assert_eq!(&*inventory.claim(&source).unwrap().stream_prefix, "cron.three.");
    let told = up.stop().await;
    let of_three: Vec<_> = told.iter().filter(|run| run.task == label("three")).map(Run::stage).collect();
    assert_eq!(of_three, ["running", "failed"]);
}

#[tokio::test]
async fn while_the_first_release_is_being_started_that_is_said_and_what_is_due_is_missed() {
    let fixture = Fixture::new(&[("quick", "command: 'true'")]);
    let mut up = fixture.start();
    up.until(|managed| managed.tasks.contains_key(&label("quick"))).await;
    fixture.clock.set(at(60));
    let run = up.ended("quick", 1).await;
    let reason = "the first release was still being started";
    assert_eq!((run.outcome, run.reason.as_deref()), (Some(Outcome::Missed), Some(reason)));
    let failure = up.run("quick", &[]).await.unwrap_err();
    assert_eq!(failure.message, "the first release of `shop/dev` is still being started");
    assert_eq!(
        (failure.kind, failure.hint.as_deref()),
        (ErrorKind::Unavailable, Some("try again in a moment"))
    );
    assert_eq!(stages(&up.stop().await), [("quick", "missed")]);
}

#[tokio::test]
async fn a_user_runs_it_with_arguments_and_one_at_a_time() {
    let fixture = Fixture::new(&[
        ("args", "command: 'printf \"<%s>\" one'"),
        ("wait", "command: 'cat gate; exit 5'"),
        ("again", "command: 'cat gate', overlap: replace"),
    ]);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        fixture.site().join("gate"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    let mut up = fixture.ready().await;
    let run = up.run("args", &["a b", "$HOME", ""]).await.unwrap();
    assert_eq!((&run.trigger, run.due), (&Trigger::User("ann".into()), None));
    let ended = up.last("args", |last| last.id == run.id).await;
    assert_eq!(
        (ended.outcome, fixture.printed(&ended)),
        (Some(Outcome::Succeeded), "stdout F <one><a b><$HOME><>\n".into())
    );

    let holder = up.run("wait", &[]).await.unwrap();
    let failure = up.run("wait", &[]).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Locked);
    assert!(failure.message.contains(&format!("ann has been running `{}` since", holder.id)), "{failure}");
    assert_eq!(up.run("none", &[]).await.unwrap_err().kind, ErrorKind::NotFound);
    let first = up.run("again", &[]).await.unwrap();
    up.until(|managed| managed.tasks[&label("again")].running.len() == 1).await;

    fixture.clock.set(at(60));
    let skipped = up.ended("wait", 1).await;
    let reason = format!("run `{}` still ran", holder.id);
    assert_eq!((skipped.outcome, skipped.reason), (Some(Outcome::Skipped), Some(reason)));
    let second = up.running("again", 1).await;
    let replaced = up.last("again", |last| last.id == first.id).await;
    let reason = format!("run `{}` took its place", second.id);
    assert_eq!((replaced.outcome, replaced.reason), (Some(Outcome::Replaced), Some(reason)));

    // What runs is ended by a stop, and that is known.
    let told = up.stop().await;
    let last = |id| told.iter().rfind(|run| run.id == id).unwrap();
    for id in [holder.id, second.id] {
        let last = last(id);
        assert_eq!(
            (last.outcome, last.reason.as_deref()),
            (Some(Outcome::Failed), Some("skpr was stopped while it ran"))
        );
    }
    let up = fixture.start();
    let told = up.stop().await;
    assert!(told.iter().all(|run| run.outcome.is_some()), "told once more, and nothing begun: {told:?}");
}

#[tokio::test]
async fn a_kill_and_a_clock_that_is_set_neither_lose_nor_repeat_a_run() {
    let fixture = Fixture::new(&[("long", "command: 'echo begun; exec sleep 1000', overlap: allow")]);
    let mut up = fixture.ready().await;
    fixture.clock.set(at(60));
    let first = up.running("long", 1).await;
    fixture.says(&first, "stdout F begun\n").await;
    assert_eq!(stages(&up.kill().await), [("long", "running")]);

    // Three minutes away: the newest is run as it is in time.
    fixture.clock.set(at(60 * 4 + 20));
    let mut up = fixture.start();
    let fourth = up.running("long", 4).await;
    fixture.says(&fourth, "stdout F begun\n").await;
    assert_eq!(up.managed().tasks[&label("long")].running.len(), 1);
    // Set back, it does nothing, and forward again nothing that was there.
    fixture.clock.set(at(0));
    up.until(|managed| managed.trouble.is_some()).await;
    fixture.clock.set(at(60 * 5));
    up.running("long", 5).await;
    fixture.clock.set(at(60 * 1000));
    up.running("long", 1000).await;
    let told = up.kill().await;
    let of = |minute: i64| {
        let due = Some(at(60 * minute));
        told.iter().filter(|run| run.due == due).map(Run::stage).collect::<Vec<_>>()
    };
    assert_eq!(
        (of(1), of(2), of(3), of(4), of(5)),
        (vec!["unknown"], vec!["missed"], vec!["missed"], vec!["running"], vec!["running"])
    );
    let unknown = told.iter().find(|run| run.id == first.id).unwrap();
    assert_eq!(unknown.reason.as_deref(), Some("the aggregator ended while it ran, and it ended with it"));
    // 6 to 900 are one, the newest hundred are named.
    let missed = (6..1000).filter(|minute| of(*minute) == ["missed"]).count();
    assert_eq!((missed, of(900), of(901)), (100, vec!["missed"], vec!["missed"]));
}

#[tokio::test]
async fn a_clock_that_is_set_back_is_told_once_and_shown_until_it_has_caught_up() {
    let fixture = Fixture::new(&[("quick", "command: 'true'")]);
    let mut up = fixture.ready().await;
    fixture.clock.set(at(60 * 5));
    up.ended("quick", 5).await;
    let why = |managed: &crate::inventory::Managed| managed.tasks[&label("quick")].trouble.clone();
    for second in [0, 1, 2] {
        fixture.clock.set(at(second));
        let behind = up.until(|managed| why(managed).is_some()).await;
        assert!(
            behind.trouble.as_deref().unwrap().starts_with("its tasks do not run: the clock was set back")
        );
    }
    fixture.clock.set(at(60 * 5));
    let again = up.until(|managed| managed.trouble.is_none()).await;
    assert_eq!(why(&again), None);
    let told = up.troubles();
    assert!(told.len() == 1 && told[0].contains("nothing runs before the clock shows"), "{told:?}");
    up.stop().await;
}

#[tokio::test]
async fn suspended_it_stays_over_a_restart_and_a_deploy_until_it_is_resumed() {
    let fixture = Fixture::new(&[("quick", "command: 'cat version'")]);
    let release = |version: &str| {
        fs::write(fixture.site().join("version"), version).unwrap();
        commit(&fixture.site(), version);
    };
    release("v1");
    let mut up = fixture.ready().await;
    let suspended = up.suspend(None, true).await;
    assert_eq!(suspended.changed, [label("quick")]);
    assert_eq!(up.suspend(Some("quick"), true).await.unchanged, [label("quick")]);
    let state = up.until(|managed| managed.tasks[&label("quick")].suspended.is_some()).await;
    assert_eq!(state.tasks[&label("quick")].suspended.as_ref().unwrap().by, "bob");
    up.stop().await;
    let mut up = fixture.start();
    fixture.clock.set(at(60));
    let run = up.ended("quick", 1).await;
    assert_eq!(
        (run.outcome, run.reason.as_deref()),
        (Some(Outcome::Suspended), Some("it was suspended by bob"))
    );
    release("v2");
    up.deploy("v2", |_| ()).await;
    assert!(up.managed().tasks[&label("quick")].suspended.is_some());
    fixture.clock.set(at(120));
    assert_eq!(up.ended("quick", 2).await.outcome, Some(Outcome::Suspended));
    up.suspend(Some("quick"), false).await;
    fixture.clock.set(at(180));
    let run = up.ended("quick", 3).await;
    assert_eq!((run.outcome, &*run.version), (Some(Outcome::Succeeded), "v2"));
    assert_eq!(fixture.printed(&run), "stdout F v2\n");
    up.stop().await;
}

#[tokio::test]
async fn a_run_keeps_the_files_of_its_release_and_a_task_that_goes_leaves_it() {
    let fixture = Fixture::new(&[("long", "command: 'read line <gate; cat version; exit 4'")]);
    let release = |version: &str| {
        fs::write(fixture.site().join("version"), version).unwrap();
        commit(&fixture.site(), version);
    };
    release("v1");
    let mut up = fixture.ready().await;
    let first = up.managed().releases[0].digest.clone().unwrap();
    let place = fixture.data().join(format!("releases/shop.dev/1-{first}"));
    let gate = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, place.join("gate"), gate, 0o600.into(), 0).unwrap();
    fixture.clock.set(at(60));
    let run = up.running("long", 1).await;
    for number in 2..8 {
        let version = format!("v{number}");
        release(&version);
        // The task is in none of them.
        up.deploy(&version, |deploy| deploy.settings.cron = None).await;
    }
    let managed = up.managed();
    assert_eq!(managed.tasks[&label("long")].running, std::slice::from_ref(&run));
    assert!(place.join("version").exists(), "the files that it runs in were removed");
    let gate = place.join("gate");
    tokio::task::spawn_blocking(move || fs::write(gate, "go\n").unwrap()).await.unwrap();
    up.until(|managed| managed.tasks.is_empty()).await;
    assert_eq!(fixture.printed(&run), "stdout F v1\n");
    eventually(|| !place.exists()).await;
    let told = up.stop().await;
    assert_eq!((told.last().unwrap().exit_code, &*told.last().unwrap().version), (Some(4), "v1"));
}

#[tokio::test]
async fn an_environment_that_is_deleted_ends_its_runs() {
    let fixture = Fixture::new(&[("long", "command: sleep 1000")]);
    let mut up = fixture.ready().await;
    let run = up.run("long", &[]).await.unwrap();
    let file = fixture.data().join("environments/shop.dev.cron");
    assert!(fs::read_to_string(&file).unwrap().contains(run.id.as_str()), "it was not written down");
    let how = Delete { dry_run: false, volumes: false, force: false, by: "ann".into() };
    up.local.delete_it(&name(), how).await.unwrap();
    let gone = |inventory: &Arc<Inventory>| inventory.environments.is_empty();
    timeout(PATIENCE, up.inventory.wait_for(gone)).await.unwrap().unwrap();
    assert!(!file.exists());
    let told = up.stop().await;
    let last = told.last().unwrap();
    assert_eq!(
        (last.outcome, last.reason.as_deref()),
        (Some(Outcome::Failed), Some("its environment was deleted"))
    );
}

#[tokio::test]
async fn what_the_queue_has_no_place_for_is_told_when_it_has() {
    let fixture = Fixture::new(&[("quick", "command: 'true'")]);
    let mut up = fixture.ready().await;
    let other = run::told(&up.key(), &Run::due(&label("other"), at(0)), at(0));
    while up.tell.try_send(other.clone()).is_ok() {}
    fixture.clock.set(at(60));
    let ended = up.ended("quick", 1).await;
    let mut told = Vec::new();
    let telling = async {
        while !told.contains(&ended) {
            told.extend(up.told().into_iter().filter(|run| run.task == label("quick")));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, telling).await.unwrap();
    assert_eq!(stages(&told), [("quick", "running"), ("quick", "succeeded")]);
    up.stop().await;
}

#[tokio::test]
async fn what_cannot_be_written_down_is_not_begun_and_what_cannot_be_read_is_left_alone() {
    let fixture = Fixture::new(&[("quick", "command: 'true'")]);
    let mut up = fixture.ready().await;
    let file = fixture.data().join("environments/shop.dev.cron");
    let blocked = file.with_extension("cron.new");
    fs::create_dir(&blocked).unwrap();
    fixture.clock.set(at(60));
    let told = "its tasks do not run: what becomes of tasks cannot be written down: ";
    up.until(|managed| managed.trouble.as_deref().is_some_and(|why| why.starts_with(told))).await;
    let why = |up: &fixture::Up| up.managed().tasks[&label("quick")].trouble.clone().unwrap();
    assert!(why(&up).starts_with("what becomes of tasks cannot be written down"), "{}", why(&up));
    assert_eq!(up.run("quick", &[]).await.unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(fs::read_dir(fixture.data().join("pods")).unwrap().count(), 1, "something was started");
    fs::remove_dir(&blocked).unwrap();
    assert_eq!(up.ended("quick", 1).await.outcome, Some(Outcome::Succeeded));
    up.until(|managed| managed.trouble.is_none()).await;
    up.stop().await;

    fs::write(&file, "nonsense").unwrap();
    let mut up = fixture.start();
    let told = format!("its tasks do not run: {UNREADABLE}");
    up.until(|managed| managed.trouble.as_ref() == Some(&told)).await;
    assert_eq!(why(&up), UNREADABLE);
    let failure = up.run("quick", &[]).await.unwrap_err();
    assert!(failure.message.contains("cannot be read"), "{failure}");
    assert!(failure.hint.unwrap().contains("suspensions"));
    fixture.clock.set(at(120));
    up.stop().await;
    assert_eq!(fs::read_to_string(&file).unwrap(), "nonsense");
}
