//! The timestamps operator, stopped and restarted: generators come back with their splits, and time
//! never goes back.

use super::restore::{share, write};
use super::timestamps::{by_column, of_split, punctuated};
use super::*;
use streamrt_operator::SplitEvent;
use streamrt_state::{OperatorState, Part};

/// What a reader or gate does.
#[derive(Debug, Clone, Copy)]
enum Step {
    Reads,
    Known(u64),
    Finished(u64),
    Rows(u64, &'static [i64]),
    Tells(Status),
    Clock(i64),
}
use Step::{Clock, Finished, Known, Reads, Rows, Tells};

/// One subtask of the operator, and what it has sent.
struct Subtask {
    chain: OperatorChain,
    clock: Arc<ManualClock>,
    recorder: Recorder,
}

impl Subtask {
    fn start(
        make: fn() -> TimestampsOperator,
        subtask: u32,
        parallelism: u32,
        parts: &[Option<Part>],
    ) -> Result<Subtask> {
        let (context, clock) = context();
        let context = OperatorContext {
            subtask,
            parallelism,
            ..context
        };
        let mut chain = OperatorChain::new();
        chain.push(Box::new(make()), context, vec![(0, Target::Exit(0))]);
        chain.open()?;
        if !parts.is_empty() {
            chain.restore(|context| OperatorState::assemble("op", parts, share(context)))?;
        }
        Ok(Subtask {
            chain,
            clock,
            recorder: Recorder::default(),
        })
    }

    fn part(&mut self) -> Part {
        write(self.chain.snapshot(1).unwrap().remove(0).1)
    }

    fn step(&mut self, step: Step) {
        let mut event = |event| {
            self.chain
                .head(&mut self.recorder, &mut |operator, output| {
                    operator.split(event, output)
                })
                .unwrap()
        };
        match step {
            Reads => event(SplitEvent::Reader),
            Known(number) => event(SplitEvent::Known { number }),
            Finished(number) => event(SplitEvent::Finished { number }),
            Rows(split, times) => feed(&mut self.chain, &mut self.recorder, of_split(split, times)),
            Tells(status) => self
                .chain
                .head(&mut self.recorder, &mut |operator, output| {
                    operator.status(status, output)
                })
                .unwrap(),
            Clock(now_ms) => {
                self.clock.set_ms(now_ms);
                if self
                    .chain
                    .next_processing_time()
                    .is_some_and(|time| time <= now_ms)
                {
                    self.chain
                        .processing_time(now_ms, &mut self.recorder)
                        .unwrap();
                }
            }
        }
    }

