//! Which control stream speaks for each node, and how an agent is asked for a session.
//!
//! One a node: a newer stream takes over, because the older may be a dead connection's.

use skpr_proto::v1::Dial;
use skpr_proto::{ErrorKind, Failure, NodeName, Purpose};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Sessions that an agent has not been told of yet: it is told within milliseconds, or is away. Whoever asks for one more is
/// told to try again.
const DIALS: usize = 16;

/// The control stream that speaks for each node. Clones are handles to the same table.
#[derive(Clone, Default)]
pub(crate) struct Nodes(Arc<Mutex<HashMap<NodeName, Place>>>);

#[derive(Clone)]
struct Place {
    replaced: Arc<CancellationToken>,
    /// None where the agent starts nothing.
    dials: Option<mpsc::Sender<Dial>>,
}

/// How the agent of a node stands to sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// It serves them.
    Serves,
    /// It is there, and starts nothing.
    CannotServe,
    Away,
}

/// Held by the stream that speaks for a node.
pub(super) struct Seated {
    nodes: Nodes,
    node: NodeName,
    replaced: Arc<CancellationToken>,
    dials: mpsc::Receiver<Dial>,
}

impl Nodes {
    /// Takes the node's place; whoever had it is told.
    pub(super) fn sit(&self, node: &NodeName, sessions: bool) -> Seated {
        let replaced = Arc::new(CancellationToken::new());
        let (sender, dials) = mpsc::channel(DIALS);
        let place = Place { replaced: Arc::clone(&replaced), dials: sessions.then_some(sender) };
        let mut nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(older) = nodes.insert(node.clone(), place) {
            older.replaced.cancel();
        }
        Seated { nodes: self.clone(), node: node.clone(), replaced, dials }
    }

    /// Whether the agent of a node serves sessions.
    pub(crate) fn reach(&self, node: &NodeName) -> Reach {
        let nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match nodes.get(node) {
            Some(place) if place.dials.is_some() => Reach::Serves,
            Some(_) => Reach::CannotServe,
            None => Reach::Away,
        }
    }

    /// Asks the agent of a node for a session.
    pub(crate) fn dial(&self, node: &NodeName, dial: Dial) -> Result<(), Failure> {
        let nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(place) = nodes.get(node) else {
            let message = format!("the agent of node `{node}` is not connected");
            return Err(Failure::new(ErrorKind::Unavailable, message).with_hint("try again in a moment"));
        };
        let Some(dials) = &place.dials else {
            let message = format!("the agent of node `{node}` cannot run anything in instances");
            let hint = match Purpose::parse(&dial.purpose) {
                Some(Purpose::Ssh) | None => {
                    "the chart's value `sessions.enabled` turns it on, on nodes with containerd, and \
                     `sessions.podsExec` on the others"
                }
                Some(Purpose::Files) => {
                    "the chart's value `sessions.enabled` turns it on, on nodes with containerd"
                }
            };
            return Err(Failure::new(ErrorKind::Failed, message).with_hint(hint));
        };
        dials.try_send(dial).map_err(|_| {
            let message = format!("the agent of node `{node}` is busy");
            Failure::new(ErrorKind::Unavailable, message).with_hint("try again in a moment")
        })
    }
}

impl Seated {
    /// Is cancelled when a newer stream speaks for the node.
    pub(super) fn replaced(&self) -> Arc<CancellationToken> {
        Arc::clone(&self.replaced)
    }

    /// The next session that is asked for; never, where there is none. Cancel-safe.
    pub(super) async fn dialled(&mut self) -> Option<Dial> {
        match self.dials.recv().await {
            Some(dial) => Some(dial),
            None => std::future::pending().await,
        }
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        let mut nodes = self.nodes.0.lock().unwrap_or_else(PoisonError::into_inner);
        if nodes.get(&self.node).is_some_and(|seat| Arc::ptr_eq(&seat.replaced, &self.replaced)) {
            nodes.remove(&self.node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_connection_takes_the_seat_and_an_older_one_cannot_give_it_up() {
        let nodes = Nodes::default();
        let node = NodeName::parse("n1").unwrap();
        let older = nodes.sit(&node, true);
        let newer = nodes.sit(&node, true);
        assert!(older.replaced.is_cancelled() && !newer.replaced.is_cancelled());
        drop(older);
        assert_eq!(nodes.0.lock().unwrap().len(), 1);
        drop(newer);
        assert!(nodes.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_session_is_asked_of_the_agent_that_is_there_and_can() {
        let nodes = Nodes::default();
        let node = NodeName::parse("n1").unwrap();
        let dial = || Dial { session: "s".into(), ..Dial::default() };
        assert_eq!(nodes.dial(&node, dial()).unwrap_err().kind, ErrorKind::Unavailable);
        assert_eq!(nodes.reach(&node), Reach::Away);
        let cannot = nodes.sit(&node, false);
        assert_eq!(nodes.dial(&node, dial()).unwrap_err().kind, ErrorKind::Failed);
        assert_eq!(nodes.reach(&node), Reach::CannotServe);
        let mut can = nodes.sit(&node, true);
        drop(cannot);
        assert_eq!(nodes.reach(&node), Reach::Serves);
        for _ in 0..DIALS {
            nodes.dial(&node, dial()).unwrap();
        }
        assert_eq!(nodes.dial(&node, dial()).unwrap_err().kind, ErrorKind::Unavailable);
        assert_eq!(can.dialled().await, Some(dial()));
        nodes.dial(&node, dial()).unwrap();
    }
}
