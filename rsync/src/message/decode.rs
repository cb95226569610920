//! Messages as they come from a peer: well formed and within their bounds, or refused.

use super::{
    Attributes, DATA, Either, Failure, Gap, LONGEST_TEXT, MOST_DATA, MOST_GAP_BYTES, MOST_GAPS, ToReceiver,
    ToSender,
};
use crate::Error;
use crate::change::Change;
use crate::content::ContentHash;
use crate::entry::{Kind, Time};
use crate::error::{Code, Problem};
use crate::name::{LONGEST_NAME, LONGEST_PATH, Name, TreePath};
use crate::signature::Shape;
use crate::stats::{Received, Totals};
use crate::wire::{Cursor, Malformed};

const SIZE: u64 = i64::MAX as u64;

impl Either {
    fn decode(tag: u8, cursor: &mut Cursor<'_>) -> Result<Option<Either>, Error> {
        let code = |cursor: &mut Cursor<'_>| {
            Code::from_number(u64::from(cursor.byte()?)).ok_or(Malformed("an error of an unknown kind"))
        };
        Ok(Some(match tag {
            0 => Either::Alive,
            1 => {
                let code = code(cursor)?;
                let path = TreePath::new(cursor.bytes(LONGEST_PATH)?)?;
                Either::Problem(Problem::foreign(path, cursor.bytes(LONGEST_TEXT)?, code))
            }
            2 => Either::Abort { code: code(cursor)?, text: cursor.bytes(LONGEST_TEXT)?.to_vec() },
            _ => return Ok(None),
        }))
    }
}

fn number(cursor: &mut Cursor<'_>) -> Result<u32, Malformed> {
    cursor.number32("the number of no entry")
}

fn data(cursor: &mut Cursor<'_>) -> Result<Vec<u8>, Malformed> {
    let bytes = cursor.rest();
    if bytes.is_empty() || bytes.len() > MOST_DATA {
        return Err(Malformed("a part of a file that is empty or too long"));
    }
    Ok(bytes.to_vec())
}

fn hash(cursor: &mut Cursor<'_>) -> Result<ContentHash, Malformed> {
    cursor.array().map(ContentHash)
}

fn length(cursor: &mut Cursor<'_>) -> Result<u64, Malformed> {
    match cursor.at_most(SIZE, "a length out of range")? {
        0 => Err(Malformed("a part of a file that is empty or too long")),
        length => Ok(length),
    }
}

impl ToReceiver {
    pub(crate) fn decode(message: &[u8]) -> Result<ToReceiver, Error> {
        let mut cursor = Cursor(message);
        let tag = cursor.byte()?;
        if let Some(either) = Either::decode(tag, &mut cursor)? {
            cursor.end()?;
            return Ok(ToReceiver::Either(either));
        }
        let cursor = &mut cursor;
        let message = match tag {
            16 => {
                let (kind, content) = (Kind::from_number(cursor.byte()?)?, cursor.flag()?);
                let mode = cursor.at_most(0o7777, "a mode out of range")? as u32;
                let modified = Time::read(cursor)?;
                let (user, group) = (number(cursor)?, number(cursor)?);
                ToReceiver::Source { kind, content, root: Attributes { mode, modified, user, group } }
            }
            17 => ToReceiver::Directory(TreePath::new(cursor.rest())?),
            18 => ToReceiver::Entries { last: cursor.flag()?, bytes: cursor.rest().to_vec() },
            19 => ToReceiver::Told { complete: cursor.flag()?, totals: Totals::decode(cursor)? },
            20 => {
                let number = number(cursor)?;
                let size = cursor.at_most(SIZE, "a size out of range")?;
                ToReceiver::File { number, size, modified: Time::read(cursor)? }
            }
            21 => ToReceiver::Copy {
                from: cursor.at_most(SIZE, "a position out of range")?,
                length: length(cursor)?,
            },
            DATA => ToReceiver::Data(data(cursor)?),
            23 => ToReceiver::Zero(length(cursor)?),
            24 => ToReceiver::End(hash(cursor)?),
            25 => {
                let why = match cursor.byte()? {
                    0 => Failure::Vanished,
                    1 => Failure::Changed,
                    2 => Failure::Denied,
                    3 => Failure::Unreadable,
                    4 => Failure::Forgotten,
                    _ => return Err(Malformed("a failure of an unknown kind").into()),
                };
                ToReceiver::Failed { number: number(cursor)?, why }
            }
            26 => ToReceiver::Same(number(cursor)?),
            27 => ToReceiver::AskSums(number(cursor)?),
            28 => ToReceiver::AskGaps { number: number(cursor)?, gaps: gaps(cursor)? },
            _ => return Err(Malformed("a message that the sender does not send").into()),
        };
        cursor.end()?;
        Ok(message)
    }
}

