//! List state: elements for each key, in the order in which they were added.
//!
//! A list is one run of bytes, each element preceded by its length, so a short list costs one
//! allocation. Invariant: a key whose list is empty has no entry. With a time to live, each element
//! begins with the time of its last access: see [`crate::Ttl`].

use crate::disk_snapshot::{each_pair, push_pair};
use crate::expiry::Expiry;
use crate::index::{EntryId, NO_ENTRY};
use crate::keys::{KeyBuffer, KeyKind};
use crate::row::{EncodedRows, RowCodec};
use crate::slab::Slab;
use crate::snapshot::{EachEntry, Frozen};
use crate::table::{KeyTable, TableSnapshot, word_of};
use crate::tier::{DiskChanges, Resident, Tier};
use crate::ttl::{Sweep, Ttl, restored_row, row_of};
use std::sync::Arc;
use streamrt_types::{Error, KeyGroupRange, Result, code};

/// Bytes that a list takes in addition to its elements.
const LIST_BYTES: usize = size_of::<Vec<u8>>() + 4 * size_of::<usize>();

/// One list state of one operator.
pub struct ListState {
    table: KeyTable,
    codec: RowCodec,
    lists: Slab<Arc<Vec<u8>>>,
    entries: Vec<EntryId>,
    created: Vec<u32>,
    ttl: Option<Ttl>,
    sweep: Sweep,
    /// Bytes of all lists.
    list_bytes: usize,
    tier: Option<Box<Tier>>,
}

impl Resident for ListState {
    fn tier(&mut self) -> &mut Option<Box<Tier>> {
        &mut self.tier
    }

    fn table(&self) -> &KeyTable {
        &self.table
    }

    fn store(&self, entry: EntryId, run: &mut Vec<u8>) {
        push_pair(&[], self.lists.get(self.table.word(entry, 0)), run);
    }

    fn load(&mut self, hash: u32, key: &[u8], run: &[u8]) -> Result<()> {
        each_pair(run, |_, list| self.restore(hash, key, list))
    }

    fn drop_entry(&mut self, entry: EntryId) {
        self.retire(entry);
    }

    fn used_bytes(&self) -> usize {
        self.table.used_bytes() + self.table.len() * LIST_BYTES + self.list_bytes
    }
}

impl ListState {
    /// `ttl` is `None` if elements live for ever.
    pub fn new(
        schema: &streamrt_wit::Schema,
        kind: KeyKind,
        key_groups: KeyGroupRange,
        max_parallelism: u32,
        ttl: Option<Ttl>,
    ) -> ListState {
        ListState {
            table: KeyTable::new(kind, size_of::<u64>(), key_groups, max_parallelism),
            codec: RowCodec::new(schema),
            lists: Slab::new(),
            entries: Vec::new(),
            created: Vec::new(),
            ttl,
            sweep: Sweep::default(),
            list_bytes: 0,
            tier: None,
        }
    }

    /// Sets the time, in the clock's ms; ignored without a time to live.
    pub fn set_time(&mut self, now_ms: i64) {
        if let Some(ttl) = &mut self.ttl {
            ttl.set_time(now_ms);
        }
    }

    /// Whether [`ListState::read`] has something to do.
    pub fn has_ttl(&self) -> bool {
        self.ttl.is_some()
    }

    /// How elements are encoded.
    pub fn codec(&self) -> &RowCodec {
        &self.codec
    }

    /// Adds the encoded elements of key `slot` of `keys` to `rows`, in order, without those that
    /// are expired and nobody may see.
    pub fn get(&mut self, keys: &KeyBuffer, slot: usize, rows: &mut EncodedRows) {
        let elements = match self.find(keys, slot) {
            NO_ENTRY => return,
            entry => Elements {
                rest: self.lists.get(self.table.word(entry, 0)),
            },
        };
        match self.ttl {
            None => elements.for_each(|element| rows.push(element)),
            Some(ttl) => elements
                .filter_map(|element| ttl.visible(element))
                .for_each(|element| rows.push(element)),
        }
    }

    /// How many elements the list of a key has, and their bytes, expired ones included.
    pub fn extent(&mut self, keys: &KeyBuffer, slot: usize) -> (usize, usize) {
        match self.find(keys, slot) {
            NO_ENTRY => (0, 0),
            entry => {
                let list = self.lists.get(self.table.word(entry, 0));
                (Elements { rest: list }.count(), list.len())
            }
        }
    }

