//! Takes jobs and commands to them, starts what ran when the last JobManager ended, and keeps what
//! became of all.
//!
//! 1. A job is accepted when its entry is in the registry; then a thread of its own reads it, waits
//!    for slots and starts it. Its end is written before anybody is told.
//! 2. A JobManager that opens the folder of one that was killed starts each job that has not ended,
//!    from its newest checkpoint.
//!
//! Invariant: at most one Dispatcher works in a folder: it holds the lock of the folder.

use crate::job::{Job, Phase};
use crate::shell::{Deadline, Turns, spawn};
use crate::{
    Blobs, End, JobId, JobRunner, Lease, Operation, Outcome, Registry, ResourceManager, RunningJob,
    Specification, Trigger, Version,
};
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use streamrt_checkpoint::{EndState, Store};
use streamrt_types::{Clock, Error, Result, code, for_job, say};

const LOCK: &str = "lock";

/// Lines of a job that are remembered when it has ended.
const ENDED_LINES: usize = 100;

/// So many jobs are read or started at a time: each may compile a component.
const STARTING_MAX: usize = 8;

/// How a Dispatcher works.
pub struct Settings {
    pub slots: u32,
    /// How long a job waits for slots; None: as long as it takes.
    pub slot_timeout: Option<Duration>,
    /// What a component may have.
    pub component_bytes_max: usize,
    /// How many jobs that have ended are remembered.
    pub ended_max: usize,
    pub clock: Arc<dyn Clock>,
}

/// See the module. Clones are the same one.
pub struct Dispatcher<R: JobRunner>(Arc<Inner<R>>);

impl<R: JobRunner> Clone for Dispatcher<R> {
    fn clone(&self) -> Dispatcher<R> {
        Dispatcher(self.0.clone())
    }
}

struct Inner<R: JobRunner> {
    runner: R,
    registry: Registry,
    blobs: Blobs,
    slots: ResourceManager,
    slot_timeout: Option<Duration>,
    ended_max: usize,
    clock: Arc<dyn Clock>,
    /// The oldest first.
    jobs: Mutex<Vec<Arc<Job<R::Job>>>>,
    starting: Turns,
    /// Held while a job is accepted, so that two of one name are not.
    accepting: Mutex<()>,
    /// Held from the look at a job's entries to the next one: an upgrade may end as the job does.
    registering: Mutex<()>,
    /// The process ends, and its jobs go on with the next one.
    suspended: AtomicBool,
    /// Locked as long as this lives.
    _lock: File,
}

fn lock(dir: &Path) -> Result<File> {
    let path = dir.join(LOCK);
    let opened = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    let file = opened.map_err(|e| {
        Error::new(code::FILE_IO, format!("{} cannot be used", path.display())).with_source(e)
    })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::new(
            code::DIR_IN_USE,
            format!("another JobManager works in {}", dir.display()),
        )),
        Err(TryLockError::Error(e)) => Err(Error::new(
            code::FILE_IO,
            format!("{} cannot be locked", path.display()),
        )
        .with_source(e)),
    }
}

impl<R: JobRunner> Dispatcher<R> {
    /// Opens the folder of a JobManager, which is made if it is not there, and starts what ran in
    /// it.
    ///
    /// # Errors
    /// S3016 if another JobManager works there, S7007 or S3002 if the folder cannot be used.
    pub fn open(dir: &Path, settings: Settings, runner: R) -> Result<Dispatcher<R>> {
        let no_text = || Error::new(code::STORE, format!("{} is no text", dir.display()));
        let store = Store::open(dir.to_str().ok_or_else(no_text)?)?;
        let lock = lock(&PathBuf::from(store.location()))?;
        let registry = Registry::new(store.clone());
        let known = registry.jobs()?;
        let blobs = Blobs::open(store, settings.component_bytes_max)?;
        // What an unreadable entry names is not known, so then nothing is given up.
        if known.iter().all(|(_, job)| job.is_ok()) {
            let used: BTreeSet<&str> = known
                .iter()
                .flat_map(|(_, job)| job.iter().flat_map(|job| job.digests()))
                .collect();
            blobs.retain(|digest| used.contains(digest))?;
        }
        let jobs: Vec<Arc<Job<R::Job>>> = known
            .into_iter()
            .map(|(id, job)| Arc::new(Job::new(id, job)))
            .collect();
        let dispatcher = Dispatcher(Arc::new(Inner {
            runner,
            registry,
            blobs,
            slots: ResourceManager::new(settings.slots),
            slot_timeout: settings.slot_timeout,
            ended_max: settings.ended_max,
            clock: settings.clock,
            jobs: Mutex::new(jobs.clone()),
            starting: Turns::new(STARTING_MAX),
            accepting: Mutex::default(),
            registering: Mutex::default(),
            suspended: AtomicBool::new(false),
            _lock: lock,
        }));
        jobs.into_iter()
            .filter(|job| !job.has_ended())
            .try_for_each(|job| dispatcher.0.spawn(job))?;
        Ok(dispatcher)
    }

