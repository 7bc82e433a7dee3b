//! Finds the files of the source `file` and cuts the big ones into splits.
//!
//! Files come in the order of their names, each is found once, and the first listing is complete
//! before anything is read. A snapshot holds the names that were found, so that a file is found
//! once across restarts too. In a watched folder a file is found when it has not changed for a
//! while; one that is longer or shorter afterwards becomes a split that only reports it. The task
//! drives this through [`SplitEnumerator`].

mod found;

use crate::file::{Compression, FileOptions};
use crate::pattern::{self, Fault};
use crate::{file_name, position};
use found::{Found, Kept};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use streamrt_operator::{Enumeration, Split, SplitEnumerator};
use streamrt_types::{Error, Result, code};

/// What the detail of a split holds: the lines that begin in `start..end`, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSplit {
    pub path: String,
    pub start: u64,
    pub end: u64,
    /// What to report instead of reading.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
}

/// The most splits of one file: each is a row in memory and in checkpoints.
const SPLITS_MAX: u64 = 100_000;

/// Nobody finds so many; a snapshot that claims more was forged.
const ALL_SPLITS_MAX: u32 = 1 << 31;

pub struct FileEnumerator {
    options: Arc<FileOptions>,
    settle_ms: u64,
    /// Files that may still change, as they were last seen and when: from this listing, and from
    /// the one before.
    waiting: BTreeMap<String, (u64, Option<SystemTime>, Instant)>,
    waited: BTreeMap<String, (u64, Option<SystemTime>, Instant)>,
    /// Files that contain a quote are not cut.
    quoted: bool,
    forget: Duration,
    found: Found,
}

impl FileEnumerator {
    /// `quoted`: whether a line end may occur inside a record.
    ///
    /// # Errors
    /// `Data` if `restored` is not a snapshot of such an enumerator.
    pub fn new(
        options: Arc<FileOptions>,
        quoted: bool,
        restored: Option<&str>,
    ) -> Result<FileEnumerator> {
        let kept: Option<Kept> = restored
            .map(|text| position::read("source `file`", text))
            .transpose()?;
        let found = kept.map_or_else(Found::default, Found::from);
        if found.n_splits > ALL_SPLITS_MAX {
            return Err(position::damaged(
                "source `file`",
                &format!("{} splits", found.n_splits),
            ));
        }
        let (settle_ms, forget) = (
            options.settle_ms()?,
            Duration::from_millis(options.forget_ms()?),
        );
        Ok(FileEnumerator {
            settle_ms,
            forget,
            options,
            waiting: BTreeMap::new(),
            waited: BTreeMap::new(),
            quoted,
            found,
        })
    }

    /// Looks at a path of the listing. Returns whether it must be looked at again soon.
    fn look(&mut self, path: &Path, splits: &mut Vec<Split>) -> Result<bool> {
        let name = file_name::to_text(path);
        let is_known = self.found.contains(&name);
        if is_known && !self.watches_lengths() {
            return Ok(false);
        }
        match fs::metadata(path) {
            Ok(metadata) if is_known => splits.extend(self.report(&name, metadata.len())),
            Ok(metadata) if self.watches_lengths() && !self.is_settled(&name, &metadata) => {
                return Ok(true);
            }
            Ok(metadata) => splits.extend(self.find(path, name, &metadata)?),
            // A watched folder may lose what was not found yet; otherwise whoever listed it a
            // moment ago misses it.
            Err(e) if e.kind() == io::ErrorKind::NotFound && (is_known || self.options.watch) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => splits.push(self.split(FileSplit {
                path: name,
                start: 0,
                end: 0,
                report: None,
            })),
            Err(e) => return Err(missing(path, e)),
        }
        Ok(false)
    }

    /// The splits of a file that was not known.
    fn find(&mut self, path: &Path, name: String, metadata: &Metadata) -> Result<Vec<Split>> {
        let splits = self.splits(path, &name, metadata);
        self.found
            .insert(&name, self.watches_lengths().then_some(metadata.len()));
        splits
    }

