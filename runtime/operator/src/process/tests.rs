//! A keyed function in Rust against the applicable rules of Flink on timers and keyed state, for
//! every batch size.
//!
//! The guest below follows the script of the WIT as an SDK does: rows and marks in order, timers
//! from a heap.

mod collections;
mod sweep;
mod ttl;
mod user;

use self::user::*;
use super::*;
use crate::function::{Failure, Invocation, Outcome, RowsOut, StateOut, TimerOut};
use crate::harness::{Harness, NativeChain, batch_of};
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, ArrayRef, Int64Array, StringArray, UInt64Array};
use std::collections::BTreeSet;
use streamrt_types::{Configuration, PoisonPolicy, Times};
use streamrt_wit::codes::{NO_MARK, ORIGIN_TIMER, action, domain};
use streamrt_wit::{
    DataType, Field, FunctionKind, OutputColumns, OutputPort, StateKind, TtlUpdate, TtlVisibility,
};

fn field(name: &str) -> streamrt_wit::Schema {
    vec![Field::new(name, DataType::I64)]
}

fn state(kind: StateKind, name: &str) -> StateDescriptor {
    let key = if kind == StateKind::Map {
        field("key")
    } else {
        Vec::new()
    };
    StateDescriptor {
        name: name.into(),
        kind,
        key,
        value: field("v"),
        ttl_ms: None,
        ttl_update: TtlUpdate::default(),
        ttl_visibility: TtlVisibility::default(),
    }
}

/// Value state 0, list state 1, map state 2; output `y`.
fn function() -> Function {
    Function {
        number: 0,
        kind: FunctionKind::Process,
        name: "f".into(),
        input: field("x"),
        outputs: vec![OutputPort {
            name: String::new(),
            columns: OutputColumns::Replace { schema: field("y") },
        }],
        key: None,
        time: true,
        timers: true,
        states: vec![
            state(StateKind::Value, "sum"),
            state(StateKind::List, "list"),
            state(StateKind::Map, "map"),
        ],
        accumulator: None,
        grants: Vec::new(),
        second_input: Vec::new(),
    }
}

fn operator(user: impl User) -> KeyedProcessOperator {
    KeyedProcessOperator::new(
        guest(user),
        &[function()],
        &input(&[], &[]).columns.schema(),
        vec![0],
    )
    .unwrap()
}

/// Rows (key, x, time) and marks (row, watermark).
fn input(rows: &[(&str, i64, i64)], marks: &[(u32, i64)]) -> Batch {
    let mut batch = batch_of([
        (
            "k",
            Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0))) as ArrayRef,
        ),
        (
            "x",
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1))),
        ),
    ]);
    batch.times = Times::Array(rows.iter().map(|row| row.2).collect());
    batch.marks = marks
        .iter()
        .map(|&(row, watermark)| Mark { row, watermark })
        .collect();
    batch
}

fn check(user: impl User + Copy, batch: &Batch, expected: &[&str]) {
    for batch_rows in 1..=batch.n_rows() + 1 {
        let mut harness = Harness::new(operator(user));
        harness.batches(batch, batch_rows).unwrap();
        assert_eq!(harness.lines(0), expected, "batches of {batch_rows}");
    }
}

/// Adds x to the sum; at time + 10 emits and clears it.
#[derive(Clone, Copy)]
struct SumUntilTimer;

impl User for SumUntilTimer {
    fn row(&mut self, x: i64, context: &mut Context<'_>) -> Result<()> {
        *context.sum += x;
        context.register(10);
        context.register(10);
        Ok(())
    }
    fn timer(&mut self, time: i64, context: &mut Context<'_>) -> Result<()> {
        assert!(time <= context.watermark);
        let sum = *context.sum;
        context.emit(sum);
        *context.sum = 0;
        Ok(())
    }
}

#[test]
fn timers_fire_once_before_the_next_record_and_before_their_mark() {
    let rows = [
        ("b", 1, 0),
        ("a", 2, 1),
        ("b", 4, 2),
        ("a", 8, 3),
        ("b", 16, 4),
    ];
    // A row after mark 12 registers a timer in the past, which fires at the next advance: at 13.
    let expected = [
        "mark 9",
        r#"10 {"y":2}"#,
        r#"10 {"y":5}"#,
        "mark 12",
        r#"10 {"y":8}"#,
        r#"10 {"y":16}"#,
        "mark 13",
    ];
    check(
        SumUntilTimer,
        &input(&rows, &[(1, 9), (3, 12), (5, 13)]),
        &expected,
    );
}

