//! A [`Disk`] over one database. Called by the task's thread and by the thread of the checkpoints.
//!
//! Invariant: after a write has failed, nobody reads or writes what may be half of a batch of the
//! task; everyone gets the first error.

use crate::error::{self, Refusal};
use crate::files::FileNames;
use crate::options::Shared;
use crate::run::Run;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{DB, Options, ReadOptions, WriteBatch, WriteBatchIterator, WriteOptions};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use streamrt_state::{Changes, Disk, DiskFile, EachPair, KeyRange};
use streamrt_types::{Error, Result};

/// The number of keys in one call to RocksDB: while their values are shown, each may hold a block
/// in the cache.
const GET_KEYS: usize = 256;

/// One database and its folder.
pub struct RocksDisk {
    database: DB,
    names: FileNames,
    refusal: OnceLock<Refusal>,
    shared: Arc<Shared>,
    /// Dropped after the database is closed.
    folder: Folder,
}

impl RocksDisk {
    pub fn new(database: DB, names: FileNames, shared: Arc<Shared>, folder: Folder) -> RocksDisk {
        RocksDisk {
            database,
            names,
            refusal: OnceLock::new(),
            shared,
            folder,
        }
    }

    fn usable(&self) -> Result<&DB> {
        self.refusal
            .get()
            .map_or(Ok(&self.database), |refusal| Err(refusal.error()))
    }

    fn failed(&self, what: &str, cause: rocksdb::Error) -> Error {
        error::failed(what, self.database.path(), cause)
    }

    fn write_changes(&self, changes: &mut Changes<'_>) -> Result<()> {
        let mut batch = WriteBatch::default();
        for (key, value) in &mut *changes {
            match value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            }
            if batch.size_in_bytes() > self.shared.batch_bytes_max {
                return self.write_files(&batch, changes);
            }
        }
        self.write_batch(batch)
    }

    fn write_batch(&self, batch: WriteBatch) -> Result<()> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.database
            .write_opt(batch, &options)
            .map_err(|cause| self.failed("the state cannot be written", cause))
    }

    /// Keeps the error of a write for all that comes after it.
    fn written(&self, written: Result<()>) -> Result<()> {
        if let Err(error) = &written {
            // A second thread may have been first with another error; that one stays.
            self.refusal.get_or_init(|| Refusal::of(error));
        }
        written
    }

    /// `first` are the changes that were collected until it was clear that there are many.
    fn write_files(&self, first: &WriteBatch, rest: &mut Changes<'_>) -> Result<()> {
        let mut replay = Replay {
            run: self.new_run()?,
            done: Ok(()),
        };
        first.iterate(&mut replay);
        let Replay { mut run, done } = replay;
        done?;
        for (key, value) in rest {
            run.add(key, value)?;
        }
        run.ingest(&self.database)
    }

    /// Begins a long write; [`Run::ingest`] ends it.
    pub fn new_run(&self) -> Result<Run<'_>> {
        Run::new(&self.shared.database, self.folder.new_files())
    }

    pub fn database(&self) -> &DB {
        &self.database
    }

    pub fn options(&self) -> &Options {
        &self.shared.database
    }

    pub fn folder(&self) -> &Folder {
        &self.folder
    }
}

/// The changes of a batch that has become too long, on their way into files.
struct Replay<'a> {
    run: Run<'a>,
    done: Result<()>,
}

impl Replay<'_> {
    fn add(&mut self, key: &[u8], value: Option<&[u8]>) {
        if self.done.is_ok() {
            self.done = self.run.add(key, value);
        }
    }
}

impl WriteBatchIterator for Replay<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.add(key, Some(value));
    }

    fn delete(&mut self, key: &[u8]) {
        self.add(key, None);
    }
}

