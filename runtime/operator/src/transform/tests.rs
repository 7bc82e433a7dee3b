//! Transforms with native functions: columns, times and marks of the output, for every batch size,
//! and the poison policy end to end.

use super::*;
use crate::function::{Outcome, RowsOut};
use crate::harness::{Harness, NativeChain, batch_of};
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, Int64Array, StringArray};
use std::sync::Arc;
use streamrt_types::{Configuration, Origin, PoisonPolicy, Rows, Times};
use streamrt_wit::{DataType, Field, FunctionKind, OutputColumns, OutputPort};

/// Columns `name` and `x`; times are `x`; marks 5 before row 1, 7 before row 3, and 9 at the end.
fn input() -> Batch {
    let mut batch = batch_of([
        (
            "name",
            Arc::new(StringArray::from(vec!["a", "b", "c", "d"])) as ArrayRef,
        ),
        ("x", Arc::new(Int64Array::from(vec![1, 2, 3, 4]))),
    ]);
    batch.times = Times::Column(1);
    batch.marks = [(1, 5), (3, 7), (4, 9)]
        .map(|(row, watermark)| Mark { row, watermark })
        .to_vec();
    batch.origin = Some(Origin {
        split: "data/x.csv".into(),
        split_number: 0,
        rows: Rows::Range { first: 11 },
    });
    batch
}

fn function(kind: FunctionKind, outputs: Vec<OutputColumns>) -> Function {
    let port = |(i, columns)| OutputPort {
        name: if i == 0 {
            String::new()
        } else {
            format!("side{i}")
        },
        columns,
    };
    Function {
        number: 0,
        kind,
        name: "f".into(),
        input: vec![Field::new("x", DataType::I64)],
        outputs: outputs.into_iter().enumerate().map(port).collect(),
        key: None,
        time: false,
        timers: false,
        states: Vec::new(),
        accumulator: None,
        grants: Vec::new(),
        second_input: Vec::new(),
    }
}

fn added(name: &str) -> streamrt_wit::Schema {
    vec![Field::new(name, DataType::I64)]
}

fn column(name: &str, values: Vec<i64>) -> Option<RecordBatch> {
    Some(batch_of([(name, Arc::new(Int64Array::from(values)) as ArrayRef)]).columns)
}

fn rows(function: usize, port: u16, columns: Option<RecordBatch>, origin: Vec<u32>) -> RowsOut {
    RowsOut {
        function,
        port,
        n_rows: origin.len(),
        columns,
        origin: Some(origin),
    }
}

/// A chain that sees `x` of the rows.
type Native = fn(&[i64]) -> Result<Outcome, Failure>;

fn operator(functions: &[Function], native: Native) -> TransformOperator {
    let chain = NativeChain(move |invocation: Invocation<'_>| {
        let rows = invocation.rows.expect("a transform is called with rows");
        native(rows.columns.column(0).as_primitive::<Int64Type>().values())
    });
    TransformOperator::new(Box::new(chain), functions, &input().columns.schema()).unwrap()
}

/// The same lines come out of a port, whatever the batch size.
fn check(functions: &[Function], native: Native, port: u16, expected: &[&str]) {
    for batch_rows in 1..=5 {
        let mut harness = Harness::new(operator(functions, native));
        harness.batches(&input(), batch_rows).unwrap();
        assert_eq!(harness.lines(port), expected, "batches of {batch_rows}");
    }
}

#[test]
fn a_filter_forwards_columns_times_and_marks() {
    let functions = [function(FunctionKind::Filter, vec![OutputColumns::Forward])];
    let odd = |x: &[i64]| {
        let kept = (0u32..)
            .zip(x)
            .filter(|(_, x)| *x % 2 == 1)
            .map(|(i, _)| i)
            .collect();
        Ok(Outcome {
            rows: vec![rows(0, 0, None, kept)],
            ..Outcome::default()
        })
    };
    check(
        &functions,
        odd,
        0,
        &[
            r#"1 {"name":"a","x":1}"#,
            "mark 5",
            r#"3 {"name":"c","x":3}"#,
            "mark 7",
            "mark 9",
        ],
    );
    check(
        &functions,
        |_| Ok(Outcome::default()),
        0,
        &["mark 5", "mark 7", "mark 9"],
    );
}

