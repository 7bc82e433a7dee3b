//! What the interface shows and takes, and who knows it.

use crate::status::{CheckpointDetails, JobStatus};
use std::collections::BTreeMap;
use std::time::Duration;
use streamrt_jobmanager::{Failure, Operation, Specification, Trigger};
use streamrt_types::{LogLine, Result};

/// A cluster, as far as the interface goes. What changes something may wait for a disk, and is
/// called from threads that may wait; what shows something answers at once.
pub trait ClusterApi: Send + Sync + 'static {
    /// All jobs that it knows, as they are now, the oldest first.
    fn jobs(&self) -> Vec<JobDetails>;

    /// The time by its clock, in ms since the epoch.
    fn now_ms(&self) -> i64;

    /// How they are called, in the same order.
    fn names(&self) -> Vec<JobName>;

    /// The job with this id.
    fn job(&self, id: &str) -> Option<JobDetails>;

    /// The last checkpoints of a job, the newest last, at most `n`; empty if there is no such job.
    fn checkpoints(&self, job: &str, n: usize) -> Vec<CheckpointDetails>;

    /// The last lines that a job has said, the newest last, at most `n`; empty if there is no such
    /// job.
    fn logs(&self, job: &str, n: usize) -> Vec<LogLine>;

    fn slots(&self) -> Slots;

    /// What the cluster was started with, as its options are called.
    fn configuration(&self) -> BTreeMap<String, String>;

    /// Bytes that a component may have.
    fn component_bytes_max(&self) -> usize;

    fn has_component(&self, digest: &str) -> bool;

    /// Keeps a component; false if it was there.
    ///
    /// # Errors
    /// S6009 if the bytes have another digest, S1020 if there are too many of them.
    fn put_component(&self, digest: &str, bytes: Vec<u8>) -> Result<bool>;

    /// Accepts a job, and returns its id.
    ///
    /// # Errors
    /// Whatever can be said against it before it is started.
    fn submit(&self, specification: Specification) -> Result<String>;

    /// Begins a command to a job, and returns the id of its trigger.
    ///
    /// # Errors
    /// If there is no such job, or it does not take the command.
    fn begin(&self, job: &str, operation: Operation) -> Result<String>;

    /// How far a command has come; it is waited for, but not longer than `wait`.
    ///
    /// # Errors
    /// S6005 if there is no such job or trigger.
    fn trigger(&self, job: &str, trigger: &str, wait: Duration) -> Result<Trigger>;
}

/// How many subtasks of each vertex can run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Slots {
    pub total: u32,
    pub free: u32,
}

/// A job, as it is at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JobDetails {
    pub status: JobStatus,
    /// 0 if it does not run.
    pub max_parallelism: u32,
    /// None if it makes no checkpoints.
    pub checkpointing: Option<Checkpointing>,
    /// After which it, or a region of it, was started again; the last ones, the oldest first.
    pub failures: Vec<(i64, Failure)>,
    /// Senders before their receivers; none if it does not run.
    pub vertices: Vec<VertexDetails>,
}

/// How a job is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobName {
    pub id: String,
    pub name: String,
    /// It does not run, and will not.
    pub has_ended: bool,
}

/// How a job makes checkpoints; times are in ms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checkpointing {
    pub interval_ms: u64,
    pub timeout_ms: u64,
    pub min_pause_ms: u64,
    pub tolerable_failures: u32,
    pub state_backend: &'static str,
}

/// A chain of operators that runs as `subtasks`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VertexDetails {
    /// 32 hex digits.
    pub id: String,
    pub name: String,
    pub inputs: Vec<Edge>,
    pub subtasks: Vec<SubtaskDetails>,
}

/// An edge that leads to a vertex.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Edge {
    /// The vertex that it comes from.
    pub from: String,
    /// As Flink calls it: `HASH`, `FORWARD`, `REBALANCE`, `BROADCAST`, `GLOBAL`.
    pub ship_strategy: &'static str,
}

/// The counters of a subtask, since its job was started last.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SubtaskDetails {
    pub records_in: u64,
    pub records_out: u64,
    pub late_records: u64,
    /// In ms; `None` before the first.
    pub watermark: Option<i64>,
    pub busy_ms: u64,
    pub idle_ms: u64,
    pub back_pressured_ms: u64,
    /// The part of each second lately, in ms, in which it worked, waited for input, and waited for
    /// room.
    pub busy_ms_per_second: u64,
    pub idle_ms_per_second: u64,
    pub back_pressured_ms_per_second: u64,
    /// What the user's code has counted, by name.
    pub user: Vec<(String, i64)>,
}

impl VertexDetails {
    pub(crate) fn sum(&self, of: impl Fn(&SubtaskDetails) -> u64) -> u64 {
        self.subtasks.iter().map(of).sum()
    }
}
