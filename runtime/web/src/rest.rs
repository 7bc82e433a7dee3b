//! Flink's REST paths for reading: overviews, a job with its vertices, plan and checkpoints.
//!
//! Fields that have no meaning here are left out, but for those that Flink's own scripts and
//! dashboards read without looking whether they are there. Ids and names are those of the job; a
//! path that names nothing is a 404 with a sentence, as all errors are `{"errors": ["..."]}`.
//!
//! # Source
//! Flink's REST API, version 1:
//! <https://nightlies.apache.org/flink/flink-docs-stable/docs/ops/rest_api/>.

mod checkpoints;
mod cluster;
mod metrics;
mod vertices;

use crate::api::{ClusterApi, JobDetails, VertexDetails};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use streamrt_jobmanager::Failure;
use utoipa::OpenApi;

/// All that a job remembers.
pub(crate) const ALL_CHECKPOINTS: usize = usize::MAX;

const VERSION: &str = concat!("streamrt ", env!("CARGO_PKG_VERSION"));

/// The one TaskManager, which is in the process of the JobManager.
const TASK_MANAGER: &str = "embedded";

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

/// Chains of all operators share slots.
const SHARING_GROUP: &str = "default";

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
        .route("/jobs/{job}/checkpoints", get(checkpoints::checkpoints))
        .route(
            "/jobs/{job}/checkpoints/config",
            get(checkpoints::checkpoint_config),
        )
        .route(
            "/jobs/{job}/checkpoints/details/{checkpoint}",
            get(checkpoints::checkpoint),
        )
        .route("/jobs/{job}/vertices/{vertex}", get(vertices::vertex))
        .route(
            "/jobs/{job}/vertices/{vertex}/subtasks",
            get(vertices::subtasks),
        )
        .route(
            "/jobs/{job}/vertices/{vertex}/metrics",
            get(metrics::of_vertex),
        )
        .route(
            "/jobs/{job}/vertices/{vertex}/watermarks",
            get(vertices::watermarks),
        )
        .route(
            "/jobs/{job}/vertices/{vertex}/backpressure",
            get(vertices::back_pressure),
        )
        .route("/taskmanagers", get(cluster::task_managers))
        .route("/jobmanager/config", get(cluster::configuration))
}

/// How many slots there are, and jobs in each state.
#[utoipa::path(get, path = "/overview", tag = "flink",
    responses((status = 200, body = Object)))]
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

/// What a page that shows this interface has to know.
#[utoipa::path(get, path = "/config", tag = "flink",
    responses((status = 200, body = Object)))]
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

/// The ids and states of all jobs.
#[utoipa::path(get, path = "/jobs", tag = "flink",
    responses((status = 200, body = Object)))]
async fn jobs(State(api): Api) -> Json<Value> {
    let job =
        |job: &JobDetails| json!({"id": job.status.id, "status": job.status.state.in_flink()});
    Json(json!({"jobs": api.jobs().iter().map(job).collect::<Vec<_>>()}))
}

/// All jobs at a glance.
#[utoipa::path(get, path = "/jobs/overview", tag = "flink",
    responses((status = 200, body = Object)))]
async fn jobs_overview(State(api): Api) -> Json<Value> {
    let now_ms = api.now_ms();
    let summary = |job: &JobDetails| summary(job, now_ms);
    Json(json!({"jobs": api.jobs().iter().map(summary).collect::<Vec<_>>()}))
}

/// From its acceptance to its end, or until now.
fn duration_ms(job: &JobDetails, now_ms: i64) -> i64 {
    let until_ms = job.status.ended_ms.unwrap_or(now_ms);
    (until_ms - job.status.started_ms).max(0)
}

