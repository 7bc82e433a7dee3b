//! A store for tests that fails, loses answers and damages bytes when it is told to, and that asks
//! before each operation.

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::fmt;
use std::sync::Arc;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Put,
    Create,
    Get,
    List,
    Delete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Not done, and an error that may pass.
    Refused,
    /// Done, and the same error.
    Lost,
    /// Not done, and an error that stays.
    Forbidden,
    /// Done, with a flipped bit.
    Damaged,
}

type Decide = dyn Fn(Operation, &str) -> Fault + Send + Sync;

pub(crate) struct Faulty {
    inner: Arc<dyn ObjectStore>,
    decide: Arc<Decide>,
}

impl Faulty {
    /// `decide` is asked before each operation, and may block.
    pub(crate) fn new(
        inner: Arc<dyn ObjectStore>,
        decide: impl Fn(Operation, &str) -> Fault + Send + Sync + 'static,
    ) -> Faulty {
        Faulty {
            inner,
            decide: Arc::new(decide),
        }
    }

    async fn meet<T>(
        &self,
        operation: Operation,
        path: &Path,
        done: impl AsyncFnOnce(Fault) -> Result<T>,
    ) -> Result<T> {
        match (self.decide)(operation, path.as_ref()) {
            Fault::Refused => Err(unavailable()),
            Fault::Forbidden => Err(Error::PermissionDenied {
                path: path.to_string(),
                source: "planned".into(),
            }),
            Fault::Lost => done(Fault::Lost).await.and_then(|_| Err(unavailable())),
            fault => done(fault).await,
        }
    }
}

fn unavailable() -> Error {
    Error::Generic {
        store: "faulty",
        source: "503, as planned".into(),
    }
}

fn flipped(payload: PutPayload) -> PutPayload {
    let mut bytes: Vec<u8> = payload.iter().flat_map(|part| part.to_vec()).collect();
    if let Some(first) = bytes.first_mut() {
        *first ^= 1;
    }
    bytes.into()
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let operation = if options.mode == PutMode::Create {
            Operation::Create
        } else {
            Operation::Put
        };
        let put = async |fault| {
            let payload = if fault == Fault::Damaged {
                flipped(payload)
            } else {
                payload
            };
            self.inner.put_opts(path, payload, options).await
        };
        self.meet(operation, path, put).await
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(unavailable())
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.meet(Operation::Get, path, async |_| {
            self.inner.get_opts(path, options).await
        })
        .await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let (inner, decide) = (self.inner.clone(), self.decide.clone());
        let delete = move |path: Path| {
            let this = Faulty {
                inner: inner.clone(),
                decide: decide.clone(),
            };
            async move {
                let one = futures_util::stream::iter([Ok(path.clone())]).boxed();
                this.meet(Operation::Delete, &path, async |_| {
                    this.inner.delete_stream(one).try_collect::<Vec<_>>().await
                })
                .await?;
                Ok(path)
            }
        };
        paths.and_then(delete).boxed()
    }

    fn list(&self, folder: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match (self.decide)(Operation::List, folder.map_or("", |folder| folder.as_ref())) {
            Fault::None => self.inner.list(folder),
            _ => futures_util::stream::iter([Err(unavailable())]).boxed(),
        }
    }

    async fn list_with_delimiter(&self, folder: Option<&Path>) -> Result<ListResult> {
        let place = folder.cloned().unwrap_or_default();
        self.meet(Operation::List, &place, async |_| {
            self.inner.list_with_delimiter(folder).await
        })
        .await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(unavailable())
    }
}
