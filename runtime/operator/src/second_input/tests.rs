//! Broadcast-process functions in Rust: what each input may do, what rolls back, and that marks of
//! the second input fire timers.

use super::*;
use crate::function::{RowsOut, TimerOut};
use crate::harness::{Harness, NativeChain, batch_of};
use crate::operator::Operator;
use crate::{KeyedProcessOperator, TransformOperator};
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use std::sync::Arc;
use streamrt_state::{OperatorState, Part as SnapshotPart, Share};
use streamrt_types::{Configuration, KeyGroupRange, Mark, PoisonPolicy, Times};
use streamrt_wit::codes::{NO_MARK, action, domain};
use streamrt_wit::{
    DataType, Field, FunctionKind, OutputPort, StateDescriptor, StateKind, TtlUpdate, TtlVisibility,
};

fn field(name: &str) -> streamrt_wit::Schema {
    vec![Field::new(name, DataType::I64)]
}

fn function(keyed: bool) -> Function {
    let (ttl_update, ttl_visibility) = (TtlUpdate::default(), TtlVisibility::default());
    let rules = StateDescriptor {
        name: "rules".into(),
        kind: StateKind::Broadcast,
        key: field("k"),
        value: field("v"),
        ttl_ms: None,
        ttl_update,
        ttl_visibility,
    };
    Function {
        number: 0,
        kind: FunctionKind::BroadcastProcess,
        name: "f".into(),
        input: field("x"),
        outputs: vec![OutputPort {
            name: String::new(),
            columns: OutputColumns::Replace { schema: field("y") },
        }],
        key: keyed.then(Vec::new),
        time: true,
        timers: keyed,
        states: vec![rules],
        accumulator: None,
        grants: Vec::new(),
        second_input: field("rule"),
    }
}

/// Rows (value, time) in a column, and marks (row, watermark).
fn batch(name: &str, rows: &[(i64, i64)], marks: &[(u32, i64)]) -> Batch {
    let mut batch = batch_of([(
        name,
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0))) as ArrayRef,
    )]);
    batch.times = Times::Array(rows.iter().map(|row| row.1).collect());
    batch.marks = marks
        .iter()
        .map(|&(row, watermark)| Mark { row, watermark })
        .collect();
    batch
}

fn pair(key: i64, value: i64) -> RecordBatch {
    let column = |n: i64| Arc::new(Int64Array::from(vec![n])) as ArrayRef;
    batch_of([("k", column(key)), ("v", column(value))]).columns
}

fn registered(slot: u32, time: i64) -> TimerOut {
    TimerOut {
        slot,
        time,
        domain: domain::EVENT_TIME,
        action: action::REGISTER,
        mark: NO_MARK,
    }
}

/// A rule r is put under r, and all of them together are sent; a row x sends the sum of rules and
/// x, or for 99 writes a rule. A rule of 13 writes and fails; one of 14 registers a timer. With
/// timers, x registers one at x; a timer sends its time.
fn user(invocation: Invocation<'_>) -> Result<Outcome, Failure> {
    let Invocation {
        call,
        rows,
        timers,
        access,
        ..
    } = invocation;
    let rows = rows.expect("a call has rows");
    let (mut sent, mut origin, mut reports) = (Vec::new(), Vec::new(), Vec::new());
    for (row, &value) in (0u32..).zip(rows.columns.column(0).as_primitive::<Int64Type>().values()) {
        if call == Call::SecondInput || value == 99 {
            access.put(0, &[0], &[action::SET], &pair(value, value))?;
        }
        let (entries, _) = access.scan(0, 0, &[], 100)?;
        let rules: i64 = entries
            .column(1)
            .as_primitive::<Int64Type>()
            .values()
            .iter()
            .sum();
        sent.push(if call == Call::SecondInput {
            rules
        } else {
            rules + value
        });
        origin.push(row);
        match (call, rows.slots) {
            (Call::SecondInput, _) if value == 13 => {
                return Err(Error::new(code::USER_ERROR, "thirteen is refused").into());
            }
            (Call::SecondInput, _) if value == 14 => reports.push(registered(0, 5)),
            (Call::Process, Some(slots)) => reports.push(registered(slots[row as usize], value)),
            _ => {}
        }
    }
    for (number, timer) in (0u32..).zip(timers) {
        sent.push(timer.time);
        origin.push(streamrt_wit::codes::ORIGIN_TIMER + number);
        reports.insert(
            number as usize,
            TimerOut {
                slot: timer.slot,
                time: timer.time,
                domain: timer.domain,
                action: action::FIRED,
                mark: 0,
            },
        );
    }
    let columns = Some(batch_of([("y", Arc::new(Int64Array::from(sent)) as ArrayRef)]).columns);
    let rows = vec![RowsOut {
        function: 0,
        port: 0,
        n_rows: origin.len(),
        columns,
        origin: Some(origin),
    }];
    Ok(Outcome {
        rows,
        timers: reports,
        ..Outcome::default()
    })
}

