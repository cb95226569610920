//! The texts of a manifest, each a type with one parser: names, paths, domains, commands.
//!
//! * A refused text is answered with what is wrong and what to write instead; the text itself is quoted bounded and
//!   escaped, and the value of a variable never.

use std::fmt;

/// The longest part of a refused text that is quoted.
const MAX_QUOTED: usize = 64;
/// What separates sentence and hint where an error is only text.
pub(super) const HINT: &str = "; hint: ";

/// Why a text was refused, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub sentence: String,
    pub hint: Option<String>,
}

impl Refusal {
    pub(super) fn new(sentence: impl Into<String>) -> Refusal {
        Refusal { sentence: sentence.into(), hint: None }
    }

    pub(super) fn with_hint(self, hint: impl Into<String>) -> Refusal {
        Refusal { hint: Some(hint.into()), ..self }
    }

    /// The better hint if there is one.
    pub(super) fn or_hint(self, hint: Option<String>, otherwise: &str) -> Refusal {
        self.with_hint(hint.unwrap_or_else(|| otherwise.to_owned()))
    }

    /// With the refused text as the sentence's subject.
    pub(super) fn about(self, text: &str) -> Refusal {
        Refusal { sentence: format!("`{}` {}", quoted(text), self.sentence), ..self }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "{HINT}{hint}"))
    }
}

/// Text from the file, made safe for a terminal and bounded.
pub(super) fn quoted(text: &str) -> String {
    let harmless = |c: char| {
        !c.is_control()
            // Marks that turn the direction of a line around, or that cannot be seen.
            && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    let mut safe = String::new();
    for c in text.chars().take(MAX_QUOTED) {
        if harmless(c) {
            safe.push(c);
        } else {
            safe.extend(c.escape_default());
        }
    }
    if text.chars().nth(MAX_QUOTED).is_some() {
        safe.push('…');
    }
    safe
}

/// Reads and writes a type with `parse` and `Display` as a text of this schema.
macro_rules! text_type {
    ($name:ident, $schema:tt) => {
        impl TryFrom<String> for $name {
            type Error = $crate::manifest::text::Refusal;
            fn try_from(text: String) -> Result<Self, Self::Error> {
                $name::parse(&text)
            }
        }
        impl std::str::FromStr for $name {
            type Err = $crate::manifest::text::Refusal;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $name::parse(text)
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                $name::parse(&text).map_err(serde::de::Error::custom)
            }
        }
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!($schema)
            }
        }
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(self, f)
            }
        }
    };
}
pub(super) use text_type;

macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $check:expr, $schema:tt) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }

            pub fn parse(text: &str) -> Result<Self, Refusal> {
                let check: fn(&str) -> Result<(), Refusal> = $check;
                check(text).map(|()| $name(text.to_owned()))
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        text_type!($name, $schema);
    };
}

checked_text!(
    /// The name of an environment variable.
    VariableName,
    variable_name,
    { "type": "string", "maxLength": 128, "pattern": "^[A-Za-z_.-][A-Za-z0-9_.-]*$" }
);
checked_text!(
    /// The path of an HTTP request.
    HttpPath,
    http_path,
    {
        "type": "string", "maxLength": 1024, "pattern": "^/[^\\s\\x00-\\x1f\\x7f]*$",
        "description": "The path that answers 200 to 399 when an instance is ready.", "examples": ["/healthz"]
    }
);
checked_text!(
    /// A domain that an environment is reached by.
    Domain,
    domain,
    {
        "type": "string", "maxLength": 253,
        "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)+$",
        "examples": ["www.example.com"]
    }
);
checked_text!(
    /// Where a volume is mounted.
    VolumePath,
    volume_path,
    {
        "type": "string", "maxLength": 1024, "pattern": "^(/[^/:\\x00-\\x1f\\x7f]+)+$",
        "description": "An absolute path.", "examples": ["/data/app/files"]
    }
);
checked_text!(
    /// What a task runs: a line for the shell.
    TaskCommand,
    task_command,
    {
        "type": "string", "minLength": 1, "maxLength": 4096,
        "description": "What is run, in a shell.", "examples": ["drush cron"]
    }
);

/// The value of an environment variable. It may be a secret: it is never shown by an error, nor by `Debug`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct VariableValue(String);

impl VariableValue {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn parse(text: &str) -> Result<Self, Refusal> {
        if text.contains('\0') {
            return Err(Refusal::new("the value of a variable cannot hold a NUL"));
        }
        Ok(VariableValue(text.to_owned()))
    }
}

impl fmt::Debug for VariableValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl<'de> serde::Deserialize<'de> for VariableValue {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        VariableValue::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for VariableValue {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "VariableValue".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "maxLength": 32768 })
    }
}

/// The longest name of a variable.
const MAX_NAME: usize = 128;
/// The longest path.
const MAX_PATH: usize = 1024;
/// The longest command of a task.
const MAX_COMMAND: usize = 4096;

