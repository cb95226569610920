//! Release directories: `releases/PROJECT.ENVIRONMENT/NUMBER-COMMIT/`, each what one commit holds when its release begins.
//!
//! * Each belongs to one release of one environment: what a site writes into its own is nobody else's, and is not there
//!   when the same version is put somewhere again.
//! * A directory is there whole or not at all: it is written under another name, synced, and renamed. What is removed is
//!   renamed first, so that nobody meets a half of it.

mod tree;

pub(super) use tree::can_be_checked_out;

use super::git::{Commit, Repository};
use anyhow::Context as _;
use skpr_proto::EnvironmentName;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The names of directories that are not finished, or to be removed.
const UNFINISHED: &str = ".unfinished-";

/// All release directories of a data directory.
#[derive(Debug)]
pub(super) struct Checkouts {
    root: PathBuf,
    unfinished: AtomicU64,
}

impl Checkouts {
    /// Removes what a crash has left unfinished, and what an earlier version kept by project: nothing runs yet.
    pub(super) fn open(root: PathBuf) -> io::Result<Checkouts> {
        fs::create_dir_all(&root)?;
        for home in fs::read_dir(&root)?.filter_map(Result::ok) {
            if !home.file_name().as_encoded_bytes().contains(&b'.') {
                remove(&home.path());
            }
            for entry in fs::read_dir(home.path()).into_iter().flatten().filter_map(Result::ok) {
                if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                    remove(&entry.path());
                }
            }
            // One that is not empty stays.
            drop(fs::remove_dir(home.path()));
        }
        Ok(Checkouts { root, unfinished: AtomicU64::new(0) })
    }

    fn home(&self, environment: &EnvironmentName) -> PathBuf {
        self.root.join(format!("{}.{}", environment.project, environment.environment))
    }

    fn unfinished(&self, home: &Path, name: &str) -> PathBuf {
        let number = self.unfinished.fetch_add(1, Ordering::Relaxed);
        home.join(format!("{UNFINISHED}{name}-{number}"))
    }

    /// The directory of a release; written first where it is not there.
    pub(super) async fn get(
        &self,
        environment: &EnvironmentName,
        release: u64,
        repository: &Repository,
        commit: &Commit,
    ) -> anyhow::Result<PathBuf> {
        let (home, name) = (self.home(environment), format!("{release}-{}", commit.as_str()));
        let (place, unfinished) = (home.join(&name), self.unfinished(&home, &name));
        if tokio::fs::try_exists(&place).await? {
            return Ok(place);
        }
        let written = tree::write(repository, commit, unfinished.clone()).await;
        let finish = move || {
            let renamed = written.and_then(|()| {
                fs::rename(&unfinished, &place)
                    .and_then(|()| fs::File::open(&home)?.sync_all())
                    .context("rename it into its place")
            });
            if renamed.is_err() {
                remove(&unfinished);
            }
            renamed.map(|()| place)
        };
        tokio::task::spawn_blocking(finish).await?
    }

    /// Renames the directories of all releases of an environment that do not count, and says what is to be removed.
    /// Blocks, and not for long. No checkout of one that does not count may be under way.
    pub(super) fn put_away(
        &self,
        environment: &EnvironmentName,
        counts: impl Fn(u64) -> bool,
    ) -> io::Result<Vec<PathBuf>> {
        let home = self.home(environment);
        let entries = match fs::read_dir(&home) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(vec![]),
            entries => entries?,
        };
        let mut doomed = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let Some(name) = name.to_str() else { continue };
            let number = name.split_once('-').and_then(|(number, _)| number.parse().ok());
            if number.is_some_and(|number| !counts(number)) {
                let away = self.unfinished(&home, name);
                fs::rename(home.join(name), &away)?;
                doomed.push(away);
            }
        }
        Ok(doomed)
    }

    /// Removes all that is there of an environment that is gone. Blocks.
    pub(super) fn forget(&self, environment: &EnvironmentName) {
        remove(&self.home(environment));
    }

    /// The releases of an environment that have a directory.
    #[cfg(test)]
    pub(super) fn there(&self, environment: &EnvironmentName) -> std::collections::BTreeSet<u64> {
        let entries = fs::read_dir(self.home(environment)).into_iter().flatten().filter_map(Result::ok);
        let number = |entry: fs::DirEntry| entry.file_name().to_str()?.split_once('-')?.0.parse().ok();
        entries.filter_map(number).collect()
    }
}

