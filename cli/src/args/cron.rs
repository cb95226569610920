//! The verbs about an environment's tasks and their runs, as typed.

use super::Target;
use crate::completion;
use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;

pub(super) const EXAMPLES: &str = "\
Examples:
  skpr cron list prod                     the tasks, when each is due next and how it went last
  skpr cron history prod --failed         what went wrong: also what was missed
  skpr cron logs prod drush-cron          what the newest run of drush-cron has printed
  skpr cron run prod drush-cron --wait    run it now, and end as it does
  skpr cron suspend prod                  none of its tasks runs by itself until skpr cron resume prod
";

pub(super) const AFTER: &str = "\
Tasks are described under `cron` in .skpr.yml, and come and go with a deploy.
";

const LIST_EXAMPLES: &str = "\
Examples:
  skpr cron list prod
  skpr cron list prod -o json | jq -r '.[] | select(.suspended) | .name'
";

const HISTORY_EXAMPLES: &str = "\
Examples:
  skpr cron history prod                  the newest 20 runs of all tasks
  skpr cron history prod drush-cron -n 5
  skpr cron history prod --failed --since 1w
  skpr cron history prod -o json | jq -r '.[] | select(.outcome == \"missed\") | .due'
";

const HISTORY_AFTER: &str = "\
What was due and did not begin is listed, too, with the reason. Times are as those of `skpr logs`: see skpr logs --help
";

const LOGS_EXAMPLES: &str = "\
Examples:
  skpr cron logs prod drush-cron-29412345 what this run has printed, also when it and its pod are long gone
  skpr cron logs prod drush-cron          the newest run of drush-cron
  skpr cron logs prod drush-cron -f       until it has ended
  skpr cron logs prod drush-cron --stream stderr -o json | jq -r .message
";

const RUN_EXAMPLES: &str = "\
Examples:
  skpr cron run prod drush-cron           begins a run and prints its id
  skpr cron run prod drush-cron --wait    shows what it prints, and ends with its exit code
  skpr cron run prod drush-cron -- --verbose --uri www.example.com
";

const RUN_AFTER: &str = "\
Arguments behind `--` are put behind the task's command, each as one word. A run goes on without this command: Ctrl-C does not end it.

Exit codes with --wait: that of the task, 7 if it was ended for taking too long, 137 if it was killed for memory, 1 if it could not be \
started, 255 if it was ended for the next one, or how it ended is not known. In any case 8 if a run that forbids others is \
under way, and where nothing was begun those of every command, such as 3 for what is not there and 4 for what you may not.
";

const SUSPEND_EXAMPLES: &str = "\
Examples:
  skpr cron suspend prod drush-cron       it is not run by its schedule any more
  skpr cron suspend prod                  no task of prod is; asks first
  skpr cron suspend prod --dry-run        which ones that would be
";

const SUSPEND_AFTER: &str = "\
It lasts over deploys, until skpr cron resume. What is due meanwhile is listed as missed; what runs goes on; skpr cron run works.
";

const RESUME_EXAMPLES: &str = "\
Examples:
  skpr cron resume prod drush-cron        from its next time on
  skpr cron resume prod                   all of them
";

const RESUME_AFTER: &str = "\
What was due while a task was suspended is not made up for: skpr cron run begins a run now.
";

