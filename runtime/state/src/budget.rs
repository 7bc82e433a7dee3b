//! The memory of a process for keyed state, which all tables share.
//!
//! Invariant: what a table has counted leaves the sum when its tier is dropped.

use std::sync::atomic::{AtomicUsize, Ordering};

/// What the tables of a process may hold together.
pub struct MemoryBudget {
    limit_bytes: usize,
    used_bytes: AtomicUsize,
}

impl MemoryBudget {
    pub fn new(limit_bytes: usize) -> MemoryBudget {
        MemoryBudget {
            limit_bytes,
            used_bytes: AtomicUsize::new(0),
        }
    }

    /// Bytes in use, as of each state's last report.
    pub fn used_bytes(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn change(&self, from: usize, to: usize) {
        self.used_bytes
            .fetch_add(to.wrapping_sub(from), Ordering::Relaxed);
    }

    /// What every state may hold, however little the others leave: a batch has to fit.
    fn state_bytes_min(&self) -> usize {
        (self.limit_bytes / 16).min(1 << 20)
    }

    /// How much of a state with `state_bytes` has to leave. It is more than the excess, so eviction
    /// is rare and its batches are large.
    pub(crate) fn excess_bytes(&self, state_bytes: usize) -> usize {
        let used = self.used_bytes();
        let excess = if used > self.limit_bytes {
            used - self.limit_bytes + self.limit_bytes / 8
        } else {
            0
        };
        excess.min(state_bytes.saturating_sub(self.state_bytes_min()))
    }
}
