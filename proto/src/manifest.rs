//! `.skpr.yml`: what a developer writes about a project's environments. One type for every program that reads it.
//!
//! * Strict: an unknown key is an error that names the nearest right one, with file, line and column.
//! * Bounded: size, depth, nodes and aliases are limited before anything is built, so that a hostile file is an error.
//! * What a value means for a platform is the platform's business: quantities, schedules and zones stay text here.

mod hint;

use crate::error::{ErrorKind, Failure};
use crate::ids::Label;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

/// The file's name; it is found walking up from the working directory.
pub const FILE_NAME: &str = ".skpr.yml";
/// The most bytes read of a manifest.
pub const MAX_BYTES: usize = 1 << 20;
/// The most instances an environment may ask for: far above any site, far below what overflows a product.
pub const MAX_INSTANCES: u32 = 10_000;

/// A project and its environments.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Manifest {
    pub project: Label,
    /// The image's repository; its tags are the versions.
    pub image: Option<String>,
    /// `host:port` of the aggregator.
    pub cluster: Option<String>,
    #[serde(default)]
    pub defaults: Environment,
    pub environments: BTreeMap<Label, Environment>,
}

/// One environment's settings; a key that is absent comes from `defaults`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Environment {
    /// Listed last, and asked about before anything destructive.
    pub production: Option<bool>,
    pub cpu: Option<Cpu>,
    pub memory: Option<Memory>,
    pub instances: Option<Instances>,
    pub env: Option<BTreeMap<VariableName, VariableValue>>,
    pub volumes: Option<BTreeMap<Label, Volume>>,
    pub domains: Option<Vec<String>>,
    pub cron: Option<BTreeMap<Label, Task>>,
    /// The program and its arguments; needed standalone, where there is no image to name one.
    pub command: Option<Command>,
    pub port: Option<NonZeroU16>,
    pub health: Option<HttpPath>,
}

/// A share of CPU (`500m`), and perhaps a hard limit. Written as the share alone or as `{share, limit}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpu {
    pub share: String,
    pub limit: Option<String>,
}

/// What is kept free for it, and what it may not exceed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    pub min: Option<String>,
    pub max: Option<String>,
}

/// How many instances run; where `min` and `max` differ, `cpu` is the usage that more are started at.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "InstancesAsWritten")]
pub struct Instances {
    pub min: u32,
    pub max: u32,
    pub cpu: Option<String>,
}

/// A directory that outlives its instances.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    pub path: String,
    pub size: String,
}

/// One cron entry.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    pub schedule: String,
    pub command: String,
    pub timezone: Option<String>,
    pub timeout: Option<String>,
    #[serde(default)]
    pub overlap: Overlap,
}

/// What happens when a run is due while the one before still runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overlap {
    /// The new run is skipped.
    #[default]
    Forbid,
    /// Both run.
    Allow,
    /// The old run is ended.
    Replace,
}

macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = &'static str;
            fn try_from(text: String) -> Result<Self, &'static str> {
                let check: fn(&str) -> bool = $check;
                if check(&text) { Ok($name(text)) } else { Err($rule) }
            }
        }
    };
}
checked_text!(
    /// The name of an environment variable.
    VariableName,
    "a variable's name is letters, digits, `_`, `-` and `.`, with no digit first",
    |text| {
        let part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        !text.is_empty() && !text.starts_with(|c: char| c.is_ascii_digit()) && text.bytes().all(part)
    }
);
checked_text!(
    /// The value of an environment variable.
    VariableValue,
    "a variable's value cannot hold a NUL",
    |text| !text.contains('\0')
);
checked_text!(
    /// The path of an HTTP request.
    HttpPath,
    "a path starts with `/` and holds no space or control character",
    |text| text.starts_with('/') && text.chars().all(|c| !c.is_control() && !c.is_whitespace())
);

/// A program and its arguments: at least the program.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct Command(Vec<String>);

impl Command {
    pub fn program(&self) -> &str {
        self.0.first().map_or("", String::as_str)
    }
    pub fn arguments(&self) -> &[String] {
        self.0.get(1..).unwrap_or_default()
    }
}

