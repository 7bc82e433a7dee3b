//! The manifest of a checkpoint: everything that a restart needs, and where it lies. Written once,
//! before the log entry that publishes it.
//!
//! In memory the paths in a manifest are those of the store. On disk they are relative to the
//! manifest's own folder, so that a savepoint may be moved.

use crate::manifest_check::check;
use crate::names::{folder_of, manifest_path, origin_of, relative, resolve};
use crate::sealed::{seal, unseal};
use crate::{Creation, Entry, JobLog, Published, Store, Stored};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use streamrt_types::{Error, Result, code, failpoint};

/// Whose a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotKind {
    /// The system's: made by the interval, deleted when newer ones are retained.
    Checkpoint,
    /// The user's: made on demand, in a folder of its own, never deleted by the system.
    Savepoint,
}

/// A plugin of the job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginEntry {
    /// For people: that of the component's file, without its extension.
    pub name: String,
    /// blake3 of the component's bytes, in hex digits.
    pub digest: String,
    pub args: Vec<String>,
    pub component: Stored,
    /// The digest of the component that the job was started with, where an upgrade has put this one
    /// in its place: the same command then goes on with this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
    /// By which its user knows that the upgrade was theirs: see [`crate::ApprovalKey`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<String>,
}

/// Where an operator ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorEntry {
    pub uid: String,
    pub vertex: u32,
    pub parallelism: u32,
}

/// What one subtask put into a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SubtaskSnapshot {
    pub vertex: u32,
    pub subtask: u32,
    /// It had ended before the checkpoint, and does not run again.
    pub finished: bool,
    /// None if there was nothing to write. One that has not changed since is shared with the
    /// checkpoint before.
    pub object: Option<Stored>,
    /// What stands in front of the bytes of the object, where a state grows at its end: what
    /// checkpoints before have written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub begins: Vec<Beginning>,
    /// The operators of the chain that have states.
    pub operators: Vec<IndexEntry>,
    /// Records that it has skipped since the job was started last.
    #[serde(default)]
    pub dead_letters: u64,
    /// The files of states on disk. Those that have not changed since are shared with the
    /// checkpoint before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<DiskFileEntry>,
}

/// The states of an operator within the object of a subtask.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IndexEntry {
    pub uid: String,
    /// Where what stands in the object, as the tasks wrote it: nobody else reads it.
    #[serde(flatten)]
    pub index: Map<String, Value>,
}

/// The beginning of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beginning {
    pub stored: Stored,
    /// How many of its bytes count; what follows them is void.
    pub used: u64,
}

/// A file of an operator's state on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskFileEntry {
    pub uid: String,
    /// Within the folder of the disk.
    pub name: String,
    pub stored: Stored,
}

impl SubtaskSnapshot {
    /// Everything that it refers to.
    pub fn objects(&self) -> impl Iterator<Item = &Stored> {
        let begins = self.begins.iter().map(|begin| &begin.stored);
        self.object
            .iter()
            .chain(begins)
            .chain(self.files.iter().map(|file| &file.stored))
    }

    /// Bytes that an older checkpoint than `checkpoint`, this one, was the first to have.
    pub fn shared_bytes(&self, checkpoint: u64) -> u64 {
        let is_shared =
            |stored: &&Stored| origin_of(&stored.path).is_some_and(|(first, _)| first < checkpoint);
        self.objects()
            .filter(is_shared)
            .map(|stored| stored.bytes)
            .sum()
    }

    /// The entry of a subtask that had finished.
    pub fn finished(vertex: u32, subtask: u32) -> SubtaskSnapshot {
        SubtaskSnapshot {
            vertex,
            subtask,
            finished: true,
            ..SubtaskSnapshot::default()
        }
    }
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`Manifest::VERSION`]; a newer one is refused.
    pub version: u32,
    /// The job's name.
    pub job: String,
    pub job_id: String,
    pub checkpoint: u64,
    pub kind: SnapshotKind,
    /// That of the leader that wrote it.
    pub generation: u64,
    /// When it was made, in ms since the epoch; for people alone.
    pub wall_clock_ms: i64,
    /// The version of the program.
    pub streamrt: String,
    pub max_parallelism: u32,
    /// The job as the user wrote it.
    pub plan: Value,
    /// What the user has set, by key, as it was written; for people alone. A restart goes by what
    /// its own command says.
    pub configuration: BTreeMap<String, String>,
    pub plugins: Vec<PluginEntry>,
    /// Every operator, by uid.
    pub operators: Vec<OperatorEntry>,
    /// Every subtask, once.
    pub subtasks: Vec<SubtaskSnapshot>,
    /// Records that were skipped before the job was started last.
    #[serde(default)]
    pub dead_letters_before: u64,
    /// The sources were told to end before their input does. Those that had ended have no state, so
    /// a job that goes on from here reads nothing more: else it would skip what they had not read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drained: bool,
    /// The folders that the user granted to the components, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub grants: BTreeMap<String, String>,
    /// While an upgrade is in its probation: the components of the version before, which goes on if
    /// this one fails.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<PluginEntry>,
}

