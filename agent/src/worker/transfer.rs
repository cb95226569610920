//! The server of a transfer of files, on stdin and stdout.

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, open};
use rustix::io::Errno;
use rustix::pipe::fcntl_setpipe_size;
use skpr_rsync::{Base, Inside, Link, Policy};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a pipe holds, where the system lets it: fewer turns at full speed.
const PIPE: usize = 256 << 10;

/// Where the files are that a transfer may reach.
#[derive(Debug, Default)]
pub struct Reach {
    /// Nothing leads out of it.
    pub root: PathBuf,
    /// Where a path begins that does not begin with a slash: from the root on.
    pub directory: PathBuf,
    /// What else is there: the path at which it is seen, and where it is.
    pub mounts: Vec<(PathBuf, PathBuf)>,
}

impl Reach {
    fn base(self) -> io::Result<Base> {
        let directory =
            |path: &Path| open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let bytes = |path: PathBuf| path.into_os_string().into_vec();
        let mounts = self.mounts.into_iter().map(|(at, place)| Ok((bytes(at), directory(&place)?)));
        let mounts = mounts.collect::<io::Result<_>>()?;
        Ok(Base::Inside(Inside { root: directory(&self.root)?, directory: bytes(self.directory), mounts }))
    }
}

/// Serves whoever is at stdin and stdout: rsync's code of how it ended, which the client was told.
pub(crate) fn serve(reach: Reach) -> io::Result<u8> {
    let base = reach.base()?;
    // Neither is anybody else's: whoever has started us has made pipes for it.
    let closed = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let end = |fd: BorrowedFd<'_>| -> io::Result<End> {
        // One that is no pipe is as large as it is.
        let _enlarged = fcntl_setpipe_size(fd, PIPE).is_ok();
        fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::NONBLOCK)?;
        Ok(End { file: File::from(fd.try_clone_to_owned()?), closed: Arc::clone(&closed) })
    };
    let (reader, writer) = (end(io::stdin().as_fd())?, end(io::stdout().as_fd())?);
    let close = move || {
        // Nobody takes it out again, so that it stays closed.
        let _closed = rustix::io::write(&*closed, &1_u64.to_ne_bytes()).is_ok();
    };
    let link = Link { reader: Box::new(reader), writer: Box::new(writer), close: Box::new(close) };
    // Device files are never made, and no program becomes another user's.
    let policy = Policy { devices: false, set_id: false, ..Policy::default() };
    let code = match skpr_rsync::serve(base, policy, &|_| {}, link) {
        Ok(summary) => summary.code,
        Err(error) => error.code(),
    };
    Ok(code as u8)
}

/// An end of a pipe, for one that is closed from elsewhere.
struct End {
    file: File,
    closed: Arc<OwnedFd>,
}

impl End {
    /// Waits until there is something to do; whether it was closed instead.
    fn wait(&self, what: PollFlags) -> io::Result<bool> {
        let mut both = [PollFd::new(&self.file, what), PollFd::new(&*self.closed, PollFlags::IN)];
        match poll(&mut both, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let [_, closed] = &both;
        Ok(!closed.revents().is_empty())
    }
}

impl Read for End {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.file.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
            if self.wait(PollFlags::IN)? {
                return Ok(0);
            }
        }
    }
}

impl Write for End {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.file.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return written,
            }
            if self.wait(PollFlags::OUT)? {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};
    use std::time::Duration;

    #[test]
    fn an_end_that_nobody_takes_from_is_closed_from_elsewhere() {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        let closed = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap());
        let end = |fd: OwnedFd| End { file: File::from(fd), closed: Arc::clone(&closed) };
        let (mut reader, mut writer) = (end(reader), end(writer));
        writer.write_all(b"hello").unwrap();
        let mut said = [0; 5];
        reader.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"hello");
        std::thread::scope(|scope| {
            let read = scope.spawn(|| reader.read(&mut [0; 5]).unwrap());
            std::thread::sleep(Duration::from_millis(50));
            rustix::io::write(&*closed, &1_u64.to_ne_bytes()).unwrap();
            assert_eq!(read.join().unwrap(), 0);
        });
        // What fits still goes; then nobody waits.
        let error = writer.write_all(&vec![7; 1 << 20]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
