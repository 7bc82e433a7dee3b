//! What the last checkpoints of a job cost, as a whole and for each subtask. Kept in memory, for
//! people; it goes on over restarts.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;
use streamrt_rpc::SubtaskReport;

/// How many checkpoints are remembered.
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

/// The reports of a job.
#[derive(Debug, Default)]
pub struct Statistics {
    /// With the time at which each began.
    reports: VecDeque<(CheckpointReport, Duration)>,
}

impl Statistics {
    /// A checkpoint has begun; it may be told twice.
    pub fn begins(&mut self, checkpoint: u64, kind: &str, now_ms: i64, now: Duration) {
        let pending = |report: &CheckpointReport| {
            report.checkpoint == checkpoint && report.status == CheckpointStatus::Pending
        };
        if self.reports.back().is_some_and(|(last, _)| pending(last)) {
            return;
        }
        let report = CheckpointReport {
            checkpoint,
            kind: kind.to_owned(),
            status: CheckpointStatus::Pending,
            triggered_ms: now_ms,
            duration_us: 0,
            subtasks: Vec::new(),
        };
        self.reports.push_back((report, now));
        let surplus = self.reports.len().saturating_sub(KEPT);
        self.reports.drain(..surplus);
    }

    /// A subtask has written its state.
    pub fn acknowledged(&mut self, checkpoint: u64, subtask: SubtaskReport) {
        if let Some((report, _)) = self.of(checkpoint) {
            report.subtasks.push(subtask);
        }
    }

    /// The checkpoint counts, or never will.
    pub fn ends(&mut self, checkpoint: u64, status: CheckpointStatus, now: Duration) {
        if let Some((report, began)) = self.of(checkpoint) {
            report.duration_us = micros(now.saturating_sub(*began));
            report.status = status;
        }
    }

    /// The longest that a task stood still for this checkpoint.
    pub fn longest_pause(&mut self, checkpoint: u64) -> Duration {
        let report = self.of(checkpoint);
        report.map_or(Duration::ZERO, |(report, _)| report.longest_pause())
    }

    fn of(&mut self, checkpoint: u64) -> Option<&mut (CheckpointReport, Duration)> {
        let mut newest = self.reports.iter_mut().rev();
        newest.find(|(report, _)| report.checkpoint == checkpoint)
    }

    /// The last `n`, the newest last, with the subtasks of each in order.
    pub fn last(&self, n: usize, now: Duration) -> Vec<CheckpointReport> {
        let first = self.reports.len().saturating_sub(n);
        let finished = |(report, began): &(CheckpointReport, Duration)| match report.status {
            CheckpointStatus::Pending => CheckpointReport {
                duration_us: micros(now.saturating_sub(*began)),
                ..report.clone()
            },
            _ => report.clone(),
        };
        self.reports.iter().skip(first).map(finished).collect()
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_reports_are_kept_with_their_subtasks() {
        let (mut statistics, now) = (Statistics::default(), Duration::ZERO);
        for checkpoint in 1..=KEPT as u64 + 5 {
            statistics.begins(checkpoint, "checkpoint", 7, now);
            statistics.begins(checkpoint, "checkpoint", 8, now);
            let subtask = |name: &str, sync_us| SubtaskReport {
                name: name.into(),
                sync_us,
                bytes: 3,
                full_bytes: 10,
                ..SubtaskReport::default()
            };
            statistics.acknowledged(checkpoint, subtask("a", 5));
            statistics.acknowledged(checkpoint, subtask("b", 4));
            statistics.ends(checkpoint, CheckpointStatus::Published, now);
        }
        let failed = CheckpointStatus::Failed {
            reason: "full".into(),
        };
        statistics.ends(KEPT as u64 + 5, failed.clone(), now);
        statistics.acknowledged(1, SubtaskReport::default());
        let all = statistics.last(1000, now);
        assert_eq!(
            (
                all.len(),
                all[0].checkpoint,
                all[0].subtasks.len(),
                all[0].triggered_ms
            ),
            (KEPT, 6, 2, 7)
        );
        let last = statistics.last(1, now).remove(0);
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
        let (mut statistics, now) = (Statistics::default(), Duration::ZERO);
        statistics.begins(4, "checkpoint", 1, now);
        statistics.ends(
            4,
            CheckpointStatus::Failed {
                reason: "killed".into(),
            },
            now,
        );
        statistics.begins(4, "upgrade", 2, now);
        statistics.ends(4, CheckpointStatus::Published, now);
        let kinds: Vec<(String, bool)> = statistics
            .last(9, now)
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
