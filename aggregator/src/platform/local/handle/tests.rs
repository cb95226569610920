//! Deploys on one machine from end to end: real git, real processes, real connections.

use super::super::git::tests::commit;
use super::super::{LocalConfig, Machine};
use super::*;
use crate::event::{self, Event};
use crate::inventory::{Inventory, Managed};
use crate::platform::local::tests::deploy_of;
use crate::platform::to;
use crate::release::{Release, State};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);

/// The site of these tests: this very program, told by the file `how` of its version what to do.
#[test]
#[ignore = "a program that other tests run"]
fn site() {
    use std::io::{Read as _, Write as _};
    let (Ok(port), Ok(how)) = (std::env::var("PORT"), fs::read_to_string("how")) else { return };
    let version = std::env::var("SKPR_VERSION").unwrap();
    match how.as_str() {
        "exit" => std::process::exit(3),
        "spoil" => fs::write("how", "exit").unwrap(),
        "silent" => loop {
            std::thread::park();
        },
        _ => {}
    }
    let listener = std::net::TcpListener::bind(format!("127.0.0.1:{port}")).unwrap();
    for connection in listener.incoming() {
        let mut connection = connection.unwrap();
        let mut request = [0; 4096];
        let length = connection.read(&mut request).unwrap();
        let health = request[..length].starts_with(b"GET /healthz");
        let status = if health && how == "sick" { "500 Sick" } else { "200 OK" };
        let answer = format!("HTTP/1.0 {status}\r\n\r\n{version}");
        connection.write_all(answer.as_bytes()).unwrap();
    }
}

/// A project in git, and a machine that runs it.
struct Fixture {
    directory: tempfile::TempDir,
    port: u16,
}

struct Up {
    local: Arc<Local>,
    inventory: watch::Receiver<Arc<Inventory>>,
    events: mpsc::Receiver<Event>,
    stop: CancellationToken,
    tasks: JoinSet<anyhow::Result<()>>,
}

fn name() -> EnvironmentName {
    EnvironmentName::parse("shop", "dev").unwrap()
}

