//! Asks a project's git repository: what a version means, what is tagged, and what a commit holds.
//!
//! * Only plumbing, which writes nothing and runs no program of the repository: no hooks, no filters, no fsmonitor, no
//!   fetching of what is missing. Neither the user's configuration nor the system's is read.
//! * A version cannot become an option or an expression: it is checked before git sees it.
//! * Every question has a time and a length that its answer may not pass.

use skpr_proto::{DIRTY, ErrorKind, Failure, Version};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

/// git answers in milliseconds, or a file system hangs.
const WITHIN: Duration = Duration::from_secs(5);
/// The longest answer: a listing of two hundred thousand files with long paths.
const MOST_BYTES: u64 = 32 << 20;
/// git takes no shorter beginning of an id.
const SHORTEST_ID: usize = 4;
/// As many tags are looked at for one that was meant, the newest first.
const TAGS_LOOKED_AT: usize = 1000;
/// As many are named.
const TAGS_NAMED: usize = 3;

/// A commit's full id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Commit(String);

/// A repository that a project lies in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Repository {
    directory: PathBuf,
    /// Where the project is in it: empty, or a path that ends in `/`.
    prefix: String,
}

impl Commit {
    pub(super) fn parse(text: &str) -> Option<Commit> {
        let hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        (hex && matches!(text.len(), 40 | 64)).then(|| Commit(text.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Repository {
    /// The repository that `directory` is in; none when it is in none, or in one with no commit.
    pub(super) async fn find(directory: &Path) -> Option<Repository> {
        let asked = ask(directory, ["rev-parse", "--show-prefix"]).await;
        let prefix = asked.ok()?.trim_end_matches('\n').to_owned();
        let repository = Repository { directory: directory.to_owned(), prefix };
        repository.commit("HEAD").await.map(|_| repository)
    }

    pub(super) fn prefix(&self) -> &Path {
        Path::new(&self.prefix)
    }

    /// What is checked out in the work tree, as a version: its commit, where what git calls it cannot be deployed.
    pub(super) async fn head(&self) -> Option<(String, Commit)> {
        let commit = self.commit("HEAD").await?;
        for question in [["describe", "--tags", "--always"], ["rev-parse", "--short", "HEAD"]] {
            let named = ask(&self.directory, question).await.ok();
            let named = named.map(|text| text.trim().to_owned()).filter(|text| check(text).is_ok());
            if let Some(version) = named {
                return Some((version, commit));
            }
        }
        Some((commit.0.clone(), commit))
    }

    /// The commit that a version stands for.
    pub(super) async fn resolve(&self, version: &str) -> Result<Commit, Failure> {
        check(version)?;
        if let Some(commit) = self.commit_of(version).await {
            return Ok(commit);
        }
        let failure = Failure::new(
            ErrorKind::NotFound,
            format!("there is no version `{version}` in the repository `{}`", self.directory.display()),
        );
        let tags = self.tags().await;
        Err(match (version.strip_suffix(DIRTY), near(version, &tags)) {
            (Some(_), _) => failure.with_hint("commit what you changed, then deploy that: git commit"),
            (None, tags) if tags.is_empty() => {
                failure.with_hint(format!("no tag is there yet: git tag {version}"))
            }
            (None, tags) => failure.with_hint(format!("did you mean {}? All: git tag", tags.join(" or "))),
        })
    }

    /// Each file of a commit.
    pub(super) async fn files(&self, commit: &Commit) -> anyhow::Result<Vec<u8>> {
        let arguments = ["ls-tree", "-r", "-z", "--full-tree", "--end-of-options", commit.as_str()];
        answer(&self.directory, arguments).await
    }

    /// git, ready to be asked for objects by their ids.
    pub(super) fn objects(&self) -> Command {
        let mut git = git(&self.directory);
        git.args(["cat-file", "--batch"]).stdin(Stdio::piped());
        git
    }

    /// A tag, the id of a commit, or what `git describe` makes of the two. A branch moves on, and is no version.
    async fn commit_of(&self, version: &str) -> Option<Commit> {
        if let Some(commit) = self.commit(&format!("refs/tags/{version}")).await {
            return Some(commit);
        }
        let id = version.rsplit_once("-g").map_or(version, |(_, id)| id);
        let is_id = (SHORTEST_ID..=64).contains(&id.len())
            && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        // A branch may be called as if it were an id.
        self.commit(id).await.filter(|commit| is_id && commit.as_str().starts_with(id))
    }

    async fn commit(&self, name: &str) -> Option<Commit> {
        let revision = format!("{name}^{{commit}}");
        let arguments = ["rev-parse", "--verify", "--quiet", "--end-of-options", &revision];
        Commit::parse(ask(&self.directory, arguments).await.ok()?.trim())
    }

    async fn tags(&self) -> Vec<String> {
        let count = format!("--count={TAGS_LOOKED_AT}");
        let newest = "--sort=-creatordate";
        let arguments = ["for-each-ref", newest, &count, "--format=%(refname:strip=2)", "refs/tags"];
        let tags = ask(&self.directory, arguments).await.unwrap_or_default();
        tags.lines().filter(|tag| check(tag).is_ok()).map(str::to_owned).collect()
    }
}

/// A version is a tag, a commit, or what `git describe` says: no option, no range, no path.
pub(super) fn check(version: &str) -> Result<(), Failure> {
    Version::parse(version).map(drop)
}

/// The tags that were probably meant; when none is near, the newest.
fn near(version: &str, tags: &[String]) -> Vec<String> {
    let alike = |tag: &&String| {
        let (a, b) = (tag.trim_start_matches('v'), version.trim_start_matches('v'));
        a == b || (!b.is_empty() && a.starts_with(b)) || (!a.is_empty() && b.starts_with(a))
    };
    let shown = |tag: &String| format!("`{tag}`");
    let near: Vec<_> = tags.iter().filter(alike).take(TAGS_NAMED).map(shown).collect();
    if near.is_empty() { tags.iter().take(TAGS_NAMED).map(shown).collect() } else { near }
}

async fn ask<S: AsRef<OsStr>>(
    directory: &Path,
    arguments: impl IntoIterator<Item = S>,
) -> anyhow::Result<String> {
    Ok(String::from_utf8(answer(directory, arguments).await?)?)
}

async fn answer<S: AsRef<OsStr>>(
    directory: &Path,
    arguments: impl IntoIterator<Item = S>,
) -> anyhow::Result<Vec<u8>> {
    let mut child = git(directory).args(arguments).stdin(Stdio::null()).spawn()?;
    let read = async {
        let mut text = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(MOST_BYTES + 1).read_to_end(&mut text).await?;
        }
        anyhow::ensure!(text.len() as u64 <= MOST_BYTES, "git says more than {MOST_BYTES} bytes");
        anyhow::ensure!(child.wait().await?.success(), "git refuses");
        Ok(text)
    };
    tokio::time::timeout(WITHIN, read).await?
}

fn git(directory: &Path) -> Command {
    let mut git = Command::new("git");
    git.env_clear().current_dir(directory).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    git.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    for (name, value) in [
        ("LC_ALL", "C"),
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_TERMINAL_PROMPT", "0"),
        ("GIT_OPTIONAL_LOCKS", "0"),
        ("GIT_NO_LAZY_FETCH", "1"),
        ("GIT_NO_REPLACE_OBJECTS", "1"),
    ] {
        git.env(name, value);
    }
    // Whoever named this directory has its programs run; git's own doubts about its owner protect nobody here.
    for setting in
        ["safe.directory=*", "core.hooksPath=/dev/null", "core.fsmonitor=false", "protocol.allow=never"]
    {
        git.args(["-c", setting]);
    }
    git
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Runs the real git as a developer does.
    #[track_caller]
    pub(in super::super) fn run(directory: &Path, arguments: &[&str]) {
        let mut git = std::process::Command::new("git");
        git.current_dir(directory).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        for who in ["AUTHOR", "COMMITTER"] {
            git.env(format!("GIT_{who}_NAME"), "dev").env(format!("GIT_{who}_EMAIL"), "dev@example.com");
        }
        let done = git.args(arguments).output().unwrap();
        assert!(done.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// Commits everything that is there, as a version.
    #[track_caller]
    pub(in super::super) fn commit(directory: &Path, version: &str) {
        if !directory.join(".git").exists() {
            run(directory, &["init", "-q"]);
        }
        run(directory, &["add", "-A"]);
        run(directory, &["commit", "-q", "--allow-empty", "-m", version]);
        run(directory, &["tag", version]);
    }

    #[tokio::test]
    async fn versions_are_tags_commits_and_descriptions() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert_eq!(Repository::find(path).await, None);
        run(path, &["init", "-q"]);
        assert_eq!(Repository::find(path).await, None, "there is no commit");
        commit(path, "v1.0");
        let repository = Repository::find(path).await.unwrap();
        let (version, first) = repository.head().await.unwrap();
        assert_eq!(version, "v1.0");
        run(path, &["commit", "-q", "--allow-empty", "-m", "more"]);
        let (described, second) = repository.head().await.unwrap();
        assert!(described.starts_with("v1.0-1-g"), "{described}");
        // A tag that no image can have is no version here either.
        run(path, &["tag", "release/1.1"]);
        let short = repository.head().await.unwrap().0;
        assert!(second.as_str().starts_with(&short) && short.len() < 20, "{short}");
        assert_eq!(repository.resolve("release/1.1").await.unwrap_err().kind, ErrorKind::Usage);
        for (version, commit) in [
            ("v1.0", &first),
            (&described, &second),
            (first.as_str(), &first),
            (&second.as_str()[..10], &second),
        ] {
            assert_eq!(repository.resolve(version).await.as_ref(), Ok(commit), "{version}");
        }
        // What moves on is no version, whatever it is called.
        run(path, &["branch", "main-line"]);
        let other = if first.as_str().starts_with("abcd") { "beef" } else { "abcd" };
        run(path, &["branch", other]);
        for branch in ["HEAD", "main-line", other] {
            assert_eq!(repository.resolve(branch).await.unwrap_err().kind, ErrorKind::NotFound, "{branch}");
        }
    }

    #[tokio::test]
    async fn a_version_that_is_not_there_is_refused_with_what_is() {
        let directory = tempfile::tempdir().unwrap();
        for version in ["v1.0", "v1.1", "v2.0"] {
            commit(directory.path(), version);
        }
        let repository = Repository::find(directory.path()).await.unwrap();
        let failure = repository.resolve("1.1").await.unwrap_err();
        assert_eq!(failure.kind, ErrorKind::NotFound);
        assert_eq!(failure.hint.as_deref(), Some("did you mean `v1.1`? All: git tag"));
        let failure = repository.resolve("v2.0-dirty").await.unwrap_err();
        assert!(failure.hint.unwrap().contains("git commit"));
        for bad in ["", "-h", "--help", "v1..v2", "HEAD~1", "@{u}", "v1:file", "a b", "v1\n", "\u{1b}[31m"] {
            let failure = repository.resolve(bad).await.unwrap_err();
            assert_eq!(failure.kind, ErrorKind::Usage, "{bad}");
            assert!(!failure.message.contains('\u{1b}'));
        }
    }

    #[tokio::test]
    async fn the_project_may_lie_below_the_repositorys_root() {
        let directory = tempfile::tempdir().unwrap();
        let site = directory.path().join("sites/shop");
        std::fs::create_dir_all(&site).unwrap();
        std::fs::write(site.join("serve"), "").unwrap();
        commit(directory.path(), "v1");
        let repository = Repository::find(&site).await.unwrap();
        assert_eq!(repository.prefix(), Path::new("sites/shop/"));
        let commit = repository.resolve("v1").await.unwrap();
        let files = repository.files(&commit).await.unwrap();
        assert!(String::from_utf8(files).unwrap().ends_with("\tsites/shop/serve\0"));
    }
}
