//! An environment's port: connections to it are handed to its ready instances in turn.
//!
//! * Which instances take connections is set from outside, whole, at one moment. From then on no new connection goes to
//!   another; those that are open go on, and [`Routes::drained`] tells when an instance has none left.
//! * An instance that refuses costs a caller no error: the next one is tried, and when there is none one is waited for.
//! * Bytes are moved and not understood. Each direction ends by itself, as its sender ends it.

use skpr_proto::PodUid;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

/// Connections of one environment at a time. Each costs two descriptors and 16 KiB, so that all of them are 64 MiB;
/// those beyond wait in the kernel's queue.
const CONNECTIONS: usize = 4096;
/// How long a connection waits for an instance that takes it: as long as a start usually takes.
const PATIENCE: Duration = Duration::from_secs(10);
/// An instance on this machine takes a connection at once, or its queue is full.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// Between two rounds of asking instances that all refuse.
const ROUND: Duration = Duration::from_millis(50);

/// Which instances take connections, and how many each has. Clones are handles to the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Routes(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    table: Mutex<Table>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Table {
    targets: Vec<(PodUid, u16)>,
    next: usize,
    open: HashMap<PodUid, usize>,
}

/// A connection that an instance was chosen for; it counts from the choice on.
#[derive(Debug)]
struct Chosen {
    routes: Routes,
    uid: PodUid,
    port: u16,
}

impl Routes {
    pub(super) fn set(&self, targets: Vec<(PodUid, u16)>) {
        let mut table = self.table();
        if table.targets != targets {
            table.targets = targets;
            drop(table);
            self.0.changed.notify_waiters();
        }
    }

    /// Returns when the instance has no connection.
    pub(super) async fn drained(&self, uid: &PodUid) {
        loop {
            let changed = self.0.changed.notified();
            if !self.table().open.contains_key(uid) {
                return;
            }
            changed.await;
        }
    }

    fn choose(&self, refused: &[PodUid]) -> Option<Chosen> {
        let mut table = self.table();
        let count = table.targets.len();
        let (uid, port) = (0..count)
            .filter_map(|step| table.targets.get((table.next + step) % count))
            .find(|(uid, _)| !refused.contains(uid))
            .cloned()?;
        table.next = (table.next + 1) % count;
        *table.open.entry(uid.clone()).or_default() += 1;
        Some(Chosen { routes: self.clone(), uid, port })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Chosen {
    fn drop(&mut self) {
        let mut table = self.routes.table();
        if let Some(open) = table.open.get_mut(&self.uid) {
            *open -= 1;
            if *open == 0 {
                table.open.remove(&self.uid);
                drop(table);
                self.routes.0.changed.notify_waiters();
            }
        }
    }
}

/// Takes connections until `stop`; those that are open then go on to their ends.
pub(super) async fn serve(listener: TcpListener, routes: Routes, stop: CancellationToken) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (permit, listener.accept().await)
        };
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            (permit, accepted) = accepted => match accepted {
                Ok((client, _)) => {
                    let routes = routes.clone();
                    connections.spawn(async move {
                        forward(client, routes).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: some are given back as connections end.
                    tracing::warn!(error = %error, "a connection cannot be taken");
                    sleep(ROUND).await;
                }
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn forward(mut client: TcpStream, routes: Routes) {
    let deadline = Instant::now() + PATIENCE;
    let mut refused = Vec::new();
    while Instant::now() < deadline {
        let changed = routes.0.changed.notified();
        let Some(chosen) = routes.choose(&refused) else {
            let none = refused.is_empty();
            refused.clear();
            let until = if none { deadline } else { deadline.min(Instant::now() + ROUND) };
            // Either something has changed or it is time to ask again.
            drop(timeout_at(until, changed).await);
            continue;
        };
        match timeout(CONNECT_WITHIN, TcpStream::connect((Ipv4Addr::LOCALHOST, chosen.port))).await {
            Ok(Ok(mut server)) => {
                for stream in [&client, &server] {
                    // Without it small answers come later, and that is all.
                    drop(stream.set_nodelay(true));
                }
                // Whichever side broke the connection, the other one is told by its end.
                drop(copy_bidirectional(&mut client, &mut server).await);
                return;
            }
            Ok(Err(_)) | Err(_) => refused.push(chosen.uid.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    fn uid(text: &str) -> PodUid {
        PodUid::parse(text).unwrap()
    }

    struct Front {
        routes: Routes,
        port: u16,
        stop: CancellationToken,
        tasks: JoinSet<()>,
    }

    async fn listen() -> (TcpListener, u16) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    impl Front {
        async fn start() -> Front {
            let (listener, port) = listen().await;
            let (routes, stop) = (Routes::default(), CancellationToken::new());
            let mut tasks = JoinSet::new();
            tasks.spawn(serve(listener, routes.clone(), stop.clone()));
            Front { routes, port, stop, tasks }
        }

        /// An instance that answers what it got, once that has ended, behind its name.
        async fn instance(&mut self, name: &'static str) -> (PodUid, u16) {
            let (listener, port) = listen().await;
            self.tasks.spawn(async move {
                while let Ok((mut connection, _)) = listener.accept().await {
                    let mut text = name.to_owned();
                    connection.read_to_string(&mut text).await.unwrap();
                    connection.write_all(text.as_bytes()).await.unwrap();
                }
            });
            (uid(name), port)
        }

        async fn ask(&self) -> String {
            let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.unwrap();
            connection.write_all(b"!").await.unwrap();
            connection.shutdown().await.unwrap();
            let mut answer = String::new();
            connection.read_to_string(&mut answer).await.unwrap();
            answer
        }
    }

    #[tokio::test]
    async fn connections_go_round_and_past_one_that_refuses() {
        let mut front = Front::start().await;
        let (a, b) = (front.instance("a").await, front.instance("b").await);
        let (gone, port) = listen().await;
        drop(gone);
        front.routes.set(vec![a, (uid("gone"), port), b]);
        let mut answers = Vec::new();
        for _ in 0..6 {
            answers.push(front.ask().await);
        }
        assert!(answers.iter().filter(|answer| *answer == "a!").count() >= 2, "{answers:?}");
        assert!(answers.iter().filter(|answer| *answer == "b!").count() >= 2, "{answers:?}");
    }

    #[tokio::test]
    async fn a_connection_waits_until_there_is_an_instance() {
        let mut front = Front::start().await;
        let a = front.instance("a").await;
        let routes = front.routes.clone();
        let (answer, ()) = tokio::join!(front.ask(), async {
            tokio::task::yield_now().await;
            routes.set(vec![a]);
        });
        assert_eq!(answer, "a!");
    }

    #[tokio::test]
    async fn an_open_connection_goes_on_and_is_waited_for() {
        let mut front = Front::start().await;
        let (a, b) = (front.instance("a").await, front.instance("b").await);
        front.routes.set(vec![a.clone()]);
        let mut open = TcpStream::connect((Ipv4Addr::LOCALHOST, front.port)).await.unwrap();
        open.write_all(b"x").await.unwrap();
        while front.routes.table().open.is_empty() {
            tokio::task::yield_now().await;
        }
        front.routes.set(vec![b]);
        assert_eq!(front.ask().await, "b!");
        assert!(timeout(ROUND, front.routes.drained(&a.0)).await.is_err());
        // A stop takes no new ones and leaves this one its time.
        front.stop.cancel();
        open.shutdown().await.unwrap();
        let mut answer = String::new();
        open.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "ax");
        front.routes.drained(&a.0).await;
    }
}
