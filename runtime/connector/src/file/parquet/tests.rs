//! Tests of Parquet as input: splits, positions, types, nulls, and files that are none.

use super::*;
use crate::testing::{self, Found};
use arrow_array::{
    Float32Array, Int64Array, StringArray, TimestampMicrosecondArray, TimestampMillisecondArray,
    TimestampNanosecondArray, UInt16Array,
};
use parquet::arrow::ArrowWriter;
use parquet::data_type::{Int96, Int96Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use std::path::{Path, PathBuf};
use streamrt_operator::Enumeration;
use streamrt_types::arrow_schema;
use streamrt_wit::{DataType as Plan, Field};

/// Writes a file with a row group for every three rows.
fn write(root: &tempfile::TempDir, columns: Vec<(&str, ArrayRef)>) -> PathBuf {
    let path = root.path().join("a.parquet");
    let rows = RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, array)| (name, array, true)),
    )
    .unwrap();
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(3))
        .build();
    let mut writer = ArrowWriter::try_new(
        File::create(&path).unwrap(),
        rows.schema(),
        Some(properties),
    )
    .unwrap();
    writer.write(&rows).unwrap();
    writer.close().unwrap();
    path
}

fn source(path: &Path, split_bytes: u64, schema: Vec<Field>) -> Result<Arc<dyn Source>> {
    let options = serde_json::json!({ "path": path.to_str().unwrap(), "format": "parquet", "split-bytes": split_bytes });
    super::super::source(
        serde_json::from_value(options).unwrap(),
        arrow_schema(&schema),
    )
}

fn splits(source: &dyn Source) -> Vec<Split> {
    match source.enumerator(None).unwrap().poll(1).unwrap() {
        Enumeration::Splits(splits) => splits,
        other => panic!("{other:?}"),
    }
}

fn numbers(n: i64) -> Vec<(&'static str, ArrayRef)> {
    vec![(
        "n",
        Arc::new(Int64Array::from_iter_values(0..n)) as ArrayRef,
    )]
}

fn n() -> Vec<Field> {
    vec![Field::new("n", Plan::I64)]
}

/// All rows of a file as JSON, or why it is refused.
fn read(columns: Vec<(&str, ArrayRef)>, schema: Vec<Field>) -> Result<Found> {
    let root = tempfile::tempdir().unwrap();
    let source = source(&write(&root, columns), u64::MAX, schema)?;
    testing::read(&*source, &splits(&*source)[0], 10)
}

#[test]
fn each_row_is_in_one_split_however_a_file_is_cut() {
    let root = tempfile::tempdir().unwrap();
    let path = write(&root, numbers(20));
    for split_bytes in [1, 50, 100, 200, 1 << 20] {
        let source = source(&path, split_bytes, n()).unwrap();
        let mut rows: Vec<String> = Vec::new();
        for split in splits(&*source) {
            let found = testing::read(&*source, &split, 4).unwrap();
            assert_eq!(
                found.lines().0,
                (1..=found.rows.len() as u64).collect::<Vec<_>>()
            );
            rows.extend(found.texts().into_iter().map(str::to_owned));
        }
        assert_eq!(
            rows,
            (0..20)
                .map(|n| format!("{{\"n\":{n}}}"))
                .collect::<Vec<_>>(),
            "{split_bytes} bytes a split"
        );
    }
}

#[test]
fn a_reader_goes_on_at_its_position() {
    let root = tempfile::tempdir().unwrap();
    let source = source(&write(&root, numbers(20)), u64::MAX, n()).unwrap();
    let split = &splits(&*source)[0];
    let whole = testing::read(&*source, split, 4).unwrap();
    assert_eq!(whole.rows.len(), 20);
    for cuts in [&[0, 0][..], &[1, 1, 1], &[2, 0, 3], &[5], &[9]] {
        assert_eq!(
            testing::read_in_pieces(&*source, split, 4, cuts).unwrap(),
            whole,
            "{cuts:?}"
        );
    }
    let mut reader = source.open(split, None).unwrap();
    let mut found = Found::default();
    for rows in [7, 2, 3, 10, 10] {
        testing::poll(&mut *reader, rows, &mut found).unwrap();
    }
    assert_eq!(
        found.rows, whole.rows,
        "fewer rows are asked for than a batch of the file has"
    );
}

