//! The aggregator as `standalone` runs it, but for its platform: the pods are the directories of a fake node.
//!
//! `fixture-aggregator LOGS standalone --data DIR …` takes the real program's flags and prints the same lines when ready.

use anyhow::Context as _;
use clap::Parser as _;
use skpr_aggregator::aggregator;
use skpr_aggregator::config::{Args, Config};
use skpr_aggregator::inventory::Inventory;
use skpr_tests::inventory;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How soon a new pod directory is claimed.
const SCAN: Duration = Duration::from_millis(100);
/// A directory's time tells changes apart that are further apart than this.
const SETTLED: Duration = Duration::from_secs(1);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    // A second one is installed already when a library was quicker; either way there is one.
    rustls::crypto::ring::default_provider().install_default().ok();
    let mut arguments = std::env::args_os();
    let program = arguments.next().context("read the program's name")?;
    let logs = PathBuf::from(arguments.next().context("the first argument names the logs' directory")?);
    let Config::Standalone(config) =
        Args::try_parse_from([program].into_iter().chain(arguments))?.validate()?
    else {
        anyhow::bail!("only `standalone` makes sense here");
    };

    let stop = CancellationToken::new();
    let (publish, pods) = watch::channel(Arc::new(Inventory::default()));
    let (parts, files) = aggregator::prepare_local(&config, pods).await?;
    files.announce()?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let running = aggregator::run(parts, stop.clone());
    tokio::pin!(running);
    let mut scan = tokio::time::interval(SCAN);
    let mut seen = None;
    loop {
        tokio::select! {
            result = &mut running => return result,
            _ = terminate.recv() => stop.cancel(),
            _ = scan.tick() => {
                // Reading a directory would wake the agent that watches it, as nothing on a node does.
                let modified = std::fs::metadata(&logs)?.modified()?;
                let recent = modified.elapsed().is_ok_and(|age| age < SETTLED);
                if seen.replace(modified) == Some(modified) && !recent {
                    continue;
                }
                let found = inventory::scan(&logs, "local")?;
                publish.send_if_modified(|known| {
                    let changed = **known != found;
                    if changed {
                        *known = Arc::new(found);
                    }
                    changed
                });
            }
        }
    }
}
