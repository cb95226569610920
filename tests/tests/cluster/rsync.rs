//! `skpr rsync` with the containers of a real node, which have no program for it.

use super::sessions::{BARE_IMAGE, HARDENED, Site, USUAL, half, instance, load_bare_image, text};
use super::setup::SITE_IMAGE;
use super::shop::TIMEOUT;
use anyhow::{Context as _, Result, ensure};
use skpr_tests::cli::{Finished, Running};
use skpr_tests::eventually;
use skpr_tests::numbers::Numbers;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const SLEEP: &str = r#"[sh, -c, "while :; do sleep 1; done"]"#;
const BARE: &str = "[/bin/busybox, sleep, '86400']";

fn rsync(site: &Site, words: &[&str]) -> Result<Finished> {
    site.user.skpr(&[&["rsync"], words].concat())
}

/// A site of so many files, in a version of it: of the second one some are new, some are gone, and some are others.
fn tree(root: &Path, files: u64, version: u64) -> Result<()> {
    for number in 0..files {
        let changes = number % 17 == 0;
        if changes && version == 2 && number % 3 == 0 {
            continue;
        }
        let name = if changes && version == 2 && number % 3 == 1 { "renamed" } else { "file" };
        let directory = root.join(format!("part-{}/of-{}", number % 23, number % 211));
        fs::create_dir_all(&directory)?;
        let seed = if changes { number + version * files } else { number };
        let mut text = format!("<?php // {seed}\n").repeat(1 + (number % 60) as usize).into_bytes();
        text.extend(Numbers::new(seed).bytes((number % 7 * 100) as usize));
        fs::write(directory.join(format!("{name}-{number}.php")), text)?;
    }
    symlink("part-1", root.join("link")).ok();
    Ok(())
}

fn same(one: &Path, other: &Path) -> Result<()> {
    let diff = Command::new("diff").args(["-r", "--no-dereference"]).args([one, other]).output()?;
    ensure!(diff.status.success(), "{}", text(&diff.stdout));
    Ok(())
}

#[test]
#[ignore = "needs Kubernetes: make test-kubernetes"]
fn files_go_into_containers_and_come_back_with_nothing_needed_in_them() -> Result<()> {
    let site = Site::together()?;
    load_bare_image(&site.skpr.cluster)?;
    instance(&site.sites, "bare", BARE_IMAGE, BARE, USUAL)?;
    instance(&site.sites, "hardened", SITE_IMAGE, SLEEP, HARDENED)?;
    instance(&site.sites, "frozen", BARE_IMAGE, BARE, "readOnlyRootFilesystem: true")?;
    for (environment, program) in [("bare", "/bin/busybox"), ("hardened", "true"), ("frozen", "/bin/busybox")]
    {
        let words = if program == "true" { vec!["true"] } else { vec![program, "true"] };
        site.reaches(environment, &words)?;
    }
    both_ways(&site)?;
    users_and_places(&site)?;
    a_large_project(&site)?;
    rights(&site)?;
    nothing_leads_out(&site)
}

fn both_ways(site: &Site) -> Result<()> {
    let home = site.user.home();
    tree(&home.join("small"), 300, 1)?;
    for (environment, place) in [("bare", ""), ("hardened", "/data/"), ("frozen", "/data/")] {
        let there = format!("{environment}:{place}copy/");
        rsync(site, &["-a", "small/", &there])?.success()?;
        let back = format!("back-{environment}/");
        rsync(site, &["-a", &there, &back])?.success()?;
        same(&home.join("small"), &home.join(&back))?;
        let again = rsync(site, &["-ai", "small/", &there])?.success()?;
        ensure!(again.stdout.is_empty(), "{environment}: {}", again.stdout);
    }
    Ok(())
}

/// Files are the container's user's, and go where that one may write.
fn users_and_places(site: &Site) -> Result<()> {
    let home = site.user.home();
    fs::write(home.join("file"), "file")?;
    rsync(site, &["-a", "file", "hardened:/data/file"])?.success()?;
    let stat = site.user.skpr(&["exec", "hardened", "--", "stat", "-c", "%u:%g", "/data/file"])?.success()?;
    assert_eq!(stat.stdout, "1000:1000\n");
    let forbidden =
        [("hardened:/bin/file", "denied"), ("frozen:/tmp/file", "Read-only"), ("hardened:/new/", "denied")];
    for (there, why) in forbidden {
        let refused = rsync(site, &["-a", "file", there])?;
        ensure!([3, 11, 23].contains(&refused.status.code().unwrap_or(0)), "{there}: {refused:?}");
        ensure!(refused.stderr.contains(why), "{there}: {}", refused.stderr);
    }
    Ok(())
}

