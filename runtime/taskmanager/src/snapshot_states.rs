//! The states of a snapshot. Its manifest carries an index for each operator of a subtask, which says
//! where in the subtask's bytes the states are, and which the store of checkpoints does not read.
//!
//! Invariant: no index is used before those of all subtasks were held against the bytes that they are
//! about. The checksum of a manifest says that it is what somebody wrote, and not that they meant
//! well.

use serde_json::{Map, Value};
use streamrt_checkpoint::{IndexEntry, Manifest, Snapshot, SubtaskSnapshot};
use streamrt_state::{OperatorIndex, Part, check_indexes};
use streamrt_types::{Error, Result, code};

/// The states that a snapshot refers to, by operator.
pub struct SnapshotStates<'a> {
    snapshot: &'a Snapshot,
    /// Where the states of each subtask are, in the order of the manifest.
    indexes: Vec<Vec<OperatorIndex>>,
}

impl SnapshotStates<'_> {
    /// Reads and checks the indexes of a snapshot; of the states themselves nothing is read.
    ///
    /// # Errors
    /// As [`read_indexes`].
    pub fn of(snapshot: &Snapshot) -> Result<SnapshotStates<'_>> {
        let path = &snapshot.published().manifest.path;
        let indexes = read_indexes(path, snapshot.manifest())?;
        Ok(SnapshotStates { snapshot, indexes })
    }

    /// The indexes of an operator, by the subtask that wrote them; those without states are left out.
    pub fn indexes(&self, uid: &str) -> impl Iterator<Item = &OperatorIndex> {
        let all = self.indexes.iter().flatten();
        all.filter(move |index| index.uid == uid)
    }

    /// What each old subtask of an operator wrote, by subtask; None for one that had finished or had
    /// no states. Empty if the operator is not in the snapshot. The bytes stay in memory as long as
    /// the snapshot or a part of it does.
    ///
    /// # Errors
    /// As [`streamrt_checkpoint::Store::get`].
    pub fn parts(&self, uid: &str) -> Result<Vec<Option<Part>>> {
        let manifest = self.snapshot.manifest();
        let mut operators = manifest.operators.iter();
        let Some(operator) = operators.find(|operator| operator.uid == uid) else {
            return Ok(Vec::new());
        };
        let mut parts = vec![None; operator.parallelism as usize];
        for (subtask, indexes) in manifest.subtasks.iter().zip(&self.indexes) {
            let index = indexes.iter().find(|index| index.uid == uid);
            let part = index.map(|index| self.part(subtask, index)).transpose()?;
            if let (Some(part), Some(place)) = (part, parts.get_mut(subtask.subtask as usize)) {
                *place = part;
            }
        }
        Ok(parts)
    }

    fn part(&self, subtask: &SubtaskSnapshot, index: &OperatorIndex) -> Result<Option<Part>> {
        let object = self.snapshot.states(subtask.vertex, subtask.subtask)?;
        Ok(object.map(|object| Part {
            object,
            index: index.clone(),
        }))
    }
}

/// Reads the indexes of all subtasks of a manifest that lies at `path`, and checks them.
///
/// # Errors
/// `Data` (S7001) if one does not fit the bytes that it is about, `Invalid` (S7002) if it is something
/// else.
pub fn read_indexes(path: &str, manifest: &Manifest) -> Result<Vec<Vec<OperatorIndex>>> {
    let foreign = |cause| {
        Error::new(
            code::SNAPSHOT_FOREIGN,
            format!("`{path}` is whole, but it is not the manifest"),
        )
        .with_source(cause)
    };
    let of_subtask = |subtask: &SubtaskSnapshot| {
        let indexes = subtask.operators.iter().map(index_of);
        let indexes = indexes.collect::<Result<Vec<_>, _>>().map_err(foreign)?;
        check_indexes(&indexes, manifest.max_parallelism, state_bytes(subtask)).map_err(
            |fault| {
                let (subtask, vertex) = (subtask.subtask, subtask.vertex);
                Error::new(
                    code::SNAPSHOT_DAMAGED,
                    format!(
                        "the manifest `{path}` does not hold together: subtask {subtask} of vertex {vertex} {fault}"
                    ),
                )
            },
        )?;
        Ok(indexes)
    };
    manifest.subtasks.iter().map(of_subtask).collect()
}

