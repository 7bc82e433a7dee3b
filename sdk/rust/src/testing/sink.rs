//! Tests of sinks without Wasm: their calls in the order in which a host makes them, over folders
//! in memory.

use super::frame::Frame;
use crate::column::section;
use crate::error::{Error, Result};
use crate::files::{Entry, FileHost};
use crate::record::Record;
use crate::sink::{RunningSink, SinkSetup, TwoPhase, TwoPhaseSink, WriteAhead, WriteAheadSink};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use streamrt_wit::codes::{self, entry};

/// Runs a two-phase sink whose folders are empty. Its calls are those of [`TwoPhaseSink`].
///
/// ```
/// use streamrt_sdk::prelude::*;
/// use streamrt_sdk::testing;
///
/// /// One file for each transaction.
/// #[derive(Default)]
/// struct Files { folder: Folder, name: String, text: String }
///
/// impl TwoPhaseSink for Files {
///     type In = String;
///     fn open(&mut self, setup: &mut SinkSetup) {
///         self.folder = setup.folder("out");
///     }
///     fn begin(&mut self, transaction: &str) -> Result<()> {
///         (self.name, self.text) = (transaction.to_owned(), String::new());
///         Ok(())
///     }
///     fn write(&mut self, row: &String) -> Result<()> {
///         self.text += row;
///         Ok(())
///     }
///     fn pre_commit(&mut self) -> Result<Option<Vec<u8>>> {
///         self.folder.write(&format!(".{}", self.name), &self.text)?;
///         self.folder.sync(&format!(".{}", self.name))?;
///         Ok(Some(self.name.clone().into_bytes()))
///     }
///     fn commit(&mut self, committable: &[u8]) -> Result<()> {
///         let name = String::from_utf8(committable.to_vec())?;
///         if self.folder.look(&name)?.is_none() {
///             self.folder.rename(&format!(".{name}"), &name)?;
///         }
///         self.folder.sync("")
///     }
///     fn abort(&mut self) -> Result<()> {
///         self.folder.remove(&format!(".{}", self.name)).map(drop)
///     }
///     fn abort_unlisted(&mut self, prefix: &str, _: &[Vec<u8>]) -> Result<()> {
///         let open = self.folder.list("")?.into_iter().filter(|entry| entry.name.starts_with(&format!(".{prefix}")));
///         open.map(|entry| entry.name).try_for_each(|name| self.folder.remove(&name).map(drop))
///     }
/// }
///
/// let mut sink = testing::sink(Files::default());
/// sink.begin("out-1")?;
/// sink.write(&["a".to_owned(), "b".to_owned()])?;
/// let committable = sink.pre_commit()?.unwrap();
/// let mut sink = sink.after_crash(Files::default());
/// sink.commit(&committable)?;
/// sink.abort_unlisted("out-", &[])?;
/// assert_eq!(sink.files("out"), [("out-1".to_owned(), b"ab".to_vec())]);
/// # Ok::<(), streamrt_sdk::Error>(())
/// ```
pub fn sink<S: TwoPhaseSink>(sink: S) -> SinkHarness {
    SinkHarness::of(Rc::default(), |setup| Box::new(TwoPhase::open(sink, setup)))
}

/// Runs a write-ahead sink whose folders are empty; its call is [`SinkHarness::send`].
pub fn write_ahead_sink<S: WriteAheadSink>(sink: S) -> SinkHarness {
    SinkHarness::of(Rc::default(), |setup| {
        Box::new(WriteAhead::open(sink, setup))
    })
}

/// A sink that runs, and the folders that it was granted.
pub struct SinkHarness {
    sink: Box<dyn RunningSink>,
    files: Rc<MemoryFiles>,
}

impl SinkHarness {
    fn of(
        files: Rc<MemoryFiles>,
        open: impl FnOnce(&mut SinkSetup) -> Box<dyn RunningSink>,
    ) -> SinkHarness {
        SinkHarness {
            sink: open(&mut SinkSetup::over(files.clone())),
            files,
        }
    }

    /// Another sink over the same folders, as after a crash of this one.
    pub fn after_crash<S: TwoPhaseSink>(self, sink: S) -> SinkHarness {
        SinkHarness::of(self.files, |setup| Box::new(TwoPhase::open(sink, setup)))
    }

    /// # Errors
    /// The sink's own error.
    pub fn begin(&mut self, transaction: &str) -> Result<()> {
        self.sink.begin(transaction)
    }

    /// # Errors
    /// The sink's own error.
    pub fn write<T: Record>(&mut self, rows: &[T]) -> Result<()> {
        self.sink.write(&section(
            codes::section::ROWS,
            0,
            rows.len(),
            Vec::new(),
            Frame::of(rows).columns,
        ))
    }

    /// # Errors
    /// The sink's own error.
    pub fn pre_commit(&mut self) -> Result<Option<Vec<u8>>> {
        self.sink.pre_commit()
    }

    /// # Errors
    /// The sink's own error.
    pub fn commit(&mut self, committable: &[u8]) -> Result<()> {
        self.sink.commit(committable)
    }

    /// # Errors
    /// The sink's own error.
    pub fn abort(&mut self) -> Result<()> {
        self.sink.abort()
    }

    /// # Errors
    /// The sink's own error.
    pub fn abort_unlisted(&mut self, prefix: &str, keep: &[Vec<u8>]) -> Result<()> {
        self.sink.abort_unlisted(prefix, keep)
    }

    /// Has a write-ahead sink send the rows of a transaction.
    ///
    /// # Errors
    /// The sink's own error.
    pub fn send<T: Record>(&mut self, transaction: &str, rows: &[T]) -> Result<()> {
        self.begin(transaction)?;
        self.write(rows)?;
        self.pre_commit().map(drop)
    }

