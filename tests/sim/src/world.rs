//! The world of a simulation: time, the network, the store, users, and what goes wrong.

use crate::model::{Model, Outside, Told, n_records};
use crate::process::Process;
use crate::random::Random;
use crate::scenario::{Fault, digest, plan};
use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;
use streamrt_checkpoint::{History, Snapshot, Store};
use streamrt_jobmanager::job_master::{
    Action, Ask, Event, Now, Outcome, StoreRequest, Version, When,
};
use streamrt_rpc::{
    Answered, FromTaskManager, JobPlan, Opened, Restore, Scope, ToTaskManager, WireError,
};
use streamrt_types::code;

/// Faults are injected for this time; then the job has to end.
const FAULTS_FOR: Duration = Duration::from_secs(30);

/// Acknowledgements that are remembered, so that they can come once more.
const STALE_MAX: usize = 64;

/// A job that has not ended by then never will.
const END_BY: Duration = Duration::from_secs(1200);

/// What a simulation has shown.
#[derive(Debug)]
pub struct Report {
    /// A hash of all that happened, in its order.
    pub hash: u64,
    pub faults: BTreeMap<Fault, u64>,
    pub n_events: u64,
}

/// Something that is to happen, to a process by its number.
enum Happening {
    ToCore(usize, Event),
    ToTasks(usize, ToTaskManager),
    Stores {
        process: usize,
        id: u64,
        request: StoreRequest,
        committed: u64,
    },
    Steps(usize),
    Ticks(usize),
    Goes(Fault),
    Starts,
}

struct World {
    random: Random,
    now: Duration,
    queue: BTreeMap<(Duration, u64), Happening>,
    n_events: u64,
    store: Store,
    processes: Vec<Process>,
    outside: Outside,
    faults: BTreeMap<Fault, u64>,
    hasher: DefaultHasher,
    n_asked: u64,
    is_drained: bool,
    /// Acknowledgements that may come once more, with their process and checkpoint.
    stale: VecDeque<(usize, u64, FromTaskManager)>,
}

