//! Watching a release until it has ended, over as many connections as that takes.
//!
//! Invariants: it ends by the release's end or by a deadline, never by a lost connection alone; what an instance that
//! failed said last is kept, whichever answer had it.

use super::progress::{self, Progress};
use crate::commands::call::Cluster;
use crate::commands::release::is_open;
use crate::error::Error;
use crate::link::{Cut, Link};
use crate::output::{Live, Output};
use futures::StreamExt as _;
use skpr_proto::v1::{FollowRequest, FollowResponse, LogRecord};
use skpr_proto::{ErrorKind, Failure};
use std::time::Duration;
use tokio::time::Instant;
use tonic::{Code, Status, Streaming};

/// How often a block on a terminal is drawn anew, for the time in it.
const TICK: Duration = Duration::from_secs(1);
/// What this command has begun, an aggregator shows within that time: longer than a watch takes to be made again.
const SHOWN_WITHIN: Duration = Duration::from_secs(90);
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What was seen of a release.
pub(super) struct Watched {
    pub last: FollowResponse,
    pub last_lines: Vec<LogRecord>,
    /// It was seen, or begun, before it had ended.
    pub open_before: bool,
}

/// For how long it is watched.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// After this, somebody is told that it goes on without them.
    pub whole: Duration,
    /// Once it has failed, how long the rollback is waited for; none: for as long as the whole.
    pub rollback: Option<Duration>,
}

pub(super) struct Follow<'a> {
    request: FollowRequest,
    link: Link<'a>,
    output: &'a Output,
    limits: Limits,
    began: Instant,
    /// When the failure was first seen.
    failed: Option<Instant>,
    shown: Shown,
    seen: Option<FollowResponse>,
    last_lines: Vec<LogRecord>,
    begun_here: bool,
    open_before: bool,
    environment: String,
}

/// Why a connection is not needed any more.
enum Ended {
    Done,
    /// Whoever was asked knows nothing yet of what was begun.
    NotShownYet,
}

/// How it is shown.
pub(super) enum Shown {
    /// On a terminal.
    Block(Live),
    /// Elsewhere.
    Lines(Progress),
    /// Somebody else's release, that is only waited for.
    Nothing,
}

impl Shown {
    pub(super) fn on(output: &Output) -> Shown {
        match output.live() {
            Some(live) => Shown::Block(live),
            None => Shown::Lines(Progress::default()),
        }
    }
}

