//! A job as a component or a job file delivers it: nodes, and the functions of one or several
//! plugins that they call.

use std::sync::Arc;
use streamrt_wit::{Body, Function, Node, Plan, TimeSource, WindowContents};

/// A job before any check.
#[derive(Debug, Clone)]
pub struct JobSpec {
    pub name: String,
    /// The function numbers in the bodies are indices into `functions`.
    pub nodes: Vec<Node>,
    pub functions: Vec<FunctionRef>,
}

/// A function of one of the job's plugins.
#[derive(Debug, Clone)]
pub struct FunctionRef {
    /// Index into the list of plugins that belongs to the job: a component together with its
    /// arguments.
    pub plugin: usize,
    pub plan: Arc<Plan>,
    /// The function's number in that plan.
    pub number: u32,
}

impl FunctionRef {
    pub fn function(&self) -> &Function {
        &self.plan.functions[self.number as usize]
    }
}

impl JobSpec {
    /// The job of a component that builds its own graph.
    pub fn from_plan(name: impl Into<String>, plan: Arc<Plan>) -> JobSpec {
        let functions = (0..plan.functions.len() as u32)
            .map(|number| FunctionRef {
                plugin: 0,
                plan: plan.clone(),
                number,
            })
            .collect();
        JobSpec {
            name: name.into(),
            nodes: plan.nodes.clone(),
            functions,
        }
    }
}

/// The numbers of the functions that a node calls.
pub(crate) fn functions_of(body: &Body) -> Vec<u32> {
    match body {
        Body::Function { function } | Body::FunctionSink { function, .. } => vec![*function],
        Body::Timestamps {
            time: TimeSource::Function { function },
            ..
        } => vec![*function],
        Body::Window {
            contents: WindowContents::Process { function },
            ..
        } => vec![*function],
        Body::Window {
            contents: WindowContents::Aggregate { function, then },
            ..
        } => std::iter::once(*function).chain(*then).collect(),
        _ => Vec::new(),
    }
}
