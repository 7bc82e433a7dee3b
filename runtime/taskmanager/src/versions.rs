//! Which version of the job runs, and which one goes on if that fails in its probation: the one
//! place that knows.
//!
//! While an upgrade is in its probation (`upgrade.probation`), a failure that would end the job
//! puts the version before back. It goes on from the newest checkpoint, whatever the new version
//! did:
//! - that of the upgrade, as long as no other is published: its state is the old version's, and
//!   nothing was committed behind it;
//! - a later one, if the old version can read state that the new one has written. Results were
//!   committed with it, and going back behind it would write them twice; so where the old version
//!   cannot read it, the first checkpoint ends the probation.

use crate::factory::Definition;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use streamrt_checkpoint::PluginEntry;
use streamrt_graph::{Verdict, compare};

/// The version before the one that runs.
pub(crate) struct Before {
    pub definition: Arc<Definition>,
    /// Its components, as the job's store keeps them.
    pub plugins: Vec<PluginEntry>,
    /// The version behind it has published a checkpoint, beside that of the upgrade.
    pub newer_published: bool,
}

struct Probation {
    before: Before,
    since: Instant,
    length: Duration,
}

impl Probation {
    fn is_on(&self) -> bool {
        self.since.elapsed() < self.length
    }
}

/// See the module.
pub(crate) struct Versions(Mutex<Known>);

struct Known {
    running: Arc<Definition>,
    probation: Option<Probation>,
    /// The job was upgraded, by this process or shortly before it began.
    upgraded: bool,
}

impl Versions {
    pub fn new(running: Arc<Definition>) -> Versions {
        Versions(Mutex::new(Known {
            running,
            probation: None,
            upgraded: false,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn running(&self) -> Arc<Definition> {
        self.lock().running.clone()
    }

    /// An upgrade counts: its probation begins.
    pub fn upgraded(&self, to: &Arc<Definition>, before: Before) {
        let mut known = self.lock();
        (known.running, known.upgraded) = (to.clone(), true);
        known.begin(before);
    }

    /// The job goes on with an upgrade that was in its probation when its process ended.
    pub fn go_on_in_probation(&self, before: Before) {
        self.lock().begin(before);
    }

    /// The job goes on with an upgrade, and the version before is not known here: a failure names
    /// the way back.
    pub fn go_on_upgraded(&self) {
        self.lock().upgraded = true;
    }

    /// The new version could not start, and the one before goes on.
    pub fn not_upgraded(&self, running: &Arc<Definition>) {
        let mut known = self.lock();
        (known.running, known.probation) = (running.clone(), None);
    }

    /// The components of the version before that a manifest of this moment names.
    pub fn before(&self) -> Vec<PluginEntry> {
        let known = self.lock();
        known
            .probation
            .iter()
            .filter(|probation| probation.is_on())
            .flat_map(|probation| probation.before.plugins.clone())
            .collect()
    }

    /// The version that runs has published a checkpoint or savepoint.
    pub fn published(&self) {
        self.lock()
            .probation
            .iter_mut()
            .for_each(|probation| probation.before.newer_published = true);
    }

    /// The version that runs has failed. In its probation, the one before runs from now on. The
    /// error says why it cannot.
    pub fn go_back(&self) -> Option<Result<(), String>> {
        let mut known = self.lock();
        let Probation { before, .. } = known.probation.take().filter(Probation::is_on)?;
        if before.newer_published {
            let found = match compare(&known.running.spec, &before.definition.spec) {
                Ok(found) => found,
                Err(error) => return Some(Err(error.message().to_owned())),
            };
            if let Some(operator) = found
                .operators
                .iter()
                .find(|operator| operator.verdict == Verdict::Refused)
            {
                return Some(Err(format!(
                    "operator `{}` could not keep its state: {}",
                    operator.uid,
                    operator.changes.join("; ")
                )));
            }
        }
        (known.running, known.upgraded) = (before.definition, false);
        Some(Ok(()))
    }

    /// How a user goes back to the version before, if there was one.
    pub fn way_back(&self) -> Option<String> {
        let known = self.lock();
        let folder = known.running.configuration.checkpoint_dir.as_deref()?;
        let was_replaced = known
            .running
            .plugins
            .iter()
            .any(|plugin| plugin.replaces.is_some());
        match (was_replaced, known.upgraded) {
            (true, _) => Some(format!(
                "the job was upgraded; to go back to the component that its command names, give the same command with `--from {folder}`"
            )),
            (false, true) => Some(format!(
                "the job was upgraded; to go back, start the version before with `--from {folder}`"
            )),
            (false, false) => None,
        }
    }
}

impl Known {
    fn begin(&mut self, before: Before) {
        let length = self.running.probation();
        self.probation = (!length.is_zero()).then(|| Probation {
            before,
            since: Instant::now(),
            length,
        });
    }
}
