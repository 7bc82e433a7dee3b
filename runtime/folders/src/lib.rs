//! Folders of our own on a machine that others use as well: held open, entered along no link,
//! closed to everybody else.
//!
//! A path says where something was when it was looked up; a handle stays what it is. So what is in
//! a [`Folder`] is reached from its handle, by one plain name at a time, and what is found there
//! counts only if it is a regular file or folder that belongs to the same user.
//!
//! ```
//! use streamrt_folders::Folder;
//!
//! let base = tempfile::tempdir()?;
//! let folder = Folder::open(base.path())?.child("mine")?;
//! folder.write_new("note", b"kept")?;
//! assert_eq!(folder.read("note", 100)?, Some(b"kept".to_vec()));
//! # Ok::<(), std::io::Error>(())
//! ```

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, linkat, mkdirat, open, openat, renameat,
    unlinkat,
};
use rustix::io::Errno;
use std::fs::{DirBuilder, File};
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Never follow a link, never wait for another process, never leave a descriptor to a child.
const CAREFULLY: OFlags = OFlags::NOFOLLOW
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(CAREFULLY);

/// The modes of folders that we make, and of files.
const PRIVATE_FOLDER: u32 = 0o700;
const PRIVATE_FILE: u32 = 0o600;

/// The bits by which the group, and all others, may write.
const WRITTEN_BY_OTHERS: u32 = 0o022;
/// In such a folder only its owner may rename or remove an entry.
const STICKY: u32 = 0o1000;
const PERMISSIONS: u32 = 0o7777;

const ROOT: u32 = 0;

/// Gives temporary files of one process different names.
static N_FILES: AtomicU64 = AtomicU64::new(0);

/// See the module.
#[derive(Debug)]
pub struct Folder {
    handle: OwnedFd,
    path: PathBuf,
}

fn refused(path: &Path, why: &str) -> Error {
    Error::new(
        ErrorKind::PermissionDenied,
        format!("{} {why}", path.display()),
    )
}

impl Folder {
    /// Opens a folder that the user names, whose path may lead through links; it is created, with
    /// its parents, if it is not there.
    ///
    /// # Errors
    /// The system's error.
    pub fn open(path: &Path) -> Result<Folder> {
        DirBuilder::new()
            .recursive(true)
            .mode(PRIVATE_FOLDER)
            .create(path)?;
        let path = path.canonicalize()?;
        Ok(Folder {
            handle: open(&path, FOLDER, Mode::empty())?,
            path,
        })
    }

    /// Opens a folder in which nobody but this user and root can have put anything: not by writing
    /// into it, nor by renaming what leads there. The user names `base`; below it are `names`, one
    /// in the other, which are created if they are not there.
    ///
    /// # Errors
    /// `PermissionDenied`, naming the part of the path that belongs to somebody else or may be
    /// changed by them.
    pub fn guarded(base: &Path, names: &[&str]) -> Result<Folder> {
        DirBuilder::new()
            .recursive(true)
            .mode(PRIVATE_FOLDER)
            .create(base)?;
        let base = base.canonicalize()?;
        let mut way = vec![Folder {
            handle: open("/", FOLDER, Mode::empty())?,
            path: "/".into(),
        }];
        for part in base
            .components()
            .filter(|part| matches!(part, Component::Normal(_)))
        {
            let last = way.last().ok_or(ErrorKind::NotFound)?;
            way.push(last.existing(part.as_os_str())?);
        }
        for name in names {
            let last = way.last().ok_or(ErrorKind::NotFound)?;
            way.push(last.child(name)?);
        }
        let folder = way.pop().ok_or(ErrorKind::NotFound)?;
        let user = folder.user()?;
        folder.check_private(user)?;
        way.iter().try_for_each(|part| part.check_guarded(user))?;
        Ok(folder)
    }

    /// A folder in this one, which is created, for this user only, if it is not there.
    ///
    /// # Errors
    /// The system's error, also if the name is that of a link.
    pub fn child(&self, name: &str) -> Result<Folder> {
        match self.new_child(name) {
            Err(cause) if cause.kind() == ErrorKind::AlreadyExists => self.existing(name),
            made => made,
        }
    }

    /// A folder in this one that was not there before, for this user only.
    ///
    /// # Errors
    /// `AlreadyExists`, or the system's error.
    pub fn new_child(&self, name: &str) -> Result<Folder> {
        mkdirat(&self.handle, name, Mode::from_raw_mode(PRIVATE_FOLDER))?;
        self.existing(name)
    }

    /// A folder in this one.
    ///
    /// # Errors
    /// The system's error, also if the name is that of a link.
    pub fn existing(&self, name: impl AsRef<Path>) -> Result<Folder> {
        let name = name.as_ref();
        Ok(Folder {
            handle: openat(&self.handle, name, FOLDER, Mode::empty())?,
            path: self.path.join(name),
        })
    }

