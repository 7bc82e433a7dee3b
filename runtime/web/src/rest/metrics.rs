//! Flink's paths for single metrics: without `get` the names that there are, with `get=a,b` their
//! values.

use super::checkpoints::flink_status;
use super::vertices::find_vertex;
use super::{ALL_CHECKPOINTS, Answer, Api, find};
use crate::api::SubtaskDetails;
use crate::query::parameter;
use crate::status::CheckpointDetails;
use axum::Json;
use axum::extract::{Path, RawQuery, State};
use serde_json::{Value, json};

/// What is known, or that of it which is wanted.
fn shown(metrics: Vec<(String, i64)>, query: Option<&str>) -> Json<Value> {
    let Some(get) = parameter(query, "get") else {
        return Json(metrics.iter().map(|(id, _)| json!({"id": id})).collect());
    };
    let names: Vec<&str> = get.split(',').collect();
    let value = |(id, value): &(String, i64)| json!({"id": id, "value": value.to_string()});
    let chosen = metrics.iter().filter(|(id, _)| names.contains(&&**id));
    Json(chosen.map(value).collect())
}

/// The names of the metrics of a job, or the values of some.
#[utoipa::path(get, path = "/jobs/{job}/metrics", tag = "flink",
    params(("job" = String, Path, description = "the id of a job"),
        ("get" = Option<String>, Query, description = "names of metrics, with commas between them")),
    responses((status = 200, body = Vec<Object>), (status = 404, description = "no such job")))]
pub(super) async fn of_job(
    State(api): Api,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Answer {
    let job = find(&api, &id)?;
    let all = api.checkpoints(&id, ALL_CHECKPOINTS);
    let n = |fits: fn(&&CheckpointDetails) -> bool| all.iter().filter(fits).count() as i64;
    let mut metrics = vec![
        ("uptime".to_owned(), job.status.elapsed_ms as i64),
        ("numRestarts".to_owned(), job.status.restarts as i64),
        ("totalNumberOfCheckpoints".to_owned(), all.len() as i64),
        (
            "numberOfCompletedCheckpoints".to_owned(),
            n(|checkpoint| checkpoint.is_completed()),
        ),
        (
            "numberOfFailedCheckpoints".to_owned(),
            n(|checkpoint| flink_status(checkpoint) == "FAILED"),
        ),
    ];
    if let Some(last) = all
        .iter()
        .rev()
        .find(|checkpoint| checkpoint.is_completed())
    {
        metrics.extend([
            (
                "lastCheckpointDuration".to_owned(),
                (last.duration_us / 1000) as i64,
            ),
            ("lastCheckpointSize".to_owned(), last.bytes() as i64),
            (
                "lastCheckpointFullSize".to_owned(),
                last.full_bytes() as i64,
            ),
        ]);
    }
    Ok(shown(metrics, query.as_deref()))
}

/// The names of the metrics of a vertex, or the values of some.
#[utoipa::path(get, path = "/jobs/{job}/vertices/{vertex}/metrics", tag = "flink",
    params(("job" = String, Path, description = "the id of a job"),
        ("vertex" = String, Path, description = "the id of a vertex"),
        ("get" = Option<String>, Query, description = "names of metrics, with commas between them")),
    responses((status = 200, body = Vec<Object>), (status = 404, description = "no such job or vertex")))]
pub(super) async fn of_vertex(
    State(api): Api,
    Path((id, vertex)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Answer {
    let vertex = find_vertex(&find(&api, &id)?, &vertex)?;
    let metrics = vertex.subtasks.iter().enumerate().flat_map(of_subtask);
    Ok(shown(metrics.collect(), query.as_deref()))
}

fn of_subtask((index, subtask): (usize, &SubtaskDetails)) -> impl Iterator<Item = (String, i64)> {
    let known = [
        ("numRecordsIn", Some(subtask.records_in as i64)),
        ("numRecordsOut", Some(subtask.records_out as i64)),
        ("numLateRecordsDropped", Some(subtask.late_records as i64)),
        ("currentInputWatermark", subtask.watermark),
        ("accumulateBusyTimeMs", Some(subtask.busy_ms as i64)),
        ("accumulateIdleTimeMs", Some(subtask.idle_ms as i64)),
        (
            "accumulateBackPressuredTimeMs",
            Some(subtask.back_pressured_ms as i64),
        ),
        (
            "busyTimeMsPerSecond",
            Some(subtask.busy_ms_per_second as i64),
        ),
        (
            "idleTimeMsPerSecond",
            Some(subtask.idle_ms_per_second as i64),
        ),
        (
            "backPressuredTimeMsPerSecond",
            Some(subtask.back_pressured_ms_per_second as i64),
        ),
    ];
    let of_user_code = subtask
        .user
        .iter()
        .map(move |(name, n)| (format!("{index}.user.{name}"), *n));
    known
        .into_iter()
        .filter_map(move |(name, value)| Some((format!("{index}.{name}"), value?)))
        .chain(of_user_code)
}

/// User code has counters here, which are metrics, and no accumulators.
#[utoipa::path(get, path = "/jobs/{job}/accumulators", tag = "flink",
    params(("job" = String, Path, description = "the id of a job")),
    responses((status = 200, body = Object), (status = 404, description = "no such job")))]
pub(super) async fn accumulators(State(api): Api, Path(id): Path<String>) -> Answer {
    find(&api, &id)?;
    Ok(Json(json!({
        "job-accumulators": [],
        "user-task-accumulators": [],
        "serialized-user-task-accumulators": {},
    })))
}
