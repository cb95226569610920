//! A site with versions: the image `skpr-test-shop`, its manifest, and a client that asks it all the time.

use super::setup::{Skpr, busybox_root, once, pack};
use anyhow::{Context as _, Result};
use skpr_tests::cli::User;
use skpr_tests::cluster::{Cluster, Namespace};
use skpr_tests::eventually;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// The image's repository; its tags are the versions below.
pub(crate) const IMAGE: &str = "docker.io/library/skpr-test-shop";

/// Each version and what its image does when it is started.
const VERSIONS: [(&str, &str); 9] = [
    ("v1", SERVE),
    ("v2", SERVE),
    ("broken", "echo 'cannot find the database' >&2\necho 'giving up' >&2\nexit 3\n"),
    ("deaf", "echo 'thinking'\nwhile :; do sleep 1; done\n"),
    ("busy", BUSY),
    ("steady", STEADY),
    ("hungry", "echo 'eating'\nexec tail /dev/zero\n"),
    ("growing", GROWING),
    ("fragile", FRAGILE),
];
/// The version is in the image, so that an answer says which one gave it. It ends when it is asked to, as a site should:
/// the first process of a container ignores the signal unless it says otherwise.
const SERVE: &str = "echo \"serving $(cat /www/version)\"\nbusybox httpd -f -p \"$PORT\" -h /www &\ntrap \"kill $!\" TERM\nwait\n";

/// Serves, and is busy for one second of two.
const BUSY: &str = "(while :; do timeout 1 sh -c 'while :; do :; done'; sleep 1; done) &\nbusybox httpd -f -p \"$PORT\" -h /www &\ntrap \"kill $!; exit\" TERM\nwait $!\n";

/// Serves, and takes all CPU that it may have.
const STEADY: &str = "(while :; do :; done) &\nbusybox httpd -f -p \"$PORT\" -h /www &\ntrap \"kill $!; exit\" TERM\nwait $!\n";

/// Serves, grows by 4 MiB ten times a second to 200, and stays where it is then.
const GROWING: &str = "busybox httpd -p \"$PORT\" -h /www\nexec awk 'BEGIN {piece = sprintf(\"%4194304s\", \"\"); while (n < 50) {n++; held[n] = piece n; system(\"sleep 0.1\")} system(\"sleep 86400\")}'\n";

/// Serves; its first process takes all the memory that there is when it is told to.
const FRAGILE: &str = "busybox httpd -f -p \"$PORT\" -h /www &\ntrap 'exec tail /dev/zero' USR1\ntrap \"kill $!; exit\" TERM\nwait $!\n";

/// Some 30 ms of CPU time for whoever asks for `/cgi-bin/burn`.
const BURN: &str =
    "i=0\nwhile [ $i -lt 10000 ]; do i=$((i + 1)); done\nprintf 'Content-Length: 6\\r\\n\\r\\nburnt\\n'\n";

/// How long a test waits for what takes seconds.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(120);

