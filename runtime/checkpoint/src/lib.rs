//! Checkpoints: where they are kept, when one is begun, and from when on it counts.
//!
//! 1. The [`Coordinator`] decides when a checkpoint begins, whom it concerns, and when it is whole.
//!    It is pure: it is told what happened, and says what is to be done.
//! 2. The bytes of the tasks go to the [`Store`] first, then the [`Manifest`] that names them all,
//!    then one entry of the [`JobLog`]. That entry is the commit point: before it there is no such
//!    checkpoint, from it on there is one for ever.
//! 3. Whoever leads a job has taken the next number of its log; another leader's next entry then
//!    fails, and it ends.
//! 4. [`retire`] and [`clean_up`] delete what no manifest refers to any more.
//!
//! Nothing here knows operators, tasks or threads: states are bytes with an index that only those who
//! write and restore them can read.
//!
//! ```
//! use streamrt_checkpoint::{Entry, EndState, History, JobLog, Store};
//!
//! let store = Store::in_memory()?;
//! let (mut log, history) = JobLog::take_over(&store, "one leader")?;
//! assert!(history.newest().is_none());
//! let (mut newer, _) = JobLog::take_over(&store, "another one")?;
//! assert_eq!(log.append(Entry::Ended { state: EndState::Finished }).unwrap_err().code().id, "S7006");
//! newer.append(Entry::Ended { state: EndState::Canceled })?;
//! assert_eq!(History::read(&store)?.end, Some(EndState::Canceled));
//! # Ok::<(), streamrt_types::Error>(())
//! ```

mod approval;
mod coordinator;
mod folder;
mod garbage;
mod log;
mod manifest;
mod manifest_check;
mod names;
mod requests;
mod sealed;
mod shell;
mod snapshot;
mod store;
#[cfg(test)]
mod tests;

pub use approval::ApprovalKey;
pub use coordinator::{Action, Coordinator, Settings, TaskNode, Topology};
pub use garbage::{Report, clean_up, fsck, retire};
pub use log::{Called, EndState, Entry, History, JobLog, Published};
pub use manifest::{
    Beginning, DiskFileEntry, IndexEntry, Manifest, OperatorEntry, PluginEntry, SnapshotKind,
    SubtaskSnapshot, publish,
};
pub use names::{component_path, file_path, object_path};
pub use requests::{Purpose, Request};
pub use sealed::{seal, unseal};
pub use shell::unique_token;
pub use snapshot::Snapshot;
pub use store::{Creation, Failure, FailureKind, Found, Length, Objects, Store, Stored};
