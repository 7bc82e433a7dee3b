//! The durable side of a job, for its JobMaster: what the log says, manifests, and the components
//! that are kept beside them. Requests are carried out one after the other, and each is answered.
//!
//! Invariant: a request that follows another one finds what that has written.

use super::kept::{Kept, KeptSnapshot, look_at, newest_kept, number_in, uncommitted};
use super::launch::fenced;
use super::same_job::{are_of, kept_args};
use super::version::Version;
use std::collections::BTreeMap;
use std::sync::Arc;
use streamrt_checkpoint::{
    ApprovalKey, EndState, Entry, History, JobLog, Manifest, OperatorEntry, PluginEntry, Published,
    SnapshotKind, Store, SubtaskSnapshot, clean_up, component_path, publish, retire,
};
use streamrt_rpc::{Component, Restore, WireError};
use streamrt_types::{Error, Result, failpoint, without_passwords};

/// What a JobMaster asks of the store.
#[derive(Debug, Clone)]
pub enum StoreRequest {
    /// What is kept of the job, and of the snapshot that the user names.
    Look { from: Option<String> },
    /// Take the job over, after what was looked at.
    TakeOver(TakeOver),
    /// A region starts again: take the next generation.
    Suspend,
    /// Keep the components of a version that is to take over.
    KeepVersion { version: Arc<Version> },
    /// Make a checkpoint count.
    Publish(Box<Publication>),
    /// Delete a checkpoint.
    Retire { checkpoint: u64 },
    /// What is to be withdrawn before the job ends for good, by the log that is led.
    Uncommitted,
    /// The same, where nobody may lead it: the job is taken over for that.
    GiveUp {
        token: String,
        /// It was taken over before: whoever has done so since keeps it.
        has_led: bool,
    },
    /// The job has ended.
    End { state: EndState },
    /// Look whether a savepoint can lie there.
    OpenSavepoint { location: String },
    /// Remove what an attempt that failed has left of a savepoint.
    ClearSavepoint { location: String },
}

/// See [`StoreRequest::TakeOver`].
#[derive(Debug, Clone)]
pub struct TakeOver {
    pub version: Arc<Version>,
    pub kept: Kept,
    /// The snapshot is not one of this job's last ones: the log names it from now on.
    pub is_foreign: bool,
    /// The version that the snapshot names has failed, and the one before goes on.
    pub goes_back: bool,
    /// By which the leader knows its entries again.
    pub token: String,
}

/// A snapshot that is whole.
#[derive(Debug, Clone)]
pub struct Publication {
    pub checkpoint: u64,
    pub version: Arc<Version>,
    /// The components of `version` as the job's store has them.
    pub plugins: Vec<PluginEntry>,
    /// Where a savepoint lies.
    pub savepoint: Option<String>,
    /// Sinks commit after it.
    pub commits: bool,
    /// The sources were told to end before their input does.
    pub drained: bool,
    /// In the probation of an upgrade, the components of the version before.
    pub before: Vec<PluginEntry>,
    pub operators: Vec<OperatorEntry>,
    pub subtasks: Vec<SubtaskSnapshot>,
    pub dead_letters_before: u64,
    pub now_ms: i64,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum StoreReply {
    Looked(Kept),
    TakenOver {
        history: History,
        plugins: Vec<PluginEntry>,
    },
    Suspended {
        history: History,
        newest: Option<KeptSnapshot>,
    },
    VersionKept {
        plugins: Vec<PluginEntry>,
    },
    Published {
        history: History,
    },
    Retired,
    Uncommitted {
        history: History,
        restore: Option<Restore>,
    },
    Ended,
    /// The location as other snapshots name it.
    SavepointOpened {
        location: String,
    },
    SavepointCleared,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq)]
pub struct StoreFailure {
    pub error: WireError,
    /// The job is still led: nothing was written. Else nobody knows.
    pub leads: bool,
}

/// Where the bytes of components come from, by digest.
pub type Components = Arc<dyn Fn(&str) -> Result<Arc<Vec<u8>>> + Send + Sync>;

/// See the module.
pub struct JobStore {
    /// None: the job makes no checkpoints.
    store: Option<Store>,
    log: Option<JobLog>,
    components: Components,
    /// Approves of upgrades in manifests; None: the user has to be asked at each start.
    approvals: Option<Arc<ApprovalKey>>,
}

impl JobStore {
    /// # Errors
    /// S7007 if the job's folder cannot be opened.
    pub fn new(
        checkpoint_dir: Option<&str>,
        components: Components,
        approvals: Option<Arc<ApprovalKey>>,
    ) -> Result<JobStore> {
        Ok(JobStore {
            store: checkpoint_dir.map(Store::open).transpose()?,
            log: None,
            components,
            approvals,
        })
    }

    /// The same over a store that is open, for simulations.
    pub fn over(store: Store, components: Components) -> JobStore {
        JobStore {
            store: Some(store),
            log: None,
            components,
            approvals: None,
        }
    }

