//! The two threads behind the checkpoints of an attempt.
//!
//! 1. The uploader takes what tasks report, in order. It writes frozen states as one object for
//!    each task and checkpoint, and passes everything else on behind what the same task reported
//!    before.
//! 2. The coordinator's thread tells the pure [`Coordinator`] what happened, and carries out what
//!    that decides: commands to tasks, the manifest, the log.

use crate::control::{Control, Controls};
use crate::disk_uploads::{DiskUploads, Place};
use crate::disks::Disks;
use crate::durable::{Durable, Publication};
use crate::enumerator::ENUMERATOR_SUFFIX;
use crate::factory::Definition;
use crate::grown::Grown;
use crate::job::Shared;
use crate::mailbox::{Command, Mailbox, Report, TaskSnapshot};
use crate::regions::{Resume, Suspend, Suspended};
use crate::replaceable::UserCode;
use crate::restored::Restored;
use crate::snapshot_states::entries;
use crate::statistics::{CheckpointStatus, Statistics, SubtaskReport};
use crate::versions::Versions;
use crate::wishes::{Swap, Swapped, Wish, Wishes, answer};
use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use streamrt_checkpoint::{
    Action, Coordinator, EndState, Entry, Purpose, Request, SnapshotKind, Store, Stored,
    SubtaskSnapshot, object_path,
};
use streamrt_types::{Barrier, Error, Result, code, failpoint, inheriting};

/// How often the coordinator looks at the clock at least.
const TICK_MAX: Duration = Duration::from_millis(50);

/// The stores of savepoints that are being made, by the number of the snapshot: coordinator and
/// uploader share it.
type SavepointStores = Arc<Mutex<BTreeMap<u64, Store>>>;

/// What the coordinator's thread is told.
pub(crate) enum Message {
    Acknowledged {
        task: usize,
        checkpoint: u64,
        snapshot: SubtaskSnapshot,
        report: SubtaskReport,
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
    /// A user wants something, as the job's [`Wishes`] know it.
    Asked(Request),
    /// A user wants other code, of which there is an instance for each task.
    Upgrade {
        definition: Arc<Definition>,
        code: Vec<UserCode>,
        /// How often regions had started again when the instances were made.
        restarts: u64,
        reply: Sender<Result<Swapped>>,
    },
    Suspend(Suspend),
    Resume(Resume),
    /// All tasks are gone.
    Done,
}

/// What is left of the checkpoints when all tasks of an attempt are gone.
pub(crate) struct Ending {
    pub durable: Durable,
    /// The checkpoint with which the job was stopped.
    pub stopped_at: Option<u64>,
    /// Who waits for an upgrade that was begun and never counted: what tasks did since is void.
    pub upgrade: Option<Sender<Result<Swapped>>>,
}

/// The threads of an attempt.
pub(crate) struct Checkpoints {
    pub messages: Sender<Message>,
    /// What tasks send to.
    pub reports: Sender<Report>,
    uploader: JoinHandle<()>,
    coordinator: JoinHandle<Ending>,
}

/// Starts both threads. `mailboxes` are those of all tasks, in the order of the execution graph.
pub(crate) fn start(
    durable: Durable,
    restored: &Restored,
    mailboxes: Vec<Arc<Mailbox>>,
    (reports, reported): (Sender<Report>, Receiver<Report>),
    controls: Arc<Controls>,
    shared: &Shared,
) -> Result<Checkpoints> {
    let (messages, received) = channel();
    let savepoints = SavepointStores::default();
    let mut uploader = Uploader::new(&durable, restored, savepoints.clone(), messages.clone());
    let uploader = spawn("checkpoints", move || {
        reported
            .into_iter()
            .for_each(|report| uploader.report(report))
    })?;
    let thread = CoordinatorThread {
        coordinator: Coordinator::new(durable.settings(), durable.topology()),
        places: durable.places(),
        began: Instant::now(),
        committed: vec![0; mailboxes.len()],
        dead_letters: vec![0; mailboxes.len()],
        durable,
        mailboxes,
        controls,
        wishes: shared.wishes.clone(),
        savepoints,
        upgrade: None,
        versions: shared.versions.clone(),
        statistics: shared.statistics.clone(),
    };
    let coordinator = spawn("coordinator", move || thread.run(&received))?;
    Ok(Checkpoints {
        messages,
        reports,
        uploader,
        coordinator,
    })
}

fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    let no_thread =
        |e| Error::internal("no thread could be started for checkpoints").with_source(e);
    std::thread::Builder::new()
        .name(name.into())
        .spawn(inheriting(body))
        .map_err(no_thread)
}

