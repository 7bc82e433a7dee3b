//! Map state: for each key a map, ordered by the encoded bytes of its own keys.
//!
//! Invariant: a key whose map is empty has no entry.

use crate::index::{EntryId, NO_ENTRY};
use crate::keys::{KeyBuffer, KeyKind};
use crate::row::RowCodec;
use crate::slab::Slab;
use crate::snapshot::{EachEntry, Frozen};
use crate::table::{KeyTable, TableSnapshot, word_of};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use streamrt_types::{KeyGroupRange, Result};

/// Entries by their encoded keys.
pub type MapPage = BTreeMap<Box<[u8]>, Box<[u8]>>;

/// One map state of one operator.
pub struct MapState {
    table: KeyTable,
    key_codec: RowCodec,
    value_codec: RowCodec,
    maps: Slab<Arc<MapPage>>,
    entries: Vec<EntryId>,
    created: Vec<u32>,
}

impl MapState {
    pub fn new(
        key: &streamrt_wit::Schema,
        value: &streamrt_wit::Schema,
        kind: KeyKind,
        key_groups: KeyGroupRange,
        max_parallelism: u32,
    ) -> MapState {
        MapState {
            table: KeyTable::new(kind, size_of::<u64>(), key_groups, max_parallelism),
            key_codec: RowCodec::new(key),
            value_codec: RowCodec::new(value),
            maps: Slab::new(),
            entries: Vec::new(),
            created: Vec::new(),
        }
    }

    /// How the keys of the maps are encoded; their bytes are also their order.
    pub fn key_codec(&self) -> &RowCodec {
        &self.key_codec
    }

    pub fn value_codec(&self) -> &RowCodec {
        &self.value_codec
    }

    fn find(&mut self, keys: &KeyBuffer, slot: usize) -> EntryId {
        self.table.find(&keys.hashes()[slot..=slot], keys.keys().slice(slot, slot + 1), &mut self.entries);
        self.entries[0]
    }

    fn map(&mut self, keys: &KeyBuffer, slot: usize) -> Option<&MapPage> {
        match self.find(keys, slot) {
            NO_ENTRY => None,
            entry => Some(&**self.maps.get(self.table.word(entry, 0))),
        }
    }

    fn map_mut(&mut self, entry: EntryId) -> &mut MapPage {
        Arc::make_mut(self.maps.get_mut(self.table.word(entry, 0)))
    }

    /// The encoded value under `map_key` in the map of key `slot`.
    pub fn get(&mut self, keys: &KeyBuffer, slot: usize, map_key: &[u8]) -> Option<&[u8]> {
        self.map(keys, slot)?.get(map_key).map(|value| &value[..])
    }

    /// The entries of one map behind `after` (none: from the first), in order.
    pub fn scan(&mut self, keys: &KeyBuffer, slot: usize, after: Option<&[u8]>) -> impl Iterator<Item = (&[u8], &[u8])> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.map(keys, slot).map(|map| map.range::<[u8], _>((start, Bound::Unbounded)));
        range.into_iter().flatten().map(|(key, value)| (&key[..], &value[..]))
    }

    pub fn put(&mut self, keys: &KeyBuffer, slot: usize, map_key: &[u8], value: &[u8]) {
        let key = keys.keys().slice(slot, slot + 1);
        self.table.upsert(&keys.hashes()[slot..=slot], key, &mut self.entries, &mut self.created);
        let entry = self.entries[0];
        self.give_map(entry);
        self.map_mut(entry).insert(map_key.into(), value.into());
    }

    /// An entry that was just made has no map yet.
    fn give_map(&mut self, entry: EntryId) {
        if self.table.word(entry, 0) == 0 {
            let number = self.maps.insert();
            self.table.set_word(entry, 0, number);
        }
    }

    /// The state as it is now: for each entry of each map the key, the map's own key, and the value.
    pub fn freeze(&mut self) -> impl Frozen + use<> {
        FrozenMaps { table: self.table.freeze(), maps: self.maps.freeze() }
    }

    /// Takes an entry of a snapshot back.
    ///
    /// # Errors
    /// `Data` if the bytes are not those of this state.
    pub fn restore(&mut self, hash: u32, key: &[u8], map_key: &[u8], value: &[u8]) -> Result<()> {
        self.key_codec.check(map_key)?;
        self.value_codec.check(value)?;
        let entry = self.table.upsert_one(hash, key)?;
        self.give_map(entry);
        self.map_mut(entry).insert(map_key.into(), value.into());
        Ok(())
    }

    /// Takes one entry out of a map, if it is there.
    pub fn remove(&mut self, keys: &KeyBuffer, slot: usize, map_key: &[u8]) {
        let entry = self.find(keys, slot);
        if entry == NO_ENTRY {
            return;
        }
        let map = self.map_mut(entry);
        map.remove(map_key);
        if map.is_empty() {
            self.retire(entry);
        }
    }

    /// Takes all entries out of the map of key `slot`.
    pub fn clear(&mut self, keys: &KeyBuffer, slot: usize) {
        let entry = self.find(keys, slot);
        if entry != NO_ENTRY {
            self.retire(entry);
        }
    }

    fn retire(&mut self, entry: EntryId) {
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
}

impl Frozen for FrozenMaps {
    fn visit(&self, each: &mut EachEntry<'_>) {
        self.table.each(&mut |key, number| self.maps.get(word_of(number)).iter().for_each(|(sub, value)| each(key, sub, value)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use streamrt_types::murmur3_32;

    #[test]
    fn maps_are_ordered_and_leave_nothing_behind() {
        let mut state = MapState::new(&Vec::new(), &Vec::new(), KeyKind::Bytes, KeyGroupRange::all(4), 4);
        let mut keys = KeyBuffer::new(KeyKind::Bytes);
        keys.push_key(murmur3_32(b"k"), b"k");
        for key in [&b"b"[..], b"a", b"c", b"b"] {
            state.put(&keys, 0, key, key);
        }
        let scanned = |state: &mut MapState, after: Option<&[u8]>| state.scan(&keys, 0, after).map(|(k, _)| k[0]).collect::<Vec<_>>();
        assert_eq!(scanned(&mut state, None), b"abc");
        assert_eq!(scanned(&mut state, Some(b"a")), b"bc");
        assert_eq!(state.get(&keys, 0, b"c"), Some(&b"c"[..]));
        state.remove(&keys, 0, b"b");
        assert_eq!(scanned(&mut state, None), b"ac");
        state.clear(&keys, 0);
        assert!(state.is_empty() && state.get(&keys, 0, b"a").is_none());
    }
}
