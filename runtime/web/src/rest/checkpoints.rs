//! Flink's paths for the checkpoints of a job.

use super::{ALL_CHECKPOINTS, Answer, Api, NotFound, find};
use crate::api::{JobDetails, VertexDetails};
use crate::status::{CheckpointDetails, CheckpointStatus, SubtaskCheckpoint};
use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

/// Checkpoints that are shown, as in Flink.
const HISTORY: usize = 10;

/// How the job makes checkpoints.
#[utoipa::path(get, path = "/jobs/{job}/checkpoints/config", tag = "flink",
    params(("job" = String, Path, description = "the id of a job")),
    responses((status = 200, body = Object), (status = 404, description = "no such job, or it makes none")))]
pub(super) async fn checkpoint_config(State(api): Api, Path(id): Path<String>) -> Answer {
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
        "checkpoint_storage": "FileSystemCheckpointStorage",
        "tolerable_failed_checkpoints": config.tolerable_failures,
        "unaligned_checkpoints": false,
        "aligned_checkpoint_timeout": 0,
        "checkpoints_after_tasks_finish": true,
        "state_changelog_enabled": false,
        "changelog_periodic_materialization_interval": 0,
        "changelog_storage": "none",
    })))
}

/// How many checkpoints there were, what they cost, and the last ones.
#[utoipa::path(get, path = "/jobs/{job}/checkpoints", tag = "flink",
    params(("job" = String, Path, description = "the id of a job")),
    responses((status = 200, body = Object), (status = 404, description = "no such job")))]
pub(super) async fn checkpoints(State(api): Api, Path(id): Path<String>) -> Answer {
    let job = find(&api, &id)?;
    let place = job.status.checkpoint_dir.as_deref();
    let restored = job.status.resumed_from.map(|checkpoint| {
        json!({
            "id": checkpoint,
            "restore_timestamp": job.status.started_ms,
            "is_savepoint": false,
            "external_path": place,
        })
    });
    let all = api.checkpoints(&id, ALL_CHECKPOINTS);
    let n = |status: &str| all.iter().filter(|c| flink_status(c) == status).count();
    let summary = |checkpoint| checkpoint_summary(&job, checkpoint);
    let last = |fits: fn(&CheckpointDetails) -> bool| {
        let found = all.iter().rev().find(|checkpoint| fits(checkpoint));
        found.map(summary)
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
        "summary": costs(&all),
        "latest": {"completed": completed, "savepoint": savepoint, "failed": failed, "restored": restored},
        "history": all.iter().rev().take(HISTORY).map(summary).collect::<Vec<_>>(),
    })))
}

/// What the completed ones cost, the least and the most.
fn costs(all: &[CheckpointDetails]) -> Value {
    let of = |cost: fn(&CheckpointDetails) -> u64| {
        let completed = all.iter().filter(|checkpoint| checkpoint.is_completed());
        distribution(completed.map(cost).collect())
    };
    let bytes = of(CheckpointDetails::bytes);
    json!({
        "checkpointed_size": bytes,
        "state_size": of(CheckpointDetails::full_bytes),
        "end_to_end_duration": of(|checkpoint| checkpoint.duration_us / 1000),
        "alignment_buffered": of(|_| 0),
        "processed_data": of(|_| 0),
        "persisted_data": of(|_| 0),
    })
}

fn distribution(mut values: Vec<u64>) -> Value {
    values.sort_unstable();
    let at = |share: f64| {
        let place = (values.len().saturating_sub(1) as f64 * share).round();
        values.get(place as usize).copied().unwrap_or(0)
    };
    let average = values.iter().sum::<u64>() / (values.len() as u64).max(1);
    json!({
        "min": at(0.0),
        "max": at(1.0),
        "avg": average,
        "p50": at(0.5),
        "p90": at(0.9),
        "p95": at(0.95),
        "p99": at(0.99),
        "p999": at(0.999),
    })
}

fn is_savepoint(checkpoint: &CheckpointDetails) -> bool {
    checkpoint.kind == "savepoint"
}

pub(super) fn flink_status(checkpoint: &CheckpointDetails) -> &'static str {
    match checkpoint.status {
        CheckpointStatus::Pending => "IN_PROGRESS",
        CheckpointStatus::Published => "COMPLETED",
        CheckpointStatus::Failed { .. } => "FAILED",
    }
}

