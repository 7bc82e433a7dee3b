//! The rules of Flink's time to live, for each kind of state. The time to live is 10 ms; a script
//! is steps of (now, what, answer).

mod collections;

use super::*;
use crate::keys::{KeyBuffer, KeyKind};
use crate::snapshot::{Frozen, StateEntry};
use crate::{EncodedRows, ListState, MapState, NO_ENTRY, ValueState};
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use std::ops::Bound;
use std::sync::Arc;
use streamrt_types::{KeyGroupRange, arrow_schema, murmur3_32};
use streamrt_wit::{DataType, Field, Schema, StateKind};

use TtlUpdate::{OnCreateAndWrite, OnReadAndWrite};
use TtlVisibility::{NeverReturnExpired, ReturnExpiredIfNotCleanedUp};

const DEFAULT: Ttl = ttl(OnCreateAndWrite, NeverReturnExpired);
const ON_READ: Ttl = ttl(OnReadAndWrite, NeverReturnExpired);
const SHOWN: Ttl = ttl(OnCreateAndWrite, ReturnExpiredIfNotCleanedUp);

const fn ttl(update: TtlUpdate, visibility: TtlVisibility) -> Ttl {
    Ttl {
        ttl_ms: 10,
        renewed_by_reads: matches!(update, OnReadAndWrite),
        shows_expired: matches!(visibility, ReturnExpiredIfNotCleanedUp),
        now_ms: 0,
    }
}

fn i64s() -> Schema {
    vec![Field::new("v", DataType::I64)]
}

fn bytes_of(number: &str) -> [u8; 8] {
    number.parse::<i64>().unwrap().to_le_bytes()
}

fn text_of(row: &[u8]) -> String {
    i64::from_le_bytes(row.try_into().unwrap()).to_string()
}

/// A state under test: `get` looks, `read` looks as user code does, `sweep` cleans, `n` counts what
/// is stored, `snapshot` what is saved, `restore` starts over from a snapshot.
trait Subject {
    fn step(&mut self, now_ms: i64, what: &str, argument: &str) -> String;
    fn freeze(&mut self) -> Box<dyn Frozen>;
    fn restore(&mut self, entry: &StateEntry);
    fn fresh(&self) -> Self;
}

fn saved(frozen: &dyn Frozen) -> Vec<StateEntry> {
    let mut entries = Vec::new();
    frozen.visit(&mut |key, sub, value| entries.push((key.to_vec(), sub.to_vec(), value.to_vec())));
    entries
}

fn check(mut subject: impl Subject, script: &[(i64, &str, &str)]) {
    for (number, &(now, what, expected)) in script.iter().enumerate() {
        let (verb, argument) = what.split_once(' ').unwrap_or((what, ""));
        let answer = match verb {
            "restore" => {
                let entries = saved(&*subject.freeze());
                subject = subject.fresh();
                entries.iter().for_each(|entry| subject.restore(entry));
                entries.len().to_string()
            }
            _ => subject.step(now, verb, argument),
        };
        assert_eq!(answer, expected, "step {number}: {what} at {now}");
    }
}

fn one_key() -> KeyBuffer {
    let mut keys = KeyBuffer::new(KeyKind::Bytes);
    keys.push_key(murmur3_32(b"key"), b"key");
    keys
}

/// Value state; wide values go to the arena.
struct Value {
    state: ValueState,
    ttl: Ttl,
    wide: bool,
}

impl Value {
    fn new(ttl: Ttl, wide: bool) -> Value {
        let state = ValueState::new(
            &Value::schema(wide),
            KeyKind::Bytes,
            KeyGroupRange::all(4),
            4,
            Some(ttl),
        );
        Value { state, ttl, wide }
    }

    fn schema(wide: bool) -> Schema {
        if wide {
            vec![Field::new("v", DataType::String)]
        } else {
            i64s()
        }
    }

    fn set(&mut self, keys: &KeyBuffer, entries: &mut [EntryId], argument: &str) {
        let column: ArrayRef = match self.wide {
            true => Arc::new(StringArray::from(vec![argument])),
            false => Arc::new(Int64Array::from(vec![argument.parse::<i64>().unwrap()])),
        };
        let batch =
            RecordBatch::try_new(arrow_schema(&Value::schema(self.wide)), vec![column]).unwrap();
        self.state
            .set(keys, entries, &batch, std::iter::once((0, 0)));
    }
}

impl Subject for Value {
    fn step(&mut self, now_ms: i64, what: &str, argument: &str) -> String {
        let (keys, mut entries) = (one_key(), Vec::new());
        self.state.set_time(now_ms);
        match what {
            "n" => return self.state.len().to_string(),
            "snapshot" => return saved(&self.state.freeze()).len().to_string(),
            "sweep" => self.state.sweep(argument.parse().unwrap()),
            _ => {
                let (values, present) = self.state.get(&keys, &mut entries).unwrap();
                assert_eq!(present[0] == 0, entries[0] == NO_ENTRY);
                match what {
                    "set" => self.set(&keys, &mut entries, argument),
                    "read" => self.state.read(entries[0]),
                    _ => {}
                }
                if what == "set" || present[0] == 0 {
                    return "-".into();
                }
                let column = values.column(0);
                return if self.wide {
                    column.as_string::<i32>().value(0).into()
                } else {
                    column.as_primitive::<Int64Type>().value(0).to_string()
                };
            }
        }
        "-".into()
    }

