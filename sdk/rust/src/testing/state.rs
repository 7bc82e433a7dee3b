//! Keyed state as the host keeps it, for one function under test. Expired entries are removed when
//! they are read; nothing cleans up in the background.

use super::frame::Frame;
use crate::bindings::streamrt::plugin::types::Section;
use crate::column::{find, plain, section, u32_bytes};
use crate::error::{Error, Result};
use crate::host::StateHost;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use streamrt_wit::codes::{self, action, buffer};
use streamrt_wit::{Schema, StateDescriptor, StateKind, TtlUpdate, TtlVisibility};

/// A key as bytes.
pub(super) type KeyBytes = Vec<u8>;

/// Entries of one state under one key, by the map's key; a value has one under the empty key, a
/// list by number.
type Entries = BTreeMap<Vec<u8>, Entry>;

/// A row, and the virtual time of its last access.
#[derive(Clone)]
struct Entry {
    row: Frame,
    last_access: i64,
}

/// See the module.
pub(super) struct FakeHost {
    descriptors: Vec<StateDescriptor>,
    /// Entries by state and key.
    entries: RefCell<HashMap<(u32, KeyBytes), Entries>>,
    /// The keys of the slots of the running call.
    slots: RefCell<Vec<KeyBytes>>,
    /// The clock when the running call began, in ms.
    now: Cell<i64>,
    /// Calls of the interface `state` so far.
    n_calls: Cell<usize>,
}

impl FakeHost {
    pub(super) fn new(descriptors: Vec<StateDescriptor>) -> FakeHost {
        FakeHost {
            descriptors,
            entries: RefCell::default(),
            slots: RefCell::default(),
            now: Cell::new(0),
            n_calls: Cell::new(0),
        }
    }

    pub(super) fn n_calls(&self) -> usize {
        self.n_calls.get()
    }

    /// Begins a call; what is returned undoes it.
    pub(super) fn begin(&self, slots: Vec<KeyBytes>, now: i64) -> Undo {
        self.now.set(now);
        *self.slots.borrow_mut() = slots;
        Undo(self.entries.borrow().clone())
    }

    pub(super) fn undo(&self, undo: Undo) {
        *self.entries.borrow_mut() = undo.0;
    }

    pub(super) fn n_entries(&self, state: u32) -> usize {
        self.entries
            .borrow()
            .iter()
            .filter(|((number, _), _)| *number == state)
            .map(|(_, entries)| entries.len())
            .sum()
    }

    /// The sections of value, reducing and aggregating state.
    pub(super) fn value_sections(&self) -> Vec<Section> {
        use StateKind::{Aggregating, Reducing, Value};
        let is_value = |descriptor: &StateDescriptor| {
            matches!(descriptor.kind, Value | Reducing | Aggregating)
        };
        let values = self
            .descriptors
            .iter()
            .zip(0u16..)
            .filter(|(descriptor, _)| is_value(descriptor));
        values
            .map(|(descriptor, number)| self.value_section(descriptor, number))
            .collect()
    }

    fn value_section(&self, descriptor: &StateDescriptor, number: u16) -> Section {
        let slots = self.slots.borrow().clone();
        let found: Vec<Option<Frame>> = slots
            .iter()
            .map(|key| self.sent(u32::from(number), key))
            .collect();
        let (actions, values) = presence(&found, &descriptor.value);
        section(
            codes::section::STATE,
            number,
            slots.len(),
            vec![plain(buffer::ACTION, actions)],
            values.columns,
        )
    }

    fn is_expired(&self, state: u32, entry: &Entry) -> bool {
        let ttl_ms = self.descriptors[state as usize]
            .ttl_ms
            .map(|ms| i64::try_from(ms).unwrap_or(i64::MAX));
        ttl_ms.is_some_and(|ttl_ms| entry.last_access.saturating_add(ttl_ms) <= self.now.get())
    }

    /// The entry as user code may see it.
    fn visible(&self, state: u32, key: &[u8], map_key: &[u8]) -> Option<Frame> {
        let shows_expired = self.descriptors[state as usize].ttl_visibility
            == TtlVisibility::ReturnExpiredIfNotCleanedUp;
        let all = self.entries.borrow();
        let entry = all.get(&(state, key.to_vec()))?.get(map_key)?;
        (shows_expired || !self.is_expired(state, entry)).then(|| entry.row.clone())
    }

