//! Replacing a running job by a new version of itself.
//!
//! 1. What cannot keep its state is refused, and so is code that cannot be started: every instance
//!    of it is made and opened before anything happens to the job. 2. If only code has changed, the
//!    tasks take it after the barrier of one checkpoint, which names the new component. Sources,
//!    queues and state stay where they are. 3. Else the job stops with a checkpoint, and the new
//!    version starts from it.
//!
//! Invariant: a checkpoint is all of one version, the one that its manifest names. What new code
//! does after the barrier belongs to the next checkpoint, which is never published unless this one
//! was; a failure before that starts the old version from the checkpoint before.

use super::core::{Core, Pending};
use super::version::Version;
use super::wishes::Awaited;
use super::{Granted, StoreFailure, StoreReply, StoreRequest};
use std::collections::VecDeque;
use std::sync::Arc;
use streamrt_checkpoint::{PluginEntry, Request};
use streamrt_graph::{JobSpec, Verdict, compare};
use streamrt_rpc::{Component, JobPlan, ToTaskManager, WireError};
use streamrt_types::{Error, Result, code};

/// An upgrade in place that was begun.
#[derive(Debug)]
pub(crate) struct Swap {
    pub request: u64,
    pub version: Arc<Version>,
    /// Its components as the store has them.
    pub plugins: Vec<PluginEntry>,
}

/// A new version that starts when the job has stopped.
#[derive(Debug)]
pub(crate) struct Replacement {
    pub request: u64,
    pub version: Arc<Version>,
}

/// An upgrade that is made ready.
#[derive(Debug)]
struct Preparing {
    request: u64,
    version: Arc<Version>,
    in_place: bool,
    /// Tasks that start after this have no instance of the new code.
    n_starts: u64,
}

/// The upgrades of a job: one after the other.
#[derive(Debug, Default)]
pub(crate) struct Upgrades {
    /// The one that is at work, in whatever stage.
    current: Option<u64>,
    preparing: Option<Preparing>,
    /// Kept, and waiting for the coordinator.
    ready: Option<Swap>,
    replacement: Option<Replacement>,
    waiting: VecDeque<(u64, JobPlan)>,
}

impl Upgrades {
    pub fn take_replacement(&mut self) -> Option<Replacement> {
        self.replacement.take()
    }

    /// The numbers of all that are not answered.
    pub fn close(&mut self) -> Vec<u64> {
        let waiting = std::mem::take(&mut self.waiting);
        let current = self.current.take();
        current
            .into_iter()
            .chain(waiting.into_iter().map(|(request, _)| request))
            .collect()
    }
}

impl Core {
    pub(super) fn ask_for_upgrade(&mut self, request: u64, plan: JobPlan) {
        self.upgrades.waiting.push_back((request, plan));
        self.next_upgrade();
    }

    fn next_upgrade(&mut self) {
        while self.upgrades.current.is_none() {
            let Some((request, plan)) = self.upgrades.waiting.pop_front() else {
                return;
            };
            self.upgrades.current = Some(request);
            if let Err(error) = self.prepare_upgrade(request, plan) {
                self.upgrades.current = None;
                self.answer(request, Err(error.into()));
            }
        }
    }

    fn prepare_upgrade(&mut self, request: u64, mut plan: JobPlan) -> Result<()> {
        let old = self.version().clone();
        let same_shape = check_compatible(&old.plan.spec, &plan.spec)?;
        self.check_checkpoints()?;
        plan.components = instead_of(&old.plan.components, plan.components);
        plan.configuration = old.plan.configuration.clone();
        (plan.parallelism, plan.grants) = (old.plan.parallelism, old.plan.grants.clone());
        let max = old.plan.max_parallelism;
        let version = Arc::new(Version::new(self.versions.next_number(), plan, Some(max))?);
        let in_place = same_shape && old.graph.vertices == version.graph.vertices;
        let step = self.await_answer(Pending::Upgrade);
        self.send(ToTaskManager::PrepareUpgrade {
            step,
            version: version.number,
            plan: version.plan.clone(),
            in_place,
        });
        self.upgrades.preparing = Some(Preparing {
            request,
            version,
            in_place,
            n_starts: self.n_starts,
        });
        Ok(())
    }

