//! From what the user wrote to what runs: `JobSpec` -> `StreamGraph` -> `JobGraph` ->
//! `ExecutionGraph`.
//!
//! Pure: no I/O, no threads, and no knowledge of operators. Every mistake in a job that can be seen
//! without running it is found here, with the uid of the node in the message.
//!
//! ```
//! use streamrt_graph::{JobSpec, StreamGraph};
//! let empty = JobSpec::from_plan("empty", std::sync::Arc::new(streamrt_wit::Plan::default()));
//! assert_eq!(StreamGraph::new(&empty).unwrap_err().code().id, "S2006");
//! ```

mod compat;
mod execution;
mod job_file;
mod job_graph;
mod limits;
mod spec;
mod stream;
mod stream_schema;

pub use compat::{Compatibility, OperatorChange, Verdict, compare};
pub use execution::{Channel, ExecutionGraph, Subtask};
pub use job_file::{JobFile, PluginUse};
pub use job_graph::{ChainedOperator, Exit, Head, JobGraph, JobVertex};
pub use spec::{FunctionRef, JobSpec};
pub use stream::{EdgePartitioner, StreamEdge, StreamGraph, StreamNode};

#[cfg(test)]
mod tests;
