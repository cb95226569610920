//! What a transfer is asked to do, as both ends know it.

use crate::chmod::Chmod;
use crate::filter::Filters;
use crate::wire::{Cursor, Malformed, put_number};

/// What becomes of files at the destination that the source does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delete {
    #[default]
    No,
    /// They go, but never because the whole source is empty.
    Yes,
    /// They go, also when nothing is left.
    EvenAll,
}

/// rsync's options, by their long names. `-a` is links, perms, times, owner, group, devices and specials; directories
/// are always entered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub links: bool,
    pub perms: bool,
    pub times: bool,
    /// Only a receiver that is root does it; the same goes for the group.
    pub owner: bool,
    pub group: bool,
    pub devices: bool,
    pub specials: bool,
    pub hard_links: bool,
    pub sparse: bool,
    pub checksum: bool,
    pub update: bool,
    pub dry_run: bool,
    pub partial: bool,
    pub one_file_system: bool,
    /// Links that lead out of the tree are not made.
    pub safe_links: bool,
    /// The set-user-id and set-group-id bits are kept; without it they are never set.
    pub set_id: bool,
    /// The other end tells every change, for `-i`, `-v` and progress.
    pub report: bool,
    pub delete: Delete,
    pub max_delete: Option<u64>,
    pub chmod: Chmod,
    pub filters: Filters,
    /// Bytes a second, of what is sent.
    pub bandwidth: Option<u64>,
    /// Of zstd, 1 to 9; 0 is the usual one. `-z` asks for a higher one.
    pub level: u8,
}

/// The usual compression: what it saves is worth more than the time it takes on any network slower than 1 Gbit/s.
pub(crate) const USUAL_LEVEL: u8 = 3;
/// Beyond it the compressor alone takes more memory than all the rest, and the other end chooses.
const HIGHEST_LEVEL: u8 = 9;

impl Options {
    /// `-a`.
    pub fn archive() -> Options {
        Options {
            links: true,
            perms: true,
            times: true,
            owner: true,
            group: true,
            devices: true,
            specials: true,
            ..Options::default()
        }
    }

    pub(crate) fn level(&self) -> u8 {
        if self.level == 0 { USUAL_LEVEL } else { self.level.min(HIGHEST_LEVEL) }
    }

    fn flags(&mut self) -> [&mut bool; 17] {
        [
            &mut self.links,
            &mut self.perms,
            &mut self.times,
            &mut self.owner,
            &mut self.group,
            &mut self.devices,
            &mut self.specials,
            &mut self.hard_links,
            &mut self.sparse,
            &mut self.checksum,
            &mut self.update,
            &mut self.dry_run,
            &mut self.partial,
            &mut self.one_file_system,
            &mut self.safe_links,
            &mut self.set_id,
            &mut self.report,
        ]
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let flags = self.clone().flags().iter().enumerate().map(|(bit, on)| u64::from(**on) << bit).sum();
        put_number(out, flags);
        out.push(match self.delete {
            Delete::No => 0,
            Delete::Yes => 1,
            Delete::EvenAll => 2,
        });
        [self.max_delete, self.bandwidth]
            .into_iter()
            .for_each(|limit| put_number(out, limit.map_or(0, |limit| limit.saturating_add(1))));
        out.push(self.level);
        self.chmod.encode(out);
        self.filters.encode(out);
    }

    pub(crate) fn decode(cursor: &mut Cursor<'_>) -> Result<Options, Malformed> {
        let mut options = Options::default();
        let flags = cursor.number()?;
        for (bit, flag) in options.flags().into_iter().enumerate() {
            *flag = flags >> bit & 1 == 1;
        }
        if flags >> 17 != 0 {
            return Err(Malformed("an option that is not known"));
        }
        options.delete = match cursor.byte()? {
            0 => Delete::No,
            1 => Delete::Yes,
            2 => Delete::EvenAll,
            _ => return Err(Malformed("a way of deleting that is not known")),
        };
        options.max_delete = cursor.number()?.checked_sub(1);
        options.bandwidth = cursor.number()?.checked_sub(1);
        options.level = cursor.byte()?;
        options.chmod = Chmod::decode(cursor)?;
        options.filters = Filters::decode(cursor)?;
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn options_cross_the_wire(flags in 0_u32..1 << 17, limit in proptest::option::of(0_u64..u64::MAX), level: u8) {
            let mut options = Options { max_delete: limit, level, delete: Delete::EvenAll, ..Options::default() };
            for (bit, flag) in options.flags().into_iter().enumerate() {
                *flag = flags >> bit & 1 == 1;
            }
            options.chmod = Chmod::parse("Dg+s,F644", 0o22).unwrap();
            options.filters.exclude(b"/target").unwrap();
            let mut out = vec![];
            options.encode(&mut out);
            prop_assert_eq!(Options::decode(&mut Cursor(&out)).unwrap(), options);
        }

        #[test]
        fn hostile_options_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            drop(Options::decode(&mut Cursor(&bytes)));
        }
    }
}
