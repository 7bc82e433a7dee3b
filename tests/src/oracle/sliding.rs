//! Counts per key in sliding windows without allowed lateness, of which each window reports its
//! greatest.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use super::watermark::Watermark;

/// One line of a window's report.
pub struct Ranked<K> {
    pub window_end: i64,
    /// From 1.
    pub rank: u32,
    pub key: K,
    pub count: u64,
}

pub struct SlidingTop<K> {
    size_ms: i64,
    slide_ms: i64,
    top: usize,
    watermark: Watermark,
    /// By end.
    open: BTreeMap<i64, HashMap<K, u64>>,
    pub reports: Vec<Ranked<K>>,
}

impl<K: Clone + Ord + Hash> SlidingTop<K> {
    pub fn new(size_ms: i64, slide_ms: i64, bound_ms: i64, top: usize) -> Self {
        SlidingTop {
            size_ms,
            slide_ms,
            top,
            watermark: Watermark::new(bound_ms),
            open: BTreeMap::new(),
            reports: Vec::new(),
        }
    }

    /// Counts the key in every window that is not late. False: all were.
    pub fn count(&mut self, time: i64, key: &K) -> bool {
        let last_start = time - time.rem_euclid(self.slide_ms);
        let starts = (0..)
            .map(|step| last_start - step * self.slide_ms)
            .take_while(|start| *start > time - self.size_ms);
        let mut on_time = false;
        for end in starts.map(|start| start + self.size_ms) {
            if end - 1 > self.watermark.current() {
                *self
                    .open
                    .entry(end)
                    .or_default()
                    .entry(key.clone())
                    .or_default() += 1;
                on_time = true;
            }
        }
        on_time
    }

    /// Raises the watermark after a record, whether or not it was counted, and reports the complete
    /// windows.
    pub fn advance(&mut self, time: i64) {
        self.watermark.raise(time);
        while let Some(window) = self
            .open
            .first_entry()
            .filter(|w| w.key() - 1 <= self.watermark.current())
        {
            let (end, counts) = window.remove_entry();
            self.report(end, counts);
        }
    }

    /// Reports what is still open at the end of the input.
    pub fn finish(mut self) -> Vec<Ranked<K>> {
        for (end, counts) in std::mem::take(&mut self.open) {
            self.report(end, counts);
        }
        self.reports
    }

    fn report(&mut self, window_end: i64, counts: HashMap<K, u64>) {
        let mut counts: Vec<(K, u64)> = counts.into_iter().collect();
        counts.sort_by(|(a, n), (b, m)| (Reverse(n), a).cmp(&(Reverse(m), b)));
        let ranked = counts.into_iter().take(self.top).zip(1..);
        self.reports
            .extend(ranked.map(|((key, count), rank)| Ranked {
                window_end,
                rank,
                key,
                count,
            }));
    }
}
