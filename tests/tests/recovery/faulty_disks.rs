//! Disks that answer a call with an error, one after the other: under the checkpoints, under the
//! results, under keyed state. Whatever fails, the job says so and resumes from what is intact, by
//! itself or at the next start; nothing is trusted that a failed sync has left behind.

use streamrt_tests::binary::{LIMIT, Running, run, streamrt};
use streamrt_tests::faulty_disk::Faults;
use streamrt_tests::server::wait_until;

use crate::disks::killed_behind_checkpoints;
use crate::jobs::Job;

/// Longer than it takes until the disk fails; a job that outlives that is stopped.
const SECONDS: f64 = 40.0;

/// A failed sync, once.
const SYNC: Faults = Faults {
    calls: "sync",
    error: "EIO",
    from: 30,
    times: 1,
};
/// Writes that fail for a while.
const WRITE: Faults = Faults {
    calls: "write",
    error: "EIO",
    from: 60,
    times: 6,
};

/// So little memory that entries leave it all the time, and are read back.
const MEMORY_BYTES: usize = 8 << 10;

fn job() -> Job {
    Job::over_files("ride-duration").on_disk(MEMORY_BYTES)
}

fn start_on(job: &Job, folder: &str, faults: Faults, options: &[&str]) -> Running {
    let mut command = streamrt(job.args(2, SECONDS, "checkpoints", options));
    faults.at(&job.path(folder), &mut command);
    Running::start(command)
}

#[track_caller]
fn assert_said(said: &str, codes: &[&str], folder: &str, faults: Faults) {
    assert!(!said.contains("thread '"), "a panic: {said}");
    assert!(
        codes.iter().any(|code| said.contains(&format!("[{code}]"))),
        "none of {codes:?}: {said}"
    );
    let lines = said.lines().filter(|line| !line.starts_with("faulty disk"));
    assert!(
        lines.into_iter().any(|line| line.contains(folder)),
        "{folder} is not named: {said}"
    );
    let cause = if faults.error == "EIO" {
        "Input/output error"
    } else {
        "No space left on device"
    };
    assert!(said.contains(cause), "the cause is not named: {said}");
}

/// Waits until all that fails has failed and the job makes checkpoints again, stops it, and lets it
/// go on to its end. Returns what was said.
#[track_caller]
fn goes_on(job: &Job, running: Running, faults: Faults) -> String {
    wait_until("the faults", || {
        running.said().matches("faulty disk: ").count() as u64 >= faults.times
    });
    let before = job.n_log_entries();
    wait_until("checkpoints", || job.n_log_entries() >= before + 6);
    running.interrupt();
    let stopped = running.finish(LIMIT).succeeded();
    run(["fsck".as_ref(), job.path("checkpoints").as_os_str()]).succeeded();
    finishes(job);
    stopped.stderr
}

#[track_caller]
fn finishes(job: &Job) {
    run(job.args(2, 0.3, "checkpoints", &[]))
        .succeeded()
        .names("goes on from checkpoint");
    job.assert_whole("on a disk that was mended");
}

/// A disk fails from some call on: once in a job that ends with it and is started again, once in a
/// job that tries again by itself.
#[track_caller]
fn check(folder: &str, faults: Faults, codes: &[&str]) {
    let stopped = job();
    let failed = start_on(&stopped, folder, faults, &["-D", "restart.strategy=none"])
        .finish(LIMIT)
        .failed_with("error[");
    assert_said(&failed.stderr, codes, folder, faults);
    stopped.assert_part("on a disk that failed");
    run(["fsck".as_ref(), stopped.path("checkpoints").as_os_str()]).succeeded();
    finishes(&stopped);

    let persistent = job();
    let said = goes_on(
        &persistent,
        start_on(&persistent, folder, faults, &[]),
        faults,
    );
    assert_said(&said, codes, folder, faults);
    assert!(
        said.contains("trying again") && said.contains("goes on from checkpoint"),
        "{said}"
    );
}

/// Which of them, depends on whose call it is: a checkpoint's alone, or the log's or the state's.
const OF_CHECKPOINTS: &[&str] = &["S7007", "S7009"];

/// Whichever sync it is, from that of the first entry of the log on: each is a case of its own for
/// what is trusted afterwards. A name in the log that was not synced is synced again at once, and
/// nobody is told.
#[test]
fn checkpoints_of_which_any_sync_fails() {
    for from in (1..=8).chain((9..80).step_by(6)) {
        let (job, faults) = (job(), Faults { from, ..SYNC });
        goes_on(&job, start_on(&job, "checkpoints", faults, &[]), faults);
    }
}

#[test]
fn checkpoints_whose_syncs_fail_for_a_while() {
    check(
        "checkpoints",
        Faults {
            from: 60,
            times: 20,
            ..SYNC
        },
        OF_CHECKPOINTS,
    );
}

#[test]
fn checkpoints_that_cannot_be_written_for_a_while() {
    check("checkpoints", WRITE, OF_CHECKPOINTS);
}

#[test]
fn checkpoints_that_do_not_get_their_names() {
    check(
        "checkpoints",
        Faults {
            calls: "rename",
            ..WRITE
        },
        OF_CHECKPOINTS,
    );
}

#[test]
fn results_whose_sync_fails() {
    check("out", SYNC, &["S3002"]);
}

#[test]
fn results_that_cannot_be_written_for_a_while() {
    check("out", Faults { from: 10, ..WRITE }, &["S3002"]);
}

#[test]
fn results_that_cannot_be_opened() {
    check(
        "out",
        Faults {
            calls: "open",
            from: 20,
            times: 2,
            ..WRITE
        },
        &["S3002"],
    );
}

#[test]
fn state_whose_sync_fails() {
    check("state", Faults { from: 60, ..SYNC }, OF_CHECKPOINTS);
}

#[test]
fn state_that_cannot_be_written_for_a_while() {
    check("state", WRITE, OF_CHECKPOINTS);
}

#[test]
fn state_without_room_for_a_while() {
    check(
        "state",
        Faults {
            error: "ENOSPC",
            ..WRITE
        },
        OF_CHECKPOINTS,
    );
}

/// What a start needs cannot be read, from some call on: it ends, starts nothing anew, and the next
/// one goes on.
#[track_caller]
fn check_start(folder: &str, from: &[u64]) {
    let job = job();
    killed_behind_checkpoints(&job);
    for from in from {
        let faults = Faults {
            calls: "read",
            error: "EIO",
            from: *from,
            times: u64::from(u32::MAX),
        };
        let failed = start_on(&job, folder, faults, &["-D", "restart.strategy=none"])
            .finish(LIMIT)
            .failed_with("S7007");
        assert_said(&failed.stderr, &["S7007"], folder, faults);
        job.assert_part("after a start that read nothing");
    }
    finishes(&job);
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
    // The first one is of the marker in the folder that the killed process has left, which then
    // stays.
    let faults = Faults {
        calls: "read",
        error: "EIO",
        from: 1,
        times: 2,
    };
    let said = goes_on(&job, start_on(&job, "state", faults, &[]), faults);
    assert_said(&said, &["S7007"], "state", faults);
    assert!(said.contains("trying again"), "{said}");
}
