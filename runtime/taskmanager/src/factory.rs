//! From the job graph to operators: the only place that knows which operator runs which kind of
//! node.

use crate::attempt;
use crate::control::Control;
use crate::dead_letters::{DEAD_LETTERS_SUFFIX, DeadLetterOperator, DeadLetters};
use crate::definition::Definition;
use crate::guest_log;
use crate::replaceable::{Seats, UserCode};
use crate::restored::Restored;
use arrow_schema::SchemaRef;
use std::collections::BTreeMap;
use std::sync::Arc;
use streamrt_graph::{ChainedOperator, FunctionRef, Head, JobGraph, StreamNode, Subtask};
use streamrt_operator::{
    FunctionChain, KeyedProcessOperator, Operator, OperatorChain, OperatorContext,
    RunningAggregateOperator, Sink, SinkOperator, Source, TaskMetrics, TransformOperator,
    WRITE_AHEAD_BYTES, WriteAheadSink,
};
use streamrt_plugin::{ChainSpec, Grants, Log, SinkSpec};
use streamrt_state::Share;
use streamrt_types::{Error, KeyGroupRange, Result};
use streamrt_window::{TimestampsOperator, WindowFunctions, WindowOperator};
use streamrt_wit::{Body, Function, FunctionKind, Options, WindowContents};

/// What all operators of a region are made from.
pub(crate) struct Factory<'a> {
    pub definition: &'a Definition,
    pub control: Arc<Control>,
    pub job: Arc<str>,
    pub generation: u64,
    /// What a checkpoint kept.
    pub restored: Arc<Restored>,
}

/// The source of every source node, by node.
///
/// # Errors
/// `Invalid` if a connector or its options are wrong.
pub(crate) fn sources(graph: &JobGraph) -> Result<Vec<Option<Arc<dyn Source>>>> {
    let source = |node: &StreamNode| match &node.body {
        Body::Source {
            connector,
            options,
            schema,
        } => streamrt_connector::source(connector, options, schema)
            .map(Some)
            .map_err(|e| e.at(format!("source `{}`", node.uid))),
        _ => Ok(None),
    };
    graph.stream.nodes.iter().map(source).collect()
}

/// Whether every folder that a function of the job asks for was granted.
///
/// # Errors
/// `Invalid` (S1012), with the uid of the node.
pub(crate) fn check_grants(graph: &JobGraph, grants: &Grants) -> Result<()> {
    let check = |(number, node): (usize, &StreamNode)| {
        let mut functions = graph.stream.functions_of(number).into_iter();
        functions
            .try_for_each(|function| grants.only(&function.function().grants).map(drop))
            .map_err(|e| e.at(format!("node `{}`", node.uid)))
    };
    graph.stream.nodes.iter().enumerate().try_for_each(check)
}

