//! `Rollback`: a deploy of what an earlier release was.

use super::request;
use crate::aggregator::Shared;
use crate::api::target::{Target, heard, managed};
use crate::audit::Access;
use crate::auth::{Change, Grant};
use crate::release::{self, Deploy, Release, State};
use skpr_proto::v1::{DeployResponse, RollbackRequest};
use skpr_proto::{EnvironmentName, ErrorKind, Failure};
use tonic::Request;

pub(in crate::api) async fn rollback(
    shared: &Shared,
    request: &Request<RollbackRequest>,
    access: &mut Access,
) -> Result<DeployResponse, Failure> {
    let user = crate::api::caller(shared, request.metadata(), access).await?;
    let request = request.get_ref();
    let target = Target::parse(request.environment.as_ref())?;
    access.asked(target.name.to_string());
    let inventory = heard(shared)?;
    let grant: Grant<Change> = shared.auth.grant(&user, &target.name, &target.listed(&inventory)).await?;
    access.allowed(Some(grant.environment()));
    shared.platform.is_known(grant.environment())?;
    let timeout = request::timeout(request.timeout_seconds)?;
    let version = request.version.as_deref().map(request::version).transpose()?;
    let managed = managed(&inventory, grant.environment())?;
    let earlier = choose(&target.name, &managed.releases, version.as_deref())?;
    let deploy = Deploy {
        version: earlier.version.clone(),
        image: earlier.image.clone(),
        settings: earlier.settings.clone(),
        by: super::by(&user),
        timeout,
        returns: true,
        restores: Some(earlier.number),
    };
    super::begin(shared, &grant, deploy, request.dry_run, access).await
}

/// The release to go back to. One that failed and was left as it is has the newest good one before it; else the good one
/// before the one that runs is meant.
pub(super) fn choose<'a>(
    name: &EnvironmentName,
    releases: &'a [Release],
    version: Option<&str>,
) -> Result<&'a Release, Failure> {
    let found = match version {
        Some(version) => {
            let good = |one: &&Release| one.state == State::Succeeded && one.version == version;
            releases.iter().rev().find(good)
        }
        None => release::current(releases).and_then(|now| release::good_before(releases, now.number)),
    };
    found.ok_or_else(|| nothing(name, releases, version))
}

fn nothing(name: &EnvironmentName, releases: &[Release], version: Option<&str>) -> Failure {
    let good: Vec<String> = releases
        .iter()
        .rev()
        .filter(|one| one.state == State::Succeeded)
        .map(|one| format!("`{}` (release {})", one.version, one.number))
        .collect();
    let has = match good.as_slice() {
        [] => "none of its releases has succeeded".to_owned(),
        [only] => format!("the only one that succeeded is {only}"),
        several => format!("those that succeeded are {}", several.join(", ")),
    };
    let message = match version {
        Some(version) => format!("no release of `{name}` has succeeded with `{version}`: {has}"),
        None => format!("`{name}` has no earlier release to go back to: {has}"),
    };
    Failure::new(ErrorKind::NotFound, message).with_hint(format!("skpr releases {name}"))
}
