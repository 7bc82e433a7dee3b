//! A version of the job, with the graphs that follow from its plan.

use super::same_job::plan_of;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use streamrt_checkpoint::{TaskNode, Topology};
use streamrt_graph::{ExecutionGraph, JobGraph, StreamGraph, Subtask};
use streamrt_rpc::JobPlan;
use streamrt_types::{Error, Result, code, default_max_parallelism};

/// See the module.
#[derive(Debug)]
pub struct Version {
    /// Versions of a job are numbered by its JobMaster, from 1.
    pub number: u32,
    pub plan: Arc<JobPlan>,
    pub graph: JobGraph,
    pub execution: ExecutionGraph,
    /// The vertices of each region.
    pub regions: Vec<Vec<usize>>,
    /// The plan as manifests have it.
    pub stored_plan: Value,
}

impl Version {
    /// `kept_max` is the max parallelism of the snapshot that the job goes on from.
    ///
    /// # Errors
    /// `Invalid` if the graph is wrong, or its parallelism does not fit.
    pub fn new(number: u32, mut plan: JobPlan, kept_max: Option<u32>) -> Result<Version> {
        let graph = JobGraph::new(StreamGraph::new(&plan.spec)?, plan.parallelism);
        let wanted = plan.configuration.max_parallelism;
        graph.check_size(plan.parallelism.max(wanted.unwrap_or(1)))?;
        plan.max_parallelism = max_parallelism(&graph, wanted, kept_max)?;
        Ok(Version {
            number,
            plan: Arc::new(plan),
            execution: ExecutionGraph::new(&graph),
            regions: graph.regions(),
            stored_plan: plan_of(&graph),
            graph,
        })
    }

    /// The same version, of a job that goes on from a snapshot with this max parallelism.
    ///
    /// # Errors
    /// `Invalid` if the user wants another one.
    pub fn going_on(&self, kept_max: Option<u32>) -> Result<Version> {
        Version::new(self.number, self.plan.as_ref().clone(), kept_max)
    }

    /// How long an upgrade to it is watched.
    pub fn probation(&self) -> Duration {
        Duration::from_millis(self.plan.configuration.upgrade_probation_ms)
    }

    /// The numbers of the tasks of a region, which are those of the execution graph.
    pub fn tasks_of(&self, region: usize) -> Vec<usize> {
        let vertices = &self.regions[region];
        let subtasks = self.execution.subtasks.iter().enumerate();
        subtasks
            .filter(|(_, subtask)| vertices.contains(&subtask.vertex))
            .map(|(task, _)| task)
            .collect()
    }

    /// The region of every task.
    pub fn region_of(&self) -> Vec<usize> {
        let region = |subtask: &Subtask| {
            let of = |vertices: &Vec<usize>| vertices.contains(&subtask.vertex);
            self.regions.iter().position(of).unwrap_or_default()
        };
        self.execution.subtasks.iter().map(region).collect()
    }

    /// The (vertex, subtask) of every task.
    pub fn places(&self) -> Vec<(u32, u32)> {
        let place = |subtask: &Subtask| (subtask.vertex as u32, subtask.index);
        self.execution.subtasks.iter().map(place).collect()
    }

    /// Who sends to whom.
    pub fn topology(&self) -> Topology {
        let subtasks = &self.execution.subtasks;
        let node = |subtask: &Subtask| {
            let vertex = &self.graph.vertices[subtask.vertex];
            TaskNode {
                name: vertex.subtask_name(subtask.index),
                predecessors: Vec::new(),
            }
        };
        let mut tasks: Vec<TaskNode> = subtasks.iter().map(node).collect();
        for (sender, subtask) in subtasks.iter().enumerate() {
            let channels = subtask.exits.iter().flatten();
            let mut receivers: Vec<usize> = channels.map(|channel| channel.to).collect();
            receivers.sort_unstable();
            receivers.dedup();
            receivers
                .into_iter()
                .for_each(|receiver| tasks[receiver].predecessors.push(sender));
        }
        Topology { tasks }
    }
}

/// That of the snapshot, else what the user wants, else what follows from the parallelism.
fn max_parallelism(graph: &JobGraph, wanted: Option<u32>, kept: Option<u32>) -> Result<u32> {
    let refuse = |message: String| Err(Error::new(code::BAD_OPTION, message));
    let parallelisms = graph.vertices.iter().map(|vertex| vertex.parallelism);
    let widest = parallelisms.max().unwrap_or(1);
    if let Some((wanted, kept)) = wanted.zip(kept).filter(|(wanted, kept)| wanted != kept) {
        return refuse(format!(
            "max-parallelism is {wanted}, but the snapshot was made with {kept}, and its keys stay where they are"
        ));
    }
    let max = kept
        .or(wanted)
        .unwrap_or_else(|| default_max_parallelism(widest));
    match widest > max {
        true => refuse(format!(
            "parallelism {widest} is more than the max parallelism {max}"
        )),
        false => Ok(max),
    }
}
