//! From the tree of a file to a value: `serde`, with the place of every error and a sentence for a developer.
//!
//! * The place is the key's when the key is at fault, else the value's.
//! * What stands under `env` may be a secret and is never quoted.

use super::hint;
use super::text::{HINT, quoted};
use super::tree::{Key, Node, Place, Value};
use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeSeed, Deserializer, Expected, IntoDeserializer as _, MapAccess, SeqAccess, Unexpected,
    Visitor,
};
use std::fmt;

/// What is wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) place: Option<Place>,
    pub(super) sentence: String,
    pub(super) hint: Option<String>,
}

impl Fault {
    pub(super) fn new(sentence: impl Into<String>) -> Fault {
        Fault { place: None, sentence: sentence.into(), hint: None }
    }

    pub(super) fn with_hint(self, hint: impl Into<Option<String>>) -> Fault {
        Fault { hint: hint.into(), ..self }
    }

    /// Here, unless it is known better already.
    pub(super) fn at(self, place: Place) -> Fault {
        Fault { place: self.place.or(Some(place)), ..self }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(text: T) -> Fault {
        let text = text.to_string();
        match text.split_once(HINT) {
            Some((sentence, hint)) => Fault::new(sentence).with_hint(hint.to_owned()),
            None => Fault::new(text),
        }
    }

    /// Without the value itself, which may be a secret.
    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Fault {
        Fault::new(format!("{expected} is wanted here"))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Fault {
        Fault::new(format!("{expected} is wanted here"))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Fault {
        let near = hint::nearest(variant, expected.iter().copied());
        let sentence = format!("`{}` is not one of {}", quoted(variant), hint::list(expected));
        let near = near.map(|word| format!("did you mean `{word}`?"));
        Fault::new(sentence).with_hint(near.or_else(|| hint::variants(expected)))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Fault {
        Fault::new(format!("unknown key `{}`", quoted(field))).with_hint(hint::unknown_key(field, expected))
    }

    fn missing_field(field: &'static str) -> Fault {
        Fault::new(format!("the key `{field}` is missing")).with_hint(hint::missing_key(field))
    }
}

/// Stands for a key where there is none above.
const ROOT: &str = "";

/// Reads a value of the tree.
#[derive(Clone, Copy)]
pub(super) struct Reader<'t> {
    node: &'t Node,
    /// The key that it stands behind; none for an element of a list, and [`ROOT`] for the whole.
    key: Option<&'t str>,
    /// The key that this one stands below.
    above: &'t str,
    hidden: bool,
}

impl<'t> Reader<'t> {
    pub(super) fn of(root: &'t Node) -> Self {
        Reader { node: root, key: Some(ROOT), above: ROOT, hidden: false }
    }

    fn below(self, key: &'t str, node: &'t Node) -> Self {
        let above = self.key.unwrap_or(self.above);
        Reader { node, key: Some(key), above, hidden: self.hidden || key == "env" }
    }

    /// What the value is called in a sentence.
    fn subject(self) -> String {
        match self.key {
            Some(ROOT) => "the file".to_owned(),
            Some(key) => format!("`{}`", quoted(key)),
            None => "each element here".to_owned(),
        }
    }

    /// A text, however it is typed.
    fn scalar(self) -> Result<&'t str, Fault> {
        self.node.text().ok_or_else(|| self.mismatch("a text"))
    }

    /// Something else than what is wanted stands here.
    fn mismatch(self, wanted: &str) -> Fault {
        let fault = match self.node.value {
            Value::Null => {
                let hint = match (self.above, self.key) {
                    _ if self.hidden => "write `\"\"` for an empty text".to_owned(),
                    ("environments", Some(key)) => {
                        format!("write `{}: {{}}` for one with the defaults alone", quoted(key))
                    }
                    _ => "give it one, or remove the key".to_owned(),
                };
                Fault::new(format!("{} has no value", self.subject())).with_hint(hint)
            }
            _ => {
                let found = match self.node.text().filter(|_| !self.hidden) {
                    Some(text) => format!("the {} `{}`", self.node.kind(), quoted(text)),
                    None => format!("a {}", self.node.kind()),
                };
                let sentence = format!("{} wants {wanted}, not {found}", self.subject());
                let hint = match (self.above, self.key) {
                    ("cron", Some(name)) if !self.hidden => Some(hint::task(name, self.node)),
                    _ => hint::shape(self.key.unwrap_or("-"), self.node, self.hidden),
                };
                Fault::new(sentence).with_hint(hint)
            }
        };
        fault.at(self.node.place)
    }

    fn whole(self) -> Result<i64, Fault> {
        let wanted = "a whole number";
        let Value::Number(text) = &self.node.value else { return Err(self.mismatch(wanted)) };
        // What begins with a zero is octal to some, and decimal to others.
        let plain = *text == "0" || !text.trim_start_matches('-').starts_with(['0', '+']);
        text.parse().ok().filter(|_| plain).ok_or_else(|| self.mismatch(wanted))
    }

    fn placed<T>(self, result: Result<T, Fault>) -> Result<T, Fault> {
        result.map_err(|fault| {
            let fault = fault.at(self.node.place);
            match self.node.text() {
                Some(text) if !self.hidden => hint::label(fault, text),
                _ => fault,
            }
        })
    }
}

macro_rules! whole_numbers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
            self.whole().and_then(|number| self.placed(visitor.visit_i64(number)))
        }
    )*};
}

