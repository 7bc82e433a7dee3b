//! `source.rate`: how many rows a second all readers of one source may read together.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Shared by the readers of one source. Rows that were not read in time are not made up for later:
/// the rate is an upper bound.
pub struct RateLimiter {
    rows_per_second: u64,
    /// When the next row may be read.
    next: Mutex<Instant>,
}

/// Rows that are asked for at once: some 10 ms of the rate.
const SHARE_OF_SECOND: u64 = 100;

impl RateLimiter {
    pub fn new(rows_per_second: u64) -> RateLimiter {
        RateLimiter {
            rows_per_second,
            next: Mutex::new(Instant::now()),
        }
    }

    /// The most rows that one poll should ask for.
    pub fn rows(&self) -> usize {
        (self.rows_per_second / SHARE_OF_SECOND).max(1) as usize
    }

    /// How long to wait before the next poll.
    pub fn wait(&self) -> Duration {
        let next = *self.next.lock().unwrap_or_else(PoisonError::into_inner);
        next.saturating_duration_since(Instant::now())
    }

    /// Counts rows that were read.
    pub fn took(&self, rows: usize) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let cost = Duration::from_nanos(
            (rows as u64).saturating_mul(1_000_000_000) / self.rows_per_second,
        );
        *next = (*next).max(Instant::now()) + cost;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_cost_their_share_of_a_second() {
        let limiter = RateLimiter::new(1000);
        assert_eq!((limiter.rows(), limiter.wait()), (10, Duration::ZERO));
        limiter.took(10_000);
        assert!(
            limiter.wait() > Duration::from_secs(9) && limiter.wait() <= Duration::from_secs(10)
        );
        assert_eq!(RateLimiter::new(3).rows(), 1);
    }
}
