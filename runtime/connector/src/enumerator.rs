//! Finds the files of the source `file` and cuts the big ones into splits.
//!
//! Files come in the order of their names, each is found once, and the first listing is complete before anything is read. A snapshot
//! holds the names that were found, so that a file is found once over restarts too. The task drives this through [`SplitEnumerator`].

use crate::file::FileOptions;
use crate::position;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use streamrt_operator::{Enumeration, Split, SplitEnumerator};
use streamrt_types::{Error, Result, code};

/// What the detail of a split holds: the lines that begin in `start..end`, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSplit {
    pub path: String,
    pub start: u64,
    pub end: u64,
}

/// Of one file: each is a row in memory and in checkpoints.
const SPLITS_MAX: u64 = 100_000;

pub struct FileEnumerator {
    options: Arc<FileOptions>,
    /// No file that has a quote is cut.
    quoted: bool,
    found: Found,
}

/// What the snapshot holds.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Found {
    /// The paths, as the listing gives them.
    files: BTreeSet<String>,
    n_splits: u32,
    /// There was a listing. Without `watch` it was the only one.
    listed: bool,
}

impl FileEnumerator {
    /// `quoted`: whether a line end may stand inside a record.
    ///
    /// # Errors
    /// `Data` if `restored` is no snapshot of such an enumerator.
    pub fn new(options: Arc<FileOptions>, quoted: bool, restored: Option<&str>) -> Result<FileEnumerator> {
        let found = restored.map(|text| position::read("source `file`", text)).transpose()?.unwrap_or_default();
        Ok(FileEnumerator { options, quoted, found })
    }

    fn splits(&mut self, name: &str) -> Result<Vec<Split>> {
        let path = Path::new(name);
        let length = regular_file_bytes(path)?;
        let bytes_max = self.options.split_bytes;
        let cut = length > bytes_max && !(self.quoted && has_quote(path)?);
        if cut && length / bytes_max > SPLITS_MAX {
            let message =
                format!("{} has {length} bytes, and `split-bytes` {bytes_max} cuts it into more than {SPLITS_MAX} splits", absolute(path));
            return Err(Error::new(code::BAD_OPTION, message));
        }
        let starts = (0..if cut { length } else { 1 }).step_by(usize::try_from(bytes_max).unwrap_or(usize::MAX));
        Ok(starts.map(|start| self.split(name, start, if cut { length.min(start + bytes_max) } else { length })).collect())
    }

    fn split(&mut self, path: &str, start: u64, end: u64) -> Split {
        let detail = FileSplit { path: path.to_owned(), start, end };
        let name = if start == 0 { path.to_owned() } else { format!("{path} from byte {start}") };
        let number = self.found.n_splits;
        self.found.n_splits += 1;
        Split { number, name: name.into(), detail: position::write(&detail) }
    }
}

impl SplitEnumerator for FileEnumerator {
    fn poll(&mut self, _parallelism: u32) -> Result<Enumeration> {
        if self.found.listed && !self.options.watch {
            return Ok(Enumeration::Finished);
        }
        self.found.listed = true;
        let paths = list(&self.options.path, self.options.watch)?;
        let mut splits = Vec::new();
        for path in paths {
            let name = path.to_str().ok_or_else(|| Error::new(code::FILE_IO, format!("the name of {} is not UTF-8", path.display())))?;
            if self.found.files.insert(name.to_owned()) {
                splits.extend(self.splits(name)?);
            }
        }
        match (splits.is_empty(), self.options.watch) {
            (true, true) => Ok(Enumeration::Idle { ms: self.options.watch_ms }),
            (true, false) => Ok(Enumeration::Finished),
            (false, _) => Ok(Enumeration::Splits(splits)),
        }
    }

    fn snapshot(&self) -> String {
        position::write(&self.found)
    }
}

/// The files that `path` means, in the order of their names: a file, the files of a folder, or what a pattern fits.
fn list(path: &str, watch: bool) -> Result<Vec<PathBuf>> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => list_folder(Path::new(path)),
        Ok(_) => Ok(vec![PathBuf::from(path)]),
        Err(_) if path.contains(['*', '?', '[']) => list_pattern(path, watch),
        Err(e) => Err(missing(Path::new(path), e)),
    }
}

fn list_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = |e| Error::new(code::FILE_IO, format!("folder {} cannot be listed", absolute(folder))).with_source(e);
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(read)? {
        let entry = entry.map_err(read)?;
        // A link to a file counts as a file; one that leads nowhere does not.
        let is_file = fs::metadata(entry.path()).is_ok_and(|metadata| metadata.is_file());
        if is_file && !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

fn list_pattern(pattern: &str, watch: bool) -> Result<Vec<PathBuf>> {
    let options = glob::MatchOptions { require_literal_leading_dot: true, require_literal_separator: true, case_sensitive: true };
    let found = glob::glob_with(pattern, options)
        .map_err(|e| Error::new(code::BAD_OPTION, format!("connector `file`: `path` is `{pattern}`, which is no pattern: {e}")))?;
    let paths: Vec<PathBuf> = found.flatten().filter(|path| path.is_file()).collect();
    if paths.is_empty() && !watch {
        return Err(Error::new(code::FILE_MISSING, format!("no file fits {}", absolute(Path::new(pattern)))));
    }
    Ok(paths)
}

fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

/// Why a path cannot be opened, with the path as it is seen from the root.
pub fn missing(path: &Path, error: io::Error) -> Error {
    let code = if error.kind() == io::ErrorKind::NotFound { code::FILE_MISSING } else { code::FILE_IO };
    let what = if error.kind() == io::ErrorKind::NotFound { "does not exist" } else { "cannot be opened" };
    Error::new(code, format!("{} {what}", absolute(path))).with_source(error)
}

fn regular_file_bytes(path: &Path) -> Result<u64> {
    let metadata = fs::metadata(path).map_err(|e| missing(path, e))?;
    if metadata.is_file() {
        return Ok(metadata.len());
    }
    Err(Error::new(code::FILE_IO, format!("{} is not a regular file", absolute(path))))
}

/// Whether a file has a quote anywhere. Only big CSV files are looked through: the price of never cutting a record in two.
fn has_quote(path: &Path) -> Result<bool> {
    let mut file = File::open(path).map_err(|e| missing(path, e))?;
    let mut bytes = vec![0; 1 << 20];
    loop {
        let n_bytes = file.read(&mut bytes).map_err(|e| missing(path, e))?;
        if n_bytes == 0 {
            return Ok(false);
        }
        if memchr::memchr(b'"', &bytes[..n_bytes]).is_some() {
            return Ok(true);
        }
    }
}
