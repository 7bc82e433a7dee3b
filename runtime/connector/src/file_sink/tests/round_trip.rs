//! Properties: what the sink `file` writes, the source `file` reads as it was, in every format that
//! both have.

use crate::testing;
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array,
    RecordBatch, StringArray, UInt32Array, UInt64Array,
};
use proptest::prelude::*;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use streamrt_operator::{Enumeration, json as rows};
use streamrt_types::{Batch, arrow_schema};
use streamrt_wit::{DataType, Field, Schema};

/// One nullable value of each type.
type Row = (
    (
        Option<bool>,
        Option<i32>,
        Option<i64>,
        Option<u32>,
        Option<u64>,
    ),
    (Option<f32>, Option<f64>, Option<String>, Option<Vec<u8>>),
);

const TYPES: [DataType; 9] = [
    DataType::Bool,
    DataType::I32,
    DataType::I64,
    DataType::U32,
    DataType::U64,
    DataType::F32,
    DataType::F64,
    DataType::String,
    DataType::Binary,
];

/// Floats of all kinds: any bits, so also NaN, infinities and the smallest ones.
fn f64s() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<u64>().prop_map(f64::from_bits),
        prop::sample::select(vec![
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            -0.0,
            1e21,
            f64::MAX
        ])
    ]
}

fn f32s() -> impl Strategy<Value = f32> {
    prop_oneof![
        any::<u32>().prop_map(f32::from_bits),
        prop::sample::select(vec![f32::NAN, f32::INFINITY, -0.0, 0.1, f32::MIN_POSITIVE])
    ]
}

/// Texts that are hard on formats.
fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a,;\"\\\\\r\n\t \u{feff}é]{0,6}",
        any::<String>(),
        Just("null".to_owned()),
        Just("NaN".to_owned())
    ]
}

fn row() -> impl Strategy<Value = Row> {
    let optional = prop::option::of::<BoxedStrategy<String>>;
    let whole = (
        any::<Option<bool>>(),
        any::<Option<i32>>(),
        any::<Option<i64>>(),
        any::<Option<u32>>(),
        any::<Option<u64>>(),
    );
    (
        whole,
        (
            prop::option::of(f32s()),
            prop::option::of(f64s()),
            optional(texts().boxed()),
            any::<Option<Vec<u8>>>(),
        ),
    )
}

/// All columns; where `nullable` is not set, nulls are what is empty.
fn columns(table: &[Row], nullable: bool) -> Vec<ArrayRef> {
    fn values<T: Default>(
        values: impl Iterator<Item = Option<T>>,
        nullable: bool,
    ) -> Vec<Option<T>> {
        values
            .map(|value| {
                if nullable {
                    value
                } else {
                    Some(value.unwrap_or_default())
                }
            })
            .collect()
    }
    let texts = values(table.iter().map(|row| row.1.2.clone()), nullable);
    let bytes = values(table.iter().map(|row| row.1.3.clone()), nullable);
    vec![
        Arc::new(BooleanArray::from(values(
            table.iter().map(|row| row.0.0),
            nullable,
        ))),
        Arc::new(Int32Array::from(values(
            table.iter().map(|row| row.0.1),
            nullable,
        ))),
        Arc::new(Int64Array::from(values(
            table.iter().map(|row| row.0.2),
            nullable,
        ))),
        Arc::new(UInt32Array::from(values(
            table.iter().map(|row| row.0.3),
            nullable,
        ))),
        Arc::new(UInt64Array::from(values(
            table.iter().map(|row| row.0.4),
            nullable,
        ))),
        Arc::new(Float32Array::from(values(
            table.iter().map(|row| row.1.0),
            nullable,
        ))),
        Arc::new(Float64Array::from(values(
            table.iter().map(|row| row.1.1),
            nullable,
        ))),
        Arc::new(StringArray::from(texts)),
        Arc::new(BinaryArray::from_iter(bytes)),
    ]
}

/// The columns that `mask` has a bit for, one at least.
fn batch(table: &[Row], mask: u16, nullable: bool) -> (Schema, RecordBatch) {
    let chosen: Vec<usize> = (0..TYPES.len())
        .filter(|column| mask >> column & 1 == 1)
        .collect();
    let chosen = if chosen.is_empty() { vec![7] } else { chosen };
    let all = columns(table, nullable);
    let field = |&column: &usize| Field {
        nullable,
        ..Field::new(format!("the \"column\", {column}"), TYPES[column])
    };
    let schema: Schema = chosen.iter().map(field).collect();
    let columns = chosen.iter().map(|&column| all[column].clone()).collect();
    let batch = RecordBatch::try_new(arrow_schema(&schema), columns).unwrap();
    (schema, batch)
}

fn write(folder: &Path, options: &serde_json::Value, rows: &RecordBatch) {
    let mut options = options.clone();
    options["path"] = folder.to_str().unwrap().into();
    let mut sink = crate::sink("file", options.as_object().unwrap(), rows.schema()).unwrap();
    sink.begin("t").unwrap();
    sink.write(&Batch::new(rows.clone())).unwrap();
    if let Some(promise) = sink.pre_commit().unwrap() {
        sink.commit(&promise).unwrap();
    }
}

fn read(
    folder: &Path,
    options: &serde_json::Value,
    schema: &Schema,
    n_rows: usize,
) -> testing::Found {
    let mut options = options.clone();
    options["path"] = folder.to_str().unwrap().into();
    let source = crate::source("file", options.as_object().unwrap(), schema).unwrap();
    let mut found = testing::Found::default();
    if let Enumeration::Splits(splits) = source.enumerator(None).unwrap().poll(1).unwrap() {
        for split in splits {
            let part = testing::read(&*source, &split, n_rows).unwrap();
            found.rows.extend(part.rows);
            found.poison.extend(part.poison);
        }
    }
    found
}

fn formats() -> Vec<serde_json::Value> {
    vec![
        json!({ "format": "json" }),
        json!({ "format": "csv" }),
        json!({ "format": "csv", "header": true, "delimiter": ";" }),
        json!({ "format": "csv", "delimiter": "1" }),
        #[cfg(feature = "parquet")]
        json!({ "format": "parquet" }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_is_written_is_read(table in prop::collection::vec(row(), 1..8), mask: u16, one: bool, nullable: bool, n_rows in 1usize..10) {
        // A single column is a case of its own: a row of it may be an empty line.
        let mask = if one { mask & mask.wrapping_neg() } else { mask };
        let (schema, written) = batch(&table, mask, nullable);
        let expected: Vec<String> = (0..written.num_rows()).map(|row| rows::row(&written, row)).collect();
        for options in formats() {
            let root = tempfile::tempdir().unwrap();
            std::fs::create_dir(root.path().join("out")).unwrap();
            write(&root.path().join("out"), &options, &written);
            let found = read(&root.path().join("out"), &options, &schema, n_rows);
            prop_assert_eq!(found.texts(), expected.iter().map(String::as_str).collect::<Vec<_>>(), "{}", options);
            prop_assert_eq!(found.poison, vec![], "{}", options);
        }
    }
}
