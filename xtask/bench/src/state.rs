//! `bench state`: the key table against a plain hash map in a hand-written loop, on the same rows
//! in one thread; and what it takes to freeze a large table, to write on while the snapshot is
//! held, and to get it back from canonical bytes.

use crate::disk;
use crate::measure::{PAIRS, pairs, spread, thread_cpu_time};
use crate::report::{Goal, Report};
use anyhow::{Context, Result, ensure};
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use hashbrown::HashMap;
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};
use streamrt_state::{
    EachEntry, EntryId, Frozen, KeyKind, KeyTable, KeyedSnapshot, Keys, OperatorIndex,
    OperatorSnapshot, OperatorState, Part, Share, TableSnapshot,
};
use streamrt_types::{KeyEncoder, KeyGroupRange};

/// Rows of a batch, as the engine's default.
const BATCH_ROWS: u64 = 1024;
/// Rows of one timed run of the running sum.
const ROWS: u64 = 16_000_000;
const MAX_PARALLELISM: u32 = 128;
/// A sum, or a sum and its count: the entries of the large table are 24 bytes, with the key.
const SUM_BYTES: usize = 8;
const LARGE_VALUE_BYTES: usize = 16;
/// Keys of a table with 1 GB of entries.
const LARGE_KEYS: u64 = 1_000_000_000 / 24;
/// Rows between two snapshots of the large table: a second of the goal for this job.
const LARGE_ROWS: u64 = 4_000_000;
/// Snapshots of the large table.
const FREEZES: usize = 11;

/// Numbers of keys, and the goal for the table's time over the map's.
const SIZES: [(u64, Goal); 4] = [
    (10_000, Goal::None),
    (100_000, Goal::None),
    (1_000_000, Goal::AtMost(2.0)),
    (10_000_000, Goal::AtMost(2.0)),
];

pub fn run(report: &mut Report) -> Result<()> {
    for (n_keys, goal) in SIZES {
        running_sum(report, n_keys, goal)?;
    }
    let mut table = TableSums::new(LARGE_VALUE_BYTES);
    table.run(&every_key(LARGE_KEYS)?)?;
    report.figure(
        "1 GB of entries: memory of the table, all told",
        table.table.memory_bytes() as f64 / 1e9,
        "GB",
        Goal::None,
    );
    freezes(report, &mut table)?;
    restores(report, table)?;
    disk::run(report)
}

/// Both sides on the same rows, all keys known before.
fn running_sum(report: &mut Report, n_keys: u64, goal: Goal) -> Result<()> {
    let (mut table, mut map) = (TableSums::new(SUM_BYTES), MapSums::default());
    let (all, rows) = (every_key(n_keys)?, random_keys(n_keys, ROWS)?);
    let filling = (table.run(&all)?, map.run(&all)?);
    let (table_cost, map_cost, ratio) = pairs(|| table.run(&rows), || map.run(&rows))?;
    ensure!(
        table.checksum == map.checksum,
        "the table's sums of {n_keys} keys are not the map's"
    );
    let name = format!("running sum, {n_keys} keys");
    report.spread(&format!("{name}: table"), table_cost, "ns/row", Goal::None);
    report.spread(&format!("{name}: hash map"), map_cost, "ns/row", Goal::None);
    report.spread(
        &format!("{name}: table over map, time"),
        ratio,
        "ratio",
        goal,
    );
    // Fewer keys are all in before the clock of the thread has moved.
    if n_keys >= 1_000_000 {
        report.figure(
            &format!("{name}: table over map, time to bring in the keys"),
            filling.0 / filling.1,
            "ratio",
            Goal::None,
        );
    }
    report.figure(
        &format!("{name}: table"),
        table.table.memory_bytes() as f64 / n_keys as f64,
        "bytes/key",
        Goal::None,
    );
    report.figure(
        &format!("{name}: hash map"),
        map.sums.allocation_size() as f64 / n_keys as f64,
        "bytes/key",
        Goal::None,
    );
    Ok(())
}

