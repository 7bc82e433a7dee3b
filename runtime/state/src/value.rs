//! Value state: at most one row per key.
//!
//! An entry of the table holds the row, if its width is fixed and small; otherwise the address of
//! the row in an arena. Invariant: a key has an entry if and only if it has a value. With a time to
//! live, the time of last access is part of the row: see [`crate::Ttl`].

use crate::arena::{Address, Arena, ArenaSnapshot, NO_ADDRESS};
use crate::disk_snapshot::{each_pair, push_pair};
use crate::expiry::Expiry;
use crate::index::{EntryId, NO_ENTRY};
use crate::keys::{KeyBuffer, KeyKind};
use crate::row::RowCodec;
use crate::snapshot::{EachEntry, Frozen};
use crate::table::{KeyTable, TableSnapshot, word_of};
use crate::tier::{DiskChanges, Resident, Tier};
use crate::ttl::{STAMP_BYTES, Sweep, Ttl, restored_row, row_of};
use arrow_array::RecordBatch;
use streamrt_types::{KeyGroupRange, Result};

/// The widest rows in entries; wider ones go to the arena, since a page should hold many entries.
const INLINE_BYTES_MAX: usize = 256;

/// One value state of one operator.
pub struct ValueState {
    table: KeyTable,
    codec: RowCodec,
    /// `None` if rows are in the entries.
    arena: Option<Arena>,
    created: Vec<u32>,
    /// With a time to live it begins with the current time.
    bytes: Vec<u8>,
    ttl: Option<Ttl>,
    sweep: Sweep,
    tier: Option<Box<Tier>>,
}

impl Resident for ValueState {
    fn tier(&mut self) -> &mut Option<Box<Tier>> {
        &mut self.tier
    }

    fn table(&self) -> &KeyTable {
        &self.table
    }

    fn store(&self, entry: EntryId, run: &mut Vec<u8>) {
        push_pair(&[], self.row(entry), run);
    }

    fn load(&mut self, hash: u32, key: &[u8], run: &[u8]) -> Result<()> {
        each_pair(run, |_, row| self.restore(hash, key, row))
    }

    fn drop_entry(&mut self, entry: EntryId) {
        self.clear(entry);
    }

    fn used_bytes(&self) -> usize {
        self.table.used_bytes() + self.arena.as_ref().map_or(0, Arena::used_bytes)
    }
}

impl ValueState {
    /// `ttl` is `None` if values live for ever.
    pub fn new(
        schema: &streamrt_wit::Schema,
        kind: KeyKind,
        key_groups: KeyGroupRange,
        max_parallelism: u32,
        ttl: Option<Ttl>,
    ) -> ValueState {
        let codec = RowCodec::new(schema);
        let stamp_bytes = if ttl.is_some() { STAMP_BYTES } else { 0 };
        let inline = codec
            .fixed_bytes()
            .map(|bytes| stamp_bytes + bytes)
            .filter(|&bytes| bytes <= INLINE_BYTES_MAX);
        let value_bytes = inline.unwrap_or(size_of::<Address>());
        ValueState {
            table: KeyTable::new(kind, value_bytes, key_groups, max_parallelism),
            codec,
            arena: inline.is_none().then(Arena::new),
            created: Vec::new(),
            bytes: vec![0; stamp_bytes],
            ttl,
            sweep: Sweep::default(),
            tier: None,
        }
    }

    /// Sets the time, in the clock's ms; ignored without a time to live.
    pub fn set_time(&mut self, now_ms: i64) {
        if let Some(ttl) = &mut self.ttl {
            ttl.set_time(now_ms);
            self.bytes.clear();
            self.bytes.extend(ttl.stamp());
        }
    }

    /// Whether [`ValueState::read`] has something to do.
    pub fn has_ttl(&self) -> bool {
        self.ttl.is_some()
    }

    /// Reads the values of `keys`: one row each, zero or empty where the answer's byte is 0.
    /// Expired ones that nobody may see are gone.
    ///
    /// `entries` is filled for [`ValueState::set`], [`ValueState::read`] and [`ValueState::clear`]
    /// of the same keys.
    ///
    /// # Errors
    /// `Internal` if the state is damaged.
    pub fn get(
        &mut self,
        keys: &KeyBuffer,
        entries: &mut Vec<EntryId>,
    ) -> Result<(RecordBatch, Vec<u8>)> {
        self.find(keys, entries);
        let mut rows: Vec<&[u8]> = entries.iter().map(|&entry| self.row(entry)).collect();
        if self.ttl.is_some() {
            rows.iter_mut().for_each(|row| *row = row_of(row));
        }
        let present = entries
            .iter()
            .map(|&entry| u8::from(entry != NO_ENTRY))
            .collect();
        Ok((self.codec.decode(&rows)?, present))
    }

