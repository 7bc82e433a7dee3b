//! The timestamps operator: times in each unit and from functions, and what splits and the clock do
//! to its watermarks.

use super::*;
use std::time::Duration;
use streamrt_operator::harness::Harness;
use streamrt_operator::{
    Failure, FunctionChain, Invocation, Operator, Outcome, RowsOut, SplitEvent,
};
use streamrt_types::{Configuration, Mark, Origin, PoisonPolicy, Rows, code};
use streamrt_wit::{DataType as Type, Field as PlanField, Function, FunctionKind};

const BOUNDED: Generator = Generator::Bounded { bound_ms: 2 };

pub(super) fn by_column(unit: TimeUnit, idle_ms: Option<u64>) -> TimestampsOperator {
    let time = TimeSource::Column {
        column: "time".into(),
        unit,
    };
    TimestampsOperator::new(&time, &BOUNDED, idle_ms, &input_schema(), None).unwrap()
}

pub(super) fn of_split(split: u64, times: &[i64]) -> Batch {
    let input: Vec<(i64, i64)> = times.iter().map(|&time| (0, time)).collect();
    let origin = Origin {
        split: "clicks.csv".into(),
        split_number: split,
        rows: Rows::Range { first: 1 },
    };
    Batch {
        origin: Some(origin),
        ..Batch::new(rows(&input))
    }
}

/// Times and marks of port 0, without the rows.
fn lines(harness: &Harness<TimestampsOperator>) -> Vec<String> {
    harness
        .lines(0)
        .iter()
        .map(|line| line.split(" {").next().unwrap_or("").to_owned())
        .collect()
}

fn check_unit(unit: TimeUnit, times: &[i64], expected: &[&str]) {
    for batch_rows in BATCH_ROWS {
        let mut harness = Harness::new(by_column(unit, None));
        harness.batches(&of_split(0, times), batch_rows).unwrap();
        assert_eq!(lines(&harness), expected);
    }
}

#[test]
fn times_are_ms_whatever_the_unit_of_the_column() {
    check_unit(
        TimeUnit::Milliseconds,
        &[5, 4, 9],
        &["5", "mark 2", "4", "9", "mark 6"],
    );
    check_unit(
        TimeUnit::Seconds,
        &[-1, 2],
        &["-1000", "mark -1003", "2000", "mark 1997"],
    );
    check_unit(
        TimeUnit::Microseconds,
        &[-1, 1999],
        &["-1", "mark -4", "1", "mark -2"],
    );
}

#[test]
fn a_time_that_no_window_reaches_is_an_error_with_its_position() {
    let error = Harness::new(by_column(TimeUnit::Seconds, None))
        .batches(&of_split(0, &[1, i64::MAX / 999]), 8)
        .unwrap_err();
    assert_eq!(error.code().id, code::TIME_RANGE.id);
    assert!(
        error
            .message()
            .starts_with("operator `op`: clicks.csv line 2: "),
        "{error}"
    );
}

#[test]
fn a_time_that_no_window_reaches_is_left_out_where_poison_is_skipped() {
    let configuration = Configuration {
        poison_policy: PoisonPolicy::Skip,
        ..Configuration::default()
    };
    let mut harness =
        Harness::with(by_column(TimeUnit::Milliseconds, None), configuration).unwrap();
    harness
        .batches(&of_split(0, &[5, i64::MAX, 9, i64::MIN]), 8)
        .unwrap();
    assert_eq!(lines(&harness), ["5", "mark 2", "9", "mark 6"]);
    let positions: Vec<String> = harness
        .dead_letters
        .lock()
        .unwrap()
        .iter()
        .map(|letter| letter.position.clone())
        .collect();
    assert_eq!(positions, ["clicks.csv line 2", "clicks.csv line 4"]);
}

#[test]
fn a_null_time_is_an_error_with_operator_and_position() {
    let schema = Arc::new(Schema::new(vec![Field::new("time", DataType::Int64, true)]));
    let columns = RecordBatch::try_new(
        schema.clone(),
        vec![Arc::new(Int64Array::from(vec![Some(1), None]))],
    )
    .unwrap();
    let time = TimeSource::Column {
        column: "time".into(),
        unit: TimeUnit::Milliseconds,
    };
    let operator = TimestampsOperator::new(&time, &BOUNDED, None, &schema, None).unwrap();
    let batch = Batch {
        origin: of_split(0, &[]).origin,
        ..Batch::new(columns)
    };
    let error = Harness::new(operator).batches(&batch, 8).unwrap_err();
    assert_eq!(
        (error.code().id, error.message()),
        (
            code::NO_EVENT_TIME.id,
            "operator `op`: clicks.csv line 2 has no event time"
        )
    );
}

