//! The paged table: keys to fixed-size entries, one batch at a time.
//!
//! A batch is served in two passes of independent loads, so that the misses of many rows overlap:
//! 1. for every row the index slot of its hash, which names a candidate entry;
//! 2. for every row the candidate's key, which is nearly always the right one; only the others
//!    probe or create.
//!
//! Entries are in pages of 4 KiB, each an allocation of its own, so a snapshot can share pages and
//! copy one on the first write. An entry is the key (eight bytes, or the address of its bytes) and
//! then the value. Invariant: an entry number is in the index of its key group exactly once, or in
//! the free list.

mod frozen;

pub use self::frozen::TableSnapshot;
use crate::arena::Arena;
use crate::index::{EntryId, GroupIndex, NO_ENTRY, entry_of, hash_of};
use crate::keys::{KeyKind, Keys, key_at};
use crate::page::Page;
use streamrt_types::{Error, KeyGroupRange, Result, code, murmur3_32};

const PAGE_BYTES: usize = 4096;
type PageBytes = [u8; PAGE_BYTES];
const KEY_BYTES: usize = 8;
/// The number of rows whose index slots are loaded before any of them is used; enough to fill the
/// core's queue of misses.
const CHUNK: usize = 64;

/// A map from keys to values of a fixed number of bytes.
pub struct KeyTable {
    kind: KeyKind,
    key_groups: KeyGroupRange,
    max_parallelism: u32,
    /// For the usual power of two, which saves a division per row.
    group_mask: Option<u32>,
    groups: Vec<GroupIndex>,
    pages: Vec<Page<PageBytes>>,
    entry_bytes: usize,
    entries_per_page: u32,
    /// Low bits of an entry number that count within a page. Numbers are sparse if a page does not
    /// hold a power of two.
    slot_bits: u32,
    /// The number that comes next when the free list is empty.
    next: EntryId,
    free: Vec<EntryId>,
    /// One bit per entry number: whether it holds a key.
    live: Vec<u64>,
    /// Bytes of keys that are not eight bytes.
    arena: Arena,
    n_entries: usize,
}

/// How pass 2 sees the keys of a batch.
trait RowKeys {
    fn matches(&self, table: &KeyTable, row: usize, entry: EntryId) -> bool;
    fn store(&self, table: &mut KeyTable, row: usize, entry: EntryId);
}

struct FixedKeys<'a>(&'a [u64]);

impl RowKeys for FixedKeys<'_> {
    #[inline]
    fn matches(&self, table: &KeyTable, row: usize, entry: EntryId) -> bool {
        table.key_word(entry) == self.0[row]
    }
    fn store(&self, table: &mut KeyTable, row: usize, entry: EntryId) {
        table.set_key_word(entry, self.0[row]);
    }
}

struct BytesKeys<'a> {
    bytes: &'a [u8],
    offsets: &'a [u32],
}

impl RowKeys for BytesKeys<'_> {
    #[inline]
    fn matches(&self, table: &KeyTable, row: usize, entry: EntryId) -> bool {
        table.arena.get(table.key_word(entry)) == key_at(self.bytes, self.offsets, row)
    }
    fn store(&self, table: &mut KeyTable, row: usize, entry: EntryId) {
        let address = table.arena.insert(key_at(self.bytes, self.offsets, row));
        table.set_key_word(entry, address);
    }
}

impl KeyTable {
    /// The most bytes that a value may have; larger ones belong in an [`Arena`], with the address
    /// here.
    pub const VALUE_BYTES_MAX: usize = 1024;

    /// An empty table for keys whose hashes fall into `key_groups`.
    ///
    /// A table takes no memory for groups without keys except some 40 bytes each.
    pub fn new(
        kind: KeyKind,
        value_bytes: usize,
        key_groups: KeyGroupRange,
        max_parallelism: u32,
    ) -> KeyTable {
        assert!(
            value_bytes <= KeyTable::VALUE_BYTES_MAX,
            "a value of {value_bytes} bytes does not fit into an entry"
        );
        let entry_bytes = KEY_BYTES + value_bytes;
        let entries_per_page = (PAGE_BYTES / entry_bytes) as u32;
        KeyTable {
            kind,
            key_groups,
            max_parallelism,
            group_mask: max_parallelism
                .is_power_of_two()
                .then(|| max_parallelism - 1),
            groups: (0..key_groups.len()).map(|_| GroupIndex::new()).collect(),
            pages: Vec::new(),
            entry_bytes,
            entries_per_page,
            slot_bits: entries_per_page.next_power_of_two().trailing_zeros(),
            next: 0,
            free: Vec::new(),
            live: Vec::new(),
            arena: Arena::new(),
            n_entries: 0,
        }
    }

