//! Keeps one instance running: start, capture, watch, end, and start again.
//!
//! * Whatever ended its program, nothing of that is left at the next start.
//! * Starts are further apart each time, up to a bound, until one has lasted.
//! * Each start has a port of its own: one that somebody else took in between costs a start and nothing more.

mod status;

pub(super) use status::{Report, Status, end};

use super::cgroup::Cgroup;
use super::health::Probe;
use super::host::{Entrances, Whereabouts};
use super::output::{LogFile, ROTATE_AT};
use super::ports::{Port, Ports};
use super::process::{Launch, Process, blocking, tidy_up};
use super::variables::variables;
use jiff::Timestamp;
use skpr_agent::runtime::{self, Spawner};
use skpr_proto::PodUid;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// The first pause before another start, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A start that lasted this long makes the next pause the first again.
const LASTED: Duration = Duration::from_secs(60);
/// How often an instance is asked: until it is ready, and afterwards.
const PROBE_STARTING: Duration = Duration::from_millis(250);
const PROBE_READY: Duration = Duration::from_secs(5);
/// So many probes in a row fail before a ready instance is not.
const PROBES_FAILED: u32 = 3;
/// What keeps an instance from running that ended more than once.
const CRASH_LOOP: &str = "CrashLoopBackOff";
/// What of our own program serves files.
const SERVE_FILES: &str = "serve-files";
const SERVE_TRANSFER: &str = "serve-transfer";
/// Tells an instance where to listen.
const PORT: &str = "PORT";

/// Everything that is needed to run one instance.
pub(super) struct Instance {
    pub(super) name: String,
    pub(super) uid: PodUid,
    /// What is put before the command: our own program that becomes the site's, with its arguments.
    pub(super) wrapper: Vec<OsString>,
    /// The site's program and its arguments.
    pub(super) command: Vec<OsString>,
    pub(super) directory: PathBuf,
    pub(super) variables: Vec<(String, String)>,
    /// The path at which `.skpr.yml` puts each of its volumes, and where it is.
    pub(super) volumes: Vec<(PathBuf, PathBuf)>,
    /// Where `N.log` are written.
    pub(super) logs: PathBuf,
    pub(super) probe: Probe,
    /// Where its ports come from; none for one that listens on nothing.
    pub(super) ports: Option<Ports>,
    pub(super) cgroup: Option<Cgroup>,
    /// In thousandths of a CPU.
    pub(super) cpu_share: Option<u64>,
    pub(super) whereabouts: Whereabouts,
    pub(super) entrances: Entrances,
}

