//! `cargo xtask test planted`: shows that the tests of recovery catch bugs that are known to be
//! bugs.
//!
//! Each bug of `tests/planted.json` is planted in a copy of the repository. The copy has a target
//! folder of its own, which begins as a copy of ours, so that no foreign crate is built again. The
//! tests run against the binary with the bug, and one must fail; without it they must pass.

use crate::build::{self, FEATURES, Guests, Runtime};
use crate::cargo::{Workspace, run};
use crate::say;
use anyhow::{Context, Error, Result, bail};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::ops::Range;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A place where the code is made wrong.
struct Bug<'a> {
    name: &'a str,
    /// Relative to the root.
    file: &'a str,
    /// Occurs once in the file, however the lines are broken.
    find: &'a str,
    replace: &'a str,
    /// Part of the names of the tests that must fail; or `simulation`, which must find it in the
    /// seeds that the test command runs.
    caught_by: &'a str,
}

const SIMULATION: &str = "simulation";

impl<'a> Bug<'a> {
    fn from_json(bug: &'a Value) -> Result<Bug<'a>> {
        let text = |key: &str| {
            bug[key]
                .as_str()
                .with_context(|| format!("tests/planted.json: a bug without `{key}`"))
        };
        Ok(Bug {
            name: text("name")?,
            file: text("file")?,
            find: text("find")?,
            replace: text("replace")?,
            caught_by: text("caught_by")?,
        })
    }

    /// The program that has the bug.
    fn binary(&self) -> &'static str {
        if self.caught_by == SIMULATION {
            "streamrt-sim"
        } else {
            "streamrt"
        }
    }

    /// Where the bug belongs in the text of its file.
    ///
    /// # Errors
    /// A sentence, if it does not occur there exactly once.
    fn place(&self, text: &str) -> Result<Range<usize>, String> {
        let (text, find) = (tokens(text), tokens(self.find));
        let is_it = |window: &&[(usize, char)]| {
            let (found, wanted) = (window.iter(), find.iter());
            found.zip(wanted).all(|((_, a), (_, b))| a == b)
        };
        let mut places = text.windows(find.len().max(1)).filter(is_it);
        match (places.next(), places.next()) {
            (Some([(start, _), .., (last, _)]), None) => Ok(*start..last + 1),
            _ => Err(format!(
                "tests/planted.json: the place of `{}` does not stand once in {}",
                self.name, self.file
            )),
        }
    }
}

/// Everything that does not depend on where lines are broken, with its place: no white space, and
/// no comma before a closing bracket.
fn tokens(text: &str) -> Vec<(usize, char)> {
    let mut tokens: Vec<(usize, char)> = Vec::new();
    for (at, c) in text.char_indices().filter(|(_, c)| !c.is_whitespace()) {
        if matches!(c, ')' | ']' | '}') {
            tokens.pop_if(|(_, before)| *before == ',');
        }
        tokens.push((at, c));
    }
    tokens
}

/// The copy that bugs are planted in.
struct Plot {
    root: PathBuf,
    target: PathBuf,
    /// The test program, built without bugs, if one of them needs it.
    tests: PathBuf,
    components: PathBuf,
}

