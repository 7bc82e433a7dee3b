//! Watermark generators, one for each source split, and the minimum over them.
//!
//! Invariant: the combined watermark only rises, and never passes that of a split that may still give rows: one that is known but has not
//! begun holds it at its minimum, one that is finished or idle leaves it. A split that had begun when a snapshot was taken goes on from
//! there, and holds it no lower. Pure; the timestamps operator calls it.
//!
//! # Source
//! Flink's `BoundedOutOfOrdernessWatermarks`, `WatermarkOutputMultiplexer` and `WatermarksWithIdleness`; but a watermark rises right after
//! the row that raises it, and a split that waits for its turn is never idle.

use crate::generator_snapshot::{Kept, Restored};
use std::collections::BTreeSet;
use streamrt_types::{Mark, WATERMARK_MAX, WATERMARK_MIN, Watermark};

/// Rows whose greatest time is taken at once, to pass over those that raise nothing.
const CHUNK: usize = 64;

/// The generator of one split that has begun.
struct Running {
    /// `None`: of all rows without an origin.
    split: Option<u32>,
    greatest: i64,
    watermark: Watermark,
    idle: bool,
    /// When its last row came, on a clock that stands still under back-pressure.
    last_row_ms: i64,
}

/// The generators of one subtask.
pub(crate) struct Generators {
    /// Known splits that have not begun.
    waiting: BTreeSet<u32>,
    running: Vec<Running>,
    watermark: Watermark,
    /// Of splits that have not come back.
    restored: Restored,
    /// A split was told: this is a source, and every split is told before its rows come.
    told: bool,
}

/// The watermark after a row of time `time`: no row is expected to be more than `bound_ms` behind the greatest.
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
    lanes.into_iter().chain(rest.iter().copied()).fold(i64::MIN, i64::max)
}

impl Generators {
    pub(crate) fn new() -> Generators {
        let restored = Restored::default();
        Generators { waiting: BTreeSet::new(), running: Vec::new(), watermark: WATERMARK_MIN, restored, told: false }
    }

    /// What a snapshot keeps: the generators that run, and those that ran here and have not begun again.
    pub(crate) fn kept(&self) -> impl Iterator<Item = Kept> {
        let keep = |&Running { split, greatest, watermark, idle, .. }: &Running| Kept { split, greatest, watermark, idle };
        self.running.iter().map(keep).chain(self.restored.own())
    }

    /// Whether some split may still give rows.
    pub(crate) fn has_splits(&self) -> bool {
        !self.waiting.is_empty() || self.kept().next().is_some()
    }

    pub(crate) fn watermark(&self) -> Watermark {
        self.watermark
    }

    /// Goes on from a snapshot: `watermark` is out already, and generators wait for their splits in `restored`.
    pub(crate) fn restore(&mut self, watermark: Watermark, restored: Restored) {
        (self.watermark, self.restored) = (watermark, restored);
    }

    /// The input begins. If no split was told, none will be, because this is no source: all that ran here run on, and hold the watermark as
    /// they did before one of them has a row.
    pub(crate) fn settle(&mut self, now_ms: i64) {
        if !self.told {
            let own = self.restored.take_own();
            own.into_iter().for_each(|kept| self.run_on(kept, now_ms));
        }
    }

    fn run_on(&mut self, Kept { split, greatest, watermark, idle }: Kept, now_ms: i64) {
        self.running.push(Running { split, greatest, watermark, idle, last_row_ms: now_ms });
    }

    fn runs(&self, split: Option<u32>) -> bool {
        self.running.iter().any(|running| running.split == split)
    }

    /// A split will come, or come back.
    pub(crate) fn known(&mut self, split: u32, now_ms: i64) {
        self.told = true;
        if self.runs(Some(split)) {
            return;
        }
        match self.restored.take(Some(split)) {
            Some(kept) => self.run_on(kept, now_ms),
            None => drop(self.waiting.insert(split)),
        }
    }

    /// A split is at its end. Returns the watermark if it rises.
    pub(crate) fn finished(&mut self, split: u32) -> Option<Watermark> {
        self.waiting.remove(&split);
        self.restored.take(Some(split));
        self.running.retain(|running| running.split != Some(split));
        self.rise()
    }

    /// Rows of a split have come: it is not idle. Returns its place.
    pub(crate) fn begin(&mut self, split: Option<u32>, now_ms: i64) -> usize {
        self.settle(now_ms);
        if !self.runs(split)
            && let Some(kept) = self.restored.take(split)
        {
            self.run_on(kept, now_ms);
        }
        let found = self.running.iter().position(|running| running.split == split);
        let place = found.unwrap_or_else(|| {
            if let Some(split) = split {
                self.waiting.remove(&split);
            }
            self.running.push(Running { split, greatest: i64::MIN, watermark: WATERMARK_MIN, idle: false, last_row_ms: now_ms });
            self.running.len() - 1
        });
        let running = &mut self.running[place];
        (running.idle, running.last_row_ms) = (false, now_ms);
        place
    }

    /// Marks for rows of these times: the generator at `place` says greatest time - `bound_ms` - 1.
    pub(crate) fn bounded_marks(&mut self, place: usize, times: &[i64], bound_ms: i64) -> Vec<Mark> {
        let ceiling = self.ceiling(place);
        let mut marks = Vec::new();
        let running = &mut self.running[place];
        for (number, chunk) in times.chunks(CHUNK).enumerate() {
            if greatest_of(chunk) <= running.greatest {
                continue;
            }
            for (i, &time) in chunk.iter().enumerate() {
                if time > running.greatest {
                    running.greatest = time;
                    push_mark(&mut marks, &mut self.watermark, number * CHUNK + i, bounded(time, bound_ms).min(ceiling));
                }
            }
        }
        running.watermark = running.watermark.max(bounded(running.greatest, bound_ms));
        marks
    }

