//! A containerd for tests: its containers are all this machine, and what is started in them runs here as we do.
//!
//! What is as with containerd: FIFOs are opened at the start, stdin stays open until it is closed by name, a process
//! that runs is not forgotten, a signal reaches one process only, and what cannot be run fails to start.

use super::Places;
use super::api::containers::containers_server::{Containers, ContainersServer};
use super::api::containers::{Any, Container, ListContainersRequest, ListContainersResponse};
use super::api::tasks::tasks_server::{Tasks, TasksServer};
use super::api::tasks::{
    CloseIoRequest, DeleteProcessRequest, DeleteResponse, Empty, ExecProcessRequest, GetRequest, GetResponse,
    KillRequest, Process, ResizePtyRequest, StartRequest, StartResponse, Status as State, WaitRequest,
    WaitResponse,
};
use serde_json::{Value, json};
use skpr_proto::Label;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Code, Request, Response, Status};

/// A pod as the kubelet and containerd write it down: its sandbox, and these containers.
pub(crate) fn pod(namespace: &str, uid: &str, names: &[&str]) -> Vec<Container> {
    let container = |id: String, kind: &str, more: &[(&str, &str)], spec: Value| {
        let common = [
            ("io.cri-containerd.kind", kind),
            ("io.kubernetes.pod.uid", uid),
            ("io.kubernetes.pod.namespace", namespace),
        ];
        let labels = common.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let spec = Any { type_url: String::new(), value: spec.to_string().into_bytes() };
        Container { id, labels: labels.collect(), spec: Some(spec) }
    };
    let sandbox = format!("{uid}-sandbox");
    let marks = [("skpr.io/project", "shop"), ("skpr.io/environment", "dev")];
    let mut pod = vec![container(sandbox.clone(), "sandbox", &marks, json!({}))];
    for name in names {
        let process = json!({
            "args": ["/serve"],
            "cwd": "/tmp",
            "env": ["PATH=/usr/local/bin:/usr/bin:/bin", "SITE=of the pod"],
            "user": {"uid": 0, "gid": 0},
            "noNewPrivileges": true,
        });
        let spec = json!({"annotations": {"io.kubernetes.cri.sandbox-id": sandbox}, "process": process});
        let labels = [("io.kubernetes.container.name", *name)];
        pod.push(container(format!("{uid}-{name}"), "container", &labels, spec));
    }
    pod
}

/// The containerd, for as long as it is kept.
pub(crate) struct Fake {
    pub(crate) directory: TempDir,
    state: Arc<Mutex<Inner>>,
    ends: watch::Sender<bool>,
    _served: JoinSet<()>,
}

#[derive(Default)]
struct Inner {
    containers: Vec<Container>,
    execs: BTreeMap<String, Exec>,
    /// What was asked of terminals.
    sizes: Vec<(u32, u32)>,
    /// How the last process was to be started.
    last: Value,
    /// Starts that are under way.
    begun: JoinSet<()>,
}

struct Exec {
    request: ExecProcessRequest,
    stdin: Option<File>,
    /// It is being started, whoever waits for that: nothing else is done with it meanwhile.
    starting: bool,
    pid: Option<i32>,
    exit: watch::Sender<Option<u32>>,
}

#[derive(Clone)]
struct Service {
    state: Arc<Mutex<Inner>>,
    ends: watch::Receiver<bool>,
}

impl Fake {
    /// With these containers.
    pub(crate) fn start(containers: Vec<Container>) -> Fake {
        let directory = tempfile::tempdir().unwrap();
        let state = Arc::new(Mutex::new(Inner { containers, ..Inner::default() }));
        let (ends, ended) = watch::channel(false);
        let service = Service { state: Arc::clone(&state), ends: ended };
        let listener = UnixListener::bind(directory.path().join("containerd.sock")).unwrap();
        let mut served = JoinSet::new();
        served.spawn(async move {
            let server = tonic::transport::Server::builder()
                .add_service(ContainersServer::new(service.clone()))
                .add_service(TasksServer::new(service));
            server.serve_with_incoming(UnixListenerStream::new(listener)).await.unwrap();
        });
        std::fs::create_dir(directory.path().join("exec")).unwrap();
        Fake { directory, state, ends, _served: served }
    }

    /// A pod of an environment, with one container `php`.
    pub(crate) fn instance() -> Fake {
        Fake::start(pod("sites", "u1", &["php"]))
    }

    /// The same, started in another way.
    pub(crate) fn with_process(change: impl FnOnce(&mut Value)) -> Fake {
        let mut containers = pod("sites", "u1", &["php"]);
        let any = containers.last_mut().unwrap().spec.as_mut().unwrap();
        let mut spec: Value = serde_json::from_slice(&any.value).unwrap();
        change(&mut spec["process"]);
        any.value = spec.to_string().into_bytes();
        Fake::start(containers)
    }

