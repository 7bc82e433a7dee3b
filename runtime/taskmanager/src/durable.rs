//! What outlives the process: a job's store and its log, and what a new attempt finds there.
//!
//! A new attempt takes the job over, reads the newest checkpoint, checks that it is of the same
//! job, and settles its sinks: what the checkpoint holds is committed, what no checkpoint names is
//! withdrawn. Only then tasks run.

use crate::control::Control;
use crate::dead_letters::DEAD_LETTERS_SUFFIX;
use crate::disk_uploads::DiskUploads;
use crate::disks::Disks;
use crate::enumerator::ENUMERATOR_SUFFIX;
use crate::factory::Definition;
use crate::fits;
use crate::kept_region::KeptRegion;
use crate::restored::Restored;
use crate::same_job::{check_finished, check_same, kept_args, plan_of};
use crate::settle::{is_committed, settle, uncommitted};
use crate::snapshot_states::checked;
use crate::task::GATE_SUFFIX;
use crate::versions::Before;
use crate::wishes::Wishes;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use streamrt_checkpoint::{
    EndState, Entry, History, JobLog, Manifest, OperatorEntry, PluginEntry, Published, Settings,
    Snapshot, SnapshotKind, Store, Stored, SubtaskSnapshot, TaskNode, Topology, clean_up,
    component_path, publish, retire, unique_token,
};
use streamrt_graph::Head;
use streamrt_types::{Configuration, Error, Result, code, failpoint, say, without_passwords};

/// How often a start looks at a log that grows meanwhile. A leader writes a few entries a second,
/// and a look takes some ms.
const LOOKS_MAX: u32 = 50;

/// The durable side of an attempt.
pub(crate) struct Durable {
    log: JobLog,
    version: Version,
    job: Arc<str>,
    operators: Vec<OperatorEntry>,
    /// The number of its first checkpoint.
    first_checkpoint: u64,
    /// Of earlier attempts, up to the checkpoint that this one goes on from.
    dead_letters_before: u64,
}

/// A version of the job as manifests name it.
pub(crate) struct Version {
    definition: Arc<Definition>,
    plugins: Vec<PluginEntry>,
    plan: Value,
}

impl Version {
    /// Keeps the version's components in the store. `job` is the token of the job's first leader.
    fn new(definition: &Arc<Definition>, store: &Store, job: &str) -> Result<Version> {
        let plugins = definition
            .plugins
            .iter()
            .map(|plugin| keep(store, plugin, job))
            .collect::<Result<_>>()?;
        Ok(Version {
            definition: definition.clone(),
            plugins,
            plan: plan_of(definition),
        })
    }

    /// As the one that an upgrade is about to follow, or has just followed.
    pub fn before(&self) -> Before {
        Before {
            definition: self.definition.clone(),
            plugins: self.plugins.clone(),
            newer_published: false,
        }
    }
}

/// A snapshot that is whole.
pub(crate) struct Publication {
    pub checkpoint: u64,
    /// Where a savepoint lies.
    pub savepoint: Option<Store>,
    /// Sinks commit behind it.
    pub commits: bool,
    /// The sources were told to end before their input does.
    pub drained: bool,
    /// In the probation of an upgrade, the components of the version before.
    pub before: Vec<PluginEntry>,
    pub subtasks: Vec<SubtaskSnapshot>,
}

/// What is kept of a job before it starts.
pub(crate) struct Kept {
    store: Option<Store>,
    history: History,
    /// What the job goes on from.
    pub snapshot: Option<Snapshot>,
    /// The snapshot is one that the user names, of whatever job.
    foreign: bool,
    /// The version that the snapshot names has failed, and the one before is put back.
    goes_back: bool,
    /// The job has finished, with the snapshot: nothing runs.
    pub finished: bool,
}

impl Kept {
    /// Refuses what is not the job that the checkpoints are of.
    ///
    /// # Errors
    /// `Invalid` (S7005), with the difference.
    pub fn check_same(&self, definition: &Definition) -> Result<()> {
        let Some(snapshot) = &self.snapshot else {
            return Ok(());
        };
        let (manifest, folder) = (
            snapshot.manifest(),
            self.store.as_ref().map_or("", Store::location),
        );
        let check = if self.finished {
            check_finished
        } else {
            check_same
        };
        let components = if self.is_put_back(definition) {
            &manifest.before
        } else {
            self.history.components(manifest)
        };
        check((manifest, components), definition, folder)
    }

