//! Opens the one connection to the aggregator: TCP, TLS against the pinned authority, HTTP/2.
//!
//! The authority and the token are read anew each time, so rotating either needs no restart. A [`Connection`] is one
//! TCP connection: when it is gone every call on it fails, and nothing reconnects behind the caller's back.

use super::failure::LinkError;
use crate::config::{Address, Config};
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use skpr_proto::v1::agents_client::AgentsClient;
use skpr_proto::{MAX_FRAME, MAX_HTTP_FRAME};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint, Uri};

/// TCP, TLS and HTTP/2 together may take this long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection over which nothing comes is asked for a sign of life after this long …
const KEEPALIVE: Duration = Duration::from_secs(30);
/// … and given up when it does not answer within this.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// What the aggregator may send unasked. It sends acknowledgements and claims: a few bytes each, and the longest
/// message (the whole set of claims) is below `MAX_FRAME`.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// A token is a JWT of a few KiB; a larger file is not a token.
const MAX_TOKEN: usize = 64 << 10;

/// An open connection and the token to show on it.
pub(crate) struct Connection {
    channel: Channel,
    authorization: MetadataValue<Ascii>,
}

impl Connection {
    /// Connects, or says which step failed.
    pub(crate) async fn open(config: &Config) -> Result<Self, LinkError> {
        let authorization = read_token(&config.token)?;
        let tls = tls_config(&config.ca)?;
        let channel = timeout(CONNECT_TIMEOUT, open_channel(&config.aggregator, tls))
            .await
            .map_err(|_| LinkError::TimedOut { what: "connecting", limit: CONNECT_TIMEOUT })??;
        Ok(Connection { channel, authorization })
    }

    pub(crate) fn client(&self) -> AgentsClient<Channel> {
        AgentsClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_FRAME)
            .max_encoding_message_size(MAX_FRAME)
    }

    /// A request that carries the token.
    pub(crate) fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.metadata_mut().insert("authorization", self.authorization.clone());
        request
    }
}

fn read_token(path: &Path) -> Result<MetadataValue<Ascii>, LinkError> {
    let text = std::fs::read_to_string(path).map_err(|source| LinkError::ReadFile {
        what: "token",
        path: path.to_owned(),
        source,
    })?;
    let token = text.trim();
    let value = if token.is_empty() || token.len() > MAX_TOKEN {
        None
    } else {
        MetadataValue::try_from(format!("Bearer {token}")).ok()
    };
    let mut value = value.ok_or_else(|| LinkError::NotAToken { path: path.to_owned() })?;
    value.set_sensitive(true);
    Ok(value)
}

/// TLS that trusts the given authorities and nothing else. There is no way to turn verification off.
fn tls_config(ca: &Path) -> Result<rustls::ClientConfig, LinkError> {
    let pem = std::fs::read(ca).map_err(|source| LinkError::ReadFile {
        what: "certificate authority",
        path: ca.to_owned(),
        source,
    })?;
    let not_a_ca = |cause: String| LinkError::NotACertificate { path: ca.to_owned(), cause };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| not_a_ca(error.to_string()))?;
        roots.add(certificate).map_err(|error| not_a_ca(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(not_a_ca("it holds no certificate".to_owned()));
    }
    // The provider is named here and not taken from the process, because a library must not rely on its main.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(LinkError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

async fn open_channel(address: &Address, tls: rustls::ClientConfig) -> Result<Channel, LinkError> {
    let name = ServerName::try_from(address.host.clone()).map_err(|_| LinkError::NotAnAddress)?;
    let tcp = TcpStream::connect((address.host.as_str(), address.port)).await.map_err(LinkError::Connect)?;
    tcp.set_nodelay(true).map_err(LinkError::Connect)?;
    let tls = TlsConnector::from(Arc::new(tls)).connect(name, tcp).await.map_err(LinkError::Secure)?;

    let uri = |scheme| {
        Uri::builder()
            .scheme(scheme)
            .authority(address.to_string())
            .path_and_query("/")
            .build()
            .map_err(|_| LinkError::NotAnAddress)
    };
    // The stream handed over below is encrypted already. `http` keeps tonic from adding a second TLS layer, `https` is
    // what the requests say.
    let endpoint = Endpoint::from(uri("http")?)
        .origin(uri("https")?)
        .user_agent(concat!("skpr-agent/", env!("CARGO_PKG_VERSION")))
        .map_err(LinkError::Http)?
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_HTTP_FRAME)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        // Three calls are made on a connection; tonic reserves this many slots at once.
        .buffer_size(8);
    let mut once = Some(TokioIo::new(tls));
    let connector = tower::service_fn(move |_: Uri| {
        let io = once.take().ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected));
        async move { io }
    });
    endpoint.connect_with_connector(connector).await.map_err(LinkError::Http)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        file
    }

    #[test]
    fn a_token_is_trimmed_and_never_printed() {
        let token = read_token(file("abc.def\n").path()).unwrap();
        assert_eq!(token.to_str().unwrap(), "Bearer abc.def");
        assert!(!format!("{token:?}").contains("abc"));
    }

    #[test]
    fn what_is_no_token_is_refused_before_it_is_sent() {
        for bad in ["", " \n", "two\nlines", &"x".repeat(MAX_TOKEN + 1)] {
            assert!(matches!(read_token(file(bad).path()), Err(LinkError::NotAToken { .. })), "{bad:.20}");
        }
        assert!(matches!(read_token(Path::new("/nonexistent")), Err(LinkError::ReadFile { .. })));
    }

    #[test]
    fn an_authority_must_hold_a_certificate() {
        for bad in ["", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert!(matches!(tls_config(file(bad).path()), Err(LinkError::NotACertificate { .. })), "{bad}");
        }
    }
}
