//! Kubernetes: environments are objects of a custom resource, instances are pods.
//!
//! This file watches both, and the runs of tasks, and publishes what it knows; every replica does. The controller, which one of them runs, makes
//! workloads of environments; the platform takes changes.
//!
//! * Only facts are kept, a few hundred bytes a pod; Kubernetes' objects are dropped as they arrive.
//! * An object that cannot be decoded or is labelled wrongly is left out, said once, and stops nothing.
//! * A broken watch is tried again for ever, with backoff; meanwhile what was known last stays published.

mod access;
mod attempt;
mod changes;
mod children;
mod controller;
mod cron;
#[cfg(test)]
mod definition;
mod deletion;
mod deployment;
mod desired;
mod done;
mod facts;
mod failures;
#[cfg(test)]
mod fake;
mod lease;
mod next;
mod notices;
mod objects;
mod outcome;
mod pods;
mod probes;
mod queue;
mod reconcile;
mod registration;
mod resource;
mod rules;
mod tell;
mod told;
mod watches;
mod workloads;

pub use changes::Kubernetes;
pub use desired::ClusterOptions;
pub use registration::MetricsApi;

use crate::auth::FrontProxies;
use crate::event;
use crate::inventory::Inventory;
use crate::tls::Authority;
use controller::Controller;
use cron::{ByEnvironment, Jobs, TASK_LABEL, WatchedJob, job_resource};
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use lease::{Lease, while_held};
use objects::{Environments, Objects, WatchedEnvironment, deleted_by};
use pods::Pods;
use probes::{Failed, failed_of};
use registration::{Installation, Registrar};
use resource::{MANAGED_BY, MANAGER};
use skpr_proto::Label;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tell::Teller;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use watches::{Line, follow, labelled};

/// The labels that put a pod into an environment.
pub const PROJECT_LABEL: &str = "skpr.io/project";
pub const ENVIRONMENT_LABEL: &str = "skpr.io/environment";

/// The release that a pod belongs to.
pub(crate) const RELEASE_LABEL: &str = "skpr.io/release";
/// On a pod of an environment that must not be broken lightly.
const PRODUCTION_LABEL: &str = "skpr.io/production";

/// How often time alone may change what is published.
const TICK: Duration = Duration::from_secs(2);
/// The first change is published at once and those that follow together: an inventory of 10,000 pods is rebuilt whole.
const PUBLISH_EVERY: Duration = Duration::from_millis(250);
/// Changes that wait to be taken: a pod as it arrives has some 10 KiB, so a full queue holds 2.5 MiB. A full queue makes
/// the watches wait, and with them the API server.
const CHANGES: usize = 256;

type WatchedPod = DeserializeGuard<core::Pod>;

/// What the watches hear.
enum Change {
    Pod(Box<watcher::Result<Event<WatchedPod>>>),
    Environment(Box<watcher::Result<Event<WatchedEnvironment>>>),
    Job(Box<watcher::Result<Event<WatchedJob>>>),
    Failed(Failed),
}

/// Where what is known goes.
struct Outputs {
    inventory: watch::Sender<Arc<Inventory>>,
    /// For the controller, which also has to know what cannot be read.
    objects: watch::Sender<Arc<Objects>>,
    /// Whether the environments have been listed: until then one that is missing may exist.
    known: Arc<AtomicBool>,
    events: event::Sender,
}

/// How skpr is to work in this cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// The aggregator's own namespace, where its lease is.
    pub namespace: Label,
    pub lease: String,
    /// Who holds the lease: the same after a restart.
    pub identity: String,
    /// The namespace of a new environment, with `{project}` and `{environment}`.
    pub home: String,
    pub create_namespaces: bool,
    pub cluster: ClusterOptions,
    pub metrics_api: MetricsApi,
    /// The Service in the aggregator's namespace that leads to its monitoring port.
    pub monitoring_service: String,
}

/// What runs beside the platform.
pub struct Runner {
    client: Client,
    options: Arc<Options>,
    out: Outputs,
}

