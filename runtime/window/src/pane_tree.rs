//! Panes, and merges of 4, 16, 64, ... of them that several windows share, so that sliding a window
//! of n panes costs some `log n` merges and not n. Only panes that are completely in memory are
//! merged this way.
//!
//! A merge is kept if it is much smaller than what it is made from: if the panes have their keys in
//! common. So merges take less than panes do: a third if all keys are in all panes, and nothing if
//! each key occurs once.
//!
//! Invariant: a node holds the merge of its panes as they are now. It is built when a window first
//! needs it, and dropped when one of its panes takes a row or is removed; rows that are on time go
//! to panes that no window has needed yet.

use crate::assigner::SlidingWindows;
use crate::pane::{Pane, PaneLayout};
use crate::pane_disk::PaneDisk;
use std::collections::{BTreeMap, HashSet};
use streamrt_operator::{Accumulators, Overflow};
use streamrt_state::{EntryId, KeyBuffer, KeyTable};
use streamrt_types::{KeyGroupRange, murmur3_32};

/// What overflowed, and the canonical bytes of its key.
pub(crate) type MergeOverflow = (Overflow, Vec<u8>);

/// Children of a node. With two of them, merges would take as much as all panes; with more, a
/// window would need more of them.
const CHILDREN: i64 = 4;
/// A merge is kept if it has less than 3/8 of the entries from which it is made.
const KEPT_OF_8: usize = 3;
/// The number of entries that suffices to tell what share of their keys tables have in common.
const SAMPLE_ENTRIES: usize = 2048;
/// The number of keys that are merged in one go: enough to fill the core's queue of misses, and
/// small.
const CHUNK: usize = 1024;

/// `CHILDREN`^level panes from number `first` on; level 0 is a pane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Node {
    level: u32,
    first: i64,
}

impl Node {
    fn n_panes(self) -> i64 {
        CHILDREN.pow(self.level)
    }

    /// The node of a level that has a pane.
    fn of(level: u32, pane: i64) -> Node {
        Node {
            level,
            first: pane - pane.rem_euclid(CHILDREN.pow(level)),
        }
    }

    fn children(self) -> impl Iterator<Item = Node> {
        let level = self.level - 1;
        (0..CHILDREN).map(move |child| Node {
            level,
            first: self.first + child * CHILDREN.pow(level),
        })
    }
}

/// The panes of a window operator, by first ms.
pub(crate) struct PaneTree {
    windows: SlidingWindows,
    /// No window covers a node of a higher level.
    level_max: u32,
    layout: PaneLayout,
    panes: BTreeMap<i64, Pane>,
    /// `None` means that a merge of them was not worth its memory.
    nodes: BTreeMap<Node, Option<KeyTable>>,
}

impl PaneTree {
    pub(crate) fn new(windows: SlidingWindows, layout: PaneLayout) -> PaneTree {
        let n_panes = windows.pane_number(windows.offset + windows.size)
            - windows.pane_number(windows.offset);
        let level_max = n_panes.max(1).ilog(CHILDREN);
        PaneTree {
            windows,
            level_max,
            layout,
            panes: BTreeMap::new(),
            nodes: BTreeMap::new(),
        }
    }

    /// The pane that begins at `start`, created if necessary.
    pub(crate) fn pane(&mut self, start: i64, disk: Option<&PaneDisk>) -> &mut Pane {
        self.panes
            .entry(start)
            .or_insert_with(|| Pane::new(self.layout, disk.map(|disk| disk.tier(start, false))))
    }

    /// Adds a pane of which the disk has keys.
    pub(crate) fn add_stored(&mut self, start: i64, disk: &PaneDisk) {
        self.panes
            .insert(start, Pane::new(self.layout, Some(disk.tier(start, true))));
    }

    /// The start of the first pane at or after `time`.
    pub(crate) fn first_from(&self, time: i64) -> Option<i64> {
        self.panes.range(time..).next().map(|(start, _)| *start)
    }

    /// The tables of the panes of a window, in order, with the first ms of each.
    pub(crate) fn tables(&self, start: i64, end: i64) -> impl Iterator<Item = (i64, &KeyTable)> {
        self.panes
            .range(start..end)
            .map(|(start, pane)| (*start, &pane.table))
    }

