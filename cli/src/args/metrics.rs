//! `skpr metrics`, as typed.

use super::Target;
use clap::Args;

pub(super) const EXAMPLES: &str = "\
Examples:
  skpr metrics prod                       now, and the last hour as a row of bars
  skpr metrics prod --per-instance        and each instance
  skpr metrics prod --watch               on the whole screen, as it happens; q ends it
  skpr metrics prod --since 'yesterday 15:40' --until 'yesterday 17:00' --interval 1m -o csv
  skpr metrics prod --since 1w -o json | jq '[.points[].memoryWorkingSetBytes] | max'
";

pub(super) const AFTER: &str = "\
CPU is in cores and memory is the working set; the bars are CPU. OOM kills and restarts are those of the range.
`-` is not known, and so is a blank among the bars. What is older than two samples is marked as stale.
Times are as those of `skpr logs`: see skpr logs --help
";

#[derive(Debug, Args)]
pub(crate) struct Metrics {
    #[command(flatten)]
    pub target: Target,
    /// Not before this time [default: 1h]
    #[arg(long, visible_alias = "start", value_name = "TIME", allow_hyphen_values = true)]
    pub since: Option<String>,
    /// Before this time [default: now]
    #[arg(long, visible_alias = "end", value_name = "TIME", allow_hyphen_values = true)]
    pub until: Option<String>,
    /// How much time a point stands for, such as `30s`, `5m` or `1h` [default: one that makes at most 120 points]
    #[arg(long, value_name = "DURATION")]
    pub interval: Option<String>,
    /// Each instance, too, also those that have ended
    #[arg(long)]
    pub per_instance: bool,
    /// Only this instance (repeat for more)
    #[arg(long, value_name = "INSTANCE")]
    pub instance: Vec<String>,
    /// On the whole screen, again with every sample
    #[arg(short, long, conflicts_with = "until")]
    pub watch: bool,
    /// Times are typed and shown in this zone, such as Australia/Sydney or UTC [default: the local one]
    #[arg(long, value_name = "ZONE")]
    pub timezone: Option<String>,
}
