//! What this end says. Threads share it; each message goes as a whole.

use super::{COMPRESSED, HEAD, MOST_PACKET, PLAIN, WINDOW};
use crate::Error;
use crate::options::USUAL_LEVEL;
use crate::wire::put_number;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};
use zstd::stream::raw::{CParameter, Encoder, InBuffer, Operation as _, OutBuffer};

/// Bytes that are compressed at once.
const BATCH: usize = 64 << 10;
/// What is compressed from where it is.
const LONG: usize = 4 << 10;
/// Bytes of a packet that wait for more.
const FULL: usize = 32 << 10;
/// With a limit of bandwidth, how much may go at once after a pause.
const BURST: Duration = Duration::from_millis(100);
/// The smallest packet that is still worth its head, where the limit is so low that a full one would take long.
const LEAST: usize = 1 << 10;

/// Whether a message is worth compressing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    Compress,
    AsItIs,
}

/// See the module.
pub(crate) struct Outbox {
    inner: Mutex<Inner>,
    writing: Arc<Writing>,
}

/// Since when a write has been going on, for others to see.
#[derive(Debug)]
struct Writing {
    begun: Instant,
    /// In milliseconds, and one more: 0 is none.
    since: AtomicU64,
}

impl Writing {
    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }
}

struct Inner {
    writer: Box<dyn Write + Send>,
    encoder: Encoder<'static>,
    /// Messages that are not compressed yet.
    plain: Vec<u8>,
    /// The packet that is being made, with room for its head.
    packet: Vec<u8>,
    /// Whether the encoder holds anything back.
    dirty: bool,
    sent: u64,
    last: Instant,
    pace: Option<Pace>,
    failed: bool,
    writing: Arc<Writing>,
}

