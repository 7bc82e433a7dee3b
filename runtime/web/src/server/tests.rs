//! The interface as a client sees it.

use super::*;
use crate::api::{
    CheckpointDetails, Edge, JobDetails, SubtaskCheckpoint, SubtaskDetails, VertexDetails,
};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;

/// A cluster with one job of two vertices.
struct OneJob;

impl ClusterApi for OneJob {
    fn jobs(&self) -> Vec<JobDetails> {
        let subtask = SubtaskDetails {
            records_in: 5,
            records_out: 4,
            watermark: Some(9),
            busy_ms: 600,
            ..SubtaskDetails::default()
        };
        let source = VertexDetails {
            id: "a".repeat(32),
            name: "lines".into(),
            inputs: Vec::new(),
            subtasks: vec![subtask; 2],
        };
        let input = Edge {
            from: source.id.clone(),
            ship_strategy: "HASH",
        };
        let waiting = SubtaskDetails {
            watermark: None,
            ..subtask
        };
        let count = VertexDetails {
            id: "b".repeat(32),
            name: "count".into(),
            inputs: vec![input],
            subtasks: vec![subtask, waiting],
        };
        vec![JobDetails {
            id: "1f".repeat(16),
            name: "words".into(),
            state: "RUNNING",
            start_ms: 1_000,
            duration_ms: 1_000,
            max_parallelism: 128,
            parallelism: 2,
            vertices: vec![source, count],
        }]
    }

    fn checkpoints(&self, job: &str, n: usize) -> Vec<CheckpointDetails> {
        let subtasks = vec![SubtaskCheckpoint {
            name: "count (1/2)".into(),
            bytes: 10,
            full_bytes: 30,
            ..SubtaskCheckpoint::default()
        }];
        let completed = CheckpointDetails {
            id: 1,
            status: "COMPLETED",
            duration_ms: 7,
            subtasks,
            ..CheckpointDetails::default()
        };
        let failed = CheckpointDetails {
            id: 2,
            status: "FAILED",
            failure: Some("full".into()),
            ..CheckpointDetails::default()
        };
        let all = if job == "1f".repeat(16) {
            vec![completed, failed]
        } else {
            Vec::new()
        };
        all.into_iter().rev().take(n).rev().collect()
    }
}

fn started() -> Server {
    Bound::new("127.0.0.1:0")
        .unwrap()
        .serve(Arc::new(OneJob))
        .unwrap()
}

/// Status and body.
fn request(server: &Server, head: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(server.address()).unwrap();
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
        &format!("GET {path} HTTP/1.1\r\nHost: {}", server.address()),
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
    assert_eq!(at("/jobs")["jobs"][0]["status"], "RUNNING");
    assert_eq!(at("/jobs/overview")["jobs"][0]["tasks"]["running"], 4);
    let job = at("/jobs/ID");
    assert_eq!(
        (&job["vertices"][0]["metrics"]["read-records"], &job["now"]),
        (&Value::from(10), &Value::from(2_000))
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
            server.address()
        ),
    );
    assert_eq!(status, 405);
}

#[test]
fn pages_of_others_get_nothing() {
    let server = started();
    let port = server.address().port();
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
        (&taken.address().to_string(), "S3006", "is taken"),
    ] {
        let error = Bound::new(address).err().unwrap();
        assert!(error.message().contains(what), "{error}");
        assert_eq!(error.code().id, id);
    }
    let address = taken.address();
    drop(taken);
    assert!(
        TcpListener::bind(address).is_ok(),
        "a server that is gone leaves its port"
    );
}
