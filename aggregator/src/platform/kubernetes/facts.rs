//! From a Kubernetes pod to the facts that are kept of it. Pure.

use super::cron::{detail_of_run, task_of};
use super::{ENVIRONMENT_LABEL, PRODUCTION_LABEL, PROJECT_LABEL, RELEASE_LABEL};
use crate::environment::EnvironmentKey;
use crate::inventory::{Container, Containers, Detail, End, Labels, Pod, Presence};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skpr_proto::{EnvironmentName, InvalidId, Label, NodeName, PodUid};
use std::sync::Arc;

/// The annotation by which kubectl, too, chooses a pod's main container.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// On the API's picture of a static pod: the hash that the kubelet uses as the pod's UID.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// As much of a digest as tells images apart.
const DIGEST_DIGITS: usize = 12;
/// The longest labels that are kept of a pod; usually it is some 300 bytes.
const LABELS_BYTES: usize = 8 << 10;
/// What is kept of what Kubernetes says: enough for a sentence, and no more than a terminal's few lines.
const MESSAGE_CHARACTERS: usize = 300;

/// Why a pod is left out.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum Unusable {
    #[error("the label `{0}` is missing")]
    NoLabel(&'static str),
    #[error(transparent)]
    Invalid(#[from] InvalidId),
    #[error("it has no container")]
    NoContainer,
}

/// The UID that the node's directories name, which the pod's own metadata has to give. `node` is where it runs; none
/// when that cannot be read.
pub(super) fn uid_of(metadata: &ObjectMeta, node: Option<&str>) -> Result<PodUid, InvalidId> {
    let annotation = metadata.annotations.as_ref().and_then(|annotations| annotations.get(MIRROR));
    // Anybody may write this annotation on a pod, and with it take the place of a static pod. What the kubelet makes
    // belongs to its node's object, and is deleted at once if that does not exist.
    let owned = node.is_some_and(|node| {
        let mut owners = metadata.owner_references.iter().flatten();
        owners.any(|owner| owner.api_version == "v1" && owner.kind == "Node" && owner.name == node)
    });
    // A hash has no hyphens and so never names someone else's real pod.
    let hash = annotation
        .filter(|hash| owned && hash.len() == 32 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()));
    PodUid::parse(hash.or(metadata.uid.as_ref()).map_or("", String::as_str))
}

/// The pod's facts.
pub(super) fn facts_of(pod: &core::Pod) -> Result<Pod, Unusable> {
    let metadata = &pod.metadata;
    let spec = pod.spec.as_ref().ok_or(Unusable::NoContainer)?;
    let status = pod.status.as_ref();
    let environment = EnvironmentKey {
        namespace: Label::parse("namespace", metadata.namespace.as_deref().unwrap_or_default())?,
        name: EnvironmentName {
            project: label(metadata, PROJECT_LABEL)?,
            environment: label(metadata, ENVIRONMENT_LABEL)?,
        },
    };
    let named = metadata.annotations.as_ref().and_then(|annotations| annotations.get(DEFAULT_CONTAINER));
    let main = spec
        .containers
        .iter()
        .find(|container| named == Some(&container.name))
        .or(spec.containers.first())
        .ok_or(Unusable::NoContainer)?;
    let ready = status
        .and_then(|status| status.conditions.as_ref())
        .is_some_and(|conditions| conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
    let phase = status.and_then(|status| status.phase.as_deref());
    let production = metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(PRODUCTION_LABEL))
        .is_some_and(|value| value == "true");
    let container = status.and_then(|status| {
        status.container_statuses.iter().flatten().find(|status| status.name == main.name)
    });
    let task = task_of(metadata);
    let detail = detail_of(pod, container);
    let detail = if task.is_some() { detail_of_run(pod, container, detail) } else { detail };
    Ok(Pod {
        environment,
        node: spec.node_name.as_deref().filter(|name| !name.is_empty()).map(NodeName::parse).transpose()?,
        instance: metadata.name.as_deref().unwrap_or_default().into(),
        main_container: Label::parse("container", &main.name)?,
        task,
        labels: Arc::new(labels_of(metadata)),
        containers: containers_of(pod),
        version: version_of(main.image.as_deref().unwrap_or_default()),
        ready,
        production,
        presence: if matches!(phase, Some("Succeeded" | "Failed")) {
            Presence::Finished
        } else {
            Presence::Present
        },
        detail,
    })
}

/// None when there are too many to be kept: some of them would select it where all do not.
fn labels_of(metadata: &ObjectMeta) -> Labels {
    let labels = metadata.labels.iter().flatten();
    let bytes: usize = labels.map(|(name, value)| name.len() + value.len()).sum();
    metadata.labels.clone().filter(|_| bytes <= LABELS_BYTES).unwrap_or_default()
}

