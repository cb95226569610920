//! The arguments as typed, and their help.

use crate::platform::local::RunInstance;
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// The longest a stop may take, and the time that streams get in it to move elsewhere by themselves.
const STOP_TIMEOUT: &str = "25s";
const STOP_GRACE: &str = "5s";

/// Collects what agents read, keeps it, and answers the CLI.
#[derive(Debug, Parser)]
#[command(name = "skpr-aggregator", disable_version_flag = true)]
pub struct Args {
    /// How to write the program's own log (on stderr; level and filter by SKPR_LOG).
    #[arg(long, global = true, value_enum, default_value = "text", env = "SKPR_LOG_FORMAT")]
    pub log_format: LogFormat,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run in a Kubernetes cluster.
    Serve(Box<ServeArgs>),
    /// Run everything on this machine: aggregator, agent, and the instances of `.skpr.yml` files.
    Standalone(Box<StandaloneArgs>),
    /// Look after the store.
    #[command(subcommand)]
    Store(StoreCommand),
    /// Look after the tokens of a standalone aggregator.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Start the program of an instance; used by standalone.
    #[command(hide = true)]
    RunInstance(RunInstance),
    /// Serve files over SFTP on stdin and stdout; used by standalone.
    #[command(hide = true)]
    ServeFiles,
    /// Serve one transfer of the working directory's files on stdin and stdout; used by standalone.
    #[command(hide = true)]
    ServeTransfer {
        /// A volume: the path at which the instance knows it, and where it is.
        #[arg(long = "volume", num_args = 2, value_names = ["PATH", "DIR"])]
        volumes: Vec<PathBuf>,
    },
    /// Print the version.
    Version,
}

#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// Read and verify every file of a store that no aggregator has open.
    Check {
        /// The data directory.
        #[arg(long, env = "SKPR_DATA")]
        data: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token, add it to the token file and print it: it cannot be shown again.
    Create {
        /// The data directory.
        #[arg(long, env = "SKPR_DATA")]
        data: PathBuf,
        /// Whose token it is, for `whoami` and the audit lines.
        name: String,
        /// `*`, or a comma list of `project/environment:right+right`; the environment may be `*`, the rights are `list`,
        /// `logs`, `metrics`, `deploy`, `delete`, `exec`, `files` and `cron` (of which the last five bring `list`). `metrics` alone in
        /// the list is for monitoring. Who has `deploy` or `exec` runs programs as the user that this aggregator runs as.
        rights: String,
    },
}