    /// The panes of a window, in order, with the first ms of each. Their contents must not change.
    pub(crate) fn range_mut(
        &mut self,
        start: i64,
        end: i64,
    ) -> impl Iterator<Item = (i64, &mut Pane)> {
        self.panes
            .range_mut(start..end)
            .map(|(start, pane)| (*start, pane))
    }

    /// Whether a pane of a window is not completely in memory.
    pub(crate) fn is_cold(&self, start: i64, end: i64) -> bool {
        self.panes.range(start..end).any(|(_, pane)| pane.is_cold())
    }

    /// All panes, in order. Their contents must not change.
    pub(crate) fn panes_mut(&mut self) -> impl Iterator<Item = (i64, &mut Pane)> {
        self.panes.iter_mut().map(|(start, pane)| (*start, pane))
    }

    /// All panes that have something in memory, from the one that has had no row for the longest
    /// time.
    pub(crate) fn by_last_row(&mut self) -> Vec<&mut Pane> {
        let mut panes: Vec<&mut Pane> = self
            .panes
            .values_mut()
            .filter(|pane| !pane.table.is_empty())
            .collect();
        panes.sort_by_key(|pane| pane.touched);
        panes
    }

    fn merges(&self) -> impl Iterator<Item = &KeyTable> {
        self.nodes.values().flatten()
    }

    /// The average size of an entry outside its table.
    pub(crate) fn further_bytes(&self, accumulators: &Accumulators) -> usize {
        let tables = self
            .panes
            .values()
            .map(|pane| &pane.table)
            .chain(self.merges());
        accumulators.used_bytes() / tables.map(KeyTable::len).sum::<usize>().max(1)
    }

    /// The approximate number of bytes of memory that panes and merges take.
    pub(crate) fn used_bytes(&self, accumulators: &Accumulators) -> usize {
        let tables = self
            .panes
            .values()
            .map(|pane| &pane.table)
            .chain(self.merges());
        accumulators.used_bytes() + tables.map(KeyTable::used_bytes).sum::<usize>()
    }

    /// Bytes of all merges; `further_bytes` is the size of an entry outside its table.
    pub(crate) fn merges_bytes(&self, further_bytes: usize) -> usize {
        self.merges()
            .map(|table| table.used_bytes() + table.len() * further_bytes)
            .sum()
    }

    /// Entries of all merges.
    #[cfg(test)]
    pub(crate) fn n_merged(&self) -> usize {
        self.merges().map(KeyTable::len).sum()
    }

    /// Drops all merges; those that are needed are made anew.
    pub(crate) fn drop_merges(&mut self, accumulators: &mut Accumulators) {
        std::mem::take(&mut self.nodes)
            .values()
            .flatten()
            .for_each(|table| release(table, accumulators));
    }

