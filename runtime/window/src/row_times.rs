//! The times of the rows of a batch, as windows see them.

use std::ops::Range;

/// Event time of the rows of a batch.
#[derive(Clone, Copy)]
pub(crate) enum RowTimes<'a> {
    Each(&'a [i64]),
    /// Processing time: all rows are now.
    Now(i64),
}

impl<'a> RowTimes<'a> {
    #[inline]
    pub(crate) fn at(&self, row: usize) -> i64 {
        match self {
            RowTimes::Each(times) => times[row],
            RowTimes::Now(now) => *now,
        }
    }

    pub(super) fn each(self) -> Option<&'a [i64]> {
        match self {
            RowTimes::Each(times) => Some(times),
            RowTimes::Now(_) => None,
        }
    }

    /// The least and the greatest time of some rows.
    pub(super) fn range(&self, rows: Range<usize>) -> (i64, i64) {
        match self {
            RowTimes::Each(times) => times[rows]
                .iter()
                .fold((i64::MAX, i64::MIN), |(least, most), &t| {
                    (least.min(t), most.max(t))
                }),
            RowTimes::Now(now) => (*now, *now),
        }
    }
}
