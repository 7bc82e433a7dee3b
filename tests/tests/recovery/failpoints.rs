//! Every named failpoint, as a crash of the process and as an error of the step, each ending with
//! the whole output.

use streamrt_tests::binary::{Finished, LIMIT, Running, hidden_files, run, streamrt};
use streamrt_types::FAILPOINTS;

use crate::jobs::Job;

const SECONDS: f64 = 0.4;

fn run_with(job: &Job, failpoints: &str) -> Finished {
    let mut command = streamrt(job.args(2, SECONDS, "checkpoints", &[]));
    command.env("STREAMRT_FAILPOINTS", failpoints);
    let finished = Running::start(command).finish(LIMIT);
    job.assert_part(failpoints);
    finished
}

/// Passes a failpoint so that it acts; then lets the job end.
#[track_caller]
pub fn check(job: &Job, name: &str, action: &str) {
    let what = format!("{name}={action}");
    let early = name.starts_with("recovery.");
    if early {
        // What a start finds: a published checkpoint whose commits were not carried out.
        assert!(!run_with(job, "complete.before=crash:2").status.success());
    }
    let once = early || name.starts_with("end.");
    let acted = run_with(job, &format!("{what}:{}", if once { 1 } else { 2 }));
    match action {
        "crash" => assert!(
            acted.status.code().is_none(),
            "{what} did not act: {}",
            acted.stderr
        ),
        _ => assert!(
            acted.stderr.contains(&format!("the failpoint `{name}`")),
            "{what} did not act: {}",
            acted.stderr
        ),
    }
    if !acted.status.success() {
        run(job.args(2, SECONDS, "checkpoints", &[])).succeeded();
    }
    job.assert_whole(&what);
}

/// Those that a job without an upgrade passes; `upgrades.rs` has the others.
fn of_checkpoints() -> impl Iterator<Item = &'static str> {
    FAILPOINTS
        .iter()
        .copied()
        .filter(|name| !name.starts_with("upgrade."))
}

#[test]
fn every_failpoint_as_a_crash() {
    of_checkpoints().for_each(|name| check(&Job::new("hot-items"), name, "crash"));
}

#[test]
fn every_failpoint_as_an_error() {
    of_checkpoints().for_each(|name| check(&Job::new("hot-items"), name, "error"));
}

#[test]
fn a_job_that_fails_for_good_withdraws_what_it_has_not_committed() {
    let job = Job::new("hot-items");
    let fails = |failpoints: &str| {
        let mut command =
            streamrt(job.args(2, SECONDS, "checkpoints", &["-D", "restart.strategy=none"]));
        command.env("STREAMRT_FAILPOINTS", failpoints);
        Running::start(command).finish(LIMIT)
    };
    // The start passes it once for each of the two sinks, the end at the first.
    let left = fails("snapshot.upload=error:9;recovery.abort=error:3").failed_with("S7009");
    left.names("what was not committed is left behind, under names with `")
        .names("recovery.abort");
    assert!(
        !hidden_files(&job.path("out")).is_empty(),
        "nothing was left"
    );
    fails("snapshot.upload=error:9").failed_with("S7009");
    assert_eq!(
        hidden_files(&job.path("out")),
        Vec::<std::path::PathBuf>::new()
    );
    job.assert_part("after it failed for good");
    run(job.args(2, SECONDS, "checkpoints", &[])).succeeded();
    job.assert_whole("after it went on");
}

/// What a process holds: threads, open files, and resident memory in KiB.
fn held(pid: u32) -> (u64, usize, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let number = |field: &str| {
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_ascii_whitespace()
            .nth(1)
            .unwrap()
            .parse()
            .unwrap()
    };
    (
        number("Threads:"),
        std::fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .count(),
        number("VmRSS:"),
    )
}

#[test]
fn three_hundred_restarts_leak_nothing() {
    let job = Job::new("hot-items");
    let options = [
        "-D",
        "restart.strategy=fixed-delay",
        "-D",
        "restart.attempts=300",
        "-D",
        "restart.delay=0ms",
        "-D",
        "checkpoint.interval=5ms",
    ];
    let mut command = streamrt(job.args(2, 600.0, "checkpoints", &options));
    command.env("STREAMRT_FAILPOINTS", "snapshot.upload=error");
    let mut running = Running::start(command);
    // Each restart is one entry of the log. The most that is held at any time between a number of
    // them.
    let mut most_between = |from: usize, to: usize| {
        let mut most = (0, 0, 0);
        while job.n_log_entries() < to {
            assert!(
                !running.ends_within(std::time::Duration::from_millis(1)),
                "the job ended too early"
            );
            if job.n_log_entries() >= from {
                let held = held(running.id());
                most = (most.0.max(held.0), most.1.max(held.1), most.2.max(held.2));
            }
        }
        most
    };
    let (early, late) = (most_between(20, 100), most_between(220, 300));
    let files = |folder: &str| walk(&job.path(folder));
    let ended = running.finish(LIMIT).failed_with("S7009");
    assert_eq!(ended.stderr.matches("trying again").count(), 300);
    // Two more of each: the moments are not the same. Memory: less than 64 KiB per restart.
    assert!(
        late.0 <= early.0 + 2 && late.1 <= early.1 + 2 && late.2 <= early.2 + 200 * 64,
        "held early and late: {early:?}, {late:?}"
    );
    assert_eq!(
        hidden_files(&job.path("out")),
        Vec::<std::path::PathBuf>::new()
    );
    let left: Vec<_> = files("checkpoints")
        .into_iter()
        .filter(|path| !path.contains("/log/") && !path.contains("/plugins/"))
        .collect();
    assert_eq!(
        left,
        Vec::<String>::new(),
        "what no checkpoint names is left in the store"
    );
}

fn walk(folder: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let below = |path: std::path::PathBuf| {
        if path.is_dir() {
            walk(&path)
        } else {
            vec![path.to_string_lossy().into_owned()]
        }
    };
    entries.flat_map(below).collect()
}

#[test]
fn a_restart_that_fails_is_tried_again() {
    let job = Job::new("hot-items");
    // The start passes it once for each of its two sinks; the third passage is the restart after
    // the failed checkpoint.
    let finished = run_with(&job, "log.before=error:2;recovery.abort=error:3").succeeded();
    assert_eq!(
        finished.stderr.matches("trying again").count(),
        2,
        "{}",
        finished.stderr
    );
    job.assert_whole("after a restart that failed");
}
