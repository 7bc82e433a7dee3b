//! Flink's paths for the vertices of a job.

use super::{Answer, Api, NotFound, TASK_MANAGER, execution_state, find};
use crate::api::{JobDetails, SubtaskDetails, VertexDetails};
use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

pub(super) fn find_vertex(job: &JobDetails, id: &str) -> Result<VertexDetails, NotFound> {
    let missing = || {
        NotFound(format!(
            "job {} has no vertex {id}; /jobs/{} shows those that it has",
            job.status.id, job.status.id
        ))
    };
    let found = job.vertices.iter().find(|vertex| vertex.id == id);
    found.cloned().ok_or_else(missing)
}

/// A vertex with its subtasks.
#[utoipa::path(get, path = "/jobs/{job}/vertices/{vertex}", tag = "flink",
    params(("job" = String, Path, description = "the id of a job"),
        ("vertex" = String, Path, description = "the id of a vertex")),
    responses((status = 200, body = Object), (status = 404, description = "no such job or vertex")))]
pub(super) async fn vertex(State(api): Api, Path((id, vertex)): Path<(String, String)>) -> Answer {
    let job = find(&api, &id)?;
    let status = &job.status;
    let state = execution_state(status.state.in_flink());
    let (start_ms, duration_ms) = (status.started_ms, status.elapsed_ms);
    let end_ms = status.ended_ms.unwrap_or(-1);
    let now_ms = api.now_ms();
    let attempt = status.restarts;
    let max_parallelism = job.max_parallelism;
    let vertex = find_vertex(&job, &vertex)?;
    let subtask = |(index, subtask): (usize, &SubtaskDetails)| {
        json!({
            "subtask": index,
            "status": state,
            "attempt": attempt,
            "endpoint": TASK_MANAGER,
            "host": TASK_MANAGER,
            "taskmanager-id": TASK_MANAGER,
            "start-time": start_ms,
            "start_time": start_ms,
            "end-time": end_ms,
            "duration": duration_ms,
            "metrics": {
                "read-bytes": 0,
                "read-bytes-complete": false,
                "write-bytes": 0,
                "write-bytes-complete": false,
                "read-records": subtask.records_in,
                "read-records-complete": true,
                "write-records": subtask.records_out,
                "write-records-complete": true,
                "accumulated-backpressured-time": subtask.back_pressured_ms,
                "accumulated-idle-time": subtask.idle_ms,
                "accumulated-busy-time": subtask.busy_ms,
            },
            "status-duration": {state: duration_ms},
            "other-concurrent-attempts": [],
        })
    };
    Ok(Json(json!({
        "id": vertex.id,
        "name": vertex.name,
        "parallelism": vertex.subtasks.len(),
        "maxParallelism": max_parallelism,
        "now": now_ms,
        "subtasks": vertex.subtasks.iter().enumerate().map(subtask).collect::<Vec<_>>(),
    })))
}

/// The same.
#[utoipa::path(get, path = "/jobs/{job}/vertices/{vertex}/subtasks", tag = "flink",
    params(("job" = String, Path, description = "the id of a job"),
        ("vertex" = String, Path, description = "the id of a vertex")),
    responses((status = 200, body = Object), (status = 404, description = "no such job or vertex")))]
pub(super) async fn subtasks(api: Api, ids: Path<(String, String)>) -> Answer {
    vertex(api, ids).await
}

/// How far event time has come in each subtask.
#[utoipa::path(get, path = "/jobs/{job}/vertices/{vertex}/watermarks", tag = "flink",
    params(("job" = String, Path, description = "the id of a job"),
        ("vertex" = String, Path, description = "the id of a vertex")),
    responses((status = 200, body = Vec<Object>), (status = 404, description = "no such job or vertex")))]
pub(super) async fn watermarks(
    State(api): Api,
    Path((id, vertex)): Path<(String, String)>,
) -> Answer {
    let vertex = find_vertex(&find(&api, &id)?, &vertex)?;
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

/// How much of their time subtasks wait for room.
#[utoipa::path(get, path = "/jobs/{job}/vertices/{vertex}/backpressure", tag = "flink",
    params(("job" = String, Path, description = "the id of a job"),
        ("vertex" = String, Path, description = "the id of a vertex")),
    responses((status = 200, body = Object), (status = 404, description = "no such job or vertex")))]
pub(super) async fn back_pressure(
    State(api): Api,
    Path((id, vertex)): Path<(String, String)>,
) -> Answer {
    let vertex = find_vertex(&find(&api, &id)?, &vertex)?;
    let ratio = |ms_per_second: u64| ms_per_second as f64 / 1000.0;
    let of_subtask = |(index, subtask): (usize, &SubtaskDetails)| {
        json!({
            "subtask": index,
            "attempt-number": 0,
            "backpressureLevel": level(ratio(subtask.back_pressured_ms_per_second)),
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
    Ok(Json(json!({
        "status": "ok",
        "backpressureLevel": level(ratio(most)),
        "backpressure-level": level(ratio(most)),
        "end-timestamp": api.now_ms(),
        "subtasks": subtasks,
    })))
}

/// Flink's levels: more than a tenth of the time is low, more than a half is high.
fn level(ratio: f64) -> &'static str {
    match ratio {
        _ if ratio <= 0.1 => "ok",
        _ if ratio <= 0.5 => "low",
        _ => "high",
    }
}
