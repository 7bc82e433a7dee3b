//! The configuration of a job: `-D key=value`, over the job file's `[configuration]`, over the
//! defaults here.

use crate::code;
use crate::error::{Error, Result};
use crate::key_group::MAX_PARALLELISM_MAX;
use crate::process_memory::{self, ProcessMemory};
use std::collections::BTreeMap;

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

/// All keys, with their defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct Configuration {
    /// `batch.rows`: the number of rows at which a source closes a batch. 1 to 65,536; default
    /// 1024, which amortises a call and stays in the cache.
    pub batch_rows: usize,
    /// `batch.bytes`: the number of bytes at which it does; operators that make more than they get
    /// send it in pieces of that size. Default 1 MiB: rows of 1 KiB still fill a batch, and few
    /// batches of wide rows are in memory at a time.
    pub batch_bytes: usize,
    /// `buffer-timeout`: the age of its oldest row at which it does, in ms. Default 10.
    pub buffer_timeout_ms: u64,
    /// `exchange.bytes`: the bytes that may wait in front of a subtask, shared evenly among its
    /// channels. Default 1 MiB: enough to keep both sides busy, little enough to bound memory at
    /// any parallelism, and how far senders can run ahead of one another. One batch that is larger
    /// still passes. `exchange.batches`, the older form, counts batches of [`OLD_BATCH_BYTES`].
    pub exchange_bytes: usize,
    /// `poison.policy`: `fail` (default), `skip`, or `retry`, which tries three times.
    pub poison_policy: PoisonPolicy,
    /// `poison.dead-letters`: the folder for dead letters, as JSON lines. If `None`, they are only
    /// logged and counted.
    pub dead_letters: Option<String>,
    /// `plugin.deadline`: the longest a plugin may take for one row, timer or window, in ms; a call
    /// for several has no more. Default 5,000.
    pub plugin_deadline_ms: u64,
    /// `plugin.memory`: bytes of memory for an instance. Default 256 MiB.
    pub plugin_memory_bytes: usize,
    /// `plugin.size`: bytes of a component. Default 64 MiB.
    pub plugin_size_bytes: usize,
    /// `plugin.compile-memory`: bytes of memory for compiling a component. Default 1 GiB: some
    /// twenty times what a component of 10 MiB takes.
    pub plugin_compile_bytes: usize,
    /// `plugin.compile-time`: how long compiling a component may take, in ms. Default 2 min.
    pub plugin_compile_ms: u64,
    /// `plugin.files-time`: how long the file calls of one call of a sink may take together, in ms;
    /// it does not count towards the deadline. Default 1 min.
    pub plugin_files_ms: u64,
    /// `plugin.files-bytes`: bytes that one call of a sink may write to files. Default 1 GiB.
    pub plugin_files_bytes: usize,
    /// `plugin.output`: bytes that one call may return; a call that makes more is cut. Default 64
    /// MiB.
    pub plugin_output_bytes: usize,
    /// `plugin.epoch`: false switches the deadline checks in compiled code off, for trusted
    /// plugins. Default true.
    pub plugin_epoch: bool,
    /// `memory.process-size`: bytes of memory that the process may hold, everything included; a job
    /// that exceeds it ends. Flink's `taskmanager.memory.process.size`. If `None`, four fifths of
    /// what the machine, or the container, has.
    pub process_memory_bytes: Option<usize>,
    /// `max-parallelism`: number of key groups. If `None`, it follows from the parallelism.
    pub max_parallelism: Option<u32>,
    /// `checkpoint.dir`: where checkpoints are kept: a folder, or the URL of an object store. If
    /// `None`, there are none.
    pub checkpoint_dir: Option<String>,
    /// `checkpoint.interval`: time from the start of one checkpoint to the start of the next, in
    /// ms. If `None`, there are none.
    pub checkpoint_interval_ms: Option<u64>,
    /// `checkpoint.timeout`: a checkpoint that takes longer is abandoned, in ms. Default 10 min.
    pub checkpoint_timeout_ms: u64,
    /// `checkpoint.min-pause`: the shortest time between the end of one checkpoint and the start of
    /// the next, in ms. Default 0.
    pub checkpoint_min_pause_ms: u64,
    /// `restore.allow-non-restored-state`: state in the snapshot for which the job has no operator
    /// is left behind. Default false: that is an error.
    pub allow_non_restored_state: bool,
    /// `restore.allow-changed-arguments`: a source continues at its positions in the snapshot
    /// although it is to read something else. Default false: that is an error.
    pub allow_changed_arguments: bool,
    /// `checkpoint.tolerable-failures`: number of checkpoints that may fail in a row. Default 0.
    pub tolerable_failures: u32,
    /// `checkpoint.retained`: number of published checkpoints that are kept. Default 1.
    pub retained_checkpoints: u32,
    /// `end-of-input.processing-time`: `fire` (default) or `drop` processing-time windows and
    /// timers at the end of a bounded input. A drain fires them in any case.
    pub end_of_processing_time: EndOfTime,
    /// `restart.strategy`: `none`, `fixed-delay`, `failure-rate` or `exponential-delay`. If `None`,
    /// `exponential-delay` with checkpoints, otherwise `none`.
    pub restart: Option<RestartKind>,
    /// `restart.attempts`: number of attempts with `fixed-delay`. Default 1.
    pub restart_attempts: u32,
    /// `restart.delay`: delay between the failure and the next attempt, in ms; with
    /// `exponential-delay`, the first one. Default 1 s.
    pub restart_delay_ms: u64,
    /// `restart.max-delay`: delay at which `exponential-delay` stops growing, in ms. Default 1 min.
    pub restart_max_delay_ms: u64,
    /// `restart.max-failures`: failures that `failure-rate` allows in one `restart.interval`.
    /// Default 1.
    pub restart_max_failures: u32,
    /// `restart.interval`: interval of `failure-rate`, in ms; after this long without a failure
    /// `exponential-delay` starts over. Default 1 min.
    pub restart_interval_ms: u64,
    /// `state.backend`: `memory` or `rocksdb`. Default `memory`.
    pub state_backend: BackendKind,
    /// `state.memory`: bytes of memory for keyed state, for all operators in the process together;
    /// used only with `rocksdb`. Default 1 GiB.
    pub state_memory_bytes: usize,
    /// `state.dir`: the folder for keyed state on disk. If `None`, it is in the user's cache
    /// folder.
    pub state_dir: Option<String>,
    /// `source.rate`: the most rows per second that all subtasks of one source read together. If
    /// `None`, as many as they can.
    pub source_rate: Option<u64>,
    /// `upgrade.probation`: how long after an upgrade a failure that would end the job restores the
    /// old version, in ms. Default 30 s.
    pub upgrade_probation_ms: u64,
    /// What was set, as it was written. Snapshots keep it.
    pub texts: BTreeMap<String, String>,
    /// `watermark.alignment`: a split whose watermark is further ahead than this of the split that
    /// is furthest back, over all sources that feed the same pipeline, waits for it, in ms. If
    /// `None`, none waits.
    pub watermark_alignment_ms: Option<u64>,
    /// `watermark.max-ahead`: a row whose event time is further ahead of the machine's clock than
    /// this is late, and raises no watermark, in ms. If `None`, there is no such limit.
    pub watermark_max_ahead_ms: Option<u64>,
}

