//! A simulation of a cluster: the real Dispatcher and ResourceManager with the registry, over jobs
//! each of which is a [`World`] with the real JobMaster.
//!
//! 1. A JobManager is killed and another one opens what it left. Users submit jobs, some of one
//!    name, and want things of them at any moment. The store of the registry refuses, or is silent.
//! 2. At every moment: no job runs twice; jobs that hold slots do not need more than there are; one
//!    that was accepted is known to every later JobManager; one of whose end its user was told never
//!    starts again; of one that was cancelled nothing is left behind.
//! 3. When nothing fails any more, each job has an end that is kept, each command was answered, and
//!    a job that has finished has committed each of its records.

mod checks;
mod users;

use crate::random::Random;
use crate::scenario::Fault;
use crate::world::{FAULTS_FOR, Report, Said, World, ms};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;
use streamrt_checkpoint::{EndState, Store};
use streamrt_jobmanager::dispatcher::{Action, Before, Core, Event, Limits, Prepared, Started};
use streamrt_jobmanager::job_master::{self, Accepted, Ask, Granted, Now, When};
use streamrt_jobmanager::{End, Entry, Failure, JobId, Operation, Outcome, Registry};
use streamrt_rpc::WireError;
use streamrt_types::{Error, code};

const SLOTS: u32 = 3;

/// A cluster whose jobs have not ended by then never will.
const END_BY: Duration = Duration::from_secs(3600);

/// Something that is to happen; what concerns a JobManager, to that one by its number.
enum Happening {
    ToCore(u64, Event),
    Writes(u64, JobId, Entry),
    Deletes(u64, JobId, u64),
    Prepares(u64, JobId, Before),
    Starts(u64, JobId),
    Goes(Fault),
    Opens,
}

/// A job, and what its users know of it.
struct Fate {
    world: World,
    n_slots: u32,
    /// A user was told that it is accepted.
    is_accepted: bool,
    /// People were told that something about it could not be kept.
    is_warned: bool,
    /// A user was told that it has ended, and nobody was warned.
    has_told_end: bool,
    /// A user wants it to end, or it could not be read.
    is_to_end: bool,
    /// Between its start and its end.
    is_started: bool,
    is_accepted_by_master: bool,
    /// How many records were committed when a JobManager was killed that had kept that a user wants
    /// the job to end.
    wanted_at: Option<usize>,
    /// What running commands are to be answered.
    commands: BTreeMap<u64, Operation>,
}

struct Cluster {
    random: Random,
    now: Duration,
    queue: BTreeMap<(Duration, u64), Happening>,
    n_events: u64,
    store: Store,
    /// The JobManager that lives, and its number.
    core: Option<Core>,
    number: u64,
    limits: Limits,
    jobs: BTreeMap<JobId, Fate>,
    /// Submissions, with what is submitted, and commands that are not answered yet.
    submitting: BTreeMap<u64, JobId>,
    asking: BTreeMap<u64, JobId>,
    n_requests: u64,
    faults: BTreeMap<Fault, u64>,
    hasher: DefaultHasher,
}

/// Runs a simulation of a cluster.
///
/// # Errors
/// The invariant that does not hold.
pub fn run_cluster(seed: u64) -> Result<Report, String> {
    let mut random = Random::new(seed ^ 0x00c1_0573);
    let slot_timeout = random.one_in(4).then_some(Duration::from_secs(20));
    let mut cluster = Cluster {
        random,
        now: Duration::ZERO,
        queue: BTreeMap::new(),
        n_events: 0,
        store: Store::in_memory().map_err(|e| e.to_string())?,
        core: None,
        number: 0,
        limits: Limits {
            slots: SLOTS,
            slot_timeout,
            ended_max: 100,
        },
        jobs: BTreeMap::new(),
        submitting: BTreeMap::new(),
        asking: BTreeMap::new(),
        n_requests: 0,
        faults: BTreeMap::new(),
        hasher: DefaultHasher::new(),
    };
    cluster.open()?;
    cluster.plan();
    cluster.run()?;
    cluster.check_end()?;
    Ok(cluster.report())
}

fn failure(message: &str) -> Failure {
    Failure::from(&Error::new(code::STORE, message))
}

impl Cluster {
    fn at(&mut self, when: Duration, happening: Happening) {
        self.n_events += 1;
        self.queue.insert((when, self.n_events), happening);
    }

    /// After a while of at most so many ms.
    fn soon(&mut self, max_ms: u64, happening: Happening) {
        let when = self.now + ms(1 + self.random.below(max_ms));
        self.at(when, happening);
    }

