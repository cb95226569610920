//! What a platform says runs: environments, their instances, and which pods each node may send records of.
//!
//! * A value: built whole from facts about pods, published whole, never changed in place.
//! * Who may send a source's records is decided by the pod's UID, and its namespace and name must agree: a label or an
//!   annotation can only ever speak for a pod of the namespace that it stands in.
//! * A pod that is gone is still claimed for a while, because its last lines are still being read.

use crate::environment::{Claim, EnvironmentKey};
use crate::release::Release;
use crate::run::TaskState;
use jiff::Timestamp;
use skpr_proto::{Label, NodeName, PodUid, Source, manifest};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Everything that a platform knows at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inventory {
    pub environments: BTreeMap<EnvironmentKey, EnvironmentState>,
    /// Shared with the inventory before: of a large cluster, one that changes is nearly the same.
    pub pods: HashMap<PodUid, Arc<Pod>>,
    /// The same by node: every node asks at every change.
    pub(crate) nodes: HashMap<NodeName, BTreeSet<PodUid>>,
    /// Those that are runs of tasks and are present, which are among the instances of no environment.
    pub(crate) runs: BTreeSet<PodUid>,
    /// The first full list has arrived. Until then an absent pod means nothing.
    pub heard: bool,
    /// The platform has not answered for a while: what is here may be old.
    pub stale: bool,
}

/// What is asked for an environment, where the platform knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub production: bool,
    /// Instances at least; 0 when it is not known.
    pub minimum: u32,
    /// Instances at most; 0 when it is not known.
    pub maximum: u32,
}

/// An environment and the instances that exist now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EnvironmentState {
    pub wanted: Wanted,
    pub instances: BTreeMap<Arc<str>, InstanceState>,
    /// What was deployed through skpr; none when somebody else looks after the environment.
    pub managed: Option<Arc<Managed>>,
}

/// An environment that skpr looks after: what is asked for, and how it goes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Managed {
    pub image: Option<String>,
    pub version: String,
    /// As wanted now: the newest release's, and what was changed since.
    pub settings: manifest::Environment,
    /// Oldest first, at most [`KEPT`](crate::release::KEPT).
    pub releases: Vec<Release>,
    /// Why the platform does not do what is asked, in one sentence.
    pub trouble: Option<String>,
    /// What the open release waits for, in one sentence.
    pub waiting_for: Option<String>,
    /// Instances that are to run now: between minimum and maximum.
    pub target: u32,
    pub deleting: bool,
    /// When it was made, and the domains that lead to it: where the platform knows.
    pub created: Option<Timestamp>,
    pub serves: Vec<manifest::Domain>,
    /// The tasks of its settings, each with what is known of it.
    pub tasks: BTreeMap<Label, TaskState>,
}

/// An instance as `skpr list` and `skpr info` show it, and as a release is judged by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceState {
    pub version: Arc<str>,
    pub ready: bool,
    pub node: Option<NodeName>,
    pub detail: Detail,
}

/// How an instance is, beyond being ready.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detail {
    /// The release that it belongs to.
    pub release: Option<u64>,
    pub created: Option<Timestamp>,
    /// When its process was started last.
    pub started: Option<Timestamp>,
    pub restarts: u32,
    pub out_of_memory_kills: u32,
    /// It was asked to end.
    pub leaving: bool,
    /// What keeps it from running, as the platform calls it: `CrashLoopBackOff`, `ImagePullBackOff`.
    pub waiting: Option<Arc<str>>,
    /// What the platform says to it.
    pub message: Option<Arc<str>>,
    /// How its process ended last.
    pub end: Option<End>,
    /// The digest of the image that it runs, or its commit.
    pub digest: Option<Arc<str>>,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    pub at: Option<Timestamp>,
    /// 128 + N for signal N.
    pub exit_code: i32,
    /// `Error`, `OOMKilled`, `Completed`.
    pub reason: Option<Arc<str>>,
}

/// How the streams of tasks' runs begin: `cron.TASK.stdout`.
pub const RUN_STREAMS: &str = "cron";

/// A pod's labels in Kubernetes.
pub type Labels = BTreeMap<String, String>;

