//! What outlives the process: a job's store and its log, and what a new attempt finds there.
//!
//! A new attempt takes the job over, reads the newest checkpoint, checks that it is of the same job, and settles its sinks: what the
//! checkpoint holds is committed, what no checkpoint names is withdrawn. Only then tasks run.

use crate::attempt;
use crate::enumerator::ENUMERATOR_SUFFIX;
use crate::factory::{Definition, Factory};
use crate::restored::Restored;
use crate::task::GATE_SUFFIX;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use streamrt_checkpoint::{
    EndState, Entry, History, JobLog, Manifest, OperatorEntry, PluginEntry, Settings, Snapshot, SnapshotKind, Store, Stored, SubtaskSnapshot,
    TaskNode, Topology, clean_up, component_path, publish, retire, unique_token,
};
use streamrt_graph::Head;
use streamrt_operator::{COMMITTABLES, TaskMetrics, transaction_prefix};
use streamrt_types::{Error, Result, code, failpoint};

/// The durable side of an attempt.
pub(crate) struct Durable {
    log: JobLog,
    definition: Arc<Definition>,
    job: Arc<str>,
    plugins: Vec<PluginEntry>,
    operators: Vec<OperatorEntry>,
    plan: Value,
}

/// What a folder of checkpoints says of a job.
pub(crate) enum Found {
    /// It has no checkpoints.
    None,
    /// It has ended by itself: there is nothing to do.
    Finished,
    Open(Box<Durable>, Arc<Restored>, Option<u64>),
}

/// Opens the store of a job, and takes the job over.
///
/// # Errors
/// `Invalid` (S7005) if another job, component or other arguments stand there, S7001 if what stands there is damaged, S7007 if the store
/// does not answer.
pub(crate) fn open(definition: &Arc<Definition>, folder: &str) -> Result<Found> {
    let store = Store::open(folder)?;
    let history = History::read(&store)?;
    if history.end == Some(EndState::Finished) {
        return Ok(Found::Finished);
    }
    let plan = plan_of(definition);
    let snapshot = history.newest().map(|newest| Snapshot::load(&store, newest)).transpose()?;
    if let Some(snapshot) = &snapshot {
        check_same(snapshot.manifest(), definition, folder)?;
    }
    let (log, _) = JobLog::take_over(&store, &unique_token())?;
    let job: Arc<str> = log.history().job.chars().take(8).collect::<String>().into();
    let plugins = definition.plugins.iter().map(|plugin| keep(&store, plugin)).collect::<Result<_>>()?;
    let operators = operators_of(definition);
    let durable = Durable { log, definition: definition.clone(), job, plugins, operators, plan };
    clean_up(&durable.log)?;
    let restored = Arc::new(match &snapshot {
        Some(snapshot) => Restored::read(snapshot)?,
        None => Restored::default(),
    });
    check_uids(&restored, &durable.operators)?;
    durable.settle(&restored)?;
    Ok(Found::Open(Box::new(durable), restored, snapshot.map(|snapshot| snapshot.manifest().checkpoint)))
}

/// Keeps a component beside the checkpoints.
fn keep(store: &Store, plugin: &crate::LoadedPlugin) -> Result<PluginEntry> {
    let digest = plugin.plugin.digest().to_owned();
    let component: Stored = store.put(&component_path(&digest), plugin.component.to_vec())?;
    Ok(PluginEntry { name: String::new(), digest, args: plugin.args.clone(), component })
}

/// The job as the user wrote it.
fn plan_of(definition: &Definition) -> Value {
    let node = |node: &streamrt_graph::StreamNode| json!({"uid": node.uid, "body": node.body});
    definition.graph.stream.nodes.iter().map(node).collect()
}

