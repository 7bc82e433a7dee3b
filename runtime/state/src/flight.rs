//! Changes of a checkpoint that are on their way to the disk, from the freeze until they are
//! written.
//!
//! Invariant: changes that are lost on the way are an error of everything that comes after them, or
//! the next checkpoint would lack them.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use streamrt_types::{Code, Error, Result};

/// The flights of one disk.
#[derive(Default)]
pub(crate) struct Flight {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    n_open: usize,
    /// Code and message.
    failed: Option<(Code, String)>,
}

impl Flight {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn begin(self: &Arc<Self>) -> FlightGuard {
        self.lock().n_open += 1;
        FlightGuard {
            flight: self.clone(),
            outcome: Some(Err(lost())),
        }
    }

    /// Whether changes are on their way.
    pub(crate) fn is_open(&self) -> bool {
        self.lock().n_open > 0
    }

    /// # Errors
    /// The error of a failed flight.
    pub(crate) fn check(&self) -> Result<()> {
        check(&self.lock())
    }

    /// Waits until no flight is open.
    ///
    /// # Errors
    /// The error of one that has failed.
    pub(crate) fn wait(&self) -> Result<()> {
        let mut state = self.lock();
        while state.n_open > 0 {
            state = self
                .ended
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        check(&state)
    }
}

fn check(state: &State) -> Result<()> {
    state.failed.as_ref().map_or(Ok(()), |(code, message)| {
        Err(Error::new(*code, message.clone()))
    })
}

fn lost() -> Error {
    Error::internal("the changes of a checkpoint were not written to the disk of the state")
}

/// One state's part of a flight.
pub(crate) struct FlightGuard {
    flight: Arc<Flight>,
    outcome: Option<Result<()>>,
}

impl FlightGuard {
    /// The changes are on disk, or never will be.
    pub(crate) fn end(mut self, outcome: Result<()>) {
        self.outcome = Some(outcome);
    }
}

impl Drop for FlightGuard {
    fn drop(&mut self) {
        let mut state = self.flight.lock();
        state.n_open -= 1;
        if let Some(Err(error)) = self.outcome.take() {
            state
                .failed
                .get_or_insert((error.code(), error.message().to_owned()));
        }
        self.flight.ended.notify_all();
    }
}