    /// Whether the values of `keys` have more than `bytes_max` bytes together; to be checked before
    /// [`ValueState::get`] copies them.
    pub fn is_more_than(
        &mut self,
        bytes_max: usize,
        keys: &KeyBuffer,
        entries: &mut Vec<EntryId>,
    ) -> bool {
        match &self.arena {
            None => keys.len() * self.codec.fixed_bytes().unwrap_or(0) > bytes_max,
            // All keys together have less.
            Some(arena) if arena.used_bytes() <= bytes_max => false,
            Some(_) => {
                self.find(keys, entries);
                entries
                    .iter()
                    .map(|&entry| self.row(entry).len())
                    .sum::<usize>()
                    > bytes_max
            }
        }
    }

    fn find(&mut self, keys: &KeyBuffer, entries: &mut Vec<EntryId>) {
        self.table.find(keys.hashes(), keys.keys(), entries);
        self.drop_expired(entries);
    }

    /// Clears the expired ones of `entries`, and makes them [`NO_ENTRY`], unless a read may see
    /// them.
    fn drop_expired(&mut self, entries: &mut [EntryId]) {
        let Some(ttl) = self.ttl.filter(Ttl::hides_expired) else {
            return;
        };
        for entry in entries.iter_mut().filter(|entry| **entry != NO_ENTRY) {
            if ttl.is_expired(self.row(*entry)) {
                self.clear(std::mem::replace(entry, NO_ENTRY));
            }
        }
    }

    /// What is stored.
    fn row(&self, entry: EntryId) -> &[u8] {
        match &self.arena {
            _ if entry == NO_ENTRY => &[],
            None => self.table.value(entry),
            Some(arena) => arena.get(self.table.word(entry, 0)),
        }
    }

    /// Gives key `slot` of `keys` the row `row` of `values`, for every (slot, row). `entries` came
    /// from [`ValueState::get`], for all keys.
    pub fn set(
        &mut self,
        keys: &KeyBuffer,
        entries: &mut [EntryId],
        values: &RecordBatch,
        pairs: impl Iterator<Item = (usize, usize)>,
    ) {
        let stamp_bytes = if self.ttl.is_some() { STAMP_BYTES } else { 0 };
        for (slot, row) in pairs {
            if entries[slot] == NO_ENTRY {
                entries[slot] = self.insert(keys, slot);
            }
            self.bytes.truncate(stamp_bytes);
            self.codec.encode(values.columns(), row, &mut self.bytes);
            match &mut self.arena {
                None => self
                    .table
                    .value_mut(entries[slot])
                    .copy_from_slice(&self.bytes),
                Some(arena) => {
                    let bytes = &self.bytes;
                    self.table
                        .update_word(entries[slot], 0, |old| arena.replace(old, bytes));
                }
            }
            self.changed(entries[slot]);
        }
    }

    #[inline]
    fn changed(&mut self, entry: EntryId) {
        if let Some(tier) = &mut self.tier {
            tier.changed(&[entry]);
        }
    }

    fn insert(&mut self, keys: &KeyBuffer, slot: usize) -> EntryId {
        let mut entries = Vec::with_capacity(1);
        let key = keys.keys().slice(slot, slot + 1);
        self.table.upsert(
            &keys.hashes()[slot..=slot],
            key,
            &mut entries,
            &mut self.created,
        );
        entries[0]
    }

    /// Records that user code has read the value of an entry that [`ValueState::get`] returned: an
    /// expired one is removed, and the time of any other restarts if reads do that. Does nothing at
    /// [`NO_ENTRY`]. The number may be invalid afterwards.
    pub fn read(&mut self, entry: EntryId) {
        let Some(ttl) = self.ttl.filter(|_| entry != NO_ENTRY) else {
            return;
        };
        if ttl.is_expired(self.row(entry)) {
            self.clear(entry);
        } else if ttl.renewed_by_reads() {
            self.renew(entry, ttl.stamp());
        }
    }

    fn renew(&mut self, entry: EntryId, stamp: [u8; STAMP_BYTES]) {
        match &mut self.arena {
            None => self.table.value_mut(entry)[..STAMP_BYTES].copy_from_slice(&stamp),
            Some(arena) => {
                let renewed = [&stamp, row_of(arena.get(self.table.word(entry, 0)))].concat();
                self.table
                    .update_word(entry, 0, |old| arena.replace(old, &renewed));
            }
        }
        self.changed(entry);
    }

    /// Looks at the next `n` entries and clears the expired ones; does nothing without a time to
    /// live.
    pub fn sweep(&mut self, n: usize) {
        let Some(ttl) = self.ttl else { return };
        let mut budget = n;
        while let Some(entry) = self.sweep.next(&self.table, &mut budget) {
            if ttl.is_expired(self.row(entry)) {
                self.clear(entry);
            }
        }
    }

    /// Removes the value of an entry; does nothing at [`NO_ENTRY`]. The number is invalid
    /// afterwards.
    pub fn clear(&mut self, entry: EntryId) {
        if entry == NO_ENTRY {
            return;
        }
        if let Some(tier) = &mut self.tier {
            tier.removed(self.table.key(entry), entry);
        }
        if let Some(arena) = &mut self.arena {
            let address = self.table.word(entry, 0);
            arena.remove(address);
            self.table.set_word(entry, 0, NO_ADDRESS);
        }
        self.table.remove(entry);
    }

