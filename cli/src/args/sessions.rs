//! The verbs that run something in an instance, and those that lead stock SSH clients there, as typed.

use super::Target;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use std::ffi::OsString;

pub(super) const SHELL_EXAMPLES: &str = "\
Examples:
  skpr shell dev                          a shell in the newest instance of dev
  skpr shell prod --instance shop-prod-r7-1
  skpr shell dev --user root              as another user than the instance's own, on Kubernetes
";

pub(super) const EXEC_EXAMPLES: &str = "\
Examples:
  skpr exec dev -- drush status           ends with the exit code of what it ran
  skpr exec dev -- sh -c 'echo $HOSTNAME' for what a shell is to read
  skpr exec dev -- mysqldump db > db.sql  no terminal, so every byte is as it was
  skpr exec dev -- sh -c 'cat > /tmp/x' < x
  skpr exec dev --user 1000:1000 -- id    as this user and group
";

pub(super) const EXEC_AFTER: &str = "\
The arguments are passed as they are: no shell reads them. There is a terminal if stdin and stdout both are one.
Exit codes: those of what was run, 128 and the number for one that a signal ended, 255 when the connection broke.
";

pub(super) const FORWARD_EXAMPLES: &str = "\
Examples:
  skpr forward dev 8080:80                http://127.0.0.1:8080 is port 80 of an instance of dev, until Ctrl-C
  skpr forward dev 3307:db:3306           what the instance knows as db
";

pub(super) const SSH_CONFIG_EXAMPLES: &str = "\
Examples:
  skpr ssh-config                         what to put into ~/.ssh/config for this project
  skpr ssh-config --install               puts it there
  ssh dev.shop.skpr                       then works, and so do programs that use ssh
";

/// Which instance of an environment.
#[derive(Debug, Args)]
pub(crate) struct Place {
    #[command(flatten)]
    pub target: Target,
    /// This instance [default: the newest that is ready]
    #[arg(long, value_name = "INSTANCE")]
    pub instance: Option<String>,
}

/// As whom something runs there.
#[derive(Debug, Args)]
pub(crate) struct AsUser {
    /// As this user: a name, UID or UID:GID [default: the instance's own]
    #[arg(long, value_name = "USER", value_parser = NonEmptyStringValueParser::new())]
    pub user: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Shell {
    #[command(flatten)]
    pub place: Place,
    #[command(flatten)]
    pub as_user: AsUser,
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    #[command(flatten)]
    pub place: Place,
    #[command(flatten)]
    pub as_user: AsUser,
    /// With a terminal, also where ours is none
    #[arg(short = 't', long, conflicts_with = "no_terminal")]
    pub terminal: bool,
    /// Without a terminal
    #[arg(short = 'T', long)]
    pub no_terminal: bool,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "ARGV")]
    pub command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct Forward {
    #[command(flatten)]
    pub place: Place,
    /// LOCAL:REMOTE, or LOCAL:HOST:REMOTE for a port of a host that the instance reaches; 0 for a free LOCAL one
    #[arg(value_name = "LOCAL:REMOTE")]
    pub ports: String,
}

#[derive(Debug, Args)]
pub(crate) struct SshProxy {
    /// ENV.PROJECT.skpr
    #[arg(value_name = "HOST")]
    pub host: String,
    /// This instance [default: the newest that is ready]
    #[arg(long, value_name = "INSTANCE")]
    pub instance: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SshConfig {
    /// Write it beside the login, and include it in ~/.ssh/config
    #[arg(long)]
    pub install: bool,
}
