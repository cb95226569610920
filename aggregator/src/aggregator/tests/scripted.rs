//! A platform that does what the test says: it begins releases in the inventory, and ends none by itself.

use super::*;
use crate::auth::{self, Change, Grant};
use crate::inventory::Managed;
use crate::platform::{Delete, Deleted, Scale, Scaled, unmanaged};
use crate::release::{self, Deploy, Release, State};
use crate::run::{Outcome, Run, RunId, RunNow, Suspend, Suspended, Suspension, TaskState};
use skpr_proto::manifest::Instances;
use skpr_proto::{EnvironmentName, ErrorKind, Failure};
use tokio::sync::RwLock;

pub(super) struct Scripted {
    publish: watch::Sender<Arc<Inventory>>,
    calls: Mutex<Vec<String>>,
    /// Namespaces are made where this says so.
    pub(super) makes_namespace: std::sync::atomic::AtomicBool,
    /// While a test holds it for writing, deploys and runs wait.
    pub(super) gate: RwLock<()>,
    /// Runs that were asked for.
    pub(super) waiting: std::sync::atomic::AtomicUsize,
}

impl Scripted {
    pub(super) fn new(publish: watch::Sender<Arc<Inventory>>) -> Scripted {
        Scripted {
            publish,
            calls: Mutex::default(),
            makes_namespace: false.into(),
            gate: RwLock::default(),
            waiting: 0.into(),
        }
    }

    /// What was called, in order.
    pub(super) fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    fn called(&self, call: String) {
        self.calls.lock().unwrap().push(call);
    }

    /// Changes an environment that skpr looks after; makes it.
    pub(super) fn change(&self, key: &EnvironmentKey, change: impl FnOnce(&mut Managed)) {
        self.publish.send_modify(|inventory| {
            let mut next = (**inventory).clone();
            let state = next.environments.entry(key.clone()).or_default();
            let mut managed = state.managed.as_deref().cloned().unwrap_or_else(|| Managed {
                image: None,
                version: String::new(),
                settings: Default::default(),
                releases: vec![],
                trouble: None,
                waiting_for: None,
                target: 1,
                deleting: false,
                created: None,
                serves: vec![],
                tasks: Default::default(),
            });
            change(&mut managed);
            state.managed = Some(Arc::new(managed));
            *inventory = Arc::new(next);
        });
    }

    /// Ends the newest release, or takes it a step further.
    pub(super) fn turn(&self, key: &EnvironmentKey, state: State, change: impl FnOnce(&mut Release)) {
        self.change(key, |managed| {
            let newest = managed.releases.last_mut().unwrap();
            newest.state = state;
            newest.ended = (!state.is_open()).then(jiff::Timestamp::now);
            change(newest);
        });
    }

    /// Ends a run that is under way, as the inventory has it.
    pub(super) fn end_run(&self, key: &EnvironmentKey, id: &str, outcome: Outcome, code: i32) -> Run {
        let mut ended = None;
        self.change(key, |managed| {
            let of_it = |task: &&mut TaskState| task.running.iter().any(|run| run.id.as_str() == id);
            let task = managed.tasks.values_mut().find(of_it).unwrap();
            let run = task.running.iter().find(|run| run.id.as_str() == id).unwrap().clone();
            let ended_at = Some(jiff::Timestamp::now());
            let run = Run { ended: ended_at, outcome: Some(outcome), exit_code: Some(code), ..run };
            task.ended(run.clone());
            ended = Some(run);
        });
        ended.unwrap()
    }

    pub(super) fn remove(&self, key: &EnvironmentKey) {
        self.publish.send_modify(|inventory| {
            let mut next = (**inventory).clone();
            next.environments.remove(key);
            *inventory = Arc::new(next);
        });
    }
}

#[tonic::async_trait]
impl Platform for Scripted {
    fn home(&self, name: &EnvironmentName) -> Result<EnvironmentKey, Failure> {
        Ok(EnvironmentKey { namespace: Label::parse("namespace", "sites").unwrap(), name: name.clone() })
    }

    async fn makes_namespace(&self, _: &EnvironmentKey) -> Result<bool, Failure> {
        Ok(self.makes_namespace.load(std::sync::atomic::Ordering::Relaxed))
    }

    async fn check(&self, environment: &EnvironmentKey, deploy: &Deploy) -> Result<(), Failure> {
        if deploy.version == "missing" {
            let message = format!("`{}` has no version `missing`", environment.name);
            return Err(Failure::new(ErrorKind::NotFound, message));
        }
        Ok(())
    }

