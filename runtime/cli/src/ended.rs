//! What tasks and checkpoints of jobs were when they ended, for those who look later. It is kept in
//! memory, as in Flink without a history server.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use streamrt_web::{CheckpointDetails, JobDetails};

/// How many jobs are remembered.
const KEPT: usize = 100;

/// A job as it was at its end.
#[derive(Clone)]
pub struct EndedJob {
    pub details: JobDetails,
    pub checkpoints: Vec<CheckpointDetails>,
}

/// See the module.
#[derive(Default)]
pub struct EndedJobs(Mutex<VecDeque<EndedJob>>);

impl EndedJobs {
    pub fn keep(&self, job: EndedJob) {
        let mut jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.len() == KEPT {
            jobs.pop_front();
        }
        jobs.push_back(job);
    }

    pub fn get(&self, id: &str) -> Option<EndedJob> {
        let jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = jobs.iter().rev().find(|job| job.details.status.id == id);
        found.cloned()
    }
}