impl Factory<'_> {
    /// `letters` are those of the task.
    pub fn context(
        &self,
        node: usize,
        subtask: &Subtask,
        metrics: Arc<TaskMetrics>,
        letters: &DeadLetters,
    ) -> OperatorContext {
        let (definition, letters) = (self.definition, letters.clone());
        let (parallelism, max_parallelism) = (
            definition.graph.vertices[subtask.vertex].parallelism,
            definition.max_parallelism,
        );
        let key_groups = KeyGroupRange::of_subtask(max_parallelism, parallelism, subtask.index);
        let share = Share {
            subtask: subtask.index,
            parallelism,
            key_groups,
            max_parallelism,
        };
        let uid: Arc<str> = Arc::from(definition.graph.stream.nodes[node].uid.as_str());
        OperatorContext {
            disk: definition
                .disks
                .as_ref()
                .map(|disks| disks.disk(&self.restored, &uid, share)),
            job: self.job.clone(),
            generation: self.generation,
            cancel: self.control.cancel_flag(),
            memory: self.control.memory.clone(),
            uid,
            subtask: subtask.index,
            parallelism,
            max_parallelism,
            key_groups,
            clock: definition.clock.clone(),
            configuration: definition.configuration.clone(),
            metrics,
            dead_letters: Arc::new(move |letter| letters.put(&letter)),
        }
    }

    /// The operators of a subtask, and where their code is replaced. Sinks get counters of their
    /// own, which are added to `sinks`.
    ///
    /// `task` is the subtask's number in the job. The last operator takes part in checkpoints for
    /// the task's dead letters.
    pub fn chain(
        &self,
        (task, subtask): (usize, &Subtask),
        metrics: &Arc<TaskMetrics>,
        letters: &DeadLetters,
        sinks: &mut Vec<Arc<TaskMetrics>>,
    ) -> Result<(OperatorChain, Seats)> {
        let vertex = &self.definition.graph.vertices[subtask.vertex];
        let mut chain = OperatorChain::new();
        let mut seats = Seats::default();
        for (number, chained) in vertex.operators.iter().enumerate() {
            let node = chained.nodes[0];
            let is_reader = number == 0 && matches!(vertex.head, Head::Reader { .. });
            let place = |e: Error| {
                e.at(format!(
                    "node `{}`",
                    self.definition.graph.stream.nodes[node].uid
                ))
            };
            let operator = if is_reader {
                Box::new(Forwarder) as Box<dyn Operator>
            } else {
                self.operator(chained, subtask, &mut seats).map_err(place)?
            };
            let metrics = match self.definition.graph.stream.nodes[node].body.is_sink() {
                true => {
                    sinks.push(Arc::default());
                    sinks[sinks.len() - 1].clone()
                }
                false => metrics.clone(),
            };
            chain.push(
                operator,
                self.context(node, subtask, metrics, letters),
                chained.targets.clone(),
            );
        }
        if let Some(first) = vertex.operators.first() {
            let first = self.context(first.nodes[0], subtask, Arc::default(), letters);
            let context = OperatorContext {
                uid: format!("{}{DEAD_LETTERS_SUFFIX}", first.uid).into(),
                ..first
            };
            chain.push(
                Box::new(DeadLetterOperator::new(letters.clone(), task as u32)),
                context,
                Vec::new(),
            );
        }
        Ok((chain, seats))
    }

    /// New instances of the code of a subtask, opened, in the order of its seats.
    pub fn user_code(&self, subtask: &Subtask) -> Result<UserCode> {
        let vertex = &self.definition.graph.vertices[subtask.vertex];
        vertex
            .operators
            .iter()
            .flat_map(|chained| self.calls(chained))
            .map(|functions| self.user(&functions, subtask))
            .collect()
    }

    /// The functions that an operator calls, each with those that are called together with it.
    fn calls(&self, chained: &ChainedOperator) -> Vec<Vec<&FunctionRef>> {
        let stream = &self.definition.graph.stream;
        let functions: Vec<&FunctionRef> = chained
            .nodes
            .iter()
            .flat_map(|node| stream.functions_of(*node))
            .collect();
        match stream.nodes[chained.nodes[0]].body {
            Body::Function { .. } => vec![functions],
            // The sink itself is the instance.
            Body::FunctionSink { .. } => Vec::new(),
            _ => functions
                .into_iter()
                .map(|function| vec![function])
                .collect(),
        }
    }

    fn operator(
        &self,
        chained: &ChainedOperator,
        subtask: &Subtask,
        seats: &mut Seats,
    ) -> Result<Box<dyn Operator>> {
        let node = &self.definition.graph.stream.nodes[chained.nodes[0]];
        let input = node
            .input_schema
            .as_ref()
            .ok_or_else(|| Error::internal("an operator after a gate or a source has an input"))?;
        let mut users = Vec::new();
        for functions in self.calls(chained) {
            let declared: Vec<Function> = functions
                .iter()
                .map(|function| function.function().clone())
                .collect();
            users.push((seats.take(self.user(&functions, subtask)?), declared));
        }
        match &node.body {
            Body::Sink { .. } | Body::FunctionSink { .. } => {
                let visible = self.visible(node, input)?;
                let sink = self.sink(node, input, &visible, subtask)?;
                let is_all = visible.iter().copied().eq(0..input.fields().len());
                Ok(Box::new(SinkOperator::new(
                    sink,
                    (!is_all).then_some(visible),
                )))
            }
            _ => operator_of(node, users),
        }
    }

    /// A writer for every sink node of these vertices, to settle what earlier tasks have left:
    /// (node, writer).
    pub fn sinks(&self, vertices: &[usize]) -> Result<Vec<(usize, Box<dyn Sink>)>> {
        let mut sinks = Vec::new();
        for (number, node) in self.definition.graph.stream.nodes.iter().enumerate() {
            let subtask = attempt::first_subtask(self.definition, number);
            if let (true, Some(input)) = (
                node.body.is_sink() && vertices.contains(&subtask.vertex),
                &node.input_schema,
            ) {
                let sink = self.sink(node, input, &self.visible(node, input)?, &subtask);
                sinks.push((
                    number,
                    sink.map_err(|e| e.at(format!("node `{}`", node.uid)))?,
                ));
            }
        }
        Ok(sinks)
    }

    /// The folders that the sink of a component has, by name; `None` for a native sink.
    pub fn granted(&self, number: usize) -> Result<Option<BTreeMap<String, String>>> {
        let stream = &self.definition.graph.stream;
        match &stream.nodes[number].body {
            Body::FunctionSink { function, .. } => {
                let grants = &stream.functions[*function as usize].function().grants;
                self.definition
                    .grants
                    .only(grants)
                    .map(|grants| Some(grants.places()))
            }
            _ => Ok(None),
        }
    }

    /// A writer to where a native sink wrote before.
    pub fn sink_as(&self, number: usize, body: &Body) -> Result<Box<dyn Sink>> {
        let node = &self.definition.graph.stream.nodes[number];
        match (body, &node.input_schema) {
            (Body::Sink { connector, options }, Some(input)) => {
                sink(connector, options, input, &self.visible(node, input)?)
            }
            _ => Err(Error::internal(
                "only native sinks have a place of their own",
            )),
        }
    }

    /// The columns that a sink gets: those that its function reads, or all that are not hidden.
    fn visible(&self, node: &StreamNode, input: &SchemaRef) -> Result<Vec<usize>> {
        let Body::FunctionSink { function, .. } = &node.body else {
            return Ok((0..input.fields().len())
                .filter(|&i| !node.hidden.contains(input.field(i).name()))
                .collect());
        };
        let index = |name: &str| {
            input
                .index_of(name)
                .map_err(|e| Error::internal("checked columns are there").with_source(e))
        };
        let function = self.definition.graph.stream.functions[*function as usize].function();
        function
            .input
            .iter()
            .map(|field| index(&field.name))
            .collect()
    }

    fn sink(
        &self,
        node: &StreamNode,
        input: &SchemaRef,
        visible: &[usize],
        subtask: &Subtask,
    ) -> Result<Box<dyn Sink>> {
        let function = match &node.body {
            Body::Sink { connector, options } => return sink(connector, options, input, visible),
            Body::FunctionSink { function, .. } => {
                &self.definition.graph.stream.functions[*function as usize]
            }
            _ => return Err(Error::internal("only sinks are made here")),
        };
        let declared = function.function();
        let plugin = &self.definition.plugins[function.plugin];
        let (place, parallelism) = self.place(subtask);
        let spec = SinkSpec {
            args: plugin.args.clone(),
            plan: function.plan.clone(),
            function: function.number,
            subtask: subtask.index,
            parallelism,
            cancel: self.control.cancel_flag(),
            log: log(place),
            grants: self.definition.grants.only(&declared.grants)?,
        };
        let sink = Box::new(plugin.plugin.sink(spec)?);
        match (&node.body, declared.kind) {
            (
                Body::FunctionSink {
                    write_ahead_bytes, ..
                },
                FunctionKind::WriteAheadSink,
            ) => Ok(Box::new(WriteAheadSink::new(
                sink,
                &declared.input,
                write_ahead_bytes.unwrap_or(WRITE_AHEAD_BYTES),
            ))),
            _ => Ok(sink),
        }
    }

    /// How a subtask is called in logs, and the parallelism of its vertex.
    fn place(&self, subtask: &Subtask) -> (String, u32) {
        let vertex = &self.definition.graph.vertices[subtask.vertex];
        (vertex.subtask_name(subtask.index), vertex.parallelism)
    }

    /// An instance of the functions' plugin, with the functions as a chain.
    fn user(
        &self,
        functions: &[&FunctionRef],
        subtask: &Subtask,
    ) -> Result<Box<dyn FunctionChain>> {
        let plugin = &self.definition.plugins[functions[0].plugin];
        let (place, parallelism) = self.place(subtask);
        let spec = ChainSpec {
            args: plugin.args.clone(),
            plan: functions[0].plan.clone(),
            functions: functions.iter().map(|function| function.number).collect(),
            subtask: subtask.index,
            parallelism,
            cancel: self.control.cancel_flag(),
            log: log(place),
            counters: self.control.user_counters(subtask.vertex, subtask.index),
        };
        Ok(Box::new(plugin.plugin.chain(spec)?))
    }
}