/// Two versions, one over the other; `SKPR_TEST_TREES=DIR:DIR` takes those of a real project instead, of which git says as
/// well whether it is the one that was checked out.
fn a_large_project(site: &Site) -> Result<()> {
    let home = site.user.home();
    let given = std::env::var("SKPR_TEST_TREES").ok();
    let versions = match given.as_deref().and_then(|given| given.split_once(':')) {
        Some((one, two)) => [one.into(), two.into()],
        None => [home.join("one"), home.join("two")],
    };
    for (number, version) in (1..).zip(&versions) {
        if given.is_none() {
            tree(version, 5500, number)?;
        }
        let from = format!("{}/", version.display());
        rsync(site, &["-a", "--delete", "-y", &from, "bare:project/"])?.success()?;
        rsync(site, &["-a", "--delete", "bare:project/", "project/"])?.success()?;
        same(version, &home.join("project"))?;
        if version.join(".git").exists() {
            let mut git = Command::new("git");
            git.args(["status", "--porcelain"]).current_dir(home.join("project"));
            let status = git.output().context("run git")?;
            ensure!(status.status.success() && status.stdout.is_empty(), "{status:?}");
        }
    }
    Ok(())
}

fn rights(site: &Site) -> Result<()> {
    site.sites.apply(&half("environments/files"))?;
    let half = site.skpr.user(&site.sites, "half", "skpr")?;
    fs::write(half.home().join("file"), "file")?;
    let refused = half.skpr(&["rsync", "-p", "shop", "file", "bare:file"])?.exit(5)?;
    ensure!(refused.stderr.contains("no environment `shop/bare` that you may"), "{}", refused.stderr);
    Ok(())
}

/// Links, swaps and what the kernel shows as files: all of it stays in the container, at either end.
fn nothing_leads_out(site: &Site) -> Result<()> {
    let home = site.user.home();
    let exec = |words: &[&str]| site.user.skpr(&[&["exec", "dev", "--"], words].concat());
    let links = "mkdir -p /tmp/hostile/inner && cd /tmp/hostile && ln -s ../../../../../../../../etc out && \
                 ln -s /proc/1/root through && ln -s /proc/self/cwd self && mkfifo pipe && ln -s loop loop && \
                 printf x > \"$(printf 'a\\033[2Jb')\" && echo inside > inner/file";
    exec(&["sh", "-c", links])?.success()?;
    let pulled = rsync(site, &["-av", "dev:/tmp/hostile/", "hostile/"])?.success()?;
    ensure!(!pulled.stdout.contains('\u{1b}'), "{}", pulled.stdout);
    // One of them never ends.
    for device in ["zero", "null", "tty"] {
        let pulled = rsync(site, &["-a", &format!("dev:/dev/{device}"), "device"])?.success()?;
        ensure!(pulled.stderr.contains("skipped: it is a device"), "{}", pulled.stderr);
        ensure!(!home.join("device").exists());
    }
    // They are text here, and lead nowhere for the next transfer either.
    let link = fs::read_link(home.join("hostile/out"))?;
    ensure!(link.ends_with("etc"), "{link:?}");
    for path in ["out/machine-id", "through/etc/machine-id", "self/", "loop/"] {
        let path = format!("dev:/tmp/hostile/{path}");
        rsync(site, &["-a", &path, "stolen/"])?.exit(3)?;
    }
    for path in ["/host/proc/", "/usr/bin/skpr-agent", "/run/containerd/"] {
        rsync(site, &["-a", &format!("dev:{path}"), "stolen/"])?.exit(3)?;
    }
    // The worker is none of the container's processes, and what the kernel shows of them is no tree of files.
    rsync(site, &["-a", "dev:/proc/self/", "stolen/"])?.exit(3)?;
    rsync(site, &["-a", "dev:/proc/1/", "stolen/"])?.exit(23)?;
    ensure!(!home.join("stolen").exists() || fs::read_dir(home.join("stolen"))?.next().is_none());

    // A directory that becomes a link and a directory again, all the time, while files are pushed, pulled and deleted.
    let swap = "mkdir -p /tmp/hostile/play/real && cd /tmp/hostile/play && while [ ! -e stop ]; do ln -sn / swap; mv swap was; \
                rm -rf was; mkdir swap; echo x > swap/file; mv swap real/swap; rm -rf real/swap; done 2>/dev/null";
    let swapping = site.user.start("skpr", &["exec", "dev", "--", "sh", "-c", swap])?;
    tree(&home.join("many/swap"), 40, 1)?;
    fs::write(home.join("many/swap/marker"), "outside")?;
    let own = ["/stop", "/real", "/was"].map(|own| ["--exclude", own]).concat();
    for round in 0..20 {
        for words in [
            &["-a", "--delete", "-y", "many/", "dev:/tmp/hostile/play/"][..],
            &["-a", "--delete", "dev:/tmp/hostile/play/", "swapped/"],
        ] {
            let done = rsync(site, &[words, &own].concat())?;
            let code = done.status.code().context("a code")?;
            ensure!([0, 3, 11, 23, 24].contains(&code), "round {round}: {code}: {}", done.stderr);
        }
    }
    exec(&["touch", "/tmp/hostile/play/stop"])?.success()?;
    drop(swapping.wait(TIMEOUT)?);
    // The link leads to the root, here as there: nothing has been written or deleted by way of it.
    exec(&["sh", "-c", "[ ! -e /marker ] && [ -c /dev/null ] && [ -e /tmp/hostile/out ]"])?.success()?;
    ensure!(!Path::new("/marker").exists() && !home.join("marker").exists());
    if let Some(own) = site.skpr.cluster.breakable() {
        for node in ["node1", "node2"] {
            ensure!(own.enter(node, &["sh", "-c", "ls /marker 2>/dev/null || true"])?.trim().is_empty());
        }
    }
    Ok(())
}

