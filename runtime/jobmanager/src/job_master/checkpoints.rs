//! What tasks report of checkpoints, and what the coordinator decides about them.

use super::core::{Core, Pending, Phase};
use super::statistics::CheckpointStatus;
use super::store::Publication;
use super::versions::Before;
use super::wishes::Awaited;
use super::{Granted, StoreFailure, StoreReply, StoreRequest, Upgraded};
use std::collections::VecDeque;
use streamrt_checkpoint::{Action as Decision, Coordinator, Purpose, SubtaskSnapshot};
use streamrt_rpc::{FromTaskManager, ToTaskManager, WireError};
use streamrt_types::code;

type Decisions = Vec<Decision<SubtaskSnapshot>>;

impl Core {
    /// Tells the coordinator something, and carries out what it decides.
    pub(super) fn coordinate(
        &mut self,
        tell: impl FnOnce(&mut Coordinator<SubtaskSnapshot>) -> Decisions,
    ) {
        let Some(coordinator) = &mut self.attempt.coordinator else {
            return;
        };
        let mut decisions = VecDeque::from(tell(coordinator));
        while let Some(decision) = decisions.pop_front() {
            self.carry_out(decision);
        }
    }

    /// What a task says; that of a generation which is gone counts for nothing.
    pub(super) fn reported(&mut self, report: FromTaskManager) {
        match report {
            FromTaskManager::Acknowledged {
                task,
                generation,
                checkpoint,
                snapshot,
                report,
            } if self.attempt.is_current(task, generation) => {
                self.statistics.acknowledged(checkpoint, report);
                self.coordinate(|c| c.acknowledged(task, checkpoint, snapshot));
            }
            FromTaskManager::Declined {
                task,
                generation,
                checkpoint,
                reason,
            } if self.attempt.is_current(task, generation) => {
                self.coordinate(|c| c.declined(task, checkpoint, &reason));
            }
            FromTaskManager::Committed {
                task,
                generation,
                checkpoint,
            } if self.attempt.is_current(task, generation) => {
                let committed = &mut self.attempt.committed[task];
                *committed = (*committed).max(checkpoint);
                self.coordinate(|c| c.committed(task, checkpoint));
            }
            FromTaskManager::Ended { task, generation }
                if self.attempt.is_current(task, generation) =>
            {
                self.coordinate(|c| c.ended(task));
            }
            FromTaskManager::Finished {
                task,
                generation,
                dead_letters,
            } if self.attempt.is_current(task, generation) => {
                self.attempt.committed[task] = u64::MAX;
                self.attempt.dead_letters[task] = dead_letters;
                self.coordinate(|c| c.finished(task));
            }
            _ => {}
        }
    }

    fn carry_out(&mut self, decision: Decision<SubtaskSnapshot>) {
        match decision {
            Decision::Trigger {
                checkpoint,
                purpose,
                tasks,
            } => self.trigger(checkpoint, purpose, tasks),
            Decision::Publish {
                checkpoint,
                purpose,
                snapshots,
            } => self.publish(checkpoint, purpose, snapshots),
            Decision::Complete {
                checkpoint,
                purpose,
            } => self.complete(checkpoint, purpose),
            Decision::Abort {
                checkpoint,
                purpose,
                reason,
            } => self.abort(checkpoint, purpose, reason),
            Decision::Stop => {
                self.fail_job(WireError::new(code::CANCELLED, "the job was stopped"));
            }
            Decision::Fail { reason } | Decision::RollBack { reason } => {
                self.fail_job(WireError::new(code::CHECKPOINT_FAILED, reason));
            }
            Decision::Retire { checkpoint } => {
                self.store(StoreRequest::Retire { checkpoint }, Pending::Retirement);
            }
            Decision::Refuse { request, reason } => {
                let error = WireError::new(code::CHECKPOINT_FAILED, reason);
                self.refuse_awaited(request, error);
            }
        }
    }

    /// A wish will not be granted.
    fn refuse_awaited(&mut self, request: u64, error: WireError) {
        match self.wishes.take(request) {
            Some(Awaited::Upgrade) => self.finish_upgrade(request, Err(error)),
            Some(Awaited::Savepoint(_)) => self.answer(request, Err(error)),
            None => {}
        }
    }

    fn trigger(&mut self, checkpoint: u64, purpose: Purpose, tasks: Vec<usize>) {
        let (now_ms, elapsed) = (self.now.wall_ms, self.now.elapsed);
        let kind = kind_name(purpose);
        self.statistics.begins(checkpoint, kind, now_ms, elapsed);
        let (savepoint, upgrade) = match purpose {
            Purpose::Savepoint { request, .. } => (self.wishes.begin_savepoint(request), None),
            Purpose::Upgrade { request } => (None, self.begin_upgrade(request)),
            Purpose::Checkpoint | Purpose::Stop => (None, None),
        };
        self.send(ToTaskManager::Trigger {
            checkpoint,
            tasks,
            savepoint,
            upgrade,
        });
    }

