//! Transfers as the relay meets them, with programs in place of the worker.

use super::*;
use crate::runtime::{Instance, Instances, Spawner};
use skpr_rsync::{Base, Error, Link, Local, options::Options, pull};
use std::collections::BTreeMap;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::io::duplex;
use tokio::net::UnixStream;
use tokio::sync::watch;

const PATIENCE: Duration = Duration::from_secs(20);

struct Machine {
    directory: TempDir,
    runtime: Runtime,
    instances: watch::Sender<Instances>,
    uid: PodUid,
}

/// One instance, whose worker is a shell that runs this; none where there is no worker.
fn machine(worker: Option<&str>) -> Machine {
    let directory = tempfile::tempdir().unwrap();
    let uid = PodUid::parse("u1").unwrap();
    let wrapper = r#"while [ "$1" != -- ]; do shift; done; shift; exec setsid "$@""#;
    let instance = Instance {
        directory: directory.path().to_owned(),
        variables: vec![("PATH".into(), "/usr/bin:/bin".into())],
        wrapper: ["/bin/sh", "-c", wrapper, "wrapper"].map(Into::into).into(),
        files: None,
        transfer: worker.map(|line| ["/bin/sh", "-c", line].map(Into::into).into()),
    };
    let (instances, listed) = watch::channel(BTreeMap::from([(uid.clone(), Arc::new(instance))]));
    let runtime = Runtime::new(listed, Spawner::start().unwrap());
    Machine { directory, runtime, instances, uid }
}

#[tokio::test]
async fn bytes_pass_both_ways_and_the_end_of_the_worker_is_told() {
    let machine = machine(Some("cat; echo trouble >&2; exit 23"));
    let (ours, theirs) = duplex(1000);
    let (mut from, mut to) = split(ours);
    let sent: Vec<u8> = (0..3_u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let client = async {
        let sending = async {
            to.write_all(&sent).await.unwrap();
            to.shutdown().await.unwrap();
        };
        let mut got = vec![];
        let (_, read) = tokio::join!(sending, from.read_to_end(&mut got));
        read.unwrap();
        assert!(got == sent);
    };
    let served = serve(theirs, &machine.runtime, &machine.uid);
    let (exit, ()) = timeout(PATIENCE, async { tokio::join!(served, client) }).await.unwrap();
    assert_eq!(exit, Some(Exit::Code(23)));
}

#[tokio::test]
async fn an_instance_that_ends_takes_its_worker_with_it() {
    let machine = machine(Some("echo $$ > pid; exec sleep 1000"));
    let (ours, theirs) = duplex(1000);
    let served = serve(theirs, &machine.runtime, &machine.uid);
    let file = machine.directory.path().join("pid");
    let leave = async {
        while std::fs::read_to_string(&file).map_or(0, |text| text.len()) == 0 {
            sleep(Duration::from_millis(5)).await;
        }
        machine.instances.send_replace(BTreeMap::new());
    };
    let (exit, ()) = timeout(PATIENCE, async { tokio::join!(served, leave) }).await.unwrap();
    assert!(matches!(exit, Some(Exit::Signal(_))), "{exit:?}");
    let pid = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    assert!(rustix::process::test_kill_process(pid).is_err());
    drop(ours);
}

#[tokio::test]
async fn a_worker_hears_that_its_client_has_gone() {
    let machine = machine(Some("cat > got; exit 12"));
    let (mut ours, theirs) = duplex(1000);
    let client = async {
        ours.write_all(b"half").await.unwrap();
        drop(ours);
    };
    let served = serve(theirs, &machine.runtime, &machine.uid);
    let (exit, ()) = timeout(PATIENCE, async { tokio::join!(served, client) }).await.unwrap();
    assert_eq!(exit, Some(Exit::Code(12)));
    assert_eq!(std::fs::read(machine.directory.path().join("got")).unwrap(), b"half");
}

#[tokio::test(flavor = "multi_thread")]
async fn why_there_is_no_transfer_is_told_in_its_own_language() {
    for (worker, code, words) in
        [(None, 3, "not served"), (Some("echo 'skpr: no way in' >&2; exit 1"), 1, "skpr: no way in")]
    {
        let (exit, error) = refused(worker).await;
        assert_eq!(exit, Some(Exit::Code(code)));
        assert!(
            matches!(&error, Error::Peer { code: Code::Start, text } if text.contains(words)),
            "{error:?}"
        );
    }
}

/// How the worker ended, and how a client of ours did.
async fn refused(worker: Option<&str>) -> (Option<Exit>, Error) {
    let machine = machine(worker);
    let (ours, theirs) = StdUnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let target = machine.directory.path().join("target");
    let client = tokio::task::spawn_blocking(move || {
        let closer = ours.try_clone().unwrap();
        let link = Link {
            reader: Box::new(ours.try_clone().unwrap()),
            writer: Box::new(ours),
            close: Box::new(move || drop(closer.shutdown(std::net::Shutdown::Both))),
        };
        let path = target.as_os_str().as_encoded_bytes();
        let local = Local { base: Base::Own, path, watcher: &|_| {}, silence: None };
        pull(local, b"anything", &Options::archive(), link).unwrap_err()
    });
    let stream = UnixStream::from_std(theirs).unwrap();
    let served = timeout(PATIENCE, serve(stream, &machine.runtime, &machine.uid)).await.unwrap();
    (served, timeout(PATIENCE, client).await.unwrap().unwrap())
}
