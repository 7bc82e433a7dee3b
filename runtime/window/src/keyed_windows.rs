//! Windows of each key: sessions, which merge; counts; the global window; and time windows whose
//! contents are not kept by pane.
//!
//! 1. Rows and marks are taken in order. What a row does to windows is decided at once; its
//!    contents wait, and so do firings.
//! 2. `flush` adds the waiting rows with one call, fires what waits with another, and places
//!    results, late rows and marks in the order in which they arose. It runs at the end of a batch,
//!    when much waits, and before a row goes to a window whose firing waits, or windows merge. So a
//!    sweep in which many windows are due goes out piece by piece, and may stop between two of
//!    them.
//! 3. A window has one timer: first for its end, then for its cleanup. Timers of one time fire in
//!    the order of their registration, which does not depend on batches; one whose window has grown
//!    is registered again when it comes up.
//! 4. A snapshot is taken when nothing waits, between batches or two pieces of a sweep: `snapshot`
//!    has what it holds.
//!
//! Invariant: the windows of a key are all alive: their cleanup time lies after the watermark. No
//! two begin at the same time, and two sessions of a key never touch; so what a row needs among
//! many windows of a key is found in time logarithmic in their number.
//!
//! # Source
//! Flink's `WindowOperator` with `EventTimeTrigger`, `ProcessingTimeTrigger`,
//! `PurgingTrigger(CountTrigger)` and `EndOfStreamTrigger`, and its `MergingWindowSet`. Where Flink
//! throws because a merged window is already late, the row goes to the late side output.

mod firing;
mod snapshot;

use crate::assigner::{Assigner, TIME_MAX, TimeWindow};
use crate::contents::{Additions, Cell, Cells, Contents, Firing, Place};
use crate::emission::{Emission, PIECE_BYTES, PIECE_ROWS};
use crate::group_watermarks::GroupWatermarks;
use crate::row_times::RowTimes;
use crate::timestamps::place as place_of;
use arrow_array::RecordBatch;
use std::collections::BTreeMap;
use streamrt_operator::{BatchKeys, OperatorContext};
use streamrt_state::{EntryId, KeyTable};
use streamrt_types::{Batch, Error, KeyGroupRange, Result, WATERMARK_MIN, Watermark, code};

/// The number of a window.
type WindowId = Cell;

#[derive(Default)]
struct Window {
    /// The number of its key.
    key: u32,
    bounds: TimeWindow,
    cell: Cell,
    /// Windows of a key are numbered in the order in which they were opened.
    opened: u64,
    /// Rows so far, for count windows.
    n_rows: u64,
    /// The one timer of the window.
    timer: i64,
    /// The number of the timer's registration.
    serial: u64,
    /// Whether the end has fired.
    fired: bool,
    /// The round of `flush` for which a firing of this window waits.
    fires_in_round: u64,
}

#[derive(Default)]
struct WindowsOfKey {
    entry: EntryId,
    /// Windows by their first ms.
    windows: BTreeMap<i64, WindowId>,
}

/// What happened between two flushes, in order.
enum Event {
    /// The next firing.
    Fire,
    Late(usize),
    /// Marks of the batch up to this number.
    Marks(usize),
    /// A sweep has come to windows of a later time.
    Passed(i64),
}

/// What waits for the next flush.
#[derive(Default)]
struct Waiting {
    additions: Additions,
    firings: Vec<Firing>,
    events: Vec<Event>,
    /// Cells that are removed once the firings are sent.
    dead: Vec<Cell>,
    /// Bytes of what the firing windows hold.
    firing_bytes: usize,
}

/// Bytes of rows that wait to be added, each row counted once per window.
pub(crate) const ADDED_BYTES: usize = 8 * PIECE_BYTES;

/// The serial of a window that has no timer.
const NO_TIMER: u64 = u64::MAX;

impl Window {
    /// When it ends, or is cleaned up.
    fn next_time(&self, lateness_ms: i64) -> i64 {
        if self.fired {
            self.bounds.cleanup_time(lateness_ms)
        } else {
            self.bounds.max_timestamp()
        }
    }
}

