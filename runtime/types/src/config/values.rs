//! How the values of configuration keys are written: each kind is read from a text, and written as
//! the documentation shows it.

use crate::code;
use crate::error::{Error, Result};
use std::fmt::Display;
use std::str::FromStr;

/// A way in which values are written.
pub(super) trait Kind {
    type Value;

    /// # Errors
    /// `Invalid` if the text does not fit; the message names it and the key.
    fn read(&self, key: &str, text: &str) -> Result<Self::Value>;

    /// The opposite.
    fn write(&self, value: &Self::Value) -> String;
}

/// Where a value is kept: a key without a default is an `Option`.
pub(super) trait Slot<V> {
    fn put(&mut self, value: V);
    /// None: the key has no value.
    fn value(&self) -> Option<&V>;
}

impl<V> Slot<V> for V {
    fn put(&mut self, value: V) {
        *self = value;
    }

    fn value(&self) -> Option<&V> {
        Some(self)
    }
}

impl<V> Slot<V> for Option<V> {
    fn put(&mut self, value: V) {
        *self = Some(value);
    }

    fn value(&self) -> Option<&V> {
        self.as_ref()
    }
}

/// A whole number from the first to the second, both included.
pub(super) struct Number<T>(pub T, pub T);

/// A size, at least as large.
pub(super) struct Bytes(pub usize);

/// A duration in ms, at least as long.
pub(super) struct Millis(pub u64);

/// `true` or `false`.
pub(super) struct Switch;

/// Any text.
pub(super) struct Text;

