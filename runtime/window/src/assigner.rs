//! Which windows contain a time. A window is `[start, end)` in ms since the epoch, and its results
//! carry `end - 1`.
//!
//! Invariant: nothing here overflows for times and watermarks within [`TIME_MAX`] of the epoch and
//! sizes up to [`SIZE_MAX`]. Both window paths, panes and windows of a key, use it.
//!
//! # Source
//! Flink's `TimeWindow`, `TumblingEventTimeWindows`, `SlidingEventTimeWindows` and
//! `EventTimeSessionWindows`.

use streamrt_types::{Error, Result, Watermark, code};
use streamrt_wit::WindowAssigner;

/// Times further from the epoch, 73 million years, are refused.
pub(crate) const TIME_MAX: i64 = 1 << 61;
/// Windows may not be larger, so that their ends are times as well.
const SIZE_MAX: i64 = 1 << 59;
/// The most windows that may contain one time: each of them fires by itself, with nearly the same
/// result.
const OVERLAP_MAX: i64 = 10_000;

/// A window of time, the end exclusive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TimeWindow {
    pub start: i64,
    pub end: i64,
}

impl TimeWindow {
    /// All time: the one window of the global and of the count assigner.
    pub(crate) const GLOBAL: TimeWindow = TimeWindow {
        start: i64::MIN,
        end: i64::MAX,
    };

    /// The last ms in the window, which its results carry. The global window ends after every time
    /// there is.
    pub(crate) fn max_timestamp(&self) -> i64 {
        if self.end == i64::MAX {
            i64::MAX
        } else {
            self.end - 1
        }
    }

    /// The watermark that removes the window.
    pub(crate) fn cleanup_time(&self, lateness_ms: i64) -> i64 {
        self.max_timestamp().saturating_add(lateness_ms)
    }

    /// Sessions that merely touch merge too.
    pub(crate) fn touches(&self, other: &TimeWindow) -> bool {
        self.start <= other.end && self.end >= other.start
    }

    pub(crate) fn cover(&self, other: &TimeWindow) -> TimeWindow {
        TimeWindow {
            start: self.start.min(other.start),
            end: self.end.max(other.end),
        }
    }
}

/// The greatest `origin + n * step` at or before `time`: Flink's truncating rule, which rounds down
/// before the epoch too.
#[inline]
fn floor(time: i64, origin: i64, step: i64) -> i64 {
    time - (time - origin).rem_euclid(step)
}

/// One window every `slide` ms, each `size` ms long. Tumbling windows slide by their size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlidingWindows {
    pub size: i64,
    pub slide: i64,
    pub offset: i64,
}

impl SlidingWindows {
    /// # Errors
    /// `Invalid` if size or slide are not positive or out of range, or if too many windows cover
    /// one time.
    pub(crate) fn new(size: i64, slide: i64, offset: i64) -> Result<SlidingWindows> {
        let refuse = |what: &str, ms: i64| {
            Err(Error::new(
                code::INVALID_JOB,
                format!("a window cannot have a {what} of {ms} ms"),
            ))
        };
        match (size, slide, offset) {
            (..=0 | SIZE_MAX.., ..) => refuse("size", size),
            (_, ..=0 | SIZE_MAX.., _) => refuse("slide", slide),
            (_, _, offset) if offset.checked_abs().is_none_or(|offset| offset >= slide) => {
                refuse("offset", offset)
            }
            _ => {
                let windows = SlidingWindows {
                    size,
                    slide,
                    offset,
                };
                windows
                    .check_overlap(OVERLAP_MAX, "the limit is")
                    .map(|()| windows)
            }
        }
    }

    /// Refuses windows of which more than `most` cover one time; `limit` says whose limit that is.
    ///
    /// # Errors
    /// `Invalid` (S2015).
    pub(crate) fn check_overlap(&self, most: i64, limit: &str) -> Result<()> {
        let SlidingWindows { size, slide, .. } = *self;
        if size / slide <= most {
            return Ok(());
        }
        let message = format!(
            "windows of {size} ms that slide by {slide} ms put a row into {} windows; {limit} {most}",
            size / slide
        );
        Err(Error::new(code::WINDOW_OVERLAP, message))
    }

    /// Where windows end within a slide, counted from where one begins.
    #[inline]
    fn end_in_slide(&self) -> i64 {
        self.size % self.slide
    }

    /// The start of the pane that contains `time`. A pane lies between two neighbouring edges of
    /// windows, so there are at most two per slide, whatever the greatest common divisor of size
    /// and slide.
    #[inline]
    pub(crate) fn pane_start(&self, time: i64) -> i64 {
        let start = floor(time, self.offset, self.slide);
        let edge = start + self.end_in_slide();
        if time >= edge { edge } else { start }
    }

