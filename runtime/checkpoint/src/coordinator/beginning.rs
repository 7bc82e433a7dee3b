//! Which snapshot is begun next, and what cannot be served.

use super::{Action, Answer, Coordinator, Pending, TaskState};
use crate::SnapshotKind;
use crate::requests::Purpose;

impl<S> Coordinator<S> {
    /// Begins the next checkpoint if one is wanted.
    pub(super) fn begin(&mut self, actions: &mut Vec<Action<S>>) {
        self.refuse(actions);
        if self.pending.is_some() {
            return;
        }
        if let Some(purpose) = self.wanted() {
            self.start(purpose, actions);
        }
    }

    fn wanted(&mut self) -> Option<Purpose> {
        if self.is_ending() || self.suspended {
            return None;
        }
        let all_ended = !self.states.contains(&TaskState::Running);
        let asked = self
            .requests
            .next()
            .or_else(|| self.requests.next_at_end().filter(|_| all_ended));
        if asked.is_some() || self.is_over() {
            return asked;
        }
        // After a failure, the last checkpoint waits like any other, lest it is tried without end;
        // so does one to stop with.
        let in_time = self.failures == 0 || self.is_due();
        let interval_is_due = self.settings.interval.is_some() && self.is_due();
        match self.requests.wants_stop() {
            true => in_time.then_some(Purpose::Stop),
            false => (all_ended && in_time || interval_is_due).then_some(Purpose::Checkpoint),
        }
    }

    fn is_due(&self) -> bool {
        self.now >= self.due_at.max(self.pause_until)
    }

    /// Nobody runs, and nobody waits for a checkpoint.
    fn is_over(&self) -> bool {
        self.states
            .iter()
            .all(|state| matches!(state, TaskState::Committed | TaskState::Finished))
    }

    /// Without a task that runs there is nothing to snapshot, but at the end.
    fn refuse(&mut self, actions: &mut Vec<Action<S>>) {
        let (requests, reason) = match () {
            // Whoever starts it again knows what was asked for.
            () if self.failed => return,
            () if self.stopped_at.is_some() => (self.requests.take_all(), "the job has stopped"),
            () if self.pending.is_some() => return,
            () if self.suspended => (
                self.requests.take_upgrades(),
                "a region of the job has failed, and starts again",
            ),
            () if self.is_over() => (
                self.requests.take_waiting(),
                "all tasks of the job have ended",
            ),
            () => return,
        };
        actions.extend(requests.into_iter().map(|request| Action::Refuse {
            request,
            reason: reason.to_owned(),
        }));
    }

    fn start(&mut self, purpose: Purpose, actions: &mut Vec<Action<S>>) {
        let checkpoint = self.next_checkpoint;
        self.next_checkpoint += 1;
        if purpose.kind() == SnapshotKind::Checkpoint {
            self.due_at = self
                .now
                .saturating_add(self.settings.interval.unwrap_or_default());
        }
        let answer = |state: &TaskState| {
            if *state == TaskState::Finished {
                Answer::Given(None)
            } else {
                Answer::Missing
            }
        };
        let answers = self.states.iter().map(answer).collect();
        self.pending = Some(Pending {
            checkpoint,
            purpose,
            began: self.now,
            publishing: false,
            answers,
            commits: Vec::new(),
        });
        let tasks = (0..self.states.len())
            .filter(|task| self.is_triggered(*task))
            .collect();
        actions.push(Action::Trigger {
            checkpoint,
            purpose,
            tasks,
        });
        // Where all tasks are gone, nobody answers.
        self.check_whole(actions);
    }
}
