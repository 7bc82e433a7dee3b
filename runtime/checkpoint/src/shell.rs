//! What this crate takes from the machine by itself, and nowhere else: threads, time and chance.
//!
//! [`Shell`] stands between a store and the disk or the network. A store that does not answer is asked
//! again, [`ATTEMPTS`] times at most, with pauses that grow and differ. A local disk is asked once:
//! what fails there fails again, and after a failed sync nothing is known.

use crate::Stored;
use crate::folder::Folder;
use crate::store::{Failure, FailureKind, Found, Length, Objects};
use futures_util::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::runtime::Runtime;

/// How often one operation on a store is tried, which may be far away.
const ATTEMPTS: u32 = 5;

/// Before the second attempt; doubled before each further one, and up to as much again is added at
/// random.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// For one attempt, and a second more for each MiB that it moves.
const ATTEMPT_TIME: Duration = Duration::from_secs(30);

/// How many objects are read at the same time.
const READS: usize = 16;

/// Threads that wait for files; a folder is read and written through them. Without a limit there
/// come more and more of them on a busy machine, where a thread is not known to be idle before it
/// runs again.
const THREADS_MAX: usize = 16;

/// A name that no other leader has: 32 hexadecimal digits out of the seeds that the operating
/// system gives to hash tables.
pub fn unique_token() -> String {
    let half = || RandomState::new().hash_one(std::process::id());
    format!("{:016x}{:016x}", half(), half())
}

/// Waits for the stores of all jobs of the process.
static RUNTIME: OnceLock<Runtime> = OnceLock::new();

fn runtime() -> io::Result<&'static Runtime> {
    if RUNTIME.get().is_none() {
        let made = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(THREADS_MAX)
            .thread_name("store")
            .enable_all()
            .build()?;
        // If another thread was faster, its own stays.
        let _ = RUNTIME.set(made);
    }
    let none = || io::Error::other("the runtime of the stores is gone");
    RUNTIME.get().ok_or_else(none)
}

/// A folder or an object store. It must not be used from async code.
pub(crate) struct Shell {
    place: Place,
    runtime: &'static Runtime,
    /// [`FIRST_PAUSE`]; none in tests.
    first_pause: Duration,
}

/// Where the bytes are.
enum Place {
    Folder(Folder),
    // A build without the feature keeps checkpoints in folders alone.
    #[cfg_attr(not(any(test, feature = "s3")), expect(dead_code))]
    Remote(Arc<dyn ObjectStore>),
}

impl Shell {
    /// # Errors
    /// If the system has no resources left.
    pub(crate) fn of_folder(folder: Folder) -> io::Result<Shell> {
        Shell::over(Place::Folder(folder))
    }

    /// # Errors
    /// As [`Shell::of_folder`].
    #[cfg(any(test, feature = "s3"))]
    pub(crate) fn of_objects(objects: Arc<dyn ObjectStore>) -> io::Result<Shell> {
        Shell::over(Place::Remote(objects))
    }

    fn over(place: Place) -> io::Result<Shell> {
        Ok(Shell {
            place,
            runtime: runtime()?,
            first_pause: FIRST_PAUSE,
        })
    }

    /// For tests: without pauses.
    #[cfg(test)]
    pub(crate) fn impatient(objects: Arc<dyn ObjectStore>) -> Shell {
        let shell = Shell::of_objects(objects).expect("the system has resources for a test");
        Shell {
            first_pause: Duration::ZERO,
            ..shell
        }
    }

    /// Looks at the length before anything is read.
    async fn fetch(&self, object: &str, length: Length) -> object_store::Result<Found> {
        match &self.place {
            Place::Folder(folder) => {
                ask(folder, object, move |folder, object| {
                    folder.read(object, length)
                })
                .await
            }
            Place::Remote(objects) => {
                let found = objects.get(&parsed(object)?).await?;
                match length.refusal(found.meta.size) {
                    Some(why) => Ok(Found::Unusable(why)),
                    None => Ok(Found::Bytes(found.bytes().await?.into())),
                }
            }
        }
    }

    async fn store(
        &self,
        object: &str,
        payload: PutPayload,
        replace: bool,
    ) -> object_store::Result<()> {
        match &self.place {
            Place::Folder(folder) => {
                ask(folder, object, move |folder, object| {
                    folder.write(object, &payload, replace)
                })
                .await
            }
            Place::Remote(objects) => {
                let mode = match replace {
                    true => PutMode::Overwrite,
                    false => PutMode::Create,
                };
                objects
                    .put_opts(&parsed(object)?, payload, PutOptions::from(mode))
                    .await
                    .map(drop)
            }
        }
    }

    /// `bytes` are those that one attempt moves.
    pub(crate) fn attempt<T>(
        &self,
        bytes: u64,
        operation: impl AsyncFn() -> object_store::Result<T>,
    ) -> Result<T, Failure> {
        self.runtime.block_on(self.retry(bytes, operation))
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
            let transient = matches!(self.place, Place::Remote(_))
                && matches!(cause, object_store::Error::Generic { .. });
            unknown |= timed_out || transient;
            if !transient || attempts == ATTEMPTS {
                return Err(Failure {
                    kind: kind_of(&cause),
                    cause: cause.into(),
                    attempts,
                    unknown,
                });
            }
            tokio::time::sleep(pause_after(self.first_pause, attempts)).await;
        }
    }

    /// The folder, if that is what it is: some of what it does needs no thread that waits.
    fn folder(&self) -> Option<&Folder> {
        match &self.place {
            Place::Folder(folder) => Some(folder),
            Place::Remote(_) => None,
        }
    }
}

