//! The folder of a store on a local disk. Files are this user's alone (mode 0600), in folders that
//! are as well (0700).
//!
//! 1. A file is written under its name, `#` and a number, synced, and then given its name; the
//!    folder is synced after it. So a name stands for a whole file, or for none.
//! 2. What is neither a regular file nor a folder is not used, and no link is followed: somebody
//!    else may have put it there, and a pipe would wait for its other end. The way to the store's
//!    own folder may lead through links, for the user wrote it.

use crate::store::{Found, Length};
use object_store::PutPayload;
use rustix::fs::OFlags;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::ErrorKind::{AlreadyExists, NotADirectory, NotFound};
use std::io::{Error, Read, Result, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A file is checked in pieces of this size.
const PIECE_BYTES: usize = 1 << 20;

/// Never through a link, and never waiting for the other end of a pipe.
const CAREFULLY: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK);

#[derive(Debug, Clone)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(path: PathBuf) -> Folder {
        Folder(path)
    }

    /// The path of an object, whose folders below this one are folders indeed.
    fn path(&self, object: &str) -> Result<PathBuf> {
        let path = self.0.join(object);
        for folder in path
            .ancestors()
            .skip(1)
            .take_while(|folder| **folder != *self.0)
        {
            if fs::symlink_metadata(folder).is_ok_and(|found| !found.is_dir()) {
                return Err(Error::new(
                    NotADirectory,
                    format!("{} is no folder", folder.display()),
                ));
            }
        }
        Ok(path)
    }

    /// The path of a folder below this one that is a folder indeed, or not there.
    fn below(&self, folder: &str) -> Result<PathBuf> {
        let path = self.0.join(folder);
        if folder.is_empty() {
            Ok(path)
        } else {
            self.path(&crate::names::join(folder, "object"))
                .map(|_| path)
        }
    }

    pub(crate) fn read(&self, object: &str, length: Length) -> Result<Found> {
        let mut file = match OpenOptions::new()
            .read(true)
            .custom_flags(CAREFULLY.bits() as i32)
            .open(self.path(object)?)
        {
            Err(cause) if cause.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                return Ok(not_regular());
            }
            opened => opened?,
        };
        let found = file.metadata()?;
        if !found.is_file() {
            return Ok(not_regular());
        }
        if let Some(why) = length.refusal(found.len()) {
            return Ok(Found::Unusable(why));
        }
        let mut bytes = Vec::with_capacity(found.len() as usize);
        // It may grow meanwhile.
        (&mut file).take(found.len()).read_to_end(&mut bytes)?;
        Ok(Found::Bytes(bytes))
    }

    /// Length and checksum of an object.
    pub(crate) fn checksum(&self, object: &str) -> Result<(u64, String)> {
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(CAREFULLY.bits() as i32)
            .open(self.path(object)?)?;
        let (mut hasher, mut piece) = (blake3::Hasher::new(), vec![0; PIECE_BYTES]);
        loop {
            match file.read(&mut piece)? {
                0 => return Ok((hasher.count(), hasher.finalize().to_hex().to_string())),
                n => hasher.update(&piece[..n]),
            };
        }
    }

    /// Writes an object whole. With `replace`, whatever has its name goes.
    ///
    /// # Errors
    /// `AlreadyExists` if it is there and may not be replaced, or what the disk says; then nothing
    /// has its name that was not there before, unless it was the last sync that failed.
    pub(crate) fn write(&self, object: &str, bytes: &PutPayload, replace: bool) -> Result<()> {
        let path = self.path(object)?;
        let (file, staged) = self.stage(&path)?;
        let named = fill(file, bytes).and_then(|()| {
            if replace {
                fs::rename(&staged, &path)
            } else {
                fs::hard_link(&staged, &path)
            }
        });
        if named.is_err() || !replace {
            // What stays behind is removed by the next leader.
            let _ = fs::remove_file(&staged);
        }
        named.and_then(|()| sync_above(&path))
    }

    /// Makes a file under a name that nobody has, with the folders above it.
    fn stage(&self, path: &Path) -> Result<(File, PathBuf)> {
        let mut number = 1;
        loop {
            let mut staged = path.as_os_str().to_owned();
            staged.push(format!("#{number}"));
            match OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&staged)
            {
                Err(cause) if cause.kind() == AlreadyExists => number += 1,
                // It may be there no more: whoever deletes the last object of a folder deletes the
                // folder.
                Err(cause)
                    if cause.kind() == NotFound
                        && path.parent().is_some_and(|parent| !parent.exists()) =>
                {
                    path.parent().map_or(Ok(()), make)?;
                }
                opened => return Ok((opened?, staged.into())),
            }
        }
    }

    /// What an attempt left behind that was reported as failed may not be durable. Its bytes are: a
    /// file gets its name after it was synced, and one whose sync failed is removed and never read.
    /// It is the name that may be lost, and a folder can be synced once more.
    pub(crate) fn sync(&self, object: &str) -> Result<()> {
        let path = self.path(object)?;
        OpenOptions::new()
            .read(true)
            .custom_flags(CAREFULLY.bits() as i32)
            .open(&path)?
            .sync_all()?;
        sync_above(&path)
    }

    /// All objects below a folder, with their lengths; what is no file, but bears the name of one,
    /// is among them.
    pub(crate) fn list(&self, folder: &str) -> Result<Vec<(String, u64)>> {
        let mut found = Vec::new();
        list_into(&self.below(folder)?, folder, &mut found)?;
        Ok(found)
    }

    /// The names of the folders at the top.
    pub(crate) fn folders(&self) -> Result<Vec<String>> {
        let mut folders = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        folders.sort();
        Ok(folders)
    }

    /// Deletes an object, and its folder if it was the last one there.
    pub(crate) fn delete(&self, object: &str) -> Result<()> {
        let path = self.path(object)?;
        fs::remove_file(&path)?;
        // The folder stays if it is not empty.
        path.parent()
            .filter(|parent| **parent != *self.0)
            .map(|parent| fs::remove_dir(parent).ok());
        Ok(())
    }

    /// Removes files of a folder that were being written, and the folder if it is empty now.
    pub(crate) fn remove_unfinished(&self, folder: &str) -> Result<()> {
        let folder = self.below(folder)?;
        let entries = match fs::read_dir(&folder) {
            Err(cause) if cause.kind() == NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(is_staged) {
                // Its owner may have removed it meanwhile.
                fs::remove_file(entry.path()).or_else(|cause| {
                    if cause.kind() == NotFound {
                        Ok(())
                    } else {
                        Err(cause)
                    }
                })?;
            }
        }
        fs::remove_dir(&folder).ok();
        Ok(())
    }
}