impl Checkpoints {
    /// Tells the uploader, and through it the coordinator, behind what all tasks have said so far.
    pub fn report(&self, report: Report) -> Result<()> {
        self.reports
            .send(report)
            .map_err(|_| Error::internal("the thread of the checkpoints is gone"))
    }

    /// Waits for both threads, after all tasks are gone.
    pub fn join(self) -> Result<Ending> {
        let gone = |_| Error::internal("a thread of the checkpoints panicked");
        drop(self.reports);
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
    /// By task, the object that the store got last. A state that has not changed since is not
    /// written again.
    last: BTreeMap<usize, Stored>,
    /// The same of those that grow at their end: what an enumerator has found.
    grown: Grown,
    /// (vertex, subtask) by task.
    places: Vec<(u32, u32)>,
    names: Vec<String>,
    messages: Sender<Message>,
}

impl Uploader {
    fn new(
        durable: &Durable,
        restored: &Restored,
        savepoints: SavepointStores,
        messages: Sender<Message>,
    ) -> Uploader {
        Uploader {
            store: durable.store().clone(),
            savepoints,
            generation: durable.generation(),
            max_parallelism: durable.max_parallelism(),
            disks: durable.disks(),
            files: durable.disk_uploads(restored),
            last: BTreeMap::new(),
            grown: Grown::default(),
            places: durable.places(),
            names: durable
                .topology()
                .tasks
                .into_iter()
                .map(|task| task.name)
                .collect(),
            messages,
        }
    }

    fn report(&mut self, report: Report) {
        let message = match report {
            Report::Snapshot(snapshot) => {
                let (task, checkpoint, pause, began) = (
                    snapshot.task,
                    snapshot.checkpoint,
                    snapshot.pause,
                    Instant::now(),
                );
                match self.upload(snapshot) {
                    Ok(snapshot) => {
                        let full_bytes = snapshot.objects().map(|object| object.bytes).sum();
                        let bytes = full_bytes - snapshot.shared_bytes(checkpoint);
                        let micros = |duration: Duration| duration.as_micros() as u64;
                        let (alignment_us, sync_us, async_us) = (
                            micros(pause.alignment),
                            micros(pause.sync),
                            micros(began.elapsed()),
                        );
                        let name = self.names[task].clone();
                        let report = SubtaskReport {
                            name,
                            alignment_us,
                            sync_us,
                            async_us,
                            bytes,
                            full_bytes,
                        };
                        Message::Acknowledged {
                            task,
                            checkpoint,
                            snapshot,
                            report,
                        }
                    }
                    Err(error) => Message::Declined {
                        task,
                        checkpoint,
                        reason: error.with_causes(),
                    },
                }
            }
            Report::Committed { task, checkpoint } => Message::Committed { task, checkpoint },
            Report::Ended { task } => Message::Ended { task },
            Report::Finished { task, dead_letters } => Message::Finished { task, dead_letters },
            Report::Suspend(suspend) => Message::Suspend(suspend),
            Report::Resume(resume) => {
                self.files.restart(&resume.operators, &resume.restored);
                self.last.clear();
                self.grown.clear();
                Message::Resume(resume)
            }
        };
        // The coordinator ends only when nothing more is wanted of it.
        let _ = self.messages.send(message);
    }

