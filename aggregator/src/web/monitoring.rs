//! HTTPS for monitoring, apart from the port of agents and users: connections and their bounds. What is answered, and to
//! whom, [`scrape`](super::scrape) and [`resource_metrics`](super::resource_metrics) decide.
//!
//! - Each request carries the [`Peer`] that it comes from.
//! - When [`CONNECTIONS`] are open, a new one takes the place of one that has never got what it asked for, else of the one
//!   that got it longest ago: whoever holds on to connections keeps no monitoring out.
//! - A request is over after [`REQUEST_TIMEOUT`], its answer's last byte included: whoever reads slowly is cut off.

use super::{resource_metrics, scrape};
use crate::aggregator::Shared;
use crate::tls::{Acceptor, Connection, Connections, HANDSHAKES, Tls};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Request, Response, StatusCode};
use axum::response::IntoResponse as _;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::CertificateDer;
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// Open connections: each replica of the API server has one or two, each Prometheus two.
const CONNECTIONS: usize = 64;
/// Requests under way on one of them. An API server passes on what all of its clients ask.
const STREAMS: u32 = 64;
/// From a request to the last byte of its answer. Prometheus gives up after 10 s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// How often slow readers are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A token of an OIDC provider may have 12 KiB.
const HEADERS: usize = 64 << 10;
/// How long answers under way may take at a stop.
const FAREWELL: Duration = Duration::from_secs(1);

/// Where monitoring connects, and who is asked for certificates there.
#[derive(Debug)]
pub struct Monitoring {
    pub listener: TcpListener,
    /// Asks for a certificate, which a client need not have; none: nobody is asked. It has to let those in who show none,
    /// or one that means nothing here.
    pub clients: Option<Arc<dyn ClientCertVerifier>>,
}

/// Who is on the other side of a request.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) address: Option<SocketAddr>,
    /// That the client showed: its own, whose key it has, first. Nobody has judged them.
    pub(crate) certificates: Arc<[CertificateDer<'static>]>,
}

impl Monitoring {
    pub(crate) fn accept(self, tls: &Tls) -> anyhow::Result<(Acceptor, Connections)> {
        let config = tls.monitoring_config(self.clients)?;
        Ok(Acceptor::with_places(self.listener, config, CONNECTIONS + HANDSHAKES))
    }
}

/// Answers until streams end.
pub(crate) async fn monitor(mut connections: Connections, shared: Arc<Shared>) {
    let ending = shared.stopping.ending.clone();
    let router = scrape::routes(Arc::clone(&shared)).merge(resource_metrics::routes(shared));
    let mut serving = JoinSet::new();
    let mut open: VecDeque<(AbortHandle, Activity)> = VecDeque::new();
    loop {
        let connection = tokio::select! {
            () = ending.cancelled() => break,
            next = connections.next() => match next {
                Some(Ok(connection)) => connection,
                Some(Err(_)) => continue,
                // The listener has ended, which it does only at a stop.
                None => break,
            },
            Some(_) = serving.join_next() => {
                open.retain(|(connection, _)| !connection.is_finished());
                continue;
            }
        };
        if open.len() >= CONNECTIONS {
            let worst = open.iter().enumerate().min_by_key(|(_, (_, activity))| activity.succeeded());
            let worst = worst.map(|(index, _)| index);
            if let Some((connection, _)) = worst.and_then(|index| open.remove(index)) {
                connection.abort();
            }
        }
        let activity = Activity::default();
        let served = serve(connection, router.clone(), activity.clone(), ending.clone());
        open.push_back((serving.spawn(served), activity));
    }
    drop(tokio::time::timeout(FAREWELL, async { while serving.join_next().await.is_some() {} }).await);
}

async fn serve(connection: Connection, router: Router, activity: Activity, ending: CancellationToken) {
    let peer = Peer { address: connection.peer(), certificates: connection.client_certificates().into() };
    let service = {
        let activity = activity.clone();
        service_fn(move |request| answer(router.clone(), peer.clone(), activity.clone(), request))
    };
    let tasks = Tasks::default();
    let mut http = auto::Builder::new(tasks.clone());
    http.http1().timer(TokioTimer::new()).max_headers(100).max_buf_size(HEADERS);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(u32::try_from(HEADERS).unwrap_or(u32::MAX));
    let mut served = pin!(http.serve_connection(TokioIo::new(connection), service));
    let mut told = false;
    loop {
        tokio::select! {
            // Whoever hangs up early is told nothing and is worth no word.
            _ = served.as_mut() => return,
            () = ending.cancelled(), if !told => {
                served.as_mut().graceful_shutdown();
                told = true;
            }
            () = tokio::time::sleep(LOOK_EVERY) => {
                if activity.oldest().is_some_and(|begun| begun.elapsed() > REQUEST_TIMEOUT + LOOK_EVERY) {
                    return;
                }
            }
        }
    }
}

async fn answer(
    router: Router,
    peer: Peer,
    activity: Activity,
    request: Request<Incoming>,
) -> Result<Response<Sent>, Infallible> {
    let under_way = activity.begin();
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(peer);
    let response = match tokio::time::timeout(REQUEST_TIMEOUT, router.oneshot(request)).await {
        Ok(Ok(response)) => response,
        Err(_) => (StatusCode::GATEWAY_TIMEOUT, "it took too long\n").into_response(),
    };
    if response.status().is_success() {
        activity.succeed();
    }
    Ok(response.map(|body| Sent { body, _under_way: under_way }))
}

/// What happens on a connection. Clones are handles to the same.
#[derive(Clone, Default)]
struct Activity(Arc<Mutex<Happened>>);

#[derive(Default)]
struct Happened {
    /// When a request last got what it asked for.
    succeeded: Option<Instant>,
    next: u64,
    under_way: BTreeMap<u64, Instant>,
}

/// A request whose answer is not all sent.
struct UnderWay {
    activity: Activity,
    number: u64,
}

impl Activity {
    fn lock(&self) -> MutexGuard<'_, Happened> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) -> UnderWay {
        let mut happened = self.lock();
        let number = happened.next;
        happened.next += 1;
        happened.under_way.insert(number, Instant::now());
        UnderWay { activity: self.clone(), number }
    }

    fn succeed(&self) {
        self.lock().succeeded = Some(Instant::now());
    }

    fn succeeded(&self) -> Option<Instant> {
        self.lock().succeeded
    }

    fn oldest(&self) -> Option<Instant> {
        self.lock().under_way.first_key_value().map(|(_, begun)| *begun)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.activity.lock().under_way.remove(&self.number);
    }
}

/// An answer's body, under way until it is dropped.
struct Sent {
    body: Body,
    _under_way: UnderWay,
}

impl HttpBody for Sent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The requests of an HTTP/2 connection; they end with it.
#[derive(Clone, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl<F> Executor<F> for Tasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}
