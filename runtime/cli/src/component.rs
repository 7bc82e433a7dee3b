//! `streamrt build`: from crates to components, in one cargo call for all of them.
//!
//! 1. Ask cargo which packages there are, and take those that are plugins.
//! 2. Make sure of the tool chain.
//! 3. Compile, in a target folder of the guests' own: another compiler there does not spoil the
//!    native artefacts.
//! 4. Turn each core module into a component, and check it.

use crate::args::BuildArgs;
use crate::toolchain::{self, TARGET};
use crate::{process, report};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use streamrt_types::{Error, Result, code};

/// What cargo says about the place where we build.
struct Workspace {
    root: PathBuf,
    target: PathBuf,
    packages: Vec<Package>,
}

#[derive(Debug, Clone, PartialEq)]
struct Package {
    name: String,
    folder: PathBuf,
    /// File name of its core module, without extension. `None`: it builds no plugin.
    library: Option<String>,
}

/// Builds what was asked for, and prints the paths of the components on stdout.
///
/// # Errors
/// `Unavailable` without a tool chain, `Invalid` if a crate does not compile or is no plugin.
pub fn build(args: &BuildArgs) -> Result<()> {
    let workspace = Workspace::of(&args.dir)?;
    let chosen = choose(&workspace.packages, &args.packages, &args.dir)?;
    if args.output.is_some() && chosen.len() > 1 {
        return Err(Error::new(
            code::WRONG_USE,
            "`--output` names one file, but several packages are built",
        ));
    }
    let toolchain = toolchain::ensure(&args.dir)?;
    let modules = compile(&workspace, &chosen, &toolchain, &args.dir)?;
    for (package, module) in chosen.iter().zip(&modules) {
        warn_of_std_printing(package, module)?;
        let default = || {
            workspace
                .target
                .join("components")
                .join(format!("{}.wasm", package.name))
        };
        let file = args.output.clone().unwrap_or_else(default);
        write_component(package, module, &file)?;
        crate::print(&format!("{}\n", file.display()))?;
    }
    Ok(())
}

impl Workspace {
    fn of(dir: &Path) -> Result<Workspace> {
        if !dir.join("Cargo.toml").exists() {
            return Err(Error::new(
                code::FILE_MISSING,
                format!("there is no Cargo.toml in {}", dir.display()),
            ));
        }
        let mut cargo = process::cargo();
        let text = process::demand(
            cargo
                .args(["metadata", "--no-deps", "--format-version", "1"])
                .current_dir(dir),
        )?;
        let metadata = serde_json::from_slice(&text).map_err(|e| {
            Error::internal("the answer of `cargo metadata` cannot be read").with_source(e)
        })?;
        Ok(Workspace::from_metadata(&metadata))
    }

    fn from_metadata(metadata: &Value) -> Workspace {
        let packages = metadata["packages"].as_array().into_iter().flatten();
        Workspace {
            root: path_of(&metadata["workspace_root"]),
            target: path_of(&metadata["target_directory"]),
            packages: packages.map(Package::from_metadata).collect(),
        }
    }

    /// The profile `component` where the workspace defines it, as ours and those of `streamrt new`
    /// do; else `release`.
    fn profile(&self) -> &'static str {
        let manifest = fs::read_to_string(self.root.join("Cargo.toml"))
            .ok()
            .and_then(|text| text.parse::<toml::Table>().ok());
        let defined = manifest
            .as_ref()
            .and_then(|table| table.get("profile")?.get("component"))
            .is_some();
        if defined { "component" } else { "release" }
    }
}

impl Package {
    fn from_metadata(package: &Value) -> Package {
        let is_cdylib = |target: &&Value| {
            target["crate_types"]
                .as_array()
                .is_some_and(|types| types.iter().any(|t| t == "cdylib"))
        };
        let library = package["targets"]
            .as_array()
            .and_then(|targets| targets.iter().find(is_cdylib));
        let manifest = path_of(&package["manifest_path"]);
        Package {
            name: package["name"].as_str().unwrap_or_default().to_owned(),
            folder: manifest.parent().map(Path::to_path_buf).unwrap_or_default(),
            library: library
                .and_then(|target| target["name"].as_str())
                .map(|name| name.replace('-', "_")),
        }
    }
}

