//! The rules that a type alone cannot say: between keys, between environments, and about their names. Pure.
//!
//! The same for a file, for a deploy and for an object written by hand; where in a file a problem stands is for
//! [`super::read`] to find.

use super::Manifest;
use super::environment::{Environment, MAX_INSTANCES, MAX_SETTINGS_BYTES};
use super::text::{Domain, Refusal};
use crate::ids::{EnvironmentName, Label};
use std::collections::{BTreeMap, BTreeSet};

/// The longest `PROJECT-ENVIRONMENT`: what is made of it in Kubernetes must stay a DNS label.
const MAX_NAME: usize = 50;
/// Names that commands and files use for something else.
pub(super) const RESERVED: [&str; 7] = ["all", "default", "defaults", "local", "localhost", "none", "self"];
/// The key of the project's name, which is no environment's.
pub(super) const PROJECT: &str = "project";
/// The variable that tells an instance where to listen.
const PORT: &str = "PORT";
/// How many of each an environment may have; the schema says the same.
const MAX_VARIABLES: usize = 500;
const MAX_VOLUMES: usize = 20;
const MAX_DOMAINS: usize = 100;
const MAX_TASKS: usize = 100;

/// A rule that settings break: which key, what is wrong, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// From the environment's own keys down to the one at fault; empty when it is the environment's name, and `project`
    /// when it is the project's.
    pub path: Vec<String>,
    pub sentence: String,
    pub hint: Option<String>,
}

impl Problem {
    fn new(path: &[&str], sentence: impl Into<String>, hint: &str) -> Problem {
        Problem {
            path: path.iter().map(|step| (*step).to_owned()).collect(),
            sentence: sentence.into(),
            hint: Some(hint.to_owned()).filter(|hint| !hint.is_empty()),
        }
    }

    /// `memory.min`, for where there is no file.
    pub fn key(&self) -> String {
        self.path.join(".")
    }
}

/// Every rule that these settings break.
pub(super) fn environment(settings: &Environment, name: &EnvironmentName) -> Vec<Problem> {
    let mut problems: Vec<Problem> = self::name(name).into_iter().collect();
    problems.extend(resources(settings));
    problems.extend(instances(settings));
    problems.extend(volumes(settings));
    problems.extend(domains(settings));
    problems.extend(tasks(settings));
    if settings.health.is_some() && settings.port.is_none() {
        problems.push(Problem::new(
            &["health"],
            "`health` needs a `port` to ask on",
            "add one, such as `port: 8080`",
        ));
    }
    if settings.env.iter().flatten().any(|(name, _)| name.as_str() == PORT) {
        let hint = "write `port: 8080` instead: instances are told in `PORT` where to listen";
        problems.push(Problem::new(
            &["env", PORT],
            format!("`{PORT}` is a name that skpr sets itself"),
            hint,
        ));
    }
    if settings.env.as_ref().is_some_and(|env| env.len() > MAX_VARIABLES) {
        problems.push(Problem::new(&["env"], format!("has more than {MAX_VARIABLES} variables"), ""));
    }
    let length = settings.to_json().len();
    if problems.is_empty() && length > MAX_SETTINGS_BYTES {
        let sentence = format!(
            "the settings of `{}` are {length} bytes of JSON, more than {MAX_SETTINGS_BYTES}",
            name.environment
        );
        problems.push(Problem::new(&[], sentence, "move what is long out of `env` into a file of the image"));
    }
    problems
}

fn name(name: &EnvironmentName) -> Option<Problem> {
    let environment = name.environment.as_str();
    if RESERVED.contains(&environment) {
        let sentence = format!("`{environment}` is a reserved name");
        return Some(Problem::new(&[], sentence, "choose another, such as `dev`, `staging` or `prod`"));
    }
    let project = name.project.as_str();
    if !project.starts_with(|first: char| first.is_ascii_lowercase()) {
        // A Service of that name could not be made: RFC 1035.
        let sentence = format!("`{project}` does not begin with a letter, as a project's name has to");
        let hint = format!("put a letter before it, such as `site-{project}`");
        return Some(Problem::new(&[PROJECT], sentence, &hint));
    }
    let whole = format!("{project}-{environment}");
    (whole.len() > MAX_NAME).then(|| {
        let sentence = format!("`{whole}` is {} characters long, at most {MAX_NAME} fit", whole.len());
        Problem::new(&[], sentence, "shorten the project's or the environment's name")
    })
}

