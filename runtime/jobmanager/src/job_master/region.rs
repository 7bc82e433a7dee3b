//! A region that failed starts again from the newest checkpoint while the others run on.
//!
//! 1. Its tasks are gone. After their last report the coordinator hears of it, aborts what is
//!    pending, and begins nothing. 2. The log gives it a generation of its own: names of transactions
//!    are never used twice. 3. Its sinks are settled, and its tasks are made anew. 4. Before their
//!    first report the coordinator hears of them.
//!
//! Invariant: of a region there is never more than one set of tasks, and no checkpoint holds states
//! of two. Regions start again one after the other.
//!
//! # Source
//! Flink's `RestartPipelinedRegionFailoverStrategy`.

use super::attempt::ExecutionState;
use super::core::{Core, Pending, Phase};
use super::kept::KeptSnapshot;
use super::{JobState, StoreFailure, StoreReply, StoreRequest};
use std::time::Duration;
use streamrt_rpc::{Answered, Scope, ToTaskManager, WireError};
use streamrt_types::code;

/// How often regions start again without a checkpoint between them. Each time the sinks of the
/// others keep what they have pre-committed, which some systems hold little of, so then the whole
/// job starts again.
const SUSPENDED_MAX: u32 = 3;

/// A region on its way back.
#[derive(Debug)]
pub(crate) struct RegionRestart {
    region: usize,
    /// Why it starts again.
    error: WireError,
    stage: Stage,
    job: String,
    old_generation: u64,
    generation: u64,
    newest: Option<KeptSnapshot>,
    /// All its tasks had carried out the commits of all checkpoints up to this one.
    committed: u64,
    /// What kept it from being prepared, which is tried again.
    failed: Option<WireError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Suspending,
    Opening,
    Settling,
    Delaying { until: Duration },
    Preparing,
}

impl RegionRestart {
    fn checkpoint(&self) -> u64 {
        let newest = self.newest.as_ref();
        newest.map_or(0, |kept| kept.manifest.checkpoint)
    }
}

impl Core {
    pub(super) fn region_ended(
        &mut self,
        region: usize,
        generation: u64,
        error: Option<WireError>,
    ) {
        let known = self.attempt.regions.get_mut(region);
        let known = known.filter(|known| {
            known.generation == generation && known.state == ExecutionState::Running
        });
        let Some(known) = known else { return };
        known.state = match error {
            None => ExecutionState::Finished,
            Some(_) => ExecutionState::Failed,
        };
        if let Some(error) = error {
            match self.is_running() && self.attempt.regions.len() > 1 {
                true => {
                    self.attempt.failed.push_back((region, error));
                    self.start_next_region();
                }
                false => self.fail_job(error),
            }
        }
    }

    fn start_next_region(&mut self) {
        while self.is_running() && self.attempt.restart.is_none() {
            let Some((region, error)) = self.attempt.failed.pop_front() else {
                return;
            };
            self.start_region(region, error);
        }
    }

    /// Holds the checkpoints back, and asks what the region goes on from.
    fn start_region(&mut self, region: usize, error: WireError) {
        let tasks = self.version().tasks_of(region);
        self.coordinate(|coordinator| coordinator.suspend(&tasks));
        let committed = tasks.iter().map(|task| self.attempt.committed[*task]).min();
        let coordinator = self.attempt.coordinator.as_ref();
        let is_ending = coordinator.is_some_and(|coordinator| coordinator.is_ending());
        // What the coordinator decided may have ended the job.
        if is_ending || !self.is_running() {
            return self.fail_job(error);
        }
        self.attempt.restart = Some(RegionRestart {
            region,
            error,
            stage: Stage::Suspending,
            job: String::new(),
            old_generation: self.attempt.regions[region].generation,
            generation: 0,
            newest: None,
            committed: committed.unwrap_or_default(),
            failed: None,
        });
        match self.is_durable {
            true => drop(self.store(StoreRequest::Suspend, Pending::Region)),
            false => {
                let (job, generation) = self.next_attempt_name();
                if let Some(restart) = &mut self.attempt.restart {
                    (restart.job, restart.generation) = (job, generation);
                }
                self.open_region();
            }
        }
    }

    pub(super) fn region_stored(&mut self, result: Result<StoreReply, StoreFailure>) {
        let Some(mut restart) = self.attempt.restart.take() else {
            return;
        };
        if !self.is_running() {
            return;
        }
        match result {
            Ok(StoreReply::Suspended { history, newest }) => {
                (restart.job, restart.generation) = (history.id().to_owned(), history.generation);
                let (last, n) = self.attempt.suspended;
                let n = if last == history.last_checkpoint {
                    n
                } else {
                    0
                };
                self.attempt.suspended = (history.last_checkpoint, n + 1);
                self.history = history;
                restart.newest = newest;
                if n == SUSPENDED_MAX {
                    return self.fail_job(restart.error);
                }
                self.attempt.restart = Some(restart);
                self.open_region();
            }
            Ok(_) => {}
            // Nothing was written, so it may be tried again.
            Err(StoreFailure { error, leads: true }) => {
                restart.failed = Some(error);
                self.attempt.restart = Some(restart);
                self.delay_region();
            }
            Err(failure) => self.fail_job(failure.error),
        }
    }

