//! Tests of the sink `file`: the life of a transaction, crashes after each step, and what is lost
//! or foreign.

#[cfg(feature = "parquet")]
mod parquet_files;
mod rolling;
mod round_trip;

use super::*;
use arrow_array::{ArrayRef, Int64Array};
use serde_json::json;
use streamrt_operator::harness::{Harness, batch_of};
use streamrt_operator::{SinkOperator, TaskMetrics};
use streamrt_types::{Configuration, KeyGroupRange, ManualClock};

fn context() -> OperatorContext {
    OperatorContext {
        job: Arc::from("job"),
        generation: 1,
        cancel: Arc::default(),
        memory: Arc::default(),
        disk: None,
        uid: Arc::from("out"),
        subtask: 0,
        parallelism: 1,
        max_parallelism: 128,
        key_groups: KeyGroupRange::all(128),
        clock: Arc::new(ManualClock::default()),
        configuration: Arc::new(Configuration {
            checkpoint_interval_ms: Some(1000),
            ..Configuration::default()
        }),
        metrics: Arc::new(TaskMetrics::default()),
        dead_letters: Arc::new(|_| Ok(())),
    }
}

fn made(folder: &Path, mut options: serde_json::Value, schema: &SchemaRef) -> Result<FileSink> {
    options["path"] = folder.to_string_lossy().into();
    FileSink::new(serde_json::from_value(options).unwrap(), schema)
}

fn closed_sink(folder: &Path, format: &str, header: bool) -> FileSink {
    made(
        folder,
        json!({ "format": format, "header": header }),
        rows(vec![]).columns.schema_ref(),
    )
    .unwrap()
}

/// A sink of JSON lines whose transaction has begun.
fn sink(folder: &Path, transaction: &str) -> FileSink {
    sink_of(folder, transaction, "json", false)
}

fn sink_of(folder: &Path, transaction: &str, format: &str, header: bool) -> FileSink {
    let mut sink = closed_sink(folder, format, header);
    sink.open(&context()).unwrap();
    sink.begin(transaction).unwrap();
    sink
}

fn rows(numbers: Vec<i64>) -> Batch {
    let numbers: ArrayRef = Arc::new(Int64Array::from(numbers));
    batch_of([("n", numbers)])
}

/// Writes a transaction up to its promise.
fn promise(folder: &Path, transaction: &str, numbers: Vec<i64>) -> Vec<u8> {
    let mut sink = sink(folder, transaction);
    sink.write(&rows(numbers)).unwrap();
    sink.pre_commit().unwrap().unwrap()
}

fn listing(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn contents(folder: &Path, name: &str) -> String {
    fs::read_to_string(folder.join(name)).unwrap()
}

#[test]
fn a_transaction_is_visible_only_when_it_is_committed() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("a/out");
    let mut sink = sink(&folder, "out-job-1-0-0");
    assert_eq!(listing(&folder), [""; 0]);
    sink.write(&rows(vec![1])).unwrap();
    sink.write(&rows(vec![2])).unwrap();
    assert_eq!(listing(&folder), [".part-out-job-1-0-0.jsonl.inprogress"]);
    let first = sink.pre_commit().unwrap().unwrap();
    let expected = r#"{"files":[{"staged":".part-out-job-1-0-0.jsonl.inprogress","file":"part-out-job-1-0-0.jsonl","bytes":16}]}"#;
    assert_eq!(String::from_utf8(first.clone()).unwrap(), expected);
    sink.begin("out-job-1-0-1").unwrap();
    sink.write(&rows(vec![3])).unwrap();
    assert_eq!(
        listing(&folder),
        [
            ".part-out-job-1-0-0.jsonl.inprogress",
            ".part-out-job-1-0-1.jsonl.inprogress"
        ]
    );
    sink.commit(&first).unwrap();
    assert_eq!(
        listing(&folder),
        [
            ".part-out-job-1-0-1.jsonl.inprogress",
            "part-out-job-1-0-0.jsonl"
        ]
    );
    assert_eq!(
        contents(&folder, "part-out-job-1-0-0.jsonl"),
        "{\"n\":1}\n{\"n\":2}\n"
    );
    sink.abort().unwrap();
    assert_eq!(listing(&folder), ["part-out-job-1-0-0.jsonl"]);
}

#[test]
fn a_transaction_without_rows_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let mut sink = sink_of(root.path(), "t-0", "csv", true);
    assert_eq!(sink.pre_commit().unwrap(), None);
    sink.abort().unwrap();
    assert_eq!(listing(root.path()), [""; 0]);
}

