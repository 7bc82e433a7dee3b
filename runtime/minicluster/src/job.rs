//! A job from submission to its end.

use crate::plugins::{KnownPlugins, LoadedPlugin};
use crate::wire::pass;
use std::sync::Arc;
use std::time::Instant;
use streamrt_checkpoint::unique_token;
use streamrt_graph::JobSpec;
use streamrt_jobmanager::job_master::{
    Accepted, Ask, CheckpointReport, Failures, Granted, JobMaster, JobState, JobStore, Outcome,
    Seams, Submission as Submitted, Upgraded, When,
};
use streamrt_plugin::Grants;
use streamrt_rpc::JobPlan;
use streamrt_taskmanager::{
    JobTasks, Progress, SnapshotTimes, StateBackend, Surroundings, VertexReport,
};
use streamrt_types::{Configuration, Error, Result, SystemClock, Workers};

/// Threads that write snapshots, and as many that write logs and manifests.
const WORKERS_MAX: usize = 8;

/// What [`MiniCluster::submit`] runs.
pub struct JobToRun {
    pub job: JobSpec,
    /// Those that the functions of `job` name by index.
    pub plugins: Vec<LoadedPlugin>,
    pub configuration: Configuration,
    /// The parallelism of operators that name none.
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

/// What came of a submission.
pub enum Submission {
    Started(JobHandle),
    /// The job in `checkpoint.dir` has finished already: nothing runs.
    Finished,
}

/// What a job has done, at its end. Counters are those of the last attempt.
pub type Summary = Progress;

/// How a job ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    pub summary: Summary,
    /// The checkpoint at which it was stopped, from which the same command goes on.
    pub stopped_at: Option<u64>,
}

/// A job that runs.
pub struct JobHandle {
    remote: JobRemote,
    remarks: Vec<String>,
    has_led: bool,
    resumed: Option<(u64, String)>,
    bounded: bool,
}

/// Commands to a running job, from any thread.
#[derive(Clone)]
pub struct JobRemote {
    master: JobMaster,
    tasks: JobTasks,
    plugins: KnownPlugins,
    /// What a new version has in common with the first one.
    template: Arc<JobPlan>,
    start: Instant,
}

/// What the jobs of a process share: threads that work for all of them. Clones are the same one.
#[derive(Clone)]
pub struct MiniCluster {
    uploads: Workers,
    stores: Workers,
}

impl Default for MiniCluster {
    fn default() -> MiniCluster {
        MiniCluster {
            uploads: Workers::new("uploads", WORKERS_MAX),
            stores: Workers::new("stores", WORKERS_MAX),
        }
    }
}

impl MiniCluster {
    /// Starts a job, or goes on with it from the newest checkpoint in `checkpoint.dir`. A server that is
    /// away is waited for as the restart strategy says, in a job with checkpoints.
    ///
    /// # Errors
    /// `Invalid` if the job or its configuration is wrong, or `checkpoint.dir` is another job's;
    /// `Unavailable` if a file or server that it names is missing, `UserCode` if a plugin cannot be
    /// started, `Data` if a checkpoint is damaged. Nothing runs then.
    pub fn submit(&self, submitted: JobToRun) -> Result<Submission> {
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
        let known = KnownPlugins::default();
        let approvals = plugins.iter().find_map(|plugin| plugin.approvals.clone());
        let dir = configuration.checkpoint_dir.clone();
        let plan = JobPlan {
            spec: job,
            components: known.add(plugins),
            configuration: Arc::new(configuration),
            parallelism,
            max_parallelism: 0,
            grants: grants.places(),
        };
        let template = Arc::new(plan.clone());
        let before = before.map(|(job, plugins)| version(&template, &known, job, plugins));
        let (line, inbox) = JobMaster::line();
        let tasks = {
            let (line, known) = (line.clone(), known.clone());
            let surroundings = Surroundings {
                plugins: Arc::new(move |named| Ok(known.plugin(&named.digest)?.plugin)),
                grants,
                clock: SystemClock::shared(),
                state,
                uploads: self.uploads.clone(),
            };
            JobTasks::new(surroundings, Arc::new(move |told| line.tell(pass(told))))
        };
        let components = {
            let known = known.clone();
            Arc::new(move |digest: &str| Ok(known.plugin(digest)?.plugin.bytes().clone()))
        };
        let gateway = tasks.clone();
        let seams = Seams {
            clock: SystemClock::shared(),
            tokens: Box::new(unique_token),
            store: JobStore::new(dir.as_deref(), components, approvals)?,
            store_workers: self.stores.clone(),
            gateway: Box::new(move |message| gateway.take(pass(message))),
        };
        let submission = Submitted { plan, from, before };
        let start = Instant::now();
        let master = JobMaster::start(submission, (line, inbox), seams)?;
        let Some(Accepted { has_led }) = master.accepted()? else {
            return Ok(Submission::Finished);
        };
        let opened = master.opened();
        Ok(Submission::Started(JobHandle {
            has_led,
            resumed: master.resumed(),
            remarks: opened.remarks,
            bounded: opened.is_bounded,
            remote: JobRemote {
                master,
                tasks,
                plugins: known,
                template,
                start,
            },
        }))
    }
}

