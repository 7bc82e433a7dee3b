//! The oracle: what each example must print, worked out without the engine, one record after the
//! other.
//!
//! It is the second opinion of the end-to-end tests: nothing here may use a crate of the engine or
//! of the SDK. Each example is a sequential simulation by Flink's rules: a record is processed
//! under the watermark that stood before it, then the watermark rises, then what is due fires.

mod apache_log;
mod audit_log;
mod hot_items;
mod hot_pages;
mod ride_duration;
mod sensor_alerts;
mod session_clicks;
mod sliding;
mod watermark;
mod word_count;

use std::collections::BTreeMap;

use serde::Serialize;

/// The names of the examples, in the order of the README.
pub const EXAMPLES: [&str; 7] = [
    "word-count",
    "hot-items",
    "hot-pages",
    "sensor-alerts",
    "ride-duration",
    "session-clicks",
    "audit-log",
];

/// Lines of JSON by output: the empty name is the main output, the others are side outputs. Order
/// within an output means nothing.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Outputs(pub BTreeMap<String, Vec<String>>);

impl Outputs {
    /// Adds a row to the main output.
    pub(crate) fn main(&mut self, row: &impl Serialize) {
        self.push("", row);
    }

    /// Adds a row to an output by its name.
    pub(crate) fn push(&mut self, output: &str, row: &impl Serialize) {
        let line = serde_json::to_string(row).expect("rows hold only text and numbers");
        self.add_line(output, line);
    }

    /// Adds a line that is JSON already.
    pub fn add_line(&mut self, output: &str, line: String) {
        self.0.entry(output.to_owned()).or_default().push(line);
    }

    /// Sorts the lines, so that two outputs are equal when they are so as multisets.
    pub fn sorted(mut self) -> Outputs {
        self.0.values_mut().for_each(|lines| lines.sort_unstable());
        self.0.retain(|_, lines| !lines.is_empty());
        self
    }

    /// The lines of one output; none if nothing was written to it.
    pub fn lines(&self, output: &str) -> &[String] {
        self.0.get(output).map_or(&[], Vec::as_slice)
    }
}

/// A line that does not fit, with its number from 1.
pub(crate) fn at<T>(number: usize, parsed: Option<T>, line: &str) -> Result<T, String> {
    parsed.ok_or_else(|| format!("line {}: cannot read `{line}`", number + 1))
}

/// Seconds since the epoch as text, in ms.
pub(crate) fn seconds_to_ms(text: &str) -> Option<i64> {
    text.parse::<i64>().ok()?.checked_mul(1000)
}

/// What the example prints for these lines, read as one split.
///
/// # Errors
/// A sentence if there is no such example, or a line does not fit.
pub fn run(example: &str, lines: &[&str]) -> Result<Outputs, String> {
    let outputs = match example {
        "word-count" => Ok(word_count::run(lines)),
        "hot-items" => hot_items::run(lines),
        "hot-pages" => hot_pages::run(lines),
        "sensor-alerts" => sensor_alerts::run(lines),
        "ride-duration" => ride_duration::run(lines),
        "session-clicks" => session_clicks::run(lines),
        "audit-log" => audit_log::run(lines),
        _ => Err(format!("there is no example `{example}`")),
    };
    outputs.map(Outputs::sorted)
}

/// The event time of a line in ms, for tests that bring lines into another order; 0 where an
/// example has none.
///
/// # Panics
/// If the line does not fit the example.
pub fn time_of(example: &str, line: &str) -> i64 {
    let time = match example {
        "word-count" => Some(0),
        "hot-pages" => apache_log::Visit::parse(line).map(|visit| visit.time),
        "sensor-alerts" => line.split(',').nth(1).and_then(seconds_to_ms),
        _ => line.rsplit(',').next().and_then(seconds_to_ms),
    };
    time.unwrap_or_else(|| panic!("cannot read `{line}`"))
}
