//! What the interface shows, and who knows it.

/// A cluster, as far as the interface goes.
pub trait ClusterApi: Send + Sync + 'static {
    /// All jobs that it knows, as they are now.
    fn jobs(&self) -> Vec<JobDetails>;

    /// The last checkpoints of a job, the newest last, at most `n`; empty if there is no such job.
    fn checkpoints(&self, job: &str, n: usize) -> Vec<CheckpointDetails>;
}

/// A job, as it is at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JobDetails {
    pub id: String,
    pub name: String,
    /// Flink's name of its state, as `RUNNING`.
    pub state: &'static str,
    /// In ms since the epoch.
    pub start_ms: i64,
    pub duration_ms: u64,
    pub max_parallelism: u32,
    /// Of operators that name none themselves.
    pub parallelism: u32,
    /// Senders before their receivers.
    pub vertices: Vec<VertexDetails>,
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
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SubtaskDetails {
    pub records_in: u64,
    pub records_out: u64,
    pub late_records: u64,
    /// In ms; `None` before the first.
    pub watermark: Option<i64>,
    pub busy_ms: u64,
    pub idle_ms: u64,
    pub back_pressured_ms: u64,
}

/// A checkpoint, as it is at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CheckpointDetails {
    pub id: u64,
    pub is_savepoint: bool,
    /// `IN_PROGRESS`, `COMPLETED` or `FAILED`.
    pub status: &'static str,
    /// Why it failed.
    pub failure: Option<String>,
    /// In ms since the epoch.
    pub trigger_ms: i64,
    pub duration_ms: u64,
    pub subtasks: Vec<SubtaskCheckpoint>,
}

/// What a checkpoint cost one subtask.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SubtaskCheckpoint {
    /// As in `count (2/4)`.
    pub name: String,
    pub alignment_ms: u64,
    pub sync_ms: u64,
    pub async_ms: u64,
    /// Written for it.
    pub bytes: u64,
    /// All that it refers to.
    pub full_bytes: u64,
}

impl CheckpointDetails {
    pub(crate) fn bytes(&self) -> u64 {
        self.subtasks.iter().map(|subtask| subtask.bytes).sum()
    }

    pub(crate) fn full_bytes(&self) -> u64 {
        self.subtasks.iter().map(|subtask| subtask.full_bytes).sum()
    }
}

impl VertexDetails {
    pub(crate) fn sum(&self, of: impl Fn(&SubtaskDetails) -> u64) -> u64 {
        self.subtasks.iter().map(of).sum()
    }
}
