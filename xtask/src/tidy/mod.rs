//! The tidy check: what a reader may count on in every Rust file of the repository, and a ratchet
//! that keeps averages from getting worse.
//!
//! The rules are in [`findings`] and [`injected`], the ratchet in `xtask/ratchet.json`: one limit
//! per figure, lowered by hand when a figure has improved, never raised.

mod injected;
mod mask;
mod source;

use crate::cargo::Workspace;
use crate::say;
use anyhow::{Context, Result};
use serde_json::{Map, Value};
use source::Source;
use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;

/// Nowhere, not even in tests.
const FORBIDDEN: &[&str] = &["todo!(", "unimplemented!(", "dbg!(", "#[ignore"];

/// Not in the runtime: they panic when stderr or stdout is closed. `say!` of `streamrt-types` is
/// for people, sinks are for results.
const PRINTS: &[&str] = &["eprintln!(", "eprint!(", "println!(", "print!("];

/// Checks every Rust file below the root; each finding is a sentence with its place.
///
/// # Errors
/// If a file cannot be read.
pub fn check(workspace: &Workspace) -> Result<Vec<String>> {
    let mut all = Vec::new();
    let mut figures = Figures::default();
    for path in rust_files(&workspace.root, &workspace.target)? {
        let text = fs::read_to_string(&path)
            .with_context(|| format!("{} cannot be read", path.display()))?;
        let name = path
            .strip_prefix(&workspace.root)
            .unwrap_or(&path)
            .to_string_lossy()
            .into_owned();
        let source = Source::new(&text);
        all.extend(findings(&name, &source));
        all.extend(injected::findings(&name, &source));
        figures.add(&name, &source);
    }
    all.extend(figures.compare(&limits(&workspace.root)?));
    Ok(all)
}

/// The limit for each figure.
fn limits(root: &Path) -> Result<Map<String, Value>> {
    let path = root.join("xtask/ratchet.json");
    let text =
        fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    serde_json::from_str(&text).context("xtask/ratchet.json is no JSON object")
}