    /// Whether what the user starts is the version before an upgrade that was in its probation. A
    /// job of a component goes on with the upgrade, which the user has approved; that of a job file
    /// is whichever file the user names.
    fn is_put_back(&self, definition: &Definition) -> bool {
        self.in_probation().is_some_and(|manifest| {
            are_of(&manifest.before, definition)
                && !are_of(self.history.components(manifest), definition)
        })
    }

    /// Whether the job goes on with an upgrade that was in its probation.
    pub fn is_upgraded(&self, definition: &Definition) -> bool {
        self.in_probation().is_some() && !self.is_put_back(definition)
    }

    fn in_probation(&self) -> Option<&Manifest> {
        self.snapshot
            .as_ref()
            .map(Snapshot::manifest)
            .filter(|manifest| !manifest.before.is_empty() && !self.finished)
    }
}

/// Where a job begins.
pub(crate) struct Beginning {
    pub durable: Option<Durable>,
    pub restored: Arc<Restored>,
    /// The checkpoint that it goes on from, and where that stands.
    pub resumed: Option<(u64, String)>,
    /// It was being drained: some of its sources may have ended and would read nothing more, so
    /// that the others have to end as well.
    pub drained: bool,
}

/// Looks at `checkpoint.dir`, and at the snapshot `from` that the user names.
///
/// # Errors
/// `Invalid` (S7005) if `from` is older than what the job has committed since, or of another job
/// than that of `checkpoint.dir`, S7001 and S7002 if what stands there cannot be used, S7007 if the
/// store does not answer.
pub(crate) fn look(configuration: &Configuration, from: Option<&str>) -> Result<Kept> {
    let store = configuration
        .checkpoint_dir
        .as_deref()
        .map(Store::open)
        .transpose()?;
    let history = store
        .as_ref()
        .map(History::read)
        .transpose()?
        .unwrap_or_default();
    let finished = history.end == Some(EndState::Finished);
    let snapshot = match (from, store.as_ref().zip(history.newest())) {
        (None, None) => None,
        (None, Some((store, _))) if finished => last(store, &history)?,
        (None, Some((store, _))) => newest(store, &history)?,
        (Some(from), None) => Some(checked(Snapshot::open(from)?)?),
        (Some(from), Some((store, newest))) => Some(named(from, store, newest, &history)?),
    };
    Ok(Kept {
        store,
        history,
        snapshot,
        foreign: from.is_some(),
        goes_back: false,
        finished,
    })
}

/// What a job goes on from whose user names the snapshot `from`, and whose newest one is `newest`.
fn named(from: &str, store: &Store, newest: &Published, history: &History) -> Result<Snapshot> {
    let named = checked(Snapshot::open(from)?)?;
    let is_named =
        |published: &Published| published.manifest.checksum == named.published().manifest.checksum;
    // It may have been moved since.
    if is_named(newest) {
        return Ok(named);
    }
    let (is_ours, folder) = (
        history.job.starts_with(&named.manifest().job_id),
        store.location(),
    );
    let (old, new) = (named.manifest().checkpoint, newest.checkpoint);
    let refuse = |message: String| Err(Error::new(code::OTHER_JOB, message));
    match history.published.iter().any(is_named) {
        _ if is_ours && new > old => refuse(format!(
            "{from} is checkpoint {old}, but the job has committed results up to checkpoint {new} since, which would be written twice; \
             without `--from` it goes on from there"
        )),
        // A job that was started from it once goes on from where it is.
        true => load(store, newest),
        false if is_ours && history.end != Some(EndState::Finished) => Ok(named),
        false => refuse(format!(
            "{folder} holds checkpoints of a job that was not started from {from}: one that is gets a `checkpoint.dir` of its own"
        )),
    }
}

/// What a job has finished with. A savepoint belongs to the user, who may have moved it: then
/// nothing says what the job was.
fn last(store: &Store, history: &History) -> Result<Option<Snapshot>> {
    let Some(newest) = history.newest() else {
        return Ok(None);
    };
    match load(store, newest) {
        Err(_) if newest.location.is_some() => Ok(None),
        loaded => loaded.map(Some),
    }
}

