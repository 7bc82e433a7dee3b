//! Built-in aggregates over tumbling and sliding windows, kept by pane: one update per row,
//! whatever the number of windows that contain it.
//!
//! 1. A batch is cut where a mark passes the end of a window, and nowhere else: within such a
//!    stretch a row is on time if it is at or after the last end that was passed, and then it makes
//!    nothing due. Most rows of a stretch are in one pane, whose table takes them all.
//! 2. A row that is not on time is processed alone: it may fire windows at once, or be late.
//! 3. A mark that passes ends fires them in order, one step for each end that holds rows; panes
//!    that no window needs are dropped. Results go out one piece at a time: a large window, or one
//!    that is partly on disk, fires one key group after the other. A sweep stops after a window or
//!    a key group, and a snapshot that is taken there knows which groups have fired.
//! 4. A snapshot holds every pane under `panes`: its key, where the pane begins, the accumulators.
//!    Merges of panes are rebuilt.
//!
//! Invariant: a window has fired by the watermark if and only if its end lies at or before the
//! watermark + 1. So there is no timer to keep: which ends are due follows from the panes that
//! exist. With processing time, the watermark is the clock minus one.

mod snapshot;

use crate::assigner::{SlidingWindows, TIME_MAX, TimeWindow, within_reach};
use crate::emission::Emission;
use crate::group_watermarks::GroupWatermarks;
use crate::key_slide::KeySlide;
use crate::pane::{Pane, PaneLayout, ResidentPane};
use crate::pane_disk::PaneDisk;
use crate::pane_results::PaneResults;
use crate::pane_tree::{MergeOverflow, Node, PaneTree, merge, release};
use crate::result_columns::ResultColumns;
use crate::row_times::RowTimes;
use crate::timestamps::place;
use arrow_array::RecordBatch;
use std::ops::Range;
use streamrt_operator::{Accumulators, BatchKeys, OperatorContext};
use streamrt_state::{EntryId, KeyTable, Keys, NO_ENTRY, Namespaces, Resident};
use streamrt_types::{Batch, Error, KeyGroupRange, Result, WATERMARK_MIN, Watermark, code};

/// How often memory is checked in a restore.
const ENTRIES_PER_LOOK: u64 = 1024;

/// A window with more entries is merged one key group at a time; at 64 bytes per entry this is some
/// MB. Tests have small windows.
const PIECE_ENTRIES: usize = if cfg!(test) { 2 } else { 65_536 };

/// The rows of a batch with what is known about each.
#[derive(Clone, Copy)]
struct KeyedRows<'a> {
    batch: &'a Batch,
    times: RowTimes<'a>,
    hashes: &'a [u32],
    keys: Keys<'a>,
}

/// The panes of one subtask, and what fires from them.
pub(crate) struct PaneWindows {
    windows: SlidingWindows,
    lateness_ms: i64,
    panes: PaneTree,
    accumulators: Accumulators,
    results: PaneResults,
    /// `None` means that all panes are in memory.
    disk: Option<PaneDisk>,
    key_groups: KeyGroupRange,
    /// All windows have fired up to here.
    watermark: Watermark,
    /// Up to where those of single key groups have fired, if some are further: in the middle of a
    /// large window, or after a restore.
    behind: Option<GroupWatermarks>,
    /// The last end of a window that the watermark has passed.
    passed_end: i64,
    /// Entries of a snapshot that were taken back.
    n_restored: u64,
    /// Empty between two firings; it keeps its capacity.
    merged: KeyTable,
    entries: Vec<EntryId>,
    created: Vec<u32>,
}

impl PaneWindows {
    /// The approximate number of bytes of memory that they take.
    pub(crate) fn used_bytes(&self) -> usize {
        self.panes.used_bytes(&self.accumulators)
    }

