//! The server of SFTP, version 3, as a program on stdin and stdout: what `sftp`, `scp` and editors speak to.
//!
//! It runs in the instance as any program of a session does, with the same user, directory and cgroup, and may do what that
//! user may. So it guards no file: what it guards is itself.
//!
//! * Names are bytes, and stay what they are.
//! * What a client asks for is bounded: a packet, a read, the open handles. One that does not keep to the protocol is left.
//! * Requests are answered one after the other, in order. Nothing waits for anything but the disk: a pipe is not opened.

mod attributes;
mod handles;
mod names;
mod packet;

use attributes::Attributes;
use handles::Handles;
use packet::{Bad, Fields, Reply};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::AsFd as _;
use std::path::Path;

/// The version that every client speaks.
const VERSION: u32 = 3;
/// The longest packet that is taken, and the most that is read or written at once: as OpenSSH's.
const LONGEST_PACKET: usize = 256 << 10;
const LONGEST_READ: usize = LONGEST_PACKET - 1024;
/// As much as a pipe holds.
const INPUT: usize = 64 << 10;
/// What is served beyond version 3, each with its own version.
const EXTENSIONS: [(&str, &str); 6] = [
    ("posix-rename@openssh.com", "1"),
    ("hardlink@openssh.com", "1"),
    ("fsync@openssh.com", "1"),
    ("lsetstat@openssh.com", "1"),
    ("limits@openssh.com", "1"),
    ("expand-path@openssh.com", "1"),
];

/// Requests by their numbers, and what they are answered with.
mod kind {
    pub(super) const INIT: u8 = 1;
    pub(super) const VERSION: u8 = 2;
    pub(super) const OPEN: u8 = 3;
    pub(super) const CLOSE: u8 = 4;
    pub(super) const READ: u8 = 5;
    pub(super) const WRITE: u8 = 6;
    pub(super) const LSTAT: u8 = 7;
    pub(super) const FSTAT: u8 = 8;
    pub(super) const SETSTAT: u8 = 9;
    pub(super) const FSETSTAT: u8 = 10;
    pub(super) const OPENDIR: u8 = 11;
    pub(super) const READDIR: u8 = 12;
    pub(super) const REMOVE: u8 = 13;
    pub(super) const MKDIR: u8 = 14;
    pub(super) const RMDIR: u8 = 15;
    pub(super) const REALPATH: u8 = 16;
    pub(super) const STAT: u8 = 17;
    pub(super) const RENAME: u8 = 18;
    pub(super) const READLINK: u8 = 19;
    pub(super) const SYMLINK: u8 = 20;
    pub(super) const STATUS: u8 = 101;
    pub(super) const HANDLE: u8 = 102;
    pub(super) const DATA: u8 = 103;
    pub(super) const NAME: u8 = 104;
    pub(super) const ATTRS: u8 = 105;
    pub(super) const EXTENDED: u8 = 200;
    pub(super) const EXTENDED_REPLY: u8 = 201;
}

/// Why a request was not carried out.
#[derive(Debug)]
enum Failed {
    /// There is nothing more to read.
    End,
    /// It makes no sense.
    Bad,
    Unsupported,
    System(io::Error),
}

impl From<Bad> for Failed {
    fn from(_: Bad) -> Failed {
        Failed::Bad
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Failed {
        Failed::System(error)
    }
}

impl From<Errno> for Failed {
    fn from(error: Errno) -> Failed {
        Failed::System(error.into())
    }
}

/// Serves whoever is at stdin and stdout.
pub(crate) fn serve_stdio() -> io::Result<()> {
    // As files: what is written to stdout itself is looked through for ends of lines.
    let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    serve(BufReader::with_capacity(INPUT, input), output)
}

/// Serves one client until it says no more, or has gone.
fn serve(input: impl Read, output: impl Write) -> io::Result<()> {
    match exchange(input, output) {
        Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof) => {
            Ok(())
        }
        done => done,
    }
}

fn exchange(mut input: impl Read, mut output: impl Write) -> io::Result<()> {
    let mut handles = Handles::default();
    let mut packet = Vec::new();
    while packet::read(&mut input, &mut packet, LONGEST_PACKET)? {
        output.write_all(&answer(&mut handles, &packet)?)?;
        output.flush()?;
    }
    Ok(())
}

fn answer(handles: &mut Handles, packet: &[u8]) -> io::Result<Vec<u8>> {
    let malformed = |Bad| io::Error::new(io::ErrorKind::InvalidData, "a request is cut off");
    let mut fields = Fields::new(packet);
    let asked = fields.byte().map_err(malformed)?;
    if asked == kind::INIT {
        let mut reply = Reply::new(kind::VERSION);
        reply.number(VERSION);
        for (name, version) in EXTENSIONS {
            reply.text(name.as_bytes());
            reply.text(version.as_bytes());
        }
        return Ok(reply.packet());
    }
    let id = fields.number().map_err(malformed)?;
    let reply = match carry_out(handles, asked, id, &mut fields) {
        Ok(Some(reply)) => reply,
        Ok(None) => Reply::status(id, 0, "done"),
        Err(failed) => status(id, &failed),
    };
    Ok(reply.packet())
}

