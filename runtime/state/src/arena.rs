//! Byte strings of any length, in pages: keys that are not eight bytes, and values with strings.
//!
//! Invariant: every block is in use by exactly one address, or in the free list of its size class,
//! so state that is rewritten for ever does not grow. Blocks are multiples of 16 bytes up to a
//! kibibyte; larger ones have a page of their own.

use crate::page::{Page, SharedPage};

/// Where a byte string is. 0 means none, so zeroed memory holds no address.
pub type Address = u64;

/// No byte string.
pub const NO_ADDRESS: Address = 0;

const PAGE_BYTES: usize = 4096;
/// A block is a multiple of this.
const GRAIN: usize = 16;
/// A larger block would waste too much of a page.
const SMALL_BYTES_MAX: usize = 1024;
/// Each block begins with its length.
const HEADER_BYTES: usize = 4;

/// A heap of byte strings.
#[derive(Default)]
pub struct Arena {
    pages: Vec<Page<[u8]>>,
    /// The page from which small blocks are cut, and how much of it is used.
    open: Option<(usize, usize)>,
    /// Free small blocks by class.
    free: Vec<Vec<Address>>,
    /// Pages of large blocks that are free.
    free_pages: Vec<usize>,
    /// Bytes of the blocks in use.
    used_bytes: usize,
}

fn block_bytes(length: usize) -> usize {
    (length + HEADER_BYTES).next_multiple_of(GRAIN)
}

fn address(page: usize, offset: usize) -> Address {
    (page as u64 + 1) << 32 | offset as u64
}

fn place(address: Address) -> (usize, usize) {
    ((address >> 32) as usize - 1, address as u32 as usize)
}

/// The bytes of the block at `offset` of a page.
fn block(page: &[u8], offset: usize) -> &[u8] {
    let header = page[offset..]
        .first_chunk()
        .expect("every block has a header");
    &page[offset + HEADER_BYTES..][..u32::from_le_bytes(*header) as usize]
}

/// An arena as it was at one moment.
pub struct ArenaSnapshot {
    pages: Vec<SharedPage<[u8]>>,
}

impl ArenaSnapshot {
    /// The bytes at `address`; none at [`NO_ADDRESS`].
    pub fn get(&self, address: Address) -> &[u8] {
        if address == NO_ADDRESS {
            return &[];
        }
        let (page, offset) = place(address);
        block(&self.pages[page], offset)
    }
}

impl Arena {
    pub fn new() -> Arena {
        Arena::default()
    }

    /// Stores a copy of `bytes`, of less than 4 GiB.
    pub fn insert(&mut self, bytes: &[u8]) -> Address {
        let address = self.allocate(block_bytes(bytes.len()));
        self.write(address, bytes);
        address
    }

    /// The bytes at `address`; none at [`NO_ADDRESS`].
    pub fn get(&self, address: Address) -> &[u8] {
        if address == NO_ADDRESS {
            return &[];
        }
        let (page, offset) = place(address);
        block(self.pages[page].bytes(), offset)
    }

    /// Replaces the bytes at `old` by `bytes`, which may be [`NO_ADDRESS`], and returns where they
    /// are now.
    pub fn replace(&mut self, old: Address, bytes: &[u8]) -> Address {
        if old != NO_ADDRESS && block_bytes(self.length(old)) == block_bytes(bytes.len()) {
            self.write(old, bytes);
            return old;
        }
        self.remove(old);
        self.insert(bytes)
    }

    /// Frees the block; does nothing at [`NO_ADDRESS`].
    pub fn remove(&mut self, address: Address) {
        if address == NO_ADDRESS {
            return;
        }
        let size = block_bytes(self.length(address));
        self.used_bytes -= size;
        if size > SMALL_BYTES_MAX {
            let (page, _) = place(address);
            self.pages[page] = Page::zeroed(0);
            self.free_pages.push(page);
            return;
        }
        let class = size / GRAIN;
        if self.free.len() <= class {
            self.free.resize(class + 1, Vec::new());
        }
        self.free[class].push(address);
    }

    /// Bytes of the blocks in use.
    pub fn used_bytes(&self) -> usize {
        self.used_bytes
    }

    /// Bytes that the arena holds, free ones included.
    pub fn memory_bytes(&self) -> usize {
        let pages: usize = self.pages.iter().map(|page| page.bytes().len()).sum();
        let free: usize = self
            .free
            .iter()
            .map(|class| class.capacity() * size_of::<Address>())
            .sum();
        pages + free + self.pages.capacity() * size_of::<Page<[u8]>>()
    }

    /// The arena as it is now. Pages are shared, not copied; a later write copies the page that it
    /// changes.
    pub fn freeze(&mut self) -> ArenaSnapshot {
        ArenaSnapshot {
            pages: self.pages.iter_mut().map(Page::share).collect(),
        }
    }

    fn length(&self, address: Address) -> usize {
        let (page, offset) = place(address);
        block(self.pages[page].bytes(), offset).len()
    }

    fn write(&mut self, address: Address, bytes: &[u8]) {
        let (page, offset) = place(address);
        let length =
            u32::try_from(bytes.len()).expect("a value is smaller than 4 GiB: batches are");
        let block = &mut self.pages[page].bytes_mut()[offset..];
        block[..HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
        block[HEADER_BYTES..][..bytes.len()].copy_from_slice(bytes);
    }

    fn allocate(&mut self, size: usize) -> Address {
        self.used_bytes += size;
        if size > SMALL_BYTES_MAX {
            return address(self.new_page(size), 0);
        }
        if let Some(free) = self.free.get_mut(size / GRAIN).and_then(Vec::pop) {
            return free;
        }
        let (page, offset) = match self.open {
            Some((page, used)) if used + size <= PAGE_BYTES => (page, used),
            _ => (self.new_page(PAGE_BYTES), 0),
        };
        self.open = Some((page, offset + size));
        address(page, offset)
    }

    fn new_page(&mut self, size: usize) -> usize {
        let page = Page::zeroed(size);
        match self.free_pages.pop() {
            Some(number) => {
                self.pages[number] = page;
                number
            }
            None => {
                self.pages.push(page);
                self.pages.len() - 1
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn check(steps: &[(u8, usize)]) {
        let mut arena = Arena::new();
        let mut model: HashMap<u8, (Address, Vec<u8>)> = HashMap::new();
        for (i, &(name, length)) in steps.iter().enumerate() {
            let bytes = vec![i as u8; length];
            let old = model.get(&name).map_or(NO_ADDRESS, |(address, _)| *address);
            if length % 7 == 3 {
                arena.remove(old);
                model.remove(&name);
            } else {
                model.insert(name, (arena.replace(old, &bytes), bytes));
            }
            for (address, bytes) in model.values() {
                assert_eq!(arena.get(*address), bytes);
            }
        }
    }

    proptest! {
        #[test]
        fn holds_what_was_put(steps in prop::collection::vec((0u8..12, 0usize..3000), 0..60)) {
            check(&steps);
        }
    }

    #[test]
    fn does_not_grow_when_values_are_rewritten() {
        let mut arena = Arena::new();
        let mut at = NO_ADDRESS;
        for i in 0..100_000usize {
            at = arena.replace(at, &vec![1; i % 200]);
        }
        assert!(
            arena.memory_bytes() < 4 * PAGE_BYTES,
            "{}",
            arena.memory_bytes()
        );
    }
}
