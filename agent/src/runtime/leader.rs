//! The first process of a session: how it ends, and how its session is ended.
//!
//! Its end is collected last. Until then its number, which is also its session's, cannot become another's.

use super::{ASKING, LOOK_EVERY};
use procfs::process::all_processes;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::Child;
use tokio::time::{Instant, sleep, timeout_at};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Code(u8),
    /// By a signal of this number.
    Signal(i32),
}

/// The leader of a session. When it is dropped before its end was collected, its process group is killed: nobody waits for
/// what that does any more, and it would go on without an owner.
#[derive(Debug)]
pub(super) struct Leader {
    child: Child,
    pid: Pid,
    /// Readable from its end on, before that end is collected.
    ended: AsyncFd<OwnedFd>,
    collected: bool,
}

impl Drop for Leader {
    fn drop(&mut self) {
        if !self.collected {
            self.signal(None, Signal::KILL);
        }
    }
}

impl Leader {
    pub(super) fn new(child: Child) -> io::Result<Leader> {
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("the process has ended already"))?;
        let ended = pidfd_open(pid, PidfdFlags::empty())?;
        #[expect(
            deprecated,
            reason = "sound for an `OwnedFd`, and the constructor for all else needs unsafe"
        )]
        let ended = AsyncFd::with_interest(ended, Interest::READABLE)?;
        Ok(Leader { child, pid, ended, collected: false })
    }

    /// Waits for its end without collecting it. Cancel-safe.
    pub(super) async fn ended(&self) {
        if self.ended.readable().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Collects its end.
    pub(super) async fn exit(&mut self) -> io::Result<Exit> {
        let status = self.child.wait().await?;
        self.collected = true;
        Ok(match (status.code(), status.signal()) {
            (Some(code), _) => Exit::Code(u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
            (None, signal) => Exit::Signal(signal.unwrap_or(0)),
        })
    }

    /// Sends a signal to its process group, or to `group`.
    pub(super) fn signal(&self, group: Option<Pid>, signal: Signal) {
        let sent = match kill_process_group(group.unwrap_or(self.pid), signal) {
            // It has not come to lead a session yet.
            Err(rustix::io::Errno::SRCH) if group.is_none() => kill_process(self.pid, signal),
            sent => sent,
        };
        if let Err(error) = sent {
            tracing::debug!(%error, "a signal was not delivered");
        }
    }

    /// Ends every process of the session: hung up, then asked to, then killed.
    pub(super) async fn end(mut self) -> io::Result<Exit> {
        for (signal, patience) in ASKING {
            if self.signal_all(signal).await == 0 || self.emptied(Instant::now() + patience).await {
                return self.exit().await;
            }
        }
        // What forks faster than it is listed is listed again.
        for _ in 0..10 {
            if self.signal_all(Signal::KILL).await == 0 {
                break;
            }
            sleep(LOOK_EVERY / 4).await;
        }
        self.exit().await
    }

    /// Whether the session is empty before the deadline.
    async fn emptied(&self, deadline: Instant) -> bool {
        let empty = async {
            while !self.members().await.is_empty() {
                sleep(LOOK_EVERY).await;
            }
        };
        timeout_at(deadline, empty).await.is_ok()
    }

    /// How many it was sent to.
    async fn signal_all(&self, signal: Signal) -> usize {
        let members = self.members().await;
        for pid in &members {
            // Gone already is as good.
            if let Err(error) = kill_process(*pid, signal)
                && error != rustix::io::Errno::SRCH
            {
                tracing::warn!(%error, "a process of a session cannot be signalled");
            }
            // One that is stopped would see it only when it goes on.
            if signal != Signal::KILL {
                kill_process(*pid, Signal::CONT).ok();
            }
        }
        members.len()
    }

    /// The processes of the session that have not ended; its leader also before it has begun the session.
    async fn members(&self) -> Vec<Pid> {
        let leader = self.pid.as_raw_nonzero().get();
        let look = move || {
            let listed = all_processes().into_iter().flatten().filter_map(Result::ok);
            let stats = listed.filter_map(|process| process.stat().ok());
            let of_it = stats.filter(|stat| stat.session == leader || stat.pid == leader);
            let alive = of_it.filter(|stat| !matches!(stat.state, 'Z' | 'X'));
            alive.filter_map(|stat| Pid::from_raw(stat.pid)).collect()
        };
        tokio::task::spawn_blocking(look).await.unwrap_or_default()
    }
}
