//! How large a job may be. A plan comes from a component, and so from anywhere; what is built from
//! it must not outgrow the process before a record is read. Jobs that people write stay far below.

use crate::job_graph::{Exit, JobGraph};
use crate::stream::EdgePartitioner;
use streamrt_types::{Error, Result, code};
use streamrt_wit::Node;

const NODES_MAX: usize = 10_000;
const EDGES_MAX: usize = 50_000;

/// Bytes of a uid, which is part of the names of files and threads, and of every message.
const UID_BYTES_MAX: usize = 200;

/// Columns of one stream.
const COLUMNS_MAX: usize = 4_096;

/// Columns of all streams together: a chain in which every node adds some has quadratically many.
const ALL_COLUMNS_MAX: usize = 400_000;

/// The number of subtasks that a plan may give an operator although the user has asked for fewer:
/// the least number of key groups.
const PARALLELISM_MAX: u32 = 128;

/// The number of subtasks, each of which is a thread.
const SUBTASKS_MAX: u64 = 4_096;

/// The number of channels, each of which has a queue at both its ends.
const CHANNELS_MAX: u64 = 250_000;

fn refuse(message: String) -> Result<()> {
    Err(Error::new(code::PLAN_LIMIT, message))
}

/// Checks what can be counted before anything is looked at.
pub(crate) fn check_nodes(nodes: &[Node]) -> Result<()> {
    let n_edges: usize = nodes.iter().map(|node| node.inputs.len()).sum();
    if nodes.len() > NODES_MAX || n_edges > EDGES_MAX {
        let message = format!(
            "the job has {} nodes and {n_edges} edges, and may have {NODES_MAX} and {EDGES_MAX}",
            nodes.len()
        );
        return refuse(message);
    }
    nodes.iter().try_for_each(|node| check_uid(&node.uid))
}

fn check_uid(uid: &str) -> Result<()> {
    let shown: String = uid.chars().take(40).collect();
    if uid.len() > UID_BYTES_MAX {
        return refuse(format!(
            "the uid that begins with `{shown}` has {} bytes, and may have {UID_BYTES_MAX}",
            uid.len()
        ));
    }
    if uid.contains(char::is_control) {
        return Err(Error::new(
            code::INVALID_JOB,
            format!("the uid `{}` has control characters", uid.escape_debug()),
        ));
    }
    Ok(())
}

/// Counts columns while schemas are worked out.
#[derive(Debug, Default)]
pub(crate) struct Columns(usize);

impl Columns {
    /// # Errors
    /// `Invalid` if a stream has too many, or all streams together.
    pub fn add(&mut self, n: usize) -> Result<()> {
        self.0 += n;
        if n > COLUMNS_MAX {
            return refuse(format!(
                "its output has {n} columns, and may have {COLUMNS_MAX}"
            ));
        }
        if self.0 > ALL_COLUMNS_MAX {
            return refuse(format!(
                "up to here all streams have {} columns together, and may have {ALL_COLUMNS_MAX}",
                self.0
            ));
        }
        Ok(())
    }
}

impl JobGraph {
    /// Refuses a graph with more subtasks or channels than a process can bear. `asked` is the
    /// parallelism that the user has asked for, or the number of key groups if that is more: a plan
    /// may ask for that, or for 128.
    ///
    /// # Errors
    /// `Invalid` (S2020), with the operator or the number.
    pub fn check_size(&self, asked: u32) -> Result<()> {
        self.check_parallelism(asked.max(PARALLELISM_MAX))?;
        let n_subtasks: u64 = self
            .vertices
            .iter()
            .map(|vertex| u64::from(vertex.parallelism))
            .sum();
        let exits = self.vertices.iter().flat_map(|vertex| {
            vertex
                .exits
                .iter()
                .map(|exit| self.n_channels(vertex.parallelism, exit))
        });
        let n_channels = exits.fold(0u64, u64::saturating_add);
        if n_subtasks > SUBTASKS_MAX || n_channels > CHANNELS_MAX {
            let message = format!(
                "the job would have {n_subtasks} subtasks with {n_channels} channels, and may have {SUBTASKS_MAX} and {CHANNELS_MAX}: make its parallelism less"
            );
            return refuse(message);
        }
        Ok(())
    }

    fn check_parallelism(&self, allowed: u32) -> Result<()> {
        let Some(vertex) = self
            .vertices
            .iter()
            .find(|vertex| vertex.parallelism > allowed)
        else {
            return Ok(());
        };
        let (name, wanted) = (&vertex.name, vertex.parallelism);
        refuse(format!(
            "node `{name}`: its parallelism is {wanted}, and may be {allowed}; `--parallelism {wanted}` allows it"
        ))
    }

    fn n_channels(&self, senders: u32, exit: &Exit) -> u64 {
        let receivers = self.vertices[exit.to].parallelism;
        match exit.partitioner {
            EdgePartitioner::Forward => u64::from(senders),
            _ => u64::from(senders) * u64::from(receivers),
        }
    }
}
