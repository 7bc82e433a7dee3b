//! Runs a job: a thread for each subtask, the mailbox loop of each, and what joins sources, gates,
//! chains and exits.
//!
//! This crate decides nothing about the job (its JobMaster does) and knows no semantics (operators
//! do): it starts threads, moves elements from gates through chains to partitions, watches the clock, and
//! ends everything together when one part fails.

mod alignment;
mod attempt;
mod control;
mod dead_letters;
mod definition;
mod disk_uploads;
mod disks;
mod enumerator;
mod exits;
mod factory;
mod fits;
mod gate_task;
mod grown;
mod guest_log;
mod mailbox;
mod metrics;
mod places;
mod rate;
mod rates;
mod reader;
mod replaceable;
mod restored;
mod service;
mod settle;
mod snapshot_states;
mod split_rows;
mod splits;
mod task;
mod uploader;
mod vertices;

pub use definition::Plugins;
pub use disks::StateBackend;
pub use metrics::{Progress, SnapshotTimes};
pub use rates::PerSecond;
pub use service::{JobTasks, Surroundings};
pub use snapshot_states::{SnapshotStates, read_indexes};
pub use vertices::{SubtaskCounters, VertexReport};

#[cfg(test)]
mod tests;
