//! Whose turn it is on the cluster, which takes one installation at a time: what the chart makes outside of its namespace
//! has names that another one would want as well.
//!
//! * A test that changes or breaks what it has is alone.
//! * The others have one installation together, and each waits for its lane: on few cores more would only delay each other.
//! * What waits most of its time has no lane. If it has to restart something, the lanes are empty meanwhile.
//!
//! `scripts/test-kubernetes` starts all tests at once, and here they wait.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

static CLUSTER: RwLock<()> = RwLock::new(());
/// Whether the installation that tests have together stays as it is.
static STEADY: RwLock<()> = RwLock::new(());
/// For tests that deploy.
pub(crate) static SHOPS: Mutex<()> = Mutex::new(());
/// For tests with sessions, and those that look at which processes serve them.
pub(crate) static SITES: Mutex<()> = Mutex::new(());

/// Those that have it together come first: once one waits to be alone, nobody else gets in beside them. Only how long all
/// of it takes depends on this.
const HEAD_START: Duration = Duration::from_secs(3);

/// What a test has of the cluster until this is dropped.
#[derive(Default)]
pub(crate) struct Turn {
    _alone: Option<RwLockWriteGuard<'static, ()>>,
    _together: Option<RwLockReadGuard<'static, ()>>,
    _lane: Option<(MutexGuard<'static, ()>, RwLockReadGuard<'static, ()>)>,
}

impl Turn {
    /// All of it.
    pub(crate) fn alone() -> Turn {
        std::thread::sleep(HEAD_START);
        let alone = CLUSTER.write().unwrap_or_else(PoisonError::into_inner);
        begins();
        Turn { _alone: Some(alone), ..Turn::default() }
    }

    /// What others have as well.
    pub(crate) fn together() -> Turn {
        let together = CLUSTER.read().unwrap_or_else(PoisonError::into_inner);
        Turn { _together: Some(together), ..Turn::default() }
    }

    /// The same, when it is this test's turn in a lane.
    pub(crate) fn in_lane(self, lane: &'static Mutex<()>) -> Turn {
        let lane = lock(lane);
        let steady = STEADY.read().unwrap_or_else(PoisonError::into_inner);
        begins();
        Turn { _lane: Some((lane, steady)), ..self }
    }
}

/// Keeps the lanes empty, from when those who are in them have ended.
pub(crate) fn empty_lanes() -> RwLockWriteGuard<'static, ()> {
    STEADY.write().unwrap_or_else(PoisonError::into_inner)
}

/// Locks it. What a test had locked that has failed is as good as before.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says so: for the harness all of them run already. In one piece, beside what it says.
fn begins() {
    let line = format!("begins: {}\n", std::thread::current().name().unwrap_or_default());
    eprint!("{line}");
}
