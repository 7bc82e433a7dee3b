//! What comes from others: cargo-deny looks at the licences and sources of all crates, and for
//! known weaknesses in them.
//!
//! The rules are in `deny.toml`. What cannot be checked here, for want of the program or of the
//! database of advisories, is skipped by name: it neither passes nor fails.

use crate::cargo::{Workspace, run, words};
use crate::checks::Verdict;
use crate::say;
use anyhow::Result;
use std::process::Command;

/// The release for which `deny.toml` is written.
const VERSION: &str = "0.20.2";

/// How cargo-deny reports that it has no advisories to compare with.
const NO_ADVISORIES: &str = "advisory database";

/// Installs cargo-deny where it is missing; some minutes of building.
///
/// # Errors
/// If that fails.
pub fn ensure(workspace: &Workspace) -> Result<()> {
    if is_there(workspace) {
        return Ok(());
    }
    let mut command = install(workspace);
    say(&format!(
        "installing cargo-deny with `{}`; this takes some minutes",
        words(&command)
    ));
    run(&mut command)
}

/// Licences, and that every crate comes from crates.io or from here.
pub fn licences_and_sources(workspace: &Workspace) -> Verdict {
    verdict(workspace, &["bans", "licenses", "sources"])
}

/// Known weaknesses, from RustSec's database, which is fetched.
pub fn advisories(workspace: &Workspace) -> Verdict {
    verdict(workspace, &["advisories"])
}

fn verdict(workspace: &Workspace, which: &[&str]) -> Verdict {
    if !is_there(workspace) {
        return Verdict::Skipped(format!(
            "cargo-deny is not there; `{}` installs it",
            words(&install(workspace))
        ));
    }
    match workspace
        .cargo(&[
            "deny",
            "--log-level",
            "error",
            "check",
            "--hide-inclusion-graph",
        ])
        .args(which)
        .output()
    {
        Ok(output) if output.status.success() => Verdict::Passed,
        Ok(output) => failed(&String::from_utf8_lossy(&output.stderr)),
        Err(error) => Verdict::Failed(vec![format!("cargo cannot be started: {error}")]),
    }
}

/// What cargo-deny complains of.
fn failed(report: &str) -> Verdict {
    match report.lines().find(|line| line.contains(NO_ADVISORIES)) {
        Some(line) => Verdict::Skipped(format!(
            "RustSec's data base cannot be had: {}",
            line.trim()
        )),
        None => Verdict::Failed(
            report
                .lines()
                .filter(|line| !line.trim().is_empty())
                .map(str::to_owned)
                .collect(),
        ),
    }
}

fn is_there(workspace: &Workspace) -> bool {
    workspace
        .cargo(&["deny", "--version"])
        .output()
        .is_ok_and(|output| output.status.success())
}

fn install(workspace: &Workspace) -> Command {
    workspace.cargo(&["install", "--locked", &format!("cargo-deny@{VERSION}")])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_missing_advisories_are_skipped() {
        let away = "2026 [ERROR] failed to fetch advisory database https://example.org: failed to clone\nCloning\n";
        assert!(
            matches!(failed(away), Verdict::Skipped(reason) if reason.contains("failed to clone"))
        );
        let found = "error[rejected]: failed to satisfy license requirements\n\n  a = 1.0\n";
        assert_eq!(
            failed(found),
            Verdict::Failed(vec![
                "error[rejected]: failed to satisfy license requirements".into(),
                "  a = 1.0".into()
            ])
        );
    }
}
