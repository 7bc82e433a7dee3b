//! Turns keys and accumulators of a window into the rows that it fires, a bounded number of them at
//! a time.

use crate::assigner::TimeWindow;
use crate::emission::{PIECE_BYTES, PIECE_ROWS};
use crate::result_columns::ResultColumns;
use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use std::sync::Arc;
use streamrt_operator::{Accumulators, BatchKeys, Overflow};
use streamrt_state::{EntryId, KeyTable};
use streamrt_types::{Error, Result};

/// See the module.
pub(crate) struct PaneResults {
    pub columns: ResultColumns,
    /// Turns key bytes into columns and text; another one reads batches at the same time.
    pub decoder: BatchKeys,
    pub uid: Arc<str>,
}

impl PaneResults {
    /// Shows the results of some keys of a table, in pieces.
    ///
    /// # Errors
    /// The errors of `each`.
    pub(crate) fn of_table(
        &self,
        (table, entries): (&KeyTable, impl Iterator<Item = EntryId>),
        accumulators: &Accumulators,
        window: TimeWindow,
        each: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let (mut keys, mut values, mut n_bytes) = (Vec::new(), Vec::new(), 0);
        for entry in entries {
            let (key, value) = (table.key(entry), table.value(entry));
            keys.push(key);
            values.extend_from_slice(value);
            n_bytes += key.len() + accumulators.result_bytes(value);
            if keys.len() == PIECE_ROWS || n_bytes >= PIECE_BYTES {
                each(self.assemble(&keys, &values, accumulators, window)?)?;
                keys.clear();
                values.clear();
                n_bytes = 0;
            }
        }
        if keys.is_empty() {
            Ok(())
        } else {
            each(self.assemble(&keys, &values, accumulators, window)?)
        }
    }

    /// The results of some keys, whose accumulators stand side by side in `values`.
    pub(crate) fn assemble(
        &self,
        keys: &[&[u8]],
        values: &[u8],
        accumulators: &Accumulators,
        window: TimeWindow,
    ) -> Result<RecordBatch> {
        let n_rows = keys.len();
        let keys = if self.columns.needs_keys() {
            self.decoder.decode(keys)?.columns().to_vec()
        } else {
            Vec::new()
        };
        let bound = |time: i64| Arc::new(Int64Array::from_value(time, n_rows)) as ArrayRef;
        self.columns.assemble(
            &keys,
            bound(window.start),
            bound(window.end),
            &accumulators.finish(values),
        )
    }

    /// The error of a merge for a key.
    pub(crate) fn overflow(
        &self,
        accumulators: &Accumulators,
        overflow: Overflow,
        key: &[u8],
    ) -> Error {
        accumulators.overflow(overflow, &self.uid, &self.decoder.describe_bytes(key))
    }
}
