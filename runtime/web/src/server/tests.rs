//! The interface as a client sees it.

use super::*;
use crate::api::{Checkpointing, Edge, JobDetails, JobName, Slots, SubtaskDetails, VertexDetails};
use crate::status::{CheckpointDetails, CheckpointStatus, JobStatus, State, SubtaskCheckpoint};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use streamrt_jobmanager::{Operation, Outcome, Specification, Trigger};
use streamrt_types::LogLine;

/// A cluster with one job of two vertices.
struct OneJob;

impl ClusterApi for OneJob {
    fn jobs(&self) -> Vec<JobDetails> {
        let subtask = SubtaskDetails {
            records_in: 5,
            records_out: 4,
            watermark: Some(9),
            busy_ms: 900,
            busy_ms_per_second: 600,
            ..SubtaskDetails::default()
        };
        let source = VertexDetails {
            id: "a".repeat(32),
            name: "lines".into(),
            inputs: Vec::new(),
            subtasks: vec![subtask.clone(); 2],
        };
        let input = Edge {
            from: source.id.clone(),
            ship_strategy: "HASH",
        };
        let waiting = SubtaskDetails {
            watermark: None,
            ..subtask.clone()
        };
        let count = VertexDetails {
            id: "b".repeat(32),
            name: "count".into(),
            inputs: vec![input],
            subtasks: vec![subtask, waiting],
        };
        vec![JobDetails {
            status: JobStatus {
                id: "1f".repeat(16),
                name: "words".into(),
                state: State::Running,
                started_ms: 1_000,
                elapsed_ms: 1_000,
                parallelism: 2,
                ..JobStatus::default()
            },
            max_parallelism: 128,
            checkpointing: Some(Checkpointing {
                interval_ms: 200,
                ..Checkpointing::default()
            }),
            vertices: vec![source, count],
            ..JobDetails::default()
        }]
    }

    fn now_ms(&self) -> i64 {
        2_500
    }

    fn names(&self) -> Vec<JobName> {
        let name = |job: JobDetails| JobName {
            id: job.status.id,
            name: job.status.name,
            has_ended: job.status.state.is_end(),
        };
        self.jobs().into_iter().map(name).collect()
    }

    fn job(&self, id: &str) -> Option<JobDetails> {
        self.jobs().into_iter().find(|job| job.status.id == id)
    }

    fn checkpoints(&self, job: &str, n: usize) -> Vec<CheckpointDetails> {
        let subtasks = vec![SubtaskCheckpoint {
            name: "count (1/2)".into(),
            bytes: 10,
            full_bytes: 30,
            ..SubtaskCheckpoint::default()
        }];
        let completed = CheckpointDetails {
            checkpoint: 1,
            status: CheckpointStatus::Published,
            duration_us: 7_000,
            subtasks,
            ..CheckpointDetails::default()
        };
        let failed = CheckpointDetails {
            checkpoint: 2,
            status: CheckpointStatus::Failed {
                reason: "full".into(),
            },
            ..CheckpointDetails::default()
        };
        let all = if job == "1f".repeat(16) {
            vec![completed, failed]
        } else {
            Vec::new()
        };
        all.into_iter().rev().take(n).rev().collect()
    }

    fn logs(&self, _: &str, n: usize) -> Vec<LogLine> {
        let line = |message: &str| LogLine {
            at_ms: 5,
            attempt: 1,
            task: "count (1/2)".into(),
            message: message.into(),
        };
        let all = vec![line("first"), line("second")];
        all.into_iter().rev().take(n).rev().collect()
    }

    fn slots(&self) -> Slots {
        Slots { total: 2, free: 1 }
    }

