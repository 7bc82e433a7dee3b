//! The files that a pattern names, such as `data/*/[0-9]*.csv` or `data/**`.
//!
//! 1. The longest leading part that exists as written is not a pattern: a folder may be called
//!    `data [2024]`. 2. What follows it is matched folder by folder. 3. A name that is not UTF-8 is
//!    matched by the part of it that is. Hidden names are skipped, and `**` follows no links.

use glob::{MatchOptions, Pattern};
use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};

const OPTIONS: MatchOptions = MatchOptions {
    require_literal_leading_dot: true,
    require_literal_separator: true,
    case_sensitive: true,
};

/// What is between two slashes.
enum Part {
    /// Any number of folders.
    Folders,
    Name(Pattern),
}

/// Why nothing was found.
#[derive(Debug)]
pub enum Fault {
    NoPattern(glob::PatternError),
    Folder(PathBuf, io::Error),
}

/// The regular files that a pattern names, in the order of their names.
///
/// # Errors
/// If it is not a pattern, or a folder cannot be listed.
pub fn files(pattern: &str) -> Result<Vec<PathBuf>, Fault> {
    let ends = pattern
        .match_indices('/')
        .map(|(end, _)| end)
        .filter(|end| *end > 0);
    let literal = ends
        .take_while(|end| Path::new(&pattern[..*end]).exists())
        .last()
        .unwrap_or(0);
    let folder = if literal == 0 && pattern.starts_with('/') {
        "/"
    } else {
        &pattern[..literal]
    };
    let parts = pattern[literal..]
        .split('/')
        .filter(|part| !part.is_empty())
        .map(part)
        .collect::<Result<Vec<_>, _>>();
    let mut found = Vec::new();
    walk(
        Path::new(folder),
        &parts.map_err(Fault::NoPattern)?,
        &mut found,
    )?;
    found.sort();
    found.dedup();
    Ok(found)
}

/// Whether [`files`] may have found a path, or could if it were there; the disk is not consulted.
/// What was a folder called `data [2024]` may be gone since, so any leading part of the pattern may
/// have been literal.
pub fn fits(pattern: &str, path: &Path) -> bool {
    let ends = pattern
        .match_indices('/')
        .map(|(end, _)| end)
        .filter(|end| *end > 0);
    ends.chain([0]).any(|end| {
        let folder = if end == 0 && pattern.starts_with('/') {
            "/"
        } else {
            &pattern[..end]
        };
        let parts = pattern[end..]
            .split('/')
            .filter(|part| !part.is_empty())
            .map(part)
            .collect::<Result<Vec<_>, _>>();
        path.strip_prefix(folder)
            .ok()
            .zip(parts.ok())
            .is_some_and(|(rest, parts)| fit(&parts, rest))
    })
}

/// Whether the names of a path match the parts of a pattern, each in its place. The states are
/// those of an automaton: a stranger's path may be long, and a pattern may have several `**`.
fn fit(parts: &[Part], path: &Path) -> bool {
    let mut states = vec![false; parts.len() + 1];
    states[0] = true;
    for name in path.components() {
        let Component::Normal(name) = name else {
            return false;
        };
        let name = name.to_string_lossy();
        let mut next = vec![false; parts.len() + 1];
        for (state, part) in parts.iter().enumerate() {
            // `**` may match no folder, but it has to match a file.
            if matches!(part, Part::Folders) && states[state] && state + 1 < parts.len() {
                states[state + 1] = true;
            }
            let goes_on = states[state]
                && match part {
                    Part::Folders => !name.starts_with('.'),
                    Part::Name(pattern) => pattern.matches_with(&name, OPTIONS),
                };
            next[state] |= goes_on && matches!(part, Part::Folders);
            next[state + 1] |=
                goes_on && (matches!(part, Part::Name(_)) || state + 1 == parts.len());
        }
        states = next;
    }
    states[parts.len()]
}

fn part(text: &str) -> Result<Part, glob::PatternError> {
    if text == "**" {
        Ok(Part::Folders)
    } else {
        Pattern::new(text).map(Part::Name)
    }
}

