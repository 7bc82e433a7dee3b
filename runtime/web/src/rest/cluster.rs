//! Flink's paths for the cluster itself.

use super::Api;
use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

/// The one TaskManager, which is in the process of the JobManager.
pub(super) async fn task_managers(State(api): Api) -> Json<Value> {
    let slots = api.slots();
    Json(json!({"taskmanagers": [{
        "id": "embedded",
        "path": "embedded",
        "dataPort": -1,
        "slotsNumber": slots.total,
        "freeSlots": slots.free,
    }]}))
}

pub(super) async fn configuration(State(api): Api) -> Json<Value> {
    let pair = |(key, value): (String, String)| json!({"key": key, "value": value});
    Json(api.configuration().into_iter().map(pair).collect())
}
