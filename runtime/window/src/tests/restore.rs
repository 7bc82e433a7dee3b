//! Every way of keeping windows, stopped after any row and restarted from what was written: both
//! runs together give, line for line, what one run gives.

use super::differential::assigners;
use super::functions::{collecting, counting, reducing};
use super::*;
use arrow_array::StringArray;
use proptest::prelude::*;
use streamrt_state::{FrozenEntries, OperatorSnapshot, OperatorState, Part, Share};
use streamrt_types::{Clock, code};

pub(super) type Make = fn(WindowAssigner, u64) -> WindowOperator;

/// Rows with an additional column of text, which only `texts` reads.
pub(super) fn named_rows(input: Input<'_>) -> RecordBatch {
    let batch = rows(input);
    let names = input.iter().map(|(key, time)| {
        "x".repeat((time * 7 + key).rem_euclid(40) as usize) + &time.to_string()
    });
    let columns = vec![
        batch.column(0).clone(),
        batch.column(1).clone(),
        Arc::new(StringArray::from_iter_values(names)) as ArrayRef,
    ];
    RecordBatch::try_new(named_schema(), columns).unwrap()
}

fn named_schema() -> SchemaRef {
    let fields = input_schema()
        .fields()
        .iter()
        .cloned()
        .chain([Arc::new(Field::new("name", DataType::Utf8, false))])
        .collect::<Vec<_>>();
    Arc::new(Schema::new(fields))
}

/// Least and greatest, first and last text, the average of times, and the number of rows.
pub(super) fn texts(assigner: WindowAssigner, lateness_ms: u64) -> WindowOperator {
    use AggregateFunction::{Avg, First, Last, Max, Min};
    let of = |function, column: &str| BuiltinAggregate {
        function,
        column: Some(column.into()),
    };
    let aggregates = vec![
        of(Min, "name"),
        of(Max, "name"),
        of(First, "name"),
        of(Last, "name"),
        of(Avg, "time"),
        count(),
    ];
    let types = [
        DataType::Utf8,
        DataType::Utf8,
        DataType::Utf8,
        DataType::Utf8,
        DataType::Float64,
        DataType::Int64,
    ];
    let column = |index: u32| ResultColumn {
        name: format!("c{index}"),
        from: ResultSource::Aggregate { index },
    };
    let mut columns: Vec<ResultColumn> = (0..types.len() as u32).map(column).collect();
    columns.push(ResultColumn {
        name: "end".into(),
        from: ResultSource::WindowEnd,
    });
    let fields = columns
        .iter()
        .zip(types.into_iter().chain([DataType::Int64]))
        .map(|(c, data_type)| Field::new(&c.name, data_type, false));
    let output = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let contents = WindowContents::Builtin {
        aggregates,
        columns,
    };
    WindowOperator::new(
        &assigner,
        lateness_ms,
        &contents,
        WindowFunctions::default(),
        named_schema(),
        vec![0],
        output,
    )
    .unwrap()
}

pub(super) const CONTENTS: [(&str, Make); 5] = [
    ("built-in", builtin),
    ("texts", texts),
    ("aggregate", |assigner, lateness_ms| {
        counting(assigner, lateness_ms, None)
    }),
    ("rows", |assigner, lateness_ms| {
        collecting(assigner, lateness_ms, None)
    }),
    ("reduce", |assigner, _| reducing(assigner)),
];

/// Writes what a subtask has frozen, as a checkpoint does.
pub(super) fn write(snapshot: OperatorSnapshot) -> Part {
    let mut object = b"of another operator".to_vec();
    let index = snapshot.write("op", 16, &mut object);
    Part {
        object: Arc::new(object),
        index,
    }
}

pub(super) fn share(context: &OperatorContext) -> Share {
    let OperatorContext {
        subtask,
        parallelism,
        key_groups,
        max_parallelism,
        ..
    } = *context;
    Share {
        subtask,
        parallelism,
        key_groups,
        max_parallelism,
    }
}

