//! A job from submission to its end: attempts one after the other, as the restart strategy allows.
//!
//! Everything that can be refused is refused in [`submit`], before a thread runs or a file is
//! opened for writing.

use crate::checkpoints::Message;
use crate::control::{Control, Controls};
use crate::disks::{Disks, StateBackend};
use crate::durable::{self, Beginning, Kept};
use crate::factory::{self, Definition, LoadedPlugin};
use crate::job_state::JobState;
use crate::master::Master;
use crate::regions::Attempt;
use crate::restart::RestartStrategy;
use crate::statistics::{CheckpointReport, Statistics};
use crate::upgrade::Upgraded;
use crate::versions::{Before, Versions};
use crate::vertices::{VertexReport, vertices};
use crate::wishes::{Savepoint, When, Wish, Wishes};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use streamrt_checkpoint::{Request, Snapshot, Store};
use streamrt_connector::{JobTraits, remarks};
use streamrt_graph::{ExecutionGraph, JobGraph, JobSpec, StreamGraph};
use streamrt_operator::TaskMetrics;
use streamrt_plugin::Grants;
use streamrt_types::{
    Configuration, Error, Result, SystemClock, WATERMARK_MIN, code, default_max_parallelism,
    inheriting, say,
};

/// How often one who waits for the next attempt looks whether there is to be one.
const LOOK: Duration = Duration::from_millis(10);

/// A job that runs.
pub struct JobHandle {
    shared: Arc<Shared>,
    thread: JoinHandle<Result<Option<u64>>>,
    start: Instant,
    bounded: bool,
    remarks: Vec<String>,
    resumed: Option<(u64, String)>,
}

/// What came of a submission.
pub enum Submission {
    Started(JobHandle),
    /// The job in `checkpoint.dir` has finished already: nothing runs.
    Finished,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    pub summary: Summary,
    /// The checkpoint at which it was stopped, from which the same command goes on.
    pub stopped_at: Option<u64>,
}

/// What the handle sees of the attempt that runs.
pub(crate) struct Shared {
    current: Mutex<Current>,
    pub versions: Arc<Versions>,
    pub wishes: Arc<Wishes>,
    /// Held while a job is replaced: one version after the other.
    pub upgrading: Mutex<()>,
    pub statistics: Statistics,
}

#[derive(Default)]
pub(crate) struct Current {
    /// As far as attempts know.
    pub state: JobState,
    pub controls: Arc<Controls>,
    pub metrics: JobMetrics,
    /// To the coordinator, in a job with checkpoints.
    pub messages: Option<Sender<Message>>,
}

/// The counters of a job's tasks.
#[derive(Default)]
pub(crate) struct JobMetrics {
    pub regions: Vec<RegionMetrics>,
    /// Of earlier attempts, up to the checkpoint that this one goes on from.
    pub dead_letters_before: u64,
}

/// The counters of a region's tasks, by what they are good for.
#[derive(Default)]
pub(crate) struct RegionMetrics {
    pub sources: Vec<Arc<TaskMetrics>>,
    /// One for each sink operator.
    pub sinks: Vec<Arc<TaskMetrics>>,
    pub tasks: Vec<Arc<TaskMetrics>>,
}

impl JobMetrics {
    fn sum(&self, of: impl Fn(&RegionMetrics) -> u64) -> u64 {
        self.regions.iter().map(of).sum()
    }
}

impl RegionMetrics {
    fn sum_of_all(&self, of: impl Fn(&TaskMetrics) -> &AtomicU64) -> u64 {
        sum(&self.tasks, &of) + sum(&self.sinks, &of)
    }
}

fn sum(metrics: &[Arc<TaskMetrics>], of: impl Fn(&TaskMetrics) -> &AtomicU64) -> u64 {
    metrics
        .iter()
        .map(|metrics| of(metrics).load(Ordering::Relaxed))
        .sum()
}

