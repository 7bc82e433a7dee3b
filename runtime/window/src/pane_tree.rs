//! Panes, and merges of 2, 4, 8, ... of them that several windows share, so that a slide of a window of n panes costs some `2 log n` merges
//! and not n. Only panes that are all in memory are merged so.
//!
//! Invariant: a node holds the merge of its panes as they are now. It is built when a window first needs it, and dropped when one of its
//! panes takes a row or goes; rows that are on time go to panes that no window has needed yet.

use crate::pane::{Pane, PaneLayout};
use crate::pane_disk::PaneDisk;
use std::collections::BTreeMap;
use streamrt_operator::{Accumulators, Overflow};
use streamrt_state::{KeyBuffer, KeyKind, KeyTable};
use streamrt_types::{KeyGroupRange, murmur3_32};

/// What overflowed, and the canonical bytes of its key.
pub(crate) type MergeOverflow = (Overflow, Vec<u8>);

/// 2^level panes from `start` on; level 0 is a pane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Node {
    level: u32,
    start: i64,
}

/// The panes of a window operator, by first ms.
pub(crate) struct PaneTree {
    pane_ms: i64,
    offset: i64,
    /// No window covers a node of a higher level.
    level_max: u32,
    layout: PaneLayout,
    panes: BTreeMap<i64, Pane>,
    nodes: BTreeMap<Node, KeyTable>,
}

impl PaneTree {
    /// Panes of `pane_ms`, one of which begins at `offset`, for windows of `size_ms`.
    pub(crate) fn new(pane_ms: i64, offset: i64, size_ms: i64, layout: PaneLayout) -> PaneTree {
        PaneTree { pane_ms, offset, level_max: (size_ms / pane_ms).ilog2(), layout, panes: BTreeMap::new(), nodes: BTreeMap::new() }
    }

    fn length_ms(&self, level: u32) -> i64 {
        self.pane_ms << level
    }

    fn node_of(&self, level: u32, time: i64) -> Node {
        Node { level, start: time - (time - self.offset).rem_euclid(self.length_ms(level)) }
    }

    /// The pane that begins at `start`, which is made if need be.
    pub(crate) fn pane(&mut self, start: i64, disk: Option<&PaneDisk>) -> &mut Pane {
        self.panes.entry(start).or_insert_with(|| Pane::new(self.layout, disk.map(|disk| disk.tier(start, false))))
    }

    /// Adds a pane of which the disk has keys.
    pub(crate) fn add_stored(&mut self, start: i64, disk: &PaneDisk) {
        self.panes.insert(start, Pane::new(self.layout, Some(disk.tier(start, true))));
    }

    /// The start of the first pane at or behind `time`.
    pub(crate) fn first_from(&self, time: i64) -> Option<i64> {
        self.panes.range(time..).next().map(|(start, _)| *start)
    }

    /// The tables of the panes of a window, in order, with the first ms of each.
    pub(crate) fn tables(&self, start: i64, end: i64) -> impl Iterator<Item = (i64, &KeyTable)> {
        self.panes.range(start..end).map(|(start, pane)| (*start, &pane.table))
    }

    /// The panes of a window, in order. What they say stays as it is.
    pub(crate) fn range_mut(&mut self, start: i64, end: i64) -> impl Iterator<Item = &mut Pane> {
        self.panes.range_mut(start..end).map(|(_, pane)| pane)
    }

    /// Whether a pane of a window is not all in memory.
    pub(crate) fn is_cold(&self, start: i64, end: i64) -> bool {
        self.panes.range(start..end).any(|(_, pane)| pane.is_cold())
    }

    /// All panes, in order. What they say stays as it is.
    pub(crate) fn panes_mut(&mut self) -> impl Iterator<Item = (i64, &mut Pane)> {
        self.panes.iter_mut().map(|(start, pane)| (*start, pane))
    }

    /// All panes that have something in memory, from the one that has had no row for the longest time.
    pub(crate) fn by_last_row(&mut self) -> Vec<&mut Pane> {
        let mut panes: Vec<&mut Pane> = self.panes.values_mut().filter(|pane| !pane.table.is_empty()).collect();
        panes.sort_by_key(|pane| pane.touched);
        panes
    }

    /// What an entry takes outside of its table, on average.
    pub(crate) fn further_bytes(&self, accumulators: &Accumulators) -> usize {
        let tables = self.panes.values().map(|pane| &pane.table).chain(self.nodes.values());
        accumulators.used_bytes() / tables.map(KeyTable::len).sum::<usize>().max(1)
    }

