//! What this crate takes from the machine: threads for jobs and commands, and how long somebody
//! waits for another thread.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use streamrt_types::{Error, Result};

/// Starts a thread that ends by itself.
///
/// # Errors
/// `Internal` if the system has none left.
pub(crate) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
    let thread = std::thread::Builder::new().name(name.into());
    let no_thread = |e| Error::internal(format!("no thread for a {name}")).with_source(e);
    thread.spawn(body).map(drop).map_err(no_thread)
}

/// Until when somebody waits.
#[derive(Clone, Copy)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    pub fn after(wait: Duration) -> Deadline {
        Deadline(Instant::now() + wait)
    }

    /// Zero when it has passed.
    pub fn left(&self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

/// Lets so many threads work at a time; others wait for their turn.
pub(crate) struct Turns {
    free: Mutex<usize>,
    freed: Condvar,
}

impl Turns {
    pub fn new(n: usize) -> Turns {
        Turns {
            free: Mutex::new(n),
            freed: Condvar::new(),
        }
    }

    pub fn take<T>(&self, work: impl FnOnce() -> T) -> T {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = self.freed.wait_while(free, |free| *free == 0);
        *taken.unwrap_or_else(PoisonError::into_inner) -= 1;
        let _turn = Turn(self);
        work()
    }
}

/// Given back when it is dropped, also by a panic.
struct Turn<'a>(&'a Turns);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let free = self.0.free.lock();
        *free.unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}