/// A look at a running job. What is counted is counted since it was started last.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// Records that sources have read.
    pub records_in: u64,
    /// Records that sinks have got.
    pub records_out: u64,
    /// The smallest watermark of the tasks, in ms; `None` where there is none yet.
    pub watermark: Option<i64>,
    /// The share of time, 0 to 1, that the slowest source task has waited for room so far.
    pub back_pressure: f64,
    pub late_records: u64,
    pub dead_letters: u64,
    /// Of earlier starts of the job, up to the checkpoint that this one goes on from.
    pub dead_letters_before: u64,
    /// Event-time timers that firings at the end of the input registered: they do not fire.
    pub dropped_timers: u64,
    /// One of them, in words.
    pub dropped_timer: Option<String>,
    /// Windows and timers of processing time that were not due at the end of the input.
    pub dropped_at_end: u64,
    pub elapsed: Duration,
}

/// What the last snapshots of a job's tasks cost them: the most of any task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SnapshotTimes {
    /// Snapshots that the task with the most of them has taken.
    pub taken: u64,
    /// From the first barrier to the last.
    pub alignment: Duration,
    /// On the task's thread.
    pub sync: Duration,
}

/// What a job has done, at its end. Counters are those of the last attempt.
pub type Summary = Progress;

/// What [`submit`] runs.
pub struct JobToRun {
    pub job: JobSpec,
    /// Those that the functions of `job` name by index.
    pub plugins: Vec<LoadedPlugin>,
    pub configuration: Configuration,
    /// Of operators that name none.
    pub parallelism: u32,
    /// A savepoint or checkpoint to start from, of this job or of one like it.
    pub from: Option<String>,
    /// What `state.backend` asks for; None: memory.
    pub state: Option<StateBackend>,
    /// Folders for sinks that ask for them.
    pub grants: Grants,
    /// If the job goes on with an upgrade that is in its probation: the version before.
    pub before: Option<(JobSpec, Vec<LoadedPlugin>)>,
}

/// Starts a job, or goes on with it from the newest checkpoint in `checkpoint.dir`. A server that
/// is away is waited for as the restart strategy says, in a job with checkpoints.
///
/// # Errors
/// `Invalid` if the job or its configuration is wrong, or `checkpoint.dir` is another job's;
/// `Unavailable` if a file or server that it names is missing, `UserCode` if a plugin cannot be
/// started, `Data` if a checkpoint is damaged. Nothing runs then.
pub fn submit(submitted: JobToRun) -> Result<Submission> {
    let JobToRun {
        job,
        plugins,
        configuration,
        parallelism,
        from,
        grants,
        state,
        before,
    } = submitted;
    // A job that went on from a folder and wrote nothing into it would write its results once more
    // at the next start.
    if configuration.checkpoint_interval_ms.is_some() != configuration.checkpoint_dir.is_some() {
        return Err(Error::new(
            code::BAD_OPTION,
            "`checkpoint.dir` and `checkpoint.interval` are given together, or neither is",
        ));
    }
    let kept = durable::look(&configuration, from.as_deref())?;
    let disks = state
        .filter(|_| !kept.finished)
        .map(|state| Disks::new(state, &configuration).map(Arc::new))
        .transpose()?;
    let kept_max = kept
        .snapshot
        .as_ref()
        .map(|snapshot| snapshot.manifest().max_parallelism);
    let definition = Arc::new(define(
        job,
        plugins,
        grants,
        Arc::new(configuration),
        parallelism,
        kept_max,
        disks,
    )?);
    if kept.finished {
        return kept.check_same(&definition).map(|()| Submission::Finished);
    }
    let before = before
        .zip(kept.snapshot.as_ref())
        .map(|(before, snapshot)| version_before(&definition, before, snapshot))
        .transpose()?;
    let has_checkpoint = kept.snapshot.is_some();
    let bounded = definition
        .sources
        .iter()
        .flatten()
        .all(|source| source.bounded());
    let traits = JobTraits {
        has_checkpoints: definition.configuration.checkpoint_interval_ms.is_some(),
        is_bounded: bounded,
    };
    let remarks = remarks(
        definition
            .graph
            .stream
            .nodes
            .iter()
            .map(|node| (&*node.uid, &node.body)),
        traits,
    )?;
    let shared = Arc::new(Shared::new(definition.clone()));
    match before {
        Some(before) => shared.versions.go_on_in_probation(before),
        None if kept.is_upgraded(&definition) => shared.versions.go_on_upgraded(),
        None => {}
    }
    let strategy = RestartStrategy::new(&definition.configuration);
    let (first, resumed) = match start_first(&definition, kept, from.as_deref(), &shared) {
        Ok(None) => return Ok(Submission::Finished),
        Ok(Some((first, resumed))) => (Ok(first), resumed),
        // By now nothing can be wrong with the job that would not be found again.
        Err(error)
            if definition.configuration.checkpoint_interval_ms.is_some()
                && strategy.may_try_again(&error) =>
        {
            (Err(error), None)
        }
        Err(error) => return Err(error),
    };
    let master = Master {
        from,
        shared: shared.clone(),
        strategy,
        start: Instant::now(),
        has_checkpoint,
        goes_back: false,
        interrupted: false,
    };
    let disks = definition.disks.clone();
    let wishes = shared.wishes.clone();
    let run = move || {
        let was_cancelled =
            |error: &Error| error.code() == code::CANCELLED && wishes.wants_cancel();
        let cancelled = |error| {
            if was_cancelled(&error) {
                Error::new(code::JOB_CANCELLED, "the job was cancelled")
            } else {
                error
            }
        };
        let ended = master.run(first).map_err(cancelled);
        wishes.close();
        disks.iter().for_each(|disks| disks.remove());
        ended
    };
    let no_thread = |e| Error::internal("no thread could be started for the job").with_source(e);
    let thread = std::thread::Builder::new()
        .name("job".into())
        .spawn(inheriting(run))
        .map_err(no_thread)?;
    Ok(Submission::Started(JobHandle {
        shared,
        thread,
        start: Instant::now(),
        bounded,
        resumed,
        remarks,
    }))
}