    /// Finds the entry of every row, or makes one with a zeroed value.
    ///
    /// `hashes` are the murmur3 hashes of the keys. Afterwards `entries` has an entry for every
    /// row, and `created` the rows that made theirs, ascending. Both are cleared first.
    pub fn upsert(
        &mut self,
        hashes: &[u32],
        keys: Keys<'_>,
        entries: &mut Vec<EntryId>,
        created: &mut Vec<u32>,
    ) {
        self.check(hashes, keys);
        created.clear();
        self.candidates(hashes, entries);
        match keys {
            Keys::Fixed(keys) => self.settle(hashes, &FixedKeys(keys), entries, created),
            Keys::Bytes { bytes, offsets } => {
                self.settle(hashes, &BytesKeys { bytes, offsets }, entries, created)
            }
        }
    }

    /// Finds the entry of every row; [`NO_ENTRY`] if there is none. `entries` is cleared first.
    pub fn find(&self, hashes: &[u32], keys: Keys<'_>, entries: &mut Vec<EntryId>) {
        self.check(hashes, keys);
        self.candidates(hashes, entries);
        match keys {
            Keys::Fixed(keys) => self.confirm(hashes, &FixedKeys(keys), entries),
            Keys::Bytes { bytes, offsets } => {
                self.confirm(hashes, &BytesKeys { bytes, offsets }, entries)
            }
        }
    }

    /// The entry of one key by its canonical bytes, created if necessary; for restores.
    ///
    /// # Errors
    /// `Data` if the key is not of the table's kind.
    pub fn upsert_one(&mut self, hash: u32, key: &[u8]) -> Result<EntryId> {
        match self.kind {
            KeyKind::Fixed => {
                let word = key.try_into().map(u64::from_le_bytes);
                let word = word.map_err(|_| {
                    Error::new(
                        code::SNAPSHOT_DAMAGED,
                        "a key in the snapshot does not have eight bytes",
                    )
                })?;
                Ok(self.search_or_create(hash, &FixedKeys(&[word]), 0))
            }
            KeyKind::Bytes => Ok(self.search_or_create(
                hash,
                &BytesKeys {
                    bytes: key,
                    offsets: &[0, key.len() as u32],
                },
                0,
            )),
        }
    }

    /// The entry of one key by its canonical bytes; [`NO_ENTRY`] if there is none, or the bytes are
    /// not a key of this table.
    pub fn entry(&self, hash: u32, key: &[u8]) -> EntryId {
        let found = match (self.kind, <[u8; 8]>::try_from(key)) {
            (KeyKind::Fixed, Ok(word)) => {
                self.search(hash, &FixedKeys(&[u64::from_le_bytes(word)]), 0)
            }
            (KeyKind::Fixed, Err(_)) => None,
            (KeyKind::Bytes, _) => self.search(
                hash,
                &BytesKeys {
                    bytes: key,
                    offsets: &[0, key.len() as u32],
                },
                0,
            ),
        };
        found.unwrap_or(NO_ENTRY)
    }

    fn search_or_create(&mut self, hash: u32, keys: &impl RowKeys, row: usize) -> EntryId {
        self.search(hash, keys, row)
            .unwrap_or_else(|| self.create(hash, keys, row))
    }

    fn check(&self, hashes: &[u32], keys: Keys<'_>) {
        assert!(
            keys.kind() == self.kind && keys.len() == hashes.len(),
            "the keys are those of the table"
        );
    }

    #[inline(always)]
    fn group_of(&self, hash: u32) -> usize {
        let group = self
            .group_mask
            .map_or_else(|| hash % self.max_parallelism, |mask| hash & mask);
        group.wrapping_sub(self.key_groups.start) as usize
    }

    #[inline(always)]
    fn group(&self, hash: u32) -> &GroupIndex {
        &self.groups[self.group_of(hash)]
    }