impl Disk for RocksDisk {
    fn get(&self, keys: &[&[u8]], found: &mut dyn FnMut(usize, &[u8]) -> Result<()>) -> Result<()> {
        let database = self.usable()?;
        let family = database.cf_handle(rocksdb::DEFAULT_COLUMN_FAMILY_NAME);
        let family =
            family.ok_or_else(|| Error::internal("a database without its column family"))?;
        for (first, chunk) in (0..).step_by(GET_KEYS).zip(keys.chunks(GET_KEYS)) {
            let values = database.batched_multi_get_cf(family, chunk.iter().copied(), true);
            for (number, value) in (first..).zip(values) {
                if let Some(value) =
                    value.map_err(|cause| self.failed("the state cannot be read", cause))?
                {
                    found(number, &value)?;
                }
            }
        }
        Ok(())
    }

    fn scan(&self, from: &[u8], to: &[u8], each: &mut EachPair<'_>) -> Result<()> {
        let database = self.usable()?;
        scan(database, from, to, each, |cause| {
            self.failed("the state cannot be read", cause)
        })
    }

    fn first_key(&self, from: &[u8], to: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut pairs = self.usable()?.raw_iterator_opt(bounded(from, to));
        pairs.seek_to_first();
        let key = pairs.key().map(<[u8]>::to_vec);
        pairs
            .status()
            .map_err(|cause| self.failed("the state cannot be read", cause))?;
        Ok(key)
    }

    fn delete_ranges(&self, ranges: &[KeyRange]) -> Result<()> {
        self.usable()?;
        let mut batch = WriteBatch::default();
        ranges
            .iter()
            .for_each(|(from, to)| batch.delete_range(from, to));
        if batch.is_empty() {
            Ok(())
        } else {
            self.written(self.write_batch(batch))
        }
    }

    fn write(&self, changes: &mut Changes<'_>) -> Result<()> {
        self.usable()?;
        self.written(self.write_changes(changes))
    }

    fn checkpoint(&self, to: &Path) -> Result<Vec<DiskFile>> {
        let checkpoint = Checkpoint::new(self.usable()?);
        let made = checkpoint.and_then(|checkpoint| checkpoint.create_checkpoint(to));
        made.map_err(|cause| {
            self.failed(
                &format!("a checkpoint cannot be made in {}", to.display()),
                cause,
            )
        })?;
        self.names.apply(to)
    }

    fn disk_bytes(&self) -> u64 {
        self.database
            .property_int_value(rocksdb::properties::LIVE_SST_FILES_SIZE)
            .ok()
            .flatten()
            .unwrap_or(0)
    }
}

/// Shows the pairs of a range. It is read once, so its blocks do not push others out of the cache.
pub fn scan(
    database: &DB,
    from: &[u8],
    to: &[u8],
    each: &mut EachPair<'_>,
    failed: impl Fn(rocksdb::Error) -> Error,
) -> Result<()> {
    let mut options = bounded(from, to);
    options.fill_cache(false);
    let mut pairs = database.raw_iterator_opt(options);
    pairs.seek_to_first();
    while let Some((key, value)) = pairs.item() {
        each(key, value)?;
        pairs.next();
    }
    pairs.status().map_err(failed)
}

fn bounded(from: &[u8], to: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(from);
    options.set_iterate_upper_bound(to);
    options
}

/// The folder of a disk. It is deleted with what is in it.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes it, and the folders above it.
    pub fn create(path: &Path) -> Result<Folder> {
        let parent = path.parent().map_or(Ok(()), fs::create_dir_all);
        parent
            .and_then(|()| fs::create_dir(path))
            .map_err(|cause| error::io("cannot be made", path, cause))?;
        Ok(Folder(path.to_owned()))
    }

    /// Where the database is.
    pub fn database(&self) -> PathBuf {
        self.0.join("database")
    }

    /// Where files are written that the database is to take over.
    pub fn new_files(&self) -> PathBuf {
        self.0.join("new")
    }

    /// Where the checkpoint that a restore reads is unpacked.
    pub fn part(&self) -> PathBuf {
        self.0.join("part")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A drop cannot report; what is left is in the folder of a process that has ended.
        let _ = fs::remove_dir_all(&self.0);
    }
}
