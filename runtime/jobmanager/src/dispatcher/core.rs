//! Decides which jobs run: from their acceptance, over their places in the queue for slots, to their
//! ends.

use super::entries::Pending;
use super::{Action, Before, Event, Prepared, Started};
use crate::job::Phase;
use crate::job_master::Now;
use crate::resource_manager::{ResourceManager, Turn};
use crate::{End, Failure, JobId, Note, Outcome, Registered, Specification};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use streamrt_checkpoint::EndState;
use streamrt_types::{Error, Result, code};

/// What there is for jobs.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub slots: u32,
    /// How long a job waits for slots; None: as long as it takes.
    pub slot_timeout: Option<Duration>,
    /// How many jobs that have ended are remembered.
    pub ended_max: usize,
}

/// A job of the cluster, from its acceptance to its end.
#[derive(Debug)]
pub struct Known {
    /// They are numbered in the order in which they came.
    pub(super) number: u64,
    /// Or why its entries cannot be read.
    pub(super) registered: Result<Arc<Registered>, Failure>,
    pub(super) phase: Phase,
    /// How a user wants it to end.
    pub(super) end_wish: Option<EndState>,
    /// Whether it has run before this JobManager began; what is kept of it says so when it is read.
    before: Before,
    /// What is to be written, the first of it just now.
    pub(super) pending: VecDeque<Pending>,
    /// When the first of it is tried again, and how often it was tried.
    pub(super) retry_at: Option<Duration>,
    pub(super) tries: u32,
    /// Its end is being written.
    pub(super) is_ending: bool,
    /// Commands that are done when it has ended.
    pub(super) awaiting_end: Vec<u64>,
}

/// See the module.
#[derive(Debug)]
pub struct Core {
    limits: Limits,
    pub(super) jobs: BTreeMap<JobId, Known>,
    slots: ResourceManager,
    is_suspended: bool,
    n_jobs: u64,
    pub(super) now: Now,
    pub(super) actions: Vec<Action>,
}

impl Known {
    fn new(number: u64, registered: Result<Registered, Failure>, before: Before) -> Known {
        let lives = registered.as_ref().is_ok_and(|job| job.end.is_none());
        let end_wish = registered.as_ref().ok().and_then(|job| job.wanted);
        Known {
            number,
            registered: registered.map(Arc::new),
            phase: if lives {
                Phase::Preparing
            } else {
                Phase::Ended
            },
            end_wish,
            before,
            pending: VecDeque::new(),
            retry_at: None,
            tries: 0,
            is_ending: false,
            awaiting_end: Vec::new(),
        }
    }

    /// What is known of it, or why that cannot be read (S7014, which names the entry).
    pub fn registered(&self) -> &Result<Arc<Registered>, Failure> {
        &self.registered
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether its first entry is written.
    pub fn is_accepted(&self) -> bool {
        self.registered.as_ref().map_or(true, |job| job.entries > 0)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.phase == Phase::Ended
    }

    fn turn(&self) -> Turn {
        Turn {
            is_new: self.before != Before::Yes,
            number: self.number,
        }
    }
}

impl Core {
    /// Begins with what the registry holds, the oldest first.
    pub fn new(
        limits: Limits,
        known: Vec<(JobId, Result<Registered>)>,
        now: Now,
    ) -> (Core, Vec<Action>) {
        let mut core = Core {
            limits,
            jobs: BTreeMap::new(),
            slots: ResourceManager::new(limits.slots),
            is_suspended: false,
            n_jobs: 0,
            now,
            actions: Vec::new(),
        };
        for (id, registered) in known {
            let registered = registered.map_err(|error| Failure::from(&error));
            let before = match &registered {
                Ok(job) if job.started => Before::Yes,
                _ => Before::Maybe,
            };
            core.add(id, registered, before);
        }
        let jobs = core.jobs.iter().filter(|(_, job)| !job.has_ended());
        let living: Vec<JobId> = jobs.map(|(id, _)| id.clone()).collect();
        living.iter().for_each(|id| core.prepare(id));
        let first = std::mem::take(&mut core.actions);
        (core, first)
    }

    /// Decides what is to be done, in the order of the actions.
    pub fn handle(&mut self, event: Event, now: Now) -> Vec<Action> {
        self.now = now;
        match event {
            Event::Submitted {
                request,
                id,
                specification,
            } => self.submitted(request, id, *specification),
            Event::Asked {
                request,
                id,
                operation,
            } => self.asked(request, &id, operation),
            Event::Kept { id, result } => self.kept(&id, result),
            Event::Prepared { id, result } => self.prepared(&id, result),
            Event::Started { id, result } => self.started(&id, result),
            Event::CarriedOut {
                request,
                id,
                operation,
                result,
            } => self.carried_out(request, &id, operation, result),
            Event::Ended { id, end } => self.ends(&id, Some(end)),
            Event::Suspended => self.suspend(),
            Event::Tick => self.tick(),
        }
        self.serve();
        std::mem::take(&mut self.actions)
    }

