//! Transactions of several files.

use super::*;

/// A sink whose files roll, with its transaction begun.
fn rolling_sink(folder: &Path, rolling: serde_json::Value, context: &OperatorContext) -> FileSink {
    let mut sink = made(
        folder,
        json!({ "rolling": rolling }),
        rows(vec![]).columns.schema_ref(),
    )
    .unwrap();
    sink.open(context).unwrap();
    sink.begin("t-0").unwrap();
    sink
}

/// Writes batches of one row, a second apart; returns what is visible after the commit.
fn rolled(rolling: serde_json::Value, n_batches: i64) -> Vec<String> {
    let root = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let mut sink = rolling_sink(
        root.path(),
        rolling,
        &OperatorContext {
            clock: clock.clone(),
            ..context()
        },
    );
    for n in 0..n_batches {
        sink.write(&rows(vec![n])).unwrap();
        clock.set_ms((n + 1) * 1000);
    }
    let promise = sink.pre_commit().unwrap().unwrap();
    assert!(
        listing(root.path())
            .iter()
            .all(|name| name.starts_with('.')),
        "nothing is visible before the commit"
    );
    sink.begin("t-1").unwrap();
    (0..2).for_each(|_| sink.commit(&promise).unwrap());
    listing(root.path())
        .iter()
        .map(|name| {
            format!(
                "{name}: {}",
                contents(root.path(), name).replace('\n', " ").trim_end()
            )
        })
        .collect()
}

#[test]
fn files_roll_by_size_by_age_and_by_rows() {
    let two = [
        "part-t-0-1.jsonl: {\"n\":2}",
        "part-t-0.jsonl: {\"n\":0} {\"n\":1}",
    ];
    assert_eq!(rolled(json!({ "size": "9B" }), 3), two);
    assert_eq!(rolled(json!({ "interval": "1s" }), 3), two);
    assert_eq!(rolled(json!({ "rows": 2 }), 3), two);
    assert_eq!(
        rolled(json!({ "rows": 1 }), 2),
        ["part-t-0-1.jsonl: {\"n\":1}", "part-t-0.jsonl: {\"n\":0}"]
    );
    assert_eq!(
        rolled(json!({}), 2),
        ["part-t-0.jsonl: {\"n\":0} {\"n\":1}"]
    );
    assert_eq!(
        rolled(json!({ "rows": 1 }), FILES_MAX as i64 + 5).len(),
        FILES_MAX
    );
}

#[test]
fn without_checkpoints_files_that_roll_are_visible_when_they_are_closed() {
    let root = tempfile::tempdir().unwrap();
    let no_checkpoints = OperatorContext {
        configuration: Arc::default(),
        ..context()
    };
    let mut sink = rolling_sink(root.path(), json!({ "rows": 2 }), &no_checkpoints);
    (0..5).for_each(|n| sink.write(&rows(vec![n])).unwrap());
    // What a kill would leave.
    assert_eq!(
        listing(root.path()),
        [
            ".part-t-0-2.jsonl.inprogress",
            "part-t-0-1.jsonl",
            "part-t-0.jsonl"
        ]
    );
    assert_eq!(
        contents(root.path(), "part-t-0-1.jsonl"),
        "{\"n\":2}\n{\"n\":3}\n"
    );
    let promise = sink.pre_commit().unwrap().unwrap();
    sink.commit(&promise).unwrap();
    assert_eq!(
        listing(root.path()),
        ["part-t-0-1.jsonl", "part-t-0-2.jsonl", "part-t-0.jsonl"]
    );
    let mut failing = rolling_sink(root.path(), json!({ "rows": 2 }), &no_checkpoints);
    failing.begin("t-1").unwrap();
    (0..3).for_each(|n| failing.write(&rows(vec![n])).unwrap());
    failing.abort().unwrap();
    assert_eq!(
        listing(root.path()),
        [
            "part-t-0-1.jsonl",
            "part-t-0-2.jsonl",
            "part-t-0.jsonl",
            "part-t-1.jsonl"
        ]
    );
}

#[test]
fn all_files_of_a_transaction_are_withdrawn_or_kept_together() {
    let root = tempfile::tempdir().unwrap();
    let written = || {
        let mut sink = rolling_sink(root.path(), json!({ "rows": 1 }), &context());
        (0..3).for_each(|n| sink.write(&rows(vec![n])).unwrap());
        sink
    };
    written().abort().unwrap();
    assert_eq!(listing(root.path()), [""; 0]);
    let promise = written().pre_commit().unwrap().unwrap();
    let mut recovering = rolling_sink(root.path(), json!({}), &context());
    recovering
        .abort_unlisted("t-", std::slice::from_ref(&promise))
        .unwrap();
    assert_eq!(listing(root.path()).len(), 3);
    // One of them was committed by a process that crashed then, and one is lost.
    fs::rename(
        root.path().join(".part-t-0-1.jsonl.inprogress"),
        root.path().join("part-t-0-1.jsonl"),
    )
    .unwrap();
    fs::remove_file(root.path().join(".part-t-0.jsonl.inprogress")).unwrap();
    assert_eq!(
        recovering.commit(&promise).unwrap_err().code(),
        code::COMMIT_LOST
    );
    assert_eq!(
        listing(root.path()),
        ["part-t-0-1.jsonl", "part-t-0-2.jsonl"]
    );
}
