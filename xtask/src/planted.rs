//! `cargo xtask test planted`: shows that the tests of recovery catch bugs that are known to be
//! bugs.
//!
//! Each bug of `tests/planted.json` is planted in a copy of the repository. The copy has a target
//! folder of its own, which begins as a copy of ours, so that no foreign crate is built again. The
//! tests run against the binary with the bug, and one must fail; without it they must pass.

use crate::build::{self, FEATURES, Guests, Runtime};
use crate::cargo::{Workspace, run};
use crate::say;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A place where the code is made wrong.
struct Bug<'a> {
    name: &'a str,
    /// Relative to the root.
    file: &'a str,
    /// Stands in the file once.
    find: &'a str,
    replace: &'a str,
    /// Part of the names of the tests that must fail.
    caught_by: &'a str,
}

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
}

/// The copy that bugs are planted in.
struct Plot {
    root: PathBuf,
    target: PathBuf,
    /// The test program, built without bugs.
    tests: PathBuf,
    components: PathBuf,
}

/// Plants every bug in turn whose name contains `filter`, and prints which test caught it.
///
/// # Errors
/// If a bug is not caught, its place is gone, or the tests fail without a bug.
pub fn test(workspace: &Workspace, filter: &str) -> Result<()> {
    build::build(workspace, Runtime::Whole, Guests::All)?;
    let text = fs::read_to_string(workspace.root.join("tests/planted.json"))
        .context("tests/planted.json cannot be read")?;
    let planted: Vec<Value> =
        serde_json::from_str(&text).context("tests/planted.json cannot be read")?;
    let mut bugs = planted
        .iter()
        .map(Bug::from_json)
        .collect::<Result<Vec<_>>>()?;
    bugs.retain(|bug| bug.name.contains(filter));
    let plot = Plot::new(workspace)?;
    plot.build()?;
    if let Some(failed) = plot.failing_test("")? {
        bail!("without a bug, `{failed}` fails");
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

impl Plot {
    fn new(workspace: &Workspace) -> Result<Plot> {
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
        fs::copy(test_program(workspace)?, &tests)
            .context("the tests of recovery cannot be copied")?;
        Ok(Plot {
            root,
            target,
            tests,
            components: workspace.components(),
        })
    }

    fn build(&self) -> Result<()> {
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
            "streamrt",
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
        if whole.matches(bug.find).count() != 1 {
            bail!(
                "the place of `{}` does not stand once in {}",
                bug.name,
                bug.file
            );
        }
        fs::write(&path, whole.replace(bug.find, bug.replace))?;
        let failed = self.build().and_then(|()| self.failing_test(bug.caught_by));
        fs::write(&path, whole)?;
        failed
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
