//! Windows of each key: sessions, which merge; counts; the global window; and windows of time whose contents are not kept by pane.
//!
//! 1. Rows and marks are taken in order. What a row does to windows is decided at once; its contents wait, and so do firings.
//! 2. `flush` adds the rows that wait with one call, fires what waits with another, and places results, late rows and marks in the order in
//!    which they came about. It runs at the end of a batch, and before a row goes to a window whose firing waits, or windows merge.
//! 3. A window has one timer: first for its end, then for its cleanup. Timers of one time fire in the order of their registration, which
//!    does not depend on batches; one whose window has grown is registered anew when it comes up.
//! 4. A snapshot is taken between batches, when nothing waits: `snapshot` has what it holds.
//!
//! Invariant: the windows of a key are all alive: their cleanup time lies behind the watermark. Two sessions of a key never touch.
//!
//! # Source
//! Flink's `WindowOperator` with `EventTimeTrigger`, `ProcessingTimeTrigger`, `PurgingTrigger(CountTrigger)` and `EndOfStreamTrigger`, and
//! its `MergingWindowSet`. Where Flink throws because a merged window is late already, the row goes to the late side output.

mod snapshot;

use crate::assigner::{Assigner, TIME_MAX, TimeWindow};
use crate::contents::{Additions, Cell, Contents, Firing, Place};
use crate::emission::Emission;
use crate::group_watermarks::GroupWatermarks;
use crate::panes::RowTimes;
use crate::timestamps::place as place_of;
use arrow_array::RecordBatch;
use std::collections::BTreeMap;
use streamrt_operator::{BatchKeys, OperatorContext};
use streamrt_state::{EntryId, KeyTable};
use streamrt_types::{Batch, Error, KeyGroupRange, Result, WATERMARK_MIN, Watermark, code};

struct Window {
    bounds: TimeWindow,
    cell: Cell,
    /// Rows so far, for count windows.
    n_rows: u64,
    /// The one timer of the window.
    timer: i64,
    /// The number of the timer's registration.
    serial: u64,
    /// Whether the end has fired.
    fired: bool,
    /// The round of `flush` that a firing of this window waits for.
    fires_in_round: u64,
}

#[derive(Default)]
struct WindowsOfKey {
    entry: EntryId,
    /// In the order in which they were opened.
    windows: Vec<Window>,
}

/// The timer of a window. It is void if the window is gone, or has registered another one since.
struct Timer {
    key: u32,
    serial: u64,
}

/// What happened between two flushes, in order.
enum Event {
    /// The next firing.
    Fire,
    Late(usize),
    /// Marks of the batch up to this number.
    Marks(usize),
}

/// What waits for the next flush.
#[derive(Default)]
struct Waiting {
    additions: Additions,
    firings: Vec<Firing>,
    events: Vec<Event>,
    /// Cells that are gone once the firings are out.
    dead: Vec<Cell>,
}

/// The serial of a window that has no timer.
const NO_TIMER: u64 = u64::MAX;

impl Window {
    /// When it ends, or is cleaned up.
    fn next_time(&self, lateness_ms: i64) -> i64 {
        if self.fired { self.bounds.cleanup_time(lateness_ms) } else { self.bounds.max_timestamp() }
    }
}

/// The windows of all keys of a subtask.
pub(crate) struct KeyedWindows {
    assigner: Assigner,
    lateness_ms: i64,
    contents: Contents,
    place: Place,
    key_groups: KeyGroupRange,
    max_parallelism: u32,
    /// Keys to numbers of `of_keys`, plus one.
    table: KeyTable,
    of_keys: Vec<WindowsOfKey>,
    free: Vec<u32>,
    /// Keys that may have lost their last window.
    shrunk: Vec<u32>,
    /// By time, and then in the order of registration.
    timers: BTreeMap<i64, Vec<Timer>>,
    next_serial: u64,
    /// Restored watermarks that differ, until the windows have risen to the greatest.
    behind: Option<GroupWatermarks>,
    waiting: Waiting,
    round: u64,
    entries: Vec<EntryId>,
    created: Vec<u32>,
    /// Windows go by the clock: marks make nothing due.
    by_clock: bool,
}

