//! `Scale`: how many instances run, until the next deploy. A disconnect does not cancel it.

use super::target::{Target, heard, managed};
use crate::aggregator::Shared;
use crate::audit::Access;
use crate::auth::{Change, Grant};
use crate::platform::Scale;
use skpr_proto::Failure;
use skpr_proto::v1::{ScaleRequest, ScaleResponse};
use tonic::Request;

pub(super) async fn scale(
    shared: &Shared,
    request: &Request<ScaleRequest>,
    access: &mut Access,
) -> Result<ScaleResponse, Failure> {
    let user = super::caller(shared, request.metadata(), access).await?;
    let request = request.get_ref();
    let target = Target::parse(request.environment.as_ref())?;
    access.asked(target.name.to_string());
    let inventory = heard(shared)?;
    let grant: Grant<Change> = shared.auth.grant(&user, &target.name, &target.listed(&inventory)).await?;
    access.allowed(Some(grant.environment()));
    managed(&inventory, grant.environment())?;
    let wanted = Scale {
        minimum: request.minimum,
        maximum: request.maximum,
        dry_run: request.dry_run,
        by: super::deploy::by(&user),
    };
    let scaled = shared.platform.scale(&grant, wanted).await?;
    Ok(ScaleResponse {
        minimum_before: scaled.before.0,
        maximum_before: scaled.before.1,
        minimum: scaled.after.0,
        maximum: scaled.after.1,
    })
}
