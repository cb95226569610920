//! The control call: says hello, and passes on what the aggregator says.

use super::connect::Connection;
use super::failure::LinkError;
use crate::sessions::Asker;
use crate::ship::tap::Teller;
use crate::tail::ClaimChange;
use crate::usage;
use futures::StreamExt as _;
use skpr_proto::{NodeName, PodUid, v1};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::timeout;
use tonic::Streaming;

/// The aggregator reviews the token before it answers, which asks the cluster's API server.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// The open control call.
pub(super) struct Control {
    messages: Streaming<v1::Control>,
    teller: Teller,
    claims: usage::Claims,
    asker: Asker,
}

/// What the aggregator said that the connection must act on.
pub(super) enum Next {
    /// Claims, which the tail thread and the sampler have been told.
    Claims,
    /// Go away and come back after about this long.
    Drain(Duration),
}

impl Control {
    pub(super) async fn open(
        connection: &Connection,
        node: &NodeName,
        teller: Teller,
        claims: usage::Claims,
        asker: Asker,
    ) -> Result<Self, LinkError> {
        let hello = v1::Hello {
            node: node.as_str().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            sessions: asker.serves(),
        };
        let hello = v1::AgentMessage { message: Some(v1::agent_message::Message::Hello(hello)) };
        // The stream stays open as long as the connection: its end would be a goodbye.
        let requests = futures::stream::once(async { hello }).chain(futures::stream::pending());
        let mut client = connection.client();
        let call = client.connect(connection.request(requests));
        let messages = timeout(ANSWER_TIMEOUT, call)
            .await
            .map_err(|_| LinkError::TimedOut { what: "saying hello", limit: ANSWER_TIMEOUT })?
            .map_err(LinkError::call("Connect"))?
            .into_inner();
        Ok(Control { messages, teller, claims, asker })
    }

    /// Waits for the first claims.
    pub(super) async fn claims(&mut self) -> Result<Next, LinkError> {
        self.next().await
    }

    /// Passes claims on until the aggregator goes away.
    pub(super) async fn drained(&mut self) -> Result<Duration, LinkError> {
        loop {
            if let Next::Drain(after) = self.next().await? {
                return Ok(after);
            }
        }
    }

    async fn next(&mut self) -> Result<Next, LinkError> {
        loop {
            let message = self.messages.message().await.map_err(LinkError::call("Connect"))?;
            match message.ok_or(LinkError::Ended { call: "Connect" })?.control {
                Some(v1::control::Control::Claims(claims)) => {
                    let change = change(&claims);
                    self.claims.change(&change);
                    self.teller.claims(change, pods(&claims.ended));
                    return Ok(Next::Claims);
                }
                Some(v1::control::Control::Drain(drain)) => {
                    return Ok(Next::Drain(Duration::from_millis(drain.reconnect_after_millis.into())));
                }
                Some(v1::control::Control::Dial(dial)) => self.asker.ask(dial),
                // From an aggregator newer than this agent.
                None => tracing::debug!("a control message that this version does not know"),
            }
        }
    }
}

/// What a message says about the claims.
fn change(claims: &v1::Claims) -> ClaimChange {
    if claims.complete {
        ClaimChange::Complete(pods(&claims.claimed))
    } else {
        ClaimChange::Delta { claimed: pods(&claims.claimed), released: pods(&claims.released) }
    }
}

/// A uid that is none cannot be a pod of this node, so it is left out.
fn pods(uids: &[String]) -> BTreeSet<PodUid> {
    let parsed = uids.iter().map(|uid| PodUid::parse(uid));
    parsed
        .filter_map(|uid| uid.map_err(|error| tracing::warn!(%error, "a claim is not understood")).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_read_and_nonsense_is_left_out() {
        let uid = |text: &str| PodUid::parse(text).unwrap();
        let mut claims = v1::Claims {
            complete: true,
            claimed: vec!["a".into(), "../b".into()],
            released: vec!["c".into()],
            ended: vec!["a".into(), "/".into()],
        };
        assert_eq!(pods(&claims.ended), [uid("a")].into());
        assert_eq!(change(&claims), ClaimChange::Complete([uid("a")].into()));
        claims.complete = false;
        assert_eq!(
            change(&claims),
            ClaimChange::Delta { claimed: [uid("a")].into(), released: [uid("c")].into() }
        );
    }
}