    /// Its path when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The user to whom it belongs.
    ///
    /// # Errors
    /// The system's error.
    pub fn owner(&self) -> Result<u32> {
        Ok(fstat(&self.handle)?.st_uid)
    }

    /// Whether it belongs to `user`, and nobody else may look into it.
    ///
    /// # Errors
    /// `PermissionDenied` if not.
    pub fn check_private(&self, user: u32) -> Result<()> {
        let found = fstat(&self.handle)?;
        let is_private = found.st_uid == user && permissions(&found) & 0o077 == 0;
        is_private.then_some(()).ok_or_else(|| {
            refused(
                &self.path,
                "must be a folder that belongs to you alone (mode 0700)",
            )
        })
    }

    /// Whether nobody but `user` and root can rename what is in it.
    fn check_guarded(&self, user: u32) -> Result<()> {
        let found = fstat(&self.handle)?;
        if ![ROOT, user].contains(&found.st_uid) {
            return Err(refused(
                &self.path,
                "belongs to another user, who could put another folder in the place of one in it",
            ));
        }
        let permissions = permissions(&found);
        if permissions & WRITTEN_BY_OTHERS != 0 && permissions & STICKY == 0 {
            return Err(refused(
                &self.path,
                "may be written to by others, who could put another folder in the place of one in it",
            ));
        }
        Ok(())
    }

    /// The user as whom this process runs, seen on a file that it makes: the standard library has
    /// no call for it.
    ///
    /// # Errors
    /// The system's error.
    pub fn user(&self) -> Result<u32> {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        if let Ok(nameless) = openat(&self.handle, ".", flags, Mode::from_raw_mode(PRIVATE_FILE)) {
            return Ok(fstat(&nameless)?.st_uid);
        }
        // Not every file system has files without a name.
        let name = temporary_name();
        let user = self.new_file(&name)?.metadata()?.uid();
        // It does no harm if somebody else has removed it.
        let _ = self.remove(&name);
        Ok(user)
    }

    /// Creates a file that was not there before, for this user only.
    ///
    /// # Errors
    /// `AlreadyExists`, or the system's error.
    pub fn new_file(&self, name: &str) -> Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | CAREFULLY;
        Ok(openat(&self.handle, name, flags, Mode::from_raw_mode(PRIVATE_FILE))?.into())
    }

    /// Opens a regular file of the folder's owner for reading; `None` if there is none, whatever
    /// else has its name.
    ///
    /// # Errors
    /// The system's error.
    pub fn file(&self, name: &str) -> Result<Option<File>> {
        let opened = match openat(
            &self.handle,
            name,
            OFlags::RDONLY | CAREFULLY,
            Mode::empty(),
        ) {
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None),
            opened => opened?,
        };
        let (found, owner) = (fstat(&opened)?, self.owner()?);
        let is_ours = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile
            && found.st_uid == owner;
        Ok(is_ours.then(|| opened.into()))
    }

    /// The bytes of a file as opened by [`Folder::file`]; also `None` if there are more than
    /// `most`.
    ///
    /// # Errors
    /// The system's error.
    pub fn read(&self, name: &str, most: u64) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.file(name)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
        Ok(Some(bytes).filter(|bytes| bytes.len() as u64 <= most))
    }

    /// Writes a whole file, if its name is free.
    ///
    /// # Errors
    /// `AlreadyExists`, or the system's error; then nothing is left behind.
    pub fn write_new(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let staged = self.stage(&[bytes])?;
        let linked = linkat(&self.handle, &staged, &self.handle, name, AtFlags::empty());
        self.remove(&staged)?;
        Ok(linked?)
    }

    /// Writes a whole file, from pieces, replacing what has its name.
    ///
    /// # Errors
    /// The system's error; then nothing is left behind.
    pub fn write(&self, name: &str, pieces: &[&[u8]]) -> Result<()> {
        let staged = self.stage(pieces)?;
        renameat(&self.handle, &staged, &self.handle, name).map_err(|cause| {
            // What a full disk leaves is useless.
            let _ = self.remove(&staged);
            cause.into()
        })
    }

    /// A file under a name of its own, so that no half of it ever appears under another.
    fn stage(&self, pieces: &[&[u8]]) -> Result<String> {
        let name = temporary_name();
        let mut file = self.new_file(&name)?;
        match pieces.iter().try_for_each(|piece| file.write_all(piece)) {
            Ok(()) => Ok(name),
            Err(cause) => {
                let _ = self.remove(&name);
                Err(cause)
            }
        }
    }

    /// Removes a file.
    ///
    /// # Errors
    /// The system's error.
    pub fn remove(&self, name: &str) -> Result<()> {
        Ok(unlinkat(&self.handle, name, AtFlags::empty())?)
    }

    /// The names of what is in it. A name that is not UTF-8 is not one of ours, and is omitted.
    ///
    /// # Errors
    /// The system's error.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.handle)? {
            let entry = entry?;
            names.extend(
                entry
                    .file_name()
                    .to_str()
                    .ok()
                    .filter(|name| ![".", ".."].contains(name))
                    .map(str::to_owned),
            );
        }
        Ok(names)
    }

    /// Removes a folder in this one, with everything in it, along no link.
    ///
    /// # Errors
    /// The system's error; some of it may be gone then.
    pub fn remove_folder(&self, name: &str) -> Result<()> {
        remove_all(&self.existing(name)?.handle)?;
        Ok(unlinkat(&self.handle, name, AtFlags::REMOVEDIR)?)
    }
}