fn load(store: &Store, published: &Published) -> Result<Snapshot> {
    let moved = |e: Error| {
        match &published.location {
        Some(folder) => e.at(format_args!("the job goes on from the savepoint in {folder}; if it was moved, `--from` says where it is")),
        None => e,
    }
    };
    Snapshot::load(store, published)
        .and_then(checked)
        .map_err(moved)
}

/// What the job goes on from. A savepoint with which nothing was committed belongs to the user
/// alone: if it cannot be read, what stands before it serves as well.
pub(crate) fn newest(store: &Store, history: &History) -> Result<Option<Snapshot>> {
    let mut candidates = history.restorable().peekable();
    while let Some(published) = candidates.next() {
        match (load(store, published), candidates.peek()) {
            (Err(error), Some(before)) => {
                let (number, before, why) =
                    (published.checkpoint, before.checkpoint, error.message());
                say!(
                    "streamrt: savepoint {number} is passed over, since nothing was committed with it, for checkpoint {before}: {why}"
                );
            }
            (loaded, _) => return loaded.map(Some),
        }
    }
    Ok(None)
}

/// As [`look`], for a job that this process runs already: it is the same job, although an upgrade
/// may have changed its component. `goes_back`: the upgrade has failed, and the version before goes
/// on.
///
/// # Errors
/// As there.
pub(crate) fn look_again(
    configuration: &Configuration,
    from: Option<&str>,
    goes_back: bool,
) -> Result<Kept> {
    Ok(Kept {
        foreign: true,
        goes_back,
        ..look(configuration, from)?
    })
}

/// As [`open`]. Where a process that leads the job has written into its log since it was looked at,
/// looks again. `None` if the job has finished meanwhile.
///
/// # Errors
/// As [`look`] and [`open`]; S7006 if yet another process takes the job over.
pub(crate) fn begin(
    definition: &Arc<Definition>,
    mut kept: Kept,
    from: Option<&str>,
    wishes: &Arc<Wishes>,
) -> Result<Option<Beginning>> {
    for _ in 0..LOOKS_MAX {
        let generation = kept.history.generation;
        match open(definition, kept, wishes) {
            Err(error) if error.code() == code::FENCED => {
                match look(&definition.configuration, from)? {
                    again if again.finished => return again.check_same(definition).map(|()| None),
                    again if again.history.generation != generation => return Err(error),
                    again => kept = again,
                }
            }
            opened => return opened.map(Some),
        }
    }
    open(definition, kept, wishes).map(Some)
}

/// Takes the job over, settles its sinks, and reads what its operators kept. A user who wants the
/// job to end is heard meanwhile.
///
/// # Errors
/// `Invalid` (S7005) if the checkpoints are those of another job, component or other arguments,
/// S7001 if a state is damaged, S7007 if the store does not answer.
pub(crate) fn open(
    definition: &Arc<Definition>,
    mut kept: Kept,
    wishes: &Arc<Wishes>,
) -> Result<Beginning> {
    if !kept.foreign {
        kept.check_same(definition)?;
        kept.goes_back = kept.is_put_back(definition);
        if kept.goes_back {
            say!(
                "streamrt: the upgrade was in its probation, and the version before is put back, which this command names"
            );
        }
    }
    let Kept {
        store,
        history,
        snapshot,
        foreign,
        goes_back,
        ..
    } = kept;
    let restored = Arc::new(
        snapshot
            .as_ref()
            .map(Restored::read)
            .transpose()?
            .unwrap_or_default(),
    );
    fits::check_backend(&restored, definition)?;
    restored.places.check_sources(definition)?;
    restored
        .places
        .check_sinks(definition, &job_id(&history.job))?;
    let operators = operators_of(definition);
    fits::check_uids(&restored, &operators, definition)?;
    if snapshot.is_some() {
        fits::name_new_operators(&restored, definition);
    }
    let mut number = 0;
    let mut durable = match store {
        None => None,
        Some(store) => {
            // Behind what was looked at: a checkpoint that was published since would be treated
            // twice.
            let mut log = JobLog::take_over_after(&store, &unique_token(), history.clone())?;
            if let (Some(snapshot), true) = (&snapshot, foreign) {
                record_origin(&mut log, &history, snapshot)?;
            }
            number = snapshot
                .as_ref()
                .map_or(0, |snapshot| number_in(log.history(), snapshot));
            pass_over(&mut log, number)?;
            if let Some(snapshot) = snapshot.as_ref().filter(|_| goes_back) {
                note_version(&mut log, number, snapshot.manifest(), definition)?;
            }
            clean_up(&log)?;
            let job = job_id(&log.history().job);
            let (version, dead_letters_before) = (
                Version::new(definition, &store, &log.history().job)?,
                restored.dead_letters(),
            );
            let first_checkpoint = log.history().next_checkpoint();
            Some(Durable {
                log,
                version,
                job,
                operators,
                first_checkpoint,
                dead_letters_before,
            })
        }
    };
    let history_now = durable.as_ref().map(|durable| durable.log.history());
    let is_settled = history_now
        .zip(snapshot.as_ref())
        .is_some_and(|(history, snapshot)| is_committed(history, snapshot));
    let (job, generation) = durable.as_ref().map_or_else(
        || (job_id(&unique_token()), 1),
        |durable| (durable.job(), durable.generation()),
    );
    settle(
        definition,
        Control::before_tasks(wishes),
        job,
        generation,
        Some(&*restored).filter(|_| !is_settled),
    )?;
    if let Some(durable) = &mut durable {
        durable.commits_done(number);
    }
    let drained = snapshot
        .as_ref()
        .is_some_and(|snapshot| snapshot.manifest().drained);
    Ok(Beginning {
        durable,
        restored,
        resumed: snapshot.map(|snapshot| {
            (
                snapshot.manifest().checkpoint,
                snapshot.store().location().to_owned(),
            )
        }),
        drained,
    })
}

