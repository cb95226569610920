//! `.skpr.yml`: what a developer writes about a project's environments. One type for every program that reads it.
//!
//! * Strict: an unknown key, a wrong unit, an impossible combination is an error with file, line and column that says
//!   what to write instead.
//! * Bounded: size, depth, nodes and aliases are limited before anything is built, so that a hostile file is an error.
//! * The types are the source of the file's schema ([`schema()`]), of what a deploy sends, and of the custom resource.

mod check;
mod environment;
mod hint;
mod quantity;
mod read;
mod schedule;
mod schema;
mod text;
mod tree;

pub use check::{Problem, check_image};
pub use environment::{
    Command, Cpu, Environment, Instances, MAX_INSTANCES, MAX_SETTINGS_BYTES, Memory, Overlap, Task, Volume,
};
pub use hint::nearest;
pub use quantity::{CpuQuantity, MemoryQuantity, Percent};
pub use schedule::{Schedule, TimeSpan, Zone};
pub use schema::schema;
pub use text::{Domain, HttpPath, Refusal, TaskCommand, VariableName, VariableValue, VolumePath};
pub use tree::MAX_BYTES;

use crate::error::{ErrorKind, Failure};
use crate::ids::{EnvironmentName, Label};
use read::{Fault, Reader};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use tree::{Node, Place};

/// The file's name; it is found walking up from the working directory.
pub const FILE_NAME: &str = ".skpr.yml";

/// A project and its environments.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Manifest {
    pub project: Label,
    /// The image's repository; its tags are the versions.
    #[serde(default, deserialize_with = "environment::given")]
    pub image: Option<String>,
    /// `host:port` of the aggregator.
    #[serde(default, deserialize_with = "environment::given")]
    pub cluster: Option<String>,
    #[serde(default)]
    pub defaults: Environment,
    pub environments: BTreeMap<Label, Environment>,
}

/// Why a manifest was refused: one sentence with file, line and column, and perhaps what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ManifestError {
    pub message: String,
    pub hint: Option<String>,
}

impl ManifestError {
    fn new(path: &Path, fault: Fault) -> ManifestError {
        let place =
            fault.place.map_or_else(String::new, |Place { line, column }| format!("{line}:{column}:"));
        let path = path.display().to_string().escape_debug().to_string();
        ManifestError { message: format!("{path}:{place} {}", fault.sentence), hint: fault.hint }
    }
}

impl From<ManifestError> for Failure {
    fn from(error: ManifestError) -> Failure {
        Failure { kind: ErrorKind::InvalidConfiguration, message: error.message, hint: error.hint }
    }
}

impl Manifest {
    /// Reads `text`; `path` is only named in errors. Of several errors the first.
    pub fn parse(text: &str, path: &Path) -> Result<Manifest, ManifestError> {
        Manifest::read(text).map_err(|faults| first(path, faults))
    }

    /// Reads the file at `path`, never more than its bound. Of several errors the first.
    pub fn load(path: &Path) -> Result<Manifest, ManifestError> {
        text_of(path).and_then(|text| Manifest::read(&text)).map_err(|faults| first(path, faults))
    }

    /// Reads the file at `path`, and says everything that is wrong with it that can be known at once.
    pub fn load_all(path: &Path) -> Result<Manifest, Vec<ManifestError>> {
        let faults = text_of(path).and_then(|text| Manifest::read(&text));
        faults.map_err(|faults| faults.into_iter().map(|fault| ManifestError::new(path, fault)).collect())
    }

    /// The faults are in order of their places; there is at least one.
    fn read(text: &str) -> Result<Manifest, Vec<Fault>> {
        if text.len() > MAX_BYTES {
            return Err(vec![too_long()]);
        }
        let tree = Node::parse(text).map_err(|fault| vec![fault])?;
        if tree.is_empty() {
            let fault = Fault::new("the file is empty").at(tree.place);
            let hint = "begin with `project: NAME` and `environments: {dev: {}}`".to_owned();
            return Err(vec![fault.with_hint(hint)]);
        }
        let manifest =
            Manifest::deserialize(Reader::of(&tree)).map_err(|fault| vec![fault.at(tree.place)])?;
        let faults = manifest.faults(&tree);
        if faults.is_empty() { Ok(manifest) } else { Err(faults) }
    }

