//! The tasks of a region: builds them, gives each what a checkpoint kept for it, and starts its
//! thread.

use crate::alignment::Alignment;
use crate::control::Control;
use crate::dead_letters::DeadLetters;
use crate::definition::Definition;
use crate::enumerator::{ENUMERATOR_SUFFIX, Enumerator};
use crate::exits::TaskExits;
use crate::factory::Factory;
use crate::gate_task;
use crate::mailbox::{CheckpointLine, Mailbox};
use crate::metrics::RegionMetrics;
use crate::rate::RateLimiter;
use crate::reader::{Reader, Shared};
use crate::restored::Restored;
use crate::task::{GATE_SUFFIX, GATE_WATERMARK, Task};
use crate::uploader::Reports;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread::JoinHandle;
use streamrt_exchange::{InputGate, Partitioner, ResultPartition};
use streamrt_graph::{EdgePartitioner, Head, Subtask};
use streamrt_operator::{Isolation, OperatorContext, Source, TaskMetrics};
use streamrt_state::OperatorState;
use streamrt_types::{
    Error, KeyEncoder, Result, WATERMARK_MIN, Watermark, begin_attempt, code, inheriting,
};
use streamrt_wit::Body;

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

/// Builds the tasks of the region of these vertices, in the order of the execution graph. With
/// `reports` they take part in checkpoints.
///
/// # Errors
/// What is wrong with the job, or does not fit what the checkpoint kept.
pub(crate) fn build(
    factory: &Factory<'_>,
    vertices: &[usize],
    reports: Option<&Reports>,
) -> Result<ReadyRegion> {
    begin_attempt(factory.generation);
    let definition = factory.definition;
    let subtasks: Vec<(usize, &Subtask)> = definition.tasks_of(vertices).collect();
    let capacity = definition.configuration.exchange_bytes;
    let gates: BTreeMap<usize, InputGate> = subtasks
        .iter()
        .map(|(number, subtask)| (*number, gate(subtask, capacity)))
        .collect();
    let letters = || DeadLetters::new(definition.configuration.dead_letters.clone());
    let places: Vec<(Arc<TaskMetrics>, DeadLetters)> = subtasks
        .iter()
        .map(|_| (Arc::default(), letters()))
        .collect();
    let exits: Vec<TaskExits> = subtasks
        .iter()
        .zip(&places)
        .map(|((_, subtask), place)| exits(factory, subtask, &gates, place))
        .collect();
    let mut readers = Readers::new(definition, &subtasks);
    let (mut tasks, mut mailboxes, mut metrics) =
        (Vec::new(), Vec::new(), RegionMetrics::default());
    let heads = subtasks.into_iter().zip(gates.into_values());
    for (((number, subtask), gate), (exits, (task_metrics, letters))) in
        heads.zip(exits.into_iter().zip(places))
    {
        let place = Place {
            number,
            subtask,
            gate,
            exits,
            metrics: task_metrics,
            letters,
        };
        let (task, mailbox) = ready(factory, place, reports, &mut readers, &mut metrics)?;
        tasks.push(task);
        mailboxes.push((number, mailbox));
    }
    Ok(ReadyRegion {
        tasks,
        mailboxes,
        metrics,
    })
}

/// A subtask, and what was made for it before its chain.
struct Place<'a> {
    number: usize,
    subtask: &'a Subtask,
    gate: InputGate,
    exits: TaskExits,
    metrics: Arc<TaskMetrics>,
    letters: DeadLetters,
}

/// Builds a task with its chain, and adds what it counts to the metrics of its region.
fn ready(
    factory: &Factory<'_>,
    place: Place<'_>,
    reports: Option<&Reports>,
    readers: &mut Readers,
    region: &mut RegionMetrics,
) -> Result<(Ready, Arc<Mailbox>)> {
    let Factory {
        definition,
        restored,
        ..
    } = factory;
    let Place {
        number,
        subtask,
        mut gate,
        exits,
        metrics,
        letters,
    } = place;
    let vertex = &definition.graph.vertices[subtask.vertex];
    TaskMetrics::add(&metrics.dead_letters, restored.letters_of(subtask));
    region.tasks.push(metrics.clone());
    let head = head(factory, subtask, &letters, restored, readers, region)?;
    let (chain, seats) = factory.chain((number, subtask), &metrics, &letters, &mut region.sinks)?;
    if let (ReadyHead::Gate, Some(context)) = (&head, chain.contexts().next()) {
        gate.restore(gate_watermark(restored, context)?);
    }
    factory.control.watch(gate.waker());
    let mailbox = Arc::new(Mailbox::new(gate.waker()));
    let line = |reports: &Reports| CheckpointLine::new(number, mailbox.clone(), reports.clone());
    let task = Task {
        chain,
        seats,
        exits,
        clock: definition.clock.clone(),
        metrics,
        control: factory.control.clone(),
        checkpoints: reports.map(line),
        ended: false,
        published: None,
    };
    let name = vertex.subtask_name(subtask.index);
    let ready = Ready {
        name,
        task,
        gate,
        head,
        restored: restored.clone(),
    };
    Ok((ready, mailbox))
}

