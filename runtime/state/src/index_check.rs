//! Whether the indexes of a subtask's states hold together. The checksum of a manifest says that they
//! are what somebody wrote, and not that they meant well.
//!
//! What an index says of an object fits into it, and no two parts of it are the same bytes: what a
//! restore holds in memory is as much as lies in the store.

use crate::disk_snapshot::DiskIndex;
use crate::snapshot::OperatorIndex;
use std::collections::BTreeSet;

/// Checks the indexes of all operators of a subtask whose states have `bytes` bytes together. What is
/// wrong comes back in words that go on from the subtask's name.
///
/// # Errors
/// The first fault.
pub fn check_indexes(
    indexes: &[OperatorIndex],
    max_parallelism: u32,
    bytes: u64,
) -> Result<(), String> {
    let mut left = bytes;
    indexes.iter().try_for_each(|index| {
        check_index(index, max_parallelism, &mut left)
            .map_err(|fault| format!("has states of operator `{}` {fault}", index.uid))
    })
}

/// `left` are the bytes of the object that no part so far has.
fn check_index(index: &OperatorIndex, max_parallelism: u32, left: &mut u64) -> Result<(), String> {
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

fn check_disk(disk: &DiskIndex) -> Result<(), String> {
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
    use super::*;
    use crate::snapshot::{
        FrozenEntries, KeyedSnapshot, ListIndex, ListMode, ListSnapshot, OperatorSnapshot,
    };
    use crate::state_disk::DiskState;
    use serde_json::{Value, json};

    /// A keyed state and a list, with the bytes that they have.
    fn states() -> (OperatorIndex, u64) {
        let entries = Box::new(FrozenEntries(vec![(b"k".to_vec(), vec![], b"v".to_vec())]));
        let keyed = vec![KeyedSnapshot {
            name: "sum".into(),
            types: json!("i64"),
            entries,
        }];
        let lists = vec![ListSnapshot {
            name: "splits".into(),
            mode: ListMode::Split,
            types: Value::Null,
            items: vec![b"a".to_vec(), b"bc".to_vec()],
        }];
        let mut object = Vec::new();
        let index = OperatorSnapshot { keyed, lists }.write("count", 128, &mut object);
        (index, object.len() as u64)
    }

    #[track_caller]
    fn check_refused(change: impl FnOnce(&mut OperatorIndex), part: &str) {
        let (mut index, bytes) = states();
        assert_eq!(check_indexes(&[index.clone()], 128, bytes), Ok(()));
        change(&mut index);
        let fault = check_indexes(&[index], 128, bytes).unwrap_err();
        assert!(fault.contains(part), "{fault}");
    }

    #[test]
    fn the_key_groups_are_those_that_a_job_can_have() {
        check_refused(
            |index| index.keyed[0].groups[0].group = 128,
            "has states of operator `count` whose key groups are none, in state `sum`",
        );
        let twice = |index: &mut OperatorIndex| {
            let groups = &mut index.keyed[0].groups;
            groups.push(groups[0]);
        };
        check_refused(twice, "whose key groups are none, in state `sum`");
    }

    #[test]
    fn an_index_fits_into_its_object() {
        for lie in [u64::MAX, u64::MAX / 2, 1 << 40, 100] {
            check_refused(
                |index| index.lists[0].bytes = lie,
                "whose items are more than there are bytes, in list `splits`",
            );
            check_refused(
                |index| index.lists[0].items = lie,
                "whose items are more than there are bytes",
            );
            check_refused(
                |index| index.keyed[0].groups[0].bytes = lie,
                "whose entries are more than there are bytes, in state `sum`",
            );
            check_refused(
                |index| index.keyed[0].groups[0].entries = lie,
                "whose entries are more than there are bytes",
            );
        }
    }

    /// A million lists that are all the same bytes would be a million times as much in memory.
    #[test]
    fn no_two_parts_are_the_same_bytes() {
        let repeat = |index: &mut OperatorIndex| {
            let same = |number: usize| ListIndex {
                name: format!("splits {number}"),
                ..index.lists[0].clone()
            };
            index.lists = (0..50).map(same).collect();
        };
        check_refused(
            repeat,
            "whose items are more than there are bytes, in list `splits",
        );
        let (index, bytes) = states();
        let fault = check_indexes(&[index.clone(), index], 128, bytes).unwrap_err();
        assert!(fault.contains("more than there are bytes"), "{fault}");
    }

    #[test]
    fn states_on_disk_have_a_number_and_a_name_each() {
        let state = DiskState {
            name: "sum".into(),
            number: 0,
            types: Value::Null,
            in_namespaces: false,
        };
        let twice = |index: &mut OperatorIndex| {
            index.disk = Some(DiskIndex {
                states: vec![state.clone(), state],
                bytes: 0,
            });
        };
        check_refused(twice, "two of which have one number or name on disk");
    }
}
