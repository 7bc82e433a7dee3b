//! Random moments that a seed repeats: it is printed, and `STREAMRT_SEED` sets it.

/// A small generator of random numbers (xorshift), so that a seed gives the same moments
/// everywhere.
pub struct Random(u64);

impl Random {
    pub fn from_environment() -> Random {
        let clock = || {
            std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(1, |now| now.as_nanos() as u64)
        };
        let seed = std::env::var("STREAMRT_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok())
            .unwrap_or_else(clock);
        println!("STREAMRT_SEED={seed}");
        Random(seed | 1)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
