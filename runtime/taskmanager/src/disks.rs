//! The disks of a job's keyed state in this process: where their folders are, and what they are made of at a start.
//!
//! Invariant: a folder belongs to one process, which holds a lock in it; a folder whose lock nobody holds is removed by the next process.

use crate::restored::Restored;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use streamrt_operator::LazyDisk;
use streamrt_state::{Backend, DiskFiles, MemoryBudget, Share, StateDisk};
use streamrt_types::{Configuration, Error, Result, code};

const LOCK: &str = "lock";

/// Where keyed state goes that memory does not hold.
pub struct StateBackend {
    pub backend: Arc<dyn Backend>,
    /// Processes make their folders in it.
    pub folder: PathBuf,
}

/// See the module.
pub(crate) struct Disks {
    backend: Arc<dyn Backend>,
    budget: Arc<MemoryBudget>,
    folder: ProcessFolder,
    n_made: AtomicU64,
}

impl Disks {
    /// # Errors
    /// S7007 if no folder can be made.
    pub fn new(state: StateBackend, configuration: &Configuration) -> Result<Disks> {
        let budget = Arc::new(MemoryBudget::new(configuration.state_table_bytes()));
        Ok(Disks { backend: state.backend, budget, folder: ProcessFolder::new(&state.folder)?, n_made: AtomicU64::new(0) })
    }

    /// Removes everything, when the job has ended.
    pub fn remove(&self) {
        self.folder.remove();
    }

    /// A folder that is not there yet.
    pub fn new_folder(&self) -> PathBuf {
        self.folder.path.join(self.n_made.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// What opens the disk of an operator of a subtask, with what a checkpoint kept of it.
    pub fn disk(self: &Arc<Self>, restored: &Arc<Restored>, uid: &Arc<str>, share: Share) -> Arc<LazyDisk> {
        let (disks, restored, uid) = (self.clone(), restored.clone(), uid.clone());
        Arc::new(LazyDisk::new(move || disks.open(&restored, &uid, share)))
    }

    fn open(&self, restored: &Restored, uid: &str, share: Share) -> Result<StateDisk> {
        let fetched = DiskFiles::new(self.new_folder());
        let (parts, states) = restored.disk_parts(uid, share, fetched.folder())?;
        let disk = self.backend.open(&self.new_folder(), &parts)?;
        Ok(StateDisk::new(disk, self.budget.clone(), share.max_parallelism, states))
    }
}

/// The folder of this process.
struct ProcessFolder {
    path: PathBuf,
    _lock: File,
}

impl ProcessFolder {
    fn new(parent: &Path) -> Result<ProcessFolder> {
        let failed = |e| Error::new(code::STORE, format!("no folder for state can be made in {}", parent.display())).with_source(e);
        std::fs::create_dir_all(parent).map_err(failed)?;
        remove_abandoned(parent);
        let path = parent.join(streamrt_checkpoint::unique_token());
        std::fs::create_dir(&path).map_err(failed)?;
        let lock = File::create(path.join(LOCK)).map_err(failed)?;
        lock.lock().map_err(failed)?;
        Ok(ProcessFolder { path, _lock: lock })
    }
}

impl ProcessFolder {
    fn remove(&self) {
        // What cannot be removed now is removed by the next process.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

impl Drop for ProcessFolder {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Removes the folders of processes that were killed.
fn remove_abandoned(parent: &Path) {
    for folder in std::fs::read_dir(parent).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let Ok(lock) = File::open(folder.join(LOCK)) else { continue };
        if !matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) {
            // Whoever else removes it at the same time does what is wanted.
            let _ = std::fs::remove_dir_all(&folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_lives_as_long_as_its_process() {
        let parent = tempfile::tempdir().unwrap();
        let held = ProcessFolder::new(parent.path()).unwrap();
        let abandoned = parent.path().join("abandoned");
        std::fs::create_dir(&abandoned).unwrap();
        File::create(abandoned.join(LOCK)).unwrap();
        let other = ProcessFolder::new(parent.path()).unwrap();
        assert_eq!((held.path.exists(), abandoned.exists()), (true, false));
        let path = other.path.clone();
        drop(other);
        assert!(!path.exists());
    }
}
