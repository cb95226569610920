//! The aggregator as `standalone` runs it, but for its platform: the pods are the directories of a fake node, or made up.
//!
//! `fixture-aggregator LOGS|FLEET standalone --data DIR …` takes the real program's flags and prints the same lines when
//! ready. FLEET is what [`Fleet`] reads, as `1000x30/10`.

use anyhow::Context as _;
use clap::Parser as _;
use skpr_aggregator::aggregator;
use skpr_aggregator::config::{Args, Config};
use skpr_aggregator::event;
use skpr_aggregator::inventory::Inventory;
use skpr_aggregator::platform::ReadOnly;
use skpr_tests::fleet::Fleet;
use skpr_tests::inventory;
use std::path::{Path, PathBuf};
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
    let pods = arguments.next().context("the first argument names the logs' directory, or a fleet")?;
    let fleet = pods.to_str().and_then(|text| text.parse::<Fleet>().ok());
    let logs = fleet.is_none().then(|| PathBuf::from(pods));
    skpr_agent::raise_file_limit();
    let Config::Standalone(config) =
        Args::try_parse_from([program].into_iter().chain(arguments))?.validate()?
    else {
        anyhow::bail!("only `standalone` makes sense here");
    };

    let stop = CancellationToken::new();
    let first = fleet.map_or_else(|| Ok(Inventory::default()), |fleet| fleet.inventory())?;
    let (publish, pods) = watch::channel(Arc::new(first));
    let (parts, files) = aggregator::prepare_local(&config, pods, Arc::new(ReadOnly), event::queue()).await?;
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
            _ = scan.tick(), if logs.is_some() => {
                let Some(logs) = &logs else { continue };
                // Reading a directory would wake the agent that watches it, as nothing on a node does.
                let modified = std::fs::metadata(logs)?.modified()?;
                let recent = modified.elapsed().is_ok_and(|age| age < SETTLED);
                if seen.replace(modified) != Some(modified) || recent {
                    publish_found(&publish, logs)?;
                }
            }
        }
    }
}

fn publish_found(publish: &watch::Sender<Arc<Inventory>>, logs: &Path) -> anyhow::Result<()> {
    let found = inventory::scan(logs, "local")?;
    publish.send_if_modified(|known| {
        let changed = **known != found;
        if changed {
            *known = Arc::new(found);
        }
        changed
    });
    Ok(())
}
