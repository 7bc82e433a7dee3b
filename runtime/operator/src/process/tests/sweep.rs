//! Sweeps: cut into pieces, kept in snapshots, ended by a cancel, and what they drop at the end of
//! the input.

use super::*;
use streamrt_state::{Part as SnapshotPart, Share};
use streamrt_types::KeyGroupRange;

/// n timers at 2, 4, ... of the key `a`, with a `mark` after their rows if one is given.
fn long_sweep(n: i64, batch_rows: usize, mark: Option<i64>) -> Harness<KeyedProcessOperator> {
    let rows: Vec<(&str, i64, i64)> = (1..=n).map(|x| ("a", x * 2, 0)).collect();
    let mut harness = Harness::new(operator(Chaining));
    harness.batches(&input(&rows, &[]), batch_rows).unwrap();
    if let Some(watermark) = mark {
        harness
            .batches(&input(&[("a", -1, 0)], &[(1, watermark)]), 1)
            .unwrap();
    }
    harness
}

#[test]
fn a_long_sweep_is_cut_and_holds_its_watermark() {
    let n = 9_000;
    let fired: Vec<String> = (2..=2 * n + 1)
        .map(|time| format!("{time} {{\"y\":{time}}}"))
        .collect();
    let mut harness = long_sweep(n, 1024, None);
    harness.watermark(1 << 40).unwrap();
    assert_eq!(harness.lines(0), fired);
    assert_eq!(harness.common(), [format!("watermark {}", 1i64 << 40)]);
    let harness = long_sweep(n, 1024, Some(1 << 40));
    assert_eq!(harness.lines(0), fired);
    assert_eq!(harness.common(), [format!("watermark {}", 1i64 << 40)]);
}

/// Takes a snapshot as a checkpoint keeps it, and gives it back to another operator.
fn moved(from: &mut KeyedProcessOperator) -> Harness<KeyedProcessOperator> {
    let mut object = Vec::new();
    let index = from.snapshot(1).unwrap().write("op", 16, &mut object);
    let share = Share {
        subtask: 0,
        parallelism: 1,
        key_groups: KeyGroupRange::all(16),
        max_parallelism: 16,
    };
    let mut state = OperatorState::assemble(
        "op",
        &[Some(SnapshotPart {
            object: Arc::new(object),
            index,
        })],
        share,
    )
    .unwrap();
    let mut harness = Harness::new(operator(Chaining));
    harness.operator.restore(&mut state).unwrap();
    harness
}

#[test]
fn a_snapshot_inside_a_sweep_holds_what_has_not_fired() {
    // With rows one by one, calls have not grown.
    let mut harness = long_sweep(1_000, 1, None);
    harness.begin_watermark(1 << 40).unwrap();
    assert!(
        harness.operator.is_sweeping() && harness.common().is_empty(),
        "the watermark is kept back"
    );
    let n_fired = harness.lines(0).len();
    assert!(n_fired > 0 && n_fired < 2_000, "{n_fired}");
    let mut restored = moved(&mut harness.operator);
    restored.watermark(1 << 40).unwrap();
    let together: Vec<String> = harness
        .lines(0)
        .into_iter()
        .chain(restored.lines(0))
        .map(String::from)
        .collect();
    assert_eq!(
        together,
        (2..=2_001)
            .map(|time| format!("{time} {{\"y\":{time}}}"))
            .collect::<Vec<_>>()
    );
}

/// A timer registers the next one, always.
#[derive(Clone, Copy)]
struct Endless;

impl User for Endless {
    fn row(&mut self, x: i64, context: &mut Context<'_>) -> Result<()> {
        context.register(x);
        Ok(())
    }
    fn timer(&mut self, time: i64, context: &mut Context<'_>) -> Result<()> {
        context.emit(time);
        context.register(time + 10);
        context.register(time);
        Ok(())
    }
}

