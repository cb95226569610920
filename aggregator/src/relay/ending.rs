//! How a session ends that does not come to its end, and who sees to it.
//!
//! The two directions end it themselves as long as they are asked for more. A side that takes nothing is not asked, so that
//! [`watch`] does it then: it ends a session also when both directions are held up, by the connections of the two sides.

use super::joint::Way;
use crate::aggregator::stopping;
use crate::tls::HangUp;
use futures::future::BoxFuture;
use skpr_proto::{ErrorKind, Failure};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long the agent may take to hear why before its connection ends.
const TOLD_WITHIN: Duration = Duration::from_secs(1);
/// How long after that a caller may take to read what was on its way before its connection ends, too.
const READ_WITHIN: Duration = Duration::from_secs(20);

/// What has ended a session.
#[derive(Clone, Debug)]
pub(super) enum Why {
    Client,
    Agent,
    Failed(Failure),
}

/// The end of one session. Clones share it; of several reasons the first counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Ending(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    why: OnceLock<Why>,
    broken: CancellationToken,
    over: CancellationToken,
}

impl Why {
    /// The side has gone that this direction comes from.
    pub(super) fn gone(way: Way) -> Why {
        match way {
            Way::ToAgent => Why::Client,
            Way::ToCaller => Why::Agent,
        }
    }

    pub(super) fn failure(&self) -> Failure {
        let gone = |message: &str| Failure::new(ErrorKind::Unavailable, message);
        match self {
            Why::Client => gone("the client has gone"),
            Why::Agent => gone("the node's agent has gone, and the session with it"),
            Why::Failed(failure) => failure.clone(),
        }
    }
}

impl Ending {
    /// Ends it, if nothing has before; what has.
    pub(super) fn end(&self, why: Why) -> Why {
        let why = self.0.why.get_or_init(|| why).clone();
        self.0.broken.cancel();
        why
    }

    /// Returns when something has ended it.
    pub(super) async fn ended(&self) -> Why {
        self.0.broken.cancelled().await;
        // It is said before it is cancelled.
        self.0.why.get().cloned().unwrap_or(Why::Agent)
    }

    /// What the audit says of it; a client that hangs up has ended its call as clients do.
    pub(super) fn to_note(&self) -> Option<Failure> {
        self.0.why.get().filter(|why| !matches!(why, Why::Client)).map(Why::failure)
    }

    /// What its environment's events say of it.
    pub(super) fn in_words(&self) -> String {
        self.0.why.get().map_or_else(|| "the connection broke".to_owned(), |why| why.failure().message)
    }

    /// Nothing is left of it.
    pub(super) fn over(&self) {
        self.0.over.cancel();
    }
}

/// The connections of the two sides.
pub(super) struct Sides {
    pub(super) agent: HangUp,
    pub(super) caller: HangUp,
}

/// Whatever becomes of the watch, no session goes on without one.
struct Watched(Ending);

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.0.0.over.is_cancelled() {
            self.0.end(Why::Failed(Failure::new(ErrorKind::Failed, "the session is not watched any more")));
        }
    }
}

/// Ends a session when the caller's right is gone or the aggregator stops, and takes back what a session that has ended still
/// holds at either side.
pub(super) async fn watch(
    ending: Ending,
    forbidden: BoxFuture<'static, Failure>,
    stop: CancellationToken,
    sides: Sides,
) {
    let _watched = Watched(ending.clone());
    let over = ending.0.over.clone();
    tokio::select! {
        () = over.cancelled() => return,
        () = ending.0.broken.cancelled() => {}
        () = stop.cancelled() => drop(ending.end(Why::Failed(stopping()))),
        failure = forbidden => drop(ending.end(Why::Failed(taken_away(failure)))),
    }
    for (side, patience) in [(sides.agent, TOLD_WITHIN), (sides.caller, READ_WITHIN)] {
        if timeout(patience, over.cancelled()).await.is_ok() {
            return;
        }
        side.hang_up();
    }
}

/// Of whom nothing may be known any more than of what is not there.
fn taken_away(failure: Failure) -> Failure {
    let message = format!("the right to it was taken away: {}", failure.message);
    Failure { message, ..failure }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;
    use std::future::{pending, ready};

    fn taken_away() -> Failure {
        Failure::new(ErrorKind::NotAllowed, "not any more")
    }

    #[tokio::test(start_paused = true)]
    async fn a_right_that_is_taken_away_is_told_as_that_and_not_as_an_agent_that_has_gone() {
        let (ending, agent, caller) = (Ending::default(), HangUp::default(), HangUp::default());
        let sides = Sides { agent: agent.clone(), caller: caller.clone() };
        watch(ending.clone(), ready(taken_away()).boxed(), CancellationToken::new(), sides).await;
        // What follows from it, is no reason any more.
        ending.end(Why::Agent);
        assert_eq!(ending.ended().await.failure().kind, ErrorKind::NotAllowed);
        assert_eq!(ending.to_note().unwrap().message, "the right to it was taken away: not any more");
        // Nobody has let go of the session meanwhile.
        assert!(agent.is_hung_up() && caller.is_hung_up());
    }

    #[tokio::test(start_paused = true)]
    async fn who_lets_go_of_a_session_is_not_hung_up_on() {
        for begin in [|ending: &Ending| drop(ending.end(Why::Client)), |_: &Ending| {}] {
            let (ending, agent, caller) = (Ending::default(), HangUp::default(), HangUp::default());
            let sides = Sides { agent: agent.clone(), caller: caller.clone() };
            begin(&ending);
            let watching = watch(ending.clone(), pending().boxed(), CancellationToken::new(), sides);
            let over = async {
                tokio::time::sleep(TOLD_WITHIN / 2).await;
                ending.over();
            };
            tokio::join!(watching, over);
            assert!(!agent.is_hung_up() && !caller.is_hung_up());
            assert_eq!(ending.to_note(), None);
        }
    }
}