    /// The value that a call gets, which does not count as a read yet; but an expired one that
    /// nobody may see is removed.
    fn sent(&self, state: u32, key: &[u8]) -> Option<Frame> {
        let row = self.visible(state, key, &[]);
        if row.is_none() {
            self.touch(state, key, &[]);
        }
        row
    }

    /// What a read does to an entry: an expired one is removed, and the time of any other restarts
    /// if reads do that.
    fn touch(&self, state: u32, key: &[u8], map_key: &[u8]) {
        let renewed = self.descriptors[state as usize].ttl_update == TtlUpdate::OnReadAndWrite;
        let mut all = self.entries.borrow_mut();
        let Some(entries) = all.get_mut(&(state, key.to_vec())) else {
            return;
        };
        match entries.get_mut(map_key) {
            Some(entry) if self.is_expired(state, entry) => drop(entries.remove(map_key)),
            Some(entry) if renewed => entry.last_access = self.now.get(),
            _ => {}
        }
    }

    /// Reads an entry.
    fn entry(&self, state: u32, key: &[u8], map_key: &[u8]) -> Option<Frame> {
        let row = self.visible(state, key, map_key);
        self.touch(state, key, map_key);
        row
    }

    /// The entries under a key that follow `after`, read in order, up to `limit` of them.
    fn all(
        &self,
        state: u32,
        key: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Vec<(Vec<u8>, Frame)> {
        let under = self
            .entries
            .borrow()
            .get(&(state, key.to_vec()))
            .cloned()
            .unwrap_or_default();
        let behind = under
            .into_keys()
            .filter(|map_key| after.is_none_or(|after| map_key.as_slice() > after));
        behind
            .filter_map(|map_key| self.entry(state, key, &map_key).map(|row| (map_key, row)))
            .take(limit)
            .collect()
    }

    fn written(&self, row: Frame) -> Entry {
        Entry {
            row,
            last_access: self.now.get(),
        }
    }

    /// Takes value state back.
    pub(super) fn apply(&self, answer: &Section) {
        let descriptor = &self.descriptors[usize::from(answer.port)];
        let values = Frame::received(answer, &descriptor.value);
        let actions = find(answer, buffer::ACTION);
        for (slot, key) in self.slots.borrow().iter().enumerate() {
            let mut all = self.entries.borrow_mut();
            let entries = all
                .entry((u32::from(answer.port), key.clone()))
                .or_default();
            match actions.map_or(action::SET, |actions| actions[slot]) {
                action::SET => drop(entries.insert(Vec::new(), self.written(values.row(slot)))),
                action::CLEAR => entries.clear(),
                action::READ => {
                    drop(all);
                    self.touch(u32::from(answer.port), key, &[]);
                }
                _ => {}
            }
        }
    }

    /// The key of a slot; all operator state is under the empty key, in slot 0.
    fn key_of(&self, state: u32, slot: u32) -> Result<KeyBytes> {
        if self.descriptors[state as usize].kind.is_operator_state() && slot == 0 {
            return Ok(KeyBytes::new());
        }
        self.slots
            .borrow()
            .get(slot as usize)
            .cloned()
            .ok_or_else(|| Error::host(format!("there is no slot {slot}")))
    }

    fn list(&self, state: u32, slots: &[u32]) -> Result<Section> {
        let descriptor = &self.descriptors[state as usize];
        let (mut ends, mut elements) = (vec![0], Vec::new());
        for &slot in slots {
            elements.extend(
                self.all(state, &self.key_of(state, slot)?, None, usize::MAX)
                    .into_iter()
                    .map(|(_, row)| row),
            );
            ends.push(elements.len() as u32);
        }
        let rows = Frame::concat(&descriptor.value, &elements.iter().collect::<Vec<_>>());
        Ok(section(
            codes::section::STATE,
            0,
            slots.len(),
            vec![plain(buffer::OFFSETS, u32_bytes(&ends))],
            rows.columns,
        ))
    }

    fn map(&self, state: u32, slots: &[u32], keys: &Section) -> Result<Section> {
        let descriptor = &self.descriptors[state as usize];
        let keys = Frame::received(keys, &descriptor.key);
        let entry = |(row, &slot): (usize, &u32)| {
            Ok(self.entry(state, &self.key_of(state, slot)?, &keys.row(row).bytes()))
        };
        let found = slots
            .iter()
            .enumerate()
            .map(entry)
            .collect::<Result<Vec<_>>>()?;
        let values: Vec<Option<Frame>> = found
            .into_iter()
            .map(|row| row.map(|row| row.split(descriptor.key.len()).1))
            .collect();
        let (actions, values) = presence(&values, &descriptor.value);
        Ok(section(
            codes::section::STATE,
            0,
            slots.len(),
            vec![plain(buffer::ACTION, actions)],
            values.columns,
        ))
    }
}

/// What a failed call leaves behind.
pub(super) struct Undo(HashMap<(u32, KeyBytes), Entries>);

fn presence(found: &[Option<Frame>], schema: &Schema) -> (Vec<u8>, Frame) {
    let nothing = Frame::zeros(schema, 1);
    let actions = found.iter().map(|row| u8::from(row.is_some())).collect();
    (
        actions,
        Frame::concat(
            schema,
            &found
                .iter()
                .map(|row| row.as_ref().unwrap_or(&nothing))
                .collect::<Vec<_>>(),
        ),
    )
}

fn slots_of(section: &Section) -> Vec<u32> {
    let bytes = find(section, buffer::SLOT).unwrap_or_default();
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|slot| u32::from_le_bytes(*slot))
        .collect()
}

