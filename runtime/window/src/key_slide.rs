//! One key's results in many windows that slide over its panes: a late row fires each of the
//! windows that contain it, at once.
//!
//! 1. Windows are asked for from the last one back, so panes come in on the left and leave on the
//!    right.
//! 2. `right` has a merge for each pane from `middle` on, of all panes from there to it: removing
//!    one takes the last merge off. `left` is the merge of those before `middle`: adding one is one
//!    merge. When `right` is empty, the panes of the window are merged into it anew.
//!
//! So a window costs a few merges on average, whatever the number of its panes.
//!
//! # Source
//! The queue of two stacks, as in "Low-Latency Sliding-Window Aggregation in Worst-Case Constant
//! Time" (Tangwongsan, Hirzel, Schneider).

use crate::assigner::TimeWindow;
use streamrt_operator::{Accumulators, Overflow};

/// See the module.
pub(crate) struct KeySlide<'a> {
    accumulators: &'a mut Accumulators,
    /// First ms of the panes that have the key, ascending.
    starts: &'a [i64],
    /// Their accumulators side by side. What these refer to belongs to the panes.
    values: &'a [u8],
    right: Vec<Vec<u8>>,
    middle: usize,
    left: Vec<u8>,
    /// The first pane in `left`.
    first: usize,
}

impl<'a> KeySlide<'a> {
    pub(crate) fn new(
        accumulators: &'a mut Accumulators,
        starts: &'a [i64],
        values: &'a [u8],
    ) -> KeySlide<'a> {
        let left = vec![0; accumulators.bytes()];
        KeySlide {
            accumulators,
            starts,
            values,
            right: Vec::new(),
            middle: 0,
            left,
            first: 0,
        }
    }

    /// The merge of `before` and `after`, in this order.
    fn merge(&mut self, before: &[u8], after: &[u8]) -> Result<Vec<u8>, Overflow> {
        let mut merged = vec![0; self.accumulators.bytes()];
        self.accumulators.merge(&mut merged, before)?;
        self.accumulators.merge(&mut merged, after)?;
        Ok(merged)
    }

    fn value(&self, pane: usize) -> &'a [u8] {
        let bytes = self.accumulators.bytes();
        &self.values[pane * bytes..(pane + 1) * bytes]
    }

    /// The accumulators of a window that begins and ends no later than the one before. The caller
    /// releases them.
    ///
    /// # Errors
    /// The aggregate that left its range.
    pub(crate) fn window(&mut self, window: TimeWindow) -> Result<Vec<u8>, Overflow> {
        let at = |time: i64| self.starts.partition_point(|&start| start < time);
        let (first, end) = (at(window.start), at(window.end));
        while self.middle + self.right.len() > end && !self.right.is_empty() {
            self.right
                .pop()
                .iter()
                .for_each(|value| self.accumulators.release(value));
        }
        if self.right.is_empty() {
            return self.begin(first, end);
        }
        while self.first > first {
            self.first -= 1;
            let old = std::mem::take(&mut self.left);
            self.left = self.merge(self.value(self.first), &old)?;
            self.accumulators.release(&old);
        }
        self.joined()
    }

    /// Merges the panes `first..end` anew.
    fn begin(&mut self, first: usize, end: usize) -> Result<Vec<u8>, Overflow> {
        self.accumulators.release(&self.left);
        self.left.fill(0);
        (self.first, self.middle) = (first, first);
        for pane in first..end {
            let before = self
                .right
                .last()
                .cloned()
                .unwrap_or_else(|| vec![0; self.accumulators.bytes()]);
            let merged = self.merge(&before, self.value(pane))?;
            self.right.push(merged);
        }
        self.joined()
    }

    fn joined(&mut self) -> Result<Vec<u8>, Overflow> {
        let (left, right) = (
            self.left.clone(),
            self.right
                .last()
                .cloned()
                .unwrap_or_else(|| vec![0; self.accumulators.bytes()]),
        );
        self.merge(&left, &right)
    }
}

impl Drop for KeySlide<'_> {
    fn drop(&mut self) {
        self.accumulators.release(&self.left);
        self.right
            .iter()
            .for_each(|value| self.accumulators.release(value));
    }
}