fn summary(job: &JobDetails, now_ms: i64) -> Value {
    json!({
        "jid": job.status.id,
        "name": job.status.name,
        "state": job.status.state.in_flink(),
        "start-time": job.status.started_ms,
        "end-time": job.status.ended_ms.unwrap_or(-1),
        "duration": duration_ms(job, now_ms),
        "last-modification": job.status.ended_ms.unwrap_or(job.status.started_ms),
        "tasks": tasks_by_state(job),
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

/// A job with its vertices and its plan.
#[utoipa::path(get, path = "/jobs/{job}", tag = "flink",
    params(("job" = String, Path, description = "the id of a job")),
    responses((status = 200, body = Object), (status = 404, description = "no such job")))]
async fn job(State(api): Api, Path(id): Path<String>) -> Answer {
    let job = find(&api, &id)?;
    let now_ms = api.now_ms();
    Ok(Json(json!({
        "jid": job.status.id,
        "name": job.status.name,
        "state": job.status.state.in_flink(),
        "isStoppable": false,
        "job-type": "STREAMING",
        "start-time": job.status.started_ms,
        "end-time": job.status.ended_ms.unwrap_or(-1),
        "duration": duration_ms(&job, now_ms),
        "maxParallelism": job.max_parallelism,
        "now": now_ms,
        "timestamps": timestamps(&job),
        "status-counts": in_each_state(&job, job.vertices.len()),
        "vertices": job.vertices.iter().map(|vertex| vertex_summary(&job, vertex)).collect::<Vec<_>>(),
        "plan": plan_of(&job),
    })))
}

/// Since when the job was in each of Flink's states, in ms since the epoch; 0: never, or not known.
fn timestamps(job: &JobDetails) -> Value {
    let names = [
        "INITIALIZING",
        "CREATED",
        "RUNNING",
        "FAILING",
        "FAILED",
        "CANCELLING",
        "CANCELED",
        "FINISHED",
        "RESTARTING",
        "SUSPENDED",
        "RECONCILING",
    ];
    let status = &job.status;
    let own = status.state.in_flink();
    let failed_ms = job.failures.last().map(|(at_ms, _)| *at_ms);
    let last_ms = status.ended_ms.or(failed_ms).unwrap_or(status.started_ms);
    let at_ms = |name: &str| match name {
        "INITIALIZING" | "CREATED" => status.started_ms,
        "RUNNING" if status.elapsed_ms > 0 => status.started_ms,
        name if name == own => last_ms,
        _ => 0,
    };
    names
        .map(|name| (name.to_owned(), json!(at_ms(name))))
        .into_iter()
        .collect()
}

/// How many tasks of the job are in each state.
fn tasks_by_state(job: &JobDetails) -> Value {
    let n: usize = job
        .vertices
        .iter()
        .map(|vertex| vertex.subtasks.len())
        .sum();
    tasks(job.status.state.in_flink(), n)
}

/// How many of a job's vertices, or of a vertex's tasks, are in each state: all of them in that of
/// the job.
fn in_each_state(job: &JobDetails, n: usize) -> Value {
    let names = [
        "CREATED",
        "SCHEDULED",
        "DEPLOYING",
        "RUNNING",
        "FINISHED",
        "CANCELING",
        "CANCELED",
        "FAILED",
        "RECONCILING",
        "INITIALIZING",
    ];
    let own = execution_state(job.status.state.in_flink());
    let count = |name: &str| if name == own { n } else { 0 };
    names
        .map(|name| (name.to_owned(), json!(count(name))))
        .into_iter()
        .collect()
}

fn vertex_summary(job: &JobDetails, vertex: &VertexDetails) -> Value {
    json!({
        "id": vertex.id,
        "slotSharingGroupId": SHARING_GROUP,
        "name": vertex.name,
        "maxParallelism": job.max_parallelism,
        "parallelism": vertex.subtasks.len(),
        "status": execution_state(job.status.state.in_flink()),
        "start-time": job.status.started_ms,
        "end-time": job.status.ended_ms.unwrap_or(-1),
        "duration": job.status.elapsed_ms,
        "tasks": in_each_state(job, vertex.subtasks.len()),
        "metrics": {
            "read-bytes": 0,
            "read-bytes-complete": false,
            "write-bytes": 0,
            "write-bytes-complete": false,
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

/// The vertices of a job and their edges.
#[utoipa::path(get, path = "/jobs/{job}/plan", tag = "flink",
    params(("job" = String, Path, description = "the id of a job")),
    responses((status = 200, body = Object), (status = 404, description = "no such job")))]
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

/// How a job is executed.
#[utoipa::path(get, path = "/jobs/{job}/config", tag = "flink",
    params(("job" = String, Path, description = "the id of a job")),
    responses((status = 200, body = Object), (status = 404, description = "no such job")))]
async fn job_config(State(api): Api, Path(id): Path<String>) -> Answer {
    let job = find(&api, &id)?;
    Ok(Json(json!({
        "jid": job.status.id,
        "name": job.status.name,
        "execution-config": {
            "execution-mode": "PIPELINED",
            "job-parallelism": job.status.parallelism,
            "object-reuse-mode": true,
            "user-config": {},
        },
    })))
}

/// After what the job was started again, and why it failed.
#[utoipa::path(get, path = "/jobs/{job}/exceptions", tag = "flink",
    params(("job" = String, Path, description = "the id of a job")),
    responses((status = 200, body = Object), (status = 404, description = "no such job")))]
async fn exceptions(State(api): Api, Path(id): Path<String>) -> Answer {
    let JobDetails {
        status, failures, ..
    } = find(&api, &id)?;
    let reason = status.reason.filter(|_| status.state.is_end());
    let end = reason.map(|reason| (status.ended_ms.unwrap_or(0), reason));
    // The newest is first, as in Flink.
    let all: Vec<(i64, Failure)> = failures.into_iter().chain(end).rev().collect();
    let text = |failure: &Failure| format!("[{}] {}", failure.code, failure.with_causes());
    let entry = |(at, failure): &(i64, Failure)| json!({"exceptionName": failure.code, "stacktrace": text(failure), "timestamp": at, "failureLabels": {}, "taskName": null, "concurrentExceptions": []});
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

/// What these paths are, for `openapi.json`.
#[derive(OpenApi)]
#[openapi(paths(
    overview,
    config,
    jobs,
    jobs_overview,
    job,
    plan,
    job_config,
    exceptions,
    metrics::accumulators,
    metrics::of_job,
    metrics::of_vertex,
    checkpoints::checkpoints,
    checkpoints::checkpoint_config,
    checkpoints::checkpoint,
    vertices::vertex,
    vertices::subtasks,
    vertices::watermarks,
    vertices::back_pressure,
    cluster::task_managers,
    cluster::configuration,
))]
pub(crate) struct Description;