/// The windows of all keys of a subtask.
pub(crate) struct KeyedWindows {
    assigner: Assigner,
    lateness_ms: i64,
    contents: Contents,
    place: Place,
    key_groups: KeyGroupRange,
    /// Keys to numbers of `of_keys`, plus one.
    table: KeyTable,
    of_keys: Vec<WindowsOfKey>,
    windows: Cells<Window>,
    free: Vec<u32>,
    /// Keys that may have lost their last window.
    shrunk: Vec<u32>,
    /// Timers by time, and then in the order of registration.
    timers: BTreeMap<(i64, u64), WindowId>,
    next_serial: u64,
    n_opened: u64,
    /// Restored watermarks that differ, until the windows have risen to the greatest.
    behind: Option<GroupWatermarks>,
    /// The time of the windows that fired last in a sweep.
    passing: Option<i64>,
    waiting: Waiting,
    round: u64,
    entries: Vec<EntryId>,
    created: Vec<u32>,
    /// The windows of a row.
    live: Vec<WindowId>,
    /// The average bytes of a row of the batch; 0 if a row is in few windows.
    row_bytes: usize,
    /// Whether windows go by the clock: then marks make nothing due.
    by_clock: bool,
}

impl KeyedWindows {
    /// The approximate number of bytes of memory that they take: a window is also in two trees.
    pub(crate) fn used_bytes(&self) -> usize {
        let of_window = |id: &WindowId| {
            self.contents.bytes(self.windows.get(*id).cell) + size_of::<Window>() + 64
        };
        let windows = self
            .of_keys
            .iter()
            .flat_map(|of_key| of_key.windows.values());
        self.table.used_bytes() + windows.map(of_window).sum::<usize>()
    }

    pub(crate) fn new(
        assigner: Assigner,
        lateness_ms: i64,
        by_clock: bool,
        contents: Contents,
        decoder: BatchKeys,
        context: &OperatorContext,
    ) -> KeyedWindows {
        let table = KeyTable::new(
            decoder.kind(),
            size_of::<u64>(),
            context.key_groups,
            context.max_parallelism,
        );
        KeyedWindows {
            assigner,
            lateness_ms,
            contents,
            place: Place::new(context, decoder, WATERMARK_MIN),
            key_groups: context.key_groups,
            table,
            of_keys: Vec::new(),
            windows: Cells::new(),
            free: Vec::new(),
            shrunk: Vec::new(),
            timers: BTreeMap::new(),
            next_serial: 0,
            n_opened: 0,
            behind: None,
            passing: None,
            waiting: Waiting::default(),
            round: 1,
            entries: Vec::new(),
            created: Vec::new(),
            live: Vec::new(),
            row_bytes: 0,
            by_clock,
        }
    }

    /// Processes the rows and marks of a batch, whose keys are read by `keys`.
    pub(crate) fn batch(
        &mut self,
        batch: &Batch,
        times: RowTimes<'_>,
        keys: &mut BatchKeys,
        emission: &mut Emission<'_>,
    ) -> Result<()> {
        self.catch_up(batch, emission)?;
        let (hashes, keys) = keys.read(&batch.columns)?;
        let (mut entries, mut created) = (
            std::mem::take(&mut self.entries),
            std::mem::take(&mut self.created),
        );
        self.table.upsert(hashes, keys, &mut entries, &mut created);
        created
            .iter()
            .for_each(|&row| self.number_key(entries[row as usize]));
        self.row_bytes = if self.assigner.overlaps() {
            batch.row_bytes()
        } else {
            0
        };
        let mut mark = 0;
        for (row, &entry) in entries.iter().enumerate() {
            while batch
                .marks
                .get(mark)
                .is_some_and(|mark| mark.row as usize <= row)
            {
                self.mark(batch, mark, emission)?;
                mark += 1;
            }
            let key = self.table.word(entry, 0) as u32 - 1;
            self.row(batch, row, key, times.at(row), emission)?;
        }
        (mark..batch.marks.len()).try_for_each(|mark| self.mark(batch, mark, emission))?;
        self.flush(batch, emission)?;
        self.forget_keys();
        (self.entries, self.created) = (entries, created);
        Ok(())
    }

    /// Raises the windows to the greatest of the restored watermarks. Those that have fired, or are
    /// gone, know it themselves. Returns whether that is done.
    fn catch_up(&mut self, batch: &Batch, emission: &mut Emission<'_>) -> Result<bool> {
        let Some(greatest) = self.behind.as_ref().map(GroupWatermarks::greatest) else {
            return Ok(true);
        };
        let is_done = self.rise(greatest, batch, emission)?;
        self.behind.take_if(|_| is_done);
        Ok(is_done)
    }

    fn number_key(&mut self, entry: EntryId) {
        let number = self.free.pop().unwrap_or_else(|| {
            self.of_keys.push(WindowsOfKey::default());
            self.of_keys.len() as u32 - 1
        });
        self.of_keys[number as usize].entry = entry;
        self.table.set_word(entry, 0, u64::from(number) + 1);
        // It has no window yet, and may never get one.
        self.shrunk.push(number);
    }

