//! Where checkpoints lie: a folder, an object store, or memory, behind one synchronous front.
//!
//! What is written is read back before it counts, and what is read is checked before it is used, by
//! length and blake3. A name is written by one leader alone, or created conditionally; nothing is
//! ever changed in place. On a local disk every write is synced, file and folder, before it
//! returns.
//!
//! A store that does not answer is asked again, [`ATTEMPTS`] times at most, with pauses that grow
//! and differ. A local disk is asked once: what fails there fails again, and after a failed sync
//! nothing is known.

use crate::folder::{self, Folder, Found, Length};
use crate::names::resolve;
use crate::sealed::checksum;
use futures_util::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use serde::{Deserialize, Serialize};
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;
use streamrt_types::{Error, Result, code};
use tokio::runtime::Runtime;

/// Of one operation on a store that may be far away.
const ATTEMPTS: u32 = 5;
/// Before the second attempt; doubled before each further one, and up to as much again is added at
/// random.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// For one attempt, and a second more for each MiB that it moves.
const ATTEMPT_TIME: Duration = Duration::from_secs(30);
/// So many objects are read at the same time.
const READS: usize = 16;
/// Threads that wait for files; a folder is read and written through them. Without a limit there
/// come more and more of them on a busy machine, where a thread is not known to be idle before it
/// runs again.
const THREADS_MAX: usize = 16;
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

struct Inner {
    objects: Objects,
    runtime: Runtime,
    /// As in [`Store::open`].
    location: String,
    /// [`FIRST_PAUSE`]; none in tests.
    first_pause: Duration,
}

/// Where the bytes are.
enum Objects {
    Folder(Folder),
    Remote(Arc<dyn ObjectStore>),
}

/// Why an operation was given up.
struct Failure {
    cause: object_store::Error,
    attempts: u32,
    /// The store may have done it nevertheless, or may still do it.
    unknown: bool,
}

impl Failure {
    fn is_missing(&self) -> bool {
        matches!(self.cause, object_store::Error::NotFound { .. })
    }

    /// Something stands there that no attempt can get past.
    fn is_no_file(&self) -> bool {
        matches!(self.cause, object_store::Error::NotSupported { .. })
    }
}

/// What a folder says in the terms of a store.
fn failure_of(object: &str, cause: std::io::Error) -> object_store::Error {
    let path = object.to_owned();
    match cause.kind() {
        std::io::ErrorKind::NotFound => object_store::Error::NotFound {
            path,
            source: cause.into(),
        },
        std::io::ErrorKind::AlreadyExists => object_store::Error::AlreadyExists {
            path,
            source: cause.into(),
        },
        std::io::ErrorKind::IsADirectory | std::io::ErrorKind::NotADirectory => {
            object_store::Error::NotSupported {
                source: cause.into(),
            }
        }
        _ => object_store::Error::Generic {
            store: "folder",
            source: cause.into(),
        },
    }
}

