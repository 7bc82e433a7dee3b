//! The states of a function: value state as columns for the slots of a call, list and map state
//! through [`StateAccess`].
//!
//! Reducing and aggregating state is value state here: the accumulator travels with the call, and
//! the SDK folds.
//!
//! Invariant: during a call nothing changes except a [`Writes`], which holds back what the call
//! writes to lists and maps, and is read first, so that a call sees its own writes. `apply` makes
//! it the state; dropping it rolls back. A call is one moment: what is expired when it begins is
//! expired for all of it, and what is not, is not.

mod call_states;
mod size;

pub(crate) use self::call_states::{CallStates, Writes};
use self::call_states::{ListWrites, MapWrites, Reads};
use crate::function::{StateIn, StateOut};
use crate::operator::OperatorContext;
use crate::operator_states::{BroadcastMap, ItemList};
use serde_json::Value;
use streamrt_state::{
    EntryId, KeyBuffer, KeyKind, KeyedSnapshot, ListSnapshot, ListState, MapState, OperatorState,
    Resident, Ttl, ValueState,
};
use streamrt_types::state_types::state_types;
use streamrt_types::{Error, KeyGroupRange, Result, code};
use streamrt_wit::codes::action;
use streamrt_wit::{StateDescriptor, StateKind};

/// Takes hash, key, sub-key and value of an entry.
type EachRestored<'a> = dyn FnMut(u32, &[u8], &[u8], &[u8]) -> Result<()> + 'a;

/// All states of one function, by the numbers of their descriptors.
pub(crate) struct States {
    states: Vec<State>,
}

enum State {
    /// This includes reducing and aggregating state: the value is the accumulator.
    Value {
        state: ValueState,
        entries: Vec<EntryId>,
    },
    List(ListState),
    Map(MapState),
    /// Operator state: see `operator_states`.
    Items(ItemList),
    Broadcast(BroadcastMap),
}

fn too_much(bytes_max: usize) -> Error {
    Error::new(
        code::MEMORY_LIMIT,
        format!("the state of the keys of one call has more than {bytes_max} bytes"),
    )
}

fn bad_output(message: impl Into<String>) -> Error {
    Error::new(code::BAD_OUTPUT, message)
}

impl States {
    pub(crate) fn new(
        descriptors: &[StateDescriptor],
        kind: KeyKind,
        key_groups: KeyGroupRange,
        max_parallelism: u32,
    ) -> States {
        let open = |descriptor: &StateDescriptor| {
            let (key, value, ttl) = (&descriptor.key, &descriptor.value, Ttl::of(descriptor));
            match descriptor.kind {
                StateKind::Value | StateKind::Reducing | StateKind::Aggregating => State::Value {
                    state: ValueState::new(value, kind, key_groups, max_parallelism, ttl),
                    entries: Vec::new(),
                },
                StateKind::List => State::List(ListState::new(
                    value,
                    kind,
                    key_groups,
                    max_parallelism,
                    ttl,
                )),
                StateKind::Map => State::Map(MapState::new(
                    key,
                    value,
                    kind,
                    key_groups,
                    max_parallelism,
                    ttl,
                )),
                StateKind::OperatorList | StateKind::UnionList => {
                    State::Items(ItemList::new(descriptor))
                }
                StateKind::Broadcast => State::Broadcast(BroadcastMap::new(descriptor)),
            }
        };
        States {
            states: descriptors.iter().map(open).collect(),
        }
    }

    /// Puts every state on the operator's disk, if it has one. `key` gives the types of the keys.
    ///
    /// # Errors
    /// The same as for [`OperatorContext::tier`].
    pub(crate) fn attach(
        &mut self,
        descriptors: &[StateDescriptor],
        key: &Value,
        context: &OperatorContext,
    ) -> Result<()> {
        let by_key =
            |(_, descriptor): &(&mut State, &StateDescriptor)| !descriptor.kind.is_operator_state();
        for (state, descriptor) in self.states.iter_mut().zip(descriptors).filter(by_key) {
            let tier = context.tier(&descriptor.name, &state_types(descriptor, key))?;
            match state {
                State::Value { state, .. } => *state.tier() = tier,
                State::List(state) => *state.tier() = tier,
                State::Map(state) => *state.tier() = tier,
                State::Items(_) | State::Broadcast(_) => {}
            }
        }
        Ok(())
    }

