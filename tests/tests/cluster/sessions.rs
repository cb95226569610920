//! Shells and programs in the containers of a real node, with `skpr` and with stock OpenSSH.

use super::setup::{SITE_IMAGE, Skpr, busybox_root, once, pack, wait_ready};
use super::shop::{TIMEOUT, editor};
use super::turn::SITES;
use anyhow::{Context as _, Result, ensure};
use skpr_tests::cli::{Finished, Running, User, fed, program};
use skpr_tests::cluster::{Cluster, Namespace};
use skpr_tests::eventually;
use skpr_tests::numbers::noise;
use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The image of a site that has one program and no shell.
pub(crate) const BARE_IMAGE: &str = "skpr-test-bare:1";
/// As the strictest sites are run, and as the others are.
pub(crate) const HARDENED: &str = "runAsUser: 1000, runAsGroup: 1000, runAsNonRoot: true, allowPrivilegeEscalation: false, \
    capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}";
pub(crate) const USUAL: &str = "capabilities: {add: [NET_ADMIN], drop: [MKNOD]}";

/// The account `half`, which has this right of skpr and may not enter pods by Kubernetes'.
pub(crate) fn half(right: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: ServiceAccount
metadata: {{name: half, namespace: $NAMESPACE}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: half, namespace: $NAMESPACE}}
rules:
  - {{apiGroups: [skpr.io], resources: [{right}], verbs: [create]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: half, namespace: $NAMESPACE}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: half}}
subjects: [{{kind: ServiceAccount, name: half, namespace: $NAMESPACE}}]
"#
    )
}

/// skpr, and a namespace with an instance of the environment `dev`.
pub(crate) struct Site {
    pub(crate) user: User,
    pub(crate) sites: Namespace,
    pub(crate) skpr: Skpr,
}

impl Site {
    /// With skpr as others have it, too.
    pub(crate) fn together() -> Result<Site> {
        Site::of(Skpr::together(&SITES)?)?.reached()
    }

    /// With skpr of its own.
    pub(crate) fn alone() -> Result<Site> {
        Site::install(&["sessions.enabled=true"])?.reached()
    }

    /// With these values, and whether or not anything can be run there.
    pub(crate) fn install(values: &[&str]) -> Result<Site> {
        Site::of(Skpr::install(values)?)
    }

    fn of(skpr: Skpr) -> Result<Site> {
        let sites = skpr.cluster.namespace("sites")?;
        let user = editor(&skpr, &sites)?;
        let site = Site { user, sites, skpr };
        site.start_dev()?;
        Ok(site)
    }

    /// Makes the instance.
    pub(crate) fn start_dev(&self) -> Result<()> {
        instance(&self.sites, "dev", SITE_IMAGE, r#"[sh, -c, "while :; do sleep 1; done"]"#, USUAL)
    }

    /// The configuration of `ssh` as `skpr ssh-config --install` has made it.
    pub(crate) fn config(&self) -> Result<String> {
        self.user.skpr(&["ssh-config", "--install"])?.success()?;
        Ok(self.user.home().join(".ssh/config").display().to_string())
    }

    fn reached(self) -> Result<Site> {
        self.reaches("dev", &["true"])?;
        Ok(self)
    }

    /// Waits until something runs there.
    pub(crate) fn reaches(&self, environment: &str, words: &[&str]) -> Result<()> {
        eventually(&format!("{environment} is reached"), TIMEOUT, || {
            exec(&self.user, environment, words)?.success().map(Some)
        })
        .map(drop)
    }

    /// The processes of `dev`, a line each.
    pub(crate) fn processes(&self) -> Result<String> {
        const LIST: &str = "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; echo; done 2>/dev/null; true";
        Ok(exec(&self.user, "dev", &["sh", "-c", LIST])?.success()?.stdout)
    }

    /// Starts a process of these words and waits until it runs.
    pub(crate) fn starts(&self, words: &[&str]) -> Result<Running> {
        let session = self.user.start("skpr", &[&["exec", "dev", "--"], words].concat())?;
        let line = words.join(" ");
        eventually("it runs", TIMEOUT, || Ok(self.processes()?.contains(&line).then_some(())))?;
        Ok(session)
    }

    pub(crate) fn gone(&self, line: &str, within: Duration) -> Result<()> {
        eventually("it is gone", within, || Ok((!self.processes()?.contains(line)).then_some(())))
    }
}

/// A pod of an environment, whose user may write into `/data`.
pub(crate) fn instance(
    sites: &Namespace,
    environment: &str,
    image: &str,
    command: &str,
    security: &str,
) -> Result<()> {
    instance_on("", sites, environment, image, command, security)
}

/// On a node; on any, if it has no name.
fn instance_on(
    node: &str,
    sites: &Namespace,
    environment: &str,
    image: &str,
    command: &str,
    security: &str,
) -> Result<()> {
    sites.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {environment}-1, namespace: $NAMESPACE, labels: {{skpr.io/project: shop, skpr.io/environment: {environment}}}}}
