//! Decides about one job, from its submission to its end.
//!
//! [`Core`] is a pure state machine: [`Core::handle`] takes what happened and the time, and returns
//! what is to be done. It has no clock, no threads and no I/O; whoever drives it carries out its
//! [`Action`]s and reports what came of them as [`Event`]s. So the same code decides in
//! `streamrt run`, in a cluster, and in simulations.
//!
//! 1. A launch looks at what is kept, lets a TaskManager read and check it, takes the job over,
//!    settles its sinks, and prepares and starts the tasks (`launch.rs`).
//! 2. While tasks run, the coordinator of checkpoints decides (`checkpoints.rs`); a region that
//!    fails starts again alone (`region.rs`).
//! 3. What ends an attempt decides what comes next: the end of the input or a stop ends the job, a
//!    failure is tried again as the restart strategy says, an upgrade goes on with other code
//!    (`ending.rs`, `upgrade.rs`). Whatever the reason, the next attempt goes on from the newest
//!    checkpoint, with the version that it names.

mod attempt;
mod checkpoints;
mod core;
mod ending;
mod failures;
mod job_state;
mod kept;
mod launch;
mod region;
mod replacement;
mod restart;
mod runner;
mod same_job;
mod statistics;
mod store;
#[cfg(test)]
mod tests;
mod upgrade;
mod version;
mod versions;
mod wishes;

pub use core::{Core, Submission};
pub use failures::{FailureReport, Failures};
pub use job_state::JobState;
pub use replacement::{Replacing, Trust, replacement};
pub use runner::{Inbox, JobMaster, Line, Seams};
pub use statistics::{CheckpointReport, CheckpointStatus, Statistics};
pub use store::{Components, JobStore, Publication, StoreFailure, StoreReply, StoreRequest};
pub use version::Version;
pub use wishes::When;

use std::time::Duration;
use streamrt_rpc::{FromTaskManager, JobPlan, ToTaskManager, WireError};

/// A moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Now {
    /// Since the JobMaster began; never goes back.
    pub elapsed: Duration,
    /// The wall clock in ms since the epoch; may jump.
    pub wall_ms: i64,
}

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// A user wants something; the answer has the same number.
    Asked { request: u64, ask: Ask },
    /// A TaskManager says something.
    Told(FromTaskManager),
    /// A request to the store was carried out.
    Stored {
        id: u64,
        result: Result<StoreReply, StoreFailure>,
    },
    /// Something on the way failed that nobody waits for: the attempt cannot go on.
    Fault(WireError),
    /// Time has passed.
    Tick,
}

/// What a user can want of a running job.
#[derive(Debug, Clone)]
pub enum Ask {
    Stop,
    Drain,
    Cancel,
    Savepoint {
        location: String,
        when: When,
    },
    /// A new version of the job.
    Upgrade {
        plan: Box<JobPlan>,
    },
}

/// How a wish was granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Granted {
    /// It is under way.
    Heard,
    Savepoint {
        checkpoint: u64,
    },
    Upgraded(Upgraded),
}

/// How a running job was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upgraded {
    /// The checkpoint that the new version goes on from.
    pub checkpoint: u64,
    /// Whether the tasks ran on.
    pub in_place: bool,
    /// The longest that a task stood still; if the job was started anew, from its stop until all
    /// tasks ran.
    pub pause: Duration,
    /// For this time a failure that would end the job puts the version before back.
    pub probation: Duration,
}

/// How a job ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It had finished before it was submitted: nothing ran.
    FinishedBefore,
    Finished,
    /// At this checkpoint, from which it can go on.
    Stopped {
        checkpoint: u64,
    },
}

/// A job that was not refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// The log names this start, from which the next one goes on.
    pub has_led: bool,
}

/// Something to be done. The order counts.
#[derive(Debug, Clone)]
pub enum Action {
    Send(ToTaskManager),
    /// Ask the store; requests are carried out in their order. `committed`: see
    /// [`JobStore::carry_out`].
    Store {
        id: u64,
        request: StoreRequest,
        committed: u64,
    },
    Answer {
        request: u64,
        result: Result<Granted, WireError>,
    },
    /// A line for people.
    Say(String),
    /// It runs, or waits to be tried again.
    Accepted(Accepted),
    /// The job is over. Nothing follows.
    End(Result<Outcome, WireError>),
}

/// Names that nobody else has: 32 hex digits.
pub type Tokens = Box<dyn FnMut() -> String + Send>;
