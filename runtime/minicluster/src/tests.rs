//! Whole jobs without user code: how they end, and what is left when they do.

use crate::{JobHandle, JobToRun, MiniCluster, Submission};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use streamrt_graph::JobSpec;
use streamrt_types::{Configuration, Result};
use streamrt_wit::Plan;

mod splits;
mod stops;

/// A job of one source, a running count by the column `n`, and a file sink in `out`.
fn start(
    source: Value,
    out: &Path,
    parallelism: u32,
    configuration: Configuration,
) -> Result<JobHandle> {
    start_counting(
        json!({"kind": "aggregate"}),
        source,
        out,
        parallelism,
        configuration,
    )
}

/// As `start`, with the count in windows of an hour of the clock.
fn start_windows(
    source: Value,
    out: &Path,
    parallelism: u32,
    configuration: Configuration,
) -> Result<JobHandle> {
    let assigner = json!({"kind": "tumbling", "size-ms": 3_600_000, "processing-time": true});
    start_counting(
        json!({"kind": "window", "assigner": assigner, "contents": {"kind": "builtin"}}),
        source,
        out,
        parallelism,
        configuration,
    )
}

fn start_counting(
    mut body: Value,
    source: Value,
    out: &Path,
    parallelism: u32,
    configuration: Configuration,
) -> Result<JobHandle> {
    let counts = if body.get("contents").is_some() {
        &mut body["contents"]
    } else {
        &mut body
    };
    counts["aggregates"] = json!([{"function": "count"}]);
    counts["columns"] = json!([{"name": "n", "from": {"kind": "key", "column": "n"}}, {"name": "count", "from": {"kind": "aggregate", "index": 0}}]);
    let plan = json!({"version": 1, "nodes": [
        {"id": 0, "uid": "numbers", "body": source},
        {"id": 1, "uid": "counts", "inputs": [{"node": 0, "partitioning": {"kind": "hash", "columns": ["n"]}}], "body": body},
        {"id": 2, "uid": "out", "inputs": [{"node": 1}], "body": {"kind": "sink", "connector": "file", "options": {"path": out}}},
    ]});
    run_plan(&plan, parallelism, configuration)
}

fn run_plan(plan: &Value, parallelism: u32, configuration: Configuration) -> Result<JobHandle> {
    let plan = Plan::from_json(&plan.to_string()).unwrap();
    let job = JobSpec::from_plan("test", Arc::new(plan));
    let grants = Default::default();
    match MiniCluster::default().submit(JobToRun {
        job,
        plugins: Vec::new(),
        configuration,
        parallelism,
        from: None,
        grants,
        state: None,
        before: None,
    })? {
        Submission::Started(handle) => Ok(handle),
        Submission::Finished => panic!("a job without checkpoints never was"),
    }
}

fn datagen(rows: Option<u64>) -> Value {
    let options = json!({"rows": rows, "fields": {"n": {"kind": "random", "min": 0, "max": 9}}});
    json!({"kind": "source", "connector": "datagen", "options": options, "schema": [{"name": "n", "type": "i64"}]})
}

fn csv(path: &Path) -> Value {
    let options = json!({"path": path, "format": "csv"});
    json!({"kind": "source", "connector": "file", "options": options, "schema": [{"name": "n", "type": "i64"}]})
}

/// The lines of all files that are visible in a folder, sorted; and the number of files that are
/// not.
fn output(folder: &Path) -> (Vec<String>, usize) {
    let (mut lines, mut n_hidden) = (Vec::new(), 0);
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.file_name().unwrap().to_str().unwrap().starts_with('.') {
            true => n_hidden += 1,
            false => lines.extend(
                std::fs::read_to_string(path)
                    .unwrap()
                    .lines()
                    .map(str::to_owned),
            ),
        }
    }
    lines.sort();
    (lines, n_hidden)
}

#[test]
fn a_bounded_job_gives_the_same_rows_at_any_parallelism() {
    let run = |parallelism| {
        let folder = tempfile::tempdir().unwrap();
        let job = start(
            datagen(Some(5_000)),
            folder.path(),
            parallelism,
            Configuration::default(),
        )
        .unwrap();
        assert!(job.is_bounded());
        let summary = job.wait().unwrap().summary;
        assert_eq!((summary.records_in, summary.records_out), (5_000, 5_000));
        output(folder.path())
    };
    let expected = run(1);
    assert_eq!(expected.0.len(), 5_000);
    assert_eq!(run(2), expected);
    assert_eq!(run(7), expected);
}

#[test]
fn a_job_that_is_stopped_finishes_what_is_in_flight() {
    let folder = tempfile::tempdir().unwrap();
    let job = start(datagen(None), folder.path(), 2, Configuration::default()).unwrap();
    assert!(!job.is_bounded());
    while job.progress().records_out == 0 {
        std::thread::yield_now();
    }
    job.stop();
    let summary = job.wait().unwrap().summary;
    let (lines, n_hidden) = output(folder.path());
    assert_eq!(
        (lines.len() as u64, n_hidden),
        (summary.records_in, 0),
        "every row that was read came out"
    );
}

