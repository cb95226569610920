//! Appends that depend on each other: a position is only committed when everything before it is.
//!
//! A batch's positions say that the store has all that came before them. So once a batch is refused, every later one of
//! its lane is: a later one that succeeds would make the refused one look like a duplicate when it is sent again. A new
//! lane begins at what was acknowledged, and is in order by itself, whatever old lanes still have under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::oneshot;

use super::writer::Command;
use super::{AppendError, Appended, Store};
use crate::batch::Batch;

/// One sender's batches, in order. After the first failure it is of no more use.
pub struct Lane {
    store: Store,
    broken: Broken,
}

/// Whether the writer has refused a batch of a lane. Only the writer sets and reads it.
#[derive(Clone, Default)]
pub(super) struct Broken(Arc<AtomicBool>);

impl Broken {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Lane {
    pub(super) fn new(store: Store) -> Lane {
        Lane { store, broken: Broken::default() }
    }

    /// Stores the records of a batch that are not stored yet; completes when they are on stable storage. The batch has
    /// its place in the order from when the future is first polled; dropping it after that does not take the batch back.
    pub fn append(&self, batch: Batch) -> impl Future<Output = Result<Appended, AppendError>> + Send + use<> {
        let (store, broken) = (self.store.clone(), self.broken.clone());
        async move {
            let inner = &store.0;
            let labels = inner.shared.claimed(batch.source()).ok_or(AppendError::Unclaimed)?;
            let (reply, answer) = oneshot::channel();
            let command = Command::Append { batch, labels, lane: broken, reply };
            inner.commands.send(command).await.map_err(|_closed| AppendError::Closed)?;
            answer.await.unwrap_or(Err(AppendError::Closed))
        }
    }
}
