//! The token file's lines, as text and as values.

use crate::auth::{Question, Right};
use crate::environment::EnvironmentKey;
use anyhow::{Context as _, bail, ensure};
use skpr_proto::{Label, NodeName};
use std::fmt;

/// What a new token file begins with.
pub(super) const HEADER: &str = "\
# Who may use this aggregator: one line a token, NAME SHA256 RIGHTS.
#   NAME    whose token it is
#   SHA256  of the token, in hexadecimal; the token itself is not kept here
#   RIGHTS  `*` for everything, or a comma list of PROJECT/ENVIRONMENT:RIGHT+RIGHT (ENVIRONMENT may be *; the rights are
#           list, logs, metrics, deploy, delete, exec, files and cron, of which the last five bring list) and, alone, `metrics` for
#           monitoring, or `agent:NODE` for the agent of a node
# Add one with `skpr-aggregator token create --data DIR NAME RIGHTS`. A changed file is read again at once.
";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) digest: [u8; 32],
    pub(super) rights: Rights,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rights {
    All,
    Agent(NodeName),
    Some(Vec<Entitlement>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entitlement {
    /// To read metrics, of everything.
    Monitor,
    On(Environments),
}

/// Rights on one environment, or with `None` on each of the project's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Environments {
    project: Label,
    environment: Option<Label>,
    /// In the order of [`NAMES`], each once.
    rights: Vec<Right>,
}

/// What the right to read metrics is called in the file.
const MONITOR: &str = "metrics";

/// What each right is called in the file.
const NAMES: [(&str, Right); 8] = [
    ("list", Right::See),
    ("logs", Right::ReadLogs),
    ("metrics", Right::ReadMetrics),
    ("deploy", Right::Change),
    ("delete", Right::Delete),
    ("exec", Right::Exec),
    ("files", Right::Files),
    ("cron", Right::Cron),
];

impl Entry {
    pub(super) fn to_line(&self) -> String {
        format!("{} {} {}\n", self.name, hex(&self.digest), self.rights)
    }
}

impl Rights {
    pub(super) fn allow(&self, question: &Question<'_>) -> bool {
        match self {
            Rights::All => true,
            Rights::Agent(_) => false,
            Rights::Some(all) => match question {
                Question::ListAll
                | Question::ListNamespace(_)
                | Question::Anywhere(..)
                | Question::CreateNamespaces
                | Question::Resources(_) => false,
                Question::Monitor => all.contains(&Entitlement::Monitor),
                Question::May(right, key) => all.iter().any(|entitlement| match entitlement {
                    Entitlement::Monitor => false,
                    Entitlement::On(environments) => environments.covers(key) && environments.brings(*right),
                }),
            },
        }
    }
}

impl Environments {
    /// Whoever may change an environment, or do something within it, may also see how it is.
    fn brings(&self, right: Right) -> bool {
        let has = |right| self.rights.contains(&right);
        let seen_by = [Right::Change, Right::Delete, Right::Exec, Right::Files, Right::Cron];
        has(right) || right == Right::See && seen_by.into_iter().any(has)
    }

    fn covers(&self, key: &EnvironmentKey) -> bool {
        self.project == key.name.project
            && self.environment.as_ref().is_none_or(|environment| *environment == key.name.environment)
    }
}

/// Reads a whole file; the error names the first line that is wrong.
pub(super) fn parse(text: &str) -> anyhow::Result<Vec<Entry>> {
    let mut entries: Vec<Entry> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let entry = parse_line(line).with_context(|| format!("line {}", index + 1))?;
        ensure!(
            !entries.iter().any(|known| known.name == entry.name),
            "line {}: the name `{}` is used twice",
            index + 1,
            entry.name
        );
        entries.push(entry);
    }
    Ok(entries)
}

fn parse_line(line: &str) -> anyhow::Result<Entry> {
    let mut parts = line.split_whitespace();
    let (Some(name), Some(digest), Some(rights), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        bail!("is not NAME SHA256 RIGHTS");
    };
    Ok(Entry { name: parse_name(name)?, digest: parse_digest(digest)?, rights: parse_rights(rights)? })
}

pub(super) fn parse_name(name: &str) -> anyhow::Result<String> {
    let valid = (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte));
    ensure!(valid, "name `{}` must be 1 to 64 of a-z, A-Z, 0-9, -, _, . and @", name.escape_debug());
    Ok(name.to_owned())
}

