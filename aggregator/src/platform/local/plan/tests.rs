//! Steps of deploys, failures, scaling and restarts, each as a small table.

use super::*;

pub(in super::super) fn release(number: u64, settings: Environment) -> Release {
    Release {
        number,
        version: format!("v{number}"),
        image: None,
        digest: None,
        by: "ann".into(),
        began: Timestamp::UNIX_EPOCH,
        started: None,
        put_back_since: None,
        ended: None,
        state: State::Succeeded,
        reason: None,
        instance: None,
        exit_code: None,
        restores: None,
        timeout_seconds: 600,
        returns: true,
        settings,
    }
}

fn settings(count: u32) -> Environment {
    let text = format!(r#"{{"health": "/", "instances": {{"min": {count}, "max": {count}}}}}"#);
    serde_json::from_str(&text).unwrap()
}

fn history(states: &[State]) -> Vec<Release> {
    let numbered = (1..).zip(states);
    numbered.map(|(number, state)| Release { state: *state, ..release(number, settings(2)) }).collect()
}

/// `1.0+` is instance 0 of release 1, ready; `-` is not ready; `x` is ready and leaving.
fn instances(text: &str) -> Vec<Seen> {
    let one = |word: &str| {
        let (name, mark) = word.split_at(word.len() - 1);
        let (release, index) = name.split_once('.').unwrap();
        Seen {
            uid: uid(name),
            release: release.parse().unwrap(),
            index: index.parse().unwrap(),
            ready: mark != "-",
            started: Some(Timestamp::UNIX_EPOCH),
            leaving: mark == "x",
        }
    };
    text.split_whitespace().map(one).collect()
}

/// `1.0` as a UID may be.
fn uid(name: &str) -> PodUid {
    PodUid::parse(&name.replace('.', "-")).unwrap()
}

fn steps(states: &[State], count: u32, there: &str) -> [String; 3] {
    let (releases, settings, instances) = (history(states), settings(count), instances(there));
    let step = step(Look {
        releases: &releases,
        settings: &settings,
        before: None,
        instances: &instances,
        deleting: false,
        now: Timestamp::UNIX_EPOCH,
    });
    let start: Vec<_> = step.start.iter().map(|(release, index)| format!("{release}.{index}")).collect();
    let names =
        |uids: &[PodUid]| uids.iter().map(PodUid::as_str).collect::<Vec<_>>().join(" ").replace('-', ".");
    [start.join(" "), names(&step.end), names(&step.route)]
}

#[track_caller]
fn check(states: &[State], there: &str, start: &str, end: &str, route: &str) {
    assert_eq!(steps(states, 2, there), [start, end, route]);
}

use State::{Deploying, Failed, RolledBack, RollingBack, Succeeded};

#[test]
fn the_first_release_starts_and_serves_as_it_becomes_ready() {
    check(&[], "", "", "", "");
    check(&[Deploying], "", "1.0 1.1", "", "");
    check(&[Deploying], "1.0+ 1.1-", "", "", "1.0");
    check(&[Failed], "1.0-", "1.1", "", "");
}

#[test]
fn a_deploy_switches_when_every_new_instance_is_ready() {
    let states = [Succeeded, Deploying];
    check(&states, "1.0+ 1.1+", "2.0 2.1", "", "1.0 1.1");
    check(&states, "1.0+ 1.1+ 2.0+ 2.1-", "", "", "1.0 1.1");
    check(&states, "1.0+ 1.1+ 2.0+ 2.1+", "", "1.0 1.1", "2.0 2.1");
    check(&states, "1.0x 1.1x 2.0+ 2.1+", "", "", "2.0 2.1");
    // The old ones are gone by themselves: what there is serves, and the old ones come back meanwhile.
    check(&states, "2.0+ 2.1-", "1.0 1.1", "", "2.0");
}

#[test]
fn a_failure_puts_back_what_served_all_the_time() {
    check(&[Succeeded, RollingBack], "1.0+ 1.1+ 2.0- 2.1+", "", "2.0 2.1", "1.0 1.1");
    // Where the good ones have gone, the others serve until one is back.
    check(&[Succeeded, RollingBack], "1.0x 1.1x 2.0+ 2.1-", "1.2 1.3", "2.1", "2.0");
    check(&[Succeeded, RollingBack], "2.0+ 1.2+ 1.3-", "", "2.0", "1.2");
    check(&[Succeeded, RolledBack], "1.0+ 1.1+ 2.0x", "", "", "1.0 1.1");
}

#[test]
fn what_could_not_be_put_back_in_time_goes_on_being_put_back() {
    let mut releases = history(&[Succeeded, Failed]);
    releases[1].put_back_since = Some(Timestamp::UNIX_EPOCH);
    let (settings, instances) = (settings(1), instances("1.0- 2.0+"));
    let look = Look {
        releases: &releases,
        settings: &settings,
        before: None,
        instances: &instances,
        deleting: false,
        now: Timestamp::UNIX_EPOCH,
    };
    let there = step(look);
    assert_eq!((there.start.as_slice(), there.end), ([].as_slice(), vec![]));
    // After a restart it is the good one that is started, and the broken one never is.
    assert_eq!(step(Look { instances: &[], ..look }).start, [(1, 0)]);
}

#[test]
fn a_failure_that_is_left_leaves_the_old_ones_serving_too() {
    check(&[Succeeded, Failed], "1.0+ 1.1+ 2.0- 2.1-", "", "", "1.0 1.1");
    check(&[Succeeded, Failed, Deploying], "1.0+ 1.1+ 2.0- 2.1-", "3.0 3.1", "2.0 2.1", "1.0 1.1");
}

#[test]
fn after_a_crash_what_is_written_goes_on() {
    check(&[Succeeded, Deploying], "", "2.0 2.1 1.0 1.1", "", "");
    check(&[Succeeded, RollingBack], "", "1.0 1.1", "", "");
    check(&[Succeeded, Succeeded], "", "2.0 2.1", "", "");
}

#[test]
fn scaling_starts_the_missing_and_ends_the_last_or_the_sick() {
    assert_eq!(steps(&[Succeeded], 3, "1.0+ 1.2+"), ["1.1", "", "1.0 1.2"]);
    assert_eq!(steps(&[Succeeded], 1, "1.0+ 1.1+"), ["", "1.1", "1.0"]);
    assert_eq!(steps(&[Succeeded], 1, "1.0- 1.1+"), ["", "1.0", "1.1"]);
    // A name is free again only when its bearer is gone.
    assert_eq!(steps(&[Succeeded], 2, "1.0+ 1.1x"), ["1.2", "", "1.0"]);
}

#[test]
fn without_a_health_check_an_instance_has_to_last_before_others_end() {
    let mut releases = history(&[Succeeded, Deploying]);
    releases[1].settings.health = None;
    let (settings, instances) = (settings(1), instances("1.0+ 2.0+"));
    let at = |seconds| {
        step(Look {
            releases: &releases,
            settings: &settings,
            before: Some(&settings),
            instances: &instances,
            deleting: false,
            now: Timestamp::from_second(seconds).unwrap(),
        })
    };
    assert!(at(4).end.is_empty());
    assert_eq!(at(5).end, [uid("1.0")]);
}

#[test]
fn deleting_ends_everything() {
    let (releases, settings, instances) = (history(&[Succeeded]), settings(2), instances("1.0+ 1.1x"));
    let step = step(Look {
        releases: &releases,
        settings: &settings,
        before: None,
        instances: &instances,
        deleting: true,
        now: Timestamp::UNIX_EPOCH,
    });
    assert_eq!(step, Step { end: vec![uid("1.0")], ..Step::default() });
}
