//! The disk of one operator of a subtask: which states it holds, and where the keys of each are.
//!
//! A key on disk is the key group, the number of the state, the namespace if the state has any, and
//! the key. Invariant: all subtasks give a state the same number, so their disks can be merged.

use crate::budget::MemoryBudget;
use crate::disk::{DISK_KEY_PREFIX_BYTES, Disk, KeyRange};
use crate::flight::Flight;
use crate::namespaces::{Namespace, Namespaces};
use crate::restamp::Restamp;
use crate::tier::{Pairs, Tier};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use streamrt_types::{Error, KeyGroupRange, Result, code, key_group};

/// Greater than every key on disk: key groups are less than 2^15.
pub(crate) const BEHIND_ALL: [u8; 2] = [0xff, 0xff];

/// The disk of one operator of a subtask, and what its states share.
pub struct StateDisk {
    disk: Arc<dyn Disk>,
    pub(crate) budget: Arc<MemoryBudget>,
    pub(crate) max_parallelism: u32,
    /// Every state that the disk holds, by name.
    states: Mutex<BTreeMap<String, DiskState>>,
    /// The states that were there when it was opened.
    pub(crate) restored: bool,
    pub(crate) flight: Arc<Flight>,
    /// The key group up to which the last sweep came: see [`crate::expiry`].
    swept: Mutex<u16>,
}

/// A keyed state on a [`Disk`].
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct DiskState {
    pub name: String,
    /// Its number in the keys on disk, after the key group.
    pub number: u8,
    /// As in [`crate::KeyedSnapshot`].
    pub types: Value,
    /// Whether its keys follow a [`Namespace`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_namespaces: bool,
}

impl DiskState {
    /// Bytes of a key on disk between the number of the state and the key.
    pub(crate) fn namespace_bytes(&self) -> usize {
        if self.in_namespaces {
            size_of::<Namespace>()
        } else {
            0
        }
    }

    /// Where its keys of a key group are on disk.
    fn range(&self, group: u32) -> KeyRange {
        let begin = |group: u32, number: u8| {
            KeyPlace {
                number,
                namespace: None,
            }
            .prefix(group)
        };
        let end = self
            .number
            .checked_add(1)
            .map_or_else(|| begin(group + 1, 0), |next| begin(group, next));
        (begin(group, self.number), end)
    }
}

/// The beginning of a table's keys on disk, after the key group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyPlace {
    pub number: u8,
    pub namespace: Option<Namespace>,
}

impl KeyPlace {
    /// Bytes before the key.
    pub fn prefix_bytes(&self) -> usize {
        DISK_KEY_PREFIX_BYTES + self.namespace.map_or(0, |namespace| namespace.len())
    }

    /// What precedes every key of a key group, and is less than all of them.
    pub fn prefix(&self, group: u32) -> Vec<u8> {
        let mut prefix = Vec::with_capacity(self.prefix_bytes());
        self.put_prefix(group, &mut prefix);
        prefix
    }

    /// Appends what precedes every key of a key group.
    pub fn put_prefix(&self, group: u32, out: &mut Vec<u8>) {
        // A key group is less than the max parallelism, which is 32,768 at most.
        out.extend((group as u16).to_be_bytes());
        out.push(self.number);
        out.extend(self.namespace.iter().flatten());
    }
}

impl StateDisk {
    /// `states` are those that `disk` holds already.
    pub fn new(
        disk: Arc<dyn Disk>,
        budget: Arc<MemoryBudget>,
        max_parallelism: u32,
        states: Vec<DiskState>,
    ) -> StateDisk {
        let restored = !states.is_empty();
        let states = states
            .into_iter()
            .map(|state| (state.name.clone(), state))
            .collect();
        StateDisk {
            disk,
            budget,
            max_parallelism,
            states: Mutex::new(states),
            restored,
            flight: Arc::default(),
            swept: Mutex::default(),
        }
    }

    /// The disk tier of the table of state `name`. If the state has gained or lost a time to live
    /// since the disk was filled, what the disk holds is rewritten, as accessed at `now_ms`.
    ///
    /// # Errors
    /// `Invalid` if the operator has more than 256 states, or the disk holds the state with other
    /// types; those of the disk.
    pub fn tier(self: &Arc<Self>, name: &str, types: &Value, now_ms: i64) -> Result<Tier> {
        self.restamp(name, types, now_ms)?;
        let place = KeyPlace {
            number: self.number(name, types, false)?,
            namespace: None,
        };
        Ok(Tier::new(self.clone(), place, self.restored))
    }

