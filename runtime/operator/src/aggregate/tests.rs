//! Every aggregate against the plainest possible computation, updated in batches, merged, and
//! running.

use super::*;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{
    Array, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, StringArray,
    UInt32Array,
};
use arrow_schema::SchemaRef;
use serde_json::json;
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
    Arc::new(Schema::new(vec![Field::new(
        "x",
        column.data_type().clone(),
        column.null_count() > 0,
    )]))
}

fn table(accumulators: &Accumulators) -> KeyTable {
    KeyTable::new(
        KeyKind::Fixed,
        accumulators.bytes(),
        KeyGroupRange::all(4),
        4,
    )
}

fn entries(table: &mut KeyTable, keys: &[u64]) -> Vec<EntryId> {
    let hashes: Vec<u32> = keys
        .iter()
        .map(|key| murmur3_32(&key.to_le_bytes()))
        .collect();
    let (mut entries, mut created) = (Vec::new(), Vec::new());
    table.upsert(&hashes, Keys::Fixed(keys), &mut entries, &mut created);
    entries
}

fn text(column: &ArrayRef) -> String {
    format!(
        "{:?}",
        (0..column.len())
            .map(|row| crate::json::value(column, row))
            .collect::<Vec<_>>()
    )
}

/// Aggregates `column` under one key, at times 3, 1, 3, 1, ..., once whole, once as two panes that
/// are merged, and running.
fn check(function: AggregateFunction, column: ArrayRef, expected: &[&str]) {
    let batch = RecordBatch::try_new(schema_of(&column), vec![column]).unwrap();
    let aggregate = BuiltinAggregate {
        function,
        column: Some("x".into()),
    };
    let mut accumulators = Accumulators::new(&[aggregate], batch.schema_ref()).unwrap();
    let n_rows = batch.num_rows();
    let times: Vec<i64> = (0..n_rows as i64).map(|i| 3 - i % 2 * 2).collect();

    let mut running = table(&accumulators);
    let same = entries(&mut running, &vec![7; n_rows]);
    let columns = accumulators
        .update_running(&mut running, &same, &batch, Some(&times))
        .unwrap();
    assert_eq!(
        text(&columns[0]),
        format!("{expected:?}"),
        "{function:?} running"
    );
    assert_eq!(
        columns[0].data_type(),
        accumulators.fields().next().unwrap().data_type()
    );

    let mut panes = table(&accumulators);
    let ids = entries(&mut panes, &[0, 1]);
    let half = n_rows / 2;
    for (id, rows) in ids.iter().zip([0..half, half..n_rows]) {
        accumulators
            .update(
                &mut panes,
                &vec![*id; rows.len()],
                &batch,
                Some(&times),
                rows,
            )
            .unwrap();
    }
    let mut merged = vec![0; accumulators.bytes()];
    accumulators
        .merge_entries(&panes, &ids, &[0, 0], &mut merged)
        .unwrap();
    let columns = accumulators.finish(&merged);
    assert_eq!(
        text(&columns[0]),
        format!("{:?}", &expected[n_rows - 1..]),
        "{function:?} merged"
    );
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
    FUNCTIONS
        .into_iter()
        .zip(expected)
        .for_each(|(function, expected)| check(function, column(), &expected));
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
    FUNCTIONS
        .into_iter()
        .zip(expected)
        .for_each(|(function, expected)| check(function, column(), &expected));
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
    check(
        Sum,
        Arc::new(Float32Array::from(vec![0.5, 0.25])),
        &["0.5", "0.75"],
    );
    check(
        Sum,
        Arc::new(UInt32Array::from(vec![u32::MAX, 1])),
        &["4294967295", "4294967296"],
    );
    check(
        Max,
        Arc::new(BooleanArray::from(vec![false, true, false])),
        &["false", "true", "true"],
    );
}

