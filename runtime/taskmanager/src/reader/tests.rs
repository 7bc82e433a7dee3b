//! The reader over splits in memory, with a chain that makes watermarks: in which order it reads,
//! what is ahead, what is late, what is open.

mod bench;

use self::bench::*;
use super::*;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use proptest::prelude::*;
use std::sync::Mutex;
use streamrt_exchange::InputGate;
use streamrt_operator::harness::Harness;
use streamrt_operator::{Operator, OperatorChain, Output, SplitEnumerator, SplitReader};
use streamrt_state::Part;
use streamrt_types::{
    Configuration, ManualClock, Origin, Rows, StreamElement, Target, WATERMARK_MIN,
};
use streamrt_window::TimestampsOperator;
use streamrt_wit::{Generator, TimeSource, TimeUnit};

use Step::{Clock as At, Dry, Row};

fn rows(out: &[Out]) -> Vec<(u64, i64, Watermark)> {
    let row = |out: &Out| {
        if let Out::Row { split, time, under } = out {
            Some((*split, *time, *under))
        } else {
            None
        }
    };
    out.iter().filter_map(row).collect()
}

/// The greatest number of rows that were out and beyond the watermark.
fn most_ahead(out: &[Out]) -> usize {
    let mut ahead = std::collections::BTreeMap::new();
    let (mut n, mut most) = (0usize, 0);
    for (_, time, under) in rows(out) {
        while let Some(entry) = ahead.first_entry().filter(|entry| *entry.key() <= under) {
            n -= entry.remove();
        }
        *ahead.entry(time).or_insert(0usize) += 1;
        n += 1;
        most = most.max(n);
    }
    most
}

fn in_order(times: impl Iterator<Item = i64>) -> Vec<Step> {
    times.map(Row).collect()
}

#[test]
fn the_first_rows_of_each_split_come_first_and_then_those_that_are_furthest_back() {
    let splits = vec![
        in_order([0, 40, 41].into_iter()),
        in_order([10, 20].into_iter()),
        in_order([30, 50].into_iter()),
    ];
    let (out, _) = Job {
        splits,
        batch_rows: 1,
        ..Job::default()
    }
    .run();
    let order: Vec<(u64, i64)> = rows(&out)
        .iter()
        .map(|(split, time, _)| (*split, *time))
        .collect();
    assert_eq!(
        order,
        [(0, 0), (1, 10), (2, 30), (0, 40), (1, 20), (2, 50), (0, 41)]
    );
    assert_eq!(out.last(), Some(&Out::Watermark(WATERMARK_MAX)));
}

#[test]
fn splits_in_time_order_are_read_one_after_the_other_and_time_goes_on_meanwhile() {
    // Their numbers are not in time order.
    let splits: Vec<Vec<Step>> = (0..100)
        .map(|i| in_order((0..300).map(|row| i64::from(i * 37 % 100) * 300 + row)))
        .collect();
    let (out, seen) = Job {
        splits,
        batch_rows: 64,
        ..Job::default()
    }
    .run();
    assert_eq!(rows(&out).len(), 30_000);
    let most = most_ahead(&out);
    assert!(most <= 101 * 64, "{most} rows were held");
    assert!(seen.most_open <= 256);
    // Once all first rows are out, the last rows of one are followed by those of the next.
    let switches = rows(&out)[6_400..]
        .windows(2)
        .filter(|pair| pair[0].0 != pair[1].0)
        .count();
    assert!(switches <= 200, "{switches}");
}

#[test]
fn splits_that_cover_the_same_time_are_merged_by_time() {
    let splits: Vec<Vec<Step>> = (0..50)
        .map(|split| in_order((0..2000).map(|row| row * 10 + split % 7)))
        .collect();
    let (out, _) = Job {
        splits,
        batch_rows: 64,
        ..Job::default()
    }
    .run();
    assert_eq!(rows(&out).len(), 100_000);
    assert!(most_ahead(&out) <= 50 * 2 * 64, "{}", most_ahead(&out));
}

#[test]
fn many_splits_are_neither_open_nor_held_at_once() {
    let splits: Vec<Vec<Step>> = (0..5_000)
        .map(|i| in_order((0..20).map(|row| i * 20 + row)))
        .collect();
    let (out, seen) = Job {
        splits,
        batch_rows: 1024,
        ..Job::default()
    }
    .run();
    assert_eq!((rows(&out).len(), seen.open), (100_000, 0));
    assert!(seen.most_open <= 257, "{}", seen.most_open);
    assert!(seen.n_opened <= 10_000, "{}", seen.n_opened);
    // The first rows of each split, of which there are 65,536 / 5,000.
    assert!(
        most_ahead(&out) <= 5_000 * 13 + 1024,
        "{}",
        most_ahead(&out)
    );
}

