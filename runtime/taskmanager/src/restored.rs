//! What a checkpoint kept, ready to be given to tasks at any parallelism.

use crate::places::Places;
use crate::snapshot_states::SnapshotStates;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use streamrt_checkpoint::{DiskFileEntry, OperatorEntry, Snapshot, Store};
use streamrt_graph::Subtask;
use streamrt_operator::OperatorContext;
use streamrt_state::{DiskPart, DiskState, OperatorState, Part, Share};
use streamrt_types::{Error, KeyGroupRange, Result, code};

/// The parts of every operator, by uid and old subtask.
#[derive(Default)]
pub struct Restored {
    /// Where the files of states on disk are; None if there are none.
    store: Option<Store>,
    /// Those files, by uid and old subtask.
    files: BTreeMap<String, Vec<Vec<DiskFileEntry>>>,
    parts: BTreeMap<String, Vec<Option<Part>>>,
    /// The operators whose subtasks had all finished.
    finished: BTreeSet<String>,
    dead_letters: u64,
    /// Where its sources read and its sinks wrote.
    pub places: Places,
    /// Records that had been skipped by each (vertex, subtask) of a region that starts again.
    letters: BTreeMap<(u32, u32), u64>,
}

impl Restored {
    /// Reads the states that a checkpoint refers to.
    ///
    /// # Errors
    /// `Data` if one is missing or damaged.
    pub fn read(snapshot: &Snapshot) -> Result<Restored> {
        Restored::read_of(snapshot, |_| true)
    }

    /// As [`Restored::read`], for a region that starts again: of its own operators alone. `counts`
    /// says that the checkpoint was made by tasks of this attempt, which go on with their counters.
    ///
    /// # Errors
    /// As [`Restored::read`].
    pub fn read_region(
        snapshot: &Snapshot,
        operators: &[OperatorEntry],
        counts: bool,
    ) -> Result<Restored> {
        let restored = Restored::read_of(snapshot, |uid| {
            operators.iter().any(|operator| operator.uid == uid)
        })?;
        let subtasks = snapshot.manifest().subtasks.iter().filter(|_| counts);
        let letters = subtasks
            .map(|subtask| ((subtask.vertex, subtask.subtask), subtask.dead_letters))
            .collect();
        Ok(Restored {
            letters,
            ..restored
        })
    }

    fn read_of(snapshot: &Snapshot, wanted: impl Fn(&str) -> bool) -> Result<Restored> {
        let (manifest, states) = (snapshot.manifest(), SnapshotStates::of(snapshot)?);
        let running: BTreeSet<u32> = manifest
            .subtasks
            .iter()
            .filter(|subtask| !subtask.finished)
            .map(|subtask| subtask.vertex)
            .collect();
        let mut restored = Restored {
            dead_letters: manifest.dead_letters(),
            store: Some(snapshot.store().clone()),
            places: Places::of(manifest),
            ..Restored::default()
        };
        for operator in manifest
            .operators
            .iter()
            .filter(|operator| wanted(&operator.uid))
        {
            restored
                .parts
                .insert(operator.uid.clone(), states.parts(&operator.uid)?);
            restored
                .files
                .insert(operator.uid.clone(), snapshot.files(&operator.uid));
            if !running.contains(&operator.vertex) {
                restored.finished.insert(operator.uid.clone());
            }
        }
        Ok(restored)
    }

    /// An operator whose state is in files of the RocksDB backend.
    pub fn on_disk(&self) -> Option<&str> {
        let on_disk =
            |parts: &[Option<Part>]| parts.iter().flatten().any(|part| part.index.disk.is_some());
        self.parts
            .iter()
            .find(|(_, parts)| on_disk(parts))
            .map(|(uid, _)| uid.as_str())
    }

