//! Operator state of user code: a list or a map that belongs to a subtask and not to a key.
//!
//! A list is redistributed when the parallelism changes, or given to all; a map is broadcast state,
//! of which every subtask keeps a copy. Both are small, so a snapshot copies them. Invariant: an
//! entry lies under its own key, so a map's copy is the same in whatever order it was written.
//!
//! # Source
//! Flink's `PartitionableListState` and `HeapBroadcastState`.

use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use streamrt_state::{ListMode, ListSnapshot, OperatorState, RowCodec};
use streamrt_types::state_types::state_types;
use streamrt_types::{Error, Result, code};
use streamrt_wit::{StateDescriptor, StateKind};

/// Elements in the order in which they were added, encoded.
pub(crate) struct ItemList {
    pub codec: RowCodec,
    pub items: Vec<Vec<u8>>,
}

/// Encoded values by encoded key.
pub(crate) struct BroadcastMap {
    pub key_codec: RowCodec,
    pub value_codec: RowCodec,
    pub entries: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// How the items of operator state find their subtask again; `None` for keyed state.
pub(crate) fn list_mode(kind: StateKind) -> Option<ListMode> {
    match kind {
        StateKind::OperatorList => Some(ListMode::Split),
        StateKind::UnionList => Some(ListMode::Union),
        StateKind::Broadcast => Some(ListMode::Broadcast),
        StateKind::Value
        | StateKind::List
        | StateKind::Map
        | StateKind::Reducing
        | StateKind::Aggregating => None,
    }
}

impl ItemList {
    /// The approximate number of bytes of memory that it takes.
    pub(crate) fn used_bytes(&self) -> usize {
        self.items
            .iter()
            .map(|item| item.len() + size_of::<Vec<u8>>())
            .sum()
    }

    pub(crate) fn new(descriptor: &StateDescriptor) -> ItemList {
        ItemList {
            codec: RowCodec::new(&descriptor.value),
            items: Vec::new(),
        }
    }

    pub(crate) fn freeze(&self, descriptor: &StateDescriptor) -> Option<ListSnapshot> {
        snapshot(descriptor, self.items.clone())
    }

    /// # Errors
    /// `Invalid` if the snapshot has another kind or other types, `Data` if an item is damaged.
    pub(crate) fn restore(
        &mut self,
        descriptor: &StateDescriptor,
        state: &mut OperatorState,
    ) -> Result<()> {
        self.items = taken(descriptor, state)?;
        self.items
            .iter()
            .try_for_each(|item| self.codec.check(item))
    }
}

impl BroadcastMap {
    /// The approximate number of bytes of memory that it takes.
    pub(crate) fn used_bytes(&self) -> usize {
        self.entries
            .iter()
            .map(|(key, value)| key.len() + value.len() + 2 * size_of::<Vec<u8>>())
            .sum()
    }

    pub(crate) fn new(descriptor: &StateDescriptor) -> BroadcastMap {
        let (key_codec, value_codec) = (
            RowCodec::of_keys(&descriptor.key),
            RowCodec::new(&descriptor.value),
        );
        BroadcastMap {
            key_codec,
            value_codec,
            entries: BTreeMap::new(),
        }
    }

    /// Shows the entries that follow `after`, in the order of their keys, until `each` breaks off.
    pub(crate) fn scan(
        &self,
        after: Option<&[u8]>,
        mut each: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        // `each` knows that it broke off.
        let _ = self
            .entries
            .range::<[u8], _>((from, Bound::Unbounded))
            .try_for_each(|(key, value)| each(key, value));
    }

    pub(crate) fn write(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        match value {
            Some(value) => drop(self.entries.insert(key, value)),
            None => drop(self.entries.remove(&key)),
        }
    }

    pub(crate) fn freeze(&self, descriptor: &StateDescriptor) -> Option<ListSnapshot> {
        let item = |(key, value): (&Vec<u8>, &Vec<u8>)| {
            [&(key.len() as u32).to_le_bytes()[..], key, value].concat()
        };
        snapshot(descriptor, self.entries.iter().map(item).collect())
    }