/// The platform, and what has to run for it.
pub fn prepare(
    client: Client,
    options: Options,
    inventory: watch::Sender<Arc<Inventory>>,
    events: event::Sender,
) -> (Kubernetes, Runner) {
    let options = Arc::new(options);
    let objects = watch::Sender::new(Arc::default());
    let known = Arc::new(AtomicBool::new(false));
    let platform =
        Kubernetes { client: client.clone(), options: Arc::clone(&options), known: Arc::clone(&known) };
    (platform, Runner { client, options, out: Outputs { inventory, objects, known, events } })
}

impl Runner {
    /// Watches the cluster, and looks after environments and the registration of `metrics.k8s.io` while the lease is held,
    /// until `stop`. The API server is to recognise this aggregator by `authority`, and is recognised by `front_proxies`.
    pub async fn run(
        self,
        authority: Authority,
        front_proxies: FrontProxies,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let Runner { client, options, out } = self;
        let leases = Api::namespaced(client.clone(), options.namespace.as_str());
        let lease = Lease::new(leases, options.lease.clone(), options.identity.clone());
        let (believed, until) = watch::channel(None);
        let registrar = Registrar {
            client: client.clone(),
            metrics_api: options.metrics_api,
            here: Installation {
                namespace: options.namespace.clone(),
                service: options.monitoring_service.clone(),
            },
            authority,
            front_proxies,
            inventory: out.inventory.subscribe(),
        };
        let controller = Controller {
            client: client.clone(),
            options,
            inventory: out.inventory.subscribe(),
            objects: out.objects.subscribe(),
            events: out.events.clone(),
        };
        let lead = async || {
            tokio::select! {
                result = controller.clone().lead() => result,
                result = registrar.clone().look_after() => result,
            }
        };
        // All of them end together, the lease last: it is given back when nobody writes any more.
        let working = CancellationToken::new();
        let work = async {
            tokio::select! {
                result = watch(client, out, stop.clone()) => result,
                result = while_held(until, stop.clone(), lead) => result,
            }
        };
        let work = async {
            let result = work.await;
            working.cancel();
            result
        };
        let (result, ()) = tokio::join!(work, lease.hold(believed, working.clone()));
        result
    }
}

/// Publishes what is in the cluster until `stop`. A cluster that does not answer is no error: it makes the inventory
/// stale.
async fn watch(client: Client, out: Outputs, stop: CancellationToken) -> anyhow::Result<()> {
    let (sender, mut changes) = mpsc::channel(CHANGES);
    let mut tasks = JoinSet::new();
    let pods = labelled(&format!("{PROJECT_LABEL},{ENVIRONMENT_LABEL}"));
    tasks.spawn(follow(
        Api::all(client.clone()),
        pods,
        |event| Some(Change::Pod(Box::new(event))),
        sender.clone(),
    ));
    let environments = labelled("");
    let to = |event| Some(Change::Environment(Box::new(event)));
    tasks.spawn(follow(Api::all(client.clone()), environments, to, sender.clone()));
    // Made of their CronJobs' template, they carry its labels.
    let runs = labelled(&format!("{MANAGED_BY}={MANAGER},{TASK_LABEL}"));
    let jobs: Api<WatchedJob> = Api::all_with(client.clone(), &job_resource());
    tasks.spawn(follow(jobs, runs, |event| Some(Change::Job(Box::new(event))), sender.clone()));
    let failed = labelled("").fields(&format!("reason={}", probes::REASON));
    let to = |event: watcher::Result<Event<core::Event>>| match event {
        Ok(Event::Apply(event) | Event::InitApply(event)) => failed_of(&event).map(Change::Failed),
        Ok(Event::Init | Event::InitDone | Event::Delete(_)) | Err(_) => None,
    };
    tasks.spawn(follow(Api::all(client), failed, to, sender));

    let mut watch = Watch::new(out);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut burst = Vec::new();
    loop {
        let due = watch.due(Instant::now());
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            ended = tasks.join_next() => {
                return match ended {
                    Some(Ok(Err(error))) => Err(error),
                    Some(Err(error)) => Err(error.into()),
                    Some(Ok(Ok(()))) | None => Err(anyhow::anyhow!("a watch ended by itself")),
                };
            }
            _ = changes.recv_many(&mut burst, CHANGES) => burst.drain(..).for_each(|change| watch.take(change)),
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            _ = tick.tick() => watch.pass_time(),
        }
        watch.publish();
    }
}

