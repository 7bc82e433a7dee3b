//! One job of the cluster, from its acceptance to its end, as several threads see it.

use crate::shell::Deadline;
use crate::{End, Failure, JobId, Registered, RunningJob, Triggers};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use streamrt_checkpoint::EndState;
use streamrt_types::{Error, LogRing, Result, code};

/// How far a job has come.
#[derive(Debug)]
pub enum Phase<J> {
    /// It is read; components that are new are compiled.
    Preparing,
    /// So many slots are missing.
    Waiting {
        missing: u32,
    },
    /// What its checkpoints hold is restored.
    Starting,
    Running(Arc<J>),
    Ended,
}

impl<J> Clone for Phase<J> {
    fn clone(&self) -> Phase<J> {
        match self {
            Phase::Preparing => Phase::Preparing,
            Phase::Waiting { missing } => Phase::Waiting { missing: *missing },
            Phase::Starting => Phase::Starting,
            Phase::Running(job) => Phase::Running(job.clone()),
            Phase::Ended => Phase::Ended,
        }
    }
}

/// See the module.
pub struct Job<J> {
    pub id: JobId,
    /// What it has said.
    pub log: Arc<LogRing>,
    pub(crate) triggers: Triggers,
    state: Mutex<State<J>>,
    changed: Condvar,
}

pub(crate) struct State<J> {
    pub phase: Phase<J>,
    /// Or why its entries cannot be read.
    pub registered: Result<Registered, Failure>,
    /// How a user wants it to end, before it runs.
    pub end_wish: Option<EndState>,
}

impl<J: RunningJob> Job<J> {
    pub(crate) fn new(id: JobId, registered: Result<Registered>) -> Job<J> {
        let name = registered.as_ref().ok();
        let name = name.map(|job| job.specification.name.as_str());
        let log = LogRing::new(name);
        let lives = registered.as_ref().is_ok_and(|job| job.end.is_none());
        Job {
            id,
            log,
            triggers: Triggers::default(),
            state: Mutex::new(State {
                phase: if lives {
                    Phase::Preparing
                } else {
                    Phase::Ended
                },
                registered: registered.map_err(|error| Failure::from(&error)),
                end_wish: None,
            }),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes it, and tells those who wait.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State<J>) -> T) -> T {
        let changed = change(&mut self.state());
        self.changed.notify_all();
        changed
    }

    pub fn phase(&self) -> Phase<J> {
        self.state().phase.clone()
    }

    /// What is known of it, or why that cannot be read.
    ///
    /// # Errors
    /// S7014, which names the entry.
    pub fn registered(&self) -> Result<Registered, Failure> {
        self.state().registered.clone()
    }

    /// What users call it; empty if its entries cannot be read.
    pub fn name(&self) -> String {
        let state = self.state();
        let name = state.registered.as_ref().map(|job| &job.specification.name);
        name.cloned().unwrap_or_default()
    }

    /// Whether it has ended for good, or cannot be read; one that ended with its process has not.
    pub fn is_over(&self) -> bool {
        let state = self.state();
        state
            .registered
            .as_ref()
            .map_or(true, |job| job.end.is_some())
    }

    pub fn has_ended(&self) -> bool {
        matches!(self.state().phase, Phase::Ended)
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// Why it failed.
    pub(crate) fn await_end(&self) -> Result<Option<End>> {
        self.await_end_until(None);
        let end = self.state().registered.clone()?.end.map(|(end, _)| end);
        match end {
            Some(End {
                state: EndState::Failed,
                reason: Some(reason),
                ..
            }) => Err(reason.into()),
            end => Ok(end),
        }
    }

    /// Waits for the end, but not beyond `limit`.
    pub(crate) fn await_end_until(&self, limit: Option<Deadline>) {
        let mut state = self.state();
        while !matches!(state.phase, Phase::Ended) {
            let left = limit.map_or(Duration::MAX, |limit| limit.left());
            if left.is_zero() {
                return;
            }
            state = match self.changed.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// That a command came too late.
    pub(crate) fn has_ended_already(&self) -> Error {
        let ended = self.registered().ok().and_then(|job| job.end);
        let how = match ended.map(|(end, _)| end.state) {
            Some(EndState::Finished) => "has finished",
            Some(EndState::Canceled) => "was cancelled",
            Some(EndState::Stopped) => "was stopped",
            Some(EndState::Failed) => "has failed",
            None => "has ended",
        };
        Error::new(
            code::JOB_ENDED,
            format!("the job `{}` ({}) {how} already", self.name(), self.id),
        )
    }
}
