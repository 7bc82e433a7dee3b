//! The counters of a job's tasks, by what they are good for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use streamrt_operator::TaskMetrics;
use streamrt_types::WATERMARK_MIN;

/// The counters of all tasks.
#[derive(Default)]
pub(crate) struct JobMetrics {
    pub regions: Vec<RegionMetrics>,
    /// Those of earlier attempts, up to the checkpoint that this one goes on from.
    pub dead_letters_before: u64,
}

/// The counters of a region's tasks.
#[derive(Default)]
pub(crate) struct RegionMetrics {
    pub sources: Vec<Arc<TaskMetrics>>,
    /// One for each sink operator.
    pub sinks: Vec<Arc<TaskMetrics>>,
    pub tasks: Vec<Arc<TaskMetrics>>,
}

impl JobMetrics {
    fn sum(&self, of: impl Fn(&RegionMetrics) -> u64) -> u64 {
        self.regions.iter().map(of).sum()
    }

    pub fn progress(&self, elapsed: Duration) -> Progress {
        let sources = self.regions.iter().flat_map(|region| &region.sources);
        let sinks = self.regions.iter().flat_map(|region| &region.sinks);
        let blocked = sources
            .map(|metrics| metrics.back_pressured_ns.load(Ordering::Relaxed))
            .max()
            .unwrap_or(0);
        let watermarks = sinks.map(|metrics| metrics.watermark.load(Ordering::Relaxed));
        Progress {
            records_in: self.sum(|region| sum(&region.sources, |metrics| &metrics.records_in)),
            records_out: self.sum(|region| sum(&region.sinks, |metrics| &metrics.records_in)),
            watermark: watermarks
                .min()
                .filter(|watermark| *watermark != WATERMARK_MIN),
            back_pressure: (blocked as f64 / elapsed.as_nanos().max(1) as f64).min(1.0),
            late_records: self.sum(|region| region.sum_of_all(|metrics| &metrics.late_records)),
            dropped_at_end: self.sum(|region| region.sum_of_all(|metrics| &metrics.dropped_at_end)),
            dead_letters_before: self.dead_letters_before,
            dead_letters: self.sum(|region| region.sum_of_all(|metrics| &metrics.dead_letters)),
            dropped_timers: self.sum(|region| region.sum_of_all(|metrics| &metrics.dropped_timers)),
            dropped_timer: self
                .regions
                .iter()
                .flat_map(|region| &region.tasks)
                .find_map(|task| task.first_dropped_timer.get().cloned()),
            elapsed,
        }
    }

    pub fn snapshot_times(&self) -> SnapshotTimes {
        let most = |of: fn(&TaskMetrics) -> &AtomicU64| {
            self.regions
                .iter()
                .flat_map(|region| &region.tasks)
                .map(|metrics| of(metrics).load(Ordering::Relaxed))
                .max()
                .unwrap_or(0)
        };
        SnapshotTimes {
            taken: most(|metrics| &metrics.checkpoints),
            alignment: Duration::from_nanos(most(|metrics| &metrics.alignment_ns)),
            sync: Duration::from_nanos(most(|metrics| &metrics.sync_ns)),
        }
    }
}

impl RegionMetrics {
    fn sum_of_all(&self, of: impl Fn(&TaskMetrics) -> &AtomicU64) -> u64 {
        sum(&self.tasks, &of) + sum(&self.sinks, &of)
    }
}

fn sum(metrics: &[Arc<TaskMetrics>], of: impl Fn(&TaskMetrics) -> &AtomicU64) -> u64 {
    let counters = metrics.iter().map(|metrics| of(metrics));
    counters
        .map(|counter| counter.load(Ordering::Relaxed))
        .sum()
}

/// A look at a running job. What is counted is counted since it was started last.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// Records that sources have read.
    pub records_in: u64,
    /// Records that sinks have got.
    pub records_out: u64,
    /// The smallest watermark of the tasks, in ms; `None` where there is none yet.
    pub watermark: Option<i64>,
    /// The share of time, 0 to 1, that the slowest source task has waited for room so far.
    pub back_pressure: f64,
    pub late_records: u64,
    pub dead_letters: u64,
    /// Those of earlier starts of the job, up to the checkpoint that this one goes on from.
    pub dead_letters_before: u64,
    /// Event-time timers that firings at the end of the input registered: they do not fire.
    pub dropped_timers: u64,
    /// One of them, in words.
    pub dropped_timer: Option<String>,
    /// Windows and timers of processing time that were not due at the end of the input.
    pub dropped_at_end: u64,
    pub elapsed: Duration,
}

/// What the last snapshots of a job's tasks cost them: the most of any task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SnapshotTimes {
    /// Snapshots that the task with the most of them has taken.
    pub taken: u64,
    /// From the first barrier to the last.
    pub alignment: Duration,
    /// On the task's thread.
    pub sync: Duration,
}
