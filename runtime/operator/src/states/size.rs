//! How much the states of a function hold, for people and for tests.

use super::{State, States};
use streamrt_state::Resident;

impl States {
    /// The approximate number of bytes of memory that all states take.
    pub(crate) fn used_bytes(&self) -> usize {
        let of_state = |state: &State| match state {
            State::Value { state, .. } => state.used_bytes(),
            State::List(state) => state.used_bytes(),
            State::Map(state) => state.used_bytes(),
            State::Items(list) => list.used_bytes(),
            State::Broadcast(map) => map.used_bytes(),
        };
        self.states.iter().map(of_state).sum()
    }

    /// The number of keys that each state holds, expired ones included.
    #[cfg(test)]
    pub(crate) fn n_keys(&self) -> Vec<usize> {
        let n_keys = |state: &State| match state {
            State::Value { state, .. } => state.len(),
            State::List(state) => state.len(),
            State::Map(state) => state.len(),
            State::Items(_) | State::Broadcast(_) => 0,
        };
        self.states.iter().map(n_keys).collect()
    }
}
