//! Keyed state as the host keeps it, for one function under test.

use super::frame::Frame;
use crate::bindings::streamrt::plugin::types::Section;
use crate::column::{find, plain, section, u32_bytes};
use crate::error::{Error, Result};
use crate::host::StateHost;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use streamrt_wit::codes::{self, action, buffer};
use streamrt_wit::{Schema, StateDescriptor, StateKind};

/// A key as bytes.
pub(super) type KeyBytes = Vec<u8>;

/// Entries of one state under one key, by the map's key; a value has one under the empty key, a list by number.
type Entries = BTreeMap<Vec<u8>, Frame>;

/// See the module.
pub(super) struct FakeHost {
    descriptors: Vec<StateDescriptor>,
    /// By state and key.
    entries: RefCell<HashMap<(u32, KeyBytes), Entries>>,
    /// The keys of the slots of the running call.
    slots: RefCell<Vec<KeyBytes>>,
    /// Calls of the interface `state` so far.
    n_calls: Cell<usize>,
}

impl FakeHost {
    pub(super) fn new(descriptors: Vec<StateDescriptor>) -> FakeHost {
        FakeHost { descriptors, entries: RefCell::default(), slots: RefCell::default(), n_calls: Cell::new(0) }
    }

    pub(super) fn n_calls(&self) -> usize {
        self.n_calls.get()
    }

    /// Begins a call; what comes back undoes it.
    pub(super) fn begin(&self, slots: Vec<KeyBytes>) -> Undo {
        *self.slots.borrow_mut() = slots;
        Undo(self.entries.borrow().clone())
    }

    pub(super) fn undo(&self, undo: Undo) {
        *self.entries.borrow_mut() = undo.0;
    }

    /// The sections of value state.
    pub(super) fn value_sections(&self) -> Vec<Section> {
        let values = self.descriptors.iter().zip(0u16..).filter(|(descriptor, _)| descriptor.kind == StateKind::Value);
        values.map(|(descriptor, number)| self.value_section(descriptor, number)).collect()
    }

    fn value_section(&self, descriptor: &StateDescriptor, number: u16) -> Section {
        let slots = self.slots.borrow().clone();
        let found: Vec<Option<Frame>> = slots.iter().map(|key| self.entry(u32::from(number), key, &[])).collect();
        let (actions, values) = presence(&found, &descriptor.value);
        section(codes::section::STATE, number, slots.len(), vec![plain(buffer::ACTION, actions)], values.columns)
    }

    fn entry(&self, state: u32, key: &[u8], map_key: &[u8]) -> Option<Frame> {
        self.entries.borrow().get(&(state, key.to_vec()))?.get(map_key).cloned()
    }

    /// Takes value state back.
    pub(super) fn apply(&self, answer: &Section) {
        let descriptor = &self.descriptors[usize::from(answer.port)];
        let values = Frame::received(answer, &descriptor.value);
        let actions = find(answer, buffer::ACTION);
        for (slot, key) in self.slots.borrow().iter().enumerate() {
            let mut all = self.entries.borrow_mut();
            let entries = all.entry((u32::from(answer.port), key.clone())).or_default();
            match actions.map_or(action::SET, |actions| actions[slot]) {
                action::SET => drop(entries.insert(Vec::new(), values.row(slot))),
                action::CLEAR => entries.clear(),
                _ => {}
            }
        }
    }

    fn key_of(&self, slot: u32) -> Result<KeyBytes> {
        self.slots.borrow().get(slot as usize).cloned().ok_or_else(|| Error::host(format!("there is no slot {slot}")))
    }

    fn list(&self, state: u32, slots: &[u32]) -> Result<Section> {
        let descriptor = &self.descriptors[state as usize];
        let (mut ends, mut elements) = (vec![0], Vec::new());
        for &slot in slots {
            let key = (state, self.key_of(slot)?);
            elements.extend(self.entries.borrow().get(&key).into_iter().flat_map(|entries| entries.values().cloned()));
            ends.push(elements.len() as u32);
        }
        let rows = Frame::concat(&descriptor.value, &elements.iter().collect::<Vec<_>>());
        Ok(section(codes::section::STATE, 0, slots.len(), vec![plain(buffer::OFFSETS, u32_bytes(&ends))], rows.columns))
    }

