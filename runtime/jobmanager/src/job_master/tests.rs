//! The core, event by event. What comes of thousands of orders of events is shown by the simulation
//! in `tests/sim`.

use super::*;
use serde_json::json;
use std::sync::Arc;
use streamrt_checkpoint::{EndState, Entry, Store};
use streamrt_graph::JobSpec;
use streamrt_rpc::{Answered, Opened, Scope};
use streamrt_types::{Configuration, code};
use streamrt_wit::Plan;

/// A core, the store that it asks, and what it has said and sent.
struct Job {
    core: Core,
    store: JobStore,
    now: Now,
    sent: Vec<ToTaskManager>,
    said: Vec<String>,
    answers: Vec<(u64, Result<Granted, WireError>)>,
    accepted: bool,
    ended: Option<Result<Outcome, WireError>>,
}

fn plan(settings: &[(&str, &str)]) -> JobPlan {
    let nodes = json!([
        {"id": 0, "uid": "clicks", "outputs": [{"columns": {"kind": "forward"}}], "body": {"kind": "source",
            "connector": "file", "schema": [{"name": "user", "type": "i64"}]}},
        {"id": 1, "uid": "out", "inputs": [{"node": 0}], "body": {"kind": "sink", "connector": "print"}},
    ]);
    let text = json!({"version": 1, "nodes": nodes, "functions": []}).to_string();
    let mut configuration = Configuration::default();
    for (key, value) in settings {
        configuration.set(key, value).unwrap();
    }
    JobPlan {
        spec: JobSpec::from_plan("job", Arc::new(Plan::from_json(&text).unwrap())),
        components: Vec::new(),
        configuration: Arc::new(configuration),
        parallelism: 1,
        max_parallelism: 0,
        grants: Default::default(),
    }
}

const DURABLE: &[(&str, &str)] = &[
    ("checkpoint.dir", "memory"),
    ("checkpoint.interval", "1s"),
    ("restart.delay", "100ms"),
];

impl Job {
    fn new(settings: &[(&str, &str)], store: &Store) -> Job {
        let submission = Submission {
            plan: plan(settings),
            from: None,
            before: None,
        };
        let mut n = 0;
        let tokens = move || {
            n += 1;
            format!("{n:032x}")
        };
        let now = Now::default();
        let (core, first) = Core::new(submission, now, Box::new(tokens)).unwrap();
        let components = Arc::new(|_: &str| Ok(Arc::new(Vec::new())));
        let mut job = Job {
            core,
            store: JobStore::over(store.clone(), components),
            now,
            sent: Vec::new(),
            said: Vec::new(),
            answers: Vec::new(),
            accepted: false,
            ended: None,
        };
        job.carry_out(first);
        job
    }

    fn handle(&mut self, event: Event) {
        let actions = self.core.handle(event, self.now);
        self.carry_out(actions);
    }

    /// The store answers at once.
    fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send(message) => self.sent.push(message),
                Action::Store {
                    id,
                    request,
                    committed,
                } => {
                    let result = self.store.carry_out(request, committed);
                    self.handle(Event::Stored { id, result });
                }
                Action::Answer { request, result } => self.answers.push((request, result)),
                Action::Say(text) => self.said.push(text),
                Action::Accepted(_) => self.accepted = true,
                Action::End(result) => self.ended = Some(result),
            }
        }
    }

    /// What was sent last; each message is looked at once.
    fn next(&mut self) -> ToTaskManager {
        assert!(!self.sent.is_empty(), "nothing was sent");
        self.sent.remove(0)
    }

    fn answer(&mut self, step: u64, answered: Answered) {
        let result = Ok(answered);
        self.handle(Event::Told(FromTaskManager::Answer { step, result }));
    }

    /// Goes through a launch, and returns the generation of the tasks.
    fn launch(&mut self) -> u64 {
        let ToTaskManager::Open { step, .. } = self.next() else {
            panic!("a snapshot is opened first")
        };
        self.answer(step, Answered::Opened(Opened::default()));
        let ToTaskManager::Settle { step, .. } = self.next() else {
            panic!("then sinks are settled")
        };
        self.answer(step, Answered::Settled);
        let ToTaskManager::Prepare {
            step, generation, ..
        } = self.next()
        else {
            panic!("then tasks are made")
        };
        self.answer(step, Answered::Prepared);
        assert_eq!(self.next(), ToTaskManager::Start { scope: Scope::Job });
        generation
    }

    fn pass(&mut self, ms: u64) {
        self.now.elapsed += Duration::from_millis(ms);
        self.handle(Event::Tick);
    }

    fn region_ended(&mut self, generation: u64, error: Option<WireError>) {
        self.handle(Event::Told(FromTaskManager::RegionEnded {
            region: 0,
            generation,
            error,
        }));
    }
}

