//! `Describe`: all that is known of one environment, but for the values of its variables.

use super::changes::hidden;
use super::target::{Target, heard};
use super::usage::now;
use super::{list, wire};
use crate::aggregator::Shared;
use crate::audit::Access;
use crate::auth::{Grant, See};
use skpr_proto::v1::{DescribeRequest, DescribeResponse};
use skpr_proto::{ErrorKind, Failure};
use tonic::Request;

pub(super) async fn describe(
    shared: &Shared,
    request: &Request<DescribeRequest>,
    access: &mut Access,
) -> Result<DescribeResponse, Failure> {
    let user = super::caller(shared, request.metadata(), access).await?;
    let target = Target::parse(request.get_ref().environment.as_ref())?;
    access.asked(target.name.to_string());
    let inventory = heard(shared)?;
    let grant: Grant<See> = shared.auth.grant(&user, &target.name, &target.listed(&inventory)).await?;
    access.allowed(Some(grant.environment()));
    shared.platform.is_known(grant.environment())?;
    access.sent(1, 0);
    let key = grant.environment();
    let state = inventory.environments.get(key).ok_or_else(|| {
        Failure::new(ErrorKind::NotFound, format!("there is no environment `{}`", target.name))
            .with_hint("skpr list")
    })?;
    let mut summary = list::summary(key, state, inventory.stale);
    summary.instance = list::instances(state);
    now::fill(&shared.usage, key, state, &mut summary);
    let managed = state.managed.as_deref();
    Ok(DescribeResponse {
        summary: Some(summary),
        releases: managed
            .map(|managed| managed.releases.iter().rev().map(wire::release).collect())
            .unwrap_or_default(),
        settings: managed.map(|managed| hidden(&managed.settings)).unwrap_or_default().into(),
        image: managed.and_then(|managed| managed.image.clone()),
    })
}
