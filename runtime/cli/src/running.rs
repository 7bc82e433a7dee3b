//! A job that runs in this process, as others see it and command it: the only job of a `run`, or
//! one of a JobManager.

use crate::job::NewVersion;
use crate::plugin_file::Given;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use streamrt_graph::EdgePartitioner;
use streamrt_jobmanager::job_master::CheckpointStatus as Status;
use streamrt_jobmanager::job_master::{CheckpointReport, FailureReport, JobState, Upgraded};
use streamrt_jobmanager::{Failure, Outcome, Version};
use streamrt_minicluster::{JobHandle, JobRemote};
use streamrt_rpc::SubtaskReport;
use streamrt_taskmanager::{SubtaskCounters, VertexReport};
use streamrt_types::{BackendKind, Configuration, Error, Result};
use streamrt_web::{
    CheckpointDetails, CheckpointStatus, Checkpointing, Edge, JobDetails, JobStatus, State,
    SubtaskCheckpoint, SubtaskDetails, VertexDetails,
};

/// See the module.
pub struct Running {
    pub remote: JobRemote,
    pub configuration: Configuration,
    load: NewVersion,
    resumed_from: Option<u64>,
    components: Vec<String>,
    remarks: Vec<String>,
}

impl Running {
    /// `load` makes a new version of the job; `components` says of each where its code came from.
    pub fn new(
        handle: &JobHandle,
        configuration: Configuration,
        load: NewVersion,
        components: Vec<String>,
    ) -> Running {
        Running {
            components,
            remote: handle.remote(),
            configuration,
            load,
            resumed_from: handle.resumed_from().map(|(checkpoint, _)| checkpoint),
            remarks: handle.remarks().to_vec(),
        }
    }

    /// As it is now.
    pub fn details(&self, id: String, name: String, started_ms: i64) -> JobDetails {
        let progress = self.remote.progress();
        let (vertices, failures) = (self.remote.vertices(), self.remote.failures());
        let now = state(self.remote.state());
        let last: Vec<(i64, Failure)> = failures.last.into_iter().map(failure).collect();
        let reason = last.last().filter(|_| now == State::Restarting);
        let reason = reason.map(|(_, failure)| failure.clone());
        let ids: Vec<String> = vertices.iter().map(|vertex| vertex.id.clone()).collect();
        JobDetails {
            status: JobStatus {
                id,
                name,
                state: now,
                parallelism: self.remote.parallelism(),
                records_in: progress.records_in,
                records_out: progress.records_out,
                late_records: progress.late_records,
                dead_letters: progress.dead_letters,
                elapsed_ms: ms(progress.elapsed),
                started_ms,
                checkpoint_dir: self.configuration.checkpoint_dir.clone(),
                resumed_from: self.resumed_from,
                restarts: failures.n_restarts,
                reason,
                components: self.components.clone(),
                remarks: self.remarks.clone(),
                ..JobStatus::default()
            },
            failures: last,
            max_parallelism: self.remote.max_parallelism(),
            checkpointing: checkpointing(&self.configuration),
            vertices: vertices
                .into_iter()
                .map(|vertex| details(vertex, &ids))
                .collect(),
        }
    }

    /// What the last checkpoints cost.
    pub fn checkpoints(&self, n: usize) -> Vec<CheckpointDetails> {
        self.remote
            .checkpoints(n)
            .into_iter()
            .map(checkpoint)
            .collect()
    }

    /// Puts another version in its place, whose components are asked for by their digests.
    ///
    /// # Errors
    /// S7011 if it cannot keep the state, and whatever is wrong with it; the old one runs on.
    pub fn upgrade(
        &self,
        version: &Version,
        component: impl Fn(&str) -> Result<Vec<u8>>,
    ) -> Result<Outcome> {
        let files = files(version, component)?;
        let (spec, plugins) = (self.load)(Path::new(&version.file), Arc::new(files))?;
        let Upgraded {
            checkpoint,
            in_place,
            pause,
            probation,
        } = self.remote.upgrade(spec, plugins)?;
        Ok(Outcome::Upgraded {
            checkpoint,
            in_place,
            pause_us: pause.as_micros() as u64,
            probation_ms: ms(probation),
        })
    }
}

