//! Asks an instance over HTTP whether it is ready.

use anyhow::{Context as _, ensure};
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A probe that takes longer counts as failed.
const TIMEOUT: Duration = Duration::from_secs(2);
/// As much of an answer as is read. A site whose answer is not taken finds its connection reset, and says so in its log.
const ANSWER: u64 = 64 << 10;

/// What shows that an instance is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    /// It runs.
    Runs,
    /// It listens on its port.
    Listens,
    /// It answers a request for this path on its port.
    Answers(String),
}

impl Probe {
    /// Why the instance is not ready.
    pub(super) async fn passes(&self, port: u16) -> Result<(), String> {
        let asked = async {
            match self {
                Probe::Runs => Ok(()),
                Probe::Listens => connect(port).await.map(drop),
                Probe::Answers(path) => ask(port, path).await,
            }
        };
        let late = || match self {
            Probe::Runs | Probe::Listens => Err(format!("port {port} ($PORT) takes no connection")),
            Probe::Answers(path) => Err(format!("GET {path}: no answer within {} s", TIMEOUT.as_secs())),
        };
        tokio::time::timeout(TIMEOUT, asked).await.unwrap_or_else(|_| late())
    }
}

async fn connect(port: u16) -> Result<TcpStream, String> {
    let connected = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
    connected.map_err(|_| format!("nothing listens on port {port} ($PORT)"))
}

/// Whether the answer is 2xx or 3xx. HTTP/1.0, so that the answer is plain and the connection ends with it.
async fn ask(port: u16, path: &str) -> Result<(), String> {
    let mut connection = connect(port).await?;
    let status = async {
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost:{port}\r\nUser-Agent: skpr\r\n\r\n");
        connection.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        connection.take(ANSWER).read_to_end(&mut answer).await?;
        status_of(&answer)
    };
    match status.await {
        Ok(200..400) => Ok(()),
        Ok(status) => Err(format!("GET {path} answered {status}")),
        Err(_) => Err(format!("GET {path} answered no HTTP")),
    }
}

fn status_of(answer: &[u8]) -> anyhow::Result<u16> {
    let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = std::str::from_utf8(line).context("read status line")?;
    let mut words = line.split(' ');
    ensure!(words.next().is_some_and(|version| version.starts_with("HTTP/")), "not HTTP");
    words.next().context("no status")?.parse().context("read status")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn answered(answer: &'static [u8]) -> Result<(), String> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (probe, port) = (Probe::Answers("/healthz".into()), listener.local_addr().unwrap().port());
        let server = async {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 1024];
            let length = connection.read(&mut request).await.unwrap();
            assert!(request[..length].starts_with(b"GET /healthz HTTP/1.0\r\n"));
            drop(connection.write_all(answer).await);
        };
        tokio::join!(probe.passes(port), server).0
    }

    #[tokio::test]
    async fn an_answer_decides() {
        assert_eq!(answered(b"HTTP/1.0 200 OK\r\n\r\nok").await, Ok(()));
        assert_eq!(answered(b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n").await, Ok(()));
        assert_eq!(answered(b"HTTP/1.0 500 Oops\r\n\r\n").await, Err("GET /healthz answered 500".into()));
        assert!(answered(b"SSH-2.0-x\r\n").await.is_err());
        assert!(answered(b"").await.is_err());
        assert!(answered(b"\xff\xff").await.is_err());
    }

    #[tokio::test]
    async fn nobody_there_is_not_ready() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        for probe in [Probe::Listens, Probe::Answers("/".into())] {
            let sentence = format!("nothing listens on port {port} ($PORT)");
            assert_eq!(probe.passes(port).await, Err(sentence));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_not_ready() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let passed = Probe::Answers("/".into()).passes(port).await;
        assert_eq!(passed, Err("GET /: no answer within 2 s".into()));
    }
}
