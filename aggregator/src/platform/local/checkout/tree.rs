//! From a commit to files: reads what git lists and says, and writes it.
//!
//! * Files are what the commit holds, byte for byte: no line endings are turned and no filters run, so that files of
//!   Git LFS come as their pointers. A commit with submodules is refused: they are not in it.
//! * Nothing is written outside of the directory, whatever a forged commit says.
//! * What may block runs where it may. It ends when git does, and git ends with whoever waits for it.

use super::super::git::{Commit, Repository};
use anyhow::{Context as _, bail, ensure};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

/// How long writing a commit may take, and how much it may hold: far above any site.
const WITHIN: Duration = Duration::from_secs(120);
const MOST_FILES: usize = 200_000;
const MOST_BYTES: u64 = 8 << 30;
/// The longest line that git says before an object.
const LONGEST_HEADER: u64 = 256;

/// One line of `git ls-tree`.
#[derive(Debug, PartialEq, Eq)]
struct Entry<'a> {
    kind: Kind,
    object: &'a str,
    path: &'a Path,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    Program,
    Link,
}

/// Whether a commit can be checked out, before anything is begun.
pub(in super::super) async fn can_be_checked_out(
    repository: &Repository,
    commit: &Commit,
) -> anyhow::Result<()> {
    let listing = repository.files(commit).await?;
    tokio::task::spawn_blocking(move || entries(&listing).map(drop)).await?
}

/// Writes what a commit holds into a directory that is not there yet.
pub(super) async fn write(
    repository: &Repository,
    commit: &Commit,
    directory: PathBuf,
) -> anyhow::Result<()> {
    let listing = repository.files(commit).await.context("list the files of the commit")?;
    let mut git = repository.objects().spawn().context("start git")?;
    let questions = git.stdin.take().context("open git's input")?.into_owned_fd()?.into();
    let answers = git.stdout.take().context("open git's output")?.into_owned_fd()?.into();
    let until = Instant::now() + WITHIN;
    let mut writing =
        tokio::task::spawn_blocking(move || write_all(&listing, &directory, (questions, answers), until));
    let late = || anyhow::anyhow!("it took longer than {} s", WITHIN.as_secs());
    match tokio::time::timeout(WITHIN, &mut writing).await {
        Ok(written) => written??,
        Err(_) => {
            // It reads nothing more, and nobody writes any more when this returns.
            git.kill().await?;
            drop(writing.await?);
            return Err(late());
        }
    }
    ensure!(git.wait().await?.success(), "git failed");
    Ok(())
}

/// Blocks until everything is on the disk.
fn write_all(
    listing: &[u8],
    directory: &Path,
    (mut questions, answers): (File, File),
    until: Instant,
) -> anyhow::Result<()> {
    let entries = entries(listing)?;
    fs::create_dir_all(directory).context("make the directory")?;
    let mut answers = BufReader::new(answers);
    let mut left = MOST_BYTES;
    for entry in entries {
        ensure!(Instant::now() < until, "it took too long");
        questions.write_all(format!("{}\n", entry.object).as_bytes()).context("ask git")?;
        let mut header = String::new();
        answers.by_ref().take(LONGEST_HEADER).read_line(&mut header).context("read from git")?;
        let size = header.trim_end().rsplit(' ').next().and_then(|size| size.parse::<u64>().ok());
        let size = size.with_context(|| format!("object `{}` is missing", entry.object))?;
        left = left.checked_sub(size).context("the commit holds too much")?;
        let path = directory.join(entry.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).context("make a directory")?;
        }
        write_entry(&entry, &path, answers.by_ref().take(size), size)
            .with_context(|| format!("write `{}`", path.display()))?;
        let mut end = [0];
        answers.read_exact(&mut end).context("read from git")?;
        ensure!(end == *b"\n", "git's answer is cut short");
    }
    // One call for the whole file system is far quicker than one for each file.
    let directory = File::open(directory).context("sync the files")?;
    rustix::fs::syncfs(directory).context("sync the files")
}

fn write_entry(entry: &Entry<'_>, path: &Path, mut content: impl Read, size: u64) -> anyhow::Result<()> {
    if entry.kind == Kind::Link {
        let mut target = Vec::new();
        content.read_to_end(&mut target)?;
        return Ok(std::os::unix::fs::symlink(OsStr::from_bytes(&target), path)?);
    }
    let mode = if entry.kind == Kind::Program { 0o700 } else { 0o600 };
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    ensure!(std::io::copy(&mut content, &mut file)? == size, "git's answer is cut short");
    Ok(())
}