    /// Carries out a request. `committed`: all tasks have carried out the commits of the
    /// checkpoints up to this one, which the next entry of the log says.
    ///
    /// # Errors
    /// What the store or the log says.
    pub fn carry_out(
        &mut self,
        request: StoreRequest,
        committed: u64,
    ) -> Result<StoreReply, StoreFailure> {
        if let Some(log) = &mut self.log {
            log.commits_done(committed);
        }
        self.answer(request).map_err(|error| StoreFailure {
            error: WireError::from(error),
            leads: self.log.as_ref().is_some_and(JobLog::leads),
        })
    }

    fn answer(&mut self, request: StoreRequest) -> Result<StoreReply> {
        match request {
            StoreRequest::Look { from } => {
                look_at(self.store.as_ref(), from.as_deref()).map(StoreReply::Looked)
            }
            StoreRequest::TakeOver(take_over) => self.take_over(take_over),
            StoreRequest::Suspend => self.suspend(),
            StoreRequest::KeepVersion { version } => {
                let plugins = self.keep_all(&version, None)?;
                Ok(StoreReply::VersionKept { plugins })
            }
            StoreRequest::Publish(publication) => self.publish(*publication),
            StoreRequest::Retire { checkpoint } => {
                retire(self.log_mut()?, checkpoint).map(|()| StoreReply::Retired)
            }
            StoreRequest::Uncommitted => self.uncommitted(),
            StoreRequest::GiveUp { token, has_led } => {
                let history = History::read(self.store()?)?;
                let leader = &history.leader;
                if has_led && !leader.is_empty() && *leader != token {
                    return Err(fenced(leader).into());
                }
                let log = JobLog::take_over_after(self.store()?, &token, history)?;
                self.log = Some(log);
                self.uncommitted()
            }
            StoreRequest::End { state } => {
                if state == EndState::Finished {
                    failpoint("end.before-log")?;
                }
                self.log_mut()?.append(Entry::Ended { state })?;
                Ok(StoreReply::Ended)
            }
            StoreRequest::OpenSavepoint { location } => open_savepoint(&location),
            StoreRequest::ClearSavepoint { location } => {
                let store = Store::open(&location)?;
                let objects = store.list("")?;
                objects
                    .iter()
                    .try_for_each(|(path, _)| store.delete(path))?;
                Ok(StoreReply::SavepointCleared)
            }
        }
    }

    fn store(&self) -> Result<&Store> {
        let none = || Error::internal("a job without checkpoints has no store");
        self.store.as_ref().ok_or_else(none)
    }

    fn log_mut(&mut self) -> Result<&mut JobLog> {
        let none = || Error::internal("the job was not taken over");
        self.log.as_mut().ok_or_else(none)
    }

    /// Takes the job over after what was looked at: a checkpoint that was published since would be
    /// treated twice.
    fn take_over(&mut self, take_over: TakeOver) -> Result<StoreReply> {
        let TakeOver {
            version,
            kept,
            is_foreign,
            goes_back,
            token,
        } = take_over;
        let Kept {
            history, snapshot, ..
        } = kept;
        let mut log = JobLog::take_over_after(self.store()?, &token, history.clone())?;
        if let Some(snapshot) = snapshot.as_ref().filter(|_| is_foreign) {
            record_origin(&mut log, &history, &snapshot.restore.published)?;
        }
        let published = snapshot.as_ref().map(|kept| &kept.restore.published);
        let number = published.map_or(0, |published| number_in(log.history(), published));
        pass_over(&mut log, number)?;
        if let Some(snapshot) = snapshot.as_ref().filter(|_| goes_back) {
            note_version(&mut log, number, &snapshot.manifest, &version)?;
        }
        clean_up(&log)?;
        let history = log.history().clone();
        self.log = Some(log);
        let plugins = self.keep_all(&version, None)?;
        Ok(StoreReply::TakenOver { history, plugins })
    }

    fn suspend(&mut self) -> Result<StoreReply> {
        let log = self.log_mut()?;
        let generation = log.generation() + 1;
        log.append(Entry::TakeOver { generation })?;
        let history = log.history().clone();
        let newest = newest_kept(log.store(), &history)?;
        Ok(StoreReply::Suspended { history, newest })
    }

    fn uncommitted(&mut self) -> Result<StoreReply> {
        let log = self.log_mut()?;
        let history = History {
            committed: log.committed(),
            ..log.history().clone()
        };
        let restore = uncommitted(log.store(), &history)?;
        Ok(StoreReply::Uncommitted { history, restore })
    }

    /// Keeps the components of a version in the job's store, or in that of a savepoint.
    fn keep_all(&self, version: &Version, savepoint: Option<&Store>) -> Result<Vec<PluginEntry>> {
        let store = savepoint.map_or_else(|| self.store(), Ok)?;
        let job = self.log.as_ref().map_or("", |log| &log.history().job);
        let components = version.plan.components.iter();
        components
            .map(|component| self.keep(store, component, job))
            .collect()
    }

