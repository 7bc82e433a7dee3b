//! Our own paths, under `/v1`: components, jobs, and commands to them.
//!
//! 1. A component is uploaded under its digest, once. 2. A job names its components by their
//!    digests, and is accepted or refused. 3. A command that takes time is answered with a trigger,
//!    by which one asks what came of it.
//!
//! A body is JSON and says so, which no form of a page of another origin can. A job is named by
//! its id, by a beginning of it, or by its name.

use crate::api::{ClusterApi, JobDetails};
use crate::failed::Failed;
use crate::openapi::openapi;
use crate::query::number;
use crate::status::{CheckpointDetails, JobStatus, LogEntry, Resolved, resolve};
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use streamrt_jobmanager::{Failure, Operation, Specification, Trigger, Version, check_whole};
use streamrt_types::{Error, Result, code};
use utoipa::{OpenApi, ToSchema};

/// A job file has 4 MiB at most, and stands in a string of JSON.
const JSON_BYTES_MAX: usize = 16 << 20;

/// A body is there within this time: everybody is on this machine.
const BODY_WITHIN: Duration = Duration::from_secs(60);

/// The longest that a question for a trigger waits.
const WAIT_MAX: Duration = Duration::from_secs(10);

type Api = State<Arc<dyn ClusterApi>>;
type Answer<T> = std::result::Result<T, Failed>;

