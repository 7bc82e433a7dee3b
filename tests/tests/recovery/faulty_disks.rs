//! Disks that answer a call with an error, one after the other: under the checkpoints, under the results, under keyed state. Whatever fails,
//! the job says so and goes on from what is whole, by itself or at the next start; nothing is trusted that a failed sync has left behind.

use streamrt_tests::binary::{Finished, LIMIT, Running, run, streamrt};
use streamrt_tests::faulty_disk::Faults;

use crate::disks::killed_behind_checkpoints;
use crate::jobs::Job;

const SECONDS: f64 = 1.0;

/// A failed sync, once.
const SYNC: Faults = Faults { calls: "sync", error: "EIO", from: 0, times: 1 };
/// Writes that fail for a while.
const WRITE: Faults = Faults { calls: "write", error: "EIO", from: 0, times: 6 };

/// So little memory that entries leave it all the time, and are read back.
const MEMORY_BYTES: usize = 8 << 10;

fn job() -> Job {
    Job::over_files("ride-duration").on_disk(MEMORY_BYTES)
}

fn run_on(job: &Job, folder: &str, faults: Faults, options: &[&str]) -> Finished {
    let mut command = streamrt(job.args(2, SECONDS, "checkpoints", options));
    faults.at(&job.path(folder), &mut command);
    Running::start(command).finish(LIMIT)
}

#[track_caller]
fn assert_said(finished: &Finished, code: &str, folder: &str) {
    let said = &finished.stderr;
    assert!(!said.contains("thread '"), "a panic: {said}");
    assert!(said.contains(&format!("[{code}]")), "no {code}: {said}");
    assert!(said.contains(folder), "{folder} is not named: {said}");
    assert!(said.contains("Input/output error"), "the cause is not named: {said}");
}

/// A disk fails from some call on: once in a job that ends with it and is started again, once in a job that tries again by itself.
#[track_caller]
fn check(folder: &str, faults: Faults, code: &str) {
    let stopped = job();
    let failed = run_on(&stopped, folder, faults, &["-D", "restart.strategy=none"]).failed_with(code);
    assert_said(&failed, code, folder);
    stopped.assert_part("on a disk that failed");
    run(["fsck".as_ref(), stopped.path("checkpoints").as_os_str()]).succeeded();
    run(stopped.args(2, 0.3, "checkpoints", &[])).succeeded().names("goes on from checkpoint");
    stopped.assert_whole("on a disk that was mended");

    let persistent = job();
    let ended = run_on(&persistent, folder, faults, &[]).succeeded();
    assert_said(&ended, code, folder);
    ended.names("trying again").names("goes on from checkpoint");
    persistent.assert_whole("on a disk that failed for a while");
}

#[test]
fn checkpoints_whose_sync_fails() {
    check("checkpoints", Faults { from: 60, ..SYNC }, "S7009");
}

/// Whichever sync it is, from that of the first entry of the log on: each is a case of its own for what is trusted afterwards.
#[test]
fn checkpoints_of_which_any_sync_fails() {
    for from in (1..=8).chain((9..80).step_by(6)) {
        let job = job();
        let ended = run_on(&job, "checkpoints", Faults { from, ..SYNC }, &[]).succeeded();
        // A name in the log that was not synced is synced again at once, and nobody is told.
        assert!(ended.stderr.contains("faulty disk: sync of "), "sync {from} did not fail: {}", ended.stderr);
        job.assert_whole(&format!("sync {from} failed"));
        run(["fsck".as_ref(), job.path("checkpoints").as_os_str()]).succeeded();
    }
}

#[test]
fn checkpoints_that_cannot_be_written_for_a_while() {
    check("checkpoints", Faults { from: 60, ..WRITE }, "S7007");
}

#[test]
fn results_whose_sync_fails() {
    check("out", Faults { from: 30, ..SYNC }, "S3002");
}

#[test]
fn results_that_cannot_be_written_for_a_while() {
    check("out", Faults { from: 10, ..WRITE }, "S3002");
}

#[test]
fn state_whose_sync_fails() {
    check("state", Faults { from: 60, ..SYNC }, "S7009");
}

#[test]
fn state_that_cannot_be_written_for_a_while() {
    check("state", Faults { from: 60, ..WRITE }, "S7009");
}

/// What a start needs cannot be read, from some call on: it ends, starts nothing anew, and the next one goes on.
#[track_caller]
fn check_start(folder: &str, from: &[u64]) {
    let job = job();
    killed_behind_checkpoints(&job);
    for from in from {
        let faults = Faults { calls: "read", error: "EIO", from: *from, times: u64::from(u32::MAX) };
        let failed = run_on(&job, folder, faults, &["-D", "restart.strategy=none"]).failed_with("S7007");
        assert_said(&failed, "S7007", folder);
        job.assert_part("after a start that read nothing");
    }
    run(job.args(2, 0.3, "checkpoints", &[])).succeeded().names("goes on from checkpoint");
    job.assert_whole("after the disk could be read");
}

#[test]
fn checkpoints_that_cannot_be_read_at_a_start() {
    check_start("checkpoints", &[1, 2, 20, 40]);
}

#[test]
fn state_that_cannot_be_read_at_a_start() {
    check_start("state", &[1, 2, 5]);
}

/// The attempt fails in which the disk does, and the next one reads all of it.
#[test]
fn state_that_cannot_be_read_once() {
    let job = job();
    killed_behind_checkpoints(&job);
    let ended = run_on(&job, "state", Faults { calls: "read", error: "EIO", from: 1, times: 1 }, &[]).succeeded();
    assert_said(&ended, "S7007", "state");
    ended.names("trying again");
    job.assert_whole("after the disk could be read");
}