impl Fixture {
    fn new() -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let fixture = Fixture { directory, port };
        fs::create_dir(fixture.site()).unwrap();
        let program = std::env::current_exe().unwrap();
        let test = "platform::local::handle::tests::site";
        let manifest = format!(
            "project: shop\ndefaults:\n  command: [{program:?}, --exact, {test}, --ignored, --nocapture]\n\
             \x20 health: /healthz\nenvironments:\n  dev: {{port: {port}, env: {{SECRET: hush}}}}\n"
        );
        fs::write(fixture.site().join(".skpr.yml"), manifest).unwrap();
        fixture
    }

    fn site(&self) -> PathBuf {
        self.directory.path().join("site")
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn version(&self, version: &str, how: &str) {
        fs::write(self.site().join("how"), how).unwrap();
        commit(&self.site(), version);
    }

    fn start(&self) -> Up {
        let config = LocalConfig::load(&[self.site()], &self.data(), None).unwrap();
        let (out, inventory) = watch::channel(Arc::default());
        let (tell, events) = event::queue();
        let machine = Machine::open(config, out, tell).unwrap();
        let (local, stop) = (machine.platform(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(machine.run(stop.clone()));
        Up { local, inventory, events, stop, tasks }
    }

    async fn ask(&self, path: &str) -> std::io::Result<String> {
        let mut connection = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await?;
        connection.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await?;
        let version = answer.strip_prefix("HTTP/1.0 200 OK\r\n\r\n").map(str::to_owned);
        version.ok_or_else(|| std::io::Error::other(format!("answered {answer:?}")))
    }
}

impl Up {
    fn key(&self) -> EnvironmentKey {
        self.key_of(&name())
    }

    fn key_of(&self, name: &EnvironmentName) -> EnvironmentKey {
        self.local.host.key(name)
    }

    /// The settings as they are, put into a deploy.
    fn deploy_of(&self, version: &str) -> Deploy {
        deploy_of(version, &self.managed().unwrap())
    }

    async fn deploy(&self, version: &str) -> Result<u64, Failure> {
        self.local.deploy_to(&self.key(), self.deploy_of(version)).await
    }

    fn managed(&self) -> Option<Arc<Managed>> {
        self.inventory.borrow().environments.get(&self.key())?.managed.clone()
    }

    async fn until(&mut self, wanted: impl Fn(&Managed) -> bool) -> Arc<Managed> {
        let key = self.key();
        let managed = |inventory: &Arc<Inventory>| inventory.environments.get(&key)?.managed.clone();
        let found = self.inventory.wait_for(|inventory| managed(inventory).is_some_and(|m| wanted(&m)));
        let found = timeout(PATIENCE, found).await;
        let found = found.map(|found| found.unwrap().clone());
        let found = found.unwrap_or_else(|_| panic!("still {:#?}", self.inventory.borrow()));
        managed(&found).unwrap()
    }

    /// How release `number` ended.
    async fn ended(&mut self, number: u64) -> Release {
        let of =
            |managed: &Managed| managed.releases.iter().find(|release| release.number == number).cloned();
        let managed = self.until(|managed| of(managed).is_some_and(|r| !r.state.is_open())).await;
        of(&managed).unwrap()
    }

    async fn stop(mut self) -> Vec<Event> {
        self.stop.cancel();
        timeout(PATIENCE, self.tasks.join_next()).await.unwrap().unwrap().unwrap().unwrap();
        let mut events = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            events.push(event);
        }
        events
    }
}

#[tokio::test]
async fn nobody_is_refused_through_deploy_rollback_and_scaling() {
    let fixture = Fixture::new();
    fixture.version("v1", "good");
    fixture.version("v2", "good");
    let mut up = fixture.start();
    assert_eq!(up.ended(1).await.version, "v2", "the first is what the work tree has");
    assert_eq!(fixture.ask("/").await.unwrap(), "v2");

    let asking = CancellationToken::new();
    let clients = async {
        let mut versions: Vec<String> = Vec::new();
        while !asking.is_cancelled() {
            let (a, b) = tokio::join!(fixture.ask("/"), fixture.ask("/"));
            versions.extend([a.unwrap(), b.unwrap()]);
        }
        versions
    };
    let changes = async {
        for (number, version) in [(2, "v1"), (3, "v2")] {
            assert_eq!(up.deploy(version).await, Ok(number));
            let release = up.ended(number).await;
            assert_eq!((release.state, release.reason), (State::Succeeded, None));
        }
        for count in [3, 1] {
            up.local.scale_to(&name(), to(count, count)).await.unwrap();
            let key = up.key();
            let there = |inventory: &Arc<Inventory>| {
                let state = &inventory.environments[&key];
                let count = usize::try_from(count).unwrap();
                state.ready() == count && state.instances.len() == count
            };
            timeout(PATIENCE, up.inventory.wait_for(there)).await.unwrap().unwrap();
        }
        let rollback = Deploy { restores: Some(2), ..up.deploy_of("v1") };
        assert_eq!(up.local.deploy_to(&up.key(), rollback).await, Ok(4));
        assert_eq!(up.ended(4).await.restores, Some(2));
        asking.cancel();
    };
    let (versions, ()) = tokio::join!(clients, changes);
    assert!(versions.iter().any(|version| version == "v1") && versions.last().unwrap() == "v1");
    assert_eq!(fixture.ask("/").await.unwrap(), "v1");

    let managed = up.managed().unwrap();
    let history: Vec<_> =
        managed.releases.iter().map(|release| (release.number, &*release.version)).collect();
    assert_eq!(history, [(1, "v2"), (2, "v1"), (3, "v2"), (4, "v1")]);
    let digests: BTreeSet<_> = managed.releases.iter().filter_map(|release| release.digest.clone()).collect();
    assert_eq!(digests.len(), 2);
    let events = up.stop().await;
    let ids: BTreeSet<&str> = events.iter().filter_map(|event| event.body.id.get(..9)).collect();
    assert!(ids.contains("release/4") && events.iter().any(|event| event.body.kind == event::Kind::Scale));
    assert!(events.iter().all(|event| !format!("{event:?}").contains("hush")), "a secret was told");
}

/// Deploys a version that is broken in one way over a good one, and looks at what becomes of it.
async fn check_failure(how: &str, reason: &str, exit_code: Option<i32>) {
    let fixture = Fixture::new();
    fixture.version("v1", "good");
    let mut up = fixture.start();
    assert_eq!(up.ended(1).await.state, State::Succeeded);
    fixture.version("v2", how);
    let mut deploy = up.deploy_of("v2");
    deploy.timeout = Duration::from_secs(4);
    if how == "missing" {
        deploy.settings.command = Some(vec!["./nowhere".to_owned()].try_into().unwrap());
    }
    assert_eq!(up.local.deploy_to(&up.key(), deploy).await, Ok(2));
    let failure = up.deploy("v1").await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Locked);
    let release = up.ended(2).await;
    let text = release.reason.clone().unwrap();
    assert_eq!((release.state, release.exit_code), (State::RolledBack, exit_code), "{text}");
    assert!(text.contains(reason), "{text}");
    assert_eq!(release.instance.as_deref(), Some("shop-dev-r2-0"));
    assert_eq!(fixture.ask("/").await.unwrap(), "v1");
    let key = up.key();
    let settled = |inventory: &Arc<Inventory>| {
        let names: Vec<_> = inventory.environments[&key].instances.keys().map(|name| &**name).collect();
        names == ["shop-dev-r1-0"]
    };
    timeout(PATIENCE, up.inventory.wait_for(settled)).await.unwrap().unwrap();
    let events = up.stop().await;
    assert!(events.iter().any(|event| event.body.id.starts_with("release/2/rolled-back/")));
}

