//! The public ports of one environment. While a release changes the port, the old and the new one are both served.

use super::forward::{Routes, serve};
use super::words;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often a port that is taken is tried again, and for how long before that counts as trouble: a program that was
/// restarted may need a moment to let go of it.
const AGAIN: Duration = Duration::from_secs(1);
const TAKEN_FOR: Duration = Duration::from_secs(5);

/// Dropping it closes the ports and every connection to them.
#[derive(Debug, Default)]
pub(super) struct Front {
    open: BTreeMap<u16, CancellationToken>,
    taken: BTreeMap<u16, Taken>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Taken {
    since: Instant,
    tried: Instant,
    why: String,
}

impl Front {
    /// Serves these ports and no others. Connections to a port that is given up go on to their ends.
    pub(super) async fn serve(&mut self, ports: &BTreeSet<u16>, routes: &Routes) {
        self.taken.retain(|port, _| ports.contains(port));
        self.open.retain(|port, stop| {
            let stays = ports.contains(port);
            if !stays {
                stop.cancel();
            }
            stays
        });
        let now = Instant::now();
        for port in ports {
            let waits = self.taken.get(port).is_some_and(|taken| now - taken.tried < AGAIN);
            if waits || self.open.contains_key(port) {
                continue;
            }
            match TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).await {
                Ok(listener) => {
                    let stop = CancellationToken::new();
                    self.tasks.spawn(serve(listener, routes.clone(), stop.clone()));
                    self.open.insert(*port, stop);
                    self.taken.remove(port);
                }
                Err(error) => {
                    let since = self.taken.get(port).map_or(now, |taken| taken.since);
                    self.taken.insert(*port, Taken { since, tried: now, why: words::why(&error) });
                }
            }
        }
    }

    /// Never returns: what serves a port ends when it is asked to, or takes us with it. Cancel-safe.
    pub(super) async fn ended(&mut self) {
        super::watch_over(&mut self.tasks).await;
    }

    /// Why a port is not served.
    pub(super) fn trouble(&self) -> Option<String> {
        self.taken
            .iter()
            .find(|(_, taken)| taken.since.elapsed() >= TAKEN_FOR)
            .map(|(port, taken)| format!("port `{port}` cannot be listened on: {}", taken.why))
    }

    /// The port that is not served yet.
    pub(super) fn waits_for(&self) -> Option<String> {
        let (port, taken) = self.taken.first_key_value()?;
        Some(format!("port `{port}` cannot be listened on yet: {}", taken.why))
    }

    /// Whether a port is to be tried again.
    pub(super) fn is_waiting(&self) -> bool {
        !self.taken.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[should_panic(expected = "on purpose")]
    async fn what_ends_abnormally_takes_its_environment_with_it() {
        let mut front = Front::default();
        front.tasks.spawn(async {});
        front.tasks.spawn(async { panic!("on purpose") });
        front.ended().await;
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_trouble_after_a_while_and_served_once_it_is_free() {
        let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = holder.local_addr().unwrap().port();
        let (mut front, routes) = (Front::default(), Routes::default());
        let ports = BTreeSet::from([port]);
        front.serve(&ports, &routes).await;
        assert_eq!((front.trouble(), front.is_waiting()), (None, true));
        let sentence = format!("port `{port}` cannot be listened on yet: another program listens there");
        assert_eq!(front.waits_for(), Some(sentence));
        tokio::time::pause();
        tokio::time::advance(TAKEN_FOR).await;
        let sentence = format!("port `{port}` cannot be listened on: another program listens there");
        assert_eq!(front.trouble(), Some(sentence));
        drop(holder);
        front.serve(&ports, &routes).await;
        assert_eq!((front.trouble(), front.is_waiting()), (None, false));
        front.serve(&BTreeSet::new(), &routes).await;
        assert!(front.open.is_empty());
    }
}
