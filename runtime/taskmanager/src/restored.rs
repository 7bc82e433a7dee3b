//! What a checkpoint kept, ready to be given to tasks at any parallelism.

use std::collections::{BTreeMap, BTreeSet};
use streamrt_checkpoint::Snapshot;
use streamrt_operator::OperatorContext;
use streamrt_state::{OperatorState, Part, Share};
use streamrt_types::Result;

/// The parts of every operator, by uid and old subtask.
#[derive(Default)]
pub struct Restored {
    parts: BTreeMap<String, Vec<Option<Part>>>,
    /// The operators whose subtasks had all finished.
    finished: BTreeSet<String>,
    dead_letters: u64,
}

impl Restored {
    /// Reads the states that a checkpoint refers to.
    ///
    /// # Errors
    /// `Data` if one is missing or damaged.
    pub fn read(snapshot: &Snapshot) -> Result<Restored> {
        let manifest = snapshot.manifest();
        let mut restored = Restored { dead_letters: manifest.dead_letters(), ..Restored::default() };
        for operator in &manifest.operators {
            restored.parts.insert(operator.uid.clone(), snapshot.parts(&operator.uid)?);
            if manifest.subtasks.iter().filter(|subtask| subtask.vertex == operator.vertex).all(|subtask| subtask.finished) {
                restored.finished.insert(operator.uid.clone());
            }
        }
        Ok(restored)
    }

    /// Whether all subtasks of an operator had finished.
    pub fn is_finished(&self, uid: &str) -> bool {
        self.finished.contains(uid)
    }

    /// The records that had been skipped.
    pub fn dead_letters(&self) -> u64 {
        self.dead_letters
    }

    /// The parts under a uid, by old subtask.
    pub fn parts(&self, uid: &str) -> &[Option<Part>] {
        self.parts.get(uid).map_or(&[], Vec::as_slice)
    }

    /// The uids under which there is state.
    pub fn with_state(&self) -> impl Iterator<Item = &str> {
        let has_state =
            |parts: &[Option<Part>]| parts.iter().flatten().any(|part| !part.index.keyed.is_empty() || !part.index.lists.is_empty());
        self.parts.iter().filter(move |(_, parts)| has_state(parts)).map(|(uid, _)| uid.as_str())
    }

    /// What the subtask of `context` gets of the state under `uid`; nothing if there is none.
    ///
    /// # Errors
    /// `Data` if the bytes are damaged.
    pub fn state(&self, uid: &str, context: &OperatorContext) -> Result<OperatorState> {
        let OperatorContext { subtask, parallelism, key_groups, max_parallelism, .. } = *context;
        OperatorState::assemble(uid, self.parts(uid), Share { subtask, parallelism, key_groups, max_parallelism })
    }
}
