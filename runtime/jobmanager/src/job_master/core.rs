//! The state of a JobMaster, and what becomes of each event.

use super::attempt::Attempt;
use super::ending::Closing;
use super::failures::Failures;
use super::launch::{Launch, Why};
use super::restart::RestartStrategy;
use super::statistics::{CheckpointReport, Statistics};
use super::upgrade::Upgrades;
use super::version::Version;
use super::versions::Versions;
use super::wishes::{Awaited, Savepoint, When, Wishes};
use super::{
    Action, Ask, Event, Granted, JobState, Now, Outcome, StoreFailure, StoreReply, StoreRequest,
    Tokens,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use streamrt_checkpoint::{History, PluginEntry, Purpose, Request};
use streamrt_rpc::{Answered, FromTaskManager, JobPlan, Opened, ToTaskManager, WireError, Wish};
use streamrt_types::{Error, Result, code};

/// How often time is looked at, at most, while checkpoints are made.
const TICK_MAX: Duration = Duration::from_millis(200);
/// The same while a region waits to be tried again.
const TICK_OF_RESTART: Duration = Duration::from_millis(10);

/// A job as it is submitted.
#[derive(Debug, Clone)]
pub struct Submission {
    /// Its max parallelism is settled when it is known what the job goes on from.
    pub plan: JobPlan,
    /// A savepoint or checkpoint to start from, of this job or of one like it.
    pub from: Option<String>,
    /// If the job goes on with an upgrade that is in its probation: the version before.
    pub before: Option<JobPlan>,
}

/// What the JobMaster waits for, beside tasks.
#[derive(Debug)]
pub(super) enum Pending {
    Launch,
    Region,
    Closing,
    Publication {
        checkpoint: u64,
        purpose: Purpose,
    },
    Retirement,
    Upgrade,
    /// Whether a savepoint can lie where a user wants it.
    SavepointOpening {
        request: u64,
        when: When,
    },
    /// A savepoint is to be made anew.
    SavepointClearing {
        request: u64,
        savepoint: Savepoint,
    },
}

impl Pending {
    /// Whether an attempt is not over before the answer has come.
    fn is_of_attempt(&self) -> bool {
        matches!(
            self,
            Pending::Region | Pending::Publication { .. } | Pending::Retirement
        )
    }
}

#[derive(Debug)]
pub(super) enum Phase {
    Launching(Launch),
    /// Tasks run, or some of them start again.
    Running,
    /// Tasks were told to end.
    Failing,
    /// For the next attempt.
    Waiting {
        until: Duration,
    },
    Closing(Closing),
    Over,
}

/// See [`crate::job_master`].
pub struct Core {
    pub(super) now: Now,
    pub(super) actions: Vec<Action>,
    pub(super) versions: Versions,
    pub(super) before: Option<JobPlan>,
    /// None any more when a checkpoint is published after it.
    pub(super) from: Option<String>,
    /// The job makes checkpoints.
    pub(super) is_durable: bool,
    pub(super) strategy: RestartStrategy,
    pub(super) wishes: Wishes,
    pub(super) statistics: Statistics,
    pub(super) failures: Failures,
    pub(super) phase: Phase,
    pub(super) attempt: Attempt,
    pub(super) upgrades: Upgrades,
    pub(super) state: JobState,
    pub(super) accepted: bool,
    /// There is a checkpoint that an attempt can go on from.
    pub(super) has_checkpoint: bool,
    /// The version that runs was put back, and has published nothing since.
    pub(super) goes_back: bool,
    /// A user has ended the job while it waited, before tasks ran, for a system outside.
    pub(super) interrupted: bool,
    /// Why the job waits, or waited last, for its next attempt.
    pub(super) last_failure: Option<WireError>,
    /// What the log comes to, as far as it is known here.
    pub(super) history: History,
    pub(super) opened: Opened,
    /// The components of the version that runs, as the store has them.
    pub(super) plugins: Vec<PluginEntry>,
    /// The checkpoint that the job went on from first, and where that lies.
    pub(super) resumed: Option<(u64, String)>,
    pub(super) pending: BTreeMap<u64, Pending>,
    n_asked: u64,
    /// Generations of a job without checkpoints, which has no log to take them from.
    pub(super) n_attempts: u64,
    /// How often tasks were started, in all attempts.
    pub(super) n_starts: u64,
    tokens: Tokens,
    /// By which the log knows this JobMaster, in all its attempts.
    pub(super) leader: String,
    /// The log has named it as the leader.
    pub(super) has_led: bool,
}

impl Core {
    /// Returns what is to be done first.
    ///
    /// # Errors
    /// `Invalid` if the job's graph or its configuration is wrong.
    pub fn new(
        submission: Submission,
        now: Now,
        mut tokens: Tokens,
    ) -> Result<(Core, Vec<Action>)> {
        let Submission { plan, from, before } = submission;
        let configuration = plan.configuration.clone();
        // A job that went on from a folder and wrote nothing into it would write its results once
        // more at the next start.
        let has_dir = configuration.checkpoint_dir.is_some();
        if configuration.checkpoint_interval_ms.is_some() != has_dir {
            return Err(Error::new(
                code::BAD_OPTION,
                "`checkpoint.dir` and `checkpoint.interval` are given together, or neither is",
            ));
        }
        let version = Arc::new(Version::new(1, plan, None)?);
        let mut core = Core {
            now,
            actions: Vec::new(),
            versions: Versions::new(version),
            before,
            from,
            is_durable: has_dir,
            strategy: RestartStrategy::new(&configuration),
            wishes: Wishes::default(),
            statistics: Statistics::default(),
            failures: Failures::default(),
            phase: Phase::Over,
            attempt: Attempt::default(),
            upgrades: Upgrades::default(),
            state: JobState::Created,
            accepted: false,
            has_checkpoint: false,
            goes_back: false,
            interrupted: false,
            last_failure: None,
            history: History::default(),
            opened: Opened::default(),
            plugins: Vec::new(),
            resumed: None,
            pending: BTreeMap::new(),
            n_asked: 0,
            n_attempts: 0,
            n_starts: 0,
            leader: tokens(),
            has_led: false,
            tokens,
        };
        core.launch(Why::First {
            n_looks: 0,
            failed: None,
        });
        let actions = std::mem::take(&mut core.actions);
        Ok((core, actions))
    }

    /// Something happened.
    pub fn handle(&mut self, event: Event, now: Now) -> Vec<Action> {
        self.now = Now {
            elapsed: self.now.elapsed.max(now.elapsed),
            ..now
        };
        match event {
            _ if self.is_over() => self.handle_late(event),
            Event::Asked { request, ask } => self.asked(request, ask),
            Event::Told(told) => self.told(told),
            Event::Stored { id, result } => self.stored(id, result),
            Event::Fault(error) => self.fail_job(error),
            Event::Tick => {}
        }
        self.tick();
        // What ends an attempt may be found in the middle of something that still needs it.
        self.conclude();
        std::mem::take(&mut self.actions)
    }

    /// The job is over, and nothing follows.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    /// How long nothing has to be looked at, if nothing happens.
    pub fn next_tick(&self) -> Option<Duration> {
        match &self.phase {
            Phase::Running if self.attempt.restart.is_some() => Some(TICK_OF_RESTART),
            Phase::Running => self
                .attempt
                .coordinator
                .as_ref()
                .map(|_| self.tick_interval()),
            Phase::Waiting { until } => Some(until.saturating_sub(self.now.elapsed)),
            _ => None,
        }
    }

    fn tick_interval(&self) -> Duration {
        let configuration = &self.versions.running().plan.configuration;
        let interval = configuration.checkpoint_interval_ms.unwrap_or(1000);
        Duration::from_millis((interval / 10).max(1)).min(TICK_MAX)
    }

    /// The version that runs.
    pub fn version(&self) -> &Arc<Version> {
        self.versions.running()
    }

    /// What the job is doing.
    pub fn state(&self) -> JobState {
        let Wishes {
            stop,
            drain,
            cancel,
            ..
        } = self.wishes;
        match self.state {
            _ if cancel => JobState::Cancelling,
            JobState::Running if stop || drain => JobState::Stopping,
            state => state,
        }
    }

    /// What opening the job has shown.
    pub fn opened(&self) -> &Opened {
        &self.opened
    }

    /// The checkpoint that the job went on from when it was submitted, and where that lies.
    pub fn resumed(&self) -> Option<&(u64, String)> {
        self.resumed.as_ref()
    }

    /// What the last `n` checkpoints cost, the newest last.
    pub fn checkpoints(&self, n: usize, now: Duration) -> Vec<CheckpointReport> {
        self.statistics.last(n, now)
    }

    /// What has made it start again.
    pub fn failures(&self) -> &Failures {
        &self.failures
    }

    pub(super) fn token(&mut self) -> String {
        (self.tokens)()
    }

    pub(super) fn say(&mut self, text: String) {
        self.actions.push(Action::Say(text));
    }

    pub(super) fn send(&mut self, message: ToTaskManager) {
        self.actions.push(Action::Send(message));
    }

    pub(super) fn answer(&mut self, request: u64, result: Result<Granted, WireError>) {
        self.actions.push(Action::Answer { request, result });
    }

    pub(super) fn refuse(&mut self, request: u64, code: streamrt_types::Code, message: &str) {
        self.answer(request, Err(WireError::new(code, message)));
    }

    /// The number of a question whose answer is waited for.
    pub(super) fn await_answer(&mut self, pending: Pending) -> u64 {
        self.n_asked += 1;
        self.pending.insert(self.n_asked, pending);
        self.n_asked
    }

    /// Asks the store.
    pub(super) fn store(&mut self, request: StoreRequest, pending: Pending) -> u64 {
        let id = self.await_answer(pending);
        let committed = self.attempt.all_committed();
        self.actions.push(Action::Store {
            id,
            request,
            committed,
        });
        id
    }

    /// Whether the attempt has asked for something that is not done.
    pub(super) fn awaits_attempt(&self) -> bool {
        self.pending.values().any(Pending::is_of_attempt)
    }

    pub(super) fn end(&mut self, result: Result<Outcome, WireError>) {
        let was_cancelled = |error: &WireError| error.is(code::CANCELLED) && self.wishes.cancel;
        let result = result.map_err(|error| match was_cancelled(&error) {
            true => WireError::new(code::JOB_CANCELLED, "the job was cancelled"),
            false => error,
        });
        self.phase = Phase::Over;
        let open = self.wishes.close();
        for request in open.into_iter().chain(self.upgrades.close()) {
            self.refuse(request, code::CHECKPOINT_FAILED, OVER);
        }
        let opening = std::mem::take(&mut self.pending).into_values();
        for pending in opening {
            if let Pending::SavepointOpening { request, .. }
            | Pending::SavepointClearing { request, .. } = pending
            {
                self.refuse(request, code::CHECKPOINT_FAILED, OVER);
            }
        }
        self.actions.push(Action::End(result));
    }

    /// Who asks a job that is over is told so.
    fn handle_late(&mut self, event: Event) {
        if let Event::Asked { request, ask } = event {
            match ask {
                Ask::Stop | Ask::Drain | Ask::Cancel => self.answer(request, Ok(Granted::Heard)),
                Ask::Savepoint { .. } | Ask::Upgrade { .. } => {
                    self.refuse(request, code::CHECKPOINT_FAILED, OVER);
                }
            }
        }
    }

    fn tick(&mut self) {
        match &self.phase {
            Phase::Running => {
                let elapsed = self.now.elapsed.saturating_sub(self.attempt.began);
                self.coordinate(|coordinator| coordinator.tick(elapsed));
                self.tick_region();
            }
            Phase::Waiting { .. } => self.tick_waiting(),
            _ => {}
        }
    }

    fn asked(&mut self, request: u64, ask: Ask) {
        match ask {
            Ask::Stop => {
                self.stop();
                self.answer(request, Ok(Granted::Heard));
            }
            Ask::Drain => {
                self.drain();
                self.answer(request, Ok(Granted::Heard));
            }
            Ask::Cancel => {
                self.wishes.cancel = true;
                self.send(ToTaskManager::Wish { wish: Wish::Cancel });
                self.answer(request, Ok(Granted::Heard));
                if matches!(self.phase, Phase::Running | Phase::Failing) {
                    self.fail_job(WireError::new(code::CANCELLED, "the job was cancelled"));
                }
            }
            Ask::Savepoint { location, when } => match self.check_checkpoints() {
                Ok(()) => {
                    let pending = Pending::SavepointOpening { request, when };
                    self.store(StoreRequest::OpenSavepoint { location }, pending);
                }
                Err(error) => self.answer(request, Err(error.into())),
            },
            Ask::Upgrade { plan } => self.ask_for_upgrade(request, *plan),
        }
    }

    /// Lets the job end with a checkpoint, where there are any.
    pub(super) fn stop(&mut self) {
        self.wishes.stop = true;
        self.send(ToTaskManager::Wish { wish: Wish::Stop });
        self.coordinate(|coordinator| coordinator.request(Request::Stop));
    }

    /// Lets the sources end as if their input had.
    pub(super) fn drain(&mut self) {
        self.wishes.drain = true;
        self.send(ToTaskManager::Wish { wish: Wish::Drain });
    }

    /// # Errors
    /// If the job makes no checkpoints, or has not run yet.
    pub(super) fn check_checkpoints(&self) -> Result<()> {
        match (self.is_durable, self.n_starts > 0) {
            (true, true) => Ok(()),
            (true, false) => Err(Error::new(
                code::CHECKPOINT_FAILED,
                "the job has not started yet: what it needs is away",
            )),
            (false, _) => Err(Error::new(
                code::BAD_OPTION,
                "the job runs without checkpoints: give it checkpoint.dir and checkpoint.interval",
            )),
        }
    }

    fn told(&mut self, told: FromTaskManager) {
        match told {
            FromTaskManager::Answer { step, result } => match self.pending.remove(&step) {
                Some(Pending::Launch) => self.launch_answered(step, result),
                Some(Pending::Region) => self.region_answered(result),
                Some(Pending::Closing) => self.closing_settled(result),
                Some(Pending::Upgrade) => self.upgrade_prepared(result.map(|_: Answered| ())),
                _ => {}
            },
            FromTaskManager::RegionEnded {
                region,
                generation,
                error,
            } => self.region_ended(region, generation, error),
            report => self.reported(report),
        }
    }

    fn stored(&mut self, id: u64, result: Result<StoreReply, StoreFailure>) {
        match self.pending.remove(&id) {
            Some(Pending::Launch) => self.launch_stored(id, result),
            Some(Pending::Region) => self.region_stored(result),
            Some(Pending::Closing) => self.closing_stored(result),
            Some(Pending::Publication {
                checkpoint,
                purpose,
            }) => self.published(checkpoint, purpose, result),
            Some(Pending::Retirement) => {
                if let Err(failure) = result {
                    self.fail_job(failure.error);
                }
            }
            Some(Pending::Upgrade) => self.upgrade_kept(result),
            Some(Pending::SavepointOpening { request, when }) => {
                self.savepoint_opened(request, when, result);
            }
            Some(Pending::SavepointClearing { request, savepoint }) => {
                self.savepoint_cleared(request, savepoint, result);
            }
            None => {}
        }
    }

    fn savepoint_opened(
        &mut self,
        request: u64,
        when: When,
        result: Result<StoreReply, StoreFailure>,
    ) {
        match result {
            Ok(StoreReply::SavepointOpened { location }) => {
                if when == When::AtEnd {
                    self.drain();
                }
                let savepoint = Savepoint {
                    location,
                    when,
                    begun: false,
                };
                self.ask_coordinator(request, Awaited::Savepoint(savepoint));
            }
            Ok(_) => {}
            Err(failure) => self.answer(request, Err(failure.error)),
        }
    }

    fn savepoint_cleared(
        &mut self,
        request: u64,
        savepoint: Savepoint,
        result: Result<StoreReply, StoreFailure>,
    ) {
        match result {
            Ok(_) => self.ask_coordinator(request, Awaited::Savepoint(savepoint)),
            Err(failure) => self.answer(request, Err(failure.error)),
        }
    }

    /// Somebody waits for it from now on. The next attempt is asked for it if none runs.
    pub(super) fn ask_coordinator(&mut self, number: u64, awaited: Awaited) {
        let request = self.wishes.add(number, awaited);
        self.coordinate(|coordinator| coordinator.request(request));
    }
}

/// What those are told who wait for a job that is over.
const OVER: &str = "the job has ended before this was done";