/// What readers share.
struct Readers {
    /// By stream node.
    rates: Vec<Option<Arc<RateLimiter>>>,
    alignment: Option<Arc<Alignment>>,
    n_readers: usize,
}

impl Readers {
    fn new(definition: &Definition, subtasks: &[(usize, &Subtask)]) -> Readers {
        let configuration = &definition.configuration;
        let limiter = |_| {
            configuration
                .source_rate
                .map(|rate| Arc::new(RateLimiter::new(rate)))
        };
        let is_reader = |subtask: &Subtask| {
            matches!(
                definition.graph.vertices[subtask.vertex].head,
                Head::Reader { .. }
            )
        };
        let n_readers = subtasks
            .iter()
            .filter(|(_, subtask)| is_reader(subtask))
            .count();
        Readers {
            rates: (0..definition.graph.stream.nodes.len())
                .map(limiter)
                .collect(),
            alignment: configuration
                .watermark_alignment_ms
                .map(|drift_ms| Arc::new(Alignment::new(drift_ms, n_readers))),
            n_readers: 0,
        }
    }

    /// What the next reader gets, which is one of the source at `node`.
    fn next(&mut self, node: usize) -> Shared {
        let number = self.n_readers;
        self.n_readers += 1;
        Shared {
            rate: self.rates[node].clone(),
            alignment: self.alignment.clone().map(|alignment| (alignment, number)),
        }
    }
}

/// A channel has room for so many bytes however many share a gate: some batches, or a batch cut for
/// that many receivers would not fit.
const CHANNEL_BYTES_MIN: usize = 64 << 10;

fn gate(subtask: &Subtask, exchange_bytes: usize) -> InputGate {
    let share = exchange_bytes / subtask.n_channels.max(1);
    let mut gate = InputGate::new(
        subtask.n_channels,
        share.max(CHANNEL_BYTES_MIN.min(exchange_bytes)),
    );
    gate.set_second_input(&subtask.second_input);
    gate
}

fn head(
    factory: &Factory<'_>,
    subtask: &Subtask,
    letters: &DeadLetters,
    restored: &Restored,
    readers: &mut Readers,
    metrics: &mut RegionMetrics,
) -> Result<ReadyHead> {
    let definition = factory.definition;
    let vertex = &definition.graph.vertices[subtask.vertex];
    match vertex.head {
        Head::Gate => Ok(ReadyHead::Gate),
        Head::Enumerator { node } => {
            let n_readers = definition.graph.vertices[vertex.exits[0].to].parallelism;
            enumerator(
                factory.context(node, subtask, Arc::default(), letters),
                &source(factory, node)?,
                n_readers,
                restored,
            )
            .map(ReadyHead::Enumerator)
        }
        Head::Reader { node } => {
            let task_metrics = metrics.tasks.last().cloned().unwrap_or_default();
            metrics.sources.push(task_metrics.clone());
            let context = factory.context(node, subtask, task_metrics, letters);
            let mut state = restored.state(&context.uid.clone(), &context)?;
            let mut reader = Reader::new(source(factory, node)?, context, readers.next(node));
            reader.restore(&mut state)?;
            state.check_taken()?;
            Ok(ReadyHead::Reader(Box::new(reader)))
        }
    }
}

fn source(factory: &Factory<'_>, node: usize) -> Result<Arc<dyn Source>> {
    factory.definition.sources[node]
        .clone()
        .ok_or_else(|| Error::internal("a source vertex has a source"))
}

fn enumerator(
    context: OperatorContext,
    source: &Arc<dyn Source>,
    readers: u32,
    restored: &Restored,
) -> Result<Enumerator> {
    let uid = format!("{}{ENUMERATOR_SUFFIX}", context.uid);
    let mut state = restored.state(&uid, &context)?;
    Enumerator::new(
        context.uid,
        source,
        readers,
        &mut state,
        restored.is_finished(&uid),
    )
}

/// The place of the first subtask that runs a stream node.
pub(crate) fn first_subtask(definition: &Definition, node: usize) -> Subtask {
    let runs = |vertex: &streamrt_graph::JobVertex| {
        vertex
            .operators
            .iter()
            .any(|operator| operator.nodes.contains(&node))
    };
    let vertex = definition.graph.vertices.iter().position(runs).unwrap_or(0);
    Subtask {
        vertex,
        index: 0,
        n_channels: 0,
        second_input: Vec::new(),
        exits: Vec::new(),
    }
}

/// The watermark that all old subtasks of a gate had reached.
fn gate_watermark(restored: &Restored, context: &OperatorContext) -> Result<Watermark> {
    let items = restored
        .state(&format!("{}{GATE_SUFFIX}", context.uid), context)?
        .list(GATE_WATERMARK);
    let watermarks = items
        .iter()
        .filter_map(|item| item.as_slice().try_into().ok().map(i64::from_le_bytes));
    Ok(watermarks.min().unwrap_or(WATERMARK_MIN))
}

