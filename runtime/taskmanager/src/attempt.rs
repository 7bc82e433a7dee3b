//! The tasks of a region: builds them, gives each what a checkpoint kept for it, and starts its thread.

use crate::control::Control;
use crate::dead_letters::DeadLetters;
use crate::enumerator::{ENUMERATOR_SUFFIX, Enumerator};
use crate::exits::TaskExits;
use crate::factory::{Definition, Factory};
use crate::gate_task;
use crate::job::RegionMetrics;
use crate::mailbox::{CheckpointLine, Mailbox, Report};
use crate::rate::RateLimiter;
use crate::reader::Reader;
use crate::restored::Restored;
use crate::task::{GATE_SUFFIX, GATE_WATERMARK, Task};
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use streamrt_exchange::{InputGate, Partitioner, ResultPartition};
use streamrt_graph::{EdgePartitioner, Head, Subtask};
use streamrt_operator::{OperatorContext, Source, TaskMetrics};
use streamrt_state::OperatorState;
use streamrt_types::{Error, KeyEncoder, Result, WATERMARK_MIN, Watermark};

/// A task that is ready to start.
pub(crate) struct Ready {
    name: String,
    task: Task,
    gate: InputGate,
    head: ReadyHead,
    restored: Arc<Restored>,
}

enum ReadyHead {
    Enumerator(Enumerator),
    Reader(Box<Reader>),
    Gate,
}

/// A region that is ready to start.
pub(crate) struct ReadyRegion {
    pub tasks: Vec<Ready>,
    /// With the numbers of the tasks in the execution graph.
    pub mailboxes: Vec<(usize, Arc<Mailbox>)>,
    pub metrics: RegionMetrics,
}

/// Builds the tasks of the region of these vertices, in the order of the execution graph. With `reports` they take part in checkpoints.
///
/// # Errors
/// What is wrong with the job, or does not fit what the checkpoint kept.
pub(crate) fn build(factory: &Factory<'_>, vertices: &[usize], reports: Option<&Sender<Report>>) -> Result<ReadyRegion> {
    let Factory { definition, restored, .. } = factory;
    let subtasks: Vec<(usize, &Subtask)> = definition.tasks_of(vertices).collect();
    let capacity = definition.configuration.channel_bytes;
    let gates: BTreeMap<usize, InputGate> = subtasks.iter().map(|(number, subtask)| (*number, gate(subtask, capacity))).collect();
    let exits: Vec<TaskExits> = subtasks.iter().map(|(_, subtask)| exits(factory, subtask, &gates)).collect();
    let limiter = |_| definition.configuration.source_rate.map(|rate| Arc::new(RateLimiter::new(rate)));
    let rates: Vec<Option<Arc<RateLimiter>>> = (0..definition.graph.stream.nodes.len()).map(limiter).collect();
    let (mut tasks, mut mailboxes, mut metrics) = (Vec::new(), Vec::new(), RegionMetrics::default());
    for (((number, subtask), mut gate), exits) in subtasks.into_iter().zip(gates.into_values()).zip(exits) {
        let vertex = &definition.graph.vertices[subtask.vertex];
        let task_metrics = Arc::new(TaskMetrics::default());
        TaskMetrics::add(&task_metrics.dead_letters, restored.letters_of(subtask));
        metrics.tasks.push(task_metrics.clone());
        let letters = DeadLetters::new(definition.configuration.dead_letters.clone());
        let head = head(factory, subtask, &letters, restored, &rates, &mut metrics)?;
        let (chain, seats) = factory.chain((number, subtask), &task_metrics, &letters, &mut metrics.sinks)?;
        if let (ReadyHead::Gate, Some(context)) = (&head, chain.contexts().next()) {
            gate.restore(gate_watermark(restored, context)?);
        }
        factory.control.watch(gate.waker());
        let mailbox = Arc::new(Mailbox::new(gate.waker()));
        mailboxes.push((number, mailbox.clone()));
        let checkpoints = reports.map(|reports| CheckpointLine::new(number, mailbox, reports.clone()));
        let (clock, control) = (definition.clock.clone(), factory.control.clone());
        let task = Task { chain, seats, exits, clock, metrics: task_metrics, control, checkpoints, ended: false };
        let name = format!("{} ({}/{})", vertex.name, subtask.index + 1, vertex.parallelism);
        tasks.push(Ready { name, task, gate, head, restored: restored.clone() });
    }
    Ok(ReadyRegion { tasks, mailboxes, metrics })
}

fn gate(subtask: &Subtask, capacity_bytes: usize) -> InputGate {
    let mut gate = InputGate::new(subtask.n_channels, capacity_bytes);
    gate.set_second_input(&subtask.second_input);
    gate
}

