//! How the databases are set up, and the memory that all of them share.
//!
//! Invariant: whatever RocksDB keeps in memory for long is charged to the one block cache.

use crate::error;
use rocksdb::{
    BlockBasedOptions, Cache, DBCompressionType, DataBlockIndexType, InfoLogger, LogLevel,
    LruCacheOptions, Options, WriteBufferManager,
};
use std::path::Path;
use streamrt_types::Result;

/// The budget below which the database would write files of a few entries.
const MEMORY_BYTES_MIN: usize = 1 << 20;
/// Longer write buffers make a checkpoint wait for their flush.
const WRITE_BUFFER_BYTES_MAX: usize = 64 << 20;
const BLOCK_BYTES: usize = 4 << 10;
const BLOOM_BITS: f64 = 10.0;
/// The most open files of a database: some hundred disks stay under the usual limit of a process,
/// and a file reopens in microseconds.
const OPEN_FILES_MAX: i32 = 128;
/// The number of range deletions at which a write buffer is flushed.
const RANGE_DELETIONS_MAX: usize = 4096;
/// One flush and two compactions at a time, on threads that all databases of the process share.
const BACKGROUND_JOBS: i32 = 3;
/// Each checkpoint copies the manifest, so it is rewritten before it is long.
const MANIFEST_BYTES_MAX: usize = 256 << 10;

/// What all databases of a backend have in common.
pub struct Shared {
    pub cache: Cache,
    pub database: Options,
    /// A larger write goes into files of its own.
    pub batch_bytes_max: usize,
}

impl Shared {
    pub fn new(memory_bytes: usize) -> Result<Shared> {
        let memory_bytes = memory_bytes.max(MEMORY_BYTES_MIN);
        let cache = block_cache(memory_bytes);
        // While one half of these is flushed, the other is written to; the rest of the budget is
        // for blocks.
        let buffers = WriteBufferManager::new_write_buffer_manager_with_cache(
            memory_bytes / 2,
            false,
            cache.clone(),
        );
        let write_buffer_bytes = (memory_bytes / 4).min(WRITE_BUFFER_BYTES_MAX);
        let mut database = database(write_buffer_bytes)?;
        database.set_write_buffer_manager(&buffers);
        database.set_block_based_table_factory(&tables(&cache));
        Ok(Shared {
            cache,
            database,
            batch_bytes_max: write_buffer_bytes / 4,
        })
    }
}

/// Few shards: write buffers are charged in pieces of 256 KiB, which must find room in every one.
fn block_cache(memory_bytes: usize) -> Cache {
    let mut options = LruCacheOptions::default();
    options.set_capacity(memory_bytes);
    options.set_num_shard_bits(if memory_bytes < (256 << 20) { 0 } else { 4 });
    Cache::new_lru_cache_opts(&options)
}

fn database(write_buffer_bytes: usize) -> Result<Options> {
    // Nobody wants what a closed disk had in its write buffer: its folder is deleted with it. And a
    // read sorts the range deletions of the write buffer whenever one has come, so there must not
    // be too many.
    let texts = format!(
        "avoid_flush_during_shutdown=true;memtable_max_range_deletions={RANGE_DELETIONS_MAX}"
    );
    let given = Options::default().get_options_from_string(texts);
    let mut options = given.map_err(|cause| {
        error::failed(
            "the options of the database cannot be set",
            Path::new(""),
            cause,
        )
    })?;
    options.create_if_missing(true);
    options.set_write_buffer_size(write_buffer_bytes);
    options.set_max_write_buffer_number(2);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_max_background_jobs(BACKGROUND_JOBS);
    options.set_max_manifest_file_size(MANIFEST_BYTES_MAX);
    // Each opened database has an identity of its own, which the names of its files carry; so a
    // checkpoint must not hand it on.
    options.set_write_dbid_to_manifest(false);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_skip_stats_update_on_db_open(true);
    // No log: failures come back as errors, and nobody would look into a folder that is gone.
    options.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Fatal, |_, _| ()));
    Ok(options)
}

fn tables(cache: &Cache) -> BlockBasedOptions {
    let mut tables = BlockBasedOptions::default();
    tables.set_block_cache(cache);
    tables.set_cache_index_and_filter_blocks(true);
    tables.set_pin_l0_filter_and_index_blocks_in_cache(true);
    tables.set_block_size(BLOCK_BYTES);
    tables.set_bloom_filter(BLOOM_BITS, false);
    tables.set_whole_key_filtering(true);
    tables.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
    tables
}
