//! Map state: an entry is fetched when it is first read, and remembered for the call; iterating
//! fetches a slot's entries in pages.

use super::{Shared, StateTable, Ttl, UNBOUND};
use crate::bindings::streamrt::plugin::types::Section;
use crate::column::{Table, find, plain, section, u32_bytes};
use crate::error::Result;
use crate::key::Key;
use crate::record::Record;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::Hash;
use std::rc::Rc;
use streamrt_wit::codes::{self, action, buffer};

/// The number of entries in one page of a scan.
const PAGE: u32 = 1024;

/// A type that the keys of a map can have.
pub trait MapKey: Key + Eq + Hash + Clone + Ord {}
impl<K: Key + Eq + Hash + Clone + Ord> MapKey for K {}

/// One map per key. Made by [`Setup::map`](super::Setup::map).
pub struct MapState<K: MapKey, V: Record + Clone>(Option<Rc<MapTable<K, V>>>);

impl<K: MapKey, V: Record + Clone> Default for MapState<K, V> {
    fn default() -> Self {
        MapState(None)
    }
}

impl<K: MapKey, V: Record + Clone> MapState<K, V> {
    pub(super) fn new(table: Rc<MapTable<K, V>>) -> Self {
        MapState(Some(table))
    }

    fn table(&self) -> &MapTable<K, V> {
        self.0.as_ref().expect(UNBOUND)
    }

    /// Lets entries expire, each on its own: see [`Ttl`].
    pub fn ttl(self, ttl: impl Into<Ttl>) -> Self {
        self.table().ttl.set(Some(ttl.into()));
        self
    }

    /// The value under a key.
    ///
    /// # Errors
    /// If the host cannot read the state.
    pub fn get(&self, key: &K) -> Result<Option<V>> {
        self.table().get(key)
    }

    /// Whether there is a value under a key.
    ///
    /// # Errors
    /// If the host cannot read the state.
    pub fn contains(&self, key: &K) -> Result<bool> {
        self.get(key).map(|value| value.is_some())
    }

    /// Sets the value under a key. Nothing is read for it.
    pub fn put(&self, key: K, value: V) {
        self.table().write(key, Some(value));
    }

    /// Removes the value under a key.
    pub fn remove(&self, key: &K) {
        self.table().write(key.clone(), None);
    }

    /// All entries, in the order of the keys.
    ///
    /// # Errors
    /// If the host cannot read the state.
    pub fn entries(&self) -> Result<Vec<(K, V)>> {
        self.table().entries()
    }

    /// Removes all entries.
    pub fn clear(&self) {
        self.table().clear();
    }
}

/// The maps of a call, as far as they are known.
pub(crate) struct MapTable<K: MapKey, V: Record + Clone> {
    shared: Rc<Shared>,
    number: u16,
    ttl: Cell<Option<Ttl>>,
    slots: RefCell<Vec<Slot<K, V>>>,
}

struct Slot<K, V> {
    known: HashMap<K, Entry<V>>,
    /// The keys that were written, in order of their first write: what goes out must not depend on
    /// the hash.
    written: Vec<K>,
    cleared: bool,
    /// What is not known is absent.
    complete: bool,
}

struct Entry<V> {
    value: Option<V>,
    written: bool,
}

impl<K, V> Default for Slot<K, V> {
    fn default() -> Self {
        Slot {
            known: HashMap::new(),
            written: Vec::new(),
            cleared: false,
            complete: false,
        }
    }
}

impl<K: MapKey, V: Record + Clone> Slot<K, V> {
    fn write(&mut self, key: K, value: Option<V>) {
        let entry = self.known.entry(key.clone()).or_insert(Entry {
            value: None,
            written: false,
        });
        entry.value = value;
        if !std::mem::replace(&mut entry.written, true) {
            self.written.push(key);
        }
    }

    fn learn(&mut self, key: K, value: Option<V>) {
        self.known.entry(key).or_insert(Entry {
            value,
            written: false,
        });
    }

    fn present(&self) -> Vec<(K, V)> {
        let entry = |(key, entry): (&K, &Entry<V>)| Some((key.clone(), entry.value.clone()?));
        self.known.iter().filter_map(entry).collect()
    }
}

impl<K: MapKey, V: Record + Clone> MapTable<K, V> {
    pub(super) fn new(shared: Rc<Shared>, number: u16) -> Self {
        MapTable {
            shared,
            number,
            ttl: Cell::default(),
            slots: RefCell::default(),
        }
    }

