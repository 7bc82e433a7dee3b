//! When a file is ended and the next one begun, within one transaction.

use crate::options;
use serde::Deserialize;
use streamrt_types::{Result, parse_bytes, parse_duration_ms};

/// Options of the sink `file` under `rolling`. None of them is set by default: then a transaction
/// is one file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RollingOptions {
    /// A file of this size, such as `128MiB`, is ended after the batch that filled it.
    pub size: Option<String>,
    /// So is one of this age, such as `15min`, at the next batch; a checkpoint ends it in any case.
    pub interval: Option<String>,
    /// So is one with this number of rows.
    pub rows: Option<u64>,
}

/// The same, parsed. What is not set is never reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rolling {
    bytes: u64,
    ms: i64,
    rows: u64,
}

/// How large and how old a file is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extent {
    pub bytes: u64,
    pub age_ms: i64,
    pub rows: u64,
}

impl Rolling {
    /// # Errors
    /// `Invalid` if a value is not a size or a duration, or is 0.
    pub fn new(options: &RollingOptions) -> Result<Rolling> {
        let refuse = |e: streamrt_types::Error| options::refuse("file", e.message());
        let bytes = options
            .size
            .as_deref()
            .map(|size| parse_bytes("rolling.size", size))
            .transpose()
            .map_err(refuse)?;
        let ms = options
            .interval
            .as_deref()
            .map(|interval| parse_duration_ms("rolling.interval", interval))
            .transpose()
            .map_err(refuse)?;
        let limits = [
            ("rolling.size", bytes.map(|n| n as u64)),
            ("rolling.interval", ms),
            ("rolling.rows", options.rows),
        ];
        if let Some((name, _)) = limits.iter().find(|(_, limit)| *limit == Some(0)) {
            return Err(options::refuse(
                "file",
                &format!("`{name}` is nothing, but it must be more"),
            ));
        }
        let [bytes, ms, rows] = limits.map(|(_, limit)| limit.unwrap_or(u64::MAX));
        Ok(Rolling {
            bytes,
            ms: i64::try_from(ms).unwrap_or(i64::MAX),
            rows,
        })
    }

    pub fn is_due(self, extent: Extent) -> bool {
        extent.bytes >= self.bytes || extent.age_ms >= self.ms || extent.rows >= self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rolling(options: serde_json::Value) -> Result<Rolling> {
        Rolling::new(&serde_json::from_value(options).unwrap())
    }

    #[test]
    fn each_limit_ends_a_file() {
        let due = |options, bytes, age_ms, rows| {
            rolling(options).unwrap().is_due(Extent {
                bytes,
                age_ms,
                rows,
            })
        };
        assert!(!due(json!({}), u64::MAX - 1, i64::MAX - 1, u64::MAX - 1));
        assert!(
            due(json!({"size": "1KiB"}), 1024, 0, 0) && !due(json!({"size": "1KiB"}), 1023, 0, 0)
        );
        assert!(
            due(json!({"interval": "2s"}), 0, 2000, 0)
                && !due(json!({"interval": "2s"}), 0, 1999, 0)
        );
        assert!(due(json!({"rows": 3}), 0, 0, 3) && !due(json!({"rows": 3}), 9, 9, 2));
    }

    #[test]
    fn what_is_no_limit_is_refused() {
        let check = |options, expected: &str| {
            assert_eq!(
                rolling(options).unwrap_err().message(),
                format!("connector `file`: {expected}")
            )
        };
        check(
            json!({"size": "big"}),
            "`rolling.size` is `big`, but it must be a size such as 64MiB",
        );
        check(
            json!({"interval": "5"}),
            "`rolling.interval` is `5`, but it must be a duration such as 10ms, 5s or 1min",
        );
        check(
            json!({"rows": 0}),
            "`rolling.rows` is nothing, but it must be more",
        );
        check(
            json!({"size": "0"}),
            "`rolling.size` is nothing, but it must be more",
        );
    }
}
