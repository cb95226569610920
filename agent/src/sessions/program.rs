//! The part of the agent that may start processes, as a program of its own: it is given sessions over a Unix socket by
//! the part that talks to the network, and talks to containerd alone.
//!
//! * What comes over the socket names a pod, a container and a key, and is opaque bytes else. Whether there may be a
//!   session is decided here.
//! * It ends by itself when containerd's socket has become another: only a new container has that.

use super::beside::check_peer;
use super::handover::{read_dial, write_exit, write_pieces};
use super::target::Target;
use crate::health::{self, Heartbeat, Loop};
use crate::recording::{self, Recorder};
use crate::runtime::Runtime;
use crate::runtime::containerd::{Containerd, Places, Reaper};
use crate::ssh::spill::Space;
use anyhow::{Context as _, bail};
use skpr_proto::{Label, MAX_PIECE};
use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;
use tokio::io::{AsyncWriteExt as _, BufReader, copy_buf, duplex, split};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// What the two sides of a session may be apart here.
const PIPE: usize = 128 << 10;
/// The other side says what it wants as soon as it has connected.
const FIRST_WITHIN: Duration = Duration::from_secs(5);
/// How long the last that is said may take to be heard.
const GOODBYE: Duration = Duration::from_secs(5);
/// How long processes may take to be ended when this program is.
const REAPED_WITHIN: Duration = Duration::from_secs(4);
/// How often it is looked whether containerd is there, and how often in a row it may not be.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const ABSENCES: u32 = 6;
/// After an error that concerns no connection, such as too many open files.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// What the program works with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where sessions are handed over.
    pub listen: PathBuf,
    /// containerd's socket.
    pub containerd: PathBuf,
    /// Where FIFOs are made, by the same path on the node.
    pub fifos: PathBuf,
    /// The node's `/proc`.
    pub proc: PathBuf,
    /// Where what processes do not read is kept aside, and signs of life are given.
    pub state: PathBuf,
    /// Namespaces in whose pods nothing is started.
    pub denied: BTreeSet<Label>,
    /// Where terminals are recorded; none where they are not.
    pub recordings: Option<recording::Settings>,
}

/// Serves sessions until `stop`, and ends what they have started.
pub async fn run(settings: Settings, stop: CancellationToken) -> anyhow::Result<()> {
    let places = Places {
        socket: settings.containerd.clone(),
        fifos: settings.fifos.clone(),
        proc: settings.proc.clone(),
        worker: std::env::current_exe().context("find this program")?,
        denied: settings.denied.clone(),
    };
    for directory in [&settings.state, &settings.fifos] {
        std::fs::create_dir_all(directory).with_context(|| format!("create `{}`", directory.display()))?;
    }
    let (containerd, mut reaper) = Containerd::new(places.clone());
    let left = reaper.sweep(&places).context("look for what is left of sessions before")?;
    let listener = listen(&settings.listen).context("listen for sessions")?;
    tracing::info!(left, containerd = %settings.containerd.display(), "serving sessions");
    let space = Space::new(settings.state.clone());
    let (recorder, writing) = settings.recordings.clone().map(Recorder::start).transpose()?.unzip();
    let heartbeat = Heartbeat::new(&settings.state, Loop::Sessions);
    let ended = tokio::select! {
        () = stop.cancelled() => Ok(()),
        () = accept(&listener, &containerd, &space, recorder.as_ref()) => Ok(()),
        () = serve_and_beat(&mut reaper, heartbeat) => Ok(()),
        error = watch(&settings.containerd) => Err(error),
    };
    // Whatever was served is being dropped, and its processes are the reaper's.
    drop(containerd);
    reaper.finish(REAPED_WITHIN).await;
    if let Some(writing) = writing {
        writing.finish(recording::FINISHED_WITHIN).await;
    }
    ended
}

/// For the other program of the pod alone, which runs as the same user.
fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn serve_and_beat(reaper: &mut Reaper, mut heartbeat: Heartbeat) {
    let mut ticks = interval(health::INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = reaper.run() => return,
            _ = ticks.tick() => heartbeat.beat(),
        }
    }
}

/// Returns when containerd has been away for so long that its socket is another by now.
async fn watch(socket: &Path) -> anyhow::Error {
    let mut absences = 0;
    loop {
        sleep(LOOK_EVERY).await;
        match UnixStream::connect(socket).await {
            Ok(_) => absences = 0,
            Err(error) => {
                absences += 1;
                tracing::warn!(%error, "containerd cannot be reached");
                if absences >= ABSENCES {
                    return anyhow::Error::new(error)
                        .context(format!("connect to containerd at `{}`", socket.display()));
                }
            }
        }
    }
}

/// Never returns.
async fn accept(
    listener: &UnixListener,
    containerd: &Containerd,
    space: &Space,
    recorder: Option<&Recorder>,
) {
    let mut running = JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a session was not accepted");
                    sleep(ACCEPT_AGAIN_AFTER).await;
                    continue;
                }
            },
            Some(ended) = running.join_next() => {
                super::log(ended);
                continue;
            }
        };
        if running.len() >= super::SESSIONS {
            tracing::warn!("there are {} sessions already", super::SESSIONS);
            continue;
        }
        let (containerd, space, recorder) = (containerd.clone(), space.clone(), recorder.cloned());
        running.spawn(async move {
            if let Err(error) = serve(stream, containerd, space, recorder).await {
                tracing::warn!(error = format!("{error:#}"), "a session was not served");
            }
        });
    }
}

async fn serve(
    mut stream: UnixStream,
    containerd: Containerd,
    space: Space,
    recorder: Option<Recorder>,
) -> anyhow::Result<()> {
    check_peer(&stream).context("see who asks for a session")?;
    let Ok(dial) = timeout(FIRST_WITHIN, read_dial(&mut stream)).await else {
        bail!("nobody said what it is about");
    };
    let target = Target::try_from(&dial.context("read what a session is about")?)?;
    tracing::debug!(instance = %target.instance, container = %target.container, "a session begins");
    let record = target.record(recorder.as_ref())?;
    let runtime = Runtime::of_containers(containerd, target.container.clone());
    let (ours, theirs) = duplex(PIPE);
    let mut serving = Box::pin(super::serve_target(ours, target, runtime, space, record));
    let (from_server, to_server) = split(theirs);
    let (from_client, mut to_client) = stream.into_split();
    let down = async move {
        let (mut from, mut to) = (BufReader::with_capacity(MAX_PIECE, from_client), to_server);
        // A client that is cut off has ended, too.
        drop(copy_buf(&mut from, &mut to).await);
        drop(to.shutdown().await);
        std::future::pending::<()>().await;
    };
    let served = async {
        let up = async {
            let written = write_pieces(from_server, &mut to_client).await;
            (written, to_client)
        };
        let mut up = pin!(up);
        let (exit, written) = tokio::select! {
            // One that has not logged in is left, with whatever it keeps open.
            exit = &mut serving => (exit, timeout(GOODBYE, up).await.ok()),
            written = &mut up => (serving.await, Some(written)),
        };
        if let Some((Ok(()), mut to)) = written {
            // Nobody may be there to hear it.
            drop(timeout(GOODBYE, write_exit(&mut to, exit.clone())).await);
        }
        tracing::debug!(?exit, "a session has ended");
    };
    tokio::select! {
        () = served => {}
        () = down => {}
    }
    Ok(())
}