    /// The files that are in a granted folder, by path, with their contents.
    pub fn files(&self, grant: &str) -> Vec<(String, Vec<u8>)> {
        let files = self.files.0.borrow();
        files
            .iter()
            .filter(|((of, _), _)| of == grant)
            .filter_map(|((_, path), file)| Some((path.clone(), file.clone()?)))
            .collect()
    }
}

/// Folders in memory: files with their contents, folders without, by grant and path.
#[derive(Default)]
pub(crate) struct MemoryFiles(RefCell<BTreeMap<(String, String), Option<Vec<u8>>>>);

impl MemoryFiles {
    /// Checks a path as the host does.
    fn at(&self, grant: &str, path: &str) -> Result<(String, String)> {
        let refuse = || {
            Error::coded(
                codes::error::REFUSED,
                format!("`{path}` is no path inside the granted folder"),
            )
        };
        let wrong = |part: &str| matches!(part, "" | "." | "..");
        if path.split('/').any(wrong) {
            return Err(refuse());
        }
        let parent = path
            .rsplit_once('/')
            .map(|(parent, _)| (grant.to_owned(), parent.to_owned()));
        match parent.is_none_or(|parent| self.0.borrow().get(&parent) == Some(&None)) {
            true => Ok((grant.to_owned(), path.to_owned())),
            false => Err(missing(path)),
        }
    }

    fn change<T>(
        &self,
        grant: &str,
        path: &str,
        change: impl FnOnce(&mut Vec<u8>) -> T,
    ) -> Result<T> {
        let at = self.at(grant, path)?;
        match self
            .0
            .borrow_mut()
            .entry(at)
            .or_insert_with(|| Some(Vec::new()))
        {
            Some(bytes) => Ok(change(bytes)),
            None => Err(Error::coded(
                codes::error::REFUSED,
                format!("`{path}` is a folder"),
            )),
        }
    }
}

fn missing(path: &str) -> Error {
    Error::coded(
        codes::error::MISSING,
        format!("there is no `{path}` in the granted folder"),
    )
}

fn entry_of(path: &str, file: &Option<Vec<u8>>) -> Entry {
    let name = path.rsplit('/').next().unwrap_or_default().to_owned();
    match file {
        Some(bytes) => Entry::new(name, entry::FILE, bytes.len() as u64),
        None => Entry::new(name, entry::FOLDER, 0),
    }
}

impl FileHost for MemoryFiles {
    fn list(&self, grant: &str, path: &str) -> Result<Vec<Entry>> {
        if !path.is_empty() && !self.look(grant, path)?.is_some_and(|found| found.is_folder) {
            return Err(missing(path));
        }
        let files = self.0.borrow();
        let inside = |((of, at), file): (&(String, String), &Option<Vec<u8>>)| {
            let parent = at.rsplit_once('/').map_or("", |(parent, _)| parent);
            (of == grant && parent == path).then(|| entry_of(at, file))
        };
        Ok(files.iter().filter_map(inside).collect())
    }

    fn look(&self, grant: &str, path: &str) -> Result<Option<Entry>> {
        match self.at(grant, path) {
            Ok(at) => Ok(self.0.borrow().get(&at).map(|file| entry_of(path, file))),
            Err(missing) if missing.code() == codes::error::MISSING => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    fn read(&self, grant: &str, path: &str, offset: u64, length: u32) -> Result<Vec<u8>> {
        let at = self.at(grant, path)?;
        let files = self.0.borrow();
        let bytes = files
            .get(&at)
            .and_then(Option::as_ref)
            .ok_or_else(|| missing(path))?;
        Ok(bytes
            .iter()
            .skip(offset as usize)
            .take(length as usize)
            .copied()
            .collect())
    }

    fn write(&self, grant: &str, path: &str, bytes: &[u8]) -> Result<()> {
        self.change(grant, path, |file| bytes.clone_into(file))
    }

    fn append(&self, grant: &str, path: &str, bytes: &[u8]) -> Result<()> {
        self.change(grant, path, |file| file.extend_from_slice(bytes))
    }

    fn rename(&self, grant: &str, old: &str, new: &str) -> Result<()> {
        let (from, to) = (self.at(grant, old)?, self.at(grant, new)?);
        let mut files = self.0.borrow_mut();
        let below = |at: &(String, String)| {
            at.0 == from.0
                && at
                    .1
                    .strip_prefix(&from.1)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let moved: Vec<(String, String)> = files.keys().filter(|at| below(at)).cloned().collect();
        if moved.is_empty() {
            return Err(missing(old));
        }
        for at in moved {
            let path = format!("{}{}", to.1, &at.1[from.1.len()..]);
            let file = files.remove(&at).flatten();
            files.insert((to.0.clone(), path), file);
        }
        Ok(())
    }

    fn remove(&self, grant: &str, path: &str) -> Result<bool> {
        if self.look(grant, path)?.is_some_and(|found| found.is_folder)
            && !self.list(grant, path)?.is_empty()
        {
            return Err(Error::unavailable(format!(
                "`{path}` in the granted folder: it is not empty"
            )));
        }
        let at = self.at(grant, path)?;
        Ok(self.0.borrow_mut().remove(&at).is_some())
    }

    fn make_folder(&self, grant: &str, path: &str) -> Result<()> {
        let at = self.at(grant, path)?;
        self.0.borrow_mut().entry(at).or_insert(None);
        Ok(())
    }

    fn sync(&self, grant: &str, path: &str) -> Result<()> {
        match path.is_empty() || self.look(grant, path)?.is_some() {
            true => Ok(()),
            false => Err(missing(path)),
        }
    }
}
