//! What the CLI asks. Thin: who calls, what they may, then one question to the inventory or the store.

mod changes;
mod cron;
mod delete;
mod deploy;
mod describe;
mod events;
mod follow;
mod lasting;
mod list;
mod logs;
mod reading;
mod scale;
mod seats;
mod session;
mod target;
mod usage;
mod whoami;
mod wire;

pub(crate) use cron::Cron;
pub(crate) use lasting::{Lasting, lasting};
pub(crate) use seats::{Seat, Seats};

use crate::aggregator::Shared;
use crate::audit::Access;
use crate::auth::User;
use crate::tls::peer;
use futures::stream::BoxStream;
use skpr_proto::Failure;
use skpr_proto::v1::{
    self, DeleteRequest, DeleteResponse, DeployRequest, DeployResponse, DescribeRequest, DescribeResponse,
    EventsRequest, EventsResponse, FollowRequest, FollowResponse, ListRequest, ListResponse, LogsRequest,
    LogsResponse, RollbackRequest, ScaleRequest, ScaleResponse, SessionRequest, SessionResponse,
    UsageRequest, UsageResponse, WhoAmIRequest, WhoAmIResponse,
};
use std::sync::Arc;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

pub(crate) struct Environments(Arc<Shared>);

pub(crate) struct Logs(Arc<Shared>);

pub(crate) struct Metrics(Arc<Shared>);

pub(crate) struct Sessions(Arc<Shared>);

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

impl Metrics {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Metrics(Arc::clone(shared))
    }
}

impl Sessions {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Sessions(Arc::clone(shared))
    }
}

/// Recognises the caller and notes who it is.
async fn caller(shared: &Shared, metadata: &MetadataMap, access: &mut Access) -> Result<Arc<User>, Failure> {
    let user = shared.auth.user(metadata).await?;
    access.user(&user);
    Ok(user)
}

/// Lets nobody take one of the places of calls that last who is not known. The answer is remembered for the call itself.
async fn recognised(shared: &Shared, metadata: &MetadataMap, mut access: Access) -> Result<Access, Status> {
    match caller(shared, metadata, &mut access).await {
        Ok(_) => Ok(access),
        Err(failure) => Err(access.failed(failure)),
    }
}

/// Ends a call that has one answer. A disconnect before it cancels the call, but for those that change something, which
/// [`Lasting`] carries out.
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
        let mut access = Access::begin(&self.0, "Environments.WhoAmI", peer(&request));
        let result = whoami::who_am_i(&self.0, &request, &mut access).await;
        answer(access, result)
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let mut access = Access::begin(&self.0, "Environments.List", peer(&request));
        let result = list::list(&self.0, &request, &mut access).await;
        answer(access, result)
    }

    async fn describe(
        &self,
        request: Request<DescribeRequest>,
    ) -> Result<Response<DescribeResponse>, Status> {
        let mut access = Access::begin(&self.0, "Environments.Describe", peer(&request));
        let result = describe::describe(&self.0, &request, &mut access).await;
        answer(access, result)
    }

    /// A disconnect does not cancel it.
    async fn deploy(&self, request: Request<DeployRequest>) -> Result<Response<DeployResponse>, Status> {
        let access = Access::begin(&self.0, "Environments.Deploy", peer(&request));
        let mut access = recognised(&self.0, request.metadata(), access).await?;
        let shared = Arc::clone(&self.0);
        let call = async move {
            let result = deploy::deploy(&shared, &request, &mut access).await;
            answer(access, result)
        };
        self.0.lasting.carry(call).await
    }

    /// A disconnect does not cancel it.
    async fn rollback(&self, request: Request<RollbackRequest>) -> Result<Response<DeployResponse>, Status> {
        let access = Access::begin(&self.0, "Environments.Rollback", peer(&request));
        let mut access = recognised(&self.0, request.metadata(), access).await?;
        let shared = Arc::clone(&self.0);
        let call = async move {
            let result = deploy::rollback(&shared, &request, &mut access).await;
            answer(access, result)
        };
        self.0.lasting.carry(call).await
    }

    type FollowStream = BoxStream<'static, Result<FollowResponse, Status>>;

    /// A disconnect cancels it: the stream is dropped. What it watches goes on.
    async fn follow(&self, request: Request<FollowRequest>) -> Result<Response<Self::FollowStream>, Status> {
        let mut access = Access::begin(&self.0, "Environments.Follow", peer(&request));
        match follow::open(&self.0, &request, &mut access).await {
            Ok(following) => Ok(Response::new(follow::stream(following, access))),
            Err(failure) => Err(access.failed(failure)),
        }
    }

    /// A disconnect does not cancel it.
    async fn scale(&self, request: Request<ScaleRequest>) -> Result<Response<ScaleResponse>, Status> {
        let access = Access::begin(&self.0, "Environments.Scale", peer(&request));
        let mut access = recognised(&self.0, request.metadata(), access).await?;
        let shared = Arc::clone(&self.0);
        let call = async move {
            let result = scale::scale(&shared, &request, &mut access).await;
            answer(access, result)
        };
        self.0.lasting.carry(call).await
    }

    /// A disconnect does not cancel it.
    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        let access = Access::begin(&self.0, "Environments.Delete", peer(&request));
        let mut access = recognised(&self.0, request.metadata(), access).await?;
        let shared = Arc::clone(&self.0);
        let call = async move {
            let result = delete::delete(&shared, &request, &mut access).await;
            answer(access, result)
        };
        self.0.lasting.carry(call).await
    }
}

#[tonic::async_trait]
impl v1::logs_server::Logs for Logs {
    type LogsStream = BoxStream<'static, Result<LogsResponse, Status>>;

    /// A disconnect cancels it: the stream is dropped, and with it the reader.
    async fn logs(&self, request: Request<LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let mut access = Access::begin(&self.0, "Logs.Logs", peer(&request));
        match logs::open(&self.0, request, &mut access).await {
            Ok(opened) => Ok(Response::new(reading::stream(opened, access, logs::response))),
            Err(failure) => Err(access.failed(failure)),
        }
    }

    type EventsStream = BoxStream<'static, Result<EventsResponse, Status>>;

    /// A disconnect cancels it: the stream is dropped, and with it the reader.
    async fn events(&self, request: Request<EventsRequest>) -> Result<Response<Self::EventsStream>, Status> {
        let mut access = Access::begin(&self.0, "Logs.Events", peer(&request));
        match events::open(&self.0, request, &mut access).await {
            Ok(opened) => Ok(Response::new(reading::stream(opened, access, events::response))),
            Err(failure) => Err(access.failed(failure)),
        }
    }
}

#[tonic::async_trait]
impl v1::metrics_server::Metrics for Metrics {
    async fn read(&self, request: Request<UsageRequest>) -> Result<Response<UsageResponse>, Status> {
        let mut access = Access::begin(&self.0, "Metrics.Read", peer(&request));
        let result = usage::read(&self.0, &request, &mut access).await;
        answer(access, result)
    }
}

#[tonic::async_trait]
impl v1::sessions_server::Sessions for Sessions {
    type OpenStream = BoxStream<'static, Result<SessionResponse, Status>>;

    /// A disconnect cancels it: both streams are dropped, and the agent ends what the session has started.
    async fn open(
        &self,
        request: Request<Streaming<SessionRequest>>,
    ) -> Result<Response<Self::OpenStream>, Status> {
        let access = Access::begin(&self.0, "Sessions.Open", peer(&request));
        session::open(&self.0, request, access).await.map(Response::new)
    }
}