    /// When a [`Event::Tick`] is due, since the Dispatcher began.
    pub fn next_tick(&self) -> Option<Duration> {
        let retries = self.jobs.values().filter_map(|job| job.retry_at);
        retries.chain(self.slots.next_timeout()).min()
    }

    /// A job that was accepted.
    pub fn job(&self, id: &JobId) -> Option<&Known> {
        self.jobs.get(id).filter(|job| job.is_accepted())
    }

    /// All jobs that were accepted, the oldest first.
    pub fn jobs(&self) -> Vec<(&JobId, &Known)> {
        let accepted = self.jobs.iter().filter(|(_, job)| job.is_accepted());
        let mut jobs: Vec<(&JobId, &Known)> = accepted.collect();
        jobs.sort_by_key(|(_, job)| job.number);
        jobs
    }

    pub fn total_slots(&self) -> u32 {
        self.slots.total()
    }

    pub fn free_slots(&self) -> u32 {
        self.slots.free()
    }

    fn add(&mut self, id: JobId, registered: Result<Registered, Failure>, before: Before) {
        self.n_jobs += 1;
        let known = Known::new(self.n_jobs, registered, before);
        self.jobs.insert(id, known);
    }

    fn submitted(&mut self, request: u64, id: JobId, specification: Specification) {
        let name = &specification.name;
        let has_name = |job: &Known| {
            let registered = job.registered.as_ref();
            registered.is_ok_and(|other| other.specification.name == *name)
        };
        let mut living = self.jobs.iter().filter(|(_, job)| !job.has_ended());
        if let Some((other, _)) = living.find(|(_, job)| has_name(job)) {
            let message = format!("a job `{name}` runs already: {other}");
            return self.refuse(request, &Error::new(code::JOB_EXISTS, message));
        }
        let registered = Registered::not_yet(specification.clone(), self.now.wall_ms);
        self.add(id.clone(), Ok(registered), Before::No);
        self.keep(
            &id,
            Note::Submitted(specification),
            Some((request, Outcome::Done)),
        );
    }

    /// Lets a job be read.
    pub(super) fn prepare(&mut self, id: &JobId) {
        let Some(job) = self.jobs.get(id) else { return };
        let Ok(registered) = &job.registered else {
            return;
        };
        if job.before == Before::Yes {
            self.slots.reserve(job.turn(), id.clone());
        }
        self.actions.push(Action::Prepare {
            id: id.clone(),
            specification: Box::new(registered.starting()),
            before: job.before,
        });
    }

    fn prepared(&mut self, id: &JobId, result: Result<Prepared, Failure>) {
        let Some(job) = self.jobs.get_mut(id) else {
            return;
        };
        let prepared = match result {
            Err(failure) => return self.ends(id, Some(End::failed(failure))),
            Ok(prepared) => prepared,
        };
        if job.before == Before::Maybe {
            job.before = match prepared.is_kept {
                true => Before::Yes,
                false => Before::No,
            };
        }
        match prepared.n_slots {
            _ if job.end_wish.is_some() || self.is_suspended => self.is_not_wanted(id),
            n => {
                job.phase = Phase::Waiting { missing: 0 };
                let until = self.limits.slot_timeout;
                let until = until.map(|timeout| self.now.elapsed + timeout);
                self.slots.request(job.turn(), id.clone(), n, until);
            }
        }
    }

    /// Gives slots to those whose turn it is.
    fn serve(&mut self) {
        for id in self.slots.serve() {
            self.start(&id);
        }
        for (id, job) in &mut self.jobs {
            if let Phase::Waiting { missing } = &mut job.phase {
                *missing = self.slots.missing(id);
            }
        }
    }

    fn start(&mut self, id: &JobId) {
        if let Some(job) = self.jobs.get_mut(id) {
            job.phase = Phase::Starting;
            self.actions.push(Action::Start(id.clone()));
        }
    }

    /// A job that waited is to end. The last JobManager may have left something that is to be
    /// committed or withdrawn, which a start does. It needs no slots: its tasks end at once.
    pub(super) fn is_not_wanted(&mut self, id: &JobId) {
        let Some(job) = self.jobs.get(id) else { return };
        self.slots.release(id);
        match job.end_wish {
            Some(_) if job.before == Before::Yes => self.start(id),
            wish => self.ends(id, wish.map(End::of)),
        }
    }

