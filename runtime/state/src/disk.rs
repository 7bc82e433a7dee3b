//! The contract of a store on disk below keyed states: what the table does not hold, and what an
//! incremental checkpoint consists of.
//!
//! An operator of a subtask has one [`Disk`] for all its keyed states. It is ordered by bytes: a
//! key begins with its key group and the number of its state ([`DISK_KEY_PREFIX_BYTES`]), so the
//! key groups of another parallelism are ranges. Invariant: writes and deletes are the only
//! changes; a checkpoint holds exactly what was written before it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use streamrt_types::{KeyGroupRange, Result};

/// The length of the beginning of keys on disk: the key group (u16, big endian), then the number of
/// the state.
pub const DISK_KEY_PREFIX_BYTES: usize = 3;

/// Changes to a [`Disk`], in ascending order of their keys, each key once. `None` deletes.
pub type Changes<'a> = dyn Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + 'a;

/// Keys from the first one up to, but excluding, the second.
pub type KeyRange = (Vec<u8>, Vec<u8>);

/// Takes a key and its value.
pub type EachPair<'a> = dyn FnMut(&[u8], &[u8]) -> Result<()> + 'a;

/// An ordered map of byte strings on disk. The task's thread reads and writes it, and the thread of
/// the checkpoints writes it and takes checkpoints of it; the states make sure that they do not
/// interfere.
pub trait Disk: Send + Sync {
    /// Shows the values of those `keys` that are there, each with its number. `keys` ascend.
    ///
    /// # Errors
    /// `Unavailable` (S7007) if the disk fails, `Data` (S7001) if the stored bytes are damaged.
    fn get(&self, keys: &[&[u8]], found: &mut dyn FnMut(usize, &[u8]) -> Result<()>) -> Result<()>;

    /// Shows every pair with `from <= key < to`, ascending.
    ///
    /// # Errors
    /// The same as for [`Disk::get`], or what `each` returns.
    fn scan(&self, from: &[u8], to: &[u8], each: &mut EachPair<'_>) -> Result<()>;

    /// The least existing key with `from <= key < to`.
    ///
    /// # Errors
    /// The same as for [`Disk::get`].
    fn first_key(&self, from: &[u8], to: &[u8]) -> Result<Option<Vec<u8>>>;

    /// Deletes every pair in one of `ranges`, at a cost that does not depend on how many there are.
    ///
    /// # Errors
    /// The same as for [`Disk::write`].
    fn delete_ranges(&self, ranges: &[KeyRange]) -> Result<()>;

    /// Makes all changes, or none of them.
    ///
    /// # Errors
    /// The same as for [`Disk::get`]. The disk then takes no more writes: the task has to start
    /// again from its last checkpoint.
    fn write(&self, changes: &mut Changes<'_>) -> Result<()>;

    /// Keeps everything that was written so far in the new folder `to` on the same file system,
    /// without copying it, and returns the files there. Files with the same name in two checkpoints
    /// of one disk have the same bytes.
    ///
    /// # Errors
    /// The same as for [`Disk::get`].
    fn checkpoint(&self, to: &Path) -> Result<Vec<DiskFile>>;

    /// The approximate number of bytes on disk.
    fn disk_bytes(&self) -> u64;
}

/// A file of a checkpoint of a [`Disk`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskFile {
    pub name: String,
    pub bytes: u64,
    /// Whether it never changes, so that a later checkpoint can refer to it. The others are
    /// rewritten each time.
    pub shared: bool,
}

/// A checkpoint of a [`Disk`], from which to make a new one.
#[derive(Debug, Clone)]
pub struct DiskPart {
    /// The files of the checkpoint, under their names. They may be moved or linked, but are not
    /// changed.
    pub folder: PathBuf,
    /// The key groups whose pairs are wanted.
    pub key_groups: KeyGroupRange,
    /// Whether the checkpoint has no others.
    pub whole: bool,
}

/// Opens the disks of a process. All of them share one memory budget.
pub trait Backend: Send + Sync {
    /// Makes a disk in the new folder `folder`, with the pairs of `parts`, whose key groups do not
    /// overlap; without any, it is empty. The folder is deleted when the disk is dropped.
    ///
    /// # Errors
    /// `Unavailable` (S7007) if the disk fails, `Data` (S7001) if a part is damaged.
    fn open(&self, folder: &Path, parts: &[DiskPart]) -> Result<Arc<dyn Disk>>;
}
