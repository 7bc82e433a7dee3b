//! What a checkpoint keeps of the windows of the keys: the state `windows`.
//!
//! An entry is one window of a key, distinguished from the others by its bounds. Its value is its
//! place among the windows of the key (u32), its rows (u64), the time and the number of its timer
//! (i64, u64), whether its end has fired (a byte), and its contents.
//!
//! Invariant: windows come back in the order in which they were opened, and timers in that of their
//! registration; so merges and firings have the order that they would otherwise have had. After a
//! change of parallelism that holds for the windows of each key.

use super::{KeyedWindows, NO_TIMER, Window};
use crate::assigner::{Assigner, TIME_MAX, TimeWindow};
use crate::group_watermarks::GroupWatermarks;
use crate::snapshot_bytes::{Fields, damaged, ordered};
use serde_json::Value;
use streamrt_state::{FrozenEntries, KeyedSnapshot, OperatorState};
use streamrt_types::Result;
use streamrt_types::state_types::WINDOWS;

/// A window on its way back, and its place among the windows of its key.
struct Restored {
    place: u32,
    window: Window,
}

impl KeyedWindows {
    /// Copies the windows and their contents.
    pub(crate) fn snapshot(&self, types: Value) -> KeyedSnapshot {
        let mut entries = Vec::with_capacity(self.of_keys.len());
        for of_key in &self.of_keys {
            let mut windows: Vec<&Window> = of_key
                .windows
                .values()
                .map(|&id| self.windows.get(id))
                .collect();
            windows.sort_unstable_by_key(|window| window.opened);
            for (place, window) in windows.into_iter().enumerate() {
                let bounds = [ordered(window.bounds.start), ordered(window.bounds.end)].concat();
                entries.push((
                    self.table.key(of_key.entry).to_vec(),
                    bounds,
                    self.export(place as u32, window),
                ));
            }
        }
        KeyedSnapshot {
            name: WINDOWS.into(),
            types,
            entries: Box::new(FrozenEntries(entries)),
        }
    }

    fn export(&self, place: u32, window: &Window) -> Vec<u8> {
        let mut value = Vec::new();
        value.extend_from_slice(&place.to_le_bytes());
        value.extend_from_slice(&window.n_rows.to_le_bytes());
        value.extend_from_slice(&window.timer.to_le_bytes());
        value.extend_from_slice(&window.serial.to_le_bytes());
        value.push(u8::from(window.fired));
        self.contents.export(window.cell, &mut value);
        value
    }

    /// The watermarks that go with the windows into a snapshot. In the middle of a sweep, what is
    /// left of it is due again after a restore.
    pub(crate) fn watermarks(&self) -> GroupWatermarks {
        let to_here = || {
            self.next_due().map_or(self.place.watermark, |time| {
                self.place.watermark.min(time.saturating_sub(1))
            })
        };
        self.behind
            .clone()
            .unwrap_or_else(|| GroupWatermarks::one(self.key_groups, to_here()))
    }

    /// Takes the windows of a snapshot back, except for those that are late by now, because the job
    /// allows less lateness than it did.
    ///
    /// # Errors
    /// `Invalid` if the snapshot has other types, `Data` if it is damaged.
    pub(crate) fn restore(
        &mut self,
        state: &mut OperatorState,
        types: &Value,
        watermarks: Option<GroupWatermarks>,
    ) -> Result<()> {
        if let Some(watermarks) = watermarks {
            self.place.watermark = watermarks.least();
            self.behind = (!watermarks.is_one()).then_some(watermarks);
        }
        let mut restored = Vec::new();
        state.keyed(WINDOWS, types, |hash, key, bounds, value| {
            restored.extend(self.restore_entry(hash, key, bounds, value)?);
            Ok(())
        })?;
        restored.sort_by_key(|restored: &Restored| (restored.window.key, restored.place));
        for Restored { window, .. } in restored {
            let (key, start, id) = (window.key, window.bounds.start, self.windows.create());
            *self.windows.get_mut(id) = Window {
                opened: self.n_opened,
                ..window
            };
            self.n_opened += 1;
            if self.of_keys[key as usize]
                .windows
                .insert(start, id)
                .is_some()
            {
                return Err(damaged("a window"));
            }
        }
        self.restore_timers();
        self.shrunk.clear();
        Ok(())
    }

    fn restore_entry(
        &mut self,
        hash: u32,
        key: &[u8],
        bounds: &[u8],
        value: &[u8],
    ) -> Result<Option<Restored>> {
        let mut fields = Fields::new(bounds, "a window");
        let bounds = TimeWindow {
            start: fields.time()?,
            end: fields.time()?,
        };
        fields.end()?;
        let mut fields = Fields::new(value, "a window");
        let place = fields.u32()?;
        let (n_rows, timer, serial, fired) =
            (fields.u64()?, fields.i64()?, fields.u64()?, fields.flag()?);
        let mut window = Window {
            bounds,
            n_rows,
            timer,
            serial,
            fired,
            ..Window::default()
        };
        self.check(&window)?;
        if self.assigner.is_timed() && bounds.cleanup_time(self.lateness_ms) <= self.place.watermark
        {
            return Ok(None);
        }
        // A reduced lateness brings the cleanup forward.
        window.timer = timer.min(window.next_time(self.lateness_ms));
        window.cell = self.contents.import(fields.rest())?;
        let n_before = self.table.len();
        let entry = self.table.upsert_one(hash, key)?;
        if self.table.len() > n_before {
            self.number_key(entry);
        }
        window.key = self.table.word(entry, 0) as u32 - 1;
        Ok(Some(Restored { place, window }))
    }

    /// Refuses what no window can be, so that computing with it does not overflow.
    fn check(&self, window: &Window) -> Result<()> {
        let within = |time: i64| (-2 * TIME_MAX..=2 * TIME_MAX).contains(&time);
        let TimeWindow { start, end } = window.bounds;
        let has_bounds = match self.assigner.is_timed() {
            true => start < end && within(start) && within(end),
            false => window.bounds == TimeWindow::GLOBAL,
        };
        let has_counts = match self.assigner {
            Assigner::Count { rows } => window.n_rows < rows && window.serial == NO_TIMER,
            _ => window.n_rows < 1 << 63 && window.serial < 1 << 63,
        };
        if has_bounds && has_counts {
            Ok(())
        } else {
            Err(damaged("a window"))
        }
    }

    /// Renumbers the registrations in their order: two earlier subtasks may have used one number
    /// twice.
    fn restore_timers(&mut self) {
        let windows = self
            .of_keys
            .iter()
            .flat_map(|of_key| of_key.windows.values().copied());
        let with_timer = windows.filter(|&id| self.windows.get(id).serial != NO_TIMER);
        let mut timers: Vec<_> = with_timer
            .map(|id| (self.windows.get(id).serial, self.windows.get(id).key, id))
            .collect();
        timers.sort_unstable();
        for (_, _, id) in timers {
            let window = self.windows.get_mut(id);
            window.serial = self.next_serial;
            self.next_serial += 1;
            self.timers.insert((window.timer, window.serial), id);
        }
    }
}
