//! The thread that advances an engine's epoch every 10 ms, and counts. Compiled code checks the
//! epoch; the count tells how long a call has been running.
//!
//! It ends when the last owner (the host, its plugins) drops it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use streamrt_types::{Error, Result};
use wasmtime::Engine;

/// How precise deadlines are. A guest that loops is interrupted within two of them.
pub(crate) const TICK: Duration = Duration::from_millis(10);

pub(crate) struct Ticker {
    ticks: Arc<AtomicU64>,
    /// Never used, but dropping it ends the thread. The lock makes it `Sync`.
    _stop: Mutex<Sender<()>>,
}

impl Ticker {
    /// # Errors
    /// `Internal` if no thread can be started.
    pub fn start(engine: Engine) -> Result<Arc<Ticker>> {
        let ticks = Arc::new(AtomicU64::new(0));
        let (stop, stopped) = mpsc::channel::<()>();
        let counter = ticks.clone();
        let work = move || {
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                counter.fetch_add(1, Ordering::Relaxed);
                engine.increment_epoch();
            }
        };
        let started = std::thread::Builder::new()
            .name("plugin-epoch".into())
            .spawn(work);
        started.map_err(|e| {
            Error::internal("the thread that interrupts plugins could not be started")
                .with_source(e)
        })?;
        Ok(Arc::new(Ticker {
            ticks,
            _stop: Mutex::new(stop),
        }))
    }

    /// A deadline `duration` ahead, rounded up to ticks.
    pub fn deadline(self: &Arc<Self>, duration: Duration) -> Deadline {
        Deadline {
            ticker: self.clone(),
            end: self.end_of(duration),
            duration,
        }
    }

    /// One tick more than fits, because the running one may be almost over.
    fn end_of(&self, duration: Duration) -> u64 {
        let ticks =
            u64::try_from(duration.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u64::MAX);
        self.ticks
            .load(Ordering::Relaxed)
            .saturating_add(ticks)
            .saturating_add(1)
    }
}

/// The end of a call's time.
pub(crate) struct Deadline {
    ticker: Arc<Ticker>,
    end: u64,
    duration: Duration,
}

impl Deadline {
    /// Gives the next call its time, without touching the shared counts of the ticker.
    pub fn renew(&mut self, duration: Duration) {
        self.end = self.ticker.end_of(duration);
        self.duration = duration;
    }

    /// Does work of the host that does not count towards the deadline.
    pub fn pause<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let before = self.ticker.ticks.load(Ordering::Relaxed);
        let done = work();
        self.end = self
            .end
            .saturating_add(self.ticker.ticks.load(Ordering::Relaxed) - before);
        done
    }

    pub fn is_over(&self) -> bool {
        self.ticker.ticks.load(Ordering::Relaxed) >= self.end
    }

    pub fn duration(&self) -> Duration {
        self.duration
    }
}
