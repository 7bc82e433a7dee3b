//! Starting all tasks of a job, one question after the other:
//!
//! 1. The store: what is kept of the job? 2. A TaskManager: read it; does it fit? 3. The store: take
//!    the job over, after what was looked at. 4. A TaskManager: settle the sinks. What the snapshot
//!    promises is committed, what none names is withdrawn. 5. Make the tasks, and start them.
//!
//! Invariant: nothing is changed, in the store or behind a sink, before it is known that the
//! snapshot is of the same job and fits.

use super::attempt::{Attempt, ExecutionState};
use super::core::{Core, Pending, Phase};
use super::kept::Kept;
use super::same_job::{are_of, check_finished, check_same};
use super::store::TakeOver;
use super::version::Version;
use super::versions::Before;
use super::wishes::Awaited;
use super::{
    Accepted, Action, Granted, JobState, Outcome, StoreFailure, StoreReply, StoreRequest, Upgraded,
};
use std::sync::Arc;
use std::time::Duration;
use streamrt_checkpoint::{Coordinator, History, Manifest, Settings};
use streamrt_rpc::{Answered, Scope, ToTaskManager, WireError};
use streamrt_types::{Result, code};

/// How often a start looks at a log that grows meanwhile, or misses what that names: a leader writes
/// some entries a second, and retires as many checkpoints, and a look takes as long as the store
/// does. If the log has not grown, the second look is the last.
const LOOKS_MAX: u32 = 50;

/// Why tasks are started.
#[derive(Debug)]
pub(crate) enum Why {
    /// The job was submitted. `failed`: another process may have written into the log since it was
    /// looked at, when it came to this; what was met then.
    First {
        n_looks: u32,
        failed: Option<(Box<History>, WireError)>,
    },
    /// After a failure.
    Again,
    /// A new version follows an old one, which has stopped with a checkpoint.
    Replacement {
        request: u64,
        old: Arc<Version>,
        checkpoint: u64,
        began: Duration,
    },
}

/// A launch in progress.
#[derive(Debug)]
pub(crate) struct Launch {
    why: Why,
    kept: Kept,
    /// The snapshot is not looked for by the log alone: its job need not be this one.
    is_foreign: bool,
    /// The version that the snapshot names has failed, and the one before is put back.
    goes_back: bool,
    /// The snapshot was read, and fits.
    is_opened: bool,
    /// The question that was asked last.
    step: u64,
    job: String,
    generation: u64,
}

impl Core {
    pub(super) fn launch(&mut self, why: Why) {
        let from = match why {
            Why::Replacement { .. } => None,
            _ => self.from.clone(),
        };
        let is_first = matches!(why, Why::First { .. });
        self.attempt = Attempt::default();
        let is_foreign = from.is_some() || !is_first;
        let step = self.store(StoreRequest::Look { from }, Pending::Launch);
        self.phase = Phase::Launching(Launch {
            why,
            kept: Kept::default(),
            is_foreign,
            goes_back: self.goes_back,
            is_opened: false,
            step,
            job: String::new(),
            generation: 0,
        });
    }

    fn launching(&mut self, step: u64) -> Option<&mut Launch> {
        match &mut self.phase {
            Phase::Launching(launch) if launch.step == step => Some(launch),
            _ => None,
        }
    }

    /// Asks the TaskManager for the next step of the launch.
    fn next_step(&mut self, message: impl FnOnce(u64, &Launch) -> ToTaskManager) {
        let step = self.await_answer(Pending::Launch);
        if let Phase::Launching(launch) = &mut self.phase {
            launch.step = step;
            let message = message(step, launch);
            self.send(message);
        }
    }

    pub(super) fn launch_stored(&mut self, step: u64, result: Result<StoreReply, StoreFailure>) {
        if self.launching(step).is_none() {
            return;
        }
        match result {
            Ok(StoreReply::Looked(kept)) => self.looked(kept),
            Ok(StoreReply::TakenOver { history, plugins }) => {
                (self.history, self.plugins, self.has_led) = (history, plugins, true);
                self.settle_all();
            }
            Ok(_) => {}
            Err(failure) => self.launch_failed(failure.error),
        }
    }

    pub(super) fn launch_answered(&mut self, step: u64, result: Result<Answered, WireError>) {
        if self.launching(step).is_none() {
            return;
        }
        match result {
            Ok(Answered::Opened(opened)) => {
                self.opened = opened;
                if let Some(launch) = self.launching(step) {
                    launch.is_opened = true;
                }
                self.take_over();
            }
            Ok(Answered::Settled) => self.prepare_all(),
            Ok(Answered::Prepared) => self.start_all(),
            Ok(Answered::UpgradePrepared) => {}
            Err(error) => self.launch_failed(error),
        }
    }

