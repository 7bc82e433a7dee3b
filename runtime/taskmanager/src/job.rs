//! A job from submission to its end: builds every task, starts the threads, and joins them.
//!
//! Everything that can be refused is refused in [`submit`], before a thread runs or a file is opened for writing.

use crate::control::Control;
use crate::dead_letters::DeadLetters;
use crate::exits::TaskExits;
use crate::factory::{Factory, LoadedPlugin};
use crate::reader::Reader;
use crate::task::Task;
use crate::{enumerator, gate_task};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use streamrt_exchange::{InputGate, Partitioner, ResultPartition};
use streamrt_graph::{EdgePartitioner, ExecutionGraph, Head, JobGraph, JobSpec, StreamGraph, Subtask};
use streamrt_operator::{Source, TaskMetrics};
use streamrt_types::{Configuration, Error, KeyEncoder, Result, SystemClock, WATERMARK_MIN, code, default_max_parallelism};

/// A job that runs.
pub struct JobHandle {
    control: Arc<Control>,
    threads: Vec<JoinHandle<()>>,
    metrics: JobMetrics,
    start: Instant,
    bounded: bool,
}

/// The counters of a job's tasks, by what they are good for.
#[derive(Default)]
pub(crate) struct JobMetrics {
    pub sources: Vec<Arc<TaskMetrics>>,
    /// One for each sink operator.
    pub sinks: Vec<Arc<TaskMetrics>>,
    pub tasks: Vec<Arc<TaskMetrics>>,
}

/// A look at a running job.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// Records that sources have read.
    pub records_in: u64,
    /// Records that sinks have got.
    pub records_out: u64,
    /// The smallest watermark of the tasks, in ms; `None` where there is none yet.
    pub watermark: Option<i64>,
    /// The share of time, 0 to 1, that the slowest source task has waited for room so far.
    pub back_pressure: f64,
    pub late_records: u64,
    pub dead_letters: u64,
    pub elapsed: Duration,
}

/// What a job has done, at its end.
pub type Summary = Progress;

/// Starts a job.
///
/// `plugins` are those that the functions of `job` name by index. `parallelism` is for operators that name none.
///
/// # Errors
/// `Invalid` if the job or its configuration is wrong, `Unavailable` if a file or server that it names is missing, `UserCode` if a plugin
/// cannot be started. Nothing runs then.
pub fn submit(job: JobSpec, plugins: Vec<LoadedPlugin>, configuration: Configuration, parallelism: u32) -> Result<JobHandle> {
    let graph = JobGraph::new(StreamGraph::new(&job)?, parallelism);
    let widest = graph.vertices.iter().map(|vertex| vertex.parallelism).max().unwrap_or(1);
    let max_parallelism = configuration.max_parallelism.unwrap_or_else(|| default_max_parallelism(widest));
    if widest > max_parallelism {
        return Err(Error::new(code::BAD_OPTION, format!("parallelism {widest} is more than the max parallelism {max_parallelism}")));
    }
    let control = Arc::new(Control::default());
    let dead_letters = Arc::new(DeadLetters::new(configuration.dead_letters.as_deref()));
    let factory = Factory {
        graph: &graph,
        plugins: &plugins,
        configuration: Arc::new(configuration),
        max_parallelism,
        clock: SystemClock::shared(),
        control: control.clone(),
        dead_letters: Arc::new(move |letter| dead_letters.put(&letter)),
    };
    let mut metrics = JobMetrics::default();
    let tasks = build(&factory, &ExecutionGraph::new(&graph), &mut metrics)?;
    let bounded = factory.sources()?.iter().flatten().all(|source| source.bounded());
    let threads = tasks.into_iter().map(|task| start(task, control.clone())).collect::<Result<_>>()?;
    Ok(JobHandle { control, threads, metrics, start: Instant::now(), bounded })
}

impl JobHandle {
    /// Whether the job ends by itself.
    pub fn is_bounded(&self) -> bool {
        self.bounded
    }

    /// Ends the sources; what is in flight is finished, and sinks make visible what they have. There is no final watermark: open windows
    /// and timers do not fire.
    pub fn stop(&self) {
        self.control.stop();
    }

    pub fn is_finished(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    pub fn progress(&self) -> Progress {
        let sum = |list: &[Arc<TaskMetrics>], of: fn(&TaskMetrics) -> u64| list.iter().map(|metrics| of(metrics)).sum::<u64>();
        let all = || self.metrics.tasks.iter().chain(&self.metrics.sinks).cloned().collect::<Vec<_>>();
        let elapsed = self.start.elapsed();
        let blocked = self.metrics.sources.iter().map(|metrics| metrics.back_pressured_ns.load(Ordering::Relaxed)).max().unwrap_or(0);
        let watermarks = self.metrics.sinks.iter().map(|metrics| metrics.watermark.load(Ordering::Relaxed));
        Progress {
            records_in: sum(&self.metrics.sources, |metrics| metrics.records_in.load(Ordering::Relaxed)),
            records_out: sum(&self.metrics.sinks, |metrics| metrics.records_in.load(Ordering::Relaxed)),
            watermark: watermarks.min().filter(|watermark| *watermark != WATERMARK_MIN),
            back_pressure: (blocked as f64 / elapsed.as_nanos().max(1) as f64).min(1.0),
            late_records: sum(&all(), |metrics| metrics.late_records.load(Ordering::Relaxed)),
            dead_letters: sum(&all(), |metrics| metrics.dead_letters.load(Ordering::Relaxed)),
            elapsed,
        }
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// The first error of a task.
    pub fn wait(mut self) -> Result<Summary> {
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                self.control.fail(Error::internal("a task thread could not be joined"));
            }
        }
        match self.control.take_error() {
            Some(error) => Err(error),
            None => Ok(self.progress()),
        }
    }
}