/// The functions that an operator calls together, and what they declare.
pub(crate) type UserChain = (Box<dyn FunctionChain>, Vec<Function>);

/// The operator of a node that is neither a source nor a sink, with the functions that it calls.
///
/// # Errors
/// `Invalid` if something does not fit.
pub(crate) fn operator_of(node: &StreamNode, users: Vec<UserChain>) -> Result<Box<dyn Operator>> {
    let input = node
        .input_schema
        .as_ref()
        .ok_or_else(|| Error::internal("an operator after a gate or a source has an input"))?;
    let mut users = users.into_iter();
    let missing = || Error::internal("a function that an operator calls has its chain");
    Ok(match &node.body {
        Body::Source { .. } | Body::Sink { .. } | Body::FunctionSink { .. } => {
            return Err(Error::internal(
                "sources and sinks stand at the ends of a chain",
            ));
        }
        Body::Aggregate {
            aggregates,
            columns,
        } => Box::new(RunningAggregateOperator::new(
            input,
            node.key.clone(),
            aggregates,
            columns,
        )?),
        Body::Timestamps {
            time,
            generator,
            idle_ms,
        } => Box::new(TimestampsOperator::new(
            time,
            generator,
            *idle_ms,
            input,
            users.next().and_then(single),
        )?),
        Body::Function { .. } => {
            let (user, declared) = users.next().ok_or_else(missing)?;
            function_operator(user, &declared, node, input)?
        }
        Body::Window {
            assigner,
            allowed_lateness_ms,
            contents,
        } => {
            let mut next = || users.next().and_then(single);
            let functions = match contents {
                WindowContents::Builtin { .. } => WindowFunctions::default(),
                WindowContents::Process { .. } => WindowFunctions {
                    aggregate: None,
                    process: next(),
                },
                WindowContents::Aggregate { .. } => WindowFunctions {
                    aggregate: next(),
                    process: next(),
                },
            };
            let (input, output) = (input.clone(), node.outputs[0].clone());
            Box::new(WindowOperator::new(
                assigner,
                *allowed_lateness_ms,
                contents,
                functions,
                input,
                node.key.clone(),
                output,
            )?)
        }
    })
}

