//! The receiver describes a base. A base that cannot be read to its end is described by sums that match nothing, so that
//! the sender is never left waiting.

use crate::error::Error;
use crate::file::{Content, Part, read_exact};
use crate::message::{Gap, MOST_CHUNK, Number, ToSender};
use crate::name::TreePath;
use crate::place::{self, Places};
use crate::receive::Setting;
use crate::receive::flights::BaseFile;
use crate::signature::{Shape, sums};
use rustix::io::Errno;
use std::fs::File;

/// Sums on their way, in messages.
struct Outgoing<'a> {
    setting: &'a Setting<'a>,
    message: fn(Number, Vec<u8>) -> ToSender,
    number: Number,
    bytes: Vec<u8>,
    left: u64,
}

impl Outgoing<'_> {
    fn add(&mut self, sums: &[u8]) -> Result<(), Error> {
        let some = usize::try_from(self.left).unwrap_or(usize::MAX).min(sums.len());
        self.bytes.extend_from_slice(sums.get(..some).unwrap_or_default());
        self.left -= some as u64;
        while self.bytes.len() >= MOST_CHUNK {
            let rest = self.bytes.split_off(MOST_CHUNK);
            let bytes = std::mem::replace(&mut self.bytes, rest);
            self.setting.say(&(self.message)(self.number, bytes))?;
        }
        Ok(())
    }

    /// Whatever is missing matches nothing.
    fn finish(mut self) -> Result<(), Error> {
        while self.left > 0 {
            self.add(&[0; 4096])?;
        }
        if self.bytes.is_empty() {
            Ok(())
        } else {
            self.setting.say(&(self.message)(self.number, self.bytes))
        }
    }
}

fn open(places: &mut Places, directory: &TreePath, base: &BaseFile) -> Result<Content, Errno> {
    let (file, stat) = place::open_file(places.open(directory)?, &base.name)?;
    Ok(Content::new(File::from(file), &stat))
}

/// Announces a base, and sends the sums of its blocks as they are computed.
pub(in crate::receive) fn send_sums(
    setting: &Setting<'_>,
    places: &mut Places,
    directory: &TreePath,
    base: &BaseFile,
    number: Number,
    shape: Shape,
) -> Result<(), Error> {
    setting.say(&ToSender::WantDelta { number, shape })?;
    let message = |number, bytes| ToSender::Sums { number, bytes };
    let mut outgoing = Outgoing { setting, message, number, bytes: vec![], left: shape.size() };
    let mut segment: Vec<u8> = vec![];
    let whole = shape.segment();
    if let Ok(content) = open(places, directory, base) {
        let mut content = content.until(shape.length).by(whole);
        let zeros = sums(&vec![0; shape.block as usize], shape.block, shape.strong);
        while let Ok(Some(part)) = content.next() {
            match part {
                // What is whole blocks is not copied first.
                Part::Data(bytes)
                    if segment.is_empty() && bytes.len().is_multiple_of(shape.block as usize) =>
                {
                    outgoing.add(&sums(bytes, shape.block, shape.strong))?;
                }
                Part::Data(bytes) => segment.extend_from_slice(bytes),
                Part::Hole(mut length) => {
                    // Up to a block's end like any other zeros; then blocks that all have the same sums.
                    let block = u64::from(shape.block);
                    let fill = (block - segment.len() as u64 % block).min(length) % block;
                    segment.resize(segment.len() + fill as usize, 0);
                    length -= fill;
                    if length >= block {
                        outgoing.add(&sums(&segment, shape.block, shape.strong))?;
                        segment.clear();
                        for _ in 0..length / block {
                            outgoing.add(&zeros)?;
                        }
                    }
                    segment.resize(segment.len() + (length % block) as usize, 0);
                }
            }
            while segment.len() >= whole {
                let rest = segment.split_off(whole);
                outgoing.add(&sums(&segment, shape.block, shape.strong))?;
                segment = rest;
            }
            if setting.session.is_over() {
                return Err(Error::Stopped);
            }
        }
    }
    outgoing.add(&sums(&segment, shape.block, shape.strong))?;
    outgoing.finish()
}

/// Sends the sums of small blocks in parts of a base.
pub(super) fn send_gap_sums(
    setting: &Setting<'_>,
    places: &mut Places,
    directory: &TreePath,
    base: &BaseFile,
    number: Number,
    gaps: &[Gap],
) -> Result<(), Error> {
    if gaps.iter().any(|gap| gap.from + gap.length > base.size) {
        return Err(Error::Protocol("a gap beyond the base"));
    }
    let left = gaps.iter().map(|gap| Shape::of_gap(gap.length).size()).sum();
    let message = |number, bytes| ToSender::GapSums { number, bytes };
    let mut outgoing = Outgoing { setting, message, number, bytes: vec![], left };
    if let Ok(content) = open(places, directory, base) {
        for gap in gaps {
            let shape = Shape::of_gap(gap.length);
            let segment = shape.segment() as u64;
            let mut at = gap.from;
            while at < gap.from + gap.length {
                let mut bytes = vec![0; (gap.from + gap.length - at).min(segment) as usize];
                // What cannot be read are zeros, which at worst give a wrong match and so the whole file.
                let _short = read_exact(&content.file, &mut bytes, at).is_err();
                outgoing.add(&sums(&bytes, shape.block, shape.strong))?;
                at += bytes.len() as u64;
            }
        }
    }
    outgoing.finish()
}