    fn configuration(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("slots".to_owned(), "2".to_owned())])
    }

    fn component_bytes_max(&self) -> usize {
        10
    }

    fn has_component(&self, digest: &str) -> bool {
        digest == THERE
    }

    fn put_component(&self, digest: &str, bytes: Vec<u8>) -> Result<bool> {
        match bytes.is_empty() {
            true => Err(Error::new(
                code::BAD_REQUEST,
                format!("{digest} is another"),
            )),
            false => Ok(true),
        }
    }

    fn submit(&self, specification: Specification) -> Result<String> {
        specification.check()?;
        Err(Error::new(code::JOB_EXISTS, "a job `words` runs already"))
    }

    fn begin(&self, job: &str, operation: Operation) -> Result<String> {
        assert_eq!(job, "1f".repeat(16));
        match operation {
            Operation::Cancel => Ok("7".into()),
            _ => Err(Error::new(code::CHECKPOINT_FAILED, "it does not run yet")),
        }
    }

    fn trigger(&self, _: &str, trigger: &str, _: Duration) -> Result<Trigger> {
        match trigger {
            "7" => Ok(Trigger::Completed(Outcome::Done)),
            _ => Err(Error::new(code::NO_JOB, format!("no command {trigger}"))),
        }
    }
}

const THERE: &str = "there";

fn started() -> Server {
    Bound::new("127.0.0.1:0")
        .unwrap()
        .serve(Arc::new(OneJob), Access::Write)
        .unwrap()
}

fn address(server: &Server) -> SocketAddr {
    server.address().unwrap()
}

/// Status and body.
fn request(server: &Server, head: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address(server)).unwrap();
    write!(stream, "{head}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (
        head.split(' ').nth(1).unwrap().parse().unwrap(),
        body.to_owned(),
    )
}

fn get(server: &Server, path: &str) -> (u16, Value) {
    let (status, body) = request(
        server,
        &format!("GET {path} HTTP/1.1\r\nHost: {}", address(server)),
    );
    (
        status,
        serde_json::from_str(&body).unwrap_or(Value::String(body)),
    )
}

// Long: one path after the other, of one server.
#[test]
fn a_job_is_shown_under_the_paths_of_flink() {
    let server = started();
    let (id, source, count) = ("1f".repeat(16), "a".repeat(32), "b".repeat(32));
    let at = |path: &str| {
        let (status, value) = get(
            &server,
            &path
                .replace("ID", &id)
                .replace("SOURCE", &source)
                .replace("COUNT", &count),
        );
        assert_eq!(status, 200, "{path}: {value}");
        value
    };
    let overview = at("/overview");
    assert_eq!(
        (&overview["jobs-running"], &overview["slots-total"]),
        (&Value::from(1), &Value::from(2))
    );
    assert_eq!(overview["slots-available"], 1);
    assert_eq!(at("/jobs")["jobs"][0]["status"], "RUNNING");
    assert_eq!(at("/jobs/overview")["jobs"][0]["tasks"]["running"], 4);
    let job = at("/jobs/ID");
    assert_eq!(
        (&job["vertices"][0]["metrics"]["read-records"], &job["now"]),
        (&Value::from(10), &Value::from(2_500))
    );
    assert_eq!(
        (
            &job["status-counts"]["RUNNING"],
            &job["timestamps"]["FAILED"]
        ),
        (&Value::from(2), &Value::from(0))
    );
    assert_eq!(
        at("/jobs/ID/plan")["plan"]["nodes"][1]["inputs"][0]["ship_strategy"],
        "HASH"
    );
    assert_eq!(job["plan"]["nodes"][1]["inputs"][0]["id"], source.as_str());
    assert_eq!(
        at("/jobs/ID/config")["execution-config"]["job-parallelism"],
        2
    );
    let checkpoints = at("/jobs/ID/checkpoints");
    assert_eq!(
        (
            &checkpoints["counts"]["completed"],
            &checkpoints["counts"]["failed"]
        ),
        (&Value::from(1), &Value::from(1))
    );
    assert_eq!(checkpoints["latest"]["completed"]["state_size"], 30);
    assert_eq!(checkpoints["summary"]["checkpointed_size"]["max"], 10);
    assert_eq!(checkpoints["history"][1]["num_subtasks"], 1);
    assert_eq!(checkpoints["history"][0]["failure_message"], "full");
    assert_eq!(
        at("/jobs/ID/checkpoints/details/1")["subtasks"][0]["checkpointed_size"],
        10
    );
    assert_eq!(
        at("/jobs/ID/vertices/COUNT")["subtasks"][1]["metrics"]["read-records"],
        5
    );
    assert_eq!(
        at("/jobs/ID/vertices/COUNT/watermarks")
            .as_array()
            .unwrap()
            .len(),
        1,
        "one has none"
    );
    assert_eq!(
        at("/jobs/ID/vertices/SOURCE/backpressure")["subtasks"][0]["busyRatio"],
        0.6
    );
    assert_eq!(at("/jobs/ID/exceptions")["root-exception"], Value::Null);
    assert_eq!(
        at("/jobs/ID/accumulators")["job-accumulators"],
        Value::Array(vec![])
    );
    assert_eq!(at("/jobs/ID/checkpoints/config")["interval"], 200);
    assert_eq!(at("/jobs/ID/metrics?get=uptime")[0]["value"], "1000");
    assert_eq!(at("/jobs/ID/metrics?get=numRestarts")[0]["value"], "0");
    assert_eq!(at("/jobs/ID/metrics").as_array().unwrap().len(), 8);
    assert_eq!(
        at("/jobs/ID/vertices/COUNT/subtasks")["subtasks"][1]["subtask"],
        1
    );
    assert_eq!(
        at("/jobs/ID/vertices/COUNT/metrics?get=0.numRecordsIn,1.currentInputWatermark"),
        serde_json::json!([{"id": "0.numRecordsIn", "value": "5"}]),
        "one has no watermark"
    );
    assert_eq!(at("/taskmanagers")["taskmanagers"][0]["freeSlots"], 1);
    assert_eq!(
        at("/jobmanager/config"),
        serde_json::json!([{"key": "slots", "value": "2"}])
    );
    assert!(
        at("/metrics")
            .as_str()
            .unwrap()
            .contains("flink_taskmanager_job_task_numRecordsIn{job_id=\"")
    );
}

