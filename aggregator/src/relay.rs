//! Joins a caller's stream with an agent's: bytes go both ways as they are, and nobody here knows what they mean.
//!
//! * Nothing is queued. A message is read from one side when the other side's connection takes it, so what is on its way is
//!   bounded by the HTTP/2 windows of the two connections, and a side that does not read makes the other wait.
//! * The end of one direction is passed on, and the other goes on until its own.
//! * When one side goes, so does the other, at once: also one that takes nothing.

mod ending;
mod joint;
mod told;

pub(crate) use joint::Call;
pub(crate) use told::Told;

use crate::auth::random;
use crate::tls::HangUp;
use ending::{Ending, Sides};
use futures::stream::{BoxStream, StreamExt as _};
use joint::{Joint, Piece, Way};
use skpr_proto::v1::{SessionData, SessionRequest, SessionResponse};
use skpr_proto::{ErrorKind, Failure, NodeName};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Status, Streaming};

/// How long an agent may take to come for a session: a connection with TLS, and a token review behind it.
const ACCEPT_WITHIN: Duration = Duration::from_secs(10);
/// How long the first message of a call may take.
pub(crate) const FIRST_WITHIN: Duration = Duration::from_secs(10);
/// Messages to the caller that wait where no agent's connection is between: one, while the next is filled.
const WAITING: usize = 1;

type ToAgent = BoxStream<'static, Result<SessionData, Status>>;
type ToCaller = BoxStream<'static, Result<SessionResponse, Status>>;

/// Sessions that wait for their agent, and what watches those that have one.
#[derive(Default)]
pub(crate) struct Relay {
    waiting: Mutex<HashMap<String, Waiting>>,
    watching: TaskTracker,
}

struct Waiting {
    node: NodeName,
    accepted: oneshot::Sender<Accepted>,
}

/// What a session is called: unlike any other, and nothing that could be guessed.
pub(crate) fn new_id() -> Result<String, Failure> {
    let bytes = random::<16>().map_err(|error| {
        tracing::error!(error = format!("{error:#}"), "a session gets no name");
        Failure::new(ErrorKind::Failed, "the aggregator cannot make a session")
    })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Where a session is served that is served by the aggregator itself.
pub(crate) struct Here {
    /// What the caller sends.
    pub(crate) from: ToAgent,
    /// What goes to the caller; a caller who does not read makes it wait.
    pub(crate) to: mpsc::Sender<SessionData>,
}

/// An agent that has come for its session.
struct Accepted {
    bytes: Streaming<SessionData>,
    answer: oneshot::Sender<ToAgent>,
    connection: HangUp,
}

/// A session that an agent is asked for. Nobody comes for it any more once it is dropped.
pub(crate) struct Expected {
    relay: Arc<Relay>,
    id: String,
    accepted: oneshot::Receiver<Accepted>,
}

impl Relay {
    /// Joins a caller with what serves the session in this program, where no agent does: what that sends, after `first`.
    pub(crate) fn join_here(
        &self,
        caller: Streaming<SessionRequest>,
        call: Call,
        first: SessionResponse,
    ) -> (Here, ToCaller) {
        let (to, answers) = mpsc::channel(WAITING);
        // There is no connection to hang up: what serves it ends with either of its two streams.
        let joint = self.joint(call, HangUp::default());
        let from = joint::pass(Arc::clone(&joint), Way::ToAgent, caller.boxed(), None);
        let answers = ReceiverStream::new(answers).map(Ok).boxed();
        (Here { from, to }, joint::pass(joint, Way::ToCaller, answers, Some(first)))
    }

    /// A session that has begun, and is watched from here on.
    fn joint(&self, call: Call, agent: HangUp) -> Arc<Joint> {
        let Call { access, connection: caller, seat, forbidden, told, counts, stop } = call;
        let ending = Ending::default();
        self.watching.spawn(ending::watch(ending.clone(), forbidden, stop, Sides { agent, caller }));
        Arc::new(Joint::new(access, told, counts, seat, ending))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session for which the agent of this node, and no other, may come once.
    pub(crate) fn expect(self: &Arc<Self>, node: &NodeName) -> Result<Expected, Failure> {
        let id = new_id()?;
        let (sender, accepted) = oneshot::channel();
        self.lock().insert(id.clone(), Waiting { node: node.clone(), accepted: sender });
        Ok(Expected { relay: Arc::clone(self), id, accepted })
    }

    /// An agent comes for a session, which its first message names, on a connection for that alone. Returns what the caller
    /// sends.
    pub(crate) async fn accept(
        &self,
        node: &NodeName,
        mut bytes: Streaming<SessionData>,
        connection: HangUp,
    ) -> Result<ToAgent, Failure> {
        let unknown = || Failure::new(ErrorKind::NotFound, "the aggregator has asked for no such session");
        let first = timeout(FIRST_WITHIN, bytes.message()).await;
        let Ok(Ok(Some(SessionData { session, .. }))) = first else { return Err(unknown()) };
        let waiting = {
            let mut sessions = self.lock();
            // One that is another node's stays where it is.
            let ours = sessions.get(&session).is_some_and(|waiting| waiting.node == *node);
            if ours { sessions.remove(&session) } else { None }
        };
        let waiting = waiting.ok_or_else(unknown)?;
        let (answer, answered) = oneshot::channel();
        waiting.accepted.send(Accepted { bytes, answer, connection }).map_err(|_| unknown())?;
        answered.await.map_err(|_| unknown())
    }
}

impl Expected {
    /// What the session is called.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Waits for the agent, and joins it with the caller: what the agent sends, after `first`.
    pub(crate) async fn join(
        mut self,
        caller: Streaming<SessionRequest>,
        mut call: Call,
        first: SessionResponse,
    ) -> Result<ToCaller, Failure> {
        let late = || {
            let message = "the node's agent did not come for the session";
            Failure::new(ErrorKind::Unavailable, message).with_hint("try again in a moment")
        };
        let Ok(Ok(Accepted { bytes, answer, connection })) = timeout(ACCEPT_WITHIN, &mut self.accepted).await
        else {
            call.access.refused(&late());
            return Err(late());
        };
        let joint = self.relay.joint(call, connection);
        let to_agent = joint::pass(Arc::clone(&joint), Way::ToAgent, caller.boxed(), None);
        let to_caller = joint::pass(joint, Way::ToCaller, bytes.boxed(), Some(first));
        answer.send(to_agent).map_err(|_| late())?;
        Ok(to_caller)
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.relay.lock().remove(&self.id);
    }
}

impl From<SessionRequest> for Piece {
    fn from(message: SessionRequest) -> Piece {
        Piece { data: message.data, end: message.end, exit: None }
    }
}

impl From<SessionData> for Piece {
    fn from(message: SessionData) -> Piece {
        Piece { data: message.data, end: message.end, exit: message.exit }
    }
}

impl From<Piece> for SessionData {
    fn from(piece: Piece) -> SessionData {
        SessionData { data: piece.data, end: piece.end, ..SessionData::default() }
    }
}

impl From<Piece> for SessionResponse {
    fn from(piece: Piece) -> SessionResponse {
        SessionResponse { opened: None, data: piece.data, end: piece.end }
    }
}
