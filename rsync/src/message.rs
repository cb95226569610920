//! What the two ends say to each other. Each direction has its own messages, and what does not belong to a direction is
//! refused there; `docs/rsync-protocol.md` says when each is sent.

mod decode;

use crate::change::Change;
use crate::content::ContentHash;
use crate::entry::{Kind, Time};
use crate::error::{Code, Problem};
use crate::name::{Name, TreePath};
use crate::signature::Shape;
use crate::stats::{Received, Totals};
use crate::wire::{put_bytes, put_number};

/// Bytes of content in one message.
pub(crate) const MOST_DATA: usize = 128 << 10;
/// What content begins with, for whoever does not make a message of it.
pub(crate) const DATA: u8 = 22;
/// A message's longest form.
pub(crate) const MOST_MESSAGE: usize = 256 << 10;
/// Bytes of entries, digests or sums in one message.
pub(crate) const MOST_CHUNK: usize = 64 << 10;
/// Of a problem's or an error's words.
pub(crate) const LONGEST_TEXT: usize = 1000;
/// Files that the receiver may have asked for and not got yet. On a line with 100 ms to the other end and back that is 80,000
/// small files a second.
pub(crate) const MOST_IN_FLIGHT: usize = 8192;
/// Entries that may be told beyond those that the receiver has dealt with; each message of them counts as one more.
pub(crate) const MOST_TOLD: u64 = 8192;
/// Gaps of one file that are looked at again.
pub(crate) const MOST_GAPS: usize = 4096;
/// And the bytes of the base in them.
pub(crate) const MOST_GAP_BYTES: u64 = 64 << 20;

/// The number of an entry: the place it has in all that the sender has told.
pub(crate) type Number = u32;

/// A part of a base between two matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) from: u64,
    pub(crate) length: u64,
}

/// Of a directory that is in no list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) mode: u32,
    pub(crate) modified: Time,
    pub(crate) user: u32,
    pub(crate) group: u32,
}

/// What either end may say at any time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Either {
    /// Nothing; the other end still works.
    Alive,
    Problem(Problem),
    /// It is over.
    Abort {
        code: Code,
        text: Vec<u8>,
    },
}

/// From the sender to the receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ToReceiver {
    Either(Either),
    /// What the start path is, and whether its content is meant and not itself; then the attributes of the root count.
    Source {
        kind: Kind,
        content: bool,
        root: Attributes,
    },
    /// The entries that follow are in this directory.
    Directory(TreePath),
    /// The next entries of it, and whether they are the last.
    Entries {
        last: bool,
        bytes: Vec<u8>,
    },
    /// All is told. Incomplete if something could not be read.
    Told {
        complete: bool,
        totals: Totals,
    },
    /// The content of this file follows.
    File {
        number: Number,
        size: u64,
        modified: Time,
    },
    Copy {
        from: u64,
        length: u64,
    },
    Data(Vec<u8>),
    Zero(u64),
    End(ContentHash),
    /// There will be no content, or no more of it.
    Failed {
        number: Number,
        why: Failure,
    },
    /// The base that was described has the content already.
    Same(Number),
    /// The sums of the base are needed.
    AskSums(Number),
    /// Smaller blocks of parts of the base are needed.
    AskGaps {
        number: Number,
        gaps: Vec<Gap>,
    },
}

/// Why the sender has no content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Failure {
    Vanished,
    /// It changed while it was read.
    Changed,
    Denied,
    Unreadable,
    /// The sender has forgotten what the number means.
    Forgotten,
}

/// From the receiver to the sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ToSender {
    Either(Either),
    /// What the sender's one entry is called here, and whose owners can be set.
    Begin {
        shown: Option<Name>,
        owner: bool,
        group: bool,
    },
    Digests(Vec<u8>),
    DigestsEnd,
    /// So many entries more are dealt with.
    Taken(u32),
    /// All of a file's content.
    WantWhole(Number),
    /// What its content has beyond so many bytes, if it seems to begin like the base: by a mark of samples of it.
    WantTail {
        number: Number,
        length: u64,
        mark: ContentHash,
    },
    /// Its content, unless it is what has this hash.
    WantRest {
        number: Number,
        length: u64,
        hash: ContentHash,
    },
    /// Its difference to what these blocks are in; the sums follow.
    WantDelta {
        number: Number,
        shape: Shape,
    },
    Sums {
        number: Number,
        bytes: Vec<u8>,
    },
    GapSums {
        number: Number,
        bytes: Vec<u8>,
    },
    Change(Change),
    Finished(Received),
}