    /// Sets the time of states with a time to live, in the clock's ms.
    pub(crate) fn set_time(&mut self, now_ms: i64) {
        self.states.iter_mut().for_each(|state| match state {
            State::Value { state, .. } => state.set_time(now_ms),
            State::List(state) => state.set_time(now_ms),
            State::Map(state) => state.set_time(now_ms),
            State::Items(_) | State::Broadcast(_) => {}
        });
    }

    /// Looks at the next `n` entries of each state with a time to live, and removes the expired
    /// ones.
    pub(crate) fn sweep(&mut self, n: usize) {
        self.states.iter_mut().for_each(|state| match state {
            State::Value { state, .. } => state.sweep(n),
            State::List(state) => state.sweep(n),
            State::Map(state) => state.sweep(n),
            State::Items(_) | State::Broadcast(_) => {}
        });
    }

    /// Freezes every keyed state. `key` gives the types of the keys.
    pub(crate) fn freeze(
        &mut self,
        descriptors: &[StateDescriptor],
        key: &Value,
    ) -> Vec<KeyedSnapshot> {
        let freeze = |(state, descriptor): (&mut State, &StateDescriptor)| {
            let entries: Box<dyn streamrt_state::Frozen> = match state {
                State::Value { state, .. } => Box::new(state.freeze()),
                State::List(state) => Box::new(state.freeze()),
                State::Map(state) => Box::new(state.freeze()),
                State::Items(_) | State::Broadcast(_) => return None,
            };
            Some(KeyedSnapshot {
                name: descriptor.name.clone(),
                types: state_types(descriptor, key),
                entries,
            })
        };
        self.states
            .iter_mut()
            .zip(descriptors)
            .filter_map(freeze)
            .collect()
    }

    /// Freezes every operator state.
    pub(crate) fn freeze_lists(&self, descriptors: &[StateDescriptor]) -> Vec<ListSnapshot> {
        let freeze = |(state, descriptor): (&State, &StateDescriptor)| match state {
            State::Items(list) => list.freeze(descriptor),
            State::Broadcast(map) => map.freeze(descriptor),
            State::Value { .. } | State::List(_) | State::Map(_) => None,
        };
        self.states
            .iter()
            .zip(descriptors)
            .filter_map(freeze)
            .collect()
    }

