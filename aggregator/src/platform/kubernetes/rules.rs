//! What an environment in Kubernetes has to keep to, whoever asks for it. Pure.
//!
//! * An object that somebody wrote is read by the parsers that a deploy is read by.

use super::Options;
use super::resource::{EnvironmentSpec, MAX_NUMBER, MAX_TIMEOUT};
use crate::environment::EnvironmentKey;
use skpr_proto::manifest::{self, check_image};
use skpr_proto::{EnvironmentName, ErrorKind, Failure, Label, Version};

/// Whether an object may be acted on: what its schema cannot say.
pub(super) fn accept(key: &EnvironmentKey, spec: &EnvironmentSpec, options: &Options) -> Result<(), Failure> {
    namespace(&key.namespace, options)?;
    asked(spec)?;
    content(&key.name, spec.image.as_deref(), &spec.version, &spec.settings)
}

/// The schema's bounds of what skpr writes, which an older schema does not have: a number at the end of what can be
/// counted would be begun again and again.
fn asked(spec: &EnvironmentSpec) -> Result<(), Failure> {
    let Some(asked) = &spec.release else { return Ok(()) };
    let wrong = if !(1..=MAX_NUMBER).contains(&asked.number) {
        format!("`spec.release.number` is `{}`, and goes from 1 to {MAX_NUMBER}", asked.number)
    } else if !(1..=MAX_TIMEOUT).contains(&asked.timeout_seconds) {
        let seconds = asked.timeout_seconds;
        format!("`spec.release.timeoutSeconds` is `{seconds}`, and goes from 1 to {MAX_TIMEOUT}")
    } else {
        return Ok(());
    };
    Err(Failure::new(ErrorKind::InvalidConfiguration, wrong)
        .with_hint("take `release` out of the spec: skpr alone writes it"))
}

/// Whether there can be environments in a namespace.
pub(super) fn namespace(namespace: &Label, options: &Options) -> Result<(), Failure> {
    let name = namespace.as_str();
    if name == "default" || name.starts_with("kube-") || *namespace == options.namespace {
        let sentence = format!("the namespace `{name}` is not for environments");
        return Err(Failure::new(ErrorKind::InvalidConfiguration, sentence)
            .with_hint("choose another with --namespace, or ask who installed skpr"));
    }
    Ok(())
}

/// Whether instances can be made of it.
pub(super) fn content(
    name: &EnvironmentName,
    image: Option<&str>,
    version: &str,
    settings: &manifest::Environment,
) -> Result<(), Failure> {
    let invalid = |sentence: String| Failure::new(ErrorKind::InvalidConfiguration, sentence);
    let Some(image) = image else {
        return Err(invalid(format!("`{name}` has no image"))
            .with_hint("write `image:` in .skpr.yml: the repository whose tags are the versions"));
    };
    check_image(image).map_err(|refusal| Failure { hint: refusal.hint, ..invalid(refusal.sentence) })?;
    if !is_digest(version) {
        Version::parse(version)
            .map_err(|failure| Failure { kind: ErrorKind::InvalidConfiguration, ..failure })?;
    }
    if let Err(problems) = settings.check(name) {
        let mut problems = problems.into_iter();
        let first = problems.next();
        let more = problems.len();
        let sentence = first.as_ref().map_or_else(String::new, |problem| match problem.key() {
            key if key.is_empty() => problem.sentence.clone(),
            key => format!("{key}: {}", problem.sentence),
        });
        let sentence = if more > 0 { format!("{sentence} (and {more} more)") } else { sentence };
        return Err(Failure { hint: first.and_then(|problem| problem.hint), ..invalid(sentence) });
    }
    Ok(())
}

/// Only an object names one: there is no tag to deploy.
fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::tests::key;
    use crate::platform::kubernetes::fake::options;

    fn settings(text: &str) -> manifest::Environment {
        serde_json::from_str(text).unwrap()
    }

    #[track_caller]
    fn check(image: Option<&str>, version: &str, text: &str, expected: &str) {
        let name = key("a", "shop", "dev").name;
        let said =
            content(&name, image, version, &settings(text)).map_or_else(|f| f.message, |()| "ok".into());
        assert!(said.contains(expected), "{said}");
    }

    #[test]
    fn what_instances_cannot_be_made_of_is_refused() {
        check(Some("r.example.com:5000/shop"), "v1.2-3-gabc", "{}", "ok");
        check(Some("shop"), &format!("sha256:{}", "a".repeat(64)), "{}", "ok");
        check(None, "v1", "{}", "has no image");
        check(Some("shop:1"), "v1", "{}", "`shop:1` names a version");
        check(Some("shop"), "release/1", "{}", "`release/1` cannot be a version");
        check(Some("shop"), "", "{}", "cannot be a version");
        check(Some("shop"), "v1", r#"{"health": "/"}"#, "health: `health` needs a `port`");
    }

    #[test]
    fn an_object_is_judged_by_the_rules_of_a_deploy() {
        for image in ["Shop", "a//b", "r.example.com/Shop"] {
            check(Some(image), "v1", "{}", "is no image's repository");
            assert!(check_image(image).is_err());
        }
        check(Some("shop"), "1..2", "{}", "`1..2` cannot be a version");
        let name = key("a", "shop", "dev").name;
        let failure = content(&name, Some("shop"), "1..2", &settings("{}")).unwrap_err();
        assert_eq!(failure.kind, ErrorKind::InvalidConfiguration);
    }

    #[test]
    fn what_skpr_asks_for_has_bounds_whatever_the_schema_says() {
        let said = |number: u64, seconds: u32| {
            let release = serde_json::json!({"number": number, "by": "ann", "began": "2026-11-24T00:00:00Z",
                "timeoutSeconds": seconds, "returns": true});
            let spec = serde_json::json!({"project": "shop", "environment": "dev", "version": "v1", "release": release});
            asked(&serde_json::from_value(spec).unwrap())
                .map_or_else(|failure| failure.message, |()| "ok".into())
        };
        assert_eq!((said(1, 1), said(MAX_NUMBER, MAX_TIMEOUT)), ("ok".into(), "ok".into()));
        for (number, seconds, expected) in [
            (0, 1, "`spec.release.number` is `0`"),
            (u64::MAX, 1, "`spec.release.number` is `18446744073709551615`"),
            (1, 0, "`spec.release.timeoutSeconds` is `0`"),
            (1, MAX_TIMEOUT + 1, "`spec.release.timeoutSeconds` is `86401`"),
        ] {
            let said = said(number, seconds);
            assert!(said.starts_with(expected), "{said}");
        }
    }

    #[test]
    fn environments_keep_out_of_the_clusters_own_namespaces() {
        let options = options();
        for (name, good) in [("sites", true), ("kube-system", false), ("default", false), ("skpr", false)] {
            let label = Label::parse("namespace", name).unwrap();
            assert_eq!(namespace(&label, &options).is_ok(), good, "{name}");
        }
    }
}
