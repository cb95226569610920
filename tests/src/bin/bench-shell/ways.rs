//! The four ways into the container.

use crate::site::{CONTAINER, Site};
use anyhow::{Context as _, Result};
use skpr_tests::cli::program;
use skpr_tests::ssh::Ssh;
use std::process::{Command, Stdio};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Skpr,
    ThroughSkpr,
    Sshd,
    Kubectl,
}

/// What is known of a program's stdin before it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    Nothing,
    Pipe,
}

pub(crate) const ALL: [Way; 4] = [Way::Skpr, Way::ThroughSkpr, Way::Sshd, Way::Kubectl];
pub(crate) const OURS: [Way; 2] = [Way::Skpr, Way::ThroughSkpr];

/// All of them, another one first each time.
pub(crate) fn in_turn(round: usize) -> impl Iterator<Item = (usize, Way)> {
    ALL.into_iter().enumerate().cycle().skip(round % ALL.len()).take(ALL.len())
}

impl Way {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Way::Skpr => "skpr",
            Way::ThroughSkpr => "ssh through skpr",
            Way::Sshd => "OpenSSH's sshd",
            Way::Kubectl => "kubectl exec",
        }
    }

    /// Runs a program: words that no shell reads as anything else.
    pub(crate) fn exec(self, site: &Site, input: Input, words: &[&str]) -> Result<Command> {
        let user = site.user(0)?;
        let mut command = match self {
            Way::Skpr => user.other(program("skpr")?, &[&["exec", "dev", "--"], words].concat()),
            Way::ThroughSkpr => through_skpr(site)?.command(&["-T"], words),
            Way::Sshd => site.sshd.client(user, "-T", words),
            Way::Kubectl if input == Input::Pipe => {
                kubectl(site, &[&["-i", CONTAINER, "--"], words].concat())?
            }
            Way::Kubectl => kubectl(site, &[&[CONTAINER, "--"], words].concat())?,
        };
        command.stdin(match input {
            Input::Nothing => Stdio::null(),
            Input::Pipe => Stdio::piped(),
        });
        Ok(command)
    }

    /// A shell in a terminal, of one of the users.
    pub(crate) fn shell(self, site: &Site, user: usize) -> Result<Command> {
        let user = site.user(user)?;
        let mut command = match self {
            Way::Skpr => user.other(program("skpr")?, &["shell", "dev"]),
            Way::ThroughSkpr => through_skpr(site)?.command(&["-tt"], &[]),
            Way::Sshd => site.sshd.client(user, "-tt", &[]),
            Way::Kubectl => kubectl(site, &["-it", CONTAINER, "--", "sh"])?,
        };
        command.env("TERM", "xterm");
        Ok(command)
    }
}

fn through_skpr(site: &Site) -> Result<Ssh<'_>> {
    Ok(Ssh { user: site.user(0)?, config: site.ssh_config.clone() })
}

/// kubectl itself: whatever starts it for us would be measured with it.
fn kubectl(site: &Site, arguments: &[&str]) -> Result<Command> {
    let (first, others) = site.kubectl.split_first().context("kubectl has a name")?;
    let mut command = Command::new(first);
    command.args(others).args(["--namespace", site.sites.name(), "exec"]).args(arguments);
    Ok(command)
}
