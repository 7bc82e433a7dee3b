//! Timers of windows: what the time makes due, and what is removed after it.

use super::{Event, KeyedWindows, NO_TIMER, Window, WindowId};
use crate::assigner::Assigner;
use crate::contents::{Cell, Firing};
use crate::emission::{Emission, PIECE_BYTES, PIECE_ROWS};
use streamrt_types::{Batch, Result, Watermark};

impl KeyedWindows {
    pub(super) fn rise(
        &mut self,
        watermark: Watermark,
        batch: &Batch,
        emission: &mut Emission<'_>,
    ) -> Result<bool> {
        if watermark > self.place.watermark {
            if self.contents.sees_watermark() && !self.waiting.firings.is_empty() {
                self.flush(batch, emission)?;
            }
            self.place.watermark = watermark;
        }
        while let Some(timer) = self
            .timers
            .first_entry()
            .filter(|timer| timer.key().0 <= watermark)
        {
            let ((time, _), window) = timer.remove_entry();
            self.timer(window, time);
            if self.is_piece() {
                self.flush(batch, emission)?;
                if emission.is_over() {
                    return Ok(false);
                }
            }
        }
        self.passing = None;
        Ok(true)
    }

    /// Marks that windows of a later time come now: for sessions, which end at any ms, once per
    /// gap.
    fn pass(&mut self, time: i64) {
        let step = if let Assigner::Session { gap_ms } = self.assigner {
            gap_ms
        } else {
            1
        };
        if let Some(before) = self
            .passing
            .replace(time)
            .filter(|before| before.div_euclid(step) < time.div_euclid(step))
        {
            self.waiting.events.push(Event::Passed(before));
        }
    }

    /// Whether firings wait that make up a piece.
    fn is_piece(&self) -> bool {
        let n_firings = self.waiting.firings.len();
        n_firings >= PIECE_ROWS
            || self.waiting.firing_bytes >= PIECE_BYTES
            || n_firings >= self.contents.piece(&self.place)
    }

    /// The time of the first timer.
    pub(crate) fn next_due(&self) -> Option<i64> {
        self.timers.first_key_value().map(|((time, _), _)| *time)
    }

    /// The timer of a window has come up: the window ends, or is cleaned up.
    fn timer(&mut self, id: WindowId, time: i64) {
        let window = self.windows.get_mut(id);
        window.serial = NO_TIMER;
        let bounds = window.bounds;
        if !window.fired && bounds.max_timestamp() <= time {
            window.fired = true;
            self.pass(time);
            self.fire(id);
        }
        if bounds.cleanup_time(self.lateness_ms) <= time {
            self.remove_window(id);
        } else {
            self.set_timer(id);
        }
    }

    /// Registers the timer of a window for what comes next: its end, or its cleanup.
    pub(super) fn set_timer(&mut self, id: WindowId) {
        let window = self.windows.get_mut(id);
        if window.serial != NO_TIMER {
            self.timers.remove(&(window.timer, window.serial));
        }
        (window.timer, window.serial) = (window.next_time(self.lateness_ms), self.next_serial);
        self.timers.insert((window.timer, window.serial), id);
        self.next_serial += 1;
    }

    pub(super) fn fire(&mut self, id: WindowId) {
        let firing = self.firing(id);
        self.windows.get_mut(id).fires_in_round = self.round;
        self.waiting.firing_bytes += self.contents.bytes(firing.cell) + firing.key.len();
        self.waiting.firings.push(firing);
        self.waiting.events.push(Event::Fire);
    }

    pub(super) fn firing(&self, id: WindowId) -> Firing {
        let Window {
            key, cell, bounds, ..
        } = *self.windows.get(id);
        Firing {
            cell,
            key: self.table.key(self.of_keys[key as usize].entry).to_vec(),
            window: bounds,
        }
    }

    pub(super) fn remove_window(&mut self, id: WindowId) {
        let cell = self.take_window(id);
        self.waiting.dead.push(cell);
    }

    /// Removes a window, and returns its cell, which is alive.
    pub(super) fn take_window(&mut self, id: WindowId) -> Cell {
        let Window {
            key,
            bounds,
            cell,
            timer,
            serial,
            ..
        } = self.windows.remove(id);
        self.of_keys[key as usize].windows.remove(&bounds.start);
        if serial != NO_TIMER {
            self.timers.remove(&(timer, serial));
        }
        self.shrunk.push(key);
        cell
    }
}