type Order = fn(OperatorSnapshot) -> OperatorSnapshot;

/// The entries of keyed state from the last to the first: their order is arbitrary.
fn reversed(mut snapshot: OperatorSnapshot) -> OperatorSnapshot {
    for state in &mut snapshot.keyed {
        let mut entries = Vec::new();
        state.entries.visit(&mut |key, sub, value| {
            entries.push((key.to_vec(), sub.to_vec(), value.to_vec()))
        });
        entries.reverse();
        state.entries = Box::new(FrozenEntries(entries));
    }
    snapshot
}

/// Timestamps and windows on one clock.
struct Job {
    chain: OperatorChain,
    clock: Arc<ManualClock>,
}

impl Job {
    fn start(bound_ms: u64, window: WindowOperator) -> Job {
        let (chain, _, clock) = chain(bound_ms, window);
        Job { chain, clock }
    }

    /// Stops the job, and starts another one from its snapshot, whose entries `order` may put into
    /// another order.
    fn restart(
        mut self,
        bound_ms: u64,
        window: WindowOperator,
        recorder: &mut Recorder,
        order: Order,
    ) -> Job {
        let snapshots = self.chain.snapshot(1).unwrap();
        let mut parts = snapshots
            .into_iter()
            .map(|(_, snapshot)| write(order(snapshot)));
        let mut next = Job::start(bound_ms, window);
        next.clock.set_ms(self.clock.now_ms());
        let restored = |context: &OperatorContext| {
            OperatorState::assemble("op", &[parts.next()], share(context))
        };
        next.chain.restore(restored).unwrap();
        next.chain
            .head(recorder, &mut |operator, output| {
                operator.status(Status::Active, output)
            })
            .unwrap();
        next
    }

    fn rows(&mut self, input: Input<'_>, batch_rows: usize, recorder: &mut Recorder) {
        input
            .chunks(batch_rows)
            .for_each(|piece| feed(&mut self.chain, recorder, Batch::new(named_rows(piece))));
    }

    fn tick(&mut self, now_ms: i64, recorder: &mut Recorder) {
        self.clock.set_ms(now_ms);
        if self
            .chain
            .next_processing_time()
            .is_some_and(|time| time <= now_ms)
        {
            self.chain.processing_time(now_ms, recorder).unwrap();
        }
    }

    fn end(mut self, recorder: &mut Recorder) {
        self.chain
            .head(recorder, &mut |operator, output| {
                operator.watermark(WATERMARK_MAX, output)
            })
            .unwrap();
        self.chain
            .end_of_input(Some(EndOfTime::Drop), recorder)
            .unwrap();
    }
}

/// Without the status of a start, and the watermark that a restored job sends again.
fn without_starts(lines: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    let is_news =
        |line: &String| line != "Active" && (!line.contains("w ") || seen.insert(line.clone()));
    lines.into_iter().filter(is_news).collect()
}

/// Runs `input`, stopped and restarted after each number of rows in `cuts`.
fn run_cut(
    bound_ms: u64,
    make: impl Fn() -> WindowOperator,
    input: Input<'_>,
    cuts: &[usize],
    batch_rows: usize,
) -> Vec<String> {
    run_ordered(bound_ms, make, input, cuts, batch_rows, |snapshot| snapshot)
}

fn run_ordered(
    bound_ms: u64,
    make: impl Fn() -> WindowOperator,
    input: Input<'_>,
    cuts: &[usize],
    batch_rows: usize,
    order: Order,
) -> Vec<String> {
    let mut recorder = Recorder::default();
    let mut job = Job::start(bound_ms, make());
    let mut start = 0;
    for &cut in cuts {
        job.rows(&input[start..cut], batch_rows, &mut recorder);
        job = job.restart(bound_ms, make(), &mut recorder, order);
        start = cut;
    }
    job.rows(&input[start..], batch_rows, &mut recorder);
    job.end(&mut recorder);
    without_starts(recorder.lines())
}