#[test]
fn abort_leaves_what_was_promised() {
    let root = tempfile::tempdir().unwrap();
    let mut sink = sink(root.path(), "t-0");
    sink.write(&rows(vec![1])).unwrap();
    sink.pre_commit().unwrap();
    sink.abort().unwrap();
    assert_eq!(listing(root.path()), [".part-t-0.jsonl.inprogress"]);
}

#[test]
fn the_names_of_a_job_are_made_of_uid_job_generation_subtask_and_number() {
    let root = tempfile::tempdir().unwrap();
    let mut harness = Harness::new(SinkOperator::new(
        Box::new(closed_sink(root.path(), "csv", false)),
        None,
    ));
    harness.batches(&rows(vec![1, 2]), 1).unwrap();
    harness.end_of_input().unwrap();
    assert_eq!(listing(root.path()), ["part-op-job-1-0-0.csv"]);
    assert_eq!(contents(root.path(), "part-op-job-1-0-0.csv"), "1\n2\n");
}

/// How far a process came with transaction `t-0` before it crashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Crash {
    InWrite,
    AfterPreCommit,
    AfterLink,
    AfterCommit,
}

/// Lets a process crash, and another one recover: from a checkpoint that names the transaction, or
/// from the one before.
fn recover(crash: Crash, published: bool) -> Vec<String> {
    let root = tempfile::tempdir().unwrap();
    let (staged, complete) = (
        root.path().join(".part-t-0.jsonl.inprogress"),
        root.path().join("part-t-0.jsonl"),
    );
    let mut crashed = sink(root.path(), "t-0");
    crashed.write(&rows(vec![7])).unwrap();
    let promise = if crash == Crash::InWrite {
        None
    } else {
        crashed.pre_commit().unwrap()
    };
    match crash {
        Crash::InWrite | Crash::AfterPreCommit => {}
        Crash::AfterLink => fs::hard_link(&staged, &complete).unwrap(),
        Crash::AfterCommit => crashed.commit(promise.as_ref().unwrap()).unwrap(),
    }
    drop(crashed);
    let mut recovering = closed_sink(root.path(), "json", false);
    for _ in 0..2 {
        if published {
            recovering.commit(promise.as_ref().unwrap()).unwrap();
        }
        recovering.abort_unlisted("t-", &[]).unwrap();
    }
    if published {
        assert_eq!(
            contents(root.path(), "part-t-0.jsonl"),
            "{\"n\":7}\n",
            "{crash:?}"
        );
    }
    listing(root.path())
}

#[test]
fn a_crash_at_any_step_leaves_all_or_nothing() {
    for crash in [Crash::InWrite, Crash::AfterPreCommit] {
        assert_eq!(recover(crash, false), [""; 0], "{crash:?}");
    }
    for crash in [Crash::AfterPreCommit, Crash::AfterLink, Crash::AfterCommit] {
        assert_eq!(recover(crash, true), ["part-t-0.jsonl"], "{crash:?}");
    }
}

#[test]
fn a_promise_that_cannot_be_kept_is_loud() {
    let check = |spoil: &dyn Fn(&Path, &Path), before: &str, after: &str| {
        let root = tempfile::tempdir().unwrap();
        let promise = promise(root.path(), "t-0", vec![1]);
        let (staged, complete) = (
            root.path().join(".part-t-0.jsonl.inprogress"),
            root.path().join("part-t-0.jsonl"),
        );
        spoil(&staged, &complete);
        let names = listing(root.path());
        let error = closed_sink(root.path(), "json", false)
            .commit(&promise)
            .unwrap_err();
        let expected = format!(
            "8 bytes were promised, but {} {before}, and {} {after}",
            staged.display(),
            complete.display()
        );
        assert_eq!(
            (error.code(), error.message()),
            (code::COMMIT_LOST, expected.as_str())
        );
        assert_eq!(listing(root.path()), names, "what is there may be of use");
    };
    check(
        &|staged, _| fs::remove_file(staged).unwrap(),
        "is missing",
        "is missing",
    );
    check(
        &|staged, _| fs::write(staged, "short").unwrap(),
        "has 5 bytes",
        "is missing",
    );
    check(
        &|staged, complete| {
            fs::rename(staged, complete)
                .and_then(|()| fs::write(complete, ""))
                .unwrap()
        },
        "is missing",
        "has 0 bytes",
    );
    check(
        &|_, complete| fs::write(complete, "8 bytes.").unwrap(),
        "has 8 bytes",
        "is another file and has 8 bytes",
    );
    check(
        &|_, complete| fs::create_dir(complete).unwrap(),
        "has 8 bytes",
        "is another file and is no regular file",
    );
}

