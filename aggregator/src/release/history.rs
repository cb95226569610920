//! The releases of one environment as a state machine: what begins, what goes on, what ends. Pure; each step is one
//! durable write of its caller, and the list alone says which step is next.
//!
//! | newest release                | what runs            | next step                                          |
//! |-------------------------------|----------------------|----------------------------------------------------|
//! | none                          | nothing              | [`begin`]                                          |
//! | deploying                     | it                   | [`verdict`] → [`advance`]: succeeded, failed or rolling back |
//! | rolling back                  | the good one before  | [`verdict`] → [`advance`]: rolled back or failed   |
//! | succeeded, superseded         | it                   | [`begin`]                                          |
//! | failed and left               | it                   | [`begin`]                                          |
//! | failed, not put back in time  | the good one before  | [`begin`]                                          |
//! | rolled back                   | the good one before  | [`begin`]                                          |
//!
//! * [`begin`] may come at any time; a release that is under way then is superseded.
//! * The newest release that succeeded is never forgotten: it is what a failure goes back to.
//! * A release has its time from when its platform took it up, and going back has its own; whoever has only now begun to
//!   look gives either a while more.

use super::judge::{Verdict, judge, over, progress, timeout};
use super::{Deploy, KEPT, READY_WITHIN, Release, State, TIMEOUT};
use crate::inventory::InstanceState;
use jiff::Timestamp;
use skpr_proto::{EnvironmentName, ErrorKind, Failure};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What a platform knows when it looks at a release.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub instances: &'a BTreeMap<Arc<str>, InstanceState>,
    /// Instances that are to run.
    pub target: u32,
    /// Why the platform cannot start them.
    pub trouble: Option<&'a str>,
    /// Since when this process carries the release out: what passed while nobody did is not held against it.
    pub watching_since: Timestamp,
    pub now: Timestamp,
}

impl Request<'_> {
    /// Whether what began at `since` has had its time.
    fn over(&self, since: Timestamp, within: Duration) -> bool {
        over(since, within, self.now) && over(self.watching_since, READY_WITHIN.min(within), self.now)
    }
}

/// The number of the next release.
pub fn next_number(releases: &[Release]) -> u64 {
    releases.iter().map(|release| release.number).max().unwrap_or(0).saturating_add(1)
}

/// The release that is under way.
pub fn open(releases: &[Release]) -> Option<&Release> {
    releases.last().filter(|release| release.state.is_open())
}

/// The failure for whoever comes while a release is under way.
pub fn locked(name: &EnvironmentName, releases: &[Release]) -> Result<(), Failure> {
    let Some(open) = open(releases) else {
        return Ok(());
    };
    let id = format!("{name}/{}", open.number);
    let sentence = format!(
        "`{name}` is locked: {} has been deploying `{}` since {} (release `{id}`, {})",
        open.by.escape_debug(),
        open.version.escape_debug(),
        open.began.strftime("%Y-%m-%d %H:%M:%S UTC"),
        open.state.name(),
    );
    Err(Failure::new(ErrorKind::Locked, sentence).with_hint(format!("skpr deploy --follow {id}")))
}

/// Begins a release with this number. One that is under way is superseded, and the oldest are forgotten.
pub fn begin(releases: &mut Vec<Release>, number: u64, deploy: Deploy, now: Timestamp) {
    for open in releases.iter_mut().filter(|release| release.state.is_open()) {
        open.state = State::Superseded;
        open.ended = Some(now);
        open.reason.get_or_insert_with(|| format!("release {number} came before it had ended"));
    }
    releases.push(Release {
        number,
        version: deploy.version,
        image: deploy.image,
        digest: None,
        by: deploy.by,
        began: now,
        started: None,
        put_back_since: None,
        ended: None,
        state: State::Deploying,
        reason: None,
        instance: None,
        exit_code: None,
        restores: deploy.restores,
        timeout_seconds: u32::try_from(deploy.timeout.as_secs()).unwrap_or(u32::MAX),
        returns: deploy.returns,
        settings: deploy.settings,
    });
    prune(releases);
}

