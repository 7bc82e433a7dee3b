//! The two threads behind the checkpoints of an attempt.
//!
//! 1. The uploader takes what tasks report, in order. It writes frozen states as one object for each task and checkpoint, and passes
//!    everything else on behind what the same task reported before.
//! 2. The coordinator's thread tells the pure [`Coordinator`] what happened, and carries out what that decides: commands to tasks, the
//!    manifest, the log.

use crate::control::Control;
use crate::disk_uploads::{DiskUploads, Place};
use crate::disks::Disks;
use crate::durable::Durable;
use crate::mailbox::{Command, Mailbox, Report, TaskSnapshot};
use crate::restored::Restored;
use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use streamrt_checkpoint::{Action, Coordinator, EndState, Entry, SnapshotKind, Store, SubtaskSnapshot, object_path};
use streamrt_types::{Barrier, Error, Result, code, failpoint};

/// How often the coordinator looks at the clock at least.
const TICK_MAX: Duration = Duration::from_millis(50);

/// What the coordinator's thread is told.
pub(crate) enum Message {
    Acknowledged {
        task: usize,
        checkpoint: u64,
        snapshot: SubtaskSnapshot,
    },
    Declined {
        task: usize,
        checkpoint: u64,
        reason: String,
    },
    Committed {
        task: usize,
        checkpoint: u64,
    },
    Ended {
        task: usize,
    },
    Finished {
        task: usize,
        dead_letters: u64,
    },
    /// The user wants the job to stop with a checkpoint.
    Stop,
    /// The user wants a savepoint in a folder; with `stop`, the job ends with it.
    Savepoint {
        folder: String,
        stop: bool,
        reply: Sender<Result<u64>>,
    },
    /// The user wants the sources to end, and a savepoint of what is left when all tasks have.
    Drain {
        folder: String,
        reply: Sender<Result<u64>>,
    },
    /// All tasks are gone.
    Done,
}

/// A savepoint that somebody waits for.
struct Savepoint {
    store: Store,
    stop: bool,
    /// It is made when all tasks have ended.
    at_end: bool,
    reply: Sender<Result<u64>>,
}

/// The stores of savepoints that are being made, by number: coordinator and uploader share it.
type SavepointStores = Arc<Mutex<BTreeMap<u64, Store>>>;

/// The threads of an attempt.
pub(crate) struct Checkpoints {
    pub messages: Sender<Message>,
    uploader: JoinHandle<()>,
    coordinator: JoinHandle<(Durable, Option<u64>)>,
}

/// Starts both threads. `reports` is what tasks send to; it ends when they are gone.
pub(crate) fn start(
    durable: Durable,
    restored: &Restored,
    mailboxes: Vec<Arc<Mailbox>>,
    reports: Receiver<Report>,
    control: Arc<Control>,
) -> Result<Checkpoints> {
    let (messages, received) = channel();
    let savepoint_stores = SavepointStores::default();
    let mut uploader = Uploader::new(&durable, restored, savepoint_stores.clone(), messages.clone());
    let uploader = spawn("checkpoints", move || reports.into_iter().for_each(|report| uploader.report(report)))?;
    let thread = CoordinatorThread::new(durable, mailboxes, control, savepoint_stores);
    let coordinator = spawn("coordinator", move || thread.run(&received))?;
    Ok(Checkpoints { messages, uploader, coordinator })
}

fn spawn<T: Send + 'static>(name: &str, body: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>> {
    let no_thread = |e| Error::internal("no thread could be started for checkpoints").with_source(e);
    std::thread::Builder::new().name(name.into()).spawn(body).map_err(no_thread)
}

impl Checkpoints {
    /// Waits for both threads, after all tasks are gone. Returns the checkpoint at which the job was stopped, if it was.
    pub fn join(self) -> Result<(Durable, Option<u64>)> {
        let gone = |_| Error::internal("a thread of the checkpoints panicked");
        self.uploader.join().map_err(gone)?;
        // A coordinator that has ended already gets no message, and needs none.
        let _ = self.messages.send(Message::Done);
        self.coordinator.join().map_err(gone)
    }
}

