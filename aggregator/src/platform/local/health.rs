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

/// What is asked for.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    pub(super) port: u16,
    pub(super) path: String,
}

impl Probe {
    /// Whether the instance answers with 2xx or 3xx.
    pub(super) async fn passes(&self) -> bool {
        match tokio::time::timeout(TIMEOUT, self.ask()).await {
            Ok(Ok(status)) => (200..400).contains(&status),
            Ok(Err(_)) | Err(_) => false,
        }
    }

    /// HTTP/1.0, so that the answer is plain and the connection ends with it.
    async fn ask(&self) -> anyhow::Result<u16> {
        let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
        let request = format!(
            "GET {} HTTP/1.0\r\nHost: localhost:{}\r\nUser-Agent: skpr\r\n\r\n",
            self.path, self.port
        );
        connection.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        connection.take(ANSWER).read_to_end(&mut answer).await?;
        status_of(&answer)
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

    async fn answered(answer: &'static [u8]) -> bool {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let probe = Probe { port: listener.local_addr().unwrap().port(), path: "/healthz".into() };
        let server = async {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 1024];
            let length = connection.read(&mut request).await.unwrap();
            assert!(request[..length].starts_with(b"GET /healthz HTTP/1.0\r\n"));
            drop(connection.write_all(answer).await);
        };
        tokio::join!(probe.passes(), server).0
    }

    #[tokio::test]
    async fn an_answer_decides() {
        assert!(answered(b"HTTP/1.0 200 OK\r\n\r\nok").await);
        assert!(answered(b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n").await);
        assert!(!answered(b"HTTP/1.0 500 Oops\r\n\r\n").await);
        assert!(!answered(b"SSH-2.0-x\r\n").await);
        assert!(!answered(b"").await);
        assert!(!answered(b"\xff\xff").await);
    }

    #[tokio::test]
    async fn nobody_there_is_not_ready() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        assert!(!Probe { port, path: "/".into() }.passes().await);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_not_ready() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(!Probe { port, path: "/".into() }.passes().await);
    }
}
