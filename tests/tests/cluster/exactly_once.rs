//! Four instances on two nodes write 200,000 numbered lines each while their logs rotate at a megabyte, agent and
//! aggregator are killed, and a node's link is cut: every line comes out once, in order.

use super::setup::{Skpr, by_instance, records, wait_ready};
use anyhow::{Context as _, Result, ensure};
use skpr_tests::cli::User;
use skpr_tests::cluster::{Cluster, Namespace};
use skpr_tests::eventually;
use std::process::Command;
use std::time::{Duration, Instant};

const LINES: usize = 200_000;
const INSTANCES: usize = 4;
/// At this rate a log is rotated about every six seconds, and `scripts/test-kubernetes` has thirty files kept: three
/// minutes, where a cut and the kubelet's wait before a third start (20 s) leave an agent some 75 s behind.
const LINES_PER_TENTH: usize = 150;
const CUT: Duration = Duration::from_secs(20);

#[test]
#[ignore = "needs Kubernetes: make test-kubernetes"]
fn every_line_comes_out_once_whatever_dies() {
    let what = "that every line comes out once, whatever dies";
    if Cluster::connect().unwrap().breakable_for(what).is_none() {
        return;
    }
    let skpr = Skpr::install(&["aggregator.extraArgs={--seal-after=20s}"]).unwrap();
    let sites = skpr.cluster.namespace("sites").unwrap();
    let begun = Instant::now();
    start_sites(&sites).unwrap();
    let user = skpr.viewer(&sites).unwrap();
    eprintln!("{:?}: {INSTANCES} instances are writing", begun.elapsed());

    break_things(&skpr, begun).unwrap();
    await_last_lines(&user).unwrap();
    eprintln!("{:?}: the last line of each instance has arrived", begun.elapsed());

    let reading = Instant::now();
    let read = user.skpr(&["logs", "prod", "--since", "1h", "-o", "json"]).unwrap().success().unwrap();
    eprintln!("{:?} to read them all by skpr logs", reading.elapsed());
    check_lines(&read.stdout).unwrap();
    check_sealed_files(&skpr, &sites).unwrap();
    eprintln!("{:?}: all {} lines came once, in order", begun.elapsed(), LINES * INSTANCES);
}

fn start_sites(sites: &Namespace) -> Result<()> {
    for instance in 1..=INSTANCES {
        let node = 1 + instance % 2;
        sites.apply(&format!(
            r#"
apiVersion: v1
kind: Pod
metadata: {{name: web-{instance}, namespace: $NAMESPACE, labels: {{skpr.io/project: shop, skpr.io/environment: prod}}}}
spec:
  nodeSelector: {{kubernetes.io/hostname: node{node}}}
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: skpr-test-site:1
      imagePullPolicy: Never
      command: [awk]
      args:
        - |
          BEGIN {{
            for (i = 1; i <= {LINES}; i++) {{
              printf "%06d GET /articles/%d 200 a line as long as the lines of an access log usually are\n", i, i % 977
              if (i % {LINES_PER_TENTH} == 0) {{ fflush(); system("usleep 100000") }}
            }}
            fflush()
            while (1) system("sleep 1")
          }}
"#
        ))?;
    }
    wait_ready(sites, "skpr.io/project=shop", INSTANCES, Duration::from_secs(60))
}

/// Kills the agent of a node and the aggregator three times each, and cuts a link between two of these.
fn break_things(skpr: &Skpr, begun: Instant) -> Result<()> {
    let own = skpr.cluster.breakable().context("a cluster whose nodes can be broken")?;
    for round in 1..=3 {
        let (pod, node) = skpr.aggregator()?;
        let other = if node == "node1" { "node2" } else { "node1" };
        for (process, on) in [("skpr-agent", other), ("skpr-agent", &node), ("skpr-aggregator", &node)] {
            own.kill(on, process)?;
            eprintln!("{:?}: killed {process} on {on}, time {round}", begun.elapsed());
            // Apart, so that each death meets the others at work.
            std::thread::sleep(Duration::from_secs(2));
        }
        let timeout = Duration::from_secs(90);
        wait_restarts(skpr, &pod, round, timeout)?;
        wait_ready(skpr.namespace(), "app.kubernetes.io/part-of=skpr", 3, timeout)?;
        if round == 2 {
            let cut = own.cut(other)?;
            eprintln!("{:?}: cut {other} off for {CUT:?}", begun.elapsed());
            std::thread::sleep(CUT);
            drop(cut);
        }
    }
    Ok(())
}

