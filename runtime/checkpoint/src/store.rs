//! Where checkpoints lie: a folder, an object store, or memory, behind one synchronous front.
//!
//! What is written is read back before it counts, and what is read is checked before it is used, by
//! length and blake3. A name is written by one leader alone, or created conditionally; nothing is
//! ever changed in place. On a local disk every write is synced, file and folder, before it
//! returns.

mod remote;
mod shell;

use self::remote::remote;
use self::shell::{Failure, Inner, Objects, ask};
use crate::folder::{self, Folder, Found, Length};
use crate::names::resolve;
use crate::sealed::checksum;
use futures_util::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use serde::{Deserialize, Serialize};
use std::fs;
use std::sync::Arc;
use streamrt_types::{Error, Result, code};

/// So many objects are read at the same time.
const READS: usize = 16;
/// Of an object whose length nobody has written down: an entry of the log, or a manifest that the
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
pub struct Store(Arc<Inner>);

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
        Store::over(Objects::Folder(Folder::new(folder)), place)
    }

    /// A store that lasts as long as its clones, for tests.
    ///
    /// # Errors
    /// `Unavailable` (S7007) if the system has no resources left.
    pub fn in_memory() -> Result<Store> {
        Store::over(
            Objects::Remote(Arc::new(InMemory::new())),
            "memory".to_owned(),
        )
    }

    /// What [`Store::open`] has to be given to open it again; for a folder, its absolute path.
    pub fn location(&self) -> &str {
        &self.0.location
    }

    /// Writes an object, reads it back, and says what stands there now. A name is given once;
    /// written again, it is replaced.
    ///
    /// # Errors
    /// `Unavailable` (S7007) if the store failed, or holds other bytes than it was given.
    pub fn put(&self, path: &str, bytes: Vec<u8>) -> Result<Stored> {
        let (stored, place) = (Stored::of(path, &bytes), parse(path)?);
        let payload = PutPayload::from(bytes);
        let written = self.attempt(stored.bytes, async || {
            self.write(&place, payload.clone(), PutMode::Overwrite)
                .await
        });
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
        let Objects::Folder(folder) = &self.0.objects else {
            return self.get(stored).map(drop);
        };
        let place = format!("`{}` in {}", stored.path, self.0.location);
        let found = folder.checksum(&stored.path);
        let found = found.map_err(|cause| {
            Error::new(code::STORE, format!("{place} cannot be read")).with_source(cause)
        })?;
        if found == (stored.bytes, stored.checksum.clone()) {
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
                format!("`{}` is missing in {}", stored.path, self.0.location),
            )),
            Condition::Damaged(error) => Err(error),
        }
    }

    /// Reads an object, and says how it is. Of one that has another length nothing is read.
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
            stored.path,
            self.0.location,
            stored.bytes,
            stored.checksum,
            found.bytes,
            found.checksum
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
        let place = parse(path)?;
        let bytes = if let Length::Exactly(bytes) = length {
            bytes
        } else {
            0
        };
        self.usable(
            path,
            self.attempt(bytes, async || self.fetch(&place, length).await),
        )
    }

    fn usable(&self, path: &str, found: Result<Found, Failure>) -> Result<Option<Vec<u8>>> {
        match found {
            Ok(Found::Bytes(bytes)) => Ok(Some(bytes)),
            Ok(Found::Unusable(why)) => Err(Error::new(
                code::SNAPSHOT_DAMAGED,
                format!("`{path}` in {} is damaged: {why}", self.0.location),
            )),
            Err(failure) if failure.is_missing() => Ok(None),
            Err(failure) => Err(self.failed("read", path, failure)),
        }
    }

    /// As [`Store::read`], several at a time, in the order of `paths`.
    ///
    /// # Errors
    /// `Unavailable` (S7007) if the store failed.
    pub fn read_all(&self, paths: &[String]) -> Result<Vec<Option<Vec<u8>>>> {
        let places: Vec<Path> = paths
            .iter()
            .map(|path| parse(path))
            .collect::<Result<_>>()?;
        let most = Length::AtMost(UNKNOWN_BYTES_MAX);
        let read = |place: Path| async move {
            self.usable(
                place.as_ref(),
                self.retry(0, async || self.fetch(&place, most).await).await,
            )
        };
        self.0.runtime.block_on(
            futures_util::stream::iter(places)
                .map(read)
                .buffered(READS)
                .try_collect(),
        )
    }

    /// Writes an object whole if nothing stands under its name; of several who try, one succeeds.
    /// What stands there already with the same bytes counts as created: an earlier attempt made it,
    /// whose answer was lost. Bytes that only one caller writes are therefore a must.
    ///
    /// # Errors
    /// `Unavailable` (S7007) if nobody knows whether it was written.
    pub fn create(&self, path: &str, bytes: Vec<u8>) -> Result<Creation> {
        let place = parse(path)?;
        let payload = PutPayload::from(bytes.clone());
        let created = self.attempt(bytes.len() as u64, async || {
            self.write(&place, payload.clone(), PutMode::Create).await
        });
        let Err(failure) = created else {
            return Ok(Creation::Created);
        };
        let exists = matches!(failure.cause, object_store::Error::AlreadyExists { .. });
        match self.read(path)? {
            Some(there) if there == bytes => self.sync_again(path).map(|()| Creation::Created),
            Some(there) => Ok(Creation::Exists(there)),
            None if failure.unknown || exists => Err(self
                .failed("create", path, failure)
                .at("it is not known whether an entry was written")),
            None => Ok(Creation::Failed(self.failed("create", path, failure))),
        }
    }

    /// See [`Folder::sync`].
    fn sync_again(&self, path: &str) -> Result<()> {
        let Objects::Folder(folder) = &self.0.objects else {
            return Ok(());
        };
        let failed = |cause| {
            Error::new(
                code::STORE,
                format!("`{path}` in {} cannot be synced", self.0.location),
            )
            .with_source(cause)
        };
        folder.sync(path).map_err(failed)
    }

    /// All objects below a folder, with their lengths, by path; the whole store if `folder` is
    /// empty.
    ///
    /// # Errors
    /// `Unavailable` (S7007) if the store failed: a listing is whole or an error.
    pub fn list(&self, folder: &str) -> Result<Vec<(String, u64)>> {
        let prefix = Some(folder)
            .filter(|folder| !folder.is_empty())
            .map(parse)
            .transpose()?;
        let listed = self.attempt(0, async || match &self.0.objects {
            Objects::Folder(root) => ask(root, folder, |root, folder| root.list(folder)).await,
            Objects::Remote(objects) => {
                objects
                    .list(prefix.as_ref())
                    .map_ok(|meta| (meta.location.to_string(), meta.size))
                    .try_collect::<Vec<_>>()
                    .await
            }
        });
        let mut objects = listed.map_err(|failure| self.failed("list", folder, failure))?;
        objects.sort();
        Ok(objects)
    }

    /// The names of the folders at the top.
    ///
    /// # Errors
    /// `Unavailable` (S7007) if the store failed.
    pub fn folders(&self) -> Result<Vec<String>> {
        let listed = self.attempt(0, async || match &self.0.objects {
            Objects::Folder(root) => ask(root, "", |root, _| root.folders()).await,
            Objects::Remote(objects) => Ok(objects
                .list_with_delimiter(None)
                .await?
                .common_prefixes
                .iter()
                .map(Path::to_string)
                .collect()),
        });
        listed.map_err(|failure| self.failed("list", "", failure))
    }

    /// Deletes an object; one that is missing is deleted already.
    ///
    /// # Errors
    /// `Unavailable` (S7007) if the store failed.
    pub fn delete(&self, path: &str) -> Result<()> {
        let place = parse(path)?;
        let deleted = self.attempt(0, async || match &self.0.objects {
            Objects::Folder(folder) => ask(folder, place.as_ref(), Folder::delete).await,
            Objects::Remote(objects) => objects.delete(&place).await,
        });
        match deleted {
            Err(failure) if !failure.is_missing() => Err(self.failed("delete", path, failure)),
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
        let Objects::Folder(root) = &self.0.objects else {
            return Ok(());
        };
        root.remove_unfinished(folder).map_err(|cause| {
            Error::new(
                code::STORE,
                format!("`{folder}` in {} cannot be cleaned", self.0.location),
            )
            .with_source(cause)
        })
    }
}

fn unusable(location: &str) -> Error {
    Error::new(
        code::STORE,
        format!("the checkpoint store `{location}` cannot be used"),
    )
}

fn parse(path: &str) -> Result<Path> {
    let path = resolve("", path)?;
    Path::parse(&path).map_err(|cause| {
        Error::new(
            code::SNAPSHOT_DAMAGED,
            format!("`{path}` is no name of an object"),
        )
        .with_source(cause)
    })
}

#[cfg(test)]
mod tests;
