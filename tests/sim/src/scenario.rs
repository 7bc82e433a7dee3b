//! What can go wrong in a simulation, and the job that it happens to.

use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use streamrt_graph::JobSpec;
use streamrt_rpc::{Component, JobPlan};
use streamrt_types::Configuration;
use streamrt_wit::Plan;

/// What can go wrong, or be wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// A task fails, and its region with it.
    TaskFails,
    /// The store refuses a request; nothing was written.
    StoreRefuses,
    /// The store does what it was asked for, and nobody hears of it.
    StoreSilent,
    /// It fails in the middle of a request.
    StoreHalfway,
    /// A snapshot cannot be read, or sinks cannot be settled, at the first try.
    StepFails,
    /// A task declines a checkpoint.
    Declined,
    /// What a task says comes once more, later.
    Repeated,
    /// The process is killed, and started again.
    Killed,
    /// A second process takes the job over while the first one runs.
    SecondLeader,
    Savepoint,
    StopWithSavepoint,
    Stop,
    Drain,
    Cancel,
    Upgrade,
    Submits,
}

impl Fault {
    pub const ALL: [Fault; 16] = [
        Fault::TaskFails,
        Fault::StoreRefuses,
        Fault::StoreSilent,
        Fault::StoreHalfway,
        Fault::StepFails,
        Fault::Declined,
        Fault::Repeated,
        Fault::Killed,
        Fault::SecondLeader,
        Fault::Savepoint,
        Fault::StopWithSavepoint,
        Fault::Stop,
        Fault::Drain,
        Fault::Cancel,
        Fault::Upgrade,
        Fault::Submits,
    ];

    /// Those that happen at a time of their own, each with its rarity: one in so many.
    pub(crate) const PLANNED: [(Fault, u64); 8] = [
        (Fault::Savepoint, 2),
        (Fault::Upgrade, 3),
        (Fault::StopWithSavepoint, 6),
        (Fault::Stop, 6),
        (Fault::Drain, 10),
        (Fault::Cancel, 8),
        (Fault::Killed, 2),
        (Fault::SecondLeader, 4),
    ];

    pub fn name(self) -> &'static str {
        match self {
            Fault::TaskFails => "a task fails",
            Fault::StoreRefuses => "the store refuses",
            Fault::StoreSilent => "the store is silent",
            Fault::StoreHalfway => "the store fails halfway",
            Fault::StepFails => "a step fails",
            Fault::Declined => "a checkpoint is declined",
            Fault::Repeated => "a message is repeated",
            Fault::Killed => "the process is killed",
            Fault::SecondLeader => "a second leader",
            Fault::Savepoint => "a savepoint is wanted",
            Fault::StopWithSavepoint => "a stop with a savepoint is wanted",
            Fault::Stop => "a stop is wanted",
            Fault::Drain => "a drain is wanted",
            Fault::Cancel => "a cancellation is wanted",
            Fault::Upgrade => "an upgrade is wanted",
            Fault::Submits => "a job is submitted",
        }
    }
}

/// The digest of the component of a version.
pub(crate) fn digest(version: u64) -> String {
    format!("{version:064x}")
}

/// A job of two regions: one with an exchange before its sink, one with a sink chained to its
/// readers.
pub(crate) fn plan(version: u64) -> Result<JobPlan, String> {
    let schema = json!([{"name": "user", "type": "i64"}]);
    let source = |id: u32, uid: &str| {
        json!({"id": id, "uid": uid, "outputs": [{"columns": {"kind": "forward"}}],
            "body": {"kind": "source", "connector": "file", "schema": schema}})
    };
    let sink = |id: u32, uid: &str, from: u32, partitioning: &str| {
        json!({"id": id, "uid": uid, "body": {"kind": "sink", "connector": "print"},
            "inputs": [{"node": from, "partitioning": {"kind": partitioning}}]})
    };
    let nodes = [
        source(0, "clicks"),
        sink(1, "clicks-out", 0, "rebalance"),
        source(2, "views"),
        sink(3, "views-out", 2, "forward"),
    ];
    let text = json!({"version": 1, "nodes": nodes, "functions": []}).to_string();
    let parsed = Plan::from_json(&text).map_err(|e| e.to_string())?;
    let mut configuration = Configuration::default();
    for (key, value) in [
        ("checkpoint.dir", "memory"),
        ("checkpoint.interval", "1s"),
        ("checkpoint.timeout", "10s"),
        ("checkpoint.tolerable-failures", "2"),
    ] {
        configuration.set(key, value).map_err(|e| e.to_string())?;
    }
    let component = Component {
        name: "sim".into(),
        digest: digest(version),
        args: Vec::new(),
        replaces: None,
    };
    Ok(JobPlan {
        spec: JobSpec::from_plan("sim", Arc::new(parsed)),
        components: vec![component],
        configuration: Arc::new(configuration),
        parallelism: 2,
        max_parallelism: 128,
        grants: BTreeMap::new(),
    })
}