    pub fn runner(&self) -> &R {
        &self.0.runner
    }

    pub fn blobs(&self) -> &Blobs {
        &self.0.blobs
    }

    pub fn slots(&self) -> &ResourceManager {
        &self.0.slots
    }

    /// All jobs, also those that have ended, the oldest first.
    pub fn jobs(&self) -> Vec<Arc<Job<R::Job>>> {
        self.0.jobs().clone()
    }

    /// The job with this id.
    ///
    /// # Errors
    /// S6005 if there is none.
    pub fn job(&self, id: &str) -> Result<Arc<Job<R::Job>>> {
        let found = self
            .0
            .jobs()
            .iter()
            .find(|job| job.id.as_str() == id)
            .cloned();
        found.ok_or_else(|| Error::new(code::NO_JOB, format!("there is no job {id}")))
    }

    /// Accepts a job: when this returns it is kept, and will run or say why not.
    ///
    /// # Errors
    /// S6009 and S2021 as [`Specification::check`], S6006 if a job of this name runs, S6008 if a
    /// component was not uploaded, S7007 if the registry cannot be written.
    pub fn submit(&self, specification: Specification) -> Result<JobId> {
        specification.check()?;
        self.0.check_components(&specification.version)?;
        let accepting = self.0.accepting.lock();
        let _accepting = accepting.unwrap_or_else(PoisonError::into_inner);
        self.0.check_name(&specification.name)?;
        let id = JobId::random();
        let now_ms = self.0.clock.now_ms();
        let registered = self.0.registry.submit(&id, specification, now_ms)?;
        let job = Arc::new(Job::new(id.clone(), Ok(registered)));
        self.0.jobs().push(job.clone());
        self.0.spawn(job)?;
        Ok(id)
    }

    /// Begins a command to a job, and returns the id of the trigger.
    ///
    /// # Errors
    /// S6005 if there is no such job, S6007 if it has ended, S7014 if its entries cannot be read,
    /// S7009 if it does not run yet and the command needs that.
    pub fn begin(&self, id: &str, operation: Operation) -> Result<String> {
        let job = self.job(id)?;
        if let Operation::Upgrade { version } = &operation {
            version.check()?;
            self.0.check_components(version)?;
        }
        let (inner, own) = (self.0.clone(), job.clone());
        let ends = end_wish(&operation).is_some();
        let work: Box<dyn FnOnce() -> Result<Outcome> + Send> = match running(&job, &operation)? {
            Some(running) => Box::new(move || {
                let done = inner.carry_out(&own, &*running, operation);
                // A job that could not be stopped runs on.
                done.inspect_err(|_| {
                    if ends {
                        own.change(|state| state.end_wish = None);
                    }
                })
            }),
            None => {
                self.0.slots.wake();
                Box::new(move || ended(&own))
            }
        };
        job.triggers.begin(work)
    }

    /// How far a command has come; it is waited for, but not longer than `wait`.
    ///
    /// # Errors
    /// S6005 if there is no such job or trigger.
    pub fn trigger(&self, id: &str, trigger: &str, wait: Duration) -> Result<Trigger> {
        let found = self.job(id)?.triggers.look(trigger, wait);
        found.ok_or_else(|| {
            let message = format!("the job {id} remembers no command {trigger}");
            Error::new(code::NO_JOB, message)
        })
    }

    /// Ends all jobs with a last checkpoint, and waits for that until `limit` has passed. The next
    /// JobManager goes on with them.
    pub fn suspend(&self, limit: Duration) {
        self.0.suspended.store(true, Ordering::SeqCst);
        self.0.slots.wake();
        let (jobs, until) = (self.jobs(), Deadline::after(limit));
        for job in &jobs {
            if let Phase::Running(running) = job.phase() {
                running.stop();
            }
        }
        jobs.iter().for_each(|job| job.await_end_until(Some(until)));
    }
}

/// How a user who gives this command wants the job to end.
fn end_wish(operation: &Operation) -> Option<EndState> {
    match operation {
        Operation::Stop { .. } => Some(EndState::Stopped),
        Operation::Cancel => Some(EndState::Canceled),
        Operation::Savepoint { .. } | Operation::Upgrade { .. } => None,
    }
}

/// Whether nothing but a job that runs can do it.
fn needs_run(operation: &Operation) -> bool {
    match operation {
        Operation::Stop { savepoint, drain } => savepoint.is_some() || *drain,
        operation => end_wish(operation).is_none(),
    }
}

