//! What the CLI asks. Thin: who calls, what they may, then one question to the inventory or the store.

mod list;
mod logs;
mod seats;
mod whoami;

pub(crate) use seats::Seats;

use crate::aggregator::Shared;
use crate::audit::Access;
use crate::auth::User;
use futures::stream::BoxStream;
use skpr_proto::Failure;
use skpr_proto::v1::{
    self, ListRequest, ListResponse, LogsRequest, LogsResponse, WhoAmIRequest, WhoAmIResponse,
};
use std::sync::Arc;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

pub(crate) struct Environments(Arc<Shared>);

pub(crate) struct Logs(Arc<Shared>);

impl Environments {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Environments(Arc::clone(shared))
    }
}

impl Logs {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Logs(Arc::clone(shared))
    }
}

/// Recognises the caller and notes who it is.
async fn caller(shared: &Shared, metadata: &MetadataMap, access: &mut Access) -> Result<Arc<User>, Failure> {
    let user = shared.auth.user(metadata).await?;
    access.user(&user);
    Ok(user)
}

/// Ends a call that has one answer. A disconnect before it cancels the call: none of them changes anything.
fn answer<T>(mut access: Access, result: Result<T, Failure>) -> Result<Response<T>, Status> {
    match result {
        Ok(answer) => {
            access.completed();
            Ok(Response::new(answer))
        }
        Err(failure) => Err(access.failed(failure)),
    }
}

#[tonic::async_trait]
impl v1::environments_server::Environments for Environments {
    async fn who_am_i(&self, request: Request<WhoAmIRequest>) -> Result<Response<WhoAmIResponse>, Status> {
        let mut access = Access::begin(&self.0, "Environments.WhoAmI", request.remote_addr());
        let result = whoami::who_am_i(&self.0, &request, &mut access).await;
        answer(access, result)
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let mut access = Access::begin(&self.0, "Environments.List", request.remote_addr());
        let result = list::list(&self.0, &request, &mut access).await;
        answer(access, result)
    }
}

#[tonic::async_trait]
impl v1::logs_server::Logs for Logs {
    type LogsStream = BoxStream<'static, Result<LogsResponse, Status>>;

    /// A disconnect cancels it: the stream is dropped, and with it the reader.
    async fn logs(&self, request: Request<LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let mut access = Access::begin(&self.0, "Logs.Logs", request.remote_addr());
        match logs::open(&self.0, request, &mut access).await {
            Ok(opened) => Ok(Response::new(logs::stream(opened, access))),
            Err(failure) => Err(access.failed(failure)),
        }
    }
}
