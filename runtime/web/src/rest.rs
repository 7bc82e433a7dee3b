//! Flink's REST paths for reading: overviews, a job with its vertices, plan and checkpoints.
//!
//! Fields that have no meaning here are left out, but for those that Flink's own scripts and
//! dashboards read without looking whether they are there. Ids and names are those of the job; a
//! path that names nothing is a 404 with a sentence, as all errors are `{"errors": ["..."]}`.
//!
//! # Source
//! Flink's REST API, version 1:
//! <https://nightlies.apache.org/flink/flink-docs-stable/docs/ops/rest_api/>.

mod cluster;
mod metrics;

use crate::api::{ClusterApi, JobDetails, SubtaskDetails, VertexDetails};
use crate::status::{CheckpointDetails, CheckpointStatus, SubtaskCheckpoint};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use streamrt_jobmanager::Failure;

/// Checkpoints that are shown, as in Flink.
const HISTORY: usize = 10;

/// All that a job remembers.
pub(crate) const ALL_CHECKPOINTS: usize = usize::MAX;

const VERSION: &str = concat!("streamrt ", env!("CARGO_PKG_VERSION"));

type Api = State<Arc<dyn ClusterApi>>;
type Answer = Result<Json<Value>, NotFound>;

/// What a path names is not there.
pub(crate) struct NotFound(String);

impl IntoResponse for NotFound {
    fn into_response(self) -> Response {
        error(StatusCode::NOT_FOUND, &self.0)
    }
}

/// An answer that says what is wrong.
pub(crate) fn error(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({"errors": [message]}))).into_response()
}

/// The routes below `/`.
pub(crate) fn routes() -> axum::Router<Arc<dyn ClusterApi>> {
    use axum::routing::get;
    axum::Router::new()
        .route("/overview", get(overview))
        .route("/config", get(config))
        .route("/jobs", get(jobs))
        .route("/jobs/overview", get(jobs_overview))
        .route("/jobs/{job}", get(job))
        .route("/jobs/{job}/plan", get(plan))
        .route("/jobs/{job}/config", get(job_config))
        .route("/jobs/{job}/exceptions", get(exceptions))
        .route("/jobs/{job}/accumulators", get(metrics::accumulators))
        .route("/jobs/{job}/metrics", get(metrics::of_job))
        .route("/jobs/{job}/checkpoints", get(checkpoints))
        .route("/jobs/{job}/checkpoints/config", get(checkpoint_config))
        .route(
            "/jobs/{job}/checkpoints/details/{checkpoint}",
            get(checkpoint),
        )
        .route("/jobs/{job}/vertices/{vertex}", get(vertex))
        .route("/jobs/{job}/vertices/{vertex}/subtasks", get(vertex))
        .route(
            "/jobs/{job}/vertices/{vertex}/metrics",
            get(metrics::of_vertex),
        )
        .route("/jobs/{job}/vertices/{vertex}/watermarks", get(watermarks))
        .route(
            "/jobs/{job}/vertices/{vertex}/backpressure",
            get(back_pressure),
        )
        .route("/taskmanagers", get(cluster::task_managers))
        .route("/jobmanager/config", get(cluster::configuration))
}

async fn overview(State(api): Api) -> Json<Value> {
    let jobs = api.jobs();
    let n = |states: &[&str]| {
        jobs.iter()
            .filter(|job| states.contains(&job.status.state.in_flink()))
            .count()
    };
    let slots = api.slots();
    Json(json!({
        "taskmanagers": 1,
        "slots-total": slots.total,
        "slots-available": slots.free,
        "jobs-running": n(&["INITIALIZING", "CREATED", "RUNNING", "RESTARTING", "CANCELLING"]),
        "jobs-finished": n(&["FINISHED"]),
        "jobs-cancelled": n(&["CANCELED"]),
        "jobs-failed": n(&["FAILED"]),
        "flink-version": VERSION,
        "flink-commit": "",
    }))
}

async fn config() -> Json<Value> {
    let features = json!({"web-submit": false, "web-cancel": false, "web-rescale": false, "web-history": false});
    Json(json!({
        "refresh-interval": 3000,
        "timezone-name": "UTC",
        "timezone-offset": 0,
        "flink-version": VERSION,
        "flink-revision": "",
        "features": features,
    }))
}

async fn jobs(State(api): Api) -> Json<Value> {
    let job =
        |job: &JobDetails| json!({"id": job.status.id, "status": job.status.state.in_flink()});
    Json(json!({"jobs": api.jobs().iter().map(job).collect::<Vec<_>>()}))
}

async fn jobs_overview(State(api): Api) -> Json<Value> {
    Json(json!({"jobs": api.jobs().iter().map(summary).collect::<Vec<_>>()}))
}

