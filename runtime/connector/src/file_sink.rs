//! The sink `file`: each transaction of a subtask becomes one file `part-<transaction>.jsonl` (or `.csv`), directly in a folder.
//!
//! 1. The file is staged as `.part-<transaction>.jsonl.inprogress`, a name that sources and shells leave out. It is made with the first
//!    row, so a transaction without rows leaves nothing.
//! 2. `pre_commit` syncs it and its name to the disk, and promises it: both names, and its length.
//! 3. `commit` gives it its own name by a hard link, which fails where a rename would overwrite, and takes the staged name away. Each
//!    step may have been done before, by this process or by one that crashed; the outcome is the same.
//! 4. Staged files that no promise names are removed by `abort_unlisted`.
//!
//! Invariants: a file with its own name is complete and is never withdrawn, and nothing that is there is overwritten. The folder is made
//! when the sink opens, so a run without results leaves an empty one. Flink's `FileSink` works alike, but renames.

use crate::encoder::{RowEncoder, RowFormat};
use crate::{options, position};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use streamrt_operator::{OperatorContext, Sink};
use streamrt_types::{Batch, Error, Result, code};

/// Options of the sink `file`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FileSinkOptions {
    /// The folder; made, with its parents, if it is not there.
    pub path: String,
    /// `json` (default) or `csv`.
    #[serde(default)]
    pub format: RowFormat,
    /// Whether a CSV file begins with a line of the column names. Default false.
    #[serde(default)]
    pub header: bool,
    /// CSV: the character between two fields. Default `,`.
    #[serde(default)]
    pub delimiter: Option<String>,
}

/// One subtask's writer.
pub struct FileSink {
    folder: PathBuf,
    encoder: RowEncoder,
    header: bool,
    /// The name of the one that is open.
    transaction: String,
    part: Option<Part>,
}

/// Bytes that gather before they are written: nobody sees them before the commit, so small batches need no system call each.
const WRITE_BYTES: usize = 256 << 10;

/// What the names of staged files begin and end with.
const STAGED: (&str, &str) = (".part-", ".inprogress");

/// The file that is open.
struct Part {
    file: File,
    text: Vec<u8>,
    staged: PathBuf,
    promise: Promise,
}

/// What `pre_commit` promises: that `bytes` bytes are in one of two files of the folder, under the staged name or under the final one.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Promise {
    staged: String,
    file: String,
    bytes: u64,
}

impl Promise {
    /// # Errors
    /// `Data` if it is no promise of this sink, which names files of its folder alone.
    fn read(committable: &[u8]) -> Result<Promise> {
        let text = String::from_utf8_lossy(committable);
        let promise: Promise = position::read("sink `file`", &text)?;
        let is_name = |name: &str| Path::new(name).file_name().is_some_and(|last| last == name);
        if is_name(&promise.staged) && is_name(&promise.file) { Ok(promise) } else { Err(position::damaged("sink `file`", &text)) }
    }

    fn is_kept_by(&self, found: Option<&Metadata>) -> bool {
        found.is_some_and(|found| found.is_file() && found.len() == self.bytes)
    }

    /// Checks that the file has its own name, and that the staged name, if it is still there, is one of the same file.
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
        let (staged, complete, other) = (staged.display(), complete.display(), if is_other { "is another file and " } else { "" });
        let message = format!("{} bytes were promised, but {staged} {before}, and {complete} {other}{after}", self.bytes);
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

impl FileSink {
    pub fn new(options: FileSinkOptions) -> Result<FileSink> {
        let is_csv = options.format == RowFormat::Csv;
        if options.path.is_empty() {
            return Err(options::refuse("file", "`path` is empty, but it must name a folder"));
        }
        if let (false, Some(name)) = (is_csv, options.header.then_some("header").or(options.delimiter.as_ref().map(|_| "delimiter"))) {
            return Err(options::refuse("file", &format!("`{name}` is for csv")));
        }
        let delimiter = options::delimiter("file", options.delimiter.as_deref().unwrap_or(","))?;
        let encoder = RowEncoder { format: options.format, delimiter };
        Ok(FileSink { folder: PathBuf::from(&options.path), encoder, header: options.header, transaction: String::new(), part: None })
    }

    fn extension(&self) -> &'static str {
        match self.encoder.format {
            RowFormat::Json => "jsonl",
            RowFormat::Csv => "csv",
        }
    }

