//! How a release goes, as lines: all of them for a terminal, those that changed for a log.

use crate::commands::release::text;
use crate::time;
use skpr_proto::v1::{FollowResponse, Instance};
use std::collections::{BTreeMap, BTreeSet};

/// How an instance is, in a few words.
fn condition(instance: &Instance) -> String {
    let end = |words: String| match instance.exit_code {
        Some(code) if !words.contains(&format!("exit code {code}")) => format!("{words} (exit code {code})"),
        _ => words,
    };
    match instance {
        Instance { leaving: true, .. } => "leaving".to_owned(),
        Instance { ready: true, .. } => "ready".to_owned(),
        Instance { trouble: Some(trouble), .. } => end(text(trouble)),
        Instance { restarts: 0, .. } => "starting".to_owned(),
        Instance { restarts, .. } => end(format!("starting, restart {restarts}")),
    }
}

fn number(answer: &FollowResponse) -> u64 {
    answer.release.as_ref().map_or(0, |release| release.number)
}

fn ready(answer: &FollowResponse) -> String {
    format!("{} of {} {INSTANCES}", answer.ready, answer.wanted)
}

/// What the cluster's sentences call those that are counted.
const INSTANCES: &str = "instances are ready";

/// While the versions before serve, what is counted are the new instances alone: nobody is to think that all are down.
fn beside_old(sentence: String, answer: &FollowResponse) -> String {
    let own = number(answer);
    let serves = |it: &&Instance| it.ready && !it.leaving && it.release.is_some_and(|number| number != own);
    let serving = answer.instances.iter().filter(serves).map(|it| text(&it.version));
    let serving: Vec<String> = serving.collect::<BTreeSet<_>>().into_iter().collect();
    let serve = match serving.as_slice() {
        [] => return sentence,
        [one] => format!("{one} serves"),
        several => format!("{} serve", several.join(" and ")),
    };
    sentence.replacen(INSTANCES, &format!("new {INSTANCES}; {serve}"), 1)
}

/// What is waited for, or how far it is.
fn headline(answer: &FollowResponse) -> String {
    let release = answer.release.clone().unwrap_or_default();
    let mut line = match (release.state.as_str(), text(&answer.waiting_for)) {
        ("rolling-back", waiting_for) => {
            let reason =
                release.reason.as_deref().map(|reason| format!(": {}", text(reason))).unwrap_or_default();
            let waiting_for = if waiting_for.is_empty() { waiting_for } else { format!("; {waiting_for}") };
            format!("failed{reason}; the release before is being put back{waiting_for}")
        }
        // The cluster's sentence counts, too.
        ("deploying", waiting_for) if !waiting_for.is_empty() => beside_old(waiting_for, answer),
        ("deploying", _) => beside_old(ready(answer), answer),
        _ => ready(answer),
    };
    if answer.stale {
        line.push_str(" (the platform has not been heard from for a while)");
    }
    line
}

/// Everything, for a block that is replaced by the next. `seconds` since this began to be watched.
pub(super) fn block(id: &str, answer: &FollowResponse, seconds: i64) -> Vec<String> {
    let own = number(answer);
    let width =
        answer.instances.iter().map(|instance| text(&instance.name).chars().count()).max().unwrap_or(0);
    let mut instances: Vec<&Instance> = answer.instances.iter().collect();
    // The ones that matter stay in sight when there is no room for all.
    instances.sort_by_key(|instance| (instance.release != Some(own), instance.ready, instance.name.clone()));
    let mut lines = vec![format!("{id} ({}): {}", time::span(seconds), headline(answer))];
    lines.extend(instances.into_iter().map(|instance| {
        format!("  {:width$}  {}  {}", text(&instance.name), text(&instance.version), condition(instance))
    }));
    lines
}

/// What was shown last, off a terminal.
#[derive(Default)]
pub(super) struct Progress {
    instances: BTreeMap<String, String>,
    headline: String,
}

impl Progress {
    /// A line for each thing that is not as it was.
    pub(super) fn changes(&mut self, answer: &FollowResponse) -> Vec<String> {
        let own = number(answer);
        let mut lines = Vec::new();
        let mut known = BTreeMap::new();
        for instance in &answer.instances {
            let name = text(&instance.name);
            let condition = condition(instance);
            let before = self.instances.get(&name);
            // That the old ones still serve is what everybody takes for granted.
            let quiet = before.is_none() && instance.release != Some(own) && instance.ready;
            if !quiet && before != Some(&condition) {
                lines.push(format!("{name} ({}): {condition}", text(&instance.version)));
            }
            known.insert(name, condition);
        }
        let gone = self.instances.keys().filter(|name| !known.contains_key(*name));
        lines.extend(gone.map(|name| format!("{name}: gone")));
        self.instances = known;
        let headline = headline(answer);
        if headline != self.headline {
            lines.push(headline.clone());
            self.headline = headline;
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skpr_proto::v1::Release;

    fn instance(name: &str, release: u64, ready: bool) -> Instance {
        Instance {
            name: name.into(),
            version: format!("v{release}"),
            release: Some(release),
            ready,
            ..Instance::default()
        }
    }

    fn answer(instances: Vec<Instance>, waiting_for: &str) -> FollowResponse {
        FollowResponse {
            release: Some(Release { number: 2, state: "deploying".into(), ..Release::default() }),
            ready: u32::try_from(instances.iter().filter(|it| it.release == Some(2) && it.ready).count())
                .unwrap(),
            instances,
            wanted: 1,
            waiting_for: waiting_for.into(),
            ..FollowResponse::default()
        }
    }

    #[test]
    fn a_log_gets_only_what_changed() {
        let mut progress = Progress::default();
        let (old, new) = (instance("old", 1, true), instance("new", 2, false));
        let first = answer(vec![old.clone(), new.clone()], "0 of 1 instances are ready; `new` waits");
        assert_eq!(
            progress.changes(&first),
            ["new (v2): starting", "0 of 1 new instances are ready; v1 serves; `new` waits"]
        );
        assert!(progress.changes(&first).is_empty());
        let leaving = Instance { leaving: true, ..old };
        let second = answer(vec![leaving, instance("new", 2, true)], "");
        assert_eq!(
            progress.changes(&second),
            ["old (v1): leaving", "new (v2): ready", "1 of 1 instances are ready"]
        );
        assert_eq!(progress.changes(&answer(vec![instance("new", 2, true)], "")), ["old: gone"]);
    }

    #[test]
    fn what_an_instance_suffers_from_is_said_once() {
        let trouble = |text: &str| Instance {
            trouble: Some(text.into()),
            exit_code: Some(3),
            ..instance("new", 2, false)
        };
        assert_eq!(condition(&trouble("CrashLoopBackOff")), "CrashLoopBackOff (exit code 3)");
        assert_eq!(condition(&trouble("ended with exit code 3")), "ended with exit code 3");
        assert_eq!(condition(&trouble("\x1b[2J")), "^[[2J (exit code 3)");
    }

    #[test]
    fn a_terminal_gets_all_of_it_the_new_ones_first() {
        let shown = block(
            "shop/dev/2",
            &answer(vec![instance("a-old", 1, true), instance("b-new", 2, false)], ""),
            5,
        );
        assert_eq!(
            shown,
            [
                "shop/dev/2 (5s): 0 of 1 new instances are ready; v1 serves",
                "  b-new  v2  starting",
                "  a-old  v1  ready"
            ]
        );
    }
}
