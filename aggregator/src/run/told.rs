//! What is told of a run, as an event of its environment. Pure.

use super::{Outcome, Run, Trigger};
use crate::environment::EnvironmentKey;
use crate::event::{Body, Event, Kind};
use jiff::{SignedDuration, Timestamp};

/// The event of a run being at the stage that it is at. It is the same event however often it is told.
pub fn told(environment: &EnvironmentKey, run: &Run, now: Timestamp) -> Event {
    let (id, task) = (&run.id, &run.task);
    let because = run.reason.as_deref().map_or(String::new(), |reason| format!(": {reason}"));
    let took = match (run.began, run.ended) {
        (Some(began), Some(ended)) => format!(" after {}", span(ended.duration_since(began))),
        _ => String::new(),
    };
    let text = match (run.outcome, run.exit_code) {
        (None, _) => format!("run `{id}` of task `{task}` began"),
        (Some(Outcome::Succeeded), _) => format!("run `{id}` of task `{task}` succeeded{took}"),
        (Some(Outcome::Failed), Some(code @ 129..=192)) => {
            format!("run `{id}` of task `{task}` was ended by signal {}{took}{because}", code - 128)
        }
        (Some(Outcome::Failed), Some(code)) => {
            format!("run `{id}` of task `{task}` failed with exit code {code}{took}{because}")
        }
        (Some(Outcome::Failed), None) => format!("run `{id}` of task `{task}` failed{took}{because}"),
        (Some(Outcome::TimedOut), _) => {
            format!("run `{id}` of task `{task}` was ended{took}, because it may take no longer{because}")
        }
        (Some(Outcome::OutOfMemory), _) => {
            format!("run `{id}` of task `{task}` was killed{took}, because it used more memory than it may")
        }
        (Some(Outcome::Replaced), _) => {
            format!("run `{id}` of task `{task}` was ended{took}, because the next was due")
        }
        (Some(Outcome::Missed | Outcome::Suspended), _) => {
            format!("run `{id}` of task `{task}` was missed{because}")
        }
        (Some(Outcome::Skipped), _) => format!("run `{id}` of task `{task}` was skipped{because}"),
        (Some(Outcome::Unknown), _) => {
            format!("how run `{id}` of task `{task}` ended is not known{because}")
        }
    };
    let time = match run.outcome {
        None => run.began,
        Some(_) => run.ended,
    };
    let body = Body {
        instance: run.instance.clone(),
        run: Some(Box::new(run.clone())),
        by: match &run.trigger {
            Trigger::Schedule => None,
            Trigger::User(name) => Some(name.clone()),
        },
        warning: run.outcome.is_some_and(Outcome::is_failure),
        ..Body::new(format!("run/{id}/{}", run.stage()), Kind::Run, text)
    };
    Event { environment: environment.clone(), time: time.or(run.due).unwrap_or(now).into(), body }
}

/// `0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`.
fn span(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    match seconds {
        0..10 => format!("{}.{} s", seconds, duration.subsec_millis().max(0) / 100),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{RunId, RunNow};
    use super::*;
    use crate::inventory::tests::key;
    use skpr_proto::{Label, UnixNanos};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Run), id: &str, text: &str, warning: bool, second: i64) {
        let task = Label::parse("task", "drush").unwrap();
        let mut run = Run { began: Some(at(602)), ..Run::due(&task, at(600)) };
        change(&mut run);
        let event = told(&key("local", "shop", "dev"), &run, at(9));
        assert_eq!((event.body.id.as_str(), event.body.text.as_str()), (id, text));
        assert_eq!((event.body.warning, event.time), (warning, UnixNanos::from(at(second))));
        assert_eq!(event.body.run.as_deref(), Some(&run));
    }

    #[test]
    fn each_stage_is_an_event_of_its_own() {
        check(|_| (), "run/drush-10/running", "run `drush-10` of task `drush` began", false, 602);
        let ended = |outcome, code: Option<i32>| {
            move |run: &mut Run| {
                (run.ended, run.outcome, run.exit_code) = (Some(at(605)), Some(outcome), code)
            }
        };
        check(
            ended(Outcome::Succeeded, Some(0)),
            "run/drush-10/succeeded",
            "run `drush-10` of task `drush` succeeded after 3.0 s",
            false,
            605,
        );
        check(
            ended(Outcome::Failed, Some(3)),
            "run/drush-10/failed",
            "run `drush-10` of task `drush` failed with exit code 3 after 3.0 s",
            true,
            605,
        );
        check(
            ended(Outcome::Failed, Some(137)),
            "run/drush-10/failed",
            "run `drush-10` of task `drush` was ended by signal 9 after 3.0 s",
            true,
            605,
        );
        check(
            |run| {
                let task = run.task.clone();
                *run = Run::not_begun(&task, at(600), Outcome::Suspended, "it was suspended by ann".into());
            },
            "run/drush-10/suspended",
            "run `drush-10` of task `drush` was missed: it was suspended by ann",
            false,
            600,
        );
    }

    #[test]
    fn who_asked_for_it_is_told() {
        let task = Label::parse("task", "drush").unwrap();
        let wanted = RunNow { task, arguments: vec![], by: "ann".into() };
        let run = Run { began: Some(at(7)), ..Run::asked(RunId::asked(&wanted.task, 7), &wanted) };
        let event = told(&key("local", "shop", "dev"), &run, at(9));
        assert_eq!((event.body.by.as_deref(), run.due), (Some("ann"), None));
        let spans = [(0, "0.0 s"), (12, "12 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")];
        for (seconds, text) in spans {
            assert_eq!(span(SignedDuration::from_secs(seconds)), text);
        }
    }
}
