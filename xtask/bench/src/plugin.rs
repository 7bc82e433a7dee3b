//! `bench plugin`: the same function as a plugin and natively, behind the same operator, fed by the
//! same generator, in one thread.

use crate::measure::{pairs, thread_cpu_time};
use crate::native::Native;
use crate::report::{Goal, Report};
use anyhow::{Context, Result, ensure};
use arrow_schema::SchemaRef;
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use streamrt_folders::Folder;
use streamrt_operator::{
    Enumeration, Failure, FunctionChain, Invocation, KeyedProcessOperator, Operator,
    OperatorContext, Outcome, Output, ReaderPoll, SplitEvent, TaskMetrics, TransformOperator,
};
use streamrt_plugin::{ChainSpec, CompiledCode, Plugin, PluginChain, PluginHost};
use streamrt_types::{
    Batch, Configuration, KeyGroupRange, Result as EngineResult, Status, SystemClock, Watermark,
    arrow_schema,
};
use streamrt_wit::{Function, Plan};

const BATCH_ROWS: usize = 1024;
const ROWS: u64 = 10_000_000;
const KEYS: u64 = 100_000;

struct Case {
    /// The name of the function in the guest.
    name: &'static str,
    title: &'static str,
    native: Native,
    goal: f64,
}

const CASES: [Case; 3] = [
    Case {
        name: "map",
        title: "map on one integer column",
        native: Native::Map,
        goal: 1.3,
    },
    Case {
        name: "filter",
        title: "filter on a string column",
        native: Native::Filter,
        goal: 1.5,
    },
    Case {
        name: "keyed-sum",
        title: "keyed running sum, 100,000 keys",
        native: Native::KeyedSum,
        goal: 2.0,
    },
];

pub fn run(report: &mut Report, component: &Path) -> Result<()> {
    let bytes = std::fs::read(component)
        .with_context(|| format!("{} cannot be read", component.display()))?;
    let cache = tempfile::tempdir()?;
    let host = PluginHost::new(&Configuration::default(), Some(compiled_in(cache.path())?))?;
    let plugin = host.load(&bytes)?;
    let plan = Arc::new(plugin.describe(&[])?);
    for case in &CASES {
        bench(report, case, &plugin, &plan)?;
    }
    windows_make_no_guest_call(report);
    starts(report, &plugin, &plan)?;
    command_to_first_record(report)
}

/// Compiled code in a folder of the benchmark's own, below `folder`.
pub fn compiled_in(folder: &Path) -> Result<CompiledCode> {
    Ok(CompiledCode::new(
        Folder::guarded(folder, &["compiled"])?,
        &[0; 32],
    ))
}

fn bench(report: &mut Report, case: &Case, plugin: &Arc<Plugin>, plan: &Arc<Plan>) -> Result<()> {
    let function = plan
        .functions
        .iter()
        .find(|f| f.name == case.name)
        .with_context(|| format!("the guest has no function {}", case.name))?;
    let guest = || -> Result<Box<dyn FunctionChain>> {
        Ok(Box::new(plugin.chain(chain_spec(plan, function.number))?))
    };
    let native = || -> Result<Box<dyn FunctionChain>> { Ok(Box::new(case.native)) };
    let (ours, theirs) = (
        timed(case, function, guest()?, 200_000)?,
        timed(case, function, native()?, 200_000)?,
    );
    ensure!(
        ours.checksum == theirs.checksum,
        "{}: the plugin gives other rows than the native function",
        case.title
    );
    let alone = Cell::new((0.0, 0.0));
    let (plugin_cost, native_cost, ratio) = pairs(
        || {
            timed(case, function, guest()?, ROWS)
                .map(|run| run.keep(&alone, |costs, ns| costs.0 += ns))
        },
        || {
            timed(case, function, native()?, ROWS)
                .map(|run| run.keep(&alone, |costs, ns| costs.1 += ns))
        },
    )?;
    report.spread(
        &format!("{}: plugin", case.title),
        plugin_cost.rate(),
        "records/CPU-s",
        Goal::None,
    );
    report.spread(
        &format!("{}: native", case.title),
        native_cost.rate(),
        "records/CPU-s",
        Goal::None,
    );
    report.spread(
        &format!("{}: plugin over native, time", case.title),
        ratio,
        "ratio",
        Goal::AtMost(case.goal),
    );
    let (guest_ns, native_ns) = alone.get();
    report.figure(
        &format!("{}: the function alone", case.title),
        guest_ns / native_ns,
        "ratio",
        Goal::None,
    );
    let goal = if case.native == Native::KeyedSum {
        Goal::AtMost(4.0)
    } else {
        Goal::None
    };
    report.figure(
        &format!("{}: calls across the boundary", case.title),
        calls_a_batch(case, function, plugin, plan)?,
        "calls/batch",
        goal,
    );
    Ok(())
}