/// Feeds splits and events to an operator, and compares everything that comes out in order.
fn check_splits(steps: &[(SplitStep, &[&str])]) {
    let (context, _) = context();
    let mut chain = OperatorChain::new();
    chain.push(
        Box::new(by_column(TimeUnit::Milliseconds, None)),
        context,
        vec![(0, Target::Exit(0))],
    );
    chain.open().unwrap();
    for (step, expected) in steps {
        let mut recorder = Recorder::default();
        match step {
            SplitStep::Event(event) => chain
                .head(&mut recorder, &mut |operator, output| {
                    operator.split(*event, output)
                })
                .unwrap(),
            SplitStep::Rows(split, times) => {
                feed(&mut chain, &mut recorder, of_split(*split, times))
            }
        }
        assert_eq!(recorder.main(), *expected, "{step:?}");
    }
}

#[derive(Debug)]
enum SplitStep {
    Event(SplitEvent),
    Rows(u64, &'static [i64]),
}

#[test]
fn generators_run_per_split_and_the_minimum_over_known_unfinished_ones_goes_out() {
    use SplitEvent::{Finished, Known};
    use SplitStep::{Event, Rows};
    check_splits(&[
        (Event(Known { number: 0 }), &[]),
        (Event(Known { number: 1 }), &[]),
        (Rows(0, &[10, 20]), &["+ 0 10 @10", "+ 0 20 @20"]),
        (Rows(1, &[5, 8]), &["+ 0 5 @5", "w 2", "+ 0 8 @8", "w 5"]),
        (Event(Finished { number: 1 }), &["w 17"]),
        (Rows(0, &[30]), &["+ 0 30 @30", "w 27"]),
        (Event(Finished { number: 0 }), &[]),
        (Event(Known { number: 2 }), &[]),
        (Rows(2, &[4, 40]), &["+ 0 4 @4", "+ 0 40 @40", "w 37"]),
    ]);
}

#[test]
fn a_silent_split_leaves_the_minimum_all_idle_emits_the_maximum_once_then_idle_and_active_comes_before_rows()
 {
    let mut harness = Harness::new(by_column(TimeUnit::Milliseconds, Some(100)));
    assert_eq!(harness.operator.next_processing_time(), None);
    harness.batches(&of_split(0, &[10]), 8).unwrap();
    harness.clock.set_ms(60);
    harness.batches(&of_split(1, &[50]), 8).unwrap();
    assert_eq!(harness.common(), [] as [String; 0]);
    harness.processing_time(100).unwrap();
    assert_eq!(harness.common(), ["watermark 47"]);
    harness.processing_time(160).unwrap();
    harness.processing_time(900).unwrap();
    assert_eq!(harness.common(), ["watermark 47", "status Idle"]);
    harness.batches(&of_split(0, &[70]), 8).unwrap();
    assert_eq!(
        harness.common(),
        ["watermark 47", "status Idle", "status Active"]
    );
    assert_eq!(lines(&harness), ["10", "mark 7", "50", "70", "mark 67"]);
}

#[test]
fn an_idle_input_is_told_by_its_reader_and_not_behind_an_exchange() {
    for (has_reader, expected) in [
        (true, ["Idle", "Active", "w 7"].as_slice()),
        (false, &["Active", "w 7"]),
    ] {
        let mut recorder = Recorder::default();
        let (context, _) = context();
        let mut chain = OperatorChain::new();
        chain.push(
            Box::new(by_column(TimeUnit::Milliseconds, None)),
            context,
            vec![(0, Target::Exit(0))],
        );
        chain.open().unwrap();
        let mut head = |call: &mut dyn FnMut(
            &mut dyn Operator,
            &mut dyn streamrt_operator::Output,
        ) -> Result<()>| { chain.head(&mut recorder, call).unwrap() };
        if has_reader {
            head(&mut |operator, output| operator.split(SplitEvent::Reader, output));
        }
        head(&mut |operator, output| operator.status(Status::Idle, output));
        head(&mut |operator, output| operator.status(Status::Active, output));
        head(&mut |operator, output| operator.batch(of_split(0, &[10]), output));
        let lines: Vec<&str> = recorder
            .main()
            .iter()
            .map(String::as_str)
            .filter(|line| !line.starts_with('+'))
            .collect();
        assert_eq!(lines, expected);
    }
}

#[test]
fn a_clock_that_is_set_makes_nothing_idle() {
    const HOUR_MS: i64 = 3_600_000;
    let mut harness = Harness::new(by_column(TimeUnit::Milliseconds, Some(100)));
    harness.batches(&of_split(0, &[10]), 8).unwrap();
    for ahead_ms in [HOUR_MS, -HOUR_MS, 0, HOUR_MS] {
        harness.clock.set_ahead_ms(ahead_ms);
        let due = harness.operator.next_processing_time();
        assert_eq!(due, Some(ahead_ms + 100), "the wait is as long as before");
    }
    // It was set between the query and the call.
    harness.clock.set_ms(99);
    harness
        .operator
        .processing_time(99 + HOUR_MS, &mut Nowhere)
        .unwrap();
    harness.clock.set_ahead_ms(-HOUR_MS);
    harness.processing_time(100).unwrap();
    assert_eq!(harness.common(), ["status Idle"]);
}

/// Takes nothing.
struct Nowhere;

impl streamrt_operator::Output for Nowhere {
    fn batch(&mut self, _: u16, _: Batch) -> Result<()> {
        panic!("nothing is to be sent")
    }
    fn watermark(&mut self, _: Watermark) -> Result<()> {
        panic!("nothing is to be sent")
    }
    fn status(&mut self, _: Status) -> Result<()> {
        panic!("nothing is to be sent")
    }
    fn split(&mut self, _: SplitEvent) -> Result<()> {
        panic!("nothing is to be sent")
    }
}

/// The harness' clock stands at 0, so 50 ms ahead is the limit.
fn with_limit(make: fn() -> TimestampsOperator) -> Harness<TimestampsOperator> {
    Harness::with(
        make(),
        Configuration {
            watermark_max_ahead_ms: Some(50),
            ..Configuration::default()
        },
    )
    .unwrap()
}

#[test]
fn a_row_too_far_in_the_future_raises_no_watermark_and_is_counted() {
    let late = |harness: &Harness<TimestampsOperator>| {
        harness
            .context
            .metrics
            .late_records
            .load(std::sync::atomic::Ordering::Relaxed)
    };
    for batch_rows in BATCH_ROWS {
        let mut harness = with_limit(|| by_column(TimeUnit::Milliseconds, None));
        harness
            .batches(&of_split(0, &[10, 4_000_000, 12, 50, 51]), batch_rows)
            .unwrap();
        assert_eq!(
            lines(&harness),
            [
                "10", "mark 7", "4000000", "12", "mark 9", "50", "mark 47", "51"
            ]
        );
        assert_eq!(late(&harness), 2);
        // The watermark of such a row as well as that of the function.
        let mut harness = with_limit(punctuated);
        harness
            .batches(&Batch::new(rows(&[(2, 3), (2, 40), (2, 4)])), batch_rows)
            .unwrap();
        assert_eq!(lines(&harness), ["6", "mark 6", "80", "8", "mark 8"]);
        assert_eq!(late(&harness), 1);
    }
}

#[test]
fn a_null_time_is_left_out_where_poison_is_skipped() {
    let schema = Arc::new(Schema::new(vec![Field::new("time", DataType::Int64, true)]));
    let times = vec![Some(5), None, Some(9), None];
    let columns =
        RecordBatch::try_new(schema.clone(), vec![Arc::new(Int64Array::from(times))]).unwrap();
    let batch = Batch {
        origin: of_split(0, &[]).origin,
        ..Batch::new(columns)
    };
    let configuration = || Configuration {
        poison_policy: PoisonPolicy::Skip,
        ..Configuration::default()
    };
    let time = TimeSource::Column {
        column: "time".into(),
        unit: TimeUnit::Milliseconds,
    };
    for batch_rows in BATCH_ROWS {
        let operator = TimestampsOperator::new(&time, &BOUNDED, None, &schema, None).unwrap();
        let mut harness = Harness::with(operator, configuration()).unwrap();
        harness.batches(&batch, batch_rows).unwrap();
        assert_eq!(lines(&harness), ["5", "mark 2", "9", "mark 6"]);
        let letters = harness.dead_letters.lock().unwrap();
        let found: Vec<_> = letters
            .iter()
            .map(|letter| (letter.code, letter.position.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                ("S5001", "clicks.csv line 2"),
                ("S5001", "clicks.csv line 4")
            ]
        );
    }
}

#[test]
fn only_the_final_watermark_passes() {
    let mut harness = Harness::new(by_column(TimeUnit::Milliseconds, None));
    let marked = Batch {
        marks: vec![Mark {
            row: 0,
            watermark: 99,
        }],
        ..of_split(0, &[5])
    };
    harness.batches(&marked, 8).unwrap();
    harness.watermark(50).unwrap();
    harness.watermark(WATERMARK_MAX).unwrap();
    assert_eq!(
        (lines(&harness), harness.common()),
        (
            vec!["5".into(), "mark 2".into()],
            &[format!("watermark {WATERMARK_MAX}")][..]
        )
    );
}

/// Time is column `time`, times two; the watermark is the time of rows with an even key. A time of
/// 13 is refused.
struct Punctuated;

impl FunctionChain for Punctuated {
    fn invoke(
        &mut self,
        invocation: Invocation<'_>,
        _: Duration,
    ) -> std::result::Result<Outcome, Failure> {
        let rows = invocation.rows.unwrap();
        let (times, keys) = (longs(rows.columns.column(0)), longs(rows.columns.column(1)));
        if times.contains(&13) {
            return Err(streamrt_types::Error::new(code::USER_ERROR, "boom").into());
        }
        let watermark = |(time, key): (&i64, &i64)| (key % 2 == 0).then_some(time * 2);
        let watermarks = Int64Array::from_iter(times.iter().zip(keys).map(watermark));
        let times = Int64Array::from_iter_values(times.iter().map(|time| time * 2));
        let columns = RecordBatch::try_from_iter([
            ("t", Arc::new(times) as ArrayRef),
            ("w", Arc::new(watermarks)),
        ])
        .unwrap();
        let sent = RowsOut {
            function: 0,
            port: 0,
            n_rows: columns.num_rows(),
            columns: Some(columns),
            origin: None,
        };
        Ok(Outcome {
            rows: vec![sent],
            ..Outcome::default()
        })
    }
}

/// Times and watermarks of [`Punctuated`].
pub(super) fn punctuated() -> TimestampsOperator {
    let function = Function {
        number: 0,
        kind: FunctionKind::Timestamps,
        name: "f".into(),
        input: vec![
            PlanField::new("time", Type::I64),
            PlanField::new("key", Type::I64),
        ],
        outputs: Vec::new(),
        key: None,
        time: false,
        timers: false,
        states: Vec::new(),
        accumulator: None,
        grants: Vec::new(),
        second_input: Vec::new(),
    };
    let time = TimeSource::Function { function: 0 };
    let chain: (Box<dyn FunctionChain>, Function) = (Box::new(Punctuated), function);
    TimestampsOperator::new(
        &time,
        &Generator::Punctuated,
        None,
        &input_schema(),
        Some(chain),
    )
    .unwrap()
}

#[test]
fn a_function_gives_times_and_punctuated_watermarks_under_the_poison_policy() {
    for batch_rows in BATCH_ROWS {
        let configuration = Configuration {
            poison_policy: PoisonPolicy::Skip,
            ..Configuration::default()
        };
        let mut harness = Harness::with(punctuated(), configuration).unwrap();
        harness
            .batches(
                &Batch::new(rows(&[(1, 3), (2, 5), (2, 13), (2, 4), (4, 6)])),
                batch_rows,
            )
            .unwrap();
        assert_eq!(
            lines(&harness),
            ["6", "10", "mark 10", "8", "12", "mark 12"]
        );
        assert_eq!(harness.dead_letters.lock().unwrap().len(), 1);
    }
}
