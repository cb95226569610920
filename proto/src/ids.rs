//! Names and positions as types, each with one parser. Nothing past the network edge carries a bare string.

use crate::v1;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// A name that does not follow its rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{value}` {rule}")]
pub struct InvalidId {
    pub what: &'static str,
    pub value: String,
    pub rule: &'static str,
}

impl InvalidId {
    fn new(what: &'static str, value: &str, rule: &'static str) -> Self {
        // A hostile value must not flood a log or a terminal.
        let value = value.chars().take(64).flat_map(char::escape_default).collect();
        InvalidId { what, value, rule }
    }
}

/// A DNS label: 1–63 of `a-z 0-9 -`, no hyphen first or last. Names of projects and environments, and namespaces.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(Arc<str>);

impl Label {
    pub fn parse(what: &'static str, value: &str) -> Result<Self, InvalidId> {
        let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = value.as_bytes();
        let valid = bytes.len() <= 63
            && bytes.first().is_some_and(inner)
            && bytes.last().is_some_and(inner)
            && bytes.iter().all(|byte| inner(byte) || *byte == b'-');
        if valid {
            Ok(Label(value.into()))
        } else {
            Err(InvalidId::new(what, value, "must be 1 to 63 of a-z, 0-9 and -, with no - first or last"))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl schemars::JsonSchema for Label {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Label".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string", "minLength": 1, "maxLength": 63, "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"
        })
    }
}

impl TryFrom<String> for Label {
    type Error = InvalidId;
    fn try_from(value: String) -> Result<Self, InvalidId> {
        Label::parse("name", &value)
    }
}

impl From<Label> for String {
    fn from(label: Label) -> String {
        label.0.as_ref().to_owned()
    }
}

/// `project/environment`, as users type it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EnvironmentName {
    pub project: Label,
    pub environment: Label,
}

impl EnvironmentName {
    pub fn parse(project: &str, environment: &str) -> Result<Self, InvalidId> {
        Ok(EnvironmentName {
            project: Label::parse("project", project)?,
            environment: Label::parse("environment", environment)?,
        })
    }
}

impl fmt::Display for EnvironmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.environment)
    }
}

impl TryFrom<&v1::Environment> for EnvironmentName {
    type Error = InvalidId;
    fn try_from(message: &v1::Environment) -> Result<Self, InvalidId> {
        EnvironmentName::parse(&message.project, &message.environment)
    }
}

impl From<&EnvironmentName> for v1::Environment {
    fn from(name: &EnvironmentName) -> Self {
        v1::Environment {
            namespace: None,
            project: name.project.as_str().into(),
            environment: name.environment.as_str().into(),
        }
    }
}

/// A DNS subdomain of at most 253 characters (Kubernetes' rule for pods, nodes and containers).
fn subdomain(what: &'static str, value: &str) -> Result<Arc<str>, InvalidId> {
    let edge = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let valid = value.len() <= 253
        && value.split('.').all(|part| {
            let part = part.as_bytes();
            part.first().is_some_and(edge)
                && part.last().is_some_and(edge)
                && part.iter().all(|byte| edge(byte) || *byte == b'-')
        });
    if valid {
        Ok(value.into())
    } else {
        Err(InvalidId::new(
            what,
            value,
            "must be at most 253 of a-z, 0-9, - and ., each part starting and ending with a letter or digit",
        ))
    }
}

/// A node's name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeName(Arc<str>);

