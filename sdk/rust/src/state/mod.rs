//! State: typed handles that user code holds, and the tables behind them that live for one call.
//!
//! Value, reducing and aggregating state comes with the call and goes back with its result: no call
//! to the host at all. List and map state is fetched when it is first touched and written back
//! once, before the call returns. The host has the authoritative copy; a table is empty between
//! calls. Operator state lives in the same tables: it has one slot, number 0, in every call.

mod broadcast;
mod fold;
mod list;
mod map;
mod ttl;
mod value;

pub use broadcast::BroadcastState;

pub use fold::{AggregatingState, ReducingState};
pub use list::ListState;
pub use map::{MapKey, MapState};
pub use ttl::Ttl;
pub use value::ValueState;

use crate::bindings::streamrt::plugin::types::Section;
use crate::column::{OwnedColumn, plain, section, u32_bytes};
use crate::error::{Error, Result};
use crate::fold::AggregateFunction;
use crate::host::StateHost;
use crate::process::ProcessFunction;
use crate::record::Record;
use std::cell::{Cell, OnceCell};
use std::rc::Rc;
use streamrt_wit::codes::{self, buffer};
use streamrt_wit::{Schema, StateDescriptor, StateKind};

/// What all tables of a function share.
#[derive(Default)]
pub(crate) struct Shared {
    /// The slot of the row or timer at work.
    slot: Cell<u32>,
    host: OnceCell<Rc<dyn StateHost>>,
    /// For operator state: whether the running call must not write broadcast state.
    read_only: Cell<bool>,
}

/// The slot of a call without keys. Tables keep entries of earlier calls to reuse their memory, so
/// it must not be confused with one of theirs.
const NO_SLOT: u32 = u32::MAX;

impl Shared {
    #[inline]
    fn slot(&self) -> usize {
        let slot = self.slot.get();
        assert!(
            slot != NO_SLOT,
            "state by key was used where there is no key: broadcast rows have none, and operator state is what they can use"
        );
        slot as usize
    }

    fn host(&self) -> Result<&Rc<dyn StateHost>> {
        self.host
            .get()
            .ok_or_else(|| Error::host("state is not open yet"))
    }

    /// Writes entries of list or map state, all in one go.
    fn put(
        &self,
        number: u16,
        slots: &[u32],
        actions: Vec<u8>,
        columns: Vec<OwnedColumn>,
    ) -> Result<()> {
        if slots.is_empty() {
            return Ok(());
        }
        let buffers = vec![
            plain(buffer::SLOT, u32_bytes(slots)),
            plain(buffer::ACTION, actions),
        ];
        self.host()?.put_many(
            u32::from(number),
            &section(codes::section::STATE, 0, slots.len(), buffers, columns),
        )
    }
}

/// The record in a row.
pub(crate) fn loaded<T: Record>(columns: &T::Columns<'_>, row: usize) -> T {
    let mut record = T::empty();
    T::load(&mut record, columns, row);
    record
}

/// The table behind a handle.
pub(crate) trait StateTable {
    /// Makes it ready for a call with `n_slots` slots; `section` is what the host sent for it.
    fn begin(&self, n_slots: usize, section: Option<&Section>) -> Result<()>;
    /// How long its entries live; `None` is for ever.
    fn ttl(&self) -> Option<Ttl>;
    /// Hands over what the call changed.
    fn finish(&self, out: &mut Vec<Section>) -> Result<()>;
}

/// Declares the state of a process function: value, list, map, reducing and aggregating, each for
/// ever or with a [`Ttl`]; and operator state, which belongs to a subtask and needs no key.
pub struct Setup {
    shared: Rc<Shared>,
    /// Operator state.
    operator: Rc<Shared>,
    descriptors: Vec<StateDescriptor>,
    tables: Vec<Rc<dyn StateTable>>,
}

impl Setup {
    pub(crate) fn open<F: ProcessFunction>(function: &mut F) -> Setup {
        let mut setup = Setup {
            shared: Rc::default(),
            operator: Rc::default(),
            descriptors: Vec::new(),
            tables: Vec::new(),
        };
        function.open(&mut setup);
        setup
    }

    /// One value per key. The name is unique in the function; a later version of the job finds the
    /// state by it.
    pub fn value<T: Record>(&mut self, name: &str) -> ValueState<T> {
        self.value_of_kind(name, StateKind::Value)
    }

    fn value_of_kind<T: Record>(&mut self, name: &str, kind: StateKind) -> ValueState<T> {
        let table = Rc::new(value::ValueTable::<T>::new(
            self.shared.clone(),
            self.number(),
        ));
        self.declare(name, kind, Schema::new(), T::schema(), table.clone());
        ValueState::new(table)
    }

    /// One value per key, into which `reduce` folds what is added.
    pub fn reducing<T: Record>(
        &mut self,
        name: &str,
        reduce: impl Fn(&mut T, &T) + 'static,
    ) -> ReducingState<T> {
        ReducingState::new(self.value_of_kind(name, StateKind::Reducing), reduce)
    }

    /// One accumulator per key, into which `function` folds what is added. Accumulators of a key
    /// are never merged.
    pub fn aggregating<A: AggregateFunction>(
        &mut self,
        name: &str,
        function: A,
    ) -> AggregatingState<A> {
        AggregatingState::new(self.value_of_kind(name, StateKind::Aggregating), function)
    }

    /// One list of elements per key.
    pub fn list<T: Record>(&mut self, name: &str) -> ListState<T> {
        let table = Rc::new(list::ListTable::<T>::new(
            self.shared.clone(),
            self.number(),
        ));
        self.declare(
            name,
            StateKind::List,
            Schema::new(),
            T::schema(),
            table.clone(),
        );
        ListState::new(table)
    }