    fn map(&self, state: u32, slots: &[u32], keys: &Section) -> Result<Section> {
        let descriptor = &self.descriptors[state as usize];
        let keys = Frame::received(keys, &descriptor.key);
        let entry = |(row, &slot): (usize, &u32)| Ok(self.entry(state, &self.key_of(slot)?, &keys.row(row).bytes()));
        let found = slots.iter().enumerate().map(entry).collect::<Result<Vec<_>>>()?;
        let values: Vec<Option<Frame>> = found.into_iter().map(|row| row.map(|row| row.split(descriptor.key.len()).1)).collect();
        let (actions, values) = presence(&values, &descriptor.value);
        Ok(section(codes::section::STATE, 0, slots.len(), vec![plain(buffer::ACTION, actions)], values.columns))
    }
}

/// What a failed call leaves behind.
pub(super) struct Undo(HashMap<(u32, KeyBytes), Entries>);

fn presence(found: &[Option<Frame>], schema: &Schema) -> (Vec<u8>, Frame) {
    let nothing = Frame::zeros(schema, 1);
    let actions = found.iter().map(|row| u8::from(row.is_some())).collect();
    (actions, Frame::concat(schema, &found.iter().map(|row| row.as_ref().unwrap_or(&nothing)).collect::<Vec<_>>()))
}

fn slots_of(section: &Section) -> Vec<u32> {
    let bytes = find(section, buffer::SLOT).unwrap_or_default();
    bytes.as_chunks::<4>().0.iter().map(|slot| u32::from_le_bytes(*slot)).collect()
}

impl StateHost for FakeHost {
    fn get_many(&self, state: u32, keys: &Section) -> Result<Section> {
        self.n_calls.set(self.n_calls.get() + 1);
        let slots = slots_of(keys);
        match self.descriptors[state as usize].kind {
            StateKind::List => self.list(state, &slots),
            _ => self.map(state, &slots, keys),
        }
    }

    fn put_many(&self, state: u32, writes: &Section) -> Result<()> {
        self.n_calls.set(self.n_calls.get() + 1);
        let descriptor = &self.descriptors[state as usize];
        let schema = descriptor.key.iter().chain(&descriptor.value).cloned().collect();
        let rows = Frame::received(writes, &schema);
        let actions = find(writes, buffer::ACTION).unwrap_or_default();
        for (row, slot) in slots_of(writes).into_iter().enumerate() {
            let mut all = self.entries.borrow_mut();
            let entries = all.entry((state, self.key_of(slot)?)).or_default();
            let whole = rows.row(row);
            let map_key = whole.clone().split(descriptor.key.len()).0.bytes();
            match actions[row] {
                action::SET => drop(entries.insert(map_key, whole)),
                action::CLEAR => drop(entries.remove(&map_key)),
                action::APPEND => {
                    let number =
                        entries.last_key_value().map_or(0, |(last, _)| u32::from_be_bytes(last[..4].try_into().expect("4 bytes")) + 1);
                    entries.insert(number.to_be_bytes().to_vec(), whole);
                }
                _ => entries.clear(),
            }
        }
        Ok(())
    }

    fn scan(&self, state: u32, slot: u32, after: &[u8], limit: u32) -> Result<Section> {
        self.n_calls.set(self.n_calls.get() + 1);
        let descriptor = &self.descriptors[state as usize];
        let schema: Schema = descriptor.key.iter().chain(&descriptor.value).cloned().collect();
        let all = self.entries.borrow();
        let key = (state, self.key_of(slot)?);
        let behind = all.get(&key).into_iter().flatten().filter(|(key, _)| after.is_empty() || key.as_slice() > after);
        let mut rows: Vec<_> = behind.take(limit as usize + 1).collect();
        let more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        let cursor = rows.last().filter(|_| more).map(|(key, _)| plain(buffer::CURSOR, (*key).clone()));
        let page = Frame::concat(&schema, &rows.iter().map(|(_, row)| *row).collect::<Vec<_>>());
        Ok(section(codes::section::STATE, 0, page.n_rows, cursor.into_iter().collect(), page.columns))
    }
}