    fn upload(&mut self, snapshot: TaskSnapshot) -> Result<SubtaskSnapshot> {
        let (vertex, subtask) = self.places[snapshot.task];
        let dead_letters = snapshot.dead_letters;
        let savepoint = self
            .savepoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&snapshot.checkpoint)
            .cloned();
        let disks = self.disks.as_ref().filter(|_| savepoint.is_none());
        let (mut bytes, mut operators, mut disk_files) = (Vec::new(), Vec::new(), Vec::new());
        // What is on disk has to be written, whatever becomes of the checkpoint: the next one holds
        // only what changes from here on.
        for (number, (uid, operator)) in snapshot.operators.into_iter().enumerate() {
            let folder = disks.map(|disks| disks.new_folder());
            let (index, files) = operator.write_with_disk(
                &uid,
                self.max_parallelism,
                &mut bytes,
                folder.as_deref(),
            )?;
            operators.push(index);
            disk_files.extend(files.map(|files| (number, uid, files)));
        }
        failpoint("snapshot.upload")?;
        let (mut files, place) = (Vec::new(), Place { vertex, subtask });
        for (number, uid, on_disk) in disk_files {
            files.extend(
                self.files
                    .upload(snapshot.checkpoint, place, number, &uid, &on_disk)?,
            );
        }
        let operators = entries(&operators, self.max_parallelism, &bytes)?;
        let kind = if savepoint.is_some() {
            SnapshotKind::Savepoint
        } else {
            SnapshotKind::Checkpoint
        };
        let path = object_path(kind, snapshot.checkpoint, self.generation, vertex, subtask);
        let grows = operators
            .iter()
            .all(|index| index.uid.ends_with(ENUMERATOR_SUFFIX));
        let (begins, object) = match &savepoint {
            _ if operators.is_empty() => (Vec::new(), None),
            Some(store) => (Vec::new(), Some(store.put(&path, bytes)?)),
            None if grows => {
                let (begins, object) = self
                    .grown
                    .put(snapshot.task, &bytes, |bytes| self.store.put(&path, bytes))?;
                (begins, Some(object))
            }
            None => (
                Vec::new(),
                Some(self.put_if_new(snapshot.task, &path, bytes)?),
            ),
        };
        Ok(SubtaskSnapshot {
            vertex,
            subtask,
            finished: false,
            object,
            begins,
            operators,
            files,
            dead_letters,
        })
    }
}

impl Uploader {
    /// Puts an object into the job's store, unless that has the same bytes from the checkpoint
    /// before: then this one shares them. An object that is shared has been so by every checkpoint
    /// since it was written, so as long as one of them may be published, deletion finds it named.
    fn put_if_new(&mut self, task: usize, path: &str, bytes: Vec<u8>) -> Result<Stored> {
        let same_length = self
            .last
            .get(&task)
            .filter(|last| last.bytes == bytes.len() as u64);
        if let Some(last) = same_length.filter(|last| Stored::of(&last.path, &bytes) == **last) {
            return Ok(last.clone());
        }
        let stored = self.store.put(path, bytes)?;
        self.last.insert(task, stored.clone());
        Ok(stored)
    }
}

struct CoordinatorThread {
    coordinator: Coordinator<SubtaskSnapshot>,
    durable: Durable,
    mailboxes: Vec<Arc<Mailbox>>,
    controls: Arc<Controls>,
    places: Vec<(u32, u32)>,
    began: Instant,
    wishes: Arc<Wishes>,
    savepoints: SavepointStores,
    /// The upgrade that was begun: tasks may run its code.
    upgrade: Option<Swap>,
    versions: Arc<Versions>,
    statistics: Statistics,
    /// The last checkpoint whose commit each task has carried out; `u64::MAX` for one that is gone.
    committed: Vec<u64>,
    /// Records that each task has skipped in all, once it is gone.
    dead_letters: Vec<u64>,
}

type Actions = Vec<Action<SubtaskSnapshot>>;