#[test]
fn without_event_time_splits_are_read_in_order_and_those_that_stay_open_in_turn() {
    let splits = vec![
        in_order([1, 2, 3].into_iter()),
        in_order([4, 5, 6].into_iter()),
    ];
    let job = Job {
        splits,
        batch_rows: 1,
        without_time: true,
        ..Job::default()
    };
    let order = |job: &Job| {
        rows(&job.run().0)
            .iter()
            .map(|row| row.1)
            .collect::<Vec<_>>()
    };
    assert_eq!(order(&job), [1, 2, 3, 4, 5, 6]);
    assert_eq!(
        order(&Job {
            stays_open: true,
            ..job
        }),
        [1, 4, 2, 5, 3, 6]
    );
}

#[test]
fn a_split_whose_first_rows_a_filter_drops_is_read_on_before_time_goes_on() {
    let splits = vec![
        in_order((100..200).chain(1000..1010)),
        in_order([5000, 5001].into_iter()),
        in_order(0..50),
        Vec::new(),
    ];
    let (out, _) = Job {
        splits,
        batch_rows: 8,
        filter: 1000,
        ..Job::default()
    }
    .run();
    assert_eq!(rows(&out).len(), 12);
    assert!(
        rows(&out).iter().all(|(_, time, under)| time > under),
        "{out:?}"
    );
}

#[test]
fn a_split_that_waits_for_its_turn_is_not_idle_and_one_that_has_nothing_is() {
    // Split 0 has one row, and is dry from then on; time passes while split 1 is read.
    let dry = vec![Row(10), Dry, At(500), Dry, At(2000), Dry, Row(6000)];
    let busy = vec![Row(1000), At(40), Row(2000), Row(3000), Row(3001)];
    let (out, _) = Job {
        splits: vec![dry, busy],
        batch_rows: 1,
        idle_ms: Some(100),
        stays_open: true,
        ..Job::default()
    }
    .run();
    assert!(
        rows(&out).iter().all(|(_, time, under)| time > under),
        "{out:?}"
    );
    let at = |time| rows(&out).iter().find(|row| row.1 == time).map(|row| row.2);
    assert!(at(3001) > at(1000), "an idle split holds nothing: {out:?}");
    assert!(at(6000).is_some_and(|under| under >= 2996), "{out:?}");
}

#[test]
fn a_split_is_told_of_a_published_checkpoint_what_it_had_said_for_it() {
    let splits = vec![in_order(0..9), in_order(0..9)];
    let mut bench = Job {
        splits,
        batch_rows: 2,
        stays_open: true,
        ..Job::default()
    }
    .bench(0, 1);
    bench.deal(0..2);
    bench.read(2);
    bench.reader.promise(1);
    bench.read(1);
    bench.reader.promise(2);
    let promised: Vec<_> = bench
        .reader
        .promised
        .iter()
        .map(|(_, positions)| positions.clone())
        .collect();
    bench.read(3);
    bench.reader.checkpoint_complete(2).unwrap();
    let told = bench.seen.lock().unwrap().told.clone();
    assert_eq!(told, promised[1], "checkpoint 1 was given up");
    assert_ne!(told, promised[0]);
    bench.reader.checkpoint_complete(3).unwrap();
    assert_eq!(bench.seen.lock().unwrap().told.len(), 2);
}

#[test]
fn a_reader_that_is_ahead_waits_for_the_others() {
    let alignment = Arc::new(Alignment::new(100, 2));
    let splits = vec![in_order((0..100).map(|row| row * 10))];
    let job = Job {
        splits,
        batch_rows: 1,
        alignment: Some((alignment.clone(), 0)),
        ..Job::default()
    };
    let mut bench = job.bench(0, 2);
    bench.deal(0..1);
    let mut read = |n| {
        for _ in 0..n {
            bench.read(1);
            bench.reader.align(&bench.task, Pause::None);
        }
        rows(&bench.out.lock().unwrap()).len()
    };
    assert_eq!(read(5), 1, "the other reader has not begun");
    alignment.publish(1, Some(50));
    // Its watermark may be 150, which the row of time 160 passes.
    assert_eq!(read(50), 17);
    alignment.publish(1, None);
    assert_eq!(read(200), 100);
}