/// A push that takes its time, once it has begun.
fn slow(site: &Site, words: &[&str], look: &[&str]) -> Result<Running> {
    let all = [&["rsync", "-a", "--bwlimit", "2M"], words].concat();
    let running = site.user.start("skpr", &all)?;
    eventually("some of it has come", TIMEOUT, || {
        let listed = site.user.skpr(look)?.success()?.stdout;
        Ok(listed.contains(".skpr-rsync.").then_some(()))
    })?;
    Ok(running)
}

#[test]
#[ignore = "needs Kubernetes: make test-kubernetes"]
fn whatever_is_killed_a_file_is_old_or_new_and_nothing_is_left() -> Result<()> {
    let site = Site::alone()?;
    let Some(own) = site.skpr.cluster.breakable() else { return Ok(()) };
    let home = site.user.home();
    let (old, new) = (Numbers::new(1).bytes(8 << 20), Numbers::new(2).bytes(24 << 20));
    fs::write(home.join("old"), &old)?;
    fs::write(home.join("new"), &new)?;
    let list = ["exec", "dev", "--", "ls", "-a", "/data"];
    let node = site.sites.field("pod/dev-1", ".spec.nodeName")?;
    let (_, aggregators) = site.skpr.aggregator()?;
    let mut numbers = Numbers::new(7);
    for round in 0..8 {
        rsync(&site, &["-a", "old", "dev:/data/file"])?.success()?;
        let begun = slow(&site, &["new", "dev:/data/file"], &list)?;
        std::thread::sleep(Duration::from_millis(numbers.below(4000)));
        match round % 4 {
            0 => drop(begun.end("KILL", TIMEOUT)?),
            1 => {
                own.kill(&aggregators, "skpr-aggregator")?;
                begun.wait(TIMEOUT)?.exit(12)?;
            }
            2 => {
                // The agent, its sessions and the worker, which have one name.
                own.kill(&node, "skpr-agent")?;
                begun.wait(TIMEOUT)?.exit(12)?;
            }
            _ => {
                own.enter(&node, &["pkill", "-KILL", "-f", "skpr-agent worker"])?;
                begun.wait(TIMEOUT)?.exit(12)?;
            }
        }
        site.reaches("dev", &["true"])?;
        rsync(&site, &["-a", "dev:/data/file", "seen"])?.success()?;
        let seen = fs::read(home.join("seen"))?;
        ensure!(seen == old || seen == new, "round {round}: {} bytes", seen.len());
        rsync(&site, &["-a", "new", "dev:/data/file"])?.success()?;
        eventually("nothing is left", TIMEOUT, || {
            let listed = site.user.skpr(&list)?.success()?.stdout;
            Ok((!listed.contains(".skpr-")).then_some(()))
        })?;
    }
    Ok(())
}

#[test]
#[ignore = "needs Kubernetes: make test-kubernetes"]
fn a_container_that_is_deleted_is_not_held_by_a_transfer() -> Result<()> {
    let site = Site::together()?;
    let home = site.user.home();
    fs::write(home.join("file"), Numbers::new(3).bytes(64 << 20))?;
    let list = ["exec", "dev", "--", "ls", "-a", "/data"];
    let pushing = slow(&site, &["file", "dev:/data/file"], &list)?;
    let begun = Instant::now();
    site.sites.kubectl(&["delete", "pod/dev-1", "--timeout=60s"])?;
    ensure!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let ended = pushing.wait(Duration::from_secs(20))?.exit(12)?;
    ensure!(ended.stderr.contains("error: "), "{}", ended.stderr);
    Ok(())
}
