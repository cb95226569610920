//! What a deploy asks for, as a value that can be trusted. Pure: the same rules hold whatever program asks.

use crate::environment::EnvironmentKey;
use crate::inventory::Managed;
use crate::release::{self, Deploy};
use skpr_proto::error::usage;
use skpr_proto::manifest::{Environment, Refusal, check_image};
use skpr_proto::v1::DeployRequest;
use skpr_proto::{DIRTY, ErrorKind, Failure, Version};
use std::sync::Arc;
use std::time::Duration;

pub(super) fn read(request: &DeployRequest, key: &EnvironmentKey, by: String) -> Result<Deploy, Failure> {
    let settings = Environment::from_json(&request.settings)?;
    settings.check(&key.name).map_err(|problems| {
        let sentences = problems.iter().map(|problem| match problem.key() {
            key if key.is_empty() => problem.sentence.clone(),
            key => format!("{key}: {}", problem.sentence),
        });
        let message = sentences.collect::<Vec<_>>().join("; ");
        let hint = problems.into_iter().find_map(|problem| problem.hint);
        Failure { hint, ..Failure::new(ErrorKind::InvalidConfiguration, message) }
    })?;
    Ok(Deploy {
        version: version(&request.version)?,
        image: request.image.as_deref().map(image).transpose()?,
        settings,
        by,
        timeout: timeout(request.timeout_seconds)?,
        returns: !request.keep_failed,
        restores: None,
    })
}

pub(super) fn version(text: &str) -> Result<String, Failure> {
    Version::parse(text).map(String::from)
}

fn image(text: &str) -> Result<String, Failure> {
    let refused = |refusal: Refusal| Failure {
        hint: refusal.hint,
        ..Failure::new(ErrorKind::InvalidConfiguration, format!("image: {}", refusal.sentence))
    };
    check_image(text).map(|()| text.to_owned()).map_err(refused)
}

pub(super) fn timeout(seconds: u32) -> Result<Duration, Failure> {
    match seconds {
        0 => Ok(release::TIMEOUT),
        1..=release::LONGEST_TIMEOUT => Ok(Duration::from_secs(seconds.into())),
        _ => Err(usage(format!("a timeout of `{seconds}` s is more than a day"))),
    }
}

/// What is not in any commit cannot be told from anything else afterwards: not for production.
pub(super) fn refuse_dirty(deploy: &Deploy, before: Option<&Arc<Managed>>) -> Result<(), Failure> {
    let is = |settings: &Environment| settings.production.unwrap_or_default();
    let production = is(&deploy.settings) || before.is_some_and(|managed| is(&managed.settings));
    if production && deploy.version.ends_with(DIRTY) {
        let message = format!("`{}` has changes that are in no commit: not for production", deploy.version);
        return Err(usage(message).with_hint("commit them and deploy that"));
    }
    Ok(())
}
