//! The benchmarks behind `cargo xtask bench`: each prints ratios that were taken in one run, beside the goals.

mod checkpoint;
mod disk;
mod engine;
mod hand;
mod jobs;
mod measure;
mod native;
mod plugin;
mod report;
mod state;
mod tier;

use anyhow::{Result, bail};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "usage: streamrt-bench engine|plugin|state|checkpoint [--output json]; `cargo xtask bench` sets what it needs";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let (suite, json) = match words[..] {
        ["peak-memory", job, rows] => return engine::peak_memory(job, rows.parse()?),
        [suite] => (suite, false),
        [suite, "--output", "json"] | ["--output", "json", suite] => (suite, true),
        _ => bail!("{USAGE}"),
    };
    let components = std::path::PathBuf::from(std::env::var("STREAMRT_COMPONENTS").unwrap_or_default());
    let mut report = report::Report::new(json);
    match suite {
        "engine" => engine::run(&mut report)?,
        "plugin" => plugin::run(&mut report, &components.join("bench-functions.wasm"))?,
        "state" => state::run(&mut report)?,
        "checkpoint" => checkpoint::run(&mut report)?,
        _ => bail!("{USAGE}"),
    }
    report.finish();
    Ok(())
}
