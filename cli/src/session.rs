//! A session with an instance: what the aggregator relays to the node's agent, which serves SSH over it.
//!
//! Invariants: a session is open only once the aggregator has said with which instance it is and which host key that has;
//! what is held on the way is bounded, and a side that does not read makes the other wait.

mod connection;
mod forward;
mod host;
mod ssh;
mod stdio;
mod typing;
mod writing;

pub(crate) use connection::Broken;
pub(crate) use forward::{Ports, forward};
pub(crate) use host::{SUFFIX, host_of, parse_host};
pub(crate) use ssh::{Outcome, Run, command, run};
pub(crate) use stdio::{stdin, stdout};

use crate::client::{Access, Client, Endpoint, call_error, was_cut};
use crate::error::Error;
use bytes::{Bytes, BytesMut};
use skpr_proto::v1::{self, OpenSession, OpenedSession, SessionRequest, SessionResponse};
use skpr_proto::{EnvironmentName, ErrorKind, Failure, Label, MAX_PIECE, Purpose};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::{Status, Streaming};

/// Messages that wait for the connection: one, while the next is filled.
const WAITING: usize = 1;
/// The aggregator waits ten seconds for the agent, and then says so.
const OPENED_WITHIN: Duration = Duration::from_secs(20);
/// When our side has said all, how long the other may take to say the same.
const LINGER: Duration = Duration::from_millis(500);

/// Which instance, as typed and resolved.
pub(crate) struct Wanted {
    pub environment: EnvironmentName,
    pub namespace: Option<Label>,
    pub instance: Option<String>,
}

/// Why no session came about.
pub(crate) enum NotOpened {
    /// It was said that there is to be none.
    Refused(Error),
    /// The connection was not there, or did not hold.
    Broken(Error),
}

impl NotOpened {
    fn from_here(error: Error) -> NotOpened {
        match &error {
            Error::Failed { failure, .. } if failure.kind.retryable() => NotOpened::Broken(error),
            Error::Failed { .. } | Error::Exit(_) | Error::ClosedPipe => NotOpened::Refused(error),
        }
    }

    fn from_call(status: &Status, endpoint: &Endpoint) -> NotOpened {
        let error = call_error(status, endpoint);
        if was_cut(status) { NotOpened::Broken(error) } else { NotOpened::Refused(error) }
    }
}

/// An open session.
pub(crate) struct Session {
    pub opened: OpenedSession,
    pub relay: Relay,
}

/// The bytes of a session.
pub(crate) struct Relay {
    from: Streaming<SessionResponse>,
    to: mpsc::Sender<SessionRequest>,
}

impl Session {
    /// Asks for a session and waits until it is there.
    pub(crate) async fn open(access: &Access, wanted: &Wanted) -> Result<Session, NotOpened> {
        Session::open_for(access, wanted, Purpose::Ssh).await
    }

    /// The same for another purpose than SSH.
    pub(crate) async fn open_for(
        access: &Access,
        wanted: &Wanted,
        purpose: Purpose,
    ) -> Result<Session, NotOpened> {
        let client = Client::for_sessions(access).await.map_err(NotOpened::from_here)?;
        let (to, mut messages) = mpsc::channel(WAITING);
        let environment = v1::Environment {
            namespace: wanted.namespace.clone().map(String::from),
            ..(&wanted.environment).into()
        };
        let open = OpenSession {
            environment: Some(environment),
            instance: wanted.instance.clone(),
            purpose: purpose.name().to_owned(),
        };
        // There is room for the first.
        drop(to.try_send(SessionRequest { open: Some(open), ..SessionRequest::default() }));
        let messages = futures::stream::poll_fn(move |context| messages.poll_recv(context));
        let opening = async {
            let mut from = client.sessions().open(messages).await?.into_inner();
            let first = from.message().await?;
            Ok::<_, Status>((from, first.and_then(|first| first.opened)))
        };
        let endpoint = &access.endpoint;
        let (from, opened) = timeout(OPENED_WITHIN, opening)
            .await
            .map_err(|_| {
                let message = format!("`{endpoint}` did not open a session in time");
                let failure = Failure::new(ErrorKind::TimedOut, message);
                NotOpened::Broken(failure.with_hint("try again in a moment").into())
            })?
            .map_err(|status| NotOpened::from_call(&status, endpoint))?;
        let opened = opened.ok_or_else(|| {
            let message = format!("`{endpoint}` did not say what session it opened");
            let failure = Failure::new(ErrorKind::Failed, message).with_hint("skpr version -v");
            NotOpened::Refused(failure.into())
        })?;
        Ok(Session { opened, relay: Relay { from, to } })
    }
}

impl Relay {
    /// Passes bytes both ways until the other side has said all; an error says that it went before that.
    pub(crate) async fn pass(
        self,
        read: impl AsyncRead + Unpin,
        write: impl AsyncWrite + Unpin,
    ) -> Result<(), Status> {
        let Relay { mut from, to } = self;
        {
            let (down, up) = (down(&mut from, write), up(read, to));
            tokio::pin!(down, up);
            tokio::select! {
                ended = &mut down => ended?,
                () = &mut up => down.await?,
            }
        }
        // The aggregator notes that it came to its end.
        drop(timeout(LINGER, from.message()).await);
        Ok(())
    }
}

async fn down(
    from: &mut Streaming<SessionResponse>,
    mut write: impl AsyncWrite + Unpin,
) -> Result<(), Status> {
    loop {
        let message = from.message().await?;
        let message = message.ok_or_else(|| Status::unavailable("the session was cut off"))?;
        if !message.data.is_empty() {
            let written = async {
                write.write_all(&message.data).await?;
                write.flush().await
            };
            if written.await.is_err() {
                // Whoever read has gone, and the session with them.
                return Ok(());
            }
        }
        if message.end {
            drop(write.shutdown().await);
            return Ok(());
        }
    }
}

async fn up(mut read: impl AsyncRead + Unpin, to: mpsc::Sender<SessionRequest>) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(MAX_PIECE);
        match read.read_buf(&mut buffer).await {
            Ok(1..) => {
                while !buffer.is_empty() {
                    let data: Bytes = buffer.split_to(buffer.len().min(MAX_PIECE)).freeze();
                    if to.send(SessionRequest { data, ..SessionRequest::default() }).await.is_err() {
                        return;
                    }
                }
            }
            Ok(0) | Err(_) => break,
        }
    }
    drop(to.send(SessionRequest { end: true, ..SessionRequest::default() }).await);
}