/// What a cluster is and has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClusterStatus {
    /// The version of streamrt.
    pub version: String,
    pub slots: u32,
    pub free_slots: u32,
    /// What a component may have.
    pub component_bytes_max: usize,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Jobs {
    /// Also those that have ended, the oldest first.
    pub jobs: Vec<JobStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Accepted {
    /// The job's id.
    pub id: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Begun {
    /// The id of the command, for `/v1/jobs/{job}/triggers/{trigger}`.
    pub trigger: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Checkpoints {
    /// The newest last.
    pub checkpoints: Vec<CheckpointDetails>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Logs {
    /// The newest last.
    pub lines: Vec<LogEntry>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// Make a savepoint in this folder, and end with it; a whole path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub savepoint: Option<String>,
    /// Let everything fire first, as at the end of all input.
    #[serde(default)]
    pub drain: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Cancel {}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Savepoint {
    /// An empty folder, or one to be made; a whole path.
    pub folder: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Upgrade {
    pub version: Version,
}

/// The routes below `/v1`; without `writes` those alone that change nothing.
pub(crate) fn routes(writes: bool) -> axum::Router<Arc<dyn ClusterApi>> {
    use axum::routing::{any, get, head, post, put};
    let reading = axum::Router::new()
        .route("/v1/openapi.json", get(description))
        .route("/v1/cluster", get(cluster))
        .route("/v1/jobs", get(jobs))
        .route("/v1/jobs/{job}", get(job))
        .route("/v1/jobs/{job}/checkpoints", get(checkpoints))
        .route("/v1/jobs/{job}/logs", get(logs))
        .route("/v1/jobs/{job}/triggers/{trigger}", get(trigger));
    if !writes {
        return reading
            .route("/v1/components/{digest}", any(read_only))
            .route("/v1/jobs/{job}/{command}", post(read_only));
    }
    let component = head(has_component).merge(put(put_component));
    reading
        .route("/v1/components/{digest}", component)
        .route("/v1/jobs", post(submit))
        .route("/v1/jobs/{job}/stop", post(stop))
        .route("/v1/jobs/{job}/cancel", post(cancel))
        .route("/v1/jobs/{job}/savepoints", post(savepoint))
        .route("/v1/jobs/{job}/upgrade", post(upgrade))
}

/// A `run` takes commands at its socket alone.
async fn read_only() -> Failed {
    let message = "this address shows a job and changes nothing; without `--cluster` the commands of `streamrt` reach it";
    Failed::with_status(StatusCode::FORBIDDEN, &wrong(message))
}

/// What these paths are, for `openapi.json`.
#[derive(OpenApi)]
#[openapi(paths(
    cluster,
    has_component,
    put_component,
    submit,
    jobs,
    job,
    stop,
    cancel,
    savepoint,
    upgrade,
    trigger,
    checkpoints,
    logs
))]
pub(crate) struct Description;

/// Waits for what may wait for a disk, without holding up other requests.
async fn waiting<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Answer<T> {
    let done = tokio::task::spawn_blocking(work).await;
    let panicked = |_| Err(Error::internal("the program panicked over a request"));
    Ok(done.unwrap_or_else(panicked)?)
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(code::BAD_REQUEST, message)
}

/// A body of JSON.
async fn read<T: DeserializeOwned>(headers: &HeaderMap, body: Body) -> Answer<T> {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or("");
    let is_json = kind
        .split(';')
        .next()
        .is_some_and(|kind| kind.trim() == "application/json");
    if !is_json {
        let message = format!("the body must be `application/json`, and it is `{kind}`");
        return Err(Failed::with_status(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            &wrong(message),
        ));
    }
    let too_large = || {
        let message = format!("a body has at most {JSON_BYTES_MAX} bytes");
        Failed::with_status(StatusCode::PAYLOAD_TOO_LARGE, &wrong(message))
    };
    let bytes = whole(headers, body, JSON_BYTES_MAX, too_large).await?;
    let parsed = serde_json::from_slice(&bytes);
    Ok(parsed.map_err(|e| wrong(format!("the body is not what this path takes: {e}")))?)
}

/// All of a body, of which nothing is kept if there is more than it may hold.
async fn whole(
    headers: &HeaderMap,
    body: Body,
    bytes_max: usize,
    too_large: impl Fn() -> Failed,
) -> Answer<Vec<u8>> {
    let length = headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > bytes_max as u64) {
        return Err(too_large());
    }
    let reading = Limited::new(body, bytes_max).collect();
    match tokio::time::timeout(BODY_WITHIN, reading).await {
        Ok(Ok(bytes)) => Ok(bytes.to_bytes().into()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(wrong("the body ends before it is whole").into()),
        Err(_) => {
            let seconds = BODY_WITHIN.as_secs();
            let late = wrong(format!("the body was not there within {seconds} s"));
            Err(Failed::with_status(StatusCode::REQUEST_TIMEOUT, &late))
        }
    }
}

/// The job that is meant.
fn find(api: &Arc<dyn ClusterApi>, reference: &str) -> Answer<JobDetails> {
    let missing = || Error::new(code::NO_JOB, format!("there is no job `{reference}`"));
    let names = api.names();
    let known: Vec<(&str, &str, bool)> = names
        .iter()
        .map(|job| (&*job.id, &*job.name, job.has_ended))
        .collect();
    match resolve(&known, reference) {
        Resolved::One(at) => api.job(&names[at].id).ok_or_else(|| missing().into()),
        Resolved::None => Err(missing().into()),
        Resolved::Several(ids) => {
            let message = format!("`{reference}` fits several jobs: {}", ids.join(", "));
            Err(wrong(message).into())
        }
    }
}

async fn description() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], openapi()).into_response()
}

/// What the cluster is and has.
#[utoipa::path(get, path = "/v1/cluster", responses((status = 200, body = ClusterStatus)))]
async fn cluster(State(api): Api) -> Json<ClusterStatus> {
    let slots = api.slots();
    Json(ClusterStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        slots: slots.total,
        free_slots: slots.free,
        component_bytes_max: api.component_bytes_max(),
    })
}

/// Whether a component is there.
#[utoipa::path(head, path = "/v1/components/{digest}",
    params(("digest" = String, Path, description = "blake3 of the bytes, 64 hex digits")),
    responses((status = 200, description = "it is there"), (status = 404, description = "it is not")))]
async fn has_component(State(api): Api, Path(digest): Path<String>) -> Answer<StatusCode> {
    Ok(match is_there(&api, &digest).await? {
        true => StatusCode::OK,
        false => StatusCode::NOT_FOUND,
    })
}

