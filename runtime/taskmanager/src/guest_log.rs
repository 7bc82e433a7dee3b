//! What plugins write to the log, within a ceiling: a plugin that logs in a loop does not fill the
//! disk that stderr goes to.
//!
//! A plugin may say a mebibyte at once, and then so much a second; what is more is left out, and
//! counted.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use streamrt_types::{say, say_line};

/// What all plugins of the process may say at once.
const BURST_BYTES: u64 = 1 << 20;

/// What becomes free in a second: a gigabyte a day.
const BYTES_PER_SECOND: u64 = 12 << 10;

static CEILING: Mutex<Option<Ceiling>> = Mutex::new(None);

/// Says a message of a plugin, or leaves it out.
pub(crate) fn say(message: &str) {
    let mut ceiling = CEILING.lock().unwrap_or_else(PoisonError::into_inner);
    let ceiling = ceiling.get_or_insert_with(|| Ceiling::new(Instant::now()));
    let (may_say, n_left_out) = ceiling.take(Instant::now(), message.len() as u64 + 1);
    if n_left_out > 0 {
        say!("streamrt: {n_left_out} messages of plugins were left out, because they log too much");
    }
    if may_say {
        say_line(message);
    }
}

/// A bucket that fills with time.
struct Ceiling {
    bytes_left: u64,
    filled: Instant,
    n_left_out: u64,
}

impl Ceiling {
    fn new(now: Instant) -> Ceiling {
        Ceiling {
            bytes_left: BURST_BYTES,
            filled: now,
            n_left_out: 0,
        }
    }

    fn fill(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.filled).as_secs();
        self.filled += Duration::from_secs(seconds);
        self.bytes_left = self
            .bytes_left
            .saturating_add(seconds.saturating_mul(BYTES_PER_SECOND))
            .min(BURST_BYTES);
    }

    /// Whether a message of so many bytes may be said now, and if so, how many were left out before
    /// it.
    fn take(&mut self, now: Instant, n_bytes: u64) -> (bool, u64) {
        self.fill(now);
        match self.bytes_left.checked_sub(n_bytes) {
            Some(left) => {
                self.bytes_left = left;
                (true, std::mem::take(&mut self.n_left_out))
            }
            None => {
                self.n_left_out += 1;
                // Said once, so that it is known even if nothing follows.
                (false, u64::from(self.n_left_out == 1))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_is_counted_and_time_makes_room() {
        let start = Instant::now();
        let mut ceiling = Ceiling::new(start);
        assert_eq!(ceiling.take(start, BURST_BYTES), (true, 0));
        assert_eq!(ceiling.take(start, 1), (false, 1));
        assert_eq!(ceiling.take(start, 1), (false, 0));
        assert_eq!(
            ceiling.take(start + Duration::from_secs(1), BYTES_PER_SECOND),
            (true, 2)
        );
        assert_eq!(ceiling.take(start + Duration::from_secs(1), 1), (false, 1));
        assert_eq!(
            ceiling.take(start + Duration::from_secs(86_400), BURST_BYTES),
            (true, 1)
        );
    }
}
