//! Tests of the source `datagen`.

use super::*;
use crate::testing;
use arrow_array::Array;
use arrow_array::cast::AsArray;
use proptest::prelude::*;
use std::collections::HashSet;
use streamrt_operator::Enumeration;
use streamrt_types::{ManualClock, arrow_schema};
use streamrt_wit::{DataType as Plan, Field as PlanField};

fn source(options: serde_json::Value, clock: Arc<dyn Clock>) -> DatagenSource {
    let types = [
        ("id", Plan::I64),
        ("n", Plan::I32),
        ("x", Plan::F64),
        ("word", Plan::String),
        ("flag", Plan::Bool),
        ("raw", Plan::Binary),
    ];
    let schema: Vec<PlanField> = types
        .into_iter()
        .map(|(name, data_type)| PlanField::new(name, data_type))
        .collect();
    DatagenSource::new(
        serde_json::from_value(options).unwrap(),
        arrow_schema(&schema),
        clock,
    )
    .unwrap()
}

fn splits(source: &DatagenSource, parallelism: u32) -> Vec<Split> {
    let Enumeration::Splits(splits) = source.enumerator(None).unwrap().poll(parallelism).unwrap()
    else {
        panic!("splits come first")
    };
    splits
}

fn readers(source: &DatagenSource, parallelism: u32) -> Vec<Box<dyn SplitReader>> {
    splits(source, parallelism)
        .iter()
        .map(|split| source.open(split, None).unwrap())
        .collect()
}

