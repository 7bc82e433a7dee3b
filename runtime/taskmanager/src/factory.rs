//! From the job graph to operators: the only place that knows which operator runs which kind of node.

use crate::control::Control;
use crate::replaceable::{Seats, UserCode};
use arrow_schema::SchemaRef;
use std::sync::Arc;
use streamrt_graph::{ChainedOperator, ExecutionGraph, FunctionRef, Head, JobGraph, JobSpec, StreamNode, Subtask};
use streamrt_operator::{
    DeadLetter, FunctionChain, KeyedProcessOperator, Operator, OperatorChain, OperatorContext, RunningAggregateOperator, Sink, SinkOperator,
    Source, TaskMetrics, TransformOperator,
};
use streamrt_plugin::{ChainSpec, Plugin};
use streamrt_types::{Clock, Configuration, Error, KeyGroupRange, Result};
use streamrt_window::{TimestampsOperator, WindowFunctions, WindowOperator};
use streamrt_wit::{Body, Function, Options, WindowContents};

/// A component, ready to make instances, with the arguments of this job.
#[derive(Clone)]
pub struct LoadedPlugin {
    pub plugin: Arc<Plugin>,
    pub args: Vec<String>,
    /// The component itself, which is kept beside the checkpoints.
    pub component: Arc<Vec<u8>>,
    /// The digest of the component that the job was started with, where an upgrade has put this one in its place.
    pub replaces: Option<String>,
}

/// What does not change from one attempt to the next.
pub(crate) struct Definition {
    /// As the user wrote it.
    pub spec: JobSpec,
    /// Of operators that name none.
    pub parallelism: u32,
    pub graph: JobGraph,
    pub execution: ExecutionGraph,
    /// By stream node.
    pub sources: Vec<Option<Arc<dyn Source>>>,
    pub plugins: Vec<LoadedPlugin>,
    pub configuration: Arc<Configuration>,
    pub max_parallelism: u32,
    pub clock: Arc<dyn Clock>,
    pub dead_letters: Arc<dyn Fn(DeadLetter) -> Result<()> + Send + Sync>,
}

/// What all operators of an attempt are made from.
pub(crate) struct Factory<'a> {
    pub definition: &'a Definition,
    pub control: Arc<Control>,
    pub job: Arc<str>,
    pub generation: u64,
}

/// The source of every source node, by node.
///
/// # Errors
/// `Invalid` if a connector or its options are wrong.
pub(crate) fn sources(graph: &JobGraph) -> Result<Vec<Option<Arc<dyn Source>>>> {
    let source = |node: &StreamNode| match &node.body {
        Body::Source { connector, options, schema } => {
            streamrt_connector::source(connector, options, schema).map(Some).map_err(|e| e.at(format!("source `{}`", node.uid)))
        }
        _ => Ok(None),
    };
    graph.stream.nodes.iter().map(source).collect()
}