/// Removes a directory with all that is in it; one that stays is in nobody's way.
pub(super) fn remove(directory: &Path) {
    if let Err(error) = fs::remove_dir_all(directory)
        && error.kind() != ErrorKind::NotFound
    {
        tracing::warn!(directory = %directory.display(), error = %error, "a release directory cannot be removed");
    }
}

#[cfg(test)]
mod tests {
    use super::super::git::tests::commit;
    use super::*;
    use std::collections::BTreeSet;

    fn name(environment: &str) -> EnvironmentName {
        EnvironmentName::parse("shop", environment).unwrap()
    }

    #[tokio::test]
    async fn what_a_site_writes_into_its_release_is_in_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let site = directory.path().join("site");
        fs::create_dir(&site).unwrap();
        fs::write(site.join("page"), "good").unwrap();
        commit(&site, "v1");
        let repository = Repository::find(&site).await.unwrap();
        let version = repository.resolve("v1").await.unwrap();
        let checkouts = Checkouts::open(directory.path().join("releases")).unwrap();
        let (dev, prod) = (name("dev"), name("prod"));
        let get = |name, number| checkouts.get(name, number, &repository, &version);
        let first = get(&dev, 1).await.unwrap();
        assert_eq!(first, directory.path().join(format!("releases/shop.dev/1-{}", version.as_str())));
        fs::write(first.join("page"), "changed").unwrap();
        fs::write(first.join("new"), "").unwrap();
        for (name, number) in [(&dev, 2), (&prod, 1)] {
            let other = get(name, number).await.unwrap();
            assert_eq!(fs::read_to_string(other.join("page")).unwrap(), "good");
            assert!(!other.join("new").exists());
        }
        // Where the release goes on it finds what it has written.
        assert_eq!(fs::read_to_string(get(&dev, 1).await.unwrap().join("page")).unwrap(), "changed");
    }

    #[tokio::test]
    async fn only_what_does_not_count_goes_and_what_a_crash_or_an_earlier_version_left() {
        let directory = tempfile::tempdir().unwrap();
        let (site, releases) = (directory.path().join("site"), directory.path().join("releases"));
        fs::create_dir(&site).unwrap();
        commit(&site, "v1");
        let repository = Repository::find(&site).await.unwrap();
        let version = repository.resolve("v1").await.unwrap();
        fs::create_dir_all(releases.join("shop").join(version.as_str())).unwrap();
        let checkouts = Checkouts::open(releases.clone()).unwrap();
        assert!(!releases.join("shop").exists());
        for (environment, number) in [("dev", 1), ("dev", 2), ("dev", 10), ("prod", 1)] {
            checkouts.get(&name(environment), number, &repository, &version).await.unwrap();
        }
        let doomed = checkouts.put_away(&name("dev"), |number| number == 2).unwrap();
        assert_eq!((doomed.len(), checkouts.there(&name("dev"))), (2, BTreeSet::from([2])));
        let checkouts = Checkouts::open(releases.clone()).unwrap();
        assert!(doomed.iter().all(|doomed| !doomed.exists()));
        assert_eq!(checkouts.there(&name("prod")), BTreeSet::from([1]));
        checkouts.forget(&name("dev"));
        checkouts.forget(&name("dev"));
        assert!(!releases.join("shop.dev").exists());
        assert!(checkouts.put_away(&name("dev"), |_| false).unwrap().is_empty());
    }
}
