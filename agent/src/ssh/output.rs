//! From a process's output to the client, at the client's pace: what the client does not take stays in the pipe.
//!
//! When the process has ended, all that it has written still goes. What processes that it left behind write goes as long
//! as they are not silent for a second, and for five seconds at most.

use crate::runtime::waiting;
use bytes::BytesMut;
use russh::ChannelWriteHalf;
use russh::server::Msg;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Read at once, and sent in packets of the client's size.
pub(super) const READ: usize = 64 << 10;
/// How long others may be silent, and how long they may go on, after the process has ended.
const SILENCE: Duration = Duration::from_secs(1);
const AT_MOST: Duration = Duration::from_secs(5);
/// SSH's number for stderr.
const STDERR: u32 = 1;

/// Which output it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Output,
    Errors,
}

/// Sends what comes from the pipe until its end, or until the client has gone.
pub(super) async fn pass_on(
    mut pipe: Receiver,
    to: Arc<ChannelWriteHalf<Msg>>,
    stream: Stream,
    ended: CancellationToken,
) {
    let mut buffer = BytesMut::new();
    let mut after: Option<After> = None;
    while !after.as_ref().is_some_and(After::is_over) {
        buffer.reserve(READ);
        let limit = after.as_ref().map_or_else(Instant::now, After::limit);
        let read = tokio::select! {
            biased;
            () = ended.cancelled(), if after.is_none() => {
                after = Some(After::new(waiting(&pipe)));
                continue;
            }
            read = pipe.read_buf(&mut buffer) => read,
            () = sleep_until(limit), if after.is_some() => return,
        };
        // A terminal that nobody has open any more answers with an error.
        let Ok(1..) = read else { return };
        let bytes = buffer.split().freeze();
        let length = bytes.len() as u64;
        let sent = match stream {
            Stream::Output => to.data_bytes(bytes).await,
            Stream::Errors => to.extended_data_bytes(STDERR, bytes).await,
        };
        if sent.is_err() {
            return;
        }
        if let Some(after) = &mut after {
            after.passed(length);
        }
    }
}

/// The time after the process has ended.
struct After {
    /// Bytes that were in the pipe by then, and are the process's own.
    owed: u64,
    /// Since when nothing is owed.
    since: Instant,
    heard: Instant,
}

impl After {
    fn new(owed: u64) -> After {
        let now = Instant::now();
        After { owed, since: now, heard: now }
    }

    fn passed(&mut self, bytes: u64) {
        self.heard = Instant::now();
        if self.owed > 0 {
            self.owed = self.owed.saturating_sub(bytes);
            self.since = self.heard;
        }
    }

    fn limit(&self) -> Instant {
        (self.heard + SILENCE).min(self.since + AT_MOST)
    }

    fn is_over(&self) -> bool {
        self.owed == 0 && Instant::now() >= self.since + AT_MOST
    }
}