/// Runs the instance until `stop`, and returns when nothing of it is left.
pub(super) async fn supervise(
    instance: Instance,
    spawner: Spawner,
    reports: mpsc::Sender<Report>,
    stop: CancellationToken,
) {
    let mut pause = FIRST_PAUSE;
    let mut teller = Teller { uid: instance.uid.clone(), status: Status::default(), reports };
    for start in 0.. {
        let begun = Instant::now();
        teller.status.restarts = start;
        Run { instance: &instance, teller: &mut teller, stop: &stop, port: None }.once(start, &spawner).await;
        if stop.is_cancelled() {
            break;
        }
        if begun.elapsed() >= LASTED {
            pause = FIRST_PAUSE;
        }
        // The first start again comes so soon that it is not worth a word.
        if pause > FIRST_PAUSE {
            teller.tell(|status| _ = status.waiting.get_or_insert(CRASH_LOOP)).await;
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    instance.whereabouts.send_modify(|all| _ = all.remove(&instance.uid));
    if let Some(cgroup) = instance.cgroup {
        blocking(move || cgroup.remove()).await;
    }
}

/// Sends on what has changed.
struct Teller {
    uid: PodUid,
    status: Status,
    reports: mpsc::Sender<Report>,
}

impl Teller {
    async fn tell(&mut self, change: impl FnOnce(&mut Status)) {
        let before = self.status.clone();
        change(&mut self.status);
        if before != self.status {
            let report = Report { uid: self.uid.clone(), status: self.status.clone() };
            // The platform stops listening only after it has asked us to stop.
            drop(self.reports.send(report).await);
        }
    }
}

struct Run<'a> {
    instance: &'a Instance,
    teller: &'a mut Teller,
    stop: &'a CancellationToken,
    port: Option<Port>,
}

impl Run<'_> {
    async fn once(mut self, start: u32, spawner: &Spawner) {
        let instance = self.instance;
        let log = LogFile::new(instance.logs.clone(), start, ROTATE_AT);
        let (directory, _) = log.place();
        // Each start leaves a file, and one that ends soon never rotates it.
        blocking(move || tidy_up(&directory, start)).await;
        self.port = match instance.ports.as_ref().map(Ports::take).transpose() {
            Ok(port) => port,
            Err(error) => return self.not_started(&error, log).await,
        };
        let variables = self.variables();
        let mut process = match Process::start(self.launch(&variables), spawner).await {
            Ok(process) => process,
            Err(error) => return self.not_started(&error, log).await,
        };
        tracing::info!(instance = instance.name, start, pid = process.number(), "instance started");
        let local = process.whereabouts(instance.cpu_share);
        instance.whereabouts.send_modify(|all| _ = all.insert(instance.uid.clone(), local));
        let port = self.port.as_ref().map(Port::number);
        let entrance = Arc::new(self.entrance());
        instance.entrances.send_modify(|all| _ = all.insert(instance.uid.clone(), entrance));
        self.teller.tell(|status| status.started(port, Timestamp::now())).await;
        process.capture(log);
        let status = self.watch(&mut process).await;
        let killed = process.killed_for_memory();
        // Before the rest is ended: what came from outside is told that it was this.
        instance.entrances.send_modify(|all| _ = all.remove(&instance.uid));
        process.finish().await;
        let end = end(status.as_ref().ok().copied(), killed, Timestamp::now());
        let text = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        if self.stop.is_cancelled() {
            tracing::info!(instance = instance.name, status = text, "instance stopped");
        } else {
            tracing::warn!(instance = instance.name, status = text, "instance ended, starting it again");
        }
        self.teller.tell(|status| status.ended(end, killed)).await;
    }

    async fn not_started(self, error: &std::io::Error, log: LogFile) {
        tracing::warn!(instance = self.instance.name, error = %error, "instance cannot be started");
        let text = self.launch(&[]).not_started(error, log).await;
        self.teller.tell(|status| status.not_started(&text)).await;
    }

    fn launch<'a>(&'a self, variables: &'a [(String, String)]) -> Launch<'a> {
        let instance = self.instance;
        Launch {
            name: &instance.name,
            wrapper: &instance.wrapper,
            command: &instance.command,
            directory: &instance.directory,
            variables,
            cgroup: instance.cgroup.as_ref(),
        }
    }

    fn variables(&self) -> Vec<(String, String)> {
        let mut own = self.instance.variables.clone();
        if let Some(port) = &self.port {
            own.retain(|(name, _)| name != PORT);
            own.push((PORT.to_owned(), port.number().to_string()));
        }
        own
    }

    /// How another process comes to where this instance is.
    fn entrance(&self) -> runtime::Instance {
        let words = self.instance.wrapper.iter().filter(|word| *word != "--");
        let program = self.instance.wrapper.first();
        runtime::Instance {
            directory: self.instance.directory.clone(),
            variables: variables(&self.variables()),
            wrapper: words.cloned().collect(),
            files: program.map(|program| vec![program.clone(), SERVE_FILES.into()]),
            transfer: program.map(|program| {
                let volumes = self.instance.volumes.iter();
                let volumes = volumes.flat_map(|(at, place)| ["--volume".into(), at.into(), place.into()]);
                [program.clone(), SERVE_TRANSFER.into()].into_iter().chain(volumes).collect()
            }),
        }
    }

    /// Until the program has ended, or been ended because of `stop`.
    async fn watch(&mut self, process: &mut Process) -> std::io::Result<ExitStatus> {
        let mut failed = 0_u32;
        let port = self.port.as_ref().map_or(0, Port::number);
        loop {
            let ready = self.teller.status.ready;
            let pause = match (ready, failed) {
                (true, _) => PROBE_READY,
                (false, 0) => Duration::ZERO,
                (false, _) => PROBE_STARTING,
            };
            tokio::select! {
                status = process.ended() => return status,
                () = self.stop.cancelled() => break,
                passed = probe_after(&self.instance.probe, port, pause) => {
                    failed = if passed.is_ok() { 0 } else { failed.saturating_add(1) };
                    if !ready || passed.is_ok() || failed >= PROBES_FAILED {
                        self.teller.tell(|status| status.probed(passed)).await;
                    }
                }
            }
        }
        self.teller.tell(|status| status.ready = false).await;
        process.end().await
    }
}

async fn probe_after(probe: &Probe, port: u16, pause: Duration) -> Result<(), String> {
    sleep(pause).await;
    probe.passes(port).await
}

#[cfg(test)]
mod tests;
