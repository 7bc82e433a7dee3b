//! Savepoints that somebody wrote who can compute checksums: every bit flipped, every number a lie,
//! objects that are cut. What is read is whole or refused, nothing panics, and memory stays at what
//! lies in the folder.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use streamrt_checkpoint::{
    IndexEntry, Manifest, OperatorEntry, PluginEntry, Snapshot, SnapshotKind, Store,
    SubtaskSnapshot, component_path, object_path,
};
use streamrt_state::{
    FrozenEntries, KeyedSnapshot, ListMode, ListSnapshot, OperatorIndex, OperatorSnapshot,
    OperatorState, Share,
};
use streamrt_taskmanager::SnapshotStates;
use streamrt_types::{ErrorKind, KeyGroupRange, Result};

const MAX_PARALLELISM: u32 = 128;
const OBJECT: &str = "0-0-1";
const MANIFEST: &str = "manifest.json";

/// Bytes of all states.
const STATE_BYTES: usize = 4096;

/// What the whole process may have, which also holds the test.
const MEMORY_BYTES_MAX: u64 = 200 << 20;

/// A keyed state and a list of each mode; their index, and their bytes.
fn states() -> (OperatorIndex, Vec<u8>) {
    let entry = |n: u32| (n.to_le_bytes().to_vec(), b"sub".to_vec(), vec![7; 20]);
    let entries = Box::new(FrozenEntries((0..40).map(entry).collect()));
    let list = |name: &str, mode| ListSnapshot {
        name: name.into(),
        mode,
        types: Value::Null,
        items: vec![b"one".to_vec(), b"other".to_vec()],
    };
    let lists = vec![
        list("split", ListMode::Split),
        list("union", ListMode::Union),
        list("broadcast", ListMode::Broadcast),
    ];
    let keyed = vec![KeyedSnapshot {
        name: "sum".into(),
        types: json!("i64"),
        entries,
    }];
    let mut object = Vec::new();
    let index = OperatorSnapshot { keyed, lists }.write("count", MAX_PARALLELISM, &mut object);
    assert!(object.len() < STATE_BYTES);
    (index, object)
}

fn write_savepoint(folder: &Path) {
    let store = Store::open(folder.to_str().unwrap()).unwrap();
    let (index, object) = states();
    let object = Some(
        store
            .put(&object_path(SnapshotKind::Savepoint, 3, 1, 0, 0), object)
            .unwrap(),
    );
    let component = store.put(&component_path("d"), b"wasm".to_vec()).unwrap();
    let digest = component.checksum.clone();
    let plugin = PluginEntry {
        name: "p".into(),
        digest,
        args: Vec::new(),
        component,
        replaces: None,
        approval: None,
    };
    let running = SubtaskSnapshot {
        vertex: 0,
        subtask: 0,
        finished: false,
        object,
        operators: vec![
            serde_json::from_value::<IndexEntry>(serde_json::to_value(index).unwrap()).unwrap(),
        ],
        ..SubtaskSnapshot::default()
    };
    let manifest = Manifest {
        version: Manifest::VERSION,
        job: "j".into(),
        job_id: "1".into(),
        checkpoint: 3,
        kind: SnapshotKind::Savepoint,
        generation: 1,
        wall_clock_ms: 5,
        streamrt: "0.1.0".into(),
        max_parallelism: MAX_PARALLELISM,
        plan: json!([]),
        configuration: BTreeMap::new(),
        plugins: vec![plugin],
        operators: vec![OperatorEntry {
            uid: "count".into(),
            vertex: 0,
            parallelism: 2,
        }],
        subtasks: vec![running, SubtaskSnapshot::finished(0, 1)],
        dead_letters_before: 0,
        drained: false,
        grants: BTreeMap::new(),
        before: Vec::new(),
    };
    manifest.write(&store).unwrap();
}

/// The manifest as JSON, without its checksum.
fn body(folder: &Path) -> Vec<u8> {
    let sealed = std::fs::read(folder.join(MANIFEST)).unwrap();
    let head = br#"{"checksum":"","#.len() + 64;
    [b"{", &sealed[head..]].concat()
}

