//! The checks that need no build: the dependency rule, the tidy check, the places of planted bugs,
//! and cargo-deny's of what comes from others.

use crate::cargo::Workspace;
use crate::{deny, dependencies, planted, say, tidy};
use anyhow::{Result, bail};

/// How many checks passed, failed and could not be made.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
}

/// What came of one check.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    /// The findings, one sentence each.
    Failed(Vec<String>),
    /// What is missing, and how to get it.
    Skipped(String),
}

impl Outcome {
    pub fn into_result(self) -> Result<()> {
        match self.failed {
            0 => Ok(()),
            n => bail!("{n} of {} checks failed", n + self.passed),
        }
    }

    fn add(&mut self, name: &str, verdict: &Verdict) {
        match verdict {
            Verdict::Passed => self.passed += 1,
            Verdict::Failed(findings) => {
                findings.iter().for_each(|finding| say(finding));
                self.failed += 1;
            }
            Verdict::Skipped(_) => self.skipped += 1,
        }
        say(&format!("{name}: {}", verdict.words()));
    }
}

impl Verdict {
    fn of(findings: Result<Vec<String>>) -> Verdict {
        match findings {
            Ok(findings) if findings.is_empty() => Verdict::Passed,
            Ok(findings) => Verdict::Failed(findings),
            Err(error) => Verdict::Failed(vec![format!("{error:#}")]),
        }
    }

    fn words(&self) -> String {
        match self {
            Verdict::Passed => "ok".to_owned(),
            Verdict::Failed(findings) => format!("{} findings", findings.len()),
            Verdict::Skipped(reason) => format!("skipped: {reason}"),
        }
    }
}

/// Runs all, and prints every finding.
pub fn run(workspace: &Workspace) -> Outcome {
    let mut outcome = Outcome::default();
    outcome.add(
        "dependency rule",
        &Verdict::of(Ok(dependencies::check(&workspace.packages))),
    );
    outcome.add("tidy check", &Verdict::of(tidy::check(workspace)));
    outcome.add("planted bugs", &Verdict::of(planted::check(workspace)));
    outcome.add(
        "licences and sources",
        &deny::licences_and_sources(workspace),
    );
    outcome.add("advisories", &deny::advisories(workspace));
    outcome
}
