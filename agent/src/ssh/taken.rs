//! Tells a client that asked for it how much of what it has sent was taken.

use russh::ChannelWriteHalf;
use russh::server::Msg;
use skpr_proto::ssh;
use std::sync::Arc;

pub(super) struct Taken {
    to: Option<Arc<ChannelWriteHalf<Msg>>>,
    every: u64,
    bytes: u64,
    told: u64,
}

impl Taken {
    /// Tells it after so many bytes each; nobody, where none has asked.
    pub(super) fn new(to: Option<Arc<ChannelWriteHalf<Msg>>>, every: u64) -> Taken {
        Taken { to, every, bytes: 0, told: 0 }
    }

    pub(super) async fn passed(&mut self, bytes: u64) {
        self.bytes += bytes;
        if self.bytes - self.told >= self.every {
            self.told = self.bytes;
            self.tell(self.bytes).await;
        }
    }

    /// A client that has gone is found out elsewhere.
    pub(super) async fn tell(&self, bytes: u64) {
        if let Some(to) = &self.to {
            drop(to.extended_data_bytes(ssh::TAKEN, ssh::taken(bytes)).await);
        }
    }
}