impl Manifest {
    /// What this code writes, and the newest that it reads.
    pub const VERSION: u32 = 1;

    /// Records that the job has skipped.
    pub fn dead_letters(&self) -> u64 {
        self.subtasks
            .iter()
            .fold(self.dead_letters_before, |sum, subtask| {
                sum.saturating_add(subtask.dead_letters)
            })
    }

    /// Writes the manifest to `store`: that of the job for a checkpoint, that of the savepoint's
    /// own folder for a savepoint. All objects have to be there already. The checkpoint counts only
    /// when the result stands in the log: see [`publish`].
    ///
    /// # Errors
    /// `Internal` if the manifest does not hold together; S7007 if the store failed or holds
    /// another savepoint already.
    pub fn write(&self, store: &Store) -> Result<Published> {
        check(self).map_err(|message| {
            Error::internal(format!(
                "the manifest of checkpoint {}: {message}",
                self.checkpoint
            ))
        })?;
        let path = manifest_path(self.kind, self.checkpoint, self.generation);
        let mut relative_paths = self.clone();
        relative_paths.each_path(|stored| {
            stored.path = relative(folder_of(&path), &stored.path);
            Ok(())
        })?;
        let bytes = seal(&relative_paths)?;
        let manifest = Stored::of(&path, &bytes);
        match store.create(&path, bytes)? {
            Creation::Created => store.get(&manifest)?,
            Creation::Exists(_) => {
                return Err(Error::new(
                    code::STORE,
                    format!("{} holds another `{path}` already", store.location()),
                ));
            }
            Creation::Failed(error) => return Err(error),
        };
        let location = (self.kind == SnapshotKind::Savepoint).then(|| store.location().to_owned());
        Ok(Published {
            checkpoint: self.checkpoint,
            kind: self.kind,
            manifest,
            location,
            uncommitted: false,
        })
    }

    /// Reads and checks the bytes of a manifest that lies at `path`.
    ///
    /// # Errors
    /// `Data` (S7001) if it is damaged, `Invalid` (S7002) if it is of a newer version or something
    /// else.
    pub(crate) fn read(path: &str, bytes: &[u8]) -> Result<Manifest> {
        let mut manifest: Manifest = unseal(path, "the manifest", bytes, Self::VERSION)?;
        manifest.each_path(|stored| {
            stored.path = resolve(folder_of(path), &stored.path)?;
            Ok(())
        })?;
        let damaged = |message| {
            Error::new(
                code::SNAPSHOT_DAMAGED,
                format!("the manifest `{path}` does not hold together: {message}"),
            )
        };
        check(&manifest).map_err(damaged)?;
        Ok(manifest)
    }

    fn each_path(&mut self, mut change: impl FnMut(&mut Stored) -> Result<()>) -> Result<()> {
        self.plugins
            .iter_mut()
            .chain(&mut self.before)
            .try_for_each(|plugin| change(&mut plugin.component))?;
        let files = |subtask: &mut SubtaskSnapshot| {
            subtask
                .files
                .iter_mut()
                .try_for_each(|file| change(&mut file.stored))
        };
        self.subtasks.iter_mut().try_for_each(files)?;
        let begins = self
            .subtasks
            .iter_mut()
            .flat_map(|subtask| &mut subtask.begins);
        begins
            .map(|begin| &mut begin.stored)
            .try_for_each(&mut change)?;
        self.subtasks
            .iter_mut()
            .filter_map(|subtask| subtask.object.as_mut())
            .try_for_each(change)
    }

    /// Everything that the manifest refers to: the states, then the components.
    pub fn objects(&self) -> impl Iterator<Item = &Stored> {
        let states = self.subtasks.iter().flat_map(SubtaskSnapshot::objects);
        states.chain(
            self.plugins
                .iter()
                .chain(&self.before)
                .map(|plugin| &plugin.component),
        )
    }
}

