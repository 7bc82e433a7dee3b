//! `cargo xtask`: the one entry point for set-up, tests, checks and benchmarks. Each command says
//! what it does while it does it, and installs what it needs.

mod build;
mod cargo;
mod checks;
mod demo;
mod deny;
mod dependencies;
mod libclang;
mod planted;
mod servers;
mod table;
mod tests;
mod tidy;

use anyhow::{Result, bail};
use build::{Guests, Runtime};
use cargo::Workspace;
use std::process::ExitCode;

const HELP: &str = "\
Set-up, tests, checks and benchmarks of streamrt.

Usage: cargo xtask COMMAND

  setup                            check the machine, and install the tool chain for components
  build                            the whole runtime at release/streamrt and the components at components/NAME.wasm, in the target folder
  demo                             build a lean runtime, run the example hot-items on the records beside it, and show its windows as a table
  test [FILTER]                    everything: the checks, the build, and all tests (or those whose name contains FILTER);
                                   installs the servers that tests start, PostgreSQL and MinIO, when they are missing
  test planted [FILTER]            plant bugs in a copy (or those whose name contains FILTER), one after the other, and show which test catches each
  sim [--seeds N | --seed S]       simulate the control of a job under faults: 200 seeds, N of them, or one; each runs twice
  check                            the dependency rule, the tidy check, the places of planted bugs, and cargo-deny's of licences, sources and advisories
  bench SUITE [ARG...]             measure engine, plugin, state, checkpoint, scale or idle; `--output json` prints one object a line

The target folder is CARGO_TARGET_DIR, or `target`.";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&args.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[&str]) -> Result<()> {
    match args {
        ["setup"] => build::setup(&Workspace::read()?),
        ["build"] => build::build(&Workspace::read()?, Runtime::Whole, Guests::All),
        ["demo"] => demo::demo(&Workspace::read()?),
        ["test"] => tests::test(&Workspace::read()?, None),
        ["test", "planted"] => planted::test(&Workspace::read()?, ""),
        ["test", "planted", filter] => planted::test(&Workspace::read()?, filter),
        ["test", filter] if !filter.starts_with('-') => {
            tests::test(&Workspace::read()?, Some(filter))
        }
        ["sim", rest @ ..] => build::sim(&Workspace::read()?, rest),
        ["check"] => checks::run(&Workspace::read()?).into_result(),
        [
            "bench",
            suite @ ("engine" | "plugin" | "state" | "checkpoint" | "scale" | "idle"),
            rest @ ..,
        ] => build::bench(&Workspace::read()?, suite, rest),
        ["help" | "--help" | "-h"] | ["bench", "--help" | "-h"] => {
            println!("{HELP}");
            Ok(())
        }
        _ => bail!("there is no such command\n\n{HELP}"),
    }
}

/// Says what is being done.
fn say(text: &str) {
    eprintln!("xtask: {text}");
}
