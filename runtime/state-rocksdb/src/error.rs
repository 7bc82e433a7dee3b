//! RocksDB's errors as ours: damaged data, a format of another version, or a disk that fails.

use rocksdb::ErrorKind;
use std::fmt::Display;
use std::path::Path;
use streamrt_types::{Code, Error, code};

/// An error of a database at work. `what` is a sentence without its end, such as `the state cannot
/// be written`.
pub fn failed(what: &str, folder: &Path, cause: rocksdb::Error) -> Error {
    let at = folder.display();
    match cause.kind() {
        ErrorKind::Corruption => Error::new(
            code::SNAPSHOT_DAMAGED,
            format!("{what}: a file of the database in {at} is damaged"),
        )
        .with_source(cause),
        ErrorKind::InvalidArgument | ErrorKind::NotSupported => {
            Error::internal(format!("{what}: the database in {at} refuses the call"))
                .with_source(cause)
        }
        _ => Error::new(code::STORE, format!("{what}: the disk of {at} fails")).with_source(cause),
    }
}

/// An error of a checkpoint that is opened. What is absent was there when it was written, so it is
/// damage and not a failing disk.
pub fn damaged(part: &Path, cause: rocksdb::Error) -> Error {
    let at = part.display();
    let text = cause.as_ref();
    if matches!(
        cause.kind(),
        ErrorKind::InvalidArgument | ErrorKind::NotSupported
    ) || text.contains("nsupported")
    {
        let sentence = format!(
            "the checkpoint of a database in {at} has a format that this version does not read"
        );
        return Error::new(code::SNAPSHOT_FOREIGN, sentence).with_source(cause);
    }
    if cause.kind() == ErrorKind::Corruption || text.contains("No such file") {
        return Error::new(
            code::SNAPSHOT_DAMAGED,
            format!("the checkpoint of a database in {at} is damaged"),
        )
        .with_source(cause);
    }
    failed("a checkpoint of a database cannot be read", part, cause)
}

/// An error of the file system.
pub fn io(what: impl Display, path: &Path, cause: std::io::Error) -> Error {
    Error::new(code::STORE, format!("{}: {what}", path.display())).with_source(cause)
}

/// The first error of a disk, to be returned again and again.
#[derive(Debug)]
pub struct Refusal {
    code: Code,
    message: String,
}

impl Refusal {
    pub fn of(error: &Error) -> Refusal {
        let cause = std::error::Error::source(error)
            .map(|cause| format!(" ({cause})"))
            .unwrap_or_default();
        Refusal {
            code: error.code(),
            message: format!("{}{cause}", error.message()),
        }
    }

    pub fn error(&self) -> Error {
        Error::new(
            self.code,
            format!(
                "the disk takes no more calls since a write failed: {}",
                self.message
            ),
        )
    }
}
