//! The agents' end: who they are, which pods they are to ship, and what they report.
//!
//! - Every stream is bound to the node that the agent's token names, and ends when the token no longer does.
//! - One control stream a node: a newer one takes over, because the older may be a dead connection's.

mod control;
mod nodes;

pub(crate) use nodes::{Nodes, Reach};

use crate::aggregator::{Shared, stopping};
use crate::audit::Sparing;
use crate::auth::Agent;
use crate::gate::Held;
use crate::ingest;
use crate::tls::{connection, peer};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt as _};
use skpr_proto::v1::agents_server::Agents;
use skpr_proto::v1::{Ack, AgentMessage, AgentReport, Batch, Control, ReportSummary, SessionData};
use skpr_proto::{ErrorKind, Failure};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tonic::{Code, Request, Response, Status, Streaming};

/// How often the token of an open stream is judged again: streams outlive tokens.
const RECHECK: Duration = Duration::from_secs(120);

pub(crate) struct AgentsService {
    shared: Arc<Shared>,
    refused: Sparing,
}

impl AgentsService {
    pub(crate) fn new(shared: &Arc<Shared>) -> AgentsService {
        AgentsService { shared: Arc::clone(shared), refused: Sparing::default() }
    }

    async fn begin<T>(&self, method: &'static str, request: &Request<T>) -> Result<AgentCall, Status> {
        let held = self.shared.gate.enter(method.to_owned());
        match self.shared.auth.agent(request.metadata()).await {
            Ok(agent) => {
                held.rename(format!("{method} of {}", agent.node));
                let (shared, agent) = (Arc::clone(&self.shared), Arc::new(agent));
                Ok(AgentCall { shared, agent, method, code: Code::Cancelled, _held: held })
            }
            Err(failure) => {
                self.shared.metrics.handled(method, failure.kind.code());
                if failure.kind != ErrorKind::Unavailable
                    && let Some(unsaid) = self.refused.say()
                {
                    tracing::warn!(method, peer = ?peer(request), error = %failure, unsaid, "agent refused");
                }
                Err(failure.into())
            }
        }
    }
}

/// An agent's call under way; counts itself when dropped.
pub(crate) struct AgentCall {
    pub(crate) shared: Arc<Shared>,
    pub(crate) agent: Arc<Agent>,
    method: &'static str,
    code: Code,
    _held: Held,
}

impl AgentCall {
    pub(crate) fn failed(&mut self, status: Status) -> Status {
        self.code = status.code();
        status
    }

    pub(crate) fn completed(&mut self) {
        self.code = Code::Ok;
    }

    /// Resolves when the agent's token is no longer good. An API server that cannot be asked is no reason to cut an
    /// agent off: its records would only pile up.
    pub(crate) fn distrusted(&self) -> BoxFuture<'static, Failure> {
        let (shared, agent) = (Arc::clone(&self.shared), Arc::clone(&self.agent));
        Box::pin(async move {
            loop {
                tokio::time::sleep(RECHECK).await;
                match shared.auth.recheck_agent(&agent).await {
                    Ok(()) => {}
                    Err(failure) if failure.kind == ErrorKind::Unavailable => {}
                    Err(failure) => {
                        tracing::info!(node = %agent.node, "an agent's token ran out: its stream ends");
                        return failure;
                    }
                }
            }
        })
    }
}

impl Drop for AgentCall {
    fn drop(&mut self) {
        self.shared.metrics.handled(self.method, self.code);
    }
}

/// Says what was wrong with a frame in terms of who sent it; how tonic's decoder puts it is its own affair.
pub(crate) fn frame_error(status: Status) -> Status {
    match status.code() {
        Code::Internal | Code::Unknown | Code::OutOfRange => {
            Failure::new(ErrorKind::Usage, format!("malformed frame: {}", status.message())).into()
        }
        _ => status,
    }
}

/// What the caller sends, as the agent's answer; the call is counted when it ends.
fn accepted(
    mut call: AgentCall,
    mut bytes: BoxStream<'static, Result<SessionData, Status>>,
) -> BoxStream<'static, Result<SessionData, Status>> {
    let mut distrusted = call.distrusted().fuse();
    let answers = stream::poll_fn(move |context| {
        if let Poll::Ready(failure) = distrusted.poll_unpin(context) {
            return Poll::Ready(Some(Err(call.failed(failure.into()))));
        }
        let next = bytes.poll_next_unpin(context);
        match &next {
            Poll::Ready(None) => call.completed(),
            Poll::Ready(Some(Err(status))) => call.code = status.code(),
            Poll::Ready(Some(Ok(_))) | Poll::Pending => {}
        }
        next
    });
    answers.boxed()
}

#[tonic::async_trait]
impl Agents for AgentsService {
    type ConnectStream = BoxStream<'static, Result<Control, Status>>;
    type ShipStream = BoxStream<'static, Result<Ack, Status>>;
    type AcceptStream = BoxStream<'static, Result<SessionData, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let call = self.begin("Agents.Connect", &request).await?;
        Ok(Response::new(control::stream(call, request.into_inner())))
    }

    async fn ship(&self, request: Request<Streaming<Batch>>) -> Result<Response<Self::ShipStream>, Status> {
        let call = self.begin("Agents.Ship", &request).await?;
        let from = peer(&request);
        Ok(Response::new(ingest::stream(call, request.into_inner(), from)))
    }

    async fn report(
        &self,
        request: Request<Streaming<AgentReport>>,
    ) -> Result<Response<ReportSummary>, Status> {
        let mut call = self.begin("Agents.Report", &request).await?;
        let mut reports = request.into_inner();
        let mut distrusted = call.distrusted();
        loop {
            let message = tokio::select! {
                () = call.shared.stopping.ending.cancelled() => return Err(call.failed(stopping().into())),
                failure = &mut distrusted => return Err(call.failed(failure.into())),
                message = reports.message() => message,
            };
            match message {
                Ok(Some(mut report)) => {
                    if let Some(usage) = report.usage.take() {
                        call.shared.usage.take(&call.agent.node, usage);
                    }
                    call.shared.metrics.report(&call.agent.node, report);
                }
                Ok(None) => {
                    call.completed();
                    return Ok(Response::new(ReportSummary {}));
                }
                Err(status) => return Err(call.failed(frame_error(status))),
            }
        }
    }

    async fn accept(
        &self,
        request: Request<Streaming<SessionData>>,
    ) -> Result<Response<Self::AcceptStream>, Status> {
        let mut call = self.begin("Agents.Accept", &request).await?;
        let node = call.agent.node.clone();
        let relay = Arc::clone(&call.shared.relay);
        let connection = connection(&request);
        match relay.accept(&node, request.into_inner(), connection).await {
            Ok(bytes) => Ok(Response::new(accepted(call, bytes))),
            Err(failure) => Err(call.failed(failure.into())),
        }
    }
}
