//! Whether a manifest holds together. Its checksum says that it is what somebody wrote, and not
//! that they meant well: whoever may write into the folder can compute one.
//!
//! 1. Every subtask of every operator stands there once, and what has states has an object.
//! 2. A file has one plain name, so that no other folder is written to at a restore.
//!
//! Indexes of states are not looked into: whoever reads the states checks them first.

use crate::log::NUMBER_MAX;
use crate::manifest::{Manifest, OperatorEntry, SubtaskSnapshot};
use crate::names::is_plain;
use std::collections::{BTreeMap, BTreeSet};
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
        check_subtask(subtask, &uids).map_err(place)?;
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

fn check_subtask(subtask: &SubtaskSnapshot, uids: &BTreeMap<&str, u32>) -> Result<(), Fault> {
    if (subtask.object.is_none() || subtask.finished) && !subtask.operators.is_empty() {
        return Err("has states, but no object".to_owned());
    }
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
}
