//! `skpr-agent`: arguments, logging and signals around [`skpr_agent::run`] and [`skpr_agent::run_sessions`].

use anyhow::{Context as _, bail};
use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};
use skpr_agent::config::{Args, Command, InvalidConfig, LogFormat};
use skpr_agent::{WorkerArgs, check_health, check_sessions, raise_file_limit, run, run_sessions, run_worker};
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// How many tasks have their turn before sockets are asked for news: a key press waits for that many pieces of another's
/// bulk at each program on its way. The default is 61.
const TURNS: u32 = 8;
/// From the first signal to the end of the process, whatever hangs.
const STOP_LIMIT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let args = Args::parse();
    start_logging(args.log_format);
    let result = match args.command {
        Some(Command::Health { sessions: false }) => check_health(&args.state),
        Some(Command::Health { sessions: true }) => check_sessions(&args.state),
        Some(Command::Worker(worker)) => return work(&worker),
        Some(Command::Sessions(sessions)) => match sessions.validate(args.state) {
            // Two threads, so that a key press does not wait for what encrypts another's bulk.
            Ok(settings) => never_more_powers().and_then(|()| {
                serve(Builder::new_multi_thread().worker_threads(2), |stop| run_sessions(settings, stop))
            }),
            Err(error) => wrong(error),
        },
        None => match args.validate() {
            // One thread is enough, and the smallest: what works hard is the tail thread.
            Ok(config) => serve(&mut Builder::new_current_thread(), |stop| run(config, stop)),
            Err(error) => wrong(error),
        },
    };
    if let Err(error) = result {
        tracing::error!(error = format!("{error:#}"), "failed");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// What Kubernetes cannot say of a container that may enter others. To be called before there is a thread: it holds for
/// the one that calls it and for what that starts.
fn never_more_powers() -> anyhow::Result<()> {
    rustix::thread::set_no_new_privs(true).context("give up what programs could add to our powers")
}

/// What it says is not for a log: whoever it works for reads it.
fn work(worker: &WorkerArgs) -> ExitCode {
    match run_worker(worker) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            drop(writeln!(std::io::stderr(), "skpr: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn start_logging(format: LogFormat) {
    let filter = EnvFilter::try_from_env("SKPR_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // A line that nobody can read any more is no reason to end, and there is nowhere to say so.
    let log = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(filter)
        .log_internal_errors(false);
    match format {
        LogFormat::Text => log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => log.json().init(),
    }
}

/// Prints to stderr and exits 2, as for an argument that cannot be parsed.
fn wrong(error: InvalidConfig) -> ! {
    Args::command().error(ErrorKind::ValueValidation, error).exit()
}

fn serve<R: Future<Output = anyhow::Result<()>>>(
    threads: &mut Builder,
    run: impl FnOnce(CancellationToken) -> R,
) -> anyhow::Result<()> {
    raise_file_limit();
    let runtime = threads.enable_all().event_interval(TURNS).build().context("start the runtime")?;
    let result = runtime.block_on(until_stopped(run));
    runtime.shutdown_background();
    result
}

/// The first signal stops the program cleanly, a second one or the deadline at once.
async fn until_stopped<R: Future<Output = anyhow::Result<()>>>(
    run: impl FnOnce(CancellationToken) -> R,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let stop = CancellationToken::new();
    let agent = run(stop.clone());
    tokio::pin!(agent);
    tokio::select! {
        ended = &mut agent => return ended,
        () = either(&mut terminate, &mut interrupt) => stop.cancel(),
    }
    tokio::select! {
        ended = agent => ended,
        () = either(&mut terminate, &mut interrupt) => bail!("stopped at once by a second signal"),
        () = tokio::time::sleep(STOP_LIMIT) => bail!("stopping took longer than {} s", STOP_LIMIT.as_secs()),
    }
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
