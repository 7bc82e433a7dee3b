//! The outputs of a task: one result partition for each edge that leaves it.

use std::sync::Arc;
use std::time::Duration;
use streamrt_exchange::ResultPartition;
use streamrt_operator::{Exits, TaskMetrics};
use streamrt_types::{Barrier, Batch, Result, Status, Watermark};

/// The partitions by exit number.
pub struct TaskExits {
    pub partitions: Vec<ResultPartition>,
    pub metrics: Arc<TaskMetrics>,
    /// By exit: whether watermarks are made after it, from the splits of rows.
    pub tells_splits: Vec<bool>,
}

impl TaskExits {
    pub fn barrier(&mut self, barrier: Barrier) -> Result<()> {
        self.partitions
            .iter_mut()
            .try_for_each(|partition| partition.barrier(barrier))
    }

    pub fn end_of_input(&mut self) -> Result<()> {
        self.partitions
            .iter_mut()
            .try_for_each(ResultPartition::end_of_input)
    }

    /// How long sends have waited since the last call.
    pub fn take_blocked(&mut self) -> Duration {
        self.partitions
            .iter_mut()
            .map(ResultPartition::take_blocked)
            .sum()
    }
}

impl Exits for TaskExits {
    fn batch(&mut self, exit: usize, batch: Batch) -> Result<()> {
        TaskMetrics::add(&self.metrics.records_out, batch.n_rows() as u64);
        self.partitions[exit].batch(batch)
    }

    fn watermark(&mut self, exit: usize, watermark: Watermark) -> Result<()> {
        self.partitions[exit].watermark(watermark)
    }

    fn status(&mut self, exit: usize, status: Status) -> Result<()> {
        self.partitions[exit].status(status)
    }

    fn split_finished(&mut self, exit: usize, number: u64) -> Result<()> {
        if self.tells_splits[exit] {
            self.partitions[exit].split_finished(number)
        } else {
            Ok(())
        }
    }
}
