//! Carries out what the Dispatcher decides, on threads: two pools for all jobs, of which one reads
//! and starts them, and one writes what becomes of them.

use super::{Action, Before, Core, Event, Known, Limits, Prepared, Started};
use crate::job::{Job, Phase};
use crate::job_master::Now;
use crate::shell::{Alarm, Deadline, spawn};
use crate::{
    Blobs, Entry, Failure, JobId, JobRunner, Operation, Outcome, Registry, RunningJob,
    Specification, Trigger, Triggers, Version,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions, TryLockError};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use streamrt_checkpoint::Store;
use streamrt_types::{
    Clock, Error, Failpoints, LogRing, Result, Strand, Workers, code, for_job, say,
};

const LOCK: &str = "lock";

/// Lines of a job that are remembered when it has ended.
const ENDED_LINES: usize = 100;

/// How many jobs are read or started at a time: each may compile a component.
const STARTING_MAX: usize = 8;

/// How many entries are written at a time.
const WRITING_MAX: usize = 4;

/// How a Dispatcher works.
pub struct Settings {
    pub limits: Limits,
    /// What a component may have.
    pub component_bytes_max: usize,
    pub clock: Arc<dyn Clock>,
    /// What jobs meet on their way.
    pub failpoints: Failpoints,
}

/// See the module above. Clones are the same one.
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
    clock: Arc<dyn Clock>,
    failpoints: Failpoints,
    core: Mutex<Core>,
    /// The core has decided something.
    decided: Condvar,
    /// By the ids of jobs that are known, or are being submitted.
    tools: Mutex<BTreeMap<JobId, Arc<Tools<R>>>>,
    /// Who waits for the answer to a request.
    asking: Mutex<BTreeMap<u64, Asking>>,
    n_requests: AtomicU64,
    alarm: Alarm,
    starting: Workers,
    writing: Workers,
    /// Locked as long as this lives.
    _lock: File,
}

/// What carries out the decisions about one job.
struct Tools<R: JobRunner> {
    log: Arc<LogRing>,
    triggers: Triggers,
    starts: Strand,
    writes: Strand,
    prepared: Mutex<Option<R::Prepared>>,
    running: Mutex<Option<Arc<R::Job>>>,
}