    /// Pass 1. A candidate has the right hash; [`NO_ENTRY`] if there is none.
    fn candidates(&self, hashes: &[u32], entries: &mut Vec<EntryId>) {
        entries.clear();
        entries.reserve(hashes.len());
        for chunk in hashes.chunks(CHUNK) {
            let mut words = [0u64; CHUNK];
            for (word, &hash) in words.iter_mut().zip(chunk) {
                *word = self.group(hash).first(hash);
            }
            for (&hash, &word) in chunk.iter().zip(&words) {
                entries.push(if hash_of(word) == hash {
                    entry_of(word)
                } else {
                    self.probe(hash)
                });
            }
        }
    }

    /// The first entry under `hash` if another one has its slot.
    fn probe(&self, hash: u32) -> EntryId {
        self.group(hash).probe(hash).next().unwrap_or(NO_ENTRY)
    }

    /// Pass 2 of `upsert`. An entry never moves, so candidates stay valid although earlier rows
    /// create others.
    fn settle(
        &mut self,
        hashes: &[u32],
        keys: &impl RowKeys,
        entries: &mut [EntryId],
        created: &mut Vec<u32>,
    ) {
        for (row, entry) in entries.iter_mut().enumerate() {
            if *entry != NO_ENTRY && keys.matches(self, row, *entry) {
                continue;
            }
            *entry = match self.search(hashes[row], keys, row) {
                Some(found) => found,
                None => {
                    created.push(row as u32);
                    self.create(hashes[row], keys, row)
                }
            };
        }
    }

    /// Pass 2 of `find`.
    fn confirm(&self, hashes: &[u32], keys: &impl RowKeys, entries: &mut [EntryId]) {
        for (row, entry) in entries.iter_mut().enumerate() {
            if *entry != NO_ENTRY && !keys.matches(self, row, *entry) {
                *entry = self.search(hashes[row], keys, row).unwrap_or(NO_ENTRY);
            }
        }
    }

    fn search(&self, hash: u32, keys: &impl RowKeys, row: usize) -> Option<EntryId> {
        self.group(hash)
            .probe(hash)
            .find(|&entry| keys.matches(self, row, entry))
    }

    fn create(&mut self, hash: u32, keys: &impl RowKeys, row: usize) -> EntryId {
        let entry = self.free.pop().unwrap_or_else(|| self.fresh());
        keys.store(self, row, entry);
        self.value_mut(entry).fill(0);
        let group = self.group_of(hash);
        self.groups[group].insert(hash, entry);
        self.live[entry as usize / 64] |= 1 << (entry % 64);
        self.n_entries += 1;
        entry
    }

    /// The next entry that was never used.
    fn fresh(&mut self) -> EntryId {
        let slot = self.next & ((1 << self.slot_bits) - 1);
        if slot == 0 {
            self.pages.push(Page::Own(Box::new([0; PAGE_BYTES])));
            self.live
                .resize((self.pages.len() << self.slot_bits).div_ceil(64), 0);
        }
        let entry = self.next;
        let step = if slot + 1 == self.entries_per_page {
            (1 << self.slot_bits) - slot
        } else {
            1
        };
        // The last number is NO_ENTRY; a table with that many entries would take 32 GiB.
        self.next = self
            .next
            .checked_add(step)
            .expect("a table of one subtask holds less than 2^32 entries");
        entry
    }

    #[inline(always)]
    fn place(&self, entry: EntryId) -> (usize, usize) {
        (
            (entry >> self.slot_bits) as usize,
            (entry & ((1 << self.slot_bits) - 1)) as usize * self.entry_bytes,
        )
    }

    #[inline(always)]
    fn key_word(&self, entry: EntryId) -> u64 {
        self.load(entry, 0)
    }

    #[inline]
    fn set_key_word(&mut self, entry: EntryId, word: u64) {
        let (page, offset) = self.place(entry);
        self.pages[page].bytes_mut()[offset..offset + KEY_BYTES]
            .copy_from_slice(&word.to_le_bytes());
    }

    #[inline(always)]
    fn load(&self, entry: EntryId, at: usize) -> u64 {
        let (page, offset) = self.place(entry);
        let bytes = self.pages[page].bytes()[offset + at..]
            .first_chunk()
            .expect("a word lies within its entry");
        u64::from_le_bytes(*bytes)
    }

