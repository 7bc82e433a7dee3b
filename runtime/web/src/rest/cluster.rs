//! Flink's paths for the cluster itself.

use super::{Api, TASK_MANAGER};
use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

/// The one TaskManager, which is in the process of the JobManager.
#[utoipa::path(get, path = "/taskmanagers", tag = "flink", responses((status = 200, body = Object)))]
pub(super) async fn task_managers(State(api): Api) -> Json<Value> {
    let slots = api.slots();
    Json(json!({"taskmanagers": [{
        "id": TASK_MANAGER,
        "path": TASK_MANAGER,
        "dataPort": -1,
        "jmxPort": -1,
        "timeSinceLastHeartbeat": api.now_ms(),
        "slotsNumber": slots.total,
        "freeSlots": slots.free,
    }]}))
}

/// What the JobManager was started with.
#[utoipa::path(get, path = "/jobmanager/config", tag = "flink", responses((status = 200, body = Vec<Object>)))]
pub(super) async fn configuration(State(api): Api) -> Json<Value> {
    let pair = |(key, value): (String, String)| json!({"key": key, "value": value});
    Json(api.configuration().into_iter().map(pair).collect())
}