/// One pod, as far as records and `skpr list` need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub environment: EnvironmentKey,
    /// Where it runs; none before it is scheduled.
    pub node: Option<NodeName>,
    /// The pod's name, which is the instance's.
    pub instance: Arc<str>,
    /// The container whose outputs are simply `stdout` and `stderr`.
    pub main_container: Label,
    /// The task of which it is a run: then it is no instance, and its outputs are named after the task.
    pub task: Option<Label>,
    /// What it is selected by; pods that are alike share one map. Empty when it is not known.
    pub labels: Arc<Labels>,
    /// Its containers, by the runtime's id. Empty when the pod is all that is told apart.
    pub containers: Containers,
    pub version: Arc<str>,
    pub ready: bool,
    pub production: bool,
    pub presence: Presence,
    pub detail: Detail,
}

/// A container of a pod, as the platform last heard of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    pub name: Label,
    pub running: bool,
}

/// The containers of a pod, each with its id, in the order of ids. Nearly every pod has one or two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Containers(Box<[(Arc<str>, Container)]>);

impl Containers {
    pub fn get(&self, id: &str) -> Option<&(Arc<str>, Container)> {
        self.0.iter().find(|(known, _)| **known == *id)
    }

    pub fn iter(&self) -> std::slice::Iter<'_, (Arc<str>, Container)> {
        self.0.iter()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(Arc<str>, Container)> for Containers {
    /// Of one id the last counts.
    fn from_iter<T: IntoIterator<Item = (Arc<str>, Container)>>(containers: T) -> Containers {
        let by_id: BTreeMap<Arc<str>, Container> = containers.into_iter().collect();
        Containers(by_id.into_iter().collect())
    }
}

/// Whether a pod counts as an instance. Its records are accepted in each of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It runs, starts or stops.
    Present,
    /// It has come to its end and stays listed, as the pods of Jobs do.
    Finished,
    /// It was deleted.
    Gone,
}

impl Pod {
    /// Whether it is an instance that is there, and no run of a task: whoever may enter the one need not be let into the other.
    pub(crate) fn is_instance(&self) -> bool {
        self.presence == Presence::Present && self.task.is_none()
    }

    /// Nothing of it runs any more. One that was deleted by force, or whose node went, may still run there.
    fn has_ended(&self) -> bool {
        self.presence != Presence::Present && !self.containers.iter().any(|(_, container)| container.running)
    }
}

impl EnvironmentState {
    /// Those that were not asked to end: an old one on its way out makes nothing of the new.
    pub fn staying(&self) -> impl Iterator<Item = &InstanceState> {
        self.instances.values().filter(|instance| !instance.detail.leaving)
    }

    pub fn ready(&self) -> usize {
        self.staying().filter(|instance| instance.ready).count()
    }

    /// The versions that run; more than one while a new one is rolled out.
    pub fn versions(&self) -> BTreeSet<Arc<str>> {
        self.staying().map(|instance| Arc::clone(&instance.version)).collect()
    }
}

impl Inventory {
    /// Puts pods into their environments. `wanted` holds environments that exist even with no instance.
    pub fn of(pods: HashMap<PodUid, Pod>, wanted: &BTreeMap<EnvironmentKey, Wanted>) -> Inventory {
        let environments = wanted
            .iter()
            .map(|(key, wanted)| {
                (key.clone(), EnvironmentState { wanted: *wanted, ..EnvironmentState::default() })
            })
            .collect();
        Inventory::with(pods.into_iter().map(|(uid, pod)| (uid, Arc::new(pod))).collect(), environments)
    }

    /// Puts pods into their environments, of which these exist in any case.
    pub fn with(
        pods: HashMap<PodUid, Arc<Pod>>,
        mut environments: BTreeMap<EnvironmentKey, EnvironmentState>,
    ) -> Inventory {
        let mut runs = BTreeSet::new();
        for (uid, pod) in pods.iter().filter(|(_, pod)| pod.presence == Presence::Present) {
            if pod.task.is_some() {
                runs.insert(uid.clone());
                continue;
            }
            let state = environments.entry(pod.environment.clone()).or_default();
            state.wanted.production |= pod.production;
            let instance = InstanceState {
                version: Arc::clone(&pod.version),
                ready: pod.ready,
                node: pod.node.clone(),
                detail: pod.detail.clone(),
            };
            state.instances.insert(Arc::clone(&pod.instance), instance);
        }
        let mut nodes: HashMap<NodeName, BTreeSet<PodUid>> = HashMap::new();
        for (uid, pod) in &pods {
            if let Some(node) = &pod.node {
                nodes.entry(node.clone()).or_default().insert(uid.clone());
            }
        }
        Inventory { environments, pods, nodes, runs, heard: true, stale: false }
    }

