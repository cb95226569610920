//! How a release ended: what is printed of it, and what is an error.
//!
//! Invariants: success is claimed only when every instance that is ready runs that release; of a release that had ended
//! before it was asked for, only what is recorded is said, and nothing of what runs today.

use super::follow::Watched;
use crate::commands::release::{Release, text};
use crate::commands::summary::Instance;
use serde::Serialize;
use skpr_proto::v1::FollowResponse;
use skpr_proto::{EnvironmentName, ErrorKind, Failure, v1};

/// In JSON and YAML: the release, and the instances that it is judged by; none where it had ended before.
#[derive(Serialize)]
pub(super) struct Outcome {
    #[serde(flatten)]
    release: Release,
    wanted: Option<u32>,
    ready: Option<u32>,
    instances: Vec<Instance>,
    /// What the instance that failed said last.
    last_lines: Vec<String>,
}

impl Outcome {
    pub(super) fn new(environment: &EnvironmentName, watched: &Watched) -> Self {
        let FollowResponse { release, instances, wanted, ready, .. } = &watched.last;
        let now = |count: &u32| watched.open_before.then_some(*count);
        Outcome {
            release: Release::new(environment, &release.clone().unwrap_or_default()),
            wanted: now(wanted),
            ready: now(ready),
            instances: instances.iter().filter(|_| watched.open_before).map(Instance::from).collect(),
            last_lines: watched.last_lines.iter().map(message).collect(),
        }
    }
}

fn message(record: &v1::LogRecord) -> String {
    text(String::from_utf8_lossy(&record.message).trim_end_matches('\r'))
}

/// `shop/dev: release 42 (v2) is running on 2 of 2 instances`.
pub(super) fn sentence(environment: &EnvironmentName, watched: &Watched) -> String {
    let answer = &watched.last;
    let Some(release) = &answer.release else { return String::new() };
    let (number, version) = (release.number, text(&release.version));
    if !watched.open_before {
        return format!(
            "{environment}: release {number} ({version}){} succeeded\n",
            by(environment, release)
        );
    }
    format!(
        "{environment}: release {number} ({version}) is running on {} of {} instances\n",
        answer.ready, answer.wanted
    )
}

/// ` by dana, begun 2026-11-22T04:40:00Z and ended 2026-11-22T04:40:30Z,`: who and when, in words that follow its name.
fn by(environment: &EnvironmentName, release: &v1::Release) -> String {
    let Release { by, began, ended, .. } = Release::new(environment, release);
    let by = if by.is_empty() { String::new() } else { format!(" by {by}") };
    let ended = ended.map(|ended| format!(" and ended {ended}")).unwrap_or_default();
    format!("{by}, begun {began}{ended},")
}

/// The last lines of the instance that failed, for the user to read above the error.
pub(super) fn last_lines(records: &[v1::LogRecord]) -> String {
    let Some(last) = records.last() else { return String::new() };
    let mut out = format!("the last lines of `{}`:\n", text(&last.instance));
    for record in records {
        let mark = if record.stream.ends_with("stderr") { '!' } else { '|' };
        out.push_str(&format!("  {} {mark} {}\n", text(&record.instance), message(record)));
    }
    out
}

/// The error that the end of a release is, if it is one.
pub(super) fn judge(environment: &EnvironmentName, watched: &Watched) -> Result<(), Failure> {
    let release = watched.last.release.clone().unwrap_or_default();
    let (number, version) = (release.number, text(&release.version));
    let began = Release::new(environment, &release).began;
    let id = format!("{environment}/{number}");
    let what = match watched.open_before {
        true => format!("release {number} (`{version}`) of `{environment}`"),
        false => format!("release {number} (`{version}`) of `{environment}`{}", by(environment, &release)),
    };
    let follow = format!("skpr deploy --follow {id}");
    match release.state.as_str() {
        "succeeded" => verify(environment, watched),
        "deploying" => Err(Failure::new(
            ErrorKind::TimedOut,
            format!("{what} has not ended yet, and goes on without this command"),
        )
        .with_hint(follow)),
        "superseded" => {
            Err(Failure::new(ErrorKind::DeployFailed, format!("{what} was overtaken by another change"))
                .with_hint(format!("skpr releases {environment}")))
        }
        state => {
            let reason = reason(&release);
            let timed_out = reason.starts_with(skpr_proto::NOT_DONE_AFTER);
            let kind = if timed_out { ErrorKind::TimedOut } else { ErrorKind::DeployFailed };
            let became = match state {
                "rolled-back" => format!("it was rolled back{}", serving(watched, true)),
                "rolling-back" => "the release before is being put back".to_owned(),
                _ => format!("it was left as it is{}", serving(watched, false)),
            };
            let hint = match (&release.instance, state) {
                (Some(instance), _) => {
                    format!("skpr logs {environment} --instance {} --since {began}", text(instance))
                }
                (None, "rolling-back") => follow,
                (None, _) => format!("skpr info {environment}; skpr events {environment} --since {began}"),
            };
            Err(Failure::new(kind, format!("{what} failed: {reason}; {became}")).with_hint(hint))
        }
    }
}

/// Why, with the exit code if the sentence does not have it.
fn reason(release: &v1::Release) -> String {
    let told = release.reason.as_deref().map(text).unwrap_or_default();
    let told = told.trim_end_matches('.').to_owned();
    let told = if told.is_empty() { "the cluster gives no reason".to_owned() } else { told };
    match release.exit_code {
        Some(code) if !told.contains(&format!("exit code {code}")) => format!("{told} (exit code {code})"),
        _ => told,
    }
}