    pub(crate) fn new(
        windows: SlidingWindows,
        lateness_ms: i64,
        accumulators: Accumulators,
        columns: ResultColumns,
        decoder: BatchKeys,
        context: &OperatorContext,
        namespaces: Option<Namespaces>,
    ) -> PaneWindows {
        let layout = PaneLayout {
            kind: decoder.kind(),
            value_bytes: accumulators.bytes(),
            key_groups: context.key_groups,
            max_parallelism: context.max_parallelism,
        };
        let merged = KeyTable::new(layout.kind, layout.value_bytes, KeyGroupRange::all(1), 1);
        PaneWindows {
            windows,
            lateness_ms,
            panes: PaneTree::new(windows, layout),
            accumulators,
            results: PaneResults {
                columns,
                decoder,
                uid: context.uid.clone(),
            },
            disk: namespaces.map(PaneDisk::new),
            key_groups: context.key_groups,
            watermark: WATERMARK_MIN,
            behind: None,
            passed_end: windows.end_at_or_before(within_reach(WATERMARK_MIN)),
            n_restored: 0,
            merged,
            entries: Vec::new(),
            created: Vec::new(),
        }
    }

    /// Raises the windows to the watermark of the key group that is furthest. Returns whether all
    /// have arrived there.
    fn catch_up(&mut self, emission: &mut Emission<'_>) -> Result<bool> {
        match self.behind.as_ref().map(GroupWatermarks::greatest) {
            Some(greatest) => self.rise(greatest, emission),
            None => Ok(true),
        }
    }

    /// Processes the rows and marks of a batch, whose keys are read by `keys`. With processing time
    /// the marks make nothing due.
    pub(crate) fn batch(
        &mut self,
        batch: &Batch,
        times: RowTimes<'_>,
        keys: &mut BatchKeys,
        emission: &mut Emission<'_>,
    ) -> Result<()> {
        self.catch_up(emission)?;
        if let Some(disk) = &mut self.disk {
            disk.begin_batch(&mut self.panes, &mut self.accumulators)?;
        }
        let (hashes, keys) = keys.read(&batch.columns)?;
        let rows = KeyedRows {
            batch,
            times,
            hashes,
            keys,
        };
        let marks = if times.each().is_some() {
            &batch.marks[..]
        } else {
            &[]
        };
        let (mut row, mut mark) = (0, 0);
        loop {
            let crossing =
                mark + marks[mark..].partition_point(|mark| !self.passes_an_end(mark.watermark));
            let end = marks
                .get(crossing)
                .map_or(batch.n_rows(), |mark| mark.row as usize);
            self.stretch(&rows, row..end, emission)?;
            if let Some(before) = marks[mark..crossing].last() {
                self.watermark = self.watermark.max(before.watermark);
            }
            let Some(crossed) = marks.get(crossing) else {
                return Ok(());
            };
            emission.marks_to(crossing);
            self.rise(crossed.watermark, emission)?;
            emission.marks_to(crossing + 1);
            (row, mark) = (end, crossing + 1);
        }
    }

    /// Whether there are ends of windows after the last one that was passed, up to there.
    pub(crate) fn passes_an_end(&self, watermark: Watermark) -> bool {
        within_reach(watermark) + 1 >= self.passed_end + self.windows.slide
    }

