//! Runs the binary under limits of memory and time, for input that is meant to harm.
//!
//! Memory is what the process and those that it starts have ever had resident, added up. wasmtime
//! reserves far more addresses than it uses, so a limit on addresses would say nothing; what is
//! resident is looked up every millisecond, and a run beyond its limit is ended at once.

use crate::binary::{Finished, Running};
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

/// A run that stayed within its limits.
#[derive(Debug)]
pub struct Measured {
    pub finished: Finished,
    /// The most bytes of memory.
    pub peak_bytes: u64,
    pub elapsed: Duration,
}

/// What a run may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub bytes: u64,
    pub time: Duration,
}

impl Limits {
    /// Limits in MiB and seconds.
    pub const fn new(mebibytes: u64, seconds: u64) -> Limits {
        Limits {
            bytes: mebibytes << 20,
            time: Duration::from_secs(seconds),
        }
    }

    /// Runs a command to its end.
    ///
    /// Panics, with its output, if it takes more memory or time.
    #[track_caller]
    pub fn run(self, command: Command) -> Measured {
        self.watch(Running::start(command), |_| {})
    }

    /// Waits for the end of a run; `look` is called every millisecond.
    ///
    /// Panics like [`Limits::run`].
    #[track_caller]
    pub fn watch(self, mut running: Running, mut look: impl FnMut(&Running)) -> Measured {
        let (start, mut peak_bytes) = (Instant::now(), 0);
        while !running.ends_within(Duration::from_millis(1)) {
            peak_bytes = peak_bytes.max(resident_bytes(running.id()));
            let in_limits = peak_bytes <= self.bytes && start.elapsed() <= self.time;
            if !in_limits {
                running.kill();
            }
            assert!(
                in_limits,
                "{} MiB after {:?}, but {self:?}: {}",
                peak_bytes >> 20,
                start.elapsed(),
                running.said()
            );
            look(&running);
        }
        let elapsed = start.elapsed();
        Measured {
            finished: running.finish(self.time),
            peak_bytes,
            elapsed,
        }
    }
}

/// The most that a process has had resident so far, and that those which it started have; 0 when it
/// is gone.
fn resident_bytes(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let most = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"));
    let own = most
        .and_then(|text| text.trim().parse::<u64>().ok())
        .unwrap_or(0)
        << 10;
    let children =
        fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    own + children
        .split_ascii_whitespace()
        .filter_map(|child| child.parse().ok())
        .map(resident_bytes)
        .sum::<u64>()
}
