//! A run of sorted pairs that goes into the database as files: written next to it, then taken over
//! in one step.
//!
//! 1. Each pair goes to the open file; a file that is long enough is finished, and the next pair
//!    opens another one.
//! 2. All files together are handed to the database, which links them in. Either all of them are in
//!    it, or none.

use crate::error;
use rocksdb::{DB, Error, IngestExternalFileOptions, Options, SstFileWriter};
use std::fs;
use std::path::{Path, PathBuf};
use streamrt_types::Result;

/// Raw bytes of a file. Compactions make files of this size, and incremental checkpoints share
/// them.
const FILE_BYTES: usize = 64 << 20;

/// Pairs on their way into a database.
pub struct Run<'a> {
    options: &'a Options,
    folder: PathBuf,
    files: Vec<PathBuf>,
    open: Option<SstFileWriter<'a>>,
    open_bytes: usize,
}

impl<'a> Run<'a> {
    /// Files are written to `folder`, which is made, and deleted at the end.
    pub fn new(options: &'a Options, folder: PathBuf) -> Result<Run<'a>> {
        fs::create_dir(&folder).map_err(|cause| error::io("cannot be made", &folder, cause))?;
        Ok(Run {
            options,
            folder,
            files: Vec::new(),
            open: None,
            open_bytes: 0,
        })
    }

    /// Adds the next change; keys ascend.
    ///
    /// # Errors
    /// `Unavailable` if the disk fails. The run is then unusable.
    pub fn add(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        self.try_add(key, value).map_err(|cause| self.failed(cause))
    }

    fn try_add(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), Error> {
        let mut writer = match self.open.take() {
            Some(writer) => writer,
            None => self.next_file()?,
        };
        match value {
            Some(value) => writer.put(key, value)?,
            None => writer.delete(key)?,
        }
        self.open_bytes += key.len() + value.map_or(0, <[u8]>::len);
        self.open = Some(writer);
        if self.open_bytes >= FILE_BYTES {
            self.finish_file()
        } else {
            Ok(())
        }
    }

    fn next_file(&mut self) -> Result<SstFileWriter<'a>, Error> {
        let path = self.folder.join(format!("{}.sst", self.files.len()));
        let writer = SstFileWriter::create(self.options);
        writer.open(&path)?;
        self.files.push(path);
        self.open_bytes = 0;
        Ok(writer)
    }

    fn finish_file(&mut self) -> Result<(), Error> {
        self.open
            .take()
            .map_or(Ok(()), |mut writer| writer.finish())
    }

    /// Makes the database take over everything.
    ///
    /// # Errors
    /// `Unavailable` if the disk fails; then nothing of it is in the database.
    pub fn ingest(mut self, database: &DB) -> Result<()> {
        self.finish_file()
            .and_then(|()| take_over(database, &self.files))
            .map_err(|cause| self.failed(cause))?;
        remove(&self.folder)
    }

    fn failed(&self, cause: Error) -> streamrt_types::Error {
        error::failed("the state cannot be written", &self.folder, cause)
    }
}

fn take_over(database: &DB, files: &[PathBuf]) -> Result<(), Error> {
    if files.is_empty() {
        return Ok(());
    }
    let mut options = IngestExternalFileOptions::default();
    options.set_move_files(true);
    database.ingest_external_file_opts(&options, files.iter().collect())
}

/// Removes a folder and everything in it.
pub fn remove(folder: &Path) -> Result<()> {
    fs::remove_dir_all(folder).map_err(|cause| error::io("cannot be removed", folder, cause))
}