/// The first attempt, and the checkpoint that it goes on from; `None` if the job has finished.
fn start_first(
    definition: &Arc<Definition>,
    kept: Kept,
    from: Option<&str>,
    shared: &Shared,
) -> Result<Option<(Attempt, Option<(u64, String)>)>> {
    let Some(beginning) = durable::begin(definition, kept, from, &shared.wishes)? else {
        return Ok(None);
    };
    let Beginning {
        durable,
        restored,
        resumed,
        drained,
    } = beginning;
    shared.go_on_draining(drained);
    Ok(Some((
        Attempt::start(definition, durable, &restored, shared)?,
        resumed,
    )))
}

/// The version before an upgrade that was in its probation when this snapshot was made.
fn version_before(
    running: &Definition,
    (job, plugins): (JobSpec, Vec<LoadedPlugin>),
    snapshot: &Snapshot,
) -> Result<Before> {
    let Definition {
        grants,
        configuration,
        parallelism,
        max_parallelism,
        disks,
        ..
    } = running;
    let (grants, configuration, disks) = (grants.clone(), configuration.clone(), disks.clone());
    let definition = Arc::new(define(
        job,
        plugins,
        grants,
        configuration,
        *parallelism,
        Some(*max_parallelism),
        disks,
    )?);
    Ok(Before {
        definition,
        plugins: snapshot.manifest().before.clone(),
        newer_published: true,
    })
}

/// `kept_max` is the max parallelism of the snapshot that the job goes on from.
pub(crate) fn define(
    job: JobSpec,
    plugins: Vec<LoadedPlugin>,
    grants: Grants,
    configuration: Arc<Configuration>,
    parallelism: u32,
    kept_max: Option<u32>,
    disks: Option<Arc<Disks>>,
) -> Result<Definition> {
    let graph = JobGraph::new(StreamGraph::new(&job)?, parallelism);
    graph.check_size(parallelism.max(configuration.max_parallelism.unwrap_or(1)))?;
    factory::check_grants(&graph, &grants)?;
    let max_parallelism = max_parallelism(&graph, configuration.max_parallelism, kept_max)?;
    Ok(Definition {
        spec: job,
        parallelism,
        execution: ExecutionGraph::new(&graph),
        sources: factory::sources(&graph)?,
        graph,
        plugins,
        grants,
        configuration,
        max_parallelism,
        clock: SystemClock::shared(),
        disks,
    })
}