#[test]
fn what_is_not_there_is_said_in_a_sentence() {
    let server = started();
    for path in [
        "/nothing",
        "/jobs/2e",
        "/jobs/2e/plan",
        "/jobs/2e/checkpoints",
        "/jobs/2e/vertices/3",
    ] {
        let (status, answer) = get(&server, path);
        assert!(
            status == 404
                && answer["errors"][0]
                    .as_str()
                    .is_some_and(|message| message.starts_with("there is no")),
            "{path}: {answer}"
        );
    }
    let id = "1f".repeat(16);
    for path in [
        "vertices/3",
        "checkpoints/details/9",
        "checkpoints/details/x",
    ] {
        let (status, answer) = get(&server, &format!("/jobs/{id}/{path}"));
        assert!(
            status == 404 && answer["errors"][0].as_str().is_some(),
            "{path}: {answer}"
        );
    }
    let (status, _) = request(
        &server,
        &format!(
            "POST /jobs HTTP/1.1\r\nHost: {}\r\nContent-Length: 0",
            address(&server)
        ),
    );
    assert_eq!(status, 405);
}

#[test]
fn pages_of_others_get_nothing() {
    let server = started();
    let port = address(&server).port();
    let status = |headers: &str| request(&server, &format!("GET /jobs HTTP/1.1\r\n{headers}")).0;
    for (headers, expected) in [
        (format!("Host: localhost:{port}"), 200),
        (format!("Host: [::1]:{port}"), 200),
        (
            format!("Host: localhost:{port}\r\nOrigin: http://localhost:{port}"),
            200,
        ),
        (format!("Host: evil.example:{port}"), 403),
        ("Host: localhost.evil.example".to_owned(), 403),
        (
            format!("Host: localhost:{port}\r\nOrigin: http://evil.example"),
            403,
        ),
        (format!("Host: localhost:{port}\r\nOrigin: null"), 403),
        (
            format!("Host: localhost:{port}\r\nOrigin: https://localhost:{port}"),
            403,
        ),
    ] {
        assert_eq!(status(&headers), expected, "{headers}");
    }
}