fn path_of(value: &Value) -> PathBuf {
    PathBuf::from(value.as_str().unwrap_or_default())
}

/// The packages of those names; without names the one in `dir`; at the root of a workspace without
/// a package all plugins.
fn choose(packages: &[Package], names: &[String], dir: &Path) -> Result<Vec<Package>> {
    if !names.is_empty() {
        return names
            .iter()
            .map(|name| plugin_of_name(packages, name))
            .collect();
    }
    let here = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    if let Some(package) = packages.iter().find(|package| package.folder == here) {
        return plugin_of_name(packages, &package.name).map(|package| vec![package]);
    }
    let plugins: Vec<Package> = packages
        .iter()
        .filter(|package| package.library.is_some())
        .cloned()
        .collect();
    match plugins.is_empty() {
        true => Err(Error::new(
            code::BUILD_FAILED,
            format!(
                "no package in {} is a plugin: none has `crate-type = [\"cdylib\"]`",
                dir.display()
            ),
        )),
        false => Ok(plugins),
    }
}

fn plugin_of_name(packages: &[Package], name: &str) -> Result<Package> {
    let Some(package) = packages.iter().find(|package| package.name == name) else {
        return Err(Error::new(
            code::WRONG_USE,
            format!("the workspace has no package `{name}`"),
        ));
    };
    match package.library {
        Some(_) => Ok(package.clone()),
        None => Err(Error::new(
            code::BUILD_FAILED,
            format!("package `{name}` is no plugin: its [lib] lacks `crate-type = [\"cdylib\"]`"),
        )),
    }
}

/// Compiles all in one call, so that what they share is compiled once. Returns the paths of the
/// core modules.
fn compile(
    workspace: &Workspace,
    packages: &[Package],
    toolchain: &toolchain::Toolchain,
    dir: &Path,
) -> Result<Vec<PathBuf>> {
    let profile = workspace.profile();
    let guests = workspace.target.join("guests");
    let mut cargo = process::cargo();
    cargo
        .current_dir(dir)
        .args([
            "build",
            "--lib",
            "--profile",
            profile,
            "--target",
            TARGET,
            "--target-dir",
        ])
        .arg(&guests);
    for package in packages {
        cargo.args(["--package", &package.name]);
    }
    toolchain.apply(&mut cargo);
    let names: Vec<&str> = packages
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    report::status(&format!("compiling {} for {TARGET}", names.join(", ")));
    if !process::run(&mut cargo)? {
        return Err(Error::new(
            code::BUILD_FAILED,
            format!("{} did not compile", names.join(", ")),
        ));
    }
    let folder = guests.join(TARGET).join(profile);
    Ok(packages
        .iter()
        .flat_map(|package| &package.library)
        .map(|library| folder.join(format!("{library}.wasm")))
        .collect())
}

/// Functions of std that print, as compilers name them in a module: the old way, and the new one,
/// which puts `_` in front of a name with `_`.
const STD_PRINTS: [&[u8]; 4] = [
    b"3std2io5stdio6_print",
    b"3std2io5stdio7_eprint",
    b"_3std2io5stdio6__print",
    b"_3std2io5stdio7__eprint",
];

/// Whether a module has code that prints by std.
fn prints_by_std(module: &[u8]) -> bool {
    STD_PRINTS
        .iter()
        .any(|name| module.windows(name.len()).any(|window| window == *name))
}

/// What std prints goes nowhere on the target of components, and whoever looks for it would not
/// know why.
fn warn_of_std_printing(package: &Package, module: &Path) -> Result<()> {
    if prints_by_std(&read_module(module)?) {
        report::status(&format!(
            "{}: println!, eprintln! and dbg! of std go nowhere in a component; `use streamrt_sdk::{{dbg, eprintln, println}};` puts what they print into the log",
            package.name
        ));
    }
    Ok(())
}

fn read_module(module: &Path) -> Result<Vec<u8>> {
    fs::read(module).map_err(|e| {
        Error::new(
            code::FILE_IO,
            format!("{} cannot be read", module.display()),
        )
        .with_source(e)
    })
}