#[test]
fn a_folder_that_is_gone_is_a_loss_to_commit_and_nothing_to_clean() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("out");
    let promise = promise(&folder, "t-0", vec![1]);
    fs::remove_dir_all(&folder).unwrap();
    let mut sink = closed_sink(&folder, "json", false);
    assert_eq!(sink.commit(&promise).unwrap_err().code(), code::COMMIT_LOST);
    sink.abort_unlisted("t-", &[]).unwrap();
}

#[test]
fn a_promise_names_files_of_its_folder_alone() {
    let root = tempfile::tempdir().unwrap();
    let check = |promise: &str| {
        let mut sink = closed_sink(root.path(), "json", false);
        let errors = [
            sink.commit(promise.as_bytes()).unwrap_err(),
            sink.abort_unlisted("t-", &[promise.into()]).unwrap_err(),
        ];
        let expected =
            format!("sink `file`: the snapshot holds `{promise}`, which nobody could go on from");
        errors.iter().for_each(|error| {
            assert_eq!(
                (error.code().id, error.message()),
                ("S7001", expected.as_str())
            )
        });
    };
    check("");
    check(r#"{"files":[{"staged":"../a","file":"b","bytes":1}]}"#);
    check(r#"{"files":[{"staged":"a","file":"/b","bytes":1}]}"#);
    check(r#"{"files":[{"staged":"a","file":"..","bytes":1}]}"#);
    check(r#"{"files":[{"staged":"a","file":"b/","bytes":1}]}"#);
    // Plain names, but none of ours: a file of somebody else would be renamed.
    check(r#"{"files":[{"staged":"results.csv","file":"part-x.csv","bytes":1}]}"#);
    check(r#"{"files":[{"staged":".part-x.csv.inprogress","file":"results.csv","bytes":1}]}"#);
    check(r#"{"files":[{"staged":".part-x/../y.inprogress","file":"part-x/../y","bytes":1}]}"#);
}

#[test]
fn two_sinks_share_a_folder() {
    let root = tempfile::tempdir().unwrap();
    let (mut one, mut two) = (
        sink(root.path(), "a-job-1-0-0"),
        sink(root.path(), "a-job-1-1-0"),
    );
    one.write(&rows(vec![1])).unwrap();
    two.write(&rows(vec![2])).unwrap();
    let promises = [
        one.pre_commit().unwrap().unwrap(),
        two.pre_commit().unwrap().unwrap(),
    ];
    // Whichever sink recovers commits for both.
    promises
        .iter()
        .for_each(|promise| two.commit(promise).unwrap());
    one.abort().unwrap();
    assert_eq!(
        listing(root.path()),
        ["part-a-job-1-0-0.jsonl", "part-a-job-1-1-0.jsonl"]
    );
    assert_eq!(
        contents(root.path(), "part-a-job-1-1-0.jsonl"),
        "{\"n\":2}\n"
    );
}

#[test]
fn many_commit_one_promise_at_once() {
    for _ in 0..50 {
        let root = tempfile::tempdir().unwrap();
        let promise = promise(root.path(), "t-0", vec![1]);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    closed_sink(root.path(), "json", false)
                        .commit(&promise)
                        .unwrap()
                });
            }
        });
        assert_eq!(listing(root.path()), ["part-t-0.jsonl"]);
    }
}

#[test]
fn what_is_listed_and_what_is_foreign_stays() {
    let root = tempfile::tempdir().unwrap();
    let kept = promise(root.path(), "a-job-1-0-3", vec![1]);
    let foreign = [
        ".part-a-job2-1-0-0.jsonl.inprogress",
        ".part-b-job-1-0-0.jsonl.inprogress",
        ".part-a-job-1-0-0.jsonl",
        "part-a-job-1-0-0.jsonl.inprogress",
        "part-a-job-1-0-1.jsonl",
        "x",
    ];
    let ours = [
        ".part-a-job-1-0-4.jsonl.inprogress",
        ".part-a-job-2-7-0.csv.inprogress",
    ];
    for name in foreign.iter().chain(&ours) {
        fs::write(root.path().join(name), name).unwrap();
    }
    fs::create_dir(root.path().join(".part-a-job-folder.inprogress")).unwrap();
    let mut sink = closed_sink(root.path(), "json", false);
    sink.abort_unlisted("a-job-", std::slice::from_ref(&kept))
        .unwrap();
    let mut expected: Vec<&str> = foreign.to_vec();
    expected.extend([
        ".part-a-job-1-0-3.jsonl.inprogress",
        ".part-a-job-folder.inprogress",
    ]);
    expected.sort_unstable();
    assert_eq!(listing(root.path()), expected);
    sink.commit(&kept).unwrap();
    assert_eq!(
        contents(root.path(), "part-a-job-1-0-3.jsonl"),
        "{\"n\":1}\n"
    );
}

#[test]
fn a_file_that_is_there_is_found_with_the_first_row() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("part-t-0.jsonl"), "old").unwrap();
    let error = sink(root.path(), "t-0").write(&rows(vec![1])).unwrap_err();
    let expected = format!(
        "{}/part-t-0.jsonl is there already, and would be overwritten",
        root.path().display()
    );
    assert_eq!(
        (error.code().id, error.message()),
        ("S6003", expected.as_str())
    );
    assert_eq!(contents(root.path(), "part-t-0.jsonl"), "old");
}

