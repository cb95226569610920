//! Our stdin and stdout, awaited by the runtime itself where Linux lets it: through a thread, as tokio reads and writes what it
//! knows nothing of, each key and each piece costs two switches between threads more.

use tokio::io::{AsyncRead, AsyncWrite};

pub(crate) type Input = Box<dyn AsyncRead + Send + Unpin>;
pub(crate) type Output = Box<dyn AsyncWrite + Send + Unpin>;

/// To be called within the runtime.
pub(crate) fn stdin() -> Input {
    own::stdin().unwrap_or_else(|| Box::new(tokio::io::stdin()))
}

/// To be called within the runtime.
pub(crate) fn stdout() -> Output {
    own::stdout().unwrap_or_else(|| Box::new(tokio::io::stdout()))
}

/// A terminal or a pipe, opened once more: that nobody waits for it is then ours alone, and not also that of the shell and
/// whoever else has it. None for a regular file, which is always ready, a socket, or a terminal that is another user's.
#[cfg(target_os = "linux")]
mod own {
    use super::{Input, Output};
    use rustix::fs::{Mode, OFlags, open};
    use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
    use tokio::net::unix::pipe;

    pub(super) fn stdin() -> Option<Input> {
        let pipe = pipe::Receiver::from_owned_fd_unchecked(again(std::io::stdin(), OFlags::RDONLY)?).ok()?;
        Some(Box::new(pipe))
    }

    pub(super) fn stdout() -> Option<Output> {
        let pipe = pipe::Sender::from_owned_fd_unchecked(again(std::io::stdout(), OFlags::WRONLY)?).ok()?;
        Some(Box::new(pipe))
    }

    fn again(of: impl AsFd, how: OFlags) -> Option<OwnedFd> {
        let path = format!("/proc/self/fd/{}", of.as_fd().as_raw_fd());
        open(path, how | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).ok()
    }
}

#[cfg(not(target_os = "linux"))]
mod own {
    use super::{Input, Output};

    pub(super) fn stdin() -> Option<Input> {
        None
    }

    pub(super) fn stdout() -> Option<Output> {
        None
    }
}