/// That of the snapshot, else what the user wants, else what follows from the parallelism.
fn max_parallelism(graph: &JobGraph, wanted: Option<u32>, kept: Option<u32>) -> Result<u32> {
    let refuse = |message: String| Err(Error::new(code::BAD_OPTION, message));
    let widest = graph
        .vertices
        .iter()
        .map(|vertex| vertex.parallelism)
        .max()
        .unwrap_or(1);
    if let Some((wanted, kept)) = wanted.zip(kept).filter(|(wanted, kept)| wanted != kept) {
        return refuse(format!(
            "max-parallelism is {wanted}, but the snapshot was made with {kept}, and its keys stay where they are"
        ));
    }
    let max = kept
        .or(wanted)
        .unwrap_or_else(|| default_max_parallelism(widest));
    if widest > max {
        refuse(format!(
            "parallelism {widest} is more than the max parallelism {max}"
        ))
    } else {
        Ok(max)
    }
}

impl Shared {
    fn new(definition: Arc<Definition>) -> Shared {
        Shared {
            current: Mutex::default(),
            versions: Arc::new(Versions::new(definition)),
            wishes: Arc::default(),
            upgrading: Mutex::default(),
            statistics: Statistics::default(),
        }
    }

    /// The version that runs.
    pub fn definition(&self) -> Arc<Definition> {
        self.versions.running()
    }

    pub fn messages(&self) -> Result<Sender<Message>> {
        let has_checkpoints = self
            .definition()
            .configuration
            .checkpoint_interval_ms
            .is_some();
        let none = || match has_checkpoints {
            true => Error::new(
                code::CHECKPOINT_FAILED,
                "the job has not started yet: what it needs is away",
            ),
            false => Error::new(
                code::BAD_OPTION,
                "the job runs without checkpoints: give it checkpoint.dir and checkpoint.interval",
            ),
        };
        self.current().messages.clone().ok_or_else(none)
    }