    /// Marks for rows of which some carry a watermark.
    pub(crate) fn punctuated_marks(&mut self, place: usize, watermarks: &[Option<Watermark>]) -> Vec<Mark> {
        let ceiling = self.ceiling(place);
        let mut marks = Vec::new();
        let running = &mut self.running[place];
        for (row, watermark) in watermarks.iter().enumerate().filter_map(|(row, watermark)| Some((row, (*watermark)?))) {
            running.watermark = running.watermark.max(watermark);
            push_mark(&mut marks, &mut self.watermark, row, running.watermark.min(ceiling));
        }
        marks
    }

    /// How far the others let the watermark rise.
    fn ceiling(&self, place: usize) -> Watermark {
        if !self.waiting.is_empty() {
            return WATERMARK_MIN;
        }
        let others = self.running.iter().enumerate().filter(|(i, running)| *i != place && !running.idle);
        others.map(|(_, running)| running.watermark).min().unwrap_or(WATERMARK_MAX)
    }

    /// Raises the watermark to the minimum. Without any split that runs there is nothing to go by.
    fn rise(&mut self) -> Option<Watermark> {
        let least = self.running.iter().filter(|running| !running.idle).map(|running| running.watermark).min();
        self.raise(least.filter(|_| self.waiting.is_empty())?)
    }

    fn raise(&mut self, watermark: Watermark) -> Option<Watermark> {
        let rises = watermark > self.watermark;
        self.watermark = self.watermark.max(watermark);
        rises.then_some(watermark)
    }

    /// When the next split turns idle if no row comes.
    pub(crate) fn next_idle_ms(&self, idle_ms: i64) -> Option<i64> {
        self.running.iter().filter(|running| !running.idle).map(|running| running.last_row_ms.saturating_add(idle_ms)).min()
    }

    /// Takes silent splits out of the minimum. Returns the watermark if it rises: over all, if all are idle now, the maximum.
    pub(crate) fn expire(&mut self, now_ms: i64, idle_ms: i64) -> Option<Watermark> {
        for running in &mut self.running {
            running.idle |= running.last_row_ms.saturating_add(idle_ms) <= now_ms;
        }
        if !self.all_idle() {
            return self.rise();
        }
        let most = self.running.iter().map(|running| running.watermark).max();
        most.and_then(|most| self.raise(most))
    }

    /// Whether nothing is to be expected for now.
    pub(crate) fn all_idle(&self) -> bool {
        self.waiting.is_empty() && !self.running.is_empty() && self.running.iter().all(|running| running.idle)
    }

    /// Sets the clocks of all splits forward by the time that the output blocked.
    pub(crate) fn pause(&mut self, blocked_ms: i64) {
        self.running.iter_mut().for_each(|running| running.last_row_ms = running.last_row_ms.saturating_add(blocked_ms));
    }
}

/// Adds a mark behind row `row`, if it is a rise.
#[inline]
fn push_mark(marks: &mut Vec<Mark>, output: &mut Watermark, row: usize, watermark: Watermark) {
    if watermark > *output {
        *output = watermark;
        marks.push(Mark { row: row as u32 + 1, watermark });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn marks(generators: &mut Generators, split: Option<u32>, times: &[i64], bound_ms: i64) -> Vec<(u32, Watermark)> {
        let place = generators.begin(split, 0);
        generators.bounded_marks(place, times, bound_ms).iter().map(|mark| (mark.row, mark.watermark)).collect()
    }

    #[test]
    fn bounded_out_of_orderness_emits_max_less_bound_less_one_right_after_the_row() {
        assert_eq!(marks(&mut Generators::new(), None, &[10, 9, 12, 12, 11], 2), [(1, 7), (3, 9)]);
        assert_eq!(marks(&mut Generators::new(), None, &[10, 11], 0), [(1, 9), (2, 10)]);
    }

    #[test]
    fn bounds_saturate() {
        assert_eq!(marks(&mut Generators::new(), None, &[i64::MIN, i64::MIN + 5, i64::MAX], 10), [(3, i64::MAX - 11)]);
    }

    #[test]
    fn a_known_split_that_has_not_begun_holds_the_watermark() {
        let mut generators = Generators::new();
        generators.known(0, 0);
        generators.known(1, 0);
        assert_eq!(marks(&mut generators, Some(0), &[10], 0), []);
        assert_eq!(marks(&mut generators, Some(1), &[4, 12], 0), [(1, 3), (2, 9)]);
        assert_eq!(generators.finished(0), Some(11));
        assert_eq!(generators.finished(1), None);
        generators.known(2, 0);
        assert_eq!(marks(&mut generators, Some(2), &[5, 20], 0), [(2, 19)]);
    }

    #[test]
    fn a_silent_split_leaves_the_minimum_and_all_idle_gives_the_maximum() {
        let mut generators = Generators::new();
        marks(&mut generators, Some(0), &[10], 0);
        let place = generators.begin(Some(1), 50);
        assert_eq!(generators.bounded_marks(place, &[4], 0), []);
        assert_eq!(generators.next_idle_ms(100), Some(100));
        assert_eq!((generators.expire(100, 100), generators.all_idle()), (None, false));
        assert_eq!((generators.expire(150, 100), generators.all_idle()), (None, true), "9 was out already");
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
        assert_eq!((generators.expire(7, 7), generators.all_idle()), (Some(9), true));
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
