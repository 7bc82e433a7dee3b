//! Value state: a column with one entry for each slot of the call, on the way in and on the way out.

use super::{Shared, StateTable, UNBOUND};
use crate::bindings::streamrt::plugin::types::Section;
use crate::column::{Table, find, plain, section};
use crate::error::Result;
use crate::record::Record;
use std::cell::RefCell;
use std::rc::Rc;
use streamrt_wit::codes::{self, action, buffer};

/// One value a key. A handle: what it reads and writes belongs to the key of the row or timer at work.
///
/// Made by [`Setup::value`](super::Setup::value) in `open`; the default is a place holder until then.
pub struct ValueState<T: Record>(Option<Rc<ValueTable<T>>>);

impl<T: Record> Default for ValueState<T> {
    fn default() -> Self {
        ValueState(None)
    }
}

impl<T: Record> ValueState<T> {
    pub(super) fn new(table: Rc<ValueTable<T>>) -> Self {
        ValueState(Some(table))
    }

    #[inline]
    fn table(&self) -> &ValueTable<T> {
        self.0.as_ref().expect(UNBOUND)
    }

    /// The value, if there is one.
    #[inline]
    pub fn get(&self) -> Option<T>
    where
        T: Clone,
    {
        self.with(|value| value.cloned())
    }

    /// Whether there is a value.
    pub fn is_set(&self) -> bool {
        self.with(|value| value.is_some())
    }

    /// Lets `read` look at the value without a copy.
    #[inline]
    pub fn with<R>(&self, read: impl FnOnce(Option<&T>) -> R) -> R {
        let table = self.table();
        let entries = table.entries.borrow();
        let slot = table.shared.slot();
        read(entries.present[slot].then(|| &entries.values[slot]))
    }

    /// Sets the value.
    #[inline]
    pub fn set(&self, value: T) {
        let table = self.table();
        let mut entries = table.entries.borrow_mut();
        let slot = table.shared.slot();
        entries.values[slot] = value;
        entries.present[slot] = true;
        entries.actions[slot] = action::SET;
    }

    /// Changes the value in place; where there is none, it begins with zeros, empty strings and nulls.
    #[inline]
    pub fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let table = self.table();
        let mut entries = table.entries.borrow_mut();
        let slot = table.shared.slot();
        if !std::mem::replace(&mut entries.present[slot], true) {
            entries.values[slot] = T::empty();
        }
        entries.actions[slot] = action::SET;
        change(&mut entries.values[slot])
    }

    /// Takes the value away.
    pub fn clear(&self) {
        let table = self.table();
        let mut entries = table.entries.borrow_mut();
        let slot = table.shared.slot();
        entries.present[slot] = false;
        entries.actions[slot] = action::CLEAR;
    }
}

/// One value a key, into which others are folded. Made by [`Setup::reducing`](super::Setup::reducing).
pub struct ReducingState<T: Record> {
    value: ValueState<T>,
    reduce: Option<Reduce<T>>,
}

/// Folds the second into the first.
type Reduce<T> = Box<dyn Fn(&mut T, &T)>;

impl<T: Record> Default for ReducingState<T> {
    fn default() -> Self {
        ReducingState { value: ValueState::default(), reduce: None }
    }
}

impl<T: Record> ReducingState<T> {
    pub(super) fn new(value: ValueState<T>, reduce: impl Fn(&mut T, &T) + 'static) -> Self {
        ReducingState { value, reduce: Some(Box::new(reduce)) }
    }

    /// Folds a value in; the first one is taken as it is.
    pub fn add(&self, value: T) {
        let reduce = self.reduce.as_ref().expect(UNBOUND);
        if self.value.is_set() {
            self.value.update(|sum| reduce(sum, &value));
        } else {
            self.value.set(value);
        }
    }

    /// The result so far, if anything was added.
    pub fn get(&self) -> Option<T>
    where
        T: Clone,
    {
        self.value.get()
    }

    /// Begins anew.
    pub fn clear(&self) {
        self.value.clear();
    }
}

/// The entries of a call.
pub(crate) struct ValueTable<T: Record> {
    shared: Rc<Shared>,
    number: u16,
    entries: RefCell<Entries<T>>,
}

struct Entries<T: Record> {
    /// At least one for each slot of the call; kept between calls for their capacity.
    values: Vec<T>,
    present: Vec<bool>,
    actions: Vec<u8>,
    builder: T::Builder,
}

impl<T: Record> ValueTable<T> {
    pub(super) fn new(shared: Rc<Shared>, number: u16) -> Self {
        let entries = Entries { values: Vec::new(), present: Vec::new(), actions: Vec::new(), builder: T::Builder::default() };
        ValueTable { shared, number, entries: RefCell::new(entries) }
    }
}

impl<T: Record> StateTable for ValueTable<T> {
    fn begin(&self, n_slots: usize, section: Option<&Section>) -> Result<()> {
        let entries = &mut *self.entries.borrow_mut();
        if entries.values.len() < n_slots {
            entries.values.resize_with(n_slots, T::empty);
        }
        entries.actions.clear();
        entries.actions.resize(n_slots, action::KEEP);
        entries.present.clear();
        if let Some(section) = section {
            let columns = T::columns(&Table::of(section, T::schema().len()))?;
            let n_sent = n_slots.min(section.rows as usize);
            entries.values.iter_mut().take(n_sent).enumerate().for_each(|(slot, value)| T::load(value, &columns, slot));
            let there = find(section, buffer::ACTION).unwrap_or_default();
            entries.present.extend(there.iter().take(n_sent).map(|&action| action == action::SET));
        }
        entries.present.resize(n_slots, false);
        Ok(())
    }

    fn finish(&self, out: &mut Vec<Section>) -> Result<()> {
        let entries = &mut *self.entries.borrow_mut();
        let n_slots = entries.actions.len();
        if entries.actions.iter().all(|&action| action == action::KEEP) {
            return Ok(());
        }
        entries.values.iter().take(n_slots).for_each(|value| T::push(value, &mut entries.builder));
        let mut columns = Vec::new();
        T::finish(&mut entries.builder, &mut columns);
        let all_set = entries.actions.iter().all(|&action| action == action::SET);
        let buffers = if all_set { Vec::new() } else { vec![plain(buffer::ACTION, entries.actions.clone())] };
        out.push(section(codes::section::STATE, self.number, n_slots, buffers, columns));
        Ok(())
    }
}
