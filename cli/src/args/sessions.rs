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
  skpr shell dev <script.sh               off a terminal the shell reads what it is to do
";

pub(super) const SHELL_AFTER: &str = "\
There is a terminal if stdin and stdout both are one. All its keys are the shell's, Ctrl-C too; `exit` or Ctrl-D ends it.

Exit codes: that of the shell, 128 and the number where a signal ended it, 255 when the connection broke. Where nothing \
was started, those of every command, such as 3 for what is not there and 4 for what you may not.
";

pub(super) const EXEC_EXAMPLES: &str = "\
Examples:
  skpr exec dev -- drush status           ends with the exit code of what it ran
  skpr exec dev -- sh -c 'echo $HOSTNAME' for what a shell is to read
  skpr exec dev -- mysqldump db >db.sql   no terminal, so every byte is as it was
  skpr exec dev -- sh -c 'cat >/tmp/x' <x and the other way
  skpr exec dev --user 1000:1000 -- id    as this user and group
";

pub(super) const EXEC_AFTER: &str = "\
The arguments are passed as they are: no shell reads them. There is a terminal if stdin and stdout both are one.

Exit codes: that of what was run, 127 and 126 for what is not there or cannot be run, 128 and the number where a signal \
ended it, 255 when the connection broke. Where nothing was started, those of every command, such as 3 for what is not \
there and 4 for what you may not.
";

pub(super) const FORWARD_EXAMPLES: &str = "\
Examples:
  skpr forward dev 8080:80                http://127.0.0.1:8080 is port 80 of an instance of dev, until Ctrl-C
  skpr forward dev 3307:db:3306           port 3306 of what the instance knows as db
  skpr forward dev 0:80 -o json           a port that is free; which one is in the line on stdout
";

pub(super) const FORWARD_AFTER: &str = "\
Only this machine gets in: it listens on 127.0.0.1. It ends with Ctrl-C, or with 255 when the connection breaks.
";

pub(super) const SSH_CONFIG_EXAMPLES: &str = "\
Examples:
  skpr ssh-config                         what to put into ~/.ssh/config for this project
  skpr ssh-config --install               puts it there
  ssh dev.shop.skpr                       then leads to dev of shop, as scp, sftp and editors do
";

pub(super) const SSH_CONFIG_AFTER: &str = "\
It needs OpenSSH 8.4, and a login: skpr login CLUSTER. Nothing else of ~/.ssh/config is changed.
";

pub(super) const SSH_PROXY_EXAMPLES: &str = "\
Examples:
  ssh dev.shop.skpr                       after skpr ssh-config --install, which has ssh run it
  ssh -o ProxyCommand='skpr ssh-proxy --instance shop-dev-r7-1 %h' dev.shop.skpr
";

/// Which instance of an environment.
#[derive(Debug, Args)]
pub(crate) struct Place {
    #[command(flatten)]
    pub target: Target,
    /// This instance, of those that skpr info shows [default: the newest that is ready]
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

/// Whether what runs there has a terminal.
#[derive(Debug, Args)]
pub(crate) struct WithTerminal {
    /// With a terminal, also where stdin or stdout is none
    #[arg(short = 't', long, conflicts_with = "no_terminal")]
    pub terminal: bool,
    /// Without a terminal, also where both are one
    #[arg(short = 'T', long)]
    pub no_terminal: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Shell {
    #[command(flatten)]
    pub place: Place,
    #[command(flatten)]
    pub as_user: AsUser,
    #[command(flatten)]
    pub with_terminal: WithTerminal,
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    #[command(flatten)]
    pub place: Place,
    #[command(flatten)]
    pub as_user: AsUser,
    #[command(flatten)]
    pub with_terminal: WithTerminal,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    pub command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct Forward {
    #[command(flatten)]
    pub place: Place,
    /// The port here and the one in the instance, or LOCAL:HOST:REMOTE for one of a host that the instance reaches; a LOCAL
    /// of 0 is any that is free
    #[arg(value_name = "LOCAL:REMOTE")]
    pub ports: String,
}

#[derive(Debug, Args)]
pub(crate) struct SshProxy {
    /// ENV.PROJECT.skpr
    #[arg(value_name = "HOST")]
    pub host: String,
    /// This instance, of those that skpr info shows [default: the newest that is ready]
    #[arg(long, value_name = "INSTANCE")]
    pub instance: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SshConfig {
    /// Write it beside the login, and include it in ~/.ssh/config
    #[arg(long)]
    pub install: bool,
}
