//! The disk compared with an ordered map: short and long writes, deletes, reads, checkpoints, and
//! restores, whole and redistributed by key groups.

use crate::support::{Model, all, checked, key, part, write};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use streamrt_state::{Backend, Disk, DiskFile, DiskPart, KeyRange};
use streamrt_state_rocksdb::RocksBackend;
use streamrt_types::KeyGroupRange;

const KEY_GROUPS: u32 = 16;

/// So little that a few hundred pairs are a long write.
const MEMORY_BYTES: usize = 1 << 20;

#[derive(Debug, Clone)]
enum Step {
    /// Writes a stretch of keys, every `step`-th, values of this length; those divisible by
    /// `deleted` are deleted.
    Write {
        first: u32,
        n: u32,
        step: u32,
        value_bytes: usize,
        deleted: u32,
    },
    /// Deletes the keys from the first of these to before the second in every key group.
    Delete { from: u32, to: u32 },
    /// Continues with a disk made from the last checkpoint's files.
    Reopen,
    /// Continues with a disk assembled from the shares of several subtasks.
    Rescale(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let short = (0..4000u32, 1..60u32, 1..40u32, 0..40usize, 1..8u32);
    let long = (0..2000u32, 1000..2500u32, 1..3u32, 20..200usize, 1..8u32);
    let write = |(first, n, step, value_bytes, deleted)| Step::Write {
        first,
        n,
        step,
        value_bytes,
        deleted,
    };
    prop_oneof![
        5 => short.prop_map(write),
        3 => long.prop_map(write),
        2 => (0..4000u32, 0..3000u32).prop_map(|(from, n)| Step::Delete { from, to: from + n }),
        1 => Just(Step::Reopen),
        1 => prop::sample::select(vec![1, 2, 3, 7]).prop_map(Step::Rescale),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_disk_is_an_ordered_map(steps in prop::collection::vec(step(), 1..14)) {
        let scratch = tempfile::tempdir().unwrap();
        let backend = RocksBackend::new(MEMORY_BYTES).unwrap();
        let mut disk = backend.open(&scratch.path().join("first"), &[]).unwrap();
        let mut model = Model::new();
        let mut files = BTreeMap::new();
        for (number, step) in steps.into_iter().enumerate() {
            let folder = scratch.path().join(format!("step-{number}"));
            match step {
                Step::Write { first, n, step, value_bytes, deleted } => {
                    let keys = (0..n).map(|i| first + i * step);
                    let value = |i: u32| (i % deleted != 0 || deleted == 1).then(|| vec![number as u8 ^ i as u8; value_bytes]);
                    write(&*disk, &mut model, keys.map(|i| (key(i % KEY_GROUPS, i), value(i))));
                }
                Step::Delete { from, to } => delete(&*disk, &mut model, from, to),
                Step::Reopen => disk = reopened(&backend, &folder, &*disk, &mut files),
                Step::Rescale(parallelism) => disk = rescaled(&backend, &folder, &*disk, parallelism),
            }
            prop_assert_eq!(all(&*disk), model.clone());
            checked(&*disk, &model, (0..6000).step_by(7).map(|i| key(i % KEY_GROUPS, i)));
            (0..KEY_GROUPS).for_each(|group| check_first(&*disk, &model, key(group, 500), key(group, 3000)));
        }
    }
}

fn delete(disk: &dyn Disk, model: &mut Model, from: u32, to: u32) {
    let ranges: Vec<KeyRange> = (0..KEY_GROUPS)
        .map(|group| (key(group, from), key(group, to)))
        .collect();
    disk.delete_ranges(&ranges).unwrap();
    model.retain(|key, _| !ranges.iter().any(|(from, to)| from <= key && key < to));
}

#[track_caller]
fn check_first(disk: &dyn Disk, model: &Model, from: Vec<u8>, to: Vec<u8>) {
    let found = disk.first_key(&from, &to).unwrap();
    assert_eq!(
        found.as_ref(),
        model.range(from..to).next().map(|(key, _)| key)
    );
}

/// From the files of a checkpoint. A name seen before has to stand for the same bytes.
fn reopened(
    backend: &RocksBackend,
    folder: &Path,
    disk: &dyn Disk,
    seen: &mut BTreeMap<String, Vec<u8>>,
) -> Arc<dyn Disk> {
    let checkpoint = folder.with_extension("checkpoint");
    for file in disk.checkpoint(&checkpoint).unwrap() {
        let bytes = std::fs::read(checkpoint.join(&file.name)).unwrap();
        assert_eq!(bytes.len() as u64, file.bytes);
        if file.shared {
            assert_eq!(
                seen.entry(file.name).or_insert_with(|| bytes.clone()),
                &bytes
            );
        }
    }
    backend
        .open(
            folder,
            &[part(&checkpoint, KeyGroupRange::all(KEY_GROUPS), true)],
        )
        .unwrap()
}

/// Cut into the shares of several subtasks, each of which then writes a key group of its own; then
/// all of these are assembled again.
fn rescaled(
    backend: &RocksBackend,
    folder: &Path,
    disk: &dyn Disk,
    parallelism: u32,
) -> Arc<dyn Disk> {
    let checkpoint = folder.with_extension("checkpoint");
    disk.checkpoint(&checkpoint).unwrap();
    let share = |subtask| {
        let key_groups = KeyGroupRange::of_subtask(KEY_GROUPS, parallelism, subtask);
        let at = folder.with_extension(format!("share-{subtask}"));
        let share = backend
            .open(&at, &[part(&checkpoint, key_groups, false)])
            .unwrap();
        let foreign = all(&*share)
            .into_keys()
            .find(|key| !key_groups.contains(u32::from(key[0]) << 8 | u32::from(key[1])));
        assert_eq!(foreign, None, "a key of another subtask");
        let to = at.with_extension(format!("share-{subtask}-checkpoint"));
        share.checkpoint(&to).unwrap();
        part(&to, key_groups, true)
    };
    // The order of the parts is arbitrary.
    let parts: Vec<DiskPart> = (0..parallelism).rev().map(share).collect();
    backend.open(folder, &parts).unwrap()
}

#[test]
fn a_range_shows_its_pairs_alone() {
    let scratch = tempfile::tempdir().unwrap();
    let backend = RocksBackend::new(MEMORY_BYTES).unwrap();
    let disk = backend.open(&scratch.path().join("disk"), &[]).unwrap();
    let mut model = Model::new();
    write(
        &*disk,
        &mut model,
        (0..100).map(|i| (key(i % KEY_GROUPS, i), Some(vec![1]))),
    );
    let mut seen = Model::new();
    let (from, to) = (key(3, 0), key(5, 0));
    disk.scan(&from, &to, &mut |key, value| {
        seen.insert(key.to_vec(), value.to_vec());
        Ok(())
    })
    .unwrap();
    assert_eq!(
        seen,
        model
            .range(from..to)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    );
    assert!(!seen.is_empty());
}

/// The same key by a short write, a long one, and a short one again: the last one counts, in a
/// checkpoint too.
#[test]
fn the_later_of_a_short_and_a_long_write_wins() {
    let scratch = tempfile::tempdir().unwrap();
    let backend = RocksBackend::new(MEMORY_BYTES).unwrap();
    let mut disk = backend.open(&scratch.path().join("disk"), &[]).unwrap();
    let mut model = Model::new();
    for (round, n) in [10, 5000, 10, 5000, 5000, 10].into_iter().enumerate() {
        let pairs = (0..n).map(|i| {
            (
                key(0, i),
                (!(i as usize + round).is_multiple_of(5)).then(|| vec![round as u8; 100]),
            )
        });
        write(&*disk, &mut model, pairs);
        assert_eq!(all(&*disk), model, "round {round}");
        disk = reopened(
            &backend,
            &scratch.path().join(format!("round-{round}")),
            &*disk,
            &mut BTreeMap::new(),
        );
        assert_eq!(all(&*disk), model, "round {round}, opened again");
    }
}

/// More ranges than a write buffer takes, each before pairs that stay.
#[test]
fn many_deleted_ranges_hide_their_pairs_alone() {
    let scratch = tempfile::tempdir().unwrap();
    let backend = RocksBackend::new(MEMORY_BYTES).unwrap();
    let disk = backend.open(&scratch.path().join("disk"), &[]).unwrap();
    let mut model = Model::new();
    for round in 0..400 {
        write(
            &*disk,
            &mut model,
            (0..2 * KEY_GROUPS).map(|i| {
                (
                    key(i % KEY_GROUPS, round * 10 + i / KEY_GROUPS * 9),
                    Some(vec![1]),
                )
            }),
        );
        delete(&*disk, &mut model, round * 10, round * 10 + 9);
    }
    assert_eq!(model.len() as u32, 400 * KEY_GROUPS);
    assert_eq!(all(&*disk), model);
    let disk = reopened(
        &backend,
        &scratch.path().join("again"),
        &*disk,
        &mut BTreeMap::new(),
    );
    assert_eq!(all(&*disk), model);
}

/// Two disks that resume from one checkpoint write different files under the same RocksDB number.
#[test]
fn disks_of_one_origin_name_their_files_apart() {
    let scratch = tempfile::tempdir().unwrap();
    let backend = RocksBackend::new(MEMORY_BYTES).unwrap();
    let origin = backend.open(&scratch.path().join("origin"), &[]).unwrap();
    write(
        &*origin,
        &mut Model::new(),
        (0..10).map(|i| (key(0, i), Some(vec![0]))),
    );
    let checkpoint = scratch.path().join("checkpoint");
    let old = shared_names(&origin.checkpoint(&checkpoint).unwrap());
    let branch = |name: &str, value: u8| {
        let whole = [part(&checkpoint, KeyGroupRange::all(KEY_GROUPS), true)];
        let disk = backend.open(&scratch.path().join(name), &whole).unwrap();
        write(
            &*disk,
            &mut Model::new(),
            (20..30).map(|i| (key(0, i), Some(vec![value]))),
        );
        shared_names(
            &disk
                .checkpoint(&scratch.path().join(format!("{name}-checkpoint")))
                .unwrap(),
        )
    };
    let (one, two) = (branch("one", 1), branch("two", 2));
    let common: Vec<&String> = one.iter().filter(|name| two.contains(name)).collect();
    assert_eq!(
        (common, old.len(), one.len(), two.len()),
        (old.iter().collect(), 1, 2, 2)
    );
}

fn shared_names(files: &[DiskFile]) -> Vec<String> {
    files
        .iter()
        .filter(|file| file.shared)
        .map(|file| file.name.clone())
        .collect()
}

#[test]
fn the_folder_goes_with_the_disk_and_a_taken_one_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let backend = RocksBackend::new(MEMORY_BYTES).unwrap();
    let folder = scratch.path().join("operator/disk");
    let disk = backend.open(&folder, &[]).unwrap();
    write(
        &*disk,
        &mut Model::new(),
        (0..10_000).map(|i| (key(0, i), Some(vec![0; 100]))),
    );
    assert!(disk.disk_bytes() > 10_000, "{} bytes", disk.disk_bytes());
    let error = backend.open(&folder, &[]).err().unwrap();
    assert_eq!(error.code().id, "S7007");
    assert_eq!(
        all(&*disk).len(),
        10_000,
        "the disk in the folder is untouched"
    );
    drop(disk);
    assert!(!folder.exists() && folder.parent().unwrap().exists());
}