#[test]
fn a_file_that_is_another_one_now_is_not_gone_on_with() {
    let root = tempfile::tempdir().unwrap();
    let path = write(&root, numbers(20));
    let source = source(&path, u64::MAX, n()).unwrap();
    let split = &splits(&*source)[0];
    let mut reader = source.open(split, None).unwrap();
    testing::poll(&mut *reader, 4, &mut Found::default()).unwrap();
    let position = reader.position();
    write(&root, numbers(30));
    let error = source.open(split, Some(&position)).err().unwrap();
    assert_eq!(error.code(), code::HISTORY_LOST);
    assert!(
        error
            .message()
            .contains("when row 4 was read: put it back as it was"),
        "{error}"
    );
    assert_eq!(
        source.open(split, Some("{}")).err().unwrap().code(),
        code::SNAPSHOT_DAMAGED
    );
}

#[test]
fn a_file_that_is_gone_is_passed_over_where_that_is_wanted() {
    let root = tempfile::tempdir().unwrap();
    let path = write(&root, numbers(20));
    let options = serde_json::json!({ "path": root.path().to_str().unwrap(), "format": "parquet", "missing": "skip" });
    let source =
        super::super::source(serde_json::from_value(options).unwrap(), arrow_schema(&n())).unwrap();
    let split = splits(&*source).remove(0);
    std::fs::remove_file(path).unwrap();
    let found = testing::read(&*source, &split, 4).unwrap();
    assert_eq!(
        (found.rows.len(), found.poison[0].code),
        (0, code::PASSED_OVER)
    );
}

#[test]
fn columns_are_found_by_name_and_grow_to_their_types() {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("unread", Arc::new(StringArray::from(vec!["x"]))),
        (
            "millis",
            Arc::new(TimestampMillisecondArray::from(vec![2000])),
        ),
        (
            "micros",
            Arc::new(TimestampMicrosecondArray::from(vec![1_234_567]).with_timezone("+02:00")),
        ),
        ("small", Arc::new(UInt16Array::from(vec![7]))),
        ("float", Arc::new(Float32Array::from(vec![0.5]))),
        ("text", Arc::new(StringArray::from(vec!["a"]))),
    ];
    let schema = vec![
        Field::new("text", Plan::Binary),
        Field::new("float", Plan::F64),
        Field::new("small", Plan::U64),
        Field::new("micros", Plan::I64),
        Field::new("millis", Plan::I64),
    ];
    let found = read(columns, schema).unwrap();
    assert_eq!(
        found.texts(),
        [r#"{"text":"61","float":0.5,"small":7,"micros":1234,"millis":2000}"#]
    );
}

#[test]
fn columns_that_do_not_fit_are_refused_by_name() {
    let check = |schema, expected: &str| {
        let error = read(numbers(1), schema).unwrap_err();
        assert_eq!(error.code(), code::SCHEMA_MISMATCH);
        assert!(error.message().ends_with(expected), "{error}");
    };
    check(
        vec![Field::new("m", Plan::I64)],
        "a.parquet: no column is named `m`; there are n",
    );
    check(
        vec![Field::new("n", Plan::String)],
        "a.parquet: column `n` is Int64, which cannot be read as Utf8",
    );
    check(
        vec![Field::new("n", Plan::I32)],
        "a.parquet: column `n` is Int64, which cannot be read as Int32",
    );
}

