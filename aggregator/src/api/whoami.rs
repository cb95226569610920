//! `WhoAmI`: needs a good token and no right.

use crate::aggregator::Shared;
use crate::audit::Access;
use skpr_proto::Failure;
use skpr_proto::v1::{WhoAmIRequest, WhoAmIResponse};
use tonic::Request;

pub(super) async fn who_am_i(
    shared: &Shared,
    request: &Request<WhoAmIRequest>,
    access: &mut Access,
) -> Result<WhoAmIResponse, Failure> {
    let user = super::caller(shared, request.metadata(), access).await?;
    access.allowed(None);
    Ok(WhoAmIResponse {
        name: user.name.clone(),
        groups: user.groups.clone(),
        rights: shared.auth.rights(&user)?,
        server_version: env!("CARGO_PKG_VERSION").into(),
    })
}