fn write_component(package: &Package, module: &Path, file: &Path) -> Result<()> {
    let component =
        encode(&read_module(module)?).map_err(|e| e.at(format!("package `{}`", package.name)))?;
    // A file that is the same keeps its time, so that nothing behind it is done again.
    if fs::read(file).is_ok_and(|old| old == component) {
        return Ok(());
    }
    let written = file
        .parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::write(file, &component));
    written.map_err(|e| {
        Error::new(
            code::FILE_IO,
            format!("{} cannot be written", file.display()),
        )
        .with_source(e)
    })
}

/// Turns a core module with the metadata of wit-bindgen into a component, and validates it.
fn encode(module: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = wit_component::ComponentEncoder::default();
    let component = encoder
        .validate(true)
        .module(module)
        .and_then(|encoder| encoder.encode());
    component.map_err(|e| {
        Error::new(
            code::BUILD_FAILED,
            "its module cannot be made a component; does it call the SDK's `job!`?",
        )
        .with_source(e)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn packages() -> Vec<Package> {
        let target = |name: &str, kind: &str| json!({ "name": name, "crate_types": [kind] });
        let package = |name: &str, kind: &str| json!({ "name": name, "manifest_path": format!("/w/{name}/Cargo.toml"), "targets": [target("main", "bin"), target(name, kind)] });
        let metadata = json!({
            "workspace_root": "/w",
            "target_directory": "/t",
            "packages": [package("hot-items", "cdylib"), package("plain", "lib"), package("other", "cdylib")],
        });
        Workspace::from_metadata(&metadata).packages
    }

    fn check(names: &[&str], dir: &str, expected: Result<&[&str], &str>) {
        let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
        let chosen =
            choose(&packages(), &names, Path::new(dir)).map_err(|e| e.message().to_owned());
        let names = chosen.map(|list| {
            list.into_iter()
                .map(|package| package.name)
                .collect::<Vec<_>>()
        });
        assert_eq!(
            names,
            expected
                .map(|list| list.iter().map(|name| name.to_string()).collect())
                .map_err(str::to_owned)
        );
    }

    #[test]
    fn libraries_have_names_without_hyphens() {
        assert_eq!(packages()[0].library.as_deref(), Some("hot_items"));
        assert_eq!(packages()[1].library, None);
    }

    #[test]
    fn packages_are_chosen_by_name_or_place() {
        check(&["other", "hot-items"], "/w", Ok(&["other", "hot-items"]));
        check(&[], "/w", Ok(&["hot-items", "other"]));
        check(&[], "/w/hot-items", Ok(&["hot-items"]));
        check(&["gone"], "/w", Err("the workspace has no package `gone`"));
        check(
            &["plain"],
            "/w",
            Err("package `plain` is no plugin: its [lib] lacks `crate-type = [\"cdylib\"]`"),
        );
        check(
            &[],
            "/w/plain",
            Err("package `plain` is no plugin: its [lib] lacks `crate-type = [\"cdylib\"]`"),
        );
    }

    #[test]
    fn what_prints_by_std_is_seen_by_its_name() {
        for name in [
            "_ZN3std2io5stdio6_print17h0123456789abcdefE",
            "_RNvNtNtCsebHcaeoSrxy_3std2io5stdio7__eprint",
        ] {
            assert!(
                prints_by_std(format!("\0asm {name} more").as_bytes()),
                "{name}"
            );
        }
        assert!(!prints_by_std(b"_RNvNtNtCsgXGp5Oqx2Ny_4core7unicode9printable12is_printable 3std2io5stdio31print_to_buffer"));
    }

    #[test]
    fn a_module_without_our_metadata_is_refused() {
        let empty_module = b"\0asm\x01\0\0\0";
        for bytes in [&empty_module[..], b"no module"] {
            match encode(bytes) {
                // An empty module makes an empty component, which is valid; `inspect` and `run`
                // refuse it as one without our interface.
                Ok(component) => assert_eq!(&component[..4], b"\0asm"),
                Err(error) => assert_eq!(error.code(), code::BUILD_FAILED),
            }
        }
    }
}
