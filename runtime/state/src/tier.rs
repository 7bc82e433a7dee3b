//! State that is larger than memory: which entries of a table have changed since the disk saw them,
//! and which only the disk has.
//!
//! A [`Tier`] accompanies the table of one keyed state. Its owner reports what happens to entries,
//! and calls [`Tier::prepare`] with the keys of a batch before it touches them:
//! 1. If the process holds more than its budget, cold entries are evicted (the clock algorithm with
//!    a second chance): the changed ones are written to the disk, sorted and many at a time, the
//!    others are dropped.
//! 2. Keys of the batch that are not in the table are read from the disk, sorted and all at once.
//!    As long as no entry has left, nothing is read: the disk then has nothing that the table
//!    lacks.
//!
//! A freeze shows only the changed entries. Until they are written (see [`StateDisk::flight`])
//! nothing is evicted, so the disk never holds anything newer than the checkpoint that is taken of
//! it, and a key that is not in the table is found on disk in its last form.
//!
//! Invariant: a key that is neither in the table nor among the removed ones has its last value on
//! disk; a key in the table that is not dirty has the same value on disk, or in the flight.

use crate::disk::{Disk, KeyRange};
use crate::expiry::Expiry;
use crate::flight::FlightGuard;
use crate::index::{EntryId, NO_ENTRY};
use crate::keys::Keys;
use crate::state_disk::{KeyPlace, StateDisk};
use crate::table::{KeyTable, TableSnapshot};
use std::collections::HashSet;
use std::sync::{Arc, Weak};
use streamrt_types::{Result, key_group, murmur3_32};

/// How often memory is checked, in batches.
const BATCHES_PER_LOOK: u32 = 8;

/// A state whose entries can leave the table and come back. While its tier works, the tier is taken
/// out of the state, so what happens to entries then does not count as a change.
pub trait Resident: Sized {
    /// `None` means that everything is in memory.
    fn tier(&mut self) -> &mut Option<Box<Tier>>;
    fn table(&self) -> &KeyTable;
    /// Appends what the snapshot of an entry would hold: see [`crate::push_pair`].
    fn store(&self, entry: EntryId, run: &mut Vec<u8>);
    /// Takes back what [`Resident::store`] returned.
    ///
    /// # Errors
    /// `Data` if `run` is not that.
    fn load(&mut self, hash: u32, key: &[u8], run: &[u8]) -> Result<()>;
    /// Removes an entry from memory, with everything to which it refers.
    fn drop_entry(&mut self, entry: EntryId);
    /// Bytes that entries take, without free memory.
    fn used_bytes(&self) -> usize;

    /// Like [`Tier::prepare`]; does nothing without a tier.
    ///
    /// # Errors
    /// The same as for [`Tier::prepare`].
    fn prepare(&mut self, hashes: &[u32], keys: Keys<'_>) -> Result<()> {
        self.with_tier(|tier, state| tier.prepare(state, hashes, keys))
    }

    /// Like [`Tier::make_room`]; does nothing without a tier.
    ///
    /// # Errors
    /// The same as for [`Tier::make_room`].
    fn make_room(&mut self) -> Result<()> {
        self.with_tier(Tier::make_room)
    }

    /// Evicts entries while a snapshot is restored, before the entry of a key with this hash: only
    /// between key groups, as a key may have several entries.
    ///
    /// # Errors
    /// The same as for [`Tier::make_room`].
    fn make_room_before(&mut self, hash: u32) -> Result<()> {
        self.with_tier(|tier, state| {
            if tier.enters_group(hash) {
                tier.make_room(state)
            } else {
                Ok(())
            }
        })
    }

    fn with_tier(&mut self, work: impl FnOnce(&mut Tier, &mut Self) -> Result<()>) -> Result<()> {
        let Some(mut tier) = self.tier().take() else {
            return Ok(());
        };
        let worked = work(&mut tier, self);
        *self.tier() = Some(tier);
        worked
    }
}

/// Bits by entry number.
#[derive(Default, Clone)]
struct Bits(Vec<u64>);

impl Bits {
    #[inline]
    fn set(&mut self, entry: EntryId) {
        let word = entry as usize / 64;
        if word >= self.0.len() {
            self.0.resize((word + 1).next_power_of_two(), 0);
        }
        self.0[word] |= 1 << (entry % 64);
    }

    fn get(&self, entry: EntryId) -> bool {
        self.0
            .get(entry as usize / 64)
            .is_some_and(|word| word >> (entry % 64) & 1 == 1)
    }