    async fn deploy(&self, grant: &Grant<Change>, deploy: Deploy) -> Result<u64, Failure> {
        drop(self.gate.read().await);
        assert_eq!(grant.makes_namespace(), self.makes_namespace(grant.environment()).await?);
        let mut number = 0;
        let mut locked = Ok(());
        let call = format!(
            "deploy {} to {} by {} for {} s, returns {}, restores {:?}",
            deploy.version,
            grant.environment(),
            deploy.by,
            deploy.timeout.as_secs(),
            deploy.returns,
            deploy.restores
        );
        self.change(grant.environment(), |managed| {
            locked = release::locked(&grant.environment().name, &managed.releases);
            if locked.is_ok() {
                number = release::next_number(&managed.releases);
                managed.version.clone_from(&deploy.version);
                managed.image.clone_from(&deploy.image);
                managed.settings = deploy.settings.clone();
                let tasks = managed.settings.cron.iter().flatten();
                managed.tasks = tasks.map(|(name, _)| (name.clone(), TaskState::default())).collect();
                release::begin(&mut managed.releases, number, deploy, jiff::Timestamp::now());
            }
        });
        locked?;
        self.called(call);
        Ok(number)
    }

    async fn scale(&self, grant: &Grant<Change>, wanted: Scale) -> Result<Scaled, Failure> {
        let key = grant.environment();
        let mut decided = Err(unmanaged(&key.name));
        self.change(key, |managed| {
            decided = release::locked(&key.name, &managed.releases)
                .and_then(|()| wanted.of(managed.settings.instances.as_ref()));
            if let Ok((_, instances)) = &decided {
                managed.settings.instances = Some(instances.clone());
            }
        });
        let (scaled, Instances { min, max, .. }) = decided?;
        if scaled.is_change() {
            self.called(format!("scale {key} to {min}-{max} by {}", wanted.by));
        }
        Ok(scaled)
    }

    /// Begins it at once, and ends it never; one at a time.
    async fn run_task(&self, grant: &Grant<auth::Cron>, wanted: RunNow) -> Result<Run, Failure> {
        self.waiting.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        drop(self.gate.read().await);
        let key = grant.environment();
        let id = RunId::asked(&wanted.task, self.calls().len() as u64);
        let run = Run {
            began: Some(jiff::Timestamp::now()),
            version: "v1".into(),
            instance: Some(format!("{id}-pod")),
            ..Run::asked(id, &wanted)
        };
        let mut begun = Ok(run.clone());
        self.change(key, |managed| {
            let running = &mut managed.tasks.get_mut(&wanted.task).unwrap().running;
            match running.last() {
                Some(other) => {
                    let message = format!("`{}` is locked: run `{}` is under way", key.name, other.id);
                    begun = Err(Failure::new(ErrorKind::Locked, message));
                }
                None => running.push(run),
            }
        });
        let run = begun?;
        self.called(format!("run {} of {key} by {} with {:?}", run.id, wanted.by, wanted.arguments));
        Ok(run)
    }

    async fn suspend(&self, grant: &Grant<auth::Cron>, wanted: Suspend) -> Result<Suspended, Failure> {
        let key = grant.environment();
        let mut suspended = Suspended::default();
        self.change(key, |managed| {
            let all = managed.tasks.iter_mut();
            for (name, task) in all.filter(|(name, _)| wanted.task.as_ref().is_none_or(|one| one == *name)) {
                if task.suspended.is_some() == wanted.suspended {
                    suspended.unchanged.push(name.clone());
                    continue;
                }
                suspended.changed.push(name.clone());
                if !wanted.dry_run {
                    let suspension = Suspension { by: wanted.by.clone(), since: jiff::Timestamp::now() };
                    task.suspended = wanted.suspended.then_some(suspension);
                }
            }
        });
        if !wanted.dry_run {
            self.called(format!("suspend {key} {} by {}", wanted.suspended, wanted.by));
        }
        Ok(suspended)
    }

    async fn delete(&self, grant: &Grant<auth::Delete>, how: Delete) -> Result<Deleted, Failure> {
        if !how.dry_run {
            if !how.force {
                let inventory = Arc::clone(&self.publish.borrow());
                let managed = inventory.environments[grant.environment()].managed.clone();
                release::locked(&grant.environment().name, &managed.unwrap().releases)?;
            }
            self.remove(grant.environment());
            self.called(format!("delete {} by {}", grant.environment(), how.by));
        }
        Ok(Deleted { removed: vec!["2 instances".into()], kept: vec!["volume `files`".into()] })
    }
}