/// Whether it is damaged shows only when it is read.
async fn is_there(api: &Arc<dyn ClusterApi>, digest: &str) -> Answer<bool> {
    let (api, digest) = (api.clone(), digest.to_owned());
    waiting(move || Ok(api.has_component(&digest))).await
}

/// Uploads a component.
#[utoipa::path(put, path = "/v1/components/{digest}",
    params(("digest" = String, Path, description = "blake3 of the bytes, 64 hex digits")),
    request_body(content_type = "application/wasm", content = Vec<u8>),
    responses(
        (status = 201, description = "it is kept"),
        (status = 200, description = "it was there"),
        (status = 400, description = "the bytes have another digest", body = Failure),
        (status = 413, description = "there are too many of them", body = Failure)))]
async fn put_component(
    State(api): Api,
    Path(digest): Path<String>,
    request: Request,
) -> Answer<StatusCode> {
    if is_there(&api, &digest).await? {
        return Ok(StatusCode::OK);
    }
    let (parts, body) = request.into_parts();
    let bytes_max = api.component_bytes_max();
    let too_large = || {
        let message = format!("a component has at most {bytes_max} bytes here");
        Failed::from(Error::new(code::COMPONENT_LIMIT, message))
    };
    let bytes = whole(&parts.headers, body, bytes_max, too_large).await?;
    let is_new = waiting(move || api.put_component(&digest, bytes)).await?;
    Ok(if is_new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    })
}

/// Submits a job whose components were uploaded. When it is accepted it is kept, and will run or
/// say why not.
#[utoipa::path(post, path = "/v1/jobs", request_body = Specification,
    responses(
        (status = 202, body = Accepted),
        (status = 400, description = "it is no job", body = Failure),
        (status = 409, description = "a job of this name runs, or a component is missing", body = Failure)))]
async fn submit(State(api): Api, headers: HeaderMap, body: Body) -> Answer<Response> {
    let specification: Specification = read(&headers, body).await?;
    let id = waiting(move || api.submit(specification)).await?;
    Ok((StatusCode::ACCEPTED, Json(Accepted { id })).into_response())
}

/// All jobs, also those that have ended.
#[utoipa::path(get, path = "/v1/jobs", responses((status = 200, body = Jobs)))]
async fn jobs(State(api): Api) -> Json<Jobs> {
    let jobs = api.jobs().into_iter().map(|job| job.status).collect();
    Json(Jobs { jobs })
}

/// A job at a glance.
#[utoipa::path(get, path = "/v1/jobs/{job}",
    params(("job" = String, Path, description = "id, beginning of an id, or name")),
    responses((status = 200, body = JobStatus), (status = 404, body = Failure)))]
async fn job(State(api): Api, Path(reference): Path<String>) -> Answer<Json<JobStatus>> {
    Ok(Json(find(&api, &reference)?.status))
}

/// Ends a job with a last checkpoint, or with a savepoint.
#[utoipa::path(post, path = "/v1/jobs/{job}/stop", request_body = Stop,
    params(("job" = String, Path)),
    responses((status = 202, body = Begun), (status = 404, body = Failure), (status = 409, body = Failure)))]
async fn stop(state: Api, path: Path<String>, headers: HeaderMap, body: Body) -> Answer<Response> {
    let Stop { savepoint, drain } = read(&headers, body).await?;
    let folder = savepoint.as_deref();
    folder.map_or(Ok(()), |folder| check_whole(folder, "`savepoint` is"))?;
    begin(state, path, Operation::Stop { savepoint, drain }).await
}

/// Ends a job at once: what is not committed is withdrawn.
#[utoipa::path(post, path = "/v1/jobs/{job}/cancel", request_body = Cancel,
    params(("job" = String, Path)),
    responses((status = 202, body = Begun), (status = 404, body = Failure), (status = 409, body = Failure)))]
