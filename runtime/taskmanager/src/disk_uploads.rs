//! Files of states on disk on their way into the store: one that is there already is not written
//! again.
//!
//! Invariant: a file that a checkpoint shares was put into the store by this leader, or stands in
//! the checkpoint that it went on from. Files of an older leader's unpublished checkpoints are
//! removed when a new one takes over.

use crate::restored::Restored;
use std::collections::BTreeMap;
use std::sync::Arc;
use streamrt_checkpoint::{DiskFileEntry, OperatorEntry, Store, Stored, file_path};
use streamrt_state::DiskFiles;
use streamrt_types::{Error, Result, code};

/// The subtask whose state it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub vertex: u32,
    pub subtask: u32,
}

/// What the store has of each disk, by the name of the file.
pub(crate) struct DiskUploads {
    store: Store,
    generation: u64,
    known: BTreeMap<(Place, String), BTreeMap<String, Stored>>,
}

impl DiskUploads {
    /// `operators` are those of the job; `restored` is what they went on from.
    pub fn new(
        store: Store,
        generation: u64,
        operators: &[OperatorEntry],
        restored: &Restored,
    ) -> DiskUploads {
        let mut uploads = DiskUploads {
            store,
            generation,
            known: BTreeMap::new(),
        };
        uploads.restart(operators, restored);
        uploads
    }

    /// The disks of these operators are now made of `restored`, and of nothing else: what they
    /// write from here on may have names of old.
    pub fn restart(&mut self, operators: &[OperatorEntry], restored: &Restored) {
        for operator in operators {
            for subtask in 0..operator.parallelism {
                let files =
                    restored.known_files(&self.store, &operator.uid, operator.parallelism, subtask);
                let by_name = files
                    .iter()
                    .map(|file| (file.name.clone(), file.stored.clone()))
                    .collect();
                self.known.insert(
                    (
                        Place {
                            vertex: operator.vertex,
                            subtask,
                        },
                        operator.uid.clone(),
                    ),
                    by_name,
                );
            }
        }
    }

    /// Puts the files of one operator's disk into the store, but those that are there. `number` is
    /// that of the operator in its chain.
    ///
    /// # Errors
    /// S7007 if a file cannot be read, or the store failed.
    pub fn upload(
        &mut self,
        checkpoint: u64,
        place: Place,
        number: usize,
        uid: &Arc<str>,
        on_disk: &DiskFiles,
    ) -> Result<Vec<DiskFileEntry>> {
        let known = self.known.entry((place, uid.to_string())).or_default();
        let mut entries = Vec::with_capacity(on_disk.files.len());
        for file in &on_disk.files {
            let stored = match known.get(&file.name).filter(|_| file.shared) {
                Some(stored) => stored.clone(),
                None => {
                    let path = on_disk.path(file);
                    let failed = |e| {
                        Error::new(code::STORE, format!("{} cannot be read", path.display()))
                            .with_source(e)
                    };
                    let bytes = std::fs::read(&path).map_err(failed)?;
                    let name = file_path(
                        checkpoint,
                        self.generation,
                        (place.vertex, place.subtask),
                        number,
                        &file.name,
                    );
                    let stored = self.store.put(&name, bytes)?;
                    known.insert(file.name.clone(), stored.clone());
                    stored
                }
            };
            entries.push(DiskFileEntry {
                uid: uid.to_string(),
                name: file.name.clone(),
                stored,
            });
        }
        known.retain(|name, _| {
            on_disk
                .files
                .iter()
                .any(|file| file.shared && file.name == *name)
        });
        Ok(entries)
    }
}
