//! What a transfer did, in the numbers of rsync's `--stats`.

use crate::wire::{Cursor, Malformed, put_number};

/// What the sender looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub files: u64,
    pub directories: u64,
    pub links: u64,
    /// Devices, pipes and sockets.
    pub specials: u64,
    /// Of the files, in bytes.
    pub size: u64,
}

/// What the receiver made of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    pub created_files: u64,
    pub created_directories: u64,
    pub created_links: u64,
    pub created_specials: u64,
    pub deleted: u64,
    /// Files whose content was transferred, and their bytes.
    pub transferred: u64,
    pub transferred_size: u64,
    /// Of these bytes, those that were sent and those that were there.
    pub literal: u64,
    pub matched: u64,
    /// The worst that happened to single files, as an exit code.
    pub code: u8,
}

/// A whole transfer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub totals: Totals,
    pub received: Received,
    /// Bytes on the connection, as this end wrote and read them.
    pub sent_bytes: u64,
    pub received_bytes: u64,
}

fn put_all(out: &mut Vec<u8>, numbers: &[u64]) {
    numbers.iter().for_each(|number| put_number(out, *number));
}

impl Totals {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_all(out, &[self.files, self.directories, self.links, self.specials, self.size]);
    }

    pub(crate) fn decode(cursor: &mut Cursor<'_>) -> Result<Totals, Malformed> {
        let mut next = || cursor.number();
        Ok(Totals { files: next()?, directories: next()?, links: next()?, specials: next()?, size: next()? })
    }
}

impl Received {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let created =
            [self.created_files, self.created_directories, self.created_links, self.created_specials];
        put_all(out, &created);
        put_all(out, &[self.deleted, self.transferred, self.transferred_size, self.literal, self.matched]);
        out.push(self.code);
    }

    pub(crate) fn decode(cursor: &mut Cursor<'_>) -> Result<Received, Malformed> {
        let mut next = || cursor.number();
        Ok(Received {
            created_files: next()?,
            created_directories: next()?,
            created_links: next()?,
            created_specials: next()?,
            deleted: next()?,
            transferred: next()?,
            transferred_size: next()?,
            literal: next()?,
            matched: next()?,
            code: cursor.byte()?,
        })
    }
}
