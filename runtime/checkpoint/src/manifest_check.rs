//! Whether a manifest holds together. Its checksum says that it is what somebody wrote, and not
//! that they meant well: whoever may write into the folder can compute one.
//!
//! 1. Every subtask of every operator stands there once, and what has states has an object.
//! 2. A file has one plain name, so that no other folder is written to at a restore.
//! 3. What an index says of an object fits into it, and no two parts of it are the same bytes: what
//!    a restore holds in memory is as much as lies in the store.

use crate::log::NUMBER_MAX;
use crate::manifest::{Manifest, OperatorEntry, SubtaskSnapshot};
use crate::names::is_plain;
use std::collections::{BTreeMap, BTreeSet};
use streamrt_state::{DiskIndex, OperatorIndex};
use streamrt_types::MAX_PARALLELISM_MAX;

/// What is wrong, in words.
type Fault = String;

pub(crate) fn check(manifest: &Manifest) -> Result<(), Fault> {
    if !(1..=MAX_PARALLELISM_MAX).contains(&manifest.max_parallelism) {
        return Err(format!(
            "its max parallelism is {}, which is not from 1 to {MAX_PARALLELISM_MAX}",
            manifest.max_parallelism
        ));
    }
    if [
        manifest.checkpoint,
        manifest.generation,
        manifest.dead_letters(),
    ]
    .into_iter()
    .any(|number| number > NUMBER_MAX)
    {
        return Err("it holds numbers that nobody counts up to".to_owned());
    }
    let uids: BTreeMap<&str, u32> = manifest
        .operators
        .iter()
        .map(|operator| (operator.uid.as_str(), operator.vertex))
        .collect();
    if uids.len() != manifest.operators.len() {
        return Err("an operator stands there twice".to_owned());
    }
    let (mut subtasks, mut objects) = (BTreeSet::new(), BTreeSet::new());
    for subtask in &manifest.subtasks {
        let place = |fault| {
            format!(
                "subtask {} of vertex {} {fault}",
                subtask.subtask, subtask.vertex
            )
        };
        if !subtasks.insert((subtask.vertex, subtask.subtask)) {
            return Err(place("stands there twice".to_owned()));
        }
        if subtask
            .object
            .as_ref()
            .is_some_and(|object| !objects.insert(object.path.as_str()))
        {
            return Err(place("has the object of another one".to_owned()));
        }
        if !subtask.begins.iter().all(|begin| {
            begin.used <= begin.stored.bytes && objects.insert(begin.stored.path.as_str())
        }) {
            return Err(place(
                "begins with what is no beginning of an object of its own".to_owned(),
            ));
        }
        check_subtask(subtask, &uids, manifest.max_parallelism).map_err(place)?;
    }
    manifest
        .operators
        .iter()
        .try_for_each(|operator| check_operator(operator, &subtasks))
}

fn check_operator(operator: &OperatorEntry, subtasks: &BTreeSet<(u32, u32)>) -> Result<(), Fault> {
    let found = subtasks.range((operator.vertex, 0)..=(operator.vertex, u32::MAX));
    if operator.parallelism > 0
        && found
            .map(|(_, subtask)| *subtask)
            .eq(0..operator.parallelism)
    {
        return Ok(());
    }
    Err(format!(
        "the subtasks of operator `{}` are not the {} that it has",
        operator.uid, operator.parallelism
    ))
}

fn check_subtask(
    subtask: &SubtaskSnapshot,
    uids: &BTreeMap<&str, u32>,
    max_parallelism: u32,
) -> Result<(), Fault> {
    if (subtask.object.is_none() || subtask.finished) && !subtask.operators.is_empty() {
        return Err("has states, but no object".to_owned());
    }
    let begins = subtask.begins.iter().map(|begin| begin.used);
    let mut left = subtask
        .object
        .iter()
        .map(|object| object.bytes)
        .chain(begins)
        .fold(0, u64::saturating_add);
    let mut with_states = BTreeSet::new();
    for index in &subtask.operators {
        let uid = &index.uid;
        if uids.get(uid.as_str()) != Some(&subtask.vertex) {
            return Err(format!(
                "has states of operator `{uid}`, which does not run there"
            ));
        }
        if !with_states.insert(uid.as_str()) {
            return Err(format!("has the states of operator `{uid}` twice"));
        }
        check_index(index, max_parallelism, &mut left)
            .map_err(|fault| format!("has states of operator `{uid}` {fault}"))?;
    }
    check_files(subtask, &with_states)
}

