//! Damaged and foreign checkpoints, things that are not checkpoints, and full disks: each is an
//! error that names its place, with a code.

use crate::support::{Model, all, key, part, write};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use streamrt_state::{Backend, Disk};
use streamrt_state_rocksdb::RocksBackend;
use streamrt_types::{Error, KeyGroupRange};

const MEMORY_BYTES: usize = 1 << 20;
/// Enough for several blocks in the file.
const PAIRS: u32 = 2000;

/// What is wrong with the checkpoint.
enum Damage<'a> {
    Truncated(&'a str),
    Flipped(&'a str),
    Missing(&'a str),
}

/// The file whose name begins or ends like this.
fn file(folder: &Path, name: &str) -> PathBuf {
    let mut files = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let is_it = |path: &PathBuf| {
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        file.starts_with(name) || file.ends_with(name)
    };
    files.find(is_it).unwrap()
}

impl Damage<'_> {
    fn apply(&self, folder: &Path) {
        match self {
            Damage::Truncated(name) => {
                let path = file(folder, name);
                let bytes = fs::read(&path).unwrap();
                fs::remove_file(&path).unwrap();
                fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
            }
            Damage::Flipped(name) => {
                let path = file(folder, name);
                let mut bytes = fs::read(&path).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0x10;
                fs::remove_file(&path).unwrap();
                fs::write(&path, bytes).unwrap();
            }
            Damage::Missing(name) => fs::remove_file(file(folder, name)).unwrap(),
        }
    }
}

/// Opens the damaged checkpoint whole or cut, and reads all of it.
fn error_of(damage: &Damage<'_>, whole: bool) -> (Error, PathBuf) {
    let scratch = tempfile::tempdir().unwrap();
    let backend = RocksBackend::new(MEMORY_BYTES).unwrap();
    let disk = backend.open(&scratch.path().join("disk"), &[]).unwrap();
    write(
        &*disk,
        &mut Model::new(),
        (0..PAIRS).map(|i| (key(0, i), Some(i.to_be_bytes().repeat(8)))),
    );
    let checkpoint = scratch.path().join("checkpoint");
    disk.checkpoint(&checkpoint).unwrap();
    drop(disk);
    damage.apply(&checkpoint);
    let target = scratch.path().join("restored");
    let opened = backend.open(&target, &[part(&checkpoint, KeyGroupRange::all(16), whole)]);
    let error = opened
        .and_then(|disk| disk.scan(&[], &[0xff], &mut |_, _| Ok(())))
        .unwrap_err();
    assert!(!target.exists(), "the half-made folder is gone");
    (error, checkpoint)
}

fn check(damage: &Damage<'_>) {
    for whole in [true, false] {
        let (error, _) = error_of(damage, whole);
        assert_eq!(error.code().id, "S7001", "whole {whole}: {error:?}");
        assert!(
            error.message().contains("damaged") || error.message().contains("holds no checkpoint"),
            "{error:?}"
        );
    }
}

#[test]
fn a_truncated_file_is_found() {
    check(&Damage::Truncated(".sst"));
    check(&Damage::Truncated("MANIFEST"));
    check(&Damage::Truncated("CURRENT"));
    check(&Damage::Truncated("FILES"));
}

#[test]
fn a_flipped_bit_is_found() {
    check(&Damage::Flipped(".sst"));
    check(&Damage::Flipped("MANIFEST"));
}

#[test]
fn a_missing_file_is_found() {
    check(&Damage::Missing(".sst"));
    check(&Damage::Missing("MANIFEST"));
    check(&Damage::Missing("CURRENT"));
    check(&Damage::Missing("FILES"));
}

#[test]
fn the_sentence_names_the_checkpoint() {
    let (error, checkpoint) = error_of(&Damage::Missing("CURRENT"), true);
    assert_eq!(
        error.message(),
        format!(
            "the checkpoint of a database in {} is damaged: CURRENT is missing",
            checkpoint.display()
        )
    );
    let (error, checkpoint) = error_of(&Damage::Truncated("CURRENT"), false);
    let lengths = "CURRENT has 8 bytes, but 16 were written";
    assert_eq!(
        error.message(),
        format!(
            "the checkpoint of a database in {} is damaged: {lengths}",
            checkpoint.display()
        )
    );
    let (error, checkpoint) = error_of(&Damage::Flipped(".sst"), false);
    assert_eq!(
        error.message(),
        format!(
            "the checkpoint of a database in {} is damaged",
            checkpoint.display()
        )
    );
}

#[test]
fn a_folder_of_something_else_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let backend = RocksBackend::new(MEMORY_BYTES).unwrap();
    let (empty, text, absent) = (
        scratch.path().join("empty"),
        scratch.path().join("text"),
        scratch.path().join("absent"),
    );
    fs::create_dir(&empty).unwrap();
    fs::create_dir(&text).unwrap();
    fs::write(text.join("FILES"), "a shopping list\n").unwrap();
    for (folder, code) in [(&empty, "S7001"), (&text, "S7001"), (&absent, "S7007")] {
        for whole in [true, false] {
            let opened = backend.open(
                &scratch.path().join("disk"),
                &[part(folder, KeyGroupRange::all(16), whole)],
            );
            let error = opened.err().unwrap();
            assert_eq!(
                error.code().id,
                code,
                "{} whole {whole}: {error:?}",
                folder.display()
            );
            assert!(
                error.message().contains(&*folder.to_string_lossy()),
                "{error:?}"
            );
        }
    }
}