impl Objects for Shell {
    fn read(&self, object: &str, length: Length) -> Result<Found, Failure> {
        let bytes = match length {
            Length::Exactly(bytes) => bytes,
            Length::AtMost(_) => 0,
        };
        self.attempt(bytes, async || self.fetch(object, length).await)
    }

    fn read_all(&self, objects: &[String], length: Length) -> Vec<Result<Found, Failure>> {
        let read = |object: &String| {
            let object = object.clone();
            async move {
                self.retry(0, async || self.fetch(&object, length).await)
                    .await
            }
        };
        let reads: Vec<_> = objects.iter().map(read).collect();
        self.runtime
            .block_on(futures_util::stream::iter(reads).buffered(READS).collect())
    }

    fn write(&self, object: &str, bytes: Vec<u8>, replace: bool) -> Result<(), Failure> {
        let (n_bytes, payload) = (bytes.len() as u64, PutPayload::from(bytes));
        self.attempt(n_bytes, async || {
            self.store(object, payload.clone(), replace).await
        })
    }

    fn list(&self, folder: &str) -> Result<Vec<(String, u64)>, Failure> {
        self.attempt(0, async || match &self.place {
            Place::Folder(root) => ask(root, folder, |root, folder| root.list(folder)).await,
            Place::Remote(objects) => {
                let prefix = Some(folder).filter(|folder| !folder.is_empty());
                objects
                    .list(prefix.map(parsed).transpose()?.as_ref())
                    .map_ok(|meta| (meta.location.to_string(), meta.size))
                    .try_collect()
                    .await
            }
        })
    }

    fn folders(&self) -> Result<Vec<String>, Failure> {
        self.attempt(0, async || match &self.place {
            Place::Folder(root) => ask(root, "", |root, _| root.folders()).await,
            Place::Remote(objects) => Ok(objects
                .list_with_delimiter(None)
                .await?
                .common_prefixes
                .iter()
                .map(Path::to_string)
                .collect()),
        })
    }

    fn delete(&self, object: &str) -> Result<(), Failure> {
        self.attempt(0, async || match &self.place {
            Place::Folder(folder) => ask(folder, object, Folder::delete).await,
            Place::Remote(objects) => objects.delete(&parsed(object)?).await,
        })
    }

    fn examine(&self, object: &str) -> Option<io::Result<Stored>> {
        let found = self.folder()?.checksum(object);
        Some(found.map(|(bytes, checksum)| Stored {
            path: object.to_owned(),
            bytes,
            checksum,
        }))
    }

    fn sync(&self, object: &str) -> io::Result<()> {
        self.folder().map_or(Ok(()), |folder| folder.sync(object))
    }

    fn remove_unfinished(&self, folder: &str) -> io::Result<()> {
        self.folder()
            .map_or(Ok(()), |root| root.remove_unfinished(folder))
    }
}

fn parsed(object: &str) -> object_store::Result<Path> {
    Path::parse(object).map_err(|source| object_store::Error::InvalidPath { source })
}

/// Asks a folder on a thread that may wait for the disk. `object` is for the error.
async fn ask<T: Send + 'static>(
    folder: &Folder,
    object: &str,
    question: impl FnOnce(&Folder, &str) -> io::Result<T> + Send + 'static,
) -> object_store::Result<T> {
    let (folder, object) = (folder.clone(), object.to_owned());
    let answer = tokio::task::spawn_blocking(move || {
        question(&folder, &object).map_err(|cause| failure_of(&object, cause))
    });
    answer
        .await
        .unwrap_or_else(|source| Err(object_store::Error::JoinError { source }))
}

/// What a folder says in the terms of an object store.
fn failure_of(object: &str, cause: io::Error) -> object_store::Error {
    let path = object.to_owned();
    match cause.kind() {
        io::ErrorKind::NotFound => object_store::Error::NotFound {
            path,
            source: cause.into(),
        },
        io::ErrorKind::AlreadyExists => object_store::Error::AlreadyExists {
            path,
            source: cause.into(),
        },
        io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory => {
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

fn kind_of(cause: &object_store::Error) -> FailureKind {
    match cause {
        object_store::Error::NotFound { .. } => FailureKind::Missing,
        object_store::Error::AlreadyExists { .. } => FailureKind::Exists,
        object_store::Error::NotSupported { .. } => FailureKind::NoFile,
        _ => FailureKind::Other,
    }
}

/// With jitter, so that those who failed together do not come back together.
fn pause_after(first: Duration, attempts: u32) -> Duration {
    let pause = first * 2u32.pow(attempts - 1);
    let jitter = RandomState::new().hash_one(attempts) % pause.as_millis().max(1) as u64;
    pause + Duration::from_millis(jitter)
}
