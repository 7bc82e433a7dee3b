//! What has made a job start again, for people: how often, and why the last times.

use std::collections::VecDeque;
use streamrt_rpc::WireError;

/// How many failures are remembered; as many as Flink's `web.exception-history-size` says.
const KEPT: usize = 16;

/// Why tasks of a job ended, in this process.
#[derive(Debug, Clone, Default)]
pub struct Failures {
    /// How often tasks were, or are about to be, started again: Flink's `numRestarts`.
    pub n_restarts: u64,
    /// The oldest first.
    pub last: VecDeque<FailureReport>,
}

/// One failure after which the job, or a region of it, was started again.
#[derive(Debug, Clone, PartialEq)]
pub struct FailureReport {
    /// In ms since the epoch.
    pub at_ms: i64,
    pub error: WireError,
}

impl Failures {
    pub(super) fn restart(&mut self, at_ms: i64, error: WireError) {
        self.n_restarts += 1;
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(FailureReport { at_ms, error });
    }
}
