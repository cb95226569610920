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
pub enum Connected {
    Port(TcpStream),
    Socket(UnixStream),
}

/// An instance of this machine has the machine's own network.
pub(super) async fn connect(instance: &Instance, to: &To) -> io::Result<Connected> {
    match to {
        To::Port { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            Ok(Connected::Port(stream))
        }
        To::Socket(path) => Ok(Connected::Socket(UnixStream::connect(instance.directory.join(path)).await?)),
    }
}
