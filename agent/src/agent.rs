//! The composition root: the parts of the agent in the order in which a log line passes through them.
//!
//! ```text
//! node's files ─► tail thread ─► Tap (wanted batches) ─► ship ═ Ship ═► aggregator
//!      ▲ checkpoint ◄─ tail thread ◄─ Tap (orders) ◄──────── acknowledgements, claims
//! instances ◄─ runtime ◄─ ssh ◄─ sessions ═ Accept ═► aggregator (each on a connection of its own)
//! node's cgroups ─► usage (latest round, claims) ─► report ═ Report ═► aggregator
//! ```
//!
//! Three things run: the tail thread, the caller's task (connection, heartbeat, sessions), and for some milliseconds of each
//! round a thread that reads cgroups; where terminals are recorded, also a thread that writes. What bounds the memory: the
//! tail engine's [`Limits`], four batches between the two sides ([`ship::tap`]), the connection's send buffer, and a few KiB
//! for each followed file.

use crate::config::{Config, Serving};
use crate::health::{self, Heartbeat, Loop};
use crate::link::Link;
use crate::recording::{self, Recorder};
use crate::sessions::Sessions;
use crate::ship::pump::Pump;
use crate::ship::{WIND_DOWN, tap, window};
use crate::tail::{Counters, Limits, Tail};
use crate::usage::{self, Claims, Round};
use anyhow::Context as _;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// How long the tail thread may take to save its checkpoint at the end.
const JOIN_LIMIT: Duration = Duration::from_secs(5);
/// How long [`run`] takes at most to end once it was told to.
pub const STOPS_WITHIN: Duration =
    JOIN_LIMIT.saturating_add(WIND_DOWN).saturating_add(recording::FINISHED_WITHIN);

/// Runs the agent until `stop` is cancelled, then winds down: nothing more is read, what was sent may be acknowledged
/// for up to two seconds, the checkpoint is saved. Takes at most [`STOPS_WITHIN`].
///
/// Needs a tokio runtime with time and IO; one thread is enough. Leaves nothing running and touches nothing global.
pub async fn run(config: Config, stop: CancellationToken) -> anyhow::Result<()> {
    std::fs::create_dir_all(&config.state)
        .with_context(|| format!("create the state directory `{}`", config.state.display()))?;
    let limits = Limits { window_bytes: window::BYTES, ..Limits::default() };
    let (logs, state) = (config.logs.clone(), config.state.clone());
    // Opening may wait for an agent that is on its way out to let the state directory go.
    let tail = tokio::task::spawn_blocking(move || Tail::open(&logs, &state, limits))
        .await
        .context("open the log directory")??;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), node = %config.node, logs = %config.logs.display(), "following");

    let waker = tail.waker();
    let (tap, spout) = tap::pair(Box::new(move || waker.wake()));
    let teller = tap.teller();
    let (counted, counters) = watch::channel(Counters::default());
    let mut pump = Pump::start(tail, spout, counted, Heartbeat::new(&config.state, Loop::Tail))?;
    let heartbeat = beat(Heartbeat::new(&config.state, Loop::Link));
    let (claims, claimed) = Claims::pair();
    let (sampled, rounds) = watch::channel(Round::default());
    let sampling =
        usage::run(config.usage.clone(), claimed, sampled, Heartbeat::new(&config.state, Loop::Usage));
    let recordings = match &config.sessions {
        Some(Serving::Here { recordings, .. }) => recordings.clone(),
        Some(Serving::Beside(_)) | None => None,
    };
    let (recorder, writing) = recordings.map(Recorder::start).transpose()?.unzip();
    let (asker, sessions) = Sessions::new(&config, recorder);
    let link = Link { config, tap, counters, claims, rounds, asker }.run(&stop);

    let failed = tokio::select! {
        () = link => None,
        () = heartbeat => None,
        () = sessions.run() => None,
        error = sampling => Some(error),
        () = pump.ended() => Some(anyhow::anyhow!("the tail thread ended by itself")),
    };
    teller.stop();
    if let Some(writing) = writing {
        writing.finish(recording::FINISHED_WITHIN).await;
    }
    pump.join(JOIN_LIMIT).await?;
    if let Some(error) = failed {
        return Err(error);
    }
    if !stop.is_cancelled() {
        anyhow::bail!("the tail thread ended by itself");
    }
    tracing::info!("stopped");
    Ok(())
}

/// Shows that the connection's side goes round.
async fn beat(mut heartbeat: Heartbeat) {
    let mut ticks = tokio::time::interval(health::INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        heartbeat.beat();
    }
}