impl Outbox {
    pub(crate) fn new(
        writer: Box<dyn Write + Send>,
        level: u8,
        bandwidth: Option<u64>,
    ) -> Result<Outbox, Error> {
        let encoder = Encoder::new(i32::from(level)).map_err(Error::Link)?;
        let last = Instant::now();
        let pace = bandwidth.filter(|bytes| *bytes > 0).map(|rate| Pace { rate, free_at: last });
        let packet = vec![0; HEAD];
        let writing = Arc::new(Writing { begun: last, since: AtomicU64::new(0) });
        Ok(Outbox {
            inner: Mutex::new(Inner {
                writer,
                encoder,
                plain: vec![],
                packet,
                dirty: false,
                sent: 0,
                last,
                pace,
                failed: false,
                writing: writing.clone(),
            }),
            writing,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a message. It is on its way only after [`Outbox::flush`].
    pub(crate) fn send(&self, message: &[u8], packing: Packing) -> Result<(), Error> {
        self.send_parts(&[message], packing)
    }

    /// The same for a message in parts, which are not joined for it.
    pub(crate) fn send_parts(&self, parts: &[&[u8]], packing: Packing) -> Result<(), Error> {
        let mut inner = self.lock();
        let result = inner.send(parts, packing);
        inner.keep(result)
    }

    pub(crate) fn flush(&self) -> Result<(), Error> {
        let mut inner = self.lock();
        let result = inner.flush();
        inner.keep(result)
    }

    /// Sends this if nothing was sent for so long, and nobody is sending.
    pub(crate) fn keep_alive(&self, message: &[u8], after: Duration) -> Result<(), Error> {
        let mut inner = match self.inner.try_lock() {
            Ok(inner) => inner,
            Err(TryLockError::Poisoned(inner)) => inner.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(()),
        };
        if inner.last.elapsed() < after {
            return Ok(());
        }
        // It may come before it is known how the rest is to be compressed.
        let result = inner.send(&[message], Packing::AsItIs).and_then(|()| inner.flush());
        inner.keep(result)
    }

    /// For how many milliseconds the other end has not taken what is being written.
    pub(crate) fn stuck(&self) -> u64 {
        match self.writing.since.load(Ordering::Relaxed) {
            0 => 0,
            since => self.writing.now().saturating_sub(since - 1),
        }
    }

    pub(crate) fn sent(&self) -> u64 {
        self.lock().sent
    }

    /// After this the level and the pace are those of the transfer.
    pub(crate) fn configure(&self, level: u8, bandwidth: Option<u64>) -> Result<(), Error> {
        let mut inner = self.lock();
        inner.pace = bandwidth.filter(|bytes| *bytes > 0).map(|rate| Pace { rate, free_at: Instant::now() });
        let encoder = &mut inner.encoder;
        encoder.set_parameter(CParameter::CompressionLevel(i32::from(level))).map_err(Error::Link)?;
        // What is to be small looks back as far as may be. The usual level's own 2 MiB stay in the processor's cache, which
        // is worth more than what is found beyond.
        let window = if level > USUAL_LEVEL { WINDOW } else { 0 };
        encoder.set_parameter(CParameter::WindowLog(window)).map_err(Error::Link)
    }
}

impl Inner {
    /// After a failure nothing more is written: the peer could not make sense of it.
    fn keep(&mut self, result: io::Result<()>) -> Result<(), Error> {
        self.failed |= result.is_err();
        result.map_err(Error::Link)
    }

    fn send(&mut self, parts: &[&[u8]], packing: Packing) -> io::Result<()> {
        if self.failed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let length = parts.iter().map(|part| part.len()).sum::<usize>();
        // A packet of one long message would keep a slow connection silent for too long.
        if packing == Packing::AsItIs && length <= self.longest() {
            self.flush()?;
            put_number(&mut self.packet, length as u64);
            parts.iter().for_each(|part| self.packet.extend_from_slice(part));
            return self.write_packet(PLAIN);
        }
        put_number(&mut self.plain, length as u64);
        for part in parts {
            if part.len() < LONG {
                self.plain.extend_from_slice(part);
            } else {
                self.compress_plain()?;
                self.compress(part)?;
            }
        }
        if self.plain.len() >= BATCH { self.compress_plain() } else { Ok(()) }
    }

    /// The longest packet: with a limit of bandwidth what goes in half a second.
    fn longest(&self) -> usize {
        match &self.pace {
            None => MOST_PACKET,
            Some(pace) => usize::try_from(pace.rate / 2).unwrap_or(FULL).clamp(LEAST, MOST_PACKET),
        }
    }

    fn compress_plain(&mut self) -> io::Result<()> {
        let mut plain = std::mem::take(&mut self.plain);
        let compressed = self.compress(&plain);
        plain.clear();
        self.plain = plain;
        compressed
    }

    fn compress(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut input = InBuffer::around(bytes);
        while input.pos() < bytes.len() {
            self.dirty = true;
            self.step(|encoder, output| encoder.run(&mut input, output).map(|_| 0))?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.failed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.compress_plain()?;
        if std::mem::take(&mut self.dirty) {
            while self.step(|encoder, output| encoder.flush(output))? > 0 {}
        }
        self.write_packet(COMPRESSED)?;
        self.writer.flush()
    }

    /// One step of the encoder, into the packet.
    fn step(
        &mut self,
        step: impl FnOnce(&mut Encoder<'static>, &mut OutBuffer<'_, [u8]>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let (start, full) = (self.packet.len(), self.longest().min(FULL));
        self.packet.resize(start + full, 0);
        let room = self.packet.get_mut(start..).unwrap_or_default();
        let mut output = OutBuffer::around(room);
        let left = step(&mut self.encoder, &mut output);
        let written = output.pos();
        self.packet.truncate(start + written);
        if self.packet.len() >= full {
            self.write_packet(COMPRESSED)?;
        }
        left
    }

    fn write_packet(&mut self, kind: u8) -> io::Result<()> {
        let length = self.packet.len().saturating_sub(HEAD);
        if length == 0 {
            return Ok(());
        }
        debug_assert!(length <= MOST_PACKET);
        let [low, middle, high, _] = (length as u32).to_le_bytes();
        for (place, byte) in self.packet.iter_mut().zip([kind, low, middle, high]) {
            *place = byte;
        }
        if let Some(pace) = &mut self.pace {
            pace.wait(self.packet.len());
        }
        self.writing.since.store(self.writing.now() + 1, Ordering::Relaxed);
        let written = self.writer.write_all(&self.packet);
        self.writing.since.store(0, Ordering::Relaxed);
        written?;
        self.sent += self.packet.len() as u64;
        self.packet.truncate(HEAD);
        self.last = Instant::now();
        Ok(())
    }
}

/// A limit of bandwidth.
struct Pace {
    /// Bytes a second.
    rate: u64,
    /// When what was sent so far would be through.
    free_at: Instant,
}

impl Pace {
    fn wait(&mut self, bytes: usize) {
        let now = Instant::now();
        if let Some(ahead) = self.free_at.checked_duration_since(now) {
            std::thread::sleep(ahead.saturating_sub(BURST));
        }
        let takes = Duration::from_micros((bytes as u64).saturating_mul(1_000_000) / self.rate.max(1));
        self.free_at = self.free_at.max(now) + takes;
    }
}