    /// The exclusive end of the pane that contains `time`.
    #[inline]
    pub(crate) fn pane_end(&self, time: i64) -> i64 {
        let start = floor(time, self.offset, self.slide);
        let edge = start + self.end_in_slide();
        if time >= edge {
            start + self.slide
        } else {
            edge
        }
    }

    /// Panes are numbered in their order.
    pub(crate) fn pane_number(&self, time: i64) -> i64 {
        let (slide, edge) = (
            (time - self.offset).div_euclid(self.slide),
            self.end_in_slide(),
        );
        if edge == 0 {
            slide
        } else {
            2 * slide + i64::from(time - self.offset - slide * self.slide >= edge)
        }
    }

    /// The start of pane `number`.
    pub(crate) fn start_of_pane(&self, number: i64) -> i64 {
        match self.end_in_slide() {
            0 => self.offset + number * self.slide,
            edge => self.offset + number.div_euclid(2) * self.slide + number.rem_euclid(2) * edge,
        }
    }

    /// Whether `time` begins a pane as older versions cut them: all of one length, the greatest
    /// common divisor of size and slide. None of these overlaps two of ours.
    pub(crate) fn begins_old_pane(&self, time: i64) -> bool {
        let (mut a, mut b) = (self.size, self.slide);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        floor(time, self.offset, a) == time
    }

    /// The greatest end of a window at or before `time`.
    #[inline]
    pub(crate) fn end_at_or_before(&self, time: i64) -> i64 {
        floor(time, self.offset + self.size, self.slide)
    }

    /// The end of the last window that covers `time`, if one does: there are gaps if the slide is
    /// greater than the size.
    pub(crate) fn last_end(&self, time: i64) -> Option<i64> {
        let end = floor(time, self.offset, self.slide) + self.size;
        (end > time).then_some(end)
    }

    pub(crate) fn has_gaps(&self) -> bool {
        self.slide > self.size
    }

    /// The windows that cover `time`, from the last one back.
    pub(crate) fn windows(&self, time: i64) -> impl Iterator<Item = TimeWindow> + use<> {
        let SlidingWindows { size, slide, .. } = *self;
        let last = floor(time, self.offset, slide);
        (0..)
            .map(move |n| last - n * slide)
            .take_while(move |&start| start > time - size)
            .map(move |start| TimeWindow {
                start,
                end: start + size,
            })
    }
}

/// How rows come to windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Assigner {
    Sliding(SlidingWindows),
    Session { gap_ms: i64 },
    Global,
    Count { rows: u64 },
}

impl Assigner {
    /// The assigner, and whether it goes by the clock.
    ///
    /// # Errors
    /// `Invalid` if a size, slide, gap or count is out of range.
    pub(crate) fn new(assigner: &WindowAssigner) -> Result<(Assigner, bool)> {
        let refuse = |message: String| Err(Error::new(code::INVALID_JOB, message));
        match *assigner {
            WindowAssigner::Tumbling {
                size_ms,
                offset_ms,
                processing_time,
            } => Ok((
                Assigner::Sliding(SlidingWindows::new(size_ms, size_ms, offset_ms)?),
                processing_time,
            )),
            WindowAssigner::Sliding {
                size_ms,
                slide_ms,
                offset_ms,
                processing_time,
            } => Ok((
                Assigner::Sliding(SlidingWindows::new(size_ms, slide_ms, offset_ms)?),
                processing_time,
            )),
            WindowAssigner::Session {
                gap_ms: gap_ms @ (..=0 | SIZE_MAX..),
                ..
            } => refuse(format!("a session cannot have a gap of {gap_ms} ms")),
            WindowAssigner::Session {
                gap_ms,
                processing_time,
            } => Ok((Assigner::Session { gap_ms }, processing_time)),
            WindowAssigner::Global => Ok((Assigner::Global, false)),
            WindowAssigner::Count { rows: 0 } => {
                refuse("a window cannot have a count of 0 rows".into())
            }
            WindowAssigner::Count { rows } => Ok((Assigner::Count { rows }, false)),
        }
    }

    /// Whether a row can be in several windows.
    pub(crate) fn overlaps(&self) -> bool {
        matches!(self, Assigner::Sliding(windows) if windows.size > windows.slide)
    }

    /// Whether windows begin and end in time.
    pub(crate) fn is_timed(&self) -> bool {
        matches!(self, Assigner::Sliding(_) | Assigner::Session { .. })
    }
}