impl NodeName {
    pub fn parse(value: &str) -> Result<Self, InvalidId> {
        subdomain("node", value).map(NodeName)
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A pod's UID: a UUID, or for a static pod the 32 hex digits of its configuration's hash.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodUid(Arc<str>);

impl PodUid {
    pub fn parse(value: &str) -> Result<Self, InvalidId> {
        let valid = (1..=63).contains(&value.len())
            && value.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if valid {
            Ok(PodUid(value.into()))
        } else {
            Err(InvalidId::new("pod uid", value, "must be 1 to 63 of a-z, 0-9 and -"))
        }
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One container of one pod: what a log directory names, and what records come from.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source {
    pub namespace: Label,
    pub pod: Arc<str>,
    pub uid: PodUid,
    pub container: Label,
}

impl Source {
    pub fn parse(namespace: &str, pod: &str, uid: &str, container: &str) -> Result<Self, InvalidId> {
        Ok(Source {
            namespace: Label::parse("namespace", namespace)?,
            pod: subdomain("pod", pod)?,
            uid: PodUid::parse(uid)?,
            container: Label::parse("container", container)?,
        })
    }

    /// Reads `NAMESPACE_POD_UID` and `CONTAINER`, the two directory names below `/var/log/pods`
    /// (kubelet, `BuildPodLogsDirectory`). None of the parts can hold an underscore.
    pub fn from_directories(pod_directory: &str, container: &str) -> Result<Self, InvalidId> {
        let mut parts = pod_directory.split('_');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(namespace), Some(pod), Some(uid), None) => Source::parse(namespace, pod, uid, container),
            _ => Err(InvalidId::new("pod log directory", pod_directory, "must be NAMESPACE_POD_UID")),
        }
    }

    /// The two directory names that [`Source::from_directories`] reads.
    pub fn directories(&self) -> (String, String) {
        (format!("{}_{}_{}", self.namespace, self.pod, self.uid), self.container.to_string())
    }
}

impl TryFrom<&v1::Source> for Source {
    type Error = InvalidId;
    fn try_from(message: &v1::Source) -> Result<Self, InvalidId> {
        Source::parse(&message.namespace, &message.pod, &message.uid, &message.container)
    }
}

impl From<&Source> for v1::Source {
    fn from(source: &Source) -> Self {
        v1::Source {
            namespace: source.namespace.as_str().into(),
            pod: source.pod.as_ref().into(),
            uid: source.uid.as_str().into(),
            container: source.container.as_str().into(),
        }
    }
}

/// Nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixNanos(pub i64);

impl From<UnixNanos> for v1::Instant {
    fn from(time: UnixNanos) -> Self {
        v1::Instant { unix_nanos: time.0 }
    }
}

/// What lies outside of the years 1677–2262 is as good as the nearest that is inside.
impl From<jiff::Timestamp> for UnixNanos {
    fn from(time: jiff::Timestamp) -> Self {
        let nanos = time.as_nanosecond();
        UnixNanos(i64::try_from(nanos).unwrap_or(if nanos < 0 { i64::MIN } else { i64::MAX }))
    }
}

impl From<v1::Instant> for UnixNanos {
    fn from(message: v1::Instant) -> Self {
        UnixNanos(message.unix_nanos)
    }
}

macro_rules! shown_as_text {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}
shown_as_text!(Label, NodeName, PodUid);

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}_{}/{}", self.namespace, self.pod, self.uid, self.container)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for EnvironmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn labels_follow_dns() {
        for good in ["a", "prod", "commit-weather", "0x", &"a".repeat(63)] {
            assert!(Label::parse("name", good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "a/b", "..", "ü", &"a".repeat(64)] {
            assert!(Label::parse("name", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_pod_log_directory_is_read_and_written_alike() {
        let source =
            Source::from_directories("default_web-7d4b9-x2x1z_0a1b2c3d-aaaa-bbbb-cccc-0123456789ab", "php")
                .unwrap();
        assert_eq!(source.pod.as_ref(), "web-7d4b9-x2x1z");
        let (directory, container) = source.directories();
        assert_eq!(Source::from_directories(&directory, &container), Ok(source));
        for bad in ["", "a_b", "a_b_c_d", "../x_b_c", "a_..%2f_c", "a_b/c_d"] {
            assert!(Source::from_directories(bad, "php").is_err(), "{bad}");
        }
    }

    #[test]
    fn an_error_cannot_carry_an_escape_sequence() {
        let error = Label::parse("project", "\u{1b}[31mred").unwrap_err();
        assert!(!error.to_string().contains('\u{1b}'), "{error}");
    }

    proptest! {
        #[test]
        fn parsers_never_panic_and_accept_only_safe_path_parts(text in ".{0,80}") {
            if let Ok(source) = Source::from_directories(&text, &text) {
                prop_assert!(!source.to_string().contains(".."));
            }
            if let Ok(label) = Label::parse("name", &text) {
                prop_assert!(!label.as_str().contains(['/', '.', '\\', '\0']));
            }
        }
    }
}
