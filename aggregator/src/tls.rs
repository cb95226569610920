//! The certificate that is served: one made here from a CA of our own, or one from files; replaced while running.
//!
//! - The chain that is sent ends with the CA, so that a first `skpr login` can show its fingerprint and pin it.
//! - A new certificate that cannot be used is refused and logged; the old one stays.
//! - There is no way to serve without TLS.

mod accept;
mod ask;
mod ca;

pub use accept::{Acceptor, Connection, Connections};
pub(crate) use accept::{HANDSHAKES, HangUp, connection, peer};
pub(crate) use ask::AskForCertificate;
pub use ca::{Ca, CaPlace};

use crate::config;
use anyhow::Context as _;
use rustls::crypto::ring;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert, ServerConfig, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};
use tokio_util::sync::CancellationToken;

/// How long a certificate made here is valid, and how long before its end the next one is made.
const LEAF_VALID: Duration = Duration::from_secs(30 * 86_400);
const RENEW_BEFORE: Duration = Duration::from_secs(10 * 86_400);
/// How often files and the clock are looked at. Wall-clock time is compared, so that a suspended machine notices.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// What the server needs for TLS, and the duty to keep its certificate current.
pub struct Tls {
    server: Arc<ServerConfig>,
    current: Arc<Current>,
    origin: Origin,
}

/// Where certificates come from.
enum Origin {
    Own { ca: Box<Ca>, names: Vec<String>, renew_at: SystemTime },
    Files { files: config::TlsFiles, seen: Pem },
}

/// The certificates that this aggregator is recognised by.
#[derive(Clone, Debug)]
pub enum Authority {
    /// Of the CA of our own, in PEM.
    Own(Arc<str>),
    /// In a file, which may be replaced.
    File(PathBuf),
}

/// The contents of certificate files.
#[derive(Clone, PartialEq, Eq)]
struct Pem {
    certificate: Vec<u8>,
    key: Vec<u8>,
    ca: Vec<u8>,
}

impl Tls {
    /// Serves what the configuration says; a CA of our own is kept at `place`.
    pub async fn new(config: &config::Tls, place: CaPlace) -> anyhow::Result<Tls> {
        match &config.files {
            Some(files) => {
                let seen = Pem::read(files)?;
                let key = seen.certified_key()?;
                Tls::with(key, Origin::Files { files: files.clone(), seen })
            }
            None => Tls::own(place.load_or_create().await?, config.names.clone()),
        }
    }

    fn own(ca: Ca, names: Vec<String>) -> anyhow::Result<Tls> {
        let now = SystemTime::now();
        let key = ca.issue(&names, now, LEAF_VALID)?;
        let renew_at = now + (LEAF_VALID - RENEW_BEFORE);
        Tls::with(key, Origin::Own { ca: Box::new(ca), names, renew_at })
    }

    fn with(key: CertifiedKey, origin: Origin) -> anyhow::Result<Tls> {
        let current = Arc::new(Current(RwLock::new(Arc::new(key))));
        Ok(Tls { server: server(&current, None, &[b"h2"])?, current, origin })
    }

    /// For agents and the CLI, who show tokens.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// For monitoring, in either version of HTTP. `clients` says whose certificates are good, where any are.
    pub fn monitoring_config(
        &self,
        clients: Option<Arc<dyn ClientCertVerifier>>,
    ) -> anyhow::Result<Arc<ServerConfig>> {
        server(&self.current, clients, &[b"h2", b"http/1.1"])
    }

    /// What clients have to trust to recognise this aggregator.
    pub fn authority(&self) -> Authority {
        match &self.origin {
            Origin::Own { ca, .. } => Authority::Own(ca.pem().into()),
            Origin::Files { files, .. } => {
                Authority::File(files.ca.as_ref().unwrap_or(&files.certificate).clone())
            }
        }
    }

    /// Renews or re-reads the certificate until told to stop.
    pub async fn keep_current(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            match self.next(SystemTime::now()) {
                Ok(Some(key)) => {
                    self.current.set(key);
                    tracing::info!("certificate replaced");
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(
                        error = format!("{error:#}"),
                        "new certificate refused, the old one stays"
                    );
                }
            }
        }
    }

    /// A certificate to serve from now on, if it is time for another.
    fn next(&mut self, now: SystemTime) -> anyhow::Result<Option<CertifiedKey>> {
        match &mut self.origin {
            Origin::Own { ca, names, renew_at } => {
                if now < *renew_at {
                    return Ok(None);
                }
                let key = ca.issue(names, now, LEAF_VALID)?;
                *renew_at = now + (LEAF_VALID - RENEW_BEFORE);
                Ok(Some(key))
            }
            Origin::Files { files, seen } => {
                let read = Pem::read(files)?;
                if read == *seen {
                    return Ok(None);
                }
                let key = read.certified_key()?;
                *seen = read;
                Ok(Some(key))
            }
        }
    }
}

fn server(
    current: &Arc<Current>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    protocols: &[&[u8]],
) -> anyhow::Result<Arc<ServerConfig>> {
    let mut server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context("choose TLS versions")?
        .with_client_cert_verifier(clients.unwrap_or_else(WebPkiClientVerifier::no_client_auth))
        .with_cert_resolver(Arc::clone(current) as Arc<dyn ResolvesServerCert>);
    server.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(server))
}

impl Authority {
    /// As it is now.
    pub fn pem(&self) -> anyhow::Result<Vec<u8>> {
        match self {
            Authority::Own(pem) => Ok(pem.as_bytes().to_vec()),
            Authority::File(path) => std::fs::read(path).with_context(|| format!("read {}", path.display())),
        }
    }
}

impl Pem {
    fn read(files: &config::TlsFiles) -> anyhow::Result<Pem> {
        let read = |path: &Path| std::fs::read(path).with_context(|| format!("read {}", path.display()));
        let ca = files.ca.as_deref().map(read).transpose()?.unwrap_or_default();
        Ok(Pem { certificate: read(&files.certificate)?, key: read(&files.key)?, ca })
    }

    fn certified_key(&self) -> anyhow::Result<CertifiedKey> {
        let certificates = |pem: &[u8]| CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
        let mut chain = certificates(&self.certificate).context("parse the certificate")?;
        anyhow::ensure!(!chain.is_empty(), "the certificate file holds no certificate");
        for ca in certificates(&self.ca).context("parse the CA")? {
            if !chain.contains(&ca) {
                chain.push(ca);
            }
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key).context("parse the private key")?;
        certified(chain, key)
    }
}

/// Joins a chain and its key; a key that belongs to another certificate is an error.
fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> anyhow::Result<CertifiedKey> {
    CertifiedKey::from_der(chain, key, &ring::default_provider()).context("join certificate and private key")
}

/// The certificate that the next handshake gets.
struct Current(RwLock<Arc<CertifiedKey>>);

impl Current {
    fn set(&self, key: CertifiedKey) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Current(…)")
    }
}

#[cfg(test)]
mod tests;