    fn hits(&mut self, fault: Fault, n: u64) -> bool {
        let hits = self.now < FAULTS_FOR && self.random.one_in(n);
        if hits {
            *self.faults.entry(fault).or_default() += 1;
        }
        hits
    }

    fn moment(&self) -> Now {
        Now {
            elapsed: self.now,
            wall_ms: self.now.as_millis() as i64,
        }
    }

    fn plan(&mut self) {
        let wishes = [
            (Fault::Submits, 2),
            (Fault::Savepoint, 3),
            (Fault::Upgrade, 3),
            (Fault::StopWithSavepoint, 6),
            (Fault::Stop, 4),
            (Fault::Drain, 8),
            (Fault::Cancel, 3),
            (Fault::Killed, 3),
        ];
        let repeated = wishes.iter().cycle().take(wishes.len() * 4);
        let first = [(Fault::Submits, 1); 2];
        for (fault, rarity) in first.iter().chain(repeated) {
            if self.random.one_in(*rarity) {
                let when = self.random.below(FAULTS_FOR.as_millis() as u64);
                self.at(ms(when), Happening::Goes(*fault));
            }
        }
    }

    fn run(&mut self) -> Result<(), String> {
        loop {
            let own = self.queue.first_key_value().map(|((when, _), _)| *when);
            let worlds = self.jobs.iter();
            let next = worlds.filter_map(|(id, fate)| Some((fate.world.next_at()?, id)));
            match (own, next.min()) {
                (Some(own), Some((world, _))) if own <= world => self.step()?,
                (_, Some((when, id))) => {
                    let id = id.clone();
                    self.now = when;
                    self.step_job(&id)?;
                }
                (Some(_), None) => self.step()?,
                (None, None) => return Ok(()),
            }
            if self.now > END_BY {
                return Err("not all jobs end, although nothing fails any more".into());
            }
        }
    }

    fn step(&mut self) -> Result<(), String> {
        let Some(((when, number), happening)) = self.queue.pop_first() else {
            return Ok(());
        };
        self.now = when;
        (when, number).hash(&mut self.hasher);
        let happened = self.happen(happening);
        happened.map_err(|violation| format!("at {when:?}: {violation}"))
    }

    /// Lets a job go on, and hears what its JobMaster says.
    fn step_job(&mut self, id: &JobId) -> Result<(), String> {
        let Some(fate) = self.jobs.get_mut(id) else {
            return Ok(());
        };
        let stepped = fate.world.step_all();
        stepped.map_err(|violation| format!("job {id}: {violation}"))?;
        self.hear(id)
    }

    fn hear(&mut self, id: &JobId) -> Result<(), String> {
        let said = self.jobs.get_mut(id).map(|fate| fate.world.said());
        for said in said.unwrap_or_default() {
            let event = match said {
                Said::Accepted(accepted) => self.runs(id, accepted),
                Said::Answer(request, result) => self.carried_out(id, request, result),
                Said::End(result) => self.job_ended(id, result)?,
            };
            if let Some(event) = event {
                self.soon(3, Happening::ToCore(self.number, event));
            }
        }
        Ok(())
    }

    fn runs(&mut self, id: &JobId, Accepted { has_led }: Accepted) -> Option<Event> {
        let fate = self.jobs.get_mut(id)?;
        let is_first = !std::mem::replace(&mut fate.is_accepted_by_master, true);
        is_first.then(|| Event::Started {
            id: id.clone(),
            result: Ok(Some(Started { is_kept: has_led })),
        })
    }

    fn carried_out(
        &mut self,
        id: &JobId,
        request: u64,
        result: Result<Granted, WireError>,
    ) -> Option<Event> {
        let operation = self.jobs.get_mut(id)?.commands.remove(&request)?;
        let result = match result {
            Ok(_) => Ok(Outcome::Done),
            Err(error) => Err(Failure::from(&Error::from(error))),
        };
        // A job that could not be stopped runs on.
        Some(Event::CarriedOut {
            request,
            id: id.clone(),
            operation,
            result,
        })
    }

    fn job_ended(
        &mut self,
        id: &JobId,
        result: Result<job_master::Outcome, WireError>,
    ) -> Result<Option<Event>, String> {
        let Some(fate) = self.jobs.get_mut(id) else {
            return Ok(None);
        };
        fate.is_started = false;
        let had_started = std::mem::take(&mut fate.is_accepted_by_master);
        let end = match result {
            Ok(job_master::Outcome::Finished | job_master::Outcome::FinishedBefore) => {
                fate.world.check_all_committed()?;
                End::of(EndState::Finished)
            }
            Ok(job_master::Outcome::Stopped { checkpoint }) => End {
                checkpoint: Some(checkpoint),
                ..End::of(EndState::Stopped)
            },
            Err(error) if error.is(code::JOB_CANCELLED) => End::of(EndState::Canceled),
            Err(error) => End::failed(Failure::from(&Error::from(error))),
        };
        let id = id.clone();
        Ok(Some(match (had_started, end.state) {
            (true, _) => Event::Ended { id, end },
            (false, EndState::Failed) => Event::Started {
                id,
                result: Err(end.reason.unwrap_or_else(|| failure("it failed"))),
            },
            (false, _) => Event::Started {
                id,
                result: Ok(None),
            },
        }))
    }