/// A task that is ready to start.
struct Ready {
    name: String,
    task: Task,
    gate: InputGate,
    head: ReadyHead,
}

enum ReadyHead {
    Enumerator { source: Arc<dyn Source>, parallelism: u32 },
    Reader(Box<Reader>),
    Gate,
}

fn build(factory: &Factory<'_>, execution: &ExecutionGraph, metrics: &mut JobMetrics) -> Result<Vec<Ready>> {
    let sources = factory.sources()?;
    let capacity = factory.configuration.channel_batches;
    let gates: Vec<InputGate> = execution.subtasks.iter().map(|subtask| InputGate::new(subtask.n_channels, capacity)).collect();
    let exits: Vec<TaskExits> = execution.subtasks.iter().map(|subtask| exits(factory, subtask, &gates)).collect();
    let mut tasks = Vec::new();
    for ((subtask, gate), exits) in execution.subtasks.iter().zip(gates).zip(exits) {
        let vertex = &factory.graph.vertices[subtask.vertex];
        let source = |node: usize| sources[node].clone().ok_or_else(|| Error::internal("a source vertex has a source"));
        let task_metrics = Arc::new(TaskMetrics::default());
        metrics.tasks.push(task_metrics.clone());
        let head = match vertex.head {
            Head::Gate => ReadyHead::Gate,
            Head::Enumerator { node } => {
                let parallelism = factory.graph.vertices[vertex.exits[0].to].parallelism;
                ReadyHead::Enumerator { source: source(node)?, parallelism }
            }
            Head::Reader { node } => {
                metrics.sources.push(task_metrics.clone());
                let context = factory.context(node, subtask, task_metrics.clone());
                ReadyHead::Reader(Box::new(Reader::new(source(node)?, context)))
            }
        };
        let chain = factory.chain(subtask, &task_metrics, &mut metrics.sinks)?;
        factory.control.watch(gate.waker());
        let (clock, control) = (factory.clock.clone(), factory.control.clone());
        let task = Task { chain, exits, clock, metrics: task_metrics, control };
        tasks.push(Ready { name: format!("{} ({}/{})", vertex.name, subtask.index + 1, vertex.parallelism), task, gate, head });
    }
    Ok(tasks)
}

fn exits(factory: &Factory<'_>, subtask: &Subtask, gates: &[InputGate]) -> TaskExits {
    let vertex = &factory.graph.vertices[subtask.vertex];
    let partition = |(exit, channels): (&streamrt_graph::Exit, &Vec<streamrt_graph::Channel>)| {
        let partitioner = match &exit.partitioner {
            EdgePartitioner::Forward => Partitioner::Forward,
            EdgePartitioner::Hash(columns) => {
                Partitioner::Hash { encoder: KeyEncoder::new(columns.clone()), max_parallelism: factory.max_parallelism }
            }
            EdgePartitioner::Rebalance => Partitioner::Rebalance,
            EdgePartitioner::Broadcast => Partitioner::Broadcast,
            EdgePartitioner::Global => Partitioner::Global,
        };
        let turn = subtask.index as usize;
        ResultPartition::new(partitioner, channels.iter().map(|channel| gates[channel.to].sender(channel.channel)).collect(), turn)
    };
    TaskExits { partitions: vertex.exits.iter().zip(&subtask.exits).map(partition).collect() }
}

/// Starts the thread of a task. Whatever ends it, its chain is closed, and an error ends the job.
fn start(ready: Ready, control: Arc<Control>) -> Result<JoinHandle<()>> {
    let Ready { name, mut task, mut gate, head } = ready;
    let cancel = control.clone();
    let body = move || {
        let ran = std::panic::catch_unwind(AssertUnwindSafe(|| run(&mut task, &mut gate, head)));
        let closed = std::panic::catch_unwind(AssertUnwindSafe(|| task.chain.close()));
        for result in [ran, closed] {
            match result {
                Ok(Ok(())) => {}
                Ok(Err(error)) => control.fail(error),
                Err(panic) => control.fail(Error::internal(format!("a task panicked: {}", panic_text(panic.as_ref())))),
            }
        }
    };
    let builder = std::thread::Builder::new().name(name.chars().take(15).collect());
    builder.spawn(body).map_err(|e| {
        let error = Error::internal(format!("no thread could be started for task {name}")).with_source(e);
        cancel.fail(Control::cancelled());
        error
    })
}

fn run(task: &mut Task, gate: &mut InputGate, head: ReadyHead) -> Result<()> {
    task.chain.open()?;
    match head {
        ReadyHead::Gate => gate_task::run(task, gate),
        ReadyHead::Reader(mut reader) => reader.run(task, gate),
        ReadyHead::Enumerator { source, parallelism } => enumerator::run(&source, parallelism, &mut task.exits, gate, &task.control),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}