fn head(
    factory: &Factory<'_>,
    subtask: &Subtask,
    letters: &DeadLetters,
    restored: &Restored,
    rates: &[Option<Arc<RateLimiter>>],
    metrics: &mut RegionMetrics,
) -> Result<ReadyHead> {
    let definition = factory.definition;
    let vertex = &definition.graph.vertices[subtask.vertex];
    match vertex.head {
        Head::Gate => Ok(ReadyHead::Gate),
        Head::Enumerator { node } => {
            let readers = definition.graph.vertices[vertex.exits[0].to].parallelism;
            enumerator(factory.context(node, subtask, Arc::default(), letters), &source(factory, node)?, readers, restored)
                .map(ReadyHead::Enumerator)
        }
        Head::Reader { node } => {
            let task_metrics = metrics.tasks.last().cloned().unwrap_or_default();
            metrics.sources.push(task_metrics.clone());
            let context = factory.context(node, subtask, task_metrics, letters);
            let mut state = restored.state(&context.uid.clone(), &context)?;
            let mut reader = Reader::new(source(factory, node)?, context, rates[node].clone());
            reader.restore(&mut state)?;
            state.check_taken()?;
            Ok(ReadyHead::Reader(Box::new(reader)))
        }
    }
}

fn source(factory: &Factory<'_>, node: usize) -> Result<Arc<dyn Source>> {
    factory.definition.sources[node].clone().ok_or_else(|| Error::internal("a source vertex has a source"))
}

fn enumerator(context: OperatorContext, source: &Arc<dyn Source>, readers: u32, restored: &Restored) -> Result<Enumerator> {
    let uid = format!("{}{ENUMERATOR_SUFFIX}", context.uid);
    let mut state = restored.state(&uid, &context)?;
    Enumerator::new(context.uid, source, readers, &mut state, restored.is_finished(&uid))
}

/// The place of the first subtask that runs a stream node.
pub(crate) fn first_subtask(definition: &Definition, node: usize) -> Subtask {
    let runs = |vertex: &streamrt_graph::JobVertex| vertex.operators.iter().any(|operator| operator.nodes.contains(&node));
    let vertex = definition.graph.vertices.iter().position(runs).unwrap_or(0);
    Subtask { vertex, index: 0, n_channels: 0, second_input: Vec::new(), exits: Vec::new() }
}

/// The watermark that all old subtasks of a gate had reached.
fn gate_watermark(restored: &Restored, context: &OperatorContext) -> Result<Watermark> {
    let items = restored.state(&format!("{}{GATE_SUFFIX}", context.uid), context)?.list(GATE_WATERMARK);
    let watermarks = items.iter().filter_map(|item| item.as_slice().try_into().ok().map(i64::from_le_bytes));
    Ok(watermarks.min().unwrap_or(WATERMARK_MIN))
}

fn exits(factory: &Factory<'_>, subtask: &Subtask, gates: &BTreeMap<usize, InputGate>) -> TaskExits {
    let definition = factory.definition;
    let vertex = &definition.graph.vertices[subtask.vertex];
    let partition = |(exit, channels): (&streamrt_graph::Exit, &Vec<streamrt_graph::Channel>)| {
        let partitioner = match &exit.partitioner {
            EdgePartitioner::Forward => Partitioner::Forward,
            EdgePartitioner::Hash(columns) => {
                Partitioner::Hash { encoder: KeyEncoder::new(columns.clone()), max_parallelism: definition.max_parallelism }
            }
            EdgePartitioner::Rebalance => Partitioner::Rebalance,
            EdgePartitioner::Broadcast => Partitioner::Broadcast,
            EdgePartitioner::Global => Partitioner::Global,
        };
        let turn = subtask.index as usize;
        ResultPartition::new(partitioner, channels.iter().map(|channel| gates[&channel.to].sender(channel.channel)).collect(), turn)
    };
    TaskExits { partitions: vertex.exits.iter().zip(&subtask.exits).map(partition).collect() }
}

/// Starts the thread of a task. Whatever ends it, its chain is closed, an error ends the region, and `ended` is told.
pub(crate) fn start(ready: Ready, control: Arc<Control>, ended: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let Ready { name, mut task, mut gate, head, restored } = ready;
    let cancel = control.clone();
    let body = move || {
        let ran = std::panic::catch_unwind(AssertUnwindSafe(|| run(&mut task, &mut gate, head, &restored)));
        let closed = std::panic::catch_unwind(AssertUnwindSafe(|| task.chain.close()));
        for result in [ran, closed] {
            match result {
                Ok(Ok(())) => {}
                Ok(Err(error)) => control.fail(error),
                Err(panic) => control.fail(Error::internal(format!("a task panicked: {}", panic_text(panic.as_ref())))),
            }
        }
        ended();
    };
    let builder = std::thread::Builder::new().name(name.chars().take(15).collect());
    builder.spawn(body).map_err(|e| {
        let error = Error::internal(format!("no thread could be started for task {name}")).with_source(e);
        cancel.fail(Control::cancelled());
        error
    })
}

fn run(task: &mut Task, gate: &mut InputGate, head: ReadyHead, restored: &Restored) -> Result<()> {
    task.chain.open()?;
    let reader = match &head {
        ReadyHead::Reader(reader) => Some(reader.context.uid.clone()),
        _ => None,
    };
    // The state of a source is its reader's.
    let of_reader = |context: &OperatorContext| reader.as_ref().is_some_and(|uid| *uid == context.uid);
    task.chain.restore(|context| if of_reader(context) { Ok(OperatorState::default()) } else { restored.state(&context.uid, context) })?;
    match head {
        ReadyHead::Gate => gate_task::run(task, gate),
        ReadyHead::Reader(mut reader) => reader.run(task, gate),
        ReadyHead::Enumerator(mut enumerator) => enumerator.run(task, gate),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}
