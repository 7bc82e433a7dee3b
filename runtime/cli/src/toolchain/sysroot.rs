//! Debian's compiler without a standard library for WebAssembly: the library is built once from the
//! source package, into the cache.
//!
//! 1. Compile an empty crate with `-Zbuild-std`, which compiles the library beside it.
//! 2. Copy the library's `.rlib` files into a folder of the shape of a sysroot.
//! 3. Give the folder its name by a rename, so that half a library is never found.

use super::{TARGET, Toolchain};
use crate::{process, report};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use streamrt_types::{Error, Result, code};

const RUSTC: &str = "/usr/bin/rustc";

/// The empty crate's name, by which its own `.rlib` is told from those of the library.
const SEED: &str = "streamrt_seed";

/// Debian's compiler with all that the library needs.
pub struct DebianCompiler {
    /// Where the library is, or will be.
    sysroot: PathBuf,
    linker: PathBuf,
}

impl DebianCompiler {
    /// Looks for the compiler, the source of its library, and a linker for crates in `dir`.
    pub fn find(dir: &Path, cache: Option<PathBuf>) -> Option<DebianCompiler> {
        let version = process::ask(Command::new(RUSTC).arg("-vV"))?;
        let release = version
            .lines()
            .find_map(|line| line.strip_prefix("release: "))?;
        let own = process::ask(Command::new(RUSTC).args(["--print", "sysroot"]))?;
        let source = Path::new(&own).join("lib/rustlib/src/rust/library/std");
        if !is_new_enough(release) || !source.exists() {
            return None;
        }
        Some(DebianCompiler {
            sysroot: cache?.join(format!("sysroot-{release}")),
            linker: find_linker(dir)?,
        })
    }

    pub fn is_ready(&self) -> bool {
        self.sysroot.exists()
    }

    pub fn toolchain(&self) -> Toolchain {
        let flag = |name: &str, path: &Path| {
            let mut flag = std::ffi::OsString::from(name);
            flag.push(path);
            flag
        };
        let rustflags = vec![
            flag("--sysroot=", &self.sysroot),
            flag("-Clinker=", &self.linker),
        ];
        Toolchain {
            rustc: Some(RUSTC.into()),
            rustflags,
        }
    }

    /// Builds the library.
    ///
    /// # Errors
    /// `Unavailable` if cargo fails or the cache cannot be written.
    pub fn build(&self) -> Result<()> {
        report::status(&format!(
            "building the standard library for {TARGET} with {RUSTC}; this is done once, and takes about a minute"
        ));
        let work = self
            .sysroot
            .with_extension(format!("{}.work", std::process::id()));
        let built = self
            .compile(&work)
            .and_then(|()| self.collect(&work).map_err(|e| unwritable(&work, e)));
        // Best effort: what is left behind costs room, and no correctness.
        let _ = fs::remove_dir_all(&work);
        built
    }

    fn compile(&self, work: &Path) -> Result<()> {
        write_seed(work).map_err(|e| unwritable(work, e))?;
        let mut cargo = process::cargo();
        cargo.current_dir(work).args([
            "build",
            "--release",
            "-Zbuild-std=std,panic_abort",
            "--target",
            TARGET,
            "--target-dir",
        ]);
        // The code inside the objects alone would rule out link-time optimisation of guests; cargo
        // leaves the bitcode out by default.
        cargo
            .arg(work.join("target"))
            .env("CARGO_ENCODED_RUSTFLAGS", "-Cembed-bitcode=yes")
            .env_remove("RUSTFLAGS");
        cargo.env("RUSTC", RUSTC).env("RUSTC_BOOTSTRAP", "1");
        match process::run(&mut cargo)? {
            true => Ok(()),
            false => Err(Error::new(
                code::TOOLCHAIN,
                format!(
                    "the standard library could not be built; `{}` failed in {}",
                    process::words(&cargo),
                    work.display()
                ),
            )),
        }
    }

    fn collect(&self, work: &Path) -> io::Result<()> {
        let finished = work.join("sysroot");
        let to = finished.join("lib/rustlib").join(TARGET).join("lib");
        fs::create_dir_all(&to)?;
        for entry in fs::read_dir(work.join("target").join(TARGET).join("release/deps"))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(".rlib") && !name.contains(SEED) {
                fs::copy(entry.path(), to.join(name))?;
            }
        }
        match fs::rename(&finished, &self.sysroot) {
            // Another process was faster; its library is as good as ours.
            Err(_) if self.sysroot.exists() => Ok(()),
            result => result,
        }
    }
}

fn write_seed(work: &Path) -> io::Result<()> {
    fs::create_dir_all(work.join("src"))?;
    let manifest = format!(
        "[package]\nname = \"{SEED}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n"
    );
    fs::write(work.join("Cargo.toml"), manifest)?;
    fs::write(work.join("src/lib.rs"), "")
}

fn unwritable(work: &Path, error: io::Error) -> Error {
    Error::new(
        code::TOOLCHAIN,
        format!("{} cannot be written", work.display()),
    )
    .with_source(error)
}

/// Whether a compiler can build what we ship: at least the version that our own manifest asks for.
fn is_new_enough(release: &str) -> bool {
    let numbers = |text: &str| {
        text.split('.')
            .map_while(|part| part.parse::<u32>().ok())
            .take(2)
            .collect::<Vec<_>>()
    };
    numbers(release) >= numbers(env!("CARGO_PKG_RUST_VERSION"))
}

/// rustup's own linker, or one of the path. Debian's compiler brings none.
fn find_linker(dir: &Path) -> Option<PathBuf> {
    let sysroot = process::ask(process::rustc(dir).args(["--print", "sysroot"]));
    let host = process::ask(process::rustc(dir).arg("--print=host-tuple"));
    let own = sysroot.zip(host).map(|(sysroot, host)| {
        Path::new(&sysroot)
            .join("lib/rustlib")
            .join(host)
            .join("bin/rust-lld")
    });
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path)
        .flat_map(|folder| [folder.join("rust-lld"), folder.join("wasm-ld")]);
    own.into_iter().chain(on_path).find(|file| file.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        for (release, expected) in [
            ("1.95.0", true),
            ("1.100.0", true),
            ("2.0.0", true),
            ("1.96.0-nightly", true),
            ("1.94.9", false),
            ("1.63.0", false),
            ("", false),
        ] {
            assert_eq!(is_new_enough(release), expected, "{release}");
        }
    }
}
