//! A granted folder, as its guest may use it: everything below it, and nothing else.
//!
//! A path is walked part by part, each opened in the one before without following links, so that
//! neither a name nor a link that appears meanwhile leads out. Parts `.` and `..` are refused
//! before anything is opened. What is neither a regular file nor a folder is not opened for use: a
//! pipe would wait for its other end.

use crate::abi::{Entry, GuestError};
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, Stat, mkdirat, open, openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use streamrt_types::{Error, Result, code};
use streamrt_wit::codes::{entry, error};

/// The most bytes in a whole path.
const PATH_BYTES_MAX: usize = 1024;

/// The most bytes in one answer of `read`; a guest that wants more asks again.
const READ_BYTES_MAX: usize = 16 << 20;

/// The most entries in one answer of `list`. More would be tens of megabytes of names.
const ENTRIES_MAX: usize = 1 << 16;

/// Never follow a link, never wait for another process, never leave a descriptor to a child.
const CAREFULLY: OFlags = OFlags::NOFOLLOW
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);

/// What a guest receives as an answer.
type Answer<T> = std::result::Result<T, GuestError>;

/// An open folder of the host.
#[derive(Debug)]
pub(crate) struct Folder {
    root: OwnedFd,
    /// Its path without links, for people and for comparisons.
    place: PathBuf,
}

impl Folder {
    /// Opens a folder, which is created, with its parents, if it is not there. Its own path may
    /// lead through links: the user wrote it.
    ///
    /// # Errors
    /// `Unavailable` if it cannot be made or opened.
    pub fn open(path: &Path) -> Result<Folder> {
        let fault = |e: io::Error| {
            Error::new(
                code::FILE_IO,
                format!("{} cannot be used as a granted folder", path.display()),
            )
            .with_source(e)
        };
        std::fs::create_dir_all(path).map_err(fault)?;
        let root = open(
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|e| fault(e.into()))?;
        let place = path.canonicalize().map_err(fault)?;
        Ok(Folder { root, place })
    }

    pub fn place(&self) -> &Path {
        &self.place
    }