fn exits(
    factory: &Factory<'_>,
    subtask: &Subtask,
    gates: &BTreeMap<usize, InputGate>,
    (metrics, letters): &(Arc<TaskMetrics>, DeadLetters),
) -> TaskExits {
    let definition = factory.definition;
    let vertex = &definition.graph.vertices[subtask.vertex];
    let partition = |(exit, channels): (&streamrt_graph::Exit, &Vec<streamrt_graph::Channel>)| {
        let partitioner = match &exit.partitioner {
            EdgePartitioner::Forward => Partitioner::Forward,
            EdgePartitioner::Hash(columns) => Partitioner::Hash {
                encoder: KeyEncoder::new(columns.clone()),
                max_parallelism: definition.max_parallelism,
            },
            EdgePartitioner::Rebalance => Partitioner::Rebalance,
            EdgePartitioner::Broadcast => Partitioner::Broadcast,
            EdgePartitioner::Global => Partitioner::Global,
        };
        let (turn, is_hash) = (
            subtask.index as usize,
            matches!(partitioner, Partitioner::Hash { .. }),
        );
        let senders = channels
            .iter()
            .map(|channel| gates[&channel.to].sender(channel.channel))
            .collect();
        let partition = ResultPartition::new(partitioner, senders, turn);
        // A row without a key is one that the receiver's first operator cannot treat.
        match definition.graph.vertices[exit.to]
            .operators
            .first()
            .filter(|_| is_hash)
        {
            Some(receiver) => {
                let isolation = Isolation::new(&factory.context(
                    receiver.nodes[0],
                    subtask,
                    metrics.clone(),
                    letters,
                ));
                partition.refusing(Box::new(move |batch, row, error| {
                    isolation.refuse_row(batch, row, error)
                }))
            }
            None => partition,
        }
    };
    TaskExits {
        metrics: metrics.clone(),
        partitions: vertex
            .exits
            .iter()
            .zip(&subtask.exits)
            .map(partition)
            .collect(),
        tells_splits: vertex
            .exits
            .iter()
            .map(|exit| makes_watermarks(definition, exit.to))
            .collect(),
    }
}

/// Whether an operator of this vertex, or one after it, makes watermarks.
fn makes_watermarks(definition: &Definition, vertex: usize) -> bool {
    let (graph, nodes) = (&definition.graph, &definition.graph.stream.nodes);
    let (mut seen, mut next) = (BTreeSet::new(), vec![vertex]);
    while let Some(vertex) = next.pop() {
        let mut chained = graph.vertices[vertex]
            .operators
            .iter()
            .flat_map(|operator| &operator.nodes);
        if chained.any(|&node| matches!(nodes[node].body, Body::Timestamps { .. })) {
            return true;
        }
        next.extend(
            graph.vertices[vertex]
                .exits
                .iter()
                .map(|exit| exit.to)
                .filter(|to| seen.insert(*to)),
        );
    }
    false
}

/// Starts the thread of a task. Whatever ends it, its chain is closed, an error ends the region,
/// and `ended` is told.
pub(crate) fn start(
    ready: Ready,
    control: Arc<Control>,
    ended: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>> {
    let Ready {
        name,
        mut task,
        mut gate,
        head,
        restored,
    } = ready;
    let cancel = control.clone();
    let body = move || {
        let ran = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let ran = run(&mut task, &mut gate, head, &restored);
            ran.map_err(|error| {
                if error.code() == code::PROCESS_MEMORY {
                    control.memory.report(task.chain.state_bytes())
                } else {
                    error
                }
            })
        }));
        let closed = std::panic::catch_unwind(AssertUnwindSafe(|| task.chain.close()));
        for result in [ran, closed] {
            match result {
                Ok(Ok(())) => {}
                Ok(Err(error)) => control.fail(error),
                Err(panic) => control.fail(Error::internal(format!(
                    "a task panicked: {}",
                    panic_text(panic.as_ref())
                ))),
            }
        }
        ended();
    };
    let builder = std::thread::Builder::new().name(name.chars().take(15).collect());
    builder.spawn(inheriting(body)).map_err(|e| {
        let error =
            Error::internal(format!("no thread could be started for task {name}")).with_source(e);
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
    let of_reader =
        |context: &OperatorContext| reader.as_ref().is_some_and(|uid| *uid == context.uid);
    task.chain.restore(|context| {
        if of_reader(context) {
            Ok(OperatorState::default())
        } else {
            restored.state(&context.uid, context)
        }
    })?;
    match head {
        ReadyHead::Gate => gate_task::run(task, gate),
        ReadyHead::Reader(mut reader) => reader.run(task, gate),
        ReadyHead::Enumerator(mut enumerator) => enumerator.run(task, gate),
    }
}

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}