#[test]
fn at_the_end_a_timer_that_a_firing_registers_is_dropped_and_named() {
    let rows = [("a", 10, 0), ("b", 5, 0), ("a", 1_000, 0)];
    for batch_rows in 1..=4 {
        for in_batch in [false, true] {
            let mut harness = Harness::new(operator(Endless));
            let marks: &[(u32, i64)] = if in_batch { &[(3, i64::MAX)] } else { &[] };
            harness.batches(&input(&rows, marks), batch_rows).unwrap();
            if !in_batch {
                harness.watermark(i64::MAX).unwrap();
            }
            assert_eq!(
                harness.lines(0),
                [r#"5 {"y":5}"#, r#"10 {"y":10}"#, r#"1000 {"y":1000}"#],
                "batches of {batch_rows}"
            );
            let metrics = &harness.context.metrics;
            assert_eq!(
                metrics
                    .dropped_timers
                    .load(std::sync::atomic::Ordering::Relaxed),
                6
            );
            assert_eq!(
                metrics.first_dropped_timer.get().unwrap(),
                r#"operator `op`: timer at 15 ms, key {"k":"b"}"#
            );
            assert_eq!(harness.operator.next(Domain::EventTime), None);
        }
    }
}

/// Keeps the values that come out of a chain, and watermarks as negative numbers.
#[derive(Default)]
struct Values(Vec<i64>);

impl crate::Exits for Values {
    fn batch(&mut self, _: usize, batch: Batch) -> Result<()> {
        self.0
            .extend(batch.columns.column(0).as_primitive::<Int64Type>().values());
        Ok(())
    }
    fn watermark(&mut self, _: usize, watermark: Watermark) -> Result<()> {
        self.0.push(-watermark);
        Ok(())
    }
    fn status(&mut self, _: usize, _: streamrt_types::Status) -> Result<()> {
        Ok(())
    }
}

/// A chain with [`Chaining`] at its head, which has timers at 2, 4, ... 2,000, and has begun with
/// the watermark 3,000.
fn sweeping_chain(exits: &mut Values) -> crate::OperatorChain {
    let context = Harness::new(operator(Chaining)).context;
    let mut chain = crate::OperatorChain::new();
    chain.push(
        Box::new(operator(Chaining)),
        context,
        vec![(0, streamrt_types::Target::Exit(0))],
    );
    chain.open().unwrap();
    for x in 1..=1_000 {
        let mut batch = Some(input(&[("a", x * 2, 0)], &[]));
        chain
            .head(exits, &mut |operator, output| {
                operator.batch(batch.take().unwrap(), output)
            })
            .unwrap();
    }
    chain
        .head(exits, &mut |operator, output| {
            operator.watermark(3_000, output)
        })
        .unwrap();
    assert!(
        chain.is_sweeping() && exits.0.len() < 2_000,
        "one piece has gone out: {}",
        exits.0.len()
    );
    chain
}

#[test]
fn nothing_reaches_an_operator_inside_its_sweep() {
    let all: Vec<i64> = (2..=2_001).chain([-3_000]).collect();
    let mut exits = Values::default();
    let mut chain = sweeping_chain(&mut exits);
    while chain.is_sweeping() {
        chain.resume(&mut exits).unwrap();
    }
    assert_eq!(exits.0, all);
    let mut exits = Values::default();
    let mut chain = sweeping_chain(&mut exits);
    chain
        .head(&mut exits, &mut |operator, output| {
            operator.watermark(3_001, output)
        })
        .unwrap();
    assert_eq!(exits.0, [all, vec![-3_001]].concat());
}

#[test]
fn a_cancelled_job_leaves_its_sweep() {
    let mut harness = long_sweep(1_000, 1, None);
    harness
        .context
        .cancel
        .store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(
        harness.watermark(1 << 40).unwrap_err().code().id,
        code::CANCELLED.id
    );
    assert_eq!(harness.lines(0).len(), 0);
}
