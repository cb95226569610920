//! The command line as typed. Nothing is resolved here; see [`crate::settings`].

mod cron;
mod environments;
mod metrics;
mod project;
mod rsync;
mod sessions;

pub(crate) use cron::{
    Cron, CronHistory, CronList, CronLogs, CronResume, CronRun, CronStream, CronSuspend, CronVerb, Tasks,
};
pub(crate) use environments::{Delete, Deploy, Events, Info, Releases, Rollback, Scale, Target, Waiting};
pub(crate) use metrics::Metrics;
pub(crate) use project::{Config, ConfigVerb, Validate};
#[cfg(all(test, target_os = "linux"))]
pub(crate) use rsync::{Chosen, Kept};
pub(crate) use rsync::{Rsync, Rule};
pub(crate) use sessions::{AsUser, Exec, Forward, Place, Shell, SshConfig, SshProxy, WithTerminal};

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  skpr login skpr.example.com             store a token and pin the cluster's CA
  skpr list                               what runs
  skpr deploy dev                         put the version of this working tree into dev
  skpr rollback prod                      and back to the version before
  skpr logs prod -f                       follow all instances of prod
  skpr cron history prod --failed         tasks that went wrong, or were missed
  skpr shell dev                          a shell in an instance of dev
  skpr rsync -a prod:files:/ files/       the files of prod's volume `files`, and later only what has changed
  skpr logs prod --since 'yesterday 15:40' --until 'yesterday 15:50' --grep error
";

const LOGS_EXAMPLES: &str = "\
Examples:
  skpr logs prod                          the last 15 minutes
  skpr logs prod -f                       from now on, new instances join by themselves
  skpr logs prod -f -n 100                the newest 100 lines first
  skpr logs prod --since 2h --grep 'HTTP/1.1\" 5..' --exclude healthz
  skpr logs prod --since 'yesterday 15:40' --until 'yesterday 15:50' --timezone Australia/Sydney
  skpr logs prod --since 1d --stream stderr -o json | jq -r .message
";

const EVENT_TIMES: &str = "Times are as those of `skpr logs`: see skpr logs --help\n";

const TIMES: &str = "\
Times are `15m`, `2h`, `1d`, `1w` or `1h30m` ago, `15:40`, `yesterday 15:40`, `today 09:00`, `2026-11-22`,
`2026-11-22 15:40`, RFC 3339 or `now`; in the local zone unless --timezone says another. In the hour that a clock
change repeats, --since takes the first and --until the second.