fn check_files(subtask: &SubtaskSnapshot, with_states: &BTreeSet<&str>) -> Result<(), Fault> {
    let mut names = BTreeSet::new();
    for file in &subtask.files {
        let fault = match () {
            () if !with_states.contains(file.uid.as_str()) => "which has no states",
            () if !is_plain(&file.name) => "whose name is no plain one",
            () if !names.insert((&file.uid, &file.name)) => "which stands there twice",
            () => continue,
        };
        return Err(format!(
            "has a file `{}` of operator `{}`, {fault}",
            file.name.escape_debug(),
            file.uid
        ));
    }
    Ok(())
}

/// `left` are the bytes of the object that no part so far has.
fn check_index(index: &OperatorIndex, max_parallelism: u32, left: &mut u64) -> Result<(), Fault> {
    let mut names = BTreeSet::new();
    for keyed in &index.keyed {
        let groups = keyed.groups.iter().map(|span| span.group);
        if !names.insert(keyed.name.as_str())
            || !groups.clone().is_sorted_by(|a, b| a < b)
            || groups.max() >= Some(max_parallelism)
        {
            return Err(format!(
                "whose key groups are none, in state `{}`",
                keyed.name
            ));
        }
        // Key, sub-key and value have a byte of length each.
        let fits = keyed
            .groups
            .iter()
            .all(|span| take(left, span.bytes, span.entries, 3));
        fits.then_some(()).ok_or_else(|| {
            format!(
                "whose entries are more than there are bytes, in state `{}`",
                keyed.name
            )
        })?;
    }
    names.clear();
    for list in &index.lists {
        let fits = names.insert(list.name.as_str()) && take(left, list.bytes, list.items, 1);
        fits.then_some(()).ok_or_else(|| {
            format!(
                "whose items are more than there are bytes, in list `{}`",
                list.name
            )
        })?;
    }
    index.disk.as_ref().map_or(Ok(()), check_disk)
}

/// Takes `bytes` off what is left of an object; false if they are not there, or too few for `n`
/// things of `least` bytes.
fn take(left: &mut u64, bytes: u64, n: u64, least: u64) -> bool {
    let rest = left.checked_sub(bytes).filter(|_| n <= bytes / least);
    *left = rest.unwrap_or(*left);
    rest.is_some()
}

fn check_disk(disk: &DiskIndex) -> Result<(), Fault> {
    let numbers: BTreeSet<u8> = disk.states.iter().map(|state| state.number).collect();
    let names: BTreeSet<&str> = disk
        .states
        .iter()
        .map(|state| state.name.as_str())
        .collect();
    let is_one_to_one = numbers.len() == disk.states.len() && names.len() == disk.states.len();
    is_one_to_one
        .then_some(())
        .ok_or_else(|| "two of which have one number or name on disk".to_owned())
}

#[cfg(test)]
mod tests {
    use crate::manifest::tests::manifest;
    use crate::sealed::seal;
    use crate::{DiskFileEntry, Manifest, SnapshotKind, Store, SubtaskSnapshot};
    use streamrt_types::code;

    /// It is neither written nor read.
    #[track_caller]
    fn check_refused(change: impl FnOnce(&mut Manifest), part: &str) {
        let store = Store::in_memory().unwrap();
        let mut manifest = manifest(&store, SnapshotKind::Checkpoint, 1, 1);
        change(&mut manifest);
        let error = manifest.write(&store).unwrap_err();
        assert!(
            error.code() == code::INTERNAL && error.message().contains(part),
            "{error}"
        );
        let error = Manifest::read("chk-1/m", &seal(&manifest).unwrap()).unwrap_err();
        assert!(error.code() == code::SNAPSHOT_DAMAGED, "{error}");
    }

