//! One environment's settings: what a platform is told, and what a release keeps.
//!
//! * One type for the manifest, the protocol, the custom resource and the record of a release. It is written in one
//!   form (`cpu` is always `{share, limit}`) and read strictly; only people may write the short forms.
//! * The schema is that one form, without unions of types, so that Kubernetes takes it as it is.

use super::check;
use super::quantity::{CpuQuantity, MemoryQuantity, Percent};
use super::schedule::{Schedule, TimeSpan, Zone};
use super::text::{Domain, HttpPath, TaskCommand, VariableName, VariableValue, VolumePath};
use crate::error::{ErrorKind, Failure};
use crate::ids::{EnvironmentName, Label};
use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU16;

/// The most instances an environment may ask for: far above any site, far below what overflows a product.
pub const MAX_INSTANCES: u32 = 10_000;
/// The most bytes of an environment's settings as JSON: twenty releases of them fit into one object of Kubernetes.
pub const MAX_SETTINGS_BYTES: usize = 32 << 10;

/// One environment's settings; a key that is absent comes from `defaults`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Environment {
    /// Listed last, and asked about before anything destructive.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schemars(with = "bool")]
    pub production: Option<bool>,
    /// The CPU that is kept free for each instance.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schemars(with = "Cpu")]
    pub cpu: Option<Cpu>,
    /// The memory that is kept free for each instance, and the most that it may use.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schemars(with = "Memory")]
    pub memory: Option<Memory>,
    /// How many instances run.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schemars(with = "Instances")]
    pub instances: Option<Instances>,
    /// Environment variables.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schemars(with = "BTreeMap<String, VariableValue>", extend("maxProperties" = 500))]
    pub env: Option<BTreeMap<VariableName, VariableValue>>,
    /// Directories that outlive the instances, by name.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schemars(with = "BTreeMap<String, Volume>", extend("maxProperties" = 20))]
    pub volumes: Option<BTreeMap<Label, Volume>>,
    /// The domains that lead here.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schemars(with = "Vec<Domain>", extend("maxItems" = 100))]
    pub domains: Option<Vec<Domain>>,
    /// Tasks that run by the clock, by name.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schemars(with = "BTreeMap<String, Task>", extend("maxProperties" = 100))]
    pub cron: Option<BTreeMap<Label, Task>>,
    /// The program and its arguments; needed standalone, where there is no image to name one.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schemars(with = "Command")]
    pub command: Option<Command>,
    /// The port that instances listen on; they are told in `PORT`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given_port")]
    #[schemars(schema_with = "port")]
    pub port: Option<NonZeroU16>,
    /// The path that answers when an instance is ready; needs `port`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schemars(with = "HttpPath")]
    pub health: Option<HttpPath>,
}

/// A share of CPU (`500m`), and perhaps a hard limit. Written as the share alone or as `{share, limit}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields, inline)]
pub struct Cpu {
    /// What is kept free.
    pub share: CpuQuantity,
    /// What is never exceeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(default, with = "CpuQuantity")]
    pub limit: Option<CpuQuantity>,
}

/// What is kept free for it, and what it may not exceed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct Memory {
    /// What is kept free.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schemars(with = "MemoryQuantity")]
    pub min: Option<MemoryQuantity>,
    /// What is never exceeded: an instance that does is ended.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schemars(with = "MemoryQuantity")]
    pub max: Option<MemoryQuantity>,
}

/// How many instances run; where `min` and `max` differ, `cpu` is the usage that more are started at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct Instances {
    /// The fewest.
    #[serde(deserialize_with = "counted")]
    #[schemars(schema_with = "count")]
    pub min: u32,
    /// The most.
    #[serde(deserialize_with = "counted")]
    #[schemars(schema_with = "count")]
    pub max: u32,
    /// How much of the CPU share is used, on average, when more are started.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schemars(with = "Percent")]
    pub cpu: Option<Percent>,
}

/// A directory that outlives its instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct Volume {
    /// Where instances find it.
    pub path: VolumePath,
    /// How much fits in.
    pub size: MemoryQuantity,
}

/// One cron entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct Task {
    /// When it runs.
    pub schedule: Schedule,
    /// What it runs.
    pub command: TaskCommand,
    /// Whose clock the schedule means; else UTC.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schemars(with = "Zone")]
    pub timezone: Option<Zone>,
    /// How long a run may take before it is ended.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schemars(with = "TimeSpan")]
    pub timeout: Option<TimeSpan>,
    /// What happens when a run is due while the one before still runs.
    #[serde(default)]
    pub overlap: Overlap,
}

impl Task {
    /// Whose clock its schedule means.
    pub fn zone(&self) -> Zone {
        self.timezone.clone().unwrap_or_else(Zone::utc)
    }

    /// The first time after `time` at which it is due.
    pub fn next_after(&self, time: Timestamp) -> Option<Timestamp> {
        self.schedule.next_after(time, &self.zone())
    }
}

/// What happens when a run is due while the one before still runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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

