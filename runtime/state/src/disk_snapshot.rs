//! What a checkpoint keeps of states on a disk: its files, or, in a savepoint, every entry in the
//! canonical format.
//!
//! 1. The changes of all states of the operator are sorted together and written to the disk.
//! 2. The disk's files are linked into a folder, or everything on it is read into the object, in
//!    the order of the keys: that is key group by key group, and state by state within each.
//! 3. Only then may entries leave memory for the disk again.
//!
//! On disk the value of a key is its run: every entry that the key has in the state, as sub-key and
//! value, each preceded by its length.

use crate::disk::{DISK_KEY_PREFIX_BYTES, DiskFile};
use crate::expiry::{Expiries, sweep};
use crate::namespaces::Namespace;
use crate::snapshot::{
    GroupSpan, KeyedIndex, KeyedSnapshot, OperatorIndex, OperatorSnapshot, put_bytes, put_joined,
    take_bytes,
};
use crate::state_disk::{BEHIND_ALL, DiskState, KeyPlace, StateDisk};
use crate::tier::{DiskChanges, Pairs};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use streamrt_types::{Error, Result, code, murmur3_32};

/// The states of an operator of a subtask that are in files of their own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DiskIndex {
    pub states: Vec<DiskState>,
    /// Bytes of all files.
    pub bytes: u64,
}

/// The files of a disk at a checkpoint. They are deleted when it is dropped.
#[derive(Debug)]
pub struct DiskFiles {
    folder: PathBuf,
    pub files: Vec<DiskFile>,
}

