//! The states of one call: what a function reads and writes of lists and maps while it runs.

use super::{State, States, bad_output};
use crate::function::StateAccess;
use crate::room::{Room, SCAN_BYTES};
use arrow_array::{ArrayRef, RecordBatch};
use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use streamrt_state::{EncodedRows, KeyBuffer, KeyKind, RowCodec};
use streamrt_types::{Error, Result, code};
use streamrt_wit::codes::action;

/// What a call has written to lists and maps, by (state, slot).
#[derive(Default)]
pub(crate) struct Writes {
    pub(super) lists: HashMap<(u32, u32), ListWrites>,
    pub(super) maps: HashMap<(u32, u32), MapWrites>,
    pub(super) reads: Reads,
}

/// What a call has read of lists and maps with a time to live, by (state, slot).
#[derive(Default)]
pub(super) struct Reads {
    pub(super) lists: BTreeSet<(u32, u32)>,
    pub(super) maps: Vec<(u32, u32, KeyRange)>,
}

/// Key and value, encoded.
type Pair = (Vec<u8>, Vec<u8>);

/// A part of a map, by its encoded keys.
type KeyRange = (Bound<Vec<u8>>, Bound<Vec<u8>>);

#[derive(Default)]
pub(super) struct ListWrites {
    /// Whether what was there before the call is gone.
    pub(super) cleared: bool,
    pub(super) appended: EncodedRows,
}

#[derive(Default)]
pub(super) struct MapWrites {
    pub(super) cleared: bool,
    /// `None` means that the entry is gone.
    pub(super) entries: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

/// The states as one call sees them. It owns them, because a guest's store can hold only what it
/// owns.
pub(crate) struct CallStates {
    pub states: States,
    /// The keys of the call's slots.
    pub keys: KeyBuffer,
    pub writes: Writes,
    /// Whether the call may write broadcast state.
    pub may_broadcast: bool,
}

impl CallStates {
    /// The states in the box that goes through calls.
    pub(crate) fn of(access: &mut Box<dyn StateAccess>) -> &mut CallStates {
        (&mut **access as &mut dyn Any)
            .downcast_mut()
            .expect("a call gives back the box that it got")
    }

    /// States and keys as they are outside calls.
    pub(crate) fn new(states: States, kind: KeyKind) -> CallStates {
        CallStates {
            states,
            keys: KeyBuffer::new(kind),
            writes: Writes::default(),
            may_broadcast: true,
        }
    }

    fn check_slot(&mut self, number: u32, slot: u32) -> Result<()> {
        let n_slots = self.keys.len();
        let known = (slot as usize) < find(&mut self.states, number)?.n_slots(n_slots);
        if known {
            Ok(())
        } else {
            Err(bad_output(format!("slot {slot} is not of this call")))
        }
    }

    /// Adds the encoded elements of a list to `rows`, with what the call has done to it. They are
    /// not copied before there is room for them.
    fn elements(
        &mut self,
        number: u32,
        slot: u32,
        room: &mut Room,
        rows: &mut EncodedRows,
    ) -> Result<()> {
        self.check_slot(number, slot)?;
        let writes = self.writes.lists.get(&(number, slot));
        let cleared = writes.is_some_and(|writes| writes.cleared);
        writes
            .iter()
            .flat_map(|writes| writes.appended.iter())
            .try_for_each(|element| room.take(1, element.len()))?;
        match find(&mut self.states, number)? {
            State::Items(_) | State::List(_) if cleared => {}
            State::Items(list) => {
                list.items
                    .iter()
                    .try_for_each(|element| room.take(1, element.len()))?;
                list.items.iter().for_each(|element| rows.push(element));
            }
            State::List(state) => {
                let (n, n_bytes) = state.extent(&self.keys, slot as usize);
                room.take(n, n_bytes)?;
                state.get(&self.keys, slot as usize, rows);
            }
            _ => return Err(wrong_kind(number)),
        }
        writes
            .iter()
            .flat_map(|writes| writes.appended.iter())
            .for_each(|element| rows.push(element));
        if matches!(find(&mut self.states, number)?, State::List(state) if state.has_ttl()) {
            self.writes.reads.lists.insert((number, slot));
        }
        Ok(())
    }

