//! What the coordinator of checkpoints tells a task, and what the task answers.

use crate::replaceable::UserCode;
use crate::uploader::{Begin, Reports};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use streamrt_exchange::GateWaker;
use streamrt_operator::TaskMetrics;
use streamrt_rpc::WireError;
use streamrt_state::OperatorSnapshot;
use streamrt_types::Barrier;

/// A command to one task. A command that comes too late, or twice, does nothing.
#[derive(Debug, Clone, Copy)]
pub enum Command {
    /// Take part in a checkpoint for which no channel will bring a barrier.
    Trigger(Barrier),
    /// The checkpoint is published.
    Complete(u64),
    /// The checkpoint will never be published.
    Abort(u64),
}

/// Commands that wait for a task.
pub struct Mailbox {
    commands: Mutex<VecDeque<Command>>,
    /// Whether there is one, so that a busy task looks at no lock.
    waiting: AtomicBool,
    /// The code that takes over after the barrier of a checkpoint. It is no command: the barrier
    /// may come before the task looks at those.
    code: Mutex<Option<(u64, UserCode)>>,
    waker: GateWaker,
}

impl Mailbox {
    pub fn new(waker: GateWaker) -> Mailbox {
        Mailbox {
            commands: Mutex::default(),
            waiting: AtomicBool::new(false),
            code: Mutex::default(),
            waker,
        }
    }

    pub fn send(&self, command: Command) {
        self.commands
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(command);
        self.waiting.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Gives the task the code that it runs after the barrier of `checkpoint`, before that is
    /// triggered anywhere.
    pub fn put_code(&self, checkpoint: u64, code: UserCode) {
        *self.code.lock().unwrap_or_else(PoisonError::into_inner) = Some((checkpoint, code));
    }

    /// Takes the code that takes over after the barrier of `checkpoint`, if there is any.
    pub fn take_code(&self, checkpoint: u64) -> Option<UserCode> {
        let mut code = self.code.lock().unwrap_or_else(PoisonError::into_inner);
        code.take_if(|(awaited, _)| *awaited == checkpoint)
            .map(|(_, code)| code)
    }

    /// Takes the commands that are there.
    pub fn take(&self) -> VecDeque<Command> {
        if !self.waiting.swap(false, Ordering::Acquire) {
            return VecDeque::new();
        }
        std::mem::take(&mut *self.commands.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What tasks tell the coordinator, and what happens between the last report of a region that failed
/// and the first one of the same region.
pub(crate) enum Report {
    /// All tasks of a region are gone.
    RegionEnded {
        region: usize,
        generation: u64,
        error: Option<WireError>,
    },
    /// Tasks start again; before their first report.
    Begin(Begin),
    Snapshot(TaskSnapshot),
    /// What was pre-committed for this checkpoint and those before it is committed.
    Committed {
        task: usize,
        checkpoint: u64,
    },
    /// All input is treated, but results wait for a checkpoint.
    Ended {
        task: usize,
    },
    /// It has ended; so many records were skipped.
    Finished {
        task: usize,
        dead_letters: u64,
    },
}

/// The frozen state of all operators of a task.
pub struct TaskSnapshot {
    /// Its number in the execution graph.
    pub task: usize,
    pub checkpoint: u64,
    pub pause: Pause,
    /// By uid.
    pub operators: Vec<(Arc<str>, OperatorSnapshot)>,
    /// Records that were skipped so far.
    pub dead_letters: u64,
}

/// How long a task stood still for a checkpoint.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pause {
    /// From the first barrier to the last; channels without a barrier were read meanwhile.
    pub alignment: Duration,
    /// On the task's thread.
    pub sync: Duration,
}

/// A task's line to the coordinator.
pub struct CheckpointLine {
    pub task: usize,
    pub mailbox: Arc<Mailbox>,
    reports: Reports,
}

impl CheckpointLine {
    pub(crate) fn new(task: usize, mailbox: Arc<Mailbox>, reports: Reports) -> CheckpointLine {
        CheckpointLine {
            task,
            mailbox,
            reports,
        }
    }

    pub(crate) fn report(&self, report: Report) {
        self.reports.send(report);
    }
}

/// Adds the costs of a snapshot to a task's counters.
pub fn account(metrics: &TaskMetrics, Pause { alignment, sync }: Pause) {
    TaskMetrics::add(&metrics.checkpoints, 1);
    metrics
        .alignment_ns
        .store(alignment.as_nanos() as u64, Ordering::Relaxed);
    metrics
        .sync_ns
        .store(sync.as_nanos() as u64, Ordering::Relaxed);
}
