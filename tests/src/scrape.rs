//! Reads what the aggregator shows to monitoring, as a scraper does: over TLS, with a token.

use anyhow::{Context as _, Result, ensure};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Where to read, whom to trust and what to show.
#[derive(Clone, Debug)]
pub struct Scraper {
    pub address: SocketAddr,
    /// The CA's certificate, as PEM.
    pub ca: PathBuf,
    pub token: String,
}

impl Scraper {
    /// The body of the answer to one request, which has to be a success.
    pub fn get(&self, path: &str) -> Result<String> {
        let (head, body) = self.ask(path, "application/openmetrics-text;version=1.0.0")?;
        // The server answers in the version that it is asked in.
        ensure!(head.split(' ').nth(1) == Some("200"), "{path}: {head}\n{body}");
        Ok(body)
    }

    /// The head and the body of the answer to one request that accepts this type.
    pub fn ask(&self, path: &str, accept: &str) -> Result<(String, String)> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(&self.ca).context("open the CA")? {
            roots.add(certificate.context("read the CA")?)?;
        }
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connection = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost")?)?;
        let socket = TcpStream::connect_timeout(&self.address, TIMEOUT).context("connect to monitoring")?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        let mut stream = StreamOwned::new(connection, socket);
        write!(
            stream,
            "GET {path} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nAccept: {accept}\r\n\r\n",
            self.token
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).context("read the answer")?;
        let (head, body) = answer.split_once("\r\n\r\n").context("find the answer's body")?;
        Ok((head.to_owned(), body.to_owned()))
    }
}

/// The value of one series of a scrape, named as it is written there.
pub fn value(text: &str, series: &str) -> Option<f64> {
    let mut values = text.lines().filter_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    values.next()?.split(' ').next()?.parse().ok()
}
