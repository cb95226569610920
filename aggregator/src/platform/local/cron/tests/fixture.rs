//! A site with tasks that is run for real, and a clock that stands until it is set.

use super::super::super::handle::Local;
use super::super::super::{LocalConfig, Machine};
use super::super::*;
use crate::event::{self, Event};
use crate::inventory::{Inventory, Managed};
use crate::platform::local::tests::deploy_of;
use crate::release::Deploy;
use skpr_proto::EnvironmentName;
use std::fs;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// A full hour.
pub(super) const BEGIN: i64 = 500_000 * 3600;

/// A project with tasks, and a clock.
pub(super) struct Fixture {
    directory: tempfile::TempDir,
    pub(super) clock: Clock,
}

pub(super) struct Up {
    pub(super) local: Arc<Local>,
    pub(super) inventory: watch::Receiver<Arc<Inventory>>,
    pub(super) tell: event::Sender,
    events: mpsc::Receiver<Event>,
    stop: CancellationToken,
    tasks: JoinSet<anyhow::Result<()>>,
}

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(BEGIN + second).unwrap()
}

pub(super) fn name() -> EnvironmentName {
    EnvironmentName::parse("shop", "dev").unwrap()
}

pub(super) fn label(name: &str) -> Label {
    Label::parse("task", name).unwrap()
}

impl Fixture {
    /// With these tasks, each with what its entry says beyond being due each minute.
    pub(super) fn new(tasks: &[(&str, &str)]) -> Fixture {
        let fixture = Fixture { directory: tempfile::tempdir().unwrap(), clock: Clock::at(at(0)) };
        fs::create_dir(fixture.site()).unwrap();
        fixture.tasks(tasks);
        fixture
    }

    pub(super) fn tasks(&self, tasks: &[(&str, &str)]) {
        let entry = |(name, entry): &(&str, &str)| format!("{name}: {{schedule: '* * * * *', {entry}}}");
        let tasks: Vec<String> = tasks.iter().map(entry).collect();
        let manifest = format!(
            "project: shop\nenvironments:\n  dev:\n    command: [sleep, '1000']\n    env: {{GREETING: hello}}\n    \
             volumes: {{files: {{path: /files, size: 1Gi}}}}\n    cron: {{{}}}\n",
            tasks.join(", ")
        );
        fs::write(self.site().join(".skpr.yml"), manifest).unwrap();
    }

    pub(super) fn site(&self) -> PathBuf {
        self.directory.path().join("site")
    }

    pub(super) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Starts it; its first release may be under way.
    pub(super) fn start(&self) -> Up {
        let mut config = LocalConfig::load(&[self.site()], &self.data(), None).unwrap();
        config.clock = self.clock.clone();
        let (out, inventory) = watch::channel(Arc::default());
        let (tell, events) = event::queue();
        let machine = Machine::open(config, out, tell.clone()).unwrap();
        let (local, stop) = (machine.platform(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(machine.run(stop.clone()));
        Up { local, inventory, tell, events, stop, tasks }
    }

    /// Starts it and waits for its first release.
    pub(super) async fn ready(&self) -> Up {
        let mut up = self.start();
        up.until(|managed| managed.releases.iter().any(|release| !release.state.is_open())).await;
        up
    }

    pub(super) async fn says(&self, run: &Run, text: &str) {
        eventually(|| self.printed(run) == text).await;
    }

    /// What a run has printed, without the times.
    pub(super) fn printed(&self, run: &Run) -> String {
        let instance = run.instance.as_deref().unwrap();
        let pods = fs::read_dir(self.data().join("pods")).unwrap().map(|pod| pod.unwrap().path());
        let is_its = |pod: &PathBuf| pod.to_string_lossy().contains(&format!("local_{instance}_"));
        let own: Vec<_> = pods.filter(is_its).collect();
        assert!(own.len() < 2, "{instance} was started twice");
        let files = own.first().and_then(|own| fs::read_dir(own.join("app")).ok()).into_iter().flatten();
        let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        // The one in use is the newest.
        files.sort_by_key(|file| (file.ends_with("0.log"), file.clone()));
        let text: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned() + "\n").collect()
    }
}

/// Looks until it is so.
pub(super) async fn eventually(is_so: impl Fn() -> bool) {
    let looking = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, looking).await.unwrap();
}

