//! Drives the [`Core`] of a job: a thread feeds it events and carries out its actions. Others do what
//! is to be done in the store, so that nothing that a user wants waits for a disk.

use super::core::{Core, Submission};
use super::failures::Failures;
use super::statistics::CheckpointReport;
use super::store::JobStore;
use super::version::Version;
use super::{Accepted, Action, Ask, Event, Granted, JobState, Now, Outcome, StoreRequest, Tokens};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use streamrt_rpc::{FromTaskManager, Opened, ToTaskManager, WireError};
use streamrt_types::{Clock, Error, Result, Strand, Workers, code, failpoint, inheriting, say};

/// What a JobMaster needs of the world around it.
pub struct Seams {
    pub clock: Arc<dyn Clock>,
    pub tokens: Tokens,
    pub store: JobStore,
    /// They wait for the stores of all jobs.
    pub store_workers: Workers,
    /// To the TaskManager; a message is taken at once.
    pub gateway: Box<dyn Fn(ToTaskManager) + Send>,
}

type Reply = Sender<Result<Granted, WireError>>;

enum Message {
    Event(Event),
    Ask(Ask, Reply),
}

/// Where a TaskManager tells a JobMaster something, from any thread.
#[derive(Clone)]
pub struct Line(Sender<Message>);

impl Line {
    /// A JobMaster that is gone needs to hear nothing.
    pub fn tell(&self, told: FromTaskManager) {
        let _ = self.0.send(Message::Event(Event::Told(told)));
    }
}

/// The other end of a [`Line`].
pub struct Inbox(Receiver<Message>);

/// A running JobMaster, for any thread.
#[derive(Clone)]
pub struct JobMaster {
    shared: Arc<Shared>,
    messages: Sender<Message>,
}

struct Shared {
    core: Mutex<Core>,
    clock: Arc<dyn Clock>,
    progress: Mutex<Progress>,
    changed: Condvar,
}

type Then = Box<dyn FnOnce(Result<Outcome>) + Send>;

