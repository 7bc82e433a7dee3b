//! How a figure is taken: interleaved pairs, slopes between two sizes, CPU seconds of the process,
//! medians with quartiles.

use anyhow::{Context, Result};
use std::time::{Duration, Instant};

/// Pairs of runs for a ratio.
pub const PAIRS: usize = 5;

/// What a run took.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    pub cpu: Duration,
    pub wall: Duration,
}

/// CPU time of this process so far: user and system, of all threads.
pub fn cpu_time() -> Result<Duration> {
    cpu_fields(11)
}

/// CPU time of another process so far.
pub fn cpu_time_of(process: u32) -> Result<Duration> {
    cpu_fields_of(&process.to_string(), 11)
}

/// The sum of two fields of /proc/self/stat that follow each other, user and system; `first` is
/// counted from after the program's name.
pub fn cpu_fields(first: usize) -> Result<Duration> {
    cpu_fields_of("self", first)
}

fn cpu_fields_of(process: &str, first: usize) -> Result<Duration> {
    let stat = format!("/proc/{process}/stat");
    let stat = std::fs::read_to_string(&stat).with_context(|| format!("{stat} cannot be read"))?;
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |i: usize| {
        fields
            .get(i)
            .and_then(|field| field.parse::<u64>().ok())
            .context("/proc/self/stat has another form")
    };
    // A tick is 10 ms on every Linux that we know.
    Ok(Duration::from_millis(
        (ticks(first)? + ticks(first + 1)?) * 10,
    ))
}

/// CPU time of the calling thread so far, to the nanosecond; for work that runs in one thread.
pub fn thread_cpu_time() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat")
        .context("/proc/thread-self/schedstat cannot be read")?;
    let ns = stat
        .split_whitespace()
        .next()
        .and_then(|word| word.parse().ok());
    Ok(Duration::from_nanos(
        ns.context("/proc/thread-self/schedstat has another form")?,
    ))
}

/// A field of /proc/self/status in bytes, such as `VmHWM`.
pub fn memory_bytes(field: &str) -> Result<u64> {
    field_bytes("/proc/self/status", field)
}

/// Memory of the machine that a program can still get, in bytes.
pub fn available_bytes() -> Result<u64> {
    field_bytes("/proc/meminfo", "MemAvailable")
}

/// A field in KiB of a file such as /proc/meminfo, in bytes.
pub fn field_bytes(file: &str, field: &str) -> Result<u64> {
    let status = std::fs::read_to_string(file).with_context(|| format!("{file} cannot be read"))?;
    let line = status
        .lines()
        .find(|line| line.starts_with(field))
        .with_context(|| format!("there is no {field}"))?;
    let kib = line
        .split_whitespace()
        .nth(1)
        .and_then(|word| word.parse::<u64>().ok());
    Ok(kib.with_context(|| format!("{field} is no number"))? * 1024)
}

/// Runs `work` once and measures it.
pub fn cost(work: impl FnOnce() -> Result<()>) -> Result<Cost> {
    let (cpu, wall) = (cpu_time()?, Instant::now());
    work()?;
    Ok(Cost {
        cpu: cpu_time()?.saturating_sub(cpu),
        wall: wall.elapsed(),
    })
}

/// Cost of one record, from the slope between `n` and `n / 5` records: start-up drops out.
pub fn slope_ns(
    n: u64,
    of: fn(&Cost) -> Duration,
    work: &dyn Fn(u64) -> Result<()>,
) -> Result<f64> {
    let small = cost(|| work(n / 5))?;
    let large = cost(|| work(n))?;
    let difference = of(&large).as_secs_f64() - of(&small).as_secs_f64();
    Ok((difference * 1e9 / (n - n / 5) as f64).max(0.01))
}

/// Middle and quartiles of some figures.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    pub median: f64,
    pub quartiles: (f64, f64),
}

impl Spread {
    /// Costs in ns as rates per second.
    pub fn rate(self) -> Spread {
        Spread {
            median: 1e9 / self.median,
            quartiles: (1e9 / self.quartiles.1, 1e9 / self.quartiles.0),
        }
    }
}

pub fn spread(mut figures: Vec<f64>) -> Spread {
    figures.sort_by(f64::total_cmp);
    let at = |part: f64| figures[((figures.len() - 1) as f64 * part).round() as usize];
    Spread {
        median: at(0.5),
        quartiles: (at(0.25), at(0.75)),
    }
}

/// Two kinds of work in turn, A B B A, [`PAIRS`] pairs: cost of a record of each, and the ratio `a
/// / b` pair by pair.
pub fn pairs(
    a: impl FnMut() -> Result<f64>,
    b: impl FnMut() -> Result<f64>,
) -> Result<(Spread, Spread, Spread)> {
    n_pairs(PAIRS, a, b)
}

/// Like [`pairs`], with a given number of them.
pub fn n_pairs(
    n: usize,
    mut a: impl FnMut() -> Result<f64>,
    mut b: impl FnMut() -> Result<f64>,
) -> Result<(Spread, Spread, Spread)> {
    let (mut costs_a, mut costs_b) = (Vec::new(), Vec::new());
    for pair in 0..n {
        if pair % 2 == 0 {
            costs_a.push(a()?);
            costs_b.push(b()?);
        } else {
            costs_b.push(b()?);
            costs_a.push(a()?);
        }
    }
    let ratios = costs_a.iter().zip(&costs_b).map(|(a, b)| a / b).collect();
    Ok((spread(costs_a), spread(costs_b), spread(ratios)))
}
