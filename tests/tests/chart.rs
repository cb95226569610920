//! What the chart makes, without a cluster: the promises about rights and reach hold for every way to configure it.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Each set of values that changes which objects are made.
const VARIANTS: [&[&str]; 4] = [
    &[],
    &["tls.mode=existingSecret", "tls.existingSecret=mine"],
    &["tls.mode=cert-manager", "tls.issuerRef.name=ca", "tls.names={logs.example.com}"],
    &[
        "persistence.enabled=false",
        "service.type=LoadBalancer",
        "agent.extraLogPaths={/var/lib/docker/containers}",
        "rbac.aggregateClusterRoles=false",
    ],
];

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("charts/skpr")
}

fn helm(action: &[&str], values: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/cluster");
    let mut command = Command::new(script);
    command.arg("helm").args(action).arg(chart()).args(["--namespace", "skpr"]);
    for value in values {
        command.args(["--set", value]);
    }
    command.output().unwrap()
}

fn objects(values: &[&str]) -> Vec<Value> {
    let output = helm(&["template", "skpr"], values);
    assert!(output.status.success(), "{values:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_saphyr::from_multiple(&String::from_utf8(output.stdout).unwrap()).unwrap()
}

/// The pod that an object makes, with its name.
fn pod(object: &Value) -> Option<(&str, &Value)> {
    let spec = match object["kind"].as_str()? {
        "Pod" => &object["spec"],
        "DaemonSet" | "Deployment" => &object["spec"]["template"]["spec"],
        _ => return None,
    };
    Some((object["metadata"]["name"].as_str()?, spec))
}

#[test]
#[ignore = "needs helm: make test-kubernetes"]
fn the_chart_is_clean() {
    for values in VARIANTS {
        let output = helm(&["lint", "--strict"], values);
        assert!(output.status.success(), "{values:?}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
#[ignore = "needs helm: make test-kubernetes"]
fn wrong_values_are_refused() {
    for wrong in [
        "imgae.tag=1",
        "tls.mode=none",
        "tls.mode=existingSecret",
        "agent.tokenSeconds=60",
        "retention.age=30",
    ] {
        assert!(!helm(&["template", "skpr"], &[wrong]).status.success(), "{wrong}");
    }
}

#[test]
#[ignore = "needs helm: make test-kubernetes"]
fn no_container_has_more_rights_than_it_needs() {
    for values in VARIANTS {
        let objects = objects(values);
        let pods: Vec<_> = objects.iter().filter_map(pod).collect();
        assert_eq!(
            pods.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
            ["skpr-agent", "skpr-aggregator", "skpr-test"]
        );
        for (name, spec) in pods {
            for key in ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"] {
                assert!(spec[key].is_null(), "{name}: {key}");
            }
            assert_eq!(
                spec["automountServiceAccountToken"],
                Value::Bool(name == "skpr-aggregator"),
                "{name}"
            );
            for container in spec["containers"].as_array().unwrap() {
                let context = &container["securityContext"];
                assert_eq!(context["capabilities"], serde_json::json!({"drop": ["ALL"]}), "{name}");
                assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
                assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
                assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault", "{name}");
                assert!(context["privileged"].is_null(), "{name}");
                assert!(!container["resources"]["limits"]["memory"].is_null(), "{name}");
            }
            assert!(name == "skpr-agent" || spec["securityContext"]["runAsNonRoot"] == true, "{name}");
        }
    }
}

#[test]
#[ignore = "needs helm: make test-kubernetes"]
fn the_agent_listens_on_nothing_and_may_do_nothing() {
    for values in VARIANTS {
        let objects = objects(values);
        let (_, agent) = objects.iter().filter_map(pod).find(|(name, _)| *name == "skpr-agent").unwrap();
        let container = &agent["containers"][0];
        assert!(container["ports"].is_null());
        assert!(!container["livenessProbe"]["exec"].is_null());
        // The only host path that it may write to is its own.
        for mount in container["volumeMounts"].as_array().unwrap() {
            assert!(mount["readOnly"] == true || mount["name"] == "state", "{mount}");
        }
        let volumes = agent["volumes"].as_array().unwrap();
        let secret = volumes.iter().find(|volume| volume["name"] == "ca").unwrap();
        assert_eq!(secret["secret"]["items"], serde_json::json!([{"key": "ca.crt", "path": "ca.crt"}]));
        for object in &objects {
            let subjects = object["subjects"].as_array().into_iter().flatten();
            assert!(subjects.into_iter().all(|subject| subject["name"] != "skpr-agent"), "{object}");
        }
        let policy = objects
            .iter()
            .find(|o| o["kind"] == "NetworkPolicy" && o["metadata"]["name"] == "skpr-agent")
            .unwrap();
        assert_eq!(policy["spec"]["ingress"], serde_json::json!([]));
    }
}
