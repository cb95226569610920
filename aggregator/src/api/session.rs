//! `Open`: a session with one instance. A disconnect ends it.
//!
//! The agent of the instance's node serves it. Only where that does not, and the installation allows it, does the
//! aggregator: what the caller, the audit and the events see is the same.

use super::reading::forbidden;
use super::seats::Seat;
use super::target::{Target, heard};
use crate::agents::Reach;
use crate::aggregator::Shared;
use crate::audit::Access;
use crate::auth::{Candidates, Exec, Files, Grant, User};
use crate::environment::EnvironmentKey;
use crate::fallback;
use crate::host_key::HostKey;
use crate::inventory::{Inventory, Pod};
use crate::relay::{Call, Expected, FIRST_WITHIN, Told, new_id};
use crate::tls::{HangUp, connection};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use skpr_proto::error::usage;
use skpr_proto::manifest::Volume;
use skpr_proto::v1::{self, Dial, OpenSession, OpenedSession, SessionRequest, SessionResponse};
use skpr_proto::{EnvironmentName, ErrorKind, Failure, Label, NodeName, PodUid, Purpose};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::time::timeout;
use tonic::{Request, Status, Streaming};

pub(super) type Opened = BoxStream<'static, Result<SessionResponse, Status>>;

pub(super) async fn open(
    shared: &Arc<Shared>,
    request: Request<Streaming<SessionRequest>>,
    mut access: Access,
) -> Result<Opened, Status> {
    match prepare(shared, request, &mut access).await {
        Ok(prepared) => prepared.join(shared, access).await,
        Err(failure) => Err(access.failed(failure)),
    }
}

/// A session that may be, with an instance that is there.
struct Prepared {
    user: Arc<User>,
    grant: Granted,
    purpose: Purpose,
    chosen: Chosen,
    volumes: HashMap<String, String>,
    bytes: Streaming<SessionRequest>,
    connection: HangUp,
    seat: Seat,
}

/// The right that a session takes.
enum Granted {
    Exec(Grant<Exec>),
    Files(Grant<Files>),
}

impl Granted {
    async fn ask(
        shared: &Shared,
        purpose: Purpose,
        user: &Arc<User>,
        name: &EnvironmentName,
        candidates: &Candidates,
    ) -> Result<Granted, Failure> {
        Ok(match purpose {
            Purpose::Ssh => Granted::Exec(shared.auth.grant(user, name, candidates).await?),
            Purpose::Files => Granted::Files(shared.auth.grant(user, name, candidates).await?),
        })
    }

    fn environment(&self) -> &EnvironmentKey {
        match self {
            Granted::Exec(grant) => grant.environment(),
            Granted::Files(grant) => grant.environment(),
        }
    }

    /// Resolves when it is gone.
    fn forbidden(self, shared: &Arc<Shared>) -> BoxFuture<'static, Failure> {
        match self {
            Granted::Exec(grant) => forbidden(Arc::clone(shared), grant),
            Granted::Files(grant) => forbidden(Arc::clone(shared), grant),
        }
    }
}

async fn prepare(
    shared: &Arc<Shared>,
    request: Request<Streaming<SessionRequest>>,
    access: &mut Access,
) -> Result<Prepared, Failure> {
    let user = super::caller(shared, request.metadata(), access).await?;
    let connection = connection(&request);
    let mut bytes = request.into_inner();
    let first = timeout(FIRST_WITHIN, bytes.message()).await;
    let Ok(Ok(Some(SessionRequest { open: Some(asked), .. }))) = first else {
        return Err(usage("the first message does not say what to open"));
    };
    let target = Target::parse(asked.environment.as_ref())?;
    access.asked(target.name.to_string());
    let purpose = Purpose::parse(&asked.purpose);
    let purpose = purpose.ok_or_else(|| usage("sessions are for no such purpose here"))?;
    let inventory = heard(shared)?;
    let candidates = target.listed(&inventory);
    let grant = Granted::ask(shared, purpose, &user, &target.name, &candidates).await?;
    access.allowed(Some(grant.environment()));
    let chosen = choose(&inventory, grant.environment(), &asked)?;
    access.session(chosen.instance.to_string(), purpose.name());
    let volumes = volumes(&inventory, grant.environment(), purpose);
    let seat = shared.session_seats.take(&user.name)?;
    Ok(Prepared { user, grant, purpose, chosen, volumes, bytes, connection, seat })
}

