//! What RocksDB needs to be built in addition to a C compiler: one for C++, and libclang, which
//! reads its header. Called before every build that includes RocksDB; installs both on Debian as
//! root, otherwise says what to install.

use crate::cargo::{run, words};
use crate::say;
use anyhow::{Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const PACKAGES: [&str; 2] = ["g++", "libclang-dev"];

/// Makes sure that both are there.
///
/// # Errors
/// If one is missing and cannot be installed.
pub fn ensure() -> Result<()> {
    if is_there() {
        return Ok(());
    }
    if is_root() && Path::new("/usr/bin/apt-get").exists() && install().is_ok() && is_there() {
        return Ok(());
    }
    bail!(
        "RocksDB, which keeps state on disk, cannot be built without a C++ compiler and libclang; install them with `sudo apt-get install -y \
         --no-install-recommends {}`, or name the folder of libclang in LIBCLANG_PATH, then try again",
        PACKAGES.join(" ")
    )
}

fn is_there() -> bool {
    has_compiler() && folders().iter().any(|folder| holds_library(folder))
}

fn has_compiler() -> bool {
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let found = Command::new(compiler)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    found.is_ok_and(|status| status.success())
}

/// A list of packages that is out of date names files that are gone, so a failure is followed by an
/// update and a second try.
fn install() -> Result<()> {
    let mut command = Command::new("apt-get");
    command
        .args(["install", "-y", "--no-install-recommends"])
        .args(PACKAGES)
        .env("DEBIAN_FRONTEND", "noninteractive");
    command.stdout(std::io::stderr());
    say(&format!(
        "RocksDB needs a C++ compiler and libclang; running `{}`",
        words(&command)
    ));
    run(&mut command).or_else(|_| {
        say("running `apt-get update`, then once more");
        run(Command::new("apt-get")
            .arg("update")
            .stdout(std::io::stderr()))?;
        run(&mut command)
    })
}

/// Where the build of RocksDB looks for it.
fn folders() -> Vec<PathBuf> {
    let named = std::env::var_os("LIBCLANG_PATH").map(PathBuf::from);
    let llvm = children(Path::new("/usr/lib"))
        .into_iter()
        .filter(|path| is_named(path, "llvm"))
        .map(|path| path.join("lib"));
    let machines = children(Path::new("/usr/lib"))
        .into_iter()
        .filter(|path| is_named(path, "linux-gnu"));
    let usual = [
        "/usr/lib",
        "/usr/lib64",
        "/usr/local/lib",
        "/Library/Developer/CommandLineTools/usr/lib",
    ]
    .map(PathBuf::from);
    named
        .into_iter()
        .chain(llvm)
        .chain(machines)
        .chain(usual)
        .collect()
}

fn is_named(path: &Path, part: &str) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().contains(part))
}

/// LIBCLANG_PATH may also name the file.
fn holds_library(folder: &Path) -> bool {
    is_library(folder) || children(folder).iter().any(|path| is_library(path))
}

/// `libclang.so`, `libclang-14.so.1`, `libclang.dylib`; not `libclang-cpp.so`, which has another
/// interface.
fn is_library(path: &Path) -> bool {
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let version = name
        .strip_prefix("libclang")
        .and_then(|rest| rest.split_once(".so").or_else(|| rest.split_once(".dylib")));
    version.is_some_and(|(version, _)| {
        version
            .chars()
            .all(|c| c == '-' || c == '.' || c.is_ascii_digit())
    })
}

fn children(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default()
}

/// The owner of our entry in `/proc` is the user that we run as.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::is_library;
    use std::path::Path;

    #[test]
    fn the_library_is_known_by_its_name() {
        for (name, expected) in [
            ("libclang.so", true),
            ("libclang-14.so.1", true),
            ("libclang-14.0.6.so", true),
            ("libclang.dylib", true),
            ("libclang-cpp.so.14", false),
            ("libclangAST.a", false),
            ("libclc.so", false),
        ] {
            assert_eq!(
                is_library(&Path::new("/usr/lib").join(name)),
                expected,
                "{name}"
            );
        }
    }
}
