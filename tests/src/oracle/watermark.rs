//! The watermark of one split with bounded out-of-orderness.

/// Rises with every record to the greatest time seen, minus the bound, minus 1 ms; never falls.
pub struct Watermark {
    bound_ms: i64,
    current: i64,
}

impl Watermark {
    pub fn new(bound_ms: i64) -> Watermark {
        Watermark {
            bound_ms,
            current: i64::MIN,
        }
    }

    /// In ms; `i64::MIN` before the first record.
    pub fn current(&self) -> i64 {
        self.current
    }

    /// Takes a record into account, after it was processed.
    pub fn raise(&mut self, time: i64) {
        self.current = self.current.max(time.saturating_sub(self.bound_ms + 1));
    }
}
