//! Jobs that are killed at random moments, and started again with the same command, until they end
//! by themselves.

use std::time::{Duration, Instant};

use streamrt_tests::binary::{LIMIT, Running, run, streamrt};
use streamrt_tests::oracle::EXAMPLES;
use streamrt_tests::random::Random;

use crate::jobs::Job;

/// Kills before a job is let alone.
const KILLS: u32 = 6;

/// Waits for a random moment: one in four at any time from the start, the others after some entries
/// in the job's log, so that a slow machine reaches checkpoints as well. Returns whether the run
/// ended before.
fn ends_before_its_moment(
    running: &mut Running,
    job: &Job,
    entries: usize,
    random: &mut Random,
) -> bool {
    if random.below(4) == 0 {
        return running.ends_within(Duration::from_millis(random.below(300)));
    }
    let awaited = entries + 2 + random.below(8) as usize;
    let start = Instant::now();
    while job.n_log_entries() < awaited && start.elapsed() < LIMIT {
        if running.ends_within(Duration::from_millis(2)) {
            return true;
        }
    }
    running.ends_within(Duration::from_millis(random.below(60)))
}

/// Runs a job to its end under kills, at one parallelism after the other.
#[track_caller]
pub fn check(job: &Job, parallelism: &[u32]) {
    let example = job.example;
    let mut random = Random::from_environment();
    let mut resumed = 0;
    for (kill, parallelism) in (0..=KILLS).zip(parallelism.iter().cycle()) {
        let entries = job.n_log_entries();
        let mut running = Running::start(streamrt(job.args(*parallelism, 2.0, "checkpoints", &[])));
        let killed =
            kill < KILLS && !ends_before_its_moment(&mut running, job, entries, &mut random);
        if killed {
            running.kill();
        }
        let finished = running.finish(LIMIT);
        resumed += u32::from(finished.stderr.contains("goes on from checkpoint"));
        job.assert_part(&format!("after kill {kill}"));
        if !killed {
            finished.succeeded();
            break;
        }
    }
    assert!(resumed > 0, "{example}: no run went on from a checkpoint");
    job.assert_whole("at the end");
    let again = run(job.args(1, 2.0, "checkpoints", &[])).succeeded();
    assert!(
        again.stderr.contains("has finished"),
        "{example}: {}",
        again.stderr
    );
    job.assert_whole("after the end");
}

#[test]
fn every_example_survives_kills() {
    EXAMPLES
        .into_iter()
        .for_each(|example| check(&Job::new(example), &[2]));
}

#[test]
fn every_example_over_several_files_survives_kills() {
    EXAMPLES
        .into_iter()
        .for_each(|example| check(&Job::over_files(example), &[7]));
}

#[test]
fn a_job_goes_on_with_another_parallelism() {
    check(&Job::over_files("hot-items"), &[1, 3, 2]);
}
