//! What a checkpoint keeps of an operator, and how it is cut anew for another parallelism.
//!
//! 1. An operator freezes its states on its own thread: a [`Frozen`] shares memory with the live
//!    state and never sees a later change.
//! 2. [`OperatorSnapshot::write`] turns them into bytes elsewhere, key group by key group, and
//!    returns the index of these bytes.
//! 3. [`OperatorState::assemble`] gives a new subtask its part: the key groups that it owns, and
//!    its share of the lists.
//!
//! The bytes are the canonical format, the same for every backend. A keyed state is, for each key
//! group, a run of entries, each of them three byte strings behind their lengths (LEB128): the key
//! in its canonical encoding; what tells several entries of one key apart (the key within a map, a
//! window, a timer; else empty); and the value. Invariant: every key lies in the group that its
//! hash says.
//!
//! # Source
//! Flink's `KeyGroupRangeAssignment` and `RoundRobinOperatorStateRepartitioner`.

use crate::disk_snapshot::DiskIndex;
use crate::restamp::Restamp;
use crate::tier::DiskChanges;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use streamrt_types::{Error, KeyGroupRange, Result, code, key_group, murmur3_32};

/// Takes key, sub-key and value of an entry.
pub type EachEntry<'a> = dyn FnMut(&[u8], &[u8], &[u8]) + 'a;

/// A keyed state as it was at one moment.
pub trait Frozen: Send {
    /// Shows every entry: key, sub-key, value. The order means nothing, but it is the same every
    /// time.
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

/// Where the bytes of one operator of one subtask stand in the subtask's object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OperatorIndex {
    pub uid: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keyed: Vec<KeyedIndex>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lists: Vec<ListIndex>,
    /// Its states that are in files of their own.
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
    /// Ascending; groups without entries are left out.
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

