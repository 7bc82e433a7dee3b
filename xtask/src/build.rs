//! The runtime and the components. cargo decides what has changed; a second call is over within a
//! second or two.

use crate::cargo::{Workspace, run, words};
use crate::{libclang, say};
use anyhow::{Result, bail};
use std::process::{Command, Stdio};

/// Which components to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guests<'a> {
    /// Those of examples/ and plugins/, and those that the tests run.
    All,
    One(&'a str),
    /// Those in this folder.
    Under(&'a str),
}

/// Which parts of the runtime to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// What most jobs need: a first look must not wait for the rest.
    Lean,
    /// With everything that is a feature of `streamrt-cli`.
    Whole,
}

/// The features of the whole runtime. Each takes a minute of building or more; RocksDB takes ten.
pub const FEATURES: &str =
    "streamrt-cli/parquet,streamrt-cli/postgres,streamrt-cli/rocksdb,streamrt-cli/s3";

/// Checks the machine, builds the runtime, and lets it install the tool chain for components.
pub fn setup(workspace: &Workspace) -> Result<()> {
    runtime(workspace, Runtime::Lean)?;
    say("looking for the tool chain for components");
    run(Command::new(workspace.streamrt())
        .arg("toolchain")
        .current_dir(&workspace.root))?;
    say("everything that is needed is there");
    Ok(())
}

/// Builds the runtime, then the components with it.
pub fn build(workspace: &Workspace, parts: Runtime, guests: Guests<'_>) -> Result<()> {
    runtime(workspace, parts)?;
    components(workspace, guests)
}

/// Builds the benchmark and runs it; further arguments are its own.
pub fn bench(workspace: &Workspace, suite: &str, args: &[&str]) -> Result<()> {
    runtime(workspace, Runtime::Whole)?;
    binary(workspace, "streamrt-bench", Runtime::Whole)?;
    if ["plugin", "checkpoint", "scale"].contains(&suite) {
        components(workspace, Guests::Under("xtask/bench"))?;
    }
    match suite {
        // Its start is timed from the command to the first record.
        "plugin" | "idle" => components(workspace, Guests::One("word-count"))?,
        "scale" => components(workspace, Guests::One("hot-items"))?,
        _ => {}
    }
    let mut command = Command::new(workspace.target.join("release/streamrt-bench"));
    command.current_dir(&workspace.root).arg(suite).args(args);
    command
        .env("STREAMRT_BIN", workspace.streamrt())
        .env("STREAMRT_COMPONENTS", workspace.components());
    say(&format!("running `{}`", words(&command)));
    run(&mut command)
}

/// Runs the simulation.
///
/// # Errors
/// If it cannot be built, or finds something.
pub fn sim(workspace: &Workspace, args: &[&str]) -> Result<()> {
    binary(workspace, "streamrt-sim", Runtime::Whole)?;
    run(Command::new(workspace.target.join("release/streamrt-sim")).args(args))
}

fn runtime(workspace: &Workspace, parts: Runtime) -> Result<()> {
    check_compiler()?;
    if parts == Runtime::Whole {
        libclang::ensure()?;
    }
    binary(workspace, "streamrt", parts)
}

/// Builds one binary, with the features that the whole workspace asks of each library. A choice of
/// features by package (`--package`) would give the tests, which are built for the workspace,
/// another wasmtime: minutes of compiling for nothing.
fn binary(workspace: &Workspace, name: &str, parts: Runtime) -> Result<()> {
    let mut command = workspace.cargo(&["build", "--release", "--workspace", "--bin", name]);
    if parts == Runtime::Whole {
        command.args(["--features", FEATURES]);
    }
    say(&format!(
        "building {name} with `{}`; the first time takes some minutes",
        words(&command)
    ));
    run(&mut command)
}

/// The allocator and the engine for WebAssembly hold a little C, and rustc links through the C
/// compiler.
fn check_compiler() -> Result<()> {
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let found = Command::new(&compiler)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !found.is_ok_and(|status| status.success()) {
        bail!(
            "there is no C compiler, which cargo needs to link; install one with `sudo apt-get install -y gcc libc6-dev`, then try again"
        );
    }
    Ok(())
}

fn components(workspace: &Workspace, guests: Guests<'_>) -> Result<()> {
    let names = guest_names(workspace, guests);
    if names.is_empty() {
        bail!("the workspace has no such component");
    }
    say(&format!("building the components {}", names.join(", ")));
    let mut command = Command::new(workspace.streamrt());
    command
        .arg("build")
        .arg(&workspace.root)
        .env("CARGO_TARGET_DIR", &workspace.target);
    for name in names {
        command.args(["--package", name]);
    }
    run(command.stdout(std::io::stderr()))
}

fn guest_names<'a>(workspace: &'a Workspace, guests: Guests<'_>) -> Vec<&'a str> {
    let wanted = |folder: &str, name: &str| match guests {
        Guests::All => ["examples/", "plugins/", "tests/guests/"]
            .iter()
            .any(|parent| folder.starts_with(parent)),
        Guests::One(one) => name == one,
        Guests::Under(parent) => folder.starts_with(parent),
    };
    let plugins = workspace
        .packages
        .iter()
        .filter(|package| package.is_plugin && wanted(&package.folder, &package.name));
    plugins.map(|package| package.name.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn workspace() -> Workspace {
        let package = |folder: &str, kind: &str| {
            let name = folder.rsplit('/').next().unwrap();
            let targets = json!([{ "name": name, "crate_types": ["lib", kind] }]);
            json!({ "name": name, "manifest_path": format!("/w/{folder}/Cargo.toml"), "dependencies": [], "targets": targets })
        };
        let folders = [
            ("examples/hot-items", "cdylib"),
            ("plugins/dedup", "cdylib"),
            ("xtask/bench/guest", "cdylib"),
            ("runtime/cli", "bin"),
        ];
        let packages: Vec<_> = folders.map(|(folder, kind)| package(folder, kind)).into();
        Workspace::from_metadata(
            &json!({ "workspace_root": "/w", "target_directory": "/t", "packages": packages }),
        )
    }

    #[test]
    fn components_are_chosen_by_place_or_name() {
        for (guests, expected) in [
            (Guests::All, vec!["hot-items", "dedup"]),
            (Guests::One("dedup"), vec!["dedup"]),
            (Guests::One("cli"), vec![]),
            (Guests::Under("xtask/bench"), vec!["guest"]),
        ] {
            assert_eq!(guest_names(&workspace(), guests), expected, "{guests:?}");
        }
    }
}