impl DiskFiles {
    /// For a folder that does not exist yet.
    pub fn new(folder: PathBuf) -> DiskFiles {
        DiskFiles {
            folder,
            files: Vec::new(),
        }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn path(&self, file: &DiskFile) -> PathBuf {
        self.folder.join(&file.name)
    }
}

impl Drop for DiskFiles {
    fn drop(&mut self) {
        // What is left is removed with the folder of the process.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Appends one entry of a key to its run.
pub fn push_pair(sub: &[u8], value: &[u8], run: &mut Vec<u8>) {
    put_bytes(sub, run);
    put_bytes(value, run);
}

/// Shows every entry of a run: sub-key and value.
///
/// # Errors
/// `Data` if the bytes are not a run, or what `each` returns.
pub fn each_pair(mut run: &[u8], mut each: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
    let damaged = || {
        Error::new(
            code::SNAPSHOT_DAMAGED,
            "the entries of a key on the disk of the state are damaged",
        )
    };
    while !run.is_empty() {
        let sub = take_bytes(&mut run).ok_or_else(damaged)?;
        let value = take_bytes(&mut run).ok_or_else(damaged)?;
        each(sub, value)?;
    }
    Ok(())
}

impl OperatorSnapshot {
    /// Appends everything to `object`, off the task's thread, except the states on disk: their
    /// changes are written to the disk, and its files are put into the new folder `folder`. Without
    /// a folder they are written to `object` as well, in the canonical format.
    ///
    /// # Errors
    /// The same as for [`crate::Disk::write`]; the states cannot continue then.
    pub fn write_with_disk(
        mut self,
        uid: &str,
        max_parallelism: u32,
        object: &mut Vec<u8>,
        folder: Option<&Path>,
    ) -> Result<(OperatorIndex, Option<DiskFiles>)> {
        let mut on_disk: Vec<(KeyedSnapshot, DiskChanges)> = Vec::new();
        for mut state in std::mem::take(&mut self.keyed) {
            match state.entries.take_changes() {
                Some(changes) => on_disk.push((state, changes)),
                None => self.keyed.push(state),
            }
        }
        let mut index = self.write(uid, max_parallelism, object);
        let Some(disk) = on_disk.first().map(|(_, changes)| changes.shared.clone()) else {
            return Ok((index, None));
        };
        let expiries = on_disk
            .iter()
            .filter_map(|(_, changes)| Some((changes.number, changes.expiry?)))
            .collect();
        let written = write_changes(&disk, &on_disk).and_then(|()| sweep(&disk, &expiries));
        let written = written.and_then(|()| keep(&disk, folder, object, &mut index, &expiries));
        let outcome = || {
            written
                .as_ref()
                .map(drop)
                .map_err(|e| Error::new(e.code(), e.message()))
        };
        on_disk
            .into_iter()
            .for_each(|(_, changes)| changes.guard.end(outcome()));
        Ok((index, written?))
    }
}

fn write_changes(disk: &StateDisk, states: &[(KeyedSnapshot, DiskChanges)]) -> Result<()> {
    disk.check()?;
    let mut pairs = Pairs::default();
    for (state, changes) in states {
        disk.disk().delete_ranges(&changes.purged)?;
        push_entries(disk, state, changes, &mut pairs);
        let place = KeyPlace {
            number: changes.number,
            namespace: None,
        };
        for key in changes.removed.iter() {
            pairs.delete(|bytes| disk.put_key(&place, murmur3_32(key), key, bytes));
        }
    }
    pairs.write(disk.disk())
}

/// Successive entries under one key are one run.
fn push_entries(disk: &StateDisk, state: &KeyedSnapshot, changes: &DiskChanges, pairs: &mut Pairs) {
    let mut last: Option<(Option<Namespace>, Vec<u8>)> = None;
    state.entries.visit(&mut |key, sub, value| {
        let (namespace, sub) = split_sub(changes.in_namespaces, sub);
        if last.as_ref().is_some_and(|(last_namespace, last_key)| {
            *last_namespace == namespace && last_key == key
        }) {
            return pairs.extend(|run| push_pair(sub, value, run));
        }
        let place = KeyPlace {
            number: changes.number,
            namespace,
        };
        pairs.push(
            |bytes| disk.put_key(&place, murmur3_32(key), key, bytes),
            |run| push_pair(sub, value, run),
        );
        let (_, mut buffer) = last.take().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(key);
        last = Some((namespace, buffer));
    });
}

/// In the canonical format the namespace is the front of the sub-key.
fn split_sub(in_namespaces: bool, sub: &[u8]) -> (Option<Namespace>, &[u8]) {
    match sub.split_first_chunk() {
        Some((namespace, rest)) if in_namespaces => (Some(*namespace), rest),
        _ => (None, sub),
    }
}

fn keep(
    disk: &Arc<StateDisk>,
    folder: Option<&Path>,
    object: &mut Vec<u8>,
    index: &mut OperatorIndex,
    expiries: &Expiries,
) -> Result<Option<DiskFiles>> {
    match folder {
        Some(folder) => {
            let files = DiskFiles {
                folder: folder.to_owned(),
                files: disk.disk().checkpoint(folder)?,
            };
            let bytes = files.files.iter().map(|file| file.bytes).sum();
            index.disk = Some(DiskIndex {
                states: disk.states(),
                bytes,
            });
            Ok(Some(files))
        }
        None => {
            index.keyed.extend(read_all(disk, expiries, object)?);
            Ok(None)
        }
    }
}

/// Appends every entry on the disk to `object` in the canonical format, except what is expired.
fn read_all(
    disk: &StateDisk,
    expiries: &Expiries,
    object: &mut Vec<u8>,
) -> Result<Vec<KeyedIndex>> {
    let states = disk.states();
    let mut spans: BTreeMap<u8, Vec<GroupSpan>> = BTreeMap::new();
    disk.disk().scan(&[], &BEHIND_ALL, &mut |disk_key, run| {
        let damaged = || {
            Error::new(
                code::SNAPSHOT_DAMAGED,
                "a key on the disk of the state is damaged",
            )
        };
        let (&[high, low, number], rest) = disk_key
            .split_first_chunk::<DISK_KEY_PREFIX_BYTES>()
            .ok_or_else(damaged)?;
        let state = states
            .iter()
            .find(|state| state.number == number)
            .ok_or_else(damaged)?;
        let (namespace, key) = rest
            .split_at_checked(state.namespace_bytes())
            .ok_or_else(damaged)?;
        let (group, spans) = (
            u32::from(u16::from_be_bytes([high, low])),
            spans.entry(number).or_default(),
        );
        if spans.last().is_none_or(|span| span.group != group) {
            spans.push(GroupSpan {
                group,
                offset: object.len() as u64,
                bytes: 0,
                entries: 0,
            });
        }
        let span = spans
            .last_mut()
            .ok_or_else(|| Error::internal("the span of a key group was just made"))?;
        let expiry = expiries.get(&number);
        each_pair(run, |sub, value| {
            let live = expiry.map_or(Some(Cow::Borrowed(value)), |expiry| expiry.live(value));
            if let Some(value) = live {
                put_bytes(key, object);
                put_joined(namespace, sub, object);
                put_bytes(&value, object);
                span.entries += 1;
            }
            Ok(())
        })?;
        span.bytes = object.len() as u64 - span.offset;
        Ok(())
    })?;
    spans
        .values_mut()
        .for_each(|spans| spans.retain(|span| span.entries > 0));
    let groups_of = |number: u8| spans.get(&number).cloned().unwrap_or_default();
    Ok(states
        .into_iter()
        .map(|state| KeyedIndex {
            groups: groups_of(state.number),
            name: state.name,
            types: state.types,
        })
        .collect())
}