    pub fn list(&self, path: &str) -> Answer<Vec<Entry>> {
        let folder = self.at(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut entries = Vec::new();
        for found in Dir::read_from(&folder).map_err(at(path))? {
            let found = found.map_err(at(path))?;
            // The interface cannot express a name that is not UTF-8.
            if let Ok(name) = found.file_name().to_str()
                && !matches!(name, "." | "..")
            {
                entries.extend(look_at(&folder, name).map_err(at(path))?);
            }
            if entries.len() > ENTRIES_MAX {
                return Err(refused(
                    path,
                    &format!("has more than {ENTRIES_MAX} entries"),
                ));
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    pub fn look(&self, path: &str) -> Answer<Option<Entry>> {
        match self.parent(path) {
            Ok((folder, name)) => look_at(&folder, name).map_err(at(path)),
            Err(missing) if missing.code == error::MISSING => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    pub fn read(&self, path: &str, offset: u64, length: u32) -> Answer<Vec<u8>> {
        let file = self.file(path, OFlags::RDONLY)?;
        let left = file
            .metadata()
            .map_err(io_at(path))?
            .len()
            .saturating_sub(offset);
        let mut bytes = vec![0; left.min(u64::from(length)).min(READ_BYTES_MAX as u64) as usize];
        file.read_exact_at(&mut bytes, offset)
            .map_err(io_at(path))?;
        Ok(bytes)
    }

    pub fn write(&self, path: &str, bytes: &[u8]) -> Answer<()> {
        let mut file = self.file(path, OFlags::WRONLY | OFlags::CREATE)?;
        file.set_len(0)
            .and_then(|()| file.write_all(bytes))
            .map_err(io_at(path))
    }

    pub fn append(&self, path: &str, bytes: &[u8]) -> Answer<()> {
        self.file(path, OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND)?
            .write_all(bytes)
            .map_err(io_at(path))
    }

    pub fn rename(&self, old: &str, new: &str) -> Answer<()> {
        let ((from, name), (to, new_name)) = (self.parent(old)?, self.parent(new)?);
        renameat(&from, name, &to, new_name).map_err(at(old))
    }

    pub fn remove(&self, path: &str) -> Answer<bool> {
        let Some(found) = self.look(path)? else {
            return Ok(false);
        };
        let (folder, name) = self.parent(path)?;
        let flags = if found.kind == entry::FOLDER {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        unlinkat(&folder, name, flags)
            .map(|()| true)
            .map_err(at(path))
    }

    pub fn make_folder(&self, path: &str) -> Answer<()> {
        let (parent, name) = self.parent(path)?;
        match mkdirat(&parent, name, Mode::from_raw_mode(0o777)) {
            Err(Errno::EXIST) => self.at(path, OFlags::RDONLY | OFlags::DIRECTORY).map(drop),
            made => made.map_err(at(path)),
        }
    }

    pub fn sync(&self, path: &str) -> Answer<()> {
        let file = File::from(self.at(path, OFlags::RDONLY)?);
        let kind = file.metadata().map_err(io_at(path))?.file_type();
        if kind.is_file() || kind.is_dir() {
            file.sync_all().map_err(io_at(path))
        } else {
            Err(refused(path, "is no regular file"))
        }
    }

    /// Opens a regular file.
    fn file(&self, path: &str, flags: OFlags) -> Answer<File> {
        let file = File::from(self.at(path, flags)?);
        if file.metadata().map_err(io_at(path))?.is_file() {
            Ok(file)
        } else {
            Err(refused(path, "is no regular file"))
        }
    }

    fn at(&self, path: &str, flags: OFlags) -> Answer<OwnedFd> {
        if path.is_empty() {
            return self
                .root
                .try_clone()
                .and_then(|root| Ok(openat(&root, ".", flags | CAREFULLY, Mode::empty())?))
                .map_err(io_at(path));
        }
        let (folder, name) = self.parent(path)?;
        openat(&folder, name, flags | CAREFULLY, Mode::from_raw_mode(0o666)).map_err(at(path))
    }

    /// The folder that contains the last part of a path, and that part.
    fn parent<'a>(&self, path: &'a str) -> Answer<(OwnedFd, &'a str)> {
        let (folders, name) = split(path)?;
        let mut folder = self.root.try_clone().map_err(io_at(path))?;
        for part in folders {
            folder = openat(
                &folder,
                part,
                OFlags::RDONLY | OFlags::DIRECTORY | CAREFULLY,
                Mode::empty(),
            )
            .map_err(at(path))?;
        }
        Ok((folder, name))
    }
}

/// The parts of a path except the last one, and the last one.
fn split(path: &str) -> Answer<(Vec<&str>, &str)> {
    let mut parts: Vec<&str> = path.split('/').collect();
    let wrong = |part: &&str| part.is_empty() || matches!(*part, "." | "..") || part.contains('\0');
    match parts.pop() {
        _ if path.len() > PATH_BYTES_MAX => Err(refused(
            "a path",
            &format!("has more than {PATH_BYTES_MAX} bytes"),
        )),
        Some(name) if !wrong(&name) && !parts.iter().any(wrong) => Ok((parts, name)),
        _ => Err(refused(path, "is no path inside the granted folder")),
    }
}

/// What a name stands for; a link stands for itself.
fn look_at(folder: &OwnedFd, name: &str) -> std::result::Result<Option<Entry>, Errno> {
    let stat: Stat = match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(None),
        stat => stat?,
    };
    let (kind, size) = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => (entry::FILE, stat.st_size as u64),
        FileType::Directory => (entry::FOLDER, 0),
        _ => (entry::OTHER, 0),
    };
    Ok(Some(Entry {
        name: name.to_owned(),
        kind,
        size,
    }))
}

fn refused(path: &str, why: &str) -> GuestError {
    GuestError {
        code: error::REFUSED,
        message: format!("`{}` {why}", path.escape_debug()),
    }
}

fn at(path: &str) -> impl Fn(Errno) -> GuestError + '_ {
    move |errno| match errno {
        Errno::NOENT => GuestError {
            code: error::MISSING,
            message: format!("there is no `{path}` in the granted folder"),
        },
        Errno::LOOP | Errno::NOTDIR => refused(
            path,
            "leads through a link or something else that is no folder",
        ),
        // Nobody reads from the pipe, or there is no device.
        Errno::NXIO => refused(path, "is no regular file"),
        Errno::ISDIR => refused(path, "is a folder"),
        errno => io_at(path)(errno.into()),
    }
}

fn io_at(path: &str) -> impl Fn(io::Error) -> GuestError + '_ {
    move |e| GuestError {
        code: error::UNAVAILABLE,
        message: format!("`{path}` in the granted folder: {e}"),
    }
}

#[cfg(test)]
mod tests;