struct Uploader {
    store: Store,
    savepoints: SavepointStores,
    generation: u64,
    max_parallelism: u32,
    disks: Option<Arc<Disks>>,
    files: DiskUploads,
    /// (vertex, subtask) by task.
    places: Vec<(u32, u32)>,
    messages: Sender<Message>,
}

impl Uploader {
    fn new(durable: &Durable, restored: &Restored, savepoints: SavepointStores, messages: Sender<Message>) -> Uploader {
        Uploader {
            store: durable.store().clone(),
            savepoints,
            generation: durable.generation(),
            max_parallelism: durable.max_parallelism(),
            disks: durable.disks(),
            files: durable.disk_uploads(restored),
            places: durable.places(),
            messages,
        }
    }

    fn report(&mut self, report: Report) {
        let message = match report {
            Report::Snapshot(snapshot) => {
                let (task, checkpoint) = (snapshot.task, snapshot.checkpoint);
                match self.upload(snapshot) {
                    Ok(snapshot) => Message::Acknowledged { task, checkpoint, snapshot },
                    Err(error) => Message::Declined { task, checkpoint, reason: error.message().to_owned() },
                }
            }
            Report::Committed { task, checkpoint } => Message::Committed { task, checkpoint },
            Report::Ended { task } => Message::Ended { task },
            Report::Finished { task, dead_letters } => Message::Finished { task, dead_letters },
        };
        // The coordinator ends only when nothing more is wanted of it.
        let _ = self.messages.send(message);
    }

    fn upload(&mut self, snapshot: TaskSnapshot) -> Result<SubtaskSnapshot> {
        let (vertex, subtask) = self.places[snapshot.task];
        let dead_letters = snapshot.dead_letters;
        let savepoint = self.savepoints.lock().unwrap_or_else(PoisonError::into_inner).get(&snapshot.checkpoint).cloned();
        let disks = self.disks.as_ref().filter(|_| savepoint.is_none());
        let (mut bytes, mut operators, mut disk_files) = (Vec::new(), Vec::new(), Vec::new());
        // What is on disk has to be written, whatever becomes of the checkpoint: the next one holds only what changes from here on.
        for (number, (uid, operator)) in snapshot.operators.into_iter().enumerate() {
            let folder = disks.map(|disks| disks.new_folder());
            let (index, files) = operator.write_with_disk(&uid, self.max_parallelism, &mut bytes, folder.as_deref())?;
            operators.push(index);
            disk_files.extend(files.map(|files| (number, uid, files)));
        }
        failpoint("snapshot.upload")?;
        let (mut files, place) = (Vec::new(), Place { vertex, subtask });
        for (number, uid, on_disk) in disk_files {
            files.extend(self.files.upload(snapshot.checkpoint, place, number, &uid, &on_disk)?);
        }
        let kind = if savepoint.is_some() { SnapshotKind::Savepoint } else { SnapshotKind::Checkpoint };
        let path = object_path(kind, snapshot.checkpoint, self.generation, vertex, subtask);
        let store = savepoint.as_ref().unwrap_or(&self.store);
        let object = if operators.is_empty() { None } else { Some(store.put(&path, bytes)?) };
        Ok(SubtaskSnapshot { vertex, subtask, finished: false, object, operators, files, dead_letters })
    }
}

