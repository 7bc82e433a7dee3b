//! `streamrt new`: a crate that builds at once, with the SDK's source inside, so that it needs
//! nothing but crates.io. In a cargo workspace it becomes a member, and the SDK lies at the root,
//! once for all of them.

use crate::args::NewArgs;
use crate::report;
use crate::workspace::{self, PROFILE, Workspace};
use include_dir::{Dir, DirEntry, include_dir};
use std::fs;
use std::io;
use std::path::Path;
use streamrt_types::{Error, Result, code, say_line};

/// The source of the SDK, under the folders that its manifests' relative paths expect.
static SDK: [(&str, Dir<'_>); 3] = [
    (
        "sdk/rust",
        include_dir!("$CARGO_MANIFEST_DIR/../../sdk/rust"),
    ),
    (
        "sdk/rust-macros",
        include_dir!("$CARGO_MANIFEST_DIR/../../sdk/rust-macros"),
    ),
    ("wit", include_dir!("$CARGO_MANIFEST_DIR/../../wit")),
];

/// The crate's own files. `{name}`, `{library}` and `{sdk}`, the folder of the SDK, are filled in.
const TEMPLATE: [(&str, &str); 3] = [
    ("Cargo.toml", include_str!("../template/Cargo.toml.in")),
    ("src/lib.rs", include_str!("../template/lib.rs.in")),
    ("README.md", include_str!("../template/README.md.in")),
];

/// What a crate has that is its own workspace. The lock file holds the versions that the SDK was
/// tested with; cargo drops from it what the crate does not use.
const ALONE: [(&str, &str); 2] = [
    (".gitignore", "/target\n"),
    ("Cargo.lock", include_str!("../../../Cargo.lock")),
];

/// Behind the manifest of such a crate. `cargo fmt` and `cargo test --workspace` are not for the
/// SDK.
const OWN_WORKSPACE: &str = "
# A workspace of its own.
[workspace]
exclude = [\".streamrt\"]
";

/// Makes the crate.
///
/// # Errors
/// `Invalid` if the name is no crate's name or the folder exists, `Unavailable` if it cannot be
/// written.
pub fn new(args: &NewArgs) -> Result<()> {
    let path = &args.path;
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .filter(|name| is_crate_name(name));
    let name = name.ok_or_else(|| {
        let rule = "letters, digits, - and _ in it, and a letter in front";
        Error::new(
            code::WRONG_USE,
            format!(
                "`{}` cannot name a crate: it must have {rule}",
                path.display()
            ),
        )
    })?;
    if path.exists() {
        return Err(Error::new(
            code::EXISTS,
            format!("{} exists already", path.display()),
        ));
    }
    let around = Workspace::around(path);
    let made = match &around {
        Some(workspace) => member(workspace, path, name),
        None => alone(path, name),
    };
    made.map_err(|e| {
        Error::new(
            code::FILE_IO,
            format!("{} cannot be written", path.display()),
        )
        .with_source(e)
    })?;
    report::status(&format!("made {}; next:", path.display()));
    say_line(&format!(
        "  cd {}\n  cargo test\n  streamrt run $(streamrt build) -- --input input.txt",
        path.display()
    ));
    Ok(())
}

/// A crate that is a workspace of its own, with the SDK inside.
fn alone(path: &Path, name: &str) -> io::Result<()> {
    unpack(
        path,
        name,
        workspace::SDK,
        &format!("\n{PROFILE}{OWN_WORKSPACE}"),
    )?;
    ALONE
        .iter()
        .try_for_each(|(file, text)| write(&path.join(file), text.as_bytes()))?;
    unpack_sdk(&path.join(workspace::SDK))
}

/// A member of a workspace, which shares the SDK at the root with the others.
fn member(workspace: &Workspace, path: &Path, name: &str) -> io::Result<()> {
    unpack(
        path,
        name,
        &format!("{}/{}", workspace.path_from(path), workspace::SDK),
        "",
    )?;
    let sdk = workspace.root.join(workspace::SDK);
    match sdk.exists() {
        false => unpack_sdk(&sdk)?,
        true if is_ours(&sdk) => {}
        true => report::status(&format!(
            "the SDK in {} is of another version of streamrt, and is left as it is; to take this one's, remove the folder and run this again",
            sdk.display()
        )),
    }
    if !workspace.add(path)? {
        let manifest = workspace.root.join("Cargo.toml");
        let lacks = workspace::by_hand(path);
        report::status(&format!(
            "{} cannot be edited safely: it must come to contain\n{lacks}",
            manifest.display()
        ));
    }
    Ok(())
}

fn is_crate_name(name: &str) -> bool {
    let rest = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(rest)
}

/// Writes the crate's own files. `behind` stands behind the manifest.
fn unpack(path: &Path, name: &str, sdk: &str, behind: &str) -> io::Result<()> {
    for (file, text) in TEMPLATE {
        let mut text = text
            .replace("{name}", name)
            .replace("{library}", &name.replace('-', "_"))
            .replace("{sdk}", sdk);
        if file == "Cargo.toml" {
            text += behind;
        }
        write(&path.join(file), text.as_bytes())?;
    }
    write(&path.join("input.txt"), b"to be or\nnot to be\n")
}

fn unpack_sdk(to: &Path) -> io::Result<()> {
    SDK.iter()
        .try_for_each(|(folder, sources)| unpack_sources(sources, &to.join(folder)))
}

/// Whether the interface and the SDK's root in a folder are those of this version.
fn is_ours(sdk: &Path) -> bool {
    let same = |(folder, sources): &(&str, Dir<'_>)| {
        let file = |name: &str| {
            sources.get_file(name).is_none_or(|ours| {
                fs::read(sdk.join(folder).join(name)).is_ok_and(|there| there == ours.contents())
            })
        };
        ["Cargo.toml", "src/lib.rs", "streamrt-plugin.wit"]
            .into_iter()
            .all(file)
    };
    SDK.iter().all(same)
}

/// Writes what compiles: manifests, Rust, the WIT and its schema. Everything else beside them is
/// not for users.
fn unpack_sources(sources: &Dir<'_>, to: &Path) -> io::Result<()> {
    sources.entries().iter().try_for_each(|entry| match entry {
        DirEntry::Dir(dir) if dir.path().starts_with("src") => unpack_sources(dir, to),
        DirEntry::File(file) if is_source(file.path()) => {
            write(&to.join(file.path()), file.contents())
        }
        _ => Ok(()),
    })
}

fn is_source(path: &Path) -> bool {
    path.extension().is_some_and(|extension| {
        ["rs", "toml", "wit", "json", "md"]
            .iter()
            .any(|known| extension == *known)
    })
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::write(path, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_crates() {
        for (name, expected) in [
            ("my-op", true),
            ("a_1", true),
            ("1a", false),
            ("", false),
            ("-a", false),
            ("a.b", false),
            ("a b", false),
        ] {
            assert_eq!(is_crate_name(name), expected, "{name}");
        }
    }

    #[test]
    fn the_manifests_and_roots_of_the_sdk_are_inside() {
        for (folder, sources) in &SDK {
            for file in ["Cargo.toml", "src/lib.rs"] {
                assert!(sources.get_file(file).is_some(), "{folder} lacks {file}");
            }
        }
        assert!(SDK[2].1.get_file("streamrt-plugin.wit").is_some());
    }

    #[test]
    fn the_manifests_of_the_sdk_lean_on_no_workspace() {
        for (folder, sources) in &SDK {
            let manifest = sources
                .get_file("Cargo.toml")
                .and_then(|file| file.contents_utf8())
                .unwrap();
            assert!(
                !manifest.contains("workspace"),
                "{folder}: a crate outside our workspace cannot read this manifest"
            );
        }
    }
}