#[test]
fn an_address_that_others_reach_or_that_is_taken_is_refused() {
    let taken = started();
    for (address, id, what) in [
        ("0.0.0.0:0", "S6004", "can be reached from other machines"),
        ("127.0.0.1", "S6004", "is no address and port"),
        (&address(&taken).to_string(), "S3006", "is taken"),
    ] {
        let error = Bound::new(address).err().unwrap();
        assert!(error.message().contains(what), "{error}");
        assert_eq!(error.code().id, id);
    }
    let address = address(&taken);
    drop(taken);
    assert!(
        TcpListener::bind(address).is_ok(),
        "a server that is gone leaves its port"
    );
}

/// Sends a request with a body, and returns status and code.
#[track_caller]
fn check_v1(method: &str, path: &str, headers: &str, body: &str, expected: (u16, &str)) -> Value {
    let server = started();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {length}\r\nConnection: close{headers}\r\n\r\n{body}",
        address(&server)
    );
    let mut stream = TcpStream::connect(address(&server)).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
    let value: Value = serde_json::from_str(body).unwrap_or_default();
    assert_eq!(
        (status, value["code"].as_str().unwrap_or("")),
        expected,
        "{method} {path}: {answer}"
    );
    value
}

const JSON: &str = "\r\nContent-Type: application/json";

#[test]
fn what_changes_something_is_json_and_is_answered_with_a_trigger() {
    check_v1("HEAD", "/v1/components/there", "", "", (200, ""));
    check_v1("HEAD", "/v1/components/gone", "", "", (404, ""));
    check_v1("PUT", "/v1/components/there", "", "x", (200, ""));
    check_v1("PUT", "/v1/components/gone", "", "x", (201, ""));
    let begun = check_v1("POST", "/v1/jobs/words/cancel", JSON, "{}", (202, ""));
    assert_eq!(begun["trigger"], "7");
    let path = "/v1/jobs/1f/triggers/7?wait_ms=5";
    let trigger = check_v1("GET", path, "", "", (200, ""));
    assert_eq!(trigger["completed"], "done");
    let job = check_v1("GET", "/v1/jobs/words", "", "", (200, ""));
    assert_eq!(job["state"], "running");
    let last = check_v1(
        "GET",
        "/v1/jobs/words/checkpoints?last=1",
        "",
        "",
        (200, ""),
    );
    assert_eq!(last["checkpoints"][0]["status"]["failed"]["reason"], "full");
    let logs = check_v1("GET", "/v1/jobs/words/logs?last=1", "", "", (200, ""));
    assert_eq!(
        logs["lines"],
        serde_json::json!([{"at_ms": 5, "attempt": 1, "task": "count (1/2)", "message": "second"}])
    );
    check_v1("GET", "/v1/cluster", "", "", (200, ""));
}

#[test]
fn a_bad_request_has_a_status_a_code_and_a_sentence() {
    let form = "\r\nContent-Type: text/plain";
    let cancel = "/v1/jobs/words/cancel";
    let refused = check_v1("POST", cancel, form, "{}", (415, "S6009"));
    assert_eq!(
        refused["message"],
        "the body must be `application/json`, and it is `text/plain`"
    );
    assert!(refused["fix"].as_str().unwrap().contains("openapi.json"));
    check_v1("POST", cancel, "", "", (415, "S6009"));
    check_v1("POST", cancel, JSON, "{\"now\": 1}", (400, "S6009"));
    check_v1("POST", cancel, JSON, "{", (400, "S6009"));
    check_v1("POST", "/v1/jobs/none/cancel", JSON, "{}", (404, "S6005"));
    check_v1("POST", "/v1/jobs/words/stop", JSON, "{}", (409, "S7009"));
    let relative = r#"{"folder": "sp"}"#;
    let savepoints = "/v1/jobs/words/savepoints";
    check_v1("POST", savepoints, JSON, relative, (400, "S2007"));
    check_v1("POST", "/v1/jobs", JSON, "{}", (400, "S6009"));
    check_v1("GET", "/v1/jobs/words/triggers/8", "", "", (404, "S6005"));
    check_v1(
        "GET",
        "/v1/jobs/words/triggers/7?wait_ms=x",
        "",
        "",
        (400, "S6009"),
    );
    check_v1(
        "PUT",
        "/v1/components/gone",
        "",
        "eleven byte",
        (413, "S1020"),
    );
    check_v1("PUT", "/v1/components/gone", "", "", (400, "S6009"));
    check_v1("DELETE", "/v1/jobs", "", "", (405, "S6009"));
    check_v1("GET", "/v1/nothing", "", "", (404, "S6009"));
    let foreign = format!("{JSON}\r\nOrigin: http://evil.example");
    check_v1("POST", cancel, &foreign, "{}", (403, "S6009"));
    let job =
        r#"{"name":"words","version":{"file":"a","components":[{"path":"a","digest":"DIGEST"}]}}"#;
    let job = job.replace("DIGEST", &"0a".repeat(32));
    check_v1("POST", "/v1/jobs", JSON, &job, (409, "S6006"));
}

