//! Elements of lists and entries of maps, each with a time of its own.

use super::*;

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
    // Cleaning continues in the middle of a map.
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