fn resources(settings: &Environment) -> Vec<Problem> {
    let mut problems = Vec::new();
    if let Some(memory) = &settings.memory
        && let (Some(min), Some(max)) = (&memory.min, &memory.max)
        && min > max
    {
        let sentence = format!("min `{min}` is more than max `{max}`");
        problems.push(Problem::new(&["memory", "min"], sentence, &swap(min.as_str(), max.as_str())));
    }
    if let Some(cpu) = &settings.cpu
        && let Some(limit) = &cpu.limit
        && &cpu.share > limit
    {
        let sentence = format!("share `{}` is more than limit `{limit}`", cpu.share);
        problems.push(Problem::new(&["cpu", "share"], sentence, "lower the share or raise the limit"));
    }
    problems
}

fn swap(min: &str, max: &str) -> String {
    format!("did you mean `{{min: {max}, max: {min}}}`?")
}

fn instances(settings: &Environment) -> Vec<Problem> {
    let Some(instances) = &settings.instances else { return Vec::new() };
    let (min, max) = (instances.min, instances.max);
    let mut problems = Vec::new();
    for (key, count) in [("min", min), ("max", max)] {
        if count == 0 {
            let sentence = format!("{key} is `0`: an environment runs at least one instance");
            let hint = "write `1`; what is to be gone goes by `skpr delete ENV`";
            problems.push(Problem::new(&["instances", key], sentence, hint));
        } else if count > MAX_INSTANCES {
            let sentence = format!("{key} `{count}` is more than {MAX_INSTANCES}");
            problems.push(Problem::new(&["instances", key], sentence, ""));
        }
    }
    if min > max && problems.is_empty() {
        let sentence = format!("min `{min}` is more than max `{max}`");
        problems.push(Problem::new(
            &["instances", "min"],
            sentence,
            &swap(&min.to_string(), &max.to_string()),
        ));
    }
    problems
}

fn volumes(settings: &Environment) -> Vec<Problem> {
    let mut problems = Vec::new();
    let Some(volumes) = &settings.volumes else { return problems };
    if volumes.len() > MAX_VOLUMES {
        return vec![Problem::new(&["volumes"], format!("has more than {MAX_VOLUMES} volumes"), "")];
    }
    for (name, volume) in volumes {
        let path = volume.path.as_str();
        let around = volumes.iter().find(|(other, around)| {
            let around = around.path.as_str();
            // Of two equal ones the second is at fault.
            (around == path && *other < name)
                || path.strip_prefix(around).is_some_and(|rest| rest.starts_with('/'))
        });
        if let Some((other, around)) = around {
            let sentence = match around.path == volume.path {
                true => format!("`{path}` is the path of the volume `{other}` too"),
                false => format!("`{path}` lies inside of the volume `{other}` at `{}`", around.path),
            };
            let hint = "give each volume a path of its own";
            problems.push(Problem::new(&["volumes", name.as_str(), "path"], sentence, hint));
        }
    }
    problems
}

fn domains(settings: &Environment) -> Vec<Problem> {
    let mut problems = Vec::new();
    let Some(domains) = &settings.domains else { return problems };
    if domains.len() > MAX_DOMAINS {
        return vec![Problem::new(&["domains"], format!("has more than {MAX_DOMAINS} domains"), "")];
    }
    let mut seen = BTreeSet::new();
    for (index, domain) in domains.iter().enumerate() {
        if !seen.insert(domain) {
            let sentence = format!("the domain `{domain}` is there twice");
            problems.push(Problem::new(&["domains", &index.to_string()], sentence, "remove one of the two"));
        }
    }
    if settings.port.is_none() && !domains.is_empty() {
        let sentence = "`domains` need a `port` to lead to";
        problems.push(Problem::new(&["domains"], sentence, "add one, such as `port: 8080`"));
    }
    problems
}