fn away() -> WireError {
    WireError::new(code::STORE, "the disk is away")
}

#[test]
fn a_job_without_checkpoints_runs_and_ends() {
    let mut job = Job::new(&[], &Store::in_memory().unwrap());
    assert_eq!(job.core.state(), JobState::Created);
    let generation = job.launch();
    assert_eq!((job.core.state(), job.accepted), (JobState::Running, true));
    job.region_ended(generation + 1, None);
    assert!(
        job.ended.is_none(),
        "tasks of another generation have ended"
    );
    job.region_ended(generation, None);
    assert_eq!(job.ended, Some(Ok(Outcome::Finished)));
}

#[test]
fn a_failure_is_tried_again_as_the_strategy_says() {
    let mut job = Job::new(DURABLE, &Store::in_memory().unwrap());
    let first = job.launch();
    job.region_ended(first, Some(away()));
    assert!(matches!(job.next(), ToTaskManager::Cancel { .. }));
    assert_eq!(job.core.state(), JobState::Restarting);
    let expected = "streamrt: [S7007] the disk is away; trying again in 0.1 s";
    assert_eq!(job.said, [expected]);
    job.pass(99);
    assert!(job.sent.is_empty(), "it waits");
    job.pass(1);
    let second = job.launch();
    assert_eq!(
        second,
        first + 1,
        "each attempt has a generation of its own"
    );
}

#[test]
fn what_would_fail_again_ends_the_job_and_withdraws() {
    let mut job = Job::new(DURABLE, &Store::in_memory().unwrap());
    let generation = job.launch();
    let wrong = WireError::new(code::BAD_RECORD, "line 3");
    job.region_ended(generation, Some(wrong.clone()));
    assert!(matches!(job.next(), ToTaskManager::Cancel { .. }));
    let ToTaskManager::Settle {
        step,
        promised: None,
        interruptible: false,
        ..
    } = job.next()
    else {
        panic!("what no checkpoint names is withdrawn")
    };
    assert!(job.ended.is_none());
    job.answer(step, Answered::Settled);
    assert_eq!(job.ended, Some(Err(wrong)));
}

#[test]
fn a_checkpoint_is_committed_when_the_log_names_it() {
    let store = Store::in_memory().unwrap();
    let mut job = Job::new(DURABLE, &store);
    let generation = job.launch();
    job.pass(1000);
    let ToTaskManager::Trigger { checkpoint: 1, .. } = job.next() else {
        panic!("the interval has passed")
    };
    let acknowledged = |task| FromTaskManager::Acknowledged {
        task,
        generation,
        checkpoint: 1,
        snapshot: streamrt_checkpoint::SubtaskSnapshot {
            vertex: task as u32,
            ..Default::default()
        },
        report: Default::default(),
    };
    job.handle(Event::Told(acknowledged(0)));
    assert!(job.sent.is_empty(), "a task is missing");
    job.handle(Event::Told(acknowledged(1)));
    assert_eq!(job.next(), ToTaskManager::Complete { checkpoint: 1 });
    let history = streamrt_checkpoint::History::read(&store).unwrap();
    assert_eq!(history.last_checkpoint, 1);
    // The next process goes on from it, under the next generation.
    let mut next = Job::new(DURABLE, &store);
    let ToTaskManager::Open {
        restore: Some(restore),
        ..
    } = &next.sent[0]
    else {
        panic!("there is a checkpoint")
    };
    assert_eq!(restore.published.checkpoint, 1);
    assert_eq!(next.launch(), generation + 1);
}