#[derive(Debug, ClapArgs)]
pub(super) struct ServeArgs {
    /// What runs the environments.
    #[arg(long, value_enum, default_value = "kubernetes")]
    pub(super) platform: PlatformName,
    /// Where agents and the CLI connect (gRPC over TLS).
    #[arg(long, default_value = "0.0.0.0:8443")]
    pub(super) listen: String,
    /// Where probes are answered (plain HTTP): /livez and /readyz.
    #[arg(long, default_value = "0.0.0.0:8080")]
    pub(super) http_listen: String,
    /// Where monitoring reads /metrics and /metrics/containers (HTTPS, with a token).
    #[arg(long, default_value = "0.0.0.0:8444")]
    pub(super) monitoring_listen: String,
    /// The namespace this aggregator runs in.
    #[arg(long, env = "POD_NAMESPACE", default_value = "skpr")]
    pub(super) namespace: String,
    /// The Service's name, which the certificate is made for; with -metrics after it, monitoring's.
    #[arg(long, default_value = "skpr-aggregator")]
    pub(super) service: String,
    /// The Secret that holds the CA made by this aggregator.
    #[arg(long, default_value = "skpr-ca")]
    pub(super) ca_secret: String,
    /// The Secret that the environments' host keys are derived from.
    #[arg(long, default_value = "skpr-host-keys")]
    pub(super) host_keys_secret: String,
    /// The ServiceAccount of the agents, in the aggregator's namespace.
    #[arg(long, default_value = "skpr-agent")]
    pub(super) agent_service_account: String,
    /// The namespace of a new environment; {project} and {environment} are replaced.
    #[arg(long, default_value = "{project}-{environment}")]
    pub(super) environment_namespace: String,
    /// Do not make that namespace, also for users who may make namespaces.
    #[arg(long)]
    pub(super) no_namespaces: bool,
    /// The IngressClass of environments with domains; the cluster's default unless given.
    #[arg(long)]
    pub(super) ingress_class: Option<String>,
    /// An annotation of these Ingresses as NAME=VALUE; may be given more than once.
    #[arg(long = "ingress-annotation")]
    pub(super) ingress_annotations: Vec<String>,
    /// Serve domains over TLS with the Secret PROJECT-ENVIRONMENT-tls.
    #[arg(long)]
    pub(super) ingress_tls: bool,
    /// The StorageClass of environments' volumes; the cluster's default unless given.
    #[arg(long)]
    pub(super) storage_class: Option<String>,
    /// How environments' volumes are mounted.
    #[arg(long, default_value = "ReadWriteOnce")]
    pub(super) volume_access_mode: String,
    /// Serve metrics.k8s.io, which `kubectl top` and autoscalers read: while nobody else does, in any case, or not.
    #[arg(long, value_enum, default_value = "auto")]
    pub(super) metrics_api: MetricsApiMode,
    /// Serve sessions by `pods/exec` in pods of nodes whose agent serves none. Takes the right to `get` and `create` it.
    #[arg(long)]
    pub(super) pods_exec: bool,
    /// A namespace in whose pods nothing is started that way; may be given more than once.
    #[arg(long = "deny-namespace")]
    pub(super) deny_namespaces: Vec<String>,
    /// The Lease, in the aggregator's namespace, whose holder looks after environments.
    #[arg(long, default_value = "skpr-controller")]
    pub(super) lease: String,
    /// Who this aggregator is to the Lease; the same after a restart.
    #[arg(long, env = "POD_NAME", default_value = "skpr-aggregator")]
    pub(super) identity: String,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum PlatformName {
    Kubernetes,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum MetricsApiMode {
    Auto,
    True,
    False,
}

#[derive(Debug, ClapArgs)]
pub(super) struct StandaloneArgs {
    /// A project's `.skpr.yml`; may be given more than once.
    #[arg(long, required = true, num_args = 1..)]
    pub(super) config: Vec<PathBuf>,
    /// Where the CLI connects (gRPC over TLS).
    #[arg(long, default_value = "127.0.0.1:7443")]
    pub(super) listen: String,
    /// Where probes are answered (plain HTTP), /livez and /readyz; nowhere unless given.
    #[arg(long)]
    pub(super) http_listen: Option<String>,
    /// Where monitoring reads /metrics and /metrics/containers (HTTPS, with a token that has the right `metrics`); nowhere
    /// unless given.
    #[arg(long)]
    pub(super) monitoring_listen: Option<String>,
    /// Record what terminals of sessions show, below this directory; who opens one is told. Nothing is recorded unless given.
    #[arg(long, value_name = "DIR")]
    pub(super) record: Option<PathBuf>,
    /// How many bytes of recordings are kept, such as 512Mi; the oldest go.
    #[arg(long, default_value = "1Gi")]
    pub(super) record_bytes: String,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

#[derive(Debug, ClapArgs)]
pub(super) struct CommonArgs {
    /// The data directory.
    #[arg(long, env = "SKPR_DATA")]
    pub(super) data: PathBuf,
    /// One more name or address that the certificate is made for; may be given more than once.
    #[arg(long = "tls-name")]
    pub(super) tls_names: Vec<String>,
    /// Use this certificate chain (PEM) instead of one made here.
    #[arg(long)]
    pub(super) tls_cert: Option<PathBuf>,
    /// The private key (PEM) of --tls-cert.
    #[arg(long)]
    pub(super) tls_key: Option<PathBuf>,
    /// The CA (PEM) that --tls-cert was issued by, sent along so that `skpr login` can pin it.
    #[arg(long)]
    pub(super) tls_ca: Option<PathBuf>,
    /// How long records and samples of usage are kept, such as 30d.
    #[arg(long)]
    pub(super) keep: Option<String>,
    /// How many bytes of records each environment may keep, such as 10Gi.
    #[arg(long)]
    pub(super) keep_bytes: Option<String>,
    /// How many bytes of samples of usage each environment may keep, such as 2Gi.
    #[arg(long)]
    pub(super) keep_usage_bytes: Option<String>,
    /// Write files when this much of all environments together is in memory, such as 64Mi.
    #[arg(long)]
    pub(super) seal_bytes: Option<String>,
    /// Write a file when a record has been in memory this long, such as 5m.
    #[arg(long)]
    pub(super) seal_after: Option<String>,
    /// The longest a stop may take; what has not ended by then is cut off.
    #[arg(long, default_value = STOP_TIMEOUT)]
    pub(super) stop_timeout: String,
    /// How long open streams may go on after a stop began.
    #[arg(long, default_value = STOP_GRACE)]
    pub(super) stop_grace: String,
}