impl Default for Configuration {
    fn default() -> Self {
        Configuration {
            batch_rows: 1024,
            batch_bytes: 1 << 20,
            buffer_timeout_ms: 10,
            exchange_bytes: 1 << 20,
            poison_policy: PoisonPolicy::Fail,
            dead_letters: None,
            plugin_deadline_ms: 5_000,
            plugin_memory_bytes: 256 << 20,
            plugin_size_bytes: 64 << 20,
            plugin_compile_bytes: 1 << 30,
            plugin_compile_ms: 120_000,
            plugin_files_ms: 60_000,
            plugin_files_bytes: 1 << 30,
            plugin_output_bytes: 64 << 20,
            plugin_epoch: true,
            process_memory_bytes: None,
            max_parallelism: None,
            checkpoint_dir: None,
            checkpoint_interval_ms: None,
            checkpoint_timeout_ms: 600_000,
            checkpoint_min_pause_ms: 0,
            allow_changed_arguments: false,
            allow_non_restored_state: false,
            tolerable_failures: 0,
            retained_checkpoints: 1,
            end_of_processing_time: EndOfTime::Fire,
            restart: None,
            restart_attempts: 1,
            restart_delay_ms: 1_000,
            restart_max_delay_ms: 60_000,
            restart_max_failures: 1,
            restart_interval_ms: 60_000,
            state_backend: BackendKind::Memory,
            state_memory_bytes: 1 << 30,
            state_dir: None,
            source_rate: None,
            upgrade_probation_ms: 30_000,
            texts: BTreeMap::new(),
            watermark_alignment_ms: None,
            watermark_max_ahead_ms: None,
        }
    }
}