    /// Fetches the files of an operator's state that a new subtask needs into the new folder
    /// `folder`, and says what they hold.
    ///
    /// # Errors
    /// `Data` if a file is missing or damaged, S7007 if the store or the disk failed.
    pub fn disk_parts(
        &self,
        uid: &str,
        share: Share,
        folder: &Path,
    ) -> Result<(Vec<DiskPart>, Vec<DiskState>)> {
        let (mut parts, mut states) = (Vec::new(), BTreeMap::new());
        let old = self.parts(uid);
        for (number, part) in old.iter().enumerate() {
            let Some(index) = part.as_ref().and_then(|part| part.index.disk.as_ref()) else {
                continue;
            };
            // All subtasks number their states alike, also those that get no keys of this one.
            states.extend(
                index
                    .states
                    .iter()
                    .map(|state| (state.name.clone(), state.clone())),
            );
            let held =
                KeyGroupRange::of_subtask(share.max_parallelism, old.len() as u32, number as u32);
            let wanted = held.common(&share.key_groups);
            if wanted.is_empty() {
                continue;
            }
            let folder = folder.join(number.to_string());
            self.fetch(&self.files[uid][number], &folder)?;
            parts.push(DiskPart {
                folder,
                key_groups: wanted,
                whole: wanted == held,
            });
        }
        Ok((parts, states.into_values().collect()))
    }

    fn fetch(&self, files: &[DiskFileEntry], folder: &Path) -> Result<()> {
        let store = self
            .store
            .as_ref()
            .ok_or_else(|| Error::internal("files without a store"))?;
        let failed = |e| {
            Error::new(
                code::STORE,
                format!(
                    "the files of a checkpoint cannot be put into {}",
                    folder.display()
                ),
            )
            .with_source(e)
        };
        std::fs::create_dir_all(folder).map_err(failed)?;
        files.iter().try_for_each(|file| {
            std::fs::write(folder.join(&file.name), store.get(&file.stored)?).map_err(failed)
        })
    }

    /// The files of `store` that the disk of a subtask begins with, under their names: those of an
    /// old subtask that had the same keys.
    pub fn known_files(
        &self,
        store: &Store,
        uid: &str,
        parallelism: u32,
        subtask: u32,
    ) -> &[DiskFileEntry] {
        let same_store = self
            .store
            .as_ref()
            .is_some_and(|own| own.location() == store.location());
        let files = self
            .files
            .get(uid)
            .filter(|files| same_store && files.len() == parallelism as usize);
        files.map_or(&[], |files| &files[subtask as usize])
    }

    /// Whether all subtasks of an operator had finished.
    pub fn is_finished(&self, uid: &str) -> bool {
        self.finished.contains(uid)
    }

    /// The records that had been skipped.
    pub fn dead_letters(&self) -> u64 {
        self.dead_letters
    }

    /// Those of one subtask, where it goes on with its counter.
    pub fn letters_of(&self, subtask: &Subtask) -> u64 {
        self.letters
            .get(&(subtask.vertex as u32, subtask.index))
            .copied()
            .unwrap_or_default()
    }

    /// The parts under a uid, by old subtask.
    pub fn parts(&self, uid: &str) -> &[Option<Part>] {
        self.parts.get(uid).map_or(&[], Vec::as_slice)
    }

    /// Whether the job that the snapshot is of had an operator with this uid.
    pub fn knows(&self, uid: &str) -> bool {
        self.parts.contains_key(uid)
    }

    /// The uids under which there is state.
    pub fn with_state(&self) -> impl Iterator<Item = &str> {
        let has_state =
            |parts: &[Option<Part>]| parts.iter().flatten().any(|part| !part.index.is_empty());
        self.parts
            .iter()
            .filter(move |(_, parts)| has_state(parts))
            .map(|(uid, _)| uid.as_str())
    }

    /// What the subtask of `context` gets of the state under `uid`; nothing if there is none.
    ///
    /// # Errors
    /// `Data` if the bytes are damaged.
    pub fn state(&self, uid: &str, context: &OperatorContext) -> Result<OperatorState> {
        let OperatorContext {
            subtask,
            parallelism,
            key_groups,
            max_parallelism,
            ..
        } = *context;
        OperatorState::assemble(
            uid,
            self.parts(uid),
            Share {
                subtask,
                parallelism,
                key_groups,
                max_parallelism,
            },
        )
    }
}
