//! `skpr logs -f` goes on through a rolling restart, the deletion of an instance and a restart of the aggregator: new
//! instances join by themselves, and no line is lost or repeated.

use super::setup::{Record, Skpr, by_instance, records, wait_ready};
use anyhow::{Result, ensure};
use skpr_tests::cluster::Namespace;
use skpr_tests::eventually;
use std::time::Duration;

const SELECTOR: &str = "skpr.io/project=shop";
const TIMEOUT: Duration = Duration::from_secs(120);

#[test]
#[ignore = "needs Kubernetes: make test-kubernetes"]
fn following_survives_restarts_of_everything() {
    let skpr = Skpr::install(&[]).unwrap();
    let sites = skpr.cluster.namespace("sites").unwrap();
    start_site(&sites).unwrap();
    let user = skpr.viewer(&sites).unwrap();
    // The environment exists for the aggregator as soon as it has seen a pod of it.
    eventually("the environment is listed", TIMEOUT, || {
        let listed = user.skpr(&["list", "-o", "json"])?.success()?;
        Ok(listed.stdout.contains("prod").then_some(()))
    })
    .unwrap();
    let following = user.start("skpr", &["logs", "prod", "-f", "--since", "1h", "-o", "json"]).unwrap();
    following.line(TIMEOUT, |line| line.contains("line 1\"")).unwrap();

    sites.kubectl(&["rollout", "restart", "deployment/web"]).unwrap();
    sites.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]).unwrap();
    wait_ready(&sites, SELECTOR, 2, TIMEOUT).unwrap();

    let victim = sites.pods(SELECTOR).unwrap().remove(0);
    sites.kubectl(&["delete", "pod", &victim]).unwrap();
    wait_ready(&sites, SELECTOR, 2, TIMEOUT).unwrap();

    let (aggregator, _) = skpr.aggregator().unwrap();
    skpr.namespace().kubectl(&["delete", "pod", &aggregator]).unwrap();
    wait_ready(skpr.namespace(), "app.kubernetes.io/name=skpr-aggregator", 1, TIMEOUT).unwrap();
    skpr.find_aggregator().unwrap();

    // Each instance says how many lines it wrote as it goes; the last two go now, and all five have said so.
    sites.kubectl(&["scale", "deployment/web", "--replicas=0"]).unwrap();
    wait_ready(&sites, SELECTOR, 0, TIMEOUT).unwrap();
    following
        .until(TIMEOUT, |lines| {
            (lines.iter().filter(|line| line.contains("\"last ")).count() >= 5).then_some(())
        })
        .unwrap();

    let followed = following.stdout().join("\n");
    check(records(&followed).unwrap()).unwrap();
    let history = user.skpr(&["logs", "prod", "--since", "1h", "-o", "json"]).unwrap().success().unwrap();
    let (followed, history) =
        (by_instance(records(&followed).unwrap()), by_instance(records(&history.stdout).unwrap()));
    assert!(followed == history, "what was followed and what is kept differ");
    let total: usize = history.values().map(Vec::len).sum();
    eprintln!(
        "followed {total} lines of {} instances, each once; stderr: {}",
        history.len(),
        following.stderr()
    );
    following.end("INT", Duration::from_secs(10)).unwrap();
}

fn start_site(sites: &Namespace) -> Result<()> {
    sites.apply(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: $NAMESPACE}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web, skpr.io/project: shop, skpr.io/environment: prod}}
    spec:
      terminationGracePeriodSeconds: 10
      containers:
        - name: main
          image: skpr-test-site:1
          imagePullPolicy: Never
          command: [sh, -c]
          args:
            - |
              i=0 ended=
              trap 'ended=yes' TERM
              while [ -z "$ended" ]; do i=$((i + 1)); echo "line $i"; usleep 20000; done
              echo "last $i"
"#,
    )?;
    wait_ready(sites, SELECTOR, 2, TIMEOUT)
}

/// Each instance's lines are 1, 2, 3 … up to what it says it wrote.
fn check(records: Vec<Record>) -> Result<()> {
    let instances = by_instance(records);
    ensure!(instances.len() == 5, "instances: {:?}", instances.keys());
    for (instance, messages) in instances {
        let written = messages.len() - 1;
        for (index, message) in messages.iter().take(written).enumerate() {
            ensure!(
                *message == format!("line {}", index + 1),
                "{instance}: line {} is `{message}`",
                index + 1
            );
        }
        ensure!(
            messages[written] == format!("last {written}"),
            "{instance} ends with `{}`",
            messages[written]
        );
    }
    Ok(())
}
