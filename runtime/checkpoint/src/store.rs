//! Where checkpoints lie: a folder, an object store, or memory, behind one synchronous front.
//!
//! What is written is read back before it counts, and what is read is checked before it is used, by
//! length and blake3. A name is written by one leader alone, or created conditionally; nothing is
//! ever changed in place. On a local disk every write is synced, file and folder, before it
//! returns.

mod objects;
mod remote;

use self::objects::Memory;
pub use self::objects::{Failure, FailureKind, Found, Length, Objects};
use self::remote::remote;
use crate::folder::{self, Folder};
use crate::names::resolve;
use crate::sealed::checksum;
use crate::shell::Shell;
use serde::{Deserialize, Serialize};
use std::fs;
use std::sync::Arc;
use streamrt_types::{Error, Result, code};

/// The most that is read of an object whose length nobody has written down: an entry of the log, or a manifest that the
/// user names.
const UNKNOWN_BYTES_MAX: u64 = 256 << 20;

/// An object as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stored {
    /// In the store, parts divided by `/`.
    pub path: String,
    /// Length.
    pub bytes: u64,
    /// blake3, as 64 hexadecimal digits.
    pub checksum: String,
}

impl Stored {
    /// What `bytes` at `path` have to be.
    pub fn of(path: &str, bytes: &[u8]) -> Stored {
        Stored {
            path: path.to_owned(),
            bytes: bytes.len() as u64,
            checksum: checksum(bytes),
        }
    }
}

/// How an object is that somebody refers to.
pub(crate) enum Condition {
    Whole(Vec<u8>),
    Missing,
    Damaged(Error),
}

/// What a conditional create came to.
#[derive(Debug)]
pub enum Creation {
    /// The bytes stand there, durably.
    Created,
    /// Something else stood there before; these bytes.
    Exists(Vec<u8>),
    /// The store failed (S7007); nothing was written, nor will be.
    Failed(Error),
}

/// See the module. Clones are the same store. It blocks, and must not be used from async code.
#[derive(Clone)]
pub struct Store {
    objects: Arc<dyn Objects>,
    /// As in [`Store::open`].
    location: Arc<str>,
}

impl Store {
    /// Opens a folder, which is made if it is missing, or the URL of an object store as in
    /// `s3://bucket/prefix`, whose access is configured by the `AWS_*` variables of the
    /// environment.
    ///
    /// # Errors
    /// `Unavailable` (S7007) if the folder cannot be used; `Invalid` (S2007) if this build does not
    /// know the URL.
    pub fn open(location: &str) -> Result<Store> {
        if location.contains("://") {
            return remote(location);
        }
        folder::make(location.as_ref()).map_err(|cause| unusable(location).with_source(cause))?;
        Store::existing(location)
    }

