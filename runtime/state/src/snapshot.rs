//! What a checkpoint keeps of an operator, and how it is divided for another parallelism.
//!
//! 1. An operator freezes its states on its own thread: a [`Frozen`] shares memory with the live
//!    state and never sees a later change.
//! 2. [`OperatorSnapshot::write`] turns them into bytes elsewhere, key group by key group, and
//!    returns the index of these bytes.
//! 3. [`OperatorState::assemble`] gives a new subtask its part: the key groups that it owns, and
//!    its share of the lists.
//!
//! The bytes are the canonical format, the same for every backend. A keyed state is, for each key
//! group, a run of entries, each of them three byte strings preceded by their lengths (LEB128): the
//! key in its canonical encoding; what distinguishes several entries of one key (the key within a
//! map, a window, a timer; otherwise empty); and the value. Invariant: every key is in the group
//! that its hash determines.
//!
//! # Source
//! Flink's `KeyGroupRangeAssignment` and `RoundRobinOperatorStateRepartitioner`.

use crate::disk_snapshot::DiskIndex;
use crate::tier::DiskChanges;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;
use streamrt_types::{Error, Result, code, key_group, murmur3_32};

/// Takes key, sub-key and value of an entry.
pub type EachEntry<'a> = dyn FnMut(&[u8], &[u8], &[u8]) + 'a;

/// A keyed state as it was at one moment.
pub trait Frozen: Send {
    /// Shows every entry: key, sub-key, value. The order is arbitrary, but the same every time.
    fn visit(&self, each: &mut EachEntry<'_>);

    /// For a state on a disk: `visit` shows only what has changed, all entries of a key one after
    /// the other, and this is the rest.
    fn take_changes(&mut self) -> Option<DiskChanges> {
        None
    }
}

/// Key, sub-key, value.
pub type StateEntry = (Vec<u8>, Vec<u8>, Vec<u8>);

/// Entries that were copied, for states that are small.
#[derive(Debug, Default)]
pub struct FrozenEntries(pub Vec<StateEntry>);

impl Frozen for FrozenEntries {
    fn visit(&self, each: &mut EachEntry<'_>) {
        self.0
            .iter()
            .for_each(|(key, sub, value)| each(key, sub, value));
    }
}

/// One keyed state of an operator.
pub struct KeyedSnapshot {
    /// Unique among the keyed states of the operator.
    pub name: String,
    /// What the bytes mean: kind and types. A restore with other types is refused.
    pub types: Value,
    pub entries: Box<dyn Frozen>,
}

/// How the items of a list find their subtask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ListMode {
    /// Each subtask gets its own back; after a change of parallelism, a contiguous share of all
    /// items in the old order.
    Split,
    /// Each subtask gets the items of all.
    Union,
    /// Each subtask has a copy; new subtask i gets that of old subtask `i mod p_old`.
    Broadcast,
}

/// One list of items of an operator, without keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListSnapshot {
    pub name: String,
    pub mode: ListMode,
    /// What the bytes of an item mean, for lists that user code declares; null for those of the
    /// engine.
    pub types: Value,
    pub items: Vec<Vec<u8>>,
}

/// Everything that a checkpoint keeps of one operator of one subtask.
#[derive(Default)]
pub struct OperatorSnapshot {
    pub keyed: Vec<KeyedSnapshot>,
    pub lists: Vec<ListSnapshot>,
}

/// Where the bytes of one operator of one subtask are in the subtask's object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OperatorIndex {
    pub uid: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keyed: Vec<KeyedIndex>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lists: Vec<ListIndex>,
    /// The states that are in files of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskIndex>,
}