    /// The disk tier of the tables of state `name`, which has one per namespace.
    ///
    /// # Errors
    /// The same as for [`StateDisk::tier`].
    pub fn namespaces(
        self: &Arc<Self>,
        name: &str,
        types: &Value,
        key_groups: KeyGroupRange,
    ) -> Result<Namespaces> {
        Ok(Namespaces::new(
            self.clone(),
            self.number(name, types, true)?,
            key_groups,
        ))
    }

    /// Deletes everything of a state that the operator no longer has.
    ///
    /// # Errors
    /// The same as for [`Disk::delete_ranges`].
    pub fn forget(&self, name: &str, key_groups: KeyGroupRange) -> Result<()> {
        let Some(state) = self
            .states
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name)
        else {
            return Ok(());
        };
        let ranges: Vec<KeyRange> = (key_groups.start..key_groups.end)
            .map(|group| state.range(group))
            .collect();
        self.disk.delete_ranges(&ranges)
    }

    /// One key group after the other, so that little is held; the disk is this subtask's own, and
    /// nobody else has it yet.
    fn restamp(&self, name: &str, types: &Value, now_ms: i64) -> Result<()> {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(state) = states.get_mut(name) else {
            return Ok(());
        };
        let Some(restamp) = Restamp::between(&state.types, types, now_ms) else {
            return Ok(());
        };
        let mut from = Vec::new();
        while let Some(group) = self
            .disk
            .first_key(&from, &BEHIND_ALL)?
            .as_deref()
            .and_then(<[u8]>::first_chunk)
        {
            let group = u32::from(u16::from_be_bytes(*group));
            let (first, end) = state.range(group);
            let mut pairs = Pairs::default();
            self.disk.scan(&first, &end, &mut |key, run| {
                let run = restamp.run(run)?;
                pairs.push(
                    |bytes| bytes.extend_from_slice(key),
                    |bytes| bytes.extend_from_slice(&run),
                );
                Ok(())
            })?;
            pairs.write(&*self.disk)?;
            // Key groups are less than 2^15.
            from = (group as u16 + 1).to_be_bytes().to_vec();
        }
        state.types = types.clone();
        Ok(())
    }

    fn number(&self, name: &str, types: &Value, in_namespaces: bool) -> Result<u8> {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        match states.get(name) {
            Some(state) if state.types == *types && state.in_namespaces == in_namespaces => {
                Ok(state.number)
            }
            Some(state) => {
                let message = format!(
                    "state `{name}` is {} in the checkpoint, but {types} in the job",
                    state.types
                );
                Err(Error::new(code::STATE_TYPES, message))
            }
            None => {
                let free = (0..=u8::MAX)
                    .find(|number| states.values().all(|state| state.number != *number));
                let number = free.ok_or_else(|| {
                    Error::new(
                        code::INVALID_JOB,
                        "an operator can have 256 keyed states on disk at most",
                    )
                })?;
                states.insert(
                    name.to_owned(),
                    DiskState {
                        name: name.to_owned(),
                        number,
                        types: types.clone(),
                        in_namespaces,
                    },
                );
                Ok(number)
            }
        }
    }

    /// # Errors
    /// The error on which the changes of an earlier checkpoint have failed.
    pub(crate) fn check(&self) -> Result<()> {
        self.flight.check()
    }

    pub(crate) fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    /// Every state that the disk holds, by name.
    pub fn states(&self) -> Vec<DiskState> {
        self.states
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// The keys of the next key group that has any, cyclically.
    ///
    /// # Errors
    /// The same as for [`Disk::get`].
    pub(crate) fn next_group(&self) -> Result<Option<KeyRange>> {
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        let next = match self.disk.first_key(&swept.to_be_bytes(), &BEHIND_ALL)? {
            None => self.disk.first_key(&[], &BEHIND_ALL)?,
            found => found,
        };
        Ok(next.as_deref().and_then(<[u8]>::first_chunk).map(|group| {
            // Key groups are less than 2^15.
            *swept = u16::from_be_bytes(*group) + 1;
            (group.to_vec(), swept.to_be_bytes().to_vec())
        }))
    }

    /// Appends the key under which the disk holds `key`.
    pub(crate) fn put_key(&self, place: &KeyPlace, hash: u32, key: &[u8], out: &mut Vec<u8>) {
        place.put_prefix(key_group(hash, self.max_parallelism), out);
        out.extend_from_slice(key);
    }
}