    /// Keeps a component beside the checkpoints, unless an earlier start has. `job` is the token of
    /// the job's first leader.
    fn keep(&self, store: &Store, component: &Component, job: &str) -> Result<PluginEntry> {
        let Component {
            name,
            digest,
            args,
            replaces,
        } = component.clone();
        let bytes = (self.components)(&digest)?;
        let stored = store.put_once(&component_path(&digest), &bytes)?;
        let key = self.approvals.as_ref();
        let approval = key
            .zip(replaces.as_deref())
            .map(|(key, replaces)| key.approve(job, replaces, &digest));
        Ok(PluginEntry {
            name,
            args: kept_args(&args),
            digest,
            component: stored,
            replaces,
            approval,
        })
    }

    /// Writes the manifest, then the log entry that makes it count. A savepoint goes into a store
    /// of its own, components and all.
    fn publish(&mut self, publication: Publication) -> Result<StoreReply> {
        failpoint("manifest.before")?;
        let savepoint = publication.savepoint.as_deref();
        let savepoint = savepoint.map(Store::open).transpose()?;
        let plugins = match &savepoint {
            None => publication.plugins.clone(),
            Some(store) => self.keep_all(&publication.version, Some(store))?,
        };
        let commits = publication.commits;
        let manifest = self.manifest(publication, plugins)?;
        let store = savepoint.map_or_else(|| self.store().cloned(), Ok)?;
        let log = self.log_mut()?;
        publish(&manifest, &store, log, commits)?;
        let history = log.history().clone();
        Ok(StoreReply::Published { history })
    }

    fn manifest(&self, snapshot: Publication, plugins: Vec<PluginEntry>) -> Result<Manifest> {
        let none = || Error::internal("the job was not taken over");
        let log = self.log.as_ref().ok_or_else(none)?;
        let plan = &snapshot.version.plan;
        let texts = &plan.configuration.texts;
        let kind = match snapshot.savepoint {
            Some(_) => SnapshotKind::Savepoint,
            None => SnapshotKind::Checkpoint,
        };
        Ok(Manifest {
            version: Manifest::VERSION,
            job: plan.spec.name.clone(),
            job_id: log.history().id().to_owned(),
            checkpoint: snapshot.checkpoint,
            kind,
            generation: log.generation(),
            wall_clock_ms: snapshot.now_ms,
            streamrt: env!("CARGO_PKG_VERSION").to_owned(),
            max_parallelism: plan.max_parallelism,
            plan: snapshot.version.stored_plan.clone(),
            configuration: texts
                .iter()
                .map(|(key, text)| (key.clone(), without_passwords(text)))
                .collect::<BTreeMap<_, _>>(),
            plugins,
            operators: snapshot.operators,
            subtasks: snapshot.subtasks,
            dead_letters_before: snapshot.dead_letters_before,
            drained: snapshot.drained,
            grants: plan.grants.clone(),
            before: snapshot.before,
        })
    }
}

/// A new folder for a savepoint.
fn open_savepoint(folder: &str) -> Result<StoreReply> {
    let store = Store::open(folder)?;
    match store.list("")?.first() {
        None => Ok(StoreReply::SavepointOpened {
            location: store.location().to_owned(),
        }),
        Some((path, _)) => Err(Error::new(
            streamrt_types::code::BAD_OPTION,
            format!("{folder} is not empty: it holds {path}; a savepoint gets a folder of its own"),
        )),
    }
}

/// Retires the savepoints after what the job goes on from. They could not be read; what they
/// promise is about to be withdrawn, so nobody may go on from them later.
fn pass_over(log: &mut JobLog, number: u64) -> Result<()> {
    let published = log.history().published.iter();
    let numbers = published.map(|published| published.checkpoint);
    let passed: Vec<u64> = numbers.filter(|other| *other > number).collect();
    passed
        .into_iter()
        .try_for_each(|checkpoint| log.append(Entry::Retired { checkpoint }))
}

/// The log says it, before any task runs, where the version that goes on is the one before that
/// which the newest checkpoint names.
fn note_version(log: &mut JobLog, number: u64, newest: &Manifest, version: &Version) -> Result<()> {
    let components = log.history().components(newest);
    match newest.before.is_empty() || are_of(components, version) {
        true => Ok(()),
        false => log.append(Entry::RolledBack { checkpoint: number }),
    }
}

/// Writes into the log that the job goes on from a snapshot that the user named: a restart then
/// finds it there.
fn record_origin(log: &mut JobLog, history: &History, published: &Published) -> Result<()> {
    if number_in(history, published) > 0 {
        return Ok(());
    }
    let checkpoint = history.next_checkpoint().max(published.checkpoint);
    log.append(Entry::Published(Published {
        checkpoint,
        kind: SnapshotKind::Savepoint,
        ..published.clone()
    }))
}