fn checkpoint_summary(job: &JobDetails, checkpoint: &CheckpointDetails) -> Value {
    let n_subtasks: usize = job
        .vertices
        .iter()
        .map(|vertex| vertex.subtasks.len())
        .sum();
    let n_acknowledged = checkpoint.subtasks.len();
    let duration_ms = checkpoint.duration_us / 1000;
    let mut summary = json!({
        "className": flink_status(checkpoint).to_lowercase(),
        "id": checkpoint.checkpoint,
        "status": flink_status(checkpoint),
        "is_savepoint": is_savepoint(checkpoint),
        "savepointFormat": is_savepoint(checkpoint).then_some("CANONICAL"),
        "checkpoint_type": if is_savepoint(checkpoint) { "SAVEPOINT" } else { "CHECKPOINT" },
        "trigger_timestamp": checkpoint.triggered_ms,
        "latest_ack_timestamp": checkpoint.triggered_ms + duration_ms as i64,
        "end_to_end_duration": duration_ms,
        "checkpointed_size": checkpoint.bytes(),
        "state_size": checkpoint.full_bytes(),
        "alignment_buffered": 0,
        "processed_data": 0,
        "persisted_data": 0,
        // Tasks that have finished, or that only find splits, have nothing to acknowledge.
        "num_subtasks": if checkpoint.is_completed() { n_acknowledged } else { n_subtasks.max(n_acknowledged) },
        "num_acknowledged_subtasks": n_acknowledged,
        "tasks": tasks(job, checkpoint),
    });
    match &checkpoint.status {
        CheckpointStatus::Pending => {}
        CheckpointStatus::Published => {
            // A savepoint is where its user wanted it.
            let place = job.status.checkpoint_dir.as_ref();
            let place = place.filter(|_| !is_savepoint(checkpoint));
            let path = place.map(|folder| format!("{folder}/chk-{}", checkpoint.checkpoint));
            summary["external_path"] = json!(path);
            summary["discarded"] = json!(false);
        }
        CheckpointStatus::Failed { reason } => {
            summary["failure_message"] = json!(reason);
            summary["failure_timestamp"] = summary["latest_ack_timestamp"].clone();
        }
    }
    summary
}

/// What the checkpoint cost each vertex, by its id.
fn tasks(job: &JobDetails, checkpoint: &CheckpointDetails) -> Value {
    let of_vertex = |vertex: &VertexDetails| {
        let is_its = |subtask: &&SubtaskCheckpoint| {
            let number = subtask.name.strip_prefix(&vertex.name);
            number.is_some_and(|number| number.starts_with(" ("))
        };
        let all: Vec<&SubtaskCheckpoint> = checkpoint.subtasks.iter().filter(is_its).collect();
        let sum = |of: fn(&SubtaskCheckpoint) -> u64| all.iter().map(|one| of(one)).sum::<u64>();
        let shown = json!({
            "id": checkpoint.checkpoint,
            "status": flink_status(checkpoint),
            "checkpointed_size": sum(|one| one.bytes),
            "state_size": sum(|one| one.full_bytes),
            "alignment_buffered": 0,
            "processed_data": 0,
            "persisted_data": 0,
            "num_subtasks": vertex.subtasks.len(),
            "num_acknowledged_subtasks": all.len(),
        });
        (!all.is_empty()).then(|| (vertex.id.clone(), shown))
    };
    job.vertices.iter().filter_map(of_vertex).collect()
}

/// A checkpoint, with what it cost each subtask.
#[utoipa::path(get, path = "/jobs/{job}/checkpoints/details/{checkpoint}", tag = "flink",
    params(("job" = String, Path, description = "the id of a job"),
        ("checkpoint" = u64, Path, description = "its number")),
    responses((status = 200, body = Object), (status = 404, description = "no such job or checkpoint")))]
pub(super) async fn checkpoint(
    State(api): Api,
    Path((id, number)): Path<(String, String)>,
) -> Answer {
    let job = find(&api, &id)?;
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
    let mut details = checkpoint_summary(&job, found);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_has_its_ends_and_its_middle() {
        let hundred = distribution((1..=101).rev().collect());
        let shown = |key: &str| hundred[key].as_u64().unwrap();
        assert_eq!(
            (
                shown("min"),
                shown("p50"),
                shown("p90"),
                shown("max"),
                shown("avg")
            ),
            (1, 51, 91, 101, 51)
        );
        assert_eq!(distribution(Vec::new())["p999"], 0);
    }
}