fn keyed() -> KeyedProcessOperator {
    let (functions, schema) = ([function(true)], batch("x", &[], &[]).columns.schema());
    let operator =
        KeyedProcessOperator::new(Box::new(NativeChain(user)), &functions, &schema, vec![0])
            .unwrap();
    operator
        .with_second_input(&functions, &batch("rule", &[], &[]).columns.schema())
        .unwrap()
}

fn without_key() -> TransformOperator {
    let (functions, schema) = ([function(false)], batch("x", &[], &[]).columns.schema());
    let operator =
        TransformOperator::new(Box::new(NativeChain(user)), &functions, &schema).unwrap();
    operator
        .with_second_input(&functions, &batch("rule", &[], &[]).columns.schema())
        .unwrap()
}

fn skipping<O: Operator>(operator: O) -> Harness<O> {
    Harness::with(
        operator,
        Configuration {
            poison_policy: PoisonPolicy::Skip,
            ..Configuration::default()
        },
    )
    .unwrap()
}

fn check(mut harness: Harness<impl Operator>) {
    harness
        .second_input(batch("rule", &[(1, 10), (13, 11), (2, 12)], &[]))
        .unwrap();
    assert_eq!(harness.lines(0), [r#"10 {"y":1}"#, r#"12 {"y":3}"#]);
    harness
        .batches(&batch("x", &[(100, 20), (99, 21), (200, 22)], &[]), 3)
        .unwrap();
    assert_eq!(
        harness.lines(0)[2..],
        [r#"20 {"y":103}"#, r#"22 {"y":203}"#]
    );
    let letters = harness.dead_letters.lock().unwrap();
    assert_eq!(
        (letters.len(), letters[0].message.as_str()),
        (2, "thirteen is refused")
    );
    assert!(
        letters[1]
            .message
            .contains("only rows of the second input may write it"),
        "{}",
        letters[1].message
    );
}

#[test]
fn the_second_input_writes_the_first_reads_and_what_fails_is_undone() {
    check(skipping(keyed()));
    check(skipping(without_key()));
}

#[test]
fn marks_of_the_second_input_fire_the_timers_of_keys() {
    let mut harness = Harness::new(keyed());
    harness
        .batches(&batch("x", &[(7, 0), (30, 0)], &[]), 1)
        .unwrap();
    harness
        .second_input(batch("rule", &[(1, 10), (2, 11)], &[(1, 8), (2, 9)]))
        .unwrap();
    let expected = [
        r#"0 {"y":7}"#,
        r#"0 {"y":30}"#,
        r#"10 {"y":1}"#,
        r#"7 {"y":7}"#,
        r#"11 {"y":3}"#,
    ];
    assert_eq!(harness.lines(0), expected);
    assert_eq!(harness.common(), ["watermark 8", "watermark 9"]);
}

#[test]
fn a_timer_from_the_second_input_is_refused() {
    let mut harness = Harness::new(keyed());
    let error = harness
        .second_input(batch("rule", &[(14, 10)], &[]))
        .unwrap_err();
    assert!(
        error
            .message()
            .contains("timers or state by key came back for broadcast rows"),
        "{}",
        error.message()
    );
}

#[test]
fn outputs_that_forward_are_refused() {
    let mut forwards = function(false);
    forwards.outputs[0].columns = OutputColumns::Forward;
    let error = SecondInput::new(&[forwards], &batch("rule", &[], &[]).columns.schema())
        .err()
        .unwrap();
    assert_eq!(
        error.message(),
        "function `f` has two inputs, so its outputs must replace the columns"
    );
}

/// The rules of an operator, in subtask `subtask` of 3 after a restart.
fn restored(
    object: &Arc<Vec<u8>>,
    index: &streamrt_state::OperatorIndex,
    subtask: u32,
) -> Harness<TransformOperator> {
    let share = Share {
        subtask,
        parallelism: 3,
        key_groups: KeyGroupRange::all(16),
        max_parallelism: 16,
    };
    let mut state = OperatorState::assemble(
        "op",
        &[Some(SnapshotPart {
            object: object.clone(),
            index: index.clone(),
        })],
        share,
    )
    .unwrap();
    let mut harness = Harness::new(without_key());
    harness.operator.restore(&mut state).unwrap();
    state.check_taken().unwrap();
    harness
}

#[test]
fn every_subtask_starts_again_with_a_copy() {
    let mut before = Harness::new(without_key());
    before
        .second_input(batch("rule", &[(1, 10), (2, 11)], &[]))
        .unwrap();
    let mut object = Vec::new();
    let index = before
        .operator
        .snapshot(1)
        .unwrap()
        .write("op", 16, &mut object);
    let object = Arc::new(object);
    for subtask in 0..3 {
        let mut after = restored(&object, &index, subtask);
        after.batches(&batch("x", &[(100, 0)], &[]), 1).unwrap();
        assert_eq!(after.lines(0), [r#"0 {"y":103}"#]);
    }
}
