//! The two ends of a direction against each other, and against bytes that nobody honest writes.

use super::*;
use crate::Error;
use proptest::prelude::*;
use std::sync::{Arc, Mutex};

#[derive(Clone, Default)]
struct Wire(Arc<Mutex<Vec<u8>>>);

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn read(bytes: Vec<u8>) -> Result<Vec<Vec<u8>>, Error> {
    let mut inbox = Inbox::new(Box::new(std::io::Cursor::new(bytes)))?;
    let (pulse, mut messages) = (Pulse::new(), vec![]);
    while let Some(message) = inbox.next(&pulse)? {
        messages.push(message);
    }
    Ok(messages)
}

fn packet(kind: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_le_bytes();
    [&[kind], &length[..3], content].concat()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn messages_come_back_in_order(
        messages in proptest::collection::vec((0_usize..200_000, any::<u8>(), 0_u8..4), 0..12)
    ) {
        let wire = Wire::default();
        let outbox = Outbox::new(Box::new(wire.clone()), 3, None).unwrap();
        let mut expected = vec![];
        for (length, byte, how) in messages {
            let message = vec![byte; length];
            outbox.send(&message, if how == 0 { Packing::AsItIs } else { Packing::Compress }).unwrap();
            if how == 1 {
                outbox.flush().unwrap();
            }
            expected.push(message);
        }
        outbox.flush().unwrap();
        let bytes = wire.0.lock().unwrap().clone();
        prop_assert_eq!(outbox.sent(), bytes.len() as u64);
        prop_assert!(read(bytes).unwrap() == expected);
    }

    #[test]
    fn hostile_packets_are_read_or_refused(content in proptest::collection::vec(any::<u8>(), 0..300), kind in 0_u8..3) {
        drop(read(content.clone()));
        drop(read(packet(kind, &content)));
    }
}

#[test]
fn a_bomb_is_met_message_by_message() {
    // 64 MiB of zeros in some kilobytes: millions of empty messages, of which the first is refused by whoever reads it.
    let bomb = zstd::encode_all(std::io::repeat(0).take(64 << 20), 3).unwrap();
    let bytes: Vec<u8> = bomb.chunks(MOST_PACKET).flat_map(|chunk| packet(COMPRESSED, chunk)).collect();
    let mut inbox = Inbox::new(Box::new(std::io::Cursor::new(bytes))).unwrap();
    assert_eq!(inbox.next(&Pulse::new()).unwrap(), Some(vec![]));
    assert!(inbox.plain.capacity() < 1 << 20);
}

#[test]
fn a_window_beyond_8_mib_is_refused() {
    let mut encoder = zstd::stream::Encoder::new(vec![], 3).unwrap();
    encoder.window_log(26).unwrap();
    std::io::copy(&mut std::io::repeat(7).take(80 << 20), &mut encoder).unwrap();
    assert!(matches!(read(packet(COMPRESSED, &encoder.finish().unwrap())), Err(Error::Protocol(_))));
}

#[test]
fn nothing_may_follow_the_end_of_a_stream() {
    let stream = zstd::encode_all(&[1, 9][..], 3).unwrap();
    assert!(matches!(
        read([packet(COMPRESSED, &stream), packet(COMPRESSED, b"garbage")].concat()),
        Err(Error::Protocol(_))
    ));
    assert!(matches!(read(packet(PLAIN, &[2, 9])), Err(Error::Ended)));
    assert!(matches!(read(packet(PLAIN, &[0xff; 12])), Err(Error::Protocol(_))));
    assert!(matches!(read(packet(PLAIN, &[0xff, 0xff, 0x7f])), Err(Error::Protocol(_))));
}

#[test]
fn half_a_frame_is_no_frame() {
    let bytes = packet(PLAIN, &[1, 9]);
    for end in 1..bytes.len() {
        assert!(matches!(read(bytes[..end].to_vec()), Err(Error::Ended)), "{end}");
    }
    assert_eq!(read(bytes).unwrap(), [[9]]);
}

#[test]
fn a_limit_of_bandwidth_is_kept() {
    let outbox = Outbox::new(Box::new(Wire::default()), 3, Some(1 << 20)).unwrap();
    let begun = std::time::Instant::now();
    for _ in 0..8 {
        outbox.send(&[1; 100 << 10], Packing::AsItIs).unwrap();
    }
    let took = begun.elapsed().as_millis();
    assert!((500..3000).contains(&took), "{took} ms");
}

#[test]
fn a_low_limit_makes_short_packets_so_that_the_other_end_hears_of_it() {
    let wire = Wire::default();
    let outbox = Outbox::new(Box::new(wire.clone()), 3, Some(16 << 10)).unwrap();
    // Nothing that zstd makes shorter.
    let message: Vec<u8> = (0..20_u32 << 10).map(|at| (at.wrapping_mul(0x9e37_79b1) >> 13) as u8).collect();
    outbox.send(&message, Packing::AsItIs).unwrap();
    outbox.flush().unwrap();
    let bytes = wire.0.lock().unwrap().clone();
    let (mut rest, mut longest) = (&bytes[..], 0);
    while let [_, low, middle, high, content @ ..] = rest {
        let length = u32::from_le_bytes([*low, *middle, *high, 0]) as usize;
        longest = longest.max(length);
        rest = &content[length..];
    }
    assert!((1..=8 << 10).contains(&longest), "{longest}");
    assert_eq!(read(bytes).unwrap(), [message]);
}

#[test]
fn a_wish_may_come_late() {
    // What is said meanwhile must not settle how the rest is compressed.
    for level in [3, 6, 9] {
        let wire = Wire::default();
        let outbox = Outbox::new(Box::new(wire.clone()), 3, None).unwrap();
        outbox.keep_alive(b"alive", std::time::Duration::ZERO).unwrap();
        outbox.configure(level, None).unwrap();
        outbox.send(&[7; 1000], Packing::Compress).unwrap();
        outbox.keep_alive(b"alive", std::time::Duration::ZERO).unwrap();
        let bytes = wire.0.lock().unwrap().clone();
        assert_eq!(read(bytes).unwrap(), [&b"alive"[..], &[7; 1000], b"alive"]);
    }
}
