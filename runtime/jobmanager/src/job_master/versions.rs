//! Which version of the job runs, and which one goes on if that fails in its probation.
//!
//! While an upgrade is in its probation (`upgrade.probation`), a failure that would end the job puts
//! the version before back. It goes on from the newest checkpoint, whatever the new version did:
//! - that of the upgrade, as long as no other is published: its state is the old version's, and
//!   nothing was committed after it;
//! - a later one, if the old version can read state that the new one has written. Results were
//!   committed with it, and going back before it would write them twice; so where the old version
//!   cannot read it, the first checkpoint ends the probation.

use super::version::Version;
use std::sync::Arc;
use std::time::Duration;
use streamrt_checkpoint::PluginEntry;
use streamrt_graph::{Verdict, compare};

/// The version before the one that runs.
#[derive(Debug, Clone)]
pub(crate) struct Before {
    pub version: Arc<Version>,
    /// Its components, as the job's store keeps them.
    pub plugins: Vec<PluginEntry>,
    /// The version after it has published a checkpoint, beside that of the upgrade.
    pub newer_published: bool,
}

#[derive(Debug)]
struct Probation {
    before: Before,
    since: Duration,
    length: Duration,
}

impl Probation {
    fn is_on(&self, now: Duration) -> bool {
        now.saturating_sub(self.since) < self.length
    }
}

/// See the module. `now` is the time since the JobMaster began.
#[derive(Debug)]
pub(crate) struct Versions {
    running: Arc<Version>,
    probation: Option<Probation>,
    /// The job was upgraded, by this process or shortly before it began.
    upgraded: bool,
    n_made: u32,
}

impl Versions {
    pub fn new(running: Arc<Version>) -> Versions {
        let n_made = running.number;
        Versions {
            running,
            probation: None,
            upgraded: false,
            n_made,
        }
    }

    pub fn running(&self) -> &Arc<Version> {
        &self.running
    }

    /// The number of the next version that is made.
    pub fn next_number(&mut self) -> u32 {
        self.n_made += 1;
        self.n_made
    }

    /// An upgrade counts: its probation begins.
    pub fn upgraded(&mut self, to: Arc<Version>, before: Before, now: Duration) {
        (self.running, self.upgraded) = (to, true);
        self.begin(before, now);
    }

    /// The job goes on with an upgrade that was in its probation when its process ended.
    pub fn go_on_in_probation(&mut self, before: Before, now: Duration) {
        self.begin(before, now);
    }

    /// The job goes on with an upgrade, and the version before is not known here: a failure names
    /// the way back.
    pub fn go_on_upgraded(&mut self) {
        self.upgraded = true;
    }

    /// The new version could not start, and the one before goes on.
    pub fn not_upgraded(&mut self, running: Arc<Version>) {
        (self.running, self.probation) = (running, None);
    }

    /// The components of the version before that a manifest of this moment names.
    pub fn before(&self, now: Duration) -> Vec<PluginEntry> {
        let on = self
            .probation
            .iter()
            .filter(|probation| probation.is_on(now));
        on.flat_map(|probation| probation.before.plugins.clone())
            .collect()
    }

    /// The version that runs has published a checkpoint or savepoint.
    pub fn published(&mut self) {
        self.probation
            .iter_mut()
            .for_each(|probation| probation.before.newer_published = true);
    }

    /// The version that runs has failed. In its probation, the one before runs from now on. The
    /// error says why it cannot.
    pub fn go_back(&mut self, now: Duration) -> Option<Result<(), String>> {
        let probation = self.probation.take();
        let Probation { before, .. } = probation.filter(|probation| probation.is_on(now))?;
        if before.newer_published {
            let found = match compare(&self.running.plan.spec, &before.version.plan.spec) {
                Ok(found) => found,
                Err(error) => return Some(Err(error.message().to_owned())),
            };
            let mut operators = found.operators.iter();
            if let Some(operator) = operators.find(|found| found.verdict == Verdict::Refused) {
                return Some(Err(format!(
                    "operator `{}` could not keep its state: {}",
                    operator.uid,
                    operator.changes.join("; ")
                )));
            }
        }
        (self.running, self.upgraded) = (before.version, false);
        Some(Ok(()))
    }

    /// How a user goes back to the version before, if there was one.
    pub fn way_back(&self) -> Option<String> {
        let plan = &self.running.plan;
        let folder = plan.configuration.checkpoint_dir.as_deref()?;
        let was_replaced = plan.components.iter().any(|c| c.replaces.is_some());
        match (was_replaced, self.upgraded) {
            (true, _) => Some(format!(
                "the job was upgraded; to go back to the component that its command names, give the same command with `--from {folder}`"
            )),
            (false, true) => Some(format!(
                "the job was upgraded; to go back, start the version before with `--from {folder}`"
            )),
            (false, false) => None,
        }
    }

    fn begin(&mut self, before: Before, now: Duration) {
        let length = self.running.probation();
        self.probation = (!length.is_zero()).then_some(Probation {
            before,
            since: now,
            length,
        });
    }
}
