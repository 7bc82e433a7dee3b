//! The disk below panes: evicts those that have had no row for the longest time, and brings them
//! back for their firing.
//!
//! 1. Every few batches all panes are counted. If the process holds too much, merges of panes go
//!    first, since they can be made anew; then panes, in the order of their last rows, the last of
//!    them partially. A pane that is partially on disk reads the keys of a batch before it takes
//!    the rows.
//! 2. A window with a pane that is not completely in memory fires one key group after the other:
//!    what its panes have of a group is merged, in the order of the panes, from memory and from one
//!    range of the disk. A window of one pane fires a group in pieces.
//! 3. Panes that no window needs are deleted as ranges.
//!
//! Invariant: if memory and disk both have a key of a pane, memory is right.

use crate::assigner::TimeWindow;
use crate::pane::ResidentPane;
use crate::pane_results::PaneResults;
use crate::pane_tree::{PaneTree, release};
use crate::snapshot_bytes::{Fields, ordered};
use std::collections::BTreeSet;
use streamrt_operator::Accumulators;
use streamrt_state::{DiskChanges, KeyTable, NO_ENTRY, Namespace, Namespaces, Tier, each_pair};
use streamrt_types::{KeyGroupRange, Result, murmur3_32};

/// How often memory is checked, in batches.
pub(crate) const BATCHES_PER_LOOK: u64 = 8;

/// The number of keys in one piece of a firing.
const PIECE_KEYS: usize = 8192;

/// See the module.
pub(crate) struct PaneDisk {
    namespaces: Namespaces,
    batches: u64,
}

impl PaneDisk {
    pub(crate) fn new(namespaces: Namespaces) -> PaneDisk {
        PaneDisk {
            namespaces,
            batches: 0,
        }
    }

    /// The disk tier of the pane that begins at `start`. `is_stored` says whether the disk has keys
    /// of it.
    pub(crate) fn tier(&self, start: i64, is_stored: bool) -> Tier {
        self.namespaces.tier(ordered(start), is_stored)
    }

    /// The number of the last batch.
    pub(crate) fn batches(&self) -> u64 {
        self.batches
    }

    /// Begins a batch, and from time to time evicts panes.
    ///
    /// # Errors
    /// The same as for [`Tier::release`].
    pub(crate) fn begin_batch(
        &mut self,
        panes: &mut PaneTree,
        accumulators: &mut Accumulators,
    ) -> Result<()> {
        self.batches += 1;
        if self.batches.is_multiple_of(BATCHES_PER_LOOK) {
            self.make_room(panes, accumulators)
        } else {
            Ok(())
        }
    }

    /// Evicts panes if the process holds too much.
    ///
    /// # Errors
    /// The same as for [`Tier::release`].
    pub(crate) fn make_room(
        &mut self,
        panes: &mut PaneTree,
        accumulators: &mut Accumulators,
    ) -> Result<()> {
        if self.excess_bytes(panes, accumulators) == 0 {
            return Ok(());
        }
        panes.drop_merges(accumulators);
        let mut excess = self.excess_bytes(panes, accumulators);
        let further_bytes = panes.further_bytes(accumulators);
        for pane in panes.by_last_row() {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(
                ResidentPane {
                    pane,
                    accumulators,
                    further_bytes,
                }
                .release(excess)?,
            );
        }
        Ok(())
    }

    fn excess_bytes(&mut self, panes: &mut PaneTree, accumulators: &mut Accumulators) -> usize {
        let further_bytes = panes.further_bytes(accumulators);
        let count = |(_, pane)| {
            ResidentPane {
                pane,
                accumulators,
                further_bytes,
            }
            .count()
        };
        let panes_bytes = panes.panes_mut().map(count).sum();
        self.namespaces
            .excess_bytes(panes_bytes, panes.merges_bytes(further_bytes))
    }

    /// The namespaces of the panes that a restored disk has.
    ///
    /// # Errors
    /// The same as for [`Namespaces::stored`].
    pub(crate) fn stored(&self) -> Result<BTreeSet<Namespace>> {
        self.namespaces.stored()
    }

    /// Deletes everything up to and including the pane that begins at `start`.
    ///
    /// # Errors
    /// The same as for [`Namespaces::purge_to`].
    pub(crate) fn purge(&mut self, start: i64) -> Result<()> {
        self.namespaces.purge_to(ordered(start + 1))
    }

