//! The messages. Enums are append-only: a variant keeps its place for ever, since its number is what
//! stands on the wire.

use crate::{JobPlan, WireError};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use streamrt_checkpoint::{OperatorEntry, Published, SubtaskSnapshot};

/// A snapshot from which tasks go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restore {
    /// The store in which its manifest lies, as [`streamrt_checkpoint::Store::open`] takes it.
    pub location: String,
    #[serde(with = "as_text")]
    pub published: Published,
}

/// Whose tasks a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// All regions of the job.
    Job,
    /// A region that starts again while others run on.
    Region {
        region: usize,
        /// The generation of its tasks before.
        old_generation: u64,
        /// The snapshot was made by tasks of this attempt, so their counters go on.
        counts: bool,
    },
}

/// How a user wants the job to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Wish {
    /// What is in flight is finished, or kept in a last checkpoint; nothing fires that is not due.
    Stop,
    /// The sources end as if their input had: everything fires.
    Drain,
    /// The job ends at once, and what is not committed is withdrawn.
    Cancel,
}

/// What a JobMaster wants of a TaskManager, for one job. Messages are carried out in the order in
/// which they were sent, but for `Wish` and `Cancel`, which take effect at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToTaskManager {
    /// Read what tasks of this version go on from, and check that it fits. Answered with
    /// [`Answered::Opened`].
    Open {
        step: u64,
        scope: Scope,
        version: u32,
        #[serde(with = "crate::plan::shared")]
        plan: Arc<JobPlan>,
        restore: Option<Restore>,
        /// The name of the job in its transactions; empty if it has none yet.
        job: String,
    },
    /// Commit what the snapshot promises, unless that is done (None), and withdraw everything else
    /// that tasks of this scope have left behind their sinks.
    Settle {
        step: u64,
        scope: Scope,
        version: u32,
        #[serde(with = "crate::plan::shared")]
        plan: Arc<JobPlan>,
        job: String,
        /// The generation of the tasks that are to follow.
        generation: u64,
        promised: Option<Restore>,
        /// Give up as soon as a user wants the job to end.
        interruptible: bool,
    },
    /// Make the tasks of this scope from what was opened, but start none.
    Prepare {
        step: u64,
        scope: Scope,
        job: String,
        generation: u64,
    },
    /// Start the tasks that are prepared.
    Start { scope: Scope },
    /// Let these tasks begin a checkpoint.
    Trigger {
        checkpoint: u64,
        tasks: Vec<usize>,
        /// The location of the store of a savepoint.
        savepoint: Option<String>,
        /// The version whose code takes over after the barrier.
        upgrade: Option<u32>,
    },
    /// The checkpoint counts, and what was pre-committed for it is to be committed.
    Complete { checkpoint: u64 },
    /// The checkpoint will never count.
    Abort { checkpoint: u64 },
    /// End these regions at once.
    Cancel { regions: Vec<usize> },
    /// A user wants the job to end.
    Wish { wish: Wish },
    /// Make instances of a new version's code: for the tasks that run, or, if its graph has another
    /// shape, to see that they can be made.
    PrepareUpgrade {
        step: u64,
        version: u32,
        #[serde(with = "crate::plan::shared")]
        plan: Arc<JobPlan>,
        in_place: bool,
    },
}

/// What opening a version has shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// Everything that has state in a snapshot, with its vertex.
    pub operators: Vec<OperatorEntry>,
    /// Records that earlier attempts had skipped.
    pub dead_letters: u64,
    /// Every source ends by itself.
    pub is_bounded: bool,
    /// What a user should know of the job's sources and sinks, one line each.
    pub remarks: Vec<String>,
}

/// How a step went well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answered {
    Opened(Opened),
    Settled,
    Prepared,
    UpgradePrepared,
}

/// What a checkpoint cost one subtask.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubtaskReport {
    /// As in `count (2/4)`.
    pub name: String,
    /// From the first barrier to the last.
    pub alignment_us: u64,
    /// On the task's thread.
    pub sync_us: u64,
    /// To turn the frozen state into bytes and to write it.
    pub async_us: u64,
    /// Written for this checkpoint.
    pub bytes: u64,
    /// All that the checkpoint refers to.
    pub full_bytes: u64,
}

/// What a TaskManager tells a JobMaster. `generation` is that of the task's region.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromTaskManager {
    Answer {
        step: u64,
        result: Result<Answered, WireError>,
    },
    Acknowledged {
        task: usize,
        generation: u64,
        checkpoint: u64,
        #[serde(with = "as_text")]
        snapshot: SubtaskSnapshot,
        report: SubtaskReport,
    },
    Declined {
        task: usize,
        generation: u64,
        checkpoint: u64,
        reason: String,
    },
    /// What was pre-committed for this checkpoint and those before it is committed.
    Committed {
        task: usize,
        generation: u64,
        checkpoint: u64,
    },
    /// All input is treated, but results wait for a checkpoint.
    Ended { task: usize, generation: u64 },
    /// The task is gone, and has skipped this number of records.
    Finished {
        task: usize,
        generation: u64,
        dead_letters: u64,
    },
    /// All tasks of a region are gone; after everything that they have reported.
    RegionEnded {
        region: usize,
        generation: u64,
        error: Option<WireError>,
    },
}

/// Entries of manifests and logs leave out what is not there, or hold types of any shape, which only
/// a format that describes itself can.
mod as_text {
    use serde::de::{DeserializeOwned, Error as _};
    use serde::ser::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<T: Serialize, S: Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&serde_json::to_string(value).map_err(S::Error::custom)?)
    }

    pub fn deserialize<'de, T: DeserializeOwned, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        serde_json::from_str(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
