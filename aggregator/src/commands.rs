//! The commands that run and end: checking a store, making a token, the version. Their answers go to stdout.

use crate::{auth, store};
use anyhow::Context as _;
use skpr_agent::Reach;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Verifies a store; the exit code says whether it is whole.
pub async fn store_check(data: PathBuf) -> anyhow::Result<ExitCode> {
    let directory = data.join("store");
    let report =
        tokio::task::spawn_blocking(move || store::check(&directory)).await.context("check the store")??;
    say(&report.to_string())?;
    Ok(if report.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Makes a token and prints it, this once.
pub fn token_create(data: &Path, name: &str, rights: &str) -> anyhow::Result<()> {
    let token = auth::create_token(data, name, rights)?;
    say(&token)
}

/// Serves files to whoever is at stdin and stdout, until they say no more.
pub fn serve_files() -> anyhow::Result<ExitCode> {
    skpr_agent::serve_files().map(ExitCode::from)
}

/// Serves one transfer of files in the working directory, and in volumes: each the path at which an instance knows it,
/// and where it is.
pub fn serve_transfer(volumes: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let mounts = volumes.chunks_exact(2).filter_map(|pair| match pair {
        [at, place] => Some((at.clone(), place.clone())),
        _ => None,
    });
    let reach = Reach { root: ".".into(), directory: "/".into(), mounts: mounts.collect() };
    skpr_agent::serve_transfer(reach).map(ExitCode::from)
}

pub fn version() -> anyhow::Result<()> {
    say(concat!("skpr-aggregator ", env!("CARGO_PKG_VERSION")))
}

fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        // Whoever closed the pipe has read enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("write to stdout"),
    }
}
