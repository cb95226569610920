//! A sign of life without a port: files that the agent's loops touch, and the probe that looks at their age.
//!
//! The agent listens on nothing, so Kubernetes runs `skpr-agent health` in its container. A loop that hangs stops
//! touching its file, and the probe fails whatever the other loops do. Being disconnected is not being dead: restarting
//! an agent does not bring an aggregator back.

use anyhow::{Context as _, bail};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// How often a loop touches its file: rarely enough to cost nothing.
pub(crate) const INTERVAL: Duration = Duration::from_secs(5);
/// A loop that has not touched its file for so long hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// The loops that must be alive.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Loop {
    Tail,
    Link,
    Usage,
    /// That of the program which serves sessions.
    Sessions,
}

impl Loop {
    const AGENT: [Loop; 3] = [Loop::Tail, Loop::Link, Loop::Usage];

    fn file(self) -> &'static str {
        match self {
            Loop::Tail => "alive.tail",
            Loop::Link => "alive.link",
            Loop::Usage => "alive.usage",
            Loop::Sessions => "alive.sessions",
        }
    }
}

/// One loop's sign of life.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    path: PathBuf,
    last: Option<Instant>,
    failed: bool,
}

impl Heartbeat {
    pub(crate) fn new(state: &Path, of: Loop) -> Self {
        Heartbeat { path: state.join(of.file()), last: None, failed: false }
    }

    /// Called as often as the loop goes round; touches the file every [`INTERVAL`].
    pub(crate) fn beat(&mut self) {
        if self.last.is_some_and(|last| last.elapsed() < INTERVAL) {
            return;
        }
        self.last = Some(Instant::now());
        // Truncating an empty file leaves its time as it is, so a byte is written.
        match std::fs::write(&self.path, b"\n") {
            Ok(()) => self.failed = false,
            Err(error) if !self.failed => {
                self.failed = true;
                tracing::warn!(%error, path = %self.path.display(), "a sign of life cannot be written");
            }
            Err(_) => {}
        }
    }
}

/// The probe of the agent: an error says which loop gives no sign of life.
pub fn check(state: &Path) -> anyhow::Result<()> {
    check_loops(state, &Loop::AGENT)
}

/// The probe of the program that serves sessions.
pub fn check_sessions(state: &Path) -> anyhow::Result<()> {
    check_loops(state, &[Loop::Sessions])
}

fn check_loops(state: &Path, loops: &[Loop]) -> anyhow::Result<()> {
    for of in loops {
        let path = state.join(of.file());
        let touched = std::fs::metadata(&path)
            .and_then(|metadata| metadata.modified())
            .with_context(|| format!("read the sign of life `{}`", path.display()))?;
        // A file from the future means that the clock was set back, not that a loop hangs.
        let age = SystemTime::now().duration_since(touched).unwrap_or_default();
        if age > LIMIT {
            bail!("`{}` was last touched {} s ago", path.display(), age.as_secs());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn all_loops_must_be_alive() {
        let state = tempfile::tempdir().unwrap();
        assert!(check(state.path()).is_err());
        Heartbeat::new(state.path(), Loop::Tail).beat();
        assert!(check(state.path()).is_err());
        Heartbeat::new(state.path(), Loop::Link).beat();
        assert!(check(state.path()).is_err());
        Heartbeat::new(state.path(), Loop::Usage).beat();
        check(state.path()).unwrap();

        let old = SystemTime::now() - LIMIT - Duration::from_secs(1);
        File::options().write(true).open(state.path().join("alive.tail")).unwrap().set_modified(old).unwrap();
        assert!(check(state.path()).unwrap_err().to_string().contains("alive.tail"));

        let ahead = SystemTime::now() + Duration::from_secs(3600);
        File::options()
            .write(true)
            .open(state.path().join("alive.tail"))
            .unwrap()
            .set_modified(ahead)
            .unwrap();
        check(state.path()).unwrap();
    }

    #[test]
    fn a_beat_revives_a_stale_file() {
        let state = tempfile::tempdir().unwrap();
        for of in Loop::AGENT {
            let path = state.path().join(of.file());
            File::create(&path).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        }
        assert!(check(state.path()).is_err());
        for of in Loop::AGENT {
            Heartbeat::new(state.path(), of).beat();
        }
        check(state.path()).unwrap();
    }
}