    fn abort(&mut self, checkpoint: u64, purpose: Purpose, reason: String) {
        self.send(ToTaskManager::Abort { checkpoint });
        match purpose {
            Purpose::Savepoint { request, .. } => {
                let coordinator = self.attempt.coordinator.as_ref();
                // One that is made anew is asked for still.
                if coordinator.is_none_or(|coordinator| !coordinator.holds(request)) {
                    let error = WireError::new(code::CHECKPOINT_FAILED, &*reason);
                    self.refuse_awaited(request, error);
                }
            }
            // Whoever waits for an upgrade hears of it when the job runs again.
            Purpose::Upgrade { .. } => {}
            Purpose::Checkpoint | Purpose::Stop => {
                self.say(format!(
                    "streamrt: checkpoint {checkpoint} failed: {reason}"
                ));
            }
        }
        let failed = CheckpointStatus::Failed { reason };
        self.statistics.ends(checkpoint, failed, self.now.elapsed);
    }

    fn publish(
        &mut self,
        checkpoint: u64,
        purpose: Purpose,
        snapshots: Vec<Option<SubtaskSnapshot>>,
    ) {
        let of_task = |(task, snapshot): (usize, Option<SubtaskSnapshot>)| {
            snapshot.unwrap_or_else(|| self.finished_task(task))
        };
        let subtasks = snapshots.into_iter().enumerate().map(of_task).collect();
        // A checkpoint of an upgrade is one of the new version.
        let (version, plugins, before) = match (purpose, &self.attempt.upgrade) {
            (Purpose::Upgrade { .. }, Some(swap)) => {
                let is_watched = !swap.version.probation().is_zero();
                let before = is_watched.then(|| self.plugins.clone());
                let before = before.unwrap_or_default();
                (swap.version.clone(), swap.plugins.clone(), before)
            }
            (Purpose::Savepoint { .. }, _) => {
                (self.version().clone(), self.plugins.clone(), Vec::new())
            }
            _ => {
                let before = self.versions.before(self.now.elapsed);
                (self.version().clone(), self.plugins.clone(), before)
            }
        };
        let savepoint = match purpose {
            Purpose::Savepoint { request, .. } => self.wishes.location(request),
            _ => None,
        };
        let publication = Publication {
            checkpoint,
            version,
            plugins,
            savepoint,
            commits: purpose.commits(),
            drained: self.wishes.drain,
            before,
            operators: self.opened.operators.clone(),
            subtasks,
            dead_letters_before: self.opened.dead_letters,
            now_ms: self.now.wall_ms,
        };
        let pending = Pending::Publication {
            checkpoint,
            purpose,
        };
        self.store(StoreRequest::Publish(Box::new(publication)), pending);
    }

    /// What a checkpoint holds of a task that is gone.
    fn finished_task(&self, task: usize) -> SubtaskSnapshot {
        let (vertex, subtask) = self.attempt.places[task];
        SubtaskSnapshot {
            dead_letters: self.attempt.dead_letters[task],
            ..SubtaskSnapshot::finished(vertex, subtask)
        }
    }

    pub(super) fn published(
        &mut self,
        checkpoint: u64,
        purpose: Purpose,
        result: Result<StoreReply, StoreFailure>,
    ) {
        match result {
            Ok(StoreReply::Published { history }) => {
                self.history = history;
                if !matches!(purpose, Purpose::Upgrade { .. }) {
                    self.versions.published();
                }
                self.coordinate(|coordinator| coordinator.published(checkpoint));
            }
            Ok(_) => {}
            Err(StoreFailure { error, leads: true }) => {
                let reason = error.with_causes();
                self.coordinate(|coordinator| coordinator.publish_failed(checkpoint, &reason));
            }
            Err(failure) => self.fail_job(failure.error),
        }
    }

    /// It counts, whatever fails from here on.
    fn complete(&mut self, checkpoint: u64, purpose: Purpose) {
        let published = CheckpointStatus::Published;
        self.statistics
            .ends(checkpoint, published, self.now.elapsed);
        match purpose {
            Purpose::Savepoint { request, .. } => {
                if let Some(Awaited::Savepoint(savepoint)) = self.wishes.take(request) {
                    // Before the answer: a failure on the last steps does not start the job again.
                    self.wishes.made(&savepoint);
                    self.answer(request, Ok(Granted::Savepoint { checkpoint }));
                }
            }
            Purpose::Upgrade { request } => self.upgraded_in_place(request, checkpoint),
            Purpose::Checkpoint | Purpose::Stop => {}
        }
        if purpose.commits() {
            self.send(ToTaskManager::Complete { checkpoint });
        }
    }

    fn upgraded_in_place(&mut self, request: u64, checkpoint: u64) {
        let Some(swap) = self.attempt.upgrade.take() else {
            return;
        };
        let before = Before {
            version: self.version().clone(),
            plugins: std::mem::replace(&mut self.plugins, swap.plugins),
            newer_published: false,
        };
        let upgraded = Upgraded {
            checkpoint,
            in_place: true,
            pause: self.statistics.longest_pause(checkpoint),
            probation: swap.version.probation(),
        };
        let now = self.now.elapsed;
        self.versions.upgraded(swap.version, before, now);
        self.finish_upgrade(request, Ok(Granted::Upgraded(upgraded)));
    }

    /// Whether tasks run, and are not told to end.
    pub(super) fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running)
    }
}

fn kind_name(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Checkpoint | Purpose::Stop => "checkpoint",
        Purpose::Upgrade { .. } => "upgrade",
        Purpose::Savepoint { .. } => "savepoint",
    }
}
