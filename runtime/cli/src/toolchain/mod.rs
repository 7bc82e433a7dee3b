//! The tool chain that compiles Rust to WebAssembly: found, or installed. Called by `build` and
//! `toolchain`.
//!
//! 1. rustc has the standard library of the target: nothing to do.
//! 2. Debian's pair of compiler and library source was used before, and its library is in the
//!    cache: use it.
//! 3. `rustup target add`.
//! 4. Install Debian's pair, which needs root; then build the library once into the cache.
//! 5. Say what to run by hand.
//!
//! [`decide`] is pure and sees each way once: a way that failed is never tried again in the same
//! run.

mod sysroot;

use crate::{cache, process, report};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use streamrt_types::{Error, Result, code};
use sysroot::DebianCompiler;

/// Components of this target import nothing but our own interfaces.
pub const TARGET: &str = "wasm32-unknown-unknown";

const PACKAGES: [&str; 2] = ["rustc-web", "rust-web-src"];

/// How guests are compiled.
#[derive(Debug, Default, PartialEq)]
pub struct Toolchain {
    /// None: the rustc that cargo takes anyway.
    rustc: Option<PathBuf>,
    rustflags: Vec<OsString>,
}

impl Toolchain {
    /// Sets up a cargo command. The user's own flags for native code never reach a guest.
    pub fn apply(&self, command: &mut Command) {
        if let Some(rustc) = &self.rustc {
            command.env("RUSTC", rustc);
        }
        // Unlike RUSTFLAGS, the encoded form allows blanks in paths.
        command.env_remove("RUSTFLAGS").env(
            "CARGO_ENCODED_RUSTFLAGS",
            self.rustflags.join("\u{1f}".as_ref()),
        );
    }
}

/// A way to get the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Absent,
    Open,
    Tried,
}

/// What is known about the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Machine {
    /// rustc has the library of the target.
    target: bool,
    /// The library of Debian's compiler is in the cache, and there is a linker.
    sysroot: bool,
    rustup: Way,
    /// Debian's compiler, new enough, with the source of its library, a linker and a cache folder.
    debian: bool,
    /// apt-get, as root.
    packages: Way,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    UseRustc,
    UseSysroot,
    AddTarget,
    BuildSysroot,
    InstallPackages,
    GiveUp,
}

fn decide(machine: &Machine) -> Step {
    match machine {
        Machine { target: true, .. } => Step::UseRustc,
        Machine { sysroot: true, .. } => Step::UseSysroot,
        Machine {
            rustup: Way::Open, ..
        } => Step::AddTarget,
        Machine { debian: true, .. } => Step::BuildSysroot,
        Machine {
            packages: Way::Open,
            ..
        } => Step::InstallPackages,
        _ => Step::GiveUp,
    }
}

/// Finds or installs the tool chain for crates in `dir`, and says what it does while it does it.
///
/// # Errors
/// `Unavailable` if no way is left; the message names the commands to run by hand.
pub fn ensure(dir: &Path) -> Result<Toolchain> {
    if target_installed(dir) {
        return Ok(Toolchain::default());
    }
    let mut rustup = if process::ask(Command::new("rustup").arg("--version")).is_some() {
        Way::Open
    } else {
        Way::Absent
    };
    let mut packages = if is_root() && Path::new("/usr/bin/apt-get").exists() {
        Way::Open
    } else {
        Way::Absent
    };
    loop {
        let compiler = DebianCompiler::find(dir, cache::toolchain());
        let ready = compiler.as_ref().is_some_and(DebianCompiler::is_ready);
        let machine = Machine {
            target: target_installed(dir),
            sysroot: ready,
            rustup,
            debian: compiler.is_some(),
            packages,
        };
        match (decide(&machine), compiler) {
            (Step::UseRustc, _) => return Ok(Toolchain::default()),
            (Step::UseSysroot, Some(compiler)) => return Ok(compiler.toolchain()),
            (Step::BuildSysroot, Some(compiler)) => compiler.build()?,
            (Step::AddTarget, _) => {
                rustup = Way::Tried;
                add_target(dir)?;
            }
            (Step::InstallPackages, _) => {
                packages = Way::Tried;
                install_packages()?;
            }
            _ => return Err(give_up()),
        }
    }
}

