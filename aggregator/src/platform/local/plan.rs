//! From manifests to the instances that run on this machine. Pure.

use super::health::Probe;
use crate::environment::EnvironmentKey;
use crate::inventory::Wanted;
use skpr_proto::manifest::{Environment, Manifest, ManifestError};
use skpr_proto::{EnvironmentName, ErrorKind, Failure, Label};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// More instances of one environment than this are a mistake on one machine.
const MOST_INSTANCES: u32 = 64;

/// A manifest and where it was found.
#[derive(Clone, Debug)]
pub(super) struct Project {
    pub(super) manifest: Manifest,
    pub(super) file: PathBuf,
    pub(super) directory: PathBuf,
}

/// One instance to run.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) environment: EnvironmentKey,
    pub(super) name: String,
    pub(super) directory: PathBuf,
    pub(super) command: Vec<String>,
    pub(super) variables: Vec<(String, String)>,
    pub(super) probe: Option<Probe>,
    pub(super) production: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    pub(super) wanted: BTreeMap<EnvironmentKey, Wanted>,
    pub(super) instances: Vec<Planned>,
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
}

/// What runs of these projects, and every reason why not.
pub(super) fn plan(namespace: &Label, projects: &[Project]) -> Result<Plan, Failure> {
    let mut plan = Plan::default();
    let mut ports: BTreeMap<u16, String> = BTreeMap::new();
    for project in projects {
        for environment in project.manifest.environments.keys() {
            let Some(settings) = project.manifest.resolve(environment) else { continue };
            let name = EnvironmentName {
                project: project.manifest.project.clone(),
                environment: environment.clone(),
            };
            let key = EnvironmentKey { namespace: namespace.clone(), name };
            let wrong = |text: String| {
                Failure::new(ErrorKind::InvalidConfiguration, format!("{}: {text}", project.file.display()))
            };
            let count = settings.instances.as_ref().map_or(1, |instances| instances.min);
            if count > MOST_INSTANCES {
                return Err(wrong(format!(
                    "environment `{environment}` asks for `{count}` instances, one machine runs at most {MOST_INSTANCES}"
                )));
            }
            let wanted =
                Wanted { production: settings.production == Some(true), minimum: count, maximum: count };
            if plan.wanted.insert(key.clone(), wanted).is_some() {
                return Err(wrong(format!("environment `{}` is given twice", key.name)));
            }
            for index in 0..count {
                let planned = instance(project, &key, &settings, index).map_err(wrong)?;
                if let Some(port) = planned.port
                    && let Some(other) = ports.insert(port, planned.instance.name.clone())
                {
                    let text =
                        format!("port `{port}` is wanted by `{}` and by `{other}`", planned.instance.name);
                    let hint = "give each environment a `port` that leaves room for its instances: each gets the next";
                    return Err(wrong(text).with_hint(hint));
                }
                plan.instances.push(planned.instance);
            }
        }
    }
    Ok(plan)
}

struct WithPort {
    instance: Planned,
    port: Option<u16>,
}

fn instance(
    project: &Project,
    key: &EnvironmentKey,
    settings: &Environment,
    index: u32,
) -> Result<WithPort, String> {
    let environment = &key.name.environment;
    let name = format!("{}-{environment}-{index}", key.name.project);
    let command = settings.command.as_ref().ok_or_else(|| {
        format!("environment `{environment}` has no `command`, which is needed where there is no image to name one")
    })?;
    let port = match settings.port {
        Some(first) => {
            let port = u16::try_from(index).ok().and_then(|index| first.get().checked_add(index));
            Some(
                port.ok_or_else(|| format!("environment `{environment}` runs out of ports above `{first}`"))?,
            )
        }
        None => None,
    };
    // What skpr says about an instance wins over what the manifest says: the site may rely on it.
    let mut variables: Vec<(String, String)> = settings
        .env
        .iter()
        .flatten()
        .map(|(name, value)| (name.as_str().to_owned(), value.as_str().to_owned()))
        .collect();
    variables.extend(port.map(|port| ("PORT".to_owned(), port.to_string())));
    variables.extend([
        ("SKPR_PROJECT".to_owned(), key.name.project.to_string()),
        ("SKPR_ENVIRONMENT".to_owned(), environment.to_string()),
        ("SKPR_INSTANCE".to_owned(), name.clone()),
    ]);
    let probe = match (&settings.health, port) {
        (Some(health), Some(port)) => Some(Probe { port, path: health.as_str().to_owned() }),
        _ => None,
    };
    let instance = Planned {
        environment: key.clone(),
        name,
        directory: project.directory.clone(),
        command: std::iter::once(command.program())
            .chain(command.arguments().iter().map(String::as_str))
            .map(str::to_owned)
            .collect(),
        variables,
        probe,
        production: settings.production == Some(true),
    };
    Ok(WithPort { instance, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(texts: &[&str]) -> Result<Plan, Failure> {
        let projects: Vec<_> = texts
            .iter()
            .map(|text| Project {
                manifest: Manifest::parse(text, Path::new(".skpr.yml")).unwrap(),
                file: ".skpr.yml".into(),
                directory: "/site".into(),
            })
            .collect();
        plan(&Label::parse("namespace", "local").unwrap(), &projects)
    }

    #[test]
    fn each_instance_has_its_name_port_and_variables() {
        let plan = planned(&["
project: shop
defaults: {command: [./serve], health: /healthz, env: {PORT: x, A: b}}
environments:
  dev: {port: 9000}
  prod: {port: 9010, production: true, instances: {min: 2, max: 4}}
"])
        .unwrap();
        let names: Vec<_> = plan.instances.iter().map(|instance| instance.name.as_str()).collect();
        assert_eq!(names, ["shop-dev-0", "shop-prod-0", "shop-prod-1"]);
        let last = &plan.instances[2];
        let value = |name: &str| {
            last.variables.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
        };
        assert_eq!(value("PORT"), Some("9011"));
        assert_eq!((value("A"), value("SKPR_INSTANCE")), (Some("b"), Some("shop-prod-1")));
        assert_eq!(last.probe.as_ref().map(|probe| probe.port), Some(9011));
        assert!(last.production && plan.wanted.len() == 2);
    }

    #[track_caller]
    fn refused(texts: &[&str], part: &str) {
        let failure = planned(texts).unwrap_err();
        assert_eq!(failure.kind, ErrorKind::InvalidConfiguration);
        assert!(failure.message.contains(part), "{failure}");
    }

    #[test]
    fn what_cannot_run_is_said_before_anything_runs() {
        let one = "project: shop\nenvironments: {dev: {command: [x], port: 9000}}\n";
        refused(&["project: shop\nenvironments: {dev: {}}\n"], "no `command`");
        refused(&[one, one], "`shop/dev` is given twice");
        refused(
            &[one, "project: blog\nenvironments: {dev: {command: [x], port: 9000}}\n"],
            "port `9000` is wanted by",
        );
        refused(
            &["project: p\nenvironments: {dev: {command: [x], port: 65535, instances: {min: 2, max: 2}}}\n"],
            "runs out of ports",
        );
        refused(
            &["project: p\nenvironments: {dev: {command: [x], instances: {min: 65, max: 65}}}\n"],
            "one machine runs at most 64",
        );
    }
}
