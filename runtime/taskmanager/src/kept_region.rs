//! What a region that failed goes on from, and what its tasks have left in the systems behind its
//! sinks.

use crate::control::Control;
use crate::dead_letters;
use crate::durable::newest;
use crate::factory::{Definition, Factory};
use crate::restored::Restored;
use crate::settle::{is_committed, settle_sinks};
use std::sync::Arc;
use streamrt_checkpoint::{History, OperatorEntry, Snapshot, Store};
use streamrt_operator::subtask_prefix;
use streamrt_types::{Error, Result, code};

/// What is kept of a region that failed while the others run on.
pub(crate) struct KeptRegion {
    pub store: Store,
    pub history: History,
    pub job: Arc<str>,
    pub definition: Arc<Definition>,
    pub operators: Vec<OperatorEntry>,
    /// Tasks of this attempt have made the checkpoints from this one on.
    pub first_checkpoint: u64,
}

/// Where a region begins that failed.
pub(crate) struct RegionBeginning {
    pub restored: Arc<Restored>,
    /// The checkpoint that it goes on from; 0: none.
    pub checkpoint: u64,
    pub operators: Vec<OperatorEntry>,
}

impl KeptRegion {
    /// That of its new tasks.
    pub fn generation(&self) -> u64 {
        self.history.generation
    }

    /// Reads what the region of these vertices goes on from, and settles its sinks. Its tasks had
    /// the generation `old`, and have carried out all commits up to the checkpoint `committed`.
    /// `control` says when to give up.
    ///
    /// # Errors
    /// As [`crate::durable::open`].
    pub fn settle(
        &self,
        control: Arc<Control>,
        vertices: &[usize],
        old: u64,
        committed: u64,
    ) -> Result<RegionBeginning> {
        let operators: Vec<OperatorEntry> = self
            .operators
            .iter()
            .filter(|operator| vertices.contains(&(operator.vertex as usize)))
            .cloned()
            .collect();
        let snapshot = newest(&self.store, &self.history)?;
        let checkpoint = snapshot
            .as_ref()
            .map_or(0, |snapshot| snapshot.manifest().checkpoint);
        if committed != u64::MAX && checkpoint < committed {
            let message = format!(
                "results were committed with savepoint {committed}, which cannot be read any more"
            );
            return Err(Error::new(code::SNAPSHOT_DAMAGED, message));
        }
        let read = |snapshot: &Snapshot| {
            Restored::read_region(snapshot, &operators, checkpoint >= self.first_checkpoint)
        };
        let restored = Arc::new(snapshot.as_ref().map(read).transpose()?.unwrap_or_default());
        let is_settled = committed >= checkpoint
            || snapshot.is_some_and(|snapshot| is_committed(&self.history, &snapshot));
        let promised = Some(&*restored).filter(|_| !is_settled);
        let (definition, generation) = (&*self.definition, self.generation());
        let factory = Factory {
            definition,
            control,
            job: self.job.clone(),
            generation,
            restored: Arc::default(),
        };
        settle_sinks(&factory, promised, vertices)?;
        let prefix = dead_letters::prefix(&self.job);
        let letters: Vec<String> = definition
            .tasks_of(vertices)
            .map(|(task, _)| subtask_prefix(&prefix, old, task as u32))
            .collect();
        dead_letters::settle(&factory, promised, &letters)?;
        Ok(RegionBeginning {
            restored,
            checkpoint,
            operators,
        })
    }
}
