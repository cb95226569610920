//! Files, ports and sockets of a pod with stock clients, which need nothing in its image.

use super::sessions::{BARE_IMAGE, HARDENED, Site, USUAL, instance, load_bare_image, text};
use super::setup::SITE_IMAGE;
use super::shop::TIMEOUT;
use super::tools::{TOOLS_IMAGE, load_tools_image};
use anyhow::{Context as _, Result, ensure};
use skpr_tests::cli::fed;
use skpr_tests::eventually;
use skpr_tests::numbers::noise;
use skpr_tests::ssh::Killed;
use std::fs;
use std::io::{BufRead as _, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};

/// One of OpenSSH's programs, in the user's home directory, with a host for each environment.
fn run(site: &Site, name: &str, words: &[&str], input: &str) -> Result<Output> {
    let config = site.config()?;
    let all = [&["-q", "-F", &config, "-o", "BatchMode=yes"], words].concat();
    let mut command = site.user.other(name, &all);
    command.current_dir(site.user.home());
    fed(command, input.as_bytes().to_vec())
}

fn said(output: &Output) -> String {
    text(&[&*output.stdout, &*output.stderr].concat())
}

/// What `sftp` does in one go, and what it says.
fn sftp(site: &Site, environment: &str, batch: &str) -> Result<Output> {
    run(site, "sftp", &["-b", "-", &format!("{environment}.shop.skpr")], batch)
}

#[test]
#[ignore = "needs Kubernetes: make test-kubernetes"]
fn stock_clients_reach_the_files_of_a_container_that_has_no_program_for_it() -> Result<()> {
    let site = Site::together()?;
    load_bare_image(&site.skpr.cluster)?;
    instance(&site.sites, "bare", BARE_IMAGE, "[/bin/busybox, sleep, '86400']", USUAL)?;
    let command = r#"[sh, -c, "while :; do sleep 1; done"]"#;
    instance(&site.sites, "hardened", SITE_IMAGE, command, HARDENED)?;
    site.reaches("bare", &["/bin/busybox", "true"])?;
    site.reaches("hardened", &["true"])?;
    let home = site.user.home();
    let bytes = noise(12 << 20);
    fs::write(home.join("near"), &bytes)?;

    let batch = "pwd\nmkdir place\nput -p near place/first\nrename place/first place/second\nls -ln place\n\
                 get -p place/second back\nln -s second place/link\nls -1 place\nrm place/link\n";
    let done = sftp(&site, "bare", batch)?;
    ensure!(done.status.success(), "{}", said(&done));
    ensure!(fs::read(home.join("back"))? == bytes, "it came back another");
    for wanted in ["directory: /tmp", "12582912", "place/link", "place/second"] {
        ensure!(said(&done).contains(wanted), "{wanted}: {}", said(&done));
    }
    // It is the container's own file, and the container's own root may do with it as it likes.
    let look = ["/bin/busybox", "stat", "-c", "%u:%g %s", "/tmp/place/second"];
    let stat = site.user.skpr(&[&["exec", "bare", "--"], &look[..]].concat())?.success()?;
    assert_eq!(stat.stdout, "0:0 12582912\n");
    let owned = sftp(&site, "bare", "chown 1234 place/second\nls -ln place\n")?;
    ensure!(owned.status.success() && said(&owned).contains("1234"), "{}", said(&owned));

    // What leads out of a container leads to where it leads inside.
    let links = "ln -s ../../../../../../../etc/machine-id out\nln -s /proc/1/root/etc/machine-id through\n";
    ensure!(sftp(&site, "bare", links)?.status.success());
    for link in ["out", "through", "/var/lib/skpr-agent", "/host/proc", "/usr/bin/skpr-agent"] {
        let missing = sftp(&site, "bare", &format!("get {link} stolen\n"))?;
        ensure!(!missing.status.success(), "{link}: {}", said(&missing));
    }

    // Another user has that user's rights and files, and no more.
    let done = sftp(&site, "hardened", "cd /data\nput near\nls -ln near\n")?;
    ensure!(done.status.success() && said(&done).contains("1000"), "{}", said(&done));
    for forbidden in ["put near /bin/near", "rm /bin/busybox", "chown 0 /data/near", "mkdir /new"] {
        let refused = sftp(&site, "hardened", &format!("{forbidden}\n"))?;
        ensure!(!refused.status.success(), "{forbidden}: {}", said(&refused));
    }
    // A tree, by both of scp's protocols where there is a program for the older one.
    let tree = home.join("tree");
    fs::create_dir_all(tree.join("below/deeper"))?;
    for (number, name) in (1..).zip(["plain", "with blank", "below/deeper/file"]) {
        fs::write(tree.join(name), noise(number * 70_001))?;
    }
    ensure!(run(&site, "scp", &["-r", "tree", "bare.shop.skpr:copy"], "")?.status.success());
    ensure!(run(&site, "scp", &["-r", "bare.shop.skpr:copy", "copied"], "")?.status.success());
    let same = Command::new("diff").args(["-r", "tree", "copied"]).current_dir(home).output()?;
    ensure!(same.status.success(), "{}", said(&same));

    // Nothing is left that holds the container's files: it is gone as soon as any.
    let mut open = Killed(
        { site.user.other("sftp", &["-q", "-F", &site.config()?, "bare.shop.skpr"]) }
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?,
    );
    open.0.stdin.as_mut().context("stdin")?.write_all(b"pwd\n")?;
    let mut answers = std::io::BufReader::new(open.0.stdout.take().context("stdout")?);
    let mut answer = String::new();
    while !answer.contains("directory: /tmp") {
        ensure!(answers.read_line(&mut answer)? > 0, "sftp ended: {answer}");
    }
    // What serves them counts as the container's.
    if let Some(own) = site.skpr.cluster.breakable_for("in which cgroup files are served") {
        let node = site.sites.field("pod/bare-1", ".spec.nodeName")?;
        let groups = |program: &str| -> Result<Vec<String>> {
            let look = format!("cat /proc/$(pgrep -nf '{program}')/cgroup");
            let all = own.enter(&node, &["sh", "-c", &look])?;
            let counted = all.lines().filter(|line| !line.contains("name=")).map(str::to_owned).collect();
            Ok(counted)
        };
        let (worker, container) =
            (groups("^/usr/bin/skpr-agent worker .*files$")?, groups("^/bin/busybox sleep 86400$")?);
        assert_eq!(worker, container);
        ensure!(worker.iter().any(|line| line.contains("/kubepods/")), "{worker:?}");
    }
    let begun = std::time::Instant::now();
    site.sites.kubectl(&["delete", "pod/bare-1", "--timeout=60s"])?;
    ensure!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    drop(open);
    Ok(())
}

