//! From the job graph to operators: the only place that knows which operator runs which kind of node.

use crate::control::Control;
use std::sync::Arc;
use streamrt_graph::{ChainedOperator, FunctionRef, Head, JobGraph, StreamNode, Subtask};
use streamrt_operator::{
    DeadLetter, FunctionChain, KeyedProcessOperator, Operator, OperatorChain, OperatorContext, RunningAggregateOperator, SinkOperator,
    Source, TaskMetrics, TransformOperator,
};
use streamrt_plugin::{ChainSpec, Plugin};
use streamrt_types::{Clock, Configuration, Error, KeyGroupRange, Result};
use streamrt_window::{TimestampsOperator, WindowFunctions, WindowOperator};
use streamrt_wit::{Body, Function, TimeSource, WindowContents};

/// A component, ready to make instances, with the arguments of this job.
#[derive(Clone)]
pub struct LoadedPlugin {
    pub plugin: Arc<Plugin>,
    pub args: Vec<String>,
}

/// What all operators of a job are made from.
pub(crate) struct Factory<'a> {
    pub graph: &'a JobGraph,
    pub plugins: &'a [LoadedPlugin],
    pub configuration: Arc<Configuration>,
    pub max_parallelism: u32,
    pub clock: Arc<dyn Clock>,
    pub control: Arc<Control>,
    pub dead_letters: Arc<dyn Fn(DeadLetter) -> Result<()> + Send + Sync>,
}

impl Factory<'_> {
    /// The source of every source node, by node.
    pub fn sources(&self) -> Result<Vec<Option<Arc<dyn Source>>>> {
        let source = |node: &StreamNode| match &node.body {
            Body::Source { connector, options, schema } => {
                streamrt_connector::source(connector, options, schema).map(Some).map_err(|e| e.at(format!("source `{}`", node.uid)))
            }
            _ => Ok(None),
        };
        self.graph.stream.nodes.iter().map(source).collect()
    }

    pub fn context(&self, node: usize, subtask: &Subtask, metrics: Arc<TaskMetrics>) -> OperatorContext {
        let parallelism = self.graph.vertices[subtask.vertex].parallelism;
        OperatorContext {
            uid: Arc::from(self.graph.stream.nodes[node].uid.as_str()),
            subtask: subtask.index,
            parallelism,
            max_parallelism: self.max_parallelism,
            key_groups: KeyGroupRange::of_subtask(self.max_parallelism, parallelism, subtask.index),
            clock: self.clock.clone(),
            configuration: self.configuration.clone(),
            metrics,
            dead_letters: self.dead_letters.clone(),
        }
    }

    /// The operators of a subtask. Sinks get counters of their own, which are added to `sinks`.
    pub fn chain(&self, subtask: &Subtask, metrics: &Arc<TaskMetrics>, sinks: &mut Vec<Arc<TaskMetrics>>) -> Result<OperatorChain> {
        let vertex = &self.graph.vertices[subtask.vertex];
        let mut chain = OperatorChain::new();
        for (number, chained) in vertex.operators.iter().enumerate() {
            let node = chained.nodes[0];
            let is_reader = number == 0 && matches!(vertex.head, Head::Reader { .. });
            let place = |e: Error| e.at(format!("node `{}`", self.graph.stream.nodes[node].uid));
            let operator =
                if is_reader { Box::new(Forwarder) as Box<dyn Operator> } else { self.operator(chained, subtask).map_err(place)? };
            let metrics = match self.graph.stream.nodes[node].body {
                Body::Sink { .. } => {
                    sinks.push(Arc::default());
                    sinks[sinks.len() - 1].clone()
                }
                _ => metrics.clone(),
            };
            chain.push(operator, self.context(node, subtask, metrics), chained.targets.clone());
        }
        Ok(chain)
    }

    fn operator(&self, chained: &ChainedOperator, subtask: &Subtask) -> Result<Box<dyn Operator>> {
        let node = &self.graph.stream.nodes[chained.nodes[0]];
        let input = node.input_schema.as_ref().ok_or_else(|| Error::internal("an operator behind a gate or a source has an input"))?;
        let stream = &self.graph.stream;
        Ok(match &node.body {
            Body::Source { .. } => return Err(Error::internal("a source is the head of its chain")),
            Body::Sink { connector, options } => {
                let visible: Vec<usize> = (0..input.fields().len()).filter(|&i| !node.hidden.contains(input.field(i).name())).collect();
                let schema = input.project(&visible).map_err(|e| Error::internal("visible columns are columns").with_source(e))?;
                let sink = streamrt_connector::sink(connector, options, Arc::new(schema))?;
                let hides = visible.len() < input.fields().len();
                Box::new(SinkOperator::new(sink, hides.then_some(visible)))
            }
            Body::Aggregate { aggregates, columns } => {
                Box::new(RunningAggregateOperator::new(input, node.key.clone(), aggregates, columns)?)
            }
            Body::Timestamps { time, generator, idle_ms } => {
                let function = match time {
                    TimeSource::Column { .. } => None,
                    TimeSource::Function { function } => Some(self.single(&stream.functions[*function as usize], subtask)?),
                };
                Box::new(TimestampsOperator::new(time, generator, *idle_ms, input, function)?)
            }
            Body::Function { .. } => {
                let functions: Vec<&FunctionRef> = chained.nodes.iter().flat_map(|node| stream.functions_of(*node)).collect();
                let user = self.user(&functions, subtask)?;
                let declared: Vec<Function> = functions.iter().map(|function| function.function().clone()).collect();
                match declared[0].key.is_some() {
                    true => Box::new(KeyedProcessOperator::new(user, &declared, input, node.key.clone())?),
                    false => Box::new(TransformOperator::new(user, &declared, input)?),
                }
            }
            Body::Window { assigner, allowed_lateness_ms, contents } => {
                let single = |number: u32| self.single(&stream.functions[number as usize], subtask);
                let functions = match contents {
                    WindowContents::Builtin { .. } => WindowFunctions::default(),
                    WindowContents::Process { function } => WindowFunctions { aggregate: None, process: Some(single(*function)?) },
                    WindowContents::Aggregate { function, then } => {
                        WindowFunctions { aggregate: Some(single(*function)?), process: then.map(single).transpose()? }
                    }
                };
                let (input, output) = (input.clone(), node.outputs[0].clone());
                Box::new(WindowOperator::new(assigner, *allowed_lateness_ms, contents, functions, input, node.key.clone(), output)?)
            }
        })
    }

    fn single(&self, function: &FunctionRef, subtask: &Subtask) -> Result<(Box<dyn FunctionChain>, Function)> {
        Ok((self.user(&[function], subtask)?, function.function().clone()))
    }

    /// An instance of the functions' plugin, with the functions as a chain.
    fn user(&self, functions: &[&FunctionRef], subtask: &Subtask) -> Result<Box<dyn FunctionChain>> {
        let plugin = &self.plugins[functions[0].plugin];
        let vertex = &self.graph.vertices[subtask.vertex];
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
