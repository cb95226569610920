//! What an environment's object asks for next, by what stands in it. Pure.
//!
//! | the newest release  | the spec says                  | next                                         |
//! |---------------------|--------------------------------|----------------------------------------------|
//! | any                 | a newer release is asked for   | begin it                                     |
//! | none                | —                              | begin 1, by whoever wrote the spec           |
//! | rolling back        | what failed                    | write the good release's into the spec       |
//! | rolling back        | what is put back               | go on                                        |
//! | gone back from      | what failed, as it was left    | write the good release's into the spec       |
//! | any other           | what is to run                 | go on                                        |
//! | any                 | something else that runs       | begin one, by whoever wrote it               |
//!
//! Each is one write, and after it the table is asked again: a crash between two writes loses nothing.

use super::resource::EnvironmentSpec;
use crate::release::{self, Deploy, Release, State, TIMEOUT};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use serde_json::Value;
use skpr_proto::manifest;

/// Field managers that are skpr.
const OURS: &str = "skpr-";

#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// With the time it was asked for, where that is known.
    Begin(u64, Box<Deploy>, Option<Timestamp>),
    PutBack(Box<EnvironmentSpec>),
    /// Nothing is to be begun.
    Rest,
}

/// Who wrote the spec last, other than skpr, and whether that was after it was last acted on.
pub(super) struct Written<'a> {
    pub(super) manager: &'a str,
    pub(super) is_news: bool,
}

/// The next step for an environment.
pub(super) fn next(spec: &EnvironmentSpec, releases: &[Release], written: &Written<'_>) -> Step {
    if let Some((number, deploy, began)) = spec.asked(releases) {
        return Step::Begin(number, Box::new(deploy), Some(began));
    }
    let edit = || {
        let deploy = Deploy {
            version: spec.version.clone(),
            image: spec.image.clone(),
            settings: spec.settings.clone(),
            by: written.manager.to_owned(),
            timeout: TIMEOUT,
            returns: false,
            restores: None,
        };
        Step::Begin(spec.next_number(releases), Box::new(deploy), None)
    };
    let (Some(newest), Some(current)) = (releases.last(), release::current(releases)) else {
        return edit();
    };
    if newest.state == State::RollingBack {
        let back = spec.put_back(newest, current);
        if *spec != back && runs_as(spec, newest) {
            return Step::PutBack(Box::new(back));
        }
    }
    if runs_as(spec, current) {
        return Step::Rest;
    }
    // Putting back could not be written when it was its time. Only who writes what failed once more asks for it.
    let gone_back = newest.number != current.number && newest.put_back_since.is_some();
    if gone_back && !written.is_news && runs_as(spec, newest) {
        return Step::PutBack(Box::new(spec.put_back(newest, current)));
    }
    edit()
}

/// Whether instances made from the spec would be the release's.
fn runs_as(spec: &EnvironmentSpec, release: &Release) -> bool {
    // Each field that instances do not run is named, so that a new one is not forgotten.
    let manifest::Environment {
        production: _,
        instances: _,
        domains: _,
        cron: _,
        cpu,
        memory,
        env,
        volumes,
        command,
        port,
        health,
    } = &spec.settings;
    let other = &release.settings;
    spec.version == release.version
        && spec.image == release.image
        && *cpu == other.cpu
        && *memory == other.memory
        && *env == other.env
        && *volumes == other.volumes
        && *command == other.command
        && *port == other.port
        && *health == other.health
}