    /// Lets a TaskManager read what the region goes on from.
    fn open_region(&mut self) {
        let step = self.await_answer(Pending::Region);
        let (version, first) = (self.version().clone(), self.attempt.first_checkpoint);
        let Some(restart) = &mut self.attempt.restart else {
            return;
        };
        let (checkpoint, committed) = (restart.checkpoint(), restart.committed);
        if committed != u64::MAX && checkpoint < committed {
            let message = format!(
                "results were committed with savepoint {committed}, which cannot be read any more"
            );
            restart.failed = Some(WireError::new(code::SNAPSHOT_DAMAGED, message));
            self.pending.remove(&step);
            return self.delay_region();
        }
        restart.stage = Stage::Opening;
        let message = ToTaskManager::Open {
            step,
            scope: restart.scope(checkpoint >= first),
            version: version.number,
            plan: version.plan.clone(),
            restore: restart.newest.as_ref().map(|kept| kept.restore.clone()),
            job: restart.job.clone(),
        };
        self.send(message);
    }

    pub(super) fn region_answered(&mut self, result: Result<Answered, WireError>) {
        if !self.is_running() {
            // What was prepared is dropped with everything else.
            self.attempt.restart = None;
            return;
        }
        let Some(restart) = &mut self.attempt.restart else {
            return;
        };
        match (restart.stage, result) {
            (Stage::Opening, Ok(_)) => self.settle_region(),
            (Stage::Settling, Ok(_)) => self.delay_region(),
            (Stage::Opening | Stage::Settling, Err(error)) => {
                restart.failed = Some(error);
                self.delay_region();
            }
            (Stage::Preparing, Ok(_)) => self.region_prepared(),
            (Stage::Preparing, Err(error)) => self.start_region_once_more(error),
            (Stage::Suspending | Stage::Delaying { .. }, _) => {}
        }
    }

    fn settle_region(&mut self) {
        let step = self.await_answer(Pending::Region);
        let version = self.version().clone();
        let (history, first) = (self.history.clone(), self.attempt.first_checkpoint);
        let Some(restart) = &mut self.attempt.restart else {
            return;
        };
        restart.stage = Stage::Settling;
        let checkpoint = restart.checkpoint();
        let is_settled = restart.committed >= checkpoint
            || restart
                .newest
                .as_ref()
                .is_some_and(|kept| kept.is_committed(&history));
        let promised = restart.newest.as_ref().filter(|_| !is_settled);
        let message = ToTaskManager::Settle {
            step,
            scope: restart.scope(checkpoint >= first),
            version: version.number,
            plan: version.plan.clone(),
            job: restart.job.clone(),
            generation: restart.generation,
            promised: promised.map(|kept| kept.restore.clone()),
            interruptible: true,
        };
        self.send(message);
    }

    /// Waits as the strategy says. If nothing is to be started again, the whole job has failed.
    fn delay_region(&mut self) {
        let Some(restart) = self.attempt.restart.take() else {
            return;
        };
        let error = restart.error.clone();
        match self.delay_after(&error, "; its region starts again") {
            None => self.fail_job(error),
            Some(delay) => {
                let until = self.now.elapsed.saturating_add(delay);
                let stage = Stage::Delaying { until };
                self.attempt.restart = Some(RegionRestart { stage, ..restart });
            }
        }
    }

    pub(super) fn tick_region(&mut self) {
        let Some(RegionRestart {
            stage: Stage::Delaying { until },
            failed,
            ..
        }) = &mut self.attempt.restart
        else {
            return;
        };
        let is_due = *until <= self.now.elapsed;
        if !is_due && !self.wishes.forbid_restart(self.has_checkpoint) {
            return;
        }
        match failed.take() {
            Some(error) => self.start_region_once_more(error),
            None => self.prepare_region(),
        }
    }

    fn prepare_region(&mut self) {
        let step = self.await_answer(Pending::Region);
        let first = self.attempt.first_checkpoint;
        let Some(restart) = &mut self.attempt.restart else {
            return;
        };
        restart.stage = Stage::Preparing;
        let message = ToTaskManager::Prepare {
            step,
            scope: restart.scope(restart.checkpoint() >= first),
            job: restart.job.clone(),
            generation: restart.generation,
        };
        self.send(message);
    }

    /// It could not be started, for a reason that may pass.
    fn start_region_once_more(&mut self, error: WireError) {
        if let Some(restart) = self.attempt.restart.take() {
            self.start_region(restart.region, error);
        }
    }

    fn region_prepared(&mut self) {
        let Some(restart) = self.attempt.restart.take() else {
            return;
        };
        let first = self.attempt.first_checkpoint;
        let (checkpoint, scope) = (
            restart.checkpoint(),
            restart.scope(restart.checkpoint() >= first),
        );
        for task in self.version().tasks_of(restart.region) {
            self.attempt.committed[task] = checkpoint;
            self.attempt.dead_letters[task] = 0;
        }
        let region = &mut self.attempt.regions[restart.region];
        region.generation = restart.generation;
        region.state = ExecutionState::Running;
        self.n_starts += 1;
        self.state = JobState::Running;
        self.send(ToTaskManager::Start { scope });
        self.coordinate(|coordinator| coordinator.resume());
        self.start_next_region();
    }

    /// Ends all regions at once, for this reason.
    pub(super) fn fail_job(&mut self, error: WireError) {
        if !matches!(self.phase, Phase::Running | Phase::Failing) {
            return;
        }
        self.attempt.keep_error(error);
        self.attempt.failed.clear();
        // An answer that is waited for ends the others.
        let waits = self.pending.values().any(|p| matches!(p, Pending::Region));
        if !waits {
            self.attempt.restart = None;
        }
        if self.is_running() {
            self.phase = Phase::Failing;
            let regions = (0..self.attempt.regions.len()).collect();
            self.send(ToTaskManager::Cancel { regions });
        }
    }
}

impl RegionRestart {
    fn scope(&self, counts: bool) -> Scope {
        Scope::Region {
            region: self.region,
            old_generation: self.old_generation,
            counts,
        }
    }
}
