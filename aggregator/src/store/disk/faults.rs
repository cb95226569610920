//! A file system that fails when it is told to, and forgets on a power cut what was not synced.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

#[derive(Clone, Default)]
pub(crate) struct Faults(Arc<Mutex<Plan>>);

#[derive(Default)]
struct Plan {
    operations: u64,
    crash_at: Option<u64>,
    crashed: bool,
    full: bool,
    fail_syncs: u32,
    panics: Option<Panic>,
    free: Option<(u64, u64)>,
    /// Bytes of each file: written, and thereof synced.
    files: HashMap<PathBuf, (u64, u64)>,
    /// What a power cut takes back, newest last.
    undo: Vec<Undo>,
    seed: u64,
}

/// Where a thread panics.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Panic {
    Log,
    Segment,
}

enum Undo {
    Created(PathBuf),
    Renamed { to: PathBuf, before: Option<Vec<u8>> },
}

impl Undo {
    fn path(&self) -> &Path {
        match self {
            Undo::Created(path) | Undo::Renamed { to: path, .. } => path,
        }
    }
}

fn power_cut() -> io::Error {
    io::Error::other("the power is cut")
}

fn no_space() -> io::Error {
    io::Error::from(io::ErrorKind::StorageFull)
}

impl Plan {
    fn step(&mut self) -> io::Result<()> {
        if self.crashed {
            return Err(power_cut());
        }
        self.operations += 1;
        if self.crash_at == Some(self.operations) {
            self.crashed = true;
            return Err(power_cut());
        }
        Ok(())
    }

    fn random(&mut self, below: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if below == 0 { 0 } else { (self.seed >> 33) % below }
    }
}

impl Faults {
    pub(crate) fn new(seed: u64) -> Faults {
        Faults(Arc::new(Mutex::new(Plan { seed, ..Plan::default() })))
    }

    fn plan(&self) -> std::sync::MutexGuard<'_, Plan> {
        self.0.lock().unwrap()
    }

    /// The next write there panics.
    pub(crate) fn panic_at(&self, place: Panic) {
        self.plan().panics = Some(place);
    }

    fn perhaps_panic(&self, place: Panic) {
        let panics = self.plan().panics == Some(place);
        assert!(!panics, "as the test wants");
    }

    /// What the disk says of its space: free, in all.
    pub(crate) fn set_space(&self, free: u64, total: u64) {
        self.plan().free = Some((free, total));
    }

    pub(super) fn free(&self) -> Option<(u64, u64)> {
        self.plan().free
    }

    /// The power is cut at this operation from now.
    pub(crate) fn crash_in(&self, operations: u64) {
        let mut plan = self.plan();
        plan.crash_at = Some(plan.operations + operations);
    }

    pub(crate) fn crashed(&self) -> bool {
        self.plan().crashed
    }

    pub(crate) fn set_full(&self, full: bool) {
        self.plan().full = full;
    }

    pub(crate) fn fail_syncs(&self, times: u32) {
        self.plan().fail_syncs = times;
    }

    /// What is on the disk after the power came back: of what was not synced, any part.
    pub(crate) fn power_cut(&self) {
        let mut plan = self.plan();
        plan.crashed = true;
        let files: Vec<_> = plan.files.drain().collect();
        for (path, (_, synced)) in files {
            let Ok(content) = std::fs::read(&path) else { continue };
            let unsynced = (content.len() as u64).saturating_sub(synced);
            let kept = plan.random(unsynced + 1);
            let mut content =
                content[..usize::try_from((synced + kept).min(content.len() as u64)).unwrap()].to_vec();
            // A block that never reached the disk reads as zeros.
            if kept > 0 && plan.random(3) == 0 {
                let from = content.len() - usize::try_from(plan.random(kept) + 1).unwrap();
                content[from..].fill(0);
            }
            std::fs::write(&path, content).unwrap();
        }
        while let Some(undo) = plan.undo.pop() {
            if plan.random(2) == 0 {
                continue;
            }
            match undo {
                Undo::Created(path) => drop(std::fs::remove_file(path)),
                Undo::Renamed { to, before: Some(content) } => std::fs::write(to, content).unwrap(),
                Undo::Renamed { to, before: None } => drop(std::fs::remove_file(to)),
            }
        }
    }

    pub(super) fn operation(&self) -> io::Result<()> {
        self.plan().step()
    }

    pub(super) fn space(&self) -> io::Result<()> {
        self.perhaps_panic(Panic::Segment);
        let mut plan = self.plan();
        plan.step()?;
        if plan.full { Err(no_space()) } else { Ok(()) }
    }

    pub(super) fn create(&self, path: &Path) -> io::Result<()> {
        let mut plan = self.plan();
        plan.step()?;
        if !path.exists() {
            plan.undo.push(Undo::Created(path.to_owned()));
        }
        plan.files.insert(path.to_owned(), (0, 0));
        Ok(())
    }

    pub(super) fn append_to(&self, path: &Path) -> io::Result<()> {
        let mut plan = self.plan();
        plan.step()?;
        if let Ok(metadata) = std::fs::metadata(path) {
            plan.files.entry(path.to_owned()).or_insert((metadata.len(), metadata.len()));
        } else {
            plan.undo.push(Undo::Created(path.to_owned()));
            plan.files.insert(path.to_owned(), (0, 0));
        }
        Ok(())
    }

    pub(super) fn cut(&self, path: &Path, length: u64) -> io::Result<()> {
        let mut plan = self.plan();
        plan.step()?;
        if let Some((written, synced)) = plan.files.get_mut(path) {
            (*written, *synced) = (length, length.min(*synced));
        }
        Ok(())
    }

    pub(super) fn sync_all(&self) -> io::Result<()> {
        let mut plan = self.plan();
        plan.step()?;
        plan.files.values_mut().for_each(|(written, synced)| *synced = *written);
        plan.undo.clear();
        Ok(())
    }

    pub(super) fn write(&self, path: &Path, length: usize) -> Result<(), (usize, io::Error)> {
        if path.extension().is_some_and(|extension| extension == "wal") {
            self.perhaps_panic(Panic::Log);
        }
        let mut plan = self.plan();
        let before = plan.crashed;
        let done = match plan.step() {
            Err(error) if before => Err((0, error)),
            Err(error) => Err((usize::try_from(plan.random(length as u64 + 1)).unwrap(), error)),
            Ok(()) if plan.full => Err((length / 2, no_space())),
            Ok(()) => Ok(()),
        };
        let written = done.as_ref().map_or_else(|(partial, _)| *partial, |()| length) as u64;
        plan.files.entry(path.to_owned()).or_default().0 += written;
        done
    }

    pub(super) fn sync(&self, path: &Path) -> io::Result<()> {
        let mut plan = self.plan();
        plan.step()?;
        if plan.fail_syncs > 0 {
            plan.fail_syncs -= 1;
            return Err(io::Error::other("input/output error"));
        }
        if let Some((written, synced)) = plan.files.get_mut(path) {
            *synced = *written;
        }
        Ok(())
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut plan = self.plan();
        plan.step()?;
        let before = std::fs::read(to).ok();
        plan.undo.retain(|undo| undo.path() != from);
        plan.undo.push(Undo::Renamed { to: to.to_owned(), before });
        if let Some(lengths) = plan.files.remove(from) {
            plan.files.insert(to.to_owned(), lengths);
        }
        Ok(())
    }

    pub(super) fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        let mut plan = self.plan();
        plan.step()?;
        plan.undo.retain(|undo| undo.path().parent() != Some(directory));
        Ok(())
    }
}