/// Batches of keys and values, for rows 0 to `n_rows`.
fn batches(n_rows: u64, key: impl Fn(u64) -> u64) -> Result<Vec<RecordBatch>> {
    let column = |first: u64, of: &dyn Fn(u64) -> u64| -> ArrayRef {
        let rows = first..(first + BATCH_ROWS).min(n_rows);
        Arc::new(Int64Array::from_iter_values(rows.map(|row| of(row) as i64)))
    };
    let batch = |first: u64| {
        let columns = [
            ("key", column(first, &key)),
            ("value", column(first, &|row| random(row) % 1000)),
        ];
        Ok(RecordBatch::try_from_iter(columns)?)
    };
    (0..n_rows)
        .step_by(BATCH_ROWS as usize)
        .map(batch)
        .collect()
}

fn every_key(n_keys: u64) -> Result<Vec<RecordBatch>> {
    batches(n_keys, |row| row)
}

fn random_keys(n_keys: u64, n_rows: u64) -> Result<Vec<RecordBatch>> {
    batches(n_rows, |row| random(row) % n_keys)
}

/// The splitmix64 finaliser.
pub fn random(n: u64) -> u64 {
    let mut z = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn column(batch: &RecordBatch, index: usize) -> &[i64] {
    batch.column(index).as_primitive::<Int64Type>().values()
}

/// CPU time of `work` in ns per row of `rows`.
fn timed(rows: &[RecordBatch], mut work: impl FnMut(&RecordBatch) -> Result<()>) -> Result<f64> {
    let start = thread_cpu_time()?;
    rows.iter().try_for_each(&mut work)?;
    let spent = thread_cpu_time()?.saturating_sub(start);
    Ok(spent.as_nanos() as f64 / rows.iter().map(RecordBatch::num_rows).sum::<usize>() as f64)
}

/// Depends on the order of the results.
fn mix(checksum: u64, key: i64, sum: i64) -> u64 {
    checksum.rotate_left(5) ^ (key as u64).wrapping_add(sum as u64)
}

/// The loop that one would write by hand.
#[derive(Default)]
struct MapSums {
    sums: HashMap<i64, i64>,
    checksum: u64,
}

impl MapSums {
    fn run(&mut self, rows: &[RecordBatch]) -> Result<f64> {
        timed(rows, |batch| {
            for (&key, &value) in column(batch, 0).iter().zip(column(batch, 1)) {
                let sum = self.sums.entry(key).or_default();
                *sum += value;
                self.checksum = mix(self.checksum, key, *sum);
            }
            Ok(())
        })
    }
}

/// What a keyed operator does: hashes, an upsert by the batch, one word of each row's entry.
struct TableSums {
    table: KeyTable,
    encoder: KeyEncoder,
    hashes: Vec<u32>,
    entries: Vec<EntryId>,
    created: Vec<u32>,
    checksum: u64,
}

impl TableSums {
    fn new(value_bytes: usize) -> TableSums {
        TableSums {
            table: KeyTable::new(
                KeyKind::Fixed,
                value_bytes,
                KeyGroupRange::all(MAX_PARALLELISM),
                MAX_PARALLELISM,
            ),
            encoder: KeyEncoder::new(vec![0]),
            hashes: Vec::new(),
            entries: Vec::new(),
            created: Vec::new(),
            checksum: 0,
        }
    }

    fn run(&mut self, rows: &[RecordBatch]) -> Result<f64> {
        timed(rows, |batch| self.add(batch))
    }

    fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        self.hashes.clear();
        self.encoder.hash(batch, &mut self.hashes)?;
        let keys = self
            .encoder
            .fixed(batch)?
            .context("the key is one number")?;
        self.table.upsert(
            &self.hashes,
            Keys::Fixed(keys),
            &mut self.entries,
            &mut self.created,
        );
        for ((&entry, &key), &value) in self
            .entries
            .iter()
            .zip(column(batch, 0))
            .zip(column(batch, 1))
        {
            self.table.update_word(entry, 0, |sum| {
                let sum = sum as i64 + value;
                self.checksum = mix(self.checksum, key, sum);
                sum as u64
            });
        }
        Ok(())
    }

    /// The number of entries, and the sum of their words whatever their order.
    fn content(&self) -> (usize, u64) {
        let words = self.table.entries().map(|entry| self.table.word(entry, 0));
        (self.table.len(), words.fold(0, u64::wrapping_add))
    }
}