/// Rows of four keys whose times rise, with some that are late.
pub(super) fn some_rows(n_rows: usize) -> Vec<(i64, i64)> {
    let mut random = 7u64;
    let mut next = |n: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as i64 % n as i64
    };
    (0..n_rows as i64)
        .map(|row| {
            (
                next(4),
                row * 2 - 20 + next(9) - if next(6) == 0 { 25 } else { 0 },
            )
        })
        .collect()
}

pub(super) fn event_time() -> Vec<WindowAssigner> {
    vec![
        tumbling(10),
        sliding(12, 4),
        sliding(9, 5),
        sliding(4, 7),
        session(3),
        session(8),
        WindowAssigner::Count { rows: 3 },
        WindowAssigner::Global,
    ]
}

#[test]
fn a_cut_after_any_row_changes_nothing() {
    let input = some_rows(50);
    for assigner in event_time() {
        for (name, make) in CONTENTS {
            for lateness_ms in [0, 9] {
                let make = || make(assigner.clone(), lateness_ms);
                let whole = run_cut(4, make, &input, &[], 1024);
                for cut in 0..=input.len() {
                    let found = run_cut(4, make, &input, &[cut], [1, 3, 1024][cut % 3]);
                    assert_eq!(
                        found, whole,
                        "{assigner:?} with {name}, lateness {lateness_ms}, cut after {cut} rows"
                    );
                }
                assert_eq!(
                    run_cut(4, make, &input, &(0..=input.len()).collect::<Vec<_>>(), 1),
                    whole,
                    "{assigner:?} with {name}"
                );
            }
        }
    }
}

