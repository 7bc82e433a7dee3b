//! What can stand on the command line. Nothing is looked up or opened here: a wrong use ends with
//! clap's message and exit code 2.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// A stream processor whose operators are WebAssembly components.
#[derive(Debug, Parser)]
#[command(name = "streamrt", version)]
pub struct CommandLine {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a new crate with a small job, its test, and the SDK.
    New(NewArgs),
    /// Compile a crate to a component.
    Build(BuildArgs),
    /// Show what a component holds.
    Inspect(InspectArgs),
    /// Run a job in this process.
    Run(RunArgs),
    /// Run jobs in this process that others deploy, and go on with them after a crash.
    Jobmanager(JobmanagerArgs),
    /// Give a job to a JobManager.
    Deploy(DeployArgs),
    /// Show the jobs that run on this machine: those of a JobManager, and each `run`.
    List(ListArgs),
    /// Show what is known of a job.
    Info(InfoArgs),
    /// Show the last lines that a job has said.
    Logs(LogsArgs),
    /// Make a savepoint of a running job, or look into one.
    Savepoint(SavepointArgs),
    /// End a job: what is in flight is finished or kept in a last checkpoint, from which the same
    /// command goes on.
    Stop(StopArgs),
    /// End a job at once: what is not committed is withdrawn.
    Cancel(CancelArgs),
    /// Show what the last checkpoints of a running job cost.
    Checkpoints(CheckpointsArgs),
    /// Say what changes between two versions of a component, and whether the new one can keep the
    /// state of the old one.
    Compat(CompatArgs),
    /// Replace a running job by a new version of its component, which goes on with its state: in
    /// place, if only code has changed.
    Upgrade(UpgradeArgs),
    /// Look into the state of a checkpoint or savepoint.
    State(StateArgs),
    /// Check that everything is there that the checkpoints of a folder refer to, and whole.
    Fsck(FsckArgs),
    /// Print the tables of the README: configuration keys, or the options of sources and sinks.
    Docs(DocsArgs),
    /// Print what a shell is to load, so that it completes commands, options and names of jobs.
    Completions(CompletionsArgs),
    /// Install what `build` needs; `build` does it by itself when something is missing.
    Toolchain,
    /// Compile a component from standard input: what `run` and others start for it.
    #[command(hide = true)]
    CompileComponent(CompileArgs),
    /// Print what jobs are called: what a shell calls for completion.
    #[command(hide = true)]
    JobNames,
}

#[derive(Debug, Args)]
pub struct NewArgs {
    /// The folder to make; its last part names the crate.
    pub path: PathBuf,
}

#[derive(Debug, Args)]
pub struct CompileArgs {
    pub args: Vec<String>,
}

#[derive(Debug, Args)]
pub struct BuildArgs {
    /// The folder of the crate or the workspace.
    #[arg(default_value = ".")]
    pub dir: PathBuf,
    /// Build this package of the workspace; may be given several times.
    #[arg(long = "package", short = 'p', value_name = "NAME")]
    pub packages: Vec<String>,
    /// Where to put the component; default: components/NAME.wasm in the target folder.
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The component.
    pub file: PathBuf,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
    /// Arguments of the job.
    #[arg(last = true)]
    pub args: Vec<String>,
}

