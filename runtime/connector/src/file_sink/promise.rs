//! What a transaction promises, and how the promise is kept.
//!
//! 1. A promise lists every file of the transaction: its staged name, its own name, its length.
//! 2. To keep it, each file gets its own name, what has that name is compared with what was
//!    promised, and the staged name is removed.
//! 3. The folder is synced.
//!
//! Each step may have been done before, by this process or by one that crashed; the outcome is the
//! same.

use super::disk::{link, look, remove, sync_folder};
use crate::position;
use serde::{Deserialize, Serialize};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use streamrt_types::{Error, Result, code};

/// How the names of staged files begin and end.
pub const STAGED: (&str, &str) = (".part-", ".inprogress");

/// The files of one transaction.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promise {
    pub files: Vec<StagedFile>,
}

/// The promise that `bytes` bytes are in one of two files of the folder, under the staged name or
/// under the final one.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StagedFile {
    pub staged: String,
    pub file: String,
    pub bytes: u64,
}

impl Promise {
    /// # Errors
    /// `Data` if it is not a promise of this sink, which names only such files as it makes itself,
    /// in its own folder: what it names is moved.
    pub fn read(committable: &[u8]) -> Result<Promise> {
        let text = String::from_utf8_lossy(committable);
        let promise: Promise = position::read("sink `file`", &text)?;
        if promise.files.iter().all(StagedFile::is_ours) {
            Ok(promise)
        } else {
            Err(position::damaged("sink `file`", &text))
        }
    }

    pub fn write(&self) -> Vec<u8> {
        position::write(self).into_bytes()
    }

    /// Gives every file its own name, and removes the staged one.
    ///
    /// # Errors
    /// `Data` if one is gone; the others are visible nevertheless.
    pub fn keep(&self, folder: &Path) -> Result<()> {
        let kept = self
            .files
            .iter()
            .map(|file| file.keep(folder))
            .fold(Ok(()), Result::and);
        kept.and(sync_folder(folder))
    }
}

fn staged(file: &str) -> String {
    format!(".{file}{}", STAGED.1)
}

impl StagedFile {
    /// Two names for a file that is being begun.
    pub fn named(name: &str, extension: &str) -> StagedFile {
        let file = format!("part-{name}.{extension}");
        StagedFile {
            staged: staged(&file),
            file,
            bytes: 0,
        }
    }

    /// Whether the names are such as [`StagedFile::named`] returns.
    fn is_ours(&self) -> bool {
        self.staged == staged(&self.file)
            && self.staged.starts_with(STAGED.0)
            && !self.file.contains(['/', '\0'])
    }

    fn keep(&self, folder: &Path) -> Result<()> {
        let (staged, complete) = (folder.join(&self.staged), folder.join(&self.file));
        if self.is_kept_by(look(&staged)?.as_ref()) {
            link(&staged, &complete)?;
        }
        self.check(&staged, &complete)?;
        remove(&staged)
    }

    fn is_kept_by(&self, found: Option<&Metadata>) -> bool {
        found.is_some_and(|found| found.is_file() && found.len() == self.bytes)
    }

    /// Checks that the file has its own name, and that the staged name, if it is still there, is
    /// one of the same file.
    ///
    /// # Errors
    /// `Data` if not: then results are lost.
    fn check(&self, staged: &Path, complete: &Path) -> Result<()> {
        let (before, after) = (look(staged)?, look(complete)?);
        let is_other = |(a, b): (&Metadata, &Metadata)| (a.dev(), a.ino()) != (b.dev(), b.ino());
        let is_other = before.as_ref().zip(after.as_ref()).is_some_and(is_other);
        if self.is_kept_by(after.as_ref()) && !is_other {
            return Ok(());
        }
        let (before, after) = (describe(before.as_ref()), describe(after.as_ref()));
        let (staged, complete, other) = (
            staged.display(),
            complete.display(),
            if is_other { "is another file and " } else { "" },
        );
        let message = format!(
            "{} bytes were promised, but {staged} {before}, and {complete} {other}{after}",
            self.bytes
        );
        Err(Error::new(code::COMMIT_LOST, message))
    }
}

fn describe(found: Option<&Metadata>) -> String {
    match found {
        None => "is missing".to_owned(),
        Some(found) if found.is_file() => format!("has {} bytes", found.len()),
        Some(_) => "is no regular file".to_owned(),
    }
}
