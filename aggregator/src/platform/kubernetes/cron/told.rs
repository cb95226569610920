//! What is told of runs: between two rounds, and when their environment is taken away from skpr. Pure.

use super::plan::Telling;
use super::status::TaskStatuses;
use crate::environment::EnvironmentKey;
use crate::event::Event;
use crate::run::{self, Outcome, Run, RunId};
use jiff::Timestamp;
use std::collections::BTreeSet;

/// Which stages of which runs were told of.
pub(in crate::platform::kubernetes) type Told = BTreeSet<(RunId, &'static str)>;

/// The events of what is new since `told`, each with whether nobody can have told it before; and what was told then.
pub(in crate::platform::kubernetes) fn told_runs(
    key: &EnvironmentKey,
    told: &Told,
    telling: &[Telling],
    now: Timestamp,
) -> (Vec<(Event, bool)>, Told) {
    let (mut events, mut after) = (vec![], Told::new());
    for Telling { run, is_news } in telling {
        let begun = run.outcome.filter(|_| run.began.is_some()).map(|_| begun(run));
        for stage in begun.iter().chain([run]) {
            let id = (stage.id.clone(), stage.stage());
            if !told.contains(&id) {
                events.push((run::told(key, stage, now), *is_news));
            }
            after.insert(id);
        }
    }
    (events, after)
}

/// The events of runs that go on when their environment goes. Their Jobs go with it, or run on where nobody looks: how they
/// end is not known.
pub(in crate::platform::kubernetes) fn ended_with(
    key: &EnvironmentKey,
    tasks: &TaskStatuses,
    now: Timestamp,
) -> Vec<Event> {
    let running = tasks.values().flat_map(|status| &status.running).filter(|run| run.began.is_some());
    let end = |run: &Run| {
        let reason = Some("its environment was deleted while it ran".to_owned());
        let ended = run.began.map(|began| now.max(began));
        let run = Run { outcome: Some(Outcome::Unknown), ended, reason, ..run.clone() };
        run::told(key, &run, now)
    };
    running.map(end).collect()
}

/// A run that has ended, as it was when it began.
fn begun(run: &Run) -> Run {
    Run { outcome: None, ended: None, exit_code: None, reason: None, ..run.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::tests::key;
    use skpr_proto::Label;

    #[test]
    fn each_stage_is_told_once_also_of_one_that_is_seen_when_it_has_ended() {
        let (dev, task) = (key("sites", "shop", "dev"), Label::parse("task", "drush").unwrap());
        let at = |second| Timestamp::from_second(second).ok();
        let ended = Run {
            began: at(602),
            ended: at(605),
            outcome: Some(Outcome::Failed),
            exit_code: Some(3),
            ..Run::due(&task, at(600).unwrap())
        };
        let missed = Run::not_begun(&task, at(660).unwrap(), Outcome::Missed, "why".into());
        let telling = |runs: &[&Run]| -> Vec<Telling> {
            runs.iter().map(|run| Telling { run: (*run).clone(), is_news: true }).collect()
        };
        let ids = |told: &Told, telling: &[Telling]| {
            let (events, after) = told_runs(&dev, told, telling, Timestamp::UNIX_EPOCH);
            (events.into_iter().map(|(event, _)| event.body.id).collect::<Vec<_>>(), after)
        };
        let (first, told) = ids(&Told::new(), &telling(&[&begun(&ended)]));
        assert_eq!(first, ["run/drush-10/running"]);
        let (then, told) = ids(&told, &telling(&[&ended, &missed]));
        assert_eq!(then, ["run/drush-10/failed", "run/drush-11/missed"]);
        assert_eq!(ids(&told, &telling(&[&ended, &missed])).0, [""; 0]);
        // After a start all of it is told again, with the same identity.
        let all = ["run/drush-10/running", "run/drush-10/failed", "run/drush-11/missed"];
        assert_eq!(ids(&Told::new(), &telling(&[&ended, &missed])).0, all);
    }
}