/// The pod's containers, by the id that the node's runtime has for each.
fn containers_of(pod: &core::Pod) -> Containers {
    let of = |status: &core::ContainerStatus| {
        // `containerd://64 hexadecimal digits`.
        let (_, id) = status.container_id.as_deref()?.split_once("://")?;
        let id = Some(id).filter(|id| (1..=MESSAGE_CHARACTERS).contains(&id.len()))?;
        let name = Label::parse("container", &status.name).ok()?;
        let running = status.state.as_ref().is_some_and(|state| state.running.is_some());
        Some((id.into(), Container { name, running }))
    };
    let statuses = |status: &core::PodStatus| {
        let all = [&status.container_statuses, &status.init_container_statuses];
        all.into_iter().flatten().flatten().filter_map(of).collect()
    };
    pod.status.as_ref().map(statuses).unwrap_or_default()
}

/// How the pod's main container is.
fn detail_of(pod: &core::Pod, container: Option<&core::ContainerStatus>) -> Detail {
    let metadata = &pod.metadata;
    let label = |name| metadata.labels.as_ref().and_then(|labels| labels.get(name));
    let mut detail = Detail {
        release: label(RELEASE_LABEL).and_then(|number| number.parse().ok()),
        created: metadata.creation_timestamp.as_ref().map(|time| time.0),
        leaving: metadata.deletion_timestamp.is_some(),
        ..Detail::default()
    };
    let Some(container) = container else {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let mut refused = conditions.filter(|c| c.type_ == "PodScheduled" && c.status == "False");
        if let Some(refused) = refused.next() {
            detail.waiting = refused.reason.as_deref().map(short);
            detail.message = refused.message.as_deref().map(short);
        }
        return detail;
    };
    let state = container.state.as_ref();
    let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let ended = state.and_then(|state| state.terminated.as_ref());
    detail.started = state.and_then(|state| state.running.as_ref()?.started_at.as_ref()).map(|time| time.0);
    detail.restarts = u32::try_from(container.restart_count).unwrap_or(0);
    if let Some(waiting) = state.and_then(|state| state.waiting.as_ref()) {
        detail.waiting = waiting.reason.as_deref().map(short);
        let pulls = waiting.reason.as_deref().is_some_and(|reason| reason.contains("Pull"));
        let cause = |message: &str| match message.rsplit_once(": ") {
            // `Back-off pulling image "x": ErrImagePull: rpc error: …: not found`: the end says why.
            Some((_, cause)) if pulls => short(cause),
            _ => short(message),
        };
        detail.message = waiting.message.as_deref().map(cause);
    }
    detail.end = ended.or(last).map(|end| End {
        at: end.finished_at.as_ref().map(|time| time.0),
        exit_code: end.exit_code,
        reason: end.reason.as_deref().map(short),
    });
    let out_of_memory = detail.end.as_ref().and_then(|end| end.reason.as_deref()) == Some("OOMKilled");
    detail.out_of_memory_kills = u32::from(out_of_memory);
    // `registry/name@sha256:…`, or the digest alone.
    let digest = container.image_id.rsplit('@').next().filter(|digest| digest.contains(':'));
    detail.digest = digest.map(short);
    detail
}

/// How often the main container has ended: what tells one end from the next.
pub(super) fn ends_of(pod: &core::Pod, main: &str) -> u32 {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let container = statuses.into_iter().find(|status| status.name == main);
    container.map_or(0, |container| {
        let ended = container.state.as_ref().is_some_and(|state| state.terminated.is_some());
        u32::try_from(container.restart_count).unwrap_or(0) + u32::from(ended)
    })
}

/// The path that the main container's health is asked at.
pub(super) fn health_path(pod: &core::Pod, main: &str) -> Option<Arc<str>> {
    let containers = &pod.spec.as_ref()?.containers;
    let container = containers.iter().find(|container| container.name == main)?;
    container.readiness_probe.as_ref()?.http_get.as_ref()?.path.as_deref().map(short)
}

/// A text from the cluster as it may be shown: bounded, and with nothing that moves a cursor.
pub(super) fn short(text: &str) -> Arc<str> {
    let clean = text.chars().take(MESSAGE_CHARACTERS).map(|c| if c.is_control() { ' ' } else { c });
    clean.collect::<String>().trim().into()
}

fn label(metadata: &ObjectMeta, name: &'static str) -> Result<Label, Unusable> {
    let value =
        metadata.labels.as_ref().and_then(|labels| labels.get(name)).ok_or(Unusable::NoLabel(name))?;
    Ok(Label::parse(name, value)?)
}

/// An image's tag; with only a digest, as much of it as tells images apart.
fn version_of(image: &str) -> Arc<str> {
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let last = name.rsplit('/').next().unwrap_or(name);
    match (last.split_once(':'), digest) {
        (Some((_, tag)), _) if !tag.is_empty() => tag.into(),
        (_, Some(digest)) => {
            let (algorithm, hex) = digest.split_once(':').unwrap_or(("sha256", digest));
            let short: String = hex.chars().take(DIGEST_DIGITS).collect();
            format!("{algorithm}:{short}").into()
        }
        (_, None) => "latest".into(),
    }
}

#[cfg(test)]
mod tests;