    /// The canonical bytes of an entry's key.
    pub fn key(&self, entry: EntryId) -> &[u8] {
        let (page, offset) = self.place(entry);
        match self.kind {
            KeyKind::Fixed => &self.pages[page].bytes()[offset..offset + KEY_BYTES],
            KeyKind::Bytes => self.arena.get(self.key_word(entry)),
        }
    }

    #[inline(always)]
    pub fn value(&self, entry: EntryId) -> &[u8] {
        let (page, offset) = self.place(entry);
        &self.pages[page].bytes()[offset + KEY_BYTES..offset + self.entry_bytes]
    }

    #[inline(always)]
    pub fn value_mut(&mut self, entry: EntryId) -> &mut [u8] {
        let (page, offset) = self.place(entry);
        &mut self.pages[page].bytes_mut()[offset + KEY_BYTES..offset + self.entry_bytes]
    }

    /// The eight bytes of a value at `at`, as a number.
    #[inline]
    pub fn word(&self, entry: EntryId, at: usize) -> u64 {
        self.load(entry, KEY_BYTES + at)
    }

    #[inline]
    pub fn set_word(&mut self, entry: EntryId, at: usize, word: u64) {
        self.update_word(entry, at, |_| word);
    }

    /// Replaces the eight bytes of a value at `at` by `change(word)`.
    #[inline(always)]
    pub fn update_word(&mut self, entry: EntryId, at: usize, change: impl FnOnce(u64) -> u64) {
        let (page, offset) = self.place(entry);
        let page = self.pages[page].bytes_mut();
        let bytes: &mut [u8; 8] = page[offset + KEY_BYTES + at..]
            .first_chunk_mut()
            .expect("a word lies within its entry");
        *bytes = change(u64::from_le_bytes(*bytes)).to_le_bytes();
    }

    /// Removes an entry. Its number may be given to another key.
    pub fn remove(&mut self, entry: EntryId) {
        let hash = murmur3_32(self.key(entry));
        let group = self.group_of(hash);
        self.groups[group].remove(hash, entry);
        if self.kind == KeyKind::Bytes {
            self.arena.remove(self.key_word(entry));
        }
        self.free.push(entry);
        self.live[entry as usize / 64] &= !(1 << (entry % 64));
        self.n_entries -= 1;
    }

    /// Removes all entries and frees the memory.
    pub fn clear(&mut self) {
        *self = KeyTable::new(
            self.kind,
            self.entry_bytes - KEY_BYTES,
            self.key_groups,
            self.max_parallelism,
        );
    }

    /// All entries, key group by key group; within a group the order is arbitrary.
    pub fn entries(&self) -> impl Iterator<Item = EntryId> + '_ {
        self.groups.iter().flat_map(GroupIndex::entries)
    }

    /// The entries of one key group, which is one of the table's.
    pub fn group_entries(&self, group: u32) -> impl Iterator<Item = EntryId> + '_ {
        self.groups[(group - self.key_groups.start) as usize].entries()
    }

    /// One past the greatest number that an entry can have by now.
    pub(crate) fn numbers_end(&self) -> EntryId {
        self.next
    }

    /// Whether the number, less than [`KeyTable::numbers_end`], holds a key.
    pub(crate) fn is_live(&self, entry: EntryId) -> bool {
        self.live[entry as usize / 64] >> (entry % 64) & 1 == 1
    }

    pub fn len(&self) -> usize {
        self.n_entries
    }

    pub fn is_empty(&self) -> bool {
        self.n_entries == 0
    }

    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// Bytes that entries and their keys take, without free memory.
    pub fn used_bytes(&self) -> usize {
        // Two to four slots of the index for an entry.
        self.n_entries * (self.entry_bytes + 3 * size_of::<u64>()) + self.arena.used_bytes()
    }

    /// Bytes of memory in total.
    pub fn memory_bytes(&self) -> usize {
        let pages =
            self.pages.len() * PAGE_BYTES + self.pages.capacity() * size_of::<Page<PageBytes>>();
        let index: usize = self.groups.iter().map(GroupIndex::memory_bytes).sum();
        let numbers =
            self.free.capacity() * size_of::<EntryId>() + self.live.capacity() * size_of::<u64>();
        pages + index + self.arena.memory_bytes() + numbers
    }

    /// The table as it is now. Pages are shared, not copied; a later write copies the page that it
    /// changes.
    pub fn freeze(&mut self) -> TableSnapshot {
        TableSnapshot {
            kind: self.kind,
            pages: self.pages.iter_mut().map(Page::share).collect(),
            live: self.live.clone(),
            entry_bytes: self.entry_bytes,
            slot_bits: self.slot_bits,
            arena: self.arena.freeze(),
            n_entries: self.n_entries,
        }
    }
}