    /// Clears the bit, and returns what it was.
    fn take(&mut self, entry: EntryId) -> bool {
        let Some(word) = self.0.get_mut(entry as usize / 64) else {
            return false;
        };
        let was = *word >> (entry % 64) & 1 == 1;
        *word &= !(1 << (entry % 64));
        was
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    fn add(&mut self, other: &Bits) {
        self.0.resize(self.0.len().max(other.0.len()), 0);
        self.0
            .iter_mut()
            .zip(&other.0)
            .for_each(|(word, other)| *word |= other);
    }
}

/// Canonical keys.
type KeySet = HashSet<Box<[u8]>>;

/// See the module.
pub struct Tier {
    shared: Arc<StateDisk>,
    place: KeyPlace,
    /// Whether the table has another value than the disk and the flight.
    dirty: Bits,
    /// Whether the disk or the flight has the key.
    stored: Bits,
    /// The second chance.
    touched: Bits,
    /// Keys that the disk still has, and the state does not.
    removed: KeySet,
    /// The same for flights that have not ended.
    leaving: Vec<Weak<KeySet>>,
    /// Whether the disk may have keys that the table does not have.
    cold: bool,
    hand: EntryId,
    batches: u32,
    /// The bytes that the budget counts.
    counted_bytes: usize,
    /// The key group whose entries are being restored.
    restored_group: Option<u32>,
    entries: Vec<EntryId>,
}

/// The entries that a freeze found changed.
pub struct Changed(Bits);

impl Changed {
    pub fn contains(&self, entry: EntryId) -> bool {
        self.0.get(entry)
    }