impl CoordinatorThread {
    fn run(mut self, messages: &Receiver<Message>) -> Ending {
        loop {
            let message = messages.recv_timeout(self.durable.tick().min(TICK_MAX));
            if let Ok(Message::Acknowledged { .. }) = message {
                failpoint("snapshot.acknowledged")
                    .unwrap_or_else(|error| self.controls.fail(error));
            }
            let actions = match message {
                Ok(Message::Done) | Err(RecvTimeoutError::Disconnected) => return self.end(),
                Ok(message) => self.message(message),
                Err(RecvTimeoutError::Timeout) => Vec::new(),
            };
            let mut actions = VecDeque::from(actions);
            actions.extend(self.coordinator.tick(self.began.elapsed()));
            while let Some(action) = actions.pop_front() {
                actions.extend(self.carry_out(action).unwrap_or_else(|error| {
                    self.controls.fail(error);
                    Vec::new()
                }));
            }
        }
    }

    fn end(mut self) -> Ending {
        self.note_commits();
        let upgrade = self.upgrade.map(|swap| swap.reply);
        Ending {
            stopped_at: self.coordinator.stopped_at(),
            durable: self.durable,
            upgrade,
        }
    }

    fn message(&mut self, message: Message) -> Actions {
        match message {
            Message::Acknowledged {
                task,
                checkpoint,
                snapshot,
                report,
            } => {
                self.statistics.acknowledged(checkpoint, report);
                self.coordinator.acknowledged(task, checkpoint, snapshot)
            }
            Message::Declined {
                task,
                checkpoint,
                reason,
            } => self.coordinator.declined(task, checkpoint, &reason),
            Message::Committed { task, checkpoint } => {
                self.committed[task] = self.committed[task].max(checkpoint);
                self.coordinator.committed(task, checkpoint)
            }
            Message::Ended { task } => self.coordinator.ended(task),
            Message::Finished { task, dead_letters } => {
                (self.committed[task], self.dead_letters[task]) = (u64::MAX, dead_letters);
                self.coordinator.finished(task)
            }
            Message::Asked(request) => self.coordinator.request(request),
            Message::Upgrade {
                definition,
                code,
                restarts,
                reply,
            } => self.ask_for_upgrade(&definition, (code, restarts), reply),
            Message::Suspend(suspend) => self.suspend(suspend),
            Message::Resume(resume) => self.resume(resume),
            Message::Done => Vec::new(),
        }
    }

    fn ask_for_upgrade(
        &mut self,
        definition: &Arc<Definition>,
        (code, restarts): (Vec<UserCode>, u64),
        reply: Sender<Result<Swapped>>,
    ) -> Actions {
        match self.durable.version(definition) {
            // The instances of a region end with it.
            Ok(_) if restarts != self.controls.restarts() => {
                let message = "a region of the job failed and started again while the new version was made ready: ask for it once more";
                answer(&reply, Err(Error::new(code::CHECKPOINT_FAILED, message)));
                Vec::new()
            }
            Ok(version) => {
                let request = self.wishes.add(Wish::Upgrade(Swap {
                    version,
                    code,
                    reply,
                }));
                request
                    .map(|request| self.coordinator.request(request))
                    .unwrap_or_default()
            }
            Err(error) => {
                answer(&reply, Err(error));
                Vec::new()
            }
        }
    }

    /// A region's tasks are gone, and whoever starts them again is told from what.
    fn suspend(&mut self, Suspend { tasks, reply }: Suspend) -> Actions {
        let actions = self.coordinator.suspend(&tasks);
        self.note_commits();
        let committed = tasks
            .iter()
            .map(|task| self.committed[*task])
            .min()
            .unwrap_or_default();
        let suspended = match self.coordinator.is_ending() {
            true => Ok(None),
            false => self
                .durable
                .suspended()
                .map(|kept| Some(Suspended { kept, committed })),
        };
        answer(
            &reply,
            suspended.or_else(|error| self.may_lead(error).map(|()| None)),
        );
        actions
    }

    /// Where nobody knows whether an entry of the log was written, the whole job has failed.
    fn may_lead(&self, error: Error) -> Result<()> {
        if self.durable.leads() {
            return Err(error);
        }
        self.controls.fail(error);
        Ok(())
    }

