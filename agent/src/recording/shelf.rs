//! The directory of all recordings: `PROJECT/ENVIRONMENT/TIME-INSTANCE-SESSION.cast`.
//!
//! * Files are made anew and are their owner's alone, and so are directories.
//! * All together they take no more than they may: for a new one the oldest go, but none that is being written.

use super::cast::Header;
use super::{Settings, Subject};
use std::collections::BTreeSet;
use std::fs::{DirBuilder, DirEntry, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What every recording's name ends with.
const ENDING: &str = "cast";
/// What a file takes of a disk is a multiple of this.
const BLOCK: u64 = 4096;
/// When room is made, some more is, so that it is not looked for it with every line.
const SPARE: u64 = 16;
/// How often all files are looked at when there is no room.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Of a name of an instance, what goes into a file's, which may be 255 bytes long.
const LONGEST_NAME: usize = 100;

/// Where recordings are, and what they take.
#[derive(Debug)]
pub(super) struct Shelf {
    settings: Settings,
    /// None before anybody has looked.
    total: Option<u64>,
    looked: Option<Instant>,
}

/// A recording on the shelf. Those that are older have lesser names.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kept {
    name: PathBuf,
    path: PathBuf,
    takes: u64,
}

impl Shelf {
    pub(super) fn open(settings: Settings) -> io::Result<Shelf> {
        make(&settings.directory)?;
        Ok(Shelf { settings, total: None, looked: None })
    }

    /// Makes the file of a recording.
    pub(super) fn create(&self, header: &Header) -> io::Result<(PathBuf, File)> {
        let Subject { environment, instance, session } = &header.subject;
        let folder = self.settings.directory.join(environment.project.as_str());
        let folder = folder.join(environment.environment.as_str());
        make(&folder)?;
        let time = header.time.strftime("%Y%m%dT%H%M%S.%3fZ");
        let instance = instance.get(..LONGEST_NAME).unwrap_or(instance);
        let number = if header.number > 1 { format!("-{}", header.number) } else { String::new() };
        let path = folder.join(format!("{time}-{instance}-{session}{number}.{ENDING}"));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok((path, file))
    }

    /// Whether a file may grow to `to` bytes. Those that are `open` stay.
    pub(super) fn grows(&mut self, from: u64, to: u64, open: &BTreeSet<PathBuf>) -> bool {
        let more = takes(to).saturating_sub(takes(from));
        let max = self.settings.max_bytes;
        let may = |total: Option<u64>| total.is_some_and(|total| total.saturating_add(more) <= max);
        let look = self.looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY);
        if !may(self.total) && look {
            self.looked = Some(Instant::now());
            self.total = Some(self.make_room(more, open));
        }
        let may = may(self.total);
        if may {
            self.total = self.total.map(|total| total + more);
            // As long as there is room, there is no harm in looking for more at once.
            self.looked = None;
        }
        may
    }

    /// Looks what there is, deletes what is too old if that is too much, and returns what is left.
    fn make_room(&self, more: u64, open: &BTreeSet<PathBuf>) -> u64 {
        let mut all = self.all();
        let mut total: u64 = all.iter().map(|kept| kept.takes).sum();
        let max = self.settings.max_bytes;
        if total.saturating_add(more) <= max {
            return total;
        }
        all.sort();
        for kept in all.into_iter().filter(|kept| !open.contains(&kept.path)) {
            if total.saturating_add(more) <= max - max / SPARE {
                break;
            }
            match std::fs::remove_file(&kept.path) {
                Ok(()) => total -= kept.takes,
                Err(error) => {
                    tracing::warn!(%error, recording = %kept.path.display(), "a recording is not deleted");
                }
            }
            // Those that are not empty stay.
            for folder in kept.path.ancestors().skip(1).take(2) {
                std::fs::remove_dir(folder).ok();
            }
        }
        total
    }

    fn all(&self) -> Vec<Kept> {
        let folders = |folder: &Path| entries(folder).filter(|entry| is(entry, std::fs::FileType::is_dir));
        let projects = folders(&self.settings.directory);
        let environments = projects.flat_map(|project| folders(&project.path()).collect::<Vec<_>>());
        let files = environments.flat_map(|environment| entries(&environment.path()).collect::<Vec<_>>());
        let recordings = files.filter_map(|file| {
            let (name, path) = (PathBuf::from(file.file_name()), file.path());
            let is_one = is(&file, std::fs::FileType::is_file) && path.extension()? == ENDING;
            is_one.then(|| Some(Kept { name, path, takes: takes(file.metadata().ok()?.len()) }))?
        });
        recordings.collect()
    }
}

/// What is there, as far as it can be read: links are not followed.
fn entries(folder: &Path) -> impl Iterator<Item = DirEntry> + use<> {
    std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok)
}

fn is(entry: &DirEntry, kind: fn(&std::fs::FileType) -> bool) -> bool {
    entry.file_type().is_ok_and(|found| kind(&found))
}

fn takes(length: u64) -> u64 {
    length.div_ceil(BLOCK).saturating_mul(BLOCK)
}

fn make(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}
