//! The [worker](crate::worker) that goes into a container, from outside: it is started and told the way, and spoken to.

use super::super::process::{Pipes, Process, StartError};
use super::find::Found;
use super::{Containerd, spec};
use crate::worker::{Way, process, started};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::ffi::OsString;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::process::Stdio;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::process::Command;

/// Serves the files of a container: by SFTP, or for one transfer.
pub(super) async fn files(
    containerd: &Containerd,
    found: &Found,
    work: &'static str,
) -> Result<Process, StartError> {
    let mut command = worker(containerd, found).await?;
    let pipes = Pipes::for_child(command.arg(work))?;
    Ok(pipes.process(command.spawn()?)?)
}

/// Connects to a Unix socket of a container, as its user.
pub(super) async fn socket(containerd: &Containerd, found: &Found, path: &Path) -> io::Result<UnixStream> {
    let mut command = worker(containerd, found).await.map_err(io::Error::other)?;
    let (ours, theirs) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let ours = UnixStream::from_std(ours)?;
    command.args([OsString::from("socket"), "--".into(), path.into()]);
    command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    // It alone has the other end now, so that its end is seen.
    drop(command);
    let connected = ours.async_io(Interest::READABLE, || take_over(&ours)).await?;
    child.wait().await?;
    connected.set_nonblocking(true)?;
    UnixStream::from_std(connected)
}

fn take_over(from: &UnixStream) -> io::Result<StdUnixStream> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut number = [0; 4];
    let mut parts = [IoSliceMut::new(&mut number)];
    let received = recvmsg(from.as_fd(), &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes < number.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let connections = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    match (i32::from_ne_bytes(number), connections.last()) {
        (0, Some(connection)) => Ok(connection.into()),
        (0, None) => Err(io::ErrorKind::InvalidData.into()),
        (error, _) => Err(io::Error::from_raw_os_error(error)),
    }
}

/// A worker for the container that was found, without its work.
async fn worker(containerd: &Containerd, found: &Found) -> Result<Command, StartError> {
    let shared = &containerd.0;
    let since = started(&process(&shared.places.proc, found.pid)?)?;
    // Whoever has the number had it then, and is the container's if it still is.
    if shared.api.runs(&found.id).await? != Some(found.pid) {
        return Err(StartError::Gone);
    }
    let way = spec::way(&found.process);
    let way = Way { proc: shared.places.proc.clone(), pid: found.pid, since, ..way };
    let mut command = Command::new(&shared.places.worker);
    command.arg("worker").args(way.arguments()).env_clear().kill_on_drop(true);
    Ok(command)
}