    /// As [`Store::open`], but a folder that is missing is an error.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn existing(location: &str) -> Result<Store> {
        if location.contains("://") {
            return remote(location);
        }
        let folder =
            fs::canonicalize(location).map_err(|cause| unusable(location).with_source(cause))?;
        let place = folder
            .to_str()
            .ok_or_else(|| unusable(location))?
            .to_owned();
        if !folder.is_dir() {
            return Err(unusable(location).at("it is no folder"));
        }
        let shell = Shell::of_folder(Folder::new(folder))
            .map_err(|cause| unusable(location).with_source(cause))?;
        Ok(Store::over(Arc::new(shell), &place))
    }

    /// A store over whatever holds its bytes. `location` names it in messages.
    pub fn over(objects: Arc<dyn Objects>, location: &str) -> Store {
        Store {
            objects,
            location: location.into(),
        }
    }

    /// A store that lasts as long as its clones.
    ///
    /// # Errors
    /// None: it is opened as the others are.
    pub fn in_memory() -> Result<Store> {
        Ok(Store::over(Arc::new(Memory::default()), "memory"))
    }

    /// A store for tests, which asks again without a pause.
    #[cfg(test)]
    pub(crate) fn impatient(objects: Arc<dyn object_store::ObjectStore>) -> Store {
        Store::over(Arc::new(Shell::impatient(objects)), "memory")
    }

    /// What [`Store::open`] has to be given to open it again; for a folder, its absolute path.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// Writes an object, reads it back, and says what stands there now. A name is given once;
    /// written again, it is replaced.
    ///
    /// # Errors
    /// `Unavailable` (S7007) if the store failed, or holds other bytes than it was given.
    pub fn put(&self, path: &str, bytes: Vec<u8>) -> Result<Stored> {
        let (stored, object) = (Stored::of(path, &bytes), name(path)?);
        let written = self.objects.write(&object, bytes, true);
        written.map_err(|failure| self.failed("write", path, failure))?;
        self.verify(&stored).map_err(|error| {
            Error::new(code::STORE, "what was just written cannot be read back").with_source(error)
        })?;
        Ok(stored)
    }

    /// As [`Store::put`], unless the object is there already and whole. One that is there may be
    /// what a `put` that failed has left.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub fn put_once(&self, path: &str, bytes: &[u8]) -> Result<Stored> {
        let stored = Stored::of(path, bytes);
        match self.verify(&stored) {
            Ok(()) => self.sync_again(path).map(|()| stored),
            Err(_) => self.put(path, bytes.to_vec()),
        }
    }

    /// Checks what stands there. A file is read in pieces: a second copy of a large object would
    /// cost as much as writing it.
    fn verify(&self, stored: &Stored) -> Result<()> {
        let Some(found) = self.objects.examine(&stored.path) else {
            return self.get(stored).map(drop);
        };
        let place = format!("`{}` in {}", stored.path, self.location);
        let found = found.map_err(|cause| {
            Error::new(code::STORE, format!("{place} cannot be read")).with_source(cause)
        })?;
        if found == *stored {
            return Ok(());
        }
        Err(Error::new(
            code::SNAPSHOT_DAMAGED,
            format!("{place} holds other bytes than were written"),
        ))
    }

    /// Reads an object, and checks it.
    ///
    /// # Errors
    /// `Data` (S7001) if it is missing, or not what was written; `Unavailable` (S7007) if the store
    /// failed.
    pub fn get(&self, stored: &Stored) -> Result<Vec<u8>> {
        match self.examine(stored)? {
            Condition::Whole(bytes) => Ok(bytes),
            Condition::Missing => Err(Error::new(
                code::SNAPSHOT_DAMAGED,
                format!("`{}` is missing in {}", stored.path, self.location),
            )),
            Condition::Damaged(error) => Err(error),
        }
    }

    /// Reads an object, and says how it is. If it has another length, nothing is read.
    ///
    /// # Errors
    /// `Unavailable` (S7007) if the store failed.
    pub(crate) fn examine(&self, stored: &Stored) -> Result<Condition> {
        let bytes = match self.read_expected(&stored.path, Length::Exactly(stored.bytes)) {
            Err(error) if error.code() == code::SNAPSHOT_DAMAGED => {
                return Ok(Condition::Damaged(error));
            }
            bytes => bytes?,
        };
        let Some(bytes) = bytes else {
            return Ok(Condition::Missing);
        };
        let found = Stored::of(&stored.path, &bytes);
        if found == *stored {
            return Ok(Condition::Whole(bytes));
        }
        let message = format!(
            "`{}` in {} is damaged: {} bytes with checksum {} were written, but {} bytes with checksum {} are there",
            stored.path, self.location, stored.bytes, stored.checksum, found.bytes, found.checksum
        );
        Ok(Condition::Damaged(Error::new(
            code::SNAPSHOT_DAMAGED,
            message,
        )))
    }

    /// Reads an object unchecked; None if there is none.
    ///
    /// # Errors
    /// `Unavailable` (S7007) if the store failed, `Data` (S7001) if it is no file, or longer than
    /// anything that is written without its length.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        self.read_expected(path, Length::AtMost(UNKNOWN_BYTES_MAX))
    }

    fn read_expected(&self, path: &str, length: Length) -> Result<Option<Vec<u8>>> {
        self.usable(path, self.objects.read(&name(path)?, length))
    }

    fn usable(&self, path: &str, found: Result<Found, Failure>) -> Result<Option<Vec<u8>>> {
        match found {
            Ok(Found::Bytes(bytes)) => Ok(Some(bytes)),
            Ok(Found::Unusable(why)) => Err(Error::new(
                code::SNAPSHOT_DAMAGED,
                format!("`{path}` in {} is damaged: {why}", self.location),
            )),
            Err(failure) if failure.kind == FailureKind::Missing => Ok(None),
            Err(failure) => Err(self.failed("read", path, failure)),
        }
    }

    /// As [`Store::read`], several at a time, in the order of `paths`.
    ///
    /// # Errors
    /// `Unavailable` (S7007) if the store failed.
    pub fn read_all(&self, paths: &[String]) -> Result<Vec<Option<Vec<u8>>>> {
        let objects: Vec<String> = paths.iter().map(|path| name(path)).collect::<Result<_>>()?;
        let found = self
            .objects
            .read_all(&objects, Length::AtMost(UNKNOWN_BYTES_MAX));
        paths
            .iter()
            .zip(found)
            .map(|(path, found)| self.usable(path, found))
            .collect()
    }

    /// Writes an object whole if nothing stands under its name; of several who try, one succeeds.
    /// What stands there already with the same bytes counts as created: an earlier attempt made it,
    /// whose answer was lost. Bytes that only one caller writes are therefore a must.
    ///
    /// # Errors
    /// `Unavailable` (S7007) if nobody knows whether it was written.
    pub fn create(&self, path: &str, bytes: Vec<u8>) -> Result<Creation> {
        let Err(failure) = self.objects.write(&name(path)?, bytes.clone(), false) else {
            return Ok(Creation::Created);
        };
        let exists = failure.kind == FailureKind::Exists;
        match self.read(path)? {
            Some(there) if there == bytes => self.sync_again(path).map(|()| Creation::Created),
            Some(there) => Ok(Creation::Exists(there)),
            None if failure.unknown || exists => Err(self
                .failed("create", path, failure)
                .at("it is not known whether an entry was written")),
            None => Ok(Creation::Failed(self.failed("create", path, failure))),
        }
    }

    /// See [`Objects::sync`].
    fn sync_again(&self, path: &str) -> Result<()> {
        let failed = |cause| {
            Error::new(
                code::STORE,
                format!("`{path}` in {} cannot be synced", self.location),
            )
            .with_source(cause)
        };
        self.objects.sync(path).map_err(failed)
    }

    /// All objects below a folder, with their lengths, by path; the whole store if `folder` is
    /// empty.
    ///
    /// # Errors
    /// `Unavailable` (S7007) if the store failed: a listing is whole or an error.
    pub fn list(&self, folder: &str) -> Result<Vec<(String, u64)>> {
        if !folder.is_empty() {
            name(folder)?;
        }
        let listed = self.objects.list(folder);
        let mut objects = listed.map_err(|failure| self.failed("list", folder, failure))?;
        objects.sort();
        Ok(objects)
    }

    /// The names of the folders at the top.
    ///
    /// # Errors
    /// `Unavailable` (S7007) if the store failed.
    pub fn folders(&self) -> Result<Vec<String>> {
        let listed = self.objects.folders();
        listed.map_err(|failure| self.failed("list", "", failure))
    }

    /// Deletes an object; one that is missing is deleted already.
    ///
    /// # Errors
    /// `Unavailable` (S7007) if the store failed.
    pub fn delete(&self, path: &str) -> Result<()> {
        match self.objects.delete(&name(path)?) {
            Err(failure) if failure.kind != FailureKind::Missing => {
                Err(self.failed("delete", path, failure))
            }
            _ => Ok(()),
        }
    }

    /// Removes what a killed process may leave in a folder of a local disk: files that were being
    /// written, and the folder if it is empty now. Only a leader may do this, before it writes: the
    /// upload of an older leader then fails.
    ///
    /// # Errors
    /// `Unavailable` (S7007) if a file cannot be deleted.
    pub fn remove_unfinished(&self, folder: &str) -> Result<()> {
        self.objects.remove_unfinished(folder).map_err(|cause| {
            Error::new(
                code::STORE,
                format!("`{folder}` in {} cannot be cleaned", self.location),
            )
            .with_source(cause)
        })
    }

    fn failed(&self, verb: &str, path: &str, failure: Failure) -> Error {
        let place = &self.location;
        if failure.kind == FailureKind::NoFile {
            let message = format!(
                "cannot {verb} `{path}` in {place}: a folder has its name, or something else that of its folder"
            );
            return Error::new(code::SNAPSHOT_DAMAGED, message).with_source(failure.cause);
        }
        let times = match failure.attempts {
            1 => "once".to_owned(),
            attempts => format!("{attempts} times"),
        };
        let message = format!("cannot {verb} `{path}` in {place}, tried {times}");
        Error::new(code::STORE, message).with_source(failure.cause)
    }
}

fn unusable(location: &str) -> Error {
    Error::new(
        code::STORE,
        format!("the checkpoint store `{location}` cannot be used"),
    )
}

/// The name of an object at a path, if it may be one.
fn name(path: &str) -> Result<String> {
    let path = resolve("", path)?;
    object_store::path::Path::parse(&path).map_err(|cause| {
        Error::new(
            code::SNAPSHOT_DAMAGED,
            format!("`{path}` is no name of an object"),
        )
        .with_source(cause)
    })?;
    Ok(path)
}

#[cfg(test)]
mod tests;