    fn happen(&mut self, happening: Happening) -> Result<(), String> {
        let is_current = |number: u64| number == self.number && self.core.is_some();
        match happening {
            Happening::ToCore(number, event) if is_current(number) => self.to_core(event),
            Happening::Writes(number, id, entry) if is_current(number) => self.write(id, &entry),
            Happening::Deletes(number, id, entries) if is_current(number) => {
                let registry = Registry::new(self.store.clone());
                registry.forget(&id, entries).map_err(|e| e.to_string())
            }
            Happening::Prepares(number, id, before) if is_current(number) => {
                self.prepare(id, before)
            }
            Happening::Starts(number, id) if is_current(number) => self.start(&id),
            Happening::Goes(fault) => self.goes(fault),
            Happening::Opens if self.core.is_none() => self.open(),
            _ => Ok(()),
        }
    }

    /// A JobManager begins, with what the registry holds.
    fn open(&mut self) -> Result<(), String> {
        let registry = Registry::new(self.store.clone());
        let known = registry.jobs().map_err(|e| e.to_string())?;
        for (id, fate) in &self.jobs {
            let mut found = known.iter().filter(|(known, _)| known == id);
            if fate.is_accepted && found.next().is_none() {
                return Err(format!("job {id} was accepted, and is not known any more"));
            }
        }
        self.number += 1;
        let (core, first) = Core::new(self.limits, known, self.moment());
        self.core = Some(core);
        self.carry_out(first)
    }

    fn to_core(&mut self, event: Event) -> Result<(), String> {
        if !matches!(event, Event::Tick) {
            format!("{event:?}").hash(&mut self.hasher);
        }
        let moment = self.moment();
        let Some(core) = &mut self.core else {
            return Ok(());
        };
        let actions = core.handle(event, moment);
        let tick = core.next_tick();
        self.carry_out(actions)?;
        if let Some(tick) = tick {
            let number = self.number;
            let is_set = |happening: &Happening| matches!(happening, Happening::ToCore(of, Event::Tick) if *of == number);
            if !self.queue.values().any(is_set) {
                self.at(
                    tick.max(self.now + ms(1)),
                    Happening::ToCore(number, Event::Tick),
                );
            }
        }
        self.check_slots()?;
        self.check_names()
    }

