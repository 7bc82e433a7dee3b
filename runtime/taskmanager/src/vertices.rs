//! The vertices of a running job, with the counters of their subtasks, for people.

use crate::control::Control;
use crate::definition::Definition;
use crate::metrics::JobMetrics;
use crate::rates::PerSecond;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use streamrt_graph::{EdgePartitioner, Head, JobVertex};
use streamrt_operator::TaskMetrics;
use streamrt_types::WATERMARK_MIN;

/// A vertex of the job graph.
#[derive(Debug, Clone, PartialEq)]
pub struct VertexReport {
    /// 32 hex digits that stay the same as long as the uid of its first operator does.
    pub id: String,
    pub name: String,
    /// The vertices that send to it, by their places in the list.
    pub inputs: Vec<(usize, EdgePartitioner)>,
    /// None as long as nothing runs.
    pub subtasks: Vec<SubtaskCounters>,
}

/// What a subtask has counted in this attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubtaskCounters {
    pub records_in: u64,
    /// A record that goes to several vertices counts for each.
    pub records_out: u64,
    pub late_records: u64,
    /// In ms; `None` before the first.
    pub watermark: Option<i64>,
    pub busy: Duration,
    pub idle: Duration,
    pub back_pressured: Duration,
    pub per_second: PerSecond,
    /// What the user's code has counted, by name.
    pub user: Vec<(String, i64)>,
}

impl SubtaskCounters {
    fn of(metrics: &TaskMetrics, user: Vec<(String, i64)>) -> SubtaskCounters {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SubtaskCounters {
            records_in: count(&metrics.records_in),
            records_out: count(&metrics.records_out),
            late_records: count(&metrics.late_records),
            watermark: Some(metrics.watermark.load(Ordering::Relaxed))
                .filter(|watermark| *watermark != WATERMARK_MIN),
            busy: Duration::from_nanos(count(&metrics.busy_ns)),
            idle: Duration::from_nanos(count(&metrics.idle_ns)),
            back_pressured: Duration::from_nanos(count(&metrics.back_pressured_ns)),
            per_second: PerSecond::default(),
            user,
        }
    }
}

/// The vertices of a job, senders before their receivers.
/// `controls` are those of the regions.
pub(crate) fn vertices(
    definition: &Definition,
    metrics: &JobMetrics,
    controls: &[Arc<Control>],
) -> Vec<VertexReport> {
    let graph = &definition.graph;
    let mut reports: Vec<VertexReport> = graph
        .vertices
        .iter()
        .map(|vertex| empty(definition, vertex))
        .collect();
    for (from, vertex) in graph.vertices.iter().enumerate() {
        vertex.exits.iter().for_each(|exit| {
            reports[exit.to]
                .inputs
                .push((from, exit.partitioner.clone()))
        });
    }
    let regions = metrics.regions.iter().zip(controls);
    for (vertices, (region, control)) in graph.regions().iter().zip(regions) {
        for ((_, subtask), metrics) in definition.tasks_of(vertices).zip(&region.tasks) {
            let user = control.user_counters(subtask.vertex, subtask.index);
            reports[subtask.vertex]
                .subtasks
                .push(SubtaskCounters::of(metrics, user.all()));
        }
    }
    reports
}

fn empty(definition: &Definition, vertex: &JobVertex) -> VertexReport {
    let (kind, node) = match vertex.head {
        Head::Enumerator { node } => ("enumerator", Some(node)),
        Head::Reader { node } => ("reader", Some(node)),
        Head::Gate => (
            "operator",
            vertex
                .operators
                .first()
                .and_then(|operator| operator.nodes.first().copied()),
        ),
    };
    let uid = node.map_or("", |node| definition.graph.stream.nodes[node].uid.as_str());
    let hash = blake3::hash(format!("{kind} {uid}").as_bytes()).to_hex();
    VertexReport {
        id: hash[..32].to_owned(),
        name: vertex.name.clone(),
        inputs: Vec::new(),
        subtasks: Vec::new(),
    }
}