impl StateHost for FakeHost {
    fn get_many(&self, state: u32, keys: &Section) -> Result<Section> {
        self.n_calls.set(self.n_calls.get() + 1);
        let slots = slots_of(keys);
        match self.descriptors[state as usize].kind {
            StateKind::List | StateKind::OperatorList | StateKind::UnionList => {
                self.list(state, &slots)
            }
            _ => self.map(state, &slots, keys),
        }
    }

    fn put_many(&self, state: u32, writes: &Section) -> Result<()> {
        self.n_calls.set(self.n_calls.get() + 1);
        let descriptor = &self.descriptors[state as usize];
        let schema = descriptor
            .key
            .iter()
            .chain(&descriptor.value)
            .cloned()
            .collect();
        let rows = Frame::received(writes, &schema);
        let actions = find(writes, buffer::ACTION).unwrap_or_default();
        for (row, slot) in slots_of(writes).into_iter().enumerate() {
            let mut all = self.entries.borrow_mut();
            let entries = all.entry((state, self.key_of(state, slot)?)).or_default();
            let whole = rows.row(row);
            let map_key = whole.clone().split(descriptor.key.len()).0.bytes();
            match actions[row] {
                action::SET => drop(entries.insert(map_key, self.written(whole))),
                action::CLEAR => drop(entries.remove(&map_key)),
                action::APPEND => {
                    let number = entries.last_key_value().map_or(0, |(last, _)| {
                        u32::from_be_bytes(last[..4].try_into().expect("4 bytes")) + 1
                    });
                    entries.insert(number.to_be_bytes().to_vec(), self.written(whole));
                }
                _ => entries.clear(),
            }
        }
        Ok(())
    }

    fn scan(&self, state: u32, slot: u32, after: &[u8], limit: u32) -> Result<Section> {
        self.n_calls.set(self.n_calls.get() + 1);
        let descriptor = &self.descriptors[state as usize];
        let schema: Schema = descriptor
            .key
            .iter()
            .chain(&descriptor.value)
            .cloned()
            .collect();
        let rows = self.all(
            state,
            &self.key_of(state, slot)?,
            Some(after).filter(|after| !after.is_empty()),
            limit as usize,
        );
        let more = rows.len() == limit as usize;
        let cursor = rows
            .last()
            .filter(|_| more)
            .map(|(key, _)| plain(buffer::CURSOR, key.clone()));
        let page = Frame::concat(
            &schema,
            &rows.iter().map(|(_, row)| row).collect::<Vec<_>>(),
        );
        Ok(section(
            codes::section::STATE,
            0,
            page.n_rows,
            cursor.into_iter().collect(),
            page.columns,
        ))
    }
}
