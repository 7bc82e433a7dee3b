//! Where checkpoints lie: a folder, an object store, or memory, behind one synchronous front.
//!
//! What is written is read back before it counts, and what is read is checked before it is used, by length and blake3. A name is written
//! by one leader alone, or created conditionally; nothing is ever changed in place. On a local disk every write is synced, file and
//! folder, before it returns.
//!
//! A store that does not answer is asked again, [`ATTEMPTS`] times at most, with pauses that grow and differ. A local disk is asked once:
//! what fails there fails again, and after a failed sync nothing is known.

use crate::names::resolve;
use crate::sealed::checksum;
use futures_util::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::ErrorKind::NotFound;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use streamrt_types::{Error, Result, code};
use tokio::runtime::Runtime;

/// Of one operation on a store that may be far away.
const ATTEMPTS: u32 = 5;
/// Before the second attempt; doubled before each further one, and up to as much again is added at random.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// For one attempt, and a second more for each MiB that it moves.
const ATTEMPT_TIME: Duration = Duration::from_secs(30);
/// So many objects are read at the same time.
const READS: usize = 16;
/// Threads that wait for files; a folder is read and written through them. Without a limit there come more and more of them on a busy machine,
/// where a thread is not known to be idle before it runs again.
const THREADS_MAX: usize = 16;
/// A file is checked in pieces of this size.
const PIECE_BYTES: usize = 1 << 20;

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
        Stored { path: path.to_owned(), bytes: bytes.len() as u64, checksum: checksum(bytes) }
    }
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
    objects: Arc<dyn ObjectStore>,
    runtime: Runtime,
    /// As in [`Store::open`].
    location: String,
    /// Of a local store.
    folder: Option<PathBuf>,
    /// [`FIRST_PAUSE`]; none in tests.
    first_pause: Duration,
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
}

/// Length and checksum of a file.
fn checksum_of(path: &std::path::Path) -> std::io::Result<(u64, String)> {
    let (mut file, mut hasher) = (File::open(path)?, blake3::Hasher::new());
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok((hasher.count(), hasher.finalize().to_hex().to_string())),
            n => hasher.update(&piece[..n]),
        };
    }
}

impl Store {
    /// Opens a folder, which is made if it is missing, or the URL of an object store as in `s3://bucket/prefix`, whose access is
    /// configured by the `AWS_*` variables of the environment.
    ///
    /// # Errors
    /// `Unavailable` (S7007) if the folder cannot be used; `Invalid` (S2007) if this build does not know the URL.
    pub fn open(location: &str) -> Result<Store> {
        if location.contains("://") {
            return remote(location);
        }
        make_folder(location).map_err(|cause| unusable(location).with_source(cause))?;
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
        let folder = fs::canonicalize(location).map_err(|cause| unusable(location).with_source(cause))?;
        let objects = LocalFileSystem::new_with_prefix(&folder).map_err(|cause| unusable(location).with_source(cause))?;
        let objects = objects.with_fsync(true).with_automatic_cleanup(true);
        let place = folder.to_str().ok_or_else(|| unusable(location))?.to_owned();
        Store::over(Arc::new(objects), place, Some(folder))
    }

    /// A store that lasts as long as its clones, for tests.
    ///
    /// # Errors
    /// `Unavailable` (S7007) if the system has no resources left.
    pub fn in_memory() -> Result<Store> {
        Store::over(Arc::new(InMemory::new()), "memory".to_owned(), None)
    }

