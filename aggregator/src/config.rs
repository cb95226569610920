//! What the program was asked to do, in three steps: [`Args`] as typed → [`Config`] validated, with every problem
//! reported at once → built by the composition roots.
//!
//! Nothing here opens a file or a socket.

mod args;
mod units;

use crate::fallback;
use crate::platform::kubernetes;
use crate::platform::local::RunInstance;
use crate::store;
use crate::usage;
pub use args::{Args, LogFormat};
use args::{
    Command, CommonArgs, MetricsApiMode, PlatformName, ServeArgs, StandaloneArgs, StoreCommand, TokenCommand,
};
use skpr_agent::recording;
use skpr_proto::Label;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

/// What to do, validated.
#[derive(Debug)]
pub enum Config {
    Serve(Box<Serve>),
    Standalone(Box<Standalone>),
    StoreCheck { data: PathBuf },
    TokenCreate { data: PathBuf, name: String, rights: String },
    RunInstance(RunInstance),
    ServeFiles,
    ServeTransfer { volumes: Vec<PathBuf> },
    Version,
}

#[derive(Debug)]
pub struct Serve {
    pub data: PathBuf,
    pub listen: SocketAddr,
    pub http_listen: SocketAddr,
    pub monitoring_listen: SocketAddr,
    pub namespace: Label,
    pub ca_secret: String,
    pub host_keys_secret: String,
    pub agent_service_account: String,
    pub kubernetes: kubernetes::Options,
    /// How sessions are served where no agent does; none where they are not.
    pub fallback: Option<fallback::Options>,
    pub store: store::Options,
    pub usage: usage::Options,
    pub tls: Tls,
    pub stop: StopTimes,
}

#[derive(Debug)]
pub struct Standalone {
    pub data: PathBuf,
    pub manifests: Vec<PathBuf>,
    pub listen: SocketAddr,
    pub http_listen: Option<SocketAddr>,
    pub monitoring_listen: Option<SocketAddr>,
    /// Where terminals of sessions are recorded; none where they are not.
    pub recordings: Option<recording::Settings>,
    pub store: store::Options,
    pub usage: usage::Options,
    pub tls: Tls,
    pub stop: StopTimes,
}

/// Which certificate is served, and for which names when it is made here.
#[derive(Clone, Debug)]
pub struct Tls {
    pub names: Vec<String>,
    pub files: Option<TlsFiles>,
}

#[derive(Clone, Debug)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub ca: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug)]
pub struct StopTimes {
    pub timeout: Duration,
    pub grace: Duration,
}

/// Everything that is wrong with the arguments, one line each.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct InvalidArgs(pub Vec<String>);

impl Args {
    /// Step two: from what was typed to what is meant.
    pub fn validate(self) -> Result<Config, InvalidArgs> {
        let mut problems = Problems::default();
        let config = match self.command {
            Command::Serve(args) => problems.serve(*args).map(|serve| Config::Serve(Box::new(serve))),
            Command::Standalone(args) => {
                problems.standalone(*args).map(|standalone| Config::Standalone(Box::new(standalone)))
            }
            Command::Store(StoreCommand::Check { data }) => Some(Config::StoreCheck { data }),
            Command::Token(TokenCommand::Create { data, name, rights }) => {
                Some(Config::TokenCreate { data, name, rights })
            }
            Command::RunInstance(args) => Some(Config::RunInstance(args)),
            Command::ServeFiles => Some(Config::ServeFiles),
            Command::ServeTransfer { volumes } => Some(Config::ServeTransfer { volumes }),
            Command::Version => Some(Config::Version),
        };
        match config {
            Some(config) if problems.0.is_empty() => Ok(config),
            _ => Err(InvalidArgs(problems.0)),
        }
    }
}

/// Collects problems; a value that is wrong becomes `None`, and the rest is looked at all the same.
#[derive(Default)]
struct Problems(Vec<String>);

struct Common {
    store: store::Options,
    usage: usage::Options,
    tls: Tls,
    stop: StopTimes,
}

