//! Every configuration key, once: its name, the field that holds it, its default, how it is written,
//! and what it does. Parsing, the command line's list and the table of the README follow from here.

use super::values::{Bytes, Choice, Kind, Millis, Number, Slot, Switch, Text};
use super::{BackendKind, EndOfTime, OLD_BATCH_BYTES, PoisonPolicy, RestartKind};
use crate::code;
use crate::error::{Error, Result};
use crate::key_group::MAX_PARALLELISM_MAX;
use std::collections::BTreeMap;

/// An older form of `exchange.bytes`, which counts batches of [`OLD_BATCH_BYTES`].
const EXCHANGE_BATCHES: &str = "exchange.batches";

const POISON: Choice<PoisonPolicy> = Choice(&[
    ("fail", PoisonPolicy::Fail),
    ("skip", PoisonPolicy::Skip),
    ("retry", PoisonPolicy::Retry { attempts: 3 }),
]);

const END_OF_TIME: Choice<EndOfTime> =
    Choice(&[("fire", EndOfTime::Fire), ("drop", EndOfTime::Drop)]);

const RESTART: Choice<RestartKind> = Choice(&[
    ("none", RestartKind::None),
    ("fixed-delay", RestartKind::FixedDelay),
    ("failure-rate", RestartKind::FailureRate),
    ("exponential-delay", RestartKind::ExponentialDelay),
]);

const BACKEND: Choice<BackendKind> = Choice(&[
    ("memory", BackendKind::Memory),
    ("rocksdb", BackendKind::Rocksdb),
]);

/// What the documentation says of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    pub key: &'static str,
    /// As a user would write it, or in words what happens without one.
    pub default: String,
    /// In the Markdown of a cell of a table.
    pub about: &'static str,
}

