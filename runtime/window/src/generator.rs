//! Watermark generators, one per source split, and the minimum over them.
//!
//! Invariant: the combined watermark only rises, and never passes that of a split that may still
//! give rows: one that is known but has not begun holds it at its minimum, one that is finished or
//! idle leaves it. A split that had begun when a snapshot was taken continues from there, and holds
//! it no lower. The cost of a batch grows with the logarithm of the number of splits. Pure; the
//! timestamps operator calls it.
//!
//! # Source
//! Flink's `BoundedOutOfOrdernessWatermarks`, `WatermarkOutputMultiplexer` and
//! `WatermarksWithIdleness`; but a watermark rises right after the row that raises it, and a split
//! that waits for its turn is never idle.

use crate::generator_snapshot::{Kept, Restored};
use std::collections::{BTreeMap, BTreeSet};
use streamrt_operator::SplitTime;
use streamrt_types::{Mark, WATERMARK_MAX, WATERMARK_MIN, Watermark};

/// The number of rows whose greatest time is taken at once, to skip those that raise nothing.
const CHUNK: usize = 64;

/// A split; `None` stands for all rows without an origin.
type SplitNumber = Option<u64>;

/// The generator of one split.
struct Generator {
    greatest: i64,
    watermark: Watermark,
    idle: bool,
    /// Whether a row has come, in this run or before it.
    begun: bool,
    /// Since when no row has come although it was asked for some, on a clock that stands still
    /// under back-pressure.
    silent_since_ms: Option<i64>,
}

impl Generator {
    fn new() -> Generator {
        Generator {
            greatest: i64::MIN,
            watermark: WATERMARK_MIN,
            idle: false,
            begun: false,
            silent_since_ms: None,
        }
    }
}

/// The generators of one subtask.
pub(crate) struct Generators {
    by_split: BTreeMap<SplitNumber, Generator>,
    /// Those that are not idle, the furthest behind first.
    holding: BTreeSet<(Watermark, SplitNumber)>,
    /// Those that become idle if no row comes, the next one first.
    silent: BTreeSet<(i64, SplitNumber)>,
    /// How long the clock of silence has stood still.
    blocked_ms: i64,
    watermark: Watermark,
    /// Restored generators of splits that have not come back.
    restored: Restored,
    /// Whether a split was announced: then this is a source, and every split is announced before
    /// its rows come.
    told: bool,
}

/// The watermark after a row of time `time`: no row is expected to be more than `bound_ms` behind
/// the greatest.
#[inline]
fn bounded(time: i64, bound_ms: i64) -> Watermark {
    time.saturating_sub(bound_ms).saturating_sub(1)
}

/// In four lanes, which the compiler keeps in registers side by side.
#[inline]
fn greatest_of(times: &[i64]) -> i64 {
    let (quads, rest) = times.as_chunks::<4>();
    let mut lanes = [i64::MIN; 4];
    for quad in quads {
        for (lane, &time) in lanes.iter_mut().zip(quad) {
            *lane = (*lane).max(time);
        }
    }
    lanes
        .into_iter()
        .chain(rest.iter().copied())
        .fold(i64::MIN, i64::max)
}

impl Generators {
    pub(crate) fn new() -> Generators {
        Generators {
            by_split: BTreeMap::new(),
            holding: BTreeSet::new(),
            silent: BTreeSet::new(),
            blocked_ms: 0,
            watermark: WATERMARK_MIN,
            restored: Restored::default(),
            told: false,
        }
    }

    /// What a snapshot keeps: the generators that have begun or are idle, and those that ran here
    /// and have not come back.
    pub(crate) fn kept(&self) -> impl Iterator<Item = Kept> {
        let keep = |(
            &split,
            &Generator {
                greatest,
                watermark,
                idle,
                ..
            },
        ): (&SplitNumber, &Generator)| Kept {
            split,
            greatest,
            watermark,
            idle,
        };
        self.by_split
            .iter()
            .filter(|(_, generator)| generator.begun || generator.idle)
            .map(keep)
            .chain(self.restored.own())
    }

    /// Whether some split may still give rows.
    pub(crate) fn has_splits(&self) -> bool {
        !self.by_split.is_empty() || self.restored.own().next().is_some()
    }

    pub(crate) fn watermark(&self) -> Watermark {
        self.watermark
    }