fn check_same(manifest: &Manifest, definition: &Definition, folder: &str) -> Result<()> {
    let refuse = |what: String| {
        let message = format!("{folder} holds checkpoints of a job that differs: {what}");
        Err(Error::new(code::OTHER_JOB, message))
    };
    if manifest.job != definition.name {
        return refuse(format!("its name is `{}`, not `{}`", manifest.job, definition.name));
    }
    if manifest.plugins.len() != definition.plugins.len() {
        return refuse(format!("it has {} components, not {}", manifest.plugins.len(), definition.plugins.len()));
    }
    for (kept, plugin) in manifest.plugins.iter().zip(&definition.plugins) {
        if kept.digest != plugin.plugin.digest() {
            return refuse(format!("its component has the digest {}, not {}", short(&kept.digest), short(plugin.plugin.digest())));
        }
        if kept.args != plugin.args {
            return refuse(format!("its arguments are `{}`, not `{}`", kept.args.join(" "), plugin.args.join(" ")));
        }
    }
    if manifest.max_parallelism != definition.max_parallelism {
        let (kept, wanted) = (manifest.max_parallelism, definition.max_parallelism);
        return refuse(format!("its max parallelism is {kept}, not {wanted}; `-D max-parallelism={kept}` keeps it"));
    }
    Ok(())
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

/// Refuses state whose operator is gone. A gate's watermark goes with the shape of the chains.
fn check_uids(restored: &Restored, operators: &[OperatorEntry]) -> Result<()> {
    let known: BTreeSet<&str> = operators.iter().map(|operator| operator.uid.as_str()).collect();
    let gone = restored.with_state().find(|uid| !known.contains(uid) && !uid.ends_with(GATE_SUFFIX));
    match gone {
        None => Ok(()),
        Some(uid) => Err(Error::new(code::STATE_GONE, format!("the checkpoint holds state of operator `{uid}`, which the job does not have"))),
    }
}

/// Everything that has state in a snapshot, with its vertex.
fn operators_of(definition: &Definition) -> Vec<OperatorEntry> {
    let mut operators = Vec::new();
    for (number, vertex) in definition.graph.vertices.iter().enumerate() {
        let uid = |node: usize| definition.graph.stream.nodes[node].uid.clone();
        let chained = vertex.operators.iter().map(|operator| uid(operator.nodes[0]));
        let uids: Vec<String> = match vertex.head {
            Head::Enumerator { node } => vec![format!("{}{ENUMERATOR_SUFFIX}", uid(node))],
            Head::Reader { .. } => chained.collect(),
            Head::Gate => {
                let gate = vertex.operators.first().map(|operator| format!("{}{GATE_SUFFIX}", uid(operator.nodes[0])));
                chained.chain(gate).collect()
            }
        };
        operators.extend(uids.into_iter().map(|uid| OperatorEntry { uid, vertex: number as u32, parallelism: vertex.parallelism }));
    }
    operators
}

/// Who sends to whom.
pub(crate) fn topology(definition: &Definition) -> Topology {
    let subtasks = &definition.execution.subtasks;
    let name = |subtask: &streamrt_graph::Subtask| {
        let vertex = &definition.graph.vertices[subtask.vertex];
        format!("{} ({}/{})", vertex.name, subtask.index + 1, vertex.parallelism)
    };
    let mut tasks: Vec<TaskNode> = subtasks.iter().map(|subtask| TaskNode { name: name(subtask), predecessors: Vec::new() }).collect();
    for (sender, subtask) in subtasks.iter().enumerate() {
        let receivers: BTreeSet<usize> = subtask.exits.iter().flatten().map(|channel| channel.to).collect();
        receivers.into_iter().for_each(|receiver| tasks[receiver].predecessors.push(sender));
    }
    Topology { tasks }
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

    pub fn max_parallelism(&self) -> u32 {
        self.definition.max_parallelism
    }

    pub fn leads(&self) -> bool {
        self.log.leads()
    }

    pub fn settings(&self) -> Settings {
        Settings::new(&self.definition.configuration, self.log.history())
    }

    /// How often time has to be looked at.
    pub fn tick(&self) -> Duration {
        let interval = self.definition.configuration.checkpoint_interval_ms.unwrap_or(1000);
        Duration::from_millis((interval / 10).max(1))
    }

    pub fn append(&mut self, entry: Entry) -> Result<()> {
        self.log.append(entry)
    }

    /// A line for the user.
    pub fn say(&self, message: &str) {
        eprintln!("streamrt: {message}");
    }

    pub fn retire(&mut self, checkpoint: u64) -> Result<()> {
        retire(&mut self.log, checkpoint)
    }

    /// Writes the manifest, then the log entry that makes it count.
    pub fn publish(&mut self, checkpoint: u64, kind: SnapshotKind, subtasks: Vec<SubtaskSnapshot>) -> Result<()> {
        failpoint("manifest.before")?;
        let manifest = Manifest {
            version: Manifest::VERSION,
            job: self.definition.name.clone(),
            job_id: self.job.to_string(),
            checkpoint,
            kind,
            generation: self.generation(),
            wall_clock_ms: self.definition.clock.now_ms(),
            streamrt: env!("CARGO_PKG_VERSION").to_owned(),
            max_parallelism: self.definition.max_parallelism,
            plan: self.plan.clone(),
            configuration: BTreeMap::new(),
            plugins: self.plugins.clone(),
            operators: self.operators.clone(),
            subtasks,
        };
        let store = self.store().clone();
        publish(&manifest, &store, &mut self.log)?;
        Ok(())
    }

    /// Commits what the checkpoint holds, and withdraws what it does not name.
    fn settle(&self, restored: &Restored) -> Result<()> {
        let factory = Factory { definition: &self.definition, control: Arc::default(), job: self.job(), generation: self.generation() };
        for (node, mut sink) in factory.sinks()? {
            let context = factory.context(node, &attempt::first_subtask(&self.definition, node), Arc::new(TaskMetrics::default()));
            let place = |e: Error| e.at(format_args!("sink `{}`", context.uid));
            sink.open(&context).map_err(place)?;
            // In the order of the subtasks, and of the checkpoints within each.
            for item in restored.parts(&context.uid).iter().flatten().map(|part| part.list(COMMITTABLES)).collect::<Result<Vec<_>>>()?.concat() {
                failpoint("recovery.commit")?;
                sink.commit(&item).map_err(place)?;
            }
            failpoint("recovery.abort")?;
            sink.abort_unlisted(&transaction_prefix(&self.job, &context.uid), &[]).map_err(place)?;
        }
        Ok(())
    }
}
