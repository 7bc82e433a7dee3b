//! `streamrt-sim`: runs seeds, and prints what was injected.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;
use streamrt_sim::{Fault, run};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match simulate(&args) {
        Ok(text) => {
            // Nobody may read any more.
            let _ = writeln!(std::io::stdout(), "{text}");
            ExitCode::SUCCESS
        }
        Err(text) => {
            let _ = writeln!(std::io::stderr(), "{text}");
            ExitCode::FAILURE
        }
    }
}

/// `--seeds N` runs the seeds from 0 on, `--seed S` one of them.
fn simulate(args: &[String]) -> Result<String, String> {
    let number = |text: &String| {
        let parsed = text.parse::<u64>();
        parsed.map_err(|_| format!("`{text}` is no number"))
    };
    let seeds = match args {
        [flag, seed] if flag == "--seed" => number(seed)?..number(seed)?.saturating_add(1),
        [flag, n] if flag == "--seeds" => 0..number(n)?,
        [] => 0..200,
        _ => return Err("usage: [--seeds N | --seed S]".into()),
    };
    let (n_seeds, mut n_events) = (seeds.end - seeds.start, 0);
    let mut faults = BTreeMap::<Fault, u64>::new();
    for seed in seeds {
        let failed = |found: String| {
            format!("seed {seed}: {found}\n`cargo xtask sim --seed {seed}` shows it again")
        };
        let report = run(seed).map_err(failed)?;
        if run(seed).map_err(failed)?.hash != report.hash {
            return Err(format!("seed {seed} went another way the second time"));
        }
        n_events += report.n_events;
        for (fault, n) in report.faults {
            *faults.entry(fault).or_default() += n;
        }
    }
    let line = |(fault, n): (&Fault, &u64)| format!("  {n:>8}  {}\n", fault.name());
    let lines: String = faults.iter().map(line).collect();
    Ok(format!(
        "{n_seeds} seeds, each twice with the same events ({n_events} in all); injected:\n{}",
        lines.trim_end()
    ))
}
