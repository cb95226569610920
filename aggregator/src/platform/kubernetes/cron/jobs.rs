//! The Jobs of environments known from the watch. Takes events, gives the runs of each environment; no IO.

use super::job::{Job, JobObject, WatchedJob, facts_of, named};
use super::story::story;
use crate::environment::EnvironmentKey;
use crate::inventory::Pod;
use crate::run::Run;
use jiff::Timestamp;
use kube::core::{DeserializeGuard, ObjectMeta};
use kube::runtime::watcher::Event;
use skpr_proto::Label;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// On a pod: the Job that it is of.
const JOB_LABEL: &str = "batch.kubernetes.io/job-name";

/// A Job and its pod, as both were seen last.
#[derive(Clone, Debug)]
pub(in crate::platform::kubernetes) struct Seen {
    pub(super) job: Arc<Job>,
    pub(super) pod: Option<Arc<Pod>>,
}

impl PartialEq for Seen {
    /// All of them are compared at each change of one: nearly every time with themselves.
    fn eq(&self, other: &Seen) -> bool {
        let same_pod = match (&self.pod, &other.pod) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other) || one == other,
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        same_pod && (Arc::ptr_eq(&self.job, &other.job) || self.job == other.job)
    }
}

impl Seen {
    /// What is known of the run.
    pub(super) fn run(&self, now: Timestamp) -> Run {
        story(&self.job, self.pod.as_deref(), now)
    }
}

/// The runs of each environment, oldest first.
pub(in crate::platform::kubernetes) type ByEnvironment = BTreeMap<EnvironmentKey, Arc<Vec<Seen>>>;

#[derive(Default)]
pub(in crate::platform::kubernetes) struct Jobs {
    known: BTreeMap<EnvironmentKey, BTreeMap<String, Arc<Job>>>,
    listing: Option<BTreeSet<(EnvironmentKey, String)>>,
    heard: bool,
}

impl Jobs {
    /// Whether anything changed.
    pub(in crate::platform::kubernetes) fn take(&mut self, event: Event<WatchedJob>) -> bool {
        match event {
            Event::Init => {
                self.listing = Some(BTreeSet::new());
                false
            }
            Event::InitApply(job) | Event::Apply(job) => self.apply(&job),
            Event::Delete(job) => {
                named(metadata_of(&job)).is_some_and(|(key, name)| self.forget(&key, &name))
            }
            Event::InitDone => {
                let listed = self.listing.take().unwrap_or_default();
                for (key, jobs) in &mut self.known {
                    jobs.retain(|name, _| listed.contains(&(key.clone(), name.clone())));
                }
                self.known.retain(|_, jobs| !jobs.is_empty());
                self.heard = true;
                true
            }
        }
    }

    fn apply(&mut self, watched: &WatchedJob) -> bool {
        if let (Some(listing), Some(name)) = (&mut self.listing, named(metadata_of(watched))) {
            listing.insert(name);
        }
        // Of one that cannot be read what was known stays.
        let Some((key, job)) = readable(watched).and_then(facts_of) else { return false };
        let jobs = self.known.entry(key).or_default();
        let is_new = jobs.get(&job.name).is_none_or(|before| **before != job);
        if is_new {
            jobs.insert(job.name.clone(), Arc::new(job));
        }
        is_new
    }

    fn forget(&mut self, key: &EnvironmentKey, name: &str) -> bool {
        let Some(jobs) = self.known.get_mut(key) else { return false };
        let was_known = jobs.remove(name).is_some();
        if jobs.is_empty() {
            self.known.remove(key);
        }
        was_known
    }