    /// Takes the steps, and returns what they have made it send: times of rows, watermarks and
    /// status.
    fn run(&mut self, steps: &[Step]) -> Vec<String> {
        steps.iter().for_each(|step| self.step(*step));
        let lines = std::mem::take(&mut self.recorder).main().to_vec();
        lines
            .into_iter()
            .map(|line| {
                line.split(' ')
                    .next_back()
                    .map_or(line.clone(), |last| short(&line, last))
            })
            .collect()
    }
}

fn short(line: &str, last: &str) -> String {
    if line.starts_with('+') {
        last.into()
    } else {
        line.into()
    }
}

fn idle_after_100() -> TimestampsOperator {
    by_column(TimeUnit::Milliseconds, Some(100))
}

fn never_idle() -> TimestampsOperator {
    by_column(TimeUnit::Milliseconds, None)
}

/// One subtask after `before`, restored and then given `after`.
fn check(make: fn() -> TimestampsOperator, before: &[Step], after: &[Step], expected: &[&str]) {
    let mut old = Subtask::start(make, 0, 1, &[]).unwrap();
    old.run(before);
    let mut new = Subtask::start(make, 0, 1, &[Some(old.part())]).unwrap();
    assert_eq!(new.run(after), expected);
}

const TWO_SPLITS: &[Step] = &[
    Known(0),
    Known(1),
    Tells(Status::Active),
    Rows(0, &[20]),
    Rows(1, &[8]),
];

#[test]
fn the_restored_watermark_comes_right_behind_the_first_status_and_known_splits_do_not_hold_it() {
    let after = &[
        Known(0),
        Known(1),
        Tells(Status::Active),
        Rows(1, &[4, 12, 30]),
    ];
    check(
        never_idle,
        TWO_SPLITS,
        after,
        &["Active", "w 5", "@4", "@12", "w 9", "@30", "w 17"],
    );
    // Without a status as well, and before a watermark that follows from an event.
    check(
        never_idle,
        TWO_SPLITS,
        &[Known(0), Known(1), Rows(0, &[3])],
        &["w 5", "@3"],
    );
    check(
        never_idle,
        TWO_SPLITS,
        &[Known(0), Known(1), Finished(1)],
        &["w 5", "w 17"],
    );
    // A split that had not begun holds it where it was.
    let before = &[Known(0), Known(1), Tells(Status::Active), Rows(0, &[20])];
    check(
        never_idle,
        before,
        &[
            Known(0),
            Known(1),
            Tells(Status::Active),
            Rows(0, &[40]),
            Rows(1, &[30]),
        ],
        &["Active", "@40", "@30", "w 27"],
    );
}

#[test]
fn behind_an_exchange_no_split_is_told_and_all_go_on_at_once() {
    let before = &[
        Tells(Status::Active),
        Rows(0, &[20]),
        Rows(1, &[8]),
        Rows(0, &[30]),
    ];
    check(
        never_idle,
        before,
        &[Tells(Status::Active), Rows(0, &[40]), Rows(1, &[41])],
        &["Active", "w 17", "@40", "@41", "w 37"],
    );
    check(
        never_idle,
        before,
        &[Rows(1, &[41])],
        &["w 17", "@41", "w 27"],
    );
}

#[test]
fn idle_splits_stay_idle() {
    let before = &[
        Known(0),
        Known(1),
        Tells(Status::Active),
        Rows(0, &[20]),
        Clock(60),
        Rows(1, &[8]),
        Clock(100),
    ];
    let again = [Known(0), Known(1), Tells(Status::Active)];
    let after = [
        &again[..],
        &[Rows(1, &[12]), Rows(0, &[40]), Rows(1, &[30])],
    ]
    .concat();
    check(
        idle_after_100,
        before,
        &after,
        &["Active", "w 5", "@12", "w 9", "@40", "@30", "w 27"],
    );
    let all_idle = [&before[..], &[Clock(160)]].concat();
    let after = [&again[..], &[Clock(900), Rows(0, &[21]), Rows(0, &[40])]].concat();
    check(
        idle_after_100,
        &all_idle,
        &after,
        &[
            "Active", "w 17", "Idle", "Active", "@21", "w 18", "@40", "w 37",
        ],
    );
}

/// What every new subtask sends, after the old ones had these splits.
fn check_scaled(old: &[&[Step]], new: &[(&[Step], &[&str])]) {
    let parallelism = old.len() as u32;
    let part = |(subtask, steps): (usize, &&[Step])| {
        let mut subtask = Subtask::start(never_idle, subtask as u32, parallelism, &[]).unwrap();
        subtask.run(steps);
        Some(subtask.part())
    };
    let parts: Vec<Option<Part>> = old.iter().enumerate().map(part).collect();
    for (number, (steps, expected)) in new.iter().enumerate() {
        let mut subtask =
            Subtask::start(never_idle, number as u32, new.len() as u32, &parts).unwrap();
        assert_eq!(subtask.run(steps), *expected, "subtask {number}");
    }
}

#[test]
fn generators_follow_their_splits_to_other_subtasks() {
    let old: &[&[Step]] = &[
        &[Known(0), Tells(Status::Active), Rows(0, &[20])],
        &[
            Known(1),
            Known(2),
            Tells(Status::Active),
            Rows(1, &[8]),
            Finished(2),
        ],
        // This one waits for splits, and holds nothing back.
        &[Reads, Tells(Status::Idle)],
    ];
    let both = &[
        Known(0),
        Known(1),
        Tells(Status::Active),
        Rows(1, &[30]),
        Rows(0, &[40]),
    ];
    check_scaled(
        old,
        &[(both, &["Active", "w 5", "@30", "w 17", "@40", "w 27"])],
    );
    check_scaled(
        old,
        &[
            (
                &[Known(1), Tells(Status::Active), Rows(1, &[9])],
                &["Active", "w 5", "@9", "w 6"],
            ),
            (
                &[Known(0), Tells(Status::Active), Rows(0, &[19, 21])],
                &["Active", "w 5", "@19", "@21", "w 18"],
            ),
        ],
    );
}

#[test]
fn of_one_split_on_several_subtasks_the_own_generator_goes_first_else_the_one_furthest_back() {
    let old: &[&[Step]] = &[
        &[Tells(Status::Active), Rows(0, &[50])],
        &[Tells(Status::Active), Rows(0, &[20])],
    ];
    let next: &[Step] = &[Tells(Status::Active), Rows(0, &[30])];
    check_scaled(
        old,
        &[
            (next, &["Active", "w 47", "@30"]),
            (next, &["Active", "w 17", "@30", "w 27"]),
        ],
    );
    check_scaled(old, &[(next, &["Active", "w 17", "@30", "w 27"])]);
}

#[test]
fn a_finished_split_comes_back_to_nobody() {
    let before = [TWO_SPLITS, &[Finished(1)]].concat();
    check(
        never_idle,
        &before,
        &[Known(0), Tells(Status::Active), Rows(0, &[40])],
        &["Active", "w 17", "@40", "w 37"],
    );
}

/// Runs `input` in one go, and stopped after each row; both must send the same.
fn check_cuts(make: fn() -> TimestampsOperator, input: Input<'_>) {
    let run = |cut: usize| {
        let mut subtask = Subtask::start(make, 0, 1, &[]).unwrap();
        feed(
            &mut subtask.chain,
            &mut subtask.recorder,
            Batch::new(rows(&input[..cut])),
        );
        let mut next = Subtask::start(make, 0, 1, &[Some(subtask.part())]).unwrap();
        let mut lines = subtask.run(&[]);
        feed(
            &mut next.chain,
            &mut next.recorder,
            Batch::new(rows(&input[cut..])),
        );
        lines.extend(next.run(&[]));
        lines.dedup();
        let mut seen = std::collections::HashSet::new();
        lines.retain(|line| !line.starts_with("w ") || seen.insert(line.clone()));
        lines
    };
    let whole = run(input.len());
    (0..input.len()).for_each(|cut| assert_eq!(run(cut), whole, "cut after {cut} rows"));
}

#[test]
fn rows_without_a_split_and_punctuated_watermarks_go_on_as_they_were() {
    let input: Vec<(i64, i64)> = [5, 3, 9, 8, 14, 2, 20, 19, 30]
        .into_iter()
        .zip(0..)
        .map(|(time, key)| (key, time))
        .collect();
    check_cuts(never_idle, &input);
    check_cuts(punctuated, &input);
}

#[test]
fn damaged_generators_never_panic() {
    let mut old = Subtask::start(never_idle, 0, 1, &[]).unwrap();
    old.run(TWO_SPLITS);
    let part = old.part();
    for at in 0..part.object.len() {
        for flip in [0xff, 0x80, 0x01] {
            let mut damaged = part.clone();
            Arc::make_mut(&mut damaged.object)[at] ^= flip;
            if let Ok(mut subtask) = Subtask::start(never_idle, 0, 1, &[Some(damaged)]) {
                subtask.run(&[
                    Known(0),
                    Known(1),
                    Tells(Status::Active),
                    Rows(0, &[40]),
                    Finished(1),
                    Rows(0, &[50]),
                ]);
            }
        }
    }
}