spec:
  nodeName: "{node}"
  terminationGracePeriodSeconds: 0
  containers:
    - {{name: main, image: {image}, imagePullPolicy: Never, command: {command}, securityContext: {{{security}}},
       env: [{{name: SITE, value: of the pod}}], workingDir: /tmp, volumeMounts: [{{name: data, mountPath: /data}}]}}
  volumes: [{{name: data, emptyDir: {{}}}}]
"#
    ))?;
    wait_ready(sites, &format!("skpr.io/environment={environment}"), 1, TIMEOUT)
}

pub(crate) fn exec(user: &User, environment: &str, words: &[&str]) -> Result<Finished> {
    user.skpr(&[&["exec", environment, "--"], words].concat())
}

/// Puts the image without a shell on the nodes.
pub(crate) fn load_bare_image(cluster: &Cluster) -> Result<()> {
    static LOADED: Mutex<bool> = Mutex::new(false);
    once(cluster, &LOADED, |own| {
        let folder = busybox_root()?;
        for entry in fs::read_dir(folder.path().join("bin"))? {
            let entry = entry?;
            if entry.file_name() != "busybox" {
                fs::remove_file(entry.path())?;
            }
        }
        own.load(&pack(&folder, &format!("docker.io/library/{BARE_IMAGE}"), r#"["/bin/busybox"]"#)?)
    })
}

/// `ssh` as the user has it after `skpr ssh-config --install`.
pub(crate) fn ssh(user: &User, options: &[&str], words: &[&str]) -> Result<Command> {
    user.skpr(&["ssh-config", "--install"])?.success()?;
    let config = user.home().join(".ssh/config").display().to_string();
    let all = [&["-F", &config, "-o", "BatchMode=yes"], options, &["dev.shop.skpr"], words].concat();
    let mut ssh = user.other("ssh", &all);
    ssh.stdin(Stdio::null());
    Ok(ssh)
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What is tried with an installation that is there, by its name.
pub(crate) type Scenario = (&'static str, fn(&Site) -> Result<()>);

/// Scenarios by the names of their functions.
macro_rules! scenarios {
    ($($scenario:ident),* $(,)?) => {
        &[$((stringify!($scenario), $scenario as fn(&Site) -> Result<()>)),*]
    };
}
pub(crate) use scenarios;

/// Runs these one after the other with one installation, and says which it is.
pub(crate) fn all(site: &Site, scenarios: &[Scenario]) -> Result<()> {
    for (name, scenario) in scenarios {
        eprintln!("… {name}");
        scenario(site).with_context(|| (*name).to_owned())?;
    }
    Ok(())
}

#[test]
#[ignore = "needs Kubernetes: make test-kubernetes"]
fn a_session_is_in_the_container_and_nothing_more_than_the_container() -> Result<()> {
    all(
        &Site::together()?,
        scenarios![
            what_is_run_is_in_the_container_and_ends_with_its_own_code,
            every_byte_arrives_both_ways,
            a_process_may_what_the_container_may_and_nothing_more,
            an_image_without_a_shell_says_so_and_runs_what_it_has,
            who_has_not_both_rights_is_told_the_same_as_of_what_is_not_there,
            the_part_that_is_on_the_network_has_no_power_and_the_other_little,
        ],
    )
}

#[test]
#[ignore = "needs Kubernetes: make test-kubernetes"]
fn whatever_ends_a_session_leaves_nothing_behind() -> Result<()> {
    all(
        &Site::alone()?,
        scenarios![
            a_client_or_an_agent_that_is_gone_leaves_no_process,
            an_aggregator_that_is_killed_and_a_node_that_is_cut_off_end_sessions,
            a_pod_that_is_deleted_ends_its_sessions_and_says_why,
            a_namespace_that_is_denied_is_not_entered_by_whoever_may,
        ],
    )
}

fn what_is_run_is_in_the_container_and_ends_with_its_own_code(site: &Site) -> Result<()> {
    let user = &site.user;
    for code in [0, 1, 42, 127] {
        exec(user, "dev", &["sh", "-c", &format!("exit {code}")])?.exit(code)?;
        let done = ssh(user, &[], &[&format!("exit {code}")])?.output()?;
        assert_eq!(done.status.code(), Some(code), "{}", text(&done.stderr));
    }
    // containerd tells of a signal only as a shell does.
    exec(user, "dev", &["sh", "-c", "kill -TERM $$"])?.exit(143)?;
    assert_eq!(ssh(user, &[], &["kill -KILL $$"])?.output()?.status.code(), Some(137));
    let missing = exec(user, "dev", &["no-such-program"])?.exit(127)?;
    assert!(missing.stderr.contains("there is no program `no-such-program`"), "{}", missing.stderr);
    exec(user, "dev", &["/tmp"])?.exit(126)?;
    let both = exec(user, "dev", &["sh", "-c", "pwd; echo $SITE; echo err >&2"])?.success()?;
    assert_eq!((both.stdout.as_str(), both.stderr.as_str()), ("/tmp\nof the pod\n", "err\n"));
    let apart = exec(user, "dev", &["printf", "%s|", "a b", "$SITE", "", "*"])?.success()?;
    assert_eq!(apart.stdout, "a b|$SITE||*|");
    // What it leaves behind is not waited for.
    let begun = Instant::now();
    exec(user, "dev", &["sh", "-c", "sleep 60 & exit 3"])?.exit(3)?;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    Ok(())
}

fn every_byte_arrives_both_ways(site: &Site) -> Result<()> {
    bytes_come_back(site, &noise(100_000_000))?;
    // One that ends without having read ends all the same.
    let ended = fed(skpr_exec(site, &["sh", "-c", "exit 7"])?, vec![b'x'; 1000])?;
    assert_eq!(ended.status.code(), Some(7));
    Ok(())
}

/// `skpr exec` of these words, to be fed.
pub(crate) fn skpr_exec(site: &Site, words: &[&str]) -> Result<Command> {
    Ok(site.user.other(program("skpr")?, &[&["exec", "dev", "--"], words].concat()))
}

/// Bytes go into a program and out of it, by both clients.
pub(crate) fn bytes_come_back(site: &Site, noise: &[u8]) -> Result<()> {
    let hi = fed(skpr_exec(site, &["cat"])?, b"hi\n".to_vec())?;
    assert_eq!((hi.status.code(), text(&hi.stdout)), (Some(0), "hi\n".into()));
    for command in [skpr_exec(site, &["cat"])?, ssh(&site.user, &["-T"], &["cat"])?] {
        let back = fed(command, noise.to_vec())?;
        assert_eq!(back.status.code(), Some(0), "{}", text(&back.stderr));
        ensure!(back.stdout == noise, "{} bytes came back", back.stdout.len());
    }
    Ok(())
}

/// What says of a process who it is and what it may.
fn privileges(status: &str) -> BTreeMap<String, String> {
    const KEYS: [&str; 10] =
        ["Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"];
    let pairs = status.lines().filter_map(|line| line.split_once(':'));
    let known = pairs.filter(|(key, _)| KEYS.contains(key));
    known.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect()
}

fn a_process_may_what_the_container_may_and_nothing_more(site: &Site) -> Result<()> {
    let command = r#"[sh, -c, "while :; do sleep 1; done"]"#;
    instance(&site.sites, "hardened", SITE_IMAGE, command, HARDENED)?;
    site.reaches("hardened", &["true"])?;
    for environment in ["dev", "hardened"] {
        let look = |file: &str| -> Result<String> {
            Ok(exec(&site.user, environment, &["cat", file])?.success()?.stdout)
        };
        let (own, first) = (privileges(&look("/proc/self/status")?), privileges(&look("/proc/1/status")?));
        assert_eq!(own, first, "{environment}");
        assert_eq!(own.len(), 10, "{own:?}");
        assert_eq!(look("/proc/self/cgroup")?, look("/proc/1/cgroup")?, "{environment}");
        assert_eq!(look("/proc/self/limits")?, look("/proc/1/limits")?, "{environment}");
        let expected = if environment == "hardened" { ("1", "2") } else { ("0", "0") };
        assert_eq!((own["NoNewPrivs"].as_str(), own["Seccomp"].as_str()), expected, "{environment}");
    }
    // Another user has what a login would have, where the container's own process could become it.
    let status = |words: &[&str]| -> Result<BTreeMap<String, String>> {
        Ok(privileges(
            &site.user.skpr(&[words, &["--", "cat", "/proc/self/status"]].concat())?.success()?.stdout,
        ))
    };
    let (own, other) = (status(&["exec", "dev"])?, status(&["exec", "dev", "--user", "1000:1001"])?);
    for (key, value) in [("Uid", "1000"), ("Gid", "1001")] {
        assert!(other[key].split_whitespace().all(|id| id == value), "{other:?}");
    }
    for key in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(other[key].trim_matches('0'), "", "{other:?}");
    }
    for key in ["CapBnd", "NoNewPrivs", "Seccomp"] {
        assert_eq!(other[key], own[key], "{key}");
    }
    let by_ssh = ssh(&site.user, &["-l", "1000"], &["id -u"])?.output()?;
    assert_eq!(text(&by_ssh.stdout), "1000\n", "{}", text(&by_ssh.stderr));
    let refused = site.user.skpr(&["exec", "hardened", "--user", "0", "--", "id"])?.exit(126)?;
    assert!(refused.stderr.contains("runs as 1000 and may not become `0`"), "{}", refused.stderr);
    Ok(())
}

pub(crate) fn an_image_without_a_shell_says_so_and_runs_what_it_has(site: &Site) -> Result<()> {
    load_bare_image(&site.skpr.cluster)?;
    instance(&site.sites, "bare", BARE_IMAGE, "[/bin/busybox, sleep, '86400']", USUAL)?;
    site.reaches("bare", &["/bin/busybox", "true"])?;
    let shell = site.user.skpr(&["shell", "bare"])?.exit(127)?;
    assert!(shell.stderr.contains("there is no shell here: no bash, sh or ash"), "{}", shell.stderr);
    assert!(shell.stderr.contains("hint: ") && shell.stderr.contains("skpr exec ENV -- PROGRAM"));
    let said = exec(&site.user, "bare", &["/bin/busybox", "echo", "hi"])?.success()?;
    assert_eq!(said.stdout, "hi\n");
    Ok(())
}

pub(crate) fn who_has_not_both_rights_is_told_the_same_as_of_what_is_not_there(site: &Site) -> Result<()> {
    site.sites.kubectl(&["create", "serviceaccount", "nobody"])?;
    site.sites.apply(&half("environments/exec"))?;
    for account in ["nobody", "half"] {
        let user = site.skpr.user(&site.sites, account, "skpr")?;
        let told = |environment: &str| -> Result<String> {
            let refused = exec(&user, environment, &["true"])?.exit(4)?;
            ensure!(refused.stdout.is_empty(), "{}", refused.stdout);
            Ok(refused.stderr.replace(environment, "it"))
        };
        assert_eq!(told("dev")?, told("nowhere")?, "{account}");
    }
    Ok(())
}

pub(crate) fn a_namespace_that_is_denied_is_not_entered_by_whoever_may(site: &Site) -> Result<()> {
    site.sites.kubectl(&["delete", "pod/dev-1", "--ignore-not-found"])?;
    let command = r#"[sh, -c, "while :; do sleep 1; done"]"#;
    instance(&site.sites, "dev", SITE_IMAGE, command, USUAL)?;
    site.reaches("dev", &["true"])?;
    // The second is for where no agent serves sessions, and makes no difference where one does.
    let denied = format!("sessions.denyNamespaces={{{}}}", site.sites.name());
    site.skpr.upgrade(&[&denied, "sessions.podsExec=true"])?;
    let expected = format!("processes of namespace `{}` are not for sessions", site.sites.name());
    eventually("the agents have heard", TIMEOUT, || {
        let refused = exec(&site.user, "dev", &["true"])?.exit(126)?;
        ensure!(refused.stderr.contains(&expected), "{}", refused.stderr);
        Ok(Some(()))
    })
}

fn a_client_or_an_agent_that_is_gone_leaves_no_process(site: &Site) -> Result<()> {
    let session = site.starts(&["sleep", "91.5"])?;
    let begun = Instant::now();
    session.end("KILL", TIMEOUT)?;
    site.gone("sleep 91.5", TIMEOUT)?;
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    // With what it has started, and against its will.
    let session = site.starts(&["sh", "-c", "trap '' HUP TERM; sleep 92.5; sleep 92.5; true"])?;
    session.end("KILL", TIMEOUT)?;
    site.gone("sleep 92.5", Duration::from_secs(30))?;
    let Some(own) = site.skpr.cluster.breakable_for("an agent killed in the middle of a session") else {
        return Ok(());
    };
    let node = site.sites.field("pod/dev-1", ".spec.nodeName")?;
    let session = site.starts(&["sleep", "93.5"])?;
    own.kill(&node, "skpr-agent")?;
    session.wait(TIMEOUT)?.exit(255)?;
    site.reaches("dev", &["true"])?;
    site.gone("sleep 93.5", TIMEOUT)
}

fn an_aggregator_that_is_killed_and_a_node_that_is_cut_off_end_sessions(site: &Site) -> Result<()> {
    let what = "an aggregator killed, and a node cut off, in the middle of sessions";
    let Some(own) = site.skpr.cluster.breakable_for(what) else { return Ok(()) };
    let (_, node) = site.skpr.aggregator()?;
    let far = if node == "node1" { "node2" } else { "node1" };
    site.sites.kubectl(&["delete", "pod/dev-1", "--now"])?;
    let command = r#"[sh, -c, "while :; do sleep 1; done"]"#;
    instance_on(far, &site.sites, "dev", SITE_IMAGE, command, USUAL)?;
    site.reaches("dev", &["true"])?;
    // By the node itself: nobody else can look while the aggregator is away.
    let runs = |line: &str| own.enter(far, &["sh", "-c", &format!("pgrep -fx '{line}' || true")]);
    let gone = |line: &str, begun: Instant| -> Result<()> {
        eventually("it is gone", TIMEOUT, || Ok(runs(line)?.trim().is_empty().then_some(())))?;
        // An agent that is cut off notices after 40 s at most.
        ensure!(begun.elapsed() < Duration::from_secs(60), "{line}: {:?}", begun.elapsed());
        Ok(())
    };
    let lost = |session: Running, begun: Instant| -> Result<()> {
        let ended = session.wait(TIMEOUT)?.exit(255)?;
        ensure!(begun.elapsed() < Duration::from_secs(20), "{:?}: {}", begun.elapsed(), ended.stderr);
        ensure!(ended.stderr.contains("was lost"), "{}", ended.stderr);
        Ok(())
    };
    let session = site.starts(&["sleep", "95.5"])?;
    let begun = Instant::now();
    own.kill(&node, "skpr-aggregator")?;
    lost(session, begun)?;
    gone("sleep 95.5", begun)?;
    site.reaches("dev", &["true"])?;

    let session = site.starts(&["sleep", "96.5"])?;
    let begun = Instant::now();
    let cut = own.cut(far)?;
    lost(session, begun)?;
    gone("sleep 96.5", begun)?;
    drop(cut);
    site.reaches("dev", &["true"])
}

fn a_pod_that_is_deleted_ends_its_sessions_and_says_why(site: &Site) -> Result<()> {
    let session = site.starts(&["sleep", "94.5"])?;
    let begun = Instant::now();
    site.sites.kubectl(&["delete", "pod/dev-1", "--wait=false"])?;
    let ended = session.wait(TIMEOUT)?;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    // Whichever is seen first: the end of the process, or that of its container.
    assert!(matches!(ended.status.code(), Some(137 | 255)), "{}: {}", ended.status, ended.stderr);
    Ok(())
}

fn the_part_that_is_on_the_network_has_no_power_and_the_other_little(site: &Site) -> Result<()> {
    const LOOK: &str = "for p in $(pgrep -x skpr-agent); do tr '\\0' '\\n' </proc/$p/cmdline | grep -x sessions || echo agent; \
        grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/$p/status; cd /proc/$p/root; \
        for path in run/containerd/containerd.sock host/proc run/skpr-test run/skpr/token; do [ -e $path ] && echo has $path; done; \
        cat /proc/$p/net/tcp /proc/$p/net/tcp6; echo looked; done";
    let what = "what the agent's two programs may, as their nodes see it";
    let Some(own) = site.skpr.cluster.breakable_for(what) else { return Ok(()) };
    for node in ["node1", "node2"] {
        let seen = own.enter(node, &["sh", "-c", LOOK])?;
        let processes: Vec<&str> =
            seen.split("looked").map(str::trim).filter(|part| !part.is_empty()).collect();
        assert_eq!(processes.len(), 2, "{seen}");
        for process in processes {
            let is_agent = process.starts_with("agent");
            // What the chart's test lists by name.
            let kept = if is_agent { "0000000000000000" } else { "00000000002c00db" };
            for line in ["CapEff", "CapBnd"].map(|set| format!("{set}:\t{kept}")) {
                assert!(process.contains(&line), "{line}: {process}");
            }
            assert!(process.contains("NoNewPrivs:\t1") && process.contains("Seccomp:\t2"), "{process}");
            for path in ["run/containerd/containerd.sock", "host/proc", "run/skpr-test"] {
                assert_eq!(process.contains(&format!("has {path}")), !is_agent, "{path}: {process}");
            }
            // What the aggregator knows the agent by.
            assert_eq!(process.contains("has run/skpr/token"), is_agent, "{process}");
            let listening = process.lines().filter(|line| line.split_whitespace().nth(3) == Some("0A"));
            assert_eq!(listening.count(), 0, "{process}");
        }
    }
    Ok(())
}