/// Who wrote the spec last, other than skpr: `kubectl-edit`, `argocd-controller`.
pub(super) fn last_manager(fields: &[ManagedFieldsEntry]) -> String {
    let writes_spec = |entry: &&ManagedFieldsEntry| {
        let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
        entry.subresource.as_deref().unwrap_or_default().is_empty()
            && fields.and_then(|fields| fields.get("f:spec")).is_some_and(Value::is_object)
    };
    let others = fields.iter().filter(writes_spec).filter_map(|entry| {
        let name = entry.manager.as_deref().filter(|name| !name.starts_with(OURS))?;
        Some((entry.time.as_ref().map(|time| time.0), name))
    });
    others.max().map_or_else(|| "unknown".to_owned(), |(_, name)| super::facts::short(name).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::kubernetes::resource::Aside;
    use serde_json::json;

    const BY: Written<'_> = Written { manager: "kubectl", is_news: true };

    fn spec(change: Value) -> EnvironmentSpec {
        let mut spec = json!({"project": "shop", "environment": "dev", "image": "shop", "version": "v1",
            "instances": {"min": 1, "max": 1}, "port": 80});
        for (key, value) in change.as_object().unwrap() {
            spec[key] = value.clone();
        }
        serde_json::from_value(spec).unwrap()
    }

    fn releases(all: &[(&str, State)]) -> Vec<Release> {
        let mut releases = vec![];
        for (number, (version, state)) in (1..).zip(all) {
            let asked = spec(json!({"version": version,
                "release": {"number": number, "by": "ann", "began": "2026-11-24T00:00:00Z", "timeoutSeconds": 60, "returns": true}}));
            let (number, deploy, began) = asked.asked(&releases).unwrap();
            release::begin(&mut releases, number, deploy, began);
            releases.last_mut().unwrap().state = *state;
        }
        releases
    }

    #[track_caller]
    fn check(spec: &EnvironmentSpec, all: &[(&str, State)], expected: &str) {
        let said = match next(spec, &releases(all), &BY) {
            Step::Begin(number, deploy, _) => format!("begin {number} {} by {}", deploy.version, deploy.by),
            Step::PutBack(back) => format!("put back {}", back.version),
            Step::Rest => "rest".to_owned(),
        };
        assert_eq!(said, expected);
    }

    #[test]
    fn what_stands_in_the_object_says_what_is_next() {
        let v1 = spec(json!({}));
        let v2 = spec(json!({"version": "v2"}));
        let asked = |number: u64| {
            spec(json!({"version": "v2",
                "release": {"number": number, "by": "ann", "began": "2026-11-24T00:00:00Z", "timeoutSeconds": 60, "returns": true}}))
        };
        check(&v1, &[], "begin 1 v1 by kubectl");
        check(&asked(1), &[], "begin 1 v2 by ann");
        check(&v1, &[("v1", State::Succeeded)], "rest");
        check(&asked(2), &[("v1", State::Succeeded)], "begin 2 v2 by ann");
        // An edit of the version after a deploy leaves the number that was asked for.
        check(&asked(1), &[("v1", State::Succeeded)], "begin 2 v2 by kubectl");
        check(&v2, &[("v1", State::Deploying)], "begin 2 v2 by kubectl");
        check(&v2, &[("v1", State::Failed)], "begin 2 v2 by kubectl");
        let failed = [("v1", State::Succeeded), ("v2", State::RollingBack)];
        check(&asked(2), &failed, "put back v1");
        check(&v1, &failed, "rest");
        check(&spec(json!({"version": "v3"})), &failed, "begin 3 v3 by kubectl");
        let back = [("v1", State::Succeeded), ("v2", State::RolledBack)];
        check(&v1, &back, "rest");
        check(&v2, &back, "begin 3 v2 by kubectl");
    }

    #[test]
    fn what_failed_and_could_not_be_put_back_is_not_begun_again() {
        let v2 = spec(json!({"version": "v2"}));
        let read = Written { manager: "kubectl", is_news: false };
        for state in [State::RolledBack, State::Failed] {
            let mut all = releases(&[("v1", State::Succeeded), ("v2", state)]);
            all[1].put_back_since = Some(Timestamp::UNIX_EPOCH);
            let Step::PutBack(back) = next(&v2, &all, &read) else { panic!("{state:?}") };
            assert_eq!(back.version, "v1");
            assert_eq!(next(&back, &all, &read), Step::Rest);
            // Whoever writes it again wants it.
            assert!(matches!(next(&v2, &all, &BY), Step::Begin(3, ..)));
            assert!(matches!(next(&spec(json!({"version": "v3"})), &all, &read), Step::Begin(3, ..)));
        }
    }

    #[test]
    fn the_number_of_instances_is_no_release_but_goes_back_with_one() {
        let more =
            json!({"instances": {"min": 2, "max": 4}, "domains": ["a.example.com"], "production": true});
        check(&spec(more.clone()), &[("v1", State::Succeeded)], "rest");
        let mut failed = releases(&[("v1", State::Succeeded), ("v1", State::RollingBack)]);
        failed[1].settings = spec(more.clone()).settings;
        assert!(matches!(next(&spec(more), &failed, &BY), Step::PutBack(_)));
        assert_eq!(next(&spec(json!({})), &failed, &BY), Step::Rest);
        for change in [json!({"port": 81}), json!({"env": {"A": "b"}}), json!({"image": "other"})] {
            check(&spec(change), &[("v1", State::Succeeded)], "begin 2 v1 by kubectl");
        }
    }

    #[test]
    fn what_was_scaled_comes_back_with_the_release_before() {
        let count = |count: u32| json!({"instances": {"min": count, "max": count}});
        let scaled = spec(count(3));
        let asked = |number: u64, before: &EnvironmentSpec, releases: &[Release]| {
            let mut asked = spec(json!({"version": "v2", "release": {"number": number, "by": "ann",
                "began": "2026-11-24T00:00:00Z", "timeoutSeconds": 60, "returns": true}}));
            asked.release.as_mut().unwrap().before = Some(before.aside(releases));
            asked
        };
        let failed = releases(&[("v1", State::Succeeded), ("v2", State::RollingBack)]);
        let spec = asked(2, &scaled, &failed[..1]);
        let Step::PutBack(back) = next(&spec, &failed, &BY) else { panic!("it goes on") };
        assert_eq!((back.version.as_str(), back.bounds()), ("v1", (3, 3)));
        assert_eq!(next(&back, &failed, &BY), Step::Rest);
        // A failure that is left keeps what was before it, for the next one.
        let left = releases(&[("v1", State::Succeeded), ("v2", State::Failed)]);
        let third = asked(3, &spec, &left);
        let failed = releases(&[("v1", State::Succeeded), ("v2", State::Failed), ("v2", State::RollingBack)]);
        let Step::PutBack(back) = next(&third, &failed, &BY) else { panic!("it goes on") };
        assert_eq!(back.bounds(), (3, 3));
        // What another release asked for is not this one's.
        let edited = releases(&[("v1", State::Succeeded), ("v2", State::Succeeded), ("v2", State::Failed)]);
        assert_eq!(spec.aside(&edited), Aside::of(&spec.settings));
    }

    #[test]
    fn the_manager_is_who_wrote_the_spec_last() {
        let entry = |manager: &str, second: u32, subresource: &str, field: &str| {
            json!({"manager": manager, "operation": "Update", "subresource": subresource, "fieldsType": "FieldsV1",
                "time": format!("2026-11-24T00:00:{second:02}Z"), "fieldsV1": {field: {}}})
        };
        let manager = |entries: Value| last_manager(&serde_json::from_value::<Vec<_>>(entries).unwrap());
        let entries = json!([
            entry("kubectl-create", 1, "", "f:spec"),
            entry("kubectl-edit", 5, "", "f:spec"),
            entry("skpr-deploy", 7, "", "f:spec"),
            entry("flux", 8, "status", "f:spec"),
            entry("annotator", 9, "", "f:metadata")
        ]);
        assert_eq!(manager(entries), "kubectl-edit");
        assert_eq!(manager(json!([])), "unknown");
    }
}