#[test]
fn what_cannot_be_aggregated_is_refused_by_name() {
    let schema = Schema::new(vec![Field::new("name", DataType::Utf8, false)]);
    let message = |function, column: Option<&str>| {
        let aggregate = BuiltinAggregate {
            function,
            column: column.map(str::to_owned),
        };
        Accumulators::new(&[aggregate], &schema)
            .err()
            .unwrap()
            .message()
            .to_owned()
    };
    assert_eq!(
        message(AggregateFunction::Sum, Some("name")),
        "sum of `name`: a column of type Utf8 cannot be aggregated so"
    );
    assert_eq!(
        message(AggregateFunction::Max, Some("size")),
        "maximum of `size`: the input has no such column"
    );
    assert_eq!(
        message(AggregateFunction::Avg, None),
        "average of rows: the aggregate needs a column"
    );
}

#[test]
fn a_sum_that_overflows_names_operator_and_key() {
    let batch = RecordBatch::try_from_iter([(
        "x",
        Arc::new(Int64Array::from(vec![i64::MAX, 1])) as ArrayRef,
    )])
    .unwrap();
    let aggregate = BuiltinAggregate {
        function: AggregateFunction::Sum,
        column: Some("x".into()),
    };
    let mut accumulators = Accumulators::new(&[aggregate], batch.schema_ref()).unwrap();
    let mut table = table(&accumulators);
    let same = entries(&mut table, &[1, 1]);
    let overflow = accumulators
        .update(&mut table, &same, &batch, None, 0..2)
        .unwrap_err();
    assert_eq!(
        overflow,
        Overflow {
            position: 1,
            aggregate: 0
        }
    );
    let error = accumulators.overflow(overflow, "totals", "{\"user\":1}");
    assert_eq!(
        error.message(),
        "operator `totals`: the sum of `x` of key {\"user\":1} leaves the range of its type"
    );
}

#[test]
fn rows_are_counted_without_a_column() {
    let batch = RecordBatch::try_from_iter([(
        "x",
        Arc::new(Int64Array::from(vec![Some(1), None])) as ArrayRef,
    )])
    .unwrap();
    let count = BuiltinAggregate {
        function: AggregateFunction::Count,
        column: None,
    };
    let mut accumulators = Accumulators::new(&[count], batch.schema_ref()).unwrap();
    let mut table = table(&accumulators);
    let same = entries(&mut table, &[1, 1]);
    let columns = accumulators
        .update_running(&mut table, &same, &batch, None)
        .unwrap();
    assert_eq!(columns[0].as_primitive::<Int64Type>().values(), &[1, 2]);
}

/// Exports the accumulators of every function over `column`, takes them into others, and compares
/// the results of both then and after more rows.
fn check_export(column: ArrayRef) {
    let batch = RecordBatch::try_new(schema_of(&column), vec![column]).unwrap();
    let is_text = matches!(
        batch.column(0).data_type(),
        DataType::Utf8 | DataType::Binary | DataType::Boolean
    );
    let summed = |function: &AggregateFunction| {
        !(is_text && matches!(function, AggregateFunction::Sum | AggregateFunction::Avg))
    };
    let aggregates: Vec<_> = FUNCTIONS
        .into_iter()
        .filter(summed)
        .map(|function| BuiltinAggregate {
            function,
            column: Some("x".into()),
        })
        .collect();
    let open = || Accumulators::new(&aggregates, batch.schema_ref()).unwrap();
    let n_rows = batch.num_rows();
    for cut in 0..n_rows {
        let (mut old, mut new) = (open(), open());
        let (mut before, mut after) = (table(&old), table(&new));
        let id = entries(&mut before, &[7])[0];
        old.update(&mut before, &vec![id; cut], &batch, None, 0..cut)
            .unwrap();
        restore(&old, &mut before, &mut new, &mut after);
        let same = entries(&mut after, &[7])[0];
        let bytes = exported(&old, before.value(id));
        assert_eq!(exported(&new, after.value(same)), bytes);
        check_damage(&bytes, &mut open());
        for (accumulators, table, id) in [(&mut old, &mut before, id), (&mut new, &mut after, same)]
        {
            accumulators
                .update(table, &vec![id; n_rows - cut], &batch, None, cut..n_rows)
                .unwrap();
        }
        let results = |accumulators: &Accumulators, value: &[u8]| {
            accumulators
                .finish(value)
                .iter()
                .map(text)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            results(&new, after.value(same)),
            results(&old, before.value(id))
        );
    }
}