    /// The state as it is now: under each key its encoded row, preceded by the time of last access
    /// if there is a time to live. Expired ones are omitted.
    pub fn freeze(&mut self) -> impl Frozen + use<> {
        let (table, changes) = Tier::freeze_table(
            &mut self.tier,
            &mut self.table,
            self.ttl.map(Expiry::OfValues),
        );
        let ttl = self.ttl.filter(|_| changes.is_none());
        FrozenValues {
            table,
            arena: self.arena.as_mut().map(Arena::freeze),
            ttl,
            changes,
        }
    }

    /// Takes an entry of a snapshot back, with the time that it had.
    ///
    /// # Errors
    /// `Data` if `row` is not a row of this state.
    pub fn restore(&mut self, hash: u32, key: &[u8], row: &[u8]) -> Result<()> {
        self.make_room_before(hash)?;
        self.codec
            .check(&row[restored_row(self.ttl.is_some(), row)?..])?;
        let entry = self.table.upsert_one(hash, key)?;
        match &mut self.arena {
            None => self.table.value_mut(entry).copy_from_slice(row),
            Some(arena) => self
                .table
                .update_word(entry, 0, |old| arena.replace(old, row)),
        }
        self.changed(entry);
        Ok(())
    }

    /// Number of keys with a value.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub fn memory_bytes(&self) -> usize {
        self.table.memory_bytes() + self.arena.as_ref().map_or(0, Arena::memory_bytes)
    }
}

struct FrozenValues {
    table: TableSnapshot,
    arena: Option<ArenaSnapshot>,
    /// `None` as well with a disk: see [`crate::expiry`].
    ttl: Option<Ttl>,
    changes: Option<DiskChanges>,
}

impl Frozen for FrozenValues {
    fn take_changes(&mut self) -> Option<DiskChanges> {
        self.changes.take()
    }

    fn visit(&self, each: &mut EachEntry<'_>) {
        let is_expired = |row: &[u8]| self.ttl.is_some_and(|ttl| ttl.is_expired(row));
        self.table.each(&mut |key, value| {
            let row = self
                .arena
                .as_ref()
                .map_or(value, |arena| arena.get(word_of(value)));
            if !is_expired(row) {
                each(key, &[], row);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{ArrayRef, Int64Array, StringArray};
    use std::sync::Arc;
    use streamrt_types::murmur3_32;
    use streamrt_wit::{DataType, Field};

    fn check(data_type: DataType, values: ArrayRef) {
        let schema = vec![Field::new("value", data_type)];
        let mut state = ValueState::new(&schema, KeyKind::Fixed, KeyGroupRange::all(8), 8, None);
        let mut keys = KeyBuffer::new(KeyKind::Fixed);
        for key in 0..3u64 {
            keys.push_key(murmur3_32(&key.to_le_bytes()), &key.to_le_bytes());
        }
        let mut entries = Vec::new();
        assert_eq!(state.get(&keys, &mut entries).unwrap().1, [0, 0, 0]);
        let batch =
            RecordBatch::try_new(streamrt_types::arrow_schema(&schema), vec![values.clone()])
                .unwrap();
        state.set(&keys, &mut entries, &batch, (0..3).map(|slot| (slot, slot)));
        assert_eq!(
            state.get(&keys, &mut entries).unwrap(),
            (batch, vec![1, 1, 1])
        );
        state.clear(entries[1]);
        let (rest, present) = state.get(&keys, &mut entries).unwrap();
        assert_eq!((present, state.len()), (vec![1, 0, 1], 2));
        assert_eq!(
            rest.column(0).slice(2, 1).as_ref(),
            values.slice(2, 1).as_ref()
        );
    }

    #[test]
    fn values_are_set_and_cleared() {
        check(DataType::I64, Arc::new(Int64Array::from(vec![5, 6, 7])));
        check(
            DataType::String,
            Arc::new(StringArray::from(vec![
                "a",
                "bb",
                "a longer one that needs more than a grain",
            ])),
        );
    }

    #[test]
    fn wide_values_are_measured_before_they_are_read() {
        let schema = vec![Field::new("value", DataType::String)];
        let mut state = ValueState::new(&schema, KeyKind::Fixed, KeyGroupRange::all(8), 8, None);
        let (mut keys, mut entries) = (KeyBuffer::new(KeyKind::Fixed), Vec::new());
        (0..3u64).for_each(|key| keys.push_key(murmur3_32(&key.to_le_bytes()), &key.to_le_bytes()));
        state.get(&keys, &mut entries).unwrap();
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values(
            (0..3).map(|_| "x".repeat(10_000)),
        ));
        let batch =
            RecordBatch::try_new(streamrt_types::arrow_schema(&schema), vec![texts]).unwrap();
        state.set(&keys, &mut entries, &batch, (0..3).map(|slot| (slot, slot)));
        assert!(
            state.is_more_than(29_999, &keys, &mut entries)
                && !state.is_more_than(31_000, &keys, &mut entries)
        );
        keys.clear();
        assert!(!state.is_more_than(29_999, &keys, &mut entries));
    }
}
