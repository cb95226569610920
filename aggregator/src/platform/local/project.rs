//! What manifests and settings ask of this machine, and every reason why it cannot be had. Pure, but for reading.

use super::cgroup::Limits;
use super::health::Probe;
use skpr_proto::manifest::{Environment, Manifest, ManifestError};
use skpr_proto::{EnvironmentName, ErrorKind, Failure};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// More instances of one environment than this are a mistake on one machine.
const MOST_INSTANCES: u32 = 64;
/// The longest `PROJECT-ENVIRONMENT`, as on Kubernetes.
const LONGEST_NAME: usize = 50;

/// A manifest and where it was found.
#[derive(Clone, Debug)]
pub(super) struct Project {
    pub(super) manifest: Manifest,
    file: PathBuf,
    pub(super) directory: PathBuf,
}

/// How an instance of an environment is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recipe {
    pub(super) command: Vec<OsString>,
    /// All but `PORT`, which each start gets anew, and the volumes, whose place is the machine's.
    pub(super) variables: Vec<(String, String)>,
    pub(super) probe: Probe,
    pub(super) listens: bool,
    pub(super) limits: Limits,
}

impl Project {
    /// Reads a `.skpr.yml`, or the one in a directory.
    pub(super) fn load(path: &Path) -> Result<Project, ManifestError> {
        let file = if path.is_dir() { path.join(skpr_proto::manifest::FILE_NAME) } else { path.to_owned() };
        let manifest = Manifest::load(&file)?;
        let real = file.canonicalize().unwrap_or_else(|_| file.clone());
        let directory = real.parent().unwrap_or(Path::new("/")).to_owned();
        Ok(Project { manifest, file, directory })
    }

    /// Its environments with their settings.
    pub(super) fn environments(&self) -> impl Iterator<Item = (EnvironmentName, Environment)> + '_ {
        self.manifest.environments.keys().filter_map(|environment| {
            let name =
                EnvironmentName { project: self.manifest.project.clone(), environment: environment.clone() };
            Some((name, self.manifest.resolve(environment)?))
        })
    }
}

/// The environments of all projects; an error when one cannot run here, or two cannot run together.
pub(super) fn environments(
    projects: &[Project],
) -> Result<BTreeMap<EnvironmentName, (PathBuf, Environment)>, Failure> {
    let mut all = BTreeMap::new();
    let mut ports: BTreeMap<u16, EnvironmentName> = BTreeMap::new();
    for project in projects {
        let place = |failure: Failure| Failure {
            message: format!("{}: {}", project.file.display(), failure.message),
            ..failure
        };
        for (name, settings) in project.environments() {
            check(&name, &settings).map_err(place)?;
            if let Some(port) = settings.port
                && let Some(other) = ports.insert(port.get(), name.clone())
            {
                return Err(place(taken(port.get(), &name, &other)));
            }
            namesake(&name, all.keys()).map_err(place)?;
            if all.insert(name.clone(), (project.directory.clone(), settings)).is_some() {
                return Err(place(invalid(format!("environment `{name}` is given twice"))));
            }
        }
    }
    Ok(all)
}

/// Whether this machine can run an environment with these settings.
pub(super) fn check(name: &EnvironmentName, settings: &Environment) -> Result<(), Failure> {
    if settings.command.is_none() {
        return Err(invalid(format!(
            "environment `{}` has no `command`, which is needed where there is no image to name one",
            name.environment
        ))
        .with_hint("write `command: [./serve]` into `.skpr.yml`; it listens on $PORT"));
    }
    let least = settings.instances.as_ref().map_or(1, |instances| instances.min);
    if least > MOST_INSTANCES {
        return Err(invalid(format!(
            "environment `{}` asks for `{least}` instances, one machine runs at most {MOST_INSTANCES}",
            name.environment
        )));
    }
    let length = name.project.as_str().len() + 1 + name.environment.as_str().len();
    if length > LONGEST_NAME {
        let both = format!("{}-{}", name.project, name.environment);
        return Err(invalid(format!(
            "`{both}` is `{length}` characters long, at most {LONGEST_NAME} are possible"
        )));
    }
    Ok(())
}

/// Whether this machine can run so many instances.
pub(super) fn can_scale(name: &EnvironmentName, minimum: u32, maximum: u32) -> Result<(), Failure> {
    let wrong = if minimum < 1 {
        format!("a minimum of `{minimum}` is too few: an environment has at least one instance")
    } else if minimum > maximum {
        format!("a minimum of `{minimum}` is more than the maximum, which is `{maximum}`")
    } else if maximum > MOST_INSTANCES {
        format!(
            "a maximum of `{maximum}` is too many for `{name}`: one machine runs at most {MOST_INSTANCES}"
        )
    } else {
        return Ok(());
    };
    Err(Failure::new(ErrorKind::Usage, wrong))
}

/// Two environments want one port.
pub(super) fn taken(port: u16, name: &EnvironmentName, other: &EnvironmentName) -> Failure {
    invalid(format!("port `{port}` is wanted by `{name}` and by `{other}`"))
        .with_hint("give each environment a `port` of its own")
}

/// An error when the instances of one of `others` would be called as those of `name` are: what ends one would end the other.
pub(super) fn namesake<'a>(
    name: &EnvironmentName,
    others: impl IntoIterator<Item = &'a EnvironmentName>,
) -> Result<(), Failure> {
    let joined = |name: &EnvironmentName| format!("{}-{}", name.project, name.environment);
    let called = joined(name);
    match others.into_iter().find(|other| *other != name && joined(other) == called) {
        None => Ok(()),
        Some(other) => Err(invalid(format!(
            "`{name}` and `{other}` would both be called `{called}` on this machine"
        ))
        .with_hint(
            "give one of the two environments, or its project, another name; or run one of them with a data directory of its own",
        )),
    }
}

