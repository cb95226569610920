//! How a driver changes what is written: deploys, scaling, deletion, and the releases that begin by themselves.

use super::super::command::Command;
use super::super::cron::{Around, Tasks};
use super::super::git::{Commit, Repository};
use super::super::state::{self, Deleting, Record};
use super::super::{UNVERSIONED, project, words};
use super::Driver;
use crate::event::{Body, Kind};
use crate::platform::{Delete, Deleted, Scale, Scaled, being_deleted};
use crate::release::{self, Deploy, Release, State};
use crate::run::{Run, RunNow, Suspend, Suspended};
use jiff::Timestamp;
use skpr_proto::manifest::Environment;
use skpr_proto::{ErrorKind, Failure};

/// Who begins a release that nobody asked for.
const ITSELF: &str = "standalone";

impl Driver {
    /// The first release; or one with new settings where there are no versions to deploy.
    pub(super) async fn begin_by_itself(&mut self, settings: &Environment) {
        let newest = self.record.releases.last();
        if self.record.deleting.is_some()
            || newest.is_some_and(|newest| newest.version != UNVERSIONED || newest.settings == *settings)
        {
            return;
        }
        let head = match (newest, Repository::find(&self.record.directory).await) {
            (None, Some(repository)) => repository.head().await,
            (Some(_), _) | (None, None) => None,
        };
        let (version, commit) = match head {
            Some((version, commit)) => (version, Some(commit)),
            None => (UNVERSIONED.to_owned(), None),
        };
        let deploy = Deploy {
            version,
            image: None,
            settings: settings.clone(),
            by: ITSELF.to_owned(),
            timeout: release::TIMEOUT,
            returns: true,
            restores: None,
        };
        if let Err(error) = self.begin(deploy, commit).await {
            tracing::warn!(environment = %self.key, error = format!("{error:#}"), "a release cannot be begun");
            self.trouble = Some(format!("a release cannot be begun: {}", words::root(&error)));
        }
    }

    pub(super) async fn command(&mut self, command: Command) {
        // Whoever asked may be gone; what was asked is done all the same.
        match command {
            Command::Deploy(deploy, commit, reply) => drop(reply.send(self.deploy(*deploy, commit).await)),
            Command::Scale(scale, reply) => drop(reply.send(self.scale(scale).await)),
            Command::Delete(delete, reply) => drop(reply.send(self.delete(delete).await)),
            Command::Run(wanted, reply) => drop(reply.send(self.run_now(wanted).await)),
            Command::Suspend(how, reply) => drop(reply.send(self.suspend(how).await)),
        }
    }

    async fn deploy(&mut self, deploy: Deploy, commit: Commit) -> Result<u64, Failure> {
        self.unlocked()?;
        self.begin(deploy, Some(commit)).await.map_err(|error| not_written(&error))
    }

    async fn begin(&mut self, deploy: Deploy, commit: Option<Commit>) -> anyhow::Result<u64> {
        let now = Timestamp::now();
        let is_new = self.record.releases.is_empty();
        let number = self.next_number().await?;
        self.places.make_room(number).await?;
        let (by, next) = (deploy.by.clone(), begun(&self.record, number, deploy, commit, now));
        self.write(next).await?;
        if is_new {
            let id = format!("environment/made/{}", now.as_second());
            let text = format!("environment `{}` was made", self.key.name);
            let body = Body { by: Some(by), ..Body::new(id, Kind::Environment, text) };
            self.teller.body(body, now).await;
        }
        Ok(number)
    }

    /// Counts on where an environment of the same name ended.
    async fn next_number(&self) -> anyhow::Result<u64> {
        let next = release::next_number(&self.record.releases);
        if !self.record.releases.is_empty() {
            return Ok(next);
        }
        let file = self.file.clone();
        let last = tokio::task::spawn_blocking(move || state::last(&file)).await??;
        Ok(next.max(last.saturating_add(1)))
    }

