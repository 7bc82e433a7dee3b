//! The jobs of a JobManager as its interface shows them.

use crate::embedded::{Deployed, Embedded};
use std::collections::BTreeMap;
use std::time::Duration;
use streamrt_checkpoint::EndState;
use streamrt_jobmanager::{
    Dispatcher, End, Job, Operation, Phase, Registered, Specification, Totals, Trigger,
};
use streamrt_types::{LogLine, Result, SystemClock};
use streamrt_web::{CheckpointDetails, ClusterApi, JobDetails, JobName, JobStatus, Slots, State};

/// See the module.
pub struct Cluster {
    pub dispatcher: Dispatcher<Embedded>,
    /// The options that it was started with.
    pub configuration: BTreeMap<String, String>,
}

impl ClusterApi for Cluster {
    fn jobs(&self) -> Vec<JobDetails> {
        let jobs = self.dispatcher.jobs();
        jobs.iter().map(|job| self.details(job)).collect()
    }

    fn now_ms(&self) -> i64 {
        SystemClock::shared().now_ms()
    }

    fn names(&self) -> Vec<JobName> {
        let jobs = self.dispatcher.jobs();
        let name = |job: &Job<Deployed>| JobName {
            id: job.id.to_string(),
            name: job.name().to_owned(),
            has_ended: job.is_over(),
        };
        jobs.iter().map(name).collect()
    }

    fn job(&self, id: &str) -> Option<JobDetails> {
        let job = self.dispatcher.job(id).ok()?;
        Some(self.details(&job))
    }

    fn checkpoints(&self, job: &str, n: usize) -> Vec<CheckpointDetails> {
        let running = self.dispatcher.job(job).ok().and_then(|job| job.running);
        match running {
            Some(deployed) => deployed.running.checkpoints(n),
            None => {
                let ended = self.dispatcher.runner().ended.get(job);
                let all = ended.map_or_else(Vec::new, |ended| ended.checkpoints);
                let first = all.len().saturating_sub(n);
                all.into_iter().skip(first).collect()
            }
        }
    }

    fn logs(&self, job: &str, n: usize) -> Vec<LogLine> {
        let job = self.dispatcher.job(job);
        job.map(|job| job.log.last(n)).unwrap_or_default()
    }

    fn slots(&self) -> Slots {
        let (total, free) = self.dispatcher.slots();
        Slots { total, free }
    }

    fn configuration(&self) -> BTreeMap<String, String> {
        self.configuration.clone()
    }

    fn component_bytes_max(&self) -> usize {
        self.dispatcher.blobs().bytes_max()
    }

    fn has_component(&self, digest: &str) -> bool {
        self.dispatcher.blobs().contains(digest)
    }

    fn put_component(&self, digest: &str, bytes: Vec<u8>) -> Result<bool> {
        self.dispatcher.blobs().put(digest, bytes)
    }

    fn submit(&self, specification: Specification) -> Result<String> {
        let id = self.dispatcher.submit(specification)?;
        Ok(id.to_string())
    }

    fn begin(&self, job: &str, operation: Operation) -> Result<String> {
        self.dispatcher.begin(job, operation)
    }

    fn trigger(&self, job: &str, trigger: &str, wait: Duration) -> Result<Trigger> {
        self.dispatcher.trigger(job, trigger, wait)
    }
}

impl Cluster {
    fn details(&self, job: &Job<Deployed>) -> JobDetails {
        let id = job.id.to_string();
        let registered = match &job.registered {
            Ok(registered) => &**registered,
            Err(failure) => {
                let status = JobStatus {
                    id,
                    state: State::Unreadable,
                    ended_ms: Some(0),
                    reason: Some(failure.clone()),
                    ..JobStatus::default()
                };
                return without_tasks(status);
            }
        };
        let Registered {
            specification,
            submitted_ms,
            end,
            ..
        } = registered;
        let name = specification.name.clone();
        if let Some(deployed) = &job.running {
            return deployed.running.details(id, name, *submitted_ms);
        }
        let place = self
            .dispatcher
            .runner()
            .checkpoints_of(&job.id, specification);
        let status = JobStatus {
            id,
            name,
            parallelism: specification.parallelism,
            started_ms: *submitted_ms,
            checkpoint_dir: Some(place),
            ..of_phase(job.phase)
        };
        let Some((end, ended_ms)) = end else {
            return without_tasks(status);
        };
        let before = self.dispatcher.runner().ended.get(job.id.as_str());
        let before = before.map(|ended| ended.details).unwrap_or_default();
        JobDetails {
            status: JobStatus {
                restarts: before.status.restarts,
                resumed_from: before.status.resumed_from,
                ..ended(status, end.clone(), *ended_ms)
            },
            ..before
        }
    }
}

fn without_tasks(status: JobStatus) -> JobDetails {
    JobDetails {
        status,
        ..JobDetails::default()
    }
}

fn of_phase(phase: Phase) -> JobStatus {
    let (state, missing_slots) = match phase {
        Phase::Preparing => (State::Preparing, None),
        Phase::Waiting { missing } => (State::Waiting, Some(missing)),
        Phase::Starting => (State::Starting, None),
        Phase::Running => (State::Running, None),
        // The process ends, and the next one goes on with the job.
        Phase::Ended => (State::Created, None),
    };
    JobStatus {
        state,
        missing_slots,
        ..JobStatus::default()
    }
}

fn ended(status: JobStatus, end: End, ended_ms: i64) -> JobStatus {
    let totals = end.totals.unwrap_or_default();
    let Totals {
        records_in,
        records_out,
        late_records,
        dead_letters,
        elapsed_ms,
    } = totals;
    JobStatus {
        state: match end.state {
            EndState::Finished => State::Finished,
            EndState::Canceled => State::Cancelled,
            EndState::Failed => State::Failed,
            EndState::Stopped => State::Stopped,
        },
        reason: end.reason,
        stopped_at: end.checkpoint,
        ended_ms: Some(ended_ms),
        records_in,
        records_out,
        late_records,
        dead_letters,
        elapsed_ms,
        ..status
    }
}