#[test]
fn a_map_extends_or_replaces() {
    let native: Native = |x| {
        let columns = column("y", x.iter().map(|x| x * 10).collect());
        Ok(Outcome {
            rows: vec![RowsOut {
                function: 0,
                port: 0,
                n_rows: x.len(),
                columns,
                origin: None,
            }],
            ..Outcome::default()
        })
    };
    let extend = [function(
        FunctionKind::Map,
        vec![OutputColumns::Extend { schema: added("y") }],
    )];
    let expected = [
        r#"1 {"name":"a","x":1,"y":10}"#,
        "mark 5",
        r#"2 {"name":"b","x":2,"y":20}"#,
        r#"3 {"name":"c","x":3,"y":30}"#,
        "mark 7",
        r#"4 {"name":"d","x":4,"y":40}"#,
        "mark 9",
    ];
    check(&extend, native, 0, &expected);
    let replace = [function(
        FunctionKind::Map,
        vec![OutputColumns::Replace { schema: added("y") }],
    )];
    check(
        &replace,
        native,
        0,
        &[
            "1 {\"y\":10}",
            "mark 5",
            "2 {\"y\":20}",
            "3 {\"y\":30}",
            "mark 7",
            "4 {\"y\":40}",
            "mark 9",
        ],
    );
}