    fn looked(&mut self, kept: Kept) {
        match self.look_at(&kept) {
            Ok(false) => {}
            Ok(true) => return self.end(Ok(Outcome::FinishedBefore)),
            // Nothing was begun, so there is nothing to try again.
            Err(error) if self.is_first() => return self.end(Err(error.into())),
            Err(error) => return self.launch_failed(error.into()),
        }
        if kept.finished {
            return self.end(Ok(Outcome::Finished));
        }
        // A take-over may stand although the store did not say so.
        self.has_led |= kept.history.leader == self.leader;
        if let Some(error) = self.is_led_by_another(&kept) {
            return self.end(Err(error));
        }
        if let Some(error) = self.has_failed_for_good(&kept) {
            return self.end(Err(error));
        }
        let (version, restore) = (
            self.version().clone(),
            kept.snapshot
                .as_ref()
                .map(|snapshot| snapshot.restore.clone()),
        );
        self.history = kept.history.clone();
        let job = kept.history.id().to_owned();
        if let Phase::Launching(launch) = &mut self.phase {
            launch.kept = kept;
        }
        self.next_step(|step, _| ToTaskManager::Open {
            step,
            scope: Scope::Job,
            version: version.number,
            plan: version.plan.clone(),
            restore,
            job,
        });
    }

    /// A JobMaster that was replaced may fail for a reason of its own before it notices. It must not
    /// take the job back, with what the other one may have upgraded since.
    fn is_led_by_another(&self, kept: &Kept) -> Option<WireError> {
        let leader = &kept.history.leader;
        let is_other = self.has_led && !leader.is_empty() && *leader != self.leader;
        is_other.then(|| fenced(leader))
    }

    /// Whether what a first look met is so at the second one. A leader that writes into its log is
    /// passed, and may have retired what was looked at; one that took the job over is left alone.
    fn has_failed_for_good(&self, kept: &Kept) -> Option<WireError> {
        let Phase::Launching(Launch { why, .. }) = &self.phase else {
            return None;
        };
        let Why::First {
            failed: Some((before, error)),
            ..
        } = why
        else {
            return None;
        };
        let is_final = match error.is(code::FENCED) {
            true => kept.history.generation != before.generation,
            false => kept.history.entries == before.entries,
        };
        is_final.then(|| error.clone())
    }

    fn is_first(&self) -> bool {
        matches!(
            &self.phase,
            Phase::Launching(Launch {
                why: Why::First { .. },
                ..
            })
        )
    }

    /// Checks what is kept against the job that was submitted. True if the job has finished, and
    /// nothing is to run.
    fn look_at(&mut self, kept: &Kept) -> Result<bool> {
        let Phase::Launching(launch) = &mut self.phase else {
            return Ok(false);
        };
        let is_first = matches!(launch.why, Why::First { .. });
        let manifest = kept.snapshot.as_ref().map(|snapshot| &*snapshot.manifest);
        if is_first {
            let kept_max = manifest.map(|manifest| manifest.max_parallelism);
            let version = Arc::new(self.versions.running().going_on(kept_max)?);
            self.versions.not_upgraded(version);
        }
        let version = self.versions.running().clone();
        let folder = kept.location.as_deref().unwrap_or_default();
        if let (true, true) = (is_first, kept.finished) {
            let components = manifest.map(|manifest| kept.history.components(manifest));
            return manifest
                .zip(components)
                .map_or(Ok(()), |kept| check_finished(kept, &version, folder))
                .map(|()| true);
        }
        let goes_back = manifest.is_some_and(|manifest| is_put_back(kept, manifest, &version));
        if !launch.is_foreign {
            if let Some(manifest) = manifest {
                let components = match goes_back {
                    true => &manifest.before,
                    false => kept.history.components(manifest),
                };
                check_same((manifest, components), &version, folder)?;
            }
            launch.goes_back = goes_back;
            if goes_back {
                self.say("streamrt: the upgrade was in its probation, and the version before is put back, which this command names".into());
            }
        }
        if is_first {
            self.go_on_with_version(manifest, goes_back)?;
            self.has_checkpoint = kept.snapshot.is_some();
        }
        Ok(false)
    }

