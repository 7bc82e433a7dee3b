//! A version of a job on this TaskManager: its graphs, with the sources and components that its
//! tasks are made from. It does not change from one attempt to the next.

use crate::dead_letters::DEAD_LETTERS_SUFFIX;
use crate::disks::Disks;
use crate::enumerator::ENUMERATOR_SUFFIX;
use crate::factory;
use crate::task::GATE_SUFFIX;
use std::sync::Arc;
use streamrt_checkpoint::OperatorEntry;
use streamrt_graph::{ExecutionGraph, Head, JobGraph, StreamGraph, Subtask};
use streamrt_operator::Source;
use streamrt_plugin::{Grants, Plugin};
use streamrt_rpc::{Component, JobPlan};
use streamrt_types::{Clock, Configuration, Result};

/// Loads a component that a plan names.
pub type Plugins = Arc<dyn Fn(&Component) -> Result<Arc<Plugin>> + Send + Sync>;

/// A component, ready to make instances, with the arguments of this job.
pub(crate) struct JobPlugin {
    pub plugin: Arc<Plugin>,
    pub args: Vec<String>,
}

/// See the module.
pub(crate) struct Definition {
    pub graph: JobGraph,
    pub execution: ExecutionGraph,
    /// By stream node.
    pub sources: Vec<Option<Arc<dyn Source>>>,
    pub plugins: Vec<JobPlugin>,
    pub grants: Grants,
    pub configuration: Arc<Configuration>,
    pub max_parallelism: u32,
    pub clock: Arc<dyn Clock>,
    /// None: keyed state is in memory.
    pub disks: Option<Arc<Disks>>,
}

/// What the definitions of a job have in common.
#[derive(Clone)]
pub(crate) struct Around {
    pub plugins: Plugins,
    pub grants: Grants,
    pub clock: Arc<dyn Clock>,
    pub disks: Option<Arc<Disks>>,
}

impl Definition {
    /// # Errors
    /// `Invalid` if the plan, a connector or its options are wrong, or a folder is not granted.
    pub fn new(plan: &JobPlan, around: &Around) -> Result<Definition> {
        let graph = JobGraph::new(StreamGraph::new(&plan.spec)?, plan.parallelism);
        factory::check_grants(&graph, &around.grants)?;
        let plugin = |component: &Component| {
            Ok(JobPlugin {
                plugin: (around.plugins)(component)?,
                args: component.args.clone(),
            })
        };
        Ok(Definition {
            execution: ExecutionGraph::new(&graph),
            sources: factory::sources(&graph)?,
            graph,
            plugins: plan.components.iter().map(plugin).collect::<Result<_>>()?,
            grants: around.grants.clone(),
            configuration: plan.configuration.clone(),
            max_parallelism: plan.max_parallelism,
            clock: around.clock.clone(),
            disks: around.disks.clone(),
        })
    }

    /// The subtasks of these vertices, with their numbers in the execution graph.
    pub fn tasks_of(&self, vertices: &[usize]) -> impl Iterator<Item = (usize, &Subtask)> {
        let subtasks = self.execution.subtasks.iter().enumerate();
        subtasks.filter(|(_, subtask)| vertices.contains(&subtask.vertex))
    }

    /// Whether every source ends by itself.
    pub fn is_bounded(&self) -> bool {
        let mut sources = self.sources.iter().flatten();
        sources.all(|source| source.bounded())
    }

    /// Everything that has state in a snapshot, with its vertex.
    pub fn operators(&self) -> Vec<OperatorEntry> {
        let mut operators = Vec::new();
        for (number, vertex) in self.graph.vertices.iter().enumerate() {
            let uid = |node: usize| self.graph.stream.nodes[node].uid.clone();
            let first = vertex.operators.first().map(|first| uid(first.nodes[0]));
            let with = |suffix: &str| first.as_ref().map(|first| format!("{first}{suffix}"));
            let chained = vertex.operators.iter();
            let chained = chained.map(|operator| uid(operator.nodes[0]));
            let uids: Vec<String> = match vertex.head {
                Head::Enumerator { node } => vec![format!("{}{ENUMERATOR_SUFFIX}", uid(node))],
                Head::Reader { .. } => chained.collect(),
                Head::Gate => chained.chain(with(GATE_SUFFIX)).collect(),
            };
            let uids = uids.into_iter().chain(with(DEAD_LETTERS_SUFFIX));
            operators.extend(uids.map(|uid| OperatorEntry {
                uid,
                vertex: number as u32,
                parallelism: vertex.parallelism,
            }));
        }
        operators
    }
}