#[derive(Debug, Args)]
pub(crate) struct Cron {
    #[command(subcommand)]
    pub verb: CronVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CronVerb {
    /// The tasks of an environment: when they are due, and how they went
    #[command(before_help = LIST_EXAMPLES)]
    List(CronList),
    /// Runs, newest first, and what should have run and did not
    #[command(before_help = HISTORY_EXAMPLES, after_help = HISTORY_AFTER)]
    History(CronHistory),
    /// What a run has printed
    #[command(before_help = LOGS_EXAMPLES)]
    Logs(CronLogs),
    /// Run a task now
    #[command(before_help = RUN_EXAMPLES, after_help = RUN_AFTER)]
    Run(CronRun),
    /// Run a task, or all, no more by schedule until it is resumed
    #[command(before_help = SUSPEND_EXAMPLES, after_help = SUSPEND_AFTER)]
    Suspend(CronSuspend),
    /// Run a suspended task, or all, by schedule again
    #[command(before_help = RESUME_EXAMPLES, after_help = RESUME_AFTER)]
    Resume(CronResume),
}

#[derive(Debug, Args)]
pub(crate) struct CronList {
    #[command(flatten)]
    pub target: Target,
    /// Times are shown in this zone, such as Australia/Sydney or UTC [default: the local one]
    #[arg(long, value_name = "ZONE")]
    pub timezone: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CronHistory {
    #[command(flatten)]
    pub target: Target,
    /// Only of this task
    #[arg(value_name = "TASK", add = ArgValueCompleter::new(completion::tasks))]
    pub task: Option<String>,
    /// Not before this time [default: the oldest kept]
    #[arg(long, visible_alias = "start", value_name = "TIME", allow_hyphen_values = true)]
    pub since: Option<String>,
    /// Before this time [default: now]
    #[arg(long, visible_alias = "end", value_name = "TIME", allow_hyphen_values = true)]
    pub until: Option<String>,
    /// Only failures, missed runs among them; not what was replaced, skipped or suspended
    #[arg(long)]
    pub failed: bool,
    /// Only the newest N [default: 20 without --since]
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub lines: Option<u32>,
    /// Times are typed and shown in this zone, such as Australia/Sydney or UTC [default: the local one]
    #[arg(long, value_name = "ZONE")]
    pub timezone: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CronLogs {
    #[command(flatten)]
    pub target: Target,
    /// A run's id, as skpr cron history shows it, or a task: its newest run
    #[arg(value_name = "RUN", add = ArgValueCompleter::new(completion::tasks))]
    pub run: String,
    /// Go on with what it prints, until it has ended
    #[arg(short, long)]
    pub follow: bool,
    /// Only the newest N lines of what is there
    #[arg(short = 'n', long, value_name = "N")]
    pub lines: Option<u32>,
    /// Only this stream
    #[arg(long, value_name = "STREAM")]
    pub stream: Option<CronStream>,
    /// Times are shown in this zone, such as Australia/Sydney or UTC [default: the local one]
    #[arg(long, value_name = "ZONE")]
    pub timezone: Option<String>,
    /// Messages as they are: their control characters reach your terminal
    #[arg(long)]
    pub raw: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum CronStream {
    Stdout,
    Stderr,
}

#[derive(Debug, Args)]
pub(crate) struct CronRun {
    #[command(flatten)]
    pub target: Target,
    #[arg(value_name = "TASK", help = "The task", add = ArgValueCompleter::new(completion::tasks))]
    pub task: String,
    /// Show what it prints, and end with its exit code
    #[arg(short, long)]
    pub wait: bool,
    /// Times are shown in this zone, such as Australia/Sydney or UTC [default: the local one]
    #[arg(long, value_name = "ZONE", requires = "wait")]
    pub timezone: Option<String>,
    /// Messages as they are: their control characters reach your terminal
    #[arg(long, requires = "wait")]
    pub raw: bool,
    /// Taken for scripts that give it everywhere: nothing is asked here
    #[arg(short, long, hide = true)]
    pub yes: bool,
    /// What is put behind the task's command
    #[arg(last = true, value_name = "ARGS")]
    pub arguments: Vec<String>,
}

/// Which tasks.
#[derive(Debug, Args)]
pub(crate) struct Tasks {
    #[command(flatten)]
    pub target: Target,
    /// Only this task [default: all]
    #[arg(value_name = "TASK", add = ArgValueCompleter::new(completion::tasks))]
    pub task: Option<String>,
    /// Only show what would change
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CronSuspend {
    #[command(flatten)]
    pub tasks: Tasks,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CronResume {
    #[command(flatten)]
    pub tasks: Tasks,
    /// Taken for scripts that give it everywhere: nothing is asked here
    #[arg(short, long, hide = true)]
    pub yes: bool,
}
