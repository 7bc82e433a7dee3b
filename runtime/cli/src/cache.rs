//! The user's cache folder: compiled plugins and the standard library for WebAssembly. It may be removed at any time.
//!
//! Compiled code is machine code, so its folder is the user's alone (mode 0700); where that cannot be had, there is no cache.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Where compiled plugins are kept; `None` without a home or a folder that we can own.
pub fn compiled() -> Option<PathBuf> {
    private(folder()?.join("compiled"))
}

/// Where the standard library for WebAssembly is kept.
pub fn toolchain() -> Option<PathBuf> {
    private(folder()?.join("toolchain"))
}

/// Where keyed state on disk is, while its job runs.
pub fn state() -> Option<PathBuf> {
    private(folder()?.join("state"))
}

/// Where the sockets of running jobs are.
pub fn jobs() -> Option<PathBuf> {
    private(folder()?.join("jobs"))
}

fn folder() -> Option<PathBuf> {
    locate(std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME"))
}

fn locate(xdg: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    // The XDG specification: a relative path is to be ignored.
    let absolute = |path: OsString| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
    let base = xdg.and_then(absolute).or_else(|| Some(home.and_then(absolute)?.join(".cache")));
    Some(base?.join("streamrt"))
}

/// Makes the folder; setting its mode also proves that it is ours, as only the owner may.
fn private(folder: PathBuf) -> Option<PathBuf> {
    let make = |path: &Path| fs::create_dir_all(path).and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o700)));
    make(&folder).ok().map(|()| folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(xdg: Option<&str>, home: Option<&str>, expected: Option<&str>) {
        assert_eq!(locate(xdg.map(Into::into), home.map(Into::into)), expected.map(PathBuf::from));
    }

    #[test]
    fn the_folder_follows_the_environment() {
        check(Some("/c"), Some("/h"), Some("/c/streamrt"));
        check(None, Some("/h"), Some("/h/.cache/streamrt"));
        check(Some("relative"), Some("/h"), Some("/h/.cache/streamrt"));
        check(Some(""), None, None);
        check(None, None, None);
    }
}
