//! Connections to what listens in an instance.

use super::Instance;
use std::io;
use std::path::PathBuf;
use tokio::net::{TcpStream, UnixStream};

/// What is connected to, as seen from inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    Port { host: String, port: u16 },
    Socket(PathBuf),
}

/// A connection.
#[derive(Debug)]
pub enum Dialled {
    Port(TcpStream),
    Socket(UnixStream),
}

/// An instance of this machine has the machine's own network.
pub(super) async fn dial(instance: &Instance, to: &To) -> io::Result<Dialled> {
    match to {
        To::Port { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            Ok(Dialled::Port(stream))
        }
        To::Socket(path) => Ok(Dialled::Socket(UnixStream::connect(instance.directory.join(path)).await?)),
    }
}
