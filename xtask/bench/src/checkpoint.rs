//! `bench checkpoint`: a job with checkpoints against the same job without, and what a checkpoint
//! of 1 GB takes.
//!
//! A rate is taken between two moments of one run, by the CPU time of the whole process: start and
//! end drop out, and the time between holds whole intervals. One process cannot switch checkpoints
//! on and off, so short runs of both kinds take turns.

mod on_disk;

use crate::engine::{FEW_KEYS, MANY_KEYS, same_output};
use crate::jobs::{Job, Settings};
use crate::measure::{PAIRS, Spread, available_bytes, cpu_time, n_pairs, spread};
use crate::report::{Goal, Report};
use anyhow::{Result, ensure};
use std::path::Path;
use std::time::{Duration, Instant};
use streamrt_minicluster::JobHandle;
use streamrt_taskmanager::SnapshotTimes;

/// More rows than any run processes.
pub const ENDLESS: u64 = 1 << 50;
const INTERVAL_MS: u64 = 1_000;
/// A run is looked at from here on: all keys are there, and the first checkpoint is past.
const WARM_UP: Duration = Duration::from_millis(1_500);
/// For how long it is looked at: a whole number of intervals.
const WINDOW: Duration = Duration::from_millis(4 * INTERVAL_MS);
const POLL: Duration = Duration::from_millis(20);
const SHORT_PAIRS: usize = 12;

/// An entry of the job in canonical bytes: three lengths, the key, count and sum.
const ENTRY_BYTES: u64 = 3 + 8 + 16;
const LARGE_KEYS: u64 = 1_000_000_000 / ENTRY_BYTES;
/// Bids before a large state is looked at: 19 keys of 20 are there.
const LARGE_ROWS: u64 = 3 * LARGE_KEYS;
/// Table, snapshot, bytes, and the bytes as they are read back.
const LARGE_MEMORY_BYTES: u64 = 12_000_000_000;
const LARGE_CHECKPOINTS: usize = 5;
/// The interval of checkpoints that are requested one by one.
const NEVER_MS: u64 = 86_400_000;

pub fn run(report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    same_output(
        Job::Keyed { keys: MANY_KEYS },
        Settings::with_checkpoints(folder.path(), 100),
    )?;
    overhead(report, MANY_KEYS, SHORT_PAIRS, Goal::AtLeast(0.98))?;
    // What a checkpoint costs that has next to nothing to write.
    overhead(report, FEW_KEYS, PAIRS, Goal::None)?;
    on_disk::run(report)?;
    if available_bytes()? < LARGE_MEMORY_BYTES {
        eprintln!(
            "less than {} GB of memory are free: no checkpoint of 1 GB",
            LARGE_MEMORY_BYTES / 1_000_000_000
        );
        return Ok(());
    }
    large(report)
}

fn overhead(report: &mut Report, keys: u64, pairs: usize, goal: Goal) -> Result<()> {
    let job = Job::Keyed { keys };
    let mut pauses = Vec::new();
    let with = || {
        let folder = tempfile::tempdir()?;
        window_ns(
            job,
            Settings::with_checkpoints(folder.path(), INTERVAL_MS),
            WINDOW,
            &mut pauses,
        )
    };
    let without = || window_ns(job, Settings::default(), WINDOW, &mut Vec::new());
    // Cost without over cost with is throughput with over throughput without.
    let (without_cost, with_cost, ratio) = n_pairs(pairs, without, with)?;
    ensure!(!pauses.is_empty(), "there was no checkpoint");
    let name = format!("running count and sum, {keys} keys");
    report.spread(
        &format!("{name}: no checkpoints"),
        without_cost.rate(),
        "records/CPU-s",
        Goal::None,
    );
    report.spread(
        &format!("{name}: checkpoints every second"),
        with_cost.rate(),
        "records/CPU-s",
        Goal::None,
    );
    report.spread(
        &format!("{name}: with over without"),
        ratio,
        "throughput ratio",
        goal,
    );
    report.spread(
        &format!("{name}: synchronous pause"),
        spread(pauses),
        "ms",
        Goal::None,
    );
    Ok(())
}

