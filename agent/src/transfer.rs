//! A session whose bytes are those of a transfer of files: the worker in the instance is the server, and here they are
//! passed on.
//!
//! * One transfer has one connection, so a side that does not read makes the other wait, and nothing is kept aside.
//! * When the client is gone, the worker hears of it by the end of its input and puts away what is half done; when the
//!   instance is gone, the worker is ended, so that it holds nothing open in there.

use crate::runtime::{Command, Exit, Input, Process, Runtime, Start, StartError, User};
use skpr_proto::PodUid;
use skpr_rsync::Code;
use std::future::pending;
use std::io;
use std::pin::pin;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf, split};
use tokio::net::unix::pipe::Receiver;
use tokio::time::{sleep, timeout};

/// Read at once.
const PIECE: usize = 256 << 10;
/// What a worker that has said all may take to end, and one whose client is gone.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
const GIVES_UP_WITHIN: Duration = Duration::from_secs(30);
/// How long the last that is said may take to be heard.
const GOODBYE: Duration = Duration::from_secs(5);
/// What is kept of what a worker says to nobody.
const MOST_WORDS: usize = 1 << 10;

/// Serves one transfer to its end: how the worker ended.
pub(crate) async fn serve<S>(stream: S, runtime: &Runtime, instance: &PodUid) -> Option<Exit>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (from, to) = split(stream);
    let start = Start { command: Command::Transfer, user: User::Own, variables: vec![], terminal: None };
    match runtime.start(instance, start).await {
        Ok(process) => Some(pass(from, to, process, runtime.gone(instance)).await),
        Err(error) => {
            drop(timeout(GOODBYE, refuse(to, &error)).await);
            Some(Exit::Code(Code::Start as u8))
        }
    }
}

/// Tells the client why there is no transfer, in its own language.
async fn refuse<S: AsyncWrite>(mut to: WriteHalf<S>, error: &StartError) -> io::Result<()> {
    to.write_all(&skpr_rsync::refusal(Code::Start, &error.to_string())).await?;
    to.shutdown().await
}

async fn pass<S: AsyncRead + AsyncWrite + Unpin>(
    from: ReadHalf<S>,
    mut to: WriteHalf<S>,
    mut process: Process,
    gone: impl Future<Output = ()>,
) -> Exit {
    let (input, output, errors) = (process.input.take(), process.output.take(), process.errors.take());
    let mut listening = pin!(listen(errors));
    let mut words = None;
    let whole = {
        let mut up = pin!(up(output, &mut to));
        let mut gone = pin!(gone);
        let mut deserted = pin!(async {
            down(from, input).await;
            sleep(GIVES_UP_WITHIN).await;
        });
        loop {
            tokio::select! {
                said = &mut up => break Some(said),
                () = &mut deserted => break None,
                () = &mut gone => break None,
                said = &mut listening, if words.is_none() => words = Some(said),
            }
        }
    };
    let ended = if whole.is_some() { timeout(ENDS_WITHIN, process.exit()).await.ok() } else { None };
    let ended = match ended {
        Some(ended) => ended,
        None => process.end().await,
    };
    let words = match words {
        Some(words) => words,
        None => timeout(ENDS_WITHIN, listening).await.unwrap_or_default(),
    };
    let farewell = async {
        if !words.is_empty() {
            let words = skpr_rsync::escape(words.trim_ascii());
            tracing::warn!(words, "a worker of a transfer has complained");
            // It did not come to speak for itself.
            if whole == Some(false) {
                to.write_all(&skpr_rsync::refusal(Code::Start, &words)).await?;
            }
        }
        to.shutdown().await
    };
    drop(timeout(GOODBYE, farewell).await);
    ended.unwrap_or_else(|error| {
        tracing::error!(%error, "the end of a worker cannot be told");
        Exit::Code(u8::MAX)
    })
}

/// From the worker to the client, until the worker has said all; whether that was anything.
async fn up<S: AsyncWrite>(output: Option<Receiver>, to: &mut WriteHalf<S>) -> bool {
    let Some(mut output) = output else { return false };
    let mut buffer = vec![0; PIECE];
    let mut said = false;
    while let Ok(length @ 1..) = output.read(&mut buffer).await {
        said = true;
        if to.write_all(buffer.get(..length).unwrap_or_default()).await.is_err() {
            // What is said to a client that has gone is said to nobody, and keeps the worker from its end no longer than this.
            let rest = async { while let Ok(1..) = output.read(&mut buffer).await {} };
            drop(timeout(GIVES_UP_WITHIN, rest).await);
            break;
        }
    }
    said
}

/// From the client to the worker, until the client says no more.
async fn down<S: AsyncRead>(mut from: ReadHalf<S>, input: Option<Input>) {
    let Some(mut input) = input else { return };
    let mut buffer = vec![0; PIECE];
    loop {
        let length = from.read(&mut buffer).await.unwrap_or(0);
        if length == 0 {
            return input.end().await;
        }
        if input.write(buffer.get(..length).unwrap_or_default()).await.is_err() {
            // It reads no more, and says why.
            return pending().await;
        }
    }
}

/// What a worker has to say besides: the beginning of it.
async fn listen(errors: Option<Receiver>) -> Vec<u8> {
    let mut words = vec![];
    let Some(mut errors) = errors else { return words };
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = errors.read(&mut buffer).await {
        let room = MOST_WORDS.saturating_sub(words.len()).min(length);
        words.extend_from_slice(buffer.get(..room).unwrap_or_default());
    }
    words
}

#[cfg(test)]
mod tests;
