//! What users ask of a running job that takes time, and what comes of it.

use crate::Version;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A command to a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Operation {
    /// Ends it with a last checkpoint.
    Stop {
        /// Make a savepoint in this folder, and end with it.
        #[serde(default)]
        savepoint: Option<String>,
        /// Let everything fire first, as at the end of all input.
        #[serde(default)]
        drain: bool,
    },
    /// Ends it at once: what is not committed is withdrawn.
    Cancel,
    Savepoint {
        /// An empty folder, or one to be made; a whole path.
        folder: String,
    },
    Upgrade {
        version: Version,
    },
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Done,
    /// The job has ended.
    Ended {
        /// The one that it goes on from, if there is one.
        checkpoint: Option<u64>,
    },
    Savepoint {
        checkpoint: u64,
        folder: String,
    },
    Upgraded {
        /// The last one of the version before.
        checkpoint: u64,
        /// Whether tasks ran on.
        in_place: bool,
        /// The longest that a task, or the job, stood still.
        pause_us: u64,
        /// For this time a failure that would end the job puts the version before back.
        probation_ms: u64,
    },
}