    /// The encoded value of a map's entry, with what the call has done to it.
    fn entry(&mut self, number: u32, slot: u32, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.check_slot(number, slot)?;
        if let Some(writes) = self.writes.maps.get(&(number, slot)) {
            match writes.entries.get(key) {
                Some(written) => return Ok(written.clone()),
                None if writes.cleared => return Ok(None),
                None => {}
            }
        }
        let state = match find(&mut self.states, number)? {
            State::Map(state) => state,
            State::Broadcast(map) => return Ok(map.entries.get(key).cloned()),
            _ => return Err(wrong_kind(number)),
        };
        if state.has_ttl() {
            let read = (Bound::Included(key.to_vec()), Bound::Included(key.to_vec()));
            self.writes.reads.maps.push((number, slot, read));
        }
        Ok(state
            .get(&self.keys, slot as usize, key)
            .map(<[u8]>::to_vec))
    }

    /// Up to `limit` entries of a map that follow `after`, in order, merged from the state and the
    /// call's writes; fewer if they are large. Also the key up to which all were looked at, if
    /// there may be more.
    fn entries(
        &mut self,
        number: u32,
        slot: u32,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<(Vec<Pair>, Option<Vec<u8>>)> {
        self.check_slot(number, slot)?;
        let nothing = MapWrites::default();
        let writes = self.writes.maps.get(&(number, slot)).unwrap_or(&nothing);
        // Each written entry can hide one old entry at most.
        let n_old = if writes.cleared {
            0
        } else {
            limit + writes.entries.len()
        };
        let mut merged: BTreeMap<Vec<u8>, Option<Vec<u8>>> = BTreeMap::new();
        let (mut n_bytes, mut cut) = (0, None);
        let each = |key: &[u8], value: &[u8]| {
            if merged.len() == n_old {
                return ControlFlow::Break(());
            }
            merged.insert(key.to_vec(), Some(value.to_vec()));
            n_bytes += key.len() + value.len();
            if n_bytes < SCAN_BYTES {
                return ControlFlow::Continue(());
            }
            cut = Some(key.to_vec());
            ControlFlow::Break(())
        };
        let has_ttl = match find(&mut self.states, number)? {
            State::Map(state) => {
                state.scan(&self.keys, slot as usize, after, each);
                state.has_ttl()
            }
            State::Broadcast(map) => {
                map.scan(after, each);
                false
            }
            _ => return Err(wrong_kind(number)),
        };
        let is_behind = |key: &[u8]| {
            after.is_none_or(|after| key > after) && cut.as_deref().is_none_or(|cut| key <= cut)
        };
        merged.extend(
            writes
                .entries
                .iter()
                .filter(|(key, _)| is_behind(key))
                .map(|(key, value)| (key.clone(), value.clone())),
        );
        let entries: Vec<Pair> = merged
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)))
            .take(limit)
            .collect();
        let last = entries
            .last()
            .filter(|_| entries.len() == limit)
            .map(|(key, _)| key.clone())
            .or(cut);
        if has_ttl {
            let read = (
                after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.to_vec())),
                last.clone().map_or(Bound::Unbounded, Bound::Included),
            );
            self.writes.reads.maps.push((number, slot, read));
        }
        Ok((entries, last.filter(|_| limit > 0)))
    }

    fn put_list(
        &mut self,
        number: u32,
        slots: &[u32],
        actions: &[u8],
        columns: &RecordBatch,
    ) -> Result<()> {
        let codec = list_codec(&mut self.states, number)?.clone();
        check_types(&codec, columns.columns(), number)?;
        for (row, (&slot, &what)) in slots.iter().zip(actions).enumerate() {
            self.check_slot(number, slot)?;
            let writes = self.writes.lists.entry((number, slot)).or_default();
            match what {
                action::APPEND | action::SET => {
                    writes.appended.encode(&codec, columns.columns(), row)
                }
                action::CLEAR | action::CLEAR_SLOT => {
                    *writes = ListWrites {
                        cleared: true,
                        appended: EncodedRows::default(),
                    }
                }
                other => {
                    return Err(bad_output(format!(
                        "list state {number} knows no action {other}"
                    )));
                }
            }
        }
        Ok(())
    }

    fn put_map(
        &mut self,
        number: u32,
        slots: &[u32],
        actions: &[u8],
        columns: &RecordBatch,
    ) -> Result<()> {
        let (key_codec, value_codec) = map_codecs(&mut self.states, number)?;
        let (key_codec, value_codec) = (key_codec.clone(), value_codec.clone());
        let (keys, values) = columns
            .columns()
            .split_at_checked(key_codec.schema().fields().len())
            .ok_or_else(|| wrong_columns(number))?;
        check_types(&key_codec, keys, number)?;
        check_types(&value_codec, values, number)?;
        for (row, (&slot, &what)) in slots.iter().zip(actions).enumerate() {
            self.check_slot(number, slot)?;
            let writes = self.writes.maps.entry((number, slot)).or_default();
            let key = encoded(&key_codec, keys, row);
            match what {
                action::SET => drop(
                    writes
                        .entries
                        .insert(key, Some(encoded(&value_codec, values, row))),
                ),
                action::CLEAR => drop(writes.entries.insert(key, None)),
                action::CLEAR_SLOT => {
                    *writes = MapWrites {
                        cleared: true,
                        entries: BTreeMap::new(),
                    }
                }
                other => {
                    return Err(bad_output(format!(
                        "map state {number} knows no action {other}"
                    )));
                }
            }
        }
        Ok(())
    }
}