impl TryFrom<Vec<String>> for Command {
    type Error = &'static str;
    fn try_from(words: Vec<String>) -> Result<Self, &'static str> {
        if words.first().is_none_or(String::is_empty) {
            return Err("a command is a list of a program and its arguments");
        }
        if words.iter().any(|word| word.contains('\0')) {
            return Err("a command cannot hold a NUL");
        }
        Ok(Command(words))
    }
}

/// Why a manifest was refused: one sentence with file, line and column, and perhaps what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ManifestError {
    pub message: String,
    pub hint: Option<String>,
}

impl From<ManifestError> for Failure {
    fn from(error: ManifestError) -> Failure {
        Failure { kind: ErrorKind::InvalidConfiguration, message: error.message, hint: error.hint }
    }
}

impl Manifest {
    /// Reads `text`; `path` is only named in errors.
    pub fn parse(text: &str, path: &Path) -> Result<Manifest, ManifestError> {
        let path = path.display();
        if text.len() > MAX_BYTES {
            let message = format!("{path}: is {} bytes long, at most {MAX_BYTES} are read", text.len());
            return Err(ManifestError { message, hint: None });
        }
        serde_saphyr::from_str_with_options(text, options()).map_err(|error| {
            let location = error.location();
            let place = location.map_or_else(String::new, |at| format!("{}:{}:", at.line(), at.column()));
            let (sentence, hint) = hint::explain(&error);
            ManifestError { message: format!("{path}:{place} {sentence}"), hint }
        })
    }

    /// Reads the file at `path`, never more than its bound.
    pub fn load(path: &Path) -> Result<Manifest, ManifestError> {
        let failed = |error: &dyn fmt::Display| ManifestError {
            message: format!("{}: cannot be read: {error}", path.display()),
            hint: None,
        };
        let file = std::fs::File::open(path).map_err(|error| failed(&error))?;
        let mut bytes = Vec::new();
        file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
        let text = String::from_utf8(bytes).map_err(|error| failed(&error.utf8_error()))?;
        Manifest::parse(&text, path)
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

/// A manifest of a few hundred environments stays far below each of these.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_reader_input_bytes: Some(MAX_BYTES),
            max_events: 100_000,
            max_nodes: 50_000,
            max_depth: 32,
            flow_nesting_limit: 32,
            max_documents: 1,
            max_aliases: 1_000,
            max_anchors: 1_000,
            max_recorded_anchor_events: 50_000,
            max_recorded_anchor_bytes: MAX_BYTES,
            max_total_scalar_bytes: MAX_BYTES,
            max_total_comment_bytes: MAX_BYTES,
            max_merge_keys: 1_000,
        },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 50_000,
            max_replay_stack_depth: 16,
            max_alias_expansions_per_anchor: 1_000,
        },
        // `prod: {production: on}` reads the same everywhere or not at all.
        strict_booleans: true,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InstancesAsWritten {
    min: u32,
    max: u32,
    cpu: Option<String>,
}

impl TryFrom<InstancesAsWritten> for Instances {
    type Error = String;
    fn try_from(written: InstancesAsWritten) -> Result<Self, String> {
        let InstancesAsWritten { min, max, cpu } = written;
        if min > max {
            return Err(format!("instances: min `{min}` is greater than max `{max}`"));
        }
        if max > MAX_INSTANCES {
            return Err(format!("instances: max `{max}` is greater than {MAX_INSTANCES}"));
        }
        Ok(Instances { min, max, cpu })
    }
}

/// Read by hand and not as an untagged enum, which would lose the place and the key of an error.
impl<'de> Deserialize<'de> for Cpu {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shape;

        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Written {
            share: String,
            limit: Option<String>,
        }

        impl<'de> Visitor<'de> for Shape {
            type Value = Cpu;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a CPU share such as `500m`, or {share, limit}")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Cpu, E> {
                Ok(Cpu { share: text.to_owned(), limit: None })
            }
            fn visit_u64<E: de::Error>(self, whole: u64) -> Result<Cpu, E> {
                self.visit_str(&whole.to_string())
            }
            fn visit_f64<E: de::Error>(self, fraction: f64) -> Result<Cpu, E> {
                self.visit_str(&fraction.to_string())
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Cpu, A::Error> {
                let written = Written::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(Cpu { share: written.share, limit: written.limit })
            }
        }

        deserializer.deserialize_any(Shape)
    }
}

#[cfg(test)]
mod tests;
