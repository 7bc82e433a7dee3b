//! Commands to running jobs: which are listed, and that one which does not answer does not block
//! the others.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::Value;
use streamrt_tests::binary::{Finished, LIMIT, Running, run, streamrt};
use tempfile::TempDir;

/// A folder of jobs that make numbers for ever, and the cache by which commands find them and no
/// others.
struct Jobs(TempDir);

impl Jobs {
    fn new() -> Jobs {
        let jobs = Jobs(TempDir::new().unwrap());
        let text = "\
name = \"numbers\"
[[source]]
uid = \"numbers\"
connector = \"datagen\"
rate = 100
columns = [{ name = \"n\", type = \"i64\" }]
[[sink]]
uid = \"out\"
input = \"numbers\"
connector = \"blackhole\"
";
        std::fs::write(jobs.path().join("job.toml"), text).unwrap();
        jobs
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = streamrt(args);
        command
            .current_dir(self.path())
            .env("XDG_CACHE_HOME", self.path().join("cache"));
        command
    }

    fn tell(&self, args: &[&str]) -> Finished {
        Running::start(self.command(args)).finish(LIMIT)
    }

    /// Starts a job, and waits until it is listed as running.
    fn start(&self, name: &str, further: &[&str]) -> Running {
        let args: Vec<&str> = ["run", "job.toml", "--name", name]
            .iter()
            .chain(further)
            .copied()
            .collect();
        let running = Running::start(self.command(&args));
        let start = Instant::now();
        while !self
            .listed()
            .iter()
            .any(|job| job["name"] == name && job["state"] == "running")
        {
            assert!(
                start.elapsed() < LIMIT,
                "{name} is not listed: {}",
                running.said()
            );
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        running
    }

    fn listed(&self) -> Vec<Value> {
        let listed = self.tell(&["list", "--output", "json"]).succeeded().stdout;
        listed
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

fn signal(running: &Running, signal: &str) {
    assert!(
        Command::new("kill")
            .args([signal, &running.id().to_string()])
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn jobs_are_listed_by_name_with_their_state() {
    let jobs = Jobs::new();
    let one = jobs.start("one", &["--parallelism", "2"]);
    let two = jobs.start("two", &[]);
    let text = jobs.tell(&["list"]).succeeded().stdout;
    assert!(
        text.starts_with("JOB ") && text.contains("PARALLELISM") && text.lines().count() == 3,
        "{text}"
    );
    let listed = jobs.listed();
    let of = |name: &str| listed.iter().find(|job| job["name"] == name).unwrap();
    assert_eq!(
        (&of("one")["parallelism"], &of("two")["parallelism"]),
        (&Value::from(2), &Value::from(1))
    );
    assert_eq!(of("one")["pid"], one.id());
    jobs.tell(&["cancel", "nobody"])
        .failed_with("S6004")
        .names("there is no job `nobody` on this machine");
    jobs.tell(&["stop", of("one")["id"].as_str().unwrap()])
        .succeeded();
    one.finish(LIMIT).succeeded();
    assert_eq!(jobs.listed().len(), 1, "the other one is where it was");
    jobs.tell(&["cancel", "two"]).succeeded();
    let cancelled = two.finish(LIMIT).failed_with("S8002");
    assert!(
        !cancelled.stderr.contains("Another task"),
        "{}",
        cancelled.stderr
    );
    assert_eq!(
        jobs.tell(&["list"]).succeeded().stdout.lines().count(),
        1,
        "the head alone"
    );
}

/// The body of an answer from the interface that a job has said to be at.
fn get(running: &Running, path: &str) -> String {
    let said = running.said();
    let (_, rest) = said
        .split_once("shown at http://")
        .expect("a job says where it is shown");
    let address = rest.split('/').next().unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    body.to_owned()
}

fn get_json(running: &Running, path: &str) -> Value {
    serde_json::from_str(&get(running, path)).unwrap()
}

/// Looks again until it sees something.
fn await_some<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(start.elapsed() < LIMIT, "{what}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

// Long: what one job shows, under one path after the other.
#[test]
fn a_job_is_shown_over_http_as_in_flink() {
    let jobs = Jobs::new();
    let checkpoints = [
        "-D",
        "checkpoint.interval=100ms",
        "-D",
        "checkpoint.dir=checkpoints",
    ];
    let running = jobs.start(
        "shown",
        &[
            &["--parallelism", "2", "--rest", "127.0.0.1:0"][..],
            &checkpoints,
        ]
        .concat(),
    );
    let job = await_some("the job runs", || {
        let job = get_json(&running, "/jobs/overview")["jobs"][0].clone();
        (job["state"] == "RUNNING").then_some(job)
    });
    let id = job["jid"].as_str().unwrap().to_owned();
    assert!(
        id.len() == 32 && id.starts_with(jobs.listed()[0]["id"].as_str().unwrap()),
        "{id} begins with the id that is listed"
    );
    let details = get_json(&running, &format!("/jobs/{id}"));
    let vertices = details["vertices"].as_array().unwrap();
    let parallelism: Vec<&Value> = vertices
        .iter()
        .map(|vertex| &vertex["parallelism"])
        .collect();
    assert_eq!(
        (details["name"].as_str(), parallelism.as_slice()),
        (Some("shown"), &[&Value::from(1), &Value::from(2)][..])
    );
    assert_eq!(
        details["plan"]["nodes"][1]["inputs"][0]["id"], vertices[0]["id"],
        "the enumerator feeds the readers"
    );
    let reader = format!(
        "/jobs/{id}/vertices/{}",
        vertices[1]["id"].as_str().unwrap()
    );
    await_some("records are counted for each subtask", || {
        let subtasks = get_json(&running, &reader)["subtasks"].clone();
        let counted = |n: usize| {
            subtasks[n]["metrics"]["read-records"]
                .as_u64()
                .is_some_and(|n| n > 0)
        };
        (counted(0) && counted(1)).then_some(())
    });
    let checkpoint = await_some("a checkpoint is shown", || {
        let latest =
            get_json(&running, &format!("/jobs/{id}/checkpoints"))["latest"]["completed"].clone();
        latest["id"].as_u64()
    });
    let details = get_json(
        &running,
        &format!("/jobs/{id}/checkpoints/details/{checkpoint}"),
    );
    // The readers; the enumerator may have ended.
    assert!(
        details["subtasks"].as_array().unwrap().len() >= 2,
        "{details}"
    );
    let metrics = get(&running, "/metrics");
    let label =
        format!("flink_taskmanager_job_task_numRecordsIn{{job_id=\"{id}\",job_name=\"shown\"");
    assert_eq!(
        metrics
            .lines()
            .filter(|line| line.starts_with(&label))
            .count(),
        3,
        "{metrics}"
    );
    assert!(
        metrics.contains("\nflink_jobmanager_job_lastCheckpointDuration{"),
        "{metrics}"
    );
    jobs.tell(&["stop", "shown"]).succeeded();
    running.finish(LIMIT).succeeded();
}

#[test]
fn an_address_that_others_reach_is_refused_before_the_job_starts() {
    let jobs = Jobs::new();
    jobs.tell(&["run", "job.toml", "--rest", "0.0.0.0:8081"])
        .failed_with("S6004")
        .names("can be reached from other machines");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    jobs.tell(&[
        "run",
        "job.toml",
        "--rest",
        &taken.local_addr().unwrap().to_string(),
    ])
    .failed_with("S3006")
    .names("is taken");
}

#[test]
fn a_job_that_does_not_answer_hinders_no_other() {
    let jobs = Jobs::new();
    let (one, two) = (jobs.start("one", &[]), jobs.start("two", &[]));
    signal(&one, "-STOP");
    let listed = jobs.listed();
    let states: Vec<(&Value, &Value)> = listed
        .iter()
        .map(|job| (&job["name"], &job["state"]))
        .collect();
    let state = |name: &str| states.iter().find(|(of, _)| *of == name).unwrap().1;
    assert_eq!(
        (state("one"), state("two")),
        (&Value::from("no answer"), &Value::from("running"))
    );
    jobs.tell(&["stop", "two"]).succeeded();
    two.finish(LIMIT).succeeded();
    jobs.tell(&["checkpoints", "one"])
        .failed_with("S3014")
        .names("has not answered");
    signal(&one, "-CONT");
    jobs.tell(&["stop", "one"]).succeeded();
    one.finish(LIMIT).succeeded();
}

#[test]
fn what_a_killed_job_leaves_is_removed() {
    let jobs = Jobs::new();
    let mut one = jobs.start("one", &[]);
    let two = jobs.start("two", &[]);
    one.kill();
    one.finish(LIMIT);
    assert_eq!(jobs.listed().len(), 1);
    let left = std::fs::read_dir(jobs.path().join("cache/streamrt/jobs"))
        .unwrap()
        .count();
    assert_eq!(left, 2, "the socket and the file of the one that lives");
    jobs.tell(&["stop", "two"]).succeeded();
    two.finish(LIMIT).succeeded();
}

#[test]
fn json_tells_of_checkpoints_errors_and_the_end() {
    let jobs = Jobs::new();
    let options = [
        "--output",
        "json",
        "-D",
        "checkpoint.dir=ck",
        "-D",
        "checkpoint.interval=20ms",
    ];
    let one = jobs.start("one", &options);
    one.says("\"event\":\"checkpoint\"");
    jobs.tell(&["stop", "one"]).succeeded();
    let events = events(&one.finish(LIMIT).succeeded().stderr);
    let of = |event: &str| {
        events
            .iter()
            .rfind(|found| found["event"] == event)
            .cloned()
            .unwrap_or_default()
    };
    assert_eq!(
        (&of("checkpoint")["status"], &of("summary")["state"]),
        (&Value::from("published"), &Value::from("stopped"))
    );
    let refused = jobs
        .tell(&["run", "no.toml", "--output", "json"])
        .failed_with("S3001");
    let object: Value = serde_json::from_str(refused.stderr.trim()).unwrap();
    assert_eq!(
        (&object["event"], &object["code"]),
        (&Value::from("error"), &Value::from("S3001"))
    );
    for args in [
        &["run", "no.toml", "--output", "json", "--bogus"][..],
        &["list", "--output=json", "--bogus"],
    ] {
        let refused = jobs.tell(args);
        let object: Value = serde_json::from_str(refused.stderr.trim()).unwrap();
        assert_eq!(
            (refused.status.code(), &object["code"]),
            (Some(2), &Value::from("S6004"))
        );
        assert!(
            object["message"]
                .as_str()
                .unwrap()
                .contains("unexpected argument '--bogus'"),
            "{object}"
        );
    }
}

/// Each line is an object.
fn events(stderr: &str) -> Vec<Value> {
    stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect()
}

#[test]
fn a_folder_that_nobody_asks_for_is_refused() {
    let jobs = Jobs::new();
    jobs.tell(&["run", "job.toml", "--grant", "a=x", "--grant", "a=y"])
        .failed_with("S6004")
        .names("`--grant a=` stands there twice, with x and with y");
    let refused = jobs
        .tell(&["run", "job.toml", "--grant", "audit=folder"])
        .failed_with("S2007");
    assert!(
        refused.stderr.contains("asks for a folder `audit`"),
        "{}",
        refused.stderr
    );
    assert!(
        !jobs.path().join("folder").exists(),
        "a refusal makes no folder"
    );
    let help = run(["run", "--help"]).succeeded().stdout;
    assert!(
        help.contains("--name") && help.contains("--allow-changed-arguments"),
        "{help}"
    );
}

#[test]
fn what_is_known_of_a_run_is_told() {
    let jobs = Jobs::new();
    let options = ["-D", "checkpoint.dir=ck", "-D", "checkpoint.interval=20ms"];
    let one = jobs.start("one", &options);
    jobs.tell(&["stop", "one"]).succeeded();
    one.finish(LIMIT).succeeded();
    let again = jobs.start("one", &options);
    let info = jobs.tell(&["info", "one", "--output", "json"]).succeeded();
    let info: Value = serde_json::from_str(&info.stdout).unwrap();
    assert!(
        info["state"] == "running" && info["resumed_from"].as_u64().is_some(),
        "{info}"
    );
    let logs = jobs.tell(&["logs", "one"]).succeeded().stdout;
    assert!(logs.contains("the job goes on from checkpoint"), "{logs}");
    let id = jobs.listed()[0]["id"].as_str().unwrap().to_owned();
    jobs.tell(&["savepoint", &id[..6], "sp"]).succeeded();
    jobs.tell(&["savepoint", &id, "sp"])
        .failed_with("S2007")
        .names("is not empty");
    jobs.tell(&["stop", &id, "--output", "json"]).succeeded();
    again.finish(LIMIT).succeeded();
}
