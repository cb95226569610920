//! What the chart makes, without a cluster: the promises about rights and reach hold for every way to configure it.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Each set of values that changes which objects are made.
const VARIANTS: [&[&str]; 12] = [
    &["sessions.enabled=false"],
    &["sessions.enabled=false", "sessions.podsExec=true"],
    &["sessions.denyNamespaces={secrets}", "sessions.containerdSocket=/run/k3s/containerd/containerd.sock"],
    RECORDED,
    &["sessions.enabled=false", "sessions.record=true"],
    &["metricsApi.enabled=false", "networkPolicy.metricsFrom[0].podSelector.matchLabels.app=prometheus"],
    &[],
    &["tls.mode=existingSecret", "tls.existingSecret=mine"],
    &["tls.mode=cert-manager", "tls.issuerRef.name=ca", "tls.names={logs.example.com}"],
    &[
        "persistence.enabled=false",
        "service.type=LoadBalancer",
        "agent.extraLogPaths={/var/lib/docker/containers}",
        "rbac.aggregateClusterRoles=false",
    ],
    &[
        "crds.enabled=false",
        "environments.createNamespaces=false",
        "environments.ingress.className=nginx",
        "environments.ingress.tls=true",
        "environments.volumes.storageClass=fast",
    ],
    MONITORED,
];
const RECORDED: &[&str] =
    &["sessions.record=true", "sessions.recordings.path=/srv/casts", "sessions.recordings.maxBytes=64Mi"];