/// CPU time per record in ns, once the job is warm; adds the synchronous pauses of its checkpoints
/// to `pauses`, in ms.
pub fn window_ns(
    job: Job,
    settings: Settings,
    window: Duration,
    pauses: &mut Vec<f64>,
) -> Result<f64> {
    let job = job.start(ENDLESS, settings)?;
    std::thread::sleep(WARM_UP);
    let (start, cpu, records) = (Instant::now(), cpu_time()?, job.progress().records_out);
    let mut seen = job.snapshot_times();
    while start.elapsed() < window {
        std::thread::sleep(POLL.min(window.saturating_sub(start.elapsed())));
        let now = job.snapshot_times();
        if now.taken > seen.taken {
            pauses.push(milliseconds(now));
        }
        seen = now;
    }
    let (cpu, records) = (
        cpu_time()?.saturating_sub(cpu),
        job.progress().records_out - records,
    );
    end(job)?;
    Ok(cpu.as_nanos() as f64 / records.max(1) as f64)
}

fn milliseconds(times: SnapshotTimes) -> f64 {
    times.sync.as_secs_f64() * 1e3
}

/// Ends a job whose results nobody wants.
pub fn end(job: JobHandle) -> Result<()> {
    job.stop();
    job.wait()?;
    Ok(())
}

/// Waits until the sink has received this many records.
pub fn await_records(job: &JobHandle, n: u64) -> Result<()> {
    while job.progress().records_out < n {
        ensure!(!job.is_finished(), "the job ended too early");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Savepoints of 1 GB from a running job, which are checkpoints at a moment of our choice, and a
/// restore from the last one.
fn large(report: &mut Report) -> Result<()> {
    let (job, folder) = (Job::Keyed { keys: LARGE_KEYS }, tempfile::tempdir()?);
    let running = job.start(
        ENDLESS,
        Settings::with_checkpoints(&folder.path().join("checkpoints"), NEVER_MS),
    )?;
    await_records(&running, LARGE_ROWS)?;
    let (mut pauses, mut seconds) = (Vec::new(), Vec::new());
    for number in 0..LARGE_CHECKPOINTS {
        let start = Instant::now();
        running.savepoint(
            &folder.path().join(number.to_string()).display().to_string(),
            false,
        )?;
        seconds.push(start.elapsed().as_secs_f64());
        pauses.push(milliseconds(running.snapshot_times()));
    }
    running.remote().cancel();
    // It ends with the error that it was cancelled.
    running.wait().err();
    let from = folder.path().join((LARGE_CHECKPOINTS - 1).to_string());
    report.figure(
        "checkpoint of 1 GB: size",
        folder_bytes(&from)? as f64 / 1e9,
        "GB",
        Goal::None,
    );
    report.spread(
        "checkpoint of 1 GB: synchronous pause",
        spread(pauses),
        "ms",
        Goal::AtMost(20.0),
    );
    report.spread(
        "checkpoint of 1 GB: from request to published",
        spread(seconds),
        "s",
        Goal::None,
    );
    report.spread(
        "checkpoint of 1 GB: from start to the first record",
        restores(job, &from)?,
        "s",
        Goal::None,
    );
    Ok(())
}

fn restores(job: Job, from: &Path) -> Result<Spread> {
    let restore = |_| {
        let settings = Settings {
            from: Some(from.display().to_string()),
            ..Settings::default()
        };
        let start = Instant::now();
        let job = job.start(ENDLESS, settings)?;
        await_records(&job, 1)?;
        let seconds = start.elapsed().as_secs_f64();
        end(job)?;
        Ok(seconds)
    };
    Ok(spread((0..3).map(restore).collect::<Result<Vec<_>>>()?))
}

fn folder_bytes(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() {
            folder_bytes(&entry.path())?
        } else {
            entry.metadata()?.len()
        };
    }
    Ok(bytes)
}
