//! States on a disk against maps in memory: whatever is evicted, loaded, checkpointed or restored,
//! every read returns the last write.

mod expiry;
mod flights;

use super::*;
use crate::disk::{Changes, DiskFile, EachPair};
use crate::keys::{KeyBuffer, KeyKind};
use crate::{
    DiskFiles, DiskState, KeyedSnapshot, MapState, MemoryBudget, OperatorIndex, OperatorSnapshot,
    OperatorState, Part, Share, Ttl, ValueState,
};
use arrow_array::{Int64Array, RecordBatch};
use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use streamrt_types::{KeyGroupRange, arrow_schema, code};
use streamrt_wit::{DataType, Field};

const GROUPS: u32 = 8;

/// A disk in memory. A checkpoint is one file with all pairs.
#[derive(Default)]
struct TestDisk(Mutex<BTreeMap<Vec<u8>, Vec<u8>>>);

impl TestDisk {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Vec<u8>, Vec<u8>>> {
        self.0.lock().unwrap()
    }
}

impl Disk for TestDisk {
    fn get(&self, keys: &[&[u8]], found: &mut dyn FnMut(usize, &[u8]) -> Result<()>) -> Result<()> {
        assert!(keys.is_sorted());
        let pairs = self.lock();
        keys.iter()
            .enumerate()
            .try_for_each(|(at, key)| pairs.get(*key).map_or(Ok(()), |value| found(at, value)))
    }

    fn scan(&self, from: &[u8], to: &[u8], each: &mut EachPair<'_>) -> Result<()> {
        self.lock()
            .range(from.to_vec()..to.to_vec())
            .try_for_each(|(key, value)| each(key, value))
    }

    fn first_key(&self, from: &[u8], to: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self
            .lock()
            .range(from.to_vec()..to.to_vec())
            .next()
            .map(|(key, _)| key.clone()))
    }

    fn delete_ranges(&self, ranges: &[KeyRange]) -> Result<()> {
        self.lock()
            .retain(|key, _| !ranges.iter().any(|(from, to)| from <= key && key < to));
        Ok(())
    }

    fn write(&self, changes: &mut Changes<'_>) -> Result<()> {
        let (mut pairs, mut last) = (self.lock(), Vec::new());
        for (key, value) in changes {
            assert!(last.as_slice() < key, "keys ascend");
            last = key.to_vec();
            match value {
                Some(value) => pairs.insert(last.clone(), value.to_vec()),
                None => pairs.remove(key),
            };
        }
        Ok(())
    }

    fn checkpoint(&self, _to: &Path) -> Result<Vec<DiskFile>> {
        Ok(Vec::new())
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}

fn state_disk(
    limit_bytes: usize,
    pairs: BTreeMap<Vec<u8>, Vec<u8>>,
    states: Vec<DiskState>,
) -> (Arc<TestDisk>, Arc<StateDisk>) {
    let disk = Arc::new(TestDisk(Mutex::new(pairs)));
    (
        disk.clone(),
        Arc::new(StateDisk::new(
            disk,
            Arc::new(MemoryBudget::new(limit_bytes)),
            GROUPS,
            states,
        )),
    )
}

fn keys_of(keys: &[u64]) -> KeyBuffer {
    let mut buffer = KeyBuffer::new(KeyKind::Fixed);
    keys.iter()
        .for_each(|key| buffer.push_key(murmur3_32(&key.to_le_bytes()), &key.to_le_bytes()));
    buffer
}

/// What both kinds of state are tested with: numbers under keys.
trait Subject: Resident {
    fn new(tier: Tier) -> Self;
    fn put(&mut self, keys: &KeyBuffer, value: i64);
    fn read(&mut self, keys: &KeyBuffer) -> Vec<Option<i64>>;
    fn take(&mut self, keys: &KeyBuffer);
    fn frozen(&mut self) -> KeyedSnapshot;
    fn restore_one(&mut self, hash: u32, key: &[u8], sub: &[u8], value: &[u8]) -> Result<()>;
}

fn schema() -> streamrt_wit::Schema {
    vec![Field::new("v", DataType::I64)]
}

struct Values(ValueState);

impl Resident for Values {
    fn tier(&mut self) -> &mut Option<Box<Tier>> {
        self.0.tier()
    }
    fn table(&self) -> &KeyTable {
        self.0.table()
    }
    fn store(&self, entry: EntryId, run: &mut Vec<u8>) {
        self.0.store(entry, run);
    }
    fn load(&mut self, hash: u32, key: &[u8], run: &[u8]) -> Result<()> {
        self.0.load(hash, key, run)
    }
    fn drop_entry(&mut self, entry: EntryId) {
        self.0.drop_entry(entry);
    }
    fn used_bytes(&self) -> usize {
        self.0.used_bytes()
    }
}

