//! The verbs that change an environment or say how it is, as typed.

use crate::completion;
use clap::Args;
use clap_complete::engine::ArgValueCompleter;

pub(super) const DEPLOY_EXAMPLES: &str = "\
Examples:
  skpr deploy dev                         what `git describe --tags --always --dirty` says
  skpr deploy prod v1.4.0                 shows what changes, waits, and rolls back by itself on failure
  skpr deploy prod v1.4.0 --dry-run       only what would change
  skpr deploy prod --lock-wait            waits for somebody else's deploy first
  skpr deploy --follow shop/prod/42       watch a deploy that goes on; Ctrl-C leaves it alone
";

pub(super) const DEPLOY_AFTER: &str = "\
The settings come from the nearest .skpr.yml. A deploy goes on without this command: Ctrl-C, a closed laptop or a
restarted aggregator do not end it. Exit codes: 0 every ready instance runs the version, 5 .skpr.yml is wrong,
6 it failed, 7 it took too long, 8 somebody else deploys.
";

pub(super) const RELEASES_EXAMPLES: &str = "\
Examples:
  skpr releases prod                      the last 20, newest first
  skpr releases prod -n 1 -o json         what was deployed last, for a script
";

pub(super) const ROLLBACK_EXAMPLES: &str = "\
Examples:
  skpr rollback prod                      to the good release before the current one
  skpr rollback prod v1.3.0               to the newest good release of that version
  skpr rollback prod --dry-run            only what would change
";

pub(super) const SCALE_EXAMPLES: &str = "\
Examples:
  skpr scale prod --min 4 --max 12        between 4 and 12 instances, until the next deploy
  skpr scale dev --min 2 --max 2          exactly 2
";

pub(super) const DELETE_EXAMPLES: &str = "\
Examples:
  skpr delete dev --dry-run               what would go, and what would stay
  skpr delete dev                         asks first; the contents of volumes stay
  skpr delete dev --volumes -y            with its volumes, without asking
";

pub(super) const INFO_EXAMPLES: &str = "\
Examples:
  skpr info prod
  skpr info prod -o json | jq '.instance[] | select(.ready | not)'
";

pub(super) const EVENTS_EXAMPLES: &str = "\
Examples:
  skpr events prod                        deploys, scaling, restarts and why, of the last 24 hours
  skpr events prod -f                     from now on
  skpr events prod --since 'yesterday 15:40' --until 'yesterday 15:50'
  skpr events prod --since 1w -o json | jq -r 'select(.kind == \"out-of-memory\") | .instance'
";

/// Which environment.
#[derive(Clone, Debug, Args)]
pub(crate) struct Target {
    /// ENVIRONMENT or PROJECT/ENVIRONMENT
    #[arg(value_name = "ENV", add = ArgValueCompleter::new(completion::environments))]
    pub environment: String,
    /// That of this namespace, where several have one of that name; else SKPR_NAMESPACE
    #[arg(long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
}

/// How a deploy or a rollback is waited for.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Waiting {
    /// Only begin it, and print the id that it can be followed by
    #[arg(long)]
    pub no_wait: bool,
    /// How long it may take, such as `90s` or `15m` [default: the cluster's, 10m]; with more than that, an instance that
    /// runs also has that long to become ready, and not 2 minutes
    #[arg(long, value_name = "DURATION")]
    pub timeout: Option<String>,
    /// While another deploy is under way, wait for its end: this long at most, 10m unless said
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = "10m")]
    pub lock_wait: Option<String>,
    /// Taken for scripts that give it everywhere: nothing is asked here
    #[arg(short, long, hide = true)]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Deploy {
    /// ENVIRONMENT or PROJECT/ENVIRONMENT, one that .skpr.yml describes
    #[arg(
        value_name = "ENV",
        required_unless_present = "follow",
        add = ArgValueCompleter::new(completion::environments)
    )]
    pub environment: Option<String>,
    /// The version, an image's tag or a git tag [default: `git describe --tags --always --dirty`]
    #[arg(value_name = "VERSION")]
    pub version: Option<String>,
    /// That of this namespace, where several have one of that name; else SKPR_NAMESPACE
    #[arg(long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Only show what would change
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub waiting: Waiting,
    /// Leave it as it is when it fails; instances of the version before go on serving
    #[arg(long)]
    pub no_rollback: bool,
    /// No warning about changes that are not committed (production refuses them with and without it)
    #[arg(long)]
    pub allow_dirty: bool,
    /// Watch a deploy that is under way instead: PROJECT/ENV/NUMBER, ENV/NUMBER, or ENV for its newest
    #[arg(
        long,
        value_name = "ID",
        conflicts_with_all = ["version", "dry_run", "no_wait", "timeout", "lock_wait", "no_rollback", "allow_dirty"]
    )]
    pub follow: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Releases {
    #[command(flatten)]
    pub target: Target,
    /// Only the newest N
    #[arg(short = 'n', long, value_name = "N")]
    pub lines: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct Rollback {
    #[command(flatten)]
    pub target: Target,
    /// The version of a release that succeeded [default: that of the good release before the current one]
    #[arg(value_name = "VERSION")]
    pub version: Option<String>,
    /// Only show what would change
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub waiting: Waiting,
}

#[derive(Debug, Args)]
pub(crate) struct Scale {
    #[command(flatten)]
    pub target: Target,
    /// Instances at least
    #[arg(long, value_name = "N", required_unless_present = "max", value_parser = clap::value_parser!(u32).range(1..))]
    pub min: Option<u32>,
    /// Instances at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max: Option<u32>,
    /// Only show what would change
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    pub target: Target,
    /// The contents of its volumes, too
    #[arg(long)]
    pub volumes: bool,
    /// Only show what would go and what would stay
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Info {
    #[command(flatten)]
    pub target: Target,
}

#[derive(Debug, Args)]
pub(crate) struct Events {
    #[command(flatten)]
    pub target: Target,
    /// Go on with what happens from now on
    #[arg(short, long)]
    pub follow: bool,
    /// Not before this time [default: 24h; with -f: now; with -n: the oldest kept]
    #[arg(long, visible_alias = "start", value_name = "TIME", allow_hyphen_values = true)]
    pub since: Option<String>,
    /// Before this time [default: now]
    #[arg(long, visible_alias = "end", value_name = "TIME", allow_hyphen_values = true)]
    pub until: Option<String>,
    /// Only the newest N
    #[arg(short = 'n', long, value_name = "N")]
    pub lines: Option<u32>,
    /// Times are typed and shown in this zone, such as Australia/Sydney or UTC [default: the local one]
    #[arg(long, value_name = "ZONE")]
    pub timezone: Option<String>,
}