fn tasks(settings: &Environment) -> Vec<Problem> {
    let Some(cron) = &settings.cron else { return Vec::new() };
    if cron.len() > MAX_TASKS {
        return vec![Problem::new(&["cron"], format!("has more than {MAX_TASKS} tasks"), "")];
    }
    Vec::new()
}

/// The domains of `settings` that an environment before it has, of the same file.
pub(super) fn shared_domains(
    name: &Label,
    settings: &Environment,
    known: &mut BTreeMap<Domain, Label>,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (index, domain) in settings.domains.iter().flatten().enumerate() {
        match known.get(domain) {
            // Twice within one environment is said there.
            Some(other) if other == name => {}
            Some(other) => {
                let sentence = format!("the domain `{domain}` is one of environment `{other}` too");
                let hint = "a domain leads to one environment: remove it from one of the two";
                problems.push(Problem::new(&["domains", &index.to_string()], sentence, hint));
            }
            None => {
                known.insert(domain.clone(), name.clone());
            }
        }
    }
    problems
}

/// What is wrong with the keys that are the project's own.
pub(super) fn project(manifest: &Manifest) -> Vec<Problem> {
    let image = manifest.image.as_deref().map(check_image);
    let cluster = manifest.cluster.as_deref().map(cluster);
    let none =
        Refusal::new("there is no environment").with_hint("add one, such as `environments: {dev: {}}`");
    let environments = manifest.environments.is_empty().then_some(Err(none));
    [("image", image), ("cluster", cluster), ("environments", environments)]
        .into_iter()
        .filter_map(|(key, checked)| Some((key, checked?.err()?)))
        .map(|(key, refusal)| Problem {
            path: vec![key.to_owned()],
            sentence: refusal.sentence,
            hint: refusal.hint,
        })
        .collect()
}

/// Whether this is an image's repository, without a tag: `registry.example.com/team/site`.
pub fn check_image(text: &str) -> Result<(), Refusal> {
    let example = "write the repository, such as `registry.example.com/my-site`";
    let (path, digest) = text.split_once('@').map_or((text, None), |(path, digest)| (path, Some(digest)));
    let name_at = path.rfind('/').map_or(0, |at| at + 1);
    let tag = path.get(name_at..).and_then(|name| name.find(':'));
    if text.contains("://") {
        return Err(Refusal::new("is a URL where an image is wanted").with_hint(example).about(text));
    }
    let bare = tag.and_then(|at| path.get(..name_at + at)).unwrap_or(path);
    let component = |part: &str| {
        let edge =
            |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(&byte);
        edge(part.as_bytes().first()) && edge(part.as_bytes().last()) && part.bytes().all(inner)
    };
    let parts: Vec<&str> = bare.split('/').collect();
    let (host, rest) = match parts.as_slice() {
        [host, rest @ ..] if !rest.is_empty() && host.contains(['.', ':']) => (Some(*host), rest),
        all => (None, all),
    };
    let valid = bare.len() <= 255 && host.is_none_or(is_host) && rest.iter().all(|part| component(part));
    if !valid {
        return Err(Refusal::new("is no image's repository").with_hint(example).about(text));
    }
    if tag.is_some() || digest.is_some() {
        let hint = format!("did you mean `{bare}`? The version is given to `skpr deploy`");
        return Err(Refusal::new("names a version").with_hint(hint).about(text));
    }
    Ok(())
}

fn cluster(text: &str) -> Result<(), Refusal> {
    if text.len() <= 260 && is_host(text) {
        return Ok(());
    }
    let hint = "write the aggregator's HOST or HOST:PORT, such as `skpr.example.com:443`";
    Err(Refusal::new("is no cluster").with_hint(hint).about(text))
}

/// `HOST` or `HOST:PORT`.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let named = |host: &str| {
        host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
    };
    port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
        && address.map_or_else(|| named(host), |address| address.parse::<std::net::Ipv6Addr>().is_ok())
}
