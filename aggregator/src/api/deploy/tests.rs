//! Which release a rollback goes back to.

use super::rollback::choose;
use crate::release::{Release, State};
use skpr_proto::{EnvironmentName, ErrorKind};

fn releases(of: &[(&str, State)]) -> Vec<Release> {
    let release = |(index, (version, state)): (usize, &(&str, State))| {
        let json = serde_json::json!({
            "number": index + 1, "version": version, "by": "dana", "began": "2026-01-01T00:00:00Z",
            "state": state.name(), "timeoutSeconds": 600, "returns": true, "settings": {},
        });
        serde_json::from_value(json).unwrap()
    };
    of.iter().enumerate().map(release).collect()
}

#[track_caller]
fn check(of: &[(&str, State)], version: Option<&str>, expected: Result<u64, &str>) {
    let name = EnvironmentName::parse("web", "dev").unwrap();
    let found = choose(&name, &releases(of), version).map(|release| release.number);
    match (found, expected) {
        (Ok(found), Ok(expected)) => assert_eq!(found, expected),
        (Err(failure), Err(part)) => {
            assert_eq!(failure.kind, ErrorKind::NotFound);
            assert!(failure.message.contains(part), "{failure}");
        }
        (found, expected) => panic!("{found:?} instead of {expected:?}"),
    }
}

#[test]
fn a_rollback_goes_to_the_good_release_before_what_runs() {
    use State::{Failed, RolledBack, Succeeded, Superseded};
    check(&[("v1", Succeeded), ("v2", Succeeded)], None, Ok(1));
    check(&[("v1", Succeeded), ("v2", Succeeded), ("v3", Failed)], None, Ok(2));
    // That was put back already, so what runs is the second.
    check(&[("v1", Succeeded), ("v2", Succeeded), ("v3", RolledBack)], None, Ok(1));
    check(&[("v1", Succeeded), ("v2", Superseded), ("v3", Succeeded)], None, Ok(1));
    check(&[("v1", Succeeded), ("v2", Succeeded), ("v1", Succeeded), ("v3", Succeeded)], Some("v1"), Ok(3));
}

#[test]
fn where_there_is_nothing_to_go_back_to_it_is_said_what_there_is() {
    use State::{Failed, Succeeded};
    check(&[], None, Err("none of its releases has succeeded"));
    check(&[("v1", Failed)], None, Err("none of its releases has succeeded"));
    check(&[("v1", Succeeded)], None, Err("the only one that succeeded is `v1` (release 1)"));
    check(
        &[("v1", Succeeded), ("v2", Failed)],
        Some("v2"),
        Err("no release of `web/dev` has succeeded with `v2`"),
    );
    check(&[("v1", Succeeded), ("v2", Succeeded)], Some("v9"), Err("`v2` (release 2), `v1` (release 1)"));
}