/// A program and its arguments: at least the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
            return Err(
                "the command is empty; hint: write a list of the program and its arguments, such as `[./serve, --port, \"8080\"]`",
            );
        }
        if words.len() > MAX_WORDS {
            return Err("the command has more than 256 arguments");
        }
        if words.iter().any(|word| word.contains('\0')) {
            return Err("the command holds a NUL");
        }
        Ok(Command(words))
    }
}

/// The most words of a command.
const MAX_WORDS: usize = 256;

impl Environment {
    /// Reads settings as JSON in their one form, as a deploy sends them; strict and bounded.
    pub fn from_json(bytes: &[u8]) -> Result<Environment, Failure> {
        let invalid = |text: String| Failure::new(ErrorKind::InvalidConfiguration, text);
        if bytes.len() > MAX_SETTINGS_BYTES {
            return Err(invalid(format!(
                "the settings are {} bytes of JSON, at most {MAX_SETTINGS_BYTES} are taken",
                bytes.len()
            )));
        }
        let unread = |error: serde_json::Error| {
            let (sentence, hint) = super::hint::json(&error);
            Failure { hint, ..invalid(format!("the settings cannot be read: {sentence}")) }
        };
        // Of a list, `serde` would take the values for those of the keys in the order of their declaration.
        let shape: serde_json::Value = serde_json::from_slice(bytes).map_err(unread)?;
        if !shape.is_object() {
            return Err(invalid("the settings cannot be read: they are no object".to_owned()));
        }
        if let Some(path) = list_for_object(&shape) {
            return Err(invalid(format!(
                "the settings cannot be read: {path} a list where an object is wanted"
            )));
        }
        serde_json::from_slice(bytes).map_err(unread)
    }

    /// The one form, as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        // Texts and numbers under keys that are texts: nothing in it can fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The rules between several keys: everything that the types alone do not say. `name` is whose settings these are.
    pub fn check(&self, name: &EnvironmentName) -> Result<(), Vec<check::Problem>> {
        let problems = check::environment(self, name);
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }
}

/// Where a list stands for an object, in words that `a list` follows.
fn list_for_object(settings: &serde_json::Value) -> Option<String> {
    let inner = |key: &'static str| {
        let values = settings.get(key).and_then(serde_json::Value::as_object);
        values.into_iter().flatten().map(move |(name, value)| (format!("`{key}.{name}` is"), value))
    };
    let outer = ["cpu", "memory", "instances", "env", "volumes", "cron"];
    let outer = outer.iter().filter_map(|key| Some((format!("`{key}` is"), settings.get(key)?)));
    let mut all = outer.chain(inner("volumes")).chain(inner("cron"));
    all.find(|(_, value)| value.is_array()).map(|(path, _)| path.escape_debug().to_string())
}

/// A key that is there has a value: `memory:` with nothing behind it is a slip and not the absence of `memory`.
pub(super) fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A whole number, or a sentence that quotes it.
struct Whole<T>(fn(i64) -> Option<T>, &'static str);

impl<'de, T> Visitor<'de> for Whole<T> {
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }
    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        let Whole(take, refusal) = self;
        take(number).ok_or_else(|| E::custom(format!("`{number}` {refusal}")))
    }
    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        self.visit_i64(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

fn given_port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NonZeroU16>, D::Error> {
    let take = |number| u16::try_from(number).ok().and_then(NonZeroU16::new).map(Some);
    deserializer
        .deserialize_i64(Whole(take, "is no port; hint: a port is a number from 1 to 65535, such as `8080`"))
}

fn counted<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let refusal = "is no number of instances; hint: write a number from 1 to 10000";
    deserializer.deserialize_i64(Whole(|number| u32::try_from(number).ok(), refusal))
}

fn port(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "minimum": 1, "maximum": 65535, "examples": [8080] })
}

fn count(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "minimum": 1, "maximum": MAX_INSTANCES })
}

impl JsonSchema for Overlap {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Overlap".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "enum": ["forbid", "allow", "replace"] })
    }
}

impl JsonSchema for Command {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Command".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "array", "minItems": 1, "maxItems": MAX_WORDS,
            "items": { "type": "string", "maxLength": 32768 }, "examples": [["./serve", "--port", "8080"]]
        })
    }
}

/// Read by hand and not as an untagged enum, which would lose the place and the key of an error.
impl<'de> Deserialize<'de> for Cpu {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shape;

        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Written {
            share: CpuQuantity,
            #[serde(default, deserialize_with = "given")]
            limit: Option<CpuQuantity>,
        }

        impl<'de> Visitor<'de> for Shape {
            type Value = Cpu;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount of CPU such as `500m`, or `{share, limit}`")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Cpu, E> {
                Ok(Cpu { share: CpuQuantity::parse(text).map_err(E::custom)?, limit: None })
            }
            fn visit_i64<E: de::Error>(self, whole: i64) -> Result<Cpu, E> {
                self.visit_str(&whole.to_string())
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