fn rust_files(root: &Path, target: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in
            fs::read_dir(&folder).with_context(|| format!("{} cannot be read", folder.display()))?
        {
            let path = entry?.path();
            let hidden = path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with('.') || name == "target");
            if path.is_dir() && !hidden && path != target {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Files that hold tests alone: those of a `tests` folder, but for the crate's own `src`, and the
/// modules called `tests`.
fn is_test_file(name: &str) -> bool {
    name.starts_with("tests/") || name.contains("/tests/") || name.ends_with("/tests.rs")
}

fn findings(name: &str, source: &Source) -> Vec<String> {
    let mut all = Vec::new();
    if !source.opens_with_a_description() {
        all.push(format!(
            "{name}: opens without `//!`, which says what the file is for"
        ));
    }
    all.extend(sizes(name, source));
    for (number, code) in source.code.iter().enumerate() {
        let place = format!("{name}:{}", number + 1);
        all.extend(
            FORBIDDEN
                .iter()
                .filter(|word| contains_word(code, word))
                .map(|word| format!("{place}: `{word}` has no place here")),
        );
        if is_runtime(name) && !source.is_test(number) {
            let prints = PRINTS.iter().filter(|word| contains_word(code, word));
            all.extend(
                prints
                    .map(|word| format!("{place}: `{word}` panics when nobody reads; use `say!`")),
            );
        }
        if code.contains(".unwrap()") && !is_test_file(name) && !source.is_test(number) {
            all.push(format!("{place}: `.unwrap()` outside of tests; say why it holds with `expect`, or return an error"));
        }
    }
    all
}

/// The file and the functions that are too long.
fn sizes(name: &str, source: &Source) -> Vec<String> {
    let mut all = Vec::new();
    if source.n_lines() > FILE_LINES_MAX {
        all.push(format!(
            "{name}: has {} lines, more than {FILE_LINES_MAX}: find the second noun",
            source.n_lines()
        ));
    }
    let long = source
        .functions
        .iter()
        .filter(|function| function.lines > FUNCTION_LINES_MAX && !source.has_reason(function));
    all.extend(long.map(|function| {
        let place = format!("{name}:{}", function.start + 1);
        format!(
            "{place}: function {} has {} lines, more than {FUNCTION_LINES_MAX}, and no comment above says why it is long",
            function.name, function.lines
        )
    }));
    all
}

fn is_runtime(name: &str) -> bool {
    name.starts_with("runtime/") && !is_test_file(name) && !name.ends_with("build.rs")
}

/// `dbg!(` but not `my_dbg!(`.
fn contains_word(code: &str, word: &str) -> bool {
    code.match_indices(word)
        .any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// What the ratchet measures, outside of tests.
#[derive(Default)]
struct Figures {
    function_lines: Vec<usize>,
    lines: usize,
    expects: usize,
    allows: usize,
}

impl Figures {
    fn add(&mut self, name: &str, source: &Source) {
        if is_test_file(name) {
            return;
        }
        let functions = source
            .functions
            .iter()
            .filter(|function| !source.is_test(function.start));
        self.function_lines
            .extend(functions.map(|function| function.lines));
        for (_, code) in source
            .code
            .iter()
            .enumerate()
            .filter(|(number, _)| !source.is_test(*number))
        {
            self.lines += 1;
            self.expects += code.matches(".expect(").count();
            self.allows += code.matches("#[allow(").count() + code.matches("#![allow(").count();
        }
    }

    fn values(&self) -> [(&'static str, usize); 4] {
        let mut lengths = self.function_lines.clone();
        lengths.sort_unstable();
        let percentile = |percent: usize| {
            lengths
                .get(lengths.len() * percent / 100)
                .copied()
                .unwrap_or(0)
        };
        [
            ("function_lines_median", percentile(50)),
            ("function_lines_90th_percentile", percentile(90)),
            (
                "expects_in_10000_lines",
                self.expects * 10_000 / self.lines.max(1),
            ),
            ("allow_attributes", self.allows),
        ]
    }

    fn compare(&self, limits: &Map<String, Value>) -> Vec<String> {
        let mut worse = Vec::new();
        for (name, value) in self.values() {
            match limits.get(name).and_then(Value::as_u64) {
                None => worse.push(format!(
                    "xtask/ratchet.json: has no limit for {name}, which is {value}"
                )),
                Some(limit) if value as u64 > limit => worse.push(format!(
                    "ratchet: {name} is {value}, but has been {limit} already"
                )),
                Some(limit) if (value as u64) < limit => say(&format!(
                    "ratchet: {name} is {value}; xtask/ratchet.json can be lowered from {limit}"
                )),
                Some(_) => {}
            }
        }
        worse
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, text: &str, expected: &[&str]) {
        assert_eq!(findings(name, &Source::new(text)), expected);
    }

    #[test]
    fn a_good_file_has_no_findings() {
        check(
            "a.rs",
            "//! For a.\nfn a() -> u8 {\n    \".unwrap() todo!()\".len() as u8 // dbg!(1)\n}\n",
            &[],
        );
    }

    #[test]
    fn every_rule_is_kept() {
        check(
            "a.rs",
            "fn a() {}\n",
            &["a.rs: opens without `//!`, which says what the file is for"],
        );
        check(
            "a.rs",
            &format!("//! A.\n{}", "\n".repeat(600)),
            &["a.rs: has 601 lines, more than 600: find the second noun"],
        );
        let long = format!("fn a() {{\n{}}}\n", "    b();\n".repeat(69));
        check(
            "a.rs",
            &format!("//! A.\n{long}"),
            &[
                "a.rs:2: function a has 71 lines, more than 70, and no comment above says why it is long",
            ],
        );
        check(
            "a.rs",
            &format!("//! A.\n// Long, as it has an arm for each code.\n{long}"),
            &[],
        );
        check(
            "a.rs",
            "//! A.\nfn a() { todo!() }\n",
            &["a.rs:2: `todo!(` has no place here"],
        );
        check(
            "a.rs",
            "//! A.\n#[ignore]\nfn a() { my_dbg!(1) }\n",
            &["a.rs:2: `#[ignore` has no place here"],
        );
        let unwrap = "a.rs:2: `.unwrap()` outside of tests; say why it holds with `expect`, or return an error";
        check("a.rs", "//! A.\nfn a() { b().unwrap() }\n", &[unwrap]);
    }

    #[test]
    fn tests_may_unwrap() {
        check(
            "a.rs",
            "//! A.\n#[cfg(test)]\nmod tests {\n    fn a() { b().unwrap() }\n}\n",
            &[],
        );
        for name in [
            "runtime/x/src/tests.rs",
            "tests/tests/cli.rs",
            "runtime/x/src/tests/a.rs",
        ] {
            check(name, "//! A.\nfn a() { b().unwrap() }\n", &[]);
        }
    }

    #[test]
    fn the_ratchet_catches_what_got_worse() {
        let mut figures = Figures::default();
        figures.add(
            "a.rs",
            &Source::new("//! A.\n#[allow(dead_code)]\nfn a() {\n    b().expect(\"c\");\n}\n"),
        );
        let limits = |median: u64| serde_json::json!({ "function_lines_median": median, "function_lines_90th_percentile": 3, "expects_in_10000_lines": 2000, "allow_attributes": 1 });
        assert_eq!(
            figures.compare(limits(3).as_object().unwrap()),
            Vec::<String>::new()
        );
        assert_eq!(
            figures.compare(limits(2).as_object().unwrap()),
            ["ratchet: function_lines_median is 3, but has been 2 already"]
        );
        assert_eq!(figures.compare(&Map::new()).len(), 4);
    }
}
