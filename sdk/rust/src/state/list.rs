//! List state: the elements of all slots of a call are fetched when one is first read; additions
//! without a read cost no fetch.
//!
//! Where a time to live makes the host count reads, only the slot at work is fetched: the others
//! were not read.

use super::{Shared, StateTable, Ttl, UNBOUND};
use crate::bindings::streamrt::plugin::types::Section;
use crate::column::{Table, find, fixed, plain, section, u32_bytes};
use crate::error::Result;
use crate::record::Record;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use streamrt_wit::codes::{self, action, buffer};

/// One list of elements per key, in the order in which they were added. Made by
/// [`Setup::list`](super::Setup::list); or as operator state one list per subtask, made by
/// [`Setup::operator_list`](super::Setup::operator_list) or
/// [`Setup::union_list`](super::Setup::union_list).
pub struct ListState<T: Record>(Option<Rc<ListTable<T>>>);

impl<T: Record> Default for ListState<T> {
    fn default() -> Self {
        ListState(None)
    }
}

impl<T: Record> ListState<T> {
    pub(super) fn new(table: Rc<ListTable<T>>) -> Self {
        ListState(Some(table))
    }

    fn table(&self) -> &ListTable<T> {
        self.0.as_ref().expect(UNBOUND)
    }

    /// Lets elements expire, each on its own: see [`Ttl`].
    pub fn ttl(self, ttl: impl Into<Ttl>) -> Self {
        self.table().ttl.set(Some(ttl.into()));
        self
    }

    /// Adds an element at the end. Nothing is read for it.
    pub fn add(&self, element: T) {
        self.table().at(|slot| slot.appended.push(element));
    }

    /// The elements.
    ///
    /// # Errors
    /// If the host cannot read the state.
    pub fn get(&self) -> Result<Vec<T>>
    where
        T: Clone,
    {
        let mut elements = Vec::new();
        self.for_each(|element| elements.push(element.clone()))?;
        Ok(elements)
    }

    /// Lets `read` look at each element in order, without a copy. It must not change this state.
    ///
    /// # Errors
    /// If the host cannot read the state.
    pub fn for_each(&self, mut read: impl FnMut(&T)) -> Result<()> {
        let table = self.table();
        table.load()?;
        table.at(|slot| slot.stored.iter().chain(&slot.appended).for_each(&mut read));
        Ok(())
    }

    /// The number of elements.
    ///
    /// # Errors
    /// If the host cannot read the state.
    pub fn len(&self) -> Result<usize> {
        let mut n = 0;
        self.for_each(|_| n += 1)?;
        Ok(n)
    }

    /// Whether there is no element.
    ///
    /// # Errors
    /// If the host cannot read the state.
    pub fn is_empty(&self) -> Result<bool> {
        self.len().map(|n| n == 0)
    }

    /// Replaces all elements.
    pub fn update(&self, elements: impl IntoIterator<Item = T>) {
        self.clear();
        self.table().at(|slot| slot.appended.extend(elements));
    }

    /// Removes all elements.
    pub fn clear(&self) {
        self.table().at(|slot| {
            slot.cleared = true;
            slot.stored.clear();
            slot.appended.clear();
        });
    }
}

/// The lists of a call.
pub(crate) struct ListTable<T: Record> {
    shared: Rc<Shared>,
    number: u16,
    ttl: Cell<Option<Ttl>>,
    slots: RefCell<Vec<Slot<T>>>,
}

struct Slot<T> {
    /// What the host has, once fetched.
    stored: Vec<T>,
    loaded: bool,
    cleared: bool,
    /// What this call adds.
    appended: Vec<T>,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Slot {
            stored: Vec::new(),
            loaded: false,
            cleared: false,
            appended: Vec::new(),
        }
    }
}

impl<T: Record> ListTable<T> {
    pub(super) fn new(shared: Rc<Shared>, number: u16) -> Self {
        ListTable {
            shared,
            number,
            ttl: Cell::default(),
            slots: RefCell::default(),
        }
    }

    fn at<R>(&self, change: impl FnOnce(&mut Slot<T>) -> R) -> R {
        change(&mut self.slots.borrow_mut()[self.shared.slot()])
    }

    /// Fetches the lists of all slots, unless that is done or the slot at work needs no fetch.
    fn load(&self) -> Result<()> {
        if self.at(|slot| slot.loaded || slot.cleared) {
            return Ok(());
        }
        let at_work = self.shared.slot();
        let mut slots = self.slots.borrow_mut();
        let wanted = if self.ttl.get().is_some_and(Ttl::counts_reads) {
            at_work..at_work + 1
        } else {
            0..slots.len()
        };
        self.fetch(&mut slots[wanted.clone()], wanted.start as u32)
    }

    /// Fetches the lists of `slots`, the first of which has the number `start`.
    fn fetch(&self, slots: &mut [Slot<T>], start: u32) -> Result<()> {
        let all: Vec<u32> = (start..start + slots.len() as u32).collect();
        let keys = section(
            codes::section::STATE,
            0,
            all.len(),
            vec![plain(buffer::SLOT, u32_bytes(&all))],
            Vec::new(),
        );
        let answer = self
            .shared
            .host()?
            .get_many(u32::from(self.number), &keys)?;
        let ends = fixed::<4>(
            find(&answer, buffer::OFFSETS).unwrap_or_default(),
            all.len() + 1,
        )?;
        // The answer has one row per slot, its columns one per element.
        let n_elements = ends
            .last()
            .map_or(0, |end| u32::from_le_bytes(*end) as usize);
        let columns = T::columns(&Table {
            n_rows: n_elements,
            ..Table::of(&answer, T::schema().len())
        })?;
        for (slot, span) in slots
            .iter_mut()
            .zip(ends.windows(2))
            .filter(|(slot, _)| !slot.cleared)
        {
            let rows = u32::from_le_bytes(span[0]) as usize..u32::from_le_bytes(span[1]) as usize;
            slot.stored
                .extend(rows.map(|row| super::loaded(&columns, row)));
            slot.loaded = true;
        }
        Ok(())
    }
}

impl<T: Record> StateTable for ListTable<T> {
    fn ttl(&self) -> Option<Ttl> {
        self.ttl.get()
    }

    fn begin(&self, n_slots: usize, _: Option<&Section>) -> Result<()> {
        let mut slots = self.slots.borrow_mut();
        slots.clear();
        slots.resize_with(n_slots, Slot::default);
        Ok(())
    }

    fn finish(&self, _: &mut Vec<Section>) -> Result<()> {
        let (mut rows, mut actions, mut builder) = (Vec::new(), Vec::new(), T::Builder::default());
        let mut write = |slot: u32, action: u8, element: &T| {
            rows.push(slot);
            actions.push(action);
            T::push(element, &mut builder);
        };
        let nothing = T::empty();
        for (slot, number) in self.slots.borrow().iter().zip(0u32..) {
            if slot.cleared {
                write(number, action::CLEAR_SLOT, &nothing);
            }
            slot.appended
                .iter()
                .for_each(|element| write(number, action::APPEND, element));
        }
        let mut columns = Vec::new();
        T::finish(&mut builder, &mut columns);
        self.shared.put(self.number, &rows, actions, columns)
    }
}
