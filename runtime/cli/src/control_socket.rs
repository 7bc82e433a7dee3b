//! Where a running job takes commands: a Unix socket in a folder that only its user can open, and
//! beside it a file with what others may know without asking.
//!
//! 1. Both are called by the job's id, which is made at random, so that they do not meet although
//!    processes on other machines, or in other containers, share the folder and have the same
//!    number. 2. The job holds a lock on its file as long as it lives. 3. Who finds a file whose
//!    lock is free removes both.
//!
//! Invariant: what belongs to a job that lives is never removed but by itself.

use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use streamrt_checkpoint::unique_token;

/// Digits of an id, of the 32 that tell the job from all others.
const ID_DIGITS: usize = 8;

/// How many ids may be taken already.
const TRIES_MAX: usize = 100;

/// What the file of a job holds at most.
const BYTES_MAX: u64 = 64 << 10;

const FILE: &str = "job";

/// What others know of a job without asking it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub name: String,
    /// That of the machine or container in which the process has the number `pid`.
    pub host: String,
    pub pid: u32,
}

/// A job that holds its lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    pub id: String,
    pub socket: PathBuf,
    pub entry: Entry,
}

/// The socket and the file of this process's job; they are removed with this.
pub struct ControlSocket {
    /// 32 hex digits, of which the first are the job's id.
    pub long_id: String,
    id: String,
    folder: PathBuf,
    /// Locked.
    _file: File,
}

impl ControlSocket {
    /// Makes the socket of a job with this name.
    pub fn make(folder: &Path, name: &str) -> io::Result<(ControlSocket, UnixListener)> {
        let entry = Entry {
            name: name.to_owned(),
            host: host(),
            pid: std::process::id(),
        };
        for _ in 0..TRIES_MAX {
            let long_id = unique_token();
            let id: String = long_id.chars().take(ID_DIGITS).collect();
            let Some(file) = claim(folder, &id, &entry)? else {
                continue;
            };
            let control = ControlSocket {
                long_id,
                id,
                folder: folder.to_owned(),
                _file: file,
            };
            let listener = UnixListener::bind(socket(folder, &control.id))?;
            return Ok((control, listener));
        }
        Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "all ids are taken",
        ))
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        remove(&self.folder, &self.id);
    }
}

fn socket(folder: &Path, id: &str) -> PathBuf {
    folder.join(format!("{id}.sock"))
}

fn file(folder: &Path, id: &str) -> PathBuf {
    folder.join(format!("{id}.{FILE}"))
}

/// What is left over is removed by whoever finds it.
fn remove(folder: &Path, id: &str) {
    let _ = fs::remove_file(socket(folder, id));
    let _ = fs::remove_file(file(folder, id));
}

/// The locked file of an id that nobody has; `None` if somebody does.
fn claim(folder: &Path, id: &str, entry: &Entry) -> io::Result<Option<File>> {
    let path = file(folder, id);
    let mut created = match OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
    {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
        created => created?,
    };
    // Whoever looks at the folder just now may find the lock free, and take the file for one that
    // was left over.
    let is_ours = created.try_lock().is_ok()
        && fs::metadata(&path).is_ok_and(|found| is_same(&found, &created));
    if is_ours {
        created.write_all(serde_json::to_string(entry)?.as_bytes())?;
    }
    Ok(is_ours.then_some(created))
}

fn is_same(found: &fs::Metadata, file: &File) -> bool {
    file.metadata()
        .is_ok_and(|own| (own.dev(), own.ino()) == (found.dev(), found.ino()))
}

/// The jobs that live, by id; what others have left behind is removed.
pub fn registered(folder: &Path) -> Vec<Registered> {
    let listing = fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = listing
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == FILE));
    let mut jobs: Vec<Registered> = paths.filter_map(|path| look(folder, &path)).collect();
    jobs.sort_by(|a, b| a.id.cmp(&b.id));
    jobs
}

fn look(folder: &Path, path: &Path) -> Option<Registered> {
    let id = path.file_stem()?.to_str()?.to_owned();
    // A link is no file of ours, and a pipe of that name must not hold us up.
    let found = fs::symlink_metadata(path)
        .is_ok_and(|found| found.is_file())
        .then(|| File::open(path).ok())??;
    match found.try_lock() {
        Ok(()) => {
            // Its name may be another job's by now.
            if fs::metadata(path).is_ok_and(|now| is_same(&now, &found)) {
                remove(folder, &id);
            }
            None
        }
        // Where locks cannot be had, nothing is known to be left over.
        Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {
            let mut text = String::new();
            found.take(BYTES_MAX).read_to_string(&mut text).ok()?;
            Some(Registered {
                socket: socket(folder, &id),
                id,
                entry: serde_json::from_str(&text).ok()?,
            })
        }
    }
}

/// The name of this machine or container.
fn host() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "localhost".to_owned(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        registered(folder)
            .into_iter()
            .map(|job| job.entry.name)
            .collect()
    }

    #[test]
    fn jobs_of_one_process_number_do_not_meet() {
        let folder = tempfile::tempdir().unwrap();
        let jobs: Vec<_> = (0..20)
            .map(|job| ControlSocket::make(folder.path(), &format!("job {job:02}")).unwrap())
            .collect();
        let mut found = names(folder.path());
        found.sort();
        assert_eq!(
            found,
            (0..20)
                .map(|job| format!("job {job:02}"))
                .collect::<Vec<_>>()
        );
        let first = registered(folder.path())
            .into_iter()
            .find(|job| job.id == jobs[0].0.id)
            .unwrap();
        assert_eq!(
            (first.entry.pid, first.socket.exists()),
            (std::process::id(), true)
        );
        drop(jobs);
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            0,
            "what a job has made goes with it"
        );
    }

    #[test]
    fn what_a_crash_has_left_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let (living, _listener) = ControlSocket::make(folder.path(), "living").unwrap();
        // A process that ends by itself closes its files, which frees its lock, and removes
        // nothing.
        fs::write(
            file(folder.path(), "dead0000"),
            serde_json::to_string(&Entry {
                name: "dead".into(),
                host: host(),
                pid: 1,
            })
            .unwrap(),
        )
        .unwrap();
        drop(UnixListener::bind(socket(folder.path(), "dead0000")).unwrap());
        fs::write(folder.path().join("notes"), "x").unwrap();
        std::os::unix::fs::symlink("notes", file(folder.path(), "link0000")).unwrap();
        assert_eq!(names(folder.path()), ["living"]);
        let mut left: Vec<String> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        let mut expected = [
            format!("{}.job", living.id),
            format!("{}.sock", living.id),
            "link0000.job".into(),
            "notes".into(),
        ];
        expected.sort();
        assert_eq!(left, expected);
    }

    #[test]
    fn an_id_is_taken_once() {
        let folder = tempfile::tempdir().unwrap();
        let entry = Entry {
            name: "a".into(),
            host: host(),
            pid: 1,
        };
        let held = claim(folder.path(), "a", &entry).unwrap();
        assert!(held.is_some() && claim(folder.path(), "a", &entry).unwrap().is_none());
    }
}