fn variable_name(text: &str) -> Result<(), Refusal> {
    if let Some((name, _)) = text.split_once('=') {
        // What stands behind the `=` is a value.
        let sentence = format!("`{}=…` is no name of a variable", quoted(name));
        return Err(Refusal::new(sentence).with_hint("write `NAME: VALUE`"));
    }
    let part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let valid = !text.is_empty()
        && text.len() <= MAX_NAME
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(part);
    if !valid {
        return Err(Refusal::new("is no name of a variable")
            .with_hint("letters, digits, `_`, `-` and `.`, at most 128 and no digit first")
            .about(text));
    }
    if text.starts_with("SKPR_") {
        return Err(Refusal::new("is a name that skpr sets itself")
            .with_hint("variables that begin with `SKPR_` are reserved: choose another name")
            .about(text));
    }
    Ok(())
}

fn http_path(text: &str) -> Result<(), Refusal> {
    if text.starts_with("http://") || text.starts_with("https://") {
        let path = text.splitn(4, '/').nth(3).unwrap_or_default();
        return Err(Refusal::new("is a URL where a path is wanted")
            .with_hint(format!("did you mean `/{}`?", quoted(path)))
            .about(text));
    }
    if !text.starts_with('/') {
        let refusal = Refusal::new("does not start with `/`");
        return Err(refusal.with_hint(format!("did you mean `/{}`?", quoted(text))).about(text));
    }
    if text.len() > MAX_PATH || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(Refusal::new("is no path of an HTTP request")
            .with_hint("no spaces and control characters, at most 1024 bytes")
            .about(text));
    }
    Ok(())
}

fn domain(text: &str) -> Result<(), Refusal> {
    let wrong = |sentence: &str, hint: String| Err(Refusal::new(sentence).with_hint(hint).about(text));
    let bare = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .map(|rest| rest.split('/').next().unwrap_or_default());
    if let Some(bare) = bare {
        return wrong("is a URL where a domain is wanted", format!("did you mean `{}`?", quoted(bare)));
    }
    if text.starts_with("*.") {
        return wrong("is a wildcard", "name each domain".to_owned());
    }
    let example = "write a domain in small letters, such as `www.example.com`";
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return wrong(
            "has capital letters",
            format!("did you mean `{}`?", quoted(&text.to_ascii_lowercase())),
        );
    }
    if let Some(bare) = text.strip_suffix('.').filter(|bare| !bare.ends_with('.') && domain(bare).is_ok()) {
        return wrong("ends with a dot", format!("did you mean `{bare}`?"));
    }
    if !text.is_ascii() {
        return wrong("is not in ASCII", "write it as DNS does, with `xn--`".to_owned());
    }
    let edge = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let valid = text.len() <= 253
        && text.split('.').all(|label| {
            let label = label.as_bytes();
            label.len() <= 63
                && label.first().is_some_and(edge)
                && label.last().is_some_and(edge)
                && label.iter().all(|byte| edge(byte) || *byte == b'-')
        });
    if !valid {
        return wrong("is no domain", example.to_owned());
    }
    if !text.contains('.') {
        return wrong("has no dot", example.to_owned());
    }
    if text.split('.').all(|label| label.bytes().all(|byte| byte.is_ascii_digit())) {
        return wrong("is an address, not a domain", example.to_owned());
    }
    Ok(())
}

fn volume_path(text: &str) -> Result<(), Refusal> {
    let wrong = |sentence: &str, hint: String| Err(Refusal::new(sentence).with_hint(hint).about(text));
    if !text.starts_with('/') {
        let hint = "write the whole path inside the instance, such as `/data/app/files`";
        return wrong("does not start with `/`", hint.to_owned());
    }
    if text.len() > MAX_PATH || text.contains(':') || text.chars().any(char::is_control) {
        return wrong(
            "is no path for a volume",
            "no `:` and control characters, at most 1024 bytes".to_owned(),
        );
    }
    if text.trim_end_matches('/').is_empty() {
        return wrong("would hide the whole file system", "mount it below, such as at `/data`".to_owned());
    }
    if text.split('/').any(|part| part == "..") {
        return wrong("goes up by `..`", "write the path that is meant, without `..`".to_owned());
    }
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let plain = format!("/{}", parts.join("/"));
    if plain != text {
        return wrong("has parts that say nothing", format!("did you mean `{}`?", quoted(&plain)));
    }
    let own = ["/proc", "/sys", "/dev"];
    if own
        .iter()
        .any(|root| plain == *root || plain.strip_prefix(root).is_some_and(|rest| rest.starts_with('/')))
    {
        return wrong("belongs to the system", "mount it elsewhere, such as at `/data`".to_owned());
    }
    Ok(())
}

fn task_command(text: &str) -> Result<(), Refusal> {
    if text.trim().is_empty() {
        return Err(Refusal::new("the command is empty").with_hint("such as `drush cron`"));
    }
    if text.contains('\0') || text.len() > MAX_COMMAND {
        return Err(Refusal::new("the command holds a NUL or more than 4096 bytes"));
    }
    Ok(())
}
