//! `streamrt run`: a job in this process, from the file to the summary. The only place of the command line that calls the engine.
//!
//! 1. Read the job: a component that builds its own graph, or a `job.toml` that names components.
//! 2. Submit it; everything that can be refused is refused there.
//! 3. Show progress until it ends by itself, or by Ctrl-C, which lets it finish what is in flight.

use crate::args::{Format, RunArgs};
use crate::configuration;
use crate::plugin_file::{Loader, read};
use crate::progress::Style;
use crate::{remote, report, state_backend};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use streamrt_graph::{JobFile, JobSpec};
use streamrt_plugin::Grants;
use streamrt_taskmanager::{Ended, JobHandle, JobToRun, LoadedPlugin, Submission, replacement, submit};
use streamrt_types::{Configuration, Error, Result, code};
use streamrt_wit::Body;

/// How often we look whether the job has ended: short jobs end without a delay that one would notice, and 100 looks a second cost nothing.
const LOOK: Duration = Duration::from_millis(10);

/// Exit code of a program that was interrupted, for the second Ctrl-C.
const INTERRUPTED: i32 = 130;

/// A job that was read.
struct Job {
    spec: JobSpec,
    plugins: Vec<LoadedPlugin>,
    configuration: Configuration,
    /// Folders by name; a later one takes the place of an equal one.
    grants: Vec<(String, PathBuf)>,
}

/// Runs a job to its end.
///
/// # Errors
/// Whatever keeps the job from starting or ends it.
pub fn run(args: RunArgs) -> Result<()> {
    // Before anything is opened, so that a signal never meets a half-started job without us.
    let interrupts = interrupts()?;
    let job = read_job(&args)?;
    let style = style(args.output, &job.spec);
    let folder = job.configuration.checkpoint_dir.clone().unwrap_or_default();
    let name = job.spec.name.clone();
    let load = new_version(&args, &job);
    let from = from(&args);
    let state = state_backend::of(&job.configuration)?;
    let (plugins, configuration, parallelism) = (job.plugins, job.configuration, args.parallelism);
    let grants = Grants::open(job.grants)?;
    let submitted = JobToRun { job: job.spec, plugins, configuration, parallelism, from, grants, state };
    let handle = match submit(submitted)? {
        Submission::Started(handle) => handle,
        Submission::Finished => {
            report::status(&format!("the job in {folder} has finished; nothing is changed"));
            return Ok(());
        }
    };
    if let Some(checkpoint) = handle.resumed_from() {
        report::status(&format!("the job goes on from checkpoint {checkpoint} in {folder}"));
    }
    // Without a socket the job runs as well; it then takes no commands but Ctrl-C.
    let listening = remote::listen(&name, handle.remote(), load).map_err(|error| report::status(error.message()));
    let ended = watch(handle, style, &interrupts);
    drop(listening);
    let (ended, stopped) = ended?;
    show(&style.summary(&ended.summary, stopped || ended.stopped_at.is_some()));
    if let Some(checkpoint) = ended.stopped_at {
        report::status(&format!("the job was stopped at checkpoint {checkpoint} in {folder}, from which the same command goes on"));
    }
    Ok(())
}

fn from(args: &RunArgs) -> Option<String> {
    args.from.as_ref().map(|from| from.to_string_lossy().into_owned())
}

fn interrupts() -> Result<Receiver<()>> {
    let (sender, receiver) = channel();
    // The receiver is gone only when the program ends anyway.
    let handler = move || sender.send(()).unwrap_or(());
    ctrlc::set_handler(handler).map_err(|e| Error::internal("the handler for Ctrl-C cannot be set").with_source(e))?;
    Ok(receiver)
}

fn is_job_file(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "toml")
}

fn read_job(args: &RunArgs) -> Result<Job> {
    match is_job_file(&args.file) {
        true => read_job_file(args),
        false => read_component(args),
    }
}

