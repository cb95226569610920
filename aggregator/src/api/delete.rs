//! `Delete`: takes an environment away. A release that is under way is its lock, and ends with it only when that is asked
//! for. A disconnect does not cancel it.

use super::target::{Target, heard, managed};
use super::wire;
use crate::aggregator::Shared;
use crate::audit::Access;
use crate::auth::{self, Grant};
use crate::platform::Delete;
use crate::release;
use skpr_proto::Failure;
use skpr_proto::v1::{DeleteRequest, DeleteResponse};
use tonic::Request;

pub(super) async fn delete(
    shared: &Shared,
    request: &Request<DeleteRequest>,
    access: &mut Access,
) -> Result<DeleteResponse, Failure> {
    let user = super::caller(shared, request.metadata(), access).await?;
    let request = request.get_ref();
    let target = Target::parse(request.environment.as_ref())?;
    access.asked(target.name.to_string());
    let inventory = heard(shared)?;
    let grant: Grant<auth::Delete> =
        shared.auth.grant(&user, &target.name, &target.listed(&inventory)).await?;
    access.allowed(Some(grant.environment()));
    let managed = managed(&inventory, grant.environment())?;
    let how = Delete {
        dry_run: request.dry_run,
        volumes: request.volumes,
        force: request.force,
        by: super::deploy::by(&user),
    };
    let deleted = shared.platform.delete(&grant, how).await?;
    Ok(DeleteResponse {
        removed: deleted.removed,
        kept: deleted.kept,
        under_way: release::open(&managed.releases).map(wire::release),
    })
}
