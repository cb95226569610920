//! A platform that does what the test says: it begins releases in the inventory, and ends none by itself.

use super::*;
use crate::auth::{self, Change, Grant};
use crate::inventory::Managed;
use crate::platform::{Delete, Deleted, Scale, Scaled, unmanaged};
use crate::release::{self, Deploy, Release, State};
use skpr_proto::manifest::Instances;
use skpr_proto::{EnvironmentName, ErrorKind, Failure};
use tokio::sync::RwLock;

pub(super) struct Scripted {
    publish: watch::Sender<Arc<Inventory>>,
    calls: Mutex<Vec<String>>,
    /// Namespaces are made where this says so.
    pub(super) makes_namespace: std::sync::atomic::AtomicBool,
    /// While a test holds it for writing, deploys wait.
    pub(super) gate: RwLock<()>,
}

impl Scripted {
    pub(super) fn new(publish: watch::Sender<Arc<Inventory>>) -> Scripted {
        Scripted { publish, calls: Mutex::default(), makes_namespace: false.into(), gate: RwLock::default() }
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
