//! Keyed state on disk that is kept by namespace (the pane of a window): each namespace has a table
//! and a [`Tier`] of its own.
//!
//! On disk the namespace precedes the key, so what a window fires is one range in each key group,
//! and so is what a purge deletes. Looking up the keys of a batch costs the same as without.
//! Rejected: the namespace after the key, where a firing reads every key of the state, and a purge
//! deletes keys one by one.
//!
//! Invariant: namespaces are purged in their order. While changes of a checkpoint are on their way,
//! a purge waits with those that come after them: such a checkpoint still holds what was purged
//! after its barrier.

use crate::disk::{DISK_KEY_PREFIX_BYTES, KeyRange};
use crate::state_disk::{KeyPlace, StateDisk};
use crate::tier::{DiskChanges, Tier};
use std::collections::BTreeSet;
use std::sync::Arc;
use streamrt_types::{Error, KeyGroupRange, Result, code};

/// What distinguishes the tables of a state; they order as their bytes do.
pub type Namespace = [u8; 8];

/// Greater than all namespaces in use.
const END: Namespace = [0xff; 8];

/// Takes a namespace, a key and the run of its entries: see [`crate::each_pair`].
pub type EachRun<'a> = dyn FnMut(Namespace, &[u8], &[u8]) -> Result<()> + 'a;

/// See the module.
pub struct Namespaces {
    shared: Arc<StateDisk>,
    number: u8,
    key_groups: KeyGroupRange,
    /// The namespaces before this one are no longer in the state.
    purged_to: Namespace,
    /// The namespaces before this one are no longer on the disk, or will not be when the changes of
    /// the last freeze are written.
    deleted_to: Namespace,
    /// The bytes that the budget counts in addition to the tiers.
    counted_bytes: usize,
}

impl Namespaces {
    pub(crate) fn new(shared: Arc<StateDisk>, number: u8, key_groups: KeyGroupRange) -> Namespaces {
        Namespaces {
            shared,
            number,
            key_groups,
            purged_to: [0; 8],
            deleted_to: [0; 8],
            counted_bytes: 0,
        }
    }

    /// The disk tier of the table of a namespace. `is_stored` says whether the disk has keys in it.
    pub fn tier(&self, namespace: Namespace, is_stored: bool) -> Tier {
        Tier::new(
            self.shared.clone(),
            KeyPlace {
                number: self.number,
                namespace: Some(namespace),
            },
            is_stored,
        )
    }

    /// Every namespace in which a restored disk has keys: one seek per namespace and key group.
    ///
    /// # Errors
    /// The same as for [`crate::Disk::get`].
    pub fn stored(&self) -> Result<BTreeSet<Namespace>> {
        let mut found = BTreeSet::new();
        let groups = if self.shared.restored {
            self.key_groups.start..self.key_groups.end
        } else {
            0..0
        };
        for group in groups {
            let (mut from, end) = (self.bound(group, [0; 8]), self.bound(group, END));
            while let Some(key) = self.shared.disk().first_key(&from, &end)? {
                let (namespace, _) = split_key(&key)?;
                found.insert(namespace);
                from = self.bound(group, (u64::from_be_bytes(namespace) + 1).to_be_bytes());
            }
        }
        Ok(found)
    }

    /// Shows what the disk has of a key group in the namespaces from `from` up to, but excluding,
    /// `to`, in the order of namespaces and keys.
    ///
    /// # Errors
    /// The same as for [`crate::Disk::scan`].
    pub fn scan(
        &self,
        group: u32,
        from: Namespace,
        to: Namespace,
        each: &mut EachRun<'_>,
    ) -> Result<()> {
        self.shared.disk().scan(
            &self.bound(group, from),
            &self.bound(group, to),
            &mut |disk_key, run| {
                let (namespace, key) = split_key(disk_key)?;
                each(namespace, key, run)
            },
        )
    }

    /// Forgets all namespaces before `end`, whose tiers are dropped already.
    ///
    /// # Errors
    /// The same as for [`crate::Disk::write`].
    pub fn purge_to(&mut self, end: Namespace) -> Result<()> {
        self.purged_to = self.purged_to.max(end);
        if self.shared.flight.is_open() {
            return Ok(());
        }
        let purged = self.take_purged();
        self.shared.disk().delete_ranges(&purged)
    }

    /// The ranges that nobody has deleted so far.
    fn take_purged(&mut self) -> Vec<KeyRange> {
        let (from, to) = (
            std::mem::replace(&mut self.deleted_to, self.purged_to),
            self.purged_to,
        );
        let groups = if from < to {
            self.key_groups.start..self.key_groups.end
        } else {
            0..0
        };
        groups
            .map(|group| (self.bound(group, from), self.bound(group, to)))
            .collect()
    }

    /// What a checkpoint takes along in addition to the changes of the tables.
    pub fn freeze(&mut self) -> DiskChanges {
        let purged = self.take_purged();
        DiskChanges {
            purged,
            in_namespaces: true,
            ..DiskChanges::new(self.shared.clone(), self.number)
        }
    }

    /// How much has to leave memory if the tables hold `tables_bytes`, as counted by their tiers,
    /// and the state another `further_bytes`.
    pub fn excess_bytes(&mut self, tables_bytes: usize, further_bytes: usize) -> usize {
        self.shared.budget.change(
            std::mem::replace(&mut self.counted_bytes, further_bytes),
            further_bytes,
        );
        self.shared
            .budget
            .excess_bytes(tables_bytes + further_bytes)
    }

    /// The beginning of the keys of a namespace, which is greater than that of earlier ones.
    fn bound(&self, group: u32, namespace: Namespace) -> Vec<u8> {
        KeyPlace {
            number: self.number,
            namespace: Some(namespace),
        }
        .prefix(group)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        self.shared.budget.change(self.counted_bytes, 0);
    }
}

fn split_key(disk_key: &[u8]) -> Result<(Namespace, &[u8])> {
    let split = disk_key
        .get(DISK_KEY_PREFIX_BYTES..)
        .and_then(|rest| rest.split_first_chunk());
    let (namespace, key) = split.ok_or_else(|| {
        Error::new(
            code::SNAPSHOT_DAMAGED,
            "a key on the disk of the state has no namespace",
        )
    })?;
    Ok((*namespace, key))
}
