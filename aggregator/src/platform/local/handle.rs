//! What takes users' changes: checks them, finds the commit, and hands them to the environment's driver.
//!
//! * Nothing is begun that is known not to work: a version that does not exist, settings that this machine cannot have.
//! * A change is as durable as its driver made it when it answers; whoever asked may go.

use super::command::{Command, Commands, Queued};
use super::git::{Commit, Repository};
use super::host::Host;
use super::{checkout, project};
use crate::auth::{self, Change, Grant};
use crate::environment::EnvironmentKey;
use crate::platform::{Delete, Deleted, Platform, Scale, Scaled};
use crate::release::Deploy;
use crate::run::{Run, RunNow, Suspend, Suspended};
use skpr_proto::{EnvironmentName, ErrorKind, Failure, Label};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;

/// New environments that wait for their drivers: each waits for no more than a task to be started.
const NEW: usize = 16;

/// An environment that a user makes: its name, its project's directory, and the commands to its driver.
pub(super) type Made = (EnvironmentName, PathBuf, mpsc::Receiver<Queued>);

/// The local platform, as the API sees it.
pub struct Local {
    host: Arc<Host>,
    projects: BTreeMap<Label, PathBuf>,
    drivers: Mutex<BTreeMap<EnvironmentName, Entry>>,
    make: mpsc::Sender<Made>,
}

/// An environment that there is.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    /// Its driver takes commands; the project is in this directory.
    Runs(Commands, PathBuf),
    /// Its state cannot be read.
    Unreadable,
}

impl Local {
    pub(super) fn new(host: Arc<Host>, projects: BTreeMap<Label, PathBuf>) -> (Local, mpsc::Receiver<Made>) {
        let (make, made) = mpsc::channel(NEW);
        (Local { host, projects, drivers: Mutex::default(), make }, made)
    }

    pub(super) fn enter(&self, name: &EnvironmentName, entry: Entry) {
        self.drivers().insert(name.clone(), entry);
    }

    /// The environment's driver has ended.
    pub(super) fn leave(&self, name: &EnvironmentName) {
        let mut drivers = self.drivers();
        if matches!(drivers.get(name), Some(Entry::Runs(sender, _)) if sender.is_closed()) {
            drivers.remove(name);
        }
    }

    fn drivers(&self) -> MutexGuard<'_, BTreeMap<EnvironmentName, Entry>> {
        self.drivers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn driver(&self, name: &EnvironmentName) -> Result<Commands, Failure> {
        match self.drivers().get(name) {
            Some(Entry::Runs(sender, _)) => Ok(sender.clone()),
            Some(Entry::Unreadable) => Err(unreadable(name)),
            None => Err(Failure::new(ErrorKind::NotFound, format!("there is no environment `{name}`"))
                .with_hint("skpr list")),
        }
    }

    /// As [`driver`](Self::driver); made first where there is none.
    fn driver_or_new(&self, name: &EnvironmentName) -> Result<Commands, Failure> {
        let directory = self.directory(name)?;
        let mut drivers = self.drivers();
        if let Some(Entry::Runs(sender, _)) = drivers.get(name)
            && !sender.is_closed()
        {
            return Ok(sender.clone());
        }
        let (sender, commands) = Commands::new();
        self.make.try_send((name.clone(), directory.clone(), commands)).map_err(|_| {
            Failure::new(ErrorKind::Unavailable, "no environment can be made at this moment")
                .with_hint("try again in a moment")
        })?;
        drivers.insert(name.clone(), Entry::Runs(sender.clone(), directory));
        Ok(sender)
    }

    /// Where an environment's project is.
    fn directory(&self, name: &EnvironmentName) -> Result<PathBuf, Failure> {
        let drivers = self.drivers();
        match drivers.get(name) {
            Some(Entry::Runs(_, directory)) => return Ok(directory.clone()),
            Some(Entry::Unreadable) => return Err(unreadable(name)),
            None => {}
        }
        let of_sibling = || {
            let mut siblings = drivers.iter().filter(|(other, _)| other.project == name.project);
            siblings.find_map(|(_, entry)| match entry {
                Entry::Runs(_, directory) => Some(directory.clone()),
                Entry::Unreadable => None,
            })
        };
        self.projects.get(&name.project).cloned().or_else(of_sibling).ok_or_else(|| {
            Failure::new(
                ErrorKind::NotFound,
                format!("there is no project `{}` on this machine", name.project),
            )
            .with_hint("start skpr-aggregator standalone with its manifest: --config .skpr.yml")
        })
    }