/// All rows as JSON, sorted.
fn all(source: &DatagenSource, parallelism: u32, rows: usize, cuts: &[usize]) -> Vec<String> {
    let mut lines = Vec::new();
    for split in splits(source, parallelism) {
        let found = testing::read_in_pieces(source, &split, rows, cuts).unwrap();
        assert_eq!(
            found.lines().0,
            (1..=found.rows.len() as u64).collect::<Vec<_>>()
        );
        lines.extend(found.rows.into_iter().map(|(_, row)| row));
    }
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
fn other_seeds_make_other_rows() {
    let rows = |seed| {
        all(
            &source(options(seed), Arc::new(ManualClock::default())),
            1,
            1000,
            &[],
        )
    };
    assert_eq!(rows(1).len(), 100);
    assert_ne!(rows(2), rows(1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn rows_depend_on_seed_and_number_alone(seed: u64, n_splits in 1u32..8, rows in 1usize..20, cuts in prop::collection::vec(0usize..6, 0..5)) {
        let source = source(options(seed), Arc::new(ManualClock::default()));
        prop_assert_eq!(all(&source, n_splits, rows, &cuts), all(&source, 1, 1000, &[]));
    }
}

#[test]
fn a_position_or_split_that_was_never_given_is_refused() {
    let source = source(options(1), Arc::new(ManualClock::default()));
    let check = |detail: &str, position: Option<&str>| {
        let error = source
            .open(
                &Split {
                    number: 0,
                    name: "datagen 0".into(),
                    detail: detail.to_owned(),
                },
                position,
            )
            .err()
            .unwrap();
        let text = position.unwrap_or(detail);
        let expected =
            format!("datagen 0: the snapshot holds `{text}`, which nobody could go on from");
        assert_eq!(
            (error.code().id, error.message()),
            ("S7001", expected.as_str())
        );
    };
    check("[0,2]", Some(r#"{"rows":18446744073709551615}"#));
    check("[0,2]", Some(r#"{"rows":-1}"#));
    check("[0,0]", None);
}

#[test]
fn values_keep_to_their_limits() {
    let mut reader = readers(&source(options(1), Arc::new(ManualClock::default())), 1).remove(0);
    let ReaderPoll::Batch(batch) = reader.poll(1000, Duration::MAX).unwrap() else {
        panic!("there are rows")
    };
    let columns = &batch.columns;
    let ids: Vec<i64> = columns
        .column(0)
        .as_primitive::<Int64Type>()
        .values()
        .to_vec();
    assert_eq!((ids[0], ids[1], ids[99]), (-5, 5, 985));
    let numbers: HashSet<i32> = columns
        .column(1)
        .as_primitive::<Int32Type>()
        .values()
        .iter()
        .copied()
        .collect();
    assert_eq!(numbers, HashSet::from([-1, 0, 1]));
    assert!(
        columns
            .column(2)
            .as_primitive::<Float64Type>()
            .values()
            .iter()
            .all(|x| (0.0..1.0).contains(x))
    );
    let words: HashSet<&str> = columns
        .column(3)
        .as_string::<i32>()
        .iter()
        .flatten()
        .collect();
    assert!(
        words.len() == 3 && words.iter().all(|word| word.len() == 12),
        "{words:?}"
    );
    assert_eq!(columns.column(5).as_binary::<i32>().value(0).len(), 8);
    assert!(
        columns
            .columns()
            .iter()
            .all(|column| column.null_count() == 0)
    );
    assert!(matches!(
        batch.origin.unwrap().rows,
        Rows::Range { first: 1 }
    ));
}

#[test]
fn the_clock_limits_the_rate_of_all_splits_together() {
    let clock = Arc::new(ManualClock::default());
    let source = source(
        serde_json::json!({ "rate": 10, "splits": 2 }),
        clock.clone(),
    );
    assert!(!source.bounded());
    let mut readers = readers(&source, 1);
    let mut poll = |now_ms: i64| -> Vec<String> {
        clock.set_ms(now_ms);
        let describe = |poll| match poll {
            ReaderPoll::Batch(batch) => format!("{} rows", batch.n_rows()),
            ReaderPoll::Pending { ms } => format!("in {ms} ms"),
            ReaderPoll::Finished => "finished".to_owned(),
        };
        readers
            .iter_mut()
            .map(|reader| describe(reader.poll(100, Duration::MAX).unwrap()))
            .collect()
    };
    assert_eq!(poll(0), ["in 100 ms", "in 200 ms"]);
    assert_eq!(poll(100), ["1 rows", "in 100 ms"]);
    assert_eq!(poll(1100), ["5 rows", "5 rows"]);
    assert_eq!(poll(1100), ["in 200 ms", "in 100 ms"]);
}

#[test]
fn a_rate_begins_anew_where_a_reader_goes_on() {
    let clock = Arc::new(ManualClock::default());
    let source = source(
        serde_json::json!({ "rate": 10, "rows": 100 }),
        clock.clone(),
    );
    let split = &splits(&source, 1)[0];
    let mut reader = source.open(split, None).unwrap();
    clock.set_ms(500);
    assert!(
        matches!(reader.poll(100, Duration::MAX).unwrap(), ReaderPoll::Batch(batch) if batch.n_rows() == 5)
    );
    clock.set_ms(9000);
    let mut reader = source.open(split, Some(&reader.position())).unwrap();
    assert!(matches!(
        reader.poll(100, Duration::MAX).unwrap(),
        ReaderPoll::Pending { ms: 100 }
    ));
    clock.set_ms(9200);
    assert!(
        matches!(reader.poll(100, Duration::MAX).unwrap(), ReaderPoll::Batch(batch) if batch.n_rows() == 2)
    );
    assert_eq!(reader.position(), r#"{"rows":7}"#);
}

#[test]
fn limits_that_do_not_fit_are_refused() {
    let check = |generator: serde_json::Value, data_type: Plan, expected: &str| {
        let options =
            serde_json::from_value(serde_json::json!({ "fields": { "v": generator } })).unwrap();
        let schema = arrow_schema(&vec![PlanField::new("v", data_type)]);
        let error = DatagenSource::new(options, schema, Arc::new(ManualClock::default()))
            .err()
            .unwrap();
        assert_eq!(
            error.message(),
            format!("connector `datagen`: column `v`: {expected}")
        );
    };
    check(
        serde_json::json!({ "kind": "random", "min": 2, "max": 1 }),
        Plan::I64,
        "`min` is greater than `max`",
    );
    check(
        serde_json::json!({ "kind": "random", "min": -1 }),
        Plan::U32,
        "`min` and `max` must be from 0 to 4294967295",
    );
    check(
        serde_json::json!({ "kind": "random", "length": 1 }),
        Plan::F64,
        "`length` and `cardinality` are for strings and binaries",
    );
    check(
        serde_json::json!({ "kind": "random", "max": 1 }),
        Plan::String,
        "`min` and `max` are for numbers",
    );
}