/// Between two snapshots there are as many updates as in a second of a job, so that every page was
/// written and is private again.
fn freezes(report: &mut Report, table: &mut TableSums) -> Result<()> {
    let rows = random_keys(LARGE_KEYS, LARGE_ROWS)?;
    let (mut pauses, mut ratios) = (Vec::new(), Vec::new());
    for _ in 0..FREEZES {
        let free = table.run(&rows)?;
        let start = Instant::now();
        let snapshot = table.table.freeze();
        pauses.push(start.elapsed().as_secs_f64() * 1e3);
        let held = table.run(&rows)?;
        drop(snapshot);
        ratios.push(free / held);
    }
    report.spread(
        "1 GB of entries: synchronous pause of a snapshot",
        spread(pauses),
        "ms",
        Goal::AtMost(20.0),
    );
    let name = format!("1 GB of entries: {LARGE_ROWS} updates under a snapshot over without");
    report.spread(&name, spread(ratios), "throughput ratio", Goal::None);
    Ok(())
}

/// A snapshot as an operator hands it on.
struct Entries(TableSnapshot);

impl Frozen for Entries {
    fn visit(&self, each: &mut EachEntry<'_>) {
        self.0.each(&mut |key, value| each(key, &[], value));
    }
}

fn restores(report: &mut Report, mut table: TableSums) -> Result<()> {
    let expected = table.content();
    let entries = Box::new(Entries(table.table.freeze()));
    let keyed = vec![KeyedSnapshot {
        name: "sums".into(),
        types: Value::Null,
        entries,
    }];
    let mut object = Vec::new();
    let start = thread_cpu_time()?;
    let index = OperatorSnapshot {
        keyed,
        lists: Vec::new(),
    }
    .write("sums", MAX_PARALLELISM, &mut object);
    report.figure(
        "1 GB of entries: to canonical bytes",
        cpu_seconds(start)?,
        "CPU-s",
        Goal::None,
    );
    report.figure(
        "1 GB of entries: canonical bytes",
        object.len() as f64 / 1e9,
        "GB",
        Goal::None,
    );
    drop(table);
    let object = Arc::new(object);
    let seconds = (0..PAIRS)
        .map(|_| restore(&object, &index, expected))
        .collect::<Result<Vec<_>>>()?;
    let spread = spread(seconds);
    report.spread(
        "1 GB of entries: restore from canonical bytes",
        spread,
        "CPU-s",
        Goal::None,
    );
    report.figure(
        "1 GB of entries: restore",
        object.len() as f64 / 1e6 / spread.median,
        "MB/CPU-s",
        Goal::None,
    );
    Ok(())
}

fn cpu_seconds(since: Duration) -> Result<f64> {
    Ok(thread_cpu_time()?.saturating_sub(since).as_secs_f64())
}

/// CPU time of one restore into an empty table, in s.
fn restore(object: &Arc<Vec<u8>>, index: &OperatorIndex, expected: (usize, u64)) -> Result<f64> {
    let share = Share {
        subtask: 0,
        parallelism: 1,
        key_groups: KeyGroupRange::all(MAX_PARALLELISM),
        max_parallelism: MAX_PARALLELISM,
    };
    let part = Some(Part {
        object: object.clone(),
        index: index.clone(),
    });
    let start = thread_cpu_time()?;
    let mut state = OperatorState::assemble("sums", &[part], share)?;
    let mut sums = TableSums::new(LARGE_VALUE_BYTES);
    state.keyed("sums", &Value::Null, |hash, key, _, value| {
        let entry = sums.table.upsert_one(hash, key)?;
        sums.table.value_mut(entry).copy_from_slice(value);
        Ok(())
    })?;
    let seconds = cpu_seconds(start)?;
    ensure!(
        sums.content() == expected,
        "the restored table holds other entries"
    );
    Ok(seconds)
}
