//! Releases: a version put into an environment, and how it goes. Pure, and the same for every platform.
//!
//! * A release is begun by one durable write and ended by another; whoever finds it in between, after a crash too, goes on
//!   with it. The state that is written decides what happens next, never what a process remembers.
//! * At most one release of an environment is under way: that is the lock, and it names its holder.

mod history;
mod judge;
mod told;

pub use history::{Request, advance, begin, current, good_before, locked, next_number, open, start, verdict};
pub use judge::{STEADY_FOR, Verdict, judge};
pub use told::told;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use skpr_proto::manifest;
use std::time::Duration;

/// How many releases an environment remembers.
pub const KEPT: usize = 20;
/// How long a deploy may take unless its caller says otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(600);
/// The most seconds that it may be given.
pub const LONGEST_TIMEOUT: u32 = 24 * 60 * 60;
/// How long an instance that runs may go on not being ready before that counts as a failure; the whole time where a
/// release has more than [`TIMEOUT`].
pub const READY_WITHIN: Duration = Duration::from_secs(120);

/// A version put into an environment, by whom, when, and how it went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Release {
    /// Counts up per environment from 1.
    pub number: u64,
    pub version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The image's digest, or the commit; known once an instance has run it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    pub by: String,
    /// When it was asked for.
    pub began: Timestamp,
    /// When its platform took it up, where that is not when it was asked for. Its time counts from then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When it had failed and the release before it began to be put back. That one is what is to run ever since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub put_back_since: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    pub state: State,
    /// Why it failed, in one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The instance that showed the failure, and the code that it ended with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The release whose version and settings it puts back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restores: Option<u64>,
    pub timeout_seconds: u32,
    /// Whether its failure puts the release before it back. Never for a change made by another tool than skpr, which
    /// would only make it again.
    pub returns: bool,
    pub settings: manifest::Environment,
}

/// Where a release is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Its instances are started, and the old ones ended as they become ready.
    Deploying,
    /// Every instance runs it and is ready.
    Succeeded,
    /// It failed and was left as it is.
    Failed,
    /// It failed, and the release before it is being put back.
    RollingBack,
    /// It failed, and every instance runs the release before it again.
    RolledBack,
    /// Another change came before it had ended.
    Superseded,
}

impl State {
    /// The name on the wire, in JSON and in resources.
    pub fn name(self) -> &'static str {
        match self {
            State::Deploying => "deploying",
            State::Succeeded => "succeeded",
            State::Failed => "failed",
            State::RollingBack => "rolling-back",
            State::RolledBack => "rolled-back",
            State::Superseded => "superseded",
        }
    }

    /// Whether it is still under way.
    pub fn is_open(self) -> bool {
        match self {
            State::Deploying | State::RollingBack => true,
            State::Succeeded | State::Failed | State::RolledBack | State::Superseded => false,
        }
    }
}

/// What is to be put into an environment.
#[derive(Clone, Debug, PartialEq)]
pub struct Deploy {
    pub version: String,
    pub image: Option<String>,
    pub settings: manifest::Environment,
    pub by: String,
    pub timeout: Duration,
    pub returns: bool,
    pub restores: Option<u64>,
}
