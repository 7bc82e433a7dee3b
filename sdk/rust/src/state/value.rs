//! Value state: a column with one entry for each slot of the call, on the way in and on the way
//! out.

use super::{Shared, StateTable, Ttl, UNBOUND};
use crate::bindings::streamrt::plugin::types::Section;
use crate::column::{Table, find, fixed, in_blocks, plain, section};
use crate::error::{Error, Result};
use crate::record::Record;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use streamrt_wit::codes::{self, action, buffer};

/// One value per key. A handle: what it reads and writes belongs to the key of the row or timer at
/// work.
///
/// Made by [`Setup::value`](super::Setup::value) in `open`; the default is a placeholder until
/// then.
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

    /// Lets the value expire: see [`Ttl`].
    pub fn ttl(self, ttl: impl Into<Ttl>) -> Self {
        self.table().ttl.set(Some(ttl.into()));
        self
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
        let entry = &table.entries.borrow()[table.shared.slot()];
        read(entry.is_present().then_some(&entry.value))
    }

    /// Sets the value.
    #[inline]
    pub fn set(&self, value: T) {
        self.at(|entry| {
            *entry = Entry {
                value,
                action: Cell::new(action::SET),
            }
        });
    }

    /// Changes the value in place; where there is none, it begins with zeros, empty strings and
    /// nulls.
    #[inline]
    pub fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        self.at(|entry| {
            if !entry.is_present() {
                entry.value = T::empty();
            }
            entry.action.set(action::SET);
            change(&mut entry.value)
        })
    }

    /// Removes the value.
    pub fn clear(&self) {
        self.at(|entry| entry.action.set(action::CLEAR));
    }

    #[inline]
    fn at<R>(&self, change: impl FnOnce(&mut Entry<T>) -> R) -> R {
        let table = self.table();
        change(&mut table.entries.borrow_mut()[table.shared.slot()])
    }
}

/// The entries of a call.
pub(crate) struct ValueTable<T: Record> {
    shared: Rc<Shared>,
    number: u16,
    ttl: Cell<Option<Ttl>>,
    /// At least one for each slot of the call; kept between calls for their capacity.
    entries: RefCell<Vec<Entry<T>>>,
    n_slots: Cell<usize>,
    builder: RefCell<T::Builder>,
}

struct Entry<T> {
    value: T,
    /// The action that the host receives, or [`ABSENT`] or [`UNREAD`].
    action: Cell<u8>,
}

/// The action of an entry that was absent and still is: the host receives "keep".
const ABSENT: u8 = u8::MAX;
/// The action of an entry that was not read yet, where the host has to know: it receives "keep", as
/// for any other.
const UNREAD: u8 = u8::MAX - 1;

impl<T> Entry<T> {
    #[inline]
    fn is_present(&self) -> bool {
        let action = self.action.get();
        action <= action::SET || (action != ABSENT && self.is_read())
    }

    /// Whether it is there and its reads are counted; notes that it was read.
    #[cold]
    fn is_read(&self) -> bool {
        let is_there = matches!(self.action.get(), UNREAD | action::READ);
        if is_there {
            self.action.set(action::READ);
        }
        is_there
    }

    /// What the host receives.
    fn told(&self) -> u8 {
        if self.action.get() >= UNREAD {
            action::KEEP
        } else {
            self.action.get()
        }
    }
}

impl<T: Record> ValueTable<T> {
    pub(super) fn new(shared: Rc<Shared>, number: u16) -> Self {
        ValueTable {
            shared,
            number,
            ttl: Cell::default(),
            entries: RefCell::default(),
            n_slots: Cell::default(),
            builder: RefCell::default(),
        }
    }
}

impl<T: Record> StateTable for ValueTable<T> {
    fn ttl(&self) -> Option<Ttl> {
        self.ttl.get()
    }

    fn begin(&self, n_slots: usize, section: Option<&Section>) -> Result<()> {
        let entries = &mut *self.entries.borrow_mut();
        self.n_slots.set(n_slots);
        if entries.len() < n_slots {
            entries.resize_with(n_slots, || Entry {
                value: T::empty(),
                action: Cell::new(ABSENT),
            });
        }
        let entries = &mut entries[..n_slots];
        let n_sent = section.map_or(0, |section| n_slots.min(section.rows as usize));
        if let Some(section) = section {
            let columns = T::columns(&Table::of(section, T::schema().len()))?;
            let there = fixed::<1>(
                find(section, buffer::ACTION).unwrap_or_default(),
                section.rows as usize,
            )?;
            let (sent, there) = (&mut entries[..n_sent], &there[..n_sent]);
            let present = if self.ttl.get().is_some_and(Ttl::counts_reads) {
                UNREAD
            } else {
                action::KEEP
            };
            in_blocks(n_sent, |slot| {
                T::load(&mut sent[slot].value, &columns, slot);
                sent[slot].action.set(if there[slot] == [action::SET] {
                    present
                } else {
                    ABSENT
                });
                Ok::<_, Error>(())
            })?;
        }
        entries[n_sent..]
            .iter_mut()
            .for_each(|entry| entry.action.set(ABSENT));
        Ok(())
    }

    fn finish(&self, out: &mut Vec<Section>) -> Result<()> {
        let entries = &self.entries.borrow()[..self.n_slots.get()];
        let told: Vec<u8> = entries.iter().map(Entry::told).collect();
        if told.iter().all(|&action| action == action::KEEP) {
            return Ok(());
        }
        let builder = &mut *self.builder.borrow_mut();
        in_blocks(entries.len(), |slot| {
            T::push(&entries[slot].value, builder);
            Ok::<_, Error>(())
        })?;
        let mut columns = Vec::new();
        T::finish(builder, &mut columns);
        let all_set = told.iter().all(|&action| action == action::SET);
        let buffers = if all_set {
            Vec::new()
        } else {
            vec![plain(buffer::ACTION, told)]
        };
        out.push(section(
            codes::section::STATE,
            self.number,
            entries.len(),
            buffers,
            columns,
        ));
        Ok(())
    }
}