impl OperatorIndex {
    pub fn is_empty(&self) -> bool {
        self.keyed.is_empty() && self.lists.is_empty() && self.disk.is_none()
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyedIndex {
    pub name: String,
    pub types: Value,
    /// Ascending; groups without entries are omitted.
    pub groups: Vec<GroupSpan>,
}

/// The entries of one key group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupSpan {
    pub group: u32,
    pub offset: u64,
    pub bytes: u64,
    pub entries: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListIndex {
    pub name: String,
    pub mode: ListMode,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub types: Value,
    pub offset: u64,
    pub bytes: u64,
    pub items: u64,
}

impl OperatorSnapshot {
    pub fn is_empty(&self) -> bool {
        self.keyed.is_empty() && self.lists.is_empty()
    }

    /// Appends everything to `object`, which becomes large, off the task's thread.
    pub fn write(self, uid: &str, max_parallelism: u32, object: &mut Vec<u8>) -> OperatorIndex {
        let keyed = self
            .keyed
            .into_iter()
            .map(|state| write_keyed(state, max_parallelism, object))
            .collect();
        let lists = self
            .lists
            .into_iter()
            .map(|list| write_list(list, object))
            .collect();
        OperatorIndex {
            uid: uid.to_owned(),
            keyed,
            lists,
            disk: None,
        }
    }
}

/// The first visit finds out how many bytes each group takes, the second puts every entry into its
/// place: no byte is copied twice, and the object has its full length at once. Memory that grows
/// step by step costs more than all the rest, because the system clears it.
fn write_keyed(state: KeyedSnapshot, max_parallelism: u32, object: &mut Vec<u8>) -> KeyedIndex {
    let group_of = |key: &[u8]| key_group(murmur3_32(key), max_parallelism) as usize;
    let mut spans: Vec<GroupSpan> = (0..max_parallelism)
        .map(|group| GroupSpan {
            group,
            offset: 0,
            bytes: 0,
            entries: 0,
        })
        .collect();
    state.entries.visit(&mut |key, sub, value| {
        let span = &mut spans[group_of(key)];
        span.bytes += [key, sub, value].map(stored_bytes).iter().sum::<usize>() as u64;
        span.entries += 1;
    });
    let mut ends = lay_out(&mut spans, object);
    state.entries.visit(&mut |key, sub, value| {
        let end = &mut ends[group_of(key)];
        [key, sub, value]
            .into_iter()
            .for_each(|part| *end += write_bytes(part, &mut object[*end..]));
    });
    spans.retain(|span| span.entries > 0);
    KeyedIndex {
        name: state.name,
        types: state.types,
        groups: spans,
    }
}

/// Gives every group its place after the others, and returns where it starts in `object`, which
/// gets zeros for all of them.
fn lay_out(spans: &mut [GroupSpan], object: &mut Vec<u8>) -> Vec<usize> {
    let mut end = object.len() as u64;
    let place = |span: &mut GroupSpan| {
        span.offset = end;
        end += span.bytes;
        span.offset as usize
    };
    let starts = spans.iter_mut().map(place).collect();
    match object.is_empty() {
        // Zeros from the system are not written once more.
        true => *object = vec![0; end as usize],
        false => object.resize(end as usize, 0),
    }
    starts
}

fn write_list(list: ListSnapshot, object: &mut Vec<u8>) -> ListIndex {
    let offset = object.len();
    list.items.iter().for_each(|item| put_bytes(item, object));
    let bytes = (object.len() - offset) as u64;
    ListIndex {
        name: list.name,
        mode: list.mode,
        types: list.types,
        offset: offset as u64,
        bytes,
        items: list.items.len() as u64,
    }
}

pub(crate) fn put_bytes(part: &[u8], bytes: &mut Vec<u8>) {
    let start = bytes.len();
    bytes.resize(start + stored_bytes(part), 0);
    write_bytes(part, &mut bytes[start..]);
}

/// Like [`put_bytes`], with both parts as one byte string.
pub(crate) fn put_joined(front: &[u8], rest: &[u8], bytes: &mut Vec<u8>) {
    match front {
        [] => put_bytes(rest, bytes),
        front => put_bytes(&[front, rest].concat(), bytes),
    }
}

/// The number of bytes that a byte string takes, including its length.
fn stored_bytes(part: &[u8]) -> usize {
    let bits = usize::BITS - (part.len() | 1).leading_zeros();
    bits.div_ceil(7) as usize + part.len()
}

/// Writes a byte string, preceded by its length, to the front of `bytes`, and returns how many
/// bytes it took.
#[inline]
fn write_bytes(part: &[u8], bytes: &mut [u8]) -> usize {
    let (mut length, mut at) = (part.len(), 0);
    while length >= 0x80 {
        bytes[at] = length as u8 | 0x80;
        length >>= 7;
        at += 1;
    }
    bytes[at] = length as u8;
    let end = at + 1 + part.len();
    bytes[at + 1..end].copy_from_slice(part);
    end
}

/// Takes one byte string off; `None` if the bytes end too soon.
pub(crate) fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let mut length = 0u64;
    for shift in (0..35).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        length |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            let (part, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
            *bytes = rest;
            return Some(part);
        }
    }
    None
}

pub(super) fn damaged(uid: &str, name: &str) -> Error {
    Error::new(
        code::SNAPSHOT_DAMAGED,
        format!("the snapshot of state `{name}` of operator `{uid}` is damaged"),
    )
}

/// What a subtask wrote: its object and the index of one operator in it.
#[derive(Clone)]
pub struct Part {
    pub object: Arc<Vec<u8>>,
    pub index: OperatorIndex,
}

impl Part {
    pub(super) fn bytes(&self, name: &str, offset: u64, bytes: u64) -> Result<&[u8]> {
        let range = usize::try_from(offset)
            .ok()
            .zip(usize::try_from(bytes).ok())
            .and_then(|(at, n)| Some(at..at.checked_add(n)?));
        range
            .and_then(|range| self.object.get(range))
            .ok_or_else(|| damaged(&self.index.uid, name))
    }

    /// The items of a list; none if there is no such list.
    ///
    /// # Errors
    /// `Data` if the bytes are damaged.
    pub fn list(&self, name: &str) -> Result<Vec<Vec<u8>>> {
        self.index
            .lists
            .iter()
            .find(|list| list.name == name)
            .map_or(Ok(Vec::new()), |list| self.items(list))
    }

    fn items(&self, list: &ListIndex) -> Result<Vec<Vec<u8>>> {
        let mut bytes = self.bytes(&list.name, list.offset, list.bytes)?;
        let mut items = Vec::new();
        for _ in 0..list.items {
            items.push(
                take_bytes(&mut bytes)
                    .ok_or_else(|| damaged(&self.index.uid, &list.name))?
                    .to_vec(),
            );
        }
        Ok(items)
    }
}
