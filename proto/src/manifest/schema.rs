//! The JSON Schema of `.skpr.yml`, for editors and other tools.
//!
//! * Made of the types: their schema is the one form of the settings, and what people may write besides it (`cpu: 500m`,
//!   numbers without quotes) is added here.
//! * It knows keys, types, units and patterns. Rules between keys are only known to `skpr validate`.

use super::environment::Environment;
use super::text::VariableName;
use crate::ids::Label;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

/// Where the schema says that it is from. Nothing is fetched from there.
const ID: &str = "https://skpr.io/schemas/skpr.yml.json";

/// The schema of the file.
pub fn schema() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut environment = settings.into_generator().into_root_schema_for::<Environment>().to_value();
    if let Some(keys) = environment.as_object_mut() {
        keys.remove("$schema");
        keys.remove("title");
    }
    as_people_write(&mut environment);
    let mut defaults = environment.clone();
    describe(&mut defaults, "Settings of every environment that does not say otherwise.");
    describe(&mut environment, "One environment's settings; a key that is absent comes from `defaults`.");
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": ID,
        "title": "skpr project",
        "description": "A project and its environments: `.skpr.yml`.",
        "type": "object",
        "additionalProperties": false,
        "required": ["project", "environments"],
        "properties": {
            "project": described(of::<Label>(), "The project's name.", &json!(["my-site"])),
            "image": {
                "description": "The image's repository, without a tag: its tags are the versions.",
                "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[^@\\s]+$",
                "examples": ["registry.example.com/my-site"]
            },
            "cluster": {
                "description": "HOST or HOST:PORT of the aggregator.",
                "type": "string", "minLength": 1, "maxLength": 260, "pattern": "^[A-Za-z0-9.:\\[\\]-]+$",
                "examples": ["skpr.example.com:443"]
            },
            "defaults": defaults,
            "environments": {
                "description": "The environments, by name.",
                "type": "object",
                "minProperties": 1,
                "propertyNames": named(&super::check::RESERVED),
                "additionalProperties": environment,
                "examples": [{ "dev": {}, "prod": { "production": true } }]
            }
        }
    })
}

fn of<T: JsonSchema>() -> Value {
    T::json_schema(&mut schemars::SchemaGenerator::default()).to_value()
}

/// The schema of a name that is a label, and none of these.
fn named(reserved: &[&str]) -> Value {
    let mut schema = of::<Label>();
    if let Some(keys) = schema.as_object_mut().filter(|_| !reserved.is_empty()) {
        keys.insert("not".into(), json!({ "enum": reserved }));
    }
    schema
}

fn described(mut schema: Value, text: &str, examples: &Value) -> Value {
    describe(&mut schema, text);
    if let Some(keys) = schema.as_object_mut() {
        keys.insert("examples".into(), examples.clone());
    }
    schema
}

fn describe(schema: &mut Value, text: &str) {
    if let Some(keys) = schema.as_object_mut() {
        keys.insert("description".into(), text.into());
    }
}

/// Adds what a file may say besides the one form.
fn as_people_write(environment: &mut Value) {
    let Some(properties) = environment.get_mut("properties").and_then(Value::as_object_mut) else { return };
    if let Some(cpu) = properties.get_mut("cpu").map(Value::take) {
        let (share, mut whole) = (property(&cpu, "share"), cpu);
        if let Some(parts) = whole.get_mut("properties").and_then(Value::as_object_mut) {
            for part in parts.values_mut() {
                *part = or_number(part.take());
            }
        }
        let description = whole.get("description").cloned().unwrap_or_default();
        let examples = json!(["500m", 0.5, { "share": "500m", "limit": 2 }]);
        let forms = json!([or_number(share), without(whole, "description")]);
        properties.insert(
            "cpu".into(),
            json!({ "description": description, "anyOf": forms, "examples": examples }),
        );
    }
    if let Some(value) = properties.get_mut("env").and_then(|env| env.get_mut("additionalProperties")) {
        *value = json!({ "type": ["string", "number", "boolean"] });
    }
    for (key, names) in [("env", of::<VariableName>()), ("volumes", named(&[])), ("cron", named(&[]))] {
        if let Some(map) = properties.get_mut(key).and_then(Value::as_object_mut) {
            map.insert("propertyNames".into(), names);
        }
    }
    // `[./serve, 8080]` is read as texts.
    if let Some(word) = properties.get_mut("command").and_then(|command| command.get_mut("items")) {
        *word = json!({ "type": ["string", "number", "boolean"] });
    }
}

/// An amount of CPU, which may be a number.
fn or_number(quantity: Value) -> Value {
    let Value::Object(mut keys) = quantity else { return quantity };
    keys.insert("type".into(), json!(["string", "number"]));
    keys.insert("exclusiveMinimum".into(), 0.into());
    keys.insert("maximum".into(), 1000.into());
    Value::Object(keys)
}

fn property(schema: &Value, name: &str) -> Value {
    schema.get("properties").and_then(|properties| properties.get(name)).cloned().unwrap_or_default()
}

fn without(schema: Value, key: &str) -> Value {
    let Value::Object(keys) = schema else { return schema };
    Value::Object(keys.into_iter().filter(|(name, _)| name != key).collect::<Map<_, _>>())
}