/// A version of the job with other code, or another graph.
fn version(
    template: &JobPlan,
    known: &KnownPlugins,
    job: JobSpec,
    plugins: Vec<LoadedPlugin>,
) -> JobPlan {
    JobPlan {
        spec: job,
        components: known.add(plugins),
        ..template.clone()
    }
}

impl JobRemote {
    pub fn progress(&self) -> Progress {
        self.tasks.progress(self.start.elapsed())
    }

    pub fn state(&self) -> JobState {
        self.master.state()
    }

    /// The parallelism of operators that name none themselves.
    pub fn parallelism(&self) -> u32 {
        self.template.parallelism
    }

    pub fn max_parallelism(&self) -> u32 {
        self.master.version().plan.max_parallelism
    }

    /// The vertices, senders before their receivers, with what their subtasks have counted.
    pub fn vertices(&self) -> Vec<VertexReport> {
        self.tasks.vertices()
    }

    /// What has made the job start again.
    pub fn failures(&self) -> Failures {
        self.master.failures()
    }

    /// What the last `n` checkpoints cost, the newest last.
    pub fn checkpoints(&self, n: usize) -> Vec<CheckpointReport> {
        self.master.checkpoints(n)
    }

    /// Ends the job. Without checkpoints the sources end, what is in flight is finished, and sinks
    /// make visible what they have. With them, a last checkpoint is made and committed, from which
    /// the job can go on. There is no final watermark: open windows and timers do not fire.
    pub fn stop(&self) {
        // A job that is over needs no stop.
        let _ = self.master.ask(Ask::Stop);
    }

    /// Ends the job at once: what is not committed is withdrawn.
    pub fn cancel(&self) {
        let _ = self.master.ask(Ask::Cancel);
    }

    /// Makes a savepoint in `folder`, and waits for it, however often the job fails meanwhile; with
    /// `stop`, the job ends with it. Returns the number of the savepoint.
    ///
    /// # Errors
    /// `Invalid` if the job has no checkpoints or the folder holds a snapshot already; S7009 with
    /// the reason if the savepoint failed.
    pub fn savepoint(&self, folder: &str, stop: bool) -> Result<u64> {
        let when = if stop { When::WithStop } else { When::Now };
        self.savepoint_when(folder, when)
    }

    fn savepoint_when(&self, folder: &str, when: When) -> Result<u64> {
        let location = folder.to_owned();
        match self.master.ask(Ask::Savepoint { location, when })? {
            Granted::Savepoint { checkpoint } => Ok(checkpoint),
            _ => Err(Error::internal(
                "a savepoint was answered with something else",
            )),
        }
    }

