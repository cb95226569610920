//! The connection to the aggregator: one TLS channel, trusting the pinned CA and nothing else.
//!
//! Invariants: the token is sent only over a connection whose certificate was verified; no option turns that off.
//! [`tls::shown_ca`] looks at a certificate without verifying it, and says nothing on that connection.

mod tls;

pub(crate) use tls::{Ca, shown_ca};

use crate::error::{Error, usage};
use hyper_util::rt::TokioIo;
use skpr_proto::v1::cron_client::CronClient;
use skpr_proto::v1::environments_client::EnvironmentsClient;
use skpr_proto::v1::logs_client::LogsClient;
use skpr_proto::v1::metrics_client::MetricsClient;
use skpr_proto::v1::sessions_client::SessionsClient;
use skpr_proto::{ErrorKind, Failure, MAX_HTTP_FRAME};
use std::fmt;
use std::time::Duration;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Uri};
use tonic::{Code, Request, Status};

const DEFAULT_PORT: &str = "443";
/// For the name look-up, TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Somebody sits before a session, and is told that it broke within 20 s.
const SESSION_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(8);
const SESSION_KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(8);
/// An answer holds about 1 MiB of messages, or one record of up to 1 MiB more, and the columns beside them.
const MAX_ANSWER: usize = 2 * skpr_proto::MAX_FRAME;
/// 4 MiB in flight fill 300 Mbit/s at 100 ms, and bound what a reader that stops makes us hold.
const WINDOW: u32 = 4 << 20;

/// `host:port` of an aggregator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    host: String,
    port: u16,
}