#[test]
fn a_database_of_other_families_is_foreign() {
    let scratch = tempfile::tempdir().unwrap();
    let foreign = scratch.path().join("foreign");
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    drop(rocksdb::DB::open_cf(&options, &foreign, ["default", "other"]).unwrap());
    let names = fs::read_dir(&foreign).unwrap().map(|entry| entry.unwrap());
    let list: Vec<String> = names
        .map(|file| {
            format!(
                "{} {}\n",
                file.metadata().unwrap().len(),
                file.file_name().display()
            )
        })
        .collect();
    fs::write(
        foreign.join("FILES"),
        format!("{}\n{}", list.len(), list.concat()),
    )
    .unwrap();
    let backend = RocksBackend::new(MEMORY_BYTES).unwrap();
    let error = backend
        .open(
            &scratch.path().join("disk"),
            &[part(&foreign, KeyGroupRange::all(16), true)],
        )
        .err()
        .unwrap();
    assert_eq!(error.code().id, "S7002", "{error:?}");
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("file");
    fs::write(&file, "").unwrap();
    let error = RocksBackend::new(MEMORY_BYTES)
        .unwrap()
        .open(&file.join("disk"), &[])
        .err()
        .unwrap();
    assert_eq!(error.code().id, "S7007");
    assert!(
        error.message().contains(&*file.to_string_lossy()),
        "{error:?}"
    );
}

/// Runs the test of this name again, in a process whose files cannot grow past this many KiB: a
/// write gets "file too large", as it gets "no space left" from a full disk. In the child process,
/// the answer is `true`.
fn in_a_process_of_small_files(test: &str, kib: u32) -> bool {
    const CHILD: &str = "STREAMRT_TEST_SMALL_FILES";
    if std::env::var_os(CHILD).is_some() {
        return true;
    }
    let program = std::env::current_exe().unwrap();
    // The limit is in blocks of 512 bytes. Its signal must not end the process.
    let script = format!(
        "trap '' XFSZ; ulimit -f {}; exec \"$0\" --exact {test} --nocapture",
        kib * 2
    );
    let output = Command::new("sh")
        .arg("-c")
        .arg(script)
        .arg(program)
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
    false
}

/// Everything returns the first error from then on, and the disk can still be closed.
fn check_refusal(disk: &dyn Disk, first: &Error, scratch: &Path) {
    assert_eq!(first.code().id, "S7007", "{first:?}");
    let again = [
        disk.write(&mut [(&b"key"[..], None)].into_iter()),
        disk.get(&[b"key"], &mut |_, _| Ok(())),
        disk.scan(&[], &[0xff], &mut |_, _| Ok(())),
        disk.checkpoint(&scratch.join("checkpoint")).map(|_| ()),
    ];
    for error in again.map(Result::unwrap_err) {
        assert_eq!(error.code().id, "S7007");
        assert!(
            error.message().contains(first.message()) && error.message().contains("no more calls"),
            "{error:?}"
        );
    }
}

fn incompressible(i: u32) -> Vec<u8> {
    (0..100)
        .map(|j| (i.wrapping_mul(2_654_435_761).rotate_left(j) >> 7) as u8)
        .collect()
}

#[test]
fn a_long_write_to_a_full_disk_fails_whole() {
    if !in_a_process_of_small_files("damage::a_long_write_to_a_full_disk_fails_whole", 512) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let backend = RocksBackend::new(MEMORY_BYTES).unwrap();
    let disk = backend.open(&scratch.path().join("disk"), &[]).unwrap();
    let mut model = Model::new();
    write(
        &*disk,
        &mut model,
        (0..100).map(|i| (key(0, i), Some(vec![1; 10]))),
    );
    let checkpoint = scratch.path().join("before");
    disk.checkpoint(&checkpoint).unwrap();
    let pairs: Vec<_> = (0..50_000)
        .map(|i| (key(0, i), incompressible(i)))
        .collect();
    let error = disk
        .write(
            &mut pairs
                .iter()
                .map(|(key, value)| (&key[..], Some(&value[..]))),
        )
        .unwrap_err();
    check_refusal(&*disk, &error, scratch.path());
    drop(disk);
    let restored = backend
        .open(
            &scratch.path().join("disk"),
            &[part(&checkpoint, KeyGroupRange::all(16), true)],
        )
        .unwrap();
    assert_eq!(all(&*restored), model, "the checkpoint before is whole");
}

/// The write buffer takes some writes before the database finds that it cannot be flushed.
#[test]
fn short_writes_to_a_full_disk_fail_in_the_end() {
    if !in_a_process_of_small_files("damage::short_writes_to_a_full_disk_fail_in_the_end", 64) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let disk = RocksBackend::new(MEMORY_BYTES)
        .unwrap()
        .open(&scratch.path().join("disk"), &[])
        .unwrap();
    let write = |first: u32| {
        let pairs: Vec<_> = (first..first + 100)
            .map(|i| (key(0, i), incompressible(i)))
            .collect();
        disk.write(
            &mut pairs
                .iter()
                .map(|(key, value)| (&key[..], Some(&value[..]))),
        )
    };
    let error = (0..1000)
        .find_map(|batch| write(batch * 100).err())
        .unwrap();
    check_refusal(&*disk, &error, scratch.path());
}