    /// What a checkpoint takes along in addition to the panes.
    pub(crate) fn freeze(&mut self) -> DiskChanges {
        self.namespaces.freeze()
    }

    /// Shows what a window holds of a key group, merged, in tables of some of its keys.
    ///
    /// # Errors
    /// Those of the disk, `Data` if a merge leaves its range, or what `each` returns.
    pub(crate) fn each_piece(
        &self,
        window: TimeWindow,
        group: u32,
        panes: &PaneTree,
        accumulators: &mut Accumulators,
        results: &PaneResults,
        each: &mut EachPiece<'_>,
    ) -> Result<()> {
        let panes: Vec<(i64, &KeyTable)> = panes.tables(window.start, window.end).collect();
        let Some((_, first)) = panes.first() else {
            return Ok(());
        };
        let merged = KeyTable::new(first.kind(), accumulators.bytes(), KeyGroupRange::all(1), 1);
        let value = vec![0; accumulators.bytes()];
        let mut merge = Merge {
            panes: &panes,
            accumulators,
            results,
            each,
            group,
            n_begun: 0,
            merged,
            value,
        };
        let (from, to) = (ordered(window.start), ordered(window.end));
        self.namespaces
            .scan(group, from, to, &mut |namespace, key, run| {
                merge.stored(namespace, key, run)
            })?;
        merge.begin_panes(i64::MAX)?;
        merge.show()
    }
}

/// Takes a table of merged accumulators.
pub(crate) type EachPiece<'a> = dyn FnMut(&KeyTable, &Accumulators) -> Result<()> + 'a;

/// What the panes of a window hold of one key group, as it is merged.
struct Merge<'a, 'b> {
    /// In order, with their first ms.
    panes: &'a [(i64, &'a KeyTable)],
    accumulators: &'a mut Accumulators,
    results: &'a PaneResults,
    each: &'a mut EachPiece<'b>,
    group: u32,
    /// Panes whose entries in memory are merged.
    n_begun: usize,
    merged: KeyTable,
    /// The value of an entry that comes from the disk.
    value: Vec<u8>,
}

impl Merge<'_, '_> {
    /// Merges what memory has of the panes up to and including the one at `start`.
    fn begin_panes(&mut self, start: i64) -> Result<()> {
        while let Some((_, table)) = self
            .panes
            .get(self.n_begun)
            .filter(|(first, _)| *first <= start)
        {
            self.n_begun += 1;
            table
                .group_entries(self.group)
                .try_for_each(|entry| self.add(table.key(entry), table.value(entry)))?;
        }
        Ok(())
    }

    /// Merges an entry of the disk, if memory has no newer one.
    fn stored(&mut self, namespace: Namespace, key: &[u8], run: &[u8]) -> Result<()> {
        let start = Fields::new(&namespace, "a pane").time()?;
        self.begin_panes(start)?;
        let pane = self.panes[..self.n_begun]
            .last()
            .filter(|(first, _)| *first == start);
        if pane.is_none_or(|(_, table)| table.entry(murmur3_32(key), key) != NO_ENTRY) {
            return Ok(());
        }
        each_pair(run, |_, bytes| {
            let mut value = std::mem::take(&mut self.value);
            value.fill(0);
            self.accumulators.import(bytes, &mut value)?;
            let added = self.add(key, &value);
            self.accumulators.release(&value);
            self.value = value;
            added
        })
    }

    fn add(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        // The keys of one pane come once each, so some of them are whole before the others are
        // read.
        if self.panes.len() == 1 && self.merged.len() >= PIECE_KEYS {
            self.show()?;
        }
        let entry = self.merged.upsert_one(murmur3_32(key), key)?;
        let added = self.accumulators.merge(self.merged.value_mut(entry), value);
        added.map_err(|overflow| self.results.overflow(self.accumulators, overflow, key))
    }

    /// Shows what is merged so far, and starts over.
    fn show(&mut self) -> Result<()> {
        if !self.merged.is_empty() {
            (self.each)(&self.merged, self.accumulators)?;
            release(&self.merged, self.accumulators);
            self.merged.clear();
        }
        Ok(())
    }
}
