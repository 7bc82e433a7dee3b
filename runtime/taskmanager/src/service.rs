//! The tasks of a job on this TaskManager: carries out what the JobMaster wants, and tells it what
//! came of it.
//!
//! What may take long (reading a snapshot, settling sinks, making tasks) is done on a thread of its
//! own for each step, so that a user who cancels is heard meanwhile; the JobMaster asks for the next
//! one when it has the answer. Commands to running tasks are passed on at once.
//!
//! Invariant: tasks that were prepared and not started hold nothing that others see. A region is
//! reported as ended when its threads are gone, after everything that its tasks have reported.

mod steps;

use crate::attempt::{self, Ready};
use crate::control::{Control, Ends};
use crate::definition::{Around, Definition, Plugins};
use crate::disks::StateBackend;
use crate::mailbox::{Command, Mailbox, Report};
use crate::metrics::{JobMetrics, Progress, SnapshotTimes};
use crate::rates::Rates;
use crate::replaceable::UserCode;
use crate::restored::Restored;
use crate::uploader::{Reports, Snapshots};
use crate::vertices::{VertexReport, vertices};
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use streamrt_checkpoint::Store;
use streamrt_plugin::Grants;
use streamrt_rpc::{FromTaskManager, Restore, Scope, ToTaskManager, WireError};
use streamrt_types::{
    Barrier, Clock, Error, ProcessMemory, Result, Workers, begin_attempt, inheriting,
};

/// What a job finds on this TaskManager.
pub struct Surroundings {
    pub plugins: Plugins,
    /// Folders for sinks that ask for them.
    pub grants: Grants,
    pub clock: Arc<dyn Clock>,
    /// What `state.backend` asks for; None: memory.
    pub state: Option<StateBackend>,
    /// They write the snapshots of all jobs.
    pub uploads: Workers,
}

/// The line to the JobMaster.
pub type Tell = Arc<dyn Fn(FromTaskManager) + Send + Sync>;

/// See the module.
#[derive(Clone)]
pub struct JobTasks(Arc<Shared>);

struct Shared {
    tell: Tell,
    ends: Arc<Ends>,
    state: Mutex<State>,
}

struct State {
    around: Around,
    /// Made into `around.disks` when a version is opened first.
    backend: Option<StateBackend>,
    uploads: Workers,
    /// By number.
    definitions: BTreeMap<u32, Arc<Definition>>,
    /// The version that was opened last, or whose code tasks have taken.
    current: Option<u32>,
    opened: Option<OpenedSnapshot>,
    regions: Vec<RegionTasks>,
    /// By task.
    mailboxes: Vec<Option<Arc<Mailbox>>>,
    /// To the uploader, in a job with checkpoints.
    reports: Option<Reports>,
    snapshots: Arc<Snapshots>,
    memory: Arc<ProcessMemory>,
    metrics: JobMetrics,
    rates: Rates,
    /// Instances of the code of a version that is to take over, by task.
    code: Option<(u32, Vec<UserCode>)>,
}

/// What was read for tasks that are to follow.
#[derive(Clone)]
struct OpenedSnapshot {
    scope: Scope,
    restore: Option<Restore>,
    restored: Arc<Restored>,
}

#[derive(Default)]
struct RegionTasks {
    generation: u64,
    control: Arc<Control>,
    prepared: Vec<Ready>,
    threads: Vec<JoinHandle<()>>,
    /// Those that have not said that they end.
    running: usize,
}

impl JobTasks {
    pub fn new(surroundings: Surroundings, tell: Tell) -> JobTasks {
        let Surroundings {
            plugins,
            grants,
            clock,
            state,
            uploads,
        } = surroundings;
        let around = Around {
            plugins,
            grants,
            clock,
            disks: None,
        };
        let state = State {
            around,
            backend: state,
            uploads,
            definitions: BTreeMap::new(),
            current: None,
            opened: None,
            regions: Vec::new(),
            mailboxes: Vec::new(),
            reports: None,
            snapshots: Arc::default(),
            memory: Arc::default(),
            metrics: JobMetrics::default(),
            rates: Rates::default(),
            code: None,
        };
        JobTasks(Arc::new(Shared {
            tell,
            ends: Arc::default(),
            state: Mutex::new(state),
        }))
    }