impl Prepared {
    async fn join(self, shared: &Arc<Shared>, mut access: Access) -> Result<Opened, Status> {
        let Prepared { user, grant, purpose, chosen, volumes, bytes, connection, seat } = self;
        let environment = grant.environment().clone();
        let key = match shared.host_keys.of(&environment) {
            Ok(key) => key,
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "there is no host key");
                let failure = Failure::new(ErrorKind::Failed, "the aggregator has no host key for it");
                return Err(access.failed(failure));
            }
        };
        let served = match instead(purpose, shared.nodes.reach(&chosen.node), shared.fallback.as_ref()) {
            Some(fallback) => fallback.take(seat.clone()).and_then(|place| {
                let id = new_id()?;
                Ok(By::Aggregator { fallback, place, id })
            }),
            None => dial(shared, purpose, &environment.name, &chosen, &key).map(By::Agent),
        };
        let served = match served {
            Ok(served) => served,
            Err(failure) => return Err(access.failed(failure)),
        };
        access.session_is(served.id().to_owned());
        let first = OpenedSession {
            environment: Some(v1::Environment {
                namespace: Some(environment.namespace.to_string()),
                ..(&environment.name).into()
            }),
            instance: chosen.instance.to_string(),
            version: chosen.version.to_string(),
            instances: chosen.ready,
            production: chosen.production,
            host_key: key.public().to_owned(),
            volumes,
        };
        let forbidden = grant.forbidden(shared);
        let told = Told {
            to: shared.tell.clone(),
            environment: environment.clone(),
            instance: chosen.instance.to_string(),
            by: user.name.clone(),
            session: served.id().to_owned(),
        };
        let (counts, stop) = (shared.metrics.sessions.clone(), shared.stopping.ending.clone());
        let call = Call { access, connection, seat, forbidden, told, counts, stop };
        let first = SessionResponse { opened: Some(first), ..SessionResponse::default() };
        match served {
            By::Agent(expected) => Ok(expected.join(bytes, call, first).await?),
            By::Aggregator { fallback, place, .. } => {
                let Chosen { uid, instance, container, .. } = chosen;
                let instance = fallback::Instance { uid, environment, name: instance, container };
                let (here, to_caller) = shared.relay.join_here(bytes, call, first);
                fallback.serve(instance, &key, here, place).await;
                Ok(to_caller)
            }
        }
    }
}

/// Who serves a session.
enum By<'a> {
    Agent(Expected),
    Aggregator { fallback: &'a fallback::Fallback, place: fallback::Place, id: String },
}

impl By<'_> {
    /// What the session is called.
    fn id(&self) -> &str {
        match self {
            By::Agent(expected) => expected.id(),
            By::Aggregator { id, .. } => id,
        }
    }
}

/// What serves a session instead of an agent: nothing where the agent does. Without it, the agent is asked all the same
/// and says why not. Only agents serve transfers of files.
fn instead<T>(purpose: Purpose, agent: Reach, fallback: Option<T>) -> Option<T> {
    match (purpose, agent) {
        (Purpose::Files, _) | (Purpose::Ssh, Reach::Serves) => None,
        (Purpose::Ssh, Reach::CannotServe | Reach::Away) => fallback,
    }
}

/// Asks the node's agent.
fn dial(
    shared: &Shared,
    purpose: Purpose,
    name: &EnvironmentName,
    chosen: &Chosen,
    key: &HostKey,
) -> Result<Expected, Failure> {
    let expected = shared.relay.expect(&chosen.node)?;
    let dial = Dial {
        session: expected.id().to_owned(),
        purpose: purpose.name().to_owned(),
        target: chosen.uid.as_str().to_owned(),
        container: chosen.container.as_str().to_owned(),
        host_key: key.seed().to_vec().into(),
        project: name.project.as_str().to_owned(),
        environment: name.environment.as_str().to_owned(),
        instance: chosen.instance.to_string(),
    };
    shared.nodes.dial(&chosen.node, dial)?;
    Ok(expected)
}

/// Where the environment's volumes are in an instance, for a transfer that names one.
fn volumes(inventory: &Inventory, key: &EnvironmentKey, purpose: Purpose) -> HashMap<String, String> {
    let managed = inventory.environments.get(key).and_then(|state| state.managed.as_ref());
    let volumes = managed.filter(|_| purpose == Purpose::Files).and_then(|it| it.settings.volumes.as_ref());
    let place = |(name, volume): (&Label, &Volume)| (name.to_string(), volume.path.to_string());
    volumes.into_iter().flatten().map(place).collect()
}

/// The instance that a session is with.
#[derive(Debug, PartialEq, Eq)]
struct Chosen {
    uid: PodUid,
    node: NodeName,
    instance: Arc<str>,
    container: Label,
    version: Arc<str>,
    production: bool,
    ready: u32,
}

