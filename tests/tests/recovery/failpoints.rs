//! Every named failpoint, as a crash of the process and as an error of the step, each ending with the whole output.

use streamrt_tests::binary::{Finished, LIMIT, Running, run, streamrt};
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
fn check(example: &'static str, name: &str, action: &str) {
    let job = Job::new(example);
    let what = format!("{name}={action}");
    let early = name.starts_with("recovery.");
    if early {
        // What a start finds: a published checkpoint whose commits were not carried out.
        assert!(!run_with(&job, "complete.before=crash:2").status.success());
    }
    let once = early || name.starts_with("end.");
    let acted = run_with(&job, &format!("{what}:{}", if once { 1 } else { 2 }));
    match action {
        "crash" => assert!(acted.status.code().is_none(), "{what} did not act: {}", acted.stderr),
        _ => assert!(acted.stderr.contains(&format!("the failpoint `{name}`")), "{what} did not act: {}", acted.stderr),
    }
    if !acted.status.success() {
        run(job.args(2, SECONDS, "checkpoints", &[])).succeeded();
    }
    job.assert_whole(&what);
}

/// Those that a job without an upgrade passes; `upgrades.rs` has the others.
fn of_checkpoints() -> impl Iterator<Item = &'static str> {
    FAILPOINTS.iter().copied().filter(|name| !name.starts_with("upgrade."))
}

#[test]
fn every_failpoint_as_a_crash() {
    of_checkpoints().for_each(|name| check("hot-items", name, "crash"));
}

#[test]
fn every_failpoint_as_an_error() {
    of_checkpoints().for_each(|name| check("hot-items", name, "error"));
}

#[test]
fn a_restart_that_fails_is_tried_again() {
    let job = Job::new("hot-items");
    // The start passes it once for each of its two sinks; the third passage is the restart behind the failed checkpoint.
    let finished = run_with(&job, "log.before=error:2;recovery.abort=error:3").succeeded();
    assert_eq!(finished.stderr.matches("trying again").count(), 2, "{}", finished.stderr);
    job.assert_whole("after a restart that failed");
}
