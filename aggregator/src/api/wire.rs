//! From what the platform says to what the CLI is told. Pure.

use crate::environment::EnvironmentKey;
use crate::inventory::InstanceState;
use crate::release::Release;
use jiff::Timestamp;
use skpr_proto::{UnixNanos, v1};

pub(super) fn environment(key: &EnvironmentKey) -> v1::Environment {
    v1::Environment { namespace: Some(key.namespace.to_string()), ..(&key.name).into() }
}

pub(super) fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

pub(super) fn release(release: &Release) -> v1::Release {
    v1::Release {
        number: release.number,
        version: release.version.clone(),
        digest: release.digest.clone(),
        by: release.by.clone(),
        began: Some(instant(release.began)),
        ended: release.ended.map(instant),
        state: release.state.name().to_owned(),
        reason: release.reason.clone(),
        restores: release.restores,
        instance: release.instance.clone(),
        exit_code: release.exit_code,
    }
}

pub(super) fn instance(name: &str, state: &InstanceState) -> v1::Instance {
    let detail = &state.detail;
    v1::Instance {
        name: name.to_owned(),
        version: state.version.to_string(),
        ready: state.ready,
        node: state.node.as_ref().map(ToString::to_string).unwrap_or_default(),
        release: detail.release,
        created: detail.created.map(instant),
        restarts: detail.restarts,
        out_of_memory_kills: detail.out_of_memory_kills,
        leaving: detail.leaving,
        trouble: trouble(state),
        exit_code: detail.end.as_ref().map(|end| end.exit_code),
        usage: None,
    }
}

/// Why an instance is not ready, where the platform says so.
fn trouble(state: &InstanceState) -> Option<String> {
    match (state.detail.waiting.as_deref(), state.detail.message.as_deref()) {
        (Some(waiting), Some(message)) => Some(format!("{waiting}: {message}")),
        (Some(waiting), None) => Some(waiting.to_owned()),
        (None, Some(message)) if !state.ready => Some(message.to_owned()),
        (None, _) => None,
    }
}

pub(super) fn instant(time: Timestamp) -> v1::Instant {
    UnixNanos::from(time).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::Detail;

    #[test]
    fn a_failed_health_check_of_a_running_instance_is_its_trouble() {
        let trouble = |ready, waiting: Option<&str>, message: Option<&str>| {
            let detail = Detail {
                waiting: waiting.map(Into::into),
                message: message.map(Into::into),
                ..Detail::default()
            };
            trouble(&InstanceState { version: "v".into(), ready, node: None, detail })
        };
        let answered = Some("GET /healthz answered 500");
        assert_eq!(trouble(false, None, answered).as_deref(), answered);
        assert_eq!(trouble(true, None, answered), None);
        let waits = trouble(false, Some("ImagePullBackOff"), Some("not found"));
        assert_eq!(waits.as_deref(), Some("ImagePullBackOff: not found"));
        assert_eq!(trouble(false, None, None), None);
    }
}