/// Plants every bug in turn whose name contains `filter`, and prints which test caught it.
///
/// # Errors
/// If a bug is not caught, its place is gone, or the tests fail without a bug.
pub fn test(workspace: &Workspace, filter: &str) -> Result<()> {
    let planted = planted(workspace)?;
    let mut bugs = planted
        .iter()
        .map(Bug::from_json)
        .collect::<Result<Vec<_>>>()?;
    bugs.retain(|bug| bug.name.contains(filter) || bug.caught_by.contains(filter));
    let runs_tests = bugs.iter().any(|bug| bug.caught_by != SIMULATION);
    if runs_tests {
        build::build(workspace, Runtime::Whole, Guests::All)?;
    }
    let plot = Plot::new(workspace, runs_tests)?;
    for (binary, by) in [("streamrt", ""), ("streamrt-sim", SIMULATION)] {
        if bugs.iter().any(|bug| bug.binary() == binary) {
            plot.build(binary)?;
            if let Some(failed) = plot.failing(by)? {
                bail!("without a bug, `{failed}` fails");
            }
        }
    }
    let mut missed = Vec::new();
    for bug in &bugs {
        match plot.plant(bug)? {
            Some(test) => println!("caught: {} ({test})", bug.name),
            None => {
                println!("MISSED: {}", bug.name);
                missed.push(bug.name);
            }
        }
    }
    println!(
        "{} of {} planted bugs were caught",
        bugs.len() - missed.len(),
        bugs.len()
    );
    if missed.is_empty() {
        Ok(())
    } else {
        bail!("not caught: {}", missed.join("; "))
    }
}

/// Checks that the place of each bug is there; each finding is a sentence.
///
/// # Errors
/// If the list or a file cannot be read.
pub fn check(workspace: &Workspace) -> Result<Vec<String>> {
    let mut gone = Vec::new();
    for bug in &planted(workspace)? {
        let bug = Bug::from_json(bug)?;
        let text = fs::read_to_string(workspace.root.join(bug.file))
            .with_context(|| format!("tests/planted.json: {} cannot be read", bug.file))?;
        gone.extend(bug.place(&text).err());
    }
    Ok(gone)
}

fn planted(workspace: &Workspace) -> Result<Vec<Value>> {
    let text = fs::read_to_string(workspace.root.join("tests/planted.json"))
        .context("tests/planted.json cannot be read")?;
    serde_json::from_str(&text).context("tests/planted.json cannot be read")
}

impl Plot {
    fn new(workspace: &Workspace, runs_tests: bool) -> Result<Plot> {
        let folder = workspace.target.join("planted");
        let (root, target) = (folder.join("repository"), folder.join("target"));
        if root.exists() {
            fs::remove_dir_all(&root).context("the old copy cannot be removed")?;
        }
        copy(&workspace.root, &root, &workspace.target)?;
        if !target.exists() {
            say("copying the target folder");
            fs::create_dir_all(&target)?;
            run(Command::new("cp")
                .arg("-a")
                .args([workspace.target.join("release"), target.clone()]))?;
        }
        // A copy too: ours may be built anew meanwhile.
        let tests = folder.join("recovery");
        if runs_tests {
            fs::copy(test_program(workspace)?, &tests)
                .context("the tests of recovery cannot be copied")?;
        }
        Ok(Plot {
            root,
            target,
            tests,
            components: workspace.components(),
        })
    }

    fn build(&self, binary: &str) -> Result<()> {
        say("building the copy");
        let mut command = Command::new("cargo");
        command
            .current_dir(&self.root)
            .env("CARGO_TARGET_DIR", &self.target);
        run(command.args([
            "build",
            "--quiet",
            "--release",
            "--workspace",
            "--bin",
            binary,
            "--features",
            FEATURES,
        ]))
    }

    /// Builds with a bug, runs the tests that should catch it, and takes it out again. Returns the
    /// test that failed.
    fn plant(&self, bug: &Bug<'_>) -> Result<Option<String>> {
        let path = self.root.join(bug.file);
        let whole =
            fs::read_to_string(&path).with_context(|| format!("{} cannot be read", bug.file))?;
        let place = bug.place(&whole).map_err(Error::msg)?;
        let mut wrong = whole.clone();
        wrong.replace_range(place, bug.replace);
        fs::write(&path, wrong)?;
        let built = self.build(bug.binary());
        let failed = built.and_then(|()| self.failing(bug.caught_by));
        fs::write(&path, whole)?;
        failed
    }

    fn failing(&self, caught_by: &str) -> Result<Option<String>> {
        match caught_by {
            SIMULATION => self.failing_seed(),
            filter => self.failing_test(filter),
        }
    }