    /// Leaves only these in a frozen table.
    pub fn retain(&self, table: &mut TableSnapshot) {
        table.retain(&self.0.0);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The part of a frozen state that is not in its entries.
pub struct DiskChanges {
    pub(crate) shared: Arc<StateDisk>,
    pub(crate) number: u8,
    pub(crate) in_namespaces: bool,
    /// `None` means that entries live for ever.
    pub(crate) expiry: Option<Expiry>,
    pub(crate) removed: Arc<KeySet>,
    /// Ranges of keys on disk that the state no longer has.
    pub(crate) purged: Vec<KeyRange>,
    pub(crate) guard: FlightGuard,
}

impl DiskChanges {
    pub(crate) fn new(shared: Arc<StateDisk>, number: u8) -> DiskChanges {
        let guard = shared.flight.begin();
        DiskChanges {
            shared,
            number,
            in_namespaces: false,
            expiry: None,
            removed: Arc::default(),
            purged: Vec::new(),
            guard,
        }
    }
}

impl Tier {
    pub(crate) fn new(shared: Arc<StateDisk>, place: KeyPlace, cold: bool) -> Tier {
        Tier {
            cold,
            shared,
            place,
            dirty: Bits::default(),
            stored: Bits::default(),
            touched: Bits::default(),
            removed: KeySet::new(),
            leaving: Vec::new(),
            hand: 0,
            batches: 0,
            counted_bytes: 0,
            restored_group: None,
            entries: Vec::new(),
        }
    }

    /// Makes every key of a batch resident that the state has. Entry numbers from before the call
    /// are invalid after it.
    ///
    /// # Errors
    /// The same as for [`Disk::get`] and [`Disk::write`].
    pub fn prepare(
        &mut self,
        state: &mut impl Resident,
        hashes: &[u32],
        keys: Keys<'_>,
    ) -> Result<()> {
        self.batches += 1;
        if self.batches >= BATCHES_PER_LOOK {
            self.make_room(state)?;
        }
        self.fetch(state, hashes, keys)
    }

    /// Like [`Tier::prepare`], but nothing is evicted.
    ///
    /// # Errors
    /// The same as for [`Disk::get`].
    pub fn fetch(
        &mut self,
        state: &mut impl Resident,
        hashes: &[u32],
        keys: Keys<'_>,
    ) -> Result<()> {
        if self.cold {
            self.read_missing(state, hashes, keys)
        } else {
            Ok(())
        }
    }

    /// Whether the disk may have keys that the table does not have.
    pub fn is_cold(&self) -> bool {
        self.cold
    }

    /// Whether the disk has keys of the table, or will have when the changes of the freezes so far
    /// are written.
    pub fn is_stored(&self) -> bool {
        self.cold || !self.stored.is_empty()
    }

    /// Evicts entries if the process holds too much. Entry numbers from before the call are invalid
    /// after it.
    ///
    /// # Errors
    /// The same as for [`Disk::write`].
    pub fn make_room(&mut self, state: &mut impl Resident) -> Result<()> {
        self.batches = 0;
        self.count(state);
        let excess = self.shared.budget.excess_bytes(self.counted_bytes);
        if excess > 0 {
            self.release(state, excess)
        } else {
            Ok(())
        }
    }

    /// Evicts entries that take some `bytes`; all of them, if they take no more.
    ///
    /// # Errors
    /// The same as for [`Disk::write`].
    pub fn release(&mut self, state: &mut impl Resident, bytes: usize) -> Result<()> {
        let n =
            (bytes as u64 * state.table().len() as u64 / self.counted_bytes.max(1) as u64) as usize;
        self.evict(state, n.clamp(1, state.table().len().max(1)))?;
        self.count(state);
        Ok(())
    }

    fn enters_group(&mut self, hash: u32) -> bool {
        let group = Some(key_group(hash, self.shared.max_parallelism));
        std::mem::replace(&mut self.restored_group, group) != group
    }

    /// Reports to the budget what the state holds, and returns it.
    pub fn count(&mut self, state: &impl Resident) -> usize {
        let used = state.used_bytes();
        self.shared
            .budget
            .change(std::mem::replace(&mut self.counted_bytes, used), used);
        used
    }

    fn read_missing(
        &mut self,
        state: &mut impl Resident,
        hashes: &[u32],
        keys: Keys<'_>,
    ) -> Result<()> {
        let mut entries = std::mem::take(&mut self.entries);
        state.table().find(hashes, keys, &mut entries);
        entries
            .iter()
            .filter(|&&entry| entry != NO_ENTRY)
            .for_each(|&entry| self.touched.set(entry));
        let missing = entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| **entry == NO_ENTRY)
            .map(|(row, _)| row);
        let mut wanted = SortedKeys::default();
        for row in missing {
            keys.with_key(row, |key| {
                if !self.is_removed(key) {
                    wanted.push(hashes[row], |bytes| {
                        self.shared.put_key(&self.place, hashes[row], key, bytes)
                    });
                }
            });
        }
        self.entries = entries;
        wanted.sort();
        let disk_keys = wanted.keys();
        self.shared.disk().get(&disk_keys, &mut |at, run| {
            let (hash, key) = (wanted.hash(at), &disk_keys[at][self.place.prefix_bytes()..]);
            state.load(hash, key, run)?;
            let entry = state.table().entry(hash, key);
            self.stored.set(entry);
            self.touched.set(entry);
            Ok(())
        })
    }

    fn is_removed(&self, key: &[u8]) -> bool {
        let mut leaving = self.leaving.iter().filter_map(Weak::upgrade);
        self.removed.contains(key) || leaving.any(|keys| keys.contains(key))
    }

    /// Records that entries were created or written.
    #[inline]
    pub fn changed(&mut self, entries: &[EntryId]) {
        entries.iter().for_each(|&entry| self.dirty.set(entry));
        if self.cold {
            entries.iter().for_each(|&entry| self.touched.set(entry));
        }
    }

    /// Records that the state loses `key`, which had the number `entry`.
    pub fn removed(&mut self, key: &[u8], entry: EntryId) {
        self.dirty.take(entry);
        if self.stored.take(entry) {
            self.removed.insert(key.into());
        }
    }

    /// Evicts about `n` of the least recently used entries.
    fn evict(&mut self, state: &mut impl Resident, n: usize) -> Result<()> {
        self.shared.flight.wait()?;
        // They are gone from the disk, which may now get one of them again.
        self.leaving.clear();
        self.cold = true;
        let victims = self.victims(state.table(), n);
        let mut changes = Pairs::default();
        for &entry in victims.iter().filter(|&&entry| self.dirty.get(entry)) {
            let key = state.table().key(entry);
            self.removed.remove(key);
            changes.push(
                |bytes| {
                    self.shared
                        .put_key(&self.place, murmur3_32(key), key, bytes)
                },
                |run| state.store(entry, run),
            );
        }
        changes.write(self.shared.disk())?;
        for entry in victims {
            self.dirty.take(entry);
            self.stored.take(entry);
            state.drop_entry(entry);
        }
        Ok(())
    }

    /// The next entries at the hand without a second chance; two rounds find all of them.
    fn victims(&mut self, table: &KeyTable, n: usize) -> Vec<EntryId> {
        let mut victims = Vec::with_capacity(n);
        let end = table.numbers_end();
        for _ in 0..2 * u64::from(end) {
            if victims.len() == n {
                break;
            }
            self.hand = if self.hand + 1 >= end {
                0
            } else {
                self.hand + 1
            };
            if table.is_live(self.hand) && !self.touched.take(self.hand) {
                victims.push(self.hand);
            }
        }
        // The second round meets those of the first again.
        victims.sort_unstable();
        victims.dedup();
        victims
    }

    /// The table as it is now; if there is a tier, only what has changed since the last freeze.
    pub(crate) fn freeze_table(
        tier: &mut Option<Box<Tier>>,
        table: &mut KeyTable,
        expiry: Option<Expiry>,
    ) -> (TableSnapshot, Option<DiskChanges>) {
        let mut frozen = table.freeze();
        let changes = tier.as_mut().map(|tier| {
            let (changed, changes) = tier.freeze();
            changed.retain(&mut frozen);
            DiskChanges { expiry, ..changes }
        });
        (frozen, changes)
    }

    /// What has changed since the last freeze, which a checkpoint takes along.
    pub fn freeze(&mut self) -> (Changed, DiskChanges) {
        let removed = Arc::new(std::mem::take(&mut self.removed));
        self.leaving.retain(|keys| keys.strong_count() > 0);
        self.leaving.push(Arc::downgrade(&removed));
        (
            self.take_changed(),
            DiskChanges {
                removed,
                ..DiskChanges::new(self.shared.clone(), self.place.number)
            },
        )
    }

    /// The entries that have changed since the last freeze, for a checkpoint of all tables of a
    /// state: see [`crate::Namespaces::freeze`].
    pub fn take_changed(&mut self) -> Changed {
        let dirty = std::mem::take(&mut self.dirty);
        self.stored.add(&dirty);
        Changed(dirty)
    }
}

impl Drop for Tier {
    fn drop(&mut self) {
        self.shared.budget.change(self.counted_bytes, 0);
    }
}

/// Keys on disk that are wanted, each once.
#[derive(Default)]
struct SortedKeys {
    bytes: Vec<u8>,
    /// Where each key is, and the hash of the key after its prefix.
    places: Vec<(u32, u32, u32)>,
}

impl SortedKeys {
    fn push(&mut self, hash: u32, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len() as u32;
        write(&mut self.bytes);
        self.places.push((start, self.bytes.len() as u32, hash));
    }