#[test]
fn windows_of_a_key_and_their_timers_keep_their_order_whatever_that_of_the_entries() {
    let input = some_rows(50);
    for assigner in [sliding(12, 4), sliding(9, 5), session(3), session(8)] {
        for (name, make) in &CONTENTS[2..] {
            let make = || make(assigner.clone(), 9);
            let whole = run_cut(4, make, &input, &[], 1024);
            for cut in 0..=input.len() {
                assert_eq!(
                    run_ordered(4, make, &input, &[cut], 1024, reversed),
                    whole,
                    "{assigner:?} with {name}, cut after {cut} rows"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn cuts_of_random_rows_change_nothing(
        assigner in assigners(),
        lateness in prop_oneof![Just(0u64), 0u64..15],
        bound in 0u64..6,
        input in prop::collection::vec((0i64..4, -30i64..60), 1..60),
        first in 0usize..60,
        second in 0usize..60,
    ) {
        let cuts = [first.min(second).min(input.len()), first.max(second).min(input.len())];
        for (name, make) in CONTENTS {
            let make = || make(assigner.clone(), lateness);
            prop_assert_eq!(run_cut(bound, make, &input, &cuts, 7), run_cut(bound, make, &input, &[], 7), "{}", name);
        }
    }
}

/// (clock, rows that come then), stopped and restarted before step `cut`.
fn run_clock(
    make: impl Fn() -> WindowOperator,
    input: &[(i64, Vec<(i64, i64)>)],
    cut: Option<usize>,
) -> Vec<String> {
    let mut recorder = Recorder::default();
    let mut job = Job::start(0, make());
    for (step, (now_ms, rows)) in input.iter().enumerate() {
        if cut == Some(step) {
            job = job.restart(0, make(), &mut recorder, |snapshot| snapshot);
        }
        job.tick(*now_ms, &mut recorder);
        job.rows(rows, 1024, &mut recorder);
    }
    job.end(&mut recorder);
    let lines = without_starts(recorder.lines());
    lines
        .into_iter()
        .filter(|line| line.starts_with('+'))
        .collect()
}

#[test]
fn windows_of_processing_time_come_back() {
    // The clock goes back once, which no window sees.
    let times = (0..40).map(|step| if step == 20 { 10 } else { step * 3 });
    let input: Vec<_> = times
        .zip(some_rows(40))
        .map(|(now_ms, row)| {
            (
                now_ms,
                if now_ms % 4 == 0 {
                    Vec::new()
                } else {
                    vec![row]
                },
            )
        })
        .collect();
    let assigners = [
        WindowAssigner::Tumbling {
            size_ms: 10,
            offset_ms: 0,
            processing_time: true,
        },
        WindowAssigner::Sliding {
            size_ms: 12,
            slide_ms: 4,
            offset_ms: 1,
            processing_time: true,
        },
        WindowAssigner::Session {
            gap_ms: 4,
            processing_time: true,
        },
    ];
    for assigner in assigners {
        for (name, make) in CONTENTS {
            let make = || make(assigner.clone(), 7);
            let whole = run_clock(make, &input, None);
            assert!(whole.len() > 5);
            for cut in 0..input.len() {
                assert_eq!(
                    run_clock(make, &input, Some(cut)),
                    whole,
                    "{assigner:?} with {name}, cut before step {cut}"
                );
            }
        }
    }
}

/// The windows alone, restored from what `old` left after `input`.
fn restored(
    old: WindowOperator,
    input: Input<'_>,
    new: WindowOperator,
    change: impl FnOnce(&mut Part),
) -> Result<Job> {
    let mut job = Job::start(0, old);
    job.rows(input, 1024, &mut Recorder::default());
    let mut parts: Vec<Part> = job
        .chain
        .snapshot(1)?
        .into_iter()
        .map(|(_, snapshot)| write(snapshot))
        .collect();
    change(&mut parts[1]);
    let mut next = Job::start(0, new);
    let mut parts = parts.into_iter();
    next.chain
        .restore(|context| OperatorState::assemble("op", &[parts.next()], share(context)))?;
    Ok(next)
}

#[test]
fn other_windows_or_aggregates_are_refused() {
    let input = some_rows(20);
    let check = |old: WindowOperator, new: WindowOperator, fits: bool| {
        let error = restored(old, &input, new, |_| {})
            .err()
            .map(|error| error.code().id);
        assert_eq!(error, (!fits).then_some(code::STATE_TYPES.id));
    };
    check(builtin(tumbling(10), 0), builtin(tumbling(10), 0), true);
    check(builtin(tumbling(10), 0), builtin(tumbling(20), 0), false);
    check(builtin(tumbling(10), 0), texts(tumbling(10), 0), false);
    check(builtin(session(10), 0), texts(session(10), 0), false);
    check(
        counting(session(10), 0, None),
        collecting(session(10), 0, None),
        false,
    );
    check(
        counting(session(10), 0, None),
        counting(WindowAssigner::Count { rows: 5 }, 0, None),
        false,
    );
    let gone = restored(
        builtin(session(10), 0),
        &input,
        builtin(tumbling(10), 0),
        |_| {},
    )
    .err()
    .unwrap();
    assert_eq!(gone.code().id, code::STATE_GONE.id);
}

/// What `rest` gives after a restore with another lateness. The session [5, 15) of key 1 has fired,
/// and the watermark is 19.
fn check_lateness(old: u64, new: u64, rest: Input<'_>, expected: &[&str]) {
    let mut job = restored(
        builtin(session(10), old),
        &[(1, 5), (2, 20)],
        builtin(session(10), new),
        |_| {},
    )
    .unwrap();
    let mut recorder = Recorder::default();
    job.rows(rest, 1, &mut recorder);
    job.end(&mut recorder);
    let lines = recorder.lines();
    let lines = lines
        .iter()
        .filter(|line| line.starts_with("+ 1") || line.starts_with("late "));
    assert_eq!(
        lines
            .map(|line| line.split(['"', '@']).next().unwrap().trim_end())
            .collect::<Vec<_>>(),
        expected
    );
}

#[test]
fn a_change_of_lateness_is_compatible() {
    check_lateness(20, 20, &[(1, 7)], &["+ 1 5 17 2 5 7"]);
    check_lateness(20, 40, &[(1, 7)], &["+ 1 5 17 2 5 7"]);
    check_lateness(20, 0, &[(1, 7)], &["late 1 7"]);
    // The old session is gone, and does not grow.
    check_lateness(20, 0, &[(1, 15)], &["+ 1 15 25 1 15 15"]);
    // It is removed at watermark 34, not at 54.
    check_lateness(40, 20, &[(2, 34), (1, 7)], &["+ 1 5 17 2 5 7"]);
    check_lateness(40, 20, &[(2, 35), (1, 7)], &["+ 1 7 17 1 7 7"]);
}

#[test]
fn damaged_bytes_never_panic() {
    let input = some_rows(10);
    let clock = WindowAssigner::Session {
        gap_ms: 4,
        processing_time: true,
    };
    for assigner in [
        sliding(12, 4),
        session(8),
        WindowAssigner::Count { rows: 4 },
        WindowAssigner::Global,
        clock,
    ] {
        for (_, make) in CONTENTS {
            let make = || make(assigner.clone(), 9);
            let length = write_length(make(), &input);
            for at in 0..length {
                for flip in [0xff, 0x80, 0x01] {
                    let damage = |part: &mut Part| Arc::make_mut(&mut part.object)[at] ^= flip;
                    let Ok(mut job) = restored(make(), &input, make(), damage) else {
                        continue;
                    };
                    let mut batch = Some(Batch::new(named_rows(&input)));
                    let mut recorder = Recorder::default();
                    let run = job.chain.head(&mut recorder, &mut |operator, output| {
                        operator.batch(batch.take().unwrap(), output)
                    });
                    if run.is_ok() {
                        drop(job.chain.head(&mut recorder, &mut |operator, output| {
                            operator.watermark(WATERMARK_MAX, output)
                        }));
                    }
                }
                let cut = restored(make(), &input, make(), |part| {
                    Arc::make_mut(&mut part.object).truncate(at)
                });
                assert!(
                    at < 19 || cut.is_err(),
                    "truncated to {at} of {length} bytes"
                );
            }
        }
    }
}

fn write_length(window: WindowOperator, input: Input<'_>) -> usize {
    let mut job = Job::start(0, window);
    job.rows(input, 1024, &mut Recorder::default());
    write(job.chain.snapshot(1).unwrap().pop().unwrap().1)
        .object
        .len()
}

/// An older version cut all panes of a window alike, here to 1 ms.
#[test]
fn panes_of_an_older_version_are_parts_of_ours() {
    let input = [(1, 3), (1, 4), (2, 4), (1, 8), (2, 9), (1, 1), (1, 7)];
    let whole = run_cut(100, || builtin(sliding(9, 5), 0), &input, &[], 1024);
    for cut in 0..=input.len() {
        let mut recorder = Recorder::default();
        let (mut old, mut new) = (
            Job::start(100, builtin(tumbling(1), 0)),
            Job::start(100, builtin(sliding(9, 5), 0)),
        );
        let types = new.chain.snapshot(1).unwrap()[1].1.keyed[0].types.clone();
        old.rows(&input[..cut], 1024, &mut recorder);
        let mut snapshots = old.chain.snapshot(1).unwrap();
        snapshots[1].1.keyed[0].types = types;
        let mut parts = snapshots.into_iter().map(|(_, snapshot)| write(snapshot));
        new.chain
            .restore(|context| OperatorState::assemble("op", &[parts.next()], share(context)))
            .unwrap();
        new.chain
            .head(&mut recorder, &mut |operator, output| {
                operator.status(Status::Active, output)
            })
            .unwrap();
        new.rows(&input[cut..], 1024, &mut recorder);
        new.end(&mut recorder);
        assert_eq!(
            without_starts(recorder.lines()),
            whole,
            "cut after {cut} rows"
        );
    }
}