    /// How far a split has come.
    pub(crate) fn split_time(&self, split: u64) -> SplitTime {
        match self.by_split.get(&Some(split)) {
            Some(generator) => SplitTime {
                watermark: generator.watermark,
                idle: generator.idle,
            },
            None => SplitTime {
                watermark: WATERMARK_MIN,
                idle: false,
            },
        }
    }

    /// Continues from a snapshot: `watermark` has been sent already, and generators wait for their
    /// splits in `restored`.
    pub(crate) fn restore(&mut self, watermark: Watermark, restored: Restored) {
        (self.watermark, self.restored) = (watermark, restored);
    }

    /// The input begins. If no split was announced, none will be, because this is not a source: all
    /// generators that ran here continue, and hold the watermark as they did before one of them has
    /// a row.
    pub(crate) fn settle(&mut self, now_ms: i64) {
        if !self.told {
            for kept in self.restored.take_own() {
                self.run_on(kept);
                self.turn(kept.split, now_ms);
            }
        }
    }

    fn run_on(
        &mut self,
        Kept {
            split,
            greatest,
            watermark,
            idle,
        }: Kept,
    ) {
        self.insert(
            split,
            Generator {
                greatest,
                watermark,
                idle,
                begun: true,
                silent_since_ms: None,
            },
        );
    }

    fn insert(&mut self, split: SplitNumber, generator: Generator) {
        if !generator.idle {
            self.holding.insert((generator.watermark, split));
        }
        self.by_split.insert(split, generator);
    }

    /// Adds a split, from the snapshot if that has it.
    fn add(&mut self, split: SplitNumber) {
        match self.restored.take(split) {
            Some(kept) => self.run_on(kept),
            None => self.insert(split, Generator::new()),
        }
    }

    /// A split will come, or come back.
    pub(crate) fn known(&mut self, split: u64) {
        self.told = true;
        if !self.by_split.contains_key(&Some(split)) {
            self.add(Some(split));
        }
    }

    /// From now on the silence of a split counts.
    pub(crate) fn turn(&mut self, split: SplitNumber, now_ms: i64) {
        if let Some(generator) = self
            .by_split
            .get_mut(&split)
            .filter(|generator| !generator.idle && generator.silent_since_ms.is_none())
        {
            let since_ms = now_ms - self.blocked_ms;
            generator.silent_since_ms = Some(since_ms);
            self.silent.insert((since_ms, split));
        }
    }

    /// Nobody asks the split for rows, so its silence means nothing.
    pub(crate) fn waits(&mut self, split: SplitNumber) {
        if let Some(since_ms) = self
            .by_split
            .get_mut(&split)
            .and_then(|generator| generator.silent_since_ms.take())
        {
            self.silent.remove(&(since_ms, split));
        }
    }

    /// A split is at its end. Returns the watermark if it rises.
    pub(crate) fn finished(&mut self, split: u64) -> Option<Watermark> {
        let split = Some(split);
        self.restored.take(split);
        self.waits(split);
        if let Some(generator) = self.by_split.remove(&split) {
            self.holding.remove(&(generator.watermark, split));
        }
        self.rise()
    }

    /// Rows of a split have come, so it is not idle.
    pub(crate) fn begin(&mut self, split: SplitNumber, now_ms: i64) {
        self.settle(now_ms);
        if !self.by_split.contains_key(&split) {
            self.add(split);
        }
        self.waits(split);
        if let Some(generator) = self.by_split.get_mut(&split) {
            generator.begun = true;
            if std::mem::take(&mut generator.idle) {
                self.holding.insert((generator.watermark, split));
            }
        }
        self.turn(split, now_ms);
    }

    /// Marks for rows of these times: the watermark of the split is `greatest time - bound_ms - 1`.
    /// Rows later than `latest` are ignored.
    pub(crate) fn bounded_marks(
        &mut self,
        split: SplitNumber,
        times: &[i64],
        bound_ms: i64,
        latest: i64,
    ) -> Vec<Mark> {
        let ceiling = self.ceiling(split);
        let mut marks = Vec::new();
        let Some(generator) = self.by_split.get_mut(&split) else {
            return marks;
        };
        for (number, chunk) in times.chunks(CHUNK).enumerate() {
            if greatest_of(chunk) <= generator.greatest {
                continue;
            }
            for (i, &time) in chunk.iter().enumerate() {
                if time > generator.greatest && time <= latest {
                    generator.greatest = time;
                    push_mark(
                        &mut marks,
                        &mut self.watermark,
                        number * CHUNK + i,
                        bounded(time, bound_ms).min(ceiling),
                    );
                }
            }
        }
        let watermark = bounded(generator.greatest, bound_ms);
        self.reached(split, watermark);
        marks
    }