impl Configuration {
    /// Every key that [`Configuration::set`] knows.
    pub const KEYS: &[&str] = &[
        "batch.bytes",
        "batch.rows",
        "buffer-timeout",
        "checkpoint.dir",
        "checkpoint.interval",
        "checkpoint.min-pause",
        "checkpoint.retained",
        "checkpoint.timeout",
        "checkpoint.tolerable-failures",
        "end-of-input.processing-time",
        "exchange.batches",
        "exchange.bytes",
        "max-parallelism",
        "memory.process-size",
        "plugin.compile-memory",
        "plugin.compile-time",
        "plugin.deadline",
        "plugin.epoch",
        "plugin.files-bytes",
        "plugin.files-time",
        "plugin.memory",
        "plugin.output",
        "plugin.size",
        "poison.dead-letters",
        "poison.policy",
        "restart.attempts",
        "restart.delay",
        "restart.interval",
        "restart.max-delay",
        "restart.max-failures",
        "restart.strategy",
        "restore.allow-changed-arguments",
        "restore.allow-non-restored-state",
        "source.rate",
        "state.backend",
        "state.dir",
        "state.memory",
        "upgrade.probation",
        "watermark.alignment",
        "watermark.max-ahead",
    ];

    /// Sets one key from its text.
    ///
    /// # Errors
    /// `Invalid` for an unknown key or a value that does not fit; the message names both.
    // Long: an arm for each key.
    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "batch.rows" => self.batch_rows = number(key, value, 1, 65_536)? as usize,
            "batch.bytes" => self.batch_bytes = at_least_one(key, value, parse_bytes(key, value)?)?,
            "buffer-timeout" => self.buffer_timeout_ms = parse_duration_ms(key, value)?,
            "exchange.batches" => {
                self.exchange_bytes = number(key, value, 1, 4096)? as usize * OLD_BATCH_BYTES
            }
            "exchange.bytes" => {
                self.exchange_bytes = at_least_one(key, value, parse_bytes(key, value)?)?
            }
            "poison.policy" => self.poison_policy = poison_policy(key, value)?,
            "poison.dead-letters" => self.dead_letters = Some(value.to_owned()),
            "plugin.deadline" => self.plugin_deadline_ms = parse_duration_ms(key, value)?,
            "plugin.memory" => self.plugin_memory_bytes = parse_bytes(key, value)?,
            "plugin.files-bytes" => self.plugin_files_bytes = parse_bytes(key, value)?,
            "plugin.files-time" => {
                self.plugin_files_ms = positive(key, value, parse_duration_ms(key, value)?)?
            }
            "plugin.size" => self.plugin_size_bytes = parse_bytes(key, value)?,
            "plugin.compile-memory" => self.plugin_compile_bytes = parse_bytes(key, value)?,
            "plugin.compile-time" => {
                self.plugin_compile_ms = positive(key, value, parse_duration_ms(key, value)?)?
            }
            "plugin.output" => self.plugin_output_bytes = parse_bytes(key, value)?,
            "plugin.epoch" => self.plugin_epoch = boolean(key, value)?,
            "checkpoint.dir" => self.checkpoint_dir = Some(value.to_owned()),
            "checkpoint.interval" => {
                self.checkpoint_interval_ms =
                    Some(positive(key, value, parse_duration_ms(key, value)?)?)
            }
            "checkpoint.timeout" => {
                self.checkpoint_timeout_ms = positive(key, value, parse_duration_ms(key, value)?)?
            }
            "checkpoint.min-pause" => self.checkpoint_min_pause_ms = parse_duration_ms(key, value)?,
            "checkpoint.tolerable-failures" => {
                self.tolerable_failures = number(key, value, 0, u64::from(u32::MAX))? as u32
            }
            "checkpoint.retained" => {
                self.retained_checkpoints = number(key, value, 1, 1000)? as u32
            }
            "end-of-input.processing-time" => {
                self.end_of_processing_time = end_of_time(key, value)?
            }
            "restart.strategy" => self.restart = Some(restart_kind(key, value)?),
            "restart.attempts" => {
                self.restart_attempts = number(key, value, 0, u64::from(u32::MAX))? as u32
            }
            "restart.delay" => self.restart_delay_ms = parse_duration_ms(key, value)?,
            "restart.max-delay" => self.restart_max_delay_ms = parse_duration_ms(key, value)?,
            "restart.max-failures" => {
                self.restart_max_failures = number(key, value, 0, u64::from(u32::MAX))? as u32
            }
            "restart.interval" => {
                self.restart_interval_ms = positive(key, value, parse_duration_ms(key, value)?)?
            }
            "restore.allow-changed-arguments" => {
                self.allow_changed_arguments = boolean(key, value)?
            }
            "restore.allow-non-restored-state" => {
                self.allow_non_restored_state = boolean(key, value)?
            }
            "state.backend" => self.state_backend = backend_kind(key, value)?,
            "state.dir" => self.state_dir = Some(value.to_owned()),
            "state.memory" => self.state_memory_bytes = parse_bytes(key, value)?,
            "upgrade.probation" => self.upgrade_probation_ms = parse_duration_ms(key, value)?,
            "source.rate" => self.source_rate = Some(number(key, value, 1, 1_000_000_000)?),
            "watermark.alignment" => {
                self.watermark_alignment_ms = Some(parse_duration_ms(key, value)?)
            }
            "watermark.max-ahead" => {
                self.watermark_max_ahead_ms = Some(parse_duration_ms(key, value)?)
            }
            "memory.process-size" => {
                self.process_memory_bytes =
                    Some(at_least_one(key, value, parse_bytes(key, value)?)?)
            }
            "max-parallelism" => {
                self.max_parallelism =
                    Some(number(key, value, 1, u64::from(MAX_PARALLELISM_MAX))? as u32)
            }
            _ => {
                return Err(Error::new(
                    code::BAD_OPTION,
                    format!("there is no configuration key `{key}`"),
                ));
            }
        }
        self.texts.insert(key.to_owned(), value.to_owned());
        Ok(())
    }
}

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