fn summary(job: &JobDetails) -> Value {
    let n_tasks: usize = job
        .vertices
        .iter()
        .map(|vertex| vertex.subtasks.len())
        .sum();
    json!({
        "jid": job.status.id,
        "name": job.status.name,
        "state": job.status.state.in_flink(),
        "start-time": job.status.started_ms,
        "end-time": job.status.ended_ms.unwrap_or(-1),
        "duration": job.status.elapsed_ms,
        "last-modification": job.status.ended_ms.unwrap_or(job.status.started_ms),
        "tasks": tasks(job.status.state.in_flink(), n_tasks),
    })
}

/// The state of a job's tasks, of which Flink's know fewer.
fn execution_state(job: &str) -> &str {
    match job {
        "INITIALIZING" | "RESTARTING" => "SCHEDULED",
        "CANCELLING" => "CANCELING",
        state => state,
    }
}

/// All tasks of a job are in the state of the job.
fn tasks(state: &str, n: usize) -> Value {
    let names = [
        "created",
        "scheduled",
        "deploying",
        "running",
        "finished",
        "canceling",
        "canceled",
        "failed",
        "reconciling",
        "initializing",
    ];
    let own = match state {
        "RUNNING" => "running",
        "CANCELLING" => "canceling",
        "FINISHED" => "finished",
        "CANCELED" => "canceled",
        "FAILED" => "failed",
        _ => "created",
    };
    let counts: BTreeMap<&str, usize> = names
        .into_iter()
        .map(|name| (name, if name == own { n } else { 0 }))
        .chain([("total", n)])
        .collect();
    json!(counts)
}

fn find(api: &Arc<dyn ClusterApi>, id: &str) -> Result<JobDetails, NotFound> {
    api.job(id).ok_or_else(|| {
        NotFound(format!(
            "there is no job {id}; /jobs shows those that are there"
        ))
    })
}

fn find_vertex(job: JobDetails, id: &str) -> Result<VertexDetails, NotFound> {
    let missing = || {
        NotFound(format!(
            "job {} has no vertex {id}; /jobs/{} shows those that it has",
            job.status.id, job.status.id
        ))
    };
    job.vertices
        .iter()
        .find(|vertex| vertex.id == id)
        .cloned()
        .ok_or_else(missing)
}

async fn job(State(api): Api, Path(id): Path<String>) -> Answer {
    let job = find(&api, &id)?;
    let started_ms = job.status.started_ms;
    let now_ms = api.now_ms();
    let duration_ms = job.status.ended_ms.unwrap_or(now_ms) - started_ms;
    Ok(Json(json!({
        "jid": job.status.id,
        "name": job.status.name,
        "state": job.status.state.in_flink(),
        "isStoppable": false,
        "start-time": job.status.started_ms,
        "end-time": job.status.ended_ms.unwrap_or(-1),
        "duration": duration_ms.max(0),
        "maxParallelism": job.max_parallelism,
        "now": now_ms,
        "vertices": job.vertices.iter().map(|vertex| vertex_summary(&job, vertex)).collect::<Vec<_>>(),
        "plan": plan_of(&job),
    })))
}

fn vertex_summary(job: &JobDetails, vertex: &VertexDetails) -> Value {
    json!({
        "id": vertex.id,
        "name": vertex.name,
        "maxParallelism": job.max_parallelism,
        "parallelism": vertex.subtasks.len(),
        "status": execution_state(job.status.state.in_flink()),
        "start-time": job.status.started_ms,
        "end-time": job.status.ended_ms.unwrap_or(-1),
        "duration": job.status.elapsed_ms,
        "tasks": tasks(job.status.state.in_flink(), vertex.subtasks.len()),
        "metrics": {
            "read-records": vertex.sum(|subtask| subtask.records_in),
            "read-records-complete": true,
            "write-records": vertex.sum(|subtask| subtask.records_out),
            "write-records-complete": true,
            "accumulated-backpressured-time": vertex.sum(|subtask| subtask.back_pressured_ms),
            "accumulated-idle-time": vertex.sum(|subtask| subtask.idle_ms),
            "accumulated-busy-time": vertex.sum(|subtask| subtask.busy_ms),
        },
    })
}

async fn plan(State(api): Api, Path(id): Path<String>) -> Answer {
    Ok(Json(json!({"plan": plan_of(&find(&api, &id)?)})))
}

