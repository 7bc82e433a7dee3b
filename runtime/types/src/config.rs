//! The configuration of a job: `-D key=value`, over the job file's `[configuration]`, over the
//! defaults. Every key stands in `table.rs`, once.

mod table;
mod values;

pub use self::table::{Configuration, KeyRow};
pub use self::values::{parse_bytes, parse_duration_ms};
use crate::process_memory::{self, ProcessMemory};

/// What happens to a record on which user code or a format fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoisonPolicy {
    /// The job ends with the report.
    Fail,
    /// The record goes to the dead letters.
    Skip,
    /// The record is tried this many more times, then the job fails.
    Retry { attempts: u32 },
}

/// When a job that failed is started again.
///
/// # Source
/// Flink's restart strategies, with its defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartKind {
    None,
    FixedDelay,
    FailureRate,
    ExponentialDelay,
}

/// What becomes of processing-time windows and timers that are not due when a bounded input has
/// ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndOfTime {
    /// They fire, as if the clock had come to their time.
    Fire,
    /// They are dropped, and counted.
    Drop,
}

/// Where keyed state is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendKind {
    /// All of it in memory; every checkpoint is whole.
    Memory,
    /// In memory up to `state.memory`, the rest on disk; checkpoints hold what has changed.
    Rocksdb,
}

/// The size that `exchange.batches` assumes for a batch: 1024 rows of 256 bytes.
pub const OLD_BATCH_BYTES: usize = 256 << 10;

impl Configuration {
    /// What the process may hold.
    pub fn process_memory(&self) -> ProcessMemory {
        ProcessMemory::new(
            self.process_memory_bytes
                .map_or_else(process_memory::default_limit_bytes, |bytes| bytes as u64),
        )
    }

    /// The part of `state.memory` that is for the tables; the rest is for the disks' own caches and
    /// buffers.
    pub fn state_table_bytes(&self) -> usize {
        self.state_memory_bytes / 4 * 3
    }

    /// The part of `state.memory` that is for the disks.
    pub fn state_disk_bytes(&self) -> usize {
        self.state_memory_bytes / 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_with_their_units() {
        let mut configuration = Configuration::default();
        for (key, value) in [
            ("plugin.deadline", "2s"),
            ("plugin.memory", "32MiB"),
            ("batch.rows", "3"),
            ("poison.policy", "skip"),
        ] {
            configuration.set(key, value).unwrap();
        }
        assert_eq!(
            (
                configuration.plugin_deadline_ms,
                configuration.plugin_memory_bytes
            ),
            (2_000, 32 << 20)
        );
        assert_eq!(
            (configuration.batch_rows, configuration.poison_policy),
            (3, PoisonPolicy::Skip)
        );
        assert_eq!(
            (
                configuration.texts.len(),
                configuration.texts["plugin.deadline"].as_str()
            ),
            (4, "2s")
        );
    }

    #[test]
    fn every_listed_key_is_known() {
        for key in Configuration::keys() {
            let unknown = Configuration::default()
                .set(key, "?")
                .is_err_and(|e| e.message().starts_with("there is no"));
            assert!(!unknown, "{key}");
        }
    }

    #[test]
    fn bad_values_get_a_sentence() {
        let message = |key, value| {
            Configuration::default()
                .set(key, value)
                .unwrap_err()
                .message()
                .to_owned()
        };
        assert_eq!(
            message("batch.rows", "0"),
            "`batch.rows` is `0`, but it must be a number from 1 to 65536"
        );
        assert_eq!(
            message("buffer-timeout", "10"),
            "`buffer-timeout` is `10`, but it must be a duration such as 10ms, 5s or 1min"
        );
        assert_eq!(
            message("batch.row", "1"),
            "there is no configuration key `batch.row`"
        );
    }
}