fn target_installed(dir: &Path) -> bool {
    let folder =
        process::ask(process::rustc(dir).args(["--print", "target-libdir", "--target", TARGET]));
    folder
        .and_then(|folder| std::fs::read_dir(folder).ok())
        .is_some_and(|mut entries| entries.next().is_some())
}

fn add_target(dir: &Path) -> Result<()> {
    let mut command = Command::new("rustup");
    command.args(["target", "add", TARGET]).current_dir(dir);
    report::status(&format!(
        "the standard library for {TARGET} is missing; running `{}`",
        process::words(&command)
    ));
    if !process::run(&mut command)? {
        report::status("rustup could not add the target; trying the next way");
    }
    Ok(())
}

/// A list of packages that is out of date names files that are gone, so a failure is followed by an
/// update and a second try.
fn install_packages() -> Result<()> {
    let mut install = Command::new("apt-get");
    install
        .args(["install", "-y", "--no-install-recommends"])
        .args(PACKAGES)
        .env("DEBIAN_FRONTEND", "noninteractive");
    report::status(&format!("running `{}`", process::words(&install)));
    if process::run(&mut install)? {
        return Ok(());
    }
    report::status("running `apt-get update`, then once more");
    let done = process::run(Command::new("apt-get").arg("update"))? && process::run(&mut install)?;
    if !done {
        report::status("apt-get could not install the packages");
    }
    Ok(())
}

fn give_up() -> Error {
    let install = format!(
        "sudo apt-get install -y --no-install-recommends {}",
        PACKAGES.join(" ")
    );
    let message = format!(
        "there is no standard library for {TARGET}, and it could not be installed; run one of\n  rustup target add {TARGET}\n  {install}\n\
         the second one needs a linker for WebAssembly as well: rustup's rust-lld, or wasm-ld of the package lld"
    );
    Error::new(code::TOOLCHAIN, message)
}

/// The owner of our entry in `/proc` is the user that we run as.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Machine = Machine {
        target: false,
        sysroot: false,
        rustup: Way::Absent,
        debian: false,
        packages: Way::Absent,
    };

    fn check(machine: Machine, expected: Step) {
        assert_eq!(decide(&machine), expected, "{machine:?}");
    }

    #[test]
    fn what_is_there_is_used_before_anything_is_installed() {
        check(
            Machine {
                target: true,
                sysroot: true,
                debian: true,
                rustup: Way::Open,
                packages: Way::Open,
            },
            Step::UseRustc,
        );
        check(
            Machine {
                sysroot: true,
                debian: true,
                rustup: Way::Open,
                packages: Way::Open,
                ..NOTHING
            },
            Step::UseSysroot,
        );
    }

    #[test]
    fn ways_are_tried_in_order_and_once() {
        check(
            Machine {
                debian: true,
                rustup: Way::Open,
                packages: Way::Open,
                ..NOTHING
            },
            Step::AddTarget,
        );
        check(
            Machine {
                debian: true,
                rustup: Way::Tried,
                packages: Way::Open,
                ..NOTHING
            },
            Step::BuildSysroot,
        );
        check(
            Machine {
                rustup: Way::Tried,
                packages: Way::Open,
                ..NOTHING
            },
            Step::InstallPackages,
        );
        check(
            Machine {
                rustup: Way::Tried,
                packages: Way::Tried,
                ..NOTHING
            },
            Step::GiveUp,
        );
        check(
            Machine {
                packages: Way::Open,
                ..NOTHING
            },
            Step::InstallPackages,
        );
        check(NOTHING, Step::GiveUp);
    }

    #[test]
    fn flags_may_hold_blanks() {
        let toolchain = Toolchain {
            rustc: Some("/r".into()),
            rustflags: vec!["--sysroot=/a b".into(), "-Clinker=/l".into()],
        };
        let mut command = Command::new("cargo");
        toolchain.apply(&mut command);
        let environment: Vec<_> = command.get_envs().collect();
        assert!(environment.contains(&(
            "CARGO_ENCODED_RUSTFLAGS".as_ref(),
            Some("--sysroot=/a b\u{1f}-Clinker=/l".as_ref())
        )));
        assert!(environment.contains(&("RUSTC".as_ref(), Some("/r".as_ref()))));
        assert!(environment.contains(&("RUSTFLAGS".as_ref(), None)));
    }
}
