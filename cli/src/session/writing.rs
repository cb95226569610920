//! What a process says, on its way to our stdout and stderr.
//!
//! * Writing is apart from whoever pushes: a stdout that takes nothing holds up what waits here, and nothing else.
//! * All is written in the order in which it came, also where both lead to the same place.
//! * It is told how much is written, so that who sends can stay within [`ssh::MOST_UNTAKEN`] of it.

use bytes::BytesMut;
use skpr_proto::ssh;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::future::pending;
use std::io;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;

/// What may wait: as much as an agent sends ahead, what it reads at once of stdout and of stderr, and what it says itself. Of
/// one that sends more, as older ones do, no more is taken in: it waits, with all else that its connection carries.
const MOST: usize = ssh::MOST_UNTAKEN as usize + (256 << 10);
/// What one that waits costs beside its bytes: a process may change between stdout and stderr with each of them.
const EACH: usize = 64;
/// What is written at once, at least, of many small ones.
const PIECE: usize = 32 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Output,
    Errors,
}

/// What waits to be written, and where to.
pub(super) struct Writing<O, E> {
    output: O,
    errors: E,
    waiting: VecDeque<(Stream, BytesMut)>,
    bytes: usize,
    /// What may have been written in part only.
    unflushed: Option<Stream>,
    written: watch::Sender<u64>,
    /// Whether lines on stderr lose the carriage return that a terminal which is read by the key wants.
    plain_errors: bool,
}

impl<O, E> Writing<O, E>
where
    O: AsyncWrite + Unpin,
    E: AsyncWrite + Unpin,
{
    /// Both have writes that can be cancelled.
    pub(super) fn new(output: O, errors: E, written: watch::Sender<u64>) -> Self {
        let (waiting, plain_errors) = (VecDeque::new(), false);
        Writing { output, errors, waiting, bytes: 0, unflushed: None, written, plain_errors }
    }

    /// For a process with a terminal: what then comes for stderr are lines for people alone, and ours is no such terminal.
    pub(super) fn with_plain_errors(self) -> Self {
        Writing { plain_errors: true, ..self }
    }

    pub(super) fn has_room(&self) -> bool {
        self.bytes + self.waiting.len() * EACH < MOST
    }

    /// Nobody reads any more.
    pub(super) fn gone(mut self) -> Self {
        (self.bytes, self.unflushed) = (0, None);
        self.waiting.clear();
        self
    }

    /// Writes all that waits.
    pub(super) async fn finish(&mut self) -> io::Result<()> {
        while !self.waiting.is_empty() || self.unflushed.is_some() {
            self.step().await?;
        }
        Ok(())
    }

    pub(super) fn push(&mut self, stream: Stream, data: &[u8]) {
        let plain = self.plain_errors && stream == Stream::Errors;
        let data = if plain { without_returns(data) } else { Cow::Borrowed(data) };
        if data.is_empty() {
            return;
        }
        self.bytes += data.len();
        match self.waiting.back_mut() {
            Some((last, bytes)) if *last == stream && bytes.len() < PIECE => bytes.extend_from_slice(&data),
            _ => self.waiting.push_back((stream, BytesMut::from(&*data))),
        }
    }

    /// Writes on, and returns now and then; never while there is nothing to write. Cancel-safe. An error is stdout's.
    pub(super) async fn step(&mut self) -> io::Result<()> {
        let next = self.waiting.front().map(|(stream, _)| *stream);
        if let Some(stream) = self.unflushed
            && next != Some(stream)
        {
            let flushed = match stream {
                Stream::Output => self.output.flush().await,
                Stream::Errors => self.errors.flush().await,
            };
            self.unflushed = None;
            return if stream == Stream::Output { flushed } else { Ok(()) };
        }
        let Some((stream, bytes)) = self.waiting.front_mut() else { return pending().await };
        let written = match stream {
            Stream::Output => match self.output.write_buf(bytes).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => written,
            },
            Stream::Errors => match self.errors.write_buf(bytes).await {
                Ok(written @ 1..) => written,
                // A stderr that is gone is no reason to stop.
                Ok(0) | Err(_) => {
                    let lost = bytes.len();
                    bytes.clear();
                    lost
                }
            },
        };
        self.unflushed = Some(*stream);
        if bytes.is_empty() {
            self.waiting.pop_front();
        }
        self.bytes -= written;
        self.written.send_modify(|all| *all += written as u64);
        Ok(())
    }
}

