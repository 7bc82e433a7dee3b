//! Broadcast state: a map of which every subtask keeps a copy.
//!
//! Where a function has a broadcast input, rows of that input alone may write it: every subtask
//! gets these, so the copies stay the same.

use super::map::MapTable;
use super::{MapKey, Shared, UNBOUND};
use crate::error::{Error, Result};
use crate::record::Record;
use std::rc::Rc;

/// A map of which every subtask has a copy. Made by [`Setup::broadcast`](super::Setup::broadcast).
pub struct BroadcastState<K: MapKey, V: Record + Clone>(Option<Bound<K, V>>);

struct Bound<K: MapKey, V: Record + Clone> {
    name: String,
    shared: Rc<Shared>,
    table: Rc<MapTable<K, V>>,
}

impl<K: MapKey, V: Record + Clone> Default for BroadcastState<K, V> {
    fn default() -> Self {
        BroadcastState(None)
    }
}

impl<K: MapKey, V: Record + Clone> BroadcastState<K, V> {
    pub(super) fn new(name: &str, shared: Rc<Shared>, table: Rc<MapTable<K, V>>) -> Self {
        BroadcastState(Some(Bound {
            name: name.to_owned(),
            shared,
            table,
        }))
    }

    fn bound(&self) -> &Bound<K, V> {
        self.0.as_ref().expect(UNBOUND)
    }

    /// The value under a key.
    ///
    /// # Errors
    /// If the host cannot read the state.
    pub fn get(&self, key: &K) -> Result<Option<V>> {
        self.bound().table.get(key)
    }

    /// Whether there is a value under a key.
    ///
    /// # Errors
    /// If the host cannot read the state.
    pub fn contains(&self, key: &K) -> Result<bool> {
        self.get(key).map(|value| value.is_some())
    }

    /// All entries, in the order of the keys.
    ///
    /// # Errors
    /// If the host cannot read the state.
    pub fn entries(&self) -> Result<Vec<(K, V)>> {
        self.bound().table.entries()
    }

    /// Sets the value under a key.
    ///
    /// # Errors
    /// If the row at work was not broadcast.
    pub fn put(&self, key: K, value: V) -> Result<()> {
        self.writable().map(|table| table.write(key, Some(value)))
    }

    /// Removes the value under a key.
    ///
    /// # Errors
    /// If the row at work was not broadcast.
    pub fn remove(&self, key: &K) -> Result<()> {
        self.writable().map(|table| table.write(key.clone(), None))
    }

    /// Removes all entries.
    ///
    /// # Errors
    /// If the row at work was not broadcast.
    pub fn clear(&self) -> Result<()> {
        self.writable().map(MapTable::clear)
    }

    fn writable(&self) -> Result<&MapTable<K, V>> {
        let bound = self.bound();
        if !bound.shared.read_only.get() {
            return Ok(&bound.table);
        }
        let message = format!(
            "broadcast state {} can be written in on_broadcast alone, or the subtasks' copies would differ",
            bound.name
        );
        Err(Error::job(message))
    }
}
