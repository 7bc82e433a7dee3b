//! Savepoints of running jobs, and jobs that start from them.

use std::time::{Duration, Instant};

use streamrt_tests::binary::{LIMIT, Running, hidden_files, run, streamrt};

use crate::jobs::Job;

/// A running job, and the cache folder by which commands find it and no other.
fn start(job: &Job, parallelism: u32) -> Running {
    let mut command = streamrt(job.args(parallelism, 1.5, "checkpoints", &[]));
    command.env("XDG_CACHE_HOME", job.path("cache"));
    let running = Running::start(command);
    let start = Instant::now();
    while !job.path("out").exists() || !listed(job) {
        assert!(start.elapsed() < LIMIT, "the job does not start");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(300));
    running
}

fn listed(job: &Job) -> bool {
    command(job, &["list"]).succeeded().stdout.contains(job.example)
}

fn command(job: &Job, args: &[&str]) -> streamrt_tests::binary::Finished {
    let mut command = streamrt(args);
    command.env("XDG_CACHE_HOME", job.path("cache"));
    Running::start(command).finish(LIMIT)
}

#[test]
fn a_job_goes_on_from_a_savepoint_that_was_moved_with_another_parallelism() {
    let job = Job::new("hot-items");
    let running = start(&job, 2);
    let (made, moved) = (job.path("savepoint"), job.path("moved"));
    let (made, moved) = (made.to_str().unwrap(), moved.to_str().unwrap());
    command(&job, &["savepoint", "hot-items", made]).succeeded();
    command(&job, &["stop", "hot-items", "--savepoint", &format!("{made}-2")]).succeeded();
    let stopped = running.finish(LIMIT).succeeded();
    assert!(stopped.stderr.contains("was stopped at checkpoint"), "{}", stopped.stderr);
    job.assert_part("when stopped");
    assert_eq!(hidden_files(&job.path("out")), Vec::<std::path::PathBuf>::new());
    std::fs::rename(format!("{made}-2"), moved).unwrap();
    let text = run(["savepoint", "inspect", moved]).succeeded().stdout;
    assert!(text.contains("counts (parallelism 2)") && text.contains("panes: "), "{text}");
    let lost = run(job.args(3, 0.3, "checkpoints", &[])).failed_with("S7007");
    lost.names("--from");
    run(job.args(3, 0.3, "checkpoints", &["--from", moved])).succeeded();
    job.assert_whole("from a savepoint");
    let older = run(job.args(3, 0.3, "checkpoints", &["--from", made]));
    older.failed_with("S7005").names("would be written twice");
    job.assert_whole("after an older savepoint was refused");
}

#[test]
fn a_cancelled_job_leaves_nothing_that_is_not_committed() {
    let job = Job::new("ride-duration");
    let running = start(&job, 2);
    command(&job, &["cancel", "ride-duration"]).succeeded();
    running.finish(LIMIT).failed_with("S8001");
    job.assert_part("when cancelled");
    assert_eq!(hidden_files(&job.path("out")), Vec::<std::path::PathBuf>::new());
    run(job.args(2, 0.3, "checkpoints", &[])).succeeded();
    job.assert_whole("after it went on");
}

#[test]
fn commands_to_a_job_that_is_not_there_are_refused() {
    let job = Job::new("word-count");
    for args in [&["stop", "nobody"][..], &["cancel", "nobody"], &["savepoint", "nobody", "/nowhere"]] {
        command(&job, args).failed_with("S2007").names("no job `nobody` runs here");
    }
}
