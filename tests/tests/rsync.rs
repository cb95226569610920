//! `skpr rsync` on one machine, with the programs as they are installed.

use anyhow::{Context as _, Result, ensure};
use skpr_tests::cli::{Finished, Running, User};
use skpr_tests::eventually;
use skpr_tests::machine::Machine;
use skpr_tests::numbers::Numbers;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::Permissions;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
const VOLUME: &str = "volumes: {files: {path: /data/files, size: 1Gi}}";

fn rsync(user: &User, words: &[&str]) -> Result<Finished> {
    user.skpr(&[&["rsync"], words].concat())
}

/// Bytes of which nothing can be saved, by their number.
fn noise(length: usize) -> Vec<u8> {
    Numbers::new(length as u64).bytes(length)
}

/// Where the instance of a machine is.
fn place(machine: &Machine) -> Result<PathBuf> {
    eventually("the instance runs somewhere", PATIENCE, || Ok(machine.running_in().into_iter().next()))
}

/// Everything of a tree that a transfer keeps.
fn state(root: &Path) -> Result<BTreeMap<Vec<u8>, String>> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let meta = path.symlink_metadata()?;
        let what = if meta.is_dir() {
            left.extend(
                std::fs::read_dir(&path)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?,
            );
            "directory".to_owned()
        } else if meta.is_symlink() {
            format!("link {:?}", std::fs::read_link(&path)?)
        } else {
            format!(
                "{} {:?}",
                meta.len(),
                std::fs::read(&path)?.iter().fold(7_u64, |sum, byte| {
                    sum.wrapping_mul(1_099_511_628_211).wrapping_add(u64::from(*byte))
                })
            )
        };
        let time = if meta.is_symlink() { 0 } else { meta.mtime() };
        let name = path.strip_prefix(root)?.as_os_str().as_bytes().to_vec();
        found.insert(name, format!("{what} {:o} {time}", meta.mode()));
    }
    Ok(found)
}

/// A tree with what is hard to carry, modified long ago.
fn tree(root: &Path) -> Result<()> {
    std::fs::create_dir_all(root.join("below/deeper"))?;
    std::fs::create_dir(root.join("empty"))?;
    let names: [&[u8]; 7] = [
        b"plain",
        b"with blank",
        b"umlaut-\xc3\xa4",
        b"not-utf8-\xff",
        b"line\nend",
        b"\x1b[31mred\x1b[2J",
        b"below/deeper/file",
    ];
    for (number, name) in (1_usize..).zip(names) {
        let path = root.join(OsStr::from_bytes(name));
        std::fs::write(&path, noise(number * 20_011))?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o600 + number as u32 % 5))?;
    }
    std::fs::write(root.join("large"), noise(5 << 20))?;
    symlink("plain", root.join("link"))?;
    symlink("/nowhere/at/all", root.join("dangling"))?;
    age(root)
}

/// What was just modified is looked at twice.
fn age(root: &Path) -> Result<()> {
    let old = std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        if path.symlink_metadata()?.is_dir() {
            left.extend(
                std::fs::read_dir(&path)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?,
            );
        }
        if !path.is_symlink() {
            std::fs::File::open(&path)?.set_modified(old)?;
        }
    }
    Ok(())
}

/// What a transfer leaves behind that is not a file of anybody's.
fn leftovers(root: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(root)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let is_ours =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.as_bytes().starts_with(b".skpr-rsync."));
    Ok(entries.into_iter().filter(is_ours).collect())
}