    fn carry_out(&mut self, actions: Vec<Action>) -> Result<(), String> {
        let number = self.number;
        for action in actions {
            format!("{action:?}").hash(&mut self.hasher);
            match action {
                Action::Keep { id, entry } => {
                    self.soon(20, Happening::Writes(number, id, entry));
                }
                Action::Prepare { id, before, .. } => {
                    self.soon(2000, Happening::Prepares(number, id, before));
                }
                Action::Start(id) => self.soon(50, Happening::Starts(number, id)),
                Action::Stop(id) => self.ask(&id, None, Ask::Stop)?,
                Action::Cancel(id) => self.ask(&id, None, Ask::Cancel)?,
                Action::CarryOut {
                    request,
                    id,
                    operation,
                } => self.command(request, &id, operation)?,
                Action::Answer { request, result } => self.answered(request, &result),
                Action::Refuse { request, .. } => {
                    self.submitting.remove(&request);
                    self.asking.remove(&request);
                }
                Action::Over(id) => self.over(&id)?,
                Action::Forget { id, entries } => {
                    self.soon(20, Happening::Deletes(number, id, entries));
                }
                Action::Say { id, line } => {
                    if let Some(fate) = self.jobs.get_mut(&id) {
                        fate.is_warned |= line.contains("could not be kept");
                    }
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, id: JobId, entry: &Entry) -> Result<(), String> {
        let refuses = self.hits(Fault::StoreRefuses, 10);
        let is_silent = !refuses && self.hits(Fault::StoreSilent, 15);
        let registry = Registry::new(self.store.clone());
        let written = match refuses {
            true => Err(failure("the store is away")),
            false => registry.keep(&id, entry).map_err(|e| Failure::from(&e)),
        };
        if let Err(error) = &written
            && !refuses
        {
            return Err(format!("an entry of {id}: {error:?}"));
        }
        let result = match is_silent {
            true => Err(failure("the store did not answer")),
            false => written,
        };
        self.soon(
            2,
            Happening::ToCore(self.number, Event::Kept { id, result }),
        );
        Ok(())
    }

    fn prepare(&mut self, id: JobId, before: Before) -> Result<(), String> {
        let fails = self.hits(Fault::StepFails, 20);
        let Some(fate) = self.jobs.get_mut(&id) else {
            return Err(format!("job {id} is prepared, and nobody submitted it"));
        };
        let is_kept = before != Before::No && fate.world.is_kept()?;
        if before == Before::Yes && !is_kept {
            return Err(format!("job {id} is said to have run, and has not"));
        }
        fate.is_to_end |= fails;
        let n_slots = fate.n_slots;
        let result = match fails {
            true => Err(failure("it cannot be read")),
            false => Ok(Prepared { n_slots, is_kept }),
        };
        self.soon(
            2,
            Happening::ToCore(self.number, Event::Prepared { id, result }),
        );
        Ok(())
    }

    fn start(&mut self, id: &JobId) -> Result<(), String> {
        let now = self.now;
        let Some(fate) = self.jobs.get_mut(id) else {
            return Err(format!("job {id} is started, and nobody submitted it"));
        };
        if fate.has_told_end {
            return Err(format!(
                "job {id} starts again, and its user was told its end"
            ));
        }
        fate.is_started = true;
        fate.world.start_at(now)?;
        self.hear(id)
    }

    fn ask(&mut self, id: &JobId, request: Option<u64>, ask: Ask) -> Result<(), String> {
        let now = self.now;
        let Some(fate) = self.jobs.get_mut(id) else {
            return Ok(());
        };
        // Nobody waits for the answer to a stop: what comes of it is the end of the job.
        let request = request.unwrap_or(u64::MAX);
        let is_heard = fate.world.ask_at(now, request, ask)?;
        if !is_heard && let Some(operation) = fate.commands.remove(&request) {
            let event = Event::CarriedOut {
                request,
                id: id.clone(),
                operation,
                result: Err(failure("the job has ended already")),
            };
            self.soon(2, Happening::ToCore(self.number, event));
        }
        self.hear(id)
    }

    fn command(&mut self, request: u64, id: &JobId, operation: Operation) -> Result<(), String> {
        let Some(fate) = self.jobs.get_mut(id) else {
            return Ok(());
        };
        let savepoint = |when| Ask::Savepoint {
            location: format!("memory-{request}"),
            when,
        };
        let ask = match &operation {
            Operation::Stop { drain: true, .. } => Ask::Drain,
            Operation::Stop { .. } => savepoint(When::WithStop),
            Operation::Savepoint { .. } => savepoint(When::Now),
            Operation::Cancel => Ask::Cancel,
            Operation::Upgrade { .. } => Ask::Upgrade {
                plan: Box::new(fate.world.next_plan()?),
            },
        };
        fate.commands.insert(request, operation);
        self.ask(id, Some(request), ask)
    }

    fn answered(&mut self, request: u64, result: &Result<Outcome, Failure>) {
        let asked = self.asking.remove(&request);
        if let (Some(id), Ok(Outcome::Ended { .. })) = (asked, result)
            && let Some(fate) = self.jobs.get_mut(&id)
        {
            fate.has_told_end |= !fate.is_warned;
        }
        if let (Some(id), Ok(_)) = (self.submitting.remove(&request), result)
            && let Some(fate) = self.jobs.get_mut(&id)
        {
            fate.is_accepted = true;
        }
    }

    /// The job has ended, as its users are told.
    fn over(&mut self, id: &JobId) -> Result<(), String> {
        let registry = Registry::new(self.store.clone());
        let known = registry.jobs().map_err(|e| e.to_string())?;
        let kept = known.into_iter().find(|(known, _)| known == id);
        let end = kept.and_then(|(_, job)| job.ok()?.end);
        let Some(fate) = self.jobs.get_mut(id) else {
            return Ok(());
        };
        if end.is_some_and(|(end, _)| end.state == EndState::Canceled) {
            let settled = fate.world.check_settled();
            settled.map_err(|left| format!("job {id} was cancelled: {left}"))?;
        }
        Ok(())
    }

    fn report(mut self) -> Report {
        for fate in std::mem::take(&mut self.jobs).into_values() {
            let report = fate.world.report();
            report.hash.hash(&mut self.hasher);
            self.n_events += report.n_events;
            for (fault, n) in report.faults {
                *self.faults.entry(fault).or_default() += n;
            }
        }
        Report {
            hash: self.hasher.finish(),
            faults: self.faults,
            n_events: self.n_events,
        }
    }
}