    /// Whether a file has not changed for `settle`: by its own time, or, since another clock may
    /// have set that, by what was seen.
    fn is_settled(&mut self, name: &str, metadata: &Metadata) -> bool {
        let (modified, settle) = (
            metadata.modified().ok(),
            Duration::from_millis(self.settle_ms),
        );
        let age = modified.and_then(|modified| modified.elapsed().ok());
        let seen = (metadata.len(), modified);
        let since = match self.waited.get(name) {
            Some((n_bytes, modified, since)) if (*n_bytes, *modified) == seen => *since,
            _ => Instant::now(),
        };
        let is_settled = age.is_some_and(|age| age >= settle) || since.elapsed() >= settle;
        if !is_settled {
            self.waiting
                .insert(name.to_owned(), (seen.0, seen.1, since));
        }
        is_settled
    }

    /// Whether a file that changes after it was found is to be reported.
    fn watches_lengths(&self) -> bool {
        self.options.watch && !self.options.follow
    }

    /// A split that reports that a file has changed, once per change.
    fn report(&mut self, name: &str, n_bytes: u64) -> Option<Split> {
        let before = self
            .found
            .insert(name, Some(n_bytes))
            .filter(|before| *before != n_bytes)?;
        let path = absolute(&file_name::to_path(name));
        let report = match n_bytes.checked_sub(before) {
            Some(more) => {
                format!(
                    "{path} has grown by {more} bytes since it was found, which are not read; `follow` reads a log that grows"
                )
            }
            None => format!(
                "{path} had {before} bytes when it was found and has {n_bytes} now, and is not read again"
            ),
        };
        Some(self.split(FileSplit {
            path: name.to_owned(),
            start: 0,
            end: 0,
            report: Some(report),
        }))
    }

    fn splits(&mut self, path: &Path, name: &str, metadata: &Metadata) -> Result<Vec<Split>> {
        if !metadata.is_file() {
            let what = "is neither a regular file nor a folder";
            return Err(Error::new(
                code::NOT_A_FILE,
                format!("{} {what}", absolute(path)),
            ));
        }
        let (length, bytes_max) = (metadata.len(), self.options.split_bytes);
        // The middle of a compressed file can only be reached from its beginning, and the end of a
        // log is not known.
        let is_whole = length <= bytes_max
            || self.options.follow
            || Compression::of(path).is_some()
            || self.quoted && has_quote(path)?;
        let split = |start, end| FileSplit {
            path: name.to_owned(),
            start,
            end,
            report: None,
        };
        if is_whole {
            return Ok(vec![self.split(split(0, length))]);
        }
        if length / bytes_max > SPLITS_MAX {
            let what = format!(
                "has {length} bytes, and `split-bytes` {bytes_max} cuts it into more than {SPLITS_MAX} splits"
            );
            return Err(Error::new(
                code::BAD_OPTION,
                format!("{} {what}", absolute(path)),
            ));
        }
        let starts = (0..length).step_by(usize::try_from(bytes_max).unwrap_or(usize::MAX));
        Ok(starts
            .map(|start| self.split(split(start, length.min(start + bytes_max))))
            .collect())
    }

    fn split(&mut self, detail: FileSplit) -> Split {
        let path = file_name::to_path(&detail.path).display().to_string();
        let name = if detail.start == 0 {
            path
        } else {
            format!("{path} from byte {}", detail.start)
        };
        let number = self.found.n_splits.into();
        self.found.n_splits += 1;
        Split {
            number,
            name: name.into(),
            detail: position::write(&detail),
        }
    }
}

impl SplitEnumerator for FileEnumerator {
    fn poll(&mut self, _parallelism: u32) -> Result<Enumeration> {
        if self.found.listed && !self.options.watch {
            return Ok(Enumeration::Finished);
        }
        self.found.listed = true;
        self.waited = std::mem::take(&mut self.waiting);
        let (mut splits, mut soon) = (Vec::new(), false);
        let paths = list(&self.options)?;
        if self.watches_lengths() {
            let names: HashSet<String> =
                paths.iter().map(|path| file_name::to_text(path)).collect();
            self.found.compare(&names, self.forget);
        }
        for path in paths {
            soon |= self.look(&path, &mut splits)?;
        }
        match (splits.is_empty(), self.options.watch) {
            (true, true) => Ok(Enumeration::Idle {
                ms: if soon {
                    self.options.watch_ms.min(self.settle_ms.max(1))
                } else {
                    self.options.watch_ms
                },
            }),
            (true, false) => Ok(Enumeration::Finished),
            (false, _) => Ok(Enumeration::Splits(splits)),
        }
    }

