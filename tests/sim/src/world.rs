//! The world of a simulation: time, the network, the store, users, and what goes wrong.

mod tasks;

use crate::model::{Outside, Told, n_records};
use crate::process::Process;
use crate::random::Random;
use crate::scenario::{Fault, digest, plan};
use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;
use streamrt_checkpoint::{History, Snapshot, Store};
use streamrt_jobmanager::job_master::{
    Accepted, Action, Ask, Event, Granted, Now, Outcome, StoreRequest, Version, When,
};
use streamrt_rpc::{FromTaskManager, JobPlan, Restore, ToTaskManager, WireError};
use streamrt_types::{Failpoints, code};

/// Faults are injected for this time; then the job has to end.
pub(crate) const FAULTS_FOR: Duration = Duration::from_secs(30);

/// Acknowledgements that are remembered, so that they can come once more.
const STALE_MAX: usize = 64;

/// Where a request can fail in its middle.
const HALFWAY: &str =
    "manifest.before=error;log.before=error;end.before-log=error;retire.delete=error";

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

/// What a process has to say to whoever manages its job.
#[derive(Debug)]
pub(crate) enum Said {
    Accepted(Accepted),
    Answer(u64, Result<Granted, WireError>),
    End(Result<Outcome, WireError>),
}

/// A job, its processes, one after the other or two at once, and all around them.
pub(crate) struct World {
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
    pub is_drained: bool,
    /// Somebody else decides when a process starts, and hears this; None: it starts again by itself
    /// as long as it has not finished.
    said: Option<Vec<Said>>,
    /// Acknowledgements that may come once more, with their process and checkpoint.
    stale: VecDeque<(usize, u64, FromTaskManager)>,
}

/// Runs a simulation.
///
/// # Errors
/// The invariant that does not hold.
pub fn run(seed: u64) -> Result<Report, String> {
    let mut world = World::new(seed)?;
    world.start_process()?;
    world.plan_faults();
    world.run()?;
    Ok(world.report())
}

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl World {
    fn new(seed: u64) -> Result<World, String> {
        Ok(World {
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
            said: None,
            stale: VecDeque::new(),
        })
    }

    /// One whose processes somebody else starts.
    pub fn managed(seed: u64) -> Result<World, String> {
        let said = Some(Vec::new());
        Ok(World {
            said,
            ..World::new(seed)?
        })
    }

    pub fn report(self) -> Report {
        Report {
            hash: self.hasher.finish(),
            faults: self.faults,
            n_events: self.n_events,
        }
    }

    /// When something happens next.
    pub fn next_at(&self) -> Option<Duration> {
        self.queue.first_key_value().map(|((when, _), _)| *when)
    }

    /// What processes have said since this was asked last.
    pub fn said(&mut self) -> Vec<Said> {
        self.said.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn say(&mut self, said: Said) {
        if let Some(all) = &mut self.said {
            all.push(said);
        }
    }

    /// A process begins now.
    pub fn start_at(&mut self, now: Duration) -> Result<(), String> {
        self.now = now;
        match self.processes.iter().any(|process| process.is_alive) {
            true => Err("a job was started that runs".into()),
            false => self.start_process(),
        }
    }

    /// A user wants something of the process that runs; false if none does.
    pub fn ask_at(&mut self, now: Duration, request: u64, ask: Ask) -> Result<bool, String> {
        self.now = now;
        let newest = self.processes.iter().rposition(|process| process.is_alive);
        self.is_drained |= newest.is_some() && matches!(ask, Ask::Drain);
        if let Some(newest) = newest {
            self.to_core(newest, Event::Asked { request, ask })?;
        }
        Ok(newest.is_some())
    }

    /// A version that nobody has run yet.
    pub fn next_plan(&mut self) -> Result<JobPlan, String> {
        self.n_asked += 1;
        plan(self.n_asked)
    }

    pub fn kill(&mut self) {
        let processes = self.processes.iter_mut();
        processes.for_each(|process| process.is_alive = false);
    }

    /// Whether anything is kept of the job.
    pub fn is_kept(&self) -> Result<bool, String> {
        let history = History::read(&self.store).map_err(|e| e.to_string())?;
        Ok(history.entries > 0)
    }

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
        while self.next_at().is_some() {
            self.step_all()?;
            if self.now > END_BY {
                return Err("the job does not end, although nothing fails any more".into());
            }
        }
        self.check_end()
    }

    /// Lets the next thing happen.
    pub fn step_all(&mut self) -> Result<(), String> {
        let Some(((when, number), happening)) = self.queue.pop_first() else {
            return Ok(());
        };
        self.now = when;
        (when, number).hash(&mut self.hasher);
        let happened = self.happen(happening);
        happened.map_err(|violation| format!("at {when:?}: {violation}"))
    }

    /// When nothing happens any more, the newest process has read everything.
    fn check_end(&self) -> Result<(), String> {
        let last = self.processes.last().ok_or("nobody ran")?;
        match &last.ended {
            Some(Ok(Outcome::Finished | Outcome::FinishedBefore)) => {}
            other => return Err(format!("the last process has not finished: {other:?}")),
        }
        self.check_all_committed()?;
        // What an old leader wrote after it was replaced is withdrawn by the next start.
        match self.faults.contains_key(&Fault::SecondLeader) {
            true => Ok(()),
            false => self.check_settled(),
        }
    }

    /// Checks that each record was committed, if nobody has drained the job.
    pub fn check_all_committed(&self) -> Result<(), String> {
        let version = Version::new(1, plan(0)?, None).map_err(|e| e.to_string())?;
        let (wanted, found) = (n_records(&version), self.outside.ledger.n_committed());
        match found == wanted || self.is_drained {
            true => Ok(()),
            false => Err(format!("{found} of {wanted} records were committed")),
        }
    }

    pub fn n_committed(&self) -> usize {
        self.outside.ledger.n_committed()
    }

    /// Checks that nothing is left behind.
    pub fn check_settled(&self) -> Result<(), String> {
        self.outside.ledger.left_behind().map_or(Ok(()), |name| {
            Err(format!("{name:?} is neither committed nor withdrawn"))
        })
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
                Action::Answer { request, result } => self.say(Said::Answer(request, result)),
                Action::Accepted(accepted) => self.say(Said::Accepted(accepted)),
                Action::Say(_) => {}
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
        (process.ended, process.is_alive) = (Some(result.clone()), false);
        if self.said.is_some() {
            self.say(Said::End(result));
        } else if !is_finished && number == self.processes.len() - 1 {
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
        let is_halfway = !refuses && !is_silent && self.hits(Fault::StoreHalfway, 40);
        let failpoints = Failpoints::parse(if is_halfway { HALFWAY } else { "" });
        let process = &mut self.processes[number];
        let ask = || process.ask_store(request, committed, (refuses, is_silent));
        let result = failpoints.scope(ask);
        let when = self.now + ms(1);
        self.at(
            when,
            Happening::ToCore(number, Event::Stored { id, result }),
        );
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
