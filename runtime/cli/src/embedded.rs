//! Runs the jobs of a JobManager in its own process.
//!
//! What is deployed knows no current folder, which may be another one at the next start: whatever
//! names a file of this machine names it whole.

use crate::args::{Format, RunArgs};
use crate::ended::{EndedJob, EndedJobs};
use crate::job::{Job, Reader, check_grants, check_whole_paths, new_version};
use crate::running::{Running, files};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use streamrt_checkpoint::{EndState, History, Store};
use streamrt_graph::{JobFile, JobGraph, StreamGraph};
use streamrt_jobmanager::{
    Blobs, End, JobId, JobRunner, Outcome, RunningJob, Specification, Totals, Version, check_whole,
};
use streamrt_minicluster::{Ended, JobHandle, JobRemote, MiniCluster, Submission};
use streamrt_plugin::Engines;
use streamrt_taskmanager::Progress;
use streamrt_types::{Configuration, Error, Result, code, say};

/// What a job without `checkpoint.interval` has here.
const CHECKPOINT_INTERVAL: &str = "10s";

/// See the module.
pub struct Embedded {
    /// The folder of the JobManager.
    pub dir: PathBuf,
    pub cluster: MiniCluster,
    pub engines: Engines,
    pub ended: Arc<EndedJobs>,
}

/// A job that was read.
pub struct Prepared {
    reader: Reader,
    job: Job,
    n_slots: u32,
}

/// A job that runs.
pub struct Deployed {
    id: String,
    has_led: bool,
    pub running: Arc<Running>,
    ended: Arc<EndedJobs>,
    /// Taken by who waits for the end.
    handle: Mutex<Option<JobHandle>>,
}

impl Embedded {
    /// Where a job has its checkpoints if nobody says otherwise.
    fn checkpoint_dir(&self, id: &JobId) -> String {
        let folder = self.dir.join("checkpoints").join(id.as_str());
        folder.to_string_lossy().into_owned()
    }

    /// Where a job has its checkpoints.
    pub fn checkpoints_of(&self, id: &JobId, job: &Specification) -> String {
        const KEY: &str = "checkpoint.dir";
        let in_file = || {
            let file = JobFile::parse(job.version.job_file.as_deref()?).ok()?;
            let pair = file.configuration().find(|(key, _)| *key == KEY);
            pair.map(|(_, folder)| folder)
        };
        let named = job.configuration.get(KEY).cloned();
        named
            .or_else(in_file)
            .unwrap_or_else(|| self.checkpoint_dir(id))
    }

    fn reader(&self, id: &JobId, job: &Specification, blobs: &Blobs) -> Result<Reader> {
        let mut defaults = Configuration::default();
        defaults.set("checkpoint.dir", &self.checkpoint_dir(id))?;
        defaults.set("checkpoint.interval", CHECKPOINT_INTERVAL)?;
        Ok(Reader {
            args: args(job, &self.checkpoints_of(id, job))?,
            files: Arc::new(files(&job.version, |digest| blobs.get(digest))?),
            defaults,
            engines: self.engines.clone(),
            whole_paths: true,
        })
    }
}

/// The job as a command line would give it.
fn args(job: &Specification, checkpoint_dir: &str) -> Result<RunArgs> {
    let pair = |(key, value): (&String, &String)| (key.clone(), value.clone());
    let grant = |(name, folder): (&String, &String)| (name.clone(), PathBuf::from(folder));
    Ok(RunArgs {
        file: PathBuf::from(&job.version.file),
        name: Some(job.name.clone()),
        parallelism: job.parallelism,
        configuration: job.configuration.iter().map(pair).collect(),
        output: Format::Text,
        rest: None,
        from: from(job, checkpoint_dir)?,
        allow_non_restored_state: false,
        accept: None,
        allow_changed_arguments: false,
        grants: job.grants.iter().map(grant).collect(),
        allowed_paths: job.allowed_paths.iter().map(PathBuf::from).collect(),
        allowed_hosts: job.allowed_hosts.clone(),
        args: job.args.clone(),
    })
}

/// Whether a folder or bucket is the same from wherever it is named.
fn is_whole(folder: &str) -> bool {
    Path::new(folder).is_absolute() || folder.contains("://")
}

/// The snapshot that the job starts from, unless it has come further since.
fn from(job: &Specification, checkpoint_dir: &str) -> Result<Option<PathBuf>> {
    let Some(from) = &job.from else {
        return Ok(None);
    };
    let history = match is_whole(checkpoint_dir) {
        true => History::read(&Store::open(checkpoint_dir)?)?,
        false => History::default(),
    };
    let has_own = history
        .published
        .iter()
        .any(|published| published.location.is_none());
    Ok((!has_own).then(|| PathBuf::from(from)))
}

/// Refuses what another current folder would change the meaning of.
fn check_paths(job: &Job) -> Result<()> {
    check_whole_paths(&job.spec.nodes)?;
    let configuration = &job.configuration;
    let folders = [
        ("checkpoint.dir", &configuration.checkpoint_dir),
        ("poison.dead-letters", &configuration.dead_letters),
        ("state.dir", &configuration.state_dir),
    ];
    for (key, folder) in folders {
        folder
            .iter()
            .try_for_each(|folder| check_whole(folder, &format!("`{key}` is")))?;
    }
    job.grants.iter().try_for_each(|(name, folder)| {
        check_whole(&folder.to_string_lossy(), &format!("grant `{name}` is"))
    })
}

