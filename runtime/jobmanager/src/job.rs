//! A job of the cluster, as those see it who ask.

use crate::{Failure, JobId, Registered};
use std::sync::Arc;
use streamrt_types::LogRing;

/// How far a job has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It is read; components that are new are compiled.
    Preparing,
    /// It waits for slots, of which so many are missing.
    Waiting {
        missing: u32,
    },
    /// What its checkpoints hold is restored.
    Starting,
    Running,
    /// For good, or with its process, and the next one goes on with it.
    Ended,
}

/// See the module.
pub struct Job<J> {
    pub id: JobId,
    /// What it has said.
    pub log: Arc<LogRing>,
    pub phase: Phase,
    /// What is known of it, or why that cannot be read (S7014, which names the entry).
    pub registered: Result<Arc<Registered>, Failure>,
    /// None before it runs, and when it has ended.
    pub running: Option<Arc<J>>,
}

impl<J> Job<J> {
    /// What users call it; empty if its entries cannot be read.
    pub fn name(&self) -> &str {
        let registered = self.registered.as_ref();
        registered.map_or("", |job| &job.specification.name)
    }

    /// Whether it has ended for good, or cannot be read; one that ended with its process has not.
    pub fn is_over(&self) -> bool {
        let registered = self.registered.as_ref();
        registered.map_or(true, |job| job.end.is_some())
    }
}
