//! `skpr-aggregator`: parse, validate, run, and say how it ended.

use clap::Parser as _;
use skpr_aggregator::config::{Args, Config, LogFormat};
use skpr_aggregator::{aggregator, commands, platform, standalone};
use skpr_proto::Failure;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// The exit code for arguments that make no sense, as the CLI's.
const USAGE: u8 = 2;
/// How many tasks have their turn before sockets are asked for news: a key press waits for that many pieces of another's
/// bulk. The default is 61.
const TURNS: u32 = 8;
/// Some programs send a signal twice at once: to the process and to its group. That is one wish.
const SAME_SIGNAL: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let args = Args::parse();
    start_log(args.log_format);
    match args.validate() {
        // A program of its user's, who has their own umask and ends it by any signal.
        Ok(Config::ServeFiles) => ended(commands::serve_files()),
        Ok(Config::ServeTransfer { volumes }) => ended(commands::serve_transfer(&volumes)),
        Ok(config) => match Builder::new_multi_thread().enable_all().event_interval(TURNS).build() {
            Ok(runtime) => runtime.block_on(work(config)),
            Err(error) => ended(Err(anyhow::Error::new(error).context("start the runtime"))),
        },
        Err(invalid) => {
            for problem in &invalid.0 {
                tracing::error!("{problem}");
            }
            ExitCode::from(USAGE)
        }
    }
}

async fn work(config: Config) -> ExitCode {
    // Records and tokens are nobody else's business, whatever the directory they are in allows.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider is installed already");
    }
    let stop = CancellationToken::new();
    ended(tokio::select! {
        result = run(config, stop.clone()) => result,
        aborted = stop_on_signal(stop) => aborted,
    })
}

/// Says why it failed, if it did.
fn ended(result: anyhow::Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            let failure = error.downcast_ref::<Failure>();
            if let Some(hint) = failure.and_then(|failure| failure.hint.as_ref()) {
                tracing::error!("hint: {hint}");
            }
            failure.map_or(ExitCode::FAILURE, |failure| ExitCode::from(failure.kind.exit_code()))
        }
    }
}

async fn run(config: Config, stop: CancellationToken) -> anyhow::Result<ExitCode> {
    match config {
        Config::Serve(config) => aggregator::serve(*config, stop).await?,
        Config::Standalone(config) => standalone::run(*config, stop).await?,
        Config::StoreCheck { data } => return commands::store_check(data).await,
        Config::TokenCreate { data, name, rights } => commands::token_create(&data, &name, &rights)?,
        Config::RunInstance(args) => return platform::local::run_instance(args),
        Config::ServeFiles => return commands::serve_files(),
        Config::ServeTransfer { volumes } => return commands::serve_transfer(&volumes),
        Config::Version => commands::version()?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The first signal begins the stop; a later one ends everything now.
async fn stop_on_signal(stop: CancellationToken) -> anyhow::Result<ExitCode> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut begun: Option<Instant> = None;
    while begun.is_none_or(|begun| begun.elapsed() < SAME_SIGNAL) {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        begun.get_or_insert_with(Instant::now);
        stop.cancel();
    }
    anyhow::bail!("aborted by a second signal")
}

/// Whoever calls Kubernetes says what has failed, once; the client would say it again for each attempt of each call. It and
/// what is below it would also show, at other levels, what users run and what they type.
const QUIET: &str = "kube_client::client::builder=off,tungstenite=info";

fn start_log(format: LogFormat) {
    let wanted = std::env::var("SKPR_LOG").unwrap_or_else(|_| "info".to_owned());
    let filter = EnvFilter::try_new(format!("{QUIET},{wanted}"))
        .unwrap_or_else(|_| EnvFilter::new(format!("{QUIET},info")));
    // A line that nobody can read any more is no reason to end, and there is nowhere to say so.
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    match format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().init(),
    }
}