impl Either {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Either::Alive => out.push(0),
            Either::Problem(problem) => {
                out.push(1);
                out.push(problem.code as u8);
                put_bytes(out, problem.path.as_bytes());
                put_text(out, problem.text.as_bytes());
            }
            Either::Abort { code, text } => {
                out.push(2);
                out.push(*code as u8);
                put_text(out, text);
            }
        }
    }
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    put_bytes(out, text.get(..LONGEST_TEXT).unwrap_or(text));
}

impl ToReceiver {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            ToReceiver::Either(either) => either.encode(out),
            ToReceiver::Source { kind, content, root } => {
                out.extend([16, *kind as u8, u8::from(*content)]);
                put_number(out, u64::from(root.mode));
                root.modified.put(out);
                put_number(out, u64::from(root.user));
                put_number(out, u64::from(root.group));
            }
            ToReceiver::Directory(path) => {
                out.push(17);
                out.extend_from_slice(path.as_bytes());
            }
            ToReceiver::Entries { last, bytes } => {
                out.extend([18, u8::from(*last)]);
                out.extend_from_slice(bytes);
            }
            ToReceiver::Told { complete, totals } => {
                out.extend([19, u8::from(*complete)]);
                totals.encode(out);
            }
            ToReceiver::File { number, size, modified } => {
                out.push(20);
                put_number(out, u64::from(*number));
                put_number(out, *size);
                modified.put(out);
            }
            ToReceiver::Copy { from, length } => {
                out.push(21);
                put_number(out, *from);
                put_number(out, *length);
            }
            ToReceiver::Data(bytes) => {
                out.push(DATA);
                out.extend_from_slice(bytes);
            }
            ToReceiver::Zero(length) => {
                out.push(23);
                put_number(out, *length);
            }
            ToReceiver::End(hash) => {
                out.push(24);
                out.extend_from_slice(&hash.0);
            }
            ToReceiver::Failed { number, why } => {
                out.extend([25, *why as u8]);
                put_number(out, u64::from(*number));
            }
            ToReceiver::Same(number) => {
                out.push(26);
                put_number(out, u64::from(*number));
            }
            ToReceiver::AskSums(number) => {
                out.push(27);
                put_number(out, u64::from(*number));
            }
            ToReceiver::AskGaps { number, gaps } => {
                out.push(28);
                put_number(out, u64::from(*number));
                put_number(out, gaps.len() as u64);
                let mut end = 0;
                for gap in gaps {
                    put_number(out, gap.from.saturating_sub(end));
                    put_number(out, gap.length);
                    end = gap.from + gap.length;
                }
            }
        }
    }
}

impl ToSender {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            ToSender::Either(either) => either.encode(out),
            ToSender::Begin { shown, owner, group } => {
                out.extend([32, u8::from(*owner), u8::from(*group)]);
                put_bytes(out, shown.as_ref().map_or(&[], |name| name.as_bytes()));
            }
            ToSender::Digests(bytes) => {
                out.push(33);
                out.extend_from_slice(bytes);
            }
            ToSender::DigestsEnd => out.push(34),
            ToSender::Taken(count) => {
                out.push(35);
                put_number(out, u64::from(*count));
            }
            ToSender::WantWhole(number) => {
                out.push(36);
                put_number(out, u64::from(*number));
            }
            ToSender::WantRest { number, length, hash } => {
                out.push(37);
                put_number(out, u64::from(*number));
                put_number(out, *length);
                out.extend_from_slice(&hash.0);
            }
            ToSender::WantTail { number, length, mark } => {
                out.push(43);
                put_number(out, u64::from(*number));
                put_number(out, *length);
                out.extend_from_slice(&mark.0);
            }
            ToSender::WantDelta { number, shape } => {
                out.push(38);
                put_number(out, u64::from(*number));
                shape.encode(out);
            }
            ToSender::Sums { number, bytes } => {
                out.push(39);
                put_number(out, u64::from(*number));
                out.extend_from_slice(bytes);
            }
            ToSender::GapSums { number, bytes } => {
                out.push(40);
                put_number(out, u64::from(*number));
                out.extend_from_slice(bytes);
            }
            ToSender::Change(change) => {
                out.push(41);
                change.encode(out);
            }
            ToSender::Finished(received) => {
                out.push(42);
                received.encode(out);
            }
        }
    }
}