impl Subject for Values {
    fn new(tier: Tier) -> Self {
        let mut state = ValueState::new(
            &schema(),
            KeyKind::Fixed,
            KeyGroupRange::all(GROUPS),
            GROUPS,
            None,
        );
        *state.tier() = Some(Box::new(tier));
        Values(state)
    }
    fn put(&mut self, keys: &KeyBuffer, value: i64) {
        let mut entries = Vec::new();
        self.0.get(keys, &mut entries).unwrap();
        let values = RecordBatch::try_new(
            arrow_schema(&schema()),
            vec![Arc::new(Int64Array::from(vec![value]))],
        )
        .unwrap();
        self.0.set(
            keys,
            &mut entries,
            &values,
            (0..keys.len()).map(|slot| (slot, 0)),
        );
    }
    fn read(&mut self, keys: &KeyBuffer) -> Vec<Option<i64>> {
        let (columns, present) = self.0.get(keys, &mut Vec::new()).unwrap();
        let values = columns
            .column(0)
            .as_any()
            .downcast_ref::<Int64Array>()
            .unwrap();
        present
            .iter()
            .zip(values.values())
            .map(|(present, value)| (*present == 1).then_some(*value))
            .collect()
    }
    fn take(&mut self, keys: &KeyBuffer) {
        let mut entries = Vec::new();
        self.0.get(keys, &mut entries).unwrap();
        entries.into_iter().for_each(|entry| self.0.clear(entry));
    }
    fn frozen(&mut self) -> KeyedSnapshot {
        KeyedSnapshot {
            name: "s".into(),
            types: json!("i64"),
            entries: Box::new(self.0.freeze()),
        }
    }
    fn restore_one(&mut self, hash: u32, key: &[u8], _sub: &[u8], value: &[u8]) -> Result<()> {
        self.0.restore(hash, key, value)
    }
}

/// Two entries under each key, which hold the number and its negation.
struct Maps(MapState);

impl Resident for Maps {
    fn tier(&mut self) -> &mut Option<Box<Tier>> {
        self.0.tier()
    }
    fn table(&self) -> &KeyTable {
        self.0.table()
    }
    fn store(&self, entry: EntryId, run: &mut Vec<u8>) {
        self.0.store(entry, run);
    }
    fn load(&mut self, hash: u32, key: &[u8], run: &[u8]) -> Result<()> {
        self.0.load(hash, key, run)
    }
    fn drop_entry(&mut self, entry: EntryId) {
        self.0.drop_entry(entry);
    }
    fn used_bytes(&self) -> usize {
        self.0.used_bytes()
    }
}

impl Subject for Maps {
    fn new(tier: Tier) -> Self {
        let mut state = MapState::new(
            &schema(),
            &schema(),
            KeyKind::Fixed,
            KeyGroupRange::all(GROUPS),
            GROUPS,
            None,
        );
        *state.tier() = Some(Box::new(tier));
        Maps(state)
    }
    fn put(&mut self, keys: &KeyBuffer, value: i64) {
        for slot in 0..keys.len() {
            self.0
                .put(keys, slot, &1i64.to_le_bytes(), &value.to_le_bytes());
            self.0
                .put(keys, slot, &2i64.to_le_bytes(), &(-value).to_le_bytes());
        }
    }
    fn read(&mut self, keys: &KeyBuffer) -> Vec<Option<i64>> {
        let number = |bytes: &[u8]| i64::from_le_bytes(bytes.try_into().unwrap());
        let mut read = |slot| {
            let first = self.0.get(keys, slot, &1i64.to_le_bytes()).map(number);
            assert_eq!(
                first.map(|first| -first),
                self.0.get(keys, slot, &2i64.to_le_bytes()).map(number)
            );
            first
        };
        (0..keys.len()).map(&mut read).collect()
    }
    fn take(&mut self, keys: &KeyBuffer) {
        for slot in 0..keys.len() {
            self.0.remove(keys, slot, &1i64.to_le_bytes());
            self.0.clear(keys, slot);
        }
    }
    fn frozen(&mut self) -> KeyedSnapshot {
        KeyedSnapshot {
            name: "s".into(),
            types: json!("i64"),
            entries: Box::new(self.0.freeze()),
        }
    }
    fn restore_one(&mut self, hash: u32, key: &[u8], sub: &[u8], value: &[u8]) -> Result<()> {
        self.0.restore(hash, key, sub, value)
    }
}

