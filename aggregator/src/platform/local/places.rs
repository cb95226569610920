//! Where the files of an environment's releases are: their checkouts, written before an instance starts.
//!
//! What is written of the releases says which directories count: it is asked only once it is on the disk.

use super::checkout;
use super::git::{Commit, Repository};
use super::host::Host;
use crate::release::Release;
use skpr_proto::EnvironmentName;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::Instant;

/// How long after a checkout failed it is tried again.
const AGAIN: Duration = Duration::from_secs(10);
/// The directories of so many releases stay, beside those that run.
const KEPT: usize = 5;

/// The release directories that this environment needs. Dropping it ends what is under way.
pub(super) struct Places {
    host: Arc<Host>,
    environment: EnvironmentName,
    known: BTreeMap<u64, Place>,
    tasks: JoinSet<(u64, Result<PathBuf, String>)>,
    removing: JoinSet<()>,
    kept: Option<BTreeSet<u64>>,
}

#[derive(Debug)]
enum Place {
    Coming,
    There(PathBuf),
    Failed(String, Instant),
}

impl Places {
    pub(super) fn new(host: Arc<Host>, environment: EnvironmentName) -> Places {
        Places {
            host,
            environment,
            known: BTreeMap::new(),
            tasks: JoinSet::new(),
            removing: JoinSet::new(),
            kept: None,
        }
    }

    /// The directory to run a release in, of a project in `directory`; none while it is not there, but being written.
    pub(super) fn of(&mut self, release: &Release, directory: &Path) -> Option<PathBuf> {
        let Some(commit) = release.digest.as_deref().and_then(Commit::parse) else {
            return Some(directory.to_owned());
        };
        match self.known.get(&release.number) {
            Some(Place::There(place)) => return Some(place.clone()),
            Some(Place::Coming) => return None,
            Some(Place::Failed(_, tried)) if tried.elapsed() < AGAIN => return None,
            Some(Place::Failed(..)) | None => {}
        }
        let number = release.number;
        self.known.insert(number, Place::Coming);
        let (host, environment) = (Arc::clone(&self.host), self.environment.clone());
        let directory = directory.to_owned();
        self.tasks.spawn(async move {
            let place = check_out(&host, &environment, number, (&directory, &commit)).await;
            (number, place.map_err(|error| format!("{error:#}")))
        });
        None
    }

    /// Returns when a checkout is done or has failed. Cancel-safe.
    pub(super) async fn changed(&mut self) {
        loop {
            match self.tasks.join_next().await {
                Some(Ok((number, place))) => {
                    let place = place.map_or_else(|why| Place::Failed(why, Instant::now()), Place::There);
                    self.known.insert(number, place);
                    return;
                }
                Some(Err(error)) => super::resume(error),
                None => std::future::pending().await,
            }
        }
    }

    /// Why the files of a release cannot be had.
    pub(super) fn trouble(&self, release: &Release) -> Option<String> {
        match self.known.get(&release.number)? {
            Place::Failed(why, _) => {
                Some(format!("version `{}` cannot be checked out: {why}", release.version))
            }
            Place::Coming | Place::There(_) => None,
        }
    }

    /// Makes room for a release that is to begin: whatever has its number is of another one.
    pub(super) async fn make_room(&mut self, number: u64) -> io::Result<()> {
        self.put_away(move |other| other != number).await?;
        self.known.remove(&number);
        Ok(())
    }

    /// Keeps the directories of the newest releases and of those that run, and removes the environment's others.
    pub(super) async fn keep(&mut self, releases: &[Release], running: impl Iterator<Item = u64>) {
        let newest = releases.iter().rev().take(KEPT).map(|release| release.number);
        let wanted = super::plan::wanted(releases);
        let wanted = wanted.iter().map(|release| release.number);
        let kept: BTreeSet<u64> = newest.chain(wanted).chain(running).collect();
        if self.kept.as_ref() == Some(&kept) {
            return;
        }
        self.known.retain(|number, _| kept.contains(number));
        let counts = kept.clone();
        match self.put_away(move |number| counts.contains(&number)).await {
            Ok(()) => self.kept = Some(kept),
            Err(error) => {
                tracing::warn!(environment = %self.environment, error = %error, "old releases' directories stay");
            }
        }
    }

    /// Ends what is under way.
    pub(super) async fn stop(&mut self) {
        self.tasks.shutdown().await;
    }

    async fn put_away(&mut self, counts: impl Fn(u64) -> bool + Send + 'static) -> io::Result<()> {
        let (host, environment) = (Arc::clone(&self.host), self.environment.clone());
        let put_away = move || host.checkouts.put_away(&environment, counts);
        let doomed = spawn_blocking(put_away).await.map_err(io::Error::from).flatten()?;
        while self.removing.try_join_next().is_some() {}
        self.removing.spawn_blocking(move || doomed.iter().for_each(|directory| checkout::remove(directory)));
        Ok(())
    }
}

async fn check_out(
    host: &Host,
    environment: &EnvironmentName,
    release: u64,
    (directory, commit): (&Path, &Commit),
) -> anyhow::Result<PathBuf> {
    let repository = match Repository::find(directory).await {
        Some(repository) => repository,
        None => anyhow::bail!("`{}` is no git repository", directory.display()),
    };
    let root = host.checkouts.get(environment, release, &repository, commit).await?;
    let place = root.join(repository.prefix());
    anyhow::ensure!(
        tokio::fs::try_exists(&place).await?,
        "it has no directory `{}`",
        repository.prefix().display()
    );
    Ok(place)
}