/// Puts the images of every version on the nodes.
pub(crate) fn load_images(cluster: &Cluster) -> Result<()> {
    static LOADED: Mutex<bool> = Mutex::new(false);
    once(cluster, &LOADED, |own| {
        for (version, script) in VERSIONS {
            let root = busybox_root()?;
            let www = root.path().join("www");
            fs::create_dir_all(www.join("cgi-bin"))?;
            for (program, script) in [(root.path().join("serve"), script), (www.join("cgi-bin/burn"), BURN)] {
                fs::write(&program, format!("#!/bin/sh\n{script}"))?;
                fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
            }
            for page in ["index.html", "version", "healthz"] {
                fs::write(www.join(page), format!("{version}\n"))?;
            }
            own.load(&pack(&root, &format!("{IMAGE}:{version}"), r#"["/serve"]"#)?)?;
        }
        Ok(())
    })
}

/// A manifest of the project `shop`, with what `environments` says of them.
pub(crate) fn manifest(user: &User, environments: &str) -> Result<()> {
    let text = format!(
        "project: shop\nimage: {IMAGE}\ndefaults: {{port: 8080, health: /healthz, cpu: 50m, memory: {{min: 16Mi, max: 32Mi}}}}\nenvironments:\n{environments}"
    );
    fs::write(user.home().join(".skpr.yml"), text).context("write the manifest")
}

/// A user who may edit everything in a namespace, by Kubernetes' own role.
pub(crate) fn editor(skpr: &Skpr, namespace: &Namespace) -> Result<User> {
    namespace.kubectl(&["create", "serviceaccount", "editor"])?;
    let account = format!("{}:editor", namespace.name());
    namespace.kubectl(&[
        "create",
        "rolebinding",
        "editor",
        "--clusterrole=admin",
        "--serviceaccount",
        &account,
    ])?;
    skpr.user(namespace, "editor", "skpr")
}

/// A way in from here, once it leads to the site: a Service of its own for the same pods, with a port on each node. The
/// site's own is for the cluster alone.
pub(crate) fn front(site: &Namespace, deployment: &str) -> Result<SocketAddr> {
    let object = format!("deployment/{deployment}");
    site.kubectl(&[
        "expose",
        &object,
        "--name=front",
        "--type=NodePort",
        "--port=8080",
        "--target-port=8080",
    ])?;
    // It is given the deployment's labels, and is no part of the environment.
    site.kubectl(&["label", "service/front", "skpr.io/environment-"])?;
    let port = site.field("service/front", ".spec.ports[0].nodePort")?;
    let node = "jsonpath={.items[0].status.hostIP}";
    let host = site.kubectl(&["get", "pods", "-l", "skpr.io/environment", "-o", node])?;
    let address: SocketAddr = format!("{host}:{port}").parse().context("read the node's address")?;
    eventually("the site answers", TIMEOUT, || ask(address, "/").map(Some))?;
    Ok(address)
}

/// Asks the site some fifty times a second, each time on a new connection, and counts what failed.
pub(crate) struct Client {
    state: Arc<Mutex<Asked>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone, Debug, Default)]
struct Asked {
    requests: u64,
    failures: Vec<String>,
    newest: String,
}

impl Client {
    /// Starts it, and returns once it has had an answer.
    pub(crate) fn start(site: &Namespace, deployment: &str) -> Result<Self> {
        let address = front(site, deployment)?;
        let (state, stop) = (Arc::new(Mutex::new(Asked::default())), Arc::new(AtomicBool::new(false)));
        let (shared, stopped) = (Arc::clone(&state), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let answer = ask(address, "/");
                let mut asked = shared.lock().unwrap_or_else(PoisonError::into_inner);
                asked.requests += 1;
                match answer {
                    Ok(answer) => asked.newest = answer,
                    Err(error) => asked.failures.push(format!("{error:#}")),
                }
                drop(asked);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Ok(Client { state, stop, thread: Some(thread) })
    }

    fn asked(&self) -> Asked {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until an answer comes from this version.
    pub(crate) fn answered_by(&self, version: &str) -> Result<()> {
        eventually(&format!("{version} answers"), TIMEOUT, || {
            let newest = self.asked().newest;
            anyhow::ensure!(newest == version, "`{newest}` does");
            Ok(Some(()))
        })
    }

    /// Asserts that it went on asking and that no request has failed; how many it made.
    #[track_caller]
    pub(crate) fn no_request_failed(&self) -> u64 {
        let before = self.asked().requests;
        eventually("the client asks on", TIMEOUT, || Ok((self.asked().requests > before + 3).then_some(())))
            .unwrap();
        let asked = self.asked();
        assert!(asked.failures.is_empty(), "of {} requests: {:?}", asked.requests, asked.failures);
        asked.requests
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// The body of the answer, which is whole: its length is what the head says.
pub(crate) fn ask(address: SocketAddr, path: &str) -> Result<String> {
    let mut connection = TcpStream::connect_timeout(&address, Duration::from_secs(3)).context("connect")?;
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    connection.write_all(format!("GET {path} HTTP/1.0\r\nHost: shop\r\n\r\n").as_bytes()).context("ask")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).context("read the answer")?;
    let (head, body) =
        answer.split_once("\r\n\r\n").with_context(|| format!("find the head of `{answer}`"))?;
    let length =
        head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ").map(str::to_owned));
    anyhow::ensure!(
        head.contains(" 200 ") && length == Some(body.len().to_string()),
        "the answer is `{answer}`"
    );
    Ok(body.trim_end().to_owned())
}
