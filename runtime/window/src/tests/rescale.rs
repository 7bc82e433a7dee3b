//! Time windows whose job is stopped and resumes with another number of subtasks: the rows of all
//! of them together are those of one run.

use super::restore::{CONTENTS, Make, named_rows, share, some_rows, write};
use super::*;
use streamrt_operator::{Operator, Output};
use streamrt_state::{OperatorState, Part};
use streamrt_types::{Clock, Mark, Times, key_group, key_group_owner, murmur3_32};

const MAX_PARALLELISM: u32 = 16;

/// The window operators of a job, each after its gate.
struct Subtasks {
    chains: Vec<OperatorChain>,
    contexts: Vec<OperatorContext>,
    clock: Arc<ManualClock>,
    /// What all of them have sent, in order for each job and subtask.
    recorders: Vec<Recorder>,
}

impl Subtasks {
    fn start(parallelism: u32, now_ms: i64, make: &dyn Fn() -> WindowOperator) -> Subtasks {
        let (template, clock) = context();
        clock.set_ms(now_ms);
        let mut subtasks = Subtasks {
            chains: Vec::new(),
            contexts: Vec::new(),
            clock,
            recorders: Vec::new(),
        };
        for subtask in 0..parallelism {
            let key_groups = KeyGroupRange::of_subtask(MAX_PARALLELISM, parallelism, subtask);
            let context = OperatorContext {
                subtask,
                parallelism,
                key_groups,
                max_parallelism: MAX_PARALLELISM,
                ..template.clone()
            };
            let mut chain = OperatorChain::new();
            chain.push(
                Box::new(make()),
                context.clone(),
                vec![(0, Target::Exit(0)), (1, Target::Exit(1))],
            );
            chain.open().unwrap();
            subtasks.chains.push(chain);
            subtasks.contexts.push(context);
            subtasks.recorders.push(Recorder::default());
        }
        subtasks
    }

    fn snapshot(&mut self) -> Vec<Option<Part>> {
        self.chains
            .iter_mut()
            .map(|chain| Some(write(chain.snapshot(1).unwrap().remove(0).1)))
            .collect()
    }

    fn restart(
        mut self,
        parallelism: u32,
        make: &dyn Fn() -> WindowOperator,
        lines: &mut Vec<String>,
    ) -> Subtasks {
        let parts = self.snapshot();
        let mut next = Subtasks::start(parallelism, self.clock.now_ms(), make);
        self.finish(lines);
        for chain in &mut next.chains {
            chain
                .restore(|context| OperatorState::assemble("op", &parts, share(context)))
                .unwrap();
        }
        next
    }

    fn head(
        &mut self,
        subtask: usize,
        call: &mut dyn FnMut(&mut dyn Operator, &mut dyn Output) -> Result<()>,
    ) {
        self.chains[subtask]
            .head(&mut self.recorders[subtask], call)
            .unwrap();
    }

    fn watermark(&mut self, subtask: usize, watermark: Watermark) {
        self.head(subtask, &mut |operator, output| {
            operator.watermark(watermark, output)
        });
    }

    /// A row goes to the owner of its key, and the watermark after it to all.
    fn row(&mut self, row: (i64, i64), watermark: Option<Watermark>) {
        let group = key_group(murmur3_32(&row.0.to_le_bytes()), MAX_PARALLELISM);
        let owner = key_group_owner(group, MAX_PARALLELISM, self.chains.len() as u32);
        for subtask in 0..self.chains.len() {
            let rows = if subtask == owner as usize {
                vec![row]
            } else {
                Vec::new()
            };
            let marks = watermark
                .iter()
                .map(|&watermark| Mark {
                    row: rows.len() as u32,
                    watermark,
                })
                .collect();
            let mut batch = Some(Batch {
                times: Times::Column(1),
                marks,
                ..Batch::new(named_rows(&rows))
            });
            self.head(subtask, &mut |operator, output| {
                operator.batch(batch.take().unwrap(), output)
            });
        }
    }

    fn tick(&mut self, now_ms: i64) {
        self.clock.set_ms(now_ms);
        for (chain, recorder) in self.chains.iter_mut().zip(&mut self.recorders) {
            if chain
                .next_processing_time()
                .is_some_and(|time| time <= now_ms)
            {
                chain.processing_time(now_ms, recorder).unwrap();
            }
        }
    }

    fn finish(self, lines: &mut Vec<String>) {
        let all = self.recorders.into_iter().flat_map(Recorder::lines);
        lines.extend(all.filter(|line| line.starts_with('+') || line.starts_with("late ")));
    }