    pub(crate) fn over(objects: Arc<dyn ObjectStore>, location: String, folder: Option<PathBuf>) -> Result<Store> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(THREADS_MAX).build();
        let runtime = runtime.map_err(|cause| unusable(&location).with_source(cause))?;
        Ok(Store(Arc::new(Inner { objects, runtime, location, folder, first_pause: FIRST_PAUSE })))
    }

    /// A store for tests, which asks again without a pause.
    #[cfg(test)]
    pub(crate) fn impatient(objects: Arc<dyn ObjectStore>) -> Store {
        let mut store = Store::over(objects, "memory".to_owned(), None).expect("the system has resources for a test");
        Arc::get_mut(&mut store.0).expect("it has no clones yet").first_pause = Duration::ZERO;
        store
    }

    /// What [`Store::open`] has to be given to open it again; for a folder, its absolute path.
    pub fn location(&self) -> &str {
        &self.0.location
    }

    /// Writes an object, reads it back, and says what stands there now. A name is given once; written again, it is replaced.
    ///
    /// # Errors
    /// `Unavailable` (S7007) if the store failed, or holds other bytes than it was given.
    pub fn put(&self, path: &str, bytes: Vec<u8>) -> Result<Stored> {
        let (stored, place) = (Stored::of(path, &bytes), parse(path)?);
        let payload = PutPayload::from(bytes);
        let written = self.attempt(stored.bytes, async || self.0.objects.put(&place, payload.clone()).await);
        written.map_err(|failure| self.failed("write", path, failure))?;
        self.verify(&stored).map_err(|error| Error::new(code::STORE, "what was just written cannot be read back").with_source(error))?;
        Ok(stored)
    }

    /// As [`Store::put`], unless the object is there already and whole. One that is there may be what a `put` that failed has left.
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

    /// Checks what stands there. A file is read in pieces: a second copy of a large object would cost as much as writing it.
    fn verify(&self, stored: &Stored) -> Result<()> {
        let Some(folder) = &self.0.folder else { return self.get(stored).map(drop) };
        let path = folder.join(&stored.path);
        let found = checksum_of(&path).map_err(|e| Error::new(code::STORE, format!("{} cannot be read", path.display())).with_source(e))?;
        if found == (stored.bytes, stored.checksum.clone()) {
            return Ok(());
        }
        Err(Error::new(code::SNAPSHOT_DAMAGED, format!("{} holds other bytes than were written", path.display())))
    }

    /// Reads an object, and checks it.
    ///
    /// # Errors
    /// `Data` (S7001) if it is missing, or not what was written; `Unavailable` (S7007) if the store failed.
    pub fn get(&self, stored: &Stored) -> Result<Vec<u8>> {
        let bytes = self.read_expected(&stored.path, stored.bytes)?;
        let missing = || Error::new(code::SNAPSHOT_DAMAGED, format!("`{}` is missing in {}", stored.path, self.0.location));
        let bytes = bytes.ok_or_else(missing)?;
        let found = Stored::of(&stored.path, &bytes);
        if found == *stored {
            return Ok(bytes);
        }
        let message = format!(
            "`{}` in {} is damaged: {} bytes with checksum {} were written, but {} bytes with checksum {} are there",
            stored.path, self.0.location, stored.bytes, stored.checksum, found.bytes, found.checksum
        );
        Err(Error::new(code::SNAPSHOT_DAMAGED, message))
    }

    /// Reads an object unchecked; None if there is none.
    ///
    /// # Errors
    /// `Unavailable` (S7007) if the store failed.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        self.read_expected(path, 0)
    }

    fn read_expected(&self, path: &str, bytes: u64) -> Result<Option<Vec<u8>>> {
        let place = parse(path)?;
        match self.attempt(bytes, async || self.0.objects.get(&place).await?.bytes().await) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(failure) if failure.is_missing() => Ok(None),
            Err(failure) => Err(self.failed("read", path, failure)),
        }
    }

    /// As [`Store::read`], several at a time, in the order of `paths`.
    ///
    /// # Errors
    /// `Unavailable` (S7007) if the store failed.
    pub fn read_all(&self, paths: &[String]) -> Result<Vec<Option<Vec<u8>>>> {
        let places: Vec<Path> = paths.iter().map(|path| parse(path)).collect::<Result<_>>()?;
        let read = |place: Path| async move {
            match self.retry(0, async || self.0.objects.get(&place).await?.bytes().await).await {
                Ok(bytes) => Ok(Some(bytes.to_vec())),
                Err(failure) if failure.is_missing() => Ok(None),
                Err(failure) => Err(self.failed("read", place.as_ref(), failure)),
            }
        };
        self.0.runtime.block_on(futures_util::stream::iter(places).map(read).buffered(READS).try_collect())
    }

    /// Writes an object whole if nothing stands under its name; of several who try, one succeeds. What stands there already with the same
    /// bytes counts as created: an earlier attempt made it, whose answer was lost. Bytes that only one caller writes are therefore a must.
    ///
    /// # Errors
    /// `Unavailable` (S7007) if nobody knows whether it was written.
    pub fn create(&self, path: &str, bytes: Vec<u8>) -> Result<Creation> {
        let place = parse(path)?;
        let payload = PutPayload::from(bytes.clone());
        let options = || PutOptions::from(PutMode::Create);
        let created = self.attempt(bytes.len() as u64, async || self.0.objects.put_opts(&place, payload.clone(), options()).await);
        let Err(failure) = created else { return Ok(Creation::Created) };
        let exists = matches!(failure.cause, object_store::Error::AlreadyExists { .. });
        match self.read(path)? {
            Some(there) if there == bytes => self.sync_again(path).map(|()| Creation::Created),
            Some(there) => Ok(Creation::Exists(there)),
            None if failure.unknown || exists => {
                Err(self.failed("create", path, failure).at("it is not known whether an entry was written"))
            }
            None => Ok(Creation::Failed(self.failed("create", path, failure))),
        }
    }

    /// What an attempt left behind that was reported as failed may not be durable. Its bytes are: a file gets its name after it was synced, and
    /// one whose sync failed is removed and never read. It is the name that may be lost, and a folder can be synced once more.
    fn sync_again(&self, path: &str) -> Result<()> {
        let Some(folder) = &self.0.folder else { return Ok(()) };
        let file = folder.join(path);
        let sync = |path: &std::path::Path| File::open(path)?.sync_all();
        let synced = sync(&file).and_then(|()| file.parent().map_or(Ok(()), sync));
        synced.map_err(|cause| Error::new(code::STORE, format!("`{path}` in {} cannot be synced", self.0.location)).with_source(cause))
    }

    /// All objects below a folder, with their lengths, by path; the whole store if `folder` is empty.
    ///
    /// # Errors
    /// `Unavailable` (S7007) if the store failed: a listing is whole or an error.
    pub fn list(&self, folder: &str) -> Result<Vec<(String, u64)>> {
        let prefix = Some(folder).filter(|folder| !folder.is_empty()).map(parse).transpose()?;
        let listed = self.attempt(0, async || self.0.objects.list(prefix.as_ref()).try_collect::<Vec<_>>().await);
        let listed = listed.map_err(|failure| self.failed("list", folder, failure))?;
        let mut objects: Vec<(String, u64)> = listed.into_iter().map(|meta| (meta.location.to_string(), meta.size)).collect();
        objects.sort();
        Ok(objects)
    }

    /// The names of the folders at the top.
    ///
    /// # Errors
    /// `Unavailable` (S7007) if the store failed.
    pub fn folders(&self) -> Result<Vec<String>> {
        let listed = self.attempt(0, async || self.0.objects.list_with_delimiter(None).await);
        let listed = listed.map_err(|failure| self.failed("list", "", failure))?;
        Ok(listed.common_prefixes.iter().map(Path::to_string).collect())
    }

    /// Deletes an object; one that is missing is deleted already.
    ///
    /// # Errors
    /// `Unavailable` (S7007) if the store failed.
    pub fn delete(&self, path: &str) -> Result<()> {
        let place = parse(path)?;
        match self.attempt(0, async || self.0.objects.delete(&place).await) {
            Err(failure) if !failure.is_missing() => Err(self.failed("delete", path, failure)),
            _ => Ok(()),
        }
    }

    /// Removes what a killed process may leave in a folder of a local disk: files that were being written, and the folder if it is empty
    /// now. Only a leader may do this, before it writes: the upload of an older leader then fails.
    ///
    /// # Errors
    /// `Unavailable` (S7007) if a file cannot be deleted.
    pub(crate) fn remove_unfinished(&self, folder: &str) -> Result<()> {
        let Some(root) = &self.0.folder else { return Ok(()) };
        let removed = remove_unfinished(&root.join(folder));
        removed.map_err(|cause| Error::new(code::STORE, format!("`{folder}` in {} cannot be cleaned", self.0.location)).with_source(cause))
    }

    fn attempt<T>(&self, bytes: u64, operation: impl AsyncFn() -> object_store::Result<T>) -> Result<T, Failure> {
        self.0.runtime.block_on(self.retry(bytes, operation))
    }

    async fn retry<T>(&self, bytes: u64, operation: impl AsyncFn() -> object_store::Result<T>) -> Result<T, Failure> {
        let limit = ATTEMPT_TIME + Duration::from_secs(bytes >> 20);
        let (mut attempts, mut unknown) = (0, false);
        loop {
            attempts += 1;
            let answer = tokio::time::timeout(limit, operation()).await;
            let timed_out = answer.is_err();
            let cause = match answer {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(cause)) => cause,
                Err(elapsed) => object_store::Error::Generic { store: "store", source: elapsed.into() },
            };
            let transient = self.0.folder.is_none() && matches!(cause, object_store::Error::Generic { .. });
            unknown |= timed_out || transient;
            if !transient || attempts == ATTEMPTS {
                return Err(Failure { cause, attempts, unknown });
            }
            tokio::time::sleep(pause_after(self.0.first_pause, attempts)).await;
        }
    }

    fn failed(&self, verb: &str, path: &str, failure: Failure) -> Error {
        let times = if failure.attempts == 1 { "once".to_owned() } else { format!("{} times", failure.attempts) };
        let message = format!("cannot {verb} `{path}` in {}, tried {times}", self.0.location);
        Error::new(code::STORE, message).with_source(failure.cause)
    }
}

