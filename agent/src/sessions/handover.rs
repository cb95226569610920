//! How a session is handed from the part of the agent that is on the network to the part that may start processes: over
//! a Unix socket of theirs, a connection each.
//!
//! ```text
//! ─► length · Dial · bytes of the client, to the end of that direction
//! ◄─ (length · bytes of the server)… · 0 · 0, or 1 · length · Exit
//! ```
//!
//! A length is four bytes, the most significant first; the byte before the `Exit` says whether there is one, which is so
//! if something was run.
//!
//! * Bytes are opaque, each direction ends by itself, and a side that does not read makes the other wait.
//! * A connection that ends without its `Exit` was cut off.

use crate::ssh::Ended;
use bytes::{Buf, BytesMut};
use prost::Message as _;
use skpr_proto::{MAX_PIECE, v1};
use std::io;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_buf};

/// The longest message. A [`v1::Dial`] is some 200 bytes.
const LONGEST: u32 = 4096;

/// Says what a session is about.
pub(super) async fn write_dial(to: &mut (impl AsyncWrite + Unpin), dial: &v1::Dial) -> io::Result<()> {
    write_message(to, &dial.encode_to_vec()).await
}

pub(super) async fn read_dial(from: &mut (impl AsyncRead + Unpin)) -> io::Result<v1::Dial> {
    v1::Dial::decode(&*read_message(from).await?).map_err(io::Error::other)
}

/// Sends what the server says until its end.
pub(super) async fn write_pieces(
    mut from: impl AsyncRead + Unpin,
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(MAX_PIECE);
        if from.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        let length = u32::try_from(buffer.len()).map_err(io::Error::other)?.to_be_bytes();
        let mut piece = Buf::chain(length.as_slice(), &*buffer);
        to.write_all_buf(&mut piece).await?;
        buffer.clear();
    }
}

/// Says how it ended, which is the last that is said.
pub(super) async fn write_exit(to: &mut (impl AsyncWrite + Unpin), ended: Option<Ended>) -> io::Result<()> {
    to.write_u32(0).await?;
    to.write_u8(ended.is_some().into()).await?;
    if let Some(ended) = ended {
        write_message(to, &v1::Exit::from(ended).encode_to_vec()).await?;
    }
    to.shutdown().await
}

/// Passes on what the server says; how it ended, which comes last.
pub(super) async fn read_pieces(
    from: &mut (impl AsyncBufRead + Unpin),
    mut to: impl AsyncWrite + Unpin,
) -> io::Result<Option<v1::Exit>> {
    loop {
        let length = from.read_u32().await?;
        if length == 0 {
            break;
        }
        let mut piece = (&mut *from).take(length.into());
        if copy_buf(&mut piece, &mut to).await? < length.into() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    to.shutdown().await?;
    if from.read_u8().await? == 0 {
        return Ok(None);
    }
    v1::Exit::decode(&*read_message(from).await?).map(Some).map_err(io::Error::other)
}

async fn write_message(to: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let length = u32::try_from(message.len()).ok().filter(|length| *length <= LONGEST);
    let length = length.ok_or(io::ErrorKind::InvalidInput)?.to_be_bytes();
    to.write_all(&[&length, message].concat()).await?;
    to.flush().await
}

async fn read_message(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let length = from.read_u32().await?;
    if length > LONGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    from.read_exact(&mut message).await?;
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Exit, User};
    use tokio::io::{BufReader, duplex};
    use tokio::try_join;

    #[tokio::test]
    async fn what_is_said_arrives() {
        let dial = v1::Dial { session: "s".into(), host_key: vec![7; 32].into(), ..v1::Dial::default() };
        let ended = |exit, user| Some(Ended { exit, user });
        for (bytes, ended) in [
            (0, None),
            (1, ended(Exit::Code(0), User::Own)),
            (1 << 20, ended(Exit::Signal(9), User::Named("www-data".into()))),
        ] {
            // Smaller than a piece, so that each has to wait for the other.
            let (mut one, mut other) = duplex(1000);
            let said: Vec<u8> = (0..bytes).map(|at: u32| (at >> 3) as u8).collect();
            let server = async {
                assert_eq!(read_dial(&mut one).await?, dial);
                write_pieces(&*said, &mut one).await?;
                write_exit(&mut one, ended.clone()).await
            };
            let mut heard = vec![];
            let client = async {
                write_dial(&mut other, &dial).await?;
                read_pieces(&mut BufReader::new(&mut other), &mut heard).await
            };
            let ((), heard_of) = try_join!(server, client).unwrap();
            assert_eq!(heard_of, ended.clone().map(Into::into));
            assert_eq!(
                heard_of.map(|exit| exit.user == "www-data"),
                ended.map(|ended| ended.user != User::Own)
            );
            assert!(heard == said);
        }
    }

    #[tokio::test]
    async fn an_end_that_is_not_said_is_none() {
        for cut in [&[][..], &[0, 0], &[0, 0, 0, 3, 1, 2], &[0, 0, 0, 0], &[0, 0, 0, 0, 1, 0, 0, 0, 9, 1]] {
            assert!(read_pieces(&mut { cut }, &mut Vec::<u8>::new()).await.is_err(), "{cut:?}");
        }
        let long = [&[0xff; 4][..], &[0; 64]].concat();
        assert!(read_dial(&mut &*long).await.is_err());
    }
}