#[tokio::test]
async fn one_that_ends_at_once_is_rolled_back() {
    check_failure("exit", "ended with exit code 3 and is started again and again", Some(3)).await;
}

#[tokio::test]
async fn one_whose_program_is_missing_is_rolled_back() {
    check_failure("missing", "cannot be started: cannot start `./nowhere`", None).await;
}

#[tokio::test]
async fn one_that_never_gets_ready_is_rolled_back() {
    check_failure("sick", "GET /healthz answered 500", None).await;
}

#[tokio::test]
async fn one_that_never_listens_is_rolled_back() {
    check_failure("silent", "nothing listens on port", None).await;
}

#[tokio::test]
async fn what_cannot_work_is_refused_before_anything_is_begun() {
    let fixture = Fixture::new();
    fixture.version("v1", "good");
    let mut up = fixture.start();
    up.ended(1).await;
    let failure = up.deploy("v3").await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::NotFound);
    assert!(failure.hint.unwrap().contains("`v1`"));
    assert_eq!(up.deploy("--help").await.unwrap_err().kind, ErrorKind::Usage);
    let elsewhere = EnvironmentName::parse("blog", "dev").unwrap();
    assert_eq!(up.local.home(&elsewhere).unwrap_err().kind, ErrorKind::NotFound);
    // Another environment of the project may be made, but not on a port that is taken.
    let second = up.local.home(&EnvironmentName::parse("shop", "test").unwrap()).unwrap();
    let mut deploy = up.deploy_of("v1");
    let failure = up.local.deploy_to(&second, deploy.clone()).await.unwrap_err();
    assert!(failure.message.contains("is wanted by `shop/test` and by `shop/dev`"), "{failure}");
    deploy.settings.port = None;
    assert_eq!(up.local.deploy_to(&second, deploy).await, Ok(1));
    assert_eq!(up.managed().unwrap().releases.len(), 1);
    up.stop().await;
}