/// With jitter, so that those who failed together do not come back together.
fn pause_after(first: Duration, attempts: u32) -> Duration {
    let pause = first * 2u32.pow(attempts - 1);
    pause + Duration::from_millis(RandomState::new().hash_one(attempts) % pause.as_millis().max(1) as u64)
}

fn unusable(location: &str) -> Error {
    Error::new(code::STORE, format!("the checkpoint store `{location}` cannot be used"))
}

fn parse(path: &str) -> Result<Path> {
    let path = resolve("", path)?;
    Path::parse(&path).map_err(|cause| Error::new(code::SNAPSHOT_DAMAGED, format!("`{path}` is no name of an object")).with_source(cause))
}

/// Every new folder is synced into the one above it.
fn make_folder(location: &str) -> std::io::Result<()> {
    let folder = std::path::absolute(location)?;
    let missing: Vec<_> = folder.ancestors().take_while(|folder| !folder.exists()).collect();
    fs::create_dir_all(&folder)?;
    missing.iter().filter_map(|folder| folder.parent()).try_for_each(|above| File::open(above)?.sync_all())
}

/// A file is written under its name, `#` and a number, and then given its name.
fn remove_unfinished(folder: &std::path::Path) -> std::io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(cause) if cause.kind() == NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.rsplit_once('#')).map(|(_, number)| number);
        if number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())) {
            // Its owner may have removed it meanwhile.
            fs::remove_file(entry.path()).or_else(|cause| if cause.kind() == NotFound { Ok(()) } else { Err(cause) })?;
        }
    }
    // It stays if it is not empty.
    fs::remove_dir(folder).ok();
    Ok(())
}

