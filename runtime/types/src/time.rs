//! Event time and clocks. Times are i64 milliseconds since the Unix epoch, UTC; a watermark `w`
//! says that no row with a time at or before `w` is still to come.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A watermark in ms.
pub type Watermark = i64;

/// No watermark yet.
pub const WATERMARK_MIN: Watermark = i64::MIN;

/// The end of a bounded input: fires every event-time window and timer.
pub const WATERMARK_MAX: Watermark = i64::MAX;

/// Where processing time comes from. Injected, so that tests and simulations own the time.
pub trait Clock: Send + Sync {
    /// Wall-clock ms since the epoch; may jump.
    fn now_ms(&self) -> i64;
    /// Monotonic ms since some start; for timeouts.
    fn monotonic_ms(&self) -> i64;
    /// The same, as finely as the clock can.
    fn elapsed(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.monotonic_ms()).unwrap_or_default())
    }
}

/// The machine's clock.
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(SystemClock {
            start: Instant::now(),
        })
    }
}

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
    }

    fn monotonic_ms(&self) -> i64 {
        i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A clock that stands still until it is set.
#[derive(Default)]
pub struct ManualClock {
    now: AtomicI64,
    /// How far the wall clock is ahead of the monotonic one.
    ahead: AtomicI64,
}

impl ManualClock {
    /// Lets time pass, on both clocks.
    pub fn set_ms(&self, now_ms: i64) {
        self.now.store(now_ms, Ordering::SeqCst);
    }

    /// Sets how far the wall clock is ahead of the monotonic one, as people and time servers do.
    pub fn set_ahead_ms(&self, ahead_ms: i64) {
        self.ahead.store(ahead_ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> i64 {
        self.monotonic_ms() + self.ahead.load(Ordering::SeqCst)
    }

    fn monotonic_ms(&self) -> i64 {
        self.now.load(Ordering::SeqCst)
    }
}
