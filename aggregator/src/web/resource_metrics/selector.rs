//! Label and field selectors as clients of Kubernetes write them. Pure.

use kube::core::{Expression, Selector as Expressions, SelectorExt as _};
use std::collections::BTreeMap;

/// The longest name of a label: a prefix of 253, a slash, 63.
const LONGEST_NAME: usize = 317;
const LONGEST_VALUE: usize = 63;

/// What labels have to be; everything without a requirement.
#[derive(Debug, Default)]
pub(super) struct Selector(Expressions);

impl Selector {
    pub(super) fn parse(text: &str) -> Result<Selector, String> {
        let requirements = split(text).into_iter().filter(|_| !text.trim().is_empty());
        let expressions = requirements.map(|requirement| {
            expression(requirement)
                .ok_or_else(|| format!("the requirement `{}` is not understood", requirement.escape_debug()))
        });
        expressions.collect::<Result<Expressions, _>>().map(Selector)
    }

    pub(super) fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.matches(labels)
    }

    pub(super) fn selects_all(&self) -> bool {
        self.0.selects_all()
    }
}

/// At commas that are not within parentheses.
fn split(text: &str) -> Vec<&str> {
    let mut within = false;
    text.split(|c: char| {
        match c {
            '(' => within = true,
            ')' => within = false,
            _ => {}
        }
        c == ',' && !within
    })
    .map(str::trim)
    .collect()
}

fn expression(requirement: &str) -> Option<Expression> {
    if let Some(name) = requirement.strip_prefix('!') {
        return Some(Expression::DoesNotExist(self::name(name)?));
    }
    if let Some((left, right)) = requirement.split_once('=') {
        let right = right.strip_prefix('=').unwrap_or(right);
        let (left, equal) = left.strip_suffix('!').map_or((left, true), |left| (left, false));
        let (name, value) = (name(left)?, value(right)?);
        return Some(if equal { Expression::Equal(name, value) } else { Expression::NotEqual(name, value) });
    }
    let Some((left, set)) = requirement.split_once('(') else {
        return Some(Expression::Exists(name(requirement)?));
    };
    let values = set.strip_suffix(')')?.split(',').map(value).collect::<Option<_>>()?;
    let (left, operator) = left.trim().rsplit_once(char::is_whitespace)?;
    match operator {
        "in" => Some(Expression::In(name(left)?, values)),
        "notin" => Some(Expression::NotIn(name(left)?, values)),
        _ => None,
    }
}

fn name(text: &str) -> Option<String> {
    let text = text.trim();
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    let valid = (1..=LONGEST_NAME).contains(&text.len()) && text.chars().all(known);
    valid.then(|| text.to_owned())
}

fn value(text: &str) -> Option<String> {
    let text = text.trim();
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (text.len() <= LONGEST_VALUE && text.chars().all(known)).then(|| text.to_owned())
}

/// What an object's name and namespace have to be, and have not to be.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Fields(Vec<Requirement>);

#[derive(Debug, PartialEq, Eq)]
struct Requirement {
    field: Field,
    value: String,
    equal: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Name,
    Namespace,
}

impl Fields {
    pub(super) fn parse(text: &str) -> Result<Fields, String> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let of = |part: &str| {
            let wrong = || format!("the field selector `{}` is not understood", part.escape_debug());
            let (left, right) = part.split_once('=').ok_or_else(wrong)?;
            let value = right.strip_prefix('=').unwrap_or(right).trim().to_owned();
            let (left, equal) = left.strip_suffix('!').map_or((left, true), |left| (left, false));
            let field = match left.trim() {
                "metadata.name" => Field::Name,
                "metadata.namespace" => Field::Namespace,
                _ => return Err(wrong()),
            };
            Ok(Requirement { field, value, equal })
        };
        parts.map(of).collect::<Result<_, _>>().map(Fields)
    }

    pub(super) fn matches(&self, namespace: &str, name: &str) -> bool {
        self.0.iter().all(|requirement| {
            let found = match requirement.field {
                Field::Name => name,
                Field::Namespace => namespace,
            };
            (found == requirement.value) == requirement.equal
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn labels_are_selected_as_kubernetes_selects_them() {
        let web = labels(&[("app", "web"), ("skpr.io/environment", "prod"), ("empty", "")]);
        for (text, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web", true),
            (" app = web , skpr.io/environment=prod", true),
            ("app=web,skpr.io/environment=dev", false),
            ("app!=web", false),
            ("other!=web", true),
            ("app", true),
            ("other", false),
            ("!other", true),
            ("! app", false),
            ("app in (web, api)", true),
            ("app in (api)", false),
            ("app notin (api,worker),app", true),
            ("other notin (api)", true),
            ("empty=", true),
            ("empty in ()", true),
        ] {
            assert_eq!(Selector::parse(text).unwrap().matches(&web), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        let long = "x".repeat(400);
        for bad in [
            "=",
            "a=b=c",
            "a in b",
            "a in (b",
            "in (b)",
            "a within (b)",
            "a,,b",
            "a b",
            "a>1",
            "ü",
            "!",
            &long,
        ] {
            assert!(Selector::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn fields_are_the_name_and_the_namespace() {
        let matches = |text: &str| Fields::parse(text).unwrap().matches("sites", "web-0");
        assert!(matches("") && matches("metadata.name=web-0") && matches("metadata.namespace==sites"));
        assert!(!matches("metadata.name=web-0,metadata.namespace!=sites"));
        assert!(Fields::parse("spec.nodeName=n1").is_err() && Fields::parse("metadata.name").is_err());
    }
}