#[cfg(not(feature = "s3"))]
fn remote(location: &str) -> Result<Store> {
    let message = format!("this build of streamrt keeps checkpoints in folders alone, and not in `{location}`");
    Err(Error::new(code::BAD_OPTION, message))
}

#[cfg(feature = "s3")]
fn remote(location: &str) -> Result<Store> {
    use object_store::ClientConfigKey;
    use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
    use object_store::prefix::PrefixStore;
    let Some(("s3", place)) = location.split_once("://") else {
        let message = format!("checkpoints are kept in folders and at s3://bucket/prefix, and not in `{location}`");
        return Err(Error::new(code::BAD_OPTION, message));
    };
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    let once = object_store::RetryConfig { max_retries: 0, ..Default::default() };
    let builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(once);
    // How long an attempt may take is decided here, by its size.
    let builder = builder.with_config(AmazonS3ConfigKey::Client(ClientConfigKey::Timeout), "1 day");
    let objects = builder.build().map_err(|cause| unusable(location).with_source(cause))?;
    let prefix = Path::parse(prefix.trim_end_matches('/')).map_err(|cause| unusable(location).with_source(cause))?;
    let store = Store::over(Arc::new(PrefixStore::new(objects, prefix)), location.to_owned(), None)?;
    store.look_at_bucket(bucket)?;
    Ok(store)
}

#[cfg(feature = "s3")]
impl Store {
    /// A bucket that is missing answers as one without the object does, so this is asked once, before anything is taken for empty.
    fn look_at_bucket(&self, bucket: &str) -> Result<()> {
        use object_store::Error::{NotFound, PermissionDenied, Unauthenticated};
        // The answer to a listing is not taken apart by the library; these are the codes of S3 in it.
        const MISSING: [&str; 1] = ["NoSuchBucket"];
        const REFUSED: [&str; 3] = ["AccessDenied", "SignatureDoesNotMatch", "InvalidAccessKeyId"];
        let says = |cause: &object_store::Error, codes: &[&str]| {
            let text = cause.to_string();
            codes.iter().any(|code| text.contains(&format!("<Code>{code}</Code>")))
        };
        let first = self.attempt(0, async || self.0.objects.list(None).next().await.transpose());
        let Err(failure) = first else { return Ok(()) };
        let what = match &failure.cause {
            NotFound { .. } => format!("there is no bucket `{bucket}`"),
            cause if says(cause, &MISSING) => format!("there is no bucket `{bucket}`"),
            cause if matches!(cause, PermissionDenied { .. } | Unauthenticated { .. }) || says(cause, &REFUSED) => {
                format!("the bucket `{bucket}` refuses access with these AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
            }
            _ => return Err(self.failed("list", "", failure)),
        };
        Err(unusable(&self.0.location).at(what).with_source(failure.cause))
    }
}

#[cfg(test)]
mod tests;
