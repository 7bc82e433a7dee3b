//! `bench checkpoint`, keyed state on disk: beside state in memory, with incremental checkpoints,
//! and larger than memory.

use super::{ENDLESS, await_records, end, window_ns};
use crate::engine::{MANY_KEYS, same_output};
use crate::jobs::{Job, Settings};
use crate::measure::{PAIRS, n_pairs, spread};
use crate::report::{Goal, Report};
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};

/// More than the state of any job here.
const AMPLE_BYTES: usize = 8 << 30;
const INTERVAL_MS: u64 = 1_000;
const LONG_INTERVAL_MS: u64 = 10_000;
/// Whole intervals.
const WINDOW: Duration = Duration::from_millis(4 * INTERVAL_MS);
const LONG_WINDOW: Duration = Duration::from_millis(LONG_INTERVAL_MS);
const LONG_PAIRS: usize = 5;
const CURVE: [u64; 4] = [10_000, 100_000, 1_000_000, 10_000_000];
const CURVE_WINDOW: Duration = Duration::from_secs(4);
/// A hundredth of the keys changes between two checkpoints, on average.
const CHANGED_ROWS: u64 = MANY_KEYS / 100;
const N_INCREMENTAL: usize = 8;

pub fn run(report: &mut Report) -> Result<()> {
    let (checkpoints, disk) = (tempfile::tempdir()?, tempfile::tempdir()?);
    same_output(
        Job::Keyed { keys: MANY_KEYS },
        Settings::with_checkpoints(checkpoints.path(), 100).on_disk(disk.path(), AMPLE_BYTES),
    )?;
    against_memory(report)?;
    overhead(report)?;
    incremental(report)?;
    CURVE.into_iter().try_for_each(|keys| curve(report, keys))
}

/// Within the budget, with an incremental checkpoint every ten seconds, against memory with none.
fn against_memory(report: &mut Report) -> Result<()> {
    let job = Job::Keyed { keys: MANY_KEYS };
    let on_disk = || {
        let (checkpoints, disk) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let settings = Settings::with_checkpoints(checkpoints.path(), LONG_INTERVAL_MS)
            .on_disk(disk.path(), AMPLE_BYTES);
        window_ns(job, settings, LONG_WINDOW, &mut Vec::new())
    };
    let in_memory = || window_ns(job, Settings::default(), LONG_WINDOW, &mut Vec::new());
    let (disk_cost, memory_cost, ratio) = n_pairs(LONG_PAIRS, on_disk, in_memory)?;
    report.spread(
        "state on disk, within the budget, a checkpoint every 10 s",
        disk_cost.rate(),
        "records/CPU-s",
        Goal::AtLeast(4e6),
    );
    report.spread(
        "state in memory, no checkpoints",
        memory_cost.rate(),
        "records/CPU-s",
        Goal::None,
    );
    report.spread(
        "state on disk over state in memory, time",
        ratio,
        "ratio",
        Goal::AtMost(2.0),
    );
    Ok(())
}

fn overhead(report: &mut Report) -> Result<()> {
    let job = Job::Keyed { keys: MANY_KEYS };
    let mut pauses = Vec::new();
    let with = || {
        let (checkpoints, disk) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let settings = Settings::with_checkpoints(checkpoints.path(), INTERVAL_MS)
            .on_disk(disk.path(), AMPLE_BYTES);
        window_ns(job, settings, WINDOW, &mut pauses)
    };
    let without = || {
        let disk = tempfile::tempdir()?;
        window_ns(
            job,
            Settings::default().on_disk(disk.path(), AMPLE_BYTES),
            WINDOW,
            &mut Vec::new(),
        )
    };
    let (_, with_cost, ratio) = n_pairs(PAIRS, without, with)?;
    report.spread(
        "state on disk, checkpoints every second",
        with_cost.rate(),
        "records/CPU-s",
        Goal::None,
    );
    report.spread(
        "state on disk, checkpoints every second: with over without",
        ratio,
        "throughput ratio",
        Goal::AtLeast(0.95),
    );
    report.spread(
        "state on disk, checkpoints every second: synchronous pause",
        spread(pauses),
        "ms",
        Goal::AtMost(20.0),
    );
    Ok(())
}

/// What a checkpoint adds to the store when one key in a hundred has changed, over the whole state.
fn incremental(report: &mut Report) -> Result<()> {
    let (checkpoints, disk) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let mut settings = Settings::with_checkpoints(checkpoints.path(), INTERVAL_MS)
        .on_disk(disk.path(), AMPLE_BYTES);
    let filling = Job::Keyed { keys: MANY_KEYS }.start(ENDLESS, settings.clone())?;
    await_records(&filling, 10 * MANY_KEYS)?;
    end(filling)?;
    settings.configuration.source_rate = Some(CHANGED_ROWS);
    let changing = Job::Keyed { keys: MANY_KEYS }.start(ENDLESS, settings)?;
    let start = Instant::now();
    // The last of them is still being made.
    while changing.remote().checkpoints(usize::MAX).len() < N_INCREMENTAL + 1 {
        ensure!(
            start.elapsed() < Duration::from_secs(60),
            "no checkpoints come"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    let made = changing.remote().checkpoints(N_INCREMENTAL);
    end(changing)?;
    let ratios = made
        .iter()
        .filter(|made| made.full_bytes() > 0)
        .map(|made| made.bytes() as f64 / made.full_bytes() as f64);
    report.spread(
        "incremental checkpoint, 1 % of the keys changed: bytes over the whole state",
        spread(ratios.collect()),
        "ratio",
        Goal::None,
    );
    Ok(())
}

/// What a record costs by the number of keys, in memory and on disk with a quarter of the memory
/// that the keys would take.
fn curve(report: &mut Report, keys: u64) -> Result<()> {
    let (job, disk) = (Job::Keyed { keys }, tempfile::tempdir()?);
    let in_memory = window_ns(job, Settings::default(), CURVE_WINDOW, &mut Vec::new())?;
    // At some 48 bytes per entry, three quarters of the budget are to hold a quarter of them.
    let budget = (keys as usize * 16).max(1 << 20);
    let on_disk = window_ns(
        job,
        Settings::default().on_disk(disk.path(), budget),
        CURVE_WINDOW,
        &mut Vec::new(),
    )?;
    report.figure(
        &format!("{keys} keys in memory"),
        in_memory,
        "ns/record",
        Goal::None,
    );
    report.figure(
        &format!("{keys} keys on disk, four times the budget"),
        on_disk,
        "ns/record",
        Goal::None,
    );
    Ok(())
}
