//! Runs a job: a thread for each subtask, the mailbox loop of each, and what joins sources, gates,
//! chains and exits.
//!
//! This crate decides nothing about the job (`graph` did) and knows no semantics (operators do): it
//! starts threads, moves elements from gates through chains to partitions, watches the clock, and
//! ends everything together when one part fails.

mod alignment;
mod attempt;
mod checkpoints;
mod control;
mod dead_letters;
mod disk_uploads;
mod disks;
mod durable;
mod enumerator;
mod exits;
mod factory;
mod fits;
mod gate_task;
mod grown;
mod guest_log;
mod job;
mod job_state;
mod kept_region;
mod mailbox;
mod master;
mod places;
mod rate;
mod reader;
mod regions;
mod replaceable;
mod replacement;
mod restart;
mod restored;
mod same_job;
mod settle;
mod snapshot_states;
mod split_rows;
mod splits;
mod statistics;
mod task;
mod upgrade;
mod versions;
mod vertices;
mod wishes;

pub use disks::StateBackend;
pub use factory::LoadedPlugin;
pub use job::{
    Ended, JobHandle, JobRemote, JobToRun, Progress, SnapshotTimes, Submission, Summary, submit,
};
pub use job_state::JobState;
pub use replacement::{Replacing, Trust, replacement};
pub use snapshot_states::{SnapshotStates, read_indexes};
pub use statistics::{CheckpointReport, CheckpointStatus, SubtaskReport};
pub use upgrade::Upgraded;
pub use vertices::{SubtaskCounters, VertexReport};

#[cfg(test)]
mod tests;