#[test]
fn a_null_where_none_may_be_is_a_poison_record() {
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(3), None]));
    let words: ArrayRef = Arc::new(StringArray::from(vec![None, Some("b"), Some("c"), None]));
    let schema = || {
        vec![
            Field::new("n", Plan::I64),
            Field {
                nullable: true,
                ..Field::new("w", Plan::String)
            },
        ]
    };
    let found = read(vec![("n", numbers), ("w", words)], schema()).unwrap();
    let row = |line, text: &str| (line, text.to_owned());
    assert_eq!(
        found.rows,
        [row(1, r#"{"n":1,"w":null}"#), row(3, r#"{"n":3,"w":"c"}"#)]
    );
    let refused: Vec<_> = found
        .poison
        .iter()
        .map(|line| (line.position, line.record.as_slice(), line.reason.as_str()))
        .collect();
    let reason = "column `n` is null, but it must have a value";
    assert_eq!(
        refused,
        [
            (2, &br#"{"n":null,"w":"b"}"#[..], reason),
            (4, br#"{"n":null,"w":null}"#, reason)
        ]
    );
}

/// Writes a file with one column of INT96: (Julian day, ns of the day).
fn write_int96(path: &Path, times: &[(u32, u64)]) {
    let schema = Arc::new(
        parquet::schema::parser::parse_message_type("message m { REQUIRED INT96 t; }").unwrap(),
    );
    let mut writer =
        SerializedFileWriter::new(File::create(path).unwrap(), schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let value = |&(day, ns): &(u32, u64)| Int96::from(vec![ns as u32, (ns >> 32) as u32, day]);
    column
        .typed::<Int96Type>()
        .write_batch(&times.iter().map(value).collect::<Vec<_>>(), None, None)
        .unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
}

#[test]
fn times_of_96_bits_are_right_in_every_year() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a.parquet");
    // 9999-12-31T23:59:59, 0001-01-01, 1970-01-01, 1677-09-20, a ns before 1970, and what no
    // calendar has.
    let (last_second, last_ns) = (86_399_000_000_000, 86_399_999_999_999);
    write_int96(
        &path,
        &[
            (5_373_484, last_second),
            (1_721_426, 0),
            (2_440_588, 1_999_999),
            (2_333_837, 0),
            (2_440_587, last_ns),
            (i32::MAX as u32, 0),
        ],
    );
    let source = source(&path, u64::MAX, vec![Field::new("t", Plan::I64)]).unwrap();
    let found = testing::read(&*source, &splits(&*source)[0], 4).unwrap();
    let times = [
        253_402_300_799_000,
        -62_135_596_800_000,
        1,
        -9_223_286_400_000,
        -1,
        (i64::from(i32::MAX) - 2_440_588) * 86_400_000,
    ];
    assert_eq!(
        found.texts(),
        times.map(|time: i64| format!("{{\"t\":{time}}}"))
    );
}

#[test]
fn a_time_between_two_ms_is_the_earlier_one() {
    let columns: Vec<(&str, ArrayRef)> = vec![
        (
            "us",
            Arc::new(TimestampMicrosecondArray::from(vec![-1, 999, i64::MIN])),
        ),
        (
            "ns",
            Arc::new(TimestampNanosecondArray::from(vec![
                -1,
                1_999_999,
                i64::MIN,
            ])),
        ),
    ];
    let found = read(
        columns,
        vec![Field::new("us", Plan::I64), Field::new("ns", Plan::I64)],
    )
    .unwrap();
    let expected = [
        r#"{"us":-1,"ns":-1}"#,
        r#"{"us":0,"ns":1}"#,
        r#"{"us":-9223372036854776,"ns":-9223372036855}"#,
    ];
    assert_eq!(found.texts(), expected);
}

#[test]
fn damaged_files_are_refused_with_their_path() {
    let root = tempfile::tempdir().unwrap();
    let path = write(&root, numbers(20));
    let bytes = std::fs::read(&path).unwrap();
    let check = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let source = source(&path, u64::MAX, n()).unwrap();
        let error = testing::read(&*source, &splits(&*source)[0], 4).unwrap_err();
        assert_eq!(error.code(), code::BAD_FILE, "{error}");
        assert!(
            error.message().contains("a.parquet cannot be read"),
            "{error}"
        );
    };
    check(b"n\n1\n");
    check(&bytes[..bytes.len() - 9]);
    let mut torn = bytes.clone();
    torn[4..60].fill(0xff);
    check(&torn);
}

/// No flipped bit makes the library take more than there is, or fall over; what it reads is rows of
/// a file of that schema, or a refusal.
#[test]
fn whatever_bit_is_flipped_a_file_is_read_or_refused() {
    let root = tempfile::tempdir().unwrap();
    let words: ArrayRef = Arc::new(StringArray::from_iter_values(
        (0..20).map(|n| format!("word {}", n % 3)),
    ));
    let path = write(
        &root,
        numbers(20).into_iter().chain([("w", words)]).collect(),
    );
    let schema = || {
        n().into_iter()
            .chain([Field {
                nullable: true,
                ..Field::new("w", Plan::String)
            }])
            .collect()
    };
    let bytes = std::fs::read(&path).unwrap();
    let mut refused = 0;
    for at in 0..bytes.len() {
        for bit in [0, 3, 7] {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            std::fs::write(&path, flipped).unwrap();
            let source = source(&path, u64::MAX, schema()).unwrap();
            if let Err(error) = testing::read(&*source, &splits(&*source)[0], 4) {
                refused += 1;
                assert!(
                    [code::BAD_FILE, code::SCHEMA_MISMATCH].contains(&error.code()),
                    "byte {at}, bit {bit}: {error}"
                );
            }
        }
    }
    assert!(
        refused > bytes.len() / 4,
        "{refused} of {} are refused",
        bytes.len()
    );
}