#[test]
fn csv_has_its_header_once_a_file() {
    let root = tempfile::tempdir().unwrap();
    let mut sink = sink_of(root.path(), "t-0", "csv", true);
    for name in ["t-1", "t-2"] {
        sink.write(&rows(vec![1])).unwrap();
        sink.write(&rows(vec![2])).unwrap();
        let promise = sink.pre_commit().unwrap().unwrap();
        sink.commit(&promise).unwrap();
        sink.begin(name).unwrap();
    }
    assert_eq!(
        (
            contents(root.path(), "part-t-0.csv").as_str(),
            contents(root.path(), "part-t-1.csv").as_str()
        ),
        ("n\n1\n2\n", "n\n1\n2\n")
    );
}

#[test]
fn many_rows_are_written_on_the_way() {
    let root = tempfile::tempdir().unwrap();
    let mut sink = sink(root.path(), "t-0");
    (0..100).for_each(|_| sink.write(&rows((0..1024).collect())).unwrap());
    assert!(
        fs::metadata(root.path().join(".part-t-0.jsonl.inprogress"))
            .unwrap()
            .len()
            > 0
    );
    let promise = sink.pre_commit().unwrap().unwrap();
    sink.commit(&promise).unwrap();
    assert_eq!(
        contents(root.path(), "part-t-0.jsonl").lines().count(),
        102_400
    );
}

#[test]
fn a_full_disk_is_an_error_with_the_path_and_promises_nothing() {
    let root = tempfile::tempdir().unwrap();
    let staged = root.path().join(".part-t-0.jsonl.inprogress");
    let mut sink = sink(root.path(), "t-0");
    sink.write(&rows(vec![1])).unwrap();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut writer = sink.encoding.writer(full, &staged).unwrap();
    writer.write(&rows(vec![1]).columns).unwrap();
    sink.part.as_mut().unwrap().writer = writer;
    let error = sink.pre_commit().unwrap_err();
    assert_eq!(
        (error.code().id, error.message()),
        (
            "S3002",
            format!("{} cannot be written", staged.display()).as_str()
        )
    );
    sink.abort().unwrap();
    assert_eq!(listing(root.path()), [""; 0]);
}

#[test]
fn a_path_that_is_a_file_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("out");
    fs::write(&path, "").unwrap();
    let error = closed_sink(&path, "json", false)
        .open(&context())
        .unwrap_err();
    assert_eq!(
        (error.code().id, error.message()),
        (
            "S6003",
            format!("{} cannot be made a folder", path.display()).as_str()
        )
    );
}

#[test]
fn a_folder_that_vanished_is_an_error_with_its_path() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("out");
    let mut sink = sink(&folder, "t-0");
    fs::remove_dir(&folder).unwrap();
    let error = sink.write(&rows(vec![1])).unwrap_err();
    assert_eq!(error.code().id, "S3002");
    assert!(
        error
            .message()
            .contains("out/.part-t-0.jsonl.inprogress cannot be created"),
        "{error}"
    );
}

#[test]
fn options_that_do_not_go_together_are_refused() {
    let check = |options, expected: &str| {
        let error = made(Path::new("x"), options, rows(vec![]).columns.schema_ref())
            .err()
            .unwrap();
        assert_eq!(error.message(), format!("connector `file`: {expected}"));
    };
    check(
        json!({ "timestamps": ["n"] }),
        "`timestamps` is for parquet",
    );
    check(
        json!({ "format": "parquet", "header": true }),
        "`header` is for csv",
    );
    check(
        json!({ "format": "parquet", "timestamps": ["m"] }),
        "`timestamps` names `m`, which is no i64 column of the rows",
    );
}

#[cfg(not(feature = "parquet"))]
#[test]
fn a_build_without_parquet_says_so() {
    let error = made(
        Path::new("x"),
        json!({ "format": "parquet" }),
        rows(vec![]).columns.schema_ref(),
    )
    .err()
    .unwrap();
    assert_eq!(
        error.message(),
        "connector `file`: format `parquet` is not in this build of streamrt; build it with `--features parquet`"
    );
}
