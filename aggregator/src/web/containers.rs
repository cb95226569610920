//! `/metrics/containers`: what each container uses. Written piece by piece as it is read, so that a scrape of a large cluster
//! costs the samples and their labels, and never its whole text.
//!
//! A container's series go with it, and with its samples: nothing here has a timestamp, so that a reader sees the end.

use super::text::{Described, Format, Labels, Table, Text, Value, counter, gauge};
use crate::auth::Monitor;
use crate::inventory::Inventory;
use crate::usage::{ContainerView, Usage};
use axum::body::Bytes;
use skpr_proto::v1::Sample;

/// At most twelve: a large site has a thousand containers, a large cluster a hundred thousand.
pub(super) const TABLE: Table<Sample> = Table {
    labels: &["project", "environment", "namespace", "instance", "container", "node"],
    columns: &[
        counter("skpr_container_cpu_seconds", "CPU time used", |it| it.cpu_nanos.map(Value::Billionths)),
        gauge("skpr_container_cpu_share_cores", "CPU that is guaranteed when it is short", |it| {
            it.cpu_share_millicores.map(Value::Thousandths)
        }),
        gauge("skpr_container_cpu_limit_cores", "CPU limit", |it| {
            it.cpu_limit_millicores.map(Value::Thousandths)
        }),
        counter("skpr_container_cpu_periods", "Periods in which the CPU limit was enforced", |it| {
            it.periods.map(Value::Count)
        }),
        counter("skpr_container_cpu_throttled_periods", "Periods in which the CPU limit was hit", |it| {
            it.throttled_periods.map(Value::Count)
        }),
        counter(
            "skpr_container_cpu_throttled_seconds",
            "Time for which it was held back by the CPU limit",
            |it| it.throttled_nanos.map(Value::Billionths),
        ),
        gauge("skpr_container_memory_working_set_bytes", "Memory that Kubernetes acts on", |it| {
            it.memory_working_set_bytes.map(Value::Count)
        }),
        gauge(
            "skpr_container_memory_not_reclaimable_bytes",
            "Memory that cannot be given back: at the limit it is killed",
            |it| it.memory_not_reclaimable_bytes.map(Value::Count),
        ),
        gauge("skpr_container_memory_cache_bytes", "Cached files", |it| {
            it.memory_cache_bytes.map(Value::Count)
        }),
        gauge("skpr_container_memory_limit_bytes", "Memory limit", |it| {
            it.memory_limit_bytes.map(Value::Count)
        }),
        counter(
            "skpr_container_oom_kills",
            "Processes killed because memory ran out, since it was started",
            |it| it.oom_kills.map(Value::Count),
        ),
        gauge("skpr_container_processes", "Processes", |it| it.processes.map(Value::Count)),
    ],
};

/// How much is written at once.
const PIECE: usize = 64 << 10;

/// A part of the instances: every instance is in one of `of` parts, always the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shard {
    index: u32,
    of: u32,
}

/// A scrape that is being written.
pub(super) struct Pieces {
    rows: Vec<(Labels, Sample)>,
    text: Text,
    column: usize,
    row: usize,
}

pub(super) fn families() -> Vec<Described> {
    TABLE.describe("/metrics/containers")
}

impl Shard {
    /// Reads `shard=INDEX/OF`; the error says what is wrong with a query.
    pub(super) fn parse(query: Option<&str>) -> Result<Shard, String> {
        let mut shard = Shard { index: 0, of: 1 };
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let value =
                pair.strip_prefix("shard=").map(|value| value.replace("%2F", "/").replace("%2f", "/"));
            let parts = value.as_deref().and_then(|value| value.split_once('/'));
            let numbers = parts.and_then(|(index, of)| Some((index.parse().ok()?, of.parse().ok()?)));
            shard = match numbers {
                Some((index, of)) if index < of => Shard { index, of },
                Some(_) | None => {
                    return Err(format!(
                        "`{}` is not shard=INDEX/OF with an INDEX from 0 to OF-1",
                        pair.escape_debug()
                    ));
                }
            };
        }
        Ok(shard)
    }

    fn has(self, view: &ContainerView<'_>) -> bool {
        if self.of == 1 {
            return true;
        }
        let namespace = crc32c::crc32c(view.environment.namespace.as_str().as_bytes());
        crc32c::crc32c_append(namespace, view.instance.as_bytes()) % self.of == self.index
    }
}