    /// The job may go on with an upgrade that was in its probation when it was ended.
    fn go_on_with_version(&mut self, manifest: Option<&Manifest>, goes_back: bool) -> Result<()> {
        let Some(manifest) = manifest else {
            return Ok(());
        };
        let is_in_probation = !manifest.before.is_empty();
        match self.before.take() {
            Some(before) => {
                let number = self.versions.next_number();
                let max = self.version().plan.max_parallelism;
                let before = Before {
                    version: Arc::new(Version::new(number, before, Some(max))?),
                    plugins: manifest.before.clone(),
                    newer_published: true,
                };
                self.versions.go_on_in_probation(before, self.now.elapsed);
            }
            None if is_in_probation && !goes_back => self.versions.go_on_upgraded(),
            None => {}
        }
        Ok(())
    }

    fn take_over(&mut self) {
        if !self.is_durable {
            return self.settle_all();
        }
        let (version, token) = (self.version().clone(), self.leader.clone());
        let Phase::Launching(launch) = &self.phase else {
            return;
        };
        let take_over = TakeOver {
            version,
            kept: launch.kept.clone(),
            is_foreign: launch.is_foreign,
            goes_back: launch.goes_back,
            token,
        };
        let step = self.store(StoreRequest::TakeOver(take_over), Pending::Launch);
        if let Phase::Launching(launch) = &mut self.phase {
            launch.step = step;
        }
    }

    /// Commits what the snapshot promises, unless the log says that it is done.
    fn settle_all(&mut self) {
        let (job, generation) = self.next_attempt_name();
        let (version, history) = (self.version().clone(), self.history.clone());
        if let Phase::Launching(launch) = &mut self.phase {
            (launch.job, launch.generation) = (job, generation);
            if let Some(snapshot) = &mut launch.kept.snapshot {
                let published = &snapshot.restore.published;
                snapshot.number = super::kept::number_in(&history, published);
            }
        }
        let is_durable = self.is_durable;
        self.next_step(|step, launch| {
            let snapshot = launch.kept.snapshot.as_ref();
            let open = snapshot.filter(|kept| !is_durable || !kept.is_committed(&history));
            ToTaskManager::Settle {
                step,
                scope: Scope::Job,
                version: version.number,
                plan: version.plan.clone(),
                job: launch.job.clone(),
                generation: launch.generation,
                promised: open.map(|kept| kept.restore.clone()),
                interruptible: true,
            }
        });
    }

    /// A job without checkpoints has no log: it names its transactions as another job would, and
    /// counts its attempts itself.
    pub(super) fn next_attempt_name(&mut self) -> (String, u64) {
        match self.is_durable {
            true => (self.history.id().to_owned(), self.history.generation),
            false => {
                self.n_attempts += 1;
                (self.token(), self.n_attempts)
            }
        }
    }

    fn prepare_all(&mut self) {
        let Phase::Launching(launch) = &self.phase else {
            return;
        };
        let snapshot = launch.kept.snapshot.as_ref();
        let was_drained = snapshot.is_some_and(|kept| kept.manifest.drained);
        if was_drained && !self.wishes.drain {
            self.say("streamrt: the job was being drained: it ends with what it had read, and reads nothing more".into());
            self.drain();
        }
        self.next_step(|step, launch| ToTaskManager::Prepare {
            step,
            scope: Scope::Job,
            job: launch.job.clone(),
            generation: launch.generation,
        });
    }

    fn start_all(&mut self) {
        let phase = std::mem::replace(&mut self.phase, Phase::Running);
        let Phase::Launching(launch) = phase else {
            self.phase = phase;
            return;
        };
        let version = self.version().clone();
        self.renew_savepoints();
        self.attempt = Attempt::new(&version, launch.generation);
        let settled = launch.kept.snapshot.as_ref().map_or(0, |kept| kept.number);
        self.attempt.settled = settled;
        self.attempt.first_checkpoint = self.history.next_checkpoint();
        self.attempt.began = self.now.elapsed;
        if self.is_durable {
            let settings = Settings::new(&version.plan.configuration, &self.history);
            self.attempt.coordinator = Some(Coordinator::new(settings, version.topology()));
        }
        self.n_starts += 1;
        for region in &mut self.attempt.regions {
            region.state = ExecutionState::Running;
        }
        self.state = JobState::Running;
        self.send(ToTaskManager::Start { scope: Scope::Job });
        for request in self.wishes.requests() {
            self.coordinate(|coordinator| coordinator.request(request));
        }
        self.launched(launch);
        if self.wishes.cancel {
            self.fail_job(WireError::new(code::CANCELLED, "the job was cancelled"));
        }
    }

