//! The container that a session is for, and whether there may be one.
//!
//! * Nothing of containerd's is entered that is not [`Found`], and nothing is found that may not be entered.
//! * What decides is what the kubelet has written on the node. What the aggregator says only names a pod.
//! * A label that is missing forbids.

use super::super::StartError;
use super::api::Api;
use super::api::containers::Container;
use serde_json::Value;
use skpr_proto::{Label, PodUid};
use std::collections::{BTreeSet, HashMap};

/// Labels by which the kubelet names what it runs. It sets them after those of the pod and of the image, so that neither
/// can say something else.
pub(super) const POD_UID: &str = "io.kubernetes.pod.uid";
const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// What containerd runs a container as: one of a pod's, or what holds the pod's namespaces and carries its labels.
const KIND: &str = "io.cri-containerd.kind";
const SANDBOX: &str = "sandbox";
const CONTAINER: &str = "container";
/// The annotation of a container that names its pod's sandbox.
const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";
/// Labels of a pod that is an environment's.
const ENVIRONMENT: [&str; 2] = ["skpr.io/project", "skpr.io/environment"];

/// A container that runs and may be entered.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) pod: PodUid,
    pub(super) id: String,
    /// The number of its first process.
    pub(super) pid: u32,
    /// How that process was started: `process` of the OCI specification.
    pub(super) process: Value,
}

/// Finds the one that runs.
pub(super) async fn find(
    api: &Api,
    pod: &PodUid,
    name: &Label,
    denied: &BTreeSet<Label>,
) -> Result<Found, StartError> {
    let containers = api.containers_of(pod).await?;
    for (id, process) in permitted(&containers, pod, name, denied)? {
        if let Some(pid) = api.runs(&id).await? {
            return Ok(Found { pod: pod.clone(), id, pid, process });
        }
    }
    Err(StartError::Gone)
}

/// Those of this name, of which one may run: the kubelet keeps some that have ended.
fn permitted(
    containers: &[Container],
    pod: &PodUid,
    name: &Label,
    denied: &BTreeSet<Label>,
) -> Result<Vec<(String, Value)>, StartError> {
    let mut permitted = vec![];
    for container in containers {
        let label = |key: &str| label(&container.labels, key);
        if label(KIND) != CONTAINER
            || label(POD_UID) != pod.as_str()
            || label(CONTAINER_NAME) != name.as_str()
        {
            continue;
        }
        let namespace = label(POD_NAMESPACE);
        match Label::parse("namespace", namespace) {
            Ok(namespace) if !denied.contains(&namespace) => {}
            Ok(namespace) => return Err(StartError::Denied(namespace)),
            Err(_) => return Err(StartError::NotAnInstance),
        }
        let spec = container.spec.as_ref().map(|spec| serde_json::from_slice::<Value>(&spec.value));
        let Some(Ok(mut spec)) = spec else {
            return Err(unreadable());
        };
        let sandbox =
            spec.pointer("/annotations").and_then(|all| all.get(SANDBOX_ID)).and_then(Value::as_str);
        let sandbox = sandbox.and_then(|id| {
            let is_it = |other: &&Container| other.id == id && self::label(&other.labels, KIND) == SANDBOX;
            containers.iter().find(is_it)
        });
        let marked = sandbox.is_some_and(|sandbox| {
            let own = self::label(&sandbox.labels, POD_NAMESPACE) == namespace;
            own && ENVIRONMENT.iter().all(|key| !self::label(&sandbox.labels, key).is_empty())
        });
        if !marked {
            return Err(StartError::NotAnInstance);
        }
        let process = spec.get_mut("process").map(Value::take).filter(Value::is_object);
        permitted.push((container.id.clone(), process.ok_or_else(unreadable)?));
    }
    Ok(permitted)
}

fn label<'a>(labels: &'a HashMap<String, String>, key: &str) -> &'a str {
    labels.get(key).map(String::as_str).unwrap_or_default()
}

fn unreadable() -> StartError {
    StartError::Failed(std::io::Error::other("the container's specification cannot be read"))
}

#[cfg(test)]
mod tests {
    use super::super::fake;
    use super::*;

    fn decide(containers: &[Container]) -> Result<Vec<String>, StartError> {
        let label = |text| Label::parse("label", text).unwrap();
        let denied = BTreeSet::from([label("kube-system"), label("skpr")]);
        let pod = PodUid::parse("u1").unwrap();
        let permitted = permitted(containers, &pod, &label("php"), &denied)?;
        Ok(permitted.into_iter().map(|(id, _)| id).collect())
    }

    #[test]
    fn the_container_of_the_name_is_found_and_no_other() {
        let containers = fake::pod("sites", "u1", &["php", "sidecar"]);
        assert_eq!(decide(&containers).unwrap(), ["u1-php"]);
        assert!(decide(&fake::pod("sites", "u1", &["nginx"])).unwrap().is_empty());
        // What a filter let through is looked at all the same.
        assert!(decide(&fake::pod("sites", "u2", &["php"])).unwrap().is_empty());
        assert!(decide(&[]).unwrap().is_empty());
    }

    #[test]
    fn no_namespace_of_the_system_is_entered() {
        for namespace in ["kube-system", "skpr"] {
            let denied = decide(&fake::pod(namespace, "u1", &["php"]));
            assert!(matches!(denied, Err(StartError::Denied(named)) if named.as_str() == namespace));
        }
    }

    #[test]
    fn only_a_pod_whose_sandbox_is_labelled_is_an_instance() {
        type Change = fn(&mut Vec<Container>);
        let changes: [Change; 8] = [
            |pod| drop(pod[0].labels.remove("skpr.io/environment")),
            |pod| drop(pod[0].labels.remove("skpr.io/project")),
            |pod| drop(pod[0].labels.insert("skpr.io/project".into(), String::new())),
            |pod| drop(pod[0].labels.insert(POD_NAMESPACE.into(), "elsewhere".into())),
            |pod| drop(pod[0].labels.insert(KIND.into(), CONTAINER.into())),
            |pod| pod[0].id = "another".into(),
            |pod| drop(pod.remove(0)),
            |pod| drop(pod[1].labels.remove(POD_NAMESPACE)),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut pod = fake::pod("sites", "u1", &["php"]);
            change(&mut pod);
            assert!(matches!(decide(&pod), Err(StartError::NotAnInstance)), "{number}");
        }
        // A label of the container itself, which its image can set, says nothing.
        let mut pod = fake::pod("sites", "u1", &["php"]);
        for key in ENVIRONMENT {
            pod[0].labels.remove(key);
            pod[1].labels.insert(key.into(), "x".into());
        }
        assert!(matches!(decide(&pod), Err(StartError::NotAnInstance)));
    }
}