    /// Removes the keys that have no window. Not before the end of a batch, because its rows refer
    /// to them.
    fn forget_keys(&mut self) {
        let mut shrunk = std::mem::take(&mut self.shrunk);
        shrunk.sort_unstable();
        shrunk.dedup();
        for number in shrunk.drain(..) {
            let key = &mut self.of_keys[number as usize];
            if key.windows.is_empty() {
                self.table.remove(key.entry);
                self.free.push(number);
            }
        }
        self.shrunk = shrunk;
    }

    fn mark(&mut self, batch: &Batch, number: usize, emission: &mut Emission<'_>) -> Result<()> {
        if !self.by_clock {
            self.rise(batch.marks[number].watermark, batch, emission)?;
        }
        match self.waiting.events.last_mut() {
            Some(Event::Marks(end)) => *end = number + 1,
            _ => self.waiting.events.push(Event::Marks(number + 1)),
        }
        Ok(())
    }

    /// Raises the watermark (for processing-time windows: the clock minus one), and fires what it
    /// makes due. Returns whether that is done: if not, it continues with the next call, and no row
    /// may come before.
    pub(crate) fn advance(
        &mut self,
        watermark: Watermark,
        nothing: &Batch,
        emission: &mut Emission<'_>,
    ) -> Result<bool> {
        let is_done =
            self.catch_up(nothing, emission)? && self.rise(watermark, nothing, emission)?;
        self.flush(nothing, emission)?;
        self.forget_keys();
        Ok(is_done)
    }

    /// Windows of all keys.
    pub(crate) fn n_open(&self) -> u64 {
        self.of_keys
            .iter()
            .map(|of_key| of_key.windows.len() as u64)
            .sum()
    }

    fn row(
        &mut self,
        batch: &Batch,
        row: usize,
        key: u32,
        time: i64,
        emission: &mut Emission<'_>,
    ) -> Result<()> {
        if self.assigner.is_timed() && !(-TIME_MAX..=TIME_MAX).contains(&time) {
            let message = format!(
                "operator `{}`: {} has the time {time}, which no window reaches",
                self.place.uid,
                place_of(batch, row)
            );
            return Err(Error::new(code::TIME_RANGE, message));
        }
        let mut live = std::mem::take(&mut self.live);
        live.clear();
        match self.assigner {
            Assigner::Sliding(windows) => {
                let (watermark, lateness_ms) = (self.place.watermark, self.lateness_ms);
                let bounds = windows
                    .windows(time)
                    .take_while(|window| window.cleanup_time(lateness_ms) > watermark);
                live.extend(bounds.map(|bounds| self.window(key, bounds)));
            }
            Assigner::Session { gap_ms } => {
                let opened = TimeWindow {
                    start: time,
                    end: time + gap_ms,
                };
                live.extend(self.session(key, opened, batch, emission)?);
            }
            Assigner::Global | Assigner::Count { .. } => {
                live.push(self.window(key, TimeWindow::GLOBAL))
            }
        }
        if !live.is_empty() {
            self.add(batch, row, &live, emission)?;
        } else if time.saturating_add(self.lateness_ms) <= self.place.watermark {
            self.waiting.events.push(Event::Late(row));
        }
        self.live = live;
        Ok(())
    }

    /// The window of a key with these bounds; it is opened if necessary.
    fn window(&mut self, key: u32, bounds: TimeWindow) -> WindowId {
        if let Some(&id) = self.of_keys[key as usize].windows.get(&bounds.start) {
            return id;
        }
        let id = self.windows.create();
        // One whose end has passed fires with each of its rows, and never by its timer.
        let fired = bounds.max_timestamp() <= self.place.watermark;
        let (cell, opened) = (self.contents.create(), self.n_opened);
        self.n_opened += 1;
        *self.windows.get_mut(id) = Window {
            key,
            bounds,
            cell,
            opened,
            n_rows: 0,
            timer: i64::MAX,
            serial: NO_TIMER,
            fired,
            fires_in_round: 0,
        };
        self.of_keys[key as usize].windows.insert(bounds.start, id);
        if !matches!(self.assigner, Assigner::Count { .. }) {
            self.set_timer(id);
        }
        id
    }

