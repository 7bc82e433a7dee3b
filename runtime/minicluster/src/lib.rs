//! A cluster in one process: the JobMaster of a job and the TaskManager that runs its tasks, with
//! channels between them. What `streamrt run` runs a job with.
//!
//! The parts are those of a cluster of many processes, which puts a network between them; nothing
//! is decided here.

mod job;
mod plugins;
#[cfg(test)]
mod tests;
mod wire;

pub use job::{Ended, JobHandle, JobRemote, JobToRun, MiniCluster, Submission, Summary};
pub use plugins::LoadedPlugin;
