//! The nouns that every crate of the engine shares: batches, stream elements, event time, keys, key
//! groups, errors.
//!
//! No I/O, no threads, no clock. What stands here is either a contract between crates or frozen on
//! disk (the key encoding and the key groups), so it changes rarely and with care.
//!
//! ```
//! use streamrt_types::{KeyGroupRange, key_group};
//! let group = key_group(streamrt_types::murmur3_32(b"sensor_1"), 128);
//! assert!(KeyGroupRange::all(128).contains(group));
//! ```

mod batch;
pub mod code;
mod config;
mod element;
mod error;
mod failpoint;
mod key;
mod key_group;
mod log_ring;
mod pace;
mod passwords;
mod process_memory;
mod say;
mod schema;
pub mod state_types;
mod target;
mod time;
mod workers;

pub use batch::{Batch, Mark, Origin, Rows, Times, columns_bytes};
pub use code::{CODES, Code};
pub use config::{
    BackendKind, Configuration, EndOfTime, KeyRow, PoisonPolicy, RestartKind, parse_bytes,
    parse_duration_ms,
};
pub use element::{Barrier, Status, StreamElement};
pub use error::{Error, ErrorKind, Result, stdout_error};
pub use failpoint::{FAILPOINTS, Failpoints, failpoint};
pub use key::{KeyEncoder, canonical_f32, canonical_f64, murmur3_32};
pub use key_group::{
    KeyGroupRange, MAX_PARALLELISM_MAX, default_max_parallelism, key_group, key_group_owner,
};
pub use log_ring::{LogLine, LogRing, begin_attempt, for_job, inheriting};
pub use pace::Pace;
pub use passwords::without_passwords;
pub use process_memory::ProcessMemory;
pub use say::{
    finish_saying, printable, printable_bytes, say_as_json, say_line, say_on_stderr, say_raw,
    says_json,
};
pub use schema::{arrow_schema, arrow_type, plan_schema, port_schema};
pub use target::Target;
pub use time::{Clock, ManualClock, SystemClock, WATERMARK_MAX, WATERMARK_MIN, Watermark};
pub use workers::{Strand, Workers};