pub(super) fn parse_rights(text: &str) -> anyhow::Result<Rights> {
    if text == "*" {
        return Ok(Rights::All);
    }
    if let Some(node) = text.strip_prefix("agent:") {
        return Ok(Rights::Agent(NodeName::parse(node)?));
    }
    text.split(',').map(parse_right).collect::<anyhow::Result<_>>().map(Rights::Some)
}

fn parse_right(text: &str) -> anyhow::Result<Entitlement> {
    if text == MONITOR {
        return Ok(Entitlement::Monitor);
    }
    let parts = text.split_once(':').and_then(|(name, rights)| Some((name.split_once('/')?, rights)));
    let Some(((project, environment), rights)) = parts else {
        bail!("right `{}` is not PROJECT/ENVIRONMENT:RIGHT+RIGHT", text.escape_debug());
    };
    let environment = match environment {
        "*" => None,
        name => Some(Label::parse("environment", name)?),
    };
    let mut named: Vec<&str> = rights.split('+').collect();
    if let Some(other) = named.iter().find(|name| !NAMES.iter().any(|(known, _)| known == *name)) {
        bail!(
            "right `{}` is none of list, logs, metrics, deploy, delete, exec, files and cron",
            other.escape_debug()
        );
    }
    named.sort_unstable();
    let rights = NAMES.iter().filter(|(name, _)| named.binary_search(name).is_ok()).map(|(_, right)| *right);
    let project = Label::parse("project", project)?;
    Ok(Entitlement::On(Environments { project, environment, rights: rights.collect() }))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_digest(text: &str) -> anyhow::Result<[u8; 32]> {
    const RULE: &str = "the second word is not a SHA-256 in hexadecimal";
    ensure!(text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()), RULE);
    let mut digest = [0; 32];
    for (index, byte) in digest.iter_mut().enumerate() {
        let pair = text.get(2 * index..2 * index + 2).context(RULE)?;
        *byte = u8::from_str_radix(pair, 16).context(RULE)?;
    }
    Ok(digest)
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rights::All => f.write_str("*"),
            Rights::Agent(node) => write!(f, "agent:{node}"),
            Rights::Some(all) => {
                for (index, entitlement) in all.iter().enumerate() {
                    if index > 0 {
                        f.write_str(",")?;
                    }
                    let Entitlement::On(Environments { project, environment, rights }) = entitlement else {
                        f.write_str(MONITOR)?;
                        continue;
                    };
                    let named = NAMES.iter().filter(|(_, right)| rights.contains(right));
                    let names: Vec<_> = named.map(|(name, _)| *name).collect();
                    let environment = environment.as_ref().map_or("*", Label::as_str);
                    write!(f, "{project}/{environment}:{}", names.join("+"))?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(rights: &str) -> String {
        format!("ci {} {rights}", "ab".repeat(32))
    }

    #[test]
    fn lines_are_read_and_written_alike() {
        for rights in [
            "*",
            "agent:node-1",
            "web/dev:list+logs",
            "web/dev:logs,shop/*:list,metrics",
            "web/*:logs+deploy+delete+exec",
            "web/dev:files",
            "web/dev:logs+exec+cron",
        ] {
            let entry = parse_line(&line(rights)).unwrap();
            assert_eq!(entry.rights.to_string(), rights);
            assert_eq!(parse_line(entry.to_line().trim()).unwrap(), entry);
        }
    }

    #[test]
    fn an_error_names_the_line() {
        for bad in [
            line("").as_str(),
            &line("web/dev"),
            &line("web:logs"),
            &line("web/dev:"),
            &line("web/dev:write"),
            &line("WEB/dev:logs"),
            &line("web/dev:logs,"),
            &line("* extra"),
            "ci abc *",
            &format!("ci {} *", "é".repeat(32)),
            &format!("c\u{1b}i {} *", "ab".repeat(32)),
        ] {
            let error = format!("{:#}", parse(&format!("{HEADER}\n{bad}\n")).unwrap_err());
            assert!(error.contains("line 9"), "{bad}: {error}");
            assert!(!error.contains('\u{1b}'), "{error}");
        }
        let twice = format!("{}\n{}\n", line("*"), line("*"));
        assert!(parse(&twice).unwrap_err().to_string().contains("line 2"));
    }
}
