//! `bench engine`: the engine against a hand-written loop, on the same bids, in records per CPU
//! second of the process.

use crate::hand;
use crate::jobs::{Job, Settings};
use crate::measure::{memory_bytes, pairs, slope_ns};
use crate::report::{Goal, Report};
use anyhow::{Context, Result, ensure};
use std::io::BufRead;
use std::path::Path;

pub const FEW_KEYS: u64 = 10_007;
pub const MANY_KEYS: u64 = 1_000_003;

/// A job with its sizes and goals.
struct Case {
    name: &'static str,
    job: Job,
    rows: u64,
    /// Records per CPU second, engine over loop.
    goal: f64,
    /// Wall time of parallelism 1 over that of 2.
    speedup: Option<f64>,
}

const CASES: [Case; 4] = [
    Case {
        name: "whole bid to blackhole",
        job: Job::Bid,
        rows: 100_000_000,
        goal: 0.5,
        speedup: None,
    },
    Case {
        name: "running count and sum, 10,007 keys",
        job: Job::Keyed { keys: FEW_KEYS },
        rows: 20_000_000,
        goal: 0.3,
        speedup: Some(1.7),
    },
    Case {
        name: "running count and sum, 1,000,003 keys",
        job: Job::Keyed { keys: MANY_KEYS },
        rows: 20_000_000,
        goal: 0.3,
        speedup: Some(1.7),
    },
    Case {
        name: "tumbling count of 10 s, 10,007 keys",
        job: Job::Tumbling { keys: FEW_KEYS },
        rows: 30_000_000,
        goal: 0.2,
        speedup: None,
    },
];

pub fn run(report: &mut Report) -> Result<()> {
    let generator = slope_ns(100_000_000, |cost| cost.cpu, &|rows| {
        hand::to_blackhole(Job::Bid, rows)
    })?;
    report.figure(
        "bid generator, records per CPU second and core",
        1e9 / generator,
        "records/s",
        Goal::AtLeast(40e6),
    );
    for case in &CASES {
        same_output(case.job, Settings::default())?;
        let loop_ns = || {
            slope_ns(case.rows, |cost| cost.cpu, &|rows| {
                hand::to_blackhole(case.job, rows)
            })
        };
        let engine_ns = || {
            slope_ns(case.rows, |cost| cost.cpu, &|rows| {
                case.job.to_blackhole(rows, 1)
            })
        };
        let (loop_cost, engine_cost, ratio) = pairs(loop_ns, engine_ns)?;
        report.spread(
            &format!("{}: loop", case.name),
            loop_cost.rate(),
            "records/CPU-s",
            Goal::None,
        );
        report.spread(
            &format!("{}: engine", case.name),
            engine_cost.rate(),
            "records/CPU-s",
            Goal::None,
        );
        report.spread(
            &format!("{}: engine over loop", case.name),
            ratio,
            "ratio",
            Goal::AtLeast(case.goal),
        );
        if let Some(goal) = case.speedup {
            let wall = |parallelism| {
                move || {
                    slope_ns(case.rows, |cost| cost.wall, &|rows| {
                        case.job.to_blackhole(rows, parallelism)
                    })
                }
            };
            let (_, _, speedup) = pairs(wall(1), wall(2))?;
            report.spread(
                &format!("{}: parallelism 2 over 1", case.name),
                speedup,
                "wall ratio",
                Goal::AtLeast(goal),
            );
        }
    }
    memory(report)
}

/// Peak memory of the keyed job in a process of its own, with one key and with many.
fn memory(report: &mut Report) -> Result<()> {
    let peak = |keys: u64| -> Result<f64> {
        let program = std::env::current_exe()?;
        let output = std::process::Command::new(program)
            .args(["peak-memory", &keys.to_string(), "5000000"])
            .output()?;
        ensure!(
            output.status.success(),
            "the run for its memory failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout)?
            .trim()
            .parse::<f64>()
            .context("the run printed no number")
    };
    let (few, many) = (peak(1)?, peak(MANY_KEYS)?);
    report.figure(
        "peak memory, running count and sum, 1 key",
        few / 1048576.0,
        "MiB",
        Goal::None,
    );
    report.figure(
        "peak memory, running count and sum, 1,000,003 keys",
        many / 1048576.0,
        "MiB",
        Goal::None,
    );
    report.figure(
        "bytes a key, 1,000,003 keys",
        (many - few) / MANY_KEYS as f64,
        "bytes",
        Goal::AtMost(64.0),
    );
    Ok(())
}

/// Runs the keyed job once and prints the peak memory of the process in bytes.
pub fn peak_memory(keys: &str, rows: u64) -> Result<()> {
    Job::Keyed {
        keys: keys.parse()?,
    }
    .to_blackhole(rows, 1)?;
    println!("{}", memory_bytes("VmHWM")?);
    Ok(())
}

/// Both sides give the same rows, by a checksum that does not depend on their order.
pub fn same_output(job: Job, settings: Settings) -> Result<()> {
    const ROWS: u64 = 1_000_000;
    if job == Job::Bid {
        return same_bids();
    }
    let mut expected = (0u64, 0u64);
    hand::run(job, ROWS, &mut |key, second, third| {
        add(&mut expected, &[key, second, third])
    })?;
    let folder = tempfile::tempdir()?;
    job.to_files(ROWS, folder.path(), settings)?;
    let mut found = (0u64, 0u64);
    for_each_line(folder.path(), |values| add(&mut found, values))?;
    ensure!(
        found == expected,
        "the engine's output of {job:?} is not the loop's: {found:?} rows and checksum, not {expected:?}"
    );
    Ok(())
}

fn same_bids() -> Result<()> {
    const ROWS: u64 = 100_000;
    let folder = tempfile::tempdir()?;
    Job::Bid.to_files(ROWS, folder.path(), Settings::default())?;
    let mut n_rows = 0u64;
    for_each_line(folder.path(), |_| n_rows += 1)?;
    ensure!(n_rows == ROWS, "{n_rows} of {ROWS} bids came through");
    Ok(())
}

fn add(sum: &mut (u64, u64), values: &[i64]) {
    let mixed = values.iter().fold(0u64, |mixed, &value| {
        (mixed ^ value as u64)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29)
    });
    *sum = (sum.0 + 1, sum.1.wrapping_add(mixed));
}

/// The numbers of each line, in the order of the columns.
fn for_each_line(folder: &Path, mut each: impl FnMut(&[i64])) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        for line in std::io::BufReader::new(std::fs::File::open(entry?.path())?).lines() {
            let line = line?;
            let numbers = line
                .split([':', ',', '}'])
                .filter_map(|word| word.parse().ok())
                .collect::<Vec<i64>>();
            each(&numbers);
        }
    }
    Ok(())
}