#[test]
fn a_tree_goes_there_and_comes_back_and_then_nothing_does() -> Result<()> {
    let machine = Machine::ready()?;
    let (user, home) = (&machine.user, machine.user.home());
    tree(&home.join("tree"))?;
    let first = rsync(user, &["-ai", "tree/", "dev:copy/"])?.success()?;
    assert!(first.stdout.contains("<f+++++++++ below/deeper/file\n"), "{}", first.stdout);
    assert!(first.stdout.contains(r"line\#012end") && !first.stdout.contains('\u{1b}'), "{}", first.stdout);
    let there = place(&machine)?.join("copy");
    assert_eq!(state(&there)?, state(&home.join("tree"))?);
    // The directory itself, by its name, and what is in it.
    rsync(user, &["-a", "dev:copy", "back"])?.success()?;
    assert_eq!(state(&home.join("back/copy"))?, state(&there)?);
    rsync(user, &["-a", "dev:copy/", "again/"])?.success()?;
    assert_eq!(state(&home.join("again"))?, state(&there)?);
    for same in [["-ai", "tree/", "dev:copy/"], ["-ai", "dev:copy/", "again/"]] {
        assert_eq!(rsync(user, &same)?.success()?.stdout, "");
    }
    // One file, under another name; and what has grown costs what is new.
    rsync(user, &["-a", "tree/large", "dev:copy/other"])?.success()?;
    let mut grown = noise(5 << 20);
    grown.extend(noise(1000));
    std::fs::write(home.join("tree/large"), &grown)?;
    let done = rsync(user, &["-a", "-o", "json", "tree/large", "dev:copy/other"])?.success()?;
    let told: serde_json::Value = serde_json::from_str(&done.stdout)?;
    assert!(std::fs::read(there.join("other"))? == grown);
    assert_eq!((&told["direction"], &told["code"]), (&"push".into(), &0.into()), "{told}");
    assert_eq!(told["matched_bytes"], 5 << 20, "{told}");
    assert!(told["sent_bytes"].as_u64().context("a number")? < 10_000, "{told}");
    assert_eq!(leftovers(&there)?, Vec::<PathBuf>::new());
    Ok(())
}