const MONITORED: &[&str] = &[
    "monitoring.serviceMonitor.enabled=true",
    "monitoring.serviceMonitor.tokenSecret.name=token",
    "monitoring.prometheusRule.enabled=true",
    "monitoring.prometheusRule.labels.release=stack",
    "monitoring.dashboard.enabled=true",
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

/// What it takes to go into a container, and to be in there what the container is.
const ENTERING: [&str; 9] = [
    "SYS_PTRACE",
    "SYS_ADMIN",
    "SYS_CHROOT",
    "SETUID",
    "SETGID",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
];

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
        "environments.namespace=Sites",
        "environments.volumes.accessMode=Some",
        "crds.keep=maybe",
        "monitoring.serviceMonitor.enabled=true",
        "monitoring.serviceMonitor.interval=fast",
        "monitoring.dashboard.enabled=perhaps",
        "metricsApi.enabled=maybe",
        "sessions.enabled=maybe",
        "sessions.podsExec=maybe",
        "sessions.denyNamespaces={Secrets}",
        "sessions.containerdSocket=containerd.sock",
        "sessions.record=maybe",
        "sessions.recordings.path=casts",
        "sessions.recordings.maxBytes=100",
        "sessions.recordings.days=7",
    ] {
        assert!(!helm(&["template", "skpr"], &[wrong]).status.success(), "{wrong}");
    }
    let both = helm(&["template", "skpr"], &["sessions.podsExec=true", "sessions.record=true"]);
    assert!(!both.status.success(), "a session that nobody records");
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
                let (kept, escalation) = match container["name"].as_str().unwrap() {
                    // Kubernetes takes no `false` beside SYS_ADMIN; the program says it itself.
                    "sessions" => (serde_json::json!({"drop": ["ALL"], "add": ENTERING}), Value::Null),
                    _ => (serde_json::json!({"drop": ["ALL"]}), Value::Bool(false)),
                };
                assert_eq!(context["capabilities"], kept, "{name}");
                assert_eq!(context["allowPrivilegeEscalation"], escalation, "{name}");
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
        assert_eq!(container["name"], "agent");
        // The only host path that it may write to is its own; the other folder is the pod's.
        for mount in container["volumeMounts"].as_array().unwrap() {
            let own = mount["name"] == "state" || mount["name"] == "sessions";
            assert!(mount["readOnly"] == true || own, "{mount}");
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

#[test]
#[ignore = "needs helm: make test-kubernetes"]
fn what_starts_processes_is_apart_from_what_is_on_the_network() {
    for values in VARIANTS {
        let objects = objects(values);
        let (_, pod) = objects.iter().filter_map(pod).find(|(name, _)| *name == "skpr-agent").unwrap();
        let containers = pod["containers"].as_array().unwrap();
        let mounts = |container: &Value| -> Vec<String> {
            let mounts = container["volumeMounts"].as_array().unwrap().iter();
            mounts.map(|mount| mount["name"].as_str().unwrap().to_owned()).collect()
        };
        let volumes = pod["volumes"].as_array().unwrap();
        let path =
            |name: &str| volumes.iter().find(|it| it["name"] == name).map(|it| &it["hostPath"]["path"]);
        let agent = mounts(&containers[0]);
        let theirs = ["containerd", "pipes", "proc", "unread", "recordings"];
        assert!(theirs.iter().all(|name| !agent.contains(&(*name).to_owned())), "{agent:?}");
        if values.contains(&"sessions.enabled=false") {
            assert!(containers.len() == 1 && theirs.iter().all(|name| path(name).is_none()));
            assert!(!containers[0].to_string().contains("sessions"));
            continue;
        }
        let sessions = &containers[1];
        let recorded = values == RECORDED;
        let expected = if recorded { &theirs[..] } else { &theirs[..4] };
        assert_eq!(mounts(sessions), [&["sessions"], expected].concat());
        // What people were shown is on the node's disk only where that was asked for.
        assert_eq!(path("recordings"), recorded.then(|| "/srv/casts".into()).as_ref());
        let asks = |flag: &str| sessions["args"].as_array().unwrap().iter().any(|it| it == flag);
        assert_eq!(asks("--record=/var/lib/skpr-recordings"), recorded);
        assert_eq!(asks("--record-bytes=64Mi"), recorded);
        // None of what the agent is known to the aggregator by, and the pipes by the path that the node has.
        let pipes = &sessions["volumeMounts"].as_array().unwrap()[2];
        assert_eq!((&pipes["name"], Some(&pipes["mountPath"])), (&"pipes".into(), path("pipes")));
        let arguments = sessions["args"].as_array().unwrap();
        let denied: Vec<&str> =
            arguments.iter().filter_map(|it| it.as_str()?.strip_prefix("--deny-namespace=")).collect();
        let expected: &[&str] = match values.first() {
            Some(first) if first.contains("secrets") => &["secrets", "skpr"],
            _ => &["kube-system", "kube-public", "kube-node-lease", "skpr"],
        };
        assert_eq!(denied, expected);
    }
    let k3s = &objects(&["sessions.containerdSocket=/run/k3s/containerd/containerd.sock"]);
    let (_, pod) = k3s.iter().filter_map(pod).find(|(name, _)| *name == "skpr-agent").unwrap();
    let socket = pod["volumes"].as_array().unwrap().iter().find(|it| it["name"] == "containerd").unwrap();
    let expected = serde_json::json!({"path": "/run/k3s/containerd/containerd.sock", "type": "Socket"});
    assert_eq!(socket["hostPath"], expected);
}

#[test]
#[ignore = "needs helm: make test-kubernetes"]
fn the_aggregator_enters_pods_only_when_that_is_asked_for() {
    let arguments = |values: &[&str]| -> Vec<String> {
        let objects = objects(values);
        let (_, pod) = objects.iter().filter_map(pod).find(|(name, _)| *name == "skpr-aggregator").unwrap();
        let all = pod["containers"][0]["args"].as_array().unwrap().iter();
        let all = all.map(|argument| argument.as_str().unwrap().to_owned());
        all.filter(|it| it == "--pods-exec" || it.starts_with("--deny-namespace")).collect()
    };
    for values in [&[][..], &["sessions.enabled=false"], &["sessions.podsExec=false"]] {
        assert!(arguments(values).is_empty(), "{values:?}");
    }
    // What is denied to an agent is denied to the aggregator.
    let asked = arguments(&["sessions.podsExec=true", "sessions.denyNamespaces={secrets}"]);
    assert_eq!(asked, ["--pods-exec", "--deny-namespace=secrets", "--deny-namespace=skpr"]);
}

#[test]
#[ignore = "needs helm: make test-kubernetes"]
fn an_uninstall_leaves_environments_unless_asked_otherwise() {
    let definition = |values: &[&str]| {
        let objects = objects(values);
        objects.into_iter().find(|object| object["kind"] == "CustomResourceDefinition")
    };
    let policy = |values: &[&str]| {
        definition(values).unwrap()["metadata"]["annotations"]["helm.sh/resource-policy"].clone()
    };
    assert_eq!(policy(&[]), "keep");
    assert!(policy(&["crds.keep=false"]).is_null());
    assert!(definition(&["crds.enabled=false"]).is_none());
}

#[test]
#[ignore = "needs helm: make test-kubernetes"]
fn the_metrics_api_is_one_object_by_name_and_open_to_the_api_server() {
    for values in [&[][..], &["metricsApi.enabled=true"], &["metricsApi.enabled=false"]] {
        let off = values == ["metricsApi.enabled=false"];
        let objects = objects(
            &[values, &["networkPolicy.metricsFrom[0].podSelector.matchLabels.app=prometheus"]].concat(),
        );
        let named = |kind: &str, name: &str, namespace: &str| {
            objects.iter().find(|o| {
                o["kind"] == kind
                    && o["metadata"]["name"] == name
                    && o["metadata"]["namespace"].as_str().unwrap_or("") == namespace
            })
        };
        let role = named("ClusterRole", "skpr-aggregator.skpr", "").unwrap();
        let rules = role["rules"].as_array().unwrap();
        let rule = rules.iter().find(|rule| rule["resources"][0] == "apiservices").unwrap();
        assert_eq!(rule["resourceNames"], serde_json::json!(["v1beta1.metrics.k8s.io"]));
        assert_eq!(rule["verbs"].as_array().unwrap().iter().any(|verb| verb == "create"), !off);
        let own = rules.iter().find(|rule| rule["resources"][0] == "clusterroles").unwrap();
        assert_eq!(
            (&own["resourceNames"], &own["verbs"]),
            (&serde_json::json!(["skpr-aggregator.skpr"]), &serde_json::json!(["get"]))
        );
        assert_eq!(named("RoleBinding", "skpr-aggregator.skpr", "kube-system").is_none(), off);
        let policy = named("NetworkPolicy", "skpr-aggregator", "skpr").unwrap();
        let port = policy["spec"]["ingress"]
            .as_array()
            .unwrap()
            .iter()
            .find(|rule| rule["ports"][0]["port"] == 8444)
            .unwrap();
        assert_eq!(port["from"].is_null(), !off, "{port}");
    }
}

#[test]
#[ignore = "needs helm: make test-kubernetes"]
fn the_aggregator_may_write_what_environments_are_made_into_and_nothing_more() {
    for values in VARIANTS {
        let objects = objects(values);
        let role = objects
            .iter()
            .find(|o| o["kind"] == "ClusterRole" && o["metadata"]["name"] == "skpr-aggregator.skpr")
            .unwrap();
        let rules = role["rules"].as_array().unwrap();
        let verbs = |resource: &str| -> Vec<&str> {
            let about = |rule: &&Value| rule["resources"].as_array().unwrap().iter().any(|r| r == resource);
            let verbs = rules.iter().filter(about).flat_map(|rule| rule["verbs"].as_array().unwrap());
            verbs.map(|verb| verb.as_str().unwrap()).collect()
        };
        let writes =
            |resource: &str| verbs(resource).iter().any(|verb| !matches!(*verb, "get" | "list" | "watch"));
        for resource in ["deployments", "services", "persistentvolumeclaims", "ingresses", "environments"] {
            assert!(writes(resource), "{resource}");
        }
        assert_eq!(verbs("cronjobs"), ["get", "list", "watch", "create", "patch", "delete"]);
        assert_eq!(verbs("cronjobs/status"), ["patch"]);
        assert_eq!(verbs("jobs"), ["list", "watch", "create", "patch", "delete"]);
        for resource in ["pods", "secrets", "configmaps", "nodes", "roles", "*", "leases"] {
            assert!(!writes(resource), "{values:?}: {resource}");
        }
        let enters = values.contains(&"sessions.podsExec=true");
        assert_eq!(verbs("pods/exec"), if enters { &["get", "create"][..] } else { &[] }, "{values:?}");
        for resource in ["pods/attach", "pods/portforward", "pods/ephemeralcontainers"] {
            assert!(verbs(resource).is_empty(), "{values:?}: {resource}");
        }
        let makes = !values.contains(&"environments.createNamespaces=false");
        assert_eq!(writes("namespaces"), makes, "{values:?}");
        assert!(!verbs("namespaces").contains(&"delete"));
        // Who may edit a namespace may deploy there; taking an environment away is for its administrators.
        for object in objects.iter().filter(|o| o["metadata"]["name"] == "skpr-edit") {
            assert!(!object.to_string().contains("delete"), "{object}");
            assert!(object.to_string().contains("environments/cron"), "{object}");
        }
    }
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

#[test]
#[ignore = "needs helm: make test-kubernetes"]
fn nothing_reads_metrics_without_a_token() {
    let namespace = "skpr-aggregator-metrics.skpr.svc";
    for values in VARIANTS {
        let objects = objects(values);
        for object in &objects {
            assert!(!object.to_string().contains("prometheus.io/"), "{object}");
        }
        let services = of_kind(&objects, "Service");
        let service = services.iter().find(|it| it["metadata"]["name"] == "skpr-aggregator-metrics").unwrap();
        let port = &service["spec"]["ports"][0];
        assert_eq!((&port["port"], &port["appProtocol"]), (&443.into(), &"https".into()));
        let role = of_kind(&objects, "ClusterRole");
        let role = role.iter().find(|it| it["metadata"]["name"] == "skpr-metrics").unwrap();
        let expected =
            serde_json::json!([{"nonResourceURLs": ["/metrics", "/metrics/containers"], "verbs": ["get"]}]);
        assert_eq!(role["rules"], expected);
        for certificate in of_kind(&objects, "Certificate") {
            let names = certificate["spec"]["dnsNames"].as_array().unwrap();
            assert!(names.iter().any(|name| name == namespace), "{names:?}");
        }
    }
}

/// What `promtool` is to find of the rules in `rules.json`: a file beside it. A sample each minute; `drush` fails once at 30 and
/// never again succeeds, `nightly` goes well, `held` has failed and is suspended.
fn alerts_about_tasks(folder: &Path) -> PathBuf {
    const TEST: &str = r#"
rule_files: [rules.json]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {series: 'skpr_environments', values: '1x3000'}
      - {series: 'skpr_cron_runs_total{project="shop",environment="dev",namespace="sites",task="drush",outcome="failed"}', values: '0x29 1x2000'}
      - {series: 'skpr_cron_runs_total{project="shop",environment="dev",namespace="sites",task="drush",outcome="succeeded"}', values: '0x3000'}
      - {series: 'skpr_cron_last_success_timestamp_seconds{project="shop",environment="dev",namespace="sites",task="nightly"}', values: '0+60x3000'}
      - {series: 'skpr_cron_runs_total{project="shop",environment="dev",namespace="sites",task="nightly",outcome="missed"}', values: '0x29 1x3000'}
      - {series: 'skpr_cron_runs_total{project="shop",environment="dev",namespace="sites",task="held",outcome="unknown"}', values: '0x29 1x3000'}
      - {series: 'skpr_cron_suspended{project="shop",environment="dev",namespace="sites",task="held"}', values: '1x3000'}
    promql_expr_test:
      - expr: count by (alertname, task) (ALERTS{alertname=~"SkprCron.*", alertstate="firing"})
        eval_time: 29m
        exp_samples: []
      - expr: count by (alertname, task) (ALERTS{alertname=~"SkprCron.*", alertstate="firing"})
        eval_time: 32m
        exp_samples:
          - {labels: '{alertname="SkprCronRunFailed", task="drush"}', value: 1}
          - {labels: '{alertname="SkprCronRunFailed", task="nightly"}', value: 1}
          - {labels: '{alertname="SkprCronRunFailed", task="held"}', value: 1}
      - expr: count by (alertname, task) (ALERTS{alertname=~"SkprCron.*", alertstate="firing"})
        eval_time: 93m
        exp_samples:
          - {labels: '{alertname="SkprCronNoSuccess", task="drush"}', value: 1}
"#;
    let file = folder.join("tasks.yaml");
    std::fs::write(&file, TEST).unwrap();
    file
}

#[test]
#[ignore = "needs helm: make test-kubernetes"]
fn the_operator_s_objects_are_there_when_they_are_asked_for() {
    let kinds = ["ServiceMonitor", "PrometheusRule"];
    let plain = objects(&[]);
    assert!(kinds.iter().all(|kind| of_kind(&plain, kind).is_empty()));
    assert!(of_kind(&plain, "ConfigMap").is_empty());

    let all = objects(MONITORED);
    let monitor = of_kind(&all, "ServiceMonitor")[0];
    let endpoints = monitor["spec"]["endpoints"].as_array().unwrap();
    let paths: Vec<_> = endpoints.iter().map(|endpoint| endpoint["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["/metrics", "/metrics/containers"]);
    for endpoint in endpoints {
        assert_eq!(endpoint["scheme"], "https");
        assert_eq!(endpoint["honorLabels"], true);
        let token = serde_json::json!({"credentials": {"name": "token", "key": "token"}});
        assert_eq!(endpoint["authorization"], token, "{endpoint}");
        assert_eq!(endpoint["tlsConfig"]["serverName"], "skpr-aggregator-metrics.skpr.svc");
        assert!(endpoint["tlsConfig"]["insecureSkipVerify"].is_null());
    }
    let file = &[&MONITORED[..1], &["monitoring.serviceMonitor.tokenFile=/run/token"]].concat();
    assert_eq!(
        of_kind(&objects(file), "ServiceMonitor")[0]["spec"]["endpoints"][0]["bearerTokenFile"],
        "/run/token"
    );

    let rule = of_kind(&all, "PrometheusRule")[0];
    assert_eq!(rule["metadata"]["labels"]["release"], "stack");
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules.json");
    std::fs::write(&rules, serde_json::to_string(&rule["spec"]).unwrap()).unwrap();
    let promtool = skpr_tests::cli::debian_program("promtool");
    let checked = Command::new(promtool).args(["check", "rules"]).arg(&rules).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));

    let tried = Command::new(skpr_tests::cli::debian_program("promtool"))
        .current_dir(folder.path())
        .args(["test", "rules"])
        .arg(alerts_about_tasks(folder.path()))
        .output()
        .unwrap();
    assert!(tried.status.success(), "{}", String::from_utf8_lossy(&[tried.stdout, tried.stderr].concat()));

    let dashboard = of_kind(&all, "ConfigMap")[0];
    assert_eq!(dashboard["metadata"]["labels"]["grafana_dashboard"], "1");
    let text = dashboard["data"]["skpr.json"].as_str().unwrap();
    let parsed: Value = serde_json::from_str(text).unwrap();
    assert_eq!(parsed["title"], "skpr");
}