/// The first eight bytes as a number.
pub(crate) fn word_of(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(*bytes.first_chunk().expect("a word has eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::KeyBuffer;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn buffer(kind: KeyKind, keys: &[u64]) -> KeyBuffer {
        let mut buffer = KeyBuffer::new(kind);
        for key in keys {
            let bytes = match kind {
                KeyKind::Fixed => key.to_le_bytes().to_vec(),
                KeyKind::Bytes => vec![*key as u8; *key as usize % 40],
            };
            buffer.push_key(murmur3_32(&bytes), &bytes);
        }
        buffer
    }

    /// Upserts each batch and adds 1 to every row's value, then removes some keys; a HashMap does
    /// the same.
    fn check(kind: KeyKind, max_parallelism: u32, batches: &[(Vec<u64>, Vec<u64>)]) {
        let mut table = KeyTable::new(
            kind,
            16,
            KeyGroupRange::all(max_parallelism),
            max_parallelism,
        );
        let mut model: HashMap<Vec<u8>, u64> = HashMap::new();
        let (mut entries, mut created) = (Vec::new(), Vec::new());
        for (added, removed) in batches {
            let keys = buffer(kind, added);
            table.upsert(keys.hashes(), keys.keys(), &mut entries, &mut created);
            for (row, &entry) in entries.iter().enumerate() {
                let bytes = keys.with_key(row, <[u8]>::to_vec);
                assert_eq!(table.key(entry), bytes);
                assert_eq!(created.contains(&(row as u32)), !model.contains_key(&bytes));
                *model.entry(bytes).or_default() += 1;
                table.update_word(entry, 8, |n| n + 1);
            }
            let keys = buffer(kind, removed);
            for row in 0..keys.len() {
                table.find(
                    &keys.hashes()[row..=row],
                    keys.keys().slice(row, row + 1),
                    &mut entries,
                );
                assert_eq!(
                    entries[0] != NO_ENTRY,
                    model.remove(&keys.with_key(row, <[u8]>::to_vec)).is_some()
                );
                if entries[0] != NO_ENTRY {
                    table.remove(entries[0]);
                }
            }
            let found: HashMap<Vec<u8>, u64> = table
                .entries()
                .map(|e| (table.key(e).to_vec(), table.word(e, 8)))
                .collect();
            assert_eq!((&found, table.len()), (&model, model.len()));
        }
    }

    proptest! {
        #[test]
        fn is_a_hash_map(
            batches in prop::collection::vec((prop::collection::vec(0u64..300, 0..200), prop::collection::vec(0u64..300, 0..80)), 1..8),
            max_parallelism in prop::sample::select(vec![1u32, 3, 128]),
        ) {
            check(KeyKind::Fixed, max_parallelism, &batches);
            check(KeyKind::Bytes, max_parallelism, &batches);
        }
    }

    #[test]
    fn a_million_keys_take_at_most_64_bytes_each() {
        let mut table = KeyTable::new(KeyKind::Fixed, 16, KeyGroupRange::all(128), 128);
        let (mut entries, mut created) = (Vec::new(), Vec::new());
        for start in (0..1_000_003u64).step_by(1024) {
            let keys: Vec<u64> = (start..(start + 1024).min(1_000_003)).collect();
            let hashes: Vec<u32> = keys
                .iter()
                .map(|key| murmur3_32(&key.to_le_bytes()))
                .collect();
            table.upsert(&hashes, Keys::Fixed(&keys), &mut entries, &mut created);
        }
        assert_eq!(table.len(), 1_000_003);
        let bytes = table.memory_bytes() / table.len();
        assert!(bytes <= 64, "{bytes} bytes a key");
    }
}