impl Pieces {
    pub(super) fn new(
        usage: &Usage,
        inventory: &Inventory,
        format: Format,
        shard: Shard,
        _: &Monitor,
    ) -> Pieces {
        let mut rows = Vec::new();
        usage.look_at_containers(inventory, |view| {
            if shard.has(&view) {
                rows.push((labels(&view), view.sample));
            }
        });
        Pieces { rows, text: Text::new(format), column: 0, row: 0 }
    }
}

fn labels(view: &ContainerView<'_>) -> Labels {
    Labels::of(&[
        ("project", view.environment.name.project.as_str()),
        ("environment", view.environment.name.environment.as_str()),
        ("namespace", view.environment.namespace.as_str()),
        ("instance", view.instance),
        ("container", view.container),
        ("node", view.node.as_str()),
    ])
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        while self.text.len() < PIECE {
            let Some(column) = TABLE.columns.get(self.column) else {
                // The end is written once.
                if self.column == TABLE.columns.len() {
                    self.column += 1;
                    self.text.end();
                }
                break;
            };
            if self.row == 0 {
                self.text.family(&column.family);
            }
            match self.rows.get(self.row) {
                Some((labels, sample)) => {
                    if let Some(value) = (column.read)(sample) {
                        self.text.sample(&column.family, labels.as_str(), value);
                    }
                    self.row += 1;
                }
                None => (self.column, self.row) = (self.column + 1, 0),
            }
        }
        let piece = self.text.take();
        (!piece.is_empty()).then(|| piece.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everything() -> Sample {
        let some = Some(1);
        Sample {
            cpu_nanos: some,
            cpu_user_nanos: some,
            cpu_system_nanos: some,
            periods: some,
            throttled_periods: some,
            throttled_nanos: some,
            cpu_limit_millicores: some,
            cpu_share_millicores: some,
            memory_usage_bytes: some,
            memory_working_set_bytes: some,
            memory_not_reclaimable_bytes: some,
            memory_cache_bytes: some,
            memory_peak_bytes: some,
            memory_limit_bytes: some,
            oom_kills: some,
            cpu_pressure_micros: some,
            memory_pressure_micros: some,
            io_pressure_micros: some,
            processes: some,
        }
    }

    fn text(rows: Vec<(Labels, Sample)>) -> String {
        let pieces = Pieces { rows, text: Text::new(Format::OpenMetrics), column: 0, row: 0 };
        pieces.map(|piece| String::from_utf8(piece.into()).unwrap()).collect()
    }

    #[test]
    fn a_container_has_twelve_series_at_most() {
        let text = text(vec![(Labels::of(&[("instance", "a")]), everything())]);
        let series = text.lines().filter(|line| !line.starts_with('#')).count();
        assert!((1..=12).contains(&series), "{series}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn pieces_are_small_and_together_the_whole() {
        let label = |i: usize| Labels::of(&[("instance", &format!("instance-{i}"))]);
        let rows: Vec<_> = (0..2_000).map(|i| (label(i), everything())).collect();
        let pieces = Pieces { rows: rows.clone(), text: Text::new(Format::OpenMetrics), column: 0, row: 0 };
        assert!(pieces.map(|piece| piece.len()).max().unwrap() < PIECE + 1024);
        let mut whole = Text::new(Format::OpenMetrics);
        whole.table(&TABLE, &rows);
        whole.end();
        assert_eq!(text(rows), whole.take());
        assert_eq!(text(vec![]).matches("# TYPE").count(), TABLE.columns.len());
    }

    #[test]
    fn shards_are_read_strictly() {
        assert_eq!(Shard::parse(None), Ok(Shard { index: 0, of: 1 }));
        assert_eq!(Shard::parse(Some("shard=2/3")), Ok(Shard { index: 2, of: 3 }));
        assert_eq!(Shard::parse(Some("shard=0%2F2")), Ok(Shard { index: 0, of: 2 }));
        for bad in ["shard=3/3", "shard=1", "shard=-1/2", "shard=0/0", "part=1/2", "shard=1/2&x=1"] {
            assert!(Shard::parse(Some(bad)).unwrap_err().contains("shard=INDEX/OF"), "{bad}");
        }
    }
}
