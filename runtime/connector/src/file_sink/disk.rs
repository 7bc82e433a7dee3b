//! The few steps on files that the sink takes, each with the path in its error.

use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use streamrt_types::{Error, Result, code};

pub fn file_error(path: &Path, what: &str, error: io::Error) -> Error {
    Error::new(code::FILE_IO, format!("{} {what}", path.display())).with_source(error)
}

/// What is at a path, if anything is.
pub fn look(path: &Path) -> Result<Option<Metadata>> {
    match path.symlink_metadata() {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(file_error(path, "cannot be looked at", e)),
    }
}

/// Removes a file, if it is there.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(file_error(path, "cannot be removed", e)),
        _ => Ok(()),
    }
}

/// Gives a file a second name. If that name is taken or the file is gone, it was done before, or
/// somebody else is doing it now, or something is wrong: what is there afterwards tells which.
pub fn link(staged: &Path, complete: &Path) -> Result<()> {
    match fs::hard_link(staged, complete) {
        Err(e) if !matches!(e.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound) => {
            Err(file_error(complete, "cannot be made a hard link", e))
        }
        _ => Ok(()),
    }
}

/// Writes the names in a folder to the disk.
pub fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|e| file_error(folder, "cannot be synced", e))
}

/// The files of a folder; none if it is not there.
pub fn list(folder: &Path) -> Result<Vec<PathBuf>> {
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