/// How the instances of a release are run.
pub(super) fn recipe(
    name: &EnvironmentName,
    version: &str,
    release: u64,
    settings: &Environment,
) -> Option<Recipe> {
    let command = settings.command.as_ref()?;
    let words = std::iter::once(command.program()).chain(command.arguments().iter().map(String::as_str));
    // What skpr says about an instance wins over what the manifest says: the site may rely on it.
    let own = settings.env.iter().flatten();
    let mut variables: Vec<(String, String)> =
        own.map(|(name, value)| (name.as_str().to_owned(), value.as_str().to_owned())).collect();
    variables.extend(
        [
            ("SKPR_PROJECT", name.project.to_string()),
            ("SKPR_ENVIRONMENT", name.environment.to_string()),
            ("SKPR_VERSION", version.to_owned()),
            ("SKPR_RELEASE", release.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    let probe = match (&settings.health, settings.port) {
        (Some(health), Some(_)) => Probe::Answers(health.as_str().to_owned()),
        (None, Some(_)) => Probe::Listens,
        (_, None) => Probe::Runs,
    };
    Some(Recipe {
        command: words.map(OsString::from).collect(),
        variables,
        probe,
        listens: settings.port.is_some(),
        limits: Limits::of(settings),
    })
}

/// The variable that tells an instance where a volume is.
pub(super) fn volume_variable(volume: &str) -> String {
    format!("SKPR_VOLUME_{}", volume.to_uppercase().replace('-', "_"))
}

fn invalid(text: String) -> Failure {
    Failure::new(ErrorKind::InvalidConfiguration, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(texts: &[&str]) -> Result<BTreeMap<EnvironmentName, (PathBuf, Environment)>, Failure> {
        let projects: Vec<_> = texts
            .iter()
            .map(|text| Project {
                manifest: Manifest::parse(text, Path::new(".skpr.yml")).unwrap(),
                file: ".skpr.yml".into(),
                directory: "/site".into(),
            })
            .collect();
        environments(&projects)
    }

    #[test]
    fn an_instance_is_told_who_it_is() {
        let all = planned(&["
project: shop
defaults: {command: [./serve, now], env: {A: b}}
environments:
  dev: {port: 9000, health: /healthz}
  cron: {}
"])
        .unwrap();
        let name = EnvironmentName::parse("shop", "dev").unwrap();
        let recipe_of = |name: &EnvironmentName| recipe(name, "v1", 7, &all[name].1).unwrap();
        let dev = recipe_of(&name);
        let value = |name: &str| {
            dev.variables.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
        };
        assert_eq!(
            (value("A"), value("SKPR_VERSION"), value("SKPR_RELEASE")),
            (Some("b"), Some("v1"), Some("7"))
        );
        assert_eq!((value("SKPR_PROJECT"), value("SKPR_ENVIRONMENT")), (Some("shop"), Some("dev")));
        assert_eq!((dev.probe, dev.listens), (Probe::Answers("/healthz".into()), true));
        assert_eq!(dev.command, ["./serve", "now"]);
        let cron = recipe_of(&EnvironmentName::parse("shop", "cron").unwrap());
        assert_eq!((cron.probe, cron.listens), (Probe::Runs, false));
        assert_eq!(volume_variable("my-files"), "SKPR_VOLUME_MY_FILES");
    }

    #[track_caller]
    fn refused(texts: &[&str], part: &str) {
        let failure = planned(texts).unwrap_err();
        assert_eq!(failure.kind, ErrorKind::InvalidConfiguration);
        assert!(failure.message.contains(part), "{failure}");
    }

    #[test]
    fn scaling_has_bounds_at_both_ends() {
        let name = EnvironmentName::parse("shop", "dev").unwrap();
        for (minimum, maximum, part) in
            [(0, 1, "at least one"), (3, 2, "more than the maximum"), (1, 65, "one machine runs at most 64")]
        {
            let failure = can_scale(&name, minimum, maximum).unwrap_err();
            assert!(failure.kind == ErrorKind::Usage && failure.message.contains(part), "{failure}");
        }
        assert_eq!(can_scale(&name, 1, 64), Ok(()));
    }

    #[test]
    fn what_cannot_run_is_said_before_anything_runs() {
        let one = "project: shop\nenvironments: {dev: {command: [x], port: 9000}}\n";
        refused(&["project: shop\nenvironments: {dev: {}}\n"], "no `command`");
        refused(
            &[one, "project: shop\nenvironments: {dev: {command: [x], port: 9001}}\n"],
            "`shop/dev` is given twice",
        );
        refused(
            &[one, "project: blog\nenvironments: {dev: {command: [x], port: 9000}}\n"],
            "port `9000` is wanted by",
        );
        refused(
            &["project: p\nenvironments: {dev: {command: [x], instances: {min: 65, max: 65}}}\n"],
            "one machine runs at most 64",
        );
        let joined = [
            "project: shop\nenvironments: {dev-x: {command: [x]}}\n",
            "project: shop-dev\nenvironments: {x: {command: [x]}}\n",
        ];
        refused(&joined, "`shop-dev/x` and `shop/dev-x` would both be called `shop-dev-x` on this machine");
        let long = EnvironmentName::parse(&"a".repeat(49), "dev").unwrap();
        let settings = serde_json::from_str(r#"{"command": ["x"]}"#).unwrap();
        assert!(check(&long, &settings).unwrap_err().message.contains("characters long"));
    }
}