    /// Marks for rows of which some carry a watermark. One that is later than `latest` is ignored.
    pub(crate) fn punctuated_marks(
        &mut self,
        split: SplitNumber,
        watermarks: &[Option<Watermark>],
        latest: i64,
    ) -> Vec<Mark> {
        let ceiling = self.ceiling(split);
        let mut marks = Vec::new();
        let mut reached = WATERMARK_MIN;
        let said = watermarks
            .iter()
            .enumerate()
            .filter_map(|(row, watermark)| Some((row, (*watermark)?)));
        for (row, watermark) in said.filter(|(_, watermark)| *watermark <= latest) {
            reached = reached.max(watermark);
            push_mark(&mut marks, &mut self.watermark, row, reached.min(ceiling));
        }
        self.reached(split, reached);
        marks
    }

    /// The watermark of a split rises.
    fn reached(&mut self, split: SplitNumber, watermark: Watermark) {
        if let Some(generator) = self
            .by_split
            .get_mut(&split)
            .filter(|generator| generator.watermark < watermark)
        {
            self.holding.remove(&(generator.watermark, split));
            generator.watermark = watermark;
            self.holding.insert((watermark, split));
        }
    }

    /// How far the others allow the watermark to rise.
    fn ceiling(&self, split: SplitNumber) -> Watermark {
        self.holding
            .iter()
            .find(|(_, other)| *other != split)
            .map_or(WATERMARK_MAX, |(watermark, _)| *watermark)
    }

    /// Raises the watermark to the minimum. Without any split that holds it there is no minimum.
    fn rise(&mut self) -> Option<Watermark> {
        let (least, _) = *self.holding.first()?;
        self.raise(least)
    }

    fn raise(&mut self, watermark: Watermark) -> Option<Watermark> {
        let rises = watermark > self.watermark;
        self.watermark = self.watermark.max(watermark);
        rises.then_some(watermark)
    }

    /// When the next split becomes idle if no row comes.
    pub(crate) fn next_idle_ms(&self, idle_ms: i64) -> Option<i64> {
        let (since_ms, _) = self.silent.first()?;
        Some(
            since_ms
                .saturating_add(idle_ms)
                .saturating_add(self.blocked_ms),
        )
    }

    /// Takes silent splits out of the minimum. Returns the watermark if it rises: over all, if all
    /// are idle now, the maximum.
    pub(crate) fn expire(&mut self, now_ms: i64, idle_ms: i64) -> Option<Watermark> {
        while self
            .next_idle_ms(idle_ms)
            .is_some_and(|due_ms| due_ms <= now_ms)
            && let Some((_, split)) = self.silent.pop_first()
        {
            self.turn_idle(split);
        }
        if !self.all_idle() {
            return self.rise();
        }
        let most = self
            .by_split
            .values()
            .map(|generator| generator.watermark)
            .max();
        most.and_then(|most| self.raise(most))
    }

    fn turn_idle(&mut self, split: SplitNumber) {
        if let Some(generator) = self.by_split.get_mut(&split) {
            (generator.idle, generator.silent_since_ms) = (true, None);
            self.holding.remove(&(generator.watermark, split));
        }
    }

    /// Whether nothing is to be expected for now.
    pub(crate) fn all_idle(&self) -> bool {
        !self.by_split.is_empty() && self.holding.is_empty()
    }

    /// Stops the clocks of all splits for the time that the output blocked.
    pub(crate) fn pause(&mut self, blocked_ms: i64) {
        self.blocked_ms = self.blocked_ms.saturating_add(blocked_ms);
    }
}

