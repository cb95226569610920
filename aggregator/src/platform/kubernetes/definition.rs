//! The CustomResourceDefinition, made from the types: its file in the chart is compared with this by a test.
//!
//! * What a schema can say is said there, so that the API server refuses it from whoever writes it; what only code can
//!   say is checked again before an object is acted on.

use super::resource::{API_VERSION, EnvironmentSpec, EnvironmentStatus, KIND};
use serde_json::{Map, Value, json};

const GROUP: &str = "skpr.io";
const VERSION: &str = "v1alpha1";

/// The definition without anything that only the chart knows.
pub(super) fn definition() -> Value {
    let mut spec = schema::<EnvironmentSpec>();
    let rules = json!([
        rule(
            "self.project == oldSelf.project && self.environment == oldSelf.environment",
            "project and environment never change: make a new one"
        ),
        rule("self.project.matches('^[a-z]')", "a project's name begins with a letter"),
        rule(
            "size(self.project) + size(self.environment) < 50",
            "PROJECT-ENVIRONMENT is at most 50 characters long"
        ),
        rule(
            "!(self.environment in ['all', 'default', 'defaults', 'local', 'localhost', 'none', 'self'])",
            "this name of an environment is reserved"
        ),
        rule("!has(self.health) || has(self.port)", "health needs a port"),
    ]);
    set(&mut spec, "x-kubernetes-validations", rules);
    at(&mut spec, &["properties", "instances"], |instances| {
        let rules = json!([rule("self.min <= self.max", "min is at most max")]);
        set(instances, "x-kubernetes-validations", rules);
    });
    at(&mut spec, &["properties", "domains"], |domains| {
        // A set: the API server refuses the same domain twice.
        set(domains, "x-kubernetes-list-type", json!("set"));
    });
    let root = json!([rule(
        "self.metadata.name == self.spec.project + '.' + self.spec.environment",
        "the name is PROJECT.ENVIRONMENT"
    )]);
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("environments.{GROUP}")},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND, "listKind": "EnvironmentList", "plural": "environments", "singular": "environment",
                "shortNames": ["skenv"], "categories": ["skpr"]
            },
            "versions": [{
                "name": VERSION, "served": true, "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": [
                    column("Version", "string", ".spec.version", 0),
                    column("Ready", "integer", ".status.ready", 0),
                    column("Min", "integer", ".status.min", 0),
                    column("Max", "integer", ".status.max", 0),
                    column("Age", "date", ".metadata.creationTimestamp", 0),
                    column("Release", "integer", ".status.release", 1),
                    column("State", "string", ".status.state", 1),
                    column("By", "string", ".status.by", 1),
                    column("Trouble", "string", ".status.trouble", 1)
                ],
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "description": format!("An environment of {API_VERSION}: one running copy of a project."),
                    "required": ["spec"],
                    "x-kubernetes-validations": root,
                    "properties": {"spec": spec, "status": schema::<EnvironmentStatus>()}
                }}
            }]
        }
    })
}

fn rule(rule: &str, message: &str) -> Value {
    json!({"rule": rule, "message": message})
}

fn column(name: &str, kind: &str, path: &str, priority: u8) -> Value {
    json!({"name": name, "type": kind, "jsonPath": path, "priority": priority})
}

/// A type's schema in the words that Kubernetes knows.
fn schema<T: schemars::JsonSchema>() -> Value {
    let settings = schemars::generate::SchemaSettings::openapi3().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    structural(&mut schema);
    schema
}

/// Kubernetes takes no `additionalProperties: false` beside `properties` (it prunes and warns by itself), no `examples`,
/// and knows but these formats of numbers.
fn structural(schema: &mut Value) {
    let Value::Object(object) = schema else { return };
    for unknown in ["title", "examples", "unevaluatedProperties", "$schema"] {
        object.remove(unknown);
    }
    if object.get("additionalProperties").is_some_and(Value::is_boolean) {
        object.remove("additionalProperties");
    }
    match object.get("format").and_then(Value::as_str) {
        Some("uint32" | "uint16" | "uint8" | "uint64") => {
            drop(object.insert("format".into(), json!("int64")))
        }
        Some("int32" | "int64" | "date-time") | None => {}
        Some(_) => drop(object.remove("format")),
    }
    for key in ["items", "additionalProperties"] {
        object.get_mut(key).into_iter().for_each(structural);
    }
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        properties.values_mut().for_each(structural);
    }
}

fn set(schema: &mut Value, key: &str, value: Value) {
    if let Value::Object(object) = schema {
        object.insert(key.to_owned(), value);
    }
}

fn at(schema: &mut Value, path: &[&str], change: impl FnOnce(&mut Value)) {
    let mut found = Some(schema);
    for key in path {
        found = found.and_then(|value| value.get_mut(key));
    }
    if let Some(found) = found {
        change(found);
    }
}

/// The file in the chart.
pub(super) fn chart_file() -> String {
    let mut definition = definition();
    // Helm's own words go where the definition has none.
    at(&mut definition, &["metadata"], |metadata| {
        set(metadata, "annotations", json!("ANNOTATIONS"));
        set(metadata, "labels", json!("LABELS"));
    });
    let mut lines = String::new();
    write_yaml(&mut lines, &definition, 0);
    let labels = "{{- include \"skpr.labels\" (dict \"name\" \"skpr-aggregator\" \"root\" .) | nindent 4 }}";
    let keep = "{{ if .Values.crds.keep }}{helm.sh/resource-policy: keep}{{ else }}{}{{ end }}";
    let lines = lines.replace("\"LABELS\"", labels).replace("\"ANNOTATIONS\"", keep);
    format!(
        "{{{{- if .Values.crds.enabled }}}}\n# Made from the code: see platform/kubernetes/definition.rs, whose test writes it.\n{lines}{{{{- end }}}}\n"
    )
}

/// Block style with quoted texts: what people can read in a chart and every parser reads alike.
fn write_yaml(out: &mut String, value: &Value, indent: usize) {
    let Value::Object(object) = value else { return };
    write_object(out, object, indent);
}

fn write_object(out: &mut String, object: &Map<String, Value>, indent: usize) {
    for (key, value) in object {
        let space = " ".repeat(indent);
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                out.push_str(&format!("{space}{key}:\n"));
                write_object(out, inner, indent + 2);
            }
            Value::Array(items) if items.iter().any(Value::is_object) => {
                out.push_str(&format!("{space}{key}:\n"));
                for item in items {
                    let mut text = String::new();
                    write_yaml(&mut text, item, indent + 4);
                    let text = text.get(indent + 4..).unwrap_or_default();
                    out.push_str(&format!("{space}  - {text}"));
                }
            }
            scalar => out.push_str(&format!("{space}{key}: {scalar}\n")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chart_has_the_definition_that_the_code_means() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/skpr/templates/crds.yaml");
        let expected = chart_file();
        if std::env::var_os("UPDATE_CRD").is_some() {
            std::fs::write(path, &expected).unwrap();
        }
        let actual = std::fs::read_to_string(path).unwrap_or_default();
        assert!(actual == expected, "charts/skpr/templates/crds.yaml is old; hint: UPDATE_CRD=1 make test");
    }

    #[test]
    fn the_schema_says_only_what_kubernetes_takes() {
        let text = definition().to_string();
        for word in ["anyOf", "oneOf", "$ref", "additionalProperties\":false", "examples", "uint"] {
            assert!(!text.contains(word), "{word} in {text}");
        }
    }
}