async fn cancel(
    state: Api,
    path: Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Response> {
    let Cancel {} = read(&headers, body).await?;
    begin(state, path, Operation::Cancel).await
}

/// Makes a savepoint of a job, which goes on.
#[utoipa::path(post, path = "/v1/jobs/{job}/savepoints", request_body = Savepoint,
    params(("job" = String, Path)),
    responses((status = 202, body = Begun), (status = 404, body = Failure), (status = 409, body = Failure)))]
async fn savepoint(
    state: Api,
    path: Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Response> {
    let Savepoint { folder } = read(&headers, body).await?;
    check_whole(&folder, "`folder` is")?;
    begin(state, path, Operation::Savepoint { folder }).await
}

/// Replaces a job by a new version of it, which goes on with its state.
#[utoipa::path(post, path = "/v1/jobs/{job}/upgrade", request_body = Upgrade,
    params(("job" = String, Path)),
    responses((status = 202, body = Begun), (status = 404, body = Failure), (status = 409, body = Failure)))]
async fn upgrade(
    state: Api,
    path: Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Response> {
    let Upgrade { version } = read(&headers, body).await?;
    begin(state, path, Operation::Upgrade { version }).await
}

async fn begin(
    State(api): Api,
    Path(reference): Path<String>,
    operation: Operation,
) -> Answer<Response> {
    let id = find(&api, &reference)?.status.id;
    let trigger = waiting(move || api.begin(&id, operation)).await?;
    Ok((StatusCode::ACCEPTED, Json(Begun { trigger })).into_response())
}

/// What came of a command; one that is being carried out is waited for, for at most ten seconds.
#[utoipa::path(get, path = "/v1/jobs/{job}/triggers/{trigger}",
    params(("job" = String, Path), ("trigger" = String, Path),
        ("wait_ms" = Option<u64>, Query, description = "how long to wait if it is not done")),
    responses((status = 200, body = Trigger), (status = 404, body = Failure)))]
async fn trigger(
    State(api): Api,
    Path((reference, trigger)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Answer<Json<Trigger>> {
    let id = find(&api, &reference)?.status.id;
    let wait_ms = number(query.as_deref(), "wait_ms")?;
    let wait = Duration::from_millis(wait_ms.unwrap_or(0)).min(WAIT_MAX);
    waiting(move || api.trigger(&id, &trigger, wait))
        .await
        .map(Json)
}

/// What the last checkpoints of a job cost.
#[utoipa::path(get, path = "/v1/jobs/{job}/checkpoints",
    params(("job" = String, Path), ("last" = Option<usize>, Query, description = "at most so many")),
    responses((status = 200, body = Checkpoints), (status = 404, body = Failure)))]
async fn checkpoints(
    State(api): Api,
    Path(reference): Path<String>,
    RawQuery(query): RawQuery,
) -> Answer<Json<Checkpoints>> {
    let id = find(&api, &reference)?.status.id;
    let checkpoints = api.checkpoints(&id, last(query.as_deref())?);
    Ok(Json(Checkpoints { checkpoints }))
}

/// How many are wanted.
fn last(query: Option<&str>) -> Result<usize> {
    let last = number(query, "last")?;
    let n = last.and_then(|last| usize::try_from(last).ok());
    Ok(n.unwrap_or(usize::MAX))
}

/// The last lines that a job has said; a thousand are remembered.
#[utoipa::path(get, path = "/v1/jobs/{job}/logs",
    params(("job" = String, Path), ("last" = Option<usize>, Query, description = "at most so many")),
    responses((status = 200, body = Logs), (status = 404, body = Failure)))]
async fn logs(
    State(api): Api,
    Path(reference): Path<String>,
    RawQuery(query): RawQuery,
) -> Answer<Json<Logs>> {
    let id = find(&api, &reference)?.status.id;
    let said = api.logs(&id, last(query.as_deref())?);
    let lines = said.into_iter().map(LogEntry::from).collect();
    Ok(Json(Logs { lines }))
}
