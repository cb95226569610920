//! `skpr-agent worker`: a program that goes into a container, to serve there what its image has no program for.
//!
//! * It is inside what any process of the container is: it sees the container's files, and may with them what the
//!   container's user may. What it would do wrong, it does there.
//! * It is started for one thing, on its stdin and stdout, and ends with that. Whoever starts it ends it with the container.
//! * Outside it does nothing but [enter]: no thread is started before, and nothing is looked up.

mod cgroup;
mod confine;
mod enter;
mod transfer;

pub(crate) use enter::{Way, of_files, process, started};
pub use transfer::Reach;

use anyhow::Context as _;
use clap::{Args as ClapArgs, Subcommand};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::io::{self, IoSlice};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// What `skpr-agent worker` is told.
#[derive(Clone, Debug, ClapArgs)]
pub struct WorkerArgs {
    #[command(flatten)]
    way: Way,
    #[command(subcommand)]
    work: Work,
}

/// What it does inside.
#[derive(Clone, Debug, Subcommand)]
enum Work {
    /// Serve files over SFTP on stdin and stdout.
    Files,
    /// Serve one transfer of files on stdin and stdout.
    Transfer,
    /// Connect to a Unix socket, and hand the connection over the socket that stdin is.
    Socket { path: PathBuf },
}

/// Does it, and returns what to exit with. To be called before there is any thread: only a process that has one alone can
/// enter.
pub fn run(args: &WorkerArgs) -> anyhow::Result<u8> {
    match &args.work {
        Work::Files => {
            args.way.enter().context("enter the container")?;
            serve_files()
        }
        Work::Transfer => {
            args.way.enter().context("enter the container")?;
            let directory = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
            serve_transfer(Reach { root: "/".into(), directory, mounts: vec![] })
        }
        Work::Socket { path } => {
            let connected = args.way.enter().and_then(|()| UnixStream::connect(path));
            hand_over(connected).context("hand a connection over")?;
            Ok(0)
        }
    }
}

/// Serves files over SFTP on stdin and stdout, and can do little else from then on.
pub fn serve_files() -> anyhow::Result<u8> {
    confine::confine().context("give up what is not needed")?;
    crate::sftp::serve_stdio().context("serve files")?;
    Ok(0)
}

/// Serves one transfer of files on stdin and stdout, and can do little else from then on. The code is rsync's.
pub fn serve_transfer(reach: Reach) -> anyhow::Result<u8> {
    confine::confine().context("give up what is not needed")?;
    transfer::serve(reach).context("serve a transfer")
}

/// One message: the number of the error, or 0 and the connection.
fn hand_over(connected: io::Result<UnixStream>) -> io::Result<()> {
    let stdin = io::stdin();
    let number = match &connected {
        Ok(_) => 0,
        Err(error) => error.raw_os_error().unwrap_or(Errno::IO.raw_os_error()),
    };
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let connection = connected.ok();
    let fds = connection.as_ref().map(|stream| [stream.as_fd()]);
    if let Some(fds) = &fds {
        ancillary.push(SendAncillaryMessage::ScmRights(fds));
    }
    sendmsg(stdin.as_fd(), &[IoSlice::new(&number.to_ne_bytes())], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}