    pub fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self, elapsed: Duration) -> Progress {
        let current = self.current();
        let metrics = &current.metrics;
        let sources = metrics.regions.iter().flat_map(|region| &region.sources);
        let sinks = metrics.regions.iter().flat_map(|region| &region.sinks);
        let blocked = sources
            .map(|metrics| metrics.back_pressured_ns.load(Ordering::Relaxed))
            .max()
            .unwrap_or(0);
        let watermarks = sinks.map(|metrics| metrics.watermark.load(Ordering::Relaxed));
        Progress {
            records_in: metrics.sum(|region| sum(&region.sources, |metrics| &metrics.records_in)),
            records_out: metrics.sum(|region| sum(&region.sinks, |metrics| &metrics.records_in)),
            watermark: watermarks
                .min()
                .filter(|watermark| *watermark != WATERMARK_MIN),
            back_pressure: (blocked as f64 / elapsed.as_nanos().max(1) as f64).min(1.0),
            late_records: metrics.sum(|region| region.sum_of_all(|metrics| &metrics.late_records)),
            dropped_at_end: metrics
                .sum(|region| region.sum_of_all(|metrics| &metrics.dropped_at_end)),
            dead_letters_before: metrics.dead_letters_before,
            dead_letters: metrics.sum(|region| region.sum_of_all(|metrics| &metrics.dead_letters)),
            dropped_timers: metrics
                .sum(|region| region.sum_of_all(|metrics| &metrics.dropped_timers)),
            dropped_timer: metrics
                .regions
                .iter()
                .flat_map(|region| &region.tasks)
                .find_map(|task| task.first_dropped_timer.get().cloned()),
            elapsed,
        }
    }

    fn snapshot_times(&self) -> SnapshotTimes {
        let current = self.current();
        let most = |of: fn(&TaskMetrics) -> &AtomicU64| {
            current
                .metrics
                .regions
                .iter()
                .flat_map(|region| &region.tasks)
                .map(|metrics| of(metrics).load(Ordering::Relaxed))
                .max()
                .unwrap_or(0)
        };
        SnapshotTimes {
            taken: most(|metrics| &metrics.checkpoints),
            alignment: Duration::from_nanos(most(|metrics| &metrics.alignment_ns)),
            sync: Duration::from_nanos(most(|metrics| &metrics.sync_ns)),
        }
    }

    /// Makes a savepoint, and waits for it, however often the job fails meanwhile.
    fn savepoint(&self, folder: &str, when: When) -> Result<u64> {
        // A job without checkpoints has no use for the folder, which opening it would make.
        self.messages()?;
        let (reply, answer) = channel();
        let wish = Wish::Savepoint(Savepoint::new(savepoint_store(folder)?, when, reply));
        if when == When::AtEnd {
            self.wishes.drain();
        }
        let current = self.current();
        // Under the lock: an attempt that begins asks for what it finds, and is not asked twice.
        if let Some((request, messages)) = self.wishes.add(wish).zip(current.messages.as_ref()) {
            // A coordinator that is gone has a successor, or the job is over.
            drop(messages.send(Message::Asked(request)));
        }
        current.controls.wake();
        drop(current);
        answer
            .recv()
            .map_err(|_| Error::internal("a savepoint was asked for, and nobody answered"))?
    }

    /// What the job goes on from may say that it was being drained.
    pub fn go_on_draining(&self, drained: bool) {
        if drained && !self.wishes.wants_drain() {
            say!(
                "streamrt: the job was being drained: it ends with what it had read, and reads nothing more"
            );
            self.wishes.drain();
        }
    }

    fn state(&self) -> JobState {
        let state = self.current().state;
        match () {
            () if self.wishes.wants_cancel() => JobState::Cancelling,
            () if state == JobState::Running
                && (self.wishes.wants_stop() || self.wishes.wants_drain()) =>
            {
                JobState::Stopping
            }
            () => state,
        }
    }

    /// Waits for the next attempt; not longer than the user wants the job to run. `has_checkpoint`:
    /// there is one to go on from.
    pub fn pause(&self, delay: Duration, has_checkpoint: bool) {
        let began = Instant::now();
        while began.elapsed() < delay && !self.wishes.forbid_restart(has_checkpoint) {
            std::thread::sleep(LOOK.min(delay));
        }
    }

    /// An attempt begins: it is asked for what users wanted before it. Under one lock, so that it
    /// is not asked twice for what is added now.
    pub fn begin(&self, attempt: Current) {
        let mut current = self.current();
        *current = attempt;
        if self.wishes.wants_cancel() {
            current.controls.fail(Control::cancelled());
        }
        for request in self.wishes.requests() {
            current
                .messages
                .iter()
                .for_each(|messages| drop(messages.send(Message::Asked(request))));
        }
    }

    /// Lets the attempt that runs end: with a checkpoint, where there are any.
    fn stop(&self) {
        self.wishes.stop();
        let current = self.current();
        match &current.messages {
            // A coordinator that is gone has nothing to stop any more.
            Some(messages) => drop(messages.send(Message::Asked(Request::Stop))),
            None => current.controls.wake(),
        }
    }
}

/// A new folder for a savepoint.
fn savepoint_store(folder: &str) -> Result<Store> {
    let store = Store::open(folder)?;
    match store.list("")?.first() {
        None => Ok(store),
        Some((path, _)) => Err(Error::new(
            code::BAD_OPTION,
            format!("{folder} is not empty: it holds {path}; a savepoint gets a folder of its own"),
        )),
    }
}

/// Commands to a running job, from any thread.
#[derive(Clone)]
pub struct JobRemote {
    shared: Arc<Shared>,
    start: Instant,
}

impl JobRemote {
    pub fn progress(&self) -> Progress {
        self.shared.progress(self.start.elapsed())
    }

    pub fn state(&self) -> JobState {
        self.shared.state()
    }

    /// That of operators that name none themselves.
    pub fn parallelism(&self) -> u32 {
        self.shared.definition().parallelism
    }

    pub fn max_parallelism(&self) -> u32 {
        self.shared.definition().max_parallelism
    }

    /// The vertices, senders before their receivers, with what their subtasks have counted.
    pub fn vertices(&self) -> Vec<VertexReport> {
        vertices(&self.shared.definition(), &self.shared.current().metrics)
    }

    /// As [`JobHandle::checkpoints`].
    pub fn checkpoints(&self, n: usize) -> Vec<CheckpointReport> {
        self.shared.statistics.last(n)
    }