    fn resume(
        &mut self,
        Resume {
            checkpoint,
            mailboxes,
            ..
        }: Resume,
    ) -> Actions {
        for (task, mailbox) in mailboxes {
            self.mailboxes[task] = mailbox;
            (self.committed[task], self.dead_letters[task]) = (checkpoint, 0);
        }
        self.coordinator.resume()
    }

    fn carry_out(&mut self, action: Action<SubtaskSnapshot>) -> Result<Actions> {
        match action {
            Action::Trigger {
                checkpoint,
                purpose,
                tasks,
            } => self.trigger(checkpoint, purpose, &tasks),
            Action::Publish {
                checkpoint,
                purpose,
                snapshots,
            } => return self.publish(checkpoint, purpose, snapshots),
            Action::Complete {
                checkpoint,
                purpose,
            } => self.complete(checkpoint, purpose)?,
            Action::Abort {
                checkpoint,
                purpose,
                reason,
            } => self.abort(checkpoint, purpose, reason),
            Action::Stop => self.controls.fail(Control::cancelled()),
            Action::Fail { reason } | Action::RollBack { reason } => {
                return Err(Error::new(code::CHECKPOINT_FAILED, reason));
            }
            Action::Retire { checkpoint } => self.durable.retire(checkpoint)?,
            Action::Refuse { request, reason } => self
                .wishes
                .refuse(request, Error::new(code::CHECKPOINT_FAILED, reason)),
        }
        Ok(Vec::new())
    }

    fn trigger(&mut self, checkpoint: u64, purpose: Purpose, tasks: &[usize]) {
        self.statistics
            .begins(checkpoint, kind_name(purpose), self.durable.now_ms());
        match purpose {
            Purpose::Savepoint { request, .. } => {
                let store = self.wishes.begin_savepoint(request);
                self.stores().extend(store.map(|store| (checkpoint, store)));
            }
            Purpose::Upgrade { request } => self.hand_out(checkpoint, request),
            Purpose::Checkpoint | Purpose::Stop => {}
        }
        tasks
            .iter()
            .for_each(|task| self.mailboxes[*task].send(Command::Trigger(Barrier { checkpoint })));
    }

    /// Gives each task its code, before the barrier of an upgrade is anywhere.
    fn hand_out(&mut self, checkpoint: u64, request: u64) {
        let Some(mut swap) = self.wishes.begin_upgrade(request) else {
            return;
        };
        let code = std::mem::take(&mut swap.code);
        self.mailboxes
            .iter()
            .zip(code)
            .for_each(|(mailbox, code)| mailbox.put_code(checkpoint, code));
        self.upgrade = Some(swap);
    }

    fn stores(&self) -> MutexGuard<'_, BTreeMap<u64, Store>> {
        self.savepoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn abort(&mut self, checkpoint: u64, purpose: Purpose, reason: String) {
        self.tell_all(Command::Abort(checkpoint));
        self.stores().remove(&checkpoint);
        match purpose {
            // One that is made anew is asked for still.
            Purpose::Savepoint { request, .. } if !self.coordinator.holds(request) => {
                self.wishes
                    .refuse(request, Error::new(code::CHECKPOINT_FAILED, &*reason));
            }
            // Whoever waits for an upgrade hears of it when the job runs again.
            Purpose::Savepoint { .. } | Purpose::Upgrade { .. } => {}
            Purpose::Checkpoint | Purpose::Stop => self
                .durable
                .say(&format!("checkpoint {checkpoint} failed: {reason}")),
        }
        self.statistics
            .ends(checkpoint, CheckpointStatus::Failed { reason });
    }

    fn complete(&mut self, checkpoint: u64, purpose: Purpose) -> Result<()> {
        // It counts, whatever fails from here on.
        self.statistics
            .ends(checkpoint, CheckpointStatus::Published);
        self.stores().remove(&checkpoint);
        match (purpose, self.upgrade.take()) {
            (Purpose::Savepoint { request, .. }, _) => self.wishes.fulfil(request, checkpoint),
            (Purpose::Upgrade { .. }, Some(swap)) => {
                let pause = self.statistics.longest_pause(checkpoint);
                self.versions
                    .upgraded(self.durable.definition(), swap.version.before());
                answer(&swap.reply, Ok(Swapped { checkpoint, pause }));
            }
            _ => {}
        }
        failpoint("complete.before")?;
        if purpose.commits() {
            self.tell_all(Command::Complete(checkpoint));
        }
        Ok(())
    }