/// What a version is read from: its job file, and its components by their paths.
///
/// # Errors
/// If a component is not there.
pub fn files(version: &Version, component: impl Fn(&str) -> Result<Vec<u8>>) -> Result<Given> {
    // Paths of components are relative to the folder of the job file.
    let folder = Path::new(&version.file).parent().unwrap_or(Path::new(""));
    let folder = version.job_file.is_some().then_some(folder);
    let mut files = Given(Default::default());
    for named in &version.components {
        let path = folder.map_or_else(|| PathBuf::from(&named.path), |at| at.join(&named.path));
        files.0.insert(path, component(&named.digest)?);
    }
    if let Some(text) = &version.job_file {
        files.0.insert((&version.file).into(), text.clone().into());
    }
    Ok(files)
}

fn state(state: JobState) -> State {
    match state {
        JobState::Created => State::Created,
        JobState::Running => State::Running,
        JobState::Restarting => State::Restarting,
        JobState::Stopping => State::Stopping,
        JobState::Cancelling => State::Cancelling,
    }
}

fn failure(report: FailureReport) -> (i64, Failure) {
    (report.at_ms, Failure::from(&Error::from(report.error)))
}

fn checkpointing(configuration: &Configuration) -> Option<Checkpointing> {
    Some(Checkpointing {
        interval_ms: configuration.checkpoint_interval_ms?,
        timeout_ms: configuration.checkpoint_timeout_ms,
        min_pause_ms: configuration.checkpoint_min_pause_ms,
        tolerable_failures: configuration.tolerable_failures,
        state_backend: match configuration.state_backend {
            BackendKind::Memory => "memory",
            BackendKind::Rocksdb => "rocksdb",
        },
    })
}

fn details(vertex: VertexReport, ids: &[String]) -> VertexDetails {
    let edge = |(from, partitioner): (usize, EdgePartitioner)| Edge {
        from: ids[from].clone(),
        ship_strategy: strategy(&partitioner),
    };
    VertexDetails {
        id: vertex.id,
        name: vertex.name,
        inputs: vertex.inputs.into_iter().map(edge).collect(),
        subtasks: vertex.subtasks.into_iter().map(subtask).collect(),
    }
}

fn strategy(partitioner: &EdgePartitioner) -> &'static str {
    match partitioner {
        EdgePartitioner::Forward => "FORWARD",
        EdgePartitioner::Hash(_) => "HASH",
        EdgePartitioner::Rebalance => "REBALANCE",
        EdgePartitioner::Broadcast => "BROADCAST",
        EdgePartitioner::Global => "GLOBAL",
    }
}

fn ms(time: Duration) -> u64 {
    time.as_millis() as u64
}

fn subtask(counters: SubtaskCounters) -> SubtaskDetails {
    let SubtaskCounters {
        records_in,
        records_out,
        late_records,
        watermark,
        busy,
        idle,
        back_pressured,
        per_second,
        user,
    } = counters;
    let (busy_ms, idle_ms, back_pressured_ms) = (ms(busy), ms(idle), ms(back_pressured));
    SubtaskDetails {
        records_in,
        records_out,
        late_records,
        watermark,
        busy_ms,
        idle_ms,
        back_pressured_ms,
        busy_ms_per_second: per_second.busy_ms,
        idle_ms_per_second: per_second.idle_ms,
        back_pressured_ms_per_second: per_second.back_pressured_ms,
        user,
    }
}

fn checkpoint(report: CheckpointReport) -> CheckpointDetails {
    let status = match report.status {
        Status::Pending => CheckpointStatus::Pending,
        Status::Published => CheckpointStatus::Published,
        Status::Failed { reason } => CheckpointStatus::Failed { reason },
    };
    CheckpointDetails {
        checkpoint: report.checkpoint,
        kind: report.kind,
        status,
        triggered_ms: report.triggered_ms,
        duration_us: report.duration_us,
        subtasks: report.subtasks.into_iter().map(cost).collect(),
    }
}

fn cost(subtask: SubtaskReport) -> SubtaskCheckpoint {
    let SubtaskReport {
        name,
        alignment_us,
        sync_us,
        async_us,
        bytes,
        full_bytes,
    } = subtask;
    SubtaskCheckpoint {
        name,
        alignment_us,
        sync_us,
        async_us,
        bytes,
        full_bytes,
    }
}