/// Says that the platform has taken up the release that is under way, unless it has been said.
pub fn start(releases: &mut [Release], now: Timestamp) {
    if let Some(newest) = releases.last_mut().filter(|newest| newest.state == State::Deploying) {
        newest.started.get_or_insert(now);
    }
}

/// Leaves the newest [`KEPT`], and the newest good one wherever it is.
fn prune(releases: &mut Vec<Release>) {
    let good = good_before(releases, u64::MAX).map(|release| release.number);
    while releases.len() > KEPT {
        let Some(oldest) = releases.iter().position(|release| Some(release.number) != good) else {
            return;
        };
        releases.remove(oldest);
    }
}

/// The newest release before `number` that succeeded.
pub fn good_before(releases: &[Release], number: u64) -> Option<&Release> {
    releases.iter().rev().find(|release| release.number < number && release.state == State::Succeeded)
}

/// The release whose version and settings are to run.
pub fn current(releases: &[Release]) -> Option<&Release> {
    let newest = releases.last()?;
    match newest.state {
        State::RollingBack | State::RolledBack => good_before(releases, newest.number),
        State::Failed if newest.put_back_since.is_some() => {
            good_before(releases, newest.number).or(Some(newest))
        }
        State::Deploying | State::Succeeded | State::Failed | State::Superseded => Some(newest),
    }
}

/// How the release that is under way goes; none when none is.
pub fn verdict(releases: &[Release], request: Request<'_>) -> Option<Verdict> {
    let Request { instances, target, trouble, now, .. } = request;
    let open = open(releases)?;
    let started = open.started.unwrap_or(open.began);
    if open.state == State::Deploying {
        let is_over = request.over(started, timeout(open));
        return Some(judge(open, instances, target, trouble, is_over, now));
    }
    let Some(good) = good_before(releases, open.number) else {
        let reason = "there is no release to go back to".to_owned();
        return Some(Verdict::Failed { reason, instance: None, exit_code: None });
    };
    Some(match progress(good, instances, target, now) {
        // However little time the deploy was given: what is put back is known to need no more than any release.
        Verdict::Waiting(sentence)
            if request.over(open.put_back_since.unwrap_or(started), timeout(open).max(TIMEOUT)) =>
        {
            Verdict::Failed { reason: sentence, instance: None, exit_code: None }
        }
        Verdict::Waiting(sentence) => {
            Verdict::Waiting(format!("release {} is put back: {sentence}", good.number))
        }
        verdict => verdict,
    })
}

