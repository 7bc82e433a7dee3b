//! State that was kept without a time to live and has one now, or the other way round: the times
//! before its entries are added or removed.
//!
//! Restored entries count as accessed at the moment of the restore. Invariant: two versions of a
//! state differ in nothing else.
//!
//! # Source
//! Flink since 2.1 (FLINK-35780): switching a time to live on and off for existing state.

use crate::disk_snapshot::{each_pair, push_pair};
use crate::list::{list_elements, push};
use crate::ttl::{STAMP_BYTES, restored_row};
use serde_json::Value;
use streamrt_types::Result;
use streamrt_types::state_types::{TIME_TO_LIVE, differ_in_time_to_live};

/// What becomes of the time before an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Add([u8; STAMP_BYTES]),
    Remove,
}

/// How entries of a state as it was kept become entries of the state as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Restamp {
    change: Change,
    /// Each element of a list has a time of its own.
    of_elements: bool,
}

impl Restamp {
    /// `None` if the types do not differ, or in more than this. `now_ms` is the time of the
    /// restore.
    pub(crate) fn between(found: &Value, wanted: &Value, now_ms: i64) -> Option<Restamp> {
        differ_in_time_to_live(found, wanted).then(|| {
            let adds = wanted.get(TIME_TO_LIVE).is_some();
            let change = if adds {
                Change::Add(now_ms.to_le_bytes())
            } else {
                Change::Remove
            };
            Restamp {
                change,
                of_elements: wanted["kind"] == "list",
            }
        })
    }

    /// The value of an entry as the state keeps it now.
    ///
    /// # Errors
    /// `Data` if it is not a value of the state as it was.
    pub(crate) fn value(&self, value: &[u8]) -> Result<Vec<u8>> {
        let mut changed = Vec::with_capacity(value.len() + STAMP_BYTES);
        match self.of_elements {
            true => list_elements(value)?.into_iter().try_for_each(|element| {
                let (stamp, row) = self.parts(element)?;
                push(&mut changed, stamp, row);
                Ok(())
            })?,
            false => {
                let (stamp, row) = self.parts(value)?;
                changed.extend([stamp, row].concat());
            }
        }
        Ok(changed)
    }

    /// All entries of a key on disk.
    ///
    /// # Errors
    /// The same as for [`Restamp::value`].
    pub(crate) fn run(&self, run: &[u8]) -> Result<Vec<u8>> {
        let mut changed = Vec::with_capacity(run.len());
        each_pair(run, |sub, value| {
            push_pair(sub, &self.value(value)?, &mut changed);
            Ok(())
        })?;
        Ok(changed)
    }

    /// The time and the row that now make up an entry.
    fn parts<'a>(&'a self, stored: &'a [u8]) -> Result<(&'a [u8], &'a [u8])> {
        match &self.change {
            Change::Add(stamp) => Ok((stamp, stored)),
            Change::Remove => Ok((&[], &stored[restored_row(true, stored)?..])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn between(kind: &str, adds: bool) -> Restamp {
        let (without, with) = (
            json!({"kind": kind, "value": []}),
            json!({"kind": kind, "value": [], "time-to-live": true}),
        );
        let (found, wanted) = if adds {
            (without, with)
        } else {
            (with, without)
        };
        Restamp::between(&found, &wanted, 7).unwrap()
    }

    #[test]
    fn times_come_and_go_in_front_of_values_and_elements() {
        let stamped = [&7i64.to_le_bytes()[..], b"row"].concat();
        assert_eq!(between("value", true).value(b"row").unwrap(), stamped);
        assert_eq!(between("map", false).value(&stamped).unwrap(), b"row");
        assert_eq!(
            between("value", false)
                .value(b"short")
                .unwrap_err()
                .code()
                .id,
            "S7001"
        );
        let (mut plain, mut times) = (Vec::new(), Vec::new());
        for element in [&b"a"[..], b"bc"] {
            push(&mut plain, &[], element);
            push(&mut times, &7i64.to_le_bytes(), element);
        }
        assert_eq!(between("list", true).value(&plain).unwrap(), times);
        assert_eq!(between("list", false).value(&times).unwrap(), plain);
        assert!(between("list", false).value(&plain).is_err());
    }

    #[test]
    fn types_that_differ_in_more_are_other_types() {
        let types = |value: &str, ttl: bool| match ttl {
            true => json!({"kind": "value", "value": value, "time-to-live": true}),
            false => json!({"kind": "value", "value": value}),
        };
        assert!(Restamp::between(&types("i64", false), &types("f64", true), 0).is_none());
        assert!(Restamp::between(&types("i64", true), &types("i64", true), 0).is_none());
        assert!(Restamp::between(&json!("i64"), &json!("f64"), 0).is_none());
    }
}