    /// Makes the staged file. A transaction's name was never used before, so neither of its files is there.
    fn open_part(&self) -> Result<Part> {
        let file = format!("part-{}.{}", self.transaction, self.extension());
        let promise = Promise { staged: format!(".{file}{}", STAGED.1), file, bytes: 0 };
        let (staged, complete) = (self.folder.join(&promise.staged), self.folder.join(&promise.file));
        if look(&complete)?.is_some() {
            return Err(Error::new(code::FILE_IO, format!("{} is there already, and would be overwritten", complete.display())));
        }
        let file =
            OpenOptions::new().write(true).create_new(true).open(&staged).map_err(|e| file_error(&staged, "cannot be created", e))?;
        Ok(Part { file, text: Vec::new(), staged, promise })
    }

    /// Writes the names in the folder to the disk.
    fn sync_folder(&self) -> Result<()> {
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(|e| file_error(&self.folder, "cannot be synced", e))
    }
}

impl Part {
    fn write_text(&mut self) -> Result<()> {
        self.file.write_all(&self.text).map_err(|e| file_error(&self.staged, "cannot be written", e))?;
        self.promise.bytes += self.text.len() as u64;
        self.text.clear();
        Ok(())
    }
}

/// What is at a path, if anything is.
fn look(path: &Path) -> Result<Option<Metadata>> {
    match path.symlink_metadata() {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(file_error(path, "cannot be looked at", e)),
    }
}

/// Removes a file, if it is there.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(file_error(path, "cannot be removed", e)),
        _ => Ok(()),
    }
}

fn file_error(path: &Path, what: &str, error: io::Error) -> Error {
    Error::new(code::FILE_IO, format!("{} {what}", path.display())).with_source(error)
}

/// Gives a file a second name. Where that name is taken or the file is gone, it was done before, or somebody else does it just now, or
/// something is wrong: what is there afterwards says which.
fn link(staged: &Path, complete: &Path) -> Result<()> {
    match fs::hard_link(staged, complete) {
        Err(e) if !matches!(e.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound) => {
            Err(file_error(complete, "cannot be made a hard link", e))
        }
        _ => Ok(()),
    }
}

impl Sink for FileSink {
    fn open(&mut self, _context: &OperatorContext) -> Result<()> {
        fs::create_dir_all(&self.folder).map_err(|e| file_error(&self.folder, "cannot be made a folder", e))
    }

    fn begin(&mut self, transaction: &str) -> Result<()> {
        assert!(self.part.is_none(), "rows of two transactions would be in one file");
        transaction.clone_into(&mut self.transaction);
        Ok(())
    }

    fn write(&mut self, batch: &Batch) -> Result<()> {
        let first = self.part.is_none();
        if first {
            self.part = Some(self.open_part()?);
        }
        let Some(part) = &mut self.part else { return Ok(()) };
        self.encoder.encode(&batch.columns, first && self.header, &mut part.text)?;
        if part.text.len() < WRITE_BYTES { Ok(()) } else { part.write_text() }
    }

    /// The part stays open until all of it is on the disk, so that `abort` finds it after an error.
    fn pre_commit(&mut self) -> Result<Option<Vec<u8>>> {
        let Some(part) = &mut self.part else { return Ok(None) };
        part.write_text()?;
        part.file.sync_all().map_err(|e| file_error(&part.staged, "cannot be synced", e))?;
        self.sync_folder()?;
        Ok(self.part.take().map(|part| position::write(&part.promise).into_bytes()))
    }

    fn commit(&mut self, committable: &[u8]) -> Result<()> {
        let promise = Promise::read(committable)?;
        let (staged, complete) = (self.folder.join(&promise.staged), self.folder.join(&promise.file));
        if promise.is_kept_by(look(&staged)?.as_ref()) {
            link(&staged, &complete)?;
        }
        promise.check(&staged, &complete)?;
        remove(&staged)?;
        self.sync_folder()
    }

    fn abort(&mut self) -> Result<()> {
        self.part.take().map_or(Ok(()), |part| remove(&part.staged))
    }

    fn abort_unlisted(&mut self, prefix: &str, keep: &[Vec<u8>]) -> Result<()> {
        let keep = keep.iter().map(|promise| Ok(Promise::read(promise)?.staged)).collect::<Result<HashSet<String>>>()?;
        let begin = format!("{}{prefix}", STAGED.0);
        for path in list(&self.folder)? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with(&begin) && name.ends_with(STAGED.1) && !keep.contains(name) {
                remove(&path)?;
            }
        }
        Ok(())
    }
}

/// The files of a folder; none if it is not there.
fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let error = |e| file_error(folder, "cannot be listed", e);
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(error)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(error)?;
        if entry.file_type().map_err(error)?.is_file() {
            files.push(entry.path());
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests;