/// Takes the step that the verdict asks for. Whether there was one.
pub fn advance(releases: &mut [Release], verdict: &Verdict, now: Timestamp) -> bool {
    let good = releases.last().and_then(|newest| good_before(releases, newest.number));
    let good = good.map(|good| good.number);
    let Some(open) = releases.last_mut().filter(|release| release.state.is_open()) else {
        return false;
    };
    let putting_back = open.state == State::RollingBack;
    match verdict {
        Verdict::Waiting(_) => return false,
        Verdict::Succeeded { .. } if putting_back => open.state = State::RolledBack,
        Verdict::Succeeded { digest } => {
            open.state = State::Succeeded;
            open.digest.clone_from(digest);
        }
        Verdict::Failed { reason, .. } if putting_back => {
            open.state = State::Failed;
            open.put_back_since.get_or_insert(now);
            let first = open.reason.take().unwrap_or_default();
            let number = good.map_or_else(String::new, |good| format!("release {good} "));
            open.reason = Some(format!("{first}; {number}could not be put back: {reason}"));
        }
        Verdict::Failed { reason, instance, exit_code } => {
            open.reason = Some(reason.clone());
            open.instance.clone_from(instance);
            open.exit_code = *exit_code;
            let returns = open.returns && good.is_some();
            open.state = if returns { State::RollingBack } else { State::Failed };
            open.put_back_since = returns.then_some(now);
        }
    }
    if !open.state.is_open() {
        open.ended = Some(now);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::super::judge::tests::{at, instance, named, release};
    use super::*;

    fn deploy(version: &str) -> Deploy {
        Deploy {
            version: version.into(),
            image: None,
            settings: release(1).settings,
            by: "bob".into(),
            timeout: Duration::from_secs(60),
            returns: true,
            restores: None,
        }
    }

    fn history(states: &[State]) -> Vec<Release> {
        (1..).zip(states).map(|(number, state)| Release { state: *state, ..release(number) }).collect()
    }

    fn failed(reason: &str) -> Verdict {
        Verdict::Failed { reason: reason.into(), instance: Some("a".into()), exit_code: Some(3) }
    }

    fn states(releases: &[Release]) -> Vec<&str> {
        releases.iter().map(|release| release.state.name()).collect()
    }

    #[test]
    fn the_first_release_that_fails_has_nothing_to_go_back_to() {
        let mut releases = vec![];
        assert_eq!(next_number(&releases), 1);
        begin(&mut releases, 1, deploy("v1"), at(0));
        assert_eq!((open(&releases).unwrap().number, current(&releases).unwrap().number), (1, 1));
        assert!(advance(&mut releases, &failed("no"), at(9)));
        assert_eq!((states(&releases), releases[0].ended), (vec!["failed"], Some(at(9))));
        assert_eq!((releases[0].exit_code, releases[0].instance.as_deref()), (Some(3), Some("a")));
        assert!(!advance(&mut releases, &failed("again"), at(10)));
    }

    #[test]
    fn a_failure_goes_back_to_the_newest_good_one() {
        let mut releases = history(&[State::Succeeded, State::Failed, State::Deploying]);
        assert!(!advance(&mut releases, &Verdict::Waiting("x".into()), at(1)));
        assert!(advance(&mut releases, &failed("no"), at(2)));
        assert_eq!(states(&releases), ["succeeded", "failed", "rolling-back"]);
        assert_eq!((current(&releases).unwrap().number, releases[2].ended), (1, None));
        let restored = named(vec![instance(1, |_| ())]);
        let request = Request {
            instances: &restored,
            target: 1,
            trouble: Some("quota"),
            watching_since: at(0),
            now: at(3),
        };
        let verdict = verdict(&releases, request).unwrap();
        assert!(advance(&mut releases, &verdict, at(3)));
        assert_eq!(states(&releases), ["succeeded", "failed", "rolled-back"]);
        assert_eq!((current(&releases).unwrap().number, releases[2].reason.as_deref()), (1, Some("no")));
    }

    #[test]
    fn a_failure_stays_where_going_back_is_not_wanted() {
        let mut releases = history(&[State::Succeeded, State::Deploying]);
        releases[1].returns = false;
        advance(&mut releases, &failed("no"), at(2));
        assert_eq!((states(&releases), current(&releases).unwrap().number), (vec!["succeeded", "failed"], 2));
    }

    /// How the newest of `releases` goes at a second, with no instance there, looked at since another.
    fn bare(releases: &[Release], watching_since: i64, now: i64) -> Verdict {
        let none = BTreeMap::new();
        let (watching_since, now) = (at(watching_since), at(now));
        let request = Request { instances: &none, target: 1, trouble: None, watching_since, now };
        verdict(releases, request).unwrap()
    }

    #[test]
    fn putting_back_has_its_time_too() {
        let mut releases = history(&[State::Succeeded, State::Deploying]);
        releases[1].timeout_seconds = 1;
        advance(&mut releases, &failed("no"), at(5000));
        assert!(matches!(bare(&releases, 0, 5599), Verdict::Waiting(_)));
        let over = bare(&releases, 0, 5600);
        advance(&mut releases, &over, at(5600));
        let reason = "no; release 1 could not be put back: 0 of 1 instances are ready";
        assert_eq!(releases[1].reason.as_deref(), Some(reason));
        assert_eq!(states(&releases), ["succeeded", "failed"]);
        // The broken one is not to run again, whatever is left of the good one.
        assert_eq!(current(&releases).unwrap().number, 1);
        // As a version wrote it that knew no such time.
        let mut releases = history(&[State::Succeeded, State::RollingBack]);
        let over = bare(&releases, 0, 600);
        advance(&mut releases, &over, at(600));
        assert_eq!((states(&releases)[1], current(&releases).unwrap().number), ("failed", 1));
    }

    #[test]
    fn a_release_has_its_time_from_when_it_was_taken_up() {
        let mut releases = history(&[State::Succeeded, State::Deploying]);
        start(&mut releases, at(500));
        start(&mut releases, at(900));
        assert_eq!(releases[1].started, Some(at(500)));
        assert!(matches!(bare(&releases, 0, 1099), Verdict::Waiting(_)));
        assert!(matches!(bare(&releases, 0, 1100), Verdict::Failed { .. }));
    }

    #[test]
    fn time_that_passed_while_nobody_looked_ends_nothing() {
        let mut releases = history(&[State::Succeeded, State::Deploying]);
        let late = 100_000;
        assert!(matches!(bare(&releases, late, late), Verdict::Waiting(_)));
        assert!(matches!(bare(&releases, late, late + 119), Verdict::Waiting(_)));
        let over = bare(&releases, late, late + 120);
        advance(&mut releases, &over, at(late + 120));
        assert_eq!(states(&releases)[1], "rolling-back");
        let later = late * 2;
        assert!(matches!(bare(&releases, later, later + 119), Verdict::Waiting(_)));
        assert!(matches!(bare(&releases, later, later + 120), Verdict::Failed { .. }));
        // A deploy that was given less than that gets what it was given.
        let mut quick = history(&[State::Deploying]);
        quick[0].timeout_seconds = 3;
        assert!(matches!(bare(&quick, late, late + 2), Verdict::Waiting(_)));
        assert!(matches!(bare(&quick, late, late + 3), Verdict::Failed { .. }));
    }

    #[test]
    fn a_change_supersedes_what_is_under_way() {
        let mut releases = history(&[State::Succeeded, State::RollingBack]);
        begin(&mut releases, 3, deploy("v3"), at(5));
        assert_eq!(states(&releases), ["succeeded", "superseded", "deploying"]);
        assert_eq!(releases[1].ended, Some(at(5)));
        assert_eq!(good_before(&releases, 3).unwrap().number, 1);
    }

    #[test]
    fn the_newest_twenty_are_kept_and_the_newest_good_one() {
        let mut releases = history(&[State::Succeeded, State::Succeeded]);
        for number in 3..100 {
            begin(&mut releases, number, deploy("v"), at(0));
            advance(&mut releases, &failed("no"), at(0));
            if releases.last().unwrap().state == State::RollingBack {
                releases.last_mut().unwrap().state = State::RolledBack;
            }
        }
        assert_eq!(releases.len(), KEPT);
        let numbers: Vec<u64> = releases.iter().map(|release| release.number).collect();
        assert_eq!((numbers[0], numbers[1], numbers[19]), (2, 81, 99));
        assert_eq!((next_number(&releases), current(&releases).unwrap().number), (100, 2));
    }

    #[test]
    fn the_lock_names_its_holder() {
        let name = EnvironmentName::parse("shop", "dev").unwrap();
        assert_eq!(locked(&name, &history(&[State::Succeeded, State::RolledBack])), Ok(()));
        let failure = locked(&name, &history(&[State::Succeeded, State::Deploying])).unwrap_err();
        assert_eq!(failure.kind, ErrorKind::Locked);
        assert_eq!(
            failure.message,
            "`shop/dev` is locked: ann has been deploying `y` since 2027-01-15 08:00:00 UTC (release `shop/dev/2`, deploying)"
        );
        assert_eq!(failure.hint.as_deref(), Some("skpr deploy --follow shop/dev/2"));
    }
}