impl Problems {
    fn ok<T, E: std::fmt::Display>(&mut self, flag: &str, value: &str, parsed: Result<T, E>) -> Option<T> {
        match parsed {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                self.0.push(format!("--{flag} `{}`: {error}", value.escape_debug()));
                None
            }
        }
    }

    fn serve(&mut self, args: ServeArgs) -> Option<Serve> {
        let PlatformName::Kubernetes = args.platform;
        let listen = self.address("listen", &args.listen);
        let http_listen = self.address("http-listen", &args.http_listen);
        let monitoring_listen = self.address("monitoring-listen", &args.monitoring_listen);
        let namespace = self.ok("namespace", &args.namespace, Label::parse("namespace", &args.namespace));
        let service = self.ok("service", &args.service, Label::parse("service", &args.service));
        let mut names = vec![];
        if let (Some(namespace), Some(service)) = (&namespace, &service) {
            for service in [service.to_string(), format!("{service}-metrics")] {
                let full = format!("{service}.{namespace}");
                names.extend([format!("{full}.svc"), format!("{full}.svc.cluster.local"), full, service]);
            }
        }
        let common = self.common(&args.common, names);
        let kubernetes = self.kubernetes(&args, namespace.as_ref());
        let fallback = self.fallback(&args);
        let common = common?;
        Some(Serve {
            kubernetes: kubernetes?,
            fallback: fallback?,
            data: args.common.data,
            listen: listen?,
            http_listen: http_listen?,
            monitoring_listen: monitoring_listen?,
            namespace: namespace?,
            ca_secret: args.ca_secret,
            host_keys_secret: args.host_keys_secret,
            agent_service_account: args.agent_service_account,
            store: common.store,
            usage: common.usage,
            tls: common.tls,
            stop: common.stop,
        })
    }

    /// None when it is wrong; `Some(None)` when it is not asked for.
    fn fallback(&mut self, args: &ServeArgs) -> Option<Option<fallback::Options>> {
        let named = args.deny_namespaces.iter();
        let parsed: Vec<Option<Label>> =
            named.map(|name| self.ok("deny-namespace", name, Label::parse("namespace", name))).collect();
        let denied = parsed.into_iter().collect::<Option<_>>()?;
        let directory = args.common.data.join("sessions");
        Some(args.pods_exec.then_some(fallback::Options { denied, directory }))
    }

    fn kubernetes(&mut self, args: &ServeArgs, namespace: Option<&Label>) -> Option<kubernetes::Options> {
        let template = &args.environment_namespace;
        let example = template.replace("{project}", "p").replace("{environment}", "e");
        self.ok("environment-namespace", template, Label::parse("namespace", &example))?;
        let pair = |text: &String| {
            let (name, value) = text.split_once('=').ok_or("is not NAME=VALUE")?;
            Ok::<_, &str>((name.to_owned(), value.to_owned()))
        };
        let mut annotations = BTreeMap::new();
        for text in &args.ingress_annotations {
            annotations.extend(self.ok("ingress-annotation", text, pair(text)));
        }
        let metrics_api = match args.metrics_api {
            MetricsApiMode::Auto => kubernetes::MetricsApi::Auto,
            MetricsApiMode::True => kubernetes::MetricsApi::Always,
            MetricsApiMode::False => kubernetes::MetricsApi::Never,
        };
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        Some(kubernetes::Options {
            namespace: namespace?.clone(),
            lease: args.lease.clone(),
            identity: args.identity.clone(),
            home: template.clone(),
            create_namespaces: !args.no_namespaces,
            cluster: kubernetes::ClusterOptions {
                ingress_class: given(&args.ingress_class),
                ingress_annotations: annotations,
                ingress_tls: args.ingress_tls,
                storage_class: given(&args.storage_class),
                volume_access_mode: args.volume_access_mode.clone(),
            },
            metrics_api,
            monitoring_service: format!("{}-metrics", args.service),
        })
    }

    fn standalone(&mut self, args: StandaloneArgs) -> Option<Standalone> {
        let listen = self.address("listen", &args.listen);
        let http_listen = self.optional_address("http-listen", args.http_listen.as_deref());
        let monitoring_listen = self.optional_address("monitoring-listen", args.monitoring_listen.as_deref());
        let max_bytes = self.ok("record-bytes", &args.record_bytes, units::bytes(&args.record_bytes));
        let common = self.common(&args.common, vec![])?;
        let max_bytes = max_bytes?;
        Some(Standalone {
            recordings: args.record.map(|directory| recording::Settings { directory, max_bytes }),
            data: args.common.data,
            manifests: args.config,
            listen: listen?,
            http_listen: http_listen?,
            monitoring_listen: monitoring_listen?,
            store: common.store,
            usage: common.usage,
            tls: common.tls,
            stop: common.stop,
        })
    }

    /// None when it is wrong; `Some(None)` when there is none.
    fn optional_address(&mut self, flag: &str, value: Option<&str>) -> Option<Option<SocketAddr>> {
        value.map_or(Some(None), |value| self.address(flag, value).map(Some))
    }

    fn address(&mut self, flag: &str, value: &str) -> Option<SocketAddr> {
        // A bare port means this machine only: the safe reading of the shorter form.
        if let Some(port) = value.strip_prefix(':') {
            let port = self.ok(flag, value, port.parse::<u16>())?;
            return Some(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)));
        }
        self.ok(flag, value, value.parse::<SocketAddr>().map_err(|_| "is not IP:PORT"))
    }

    fn common(&mut self, args: &CommonArgs, mut names: Vec<String>) -> Option<Common> {
        names.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
        names.extend(args.tls_names.iter().cloned());
        for name in &args.tls_names {
            let valid = rustls_pki_types::ServerName::try_from(name.as_str());
            self.ok("tls-name", name, valid.map_err(|_| "is neither a DNS name nor an address"));
        }
        let files = match (&args.tls_cert, &args.tls_key, &args.tls_ca) {
            (None, None, None) => None,
            (Some(certificate), Some(key), ca) => {
                Some(TlsFiles { certificate: certificate.clone(), key: key.clone(), ca: ca.clone() })
            }
            _ => {
                self.0
                    .push("--tls-cert and --tls-key are needed together, and --tls-ca only with them".into());
                None
            }
        };
        let mut store = store::Options { directory: args.data.join("store"), ..store::Options::default() };
        let mut duration = |flag, value: &Option<String>, target: &mut Duration| {
            if let Some(value) = value
                && let Some(parsed) = self.ok(flag, value, units::duration(value))
            {
                *target = parsed;
            }
        };
        duration("keep", &args.keep, &mut store.keep_age);
        duration("seal-after", &args.seal_after, &mut store.seal_age);
        if let Some(value) = &args.keep_bytes
            && let Some(bytes) = self.ok("keep-bytes", value, units::bytes(value))
        {
            store.keep_bytes_per_environment = bytes;
        }
        let mut usage = usage::Options {
            directory: args.data.join("usage"),
            keep_age: store.keep_age,
            ..usage::Options::default()
        };
        if let Some(value) = &args.keep_usage_bytes
            && let Some(bytes) = self.ok("keep-usage-bytes", value, units::bytes(value))
        {
            usage.keep_bytes_per_environment = bytes;
        }
        if let Some(value) = &args.seal_bytes
            && let Some(bytes) = self.ok("seal-bytes", value, units::bytes(value))
        {
            store.seal_bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        }
        let timeout = self.ok("stop-timeout", &args.stop_timeout, units::duration(&args.stop_timeout));
        let grace = self.ok("stop-grace", &args.stop_grace, units::duration(&args.stop_grace));
        let stop = StopTimes { timeout: timeout?, grace: grace? };
        if stop.grace >= stop.timeout {
            self.0.push(format!(
                "--stop-grace `{}`: must be shorter than --stop-timeout `{}`",
                args.stop_grace, args.stop_timeout
            ));
        }
        Some(Common { store, usage, tls: Tls { names, files }, stop })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn parse(line: &str) -> Result<Config, InvalidArgs> {
        Args::try_parse_from(line.split_whitespace()).unwrap().validate()
    }

    #[test]
    fn serve_has_safe_defaults_and_the_service_names() {
        let Ok(Config::Serve(serve)) =
            parse("skpr-aggregator serve --data /d --namespace ops --tls-name logs.example.com")
        else {
            panic!("not serve")
        };
        assert_eq!(serve.listen.to_string(), "0.0.0.0:8443");
        assert_eq!(serve.stop.timeout, Duration::from_secs(25));
        assert_eq!(serve.monitoring_listen.to_string(), "0.0.0.0:8444");
        for name in [
            "skpr-aggregator.ops.svc",
            "skpr-aggregator-metrics.ops.svc",
            "localhost",
            "::1",
            "logs.example.com",
        ] {
            assert!(serve.tls.names.iter().any(|known| known == name), "{name}");
        }
        assert_eq!(serve.store.directory, PathBuf::from("/d/store"));
    }

    #[test]
    fn pods_are_entered_only_when_that_is_asked_for_and_never_where_it_is_denied() {
        let fallback = |more: &str| match parse(&format!("skpr-aggregator serve --data /d {more}")) {
            Ok(Config::Serve(serve)) => serve.fallback,
            other => panic!("{other:?}"),
        };
        assert!(fallback("").is_none());
        assert!(fallback("--deny-namespace kube-system").is_none());
        let options = fallback("--pods-exec --deny-namespace kube-system --deny-namespace=skpr").unwrap();
        assert_eq!(options.denied.iter().map(Label::as_str).collect::<Vec<_>>(), ["kube-system", "skpr"]);
        assert_eq!(options.directory, PathBuf::from("/d/sessions"));
        let InvalidArgs(problems) =
            parse("skpr-aggregator serve --data /d --pods-exec --deny-namespace UP").unwrap_err();
        assert!(problems.join(" ").contains("--deny-namespace `UP`"), "{problems:?}");
    }

    #[test]
    fn standalone_listens_on_this_machine_only() {
        let Ok(Config::Standalone(standalone)) = parse(
            "skpr-aggregator standalone --data /d --config a/.skpr.yml --config b/.skpr.yml --keep 2d --keep-bytes 1Gi --keep-usage-bytes 64Mi",
        ) else {
            panic!("not standalone")
        };
        assert!(standalone.listen.ip().is_loopback());
        assert!(standalone.http_listen.is_none() && standalone.monitoring_listen.is_none());
        assert_eq!(standalone.manifests.len(), 2);
        assert_eq!(standalone.store.keep_age, Duration::from_secs(2 * 86_400));
        assert_eq!(standalone.store.keep_bytes_per_environment, 1 << 30);
        assert_eq!(standalone.usage.keep_age, standalone.store.keep_age);
        assert_eq!(standalone.usage.keep_bytes_per_environment, 64 << 20);
        assert_eq!(standalone.usage.directory, PathBuf::from("/d/usage"));
        assert_eq!(standalone.recordings, None);
        let recorded = "skpr-aggregator standalone --data /d --config x --record /r --record-bytes 64Mi";
        let Ok(Config::Standalone(recorded)) = parse(recorded) else { panic!("not standalone") };
        let expected = recording::Settings { directory: "/r".into(), max_bytes: 64 << 20 };
        assert_eq!(recorded.recordings, Some(expected));
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let line = "skpr-aggregator serve --data /d --listen here --namespace UP --tls-cert c --stop-grace 30s --tls-name a_/b";
        let InvalidArgs(problems) = parse(line).unwrap_err();
        let all = problems.join("\n");
        for part in
            ["--listen `here`", "--namespace `UP`", "--tls-key", "--stop-grace `30s`", "--tls-name `a_/b`"]
        {
            assert!(all.contains(part), "{part} in {all}");
        }
    }
}
