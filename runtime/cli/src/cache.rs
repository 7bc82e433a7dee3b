//! Where the user's own things are: the cache folder, which may be removed at any time (compiled
//! plugins, the standard library for WebAssembly, state on disk, sockets of running jobs), and the
//! state folder, which holds one secret.
//!
//! Compiled code is machine code, and the secret vouches for it and for upgrades. So both lie where
//! nobody else can have put anything, also not by renaming a folder on the way; where that cannot
//! be had, there is no cache.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Error, ErrorKind, Read};
use std::path::PathBuf;
use streamrt_folders::Folder;
use streamrt_plugin::CompiledCode;

const SECRET: &str = "secret";
const SECRET_BYTES: usize = 32;

/// Known to this user alone, on this machine.
pub type Secret = [u8; SECRET_BYTES];

/// Where compiled plugins are kept.
///
/// # Errors
/// Why they cannot be.
pub fn compiled() -> io::Result<CompiledCode> {
    Ok(CompiledCode::new(
        Folder::guarded(&base(&CACHE)?, &[OURS, "compiled"])?,
        &secret()?,
    ))
}

/// Where the standard library for WebAssembly is kept.
pub fn toolchain() -> Option<PathBuf> {
    private("toolchain").ok()
}

/// Where keyed state on disk is, while its job runs.
pub fn state() -> Option<PathBuf> {
    private("state").ok()
}

/// Where the sockets of running jobs are.
pub fn jobs() -> Option<PathBuf> {
    private("jobs").ok()
}

/// The user's secret; made if there is none yet.
///
/// # Errors
/// Why there cannot be one.
pub fn secret() -> io::Result<Secret> {
    let folder = Folder::guarded(&base(&STATE)?, &[OURS])?;
    secret_in(&folder)
}

fn secret_in(folder: &Folder) -> io::Result<Secret> {
    if folder.read(SECRET, SECRET_BYTES as u64)?.is_none() {
        match folder.write_new(SECRET, &random()?) {
            // Another process was faster, or something else has that name.
            Err(cause) if cause.kind() == ErrorKind::AlreadyExists => {}
            made => made?,
        }
    }
    let found = folder.read(SECRET, SECRET_BYTES as u64)?;
    let secret = found.and_then(|bytes| bytes.try_into().ok());
    secret.ok_or_else(|| {
        Error::other(format!(
            "{} holds no secret of streamrt; remove it",
            folder.path().join(SECRET).display()
        ))
    })
}

fn random() -> io::Result<Secret> {
    let mut bytes = [0; SECRET_BYTES];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// What the environment says of a kind of files, and where they are below the home folder if it
/// says nothing.
struct Kind {
    variable: &'static str,
    in_home: &'static str,
}

const CACHE: Kind = Kind {
    variable: "XDG_CACHE_HOME",
    in_home: ".cache",
};
const STATE: Kind = Kind {
    variable: "XDG_STATE_HOME",
    in_home: ".local/state",
};

/// The folder in each of them that is ours.
const OURS: &str = "streamrt";

fn base(kind: &Kind) -> io::Result<PathBuf> {
    let found = locate(
        std::env::var_os(kind.variable),
        std::env::var_os("HOME"),
        kind.in_home,
    );
    found.ok_or_else(|| Error::other(format!("neither HOME nor {} names a folder", kind.variable)))
}

fn locate(xdg: Option<OsString>, home: Option<OsString>, in_home: &str) -> Option<PathBuf> {
    // The XDG specification: a relative path is to be ignored.
    let absolute = |path: OsString| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
    xdg.and_then(absolute)
        .or_else(|| Some(home.and_then(absolute)?.join(in_home)))
}

/// A folder of the cache that only its user can look into.
fn private(name: &str) -> io::Result<PathBuf> {
    let ours = Folder::open(&base(&CACHE)?)?.child(OURS)?;
    Ok(private_in(&ours, name)?.path().to_owned())
}

fn private_in(ours: &Folder, name: &str) -> io::Result<Folder> {
    let folder = ours.child(name)?;
    folder.check_private(folder.user()?)?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn check(xdg: Option<&str>, home: Option<&str>, expected: Option<&str>) {
        assert_eq!(
            locate(xdg.map(Into::into), home.map(Into::into), ".cache"),
            expected.map(PathBuf::from)
        );
    }

    #[test]
    fn the_folder_follows_the_environment() {
        check(Some("/c"), Some("/h"), Some("/c"));
        check(None, Some("/h"), Some("/h/.cache"));
        check(Some("relative"), Some("/h"), Some("/h/.cache"));
        check(Some(""), None, None);
        check(None, None, None);
    }

    #[test]
    fn a_secret_stays_what_it_is() {
        let base = tempfile::tempdir().unwrap();
        let folder = Folder::open(base.path()).unwrap();
        let secret = secret_in(&folder).unwrap();
        assert!(secret != [0; SECRET_BYTES] && secret_in(&folder).unwrap() == secret);
        let many: Vec<_> = (0..8)
            .map(|_| {
                let path = base.path().join("other");
                std::thread::spawn(move || secret_in(&Folder::open(&path).unwrap()).unwrap())
            })
            .map(|thread| thread.join().unwrap())
            .collect();
        assert!(
            many.iter()
                .all(|found| *found == many[0] && *found != secret),
            "all agree on one"
        );
    }

    #[test]
    fn what_is_no_secret_is_not_taken_for_one() {
        let base = tempfile::tempdir().unwrap();
        let folder = Folder::open(base.path()).unwrap();
        let path = base.path().join(SECRET);
        fs::write(&path, b"short").unwrap();
        assert!(
            secret_in(&folder)
                .unwrap_err()
                .to_string()
                .ends_with("secret holds no secret of streamrt; remove it")
        );
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert!(secret_in(&folder).is_err());
    }
}