fn refuse(key: &str, value: &str, expected: &str) -> Error {
    Error::new(
        code::BAD_OPTION,
        format!("`{key}` is `{value}`, but it must be {expected}"),
    )
}

fn number(key: &str, value: &str, least: u64, most: u64) -> Result<u64> {
    let parsed = value
        .parse::<u64>()
        .ok()
        .filter(|n| (least..=most).contains(n));
    parsed.ok_or_else(|| refuse(key, value, &format!("a number from {least} to {most}")))
}

fn positive(key: &str, value: &str, ms: u64) -> Result<u64> {
    if ms > 0 {
        Ok(ms)
    } else {
        Err(refuse(key, value, "more than nothing"))
    }
}

fn at_least_one(key: &str, value: &str, bytes: usize) -> Result<usize> {
    if bytes > 0 {
        Ok(bytes)
    } else {
        Err(refuse(key, value, "more than nothing"))
    }
}

fn boolean(key: &str, value: &str) -> Result<bool> {
    value
        .parse()
        .map_err(|_| refuse(key, value, "true or false"))
}

fn poison_policy(key: &str, value: &str) -> Result<PoisonPolicy> {
    match value {
        "fail" => Ok(PoisonPolicy::Fail),
        "skip" => Ok(PoisonPolicy::Skip),
        "retry" => Ok(PoisonPolicy::Retry { attempts: 3 }),
        _ => Err(refuse(key, value, "fail, skip or retry")),
    }
}

fn end_of_time(key: &str, value: &str) -> Result<EndOfTime> {
    match value {
        "fire" => Ok(EndOfTime::Fire),
        "drop" => Ok(EndOfTime::Drop),
        _ => Err(refuse(key, value, "fire or drop")),
    }
}

fn backend_kind(key: &str, value: &str) -> Result<BackendKind> {
    match value {
        "memory" => Ok(BackendKind::Memory),
        "rocksdb" => Ok(BackendKind::Rocksdb),
        _ => Err(refuse(key, value, "memory or rocksdb")),
    }
}

fn restart_kind(key: &str, value: &str) -> Result<RestartKind> {
    match value {
        "none" => Ok(RestartKind::None),
        "fixed-delay" => Ok(RestartKind::FixedDelay),
        "failure-rate" => Ok(RestartKind::FailureRate),
        "exponential-delay" => Ok(RestartKind::ExponentialDelay),
        _ => Err(refuse(
            key,
            value,
            "none, fixed-delay, failure-rate or exponential-delay",
        )),
    }
}

/// Splits `10ms` into 10 and `ms`.
fn split_unit(value: &str) -> (&str, &str) {
    let digits = value
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(value.len());
    (&value[..digits], value[digits..].trim())
}

/// Reads a duration such as `10ms`, `5s`, `1min` or `1h` into ms; `key` is for the message.
///
/// # Errors
/// `Invalid` if the text is not a duration.
pub fn parse_duration_ms(key: &str, value: &str) -> Result<u64> {
    let (digits, unit) = split_unit(value);
    let factor = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "min" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let parsed = digits
        .parse::<u64>()
        .ok()
        .zip(factor)
        .and_then(|(n, factor)| n.checked_mul(factor));
    parsed.ok_or_else(|| refuse(key, value, "a duration such as 10ms, 5s or 1min"))
}

/// Reads a size such as `64MiB`, `10KiB`, `1GiB` or `100` into bytes; `key` is for the message.
///
/// # Errors
/// `Invalid` if the text is not a size.
pub fn parse_bytes(key: &str, value: &str) -> Result<usize> {
    let (digits, unit) = split_unit(value);
    let factor = match unit {
        "" | "B" => Some(1usize),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        _ => None,
    };
    let parsed = digits
        .parse::<usize>()
        .ok()
        .zip(factor)
        .and_then(|(n, factor)| n.checked_mul(factor));
    parsed.ok_or_else(|| refuse(key, value, "a size such as 64MiB"))
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
        for key in Configuration::KEYS {
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