    fn at<R>(&self, change: impl FnOnce(&mut Slot<K, V>) -> R) -> R {
        change(&mut self.slots.borrow_mut()[self.shared.slot()])
    }

    pub(super) fn write(&self, key: K, value: Option<V>) {
        self.at(|slot| slot.write(key, value));
    }

    pub(super) fn clear(&self) {
        self.at(|slot| {
            *slot = Slot {
                cleared: true,
                complete: true,
                ..Slot::default()
            }
        });
    }

    pub(super) fn entries(&self) -> Result<Vec<(K, V)>> {
        self.load_slot()?;
        let mut entries: Vec<(K, V)> = self.at(|slot| slot.present());
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(entries)
    }

    pub(super) fn get(&self, key: &K) -> Result<Option<V>> {
        let known = self.at(|slot| match slot.known.get(key) {
            Some(entry) => Some(entry.value.clone()),
            None => slot.complete.then_some(None),
        });
        match known {
            Some(value) => Ok(value),
            None => self.fetch(key),
        }
    }

    fn fetch(&self, key: &K) -> Result<Option<V>> {
        let (mut builder, mut columns) = (K::Builder::default(), Vec::new());
        K::push(key, &mut builder);
        K::finish(&mut builder, &mut columns);
        let slot = u32_bytes(&[self.shared.slot() as u32]);
        let keys = section(
            codes::section::STATE,
            0,
            1,
            vec![plain(buffer::SLOT, slot)],
            columns,
        );
        let answer = self
            .shared
            .host()?
            .get_many(u32::from(self.number), &keys)?;
        let there = find(&answer, buffer::ACTION) == Some(&[action::SET]);
        let columns = V::columns(&Table::of(&answer, V::schema().len()))?;
        let value: Option<V> = there.then(|| super::loaded(&columns, 0));
        self.at(|slot| slot.learn(key.clone(), value.clone()));
        Ok(value)
    }

    /// Fetches what is not yet known of the slot at work.
    fn load_slot(&self) -> Result<()> {
        let host = self.shared.host()?;
        let (n_key, n_value) = (K::schema().len(), V::schema().len());
        let mut after = Vec::new();
        while !self.at(|slot| slot.complete) {
            let page = host.scan(
                u32::from(self.number),
                self.shared.slot() as u32,
                &after,
                PAGE,
            )?;
            let table = Table::of(&page, n_key + n_value);
            let (keys, values) = (K::columns(&table)?, V::columns(&table.skip(n_key))?);
            self.at(|slot| {
                (0..table.n_rows).for_each(|row| {
                    slot.learn(super::loaded(&keys, row), Some(super::loaded(&values, row)))
                })
            });
            match find(&page, buffer::CURSOR) {
                Some(cursor) => after = cursor.to_vec(),
                None => self.at(|slot| slot.complete = true),
            }
        }
        Ok(())
    }
}

impl<K: MapKey, V: Record + Clone> StateTable for MapTable<K, V> {
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
        let mut writes = Writes::<K, V>::new();
        for (slot, number) in self.slots.borrow().iter().zip(0u32..) {
            if slot.cleared {
                writes.add(number, action::CLEAR_SLOT, &K::empty(), None);
            }
            for key in &slot.written {
                let value = slot.known.get(key).and_then(|entry| entry.value.as_ref());
                writes.add(
                    number,
                    if value.is_some() {
                        action::SET
                    } else {
                        action::CLEAR
                    },
                    key,
                    value,
                );
            }
        }
        let mut columns = Vec::new();
        K::finish(&mut writes.keys, &mut columns);
        V::finish(&mut writes.values, &mut columns);
        self.shared
            .put(self.number, &writes.slots, writes.actions, columns)
    }
}

/// Rows of `put-many` under construction.
struct Writes<K: MapKey, V: Record> {
    slots: Vec<u32>,
    actions: Vec<u8>,
    keys: K::Builder,
    values: V::Builder,
    nothing: V,
}

impl<K: MapKey, V: Record> Writes<K, V> {
    fn new() -> Self {
        Writes {
            slots: Vec::new(),
            actions: Vec::new(),
            keys: K::Builder::default(),
            values: V::Builder::default(),
            nothing: V::empty(),
        }
    }

    fn add(&mut self, slot: u32, action: u8, key: &K, value: Option<&V>) {
        self.slots.push(slot);
        self.actions.push(action);
        K::push(key, &mut self.keys);
        V::push(value.unwrap_or(&self.nothing), &mut self.values);
    }
}