enum Asking {
    Submits(Sender<Result<Outcome, Failure>>),
    Commands(Triggers, String),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lock_folder(dir: &Path) -> Result<File> {
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

fn now(clock: &Arc<dyn Clock>) -> Now {
    Now {
        elapsed: clock.elapsed(),
        wall_ms: clock.now_ms(),
    }
}

/// What came of a step, or that it panicked.
fn caught<T>(step: impl FnOnce() -> Result<T>) -> Result<T, Failure> {
    let panicked = |_| {
        Err(Error::internal(
            "the program panicked while it dealt with the job",
        ))
    };
    let done = catch_unwind(AssertUnwindSafe(step)).unwrap_or_else(panicked);
    done.map_err(|error| Failure::from(&error))
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
        let lock = lock_folder(&PathBuf::from(store.location()))?;
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
        let (starting, writing) = (
            Workers::new("deploy", STARTING_MAX),
            Workers::new("registry", WRITING_MAX),
        );
        let tools = known.iter().map(|(id, job)| {
            let name = job.as_ref().ok().map(|job| &*job.specification.name);
            (id.clone(), Tools::new(name, &starting, &writing))
        });
        let tools = Mutex::new(tools.collect());
        let (core, first) = Core::new(settings.limits, known, now(&settings.clock));
        let inner = Arc::new(Inner {
            runner,
            registry,
            blobs,
            clock: settings.clock,
            failpoints: settings.failpoints,
            core: Mutex::new(core),
            decided: Condvar::new(),
            tools,
            asking: Mutex::default(),
            n_requests: AtomicU64::new(0),
            alarm: Alarm::default(),
            starting,
            writing,
            _lock: lock,
        });
        let weak = Arc::downgrade(&inner);
        inner.alarm.start("dispatcher", move || {
            if let Some(inner) = weak.upgrade() {
                inner.handle(Event::Tick);
            }
        })?;
        inner.carry_out(first);
        Ok(Dispatcher(inner))
    }

    pub fn runner(&self) -> &R {
        &self.0.runner
    }

    pub fn blobs(&self) -> &Blobs {
        &self.0.blobs
    }

    /// The slots, and how many of them are free.
    pub fn slots(&self) -> (u32, u32) {
        let core = lock(&self.0.core);
        (core.total_slots(), core.free_slots())
    }

    /// All jobs, also those that have ended, the oldest first.
    pub fn jobs(&self) -> Vec<Job<R::Job>> {
        let core = lock(&self.0.core);
        let jobs = core.jobs().into_iter();
        jobs.filter_map(|(id, known)| self.0.view(id, known))
            .collect()
    }

    /// The job with this id.
    ///
    /// # Errors
    /// S6005 if there is none.
    pub fn job(&self, id: &str) -> Result<Job<R::Job>> {
        let view = |id: &JobId| self.0.view(id, lock(&self.0.core).job(id)?);
        let job = JobId::parse(id).and_then(|id| view(&id));
        job.ok_or_else(|| no_job(id))
    }

    /// Accepts a job: when this returns it is kept, and will run or say why not.
    ///
    /// # Errors
    /// S6009 and S2021 as [`Specification::check`], S6006 if a job of this name runs, S6008 if a
    /// component was not uploaded, S7007 if the registry cannot be written.
    pub fn submit(&self, specification: Specification) -> Result<JobId> {
        specification.check()?;
        self.0.check_components(&specification.version)?;
        let inner = &self.0;
        let id = JobId::random();
        let tools = Tools::new(Some(&specification.name), &inner.starting, &inner.writing);
        lock(&inner.tools).insert(id.clone(), tools);
        let (sender, answer) = channel();
        let request = inner.asks(Asking::Submits(sender));
        let refused = inner.handle(Event::Submitted {
            request,
            id: id.clone(),
            specification: Box::new(specification),
        });
        if let Some(failure) = refused {
            lock(&inner.tools).remove(&id);
            return Err(failure.into());
        }
        let no_answer = |_| Error::internal("nobody answered to a submission");
        answer.recv().map_err(no_answer)??;
        Ok(id)
    }

    /// Begins a command to a job, and returns the id of the trigger.
    ///
    /// # Errors
    /// S6005 if there is no such job, S6007 if it has ended, S7014 if its entries cannot be read,
    /// S7009 if it does not run yet and the command needs that.
    pub fn begin(&self, id: &str, operation: Operation) -> Result<String> {
        if let Operation::Upgrade { version } = &operation {
            version.check()?;
            self.0.check_components(version)?;
        }
        let inner = &self.0;
        let id = JobId::parse(id).ok_or_else(|| no_job(id))?;
        let tools = inner.tools(&id).ok_or_else(|| no_job(id.as_str()))?;
        let trigger = tools.triggers.open()?;
        let request = inner.asks(Asking::Commands(tools.triggers.clone(), trigger.clone()));
        let refused = inner.handle(Event::Asked {
            request,
            id,
            operation,
        });
        match refused {
            Some(failure) => {
                tools.triggers.withdraw(&trigger);
                Err(failure.into())
            }
            None => Ok(trigger),
        }
    }

    /// How far a command has come; it is waited for, but not longer than `wait`.
    ///
    /// # Errors
    /// S6005 if there is no such job or trigger.
    pub fn trigger(&self, id: &str, trigger: &str, wait: Duration) -> Result<Trigger> {
        let tools = JobId::parse(id).and_then(|id| self.0.tools(&id));
        let found = tools
            .ok_or_else(|| no_job(id))?
            .triggers
            .look(trigger, wait);
        found.ok_or_else(|| {
            let message = format!("the job {id} remembers no command {trigger}");
            Error::new(code::NO_JOB, message)
        })
    }

    /// Ends all jobs with a last checkpoint, and waits for that until `limit` has passed. The next
    /// JobManager goes on with them.
    pub fn suspend(&self, limit: Duration) {
        self.0.handle(Event::Suspended);
        let until = Deadline::after(limit);
        let lives = |core: &Core| {
            let mut jobs = core.jobs().into_iter();
            jobs.any(|(_, job)| job.phase() != Phase::Ended)
        };
        let mut core = lock(&self.0.core);
        while lives(&core) && !until.left().is_zero() {
            core = match self.0.decided.wait_timeout(core, until.left()) {
                Ok((core, _)) => core,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }
}

fn no_job(id: &str) -> Error {
    Error::new(code::NO_JOB, format!("there is no job {id}"))
}

impl<R: JobRunner> Tools<R> {
    fn new(name: Option<&str>, starting: &Workers, writing: &Workers) -> Arc<Tools<R>> {
        Arc::new(Tools {
            log: LogRing::new(name),
            triggers: Triggers::default(),
            starts: starting.strand(),
            writes: writing.strand(),
            prepared: Mutex::default(),
            running: Mutex::default(),
        })
    }
}

impl<R: JobRunner> Inner<R> {
    fn tools(&self, id: &JobId) -> Option<Arc<Tools<R>>> {
        lock(&self.tools).get(id).cloned()
    }

    fn view(&self, id: &JobId, known: &Known) -> Option<Job<R::Job>> {
        let tools = self.tools(id)?;
        Some(Job {
            id: id.clone(),
            log: tools.log.clone(),
            phase: known.phase(),
            registered: known.registered().clone(),
            running: lock(&tools.running).clone(),
        })
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

    /// The number of a request.
    fn asks(&self, asking: Asking) -> u64 {
        let request = self.n_requests.fetch_add(1, Ordering::Relaxed);
        lock(&self.asking).insert(request, asking);
        request
    }

    /// Lets the core decide, and carries that out; returns why the request was refused, if the event
    /// is one and it was.
    fn handle(self: &Arc<Self>, event: Event) -> Option<Failure> {
        let mut core = lock(&self.core);
        let mut actions = core.handle(event, now(&self.clock));
        let next = core.next_tick();
        // Under the lock, or an older decision could be the last to set it.
        let wait = next.map(|at| at.saturating_sub(self.clock.elapsed()));
        self.alarm.set(wait);
        drop(core);
        self.decided.notify_all();
        let mut refused = None;
        actions.retain(|action| match action {
            Action::Refuse { request, failure } => {
                lock(&self.asking).remove(request);
                refused = Some(failure.clone());
                false
            }
            _ => true,
        });
        self.carry_out(actions);
        refused
    }

    fn carry_out(self: &Arc<Self>, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Keep { id, entry } => self.keep(id, entry),
                Action::Prepare {
                    id,
                    specification,
                    before,
                } => self.prepare(id, *specification, before),
                Action::Start(id) => self.start(id),
                Action::Stop(id) => self.running(&id).iter().for_each(|job| job.stop()),
                Action::Cancel(id) => self.running(&id).iter().for_each(|job| job.cancel()),
                Action::CarryOut {
                    request,
                    id,
                    operation,
                } => self.command(request, id, operation),
                Action::Answer { request, result } => self.answer(request, result),
                Action::Over(id) => self.over(&id),
                Action::Forget { id, entries } => self.forget(id, entries),
                Action::Say { id, line } => {
                    let say = || say!("{line}");
                    match self.tools(&id) {
                        Some(tools) => for_job(&tools.log, say),
                        None => say(),
                    }
                }
                Action::Refuse { .. } => {}
            }
        }
    }

    fn running(&self, id: &JobId) -> Option<Arc<R::Job>> {
        lock(&self.tools(id)?.running).clone()
    }

    fn keep(self: &Arc<Self>, id: JobId, entry: Entry) {
        let Some(tools) = self.tools(&id) else { return };
        let inner = self.clone();
        tools.writes.run(move || {
            let result = caught(|| inner.registry.keep(&id, &entry));
            inner.handle(Event::Kept { id, result });
        });
    }

    fn prepare(self: &Arc<Self>, id: JobId, specification: Specification, before: Before) {
        let Some(tools) = self.tools(&id) else { return };
        let (inner, own) = (self.clone(), tools.clone());
        tools.starts.run(move || {
            let read = || {
                let runner = &inner.runner;
                let has_run = before == Before::Yes;
                let is_kept =
                    before != Before::No && runner.is_kept(&id, &specification, has_run)?;
                let prepared = runner.prepare(&id, &specification, &inner.blobs)?;
                let n_slots = runner.n_slots(&prepared);
                *lock(&own.prepared) = Some(prepared);
                Ok(Prepared { n_slots, is_kept })
            };
            let result = for_job(&own.log, || caught(read));
            inner.handle(Event::Prepared { id, result });
        });
    }

    fn start(self: &Arc<Self>, id: JobId) {
        let Some(tools) = self.tools(&id) else { return };
        let (inner, own) = (self.clone(), tools.clone());
        tools.starts.run(move || {
            let start = || for_job(&own.log, || caught(|| inner.start_now(&id, &own)));
            let started = inner.failpoints.clone().scope(start);
            let is_kept = |running: &Arc<R::Job>| Started {
                is_kept: running.is_kept(),
            };
            let result = started
                .as_ref()
                .map(|running| running.as_ref().map(is_kept));
            inner.handle(Event::Started {
                id: id.clone(),
                result: result.map_err(Failure::clone),
            });
            if let Ok(Some(running)) = started {
                let ended = move |end| drop(inner.handle(Event::Ended { id, end }));
                running.on_end(Box::new(ended));
            }
        });
    }

    fn start_now(&self, id: &JobId, tools: &Tools<R>) -> Result<Option<Arc<R::Job>>> {
        let prepared = lock(&tools.prepared).take();
        let not_read = || Error::internal("a job was to start that was not read");
        let started = self.runner.start(id, prepared.ok_or_else(not_read)?)?;
        let running = started.map(Arc::new);
        lock(&tools.running).clone_from(&running);
        Ok(running)
    }

    /// Does what takes time, on a thread of its own, so that one that hangs hinders no other.
    fn command(self: &Arc<Self>, request: u64, id: JobId, operation: Operation) {
        let carried_out = move |id: JobId, operation: Operation, result| Event::CarriedOut {
            request,
            id,
            operation,
            result,
        };
        let (inner, own, wanted) = (self.clone(), id.clone(), operation.clone());
        let spawned = spawn("command", move || {
            let gone = || Error::new(code::JOB_ENDED, format!("the job {own} has ended already"));
            let running = inner.running(&own).ok_or_else(gone);
            let result = caught(|| inner.carry_out_in(&*running?, &wanted));
            inner.handle(carried_out(own, wanted, result));
        });
        if let Err(error) = spawned {
            self.handle(carried_out(id, operation, Err(Failure::from(&error))));
        }
    }

    fn carry_out_in(&self, running: &R::Job, operation: &Operation) -> Result<Outcome> {
        match operation {
            Operation::Stop { savepoint, drain } => {
                match savepoint {
                    folder if *drain => drop(running.drain(folder.as_deref())?),
                    Some(folder) => drop(running.savepoint(folder, true)?),
                    None => running.stop(),
                }
                Ok(Outcome::Done)
            }
            Operation::Cancel => {
                running.cancel();
                Ok(Outcome::Done)
            }
            Operation::Savepoint { folder } => Ok(Outcome::Savepoint {
                checkpoint: running.savepoint(folder, false)?,
                folder: folder.clone(),
            }),
            Operation::Upgrade { version } => running.upgrade(version, &self.blobs),
        }
    }

    fn answer(&self, request: u64, result: Result<Outcome, Failure>) {
        let asking = lock(&self.asking).remove(&request);
        match asking {
            // Who asked may not wait any more.
            Some(Asking::Submits(sender)) => drop(sender.send(result)),
            Some(Asking::Commands(triggers, trigger)) => triggers.told(&trigger, result),
            None => {}
        }
    }

    /// What a job that has ended held is given back.
    fn over(&self, id: &JobId) {
        if let Some(tools) = self.tools(id) {
            tools.log.shorten(ENDED_LINES);
            lock(&tools.prepared).take();
            lock(&tools.running).take();
        }
    }

    fn forget(self: &Arc<Self>, id: JobId, entries: u64) {
        let Some(tools) = lock(&self.tools).remove(&id) else {
            return;
        };
        let inner = self.clone();
        tools.writes.run(move || {
            if let Err(error) = inner.registry.forget(&id, entries) {
                let why = error.with_causes();
                say!("streamrt: what is known of the job {id} could not be deleted: {why}");
            }
        });
    }
}