/// With `\n` at the ends of lines.
fn without_returns(data: &[u8]) -> Cow<'_, [u8]> {
    let mut lines = data.split(|byte| *byte == b'\n');
    let last = lines.next_back().unwrap_or_default();
    let mut plain = Vec::with_capacity(data.len());
    for line in lines {
        plain.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
        plain.push(b'\n');
    }
    plain.extend_from_slice(last);
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};

    struct Reader {
        end: DuplexStream,
        written: watch::Receiver<u64>,
    }

    /// With pipes of so many bytes, and ends to read from.
    fn writing(pipe: usize) -> (Writing<DuplexStream, DuplexStream>, Reader, DuplexStream) {
        let ((output, end), (errors, other)) = (duplex(pipe), duplex(pipe));
        let (sender, written) = watch::channel(0);
        (Writing::new(output, errors, sender), Reader { end, written }, other)
    }

    #[tokio::test]
    async fn a_reader_that_stops_holds_up_no_more_than_what_waits_for_it() {
        let (mut writing, reader, _errors) = writing(1 << 10);
        let mut pushed = 0;
        while writing.has_room() {
            writing.push(Stream::Output, &[7; PIECE]);
            pushed += PIECE;
        }
        assert!(pushed < MOST + PIECE, "{pushed}");
        writing.step().await.unwrap();
        // The pipe is full: whoever waits for more can do something else meanwhile.
        tokio::select! {
            biased;
            stepped = async { loop { writing.step().await.unwrap() } } => stepped,
            () = tokio::task::yield_now() => {}
        }
        assert_eq!(*reader.written.borrow(), 1 << 10);
        let Reader { mut end, written } = reader;
        let read = async {
            let mut all = vec![0; pushed];
            end.read_exact(&mut all).await.unwrap();
            all
        };
        let (all, done) = tokio::join!(read, writing.finish());
        done.unwrap();
        assert!(all.iter().all(|byte| *byte == 7));
        assert_eq!(*written.borrow(), pushed as u64);
        assert!(writing.has_room());
    }

    #[tokio::test]
    async fn each_stream_has_its_own_in_order_and_a_stderr_that_is_gone_is_nothing() {
        let (mut writing, mut reader, mut errors) = writing(1 << 10);
        for (stream, text) in
            [(Stream::Output, "a"), (Stream::Output, "b"), (Stream::Errors, "x"), (Stream::Output, "c")]
        {
            writing.push(stream, text.as_bytes());
        }
        writing.push(Stream::Errors, b"");
        // Small ones of one stream go at once.
        assert_eq!(writing.waiting.len(), 3);
        writing.finish().await.unwrap();
        let (mut said, mut told) = ([0; 3], [0; 1]);
        reader.end.read_exact(&mut said).await.unwrap();
        errors.read_exact(&mut told).await.unwrap();
        assert_eq!((&said, &told), (b"abc", b"x"));
        drop(errors);
        writing.push(Stream::Errors, b"lost");
        writing.push(Stream::Output, b"d");
        writing.finish().await.unwrap();
        assert_eq!(*reader.written.borrow(), 9);
    }

    #[tokio::test]
    async fn a_stdout_that_is_gone_is_an_error() {
        let (mut writing, reader, _errors) = writing(1 << 10);
        drop(reader.end);
        writing.push(Stream::Output, b"lost");
        let error = writing.finish().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn lines_end_for_a_terminal_or_for_a_file() {
        let said = b"a\r\n\rb\r\n\r\nc\r";
        for (plain, expected) in [(false, &said[..]), (true, b"a\n\rb\n\nc\r")] {
            let (mut writing, mut reader, mut errors) = writing(1 << 10);
            if plain {
                writing = writing.with_plain_errors();
            }
            writing.push(Stream::Errors, said);
            writing.push(Stream::Output, said);
            writing.finish().await.unwrap();
            drop(writing);
            let (mut told, mut shown) = (vec![], vec![]);
            errors.read_to_end(&mut told).await.unwrap();
            reader.end.read_to_end(&mut shown).await.unwrap();
            assert_eq!((&*told, &*shown), (expected, &said[..]), "{plain}");
        }
    }
}
