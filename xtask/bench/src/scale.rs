//! `bench scale`: whole jobs, by the binary, on input of ordinary size: a long file in one and in
//! many pieces, rows that take long, rows that are wide, and very many files.
//!
//! Invariant: the same records in another layout give the same output, or the benchmark fails.

mod input;

use crate::child::{Job, Run, lines_below};
use crate::measure::{PAIRS, Spread, n_pairs, spread, thread_cpu_time};
use crate::plugin::compiled_in;
use crate::report::{Goal, Report};
use anyhow::{Context, Result, ensure};
use input::{Behaviours, Layout};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use streamrt_operator::{Call, FunctionChain, Invocation, NoState, RowsIn};
use streamrt_plugin::{ChainSpec, PluginHost};
use streamrt_types::Configuration;

const MB: f64 = 1e6;
/// Bytes of the long input, and of its first part that is below the size of a split.
const LONG_BYTES: u64 = 160_000_000;
const SHORT_BYTES: u64 = 62_000_000;
const PARALLELISMS: [u32; 3] = [1, 2, 7];
const MEMORY_MB: f64 = 400.0;

const SLOW_ROWS: u64 = 200;
/// Some 20 ms on the machines that we know.
const SPINS: u64 = 8_000_000;

const WIDE_ROWS: usize = 3_000;
const WIDE_BYTES: usize = 1 << 20;

const FILES: usize = 100_000;

pub fn run(report: &mut Report) -> Result<()> {
    long_input(report)?;
    slow_rows(report)?;
    wide_rows(report)?;
    many_files(report)
}

/// hot-items over one file, a thousand files one after the other, and fifty that each cover all the
/// time.
fn long_input(report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let short = Behaviours { bytes: SHORT_BYTES };
    let short_file = short.write(Layout::OneFile, &folder.path().join("short"))?;
    let short_cost =
        |_| Ok(hot_items(&short_file.path, 1)?.0.cpu.as_secs_f64() * 1e9 / short_file.rows as f64);
    let short_ns = spread((0..3).map(short_cost).collect::<Result<Vec<_>>>()?);
    report.spread(
        "hot-items, 62 MB in one file, parallelism 1",
        short_ns.rate(),
        "rows/CPU-s",
        Goal::None,
    );
    let mut expected = None;
    for layout in [
        Layout::OneFile,
        Layout::InOrder { files: 1_000 },
        Layout::ByUser { files: 50 },
    ] {
        let input = Behaviours { bytes: LONG_BYTES }.write(layout, &folder.path().join("long"))?;
        for parallelism in PARALLELISMS {
            let (run, output) = hot_items(&input.path, parallelism)?;
            ensure!(
                *expected.get_or_insert(output) == output,
                "{layout}, parallelism {parallelism}: other output than from one file"
            );
            let name = format!("hot-items, 160 MB {layout}, parallelism {parallelism}");
            let ns = run.cpu.as_secs_f64() * 1e9 / input.rows as f64;
            report.figure(
                &format!("{name}: CPU a row, over 62 MB"),
                ns / short_ns.median,
                "ratio",
                Goal::AtMost(1.3),
            );
            report.figure(
                &format!("{name}: peak memory"),
                run.peak_bytes as f64 / MB,
                "MB",
                Goal::AtMost(MEMORY_MB),
            );
        }
        fs::remove_dir_all(folder.path().join("long"))?;
    }
    Ok(())
}

/// What it took, and its output.
fn hot_items(input: &Path, parallelism: u32) -> Result<(Run, (u64, u64))> {
    let output = tempfile::tempdir()?;
    let parallelism = parallelism.to_string();
    let args = ["--input", text(input)?, "--output", text(output.path())?];
    let run = Job::new("hot-items", &["--parallelism", &parallelism], &args)?.run()?;
    Ok((run, lines_below(output.path())?))
}

/// A map that takes its time for each row, beside the function alone.
fn slow_rows(report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let inputs =
        [SLOW_ROWS, SLOW_ROWS / 5].map(|rows| (rows, folder.path().join(format!("{rows}.csv"))));
    for (rows, path) in &inputs {
        fs::write(
            path,
            (0..*rows).map(|row| format!("{row}\n")).collect::<String>(),
        )?;
    }
    let whole = || -> Result<f64> {
        let cpu = |path: &PathBuf| -> Result<Duration> {
            Ok(guest("slow", path, &["-D", "plugin.deadline=500ms"])?
                .run()?
                .cpu)
        };
        let (many, few) = (cpu(&inputs[0].1)?, cpu(&inputs[1].1)?);
        Ok(many.saturating_sub(few).as_nanos() as f64 / (inputs[0].0 - inputs[1].0) as f64)
    };
    let (alone, job, ratio) = n_pairs(PAIRS, function_alone, whole)?;
    report.spread(
        "slow map: a row, the function alone",
        in_ms(alone),
        "ms",
        Goal::None,
    );
    report.spread("slow map: a row, in a job", in_ms(job), "ms", Goal::None);
    report.spread(
        "slow map: throughput of the job over the function's",
        ratio,
        "ratio",
        Goal::AtLeast(0.95),
    );
    Ok(())
}