fn walk(folder: &Path, parts: &[Part], found: &mut Vec<PathBuf>) -> Result<(), Fault> {
    let Some((first, rest)) = parts.split_first() else {
        return Ok(());
    };
    if matches!(first, Part::Folders) && !rest.is_empty() {
        walk(folder, rest, found)?;
    }
    for name in names(folder)? {
        let path = folder.join(&name);
        let text = name.to_string_lossy();
        match first {
            Part::Folders if text.starts_with('.') => {}
            Part::Folders
                if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir()) =>
            {
                walk(&path, parts, found)?
            }
            Part::Folders => found.extend((rest.is_empty() && path.is_file()).then_some(path)),
            Part::Name(pattern) if !pattern.matches_with(&text, OPTIONS) => {}
            Part::Name(_) if rest.is_empty() => found.extend(path.is_file().then_some(path)),
            Part::Name(_) => walk(&path, rest, found)?,
        }
    }
    Ok(())
}

/// What is in a folder; nothing if there is no such folder.
fn names(folder: &Path) -> Result<Vec<OsString>, Fault> {
    let here = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    let listed = fs::read_dir(here).and_then(|entries| {
        entries
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect()
    });
    match listed {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        listed => listed.map_err(|e| Fault::Folder(folder.to_owned(), e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn patterns_find_files_whatever_their_names_are() {
        let root = tempfile::tempdir().unwrap();
        let strange = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        for folder in ["a [1]/b", "c", ".hidden"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        fs::create_dir(root.path().join(strange(b"\xfe"))).unwrap();
        let files_there = [
            "a [1]/x.csv",
            "a [1]/b/y.csv",
            "a [1]/b/.z.csv",
            "c/x.txt",
            ".hidden/x.csv",
        ];
        files_there
            .iter()
            .for_each(|file| fs::write(root.path().join(file), "").unwrap());
        fs::write(root.path().join("c").join(strange(b"\xff.csv")), "").unwrap();
        let all = [&files_there.map(str::as_bytes)[..], &[b"c/\xff.csv"]].concat();
        let check = |pattern: &str, expected: &[&[u8]]| {
            let pattern = format!("{}/{pattern}", root.path().display());
            let found = files(&pattern).unwrap();
            for name in &all {
                let path = root.path().join(strange(name));
                assert_eq!(
                    fits(&pattern, &path),
                    found.contains(&path),
                    "{pattern} {path:?}"
                );
            }
            let expected: Vec<PathBuf> = expected
                .iter()
                .map(|name| root.path().join(strange(name)))
                .collect();
            assert_eq!(found, expected, "{pattern}");
        };
        check("a [1]/*.csv", &[b"a [1]/x.csv"]);
        check(
            "**/*.csv",
            &[b"a [1]/b/y.csv", b"a [1]/x.csv", b"c/\xff.csv"],
        );
        check("c/**", &[b"c/x.txt", b"c/\xff.csv"]);
        check("*/x.*", &[b"a [1]/x.csv", b"c/x.txt"]);
        check("?/*", &[b"c/x.txt", b"c/\xff.csv"]);
        check("none/*", &[]);
        assert!(matches!(files("a["), Err(Fault::NoPattern(_))));
    }

    #[test]
    fn a_path_that_is_not_there_fits_or_does_not() {
        let check = |pattern: &str, path: &str, expected: bool| {
            assert_eq!(fits(pattern, Path::new(path)), expected, "{pattern} {path}")
        };
        check("/none/*.csv", "/none/a.csv", true);
        check("/none/*.csv", "/none/../etc/a.csv", false);
        check("/none/*/a", "/none/../a", false);
        check("/none/**", "/none/a/b/c", true);
        check("/none/**/c", "/none/c", true);
        check("/none/**/b/**/c", "/none/a/b/b/c", true);
        check("/none/**", "/none/a/.b/c", false);
        check("/none/**", "/none", false);
        check("/none/**", "/none/a/../../etc/passwd", false);
        check("none [2024]/*", "none [2024]/a", true);
        check("none [2024]/*", "none 2/a", true);
        check("*.csv", "a.csv", true);
        check("*.csv", "/a.csv", false);
        check("/*.csv", "/a.csv", true);
        check("a/*", "a/.ssh", false);
    }

    #[test]
    fn a_long_path_under_many_wildcards_is_soon_held_against_them() {
        let (pattern, path) = ("**/".repeat(500) + "x", "a/".repeat(2_000));
        assert!(!fits(&pattern, Path::new(&path)));
    }
}