fn permissions(found: &Stat) -> u32 {
    found.st_mode & PERMISSIONS
}

fn temporary_name() -> String {
    format!(
        ".{}-{}",
        std::process::id(),
        N_FILES.fetch_add(1, Ordering::Relaxed)
    )
}

fn remove_all(folder: &OwnedFd) -> Result<()> {
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if [c".", c".."].contains(&name) {
            continue;
        }
        match unlinkat(folder, name, AtFlags::empty()) {
            // The second is what POSIX says of folders.
            Err(Errno::ISDIR | Errno::PERM) => {
                remove_all(&openat(folder, name, FOLDER, Mode::empty())?)?;
                unlinkat(folder, name, AtFlags::REMOVEDIR)?;
            }
            removed => removed?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn what_is_made_is_the_users_alone() {
        let base = tempfile::tempdir().unwrap();
        let folder = Folder::guarded(&base.path().join("new"), &["a", "b"]).unwrap();
        folder.write_new("key", b"1").unwrap();
        folder.write("key", &[b"2", b"3"]).unwrap();
        let path = folder.path();
        assert_eq!(path, base.path().canonicalize().unwrap().join("new/a/b"));
        assert_eq!(
            (
                mode(path),
                mode(path.parent().unwrap()),
                mode(&path.join("key"))
            ),
            (0o700, 0o700, 0o600)
        );
        assert_eq!(
            folder.write_new("key", b"4").unwrap_err().kind(),
            ErrorKind::AlreadyExists
        );
        assert_eq!(folder.read("key", 2).unwrap().unwrap(), b"23");
        assert_eq!(
            (
                folder.read("key", 1).unwrap(),
                folder.read("gone", 9).unwrap()
            ),
            (None, None)
        );
        assert_eq!(folder.names().unwrap(), ["key"], "nothing is left behind");
    }

    #[test]
    fn links_and_pipes_count_as_nothing() {
        let base = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("key"), b"of somebody").unwrap();
        let folder = Folder::open(base.path()).unwrap();
        symlink(outside.path(), base.path().join("folder")).unwrap();
        symlink(outside.path().join("key"), base.path().join("key")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            base.path().join("pipe"),
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        for name in ["key", "pipe", "folder"] {
            assert!(folder.file(name).unwrap().is_none(), "{name}");
        }
        assert!(folder.child("folder").is_err() && folder.existing("folder").is_err());
        assert!(Folder::guarded(base.path(), &["folder"]).is_err());
        folder.write("key", &[b"ours"]).unwrap();
        assert_eq!(
            fs::read(outside.path().join("key")).unwrap(),
            b"of somebody"
        );
    }

    #[test]
    fn every_part_of_the_way_is_looked_at() {
        let base = tempfile::tempdir().unwrap();
        let open = || {
            Folder::guarded(&base.path().join("a/b"), &["c"])
                .map(drop)
                .map_err(|e| e.to_string())
        };
        open().unwrap();
        let check = |part: &str, mode: u32, expected: &str| {
            let path = base.path().join(part);
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = open().unwrap_err();
            assert!(
                error.contains(&format!(
                    "{} {expected}",
                    path.canonicalize().unwrap().display()
                )),
                "{error}"
            );
            fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
            open().unwrap();
        };
        check("a", 0o777, "may be written to by others");
        check("a/b", 0o770, "may be written to by others");
        check("a/b/c", 0o750, "must be a folder that belongs to you alone");
        fs::set_permissions(base.path().join("a"), Permissions::from_mode(0o1777)).unwrap();
        open().unwrap();
    }

    #[test]
    fn a_folder_goes_with_all_that_is_in_it_and_nothing_else() {
        let base = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), b"x").unwrap();
        fs::create_dir_all(base.path().join("old/deep/deeper")).unwrap();
        fs::write(base.path().join("old/deep/file"), b"x").unwrap();
        symlink(outside.path(), base.path().join("old/deep/link")).unwrap();
        let folder = Folder::open(base.path()).unwrap();
        folder.remove_folder("old").unwrap();
        assert_eq!(
            (
                folder.names().unwrap().len(),
                fs::read_dir(outside.path()).unwrap().count()
            ),
            (0, 1)
        );
        symlink(outside.path(), base.path().join("link")).unwrap();
        assert!(folder.remove_folder("link").is_err());
        assert!(outside.path().join("kept").exists());
    }
}