fn encoded(codec: &RowCodec, columns: &[ArrayRef], row: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec.encode(columns, row, &mut bytes);
    bytes
}

fn find(states: &mut States, number: u32) -> Result<&mut State> {
    states
        .states
        .get_mut(number as usize)
        .ok_or_else(|| bad_output(format!("there is no state {number}")))
}

fn wrong_kind(number: u32) -> Error {
    bad_output(format!(
        "state {number} is of another kind than the call wants"
    ))
}

fn only_broadcast_side(number: u32) -> Error {
    bad_output(format!(
        "broadcast state {number} is written for a row that was not broadcast: only rows of the second input may write it"
    ))
}

fn wrong_columns(number: u32) -> Error {
    bad_output(format!(
        "the columns for state {number} are not those of its descriptor"
    ))
}

fn list_codec(states: &mut States, number: u32) -> Result<&RowCodec> {
    match find(states, number)? {
        State::List(state) => Ok(state.codec()),
        State::Items(list) => Ok(&list.codec),
        _ => Err(wrong_kind(number)),
    }
}

fn map_codecs(states: &mut States, number: u32) -> Result<(&RowCodec, &RowCodec)> {
    match find(states, number)? {
        State::Map(state) => Ok((state.key_codec(), state.value_codec())),
        State::Broadcast(map) => Ok((&map.key_codec, &map.value_codec)),
        _ => Err(wrong_kind(number)),
    }
}

fn check_types(codec: &RowCodec, columns: &[ArrayRef], number: u32) -> Result<()> {
    let fields = codec.schema().fields();
    let fit = fields.len() == columns.len()
        && fields
            .iter()
            .zip(columns)
            .all(|(field, column)| field.data_type() == column.data_type());
    if fit {
        Ok(())
    } else {
        Err(wrong_columns(number))
    }
}