    /// Takes back every state that a snapshot has. A state that has gained a time to live since
    /// then counts as accessed at `now_ms`.
    ///
    /// # Errors
    /// `Invalid` if a type has changed, `Data` if the bytes are damaged.
    pub(crate) fn restore(
        &mut self,
        descriptors: &[StateDescriptor],
        key: &Value,
        now_ms: i64,
        snapshot: &mut OperatorState,
    ) -> Result<()> {
        self.states
            .iter_mut()
            .zip(descriptors)
            .try_for_each(|(state, descriptor)| {
                let (name, types) = (&descriptor.name, state_types(descriptor, key));
                let mut keyed = |each: &mut EachRestored<'_>| {
                    snapshot.keyed_with_time_to_live(name, &types, now_ms, each)
                };
                match state {
                    State::Value { state, .. } => {
                        keyed(&mut |hash, key, _, value| state.restore(hash, key, value))
                    }
                    State::List(state) => {
                        keyed(&mut |hash, key, _, value| state.restore(hash, key, value))
                    }
                    State::Map(state) => {
                        keyed(&mut |hash, key, sub, value| state.restore(hash, key, sub, value))
                    }
                    State::Items(list) => list.restore(descriptor, snapshot),
                    State::Broadcast(map) => map.restore(descriptor, snapshot),
                }
            })
    }

    /// The value states of `keys`, one per descriptor of such a kind. Lists and maps of these keys
    /// can be read afterwards.
    ///
    /// # Errors
    /// `MEMORY_LIMIT` if one state of several keys has more than `bytes_max` bytes: fewer keys are
    /// to be tried. Also the errors of the disk.
    pub(crate) fn values(&mut self, keys: &KeyBuffer, bytes_max: usize) -> Result<Vec<StateIn>> {
        let mut values = Vec::new();
        let bytes_max = if keys.len() > 1 {
            bytes_max
        } else {
            usize::MAX
        };
        for (number, state) in self.states.iter_mut().enumerate() {
            match state {
                State::Value { state, .. } => state.prepare(keys.hashes(), keys.keys())?,
                State::List(state) => state.prepare(keys.hashes(), keys.keys())?,
                State::Map(state) => state.prepare(keys.hashes(), keys.keys())?,
                State::Items(_) | State::Broadcast(_) => {}
            }
            if let State::Value { state, entries } = state {
                if state.is_more_than(bytes_max, keys, entries) {
                    return Err(too_much(bytes_max));
                }
                let (columns, present) = state.get(keys, entries)?;
                values.push(StateIn {
                    number: number as u16,
                    values: columns,
                    present,
                    slots: None,
                });
            }
        }
        Ok(values)
    }

    /// Checks what a call wants to do to value state, so that [`States::apply`] cannot fail
    /// half-way.
    pub(crate) fn check(&self, outs: &[StateOut], n_slots: usize) -> Result<()> {
        for out in outs {
            let is_value = matches!(
                self.states.get(usize::from(out.number)),
                Some(State::Value { .. })
            );
            let n_actions = out.actions.as_ref().map_or(n_slots, Vec::len);
            if !is_value || out.values.num_rows() != n_slots || n_actions != n_slots {
                return Err(bad_output(format!(
                    "state {} came back for another number of slots than were sent",
                    out.number
                )));
            }
        }
        Ok(())
    }

    /// Makes checked outcomes and held-back writes the state. `keys` are those of the last
    /// [`States::values`].
    pub(crate) fn apply(&mut self, outs: &[StateOut], writes: Writes, keys: &KeyBuffer) {
        for out in outs {
            let State::Value { state, entries } = &mut self.states[usize::from(out.number)] else {
                continue;
            };
            let action = |slot: usize| {
                out.actions
                    .as_ref()
                    .map_or(action::SET, |actions| actions[slot])
            };
            let set = (0..keys.len())
                .filter(|&slot| action(slot) == action::SET)
                .map(|slot| (slot, slot));
            state.set(keys, entries, &out.values, set);
            (0..keys.len())
                .filter(|&slot| action(slot) == action::CLEAR)
                .for_each(|slot| state.clear(entries[slot]));
            if state.has_ttl() {
                (0..keys.len())
                    .filter(|&slot| action(slot) == action::READ)
                    .for_each(|slot| state.read(entries[slot]));
            }
        }
        self.apply_reads(writes.reads, keys);
        for ((number, slot), list) in writes.lists {
            self.states[number as usize].write_list(keys, slot as usize, list);
        }
        for ((number, slot), map) in writes.maps {
            self.states[number as usize].write_map(keys, slot as usize, map);
        }
    }

    fn apply_reads(&mut self, reads: Reads, keys: &KeyBuffer) {
        for (number, slot) in reads.lists {
            let State::List(state) = &mut self.states[number as usize] else {
                continue;
            };
            state.read(keys, slot as usize);
        }
        for (number, slot, (from, to)) in reads.maps {
            let State::Map(state) = &mut self.states[number as usize] else {
                continue;
            };
            let range = (
                from.as_ref().map(Vec::as_slice),
                to.as_ref().map(Vec::as_slice),
            );
            state.read(keys, slot as usize, range);
        }
    }
}

impl State {
    /// Writes come from a call that has checked that they are of the state's kind.
    fn write_list(&mut self, keys: &KeyBuffer, slot: usize, writes: ListWrites) {
        match self {
            State::List(state) => {
                if writes.cleared {
                    state.clear(keys, slot);
                }
                state.append(keys, slot, writes.appended.iter());
            }
            State::Items(list) => {
                if writes.cleared {
                    list.items.clear();
                }
                list.items
                    .extend(writes.appended.iter().map(<[u8]>::to_vec));
            }
            State::Value { .. } | State::Map(_) | State::Broadcast(_) => {}
        }
    }

    fn write_map(&mut self, keys: &KeyBuffer, slot: usize, writes: MapWrites) {
        match self {
            State::Map(state) => {
                if writes.cleared {
                    state.clear(keys, slot);
                }
                writes
                    .entries
                    .into_iter()
                    .for_each(|(key, value)| match value {
                        Some(value) => state.put(keys, slot, &key, &value),
                        None => state.remove(keys, slot, &key),
                    });
            }
            State::Broadcast(map) => {
                if writes.cleared {
                    map.entries.clear();
                }
                writes
                    .entries
                    .into_iter()
                    .for_each(|(key, value)| map.write(key, value));
            }
            State::Value { .. } | State::List(_) | State::Items(_) => {}
        }
    }

    /// Slots of the running call, which has `n_slots`; operator state has one in every call.
    fn n_slots(&self, n_slots: usize) -> usize {
        if matches!(self, State::Items(_) | State::Broadcast(_)) {
            1
        } else {
            n_slots
        }
    }
}