    fn sort(&mut self) {
        let bytes = &self.bytes;
        let key = |place: &(u32, u32, u32)| &bytes[place.0 as usize..place.1 as usize];
        self.places.sort_unstable_by(|a, b| key(a).cmp(key(b)));
        self.places.dedup_by(|a, b| key(a) == key(b));
    }

    fn keys(&self) -> Vec<&[u8]> {
        self.places
            .iter()
            .map(|&(start, end, _)| &self.bytes[start as usize..end as usize])
            .collect()
    }

    fn hash(&self, at: usize) -> u32 {
        self.places[at].2
    }
}

/// Changes for a disk, in one buffer.
#[derive(Default)]
pub(crate) struct Pairs {
    bytes: Vec<u8>,
    places: Vec<Place>,
}

/// A key on disk and what is put under it.
#[derive(Clone, Copy)]
struct Place {
    /// The first bytes of the key: most comparisons end here.
    front: u64,
    start: usize,
    value_start: usize,
    end: usize,
    deletes: bool,
}

impl Pairs {
    pub(crate) fn push(
        &mut self,
        key: impl FnOnce(&mut Vec<u8>),
        value: impl FnOnce(&mut Vec<u8>),
    ) {
        let start = self.bytes.len();
        key(&mut self.bytes);
        let value_start = self.bytes.len();
        value(&mut self.bytes);
        let front = front(&self.bytes[start..value_start]);
        self.places.push(Place {
            front,
            start,
            value_start,
            end: self.bytes.len(),
            deletes: false,
        });
    }

    /// Appends to the value that was pushed last.
    pub(crate) fn extend(&mut self, value: impl FnOnce(&mut Vec<u8>)) {
        value(&mut self.bytes);
        if let Some(last) = self.places.last_mut() {
            last.end = self.bytes.len();
        }
    }

    pub(crate) fn delete(&mut self, key: impl FnOnce(&mut Vec<u8>)) {
        self.push(key, |_| ());
        if let Some(last) = self.places.last_mut() {
            last.deletes = true;
        }
    }

    fn key(&self, place: &Place) -> &[u8] {
        &self.bytes[place.start..place.value_start]
    }

    /// Writes everything in the order of the keys. If a key is both put and deleted, it is put.
    pub(crate) fn write(mut self, disk: &dyn Disk) -> Result<()> {
        if self.places.is_empty() {
            return Ok(());
        }
        let mut places = std::mem::take(&mut self.places);
        places.sort_unstable_by(|a, b| {
            a.front
                .cmp(&b.front)
                .then_with(|| self.key(a).cmp(self.key(b)))
                .then(a.deletes.cmp(&b.deletes))
        });
        places.dedup_by(|later, earlier| {
            later.front == earlier.front && self.key(later) == self.key(earlier)
        });
        let change = |place: &Place| {
            (
                self.key(place),
                (!place.deletes).then(|| &self.bytes[place.value_start..place.end]),
            )
        };
        disk.write(&mut places.iter().map(change))
    }
}

fn front(key: &[u8]) -> u64 {
    let mut front = [0; 8];
    let n = key.len().min(8);
    front[..n].copy_from_slice(&key[..n]);
    u64::from_be_bytes(front)
}

#[cfg(test)]
mod tests;
