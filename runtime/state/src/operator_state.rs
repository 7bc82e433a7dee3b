//! The state of an operator during a restore: assembled from the parts of all subtasks that had
//! some, and taken by name.

use crate::ListIndex;
use crate::restamp::Restamp;
use crate::snapshot::{ListMode, Part, damaged, take_bytes};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use streamrt_types::{Error, KeyGroupRange, Result, code, key_group, murmur3_32};

/// The place of a new subtask.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    pub subtask: u32,
    pub parallelism: u32,
    pub key_groups: KeyGroupRange,
    pub max_parallelism: u32,
}

/// The part of a snapshot that one operator of one subtask takes back. Each state is taken once;
/// what is left at the end no longer has an owner, which [`OperatorState::check_taken`] reports.
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
    /// Shows nothing if there is no such state, or if it is on the operator's disk already.
    ///
    /// # Errors
    /// `Invalid` if the snapshot has other `types`, `Data` if it is damaged, or what `each`
    /// returns.
    pub fn keyed(
        &mut self,
        name: &str,
        types: &Value,
        each: impl FnMut(u32, &[u8], &[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        self.take_keyed(name, types, None, each)
    }

    /// Like [`OperatorState::keyed`], for a state that may have gained or lost its time to live:
    /// entries come as the state keeps them now, accessed at `now_ms`.
    ///
    /// # Errors
    /// The same as for [`OperatorState::keyed`].
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

    /// Like [`OperatorState::list`], for a list that user code declares.
    ///
    /// # Errors
    /// `Invalid` if the snapshot has other `types`, or assigns items to subtasks in another way.
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

/// The copy of old subtask `subtask mod p_old`; if that one had finished and left none, the next
/// existing copy.
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
    use crate::{FrozenEntries, KeyedSnapshot, ListSnapshot, OperatorSnapshot, StateEntry};
    use std::sync::Arc;

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