    /// # Errors
    /// `Invalid` if the snapshot has another kind or other types, `Data` if an entry is damaged.
    pub(crate) fn restore(
        &mut self,
        descriptor: &StateDescriptor,
        state: &mut OperatorState,
    ) -> Result<()> {
        for item in taken(descriptor, state)? {
            let (key, value) = entry(&item).ok_or_else(|| damaged(&descriptor.name))?;
            self.key_codec.check(key)?;
            self.value_codec.check(value)?;
            self.entries.insert(key.to_vec(), value.to_vec());
        }
        Ok(())
    }
}

/// Key and value of an item: the key follows its length.
fn entry(item: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = item.split_first_chunk()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}

fn damaged(name: &str) -> Error {
    Error::new(
        code::SNAPSHOT_DAMAGED,
        format!("the snapshot of broadcast state `{name}` is damaged"),
    )
}

fn snapshot(descriptor: &StateDescriptor, items: Vec<Vec<u8>>) -> Option<ListSnapshot> {
    let mode = list_mode(descriptor.kind)?;
    Some(ListSnapshot {
        name: descriptor.name.clone(),
        mode,
        types: state_types(descriptor, &Value::Null),
        items,
    })
}

fn taken(descriptor: &StateDescriptor, state: &mut OperatorState) -> Result<Vec<Vec<u8>>> {
    match list_mode(descriptor.kind) {
        Some(mode) => state.typed_list(
            &descriptor.name,
            mode,
            &state_types(descriptor, &Value::Null),
        ),
        None => Ok(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use streamrt_state::{OperatorSnapshot, Part, Share};
    use streamrt_types::KeyGroupRange;
    use streamrt_wit::{DataType, Field, TtlUpdate, TtlVisibility};

    fn descriptor(kind: StateKind, value: DataType) -> StateDescriptor {
        let columns = |data_type| vec![Field::new("c", data_type)];
        let key = if kind == StateKind::Broadcast {
            columns(DataType::String)
        } else {
            Vec::new()
        };
        let (ttl_update, ttl_visibility) = (TtlUpdate::default(), TtlVisibility::default());
        StateDescriptor {
            name: "s".into(),
            kind,
            key,
            value: columns(value),
            ttl_ms: None,
            ttl_update,
            ttl_visibility,
        }
    }

    fn restored(list: ListSnapshot, subtask: u32, parallelism: u32) -> OperatorState {
        let mut object = Vec::new();
        let index = OperatorSnapshot {
            lists: vec![list],
            ..OperatorSnapshot::default()
        }
        .write("op", 128, &mut object);
        let share = Share {
            subtask,
            parallelism,
            key_groups: KeyGroupRange::all(128),
            max_parallelism: 128,
        };
        OperatorState::assemble(
            "op",
            &[Some(Part {
                object: Arc::new(object),
                index,
            })],
            share,
        )
        .unwrap()
    }

    /// A row of one 64-bit number, as the codec writes it.
    fn number(n: i64) -> Vec<u8> {
        let column: arrow_array::ArrayRef = Arc::new(arrow_array::Int64Array::from(vec![n]));
        let mut row = Vec::new();
        RowCodec::new(&vec![Field::new("c", DataType::I64)]).encode(&[column], 0, &mut row);
        row
    }

    fn text(text: &str) -> Vec<u8> {
        let column: arrow_array::ArrayRef = Arc::new(arrow_array::StringArray::from(vec![text]));
        let mut row = Vec::new();
        RowCodec::new(&vec![Field::new("c", DataType::String)]).encode(&[column], 0, &mut row);
        row
    }

    #[test]
    fn a_map_comes_back_in_every_subtask_and_is_scanned_in_order() {
        let declared = descriptor(StateKind::Broadcast, DataType::I64);
        let mut map = BroadcastMap::new(&declared);
        for (key, value) in [("b", Some(2)), ("a", Some(1)), ("c", Some(3)), ("b", None)] {
            map.write(text(key), value.map(number));
        }
        for subtask in 0..3 {
            let mut again = BroadcastMap::new(&declared);
            again
                .restore(
                    &declared,
                    &mut restored(map.freeze(&declared).unwrap(), subtask, 3),
                )
                .unwrap();
            let mut found = Vec::new();
            again.scan(Some(&text("a")), |key, value| {
                found.push((key.to_vec(), value.to_vec()));
                ControlFlow::Continue(())
            });
            assert_eq!(
                (again.entries.len(), found),
                (2, vec![(text("c"), number(3))])
            );
        }
    }

    /// Restores what `declared` has frozen as `wanted`, and compares the code of the refusal.
    fn check(
        declared: StateKind,
        wanted: StateKind,
        value: DataType,
        items: &[Vec<u8>],
        code: Option<streamrt_types::Code>,
    ) {
        let frozen = snapshot(&descriptor(declared, DataType::I64), items.to_vec()).unwrap();
        let (wanted, mut state) = (descriptor(wanted, value), restored(frozen, 0, 1));
        let outcome = match wanted.kind {
            StateKind::Broadcast => BroadcastMap::new(&wanted).restore(&wanted, &mut state),
            _ => ItemList::new(&wanted).restore(&wanted, &mut state),
        };
        assert_eq!(
            outcome.err().map(|error| error.code().id),
            code.map(|code| code.id)
        );
    }

    #[test]
    fn what_is_of_another_kind_or_type_or_damaged_is_refused() {
        use StateKind::{Broadcast, OperatorList, UnionList};
        check(UnionList, UnionList, DataType::I64, &[number(1)], None);
        check(
            UnionList,
            OperatorList,
            DataType::I64,
            &[number(1)],
            Some(code::STATE_TYPES),
        );
        check(
            UnionList,
            UnionList,
            DataType::String,
            &[number(1)],
            Some(code::STATE_TYPES),
        );
        check(
            UnionList,
            UnionList,
            DataType::I64,
            &[b"short".to_vec()],
            Some(code::SNAPSHOT_DAMAGED),
        );
        check(
            Broadcast,
            Broadcast,
            DataType::I64,
            &[vec![9, 0, 0, 0, 1]],
            Some(code::SNAPSHOT_DAMAGED),
        );
        check(
            Broadcast,
            Broadcast,
            DataType::I64,
            &[vec![9]],
            Some(code::SNAPSHOT_DAMAGED),
        );
    }
}
