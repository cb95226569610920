//! Tells of a session as events of its environment: that it began, and how it ended.
//!
//! Never waits: an event that finds no place in the queue is lost and logged, and the audit has the session all the same.

use crate::environment::EnvironmentKey;
use crate::event::{Body, Event, Kind, Sender};
use jiff::Timestamp;
use skpr_proto::UnixNanos;
use skpr_proto::v1::Exit;
use std::time::Instant;

/// One session, as its environment's events name it.
pub(crate) struct Told {
    pub(crate) to: Sender,
    pub(crate) environment: EnvironmentKey,
    pub(crate) instance: String,
    pub(crate) by: String,
    /// Unlike any other's.
    pub(crate) session: String,
}

/// A session that has begun. Dropped, it has ended.
pub(super) struct Begun {
    told: Told,
    since: Instant,
    how: String,
}

impl Begun {
    pub(super) fn begin(told: Told) -> Begun {
        told.tell("began", format!("a session in instance `{}` began", told.instance));
        Begun { told, since: Instant::now(), how: "the connection broke".to_owned() }
    }

    /// It came to its end, and the last process in it to that.
    pub(super) fn end(&mut self, exit: Option<Exit>) {
        self.how = match exit {
            Some(Exit { signal: 0, code, .. }) => format!("exit code {code}"),
            Some(Exit { signal, .. }) => format!("signal {signal}"),
            None => "nothing was run".to_owned(),
        };
    }

    /// It did not come to its end, and why.
    pub(super) fn broke(&mut self, how: String) {
        self.how = how;
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let Begun { told, since, how } = self;
        let seconds = since.elapsed().as_secs();
        told.tell(
            "ended",
            format!("the session in instance `{}` ended after {seconds} s: {how}", told.instance),
        );
    }
}

impl Told {
    fn tell(&self, step: &str, text: String) {
        let body = Body {
            instance: Some(self.instance.clone()),
            by: Some(self.by.clone()),
            ..Body::new(format!("session/{}/{step}", self.session), Kind::Session, text)
        };
        let time = UnixNanos::from(Timestamp::now());
        let event = Event { environment: self.environment.clone(), time, body };
        if self.to.try_send(event).is_err() {
            tracing::warn!(session = %self.session, step, "an event of a session has no place in the queue");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::tests::key;
    use tokio::sync::mpsc;

    #[test]
    fn a_session_is_told_of_twice_and_holds_nobody_up() {
        for (exit, whole, expected) in [
            (Some(Exit { code: 3, ..Exit::default() }), true, "exit code 3"),
            (Some(Exit { signal: 9, ..Exit::default() }), true, "signal 9"),
            (None, true, "nothing was run"),
            (None, false, "its client has gone"),
        ] {
            let (to, mut events) = mpsc::channel(2);
            let told = || Told {
                to: to.clone(),
                environment: key("sites", "shop", "dev"),
                instance: "shop-1".into(),
                by: "dana".into(),
                session: "5e".into(),
            };
            let mut begun = Begun::begin(told());
            match whole {
                true => begun.end(exit),
                false => begun.broke("its client has gone".into()),
            }
            drop(begun);
            let (first, last) = (events.try_recv().unwrap().body, events.try_recv().unwrap().body);
            assert_eq!((first.id.as_str(), last.id.as_str()), ("session/5e/began", "session/5e/ended"));
            assert_eq!(first.text, "a session in instance `shop-1` began");
            assert_eq!(last.text, format!("the session in instance `shop-1` ended after 0 s: {expected}"));
            assert_eq!((last.by.as_deref(), last.warning), (Some("dana"), false));
            // A queue that is full, or gone, is nobody's concern.
            (0..4).for_each(|_| drop(Begun::begin(told())));
            drop(events);
            drop(Begun::begin(told()));
        }
    }
}
