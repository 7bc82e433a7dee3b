//! The slots of a call: its distinct keys, numbered.
//!
//! Invariant: a slot's number is its key's place in `keys`; keys are in order of first appearance,
//! or sorted if timers fire, so that timers with the same time fire in an order that does not
//! depend on how rows were batched.

use crate::timers::{Timer, TimerKey};
use streamrt_state::{KeyBuffer, KeyKind, Keys};

/// Numbers distinct keys. Its memory is kept from call to call.
pub(crate) struct Slots {
    pub keys: KeyBuffer,
    /// The slot of each row.
    pub of_rows: Vec<u32>,
    /// The slot of each timer.
    pub of_timers: Vec<u32>,
    /// Open-addressed: slot + 1, or 0.
    index: Vec<u32>,
}

/// 2^32 over the golden ratio: key groups have used the low bits of the hash.
const SPREAD: u32 = 0x9e37_79b9;

impl Slots {
    pub(crate) fn new(kind: KeyKind) -> Slots {
        Slots {
            keys: KeyBuffer::new(kind),
            of_rows: Vec::new(),
            of_timers: Vec::new(),
            index: Vec::new(),
        }
    }

    /// Numbers the keys of rows and of timers.
    pub(crate) fn assign(&mut self, hashes: &[u32], keys: Keys<'_>, timers: &[Timer]) {
        self.keys.clear();
        self.of_rows.clear();
        self.of_timers.clear();
        let capacity = ((hashes.len() + timers.len()) * 2)
            .next_power_of_two()
            .max(2);
        self.index.clear();
        self.index.resize(capacity, 0);
        for (row, &hash) in hashes.iter().enumerate() {
            let slot = self.slot(hash, keys, row);
            self.of_rows.push(slot);
        }
        for timer in timers {
            let hash = timer.key.hash();
            let slot = match &timer.key {
                TimerKey::Fixed(key) => self.slot(hash, Keys::Fixed(&[*key]), 0),
                TimerKey::Bytes(bytes) => self.slot(
                    hash,
                    Keys::Bytes {
                        bytes,
                        offsets: &[0, bytes.len() as u32],
                    },
                    0,
                ),
            };
            self.of_timers.push(slot);
        }
    }

    fn slot(&mut self, hash: u32, keys: Keys<'_>, row: usize) -> u32 {
        let shift = 32 - self.index.len().trailing_zeros();
        let mask = self.index.len() - 1;
        let mut at = (hash.wrapping_mul(SPREAD) >> shift) as usize;
        loop {
            match self.index[at] {
                0 => break,
                slot if self.keys.hashes()[slot as usize - 1] == hash
                    && self.keys.equals(slot as usize - 1, keys, row) =>
                {
                    return slot - 1;
                }
                _ => at = (at + 1) & mask,
            }
        }
        self.keys.push(hash, keys, row);
        self.index[at] = self.keys.len() as u32;
        self.keys.len() as u32 - 1
    }

    /// Renumbers the slots in the order of their keys.
    pub(crate) fn sort(&mut self) {
        let mut order: Vec<u32> = (0..self.keys.len() as u32).collect();
        let keys = std::mem::replace(&mut self.keys, KeyBuffer::new(KeyKind::Fixed));
        let rank = |slot: &u32| *slot as usize;
        match keys.keys() {
            Keys::Fixed(words) => order.sort_unstable_by_key(|slot| words[rank(slot)]),
            Keys::Bytes { bytes, offsets } => {
                order.sort_unstable_by_key(|slot| {
                    &bytes[offsets[rank(slot)] as usize..offsets[rank(slot) + 1] as usize]
                });
            }
        }
        let mut sorted = KeyBuffer::new(keys.keys().kind());
        let mut new_number = vec![0; order.len()];
        for (number, &slot) in (0u32..).zip(&order) {
            new_number[slot as usize] = number;
            sorted.push(keys.hashes()[slot as usize], keys.keys(), slot as usize);
        }
        self.keys = sorted;
        self.of_rows
            .iter_mut()
            .chain(&mut self.of_timers)
            .for_each(|slot| *slot = new_number[*slot as usize]);
    }

    /// The key of a slot, for a timer.
    pub(crate) fn timer_key(&self, slot: usize) -> TimerKey {
        match self.keys.keys() {
            Keys::Fixed(keys) => TimerKey::Fixed(keys[slot]),
            Keys::Bytes { .. } => TimerKey::Bytes(self.keys.with_key(slot, |key| key.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use streamrt_types::murmur3_32;

    fn check(rows: &[u64], timers: &[u64]) {
        let hashes: Vec<u32> = rows
            .iter()
            .map(|key| murmur3_32(&key.to_le_bytes()))
            .collect();
        let timers: Vec<Timer> = timers
            .iter()
            .map(|&key| Timer {
                time: 0,
                key: TimerKey::Fixed(key),
            })
            .collect();
        let mut slots = Slots::new(KeyKind::Fixed);
        slots.assign(&hashes, Keys::Fixed(rows), &timers);
        for sorted in [false, true] {
            if sorted {
                slots.sort();
            }
            let Keys::Fixed(keys) = slots.keys.keys() else {
                panic!("keys stay of their kind")
            };
            assert!(
                rows.iter()
                    .zip(&slots.of_rows)
                    .all(|(key, &slot)| keys[slot as usize] == *key)
            );
            assert!(
                timers
                    .iter()
                    .zip(&slots.of_timers)
                    .all(|(timer, &slot)| TimerKey::Fixed(keys[slot as usize]) == timer.key)
            );
            let mut distinct = keys.to_vec();
            distinct.sort_unstable();
            assert!(!sorted || distinct == keys);
            distinct.dedup();
            assert_eq!(distinct.len(), keys.len());
        }
    }

    proptest! {
        #[test]
        fn every_key_has_one_slot(rows in prop::collection::vec(0u64..50, 0..100), timers in prop::collection::vec(0u64..80, 0..30)) {
            check(&rows, &timers);
        }
    }
}