#[test]
fn users_are_told_why_not() {
    let mut job = Job::new(&[], &Store::in_memory().unwrap());
    let generation = job.launch();
    let ask = Ask::Savepoint {
        location: "x".into(),
        when: When::Now,
    };
    job.handle(Event::Asked { request: 1, ask });
    let (_, refused) = job.answers.remove(0);
    assert_eq!(refused.unwrap_err().code, "S2007");
    job.region_ended(generation, None);
    let ask = Ask::Upgrade {
        plan: Box::new(plan(&[])),
    };
    job.handle(Event::Asked { request: 2, ask });
    let (_, refused) = job.answers.remove(0);
    let message = "the job has ended before this was done";
    assert_eq!(refused.unwrap_err().message, message);
}

#[test]
fn a_job_that_cannot_start_is_refused_or_waits() {
    let mut job = Job::new(&[], &Store::in_memory().unwrap());
    let ToTaskManager::Open { step, .. } = job.next() else {
        panic!("a snapshot is opened first")
    };
    let result = Err(away());
    job.handle(Event::Told(FromTaskManager::Answer { step, result }));
    assert_eq!((job.ended, job.accepted), (Some(Err(away())), false));
    let mut job = Job::new(DURABLE, &Store::in_memory().unwrap());
    let ToTaskManager::Open { step, .. } = job.next() else {
        panic!("a snapshot is opened first")
    };
    let result = Err(away());
    job.handle(Event::Told(FromTaskManager::Answer { step, result }));
    assert_eq!(
        (job.ended, job.accepted),
        (None, true),
        "it waits for the disk"
    );
    assert_eq!(job.core.state(), JobState::Restarting);
}

#[test]
fn what_a_leader_retires_meanwhile_is_looked_for_again() {
    let store = Store::in_memory().unwrap();
    let gone = || WireError::new(code::SNAPSHOT_DAMAGED, "chk-1 is missing");
    let refuse = |job: &mut Job| {
        let ToTaskManager::Open { step, .. } = job.next() else {
            panic!("a snapshot is opened first")
        };
        let result = Err(gone());
        job.handle(Event::Told(FromTaskManager::Answer { step, result }));
    };
    let mut job = Job::new(DURABLE, &store);
    // The log has grown since it was looked at.
    take_over(&store);
    refuse(&mut job);
    assert!(job.ended.is_none(), "it looks again");
    refuse(&mut job);
    assert_eq!(job.ended, Some(Err(gone())), "nothing has changed since");
}

/// Another process takes the job over.
fn take_over(store: &Store) {
    streamrt_checkpoint::JobLog::take_over(store, &"f".repeat(32)).unwrap();
}

#[test]
fn a_job_that_another_process_leads_is_not_taken_back() {
    let store = Store::in_memory().unwrap();
    let mut job = Job::new(DURABLE, &store);
    let generation = job.launch();
    take_over(&store);
    job.region_ended(generation, Some(away()));
    job.pass(100);
    let ended = job.ended.clone().unwrap().unwrap_err();
    assert_eq!(ended.code, "S7006", "{}", ended.message);
    assert!(matches!(job.sent[..], [ToTaskManager::Cancel { .. }]));
}

/// A process that leads the job writes into its log between the look of another one and its
/// take-over.
#[test]
fn a_first_look_that_was_passed_is_taken_again() {
    let store = Store::in_memory().unwrap();
    let mut first = streamrt_checkpoint::JobLog::take_over(&store, &"f".repeat(32))
        .unwrap()
        .0;
    let mut job = Job::new(DURABLE, &store);
    let state = EndState::Stopped;
    first.append(Entry::Ended { state }).unwrap();
    let ToTaskManager::Open { step, .. } = job.next() else {
        panic!("a snapshot is opened first")
    };
    job.answer(step, Answered::Opened(Opened::default()));
    job.launch();
    assert_eq!((&job.ended, job.core.state()), (&None, JobState::Running));
}

#[test]
fn what_another_process_writes_is_not_withdrawn() {
    let store = Store::in_memory().unwrap();
    let mut job = Job::new(DURABLE, &store);
    let generation = job.launch();
    take_over(&store);
    let wrong = WireError::new(code::BAD_RECORD, "line 3");
    job.region_ended(generation, Some(wrong.clone()));
    assert_eq!(job.ended, Some(Err(wrong)));
    assert!(matches!(job.sent[..], [ToTaskManager::Cancel { .. }]));
    let history = streamrt_checkpoint::History::read(&store).unwrap();
    assert_eq!(history.leader, "f".repeat(32));
}
