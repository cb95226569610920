//! Stock OpenSSH as a user of skpr has it.

use crate::cli::User;
use anyhow::{Context as _, Result};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

/// The environment of a [`Machine`](crate::machine::Machine), as `ssh` knows it.
pub const HOST: &str = "dev.shop.skpr";

/// `ssh` as the user of a machine has it after `skpr ssh-config --install`.
#[derive(Debug)]
pub struct Ssh<'a> {
    pub user: &'a User,
    /// Its configuration file.
    pub config: PathBuf,
}

impl<'a> Ssh<'a> {
    /// Has `skpr` install it.
    pub fn install(user: &'a User) -> Result<Ssh<'a>> {
        user.skpr(&["ssh-config", "--install"])?.success()?;
        Ok(Ssh { user, config: user.home().join(".ssh/config") })
    }

    /// A client with these options, which asks nobody anything.
    pub fn command(&self, options: &[&str], words: &[&str]) -> Command {
        let mut all =
            vec!["-F".to_owned(), self.config.display().to_string(), "-o".into(), "BatchMode=yes".into()];
        all.extend(options.iter().chain(&[HOST]).chain(words).map(|word| (*word).to_owned()));
        let mut ssh = self.user.other("ssh", &all);
        ssh.stdin(Stdio::null());
        ssh
    }

    /// Runs it to its end.
    pub fn run(&self, options: &[&str], words: &[&str]) -> Result<Output> {
        self.command(options, words).output().context("run ssh")
    }
}

/// A child that is killed with the test.
#[derive(Debug)]
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