fn read_component(args: &RunArgs) -> Result<Job> {
    let configuration = configured(Configuration::default(), args)?;
    let mut loader = Loader::new(&configuration)?;
    let loaded = loader.load_for_job(&args.file, &args.args)?;
    let loaded = upgraded(loaded, args, &mut loader, &configuration)?;
    let plan = loaded.plugin.describe(&args.args).map_err(|e| e.at(args.file.display()))?;
    let name = args.file.file_stem().unwrap_or_default().to_string_lossy();
    let spec = JobSpec::from_plan(name, Arc::new(plan));
    Ok(Job { spec, plugins: vec![loaded], configuration, grants: args.grants.clone() })
}

/// The component itself, or the one that an upgrade has put in its place: a job goes on with the version that it had come to.
fn upgraded(named: LoadedPlugin, args: &RunArgs, loader: &mut Loader, configuration: &Configuration) -> Result<LoadedPlugin> {
    let (from, digest, accepted) = (from(args), named.plugin.digest(), args.accept.as_deref());
    let newer = replacement(configuration, from.as_deref(), digest, loader.approvals(), accepted)?;
    let Some(bytes) = newer else { return Ok(named) };
    let replaces = Some(named.plugin.digest().to_owned());
    let plugin = loader.load_bytes(&bytes)?;
    report::status(&format!("the job was upgraded: it goes on with the component {}", plugin.digest().get(..12).unwrap_or_default()));
    Ok(LoadedPlugin { plugin, component: Arc::new(bytes), replaces, ..named })
}

/// How `streamrt upgrade` makes a new version of this job: of another component, with the same name and arguments, or of another job file.
fn new_version(args: &RunArgs, job: &Job) -> remote::Load {
    let (args, name, configuration, grants) = (args.clone(), job.spec.name.clone(), job.configuration.clone(), job.grants.clone());
    Arc::new(move |file| {
        let new = RunArgs { file: file.to_owned(), ..args.clone() };
        let refuse = |what: &str| Err(Error::new(code::BAD_OPTION, format!("{}: {what}", file.display())));
        match (is_job_file(&args.file), is_job_file(file)) {
            (false, true) => refuse("the job was started from a component, and is upgraded to another component"),
            (true, false) => refuse("the job was started from a job file, and is upgraded to another job file, which names the components"),
            (false, false) => new_component(&new, &name, &configuration),
            (true, true) => match read_job_file(&new)? {
                new if new.spec.name != name => refuse(&format!("it is the job `{}`, and the one that runs is `{name}`", new.spec.name)),
                new if new.configuration != configuration || new.grants != grants => {
                    refuse("its configuration or its grants are others, and those of a running job stay: stop it, and start the new file")
                }
                new => Ok((new.spec, new.plugins)),
            },
        }
    })
}

fn new_component(new: &RunArgs, name: &str, configuration: &Configuration) -> Result<(JobSpec, Vec<LoadedPlugin>)> {
    let loaded = Loader::new(configuration)?.load_for_job(&new.file, &new.args)?;
    let plan = loaded.plugin.describe(&new.args).map_err(|e| e.at(new.file.display()))?;
    Ok((JobSpec::from_plan(name, Arc::new(plan)), vec![loaded]))
}

fn read_job_file(args: &RunArgs) -> Result<Job> {
    let place = args.file.display();
    if !args.args.is_empty() {
        return Err(Error::new(code::BAD_OPTION, format!("{place}: a job file takes no arguments; they stand in the file")));
    }
    let text = String::from_utf8(read(&args.file)?);
    let text = text.map_err(|e| Error::new(code::INVALID_JOB, format!("{place}: the file is no text")).with_source(e))?;
    let file = JobFile::parse(&text).map_err(|e| e.at(&place))?;
    let mut configuration = Configuration::default();
    let pairs: Vec<(&str, String)> = file.configuration().collect();
    configuration::set_all(&mut configuration, pairs.iter().map(|(key, value)| (*key, value.as_str()))).map_err(|e| e.at(&place))?;
    let configuration = configured(configuration, args)?;
    let (plugins, plans) = load_plugins(&file, args.file.parent().unwrap_or(Path::new("")), &configuration)?;
    let spec = file.spec(&plans).map_err(|e| e.at(&place))?;
    let granted = file.grants().map(|(name, folder)| (name.to_owned(), PathBuf::from(folder)));
    let grants = granted.chain(args.grants.iter().cloned()).collect();
    Ok(Job { spec, plugins, configuration, grants })
}

