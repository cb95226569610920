//! Two ends joined by a socket, and trees to transfer.

use skpr_rsync::options::Options;
use skpr_rsync::{Base, Error, Event, Link, Local, Policy, Summary, pull, push, serve};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) fn link(stream: UnixStream) -> Link {
    let (reader, closer) = (stream.try_clone().unwrap(), stream.try_clone().unwrap());
    let close = move || {
        // It may have ended already.
        drop(closer.shutdown(Shutdown::Both));
    };
    Link { reader: Box::new(reader), writer: Box::new(Closing(stream)), close: Box::new(close) }
}

/// Ends its direction when it is dropped, as a pipe does.
struct Closing(UnixStream);

impl Write for Closing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        drop(self.0.shutdown(Shutdown::Write));
    }
}

pub(crate) fn policy() -> Policy {
    Policy { devices: true, set_id: true, ..Policy::default() }
}

pub(crate) fn archive() -> Options {
    Options { report: true, set_id: true, ..Options::archive() }
}

/// What came of a transfer, and what it told.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) summary: Summary,
    pub(crate) lines: Vec<String>,
    pub(crate) problems: Vec<String>,
}

pub(crate) fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

/// What of the root of the file system is, as a worker has it.
pub(crate) fn whole() -> Base {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
    Base::Within(rustix::fs::open("/", flags, rustix::fs::Mode::empty()).unwrap())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Push,
    Pull,
}

/// Transfers `from` to `to`, and returns how either end saw it: the client first.
pub(crate) fn both(
    way: Way,
    from: &[u8],
    to: &[u8],
    options: &Options,
) -> (Result<Done, Error>, Result<Summary, Error>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (lines, problems) = (Mutex::new(vec![]), Mutex::new(vec![]));
    let watcher = |event: Event<'_>| match event {
        Event::Change(change) => lines.lock().unwrap().push(change.line(false)),
        Event::Problem(problem) => {
            problems.lock().unwrap().push(format!("{}: {}", problem.path, problem.text))
        }
        Event::Progress { .. } | Event::Queued { .. } => {}
    };
    let (client, server) = std::thread::scope(|scope| {
        let server = scope.spawn(|| serve(whole(), policy(), &|_| {}, link(theirs)));
        let local = |path| Local { base: Base::Own, path, watcher: &watcher, silence: None };
        let client = match way {
            Way::Push => push(local(from), to, options, link(ours)),
            Way::Pull => pull(local(to), from, options, link(ours)),
        };
        (client, server.join().unwrap())
    });
    let (mut lines, problems) = (lines.into_inner().unwrap(), problems.into_inner().unwrap());
    lines.sort();
    (client.map(|summary| Done { summary, lines, problems }), server)
}

#[track_caller]
pub(crate) fn transfer(way: Way, from: &[u8], to: &[u8], options: &Options) -> Done {
    let (client, server) = both(way, from, to, options);
    let client = client.unwrap_or_else(|error| panic!("client: {error:?}"));
    server.unwrap_or_else(|error| panic!("server: {error:?}"));
    client
}

/// What is in `from` goes into `to`.
#[track_caller]
pub(crate) fn content(way: Way, from: &Path, to: &Path, options: &Options) -> Done {
    transfer(way, &[&bytes(from)[..], b"/"].concat(), &bytes(to), options)
}

/// A directory with `from` and `to` in it.
pub(crate) struct Trees {
    pub(crate) root: tempfile::TempDir,
    pub(crate) from: PathBuf,
    pub(crate) to: PathBuf,
}

pub(crate) fn trees() -> Trees {
    let root = tempfile::tempdir().unwrap();
    let (from, to) = (root.path().join("from"), root.path().join("to"));
    fs::create_dir(&from).unwrap();
    fs::create_dir(&to).unwrap();
    Trees { root, from, to }
}

/// Everything about a tree that a transfer can carry, by path; files by what is in them and with whom they share it.
pub(crate) fn state(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut inodes = BTreeMap::new();
    visit(root, root, &mut found, &mut inodes);
    found
}

/// What a transfer has left behind that is nobody's file.
pub(crate) fn leftovers(root: &Path) -> Vec<String> {
    state(root).into_keys().filter(|name| name.contains(".skpr-")).collect()
}

fn visit(root: &Path, at: &Path, found: &mut BTreeMap<String, String>, inodes: &mut BTreeMap<u64, String>) {
    let meta = fs::symlink_metadata(at).unwrap();
    let name = skpr_rsync::escape(at.strip_prefix(root).unwrap().as_os_str().as_bytes());
    let kind = meta.file_type();
    let mut text =
        format!("{:?} {:o} {} {} {}", kind, meta.mode() & 0o7777, meta.mtime(), meta.uid(), meta.gid());
    if kind.is_symlink() {
        text = format!("link {:?} {}", fs::read_link(at).unwrap(), meta.mtime());
    } else if kind.is_file() {
        let leader = inodes.entry(meta.ino()).or_insert_with(|| name.clone());
        let hash = blake3::hash(&fs::read(at).unwrap());
        text = format!("{text} {hash} of {leader}");
    }
    found.insert(name, text);
    if kind.is_dir() {
        let mut names: Vec<_> = fs::read_dir(at).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        names.iter().for_each(|path| visit(root, path, found, inodes));
    }
}

pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Writes a file that was modified long ago, unlike any other.
pub(crate) fn write(path: &Path, bytes: &[u8]) {
    static CLOCK: AtomicU64 = AtomicU64::new(1_000_000_000);
    fs::write(path, bytes).unwrap();
    age(path, CLOCK.fetch_add(10, Ordering::Relaxed));
}

pub(crate) fn age(path: &Path, seconds: u64) {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    File::open(path).unwrap().set_modified(time).unwrap();
}

pub(crate) fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A small file system of its own; none where mounting is not allowed.
pub(crate) struct Mount(pub(crate) tempfile::TempDir);

impl Mount {
    pub(crate) fn new(options: &str) -> Option<Mount> {
        let directory = tempfile::tempdir().unwrap();
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(directory.path())
            .status();
        mount.is_ok_and(|status| status.success()).then_some(Mount(directory))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        drop(std::process::Command::new("umount").arg(self.0.path()).status());
    }
}

pub(crate) const WAYS: [Way; 2] = [Way::Push, Way::Pull];
