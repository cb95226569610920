//! Failed health checks, which Kubernetes tells of by events on the pods. Pure.

use super::facts::short;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use std::sync::Arc;

/// A pod's failed health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    pub(super) uid: String,
    pub(super) at: Timestamp,
    pub(super) message: String,
}

/// What the kubelet calls it.
pub(super) const REASON: &str = "Unhealthy";

/// What an event says, if it is about a pod's health.
pub(super) fn failed_of(event: &core::Event) -> Option<Failed> {
    let object = &event.involved_object;
    if event.reason.as_deref() != Some(REASON) || object.kind.as_deref() != Some("Pod") {
        return None;
    }
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref());
    let at = series
        .map(|time| time.0)
        .or(event.last_timestamp.as_ref().map(|time| time.0))
        .or(event.event_time.as_ref().map(|time| time.0))
        .or(event.metadata.creation_timestamp.as_ref().map(|time| time.0))?;
    Some(Failed { uid: object.uid.clone()?, at, message: event.message.clone().unwrap_or_default() })
}

/// What people read of the kubelet's message, which names addresses and libraries.
pub(super) fn wording(message: &str, path: Option<&str>) -> Arc<str> {
    // Without a path it is only asked whether anything listens.
    let asked = path.map_or_else(String::new, |path| format!("GET {path}: "));
    if let (Some(path), Some((_, code))) = (path, message.rsplit_once("statuscode: ")) {
        let digits: String = code.chars().take_while(char::is_ascii_digit).collect();
        return format!("GET {path} answered {digits}").into();
    }
    if message.contains("connection refused") {
        return format!("{asked}nothing listens on the port").into();
    }
    if ["deadline exceeded", "Client.Timeout", "i/o timeout"].iter().any(|word| message.contains(word)) {
        return format!("{asked}no answer in time").into();
    }
    short(message.split_once("probe failed: ").map_or(message, |(_, cause)| cause))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_kubelets_messages_become_sentences() {
        for (message, expected) in [
            ("Readiness probe failed: HTTP probe failed with statuscode: 500", "GET /healthz answered 500"),
            (
                "Readiness probe failed: Get \"http://10.0.0.1:8080/healthz\": dial tcp 10.0.0.1:8080: connect: connection refused",
                "GET /healthz: nothing listens on the port",
            ),
            (
                "Readiness probe failed: Get \"http://10.0.0.1:8080/healthz\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
                "GET /healthz: no answer in time",
            ),
            ("Liveness probe failed: cat: \u{1b}no", "cat:  no"),
        ] {
            assert_eq!(&*wording(message, Some("/healthz")), expected);
        }
        let refused = "Readiness probe failed: dial tcp 10.0.0.1:8080: connect: connection refused";
        assert_eq!(&*wording(refused, None), "nothing listens on the port");
    }

    #[test]
    fn only_events_about_a_pods_health_count() {
        let event = |reason: &str, kind: &str| {
            let event = json!({"metadata": {}, "reason": reason, "message": "m", "lastTimestamp": "2026-11-24T00:00:00Z",
                "involvedObject": {"kind": kind, "uid": "u1"}});
            failed_of(&serde_json::from_value(event).unwrap())
        };
        let failed = event("Unhealthy", "Pod").unwrap();
        assert_eq!((failed.uid.as_str(), failed.at.as_second()), ("u1", 1_795_478_400));
        assert_eq!((event("Killing", "Pod"), event("Unhealthy", "Node")), (None, None));
    }
}
