//! Decides about jobs: which there are, and for each of them what is to happen next.
//!
//! 1. The [`Dispatcher`] takes jobs, commands to them, and questions. What it decides, and what the
//!    [`job_master`] of each job decides, are pure state machines.
//! 2. The [`Registry`] keeps what was submitted and how it ended, so that a JobManager that was
//!    killed goes on where it was; [`Blobs`] keeps the components.
//! 3. The ResourceManager, a part of the Dispatcher's state machine, hands out slots.
//!
//! Nothing here knows operators, state, channels or guest code: jobs are plans and configurations,
//! and what runs them is spoken to in the messages of `streamrt-rpc`, or through a [`JobRunner`].

mod blobs;
pub mod dispatcher;
mod failure;
mod ids;
mod job;
pub mod job_master;
mod operations;
mod registry;
mod resource_manager;
mod runner;
mod shell;
mod specification;
mod triggers;

pub use blobs::Blobs;
pub use dispatcher::{Dispatcher, Limits, Settings};
pub use failure::Failure;
pub use ids::JobId;
pub use job::{Job, Phase};
pub use operations::{Operation, Outcome};
pub use registry::{End, Entry, Note, Registered, Registry, Totals};
pub use runner::{JobRunner, RunningJob};
pub use specification::{Component, Specification, Version, check_whole};
pub use triggers::{Trigger, Triggers};