fn wait_restarts(skpr: &Skpr, pod: &str, count: usize, timeout: Duration) -> Result<()> {
    eventually(&format!("{pod} has been started again"), timeout, || {
        let restarts =
            skpr.namespace().field(&format!("pod/{pod}"), ".status.containerStatuses[0].restartCount")?;
        Ok((restarts.trim() == count.to_string()).then_some(()))
    })
}

fn await_last_lines(user: &User) -> Result<()> {
    let last = format!("^{LINES:06} ");
    eventually("the last line of every instance arrives", Duration::from_secs(360), || {
        let found =
            user.skpr(&["logs", "prod", "--since", "1h", "-o", "json", "--grep", &last])?.success()?;
        Ok((found.stdout.lines().count() >= INSTANCES).then_some(()))
    })
}

fn check_lines(stdout: &str) -> Result<()> {
    let instances = by_instance(records(stdout)?);
    ensure!(instances.len() == INSTANCES, "instances: {:?}", instances.keys());
    for (instance, messages) in instances {
        for (index, message) in messages.iter().enumerate() {
            let number = message.split(' ').next().unwrap_or_default();
            ensure!(number == format!("{:06}", index + 1), "{instance}: line {} is `{message}`", index + 1);
        }
        ensure!(messages.len() == LINES, "{instance}: {} lines", messages.len());
    }
    Ok(())
}

/// What another program finds in the sealed files: the same number of lines of each instance, none of them twice. Those are of
/// the test's namespace: an instance of the test before may still be ending in its own, which is an event.
fn check_sealed_files(skpr: &Skpr, sites: &Namespace) -> Result<()> {
    const COUNT: &str = r#"
import glob, sys
import pyarrow as pa, pyarrow.parquet as pq
files = glob.glob(sys.argv[1] + "/**/namespace=" + sys.argv[2] + "/**/*.parquet", recursive=True)
rows = [pq.ParquetFile(f).read(["instance", "message", "sequence"]) for f in files]
rows = [t.set_column(0, "instance", t["instance"].cast(pa.string())) for t in rows]
table = pa.concat_tables(rows)
counts = table.group_by("instance").aggregate([("message", "count"), ("message", "count_distinct")])
print(sorted(zip(counts["instance"].to_pylist(), counts["message_count"].to_pylist(), counts["message_count_distinct"].to_pylist())))
"#;
    let python = std::env::var("SKPR_TEST_PYTHON")
        .context("SKPR_TEST_PYTHON is not set\nhint: make test-kubernetes")?;
    let volume = skpr.namespace().field("pvc/skpr-aggregator", ".spec.volumeName")?;
    let folder = skpr.namespace().field(&format!("pv/{volume}"), ".spec.hostPath.path")?;
    let wanted: Vec<String> = (1..=INSTANCES).map(|i| format!("('web-{i}', {LINES}, {LINES})")).collect();
    let wanted = format!("[{}]", wanted.join(", "));
    let mut last = String::new();
    // What is in memory is sealed within 20 s of its arrival.
    let counted = eventually("every line is in a sealed file", Duration::from_secs(90), || {
        let segments = format!("{folder}/store/segments");
        let output = Command::new(&python).args(["-c", COUNT, &segments, sites.name()]).output()?;
        last =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        Ok((last.trim() == wanted).then_some(()))
    });
    eprintln!("another Parquet reader counts (instance, lines, different lines): {}", last.trim());
    counted
}