fn chain_spec(plan: &Arc<Plan>, function: u32) -> ChainSpec {
    ChainSpec {
        args: Vec::new(),
        plan: plan.clone(),
        functions: vec![function],
        subtask: 0,
        parallelism: 1,
        cancel: Arc::default(),
        log: Arc::new(|_, message| eprintln!("{message}")),
        counters: Arc::default(),
    }
}

/// What one run took and gave.
struct Run {
    cpu: Duration,
    function: Duration,
    checksum: u64,
    rows: u64,
}

impl Run {
    /// CPU cost of a row in ns; adds the function's own to `alone`.
    fn keep(self, alone: &Cell<(f64, f64)>, add: impl Fn(&mut (f64, f64), f64)) -> f64 {
        let mut costs = alone.get();
        add(
            &mut costs,
            self.function.as_nanos() as f64 / self.rows as f64,
        );
        alone.set(costs);
        self.cpu.as_nanos() as f64 / self.rows as f64
    }
}

/// Generator, operator and blackhole in one loop.
fn timed(
    case: &Case,
    function: &Function,
    chain: Box<dyn FunctionChain>,
    rows: u64,
) -> Result<Run> {
    let spent = Arc::new(AtomicU64::new(0));
    let chain = Box::new(Timed {
        chain,
        spent: spent.clone(),
    });
    let mut operator = operator(case, function, chain)?;
    operator.open(&context())?;
    let mut sink = Blackhole {
        checksum: 0,
        check: rows < ROWS,
    };
    let cpu = thread_cpu_time()?;
    bids(rows, |batch| operator.batch(batch, &mut sink))?;
    let cpu = thread_cpu_time()?.saturating_sub(cpu);
    operator.close()?;
    Ok(Run {
        cpu,
        function: Duration::from_nanos(spent.load(Ordering::Relaxed)),
        checksum: sink.checksum,
        rows,
    })
}

/// The whole bid: what a job over bids would read.
fn input_schema() -> Result<streamrt_wit::Schema> {
    crate::jobs::Job::Bid.fields()
}

fn operator(
    case: &Case,
    function: &Function,
    chain: Box<dyn FunctionChain>,
) -> Result<Box<dyn Operator>> {
    let schema: SchemaRef = arrow_schema(&input_schema()?);
    let functions = std::slice::from_ref(function);
    Ok(match case.native {
        Native::KeyedSum => Box::new(KeyedProcessOperator::new(
            chain,
            functions,
            &schema,
            vec![0],
        )?),
        Native::Map | Native::Filter => {
            Box::new(TransformOperator::new(chain, functions, &schema)?)
        }
    })
}

fn bids(rows: u64, mut each: impl FnMut(Batch) -> EngineResult<()>) -> Result<()> {
    let options = serde_json::json!({"rows": rows, "auctions": KEYS});
    let source = streamrt_connector::source(
        "nexmark",
        options.as_object().context("options are an object")?,
        &input_schema()?,
    )?;
    let Enumeration::Splits(splits) = source.enumerator(None)?.poll(1)? else {
        anyhow::bail!("the generator gives its splits at once")
    };
    for split in splits {
        let mut reader = source.open(&split, None)?;
        while let ReaderPoll::Batch(batch) = reader.poll(BATCH_ROWS, Duration::MAX)? {
            each(batch)?;
        }
    }
    Ok(())
}

fn context() -> OperatorContext {
    OperatorContext {
        job: Arc::from("bench"),
        generation: 1,
        cancel: Arc::default(),
        memory: Arc::default(),
        uid: Arc::from("bench"),
        subtask: 0,
        parallelism: 1,
        max_parallelism: 128,
        key_groups: KeyGroupRange::all(128),
        clock: SystemClock::shared(),
        configuration: Arc::new(Configuration::default()),
        metrics: Arc::new(TaskMetrics::default()),
        disk: None,
        dead_letters: Arc::new(|_| Ok(())),
    }
}

/// Measures the function alone; two looks at the clock per batch.
struct Timed {
    chain: Box<dyn FunctionChain>,
    spent: Arc<AtomicU64>,
}

impl FunctionChain for Timed {
    fn invoke(
        &mut self,
        invocation: Invocation,
        deadline: Duration,
    ) -> std::result::Result<Outcome, Failure> {
        let start = Instant::now();
        let outcome = self.chain.invoke(invocation, deadline);
        self.spent
            .fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
        outcome
    }
}

/// Keeps the chain's count of calls, in both directions, where it can be read.
struct Counted {
    chain: PluginChain,
    calls: Arc<AtomicU64>,
}

