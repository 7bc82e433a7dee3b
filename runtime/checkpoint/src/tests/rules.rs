//! What the coordinator of checkpoints may do, whatever happens.

use crate::SnapshotKind::Checkpoint;
use crate::coordinator::Action;
use crate::requests::{Purpose, Request};
use crate::tests::coordinator::{Input, Snapshot};
use std::collections::{BTreeSet, VecDeque};

/// Watches inputs and actions, and knows the rules, but not how the coordinator keeps them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Rules {
    pub pending: Option<(u64, Purpose)>,
    pub publishing: bool,
    pub last: u64,
    pub failed: bool,
    /// With what the job stops, and who has not committed it.
    pub stopped: Option<(u64, BTreeSet<usize>)>,
    pub ended: bool,
    pub upgrade_failed: bool,
    /// Wishes without an answer.
    pub open: BTreeSet<u64>,
    pub finished: BTreeSet<usize>,
    /// To the pending checkpoint, while it collects.
    pub acknowledged: BTreeSet<usize>,
    pub kept: VecDeque<u64>,
    /// Tasks are gone that will run again.
    pub suspended: bool,
}

impl Rules {
    pub fn hear(&mut self, input: &Input) {
        match input {
            Input::Finished(task) => {
                self.finished.insert(*task);
                self.stopped
                    .iter_mut()
                    .for_each(|(_, missing)| missing.retain(|missing| missing != task));
            }
            Input::Committed(task, checkpoint) => {
                let missing = self
                    .stopped
                    .as_mut()
                    .filter(|(at, _)| checkpoint >= at)
                    .map(|(_, missing)| missing);
                missing
                    .into_iter()
                    .for_each(|missing| missing.retain(|missing| missing != task));
            }
            Input::Request(
                Request::Savepoint { request, .. }
                | Request::Upgrade { request }
                | Request::AtEnd { request },
            ) => {
                assert!(self.open.insert(*request));
            }
            Input::Acknowledged(task, checkpoint, _)
                if self.collects(*checkpoint) && !self.finished.contains(task) =>
            {
                self.acknowledged.insert(*task);
            }
            Input::Suspend(tasks) if !self.failed && self.stopped.is_none() => {
                self.suspended = true;
                self.finished.retain(|task| !tasks.contains(task));
            }
            Input::Resume => self.suspended = false,
            _ => (),
        }
    }

    fn collects(&self, checkpoint: u64) -> bool {
        self.pending
            .is_some_and(|(pending, _)| pending == checkpoint)
            && !self.publishing
    }

    // Long: an arm for each action.
    pub fn check(&mut self, input: &Input, action: &Action<Snapshot>, n_tasks: usize) {
        let over = self.failed || self.ended;
        assert!(
            !over || self.ended && matches!(action, Action::Refuse { .. }),
            "nothing follows the end"
        );
        match action {
            Action::Trigger {
                checkpoint,
                purpose,
                tasks,
            } => self.check_trigger(*checkpoint, *purpose, tasks),
            Action::Publish {
                checkpoint,
                purpose,
                snapshots,
            } => {
                assert!(
                    self.collects(*checkpoint)
                        && self.pending.is_some_and(|(_, pending)| pending == *purpose)
                );
                self.check_snapshots(*checkpoint, snapshots, n_tasks);
                self.publishing = true;
            }
            Action::Complete {
                checkpoint,
                purpose,
            } => {
                assert!(
                    self.publishing && *input == Input::Published(*checkpoint),
                    "complete only when published"
                );
                assert_eq!(self.pending.take(), Some((*checkpoint, *purpose)));
                self.publishing = false;
                self.kept
                    .extend((purpose.kind() == Checkpoint).then_some(*checkpoint));
                self.answer(purpose.request());
                if purpose.stops() {
                    let running = (0..n_tasks)
                        .filter(|task| !self.finished.contains(task))
                        .collect();
                    self.stopped = Some((*checkpoint, running));
                }
            }
            Action::Abort {
                checkpoint,
                purpose,
                ..
            } => {
                let answered = *input == Input::PublishFailed(*checkpoint);
                assert_eq!(
                    self.publishing, answered,
                    "what is being published is aborted by the answer alone"
                );
                assert_eq!(self.pending.take(), Some((*checkpoint, *purpose)));
                self.publishing = false;
                // A savepoint that a failure of tasks meets is made anew.
                let is_made_anew = matches!(
                    (input, purpose),
                    (Input::Suspend(_), Purpose::Savepoint { .. })
                );
                self.answer(purpose.request().filter(|_| !is_made_anew));
                self.upgrade_failed = matches!(purpose, Purpose::Upgrade { .. });
            }
            Action::Fail { .. } => self.failed = true,
            Action::RollBack { .. } => {
                assert!(self.upgrade_failed, "only an upgrade is rolled back");
                self.failed = true;
            }
            Action::Stop => {
                assert!(
                    self.stopped
                        .as_ref()
                        .is_some_and(|(_, missing)| missing.is_empty()),
                    "all have committed"
                );
                self.ended = true;
            }
            Action::Retire { checkpoint } => {
                assert_eq!(
                    self.kept.pop_front(),
                    Some(*checkpoint),
                    "the oldest goes first"
                );
                assert!(!self.kept.is_empty());
            }
            Action::Refuse { request, .. } => {
                assert!(self.pending.is_none());
                self.answer(Some(*request));
            }
        }
    }

    /// Behind all actions of an input.
    pub fn check_done(&self) {
        assert!(
            !self.upgrade_failed || self.failed,
            "nothing counts after the barrier of an upgrade that failed"
        );
        assert!(
            !self.ended || self.open.is_empty(),
            "nobody waits for a job that is over"
        );
        assert_eq!(
            self.ended,
            self.stopped
                .as_ref()
                .is_some_and(|(_, missing)| missing.is_empty()),
            "it stops when all have committed"
        );
    }

    fn answer(&mut self, request: Option<u64>) {
        assert!(
            request.is_none_or(|request| self.open.remove(&request)),
            "each wish is answered once"
        );
    }

    fn check_trigger(&mut self, checkpoint: u64, purpose: Purpose, tasks: &[usize]) {
        if self.pending != Some((checkpoint, purpose)) {
            assert!(
                self.stopped.is_none() && !self.suspended,
                "nothing begins after what the job stops with, or while tasks are missing"
            );
            assert_eq!(self.pending, None, "one at a time");
            assert!(checkpoint > self.last, "numbers rise");
            (self.pending, self.last) = (Some((checkpoint, purpose)), checkpoint);
            self.acknowledged.clear();
        }
        assert!(!self.publishing && !tasks.iter().any(|task| self.finished.contains(task)));
    }

    fn check_snapshots(&self, checkpoint: u64, snapshots: &[Option<Snapshot>], n_tasks: usize) {
        assert_eq!(snapshots.len(), n_tasks);
        for (task, snapshot) in snapshots.iter().enumerate() {
            match snapshot {
                Some((by, number, _)) => {
                    assert_eq!((*by, *number), (task, checkpoint));
                    assert!(self.acknowledged.contains(&task));
                }
                None => assert!(
                    self.finished.contains(&task),
                    "who is not finished has a snapshot"
                ),
            }
        }
    }
}
