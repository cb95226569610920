//! What the agent is told: as typed ([`Args`]), then validated with every problem reported at once ([`Config`]).
//!
//! There are no tuning knobs here: what bounds memory and time is a constant beside the code that it bounds.

use crate::recording;
use crate::runtime::Runtime;
use crate::sessions::program;
use crate::usage::{self, Sources};
use crate::worker::WorkerArgs;
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use jiff::SignedDuration;
use rustls_pki_types::ServerName;
use skpr_proto::manifest::MemoryQuantity;
use skpr_proto::{Label, NodeName};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Ships the logs of this node's pods to the aggregator.
///
/// The agent follows the log files of the pods that belong to an environment, as the aggregator tells it, and sends
/// each line until the aggregator has acknowledged it. It also sends what these pods use of CPU and memory. It listens on nothing and needs no Kubernetes permission.
#[derive(Debug, Parser)]
#[command(name = "skpr-agent", version)]
pub struct Args {
    /// The aggregator's address.
    #[arg(long, env = "SKPR_AGGREGATOR", value_name = "HOST:PORT")]
    aggregator: Option<String>,

    /// The certificate authority that the aggregator's certificate must come from (PEM). Read at every connection.
    #[arg(long, env = "SKPR_CA", value_name = "FILE")]
    ca: Option<PathBuf>,

    /// The token that names this node. Read at every connection, so that it may be rotated.
    #[arg(long, env = "SKPR_TOKEN_FILE", value_name = "FILE")]
    token: Option<PathBuf>,

    /// This node's name; it must be the one that the token names.
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    node: Option<String>,

    /// Where the node keeps its pods' logs.
    #[arg(long, env = "SKPR_LOGS", value_name = "DIR", default_value = "/var/log/pods")]
    logs: PathBuf,

    /// Where the agent remembers what is acknowledged. It must survive a restart of the agent.
    #[arg(
        long,
        env = "SKPR_STATE",
        value_name = "DIR",
        default_value = "/var/lib/skpr-agent",
        global = true
    )]
    pub state: PathBuf,

    /// Where the node's cgroups are mounted, of version 1 or 2.
    #[arg(long, env = "SKPR_CGROUPS", value_name = "DIR", default_value = "/sys/fs/cgroup")]
    cgroups: PathBuf,

    /// How often the pods' use of CPU and memory is sampled, from 1s to 5m; 0 for never.
    #[arg(long, env = "SKPR_USAGE_INTERVAL", value_name = "DURATION", default_value = "5s")]
    usage_interval: String,

    /// Serve sessions, by handing each to the program that listens there: `skpr-agent sessions`.
    #[arg(long, env = "SKPR_SESSIONS", value_name = "SOCKET")]
    sessions: Option<PathBuf>,

    /// How the agent's own log on stderr is written. SKPR_LOG filters it, for example `SKPR_LOG=debug`.
    #[arg(long, env = "SKPR_LOG_FORMAT", value_name = "FORMAT", default_value = "text", global = true)]
    pub log_format: LogFormat,

    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do instead of following logs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Exit 0 when the agent that uses the same state directory is alive, 1 when it is not: the liveness probe.
    Health {
        /// Of `skpr-agent sessions` instead.
        #[arg(long)]
        sessions: bool,
    },
    /// Serve sessions in this node's containers for the agent beside it: the one program that talks to containerd.
    ///
    /// It opens no connection but to containerd. Whatever it is asked for, it starts processes only in pods that carry the labels of an
    /// environment, and in none of a denied namespace.
    Sessions(SessionsArgs),
    /// What `sessions` starts to go into a container.
    #[command(hide = true)]
    Worker(WorkerArgs),
}

/// What `skpr-agent sessions` is told.
#[derive(Clone, Debug, ClapArgs)]
pub struct SessionsArgs {
    /// The socket to listen on, where nobody but the agent comes.
    #[arg(long, value_name = "SOCKET", default_value = "/run/skpr/sessions/agent.sock")]
    listen: PathBuf,

    /// containerd's socket.
    #[arg(long, value_name = "SOCKET", default_value = "/run/containerd/containerd.sock")]
    containerd: PathBuf,

    /// Where FIFOs are made. It must have the same path on the node, because containerd opens them there.
    #[arg(long, value_name = "DIR", default_value = "/run/skpr/exec")]
    fifos: PathBuf,

    /// The node's /proc.
    #[arg(long, value_name = "DIR", default_value = "/host/proc")]
    proc: PathBuf,

    /// A namespace in whose pods nothing is started; may be repeated.
    #[arg(long = "deny-namespace", value_name = "NAMESPACE", default_values = ["kube-system", "kube-public", "kube-node-lease"])]
    denied: Vec<String>,

    /// Record what terminals show, below this directory; who opens one is told. Nothing is recorded unless given.
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,

    /// How much of recordings is kept, such as 512Mi; the oldest go.
    #[arg(long, value_name = "SIZE", default_value = "1Gi")]
    record_bytes: String,
}

