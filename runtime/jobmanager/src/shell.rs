//! What this crate takes from the machine: threads for jobs and commands, and how long somebody
//! waits for another thread.

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
