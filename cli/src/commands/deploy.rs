//! `skpr deploy`: puts a version into an environment, and watches how it goes.
//!
//! Invariant: everything that can be wrong on this side is found before anything is sent.

mod change;
mod flow;
mod follow;
mod outcome;
mod plan;
mod progress;

pub(super) use change::Change;
pub(super) use flow::{Wish, carry_out};

use super::call::Cluster;
use crate::args::{Deploy, Waiting};
use crate::error::{Error, usage};
use crate::output::Output;
use crate::project::{Described, Project};
use crate::settings::Settings;
use crate::terminal::clean;
use crate::time;
use skpr_proto::v1::DeployRequest;
use skpr_proto::{DIRTY, EnvironmentName, ErrorKind, Failure, Version};
use std::time::Duration;

pub(super) async fn run(verb: &Deploy, settings: &Settings, output: &Output) -> Result<(), Error> {
    if let Some(id) = &verb.follow {
        return attach(id, verb, settings, output).await;
    }
    let typed = verb.environment.as_deref().unwrap_or_default();
    let project = Project::here()?;
    let environment = settings.environment(typed)?;
    let resolved = project.settings_of(&environment)?;
    let wish = Wish::new(&verb.waiting, verb.dry_run)?;
    let version = match &verb.version {
        Some(version) if version.trim().is_empty() => {
            return Err(usage("the version is empty").with_hint("skpr deploy ENV VERSION").into());
        }
        Some(version) => Version::parse(version)?,
        None => {
            let described = project.describe()?;
            let version = Version::parse(&described.version)?;
            check_dirty(&described, resolved.production == Some(true), verb, output)?;
            version
        }
    };
    let request = DeployRequest {
        environment: None,
        version: version.into(),
        image: project.manifest.image.clone(),
        settings: resolved.to_json().into(),
        timeout_seconds: wish.timeout_seconds(),
        keep_failed: verb.no_rollback,
        dry_run: false,
    };
    let namespace = settings.namespace(verb.namespace.as_deref())?;
    let cluster = Cluster::open(environment, namespace, settings, output).await?;
    let dirty = request.version.ends_with(DIRTY);
    let done = carry_out(Change::Deploy(request), &wish, cluster).await;
    done.map_err(|error| if dirty { not_committed(error) } else { error })
}

/// Standalone, a version is a commit: there is none of what is not committed, whatever was agreed to.
fn not_committed(error: Error) -> Error {
    match error {
        Error::Failed { failure, causes } if failure.kind == ErrorKind::NotFound => {
            let message = format!(
                "{}; standalone, only what is committed can be deployed, also with --allow-dirty",
                failure.message
            );
            let hint = "git commit, then skpr deploy ENV";
            Error::Failed { failure: Failure { message, ..failure }.with_hint(hint), causes }
        }
        error => error,
    }
}

fn check_dirty(
    described: &Described,
    production: bool,
    verb: &Deploy,
    output: &Output,
) -> Result<(), Failure> {
    if !described.dirty {
        return Ok(());
    }
    let version = &described.version;
    if production {
        let refusal =
            format!("`{version}` has changes that are not committed, which production does not get");
        return Err(usage(refusal).with_hint("commit them, or name a version: skpr deploy ENV VERSION"));
    }
    if verb.allow_dirty {
        return Ok(());
    }
    output
        .warn(&format!("`{version}` stands for changes that are not committed: nobody can find them again"));
    Ok(())
}

/// `skpr deploy --follow ID`.
async fn attach(id: &str, verb: &Deploy, settings: &Settings, output: &Output) -> Result<(), Error> {
    let (environment, number) = released(id, verb.environment.as_deref(), settings)?;
    let wish = Wish::new(&verb.waiting, false)?;
    let namespace = settings.namespace(verb.namespace.as_deref())?;
    let cluster = Cluster::open(environment, namespace, settings, output).await?;
    flow::attach(number, &wish, cluster).await
}

/// The release that an id names; 0 is the newest of the environment.
fn released(
    id: &str,
    environment: Option<&str>,
    settings: &Settings,
) -> Result<(EnvironmentName, u64), Failure> {
    let wrong = || match environment {
        None => usage(format!("`{}` is not the id of a deploy", clean(id))).with_hint(
            "an id is PROJECT/ENV/NUMBER or ENV/NUMBER, such as `shop/prod/42`; skpr releases ENV shows them",
        ),
        // Somebody meant it as a flag without a value, before ENV and VERSION.
        Some(typed) => {
            let (id, typed) = (clean(id), clean(typed));
            usage(format!("--follow takes the id of a deploy alone: `{id}` is none of `{typed}`")).with_hint(
                format!(
                    "skpr deploy --follow {id} watches it; skpr deploy {id} {typed} begins one and watches it"
                ),
            )
        }
    };
    let number = |text: &str| text.parse::<u64>().ok().filter(|number| *number > 0);
    let parts: Vec<&str> = id.split('/').collect();
    let (name, number) = match (parts.as_slice(), environment) {
        ([last], Some(environment)) => (environment.to_owned(), number(last).ok_or_else(wrong)?),
        ([only], None) if only.parse::<u64>().is_err() => ((*only).to_owned(), 0),
        ([first, last], _) => match number(last) {
            Some(number) => ((*first).to_owned(), number),
            None => (id.to_owned(), 0),
        },
        ([project, environment, last], _) => {
            (format!("{project}/{environment}"), number(last).ok_or_else(wrong)?)
        }
        _ => return Err(wrong()),
    };
    let name = settings.environment(&name)?;
    if let Some(typed) = environment
        && settings.environment(typed).ok().as_ref() != Some(&name)
    {
        return Err(wrong());
    }
    Ok((name, number))
}

/// A length of time that was typed.
fn length(flag: &str, typed: &str) -> Result<Duration, Failure> {
    let length = time::duration(typed).and_then(|length| Duration::try_from(length).ok());
    match length {
        Some(length) if !length.is_zero() && length <= Duration::from_secs(24 * 3600) => Ok(length),
        _ => Err(usage(format!("{flag} `{typed}` is not a length of time between `1s` and `24h`"))
            .with_hint("such as `90s`, `15m` or `1h30m`")),
    }
}

impl Wish {
    pub(super) fn new(typed: &Waiting, dry_run: bool) -> Result<Wish, Failure> {
        let parsed = |flag: &str, typed: &Option<String>| {
            typed.as_deref().map(|typed| length(flag, typed)).transpose()
        };
        Ok(Wish {
            dry_run,
            wait: !typed.no_wait,
            timeout: parsed("--timeout", &typed.timeout)?,
            lock_wait: parsed("--lock-wait", &typed.lock_wait)?,
        })
    }
}
