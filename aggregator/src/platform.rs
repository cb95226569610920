//! What runs the environments. Each platform publishes an [`Inventory`](crate::inventory::Inventory) through a `watch`
//! channel: readers always see the newest whole one, and a slow reader delays nobody. What users change goes through
//! [`Platform`], and shows in the inventory.

pub mod kubernetes;
pub mod local;
mod scale;

#[cfg(test)]
pub(crate) use scale::tests::to;
pub use scale::{Scale, Scaled};

use crate::auth::{self, Change, Grant};
use crate::environment::EnvironmentKey;
use crate::release::Deploy;
use crate::run::{Run, RunNow, Suspend, Suspended};
use skpr_proto::{EnvironmentName, ErrorKind, Failure};

/// Takes changes to environments. Each is durable when its call returns, and goes on without the caller.
#[tonic::async_trait]
pub trait Platform: Send + Sync {
    /// Where an environment of this name would be, if there is none yet and its user names no namespace.
    fn home(&self, name: &EnvironmentName) -> Result<EnvironmentKey, Failure>;

    /// Whether it is known what was deployed to the environment; else nothing can be said of its releases.
    fn is_known(&self, _: &EnvironmentKey) -> Result<(), Failure> {
        Ok(())
    }

    /// Whether a deploy of the environment would make its namespace, for which the grant must then say that it may.
    async fn makes_namespace(&self, _: &EnvironmentKey) -> Result<bool, Failure> {
        Ok(false)
    }

    /// Whether the environment can be where it is asked to be, the version exists and the settings can be had here, as far
    /// as that can be known before.
    async fn check(&self, environment: &EnvironmentKey, deploy: &Deploy) -> Result<(), Failure>;

    /// Begins a release and returns its number. [`Locked`](skpr_proto::ErrorKind::Locked) while another is under way.
    async fn deploy(&self, grant: &Grant<Change>, deploy: Deploy) -> Result<u64, Failure>;

    /// Sets how many instances run, until the next deploy. What is so already is not written and not told of.
    async fn scale(&self, grant: &Grant<Change>, wanted: Scale) -> Result<Scaled, Failure>;

    /// Begins a run of a task now, whether it is suspended or not. [`Locked`](skpr_proto::ErrorKind::Locked) while one runs
    /// and the task forbids that two do: the failure names that run.
    async fn run_task(&self, grant: &Grant<auth::Cron>, wanted: RunNow) -> Result<Run, Failure>;

    /// Suspends tasks of an environment or resumes them. What is so already is not written and not told of.
    async fn suspend(&self, grant: &Grant<auth::Cron>, wanted: Suspend) -> Result<Suspended, Failure>;

    /// Takes the environment away. [`Locked`](skpr_proto::ErrorKind::Locked) while a release is under way, unless forced.
    async fn delete(&self, grant: &Grant<auth::Delete>, how: Delete) -> Result<Deleted, Failure>;
}

/// How an environment is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delete {
    /// Only say what would go.
    pub dry_run: bool,
    /// The contents of its volumes go, too.
    pub volumes: bool,
    /// Also while a release is under way, which ends with it.
    pub force: bool,
    pub by: String,
}

/// What only skpr's own environments can have done to them was asked of another.
pub(crate) fn unmanaged(name: &EnvironmentName) -> Failure {
    Failure::new(ErrorKind::Failed, format!("`{name}` was not deployed through skpr"))
        .with_hint(format!("skpr deploy {name}"))
}

/// A deletion is under way, and ends by itself.
pub(crate) fn being_deleted(name: &EnvironmentName) -> Failure {
    Failure::new(ErrorKind::Locked, format!("`{name}` is locked: it is being deleted"))
        .with_hint("try again when `skpr list` does not show it any more")
}

/// What a deletion removes and what it leaves, each in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    pub removed: Vec<String>,
    pub kept: Vec<String>,
}

/// A platform that only says what runs: for tests, whose pods are directories.
#[derive(Clone, Copy, Debug)]
pub struct ReadOnly;

impl ReadOnly {
    fn refuse<T>() -> Result<T, Failure> {
        Err(Failure::new(ErrorKind::Failed, "this platform takes no changes"))
    }
}

#[tonic::async_trait]
impl Platform for ReadOnly {
    fn home(&self, _: &EnvironmentName) -> Result<EnvironmentKey, Failure> {
        Self::refuse()
    }

    async fn check(&self, _: &EnvironmentKey, _: &Deploy) -> Result<(), Failure> {
        Self::refuse()
    }

    async fn deploy(&self, _: &Grant<Change>, _: Deploy) -> Result<u64, Failure> {
        Self::refuse()
    }

    async fn scale(&self, _: &Grant<Change>, _: Scale) -> Result<Scaled, Failure> {
        Self::refuse()
    }

    async fn run_task(&self, _: &Grant<auth::Cron>, _: RunNow) -> Result<Run, Failure> {
        Self::refuse()
    }

    async fn suspend(&self, _: &Grant<auth::Cron>, _: Suspend) -> Result<Suspended, Failure> {
        Self::refuse()
    }

    async fn delete(&self, _: &Grant<auth::Delete>, _: Delete) -> Result<Deleted, Failure> {
        Self::refuse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::granted;
    use crate::inventory::tests::key;

    #[tokio::test]
    async fn a_platform_of_tests_changes_nothing() {
        let how = Delete { dry_run: false, volumes: false, force: false, by: "dana".into() };
        let failure = ReadOnly.delete(&granted("dana", &key("a", "web", "dev")), how).await.unwrap_err();
        assert_eq!(failure.kind, ErrorKind::Failed);
        assert_eq!(ReadOnly.makes_namespace(&key("a", "web", "dev")).await, Ok(false));
    }
}
