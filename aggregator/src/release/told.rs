//! What is told of a release, as an event of its environment. Pure.

use super::{Release, State};
use crate::environment::EnvironmentKey;
use crate::event::{Body, Event, Kind};
use jiff::Timestamp;

/// The event of a release being in the state that it is in. It is the same event however often it is told, and another
/// one for a release of the same number in an environment that was deleted and made again.
pub fn told(environment: &EnvironmentKey, release: &Release, now: Timestamp) -> Event {
    let Release { number, version, .. } = release;
    let reason = release.reason.as_deref().map_or(String::new(), |reason| format!(": {reason}"));
    let (text, warning) = match (release.state, release.restores) {
        (State::Deploying, Some(restores)) => {
            (format!("release {number} began: rollback to version `{version}` of release {restores}"), false)
        }
        (State::Deploying, None) => (format!("release {number} began: version `{version}`"), false),
        (State::Succeeded, _) => {
            (format!("release {number} succeeded: every instance runs version `{version}`"), false)
        }
        (State::Failed, _) => (format!("release {number} with version `{version}` failed{reason}"), true),
        (State::RollingBack, _) => {
            (format!("release {number} with version `{version}` failed and is rolled back{reason}"), true)
        }
        // Why has been told when it began to be put back.
        (State::RolledBack, _) => {
            (format!("release {number} with version `{version}` was rolled back"), true)
        }
        (State::Superseded, _) => {
            (format!("release {number} with version `{version}` was superseded"), false)
        }
    };
    let time = match release.state {
        State::Deploying => release.began,
        State::RollingBack => release.put_back_since.unwrap_or(now),
        State::Succeeded | State::Failed | State::RolledBack | State::Superseded => {
            release.ended.unwrap_or(now)
        }
    };
    let id = format!("release/{number}/{}/{}", release.state.name(), release.began.as_second());
    let body = Body {
        instance: release.instance.clone(),
        release: Some(*number),
        state: Some(release.state),
        by: Some(release.by.clone()),
        warning,
        ..Body::new(id, Kind::Deploy, text)
    };
    Event { environment: environment.clone(), time: time.into(), body }
}

#[cfg(test)]
mod tests {
    use super::super::judge::tests::{at, release};
    use super::*;
    use crate::inventory::tests::key;

    #[track_caller]
    fn check(change: impl FnOnce(&mut Release), id: &str, text: &str) {
        let mut release = release(7);
        change(&mut release);
        let event = told(&key("local", "shop", "dev"), &release, at(9));
        assert_eq!((event.body.id.as_str(), event.body.text.as_str()), (id, text));
        assert_eq!((event.body.release, event.body.by.as_deref()), (Some(7), Some("ann")));
    }

    #[test]
    fn each_state_is_an_event_of_its_own() {
        check(|_| (), "release/7/deploying/1800000000", "release 7 began: version `y`");
        check(
            |release| release.restores = Some(5),
            "release/7/deploying/1800000000",
            "release 7 began: rollback to version `y` of release 5",
        );
        check(
            |release| (release.state, release.ended) = (State::Succeeded, Some(at(5))),
            "release/7/succeeded/1800000000",
            "release 7 succeeded: every instance runs version `y`",
        );
        check(
            |release| (release.state, release.reason) = (State::RollingBack, Some("it ended".into())),
            "release/7/rolling-back/1800000000",
            "release 7 with version `y` failed and is rolled back: it ended",
        );
        check(
            |release| (release.state, release.reason) = (State::RolledBack, Some("it ended".into())),
            "release/7/rolled-back/1800000000",
            "release 7 with version `y` was rolled back",
        );
    }
}
