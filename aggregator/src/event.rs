//! What platforms tell of: deploys, scaling, restarts and why. Kept as records of the environment's stream `events`, and
//! what is told of runs in the ordinary course of things in its stream `runs`.
//!
//! * An event has an identity. Platforms tell of the same event again after a restart, and it is kept once.
//! * Which stream an event goes to is told from the event alone: the same goes to the same one however often it is told.
//! * The streams are the aggregator's own: what an agent sends never gets there, whatever it calls itself.

mod known;
mod runs;
mod writer;

pub(crate) use runs::RunCounts;
pub(crate) use writer::{Counts, Writer};

use crate::environment::{Claim, EnvironmentKey};
use crate::release::State;
use crate::run::Run;
use serde::{Deserialize, Serialize};
use skpr_proto::{InvalidId, Label, NodeName, PodUid, Source, UnixNanos};
use tokio::sync::mpsc;

/// Events that wait to be stored: a node's failure ends some hundred instances at once. A full queue makes the platform wait.
pub const QUEUE: usize = 1024;

/// A queue for events.
pub fn queue() -> Queue {
    mpsc::channel(QUEUE)
}

/// The stream of an environment's events.
pub const STREAM: &str = "events";
/// The stream of what is told of runs that go as they should.
pub const RUNS: &str = "runs";
/// Both.
pub const STREAMS: [&str; 2] = [STREAM, RUNS];

/// Which of an environment's streams an event belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stream {
    /// What somebody may want to be told.
    Events,
    /// What is there for whoever looks for it: tasks of every minute would drown all others.
    Runs,
}

impl Stream {
    pub fn name(self) -> &'static str {
        match self {
            Stream::Events => STREAM,
            Stream::Runs => RUNS,
        }
    }
}

/// Where platforms put what they tell of, and the aggregator what it does itself.
pub type Sender = mpsc::Sender<Event>;
/// Both ends of that queue.
pub type Queue = (Sender, mpsc::Receiver<Event>);

/// Something that happened to an environment.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub environment: EnvironmentKey,
    pub time: UnixNanos,
    pub body: Body,
}

/// What is stored of an event, as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Body {
    /// The same for the same event, whoever tells of it and how often: `restart/UID/3`, `release/42/failed/BEGAN`. Nobody
    /// reads anything out of it.
    pub id: String,
    pub kind: Kind,
    /// One sentence.
    pub text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<u64>,
    /// Where that release is since, when it is about that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// The run that it is about, as it was then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Box<Run>>,
    /// Who caused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Somebody may want to look.
    #[serde(default)]
    pub warning: bool,
}

impl Body {
    /// About the environment as a whole, and nothing to look at.
    pub fn new(id: String, kind: Kind, text: String) -> Body {
        Body {
            id,
            kind,
            text,
            instance: None,
            release: None,
            state: None,
            run: None,
            by: None,
            warning: false,
        }
    }

    /// The stream that it belongs to: a run that went as it should, and that nobody asked for, is no news.
    pub fn stream(&self) -> Stream {
        match self.kind {
            Kind::Run if !self.warning && self.by.is_none() => Stream::Runs,
            _ => Stream::Events,
        }
    }
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A release began or ended.
    Deploy,
    /// The number of wanted instances changed.
    Scale,
    /// An instance's process ended and was started again.
    Restart,
    /// An instance was killed because it used more memory than it may.
    OutOfMemory,
    /// An instance did not answer its health check.
    Probe,
    /// The platform cannot do what is asked.
    Trouble,
    /// The environment was made or deleted.
    Environment,
    /// Somebody's session in an instance began or ended.
    Session,
    /// A run of a task began, ended, or was due and did not begin.
    Run,
    /// Tasks were suspended or resumed.
    Task,
}

impl Kind {
    /// The name on the wire and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Deploy => "deploy",
            Kind::Scale => "scale",
            Kind::Restart => "restart",
            Kind::OutOfMemory => "out-of-memory",
            Kind::Probe => "probe",
            Kind::Trouble => "trouble",
            Kind::Environment => "environment",
            Kind::Session => "session",
            Kind::Run => "run",
            Kind::Task => "task",
        }
    }
}

/// No pod has this UID: a real one is a UUID or a hash in hexadecimal.
const UID: &str = "skpr-events";
/// Who says what is in the stream.
const INSTANCE: &str = "skpr";

/// What the events of an environment are to the store: the outputs of a pod that no node has, a container for each stream.
#[derive(Clone, Debug)]
struct Own {
    uid: PodUid,
    events: Label,
    runs: Label,
    node: NodeName,
}

impl Own {
    fn new() -> Result<Own, InvalidId> {
        Ok(Own {
            uid: PodUid::parse(UID)?,
            events: Label::parse("container", STREAM)?,
            runs: Label::parse("container", RUNS)?,
            node: NodeName::parse(UID)?,
        })
    }

    fn source(&self, environment: &EnvironmentKey, stream: Stream) -> Source {
        let EnvironmentKey { namespace, name } = environment;
        let container = match stream {
            Stream::Events => &self.events,
            Stream::Runs => &self.runs,
        };
        Source {
            namespace: namespace.clone(),
            pod: format!("{}.{}", name.project, name.environment).into(),
            uid: self.uid.clone(),
            container: container.clone(),
        }
    }

    fn claim(&self, environment: &EnvironmentKey) -> Claim {
        Claim {
            environment: environment.clone(),
            node: self.node.clone(),
            instance: INSTANCE.into(),
            stream_prefix: "".into(),
        }
    }
}

/// Whether a source is one of events. No agent may send one.
pub(crate) fn is_source(source: &Source) -> bool {
    source.uid.as_str() == UID
}

/// The stream of a source, if it is one of events.
pub(crate) fn stream_of(source: &Source) -> Option<Stream> {
    is_source(source).then(|| if source.container.as_str() == RUNS { Stream::Runs } else { Stream::Events })
}
