//! An attempt to run a job: its regions, and the coordinator of its checkpoints.

use super::region::RegionRestart;
use super::upgrade::Swap;
use super::version::Version;
use std::collections::VecDeque;
use std::time::Duration;
use streamrt_checkpoint::{Coordinator, SubtaskSnapshot};
use streamrt_rpc::WireError;

/// What the tasks of a region are doing, in Flink's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExecutionState {
    /// Its tasks are being made.
    Deploying,
    Running,
    Finished,
    Failed,
}

/// A pipelined region: its tasks start and fail together.
#[derive(Debug)]
pub(crate) struct Region {
    pub state: ExecutionState,
    /// The id of the attempt to run it, in every message.
    pub generation: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Attempt {
    pub regions: Vec<Region>,
    /// The region of every task.
    pub region_of: Vec<usize>,
    /// The (vertex, subtask) of every task.
    pub places: Vec<(u32, u32)>,
    /// None in a job without checkpoints.
    pub coordinator: Option<Coordinator<SubtaskSnapshot>>,
    pub began: Duration,
    /// The last checkpoint whose commit each task has carried out; `u64::MAX` for one that is gone.
    pub committed: Vec<u64>,
    /// Records that each task has skipped in all, once it is gone.
    pub dead_letters: Vec<u64>,
    /// The number of its first checkpoint.
    pub first_checkpoint: u64,
    /// Commits up to this checkpoint were done before its tasks ran.
    pub settled: u64,
    /// Why all regions are ended.
    pub failing: Option<WireError>,
    /// The upgrade that was begun: tasks may run its code.
    pub upgrade: Option<Swap>,
    pub restart: Option<RegionRestart>,
    /// Regions that failed while another one starts again.
    pub failed: VecDeque<(usize, WireError)>,
    /// How often regions were suspended after this checkpoint.
    pub suspended: (u64, u32),
}

impl Attempt {
    pub fn new(version: &Version, generation: u64) -> Attempt {
        let n_tasks = version.execution.subtasks.len();
        let region = |_: &Vec<usize>| Region {
            state: ExecutionState::Deploying,
            generation,
        };
        Attempt {
            regions: version.regions.iter().map(region).collect(),
            region_of: version.region_of(),
            places: version.places(),
            committed: vec![0; n_tasks],
            dead_letters: vec![0; n_tasks],
            ..Attempt::default()
        }
    }

    /// Whether the task's region runs in this generation.
    pub fn is_current(&self, task: usize, generation: u64) -> bool {
        let region = self
            .region_of
            .get(task)
            .map(|region| &self.regions[*region]);
        region.is_some_and(|region| {
            region.generation == generation && region.state == ExecutionState::Running
        })
    }

    /// The regions whose tasks run.
    pub fn running(&self) -> Vec<usize> {
        let regions = self.regions.iter().enumerate();
        regions
            .filter(|(_, region)| region.state == ExecutionState::Running)
            .map(|(number, _)| number)
            .collect()
    }

    /// The commits of all checkpoints up to this one are done.
    pub fn all_committed(&self) -> u64 {
        let least = self.committed.iter().copied().min().unwrap_or_default();
        least.max(self.settled)
    }

    /// Keeps the first error that is no consequence of another one.
    pub fn keep_error(&mut self, error: WireError) {
        let is_consequence = |known: &WireError| known.is(streamrt_types::code::CANCELLED);
        if self.failing.as_ref().is_none_or(is_consequence) {
            self.failing = Some(error);
        }
    }
}