struct CoordinatorThread {
    coordinator: Coordinator<SubtaskSnapshot>,
    durable: Durable,
    mailboxes: Vec<Arc<Mailbox>>,
    control: Arc<Control>,
    places: Vec<(u32, u32)>,
    began: Instant,
    /// The last checkpoint whose commit each task has carried out; `u64::MAX` for one that is gone.
    committed: Vec<u64>,
    /// The job is being stopped, with the checkpoint that it is stopped at, once that is published.
    stop: Option<Option<u64>>,
    /// Savepoints that are not begun.
    wanted: VecDeque<Savepoint>,
    /// Savepoints that are being made, by number.
    savepoints: BTreeMap<u64, Savepoint>,
    savepoint_stores: SavepointStores,
    /// A savepoint that is begun when all tasks have ended.
    at_end: Option<Savepoint>,
    /// Whether each task has ended.
    ended: Vec<bool>,
    /// Records that each task has skipped in all, once it is gone.
    dead_letters: Vec<u64>,
}

impl CoordinatorThread {
    fn new(durable: Durable, mailboxes: Vec<Arc<Mailbox>>, control: Arc<Control>, savepoint_stores: SavepointStores) -> CoordinatorThread {
        CoordinatorThread {
            coordinator: Coordinator::new(durable.settings(), durable.topology()),
            places: durable.places(),
            committed: vec![0; mailboxes.len()],
            at_end: None,
            ended: vec![false; mailboxes.len()],
            dead_letters: vec![0; mailboxes.len()],
            durable,
            mailboxes,
            control,
            began: Instant::now(),
            stop: None,
            wanted: VecDeque::new(),
            savepoints: BTreeMap::new(),
            savepoint_stores,
        }
    }

    fn run(mut self, messages: &Receiver<Message>) -> (Durable, Option<u64>) {
        loop {
            let message = messages.recv_timeout(self.durable.tick().min(TICK_MAX));
            if let Ok(Message::Acknowledged { .. }) = message {
                failpoint("snapshot.acknowledged").unwrap_or_else(|error| self.control.fail(error));
            }
            let actions = match message {
                Ok(Message::Done) | Err(RecvTimeoutError::Disconnected) => {
                    self.note_commits();
                    return (self.durable, self.stop.flatten());
                }
                Ok(message) => self.message(message),
                Err(RecvTimeoutError::Timeout) => Vec::new(),
            };
            let mut actions = VecDeque::from(actions);
            actions.extend(self.coordinator.tick(self.began.elapsed()));
            while let Some(action) = actions.pop_front() {
                actions.extend(self.carry_out(action).unwrap_or_else(|error| {
                    self.control.fail(error);
                    Vec::new()
                }));
            }
        }
    }

    fn message(&mut self, message: Message) -> Vec<Action<SubtaskSnapshot>> {
        match message {
            Message::Acknowledged { task, checkpoint, snapshot } => self.coordinator.acknowledged(task, checkpoint, snapshot),
            Message::Declined { task, checkpoint, reason } => self.coordinator.declined(task, checkpoint, &reason),
            Message::Committed { task, checkpoint } => {
                self.committed[task] = checkpoint;
                self.end_when_stopped();
                Vec::new()
            }
            Message::Ended { task } => {
                let mut actions = self.task_ended(task);
                actions.extend(self.coordinator.ended(task));
                actions
            }
            Message::Finished { task, dead_letters } => {
                self.committed[task] = u64::MAX;
                self.dead_letters[task] = dead_letters;
                let mut actions = self.task_ended(task);
                actions.extend(self.coordinator.finished(task));
                actions
            }
            Message::Drain { folder, reply } => {
                match savepoint_store(&folder) {
                    Ok(store) => {
                        self.at_end = Some(Savepoint { store, stop: false, at_end: true, reply });
                        self.control.drain();
                    }
                    Err(error) => answer(&reply, Err(error)),
                }
                Vec::new()
            }
            Message::Stop => {
                self.stop = self.stop.or(Some(None));
                self.coordinator.request(SnapshotKind::Checkpoint)
            }
            Message::Savepoint { folder, stop, reply } => self.request_savepoint(&folder, stop, reply),
            Message::Done => Vec::new(),
        }
    }