    async fn scale(&mut self, scale: Scale) -> Result<Scaled, Failure> {
        self.unlocked()?;
        let mut next = self.record.clone();
        let (scaled, instances) = scale.of(next.settings.instances.as_ref())?;
        next.settings.instances = Some(instances);
        let (before, after) = (scaled.before, scaled.after);
        project::can_scale(&self.key.name, after.0, after.1)?;
        project::check(&self.key.name, &next.settings)?;
        if scale.dry_run || !scaled.is_change() {
            return Ok(scaled);
        }
        self.write(next).await.map_err(|error| not_written(&error))?;
        let now = Timestamp::now();
        let id = format!("scale/{}", now.as_nanosecond());
        let text = format!("instances were set from {}–{} to {}–{}", before.0, before.1, after.0, after.1);
        let body = Body { by: Some(scale.by.clone()), ..Body::new(id, Kind::Scale, text) };
        self.teller.body(body, now).await;
        Ok(scaled)
    }

    async fn run_now(&mut self, wanted: RunNow) -> Result<Run, Failure> {
        self.staying()?;
        let (record, places, teller) = (&self.record, &mut self.places, &self.teller);
        self.tasks.run_now(wanted, &mut Around { record, places, teller, stopping: false }).await
    }

    async fn suspend(&mut self, how: Suspend) -> Result<Suspended, Failure> {
        self.staying()?;
        let (record, places, teller) = (&self.record, &mut self.places, &self.teller);
        self.tasks.suspend(how, &mut Around { record, places, teller, stopping: false }).await
    }

    async fn delete(&mut self, delete: Delete) -> Result<Deleted, Failure> {
        let mut deleted = Deleted::default();
        let count = self.instances.all().count();
        deleted.removed.push(format!("{count} {}", if count == 1 { "instance" } else { "instances" }));
        deleted.removed.push("its releases and their directories".to_owned());
        if self.record.settings.cron.as_ref().is_some_and(|tasks| !tasks.is_empty()) {
            deleted.removed.push("its tasks; those that run are ended".to_owned());
        }
        let volumes = self.host.volumes_of(&self.key.name);
        if volumes.is_dir() {
            let words = format!("its volumes in `{}`", volumes.display());
            if delete.volumes { &mut deleted.removed } else { &mut deleted.kept }.push(words);
        }
        deleted.kept.push(format!("the project in `{}`", self.record.directory.display()));
        deleted.kept.push("its logs and events, until they expire".to_owned());
        deleted
            .kept
            .push("its entry in `.skpr.yml`, if any: the next start of standalone makes it again".to_owned());
        if !delete.dry_run {
            if !delete.force {
                release::locked(&self.key.name, &self.record.releases)?;
            }
            let deleting = Deleting { by: delete.by, volumes: delete.volumes };
            let next = Record { deleting: Some(deleting), ..self.record.clone() };
            self.write(next).await.map_err(|error| not_written(&error))?;
        }
        Ok(deleted)
    }

    /// Whether nothing is left of an environment that is deleted, or was never made.
    pub(super) async fn is_gone(&mut self) -> bool {
        let Some(deleting) = self.record.deleting.clone() else { return false };
        if !self.instances.is_empty() || !self.tasks.is_idle() {
            return false;
        }
        self.places.stop().await;
        let (file, volumes) = (self.file.clone(), self.host.volumes_of(&self.key.name));
        let (host, name) = (std::sync::Arc::clone(&self.host), self.key.name.clone());
        let last = release::next_number(&self.record.releases).saturating_sub(1);
        let remove = move || -> anyhow::Result<()> {
            host.checkouts.forget(&name);
            if deleting.volumes && volumes.is_dir() {
                std::fs::remove_dir_all(&volumes)?;
            }
            if last > 0 {
                state::save_last(&file, last)?;
            }
            Tasks::remove(&file)?;
            // Last: a crash before this comes back here.
            Ok(state::remove(&file)?)
        };
        let removed = tokio::task::spawn_blocking(remove).await.map_err(anyhow::Error::from).flatten();
        if let Err(error) = removed {
            tracing::warn!(environment = %self.key, error = format!("{error:#}"), "an environment cannot be removed");
            self.trouble = Some(format!("it cannot be removed: {}", words::root(&error)));
            return false;
        }
        let began = self.record.releases.first().map_or(0, |first| first.began.as_second());
        let text = format!("environment `{}` was deleted", self.key.name);
        let by = self.record.deleting.as_ref().map(|deleting| deleting.by.clone());
        let id = format!("environment/deleted/{began}");
        let body = Body { by, ..Body::new(id, Kind::Environment, text) };
        self.teller.body(body, Timestamp::now()).await;
        self.host.publisher.remove(&self.key);
        true
    }

    fn unlocked(&self) -> Result<(), Failure> {
        self.staying()?;
        release::locked(&self.key.name, &self.record.releases)
    }

