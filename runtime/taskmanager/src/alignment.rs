//! `watermark.alignment`: how far a split may run ahead of the others, over all readers of a
//! region.
//!
//! Each reader publishes the watermark of the split that is furthest back; one that has nothing to
//! hold back publishes the end of time. A split whose watermark is further ahead of the least of
//! these than the drift waits. The reader of the least never waits, so somebody always goes on.
//!
//! # Source
//! Flink's watermark alignment, with one group, and at once instead of once a second.

use std::sync::atomic::{AtomicI64, Ordering};
use streamrt_types::{WATERMARK_MAX, WATERMARK_MIN, Watermark};

/// Shared by the readers of a region.
pub(crate) struct Alignment {
    drift_ms: i64,
    /// By reader. One that has not begun holds all others.
    watermarks: Vec<AtomicI64>,
}

impl Alignment {
    pub fn new(drift_ms: u64, readers: usize) -> Alignment {
        let watermarks = (0..readers)
            .map(|_| AtomicI64::new(WATERMARK_MIN))
            .collect();
        Alignment {
            drift_ms: i64::try_from(drift_ms).unwrap_or(i64::MAX),
            watermarks,
        }
    }

    /// The least watermark of a reader's splits; `None` if none of them holds anything back.
    pub fn publish(&self, reader: usize, watermark: Option<Watermark>) {
        self.watermarks[reader].store(watermark.unwrap_or(WATERMARK_MAX), Ordering::Relaxed);
    }

    /// Whether a split with this watermark is too far ahead.
    pub fn is_ahead(&self, watermark: Watermark) -> bool {
        let least = self
            .watermarks
            .iter()
            .map(|least| least.load(Ordering::Relaxed))
            .min()
            .unwrap_or(WATERMARK_MAX);
        watermark > least.saturating_add(self.drift_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_waits_while_it_is_ahead_of_the_least_by_more_than_the_drift() {
        let alignment = Alignment::new(10, 2);
        assert!(
            !alignment.is_ahead(WATERMARK_MIN),
            "the first rows are read"
        );
        alignment.publish(0, Some(100));
        assert!(alignment.is_ahead(100), "the other reader has not begun");
        alignment.publish(1, Some(95));
        assert!(!alignment.is_ahead(105) && alignment.is_ahead(106));
        alignment.publish(1, None);
        assert!(!alignment.is_ahead(110) && alignment.is_ahead(111));
        alignment.publish(0, None);
        assert!(!alignment.is_ahead(WATERMARK_MAX));
    }
}
