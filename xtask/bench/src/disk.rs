//! `bench state`, the store on disk alone: a running sum that reads and writes it by the batch,
//! without a table in front. It is the baseline for the table when state is larger than its memory
//! budget.

use crate::measure::{Cost, cost, pairs};
use crate::report::{Goal, Report};
use crate::state::random;
use crate::tier::TieredSums;
use anyhow::{Result, ensure};
use std::sync::Arc;
use streamrt_state::{Backend, DISK_KEY_PREFIX_BYTES, Disk};
use streamrt_state_rocksdb::RocksBackend;

const KEY_GROUPS: u64 = 128;
const KEY_BYTES: usize = DISK_KEY_PREFIX_BYTES + 8;
const VALUE_BYTES: usize = 16;
/// State over memory.
const TIMES_THE_BUDGET: u64 = 4;
/// Rows of a timed run. Compaction lags behind writes, so a run is long enough for several of them.
const ROWS: u64 = 1_000_000;

const SIZES: [u64; 2] = [1_000_000, 10_000_000];

pub fn run(report: &mut Report) -> Result<()> {
    SIZES.into_iter().try_for_each(|n_keys| raw(report, n_keys))
}

fn raw(report: &mut Report, n_keys: u64) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let budget_bytes = n_keys as usize * (KEY_BYTES + VALUE_BYTES) / TIMES_THE_BUDGET as usize;
    let disk = RocksBackend::new(budget_bytes)?.open(&scratch.path().join("disk"), &[])?;
    let name = format!("RocksDB alone at {TIMES_THE_BUDGET}x its memory, {n_keys} keys");
    let filled = cost(|| fill(&*disk, n_keys))?;
    report.figure(
        &format!("{name}: one long write"),
        millions(n_keys, filled.cpu.as_secs_f64()),
        "M/CPU-s",
        Goal::None,
    );
    report.figure(
        &format!("{name}: on disk"),
        disk.disk_bytes() as f64 / n_keys as f64,
        "bytes/key",
        Goal::None,
    );
    let mut sums = Sums {
        disk,
        n_keys,
        n_rows: 0,
    };
    let mut tiered = TieredSums::filled(n_keys, budget_bytes)?;
    let ns = |cost: Cost| cost.cpu.as_nanos() as f64 / ROWS as f64;
    let (front, alone, ratio) = pairs(
        || Ok(ns(cost(|| tiered.run(ROWS))?)),
        || Ok(ns(cost(|| sums.run(ROWS))?)),
    )?;
    report.spread(
        &format!("{name}: batched get and put"),
        alone.rate(),
        "records/CPU-s",
        Goal::None,
    );
    report.spread(
        &format!("{name}: with the table in front"),
        front.rate(),
        "records/CPU-s",
        Goal::None,
    );
    report.spread(
        &format!("{name}: table in front over RocksDB alone, time"),
        ratio,
        "ratio",
        Goal::AtMost(1.2),
    );
    ensure!(
        sums.total()? == sums.n_rows,
        "the store lost some of {} rows",
        sums.n_rows
    );
    tiered.check()
}

/// The rows of the running sum.
pub struct Rows;

impl Rows {
    /// Rows of a batch, as in the engine's default.
    pub const BATCH: u64 = 1024;

    pub fn key(row: u64, n_keys: u64) -> u64 {
        random(row) % n_keys
    }
}

fn millions(n: u64, seconds: f64) -> f64 {
    n as f64 / 1e6 / seconds
}

fn disk_key(key: u64) -> [u8; KEY_BYTES] {
    let mut bytes = [0; KEY_BYTES];
    bytes[..2].copy_from_slice(&((key % KEY_GROUPS) as u16).to_be_bytes());
    bytes[DISK_KEY_PREFIX_BYTES..].copy_from_slice(&key.to_be_bytes());
    bytes
}

fn word(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .take(8)
        .fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// All keys with a sum of 0, in one write.
fn fill(disk: &dyn Disk, n_keys: u64) -> Result<()> {
    let in_order = (0..KEY_GROUPS).flat_map(|group| (group..n_keys).step_by(KEY_GROUPS as usize));
    let keys: Vec<[u8; KEY_BYTES]> = in_order.map(disk_key).collect();
    Ok(disk.write(
        &mut keys
            .iter()
            .map(|key| (&key[..], Some(&[0; VALUE_BYTES][..]))),
    )?)
}

/// Counts the rows of each key.
struct Sums {
    disk: Arc<dyn Disk>,
    n_keys: u64,
    n_rows: u64,
}

impl Sums {
    fn run(&mut self, n_rows: u64) -> Result<()> {
        (0..n_rows.div_ceil(Rows::BATCH)).try_for_each(|_| self.batch())
    }

    /// What a store without a table in front has to do for each batch: sort its keys, get them, put
    /// them.
    fn batch(&mut self) -> Result<()> {
        let mut keys: Vec<[u8; KEY_BYTES]> = (self.n_rows..self.n_rows + Rows::BATCH)
            .map(|row| disk_key(Rows::key(row, self.n_keys)))
            .collect();
        keys.sort_unstable();
        let mut rows: Vec<(&[u8], [u8; VALUE_BYTES])> = Vec::with_capacity(keys.len());
        let mut asked: Vec<&[u8]> = Vec::with_capacity(keys.len());
        for same in keys.chunk_by(|a, b| a == b) {
            asked.push(&same[0]);
            rows.push((&same[0], value(same.len() as u64)));
        }
        self.disk.get(&asked, &mut |number, bytes| {
            rows[number].1 = value(word(&rows[number].1) + word(bytes));
            Ok(())
        })?;
        self.disk
            .write(&mut rows.iter().map(|(key, sum)| (*key, Some(&sum[..]))))?;
        self.n_rows += Rows::BATCH;
        Ok(())
    }

    fn total(&self) -> Result<u64> {
        let mut total = 0;
        self.disk.scan(&[], &[0xff], &mut |_, sum| {
            total += word(sum);
            Ok(())
        })?;
        Ok(total)
    }
}

fn value(sum: u64) -> [u8; VALUE_BYTES] {
    let mut bytes = [0; VALUE_BYTES];
    bytes[..8].copy_from_slice(&sum.to_be_bytes());
    bytes
}
