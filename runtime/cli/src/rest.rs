//! The job of this process as the REST interface shows it: a cluster of one job.

use crate::report;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use streamrt_graph::EdgePartitioner;
use streamrt_jobmanager::job_master::{CheckpointReport, CheckpointStatus, JobState};
use streamrt_minicluster::JobRemote;
use streamrt_rpc::SubtaskReport;
use streamrt_taskmanager::{SubtaskCounters, VertexReport};
use streamrt_types::Result;
use streamrt_web::{
    Bound, CheckpointDetails, ClusterApi, Edge, JobDetails, Server, SubtaskCheckpoint,
    SubtaskDetails, VertexDetails,
};

struct OneJob {
    id: String,
    name: String,
    start_ms: i64,
    job: JobRemote,
}

/// Shows a job at an address, as long as what is returned lives.
///
/// # Errors
/// As [`Bound::serve`].
pub fn show(bound: Bound, id: String, name: &str, job: JobRemote) -> Result<Server> {
    let start_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis() as i64;
    let server = bound.serve(Arc::new(OneJob {
        id,
        name: name.to_owned(),
        start_ms,
        job,
    }))?;
    report::status(&format!(
        "the job is shown at http://{}/jobs/overview, its metrics at /metrics",
        server.address()
    ));
    Ok(server)
}

impl ClusterApi for OneJob {
    fn jobs(&self) -> Vec<JobDetails> {
        let vertices = self.job.vertices();
        let ids: Vec<String> = vertices.iter().map(|vertex| vertex.id.clone()).collect();
        vec![JobDetails {
            id: self.id.clone(),
            name: self.name.clone(),
            state: state(self.job.state()),
            start_ms: self.start_ms,
            duration_ms: self.job.progress().elapsed.as_millis() as u64,
            max_parallelism: self.job.max_parallelism(),
            parallelism: self.job.parallelism(),
            vertices: vertices
                .into_iter()
                .map(|vertex| details(vertex, &ids))
                .collect(),
        }]
    }

    fn checkpoints(&self, job: &str, n: usize) -> Vec<CheckpointDetails> {
        if job == self.id {
            self.job
                .checkpoints(n)
                .into_iter()
                .map(checkpoint)
                .collect()
        } else {
            Vec::new()
        }
    }
}

/// Flink knows no state for a job that is being stopped: it runs until its last checkpoint is
/// there.
fn state(state: JobState) -> &'static str {
    match state {
        JobState::Created => "CREATED",
        JobState::Running | JobState::Stopping => "RUNNING",
        JobState::Restarting => "RESTARTING",
        JobState::Cancelling => "CANCELLING",
    }
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
    }
}

fn checkpoint(report: CheckpointReport) -> CheckpointDetails {
    let (status, failure) = match report.status {
        CheckpointStatus::Pending => ("IN_PROGRESS", None),
        CheckpointStatus::Published => ("COMPLETED", None),
        CheckpointStatus::Failed { reason } => ("FAILED", Some(reason)),
    };
    let cost = |subtask: SubtaskReport| SubtaskCheckpoint {
        name: subtask.name,
        alignment_ms: subtask.alignment_us / 1000,
        sync_ms: subtask.sync_us / 1000,
        async_ms: subtask.async_us / 1000,
        bytes: subtask.bytes,
        full_bytes: subtask.full_bytes,
    };
    CheckpointDetails {
        id: report.checkpoint,
        is_savepoint: report.kind == "savepoint",
        status,
        failure,
        trigger_ms: report.triggered_ms,
        duration_ms: report.duration_us / 1000,
        subtasks: report.subtasks.into_iter().map(cost).collect(),
    }
}