fn exported(accumulators: &Accumulators, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    accumulators.export(value, &mut bytes);
    bytes
}

/// Freezes a table, changes it, and takes what was frozen into another one.
fn restore(old: &Accumulators, from: &mut KeyTable, new: &mut Accumulators, into: &mut KeyTable) {
    let frozen = old.freeze(from, None);
    frozen.each(&mut |key, value| {
        new.restore(into, murmur3_32(key), key, value)
            .map(drop)
            .unwrap()
    });
    frozen.each(&mut |key, value| {
        assert!(
            new.restore(into, murmur3_32(key), key, value).is_err(),
            "a key comes once"
        )
    });
}

/// Truncated or longer bytes are refused; others may give anything except a panic.
fn check_damage(bytes: &[u8], accumulators: &mut Accumulators) {
    let mut import = |bytes: &[u8]| {
        let mut value = vec![0; accumulators.bytes()];
        let imported = accumulators.import(bytes, &mut value);
        if imported.is_ok() {
            let copy = value.clone();
            let _ = accumulators.merge(&mut value, &copy);
            drop(accumulators.finish(&value));
        }
        imported
    };
    (0..bytes.len()).for_each(|cut| {
        assert_eq!(
            import(&bytes[..cut]).unwrap_err().code(),
            code::SNAPSHOT_DAMAGED
        )
    });
    assert!(import(&[bytes, &[0]].concat()).is_err());
    for at in 0..bytes.len() {
        for flip in [0xff, 0x80, 0x01] {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= flip;
            drop(import(&damaged));
        }
    }
}

#[test]
fn exported_accumulators_go_on_as_they_were() {
    check_export(Arc::new(Int64Array::from(vec![4, 1, 9, -3])));
    check_export(Arc::new(Int32Array::from(vec![
        None,
        Some(-5),
        None,
        Some(2),
    ])));
    check_export(Arc::new(Float64Array::from(vec![0.5, f64::NAN, -1.0])));
    check_export(Arc::new(BooleanArray::from(vec![false, true, false])));
    check_export(Arc::new(StringArray::from(vec![
        "m",
        "",
        "a longer one that needs more than a grain",
        "z",
    ])));
    check_export(Arc::new(StringArray::from(vec![
        None,
        Some("b"),
        None,
        Some("a"),
    ])));
    check_export(Arc::new(arrow_array::BinaryArray::from_vec(vec![
        b"\xff", b"", b"a",
    ])));
}

#[test]
fn restored_keys_stand_in_their_old_order() {
    let keys: Vec<u64> = (0..3000).map(|i| i * 7919 % 3001).collect();
    for column in [
        Arc::new(Int64Array::from(vec![1; keys.len()])) as ArrayRef,
        Arc::new(StringArray::from(vec!["a"; keys.len()])),
    ] {
        let batch = RecordBatch::try_new(schema_of(&column), vec![column]).unwrap();
        let greatest = [BuiltinAggregate {
            function: AggregateFunction::Max,
            column: Some("x".into()),
        }];
        let mut accumulators = Accumulators::new(&greatest, batch.schema_ref()).unwrap();
        let (mut before, mut after) = (table(&accumulators), table(&accumulators));
        let ids = entries(&mut before, &keys);
        accumulators
            .update(&mut before, &ids, &batch, None, 0..keys.len())
            .unwrap();
        let mut new = Accumulators::new(&greatest, batch.schema_ref()).unwrap();
        restore(&accumulators, &mut before, &mut new, &mut after);
        let order = |table: &KeyTable| {
            table
                .entries()
                .map(|entry| table.key(entry).to_vec())
                .collect::<Vec<_>>()
        };
        assert_eq!(order(&after), order(&before));
    }
}

