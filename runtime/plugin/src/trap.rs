//! Why a call into a guest did not return: wasmtime's errors as ours, one sentence and a backtrace.
//!
//! The host's own reason (a limit, a deadline) comes first; the guest's report of its own panic
//! takes precedence over the machine's.

use crate::guest::Guest;
use std::fmt;
use std::time::Duration;
use streamrt_operator::Failure;
use streamrt_types::{Error, code};
use wasmtime::{Trap, WasmBacktrace};

/// The host ended a guest.
#[derive(Debug)]
pub(crate) enum Stop {
    Deadline(Duration),
    Cancelled,
    Memory {
        bytes_max: usize,
    },
    Table {
        entries_max: usize,
    },
    Output {
        bytes_max: usize,
    },
    /// Too many bytes for files.
    Written {
        bytes_max: u64,
    },
    /// Too much time in calls of files; `hangs` if one of them did not answer.
    Files {
        limit: Duration,
        hangs: bool,
    },
    /// Too many handles of inert WASI.
    Handles {
        n_max: usize,
    },
    /// A call of a function of inert WASI that only ends the guest.
    NotProvided(String),
    /// The guest ended itself.
    Exit,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::Deadline(limit) => write!(
                f,
                "the plugin did not return within {} ms",
                limit.as_millis()
            ),
            Stop::Cancelled => f.write_str("the call into the plugin was cancelled"),
            Stop::Memory { bytes_max } => write!(
                f,
                "the plugin wants more memory than the {} that it may have",
                size(*bytes_max)
            ),
            Stop::Table { entries_max } => {
                write!(f, "the plugin wants more than {entries_max} table entries")
            }
            Stop::Output { bytes_max } => write!(
                f,
                "the plugin sends more than {} in one call",
                size(*bytes_max)
            ),
            Stop::Written { bytes_max } => write!(
                f,
                "the plugin writes more than {bytes_max} bytes to files in one call"
            ),
            Stop::Files { limit, hangs: true } => {
                write!(
                    f,
                    "the disk did not answer a plugin's call of files within {} ms",
                    limit.as_millis()
                )
            }
            Stop::Files {
                limit,
                hangs: false,
            } => {
                write!(
                    f,
                    "the plugin's calls of files took more than {} ms together",
                    limit.as_millis()
                )
            }
            Stop::Handles { n_max } => write!(f, "the plugin holds more than {n_max} handles"),
            Stop::NotProvided(name) => {
                write!(f, "the plugin calls {name}, which a plugin cannot have")
            }
            Stop::Exit => f.write_str("the plugin ended itself with `exit`"),
        }
    }
}

impl std::error::Error for Stop {}

impl Stop {
    fn code(&self) -> streamrt_types::Code {
        match self {
            Stop::Deadline(_) => code::DEADLINE,
            Stop::Cancelled => code::CANCELLED,
            Stop::Memory { .. } | Stop::Table { .. } | Stop::Handles { .. } => code::MEMORY_LIMIT,
            Stop::Output { .. } => code::OUTPUT_LIMIT,
            Stop::Written { .. } | Stop::Files { hangs: false, .. } => code::FILES_LIMIT,
            Stop::Files { hangs: true, .. } => code::SINK_UNAVAILABLE,
            Stop::NotProvided(_) | Stop::Exit => code::TRAP,
        }
    }
}

fn size(bytes: usize) -> String {
    if bytes.is_multiple_of(1 << 20) {
        format!("{} MiB", bytes >> 20)
    } else {
        format!("{bytes} bytes")
    }
}

/// Explains in our words why a call failed.
pub(crate) fn explain(error: wasmtime::Error, guest: &mut Guest) -> Failure {
    let backtrace = error
        .downcast_ref::<WasmBacktrace>()
        .map(frames)
        .unwrap_or_default();
    Failure {
        error: reason(&error, guest),
        backtrace,
    }
}

fn reason(error: &wasmtime::Error, guest: &mut Guest) -> Error {
    if let Some(stop) = error.downcast_ref::<Stop>() {
        return Error::new(stop.code(), stop.to_string());
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::StackOverflow) => {
            Error::new(code::STACK_LIMIT, "the plugin's stack is exhausted")
        }
        Some(trap) => trapped(*trap, guest),
        None => broken(&error.root_cause().to_string(), guest),
    }
}

fn trapped(trap: Trap, guest: &mut Guest) -> Error {
    let said = guest
        .journal
        .panic
        .take()
        .or_else(|| guest.journal.complaint.take());
    let message = match said {
        Some(said) => format!("the plugin panicked: {}", said.trim_end()),
        None => format!(
            "the plugin trapped: {}",
            trap.to_string().trim_start_matches("wasm trap: ")
        ),
    };
    Error::new(code::TRAP, message)
}

/// Neither the host nor the guest stopped: what the guest sent could not be read.
fn broken(cause: &str, guest: &Guest) -> Error {
    // The type of this error is private to wasmtime; `limits_on_output` in the tests keeps the text
    // honest.
    if cause.contains("fuel allocated for hostcalls") {
        let stop = Stop::Output {
            bytes_max: guest.running.output_bytes_max,
        };
        return Error::new(stop.code(), stop.to_string());
    }
    Error::new(
        code::BAD_OUTPUT,
        format!("the plugin sent what cannot be read: {cause}"),
    )
}

/// Beginnings of names of functions through which every panic passes, and which say nothing about
/// it.
const PANIC_MACHINERY: &[&str] = &[
    "core::panicking::",
    "core::option::unwrap_failed",
    "core::option::expect_failed",
    "core::result::unwrap_failed",
    "alloc::alloc::handle_alloc_error",
    "alloc::raw_vec::handle_error",
    "std::panicking::",
    "std::panic::",
    "std::process::abort",
    "std::sys::",
    "__rust",
    "rust_begin_unwind",
    "rust_panic",
];

/// Names of functions, innermost first, one line per frame.
fn frames(backtrace: &WasmBacktrace) -> String {
    let names = backtrace
        .frames()
        .iter()
        .filter_map(|frame| frame.func_name());
    let names: Vec<String> = names
        .map(|name| format!("{:#}", rustc_demangle::demangle(name)))
        .collect();
    let is_machinery = |name: &&String| {
        *name == "abort" || PANIC_MACHINERY.iter().any(|start| name.starts_with(start))
    };
    names
        .iter()
        .skip_while(is_machinery)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join("\n")
}
