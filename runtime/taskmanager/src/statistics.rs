//! What the last checkpoints of a job cost, as a whole and for each subtask. Kept in memory, for
//! people; it goes on over restarts.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So many checkpoints are remembered.
const KEPT: usize = 100;

/// What one checkpoint cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointReport {
    pub checkpoint: u64,
    /// `checkpoint`, `savepoint` or `upgrade`.
    pub kind: String,
    pub status: CheckpointStatus,
    /// When it began, in ms since the epoch.
    pub triggered_ms: i64,
    /// From its beginning until it was published or given up.
    pub duration_us: u64,
    /// Those that have written their state, in the order of the tasks.
    pub subtasks: Vec<SubtaskReport>,
}

/// How far a checkpoint has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckpointStatus {
    Pending,
    Published,
    Failed { reason: String },
}

/// What a checkpoint cost one subtask.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubtaskReport {
    /// As in `count (2/4)`.
    pub name: String,
    /// From the first barrier to the last.
    pub alignment_us: u64,
    /// On the task's thread.
    pub sync_us: u64,
    /// To turn the frozen state into bytes and to write it.
    pub async_us: u64,
    /// Written for this checkpoint.
    pub bytes: u64,
    /// All that the checkpoint refers to.
    pub full_bytes: u64,
}

impl CheckpointReport {
    /// Written by all subtasks.
    pub fn bytes(&self) -> u64 {
        self.subtasks.iter().map(|subtask| subtask.bytes).sum()
    }

    /// All that it refers to.
    pub fn full_bytes(&self) -> u64 {
        self.subtasks.iter().map(|subtask| subtask.full_bytes).sum()
    }

    /// The longest that a task stood still for it, on its thread.
    pub fn longest_pause(&self) -> Duration {
        Duration::from_micros(
            self.subtasks
                .iter()
                .map(|subtask| subtask.sync_us)
                .max()
                .unwrap_or(0),
        )
    }
}

/// The reports of a job, for the coordinator's thread to write and anybody to read.
#[derive(Clone, Default)]
pub(crate) struct Statistics {
    reports: Arc<Mutex<VecDeque<(CheckpointReport, Instant)>>>,
}

impl Statistics {
    /// A checkpoint has begun; it may be told twice.
    pub fn begins(&self, checkpoint: u64, kind: &str, now_ms: i64) {
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        if reports.back().is_some_and(|(last, _)| {
            last.checkpoint == checkpoint && last.status == CheckpointStatus::Pending
        }) {
            return;
        }
        let (kind, status) = (kind.to_owned(), CheckpointStatus::Pending);
        let report = CheckpointReport {
            checkpoint,
            kind,
            status,
            triggered_ms: now_ms,
            duration_us: 0,
            subtasks: Vec::new(),
        };
        reports.push_back((report, Instant::now()));
        let surplus = reports.len().saturating_sub(KEPT);
        reports.drain(..surplus);
    }

    /// A subtask has written its state.
    pub fn acknowledged(&self, checkpoint: u64, subtask: SubtaskReport) {
        self.of(checkpoint, |report, _| report.subtasks.push(subtask));
    }

    /// The checkpoint counts, or never will.
    pub fn ends(&self, checkpoint: u64, status: CheckpointStatus) {
        self.of(checkpoint, |report, began| {
            report.duration_us = began.elapsed().as_micros() as u64;
            report.status = status;
        });
    }

    /// The longest that a task stood still for this checkpoint.
    pub fn longest_pause(&self, checkpoint: u64) -> Duration {
        let mut pause = Duration::ZERO;
        self.of(checkpoint, |report, _| pause = report.longest_pause());
        pause
    }

    fn of(&self, checkpoint: u64, change: impl FnOnce(&mut CheckpointReport, Instant)) {
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((report, began)) = reports
            .iter_mut()
            .rev()
            .find(|(report, _)| report.checkpoint == checkpoint)
        {
            change(report, *began);
        }
    }

    /// The last `n`, the newest last, with the subtasks of each in order.
    pub fn last(&self, n: usize) -> Vec<CheckpointReport> {
        let reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        let first = reports.len().saturating_sub(n);
        let finished = |(report, began): &(CheckpointReport, Instant)| match report.status {
            CheckpointStatus::Pending => CheckpointReport {
                duration_us: began.elapsed().as_micros() as u64,
                ..report.clone()
            },
            _ => report.clone(),
        };
        reports.iter().skip(first).map(finished).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_reports_are_kept_with_their_subtasks() {
        let statistics = Statistics::default();
        for checkpoint in 1..=KEPT as u64 + 5 {
            statistics.begins(checkpoint, "checkpoint", 7);
            statistics.begins(checkpoint, "checkpoint", 8);
            let subtask = |name: &str, sync_us| SubtaskReport {
                name: name.into(),
                sync_us,
                bytes: 3,
                full_bytes: 10,
                ..SubtaskReport::default()
            };
            statistics.acknowledged(checkpoint, subtask("a", 5));
            statistics.acknowledged(checkpoint, subtask("b", 4));
            statistics.ends(checkpoint, CheckpointStatus::Published);
        }
        let failed = CheckpointStatus::Failed {
            reason: "full".into(),
        };
        statistics.ends(KEPT as u64 + 5, failed.clone());
        statistics.acknowledged(1, SubtaskReport::default());
        let all = statistics.last(1000);
        assert_eq!(
            (
                all.len(),
                all[0].checkpoint,
                all[0].subtasks.len(),
                all[0].triggered_ms
            ),
            (KEPT, 6, 2, 7)
        );
        let last = statistics.last(1).remove(0);
        assert_eq!(
            (
                last.bytes(),
                last.full_bytes(),
                last.longest_pause(),
                &last.status
            ),
            (6, 20, Duration::from_micros(5), &failed)
        );
    }

    #[test]
    fn a_number_that_is_used_again_behind_a_failure_has_a_report_of_its_own() {
        let statistics = Statistics::default();
        statistics.begins(4, "checkpoint", 1);
        statistics.ends(
            4,
            CheckpointStatus::Failed {
                reason: "killed".into(),
            },
        );
        statistics.begins(4, "upgrade", 2);
        statistics.ends(4, CheckpointStatus::Published);
        let kinds: Vec<(String, bool)> = statistics
            .last(9)
            .into_iter()
            .map(|report| (report.kind, report.status == CheckpointStatus::Published))
            .collect();
        assert_eq!(
            kinds,
            [
                ("checkpoint".to_owned(), false),
                ("upgrade".to_owned(), true)
            ]
        );
    }
}
