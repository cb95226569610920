//! What is told of an environment's releases, its number of instances and its troubles. Pure.
//!
//! * Told from what stands in the status, so that a restart tells again what was told, with the same identity.

use super::done::Done;
use super::pods::event;
use super::resource::EnvironmentStatus;
use crate::environment::EnvironmentKey;
use crate::event::{Body, Event, Kind};
use crate::release::{self, Release, State};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

/// What has happened between two rounds; `before` is none at the first one.
pub(super) fn told(key: &EnvironmentKey, before: Option<&Done>, after: &Done, now: Timestamp) -> Vec<Event> {
    let known = |release: &Release| {
        let stood = before.map_or(&[][..], |before| before.stood.as_slice());
        stood.iter().find(|(number, _)| *number == release.number).map(|(_, state)| *state)
    };
    let mut events = vec![];
    for release in &after.status.releases {
        let earlier = known(release);
        if earlier.is_none() && release.state != State::Deploying {
            let begun = Release { state: State::Deploying, reason: None, instance: None, ..release.clone() };
            events.push(release::told(key, &begun, now));
        }
        if earlier != Some(release.state) {
            events.push(release::told(key, release, now));
        }
    }
    if let Some(scaled) = &after.scaled
        && before.and_then(|before| before.scaled.as_ref()) != Some(scaled)
    {
        let EnvironmentStatus { min, max, .. } = &after.status;
        let id = format!("scaled/{}/{}", after.uid, scaled.at.as_nanosecond());
        let text = format!("instances were set to {min}–{max}");
        let body = Body { by: Some(scaled.by.clone()), ..Body::new(id, Kind::Scale, text) };
        events.push(event(key, scaled.at, body));
    }
    if let Some(before) = before
        && before.target != after.target
        && let Some((uid, generation)) = &after.deployment
    {
        let text = format!("{} instances are to run, {} before", after.target, before.target);
        let id = format!("scale/{uid}/{generation}");
        events.push(event(key, now, Body::new(id, Kind::Scale, text)));
    }
    let trouble = |done: &Done| done.status.trouble.clone();
    if let Some(text) = trouble(after).filter(|text| before.and_then(trouble).as_ref() != Some(text)) {
        let id = trouble_id(&after.uid, &text, now);
        let body = Body { warning: true, ..Body::new(id, Kind::Trouble, text) };
        events.push(event(key, now, body));
    }
    events
}

/// The same for the same trouble within an hour, in whichever process and build: one that comes back later is told again.
fn trouble_id(uid: &str, text: &str, now: Timestamp) -> String {
    let digest = Sha256::new().chain_update(uid).chain_update([0]).chain_update(text).finalize();
    let short: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("trouble/{short}/{}", now.as_second().div_euclid(3600))
}

/// That an environment was made.
pub(super) fn made(key: &EnvironmentKey, uid: &str, at: Timestamp) -> Event {
    let text = format!("the environment `{}` was made", key.name);
    event(key, at, Body::new(format!("environment/{uid}/made"), Kind::Environment, text))
}

/// That it was deleted, and by whom where that is known.
pub(super) fn deleted(key: &EnvironmentKey, uid: &str, by: Option<&str>, at: Timestamp) -> Event {
    let text = format!("the environment `{}` was deleted", key.name);
    let body = Body::new(format!("environment/{uid}/deleted"), Kind::Environment, text);
    event(key, at, Body { by: by.map(str::to_owned), ..body })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::tests::key;
    use crate::platform::kubernetes::resource::Noted;
    use serde_json::json;

    fn done(states: &[&str], target: u32) -> Done {
        let releases: Vec<Release> = (1..)
            .zip(states)
            .map(|(number, state)| {
                serde_json::from_value(json!({"number": number, "version": "v1", "by": "ann", "state": state,
                    "began": "2026-11-24T00:00:00Z", "timeoutSeconds": 60, "returns": true, "settings": {}}))
                .unwrap()
            })
            .collect();
        let status = EnvironmentStatus { releases, min: 1, max: 3, target, ..EnvironmentStatus::default() };
        Done { uid: "u1".into(), deployment: Some(("d1".into(), 4)), ..Done::of(status) }
    }

    #[track_caller]
    fn check(before: Option<&Done>, after: &Done, expected: &[&str]) {
        let before = before.map(|before| before.clone().told());
        let events = told(&key("a", "shop", "dev"), before.as_ref(), after, Timestamp::UNIX_EPOCH);
        let ids: Vec<String> = events
            .iter()
            .map(|event| event.body.id.split('/').take(3).collect::<Vec<_>>().join("/"))
            .collect();
        assert_eq!(ids, expected);
    }

    #[test]
    fn each_change_is_told_of_and_after_a_start_all_that_is_known() {
        let (one, two) = (done(&["deploying"], 1), done(&["succeeded"], 3));
        check(None, &one, &["release/1/deploying"]);
        check(Some(&one), &one, &[]);
        check(Some(&one), &two, &["release/1/succeeded", "scale/d1/4"]);
        check(None, &two, &["release/1/deploying", "release/1/succeeded"]);
        let mut troubled = two.clone();
        troubled.status.trouble = Some("no".into());
        let before = two.clone().told();
        let told = told(&key("a", "shop", "dev"), Some(&before), &troubled, Timestamp::UNIX_EPOCH);
        assert_eq!((told.len(), told[0].body.text.as_str(), told[0].body.warning), (1, "no", true));
        check(Some(&troubled), &troubled, &[]);
    }

    #[test]
    fn who_scaled_is_told_of_once_however_often_it_is_seen() {
        let before = done(&["succeeded"], 1);
        let scaled = Noted { by: "ann".into(), at: Timestamp::UNIX_EPOCH };
        let after = Done { scaled: Some(scaled), ..before.clone() };
        check(Some(&before), &after, &["scaled/u1/0"]);
        check(Some(&after), &after, &[]);
        // After a start it is the same event, at the same time.
        let later = Timestamp::from_second(99).unwrap();
        let told = told(&key("a", "shop", "dev"), None, &after, later);
        let scaled = told.iter().find(|event| event.body.kind == Kind::Scale).unwrap();
        assert_eq!((scaled.body.by.as_deref(), scaled.time.0), (Some("ann"), 0));
        assert_eq!(scaled.body.text, "instances were set to 1–3");
        let deleted = deleted(&key("a", "shop", "dev"), "u1", Some("ann"), later);
        assert_eq!(deleted.body.by.as_deref(), Some("ann"));
    }

    #[test]
    fn a_trouble_that_comes_back_is_told_again_after_an_hour() {
        let id = |text: &str, second: i64| trouble_id("u1", text, Timestamp::from_second(second).unwrap());
        // Written out: another build must not tell of the same again.
        assert_eq!(id("no", 7205), "trouble/5a535c2377c4374a/2");
        assert_eq!(id("no", 7200), id("no", 10_799));
        assert_ne!(id("no", 7200), id("no", 10_800));
        assert_ne!(id("no", 7200), id("yes", 7200));
    }
}