/// Adds a mark after row `row`, if it is a rise.
#[inline]
fn push_mark(marks: &mut Vec<Mark>, output: &mut Watermark, row: usize, watermark: Watermark) {
    if watermark > *output {
        *output = watermark;
        marks.push(Mark {
            row: row as u32 + 1,
            watermark,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn marks(
        generators: &mut Generators,
        split: Option<u64>,
        times: &[i64],
        bound_ms: i64,
    ) -> Vec<(u32, Watermark)> {
        generators.begin(split, 0);
        generators
            .bounded_marks(split, times, bound_ms, i64::MAX)
            .iter()
            .map(|mark| (mark.row, mark.watermark))
            .collect()
    }

    #[test]
    fn bounded_out_of_orderness_emits_max_less_bound_less_one_right_after_the_row() {
        assert_eq!(
            marks(&mut Generators::new(), None, &[10, 9, 12, 12, 11], 2),
            [(1, 7), (3, 9)]
        );
        assert_eq!(
            marks(&mut Generators::new(), None, &[10, 11], 0),
            [(1, 9), (2, 10)]
        );
    }

    #[test]
    fn bounds_saturate() {
        assert_eq!(
            marks(
                &mut Generators::new(),
                None,
                &[i64::MIN, i64::MIN + 5, i64::MAX],
                10
            ),
            [(3, i64::MAX - 11)]
        );
    }

    #[test]
    fn a_known_split_that_has_not_begun_holds_the_watermark() {
        let mut generators = Generators::new();
        generators.known(0);
        generators.known(1);
        assert_eq!(marks(&mut generators, Some(0), &[10], 0), []);
        assert_eq!(
            marks(&mut generators, Some(1), &[4, 12], 0),
            [(1, 3), (2, 9)]
        );
        assert_eq!(generators.finished(0), Some(11));
        assert_eq!(generators.finished(1), None);
        generators.known(2);
        assert_eq!(marks(&mut generators, Some(2), &[5, 20], 0), [(2, 19)]);
    }

    #[test]
    fn a_silent_split_leaves_the_minimum_and_all_idle_gives_the_maximum() {
        let mut generators = Generators::new();
        marks(&mut generators, Some(0), &[10], 0);
        generators.begin(Some(1), 50);
        assert_eq!(generators.bounded_marks(Some(1), &[4], 0, i64::MAX), []);
        assert_eq!(generators.next_idle_ms(100), Some(100));
        assert_eq!(
            (generators.expire(100, 100), generators.all_idle()),
            (None, false)
        );
        assert_eq!(
            (generators.expire(150, 100), generators.all_idle()),
            (None, true),
            "9 was out already"
        );
        generators.begin(Some(1), 160);
        assert!(!generators.all_idle());
        generators.pause(30);
        assert_eq!(generators.next_idle_ms(100), Some(290));
    }

    #[test]
    fn all_idle_emits_the_greatest_watermark() {
        let mut generators = Generators::new();
        generators.begin(Some(1), 0);
        marks(&mut generators, Some(0), &[10], 0);
        assert_eq!(
            (generators.expire(7, 7), generators.all_idle()),
            (Some(9), true)
        );
    }

    #[test]
    fn a_split_that_waits_for_its_turn_is_never_idle_and_one_without_a_row_can_be() {
        let mut generators = Generators::new();
        (0..3).for_each(|split| generators.known(split));
        assert_eq!(
            generators.next_idle_ms(100),
            None,
            "nobody has asked for a row"
        );
        assert_eq!(marks(&mut generators, Some(0), &[10], 0), []);
        generators.waits(Some(0));
        generators.turn(Some(1), 5);
        assert_eq!(generators.next_idle_ms(100), Some(105));
        generators.turn(Some(2), 50);
        assert_eq!(generators.expire(105, 100), None, "split 2 still holds it");
        assert_eq!(
            (generators.expire(150, 100), generators.all_idle()),
            (Some(9), false)
        );
        assert_eq!(
            generators.split_time(1),
            SplitTime {
                watermark: WATERMARK_MIN,
                idle: true
            }
        );
        assert_eq!(generators.next_idle_ms(100), None);
        generators.turn(Some(0), 900);
        assert_eq!(generators.next_idle_ms(100), Some(1000));
    }

    proptest! {
        /// Whatever the batches are, the watermark after each row is that of a plain loop.
        #[test]
        fn marks_are_those_of_a_plain_loop(times in prop::collection::vec(-50i64..50, 0..300), rows in 1usize..200, bound in 0i64..20) {
            let mut generators = Generators::new();
            let (mut expected, mut found, mut last) = (Vec::new(), Vec::new(), WATERMARK_MIN);
            for (start, piece) in times.chunks(rows).enumerate().map(|(i, piece)| (i * rows, piece)) {
                found.extend(marks(&mut generators, None, piece, bound).into_iter().map(|(row, w)| (start + row as usize, w)));
            }
            for (row, time) in times.iter().enumerate() {
                if time - bound - 1 > last {
                    last = time - bound - 1;
                    expected.push((row + 1, last));
                }
            }
            prop_assert_eq!(found, expected);
        }
    }
}
