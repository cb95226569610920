//! `skpr-agent`: arguments, logging and signals around [`skpr_agent::run`].

use anyhow::{Context as _, bail};
use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};
use skpr_agent::config::{Args, Command, LogFormat};
use skpr_agent::{Config, check_health, raise_file_limit, run};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// From the first signal to the end of the process, whatever hangs.
const STOP_LIMIT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let args = Args::parse();
    start_logging(args.log_format);
    let result = match args.command {
        Some(Command::Health) => check_health(&args.state),
        None => match args.validate() {
            Ok(config) => serve(config),
            // Prints to stderr and exits 2, as for an argument that cannot be parsed.
            Err(error) => Args::command().error(ErrorKind::ValueValidation, error).exit(),
        },
    };
    if let Err(error) = result {
        tracing::error!(error = format!("{error:#}"), "failed");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
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

/// One thread is enough, and the smallest: what works hard is the tail thread.
fn serve(config: Config) -> anyhow::Result<()> {
    raise_file_limit();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let result = runtime.block_on(until_stopped(config));
    runtime.shutdown_background();
    result
}

/// The first signal stops the agent cleanly, a second one or the deadline at once.
async fn until_stopped(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let stop = CancellationToken::new();
    let agent = run(config, stop.clone());
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
