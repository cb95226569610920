//! Runs from a store with many.

use super::*;
use crate::auth::granted;
use crate::environment::EnvironmentKey;
use crate::event::{Counts, Event, Writer};
use crate::inventory::tests::key;
use crate::run::{self, Outcome};
use crate::store::Options;
use jiff::Timestamp;
use std::path::Path;
use std::sync::LazyLock;
use tokio_util::sync::CancellationToken;

/// Less than a day ago, as events are that are told once and soon.
static BEGIN: LazyLock<i64> = LazyLock::new(|| (Timestamp::now().as_second() / 60 - 1_300) * 60);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn task(name: &str) -> Label {
    Label::parse("task", name).unwrap()
}

fn open(directory: &Path) -> Store {
    let keep_age = std::time::Duration::from_secs(1 << 32);
    Store::open(Options { directory: directory.to_owned(), keep_age, ..Options::default() }).unwrap()
}

fn dev() -> EnvironmentKey {
    key("sites", "web", "dev")
}

/// The two events of each minute's run, of which every hundredth fails; the last has no end.
fn told(minutes: i64) -> Vec<Event> {
    let of = |minute: i64| {
        let due = at(*BEGIN + 60 * minute);
        let began = Run { began: Some(at(*BEGIN + 60 * minute + 1)), ..Run::due(&task("drush"), due) };
        let outcome = if minute % 100 == 0 { Outcome::Failed } else { Outcome::Succeeded };
        let ended =
            Run { ended: Some(at(*BEGIN + 60 * minute + 9)), outcome: Some(outcome), ..began.clone() };
        let runs = if minute + 1 < minutes { vec![began, ended] } else { vec![began] };
        runs.into_iter().map(move |run| run::told(&dev(), &run, due))
    };
    (0..minutes).flat_map(of).collect()
}

async fn tell(store: &Store, events: Vec<Event>) {
    let mut writer = Writer::new(store.clone(), Counts::default()).unwrap();
    for events in events.chunks(1000) {
        writer.keep(events.to_vec(), &CancellationToken::new()).await;
    }
}

fn now(minutes: i64) -> Now {
    Now { time: at(*BEGIN + 60 * minutes + 3600), running: Some(Default::default()) }
}

fn ids(found: &Found) -> Vec<&str> {
    found.runs.iter().map(|run| run.id.as_str()).collect()
}

fn id(minute: i64) -> String {
    RunId::due(&task("drush"), at(*BEGIN + 60 * minute)).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_runs_the_newest_the_failed_and_a_single_one_are_found() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let minutes = 1_200;
    tell(&store, told(minutes)).await;
    for sealed in [false, true] {
        let grant = granted("dana", &dev());
        let read = async |asked: Asked| newest(&store, &grant, asked, now(minutes), vec![]).await.unwrap();
        let newest = read(Asked { last: 3, ..Asked::default() }).await;
        assert_eq!((ids(&newest), newest.more), (vec![&*id(1199), &*id(1198), &*id(1197)], true));
        assert_eq!((newest.runs[0].stage(), newest.runs[1].stage()), ("unknown", "succeeded"));
        let failed = read(Asked { last: 1000, failed: true, ..Asked::default() }).await;
        assert_eq!((failed.runs.len(), failed.more), (13, false));
        assert_eq!((failed.runs[1].id.as_str(), failed.runs[12].id.as_str()), (&*id(1100), &*id(0)));
        let some = read(Asked { last: 5, failed: true, ..Asked::default() }).await;
        assert_eq!((some.runs.as_slice(), some.more), (&failed.runs[..5], true));
        // By when a run began, although it ended later.
        let until = at(*BEGIN + 60 * 1000 + 5).into();
        let range = Asked { last: 2, until: Some(until), ..Asked::default() };
        assert_eq!(ids(&read(range).await), [id(1000), id(999)]);
        let since = at(*BEGIN + 60 * 999).into();
        let range = Asked { last: 10, since: Some(since), until: Some(until), ..Asked::default() };
        let found = read(range).await;
        assert_eq!((ids(&found), found.more), (vec![&*id(1000), &*id(999)], false));
        assert_eq!(found.runs[0].stage(), "failed");
        let other = Asked { task: Some(task("dru")), last: 10, ..Asked::default() };
        assert_eq!(read(other).await, Found::default());

        for (minute, stage) in
            [(1199, Some("unknown")), (100, Some("failed")), (7, Some("succeeded")), (1200, None)]
        {
            let run =
                one(&store, &grant, &RunId::parse(&id(minute)).unwrap(), now(minutes), vec![]).await.unwrap();
            assert_eq!(run.as_ref().map(Run::stage), stage, "{minute}");
        }
        // What the platform knows and the store does not yet.
        let says = Run { began: Some(at(*BEGIN)), ..Run::due(&task("drush"), at(*BEGIN + 60 * 1200)) };
        let running = Now { running: Some([says.id.clone()].into()), ..now(minutes) };
        let run = one(&store, &grant, &says.id, running, vec![says.clone()]).await.unwrap();
        assert_eq!(run, Some(says));
        if !sealed {
            store.seal().await.unwrap();
        }
    }
    store.close().await;
}