#[tokio::test]
async fn a_later_start_goes_on_with_what_is_written_and_a_damaged_file_is_left_alone() {
    let fixture = Fixture::new();
    fixture.version("v1", "good");
    let mut up = fixture.start();
    up.ended(1).await;
    fixture.version("v2", "good");
    assert_eq!(up.deploy("v2").await, Ok(2));
    // Stopped in the middle of it.
    up.stop().await;
    let mut up = fixture.start();
    assert_eq!(up.ended(2).await.state, State::Succeeded);
    assert_eq!(fixture.ask("/").await.unwrap(), "v2");
    up.stop().await;

    let file = fixture.data().join("environments/shop.dev.json");
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let mut up = fixture.start();
    let trouble = up.until(|managed| managed.trouble.is_some()).await.trouble.clone().unwrap();
    assert!(trouble.contains("its state cannot be read") && !trouble.contains("shop.dev.json"), "{trouble}");
    let failure = up.local.is_known(&up.key_of(&name())).unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Unavailable);
    assert!(failure.message.contains("the state of `shop/dev` cannot be read"), "{failure}");
    assert_eq!(up.local.scale_to(&name(), to(1, 1)).await.unwrap_err().kind, ErrorKind::Failed);
    up.stop().await;
    assert_eq!(fs::read(&file).unwrap().len(), whole.len() / 2);
}

#[tokio::test]
async fn a_deleted_environment_leaves_its_volumes_unless_they_go_too() {
    let fixture = Fixture::new();
    fixture.version("v1", "good");
    let mut up = fixture.start();
    up.ended(1).await;
    let mut deploy = up.deploy_of("v1");
    let volumes = r#"{"my-files": {"path": "/data", "size": "1Gi"}}"#;
    deploy.settings.volumes = serde_json::from_str(volumes).unwrap();
    assert_eq!(up.local.deploy_to(&up.key(), deploy).await, Ok(2));
    up.ended(2).await;
    let volume = fixture.data().join("volumes/shop/dev/my-files");
    assert!(volume.is_dir());
    let delete = |dry_run, volumes| Delete { dry_run, volumes, force: false, by: "ann".into() };
    let said = up.local.delete_it(&name(), delete(true, false)).await.unwrap();
    assert!(said.kept.iter().any(|kept| kept.contains("volumes")), "{said:?}");
    let said = up.local.delete_it(&name(), delete(false, true)).await.unwrap();
    assert!(said.removed.iter().any(|removed| removed.contains("volumes")), "{said:?}");
    let gone = |inventory: &Arc<Inventory>| inventory.environments.is_empty();
    timeout(PATIENCE, up.inventory.wait_for(gone)).await.unwrap().unwrap();
    assert!(!volume.exists() && !fixture.data().join("environments/shop.dev.json").exists());
    assert!(!fixture.data().join("releases/shop.dev").exists());
    assert!(fixture.ask("/").await.is_err());
    let events = up.stop().await;
    assert!(events.iter().any(|event| event.body.text == "environment `shop/dev` was deleted"));
    // Made again it counts on: its instances are called as none was before.
    let mut up = fixture.start();
    assert_eq!(up.ended(3).await.state, State::Succeeded);
    let instances: Vec<_> =
        up.inventory.borrow().environments[&up.key()].instances.keys().map(ToString::to_string).collect();
    assert_eq!(instances, ["shop-dev-r3-0"]);
    let events = up.stop().await;
    assert!(events.iter().any(|event| event.body.text == "environment `shop/dev` was made"));
}

#[tokio::test]
async fn a_deploy_does_not_succeed_while_its_port_is_not_reachable() {
    let fixture = Fixture::new();
    fixture.version("v1", "good");
    let mut up = fixture.start();
    up.ended(1).await;
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut deploy = up.deploy_of("v1");
    deploy.settings.port = std::num::NonZeroU16::new(holder.local_addr().unwrap().port());
    assert_eq!(up.local.deploy_to(&up.key(), deploy).await, Ok(2));
    let waits =
        |managed: &Managed| managed.waiting_for.as_deref().is_some_and(|why| why.contains("on yet: another"));
    up.until(waits).await;
    let release = up.ended(2).await;
    let reason = release.reason.unwrap();
    assert!(reason.ends_with("cannot be listened on: another program listens there"), "{reason}");
    assert_eq!(release.state, State::RolledBack);
    assert_eq!(fixture.ask("/").await.unwrap(), "v1");
    up.stop().await;
}

