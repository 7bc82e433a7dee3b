//! What users want of the checkpoints of a running job, and in which order they get it. A part of
//! the [`Coordinator`](crate::Coordinator), and as pure.
//!
//! Savepoints and upgrades come one by one, in the order in which they were asked for; a stop comes
//! after them, and one is enough for all who want it; what is to be made at the end waits until
//! all tasks have ended.

use crate::SnapshotKind;
use std::collections::VecDeque;

/// What a snapshot is made for. `request` is the number that the caller gave to the wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// To go on from: by the interval, or the last one of a job whose input has ended.
    Checkpoint,
    /// As `Checkpoint`; the job stops with it.
    Stop,
    /// As `Checkpoint`; behind its barrier the tasks run other code.
    Upgrade { request: u64 },
    /// For the user. If the job stops with it, it is what the job goes on from.
    Savepoint { request: u64, stops: bool },
}

impl Purpose {
    /// Whose the snapshot is.
    pub fn kind(self) -> SnapshotKind {
        match self {
            Purpose::Savepoint { .. } => SnapshotKind::Savepoint,
            Purpose::Checkpoint | Purpose::Stop | Purpose::Upgrade { .. } => {
                SnapshotKind::Checkpoint
            }
        }
    }

    /// Whether the job ends with it.
    pub fn stops(self) -> bool {
        matches!(self, Purpose::Stop | Purpose::Savepoint { stops: true, .. })
    }

    /// Whether what was pre-committed for it is committed. A savepoint of a job that runs on
    /// commits nothing: the next checkpoint does.
    pub fn commits(self) -> bool {
        !matches!(self, Purpose::Savepoint { stops: false, .. })
    }

    /// The number of the wish that it serves; nobody waits for the others.
    pub fn request(self) -> Option<u64> {
        match self {
            Purpose::Upgrade { request } | Purpose::Savepoint { request, .. } => Some(request),
            Purpose::Checkpoint | Purpose::Stop => None,
        }
    }
}

/// What a user can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Request {
    /// The job stops with a checkpoint.
    Stop,
    /// The tasks run other code after a barrier.
    Upgrade { request: u64 },
    /// A savepoint now; with `stops`, the job stops with it.
    Savepoint { request: u64, stops: bool },
    /// A savepoint when all tasks have ended.
    AtEnd { request: u64 },
}

/// What was asked for and is not served. What is being made stays here until it counts or has
/// failed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Requests {
    waiting: VecDeque<Purpose>,
    /// Savepoints that wait for the end of all tasks.
    at_end: VecDeque<u64>,
    /// It stays until a checkpoint has stopped the job.
    stop: bool,
}

impl Requests {
    pub fn add(&mut self, request: Request) {
        match request {
            Request::Stop => self.stop = true,
            Request::Upgrade { request } => self.waiting.push_back(Purpose::Upgrade { request }),
            Request::Savepoint { request, stops } => self
                .waiting
                .push_back(Purpose::Savepoint { request, stops }),
            Request::AtEnd { request } => self.at_end.push_back(request),
        }
    }

    pub fn wants_stop(&self) -> bool {
        self.stop
    }

    /// The next one that waits for nothing but its turn.
    pub fn next(&self) -> Option<Purpose> {
        self.waiting.front().copied()
    }

    /// The next savepoint of a job whose tasks have all ended.
    pub fn next_at_end(&self) -> Option<Purpose> {
        self.at_end.front().map(|request| Purpose::Savepoint {
            request: *request,
            stops: false,
        })
    }

    /// Whether a wish is still to be served.
    pub fn holds(&self, request: u64) -> bool {
        self.waiting
            .iter()
            .any(|purpose| purpose.request() == Some(request))
            || self.at_end.contains(&request)
    }

    /// What was made for the purpose counts, or has failed.
    pub fn end(&mut self, purpose: Purpose) {
        self.waiting
            .retain(|waiting| waiting.request() != purpose.request());
        self.at_end
            .retain(|request| Some(*request) != purpose.request());
    }

    /// Takes those that can only be served while tasks run.
    pub fn take_waiting(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.waiting)
            .into_iter()
            .filter_map(Purpose::request)
            .collect()
    }

    /// Takes the upgrades: their code was made for tasks that are gone.
    pub fn take_upgrades(&mut self) -> Vec<u64> {
        let is_upgrade = |purpose: &Purpose| matches!(purpose, Purpose::Upgrade { .. });
        let (upgrades, others): (VecDeque<Purpose>, VecDeque<Purpose>) =
            self.waiting.drain(..).partition(is_upgrade);
        self.waiting = others;
        upgrades.into_iter().filter_map(Purpose::request).collect()
    }

    /// Takes all that somebody waits for.
    pub fn take_all(&mut self) -> Vec<u64> {
        let mut all = self.take_waiting();
        all.extend(std::mem::take(&mut self.at_end));
        all
    }
}