    /// Drops the nodes that hold a pane which changes.
    pub(crate) fn touch(&mut self, pane: i64, accumulators: &mut Accumulators) {
        if self.nodes.is_empty() {
            return;
        }
        let number = self.windows.pane_number(pane);
        for level in 1..=self.level_max {
            if let Some(table) = self.nodes.remove(&Node::of(level, number)).flatten() {
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

    /// The nodes that make up a window, in order, built. Those without rows are omitted.
    ///
    /// # Errors
    /// The aggregate that left its range in a merge.
    pub(crate) fn cover(
        &mut self,
        start: i64,
        end: i64,
        accumulators: &mut Accumulators,
    ) -> Result<Vec<Node>, MergeOverflow> {
        let (mut at, end) = (
            self.windows.pane_number(start),
            self.windows.pane_number(end),
        );
        let mut cover = Vec::new();
        while at < end {
            let fits = |node: &Node| node.first == at && at + node.n_panes() <= end;
            let node = (0..=self.level_max)
                .rev()
                .map(|level| Node::of(level, at))
                .find(fits)
                .unwrap_or(Node {
                    level: 0,
                    first: at,
                });
            at += node.n_panes();
            self.cover_node(node, accumulators, &mut cover)?;
        }
        Ok(cover)
    }

    /// Appends the node, or what represents it if a merge is not worth its memory.
    fn cover_node(
        &mut self,
        node: Node,
        accumulators: &mut Accumulators,
        cover: &mut Vec<Node>,
    ) -> Result<(), MergeOverflow> {
        match self.n_panes(node) {
            0 => return Ok(()),
            // One pane represents all the empty ones next to it.
            1 => cover.extend(self.only_pane(node)),
            _ => {
                let known = self.nodes.get(&node).map(Option::is_some);
                if known == Some(true) {
                    cover.push(node);
                    return Ok(());
                }
                let n_before = cover.len();
                node.children()
                    .try_for_each(|child| self.cover_node(child, accumulators, cover))?;
                if known.is_none() && self.build(node, &cover[n_before..], accumulators)? {
                    cover.truncate(n_before);
                    cover.push(node);
                }
            }
        }
        Ok(())
    }

    fn panes_of(&self, node: Node) -> impl Iterator<Item = (&i64, &Pane)> {
        self.panes.range(
            self.windows.start_of_pane(node.first)
                ..self.windows.start_of_pane(node.first + node.n_panes()),
        )
    }

    /// The number of panes of a node that exist, counted up to two.
    fn n_panes(&self, node: Node) -> usize {
        self.panes_of(node).take(2).count()
    }

    fn only_pane(&self, node: Node) -> Option<Node> {
        self.panes_of(node).next().map(|(start, _)| Node {
            level: 0,
            first: self.windows.pane_number(*start),
        })
    }

    /// Merges the nodes that make up `node`, if that is worth it, and records whether it was.
    fn build(
        &mut self,
        node: Node,
        parts: &[Node],
        accumulators: &mut Accumulators,
    ) -> Result<bool, MergeOverflow> {
        let tables: Vec<&KeyTable> = parts.iter().map(|part| self.table(*part)).collect();
        let merged = match has_common_keys(&tables, self.layout.key_groups) {
            true => {
                let PaneLayout {
                    kind,
                    value_bytes,
                    key_groups,
                    max_parallelism,
                } = self.layout;
                let mut merged = KeyTable::new(kind, value_bytes, key_groups, max_parallelism);
                tables.into_iter().try_for_each(|table| {
                    merge(&mut merged, table, table.entries(), accumulators)
                })?;
                Some(merged)
            }
            false => None,
        };
        let is_built = merged.is_some();
        self.nodes.insert(node, merged);
        Ok(is_built)
    }

    /// The table of a node that `cover` returned.
    pub(crate) fn table(&self, node: Node) -> &KeyTable {
        let table = match node.level {
            0 => self
                .panes
                .get(&self.windows.start_of_pane(node.first))
                .map(|pane| &pane.table),
            _ => self.nodes.get(&node).and_then(Option::as_ref),
        };
        table.expect("a node of a cover was built, and nothing has changed since")
    }
}

/// Whether a merge of the tables is much smaller than they are. Looks at as many key groups as
/// needed.
fn has_common_keys(tables: &[&KeyTable], key_groups: KeyGroupRange) -> bool {
    let (mut n_entries, mut keys) = (0, HashSet::new());
    for group in key_groups.start..key_groups.end {
        for table in tables {
            for entry in table.group_entries(group) {
                n_entries += 1;
                keys.insert(table.key(entry));
            }
        }
        if n_entries >= SAMPLE_ENTRIES {
            break;
        }
    }
    keys.len() * 8 < n_entries * KEPT_OF_8
}

/// Frees what the accumulators of a table refer to.
pub(crate) fn release(table: &KeyTable, accumulators: &mut Accumulators) {
    table
        .entries()
        .for_each(|entry| accumulators.release(table.value(entry)));
}

/// Merges some entries of a table into those of their keys in `merged`, after what is there. The
/// caller releases it.
///
/// # Errors
/// What left its range.
pub(crate) fn merge(
    merged: &mut KeyTable,
    table: &KeyTable,
    mut entries: impl Iterator<Item = EntryId>,
    accumulators: &mut Accumulators,
) -> Result<(), MergeOverflow> {
    let (mut keys, mut sources) = (KeyBuffer::new(table.kind()), Vec::with_capacity(CHUNK));
    let (mut targets, mut created) = (Vec::new(), Vec::new());
    loop {
        sources.clear();
        sources.extend(entries.by_ref().take(CHUNK));
        if sources.is_empty() {
            return Ok(());
        }
        keys.clear();
        sources
            .iter()
            .map(|&entry| table.key(entry))
            .for_each(|key| keys.push_key(murmur3_32(key), key));
        merged.upsert(keys.hashes(), keys.keys(), &mut targets, &mut created);
        for (&source, &target) in sources.iter().zip(&targets) {
            let added = accumulators.merge(merged.value_mut(target), table.value(source));
            added.map_err(|overflow| (overflow, table.key(source).to_vec()))?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_schema::Schema;
    use streamrt_state::KeyKind;
    use streamrt_wit::{AggregateFunction, BuiltinAggregate};

    const GROUPS: u32 = 16;

    /// A tree of panes with counts of 1, in which pane `n` has the keys that `keys` returns.
    fn tree(n_panes: i64, keys: impl Fn(i64) -> Vec<u64>) -> (PaneTree, Accumulators) {
        let count = [BuiltinAggregate {
            function: AggregateFunction::Count,
            column: None,
        }];
        let accumulators = Accumulators::new(&count, &Schema::empty()).unwrap();
        let layout = PaneLayout {
            kind: KeyKind::Fixed,
            value_bytes: 8,
            key_groups: KeyGroupRange::all(GROUPS),
            max_parallelism: GROUPS,
        };
        let mut tree = PaneTree::new(SlidingWindows::new(n_panes * 10, 10, 0).unwrap(), layout);
        for pane in 0..n_panes {
            let table = &mut tree.pane(pane * 10, None).table;
            for key in keys(pane) {
                let key = key.to_le_bytes();
                let entry = table.upsert_one(murmur3_32(&key), &key).unwrap();
                table.set_word(entry, 0, 1);
            }
        }
        (tree, accumulators)
    }

    /// The sum of all counts of a window, and the number of nodes and entries that make it up.
    fn covered(
        tree: &mut PaneTree,
        accumulators: &mut Accumulators,
        start: i64,
        end: i64,
    ) -> (u64, usize, usize) {
        let cover = tree.cover(start * 10, end * 10, accumulators).unwrap();
        let tables: Vec<&KeyTable> = cover.iter().map(|node| tree.table(*node)).collect();
        let counts = tables
            .iter()
            .flat_map(|table| table.entries().map(|entry| table.word(entry, 0)))
            .sum();
        (
            counts,
            cover.len(),
            tables.iter().map(|table| table.len()).sum(),
        )
    }

    #[test]
    fn panes_that_share_their_keys_are_merged_and_take_a_third_more() {
        let (mut tree, mut accumulators) = tree(1024, |_| (0..20).collect());
        for start in 0..64 {
            let (counts, n_nodes, n_entries) = covered(&mut tree, &mut accumulators, start, 1024);
            assert_eq!(counts, (1024 - start as u64) * 20);
            assert!(
                n_nodes <= 15 && n_entries <= 15 * 20,
                "{n_nodes} nodes with {n_entries} entries"
            );
        }
        assert!(
            tree.n_merged() <= 1024 * 20 / 3,
            "{} entries",
            tree.n_merged()
        );
    }

    #[test]
    fn panes_without_common_keys_are_not_merged() {
        let (mut tree, mut accumulators) = tree(64, |pane| {
            (0..20).map(|key| pane as u64 * 100 + key).collect()
        });
        assert_eq!(
            covered(&mut tree, &mut accumulators, 0, 64),
            (64 * 20, 64, 64 * 20)
        );
        assert_eq!(tree.n_merged(), 0);
    }

    #[test]
    fn merges_never_take_more_than_panes_do() {
        for n_keys in [1u64, 3, 10, 40, 200] {
            let (mut tree, mut accumulators) = tree(256, |pane| {
                (0..10)
                    .map(|i| (pane as u64 * 7919 + i * 104_729) % n_keys)
                    .collect()
            });
            let panes: usize = (0..256)
                .map(|pane| tree.pane(pane * 10, None).table.len())
                .sum();
            covered(&mut tree, &mut accumulators, 0, 256);
            assert!(
                tree.n_merged() <= panes,
                "{} entries beside {panes} of {n_keys} keys",
                tree.n_merged()
            );
        }
    }

    #[test]
    fn a_sparse_window_costs_what_it_holds() {
        let (mut tree, mut accumulators) = tree(10_000, |pane| {
            if pane % 1000 == 0 {
                vec![pane as u64]
            } else {
                Vec::new()
            }
        });
        tree.panes.retain(|_, pane| !pane.table.is_empty());
        assert_eq!(
            covered(&mut tree, &mut accumulators, 0, 10_000),
            (10, 10, 10)
        );
    }
}
