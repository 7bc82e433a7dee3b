//! What a coordinator is told before it begins: how often, and which tasks there are.

use crate::{History, SnapshotKind};
use std::time::Duration;
use streamrt_types::Configuration;

/// How often, how long, how many.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Settings {
    /// From the beginning of one checkpoint to that of the next. None: they are made on request,
    /// and at the end.
    pub interval: Option<Duration>,
    /// At least so long from the end of one checkpoint to the beginning of the next; requests do
    /// not wait for it.
    pub min_pause: Duration,
    /// A checkpoint that is not acknowledged so long after its beginning is given up.
    pub timeout: Duration,
    /// How many checkpoints may fail one after the other.
    pub tolerable_failures: u32,
    /// How many published checkpoints are kept, at least 1; savepoints do not count.
    pub retained: u32,
    /// The number of the next checkpoint.
    pub first_checkpoint: u64,
    /// Checkpoints of earlier leaders that are kept, by rising number.
    pub published: Vec<u64>,
}

impl Settings {
    /// What the user wants, and what is there already.
    pub fn new(configuration: &Configuration, history: &History) -> Settings {
        let checkpoints = history
            .published
            .iter()
            .filter(|published| published.kind == SnapshotKind::Checkpoint);
        Settings {
            interval: configuration
                .checkpoint_interval_ms
                .map(Duration::from_millis),
            min_pause: Duration::from_millis(configuration.checkpoint_min_pause_ms),
            timeout: Duration::from_millis(configuration.checkpoint_timeout_ms),
            tolerable_failures: configuration.tolerable_failures,
            retained: configuration.retained_checkpoints,
            first_checkpoint: history.next_checkpoint(),
            published: checkpoints.map(|published| published.checkpoint).collect(),
        }
    }
}

/// A subtask.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TaskNode {
    /// For messages, as in `count (2/4)`.
    pub name: String,
    /// The tasks that send to it, by their index in [`Topology::tasks`].
    pub predecessors: Vec<usize>,
}

/// All tasks of a job. A task's number is its index.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Topology {
    pub tasks: Vec<TaskNode>,
}
