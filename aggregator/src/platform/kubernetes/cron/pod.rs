//! What is read of the pod of a run beyond what is read of every pod. Pure.

use super::TASK_LABEL;
use crate::inventory::Detail;
use crate::platform::kubernetes::facts::short;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skpr_proto::Label;

/// What the pods of runs are called, so that no Service and no Deployment takes one for an instance.
pub(super) const COMPONENT: &str = "task";
const COMPONENT_LABEL: &str = "app.kubernetes.io/component";

/// The kubelet has nothing to say about how a container ended that it did not start.
const STATUS_UNKNOWN: &str = "ContainerStatusUnknown";

/// The task that a pod is a run of.
pub(in crate::platform::kubernetes) fn task_of(metadata: &ObjectMeta) -> Option<Label> {
    let labels = metadata.labels.as_ref()?;
    labels.get(COMPONENT_LABEL).filter(|component| *component == COMPONENT)?;
    Label::parse("task", labels.get(TASK_LABEL)?).ok()
}

/// How the pod of a run is: its container is started once, and `started` stays when it has ended.
pub(in crate::platform::kubernetes) fn detail_of_run(
    pod: &core::Pod,
    container: Option<&core::ContainerStatus>,
    mut detail: Detail,
) -> Detail {
    let state = container.and_then(|container| container.state.as_ref());
    if let Some(ended) = state.and_then(|state| state.terminated.as_ref()) {
        let started = ended.started_at.as_ref().map(|time| time.0);
        detail.started = started.filter(|started| *started > Timestamp::UNIX_EPOCH);
        let reason = ended.reason.as_deref().filter(|reason| *reason != STATUS_UNKNOWN);
        if let (None, Some(reason)) = (detail.started, reason) {
            detail.waiting = Some(short(reason));
            detail.message = ended.message.as_deref().map(short);
        }
    }
    if let Some((reason, message)) = ended_by(pod.status.as_ref()) {
        detail.waiting = Some(short(&reason));
        detail.message = message.as_deref().map(short);
    }
    detail
}

/// Why somebody ended the pod: it was evicted, its node was lost, or it was not let in.
fn ended_by(status: Option<&core::PodStatus>) -> Option<(String, Option<String>)> {
    let status = status?;
    if let Some(reason) = status.reason.clone().filter(|reason| !reason.is_empty()) {
        return Some((reason, status.message.clone()));
    }
    let mut conditions = status.conditions.iter().flatten();
    let disrupted = conditions.find(|it| it.type_ == "DisruptionTarget" && it.status == "True")?;
    Some((disrupted.reason.clone()?, disrupted.message.clone()))
}
