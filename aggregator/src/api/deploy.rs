//! `Deploy` and `Rollback`: what is asked is checked, compared with what there is, and begun.
//!
//! A disconnect does not cancel either ([`super::lasting`]), and what was begun needs nobody.

mod request;
mod rollback;

pub(super) use rollback::rollback;

use super::changes::changes;
use super::target::{Target, heard};
use super::wire;
use crate::aggregator::Shared;
use crate::audit::Access;
use crate::auth::{Change, Grant, User};
use crate::domains::{self, Asking};
use crate::environment::EnvironmentKey;
use crate::inventory::{Inventory, Managed};
use crate::platform;
use crate::release::{self, Deploy};
use skpr_proto::v1::{self, DeployRequest, DeployResponse};
use skpr_proto::{ErrorKind, Failure};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tonic::Request;

/// How long a release that was begun may take to show in the inventory. Nothing depends on it but a client that asks for
/// it at once.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

pub(super) async fn deploy(
    shared: &Shared,
    request: &Request<DeployRequest>,
    access: &mut Access,
) -> Result<DeployResponse, Failure> {
    let user = super::caller(shared, request.metadata(), access).await?;
    let request = request.get_ref();
    let target = Target::parse(request.environment.as_ref())?;
    access.asked(target.name.to_string());
    let inventory = heard(shared)?;
    let home = match &target.namespace {
        Some(namespace) => EnvironmentKey { namespace: namespace.clone(), name: target.name.clone() },
        None => shared.platform.home(&target.name)?,
    };
    let mut grant = shared.auth.grant_deploy(&user, &home, &target.managed(&inventory)).await?;
    access.allowed(Some(grant.environment()));
    let deploy = request::read(request, grant.environment(), by(&user))?;
    let before = known(&inventory, grant.environment());
    request::refuse_dirty(&deploy, before)?;
    if before.is_none() && shared.platform.makes_namespace(grant.environment()).await? {
        grant = shared.auth.grant_namespace(grant).await?;
    }
    begin(shared, &grant, deploy, request.dry_run, access).await
}

/// Who is written into releases and events.
pub(super) fn by(user: &User) -> String {
    const LONGEST: usize = 253;
    let name = user.name.chars().take(LONGEST);
    name.map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

fn known<'a>(inventory: &'a Inventory, key: &EnvironmentKey) -> Option<&'a Arc<Managed>> {
    inventory.environments.get(key)?.managed.as_ref()
}

/// Compares with what there is, and begins the release unless it is only asked what it would change.
async fn begin(
    shared: &Shared,
    grant: &Grant<Change>,
    deploy: Deploy,
    dry_run: bool,
    access: &mut Access,
) -> Result<DeployResponse, Failure> {
    let key = grant.environment();
    let inventory = heard(shared)?;
    let before = known(&inventory, key);
    if before.is_some_and(|managed| managed.deleting) {
        return Err(platform::being_deleted(&key.name));
    }
    domains_are_free(&inventory, key, &deploy)?;
    shared.platform.check(key, &deploy).await?;
    let mut response = compare(key, before.map(Arc::as_ref), &deploy);
    if dry_run {
        return Ok(response);
    }
    response.release = shared.platform.deploy(grant, deploy).await?;
    access.release(response.release);
    seen(shared, key, response.release).await;
    Ok(response)
}

/// While a release is under way, what it may still become is no ground to compare with: the good one before it is.
fn compare(key: &EnvironmentKey, before: Option<&Managed>, deploy: &Deploy) -> DeployResponse {
    let now = before.and_then(|managed| match release::open(&managed.releases) {
        None => Some((&managed.version, &managed.image, &managed.settings)),
        Some(open) => release::good_before(&managed.releases, open.number)
            .map(|good| (&good.version, &good.image, &good.settings)),
    });
    let mut list = changes(now.map(|(_, _, settings)| settings), &deploy.settings);
    let image = now.and_then(|(_, image, _)| image.clone());
    if image != deploy.image {
        list.insert(0, v1::Change { setting: "image".into(), before: image, after: deploy.image.clone() });
    }
    DeployResponse {
        release: 0,
        environment: Some(wire::environment(key)),
        version_before: now.map(|(version, ..)| version.clone()),
        version: deploy.version.clone(),
        changes: list,
        created: before.is_none(),
        production: deploy.settings.production.unwrap_or_default(),
    }
}

/// A domain leads to one environment. Whose it is, is nobody's business who may not see that one.
fn domains_are_free(inventory: &Inventory, key: &EnvironmentKey, deploy: &Deploy) -> Result<(), Failure> {
    let own = known(inventory, key);
    let asking = Asking {
        key,
        domains: deploy.settings.domains.as_deref().unwrap_or_default(),
        before: own.and_then(|own| own.settings.domains.as_deref()).unwrap_or_default(),
        serves: own.map_or(&[][..], |own| &own.serves),
        created: own.and_then(|own| own.created),
    };
    let others = inventory.environments.iter();
    let managed = others.filter_map(|(key, state)| Some((key, state.managed.as_deref()?)));
    match domains::taken(&asking, managed).first() {
        None => Ok(()),
        Some(domain) => Err(Failure::new(
            ErrorKind::InvalidConfiguration,
            format!("the domain `{domain}` is taken by another environment"),
        )
        .with_hint("choose another, or take it from the environment that has it")),
    }
}

/// Waits a moment for the release to show, so that a client that follows it finds it.
async fn seen(shared: &Shared, key: &EnvironmentKey, number: u64) {
    let mut inventory = shared.inventory.clone();
    let shows = |inventory: &Arc<Inventory>| {
        known(inventory, key).is_some_and(|managed| managed.releases.iter().any(|one| one.number >= number))
    };
    // It goes on either way.
    drop(timeout(SEEN_WITHIN, inventory.wait_for(shows)).await);
}

#[cfg(test)]
mod tests;