/// A snapshot whose indexes hold together.
///
/// # Errors
/// As [`read_indexes`].
pub(crate) fn checked(snapshot: Snapshot) -> Result<Snapshot> {
    SnapshotStates::of(&snapshot)?;
    Ok(snapshot)
}

/// The bytes that the indexes of a subtask are about, as its manifest says.
fn state_bytes(subtask: &SubtaskSnapshot) -> u64 {
    let begins = subtask.begins.iter().map(|begin| begin.used);
    let object = subtask.object.iter().map(|object| object.bytes);
    object.chain(begins).fold(0, u64::saturating_add)
}

/// The indexes of a subtask whose states are `bytes`, as its manifest carries them.
///
/// # Errors
/// `Internal` if they do not hold together.
pub(crate) fn entries(
    indexes: &[OperatorIndex],
    max_parallelism: u32,
    bytes: &[u8],
) -> Result<Vec<IndexEntry>> {
    check_indexes(indexes, max_parallelism, bytes.len() as u64)
        .map_err(|fault| Error::internal(format!("a subtask {fault}")))?;
    indexes.iter().map(entry_of).collect()
}

fn entry_of(index: &OperatorIndex) -> Result<IndexEntry> {
    let value = serde_json::to_value(index)
        .map_err(|cause| Error::internal("an index has no JSON").with_source(cause))?;
    serde_json::from_value(value)
        .map_err(|cause| Error::internal("an index is no JSON object").with_source(cause))
}

fn index_of(entry: &IndexEntry) -> serde_json::Result<OperatorIndex> {
    let mut index: Map<String, Value> = entry.index.clone();
    index.insert("uid".to_owned(), Value::String(entry.uid.clone()));
    serde_json::from_value(Value::Object(index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// An index as releases before have written it.
    const INDEX: &str = r#"{"uid":"count","keyed":[{"name":"sum","types":"i64","groups":[{"group":3,"offset":0,"bytes":7,"entries":1}]}],"lists":[{"name":"splits","mode":"split","offset":7,"bytes":5,"items":2}]}"#;

    fn manifest(object_bytes: u64) -> Manifest {
        let object = json!({"path": "0-0-1", "bytes": object_bytes, "checksum": ""});
        let index: Value = serde_json::from_str(INDEX).unwrap();
        let subtask = json!({"vertex": 0, "subtask": 0, "finished": false, "object": object, "operators": [index]});
        serde_json::from_value(json!({
            "version": 1, "job": "j", "job_id": "1", "checkpoint": 1, "kind": "checkpoint",
            "generation": 1, "wall_clock_ms": 0, "streamrt": "0.1.0", "max_parallelism": 128,
            "plan": [], "configuration": {}, "plugins": [], "subtasks": [subtask],
            "operators": [{"uid": "count", "vertex": 0, "parallelism": 1}],
        }))
        .unwrap()
    }

    #[test]
    fn an_index_goes_through_a_manifest_unchanged() {
        let read = read_indexes("m", &manifest(12)).unwrap();
        let index: OperatorIndex = serde_json::from_str(INDEX).unwrap();
        assert_eq!(read, [[index.clone()]]);
        let written = entries(&[index], 128, &[0; 12]).unwrap();
        assert_eq!(written, manifest(12).subtasks[0].operators);
        let before: Value = serde_json::from_str(INDEX).unwrap();
        assert_eq!(serde_json::to_value(&written[0]).unwrap(), before);
    }

    #[test]
    fn an_index_that_does_not_fit_is_neither_written_nor_read() {
        let error = read_indexes("m", &manifest(11)).unwrap_err();
        assert_eq!(
            (error.code(), error.message()),
            (
                code::SNAPSHOT_DAMAGED,
                "the manifest `m` does not hold together: subtask 0 of vertex 0 has states of operator `count` \
                 whose items are more than there are bytes, in list `splits`"
            )
        );
        let index: OperatorIndex = serde_json::from_str(INDEX).unwrap();
        let error = entries(&[index], 128, &[0; 11]).unwrap_err();
        assert_eq!(error.code(), code::INTERNAL);
    }

    #[test]
    fn what_is_no_index_is_foreign() {
        let mut manifest = manifest(12);
        let index = &mut manifest.subtasks[0].operators[0].index;
        index.insert("keyed".to_owned(), json!(7));
        let error = read_indexes("m", &manifest).unwrap_err();
        assert_eq!(error.code(), code::SNAPSHOT_FOREIGN);
        assert_eq!(error.message(), "`m` is whole, but it is not the manifest");
    }
}