impl FunctionChain for Counted {
    fn invoke(
        &mut self,
        invocation: Invocation,
        deadline: Duration,
    ) -> std::result::Result<Outcome, Failure> {
        let outcome = self.chain.invoke(invocation, deadline);
        let (exported, imported) = self.chain.calls();
        self.calls.store(exported + imported, Ordering::Relaxed);
        outcome
    }
}

struct Blackhole {
    checksum: u64,
    check: bool,
}

impl Output for Blackhole {
    fn batch(&mut self, _port: u16, batch: Batch) -> EngineResult<()> {
        if self.check {
            // Text of the rows: slow, but the same for any layout.
            for row in 0..batch.n_rows() {
                let text = streamrt_operator::json::row(&batch.columns, row);
                let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
                    (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
                });
                self.checksum = self.checksum.wrapping_add(hash);
            }
        }
        std::hint::black_box(batch);
        Ok(())
    }

    fn watermark(&mut self, _watermark: Watermark) -> EngineResult<()> {
        Ok(())
    }

    fn status(&mut self, _status: Status) -> EngineResult<()> {
        Ok(())
    }

    fn split(&mut self, _event: SplitEvent) -> EngineResult<()> {
        Ok(())
    }
}

/// Exports and imports called per batch, on average over a hundred.
fn calls_a_batch(
    case: &Case,
    function: &Function,
    plugin: &Arc<Plugin>,
    plan: &Arc<Plan>,
) -> Result<f64> {
    const BATCHES: u64 = 100;
    let calls = Arc::new(AtomicU64::new(0));
    let chain = Counted {
        chain: plugin.chain(chain_spec(plan, function.number))?,
        calls: calls.clone(),
    };
    let mut operator = operator(case, function, Box::new(chain))?;
    operator.open(&context())?;
    let mut sink = Blackhole {
        checksum: 0,
        check: false,
    };
    bids(BATCH_ROWS as u64, |batch| operator.batch(batch, &mut sink))?;
    let before = calls.load(Ordering::Relaxed);
    bids(BATCHES * BATCH_ROWS as u64, |batch| {
        operator.batch(batch, &mut sink)
    })?;
    Ok((calls.load(Ordering::Relaxed) - before) as f64 / BATCHES as f64)
}

/// A window with a built-in aggregate has no function to call: its plan names none.
fn windows_make_no_guest_call(report: &mut Report) {
    let calls = crate::jobs::Job::Tumbling { keys: KEYS }.n_functions();
    report.figure(
        "tumbling count, built-in: calls across the boundary",
        calls as f64,
        "calls/batch",
        Goal::AtMost(0.0),
    );
}

/// Instances from compiled code that is in memory: open, describe, ready to be called.
fn starts(report: &mut Report, plugin: &Arc<Plugin>, plan: &Arc<Plan>) -> Result<()> {
    let once = || -> Result<f64> {
        let start = Instant::now();
        let chain = plugin.chain(chain_spec(plan, 0))?;
        std::hint::black_box(chain);
        Ok(start.elapsed().as_secs_f64() * 1e3)
    };
    let figures = (0..101).map(|_| once()).collect::<Result<Vec<_>>>()?;
    report.spread(
        "instance start",
        crate::measure::spread(figures),
        "ms",
        Goal::AtMost(1.0),
    );
    Ok(())
}

/// `streamrt run` of the hot-items example: from the command to the first line of a reader that
/// waits for it.
fn command_to_first_record(report: &mut Report) -> Result<()> {
    let program = PathBuf::from(
        std::env::var("STREAMRT_BIN")
            .context("STREAMRT_BIN names the streamrt binary; `cargo xtask bench` sets it")?,
    );
    let components = PathBuf::from(
        std::env::var("STREAMRT_COMPONENTS")
            .context("STREAMRT_COMPONENTS names the folder of components")?,
    );
    let folder = tempfile::tempdir()?;
    let input = folder.path().join("input.txt");
    std::fs::write(&input, "one line\n")?;
    let once = || -> Result<f64> {
        let start = Instant::now();
        let mut command = std::process::Command::new(&program);
        command
            .arg("run")
            .arg(components.join("word-count.wasm"))
            .args(["--", "--input"])
            .arg(&input);
        let mut child = command
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("the child's output is piped")?;
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line)?;
        let elapsed = start.elapsed().as_secs_f64() * 1e3;
        ensure!(
            child.wait()?.success() && !line.is_empty(),
            "the word count did not run"
        );
        Ok(elapsed)
    };
    once()?;
    let figures = (0..11).map(|_| once()).collect::<Result<Vec<_>>>()?;
    report.spread(
        "`streamrt run` from command to first record, cached",
        crate::measure::spread(figures),
        "ms",
        Goal::AtMost(300.0),
    );
    Ok(())
}
