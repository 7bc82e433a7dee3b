//! Object stores, which a build knows with the feature `s3` alone.

use super::Store;
#[cfg(feature = "s3")]
use super::{FailureKind, unusable};
#[cfg(feature = "s3")]
use crate::shell::Shell;
#[cfg(feature = "s3")]
use futures_util::StreamExt;
#[cfg(feature = "s3")]
use object_store::ObjectStore;
#[cfg(feature = "s3")]
use object_store::path::Path;
#[cfg(feature = "s3")]
use std::sync::Arc;
use streamrt_types::{Error, Result, code};

#[cfg(not(feature = "s3"))]
pub(super) fn remote(location: &str) -> Result<Store> {
    let message = format!(
        "this build of streamrt keeps checkpoints in folders alone, and not in `{location}`"
    );
    Err(Error::new(code::BAD_OPTION, message))
}

#[cfg(feature = "s3")]
pub(super) fn remote(location: &str) -> Result<Store> {
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
    let shell = Shell::of_objects(objects.clone())
        .map_err(|cause| unusable(location).with_source(cause))?;
    let shell = Arc::new(shell);
    let store = Store::over(shell.clone(), location);
    store.look_at_bucket(&shell, &*objects, bucket)?;
    Ok(store)
}

#[cfg(feature = "s3")]
impl Store {
    /// A bucket that is missing answers as one without the object does, so this is asked once,
    /// before anything is taken for empty.
    fn look_at_bucket(&self, shell: &Shell, objects: &dyn ObjectStore, bucket: &str) -> Result<()> {
        use object_store::Error::{PermissionDenied, Unauthenticated};
        // The answer to a listing is not taken apart by the library; these are the codes of S3 in
        // it.
        const MISSING: [&str; 1] = ["NoSuchBucket"];
        const REFUSED: [&str; 3] = [
            "AccessDenied",
            "SignatureDoesNotMatch",
            "InvalidAccessKeyId",
        ];
        let first = shell.attempt(0, async || objects.list(None).next().await.transpose());
        let Err(failure) = first else { return Ok(()) };
        let text = failure.cause.to_string();
        let says = |codes: &[&str]| {
            let mut codes = codes.iter();
            codes.any(|code| text.contains(&format!("<Code>{code}</Code>")))
        };
        let is_refused = matches!(
            failure.cause.downcast_ref(),
            Some(PermissionDenied { .. } | Unauthenticated { .. })
        );
        let what = if failure.kind == FailureKind::Missing || says(&MISSING) {
            format!("there is no bucket `{bucket}`")
        } else if is_refused || says(&REFUSED) {
            format!(
                "the bucket `{bucket}` refuses access with these AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        } else {
            return Err(self.failed("list", "", failure));
        };
        Err(unusable(&self.location).at(what).with_source(failure.cause))
    }
}
