//! Savepoints of running jobs, jobs that start from them, and running jobs that are replaced.

use std::process::Command;
use std::time::{Duration, Instant};

use streamrt_tests::binary::{LIMIT, Running, component, hidden_files, outputs, run, streamrt};

use crate::jobs::Job;

/// A running job that has made some checkpoints and takes a number of seconds, and the cache folder
/// by which commands find it and no other.
pub fn start(job: &Job, parallelism: u32, seconds: f64) -> Running {
    let running = start_with(job, parallelism, seconds, &[]);
    await_checkpoints(job);
    running
}

pub fn await_checkpoints(job: &Job) {
    let start = Instant::now();
    while job.n_log_entries() < 6 {
        assert!(start.elapsed() < LIMIT, "the job makes no checkpoints");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until a sink has written something, committed or not.
pub fn await_rows(job: &Job) {
    let start = Instant::now();
    while hidden_files(&job.path("out")).is_empty() {
        assert!(start.elapsed() < LIMIT, "the job writes nothing");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The same with further options, and no checkpoint that it waits for.
fn start_with(job: &Job, parallelism: u32, seconds: f64, further: &[&str]) -> Running {
    start_command(
        job,
        streamrt(job.args(parallelism, seconds, "checkpoints", further)),
    )
}

/// Starts the job of this command line, and waits until it takes commands.
pub fn start_command(job: &Job, mut command: Command) -> Running {
    command.env("XDG_CACHE_HOME", job.path("cache"));
    let running = Running::start(command);
    let start = Instant::now();
    while !job.path("out").exists() || !listed(job) {
        assert!(start.elapsed() < LIMIT, "the job does not start");
        std::thread::sleep(Duration::from_millis(5));
    }
    running
}

fn listed(job: &Job) -> bool {
    command(job, &["list"])
        .succeeded()
        .stdout
        .contains(job.example)
}

pub fn command(job: &Job, args: &[&str]) -> streamrt_tests::binary::Finished {
    let mut command = streamrt(args);
    command.env("XDG_CACHE_HOME", job.path("cache"));
    Running::start(command).finish(LIMIT)
}

#[test]
fn a_job_that_was_started_from_its_own_savepoint_starts_again_behind_it() {
    // Before the first checkpoint after the savepoint, and after it.
    for failpoint in ["manifest.before=error:1", "manifest.before=error:3"] {
        let job = Job::new("hot-items");
        let running = start(&job, 2, 6.0);
        let (made, moved) = (job.path("savepoint"), job.path("moved"));
        command(
            &job,
            &["stop", "hot-items", "--savepoint", made.to_str().unwrap()],
        )
        .succeeded();
        running.finish(LIMIT).succeeded();
        std::fs::rename(&made, &moved).unwrap();
        let mut command =
            streamrt(job.args(2, 0.4, "checkpoints", &["--from", moved.to_str().unwrap()]));
        command.env("STREAMRT_FAILPOINTS", failpoint);
        let finished = Running::start(command).finish(LIMIT).succeeded();
        assert!(
            finished.stderr.contains("trying again"),
            "{}",
            finished.stderr
        );
        job.assert_whole(failpoint);
    }
}

#[test]
fn a_job_goes_on_from_a_savepoint_that_was_moved_with_another_parallelism() {
    let job = Job::new("hot-items");
    let running = start(&job, 2, 6.0);
    let (made, moved) = (job.path("savepoint"), job.path("moved"));
    let (made, moved) = (made.to_str().unwrap(), moved.to_str().unwrap());
    command(&job, &["savepoint", "hot-items", made]).succeeded();
    command(
        &job,
        &["stop", "hot-items", "--savepoint", &format!("{made}-2")],
    )
    .succeeded();
    let stopped = running.finish(LIMIT).succeeded();
    assert!(
        stopped.stderr.contains("was stopped at checkpoint"),
        "{}",
        stopped.stderr
    );
    job.assert_part("when stopped");
    assert_eq!(
        hidden_files(&job.path("out")),
        Vec::<std::path::PathBuf>::new()
    );
    std::fs::rename(format!("{made}-2"), moved).unwrap();
    let text = run(["savepoint", "inspect", moved]).succeeded().stdout;
    assert!(
        text.contains("counts (parallelism 2)") && text.contains("panes: "),
        "{text}"
    );
    let lost = run(job.args(3, 0.3, "checkpoints", &[])).failed_with("S7007");
    lost.names("--from");
    run(job.args(3, 0.3, "checkpoints", &["--from", moved])).succeeded();
    job.assert_whole("from a savepoint");
    let older = run(job.args(3, 0.3, "checkpoints", &["--from", made]));
    older.failed_with("S7005").names("would be written twice");
    job.assert_whole("after an older savepoint was refused");
}

#[test]
fn a_restart_does_not_need_a_savepoint_with_which_nothing_was_committed() {
    let job = Job::over_files("hot-items");
    let mut running = start_with(&job, 2, 6.0, &["-D", "checkpoint.interval=1h"]);
    let made = job.path("savepoint");
    // The checkpoint of an upgrade is the only one.
    command(&job, &["upgrade", "hot-items", &new_version(&job)]).succeeded();
    command(&job, &["savepoint", "hot-items", made.to_str().unwrap()]).succeeded();
    running.kill();
    running.finish(LIMIT);
    std::fs::rename(&made, job.path("moved")).unwrap();
    let again = run(job.args(2, 0.3, "checkpoints", &[])).succeeded();
    assert!(
        again.stderr.contains("savepoint 2 is passed over"),
        "{}",
        again.stderr
    );
    job.assert_whole("after a savepoint was moved away");
}

#[test]
fn the_costs_of_checkpoints_are_shown_for_each_subtask() {
    let job = Job::new("hot-items");
    let running = start(&job, 2, 6.0);
    let text = command(
        &job,
        &["checkpoints", "hot-items", "--last", "3", "--subtasks"],
    )
    .succeeded()
    .stdout;
    assert!(
        text.contains("published") && text.contains("(2/2)") && text.contains("alignment"),
        "{text}"
    );
    let json = command(&job, &["checkpoints", "hot-items", "--output", "json"])
        .succeeded()
        .stdout;
    let reports: Vec<serde_json::Value> = json
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let whole = reports
        .iter()
        .rfind(|report| report["status"] == "published")
        .unwrap();
    let subtasks = whole["subtasks"].as_array().unwrap();
    let bytes: u64 = subtasks
        .iter()
        .map(|subtask| subtask["bytes"].as_u64().unwrap())
        .sum();
    let sync: u64 = subtasks
        .iter()
        .map(|subtask| subtask["sync_us"].as_u64().unwrap())
        .sum();
    assert!(
        subtasks.len() > 3
            && bytes > 0
            && sync > 0
            && whole["duration_us"].as_u64().unwrap() >= sync / subtasks.len() as u64,
        "{whole}"
    );
    command(&job, &["cancel", "hot-items"]).succeeded();
    running.finish(LIMIT).failed_with("S8002");
}

#[test]
fn a_cancelled_job_leaves_nothing_that_is_not_committed() {
    let job = Job::new("ride-duration");
    let running = start(&job, 2, 6.0);
    command(&job, &["cancel", "ride-duration"]).succeeded();
    running.finish(LIMIT).failed_with("S8002");
    job.assert_part("when cancelled");
    assert_eq!(
        hidden_files(&job.path("out")),
        Vec::<std::path::PathBuf>::new()
    );
    run(job.args(2, 0.3, "checkpoints", &[])).succeeded();
    job.assert_whole("after it went on");
}

#[test]
fn a_drained_job_fires_everything_and_has_finished() {
    let job = Job::new("session-clicks");
    let running = start(&job, 2, 6.0);
    let folder = job.path("drained");
    command(
        &job,
        &[
            "stop",
            "session-clicks",
            "--drain",
            "--savepoint",
            folder.to_str().unwrap(),
        ],
    )
    .succeeded();
    let ended = running.finish(LIMIT).succeeded();
    assert_eq!(
        hidden_files(&job.path("out")),
        Vec::<std::path::PathBuf>::new()
    );
    let clicks: u64 = outputs(&job.path("out"))
        .lines("")
        .iter()
        .map(|line| number(line, "clicks"))
        .sum();
    let state = run(["savepoint", "inspect", folder.to_str().unwrap()])
        .succeeded()
        .stdout;
    assert!(
        clicks > 0 && state.contains("of job `session-clicks`"),
        "{clicks} clicks; {state}"
    );
    // What was read has fired, although no watermark had passed its windows; the late ones are no
    // part of it.
    assert!(
        ended
            .stderr
            .contains(&format!("finished: {clicks} records in")),
        "{clicks} clicks: {}",
        ended.stderr
    );
    let again = run(job.args(2, 0.3, "checkpoints", &[])).succeeded();
    assert!(again.stderr.contains("has finished"), "{}", again.stderr);
}

pub fn number(line: &str, field: &str) -> u64 {
    serde_json::from_str::<serde_json::Value>(line).unwrap()[field]
        .as_u64()
        .unwrap()
}

/// The component of an example with other bytes: a custom section more.
fn new_version(job: &Job) -> String {
    let mut bytes = std::fs::read(component(job.example)).unwrap();
    bytes.extend([0, 5, 4, b't', b'e', b's', b't']);
    let path = job.path("new.wasm");
    std::fs::write(&path, bytes).unwrap();
    path.to_string_lossy().into_owned()
}

#[test]
fn a_running_job_is_replaced_without_losing_a_record() {
    let job = Job::over_files("hot-items");
    let running = start(&job, 2, 6.0);
    let other = component("session-clicks").to_string_lossy().into_owned();
    command(&job, &["upgrade", "hot-items", &other])
        .failed_with("S7011")
        .names("cannot keep its state");
    let said = command(&job, &["upgrade", "hot-items", &new_version(&job)])
        .succeeded()
        .stdout;
    assert!(
        said.starts_with("upgraded at checkpoint ") && said.contains("in place"),
        "{said}"
    );
    running.finish(LIMIT).succeeded();
    job.assert_whole("after an upgrade");
}

#[test]
fn compat_tells_what_a_new_version_can_keep() {
    let job = Job::new("hot-items");
    let old = component("hot-items").to_string_lossy().into_owned();
    let compat = |new: &str| run(["compat", &old, new, "--", "--input", "x", "--output", "y"]);
    let same = compat(&new_version(&job)).succeeded().stdout;
    assert!(
        same.contains("the shape of the graph is the same") && !same.contains("starts empty"),
        "{same}"
    );
    let other = compat(&component("session-clicks").to_string_lossy());
    assert!(
        other.stdout.contains("CANNOT KEEP ITS STATE") && other.stderr.contains("S7011"),
        "{other:?}"
    );
}

#[test]
fn commands_to_a_job_that_is_not_there_are_refused() {
    let job = Job::new("word-count");
    for args in [
        &["stop", "nobody"][..],
        &["cancel", "nobody"],
        &["savepoint", "nobody", "/nowhere"],
    ] {
        command(&job, args)
            .failed_with("S6004")
            .names("there is no job `nobody` on this machine");
    }
}
