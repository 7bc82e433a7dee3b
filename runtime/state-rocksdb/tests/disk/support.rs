//! An ordered map that does what the disk should do, and the calls that the suites share.

use std::collections::BTreeMap;
use std::path::Path;
use streamrt_state::{Disk, DiskPart};
use streamrt_types::KeyGroupRange;

pub type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// A key of this key group in state 0.
pub fn key(group: u32, number: u32) -> Vec<u8> {
    [
        &(group as u16).to_be_bytes()[..],
        &[0],
        &number.to_be_bytes(),
    ]
    .concat()
}

/// The same changes to both.
pub fn write(
    disk: &dyn Disk,
    model: &mut Model,
    changes: impl Iterator<Item = (Vec<u8>, Option<Vec<u8>>)>,
) {
    let changes: BTreeMap<Vec<u8>, Option<Vec<u8>>> = changes.collect();
    disk.write(
        &mut changes
            .iter()
            .map(|(key, value)| (&key[..], value.as_deref())),
    )
    .unwrap();
    for (key, value) in changes {
        match value {
            Some(value) => model.insert(key, value),
            None => model.remove(&key),
        };
    }
}

/// Everything on the disk.
pub fn all(disk: &dyn Disk) -> Model {
    let mut pairs = Vec::new();
    disk.scan(&[], &[0xff; 16], &mut |key, value| {
        pairs.push((key.to_vec(), value.to_vec()));
        Ok(())
    })
    .unwrap();
    assert!(pairs.is_sorted(), "a scan ascends");
    pairs.into_iter().collect()
}

/// Asks for these keys, there or not.
pub fn checked(disk: &dyn Disk, model: &Model, keys: impl Iterator<Item = Vec<u8>>) {
    let mut keys: Vec<Vec<u8>> = keys.collect();
    keys.sort();
    let asked: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
    let mut found = Vec::new();
    disk.get(&asked, &mut |number, value| {
        found.push((keys[number].clone(), value.to_vec()));
        Ok(())
    })
    .unwrap();
    let expected: Vec<_> = keys
        .iter()
        .filter_map(|key| model.get(key).map(|value| (key.clone(), value.clone())))
        .collect();
    assert_eq!(found, expected);
}

pub fn part(folder: &Path, key_groups: KeyGroupRange, whole: bool) -> DiskPart {
    DiskPart {
        folder: folder.to_owned(),
        key_groups,
        whole,
    }
}