    /// With the last task to end, the savepoint of a drained job is asked for, in front of the last checkpoint.
    fn task_ended(&mut self, task: usize) -> Vec<Action<SubtaskSnapshot>> {
        self.ended[task] = true;
        match self.at_end.take_if(|_| self.ended.iter().all(|ended| *ended)) {
            None => Vec::new(),
            Some(savepoint) => {
                self.wanted.push_back(savepoint);
                self.coordinator.request(SnapshotKind::Savepoint)
            }
        }
    }

    fn request_savepoint(&mut self, folder: &str, stop: bool, reply: Sender<Result<u64>>) -> Vec<Action<SubtaskSnapshot>> {
        match savepoint_store(folder) {
            Ok(store) => {
                self.wanted.push_back(Savepoint { store, stop, at_end: false, reply });
                self.coordinator.request(SnapshotKind::Savepoint)
            }
            Err(error) => {
                answer(&reply, Err(error));
                Vec::new()
            }
        }
    }

    fn carry_out(&mut self, action: Action<SubtaskSnapshot>) -> Result<Vec<Action<SubtaskSnapshot>>> {
        match action {
            Action::Trigger { checkpoint, kind, tasks } => self.trigger(checkpoint, kind, &tasks),
            Action::Publish { checkpoint, snapshots, .. } => return self.publish(checkpoint, snapshots),
            Action::Complete { checkpoint, .. } => {
                failpoint("complete.before")?;
                self.complete(checkpoint);
            }
            Action::Abort { checkpoint, reason } => self.abort(checkpoint, reason),
            Action::Fail { reason } => return Err(Error::new(code::CHECKPOINT_FAILED, reason)),
            Action::Retire { checkpoint } => self.durable.retire(checkpoint)?,
            Action::Refuse { reason, .. } => self.refuse(reason),
        }
        Ok(Vec::new())
    }

    fn trigger(&mut self, checkpoint: u64, kind: SnapshotKind, tasks: &[usize]) {
        if kind == SnapshotKind::Savepoint && !self.savepoints.contains_key(&checkpoint) {
            self.begin_savepoint(checkpoint);
        }
        let stops = self.savepoints.get(&checkpoint).map_or(self.stop == Some(None), |savepoint| savepoint.stop);
        if stops {
            self.coordinator.close_with(checkpoint);
        }
        tasks.iter().for_each(|task| self.mailboxes[*task].send(Command::Trigger(Barrier { checkpoint })));
    }

    fn abort(&mut self, checkpoint: u64, reason: String) {
        self.tell_all(Command::Abort(checkpoint));
        match self.end_savepoint(checkpoint) {
            Some(savepoint) => answer(&savepoint.reply, Err(Error::new(code::CHECKPOINT_FAILED, reason))),
            None => self.durable.say(&format!("checkpoint {checkpoint} failed: {reason}")),
        }
    }

    /// A savepoint that waited for the end of all tasks holds that they have ended; any other one comes too late.
    fn refuse(&mut self, reason: String) {
        let Some(savepoint) = self.wanted.pop_front() else { return };
        let made = match savepoint.at_end {
            false => Err(Error::new(code::CHECKPOINT_FAILED, reason)),
            true => {
                let finished = (0..self.places.len()).map(|task| self.finished(task)).collect();
                let checkpoint = self.durable.next_checkpoint();
                self.durable.publish(checkpoint, Some(&savepoint.store), finished).map(|()| checkpoint)
            }
        };
        answer(&savepoint.reply, made);
    }

    fn begin_savepoint(&mut self, checkpoint: u64) {
        if let Some(savepoint) = self.wanted.pop_front() {
            self.savepoint_stores.lock().unwrap_or_else(PoisonError::into_inner).insert(checkpoint, savepoint.store.clone());
            self.savepoints.insert(checkpoint, savepoint);
        }
    }