fn function_operator(
    user: Box<dyn FunctionChain>,
    declared: &[Function],
    node: &StreamNode,
    input: &SchemaRef,
) -> Result<Box<dyn Operator>> {
    Ok(match (declared[0].key.is_some(), &node.second_schema) {
        (true, None) => Box::new(KeyedProcessOperator::new(
            user,
            declared,
            input,
            node.key.clone(),
        )?),
        (true, Some(second)) => Box::new(
            KeyedProcessOperator::new(user, declared, input, node.key.clone())?
                .with_second_input(declared, second)?,
        ),
        (false, None) => Box::new(TransformOperator::new(user, declared, input)?),
        (false, Some(second)) => Box::new(
            TransformOperator::new(user, declared, input)?.with_second_input(declared, second)?,
        ),
    })
}

/// Puts what a plugin says onto stderr, as far as it is not too much.
fn log(place: String) -> Log {
    Arc::new(move |level, message| {
        guest_log::say(&format!("{} {place}: {message}", level_name(level)))
    })
}

/// A chain of one function.
fn single((chain, declared): UserChain) -> Option<(Box<dyn FunctionChain>, Function)> {
    declared
        .into_iter()
        .next()
        .map(|function| (chain, function))
}

fn sink(
    connector: &str,
    options: &Options,
    input: &SchemaRef,
    visible: &[usize],
) -> Result<Box<dyn Sink>> {
    let schema = input
        .project(visible)
        .map_err(|e| Error::internal("visible columns are columns").with_source(e))?;
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
    fn batch(
        &mut self,
        batch: streamrt_types::Batch,
        output: &mut dyn streamrt_operator::Output,
    ) -> Result<()> {
        output.batch(0, batch)
    }
}