struct Watch {
    pods: Pods,
    environments: Environments,
    jobs: Jobs,
    pods_line: Line,
    environments_line: Line,
    jobs_line: Line,
    dirty: bool,
    published: Option<Instant>,
    out: Outputs,
    teller: Teller,
}

impl Watch {
    fn new(out: Outputs) -> Self {
        Watch {
            pods: Pods::default(),
            environments: Environments::default(),
            jobs: Jobs::default(),
            pods_line: Line::default(),
            environments_line: Line::default(),
            jobs_line: Line::default(),
            dirty: false,
            published: None,
            teller: Teller::new(out.events.clone()),
            out,
        }
    }

    fn take(&mut self, change: Change) {
        match change {
            Change::Pod(event) => match *event {
                Ok(event) => {
                    self.pods_line.heard(&event);
                    self.dirty |= self.pods.take(event, Instant::now());
                }
                Err(error) => self.pods_line.broke("pods", &error),
            },
            Change::Environment(event) => match *event {
                Ok(event) => {
                    self.environments_line.heard(&event);
                    if let Some((key, uid, by)) = deleted_by(&event) {
                        // Before the controller, which tells of the same without knowing by whom.
                        let at = Timestamp::now();
                        self.teller.tell([told::deleted(&key, &uid, Some(&by), at)], at);
                    }
                    self.dirty |= self.environments.take(event);
                }
                Err(error) => self.environments_line.broke("environments", &error),
            },
            Change::Job(event) => match *event {
                Ok(event) => {
                    self.jobs_line.heard(&event);
                    self.dirty |= self.jobs.take(event);
                }
                Err(error) => self.jobs_line.broke("jobs", &error),
            },
            Change::Failed(failed) => self.dirty |= self.pods.take_failed(&failed),
        }
    }

    fn pass_time(&mut self) {
        self.dirty |= self.pods.expire(Instant::now());
        self.teller.flush();
    }

    /// When what has changed is to be published. Half a list says less than none, and is not.
    fn due(&self, now: Instant) -> Option<Instant> {
        let next = self.published.map_or(now, |last| last + PUBLISH_EVERY);
        (self.dirty && self.heard(now)).then_some(next)
    }

    /// Whether anything can be said. Environments that cannot be listed for long keep nobody from the logs of what runs.
    fn heard(&self, now: Instant) -> bool {
        self.pods.heard() && (self.environments.heard() || self.environments_line.lasting(now).is_some())
    }

    /// The runs; none while their pods are not known as they are: how a run ended is said for good, and its pod says it.
    fn runs(&self, now: Instant) -> Option<ByEnvironment> {
        let are_pods_known = self.pods.heard() && self.pods_line.lasting(now).is_none();
        are_pods_known.then(|| self.jobs.seen(self.pods.all())).flatten()
    }

    fn publish(&mut self) {
        let now = Instant::now();
        self.teller.tell(self.pods.told(), Timestamp::now());
        let stale = self.pods_line.is_stale(now) | self.environments_line.is_stale(now);
        let due = self.due(now).is_some_and(|due| due <= now);
        if !due && self.out.inventory.borrow().stale == stale {
            return;
        }
        let is_known = self.environments.heard() || self.environments_line.is_unknown(now);
        self.out.known.store(is_known, Ordering::Relaxed);
        (self.dirty, self.published) = (false, Some(now));
        self.environments.take_runs(self.runs(now), Timestamp::now());
        let inventory = self.pods.inventory(self.environments.states());
        self.out.objects.send_replace(Arc::new(self.environments.objects()));
        self.out.inventory.send_replace(Arc::new(Inventory { stale, heard: self.heard(now), ..inventory }));
    }
}

#[cfg(test)]
mod tests;
