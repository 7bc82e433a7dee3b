//! The checks that need no build: the dependency rule and the tidy check.

use crate::cargo::Workspace;
use crate::{dependencies, say, tidy};
use anyhow::{Result, bail};

/// How many checks passed and failed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    pub passed: u64,
    pub failed: u64,
}

impl Outcome {
    pub fn into_result(self) -> Result<()> {
        match self.failed {
            0 => Ok(()),
            n => bail!("{n} of {} checks failed", n + self.passed),
        }
    }
}

/// Runs both, and prints every finding.
pub fn run(workspace: &Workspace) -> Outcome {
    let mut outcome = Outcome::default();
    for (name, findings) in [("dependency rule", Ok(dependencies::check(&workspace.packages))), ("tidy check", tidy::check(workspace))] {
        let findings = findings.unwrap_or_else(|error| vec![format!("{error:#}")]);
        for finding in &findings {
            say(finding);
        }
        match findings.is_empty() {
            true => outcome.passed += 1,
            false => outcome.failed += 1,
        }
        say(&format!("{name}: {}", if findings.is_empty() { "ok".to_owned() } else { format!("{} findings", findings.len()) }));
    }
    outcome
}