    /// As [`JobHandle::stop`].
    pub fn stop(&self) {
        self.shared.stop();
    }

    /// Ends the job at once: what is not committed is withdrawn.
    pub fn cancel(&self) {
        self.shared.wishes.cancel();
        self.shared.current().controls.fail(Control::cancelled());
    }

    /// As [`JobHandle::savepoint`].
    ///
    /// # Errors
    /// As there.
    pub fn savepoint(&self, folder: &str, stop: bool) -> Result<u64> {
        self.shared
            .savepoint(folder, if stop { When::WithStop } else { When::Now })
    }

    /// Ends the sources as if their input had ended: the final watermark fires all windows and
    /// event-time timers. With `folder`, a savepoint is made there when all tasks have ended.
    ///
    /// # Errors
    /// As [`JobHandle::savepoint`].
    pub fn drain(&self, folder: Option<&str>) -> Result<Option<u64>> {
        match folder {
            Some(folder) => self.shared.savepoint(folder, When::AtEnd).map(Some),
            None => {
                self.shared.wishes.drain();
                self.shared.current().controls.wake();
                Ok(None)
            }
        }
    }

    /// Replaces the job by a new version, and waits until that runs. If only code has changed, the
    /// tasks take it behind the barrier of one checkpoint, and everything else stays as it is; else
    /// the old version stops with a checkpoint, from which the new one goes on.
    ///
    /// # Errors
    /// S7011 if an operator cannot keep its state, whatever is wrong with the new version, S7009 if
    /// the checkpoint failed or the job ended meanwhile. The old version then runs on, from the
    /// checkpoint before if tasks had taken the new code already.
    pub fn upgrade(&self, job: JobSpec, plugins: Vec<LoadedPlugin>) -> Result<Upgraded> {
        self.shared.upgrade(job, plugins)
    }
}

impl JobHandle {
    /// What the last `n` checkpoints cost, the newest last.
    pub fn checkpoints(&self, n: usize) -> Vec<CheckpointReport> {
        self.shared.statistics.last(n)
    }

    /// What a user should know of the job's sources and sinks before it runs, a line each.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// Whether the job ends by itself.
    pub fn is_bounded(&self) -> bool {
        self.bounded
    }

    /// The checkpoint that the job goes on from, and the folder or prefix in which it stands.
    pub fn resumed_from(&self) -> Option<(u64, &str)> {
        self.resumed
            .as_ref()
            .map(|(checkpoint, place)| (*checkpoint, place.as_str()))
    }

    /// Ends the job. Without checkpoints the sources end, what is in flight is finished, and sinks
    /// make visible what they have. With them, a last checkpoint is made and committed, from which
    /// the job can go on. There is no final watermark: open windows and timers do not fire.
    pub fn stop(&self) {
        self.shared.stop();
    }

    /// Makes a savepoint in `folder`, and waits for it; with `stop`, the job ends with it. Returns
    /// the number of the savepoint.
    ///
    /// # Errors
    /// `Invalid` if the job has no checkpoints or the folder holds a snapshot already; S7009 with
    /// the reason if the savepoint failed.
    pub fn savepoint(&self, folder: &str, stop: bool) -> Result<u64> {
        self.shared
            .savepoint(folder, if stop { When::WithStop } else { When::Now })
    }

    /// What a thread beside the one that waits can do with the job.
    pub fn remote(&self) -> JobRemote {
        JobRemote {
            shared: self.shared.clone(),
            start: self.start,
        }
    }

    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    pub fn progress(&self) -> Progress {
        self.shared.progress(self.start.elapsed())
    }

    /// Of the attempt that runs; zeros before its first checkpoint.
    pub fn snapshot_times(&self) -> SnapshotTimes {
        self.shared.snapshot_times()
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// The error that ended the last attempt.
    pub fn wait(self) -> Result<Ended> {
        let stopped_at = self
            .thread
            .join()
            .map_err(|_| Error::internal("the job's thread panicked"))??;
        Ok(Ended {
            summary: self.shared.progress(self.start.elapsed()),
            stopped_at,
        })
    }
}
