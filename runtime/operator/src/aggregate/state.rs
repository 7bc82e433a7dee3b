//! The keyed state of a running aggregate: accumulators by key, in memory and, if the job has one,
//! on a disk.

use super::Accumulators;
use super::snapshot::FrozenTable;
use streamrt_state::{
    DiskChanges, EachEntry, EntryId, Frozen, KeyTable, OperatorState, Resident, Tier, each_pair,
    push_pair,
};
use streamrt_types::Result;

/// See the module.
pub(super) struct AggregateState {
    pub accumulators: Accumulators,
    pub table: KeyTable,
    pub tier: Option<Box<Tier>>,
}

impl AggregateState {
    /// Notes that a batch has updated these entries.
    pub fn changed(&mut self, entries: &[EntryId]) {
        if let Some(tier) = &mut self.tier {
            tier.changed(entries);
        }
    }

    pub fn freeze(&mut self) -> FrozenAggregates {
        let (changed, changes) = self.tier.as_mut().map(|tier| tier.freeze()).unzip();
        FrozenAggregates {
            table: self.accumulators.freeze(&mut self.table, changed.as_ref()),
            changes,
        }
    }

    /// Takes back what was frozen under `name`.
    ///
    /// # Errors
    /// The same as for [`OperatorState::keyed`], and those of the disk.
    pub fn restore(
        &mut self,
        name: &str,
        types: &serde_json::Value,
        state: &mut OperatorState,
    ) -> Result<()> {
        state.keyed(name, types, |hash, key, _, value| {
            self.make_room_before(hash)?;
            let entry = self
                .accumulators
                .restore(&mut self.table, hash, key, value)?;
            self.changed(&[entry]);
            Ok(())
        })
    }
}

impl Resident for AggregateState {
    fn tier(&mut self) -> &mut Option<Box<Tier>> {
        &mut self.tier
    }

    fn table(&self) -> &KeyTable {
        &self.table
    }

    fn store(&self, entry: EntryId, run: &mut Vec<u8>) {
        let mut value = Vec::with_capacity(self.accumulators.bytes());
        self.accumulators
            .export(self.table.value(entry), &mut value);
        push_pair(&[], &value, run);
    }

    fn load(&mut self, hash: u32, key: &[u8], run: &[u8]) -> Result<()> {
        each_pair(run, |_, value| {
            self.accumulators
                .restore(&mut self.table, hash, key, value)
                .map(drop)
        })
    }

    fn drop_entry(&mut self, entry: EntryId) {
        self.accumulators.release(self.table.value(entry));
        self.table.remove(entry);
    }

    fn used_bytes(&self) -> usize {
        self.table.used_bytes() + self.accumulators.used_bytes()
    }
}

/// What a checkpoint keeps of it.
pub(super) struct FrozenAggregates {
    table: FrozenTable,
    changes: Option<DiskChanges>,
}

impl Frozen for FrozenAggregates {
    fn visit(&self, each: &mut EachEntry<'_>) {
        self.table.visit(each);
    }

    fn take_changes(&mut self) -> Option<DiskChanges> {
        self.changes.take()
    }
}