    /// Appends everything to `object`, which gets long, off the task's thread.
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
/// place: no byte is copied twice, and the object has its length at once. Memory that grows step by
/// step costs more than all the rest, because the system clears it.
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

/// Gives every group its place behind the others, and returns where it starts in `object`, which
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
        // Zeros that the system gives are not written once more.
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

/// As [`put_bytes`] of both parts as one.
pub(crate) fn put_joined(front: &[u8], rest: &[u8], bytes: &mut Vec<u8>) {
    match front {
        [] => put_bytes(rest, bytes),
        front => put_bytes(&[front, rest].concat(), bytes),
    }
}

/// Bytes that a byte string takes, with its length.
fn stored_bytes(part: &[u8]) -> usize {
    let bits = usize::BITS - (part.len() | 1).leading_zeros();
    bits.div_ceil(7) as usize + part.len()
}

/// Writes a byte string behind its length to the front of `bytes`, and returns how many bytes it
/// took.
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

fn damaged(uid: &str, name: &str) -> Error {
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
    fn bytes(&self, name: &str, offset: u64, bytes: u64) -> Result<&[u8]> {
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

/// The place of a new subtask.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    pub subtask: u32,
    pub parallelism: u32,
    pub key_groups: KeyGroupRange,
    pub max_parallelism: u32,
}

/// The part of a snapshot that one operator of one subtask takes back. Each state is taken once;
/// what is left at the end has no owner any more, and [`OperatorState::check_taken`] says so.
#[derive(Default)]
pub struct OperatorState {
    uid: String,
    key_groups: Option<(KeyGroupRange, u32)>,
    keyed: BTreeMap<String, Vec<Part>>,
    /// The states that are on the operator's disk already, with their types.
    on_disk: BTreeMap<String, Value>,
    lists: BTreeMap<String, List>,
}

/// This subtask's share of a list.
struct List {
    mode: ListMode,
    types: Value,
    items: Vec<Vec<u8>>,
}

impl OperatorState {
    /// `parts` are those of the operator's old subtasks, by subtask; `None` for one that had
    /// finished.
    ///
    /// # Errors
    /// `Data` if the bytes are damaged.
    pub fn assemble(uid: &str, parts: &[Option<Part>], share: Share) -> Result<OperatorState> {
        let mut state = OperatorState {
            uid: uid.to_owned(),
            key_groups: Some((share.key_groups, share.max_parallelism)),
            ..Self::default()
        };
        for part in parts.iter().flatten() {
            for keyed in &part.index.keyed {
                state
                    .keyed
                    .entry(keyed.name.clone())
                    .or_default()
                    .push(part.clone());
            }
            let on_disk = part.index.disk.iter().flat_map(|disk| &disk.states);
            state
                .on_disk
                .extend(on_disk.map(|state| (state.name.clone(), state.types.clone())));
        }
        let lists = parts.iter().flatten().flat_map(|part| &part.index.lists);
        let named: BTreeMap<&str, &ListIndex> =
            lists.map(|list| (list.name.as_str(), list)).collect();
        for (name, ListIndex { mode, types, .. }) in named {
            let items = share_of(name, *mode, parts, share)?;
            state.lists.insert(
                name.to_owned(),
                List {
                    mode: *mode,
                    types: types.clone(),
                    items,
                },
            );
        }
        Ok(state)
    }

    pub fn is_empty(&self) -> bool {
        self.keyed.is_empty() && self.lists.is_empty() && self.on_disk.is_empty()
    }

    /// Shows every entry of a keyed state that belongs to this subtask: hash, key, sub-key, value.
    /// Nothing if there is no such state, or it is on the operator's disk already.
    ///
    /// # Errors
    /// `Invalid` if the snapshot has other `types`, `Data` if it is damaged, or what `each` says.
    pub fn keyed(
        &mut self,
        name: &str,
        types: &Value,
        each: impl FnMut(u32, &[u8], &[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        self.take_keyed(name, types, None, each)
    }

    /// As [`OperatorState::keyed`], of a state that may have got or lost its time to live: entries
    /// come as the state keeps them now, accessed at `now_ms`.
    ///
    /// # Errors
    /// As [`OperatorState::keyed`].
    pub fn keyed_with_time_to_live(
        &mut self,
        name: &str,
        types: &Value,
        now_ms: i64,
        each: impl FnMut(u32, &[u8], &[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        self.take_keyed(name, types, Some(now_ms), each)
    }

    fn take_keyed(
        &mut self,
        name: &str,
        types: &Value,
        now_ms: Option<i64>,
        mut each: impl FnMut(u32, &[u8], &[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        let Some((range, max_parallelism)) = self.key_groups else {
            return Ok(());
        };
        let restamp =
            |found: &Value| now_ms.and_then(|now_ms| Restamp::between(found, types, now_ms));
        // What is on the disk was changed there.
        if let Some(found) = self
            .on_disk
            .remove(name)
            .filter(|found| restamp(found).is_none())
        {
            check_types(&self.uid, name, &found, types)?;
        }
        for part in self.keyed.remove(name).unwrap_or_default() {
            let Some(index) = part.index.keyed.iter().find(|keyed| keyed.name == name) else {
                continue;
            };
            let restamp = restamp(&index.types);
            if restamp.is_none() {
                check_types(&self.uid, name, &index.types, types)?;
            }
            for span in index
                .groups
                .iter()
                .filter(|span| range.contains(span.group))
            {
                let mut bytes = part.bytes(name, span.offset, span.bytes)?;
                for _ in 0..span.entries {
                    let mut next =
                        || take_bytes(&mut bytes).ok_or_else(|| damaged(&self.uid, name));
                    let (key, sub, value) = (next()?, next()?, next()?);
                    let hash = murmur3_32(key);
                    if key_group(hash, max_parallelism) != span.group {
                        return Err(damaged(&self.uid, name));
                    }
                    match &restamp {
                        None => each(hash, key, sub, value)?,
                        Some(restamp) => each(hash, key, sub, &restamp.value(value)?)?,
                    }
                }
            }
        }
        Ok(())
    }

    /// The items of a list that belong to this subtask; none if there is no such list.
    pub fn list(&mut self, name: &str) -> Vec<Vec<u8>> {
        self.lists
            .remove(name)
            .map_or(Vec::new(), |list| list.items)
    }

    /// As [`OperatorState::list`], of a list that user code declares.
    ///
    /// # Errors
    /// `Invalid` if the snapshot has other `types`, or finds its subtasks in another way.
    pub fn typed_list(
        &mut self,
        name: &str,
        mode: ListMode,
        types: &Value,
    ) -> Result<Vec<Vec<u8>>> {
        let Some(list) = self.lists.remove(name) else {
            return Ok(Vec::new());
        };
        check_types(&self.uid, name, &list.types, types)?;
        check_types(&self.uid, name, &json!(list.mode), &json!(mode))?;
        Ok(list.items)
    }

    /// The states on the operator's disk that were not taken.
    pub fn left_on_disk(&self) -> impl Iterator<Item = &str> {
        self.on_disk.keys().map(String::as_str)
    }

    /// # Errors
    /// `Invalid` if a state of the snapshot was not taken: the operator has lost it.
    pub fn check_taken(&self) -> Result<()> {
        match self
            .keyed
            .keys()
            .chain(self.on_disk.keys())
            .chain(self.lists.keys())
            .next()
        {
            None => Ok(()),
            Some(name) => {
                let message = format!(
                    "the snapshot holds state `{name}` of operator `{}`, which the operator does not have any more",
                    self.uid
                );
                Err(Error::new(code::STATE_GONE, message))
            }
        }
    }
}

fn check_types(uid: &str, name: &str, found: &Value, wanted: &Value) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    let message = format!(
        "state `{name}` of operator `{uid}` is {found} in the snapshot, but {wanted} in the job"
    );
    Err(Error::new(code::STATE_TYPES, message))
}

fn share_of(
    name: &str,
    mode: ListMode,
    parts: &[Option<Part>],
    share: Share,
) -> Result<Vec<Vec<u8>>> {
    let of_part =
        |part: &Option<Part>| part.as_ref().map_or(Ok(Vec::new()), |part| part.list(name));
    let all = || -> Result<Vec<Vec<u8>>> {
        Ok(parts
            .iter()
            .map(of_part)
            .collect::<Result<Vec<_>>>()?
            .concat())
    };
    let same = parts.len() == share.parallelism as usize;
    match mode {
        ListMode::Split if same => of_part(&parts[share.subtask as usize]),
        ListMode::Split => {
            let (all, n_parts, at) = (all()?, share.parallelism as usize, share.subtask as usize);
            let (each, larger) = (all.len() / n_parts, all.len() % n_parts);
            let start = at * each + at.min(larger);
            Ok(all[start..start + each + usize::from(at < larger)].to_vec())
        }
        ListMode::Union => all(),
        ListMode::Broadcast => {
            copy_for(share.subtask as usize, parts).map_or(Ok(Vec::new()), |part| part.list(name))
        }
    }
}

/// The copy of old subtask `subtask mod p_old`; where that one had finished and has left none, the
/// next copy that there is.
fn copy_for(subtask: usize, parts: &[Option<Part>]) -> Option<&Part> {
    let first = subtask % parts.len().max(1);
    parts[first..]
        .iter()
        .chain(&parts[..first])
        .flatten()
        .next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(entries: Vec<StateEntry>, lists: Vec<ListSnapshot>) -> Part {
        let keyed = vec![KeyedSnapshot {
            name: "s".into(),
            types: json!("i64"),
            entries: Box::new(FrozenEntries(entries)),
        }];
        let mut object = b"in front".to_vec();
        let index = OperatorSnapshot { keyed, lists }.write("u", 128, &mut object);
        Part {
            object: Arc::new(object),
            index,
        }
    }

    fn share(subtask: u32, parallelism: u32) -> Share {
        Share {
            subtask,
            parallelism,
            key_groups: KeyGroupRange::of_subtask(128, parallelism, subtask),
            max_parallelism: 128,
        }
    }

    fn entries(state: &mut OperatorState) -> Vec<StateEntry> {
        let mut all = Vec::new();
        let taken = state.keyed("s", &json!("i64"), |_, key, sub, value| {
            all.push((key.to_vec(), sub.to_vec(), value.to_vec()));
            Ok(())
        });
        taken.unwrap();
        all
    }

    #[test]
    fn each_key_goes_to_the_owner_of_its_group_at_any_parallelism() {
        let all: Vec<StateEntry> = (0..1000u32)
            .map(|i| {
                (
                    i.to_le_bytes().to_vec(),
                    vec![7; i as usize % 300],
                    vec![i as u8],
                )
            })
            .collect();
        let parts = [
            Some(part(all[..600].to_vec(), vec![])),
            None,
            Some(part(all[600..].to_vec(), vec![])),
        ];
        for parallelism in [1, 2, 7] {
            let mut found = Vec::new();
            for subtask in 0..parallelism {
                let mut state =
                    OperatorState::assemble("u", &parts, share(subtask, parallelism)).unwrap();
                assert!(state.check_taken().is_err());
                found.extend(entries(&mut state));
                state.check_taken().unwrap();
            }
            found.sort();
            let mut expected = all.clone();
            expected.sort();
            assert_eq!(found, expected);
        }
    }

    fn check_list(mode: ListMode, parallelism: u32, finished: bool, expected: &[&[u8]]) {
        let list = |items: &[u8]| ListSnapshot {
            name: "l".into(),
            mode,
            types: json!("u8"),
            items: items.iter().map(|&item| vec![item]).collect(),
        };
        let parts = [
            Some(part(vec![], vec![list(b"abc")])),
            Some(part(vec![], vec![list(b"de")])),
            None,
        ];
        let parts = if finished { &parts[..] } else { &parts[..2] };
        for (subtask, expected) in expected.iter().enumerate() {
            let mut state =
                OperatorState::assemble("u", parts, share(subtask as u32, parallelism)).unwrap();
            assert_eq!(
                state.list("l").concat(),
                *expected,
                "{mode:?} at {subtask} of {parallelism}"
            );
        }
    }

    #[test]
    fn lists_are_cut_as_flink_cuts_them() {
        check_list(ListMode::Split, 2, false, &[b"abc", b"de"]);
        check_list(ListMode::Split, 3, false, &[b"ab", b"cd", b"e"]);
        check_list(ListMode::Split, 1, false, &[b"abcde"]);
        check_list(ListMode::Union, 2, false, &[b"abcde", b"abcde"]);
        check_list(ListMode::Broadcast, 3, false, &[b"abc", b"de", b"abc"]);
    }

    #[test]
    fn a_subtask_that_had_finished_has_no_items_and_no_copy() {
        check_list(ListMode::Split, 3, true, &[b"abc", b"de", b""]);
        check_list(ListMode::Split, 2, true, &[b"abc", b"de"]);
        check_list(ListMode::Union, 1, true, &[b"abcde"]);
        check_list(
            ListMode::Broadcast,
            4,
            true,
            &[b"abc", b"de", b"abc", b"abc"],
        );
    }

    #[test]
    fn a_list_of_other_types_or_of_another_mode_is_refused() {
        let list = ListSnapshot {
            name: "l".into(),
            mode: ListMode::Split,
            types: json!("u8"),
            items: vec![vec![1]],
        };
        let parts = [Some(part(vec![], vec![list]))];
        let take = |mode, types| {
            OperatorState::assemble("u", &parts, share(0, 1))
                .unwrap()
                .typed_list("l", mode, &types)
        };
        assert_eq!(take(ListMode::Split, json!("u8")).unwrap(), [[1]]);
        assert_eq!(
            take(ListMode::Split, json!("i8")).unwrap_err().code(),
            code::STATE_TYPES
        );
        let message =
            "state `l` of operator `u` is \"split\" in the snapshot, but \"union\" in the job";
        assert_eq!(
            take(ListMode::Union, json!("u8")).unwrap_err().message(),
            message
        );
    }

    #[test]
    fn other_types_and_damage_are_refused() {
        let good = part(vec![(b"k".to_vec(), vec![], b"v".to_vec())], vec![]);
        let take = |part: &Part, types: Value| {
            OperatorState::assemble("u", &[Some(part.clone())], share(0, 1))
                .unwrap()
                .keyed("s", &types, |_, _, _, _| Ok(()))
        };
        assert!(take(&good, json!("i64")).is_ok());
        let message =
            "state `s` of operator `u` is \"i64\" in the snapshot, but \"f64\" in the job";
        assert_eq!(take(&good, json!("f64")).unwrap_err().message(), message);
        for cut in 9..good.object.len() {
            let object = Arc::new(good.object[..cut].to_vec());
            assert_eq!(
                take(
                    &Part {
                        object,
                        ..good.clone()
                    },
                    json!("i64")
                )
                .unwrap_err()
                .code(),
                code::SNAPSHOT_DAMAGED
            );
        }
    }
}