/// How the agent's own log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// What [`crate::run`] works with; everything in it has been checked as far as it can be without the network.
#[derive(Clone, Debug)]
pub struct Config {
    pub aggregator: Address,
    pub ca: PathBuf,
    pub token: PathBuf,
    pub node: NodeName,
    pub logs: PathBuf,
    pub state: PathBuf,
    pub usage: usage::Settings,
    /// Where sessions are served; none where they are not.
    pub sessions: Option<Serving>,
}

/// Where sessions are served.
#[derive(Clone, Debug)]
pub enum Serving {
    /// By this program, which starts processes itself.
    Here {
        runtime: Runtime,
        /// Where terminals are recorded; none where they are not.
        recordings: Option<recording::Settings>,
    },
    /// By a program beside it, which listens on this socket.
    Beside(PathBuf),
}

/// A host (a name or an address, without brackets) and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub host: String,
    pub port: u16,
}

/// Everything that is wrong with the arguments, one line each.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct InvalidConfig(pub Vec<String>);

impl Address {
    /// Reads `HOST:PORT`; an IPv6 address is written `[::1]:PORT`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not HOST:PORT, for example `skpr-aggregator.skpr:443`");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match bracketed {
            Some(inner) => inner,
            None if host.contains(':') => return Err(wrong()),
            None => host,
        };
        let port = port.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        ServerName::try_from(host).map_err(|_| wrong())?;
        Ok(Address { host: host.to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Args {
    /// Checks everything and names every problem, each with its flag and environment variable.
    pub fn validate(self) -> Result<Config, InvalidConfig> {
        let mut problems = Vec::new();
        let aggregator = required(self.aggregator, "--aggregator", "SKPR_AGGREGATOR", &mut problems)
            .and_then(|text| keep(Address::parse(&text), "--aggregator", &mut problems));
        let node = required(self.node, "--node", "NODE_NAME", &mut problems).and_then(|text| {
            keep(NodeName::parse(&text).map_err(|e| e.to_string()), "--node", &mut problems)
        });
        let ca = required(self.ca, "--ca", "SKPR_CA", &mut problems);
        let token = required(self.token, "--token", "SKPR_TOKEN_FILE", &mut problems);
        for (flag, path) in [("--ca", ca.as_ref()), ("--token", token.as_ref())] {
            if let Some(path) = path.filter(|path| path.is_dir()) {
                problems.push(format!("{flag}: `{}` is a directory, not a file", path.display()));
            }
        }
        for (flag, path) in [("--logs", &self.logs), ("--state", &self.state), ("--cgroups", &self.cgroups)] {
            if path.is_file() {
                problems.push(format!("{flag}: `{}` is a file, not a directory", path.display()));
            }
        }
        let interval = keep(interval(&self.usage_interval), "--usage-interval", &mut problems).flatten();
        let usage = usage::Settings { interval, sources: Sources::Cgroups(self.cgroups) };
        match (aggregator, ca, token, node) {
            (Some(aggregator), Some(ca), Some(token), Some(node)) if problems.is_empty() => {
                let sessions = self.sessions.map(Serving::Beside);
                Ok(Config {
                    aggregator,
                    ca,
                    token,
                    node,
                    logs: self.logs,
                    state: self.state,
                    usage,
                    sessions,
                })
            }
            _ => Err(InvalidConfig(problems)),
        }
    }
}

impl SessionsArgs {
    /// Checks everything and names every problem.
    pub fn validate(self, state: PathBuf) -> Result<program::Settings, InvalidConfig> {
        let mut problems = Vec::new();
        if !self.fifos.is_absolute() {
            problems.push(format!("--fifos: `{}` is not the same on the node", self.fifos.display()));
        }
        let parse = |name: &String| Label::parse("namespace", name).map_err(|error| error.to_string());
        let denied =
            self.denied.iter().map(parse).filter_map(|name| keep(name, "--deny-namespace", &mut problems));
        let denied = denied.collect();
        let size = MemoryQuantity::parse(&self.record_bytes).map_err(|refusal| refusal.to_string());
        let size = keep(size, "--record-bytes", &mut problems);
        if !problems.is_empty() {
            return Err(InvalidConfig(problems));
        }
        let SessionsArgs { listen, containerd, fifos, proc, record, .. } = self;
        let recordings = record
            .zip(size)
            .map(|(directory, size)| recording::Settings { directory, max_bytes: size.bytes() });
        Ok(program::Settings { listen, containerd, fifos, proc, state, denied, recordings })
    }
}

fn required<T>(value: Option<T>, flag: &str, variable: &str, problems: &mut Vec<String>) -> Option<T> {
    if value.is_none() {
        problems.push(format!("{flag} (or {variable}) is missing"));
    }
    value
}

/// Reads `5s`, `1m`, or `0` for never.
fn interval(text: &str) -> Result<Option<Duration>, String> {
    if text == "0" {
        return Ok(None);
    }
    let allowed = usage::SHORTEST_INTERVAL..=usage::LONGEST_INTERVAL;
    let duration = text.parse::<SignedDuration>().ok().and_then(|duration| Duration::try_from(duration).ok());
    match duration {
        Some(duration) if duration.is_zero() => Ok(None),
        Some(duration) if allowed.contains(&duration) => Ok(Some(duration)),
        Some(_) => Err(format!("`{text}` is not between 1s and 5m; 0 turns it off")),
        None => Err(format!("`{text}` is not a duration, for example `5s`")),
    }
}

fn keep<T>(parsed: Result<T, String>, flag: &str, problems: &mut Vec<String>) -> Option<T> {
    parsed.map_err(|problem| problems.push(format!("{flag}: {problem}"))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;
    use std::path::Path;

    fn validate(arguments: &[&str]) -> Result<Config, InvalidConfig> {
        let all = std::iter::once("skpr-agent").chain(arguments.iter().copied());
        Args::try_parse_from(all).unwrap().validate()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_whole_configuration_is_taken() {
        let config = validate(&[
            "--aggregator=skpr-aggregator.skpr:443",
            "--ca=/ca.crt",
            "--token=/token",
            "--node=node-1",
            "--state=/s",
        ])
        .unwrap();
        assert_eq!(config.aggregator.to_string(), "skpr-aggregator.skpr:443");
        assert_eq!(config.node.as_str(), "node-1");
        assert_eq!(config.logs, PathBuf::from("/var/log/pods"));
        assert_eq!(config.state, PathBuf::from("/s"));
        assert_eq!(config.usage.interval, Some(usage::INTERVAL));
        assert!(
            matches!(config.usage.sources, Sources::Cgroups(root) if root == Path::new("/sys/fs/cgroup"))
        );
    }

    #[test]
    fn what_serves_sessions_is_told_where_it_may_not() {
        let settings = |arguments: &[&str]| {
            let all = ["skpr-agent", "sessions"].into_iter().chain(arguments.iter().copied());
            let args = Args::try_parse_from(all).unwrap();
            let Some(Command::Sessions(sessions)) = args.command else { panic!("{:?}", args.command) };
            sessions.validate(args.state)
        };
        let denied = |arguments: &[&str]| -> Vec<String> {
            settings(arguments).unwrap().denied.into_iter().map(Into::into).collect()
        };
        assert_eq!(denied(&[]), ["kube-node-lease", "kube-public", "kube-system"]);
        assert_eq!(denied(&["--deny-namespace=a", "--deny-namespace=b"]), ["a", "b"]);
        assert_eq!(settings(&[]).unwrap().recordings, None);
        let recordings = settings(&["--record=/r", "--record-bytes=64Mi"]).unwrap().recordings;
        assert_eq!(recordings, Some(recording::Settings { directory: "/r".into(), max_bytes: 64 << 20 }));
        let wrong = ["--deny-namespace=A", "--fifos=run", "--record-bytes=much"];
        let InvalidConfig(problems) = settings(&wrong).unwrap_err();
        assert_eq!(problems.len(), 3, "{problems:?}");
    }

    #[test]
    fn every_problem_is_reported() {
        let InvalidConfig(problems) = validate(&[
            "--aggregator=https://x",
            "--node=NODE_1",
            "--token=/",
            "--logs=/proc/version",
            "--cgroups=/proc/version",
            "--usage-interval=1h",
        ])
        .unwrap_err();
        let flags = ["--aggregator", "--node", "--ca", "--token", "--logs", "--cgroups", "--usage-interval"];
        assert_eq!(problems.len(), flags.len(), "{problems:#?}");
        for (problem, flag) in problems.iter().zip(flags) {
            assert!(problem.starts_with(flag), "{problem}");
        }
    }

    #[test]
    fn intervals() {
        for (good, expected) in [
            ("5s", Some(5)),
            ("1s", Some(1)),
            ("5m", Some(300)),
            ("0", None),
            ("0s", None),
            ("1m 30s", Some(90)),
        ] {
            assert_eq!(interval(good), Ok(expected.map(Duration::from_secs)), "{good}");
        }
        for bad in ["", "5", "999ms", "301s", "-5s", "often", "99999999999999999999h"] {
            assert!(interval(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses() {
        for (good, host, port) in [
            ("localhost:7443", "localhost", 7443),
            ("10.0.0.1:1", "10.0.0.1", 1),
            ("[::1]:7443", "::1", 7443),
        ] {
            let address = Address::parse(good).unwrap();
            assert_eq!((address.host.as_str(), address.port), (host, port));
            assert_eq!(address.to_string(), good);
        }
        for bad in
            ["", "host", "host:", ":1", "host:0", "host:70000", "::1:5", "https://host:5", "a b:5", "[x:1"]
        {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_probe_needs_nothing_but_the_state_directory() {
        let args = Args::try_parse_from(["skpr-agent", "health", "--state", "/x"]).unwrap();
        assert!(matches!(args.command, Some(Command::Health { sessions: false })));
        assert_eq!(args.state, PathBuf::from("/x"));
    }
}
