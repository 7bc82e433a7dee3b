//! The index of one key group: from a hash to the entries that may hold its key.
//!
//! Open addressing with linear probing; a slot is (hash, entry number + 1) in one word, and 0 is
//! free. The whole hash is the tag, so growing reads no entry, and a probe reads a wrong entry once
//! in 2^32. Invariant: at most every second slot is used, which keeps probes short, and there is no
//! free slot between a hash's position and its slot. A group is small, so growing it never stops
//! the task for long.

/// The number of an entry of a table. Stable until the entry is removed.
pub type EntryId = u32;

/// No entry.
pub const NO_ENTRY: EntryId = u32::MAX;

/// 2^64 over the golden ratio. The hash's low bits chose the key group, so all of its bits are
/// spread before they choose the slot.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

const SLOTS_MIN: usize = 8;

pub(crate) struct GroupIndex {
    slots: Vec<u64>,
    n_used: usize,
    /// 64 minus the logarithm of the number of slots.
    shift: u32,
}

#[inline]
fn word(hash: u32, entry: EntryId) -> u64 {
    u64::from(hash) << 32 | u64::from(entry + 1)
}

/// The entry of a slot; [`NO_ENTRY`] for a free one.
#[inline]
pub(crate) fn entry_of(word: u64) -> EntryId {
    (word as u32).wrapping_sub(1)
}

#[inline]
pub(crate) fn hash_of(word: u64) -> u32 {
    (word >> 32) as u32
}

impl GroupIndex {
    pub(crate) fn new() -> GroupIndex {
        GroupIndex {
            slots: Vec::new(),
            n_used: 0,
            shift: 63,
        }
    }

    #[inline(always)]
    fn position(&self, hash: u32) -> usize {
        (u64::from(hash).wrapping_mul(SPREAD) >> self.shift) as usize
    }

    /// The slot that `hash` would have without collisions; one load.
    #[inline(always)]
    pub(crate) fn first(&self, hash: u32) -> u64 {
        self.slots.get(self.position(hash)).copied().unwrap_or(0)
    }

    /// The entries under `hash`, in the order of probing.
    #[inline]
    pub(crate) fn probe(&self, hash: u32) -> impl Iterator<Item = EntryId> + '_ {
        let mask = self.slots.len().wrapping_sub(1);
        let start = self.position(hash);
        let words = (0..self.slots.len()).map(move |i| self.slots[(start + i) & mask]);
        words
            .take_while(|&word| word != 0)
            .filter(move |&word| hash_of(word) == hash)
            .map(entry_of)
    }

    /// Adds an entry that is not there yet.
    pub(crate) fn insert(&mut self, hash: u32, entry: EntryId) {
        if (self.n_used + 1) * 2 > self.slots.len() {
            self.grow();
        }
        self.place(word(hash, entry));
        self.n_used += 1;
    }

    fn place(&mut self, word: u64) {
        let mask = self.slots.len() - 1;
        let mut at = self.position(hash_of(word));
        while self.slots[at] != 0 {
            at = (at + 1) & mask;
        }
        self.slots[at] = word;
    }

    fn grow(&mut self) {
        let n_slots = (self.slots.len() * 2).max(SLOTS_MIN);
        let old = std::mem::replace(&mut self.slots, vec![0; n_slots]);
        self.shift = 64 - n_slots.trailing_zeros();
        old.into_iter()
            .filter(|&word| word != 0)
            .for_each(|word| self.place(word));
    }

    /// Removes an entry, and closes the gap: slots after it move up as far as their position
    /// allows.
    pub(crate) fn remove(&mut self, hash: u32, entry: EntryId) {
        let mask = self.slots.len().wrapping_sub(1);
        let start = self.position(hash);
        let found = (0..self.slots.len())
            .map(|i| (start + i) & mask)
            .find(|&at| self.slots[at] == word(hash, entry));
        let Some(mut gap) = found else { return };
        self.n_used -= 1;
        let mut at = (gap + 1) & mask;
        while self.slots[at] != 0 {
            let home = self.position(hash_of(self.slots[at]));
            // If the distance from home to the gap is less than that to the slot, it may move
            // there.
            if gap.wrapping_sub(home) & mask <= at.wrapping_sub(home) & mask {
                self.slots[gap] = self.slots[at];
                gap = at;
            }
            at = (at + 1) & mask;
        }
        self.slots[gap] = 0;
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = EntryId> + '_ {
        self.slots
            .iter()
            .filter(|&&word| word != 0)
            .map(|&word| entry_of(word))
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<u64>() + size_of::<GroupIndex>()
    }
}
