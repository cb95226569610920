//! An API server for tests that knows `pods/exec` alone, over a real WebSocket: what it is asked to run, it runs here, by
//! `sh` or without.

use axum::body::Body;
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use kube::{Client, Config};
use serde_json::json;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::{Message, protocol::Role};

/// How it is to behave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ways {
    /// The image has no `sh`.
    pub(crate) bare: bool,
    /// It cannot be told that input has ended.
    pub(crate) old: bool,
    /// How it refuses.
    pub(crate) refuses: Option<u16>,
    /// It breaks the connection when a process says [`BREAK`].
    pub(crate) breaks: bool,
    /// It says that all has ended well, as one does that has lost its connection to the node.
    pub(crate) lies: bool,
}

/// What a process says so that the connection breaks.
pub(crate) const BREAK: &str = "break now";

pub(crate) struct Fake {
    pub(crate) client: Client,
    pub(crate) seen: Arc<Seen>,
    _serving: JoinSet<()>,
}

/// What it was told.
#[derive(Default)]
pub(crate) struct Seen {
    /// Every path and query that was asked for.
    pub(crate) asked: Mutex<Vec<String>>,
    /// Every size that a terminal was to have.
    pub(crate) sizes: Mutex<Vec<String>>,
}

type Stream = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

impl Fake {
    pub(crate) async fn start(ways: Ways) -> Fake {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Seen>::default();
        let mut serving = JoinSet::new();
        let heard = Arc::clone(&seen);
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let heard = Arc::clone(&heard);
                let service = hyper::service::service_fn(move |request| {
                    let heard = Arc::clone(&heard);
                    async move { Ok::<_, Infallible>(answer(request, ways, &heard)) }
                });
                let http = hyper::server::conn::http1::Builder::new();
                let connection = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
                connections.spawn(async move { drop(connection.await) });
            }
        });
        let client = Client::try_from(Config::new(format!("http://{address}").parse().unwrap())).unwrap();
        Fake { client, seen, _serving: serving }
    }
}

fn answer(mut request: Request<Incoming>, ways: Ways, seen: &Arc<Seen>) -> Response<Body> {
    let uri = request.uri().clone();
    seen.asked.lock().unwrap().push(uri.to_string());
    if let Some(code) = ways.refuses {
        let status =
            json!({"kind": "Status", "status": "Failure", "code": code, "reason": "Some", "message": "no"});
        return Response::builder().status(code).body(Body::from(status.to_string())).unwrap();
    }
    let query = uri.query().unwrap_or_default().to_owned();
    let key = request.headers().get(SEC_WEBSOCKET_KEY).unwrap().as_bytes().to_vec();
    let seen = Arc::clone(seen);
    let upgrading = hyper::upgrade::on(&mut request);
    // Ends with its connection.
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let stream = TokioIo::new(upgrading.await.unwrap());
        let stream = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
        run(stream, &query, ways, &seen).await.unwrap_or_default();
    });
    serving.detach_all();
    let protocol = if ways.old { "v4.channel.k8s.io" } else { "v5.channel.k8s.io" };
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(UPGRADE, "websocket")
        .header(CONNECTION, "Upgrade")
        .header(SEC_WEBSOCKET_ACCEPT, derive_accept_key(&key))
        .header(SEC_WEBSOCKET_PROTOCOL, protocol)
        .body(Body::empty())
        .unwrap()
}

