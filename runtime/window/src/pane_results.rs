//! Turns keys and accumulators of a window into the rows that it fires.
//!
//! Invariant: a key that had fired the window before a restore does not fire it again.

use crate::assigner::TimeWindow;
use crate::group_watermarks::GroupWatermarks;
use crate::result_columns::ResultColumns;
use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use std::sync::Arc;
use streamrt_operator::{Accumulators, BatchKeys, Overflow};
use streamrt_state::{EntryId, KeyTable};
use streamrt_types::{Error, Result, murmur3_32};

/// See the module.
pub(crate) struct PaneResults {
    pub columns: ResultColumns,
    /// Turns key bytes into columns and text; another one reads batches at the same time.
    pub decoder: BatchKeys,
    pub uid: Arc<str>,
    /// Restored watermarks that differ, until the windows have risen to the greatest.
    pub behind: Option<GroupWatermarks>,
}

impl PaneResults {
    /// The results of all keys of a table that have not fired.
    pub(crate) fn of_table(&self, table: &KeyTable, accumulators: &Accumulators, window: TimeWindow) -> Result<RecordBatch> {
        let has_fired = |entry: EntryId, old: &GroupWatermarks| old.had_passed(murmur3_32(table.key(entry)), window.max_timestamp());
        let entries = table.entries().filter(|&entry| !self.behind.as_ref().is_some_and(|old| has_fired(entry, old)));
        let entries: Vec<EntryId> = entries.collect();
        let mut values = Vec::with_capacity(entries.len() * accumulators.bytes());
        entries.iter().for_each(|&entry| values.extend_from_slice(table.value(entry)));
        let keys: Vec<&[u8]> = entries.iter().map(|&entry| table.key(entry)).collect();
        self.assemble(&keys, &values, accumulators, window)
    }

    /// The results of some keys, whose accumulators stand side by side in `values`.
    pub(crate) fn assemble(&self, keys: &[&[u8]], values: &[u8], accumulators: &Accumulators, window: TimeWindow) -> Result<RecordBatch> {
        let n_rows = keys.len();
        let keys = if self.columns.needs_keys() { self.decoder.decode(keys)?.columns().to_vec() } else { Vec::new() };
        let bound = |time: i64| Arc::new(Int64Array::from_value(time, n_rows)) as ArrayRef;
        self.columns.assemble(&keys, bound(window.start), bound(window.end), &accumulators.finish(values))
    }

    /// The error of a merge for a key.
    pub(crate) fn overflow(&self, accumulators: &Accumulators, overflow: Overflow, key: &[u8]) -> Error {
        accumulators.overflow(overflow, &self.uid, &self.decoder.describe_bytes(key))
    }
}