impl<'t> Deserializer<'t> for Reader<'t> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::List(_) => self.deserialize_seq(visitor),
            Value::Map(_) => self.deserialize_map(visitor),
            Value::Null => Err(self.mismatch("a value")),
            Value::Bool(_) | Value::Number(_) | Value::Text(_) => self.deserialize_str(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        let Value::Bool(value) = self.node.value else { return Err(self.mismatch("`true` or `false`")) };
        self.placed(visitor.visit_bool(value))
    }

    whole_numbers! { deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 }

    fn deserialize_str<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        let text = self.scalar()?;
        self.placed(visitor.visit_borrowed_str(text))
    }

    fn deserialize_string<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'t>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.placed(visitor.visit_newtype_struct(self))
    }

    fn deserialize_seq<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        let Value::List(nodes) = &self.node.value else { return Err(self.mismatch("a list")) };
        self.placed(visitor.visit_seq(Items { nodes: nodes.iter(), list: self }))
    }

    fn deserialize_map<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        let Value::Map(entries) = &self.node.value else { return Err(self.mismatch("a mapping")) };
        self.placed(visitor.visit_map(Entries { entries: entries.iter(), value: None, map: self }))
    }

    fn deserialize_struct<V: Visitor<'t>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'t>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let text: StrDeserializer<'_, Fault> = self.scalar()?.into_deserializer();
        self.placed(visitor.visit_enum(text))
    }

    serde::forward_to_deserialize_any! {
        <V: Visitor<'t>>
        i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

struct Items<'t> {
    nodes: std::slice::Iter<'t, Node>,
    list: Reader<'t>,
}

impl<'t> SeqAccess<'t> for Items<'t> {
    type Error = Fault;
    fn next_element_seed<T: DeserializeSeed<'t>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some(node) = self.nodes.next() else { return Ok(None) };
        let element = Reader { node, key: None, ..self.list };
        element.placed(seed.deserialize(element)).map(Some)
    }
}

struct Entries<'t> {
    entries: std::slice::Iter<'t, (Key, Node)>,
    value: Option<(&'t Key, &'t Node)>,
    map: Reader<'t>,
}

impl<'t> MapAccess<'t> for Entries<'t> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'t>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some((key, node)) = self.entries.next() else { return Ok(None) };
        self.value = Some((key, node));
        let name: StrDeserializer<'_, Fault> = key.name.as_str().into_deserializer();
        let read = seed.deserialize(name).map_err(|fault| hint::label(fault.at(key.place), &key.name));
        read.map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'t>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let Some((key, node)) = self.value.take() else { return Err(Fault::new("is not valid YAML")) };
        let value = self.map.below(&key.name, node);
        value.placed(seed.deserialize(value))
    }
}