#[tokio::test]
async fn what_cannot_be_written_down_is_waited_for_and_fails_nothing() {
    let fixture = Fixture::new();
    fixture.version("v1", "good");
    let mut up = fixture.start();
    up.ended(1).await;
    assert_eq!(up.deploy("v1").await, Ok(2));
    // A directory is where the file is written first.
    let blocked = fixture.data().join("environments/shop.dev.json.new");
    fs::create_dir(&blocked).unwrap();
    let told = "its state cannot be written down: ";
    let waits = |managed: &Managed| {
        [&managed.waiting_for, &managed.trouble]
            .iter()
            .all(|why| why.as_deref().is_some_and(|why| why.starts_with(told)))
    };
    let managed = up.until(waits).await;
    assert_eq!(managed.releases[1].state, State::Deploying);
    fs::remove_dir(&blocked).unwrap();
    assert_eq!(up.ended(2).await.state, State::Succeeded);
    assert_eq!(up.managed().unwrap().trouble, None);
    up.stop().await;
}

#[tokio::test]
async fn a_version_that_changed_its_own_files_is_deployed_as_git_has_it() {
    let fixture = Fixture::new();
    fixture.version("v1", "spoil");
    let mut up = fixture.start();
    assert_eq!(up.ended(1).await.state, State::Succeeded);
    assert_eq!(up.deploy("v1").await, Ok(2));
    assert_eq!(up.ended(2).await.state, State::Succeeded);
    let test = up.local.home(&EnvironmentName::parse("shop", "test").unwrap()).unwrap();
    let mut deploy = up.deploy_of("v1");
    deploy.settings.port = None;
    assert_eq!(up.local.deploy_to(&test, deploy).await, Ok(1));
    let commit = up.managed().unwrap().releases[1].digest.clone().unwrap();
    let how = fixture.data().join(format!("releases/shop.test/1-{commit}/how"));
    let fresh = async {
        while fs::read_to_string(&how).is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, fresh).await.unwrap();
    // Without a port this program ends before it does anything.
    assert_eq!(fs::read_to_string(&how).unwrap(), "spoil");
    up.stop().await;
}

#[tokio::test]
async fn the_directories_of_five_releases_stay() {
    let fixture = Fixture::new();
    fixture.version("v0", "good");
    let mut up = fixture.start();
    up.ended(1).await;
    for number in 1..7 {
        fixture.version(&format!("v{number}"), "good");
        up.deploy(&format!("v{number}")).await.unwrap();
        assert_eq!(up.ended(number + 1).await.state, State::Succeeded);
    }
    let releases = fixture.data().join("releases/shop.dev");
    let pruned = async {
        while there(&releases) != 5 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, pruned).await.unwrap();
    up.stop().await;
}

fn there(directory: &Path) -> usize {
    fs::read_dir(directory).map_or(0, Iterator::count)
}

#[tokio::test]
async fn a_namespace_that_is_not_there_is_refused_before_anything_is_written() {
    let fixture = Fixture::new();
    fixture.version("v1", "good");
    let mut up = fixture.start();
    up.ended(1).await;
    let elsewhere = EnvironmentKey { namespace: Label::parse("namespace", "foo").unwrap(), ..up.key() };
    let failure = up.local.deploy_to(&elsewhere, up.deploy_of("v1")).await.unwrap_err();
    assert!(failure.kind == ErrorKind::NotFound && failure.message.contains("`foo`"), "{failure}");
    assert_eq!(up.managed().unwrap().releases.len(), 1);
    up.stop().await;
}