/// Runs what is asked for. A terminal is only said to be one.
async fn run(stream: Stream, query: &str, ways: Ways, seen: &Arc<Seen>) -> Option<()> {
    let pairs: Vec<_> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let has = |name: &str| pairs.iter().any(|(key, value)| key == name && value == "true");
    let words: Vec<&str> =
        pairs.iter().filter(|(key, _)| key == "command").map(|(_, value)| value.as_str()).collect();
    let (mut to, mut from) = stream.split();
    let (output, mut frames) = mpsc::channel::<Vec<u8>>(1);
    // As the API server says that it is there.
    to.send(Message::Binary(Bytes::from_static(&[1]))).await.ok()?;
    // A shell cannot undo what `nohup` has made of the signal here, and in a container it has not.
    let (program, before) = match words.first()? {
        &"sh" => ("env", &["--default-signal=HUP", "sh"][..]),
        other => (*other, &[][..]),
    };
    let mut command = Command::new(program);
    command.args(before).args(words.get(1..)?).kill_on_drop(true).process_group(0);
    command.stdin(if has("stdin") { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let started = if ways.bare && words.first() == Some(&"sh") {
        Err(std::io::ErrorKind::NotFound.into())
    } else {
        command.spawn()
    };
    let mut child = match started {
        Ok(child) => child,
        Err(error) => {
            let why = match error.kind() {
                std::io::ErrorKind::NotFound => "executable file not found in $PATH",
                _ => "permission denied",
            };
            let message =
                format!("error executing command in container: exec: \"{}\": {why}: unknown", words[0]);
            let status =
                json!({"status": "Failure", "reason": "InternalError", "message": message, "code": 500});
            let status = [&[3], status.to_string().as_bytes()].concat();
            to.send(Message::Binary(status.into())).await.ok()?;
            return to.send(Message::Close(None)).await.ok();
        }
    };
    let mut tasks = JoinSet::new();
    let mut stdin = child.stdin.take();
    let seen = Arc::clone(seen);
    let mut input = JoinSet::new();
    input.spawn(async move {
        while let Some(Ok(message)) = from.next().await {
            let Message::Binary(bytes) = message else { continue };
            match bytes.first() {
                Some(0) => {
                    if let Some(stdin) = &mut stdin {
                        // One that has ended reads no more.
                        drop(stdin.write_all(&bytes[1..]).await);
                    }
                }
                Some(255) => stdin = None,
                Some(4) => seen.sizes.lock().unwrap().push(String::from_utf8_lossy(&bytes[1..]).into_owned()),
                _ => {}
            }
        }
    });
    let errors = if has("tty") { 1 } else { 2 };
    tasks.spawn(copy(child.stdout.take()?, 1, output.clone()));
    tasks.spawn(copy(child.stderr.take()?, errors, output.clone()));
    drop(output);
    loop {
        let frame = tokio::select! {
            biased;
            Some(frame) = frames.recv() => frame,
            ended = tasks.join_next() => match ended {
                Some(_) => continue,
                None => break,
            },
            // The client has gone; the process stays, as it does in a cluster, until the test ends.
            _ = input.join_next() => {
                drop(child.wait().await);
                return None;
            }
        };
        let breaks = ways.breaks && frame.windows(BREAK.len()).any(|part| part == BREAK.as_bytes());
        to.send(Message::Binary(frame.into())).await.ok()?;
        if breaks {
            input.shutdown().await;
            drop(to);
            // It goes on, as it does in a cluster.
            drop(child.wait().await);
            return None;
        }
    }
    let status = child.wait().await.ok()?;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    let status = match code {
        _ if ways.lies => json!({"status": "Success"}),
        0 => json!({"status": "Success"}),
        code => json!({"status": "Failure", "reason": "NonZeroExitCode", "message": "it failed",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}}),
    };
    let status = [&[3], status.to_string().as_bytes()].concat();
    to.send(Message::Binary(status.into())).await.ok()?;
    to.send(Message::Close(None)).await.ok()?;
    // Dropping it while something of the client's is unread would take from it what it has not read yet.
    drop(input.join_next().await);
    Some(())
}

async fn copy(mut from: impl AsyncRead + Unpin, channel: u8, to: mpsc::Sender<Vec<u8>>) {
    let mut buffer = vec![0; 32 << 10];
    loop {
        match from.read(&mut buffer).await {
            Ok(length @ 1..) => {
                let frame = [&[channel], &buffer[..length]].concat();
                if to.send(frame).await.is_err() {
                    return;
                }
            }
            Ok(0) | Err(_) => return,
        }
    }
}
