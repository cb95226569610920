//! `Events`: what happened to one environment, read as its logs are. A disconnect cancels it.

use super::reading::{self, Asked, Opened, Told};
use crate::aggregator::Shared;
use crate::audit::Access;
use crate::event::{self, Body};
use crate::record::{Filter, Record};
use skpr_proto::Failure;
use skpr_proto::v1::{Event, EventsRequest, EventsResponse};
use std::sync::Arc;
use tonic::Request;

pub(super) async fn open(
    shared: &Arc<Shared>,
    request: Request<EventsRequest>,
    access: &mut Access,
) -> Result<Opened, Failure> {
    let (metadata, _, mut request) = request.into_parts();
    let asked = Asked {
        environment: request.environment.as_ref(),
        since: request.since.map(Into::into),
        until: request.until.map(Into::into),
        follow: request.follow,
        to_now: false,
        last: request.last,
        cursor: std::mem::take(&mut request.cursor),
    };
    let filter = || Ok(Filter { streams: vec![event::STREAM.to_owned()], ..Filter::default() });
    reading::open(shared, &metadata, asked, filter, access).await
}

pub(super) fn response(told: Told) -> EventsResponse {
    match told {
        Told::First { cursor, oldest_kept, namespace } => {
            EventsResponse { cursor, oldest_kept, namespace: Some(namespace), ..EventsResponse::default() }
        }
        Told::Records(chunk) => EventsResponse {
            events: chunk.records.into_iter().map(event).collect(),
            cursor: chunk.cursor.encode(),
            live: chunk.live,
            skipped: chunk.skipped,
            ..EventsResponse::default()
        },
    }
}

/// A record that is no event, such as one that says what was lost, is shown as its text.
fn event(record: Record) -> Event {
    let time = Some(record.time.into());
    match serde_json::from_slice::<Body>(&record.message) {
        Ok(body) => Event {
            time,
            kind: body.kind.name().to_owned(),
            text: body.text,
            instance: body.instance,
            release: body.release,
            by: body.by,
            sequence: record.sequence,
            warning: body.warning,
        },
        Err(_) => Event {
            time,
            kind: "unknown".to_owned(),
            text: String::from_utf8_lossy(&record.message).into_owned(),
            sequence: record.sequence,
            warning: true,
            ..Event::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::RecordKind;
    use bytes::Bytes;
    use skpr_proto::UnixNanos;

    fn read(message: &'static str) -> Event {
        event(Record {
            time: UnixNanos(5),
            sequence: 7,
            instance: "skpr".into(),
            stream: event::STREAM.into(),
            kind: RecordKind::Line,
            message: Bytes::from_static(message.as_bytes()),
        })
    }

    #[test]
    fn what_is_no_event_is_shown_as_its_text() {
        let known = read(r#"{"id":"restart/u/1","kind":"out-of-memory","text":"killed","instance":"a"}"#);
        assert_eq!(
            (known.kind.as_str(), known.text.as_str(), known.warning),
            ("out-of-memory", "killed", false)
        );
        assert_eq!((known.instance.as_deref(), known.sequence), (Some("a"), 7));
        for message in ["3 records were lost", r#"{"id":"x","kind":"from the future","text":"y"}"#, "{"] {
            let shown = read(message);
            assert_eq!((shown.kind.as_str(), shown.text.as_str(), shown.warning), ("unknown", message, true));
        }
    }
}