impl KeyedWindows {
    pub(crate) fn new(
        assigner: Assigner,
        lateness_ms: i64,
        by_clock: bool,
        contents: Contents,
        decoder: BatchKeys,
        context: &OperatorContext,
    ) -> KeyedWindows {
        let table = KeyTable::new(decoder.kind(), size_of::<u64>(), context.key_groups, context.max_parallelism);
        KeyedWindows {
            assigner,
            lateness_ms,
            contents,
            place: Place::new(context, decoder, WATERMARK_MIN),
            key_groups: context.key_groups,
            max_parallelism: context.max_parallelism,
            table,
            of_keys: Vec::new(),
            free: Vec::new(),
            shrunk: Vec::new(),
            timers: BTreeMap::new(),
            next_serial: 0,
            behind: None,
            waiting: Waiting::default(),
            round: 1,
            entries: Vec::new(),
            created: Vec::new(),
            by_clock,
        }
    }

    /// Treats the rows and marks of a batch, whose keys are read by `keys`.
    pub(crate) fn batch(&mut self, batch: &Batch, times: RowTimes<'_>, keys: &mut BatchKeys, emission: &mut Emission<'_>) -> Result<()> {
        self.catch_up(batch, emission)?;
        let (hashes, keys) = keys.read(&batch.columns)?;
        let (mut entries, mut created) = (std::mem::take(&mut self.entries), std::mem::take(&mut self.created));
        self.table.upsert(hashes, keys, &mut entries, &mut created);
        created.iter().for_each(|&row| self.number_key(entries[row as usize]));
        let mut mark = 0;
        for (row, &entry) in entries.iter().enumerate() {
            while batch.marks.get(mark).is_some_and(|mark| mark.row as usize <= row) {
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

    /// Raises the windows to the greatest of the restored watermarks. Those that have fired, or are gone, know it themselves.
    fn catch_up(&mut self, batch: &Batch, emission: &mut Emission<'_>) -> Result<()> {
        match self.behind.take() {
            None => Ok(()),
            Some(watermarks) => self.rise(watermarks.greatest(), batch, emission),
        }
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

    /// Takes out the keys that have no window. Not before the end of a batch, because its rows name them.
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

    /// Raises the watermark (for windows of processing time: the clock less one), and fires what it makes due.
    pub(crate) fn advance(&mut self, watermark: Watermark, nothing: &Batch, emission: &mut Emission<'_>) -> Result<()> {
        self.catch_up(nothing, emission)?;
        self.rise(watermark, nothing, emission)?;
        self.flush(nothing, emission)?;
        self.forget_keys();
        Ok(())
    }

    fn rise(&mut self, watermark: Watermark, batch: &Batch, emission: &mut Emission<'_>) -> Result<()> {
        if watermark <= self.place.watermark {
            return Ok(());
        }
        if self.contents.sees_watermark() && !self.waiting.firings.is_empty() {
            self.flush(batch, emission)?;
        }
        self.place.watermark = watermark;
        while let Some(timer) = self.timers.first_entry().filter(|timer| *timer.key() <= watermark) {
            let (time, timers) = timer.remove_entry();
            timers.into_iter().for_each(|timer| self.timer(&timer, time));
        }
        Ok(())
    }

    /// The time of the first timer.
    pub(crate) fn next_due(&self) -> Option<i64> {
        self.timers.first_key_value().map(|(time, _)| *time)
    }

    /// A timer has come up: its window ends, or is cleaned up.
    fn timer(&mut self, timer: &Timer, time: i64) {
        let key = timer.key;
        let windows = &mut self.of_keys[key as usize].windows;
        let Some(at) = windows.iter().position(|window| window.serial == timer.serial) else { return };
        let window = &mut windows[at];
        let bounds = window.bounds;
        if !window.fired && bounds.max_timestamp() <= time {
            window.fired = true;
            self.fire(key, at);
        }
        if bounds.cleanup_time(self.lateness_ms) <= time {
            self.remove_window(key, at);
        } else {
            self.set_timer(key, at);
        }
    }

    /// Registers the timer of a window for what comes next: its end, or its cleanup.
    fn set_timer(&mut self, key: u32, at: usize) {
        let window = &mut self.of_keys[key as usize].windows[at];
        (window.timer, window.serial) = (window.next_time(self.lateness_ms), self.next_serial);
        self.timers.entry(window.timer).or_default().push(Timer { key, serial: window.serial });
        self.next_serial += 1;
    }

    fn fire(&mut self, key: u32, at: usize) {
        let firing = self.firing(key, at);
        self.of_keys[key as usize].windows[at].fires_in_round = self.round;
        self.waiting.firings.push(firing);
        self.waiting.events.push(Event::Fire);
    }

    fn firing(&self, key: u32, at: usize) -> Firing {
        let WindowsOfKey { entry, windows } = &self.of_keys[key as usize];
        Firing { cell: windows[at].cell, key: self.table.key(*entry).to_vec(), window: windows[at].bounds }
    }

    fn remove_window(&mut self, key: u32, at: usize) {
        let window = self.of_keys[key as usize].windows.remove(at);
        self.waiting.dead.push(window.cell);
        self.shrunk.push(key);
    }

    fn row(&mut self, batch: &Batch, row: usize, key: u32, time: i64, emission: &mut Emission<'_>) -> Result<()> {
        if self.assigner.is_timed() && !(-TIME_MAX..=TIME_MAX).contains(&time) {
            let message = format!("operator `{}`: {} has the time {time}, which no window reaches", self.place.uid, place_of(batch, row));
            return Err(Error::new(code::TIME_RANGE, message));
        }
        let live = match self.assigner {
            Assigner::Sliding(windows) => {
                let (watermark, lateness_ms) = (self.place.watermark, self.lateness_ms);
                let live = windows.windows(time).filter(|window| window.cleanup_time(lateness_ms) > watermark);
                live.map(|window| self.window(key, window)).collect::<Vec<usize>>()
            }
            Assigner::Session { gap_ms } => {
                let opened = TimeWindow { start: time, end: time + gap_ms };
                self.session(key, opened, batch, emission)?.into_iter().collect()
            }
            Assigner::Global | Assigner::Count { .. } => vec![self.window(key, TimeWindow::GLOBAL)],
        };
        if !live.is_empty() {
            return self.add(batch, row, key, &live, emission);
        }
        if time.saturating_add(self.lateness_ms) <= self.place.watermark {
            self.waiting.events.push(Event::Late(row));
        }
        Ok(())
    }

    /// The place of a window among those of its key; it is made if need be.
    fn window(&mut self, key: u32, bounds: TimeWindow) -> usize {
        let windows = &mut self.of_keys[key as usize].windows;
        if let Some(at) = windows.iter().position(|window| window.bounds == bounds) {
            return at;
        }
        let cell = self.contents.create();
        // One whose end has passed fires with each of its rows, and never by its timer.
        let fired = bounds.max_timestamp() <= self.place.watermark;
        windows.push(Window { bounds, cell, n_rows: 0, timer: i64::MAX, serial: NO_TIMER, fired, fires_in_round: 0 });
        let at = windows.len() - 1;
        if !matches!(self.assigner, Assigner::Count { .. }) {
            self.set_timer(key, at);
        }
        at
    }

    /// Merges a new session with those it touches. `None` if the result is late.
    fn session(&mut self, key: u32, opened: TimeWindow, batch: &Batch, emission: &mut Emission<'_>) -> Result<Option<usize>> {
        let windows = &self.of_keys[key as usize].windows;
        let touched: Vec<usize> = (0..windows.len()).filter(|&at| windows[at].bounds.touches(&opened)).collect();
        let merged = touched.iter().fold(opened, |merged, &at| merged.cover(&windows[at].bounds));
        if merged.cleanup_time(self.lateness_ms) <= self.place.watermark {
            return Ok(None);
        }
        let Some((&kept, others)) = touched.split_first() else { return Ok(Some(self.window(key, opened))) };
        if !others.is_empty() {
            self.flush(batch, emission)?;
            let mut from = Vec::with_capacity(others.len());
            others.iter().rev().for_each(|&at| from.push(self.of_keys[key as usize].windows.remove(at).cell));
            from.reverse();
            let into = Firing { window: merged, ..self.firing(key, kept) };
            self.contents.merge(&self.place, &into, &from)?;
        }
        self.extend(key, kept, merged);
        Ok(Some(kept))
    }

    /// Gives a session new bounds. Its timer stays, if it comes up no later than the new end: it then finds what is to be done.
    fn extend(&mut self, key: u32, at: usize, bounds: TimeWindow) {
        let watermark = self.place.watermark;
        let window = &mut self.of_keys[key as usize].windows[at];
        let grows = window.bounds.end < bounds.end;
        window.bounds = bounds;
        window.fired = if grows { bounds.max_timestamp() <= watermark } else { window.fired };
        if !window.fired && window.timer > bounds.max_timestamp() {
            self.set_timer(key, at);
        }
    }

    /// Puts a row into windows, and fires those that do so on a row.
    fn add(&mut self, batch: &Batch, row: usize, key: u32, live: &[usize], emission: &mut Emission<'_>) -> Result<()> {
        let round = self.round;
        if live.iter().any(|&at| self.of_keys[key as usize].windows[at].fires_in_round == round) {
            self.flush(batch, emission)?;
        }
        let cells = live.iter().map(|&at| self.of_keys[key as usize].windows[at].cell);
        self.waiting.additions.cells.extend(cells);
        self.waiting.additions.end_row(row);
        live.iter().for_each(|&at| self.on_element(key, at));
        Ok(())
    }

    /// The default triggers: the end of a window that has passed fires at once, the last row of a count fires and purges.
    fn on_element(&mut self, key: u32, at: usize) {
        let window = &mut self.of_keys[key as usize].windows[at];
        window.n_rows += 1;
        if let Assigner::Count { rows } = self.assigner {
            if window.n_rows == rows {
                self.fire(key, at);
                self.remove_window(key, at);
            }
        } else if window.bounds.max_timestamp() <= self.place.watermark {
            self.fire(key, at);
        }
    }

    /// Carries out what waits.
    fn flush(&mut self, batch: &Batch, emission: &mut Emission<'_>) -> Result<()> {
        let mut waiting = std::mem::take(&mut self.waiting);
        self.contents.add(&self.place, batch, &waiting.additions)?;
        let mut counts = Vec::new();
        if !waiting.firings.is_empty() {
            let fired = self.contents.fire(&self.place, &waiting.firings)?;
            fired.columns.into_iter().for_each(|columns: RecordBatch| emission.result_columns(columns));
            counts = fired.counts;
        }
        let mut firings = waiting.firings.drain(..).zip(counts);
        for event in waiting.events.drain(..) {
            match event {
                Event::Fire => {
                    let (firing, n_rows) = firings.next().expect("a firing stands behind each event");
                    emission.result_times(n_rows as usize, firing.window.max_timestamp());
                }
                Event::Late(row) => emission.late(row),
                Event::Marks(end) => drop(emission.marks_to(end)),
            }
        }
        drop(firings);
        waiting.dead.drain(..).for_each(|cell| self.contents.remove(cell));
        waiting.additions.clear();
        self.waiting = waiting;
        self.round += 1;
        Ok(())
    }
}
