//! The Dispatcher over jobs that do what a test says.

use super::{Dispatcher, Limits, Settings};
use crate::job::{Job, Phase};
use crate::specification::tests::specification;
use crate::{
    Blobs, End, Failure, JobId, JobRunner, Operation, Outcome, RunningJob, Specification, Totals,
    Trigger, Version,
};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use streamrt_checkpoint::{EndState, Stored};
use streamrt_types::{Error, Failpoints, Result, SystemClock, code};
use tempfile::TempDir;

const LONG: Duration = Duration::from_secs(60);

/// A version whose job ends as it takes over.
const ENDS_WITH_IT: &str = "ends-with-it.wasm";

/// Jobs whose parallelism is their number of slots; one whose arguments say `refused` is.
#[derive(Clone, Default)]
struct Runner {
    started: Arc<Mutex<Vec<String>>>,
}

struct Fake {
    ends: Sender<End>,
    ended: Mutex<Option<Receiver<End>>>,
}

impl JobRunner for Runner {
    type Prepared = Specification;
    type Job = Fake;

    fn prepare(&self, _: &JobId, job: &Specification, blobs: &Blobs) -> Result<Specification> {
        blobs.get(&job.version.components[0].digest)?;
        match job.args.first().map(String::as_str) {
            Some("refused") => Err(Error::new(code::BAD_ARGUMENTS, "it is refused")),
            Some("panics") => panic!("as the test wants"),
            _ => Ok(job.clone()),
        }
    }

    fn is_kept(&self, _: &JobId, job: &Specification, has_run: bool) -> Result<bool> {
        match job.args.first().map(String::as_str) {
            Some("loses its checkpoints") if has_run => {
                Err(Error::new(code::SNAPSHOT_DAMAGED, "they are gone"))
            }
            _ => Ok(has_run),
        }
    }

    fn n_slots(&self, job: &Specification) -> u32 {
        job.parallelism
    }

    fn start(&self, _: &JobId, job: Specification) -> Result<Option<Fake>> {
        self.started.lock().unwrap().push(job.name);
        let (ends, ended) = channel();
        let ended = Mutex::new(Some(ended));
        Ok(Some(Fake { ends, ended }))
    }
}

impl RunningJob for Fake {
    fn is_kept(&self) -> bool {
        true
    }
    fn on_end(&self, then: Box<dyn FnOnce(End) + Send>) {
        let ended = self.ended.lock().unwrap().take().unwrap();
        std::thread::spawn(move || then(ended.recv().unwrap()));
    }
    fn stop(&self) {
        let end = End {
            checkpoint: Some(7),
            totals: Some(Totals::default()),
            ..End::of(EndState::Stopped)
        };
        self.ends.send(end).unwrap();
    }
    fn cancel(&self) {
        self.ends.send(End::of(EndState::Canceled)).unwrap();
    }
    fn drain(&self, _: Option<&str>) -> Result<Option<u64>> {
        let error = Error::new(code::TRAP, "it trapped while it was drained");
        self.ends.send(End::failed(Failure::from(&error))).unwrap();
        Ok(None)
    }
    fn savepoint(&self, folder: &str, _: bool) -> Result<u64> {
        Err(Error::new(
            code::BAD_OPTION,
            format!("{folder} is not empty"),
        ))
    }
    fn upgrade(&self, version: &Version, _: &Blobs) -> Result<Outcome> {
        if version.file == ENDS_WITH_IT {
            self.cancel();
        }
        Ok(Outcome::Done)
    }
}

struct Cluster {
    dir: TempDir,
    runner: Runner,
    ended_max: usize,
    slots: u32,
}

impl Cluster {
    fn new() -> Cluster {
        Cluster {
            dir: TempDir::new().unwrap(),
            runner: Runner::default(),
            ended_max: 100,
            slots: 2,
        }
    }

    fn open(&self) -> Result<Dispatcher<Runner>> {
        let settings = Settings {
            limits: Limits {
                slots: self.slots,
                slot_timeout: None,
                ended_max: self.ended_max,
            },
            component_bytes_max: 100,
            clock: SystemClock::shared(),
            failpoints: Failpoints::default(),
        };
        Dispatcher::open(self.dir.path(), settings, self.runner.clone())
    }

