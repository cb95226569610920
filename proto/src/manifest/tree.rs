//! YAML as a tree of which every key and value knows its place in the file, and its text as it was typed.
//!
//! * Bounded: size, depth, nodes and aliases are limited before anything is built, so that a hostile file is an error.
//! * A value that an alias repeats stands where it is defined: that is where it is mended.

use super::hint;
use super::read::Fault;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};
use std::fmt;

/// The most bytes read of a manifest.
pub const MAX_BYTES: usize = 1 << 20;

/// Line and column, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) line: u64,
    pub(super) column: u64,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

#[derive(Debug)]
pub(super) enum Value {
    /// Nothing, or a word for it.
    Null,
    /// `true` or `false`, without quotes.
    Bool(bool),
    /// As it was typed.
    Number(String),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Debug)]
pub(super) struct Key {
    pub(super) place: Place,
    pub(super) name: String,
}

impl Node {
    pub(super) fn parse(text: &str) -> Result<Node, Fault> {
        let raw: Spanned<Raw> = serde_saphyr::from_str_with_options(text, options())
            .map_err(|error| hint::syntax(&error, text))?;
        Ok(node(raw, text))
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// The value of a key of a mapping, or an element of a list.
    pub(super) fn child(&self, step: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(key, _)| key.name == step).map(|(_, node)| node),
            Value::List(nodes) => nodes.get(step.parse::<usize>().ok()?),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => None,
        }
    }

    /// Where a key of this mapping stands.
    pub(super) fn key(&self, name: &str) -> Option<Place> {
        let Value::Map(entries) = &self.value else { return None };
        entries.iter().find(|(key, _)| key.name == name).map(|(key, _)| key.place)
    }

    /// The place of what a path leads to, or of the last thing on it that there is.
    pub(super) fn place_of(&self, path: &[String]) -> Place {
        let mut node = self;
        let mut place = self.place;
        for step in path {
            let Some(child) = node.child(step) else { break };
            place = match &child.value {
                // The text of a block begins below its key.
                Value::Map(_) | Value::List(_) => node.key(step).unwrap_or(child.place),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => child.place,
            };
            node = child;
        }
        place
    }

    /// What it is, for a sentence; a value's text is not in it.
    pub(super) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "word",
            Value::Number(_) => "number",
            Value::Text(_) => "text",
            Value::List(_) => "list",
            Value::Map(_) => "mapping",
        }
    }

    /// A value's text as it was typed.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Bool(true) => Some("true"),
            Value::Bool(false) => Some("false"),
            Value::Number(text) | Value::Text(text) => Some(text),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }
}

impl From<Location> for Place {
    fn from(location: Location) -> Place {
        Place { line: location.line().max(1), column: location.column().max(1) }
    }
}

/// What the library gives; a number has lost how it was typed.
enum Raw {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

fn node(raw: Spanned<Raw>, text: &str) -> Node {
    let at = raw.defined;
    let typed = || {
        let span = at.span();
        let start = usize::try_from(span.byte_offset()?).ok()?;
        let end = start.checked_add(usize::try_from(span.byte_len()?).ok()?)?;
        text.get(start..end).map(|typed| typed.trim().to_owned()).filter(|typed| !typed.is_empty())
    };
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Bool(value) => Value::Bool(value),
        Raw::Number(number) => Value::Number(typed().unwrap_or(number)),
        Raw::Text(text) => Value::Text(text),
        Raw::List(items) => Value::List(items.into_iter().map(|item| node(item, text)).collect()),
        Raw::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(key, value)| (Key { place: key.defined.into(), name: key.value }, node(value, text)))
                .collect(),
        ),
    };
    Node { place: at.into(), value }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Raw;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("YAML")
            }
            fn visit_unit<E: de::Error>(self) -> Result<Raw, E> {
                Ok(Raw::Null)
            }
            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Raw, E> {
                Ok(Raw::Bool(value))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Raw, E> {
                Ok(Raw::Number(number.to_string()))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Raw, E> {
                Ok(Raw::Number(number.to_string()))
            }
            fn visit_i128<E: de::Error>(self, number: i128) -> Result<Raw, E> {
                Ok(Raw::Number(number.to_string()))
            }
            fn visit_u128<E: de::Error>(self, number: u128) -> Result<Raw, E> {
                Ok(Raw::Number(number.to_string()))
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Raw, E> {
                Ok(Raw::Number(number.to_string()))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Raw, E> {
                Ok(Raw::Text(text.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Raw::List(list))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
                let mut map = Vec::new();
                while let Some(entry) = entries.next_entry()? {
                    map.push(entry);
                }
                Ok(Raw::Map(map))
            }
        }
        deserializer.deserialize_any(Any)
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
        // A value is what stands there, and nothing that a tag would make of it.
        reject_unsupported_tags: true,
        // `prod: {production: on}` reads the same everywhere or not at all.
        strict_booleans: true,
        // A variable's value may look like `1e999`; it stays the text that was typed.
        non_finite_float_policy: serde_saphyr::NonFiniteFloatPolicy::PassThrough,
    }
}
