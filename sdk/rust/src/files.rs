//! Folders that a user has granted. In a component the host has them; in a test they are in memory.

use crate::error::{Error, Result};
use std::rc::Rc;
use streamrt_wit::codes;

/// A folder that the user grants, made by [`SinkSetup::folder`](crate::SinkSetup::folder); the
/// default is a placeholder until then.
///
/// Paths are relative to it, with `/` between their parts; `..` and links are refused. The empty
/// path is the folder itself. Errors of the disk are [`Error::unavailable`].
#[derive(Default)]
pub struct Folder(Option<(String, Rc<dyn FileHost>)>);

/// What a name in a folder stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Without its folder.
    pub name: String,
    /// Whether it is a regular file.
    pub is_file: bool,
    /// Whether it is a folder.
    pub is_folder: bool,
    /// Bytes of a regular file, otherwise 0.
    pub size: u64,
}

impl Entry {
    pub(crate) fn new(name: String, kind: u8, size: u64) -> Entry {
        Entry {
            name,
            is_file: kind == codes::entry::FILE,
            is_folder: kind == codes::entry::FOLDER,
            size,
        }
    }
}

/// Bytes that are requested at a time.
const PIECE_BYTES: u32 = 1 << 20;

impl Folder {
    pub(crate) fn new(grant: &str, host: Rc<dyn FileHost>) -> Folder {
        Folder(Some((grant.to_owned(), host)))
    }

    fn with<T>(&self, work: impl FnOnce(&str, &dyn FileHost) -> Result<T>) -> Result<T> {
        let (grant, host) = self
            .0
            .as_ref()
            .ok_or_else(|| Error::new("a folder is used that `open` has not asked for"))?;
        work(grant, host.as_ref())
    }

    /// The entries of a folder in the order of their names.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    pub fn list(&self, path: &str) -> Result<Vec<Entry>> {
        self.with(|grant, host| host.list(grant, path))
    }

    /// What is at a path, if anything is.
    ///
    /// # Errors
    /// If it cannot be looked at.
    pub fn look(&self, path: &str) -> Result<Option<Entry>> {
        self.with(|grant, host| host.look(grant, path))
    }

    /// The contents of a file.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    pub fn read(&self, path: &str) -> Result<Vec<u8>> {
        self.with(|grant, host| {
            let mut bytes = Vec::new();
            loop {
                let piece = host.read(grant, path, bytes.len() as u64, PIECE_BYTES)?;
                if piece.is_empty() {
                    return Ok(bytes);
                }
                bytes.extend(piece);
            }
        })
    }

    /// Gives a file these contents: creates it, or replaces what it had.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, path: &str, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.with(|grant, host| host.write(grant, path, bytes.as_ref()))
    }

    /// Appends bytes to a file, which is created if it is not there.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn append(&self, path: &str, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.with(|grant, host| host.append(grant, path, bytes.as_ref()))
    }

    /// Gives a file or folder another path, in one step; a file that is there is replaced.
    ///
    /// # Errors
    /// If it is not there, or cannot be renamed.
    pub fn rename(&self, old: &str, new: &str) -> Result<()> {
        self.with(|grant, host| host.rename(grant, old, new))
    }

    /// Removes a file or an empty folder. Returns whether it was there.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn remove(&self, path: &str) -> Result<bool> {
        self.with(|grant, host| host.remove(grant, path))
    }

    /// Creates a folder; it is not an error if it exists. Its parent must exist.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn make_folder(&self, path: &str) -> Result<()> {
        self.with(|grant, host| host.make_folder(grant, path))
    }

    /// Returns when the contents of a file, or the names in a folder, are on the disk.
    ///
    /// # Errors
    /// If it is not there, or the disk fails.
    pub fn sync(&self, path: &str) -> Result<()> {
        self.with(|grant, host| host.sync(grant, path))
    }
}

/// The WIT's interface `files`.
pub(crate) trait FileHost {
    fn list(&self, grant: &str, path: &str) -> Result<Vec<Entry>>;
    fn look(&self, grant: &str, path: &str) -> Result<Option<Entry>>;
    fn read(&self, grant: &str, path: &str, offset: u64, length: u32) -> Result<Vec<u8>>;
    fn write(&self, grant: &str, path: &str, bytes: &[u8]) -> Result<()>;
    fn append(&self, grant: &str, path: &str, bytes: &[u8]) -> Result<()>;
    fn rename(&self, grant: &str, old: &str, new: &str) -> Result<()>;
    fn remove(&self, grant: &str, path: &str) -> Result<bool>;
    fn make_folder(&self, grant: &str, path: &str) -> Result<()>;
    fn sync(&self, grant: &str, path: &str) -> Result<()>;
}

/// The imports.
#[cfg(target_family = "wasm")]
pub(crate) struct Imports;

#[cfg(target_family = "wasm")]
mod imports {
    use super::{Entry, FileHost, Imports};
    use crate::bindings::sinks::streamrt::plugin::files;
    use crate::bindings::streamrt::plugin::types::Error as WitError;
    use crate::error::{Error, Result};

    fn error(error: WitError) -> Error {
        Error::coded(error.code, error.message)
    }

    fn entry(found: files::Entry) -> Entry {
        Entry::new(found.name, found.kind, found.size)
    }

    impl FileHost for Imports {
        fn list(&self, grant: &str, path: &str) -> Result<Vec<Entry>> {
            files::list(grant, path)
                .map(|entries| entries.into_iter().map(entry).collect())
                .map_err(error)
        }
        fn look(&self, grant: &str, path: &str) -> Result<Option<Entry>> {
            files::look(grant, path)
                .map(|found| found.map(entry))
                .map_err(error)
        }
        fn read(&self, grant: &str, path: &str, offset: u64, length: u32) -> Result<Vec<u8>> {
            files::read(grant, path, offset, length).map_err(error)
        }
        fn write(&self, grant: &str, path: &str, bytes: &[u8]) -> Result<()> {
            files::write(grant, path, bytes).map_err(error)
        }
        fn append(&self, grant: &str, path: &str, bytes: &[u8]) -> Result<()> {
            files::append(grant, path, bytes).map_err(error)
        }
        fn rename(&self, grant: &str, old: &str, new: &str) -> Result<()> {
            files::rename(grant, old, new).map_err(error)
        }
        fn remove(&self, grant: &str, path: &str) -> Result<bool> {
            files::remove(grant, path).map_err(error)
        }
        fn make_folder(&self, grant: &str, path: &str) -> Result<()> {
            files::make_folder(grant, path).map_err(error)
        }
        fn sync(&self, grant: &str, path: &str) -> Result<()> {
            files::sync(grant, path).map_err(error)
        }
    }
}