#[derive(Default)]
struct Progress {
    accepted: Option<Accepted>,
    ended: Option<Result<Outcome, WireError>>,
    then: Option<Then>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl JobMaster {
    /// Both ends of the line to a JobMaster, which is made when there is somebody to talk to.
    pub fn line() -> (Line, Inbox) {
        let (sender, receiver) = channel();
        (Line(sender), Inbox(receiver))
    }

    /// Starts the threads of a job.
    ///
    /// # Errors
    /// `Invalid` if the job's graph or its configuration is wrong.
    pub fn start(
        submission: Submission,
        (line, inbox): (Line, Inbox),
        seams: Seams,
    ) -> Result<JobMaster> {
        let Seams {
            clock,
            tokens,
            store,
            store_workers,
            gateway,
        } = seams;
        let (core, first) = Core::new(submission, now(&*clock), tokens)?;
        let shared = Arc::new(Shared {
            core: Mutex::new(core),
            clock,
            progress: Mutex::default(),
            changed: Condvar::new(),
        });
        let requests = serve_store(store, store_workers.strand(), line.0.clone());
        let driver = Driver {
            shared: shared.clone(),
            requests,
            gateway,
            replies: BTreeMap::new(),
            n_requests: 0,
        };
        let ended = shared.clone();
        spawn("job", move || {
            let run = AssertUnwindSafe(|| driver.run(first, &inbox.0));
            if catch_unwind(run).is_err() {
                ended.end(Err(Error::internal("the JobMaster panicked").into()));
            }
        })?;
        Ok(JobMaster {
            shared,
            messages: line.0,
        })
    }

    /// Waits until the job runs, or waits to be tried again. None if it had finished before.
    ///
    /// # Errors
    /// Why it was refused.
    pub fn accepted(&self) -> Result<Option<Accepted>> {
        let mut progress = lock(&self.shared.progress);
        while progress.accepted.is_none() && progress.ended.is_none() {
            let waited = self.shared.changed.wait(progress);
            progress = waited.unwrap_or_else(PoisonError::into_inner);
        }
        match &progress.ended {
            Some(Err(error)) if progress.accepted.is_none() => Err(error.clone().into()),
            _ => Ok(progress.accepted),
        }
    }

    /// Waits for the end of the job.
    ///
    /// # Errors
    /// What ended it.
    pub fn join(&self) -> Result<Outcome> {
        let mut progress = lock(&self.shared.progress);
        loop {
            if let Some(ended) = &progress.ended {
                return ended.clone().map_err(Error::from);
            }
            let waited = self.shared.changed.wait(progress);
            progress = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets `then` be called with what [`JobMaster::join`] returns, on the job's thread or, if it has
    /// ended, on this one.
    pub fn on_end(&self, then: impl FnOnce(Result<Outcome>) + Send + 'static) {
        let mut progress = lock(&self.shared.progress);
        match progress.ended.clone() {
            None => progress.then = Some(Box::new(then)),
            Some(ended) => {
                drop(progress);
                then(ended.map_err(Error::from));
            }
        }
    }

    pub fn is_over(&self) -> bool {
        lock(&self.shared.progress).ended.is_some()
    }

    /// Asks for something, and waits for the answer.
    ///
    /// # Errors
    /// Why it is not granted; S7009 if the job has ended.
    pub fn ask(&self, ask: Ask) -> Result<Granted> {
        let (reply, answer) = channel();
        let gone = || {
            let message = "the job has ended before this was done";
            Error::new(code::CHECKPOINT_FAILED, message)
        };
        let sent = self.messages.send(Message::Ask(ask, reply));
        sent.map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?.map_err(Error::from)
    }

    pub fn state(&self) -> JobState {
        lock(&self.shared.core).state()
    }

    /// The version that runs.
    pub fn version(&self) -> Arc<Version> {
        lock(&self.shared.core).version().clone()
    }

    /// What opening the job has shown.
    pub fn opened(&self) -> Opened {
        lock(&self.shared.core).opened().clone()
    }

    /// The checkpoint that the job went on from when it was submitted, and where that lies.
    pub fn resumed(&self) -> Option<(u64, String)> {
        lock(&self.shared.core).resumed().cloned()
    }

    /// What has made the job start again.
    pub fn failures(&self) -> Failures {
        lock(&self.shared.core).failures().clone()
    }

    /// What the last `n` checkpoints cost, the newest last.
    pub fn checkpoints(&self, n: usize) -> Vec<CheckpointReport> {
        let now = self.shared.clock.elapsed();
        lock(&self.shared.core).checkpoints(n, now)
    }
}

impl Shared {
    fn end(&self, result: Result<Outcome, WireError>) {
        let then = {
            let mut progress = lock(&self.progress);
            progress.ended = Some(result.clone());
            progress.then.take()
        };
        self.changed.notify_all();
        if let Some(then) = then {
            then(result.map_err(Error::from));
        }
    }
}

fn now(clock: &dyn Clock) -> Now {
    Now {
        elapsed: clock.elapsed(),
        wall_ms: clock.now_ms(),
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let no_thread = |e| Error::internal("no thread could be started for the job").with_source(e);
    let builder = std::thread::Builder::new().name(name.into());
    builder.spawn(inheriting(body)).map_err(no_thread)
}

/// Takes a request with its number, and the checkpoint up to which everything is committed.
type Requests = Box<dyn Fn(u64, StoreRequest, u64) + Send>;

fn serve_store(store: JobStore, strand: Strand, events: Sender<Message>) -> Requests {
    let store = Arc::new(Mutex::new(store));
    Box::new(move |id, request, committed| {
        let (store, events) = (store.clone(), events.clone());
        strand.run(move || {
            let result = lock(&store).carry_out(request, committed);
            // A JobMaster that is gone has no use for the answer.
            let _ = events.send(Message::Event(Event::Stored { id, result }));
        });
    })
}

struct Driver {
    shared: Arc<Shared>,
    requests: Requests,
    gateway: Box<dyn Fn(ToTaskManager) + Send>,
    replies: BTreeMap<u64, Reply>,
    n_requests: u64,
}

impl Driver {
    fn run(mut self, first: Vec<Action>, inbox: &Receiver<Message>) {
        let mut faults = Vec::new();
        self.carry_out(first, &mut faults);
        loop {
            let next_tick = {
                let core = lock(&self.shared.core);
                if core.is_over() {
                    return;
                }
                core.next_tick()
            };
            let event = match faults.pop() {
                Some(error) => Event::Fault(error),
                None => match self.next(inbox, next_tick) {
                    Some(event) => event,
                    None => return,
                },
            };
            if let Event::Told(FromTaskManager::Acknowledged { .. }) = event {
                faults.extend(
                    failpoint("snapshot.acknowledged")
                        .err()
                        .map(WireError::from),
                );
            }
            let now = now(&*self.shared.clock);
            let actions = lock(&self.shared.core).handle(event, now);
            self.carry_out(actions, &mut faults);
        }
    }

    fn next(
        &mut self,
        inbox: &Receiver<Message>,
        next_tick: Option<std::time::Duration>,
    ) -> Option<Event> {
        let message = match next_tick {
            Some(wait) => match inbox.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) => return Some(Event::Tick),
                received => received.ok()?,
            },
            None => inbox.recv().ok()?,
        };
        Some(match message {
            Message::Event(event) => event,
            Message::Ask(ask, reply) => {
                self.n_requests += 1;
                self.replies.insert(self.n_requests, reply);
                Event::Asked {
                    request: self.n_requests,
                    ask,
                }
            }
        })
    }

    fn carry_out(&mut self, actions: Vec<Action>, faults: &mut Vec<WireError>) {
        for action in actions {
            match action {
                Action::Send(message) => {
                    if let ToTaskManager::Complete { .. } = message {
                        let failed = failpoint("complete.before").err();
                        if let Some(error) = failed {
                            faults.push(error.into());
                            continue;
                        }
                    }
                    (self.gateway)(message);
                }
                Action::Store {
                    id,
                    request,
                    committed,
                } => {
                    (self.requests)(id, request, committed);
                }
                Action::Answer { request, result } => {
                    if let Some(reply) = self.replies.remove(&request) {
                        // Whoever asked may have gone.
                        let _ = reply.send(result);
                    }
                }
                Action::Say(text) => say!("{text}"),
                Action::Accepted(accepted) => {
                    lock(&self.shared.progress).accepted = Some(accepted);
                    self.shared.changed.notify_all();
                }
                Action::End(result) => self.shared.end(result),
            }
        }
    }
}
