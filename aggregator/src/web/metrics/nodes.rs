//! What nodes do, of which there is a fresh sample.

use crate::usage::Usage;
use crate::web::text::{Labels, Table, Value, counter, gauge};
use skpr_proto::v1::NodeSample;

pub(super) const TABLE: Table<NodeSample> = Table {
    labels: &["node"],
    columns: &[
        counter("skpr_node_cpu_seconds", "CPU time of everything on the node, since its start", |node| {
            node.cpu_nanos.map(Value::Billionths)
        }),
        gauge("skpr_node_cpu_cores", "Cores of the node", |node| {
            (node.cores > 0).then(|| Value::Count(u64::from(node.cores)))
        }),
        gauge("skpr_node_memory_working_set_bytes", "Memory in use and not easily given back", |node| {
            node.memory_working_set_bytes.map(Value::Count)
        }),
        gauge("skpr_node_memory_bytes", "Memory of the node", |node| {
            node.memory_total_bytes.map(Value::Count)
        }),
    ],
};

pub(super) fn rows(usage: &Usage) -> Vec<(Labels, NodeSample)> {
    let fresh = usage.nodes().into_iter().filter(|node| !node.stale);
    fresh.map(|node| (Labels::of(&[("node", node.node.as_str())]), node.sample)).collect()
}