impl Endpoint {
    /// `host`, `host:port`, `1.2.3.4:port`, `[::1]:port`.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let invalid = || {
            let shown: String = text.chars().take(128).collect();
            usage(format!("`{}` is not a cluster", crate::terminal::clean(&shown)))
                .with_hint("a cluster is HOST or HOST:PORT, such as `skpr.example.com:443`")
        };
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, port) = rest.split_once(']').ok_or_else(invalid)?;
            (host, port.strip_prefix(':').or(port.is_empty().then_some(DEFAULT_PORT)).ok_or_else(invalid)?)
        } else {
            match text.split_once(':') {
                // An IPv6 address without brackets.
                Some((_, port)) if port.contains(':') => (text, DEFAULT_PORT),
                Some((host, port)) => (host, port),
                None => (text, DEFAULT_PORT),
            }
        };
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(invalid)?;
        rustls_pki_types::ServerName::try_from(host).map_err(|_| invalid())?;
        Ok(Endpoint { host: host.to_ascii_lowercase(), port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Endpoint { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// A bearer token. It is shown nowhere, so it has no `Debug` that could show it.
#[derive(Clone)]
pub(crate) struct Token(MetadataValue<Ascii>);

impl Token {
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let text = text.trim();
        let visible = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        let value = visible.then(|| MetadataValue::try_from(format!("Bearer {text}")).ok()).flatten();
        match value {
            Some(mut value) => {
                value.set_sensitive(true);
                Ok(Token(value))
            }
            None => Err(usage("the token is empty or holds characters that no token has")
                .with_hint("in Kubernetes: kubectl create token NAME --audience skpr")),
        }
    }
}

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// Where to call, whom to trust and as whom.
#[derive(Clone)]
pub(crate) struct Access {
    pub endpoint: Endpoint,
    pub ca_pem: String,
    pub token: Token,
}

/// An open connection.
#[derive(Clone)]
pub(crate) struct Client {
    channel: InterceptedService<Channel, Token>,
}

impl Client {
    pub(crate) async fn connect(access: &Access) -> Result<Client, Error> {
        Client::open(access, (KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT)).await
    }

    /// A connection that is found broken sooner.
    pub(crate) async fn for_sessions(access: &Access) -> Result<Client, Error> {
        Client::open(access, (SESSION_KEEPALIVE_INTERVAL, SESSION_KEEPALIVE_TIMEOUT)).await
    }

    async fn open(access: &Access, keepalive: (Duration, Duration)) -> Result<Client, Error> {
        let endpoint = &access.endpoint;
        let tls = tls::trusting(&access.ca_pem)?;
        let failed = || {
            let message = format!("cannot connect to `{endpoint}`: the connection ended before it was ready");
            let hint = "check that the address and port are those of the skpr aggregator";
            Failure::new(ErrorKind::Unavailable, message).with_hint(hint)
        };
        // TLS is ours, so tonic must not add its own; requests are to an https origin all the same.
        let origin = Uri::try_from(format!("https://{endpoint}")).map_err(|_| failed())?;
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{endpoint}"))
            .and_then(|channel| channel.user_agent(concat!("skpr/", env!("CARGO_PKG_VERSION"))))
            .map_err(|_| failed())?
            .origin(origin)
            .http2_keep_alive_interval(keepalive.0)
            .keep_alive_timeout(keepalive.1)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_frame_size(MAX_HTTP_FRAME);
        let target = endpoint.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let (target, tls) = (target.clone(), tls.clone());
            async move {
                tokio::time::timeout(CONNECT_TIMEOUT, tls::open(&target, tls))
                    .await
                    .unwrap_or(Err(tls::ConnectError::TimedOut))
                    .map(TokioIo::new)
            }
        });
        let channel = channel.connect_with_connector(connector).await.map_err(|error| {
            match cause::<tls::ConnectError>(&error) {
                Some(cause) => cause.explain(endpoint),
                None => failed().into(),
            }
        })?;
        Ok(Client { channel: InterceptedService::new(channel, access.token.clone()) })
    }

    pub(crate) fn environments(&self) -> EnvironmentsClient<InterceptedService<Channel, Token>> {
        EnvironmentsClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    pub(crate) fn logs(&self) -> LogsClient<InterceptedService<Channel, Token>> {
        LogsClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    pub(crate) fn cron(&self) -> CronClient<InterceptedService<Channel, Token>> {
        CronClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    pub(crate) fn sessions(&self) -> SessionsClient<InterceptedService<Channel, Token>> {
        SessionsClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    pub(crate) fn metrics(&self) -> MetricsClient<InterceptedService<Channel, Token>> {
        MetricsClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }
}

/// The error of a call, with the hint that fits when the aggregator gave none.
pub(crate) fn call_error(status: &Status, endpoint: &Endpoint) -> Error {
    let mut failure = Failure::from(status);
    if was_cut(status) {
        failure = Failure::new(ErrorKind::Unavailable, format!("the connection to `{endpoint}` was lost"));
    }
    if failure.message.is_empty() {
        failure.message = format!("`{endpoint}` answered {:?}", status.code());
    }
    if failure.kind == ErrorKind::NotLoggedIn && failure.hint.is_none() {
        failure.hint = Some(format!("skpr login {endpoint}"));
    }
    if status.code() == Code::Unimplemented && failure.hint.is_none() {
        failure.hint = Some("the cluster's skpr may be older than this one: skpr version -v".to_owned());
    }
    // What stands between, such as a proxy, answers in HTTP alone.
    if failure.message.starts_with("grpc-status header missing") {
        let code: String = failure.message.chars().filter(char::is_ascii_digit).collect();
        let message =
            format!("`{endpoint}` is no skpr aggregator, or a proxy before it: it answered HTTP {code}");
        failure = Failure { message, ..failure }
            .with_hint("check that the address and port are those of the skpr aggregator");
    }
    Error::from(failure)
}

/// Whether a call ended because the connection did: such a status is made on this side and has a source.
pub(crate) fn was_cut(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

/// The first error of this type in a chain of causes.
fn cause<'a, E: std::error::Error + 'static>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_are_parsed_strictly() {
        for (text, expected) in [
            ("skpr.example.com", "skpr.example.com:443"),
            ("Skpr.Example.Com:8443", "skpr.example.com:8443"),
            ("127.0.0.1:7443", "127.0.0.1:7443"),
            ("[::1]:7443", "[::1]:7443"),
            ("::1", "[::1]:443"),
            ("[::1]", "[::1]:443"),
        ] {
            assert_eq!(Endpoint::parse(text).unwrap().to_string(), expected);
        }
        for bad in
            ["", ":443", "a:", "a:0", "a:99999", "https://a", "a b", "a/b", "[::1", "[::1]x", "\x1b[2J"]
        {
            let failure = Endpoint::parse(bad).unwrap_err();
            assert_eq!(failure.kind, ErrorKind::Usage, "{bad}");
            assert!(!failure.message.contains('\x1b'));
        }
    }

    #[test]
    fn tokens_that_cannot_be_sent_are_refused_without_showing_them() {
        assert!(Token::parse(" abc.def\n").is_ok());
        for bad in ["", " ", "sec ret", "sec\nret", "sécret"] {
            let failure = Token::parse(bad).err().unwrap();
            assert!(!failure.message.contains("ret"), "{}", failure.message);
        }
    }
}
