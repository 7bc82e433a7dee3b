//! How many events to process in one go, measured: a call into user code, a batch, what waits in a
//! channel.
//!
//! 1. It begins with one event, and grows at most fourfold with each full piece, so a slow function
//!    never receives many rows.
//! 2. A piece that took twice the target, in time or bytes, makes the next one smaller at once.
//!
//! Invariant: no result depends on it. It learns how long things took, and decides how they are
//! cut.

use std::time::Duration;

/// The factor by which a piece may have more events than the last one.
const GROWTH: usize = 4;

/// More events than this are never processed in one go: their bookkeeping alone is some MiB.
const EVENTS_MAX: usize = 1 << 16;

/// The size of the next piece of some work.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    events: usize,
    time_aim: Duration,
    bytes_aim: usize,
}

impl Pace {
    /// Aims at pieces that take `time_aim` and `bytes_aim`, whichever is reached first.
    pub fn new(time_aim: Duration, bytes_aim: usize) -> Pace {
        Pace {
            events: 1,
            time_aim,
            bytes_aim,
        }
    }

    /// The most events for the next piece; at least one.
    pub fn events(&self) -> usize {
        self.events
    }

    /// Records what a piece of `n_events` took.
    #[inline]
    pub fn took(&mut self, n_events: usize, time: Duration, n_bytes: usize) {
        let fitting = self.fitting(n_events, time, n_bytes);
        if fitting < self.events / 2 {
            self.events = fitting.max(1);
        } else if n_events >= self.events && fitting > self.events {
            self.events = fitting.min(self.events * GROWTH).min(EVENTS_MAX);
        }
    }

    /// Records that a piece of `n_events` was too much.
    pub fn failed(&mut self, n_events: usize) {
        self.events = self.events.min(n_events / GROWTH).max(1);
    }

    /// The number of events that would have met the target.
    fn fitting(&self, n_events: usize, time: Duration, n_bytes: usize) -> usize {
        let share = |aim: u64, used: u64| (n_events as u64).saturating_mul(aim) / used.max(1);
        let by_time = share(self.time_aim.as_nanos() as u64, time.as_nanos() as u64);
        by_time.min(share(self.bytes_aim as u64, n_bytes as u64)) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sizes of ten pieces of work in which each event costs the same.
    fn check(event_us: u64, event_bytes: usize, expected: &[usize]) {
        let mut pace = Pace::new(Duration::from_millis(20), 1 << 20);
        let sizes: Vec<usize> = (0..10)
            .map(|_| {
                let n = pace.events();
                pace.took(
                    n,
                    Duration::from_micros(event_us) * n as u32,
                    event_bytes * n,
                );
                n
            })
            .collect();
        assert_eq!(sizes, expected, "{event_us} us, {event_bytes} bytes");
    }

    #[test]
    fn pieces_grow_to_what_is_aimed_at() {
        check(
            0,
            1,
            &[1, 4, 16, 64, 256, 1024, 4096, 16_384, 65_536, 65_536],
        );
        check(100, 1, &[1, 4, 16, 64, 200, 200, 200, 200, 200, 200]);
        check(22_000, 1, &[1; 10]);
        check(1, 1 << 18, &[1, 4, 4, 4, 4, 4, 4, 4, 4, 4]);
        check(1, 4 << 20, &[1; 10]);
    }

    #[test]
    fn a_piece_that_was_too_much_is_followed_by_a_small_one() {
        let mut pace = Pace::new(Duration::from_millis(20), 1 << 20);
        (0..6).for_each(|_| pace.took(pace.events(), Duration::ZERO, 0));
        assert_eq!(pace.events(), 4096);
        // As fast as it was, within a factor of two: nothing changes.
        pace.took(1024, Duration::from_millis(10), 0);
        assert_eq!(pace.events(), 4096);
        pace.took(100, Duration::from_millis(2), 0);
        assert_eq!(pace.events(), 1000);
        pace.failed(600);
        assert_eq!(pace.events(), 150);
        pace.failed(1);
        assert_eq!(pace.events(), 1);
    }
}
