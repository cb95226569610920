//! Certificates as a client sees them: made, kept, renewed and replaced.

use super::*;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use std::net::SocketAddr;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::StreamExt as _;

fn names() -> Vec<String> {
    ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into()
}

fn config(files: Option<config::TlsFiles>) -> config::Tls {
    config::Tls { names: names(), files }
}

async fn connect(address: SocketAddr, ca: &Path, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name.to_owned()).unwrap(), stream).await
}

#[tokio::test]
async fn a_client_that_trusts_the_ca_is_served_by_every_name() {
    let data = tempfile::tempdir().unwrap();
    let tls = Tls::new(&config(None), CaPlace::Directory(data.path().into())).await.unwrap();
    let ca = CaPlace::certificate_file(data.path());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (acceptor, mut connections) = Acceptor::new(listener, tls.server_config());
    let (mut tasks, stop) = (JoinSet::new(), CancellationToken::new());
    tasks.spawn(acceptor.run(stop.clone()));
    // One that connects and never speaks is in nobody's way.
    let _silent = TcpStream::connect(address).await.unwrap();
    for name in ["localhost", "127.0.0.1"] {
        let client = connect(address, &ca, name).await.unwrap();
        let chain = client.get_ref().1.peer_certificates().unwrap().to_vec();
        assert_eq!(chain.len(), 2, "leaf and CA");
        assert_eq!(chain[1], CertificateDer::from_pem_file(&ca).unwrap());
        assert!(connections.next().await.unwrap().is_ok());
    }
    assert!(connect(address, &ca, "elsewhere.example.com").await.is_err());
    let other = tempfile::tempdir().unwrap();
    CaPlace::Directory(other.path().into()).load_or_create().await.unwrap();
    assert!(connect(address, &CaPlace::certificate_file(other.path()), "localhost").await.is_err());
    stop.cancel();
    tasks.join_all().await;
    // The silent one's end is closed with the acceptor.
    let mut silent = _silent;
    assert_eq!(silent.read(&mut [0; 1]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn connections_past_the_limit_are_refused_until_one_goes() {
    let data = tempfile::tempdir().unwrap();
    let tls = Tls::new(&config(None), CaPlace::Directory(data.path().into())).await.unwrap();
    let ca = CaPlace::certificate_file(data.path());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (acceptor, mut connections) = Acceptor::with_places(listener, tls.server_config(), 1);
    let (mut tasks, stop) = (JoinSet::new(), CancellationToken::new());
    tasks.spawn(acceptor.run(stop.clone()));
    let _first = connect(address, &ca, "localhost").await.unwrap();
    let taken = connections.next().await.unwrap().unwrap();
    assert!(connect(address, &ca, "localhost").await.is_err());
    drop(taken);
    assert!(connect(address, &ca, "localhost").await.is_ok());
    stop.cancel();
    tasks.join_all().await;
}

#[tokio::test]
async fn whoever_connects_and_says_nothing_keeps_nobody_out() {
    let data = tempfile::tempdir().unwrap();
    let tls = Tls::new(&config(None), CaPlace::Directory(data.path().into())).await.unwrap();
    let ca = CaPlace::certificate_file(data.path());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (acceptor, mut connections) = Acceptor::with_places(listener, tls.server_config(), 2);
    let (mut tasks, stop) = (JoinSet::new(), CancellationToken::new());
    tasks.spawn(acceptor.run(stop.clone()));
    let _first = connect(address, &ca, "localhost").await.unwrap();
    let taken = connections.next().await.unwrap().unwrap();
    let mut silent = Vec::new();
    for _ in 0..5 {
        silent.push(tokio::net::TcpStream::connect(address).await.unwrap());
    }
    assert!(connect(address, &ca, "localhost").await.is_ok());
    drop((taken, silent));
    stop.cancel();
    tasks.join_all().await;
}

#[tokio::test]
async fn the_ca_stays_the_same_and_its_key_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let data = tempfile::tempdir().unwrap();
    let place = CaPlace::Directory(data.path().into());
    place.load_or_create().await.unwrap();
    let first = std::fs::read(data.path().join("ca.crt")).unwrap();
    place.load_or_create().await.unwrap();
    assert_eq!(std::fs::read(data.path().join("ca.crt")).unwrap(), first);
    assert_eq!(std::fs::metadata(data.path().join("ca.key")).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::remove_file(data.path().join("ca.key")).unwrap();
    let error = place.load_or_create().await.err().unwrap();
    assert!(error.to_string().contains("put the key back"), "{error}");
}

#[tokio::test]
async fn a_certificate_is_renewed_before_it_ends() {
    let data = tempfile::tempdir().unwrap();
    let mut tls = Tls::new(&config(None), CaPlace::Directory(data.path().into())).await.unwrap();
    let now = SystemTime::now();
    assert!(tls.next(now).unwrap().is_none());
    let later = now + LEAF_VALID - RENEW_BEFORE + Duration::from_secs(60);
    assert!(tls.next(later).unwrap().is_some());
    assert!(tls.next(later).unwrap().is_none());
}

#[tokio::test]
async fn files_are_read_again_when_they_change_and_bad_ones_refused() {
    let data = tempfile::tempdir().unwrap();
    let write = |key: &rcgen::CertifiedKey<rcgen::KeyPair>| {
        std::fs::write(data.path().join("tls.crt"), key.cert.pem()).unwrap();
        std::fs::write(data.path().join("tls.key"), key.signing_key.serialize_pem()).unwrap();
    };
    let (first, second) = (
        rcgen::generate_simple_self_signed(names()).unwrap(),
        rcgen::generate_simple_self_signed(names()).unwrap(),
    );
    write(&first);
    let files = config::TlsFiles {
        certificate: data.path().join("tls.crt"),
        key: data.path().join("tls.key"),
        ca: None,
    };
    let mut tls = Tls::new(&config(Some(files)), CaPlace::Directory(data.path().into())).await.unwrap();
    assert!(tls.next(SystemTime::now()).unwrap().is_none());
    std::fs::write(data.path().join("tls.crt"), second.cert.pem()).unwrap();
    assert!(tls.next(SystemTime::now()).is_err(), "the key of another certificate");
    write(&second);
    assert_eq!(tls.next(SystemTime::now()).unwrap().unwrap().cert[0], *second.cert.der());
}
