//! The whole program, as a user starts it, against a fake aggregator: exit code, stdout and stderr.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's helpers may fail the test")]

mod account;
mod cron;
mod deploy;
mod environments;
mod fake;
mod logs;
mod metrics;
mod names;
mod project;
mod release;
#[cfg(unix)]
mod screen;
mod sessions;
#[cfg(unix)]
mod terminal;

use fake::{Fake, TOKEN};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// A home of its own, and nothing of the machine's configuration.
struct Home(TempDir);

impl Home {
    fn new() -> Home {
        Home(tempfile::tempdir().unwrap())
    }

    fn config(&self) -> std::path::PathBuf {
        self.0.path().join("config")
    }

    fn skpr(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skpr"));
        command
            .args(arguments)
            .env_clear()
            .env("HOME", self.0.path())
            .env("SKPR_CONFIG_DIR", self.config())
            .env("TZ", "UTC")
            .current_dir(self.0.path())
            .stdin(Stdio::null());
        command
    }

    /// With cluster, CA and token from the environment, as CI would have it.
    fn with(&self, fake: &Fake, arguments: &[&str]) -> Command {
        let ca = self.0.path().join("ca.crt");
        std::fs::write(&ca, &fake.ca_pem).unwrap();
        let mut command = self.skpr(arguments);
        command
            .env("SKPR_CLUSTER", fake.address.to_string())
            .env("SKPR_CA", ca)
            .env("SKPR_TOKEN", TOKEN)
            .env("SKPR_PROJECT", "shop");
        command
    }

    fn write(&self, name: &str, text: &str) -> std::path::PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

/// What a run showed, with what differs from run to run replaced.
fn shown(output: &Output, fake: Option<&Fake>) -> String {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut all = format!(
        "exit {}\n--- stdout\n{}--- stderr\n{}",
        output.status.code().unwrap_or(-1),
        text(&output.stdout),
        text(&output.stderr)
    );
    assert!(!all.contains(TOKEN), "a token was shown: {all}");
    if let Some(fake) = fake {
        all = all.replace(&fake.address.to_string(), "CLUSTER");
    }
    all
}

fn run(command: &mut Command, fake: Option<&Fake>) -> String {
    shown(&command.output().unwrap(), fake)
}

fn run_with_stdin(command: &mut Command, input: &str, fake: &Fake) -> String {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    shown(&child.wait_with_output().unwrap(), Some(fake))
}

#[cfg(unix)]
fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}
