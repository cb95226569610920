//! containerd's API, as far as it is used: over its Unix socket, in the namespace that Kubernetes has there.
//!
//! What is generated comes from `agent/proto`, which holds only that part.

pub(super) mod containers {
    #![expect(unreachable_pub, reason = "generated code")]
    #![cfg_attr(test, expect(clippy::allow_attributes, reason = "generated code"))]
    tonic::include_proto!("containerd.services.containers.v1");
}

pub(super) mod tasks {
    #![expect(unreachable_pub, reason = "generated code")]
    #![cfg_attr(test, expect(clippy::allow_attributes, reason = "generated code"))]
    tonic::include_proto!("containerd.services.tasks.v1");
}

use super::super::StartError;
use containers::Container;
use containers::containers_client::ContainersClient;
use hyper_util::rt::TokioIo;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tasks::tasks_client::TasksClient;
use tasks::{
    CloseIoRequest, DeleteProcessRequest, ExecProcessRequest, GetRequest, KillRequest, Process,
    ResizePtyRequest, StartRequest, Status as State, WaitRequest,
};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Response, Status};

/// Where Kubernetes keeps its containers.
const NAMESPACE: &str = "k8s.io";
/// What is answered from memory or a small file.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// What starts a program on a node, which may be busy.
const START_WITHIN: Duration = Duration::from_secs(30);

/// A process that was started in a container, by containerd's names for both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) container: String,
    pub(super) exec: String,
}

/// The connection; it is made when it is first needed, and again when it has broken. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Api(Channel);

impl Api {
    pub(super) fn new(socket: PathBuf) -> Api {
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        // The name is nobody's: the connector goes where the socket is.
        Api(Endpoint::from_static("http://containerd").connect_with_connector_lazy(connector))
    }

    fn tasks(&self) -> TasksClient<Channel> {
        TasksClient::new(self.0.clone())
    }

    /// The containers of a pod, its sandbox among them.
    pub(super) async fn containers_of(&self, pod: &skpr_proto::PodUid) -> Result<Vec<Container>, Status> {
        // A pod's uid holds no character that means anything in a filter.
        let filters = vec![format!("labels.\"{}\"=={}", super::find::POD_UID, pod.as_str())];
        let mut client = ContainersClient::new(self.0.clone());
        let asked = client.list(request(containers::ListContainersRequest { filters }));
        Ok(within(ANSWER_WITHIN, asked).await?.containers)
    }

    /// The number of a container's first process; none where it does not run.
    pub(super) async fn runs(&self, container: &str) -> Result<Option<u32>, Status> {
        let message = GetRequest { container_id: container.to_owned(), exec_id: String::new() };
        let answer = within(ANSWER_WITHIN, self.tasks().get(request(message))).await;
        let running = |process: &Process| process.status() == State::Running && process.pid != 0;
        match answer {
            Ok(answer) => Ok(answer.process.filter(running).map(|process| process.pid)),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status),
        }
    }

    pub(super) async fn exec(&self, exec: ExecProcessRequest) -> Result<(), Status> {
        within(START_WITHIN, self.tasks().exec(request(exec))).await.map(drop)
    }

    /// Its number on the node.
    pub(super) async fn start(&self, name: &Name) -> Result<u32, Status> {
        let Name { container, exec } = name.clone();
        let message = StartRequest { container_id: container, exec_id: exec };
        Ok(within(START_WITHIN, self.tasks().start(request(message))).await?.pid)
    }

    /// Waits for its end, however long; with an empty name of the process, for the end of the container.
    pub(super) async fn wait(&self, name: &Name) -> Result<u32, Status> {
        let Name { container, exec } = name.clone();
        let message = WaitRequest { container_id: container, exec_id: exec };
        Ok(self.tasks().wait(request(message)).await?.into_inner().exit_status)
    }

    /// Sends a signal to the one process, and to nothing that it has started.
    pub(super) async fn kill(&self, name: &Name, signal: i32) -> Result<(), Status> {
        let Name { container, exec } = name.clone();
        let signal = u32::try_from(signal).unwrap_or_default();
        let message = KillRequest { container_id: container, exec_id: exec, signal };
        within(ANSWER_WITHIN, self.tasks().kill(request(message))).await.map(drop)
    }

    pub(super) async fn resize(&self, name: &Name, size: super::super::Size) -> Result<(), Status> {
        let Name { container, exec } = name.clone();
        let (width, height) = (size.columns().into(), size.rows().into());
        let message = ResizePtyRequest { container_id: container, exec_id: exec, width, height };
        within(ANSWER_WITHIN, self.tasks().resize_pty(request(message))).await.map(drop)
    }

    /// Lets the process see the end of its stdin, after what is in the FIFO.
    pub(super) async fn close_stdin(&self, name: &Name) -> Result<(), Status> {
        let Name { container, exec } = name.clone();
        let message = CloseIoRequest { container_id: container, exec_id: exec, stdin: true };
        within(ANSWER_WITHIN, self.tasks().close_io(request(message))).await.map(drop)
    }

    /// Forgets a process that has ended. What is still in its pipes is lost.
    pub(super) async fn delete(&self, name: &Name) -> Result<(), Status> {
        let Name { container, exec } = name.clone();
        let message = DeleteProcessRequest { container_id: container, exec_id: exec };
        within(ANSWER_WITHIN, self.tasks().delete_process(request(message))).await.map(drop)
    }
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
    request
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Status> {
    let late = |_| Status::deadline_exceeded("containerd did not answer in time");
    Ok(timeout(limit, call).await.map_err(late)??.into_inner())
}

impl From<Status> for StartError {
    fn from(status: Status) -> StartError {
        StartError::Failed(io::Error::other(format!("containerd: {}", status.message())))
    }
}