    /// The commit to deploy; an error when the deploy cannot work.
    async fn prepare(&self, environment: &EnvironmentKey, deploy: &Deploy) -> Result<Commit, Failure> {
        let name = &environment.name;
        let home = self.host.key(name);
        if *environment != home {
            let sentence = format!("there is no namespace `{}` on one machine", environment.namespace);
            return Err(Failure::new(ErrorKind::NotFound, sentence)
                .with_hint(format!("leave out --namespace: all is in `{}`", home.namespace)));
        }
        project::check(name, &deploy.settings)?;
        project::namesake(name, self.drivers().keys())?;
        if let Some(port) = deploy.settings.port {
            let others = self.host.publisher.wanting(port.get());
            if let Some(other) = others.iter().find(|other| *other != environment) {
                return Err(project::taken(port.get(), name, &other.name));
            }
        }
        let directory = self.directory(name)?;
        let Some(repository) = Repository::find(&directory).await else {
            let sentence = format!(
                "`{}` is no git repository with a commit, and so has no versions",
                directory.display()
            );
            return Err(Failure::new(ErrorKind::InvalidConfiguration, sentence).with_hint(
                "git init && git add -A && git commit -m first && git tag v1; until then, a change of `.skpr.yml` is taken when standalone starts",
            ));
        };
        // A tag may have been moved since: what is put back is what ran.
        let restored = deploy.restores.and_then(|number| {
            let managed = self.host.publisher.managed(environment)?;
            let release = managed.releases.iter().find(|release| release.number == number)?;
            Commit::parse(release.digest.as_deref()?)
        });
        let commit = match restored {
            Some(commit) => commit,
            None => repository.resolve(&deploy.version).await?,
        };
        checkout::can_be_checked_out(&repository, &commit).await.map(|()| commit).map_err(|error| {
            let sentence = format!("version `{}` cannot be checked out: {error:#}", deploy.version);
            Failure::new(ErrorKind::InvalidConfiguration, sentence)
        })
    }
}

fn unreadable(name: &EnvironmentName) -> Failure {
    let sentence = format!("the state of `{name}` cannot be read, and it is left alone");
    Failure::new(ErrorKind::Failed, sentence).with_hint(
        "the aggregator's log names the file: put a good copy of it back, or remove it, and start standalone again",
    )
}

#[tonic::async_trait]
impl Platform for Local {
    fn home(&self, name: &EnvironmentName) -> Result<EnvironmentKey, Failure> {
        self.directory(name).map(|_| self.host.key(name))
    }

    fn is_known(&self, environment: &EnvironmentKey) -> Result<(), Failure> {
        match self.drivers().get(&environment.name) {
            Some(Entry::Unreadable) => {
                Err(Failure { kind: ErrorKind::Unavailable, ..unreadable(&environment.name) })
            }
            Some(Entry::Runs(..)) | None => Ok(()),
        }
    }

    async fn check(&self, environment: &EnvironmentKey, deploy: &Deploy) -> Result<(), Failure> {
        self.prepare(environment, deploy).await.map(drop)
    }

    async fn deploy(&self, grant: &Grant<Change>, deploy: Deploy) -> Result<u64, Failure> {
        self.deploy_to(grant.environment(), deploy).await
    }

    async fn scale(&self, grant: &Grant<Change>, wanted: Scale) -> Result<Scaled, Failure> {
        self.scale_to(&grant.environment().name, wanted).await
    }

    async fn run_task(&self, grant: &Grant<auth::Cron>, wanted: RunNow) -> Result<Run, Failure> {
        self.run_it(&grant.environment().name, wanted).await
    }

    async fn suspend(&self, grant: &Grant<auth::Cron>, wanted: Suspend) -> Result<Suspended, Failure> {
        self.suspend_in(&grant.environment().name, wanted).await
    }

    async fn delete(&self, grant: &Grant<auth::Delete>, how: Delete) -> Result<Deleted, Failure> {
        self.delete_it(&grant.environment().name, how).await
    }
}

/// The same with no proof of the right to it: for the platform's own tests, and for the calls above.
impl Local {
    pub(super) async fn deploy_to(
        &self,
        environment: &EnvironmentKey,
        deploy: Deploy,
    ) -> Result<u64, Failure> {
        let commit = self.prepare(environment, &deploy).await?;
        let name = &environment.name;
        self.driver_or_new(name)?.ask(name, |reply| Command::Deploy(Box::new(deploy), commit, reply)).await
    }

    async fn scale_to(&self, name: &EnvironmentName, scale: Scale) -> Result<Scaled, Failure> {
        self.driver(name)?.ask(name, |reply| Command::Scale(scale, reply)).await
    }

    pub(super) async fn run_it(&self, name: &EnvironmentName, wanted: RunNow) -> Result<Run, Failure> {
        self.driver(name)?.ask(name, |reply| Command::Run(wanted, reply)).await
    }

    pub(super) async fn suspend_in(
        &self,
        name: &EnvironmentName,
        wanted: Suspend,
    ) -> Result<Suspended, Failure> {
        self.driver(name)?.ask(name, |reply| Command::Suspend(wanted, reply)).await
    }

    pub(super) async fn delete_it(&self, name: &EnvironmentName, delete: Delete) -> Result<Deleted, Failure> {
        self.driver(name)?.ask(name, |reply| Command::Delete(delete, reply)).await
    }
}

#[cfg(test)]
mod tests;
