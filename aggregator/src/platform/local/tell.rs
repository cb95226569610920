//! What is told of an environment as events: what its instances' supervisors report, and what users change.

use super::supervisor::Status;
use crate::environment::EnvironmentKey;
use crate::event::{Body, Event, Kind, Sender};
use jiff::Timestamp;
use skpr_proto::PodUid;
use std::time::Duration;
use tokio::sync::mpsc::error::{SendTimeoutError, TrySendError};

/// How long a full queue is waited for: the disk behind it is slow, and sites come first.
const WAIT: Duration = Duration::from_secs(1);

/// Tells of one environment.
#[derive(Debug)]
pub(super) struct Teller {
    environment: EnvironmentKey,
    events: Sender,
    /// Events that were dropped since one was taken.
    dropped: u64,
}

/// The instance that something happened to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Who<'a> {
    pub(super) uid: &'a PodUid,
    pub(super) name: &'a str,
    pub(super) release: u64,
}

impl Teller {
    pub(super) fn new(environment: EnvironmentKey, events: Sender) -> Teller {
        Teller { environment, events, dropped: 0 }
    }

    pub(super) async fn tell(&mut self, event: Event) {
        let event = match self.events.try_send(event) {
            Ok(()) | Err(TrySendError::Closed(_)) => return self.dropped = 0,
            Err(TrySendError::Full(event)) => event,
        };
        // Waited for once: a queue that stays full must not hold up every further step.
        let waited = if self.dropped == 0 { self.events.send_timeout(event, WAIT).await } else { Ok(()) };
        if self.dropped > 0 || matches!(waited, Err(SendTimeoutError::Timeout(_))) {
            self.dropped += 1;
            tracing::warn!(environment = %self.environment, dropped = self.dropped, "an event is not kept: the store is too slow");
        }
    }

    /// The same without waiting; whether there was place for it. Where nobody is left to keep it, it needs none.
    pub(super) fn offer(&self, event: Event) -> bool {
        !matches!(self.events.try_send(event), Err(TrySendError::Full(_)))
    }

    /// Events wait to be stored: what was told last may still be lost.
    pub(super) fn is_behind(&self) -> bool {
        self.events.capacity() < self.events.max_capacity()
    }

    /// Tells what happened between two reports of an instance.
    pub(super) async fn changes(&mut self, who: Who<'_>, before: &Status, after: &Status) {
        let now = Timestamp::now();
        for body in changes(who, before, after, now) {
            self.body(body, now).await;
        }
    }

    pub(super) async fn body(&mut self, body: Body, time: Timestamp) {
        self.tell(Event { environment: self.environment.clone(), time: time.into(), body }).await;
    }
}

fn changes(who: Who<'_>, before: &Status, after: &Status, now: Timestamp) -> Vec<Body> {
    let Who { uid, name, release } = who;
    let body = |id, kind, text| Body {
        instance: Some(name.to_owned()),
        release: Some(release),
        warning: true,
        ..Body::new(id, kind, text)
    };
    let mut bodies = Vec::new();
    let kills = after.out_of_memory_kills;
    if kills > before.out_of_memory_kills {
        let text = format!("instance `{name}` was killed because it used more memory than it may");
        bodies.push(body(format!("out-of-memory/{uid}/{kills}"), Kind::OutOfMemory, text));
    }
    if after.restarts > before.restarts {
        let how = after.end.as_ref().map_or_else(
            || "could not be started".to_owned(),
            |end| match end.exit_code {
                code @ 129..=192 => format!("was ended by signal {}", code - 128),
                code => format!("ended with exit code {code}"),
            },
        );
        let text = format!("instance `{name}` {how} and is started again");
        bodies.push(body(format!("restart/{uid}/{}", after.restarts), Kind::Restart, text));
    }
    if before.ready && !after.ready && after.started.is_some() && after.message.is_some() {
        let message = after.message.as_deref().unwrap_or_default();
        let minute = now.as_second() / 60;
        let text = format!("instance `{name}` is no longer ready: {message}");
        bodies.push(body(format!("probe/{uid}/{minute}"), Kind::Probe, text));
    }
    bodies
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::End;
    use crate::inventory::tests::key;
    use tokio::sync::mpsc;

    fn told(before: &Status, after: &Status) -> Vec<(String, String)> {
        let uid = PodUid::parse("u1").unwrap();
        let who = Who { uid: &uid, name: "a", release: 3 };
        let now = Timestamp::from_second(120).unwrap();
        changes(who, before, after, now).into_iter().map(|body| (body.id, body.text)).collect()
    }

    #[test]
    fn ends_kills_and_failed_checks_are_told_once() {
        let ready = Status { ready: true, started: Some(Timestamp::UNIX_EPOCH), ..Status::default() };
        assert!(told(&Status::default(), &ready).is_empty());
        let sick = Status { ready: false, message: Some("GET / answered 500".into()), ..ready.clone() };
        let text = "instance `a` is no longer ready: GET / answered 500".to_owned();
        assert_eq!(told(&ready, &sick), [("probe/u1/2".to_owned(), text)]);
        let end = End { at: None, exit_code: 137, reason: Some("OOMKilled".into()) };
        let killed = Status { out_of_memory_kills: 1, end: Some(end), ..Status::default() };
        assert_eq!(told(&ready, &killed)[0].0, "out-of-memory/u1/1");
        let again = Status { restarts: 1, ..killed.clone() };
        let text = "instance `a` was ended by signal 9 and is started again".to_owned();
        assert_eq!(told(&killed, &again), [("restart/u1/1".to_owned(), text)]);
        // One that was asked to end is not sick.
        assert!(told(&ready, &Status { ready: false, ..ready.clone() }).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_is_waited_for_once() {
        let (events, mut queue) = mpsc::channel(1);
        let mut teller = Teller::new(key("local", "shop", "dev"), events);
        let text = |text: &str| Body::new(text.into(), Kind::Trouble, text.into());
        let begun = tokio::time::Instant::now();
        for number in ["1", "2", "3", "4"] {
            teller.body(text(number), Timestamp::UNIX_EPOCH).await;
        }
        assert_eq!((begun.elapsed(), teller.dropped), (WAIT, 3));
        assert_eq!(queue.recv().await.unwrap().body.id, "1");
        assert!(!teller.is_behind());
        teller.body(text("5"), Timestamp::UNIX_EPOCH).await;
        let event = Event {
            environment: key("local", "shop", "dev"),
            time: Timestamp::UNIX_EPOCH.into(),
            body: text("6"),
        };
        assert!(teller.is_behind() && !teller.offer(event.clone()));
        assert_eq!((queue.recv().await.unwrap().body.id.as_str(), teller.dropped), ("5", 0));
        assert!(teller.offer(event.clone()));
        assert_eq!(queue.recv().await, Some(event.clone()));
        drop(queue);
        assert!(teller.offer(event));
    }
}
