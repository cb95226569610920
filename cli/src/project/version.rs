//! `git describe --tags --always --dirty`: what a working tree is called, and what to do when git cannot say.

use crate::error::usage;
use crate::terminal::clean;
use skpr_proto::{DIRTY, Failure};
use std::path::Path;
use std::process::{Command, Output};

const HINT: &str = "or say the version: skpr deploy ENV VERSION";

/// The version of a working tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Described {
    pub version: String,
    /// It has changes that are not committed.
    pub dirty: bool,
}

pub(super) fn describe(directory: &Path) -> Result<Described, Failure> {
    let shown = directory.display();
    let output = git(directory, &["describe", "--tags", "--always", "--dirty"])?;
    if output.status.success() {
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        return Ok(Described { dirty: version.ends_with(DIRTY), version });
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = clean(said.lines().next().unwrap_or_default()).trim_start_matches("fatal: ").to_owned();
    if said.contains("not a git repository") {
        return Err(usage(format!("`{shown}` is in no git repository, so its version is not known"))
            .with_hint(format!("git init and commit, {HINT}")));
    }
    let has_commit = git(directory, &["rev-parse", "--verify", "--quiet", "HEAD"])?.status.success();
    if !has_commit && !said.contains("dubious ownership") {
        return Err(usage(format!(
            "the git repository of `{shown}` has no commit yet, so there is no version"
        ))
        .with_hint(format!("commit, {HINT}")));
    }
    Err(usage(format!("git cannot tell the version of `{shown}`: {said}"))
        .with_hint(format!("try `git describe --tags --always --dirty` there, {HINT}")))
}

fn git(directory: &Path, arguments: &[&str]) -> Result<Output, Failure> {
    Command::new("git")
        // Looking must not write to the repository: another program may be at work there.
        .args(["--no-optional-locks", "-C"])
        .arg(directory)
        .args(arguments)
        // Its messages are looked at above.
        .env("LC_ALL", "C")
        .output()
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => usage("git is not installed, so the version is not known")
                .with_hint(format!("install git, {HINT}")),
            _ => usage(format!("git cannot be run: {error}")).with_hint(format!("mend that, {HINT}")),
        })
}
