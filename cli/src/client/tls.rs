//! TLS on this side: a connection that trusts one CA, what can go wrong with it and what to do then; and a look at
//! the CA that a server shows, for the login that pins it.

use crate::client::Endpoint;
use crate::error::{Error, usage};
use base64::Engine as _;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest as _, Sha256};
use skpr_proto::{ErrorKind, Failure};
use std::io;
use std::sync::{Arc, Mutex};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("look up the name")]
    Name(#[source] io::Error),
    #[error("open a TCP connection")]
    Tcp(#[source] io::Error),
    #[error("{0}")]
    Certificate(CertificateError),
    #[error("set up TLS")]
    Tls(#[source] io::Error),
    #[error("no answer within 10 seconds")]
    TimedOut,
    #[error("it does not speak gRPC")]
    NotGrpc,
}

impl ConnectError {
    fn from_handshake(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(reason)) => ConnectError::Certificate(reason.clone()),
            _ => ConnectError::Tls(error),
        }
    }

    /// What the user is told, with the hint that fits.
    pub(crate) fn explain(&self, endpoint: &Endpoint) -> Error {
        let message = format!("cannot connect to `{endpoint}`: {}", self.why());
        Failure::new(self.kind(), message).with_hint(self.hint(endpoint)).into()
    }

    /// One sentence, without the words of libraries.
    fn why(&self) -> String {
        match self {
            ConnectError::Name(_) => "its name is not known".to_owned(),
            ConnectError::Tcp(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused => "nothing listens there".to_owned(),
                io::ErrorKind::TimedOut => "it does not answer".to_owned(),
                io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                    "no network leads there".to_owned()
                }
                kind => kind.to_string(),
            },
            ConnectError::Certificate(reason) => match reason {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "its certificate has expired"
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    "its certificate is not valid yet"
                }
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    "its certificate is for another name"
                }
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    "its certificate is not from the CA that is trusted"
                }
                _ => "its certificate is not good",
            }
            .to_owned(),
            ConnectError::Tls(error) => {
                let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
                match inner {
                    Some(rustls::Error::InvalidMessage(_)) => "it does not speak TLS",
                    _ => "it ends the connection before TLS is set up",
                }
                .to_owned()
            }
            ConnectError::TimedOut | ConnectError::NotGrpc => self.to_string(),
        }
    }

    /// A certificate stays wrong until somebody acts; everything else may pass.
    fn kind(&self) -> ErrorKind {
        match self {
            ConnectError::Certificate(_) => ErrorKind::Failed,
            ConnectError::Name(_)
            | ConnectError::Tcp(_)
            | ConnectError::Tls(_)
            | ConnectError::TimedOut
            | ConnectError::NotGrpc => ErrorKind::Unavailable,
        }
    }

    fn hint(&self, endpoint: &Endpoint) -> String {
        match self {
            ConnectError::Name(_) => {
                "check the cluster's name: --cluster, SKPR_CLUSTER or .skpr.yml".to_owned()
            }
            ConnectError::Tcp(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                "check the port, and that the aggregator runs".to_owned()
            }
            ConnectError::Tcp(_) => "check the network between here and the cluster".to_owned(),
            ConnectError::TimedOut => {
                "check the address, and firewalls between here and the cluster".to_owned()
            }
            ConnectError::NotGrpc | ConnectError::Tls(_) => {
                "check that the address and port are those of the skpr aggregator".to_owned()
            }
            ConnectError::Certificate(reason) => match reason {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "tell whoever runs the cluster, or check this machine's clock".to_owned()
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    "check this machine's clock".to_owned()
                }
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    "use one of the names that the certificate is for, or have this one added (tls.names)"
                        .to_owned()
                }
                _ => format!("if the CA was really replaced: skpr login {endpoint}, or correct SKPR_CA"),
            },
        }
    }
}

/// A CA certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ca(Vec<CertificateDer<'static>>);

impl Ca {
    pub(crate) fn from_pem(text: &str) -> Result<Self, Failure> {
        let certificates: Vec<_> =
            CertificateDer::pem_slice_iter(text.as_bytes()).filter_map(Result::ok).collect();
        if certificates.is_empty() {
            return Err(usage("the CA file holds no PEM certificate")
                .with_hint("it must hold `-----BEGIN CERTIFICATE-----`"));
        }
        Ok(Ca(certificates))
    }

    pub(crate) fn to_pem(&self) -> String {
        let mut pem = String::new();
        for certificate in &self.0 {
            pem.push_str("-----BEGIN CERTIFICATE-----\n");
            let text = base64::engine::general_purpose::STANDARD.encode(certificate);
            let mut rest = text.as_str();
            while let Some((line, tail)) = rest.split_at_checked(64) {
                pem.push_str(line);
                pem.push('\n');
                rest = tail;
            }
            if !rest.is_empty() {
                pem.push_str(rest);
                pem.push('\n');
            }
            pem.push_str("-----END CERTIFICATE-----\n");
        }
        pem
    }

