//! What a snapshot keeps of a connector: positions of readers, findings of enumerators, promises of
//! sinks, all as JSON.
//!
//! Each connector has a small struct of its own; this is how they are written, read again, and
//! refused. Nothing that was read is trusted: numbers are checked where they are used.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Display;
use streamrt_types::{Error, Result, code};

/// The number of characters of what was read that a message shows.
const SHOWN_CHARS: usize = 200;

pub fn write<T: Serialize>(position: &T) -> String {
    serde_json::to_string(position).expect("positions are structs of numbers and strings")
}

/// Reads what `write` wrote; `place` is the split or the connector, for the message.
///
/// # Errors
/// `Data` if it is something else.
pub fn read<T: DeserializeOwned>(place: impl Display, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| damaged(place, text).with_source(e))
}

/// A number from which somebody continues counting.
///
/// # Errors
/// `Data` if it is implausibly large: the next one might overflow.
pub fn count(place: impl Display, number: u64) -> Result<u64> {
    const MOST: u64 = 1 << 62;
    if number <= MOST {
        Ok(number)
    } else {
        Err(damaged(place, &number.to_string()))
    }
}

/// An error about something that `write` never wrote for this place.
pub fn damaged(place: impl Display, text: &str) -> Error {
    let shown: String = text.chars().take(SHOWN_CHARS).collect();
    Error::new(
        code::SNAPSHOT_DAMAGED,
        format!("{place}: the snapshot holds `{shown}`, which nobody could go on from"),
    )
}

/// An error: the input at a position is not what it was, and continuing elsewhere would skip
/// records, or read them twice.
pub fn lost(what: String) -> Error {
    Error::new(code::HISTORY_LOST, what)
}
