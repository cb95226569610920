//! A session that is served beside this program, by one that may start processes, as in a pod of Kubernetes. Here bytes
//! are passed on and nothing else.

use super::handover::{read_pieces, write_dial};
use rustix::process::geteuid;
use skpr_proto::{MAX_PIECE, v1};
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncWriteExt as _, BufReader, DuplexStream, copy_buf, split};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// The other program is on the same node.
const CONNECTED_WITHIN: Duration = Duration::from_secs(5);

/// A session that was handed over.
#[derive(Debug)]
pub(super) struct Beside(UnixStream);

impl Beside {
    pub(super) async fn open(socket: &Path, dial: &v1::Dial) -> io::Result<Beside> {
        let opened = async {
            let mut stream = UnixStream::connect(socket).await?;
            // A host key is nobody else's.
            check_peer(&stream)?;
            write_dial(&mut stream, dial).await?;
            Ok(Beside(stream))
        };
        timeout(CONNECTED_WITHIN, opened).await?
    }

    /// Passes bytes until the session has ended; how it ended, where that is known.
    pub(super) async fn pass(self, client: DuplexStream) -> Option<v1::Exit> {
        let (from_client, to_client) = split(client);
        let (from_server, to_server) = self.0.into_split();
        let mut from_server = BufReader::with_capacity(MAX_PIECE, from_server);
        let down = async {
            let (mut from, mut to) = (BufReader::with_capacity(MAX_PIECE, from_client), to_server);
            if copy_buf(&mut from, &mut to).await.is_ok() {
                drop(to.shutdown().await);
            }
            // The client has said all, and may still listen.
            std::future::pending::<()>().await;
        };
        let up = read_pieces(&mut from_server, to_client);
        tokio::select! {
            ended = up => ended.inspect_err(|error| tracing::debug!(%error, "a session was cut off")).ok().flatten(),
            () = down => None,
        }
    }
}

/// Only programs of our own user are spoken to, from either side.
pub(super) fn check_peer(stream: &UnixStream) -> io::Result<()> {
    if stream.peer_cred()?.uid() == geteuid().as_raw() {
        Ok(())
    } else {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}
