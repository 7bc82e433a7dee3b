//! The disks of a job's keyed state in this process: where their folders are, and what they are
//! made of at a start.
//!
//! Invariants: a folder belongs to one process, which holds a lock in it; a folder whose lock
//! nobody holds is removed by the next process. What does not bear our name, our marker, our user
//! and our mode is never removed, and no link is followed: the user may have named a folder that is
//! full of other things.

use crate::restored::Restored;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use streamrt_folders::Folder;
use streamrt_operator::LazyDisk;
use streamrt_state::{Backend, DiskFiles, MemoryBudget, Share, StateDisk};
use streamrt_types::{Configuration, Error, Result, code};

/// What the name of a folder begins with; 32 digits follow.
const NAME: &str = "streamrt-state-";
const TOKEN_DIGITS: usize = 32;

const LOCK: &str = "lock";

/// A file that says whose folder this is, to people and to us.
const MARKER: &str = "streamrt-state";
const MARKED: &[u8] = b"Keyed state of a running job. streamrt removes this folder when nobody holds the lock in it.\n";

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
        Ok(Disks {
            backend: state.backend,
            budget,
            folder: ProcessFolder::new(&state.folder)?,
            n_made: AtomicU64::new(0),
        })
    }

    /// Removes everything, when the job has ended.
    pub fn remove(&self) {
        self.folder.remove();
    }

    /// A folder that is not there yet.
    pub fn new_folder(&self) -> PathBuf {
        self.folder
            .path
            .join(self.n_made.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// What opens the disk of an operator of a subtask, with what a checkpoint kept of it.
    pub fn disk(
        self: &Arc<Self>,
        restored: &Arc<Restored>,
        uid: &Arc<str>,
        share: Share,
    ) -> Arc<LazyDisk> {
        let (disks, restored, uid) = (self.clone(), restored.clone(), uid.clone());
        Arc::new(LazyDisk::new(move || disks.open(&restored, &uid, share)))
    }

    fn open(&self, restored: &Restored, uid: &str, share: Share) -> Result<StateDisk> {
        let fetched = DiskFiles::new(self.new_folder());
        let (parts, states) = restored.disk_parts(uid, share, fetched.folder())?;
        let disk = self.backend.open(&self.new_folder(), &parts)?;
        Ok(StateDisk::new(
            disk,
            self.budget.clone(),
            share.max_parallelism,
            states,
        ))
    }
}

/// The folder of this process.
struct ProcessFolder {
    parent: Folder,
    name: String,
    path: PathBuf,
    _lock: File,
}

impl ProcessFolder {
    fn new(parent: &Path) -> Result<ProcessFolder> {
        let failed = |e| {
            Error::new(
                code::STORE,
                format!("no folder for state can be made in {}", parent.display()),
            )
            .with_source(e)
        };
        let made = Folder::open(parent).and_then(ProcessFolder::make);
        made.map_err(failed)
    }

    fn make(parent: Folder) -> io::Result<ProcessFolder> {
        let name = format!("{NAME}{}", streamrt_checkpoint::unique_token());
        let folder = parent.new_child(&name)?;
        // Whoever makes a folder owns it.
        remove_abandoned(&parent, folder.owner()?);
        let lock = folder.new_file(LOCK)?;
        lock.lock()?;
        // From now on it may be taken for abandoned.
        folder.write_new(MARKER, MARKED)?;
        Ok(ProcessFolder {
            path: folder.path().to_owned(),
            parent,
            name,
            _lock: lock,
        })
    }

    fn remove(&self) {
        // What cannot be removed now is removed by the next process.
        let _ = self.parent.remove_folder(&self.name);
    }
}

impl Drop for ProcessFolder {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Removes the folders of processes that were killed. Whatever is not as we make it stays: it
/// belongs to somebody, or is no folder of ours.
fn remove_abandoned(parent: &Folder, user: u32) {
    for name in parent
        .names()
        .unwrap_or_default()
        .iter()
        .filter(|name| is_ours(name))
    {
        // What cannot be looked at or removed is no hindrance, and whoever else removes it at the
        // same time does what is wanted.
        let _ = remove_if_abandoned(parent, name, user);
    }
}

fn remove_if_abandoned(parent: &Folder, name: &str, user: u32) -> io::Result<()> {
    let folder = parent.existing(name)?;
    folder.check_private(user)?;
    let is_marked = folder
        .read(MARKER, MARKED.len() as u64)?
        .is_some_and(|found| found == MARKED);
    // Held until the folder is gone.
    let Some(lock) = folder.file(LOCK)?.filter(|_| is_marked) else {
        return Ok(());
    };
    if lock.try_lock().is_ok() {
        parent.remove_folder(name)
    } else {
        Ok(())
    }
}

fn is_ours(name: &str) -> bool {
    let token = name.strip_prefix(NAME).unwrap_or_default();
    token.len() == TOKEN_DIGITS
        && token
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// A folder that a killed process has left, with something in it.
    fn abandoned(parent: &Path, digit: char) -> PathBuf {
        let path = parent.join(format!(
            "{NAME}{}",
            String::from(digit).repeat(TOKEN_DIGITS)
        ));
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
        fs::write(path.join(MARKER), MARKED).unwrap();
        fs::write(path.join(LOCK), b"").unwrap();
        fs::create_dir_all(path.join("3/database")).unwrap();
        fs::write(path.join("3/database/000001.sst"), b"x").unwrap();
        path
    }

    #[test]
    fn a_folder_lives_as_long_as_its_process() {
        let parent = tempfile::tempdir().unwrap();
        let held = ProcessFolder::new(parent.path()).unwrap();
        let abandoned = abandoned(parent.path(), 'a');
        let other = ProcessFolder::new(parent.path()).unwrap();
        assert_eq!((held.path.exists(), abandoned.exists()), (true, false));
        assert_eq!(
            fs::metadata(&other.path).unwrap().permissions().mode() & 0o777,
            0o700
        );
        let path = other.path.clone();
        drop(other);
        assert!(!path.exists());
    }

    /// Spoils an abandoned folder, and looks whether it stays.
    #[track_caller]
    fn check_kept(spoil: impl FnOnce(&Path)) {
        let parent = tempfile::tempdir().unwrap();
        let path = abandoned(parent.path(), 'b');
        spoil(&path);
        let kept = path.join("3/database/000001.sst").exists();
        drop(ProcessFolder::new(parent.path()).unwrap());
        assert!(kept && path.join("3/database/000001.sst").exists());
    }

    #[test]
    fn what_is_not_as_we_make_it_is_never_removed() {
        check_kept(|path| fs::remove_file(path.join(MARKER)).unwrap());
        check_kept(|path| fs::write(path.join(MARKER), b"of another program").unwrap());
        check_kept(|path| fs::remove_file(path.join(LOCK)).unwrap());
        check_kept(|path| fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap());
        check_kept(|path| {
            let elsewhere = path.with_file_name("elsewhere");
            fs::rename(path.join(LOCK), &elsewhere).unwrap();
            symlink(elsewhere, path.join(LOCK)).unwrap();
        });
        // A pipe under the name of the lock must not be waited for.
        check_kept(|path| {
            fs::remove_file(path.join(LOCK)).unwrap();
            let made = std::process::Command::new("mkfifo")
                .arg(path.join(LOCK))
                .status()
                .unwrap();
            assert!(made.success());
        });
        // The whole folder is somewhere else, and a link stands in its place.
        check_kept(|path| {
            fs::rename(path, path.with_file_name("theirs")).unwrap();
            symlink(path.with_file_name("theirs"), path).unwrap();
        });
    }

    /// The projects, photographs and caches of other people, one of which holds a file that is
    /// called `lock`.
    #[test]
    fn neighbours_stay() {
        let parent = tempfile::tempdir().unwrap();
        let names = [
            "project",
            "0123456789abcdef0123456789abcdef",
            "streamrt-state-",
            "streamrt-state-x",
            "streamrt-state-00",
        ];
        for name in names {
            let folder = parent.path().join(name);
            fs::create_dir(&folder).unwrap();
            fs::set_permissions(&folder, Permissions::from_mode(0o700)).unwrap();
            fs::write(folder.join(LOCK), b"").unwrap();
            fs::write(folder.join(MARKER), MARKED).unwrap();
        }
        drop(ProcessFolder::new(parent.path()).unwrap());
        assert!(
            names
                .iter()
                .all(|name| parent.path().join(name).join(LOCK).exists())
        );
    }
}