    fn launched(&mut self, launch: Launch) {
        let snapshot = launch.kept.snapshot;
        let resumed = snapshot.map(|kept| (kept.manifest.checkpoint, kept.restore.location));
        match launch.why {
            Why::First { .. } => {
                self.resumed = resumed;
                self.accept();
                return;
            }
            Why::Again => {}
            Why::Replacement {
                request,
                old,
                checkpoint,
                began,
            } => {
                let upgraded = Upgraded {
                    checkpoint,
                    in_place: false,
                    pause: self.now.elapsed.saturating_sub(began),
                    probation: old.probation(),
                };
                self.finish_upgrade(request, Ok(Granted::Upgraded(upgraded)));
            }
        }
        if let Some((checkpoint, _)) = resumed {
            self.say(format!(
                "streamrt: the job goes on from checkpoint {checkpoint}"
            ));
        }
    }

    pub(super) fn accept(&mut self) {
        if !self.accepted {
            self.accepted = true;
            let has_led = self.has_led;
            self.actions.push(Action::Accepted(Accepted { has_led }));
        }
    }

    /// What the attempt before had begun for somebody is made anew, or refused.
    fn renew_savepoints(&mut self) {
        for (request, awaited) in self.wishes.take_begun() {
            let Awaited::Savepoint(savepoint) = awaited else {
                let message = "the job failed before it was upgraded: ask for it once more";
                let error = WireError::new(code::CHECKPOINT_FAILED, message);
                self.finish_upgrade(request, Err(error));
                continue;
            };
            let lies_there = |location: &Option<String>| {
                location.as_deref() == Some(savepoint.location.as_str())
            };
            let mut published = self.history.published.iter();
            let made = published.find(|published| lies_there(&published.location));
            match made.map(|published| published.checkpoint) {
                Some(checkpoint) => {
                    self.wishes.made(&savepoint);
                    self.answer(request, Ok(Granted::Savepoint { checkpoint }));
                }
                // The folder was empty when the savepoint was asked for, so all that is there was
                // left by the attempt that failed.
                None => {
                    let location = savepoint.location.clone();
                    let savepoint = super::wishes::Savepoint {
                        begun: false,
                        ..savepoint
                    };
                    let pending = Pending::SavepointClearing { request, savepoint };
                    self.store(StoreRequest::ClearSavepoint { location }, pending);
                }
            }
        }
    }

    /// A step of the launch has failed.
    fn launch_failed(&mut self, error: WireError) {
        let phase = std::mem::replace(&mut self.phase, Phase::Failing);
        let Phase::Launching(launch) = phase else {
            self.phase = phase;
            return;
        };
        let is_gone = error.is(code::SNAPSHOT_DAMAGED) && !launch.is_opened;
        let looks_max = match is_gone || error.is(code::FENCED) {
            true => LOOKS_MAX,
            false => 0,
        };
        match launch.why {
            Why::First { n_looks, .. } if n_looks < looks_max => {
                let failed = Some((Box::new(launch.kept.history), error));
                let n_looks = n_looks + 1;
                self.launch(Why::First { n_looks, failed });
            }
            Why::First { .. } => match self.is_durable && self.strategy.may_try_again(&error) {
                // By now nothing can be wrong with the job that would not be found again.
                true => {
                    self.accept();
                    self.try_again(error);
                }
                false => self.end(Err(error)),
            },
            Why::Again if error.is(code::CANCELLED) => {
                self.interrupted = true;
                // Whoever stops the job meanwhile did not make it fail.
                let before = self.last_failure.take().filter(|_| !self.wishes.cancel);
                self.give_up(before.unwrap_or(error));
            }
            Why::Again => self.try_again(error),
            Why::Replacement { request, old, .. } => {
                self.versions.not_upgraded(old);
                self.finish_upgrade(request, Err(error));
                self.launch(Why::Again);
            }
        }
    }
}

/// Another process has taken the job over.
pub(super) fn fenced(leader: &str) -> WireError {
    let message = format!("another process leads the job: `{leader}` has taken it over");
    WireError::new(code::FENCED, message)
}

/// Whether what the user starts is the version before an upgrade that was in its probation. A job of
/// a component goes on with the upgrade, which the user has approved; that of a job file is
/// whichever file the user names.
fn is_put_back(kept: &Kept, manifest: &Manifest, version: &Version) -> bool {
    !manifest.before.is_empty()
        && !kept.finished
        && are_of(&manifest.before, version)
        && !are_of(kept.history.components(manifest), version)
}