    pub(crate) fn places(&self) -> Places {
        let place = |name: &str| self.directory.path().join(name);
        let denied = [Label::parse("namespace", "kube-system").unwrap()].into();
        Places {
            socket: place("containerd.sock"),
            fifos: place("exec"),
            proc: "/proc".into(),
            worker: place("worker"),
            denied,
        }
    }

    /// What is left of what was started: directories, and processes that are known.
    pub(crate) fn left(&self) -> Vec<String> {
        let directories = std::fs::read_dir(self.places().fifos).unwrap();
        let mut left: Vec<_> = directories.map(|entry| entry.unwrap().path().display().to_string()).collect();
        left.extend(self.state.lock().unwrap().execs.keys().cloned());
        left
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.left().is_empty()
    }

    pub(crate) fn sizes(&self) -> Vec<(u32, u32)> {
        self.state.lock().unwrap().sizes.clone()
    }

    pub(crate) fn last(&self) -> Value {
        self.state.lock().unwrap().last.clone()
    }

    /// Ends the containers.
    pub(crate) fn end(&self) {
        self.state.lock().unwrap().containers.clear();
        self.ends.send_replace(true);
    }
}

fn check<T>(request: Request<T>) -> Result<T, Status> {
    match request.metadata().get("containerd-namespace") {
        Some(namespace) if namespace == "k8s.io" => Ok(request.into_inner()),
        _ => Err(Status::failed_precondition("no namespace")),
    }
}

fn not_found() -> Status {
    Status::not_found("there is no such process")
}

#[tonic::async_trait]
impl Containers for Service {
    async fn list(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Result<Response<ListContainersResponse>, Status> {
        let filters = check(request)?.filters;
        let all = self.state.lock().unwrap().containers.clone();
        let matches = |container: &Container| {
            let uid = container.labels.get("io.kubernetes.pod.uid").unwrap();
            filters == [format!("labels.\"io.kubernetes.pod.uid\"=={uid}")]
        };
        Ok(Response::new(ListContainersResponse { containers: all.into_iter().filter(matches).collect() }))
    }
}

#[tonic::async_trait]
impl Tasks for Service {
    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let asked = check(request)?;
        let state = self.state.lock().unwrap();
        state.containers.iter().find(|container| container.id == asked.container_id).ok_or_else(not_found)?;
        let process = Process { pid: std::process::id(), status: State::Running.into() };
        Ok(Response::new(GetResponse { process: Some(process) }))
    }

    async fn exec(&self, request: Request<ExecProcessRequest>) -> Result<Response<Empty>, Status> {
        let request = check(request)?;
        let mut state = self.state.lock().unwrap();
        let id = request.exec_id.clone();
        state.last = serde_json::from_slice(&request.spec.as_ref().unwrap().value).unwrap();
        let exec = Exec { request, stdin: None, starting: false, pid: None, exit: watch::channel(None).0 };
        assert!(state.execs.insert(id, exec).is_none());
        Ok(Response::new(Empty {}))
    }

    async fn start(&self, request: Request<StartRequest>) -> Result<Response<StartResponse>, Status> {
        let id = check(request)?.exec_id;
        let request = {
            let mut state = self.state.lock().unwrap();
            let exec = state.execs.get_mut(&id).ok_or_else(not_found)?;
            exec.starting = there(&exec.request);
            exec.request.clone()
        };
        // A caller that does not wait any more changes nothing.
        let (tell, told) = oneshot::channel();
        let begun = begin(Arc::clone(&self.state), id, request);
        self.state.lock().unwrap().begun.spawn(async move { drop(tell.send(begun.await)) });
        told.await.unwrap()
    }

    async fn wait(&self, request: Request<WaitRequest>) -> Result<Response<WaitResponse>, Status> {
        let id = check(request)?.exec_id;
        if id.is_empty() {
            self.ends.clone().wait_for(|ended| *ended).await.ok();
            return Ok(Response::new(WaitResponse { exit_status: 0 }));
        }
        let mut exit = self.state.lock().unwrap().execs.get(&id).ok_or_else(not_found)?.exit.subscribe();
        let exit_status = exit.wait_for(Option::is_some).await.map_err(|_| not_found())?.unwrap();
        Ok(Response::new(WaitResponse { exit_status }))
    }