    /// Ends the sources as if their input had ended: the final watermark fires all windows and
    /// event-time timers. With `folder`, a savepoint is made there when all tasks have ended.
    ///
    /// # Errors
    /// The same as for [`JobRemote::savepoint`].
    pub fn drain(&self, folder: Option<&str>) -> Result<Option<u64>> {
        match folder {
            Some(folder) => self.savepoint_when(folder, When::AtEnd).map(Some),
            None => {
                let _ = self.master.ask(Ask::Drain);
                Ok(None)
            }
        }
    }

    /// Replaces the job by a new version, and waits until that runs. If only code has changed, the
    /// tasks take it after the barrier of one checkpoint, and everything else stays as it is; else
    /// the old version stops with a checkpoint, from which the new one goes on.
    ///
    /// # Errors
    /// S7011 if an operator cannot keep its state, whatever is wrong with the new version, S7009 if
    /// the checkpoint failed or the job ended meanwhile. The old version then runs on, from the
    /// checkpoint before if tasks had taken the new code already.
    pub fn upgrade(&self, job: JobSpec, plugins: Vec<LoadedPlugin>) -> Result<Upgraded> {
        let plan = Box::new(version(&self.template, &self.plugins, job, plugins));
        match self.master.ask(Ask::Upgrade { plan })? {
            Granted::Upgraded(upgraded) => Ok(upgraded),
            _ => Err(Error::internal(
                "an upgrade was answered with something else",
            )),
        }
    }
}

impl JobRemote {
    fn ended(&self, outcome: Result<Outcome>) -> Result<Ended> {
        self.tasks.remove_disks();
        let stopped_at = match outcome? {
            Outcome::Stopped { checkpoint } => Some(checkpoint),
            Outcome::Finished | Outcome::FinishedBefore => None,
        };
        Ok(Ended {
            summary: self.progress(),
            stopped_at,
        })
    }
}

impl JobHandle {
    /// What a thread beside the one that waits can do with the job.
    pub fn remote(&self) -> JobRemote {
        self.remote.clone()
    }

    /// The same as [`JobRemote::checkpoints`].
    pub fn checkpoints(&self, n: usize) -> Vec<CheckpointReport> {
        self.remote.checkpoints(n)
    }

    /// What a user should know of the job's sources and sinks before it runs, one line each.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// Whether the job ends by itself.
    pub fn is_bounded(&self) -> bool {
        self.bounded
    }

    /// Whether the next start goes on from this one: something of it is kept already.
    pub fn has_led(&self) -> bool {
        self.has_led
    }

    /// The checkpoint that the job goes on from, and the folder or prefix in which it stands.
    pub fn resumed_from(&self) -> Option<(u64, &str)> {
        let resumed = self.resumed.as_ref();
        resumed.map(|(checkpoint, place)| (*checkpoint, place.as_str()))
    }

    /// The same as [`JobRemote::stop`].
    pub fn stop(&self) {
        self.remote.stop();
    }

    /// The same as [`JobRemote::savepoint`].
    ///
    /// # Errors
    /// The same as for [`JobRemote::savepoint`].
    pub fn savepoint(&self, folder: &str, stop: bool) -> Result<u64> {
        self.remote.savepoint(folder, stop)
    }

    pub fn is_finished(&self) -> bool {
        self.remote.master.is_over()
    }

    pub fn progress(&self) -> Progress {
        self.remote.progress()
    }

    /// The costs in the current attempt; zeros before its first checkpoint.
    pub fn snapshot_times(&self) -> SnapshotTimes {
        self.remote.tasks.snapshot_times()
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// The error that ended the last attempt.
    pub fn wait(self) -> Result<Ended> {
        self.remote.ended(self.remote.master.join())
    }

    /// Lets `then` be called with what [`JobHandle::wait`] returns, on a thread of the job.
    pub fn on_end(self, then: impl FnOnce(Result<Ended>) + Send + 'static) {
        let remote = self.remote.clone();
        let ended = move |outcome| then(remote.ended(outcome));
        self.remote.master.on_end(ended);
    }
}