fn gaps(cursor: &mut Cursor<'_>) -> Result<Vec<Gap>, Malformed> {
    let count = cursor.at_most(MOST_GAPS as u64, "too many gaps")?;
    let mut gaps = vec![];
    let (mut end, mut bytes) = (0_u64, 0_u64);
    for _ in 0..count {
        let from = end.checked_add(cursor.at_most(SIZE, "a position out of range")?);
        let length = length(cursor)?;
        let from = from.ok_or(Malformed("a position out of range"))?;
        end = from
            .checked_add(length)
            .filter(|end| *end <= SIZE)
            .ok_or(Malformed("a position out of range"))?;
        bytes = bytes.saturating_add(length);
        gaps.push(Gap { from, length });
    }
    if gaps.is_empty() || bytes > MOST_GAP_BYTES { Err(Malformed("too many gaps")) } else { Ok(gaps) }
}

impl ToSender {
    pub(crate) fn decode(message: &[u8]) -> Result<ToSender, Error> {
        let mut cursor = Cursor(message);
        let tag = cursor.byte()?;
        if let Some(either) = Either::decode(tag, &mut cursor)? {
            cursor.end()?;
            return Ok(ToSender::Either(either));
        }
        let cursor = &mut cursor;
        let message = match tag {
            32 => {
                let (owner, group) = (cursor.flag()?, cursor.flag()?);
                let name = cursor.bytes(LONGEST_NAME)?;
                let shown = if name.is_empty() { None } else { Some(Name::new(name)?) };
                ToSender::Begin { shown, owner, group }
            }
            33 => ToSender::Digests(data(cursor)?),
            34 => ToSender::DigestsEnd,
            35 => ToSender::Taken(number(cursor)?),
            36 => ToSender::WantWhole(number(cursor)?),
            37 => {
                ToSender::WantRest { number: number(cursor)?, length: length(cursor)?, hash: hash(cursor)? }
            }
            38 => ToSender::WantDelta { number: number(cursor)?, shape: Shape::decode(cursor)? },
            39 => ToSender::Sums { number: number(cursor)?, bytes: data(cursor)? },
            40 => ToSender::GapSums { number: number(cursor)?, bytes: data(cursor)? },
            41 => ToSender::Change(Change::decode(cursor)?),
            43 => {
                let number = number(cursor)?;
                ToSender::WantTail { number, length: length(cursor)?, mark: hash(cursor)? }
            }
            42 => ToSender::Finished(Received::decode(cursor)?),
            _ => return Err(Malformed("a message that the receiver does not send").into()),
        };
        cursor.end()?;
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn to_receiver() -> Vec<ToReceiver> {
        let path = TreePath::new(b"a/b").unwrap();
        vec![
            ToReceiver::Either(Either::Alive),
            ToReceiver::Either(Either::Problem(Problem::says(&path, "text"))),
            ToReceiver::Either(Either::Abort { code: Code::FileIo, text: b"full".to_vec() }),
            ToReceiver::Source {
                kind: Kind::Directory,
                content: true,
                root: Attributes { mode: 0o755, ..Attributes::default() },
            },
            ToReceiver::Directory(path),
            ToReceiver::Entries { last: true, bytes: vec![1, 2] },
            ToReceiver::Told { complete: true, totals: Totals { files: 1, ..Totals::default() } },
            ToReceiver::File { number: 7, size: 1 << 40, modified: Time { seconds: -5, nanos: 6 } },
            ToReceiver::Copy { from: 0, length: 5 },
            ToReceiver::Data(vec![1; 1000]),
            ToReceiver::Zero(1 << 41),
            ToReceiver::End(ContentHash([3; 16])),
            ToReceiver::Failed { number: 9, why: Failure::Forgotten },
            ToReceiver::Same(4),
            ToReceiver::AskSums(5),
            ToReceiver::AskGaps {
                number: 1,
                gaps: vec![Gap { from: 5, length: 6 }, Gap { from: 11, length: 1 }],
            },
        ]
    }

    fn to_sender() -> Vec<ToSender> {
        let hash = ContentHash([9; 16]);
        vec![
            ToSender::Either(Either::Alive),
            ToSender::Begin { shown: Some(Name::new(b"x").unwrap()), owner: true, group: false },
            ToSender::Begin { shown: None, owner: false, group: true },
            ToSender::Digests(vec![1]),
            ToSender::DigestsEnd,
            ToSender::Taken(500),
            ToSender::WantWhole(3),
            ToSender::WantRest { number: 1, length: 2, hash },
            ToSender::WantTail { number: 1, length: 2, mark: hash },
            ToSender::WantDelta { number: 2, shape: Shape::of_file(100_000).unwrap() },
            ToSender::Sums { number: 2, bytes: vec![4; 100] },
            ToSender::GapSums { number: 2, bytes: vec![4; 100] },
            ToSender::Finished(Received::default()),
        ]
    }

    #[test]
    fn every_message_comes_back_and_no_part_of_it_is_believed() {
        for message in to_receiver() {
            let mut out = vec![];
            message.encode(&mut out);
            assert_eq!(ToReceiver::decode(&out).unwrap(), message);
            assert!(ToSender::decode(&out).is_err() || out[0] < 16, "{message:?}");
        }
        for message in to_sender() {
            let mut out = vec![];
            message.encode(&mut out);
            assert_eq!(ToSender::decode(&out).unwrap(), message);
            assert!(ToReceiver::decode(&out).is_err() || out[0] < 16, "{message:?}");
        }
    }

    #[test]
    fn empty_and_overflowing_parts_are_refused() {
        for message in [
            ToReceiver::Copy { from: 0, length: 0 },
            ToReceiver::Copy { from: u64::MAX, length: 1 },
            ToReceiver::Copy { from: 0, length: u64::MAX },
            ToReceiver::Zero(0),
            ToReceiver::Data(vec![]),
            ToReceiver::Data(vec![0; MOST_DATA + 1]),
            ToReceiver::File { number: 1, size: u64::MAX, modified: Time::default() },
            ToReceiver::AskGaps { number: 1, gaps: vec![] },
            ToReceiver::AskGaps { number: 1, gaps: vec![Gap { from: SIZE, length: SIZE }] },
            ToReceiver::AskGaps { number: 1, gaps: vec![Gap { from: 0, length: MOST_GAP_BYTES + 1 }] },
        ] {
            let mut out = vec![];
            message.encode(&mut out);
            assert!(ToReceiver::decode(&out).is_err(), "{message:?}");
        }
    }

    proptest! {
        #[test]
        fn hostile_messages_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), tag in 0_u8..50) {
            drop(ToReceiver::decode(&bytes));
            drop(ToSender::decode(&bytes));
            let tagged = [&[tag][..], &bytes].concat();
            // What is believed has one form.
            if let Ok(message) = ToReceiver::decode(&tagged) && !matches!(message, ToReceiver::Either(_)) {
                let mut out = vec![];
                message.encode(&mut out);
                prop_assert_eq!(&out, &tagged);
            }
            if let Ok(message) = ToSender::decode(&tagged) && !matches!(message, ToSender::Either(_)) {
                let mut out = vec![];
                message.encode(&mut out);
                prop_assert_eq!(&out, &tagged);
            }
        }
    }
}