    async fn kill(&self, request: Request<KillRequest>) -> Result<Response<Empty>, Status> {
        let asked = check(request)?;
        let state = self.state.lock().unwrap();
        let exec = state.execs.get(&asked.exec_id).ok_or_else(not_found)?;
        let runs = exec.pid.filter(|_| exec.exit.borrow().is_none()).ok_or_else(not_found)?;
        let kill = ["-s".to_owned(), asked.signal.to_string(), runs.to_string()];
        std::process::Command::new("kill").args(kill).status().unwrap();
        Ok(Response::new(Empty {}))
    }

    async fn resize_pty(&self, request: Request<ResizePtyRequest>) -> Result<Response<Empty>, Status> {
        let asked = check(request)?;
        self.state.lock().unwrap().sizes.push((asked.width, asked.height));
        Ok(Response::new(Empty {}))
    }

    async fn close_io(&self, request: Request<CloseIoRequest>) -> Result<Response<Empty>, Status> {
        let asked = check(request)?;
        assert!(asked.stdin);
        let mut state = self.state.lock().unwrap();
        state.execs.get_mut(&asked.exec_id).ok_or_else(not_found)?.stdin = None;
        Ok(Response::new(Empty {}))
    }

    async fn delete_process(
        &self,
        request: Request<DeleteProcessRequest>,
    ) -> Result<Response<DeleteResponse>, Status> {
        let id = check(request)?.exec_id;
        let mut state = self.state.lock().unwrap();
        let exec = state.execs.get(&id).ok_or_else(not_found)?;
        if exec.starting || exec.pid.is_some() && exec.exit.borrow().is_none() {
            return Err(Status::new(Code::FailedPrecondition, "it runs"));
        }
        state.execs.remove(&id);
        Ok(Response::new(DeleteResponse { exit_status: 0 }))
    }
}

/// Starts a process that was announced.
async fn begin(
    state: Arc<Mutex<Inner>>,
    id: String,
    request: ExecProcessRequest,
) -> Result<Response<StartResponse>, Status> {
    let spec: Value = serde_json::from_slice(&request.spec.as_ref().unwrap().value).unwrap();
    let words = words(&request);
    if !there(&request) {
        let said =
            format!("OCI runtime exec failed: exec: \"{}\": executable file not found in $PATH", words[0]);
        return Err(Status::unknown(said));
    }
    let (stdin, stdio) = tokio::task::spawn_blocking(move || open(&request)).await.unwrap();
    // What `nohup` has made of the signal here no container has.
    let mut command = tokio::process::Command::new("env");
    command.args(["--default-signal=HUP", "setsid"]);
    command.args(&words).env_clear().current_dir(spec["cwd"].as_str().unwrap());
    for pair in spec["env"].as_array().unwrap() {
        let (name, value) = pair.as_str().unwrap().split_once('=').unwrap();
        command.env(name, value);
    }
    let [input, output, errors] = stdio;
    let mut child = command.stdin(input).stdout(output).stderr(errors).spawn().unwrap();
    let pid = child.id().unwrap();
    let mut state = state.lock().unwrap();
    let exec = state.execs.get_mut(&id).unwrap();
    exec.stdin = Some(stdin);
    exec.starting = false;
    exec.pid = Some(pid.try_into().unwrap());
    let exit = exec.exit.clone();
    // Ends with the child, which every test ends.
    std::thread::spawn({
        let runtime = tokio::runtime::Handle::current();
        move || {
            let status = runtime.block_on(child.wait()).unwrap();
            let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap());
            exit.send_replace(Some(code.try_into().unwrap()));
        }
    });
    Ok(Response::new(StartResponse { pid }))
}

fn words(request: &ExecProcessRequest) -> Vec<String> {
    let spec: Value = serde_json::from_slice(&request.spec.as_ref().unwrap().value).unwrap();
    serde_json::from_value(spec["args"].clone()).unwrap()
}

fn there(request: &ExecProcessRequest) -> bool {
    let program = &words(request)[0];
    ["/bin", "/usr/bin"].iter().any(|place| Path::new(place).join(program).is_file())
}

/// Its stdin as we keep it open, and the three as the process has them.
fn open(request: &ExecProcessRequest) -> (File, [Stdio; 3]) {
    let read_write = |path: &str| OpenOptions::new().read(true).write(true).open(path).unwrap();
    let write = |path: &str| OpenOptions::new().write(true).open(path).unwrap();
    // Not to wait for whoever writes; the process has an end that only reads.
    let kept = read_write(&request.stdin);
    let input = File::open(&request.stdin).unwrap();
    let output = write(&request.stdout);
    let errors = if request.terminal { output.try_clone().unwrap() } else { write(&request.stderr) };
    (kept, [input.into(), output.into(), errors.into()])
}
