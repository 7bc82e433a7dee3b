//! Keyed state on disk: the [`Disk`](streamrt_state::Disk) below the tables, over RocksDB.
//!
//! One database per operator of a subtask, all of them on one memory budget: the write buffers
//! count against the block cache, and so do index and filter blocks. Nothing is logged ahead,
//! because state is rebuilt from checkpoints. A short write is a batch for the write buffer; a long
//! one becomes sorted files that the database takes over, so the write buffer never sees it. A
//! checkpoint is a folder of hard links. This is the only crate that knows RocksDB, and the states
//! above it decide what is on disk and when.
//!
//! ```
//! use streamrt_state::Backend;
//! use streamrt_state_rocksdb::RocksBackend;
//!
//! # fn main() -> streamrt_types::Result<()> {
//! # let scratch = tempfile::tempdir().unwrap();
//! let backend = RocksBackend::new(8 << 20)?;
//! let disk = backend.open(&scratch.path().join("sums"), &[])?;
//! let (one, two) = ([0, 0, 0, 1], [0, 1, 0, 1]);
//! disk.write(&mut [(&one[..], Some(&b"7"[..])), (&two[..], Some(&b"9"[..]))].into_iter())?;
//! disk.write(&mut [(&one[..], None)].into_iter())?;
//! let mut found = Vec::new();
//! disk.get(&[&one, &two], &mut |number, value| {
//!     found.push((number, value.to_vec()));
//!     Ok(())
//! })?;
//! assert_eq!(found, [(1, b"9".to_vec())]);
//! # Ok(())
//! # }
//! ```

mod backend;
mod disk;
mod error;
mod files;
mod options;
mod restore;
mod run;

pub use backend::RocksBackend;