#[test]
fn windows_of_processing_time_fire_at_the_end_of_the_input_or_are_counted() {
    for parallelism in [1, 2, 7] {
        let run = |fires: &str| {
            let folder = tempfile::tempdir().unwrap();
            let (input, out) = (folder.path().join("numbers.csv"), folder.path().join("out"));
            std::fs::write(&input, "1\n2\n1\n").unwrap();
            let mut configuration = Configuration::default();
            configuration
                .set("end-of-input.processing-time", fires)
                .unwrap();
            let summary = start_windows(csv(&input), &out, parallelism, configuration)
                .unwrap()
                .wait()
                .unwrap()
                .summary;
            (output(&out).0, summary.dropped_at_end)
        };
        assert_eq!(
            run("fire"),
            (
                vec![
                    r#"{"n":1,"count":2}"#.to_owned(),
                    r#"{"n":2,"count":1}"#.into()
                ],
                0
            )
        );
        assert_eq!(run("drop"), (Vec::new(), 2));
    }
}

#[test]
fn a_drain_fires_what_waits_for_the_clock_and_a_stop_does_not() {
    for parallelism in [1, 2, 7] {
        for drains in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let mut configuration = Configuration::default();
            configuration
                .set("end-of-input.processing-time", "drop")
                .unwrap();
            let job =
                start_windows(datagen(None), folder.path(), parallelism, configuration).unwrap();
            while job.progress().records_in == 0 {
                std::thread::yield_now();
            }
            match drains {
                true => drop(job.remote().drain(None).unwrap()),
                false => job.stop(),
            }
            let summary = job.wait().unwrap().summary;
            assert_eq!(summary.dropped_at_end, 0);
            let counted = |line: &String| {
                serde_json::from_str::<Value>(line).unwrap()["count"]
                    .as_u64()
                    .unwrap()
            };
            let counts: u64 = output(folder.path()).0.iter().map(counted).sum();
            assert_eq!(counts, if drains { summary.records_in } else { 0 });
        }
    }
}

#[test]
fn a_job_that_fails_withdraws_its_output_and_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let (input, out) = (folder.path().join("numbers.csv"), folder.path().join("out"));
    std::fs::write(&input, "1\n2\nthree\n4\n").unwrap();
    let error = start(csv(&input), &out, 2, Configuration::default())
        .unwrap()
        .wait()
        .unwrap_err();
    assert_eq!(error.code().id, "S3003");
    let place = format!("source `numbers`: {} line 3", input.display());
    assert!(error.message().starts_with(&place), "{}", error.message());
    assert_eq!(output(&out), (Vec::new(), 0));
}

#[test]
fn a_skipped_line_is_kept_as_a_dead_letter_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (input, out, letters) = (
        folder.path().join("numbers.csv"),
        folder.path().join("out"),
        folder.path().join("letters"),
    );
    std::fs::write(&input, "1\n2\nthree\n4\n").unwrap();
    let mut configuration = Configuration::default();
    configuration.set("poison.policy", "skip").unwrap();
    configuration
        .set("poison.dead-letters", letters.to_str().unwrap())
        .unwrap();
    let summary = start(csv(&input), &out, 1, configuration)
        .unwrap()
        .wait()
        .unwrap()
        .summary;
    assert_eq!((summary.records_in, summary.dead_letters), (3, 1));
    let files: Vec<_> = std::fs::read_dir(&letters)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let letter: Value = serde_json::from_str(&std::fs::read_to_string(&files[0]).unwrap()).unwrap();
    assert_eq!(
        (&letter["record"], &letter["code"]),
        (&json!("three"), &json!("S3003"))
    );
}

#[test]
fn what_cannot_run_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let mut configuration = Configuration::default();
    configuration.set("max-parallelism", "2").unwrap();
    let error = start(datagen(Some(1)), &out, 3, configuration)
        .err()
        .unwrap();
    assert_eq!(
        error.message(),
        "parallelism 3 is more than the max parallelism 2"
    );
    assert!(!out.exists());
}

/// A folder alone would be gone on from and never written to, so that the next start writes the
/// same results again.
#[test]
fn a_folder_of_checkpoints_and_their_interval_belong_together() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    for (key, value) in [("checkpoint.dir", path), ("checkpoint.interval", "1s")] {
        let mut configuration = Configuration::default();
        configuration.set(key, value).unwrap();
        let error = start(
            datagen(Some(1)),
            &folder.path().join("out"),
            1,
            configuration,
        )
        .err()
        .unwrap();
        assert_eq!(
            error.message(),
            "`checkpoint.dir` and `checkpoint.interval` are given together, or neither is"
        );
    }
}