impl Up {
    pub(super) fn key(&self) -> EnvironmentKey {
        EnvironmentKey { namespace: label("local"), name: name() }
    }

    pub(super) fn managed(&self) -> Arc<Managed> {
        self.inventory.borrow().environments[&self.key()].managed.clone().unwrap()
    }

    pub(super) async fn until(&mut self, wanted: impl Fn(&Managed) -> bool) -> Arc<Managed> {
        let key = self.key();
        let managed = |inventory: &Arc<Inventory>| inventory.environments.get(&key)?.managed.clone();
        let found = self.inventory.wait_for(|inventory| managed(inventory).is_some_and(|m| wanted(&m)));
        let found = timeout(PATIENCE, found).await.map(|found| found.unwrap().clone());
        let found = found.unwrap_or_else(|_| panic!("still {:#?}", self.inventory.borrow()));
        managed(&found).unwrap()
    }

    /// The last run of a task, once that is one of which `wanted` holds.
    pub(super) async fn last(&mut self, task: &str, wanted: impl Fn(&Run) -> bool) -> Run {
        let task = label(task);
        let last = |managed: &Managed| managed.tasks.get(&task)?.last.clone();
        last(&*self.until(|managed| last(managed).is_some_and(|last| wanted(&last))).await).unwrap()
    }

    /// How a task's run of this minute ended.
    pub(super) async fn ended(&mut self, task: &str, minute: i64) -> Run {
        let due = Some(at(60 * minute));
        self.last(task, |last| last.due == due).await
    }

    /// The run of a task that goes on, once there is one that is due at this minute.
    pub(super) async fn running(&mut self, task: &str, minute: i64) -> Run {
        let (task, due) = (label(task), Some(at(60 * minute)));
        let find =
            |managed: &Managed| managed.tasks.get(&task)?.running.iter().find(|run| run.due == due).cloned();
        find(&*self.until(|managed| find(managed).is_some()).await).unwrap()
    }

    pub(super) async fn run(&self, task: &str, arguments: &[&str]) -> Result<Run, Failure> {
        let arguments = arguments.iter().map(|word| (*word).to_owned()).collect();
        self.local.run_it(&name(), RunNow { task: label(task), arguments, by: "ann".into() }).await
    }

    pub(super) async fn suspend(&self, task: Option<&str>, suspended: bool) -> Suspended {
        let how = Suspend { task: task.map(label), suspended, dry_run: false, by: "bob".into() };
        self.local.suspend_in(&name(), how).await.unwrap()
    }

    pub(super) async fn deploy(&mut self, version: &str, change: impl FnOnce(&mut Deploy)) {
        let managed = self.managed();
        let mut deploy = deploy_of(version, &managed);
        change(&mut deploy);
        let number = self.local.deploy_to(&self.key(), deploy).await.unwrap();
        let is_done = |managed: &Managed| {
            managed.releases.iter().any(|release| release.number == number && !release.state.is_open())
        };
        self.until(is_done).await;
    }

    /// Ends it as a stop does; what was told of runs.
    pub(super) async fn stop(mut self) -> Vec<Run> {
        self.stop.cancel();
        timeout(PATIENCE, self.tasks.join_next()).await.unwrap().unwrap().unwrap().unwrap();
        self.told()
    }

    /// Ends it as a kill does.
    pub(super) async fn kill(mut self) -> Vec<Run> {
        self.tasks.shutdown().await;
        self.told()
    }

    /// What was told of trouble; what was told of runs goes with it.
    pub(super) fn troubles(&mut self) -> Vec<String> {
        let told = std::iter::from_fn(|| self.events.try_recv().ok());
        told.filter(|event| event.body.kind == Kind::Trouble).map(|event| event.body.text).collect()
    }

    pub(super) fn told(&mut self) -> Vec<Run> {
        let mut told = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            told.extend(event.body.run.map(|run| *run));
        }
        told
    }
}