#[derive(Debug, Clone, Args)]
#[command(
    after_help = "`streamrt docs config` lists the configuration keys, `streamrt docs connectors` the options of sources and sinks."
)]
pub struct RunArgs {
    /// A component with a job, or a job.toml.
    pub file: PathBuf,
    /// What the job is called; default: the name of the component's file, or what the job.toml
    /// says. A job goes on under its name alone.
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub name: Option<String>,
    /// Subtasks of each operator that names no number itself.
    #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=32_768))]
    pub parallelism: u32,
    /// Set a configuration key, such as `-D batch.rows=256`; may be given several times. `streamrt
    /// docs config` lists them.
    #[arg(short = 'D', value_name = "KEY=VALUE", value_parser = key_value)]
    pub configuration: Vec<(String, String)>,
    /// How to print progress, checkpoints, errors and the end, on stderr.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
    /// Show the job and its metrics over HTTP, as Flink's REST interface does, at an address of
    /// this machine such as 127.0.0.1:8081.
    #[arg(long, value_name = "ADDRESS")]
    pub rest: Option<String>,
    /// Start from this savepoint or checkpoint, which may be another job's.
    #[arg(long, value_name = "DIR")]
    pub from: Option<PathBuf>,
    /// Start although the snapshot holds state that the job has no operator for; it is left behind.
    /// As `-D restore.allow-non-restored-state=true`.
    #[arg(long)]
    pub allow_non_restored_state: bool,
    /// Let the job run the component with this digest, to which it was upgraded on another machine
    /// or by another user.
    #[arg(long, value_name = "DIGEST", value_parser = digest)]
    pub accept: Option<String>,
    /// Start although a source is to read something else than when the snapshot was made: it goes
    /// on in what it read then. As `-D restore.allow-changed-arguments=true`.
    #[arg(long)]
    pub allow_changed_arguments: bool,
    /// Let sinks that ask for a folder of this name read and write everything below DIR, which is
    /// made if it is not there; may be given several times.
    #[arg(long = "grant", value_name = "NAME=DIR", value_parser = grant)]
    pub grants: Vec<(String, PathBuf)>,
    /// Let sources and sinks of the component use this file, or everything below this folder,
    /// although no argument after `--` names it; may be given several times.
    #[arg(long = "allow-path", value_name = "PATH")]
    pub allowed_paths: Vec<PathBuf>,
    /// Let sources and sinks of the component connect to this server, although no argument after
    /// `--` names it; may be given several times.
    #[arg(long = "allow-host", value_name = "HOST[:PORT]")]
    pub allowed_hosts: Vec<String>,
    /// Arguments of the job.
    #[arg(last = true)]
    pub args: Vec<String>,
}

/// Which cluster is meant.
#[derive(Debug, Clone, Default, Args)]
pub struct ClusterArgs {
    /// The cluster, such as http://127.0.0.1:8081; default: STREAMRT_CLUSTER, else the jobs of
    /// this machine and the cluster at this address.
    #[arg(long, value_name = "URL")]
    pub cluster: Option<String>,
}

#[derive(Debug, Args)]
pub struct JobmanagerArgs {
    /// Run the jobs in the process of the JobManager; there is no other way yet.
    #[arg(long, required = true)]
    pub embedded: bool,
    /// The folder for what is to outlive the process: jobs, components, checkpoints.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// How many subtasks of each operator can run, over all jobs; default: the number of cores.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=32_768))]
    pub slots: Option<u32>,
    /// How long a job waits for slots, such as `30s`, before it fails; default: as long as it
    /// takes.
    #[arg(long, value_name = "TIME")]
    pub slot_timeout: Option<String>,
    /// Where to listen, on this machine alone.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8081")]
    pub rest: String,
    /// Bytes that a component may have, as `plugin.size` of the jobs.
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    pub component_size: String,
}

