//! Tests of the source `datagen`.

use super::*;
use arrow_array::Array;
use arrow_array::cast::AsArray;
use std::collections::HashSet;
use std::time::Duration;
use streamrt_types::{ManualClock, arrow_schema};
use streamrt_wit::{DataType as Plan, Field as PlanField};

fn source(options: serde_json::Value, clock: Arc<dyn Clock>) -> DatagenSource {
    let types =
        [("id", Plan::I64), ("n", Plan::I32), ("x", Plan::F64), ("word", Plan::String), ("flag", Plan::Bool), ("raw", Plan::Binary)];
    let schema: Vec<PlanField> = types.into_iter().map(|(name, data_type)| PlanField::new(name, data_type)).collect();
    DatagenSource::new(serde_json::from_value(options).unwrap(), arrow_schema(&schema), clock).unwrap()
}

fn readers(source: &DatagenSource, parallelism: u32) -> Vec<Box<dyn SplitReader>> {
    let Enumeration::Splits(splits) = source.enumerator().unwrap().poll(parallelism).unwrap() else { panic!("splits come first") };
    splits.iter().map(|split| source.open(split).unwrap()).collect()
}

/// All rows as JSON, sorted.
fn all(source: &DatagenSource, parallelism: u32, rows: usize) -> Vec<String> {
    let mut text = Vec::new();
    for mut reader in readers(source, parallelism) {
        while let ReaderPoll::Batch(batch) = reader.poll(rows, Duration::MAX).unwrap() {
            batch.check().unwrap();
            crate::encoder::RowEncoder::JSON.encode(&batch.columns, false, &mut text).unwrap();
        }
    }
    let mut lines: Vec<String> = String::from_utf8(text).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn options(seed: u64) -> serde_json::Value {
    serde_json::json!({ "rows": 100, "seed": seed, "fields": {
        "id": { "kind": "sequence", "start": -5, "step": 10 },
        "n": { "kind": "random", "min": -1, "max": 1 },
        "word": { "kind": "random", "length": 12, "cardinality": 3 }
    }})
}

#[test]
fn rows_do_not_depend_on_splits_and_batches() {
    let clock = Arc::new(ManualClock::default());
    let one = all(&source(options(1), clock.clone()), 1, 1000);
    assert_eq!(one.len(), 100);
    assert_eq!(all(&source(options(1), clock.clone()), 7, 3), one);
    assert_ne!(all(&source(options(2), clock), 1, 1000), one);
}

#[test]
fn values_keep_to_their_limits() {
    let mut reader = readers(&source(options(1), Arc::new(ManualClock::default())), 1).remove(0);
    let ReaderPoll::Batch(batch) = reader.poll(1000, Duration::MAX).unwrap() else { panic!("there are rows") };
    let columns = &batch.columns;
    let ids: Vec<i64> = columns.column(0).as_primitive::<Int64Type>().values().to_vec();
    assert_eq!((ids[0], ids[1], ids[99]), (-5, 5, 985));
    let numbers: HashSet<i32> = columns.column(1).as_primitive::<Int32Type>().values().iter().copied().collect();
    assert_eq!(numbers, HashSet::from([-1, 0, 1]));
    assert!(columns.column(2).as_primitive::<Float64Type>().values().iter().all(|x| (0.0..1.0).contains(x)));
    let words: HashSet<&str> = columns.column(3).as_string::<i32>().iter().flatten().collect();
    assert!(words.len() == 3 && words.iter().all(|word| word.len() == 12), "{words:?}");
    assert_eq!(columns.column(5).as_binary::<i32>().value(0).len(), 8);
    assert!(columns.columns().iter().all(|column| column.null_count() == 0));
    assert!(matches!(batch.origin.unwrap().rows, Rows::Range { first: 1 }));
}

#[test]
fn the_clock_limits_the_rate_of_all_splits_together() {
    let clock = Arc::new(ManualClock::default());
    let source = source(serde_json::json!({ "rate": 10, "splits": 2 }), clock.clone());
    assert!(!source.bounded());
    let mut readers = readers(&source, 1);
    let mut poll = |now_ms: i64| -> Vec<String> {
        clock.set_ms(now_ms);
        let describe = |poll| match poll {
            ReaderPoll::Batch(batch) => format!("{} rows", batch.n_rows()),
            ReaderPoll::Pending { ms } => format!("in {ms} ms"),
            ReaderPoll::Finished => "finished".to_owned(),
        };
        readers.iter_mut().map(|reader| describe(reader.poll(100, Duration::MAX).unwrap())).collect()
    };
    assert_eq!(poll(0), ["in 100 ms", "in 200 ms"]);
    assert_eq!(poll(100), ["1 rows", "in 100 ms"]);
    assert_eq!(poll(1100), ["5 rows", "5 rows"]);
    assert_eq!(poll(1100), ["in 200 ms", "in 100 ms"]);
}

#[test]
fn limits_that_do_not_fit_are_refused() {
    let check = |generator: serde_json::Value, data_type: Plan, expected: &str| {
        let options = serde_json::from_value(serde_json::json!({ "fields": { "v": generator } })).unwrap();
        let schema = arrow_schema(&vec![PlanField::new("v", data_type)]);
        let error = DatagenSource::new(options, schema, Arc::new(ManualClock::default())).err().unwrap();
        assert_eq!(error.message(), format!("connector `datagen`: column `v`: {expected}"));
    };
    check(serde_json::json!({ "kind": "random", "min": 2, "max": 1 }), Plan::I64, "`min` is greater than `max`");
    check(serde_json::json!({ "kind": "random", "min": -1 }), Plan::U32, "`min` and `max` must be from 0 to 4294967295");
    check(serde_json::json!({ "kind": "random", "length": 1 }), Plan::F64, "`length` and `cardinality` are for strings and binaries");
    check(serde_json::json!({ "kind": "random", "max": 1 }), Plan::String, "`min` and `max` are for numbers");
}