/// Writes a manifest whose checksum is right.
fn seal(folder: &Path, body: &[u8]) {
    let rest = &body[1..];
    let checksum = blake3::hash(rest).to_hex();
    std::fs::write(
        folder.join(MANIFEST),
        [br#"{"checksum":""#, checksum.as_bytes(), br#"","#, rest].concat(),
    )
    .unwrap();
}

/// Reads everything that a restore reads, and returns how many bytes of state it was shown.
fn restore(folder: &Path) -> Result<usize> {
    let snapshot = Snapshot::open(folder.to_str().unwrap())?;
    let states = SnapshotStates::of(&snapshot)?;
    let max_parallelism = snapshot.manifest().max_parallelism;
    let mut n_bytes = 0;
    for uid in snapshot
        .manifest()
        .operators
        .iter()
        .map(|operator| operator.uid.clone())
        .collect::<Vec<_>>()
    {
        let parts = states.parts(&uid)?;
        for parallelism in [1, 3] {
            let key_groups = KeyGroupRange::of_subtask(max_parallelism, parallelism, 0);
            let mut state = OperatorState::assemble(
                &uid,
                &parts,
                Share {
                    subtask: 0,
                    parallelism,
                    key_groups,
                    max_parallelism,
                },
            )?;
            state.keyed("sum", &json!("i64"), |_, key, sub, value| {
                n_bytes += key.len() + sub.len() + value.len();
                Ok(())
            })?;
            n_bytes += ["split", "union", "broadcast"]
                .map(|list| state.list(list).concat().len())
                .iter()
                .sum::<usize>();
        }
    }
    Ok(n_bytes)
}

/// Returns whether it was refused.
#[track_caller]
fn check(folder: &Path, what: &str) -> bool {
    match restore(folder) {
        Ok(n_bytes) => {
            assert!(
                n_bytes < 2 * STATE_BYTES,
                "{what}: {n_bytes} bytes were shown"
            );
            false
        }
        Err(error) => {
            assert!(
                error.code().id.starts_with("S7") && error.kind() != ErrorKind::Internal,
                "{what}: {error}"
            );
            true
        }
    }
}

/// The most memory that this process has had.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim()
        .strip_suffix(" kB")
        .unwrap()
        .parse::<u64>()
        .unwrap()
        << 10
}

/// Calls `each` with every number of a document.
fn each_number(value: &Value, path: &mut Vec<String>, each: &mut impl FnMut(&[String])) {
    match value {
        Value::Number(_) => each(path),
        Value::Array(values) => values
            .iter()
            .enumerate()
            .for_each(|(at, value)| within(at.to_string(), value, path, each)),
        Value::Object(members) => members
            .iter()
            .for_each(|(name, value)| within(name.clone(), value, path, each)),
        _ => {}
    }
}

fn within(name: String, value: &Value, path: &mut Vec<String>, each: &mut impl FnMut(&[String])) {
    path.push(name);
    each_number(value, path, each);
    path.pop();
}

#[test]
fn whatever_a_stranger_writes_is_read_whole_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_savepoint(folder);
    assert!(!check(folder, "as it was written"));
    let whole = body(folder);

    let mut refused = 0;
    for at in 1..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        seal(folder, &flipped);
        refused += usize::from(check(folder, &format!("byte {at} of the manifest")));
    }
    assert!(refused > whole.len() / 2, "{refused} of {}", whole.len());

    let document: Value = serde_json::from_slice(&whole).unwrap();
    let mut paths = Vec::new();
    each_number(&document, &mut Vec::new(), &mut |path| {
        paths.push(path.join("/"))
    });
    assert!(paths.len() > 50, "{paths:?}");
    for path in &paths {
        for lie in [
            0,
            1,
            100_000,
            1 << 31,
            u64::from(u32::MAX),
            1 << 40,
            1 << 53,
            1 << 63,
            u64::MAX - 1,
            u64::MAX,
        ] {
            let mut lying = document.clone();
            *lying.pointer_mut(&format!("/{path}")).unwrap() = json!(lie);
            seal(folder, &serde_json::to_vec(&lying).unwrap());
            check(folder, &format!("{path} is {lie}"));
        }
    }

    // The states, with a manifest that fits what they have become.
    let object = std::fs::read(folder.join(OBJECT)).unwrap();
    let changes = (0..object.len()).flat_map(|at| {
        let mut flipped = object.clone();
        flipped[at] ^= 0x80 >> (at % 8);
        [object[..at].to_vec(), flipped]
    });
    for (number, changed) in changes.enumerate() {
        let mut fitting = document.clone();
        let stored = fitting.pointer_mut("/subtasks/0/object").unwrap();
        (stored["bytes"], stored["checksum"]) = (
            json!(changed.len()),
            json!(blake3::hash(&changed).to_hex().as_str()),
        );
        std::fs::write(folder.join(OBJECT), changed).unwrap();
        seal(folder, &serde_json::to_vec(&fitting).unwrap());
        check(folder, &format!("change {number} of the states"));
    }
    assert!(
        peak_bytes() < MEMORY_BYTES_MAX,
        "{} MiB",
        peak_bytes() >> 20
    );
}
