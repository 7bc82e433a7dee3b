//! What stands between a store and whatever holds its bytes: the threads and the clock of one
//! operation, and how often it is tried.
//!
//! A store that does not answer is asked again, [`ATTEMPTS`] times at most, with pauses that grow
//! and differ. A local disk is asked once: what fails there fails again, and after a failed sync
//! nothing is known.

use super::{Store, unusable};
use crate::folder::{Folder, Found, Length};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
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

/// Threads that wait for files; a folder is read and written through them. Without a limit there
/// come more and more of them on a busy machine, where a thread is not known to be idle before it
/// runs again.
const THREADS_MAX: usize = 16;

pub(super) struct Inner {
    pub(super) objects: Objects,
    pub(super) runtime: Runtime,
    /// As in [`Store::open`].
    pub(super) location: String,
    /// [`FIRST_PAUSE`]; none in tests.
    first_pause: Duration,
}

/// Where the bytes are.
pub(super) enum Objects {
    Folder(Folder),
    Remote(Arc<dyn ObjectStore>),
}

/// Why an operation was given up.
pub(super) struct Failure {
    pub(super) cause: object_store::Error,
    attempts: u32,
    /// The store may have done it nevertheless, or may still do it.
    pub(super) unknown: bool,
}

impl Failure {
    pub(super) fn is_missing(&self) -> bool {
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
pub(super) async fn ask<T: Send + 'static>(
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

/// With jitter, so that those who failed together do not come back together.
fn pause_after(first: Duration, attempts: u32) -> Duration {
    let pause = first * 2u32.pow(attempts - 1);
    pause
        + Duration::from_millis(
            RandomState::new().hash_one(attempts) % pause.as_millis().max(1) as u64,
        )
}

impl Store {
    pub(super) fn over(objects: Objects, location: String) -> Result<Store> {
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

    /// Looks at the length before anything is read.
    pub(super) async fn fetch(&self, place: &Path, length: Length) -> object_store::Result<Found> {
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

    pub(super) async fn write(
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

    pub(super) fn attempt<T>(
        &self,
        bytes: u64,
        operation: impl AsyncFn() -> object_store::Result<T>,
    ) -> Result<T, Failure> {
        self.0.runtime.block_on(self.retry(bytes, operation))
    }

    pub(super) async fn retry<T>(
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

    pub(super) fn failed(&self, verb: &str, path: &str, failure: Failure) -> Error {
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