/// The components of a job file, whose paths are relative to its folder, and their plans.
fn load_plugins(file: &JobFile, folder: &Path, configuration: &Configuration) -> Result<(Vec<LoadedPlugin>, Vec<Arc<streamrt_wit::Plan>>)> {
    let mut loader = Loader::new(configuration)?;
    let (mut plugins, mut plans) = (Vec::new(), Vec::new());
    for used in file.plugins() {
        let path = folder.join(&used.component);
        let loaded = loader.load_for_job(&path, &used.args)?;
        plans.push(Arc::new(loaded.plugin.describe(&used.args).map_err(|e| e.at(path.display()))?));
        plugins.push(loaded);
    }
    Ok((plugins, plans))
}

/// The command line comes after the job file.
fn configured(mut configuration: Configuration, args: &RunArgs) -> Result<Configuration> {
    configuration::set_all(&mut configuration, args.configuration.iter().map(|(key, value)| (key.as_str(), value.as_str())))?;
    configuration.allow_non_restored_state |= args.allow_non_restored_state;
    Ok(configuration)
}

/// A live line would be torn apart by results that go to the same terminal.
fn style(format: Format, spec: &JobSpec) -> Style {
    let prints = spec.nodes.iter().any(|node| matches!(&node.body, Body::Sink { connector, .. } if connector == "print"));
    let shared = prints && std::io::stdout().is_terminal();
    match format {
        Format::Json => Style::Json,
        Format::Text if std::io::stderr().is_terminal() && !shared => Style::Live,
        Format::Text => Style::Plain,
    }
}

/// Waits for the end of the job, and shows how it goes. The second value is whether it was stopped.
fn watch(handle: JobHandle, style: Style, interrupts: &Receiver<()>) -> Result<(Ended, bool)> {
    let mut shown = (Instant::now(), handle.progress());
    let mut stopped = false;
    while !handle.is_finished() {
        match interrupts.recv_timeout(LOOK) {
            // Whoever asks twice does not want to wait.
            Ok(()) if stopped => std::process::exit(INTERRUPTED),
            Ok(()) => {
                stopped = true;
                handle.stop();
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(LOOK),
        }
        if shown.0.elapsed() >= style.interval() {
            let now = handle.progress();
            show(&style.progress(&shown.1, &now));
            shown = (Instant::now(), now);
        }
    }
    let result = handle.wait();
    if result.is_err() && style == Style::Live {
        show("\n");
    }
    result.map(|ended| (ended, stopped))
}

/// A stderr that nobody reads does not end the job.
fn show(text: &str) {
    let mut stderr = std::io::stderr();
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Command, CommandLine};
    use clap::Parser;

    fn check(line: &str, expected: &str) {
        let Command::Run(args) = CommandLine::parse_from(line.split(' ')).command else { panic!("{line}") };
        let error = read_job(&args).err().expect("it is refused");
        assert_eq!(format!("{} {}", error.code().id, error.message()), expected);
    }

    #[test]
    fn files_that_are_no_job_are_refused_by_name() {
        check("streamrt run /no/such.wasm", "S3001 there is no file /no/such.wasm");
        check("streamrt run /no/such.toml", "S3001 there is no file /no/such.toml");
        check("streamrt run job.toml -- --input x", "S2007 job.toml: a job file takes no arguments; they stand in the file");
        check("streamrt run a.wasm -D batch.row=1", "S2007 there is no configuration key `batch.row`; did you mean batch.rows");
        check("streamrt run a.wasm -D batch.rows=0", "S2007 `batch.rows` is `0`, but it must be a number from 1 to 65536");
    }
}