    /// Rows between two ends of windows.
    fn stretch(
        &mut self,
        rows: &KeyedRows<'_>,
        range: Range<usize>,
        emission: &mut Emission<'_>,
    ) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let (least, most) = rows.times.range(range.clone());
        if least < -TIME_MAX || most > TIME_MAX {
            return Err(self.out_of_range(rows, range));
        }
        // Between windows with gaps a row can be late although it lies after the last end.
        let on_time_from = if self.windows.has_gaps() {
            i64::MAX
        } else {
            self.passed_end
        };
        if least >= on_time_from {
            return self.add(rows, range, least, most);
        }
        let mut start = range.start;
        for row in range
            .clone()
            .filter(|&row| rows.times.at(row) < on_time_from)
        {
            self.add_any(rows, start..row)?;
            self.treat_alone(rows, row, emission)?;
            start = row + 1;
        }
        self.add_any(rows, start..range.end)
    }

    fn out_of_range(&self, rows: &KeyedRows<'_>, mut range: Range<usize>) -> Error {
        let row = range
            .find(|&row| !(-TIME_MAX..=TIME_MAX).contains(&rows.times.at(row)))
            .unwrap_or(range.start);
        let message = format!(
            "operator `{}`: {} has the time {}, which no window reaches",
            self.results.uid,
            place(rows.batch, row),
            rows.times.at(row)
        );
        Error::new(code::TIME_RANGE, message)
    }

    /// A row that may fire windows on its arrival, or be late.
    fn treat_alone(
        &mut self,
        rows: &KeyedRows<'_>,
        row: usize,
        emission: &mut Emission<'_>,
    ) -> Result<()> {
        if rows.times.each().is_some() {
            self.watermark = self
                .watermark
                .max(emission.marks_before(row).unwrap_or(WATERMARK_MIN));
        }
        let (time, watermark, lateness_ms) = (rows.times.at(row), self.watermark, self.lateness_ms);
        let live: Vec<TimeWindow> = self
            .windows
            .windows(time)
            .take_while(|window| window.cleanup_time(lateness_ms) > watermark)
            .collect();
        if live.is_empty() {
            if time.saturating_add(lateness_ms) <= watermark {
                emission.late(row);
            }
            return Ok(());
        }
        self.add_any(rows, row..row + 1)?;
        let at_once: Vec<TimeWindow> = live
            .into_iter()
            .filter(|window| window.max_timestamp() <= watermark)
            .collect();
        self.fire_key(rows, row, &at_once, emission)
    }

    fn add_any(&mut self, rows: &KeyedRows<'_>, range: Range<usize>) -> Result<()> {
        let (least, most) = rows.times.range(range.clone());
        if range.is_empty() {
            Ok(())
        } else {
            self.add(rows, range, least, most)
        }
    }

    /// Adds rows, whose times lie between `least` and `most`, to their panes.
    fn add(
        &mut self,
        rows: &KeyedRows<'_>,
        range: Range<usize>,
        least: i64,
        most: i64,
    ) -> Result<()> {
        let pane = self.windows.pane_start(least);
        if most < self.windows.pane_end(least) {
            return self.add_to_pane(rows, range, pane);
        }
        let mut start = range.start;
        while start < range.end {
            let time = rows.times.at(start);
            let (pane, end) = (self.windows.pane_start(time), self.windows.pane_end(time));
            let lies_here = |row: &usize| (pane..end).contains(&rows.times.at(*row));
            let length = (start..range.end).take_while(lies_here).count();
            self.add_to_pane(rows, start..start + length, pane)?;
            start += length;
        }
        Ok(())
    }

    fn add_to_pane(&mut self, rows: &KeyedRows<'_>, range: Range<usize>, start: i64) -> Result<()> {
        if start < self.passed_end {
            self.panes.touch(start, &mut self.accumulators);
        }
        let pane = self.panes.pane(start, self.disk.as_ref());
        let (hashes, keys) = (
            &rows.hashes[range.clone()],
            rows.keys.slice(range.start, range.end),
        );
        if let Some(disk) = &self.disk {
            pane.touched = disk.batches();
            fetch(pane, &mut self.accumulators, hashes, keys)?;
        }
        pane.table
            .upsert(hashes, keys, &mut self.entries, &mut self.created);
        let updated = self.accumulators.update(
            &mut pane.table,
            &self.entries,
            &rows.batch.columns,
            rows.times.each(),
            range.clone(),
        );
        updated.map_err(|overflow| {
            let key = self
                .results
                .decoder
                .describe(&rows.batch.columns, range.start + overflow.position);
            self.accumulators
                .overflow(overflow, &self.results.uid, &key)
        })?;
        pane.changed(&self.entries);
        Ok(())
    }

    /// Raises the watermark, fires what it makes due, and forgets what it makes late. Returns
    /// whether that is done: if not, it continues with the next call, and no row may come before.
    pub(crate) fn advance(
        &mut self,
        watermark: Watermark,
        emission: &mut Emission<'_>,
    ) -> Result<bool> {
        Ok(self.catch_up(emission)? && self.rise(watermark, emission)?)
    }

    fn rise(&mut self, watermark: Watermark, emission: &mut Emission<'_>) -> Result<bool> {
        if !self.passes_an_end(watermark) {
            self.have_fired(watermark);
            return Ok(true);
        }
        let is_done = self.fire_to(within_reach(watermark) + 1, emission)?;
        if is_done {
            self.have_fired(watermark);
            self.passed_end = self.windows.end_at_or_before(within_reach(watermark) + 1);
        }
        self.forget()?;
        Ok(is_done)
    }

    /// All windows up to this watermark have fired.
    fn have_fired(&mut self, watermark: Watermark) {
        self.watermark = self.watermark.max(watermark);
        if let Some(behind) = &mut self.behind {
            behind.raise(self.key_groups.end, watermark);
        }
        self.behind.take_if(|behind| behind.is_one());
    }

    /// Fires the windows that end at or before `bound`, in order. Returns whether that is done.
    fn fire_to(&mut self, bound: i64, emission: &mut Emission<'_>) -> Result<bool> {
        let mut next = self.next_due().filter(|end| *end <= bound);
        while let Some(end) = next {
            if !self.fire(
                TimeWindow {
                    start: end - self.windows.size,
                    end,
                },
                emission,
            )? {
                return Ok(false);
            }
            self.passed_end = end;
            self.have_fired(end - 1);
            next = self.next_due().filter(|end| *end <= bound);
            if next.is_some() {
                emission.passed(end - 1);
                if emission.is_over() {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// The end of the first window that has not fired and holds rows.
    pub(crate) fn next_due(&self) -> Option<i64> {
        let next = self.passed_end + self.windows.slide;
        let pane = self.panes.first_from(next - self.windows.size)?;
        Some(next.max(self.windows.end_at_or_before(pane) + self.windows.slide))
    }

    /// Fires a window for the keys that have not fired it. Returns whether that is done.
    fn fire(&mut self, window: TimeWindow, emission: &mut Emission<'_>) -> Result<bool> {
        if self.disk.is_some() && self.panes.is_cold(window.start, window.end) {
            return self.fire_groups(window, emission, Self::fire_from_disk);
        }
        let cover = self
            .panes
            .cover(window.start, window.end, &mut self.accumulators);
        let cover = cover.map_err(|overflow| self.overflow(&overflow))?;
        let n_entries: usize = cover.iter().map(|node| self.panes.table(*node).len()).sum();
        if n_entries <= PIECE_ENTRIES && self.behind.is_none() {
            return self
                .fire_nodes(window, &cover, None, emission)
                .map(|()| true);
        }
        self.fire_groups(window, emission, |panes, window, group, emission| {
            panes.fire_nodes(window, &cover, Some(group), emission)
        })
    }

    /// Fires a window for one key group after the other, for as long as the sweep may continue.
    /// Returns whether that is done.
    fn fire_groups(
        &mut self,
        window: TimeWindow,
        emission: &mut Emission<'_>,
        fire: impl Fn(&mut PaneWindows, TimeWindow, u32, &mut Emission<'_>) -> Result<()>,
    ) -> Result<bool> {
        let time = window.max_timestamp();
        for group in self.key_groups.start..self.key_groups.end {
            if self
                .behind
                .as_ref()
                .is_some_and(|behind| behind.has_passed(group, time))
            {
                continue;
            }
            fire(self, window, group, emission)?;
            if emission.is_over() {
                self.behind
                    .get_or_insert_with(|| GroupWatermarks::one(self.key_groups, self.watermark))
                    .raise(group + 1, time);
                return Ok(group + 1 == self.key_groups.end);
            }
        }
        Ok(true)
    }

    /// Fires what tables hold together, for one key group or for all.
    fn fire_nodes(
        &mut self,
        window: TimeWindow,
        nodes: &[Node],
        group: Option<u32>,
        emission: &mut Emission<'_>,
    ) -> Result<()> {
        let tables: Vec<&KeyTable> = nodes.iter().map(|node| self.panes.table(*node)).collect();
        let (results, accumulators) = (&self.results, &mut self.accumulators);
        let mut send = |columns: RecordBatch| emission.results(columns, window.max_timestamp());
        if let [table] = tables[..] {
            return match group {
                Some(group) => results.of_table(
                    (table, table.group_entries(group)),
                    accumulators,
                    window,
                    &mut send,
                ),
                None => results.of_table((table, table.entries()), accumulators, window, &mut send),
            };
        }
        let merged = &mut self.merged;
        let done = tables.iter().try_for_each(|table| match group {
            Some(group) => merge(merged, table, table.group_entries(group), accumulators),
            None => merge(merged, table, table.entries(), accumulators),
        });
        done.map_err(|(overflow, key)| results.overflow(accumulators, overflow, &key))?;
        results.of_table((merged, merged.entries()), accumulators, window, &mut send)?;
        release(merged, accumulators);
        merged.clear();
        Ok(())
    }

    /// Fires what memory and disk hold together for one key group.
    fn fire_from_disk(
        &mut self,
        window: TimeWindow,
        group: u32,
        emission: &mut Emission<'_>,
    ) -> Result<()> {
        let Some(disk) = &self.disk else {
            return Ok(());
        };
        let mut send = |columns: RecordBatch| emission.results(columns, window.max_timestamp());
        disk.each_piece(
            window,
            group,
            &self.panes,
            &mut self.accumulators,
            &self.results,
            &mut |table, accumulators| {
                self.results
                    .of_table((table, table.entries()), accumulators, window, &mut send)
            },
        )
    }

    /// Fires windows, the last one first, for the key of one row.
    fn fire_key(
        &mut self,
        rows: &KeyedRows<'_>,
        row: usize,
        windows: &[TimeWindow],
        emission: &mut Emission<'_>,
    ) -> Result<()> {
        let (Some(last), Some(first)) = (windows.first(), windows.last()) else {
            return Ok(());
        };
        let (hashes, keys) = (&rows.hashes[row..=row], rows.keys.slice(row, row + 1));
        let (mut starts, mut values) = (Vec::new(), Vec::new());
        for (start, pane) in self.panes.range_mut(first.start, last.end) {
            fetch(pane, &mut self.accumulators, hashes, keys)?;
            pane.table.find(hashes, keys, &mut self.entries);
            if self.entries[0] != NO_ENTRY {
                starts.push(start);
                values.extend_from_slice(pane.table.value(self.entries[0]));
            }
        }
        let key = rows.keys.with_key(row, <[u8]>::to_vec);
        let mut fired = Vec::with_capacity(windows.len());
        let mut slide = KeySlide::new(&mut self.accumulators, &starts, &values);
        let done = windows
            .iter()
            .try_for_each(|window| slide.window(*window).map(|value| fired.push(value)));
        drop(slide);
        done.map_err(|overflow| self.results.overflow(&self.accumulators, overflow, &key))?;
        for (window, value) in windows.iter().zip(fired) {
            let results = self
                .results
                .assemble(&[&key], &value, &self.accumulators, *window)?;
            self.accumulators.release(&value);
            emission.results(results, window.max_timestamp())?;
        }
        Ok(())
    }

    fn overflow(&self, (overflow, key): &MergeOverflow) -> Error {
        self.results.overflow(&self.accumulators, *overflow, key)
    }

    /// Drops the panes all of whose windows are past their cleanup time.
    fn forget(&mut self) -> Result<()> {
        let mut purged = None;
        while let Some(pane) = self
            .panes
            .first_from(i64::MIN)
            .filter(|pane| self.is_done(*pane))
        {
            if self.panes.remove_first(&mut self.accumulators) {
                purged = Some(pane);
            }
        }
        self.disk
            .as_mut()
            .zip(purged)
            .map_or(Ok(()), |(disk, pane)| disk.purge(pane))
    }

    fn is_done(&self, pane: i64) -> bool {
        let last_end = self.windows.last_end(pane).unwrap_or(i64::MIN);
        last_end.saturating_sub(1).saturating_add(self.lateness_ms) <= self.watermark
    }
}

/// Loads what the disk has for some keys of a pane.
fn fetch(
    pane: &mut Pane,
    accumulators: &mut Accumulators,
    hashes: &[u32],
    keys: Keys<'_>,
) -> Result<()> {
    match pane.is_cold() {
        true => ResidentPane {
            pane,
            accumulators,
            further_bytes: 0,
        }
        .with_tier(|tier, pane| tier.fetch(pane, hashes, keys)),
        false => Ok(()),
    }
}