    /// The pods whose records `node` is to send.
    pub fn claims_of(&self, node: &NodeName) -> BTreeSet<PodUid> {
        self.nodes.get(node).cloned().unwrap_or_default()
    }

    /// Of these the ones in which nothing runs any more.
    pub fn ended_of(&self, node: &NodeName) -> BTreeSet<PodUid> {
        let has_ended = |uid: &PodUid| self.pods.get(uid).is_some_and(|pod| pod.has_ended());
        self.nodes.get(node).into_iter().flatten().filter(|uid| has_ended(uid)).cloned().collect()
    }

    /// Whose records a source holds; none when no pod here stands for it.
    pub fn claim(&self, source: &Source) -> Option<Claim> {
        let pod = self.pods.get(&source.uid)?;
        if pod.environment.namespace != source.namespace || pod.instance != source.pod {
            return None;
        }
        let container = Some(&source.container).filter(|container| **container != pod.main_container);
        let stream_prefix = match (&pod.task, container) {
            (None, None) => "".into(),
            (None, Some(container)) => format!("{container}.").into(),
            (Some(task), None) => format!("{RUN_STREAMS}.{task}.").into(),
            (Some(task), Some(container)) => format!("{RUN_STREAMS}.{task}.{container}.").into(),
        };
        Some(Claim {
            environment: pod.environment.clone(),
            node: pod.node.clone()?,
            instance: Arc::clone(&pod.instance),
            stream_prefix,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use skpr_proto::EnvironmentName;

    pub(crate) fn key(namespace: &str, project: &str, environment: &str) -> EnvironmentKey {
        EnvironmentKey {
            namespace: Label::parse("namespace", namespace).unwrap(),
            name: EnvironmentName {
                project: Label::parse("project", project).unwrap(),
                environment: Label::parse("environment", environment).unwrap(),
            },
        }
    }

    pub(crate) fn pod(instance: &str, node: Option<&str>) -> Pod {
        Pod {
            environment: key("sites", "shop", "prod"),
            node: node.map(|node| NodeName::parse(node).unwrap()),
            instance: instance.into(),
            main_container: Label::parse("container", "php").unwrap(),
            task: None,
            labels: Default::default(),
            containers: Containers::default(),
            version: "1.0".into(),
            ready: true,
            production: false,
            presence: Presence::Present,
            detail: Detail::default(),
        }
    }

    fn inventory(pods: &[(&str, Pod)]) -> Inventory {
        let pods = pods.iter().map(|(uid, pod)| (PodUid::parse(uid).unwrap(), pod.clone())).collect();
        Inventory::of(pods, &BTreeMap::new())
    }

    #[test]
    fn a_node_claims_its_pods_and_no_others() {
        let inventory =
            inventory(&[("u1", pod("a", Some("n1"))), ("u2", pod("b", Some("n2"))), ("u3", pod("c", None))]);
        let claims = inventory.claims_of(&NodeName::parse("n1").unwrap());
        assert_eq!(claims.iter().map(PodUid::as_str).collect::<Vec<_>>(), ["u1"]);
        assert!(inventory.claims_of(&NodeName::parse("n3").unwrap()).is_empty());
    }

    #[test]
    fn a_claim_names_environment_instance_and_stream() {
        let inventory = inventory(&[("u1", pod("a", Some("n1"))), ("u3", pod("c", None))]);
        let source = |namespace, pod, uid, container| Source::parse(namespace, pod, uid, container).unwrap();
        let claim = inventory.claim(&source("sites", "a", "u1", "php")).unwrap();
        assert_eq!((&*claim.instance, &*claim.stream_prefix, claim.node.as_str()), ("a", "", "n1"));
        assert_eq!(claim.environment, key("sites", "shop", "prod"));
        assert_eq!(&*inventory.claim(&source("sites", "a", "u1", "proxy")).unwrap().stream_prefix, "proxy.");
        for other in [
            source("other", "a", "u1", "php"),
            source("sites", "b", "u1", "php"),
            source("sites", "a", "u2", "php"),
            source("sites", "c", "u3", "php"),
        ] {
            assert_eq!(inventory.claim(&other), None, "{other}");
        }
    }

    #[test]
    fn a_run_of_a_task_is_claimed_under_the_tasks_name_and_is_no_instance() {
        let run = |presence| {
            let task = Some(Label::parse("task", "drush-cron").unwrap());
            Pod { task, presence, production: true, ..pod("run-1", Some("n1")) }
        };
        let prefix = |inventory: &Inventory, container| {
            let source = Source::parse("sites", "run-1", "u1", container).unwrap();
            let claim = inventory.claim(&source).unwrap();
            assert_eq!(&*claim.instance, "run-1");
            claim.stream_prefix.to_string()
        };
        for presence in [Presence::Present, Presence::Finished, Presence::Gone] {
            let inventory = inventory(&[("u1", run(presence)), ("u2", pod("a", Some("n1")))]);
            assert_eq!(prefix(&inventory, "php"), "cron.drush-cron.");
            assert_eq!(prefix(&inventory, "proxy"), "cron.drush-cron.proxy.");
            assert_eq!(inventory.claims_of(&NodeName::parse("n1").unwrap()).len(), 2);
            let state = &inventory.environments[&key("sites", "shop", "prod")];
            assert_eq!(state.instances.keys().map(|name| &**name).collect::<Vec<_>>(), ["a"]);
            assert!(!state.wanted.production, "only instances say so");
            assert_eq!(inventory.runs.len(), usize::from(presence == Presence::Present));
        }
        // Alone it makes no environment.
        assert!(inventory(&[("u1", run(Presence::Present))]).environments.is_empty());
    }

    #[test]
    fn only_what_is_present_is_an_instance_and_all_is_claimed() {
        let mut finished = pod("b", Some("n1"));
        finished.presence = Presence::Finished;
        let mut gone = pod("c", Some("n1"));
        gone.presence = Presence::Gone;
        let mut starting = pod("d", Some("n1"));
        (starting.ready, starting.version, starting.production) = (false, "1.1".into(), true);
        let mut forced = pod("f", Some("n1"));
        let running = Container { name: forced.main_container.clone(), running: true };
        (forced.presence, forced.containers) =
            (Presence::Gone, [("id".into(), running)].into_iter().collect());
        let mut leaving = pod("e", Some("n1"));
        (leaving.version, leaving.detail.leaving) = ("0.9".into(), true);
        let inventory = inventory(&[
            ("u1", pod("a", Some("n1"))),
            ("u2", finished),
            ("u3", gone),
            ("u4", starting),
            ("u5", leaving),
            ("u6", forced),
        ]);
        let state = &inventory.environments[&key("sites", "shop", "prod")];
        assert_eq!(state.instances.keys().map(|name| &**name).collect::<Vec<_>>(), ["a", "d", "e"]);
        // One that leaves is still looked at, and counts no more.
        assert_eq!((state.ready(), state.staying().count()), (1, 2));
        assert_eq!((state.versions().len(), state.wanted.production), (2, true));
        let node = NodeName::parse("n1").unwrap();
        assert_eq!(inventory.claims_of(&node).len(), 6);
        assert_eq!(inventory.ended_of(&node).iter().map(PodUid::as_str).collect::<Vec<_>>(), ["u2", "u3"]);
    }

    #[test]
    fn an_environment_exists_with_no_instance() {
        let wanted = Wanted { production: true, minimum: 1, maximum: 2 };
        let inventory =
            Inventory::of(HashMap::new(), &BTreeMap::from([(key("local", "shop", "dev"), wanted)]));
        assert_eq!(inventory.environments[&key("local", "shop", "dev")].wanted, wanted);
        assert!(inventory.heard && !Inventory::default().heard);
    }
}
