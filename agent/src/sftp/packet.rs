//! Packets: what is in one that came, and one to be sent. Pure but for [`read`].

use super::kind;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// A request that ends too early, or says what cannot be.
#[derive(Debug)]
pub(super) struct Bad;

/// Reads the next packet without its length; false at the end.
pub(super) fn read(input: &mut impl Read, packet: &mut Vec<u8>, longest: usize) -> io::Result<bool> {
    let mut length = [0; 4];
    let mut got = 0;
    while let Some(rest @ [_, ..]) = length.get_mut(got..) {
        match input.read(rest) {
            Ok(0) if got == 0 => return Ok(false),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => got += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > longest {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a request is too long"));
    }
    packet.resize(length, 0);
    input.read_exact(packet)?;
    Ok(true)
}

/// What is left of a request.
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn new(packet: &'a [u8]) -> Fields<'a> {
        Fields(packet)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Bad> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Bad)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Bad> {
        self.take(1)?.first().copied().ok_or(Bad)
    }

    pub(super) fn number(&mut self) -> Result<u32, Bad> {
        Ok(u32::from_be_bytes(self.take(4)?.try_into().map_err(|_| Bad)?))
    }

    pub(super) fn long(&mut self) -> Result<u64, Bad> {
        Ok(u64::from_be_bytes(self.take(8)?.try_into().map_err(|_| Bad)?))
    }

    pub(super) fn text(&mut self) -> Result<&'a [u8], Bad> {
        let length = self.number()?;
        self.take(usize::try_from(length).map_err(|_| Bad)?)
    }

    /// A path; nothing is where we are.
    pub(super) fn path(&mut self) -> Result<&'a Path, Bad> {
        match self.text()? {
            b"" => Ok(Path::new(".")),
            text if text.contains(&0) => Err(Bad),
            text => Ok(Path::new(OsStr::from_bytes(text))),
        }
    }

    /// A handle, as [`Reply::handle`] has written it.
    pub(super) fn handle(&mut self) -> Result<u32, Bad> {
        Ok(u32::from_be_bytes(self.text()?.try_into().map_err(|_| Bad)?))
    }
}

/// An answer.
pub(super) struct Reply(Vec<u8>);

impl Reply {
    pub(super) fn new(kind: u8) -> Reply {
        // The length goes first, once it is known.
        Reply(vec![0, 0, 0, 0, kind])
    }

    fn of(kind: u8, id: u32) -> Reply {
        let mut reply = Reply::new(kind);
        reply.number(id);
        reply
    }

    pub(super) fn status(id: u32, code: u32, message: &str) -> Reply {
        let mut reply = Reply::of(kind::STATUS, id);
        reply.number(code);
        reply.text(message.as_bytes());
        reply.text(b"en");
        reply
    }

    pub(super) fn handle(id: u32, handle: u32) -> Reply {
        let mut reply = Reply::of(kind::HANDLE, id);
        reply.text(&handle.to_be_bytes());
        reply
    }

    pub(super) fn attributes(id: u32) -> Reply {
        Reply::of(kind::ATTRS, id)
    }

    pub(super) fn names(id: u32, count: u32) -> Reply {
        let mut reply = Reply::of(kind::NAME, id);
        reply.number(count);
        reply
    }

    /// The bytes that `fill` puts at the end of what it gets.
    pub(super) fn data<E>(id: u32, fill: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<Reply, E> {
        let mut reply = Reply::of(kind::DATA, id);
        let at = reply.0.len();
        reply.number(0);
        let before = reply.0.len();
        fill(&mut reply.0)?;
        reply.note_length(at, before);
        Ok(reply)
    }

    pub(super) fn number(&mut self, number: u32) {
        self.0.extend(number.to_be_bytes());
    }

    pub(super) fn long(&mut self, number: u64) {
        self.0.extend(number.to_be_bytes());
    }

    pub(super) fn text(&mut self, text: &[u8]) {
        self.number(u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(text);
    }

    pub(super) fn packet(mut self) -> Vec<u8> {
        self.note_length(0, 4);
        self.0
    }

    /// Writes at `at` how much there is from `from` on.
    fn note_length(&mut self, at: usize, from: usize) {
        let length = u32::try_from(self.0.len() - from).unwrap_or(u32::MAX);
        if let Some(place) = self.0.get_mut(at..at + 4) {
            place.copy_from_slice(&length.to_be_bytes());
        }
    }
}