#[derive(Debug, Args)]
pub struct DeployArgs {
    /// A component with a job, or a job.toml.
    pub file: PathBuf,
    /// What the job is called; default: the name of the component's file, or what the job.toml
    /// says. Two jobs that run cannot have the same name.
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub name: Option<String>,
    /// Subtasks of each operator that names no number itself.
    #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=32_768))]
    pub parallelism: u32,
    /// Set a configuration key, such as `-D checkpoint.interval=1s`; may be given several times.
    #[arg(short = 'D', value_name = "KEY=VALUE", value_parser = key_value)]
    pub configuration: Vec<(String, String)>,
    /// Start from this savepoint or checkpoint, which may be another job's.
    #[arg(long, value_name = "DIR")]
    pub from: Option<PathBuf>,
    /// Start although the snapshot holds state that the job has no operator for; it is left behind.
    /// As `-D restore.allow-non-restored-state=true`.
    #[arg(long)]
    pub allow_non_restored_state: bool,
    /// Start although a source is to read something else than when the snapshot was made: it goes
    /// on in what it read then. As `-D restore.allow-changed-arguments=true`.
    #[arg(long)]
    pub allow_changed_arguments: bool,
    /// Let sinks that ask for a folder of this name read and write everything below DIR.
    #[arg(long = "grant", value_name = "NAME=DIR", value_parser = grant)]
    pub grants: Vec<(String, PathBuf)>,
    /// Let sources and sinks of the component use this file or folder; as for `run`.
    #[arg(long = "allow-path", value_name = "PATH")]
    pub allowed_paths: Vec<PathBuf>,
    /// Let sources and sinks of the component connect to this server; as for `run`.
    #[arg(long = "allow-host", value_name = "HOST[:PORT]")]
    pub allowed_hosts: Vec<String>,
    /// Stay until the job has ended, and end as it did.
    #[arg(long)]
    pub wait: bool,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
    /// Arguments of the job; paths in them are whole.
    #[arg(last = true)]
    pub args: Vec<String>,
}

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    #[arg(value_enum)]
    pub shell: Shell,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Debug, Args)]
