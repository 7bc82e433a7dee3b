//! States that grow at their end: what a store has of one is not written again.
//!
//! 1. A state is cut into blocks, and a checksum is kept of each. Those in front that are as they
//!    were are shared, as beginnings of objects that the store has; the rest is one new object.
//! 2. A beginning that is shorter than twice what is written is written once more, into the new
//!    object, and so is one that is less than half of its object. So there are about as many
//!    objects as the length has binary digits, and the store has no more than twice the bytes.
//!
//! Invariant: an object that is not shared once is never shared again.

use std::collections::BTreeMap;
use streamrt_checkpoint::{Beginning, Stored};
use streamrt_types::Result;

/// What is rewritten although it is as it was, at most. Each has a checksum of 32 bytes in memory.
const BLOCK_BYTES: usize = 16 << 10;

/// What the store got last of such states, by task.
#[derive(Default)]
pub(crate) struct Grown {
    by_task: BTreeMap<usize, Kept>,
}

/// A state as it is in the store.
#[derive(Clone)]
struct Kept {
    begins: Vec<Beginning>,
    object: Stored,
    /// The checksums of whole blocks.
    blocks: Vec<blake3::Hash>,
    whole: blake3::Hash,
}

impl Grown {
    /// What the store has is not known any more.
    pub fn clear(&mut self) {
        self.by_task.clear();
    }

    /// Sees to it that the store has the state `bytes` of a task, with `put` for what it lacks.
    /// Returns what stands in front, and the object that ends it.
    ///
    /// # Errors
    /// Those of `put`.
    pub fn put(
        &mut self,
        task: usize,
        bytes: &[u8],
        put: impl FnOnce(Vec<u8>) -> Result<Stored>,
    ) -> Result<(Vec<Beginning>, Stored)> {
        let whole = blake3::hash(bytes);
        let blocks: Vec<blake3::Hash> = bytes.chunks_exact(BLOCK_BYTES).map(blake3::hash).collect();
        let before = self.by_task.get(&task);
        if let Some(before) = before.filter(|before| before.whole == whole) {
            return Ok((before.begins.clone(), before.object.clone()));
        }
        let begins = before.map_or(Vec::new(), |before| {
            before.shared_with(&blocks, bytes.len())
        });
        let shared: u64 = begins.iter().map(|begin| begin.used).sum();
        let object = put(bytes[shared as usize..].to_vec())?;
        self.by_task.insert(
            task,
            Kept {
                begins: begins.clone(),
                object: object.clone(),
                blocks,
                whole,
            },
        );
        Ok((begins, object))
    }
}

impl Kept {
    /// The beginnings of objects that a state of these blocks shares with this one.
    fn shared_with(&self, blocks: &[blake3::Hash], n_bytes: usize) -> Vec<Beginning> {
        let same = self
            .blocks
            .iter()
            .zip(blocks)
            .take_while(|(old, new)| old == new)
            .count();
        let (mut left, mut shared) = ((same * BLOCK_BYTES) as u64, Vec::new());
        let last = Beginning {
            stored: self.object.clone(),
            used: self.object.bytes,
        };
        for begin in self.begins.iter().chain([&last]) {
            let used = begin.used.min(left);
            if used * 2 < begin.stored.bytes || used == 0 {
                break;
            }
            left -= used;
            shared.push(Beginning {
                used,
                ..begin.clone()
            });
        }
        let mut written = n_bytes as u64 - shared.iter().map(|begin| begin.used).sum::<u64>();
        while let Some(begin) = shared.pop_if(|begin| begin.used < 2 * written) {
            written += begin.used;
        }
        shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that differ from block to block.
    fn state(n: usize, seed: usize) -> Vec<u8> {
        (0..n).map(|i| ((i / 7 + seed) % 251) as u8).collect()
    }

    /// A store of one task, with what was written.
    #[derive(Default)]
    struct Bench {
        grown: Grown,
        objects: BTreeMap<String, Vec<u8>>,
    }

    impl Bench {
        /// Puts a state; it can be read again. Returns the bytes written, and the number of
        /// objects.
        fn put(&mut self, bytes: &[u8]) -> (usize, usize) {
            let (mut written, name) = (0, self.objects.len().to_string());
            let objects = &mut self.objects;
            let put = |bytes: Vec<u8>| {
                written = bytes.len();
                let stored = Stored::of(&name, &bytes);
                objects.insert(name.clone(), bytes);
                Ok(stored)
            };
            let (begins, object) = self.grown.put(0, bytes, put).unwrap();
            let mut read: Vec<u8> = Vec::new();
            for begin in &begins {
                read.extend(&self.objects[&begin.stored.path][..begin.used as usize]);
            }
            read.extend(&self.objects[&object.path]);
            assert!(read == bytes, "the state is another one");
            (written, begins.len() + 1)
        }
    }

    #[test]
    fn a_state_that_grows_is_written_once_about() {
        let (mut bench, mut state) = (Bench::default(), state(3 << 20, 0));
        bench.put(&state);
        let (mut written, mut most) = (0, 0);
        for i in 0..2000usize {
            // What stands at the end changes.
            state.truncate(state.len() - 10);
            state.extend((0..1010).map(|j| ((i * 31 + j) % 256) as u8));
            let (bytes, objects) = bench.put(&state);
            written += bytes;
            most = most.max(objects);
        }
        assert!(
            written < 2000 * 4 * BLOCK_BYTES,
            "{written} bytes for two million"
        );
        assert!(most <= 9, "{most} objects");
    }

    #[test]
    fn a_state_that_is_as_it_was_is_not_written_and_one_that_is_another_is_written_whole() {
        let mut bench = Bench::default();
        assert_eq!(bench.put(&state(100_000, 0)), (100_000, 1));
        assert_eq!(bench.put(&state(100_000, 0)), (0, 1));
        assert_eq!(bench.put(&state(100_000, 1)), (100_000, 1));
        assert_eq!(bench.put(&state(50, 1)), (50, 1));
        assert_eq!(bench.put(&[]), (0, 1));
        bench.grown.clear();
        assert_eq!(bench.put(&state(50, 1)), (50, 1));
    }
}
