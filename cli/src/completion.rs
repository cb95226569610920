//! What the shell's TAB key gets: commands and flags from the parser, environment names from a short-lived cache.
//!
//! A completion never waits for the network. Names older than a minute are still offered, and a `skpr list` in the
//! background renews them for the next time.

use crate::args;
use crate::credentials::{Directory, replace};
use crate::project::Project;
use crate::settings::Settings;
use clap_complete::engine::{CompletionCandidate, PathCompleter, ValueCompleter as _};
use serde::{Deserialize, Serialize};
use skpr_proto::manifest::Manifest;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const FRESH: Duration = Duration::from_secs(60);
/// A name this old is more likely to mislead than to help.
const USABLE: Duration = Duration::from_secs(24 * 3600);
/// Somebody who has no names at all yet is better served by a short wait; the whole must stay below 50 ms.
const PATIENCE: Duration = Duration::from_millis(30);

/// The names of one cluster's environments that the user may see.
#[derive(Serialize, Deserialize)]
struct Names {
    cluster: String,
    written: u64,
    /// `project/environment`
    names: Vec<String>,
}

/// Answers the shell and ends the program, if it is the shell that asks.
pub(crate) fn answer() {
    clap_complete::CompleteEnv::with_factory(args::command).complete();
}

/// The environments that `current` may become.
pub(crate) fn environments(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else { return Vec::new() };
    let Ok(settings) = Settings::new(args::Global::default()) else { return Vec::new() };
    let Ok(access) = settings.access() else { return Vec::new() };
    let cluster = access.endpoint.to_string();
    let mut known = read(&settings.directory, &cluster);
    if known.as_ref().is_none_or(|(age, _)| *age > FRESH) && renew() && known.is_none() {
        let asked = std::time::Instant::now();
        while known.is_none() && asked.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(3));
            known = read(&settings.directory, &cluster);
        }
    }
    let project = settings.project().ok().flatten();
    let names = known.map(|(_, names)| names).unwrap_or_default();
    candidates(&names, project.as_ref().map(skpr_proto::Label::as_str), current)
        .map(CompletionCandidate::new)
        .collect()
}

/// What either side of a transfer may become: a path of this machine, or an environment with a colon.
pub(crate) fn places(current: &OsStr) -> Vec<CompletionCandidate> {
    let mut all = PathCompleter::any().complete(current);
    // A slash before the colon makes it a path.
    let named = environments(current).into_iter().map(|name| name.get_value().to_owned());
    let named = named.filter(|name| !name.as_encoded_bytes().contains(&b'/'));
    all.extend(named.map(|mut name| {
        name.push(":");
        CompletionCandidate::new(name)
    }));
    all
}

/// The environments of the nearest .skpr.yml that `current` may become: no cluster is asked, and no login is needed.
pub(crate) fn described(current: &OsStr) -> Vec<CompletionCandidate> {
    let (Some(current), Ok(project)) = (current.to_str(), Project::here()) else { return Vec::new() };
    let own = project.manifest.project.as_str();
    let names: Vec<String> =
        project.manifest.environments.keys().map(|environment| format!("{own}/{environment}")).collect();
    candidates(&names, Some(own), current).map(CompletionCandidate::new).collect()
}

/// The tasks of the nearest .skpr.yml that `current` may become, of whichever of its environments.
pub(crate) fn tasks(current: &OsStr) -> Vec<CompletionCandidate> {
    let (Some(current), Ok(project)) = (current.to_str(), Project::here()) else { return Vec::new() };
    let Manifest { defaults, environments, .. } = &project.manifest;
    let settings = std::iter::once(defaults).chain(environments.values());
    let names: BTreeSet<&str> =
        settings.flat_map(|settings| settings.cron.iter().flatten()).map(|(name, _)| name.as_str()).collect();
    names.into_iter().filter(|name| name.starts_with(current)).map(CompletionCandidate::new).collect()
}

/// Within a project its environments go by their short names; every other is spelled out.
fn candidates<'a>(
    names: &'a [String],
    project: Option<&'a str>,
    current: &'a str,
) -> impl Iterator<Item = &'a str> {
    names
        .iter()
        .map(move |name| match (project, name.split_once('/')) {
            (Some(project), Some((of, environment))) if of == project && !current.contains('/') => {
                environment
            }
            _ => name.as_str(),
        })
        .filter(move |name| name.starts_with(current))
}

/// The names last seen, whatever their age up to a day.
pub(crate) fn known(directory: &Directory, cluster: &str) -> Vec<String> {
    read(directory, cluster).map(|(_, names)| names).unwrap_or_default()
}

/// Keeps the names for completion. It is a convenience: that it fails is not worth a word.
pub(crate) fn remember(directory: &Directory, cluster: &str, names: Vec<String>) {
    let names = Names { cluster: cluster.to_owned(), written: now(), names };
    if let Ok(text) = serde_json::to_vec(&names) {
        drop(replace(&directory.names(), &text));
    }
}

fn read(directory: &Directory, cluster: &str) -> Option<(Duration, Vec<String>)> {
    let text = std::fs::read(directory.names()).ok()?;
    let names: Names = serde_json::from_slice(&text).ok()?;
    let age = Duration::from_secs(now().checked_sub(names.written)?);
    (names.cluster == cluster && age <= USABLE).then_some((age, names.names))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// Starts the `skpr list` that renews the cache. It ends by itself: it has a time limit for connecting.
fn renew() -> bool {
    let Ok(program) = std::env::current_exe() else { return false };
    Command::new(program)
        .args(["list", "--quiet", "--output", "name", "--all"])
        .env_remove("COMPLETE")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_within_the_project() {
        let names = ["blog/prod", "shop/dev", "shop/prod"].map(str::to_owned);
        let of = |project, current| candidates(&names, project, current).collect::<Vec<_>>();
        assert_eq!(of(Some("shop"), ""), ["blog/prod", "dev", "prod"]);
        assert_eq!(of(Some("shop"), "p"), ["prod"]);
        assert_eq!(of(Some("shop"), "shop/"), ["shop/dev", "shop/prod"]);
        assert_eq!(of(None, "s"), ["shop/dev", "shop/prod"]);
    }

    #[test]
    fn names_are_kept_by_cluster() {
        let home = tempfile::tempdir().unwrap();
        let directory = Directory::at(home.path().to_owned());
        remember(&directory, "a:443", vec!["shop/dev".into()]);
        assert_eq!(known(&directory, "a:443"), ["shop/dev"]);
        assert!(known(&directory, "b:443").is_empty());
    }
}
