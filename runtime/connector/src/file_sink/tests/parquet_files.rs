//! What the sink writes as Parquet is what the source reads.

use super::*;
use crate::testing;
use arrow_array::{
    BinaryArray, BooleanArray, Float32Array, Float64Array, Int32Array, RecordBatch, StringArray,
    UInt32Array, UInt64Array,
};
use streamrt_operator::{Enumeration, Source};

/// A column of every type, with the extremes and a null.
fn every_type() -> RecordBatch {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("bool", Arc::new(BooleanArray::from(vec![Some(true), None]))),
        (
            "i32",
            Arc::new(Int32Array::from(vec![Some(i32::MIN), None])),
        ),
        (
            "i64",
            Arc::new(Int64Array::from(vec![Some(i64::MIN), None])),
        ),
        (
            "u32",
            Arc::new(UInt32Array::from(vec![Some(u32::MAX), None])),
        ),
        (
            "u64",
            Arc::new(UInt64Array::from(vec![Some(u64::MAX), None])),
        ),
        (
            "f32",
            Arc::new(Float32Array::from(vec![Some(f32::MIN_POSITIVE), None])),
        ),
        (
            "f64",
            Arc::new(Float64Array::from(vec![Some(f64::MAX), None])),
        ),
        (
            "string",
            Arc::new(StringArray::from(vec![Some("\u{1f600}"), None])),
        ),
        (
            "binary",
            Arc::new(BinaryArray::from_opt_vec(vec![Some(b"\0\xff"), None])),
        ),
        (
            "time",
            Arc::new(Int64Array::from(vec![Some(1_511_658_000_123), None])),
        ),
    ];
    RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, array)| (name, array, true)),
    )
    .unwrap()
}

/// What the source `file` reads in the files of a folder.
fn read(folder: &Path, schema: &SchemaRef) -> Vec<String> {
    let options = json!({ "path": folder.to_string_lossy(), "format": "parquet" });
    let source: Arc<dyn Source> =
        crate::file::source(serde_json::from_value(options).unwrap(), schema.clone()).unwrap();
    let Enumeration::Splits(splits) = source.enumerator(None).unwrap().poll(1).unwrap() else {
        return Vec::new();
    };
    let rows = splits
        .iter()
        .flat_map(|split| testing::read(&*source, split, 1024).unwrap().rows);
    rows.map(|(_, row)| row).collect()
}

#[test]
fn what_is_written_is_what_is_read() {
    let root = tempfile::tempdir().unwrap();
    let columns = every_type();
    let mut sink = made(
        root.path(),
        json!({ "format": "parquet", "timestamps": ["time"] }),
        columns.schema_ref(),
    )
    .unwrap();
    sink.open(&context()).unwrap();
    sink.begin("t-0").unwrap();
    sink.write(&Batch::new(columns.clone())).unwrap();
    let promise = sink.pre_commit().unwrap().unwrap();
    assert_eq!(listing(root.path()), [".part-t-0.parquet.inprogress"]);
    assert_eq!(read(root.path(), columns.schema_ref()), [""; 0]);
    sink.commit(&promise).unwrap();
    let mut expected = Vec::new();
    RowEncoder::JSON.encode(&columns, false, &mut expected);
    let expected = String::from_utf8(expected).unwrap();
    assert_eq!(
        read(root.path(), columns.schema_ref()),
        expected.lines().collect::<Vec<_>>()
    );
}

#[test]
fn a_column_of_times_is_a_timestamp_in_the_file() {
    let root = tempfile::tempdir().unwrap();
    let mut sink = made(
        root.path(),
        json!({ "format": "parquet", "timestamps": ["n"] }),
        rows(vec![]).columns.schema_ref(),
    )
    .unwrap();
    sink.open(&context()).unwrap();
    sink.begin("t-0").unwrap();
    sink.write(&rows(vec![1])).unwrap();
    let promise = sink.pre_commit().unwrap().unwrap();
    sink.commit(&promise).unwrap();
    let file = File::open(root.path().join("part-t-0.parquet")).unwrap();
    let reader =
        ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    assert_eq!(
        reader.schema().field(0).data_type().to_string(),
        "Timestamp(ms, \"UTC\")"
    );
}

#[test]
fn files_roll_by_size_although_rows_gather() {
    let root = tempfile::tempdir().unwrap();
    let schema = rows(vec![]).columns.schema();
    let mut sink = made(
        root.path(),
        json!({ "format": "parquet", "rolling": { "size": "64KiB" } }),
        &schema,
    )
    .unwrap();
    sink.open(&context()).unwrap();
    sink.begin("t-0").unwrap();
    // Numbers that neither a dictionary nor Snappy makes shorter.
    (0..100i64).for_each(|batch| {
        sink.write(&rows(
            (0..1024)
                .map(|n| (batch * 1024 + n).wrapping_mul(0x9e37_79b9_7f4a_7c15u64 as i64))
                .collect(),
        ))
        .unwrap()
    });
    let promise = sink.pre_commit().unwrap().unwrap();
    sink.commit(&promise).unwrap();
    assert!(
        (8..20).contains(&listing(root.path()).len()),
        "{:?}",
        listing(root.path())
    );
    assert_eq!(read(root.path(), &schema).len(), 102_400);
}
