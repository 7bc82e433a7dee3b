//! `streamrt`, the binary: reads the command line, calls one command, and says how it ended.
//!
//! stdout belongs to results: what a sink prints, and what `inspect` and `build` were asked for.
//! All else goes to stderr. Exit code 0: done; 1: an error, printed by `report`; 2: a wrong use,
//! printed by clap; 141: the reader of stdout went away, as for any filter.

mod args;
mod bundle;
mod cache;
mod checkpoints;
mod cluster;
mod compat;
mod completion;
mod component;
mod configuration;
mod control_socket;
mod deploy;
mod docs;
mod embedded;
mod ended;
mod export;
mod inspect;
mod job;
mod jobmanager;
mod jobs;
mod key;
mod named;
mod new;
mod one_job;
mod plugin_file;
mod process;
mod progress;
mod report;
mod run;
mod running;
mod snapshot;
mod state_backend;
mod targets;
mod toolchain;
mod workspace;

use args::{Command, CommandLine, CompileArgs, SavepointCommand, StateArgs, StateCommand};
use clap::Parser;
use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::ExitCode;
use streamrt_types::{
    Error, Failpoints, Result, code, finish_saying, printable, say_on_stderr, stdout_error,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a shell reports for a program that wrote into a closed pipe: 128 and the number of SIGPIPE.
const CLOSED_PIPE: u8 = 141;

/// Exit code of a program that was interrupted, for the second Ctrl-C.
const INTERRUPTED: i32 = 130;

/// What clap ends with.
const WRONG_USE: u8 = 2;

fn main() -> ExitCode {
    say_on_stderr();
    let command = match CommandLine::try_parse() {
        Ok(line) => line.command,
        Err(error) if error.use_stderr() && wants_json(std::env::args()) => {
            report::wrong_use(&error);
            finish_saying();
            return ExitCode::from(WRONG_USE);
        }
        Err(error) => error.exit(),
    };
    report::hush_panics();
    if let Command::CompileComponent(CompileArgs { args }) = &command {
        return streamrt_plugin::compile(args, std::io::stdin(), std::io::stdout().lock());
    }
    let result = std::panic::catch_unwind(AssertUnwindSafe(|| dispatch(command)));
    let code = exit_code(result.unwrap_or_else(|panic| Err(report::of_panic(panic.as_ref()))));
    finish_saying();
    code
}

/// What a test wants to go wrong.
fn failpoints() -> Failpoints {
    let named = std::env::var("STREAMRT_FAILPOINTS");
    Failpoints::parse(&named.unwrap_or_default())
}

/// Whether errors are wanted as JSON, in a command line that cannot be read.
fn wants_json(args: impl Iterator<Item = String>) -> bool {
    let args: Vec<String> = args.take_while(|arg| arg != "--").collect();
    args.windows(2).any(|pair| pair == ["--output", "json"])
        || args.iter().any(|arg| arg == "--output=json")
}

fn exit_code(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.code() == code::STDOUT_CLOSED => ExitCode::from(CLOSED_PIPE),
        Err(error) => {
            report::error(&error);
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::New(args) => new::new(&args),
        Command::Build(args) => component::build(&args),
        Command::Inspect(args) => inspect::inspect(&args),
        Command::Run(args) => run::run(args),
        Command::Jobmanager(args) => jobmanager::jobmanager(&args),
        Command::Deploy(args) => deploy::deploy(&args),
        Command::List(args) => jobs::list(&args),
        Command::Info(args) => jobs::info(&args),
        Command::Logs(args) => jobs::logs(&args),
        Command::Savepoint(args) => match (&args.command, &args.job, &args.dir) {
            (Some(SavepointCommand::Inspect(args)), ..) => snapshot::inspect(args),
            (None, Some(job), Some(dir)) => jobs::savepoint(job, dir, &args),
            _ => Err(Error::new(
                code::WRONG_USE,
                "a savepoint needs a job and a folder",
            )),
        },
        Command::Stop(args) => jobs::stop(&args),
        Command::Cancel(args) => jobs::cancel(&args),
        Command::Checkpoints(args) => checkpoints::checkpoints(&args),
        Command::Compat(args) => compat::compat(&args),
        Command::Upgrade(args) => jobs::upgrade(&args),
        Command::State(StateArgs {
            command: StateCommand::Get(args),
        }) => snapshot::get(&args),
        Command::State(StateArgs {
            command: StateCommand::Export(args),
        }) => export::export(&args),
        Command::Fsck(args) => snapshot::fsck(&args),
        Command::Docs(args) => docs::docs(args.topic),
        Command::Completions(args) => completion::completions(args.shell),
        Command::JobNames => completion::job_names(),
        Command::CompileComponent(_) => {
            Err(Error::internal("compiling is no command like the others"))
        }
        Command::Toolchain => toolchain::ensure(Path::new("."))
            .map(|_| report::status("the tool chain for components is complete")),
    }
}

/// Writes results to stdout. They may hold what guests and snapshots say, also in JSON, where an
/// escaped character is the same one.
fn print(text: &str) -> Result<()> {
    let written = std::io::stdout()
        .lock()
        .write_all(printable(text).as_bytes());
    written.map_err(stdout_error)
}
