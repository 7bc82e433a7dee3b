//! The table of SEMANTICS section 6, for each kind of state. The time to live is 10 ms; a script is
//! steps of (now, what, answer).

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
/// is stored, `snapshot` what is saved, `restore` begins anew from a snapshot.
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

struct List {
    state: ListState,
    ttl: Ttl,
}

impl List {
    fn new(ttl: Ttl) -> List {
        List {
            state: ListState::new(&i64s(), KeyKind::Bytes, KeyGroupRange::all(4), 4, Some(ttl)),
            ttl,
        }
    }
}

impl Subject for List {
    fn step(&mut self, now_ms: i64, what: &str, argument: &str) -> String {
        let keys = one_key();
        self.state.set_time(now_ms);
        match what {
            "add" => self.state.append(&keys, 0, [&bytes_of(argument)[..]]),
            "n" => return self.state.len().to_string(),
            "bytes" => return saved_bytes(&self.state.freeze()),
            "sweep" => self.state.sweep(argument.parse().unwrap()),
            _ => {
                let mut rows = EncodedRows::default();
                self.state.get(&keys, 0, &mut rows);
                let elements: Vec<String> = rows.iter().map(text_of).collect();
                if what == "read" {
                    self.state.read(&keys, 0);
                }
                return elements.join(" ");
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

    fn fresh(&self) -> List {
        List::new(self.ttl)
    }
}

fn saved_bytes(frozen: &dyn Frozen) -> String {
    saved(frozen)
        .iter()
        .map(|entry| entry.2.len())
        .sum::<usize>()
        .to_string()
}

#[test]
fn elements_of_a_list_expire_one_by_one() {
    let two = [(100, "add 1", "-"), (105, "add 2", "-")];
    let with = |more: &[(i64, &'static str, &'static str)]| [&two, more].concat();
    check(
        List::new(DEFAULT),
        &with(&[
            (109, "read", "1 2"),
            (110, "read", "2"),
            (114, "read", "2"),
            (115, "read", ""),
            (115, "n", "0"),
        ]),
    );
    check(
        List::new(ON_READ),
        &with(&[(109, "read", "1 2"), (118, "get", "1 2"), (119, "read", "")]),
    );
    check(
        List::new(ON_READ),
        &with(&[
            (110, "read", "2"),
            (119, "read", "2"),
            (129, "read", ""),
            (129, "n", "0"),
        ]),
    );
    check(
        List::new(SHOWN),
        &with(&[
            (112, "get", "1 2"),
            (112, "read", "1 2"),
            (112, "read", "2"),
            (115, "sweep 9", "-"),
            (115, "n", "0"),
        ]),
    );
    check(
        List::new(DEFAULT),
        &with(&[
            (109, "bytes", "40"),
            (110, "bytes", "20"),
            (115, "bytes", "0"),
            (115, "n", "1"),
        ]),
    );
    check(
        List::new(DEFAULT),
        &with(&[
            (110, "get", "2"),
            (110, "restore", "1"),
            (114, "get", "2"),
            (115, "get", ""),
        ]),
    );
}

struct Map {
    state: MapState,
    ttl: Ttl,
}

impl Map {
    fn new(ttl: Ttl) -> Map {
        Map {
            state: MapState::new(
                &i64s(),
                &i64s(),
                KeyKind::Bytes,
                KeyGroupRange::all(4),
                4,
                Some(ttl),
            ),
            ttl,
        }
    }

    fn scan(&mut self, keys: &KeyBuffer) -> String {
        let mut found = Vec::new();
        self.state.scan(keys, 0, None, |key, _| {
            found.push(text_of(key));
            std::ops::ControlFlow::Continue(())
        });
        found.join(" ")
    }
}

impl Subject for Map {
    fn step(&mut self, now_ms: i64, what: &str, argument: &str) -> String {
        let keys = one_key();
        self.state.set_time(now_ms);
        match what {
            "put" => self.state.put(&keys, 0, &bytes_of(argument), &[7; 8]),
            "n" => return self.state.len().to_string(),
            "snapshot" => return saved(&self.state.freeze()).len().to_string(),
            "sweep" => self.state.sweep(argument.parse().unwrap()),
            "scan" => return self.scan(&keys),
            "read-all" => {
                let found = self.scan(&keys);
                self.state
                    .read(&keys, 0, (Bound::Unbounded, Bound::Unbounded));
                return found;
            }
            _ => {
                let key = bytes_of(argument);
                let found = self
                    .state
                    .get(&keys, 0, &key)
                    .map_or("no", |_| "yes")
                    .to_owned();
                if what == "read" {
                    self.state
                        .read(&keys, 0, (Bound::Included(&key), Bound::Included(&key)));
                }
                return found;
            }
        }
        "-".into()
    }

    fn freeze(&mut self) -> Box<dyn Frozen> {
        Box::new(self.state.freeze())
    }

    fn restore(&mut self, (key, sub, value): &StateEntry) {
        self.state
            .restore(murmur3_32(key), key, sub, value)
            .unwrap();
    }

    fn fresh(&self) -> Map {
        Map::new(self.ttl)
    }
}

#[test]
fn entries_of_a_map_expire_one_by_one() {
    let two = [(100, "put 1", "-"), (105, "put 2", "-")];
    let with = |more: &[(i64, &'static str, &'static str)]| [&two, more].concat();
    check(
        Map::new(DEFAULT),
        &with(&[
            (109, "read 1", "yes"),
            (110, "read 1", "no"),
            (114, "scan", "2"),
            (115, "read 2", "no"),
            (115, "n", "0"),
        ]),
    );
    check(
        Map::new(DEFAULT),
        &with(&[
            (109, "put 1", "-"),
            (115, "scan", "1"),
            (118, "read 1", "yes"),
            (119, "scan", ""),
        ]),
    );
    check(
        Map::new(ON_READ),
        &with(&[
            (109, "read 1", "yes"),
            (115, "scan", "1"),
            (118, "read-all", "1"),
            (127, "scan", "1"),
            (128, "scan", ""),
        ]),
    );
    check(
        Map::new(SHOWN),
        &with(&[
            (112, "read 1", "yes"),
            (112, "read 1", "no"),
            (116, "read-all", "2"),
            (116, "n", "0"),
        ]),
    );
    check(
        Map::new(DEFAULT),
        &with(&[
            (109, "snapshot", "2"),
            (110, "snapshot", "1"),
            (110, "restore", "1"),
            (114, "scan", "2"),
            (115, "scan", ""),
        ]),
    );
    // Cleaning goes on in the middle of a map.
    check(
        Map::new(SHOWN),
        &with(&[
            (120, "sweep 2", "-"),
            (120, "scan", "2"),
            (120, "sweep 1", "-"),
            (120, "n", "0"),
        ]),
    );
}

#[test]
fn background_cleaning_is_bounded_and_memory_does_not_grow() {
    let mut state = ValueState::new(
        &vec![Field::new("v", DataType::String)],
        KeyKind::Fixed,
        KeyGroupRange::all(4),
        4,
        Some(DEFAULT),
    );
    let batch = |n: usize| {
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["a text that needs an arena"; n]));
        RecordBatch::try_new(state_schema(), vec![texts]).unwrap()
    };
    let mut most_bytes = [0, 0];
    for round in 0..200u64 {
        state.set_time(round as i64);
        let (mut keys, mut entries) = (KeyBuffer::new(KeyKind::Fixed), Vec::new());
        (0..100)
            .map(|i| round * 100 + i)
            .for_each(|key| keys.push_key(murmur3_32(&key.to_le_bytes()), &key.to_le_bytes()));
        state.get(&keys, &mut entries).unwrap();
        state.set(
            &keys,
            &mut entries,
            &batch(100),
            (0..100).map(|slot| (slot, slot)),
        );
        let before = state.len();
        state.sweep(200);
        assert!(
            before - state.len() <= 200,
            "one step cleans no more than it looks at"
        );
        most_bytes[usize::from(round >= 100)] =
            most_bytes[usize::from(round >= 100)].max(state.memory_bytes());
    }
    assert!(
        state.len() <= 2_200,
        "ten rounds of a hundred live, and as many may wait: {}",
        state.len()
    );
    assert!(most_bytes[1] <= most_bytes[0] * 11 / 10, "{most_bytes:?}");
    state.set_time(1_000);
    (0..40).for_each(|_| state.sweep(200));
    assert!(state.is_empty());
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
