//! The control stream of one node: claims pushed as the platform's inventory changes.
//!
//! The first message is the whole set, sent once the platform has been heard from; then only differences.

use super::nodes::Seated;
use super::{AgentCall, frame_error};
use crate::aggregator::stopping;
use crate::auth::random_below;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt as _};
use skpr_proto::v1::agent_message::Message;
use skpr_proto::v1::control::Control as Kind;
use skpr_proto::v1::{AgentMessage, Claims, Control, Dial, Drain};
use skpr_proto::{ErrorKind, Failure, PodUid};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Status, Streaming};

/// How long an agent may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// When agents come back after a drain: not before another aggregator can be there, and not all at once.
const RECONNECT_MIN_MILLIS: u32 = 500;
const RECONNECT_SPREAD_MILLIS: u32 = 4_500;

struct ControlStream {
    call: AgentCall,
    messages: Streaming<AgentMessage>,
    inventory: tokio::sync::watch::Receiver<Arc<crate::inventory::Inventory>>,
    distrusted: BoxFuture<'static, Failure>,
    /// None before the hello.
    seated: Option<Seated>,
    /// What the agent was told; none before the first message.
    told: Option<Told>,
    drained: bool,
}

/// The node's pods.
struct Told {
    claimed: BTreeSet<PodUid>,
    ended: BTreeSet<PodUid>,
}

pub(super) fn stream(
    call: AgentCall,
    messages: Streaming<AgentMessage>,
) -> BoxStream<'static, Result<Control, Status>> {
    let mut inventory = call.shared.inventory.clone();
    // What is known already is news to this agent.
    inventory.mark_changed();
    let distrusted = call.distrusted();
    let state =
        ControlStream { call, messages, inventory, distrusted, seated: None, told: None, drained: false };
    stream::unfold(Some(state), async |state| {
        let mut state = state?;
        match state.next().await {
            Ok(Some(control)) => Some((Ok(Control { control: Some(control) }), Some(state))),
            Ok(None) => {
                state.call.completed();
                None
            }
            Err(status) => Some((Err(state.call.failed(status)), None)),
        }
    })
    .boxed()
}

impl ControlStream {
    /// The next thing to tell the agent; `None` when it has hung up.
    async fn next(&mut self) -> Result<Option<Kind>, Status> {
        if self.seated.is_none() {
            self.hello().await?;
        }
        let replaced = self.seated.as_ref().map(Seated::replaced).unwrap_or_default();
        let stop = self.call.shared.stopping.clone();
        loop {
            tokio::select! {
                () = stop.ending.cancelled() => return Err(stopping().into()),
                () = replaced.cancelled() => {
                    let message = format!("a newer connection speaks for node `{}`", self.call.agent.node);
                    return Err(Failure::new(ErrorKind::Locked, message).into());
                }
                failure = &mut self.distrusted => return Err(failure.into()),
                () = stop.begun.cancelled(), if !self.drained => {
                    self.drained = true;
                    let reconnect_after_millis = RECONNECT_MIN_MILLIS + random_below(RECONNECT_SPREAD_MILLIS);
                    return Ok(Some(Kind::Drain(Drain { reconnect_after_millis })));
                }
                message = self.messages.message() => match message.map_err(frame_error)? {
                    Some(_) => {}
                    None => return Ok(None),
                },
                Some(dial) = dialled(&mut self.seated) => return Ok(Some(Kind::Dial(dial))),
                changed = self.inventory.changed() => {
                    if changed.is_err() {
                        // The platform's task is gone, which stops the aggregator; the stop ends this stream.
                        stop.ending.cancelled().await;
                        return Err(stopping().into());
                    }
                    if let Some(claims) = self.claims() {
                        return Ok(Some(Kind::Claims(claims)));
                    }
                }
            }
        }
    }

    async fn hello(&mut self) -> Result<(), Status> {
        let node = &self.call.agent.node;
        let usage = |message: &str| Status::from(Failure::new(ErrorKind::Usage, message));
        let first = tokio::time::timeout(HELLO_TIMEOUT, self.messages.message());
        let first = first.await.map_err(|_| usage("the agent did not say hello"))?.map_err(frame_error)?;
        let Some(AgentMessage { message: Some(Message::Hello(hello)) }) = first else {
            return Err(usage("the first message is not a hello"));
        };
        if hello.node != node.as_str() {
            tracing::warn!(%node, claimed = %hello.node.escape_debug(), "an agent says it is another node's");
            let message = format!("the token is for node `{node}`, not for `{}`", hello.node.escape_debug());
            return Err(Failure::new(ErrorKind::NotAllowed, message).into());
        }
        tracing::info!(%node, version = %hello.version.escape_debug(), "agent connected");
        self.seated = Some(self.call.shared.nodes.sit(node, hello.sessions));
        Ok(())
    }

    /// What has changed for this node since the agent was last told.
    fn claims(&mut self) -> Option<Claims> {
        let now = {
            let inventory = self.inventory.borrow_and_update();
            // Before the platform is heard from, an empty set would mean nothing; the agent holds files meanwhile.
            if !inventory.heard {
                return None;
            }
            let node = &self.call.agent.node;
            Told { claimed: inventory.claims_of(node), ended: inventory.ended_of(node) }
        };
        let claims = difference(self.told.as_ref(), &now);
        self.told = Some(now);
        claims
    }
}

/// The next session that the node's agent is asked for.
async fn dialled(seated: &mut Option<Seated>) -> Option<Dial> {
    match seated {
        Some(seated) => seated.dialled().await,
        None => None,
    }
}

fn difference(told: Option<&Told>, now: &Told) -> Option<Claims> {
    let names =
        |uids: &mut dyn Iterator<Item = &PodUid>| uids.map(|uid| uid.as_str().to_owned()).collect::<Vec<_>>();
    let Some(told) = told else {
        let (claimed, ended) = (names(&mut now.claimed.iter()), names(&mut now.ended.iter()));
        return Some(Claims { complete: true, claimed, released: vec![], ended });
    };
    let claimed = names(&mut now.claimed.difference(&told.claimed));
    let released = names(&mut told.claimed.difference(&now.claimed));
    let ended = names(&mut now.ended.difference(&told.ended));
    let is_news = !claimed.is_empty() || !released.is_empty() || !ended.is_empty();
    is_news.then_some(Claims { complete: false, claimed, released, ended })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(claimed: &[&str], ended: &[&str]) -> Told {
        let uids = |uids: &[&str]| uids.iter().map(|uid| PodUid::parse(uid).unwrap()).collect();
        Told { claimed: uids(claimed), ended: uids(ended) }
    }

    #[test]
    fn claims_are_whole_first_and_then_differences() {
        let first = difference(None, &told(&["a", "b"], &["b"])).unwrap();
        assert!(first.complete && first.claimed == ["a", "b"] && first.released.is_empty());
        assert_eq!(first.ended, ["b"]);
        assert!(difference(None, &told(&[], &[])).unwrap().complete, "nothing is an answer too");
        let next = difference(Some(&told(&["a", "b"], &["b"])), &told(&["b", "c"], &["b", "c"])).unwrap();
        assert!(!next.complete && next.claimed == ["c"] && next.released == ["a"] && next.ended == ["c"]);
        let end = difference(Some(&told(&["a"], &[])), &told(&["a"], &["a"])).unwrap();
        assert!(end.claimed.is_empty() && end.released.is_empty() && end.ended == ["a"]);
        assert_eq!(difference(Some(&told(&["a"], &["a"])), &told(&["a"], &["a"])), None);
    }
}
