//! When a checkpoint begins, whom it concerns, and when it is whole: a pure state machine, without
//! clock, threads and I/O.
//!
//! 1. [`Coordinator::tick`] begins a checkpoint when it is due. Triggered are the tasks to which no
//!    other task still sends; the barrier reaches the others through their channels.
//! 2. When every task has acknowledged, or had finished before, the checkpoint is to be published.
//! 3. When it is, all tasks are told: now they may commit. Older ones are retired.
//! 4. A decline, a failed publication or an expiry aborts it. Too many of these in a row fail the
//!    job.
//! 5. Users ask for savepoints, stops and upgrades ([`Request`]); each is served by a snapshot of
//!    its own ([`Purpose`]). A job that stops begins no other one after it, and its tasks end when
//!    all of them have committed. An upgrade that is aborted is rolled back: its tasks may run the
//!    new code already, and nothing that they did since may count.
//! 6. A part of the tasks may fail and run again from the newest checkpoint: from
//!    [`Coordinator::suspend`] to [`Coordinator::resume`] none is begun. A savepoint that this
//!    meets is made after it. When all of the job fails, whoever starts it again asks anew for
//!    what was not served.
//!
//! Invariants: at most one checkpoint is pending. A checkpoint that was aborted is never published,
//! and one that is being published is never aborted but by the answer of the publication. What
//! comes too late, twice or from nowhere changes nothing.
//!
//! # What tasks have to keep to
//! - A triggered task with inputs acts on the trigger only after the end of all its inputs: the
//!   barrier of the same number, if one of them brings it, stands before rows that belong after
//!   it. It ignores a trigger of a number that it has passed.
//! - A task reports `ended` or `finished` only after the acknowledgement of every barrier that it
//!   passed: a task that finishes without an acknowledgement counts as one that had finished before
//!   the checkpoint, and would not run again.
//! - It reports `ended` before the acknowledgement of a checkpoint whose snapshot holds its end.

mod beginning;
mod settings;

pub use self::settings::{Settings, TaskNode, Topology};
use crate::SnapshotKind;
use crate::requests::{Purpose, Request, Requests};
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// How many of the tasks that kept a checkpoint waiting are named.
const NAMED_MAX: usize = 5;

