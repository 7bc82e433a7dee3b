//! Panes on a disk against panes in memory: whatever leaves, fires, is purged, checkpointed or
//! restored at another parallelism, both send the same rows, and checkpoints of both hold the same
//! entries.

use super::restore::{Make, named_rows, share, texts, write};
use super::*;
use crate::pane_disk::BATCHES_PER_LOOK;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use streamrt_operator::LazyDisk;
use streamrt_state::{
    Changes, Disk, DiskFile, DiskState, EachPair, KeyRange, MemoryBudget, OperatorSnapshot,
    OperatorState, Part, StateDisk,
};
use streamrt_types::{Mark, Times, key_group, key_group_owner, murmur3_32};

const MAX_PARALLELISM: u32 = 16;

type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

/// A disk in memory. If `None`, whoever reads it panics.
struct TestDisk {
    pairs: Mutex<Pairs>,
    blind: bool,
}

impl TestDisk {
    fn new(pairs: Pairs, blind: bool) -> Arc<TestDisk> {
        Arc::new(TestDisk {
            pairs: Mutex::new(pairs),
            blind,
        })
    }

    fn reads(&self) -> std::sync::MutexGuard<'_, Pairs> {
        assert!(
            !self.blind,
            "there is nothing on disk that the panes do not have"
        );
        self.pairs.lock().unwrap()
    }

    fn pairs(&self) -> Pairs {
        self.pairs.lock().unwrap().clone()
    }
}

impl Disk for TestDisk {
    fn get(&self, keys: &[&[u8]], found: &mut dyn FnMut(usize, &[u8]) -> Result<()>) -> Result<()> {
        let pairs = self.reads();
        keys.iter()
            .enumerate()
            .try_for_each(|(at, key)| pairs.get(*key).map_or(Ok(()), |value| found(at, value)))
    }

    fn scan(&self, from: &[u8], to: &[u8], each: &mut EachPair<'_>) -> Result<()> {
        self.reads()
            .range(from.to_vec()..to.to_vec())
            .try_for_each(|(key, value)| each(key, value))
    }