#[test]
fn types_say_function_column_and_type() {
    let schema = Schema::new(vec![Field::new("x", DataType::Utf8, true)]);
    let aggregates = [
        BuiltinAggregate {
            function: AggregateFunction::Max,
            column: Some("x".into()),
        },
        BuiltinAggregate {
            function: AggregateFunction::Count,
            column: None,
        },
    ];
    let types = Accumulators::new(&aggregates, &schema)
        .unwrap()
        .types()
        .clone();
    let column = json!({"name": "x", "type": "string", "nullable": true});
    assert_eq!(
        types,
        json!([{"function": "max", "column": column}, {"function": "count", "column": null}])
    );
}

/// Minimum and maximum of floats, as bits: running, and merged from panes of one row each.
fn extremes(column: ArrayRef) -> [Vec<u64>; 2] {
    let bits = |column: &ArrayRef| match column.data_type() {
        DataType::Float32 => u64::from(
            column
                .as_primitive::<arrow_array::types::Float32Type>()
                .value(column.len() - 1)
                .to_bits(),
        ),
        _ => column
            .as_primitive::<arrow_array::types::Float64Type>()
            .value(column.len() - 1)
            .to_bits(),
    };
    let batch = RecordBatch::try_new(schema_of(&column), vec![column]).unwrap();
    [AggregateFunction::Min, AggregateFunction::Max].map(|function| {
        let mut accumulators = Accumulators::new(
            &[BuiltinAggregate {
                function,
                column: Some("x".into()),
            }],
            batch.schema_ref(),
        )
        .unwrap();
        let n_rows = batch.num_rows();
        let mut running = table(&accumulators);
        let same = entries(&mut running, &vec![7; n_rows]);
        let last = bits(
            &accumulators
                .update_running(&mut running, &same, &batch, None)
                .unwrap()[0],
        );
        let mut panes = table(&accumulators);
        let ids = entries(&mut panes, &(0..n_rows as u64).collect::<Vec<_>>());
        accumulators
            .update(&mut panes, &ids, &batch, None, 0..n_rows)
            .unwrap();
        let mut merged = vec![0; accumulators.bytes()];
        accumulators
            .merge_entries(&panes, &ids, &vec![0; n_rows], &mut merged)
            .unwrap();
        vec![last, bits(&accumulators.finish(&merged)[0])]
    })
}

#[test]
fn every_nan_is_the_greatest_whatever_its_sign_and_payload() {
    let odd = f64::from_bits(0xfff8_0000_0000_0007);
    for nan in [f64::NAN, -f64::NAN, odd] {
        for rows in [[nan, 1.5, -2.5], [1.5, nan, -2.5], [-2.5, 1.5, nan]] {
            let (least, greatest) = ((-2.5f64).to_bits(), f64::NAN.to_bits());
            assert_eq!(
                extremes(Arc::new(Float64Array::from(rows.to_vec()))),
                [vec![least; 2], vec![greatest; 2]],
                "{rows:?}"
            );
            let rows = rows.map(|value| value as f32);
            let (least, greatest) = (
                u64::from((-2.5f32).to_bits()),
                u64::from(f32::NAN.to_bits()),
            );
            assert_eq!(
                extremes(Arc::new(Float32Array::from(rows.to_vec()))),
                [vec![least; 2], vec![greatest; 2]],
                "{rows:?}"
            );
        }
    }
    let nothing_else = [vec![f64::NAN.to_bits(); 2], vec![f64::NAN.to_bits(); 2]];
    assert_eq!(
        extremes(Arc::new(Float64Array::from(vec![odd, -f64::NAN]))),
        nothing_else
    );
    let zeros = [vec![(-0.0f64).to_bits(); 2], vec![0.0f64.to_bits(); 2]];
    assert_eq!(
        extremes(Arc::new(Float64Array::from(vec![0.0, -0.0]))),
        zeros
    );
    assert_eq!(
        extremes(Arc::new(Float64Array::from(vec![-0.0, 0.0]))),
        zeros
    );
}