/// What the command goes to. None: the job does not run yet, and has been told to end.
fn running<J: RunningJob>(job: &Job<J>, operation: &Operation) -> Result<Option<Arc<J>>> {
    let running = job.change(|state| {
        if let Err(failure) = &state.registered {
            return Err(failure.clone().into());
        }
        let running = match &state.phase {
            Phase::Ended => return Ok(None),
            Phase::Running(running) => Some(running.clone()),
            _ if needs_run(operation) => {
                let message = "the job does not run yet; `streamrt info` says what it waits for";
                return Err(Error::new(code::CHECKPOINT_FAILED, message));
            }
            _ => None,
        };
        state.end_wish = state.end_wish.or(end_wish(operation));
        Ok(running)
    })?;
    match running {
        None if job.has_ended() => Err(job.has_ended_already()),
        running => Ok(running),
    }
}

fn ended<J: RunningJob>(job: &Job<J>) -> Result<Outcome> {
    let checkpoint = job.await_end()?.and_then(|end| end.checkpoint);
    Ok(Outcome::Ended { checkpoint })
}

impl<R: JobRunner> Inner<R> {
    fn jobs(&self) -> MutexGuard<'_, Vec<Arc<Job<R::Job>>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_components(&self, version: &Version) -> Result<()> {
        let missing = version
            .components
            .iter()
            .find(|component| !self.blobs.contains(&component.digest));
        missing.map_or(Ok(()), |component| {
            Err(self.blobs.missing(&component.digest).at(&component.path))
        })
    }

    fn check_name(&self, name: &str) -> Result<()> {
        let jobs = self.jobs();
        let other = jobs
            .iter()
            .find(|job| !job.has_ended() && job.name() == name);
        other.map_or(Ok(()), |job| {
            let message = format!("a job `{name}` runs already: {}", job.id);
            Err(Error::new(code::JOB_EXISTS, message))
        })
    }

    /// Lets a job start, on a thread of its own.
    fn spawn(self: &Arc<Self>, job: Arc<Job<R::Job>>) -> Result<()> {
        let inner = self.clone();
        spawn("deploy", move || inner.drive(&job))
    }

    fn drive(self: &Arc<Self>, job: &Arc<Job<R::Job>>) {
        let run = || for_job(&job.log, || self.run(job));
        let ended = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
            let error = Error::internal("the program panicked while it dealt with the job");
            Some(Some(End::failed(&error)))
        });
        if let Some(end) = ended {
            self.end(job, end);
        }
    }

    fn is_suspended(&self) -> bool {
        self.suspended.load(Ordering::SeqCst)
    }

    /// Starts a job. None if it runs, and else its end, if it has one: `Some(None)` means that the
    /// next JobManager goes on with it.
    fn run(self: &Arc<Self>, job: &Arc<Job<R::Job>>) -> Option<Option<End>> {
        let Ok(registered) = job.registered() else {
            return Some(None);
        };
        Some(match self.start(job, &registered.starting()) {
            Err(error) => Some(End::failed(&error)),
            Ok(Started::Finished) => Some(End::of(EndState::Finished)),
            Ok(Started::NotWanted) => job.state().end_wish.map(End::of),
            Ok(Started::Runs(running, lease)) => {
                let (inner, own) = (self.clone(), job.clone());
                running.on_end(Box::new(move |end| {
                    drop(lease);
                    inner.end(&own, Some(end));
                }));
                return None;
            }
        })
    }

    fn start(&self, job: &Job<R::Job>, specification: &Specification) -> Result<Started<R::Job>> {
        let has_run = job.registered().is_ok_and(|job| job.started);
        if has_run {
            self.runner.check_kept(&job.id, specification)?;
        }
        let prepare = || self.runner.prepare(&job.id, specification, &self.blobs);
        let prepared = self.starting.take(prepare)?;
        let wants = || job.state().end_wish.is_none() && !self.is_suspended();
        let missing = |missing| job.change(|state| state.phase = Phase::Waiting { missing });
        let n = self.runner.n_slots(&prepared);
        let lease = self.slots.acquire(n, self.slot_timeout, wants, missing)?;
        // The last JobManager may have left something that is to be committed or withdrawn, which a
        // start does. It needs no slots: its tasks end at once.
        if lease.is_none() && (!has_run || self.is_suspended()) {
            return Ok(Started::NotWanted);
        }
        job.change(|state| state.phase = Phase::Starting);
        let start = || self.runner.start(&job.id, prepared);
        let Some(running) = self.starting.take(start)? else {
            return Ok(Started::Finished);
        };
        self.note_start(job);
        let running = Arc::new(running);
        let wish = job.change(|state| {
            state.phase = Phase::Running(running.clone());
            state.end_wish
        });
        match wish {
            Some(EndState::Canceled) => running.cancel(),
            Some(_) => running.stop(),
            None if self.is_suspended() => running.stop(),
            None => {}
        }
        Ok(Started::Runs(running, lease))
    }

    /// Keeps how a job ended, then tells those who wait. One that ended with the process, and not
    /// because somebody wanted it, is the next JobManager's.
    fn end(&self, job: &Job<R::Job>, end: Option<End>) {
        let is_wanted = !self.is_suspended() || job.state().end_wish.is_some();
        let end = end.filter(|_| is_wanted);
        let registering = self.registering.lock();
        let _registering = registering.unwrap_or_else(PoisonError::into_inner);
        let registered = job.registered();
        if let (Some(end), Ok(mut registered)) = (end, registered) {
            let now_ms = self.clock.now_ms();
            let kept = self
                .registry
                .ended(&job.id, &mut registered, end.clone(), now_ms);
            if let Err(error) = kept {
                let (id, why) = (&job.id, error.with_causes());
                say!(
                    "streamrt: how the job {id} ended could not be kept, so the next JobManager starts it again: {why}"
                );
                registered.end = Some((end, now_ms));
            }
            job.state().registered = Ok(registered);
        }
        job.log.shorten(ENDED_LINES);
        job.change(|state| state.phase = Phase::Ended);
        self.forget();
    }

    /// Forgets the jobs that were accepted first, of too many that have ended.
    fn forget(&self) {
        let mut jobs = self.jobs();
        // What cannot be read stays, for somebody to look at.
        let has_ended = |job: &Job<R::Job>| job.registered().is_ok_and(|job| job.end.is_some());
        let ended = jobs.iter().filter(|job| has_ended(job));
        let Some(too_many) = ended.count().checked_sub(self.ended_max) else {
            return;
        };
        let mut forgotten = Vec::new();
        jobs.retain(|job| {
            let is_one = forgotten.len() < too_many && has_ended(job);
            forgotten.extend(is_one.then(|| job.clone()));
            !is_one
        });
        drop(jobs);
        for job in forgotten {
            let known = job.registered();
            let done = known.map(|known| self.registry.forget(&job.id, &known));
            if let Ok(Err(error)) = done {
                let why = error.with_causes();
                say!(
                    "streamrt: what is known of the job {} could not be deleted: {why}",
                    job.id
                );
            }
        }
    }

    fn carry_out(
        &self,
        job: &Job<R::Job>,
        running: &R::Job,
        operation: Operation,
    ) -> Result<Outcome> {
        match operation {
            Operation::Stop { savepoint, drain } => {
                match savepoint {
                    folder if drain => drop(running.drain(folder.as_deref())?),
                    Some(folder) => drop(running.savepoint(&folder, true)?),
                    None => running.stop(),
                }
                ended(job)
            }
            Operation::Cancel => {
                running.cancel();
                ended(job)
            }
            Operation::Savepoint { folder } => {
                let checkpoint = running.savepoint(&folder, false)?;
                Ok(Outcome::Savepoint { checkpoint, folder })
            }
            Operation::Upgrade { version } => {
                let outcome = running.upgrade(&version, &self.blobs)?;
                self.keep_version(job, version)?;
                Ok(outcome)
            }
        }
    }

    /// Keeps that a job has run. If that cannot be kept, the job runs all the same.
    fn note_start(&self, job: &Job<R::Job>) {
        let registering = self.registering.lock();
        let _registering = registering.unwrap_or_else(PoisonError::into_inner);
        let Ok(mut registered) = job.registered() else {
            return;
        };
        if registered.started {
            return;
        }
        let now_ms = self.clock.now_ms();
        match self.registry.started(&job.id, &mut registered, now_ms) {
            Ok(()) => job.state().registered = Ok(registered),
            Err(error) => {
                let why = error.with_causes();
                say!(
                    "streamrt: that the job {} runs could not be kept: {why}",
                    job.id
                );
            }
        }
    }

    /// A job that has ended meanwhile is not started again, so nothing follows its end.
    fn keep_version(&self, job: &Job<R::Job>, version: Version) -> Result<()> {
        let registering = self.registering.lock();
        let _registering = registering.unwrap_or_else(PoisonError::into_inner);
        let mut registered = job.registered()?;
        if registered.end.is_some() {
            return Ok(());
        }
        let now_ms = self.clock.now_ms();
        self.registry
            .upgraded(&job.id, &mut registered, version, now_ms)?;
        job.state().registered = Ok(registered);
        Ok(())
    }
}

/// What came of a start.
enum Started<J> {
    Runs(Arc<J>, Option<Lease>),
    /// It had finished before.
    Finished,
    /// Somebody ended it, or the process, while it waited.
    NotWanted,
}

#[cfg(test)]
mod tests;
