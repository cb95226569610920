//! From a process's output to the client, at the client's pace: what the client does not take stays in the pipe.
//!
//! When the process has ended, all that it has written still goes. What processes that it left behind write goes as long
//! as they are not silent for a second, and for five seconds at most.
//!
//! A recording gets it first, and does not wait.

use crate::recording::Recording;
use crate::runtime::waiting;
use bytes::BytesMut;
use russh::ChannelWriteHalf;
use russh::server::Msg;
use skpr_proto::ssh;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Read at once, and sent in packets of the client's size.
pub(super) const READ: usize = 64 << 10;
/// How long others may be silent, and how long they may go on, after the process has ended.
const SILENCE: Duration = Duration::from_secs(1);
const AT_MOST: Duration = Duration::from_secs(5);

/// Which output it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Output,
    Errors,
}

/// The end of the process that writes.
pub(super) struct End {
    /// Is cancelled when it has ended.
    pub(super) ended: CancellationToken,
    /// What it may have written by then that is not in our pipe yet.
    pub(super) on_the_way: u64,
}

/// Where it goes.
pub(super) struct To {
    pub(super) client: Arc<ChannelWriteHalf<Msg>>,
    pub(super) stream: Stream,
    pub(super) recording: Option<Arc<Recording>>,
    /// Of a client that has one of its own.
    pub(super) pace: Option<Pace>,
}

/// The pace of a client that tells how much it has passed on. It is that of stdout and stderr together.
#[derive(Clone)]
pub(super) struct Pace {
    sent: Arc<AtomicU64>,
    taken: watch::Receiver<u64>,
}

impl Pace {
    pub(super) fn of(taken: watch::Receiver<u64>) -> Pace {
        Pace { sent: Arc::default(), taken }
    }

    /// Waits until it may be sent so much more.
    async fn keep(&mut self, bytes: u64) {
        let may = |taken: &u64| self.sent.load(Ordering::Relaxed) < taken.saturating_add(ssh::MOST_UNTAKEN);
        // Without whoever takes in what the client says, nothing can be sent either.
        drop(self.taken.wait_for(may).await);
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Sends what comes from the pipe until its end, or until the client has gone.
pub(super) async fn pass_on(mut pipe: Receiver, mut to: To, end: End) {
    let mut buffer = BytesMut::new();
    let mut after: Option<After> = None;
    while !after.as_ref().is_some_and(After::is_over) {
        buffer.reserve(READ);
        let limit = after.as_ref().map_or_else(Instant::now, After::limit);
        let read = tokio::select! {
            biased;
            () = end.ended.cancelled(), if after.is_none() => {
                after = Some(After::new(waiting(&pipe), end.on_the_way));
                continue;
            }
            read = pipe.read_buf(&mut buffer) => read,
            () = sleep_until(limit), if after.is_some() => return,
        };
        // A terminal that nobody has open any more answers with an error.
        let Ok(1..) = read else { return };
        let bytes = buffer.split().freeze();
        if let Some(recording) = &to.recording {
            recording.output(&bytes);
        }
        let (length, begun) = (bytes.len() as u64, Instant::now());
        if let Some(pace) = &mut to.pace {
            pace.keep(length).await;
        }
        let sent = match to.stream {
            Stream::Output => to.client.data_bytes(bytes).await,
            Stream::Errors => to.client.extended_data_bytes(ssh::STDERR, bytes).await,
        };
        if sent.is_err() {
            return;
        }
        if let Some(after) = &mut after {
            after.passed(length, begun);
        }
    }
}

/// The time after the process has ended.
struct After {
    /// Bytes that were in the pipe by then, and are the process's own.
    owed: u64,
    /// Bytes that may be its own, too. The time that the client takes for them does not count.
    on_the_way: u64,
    /// Since when nothing is owed.
    since: Instant,
    heard: Instant,
}

impl After {
    fn new(owed: u64, on_the_way: u64) -> After {
        let now = Instant::now();
        After { owed, on_the_way, since: now, heard: now }
    }

    /// So many bytes, which the client began to take then, were taken.
    fn passed(&mut self, bytes: u64, begun: Instant) {
        self.heard = Instant::now();
        if self.owed > 0 {
            self.owed = self.owed.saturating_sub(bytes);
            self.since = self.heard;
        } else if self.on_the_way > 0 {
            self.on_the_way = self.on_the_way.saturating_sub(bytes);
            self.since += self.heard - begun;
        }
    }

    fn limit(&self) -> Instant {
        (self.heard + SILENCE).min(self.since + AT_MOST)
    }

    fn is_over(&self) -> bool {
        self.owed == 0 && Instant::now() >= self.since + AT_MOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: Duration = Duration::from_secs(60);

    async fn pass(after: &mut After, bytes: u64, takes: Duration) {
        let begun = Instant::now();
        tokio::time::advance(takes).await;
        after.passed(bytes, begun);
    }

    #[tokio::test]
    async fn a_client_that_tells_what_it_has_passed_on_is_not_sent_much_more() {
        let (taken, told) = watch::channel(0);
        let mut output = Pace::of(told);
        let mut errors = output.clone();
        output.keep(ssh::MOST_UNTAKEN - 1).await;
        errors.keep(READ as u64).await;
        let waits = async |pace: &mut Pace| {
            tokio::select! {
                biased;
                () = pace.keep(1) => false,
                () = std::future::ready(()) => true,
            }
        };
        assert!(waits(&mut output).await && waits(&mut errors).await);
        taken.send_replace(READ as u64);
        assert!(!waits(&mut output).await);
        assert!(waits(&mut errors).await);
        // Nobody tells anything any more.
        drop(taken);
        assert!(!waits(&mut errors).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_client_gets_all_that_the_process_has_written() {
        let mut after = After::new(100, 50);
        for bytes in [60, 40, 25, 25] {
            pass(&mut after, bytes, SLOW).await;
            assert!(!after.is_over(), "{bytes}");
        }
        // What comes now is another's.
        pass(&mut after, 1, SLOW).await;
        assert!(after.is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn what_others_write_is_listened_to_for_a_while_and_not_for_ever() {
        // One that drips, and one that pours.
        for (bytes, on_the_way) in [(1, 1 << 20), (1 << 20, 1 << 20)] {
            let (mut after, begun) = (After::new(0, on_the_way), Instant::now());
            while !after.is_over() {
                tokio::time::advance(SILENCE / 2).await;
                pass(&mut after, bytes, Duration::ZERO).await;
            }
            assert_eq!(begun.elapsed(), AT_MOST);
        }
        let after = After::new(0, 1 << 20);
        assert_eq!(after.limit(), Instant::now() + SILENCE);
    }
}
