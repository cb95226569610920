//! `skpr cron`: an environment's tasks and their runs, one file a verb.

mod execution;
mod history;
mod list;
mod logs;
mod printed;
mod run;
mod suspend;
mod task;
mod watch;

pub(super) use task::{Task, Tasks, beside as tasks_of, in_words};

use crate::args::CronVerb;
use crate::error::Error;
use crate::output::Output;
use crate::settings::Settings;

pub(super) async fn run(verb: CronVerb, settings: &Settings, output: &Output) -> Result<(), Error> {
    match verb {
        CronVerb::List(verb) => list::run(&verb, settings, output).await,
        CronVerb::History(verb) => history::run(&verb, settings, output).await,
        CronVerb::Logs(verb) => logs::run(&verb, settings, output).await,
        CronVerb::Run(verb) => run::run(verb, settings, output).await,
        CronVerb::Suspend(verb) => suspend::suspend(&verb, settings, output).await,
        CronVerb::Resume(verb) => suspend::resume(&verb, settings, output).await,
    }
}

/// The platform's silence, in words.
const STALE: &str =
    "the platform has not been heard from for a while: what runs or is suspended may have changed";
