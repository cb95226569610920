//! What the other end says, a message at a time.

use super::{COMPRESSED, HEAD, MOST_PACKET, PLAIN, WINDOW};
use crate::Error;
use crate::message::MOST_MESSAGE;
use crate::wire::Cursor;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation as _, OutBuffer};

/// Bytes that are decompressed at once.
const STEP: usize = 64 << 10;

/// Looks at a message.
type Check = fn(&[u8]) -> Result<(), Error>;

/// See the module.
pub(crate) struct Inbox {
    reader: Box<dyn Read + Send>,
    decoder: Decoder<'static>,
    /// The packet at hand, and how much of it is used.
    packet: Vec<u8>,
    used: usize,
    /// What is decompressed, and how much of it is read.
    pub(super) plain: Vec<u8>,
    read: usize,
    compressed: bool,
    /// What the first message has to be.
    hello: Option<Check>,
}

/// When a whole packet came last, and how many bytes all had; for others to see.
#[derive(Debug)]
pub(crate) struct Pulse {
    begun: Instant,
    millis: AtomicU64,
    pub(crate) bytes: AtomicU64,
    /// Nothing is read, because this end has not kept up.
    held: AtomicBool,
}

impl Pulse {
    pub(crate) fn new() -> Pulse {
        Pulse {
            begun: Instant::now(),
            millis: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            held: AtomicBool::new(false),
        }
    }

    fn beat(&self, bytes: usize) {
        self.millis.store(self.now(), Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Does what may wait for this end's own disk, which is no silence of the other.
    pub(crate) fn held_by<T>(&self, work: impl FnOnce() -> T) -> T {
        self.held.store(true, Ordering::Relaxed);
        let done = work();
        self.millis.store(self.now(), Ordering::Relaxed);
        self.held.store(false, Ordering::Relaxed);
        done
    }

    /// For how many milliseconds nothing whole has come, though it was waited for.
    pub(crate) fn silence(&self) -> u64 {
        if self.held.load(Ordering::Relaxed) {
            return 0;
        }
        self.now().saturating_sub(self.millis.load(Ordering::Relaxed))
    }
}

impl Inbox {
    pub(crate) fn new(reader: Box<dyn Read + Send>) -> Result<Inbox, Error> {
        let mut decoder = Decoder::new().map_err(Error::Link)?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW)).map_err(Error::Link)?;
        Ok(Inbox {
            reader,
            decoder,
            packet: vec![],
            used: 0,
            plain: vec![],
            read: 0,
            compressed: true,
            hello: None,
        })
    }

    /// The first message is a greeting, and is checked by this.
    pub(crate) fn with_hello(mut self, check: Check) -> Inbox {
        self.hello = Some(check);
        self
    }

    /// The next message; none once the connection has ended between two packets.
    pub(crate) fn next(&mut self, pulse: &Pulse) -> Result<Option<Vec<u8>>, Error> {
        loop {
            if let Some(message) = self.take()? {
                if let Some(check) = self.hello.take() {
                    check(&message)?;
                    continue;
                }
                return Ok(Some(message));
            }
            if self.used < self.packet.len() {
                self.decompress()?;
            } else if !self.read_packet(pulse)? {
                return Ok(None);
            }
        }
    }

    /// A message for which nothing has to be waited for.
    pub(crate) fn ready(&mut self) -> Result<Option<Vec<u8>>, Error> {
        if self.hello.is_some() {
            return Ok(None);
        }
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            if self.used >= self.packet.len() {
                return Ok(None);
            }
            self.decompress()?;
        }
    }

    /// A message of what is there, if it is there as a whole.
    fn take(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let rest = self.plain.get(self.read..).unwrap_or_default();
        let mut cursor = Cursor(rest);
        let length = match cursor.at_most(MOST_MESSAGE as u64, "a message that is too long") {
            Ok(length) => length as usize,
            // A number has at most ten bytes, and these have not come yet.
            Err(_) if rest.len() < 10 && rest.iter().all(|byte| byte & 0x80 != 0) => return Ok(None),
            Err(malformed) => return Err(malformed.into()),
        };
        let Ok(message) = cursor.take(length) else { return Ok(None) };
        let message = message.to_vec();
        self.read = self.plain.len() - cursor.0.len();
        Ok(Some(message))
    }

    fn decompress(&mut self) -> Result<(), Error> {
        self.plain.drain(..self.read);
        self.read = 0;
        let input = self.packet.get(self.used..).unwrap_or_default();
        if !self.compressed {
            if !self.plain.is_empty() {
                return Err(Error::Protocol("a plain packet in the middle of a message"));
            }
            self.plain.extend_from_slice(input);
            self.used = self.packet.len();
            return Ok(());
        }
        let start = self.plain.len();
        self.plain.resize(start + STEP, 0);
        let mut input = InBuffer::around(input);
        let mut output = OutBuffer::around(self.plain.get_mut(start..).unwrap_or_default());
        let result = self.decoder.run(&mut input, &mut output);
        let (consumed, produced) = (input.pos(), output.pos());
        self.plain.truncate(start + produced);
        self.used += consumed;
        match result {
            Err(_) => Err(Error::Protocol("a packet that cannot be decompressed")),
            Ok(0) => Err(Error::Protocol("an end of the compressed stream")),
            Ok(_) if consumed == 0 && produced == 0 => {
                Err(Error::Protocol("a packet that cannot be decompressed"))
            }
            Ok(_) => Ok(()),
        }
    }

    /// Whether there was one.
    fn read_packet(&mut self, pulse: &Pulse) -> Result<bool, Error> {
        if self.packet.is_empty() || !self.compressed || self.drained()? {
            let mut head = [0; HEAD];
            if !read_all(&mut *self.reader, &mut head)? {
                return if self.plain.len() > self.read { Err(Error::Ended) } else { Ok(false) };
            }
            let [kind, low, middle, high] = head;
            let length = u32::from_le_bytes([low, middle, high, 0]) as usize;
            if !matches!(kind, COMPRESSED | PLAIN) || length == 0 || length > MOST_PACKET + HEAD {
                return Err(Error::Protocol("a packet of an unknown kind or length"));
            }
            self.packet.resize(length, 0);
            if !read_all(&mut *self.reader, &mut self.packet)? {
                return Err(Error::Ended);
            }
            self.used = 0;
            self.compressed = kind == COMPRESSED;
            pulse.beat(HEAD + length);
        }
        Ok(true)
    }

    /// zstd may hold back what did not fit into the last step; whether there was nothing any more.
    fn drained(&mut self) -> Result<bool, Error> {
        self.plain.drain(..self.read);
        self.read = 0;
        let start = self.plain.len();
        self.plain.resize(start + STEP, 0);
        let mut input = InBuffer::around(&[][..]);
        let mut output = OutBuffer::around(self.plain.get_mut(start..).unwrap_or_default());
        let result = self.decoder.run(&mut input, &mut output);
        let produced = output.pos();
        self.plain.truncate(start + produced);
        match result {
            Err(_) if produced == 0 => Ok(true),
            Err(_) => Err(Error::Protocol("a packet that cannot be decompressed")),
            Ok(_) => Ok(produced == 0),
        }
    }
}

/// Whether anything came; an end in the middle is an error.
fn read_all(reader: &mut dyn Read, buffer: &mut [u8]) -> Result<bool, Error> {
    let mut at = 0;
    while at < buffer.len() {
        match reader.read(buffer.get_mut(at..).unwrap_or_default()) {
            Ok(0) if at == 0 => return Ok(false),
            Ok(0) => return Err(Error::Ended),
            Ok(read) => at += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::Link(error)),
        }
    }
    Ok(true)
}