/// The watermark, clamped to where windows can be, so that computing with it does not overflow.
pub(crate) fn within_reach(watermark: Watermark) -> Watermark {
    watermark.clamp(-2 * TIME_MAX, 2 * TIME_MAX - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(size: i64, slide: i64, offset: i64, time: i64, starts: &[i64]) {
        let windows = SlidingWindows::new(size, slide, offset).unwrap();
        let found: Vec<i64> = windows.windows(time).map(|window| window.start).collect();
        assert_eq!(
            found, starts,
            "size {size} slide {slide} offset {offset} time {time}"
        );
    }

    #[test]
    fn tumbling_start_is_truncating_and_minus_one_lies_in_minus_ten_to_zero() {
        check(10, 10, 0, -1, &[-10]);
        check(10, 10, 0, 0, &[0]);
        check(10, 10, 0, -10, &[-10]);
        check(10, 10, 3, 2, &[-7]);
        check(10, 10, -3, 7, &[7]);
    }

    #[test]
    fn sliding_begins_at_the_last_start_and_steps_back_while_start_is_after_time_less_size() {
        check(10, 5, 0, 12, &[10, 5]);
        check(10, 5, 0, -1, &[-5, -10]);
        check(10, 4, 0, 9, &[8, 4, 0]);
        check(10, 25, 0, 12, &[]);
        check(10, 25, 0, 29, &[25]);
    }

    #[test]
    fn a_slide_has_two_panes_at_most() {
        let day = 86_400_000;
        let check = |size: i64, slide: i64, panes: i64| {
            let windows = SlidingWindows::new(size, slide, 0).unwrap();
            assert_eq!(
                windows.pane_number(size) - windows.pane_number(0),
                panes,
                "size {size} slide {slide}"
            );
        };
        check(day, 10_000, 8640);
        check(day + 1, 10_000, 2 * 8640 + 1);
        check(10, 4, 5);
        check(10, 25, 1);
        check(10_000, 1, 10_000);
    }

    #[test]
    fn windows_that_overlap_beyond_reason_are_refused() {
        let error = |size, slide| SlidingWindows::new(size, slide, 0).unwrap_err();
        assert_eq!(error(10_001, 1).code(), code::WINDOW_OVERLAP);
        let message = "windows of 1125899906842624 ms that slide by 1 ms put a row into 1125899906842624 windows; the limit is 10000";
        assert_eq!(error(1 << 50, 1).message(), message);
        assert_eq!(
            error(86_400_000, 8_000).message(),
            "windows of 86400000 ms that slide by 8000 ms put a row into 10800 windows; the limit is 10000"
        );
    }

    #[test]
    fn results_carry_max_timestamp_and_cleanup_saturates() {
        let window = TimeWindow { start: 0, end: 10 };
        assert_eq!(
            (
                window.max_timestamp(),
                window.cleanup_time(5),
                window.cleanup_time(i64::MAX)
            ),
            (9, 14, i64::MAX)
        );
        assert_eq!(TimeWindow::GLOBAL.max_timestamp(), i64::MAX);
    }

    #[test]
    fn windows_that_merely_touch_merge_too() {
        let window = |start, end| TimeWindow { start, end };
        assert!(window(0, 10).touches(&window(10, 20)) && window(10, 20).touches(&window(0, 10)));
        assert!(!window(0, 10).touches(&window(11, 20)));
        assert_eq!(window(0, 10).cover(&window(5, 20)), window(0, 20));
    }

    proptest! {
        #[test]
        fn panes_and_ends_agree_with_the_windows(
            size in 1i64..40, slide in 1i64..40, shift in -39i64..40, time in -TIME_MAX..TIME_MAX,
        ) {
            let windows = SlidingWindows::new(size, slide, shift % slide).unwrap();
            let all: Vec<TimeWindow> = windows.windows(time).collect();
            prop_assert!(all.iter().all(|window| window.start <= time && time < window.end));
            prop_assert_eq!(windows.last_end(time), all.first().map(|window| window.end));
            let (pane, end) = (windows.pane_start(time), windows.pane_end(time));
            prop_assert!(pane <= time && time < end);
            prop_assert!(windows.begins_old_pane(pane) && windows.begins_old_pane(end));
            let number = windows.pane_number(time);
            prop_assert_eq!((windows.pane_number(pane), windows.pane_number(end)), (number, number + 1));
            prop_assert_eq!((windows.start_of_pane(number), windows.start_of_pane(number + 1)), (pane, end));
            for window in windows.windows(time) {
                prop_assert!(window.start <= pane && end <= window.end);
                prop_assert_eq!(windows.end_at_or_before(window.end), window.end);
                prop_assert!(windows.end_at_or_before(window.end - 1) < window.end);
            }
        }
    }
}
