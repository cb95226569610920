//! Tasks in Kubernetes: each is a CronJob, and each of its runs a Job.
//!
//! * Kubernetes begins what is due, by itself and without skpr. What skpr does is to make the CronJobs, to tell how runs go,
//!   and to find out what was due and did not begin.
//! * How a run has ended is decided once, and written down before it is told: on its Job, or in the environment's status
//!   where there is none ([`status`]). Whoever tells it after a crash tells the same.
//! * A run that a user asks for counts as one that Kubernetes began: it is among what its CronJob says is active.
//!
//! What is known of a run, each written before what stands below it, so that whoever goes on after a crash comes to the same:
//!
//! | where | what | made by |
//! |---|---|---|
//! | its Job and its pod | that it has begun, and what the kubelet saw of its end | Kubernetes, or `ask` |
//! | the Job's annotation [`ENDED`] | how it ended, decided once | `story`, written by `round` |
//! | the environment's status | up to when due times were looked at, which runs go on, and how those ended that have no Job | `plan`, by `round` |
//! | events in the store | what was told of it; all history is read from there | `told` |

mod ask;
mod job;
mod jobs;
mod listed;
mod made;
mod plan;
mod pod;
mod round;
mod state;
mod status;
mod story;
mod told;
mod unbegun;

pub(super) use job::{WatchedJob, job_resource};
pub(super) use jobs::{ByEnvironment, Jobs, Seen};
pub(super) use made::{cron_job, name};
pub(super) use plan::{Look, Plan, Telling, plan};
pub(super) use pod::{detail_of_run, task_of};
pub(super) use state::states;
pub(super) use status::{TaskStatuses, readable};
pub(super) use told::{Told, ended_with, told_runs};

/// On everything that is of a task.
pub(super) const TASK_LABEL: &str = "skpr.io/task";
/// On a Job: who asked for the run.
const BY: &str = "skpr.io/by";
/// On a Job: the version that it runs.
const VERSION: &str = "skpr.io/version";
/// On a Job that has ended: the run as it was told.
const ENDED: &str = "skpr.io/ended";