/// Rows of a split, in time order but for `BOUND_MS`.
fn nearly_sorted() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![8 => (0i64..20).prop_map(Some), 1 => Just(None)];
    (0i64..200, prop::collection::vec(step, 0..60)).prop_map(|(start, steps)| {
        let mut time = start;
        let row = |step: Option<i64>| match step {
            None => Dry,
            Some(by) => {
                time += by / 2;
                Row(time - by % (BOUND_MS + 1))
            }
        };
        steps.into_iter().map(row).collect()
    })
}

fn expected(splits: &[Vec<Step>]) -> Vec<(u64, i64)> {
    let rows = |(split, steps): (usize, &Vec<Step>)| {
        steps
            .iter()
            .filter_map(|step| {
                if let Row(time) = step {
                    Some((split as u64, *time))
                } else {
                    None
                }
            })
            .collect::<Vec<_>>()
    };
    let mut all: Vec<(u64, i64)> = splits.iter().enumerate().flat_map(rows).collect();
    all.sort_unstable();
    all
}

fn sorted(out: &[Out]) -> Vec<(u64, i64)> {
    let mut all: Vec<(u64, i64)> = rows(out)
        .iter()
        .map(|(split, time, _)| (*split, *time))
        .collect();
    all.sort_unstable();
    all
}

/// Stops after `n` reads, and goes on with `parallelism` readers. Returns everything that came out,
/// of each.
fn interrupted(job: &Job, n: usize, parallelism: u32) -> Vec<Vec<Out>> {
    let mut bench = job.bench(0, 1);
    bench.deal(0..job.splits.len() as u64);
    bench.read(n);
    let mut kept = bench.task.chain.snapshot(1).unwrap();
    kept.push(bench.reader.snapshot());
    let mut object = Vec::new();
    let indexes: Vec<_> = kept
        .into_iter()
        .map(|(uid, snapshot)| snapshot.write(&uid, 128, &mut object))
        .collect();
    let object = Arc::new(object);
    let mut outs = vec![std::mem::take(&mut *bench.out.lock().unwrap())];
    for subtask in 0..parallelism {
        let mut bench = job.bench(subtask, parallelism);
        let state = |context: &OperatorContext| {
            let index = indexes
                .iter()
                .find(|index| index.uid == *context.uid)
                .cloned();
            let parts = [index.map(|index| Part {
                object: object.clone(),
                index,
            })];
            let OperatorContext {
                subtask,
                parallelism,
                key_groups,
                max_parallelism,
                ..
            } = *context;
            OperatorState::assemble(
                &context.uid,
                &parts,
                streamrt_state::Share {
                    subtask,
                    parallelism,
                    key_groups,
                    max_parallelism,
                },
            )
        };
        bench.task.chain.restore(state).unwrap();
        let mut own = state(&bench.reader.context).unwrap();
        bench.reader.restore(&mut own).unwrap();
        bench.deal(0..0);
        outs.push(bench.run().0);
    }
    outs
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the splits are, each row comes once, and none is late, because none is late in its
    /// own split.
    #[test]
    fn no_row_is_late_that_was_not_late_in_one_sorted_file(
        splits in prop::collection::vec(nearly_sorted(), 0..12), batch_rows in 1usize..40,
    ) {
        let (out, _) = Job { splits: splits.clone(), batch_rows, ..Job::default() }.run();
        prop_assert_eq!(sorted(&out), expected(&splits));
        for (split, time, under) in rows(&out) {
            prop_assert!(time > under, "split {} is late with {} under {}", split, time, under);
        }
    }

    /// The same after a restart in the middle, with as many readers or others.
    #[test]
    fn a_restart_loses_no_row_and_makes_none_late(
        splits in prop::collection::vec(nearly_sorted(), 0..12), batch_rows in 1usize..20, n in 0usize..60, parallelism in 1u32..4,
    ) {
        let job = Job { splits: splits.clone(), batch_rows, ..Job::default() };
        let outs = interrupted(&job, n, parallelism);
        prop_assert_eq!(sorted(&outs.concat()), expected(&splits));
        for (split, time, under) in outs.iter().flat_map(|out| rows(out)) {
            prop_assert!(time > under, "split {} is late with {} under {}", split, time, under);
        }
    }
}