/// A body is refused by what its head says, before it is there.
#[test]
fn a_body_that_is_too_large_is_not_read() {
    let server = started();
    let head = |path: &str, kind: &str| {
        format!(
            "{path} HTTP/1.1\r\nHost: {}\r\nContent-Type: {kind}\r\nContent-Length: 99999999999",
            address(&server)
        )
    };
    let (status, _) = request(
        &server,
        &head("PUT /v1/components/gone", "application/wasm"),
    );
    assert_eq!(status, 413);
    let (status, _) = request(&server, &head("POST /v1/jobs", "application/json"));
    assert_eq!(status, 413);
}

#[test]
fn half_a_body_and_a_path_that_is_no_text_get_a_sentence() {
    let server = started();
    let mut stream = TcpStream::connect(address(&server)).unwrap();
    let head =
        "PUT /v1/components/gone HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf";
    stream.write_all(head.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    let path = "/v1/jobs/%ff/cancel";
    let refused = check_v1("POST", path, JSON, "{}", (400, "S6009"));
    assert_eq!(refused["message"], "/v1/jobs/%ff/cancel cannot be read");
}

/// As many as the server takes, and more.
#[test]
fn a_server_ends_although_all_its_connections_are_idle() {
    let server = started();
    let connections: Vec<TcpStream> = (0..CONNECTIONS_MAX + 50)
        .map_while(|_| TcpStream::connect(address(&server)).ok())
        .collect();
    assert!(!connections.is_empty());
    let began = std::time::Instant::now();
    drop(server);
    assert!(began.elapsed() < IDLE, "{} are open", connections.len());
}

#[test]
fn who_may_only_read_cannot_write() {
    let server = Bound::new("127.0.0.1:0")
        .unwrap()
        .serve(Arc::new(OneJob), Access::Read)
        .unwrap();
    let head = format!(
        "POST /v1/jobs/words/cancel HTTP/1.1\r\nHost: {}{JSON}\r\nContent-Length: 0",
        address(&server)
    );
    let (status, text) = request(&server, &head);
    assert!(status == 403 && text.contains("changes nothing"), "{text}");
    assert_eq!(get(&server, "/v1/jobs").0, 200);
}

#[test]
fn the_client_talks_over_a_socket_in_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let server = Bound::unix(listener)
        .serve(Arc::new(OneJob), Access::Write)
        .unwrap();
    let place = crate::Place::Unix(path);
    let mut client = crate::Client::connect(place, Duration::from_secs(60)).unwrap();
    assert_eq!(client.jobs().unwrap().jobs[0].name, "words");
    assert!(!client.put_component(THERE, b"x").unwrap());
    assert!(client.put_component("gone", b"x").unwrap());
    let refused = client.put_component("gone", &[0; 11]).unwrap_err();
    assert_eq!(refused.code(), code::COMPONENT_LIMIT);
    let done = client
        .command("words", "cancel", &crate::Cancel {})
        .unwrap();
    assert_eq!(done, Outcome::Done);
    let stop = crate::Stop::default();
    let refused = client.command("words", "stop", &stop).unwrap_err();
    assert_eq!(refused.message(), "it does not run yet");
    drop(server);
    assert_eq!(client.jobs().unwrap_err().code(), code::CONNECTION_LOST);
}