    fn snapshot(&self) -> String {
        position::write(&self.found.kept())
    }
}

/// The files that the options mean, in the order of their names: a file, the files of a folder, or
/// what a pattern matches.
fn list(options: &FileOptions) -> Result<Vec<PathBuf>> {
    let path = Path::new(&options.path);
    let mut paths = match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => list_folder(path)?,
        Ok(_) => return Ok(vec![path.to_owned()]),
        Err(_) if is_pattern(&options.path) => list_pattern(&options.path, options.watch)?,
        Err(e) => return Err(missing(path, e)),
    };
    let is_ignored = |path: &PathBuf| {
        options.ignore.iter().any(|end| {
            path.as_os_str()
                .as_encoded_bytes()
                .ends_with(end.as_bytes())
        })
    };
    paths.retain(|path| !is_ignored(path));
    Ok(paths)
}

/// Whether a path is one that [`list`] may return, whatever is there now. It comes from a snapshot
/// that somebody else may have written, and a job reads only what its options name.
pub fn may_list(options: &FileOptions, path: &Path) -> bool {
    let named = Path::new(&options.path);
    let is_hidden = path
        .file_name()
        .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    path == named
        || path.parent() == Some(named) && !is_hidden
        || is_pattern(&options.path) && pattern::fits(&options.path, path)
}

fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

fn list_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = |e| unlisted(folder, e);
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

fn list_pattern(path: &str, watch: bool) -> Result<Vec<PathBuf>> {
    let paths = pattern::files(path).map_err(|fault| match fault {
        Fault::NoPattern(e) => Error::new(
            code::BAD_OPTION,
            format!("connector `file`: `path` is `{path}`, which is no pattern: {e}"),
        ),
        Fault::Folder(folder, e) => unlisted(&folder, e),
    })?;
    if paths.is_empty() && !watch {
        let hint = if path.contains('[') {
            "; where a name has a `[`, the pattern has `[[]`"
        } else {
            ""
        };
        return Err(Error::new(
            code::FILE_MISSING,
            format!("no file fits {}{hint}", absolute(Path::new(path))),
        ));
    }
    Ok(paths)
}

fn unlisted(folder: &Path, error: io::Error) -> Error {
    Error::new(
        code::FILE_IO,
        format!("folder {} cannot be listed", absolute(folder)),
    )
    .with_source(error)
}

pub fn absolute(path: &Path) -> String {
    std::path::absolute(path)
        .unwrap_or_else(|_| path.to_owned())
        .display()
        .to_string()
}

/// Why a path cannot be opened, with the absolute path.
pub fn missing(path: &Path, error: io::Error) -> Error {
    let is_missing = matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    );
    let (code, what) = if is_missing {
        (code::FILE_MISSING, "does not exist")
    } else {
        (code::FILE_IO, "cannot be opened")
    };
    Error::new(code, format!("{} {what}", absolute(path))).with_source(error)
}

/// Whether a file has a quote anywhere. Only big CSV files are scanned: the price of never cutting
/// a record in two.
fn has_quote(path: &Path) -> Result<bool> {
    let opened = File::open(path);
    if opened
        .as_ref()
        .is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
    {
        // Its reader will miss it.
        return Ok(false);
    }
    has_quote_in(opened.map_err(|e| missing(path, e))?).map_err(|e| missing(path, e))
}

fn has_quote_in(mut file: File) -> io::Result<bool> {
    let mut bytes = vec![0; 1 << 20];
    loop {
        match file.read(&mut bytes)? {
            0 => return Ok(false),
            n_bytes if memchr::memchr(b'"', &bytes[..n_bytes]).is_some() => return Ok(true),
            _ => {}
        }
    }
}