impl Factory<'_> {
    pub fn context(&self, node: usize, subtask: &Subtask, metrics: Arc<TaskMetrics>) -> OperatorContext {
        let definition = self.definition;
        let parallelism = definition.graph.vertices[subtask.vertex].parallelism;
        OperatorContext {
            job: self.job.clone(),
            generation: self.generation,
            uid: Arc::from(definition.graph.stream.nodes[node].uid.as_str()),
            subtask: subtask.index,
            parallelism,
            max_parallelism: definition.max_parallelism,
            key_groups: KeyGroupRange::of_subtask(definition.max_parallelism, parallelism, subtask.index),
            clock: definition.clock.clone(),
            configuration: definition.configuration.clone(),
            metrics,
            dead_letters: definition.dead_letters.clone(),
        }
    }

    /// The operators of a subtask, and where their code is replaced. Sinks get counters of their own, which are added to `sinks`.
    pub fn chain(&self, subtask: &Subtask, metrics: &Arc<TaskMetrics>, sinks: &mut Vec<Arc<TaskMetrics>>) -> Result<(OperatorChain, Seats)> {
        let vertex = &self.definition.graph.vertices[subtask.vertex];
        let mut chain = OperatorChain::new();
        let mut seats = Seats::default();
        for (number, chained) in vertex.operators.iter().enumerate() {
            let node = chained.nodes[0];
            let is_reader = number == 0 && matches!(vertex.head, Head::Reader { .. });
            let place = |e: Error| e.at(format!("node `{}`", self.definition.graph.stream.nodes[node].uid));
            let operator =
                if is_reader { Box::new(Forwarder) as Box<dyn Operator> } else { self.operator(chained, subtask, &mut seats).map_err(place)? };
            let metrics = match self.definition.graph.stream.nodes[node].body {
                Body::Sink { .. } => {
                    sinks.push(Arc::default());
                    sinks[sinks.len() - 1].clone()
                }
                _ => metrics.clone(),
            };
            chain.push(operator, self.context(node, subtask, metrics), chained.targets.clone());
        }
        Ok((chain, seats))
    }

    /// New instances of the code of a subtask, opened, in the order of its seats.
    pub fn user_code(&self, subtask: &Subtask) -> Result<UserCode> {
        let vertex = &self.definition.graph.vertices[subtask.vertex];
        vertex.operators.iter().flat_map(|chained| self.calls(chained)).map(|functions| self.user(&functions, subtask)).collect()
    }

    /// The functions that an operator calls, each with those that are called together with it.
    fn calls(&self, chained: &ChainedOperator) -> Vec<Vec<&FunctionRef>> {
        let stream = &self.definition.graph.stream;
        let functions: Vec<&FunctionRef> = chained.nodes.iter().flat_map(|node| stream.functions_of(*node)).collect();
        match stream.nodes[chained.nodes[0]].body {
            Body::Function { .. } => vec![functions],
            _ => functions.into_iter().map(|function| vec![function]).collect(),
        }
    }

    fn operator(&self, chained: &ChainedOperator, subtask: &Subtask, seats: &mut Seats) -> Result<Box<dyn Operator>> {
        let node = &self.definition.graph.stream.nodes[chained.nodes[0]];
        let input = node.input_schema.as_ref().ok_or_else(|| Error::internal("an operator behind a gate or a source has an input"))?;
        let mut users = Vec::new();
        for functions in self.calls(chained) {
            let declared: Vec<Function> = functions.iter().map(|function| function.function().clone()).collect();
            users.push((seats.take(self.user(&functions, subtask)?), declared));
        }
        let mut users = users.into_iter();
        let missing = || Error::internal("a function that an operator calls has its chain");
        Ok(match &node.body {
            Body::Source { .. } => return Err(Error::internal("a source is the head of its chain")),
            Body::Sink { connector, options } => {
                let visible = visible(node, input);
                let sink = sink(connector, options, input, &visible)?;
                let hides = visible.len() < input.fields().len();
                Box::new(SinkOperator::new(sink, hides.then_some(visible)))
            }
            Body::Aggregate { aggregates, columns } => {
                Box::new(RunningAggregateOperator::new(input, node.key.clone(), aggregates, columns)?)
            }
            Body::Timestamps { time, generator, idle_ms } => {
                Box::new(TimestampsOperator::new(time, generator, *idle_ms, input, users.next().and_then(single))?)
            }
            Body::Function { .. } => {
                let (user, declared) = users.next().ok_or_else(missing)?;
                match declared[0].key.is_some() {
                    true => Box::new(KeyedProcessOperator::new(user, &declared, input, node.key.clone())?),
                    false => Box::new(TransformOperator::new(user, &declared, input)?),
                }
            }
            Body::Window { assigner, allowed_lateness_ms, contents } => {
                let mut next = || users.next().and_then(single);
                let functions = match contents {
                    WindowContents::Builtin { .. } => WindowFunctions::default(),
                    WindowContents::Process { .. } => WindowFunctions { aggregate: None, process: next() },
                    WindowContents::Aggregate { .. } => WindowFunctions { aggregate: next(), process: next() },
                };
                let (input, output) = (input.clone(), node.outputs[0].clone());
                Box::new(WindowOperator::new(assigner, *allowed_lateness_ms, contents, functions, input, node.key.clone(), output)?)
            }
        })
    }

    /// A writer for every sink node, to settle what an earlier attempt has left: (node, writer).
    pub fn sinks(&self) -> Result<Vec<(usize, Box<dyn Sink>)>> {
        let mut sinks = Vec::new();
        for (number, node) in self.definition.graph.stream.nodes.iter().enumerate() {
            if let (Body::Sink { connector, options }, Some(input)) = (&node.body, &node.input_schema) {
                sinks.push((number, sink(connector, options, input, &visible(node, input))?));
            }
        }
        Ok(sinks)
    }

    /// An instance of the functions' plugin, with the functions as a chain.
    fn user(&self, functions: &[&FunctionRef], subtask: &Subtask) -> Result<Box<dyn FunctionChain>> {
        let plugin = &self.definition.plugins[functions[0].plugin];
        let vertex = &self.definition.graph.vertices[subtask.vertex];
        let place = format!("{} ({}/{})", vertex.name, subtask.index + 1, vertex.parallelism);
        let spec = ChainSpec {
            args: plugin.args.clone(),
            plan: functions[0].plan.clone(),
            functions: functions.iter().map(|function| function.number).collect(),
            subtask: subtask.index,
            parallelism: vertex.parallelism,
            cancel: self.control.cancel_flag(),
            log: Arc::new(move |level, message| eprintln!("{} {place}: {message}", level_name(level))),
        };
        Ok(Box::new(plugin.plugin.chain(spec)?))
    }
}

/// A chain of one function.
fn single((chain, declared): (Box<dyn FunctionChain>, Vec<Function>)) -> Option<(Box<dyn FunctionChain>, Function)> {
    declared.into_iter().next().map(|function| (chain, function))
}

/// The columns that a sink gets.
fn visible(node: &StreamNode, input: &SchemaRef) -> Vec<usize> {
    (0..input.fields().len()).filter(|&i| !node.hidden.contains(input.field(i).name())).collect()
}

fn sink(connector: &str, options: &Options, input: &SchemaRef, visible: &[usize]) -> Result<Box<dyn Sink>> {
    let schema = input.project(visible).map_err(|e| Error::internal("visible columns are columns").with_source(e))?;
    streamrt_connector::sink(connector, options, Arc::new(schema))
}

fn level_name(level: u8) -> &'static str {
    use streamrt_wit::codes::level::{DEBUG, ERROR, INFORMATION, TRACE, WARNING};
    match level {
        ERROR => "error",
        WARNING => "warning",
        INFORMATION => "info",
        DEBUG => "debug",
        TRACE => "trace",
        _ => "log",
    }
}

/// The head of a reader's chain: rows go on as they come.
struct Forwarder;

impl Operator for Forwarder {
    fn batch(&mut self, batch: streamrt_types::Batch, output: &mut dyn streamrt_operator::Output) -> Result<()> {
        output.batch(0, batch)
    }
}
