//! Map state: one map per key, ordered by the encoded bytes of its own keys.
//!
//! Invariant: a key whose map is empty has no entry. With a time to live, each value begins with
//! the time of last access: see [`crate::Ttl`].

use crate::disk_snapshot::{each_pair, push_pair};
use crate::expiry::Expiry;
use crate::index::{EntryId, NO_ENTRY};
use crate::keys::{KeyBuffer, KeyKind};
use crate::row::RowCodec;
use crate::slab::Slab;
use crate::snapshot::{EachEntry, Frozen};
use crate::table::{KeyTable, TableSnapshot, word_of};
use crate::tier::{DiskChanges, Resident, Tier};
use crate::ttl::{Sweep, Ttl, restored_row, row_of};
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use streamrt_types::{KeyGroupRange, Result};

/// Entries by their encoded keys.
pub type MapPage = BTreeMap<Box<[u8]>, Box<[u8]>>;

/// A part of a map, by its keys.
pub type MapRange<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// One map state of one operator.
pub struct MapState {
    table: KeyTable,
    key_codec: RowCodec,
    value_codec: RowCodec,
    maps: Slab<Arc<MapPage>>,
    entries: Vec<EntryId>,
    created: Vec<u32>,
    ttl: Option<Ttl>,
    sweep: Sweep,
    /// The map in which background cleaning stopped, and the last key at which it looked.
    sweep_within: Option<(EntryId, Box<[u8]>)>,
    /// Bytes of all entries of all maps.
    map_bytes: usize,
    tier: Option<Box<Tier>>,
}

/// What an entry takes in addition to its bytes: two boxes, and its share of a node and of the
/// allocator.
const ENTRY_BYTES: usize = 64;

fn entry_bytes(key: &[u8], value: &[u8]) -> usize {
    key.len() + value.len() + ENTRY_BYTES
}

impl Resident for MapState {
    fn tier(&mut self) -> &mut Option<Box<Tier>> {
        &mut self.tier
    }

    fn table(&self) -> &KeyTable {
        &self.table
    }

    fn store(&self, entry: EntryId, run: &mut Vec<u8>) {
        self.maps
            .get(self.table.word(entry, 0))
            .iter()
            .for_each(|(key, value)| push_pair(key, value, run));
    }

    fn load(&mut self, hash: u32, key: &[u8], run: &[u8]) -> Result<()> {
        each_pair(run, |map_key, value| {
            self.restore(hash, key, map_key, value)
        })
    }

    fn drop_entry(&mut self, entry: EntryId) {
        self.retire(entry);
    }

    fn used_bytes(&self) -> usize {
        self.table.used_bytes() + self.table.len() * ENTRY_BYTES + self.map_bytes
    }
}

impl MapState {
    /// `ttl` is `None` if entries live for ever.
    pub fn new(
        key: &streamrt_wit::Schema,
        value: &streamrt_wit::Schema,
        kind: KeyKind,
        key_groups: KeyGroupRange,
        max_parallelism: u32,
        ttl: Option<Ttl>,
    ) -> MapState {
        MapState {
            table: KeyTable::new(kind, size_of::<u64>(), key_groups, max_parallelism),
            key_codec: RowCodec::of_keys(key),
            value_codec: RowCodec::new(value),
            maps: Slab::new(),
            entries: Vec::new(),
            created: Vec::new(),
            ttl,
            sweep: Sweep::default(),
            sweep_within: None,
            map_bytes: 0,
            tier: None,
        }
    }

    /// Sets the time, in the clock's ms; ignored without a time to live.
    pub fn set_time(&mut self, now_ms: i64) {
        if let Some(ttl) = &mut self.ttl {
            ttl.set_time(now_ms);
        }
    }

    /// Whether [`MapState::read`] has something to do.
    pub fn has_ttl(&self) -> bool {
        self.ttl.is_some()
    }

    /// How the keys of the maps are encoded; their bytes are also their order.
    pub fn key_codec(&self) -> &RowCodec {
        &self.key_codec
    }

    pub fn value_codec(&self) -> &RowCodec {
        &self.value_codec
    }

    fn find(&mut self, keys: &KeyBuffer, slot: usize) -> EntryId {
        self.table.find(
            &keys.hashes()[slot..=slot],
            keys.keys().slice(slot, slot + 1),
            &mut self.entries,
        );
        self.entries[0]
    }

    fn map(&mut self, keys: &KeyBuffer, slot: usize) -> Option<&MapPage> {
        match self.find(keys, slot) {
            NO_ENTRY => None,
            entry => Some(&**self.maps.get(self.table.word(entry, 0))),
        }
    }

    fn map_mut(&mut self, entry: EntryId) -> &mut MapPage {
        if let Some(tier) = &mut self.tier {
            tier.changed(&[entry]);
        }
        Arc::make_mut(self.maps.get_mut(self.table.word(entry, 0)))
    }

