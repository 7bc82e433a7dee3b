//! Looks into checkpoints and savepoints: `savepoint inspect`, `state get`, `fsck`.

use crate::args::{Format, FsckArgs, SnapshotArgs, StateGetArgs};
use crate::{key, print, report};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use streamrt_checkpoint::{PluginEntry, Snapshot, Store, SubtaskSnapshot};
use streamrt_state::{OperatorIndex, OperatorState, RowCodec, Share};
use streamrt_taskmanager::{SnapshotStates, read_indexes};
use streamrt_types::{Error, KeyGroupRange, Result, code};
use streamrt_wit::{DataType, Field, Schema};

/// What the parts of one keyed state come to.
#[derive(Default)]
struct Size {
    types: Value,
    entries: u64,
    bytes: u64,
    /// In files of the rocksdb backend, which count only as a whole.
    on_disk: bool,
}

impl Size {
    fn add(&mut self, entries: u64, bytes: u64) {
        self.entries = self.entries.saturating_add(entries);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// `streamrt savepoint inspect`.
///
/// # Errors
/// If there is no snapshot, or it is damaged.
pub fn inspect(args: &SnapshotArgs) -> Result<()> {
    let snapshot = Snapshot::open(&args.dir.to_string_lossy())?;
    let (manifest, kept) = (snapshot.manifest(), SnapshotStates::of(&snapshot)?);
    let objects = manifest.subtasks.iter().flat_map(SubtaskSnapshot::objects);
    let (n_objects, n_bytes) = objects.fold((0, 0u64), |(n, bytes), stored| {
        (n + 1, bytes.saturating_add(stored.bytes))
    });
    match args.output {
        Format::Json => {
            let operator = |uid: &str| {
                json!({"uid": uid, "states": states(&kept, uid).iter().map(|(name, size)| {
                json!({"name": name, "types": size.types, "entries": size.entries, "bytes": size.bytes, "on_disk": size.on_disk})
            }).collect::<Value>(), "bytes": kept.indexes(uid).map(bytes_of).fold(0, u64::saturating_add)})
            };
            let operators: Value = manifest
                .operators
                .iter()
                .map(|entry| operator(&entry.uid))
                .collect();
            let object = json!({"job": manifest.job, "checkpoint": manifest.checkpoint, "kind": manifest.kind, "wall_clock_ms": manifest.wall_clock_ms,
                "max_parallelism": manifest.max_parallelism, "configuration": manifest.configuration, "components": components(&snapshot),
                "bytes": n_bytes, "operators": operators});
            print(&format!("{object}\n"))
        }
        Format::Text => {
            let mut text = format!(
                "{} {} of job `{}`, max parallelism {}, {} bytes in {} objects\n",
                json!(manifest.kind).as_str().unwrap_or_default(),
                manifest.checkpoint,
                manifest.job,
                manifest.max_parallelism,
                n_bytes,
                n_objects
            );
            for plugin in &manifest.plugins {
                text += &format!(
                    "component {} {} with `{}`\n",
                    plugin.name,
                    plugin.digest,
                    plugin.args.join(" ")
                );
            }
            manifest
                .configuration
                .iter()
                .for_each(|(key, value)| text += &format!("{key} = {value}\n"));
            for entry in &manifest.operators {
                text += &format!("{} (parallelism {})\n", entry.uid, entry.parallelism);
                for (name, size) in states(&kept, &entry.uid) {
                    text += &match size.on_disk {
                        true => format!("  {name}: on disk, {}\n", size.types),
                        false => format!(
                            "  {name}: {} entries, {} bytes, {}\n",
                            size.entries, size.bytes, size.types
                        ),
                    };
                }
            }
            print(&text)
        }
    }
}

fn components(snapshot: &Snapshot) -> Value {
    let component = |plugin: &PluginEntry| json!({"name": plugin.name, "digest": plugin.digest, "args": plugin.args});
    snapshot.manifest().plugins.iter().map(component).collect()
}

/// Bytes of the states of one operator of one subtask.
fn bytes_of(index: &OperatorIndex) -> u64 {
    let groups = index.keyed.iter().flat_map(|keyed| &keyed.groups);
    let lists = index.lists.iter().map(|list| list.bytes);
    let on_disk = index.disk.iter().map(|disk| disk.bytes);
    groups
        .map(|span| span.bytes)
        .chain(lists)
        .chain(on_disk)
        .fold(0, u64::saturating_add)
}

/// The keyed states of an operator, and its lists, by name.
fn states(kept: &SnapshotStates<'_>, uid: &str) -> BTreeMap<String, Size> {
    let mut states: BTreeMap<String, Size> = BTreeMap::new();
    for index in kept.indexes(uid) {
        for keyed in &index.keyed {
            let size = states.entry(keyed.name.clone()).or_default();
            size.types = keyed.types.clone();
            for span in &keyed.groups {
                size.add(span.entries, span.bytes);
            }
        }
        for state in index.disk.iter().flat_map(|disk| &disk.states) {
            let size = states.entry(state.name.clone()).or_default();
            (size.types, size.on_disk) = (state.types.clone(), true);
        }
        for list in &index.lists {
            let size = states.entry(list.name.clone()).or_default();
            size.types = if list.types.is_null() {
                json!({"kind": "operator-list", "mode": list.mode})
            } else {
                list.types.clone()
            };
            size.add(list.items, list.bytes);
        }
    }
    states
}

/// `streamrt state get`.
///
/// # Errors
/// If there is no such state, or its bytes are damaged.
pub fn get(args: &StateGetArgs) -> Result<()> {
    let mut keyed = KeyedState::open(&args.dir, &args.uid, &args.state)?;
    let decoder = Decoder::new(&keyed.types);
    let wanted = args
        .key
        .as_ref()
        .map(|key| key::parse(&keyed.types["key"], key))
        .transpose()?;
    let mut text = String::new();
    keyed.each(|_, key, sub, value| {
        let key = decoder.key(key);
        if wanted
            .as_ref()
            .is_none_or(|wanted| key::is_same(&key, wanted))
        {
            text += &format!(
                "{}\n",
                json!({"key": key, "sub": decoder.sub(sub), "value": decoder.value(value)})
            );
        }
        Ok(())
    })?;
    if let (Some(key), true) = (&args.key, text.is_empty()) {
        report::status(&format!("the state has no entry of the key {key}"));
    }
    print(&text)
}

/// A keyed state of a snapshot, of all key groups.
pub struct KeyedState {
    name: String,
    /// What its bytes mean.
    pub types: Value,
    pub max_parallelism: u32,
    state: OperatorState,
}

impl KeyedState {
    /// # Errors
    /// If there is no such state, or its bytes are damaged.
    pub fn open(dir: &Path, uid: &str, name: &str) -> Result<KeyedState> {
        let snapshot = Snapshot::open(&dir.to_string_lossy())?;
        let kept = SnapshotStates::of(&snapshot)?;
        let parts = kept.parts(uid)?;
        let keyed = parts
            .iter()
            .flatten()
            .flat_map(|part| &part.index.keyed)
            .find(|keyed| keyed.name == name);
        let types = keyed
            .map(|keyed| keyed.types.clone())
            .ok_or_else(|| unreadable(&snapshot, &kept, uid, name))?;
        let max_parallelism = snapshot.manifest().max_parallelism;
        let share = Share {
            subtask: 0,
            parallelism: 1,
            key_groups: KeyGroupRange::all(max_parallelism),
            max_parallelism,
        };
        Ok(KeyedState {
            name: name.to_owned(),
            types,
            max_parallelism,
            state: OperatorState::assemble(uid, &parts, share)?,
        })
    }

    /// Shows every entry, once: hash, key, sub-key, value.
    ///
    /// # Errors
    /// `Data` if the state is damaged, or what `each` says.
    pub fn each(&mut self, each: impl FnMut(u32, &[u8], &[u8], &[u8]) -> Result<()>) -> Result<()> {
        self.state.keyed(&self.name, &self.types, each)
    }
}

fn unreadable(snapshot: &Snapshot, kept: &SnapshotStates<'_>, uid: &str, name: &str) -> Error {
    if states(kept, uid).get(name).is_some_and(|size| size.on_disk) {
        let message = format!(
            "state `{name}` of operator `{uid}` is in files of the rocksdb backend: a savepoint of the job has its entries"
        );
        return Error::new(code::SNAPSHOT_FOREIGN, message);
    }
    let known: Vec<String> = snapshot
        .manifest()
        .operators
        .iter()
        .flat_map(|entry| {
            states(kept, &entry.uid)
                .into_keys()
                .map(|name| format!("{}/{name}", entry.uid))
                .collect::<Vec<_>>()
        })
        .collect();
    let message = format!(
        "there is no keyed state `{name}` of operator `{uid}`; there are {}",
        known.join(", ")
    );
    Error::new(code::WRONG_USE, message)
}

/// Turns the bytes of a state into JSON, as far as its types tell; else into hexadecimal digits.
struct Decoder {
    key: Option<RowCodec>,
    sub: Option<RowCodec>,
    value: Option<RowCodec>,
    /// The time of last access stands in front of each value, eight bytes.
    stamped: bool,
}

impl Decoder {
    fn new(types: &Value) -> Decoder {
        let stamped = types["time-to-live"] == json!(true) && types["kind"] != json!("list");
        Decoder {
            key: codec("key", &types["key"]),
            sub: codec("map_key", &types["map-key"]),
            value: codec("value", &types["value"]),
            stamped,
        }
    }

    fn key(&self, bytes: &[u8]) -> Value {
        decoded(self.key.as_ref(), bytes)
    }

    fn sub(&self, bytes: &[u8]) -> Value {
        if bytes.is_empty() {
            Value::Null
        } else {
            decoded(self.sub.as_ref(), bytes)
        }
    }

    fn value(&self, bytes: &[u8]) -> Value {
        match bytes.split_first_chunk().filter(|_| self.stamped) {
            None => decoded(self.value.as_ref(), bytes),
            Some((stamp, row)) => {
                json!({"last-access-ms": i64::from_le_bytes(*stamp), "value": decoded(self.value.as_ref(), row)})
            }
        }
    }
}

/// Columns are `"Int64"`, or `["i64", nullable]`. A single one is called `name`, several `name_1`
/// and so on.
pub fn codec(name: &str, columns: &Value) -> Option<RowCodec> {
    let columns = columns.as_array()?;
    let name_of = |number: usize| {
        if columns.len() == 1 {
            name.to_owned()
        } else {
            format!("{name}_{}", number + 1)
        }
    };
    let field = |(number, column): (usize, &Value)| {
        let (data_type, nullable) = column_type(column)?;
        Some(Field {
            nullable,
            ..Field::new(name_of(number), data_type)
        })
    };
    let schema: Schema = columns
        .iter()
        .enumerate()
        .map(field)
        .collect::<Option<_>>()?;
    Some(RowCodec::new(&schema))
}

/// The type of a column, and whether it may be null.
pub fn column_type(column: &Value) -> Option<(DataType, bool)> {
    let (name, nullable) = match column {
        Value::Array(pair) => (pair.first()?.as_str()?, pair.get(1)?.as_bool()?),
        other => (other.as_str()?, false),
    };
    Some((
        serde_json::from_value::<DataType>(json!(name))
            .ok()
            .or_else(|| arrow_name(name))?,
        nullable,
    ))
}

fn arrow_name(name: &str) -> Option<DataType> {
    Some(match name {
        "Boolean" => DataType::Bool,
        "Int32" => DataType::I32,
        "Int64" => DataType::I64,
        "UInt32" => DataType::U32,
        "UInt64" => DataType::U64,
        "Float32" => DataType::F32,
        "Float64" => DataType::F64,
        "Utf8" => DataType::String,
        "Binary" => DataType::Binary,
        _ => return None,
    })
}

fn decoded(codec: Option<&RowCodec>, bytes: &[u8]) -> Value {
    let columns = codec.and_then(|codec| {
        codec
            .check(bytes)
            .and_then(|()| codec.decode(&[bytes]))
            .ok()
    });
    let Some(columns) = columns else {
        return Value::String(bytes.iter().map(|byte| format!("{byte:02x}")).collect());
    };
    let row: Value =
        serde_json::from_str(&streamrt_operator::json::row(&columns, 0)).unwrap_or_default();
    row.as_object()
        .map_or(Value::Null, |row| row.values().cloned().collect())
}

/// `streamrt fsck`.
///
/// # Errors
/// S7001 if something is missing or damaged; everything is listed first.
pub fn fsck(args: &FsckArgs) -> Result<()> {
    let place = args.dir.to_string_lossy();
    let report = streamrt_checkpoint::fsck(&Store::existing(&place)?, &|path, manifest| {
        read_indexes(path, manifest).map(drop)
    })?;
    let mut text = format!(
        "{} objects are whole, {} bytes\n",
        report.whole, report.whole_bytes
    );
    report
        .missing
        .iter()
        .for_each(|path| text += &format!("missing {path}\n"));
    report
        .damaged
        .iter()
        .for_each(|path| text += &format!("damaged {path}\n"));
    report
        .unreferenced
        .iter()
        .for_each(|(path, bytes)| text += &format!("unreferenced {path}, {bytes} bytes\n"));
    print(&text)?;
    if report.is_sound() {
        return Ok(());
    }
    Err(Error::new(
        code::SNAPSHOT_DAMAGED,
        format!("{place} is not whole"),
    ))
}