/// What is to be done, in the order of the list. `S` is what a task acknowledges with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action<S> {
    /// Tell these tasks to begin the checkpoint; some may be told twice.
    Trigger {
        checkpoint: u64,
        purpose: Purpose,
        tasks: Vec<usize>,
    },
    /// Write the manifest and the log entry, then report `published` or `publish_failed`. By task;
    /// None for one that had finished.
    Publish {
        checkpoint: u64,
        purpose: Purpose,
        snapshots: Vec<Option<S>>,
    },
    /// It counts. If it commits, tell all tasks, which commit what they pre-committed for it, and
    /// report `committed`.
    Complete { checkpoint: u64, purpose: Purpose },
    /// Tell all tasks that it will never count.
    Abort {
        checkpoint: u64,
        purpose: Purpose,
        reason: String,
    },
    /// All tasks have committed what the job stops with: end them. Nothing follows.
    Stop,
    /// An upgrade was aborted: the job starts again from the checkpoint before, with the old code.
    /// Nothing follows.
    RollBack { reason: String },
    /// The job fails (S7009). Nothing follows.
    Fail { reason: String },
    /// Delete the checkpoint.
    Retire { checkpoint: u64 },
    /// A request cannot be served.
    Refuse { request: u64, reason: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum TaskState {
    Running,
    /// It has sent its last row, and waits for a checkpoint that commits it.
    Ended,
    /// As Ended, and that checkpoint is published.
    Committed,
    Finished,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Answer<S> {
    Missing,
    /// None: the task had finished.
    Given(Option<S>),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Pending<S> {
    checkpoint: u64,
    purpose: Purpose,
    began: Duration,
    publishing: bool,
    /// By task.
    answers: Vec<Answer<S>>,
    /// Tasks whose end this checkpoint commits.
    commits: Vec<usize>,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Coordinator<S> {
    settings: Settings,
    topology: Topology,
    states: Vec<TaskState>,
    pending: Option<Pending<S>>,
    now: Duration,
    next_checkpoint: u64,
    /// When the interval has passed.
    due_at: Duration,
    /// When the pause after the last checkpoint is over.
    pause_until: Duration,
    /// Since the last success.
    failures: u32,
    failed: bool,
    /// Some tasks are gone, and will run again.
    suspended: bool,
    requests: Requests,
    /// The published snapshot that the job stops with: no other is begun after it, since that
    /// would commit what the user's does not hold.
    stopped_at: Option<u64>,
    /// Tasks that have not committed it.
    uncommitted: BTreeSet<usize>,
    retained: VecDeque<u64>,
}

impl<S> Coordinator<S> {
    /// All tasks run; those that a restored checkpoint has as finished are to be reported so at
    /// once.
    ///
    /// # Panics
    /// If a predecessor is no task.
    pub fn new(settings: Settings, topology: Topology) -> Coordinator<S> {
        let n_tasks = topology.tasks.len();
        assert!(
            topology
                .tasks
                .iter()
                .flat_map(|task| &task.predecessors)
                .all(|task| *task < n_tasks),
            "a predecessor is no task"
        );
        Coordinator {
            states: vec![TaskState::Running; n_tasks],
            pending: None,
            now: Duration::ZERO,
            next_checkpoint: settings.first_checkpoint,
            due_at: settings.interval.unwrap_or_default(),
            pause_until: Duration::ZERO,
            failures: 0,
            failed: false,
            suspended: false,
            requests: Requests::default(),
            stopped_at: None,
            uncommitted: BTreeSet::new(),
            retained: settings.published.iter().copied().collect(),
            settings,
            topology,
        }
    }

    /// Time passes: `now` is monotonic, and counted from the start of the job. Expiry and the
    /// interval depend on it alone, so it is to be called several times an interval.
    pub fn tick(&mut self, now: Duration) -> Vec<Action<S>> {
        self.now = self.now.max(now);
        let mut actions = Vec::new();
        let expired = |pending: &&Pending<S>| {
            !pending.publishing && self.now.saturating_sub(pending.began) >= self.settings.timeout
        };
        if let Some(pending) = self.pending.as_ref().filter(expired) {
            let reason = format!(
                "it took longer than {:?}, and waits for {}",
                self.settings.timeout,
                self.slowest(pending)
            );
            self.abort(reason, &mut actions);
        }
        self.begin(&mut actions);
        actions
    }

    /// A task's state is written.
    pub fn acknowledged(&mut self, task: usize, checkpoint: u64, snapshot: S) -> Vec<Action<S>> {
        let mut actions = Vec::new();
        let ended = self.states.get(task) == Some(&TaskState::Ended);
        let Some(pending) = self.collecting(checkpoint) else {
            return actions;
        };
        if let Some(answer @ Answer::Missing) = pending.answers.get_mut(task) {
            *answer = Answer::Given(Some(snapshot));
            if ended && pending.purpose.commits() {
                pending.commits.push(task);
            }
            self.check_whole(&mut actions);
        }
        actions
    }

    /// A task could not write its state.
    pub fn declined(&mut self, task: usize, checkpoint: u64, reason: &str) -> Vec<Action<S>> {
        let mut actions = Vec::new();
        let Some(name) = self.topology.tasks.get(task).map(|task| task.name.clone()) else {
            return actions;
        };
        if self.collecting(checkpoint).is_some() {
            self.abort(format!("`{name}` declined it: {reason}"), &mut actions);
            self.begin(&mut actions);
        }
        actions
    }

    /// A task has sent its last row, and waits for a checkpoint to commit what it wrote.
    pub fn ended(&mut self, task: usize) -> Vec<Action<S>> {
        self.stops_sending(task, TaskState::Ended)
    }

    /// A task is gone.
    pub fn finished(&mut self, task: usize) -> Vec<Action<S>> {
        self.stops_sending(task, TaskState::Finished)
    }

    /// The log entry of the checkpoint is written.
    pub fn published(&mut self, checkpoint: u64) -> Vec<Action<S>> {
        let mut actions = Vec::new();
        let Some(pending) = self.take_publishing(checkpoint) else {
            return actions;
        };
        self.failures = 0;
        self.requests.end(pending.purpose);
        self.pause_until = self.now.saturating_add(self.settings.min_pause);
        for task in pending.commits {
            if self.states[task] == TaskState::Ended {
                self.states[task] = TaskState::Committed;
            }
        }
        actions.push(Action::Complete {
            checkpoint,
            purpose: pending.purpose,
        });
        if pending.purpose.kind() == SnapshotKind::Checkpoint {
            self.retained.push_back(checkpoint);
            let surplus = self
                .retained
                .len()
                .saturating_sub(self.settings.retained.max(1) as usize);
            actions.extend(
                self.retained
                    .drain(..surplus)
                    .map(|checkpoint| Action::Retire { checkpoint }),
            );
        }
        if pending.purpose.stops() {
            self.stop_with(checkpoint, &mut actions);
        }
        self.begin(&mut actions);
        actions
    }

    /// The checkpoint was not published, and it is certain that it never will be.
    pub fn publish_failed(&mut self, checkpoint: u64, reason: &str) -> Vec<Action<S>> {
        let mut actions = Vec::new();
        if let Some(pending) = self.take_publishing(checkpoint) {
            self.pending = Some(pending);
            self.abort(format!("it could not be published: {reason}"), &mut actions);
            self.begin(&mut actions);
        }
        actions
    }

    /// A user wants something; it begins at once, or after what is pending.
    pub fn request(&mut self, request: Request) -> Vec<Action<S>> {
        let mut actions = Vec::new();
        self.requests.add(request);
        self.begin(&mut actions);
        actions
    }

    /// A task has committed what was pre-committed for this checkpoint and those before it.
    pub fn committed(&mut self, task: usize, checkpoint: u64) -> Vec<Action<S>> {
        if self.stopped_at.is_some_and(|at| checkpoint >= at) {
            self.has_committed(task)
        } else {
            Vec::new()
        }
    }

    /// These tasks have failed, and will run again from the newest checkpoint while the others run
    /// on. What is pending is aborted, which is no failure of the checkpoint, and nothing is begun
    /// until [`Coordinator::resume`]. In a job that [is ending](Coordinator::is_ending) they do not
    /// run again, and nothing changes.
    pub fn suspend(&mut self, tasks: &[usize]) -> Vec<Action<S>> {
        let mut actions = Vec::new();
        if self.is_ending() {
            return actions;
        }
        self.suspended = true;
        if self
            .pending
            .as_ref()
            .is_some_and(|pending| !pending.publishing)
        {
            let name = tasks
                .iter()
                .find_map(|task| self.topology.tasks.get(*task))
                .map_or("?", |task| &task.name);
            self.give_up(&format!("the region of `{name}` failed"), &mut actions);
        }
        for task in tasks {
            self.states
                .get_mut(*task)
                .into_iter()
                .for_each(|state| *state = TaskState::Running);
        }
        self.begin(&mut actions);
        actions
    }

    /// The tasks that had failed run again.
    pub fn resume(&mut self) -> Vec<Action<S>> {
        let mut actions = Vec::new();
        self.suspended = false;
        self.begin(&mut actions);
        actions
    }

    /// The job has failed, or stops with what is published: no task of it is to run again.
    pub fn is_ending(&self) -> bool {
        self.failed || self.stopped_at.is_some()
    }

    /// Whether a wish is still to be served: its snapshot was not begun, or has to be made anew.
    pub fn holds(&self, request: u64) -> bool {
        self.requests.holds(request)
    }

    /// The snapshot that the job stops with, once it is published.
    pub fn stopped_at(&self) -> Option<u64> {
        self.stopped_at
    }

    fn has_committed(&mut self, task: usize) -> Vec<Action<S>> {
        let is_last = self.uncommitted.remove(&task) && self.uncommitted.is_empty();
        is_last.then_some(Action::Stop).into_iter().collect()
    }

    fn collecting(&mut self, checkpoint: u64) -> Option<&mut Pending<S>> {
        self.pending
            .as_mut()
            .filter(|pending| pending.checkpoint == checkpoint && !pending.publishing)
    }

    fn take_publishing(&mut self, checkpoint: u64) -> Option<Pending<S>> {
        self.pending
            .take_if(|pending| pending.checkpoint == checkpoint && pending.publishing)
    }

    fn stops_sending(&mut self, task: usize, to: TaskState) -> Vec<Action<S>> {
        let mut actions = Vec::new();
        match (self.states.get(task), to) {
            (Some(TaskState::Running), _)
            | (Some(TaskState::Ended | TaskState::Committed), TaskState::Finished) => {
                self.states[task] = to
            }
            _ => return actions,
        }
        self.trigger_successors(task, &mut actions);
        if to == TaskState::Finished {
            actions.extend(self.has_committed(task));
            self.count_finished(task);
            self.check_whole(&mut actions);
        }
        self.begin(&mut actions);
        actions
    }

    /// Their barrier may have been lost with the task: it was triggered, and ended without a
    /// barrier.
    fn trigger_successors(&mut self, task: usize, actions: &mut Vec<Action<S>>) {
        let Some(pending) = self.pending.as_ref().filter(|pending| !pending.publishing) else {
            return;
        };
        let follows = |next: &usize| {
            self.topology.tasks[*next].predecessors.contains(&task) && self.is_triggered(*next)
        };
        let missing = |next: &usize| matches!(pending.answers[*next], Answer::Missing);
        let tasks: Vec<usize> = (0..self.states.len())
            .filter(follows)
            .filter(missing)
            .collect();
        if !tasks.is_empty() {
            actions.push(Action::Trigger {
                checkpoint: pending.checkpoint,
                purpose: pending.purpose,
                tasks,
            });
        }
    }

    fn count_finished(&mut self, task: usize) {
        let Some(pending) = self.pending.as_mut().filter(|pending| !pending.publishing) else {
            return;
        };
        if let answer @ Answer::Missing = &mut pending.answers[task] {
            *answer = Answer::Given(None);
        }
    }

    /// It is there, and nobody sends to it any more.
    fn is_triggered(&self, task: usize) -> bool {
        let sends = |task: &usize| self.states[*task] == TaskState::Running;
        self.states[task] != TaskState::Finished
            && !self.topology.tasks[task].predecessors.iter().any(sends)
    }

    fn check_whole(&mut self, actions: &mut Vec<Action<S>>) {
        let is_whole = |pending: &&mut Pending<S>| {
            !pending.publishing
                && pending
                    .answers
                    .iter()
                    .all(|answer| matches!(answer, Answer::Given(_)))
        };
        let Some(pending) = self.pending.as_mut().filter(is_whole) else {
            return;
        };
        pending.publishing = true;
        let given = |answer| {
            if let Answer::Given(snapshot) = answer {
                snapshot
            } else {
                None
            }
        };
        let snapshots = std::mem::take(&mut pending.answers)
            .into_iter()
            .map(given)
            .collect();
        actions.push(Action::Publish {
            checkpoint: pending.checkpoint,
            purpose: pending.purpose,
            snapshots,
        });
    }

    fn abort(&mut self, reason: String, actions: &mut Vec<Action<S>>) {
        let Some((checkpoint, purpose)) = self.give_up(&reason, actions) else {
            return;
        };
        self.requests.end(purpose);
        // A savepoint is the wish of one user, who is told: the job goes on without it.
        if let Purpose::Checkpoint | Purpose::Stop = purpose {
            self.count_failure(checkpoint, &reason, actions);
        }
    }

    /// What is pending will never count.
    fn give_up(&mut self, reason: &str, actions: &mut Vec<Action<S>>) -> Option<(u64, Purpose)> {
        let Pending {
            checkpoint,
            purpose,
            ..
        } = self.pending.take()?;
        self.pause_until = self.now.saturating_add(self.settings.min_pause);
        actions.push(Action::Abort {
            checkpoint,
            purpose,
            reason: reason.to_owned(),
        });
        if let Purpose::Upgrade { .. } = purpose {
            self.failed = true;
            actions.push(Action::RollBack {
                reason: reason.to_owned(),
            });
        }
        Some((checkpoint, purpose))
    }

    fn count_failure(&mut self, checkpoint: u64, reason: &str, actions: &mut Vec<Action<S>>) {
        self.failures = self.failures.saturating_add(1);
        if self.failures > self.settings.tolerable_failures {
            self.failed = true;
            let tolerated = self.settings.tolerable_failures;
            actions.push(Action::Fail {
                reason: format!("checkpoint {checkpoint} failed, and {tolerated} failures in a row are tolerated: {reason}"),
            });
        }
    }

    /// The job stops: who is gone has committed already.
    fn stop_with(&mut self, checkpoint: u64, actions: &mut Vec<Action<S>>) {
        self.stopped_at = Some(checkpoint);
        self.uncommitted = (0..self.states.len())
            .filter(|task| self.states[*task] != TaskState::Finished)
            .collect();
        if self.uncommitted.is_empty() {
            actions.push(Action::Stop);
        }
    }

    fn slowest(&self, pending: &Pending<S>) -> String {
        let missing = pending
            .answers
            .iter()
            .zip(&self.topology.tasks)
            .filter(|(answer, _)| matches!(answer, Answer::Missing));
        let names: Vec<String> = missing
            .map(|(_, task)| format!("`{}`", task.name))
            .collect();
        let more = names.len().saturating_sub(NAMED_MAX);
        let named = names[..names.len() - more].join(", ");
        if more == 0 {
            named
        } else {
            format!("{named} and {more} more")
        }
    }
}