/// Makes the struct, its default, and all that goes from key to key. An entry is: the field, its type
/// and its default, with words for one that has none; then its key and how it is written; then what
/// it does.
macro_rules! configuration {
    ($(
        $(#[$more:meta])*
        $field:ident: $type:ty = $default:expr $(, or $words:literal)?;
        $key:literal, $kind:expr,
        $about:literal;
    )*) => {
        /// All keys, with their defaults.
        #[derive(Debug, Clone, PartialEq)]
        pub struct Configuration {
            $(
                #[doc = concat!("`", $key, "`: ", $about, ".")]
                $(#[doc = concat!(" Default: ", $words, ".")])?
                $(#[$more])*
                pub $field: $type,
            )*
            /// What was set, as it was written. Snapshots keep it.
            pub texts: BTreeMap<String, String>,
        }

        impl Default for Configuration {
            fn default() -> Configuration {
                Configuration {
                    $($field: $default,)*
                    texts: BTreeMap::new(),
                }
            }
        }

        impl Configuration {
            /// What the documentation says of every key, by topic.
            pub fn table() -> Vec<KeyRow> {
                let defaults = Configuration::default();
                vec![$(KeyRow {
                    key: $key,
                    default: shown(&$kind, &defaults.$field, concat!($($words)?)),
                    about: $about,
                },)*]
            }

            fn assign(&mut self, key: &str, text: &str) -> Result<()> {
                match key {
                    $($key => put(&$kind, &mut self.$field, key, text),)*
                    EXCHANGE_BATCHES => {
                        let batches = Number(1, 4096usize).read(key, text)?;
                        self.exchange_bytes = batches * OLD_BATCH_BYTES;
                        Ok(())
                    }
                    _ => Err(Error::new(
                        code::BAD_OPTION,
                        format!("there is no configuration key `{key}`"),
                    )),
                }
            }
        }
    };
}

configuration! {
    /// The default amortises a call and stays in the cache.
    batch_rows: usize = 1024;
    "batch.rows", Number(1, 65_536),
    "number of rows at which a source closes a batch (1 to 65,536)";

    /// With the default, rows of 1 KiB still fill a batch, and few batches of wide rows are in
    /// memory at a time.
    batch_bytes: usize = 1 << 20;
    "batch.bytes", Bytes(1),
    "number of bytes at which it closes one; the output of operators is passed on in pieces of \
     that size";

    buffer_timeout_ms: u64 = 10;
    "buffer-timeout", Millis(0),
    "age of the oldest row at which it closes one";

    /// The default is enough to keep both sides busy, and little enough to bound memory at any
    /// parallelism, and how far senders can run ahead of one another.
    exchange_bytes: usize = 1 << 20;
    "exchange.bytes", Bytes(1),
    "bytes that may wait in front of a subtask, shared evenly among its channels (at least 64 KiB \
     each); one larger row still passes. `exchange.batches`, the older form, counts 256 KiB per \
     batch";

    max_parallelism: Option<u32> = None, or "from the parallelism";
    "max-parallelism", Number(1, MAX_PARALLELISM_MAX),
    "number of key groups";

    process_memory_bytes: Option<usize> = None, or "four fifths of what the machine or the container has";
    "memory.process-size", Bytes(1),
    "memory of the whole process: state, windows, timers, plugins, batches. A job that exceeds it \
     ends with S5012, which names the operators that hold most, before the system kills the \
     process (Flink's `taskmanager.memory.process.size`)";

    /// The default is some twenty times what a component of 10 MiB takes.
    plugin_compile_bytes: usize = 1 << 30;
    "plugin.compile-memory", Bytes(0),
    "memory for compiling a component, which happens in a separate process";

    plugin_compile_ms: u64 = 120_000;
    "plugin.compile-time", Millis(1),
    "how long that may take";

    plugin_deadline_ms: u64 = 5_000;
    "plugin.deadline", Millis(0),
    "the longest that a plugin may take for one row, timer or window; the number of them in a \
     call adapts to the time that they take";

    plugin_epoch: bool = true;
    "plugin.epoch", Switch,
    "`false` leaves the deadline checks out of compiled code, for plugins that you trust";

    plugin_files_bytes: usize = 1 << 30;
    "plugin.files-bytes", Bytes(0),
    "bytes that one call of a sink may write to files";

    plugin_files_ms: u64 = 60_000;
    "plugin.files-time", Millis(1),
    "how long the file calls of one call may take together; they do not count towards \
     `plugin.deadline`";

    plugin_memory_bytes: usize = 256 << 20;
    "plugin.memory", Bytes(0),
    "memory of one plugin instance, including its globals and tables";

    plugin_output_bytes: usize = 64 << 20;
    "plugin.output", Bytes(0),
    "what one row, timer or window may return, or write to state";

    plugin_size_bytes: usize = 64 << 20;
    "plugin.size", Bytes(0),
    "maximum size of a component";

    poison_policy: PoisonPolicy = PoisonPolicy::Fail;
    "poison.policy", POISON,
    "a record on which user code, a format or a table of PostgreSQL fails, or that has no event \
     time or no key: `fail` the job, `skip` the record, or `retry` three times, then fail; any \
     number may be skipped; the dead letter of a line longer than 16 MiB has its first KiB";

    dead_letters: Option<String> = None, or "none";
    "poison.dead-letters", Text,
    "a folder for skipped records, as JSON lines in files that are committed with the \
     checkpoints, like those of the `file` sink; `record` is complete and exact, in base64 if it \
     is not text, as `record_encoding` says";

    state_backend: BackendKind = BackendKind::Memory;
    "state.backend", BACKEND,
    "where keyed state is kept: `memory`, or `rocksdb` for state larger than memory; see \
     Checkpoints in README.md";

    state_memory_bytes: usize = 1 << 30;
    "state.memory", Bytes(0),
    "with `rocksdb`: memory for the keyed state of all operators together";

    state_dir: Option<String> = None, or "the user's cache folder";
    "state.dir", Text,
    "with `rocksdb`: where the files are while the job runs, in a folder `streamrt-state-...` \
     that only this user can read; such folders of killed jobs are removed, and nothing else is";

    source_rate: Option<u64> = None, or "none";
    "source.rate", Number(1, 1_000_000_000),
    "the most rows per second that all subtasks of one source read together";

    watermark_alignment_ms: Option<u64> = None, or "none";
    "watermark.alignment", Millis(0),
    "a split waits while its watermark is more than this ahead of the one that is furthest \
     behind, across all sources of a pipeline: memory stays small when readers differ in speed; \
     give sources that may fall silent an idle time as well";

    watermark_max_ahead_ms: Option<u64> = None, or "none";
    "watermark.max-ahead", Millis(0),
    "a row whose event time is further ahead of the machine's clock than this counts as late and \
     raises no watermark; windows send it to their late output";

    checkpoint_dir: Option<String> = None, or "none";
    "checkpoint.dir", Text,
    "the folder that checkpoints go to; see Checkpoints in README.md";

    checkpoint_interval_ms: Option<u64> = None, or "none";
    "checkpoint.interval", Millis(1),
    "from the start of one checkpoint to the start of the next";

    checkpoint_timeout_ms: u64 = 600_000;
    "checkpoint.timeout", Millis(1),
    "a checkpoint that takes longer is abandoned";

    checkpoint_min_pause_ms: u64 = 0;
    "checkpoint.min-pause", Millis(0),
    "the shortest pause between two checkpoints";

    tolerable_failures: u32 = 0;
    "checkpoint.tolerable-failures", Number(0, u32::MAX),
    "number of checkpoints that may fail in a row";

    retained_checkpoints: u32 = 1;
    "checkpoint.retained", Number(1, 1000),
    "number of published checkpoints that are kept";

    end_of_processing_time: EndOfTime = EndOfTime::Fire;
    "end-of-input.processing-time", END_OF_TIME,
    "what happens to processing-time windows and timers when a bounded input has ended: they \
     `fire`, or are dropped and counted in the summary (`drop`); what a firing at the end \
     registers is dropped";

    restart: Option<RestartKind> = None, or "`exponential-delay` with checkpoints, else `none`";
    "restart.strategy", RESTART,
    "also `fixed-delay` and `failure-rate`; a pipeline that no edge connects to the others \
     restarts alone";

    restart_delay_ms: u64 = 1_000;
    "restart.delay", Millis(0),
    "delay between the failure and the next attempt; with `exponential-delay`, the first one";

    restart_max_delay_ms: u64 = 60_000;
    "restart.max-delay", Millis(0),
    "delay at which `exponential-delay` stops growing";

    allow_changed_arguments: bool = false;
    "restore.allow-changed-arguments", Switch,
    "start although a source is to read something other than when the snapshot was made; it \
     continues with what it read then; also `--allow-changed-arguments`";

    allow_non_restored_state: bool = false;
    "restore.allow-non-restored-state", Switch,
    "start although the snapshot holds state for which the job has no operator; also \
     `--allow-non-restored-state`";

    restart_attempts: u32 = 1;
    "restart.attempts", Number(0, u32::MAX),
    "number of attempts with `fixed-delay`";

    restart_max_failures: u32 = 1;
    "restart.max-failures", Number(0, u32::MAX),
    "failures that `failure-rate` allows in one `restart.interval`";

    restart_interval_ms: u64 = 60_000;
    "restart.interval", Millis(1),
    "interval of `failure-rate`; after this long without a failure `exponential-delay` starts \
     over";

    upgrade_probation_ms: u64 = 30_000;
    "upgrade.probation", Millis(0),
    "how long after an upgrade a failure that would end the job restores the previous version";
}

fn put<K: Kind>(kind: &K, field: &mut impl Slot<K::Value>, key: &str, text: &str) -> Result<()> {
    field.put(kind.read(key, text)?);
    Ok(())
}

fn shown<K: Kind>(kind: &K, field: &impl Slot<K::Value>, words: &str) -> String {
    field
        .value()
        .map_or_else(|| words.to_owned(), |value| kind.write(value))
}

impl Configuration {
    /// Sets one key from its text.
    ///
    /// # Errors
    /// `Invalid` for an unknown key or a value that does not fit; the message names both.
    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        self.assign(key, value)?;
        self.texts.insert(key.to_owned(), value.to_owned());
        Ok(())
    }

    /// Every key that [`Configuration::set`] knows, in order.
    pub fn keys() -> Vec<&'static str> {
        let mut keys: Vec<&str> = Configuration::table().iter().map(|row| row.key).collect();
        keys.push(EXCHANGE_BATCHES);
        keys.sort_unstable();
        keys
    }
}