/// Reads `ls-tree -r -z`: `MODE TYPE OBJECT\tPATH\0` each.
fn entries(listing: &[u8]) -> anyhow::Result<Vec<Entry<'_>>> {
    let mut entries = Vec::new();
    for line in listing.split(|byte| *byte == 0).filter(|line| !line.is_empty()) {
        let tab = line.iter().position(|byte| *byte == b'\t').context("read git's listing")?;
        let (head, path) = line.split_at(tab);
        let path = Path::new(OsStr::from_bytes(path.get(1..).unwrap_or_default()));
        let mut words = std::str::from_utf8(head).context("read git's listing")?.split(' ');
        let (mode, object) = (words.next().unwrap_or_default(), words.nth(1).unwrap_or_default());
        let plain = |part: Component<'_>| matches!(part, Component::Normal(name) if !name.eq_ignore_ascii_case(".git"));
        ensure!(path.components().all(plain), "the path `{}` is not allowed", path.display());
        let kind = match mode {
            "100755" => Kind::Program,
            "120000" => Kind::Link,
            "160000" => bail!("`{}` is a submodule, which is not supported", path.display()),
            _ => Kind::File,
        };
        ensure!(Commit::parse(object).is_some(), "read git's listing");
        entries.push(Entry { kind, object, path });
    }
    ensure!(entries.len() <= MOST_FILES, "the commit has more than {MOST_FILES} files");
    // git holds no path below a link, but a forged commit may: it would lead out of the directory.
    let is_link = |entry: &&Entry<'_>| entry.kind == Kind::Link;
    let links: HashSet<&Path> = entries.iter().filter(is_link).map(|entry| entry.path).collect();
    if !links.is_empty() {
        let below = |entry: &&Entry<'_>| entry.path.ancestors().skip(1).any(|above| links.contains(above));
        if let Some(below) = entries.iter().find(below) {
            bail!("the path `{}` is not allowed: it lies below a link", below.path.display());
        }
    }
    // Links last: nothing is ever written through one.
    entries.sort_by_key(|entry| entry.kind == Kind::Link);
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::super::super::git::tests::{commit, run};
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[tokio::test]
    async fn a_checkout_is_what_the_commit_holds_and_runs_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let (site, place) = (directory.path().join("site"), directory.path().join("releases/x"));
        fs::create_dir_all(site.join("bin")).unwrap();
        fs::write(site.join("bin/serve"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(site.join("bin/serve"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(site.join("odd name\n"), "x").unwrap();
        fs::write(site.join("large"), vec![b'\n'; 300_000]).unwrap();
        fs::write(site.join(".gitattributes"), "* filter=evil text eol=crlf\n").unwrap();
        std::os::unix::fs::symlink("bin/serve", site.join("start")).unwrap();
        commit(&site, "v1");
        let ran = directory.path().join("ran");
        let evil = format!("touch {}", ran.display());
        for setting in ["filter.evil.smudge", "filter.evil.clean", "core.fsmonitor", "core.sshCommand"] {
            run(&site, &["config", setting, &evil]);
        }
        fs::write(site.join("bin/serve"), "changed").unwrap();

        let repository = Repository::find(&site).await.unwrap();
        let version = repository.resolve("v1").await.unwrap();
        can_be_checked_out(&repository, &version).await.unwrap();
        write(&repository, &version, place.clone()).await.unwrap();
        assert_eq!(fs::read_to_string(place.join("start")).unwrap(), "#!/bin/sh\n");
        assert_eq!(fs::read_to_string(place.join("odd name\n")).unwrap(), "x");
        assert_eq!(fs::read(place.join("large")).unwrap(), vec![b'\n'; 300_000]);
        assert_eq!(fs::metadata(place.join("bin/serve")).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(!ran.exists(), "a program of the repository's configuration ran");
        assert!(!place.join(".git").exists());
        // Nothing is written over, and the work tree is as it was.
        assert!(write(&repository, &version, place).await.is_err());
        assert_eq!(fs::read_to_string(site.join("bin/serve")).unwrap(), "changed");
    }

    fn line(mode: &str, path: &str) -> String {
        format!("{mode} blob {}\t{path}\0", "a".repeat(40))
    }

    #[track_caller]
    fn refused(listing: &str, part: &str) {
        let error = entries(listing.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }

    #[test]
    fn a_listing_that_is_no_site_is_refused() {
        refused(&line("100644", "../x"), "not allowed");
        refused(&line("100644", ".git/config"), "not allowed");
        refused(&line("100644", "a/.GIT/config"), "not allowed");
        refused(&line("100644", "/etc/passwd"), "not allowed");
        refused(&line("160000", "lib"), "`lib` is a submodule");
        refused("nonsense\0", "read git's listing");
        refused("100644 blob --evil\tx\0", "read git's listing");
        let listing = line("120000", "a") + &line("100644", "b");
        assert_eq!(entries(listing.as_bytes()).unwrap()[1].kind, Kind::Link);
    }

    #[test]
    fn a_path_below_a_link_of_the_same_tree_is_refused() {
        refused(
            &(line("120000", "a") + &line("120000", "a/b")),
            "`a/b` is not allowed: it lies below a link",
        );
        refused(&(line("120000", "x/a") + &line("100644", "x/a/b/c")), "below a link");
        refused(&(line("100644", "a/b") + &line("120000", "a")), "below a link");
        let beside = line("120000", "a") + &line("100644", "ab/c") + &line("120000", "b/a");
        assert_eq!(entries(beside.as_bytes()).unwrap().len(), 3);
    }
}