fn not_regular() -> Found {
    Found::Unusable("it is no regular file".to_owned())
}

fn fill(mut file: File, bytes: &PutPayload) -> Result<()> {
    bytes.iter().try_for_each(|piece| file.write_all(piece))?;
    file.sync_all()
}

fn is_staged(name: &str) -> bool {
    let number = name.rsplit_once('#').map(|(_, number)| number);
    number.is_some_and(|number| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

fn list_into(folder: &Path, name: &str, found: &mut Vec<(String, u64)>) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(cause) if cause.kind() == NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let object = crate::names::join(name, &entry.file_name().to_string_lossy());
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => list_into(&entry.path(), &object, found)?,
            Ok(_) if is_staged(&object) => {}
            Ok(metadata) => found.push((object, metadata.len())),
            // It was deleted meanwhile.
            Err(cause) if cause.kind() == NotFound => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(())
}

/// Makes a folder, with those above it. Every new one is synced into the one above it.
pub(crate) fn make(folder: &Path) -> Result<()> {
    let folder = std::path::absolute(folder)?;
    let missing: Vec<&Path> = folder
        .ancestors()
        .take_while(|folder| !folder.exists())
        .collect();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)?;
    missing.into_iter().try_for_each(sync_above)
}

fn sync_above(path: &Path) -> Result<()> {
    path.parent()
        .map_or(Ok(()), |above| File::open(above)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn payload(bytes: &[u8]) -> PutPayload {
        PutPayload::from(bytes.to_vec())
    }

    fn unusable(folder: &Folder, object: &str, length: Length) -> String {
        match folder.read(object, length).unwrap() {
            Found::Unusable(why) => why,
            Found::Bytes(bytes) => panic!("{object} was read: {} bytes", bytes.len()),
        }
    }

    #[test]
    fn files_and_folders_are_the_users_alone() {
        let root = tempfile::tempdir().unwrap();
        make(&root.path().join("a/b")).unwrap();
        let folder = Folder::new(root.path().join("a/b"));
        folder.write("log/1", &payload(b"x"), false).unwrap();
        folder.write("manifest.json", &payload(b"y"), true).unwrap();
        let mode = |name: &str| fs::metadata(root.path().join(name)).unwrap().mode() & 0o777;
        assert_eq!(["a", "a/b", "a/b/log"].map(mode), [0o700; 3]);
        assert_eq!(["a/b/log/1", "a/b/manifest.json"].map(mode), [0o600; 2]);
    }

    #[test]
    fn a_length_that_is_another_one_is_not_read() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path().to_owned());
        // A file with a hole: as long as it likes, without a byte on the disk.
        File::create(root.path().join("huge"))
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
        assert_eq!(
            unusable(&folder, "huge", Length::Exactly(5)),
            "5 bytes were written, but 1099511627776 bytes are there"
        );
        let most = "1099511627776 bytes are there, and nothing of its kind has more than 9";
        assert_eq!(unusable(&folder, "huge", Length::AtMost(9)), most);
    }

    #[test]
    fn links_and_pipes_are_not_used() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("1"), b"of somebody").unwrap();
        let folder = Folder::new(root.path().to_owned());
        symlink(outside.path().join("1"), root.path().join("link")).unwrap();
        symlink(outside.path(), root.path().join("log")).unwrap();
        let pipe = root.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            0o600.into(),
            0,
        )
        .unwrap();
        for name in ["link", "pipe"] {
            assert_eq!(
                unusable(&folder, name, Length::AtMost(1 << 20)),
                "it is no regular file",
                "{name}"
            );
        }
        assert_eq!(
            folder.read("log/1", Length::AtMost(99)).unwrap_err().kind(),
            NotADirectory
        );
        assert_eq!(
            folder
                .write("log/2", &payload(b"x"), true)
                .unwrap_err()
                .kind(),
            NotADirectory
        );
        assert_eq!(
            folder.remove_unfinished("log").unwrap_err().kind(),
            NotADirectory
        );
        assert_eq!(folder.list("log").unwrap_err().kind(), NotADirectory);
        assert!(folder.folders().unwrap().is_empty());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
        // A name that is to be written takes the place of a link, and what it leads to stays as it
        // is.
        folder.write("link", &payload(b"ours"), true).unwrap();
        assert_eq!(fs::read(outside.path().join("1")).unwrap(), b"of somebody");
    }
}