    /// Takes a message; whatever takes long is done elsewhere.
    pub fn take(&self, message: ToTaskManager) {
        match message {
            ToTaskManager::Open { step, .. }
            | ToTaskManager::Settle { step, .. }
            | ToTaskManager::Prepare { step, .. }
            | ToTaskManager::PrepareUpgrade { step, .. } => self.step(step, message),
            ToTaskManager::Start { scope } => self.start(scope),
            ToTaskManager::Trigger {
                checkpoint,
                tasks,
                savepoint,
                upgrade,
            } => self.trigger(checkpoint, &tasks, savepoint.as_deref(), upgrade),
            ToTaskManager::Complete { checkpoint } => {
                self.0.lock().tell_all(Command::Complete(checkpoint));
            }
            ToTaskManager::Abort { checkpoint } => {
                self.0.lock().tell_all(Command::Abort(checkpoint));
            }
            ToTaskManager::Cancel { regions } => self.cancel(&regions),
            ToTaskManager::Wish { wish } => {
                self.0.ends.wish(wish);
                let state = self.0.lock();
                state
                    .regions
                    .iter()
                    .for_each(|region| region.control.wake());
            }
        }
    }

    /// Carries out a step on a thread of its own, and answers.
    fn step(&self, step: u64, message: ToTaskManager) {
        let (shared, tell) = (self.0.clone(), self.0.tell.clone());
        let body = move || {
            let done = std::panic::catch_unwind(AssertUnwindSafe(|| shared.carry_out(message)));
            let done = done.unwrap_or_else(|panic| {
                let text = attempt::panic_text(panic.as_ref());
                Err(Error::internal(format!("a step panicked: {text}")))
            });
            let result = done.map_err(WireError::from);
            (shared.tell)(FromTaskManager::Answer { step, result });
        };
        let spawned = std::thread::Builder::new()
            .name("step".into())
            .spawn(inheriting(body));
        if let Err(error) = spawned {
            let error = Error::internal("no thread could be started").with_source(error);
            let result = Err(WireError::from(error));
            tell(FromTaskManager::Answer { step, result });
        }
    }

    fn start(&self, scope: Scope) {
        let regions: Vec<usize> = match scope {
            Scope::Job => (0..self.0.lock().regions.len()).collect(),
            Scope::Region { region, .. } => vec![region],
        };
        for number in regions {
            self.start_region(number);
        }
    }

    fn start_region(&self, number: usize) {
        let mut state = self.0.lock();
        let region = &mut state.regions[number];
        let (control, generation) = (region.control.clone(), region.generation);
        let prepared = std::mem::take(&mut region.prepared);
        // What tasks say from here on is in the log of the job as said by this attempt.
        begin_attempt(generation);
        let n_tasks = prepared.len();
        for ready in prepared {
            let shared = self.0.clone();
            let ended = move || shared.task_ended(number, generation);
            match attempt::start(ready, control.clone(), ended) {
                Ok(thread) => {
                    region.threads.push(thread);
                    region.running += 1;
                }
                // Some of its tasks may run: they end, and no other begins.
                Err(error) => {
                    control.fail(error);
                    break;
                }
            }
        }
        if n_tasks > 0 && region.running == 0 {
            drop(state);
            self.0.region_ended(number, generation);
        }
    }

    fn trigger(
        &self,
        checkpoint: u64,
        tasks: &[usize],
        savepoint: Option<&str>,
        upgrade: Option<u32>,
    ) {
        // A bucket may take its time, and tasks that end meanwhile are not to wait for it.
        let opened = savepoint.map(Store::open);
        let mut state = self.0.lock();
        match opened {
            None => {}
            Some(Ok(store)) => state.snapshots.begin_savepoint(checkpoint, store),
            Some(Err(error)) => {
                let reason = error.with_causes();
                return self.decline(tasks, checkpoint, &state, &reason);
            }
        }
        // Before the barrier is anywhere.
        if let Some((version, code)) = state.code.take_if(|(version, _)| Some(*version) == upgrade)
        {
            let mailboxes = state.mailboxes.iter().flatten();
            mailboxes
                .zip(code)
                .for_each(|(mailbox, code)| mailbox.put_code(checkpoint, code));
            state.current = Some(version);
        }
        for mailbox in tasks.iter().filter_map(|task| state.mailboxes.get(*task)) {
            if let Some(mailbox) = mailbox {
                mailbox.send(Command::Trigger(Barrier { checkpoint }));
            }
        }
    }