#[test]
fn what_is_said_is_what_rsync_says() -> Result<()> {
    let machine = Machine::ready()?;
    let (user, home) = (&machine.user, machine.user.home());
    std::fs::create_dir(home.join("tree"))?;
    std::fs::write(home.join("tree/one"), "1")?;
    std::fs::write(home.join("tree/two.log"), "22")?;
    let dry = rsync(user, &["-ain", "tree/", "dev:copy/"])?.success()?;
    assert!(dry.stdout.contains("<f+++++++++ one\n"), "{}", dry.stdout);
    assert!(!place(&machine)?.join("copy").exists());
    let done = rsync(user, &["-av", "--stats", "--exclude", "*.log", "tree/", "dev:copy/"])?.success()?;
    for line in ["one\n", "Number of regular files transferred: 1\n", "total size is 1 "] {
        assert!(done.stdout.contains(line), "{line}: {}", done.stdout);
    }
    assert!(!done.stdout.contains("two.log"));
    let quiet = rsync(user, &["-a", "--filter", "- *.log", "tree/", "dev:copy/"])?.success()?;
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
    // Rules count in the order in which they stand.
    rsync(user, &["-a", "--include", "two.log", "--exclude", "*", "tree/", "dev:logs/"])?.success()?;
    assert_eq!(state(&place(&machine)?.join("logs"))?.len(), 2);
    rsync(user, &["-a", "--chmod", "D700,F640", "tree/", "dev:modes/"])?.success()?;
    assert_eq!(place(&machine)?.join("modes/one").metadata()?.mode() & 0o777, 0o640);
    // The audit knows what for, how much, and how it ended.
    let line = eventually("the audit has it", PATIENCE, || {
        let lines = machine.said();
        Ok(lines.into_iter().rfind(|line| line.contains(r#""purpose":"files""#)))
    })?;
    assert!(line.contains(r#""exit":"0""#) && line.contains(r#""environment":"shop/dev""#), "{line}");
    Ok(())
}

#[test]
fn deletions_are_asked_for_counted_and_never_by_accident() -> Result<()> {
    let machine = Machine::ready()?;
    let (user, home) = (&machine.user, machine.user.home());
    std::fs::create_dir(home.join("tree"))?;
    for name in ["one", "two", "three"] {
        std::fs::write(home.join("tree").join(name), name)?;
    }
    rsync(user, &["-a", "tree/", "dev:copy/"])?.success()?;
    let there = place(&machine)?.join("copy");
    std::fs::remove_file(home.join("tree/two"))?;
    rsync(user, &["-a", "tree/", "dev:copy/"])?.success()?;
    assert!(there.join("two").exists());
    let dry = rsync(user, &["-ain", "--delete", "tree/", "dev:copy/"])?.success()?;
    assert!(dry.stdout.contains("*deleting   two\n"), "{}", dry.stdout);
    assert!(there.join("two").exists());
    rsync(user, &["-a", "--delete", "tree/", "dev:copy/"])?.success()?;
    assert!(!there.join("two").exists() && there.join("one").exists());
    // An emptied source empties nothing, unless that is what is wanted.
    std::fs::create_dir(home.join("nothing"))?;
    let refused = rsync(user, &["-a", "--delete", "nothing/", "dev:copy/"])?.exit(23)?;
    assert!(refused.stderr.contains("the source is empty") && refused.stderr.contains("--allow-empty"));
    assert!(there.join("one").exists());
    rsync(user, &["-a", "--delete", "--allow-empty", "--max-delete", "1", "nothing/", "dev:copy/"])?
        .exit(25)?;
    assert_eq!(std::fs::read_dir(&there)?.count(), 1);
    rsync(user, &["-a", "--delete", "--allow-empty", "nothing/", "dev:copy/"])?.success()?;
    assert_eq!(std::fs::read_dir(&there)?.count(), 0);
    // Here, too.
    std::fs::write(home.join("tree/extra"), "extra")?;
    let refused = rsync(user, &["-a", "--delete", "dev:copy/", "tree/"])?.exit(23)?;
    assert!(refused.stderr.contains("the source is empty"), "{}", refused.stderr);
    assert!(home.join("tree/extra").exists());
    Ok(())
}

#[test]
fn in_production_nothing_is_deleted_that_nobody_agreed_to() -> Result<()> {
    let machine = Machine::ready_as("production: true")?;
    let (user, home) = (&machine.user, machine.user.home());
    std::fs::create_dir_all(home.join("tree"))?;
    std::fs::write(home.join("tree/one"), "one")?;
    rsync(user, &["-a", "tree/", "dev:copy/"])?.success()?;
    let there = place(&machine)?.join("copy");
    std::fs::write(there.join("extra"), "extra")?;
    let refused = rsync(user, &["-a", "--delete", "tree/", "dev:copy/"])?.exit(1)?;
    assert!(refused.stderr.contains("is production") && refused.stderr.contains("-y"), "{}", refused.stderr);
    rsync(user, &["-an", "--delete", "tree/", "dev:copy/"])?.success()?;
    assert!(there.join("extra").exists());
    rsync(user, &["-ay", "--delete", "tree/", "dev:copy/"])?.success()?;
    assert!(!there.join("extra").exists());
    Ok(())
}

#[test]
fn a_volume_is_named_and_nothing_leads_out_of_it_or_of_the_instance() -> Result<()> {
    let machine = Machine::ready_as(VOLUME)?;
    let (user, home) = (&machine.user, machine.user.home());
    tree(&home.join("tree"))?;
    rsync(user, &["-a", "tree/", "dev:files:/2026/"])?.success()?;
    let volume = machine.data().join("volumes/shop/dev/files");
    assert_eq!(state(&volume.join("2026"))?, state(&home.join("tree"))?);
    // By the path that the instance has it at in Kubernetes, too.
    rsync(user, &["-a", "dev:/data/files/2026/", "back/"])?.success()?;
    assert_eq!(state(&home.join("back"))?, state(&home.join("tree"))?);
    let unknown = rsync(user, &["-a", "dev:other:/", "back/"])?.exit(5)?;
    assert!(unknown.stderr.contains("no volume `other`") && unknown.stderr.contains("`files`"));
    // Whatever leads out, leads nowhere.
    let secret = machine.data().join("secret");
    std::fs::create_dir(&secret)?;
    std::fs::write(secret.join("token"), "secret")?;
    symlink(&secret, volume.join("out"))?;
    symlink(&secret, place(&machine)?.join("out"))?;
    symlink("../../../../../..", place(&machine)?.join("up"))?;
    let full = secret.display().to_string();
    for path in ["files:/out/", "/data/files/out/", "out/", "up/etc/passwd", "/../../../etc/passwd", &full] {
        let path = format!("dev:{path}");
        let refused = rsync(user, &["-a", &path, "stolen/"])?.exit(3)?;
        assert!(refused.stderr.starts_with("error: "), "{path}: {}", refused.stderr);
        assert!(!home.join("stolen/token").exists() && !home.join("stolen/passwd").exists(), "{path}");
        drop(rsync(user, &["-a", "tree/plain", &format!("{path}/")])?);
        assert_eq!(std::fs::read_dir(&secret)?.count(), 1, "{path}");
    }
    Ok(())
}

#[test]
fn a_transfer_takes_its_own_right_and_no_other_comes_with_it() -> Result<()> {
    let machine = Machine::ready()?;
    let runner = machine.user_with("runner", "shop/dev:exec")?;
    let mover = machine.user_with("mover", "shop/dev:files")?;
    let nobody = machine.user_with("nobody", "shop/other:files+exec")?;
    std::fs::write(mover.home().join("file"), "moved")?;
    rsync(&mover, &["-a", "file", "dev:file"])?.success()?;
    assert_eq!(std::fs::read_to_string(place(&machine)?.join("file"))?, "moved");
    mover.skpr(&["exec", "dev", "--", "true"])?.exit(4)?;
    runner.skpr(&["exec", "dev", "--", "true"])?.success()?;
    let refused = rsync(&runner, &["-a", "dev:file", "."])?.exit(5)?;
    assert!(refused.stderr.contains("read and write its files"), "{}", refused.stderr);
    let refused = rsync(&nobody, &["-a", "dev:file", "."])?.exit(5)?;
    assert!(refused.stderr.contains("no environment `shop/dev` that you may"), "{}", refused.stderr);
    assert!(!runner.home().join("file").exists() && !nobody.home().join("file").exists());
    Ok(())
}

#[test]
fn what_cannot_be_meant_is_said_with_rsyncs_codes() -> Result<()> {
    let machine = Machine::ready()?;
    let user = &machine.user;
    std::fs::write(user.home().join("file"), "x")?;
    let away = User::new()?.with("SKPR_CLUSTER", "127.0.0.1:1").with("SKPR_TOKEN", "x");
    let ca = machine.said().iter().find_map(|line| line.strip_prefix("ca: ").map(str::to_owned));
    let away = away.with("SKPR_CA", ca.context("a CA")?).with("SKPR_PROJECT", "shop");
    rsync(&away, &["-a", "file", "dev:file"])?.exit(10)?;
    for (words, code, said) in [
        (&["-a", "file"][..], 1, "DST"),
        (&["--no-such-flag", "file", "dev:"], 1, "--no-such-flag"),
        (&["file", "other"], 1, "neither SRC nor DST"),
        (&["dev:a", "prod:b"], 1, "both name an environment"),
        (&["--filter", ": .rules", "file", "dev:"], 1, "per-directory"),
        (&["--exclude-from", "missing", "file", "dev:"], 1, "missing"),
        (&["--chmod", "rwx", "file", "dev:"], 1, "rwx"),
        (&["--bwlimit", "fast", "file", "dev:"], 1, "fast"),
        (&["-a", "missing", "dev:"], 3, "missing"),
        (&["-a", "dev:missing", "."], 3, "missing"),
        (&["-a", "file", "dev:no/such/place"], 3, "no/such"),
        (&["-a", "file", "prod:"], 5, "prod"),
        (&["-a", "--instance", "shop-dev-r9-9", "file", "dev:"], 5, "no instance"),
        (&["-a", "\u{1b}[2J:x", "."], 1, "environment"),
    ] {
        let done = rsync(user, words)?.exit(code).with_context(|| format!("{words:?}"))?;
        assert!(done.stderr.contains(said), "{words:?}: {}", done.stderr);
        assert!(!done.stderr.contains('\u{1b}'), "{words:?}: {}", done.stderr);
    }
    Ok(())
}

/// A transfer of a large file that takes its time, once some of it has come.
fn slow(machine: &Machine, words: &[&str], into: &Path) -> Result<Running> {
    let all = [&["rsync", "-a", "--bwlimit", "1M"], words].concat();
    let running = machine.user.start("skpr", &all)?;
    eventually("some of it has come", PATIENCE, || {
        let size = |path: PathBuf| path.metadata().map_or(0, |meta| meta.len());
        Ok(leftovers(into)?.into_iter().any(|path| size(path) > 1 << 20).then_some(()))
    })?;
    Ok(running)
}

#[test]
fn an_interrupted_transfer_leaves_the_old_file_and_goes_on_from_there() -> Result<()> {
    let machine = Machine::ready()?;
    let home = machine.user.home();
    let place = place(&machine)?;
    let bytes = noise(24 << 20);
    for (way, from, into) in [
        (["file", "dev:there/file"], home.join("file"), place.join("there")),
        (["dev:near/file", "here/file"], place.join("near/file"), home.join("here")),
    ] {
        std::fs::create_dir_all(&into)?;
        std::fs::create_dir_all(from.parent().context("a directory")?)?;
        std::fs::write(&from, &bytes)?;
        std::fs::write(into.join("file"), "old")?;
        let running = slow(&machine, &[&["--partial"], &way[..]].concat(), &into)?;
        let ended = running.end("INT", Duration::from_secs(10))?.exit(20)?;
        assert!(ended.stderr.contains("interrupted"), "{}", ended.stderr);
        eventually("nothing half done is left", PATIENCE, || Ok(leftovers(&into)?.is_empty().then_some(())))?;
        assert_eq!(std::fs::read_to_string(into.join("file"))?, "old");
        // What has come is not sent again.
        let done =
            rsync(&machine.user, &[&["-a", "--partial", "-o", "json"], &way[..]].concat())?.success()?;
        let told: serde_json::Value = serde_json::from_str(&done.stdout)?;
        assert!(told["matched_bytes"].as_u64().context("a number")? >= 1 << 20, "{told}");
        ensure!(std::fs::read(into.join("file"))? == bytes, "{way:?}: it came another");
        assert_eq!(std::fs::read_dir(&into)?.count(), 1, "{way:?}");
    }
    Ok(())
}

#[test]
fn a_killed_end_leaves_the_old_file_and_nothing_after_the_next_run() -> Result<()> {
    let mut machine = Machine::ready()?;
    let home = machine.user.home().to_owned();
    let there = place(&machine)?.join("there");
    std::fs::create_dir(&there)?;
    std::fs::write(home.join("file"), noise(24 << 20))?;
    std::fs::write(there.join("file"), "old")?;
    // The client, at once.
    let running = slow(&machine, &["file", "dev:there/file"], &there)?;
    drop(running.end("KILL", PATIENCE)?);
    assert_eq!(std::fs::read_to_string(there.join("file"))?, "old");
    eventually("the worker puts away what it has", PATIENCE, || {
        Ok(leftovers(&there)?.is_empty().then_some(()))
    })?;
    // The aggregator, and everything with it.
    let running = slow(&machine, &["file", "dev:there/file"], &there)?;
    machine.end("KILL")?;
    let ended = running.wait(PATIENCE)?.exit(12)?;
    assert!(ended.stderr.contains("was lost"), "{}", ended.stderr);
    assert_eq!(std::fs::read_to_string(there.join("file"))?, "old");
    machine.start()?;
    eventually("the instance is ready", PATIENCE, || {
        machine.user.skpr(&["exec", "dev", "--", "true"])?.success().map(Some)
    })?;
    std::fs::write(machine.user.home().join("file"), noise(24 << 20))?;
    rsync(&machine.user, &["-a", "file", "dev:there/file"])?.success()?;
    ensure!(std::fs::read(there.join("file"))? == noise(24 << 20), "it came another");
    assert_eq!(leftovers(&there)?, Vec::<PathBuf>::new());
    Ok(())
}

/// The most memory of a process so far, in MiB; none once it has ended.
fn most_memory(process: &Path) -> Option<u64> {
    let status = std::fs::read_to_string(process.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib >> 10)
}

#[test]
fn case_24_a_file_larger_than_memory_takes_little_of_it() -> Result<()> {
    let machine = Machine::ready()?;
    let file = std::fs::File::create(machine.user.home().join("file"))?;
    file.set_len(12 << 30)?;
    for part in 0..64 {
        file.write_all_at(&noise(1 << 20), (part * 190) << 20)?;
    }
    let running = machine.user.start("skpr", &["rsync", "-aS", "file", "dev:file"])?;
    let client = PathBuf::from(format!("/proc/{}", running.id()));
    let (data, instance) = (machine.data().display().to_string(), place(&machine)?);
    let mut most = BTreeMap::new();
    while let Some(mib) = most_memory(&client) {
        most.insert("client".to_owned(), mib);
        // The aggregator with its agent within, and what works in the instance: its site and the worker.
        for process in std::fs::read_dir("/proc")?.filter_map(Result::ok).map(|entry| entry.path()) {
            let words = std::fs::read_to_string(process.join("cmdline")).unwrap_or_default();
            let inside = std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == instance);
            if (inside || words.contains(&data))
                && let Some(mib) = most_memory(&process)
            {
                most.insert(words, mib);
            }
        }
    }
    running.wait(PATIENCE)?.success()?;
    assert!(most.keys().any(|words| words.contains("transfer")), "the worker was not seen: {most:?}");
    assert!(most.values().all(|mib| *mib <= 128), "{most:?}");
    let there = instance.join("file").metadata()?;
    assert_eq!(there.len(), 12 << 30);
    assert!(there.blocks() * 512 < 200 << 20, "{} blocks", there.blocks());
    Ok(())
}