pub struct DocsArgs {
    /// What about.
    #[arg(value_enum)]
    pub topic: Topic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Topic {
    /// The keys of `-D key=value`, and of `[configuration]` in a job.toml.
    Config,
    /// Sources and sinks with their options.
    Connectors,
    /// The paths of a cluster under `/v1`, as OpenAPI.
    Openapi,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Also the jobs of a cluster that have ended.
    #[arg(long)]
    pub all: bool,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

/// Which job is meant.
#[derive(Debug, Args)]
pub struct JobArgs {
    /// The job's id, a beginning of it, or its name, as `list` shows them.
    pub job: String,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

#[derive(Debug, Args)]
pub struct InfoArgs {
    #[command(flatten)]
    pub job: JobArgs,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

#[derive(Debug, Args)]
pub struct LogsArgs {
    #[command(flatten)]
    pub job: JobArgs,
    /// How many lines; 1,000 are remembered.
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    pub last: usize,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

#[derive(Debug, Args)]
pub struct CancelArgs {
    #[command(flatten)]
    pub job: JobArgs,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

#[derive(Debug, Args)]
pub struct CheckpointsArgs {
    #[command(flatten)]
    pub job: JobArgs,
    /// How many checkpoints; 100 are remembered.
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub last: usize,
    /// A line for each subtask as well: alignment, time on its thread, time to write, sizes.
    #[arg(long)]
    pub subtasks: bool,
    /// How to print; JSON holds the subtasks always.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

#[derive(Debug, Args)]
pub struct CompatArgs {
    /// The component that runs.
    pub old: PathBuf,
    /// The one that is to take its place.
    pub new: PathBuf,
    /// Arguments of the job.
    #[arg(last = true)]
    pub args: Vec<String>,
}

#[derive(Debug, Args)]
pub struct UpgradeArgs {
    #[command(flatten)]
    pub job: JobArgs,
    /// The new version: a component, or a job.toml if the job was started from one.
    pub component: PathBuf,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

#[derive(Debug, Args)]
pub struct StopArgs {
    #[command(flatten)]
    pub job: JobArgs,
    /// Make a savepoint in this folder, and end with it.
    #[arg(long, value_name = "DIR")]
    pub savepoint: Option<PathBuf>,
    /// Let everything fire first, as at the end of all input.
    #[arg(long)]
    pub drain: bool,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct SavepointArgs {
    #[command(subcommand)]
    pub command: Option<SavepointCommand>,
    /// The job's id, a beginning of it, or its name, as `list` shows them.
    #[arg(required = true)]
    pub job: Option<String>,
    /// An empty folder, or one to be made.
    #[arg(required = true)]
    pub dir: Option<PathBuf>,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

#[derive(Debug, Subcommand)]
pub enum SavepointCommand {
    /// Show operators by uid, states, types, numbers of keys, and sizes of a savepoint or
    /// checkpoint.
    Inspect(SnapshotArgs),
}

#[derive(Debug, Args)]
pub struct SnapshotArgs {
    /// The folder of a savepoint, or of checkpoints: the newest one, unless it ends in
    /// `chk-NUMBER`.
    pub dir: PathBuf,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

#[derive(Debug, Args)]
pub struct StateArgs {
    #[command(subcommand)]
    pub command: StateCommand,
}

#[derive(Debug, Subcommand)]
pub enum StateCommand {
    /// Print the entries of a keyed state as JSON lines.
    Get(StateGetArgs),
    /// Write the entries of a keyed state into a Parquet file.
    Export(StateExportArgs),
}

#[derive(Debug, Args)]
pub struct StateGetArgs {
    /// The folder of a savepoint or of checkpoints.
    pub dir: PathBuf,
    /// The operator.
    #[arg(long)]
    pub uid: String,
    /// The state.
    #[arg(long)]
    pub state: String,
    /// The key: its value, or a JSON array of the values of its columns; without it, all keys.
    #[arg(long)]
    pub key: Option<String>,
}

#[derive(Debug, Args)]
pub struct StateExportArgs {
    /// The folder of a savepoint or of checkpoints.
    pub dir: PathBuf,
    /// The operator.
    #[arg(long)]
    pub uid: String,
    /// The state.
    #[arg(long)]
    pub state: String,
    /// The file to make; what is there is not overwritten.
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
}

#[derive(Debug, Args)]
pub struct FsckArgs {
    /// The folder of checkpoints, or of a savepoint.
    pub dir: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("it must be KEY=VALUE".to_owned()),
    }
}

fn digest(text: &str) -> Result<String, String> {
    const DIGITS: usize = 64;
    let is_whole = text.len() == DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_whole {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(format!(
            "it must be a whole digest, of {DIGITS} hexadecimal digits"
        ))
    }
}

fn grant(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, folder)) if !name.is_empty() && !folder.is_empty() => {
            Ok((name.to_owned(), folder.into()))
        }
        _ => Err("it must be NAME=DIR".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, String> {
        CommandLine::try_parse_from(line.split(' '))
            .map(|parsed| parsed.command)
            .map_err(|e| e.to_string())
    }

    fn run(line: &str) -> RunArgs {
        match parse(line).unwrap() {
            Command::Run(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn arguments_of_the_job_stand_behind_two_dashes() {
        let args = run(
            "streamrt run a.wasm --parallelism 2 -D batch.rows=3 -Da=b=c --grant log=/a=b --allow-path /c --allow-host d:1 -- --input x --parallelism 9",
        );
        assert_eq!(args.parallelism, 2);
        assert_eq!(
            (args.allowed_paths, args.allowed_hosts),
            (vec!["/c".into()], vec!["d:1".to_owned()])
        );
        assert_eq!(args.grants, [("log".into(), "/a=b".into())]);
        assert_eq!(
            args.configuration,
            [
                ("batch.rows".into(), "3".into()),
                ("a".into(), "b=c".into())
            ]
        );
        assert_eq!(args.args, ["--input", "x", "--parallelism", "9"]);
    }

    #[test]
    fn defaults() {
        let args = run("streamrt run job.toml");
        assert_eq!(
            (args.parallelism, args.output, args.args.len()),
            (1, Format::Text, 0)
        );
    }

    #[test]
    fn wrong_uses_are_refused() {
        for line in [
            "streamrt run",
            "streamrt run a.wasm --parallelism 0",
            "streamrt run a.wasm -D novalue",
            "streamrt run a.wasm -D =1",
            "streamrt run a.wasm --grant log",
            "streamrt run a.wasm --accept 1234",
            "streamrt run a.wasm --grant log=",
            "streamrt run a.wasm stray",
            "streamrt run a.wasm --output xml",
            "streamrt fly",
            "streamrt new",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn the_definition_holds_together() {
        use clap::CommandFactory;
        CommandLine::command().debug_assert();
    }
}