    /// Bytes of all merges; `further_bytes` of an entry are outside of its table.
    pub(crate) fn merges_bytes(&self, further_bytes: usize) -> usize {
        self.nodes.values().map(|table| table.used_bytes() + table.len() * further_bytes).sum()
    }

    /// Drops all merges; those that are wanted are made anew.
    pub(crate) fn drop_merges(&mut self, accumulators: &mut Accumulators) {
        std::mem::take(&mut self.nodes).values().for_each(|table| release(table, accumulators));
    }

    /// Drops the nodes that hold a pane which changes.
    pub(crate) fn touch(&mut self, pane: i64, accumulators: &mut Accumulators) {
        if self.nodes.is_empty() {
            return;
        }
        for level in 1..=self.level_max {
            if let Some(table) = self.nodes.remove(&self.node_of(level, pane)) {
                release(&table, accumulators);
            }
        }
    }

    /// Drops the first pane. Returns whether the disk has keys of it.
    pub(crate) fn remove_first(&mut self, accumulators: &mut Accumulators) -> bool {
        self.panes.pop_first().is_some_and(|(start, pane)| {
            release(&pane.table, accumulators);
            self.touch(start, accumulators);
            pane.is_stored()
        })
    }

    /// The fewest nodes that make up a window, in order, built. Those without rows are left out.
    ///
    /// # Errors
    /// What left its range in a merge.
    pub(crate) fn cover(&mut self, start: i64, end: i64, accumulators: &mut Accumulators) -> Result<Vec<Node>, MergeOverflow> {
        let mut cover = Vec::new();
        let mut at = start;
        while at < end {
            let fits = |level: &u32| self.node_of(*level, at).start == at && at + self.length_ms(*level) <= end;
            let node = Node { level: (0..=self.level_max).rev().find(fits).unwrap_or(0), start: at };
            at += self.length_ms(node.level);
            cover.extend(self.build(node, accumulators)?);
        }
        Ok(cover)
    }

    /// Builds a node from its halves. Where one of them is empty, the other one stands for the node.
    fn build(&mut self, node: Node, accumulators: &mut Accumulators) -> Result<Option<Node>, MergeOverflow> {
        let Node { level, start } = node;
        if self.first_from(start).is_none_or(|first| first >= start + self.length_ms(level)) {
            return Ok(None);
        }
        if level == 0 || self.nodes.contains_key(&node) {
            return Ok(Some(node));
        }
        let half = |start| Node { level: level - 1, start };
        let (left, right) = (half(start), half(start + self.length_ms(level - 1)));
        let (left, right) = match (self.build(left, accumulators)?, self.build(right, accumulators)?) {
            (Some(left), Some(right)) => (left, right),
            (one, other) => return Ok(one.or(other)),
        };
        let merged = merge(&[self.table(left), self.table(right)], accumulators)?;
        self.nodes.insert(node, merged);
        Ok(Some(node))
    }

    /// The table of a node that `cover` gave.
    pub(crate) fn table(&self, node: Node) -> &KeyTable {
        let table = if node.level == 0 { self.panes.get(&node.start).map(|pane| &pane.table) } else { self.nodes.get(&node) };
        table.expect("a node of a cover was built, and nothing has changed since")
    }
}

/// Frees what the accumulators of a table refer to.
pub(crate) fn release(table: &KeyTable, accumulators: &mut Accumulators) {
    table.entries().for_each(|entry| accumulators.release(table.value(entry)));
}

/// A table of the keys of several, with their accumulators merged in this order. The caller releases it.
///
/// # Errors
/// What left its range.
pub(crate) fn merge(tables: &[&KeyTable], accumulators: &mut Accumulators) -> Result<KeyTable, MergeOverflow> {
    let kind = tables.first().map_or(KeyKind::Fixed, |table| table.kind());
    // Key groups would only be in the way: one index serves all.
    let mut merged = KeyTable::new(kind, accumulators.bytes(), KeyGroupRange::all(1), 1);
    let (mut keys, mut entries, mut created) = (KeyBuffer::new(kind), Vec::new(), Vec::new());
    for table in tables {
        keys.clear();
        table.entries().map(|entry| table.key(entry)).for_each(|key| keys.push_key(murmur3_32(key), key));
        merged.upsert(keys.hashes(), keys.keys(), &mut entries, &mut created);
        for (source, &entry) in table.entries().zip(&entries) {
            let added = accumulators.merge(merged.value_mut(entry), table.value(source));
            added.map_err(|overflow| (overflow, table.key(source).to_vec()))?;
        }
    }
    Ok(merged)
}