    fn find(&mut self, keys: &KeyBuffer, slot: usize) -> EntryId {
        self.table.find(
            &keys.hashes()[slot..=slot],
            keys.keys().slice(slot, slot + 1),
            &mut self.entries,
        );
        self.entries[0]
    }

    /// Appends encoded elements.
    pub fn append<'a>(
        &mut self,
        keys: &KeyBuffer,
        slot: usize,
        elements: impl IntoIterator<Item = &'a [u8]>,
    ) {
        let mut elements = elements.into_iter().peekable();
        if elements.peek().is_none() {
            return;
        }
        let key = keys.keys().slice(slot, slot + 1);
        self.table.upsert(
            &keys.hashes()[slot..=slot],
            key,
            &mut self.entries,
            &mut self.created,
        );
        let entry = self.entries[0];
        if !self.created.is_empty() {
            let number = self.lists.insert();
            self.table.set_word(entry, 0, number);
        }
        let list = Arc::make_mut(self.lists.get_mut(self.table.word(entry, 0)));
        let bytes_before = list.len();
        match self.ttl {
            None => elements.for_each(|element| push(list, &[], element)),
            Some(ttl) => elements.for_each(|element| push(list, &ttl.stamp(), element)),
        }
        self.list_bytes += list.len() - bytes_before;
        self.changed(entry);
    }

    fn changed(&mut self, entry: EntryId) {
        if let Some(tier) = &mut self.tier {
            tier.changed(&[entry]);
        }
    }

    fn replace(&mut self, entry: EntryId, list: Vec<u8>) {
        self.list_bytes += list.len();
        let old = std::mem::replace(
            self.lists.get_mut(self.table.word(entry, 0)),
            Arc::new(list),
        );
        self.list_bytes -= old.len();
        self.changed(entry);
    }

    /// Records that user code has read a list: expired elements are removed, and the time of the
    /// others restarts if reads do that.
    pub fn read(&mut self, keys: &KeyBuffer, slot: usize) {
        if let Some(ttl) = self.ttl {
            match self.find(keys, slot) {
                NO_ENTRY => {}
                entry => self.keep_live(entry, ttl),
            }
        }
    }

    /// Removes the expired elements of a list. A list without any is not touched, unless a read
    /// renews it.
    fn keep_live(&mut self, entry: EntryId, ttl: Ttl) {
        let number = self.table.word(entry, 0);
        let elements = || Elements {
            rest: self.lists.get(number),
        };
        if !ttl.renewed_by_reads() && !elements().any(|element| ttl.is_expired(element)) {
            return;
        }
        let mut kept = Vec::with_capacity(self.lists.get(number).len());
        for element in elements().filter(|element| !ttl.is_expired(element)) {
            match ttl.renewed_by_reads() {
                true => push(&mut kept, &ttl.stamp(), row_of(element)),
                false => push(&mut kept, &[], element),
            }
        }
        match kept.is_empty() {
            true => self.retire(entry),
            false => self.replace(entry, kept),
        }
    }

    /// Looks at the lists of the next `n` entries and removes the expired elements; does nothing
    /// without a time to live. A list whose first element is not expired is skipped: its others
    /// were added later, so each list costs its length only when there is something to do.
    pub fn sweep(&mut self, n: usize) {
        let Some(ttl) = self.ttl else { return };
        let mut budget = n;
        while let Some(entry) = self.sweep.next(&self.table, &mut budget) {
            let mut elements = Elements {
                rest: self.lists.get(self.table.word(entry, 0)),
            };
            if elements.next().is_some_and(|first| ttl.is_expired(first)) {
                budget = budget.saturating_sub(elements.count());
                self.keep_live(entry, ttl.without_renewal());
            }
        }
    }

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
        self.list_bytes -= self.lists.get(self.table.word(entry, 0)).len();
        self.lists.remove(self.table.word(entry, 0));
        self.table.remove(entry);
    }

    /// The state as it is now: under each key its elements, each preceded by the time of its last
    /// access if there is a time to live. Expired ones are omitted.
    pub fn freeze(&mut self) -> impl Frozen + use<> {
        let (table, changes) = Tier::freeze_table(
            &mut self.tier,
            &mut self.table,
            self.ttl.map(Expiry::OfElements),
        );
        let ttl = self.ttl.filter(|_| changes.is_none());
        FrozenLists {
            table,
            lists: self.lists.freeze(),
            ttl,
            changes,
        }
    }

    /// Takes an entry of a snapshot back, with the times that its elements had.
    ///
    /// # Errors
    /// `Data` if `list` is not a list of this state's elements.
    pub fn restore(&mut self, hash: u32, key: &[u8], list: &[u8]) -> Result<()> {
        self.make_room_before(hash)?;
        let mut elements = Elements { rest: list };
        let stamped = self.ttl.is_some();
        elements.by_ref().try_for_each(|element| {
            self.codec
                .check(&element[restored_row(stamped, element)?..])
        })?;
        if !elements.rest.is_empty() || list.is_empty() {
            return Err(Error::new(
                code::SNAPSHOT_DAMAGED,
                "a list in the snapshot does not end where its elements end",
            ));
        }
        let entry = self.table.upsert_one(hash, key)?;
        let number = self.lists.insert();
        self.table.set_word(entry, 0, number);
        self.replace(entry, list.to_vec());
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

/// Adds an element to a list, preceded by `stamp`.
#[inline(always)]
pub(crate) fn push(list: &mut Vec<u8>, stamp: &[u8], element: &[u8]) {
    list.extend_from_slice(&((stamp.len() + element.len()) as u32).to_le_bytes());
    list.extend_from_slice(stamp);
    list.extend_from_slice(element);
}

struct FrozenLists {
    table: TableSnapshot,
    lists: Slab<Arc<Vec<u8>>>,
    /// `None` as well with a disk: see [`crate::expiry`].
    ttl: Option<Ttl>,
    changes: Option<DiskChanges>,
}

/// The elements of a list that are not expired, as they are stored.
pub(crate) fn live_elements(list: &[u8], ttl: Ttl) -> Vec<u8> {
    let mut live = Vec::with_capacity(list.len());
    Elements { rest: list }
        .filter(|element| !ttl.is_expired(element))
        .for_each(|element| push(&mut live, &[], element));
    live
}

impl Frozen for FrozenLists {
    fn take_changes(&mut self) -> Option<DiskChanges> {
        self.changes.take()
    }

    fn visit(&self, each: &mut EachEntry<'_>) {
        self.table.each(
            &mut |key, number| match (self.lists.get(word_of(number)), self.ttl) {
                (list, None) => each(key, &[], list),
                (list, Some(ttl)) => {
                    let live = live_elements(list, ttl);
                    if !live.is_empty() {
                        each(key, &[], &live);
                    }
                }
            },
        );
    }
}

/// The elements of a list as a snapshot has it, in order; with a time to live each begins with the
/// time of its last access (i64, little endian).
///
/// # Errors
/// `Data` if the bytes are not a list.
pub fn list_elements(list: &[u8]) -> Result<Vec<&[u8]>> {
    let mut elements = Elements { rest: list };
    let found = elements.by_ref().collect();
    if elements.rest.is_empty() {
        return Ok(found);
    }
    Err(Error::new(
        code::SNAPSHOT_DAMAGED,
        "a list in the snapshot does not end where its elements end",
    ))
}

/// Elements as they are stored, in order.
struct Elements<'a> {
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

    fn elements(state: &mut ListState, keys: &KeyBuffer, slot: usize) -> Vec<Vec<u8>> {
        let mut rows = EncodedRows::default();
        state.get(keys, slot, &mut rows);
        assert_eq!(rows.len(), rows.iter().count());
        rows.iter().map(<[u8]>::to_vec).collect()
    }

    #[test]
    fn lists_keep_their_order_until_they_are_cleared() {
        let mut state = ListState::new(
            &vec![Field::new("e", DataType::Binary)],
            KeyKind::Bytes,
            KeyGroupRange::all(8),
            8,
            None,
        );
        let mut keys = KeyBuffer::new(KeyKind::Bytes);
        for key in [&b"a"[..], b"bb"] {
            keys.push_key(murmur3_32(key), key);
        }
        state.append(&keys, 0, [&b"1"[..], b""]);
        state.append(&keys, 1, []);
        state.append(&keys, 0, [&b"3"[..]]);
        assert_eq!(elements(&mut state, &keys, 0), [&b"1"[..], b"", b"3"]);
        assert_eq!((elements(&mut state, &keys, 1).len(), state.len()), (0, 1));
        state.clear(&keys, 0);
        assert!(state.is_empty());
        state.append(&keys, 1, [&b"x"[..]]);
        assert_eq!(elements(&mut state, &keys, 1), [b"x"]);
    }
}