A known loss is a line of its own where it happened, and \"kind\":\"gap\" in JSON. Control characters in
messages are shown as text (^[ for escape) unless --raw.
";

const LOGIN_EXAMPLES: &str = "\
Examples:
  skpr login skpr.example.com             shows the CA's fingerprint, then asks for the token
  kubectl create token me --audience skpr | skpr login skpr.example.com --ca ca.crt --token-stdin
";

const LIST_EXAMPLES: &str = "\
Examples:
  skpr list                               environments of this project, or all that you may see
  skpr list --watch                       again every 2 seconds
  skpr list -o name | xargs -n1 skpr logs -n 10
";

const COMPLETION_EXAMPLES: &str = "\
Examples:
  source <(skpr completion bash)          for this shell; put it into ~/.bashrc for all
  skpr completion fish > ~/.config/fish/completions/skpr.fish
";

/// What runs in a project's environments: deploys, logs, metrics and events
#[derive(Debug, Parser)]
#[command(name = "skpr", version, before_help = EXAMPLES, disable_help_subcommand = true, max_term_width = 110)]
pub(crate) struct Arguments {
    // Apart: in one list with those of a command, they would stand between them.
    #[command(flatten, next_help_heading = "Options of every command")]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Global {
    /// The project; else SKPR_PROJECT, else the nearest .skpr.yml
    #[arg(short, long, global = true, value_name = "NAME")]
    pub project: Option<String>,
    /// The cluster's HOST[:PORT]; else SKPR_CLUSTER, .skpr.yml, the last login
    #[arg(long, global = true, value_name = "CLUSTER")]
    pub cluster: Option<String>,
    /// How data is written
    #[arg(short, long, global = true, value_enum, default_value_t)]
    pub output: Format,
    /// Colours on stdout
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub color: Color,
    /// Nothing on stderr but errors and warnings
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// More on stderr
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Table,
    Json,
    Yaml,
    Csv,
    Name,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    #[default]
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Store a token for a cluster, and pin the cluster's CA
    #[command(before_help = LOGIN_EXAMPLES)]
    Login(Login),
    /// Forget the token of a cluster
    Logout(Logout),
    /// Who the cluster says you are
    Whoami,
    /// The environments, what runs in them and how they are
    #[command(before_help = LIST_EXAMPLES)]
    List(List),
    /// One environment: its instances, domains, tasks, last release and events
    #[command(before_help = environments::INFO_EXAMPLES)]
    Info(Info),
    /// Put a version into an environment, with the settings of .skpr.yml
    #[command(before_help = environments::DEPLOY_EXAMPLES, after_help = environments::DEPLOY_AFTER)]
    Deploy(Deploy),
    /// What was deployed to an environment, by whom, and how it went
    #[command(before_help = environments::RELEASES_EXAMPLES)]
    Releases(Releases),
    /// Put an earlier release back: its version and its settings
    #[command(before_help = environments::ROLLBACK_EXAMPLES)]
    Rollback(Rollback),
    /// How many instances run, until the next deploy
    #[command(before_help = environments::SCALE_EXAMPLES)]
    Scale(Scale),
    /// Take an environment away
    #[command(before_help = environments::DELETE_EXAMPLES)]
    Delete(Delete),
    /// What happened to an environment: deploys, scaling, restarts and why
    #[command(before_help = environments::EVENTS_EXAMPLES, after_help = EVENT_TIMES)]
    Events(Events),
    /// Log lines of an environment: all instances, in order of time
    #[command(before_help = LOGS_EXAMPLES, after_help = TIMES)]
    Logs(Logs),
    /// Tasks that run by the clock: when, how they went, what they printed
    #[command(before_help = cron::EXAMPLES, after_help = cron::AFTER)]
    Cron(Cron),
    /// A shell in an instance
    #[command(before_help = sessions::SHELL_EXAMPLES, after_help = sessions::SHELL_AFTER)]
    Shell(Shell),
    /// Run a program in an instance, and end with its exit code
    #[command(before_help = sessions::EXEC_EXAMPLES, after_help = sessions::EXEC_AFTER)]
    Exec(Exec),
    /// A port of this machine that leads to one of an instance
    #[command(before_help = sessions::FORWARD_EXAMPLES, after_help = sessions::FORWARD_AFTER)]
    Forward(Forward),
    /// Copy files to and from an environment: only what differs is sent
    #[command(before_help = rsync::EXAMPLES, after_help = rsync::AFTER)]
    Rsync(Box<Rsync>),
    /// What ssh needs to know to lead to a project's environments
    #[command(before_help = sessions::SSH_CONFIG_EXAMPLES, after_help = sessions::SSH_CONFIG_AFTER)]
    SshConfig(SshConfig),
    /// What ssh runs to get to an instance: see skpr ssh-config
    #[command(before_help = sessions::SSH_PROXY_EXAMPLES)]
    SshProxy(SshProxy),
    /// What an environment uses: CPU, memory and instances, now and over time
    #[command(before_help = metrics::EXAMPLES, after_help = metrics::AFTER)]
    Metrics(Metrics),
    /// Whether .skpr.yml is right, and what its environments resolve to; offline
    #[command(before_help = project::VALIDATE_EXAMPLES)]
    Validate(Validate),
    /// The settings of an environment as .skpr.yml has them, and the schema of such files
    #[command(before_help = project::CONFIG_EXAMPLES)]
    Config(Config),
    /// The script that completes commands and environment names in your shell
    #[command(before_help = COMPLETION_EXAMPLES)]
    Completion(Completion),
    /// The version; with -v the cluster's too
    Version,
}

#[derive(Debug, Args)]
pub(crate) struct Login {
    /// HOST[:PORT], port 443 unless said
    #[arg(value_name = "CLUSTER")]
    pub cluster: String,
    /// Trust this CA (PEM) instead of the one that the cluster shows
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Trust the CA that the cluster shows only if this is its SHA-256 fingerprint
    #[arg(long, value_name = "SHA256")]
    pub fingerprint: Option<String>,
    /// Read the token from stdin; else SKPR_TOKEN, else it is asked for
    #[arg(long)]
    pub token_stdin: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Logout {
    /// HOST[:PORT]; else the cluster that other commands would use
    #[arg(value_name = "CLUSTER")]
    pub cluster: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Of all projects, also within one
    #[arg(short, long)]
    pub all: bool,
    /// Show it again every 2 seconds
    #[arg(short, long)]
    pub watch: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    #[command(flatten)]
    pub target: Target,
    /// Go on with what is written from now on
    #[arg(short, long)]
    pub follow: bool,
    /// Not before this time [default: 15m; with -f: now; with -n: the oldest kept]
    #[arg(long, visible_alias = "start", value_name = "TIME", allow_hyphen_values = true)]
    pub since: Option<String>,
    /// Before this time [default: now]
    #[arg(long, visible_alias = "end", value_name = "TIME", allow_hyphen_values = true)]
    pub until: Option<String>,
    /// Only this instance (repeat for more)
    #[arg(long, value_name = "INSTANCE")]
    pub instance: Vec<String>,
    /// Only this stream: stdout, stderr, CONTAINER.stdout … (repeat for more)
    #[arg(long, value_name = "STREAM")]
    pub stream: Vec<String>,
    /// Only lines that match this regular expression (repeat: and this)
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    pub grep: Vec<String>,
    /// No lines that match this regular expression (repeat: nor this)
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    pub exclude: Vec<String>,
    /// Only the newest N lines of those that match
    #[arg(short = 'n', long, value_name = "N")]
    pub lines: Option<u32>,
    /// Times are typed and shown in this zone, such as Australia/Sydney or UTC [default: the local one]
    #[arg(long, value_name = "ZONE")]
    pub timezone: Option<String>,
    /// Messages as they are: their control characters reach your terminal
    #[arg(long)]
    pub raw: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Completion {
    pub shell: CompletionShell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum CompletionShell {
    Bash,
    Zsh,
    Fish,
}

/// Parses the command line; what clap has to say goes out through [`crate::output`].
pub(crate) fn parse() -> Result<Arguments, ExitCode> {
    let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let words: Vec<String> = words.collect();
    Arguments::try_parse().map_err(|error| {
        let code = crate::output::report_usage(&error, wants_json(words.iter().cloned()));
        if error.use_stderr() && is_rsync(&words) { ExitCode::from(rsync::USAGE) } else { code }
    })
}

/// Whether the verb is `rsync`, whose exit codes are its own, on a command line that could not be parsed.
fn is_rsync(words: &[String]) -> bool {
    const WITH_VALUE: [&str; 6] = ["-p", "--project", "--cluster", "-o", "--output", "--color"];
    let mut words = words.iter().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            flag if WITH_VALUE.contains(&flag) => drop(words.next()),
            flag if flag.starts_with('-') => {}
            verb => return verb == "rsync",
        }
    }
    false
}

/// The parser, for completion.
pub(crate) fn command() -> clap::Command {
    Arguments::command()
}

/// Whether `-o json` stands on a command line that could not be parsed.
fn wants_json(mut arguments: impl Iterator<Item = String>) -> bool {
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "-ojson" | "-o=json" | "--output=json" => return true,
            "-o" | "--output" => return arguments.next().as_deref() == Some("json"),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn the_verb_is_found_on_a_broken_command_line() {
        for (line, expected) in [
            ("skpr rsync --nope", true),
            ("skpr -p shop -v rsync a", true),
            ("skpr -p rsync list --nope", false),
            ("skpr list rsync", false),
            ("skpr -o", false),
            ("skpr", false),
        ] {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(is_rsync(&words), expected, "{line}");
        }
    }

    #[test]
    fn json_is_recognised_on_a_broken_command_line() {
        for (line, expected) in [
            ("skpr -o json nope", true),
            ("skpr nope --output=json", true),
            ("skpr -o yaml nope", false),
            ("skpr", false),
        ] {
            assert_eq!(wants_json(line.split(' ').map(str::to_owned)), expected, "{line}");
        }
    }
}
