//! Dead letters under kills: each skipped line has one letter, which is visible when its checkpoint
//! is, and is counted once.

use std::collections::BTreeSet;

use streamrt_tests::binary::{hidden_files, run};

use crate::jobs::{Job, READINGS, lines};

/// The number of good readings after which a bad line comes.
const EVERY: i64 = 20;

/// The records in the letters that a reader of the folder sees.
fn letters(job: &Job) -> Vec<String> {
    if !job.path("letters").exists() {
        return Vec::new();
    }
    let record = |line: &String| {
        serde_json::from_str::<serde_json::Value>(line).unwrap()["record"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    lines(&job.path("letters")).iter().map(record).collect()
}

/// Runs a job to its end, killed at all of these parallelisms but the last.
fn check(parallelism: &[u32]) {
    let job = Job::with_bad_lines(EVERY);
    let folder = format!("poison.dead-letters={}", job.path("letters").display());
    let options = ["-D", "poison.policy=skip", "-D", &folder];
    let (last, killed) = parallelism.split_last().unwrap();
    for parallelism in killed {
        job.run_and_kill(*parallelism, &options);
        let seen = letters(&job);
        assert_eq!(
            seen.len(),
            seen.iter().collect::<BTreeSet<_>>().len(),
            "a letter is there twice: {seen:?}"
        );
    }
    assert!(
        !letters(&job).is_empty(),
        "no letter is visible before the end"
    );
    let ended = run(job.args(*last, &options, &[])).succeeded();
    let expected: BTreeSet<String> = (0..READINGS)
        .step_by(EVERY as usize)
        .map(|number| format!("bad line behind {number}"))
        .collect();
    let seen = letters(&job);
    assert_eq!(
        (seen.len(), seen.into_iter().collect()),
        (expected.len(), expected.clone())
    );
    assert!(
        ended
            .stderr
            .contains(&format!("{} dead letters", expected.len())),
        "{}",
        ended.stderr
    );
    assert_eq!(
        hidden_files(&job.path("letters")),
        Vec::<std::path::PathBuf>::new()
    );
    job.assert_whole(*parallelism.iter().max().unwrap() as usize);
}

#[test]
fn each_skipped_line_has_one_letter_whenever_the_job_is_killed() {
    check(&[2, 2, 2]);
}

#[test]
fn letters_are_kept_at_another_parallelism() {
    check(&[3, 1, 2]);
}