    #[test]
    fn a_manifest_that_does_not_hold_together_is_neither_written_nor_read() {
        check_refused(
            |manifest| manifest.subtasks.truncate(1),
            "the subtasks of operator `count` are not the 2 that it has",
        );
        check_refused(
            |manifest| manifest.operators[0].parallelism = u32::MAX,
            "the subtasks of operator `count`",
        );
        check_refused(
            |manifest| manifest.subtasks.push(SubtaskSnapshot::finished(0, 1)),
            "subtask 1 of vertex 0 stands there twice",
        );
        check_refused(
            |manifest| manifest.subtasks[0].object = None,
            "subtask 0 of vertex 0 has states, but no object",
        );
        check_refused(
            |manifest| manifest.subtasks[0].operators[0].uid = "x".into(),
            "has states of operator `x`",
        );
        check_refused(
            |manifest| manifest.operators.push(manifest.operators[0].clone()),
            "an operator stands there twice",
        );
        let twice = |manifest: &mut Manifest| {
            let first = manifest.subtasks[0].operators[0].clone();
            manifest.subtasks[0].operators.push(first);
        };
        check_refused(twice, "has the states of operator `count` twice");
        let shared = |manifest: &mut Manifest| {
            let first = manifest.subtasks[0].object.clone();
            (manifest.subtasks[1].finished, manifest.subtasks[1].object) = (false, first);
        };
        check_refused(
            shared,
            "subtask 1 of vertex 0 has the object of another one",
        );
    }

    #[test]
    fn the_key_groups_are_those_that_a_job_can_have() {
        for max_parallelism in [0, 32_769, u32::MAX] {
            check_refused(
                |manifest| manifest.max_parallelism = max_parallelism,
                &format!("its max parallelism is {max_parallelism}"),
            );
        }
        check_refused(
            |manifest| manifest.subtasks[0].operators[0].keyed[0].groups[0].group = 128,
            "whose key groups are none",
        );
        let twice = |manifest: &mut Manifest| {
            let groups = &mut manifest.subtasks[0].operators[0].keyed[0].groups;
            groups.push(groups[0]);
        };
        check_refused(twice, "whose key groups are none, in state `sum`");
    }

    #[test]
    fn numbers_leave_room_to_count_on() {
        let changes: [fn(&mut Manifest); 4] = [
            |manifest| manifest.checkpoint = u64::MAX,
            |manifest| manifest.generation = u64::MAX,
            |manifest| manifest.dead_letters_before = u64::MAX,
            |manifest| manifest.subtasks[0].dead_letters = u64::MAX,
        ];
        changes
            .into_iter()
            .for_each(|change| check_refused(change, "it holds numbers that nobody counts up to"));
    }

    #[test]
    fn a_file_has_one_plain_name() {
        for name in [
            "../../.bashrc",
            "/etc/passwd",
            "a/b",
            "..",
            ".",
            "",
            "a/",
            "a\0b",
            &"x".repeat(256),
        ] {
            let change = |manifest: &mut Manifest| {
                let stored = manifest.plugins[0].component.clone();
                manifest.subtasks[0].files.push(DiskFileEntry {
                    uid: "count".into(),
                    name: name.into(),
                    stored,
                });
            };
            check_refused(change, "of operator `count`, whose name is no plain one");
        }
    }

    #[test]
    fn an_index_fits_into_its_object() {
        for lie in [u64::MAX, u64::MAX / 2, 1 << 40, 100] {
            let list =
                |manifest: &mut Manifest| manifest.subtasks[0].operators[0].lists[0].bytes = lie;
            check_refused(
                list,
                "whose items are more than there are bytes, in list `splits`",
            );
            let items =
                |manifest: &mut Manifest| manifest.subtasks[0].operators[0].lists[0].items = lie;
            check_refused(items, "whose items are more than there are bytes");
            let bytes = |manifest: &mut Manifest| {
                manifest.subtasks[0].operators[0].keyed[0].groups[0].bytes = lie
            };
            check_refused(
                bytes,
                "whose entries are more than there are bytes, in state `sum`",
            );
            let entries = |manifest: &mut Manifest| {
                manifest.subtasks[0].operators[0].keyed[0].groups[0].entries = lie
            };
            check_refused(entries, "whose entries are more than there are bytes");
        }
    }

    /// A million lists that are all the same bytes would be a million times as much in memory.
    #[test]
    fn no_two_parts_are_the_same_bytes() {
        let repeat = |manifest: &mut Manifest| {
            let lists = &mut manifest.subtasks[0].operators[0].lists;
            let same = |number: usize| streamrt_state::ListIndex {
                name: format!("splits {number}"),
                ..lists[0].clone()
            };
            *lists = (0..50).map(same).collect();
        };
        check_refused(
            repeat,
            "whose items are more than there are bytes, in list `splits",
        );
    }
}