#[derive(Debug, Clone)]
enum Step {
    Put(Vec<u64>),
    Take(Vec<u64>),
    Read(Vec<u64>),
    /// A checkpoint, whose changes are written after this many more steps; nothing may leave until
    /// then.
    Checkpoint,
    /// Ends all flights.
    Land,
    /// Resumes from the last checkpoint that has landed, on a disk or from the canonical format.
    Restore {
        canonical: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let keys = || prop::collection::vec(0u64..400, 1..60);
    prop_oneof![
        6 => keys().prop_map(Step::Put),
        2 => keys().prop_map(Step::Take),
        4 => keys().prop_map(Step::Read),
        2 => Just(Step::Checkpoint),
        2 => Just(Step::Land),
        1 => any::<bool>().prop_map(|canonical| Step::Restore { canonical }),
    ]
}

type Model = BTreeMap<u64, i64>;

/// A complete checkpoint: what the disk held, and what the state was.
#[derive(Clone, Default)]
struct Landed {
    pairs: BTreeMap<Vec<u8>, Vec<u8>>,
    states: Vec<DiskState>,
    model: Model,
    canonical: Option<Part>,
}

struct Run<S> {
    limit_bytes: usize,
    disk: Arc<TestDisk>,
    state: S,
    model: Model,
    flights: Vec<(OperatorSnapshot, Model)>,
    landed: Landed,
}

impl<S: Subject> Run<S> {
    fn new(limit_bytes: usize) -> Run<S> {
        let (disk, shared) = state_disk(limit_bytes, BTreeMap::new(), Vec::new());
        let state = S::new(shared.tier("s", &json!("i64"), 0).unwrap());
        Run {
            limit_bytes,
            disk,
            state,
            model: Model::new(),
            flights: Vec::new(),
            landed: Landed::default(),
        }
    }

    fn prepare(&mut self, keys: &[u64]) -> KeyBuffer {
        // Entries leave only when their changes have landed; a real task waits for another thread
        // here.
        if self.flights.is_empty() {
            self.state.make_room().unwrap();
        }
        let keys = keys_of(keys);
        if !self.flights.is_empty() {
            self.state.tier().as_mut().unwrap().batches = 0;
        }
        self.state.prepare(keys.hashes(), keys.keys()).unwrap();
        keys
    }

    fn step(&mut self, number: i64, step: &Step) {
        match step {
            Step::Put(keys) => {
                let buffer = self.prepare(keys);
                self.state.put(&buffer, number);
                self.model.extend(keys.iter().map(|key| (*key, number)));
            }
            Step::Take(keys) => {
                let mut keys = keys.clone();
                keys.sort_unstable();
                keys.dedup();
                let buffer = self.prepare(&keys);
                self.state.take(&buffer);
                self.model.retain(|key, _| !keys.contains(key));
            }
            Step::Read(keys) => self.check(keys),
            Step::Checkpoint => {
                let snapshot = OperatorSnapshot {
                    keyed: vec![self.state.frozen()],
                    lists: Vec::new(),
                };
                self.flights.push((snapshot, self.model.clone()));
            }
            Step::Land => self.land(),
            Step::Restore { canonical } => {
                self.land();
                self.restore(*canonical);
            }
        }
    }

    fn check(&mut self, keys: &[u64]) {
        let buffer = self.prepare(keys);
        let expected: Vec<Option<i64>> = keys
            .iter()
            .map(|key| self.model.get(key).copied())
            .collect();
        assert_eq!(self.state.read(&buffer), expected);
    }

    fn land(&mut self) {
        for (number, (snapshot, model)) in std::mem::take(&mut self.flights).into_iter().enumerate()
        {
            let mut object = Vec::new();
            let folder = (number % 2 == 0).then_some(Path::new("/nowhere"));
            let (index, files): (OperatorIndex, Option<DiskFiles>) = snapshot
                .write_with_disk("u", GROUPS, &mut object, folder)
                .unwrap();
            assert_eq!(
                (files.is_some(), index.disk.is_some()),
                (folder.is_some(), folder.is_some())
            );
            let canonical = folder.is_none().then(|| Part {
                object: Arc::new(object),
                index: index.clone(),
            });
            let states = index
                .disk
                .map_or_else(|| self.landed.states.clone(), |disk| disk.states);
            self.landed = Landed {
                pairs: self.disk.lock().clone(),
                states,
                model,
                canonical,
            };
        }
    }