    /// The runs of every environment that has any, with their pods; none until the Jobs have been listed: one that is
    /// missing may exist.
    pub(in crate::platform::kubernetes) fn seen<'a>(
        &self,
        pods: impl Iterator<Item = &'a Arc<Pod>>,
    ) -> Option<ByEnvironment> {
        if !self.heard {
            return None;
        }
        let mut of_jobs: HashMap<(&Label, &str), &Arc<Pod>> = HashMap::new();
        for pod in pods.filter(|pod| pod.task.is_some()) {
            let Some(job) = pod.labels.get(JOB_LABEL) else { continue };
            let kept = of_jobs.entry((&pod.environment.namespace, job)).or_insert(pod);
            if kept.detail.created < pod.detail.created {
                *kept = pod;
            }
        }
        let seen = |(key, jobs): (&EnvironmentKey, &BTreeMap<String, Arc<Job>>)| {
            let pod =
                |job: &Job| of_jobs.get(&(&key.namespace, job.name.as_str())).map(|pod| Arc::clone(pod));
            let mut seen: Vec<Seen> =
                jobs.values().map(|job| Seen { job: Arc::clone(job), pod: pod(job) }).collect();
            seen.sort_by_key(|seen| seen.job.created);
            (key.clone(), Arc::new(seen))
        };
        Some(self.known.iter().map(seen).collect())
    }
}

fn readable(watched: &WatchedJob) -> Option<&JobObject> {
    let DeserializeGuard(object) = watched;
    object.as_ref().ok()
}

fn metadata_of(watched: &WatchedJob) -> &ObjectMeta {
    match &watched.0 {
        Ok(object) => &object.metadata,
        Err(undecodable) => &undecodable.metadata,
    }
}

#[cfg(test)]
mod tests {
    use super::super::job::tests::object;
    use super::super::story::tests::pod_of;
    use super::*;
    use crate::inventory::tests::key;
    use std::iter::empty;

    fn apply(name: &str) -> Event<WatchedJob> {
        Event::Apply(DeserializeGuard(Ok(object(name, |_| ()))))
    }

    fn names(jobs: &Jobs) -> Vec<String> {
        let seen = jobs.seen(empty()).unwrap();
        let names = seen.values().flat_map(|seen| seen.iter().map(|seen| seen.job.name.clone()));
        names.collect()
    }

    #[test]
    fn nothing_is_said_of_runs_until_all_are_listed_and_what_a_list_does_not_name_is_gone() {
        let mut jobs = Jobs::default();
        jobs.take(Event::Init);
        jobs.take(apply("shop-dev--drush-1"));
        assert_eq!(jobs.seen(empty()), None);
        assert!(jobs.take(Event::InitDone));
        assert_eq!(names(&jobs), ["shop-dev--drush-1"]);
        assert!(!jobs.take(apply("shop-dev--drush-1")), "nothing new");
        jobs.take(Event::Init);
        jobs.take(apply("shop-dev--drush-2"));
        assert_eq!(names(&jobs).len(), 2, "half a list says less than none");
        jobs.take(Event::InitDone);
        assert_eq!(names(&jobs), ["shop-dev--drush-2"]);
        let gone = object("shop-dev--drush-2", |_| ());
        assert!(jobs.take(Event::Delete(DeserializeGuard(Ok(gone)))));
        assert!(jobs.seen(empty()).unwrap().is_empty());
    }

    #[test]
    fn a_run_has_the_pod_of_its_job_and_of_two_the_newer() {
        let mut jobs = Jobs::default();
        jobs.take(Event::Init);
        jobs.take(apply("shop-dev--drush-1"));
        jobs.take(Event::InitDone);
        let pod = |job: &str, name: &str, second: i64| {
            let mut pod = pod_of(job, name);
            pod.detail.created = Timestamp::from_second(second).ok();
            Arc::new(pod)
        };
        let mut elsewhere = pod_of("shop-dev--drush-1", "elsewhere");
        elsewhere.environment = key("other", "shop", "dev");
        elsewhere.detail.created = Timestamp::from_second(99).ok();
        let pods = [
            pod("shop-dev--drush-1", "a", 5),
            pod("shop-dev--drush-1", "b", 7),
            pod("shop-dev--drush-2", "c", 9),
            Arc::new(elsewhere),
        ];
        let seen = jobs.seen(pods.iter()).unwrap();
        let seen = &seen[&key("sites", "shop", "dev")];
        assert_eq!(seen[0].pod.as_ref().unwrap().instance.as_ref(), "b");
    }
}