/// Runs a simulation.
///
/// # Errors
/// The invariant that does not hold.
pub fn run(seed: u64) -> Result<Report, String> {
    let mut world = World {
        random: Random::new(seed),
        now: Duration::ZERO,
        queue: BTreeMap::new(),
        n_events: 0,
        store: Store::in_memory().map_err(|e| e.to_string())?,
        processes: Vec::new(),
        outside: Outside::default(),
        faults: BTreeMap::new(),
        hasher: DefaultHasher::new(),
        n_asked: 0,
        is_drained: false,
        stale: VecDeque::new(),
    };
    world.start_process()?;
    world.plan_faults();
    world.run()?;
    Ok(Report {
        hash: world.hasher.finish(),
        faults: world.faults,
        n_events: world.n_events,
    })
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl World {
    fn at(&mut self, when: Duration, happening: Happening) {
        self.n_events += 1;
        self.queue.insert((when, self.n_events), happening);
    }

    /// Whether a fault that is met in one of `n` cases happens now.
    fn hits(&mut self, fault: Fault, n: u64) -> bool {
        let hits = self.now < FAULTS_FOR && self.random.one_in(n);
        if hits {
            *self.faults.entry(fault).or_default() += 1;
        }
        hits
    }

    /// A process begins, with the command that started the job first, or that which the newest
    /// checkpoint names.
    fn start_process(&mut self) -> Result<(), String> {
        let (plan, seed, moment) = (self.newest_plan()?, self.random.next(), self.moment());
        let (process, first) = Process::start(plan, &self.store, seed, moment)?;
        self.processes.push(process);
        let number = self.processes.len() - 1;
        self.carry_out(number, first)?;
        self.at(self.now + ms(5), Happening::Steps(number));
        Ok(())
    }

    /// A user who starts the job again runs the component that an upgrade has put in its place.
    fn newest_plan(&self) -> Result<JobPlan, String> {
        let history = History::read(&self.store).map_err(|e| e.to_string())?;
        let Some(published) = history.newest() else {
            return plan(0);
        };
        let snapshot = self.load(&Restore {
            location: "memory".into(),
            published: published.clone(),
        })?;
        let components = history.components(snapshot.manifest());
        let mut versions = 0..=self.n_asked;
        let newest = versions.find(|version| components[0].digest == digest(*version));
        let newest = newest.ok_or("the newest checkpoint names a component that nobody has")?;
        plan(newest)
    }

    fn load(&self, restore: &Restore) -> Result<Snapshot, String> {
        let mut published = restore.published.clone();
        published.location = None;
        Snapshot::load(&self.store, &published).map_err(|e| e.with_causes())
    }

    fn moment(&self) -> Now {
        Now {
            elapsed: self.now,
            wall_ms: self.now.as_millis() as i64,
        }
    }

    fn plan_faults(&mut self) {
        for (fault, rarity) in Fault::PLANNED.into_iter().chain(Fault::PLANNED) {
            if self.random.one_in(rarity) {
                let when = self.random.below(FAULTS_FOR.as_millis() as u64);
                self.at(ms(when), Happening::Goes(fault));
            }
        }
    }

    fn run(&mut self) -> Result<(), String> {
        while let Some(((when, number), happening)) = self.queue.pop_first() {
            self.now = when;
            (when, number).hash(&mut self.hasher);
            let happened = self.happen(happening);
            happened.map_err(|violation| format!("at {when:?}: {violation}"))?;
            if self.now > END_BY {
                return Err("the job does not end, although nothing fails any more".into());
            }
        }
        self.check_end()
    }

    /// When nothing happens any more, the newest process has read everything.
    fn check_end(&self) -> Result<(), String> {
        let last = self.processes.last().ok_or("nobody ran")?;
        match &last.ended {
            Some(Ok(Outcome::Finished | Outcome::FinishedBefore)) => {}
            other => return Err(format!("the last process has not finished: {other:?}")),
        }
        let version = Version::new(1, plan(0)?, None).map_err(|e| e.to_string())?;
        let (wanted, found) = (n_records(&version), self.outside.ledger.n_committed());
        if found != wanted && !self.is_drained {
            return Err(format!("{found} of {wanted} records were committed"));
        }
        match self.outside.ledger.left_behind() {
            // What an old leader wrote after it was replaced is withdrawn by the next start.
            Some(name) if !self.faults.contains_key(&Fault::SecondLeader) => {
                Err(format!("{name:?} is neither committed nor withdrawn"))
            }
            _ => Ok(()),
        }
    }

    fn happen(&mut self, happening: Happening) -> Result<(), String> {
        match happening {
            Happening::ToCore(process, event) => self.to_core(process, event)?,
            Happening::ToTasks(process, message) => self.to_tasks(process, message)?,
            Happening::Stores {
                process,
                id,
                request,
                committed,
            } => self.to_store(process, id, request, committed),
            Happening::Steps(process) => self.step(process)?,
            Happening::Ticks(process) => self.to_core(process, Event::Tick)?,
            Happening::Goes(fault) => self.goes(fault)?,
            Happening::Starts => {
                if self.processes.last().is_none_or(|last| !last.is_alive) {
                    self.start_process()?;
                }
            }
        }
        Ok(())
    }

    fn to_core(&mut self, number: usize, event: Event) -> Result<(), String> {
        if !self.processes[number].is_alive {
            return Ok(());
        }
        if !matches!(event, Event::Tick) {
            format!("{number} {event:?}").hash(&mut self.hasher);
        }
        let moment = self.moment();
        let actions = self.processes[number].core.handle(event, moment);
        self.carry_out(number, actions)?;
        let is_ticking = |happening: &Happening| matches!(happening, Happening::Ticks(found) if *found == number);
        if let Some(wait) = self.processes[number].core.next_tick()
            && !self.queue.values().any(is_ticking)
        {
            self.at(self.now + wait.max(ms(20)), Happening::Ticks(number));
        }
        Ok(())
    }

    fn carry_out(&mut self, number: usize, actions: Vec<Action>) -> Result<(), String> {
        for action in actions {
            format!("{number} {action:?}").hash(&mut self.hasher);
            match action {
                Action::Send(message) => {
                    let delay = ms(1 + self.random.below(5));
                    let free = &mut self.processes[number].to_tasks_free;
                    *free = (*free).max(self.now + delay);
                    let when = *free;
                    self.at(when, Happening::ToTasks(number, message));
                }
                Action::Store {
                    id,
                    request,
                    committed,
                } => {
                    let delay = ms(1 + self.random.below(30));
                    let free = &mut self.processes[number].store_free;
                    *free = (*free).max(self.now) + delay;
                    let when = *free;
                    let happening = Happening::Stores {
                        process: number,
                        id,
                        request,
                        committed,
                    };
                    self.at(when, happening);
                }
                Action::End(result) => self.ended(number, result)?,
                Action::Answer { .. } | Action::Say(_) | Action::Accepted => {}
            }
        }
        Ok(())
    }

    /// A job that has not read everything is started again by its user.
    fn ended(&mut self, number: usize, result: Result<Outcome, WireError>) -> Result<(), String> {
        let is_cancelled = matches!(&result, Err(error) if error.is(code::JOB_CANCELLED));
        let has_others = self.faults.contains_key(&Fault::SecondLeader);
        if let (true, false, Some(name)) =
            (is_cancelled, has_others, self.outside.ledger.left_behind())
        {
            return Err(format!(
                "the job was cancelled, and {name:?} is left behind"
            ));
        }
        let is_finished = matches!(result, Ok(Outcome::Finished | Outcome::FinishedBefore));
        let process = &mut self.processes[number];
        (process.ended, process.is_alive) = (Some(result), false);
        if !is_finished && number == self.processes.len() - 1 {
            let later = self.now + ms(100 + self.random.below(2000));
            self.at(later, Happening::Starts);
        }
        Ok(())
    }

    fn tell(&mut self, number: usize, told: Told) {
        for told in told {
            let delay = ms(1 + self.random.below(5));
            let free = &mut self.processes[number].to_core_free;
            *free = (*free).max(self.now + delay);
            let when = *free;
            if let FromTaskManager::Acknowledged { checkpoint, .. } = told {
                self.stale.push_back((number, checkpoint, told.clone()));
                let surplus = self.stale.len().saturating_sub(STALE_MAX);
                self.stale.drain(..surplus);
            }
            let is_report = !matches!(told, FromTaskManager::Answer { .. });
            if is_report && self.hits(Fault::Repeated, 40) {
                let later = when + ms(self.random.below(6000));
                let again = Event::Told(told.clone());
                self.at(later, Happening::ToCore(number, again));
            }
            self.at(when, Happening::ToCore(number, Event::Told(told)));
        }
    }

    /// What tasks of an attempt before said of a checkpoint with the same number comes once more, at
    /// the worst moment.
    fn repeat_stale(&mut self, number: usize, checkpoint: u64) {
        let stale: Vec<FromTaskManager> = self
            .stale
            .iter()
            .filter(|(process, of, _)| (*process, *of) == (number, checkpoint))
            .map(|(_, _, told)| told.clone())
            .collect();
        for told in stale {
            if self.hits(Fault::Repeated, 2) {
                self.at(self.now, Happening::ToCore(number, Event::Told(told)));
            }
        }
    }

    fn to_store(&mut self, number: usize, id: u64, request: StoreRequest, committed: u64) {
        if !self.processes[number].is_alive {
            return;
        }
        let refuses = self.hits(Fault::StoreRefuses, 40);
        let is_silent = !refuses && self.hits(Fault::StoreSilent, 60);
        let process = &mut self.processes[number];
        let result = process.ask_store(request, committed, (refuses, is_silent));
        let when = self.now + ms(1);
        self.at(
            when,
            Happening::ToCore(number, Event::Stored { id, result }),
        );
    }

    fn to_tasks(&mut self, number: usize, message: ToTaskManager) -> Result<(), String> {
        if !self.processes[number].is_alive {
            return Ok(());
        }
        if let ToTaskManager::Trigger { checkpoint, .. } = message {
            self.repeat_stale(number, checkpoint);
        }
        let tasks = &mut self.processes[number].tasks;
        match message {
            ToTaskManager::Start { scope } => tasks.start(scope),
            ToTaskManager::Trigger {
                checkpoint,
                tasks: triggered,
                ..
            } => tasks.trigger(checkpoint, &triggered),
            ToTaskManager::Complete { checkpoint } => tasks.complete(checkpoint),
            ToTaskManager::Abort { checkpoint } => tasks.abort(checkpoint),
            ToTaskManager::Wish { wish } => tasks.wish(wish),
            ToTaskManager::Cancel { regions } => {
                let told = tasks.cancel(&regions);
                self.tell(number, told);
            }
            step => self.take_step(number, step)?,
        }
        Ok(())
    }

    fn take_step(&mut self, number: usize, message: ToTaskManager) -> Result<(), String> {
        let fails = self.hits(Fault::StepFails, 30);
        let (step, answered) = match message {
            ToTaskManager::Open {
                step,
                version,
                plan,
                restore,
                ..
            } => (step, self.open(number, version, &plan, restore)?),
            ToTaskManager::Settle {
                step,
                scope,
                version,
                plan,
                job,
                promised,
                ..
            } => {
                let version = version_of(version, &plan)?;
                self.settle(&version, scope, &job, promised, fails)?;
                (step, Answered::Settled)
            }
            ToTaskManager::Prepare {
                step,
                scope,
                job,
                generation,
            } => {
                let process = &mut self.processes[number];
                let version = process.version.clone().ok_or("nothing was opened")?;
                process.tasks.prepare(&version, scope, &job, generation);
                (step, Answered::Prepared)
            }
            ToTaskManager::PrepareUpgrade { step, .. } => (step, Answered::UpgradePrepared),
            other => return Err(format!("{other:?} is no step")),
        };
        let result = match fails {
            true => Err(WireError::new(code::STORE, "what it needs is away")),
            false => Ok(answered),
        };
        self.tell(number, vec![FromTaskManager::Answer { step, result }]);
        Ok(())
    }

    fn open(
        &mut self,
        number: usize,
        version: u32,
        plan: &JobPlan,
        restore: Option<Restore>,
    ) -> Result<Answered, String> {
        let version = version_of(version, plan)?;
        let snapshot = restore.map(|restore| self.load(&restore)).transpose()?;
        let manifest = snapshot.as_ref().map(Snapshot::manifest);
        // Tasks are of the version that their snapshot names, or of the one that is put back.
        if let Some(manifest) = manifest {
            let named = manifest.plugins.iter().chain(&manifest.before);
            let mut digests = named.map(|plugin| &plugin.digest);
            if !digests.any(|digest| *digest == plan.components[0].digest) {
                let checkpoint = manifest.checkpoint;
                return Err(format!(
                    "checkpoint {checkpoint} goes on with another version than it names"
                ));
            }
        }
        let subtasks = manifest.map_or(&[][..], |manifest| &manifest.subtasks);
        let process = &mut self.processes[number];
        process.tasks.open(&version, subtasks, &self.outside)?;
        let operators = Model::operators(&version);
        process.version = Some(version);
        Ok(Answered::Opened(Opened {
            operators,
            ..Opened::default()
        }))
    }

    fn settle(
        &mut self,
        version: &Version,
        scope: Scope,
        job: &str,
        promised: Option<Restore>,
        fails: bool,
    ) -> Result<(), String> {
        let snapshot = promised.map(|restore| self.load(&restore)).transpose()?;
        let tasks = Model::tasks_of(version, scope);
        let listed = snapshot.as_ref().map_or_else(Vec::new, |snapshot| {
            let subtasks = &snapshot.manifest().subtasks;
            Model::promised(version, subtasks, &tasks, &self.outside)
        });
        for (n, transaction) in listed.iter().enumerate() {
            // It may fail half-way.
            if fails && n % 2 == 1 {
                return Ok(());
            }
            self.outside.ledger.commit(transaction)?;
        }
        if !fails {
            let ledger = &mut self.outside.ledger;
            ledger.withdraw(job, &tasks, &listed);
        }
        Ok(())
    }

    /// A task of a process does a little.
    fn step(&mut self, number: usize) -> Result<(), String> {
        if !self.processes[number].is_alive {
            return Ok(());
        }
        let running = self.processes[number].tasks.running();
        if !running.is_empty() {
            let task = running[self.random.below(running.len() as u64) as usize];
            let told = self.step_task(number, task)?;
            self.tell(number, told);
        }
        let soon = self.now + ms(2 + self.random.below(20));
        self.at(soon, Happening::Steps(number));
        Ok(())
    }

    fn step_task(&mut self, number: usize, task: usize) -> Result<Told, String> {
        if self.hits(Fault::TaskFails, 1000) {
            let tasks = &mut self.processes[number].tasks;
            let error = WireError::new(code::STORE, "a disk is gone");
            return Ok(tasks.end_region(tasks.region_of(task), error));
        }
        let tasks = &mut self.processes[number].tasks;
        let told = tasks.step(task, &mut self.outside)?;
        match self.hits(Fault::Declined, 1000) {
            true => Ok(told.into_iter().map(declined).collect()),
            false => Ok(told),
        }
    }

    fn goes(&mut self, fault: Fault) -> Result<(), String> {
        let newest = self.processes.iter().rposition(|process| process.is_alive);
        let Some(newest) = newest else {
            return Ok(());
        };
        *self.faults.entry(fault).or_default() += 1;
        self.n_asked += 1;
        let request = self.n_asked;
        let location = format!("memory-{request}");
        let ask = match fault {
            Fault::Killed => {
                let processes = self.processes.iter_mut();
                processes.for_each(|process| process.is_alive = false);
                let later = self.now + ms(self.random.below(3000));
                self.at(later, Happening::Starts);
                return Ok(());
            }
            Fault::SecondLeader => return self.start_process(),
            Fault::Savepoint => Ask::Savepoint {
                location,
                when: When::Now,
            },
            Fault::StopWithSavepoint => Ask::Savepoint {
                location,
                when: When::WithStop,
            },
            Fault::Stop => Ask::Stop,
            Fault::Drain => {
                self.is_drained = true;
                Ask::Drain
            }
            Fault::Cancel => Ask::Cancel,
            Fault::Upgrade => Ask::Upgrade {
                plan: Box::new(plan(request)?),
            },
            _ => return Ok(()),
        };
        self.to_core(newest, Event::Asked { request, ask })
    }
}

fn declined(told: FromTaskManager) -> FromTaskManager {
    match told {
        FromTaskManager::Acknowledged {
            task,
            generation,
            checkpoint,
            ..
        } => FromTaskManager::Declined {
            task,
            generation,
            checkpoint,
            reason: "the disk is full".into(),
        },
        other => other,
    }
}

fn version_of(number: u32, plan: &JobPlan) -> Result<Arc<Version>, String> {
    let max = Some(plan.max_parallelism);
    let version = Version::new(number, plan.clone(), max);
    version.map(Arc::new).map_err(|e| e.to_string())
}
