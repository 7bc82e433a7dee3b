//! `streamrt new`: a crate that builds at once, with the SDK's source inside, so that it needs nothing but crates.io.

use crate::args::NewArgs;
use crate::report;
use include_dir::{Dir, DirEntry, include_dir};
use std::fs;
use std::io;
use std::path::Path;
use streamrt_types::{Error, Result, code};

/// The source of the SDK, under the folders that its manifests' relative paths expect.
static SDK: [(&str, Dir<'_>); 3] = [
    (".streamrt/sdk/rust", include_dir!("$CARGO_MANIFEST_DIR/../../sdk/rust")),
    (".streamrt/sdk/rust-macros", include_dir!("$CARGO_MANIFEST_DIR/../../sdk/rust-macros")),
    (".streamrt/wit", include_dir!("$CARGO_MANIFEST_DIR/../../wit")),
];

/// The crate's own files. `{name}` and `{library}` are filled in. The lock file holds the versions that the SDK was tested with; cargo
/// drops from it what the crate does not use.
const TEMPLATE: [(&str, &str); 5] = [
    ("Cargo.toml", include_str!("../template/Cargo.toml.in")),
    ("src/lib.rs", include_str!("../template/lib.rs.in")),
    ("README.md", include_str!("../template/README.md.in")),
    (".gitignore", "/target\n"),
    ("Cargo.lock", include_str!("../../../Cargo.lock")),
];

/// Makes the crate.
///
/// # Errors
/// `Invalid` if the name is no crate's name or the folder exists, `Unavailable` if it cannot be written.
pub fn new(args: &NewArgs) -> Result<()> {
    let path = &args.path;
    let name = path.file_name().and_then(|name| name.to_str()).filter(|name| is_crate_name(name));
    let name = name.ok_or_else(|| {
        let rule = "letters, digits, - and _ in it, and a letter in front";
        Error::new(code::BAD_OPTION, format!("`{}` cannot name a crate: it must have {rule}", path.display()))
    })?;
    if path.exists() {
        return Err(Error::new(code::EXISTS, format!("{} exists already", path.display())));
    }
    unpack(path, name).map_err(|e| Error::new(code::FILE_IO, format!("{} cannot be written", path.display())).with_source(e))?;
    report::status(&format!("made {}; next:", path.display()));
    report::line(&format!("  cd {}\n  cargo test\n  streamrt run $(streamrt build) -- --input input.txt", path.display()));
    Ok(())
}

fn is_crate_name(name: &str) -> bool {
    let rest = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(rest)
}

fn unpack(path: &Path, name: &str) -> io::Result<()> {
    for (file, text) in TEMPLATE {
        let text = text.replace("{name}", name).replace("{library}", &name.replace('-', "_"));
        write(&path.join(file), text.as_bytes())?;
    }
    write(&path.join("input.txt"), b"to be or\nnot to be\n")?;
    SDK.iter().try_for_each(|(folder, sources)| unpack_sources(sources, &path.join(folder)))
}

/// Writes what compiles: manifests, Rust, the WIT and its schema. Everything else beside them is not for users.
fn unpack_sources(sources: &Dir<'_>, to: &Path) -> io::Result<()> {
    sources.entries().iter().try_for_each(|entry| match entry {
        DirEntry::Dir(dir) if dir.path().starts_with("src") => unpack_sources(dir, to),
        DirEntry::File(file) if is_source(file.path()) => write(&to.join(file.path()), file.contents()),
        _ => Ok(()),
    })
}

fn is_source(path: &Path) -> bool {
    path.extension().is_some_and(|extension| ["rs", "toml", "wit", "json", "md"].iter().any(|known| extension == *known))
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
        for (name, expected) in [("my-op", true), ("a_1", true), ("1a", false), ("", false), ("-a", false), ("a.b", false), ("a b", false)]
        {
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
            let manifest = sources.get_file("Cargo.toml").and_then(|file| file.contents_utf8()).unwrap();
            assert!(!manifest.contains("workspace"), "{folder}: a crate outside our workspace cannot read this manifest");
        }
    }
}