/// The number of a snapshot in the log; 0 if it does not stand there.
pub(crate) fn number_in(history: &History, snapshot: &Snapshot) -> u64 {
    let checksum = &snapshot.published().manifest.checksum;
    history
        .published
        .iter()
        .find(|known| known.manifest.checksum == *checksum)
        .map_or(0, |known| known.checkpoint)
}

/// Retires the savepoints behind what the job goes on from. They could not be read; what they
/// promise is about to be withdrawn, so nobody may go on from them later.
fn pass_over(log: &mut JobLog, number: u64) -> Result<()> {
    let passed: Vec<u64> = log
        .history()
        .published
        .iter()
        .map(|published| published.checkpoint)
        .filter(|other| *other > number)
        .collect();
    passed
        .into_iter()
        .try_for_each(|checkpoint| log.append(Entry::Retired { checkpoint }))
}

/// The log says it, before any task runs, where the version that goes on is the one before that
/// which the newest checkpoint names.
fn note_version(
    log: &mut JobLog,
    number: u64,
    newest: &Manifest,
    definition: &Definition,
) -> Result<()> {
    let is_known = newest.before.is_empty() || are_of(log.history().components(newest), definition);
    if is_known {
        Ok(())
    } else {
        log.append(Entry::RolledBack { checkpoint: number })
    }
}

/// Whether these are the components of a version, with its arguments.
fn are_of(entries: &[PluginEntry], definition: &Definition) -> bool {
    let is_same = |(entry, plugin): (&PluginEntry, &crate::LoadedPlugin)| {
        entry.digest == plugin.plugin.digest() && entry.args == kept_args(&plugin.args)
    };
    entries.len() == definition.plugins.len()
        && entries.iter().zip(&definition.plugins).all(is_same)
}

/// How a job is called in the names of its transactions.
pub(crate) fn job_id(token: &str) -> Arc<str> {
    token.chars().take(8).collect::<String>().into()
}

/// Writes into the log that the job goes on from a snapshot that the user named: a restart then
/// finds it there.
fn record_origin(log: &mut JobLog, history: &History, snapshot: &Snapshot) -> Result<()> {
    let published = snapshot.published();
    if history
        .published
        .iter()
        .any(|known| known.manifest.checksum == published.manifest.checksum)
    {
        return Ok(());
    }
    let checkpoint = history.next_checkpoint().max(published.checkpoint);
    log.append(Entry::Published(Published {
        checkpoint,
        kind: SnapshotKind::Savepoint,
        ..published.clone()
    }))
}