    fn staying(&self) -> Result<(), Failure> {
        match self.record.deleting {
            Some(_) => Err(being_deleted(&self.key.name)),
            None => Ok(()),
        }
    }
}

/// The record once a release has begun.
fn begun(record: &Record, number: u64, deploy: Deploy, commit: Option<Commit>, now: Timestamp) -> Record {
    let mut next = record.clone();
    let newest = record.releases.last();
    // After a failure that was left, what counts is what was there before it; putting back has brought that back.
    let left = |newest: &Release| newest.state == State::Failed && newest.put_back_since.is_none();
    if newest.is_some_and(|newest| !left(newest)) {
        next.before = Some(record.settings.clone());
    }
    next.settings = deploy.settings.clone();
    release::begin(&mut next.releases, number, deploy, now);
    if let Some(begun) = next.releases.last_mut() {
        begun.digest = commit.map(|commit| commit.as_str().to_owned());
    }
    next
}

/// Brings what is wanted in line with a release that has come to another state.
pub(super) fn settle(record: &mut Record) {
    let Some(newest) = record.releases.last() else { return };
    match newest.state {
        State::Succeeded => record.before = None,
        State::RollingBack | State::RolledBack => {
            let good: Option<&Release> = release::current(&record.releases);
            let back = record.before.take().or_else(|| good.map(|good| good.settings.clone()));
            record.settings = back.unwrap_or_default();
            record.before = (newest.state == State::RollingBack).then(|| record.settings.clone());
        }
        State::Failed | State::Deploying | State::Superseded => {}
    }
}

fn not_written(error: &anyhow::Error) -> Failure {
    tracing::warn!(error = format!("{error:#}"), "a change is refused because it cannot be written");
    Failure::new(ErrorKind::Unavailable, "the change could not be written to the disk, and was not made")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::Verdict;

    fn settings(count: u32) -> Environment {
        let text = format!(r#"{{"instances": {{"min": {count}, "max": {count}}}}}"#);
        serde_json::from_str(&text).unwrap()
    }

    fn deploy(count: u32) -> Deploy {
        Deploy {
            version: "v".into(),
            image: None,
            settings: settings(count),
            by: "ann".into(),
            timeout: release::TIMEOUT,
            returns: true,
            restores: None,
        }
    }

    fn advance(record: &mut Record, verdict: &Verdict) {
        assert!(release::advance(&mut record.releases, verdict, Timestamp::UNIX_EPOCH));
        settle(record);
    }

    #[test]
    fn what_was_scaled_comes_back_with_the_release_before() {
        let now = Timestamp::UNIX_EPOCH;
        let good = Verdict::Succeeded { digest: None };
        let bad = Verdict::Failed { reason: "no".into(), instance: None, exit_code: None };
        let name = skpr_proto::EnvironmentName::parse("shop", "dev").unwrap();
        let mut record =
            begun(&Record::new(&name, "/site".into()), 1, deploy(1), Commit::parse(&"a".repeat(40)), now);
        assert_eq!(
            (record.before.clone(), record.releases[0].digest.as_ref().map(String::len)),
            (None, Some(40))
        );
        advance(&mut record, &good);
        record.settings = settings(3);
        record = begun(&record, 2, deploy(2), None, now);
        assert_eq!((&record.settings, record.before.as_ref()), (&settings(2), Some(&settings(3))));
        advance(&mut record, &bad);
        assert_eq!((&record.settings, record.before.as_ref()), (&settings(3), Some(&settings(3))));
        advance(&mut record, &good);
        assert_eq!((&record.settings, &record.before), (&settings(3), &None));
        // A failure that is left keeps what was before it, for the next one.
        record = begun(&record, 3, Deploy { returns: false, ..deploy(4) }, None, now);
        advance(&mut record, &bad);
        record = begun(&record, 4, deploy(5), None, now);
        assert_eq!((&record.settings, record.before.as_ref()), (&settings(5), Some(&settings(3))));
        // One that could not be put back in time left what was put back.
        advance(&mut record, &bad);
        advance(&mut record, &bad);
        assert_eq!((record.releases[3].state, &record.settings), (State::Failed, &settings(3)));
        record.settings = settings(4);
        record = begun(&record, 5, deploy(6), None, now);
        assert_eq!((&record.settings, record.before.as_ref()), (&settings(6), Some(&settings(4))));
    }
}
