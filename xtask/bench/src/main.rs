//! The benchmarks behind `cargo xtask bench`: each prints ratios that were taken in one run, next
//! to the goals.

mod checkpoint;
mod child;
mod disk;
mod engine;
mod hand;
mod idle;
mod jobs;
mod measure;
mod native;
mod plugin;
mod report;
mod scale;
mod state;
mod tier;
mod upgrade;

use anyhow::{Result, bail};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "usage: streamrt-bench engine|plugin|state|checkpoint|scale|idle [--output json]; `cargo xtask bench` sets what it needs";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let (suite, json) = match words[..] {
        ["peak-memory", job, rows] => return engine::peak_memory(job, rows.parse()?),
        [suite] => (suite, false),
        [suite, "--output", "json"] | ["--output", "json", suite] => (suite, true),
        _ => bail!("{USAGE}"),
    };
    let components =
        std::path::PathBuf::from(std::env::var("STREAMRT_COMPONENTS").unwrap_or_default());
    let functions = components.join("bench-functions.wasm");
    let mut report = report::Report::new(json);
    match suite {
        "engine" => engine::run(&mut report)?,
        "plugin" => plugin::run(&mut report, &functions)?,
        "idle" => idle::run(&mut report)?,
        "scale" => scale::run(&mut report)?,
        "state" => state::run(&mut report)?,
        "checkpoint" => {
            upgrade::run(&mut report, &functions)?;
            checkpoint::run(&mut report)?;
        }
        _ => bail!("{USAGE}"),
    }
    report.finish();
    Ok(())
}