    /// Merges a new session with those it touches. `None` if the result is late.
    fn session(
        &mut self,
        key: u32,
        opened: TimeWindow,
        batch: &Batch,
        emission: &mut Emission<'_>,
    ) -> Result<Option<WindowId>> {
        // Sessions do not touch one another, so their ends are in the order of their starts.
        let before = self.of_keys[key as usize]
            .windows
            .range(..=opened.end)
            .rev();
        let touched = before
            .take_while(|(_, id)| self.windows.get(**id).bounds.touches(&opened))
            .map(|(_, &id)| id);
        let mut touched: Vec<WindowId> = touched.collect();
        let merged = touched.iter().fold(opened, |merged, &id| {
            merged.cover(&self.windows.get(id).bounds)
        });
        if merged.cleanup_time(self.lateness_ms) <= self.place.watermark {
            return Ok(None);
        }
        touched.sort_unstable_by_key(|&id| self.windows.get(id).opened);
        let Some((&kept, others)) = touched.split_first() else {
            return Ok(Some(self.window(key, opened)));
        };
        if !others.is_empty() {
            self.flush(batch, emission)?;
            let from: Vec<Cell> = others.iter().map(|&id| self.take_window(id)).collect();
            let into = Firing {
                window: merged,
                ..self.firing(kept)
            };
            self.contents.merge(&self.place, &into, &from)?;
        }
        self.extend(kept, merged);
        Ok(Some(kept))
    }

    /// Gives a session new bounds. Its timer stays if it comes up no later than the new end: it
    /// then finds out what to do.
    fn extend(&mut self, id: WindowId, bounds: TimeWindow) {
        let watermark = self.place.watermark;
        let window = self.windows.get_mut(id);
        if window.bounds.start != bounds.start {
            let of_key = &mut self.of_keys[window.key as usize].windows;
            of_key.remove(&window.bounds.start);
            of_key.insert(bounds.start, id);
        }
        let grows = window.bounds.end < bounds.end;
        window.bounds = bounds;
        window.fired = if grows {
            bounds.max_timestamp() <= watermark
        } else {
            window.fired
        };
        if !window.fired && window.timer > bounds.max_timestamp() {
            self.set_timer(id);
        }
    }

    /// Puts a row into windows, and fires those that do so on a row.
    fn add(
        &mut self,
        batch: &Batch,
        row: usize,
        live: &[WindowId],
        emission: &mut Emission<'_>,
    ) -> Result<()> {
        let round = self.round;
        let n_added = self.waiting.additions.cells.len() + live.len();
        let is_much =
            self.row_bytes > 0 && (n_added > PIECE_ROWS || n_added * self.row_bytes > ADDED_BYTES);
        if is_much
            || live
                .iter()
                .any(|&id| self.windows.get(id).fires_in_round == round)
        {
            self.flush(batch, emission)?;
        }
        let cells = live.iter().map(|&id| self.windows.get(id).cell);
        self.waiting.additions.cells.extend(cells);
        self.waiting.additions.end_row(row);
        live.iter().for_each(|&id| self.on_element(id));
        Ok(())
    }

    /// The default triggers: the end of a window that has passed fires at once, the last row of a
    /// count fires and purges.
    fn on_element(&mut self, id: WindowId) {
        let window = self.windows.get_mut(id);
        window.n_rows += 1;
        if let Assigner::Count { rows } = self.assigner {
            if window.n_rows == rows {
                self.fire(id);
                self.remove_window(id);
            }
        } else if window.bounds.max_timestamp() <= self.place.watermark {
            self.fire(id);
        }
    }

    /// Carries out what waits.
    fn flush(&mut self, batch: &Batch, emission: &mut Emission<'_>) -> Result<()> {
        let mut waiting = std::mem::take(&mut self.waiting);
        self.contents.add(&self.place, batch, &waiting.additions)?;
        let mut counts = Vec::new();
        if !waiting.firings.is_empty() {
            let fired = self.contents.fire(&self.place, &waiting.firings)?;
            fired
                .columns
                .into_iter()
                .for_each(|columns: RecordBatch| emission.result_columns(columns));
            counts = fired.counts;
        }
        let mut firings = waiting.firings.drain(..).zip(counts);
        for event in waiting.events.drain(..) {
            match event {
                Event::Fire => {
                    let (firing, n_rows) =
                        firings.next().expect("a firing stands after each event");
                    emission.result_times(n_rows as usize, firing.window.max_timestamp());
                }
                Event::Late(row) => emission.late(row),
                Event::Marks(end) => drop(emission.marks_to(end)),
                Event::Passed(time) => emission.passed(time),
            }
        }
        drop(firings);
        waiting
            .dead
            .drain(..)
            .for_each(|cell| self.contents.remove(cell));
        waiting.additions.clear();
        waiting.firing_bytes = 0;
        self.waiting = waiting;
        self.round += 1;
        emission.send_piece()
    }
}