/// Keeps a component beside the checkpoints, unless an earlier start has.
fn keep(store: &Store, plugin: &crate::LoadedPlugin, job: &str) -> Result<PluginEntry> {
    let (digest, replaces) = (plugin.plugin.digest().to_owned(), plugin.replaces.clone());
    let component: Stored = store.put_once(&component_path(&digest), &plugin.component)?;
    let key = plugin.approvals.as_ref();
    let approval = key
        .zip(replaces.as_deref())
        .map(|(key, replaces)| key.approve(job, replaces, &digest));
    Ok(PluginEntry {
        name: plugin.name.clone(),
        digest,
        args: kept_args(&plugin.args),
        component,
        replaces,
        approval,
    })
}

/// Everything that has state in a snapshot, with its vertex.
fn operators_of(definition: &Definition) -> Vec<OperatorEntry> {
    let mut operators = Vec::new();
    for (number, vertex) in definition.graph.vertices.iter().enumerate() {
        let uid = |node: usize| definition.graph.stream.nodes[node].uid.clone();
        let chained = vertex
            .operators
            .iter()
            .map(|operator| uid(operator.nodes[0]));
        let uids: Vec<String> = match vertex.head {
            Head::Enumerator { node } => vec![format!("{}{ENUMERATOR_SUFFIX}", uid(node))],
            Head::Reader { .. } => chained.collect(),
            Head::Gate => {
                let gate = vertex
                    .operators
                    .first()
                    .map(|operator| format!("{}{GATE_SUFFIX}", uid(operator.nodes[0])));
                chained.chain(gate).collect()
            }
        };
        let letters = vertex
            .operators
            .first()
            .map(|operator| format!("{}{DEAD_LETTERS_SUFFIX}", uid(operator.nodes[0])));
        let uids: Vec<String> = uids.into_iter().chain(letters).collect();
        operators.extend(uids.into_iter().map(|uid| OperatorEntry {
            uid,
            vertex: number as u32,
            parallelism: vertex.parallelism,
        }));
    }
    operators
}

impl Durable {
    pub fn store(&self) -> &Store {
        self.log.store()
    }

    pub fn job(&self) -> Arc<str> {
        self.job.clone()
    }

    pub fn generation(&self) -> u64 {
        self.log.generation()
    }

    pub fn disks(&self) -> Option<Arc<Disks>> {
        self.version.definition.disks.clone()
    }

    /// What brings files of states on disk into the store, where those of `restored` are already.
    pub fn disk_uploads(&self, restored: &Restored) -> DiskUploads {
        DiskUploads::new(
            self.store().clone(),
            self.generation(),
            &self.operators,
            restored,
        )
    }

    /// The version that the newest checkpoint of this attempt names.
    pub fn definition(&self) -> &Arc<Definition> {
        &self.version.definition
    }

    /// A version of the same shape, whose components are kept from now on.
    pub fn version(&self, definition: &Arc<Definition>) -> Result<Version> {
        Version::new(definition, self.store(), &self.log.history().job)
    }

    /// The components of the version that runs, as the store keeps them.
    pub fn plugins(&self) -> Vec<PluginEntry> {
        self.version.plugins.clone()
    }

    /// From now on manifests name the other version.
    pub fn exchange(&mut self, version: &mut Version) {
        std::mem::swap(&mut self.version, version);
    }

    pub fn now_ms(&self) -> i64 {
        self.version.definition.clock.now_ms()
    }

    pub fn max_parallelism(&self) -> u32 {
        self.version.definition.max_parallelism
    }

    pub fn leads(&self) -> bool {
        self.log.leads()
    }

    /// Whether this attempt has made a checkpoint or savepoint that counts.
    pub fn has_published(&self) -> bool {
        self.log.history().last_checkpoint >= self.first_checkpoint
    }

    /// (vertex, subtask) of every task.
    pub fn places(&self) -> Vec<(u32, u32)> {
        self.version
            .definition
            .execution
            .subtasks
            .iter()
            .map(|subtask| (subtask.vertex as u32, subtask.index))
            .collect()
    }

    /// Who sends to whom.
    pub fn topology(&self) -> Topology {
        let subtasks = &self.version.definition.execution.subtasks;
        let name = |subtask: &streamrt_graph::Subtask| {
            let vertex = &self.version.definition.graph.vertices[subtask.vertex];
            format!(
                "{} ({}/{})",
                vertex.name,
                subtask.index + 1,
                vertex.parallelism
            )
        };
        let mut tasks: Vec<TaskNode> = subtasks
            .iter()
            .map(|subtask| TaskNode {
                name: name(subtask),
                predecessors: Vec::new(),
            })
            .collect();
        for (sender, subtask) in subtasks.iter().enumerate() {
            let receivers: BTreeSet<usize> = subtask
                .exits
                .iter()
                .flatten()
                .map(|channel| channel.to)
                .collect();
            receivers
                .into_iter()
                .for_each(|receiver| tasks[receiver].predecessors.push(sender));
        }
        Topology { tasks }
    }