#[test]
fn a_watermark_outside_of_batches_fires_and_then_passes() {
    let mut harness = Harness::new(operator(SumUntilTimer));
    harness.batches(&input(&[("a", 3, 0)], &[]), 1).unwrap();
    harness.watermark(9).unwrap();
    assert_eq!(
        (harness.lines(0).len(), harness.common()),
        (0, &["watermark 9".to_owned()][..])
    );
    harness.watermark(10).unwrap();
    harness.watermark(11).unwrap();
    assert_eq!(harness.lines(0), [r#"10 {"y":3}"#]);
    assert_eq!(
        harness.common(),
        ["watermark 9", "watermark 10", "watermark 11"]
    );
}

/// x > 0 registers a timer at x, x < 0 deletes the one at -x; a timer at an even time registers the
/// next odd one.
#[derive(Clone, Copy)]
struct Chaining;

impl User for Chaining {
    fn row(&mut self, x: i64, context: &mut Context<'_>) -> Result<()> {
        if x > 0 {
            context.register(x)
        } else {
            context.delete(-x)
        }
        Ok(())
    }
    fn timer(&mut self, time: i64, context: &mut Context<'_>) -> Result<()> {
        context.emit(time);
        if time % 2 == 0 {
            context.register(time + 1);
        }
        Ok(())
    }
}

#[test]
fn callbacks_add_timers_to_the_same_sweep_and_deleted_ones_do_not_fire() {
    let rows = [
        ("a", 4, 0),
        ("a", 6, 0),
        ("a", 20, 0),
        ("b", 4, 0),
        ("a", -6, 0),
        ("b", 30, 0),
    ];
    let batch = input(&rows, &[(5, 10), (6, 25)]);
    let expected = [
        r#"4 {"y":4}"#,
        r#"4 {"y":4}"#,
        r#"5 {"y":5}"#,
        r#"5 {"y":5}"#,
        "mark 10",
        r#"20 {"y":20}"#,
        r#"21 {"y":21}"#,
        "mark 25",
    ];
    check(Chaining, &batch, &expected);
}

/// A row asks for the clock at x; a timer emits the time of the clock.
#[derive(Clone, Copy)]
struct Clocked;

impl User for Clocked {
    fn row(&mut self, x: i64, context: &mut Context<'_>) -> Result<()> {
        context.change(x, domain::PROCESSING_TIME, action::REGISTER);
        Ok(())
    }
    fn timer(&mut self, _: i64, context: &mut Context<'_>) -> Result<()> {
        let now = context.processing_time;
        context.emit(now);
        Ok(())
    }
}

#[test]
fn processing_time_timers_go_by_the_clock() {
    let mut harness = Harness::new(operator(Clocked));
    harness
        .batches(
            &input(
                &[("a", 100, 0), ("b", 50, 0), ("b", 100, 0), ("b", 50, 0)],
                &[(4, 1_000)],
            ),
            4,
        )
        .unwrap();
    assert_eq!(harness.operator.next_processing_time(), Some(50));
    harness.processing_time(49).unwrap();
    harness.processing_time(60).unwrap();
    assert_eq!(harness.operator.next_processing_time(), Some(100));
    harness.processing_time(200).unwrap();
    assert_eq!(
        harness.lines(0),
        [
            "mark 1000",
            r#"50 {"y":60}"#,
            r#"100 {"y":200}"#,
            r#"100 {"y":200}"#
        ]
    );
    assert_eq!(harness.operator.next_processing_time(), None);
}

/// A row asks for the clock at x; a timer emits its time, and asks for a second later.
#[derive(Clone, Copy)]
struct Again;

impl User for Again {
    fn row(&mut self, x: i64, context: &mut Context<'_>) -> Result<()> {
        context.change(x, domain::PROCESSING_TIME, action::REGISTER);
        Ok(())
    }
    fn timer(&mut self, time: i64, context: &mut Context<'_>) -> Result<()> {
        context.emit(time);
        context.change(time + 1000, domain::PROCESSING_TIME, action::REGISTER);
        Ok(())
    }
}

#[test]
fn timers_of_the_clock_fire_at_the_end_and_what_they_register_is_dropped() {
    let at_the_end = |fires: bool| {
        let mut harness = Harness::new(operator(Again));
        harness
            .batches(
                &input(&[("a", 100, 0), ("b", 50, 0), ("b", 100, 0)], &[]),
                4,
            )
            .unwrap();
        harness.end_of_time(fires).unwrap();
        let dropped = harness
            .context
            .metrics
            .dropped_at_end
            .load(std::sync::atomic::Ordering::Relaxed);
        (
            harness
                .lines(0)
                .into_iter()
                .map(str::to_owned)
                .collect::<Vec<_>>(),
            dropped,
        )
    };
    let fired = [r#"50 {"y":50}"#, r#"100 {"y":100}"#, r#"100 {"y":100}"#]
        .map(str::to_owned)
        .to_vec();
    assert_eq!(at_the_end(true), (fired, 3));
    assert_eq!(at_the_end(false), (Vec::new(), 3));
}

/// Timers at times divisible by 5 fail, and so do rows.
#[derive(Clone, Copy)]
struct FailsOnFives;

impl User for FailsOnFives {
    fn row(&mut self, x: i64, context: &mut Context<'_>) -> Result<()> {
        *context.sum += 1;
        context.register(x);
        if x % 5 == 0 && x < 100 {
            Err(Error::new(code::TRAP, "row of five"))
        } else {
            Ok(())
        }
    }
    fn timer(&mut self, time: i64, context: &mut Context<'_>) -> Result<()> {
        let sum = *context.sum;
        context.emit(sum);
        if time % 5 == 0 {
            Err(Error::new(code::TRAP, "timer of five"))
        } else {
            Ok(())
        }
    }
}

#[test]
fn failing_rows_and_timers_are_found_and_left_out() {
    let rows = [
        ("a", 101, 0),
        ("a", 10, 1),
        ("b", 105, 2),
        ("b", 106, 3),
        ("a", 107, 4),
    ];
    for batch_rows in 1..=6 {
        let configuration = Configuration {
            poison_policy: PoisonPolicy::Skip,
            ..Configuration::default()
        };
        let mut harness = Harness::with(operator(FailsOnFives), configuration).unwrap();
        harness
            .batches(&input(&rows, &[(2, 50), (4, 104), (5, 200)]), batch_rows)
            .unwrap();
        assert_eq!(
            harness.lines(0),
            [
                "mark 50",
                r#"101 {"y":1}"#,
                "mark 104",
                r#"106 {"y":2}"#,
                r#"107 {"y":2}"#,
                "mark 200"
            ]
        );
        let letters = harness.dead_letters.lock().unwrap();
        let what: Vec<_> = letters
            .iter()
            .map(|letter| (letter.key.as_str(), letter.record.as_str(), letter.time_ms))
            .collect();
        let expected = [
            (r#"{"k":"a"}"#, r#"{"k":"a","x":10}"#, Some(1)),
            (r#"{"k":"b"}"#, r#"{"timer":105}"#, Some(105)),
        ];
        assert_eq!(what, expected, "batches of {batch_rows}");
    }
}

#[test]
fn a_failing_timer_names_its_key_and_time() {
    let mut harness = Harness::new(operator(FailsOnFives));
    let error = harness
        .batches(&input(&[("b", 105, 2)], &[(1, 200)]), 1)
        .unwrap_err();
    assert_eq!(
        error.message(),
        r#"operator `op`: timer of five (timer at 105 ms, key {"k":"b"})"#
    );
}

#[test]
fn slots_show_the_key_columns_that_were_asked_for() {
    let mut asks = function();
    asks.key = Some(vec![Field::new("id", DataType::U64)]);
    asks.input = Vec::new();
    let chain = NativeChain(|call: Invocation<'_>| {
        let slots = call.slots.unwrap();
        let keys = slots.keys.unwrap();
        let rows = call.rows.unwrap().slots.unwrap().to_vec();
        let n_rows = rows.len();
        assert!(slots.n_slots <= n_rows);
        assert_eq!(
            (keys.num_columns(), keys.column(0).len()),
            (1, slots.n_slots)
        );
        let columns =
            arrow_select::take::take_record_batch(&keys, &arrow_array::UInt32Array::from(rows))
                .unwrap();
        let as_signed = columns
            .column(0)
            .as_primitive::<arrow_array::types::UInt64Type>()
            .values()
            .iter()
            .map(|&id| id as i64);
        let columns = Some(
            batch_of([("y", Arc::new(as_signed.collect::<Int64Array>()) as ArrayRef)]).columns,
        );
        Ok(Outcome {
            rows: vec![RowsOut {
                function: 0,
                port: 0,
                n_rows,
                columns,
                origin: None,
            }],
            ..Outcome::default()
        })
    });
    let batch = batch_of([("id", Arc::new(UInt64Array::from(vec![8, 3, 8])) as ArrayRef)]);
    let mut harness = Harness::new(
        KeyedProcessOperator::new(Box::new(chain), &[asks], &batch.columns.schema(), vec![0])
            .unwrap(),
    );
    // The second call has all three rows.
    (0..2).for_each(|_| harness.batches(&batch, 3).unwrap());
    assert_eq!(
        harness.lines(0)[3..],
        [r#"- {"y":8}"#, r#"- {"y":3}"#, r#"- {"y":8}"#]
    );
}

#[test]
fn what_cannot_be_kept_is_refused_at_once() {
    let schema = input(&[], &[]).columns.schema();
    let mut asks = function();
    asks.key = Some(field("x"));
    let error = KeyedProcessOperator::new(guest(Clocked), &[asks], &schema, vec![0])
        .err()
        .unwrap();
    assert_eq!(
        error.message(),
        "function `f` wants key column `x`, which is not in the key of its input"
    );
}

#[test]
fn a_null_key_is_an_error_that_names_the_operator() {
    let batch = batch_of([
        (
            "k",
            Arc::new(StringArray::from(vec![Some("a"), None])) as ArrayRef,
        ),
        ("x", Arc::new(Int64Array::from(vec![1, 2]))),
    ]);
    let mut harness = Harness::new(operator(Clocked));
    let error = harness.batches(&batch, 2).unwrap_err();
    assert_eq!(error.message(), "operator `op`: key column `k` is null");
}

/// A row of 13 never comes back.
#[derive(Clone, Copy)]
struct Hangs;

impl User for Hangs {
    fn row(&mut self, x: i64, context: &mut Context<'_>) -> Result<()> {
        context.register(x);
        context.emit(x);
        if x == 13 {
            Err(Error::new(
                code::DEADLINE,
                "the plugin did not return within 5000 ms",
            ))
        } else {
            Ok(())
        }
    }
    fn timer(&mut self, time: i64, context: &mut Context<'_>) -> Result<()> {
        context.emit(-time);
        Ok(())
    }
}

#[test]
fn a_row_that_hangs_is_found_also_alone_between_marks() {
    let alone = input(&[("a", 13, 1)], &[(0, 5), (1, 20)]);
    let error = Harness::new(operator(Hangs))
        .batches(&alone, 1)
        .unwrap_err();
    assert_eq!(
        error.message(),
        r#"operator `op`: the plugin did not return within 5000 ms (record {"k":"a","x":13}, key {"k":"a"})"#
    );
    assert_eq!(error.code().id, code::DEADLINE.id);
    let rows = [("a", 6, 0), ("a", 13, 1), ("b", 7, 2)];
    for batch_rows in 1..=4 {
        let configuration = Configuration {
            poison_policy: PoisonPolicy::Skip,
            ..Configuration::default()
        };
        let mut harness = Harness::with(operator(Hangs), configuration).unwrap();
        harness
            .batches(&input(&rows, &[(1, 5), (2, 8), (3, 9)]), batch_rows)
            .unwrap();
        let expected = [
            r#"0 {"y":6}"#,
            "mark 5",
            r#"6 {"y":-6}"#,
            "mark 8",
            r#"2 {"y":7}"#,
            r#"7 {"y":-7}"#,
            "mark 9",
        ];
        assert_eq!(harness.lines(0), expected, "batches of {batch_rows}");
        assert_eq!(harness.dead_letters.lock().unwrap().len(), 1);
    }
}