    /// Answers whoever waits for an upgrade; the next one may begin.
    pub(super) fn finish_upgrade(&mut self, request: u64, result: Result<Granted, WireError>) {
        self.answer(request, result);
        if self.upgrades.current == Some(request) {
            let waiting = std::mem::take(&mut self.upgrades.waiting);
            self.upgrades = Upgrades {
                waiting,
                ..Upgrades::default()
            };
            self.next_upgrade();
        }
    }

    /// A TaskManager has made the new code.
    pub(super) fn upgrade_prepared(&mut self, result: Result<(), WireError>) {
        let Some(preparing) = &self.upgrades.preparing else {
            return;
        };
        let request = preparing.request;
        if let Err(error) = result {
            return self.finish_upgrade(request, Err(error));
        }
        if preparing.in_place {
            if let Some(error) = self.has_started_again(preparing) {
                return self.finish_upgrade(request, Err(error));
            }
            let version = preparing.version.clone();
            self.store(StoreRequest::KeepVersion { version }, Pending::Upgrade);
            return;
        }
        if let Some(Preparing { version, .. }) = self.upgrades.preparing.take() {
            self.upgrades.replacement = Some(Replacement { request, version });
            self.coordinate(|coordinator| coordinator.request(Request::Stop));
        }
    }

    /// The instances of a region end with it.
    fn has_started_again(&self, preparing: &Preparing) -> Option<WireError> {
        let message = "a region of the job failed and started again while the new version was made ready: ask for it once more";
        let started = !self.is_running() || preparing.n_starts != self.n_starts;
        started.then(|| WireError::new(code::CHECKPOINT_FAILED, message))
    }

    /// The store has the new components.
    pub(super) fn upgrade_kept(&mut self, result: Result<StoreReply, StoreFailure>) {
        let Some(preparing) = self.upgrades.preparing.take() else {
            return;
        };
        let request = preparing.request;
        let failed = self.has_started_again(&preparing);
        match (result, failed) {
            (Err(failure), _) => self.finish_upgrade(request, Err(failure.error)),
            (Ok(_), Some(error)) => self.finish_upgrade(request, Err(error)),
            (Ok(StoreReply::VersionKept { plugins }), None) => {
                self.upgrades.ready = Some(Swap {
                    request,
                    version: preparing.version,
                    plugins,
                });
                self.ask_coordinator(request, Awaited::Upgrade);
            }
            (Ok(_), None) => {}
        }
    }

    /// The checkpoint of the upgrade begins: the version whose code tasks are to take. From now on
    /// a failure rolls it back.
    pub(super) fn begin_upgrade(&mut self, request: u64) -> Option<u32> {
        self.wishes.take(request)?;
        self.attempt.upgrade = self.upgrades.ready.take();
        let swap = self.attempt.upgrade.as_ref();
        swap.map(|swap| swap.version.number)
    }
}

/// Whether only code has changed.
fn check_compatible(old: &JobSpec, new: &JobSpec) -> Result<bool> {
    let compatibility = compare(old, new)?;
    let mut operators = compatibility.operators.iter();
    match operators.find(|operator| operator.verdict == Verdict::Refused) {
        None => Ok(compatibility.same_shape),
        Some(operator) => {
            let message = format!(
                "operator `{}` cannot keep its state: {}",
                operator.uid,
                operator.changes.join("; ")
            );
            Err(Error::new(code::INCOMPATIBLE, message))
        }
    }
}

/// The new components know which ones the job was started with.
fn instead_of(old: &[Component], new: Vec<Component>) -> Vec<Component> {
    let first = |old: &Component| old.replaces.clone().unwrap_or_else(|| old.digest.clone());
    let replace = |(at, new): (usize, Component)| {
        let replaces = old.get(at).map(first);
        Component {
            replaces: replaces.filter(|first| *first != new.digest),
            ..new
        }
    };
    new.into_iter().enumerate().map(replace).collect()
}