#[test]
#[ignore = "needs Kubernetes: make test-kubernetes"]
fn stock_ssh_leads_to_what_listens_in_a_pod_and_to_what_the_pod_knows() -> Result<()> {
    let site = Site::together()?;
    load_tools_image(&site.skpr.cluster)?;
    let serve = r#"[bash, -c, "socat TCP4-LISTEN:8080,fork,reuseaddr SYSTEM:'echo port' & socat UNIX-LISTEN:/tmp/socket,fork SYSTEM:'echo socket' & wait"]"#;
    instance(&site.sites, "tools", TOOLS_IMAGE, serve, USUAL)?;
    site.reaches("tools", &["true"])?;
    site.sites.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: $NAMESPACE}\nspec:\n  selector: {skpr.io/environment: tools}\n  ports: [{port: 80, targetPort: 8080}]\n",
    )?;
    let through = |to: &str| -> Result<Output> {
        let config = site.config()?;
        let words = ["-F", &config, "-o", "BatchMode=yes", "-W", to, "tools.shop.skpr"];
        fed(site.user.other("ssh", &words), vec![])
    };
    let whole = format!("web.{}.svc.cluster.local:80", site.sites.name());
    for to in ["127.0.0.1:8080", "localhost:8080", "tools-1:8080", "web:80", &whole] {
        eventually(&format!("{to} answers"), TIMEOUT, || {
            Ok((said(&through(to)?).contains("port\n")).then_some(()))
        })?;
    }
    for nowhere in ["127.0.0.1:9", "no-such-name:80", "[::1]:9"] {
        let refused = through(nowhere)?;
        ensure!(!refused.status.success() && refused.stdout.is_empty(), "{nowhere}: {}", said(&refused));
    }
    // A socket, by `ssh -L` of one to another.
    let near = site.user.home().join("near.socket");
    let leads = format!("{}:/tmp/socket", near.display());
    let config = site.config()?;
    let words = ["-F", &config, "-o", "BatchMode=yes", "-N", "-L", &leads, "tools.shop.skpr"];
    let _ssh = Killed({ site.user.other("ssh", &words) }.stdin(Stdio::null()).spawn()?);
    let answer = eventually("the socket answers", TIMEOUT, || {
        let Ok(mut stream) = UnixStream::connect(&near) else { return Ok(None) };
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok((!answer.is_empty()).then_some(answer))
    })?;
    assert_eq!(answer, "socket\n");

    // rsync of its own at both ends.
    let tree = site.user.home().join("tree");
    fs::create_dir_all(tree.join("a/b"))?;
    for number in 0..40 {
        fs::write(tree.join(format!("a/b/{number}")), noise(number * 5001))?;
    }
    let rsync = |from: &str, to: &str| -> Result<()> {
        let ssh = format!("ssh -F {config} -o BatchMode=yes");
        let mut rsync = site.user.other("rsync", &["-a", "--delete", "-e", &ssh, from, to]);
        let done = rsync.current_dir(site.user.home()).stdin(Stdio::null()).output()?;
        ensure!(done.status.success(), "{}", said(&done));
        Ok(())
    };
    rsync("tree/", "tools.shop.skpr:/tmp/tree/")?;
    fs::write(tree.join("a/b/7"), "changed")?;
    rsync("tree/", "tools.shop.skpr:/tmp/tree/")?;
    rsync("tools.shop.skpr:/tmp/tree/", "back/")?;
    let same = Command::new("diff").args(["-r", "tree", "back"]).current_dir(site.user.home()).output()?;
    ensure!(same.status.success(), "{}", said(&same));

    // A client that is not OpenSSH's.
    if let Some(python) = std::env::var_os("SKPR_TEST_PYTHON") {
        let script = include_str!("asyncssh_client.py");
        let proxy = format!("{} ssh-proxy tools.shop.skpr", skpr_tests::cli::program("skpr")?.display());
        let mut client = site.user.other(python, &["-c", script, &proxy]);
        let done = client.stdin(Stdio::null()).output().context("run a client of asyncssh")?;
        ensure!(done.status.success() && said(&done).contains("asyncssh: all well"), "{}", said(&done));
    }
    Ok(())
}