    fn insert(&mut self, entry: EntryId, map_key: &[u8], value: Box<[u8]>) {
        self.map_bytes += entry_bytes(map_key, &value);
        let old = self.map_mut(entry).insert(map_key.into(), value);
        self.map_bytes -= old.map_or(0, |old| entry_bytes(map_key, &old));
    }

    fn take(&mut self, entry: EntryId, map_key: &[u8]) {
        let old = self.map_mut(entry).remove(map_key);
        self.map_bytes -= old.map_or(0, |old| entry_bytes(map_key, &old));
    }

    /// The encoded value under `map_key` in the map of key `slot`; none if it is expired and nobody
    /// may see it.
    pub fn get(&mut self, keys: &KeyBuffer, slot: usize, map_key: &[u8]) -> Option<&[u8]> {
        let ttl = self.ttl;
        let value = self.map(keys, slot)?.get(map_key)?;
        ttl.map_or(Some(value), |ttl| ttl.visible(value))
    }

    /// Shows the entries of one map that follow `after` (if `None`, from the first), in order,
    /// without those that are expired and nobody may see, until `each` breaks off.
    pub fn scan(
        &mut self,
        keys: &KeyBuffer,
        slot: usize,
        after: Option<&[u8]>,
        mut each: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) {
        let ttl = self.ttl;
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let Some(map) = self.map(keys, slot) else {
            return;
        };
        let mut entries = map.range::<[u8], _>((start, Bound::Unbounded));
        // `each` knows that it broke off.
        let _ = match ttl {
            None => entries.try_for_each(|(key, value)| each(key, value)),
            Some(ttl) => entries.try_for_each(|(key, value)| match ttl.visible(value) {
                Some(value) => each(key, value),
                None => ControlFlow::Continue(()),
            }),
        };
    }

    /// Records that user code has read the entries of `range`: expired ones are removed, and the
    /// time of the others restarts if reads do that.
    pub fn read(&mut self, keys: &KeyBuffer, slot: usize, range: MapRange<'_>) {
        let Some(ttl) = self.ttl else { return };
        let entry = self.find(keys, slot);
        if entry == NO_ENTRY {
            return;
        }
        let touched = |value: &[u8]| ttl.renewed_by_reads() || ttl.is_expired(value);
        let entries = self
            .maps
            .get(self.table.word(entry, 0))
            .range::<[u8], _>(range);
        let touched: Vec<Box<[u8]>> = entries
            .filter(|(_, value)| touched(value))
            .map(|(key, _)| key.clone())
            .collect();
        touched.iter().for_each(|key| self.touch(entry, key, ttl));
        self.retire_empty(entry);
    }

    fn touch(&mut self, entry: EntryId, map_key: &[u8], ttl: Ttl) {
        match self.map_mut(entry).get_mut(map_key) {
            Some(value) if !ttl.is_expired(value) => *value = ttl.stamped(row_of(value)),
            _ => self.take(entry, map_key),
        }
    }

    fn retire_empty(&mut self, entry: EntryId) {
        if self.maps.get(self.table.word(entry, 0)).is_empty() {
            self.retire(entry);
        }
    }

    /// Looks at the next `n` entries, of the maps or of the table that holds them, and removes the
    /// expired ones; does nothing without a time to live. Cleaning may stop in the middle of a map
    /// when `n` is used up.
    pub fn sweep(&mut self, n: usize) {
        let Some(ttl) = self.ttl else { return };
        let mut budget = n;
        if let Some((entry, after)) = self
            .sweep_within
            .take()
            .filter(|(entry, _)| self.table.is_live(*entry))
        {
            self.sweep_map(entry, Bound::Excluded(&after), ttl, &mut budget);
        }
        while let Some(entry) = self.sweep.next(&self.table, &mut budget) {
            self.sweep_map(entry, Bound::Unbounded, ttl, &mut budget);
        }
    }

    fn sweep_map(&mut self, entry: EntryId, after: Bound<&[u8]>, ttl: Ttl, budget: &mut usize) {
        let mut expired = Vec::new();
        let mut last: Option<&[u8]> = None;
        for (key, value) in self
            .maps
            .get(self.table.word(entry, 0))
            .range::<[u8], _>((after, Bound::Unbounded))
        {
            if *budget == 0 {
                self.sweep_within = last.map(|last| (entry, last.into()));
                break;
            }
            *budget -= 1;
            last = Some(key);
            if ttl.is_expired(value) {
                expired.push(key.clone());
            }
        }
        if !expired.is_empty() {
            expired.iter().for_each(|key| self.take(entry, key));
            self.retire_empty(entry);
        }
    }

