//! Takes jobs and commands to them, starts what ran when the last JobManager ended, and keeps what
//! became of all.
//!
//! 1. [`Core`] decides: a pure state machine of what happened ([`Event`]) and what is to be done
//!    ([`Action`]), as [`crate::job_master::Core`] is for one job. [`Dispatcher`] carries out.
//! 2. A job is accepted when its entry is in the registry; then it is read, waits for slots and
//!    starts. Its end is written before anybody is told.
//! 3. A JobManager that opens the folder of one that was killed starts each job that has not ended,
//!    from its newest checkpoint.
//!
//! Invariant: at most one Dispatcher works in a folder: it holds the lock of the folder.

mod asked;
mod core;
mod entries;
mod service;
#[cfg(test)]
mod tests;

pub use self::core::{Core, Known, Limits};
pub use service::{Dispatcher, Settings};

use crate::{End, Entry, Failure, JobId, Operation, Outcome, Specification};

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// A user submits a job; the answer has the same number.
    Submitted {
        request: u64,
        id: JobId,
        specification: Box<Specification>,
    },
    /// A user wants something of a job.
    Asked {
        request: u64,
        id: JobId,
        operation: Operation,
    },
    /// An entry was written, or not.
    Kept {
        id: JobId,
        result: Result<(), Failure>,
    },
    /// A job was read.
    Prepared {
        id: JobId,
        result: Result<Prepared, Failure>,
    },
    /// A job runs, or (None) had finished before.
    Started {
        id: JobId,
        result: Result<Option<Started>, Failure>,
    },
    /// A running job did what a user wants, or could not.
    CarriedOut {
        request: u64,
        id: JobId,
        operation: Operation,
        result: Result<Outcome, Failure>,
    },
    /// A job that ran has ended.
    Ended { id: JobId, end: End },
    /// The process ends, and its jobs go on with the next one.
    Suspended,
    /// Time has passed.
    Tick,
}

/// What is known of a job when it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prepared {
    pub n_slots: u32,
    /// Something is kept of it: it has run before.
    pub is_kept: bool,
}

/// What is known of a job when it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// Something is kept of it, without which it is not started again.
    pub is_kept: bool,
}

/// Whether a job has run before this JobManager began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// It was submitted to this one.
    No,
    /// Nobody knows: what is kept of it says so.
    Maybe,
    /// It is refused if nothing is left of its checkpoints.
    Yes,
}

/// Something to be done.
#[derive(Debug, Clone)]
pub enum Action {
    /// Write an entry; there is one at a time of each job.
    Keep {
        id: JobId,
        entry: Entry,
    },
    /// Read a job, and say how many slots it needs.
    Prepare {
        id: JobId,
        specification: Box<Specification>,
        before: Before,
    },
    /// Start a job that was read.
    Start(JobId),
    /// End it with a last checkpoint.
    Stop(JobId),
    Cancel(JobId),
    /// Let a running job do what takes time.
    CarryOut {
        request: u64,
        id: JobId,
        operation: Operation,
    },
    /// What came of a command, or of a submission ([`Outcome::Done`]).
    Answer {
        request: u64,
        result: Result<Outcome, Failure>,
    },
    /// The request cannot be meant: nothing was done.
    Refuse {
        request: u64,
        failure: Failure,
    },
    /// The job has ended, in this process at least.
    Over(JobId),
    /// Delete the first `entries` entries of a job, which is not known any more.
    Forget {
        id: JobId,
        entries: u64,
    },
    /// A line for people, in the log of a job.
    Say {
        id: JobId,
        line: String,
    },
}