/// The one that is asked for, else the newest that is ready. One that was asked to end is nobody's choice.
fn choose(inventory: &Inventory, key: &EnvironmentKey, asked: &OpenSession) -> Result<Chosen, Failure> {
    let present = |pod: &Pod| pod.environment == *key && pod.is_instance();
    let all = inventory.pods.iter().map(|(uid, pod)| (uid, &**pod));
    let (leaving, pods): (Vec<_>, Vec<_>) =
        all.filter(|(_, pod)| present(pod)).partition(|(_, pod)| pod.detail.leaving);
    let name = &key.name;
    let hint = format!("skpr info {name}");
    let (uid, pod) = match &asked.instance {
        Some(wanted) => pods.iter().find(|(_, pod)| *pod.instance == **wanted).ok_or_else(|| {
            let wanted: String = wanted.chars().take(100).flat_map(char::escape_debug).collect();
            if leaving.iter().any(|(_, pod)| *pod.instance == *wanted) {
                let message = format!("the instance `{wanted}` of `{name}` is being ended");
                return Failure::new(ErrorKind::Unavailable, message).with_hint(hint);
            }
            Failure::new(ErrorKind::NotFound, format!("`{name}` has no instance `{wanted}`")).with_hint(hint)
        })?,
        None => {
            let ready = pods.iter().filter(|(_, pod)| pod.ready);
            ready.max_by_key(|(uid, pod)| (pod.detail.created, uid.as_str())).ok_or_else(|| {
                let message = format!("`{name}` has no instance that is ready");
                let newest = pods.iter().max_by_key(|(uid, pod)| (pod.detail.created, uid.as_str()));
                let newest =
                    newest.map(|(_, pod)| format!(", or into one that is not: --instance {}", pod.instance));
                Failure::new(ErrorKind::Unavailable, message)
                    .with_hint(format!("{hint}{}", newest.unwrap_or_default()))
            })?
        }
    };
    let node = pod.node.clone().ok_or_else(|| {
        Failure::new(ErrorKind::Unavailable, format!("`{}` is on no node yet", pod.instance))
    })?;
    Ok(Chosen {
        uid: PodUid::clone(uid),
        node,
        instance: Arc::clone(&pod.instance),
        container: pod.main_container.clone(),
        version: Arc::clone(&pod.version),
        production: pod.production,
        ready: u32::try_from(pods.iter().filter(|(_, pod)| pod.ready).count()).unwrap_or(u32::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::tests::key;
    use crate::inventory::{Detail, Presence};
    use std::collections::BTreeMap;

    fn pod(instance: &str, created: i64, ready: bool) -> Pod {
        let created = jiff::Timestamp::from_second(created).unwrap();
        Pod {
            environment: key("sites", "shop", "prod"),
            node: Some(NodeName::parse("n1").unwrap()),
            instance: instance.into(),
            main_container: Label::parse("container", "php").unwrap(),
            task: None,
            labels: Default::default(),
            containers: Default::default(),
            version: "1.0".into(),
            ready,
            production: false,
            presence: Presence::Present,
            detail: Detail { created: Some(created), ..Detail::default() },
        }
    }

    #[test]
    fn an_agent_that_can_serve_is_preferred_and_without_a_fallback_is_asked_in_any_case() {
        for (agent, expected) in
            [(Reach::Serves, None), (Reach::CannotServe, Some("here")), (Reach::Away, Some("here"))]
        {
            assert_eq!(instead(Purpose::Ssh, agent, Some("here")), expected, "{agent:?}");
            assert_eq!(instead(Purpose::Ssh, agent, None::<&str>), None, "{agent:?}");
            assert_eq!(instead(Purpose::Files, agent, Some("here")), None, "{agent:?}");
        }
    }

    #[test]
    fn the_newest_ready_instance_is_chosen_unless_another_is_named() {
        let mut leaving = pod("leaving", 9, true);
        leaving.detail.leaving = true;
        let mut foreign = pod("foreign", 9, true);
        foreign.environment = key("sites", "blog", "prod");
        let mut run = pod("run", 9, true);
        run.task = Some(Label::parse("task", "drush").unwrap());
        let pods = [
            ("u1", pod("older", 1, true)),
            ("u2", pod("newer", 2, true)),
            ("u3", pod("starting", 3, false)),
            ("u4", leaving),
            ("u5", foreign),
            ("u6", run),
        ];
        let pods = pods.into_iter().map(|(uid, pod)| (PodUid::parse(uid).unwrap(), pod)).collect();
        let inventory = Inventory::of(pods, &BTreeMap::new());
        let choose = |instance: Option<&str>| {
            let asked = OpenSession { instance: instance.map(str::to_owned), ..OpenSession::default() };
            choose(&inventory, &key("sites", "shop", "prod"), &asked)
        };
        let newest = choose(None).unwrap();
        assert_eq!((&*newest.instance, newest.ready), ("newer", 2));
        for named in ["older", "starting"] {
            assert_eq!(&*choose(Some(named)).unwrap().instance, named);
        }
        let failure = choose(Some("leaving")).unwrap_err();
        assert_eq!(failure.kind, ErrorKind::Unavailable);
        assert!(failure.message.contains("is being ended"), "{failure:?}");
        for missing in ["gone", "foreign", "run", "\u{1b}"] {
            let failure = choose(Some(missing)).unwrap_err();
            assert_eq!(failure.kind, ErrorKind::NotFound, "{missing}");
            assert!(!failure.message.contains('\u{1b}'));
        }
        let none = Inventory::of(Default::default(), &BTreeMap::new());
        let asked = OpenSession::default();
        let failure = super::choose(&none, &key("sites", "shop", "prod"), &asked).unwrap_err();
        assert_eq!(failure.kind, ErrorKind::Unavailable);
    }
}