/// Does what is asked; none stands for "it is done".
fn carry_out(
    handles: &mut Handles,
    asked: u8,
    id: u32,
    fields: &mut Fields<'_>,
) -> Result<Option<Reply>, Failed> {
    match asked {
        kind::OPEN => {
            let (path, flags) = (fields.path()?, fields.number()?);
            return Ok(Some(Reply::handle(id, handles.open(path, flags, &Attributes::read(fields)?)?)));
        }
        kind::OPENDIR => return Ok(Some(Reply::handle(id, handles.open_directory(fields.path()?)?))),
        kind::CLOSE => handles.close(fields.handle()?)?,
        kind::READ => {
            let (handle, at, length) = (fields.handle()?, fields.long()?, fields.number()?);
            let length = usize::try_from(length).unwrap_or(usize::MAX).min(LONGEST_READ);
            return Ok(Some(Reply::data(id, |bytes| handles.read(handle, at, length, bytes))?));
        }
        kind::WRITE => {
            let (handle, at) = (fields.handle()?, fields.long()?);
            handles.write(handle, at, fields.text()?)?;
        }
        kind::READDIR => return Ok(Some(names::list(id, handles.directory(fields.handle()?)?)?)),
        kind::LSTAT => return Ok(Some(attributes::reply(id, &fields.path()?.symlink_metadata()?))),
        kind::STAT => return Ok(Some(attributes::reply(id, &fields.path()?.metadata()?))),
        kind::FSTAT => return Ok(Some(attributes::reply(id, &handles.metadata(fields.handle()?)?))),
        kind::SETSTAT => {
            let path = fields.path()?;
            Attributes::read(fields)?.set(path)?;
        }
        kind::FSETSTAT => {
            let handle = fields.handle()?;
            handles.set(handle, &Attributes::read(fields)?)?;
        }
        kind::REMOVE => std::fs::remove_file(fields.path()?)?,
        kind::MKDIR => {
            let path = fields.path()?;
            attributes::make_directory(path, &Attributes::read(fields)?)?;
        }
        kind::RMDIR => std::fs::remove_dir(fields.path()?)?,
        kind::REALPATH => return Ok(Some(names::one(id, &names::real(fields.path()?)?))),
        kind::READLINK => return Ok(Some(names::one(id, &std::fs::read_link(fields.path()?)?))),
        kind::RENAME => {
            let (from, to) = (fields.path()?, fields.path()?);
            rename_to_new(from, to)?;
        }
        kind::SYMLINK => {
            // The way around that every client has it, which is not the standard's.
            let (target, link) = (fields.path()?, fields.path()?);
            std::os::unix::fs::symlink(target, link)?;
        }
        kind::EXTENDED => return extended(handles, id, fields),
        _ => return Err(Failed::Unsupported),
    }
    Ok(None)
}

fn extended(handles: &mut Handles, id: u32, fields: &mut Fields<'_>) -> Result<Option<Reply>, Failed> {
    match fields.text()? {
        b"posix-rename@openssh.com" => std::fs::rename(fields.path()?, fields.path()?)?,
        b"hardlink@openssh.com" => std::fs::hard_link(fields.path()?, fields.path()?)?,
        b"fsync@openssh.com" => handles.sync(fields.handle()?)?,
        b"lsetstat@openssh.com" => {
            let path = fields.path()?;
            Attributes::read(fields)?.set_link(path)?;
        }
        b"limits@openssh.com" => {
            let mut reply = Reply::new(kind::EXTENDED_REPLY);
            reply.number(id);
            for limit in [LONGEST_PACKET, LONGEST_READ, LONGEST_READ, handles::MOST] {
                reply.long(limit as u64);
            }
            return Ok(Some(reply));
        }
        b"expand-path@openssh.com" => {
            return Ok(Some(names::one(id, &names::real(&names::expanded(fields.path()?))?)));
        }
        _ => return Err(Failed::Unsupported),
    }
    Ok(None)
}

/// Renames unless there is something already.
fn rename_to_new(from: &Path, to: &Path) -> Result<(), Failed> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that cannot tell; the moment between the two steps is its fault.
        Err(Errno::INVAL | Errno::NOSYS) if to.symlink_metadata().is_err() => Ok(std::fs::rename(from, to)?),
        renamed => Ok(renamed?),
    }
}

fn status(id: u32, failed: &Failed) -> Reply {
    let error = match failed {
        Failed::End => return Reply::status(id, 1, "end of file"),
        Failed::Bad => return Reply::status(id, 5, "the request makes no sense"),
        Failed::Unsupported => return Reply::status(id, 8, "this is not served"),
        Failed::System(error) => error,
    };
    let code = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => 2,
        io::ErrorKind::PermissionDenied => 3,
        io::ErrorKind::Unsupported => 8,
        _ => 4,
    };
    Reply::status(id, code, &error.to_string())
}

#[cfg(test)]
mod tests;
