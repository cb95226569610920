//! One digest for all that is compared of a directory's entries, so that a directory in which nothing has changed costs
//! a few bytes and not some for each file.
//!
//! The key is new in each transfer: whoever makes files cannot know which ones would have the digest of others.

use crate::entry::{Entry, EntryCodec};
use crate::name::{Name, TreePath};
use crate::wire::{Cursor, put_bytes, put_number};
use std::collections::VecDeque;

/// Half a million directories, about. Of those beyond, the sender tells all entries.
pub(crate) const MOST_DIGEST_BYTES: usize = 16 << 20;

/// Of the entries of one directory, without what is in its directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DirectoryDigest([u8; 8]);

pub(crate) struct Digester {
    hasher: blake3::Hasher,
    codec: EntryCodec,
    buffer: Vec<u8>,
}

impl Digester {
    pub(crate) fn new(key: &[u8; 32]) -> Digester {
        Digester { hasher: blake3::Hasher::new_keyed(key), codec: EntryCodec::default(), buffer: vec![] }
    }

    /// Both ends add the same entries in the same order, or get different digests.
    pub(crate) fn add(&mut self, entry: &Entry) {
        if self.buffer.len() >= 8 << 10 {
            self.hasher.update(&self.buffer);
            self.buffer.clear();
        }
        let comparable = Entry { recent: false, ..entry.clone() };
        self.codec.put(&mut self.buffer, &comparable);
    }

    pub(crate) fn finish(mut self) -> DirectoryDigest {
        self.hasher.update(&self.buffer);
        let mut digest = [0; 8];
        self.hasher.finalize_xof().fill(&mut digest);
        DirectoryDigest(digest)
    }
}

/// Adds the digest of the next directory of a walk.
pub(crate) fn put(out: &mut Vec<u8>, path: &TreePath, digest: DirectoryDigest) {
    put_number(out, path.components().count() as u64);
    put_bytes(out, path.components().last().unwrap_or_default());
    out.extend_from_slice(&digest.0);
}

/// The digests of a peer, in the order of its walk. They are read as they are needed.
#[derive(Debug, Default)]
pub(crate) struct Digests {
    messages: VecDeque<Vec<u8>>,
    /// Where to go on in the first of them.
    at: usize,
    bytes: usize,
    components: Vec<Name>,
    begun: bool,
    pub(crate) complete: bool,
}

impl Digests {
    /// Takes what has come in.
    pub(crate) fn add(&mut self, message: Vec<u8>) -> Result<(), crate::Error> {
        self.bytes += message.len();
        if self.bytes > MOST_DIGEST_BYTES || self.complete {
            return Err(crate::Error::Protocol("more digests than allowed"));
        }
        self.messages.push_back(message);
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The next directory. The path must follow from the one before as in a walk.
    pub(crate) fn next(&mut self) -> Result<Option<(TreePath, DirectoryDigest)>, crate::Error> {
        let Some(message) = self.messages.front() else { return Ok(None) };
        let mut cursor = Cursor(message.get(self.at..).unwrap_or_default());
        let level = cursor.at_most(
            self.components.len() as u64 + u64::from(self.begun),
            "a digest at an impossible depth",
        )?;
        let name = cursor.bytes(crate::name::LONGEST_NAME)?;
        let digest = DirectoryDigest(cursor.array()?);
        if (level == 0) == self.begun || (level == 0) != name.is_empty() {
            return Err(crate::Error::Protocol("digests that do not begin at the root"));
        }
        self.begun = true;
        if level > 0 {
            let name = Name::new(name)?;
            self.components.truncate(level as usize);
            if self.components.len() == level as usize
                && self.components.pop().is_some_and(|before| before >= name)
            {
                return Err(crate::Error::Protocol("digests out of order"));
            }
            self.components.push(name);
        }
        if cursor.0.is_empty() {
            self.messages.pop_front();
            self.at = 0;
        } else {
            self.at = message.len() - cursor.0.len();
        }
        let names: Vec<&[u8]> = self.components.iter().map(Name::as_bytes).collect();
        Ok(Some((TreePath::new(&names.join(&b'/'))?, digest)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(byte: u8) -> DirectoryDigest {
        DirectoryDigest([byte; 8])
    }

    #[test]
    fn paths_come_back_from_names_and_levels() {
        let paths = ["", "a", "a/b", "a/b/c", "a.x", "b", "b/a"];
        let mut digests = Digests::default();
        for chunk in paths.chunks(3) {
            let mut out = vec![];
            chunk.iter().for_each(|path| put(&mut out, &TreePath::new(path.as_bytes()).unwrap(), digest(1)));
            digests.add(out).unwrap();
        }
        for path in paths {
            assert_eq!(digests.next().unwrap().unwrap().0.as_bytes(), path.as_bytes());
        }
        assert!(digests.next().unwrap().is_none());
    }

    #[test]
    fn digests_out_of_order_are_refused() {
        for paths in
            [&["a"][..], &["", ""], &["", "b", "a"], &["", "a", "a"], &["", "a/b"], &["", "a", "a/b/c"]]
        {
            let mut out = vec![];
            paths.iter().for_each(|path| put(&mut out, &TreePath::new(path.as_bytes()).unwrap(), digest(1)));
            let mut digests = Digests::default();
            digests.add(out).unwrap();
            assert!((0..paths.len()).any(|_| digests.next().is_err()), "{paths:?}");
        }
    }
}
