//! What is transferred: trees and files that are the same in every run.

use anyhow::Result;
use skpr_tests::numbers::Numbers;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Text that compresses as a program's source does.
fn source(seed: u64, length: u64) -> Vec<u8> {
    let mut numbers = Numbers::new(seed);
    let mut text = Vec::new();
    while (text.len() as u64) < length {
        let word = numbers.below(400) * numbers.below(400) % 977;
        let end = if numbers.below(9) == 0 { '\n' } else { ' ' };
        text.extend(format!("word{word}{end}").into_bytes());
    }
    text.truncate(usize::try_from(length).unwrap_or(usize::MAX));
    text
}

/// What was just modified is looked at twice, by either program.
fn old(path: &Path, seconds: u64) -> Result<()> {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000 + seconds);
    Ok(File::open(path)?.set_modified(time)?)
}

fn source_file(root: &Path, number: u64) -> PathBuf {
    let directory = number / 5;
    root.join(format!("module{}/part{}/source_{}.txt", directory / 20, directory % 20, number % 5))
}

/// So many files in directories of five: 4,000 are 92 MB.
pub(crate) fn sources(root: &Path, files: u64) -> Result<()> {
    for number in 0..files {
        let path = source_file(root, number);
        let directory = path.parent().unwrap_or(root);
        fs::create_dir_all(directory)?;
        fs::write(&path, source(number, 2000 + number * 7919 % 42_000))?;
        old(&path, number)?;
        old(directory, number / 5)?;
    }
    Ok(())
}

/// A line more in each hundredth of them.
pub(crate) fn append(root: &Path, files: u64) -> Result<()> {
    for number in (0..files).step_by(97) {
        let path = source_file(root, number);
        File::options().append(true).open(&path)?.write_all(b"one more line\n")?;
        old(&path, 1_000_000)?;
    }
    Ok(())
}

/// So many of 200 bytes, in directories of a thousand.
pub(crate) fn small(root: &Path, files: u64) -> Result<()> {
    for number in 0..files {
        let directory = root.join((number / 1000).to_string());
        fs::create_dir_all(&directory)?;
        fs::write(directory.join(format!("file{number}")), source(number, 200))?;
    }
    Ok(())
}

pub(crate) fn noise_file(root: &Path, mib: u64, seed: u64) -> Result<()> {
    let path = root.join("file");
    fs::write(&path, Numbers::new(seed).bytes(usize::try_from(mib << 20)?))?;
    old(&path, seed)
}

/// A hundred places of 64 bytes, and a thousand bytes that were not there.
pub(crate) fn edit(root: &Path) -> Result<()> {
    let path = root.join("file");
    let mut bytes = fs::read(&path)?;
    let length = bytes.len() as u64;
    for edit in 0..100_u64 {
        let at = usize::try_from(edit * 2_654_435_761 % (length - 64))?;
        if let Some(place) = bytes.get_mut(at..at + 64) {
            place.copy_from_slice(&Numbers::new(edit + 10).bytes(64));
        }
    }
    let middle = bytes.len() / 5 * 2;
    bytes.splice(middle..middle, Numbers::new(2).bytes(usize::try_from(1000)?));
    fs::write(&path, bytes)?;
    old(&path, 1000)
}

/// The disk of a machine on this day: a quarter of the first 3 GiB is data, and all the rest has never been written. Of the
/// next day some blocks are written anew, and a few megabytes where nothing was.
pub(crate) fn image(root: &Path, mib: u64, day: u64) -> Result<()> {
    const CHUNK: u64 = 1 << 20;
    let path = root.join("disk.img");
    let file = File::create(&path)?;
    file.set_len(mib << 20)?;
    for at in (0..mib.min(3 << 10)).step_by(4) {
        file.write_all_at(&Numbers::new(at + 50).bytes(usize::try_from(CHUNK)?), at * CHUNK)?;
    }
    for write in 0..day * 500 {
        let at = write * 2_654_435_761 % (mib.min(3 << 10) / 4) * 4 * CHUNK + write % 256 * 4096;
        file.write_all_at(&Numbers::new(write + 5000).bytes(4096), at)?;
    }
    for more in 0..day * 8 {
        file.write_all_at(&Numbers::new(more + 9000).bytes(usize::try_from(CHUNK)?), (more * 4 + 2) * CHUNK)?;
    }
    drop(file);
    old(&path, day)
}

/// A dump of a table on this day: of the next one some rows are gone, and some have changed.
pub(crate) fn dump(root: &Path, mib: u64, day: u64) -> Result<()> {
    let path = root.join("dump.sql");
    let mut file = std::io::BufWriter::new(File::create(&path)?);
    let (mut row, mut written) = (0_u64, 0);
    while written < mib << 20 {
        row += 1;
        if day > 0 && row.is_multiple_of(9973) {
            continue;
        }
        let change = if row.is_multiple_of(4999) { day } else { 0 };
        let token = row.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let line =
            format!("INSERT INTO users VALUES ({row}, 'user{row}@example.com', '{token:x}', {change});\n");
        written += line.len() as u64;
        file.write_all(line.as_bytes())?;
    }
    file.flush()?;
    drop(file);
    old(&path, day)
}
