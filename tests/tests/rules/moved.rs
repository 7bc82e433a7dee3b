//! Results that a reader has moved away while the job was down: the log says that they are
//! committed, so nobody looks for them.

use std::time::Instant;

use streamrt_tests::binary::{LIMIT, Running, outputs, run, streamrt};

use crate::jobs::{Job, READINGS};

#[test]
fn a_stopped_job_does_not_look_for_results_that_were_moved_away() {
    let job = Job::new();
    let running = Running::start(streamrt(job.args(2, &[], &[])));
    let start = Instant::now();
    while !job.path("out/batches").exists() || outputs(&job.path("out/batches")).0.is_empty() {
        assert!(start.elapsed() < LIMIT, "the job commits nothing");
        std::thread::yield_now();
    }
    running.interrupt();
    let stopped = running.finish(LIMIT).succeeded();
    assert!(
        stopped.stderr.contains("was stopped at checkpoint"),
        "{}",
        stopped.stderr
    );
    let moved = job.path("moved");
    std::fs::rename(job.path("out"), &moved).unwrap();
    let ended = run(job.args(2, &[], &[])).succeeded();
    assert!(
        ended.stderr.contains("goes on from checkpoint"),
        "{}",
        ended.stderr
    );
    let n_lines = |folder: &str| outputs(&job.path(folder)).lines("").len();
    assert!(
        n_lines("moved/batches") > 0 && n_lines("out/batches") > 0,
        "nothing was written before or after"
    );
    let n_batched = n_lines("moved/batches") + n_lines("out/batches");
    assert!(
        n_batched <= READINGS as usize && n_batched + 4 >= READINGS as usize,
        "{n_batched} readings are in a batch"
    );
}
