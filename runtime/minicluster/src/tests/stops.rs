//! Every way to end a job before its input ends: no window fires that is not due.
//!
//! The source makes a row for each ms, so a window that came out is right if and only if it has as
//! many rows as ms.

use super::splits::{csv, windows};
use super::{output, run_plan};
use serde_json::{Value, json};
use std::path::Path;
use streamrt_types::{Configuration, Result};

/// A row for each ms, without end, in so many splits.
fn endless(n_splits: u32) -> Value {
    let options = json!({"splits": n_splits, "fields": {
        "n": {"kind": "random", "min": 0, "max": 0}, "time": {"kind": "sequence", "start": 0, "step": 1}}});
    json!({"kind": "source", "connector": "datagen", "options": options, "schema": [{"name": "n", "type": "i64"}, {"name": "time", "type": "i64"}]})
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    /// As Ctrl-C, SIGTERM and `streamrt stop` do.
    Stop,
    Savepoint,
    Cancel,
}

fn with_checkpoints(folder: &Path) -> Configuration {
    let mut configuration = Configuration::default();
    configuration
        .set(
            "checkpoint.dir",
            folder.join("checkpoints").to_str().unwrap(),
        )
        .unwrap();
    configuration.set("checkpoint.interval", "20ms").unwrap();
    configuration
}

/// Panics unless every window in the output has its 100 rows. Returns how many there are.
fn check_windows(folder: &Path, place: &str) -> usize {
    let (lines, n_hidden) = output(folder);
    let partial: Vec<&String> = lines
        .iter()
        .filter(|line| !line.ends_with("\"count\":100}"))
        .collect();
    assert!(
        partial.is_empty(),
        "{place}: of {} windows {} are not whole: {:?}",
        lines.len(),
        partial.len(),
        partial.first()
    );
    assert_eq!(n_hidden, 0, "{place}");
    lines.len()
}

/// Ends a job when results have come out, and checks what it leaves.
fn check(end: End, n_splits: u32, parallelism: u32, checkpoints: bool) -> Result<()> {
    let place = format!(
        "{end:?} of {n_splits} splits at parallelism {parallelism}, checkpoints: {checkpoints}"
    );
    let folder = tempfile::tempdir().unwrap();
    let (out, configuration) = (folder.path().join("out"), with_checkpoints(folder.path()));
    let configuration = if checkpoints {
        configuration
    } else {
        Configuration::default()
    };
    let job = run_plan(
        &windows(&endless(n_splits), &out),
        parallelism,
        configuration,
    )?;
    while job.progress().records_out < 20 || checkpoints && job.checkpoints(1).is_empty() {
        assert!(!job.is_finished(), "{place}: it ended by itself");
        std::thread::yield_now();
    }
    match end {
        End::Stop => job.stop(),
        End::Savepoint => {
            job.savepoint(folder.path().join("savepoint").to_str().unwrap(), true)?;
        }
        End::Cancel => job.remote().cancel(),
    }
    let ended = job.wait();
    let n_windows = check_windows(&out, &place);
    match end {
        // What is committed stays; without checkpoints nothing is.
        End::Cancel => assert!(checkpoints || n_windows == 0, "{place}"),
        End::Stop | End::Savepoint => {
            assert!(n_windows >= 20, "{place}: {n_windows}");
            ended?;
        }
    }
    Ok(())
}

#[test]
fn a_job_that_is_stopped_fires_nothing_that_is_not_due() {
    for (n_splits, parallelism) in [(1, 1), (1, 2), (1, 7), (7, 1), (7, 2), (7, 7), (3, 2)] {
        for end in [End::Stop, End::Cancel] {
            check(end, n_splits, parallelism, false).unwrap();
            check(end, n_splits, parallelism, true).unwrap();
        }
        check(End::Savepoint, n_splits, parallelism, true).unwrap();
    }
}

/// Also where a reader has its last row long before, and where none has begun.
#[test]
fn a_job_that_is_stopped_between_its_splits_fires_nothing_that_is_not_due() {
    for parallelism in [1, 2, 7] {
        let folder = tempfile::tempdir().unwrap();
        let (input, out) = (folder.path().join("input"), folder.path().join("out"));
        std::fs::create_dir(&input).unwrap();
        let rows = |range: std::ops::Range<i64>| {
            range.map(|time| format!("0,{time}\n")).collect::<String>()
        };
        std::fs::write(input.join("a.csv"), rows(0..550)).unwrap();
        let source = csv(&input, &json!({"watch": true, "watch-ms": 5}));
        let job = run_plan(
            &windows(&source, &out),
            parallelism,
            Configuration::default(),
        )
        .unwrap();
        while job.progress().records_in < 550 {
            std::thread::yield_now();
        }
        job.stop();
        job.wait().unwrap();
        let n_windows = check_windows(&out, "a watched folder");
        assert!(n_windows <= 5, "{n_windows}");
    }
}

#[test]
fn a_job_that_fails_leaves_no_window_that_is_not_due() {
    for (parallelism, checkpoints) in [
        (1, false),
        (2, false),
        (7, false),
        (1, true),
        (2, true),
        (7, true),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (input, out) = (folder.path().join("input.csv"), folder.path().join("out"));
        let rows: String = (0..40_000).map(|time| format!("0,{time}\n")).collect();
        std::fs::write(&input, format!("{rows}0,now\n")).unwrap();
        let mut configuration = if checkpoints {
            with_checkpoints(folder.path())
        } else {
            Configuration::default()
        };
        configuration.set("source.rate", "400000").unwrap();
        let error = run_plan(
            &windows(&csv(&input, &json!({})), &out),
            parallelism,
            configuration,
        )
        .unwrap()
        .wait()
        .unwrap_err();
        assert_eq!(error.code().id, "S3003");
        let n_windows = check_windows(&out, "a failure");
        assert!(checkpoints || n_windows == 0);
    }
}