    /// The thread of a command that was answered just now may hold the folder a moment longer.
    fn reopen(&self) -> Dispatcher<Runner> {
        for _ in 0..1000 {
            match self.open() {
                Err(error) if error.code() == code::DIR_IN_USE => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                opened => return opened.unwrap(),
            }
        }
        panic!("the folder is never free")
    }

    fn started(&self) -> Vec<String> {
        self.runner.started.lock().unwrap().clone()
    }
}

/// A job of a component that is there.
fn job(dispatcher: &Dispatcher<Runner>, name: &str) -> Specification {
    let digest = Stored::of("", b"component").checksum;
    dispatcher
        .blobs()
        .put(&digest, b"component".to_vec())
        .unwrap();
    let mut job = specification(name);
    job.version.components[0].digest = digest;
    job
}

fn await_phase(
    dispatcher: &Dispatcher<Runner>,
    id: &JobId,
    is: impl Fn(Phase) -> bool,
) -> Job<Fake> {
    let began = Instant::now();
    loop {
        let job = dispatcher.job(id.as_str()).unwrap();
        if is(job.phase) {
            return job;
        }
        assert!(began.elapsed() < LONG);
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn is_running(phase: Phase) -> bool {
    phase == Phase::Running
}

fn is_ended(phase: Phase) -> bool {
    phase == Phase::Ended
}

fn end_of(job: &Job<Fake>) -> End {
    let registered = job.registered.as_ref().unwrap();
    registered.end.clone().unwrap().0
}

fn tell(dispatcher: &Dispatcher<Runner>, id: &JobId, operation: Operation) -> Trigger {
    let trigger = dispatcher.begin(id.as_str(), operation).unwrap();
    dispatcher.trigger(id.as_str(), &trigger, LONG).unwrap()
}

const STOP: Operation = Operation::Stop {
    savepoint: None,
    drain: false,
};

#[test]
fn a_job_runs_until_it_is_stopped_and_stays_so() {
    let cluster = Cluster::new();
    let dispatcher = cluster.open().unwrap();
    let id = dispatcher.submit(job(&dispatcher, "words")).unwrap();
    await_phase(&dispatcher, &id, is_running);
    let twice = dispatcher.submit(job(&dispatcher, "words")).unwrap_err();
    assert_eq!(
        (twice.code(), twice.message()),
        (
            code::JOB_EXISTS,
            format!("a job `words` runs already: {id}").as_str()
        )
    );
    let checkpoint = Some(7);
    assert_eq!(
        tell(&dispatcher, &id, STOP),
        Trigger::Completed(Outcome::Ended { checkpoint })
    );
    let late = dispatcher.begin(id.as_str(), STOP).unwrap_err();
    assert_eq!(late.code(), code::JOB_ENDED);
    drop(dispatcher);
    let again = cluster.reopen();
    let kept = again.job(id.as_str()).unwrap();
    assert_eq!(
        (end_of(&kept).checkpoint, kept.name(), kept.phase),
        (Some(7), "words", Phase::Ended)
    );
    assert_eq!(cluster.started(), ["words"]);
    again.submit(job(&again, "words")).unwrap();
}

/// As a process leaves the folder that is killed: nothing is said of the jobs that run.
#[test]
fn jobs_that_ran_go_on_and_those_of_damaged_entries_are_named() {
    let cluster = Cluster::new();
    let first = cluster.open().unwrap();
    let ids = ["one", "two"].map(|name| first.submit(job(&first, name)).unwrap());
    for id in &ids {
        await_phase(&first, id, is_running);
    }
    assert_eq!(
        cluster.open().err().unwrap().code(),
        code::DIR_IN_USE,
        "one JobManager at a time"
    );
    first.suspend(LONG);
    drop(first);
    let entry = format!("jobs/{}/{:020}", ids[0], 1);
    std::fs::write(cluster.dir.path().join(&entry), b"{\"torn").unwrap();
    let second = cluster.reopen();
    await_phase(&second, &ids[1], is_running);
    let damaged = second.job(ids[0].as_str()).unwrap();
    let failure = damaged.registered.unwrap_err();
    assert!(
        failure.code == "S7014" && failure.message.contains(&entry),
        "{failure:?}"
    );
    let refused = second.begin(ids[0].as_str(), STOP).unwrap_err();
    assert_eq!(refused.code(), code::REGISTRY_DAMAGED);
    let mut started = cluster.started();
    started.sort();
    assert_eq!(started, ["one", "two", "two"]);
    second.suspend(LONG);
}

#[test]
fn a_job_waits_for_slots_and_can_be_cancelled_meanwhile() {
    let cluster = Cluster::new();
    let dispatcher = cluster.open().unwrap();
    let one = dispatcher.submit(job(&dispatcher, "one")).unwrap();
    await_phase(&dispatcher, &one, is_running);
    let wide = Specification {
        parallelism: 2,
        ..job(&dispatcher, "wide")
    };
    let wide = dispatcher.submit(wide).unwrap();
    await_phase(&dispatcher, &wide, |phase| {
        phase == Phase::Waiting { missing: 1 }
    });
    let folder = "x".to_owned();
    let early = dispatcher.begin(wide.as_str(), Operation::Savepoint { folder });
    assert_eq!(early.unwrap_err().code(), code::CHECKPOINT_FAILED);
    let checkpoint = None;
    assert_eq!(
        tell(&dispatcher, &wide, Operation::Cancel),
        Trigger::Completed(Outcome::Ended { checkpoint })
    );
    let ended = dispatcher.job(wide.as_str()).unwrap();
    assert_eq!(end_of(&ended).state, EndState::Canceled);
    assert_eq!(cluster.started(), ["one"]);
}

#[test]
fn what_is_wrong_with_a_job_is_how_it_ends() {
    let cluster = Cluster::new();
    let dispatcher = cluster.open().unwrap();
    for (arg, code) in [("refused", "S1008"), ("panics", "S9001")] {
        let args = vec![arg.to_owned()];
        let job = Specification {
            args,
            ..job(&dispatcher, arg)
        };
        let id = dispatcher.submit(job).unwrap();
        let job = await_phase(&dispatcher, &id, is_ended);
        assert_eq!(end_of(&job).reason.unwrap().code, code);
    }
    let mut missing = job(&dispatcher, "missing");
    missing.version.components[0].digest = "ab".repeat(32);
    assert_eq!(
        dispatcher.submit(missing).unwrap_err().code(),
        code::NO_COMPONENT
    );
    assert_eq!(dispatcher.job("nobody").err().unwrap().code(), code::NO_JOB);
}

#[test]
fn a_stop_that_meets_a_failure_says_so() {
    let cluster = Cluster::new();
    let dispatcher = cluster.open().unwrap();
    let id = dispatcher.submit(job(&dispatcher, "words")).unwrap();
    await_phase(&dispatcher, &id, is_running);
    let folder = "full".to_owned();
    let Trigger::Failed(refused) = tell(&dispatcher, &id, Operation::Savepoint { folder }) else {
        panic!("the folder is not empty");
    };
    assert_eq!(refused.message, "full is not empty");
    let drain = Operation::Stop {
        savepoint: None,
        drain: true,
    };
    let Trigger::Failed(failure) = tell(&dispatcher, &id, drain) else {
        panic!("the job has failed");
    };
    assert_eq!(failure.code, "S4001");
}

#[test]
fn an_upgrade_is_kept() {
    let cluster = Cluster::new();
    let dispatcher = cluster.open().unwrap();
    let submitted = job(&dispatcher, "words");
    let id = dispatcher.submit(submitted.clone()).unwrap();
    await_phase(&dispatcher, &id, is_running);
    let version = submitted.version;
    tell(
        &dispatcher,
        &id,
        Operation::Upgrade {
            version: version.clone(),
        },
    );
    dispatcher.suspend(LONG);
    drop(dispatcher);
    let again = cluster.reopen();
    let kept = again.job(id.as_str()).unwrap().registered.unwrap();
    assert_eq!(kept.upgraded.as_ref(), Some(&version));
    again.suspend(LONG);
}

#[test]
fn a_job_that_ends_as_it_is_upgraded_is_kept_as_ended() {
    let cluster = Cluster::new();
    let dispatcher = cluster.open().unwrap();
    let ids: Vec<JobId> = (0..20)
        .map(|number| {
            let submitted = job(&dispatcher, &format!("words {number}"));
            let id = dispatcher.submit(submitted.clone()).unwrap();
            await_phase(&dispatcher, &id, is_running);
            let mut version = submitted.version;
            version.file = ENDS_WITH_IT.into();
            version.components[0].path = ENDS_WITH_IT.into();
            tell(&dispatcher, &id, Operation::Upgrade { version });
            await_phase(&dispatcher, &id, is_ended);
            id
        })
        .collect();
    dispatcher.suspend(LONG);
    drop(dispatcher);
    let again = cluster.reopen();
    for id in ids {
        let kept = again.job(id.as_str()).unwrap().registered.unwrap();
        let end = kept.end.as_ref().map(|(end, _)| end.state);
        assert_eq!(end, Some(EndState::Canceled));
    }
}

#[test]
fn of_too_many_that_have_ended_the_first_are_forgotten() {
    let cluster = Cluster {
        ended_max: 3,
        ..Cluster::new()
    };
    let dispatcher = cluster.open().unwrap();
    let stays = dispatcher.submit(job(&dispatcher, "stays")).unwrap();
    await_phase(&dispatcher, &stays, is_running);
    let mut ended = Vec::new();
    for number in 0..5 {
        let name = format!("job {number}");
        let id = dispatcher.submit(job(&dispatcher, &name)).unwrap();
        await_phase(&dispatcher, &id, is_running);
        tell(&dispatcher, &id, STOP);
        ended.push(id);
    }
    let known = |dispatcher: &Dispatcher<Runner>| -> Vec<JobId> {
        let jobs = dispatcher.jobs();
        jobs.iter().map(|job| job.id.clone()).collect()
    };
    let expected = [&[stays.clone()][..], &ended[2..]].concat();
    let began = Instant::now();
    // Who waits for an end hears of it before others are forgotten.
    while known(&dispatcher) != expected {
        assert!(began.elapsed() < LONG, "{:?}", known(&dispatcher));
        std::thread::sleep(Duration::from_millis(1));
    }
    tell(&dispatcher, &stays, STOP);
    drop(dispatcher);
    assert_eq!(known(&cluster.reopen()), ended[2..]);
}

#[test]
fn a_job_that_has_run_does_not_start_without_its_checkpoints() {
    let cluster = Cluster::new();
    let dispatcher = cluster.open().unwrap();
    let mut losing = job(&dispatcher, "losing");
    losing.args = vec!["loses its checkpoints".into()];
    let id = dispatcher.submit(losing).unwrap();
    await_phase(&dispatcher, &id, is_running);
    dispatcher.suspend(LONG);
    drop(dispatcher);
    let again = cluster.reopen();
    let failed = await_phase(&again, &id, is_ended);
    let reason = end_of(&failed).reason.unwrap();
    assert_eq!(
        (reason.code.as_str(), reason.message.as_str()),
        ("S7001", "they are gone")
    );
    assert_eq!(cluster.started(), ["losing"], "once");
}

/// A job that is ended before there are slots for it may have left something to be committed.
#[test]
fn a_job_that_has_run_starts_once_more_to_be_cancelled() {
    let mut cluster = Cluster::new();
    let dispatcher = cluster.open().unwrap();
    let mut wide = job(&dispatcher, "wide");
    wide.parallelism = 2;
    let id = dispatcher.submit(wide.clone()).unwrap();
    await_phase(&dispatcher, &id, is_running);
    wide.name = "new".into();
    let new = dispatcher.submit(wide).unwrap();
    dispatcher.suspend(LONG);
    drop(dispatcher);
    cluster.slots = 1;
    let again = cluster.reopen();
    let waits = |phase: Phase| matches!(phase, Phase::Waiting { .. });
    for id in [&id, &new] {
        await_phase(&again, id, waits);
        tell(&again, id, Operation::Cancel);
        let ended = await_phase(&again, id, is_ended);
        assert_eq!(end_of(&ended).state, EndState::Canceled);
    }
    assert_eq!(cluster.started(), ["wide", "wide"], "not the new one");
}