/// Refuses a snapshot that is not there, which would else be waited for as a disk that is away.
fn check_from(args: &RunArgs) -> Result<()> {
    let folder = args.from.as_deref().and_then(Path::to_str);
    let missing = folder.filter(|folder| !folder.contains("://") && !Path::new(folder).exists());
    missing.map_or(Ok(()), |folder| {
        let message = format!("`--from` names {folder}, which does not exist");
        Err(Error::new(code::BAD_ARGUMENTS, message))
    })
}

/// As many as the widest vertex has subtasks.
fn n_slots(job: &Job, parallelism: u32) -> Result<u32> {
    let graph = JobGraph::new(StreamGraph::new(&job.spec)?, parallelism);
    let widest = graph.vertices.iter().map(|vertex| vertex.parallelism);
    Ok(widest.max().unwrap_or(1))
}

impl JobRunner for Embedded {
    type Prepared = Prepared;
    type Job = Deployed;

    fn prepare(&self, id: &JobId, job: &Specification, blobs: &Blobs) -> Result<Prepared> {
        let reader = self.reader(id, job, blobs)?;
        check_from(&reader.args)?;
        let read = reader.read()?;
        check_paths(&read)?;
        check_grants(&read, &reader.args.grants)?;
        let n_slots = n_slots(&read, job.parallelism)?;
        Ok(Prepared {
            reader,
            job: read,
            n_slots,
        })
    }

    fn is_kept(&self, id: &JobId, job: &Specification, has_run: bool) -> Result<bool> {
        let folder = self.checkpoints_of(id, job);
        let is_kept = is_whole(&folder) && History::read(&Store::open(&folder)?)?.entries > 0;
        if is_kept || !has_run || !is_whole(&folder) {
            return Ok(is_kept);
        }
        let message = format!(
            "nothing is left of the job's checkpoints in {folder}, and from its beginning it would write its results once more"
        );
        Err(Error::new(code::SNAPSHOT_DAMAGED, message))
    }

    fn n_slots(&self, prepared: &Prepared) -> u32 {
        prepared.n_slots
    }

    fn start(&self, id: &JobId, prepared: Prepared) -> Result<Option<Deployed>> {
        let Prepared { reader, job, .. } = prepared;
        let configuration = job.configuration.clone();
        let load = new_version(&reader, &job);
        let origins = job.origins();
        let handle = match self.cluster.submit(job.to_run(&reader.args)?)? {
            Submission::Started(handle) => handle,
            Submission::Finished => return Ok(None),
        };
        if let Some((checkpoint, place)) = handle.resumed_from() {
            say!("streamrt: goes on from checkpoint {checkpoint} in {place}");
        }
        Ok(Some(Deployed {
            id: id.to_string(),
            has_led: handle.has_led(),
            running: Arc::new(Running::new(&handle, configuration, load, origins)),
            ended: self.ended.clone(),
            handle: Mutex::new(Some(handle)),
        }))
    }
}

fn totals(progress: &Progress) -> Totals {
    Totals {
        records_in: progress.records_in,
        records_out: progress.records_out,
        late_records: progress.late_records,
        dead_letters: progress.dead_letters,
        elapsed_ms: progress.elapsed.as_millis() as u64,
    }
}

fn end(ended: Result<Ended>, remote: &JobRemote) -> End {
    match ended {
        Ok(Ended {
            summary,
            stopped_at,
        }) => End {
            checkpoint: stopped_at,
            totals: Some(totals(&summary)),
            ..End::of(match stopped_at {
                Some(_) => EndState::Stopped,
                None => EndState::Finished,
            })
        },
        Err(error) => End {
            totals: Some(totals(&remote.progress())),
            ..match error.code() {
                code::JOB_CANCELLED => End::of(EndState::Canceled),
                _ => End::failed((&error).into()),
            }
        },
    }
}

impl RunningJob for Deployed {
    fn is_kept(&self) -> bool {
        self.has_led
    }

    fn on_end(&self, then: Box<dyn FnOnce(End) + Send>) {
        let handle = self
            .handle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match handle {
            None => {
                let twice = Error::internal("the end of a job was waited for twice");
                then(End::failed((&twice).into()));
            }
            Some(handle) => {
                let (id, jobs) = (self.id.clone(), self.ended.clone());
                let running = self.running.clone();
                handle.on_end(move |ended| {
                    jobs.keep(EndedJob {
                        details: running.details(id, String::new(), 0),
                        checkpoints: running.checkpoints(usize::MAX),
                    });
                    then(end(ended, &running.remote));
                });
            }
        }
    }

    fn stop(&self) {
        self.running.remote.stop();
    }

    fn cancel(&self) {
        self.running.remote.cancel();
    }

    fn drain(&self, folder: Option<&str>) -> Result<Option<u64>> {
        self.running.remote.drain(folder)
    }

    fn savepoint(&self, folder: &str, stop: bool) -> Result<u64> {
        self.running.remote.savepoint(folder, stop)
    }

    fn upgrade(&self, version: &Version, blobs: &Blobs) -> Result<Outcome> {
        self.running.upgrade(version, |digest| blobs.get(digest))
    }
}