    fn freeze(&mut self) -> Box<dyn Frozen> {
        Box::new(self.state.freeze())
    }

    fn restore(&mut self, (key, _, value): &StateEntry) {
        self.state.restore(murmur3_32(key), key, value).unwrap();
    }

    fn fresh(&self) -> Value {
        Value::new(self.ttl, self.wide)
    }
}

fn check_value(ttl: Ttl, script: &[(i64, &str, &str)]) {
    check(Value::new(ttl, false), script);
    check(Value::new(ttl, true), script);
}

#[test]
fn a_value_expires_at_the_exact_ms_after_its_last_write() {
    check_value(
        DEFAULT,
        &[
            (100, "set 1", "-"),
            (109, "read", "1"),
            (110, "n", "1"),
            (110, "read", "-"),
            (110, "n", "0"),
        ],
    );
    check_value(
        DEFAULT,
        &[
            (100, "set 1", "-"),
            (105, "set 2", "-"),
            (114, "read", "2"),
            (115, "read", "-"),
        ],
    );
    check_value(
        DEFAULT,
        &[
            (100, "set 1", "-"),
            (111, "set 2", "-"),
            (120, "read", "2"),
            (121, "read", "-"),
        ],
    );
    check_value(
        DEFAULT,
        &[(i64::MAX - 5, "set 1", "-"), (i64::MAX - 1, "read", "1")],
    );
}

#[test]
fn a_read_renews_only_if_it_is_to() {
    check_value(
        DEFAULT,
        &[(100, "set 1", "-"), (109, "read", "1"), (110, "get", "-")],
    );
    check_value(
        ON_READ,
        &[
            (100, "set 1", "-"),
            (109, "read", "1"),
            (118, "get", "1"),
            (118, "restore", "1"),
            (119, "get", "-"),
        ],
    );
    check_value(
        ON_READ,
        &[(100, "set 1", "-"), (110, "read", "-"), (110, "n", "0")],
    );
}

#[test]
fn an_expired_value_may_be_shown_until_it_is_cleaned() {
    check_value(
        SHOWN,
        &[
            (100, "set 1", "-"),
            (110, "get", "1"),
            (111, "read", "1"),
            (111, "n", "0"),
            (111, "read", "-"),
        ],
    );
    check_value(
        SHOWN,
        &[
            (100, "set 1", "-"),
            (110, "sweep 9", "-"),
            (110, "read", "-"),
        ],
    );
    check_value(
        SHOWN,
        &[
            (100, "set 1", "-"),
            (110, "get", "1"),
            (110, "set 2", "-"),
            (119, "read", "2"),
            (119, "n", "1"),
        ],
    );
}

#[test]
fn snapshots_leave_expired_values_out_and_keep_the_times_of_the_others() {
    check_value(
        DEFAULT,
        &[
            (100, "set 1", "-"),
            (109, "snapshot", "1"),
            (110, "snapshot", "0"),
            (110, "n", "1"),
        ],
    );
    check_value(
        DEFAULT,
        &[
            (100, "set 1", "-"),
            (105, "get", "1"),
            (105, "restore", "1"),
            (109, "read", "1"),
            (110, "read", "-"),
        ],
    );
}

fn state_schema() -> arrow_schema::SchemaRef {
    arrow_schema(&vec![Field::new("v", DataType::String)])
}

#[test]
fn entries_without_a_time_are_damage() {
    let mut state = ValueState::new(
        &i64s(),
        KeyKind::Bytes,
        KeyGroupRange::all(4),
        4,
        Some(DEFAULT),
    );
    assert_eq!(
        state
            .restore(murmur3_32(b"k"), b"k", &[0; 7])
            .unwrap_err()
            .code(),
        code::SNAPSHOT_DAMAGED
    );
    assert_eq!(
        state
            .restore(murmur3_32(b"k"), b"k", &[0; 8])
            .unwrap_err()
            .code(),
        code::SNAPSHOT_DAMAGED
    );
    state.restore(murmur3_32(b"k"), b"k", &[0; 16]).unwrap();
}

#[test]
fn a_descriptor_says_how_long_and_when() {
    let mut descriptor = StateDescriptor {
        name: "s".into(),
        kind: StateKind::Value,
        key: Vec::new(),
        value: i64s(),
        ttl_ms: None,
        ttl_update: OnReadAndWrite,
        ttl_visibility: ReturnExpiredIfNotCleanedUp,
    };
    assert!(Ttl::of(&descriptor).is_none());
    descriptor.ttl_ms = Some(u64::MAX);
    let ttl = Ttl::of(&descriptor).unwrap();
    assert_eq!(
        (ttl.ttl_ms, ttl.renewed_by_reads, ttl.shows_expired),
        (i64::MAX, true, true)
    );
}