    fn publish(
        &mut self,
        checkpoint: u64,
        purpose: Purpose,
        snapshots: Vec<Option<SubtaskSnapshot>>,
    ) -> Result<Actions> {
        let of_task = |(snapshot, task): (Option<SubtaskSnapshot>, usize)| {
            snapshot.unwrap_or_else(|| self.finished(task))
        };
        let subtasks = snapshots.into_iter().zip(0..).map(of_task).collect();
        self.note_commits();
        match self.publish_as(checkpoint, purpose, subtasks) {
            Ok(()) => Ok(self.coordinator.published(checkpoint)),
            Err(error) if self.durable.leads() => Ok(self
                .coordinator
                .publish_failed(checkpoint, &error.with_causes())),
            Err(error) => Err(error),
        }
    }

    /// What a checkpoint holds of a task that is gone.
    fn finished(&self, task: usize) -> SubtaskSnapshot {
        let (vertex, subtask) = self.places[task];
        SubtaskSnapshot {
            dead_letters: self.dead_letters[task],
            ..SubtaskSnapshot::finished(vertex, subtask)
        }
    }

    /// Lets the next entry of the log say what all tasks have committed.
    fn note_commits(&mut self) {
        self.durable
            .commits_done(self.committed.iter().copied().min().unwrap_or_default());
    }

    /// A checkpoint of an upgrade is one of the new version, unless it cannot be published.
    fn publish_as(
        &mut self,
        checkpoint: u64,
        purpose: Purpose,
        subtasks: Vec<SubtaskSnapshot>,
    ) -> Result<()> {
        let (commits, drained) = (purpose.commits(), self.wishes.wants_drain());
        let savepoint = self.stores().get(&checkpoint).cloned();
        let CoordinatorThread {
            durable,
            upgrade,
            versions,
            ..
        } = self;
        match (purpose, upgrade) {
            (Purpose::Upgrade { .. }, Some(swap)) => {
                durable.exchange(&mut swap.version);
                let before = if durable.definition().probation().is_zero() {
                    Vec::new()
                } else {
                    swap.version.before().plugins
                };
                let snapshot = Publication {
                    checkpoint,
                    savepoint: None,
                    commits,
                    drained,
                    before,
                    subtasks,
                };
                durable
                    .publish(snapshot)
                    .inspect_err(|_| durable.exchange(&mut swap.version))
            }
            _ => {
                let before = if savepoint.is_some() {
                    Vec::new()
                } else {
                    versions.before()
                };
                durable.publish(Publication {
                    checkpoint,
                    savepoint,
                    commits,
                    drained,
                    before,
                    subtasks,
                })?;
                versions.published();
                Ok(())
            }
        }
    }

    fn tell_all(&self, command: Command) {
        self.mailboxes
            .iter()
            .for_each(|mailbox| mailbox.send(command));
    }
}

fn kind_name(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Checkpoint | Purpose::Stop => "checkpoint",
        Purpose::Upgrade { .. } => "upgrade",
        Purpose::Savepoint { .. } => "savepoint",
    }
}

/// What is written when the user has cancelled the job: its sinks were told, and what no checkpoint
/// names is withdrawn.
pub(crate) fn cancel(durable: &mut Durable) -> Result<()> {
    durable.withdraw()?;
    durable.append(Entry::Ended {
        state: EndState::Canceled,
    })
}

/// What is written when the job was stopped with a checkpoint, which its sinks have committed.
pub(crate) fn stopped(durable: &mut Durable) -> Result<()> {
    durable.append(Entry::Ended {
        state: EndState::Stopped,
    })
}

/// What is written when the job has ended by itself.
pub(crate) fn finish(durable: &mut Durable) -> Result<()> {
    failpoint("end.before-log")?;
    durable.append(Entry::Ended {
        state: EndState::Finished,
    })
}