/// What goes on serving, in words that follow a sentence.
fn serving(watched: &Watched, all: bool) -> String {
    if !watched.open_before {
        return String::new();
    }
    let number = watched.last.release.as_ref().map_or(0, |release| release.number);
    let mut versions: Vec<String> = watched
        .last
        .instances
        .iter()
        .filter(|instance| instance.ready && !instance.leaving && (all || instance.release != Some(number)))
        .map(|instance| format!("`{}`", text(&instance.version)))
        .collect();
    versions.sort();
    versions.dedup();
    match versions.as_slice() {
        [] => String::new(),
        versions => format!(", and {} serves", versions.join(" and ")),
    }
}

/// Does every ready instance run it?
fn verify(environment: &EnvironmentName, watched: &Watched) -> Result<(), Failure> {
    let release = watched.last.release.clone().unwrap_or_default();
    // What somebody else runs beside it belongs to no release.
    let instances = || {
        let all = watched.last.instances.iter();
        all.filter(|instance| instance.ready && !instance.leaving && instance.release.is_some())
    };
    // Of a release that had ended before, or that a newer one has followed, the instances tell nothing.
    let newer = instances().any(|instance| instance.release.is_some_and(|number| number > release.number));
    if !watched.open_before || newer {
        return Ok(());
    }
    let other = instances().find(|instance| instance.release != Some(release.number));
    match other {
        Some(instance) => Err(Failure::new(
            ErrorKind::DeployFailed,
            format!(
                "release {} (`{}`) of `{environment}` is done, yet instance `{}` runs `{}`",
                release.number,
                text(&release.version),
                text(&instance.name),
                text(&instance.version)
            ),
        )
        .with_hint(format!("skpr info {environment}"))),
        None if watched.last.wanted > 0 && instances().next().is_none() && watched.last.ready == 0 => {
            Err(Failure::new(
                ErrorKind::DeployFailed,
                format!("release {} of `{environment}` is done, yet no instance is ready", release.number),
            )
            .with_hint(format!("skpr info {environment}")))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(state: &str, instances: &[(&str, u64)]) -> Watched {
        let instances = instances.iter().map(|(version, release)| v1::Instance {
            name: format!("web-{release}"),
            version: (*version).into(),
            release: Some(*release),
            ready: true,
            ..v1::Instance::default()
        });
        Watched {
            last: FollowResponse {
                release: Some(v1::Release {
                    number: 2,
                    version: "v2".into(),
                    state: state.into(),
                    ..v1::Release::default()
                }),
                instances: instances.collect(),
                wanted: 1,
                ready: 1,
                ..FollowResponse::default()
            },
            last_lines: Vec::new(),
            open_before: true,
        }
    }

    #[track_caller]
    fn check(watched: &Watched, expected: Result<(), (ErrorKind, &str)>) {
        let environment = EnvironmentName::parse("shop", "dev").unwrap();
        let outcome = judge(&environment, watched);
        let outcome = outcome.as_ref().map_err(|failure| (failure.kind, failure.message.as_str()));
        assert_eq!(outcome.copied(), expected);
    }

    #[test]
    fn an_exit_code_is_said_though_its_digit_stands_in_a_name() {
        let reason = |told: &str| {
            let reason = Some(told.to_owned());
            super::reason(&v1::Release { reason, exit_code: Some(1), ..v1::Release::default() })
        };
        assert_eq!(reason("instance `shop-dev-r1-0` ended"), "instance `shop-dev-r1-0` ended (exit code 1)");
        assert_eq!(reason("it ended with exit code 1."), "it ended with exit code 1");
    }

    #[test]
    fn success_needs_every_ready_instance_to_run_it() {
        check(&watched("succeeded", &[("v2", 2)]), Ok(()));
        check(
            &watched("succeeded", &[("v2", 2), ("v1", 1)]),
            Err((
                ErrorKind::DeployFailed,
                "release 2 (`v2`) of `shop/dev` is done, yet instance `web-1` runs `v1`",
            )),
        );
        check(&watched("succeeded", &[("v3", 3)]), Ok(()));
        check(&Watched { open_before: false, ..watched("succeeded", &[("v1", 1)]) }, Ok(()));
        let mut none = watched("succeeded", &[]);
        none.last.ready = 0;
        check(
            &none,
            Err((ErrorKind::DeployFailed, "release 2 of `shop/dev` is done, yet no instance is ready")),
        );
    }

    #[test]
    fn every_end_has_its_words_and_its_code() {
        use ErrorKind::{DeployFailed, TimedOut};
        let failed = "release 2 (`v2`) of `shop/dev` failed: the cluster gives no reason";
        for (state, kind, became) in [
            ("rolled-back", DeployFailed, "; it was rolled back, and `v1` serves"),
            ("rolling-back", DeployFailed, "; the release before is being put back"),
            ("failed", DeployFailed, "; it was left as it is, and `v1` serves"),
        ] {
            check(&watched(state, &[("v1", 1)]), Err((kind, &format!("{failed}{became}"))));
        }
        let mut late = watched("failed", &[]);
        late.last.release.as_mut().unwrap().reason =
            Some("it is not done after 600 s: 0 of 1 instances are ready.".into());
        let failed =
            "release 2 (`v2`) of `shop/dev` failed: it is not done after 600 s: 0 of 1 instances are ready";
        check(&late, Err((TimedOut, &format!("{failed}; it was left as it is"))));
        let unfinished = "release 2 (`v2`) of `shop/dev` has not ended yet, and goes on without this command";
        check(&watched("deploying", &[]), Err((TimedOut, unfinished)));
        let overtaken = "release 2 (`v2`) of `shop/dev` was overtaken by another change";
        check(&watched("superseded", &[]), Err((DeployFailed, overtaken)));
    }
}