    fn end_savepoint(&mut self, checkpoint: u64) -> Option<Savepoint> {
        self.savepoint_stores.lock().unwrap_or_else(PoisonError::into_inner).remove(&checkpoint);
        self.savepoints.remove(&checkpoint)
    }

    /// A savepoint alone commits nothing; the job may go on and commit with its next checkpoint.
    fn complete(&mut self, checkpoint: u64) {
        let savepoint = self.end_savepoint(checkpoint);
        let stops = savepoint.as_ref().is_none_or(|savepoint| savepoint.stop);
        if savepoint.as_ref().is_some_and(|savepoint| savepoint.stop) {
            self.stop = Some(None);
        }
        if stops {
            self.tell_all(Command::Complete(checkpoint));
            self.stop = self.stop.map(|at| at.or(Some(checkpoint)));
        }
        if let Some(savepoint) = savepoint {
            answer(&savepoint.reply, Ok(checkpoint));
        }
    }

    fn publish(&mut self, checkpoint: u64, snapshots: Vec<Option<SubtaskSnapshot>>) -> Result<Vec<Action<SubtaskSnapshot>>> {
        let of_task = |(snapshot, task): (Option<SubtaskSnapshot>, usize)| snapshot.unwrap_or_else(|| self.finished(task));
        let subtasks = snapshots.into_iter().zip(0..).map(of_task).collect();
        self.note_commits();
        let savepoint = self.savepoints.get(&checkpoint).map(|savepoint| &savepoint.store);
        match self.durable.publish(checkpoint, savepoint, subtasks) {
            Ok(()) => Ok(self.coordinator.published(checkpoint)),
            Err(error) if self.durable.leads() => Ok(self.coordinator.publish_failed(checkpoint, error.message())),
            Err(error) => Err(error),
        }
    }

    /// What a checkpoint holds of a task that is gone.
    fn finished(&self, task: usize) -> SubtaskSnapshot {
        let (vertex, subtask) = self.places[task];
        SubtaskSnapshot { dead_letters: self.dead_letters[task], ..SubtaskSnapshot::finished(vertex, subtask) }
    }

    /// Lets the next entry of the log say what all tasks have committed.
    fn note_commits(&mut self) {
        self.durable.commits_done(self.committed.iter().copied().min().unwrap_or_default());
    }

    fn tell_all(&self, command: Command) {
        self.mailboxes.iter().for_each(|mailbox| mailbox.send(command));
    }

    /// Ends the tasks when all of them have committed what the last checkpoint holds.
    fn end_when_stopped(&self) {
        if let Some(Some(checkpoint)) = self.stop
            && self.committed.iter().all(|committed| *committed >= checkpoint)
        {
            self.control.fail(Control::cancelled());
        }
    }
}

fn savepoint_store(folder: &str) -> Result<Store> {
    let store = Store::open(folder)?;
    match store.list("")?.first() {
        None => Ok(store),
        Some((path, _)) => {
            Err(Error::new(code::BAD_OPTION, format!("{folder} is not empty: it holds {path}; a savepoint gets a folder of its own")))
        }
    }
}

/// Whoever asked may have gone.
fn answer(reply: &Sender<Result<u64>>, answer: Result<u64>) {
    let _ = reply.send(answer);
}

/// What is written when the user has cancelled the job: its sinks were told, and what no checkpoint names is withdrawn.
pub(crate) fn cancel(durable: &mut Durable) -> Result<()> {
    durable.withdraw()?;
    durable.append(Entry::Ended { state: EndState::Canceled })
}

/// What is written when the job was stopped with a checkpoint, which its sinks have committed.
pub(crate) fn stopped(durable: &mut Durable) -> Result<()> {
    durable.append(Entry::Ended { state: EndState::Stopped })
}

/// What is written when the job has ended by itself.
pub(crate) fn finish(durable: &mut Durable) -> Result<()> {
    failpoint("end.before-log")?;
    durable.append(Entry::Ended { state: EndState::Finished })
}