    /// The SHA-256 of each certificate, as `openssl x509 -fingerprint -sha256` shows it.
    pub(crate) fn fingerprints(&self) -> Vec<String> {
        let hex = |certificate: &CertificateDer<'_>| {
            let bytes: Vec<String> =
                Sha256::digest(certificate).iter().map(|byte| format!("{byte:02X}")).collect();
            bytes.join(":")
        };
        self.0.iter().map(hex).collect()
    }

    /// Whether the fingerprint that the user gave, in whatever notation, is this CA's.
    pub(crate) fn has_fingerprint(&self, typed: &str) -> bool {
        let plain = |text: &str| -> String {
            let text = text.to_ascii_uppercase();
            let text = text.rsplit(['=']).next().unwrap_or_default();
            text.trim_start_matches("SHA256:").chars().filter(char::is_ascii_hexdigit).collect()
        };
        self.fingerprints().iter().any(|own| plain(own) == plain(typed))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn with_alpn(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// The configuration that trusts this CA and no other.
pub(crate) fn trusting(ca_pem: &str) -> Result<Arc<ClientConfig>, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in Ca::from_pem(ca_pem)?.0 {
        roots
            .add(certificate)
            .map_err(|_| usage("the CA file holds a certificate that cannot be used as a CA"))?;
    }
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::new(Failure::new(ErrorKind::Failed, "cannot set up TLS"), &error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(with_alpn(config))
}

/// Looks up the name, connects to the first address that answers, and shakes hands.
pub(crate) async fn open(
    endpoint: &Endpoint,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, ConnectError> {
    let name = ServerName::try_from(endpoint.host.clone())
        .map_err(|error| ConnectError::Name(io::Error::other(error)))?;
    let addresses =
        tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port)).await.map_err(ConnectError::Name)?;
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // A keystroke or a request must not wait for the acknowledgement of the previous one.
                stream.set_nodelay(true).map_err(ConnectError::Tcp)?;
                let stream = TlsConnector::from(config)
                    .connect(name, stream)
                    .await
                    .map_err(ConnectError::from_handshake)?;
                let grpc = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                return if grpc { Ok(stream) } else { Err(ConnectError::NotGrpc) };
            }
            Err(error) => failed = error,
        }
    }
    Err(ConnectError::Tcp(failed))
}

/// The CA that the server shows: the last certificate of its chain. Whether the server's own certificate really comes
/// from it is checked by the connection that trusts it.
pub(crate) async fn shown_ca(endpoint: &Endpoint) -> Result<Ca, Error> {
    let provider = provider();
    let recorder = Arc::new(Recorder {
        algorithms: provider.signature_verification_algorithms,
        shown: Mutex::new(None),
    });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::new(Failure::new(ErrorKind::Failed, "cannot set up TLS"), &error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&recorder) as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth();
    let stream = tokio::time::timeout(super::CONNECT_TIMEOUT, open(endpoint, with_alpn(config)))
        .await
        .unwrap_or(Err(ConnectError::TimedOut))
        .map_err(|error| error.explain(endpoint))?;
    // Not one byte goes over it.
    drop(stream);
    let shown = recorder.shown.lock().ok().and_then(|mut shown| shown.take());
    let ca =
        shown.ok_or_else(|| Failure::new(ErrorKind::Failed, format!("`{endpoint}` shows no certificate")))?;
    Ok(Ca(vec![ca]))
}

/// Accepts any certificate and remembers the last of the chain. Used by [`shown_ca`] alone.
#[derive(Debug)]
struct Recorder {
    algorithms: WebPkiSupportedAlgorithms,
    shown: Mutex<Option<CertificateDer<'static>>>,
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Ok(mut shown) = self.shown.lock() {
            *shown = Some(chain.last().unwrap_or(leaf).clone().into_owned());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_is_written_as_it_is_read() {
        for length in [1, 47, 48, 49, 500] {
            let ca = Ca(vec![CertificateDer::from(vec![7u8; length])]);
            assert_eq!(Ca::from_pem(&ca.to_pem()).unwrap(), ca);
        }
        assert!(Ca::from_pem("nothing").is_err());
    }

    #[test]
    fn fingerprints_are_accepted_in_every_common_notation() {
        let ca = Ca(vec![CertificateDer::from(vec![7u8; 9])]);
        let own = ca.fingerprints().remove(0);
        for typed in [
            own.clone(),
            own.to_lowercase(),
            own.replace(':', ""),
            format!("SHA256:{}", own.replace(':', "")),
            format!("sha256 Fingerprint={own}"),
        ] {
            assert!(ca.has_fingerprint(&typed), "{typed}");
        }
        for bad in ["", "sha256:", "00", &own.replace('A', "B").replace('1', "2")[1..]] {
            assert!(!ca.has_fingerprint(bad), "{bad}");
        }
    }
}
