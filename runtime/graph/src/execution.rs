//! The `ExecutionGraph`: every subtask, and the channels between them.

use crate::job_graph::{Exit, JobGraph};
use crate::stream::EdgePartitioner;

/// One end of a channel, seen from the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Channel {
    /// Index of the receiver in `ExecutionGraph::subtasks`.
    pub to: usize,
    /// Its number among the receiver's channels.
    pub channel: usize,
}

/// One parallel instance of a vertex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subtask {
    pub vertex: usize,
    /// In `0..parallelism`.
    pub index: u32,
    /// Number of channels that lead here.
    pub n_channels: usize,
    /// The number of those that lead to the second input.
    pub second_input: Vec<usize>,
    /// For each exit of the vertex, the channels in the order of the receiver's subtasks.
    pub exits: Vec<Vec<Channel>>,
}

/// All subtasks of a job, by vertex and index.
#[derive(Debug, Clone)]
pub struct ExecutionGraph {
    pub subtasks: Vec<Subtask>,
}

impl ExecutionGraph {
    pub fn new(job: &JobGraph) -> ExecutionGraph {
        let subtasks_of = |(vertex, v): (usize, &crate::JobVertex)| {
            (0..v.parallelism)
                .map(move |index| Subtask {
                    vertex,
                    index,
                    n_channels: 0,
                    second_input: Vec::new(),
                    exits: Vec::new(),
                })
                .collect::<Vec<_>>()
        };
        let mut graph = ExecutionGraph {
            subtasks: job
                .vertices
                .iter()
                .enumerate()
                .flat_map(subtasks_of)
                .collect(),
        };
        for sender in 0..graph.subtasks.len() {
            let exits = job.vertices[graph.subtasks[sender].vertex].exits.iter();
            let connected = exits.map(|exit| graph.connect(sender, exit)).collect();
            graph.subtasks[sender].exits = connected;
        }
        graph
    }

    fn connect(&mut self, sender: usize, exit: &Exit) -> Vec<Channel> {
        let index = self.subtasks[sender].index;
        let mut channels = Vec::new();
        // Subtasks are in the order of their vertices.
        let first = self
            .subtasks
            .partition_point(|subtask| subtask.vertex < exit.to);
        for (to, subtask) in self
            .subtasks
            .iter_mut()
            .enumerate()
            .skip(first)
            .take_while(|(_, subtask)| subtask.vertex == exit.to)
        {
            if exit.partitioner != EdgePartitioner::Forward || subtask.index == index {
                channels.push(Channel {
                    to,
                    channel: subtask.n_channels,
                });
                if exit.input == 1 {
                    subtask.second_input.push(subtask.n_channels);
                }
                subtask.n_channels += 1;
            }
        }
        channels
    }
}
