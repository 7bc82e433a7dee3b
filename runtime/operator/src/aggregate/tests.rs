//! Every aggregate against the plainest possible computation, updated in batches, merged, and running.

use super::*;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, StringArray, UInt32Array};
use arrow_schema::SchemaRef;
use std::sync::Arc;
use streamrt_state::{KeyKind, Keys};
use streamrt_types::{KeyGroupRange, murmur3_32};

const FUNCTIONS: [AggregateFunction; 7] = [
    AggregateFunction::Count,
    AggregateFunction::Sum,
    AggregateFunction::Min,
    AggregateFunction::Max,
    AggregateFunction::Avg,
    AggregateFunction::First,
    AggregateFunction::Last,
];

fn schema_of(column: &ArrayRef) -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("x", column.data_type().clone(), column.null_count() > 0)]))
}

fn table(accumulators: &Accumulators) -> KeyTable {
    KeyTable::new(KeyKind::Fixed, accumulators.bytes(), KeyGroupRange::all(4), 4)
}

fn entries(table: &mut KeyTable, keys: &[u64]) -> Vec<EntryId> {
    let hashes: Vec<u32> = keys.iter().map(|key| murmur3_32(&key.to_le_bytes())).collect();
    let (mut entries, mut created) = (Vec::new(), Vec::new());
    table.upsert(&hashes, Keys::Fixed(keys), &mut entries, &mut created);
    entries
}

fn text(column: &ArrayRef) -> String {
    format!("{:?}", (0..column.len()).map(|row| crate::json::value(column, row)).collect::<Vec<_>>())
}

/// Aggregates `column` under one key, at times 3, 1, 3, 1, ..., once whole, once as two panes that are merged, and running.
fn check(function: AggregateFunction, column: ArrayRef, expected: &[&str]) {
    let batch = RecordBatch::try_new(schema_of(&column), vec![column]).unwrap();
    let aggregate = BuiltinAggregate { function, column: Some("x".into()) };
    let mut accumulators = Accumulators::new(&[aggregate], batch.schema_ref()).unwrap();
    let n_rows = batch.num_rows();
    let times: Vec<i64> = (0..n_rows as i64).map(|i| 3 - i % 2 * 2).collect();

    let mut running = table(&accumulators);
    let same = entries(&mut running, &vec![7; n_rows]);
    let columns = accumulators.update_running(&mut running, &same, &batch, Some(&times)).unwrap();
    assert_eq!(text(&columns[0]), format!("{expected:?}"), "{function:?} running");
    assert_eq!(columns[0].data_type(), accumulators.fields().next().unwrap().data_type());

    let mut panes = table(&accumulators);
    let ids = entries(&mut panes, &[0, 1]);
    let half = n_rows / 2;
    for (id, rows) in ids.iter().zip([0..half, half..n_rows]) {
        accumulators.update(&mut panes, &vec![*id; rows.len()], &batch, Some(&times), rows).unwrap();
    }
    let mut merged = vec![0; accumulators.bytes()];
    accumulators.merge_entries(&panes, &ids, &[0, 0], &mut merged).unwrap();
    let columns = accumulators.finish(&merged);
    assert_eq!(text(&columns[0]), format!("{:?}", &expected[n_rows - 1..]), "{function:?} merged");
    accumulators.release(&merged);
}

#[test]
fn integers() {
    let column = || Arc::new(Int64Array::from(vec![4, 1, 9])) as ArrayRef;
    let expected = [
        ["1", "2", "3"],
        ["4", "5", "14"],
        ["4", "1", "1"],
        ["4", "4", "9"],
        ["4.0", "2.5", "4.666666666666667"],
        ["4", "1", "1"],
        ["4", "4", "9"],
    ];
    FUNCTIONS.into_iter().zip(expected).for_each(|(function, expected)| check(function, column(), &expected));
}