fn decoded(codec: &RowCodec, rows: &[Vec<u8>]) -> Result<RecordBatch> {
    codec.decode(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

/// Columns of the map's key, followed by those of its value.
fn joined(keys: &RecordBatch, values: &RecordBatch) -> Result<RecordBatch> {
    let fields: Vec<_> = keys
        .schema_ref()
        .fields()
        .iter()
        .chain(values.schema_ref().fields())
        .cloned()
        .collect();
    let columns = keys
        .columns()
        .iter()
        .chain(values.columns())
        .cloned()
        .collect();
    let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(values.num_rows()));
    RecordBatch::try_new_with_options(
        Arc::new(arrow_schema::Schema::new(fields)),
        columns,
        &options,
    )
    .map_err(|e| Error::internal("entries of a map do not make columns").with_source(e))
}

impl StateAccess for CallStates {
    fn list(&mut self, number: u32, slots: &[u32]) -> Result<(RecordBatch, Vec<u32>)> {
        let mut elements = EncodedRows::default();
        let mut offsets = vec![0];
        let mut room = Room::new(number);
        for &slot in slots {
            self.elements(number, slot, &mut room, &mut elements)?;
            offsets.push(
                u32::try_from(elements.len()).map_err(|_| {
                    Error::new(code::BATCH_LIMIT, "lists of more than 2^32 elements")
                })?,
            );
        }
        Ok((
            list_codec(&mut self.states, number)?.decode(&elements.iter().collect::<Vec<_>>())?,
            offsets,
        ))
    }

    fn map(
        &mut self,
        number: u32,
        slots: &[u32],
        keys: &RecordBatch,
    ) -> Result<(RecordBatch, Vec<u8>)> {
        let codec = map_codecs(&mut self.states, number)?.0.clone();
        check_types(&codec, keys.columns(), number)?;
        let mut values = Vec::with_capacity(slots.len());
        let mut present = Vec::with_capacity(slots.len());
        let mut room = Room::new(number);
        for (row, &slot) in slots.iter().enumerate() {
            let value = self.entry(number, slot, &encoded(&codec, keys.columns(), row))?;
            room.take(1, value.as_ref().map_or(0, Vec::len))?;
            present.push(u8::from(value.is_some()));
            values.push(value.unwrap_or_default());
        }
        Ok((
            decoded(map_codecs(&mut self.states, number)?.1, &values)?,
            present,
        ))
    }

    fn put(
        &mut self,
        number: u32,
        slots: &[u32],
        actions: &[u8],
        columns: &RecordBatch,
    ) -> Result<()> {
        if slots.len() != actions.len() || slots.len() != columns.num_rows() {
            return Err(wrong_columns(number));
        }
        match find(&mut self.states, number)? {
            State::Broadcast(_) if !self.may_broadcast => Err(only_broadcast_side(number)),
            State::List(_) | State::Items(_) => self.put_list(number, slots, actions, columns),
            State::Map(_) | State::Broadcast(_) => self.put_map(number, slots, actions, columns),
            State::Value { .. } => Err(wrong_kind(number)),
        }
    }

    fn scan(
        &mut self,
        number: u32,
        slot: u32,
        after: &[u8],
        limit: usize,
    ) -> Result<(RecordBatch, Option<Vec<u8>>)> {
        // A cursor is a byte and the last key, so that an empty key is not mistaken for the
        // beginning.
        let last = after.split_first().map(|(_, key)| key);
        let (entries, last) = self.entries(number, slot, last, limit)?;
        let (keys, values): (Vec<_>, Vec<_>) = entries.into_iter().unzip();
        let cursor = last.map(|key| [&[1], key.as_slice()].concat());
        let (key_codec, value_codec) = map_codecs(&mut self.states, number)?;
        Ok((
            joined(&decoded(key_codec, &keys)?, &decoded(value_codec, &values)?)?,
            cursor,
        ))
    }
}
