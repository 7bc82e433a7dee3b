//! `streamrt state export`: the state of a checkpoint as a Parquet file, against what `state get`
//! prints of it.

use std::fs::File;
use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMillisecondType, UInt32Type};
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use streamrt_tests::binary::{Finished, component, run, streamrt};
use streamrt_tests::data;
use tempfile::TempDir;

/// The folder of an example that crashed behind its second checkpoint, at this many rows per
/// second.
fn crashed(example: &str, rate: u32) -> TempDir {
    let folder = TempDir::new().unwrap();
    let text = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (job, input) = (component(example), data::example(example).join("input"));
    let mut command = streamrt(["run".as_ref(), job.as_os_str()]);
    command.args([
        "-D",
        &format!("checkpoint.dir={}", text("checkpoints")),
        "-D",
        "checkpoint.interval=40ms",
        "-D",
        &format!("source.rate={rate}"),
    ]);
    command
        .args(["--", "--input"])
        .arg(input)
        .args(["--output", &text("out")]);
    command.env("STREAMRT_FAILPOINTS", "complete.before=crash:2");
    assert!(!command.output().unwrap().status.success());
    folder
}

fn export(folder: &Path, uid: &str, state: &str, file: &str) -> Finished {
    let (checkpoints, output) = (folder.join("checkpoints"), folder.join(file));
    run([
        "state".as_ref(),
        "export".as_ref(),
        checkpoints.as_os_str(),
        "--uid".as_ref(),
        uid.as_ref(),
        "--state".as_ref(),
        state.as_ref(),
        "--output".as_ref(),
        output.as_os_str(),
    ])
}

/// The exported rows, in one batch.
fn exported(folder: &Path, uid: &str, state: &str) -> RecordBatch {
    let file = format!("{uid}-{state}.parquet");
    export(folder, uid, state, &file).succeeded();
    let reader =
        ParquetRecordBatchReaderBuilder::try_new(File::open(folder.join(file)).unwrap()).unwrap();
    reader
        .with_batch_size(1 << 20)
        .build()
        .unwrap()
        .next()
        .expect("the state has entries")
        .unwrap()
}

/// The entries as `state get` prints them.
fn printed(folder: &Path, uid: &str, state: &str) -> Vec<Value> {
    let checkpoints = folder.join("checkpoints");
    let shown = run([
        "state".as_ref(),
        "get".as_ref(),
        checkpoints.as_os_str(),
        "--uid".as_ref(),
        uid.as_ref(),
        "--state".as_ref(),
        state.as_ref(),
    ]);
    shown
        .succeeded()
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn names(rows: &RecordBatch) -> Vec<String> {
    rows.schema()
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect()
}

#[test]
fn windows_have_their_bounds_and_every_key_is_in_its_group() {
    let folder = crashed("hot-items", 20_000);
    let rows = exported(folder.path(), "counts", "panes");
    assert_eq!(
        names(&rows),
        ["key_group", "key", "window_start", "window_end", "value"]
    );
    let expected = printed(folder.path(), "counts", "panes");
    assert_eq!(rows.num_rows(), expected.len());
    let (groups, keys) = (
        rows.column(0).as_primitive::<UInt32Type>(),
        rows.column(1).as_primitive::<Int64Type>(),
    );
    let starts = rows.column(2).as_primitive::<TimestampMillisecondType>();
    for (row, entry) in expected.iter().enumerate() {
        assert_eq!(entry["key"][0], keys.value(row));
        assert_eq!(
            groups.value(row),
            streamrt_types::key_group(
                streamrt_types::murmur3_32(&keys.value(row).to_le_bytes()),
                128
            )
        );
        assert!(
            starts.is_valid(row) && starts.value(row) % 300_000 == 0,
            "a pane begins at five minutes"
        );
    }
}

#[test]
fn elements_of_lists_are_rows_with_their_places() {
    let folder = crashed("ride-duration", 3000);
    let rows = exported(folder.path(), "durations", "waiting");
    assert_eq!(
        names(&rows),
        ["key_group", "key", "position", "value_1", "value_2"]
    );
    assert_eq!(
        (rows.column(3).data_type(), rows.column(4).data_type()),
        (&DataType::Boolean, &DataType::Int64)
    );
    let (keys, places) = (
        rows.column(1).as_string::<i32>(),
        rows.column(2).as_primitive::<UInt32Type>(),
    );
    let begins: Vec<&str> = (0..rows.num_rows())
        .filter(|&row| places.value(row) == 0)
        .map(|row| keys.value(row))
        .collect();
    let lists = printed(folder.path(), "durations", "waiting");
    assert_eq!(
        begins,
        lists
            .iter()
            .map(|list| list["key"][0].as_str().unwrap())
            .collect::<Vec<_>>()
    );
    for row in 1..rows.num_rows() {
        let follows = keys.value(row) == keys.value(row - 1)
            && places.value(row) == places.value(row - 1) + 1;
        assert!(
            follows || places.value(row) == 0,
            "row {row} stands in no list"
        );
    }
}

#[test]
fn timers_have_their_times() {
    let folder = crashed("ride-duration", 3000);
    let rows = exported(folder.path(), "durations", "$timers");
    assert_eq!(names(&rows), ["key_group", "key", "domain", "time"]);
    let (keys, times) = (
        rows.column(1).as_string::<i32>(),
        rows.column(3).as_primitive::<TimestampMillisecondType>(),
    );
    let expected = printed(folder.path(), "durations", "$timers");
    assert_eq!(rows.num_rows(), expected.len());
    for (row, entry) in expected.iter().enumerate() {
        assert_eq!(rows.column(2).as_string::<i32>().value(row), "event-time");
        assert_eq!(entry["key"][0], keys.value(row));
        assert_eq!(entry["sub"], format!("00{:016x}", times.value(row)));
    }
}

#[test]
fn what_cannot_be_exported_gets_a_sentence() {
    let folder = crashed("hot-items", 20_000);
    export(folder.path(), "counts", "sums", "a.parquet")
        .failed_with("S6004")
        .names("there is no keyed state `sums` of operator `counts`");
    export(folder.path(), "nobody", "panes", "a.parquet")
        .failed_with("S6004")
        .names("counts/panes");
    export(folder.path(), "counts", "panes", "no/such/a.parquet")
        .failed_with("S3002")
        .names("cannot be created");
    export(folder.path(), "counts", "panes", "a.parquet").succeeded();
    export(folder.path(), "counts", "panes", "a.parquet")
        .failed_with("S6003")
        .names("a.parquet is there already");
    assert!(!folder.path().join(".a.parquet.inprogress").exists());
    std::fs::remove_dir_all(folder.path().join("checkpoints/chk-2")).unwrap();
    export(folder.path(), "counts", "panes", "b.parquet")
        .failed_with("S7001")
        .names("missing");
    assert!(!folder.path().join("b.parquet").exists());
}
