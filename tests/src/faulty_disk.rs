//! Disks that fail for one process: a library of ours (`faulty_disk.c`), loaded before all others,
//! makes calls on files below a folder fail.
//!
//! It needs no rights and no file system of its own, unlike a device that fails; and what fails is
//! a call of the test's choice.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::binary::target;

/// Which calls fail. A program receives one of these.
#[derive(Debug, Clone, Copy)]
pub struct Faults {
    /// Some of `open read write sync rename`.
    pub calls: &'static str,
    /// `EIO` or `ENOSPC`.
    pub error: &'static str,
    /// The first one that fails, from 1, and how many do.
    pub from: u64,
    pub times: u64,
}

impl Faults {
    /// Makes calls of the program on files below `folder` fail. The folder needs not be there yet,
    /// those above it do.
    pub fn at(self, folder: &Path, command: &mut Command) {
        let parent = folder
            .parent()
            .expect("it is no root")
            .canonicalize()
            .expect("the folders above are there");
        let folder = parent.join(folder.file_name().expect("it has a name"));
        command
            .env("LD_PRELOAD", library())
            .env("FAULTY_FOLDER", folder)
            .env("FAULTY_CALLS", self.calls)
            .env("FAULTY_ERROR", self.error);
        command
            .env("FAULTY_FROM", self.from.to_string())
            .env("FAULTY_TIMES", self.times.to_string());
    }
}

/// Compiles the library, once in a process. Several may do so at once, so it gets its name when it
/// is whole.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let folder = target().join("faulty-disk");
        std::fs::create_dir_all(&folder).expect("the target folder can be written");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/faulty_disk.c");
        let (library, made) = (
            folder.join("libfaulty_disk.so"),
            folder.join(std::process::id().to_string()),
        );
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let mut command = Command::new(compiler);
        command
            .args(["-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o"])
            .arg(&made)
            .arg(source)
            .arg("-ldl");
        let output = command
            .output()
            .unwrap_or_else(|e| panic!("cannot start {command:?}, which cargo needs as well: {e}"));
        assert!(
            output.status.success(),
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        std::fs::rename(made, &library).expect("a new file can be renamed");
        library
    })
}
