//! What `cargo metadata` knows about the workspace, and running cargo in it. Every other module
//! starts from here.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The workspace that this program was built in.
pub struct Workspace {
    pub root: PathBuf,
    pub target: PathBuf,
    pub packages: Vec<Package>,
}

/// A member of the workspace.
#[derive(Debug, Clone, PartialEq)]
pub struct Package {
    pub name: String,
    /// Relative to the root, with `/`.
    pub folder: String,
    pub dependencies: Vec<Dependency>,
    /// Whether it builds a component.
    pub is_plugin: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Dependency {
    pub name: String,
    /// For tests, examples and benchmarks alone.
    pub dev: bool,
}

impl Workspace {
    pub fn read() -> Result<Workspace> {
        // Cargo says where it runs this program; two checkouts may share one target folder, and
        // with it this program.
        let here = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let mut command = cargo();
        command
            .current_dir(here)
            .args(["metadata", "--no-deps", "--format-version", "1"]);
        let output = command.output().context("cargo cannot be started")?;
        if !output.status.success() {
            bail!(
                "`cargo metadata` failed: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        let metadata: Value = serde_json::from_slice(&output.stdout)
            .context("the answer of `cargo metadata` cannot be read")?;
        Ok(Workspace::from_metadata(&metadata))
    }

    pub fn from_metadata(metadata: &Value) -> Workspace {
        let root = PathBuf::from(text(&metadata["workspace_root"]));
        let packages = array(&metadata["packages"])
            .map(|package| Package::from_metadata(package, &root))
            .collect();
        Workspace {
            target: PathBuf::from(text(&metadata["target_directory"])),
            root,
            packages,
        }
    }

    /// The binary of the runtime.
    pub fn streamrt(&self) -> PathBuf {
        self.target.join("release/streamrt")
    }

    pub fn components(&self) -> PathBuf {
        self.target.join("components")
    }

    /// A cargo command at the root, into our target folder.
    pub fn cargo(&self, args: &[&str]) -> Command {
        let mut command = cargo();
        command
            .current_dir(&self.root)
            .env("CARGO_TARGET_DIR", &self.target)
            .args(args);
        command
    }
}

impl Package {
    fn from_metadata(package: &Value, root: &Path) -> Package {
        let manifest = Path::new(text(&package["manifest_path"]));
        let folder = manifest
            .parent()
            .and_then(|folder| folder.strip_prefix(root).ok())
            .unwrap_or(Path::new(""));
        let dependency = |value: &Value| Dependency {
            name: text(&value["name"]).to_owned(),
            dev: value["kind"] == "dev",
        };
        Package {
            name: text(&package["name"]).to_owned(),
            folder: folder.to_string_lossy().replace('\\', "/"),
            dependencies: array(&package["dependencies"]).map(dependency).collect(),
            is_plugin: array(&package["targets"])
                .any(|target| array(&target["crate_types"]).any(|kind| kind == "cdylib")),
        }
    }
}

/// Runs a command to its end.
///
/// # Errors
/// If it cannot be started or fails.
pub fn run(command: &mut Command) -> Result<()> {
    let name = words(command);
    let status = command
        .status()
        .with_context(|| format!("`{name}` cannot be started"))?;
    if !status.success() {
        bail!("`{name}` failed");
    }
    Ok(())
}

/// The command as a user would type it.
pub fn words(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