#[test]
fn a_flat_map_keeps_the_order_of_events_on_every_port() {
    let replace = || OutputColumns::Replace { schema: added("y") };
    let functions = [function(
        FunctionKind::FlatMap,
        vec![replace(), OutputColumns::Forward],
    )];
    let native: Native = |x| {
        let origin: Vec<u32> = (0u32..)
            .zip(x)
            .flat_map(|(i, x)| vec![i; *x as usize - 1])
            .collect();
        let values = origin.iter().map(|i| x[*i as usize]).collect();
        let side = (0u32..)
            .zip(x)
            .filter(|(_, x)| **x == 3)
            .map(|(i, _)| i)
            .collect();
        Ok(Outcome {
            rows: vec![
                rows(0, 1, None, side),
                rows(0, 0, column("y", values), origin),
            ],
            ..Outcome::default()
        })
    };
    let expected = [
        "mark 5",
        "2 {\"y\":2}",
        "3 {\"y\":3}",
        "3 {\"y\":3}",
        "mark 7",
        "4 {\"y\":4}",
        "4 {\"y\":4}",
        "4 {\"y\":4}",
        "mark 9",
    ];
    check(&functions, native, 0, &expected);
    check(
        &functions,
        native,
        1,
        &["mark 5", r#"3 {"name":"c","x":3}"#, "mark 7", "mark 9"],
    );
}

#[test]
fn a_fused_chain_sends_what_it_made_inside() {
    let extend = function(
        FunctionKind::Map,
        vec![OutputColumns::Extend { schema: added("y") }],
    );
    let filter = function(FunctionKind::Filter, vec![OutputColumns::Forward]);
    let native: Native = |x| {
        let kept: Vec<u32> = (0u32..)
            .zip(x)
            .filter(|(_, x)| **x > 2)
            .map(|(i, _)| i)
            .collect();
        let values = kept.iter().map(|i| -x[*i as usize]).collect();
        Ok(Outcome {
            rows: vec![rows(1, 0, column("y", values), kept)],
            ..Outcome::default()
        })
    };
    let port = crate::port_number(1, 0);
    let expected = [
        "mark 5",
        r#"3 {"name":"c","x":3,"y":-3}"#,
        "mark 7",
        r#"4 {"name":"d","x":4,"y":-4}"#,
        "mark 9",
    ];
    check(&[extend, filter], native, port, &expected);
}

fn fails_on_3(x: &[i64]) -> Result<Outcome, Failure> {
    if x.contains(&3) {
        return Err(Failure {
            error: Error::new(code::TRAP, "the plugin panicked"),
            backtrace: "at f".into(),
        });
    }
    let all = (0..x.len() as u32).collect();
    Ok(Outcome {
        rows: vec![rows(0, 0, None, all)],
        ..Outcome::default()
    })
}

#[test]
fn poison_is_left_out_with_everything_else_in_place() {
    let functions = [function(FunctionKind::Map, vec![OutputColumns::Forward])];
    for batch_rows in 1..=5 {
        let configuration = Configuration {
            poison_policy: PoisonPolicy::Skip,
            ..Configuration::default()
        };
        let mut harness = Harness::with(operator(&functions, fails_on_3), configuration).unwrap();
        harness.batches(&input(), batch_rows).unwrap();
        let expected = [
            r#"1 {"name":"a","x":1}"#,
            "mark 5",
            r#"2 {"name":"b","x":2}"#,
            "mark 7",
            r#"4 {"name":"d","x":4}"#,
            "mark 9",
        ];
        assert_eq!(harness.lines(0), expected, "batches of {batch_rows}");
        let letters = harness.dead_letters.lock().unwrap();
        let letter = &letters[0];
        assert_eq!(
            (
                letters.len(),
                letter.code,
                letter.backtrace.as_str(),
                letter.time_ms
            ),
            (1, "S4001", "at f", Some(3))
        );
        assert_eq!(
            (letter.position.as_str(), letter.record.as_str()),
            ("data/x.csv line 13", r#"{"name":"c","x":3}"#)
        );
    }
}

#[test]
fn a_failure_names_the_record() {
    let functions = [function(FunctionKind::Map, vec![OutputColumns::Forward])];
    let mut harness = Harness::new(operator(&functions, fails_on_3));
    let error = harness.batches(&input(), 1024).unwrap_err();
    assert_eq!(
        error.message(),
        "operator `op`: the plugin panicked (record at data/x.csv line 13)"
    );
    assert_eq!(
        std::error::Error::source(&error).unwrap().to_string(),
        "at f"
    );
}

#[test]
fn output_that_does_not_fit_is_refused() {
    let functions = || {
        [function(
            FunctionKind::Map,
            vec![OutputColumns::Extend { schema: added("y") }],
        )]
    };
    let check = |native: Native, expected: &str| {
        let mut harness = Harness::new(operator(&functions(), native));
        let error = harness.batches(&input(), 1).unwrap_err();
        assert_eq!(error.code().id, code::BAD_OUTPUT.id);
        assert!(error.message().contains(expected), "{error}");
    };
    check(
        |_| {
            Ok(Outcome {
                rows: vec![rows(0, 0, None, vec![0])],
                ..Outcome::default()
            })
        },
        "2 columns came where 3 were declared",
    );
    check(
        |_| {
            Ok(Outcome {
                rows: vec![rows(0, 0, column("y", vec![1]), vec![9])],
                ..Outcome::default()
            })
        },
        "an input row that is not there",
    );
    check(
        |_| {
            Ok(Outcome {
                rows: vec![rows(0, 3, column("y", vec![1]), vec![0])],
                ..Outcome::default()
            })
        },
        "on port 3, which leads nowhere",
    );
    check(
        |_| {
            Ok(Outcome {
                rows: vec![rows(0, 0, column("y", vec![1]), vec![0, 0])],
                ..Outcome::default()
            })
        },
        "are not those that were declared",
    );
}

#[test]
fn a_schema_that_does_not_fit_is_refused() {
    let message = |function: Function| {
        let chain = Box::new(NativeChain(|_: Invocation<'_>| Ok(Outcome::default())));
        TransformOperator::new(chain, &[function], &input().columns.schema())
            .err()
            .unwrap()
            .message()
            .to_owned()
    };
    let mut missing = function(FunctionKind::Map, vec![OutputColumns::Forward]);
    missing.input = vec![Field::new("z", DataType::I64)];
    assert_eq!(
        message(missing),
        "function `f` reads column `z` of type Int64, but its input has no such column"
    );
    let mut wrong = function(FunctionKind::Map, vec![OutputColumns::Forward]);
    wrong.input = vec![Field::new("name", DataType::I64)];
    assert_eq!(
        message(wrong),
        "function `f` reads column `name` of type Int64, but it has type Utf8"
    );
    let clash = function(
        FunctionKind::Map,
        vec![OutputColumns::Extend { schema: added("x") }],
    );
    assert_eq!(
        message(clash),
        "function `f`: the added column `x` is in the input already"
    );
}

#[test]
fn pieces_are_cut_between_rows_and_marks_and_lose_none() {
    let marks: Vec<Mark> = [(0, 1), (0, 2), (2, 3), (3, 4), (3, 5)]
        .map(|(row, watermark)| Mark { row, watermark })
        .to_vec();
    let piece = |rows, marks| Piece { rows, marks };
    let whole = piece(0..3, 0..5);
    assert_eq!(
        whole.split_rows(&marks, 1),
        Some((piece(0..1, 0..2), piece(1..3, 2..5)))
    );
    assert_eq!(
        whole.split_rows(&marks, 2),
        Some((piece(0..2, 0..2), piece(2..3, 2..5)))
    );
    assert_eq!(
        whole.split_rows(&marks, 9),
        whole.split_rows(&marks, 2),
        "the second part is not empty"
    );
    assert_eq!(piece(2..3, 2..5).split_rows(&marks, 1), None);
    assert_eq!(
        piece(2..3, 2..5).around_row(&marks),
        (piece(2..2, 2..3), piece(2..3, 3..3), piece(3..3, 3..5))
    );
    assert_eq!(
        piece(3..3, 3..5).split_marks(),
        Some((piece(3..3, 3..4), piece(3..3, 4..5)))
    );
    assert_eq!(piece(3..3, 3..4).split_marks(), None);
}

/// Sends every row a thousand times.
fn thousandfold(x: &[i64]) -> Result<Outcome, Failure> {
    let origin: Vec<u32> = (0..x.len() as u32)
        .flat_map(|row| vec![row; 1000])
        .collect();
    let values = origin.iter().map(|row| x[*row as usize]).collect();
    Ok(Outcome {
        rows: vec![rows(0, 0, column("y", values), origin)],
        ..Outcome::default()
    })
}

/// Counts rows, and keeps the size of the largest batch.
#[derive(Default)]
struct Sizes {
    n_rows: usize,
    bytes_max: usize,
    marks: Vec<i64>,
}

impl Output for Sizes {
    fn batch(&mut self, _: u16, batch: Batch) -> Result<()> {
        batch.check()?;
        self.n_rows += batch.n_rows();
        self.bytes_max = self.bytes_max.max(batch.n_bytes());
        self.marks
            .extend(batch.marks.iter().map(|mark| mark.watermark));
        Ok(())
    }
    fn watermark(&mut self, _: Watermark) -> Result<()> {
        Ok(())
    }
    fn status(&mut self, _: streamrt_types::Status) -> Result<()> {
        Ok(())
    }
    fn split(&mut self, _: crate::SplitEvent) -> Result<()> {
        Ok(())
    }
}

#[test]
fn what_a_call_makes_goes_out_in_pieces() {
    let functions = [function(
        FunctionKind::FlatMap,
        vec![OutputColumns::Replace { schema: added("y") }],
    )];
    let configuration = Configuration {
        batch_bytes: 10_000,
        ..Configuration::default()
    };
    let mut harness = Harness::with(operator(&functions, thousandfold), configuration).unwrap();
    let mut sizes = Sizes::default();
    harness.operator.batch(input(), &mut sizes).unwrap();
    assert_eq!((sizes.n_rows, sizes.marks), (4_000, vec![5, 7, 9]));
    assert!(sizes.bytes_max <= 10_000, "{}", sizes.bytes_max);
}

#[test]
fn a_call_that_repeats_too_much_of_its_input_is_cut() {
    // Four rows of 1,001 bytes and 8 of a number, a thousand times each, are 4 MB.
    let functions = [function(
        FunctionKind::FlatMap,
        vec![OutputColumns::Extend { schema: added("y") }],
    )];
    let wide = |batch: Batch| {
        let names: ArrayRef = Arc::new(StringArray::from_iter_values(
            (0..4).map(|_| "x".repeat(1_000)),
        ));
        let columns = RecordBatch::try_new(
            batch.columns.schema(),
            vec![names, batch.columns.column(1).clone()],
        )
        .unwrap();
        Batch { columns, ..batch }
    };
    let run = |output_bytes: usize| {
        let configuration = Configuration {
            plugin_output_bytes: output_bytes,
            ..Configuration::default()
        };
        let mut harness = Harness::with(operator(&functions, thousandfold), configuration).unwrap();
        let mut sizes = Sizes::default();
        harness
            .operator
            .batch(wide(input()), &mut sizes)
            .map(|()| sizes.n_rows)
    };
    assert_eq!(run(1_100_000).unwrap(), 4_000);
    let error = run(900_000).unwrap_err();
    assert_eq!(error.code().id, code::OUTPUT_LIMIT.id);
    assert!(error.message().contains("data/x.csv line 11"), "{error}");
}
