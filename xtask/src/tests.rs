//! `cargo xtask test`: the checks, the build, and every test of the workspace, summed up in the
//! last line.

use crate::build::{self, FEATURES, Guests, Runtime};
use crate::cargo::{Workspace, words};
use crate::{checks, deny, say, servers};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::process::Stdio;

/// What the test programs reported.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
}

/// Runs everything, and says at the end how much of it passed. A check counts as a test.
///
/// # Errors
/// If anything failed.
pub fn test(workspace: &Workspace, filter: Option<&str>) -> Result<()> {
    servers::ensure()?;
    deny::ensure(workspace)?;
    let checked = checks::run(workspace);
    build::build(workspace, Runtime::Whole, Guests::All)?;
    let (mut tally, succeeded) = run_tests(workspace, filter)?;
    tally.passed += checked.passed;
    tally.failed += checked.failed;
    tally.skipped += checked.skipped;
    println!("{}", tally.sentence());
    if tally.failed > 0 || !succeeded {
        bail!("the tests did not pass");
    }
    Ok(())
}

/// Passes on what cargo prints, and counts. The second value is whether cargo succeeded: a test
/// program that does not compile or dies has no result line.
fn run_tests(workspace: &Workspace, filter: Option<&str>) -> Result<(Tally, bool)> {
    let mut command = workspace.cargo(&[
        "test",
        "--release",
        "--workspace",
        "--no-fail-fast",
        "--features",
        FEATURES,
    ]);
    // The same binary as `cargo xtask build` makes, or cargo would put another one in its place.
    command
        .args(filter)
        .env("STREAMRT_BIN", workspace.streamrt())
        .env("STREAMRT_COMPONENTS", workspace.components());
    say(&format!("running `{}`", words(&command)));
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("cargo cannot be started")?;
    let mut tally = Tally::default();
    let output = child
        .stdout
        .take()
        .context("the output of cargo is missing")?;
    // A test may print what is not UTF-8, so lines are read as bytes.
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("the output of cargo cannot be read")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        tally.add(&line);
    }
    let status = child.wait().context("the end of cargo was missed")?;
    Ok((tally, status.success()))
}

impl Tally {
    /// Counts a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0
    /// filtered out; finished in 0.00s`.
    fn add(&mut self, line: &str) {
        let Some((_, counts)) = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for part in counts.split("; ") {
            let Some((number, what)) = part.split_once(' ') else {
                continue;
            };
            let number = number.parse().unwrap_or(0);
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.skipped += number,
                _ => {}
            }
        }
    }

    fn sentence(&self) -> String {
        let skipped = if self.skipped > 0 {
            format!(", {} skipped", self.skipped)
        } else {
            String::new()
        };
        format!("{} passed, {} failed{skipped}", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    fn check(lines: &[&str], expected: &str) {
        let mut tally = Tally::default();
        lines.iter().for_each(|line| tally.add(line));
        assert_eq!(tally.sentence(), expected);
    }

    #[test]
    fn result_lines_are_summed_up() {
        let ok = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 2 filtered out; finished in 0.00s";
        let bad = "test result: FAILED. 4 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        check(&["running 3 tests", ok], "3 passed, 0 failed");
        check(
            &[ok, "test a ... FAILED", bad],
            "7 passed, 1 failed, 2 skipped",
        );
        check(
            &["test result: nonsense", "3 passed; 1 failed"],
            "0 passed, 0 failed",
        );
    }
}