impl<'a> Follow<'a> {
    pub(super) fn new(cluster: &'a Cluster<'a>, release: u64, limits: Limits, shown: Shown) -> Follow<'a> {
        let Cluster { output, access, client, .. } = cluster;
        Follow {
            request: FollowRequest { environment: Some(cluster.wire()), release },
            link: Link::on(client, access, output, true),
            output,
            limits,
            began: Instant::now(),
            failed: None,
            shown,
            seen: None,
            last_lines: Vec::new(),
            begun_here: false,
            open_before: false,
            environment: cluster.environment.to_string(),
        }
    }

    /// It was begun by this very command.
    pub(super) fn begun_here(self) -> Self {
        Follow { begun_here: true, open_before: true, ..self }
    }

    pub(super) async fn run(mut self) -> Result<Watched, Error> {
        let result = self.watch().await;
        self.clear();
        result?;
        match self.seen {
            Some(last) => Ok(Watched { last, last_lines: self.last_lines, open_before: self.open_before }),
            None => {
                let message = format!("nothing was heard of the deploy of `{}`", self.environment);
                Err(Failure::new(ErrorKind::TimedOut, message)
                    .with_hint(format!("skpr releases {}", self.environment))
                    .into())
            }
        }
    }

    async fn watch(&mut self) -> Result<(), Error> {
        loop {
            let cut = match self.connection().await {
                Ok(Ended::Done) => return Ok(()),
                Ok(Ended::NotShownYet) => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                    continue;
                }
                Err(cut) => cut,
            };
            self.clear();
            // The time may be over while the connection is.
            match tokio::time::timeout_at(self.until(), self.link.wait(cut)).await {
                Ok(again) => again?,
                Err(_) => return Ok(()),
            }
        }
    }

    /// When to stop, as far as is known now.
    fn until(&self) -> Instant {
        let whole = self.began + self.limits.whole;
        match (self.failed, self.limits.rollback) {
            (Some(failed), Some(patience)) => whole.min(failed + patience),
            _ => whole,
        }
    }

    /// From connecting to the end of the release, or of the time.
    async fn connection(&mut self) -> Result<Ended, Cut> {
        let until = self.until();
        let opened = tokio::time::timeout_at(until, async {
            let client = self.link.client().await?;
            Ok::<_, Cut>((client.environments().follow(self.request.clone()).await, client))
        });
        let Ok(opened) = opened.await else { return Ok(Ended::Done) };
        let (call, client) = opened?;
        let ended = match call {
            Ok(stream) => self.read(&mut stream.into_inner()).await,
            Err(status) => self.ended(&status),
        };
        if matches!(ended, Ok(Ended::NotShownYet)) {
            self.link.keep(client);
        }
        ended
    }

    /// What the end of a call means.
    fn ended(&self, status: &Status) -> Result<Ended, Cut> {
        let unseen = self.begun_here && self.seen.is_none() && status.code() == Code::NotFound;
        if unseen && self.began.elapsed() < SHOWN_WITHIN.min(self.limits.whole) {
            return Ok(Ended::NotShownYet);
        }
        Err(self.link.cut(status))
    }

    async fn read(&mut self, stream: &mut Streaming<FollowResponse>) -> Result<Ended, Cut> {
        let mut first = true;
        loop {
            let tick = match &self.shown {
                Shown::Block(_) => TICK,
                Shown::Lines(_) | Shown::Nothing => self.limits.whole,
            };
            tokio::select! {
                next = stream.next() => match next {
                    Some(Ok(answer)) => {
                        if std::mem::take(&mut first) {
                            // It may have something to say, and that belongs above the block.
                            self.clear();
                            self.link.answered();
                        }
                        if self.take(answer) {
                            return Ok(Ended::Done);
                        }
                    }
                    Some(Err(status)) => return self.ended(&status),
                    None => return Err(Cut::Closed),
                },
                () = tokio::time::sleep_until(self.until()) => return Ok(Ended::Done),
                () = tokio::time::sleep(tick) => self.draw(),
            }
        }
    }

    /// Keeps and shows an answer. Whether it is the last.
    fn take(&mut self, mut answer: FollowResponse) -> bool {
        let (state, number) = answer
            .release
            .as_ref()
            .map_or((String::new(), 0), |release| (release.state.clone(), release.number));
        // Another may become the newest while the connection is away.
        self.request.release = number;
        self.open_before |= is_open(&state);
        if state != "deploying" && self.failed.is_none() {
            self.failed = Some(Instant::now());
        }
        if !answer.last_lines.is_empty() {
            self.last_lines = std::mem::take(&mut answer.last_lines);
        }
        // What runs today says nothing about a release that had ended before.
        if let (Shown::Lines(progress), true) = (&mut self.shown, self.open_before) {
            progress.changes(&answer).iter().for_each(|line| self.output.note(line));
        }
        self.seen = Some(answer);
        self.draw();
        !is_open(&state)
    }

    fn clear(&mut self) {
        if let Shown::Block(live) = &mut self.shown {
            live.clear();
        }
    }

    fn draw(&mut self) {
        if let (Shown::Block(live), Some(answer), true) = (&mut self.shown, &self.seen, self.open_before) {
            let number = answer.release.as_ref().map_or(0, |release| release.number);
            let seconds = i64::try_from(self.began.elapsed().as_secs()).unwrap_or(i64::MAX);
            live.draw(&progress::block(&format!("{}/{number}", self.environment), answer, seconds));
        }
    }
}