/// Asks a folder on a thread that may wait for the disk. `object` is for the error.
async fn ask<T: Send + 'static>(
    folder: &Folder,
    object: &str,
    question: impl FnOnce(&Folder, &str) -> std::io::Result<T> + Send + 'static,
) -> object_store::Result<T> {
    let (folder, object) = (folder.clone(), object.to_owned());
    let answer = tokio::task::spawn_blocking(move || {
        question(&folder, &object).map_err(|cause| failure_of(&object, cause))
    });
    answer
        .await
        .unwrap_or_else(|source| Err(object_store::Error::JoinError { source }))
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

    fn over(objects: Objects, location: String) -> Result<Store> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(THREADS_MAX)
            .build();
        let runtime = runtime.map_err(|cause| unusable(&location).with_source(cause))?;
        Ok(Store(Arc::new(Inner {
            objects,
            runtime,
            location,
            first_pause: FIRST_PAUSE,
        })))
    }

    /// A store for tests, which asks again without a pause.
    #[cfg(test)]
    pub(crate) fn impatient(objects: Arc<dyn ObjectStore>) -> Store {
        let mut store = Store::over(Objects::Remote(objects), "memory".to_owned())
            .expect("the system has resources for a test");
        Arc::get_mut(&mut store.0)
            .expect("it has no clones yet")
            .first_pause = Duration::ZERO;
        store
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

    /// Looks at the length before anything is read.
    async fn fetch(&self, place: &Path, length: Length) -> object_store::Result<Found> {
        match &self.0.objects {
            Objects::Folder(folder) => {
                ask(folder, place.as_ref(), move |folder, object| {
                    folder.read(object, length)
                })
                .await
            }
            Objects::Remote(objects) => {
                let found = objects.get(place).await?;
                match length.refusal(found.meta.size) {
                    Some(why) => Ok(Found::Unusable(why)),
                    None => Ok(Found::Bytes(found.bytes().await?.into())),
                }
            }
        }
    }

    async fn write(
        &self,
        place: &Path,
        payload: PutPayload,
        mode: PutMode,
    ) -> object_store::Result<()> {
        match &self.0.objects {
            Objects::Folder(folder) => {
                let replace = mode != PutMode::Create;
                ask(folder, place.as_ref(), move |folder, object| {
                    folder.write(object, &payload, replace)
                })
                .await
            }
            Objects::Remote(objects) => objects
                .put_opts(place, payload, PutOptions::from(mode))
                .await
                .map(drop),
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

    fn attempt<T>(
        &self,
        bytes: u64,
        operation: impl AsyncFn() -> object_store::Result<T>,
    ) -> Result<T, Failure> {
        self.0.runtime.block_on(self.retry(bytes, operation))
    }

    async fn retry<T>(
        &self,
        bytes: u64,
        operation: impl AsyncFn() -> object_store::Result<T>,
    ) -> Result<T, Failure> {
        let limit = ATTEMPT_TIME + Duration::from_secs(bytes >> 20);
        let (mut attempts, mut unknown) = (0, false);
        loop {
            attempts += 1;
            let answer = tokio::time::timeout(limit, operation()).await;
            let timed_out = answer.is_err();
            let cause = match answer {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(cause)) => cause,
                Err(elapsed) => object_store::Error::Generic {
                    store: "store",
                    source: elapsed.into(),
                },
            };
            let transient = matches!(self.0.objects, Objects::Remote(_))
                && matches!(cause, object_store::Error::Generic { .. });
            unknown |= timed_out || transient;
            if !transient || attempts == ATTEMPTS {
                return Err(Failure {
                    cause,
                    attempts,
                    unknown,
                });
            }
            tokio::time::sleep(pause_after(self.0.first_pause, attempts)).await;
        }
    }

    fn failed(&self, verb: &str, path: &str, failure: Failure) -> Error {
        if failure.is_no_file() {
            let message = format!(
                "cannot {verb} `{path}` in {}: a folder has its name, or something else that of its folder",
                self.0.location
            );
            return Error::new(code::SNAPSHOT_DAMAGED, message).with_source(failure.cause);
        }
        let times = if failure.attempts == 1 {
            "once".to_owned()
        } else {
            format!("{} times", failure.attempts)
        };
        let message = format!(
            "cannot {verb} `{path}` in {}, tried {times}",
            self.0.location
        );
        Error::new(code::STORE, message).with_source(failure.cause)
    }
}

/// With jitter, so that those who failed together do not come back together.
fn pause_after(first: Duration, attempts: u32) -> Duration {
    let pause = first * 2u32.pow(attempts - 1);
    pause
        + Duration::from_millis(
            RandomState::new().hash_one(attempts) % pause.as_millis().max(1) as u64,
        )
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

#[cfg(not(feature = "s3"))]
fn remote(location: &str) -> Result<Store> {
    let message = format!(
        "this build of streamrt keeps checkpoints in folders alone, and not in `{location}`"
    );
    Err(Error::new(code::BAD_OPTION, message))
}

#[cfg(feature = "s3")]
fn remote(location: &str) -> Result<Store> {
    use object_store::ClientConfigKey;
    use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
    use object_store::prefix::PrefixStore;
    let Some(("s3", place)) = location.split_once("://") else {
        let message = format!(
            "checkpoints are kept in folders and at s3://bucket/prefix, and not in `{location}`"
        );
        return Err(Error::new(code::BAD_OPTION, message));
    };
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    let once = object_store::RetryConfig {
        max_retries: 0,
        ..Default::default()
    };
    let builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_retry(once);
    // How long an attempt may take is decided here, by its size.
    let builder = builder.with_config(AmazonS3ConfigKey::Client(ClientConfigKey::Timeout), "1 day");
    let objects = builder
        .build()
        .map_err(|cause| unusable(location).with_source(cause))?;
    let prefix = Path::parse(prefix.trim_end_matches('/'))
        .map_err(|cause| unusable(location).with_source(cause))?;
    let objects: Arc<dyn ObjectStore> = Arc::new(PrefixStore::new(objects, prefix));
    let store = Store::over(Objects::Remote(objects.clone()), location.to_owned())?;
    store.look_at_bucket(&*objects, bucket)?;
    Ok(store)
}

#[cfg(feature = "s3")]
impl Store {
    /// A bucket that is missing answers as one without the object does, so this is asked once,
    /// before anything is taken for empty.
    fn look_at_bucket(&self, objects: &dyn ObjectStore, bucket: &str) -> Result<()> {
        use object_store::Error::{NotFound, PermissionDenied, Unauthenticated};
        // The answer to a listing is not taken apart by the library; these are the codes of S3 in
        // it.
        const MISSING: [&str; 1] = ["NoSuchBucket"];
        const REFUSED: [&str; 3] = [
            "AccessDenied",
            "SignatureDoesNotMatch",
            "InvalidAccessKeyId",
        ];
        let says = |cause: &object_store::Error, codes: &[&str]| {
            let text = cause.to_string();
            codes
                .iter()
                .any(|code| text.contains(&format!("<Code>{code}</Code>")))
        };
        let first = self.attempt(0, async || objects.list(None).next().await.transpose());
        let Err(failure) = first else { return Ok(()) };
        let what = match &failure.cause {
            NotFound { .. } => format!("there is no bucket `{bucket}`"),
            cause if says(cause, &MISSING) => format!("there is no bucket `{bucket}`"),
            cause
                if matches!(cause, PermissionDenied { .. } | Unauthenticated { .. })
                    || says(cause, &REFUSED) =>
            {
                format!(
                    "the bucket `{bucket}` refuses access with these AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                )
            }
            _ => return Err(self.failed("list", "", failure)),
        };
        Err(unusable(&self.0.location)
            .at(what)
            .with_source(failure.cause))
    }
}

#[cfg(test)]
mod tests;