    fn restore(&mut self, canonical: bool) {
        let landed = self.landed.clone();
        let part = landed.canonical.clone().filter(|_| canonical);
        let (pairs, states) = if part.is_some() {
            Default::default()
        } else {
            (landed.pairs, landed.states)
        };
        let (disk, shared) = state_disk(self.limit_bytes, pairs, states);
        self.disk = disk;
        self.state = S::new(shared.tier("s", &json!("i64"), 0).unwrap());
        self.model = landed.model;
        let share = Share {
            subtask: 0,
            parallelism: 1,
            key_groups: KeyGroupRange::all(GROUPS),
            max_parallelism: GROUPS,
        };
        let mut snapshot = OperatorState::assemble("u", &[part], share).unwrap();
        snapshot
            .keyed("s", &json!("i64"), |hash, key, sub, value| {
                self.state.restore_one(hash, key, sub, value)
            })
            .unwrap();
        snapshot.check_taken().unwrap();
        self.check(&(0..400).collect::<Vec<_>>());
    }
}

fn check<S: Subject>(steps: &[Step]) {
    let mut run: Run<S> = Run::new(4000);
    steps
        .iter()
        .enumerate()
        .for_each(|(number, step)| run.step(number as i64 + 1, step));
    run.land();
    run.check(&(0..400).collect::<Vec<_>>());
}

proptest! {
    #[test]
    fn every_read_is_the_last_write(steps in prop::collection::vec(step(), 1..80)) {
        check::<Values>(&steps);
        check::<Maps>(&steps);
    }
}

#[test]
fn what_leaves_is_what_the_budget_asks_for() {
    let (disk, shared) = state_disk(64 << 10, BTreeMap::new(), Vec::new());
    let mut state = Values::new(shared.tier("s", &json!("i64"), 0).unwrap());
    for start in (0..20_000u64).step_by(100) {
        let keys = keys_of(&(start..start + 100).collect::<Vec<_>>());
        state.prepare(keys.hashes(), keys.keys()).unwrap();
        state.put(&keys, 1);
        // A look every few batches, and what a batch may add.
        assert!(
            state.used_bytes() < (64 << 10) + 900 * 40,
            "{}",
            state.used_bytes()
        );
    }
    assert_eq!(disk.lock().len() + state.table().len(), 20_000);
}

#[test]
fn nothing_is_read_before_anything_has_left() {
    struct Blind(TestDisk);
    impl Disk for Blind {
        fn get(&self, _: &[&[u8]], _: &mut dyn FnMut(usize, &[u8]) -> Result<()>) -> Result<()> {
            panic!("there is nothing on disk that the table does not have")
        }
        fn scan(&self, from: &[u8], to: &[u8], each: &mut EachPair<'_>) -> Result<()> {
            self.0.scan(from, to, each)
        }
        fn first_key(&self, from: &[u8], to: &[u8]) -> Result<Option<Vec<u8>>> {
            self.0.first_key(from, to)
        }
        fn delete_ranges(&self, ranges: &[KeyRange]) -> Result<()> {
            self.0.delete_ranges(ranges)
        }
        fn write(&self, changes: &mut Changes<'_>) -> Result<()> {
            self.0.write(changes)
        }
        fn checkpoint(&self, to: &Path) -> Result<Vec<DiskFile>> {
            self.0.checkpoint(to)
        }
        fn disk_bytes(&self) -> u64 {
            0
        }
    }
    let disk = Arc::new(Blind(TestDisk::default()));
    let shared = Arc::new(StateDisk::new(
        disk,
        Arc::new(MemoryBudget::new(1 << 30)),
        GROUPS,
        Vec::new(),
    ));
    let mut state = Values::new(shared.tier("s", &json!("i64"), 0).unwrap());
    for value in 0..50 {
        let keys = keys_of(&(0..100).collect::<Vec<_>>());
        state.prepare(keys.hashes(), keys.keys()).unwrap();
        state.put(&keys, value);
        let snapshot = OperatorSnapshot {
            keyed: vec![state.frozen()],
            lists: Vec::new(),
        };
        snapshot
            .write_with_disk("u", GROUPS, &mut Vec::new(), Some(Path::new("/nowhere")))
            .unwrap();
    }
}

#[test]
fn a_state_of_other_types_is_refused() {
    let states = vec![DiskState {
        name: "s".into(),
        number: 3,
        types: json!("i64"),
        in_namespaces: false,
    }];
    let (_, shared) = state_disk(1000, BTreeMap::new(), states);
    assert_eq!(
        shared.tier("s", &json!("string"), 0).err().unwrap().code(),
        code::STATE_TYPES
    );
    assert_eq!(
        (
            shared.tier("s", &json!("i64"), 0).unwrap().place.number,
            shared.tier("t", &json!("i64"), 0).unwrap().place.number
        ),
        (3, 0)
    );
}