    /// A snapshot that cannot lie where it should is declined by one of its tasks.
    fn decline(&self, tasks: &[usize], checkpoint: u64, state: &State, reason: &str) {
        let Some(task) = tasks.first().copied() else {
            return;
        };
        let generation = state.generation_of(task);
        (self.0.tell)(FromTaskManager::Declined {
            task,
            generation: generation.unwrap_or_default(),
            checkpoint,
            reason: reason.to_owned(),
        });
    }

    fn cancel(&self, regions: &[usize]) {
        let mut state = self.0.lock();
        for number in regions {
            if let Some(region) = state.regions.get_mut(*number) {
                region.control.fail(Control::cancelled());
                region.prepared.clear();
            }
        }
    }

    /// What the tasks have counted since they were started last. `elapsed` is the time since then.
    pub fn progress(&self, elapsed: Duration) -> Progress {
        self.0.lock().metrics.progress(elapsed)
    }

    /// What the last snapshots have cost.
    pub fn snapshot_times(&self) -> SnapshotTimes {
        self.0.lock().metrics.snapshot_times()
    }

    /// The vertices, senders before their receivers, with what their subtasks have counted; empty
    /// before the job was opened.
    pub fn vertices(&self) -> Vec<VertexReport> {
        let mut state = self.0.lock();
        let definition = state.definition();
        let regions = state.regions.iter();
        let controls: Vec<Arc<Control>> = regions.map(|region| region.control.clone()).collect();
        let Ok(definition) = definition else {
            return Vec::new();
        };
        let mut vertices = vertices(&definition, &state.metrics, &controls);
        let now = state.around.clock.elapsed();
        state.rates.look(now, &mut vertices);
        vertices
    }

    /// Removes what the job has on the disks of this machine, when it has ended.
    pub fn remove_disks(&self) {
        let disks = self.0.lock().around.disks.clone();
        disks.iter().for_each(|disks| disks.remove());
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.around.disks.iter().for_each(|disks| disks.remove());
    }
}

impl State {
    fn definition(&self) -> Result<Arc<Definition>> {
        let none = || Error::internal("no version of the job was opened");
        let current = self
            .current
            .and_then(|current| self.definitions.get(&current));
        current.cloned().ok_or_else(none)
    }

    fn tell_all(&self, command: Command) {
        if let Command::Complete(checkpoint) | Command::Abort(checkpoint) = command {
            self.snapshots.end(checkpoint);
        }
        let mailboxes = self.mailboxes.iter().flatten();
        mailboxes.for_each(|mailbox| mailbox.send(command));
    }

    fn generation_of(&self, task: usize) -> Option<u64> {
        let definition = self.definition().ok()?;
        let vertex = definition.execution.subtasks.get(task)?.vertex;
        let regions = definition.graph.regions();
        let region = regions.iter().position(|region| region.contains(&vertex))?;
        self.regions.get(region).map(|region| region.generation)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A task has nothing more to do. The last one of its region lets a thread wait for all.
    fn task_ended(self: &Arc<Shared>, number: usize, generation: u64) {
        let mut state = self.lock();
        let region = &mut state.regions[number];
        region.running -= 1;
        if region.running > 0 {
            return;
        }
        let threads = std::mem::take(&mut region.threads);
        let control = region.control.clone();
        drop(state);
        let shared = self.clone();
        let reap = move || {
            for thread in threads {
                if thread.join().is_err() {
                    control.fail(Error::internal("a task thread could not be joined"));
                }
            }
            shared.region_ended(number, generation);
        };
        if std::thread::Builder::new()
            .name("reaper".into())
            .spawn(inheriting(reap))
            .is_err()
        {
            // Nobody waits for the threads, which are about to end.
            self.region_ended(number, generation);
        }
    }

    fn region_ended(&self, number: usize, generation: u64) {
        let (control, reports) = {
            let mut state = self.lock();
            let region = &mut state.regions[number];
            region.threads.clear();
            (region.control.clone(), state.reports.clone())
        };
        let error = control.take_error().map(WireError::from);
        match reports {
            // After everything that its tasks have reported.
            Some(reports) => {
                let region = number;
                reports.send(Report::RegionEnded {
                    region,
                    generation,
                    error,
                });
            }
            None => (self.tell)(FromTaskManager::RegionEnded {
                region: number,
                generation,
                error,
            }),
        }
    }
}
