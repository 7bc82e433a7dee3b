//! List state: elements for each key, in the order in which they were added.
//!
//! A list is one run of bytes, each element behind its length, so that a short list costs one allocation. Invariant: a key whose list
//! is empty has no entry.

use crate::index::{EntryId, NO_ENTRY};
use crate::keys::{KeyBuffer, KeyKind};
use crate::row::RowCodec;
use crate::slab::Slab;
use crate::snapshot::{EachEntry, Frozen};
use crate::table::{KeyTable, TableSnapshot, word_of};
use std::sync::Arc;
use streamrt_types::{Error, KeyGroupRange, Result, code};

/// One list state of one operator.
pub struct ListState {
    table: KeyTable,
    codec: RowCodec,
    lists: Slab<Arc<Vec<u8>>>,
    entries: Vec<EntryId>,
    created: Vec<u32>,
}

impl ListState {
    pub fn new(schema: &streamrt_wit::Schema, kind: KeyKind, key_groups: KeyGroupRange, max_parallelism: u32) -> ListState {
        ListState {
            table: KeyTable::new(kind, size_of::<u64>(), key_groups, max_parallelism),
            codec: RowCodec::new(schema),
            lists: Slab::new(),
            entries: Vec::new(),
            created: Vec::new(),
        }
    }

    /// How elements are encoded.
    pub fn codec(&self) -> &RowCodec {
        &self.codec
    }

    /// The encoded elements of key `slot` of `keys`, in order.
    pub fn get(&mut self, keys: &KeyBuffer, slot: usize) -> Elements<'_> {
        match self.find(keys, slot) {
            NO_ENTRY => Elements { rest: &[] },
            entry => Elements { rest: self.lists.get(self.table.word(entry, 0)) },
        }
    }

    fn find(&mut self, keys: &KeyBuffer, slot: usize) -> EntryId {
        self.table.find(&keys.hashes()[slot..=slot], keys.keys().slice(slot, slot + 1), &mut self.entries);
        self.entries[0]
    }

    /// Adds encoded elements behind the others.
    pub fn append<'a>(&mut self, keys: &KeyBuffer, slot: usize, elements: impl IntoIterator<Item = &'a [u8]>) {
        let mut elements = elements.into_iter().peekable();
        if elements.peek().is_none() {
            return;
        }
        let key = keys.keys().slice(slot, slot + 1);
        self.table.upsert(&keys.hashes()[slot..=slot], key, &mut self.entries, &mut self.created);
        let entry = self.entries[0];
        if !self.created.is_empty() {
            let number = self.lists.insert();
            self.table.set_word(entry, 0, number);
        }
        let list = Arc::make_mut(self.lists.get_mut(self.table.word(entry, 0)));
        for element in elements {
            list.extend_from_slice(&(element.len() as u32).to_le_bytes());
            list.extend_from_slice(element);
        }
    }

    pub fn clear(&mut self, keys: &KeyBuffer, slot: usize) {
        let entry = self.find(keys, slot);
        if entry != NO_ENTRY {
            self.lists.remove(self.table.word(entry, 0));
            self.table.remove(entry);
        }
    }

    /// The state as it is now: under each key its elements.
    pub fn freeze(&mut self) -> impl Frozen + use<> {
        FrozenLists { table: self.table.freeze(), lists: self.lists.freeze() }
    }

    /// Takes an entry of a snapshot back.
    ///
    /// # Errors
    /// `Data` if `list` is no list of this state's elements.
    pub fn restore(&mut self, hash: u32, key: &[u8], list: &[u8]) -> Result<()> {
        let mut elements = Elements { rest: list };
        elements.by_ref().try_for_each(|element| self.codec.check(element))?;
        if !elements.rest.is_empty() || list.is_empty() {
            return Err(Error::new(code::SNAPSHOT_DAMAGED, "a list in the snapshot does not end where its elements end"));
        }
        let entry = self.table.upsert_one(hash, key)?;
        let number = self.lists.insert();
        *self.lists.get_mut(number) = Arc::new(list.to_vec());
        self.table.set_word(entry, 0, number);
        Ok(())
    }

    /// Number of keys with elements.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }
}

struct FrozenLists {
    table: TableSnapshot,
    lists: Slab<Arc<Vec<u8>>>,
}

impl Frozen for FrozenLists {
    fn visit(&self, each: &mut EachEntry<'_>) {
        self.table.each(&mut |key, number| each(key, &[], self.lists.get(word_of(number))));
    }
}

/// Encoded elements, in order.
pub struct Elements<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.rest.split_first_chunk::<4>()?;
        let (element, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        self.rest = rest;
        Some(element)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use streamrt_types::murmur3_32;
    use streamrt_wit::{DataType, Field};

    #[test]
    fn lists_keep_their_order_until_they_are_cleared() {
        let mut state = ListState::new(&vec![Field::new("e", DataType::Binary)], KeyKind::Bytes, KeyGroupRange::all(8), 8);
        let mut keys = KeyBuffer::new(KeyKind::Bytes);
        for key in [&b"a"[..], b"bb"] {
            keys.push_key(murmur3_32(key), key);
        }
        state.append(&keys, 0, [&b"1"[..], b""]);
        state.append(&keys, 1, []);
        state.append(&keys, 0, [&b"3"[..]]);
        assert_eq!(state.get(&keys, 0).collect::<Vec<_>>(), [&b"1"[..], b"", b"3"]);
        assert_eq!((state.get(&keys, 1).count(), state.len()), (0, 1));
        state.clear(&keys, 0);
        assert!(state.is_empty());
        state.append(&keys, 1, [&b"x"[..]]);
        assert_eq!(state.get(&keys, 1).collect::<Vec<_>>(), [b"x"]);
    }
}