    pub fn settings(&self) -> Settings {
        Settings::new(&self.version.definition.configuration, self.log.history())
    }

    /// How often time has to be looked at.
    pub fn tick(&self) -> Duration {
        let interval = self
            .version
            .definition
            .configuration
            .checkpoint_interval_ms
            .unwrap_or(1000);
        Duration::from_millis((interval / 10).max(1))
    }

    pub fn append(&mut self, entry: Entry) -> Result<()> {
        self.log.append(entry)
    }

    /// Notes that all checkpoints up to this one are committed, as [`JobLog::commits_done`].
    pub fn commits_done(&mut self, checkpoint: u64) {
        self.log.commits_done(checkpoint);
    }

    /// Withdraws what no checkpoint names, when the job has ended for good.
    pub fn withdraw(&self) -> Result<()> {
        let restored = uncommitted(self.store(), self.log.history())?;
        settle(
            &self.version.definition,
            Arc::default(),
            self.job(),
            self.generation(),
            restored.as_ref(),
        )
    }

    /// What a region that failed goes on from, which it does under a generation of its own.
    pub fn suspended(&mut self) -> Result<KeptRegion> {
        self.log.append(Entry::TakeOver {
            generation: self.generation() + 1,
        })?;
        let (store, history) = (self.store().clone(), self.log.history().clone());
        let (job, definition, operators) = (
            self.job(),
            self.definition().clone(),
            self.operators.clone(),
        );
        Ok(KeptRegion {
            store,
            history,
            job,
            definition,
            operators,
            first_checkpoint: self.first_checkpoint,
        })
    }

    /// A line for the user.
    pub fn say(&self, message: &str) {
        say!("streamrt: {message}");
    }

    pub fn retire(&mut self, checkpoint: u64) -> Result<()> {
        retire(&mut self.log, checkpoint)
    }

    /// The savepoint that counts and lies in this store.
    pub fn published_in(&self, store: &Store) -> Option<u64> {
        let lies_there =
            |published: &&Published| published.location.as_deref() == Some(store.location());
        self.log
            .history()
            .published
            .iter()
            .find(lies_there)
            .map(|published| published.checkpoint)
    }

    /// Writes the manifest, then the log entry that makes it count. A savepoint goes into a store
    /// of its own, components and all.
    pub fn publish(&mut self, snapshot: Publication) -> Result<()> {
        failpoint("manifest.before")?;
        let Publication {
            checkpoint,
            savepoint,
            commits,
            drained,
            before,
            subtasks,
        } = snapshot;
        let kind = if savepoint.is_some() {
            SnapshotKind::Savepoint
        } else {
            SnapshotKind::Checkpoint
        };
        let plugins = match &savepoint {
            None => self.version.plugins.clone(),
            Some(store) => {
                let job = &self.log.history().job;
                self.version
                    .definition
                    .plugins
                    .iter()
                    .map(|plugin| keep(store, plugin, job))
                    .collect::<Result<_>>()?
            }
        };
        let texts = &self.version.definition.configuration.texts;
        let manifest = Manifest {
            version: Manifest::VERSION,
            job: self.version.definition.spec.name.clone(),
            job_id: self.job.to_string(),
            checkpoint,
            kind,
            generation: self.generation(),
            wall_clock_ms: self.now_ms(),
            streamrt: env!("CARGO_PKG_VERSION").to_owned(),
            max_parallelism: self.version.definition.max_parallelism,
            plan: self.version.plan.clone(),
            configuration: texts
                .iter()
                .map(|(key, text)| (key.clone(), without_passwords(text)))
                .collect(),
            plugins,
            operators: self.operators.clone(),
            subtasks,
            dead_letters_before: self.dead_letters_before,
            drained,
            grants: self.version.definition.grants.places(),
            before,
        };
        let store = savepoint.unwrap_or_else(|| self.store().clone());
        publish(&manifest, &store, &mut self.log, commits)?;
        Ok(())
    }
}
