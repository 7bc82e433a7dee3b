//! What a checkpoint keeps of accumulators: bytes that depend only on their contents, and never on
//! where a text happens to lie.
//!
//! Invariant: where no accumulator refers to anything, its exported bytes are those in the table,
//! so that a snapshot shares the table's pages and nothing is copied on the task's thread.

use super::Accumulators;
use serde_json::Value;
use streamrt_state::{Changed, EachEntry, EntryId, Frozen, FrozenEntries, KeyTable, TableSnapshot};
use streamrt_types::{Error, Result, code};

/// The keys of a table and their exported values, as they were at one moment.
pub enum FrozenTable {
    Shared(TableSnapshot),
    Copied(FrozenEntries),
}

impl FrozenTable {
    /// Shows every key and its exported value, in the order in which the keys came.
    pub fn each(&self, each: &mut dyn FnMut(&[u8], &[u8])) {
        match self {
            FrozenTable::Shared(table) => table.each(each),
            FrozenTable::Copied(entries) => entries.visit(&mut |key, _, value| each(key, value)),
        }
    }
}

impl Frozen for FrozenTable {
    fn visit(&self, each: &mut EachEntry<'_>) {
        self.each(&mut |key, value| each(key, &[], value));
    }
}

fn damaged() -> Error {
    Error::new(
        code::SNAPSHOT_DAMAGED,
        "bytes in the snapshot are no accumulators of these aggregates",
    )
}

impl Accumulators {
    /// What exported bytes mean: see [`streamrt_types::state_types::aggregate_types`].
    pub fn types(&self) -> &Value {
        &self.types
    }

    /// Appends the contents of a value to `out`: the same bytes wherever and whenever the value was
    /// computed.
    pub fn export(&self, value: &[u8], out: &mut Vec<u8>) {
        self.parts
            .iter()
            .for_each(|part| part.aggregator.export(&value[part.range()], out));
    }

    /// Puts what [`Accumulators::export`] wrote into `value`, which is empty: all zeros.
    ///
    /// # Errors
    /// `Data` if `bytes` are not that; `value` is then unusable.
    pub fn import(&mut self, mut bytes: &[u8], value: &mut [u8]) -> Result<()> {
        for part in &mut self.parts {
            let range = part.range();
            part.aggregator
                .import(&mut bytes, &mut value[range])
                .ok_or_else(damaged)?;
        }
        if bytes.is_empty() {
            Ok(())
        } else {
            Err(damaged())
        }
    }

    /// The keys of a table, whose values are these accumulators alone, as they are now. `changed`:
    /// only those that have changed.
    pub fn freeze(&self, table: &mut KeyTable, changed: Option<&Changed>) -> FrozenTable {
        if self.parts.iter().any(|part| part.refers) {
            return self.copy(table, changed);
        }
        let mut frozen = table.freeze();
        if let Some(changed) = changed {
            changed.retain(&mut frozen);
        }
        FrozenTable::Shared(frozen)
    }

    fn copy(&self, table: &KeyTable, changed: Option<&Changed>) -> FrozenTable {
        let is_wanted = |entry: &EntryId| changed.is_none_or(|changed| changed.contains(*entry));
        let mut entries: Vec<EntryId> = table.entries().filter(is_wanted).collect();
        // Keys that come back in the order in which they came find their old places in the index,
        // and so fire in the old order.
        entries.sort_unstable();
        let export = |entry: EntryId| {
            let mut value = Vec::new();
            self.export(table.value(entry), &mut value);
            (table.key(entry).to_vec(), Vec::new(), value)
        };
        FrozenTable::Copied(FrozenEntries(entries.into_iter().map(export).collect()))
    }

    /// Takes an entry of a snapshot back into `table`, and returns its number. `hash` is that of
    /// `key`.
    ///
    /// # Errors
    /// `Data` if the key does not belong to this table or is there already, or `bytes` are not
    /// accumulators.
    pub fn restore(
        &mut self,
        table: &mut KeyTable,
        hash: u32,
        key: &[u8],
        bytes: &[u8],
    ) -> Result<EntryId> {
        let n_before = table.len();
        let entry = table.upsert_one(hash, key)?;
        if table.len() == n_before {
            return Err(damaged());
        }
        self.import(bytes, table.value_mut(entry))?;
        Ok(entry)
    }

    /// Like [`Accumulators::restore`], for an entry that is merged after what the key has already.
    ///
    /// # Errors
    /// `Data` if the key does not belong to this table, `bytes` are not accumulators, or a sum
    /// leaves its range.
    pub fn restore_part(
        &mut self,
        table: &mut KeyTable,
        hash: u32,
        key: &[u8],
        bytes: &[u8],
    ) -> Result<EntryId> {
        let mut value = vec![0; self.bytes()];
        self.import(bytes, &mut value)?;
        let entry = table.upsert_one(hash, key)?;
        let merged = self.merge(table.value_mut(entry), &value);
        self.release(&value);
        merged.map(|()| entry).map_err(|_| damaged())
    }
}