/// CPU time of one call with one row, in ns.
fn function_alone() -> Result<f64> {
    const CALLS: u32 = 40;
    let cache = tempfile::tempdir()?;
    let host = PluginHost::new(&Configuration::default(), Some(compiled_in(cache.path())?))?;
    let plugin = host.load(&fs::read(crate::child::component("bench-functions")?)?)?;
    let args = guest_args("slow", "none");
    let plan = Arc::new(plugin.describe(&args)?);
    let function = plan
        .functions
        .iter()
        .find(|function| function.name == "slow")
        .context("the guest has no slow function")?;
    let mut chain = plugin.chain(ChainSpec {
        args,
        plan: plan.clone(),
        functions: vec![function.number],
        subtask: 0,
        parallelism: 1,
        cancel: Arc::default(),
        log: Arc::new(|_, message| eprintln!("{message}")),
        counters: Arc::default(),
    })?;
    let (row, mut access) = (input::numbers(&[7])?, NoState::boxed());
    let cpu = thread_cpu_time()?;
    for _ in 0..CALLS {
        let rows = Some(RowsIn {
            columns: &row,
            times: None,
            marks: &[],
            slots: None,
        });
        let call = Invocation {
            call: Call::Process,
            rows,
            slots: None,
            states: Vec::new(),
            timers: &[],
            clock: None,
            access: &mut access,
        };
        chain
            .invoke(call, Duration::from_secs(5))
            .map_err(|failure| failure.error)?;
    }
    Ok((thread_cpu_time()?.saturating_sub(cpu) / CALLS).as_nanos() as f64)
}

/// Rows of a megabyte through a keyed function, in two subtasks.
fn wide_rows(report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("wide.csv");
    input::write_wide(&path, WIDE_ROWS, WIDE_BYTES)?;
    let output = folder.path().join("out");
    let run = guest("wide", &path, &["--parallelism", "2"])?
        .arg("--output")
        .arg(&output)
        .run()?;
    let (rows, _) = lines_below(&output)?;
    ensure!(
        rows == WIDE_ROWS as u64,
        "{rows} of {WIDE_ROWS} wide rows came out"
    );
    report.figure(
        "3,000 rows of 1 MiB, keyed, parallelism 2: peak memory",
        run.peak_bytes as f64 / MB,
        "MB",
        Goal::AtMost(MEMORY_MB),
    );
    Ok(())
}

/// A folder of very many files: until the first record comes out, and memory.
fn many_files(report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    input::write_small_files(folder.path(), FILES)?;
    let run = guest("numbers", folder.path(), &["--parallelism", "2"])?
        .wait_for_line()
        .run()?;
    let first = run.first_line.context("no line came out")?;
    report.figure(
        "100,000 files: command to first record",
        first.as_secs_f64() * 1e3,
        "ms",
        Goal::None,
    );
    report.figure(
        "100,000 files: CPU a file",
        run.cpu.as_secs_f64() * 1e6 / FILES as f64,
        "us",
        Goal::None,
    );
    report.figure(
        "100,000 files: peak memory",
        run.peak_bytes as f64 / MB,
        "MB",
        Goal::AtMost(MEMORY_MB),
    );
    Ok(())
}

fn guest(job: &str, input: &Path, options: &[&str]) -> Result<Job> {
    let args = guest_args(job, text(input)?);
    Job::new(
        "bench-functions",
        options,
        &args.iter().map(String::as_str).collect::<Vec<_>>(),
    )
}

fn guest_args(job: &str, input: &str) -> Vec<String> {
    let spins = SPINS.to_string();
    // The others have no such argument.
    let of_slow: &[&str] = if job == "slow" {
        &["--spins", &spins]
    } else {
        &[]
    };
    ["--job", job, "--input", input]
        .iter()
        .chain(of_slow)
        .map(|arg| (*arg).to_owned())
        .collect()
}

fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .context("the folder for temporary files has a name that is no UTF-8")
}

fn in_ms(ns: Spread) -> Spread {
    Spread {
        median: ns.median / 1e6,
        quartiles: (ns.quartiles.0 / 1e6, ns.quartiles.1 / 1e6),
    }
}
