//! The messages of `pods/exec` over a WebSocket: the first byte of each names its channel (`v5.channel.k8s.io`).

use bytes::{BufMut as _, Bytes, BytesMut};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use serde_json::json;
use skpr_agent::runtime::Size;
use tokio_tungstenite::tungstenite::Message;

const INPUT: u8 = 0;
const OUTPUT: u8 = 1;
const ERRORS: u8 = 2;
const STATUS: u8 = 3;
const SIZE: u8 = 4;
/// Names the channel that has ended. Only we say it: the API server ends the whole.
const CLOSE: u8 = 255;

/// What comes.
#[derive(Debug, PartialEq)]
pub(super) enum Frame {
    Output(Bytes),
    Errors(Bytes),
    /// How it ended, or why it was not started, as far as Kubernetes knows.
    Status(Box<Status>),
    /// All is read that was sent before the ping of this number.
    Pong(u64),
    /// Nothing more comes.
    Closed,
}

/// None for what says nothing.
pub(super) fn read(message: Message) -> Option<Frame> {
    let mut bytes = match message {
        Message::Binary(bytes) => bytes,
        Message::Pong(number) => {
            return Some(Frame::Pong(u64::from_be_bytes(number.as_ref().try_into().ok()?)));
        }
        Message::Close(_) => return Some(Frame::Closed),
        Message::Text(_) | Message::Ping(_) | Message::Frame(_) => return None,
    };
    // An empty one says that the connection is there.
    if bytes.len() < 2 {
        return None;
    }
    let channel = bytes.split_to(1);
    match *channel.first()? {
        OUTPUT => Some(Frame::Output(bytes)),
        ERRORS => Some(Frame::Errors(bytes)),
        STATUS => Some(Frame::Status(Box::new(serde_json::from_slice(&bytes).unwrap_or_else(|_| Status {
            message: Some("something that is no status".to_owned()),
            ..Status::default()
        })))),
        _ => None,
    }
}

pub(super) fn input(bytes: &[u8]) -> Message {
    of(INPUT, bytes)
}

/// No more input comes.
pub(super) fn end_of_input() -> Message {
    of(CLOSE, &[INPUT])
}

pub(super) fn size(size: Size) -> Message {
    of(SIZE, json!({"Width": size.columns(), "Height": size.rows()}).to_string().as_bytes())
}

/// What is answered when all that was sent before has been read.
pub(super) fn ping(number: u64) -> Message {
    Message::Ping(Bytes::copy_from_slice(&number.to_be_bytes()))
}

fn of(channel: u8, bytes: &[u8]) -> Message {
    let mut message = BytesMut::with_capacity(bytes.len() + 1);
    message.put_u8(channel);
    message.put_slice(bytes);
    Message::Binary(message.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_the_first_byte() {
        let frame = |bytes: &[u8]| read(Message::Binary(bytes.to_vec().into()));
        assert_eq!(frame(b"\x01out"), Some(Frame::Output("out".into())));
        assert_eq!(frame(b"\x02err"), Some(Frame::Errors("err".into())));
        // What is said when the connection is there, and what later versions may say.
        for silent in [&b""[..], b"\x01", b"\x03", b"\x07x", b"\xff\x01"] {
            assert_eq!(frame(silent), None, "{silent:?}");
        }
        assert_eq!(read(Message::Close(None)), Some(Frame::Closed));
        assert_eq!(input(b"ab"), Message::Binary(Bytes::from_static(b"\x00ab")));
        assert_eq!(end_of_input(), Message::Binary(Bytes::from_static(b"\xff\x00")));
        let message = size(Size::of(132, 43)).into_data();
        assert_eq!(message.first(), Some(&SIZE));
        let said: serde_json::Value = serde_json::from_slice(&message[1..]).unwrap();
        assert_eq!(said, json!({"Width": 132, "Height": 43}));
    }

    #[test]
    fn a_pong_has_the_number_of_its_ping() {
        let Message::Ping(number) = ping(7) else { panic!("no ping") };
        assert_eq!(read(Message::Pong(number)), Some(Frame::Pong(7)));
        assert_eq!(read(Message::Pong(Bytes::new())), None);
    }
}