    fn started(&mut self, id: &JobId, result: Result<Option<Started>, Failure>) {
        let Some(job) = self.jobs.get_mut(id) else {
            return;
        };
        let Started { is_kept } = match result {
            Err(failure) => return self.ends(id, Some(End::failed(failure))),
            Ok(None) => return self.ends(id, Some(End::of(EndState::Finished))),
            Ok(Some(started)) => started,
        };
        job.phase = Phase::Running;
        let (is_noted, wish) = (
            job.registered.as_ref().is_ok_and(|job| job.started),
            job.end_wish,
        );
        if is_kept && !is_noted {
            self.keep(id, Note::Started, None);
        }
        match wish {
            Some(EndState::Canceled) => self.actions.push(Action::Cancel(id.clone())),
            Some(_) => self.actions.push(Action::Stop(id.clone())),
            None if self.is_suspended => self.actions.push(Action::Stop(id.clone())),
            None => {}
        }
    }

    /// Keeps how a job ended, if it did. One that ended with the process, and not because somebody
    /// wanted it, is the next JobManager's.
    pub(super) fn ends(&mut self, id: &JobId, end: Option<End>) {
        self.slots.release(id);
        let is_suspended = self.is_suspended;
        let Some(job) = self.jobs.get_mut(id).filter(|job| !job.is_ending) else {
            return;
        };
        job.is_ending = true;
        if let Some(reason) = end.as_ref().and_then(|end| end.reason.as_ref()) {
            let line = format!(
                "streamrt: [{}] the job has failed: {}",
                reason.code,
                reason.with_causes()
            );
            self.actions.push(Action::Say {
                id: id.clone(),
                line,
            });
        }
        let is_wanted = !is_suspended || job.end_wish.is_some();
        match end.filter(|_| is_wanted) {
            Some(end) => self.keep(id, Note::Ended(end), None),
            None => self.over(id),
        }
    }

    /// Tells those who wait that the job has ended.
    pub(super) fn over(&mut self, id: &JobId) {
        let Some(job) = self.jobs.get_mut(id).filter(|job| !job.has_ended()) else {
            return;
        };
        job.phase = Phase::Ended;
        let (result, waiting) = (job.came_to(), std::mem::take(&mut job.awaiting_end));
        for request in waiting {
            let result = result.clone();
            self.actions.push(Action::Answer { request, result });
        }
        self.actions.push(Action::Over(id.clone()));
        self.forget();
    }

    /// Forgets the jobs that were accepted first, of too many that have ended.
    pub(super) fn forget(&mut self) {
        // What cannot be read stays, for somebody to look at.
        let has_end = |job: &Known| job.registered.as_ref().is_ok_and(|job| job.end.is_some());
        let ended = self.jobs.iter().filter(|(_, job)| has_end(job));
        let mut ended: Vec<(u64, JobId)> =
            ended.map(|(id, job)| (job.number, id.clone())).collect();
        let surplus = ended.len().saturating_sub(self.limits.ended_max);
        if surplus == 0 {
            return;
        }
        ended.sort();
        for (_, id) in ended.drain(..surplus) {
            // One whose end is not written yet stays until it is.
            let is_written = self.jobs.get(&id).is_some_and(|job| job.pending.is_empty());
            let forgotten = is_written.then(|| self.jobs.remove(&id)).flatten();
            let entries = forgotten.and_then(|job| job.registered.ok());
            self.actions.extend(entries.map(|job| Action::Forget {
                id,
                entries: job.entries,
            }));
        }
    }

    fn suspend(&mut self) {
        self.is_suspended = true;
        let phases = self.jobs.iter().map(|(id, job)| (id.clone(), job.phase));
        for (id, phase) in phases.collect::<Vec<_>>() {
            match phase {
                Phase::Waiting { .. } => self.is_not_wanted(&id),
                Phase::Running => self.actions.push(Action::Stop(id)),
                Phase::Preparing | Phase::Starting | Phase::Ended => {}
            }
        }
    }

    fn tick(&mut self) {
        for (id, failure) in self.slots.timed_out(self.now.elapsed) {
            self.ends(&id, Some(End::failed(failure)));
        }
        self.retry();
    }

    pub(super) fn refuse(&mut self, request: u64, error: &Error) {
        let failure = Failure::from(error);
        self.actions.push(Action::Refuse { request, failure });
    }
}