/// Makes a checkpoint count: the manifest first, then its entry in the log, which is the commit
/// point. `store` is the job's, or that of the savepoint's folder. The objects have to be there
/// already. `commits`: sinks commit with it, so that a job goes on from it or not at all.
///
/// # Errors
/// As [`Manifest::write`] and [`JobLog::append`]. If the log still leads afterwards, the checkpoint
/// does not count and never will.
pub fn publish(
    manifest: &Manifest,
    store: &Store,
    log: &mut JobLog,
    commits: bool,
) -> Result<Published> {
    let published = Published {
        uncommitted: !commits,
        ..manifest.write(store)?
    };
    failpoint("log.before")?;
    log.append(Entry::Published(published.clone()))?;
    Ok(published)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::Snapshot;
    use crate::names::{component_path, object_path};
    use serde_json::json;

    /// A checkpoint of `count`, with two subtasks of which the second has finished, whose objects
    /// are in the store.
    pub(crate) fn manifest(
        store: &Store,
        kind: SnapshotKind,
        checkpoint: u64,
        generation: u64,
    ) -> Manifest {
        let index = Map::from_iter([("lists".to_owned(), json!([{"name": "splits"}]))]);
        let operators = vec![IndexEntry {
            uid: "count".into(),
            index,
        }];
        let path = object_path(kind, checkpoint, generation, 0, 0);
        let object = Some(store.put(&path, b"states of count".to_vec()).unwrap());
        let component = store.put(&component_path("d1"), b"wasm".to_vec()).unwrap();
        let digest = component.checksum.clone();
        Manifest {
            version: Manifest::VERSION,
            job: "j".into(),
            job_id: "1".into(),
            checkpoint,
            kind,
            generation,
            wall_clock_ms: 5,
            streamrt: "0.1.0".into(),
            max_parallelism: 128,
            plan: json!({"nodes": []}),
            configuration: BTreeMap::from([("batch.rows".into(), "7".into())]),
            plugins: vec![PluginEntry {
                name: "p".into(),
                digest,
                args: vec!["--input".into()],
                component,
                replaces: None,
                approval: None,
            }],
            operators: vec![OperatorEntry {
                uid: "count".into(),
                vertex: 0,
                parallelism: 2,
            }],
            subtasks: vec![
                SubtaskSnapshot {
                    vertex: 0,
                    subtask: 0,
                    finished: false,
                    object,
                    operators,
                    dead_letters: 3,
                    ..SubtaskSnapshot::default()
                },
                SubtaskSnapshot::finished(0, 1),
            ],
            dead_letters_before: 4,
            drained: false,
            grants: BTreeMap::from([("audit".into(), "/audit".into())]),
            before: Vec::new(),
        }
    }

    #[test]
    fn a_checkpoint_comes_back_as_it_was_published() {
        let store = Store::in_memory().unwrap();
        let (mut log, _) = JobLog::take_over(&store, "a").unwrap();
        let written = manifest(&store, SnapshotKind::Checkpoint, 7, 1);
        let published = publish(&written, &store, &mut log, true).unwrap();
        assert_eq!(
            (published.manifest.path.as_str(), &published.location),
            ("chk-7/manifest-1.json", &None)
        );
        let snapshot = Snapshot::load(&store, log.history().newest().unwrap()).unwrap();
        assert_eq!(*snapshot.manifest(), written);
        assert_eq!(snapshot.component(&written.plugins[0]).unwrap(), b"wasm");
        let states = |subtask| snapshot.states(0, subtask).unwrap();
        assert_eq!(states(0).unwrap().as_slice(), b"states of count");
        assert_eq!((states(1), states(2)), (None, None));
    }

    #[test]
    fn an_object_is_read_once_and_shared() {
        let store = Store::in_memory().unwrap();
        let (mut log, _) = JobLog::take_over(&store, "a").unwrap();
        let published = publish(
            &manifest(&store, SnapshotKind::Checkpoint, 1, 1),
            &store,
            &mut log,
            true,
        )
        .unwrap();
        let snapshot = Snapshot::load(&store, &published).unwrap();
        let object = |snapshot: &Snapshot| snapshot.states(0, 0).unwrap().unwrap();
        let first = object(&snapshot);
        store.delete("chk-1/0-0-1").unwrap();
        assert!(std::sync::Arc::ptr_eq(&first, &object(&snapshot)));
        let anew = Snapshot::load(&store, &published).unwrap();
        assert_eq!(
            anew.states(0, 0).err().unwrap().message(),
            "`chk-1/0-0-1` is missing in memory"
        );
    }

    #[test]
    fn a_savepoint_may_be_moved() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let (job, savepoint) = (
            Store::open(&at("job")).unwrap(),
            Store::open(&at("sp")).unwrap(),
        );
        let (mut log, _) = JobLog::take_over(&job, "a").unwrap();
        let written = manifest(&savepoint, SnapshotKind::Savepoint, 3, 1);
        let published = publish(&written, &savepoint, &mut log, true).unwrap();
        let loaded = Snapshot::load(&job, &published).unwrap();
        assert!(loaded.states(0, 0).unwrap().is_some());
        let again = Manifest {
            checkpoint: 4,
            ..written.clone()
        };
        assert!(
            publish(&again, &savepoint, &mut log, true)
                .unwrap_err()
                .message()
                .ends_with("holds another `manifest.json` already")
        );
        std::fs::rename(at("sp"), at("moved")).unwrap();
        let moved = Snapshot::open(&at("moved/")).unwrap();
        assert_eq!(*moved.manifest(), written);
        assert!(moved.states(0, 0).unwrap().is_some());
        assert_eq!(
            Snapshot::load(&job, &published).err().unwrap().code(),
            code::STORE
        );
    }

    #[test]
    fn a_checkpoint_is_found_by_its_folder_or_that_of_the_job() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().to_str().unwrap();
        let store = Store::open(place).unwrap();
        let (mut log, _) = JobLog::take_over(&store, "a").unwrap();
        for checkpoint in [1, 2] {
            publish(
                &manifest(&store, SnapshotKind::Checkpoint, checkpoint, 1),
                &store,
                &mut log,
                true,
            )
            .unwrap();
        }
        manifest(&store, SnapshotKind::Checkpoint, 3, 1)
            .write(&store)
            .unwrap();
        let open =
            |place: &str| Snapshot::open(place).map(|snapshot| snapshot.manifest().checkpoint);
        assert_eq!(open(place).unwrap(), 2);
        assert_eq!(open(&format!("{place}/chk-1/")).unwrap(), 1);
        assert_eq!(
            open(&format!("{place}/chk-3")).unwrap_err().code(),
            code::SNAPSHOT_FOREIGN
        );
        assert_eq!(
            open(&format!("{place}/log")).unwrap_err().code(),
            code::SNAPSHOT_FOREIGN
        );
        assert_eq!(
            open(&format!("{place}/nothing")).unwrap_err().code(),
            code::STORE
        );
    }

    #[test]
    fn a_damaged_manifest_or_object_is_never_loaded() {
        let store = Store::in_memory().unwrap();
        let (mut log, _) = JobLog::take_over(&store, "a").unwrap();
        let published = publish(
            &manifest(&store, SnapshotKind::Checkpoint, 1, 1),
            &store,
            &mut log,
            true,
        )
        .unwrap();
        let load = || Snapshot::load(&store, &published)?.states(0, 0).map(drop);
        for path in ["chk-1/manifest-1.json", "chk-1/0-0-1"] {
            let whole = store.read(path).unwrap().unwrap();
            for at in 0..whole.len() {
                let mut changed = whole.clone();
                changed[at] ^= 1 << (at % 8);
                store.put(path, changed.clone()).unwrap();
                assert_eq!(
                    load().unwrap_err().code(),
                    code::SNAPSHOT_DAMAGED,
                    "{path}, byte {at}"
                );
                assert_eq!(
                    Manifest::read(path, &changed).unwrap_err().code(),
                    code::SNAPSHOT_DAMAGED
                );
                store.put(path, whole[..at].to_vec()).unwrap();
                assert_eq!(
                    load().unwrap_err().code(),
                    code::SNAPSHOT_DAMAGED,
                    "{path}, cut at {at}"
                );
            }
            store.put(path, whole).unwrap();
            load().unwrap();
        }
    }

    #[test]
    fn a_newer_manifest_and_a_path_that_leads_out_are_refused() {
        let store = Store::in_memory().unwrap();
        let written = manifest(&store, SnapshotKind::Checkpoint, 1, 1);
        let read =
            |manifest: &Manifest| Manifest::read("chk-1/m", &seal(manifest).unwrap()).unwrap_err();
        let newer = read(&Manifest {
            version: 2,
            ..written.clone()
        });
        assert_eq!(
            newer.message(),
            "the manifest `chk-1/m` is of version 2, but this streamrt knows versions up to 1"
        );
        assert_eq!(newer.code(), code::SNAPSHOT_FOREIGN);
        let mut outside = written;
        outside.plugins[0].component.path = "../../../etc/passwd".into();
        assert_eq!(read(&outside).code(), code::SNAPSHOT_DAMAGED);
    }
}