#[test]
fn nulls_take_no_part() {
    let column = || Arc::new(Int32Array::from(vec![None, Some(-5), None, Some(2)])) as ArrayRef;
    let expected = [
        ["0", "1", "1", "2"],
        ["null", "-5", "-5", "-3"],
        ["null", "-5", "-5", "-5"],
        ["null", "-5", "-5", "2"],
        ["null", "-5.0", "-5.0", "-1.5"],
        ["null", "-5", "-5", "-5"],
        ["null", "-5", "-5", "2"],
    ];
    FUNCTIONS.into_iter().zip(expected).for_each(|(function, expected)| check(function, column(), &expected));
}

#[test]
fn other_types() {
    use AggregateFunction::*;
    let texts = || Arc::new(StringArray::from(vec!["m", "z", "a"])) as ArrayRef;
    check(Min, texts(), &["\"m\"", "\"m\"", "\"a\""]);
    check(Max, texts(), &["\"m\"", "\"z\"", "\"z\""]);
    check(First, texts(), &["\"m\"", "\"z\"", "\"z\""]);
    check(Last, texts(), &["\"m\"", "\"m\"", "\"a\""]);
    check(Count, texts(), &["1", "2", "3"]);
    let floats = || Arc::new(Float64Array::from(vec![0.5, f64::NAN, -1.0])) as ArrayRef;
    check(Min, floats(), &["0.5", "0.5", "-1.0"]);
    check(Sum, Arc::new(Float32Array::from(vec![0.5, 0.25])), &["0.5", "0.75"]);
    check(Sum, Arc::new(UInt32Array::from(vec![u32::MAX, 1])), &["4294967295", "4294967296"]);
    check(Max, Arc::new(BooleanArray::from(vec![false, true, false])), &["false", "true", "true"]);
}

#[test]
fn what_cannot_be_aggregated_is_refused_by_name() {
    let schema = Schema::new(vec![Field::new("name", DataType::Utf8, false)]);
    let message = |function, column: Option<&str>| {
        let aggregate = BuiltinAggregate { function, column: column.map(str::to_owned) };
        Accumulators::new(&[aggregate], &schema).err().unwrap().message().to_owned()
    };
    assert_eq!(message(AggregateFunction::Sum, Some("name")), "sum of `name`: a column of type Utf8 cannot be aggregated so");
    assert_eq!(message(AggregateFunction::Max, Some("size")), "maximum of `size`: the input has no such column");
    assert_eq!(message(AggregateFunction::Avg, None), "average of rows: the aggregate needs a column");
}

#[test]
fn a_sum_that_overflows_names_operator_and_key() {
    let batch = RecordBatch::try_from_iter([("x", Arc::new(Int64Array::from(vec![i64::MAX, 1])) as ArrayRef)]).unwrap();
    let aggregate = BuiltinAggregate { function: AggregateFunction::Sum, column: Some("x".into()) };
    let mut accumulators = Accumulators::new(&[aggregate], batch.schema_ref()).unwrap();
    let mut table = table(&accumulators);
    let same = entries(&mut table, &[1, 1]);
    let overflow = accumulators.update(&mut table, &same, &batch, None, 0..2).unwrap_err();
    assert_eq!(overflow, Overflow { position: 1, aggregate: 0 });
    let error = accumulators.overflow(overflow, "totals", "{\"user\":1}");
    assert_eq!(error.message(), "operator `totals`: the sum of `x` of key {\"user\":1} leaves the range of its type");
}

#[test]
fn rows_are_counted_without_a_column() {
    let batch = RecordBatch::try_from_iter([("x", Arc::new(Int64Array::from(vec![Some(1), None])) as ArrayRef)]).unwrap();
    let count = BuiltinAggregate { function: AggregateFunction::Count, column: None };
    let mut accumulators = Accumulators::new(&[count], batch.schema_ref()).unwrap();
    let mut table = table(&accumulators);
    let same = entries(&mut table, &[1, 1]);
    let columns = accumulators.update_running(&mut table, &same, &batch, None).unwrap();
    assert_eq!(columns[0].as_primitive::<Int64Type>().values(), &[1, 2]);
}