    /// What the simulation finds, if it finds anything.
    fn failing_seed(&self) -> Result<Option<String>> {
        let mut command = Command::new(self.target.join("release/streamrt-sim"));
        let output = command.env("RUST_BACKTRACE", "0").output();
        let output = output.context("the simulation cannot be started")?;
        let text = String::from_utf8_lossy(&output.stderr);
        let found = text.lines().find(|line| !line.is_empty());
        Ok((!output.status.success()).then(|| found.unwrap_or("it ended").to_owned()))
    }

    /// The first test whose name contains `filter` and that fails; the rest is not waited for.
    fn failing_test(&self, filter: &str) -> Result<Option<String>> {
        let mut command = Command::new(&self.tests);
        command
            .args([filter, "--test-threads", "2"])
            .env("RUST_BACKTRACE", "0")
            .env("STREAMRT_SEED", "7");
        command
            .env("STREAMRT_BIN", self.target.join("release/streamrt"))
            .env("STREAMRT_COMPONENTS", &self.components);
        // A group of its own, with the jobs that the tests have started.
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0);
        let mut tests = command
            .spawn()
            .context("the tests of recovery cannot be started")?;
        let failed = tests.stdout.take().and_then(first_failure);
        if failed.is_some() {
            let group = format!("-{}", tests.id());
            Command::new("kill")
                .args(["-KILL", "--", &group])
                .status()
                .context("the tests cannot be ended")?;
        }
        let status = tests
            .wait()
            .context("the tests of recovery cannot be waited for")?;
        if failed.is_none() && !status.success() {
            bail!("the tests of recovery ended without a result");
        }
        Ok(failed)
    }
}

/// Reads what a test program says until a test has failed, or to the end.
fn first_failure(stdout: impl Read) -> Option<String> {
    let lines = BufReader::new(stdout).lines().map_while(Result::ok);
    lines.into_iter().find_map(|line| {
        Some(
            line.strip_prefix("test ")?
                .strip_suffix(" ... FAILED")?
                .to_owned(),
        )
    })
}

/// The newest test program of recovery.
fn test_program(workspace: &Workspace) -> Result<PathBuf> {
    let mut command = workspace.cargo(&[
        "test",
        "--release",
        "--workspace",
        "--test",
        "recovery",
        "--no-run",
        "--message-format",
        "json",
    ]);
    command.args(["--features", FEATURES]);
    let output = command.output().context("cargo cannot be started")?;
    let artifact = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_recovery = message["target"]["name"] == "recovery";
        is_recovery
            .then(|| message["executable"].as_str().map(PathBuf::from))
            .flatten()
    };
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .find_map(artifact)
        .context("the tests of recovery could not be built")
}

/// Copies a folder without target folders and hidden files.
fn copy(from: &Path, to: &Path, target: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, name) = (entry.path(), entry.file_name());
        if source == *target || name == "target" || name.to_string_lossy().starts_with('.') {
            continue;
        }
        match source.is_dir() {
            true => copy(&source, &to.join(name), target)?,
            false => drop(fs::copy(&source, to.join(name))?),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is in `text` where `find` is looked for.
    fn found<'a>(text: &'a str, find: &str) -> Option<&'a str> {
        let bug = Bug {
            name: "a bug",
            file: "a.rs",
            find,
            replace: "",
            caught_by: "",
        };
        bug.place(text).ok().map(|place| &text[place])
    }

    #[test]
    fn a_place_is_found_however_its_lines_are_broken() {
        let text = "fn a() {\n    all\n        .push(\n            one,\n        );\n}\n";
        let place = "all\n        .push(\n            one,\n        );";
        assert_eq!(found(text, "all.push(one);"), Some(place));
        assert_eq!(found(text, "all.push(other);"), None);
        assert_eq!(found("a(); a();", "a();"), None, "it stands there twice");
    }
}