    pub fn put(&mut self, keys: &KeyBuffer, slot: usize, map_key: &[u8], value: &[u8]) {
        let key = keys.keys().slice(slot, slot + 1);
        self.table.upsert(
            &keys.hashes()[slot..=slot],
            key,
            &mut self.entries,
            &mut self.created,
        );
        let entry = self.entries[0];
        self.give_map(entry);
        let value = self
            .ttl
            .map_or_else(|| value.into(), |ttl| ttl.stamped(value));
        self.insert(entry, map_key, value);
    }

    /// An entry that was just made has no map yet.
    fn give_map(&mut self, entry: EntryId) {
        if self.table.word(entry, 0) == 0 {
            let number = self.maps.insert();
            self.table.set_word(entry, 0, number);
        }
    }

    /// The state as it is now: for each entry of each map the key, the map's own key, and the
    /// value, preceded by the time of last access if there is a time to live. Expired ones are
    /// omitted.
    pub fn freeze(&mut self) -> impl Frozen + use<> {
        let (table, changes) = Tier::freeze_table(
            &mut self.tier,
            &mut self.table,
            self.ttl.map(Expiry::OfValues),
        );
        let ttl = self.ttl.filter(|_| changes.is_none());
        FrozenMaps {
            table,
            maps: self.maps.freeze(),
            ttl,
            changes,
        }
    }

    /// Takes an entry of a snapshot back, with the time that it had.
    ///
    /// # Errors
    /// `Data` if the bytes are not those of this state.
    pub fn restore(&mut self, hash: u32, key: &[u8], map_key: &[u8], value: &[u8]) -> Result<()> {
        self.make_room_before(hash)?;
        self.key_codec.check(map_key)?;
        self.value_codec
            .check(&value[restored_row(self.ttl.is_some(), value)?..])?;
        let entry = self.table.upsert_one(hash, key)?;
        self.give_map(entry);
        self.insert(entry, map_key, value.into());
        Ok(())
    }

    /// Removes one entry of a map, if it is there.
    pub fn remove(&mut self, keys: &KeyBuffer, slot: usize, map_key: &[u8]) {
        let entry = self.find(keys, slot);
        if entry == NO_ENTRY {
            return;
        }
        self.take(entry, map_key);
        self.retire_empty(entry);
    }

    /// Removes all entries of the map of key `slot`.
    pub fn clear(&mut self, keys: &KeyBuffer, slot: usize) {
        let entry = self.find(keys, slot);
        if entry != NO_ENTRY {
            self.retire(entry);
        }
    }

    fn retire(&mut self, entry: EntryId) {
        if let Some(tier) = &mut self.tier {
            tier.removed(self.table.key(entry), entry);
        }
        let bytes: usize = self
            .maps
            .get(self.table.word(entry, 0))
            .iter()
            .map(|(key, value)| entry_bytes(key, value))
            .sum();
        self.map_bytes -= bytes;
        self.maps.remove(self.table.word(entry, 0));
        self.table.remove(entry);
    }

    /// Number of keys whose map has entries.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }
}

struct FrozenMaps {
    table: TableSnapshot,
    maps: Slab<Arc<MapPage>>,
    /// `None` as well with a disk: see [`crate::expiry`].
    ttl: Option<Ttl>,
    changes: Option<DiskChanges>,
}

impl Frozen for FrozenMaps {
    fn take_changes(&mut self) -> Option<DiskChanges> {
        self.changes.take()
    }

    fn visit(&self, each: &mut EachEntry<'_>) {
        let is_live = |value: &[u8]| self.ttl.is_none_or(|ttl| !ttl.is_expired(value));
        self.table.each(&mut |key, number| {
            let entries = self.maps.get(word_of(number)).iter();
            entries
                .filter(|(_, value)| is_live(value))
                .for_each(|(sub, value)| each(key, sub, value));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use streamrt_types::murmur3_32;

    #[test]
    fn maps_are_ordered_and_leave_nothing_behind() {
        let mut state = MapState::new(
            &Vec::new(),
            &Vec::new(),
            KeyKind::Bytes,
            KeyGroupRange::all(4),
            4,
            None,
        );
        let mut keys = KeyBuffer::new(KeyKind::Bytes);
        keys.push_key(murmur3_32(b"k"), b"k");
        for key in [&b"b"[..], b"a", b"c", b"b"] {
            state.put(&keys, 0, key, key);
        }
        let scanned = |state: &mut MapState, after: Option<&[u8]>| {
            let mut found = Vec::new();
            state.scan(&keys, 0, after, |key, _| {
                found.push(key[0]);
                ControlFlow::Continue(())
            });
            found
        };
        assert_eq!(scanned(&mut state, None), b"abc");
        assert_eq!(scanned(&mut state, Some(b"a")), b"bc");
        assert_eq!(state.get(&keys, 0, b"c"), Some(&b"c"[..]));
        state.remove(&keys, 0, b"b");
        assert_eq!(scanned(&mut state, None), b"ac");
        state.clear(&keys, 0);
        assert!(state.is_empty() && state.get(&keys, 0, b"a").is_none());
    }
}