fn plan_of(job: &JobDetails) -> Value {
    let node = |vertex: &VertexDetails| {
        let input = |(num, edge): (usize, &crate::api::Edge)| json!({"num": num, "id": edge.from, "ship_strategy": edge.ship_strategy, "exchange": "pipelined_bounded"});
        json!({
            "id": vertex.id,
            "parallelism": vertex.subtasks.len(),
            "operator": "",
            "operator_strategy": "",
            "description": vertex.name,
            "inputs": vertex.inputs.iter().enumerate().map(input).collect::<Vec<_>>(),
            "optimizer_properties": {},
        })
    };
    json!({"jid": job.status.id, "name": job.status.name, "type": "STREAMING", "nodes": job.vertices.iter().map(node).collect::<Vec<_>>()})
}

async fn job_config(State(api): Api, Path(id): Path<String>) -> Answer {
    let job = find(&api, &id)?;
    Ok(Json(
        json!({"jid": job.status.id, "name": job.status.name, "execution-config": {"job-parallelism": job.status.parallelism}}),
    ))
}

/// Why the job failed; failures after which it went on are in its log.
async fn exceptions(State(api): Api, Path(id): Path<String>) -> Answer {
    let JobDetails {
        status, failures, ..
    } = find(&api, &id)?;
    let end = status
        .reason
        .map(|reason| (status.ended_ms.unwrap_or(0), reason));
    // The newest is first, as in Flink.
    let all: Vec<(i64, Failure)> = failures.into_iter().chain(end).rev().collect();
    let text = |failure: &Failure| {
        let causes = failure.causes.iter().map(|cause| format!(": {cause}"));
        let causes: String = causes.collect();
        format!("[{}] {}{causes}", failure.code, failure.message)
    };
    let entry = |(at, failure): &(i64, Failure)| json!({"exceptionName": failure.code, "stacktrace": text(failure), "timestamp": at});
    let newest = all.first();
    Ok(Json(json!({
        "root-exception": newest.map(|(_, failure)| text(failure)),
        "timestamp": newest.map(|(at, _)| at),
        "all-exceptions": [],
        "truncated": false,
        "exceptionHistory": {
            "entries": all.iter().map(entry).collect::<Vec<_>>(),
            "truncated": status.restarts > all.len() as u64,
        },
    })))
}

async fn checkpoint_config(State(api): Api, Path(id): Path<String>) -> Answer {
    let missing = || {
        NotFound(format!(
            "the job {id} makes no checkpoints, or does not run any more"
        ))
    };
    let config = find(&api, &id)?.checkpointing.ok_or_else(missing)?;
    Ok(Json(json!({
        "mode": "exactly_once",
        "interval": config.interval_ms,
        "timeout": config.timeout_ms,
        "min_pause": config.min_pause_ms,
        "max_concurrent": 1,
        "externalization": {"enabled": true, "delete_on_cancellation": false},
        "state_backend": config.state_backend,
        "tolerable_failed_checkpoints": config.tolerable_failures,
        "unaligned_checkpoints": false,
    })))
}

async fn checkpoints(State(api): Api, Path(id): Path<String>) -> Answer {
    let status = find(&api, &id)?.status;
    let restored = status.resumed_from;
    let restored = restored.map(|checkpoint| json!({"id": checkpoint}));
    let all = api.checkpoints(&id, ALL_CHECKPOINTS);
    let n = |status: &str| all.iter().filter(|c| flink_status(c) == status).count();
    let last = |fits: fn(&CheckpointDetails) -> bool| {
        let found = all.iter().rev().find(|checkpoint| fits(checkpoint));
        found.map(checkpoint_summary)
    };
    let failed = last(|checkpoint| flink_status(checkpoint) == "FAILED");
    let completed = last(|checkpoint| checkpoint.is_completed() && !is_savepoint(checkpoint));
    let savepoint = last(|checkpoint| checkpoint.is_completed() && is_savepoint(checkpoint));
    Ok(Json(json!({
        "counts": {
            "restored": usize::from(restored.is_some()),
            "total": all.len(),
            "in_progress": n("IN_PROGRESS"),
            "completed": n("COMPLETED"),
            "failed": n("FAILED"),
        },
        "latest": {"completed": completed, "savepoint": savepoint, "failed": failed, "restored": restored},
        "history": all.iter().rev().take(HISTORY).map(checkpoint_summary).collect::<Vec<_>>(),
    })))
}

fn is_savepoint(checkpoint: &CheckpointDetails) -> bool {
    checkpoint.kind == "savepoint"
}

fn flink_status(checkpoint: &CheckpointDetails) -> &'static str {
    match checkpoint.status {
        CheckpointStatus::Pending => "IN_PROGRESS",
        CheckpointStatus::Published => "COMPLETED",
        CheckpointStatus::Failed { .. } => "FAILED",
    }
}

