//! `bench state`, the table in front of the store on disk: the same running sum as [`crate::disk`],
//! on the same memory.

use crate::disk::Rows;
use anyhow::{Result, ensure};
use std::sync::Arc;
use streamrt_state::{
    Backend, EntryId, KeyKind, KeyTable, Keys, MemoryBudget, NO_ENTRY, Resident, StateDisk, Tier,
    each_pair, push_pair,
};
use streamrt_state_rocksdb::RocksBackend;
use streamrt_types::{Error, KeyGroupRange, code, murmur3_32};

const MAX_PARALLELISM: u32 = 128;
const VALUE_BYTES: usize = 16;

/// Counts the rows of each key, in a table with a disk below it.
pub struct TieredSums {
    state: State,
    n_keys: u64,
    n_rows: u64,
    entries: Vec<EntryId>,
    created: Vec<u32>,
    hashes: Vec<u32>,
    keys: Vec<u64>,
    _folder: tempfile::TempDir,
}

struct State {
    table: KeyTable,
    tier: Option<Box<Tier>>,
}

impl TieredSums {
    /// All keys with a sum of 0. A quarter of the memory is the disk's own, as in a job.
    pub fn filled(n_keys: u64, memory_bytes: usize) -> Result<TieredSums> {
        let folder = tempfile::tempdir()?;
        let disk = RocksBackend::new(memory_bytes / 4)?.open(&folder.path().join("disk"), &[])?;
        let budget = Arc::new(MemoryBudget::new(memory_bytes / 4 * 3));
        let disk = Arc::new(StateDisk::new(disk, budget, MAX_PARALLELISM, Vec::new()));
        let table = KeyTable::new(
            KeyKind::Fixed,
            VALUE_BYTES,
            KeyGroupRange::all(MAX_PARALLELISM),
            MAX_PARALLELISM,
        );
        let tier = Some(Box::new(disk.tier("sums", &serde_json::Value::Null, 0)?));
        let state = State { table, tier };
        let (entries, created, hashes, keys) = Default::default();
        let mut sums = TieredSums {
            state,
            n_keys,
            n_rows: 0,
            entries,
            created,
            hashes,
            keys,
            _folder: folder,
        };
        for start in (0..n_keys).step_by(Rows::BATCH as usize) {
            sums.batch(start..n_keys.min(start + Rows::BATCH), 0)?;
        }
        Ok(sums)
    }

    pub fn run(&mut self, n_rows: u64) -> Result<()> {
        for _ in 0..n_rows.div_ceil(Rows::BATCH) {
            let (first, n_keys) = (self.n_rows, self.n_keys);
            self.batch(
                (first..first + Rows::BATCH).map(|row| Rows::key(row, n_keys)),
                1,
            )?;
            self.n_rows += Rows::BATCH;
        }
        Ok(())
    }

    fn batch(&mut self, keys: impl Iterator<Item = u64>, added: u64) -> Result<()> {
        self.keys.clear();
        self.keys.extend(keys);
        self.hashes.clear();
        self.hashes
            .extend(self.keys.iter().map(|key| murmur3_32(&key.to_le_bytes())));
        let keys = Keys::Fixed(&self.keys);
        self.state.prepare(&self.hashes, keys)?;
        self.state
            .table
            .upsert(&self.hashes, keys, &mut self.entries, &mut self.created);
        self.entries
            .iter()
            .for_each(|&entry| self.state.table.update_word(entry, 0, |sum| sum + added));
        if let Some(tier) = &mut self.state.tier {
            tier.changed(&self.entries);
        }
        Ok(())
    }

    /// # Errors
    /// If a row was lost.
    pub fn check(&mut self) -> Result<()> {
        let mut total = 0;
        for start in (0..self.n_keys).step_by(Rows::BATCH as usize) {
            self.batch(start..self.n_keys.min(start + Rows::BATCH), 0)?;
            total += self
                .entries
                .iter()
                .map(|&entry| self.state.table.word(entry, 0))
                .sum::<u64>();
        }
        ensure!(
            total == self.n_rows,
            "the table and the store lost some of {} rows",
            self.n_rows
        );
        Ok(())
    }
}

impl Resident for State {
    fn tier(&mut self) -> &mut Option<Box<Tier>> {
        &mut self.tier
    }

    fn table(&self) -> &KeyTable {
        &self.table
    }

    fn store(&self, entry: EntryId, run: &mut Vec<u8>) {
        push_pair(&[], self.table.value(entry), run);
    }

    fn load(&mut self, hash: u32, key: &[u8], run: &[u8]) -> streamrt_types::Result<()> {
        each_pair(run, |_, value| {
            let entry = self.table.upsert_one(hash, key)?;
            if entry == NO_ENTRY || value.len() != VALUE_BYTES {
                return Err(Error::new(
                    code::SNAPSHOT_DAMAGED,
                    "a sum on disk is damaged",
                ));
            }
            self.table.value_mut(entry).copy_from_slice(value);
            Ok(())
        })
    }

    fn drop_entry(&mut self, entry: EntryId) {
        self.table.remove(entry);
    }

    fn used_bytes(&self) -> usize {
        self.table.used_bytes()
    }
}
