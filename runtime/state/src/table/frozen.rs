//! A table as it was when it was frozen.

use super::{KEY_BYTES, PageBytes, word_of};
use crate::arena::ArenaSnapshot;
use crate::index::EntryId;
use crate::keys::KeyKind;
use crate::page::SharedPage;

/// A table as it was at one moment.
pub struct TableSnapshot {
    pub(super) kind: KeyKind,
    pub(super) pages: Vec<SharedPage<PageBytes>>,
    pub(super) live: Vec<u64>,
    pub(super) entry_bytes: usize,
    pub(super) slot_bits: u32,
    pub(super) arena: ArenaSnapshot,
    pub(super) n_entries: usize,
}

impl TableSnapshot {
    /// Shows the key and the value of every entry, in the order of their numbers.
    pub fn each(&self, each: &mut dyn FnMut(&[u8], &[u8])) {
        for (word, &bits) in self.live.iter().enumerate() {
            let mut bits = bits;
            while bits != 0 {
                self.show((word * 64) as EntryId + bits.trailing_zeros(), each);
                bits &= bits - 1;
            }
        }
    }

    /// Omits every entry whose bit is not set.
    pub fn retain(&mut self, bits: &[u64]) {
        self.live
            .iter_mut()
            .zip(bits.iter().chain(std::iter::repeat(&0)))
            .for_each(|(live, bits)| *live &= bits);
        self.n_entries = self
            .live
            .iter()
            .map(|bits| bits.count_ones() as usize)
            .sum();
    }

    fn show(&self, entry: EntryId, each: &mut dyn FnMut(&[u8], &[u8])) {
        let start = (entry & ((1 << self.slot_bits) - 1)) as usize * self.entry_bytes;
        let entry =
            &self.pages[(entry >> self.slot_bits) as usize][start..start + self.entry_bytes];
        let (key, value) = entry.split_at(KEY_BYTES);
        match self.kind {
            KeyKind::Fixed => each(key, value),
            KeyKind::Bytes => each(self.arena.get(word_of(key)), value),
        }
    }

    pub fn len(&self) -> usize {
        self.n_entries
    }

    pub fn is_empty(&self) -> bool {
        self.n_entries == 0
    }
}