fn checkpoint_summary(checkpoint: &CheckpointDetails) -> Value {
    let mut summary = json!({
        "id": checkpoint.checkpoint,
        "status": flink_status(checkpoint),
        "is_savepoint": is_savepoint(checkpoint),
        "trigger_timestamp": checkpoint.triggered_ms,
        "end_to_end_duration": checkpoint.duration_us / 1000,
        "checkpointed_size": checkpoint.bytes(),
        "state_size": checkpoint.full_bytes(),
        "num_acknowledged_subtasks": checkpoint.subtasks.len(),
    });
    if let CheckpointStatus::Failed { reason } = &checkpoint.status {
        summary["failure_message"] = json!(reason);
    }
    summary
}

async fn checkpoint(State(api): Api, Path((id, number)): Path<(String, String)>) -> Answer {
    find(&api, &id)?;
    let missing = || {
        NotFound(format!(
            "job {id} remembers no checkpoint {number}; /jobs/{id}/checkpoints shows the last ones"
        ))
    };
    let all = api.checkpoints(&id, ALL_CHECKPOINTS);
    let found = all
        .iter()
        .rev()
        .find(|checkpoint| checkpoint.checkpoint.to_string() == number)
        .ok_or_else(missing)?;
    let mut details = checkpoint_summary(found);
    let subtask = |subtask: &SubtaskCheckpoint| {
        json!({
            "name": subtask.name,
            "checkpointed_size": subtask.bytes,
            "state_size": subtask.full_bytes,
            "checkpoint": {"sync": subtask.sync_us / 1000, "async": subtask.async_us / 1000},
            "alignment": {"duration": subtask.alignment_us / 1000},
        })
    };
    details["subtasks"] = found.subtasks.iter().map(subtask).collect();
    Ok(Json(details))
}

async fn vertex(State(api): Api, Path((id, vertex)): Path<(String, String)>) -> Answer {
    let job = find(&api, &id)?;
    let (state, start_ms, duration_ms) = (
        job.status.state.in_flink(),
        job.status.started_ms,
        job.status.elapsed_ms,
    );
    let vertex = find_vertex(job, &vertex)?;
    let subtask = |(index, subtask): (usize, &SubtaskDetails)| {
        json!({
            "subtask": index,
            "status": state,
            "attempt": 0,
            "start-time": start_ms,
            "end-time": -1,
            "duration": duration_ms,
            "metrics": {
                "read-records": subtask.records_in,
                "write-records": subtask.records_out,
                "accumulated-backpressured-time": subtask.back_pressured_ms,
                "accumulated-idle-time": subtask.idle_ms,
                "accumulated-busy-time": subtask.busy_ms,
            },
        })
    };
    Ok(Json(json!({
        "id": vertex.id,
        "name": vertex.name,
        "parallelism": vertex.subtasks.len(),
        "now": start_ms + duration_ms as i64,
        "subtasks": vertex.subtasks.iter().enumerate().map(subtask).collect::<Vec<_>>(),
    })))
}

async fn watermarks(State(api): Api, Path((id, vertex)): Path<(String, String)>) -> Answer {
    let vertex = find_vertex(find(&api, &id)?, &vertex)?;
    // Flink leaves out those that have none.
    let of_subtask = |(index, subtask): (usize, &SubtaskDetails)| {
        Some(
            json!({"id": format!("{index}.currentInputWatermark"), "value": subtask.watermark?.to_string()}),
        )
    };
    Ok(Json(
        vertex
            .subtasks
            .iter()
            .enumerate()
            .filter_map(of_subtask)
            .collect(),
    ))
}

async fn back_pressure(State(api): Api, Path((id, vertex)): Path<(String, String)>) -> Answer {
    let vertex = find_vertex(find(&api, &id)?, &vertex)?;
    let ratio = |ms_per_second: u64| ms_per_second as f64 / 1000.0;
    let of_subtask = |(index, subtask): (usize, &SubtaskDetails)| {
        json!({
            "subtask": index,
            "backpressure-level": level(ratio(subtask.back_pressured_ms_per_second)),
            "ratio": ratio(subtask.back_pressured_ms_per_second),
            "idleRatio": ratio(subtask.idle_ms_per_second),
            "busyRatio": ratio(subtask.busy_ms_per_second),
        })
    };
    let most = vertex
        .subtasks
        .iter()
        .map(|subtask| subtask.back_pressured_ms_per_second)
        .max()
        .unwrap_or(0);
    let subtasks: Vec<Value> = vertex.subtasks.iter().enumerate().map(of_subtask).collect();
    Ok(Json(
        json!({"status": "ok", "backpressure-level": level(ratio(most)), "subtasks": subtasks}),
    ))
}

/// Flink's levels: more than a tenth of the time is low, more than a half is high.
fn level(ratio: f64) -> &'static str {
    match ratio {
        _ if ratio <= 0.1 => "ok",
        _ if ratio <= 0.5 => "low",
        _ => "high",
    }
}