    /// One map per key.
    pub fn map<K: MapKey, V: Record + Clone>(&mut self, name: &str) -> MapState<K, V> {
        let table = Rc::new(map::MapTable::<K, V>::new(
            self.shared.clone(),
            self.number(),
        ));
        self.declare(
            name,
            StateKind::Map,
            map_key::<K>(),
            V::schema(),
            table.clone(),
        );
        MapState::new(table)
    }

    /// Operator state: one list per subtask. After a start with another parallelism all elements
    /// are redistributed, in contiguous blocks.
    pub fn operator_list<T: Record>(&mut self, name: &str) -> ListState<T> {
        self.list_of_subtask(name, StateKind::OperatorList)
    }

    /// Operator state: one list per subtask. Each subtask starts again with the elements of all
    /// subtasks, and keeps what concerns it.
    pub fn union_list<T: Record>(&mut self, name: &str) -> ListState<T> {
        self.list_of_subtask(name, StateKind::UnionList)
    }

    fn list_of_subtask<T: Record>(&mut self, name: &str, kind: StateKind) -> ListState<T> {
        let table = Rc::new(list::ListTable::<T>::new(
            self.operator.clone(),
            self.number(),
        ));
        self.declare(name, kind, Schema::new(), T::schema(), table.clone());
        ListState::new(table)
    }

    /// Operator state: a map of which each subtask has a copy. The copies are the same if all
    /// subtasks write the same, which a
    /// [`BroadcastProcessFunction`](crate::BroadcastProcessFunction) does for the rows that are
    /// broadcast.
    pub fn broadcast<K: MapKey, V: Record + Clone>(&mut self, name: &str) -> BroadcastState<K, V> {
        let table = Rc::new(map::MapTable::<K, V>::new(
            self.operator.clone(),
            self.number(),
        ));
        self.declare(
            name,
            StateKind::Broadcast,
            map_key::<K>(),
            V::schema(),
            table.clone(),
        );
        BroadcastState::new(name, self.operator.clone(), table)
    }

    fn number(&self) -> u16 {
        self.tables.len() as u16
    }

    fn declare(
        &mut self,
        name: &str,
        kind: StateKind,
        key: Schema,
        value: Schema,
        table: Rc<dyn StateTable>,
    ) {
        self.descriptors.push(StateDescriptor {
            name: name.to_owned(),
            kind,
            key,
            value,
            ttl_ms: None,
            ttl_update: Default::default(),
            ttl_visibility: Default::default(),
        });
        self.tables.push(table);
    }

    /// The states of the function `uid`.
    ///
    /// # Errors
    /// If two have the same name, or a time to live is less than a millisecond.
    pub(crate) fn declared(&self, uid: &str) -> Result<Vec<StateDescriptor>> {
        let names = || {
            self.descriptors
                .iter()
                .map(|descriptor| descriptor.name.as_str())
        };
        if let Some((_, name)) = names()
            .enumerate()
            .find(|(i, name)| names().take(*i).any(|earlier| earlier == *name))
        {
            return Err(Error::job(format!(
                "{uid}: it declares two states named {name}"
            )));
        }
        let mut descriptors = self.descriptors.clone();
        for (descriptor, table) in descriptors.iter_mut().zip(&self.tables) {
            table
                .ttl()
                .into_iter()
                .for_each(|ttl| ttl.declare(descriptor));
        }
        match descriptors
            .iter()
            .find(|descriptor| descriptor.ttl_ms == Some(0))
        {
            Some(state) => Err(Error::job(format!(
                "{uid}: the time to live of state {} must be at least 1 ms",
                state.name
            ))),
            None => Ok(()),
        }?;
        match descriptors
            .iter()
            .find(|descriptor| descriptor.ttl_ms.is_some() && descriptor.kind.is_operator_state())
        {
            Some(state) => Err(Error::job(format!(
                "{uid}: operator state has no time to live, but {} is given one",
                state.name
            ))),
            None => Ok(descriptors),
        }
    }

    pub(crate) fn connect(&self, host: Rc<dyn StateHost>) {
        self.operator.host.get_or_init(|| host.clone());
        self.shared.host.get_or_init(|| host);
    }

    /// Says whether the call that begins may write broadcast state.
    pub(crate) fn may_broadcast(&self, may: bool) {
        self.operator.read_only.set(!may);
    }

    #[inline]
    pub(crate) fn at(&self, slot: u32) {
        self.shared.slot.set(slot);
    }

    pub(crate) fn begin(&self, n_slots: usize, sections: &[Section]) -> Result<()> {
        if n_slots == 0 {
            self.at(NO_SLOT);
        }
        for ((table, declared), number) in self.tables.iter().zip(&self.descriptors).zip(0u16..) {
            let of_table = |section: &&Section| {
                section.role == streamrt_wit::codes::section::STATE && section.port == number
            };
            let n_slots = if declared.kind.is_operator_state() {
                1
            } else {
                n_slots
            };
            table.begin(n_slots, sections.iter().find(of_table))?;
        }
        Ok(())
    }

    pub(crate) fn finish(&self, out: &mut Vec<Section>) -> Result<()> {
        self.tables.iter().try_for_each(|table| table.finish(out))
    }
}

/// The columns of a map's key, under names that its value does not have.
fn map_key<K: MapKey>() -> Schema {
    let mut key = K::schema();
    key.iter_mut()
        .for_each(|field| field.name = field.name.replacen("value", "key", 1));
    key
}

/// The message of a handle that [`Setup`] never gave out.
const UNBOUND: &str = "this state handle was not made by the setup: assign it in `open`";
