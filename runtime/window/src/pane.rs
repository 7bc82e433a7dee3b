//! One pane of windows: the accumulators of its keys, in memory and, if the job has one, on a disk.
//!
//! Invariant: a key's accumulators are in the table, or on disk as they were last. The disk is
//! asked only if something has left the table.

use streamrt_operator::{Accumulators, FrozenTable};
use streamrt_state::{EntryId, KeyKind, KeyTable, Resident, Tier, each_pair, push_pair};
use streamrt_types::{KeyGroupRange, Result};

/// What the tables of all panes have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PaneLayout {
    pub kind: KeyKind,
    /// Bytes of the accumulators of a key.
    pub value_bytes: usize,
    pub key_groups: KeyGroupRange,
    pub max_parallelism: u32,
}

/// See the module.
pub(crate) struct Pane {
    pub table: KeyTable,
    /// `None` means that everything is in memory.
    tier: Option<Box<Tier>>,
    /// The number of the last batch that had rows for it.
    pub touched: u64,
}

impl Pane {
    pub(crate) fn new(layout: PaneLayout, tier: Option<Tier>) -> Pane {
        let table = KeyTable::new(
            layout.kind,
            layout.value_bytes,
            layout.key_groups,
            layout.max_parallelism,
        );
        Pane {
            table,
            tier: tier.map(Box::new),
            touched: 0,
        }
    }

    /// Whether the disk may have keys that the table does not have.
    pub(crate) fn is_cold(&self) -> bool {
        self.tier.as_ref().is_some_and(|tier| tier.is_cold())
    }

    /// Whether the disk has keys of the pane.
    pub(crate) fn is_stored(&self) -> bool {
        self.tier.as_ref().is_some_and(|tier| tier.is_stored())
    }

    /// Notes that rows have updated these entries.
    pub(crate) fn changed(&mut self, entries: &[EntryId]) {
        if let Some(tier) = &mut self.tier {
            tier.changed(entries);
        }
    }

    /// The pane as it is now; if there is a disk, what has changed since the last freeze, and
    /// `None` if nothing has.
    pub(crate) fn freeze(&mut self, accumulators: &Accumulators) -> Option<FrozenTable> {
        let changed = self.tier.as_mut().map(|tier| tier.take_changed());
        let is_news = changed.as_ref().is_none_or(|changed| !changed.is_empty());
        is_news.then(|| accumulators.freeze(&mut self.table, changed.as_ref()))
    }
}

/// A pane together with what its values refer to, so that entries can leave and return.
pub(crate) struct ResidentPane<'a> {
    pub pane: &'a mut Pane,
    pub accumulators: &'a mut Accumulators,
    /// The average size of an entry outside the table.
    pub further_bytes: usize,
}

impl ResidentPane<'_> {
    /// Tells the budget what the pane holds, and returns it.
    pub(crate) fn count(&mut self) -> usize {
        self.pane.tier.take().map_or(0, |mut tier| {
            let bytes = tier.count(self);
            self.pane.tier = Some(tier);
            bytes
        })
    }

    /// Evicts entries that take some `bytes`. Returns how much has left.
    ///
    /// # Errors
    /// The same as for [`Tier::release`].
    pub(crate) fn release(&mut self, bytes: usize) -> Result<usize> {
        let before = self.used_bytes();
        self.with_tier(|tier, pane| tier.release(pane, bytes))?;
        if self.pane.table.is_empty() {
            // Releases the pages, which a pane that is not written to does not need.
            self.pane.table.clear();
        }
        Ok(before - self.used_bytes())
    }
}

impl Resident for ResidentPane<'_> {
    fn tier(&mut self) -> &mut Option<Box<Tier>> {
        &mut self.pane.tier
    }

    fn table(&self) -> &KeyTable {
        &self.pane.table
    }

    fn store(&self, entry: EntryId, run: &mut Vec<u8>) {
        let mut value = Vec::with_capacity(self.accumulators.bytes());
        self.accumulators
            .export(self.pane.table.value(entry), &mut value);
        push_pair(&[], &value, run);
    }

    fn load(&mut self, hash: u32, key: &[u8], run: &[u8]) -> Result<()> {
        each_pair(run, |_, value| {
            self.accumulators
                .restore(&mut self.pane.table, hash, key, value)
                .map(drop)
        })
    }

    fn drop_entry(&mut self, entry: EntryId) {
        self.accumulators.release(self.pane.table.value(entry));
        self.pane.table.remove(entry);
    }

    fn used_bytes(&self) -> usize {
        self.pane.table.used_bytes() + self.pane.table.len() * self.further_bytes
    }
}
