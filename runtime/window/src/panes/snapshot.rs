//! What a snapshot keeps of panes, and how they come back.

use super::{ENTRIES_PER_LOOK, PaneWindows, fetch};
use crate::assigner::{SlidingWindows, TIME_MAX, within_reach};
use crate::group_watermarks::GroupWatermarks;
use crate::pane_disk::PaneDisk;
use crate::snapshot_bytes::{Fields, damaged, ordered};
use serde_json::Value;
use streamrt_operator::FrozenTable;
use streamrt_state::{
    DiskChanges, EachEntry, Frozen, KeyBuffer, KeyedSnapshot, Namespace, OperatorState,
};
use streamrt_types::state_types::PANES;
use streamrt_types::{Error, Result, code};

/// The start of a pane of a snapshot, which may be from an older version.
fn pane_of(windows: &SlidingWindows, pane: &[u8]) -> Result<i64> {
    let mut fields = Fields::new(pane, "a pane");
    let start = fields.time()?;
    fields.end()?;
    // A pane begins before the times in it.
    let is_pane = (-2 * TIME_MAX..=TIME_MAX).contains(&start) && windows.begins_old_pane(start);
    if is_pane {
        Ok(start)
    } else {
        Err(damaged("a pane"))
    }
}

fn other_panes() -> Error {
    let message = "the checkpoint keeps its windows on disk in panes of an older version; a savepoint of that version can be started from";
    Error::new(code::STATE_TYPES, message)
}

/// The panes of one moment, each with its first ms.
struct FrozenPanes {
    panes: Vec<(Namespace, FrozenTable)>,
    changes: Option<DiskChanges>,
}

impl Frozen for FrozenPanes {
    fn visit(&self, each: &mut EachEntry<'_>) {
        for (start, pane) in &self.panes {
            pane.each(&mut |key, value| each(key, start, value));
        }
    }

    fn take_changes(&mut self) -> Option<DiskChanges> {
        self.changes.take()
    }
}

impl PaneWindows {
    /// Freezes the panes.
    pub(crate) fn snapshot(&mut self, types: Value) -> KeyedSnapshot {
        let accumulators = &self.accumulators;
        let frozen = self
            .panes
            .panes_mut()
            .filter_map(|(start, pane)| Some((ordered(start), pane.freeze(accumulators)?)));
        let frozen = FrozenPanes {
            panes: frozen.collect(),
            changes: self.disk.as_mut().map(PaneDisk::freeze),
        };
        KeyedSnapshot {
            name: PANES.into(),
            types,
            entries: Box::new(frozen),
        }
    }

    /// The watermarks that go with the panes into a snapshot.
    pub(crate) fn watermarks(&self) -> GroupWatermarks {
        self.behind
            .clone()
            .unwrap_or_else(|| GroupWatermarks::one(self.key_groups, self.watermark))
    }

    /// Takes the panes of a snapshot back. What had fired by `watermarks` does not fire again.
    ///
    /// # Errors
    /// `Invalid` if the snapshot has other types, `Data` if it is damaged.
    pub(crate) fn restore(
        &mut self,
        state: &mut OperatorState,
        types: &Value,
        watermarks: Option<GroupWatermarks>,
    ) -> Result<()> {
        if let Some(disk) = &self.disk {
            for namespace in disk.stored()? {
                let start = pane_of(&self.windows, &namespace)?;
                if self.windows.pane_start(start) != start {
                    return Err(other_panes());
                }
                self.panes.add_stored(start, disk);
            }
        }
        state.keyed(PANES, types, |hash, key, pane, value| {
            self.restore_entry(hash, key, pane, value)
        })?;
        if let Some(watermarks) = watermarks {
            self.watermark = watermarks.least();
            self.passed_end = self
                .windows
                .end_at_or_before(within_reach(self.watermark) + 1);
            self.behind = (!watermarks.is_one()).then_some(watermarks);
        }
        Ok(())
    }

    fn restore_entry(&mut self, hash: u32, key: &[u8], pane: &[u8], value: &[u8]) -> Result<()> {
        let begin = pane_of(&self.windows, pane)?;
        self.n_restored += 1;
        if let Some(disk) = self
            .disk
            .as_mut()
            .filter(|_| self.n_restored.is_multiple_of(ENTRIES_PER_LOOK))
        {
            disk.make_room(&mut self.panes, &mut self.accumulators)?;
        }
        let start = self.windows.pane_start(begin);
        let pane = self.panes.pane(start, self.disk.as_ref());
        let entry = match begin == start {
            true => self
                .accumulators
                .restore(&mut pane.table, hash, key, value)?,
            false => {
                // A pane of an older version, which is a part of one of ours; the key may have come
                // with another part, and left memory.
                let mut keys = KeyBuffer::new(pane.table.kind());
                keys.push_key(hash, key);
                fetch(pane, &mut self.accumulators, keys.hashes(), keys.keys())?;
                self.accumulators
                    .restore_part(&mut pane.table, hash, key, value)?
            }
        };
        pane.changed(&[entry]);
        Ok(())
    }
}
