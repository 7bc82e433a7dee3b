//! `stop --drain` of jobs that fail or are killed meanwhile: a drain is never lost, and nothing is
//! skipped silently.

use std::collections::BTreeMap;
use std::time::Duration;

use streamrt_tests::binary::{LIMIT, hidden_files, outputs, run, streamrt};

use crate::jobs::Job;
use crate::savepoints;
use crate::versions::{FILES, Versions};

#[test]
fn a_drain_and_its_savepoint_outlive_a_restart() {
    let job = Job::new("session-clicks");
    let mut command = streamrt(job.args(2, 60.0, "checkpoints", &[]));
    // Passed by the first task that has ended: by then the drain has reached it.
    command.env("STREAMRT_FAILPOINTS", "end.before-last-checkpoint=error:1");
    let running = savepoints::start_command(&job, command);
    savepoints::await_checkpoints(&job);
    let folder = job.path("drained");
    savepoints::command(
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
    assert!(
        ended
            .stderr
            .contains("the failpoint `end.before-last-checkpoint`")
            && ended.stderr.contains("trying again"),
        "{}",
        ended.stderr
    );
    assert!(
        ended.stderr.contains("finished: "),
        "it ends as it was told to: {}",
        ended.stderr
    );
    let clicks: u64 = outputs(&job.path("out"))
        .lines("")
        .iter()
        .map(|line| savepoints::number(line, "clicks"))
        .sum();
    assert!(
        clicks > 0 && clicks < job.n_lines() as u64,
        "{clicks} of {} clicks",
        job.n_lines()
    );
    assert_eq!(
        hidden_files(&job.path("out")),
        Vec::<std::path::PathBuf>::new()
    );
    run(["savepoint", "inspect", folder.to_str().unwrap()]).succeeded();
    let again = run(job.args(2, 0.3, "checkpoints", &[])).succeeded();
    assert!(again.stderr.contains("has finished"), "{}", again.stderr);
}

#[test]
fn a_drain_without_a_checkpoint_fails_rather_than_to_end_with_nothing() {
    let job = Job::new("session-clicks");
    let mut command = streamrt(job.args(1, 60.0, "checkpoints", &["-D", "checkpoint.interval=1h"]));
    command.env("STREAMRT_FAILPOINTS", "end.before-last-checkpoint=error:1");
    let running = savepoints::start_command(&job, command);
    savepoints::command(&job, &["stop", "session-clicks", "--drain"]).succeeded();
    running.finish(LIMIT).failed_with("S7010");
    run(job.args(2, 0.3, "checkpoints", &[])).succeeded();
    job.assert_whole("after a drain that had nothing to go on from");
}

/// How far each file was read; panics where rows are missing in between.
fn rows_of_files(job: &Versions) -> BTreeMap<usize, usize> {
    let mut of_file: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for row in job.rows() {
        let n = row["n"].as_u64().unwrap() as usize;
        of_file.entry(n % FILES).or_default().push(n / FILES);
    }
    for rows in of_file.values_mut() {
        rows.sort_unstable();
        assert!(
            rows.iter().copied().eq(0..rows.len()),
            "rows are missing, or there twice"
        );
    }
    of_file
        .into_iter()
        .map(|(file, rows)| (file, rows.len()))
        .collect()
}

#[test]
fn a_job_that_is_killed_while_it_is_drained_skips_nothing_silently() {
    let n_rows = 200_000;
    let mut n_drained = 0;
    for kill in 0..6 {
        let job = Versions::new(n_rows);
        let mut running = job.start(job.command(3, 20_000, &["checkpoint.interval=5ms"]));
        job.tell(&["stop", "first", "--drain"]).succeeded();
        let ended = running.ends_within(Duration::from_millis(kill * 4));
        if !ended {
            running.kill();
        }
        running.finish(LIMIT);
        let last = job.finish();
        let read: usize = rows_of_files(&job).values().sum();
        let was_drained = ended
            || last.stderr.contains("was being drained")
            || last.stderr.contains("has finished");
        assert_eq!(
            was_drained,
            read < n_rows,
            "{read} of {n_rows} rows: {}",
            last.stderr
        );
        n_drained += usize::from(was_drained);
    }
    println!("{n_drained} of 6 runs went on as drained");
}