    /// What the rules between keys have to say, each where it is to be mended.
    fn faults(&self, tree: &Node) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut add = |place: Place, problem: Problem| {
            faults.push(Fault::new(problem.sentence).with_hint(problem.hint).at(place));
        };
        for problem in check::project(self) {
            add(tree.place_of(&problem.path), problem);
        }
        let mut domains = BTreeMap::new();
        for name in self.environments.keys() {
            let Some(settings) = self.resolve(name) else { continue };
            let full = EnvironmentName { project: self.project.clone(), environment: name.clone() };
            let mut problems = check::environment(&settings, &full);
            problems.extend(check::shared_domains(name, &settings, &mut domains));
            let all = tree.child("environments");
            let own = all.and_then(|all| all.child(name.as_str()));
            for problem in problems {
                let place = match problem.path.first() {
                    None => all.and_then(|all| all.key(name.as_str())),
                    Some(key) if key == check::PROJECT => Some(tree.place_of(&problem.path)),
                    Some(key) => own
                        .filter(|own| own.child(key).is_some())
                        .or_else(|| tree.child("defaults"))
                        .map(|settings| settings.place_of(&problem.path)),
                };
                add(place.unwrap_or(tree.place), problem);
            }
        }
        // What is wrong with a default is wrong once, however many environments take it.
        faults.sort_by_key(|fault: &Fault| fault.place);
        faults.dedup();
        faults
    }

    /// The nearest manifest in `start` or a directory above it.
    pub fn find(start: &Path) -> Option<PathBuf> {
        start.ancestors().map(|directory| directory.join(FILE_NAME)).find(|path| path.is_file())
    }

    /// An environment's settings with `defaults` filled in, key by key; `None` when there is no such environment.
    pub fn resolve(&self, environment: &Label) -> Option<Environment> {
        let own = self.environments.get(environment)?.clone();
        let defaults = self.defaults.clone();
        Some(Environment {
            production: own.production.or(defaults.production),
            cpu: own.cpu.or(defaults.cpu),
            memory: own.memory.or(defaults.memory),
            instances: own.instances.or(defaults.instances),
            env: own.env.or(defaults.env),
            volumes: own.volumes.or(defaults.volumes),
            domains: own.domains.or(defaults.domains),
            cron: own.cron.or(defaults.cron),
            command: own.command.or(defaults.command),
            port: own.port.or(defaults.port),
            health: own.health.or(defaults.health),
        })
    }
}

fn first(path: &Path, faults: Vec<Fault>) -> ManifestError {
    let fault = faults.into_iter().next().unwrap_or_else(|| Fault::new("cannot be read"));
    ManifestError::new(path, fault)
}

fn too_long() -> Fault {
    let hint = "a manifest is a few hundred lines of text: is this the right file?";
    Fault::new("is larger than 1 MiB, which is the most that is read").with_hint(hint.to_owned())
}

/// The text of a file.
fn text_of(path: &Path) -> Result<String, Vec<Fault>> {
    let failed = |error: std::io::Error| vec![Fault::new(format!("cannot be read: {error}"))];
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > MAX_BYTES {
        return Err(vec![too_long()]);
    }
    String::from_utf8(bytes).map_err(|error| {
        let before = String::from_utf8_lossy(
            error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default(),
        );
        let line = before.matches('\n').count() as u64 + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() as u64 + 1;
        let fault =
            Fault::new("is not UTF-8 text from here on").with_hint("save the file as UTF-8".to_owned());
        vec![fault.at(Place { line, column })]
    })
}

#[cfg(test)]
mod tests;
