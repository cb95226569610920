//! The contract between skpr's programs: the messages they exchange, the ids in them, one table of errors, and the
//! `.skpr.yml` that developers write.
//!
//! What comes from the network is a bare message of [`v1`]; it becomes an id of [`ids`] by parsing, once, at the edge.

mod codec;
pub mod error;
pub mod ids;
pub mod manifest;
mod purpose;
pub mod ssh;
mod version;

/// The generated messages, clients and servers of `proto/skpr/v1/*.proto`.
pub mod v1 {
    #![expect(clippy::allow_attributes, reason = "generated code")]
    tonic::include_proto!("skpr.v1");
}

pub use error::{ErrorKind, Failure};
pub use ids::{EnvironmentName, InvalidId, Label, NodeName, PodUid, Source, UnixNanos};
pub use purpose::Purpose;
pub use version::{DIRTY, Version};

/// The audience of a user's token.
pub const USER_AUDIENCE: &str = "skpr";
/// The audience of an agent's token.
pub const AGENT_AUDIENCE: &str = "skpr-aggregator";
/// How the reason of a release begins that was not done in the time that it was given.
pub const NOT_DONE_AFTER: &str = "it is not done after";
/// The longest message kept, in bytes; the rest of a longer line is dropped and the record marked.
pub const MAX_MESSAGE: usize = 1 << 20;
/// The most message bytes in one `Batch`; one record may exceed it alone, up to [`MAX_MESSAGE`].
pub const MAX_BATCH: usize = 256 << 10;
/// The most records in one `Batch`.
pub const MAX_BATCH_RECORDS: usize = 8192;
/// The most bytes of a session in one message.
pub const MAX_PIECE: usize = 64 << 10;
/// The largest frame of HTTP/2 that agents and clients take, so that the message of such a piece is one frame and one write. The
/// aggregator takes no more than the usual 16 KiB: it has thousands of connections, and makes room for a frame at its head.
pub const MAX_HTTP_FRAME: u32 = 128 << 10;
/// The largest encoded message either side accepts: a batch of one longest message, and its columns.
pub const MAX_FRAME: usize = 4 << 20;