    fn end(mut self, lines: &mut Vec<String>) {
        (0..self.chains.len()).for_each(|subtask| self.watermark(subtask, WATERMARK_MAX));
        self.finish(lines);
    }
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

/// Runs `input` with a watermark 4 ms behind the greatest time; before row `i`, where (i, p) is in
/// `scales`, continues with p subtasks. `gates` says whether a gate sends again the watermark that
/// it had.
fn run_scaled(
    make: &dyn Fn() -> WindowOperator,
    input: Input<'_>,
    scales: &[(usize, u32)],
    gates: bool,
) -> Vec<String> {
    let mut lines = Vec::new();
    let mut subtasks = Subtasks::start(1, 0, make);
    let mut watermark = i64::MIN;
    for (i, &row) in input.iter().enumerate() {
        for &(_, parallelism) in scales.iter().filter(|(at, _)| *at == i) {
            subtasks = subtasks.restart(parallelism, make, &mut lines);
            if gates && watermark > i64::MIN {
                (0..parallelism as usize)
                    .for_each(|subtask| subtasks.watermark(subtask, watermark));
            }
        }
        let risen = Some(row.1 - 5).filter(|risen| *risen > watermark);
        watermark = risen.unwrap_or(watermark);
        subtasks.row(row, risen);
    }
    subtasks.end(&mut lines);
    sorted(lines)
}

fn of_time() -> [WindowAssigner; 5] {
    [
        tumbling(10),
        sliding(12, 4),
        sliding(9, 5),
        sliding(4, 7),
        session(4),
    ]
}

#[test]
fn any_number_of_subtasks_gives_the_same_rows() {
    let input: Vec<(i64, i64)> = some_rows(60)
        .into_iter()
        .enumerate()
        .map(|(i, (key, time))| (key + 4 * (i as i64 % 5), time))
        .collect();
    for assigner in of_time() {
        for (name, make) in CONTENTS {
            for lateness_ms in [0, 9] {
                let make = || make(assigner.clone(), lateness_ms);
                let whole = run_scaled(&make, &input, &[], false);
                assert!(whole.len() > 10);
                for at in 0..20 {
                    let scales = [(at, 2), (at + 18, 3), (at + 39, 1)];
                    let found = run_scaled(&make, &input, &scales, at % 2 == 0);
                    assert_eq!(
                        found, whole,
                        "{assigner:?} with {name}, lateness {lateness_ms}, from row {at}"
                    );
                }
            }
        }
    }
}

/// Two subtasks take `input`, rise to `watermarks`, and continue as three, as two and as one, with
/// nothing in between; then come `late` rows.
fn run_apart(
    make: &dyn Fn() -> WindowOperator,
    input: Input<'_>,
    watermarks: [Watermark; 2],
    late: Input<'_>,
) -> Vec<String> {
    let mut lines = Vec::new();
    let mut subtasks = Subtasks::start(2, 0, make);
    input.iter().for_each(|&row| subtasks.row(row, None));
    (0..2).for_each(|subtask| subtasks.watermark(subtask, watermarks[subtask]));
    for parallelism in [3, 2, 1] {
        subtasks = subtasks.restart(parallelism, make, &mut lines);
    }
    late.iter().for_each(|&row| subtasks.row(row, None));
    subtasks.end(&mut lines);
    sorted(lines)
}

#[test]
fn subtasks_that_stood_at_different_watermarks_go_on_from_the_greatest_and_no_window_fires_twice() {
    let input: Vec<(i64, i64)> = (0..48).map(|i| (i % 12, 20 + i / 4)).collect();
    for assigner in of_time() {
        for (name, make) in CONTENTS {
            let make = || make(assigner.clone(), 5);
            let whole = run_scaled(&make, &input, &[], false);
            for ahead in 15..45 {
                let what = format!("{assigner:?} with {name}, one subtask at {ahead}");
                assert_eq!(run_apart(&make, &input, [15, ahead], &[]), whole, "{what}");
                let late = run_apart(&make, &input, [ahead, ahead], &input[8..32]);
                assert_eq!(
                    run_apart(&make, &input, [15, ahead], &input[8..32]),
                    late,
                    "{what}"
                );
            }
        }
    }
}

/// (clock, row): before step `at` two subtasks, of which one has seen the clock and one has not,
/// become one.
fn run_clock(
    make: &dyn Fn() -> WindowOperator,
    input: &[(i64, (i64, i64))],
    at: Option<usize>,
) -> Vec<String> {
    let mut lines = Vec::new();
    let mut subtasks = Subtasks::start(if at.is_some() { 2 } else { 1 }, 0, make);
    for (step, &(now_ms, row)) in input.iter().enumerate() {
        if at == Some(step) {
            subtasks.clock.set_ms(now_ms);
            let (chain, recorder) = (&mut subtasks.chains[1], &mut subtasks.recorders[1]);
            if chain
                .next_processing_time()
                .is_some_and(|time| time <= now_ms)
            {
                chain.processing_time(now_ms, recorder).unwrap();
            }
            subtasks = subtasks.restart(1, make, &mut lines);
        }
        subtasks.tick(now_ms);
        subtasks.row(row, None);
    }
    subtasks.tick(1_000);
    subtasks.end(&mut lines);
    sorted(
        lines
            .into_iter()
            .filter(|line| line.starts_with('+'))
            .collect(),
    )
}

#[test]
fn windows_of_processing_time_go_on_from_the_clock_of_each_old_subtask() {
    let input: Vec<(i64, (i64, i64))> = (0..40).map(|i| (i * 3, (i % 6, i))).collect();
    let assigners = [
        WindowAssigner::Sliding {
            size_ms: 12,
            slide_ms: 4,
            offset_ms: 1,
            processing_time: true,
        },
        WindowAssigner::Session {
            gap_ms: 20,
            processing_time: true,
        },
    ];
    for assigner in assigners {
        for make in [builtin as Make, CONTENTS[2].1] {
            let make = || make(assigner.clone(), 0);
            let whole = run_clock(&make, &input, None);
            for at in 0..input.len() {
                assert_eq!(
                    run_clock(&make, &input, Some(at)),
                    whole,
                    "{assigner:?}, before step {at}"
                );
            }
        }
    }
}