    fn first_key(&self, from: &[u8], to: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self
            .reads()
            .range(from.to_vec()..to.to_vec())
            .next()
            .map(|(key, _)| key.clone()))
    }

    fn delete_ranges(&self, ranges: &[KeyRange]) -> Result<()> {
        self.pairs
            .lock()
            .unwrap()
            .retain(|key, _| !ranges.iter().any(|(from, to)| from <= key && key < to));
        Ok(())
    }

    fn write(&self, changes: &mut Changes<'_>) -> Result<()> {
        let mut pairs = self.pairs.lock().unwrap();
        for (key, value) in changes {
            match value {
                Some(value) => pairs.insert(key.to_vec(), value.to_vec()),
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

/// A window operator of a job, and its disk.
struct Subtask {
    chain: OperatorChain,
    disk: Arc<TestDisk>,
}

/// What the disks of a new job begin with: the pairs and the states of a checkpoint.
#[derive(Clone, Default)]
struct OnDisk {
    pairs: Pairs,
    states: Vec<DiskState>,
}

/// The disk to which panes are evicted.
#[derive(Clone, Copy)]
enum Memory {
    All,
    Bytes(usize),
    /// Enough, and nothing may be read.
    Blind,
}

/// The window operators of a job.
struct Subtasks(Vec<Subtask>);

impl Subtasks {
    fn start(
        parallelism: u32,
        make: &dyn Fn() -> WindowOperator,
        memory: Memory,
        on_disk: &OnDisk,
    ) -> Subtasks {
        let budget = Arc::new(MemoryBudget::new(if let Memory::Bytes(bytes) = memory {
            bytes
        } else {
            1 << 30
        }));
        let start = |subtask| {
            let key_groups = KeyGroupRange::of_subtask(MAX_PARALLELISM, parallelism, subtask);
            let is_own = |key: &Vec<u8>| {
                key_groups.contains(u32::from(u16::from_be_bytes([key[0], key[1]])))
            };
            let pairs = on_disk
                .pairs
                .iter()
                .filter(|(key, _)| is_own(key))
                .map(|(key, run)| (key.clone(), run.clone()))
                .collect();
            let disk = TestDisk::new(pairs, matches!(memory, Memory::Blind));
            let (opened, budget, states) = (disk.clone(), budget.clone(), on_disk.states.clone());
            let lazy = LazyDisk::new(move || {
                Ok(StateDisk::new(
                    opened.clone(),
                    budget.clone(),
                    MAX_PARALLELISM,
                    states.clone(),
                ))
            });
            let lazy = (!matches!(memory, Memory::All)).then(|| Arc::new(lazy));
            let context = OperatorContext {
                subtask,
                parallelism,
                key_groups,
                max_parallelism: MAX_PARALLELISM,
                disk: lazy,
                ..context().0
            };
            let mut chain = OperatorChain::new();
            chain.push(
                Box::new(make()),
                context,
                vec![(0, Target::Exit(0)), (1, Target::Exit(1))],
            );
            chain.open().unwrap();
            Subtask { chain, disk }
        };
        Subtasks((0..parallelism).map(start).collect())
    }

    /// Rows go to the owners of their keys, and a watermark after them to all. Returns what comes
    /// out, in no order.
    fn batch(&mut self, input: Input<'_>, watermark: Option<Watermark>) -> Vec<String> {
        let parallelism = self.0.len() as u32;
        let mut lines = Vec::new();
        for (subtask, Subtask { chain, .. }) in self.0.iter_mut().enumerate() {
            let owner = |key: i64| {
                key_group_owner(
                    key_group(murmur3_32(&key.to_le_bytes()), MAX_PARALLELISM),
                    MAX_PARALLELISM,
                    parallelism,
                )
            };
            let rows: Vec<(i64, i64)> = input
                .iter()
                .copied()
                .filter(|(key, _)| owner(*key) == subtask as u32)
                .collect();
            let marks = watermark
                .iter()
                .map(|&watermark| Mark {
                    row: rows.len() as u32,
                    watermark,
                })
                .collect();
            let mut recorder = Recorder::default();
            feed(
                chain,
                &mut recorder,
                Batch {
                    times: Times::Column(1),
                    marks,
                    ..Batch::new(named_rows(&rows))
                },
            );
            lines.extend(recorder.lines());
        }
        lines.sort();
        lines
    }

    fn snapshot(&mut self) -> Vec<OperatorSnapshot> {
        self.0
            .iter_mut()
            .map(|subtask| subtask.chain.snapshot(1).unwrap().remove(0).1)
            .collect()
    }

    fn restore(&mut self, parts: &[Option<Part>]) {
        self.0.iter_mut().for_each(|Subtask { chain, .. }| {
            chain
                .restore(|context| OperatorState::assemble("op", parts, share(context)))
                .unwrap();
        });
    }

    fn pairs(&self) -> Pairs {
        self.0
            .iter()
            .flat_map(|subtask| subtask.disk.pairs())
            .collect()
    }
}

/// Key, pane and accumulators of all entries.
type Entries = Vec<(Vec<u8>, Vec<u8>, Vec<u8>)>;

fn entries_of(parts: &[Option<Part>]) -> Entries {
    let types = parts
        .iter()
        .flatten()
        .flat_map(|part| &part.index.keyed)
        .map(|keyed| keyed.types.clone())
        .next();
    let whole = streamrt_state::Share {
        subtask: 0,
        parallelism: 1,
        key_groups: KeyGroupRange::all(MAX_PARALLELISM),
        max_parallelism: MAX_PARALLELISM,
    };
    let mut entries = Entries::new();
    let each = |_, key: &[u8], pane: &[u8], value: &[u8]| {
        entries.push((key.to_vec(), pane.to_vec(), value.to_vec()));
        Ok(())
    };
    if let Some(types) = types {
        OperatorState::assemble("op", parts, whole)
            .unwrap()
            .keyed("panes", &types, each)
            .unwrap();
    }
    entries.sort();
    entries
}

fn entries_on(pairs: &Pairs) -> Entries {
    let mut entries = Entries::new();
    for (disk_key, run) in pairs {
        let (pane, key) = disk_key[streamrt_state::DISK_KEY_PREFIX_BYTES..].split_at(8);
        streamrt_state::each_pair(run, |_, value| {
            entries.push((key.to_vec(), pane.to_vec(), value.to_vec()));
            Ok(())
        })
        .unwrap();
    }
    entries.sort();
    entries
}

#[derive(Debug, Clone)]
enum Step {
    /// Rows of (key, time from now), and how far the watermark rises after them.
    Rows(Vec<(i64, i64)>, Option<i64>),
    /// A checkpoint, whose changes are written some steps later; a savepoint, if it is canonical.
    Checkpoint { canonical: bool },
    /// Ends all flights.
    Land,
    /// Resumes from the last checkpoint that has landed.
    Restart { parallelism: u32 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let rows = prop::collection::vec((0i64..60, -25i64..12), 1..40);
    let step = prop_oneof![
        12 => (rows, prop::option::of(0i64..9)).prop_map(|(rows, rise)| Step::Rows(rows, rise)),
        2 => any::<bool>().prop_map(|canonical| Step::Checkpoint { canonical }),
        2 => Just(Step::Land),
        1 => (1u32..4).prop_map(|parallelism| Step::Restart { parallelism }),
    ];
    prop::collection::vec(step, 1..90)
}

/// A checkpoint of both jobs on its way.
struct Flight {
    canonical: bool,
    on_disk: Vec<OperatorSnapshot>,
    in_memory: Vec<Option<Part>>,
}

/// A complete checkpoint of both jobs.
#[derive(Clone, Default)]
struct Landed {
    on_disk: OnDisk,
    parts: Vec<Option<Part>>,
    in_memory: Vec<Option<Part>>,
}

/// The same job twice.
struct Twins<'a> {
    make: &'a dyn Fn() -> WindowOperator,
    memory: Memory,
    on_disk: Subtasks,
    in_memory: Subtasks,
    /// Since the last restart.
    n_batches: u64,
    now: i64,
    flights: Vec<Flight>,
    landed: Landed,
}

impl<'a> Twins<'a> {
    fn new(make: &'a dyn Fn() -> WindowOperator, memory: Memory) -> Twins<'a> {
        let on_disk = Subtasks::start(1, make, memory, &OnDisk::default());
        let in_memory = Subtasks::start(1, make, Memory::All, &OnDisk::default());
        let (flights, landed) = (Vec::new(), Landed::default());
        Twins {
            make,
            memory,
            on_disk,
            in_memory,
            n_batches: 0,
            now: 0,
            flights,
            landed,
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Rows(rows, rise) => {
                self.now += rise.unwrap_or(0);
                let input: Vec<(i64, i64)> = rows
                    .iter()
                    .map(|(key, time)| (*key, self.now + time))
                    .collect();
                self.batch(&input, rise.map(|_| self.now - 5));
            }
            Step::Checkpoint { canonical } => {
                let in_memory = self
                    .in_memory
                    .snapshot()
                    .into_iter()
                    .map(|snapshot| Some(write(snapshot)))
                    .collect();
                self.flights.push(Flight {
                    canonical: *canonical,
                    on_disk: self.on_disk.snapshot(),
                    in_memory,
                });
            }
            Step::Land => self.land(),
            Step::Restart { parallelism } => {
                self.land();
                self.restart(*parallelism);
            }
        }
    }

    fn batch(&mut self, input: Input<'_>, watermark: Option<Watermark>) {
        self.n_batches += 1;
        if self.n_batches.is_multiple_of(BATCHES_PER_LOOK) {
            // Panes leave only when the changes have landed; a real task waits for another thread
            // here.
            self.land();
        }
        assert_eq!(
            self.on_disk.batch(input, watermark),
            self.in_memory.batch(input, watermark)
        );
    }

    fn land(&mut self) {
        for flight in std::mem::take(&mut self.flights) {
            let folder = (!flight.canonical).then_some(Path::new("/nowhere"));
            let (mut parts, mut states) = (Vec::new(), Vec::new());
            for snapshot in flight.on_disk {
                let mut object = b"of another operator".to_vec();
                let (index, _files) = snapshot
                    .write_with_disk("op", MAX_PARALLELISM, &mut object, folder)
                    .unwrap();
                states = index
                    .disk
                    .as_ref()
                    .map_or(states, |disk| disk.states.clone());
                parts.push(Some(Part {
                    object: Arc::new(object),
                    index,
                }));
            }
            let pairs = if flight.canonical {
                Pairs::new()
            } else {
                self.on_disk.pairs()
            };
            let entries = if flight.canonical {
                entries_of(&parts)
            } else {
                entries_on(&pairs)
            };
            assert_eq!(
                entries,
                entries_of(&flight.in_memory),
                "a checkpoint has the panes of its barrier"
            );
            self.landed = Landed {
                on_disk: OnDisk { pairs, states },
                parts,
                in_memory: flight.in_memory,
            };
        }
    }

    fn restart(&mut self, parallelism: u32) {
        self.on_disk = Subtasks::start(parallelism, self.make, self.memory, &self.landed.on_disk);
        self.in_memory = Subtasks::start(parallelism, self.make, Memory::All, &OnDisk::default());
        self.on_disk.restore(&self.landed.parts);
        self.in_memory.restore(&self.landed.in_memory);
        self.n_batches = 0;
    }

    fn end(mut self) {
        self.land();
        self.batch(&[], Some(WATERMARK_MAX));
        // What was purged after a barrier may have waited for the next one.
        self.step(&Step::Checkpoint { canonical: false });
        self.land();
        assert_eq!(
            self.on_disk.pairs(),
            Pairs::new(),
            "what no window needs is deleted"
        );
    }
}

fn windows() -> impl Strategy<Value = WindowAssigner> {
    prop_oneof![
        (1i64..30).prop_map(tumbling),
        (1i64..12, 1i64..12).prop_map(|(size, slide)| sliding(size, slide)),
        (12i64..40, 1i64..6).prop_map(|(size, slide)| sliding(size, slide)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn panes_on_disk_are_panes(
        assigner in windows(),
        lateness in prop_oneof![Just(0u64), 0u64..20],
        of_texts in any::<bool>(),
        memory in prop_oneof![Just(0usize), 500usize..6000],
        steps in steps(),
    ) {
        let make = || (if of_texts { texts } else { builtin as Make })(assigner.clone(), lateness);
        let mut twins = Twins::new(&make, Memory::Bytes(memory));
        steps.iter().for_each(|step| twins.step(step));
        twins.end();
    }
}

/// Rows of many keys, a few of each time.
fn many_keys(batch: i64) -> Vec<(i64, i64)> {
    (0..200)
        .map(|row| ((batch * 200 + row) * 7919 % 5003, batch))
        .collect()
}

#[test]
fn a_firing_of_more_than_memory_holds_is_whole_and_leaves_nothing() {
    for assigner in [tumbling(100), sliding(100, 50), sliding(60, 90)] {
        for make in [builtin as Make, texts] {
            let make = || make(assigner.clone(), 0);
            let mut twins = Twins::new(&make, Memory::Bytes(20_000));
            for batch in 0..90 {
                twins.batch(&many_keys(batch), None);
            }
            let n_stored = twins.on_disk.pairs().len();
            assert!(n_stored > 4000, "{n_stored} entries have left");
            twins.batch(&[], Some(120));
            twins.batch(&[], Some(WATERMARK_MAX));
            assert_eq!(twins.on_disk.pairs(), Pairs::new());
        }
    }
}

#[test]
fn nothing_is_read_before_anything_has_left() {
    for assigner in [tumbling(10), sliding(12, 3)] {
        let make = || builtin(assigner.clone(), 5);
        let mut twins = Twins::new(&make, Memory::Blind);
        for batch in 0..60 {
            twins.batch(&many_keys(batch), Some(batch - 4));
            if batch % 5 == 0 {
                twins.step(&Step::Checkpoint { canonical: false });
                twins.land();
            }
        }
    }
}

#[test]
fn a_purge_waits_for_the_checkpoint_before_it() {
    let make = || builtin(tumbling(10), 0);
    let mut twins = Twins::new(&make, Memory::Bytes(0));
    twins.batch(&[(1, 3), (2, 4)], None);
    twins.step(&Step::Checkpoint { canonical: false });
    twins.batch(&[(1, 15)], Some(12));
    twins.land();
    assert_eq!(
        entries_on(&twins.landed.on_disk.pairs).len(),
        2,
        "the panes of the barrier"
    );
    assert_eq!(
        twins.on_disk.pairs().len(),
        2,
        "nothing has come to the disk since"
    );
    twins.step(&Step::Checkpoint { canonical: false });
    twins.land();
    assert_eq!(
        entries_on(&twins.on_disk.pairs()).len(),
        1,
        "the first pane is gone"
    );
}

#[test]
fn a_pane_on_disk_that_cannot_be_is_damage() {
    let make = || builtin(tumbling(10), 0);
    let mut twins = Twins::new(&make, Memory::Bytes(0));
    twins.batch(&[(1, 3)], None);
    twins.step(&Step::Checkpoint { canonical: false });
    twins.land();
    let Landed {
        mut on_disk, parts, ..
    } = twins.landed.clone();
    let (mut disk_key, run) = on_disk.pairs.pop_first().unwrap();
    disk_key[streamrt_state::DISK_KEY_PREFIX_BYTES + 7] ^= 1;
    on_disk.pairs.insert(disk_key, run);
    let mut subtasks = Subtasks::start(1, &make, Memory::Bytes(0), &on_disk);
    let restored = subtasks.0[0]
        .chain
        .restore(|context| OperatorState::assemble("op", &parts, share(context)));
    assert_eq!(
        restored.unwrap_err().code(),
        streamrt_types::code::SNAPSHOT_DAMAGED
    );
}