/// One of several words, each with what it means.
pub(super) struct Choice<T: 'static>(pub &'static [(&'static str, T)]);

impl<T: FromStr + PartialOrd + Display> Kind for Number<T> {
    type Value = T;

    fn read(&self, key: &str, text: &str) -> Result<T> {
        let Number(least, most) = self;
        let parsed = text.parse().ok().filter(|n| (least..=most).contains(&n));
        parsed.ok_or_else(|| refuse(key, text, &format!("a number from {least} to {most}")))
    }

    fn write(&self, value: &T) -> String {
        value.to_string()
    }
}

impl Kind for Bytes {
    type Value = usize;

    fn read(&self, key: &str, text: &str) -> Result<usize> {
        let bytes = parse_bytes(key, text)?;
        let fits = (bytes >= self.0).then_some(bytes);
        fits.ok_or_else(|| refuse(key, text, "more than nothing"))
    }

    fn write(&self, value: &usize) -> String {
        with_unit(*value as u64, BYTE_UNITS)
    }
}

impl Kind for Millis {
    type Value = u64;

    fn read(&self, key: &str, text: &str) -> Result<u64> {
        let ms = parse_duration_ms(key, text)?;
        let fits = (ms >= self.0).then_some(ms);
        fits.ok_or_else(|| refuse(key, text, "more than nothing"))
    }

    fn write(&self, value: &u64) -> String {
        with_unit(*value, TIME_UNITS)
    }
}

impl Kind for Switch {
    type Value = bool;

    fn read(&self, key: &str, text: &str) -> Result<bool> {
        text.parse().map_err(|_| refuse(key, text, "true or false"))
    }

    fn write(&self, value: &bool) -> String {
        value.to_string()
    }
}

impl Kind for Text {
    type Value = String;

    fn read(&self, _: &str, text: &str) -> Result<String> {
        Ok(text.to_owned())
    }

    fn write(&self, value: &String) -> String {
        value.clone()
    }
}

impl<T: Copy + PartialEq> Kind for Choice<T> {
    type Value = T;

    fn read(&self, key: &str, text: &str) -> Result<T> {
        let found = self.0.iter().find(|(word, _)| *word == text);
        let words: Vec<&str> = self.0.iter().map(|(word, _)| *word).collect();
        found.map(|(_, value)| *value).ok_or_else(|| {
            let (last, others) = words.split_last().unwrap_or((&"", &[]));
            refuse(key, text, &format!("{} or {last}", others.join(", ")))
        })
    }

    fn write(&self, value: &T) -> String {
        let found = self.0.iter().find(|(_, meaning)| meaning == value);
        found.map_or_else(String::new, |(word, _)| (*word).to_owned())
    }
}

/// Units with their sizes, from the largest.
type Units = [(&'static str, u64)];

const BYTE_UNITS: &Units = &[
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("", 1),
    ("B", 1),
];

const TIME_UNITS: &Units = &[("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1)];

/// In the largest unit that divides it.
fn with_unit(value: u64, units: &Units) -> String {
    let fits = |(_, size): &&(&str, u64)| *size == 1 || value > 0 && value.is_multiple_of(*size);
    let unit = units.iter().find(fits);
    unit.map_or_else(String::new, |(unit, size)| {
        format!("{}{unit}", value / size)
    })
}

fn refuse(key: &str, value: &str, expected: &str) -> Error {
    Error::new(
        code::BAD_OPTION,
        format!("`{key}` is `{value}`, but it must be {expected}"),
    )
}

/// The number in front of one of these units.
fn parse_unit(value: &str, units: &Units) -> Option<u64> {
    let digits = value
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(value.len());
    let (number, unit) = (&value[..digits], value[digits..].trim());
    let (_, size) = units.iter().find(|(known, _)| *known == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*size)
}

/// Reads a duration such as `10ms`, `5s`, `1min` or `1h` into ms; `key` is for the message.
///
/// # Errors
/// `Invalid` if the text is not a duration.
pub fn parse_duration_ms(key: &str, value: &str) -> Result<u64> {
    parse_unit(value, TIME_UNITS)
        .ok_or_else(|| refuse(key, value, "a duration such as 10ms, 5s or 1min"))
}

/// Reads a size such as `64MiB`, `10KiB`, `1GiB` or `100` into bytes; `key` is for the message.
///
/// # Errors
/// `Invalid` if the text is not a size.
pub fn parse_bytes(key: &str, value: &str) -> Result<usize> {
    parse_unit(value, BYTE_UNITS)
        .and_then(|bytes| usize::try_from(bytes).ok())
        .ok_or_else(|| refuse(key, value, "a size such as 64MiB"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_and_written() {
        for (text, ms) in [
            ("0ms", 0),
            ("10ms", 10),
            ("90s", 90_000),
            ("2min", 120_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(parse_duration_ms("k", text).unwrap(), ms);
            assert_eq!(Millis(0).write(&ms), text);
        }
        for (text, bytes) in [
            ("100", 100),
            ("10KiB", 10 << 10),
            ("64MiB", 64 << 20),
            ("1GiB", 1 << 30),
        ] {
            assert_eq!(parse_bytes("k", text).unwrap(), bytes);
            assert_eq!(Bytes(0).write(&bytes), text);
        }
        assert_eq!(parse_bytes("k", "100B").unwrap(), 100);
        for text in [
            "",
            "B",
            "ms",
            "10",
            "10 years",
            "99999999999999999999ms",
            "9999999999999999h",
        ] {
            assert!(parse_duration_ms("k", text).is_err(), "{text}");
        }
        for text in ["", "B", "MiB", "64kB", "-1", "99999999999999999GiB"] {
            assert!(parse_bytes("k", text).is_err(), "{text}");
        }
    }

    #[test]
    fn values_that_do_not_fit_are_named_with_what_would() {
        let refused = Choice(&[("one", 1), ("two", 2), ("three", 3)]).read("k", "four");
        assert_eq!(
            refused.unwrap_err().message(),
            "`k` is `four`, but it must be one, two or three"
        );
        assert_eq!(
            Millis(1).read("k", "0ms").unwrap_err().message(),
            "`k` is `0ms`, but it must be more than nothing"
        );
        assert_eq!(
            Number(1u32, 1000).read("k", "1001").unwrap_err().message(),
            "`k` is `1001`, but it must be a number from 1 to 1000"
        );
    }
}
