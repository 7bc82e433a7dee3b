//! `streamrt run`: a job in this process, from the file to the summary. The only place of the
//! command line that calls the engine.
//!
//! 1. Read the job: a component that builds its own graph, or a `job.toml` that names components.
//! 2. Submit it; everything that can be refused is refused there.
//! 3. Show progress until it ends by itself, or by Ctrl-C, which lets it finish what is in flight.

use crate::args::{Format, RunArgs};
use crate::configuration;
use crate::named::Named;
use crate::plugin_file::{Loader, read};
use crate::progress::{self, Style};
use crate::{remote, report, rest, state_backend};
use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use streamrt_checkpoint::unique_token;
use streamrt_graph::{JobFile, JobSpec};
use streamrt_jobmanager::job_master::{CheckpointStatus, Trust, replacement};
use streamrt_minicluster::{
    Ended, JobHandle, JobRemote, JobToRun, LoadedPlugin, Submission, submit,
};
use streamrt_plugin::{Grants, Plugin};
use streamrt_types::{Configuration, Error, Result, code, finish_saying, say_as_json, say_raw};
use streamrt_web::Bound;
use streamrt_wit::{Body, Plan};

/// How often we look whether the job has ended: short jobs end without a delay that one would
/// notice, and 100 looks a second cost nothing.
const LOOK: Duration = Duration::from_millis(10);

/// How often we look which checkpoints there are: a hundred are remembered.
const LOOK_AT_CHECKPOINTS: Duration = Duration::from_millis(200);

/// Of a job.toml; as large as the plan of a component may be.
const JOB_FILE_BYTES_MAX: usize = 4 << 20;

/// Exit code of a program that was interrupted, for the second Ctrl-C.
const INTERRUPTED: i32 = 130;

/// A job that was read.
struct Job {
    spec: JobSpec,
    plugins: Vec<LoadedPlugin>,
    /// The version before, if the job was upgraded and that is in its probation.
    before: Option<(JobSpec, Vec<LoadedPlugin>)>,
    configuration: Configuration,
    /// Folders by name; a later one takes the place of an equal one.
    grants: Vec<(String, PathBuf)>,
}

/// Runs a job to its end.
///
/// # Errors
/// Whatever keeps the job from starting or ends it.
pub fn run(args: RunArgs) -> Result<()> {
    if args.output == Format::Json {
        say_as_json();
    }
    // Before anything is opened, so that a signal never meets a half-started job without us.
    let has_started = Arc::new(AtomicBool::new(false));
    let interrupts = interrupts(has_started.clone())?;
    let job = read_job(&args)?;
    check_grants(&job, &args.grants)?;
    let style = style(args.output, &job.spec);
    let folder = job.configuration.checkpoint_dir.clone().unwrap_or_default();
    let name = job.spec.name.clone();
    let load = new_version(&args, &job);
    let from = from(&args);
    let state = state_backend::of(&job.configuration)?;
    let (plugins, configuration, parallelism) = (job.plugins, job.configuration, args.parallelism);
    let rest = args.rest.as_deref().map(Bound::new).transpose()?;
    let grants = Grants::open(job.grants)?;
    let submitted = JobToRun {
        job: job.spec,
        plugins,
        configuration,
        parallelism,
        from,
        grants,
        state,
        before: job.before,
    };
    let handle = match submit(submitted)? {
        Submission::Started(handle) => handle,
        Submission::Finished => {
            report::status(&format!(
                "the job in {folder} has finished; nothing is changed"
            ));
            return Ok(());
        }
    };
    has_started.store(true, Ordering::SeqCst);
    if let Some((checkpoint, place)) = handle.resumed_from() {
        report::status(&format!(
            "the job goes on from checkpoint {checkpoint} in {place}"
        ));
    }
    handle
        .remarks()
        .iter()
        .for_each(|remark| report::status(remark));
    // Without a socket the job runs as well; it then takes no commands but Ctrl-C.
    let listening = remote::listen(&name, handle.remote(), load)
        .map_err(|error| report::status(error.message()));
    let long_id = listening
        .as_ref()
        .map_or_else(|()| unique_token(), remote::Listening::long_id);
    let rest = rest
        .map(|bound| rest::show(bound, long_id, &name, handle.remote()))
        .transpose()?;
    let ended = watch(handle, style, &interrupts);
    drop((listening, rest));
    let (ended, stopped) = ended?;
    show(&style.summary(&ended.summary, stopped || ended.stopped_at.is_some()));
    if let Some(checkpoint) = ended.stopped_at {
        report::status(&format!(
            "the job was stopped at checkpoint {checkpoint} in {folder}, from which the same command goes on"
        ));
    }
    Ok(())
}

/// Refuses a folder that nobody asks for: its name is misspelt, and the one that is meant would be
/// missing. Of two with one name on the command line, `given`, nobody knows which is meant.
fn check_grants(job: &Job, given: &[(String, PathBuf)]) -> Result<()> {
    let twice = given.iter().enumerate().find_map(|(i, (name, folder))| {
        Some((
            name,
            folder,
            &given[..i].iter().find(|before| before.0 == *name)?.1,
        ))
    });
    if let Some((name, folder, before)) = twice {
        let message = format!(
            "`--grant {name}=` stands there twice, with {} and with {}",
            before.display(),
            folder.display()
        );
        return Err(Error::new(code::WRONG_USE, message));
    }
    let asked: BTreeSet<&str> = job
        .spec
        .functions
        .iter()
        .flat_map(|function| &function.function().grants)
        .map(String::as_str)
        .collect();
    let Some((name, folder)) = job
        .grants
        .iter()
        .find(|(name, _)| !asked.contains(name.as_str()))
    else {
        return Ok(());
    };
    let known = match asked.is_empty() {
        true => "no sink of it asks for any".to_owned(),
        false => format!(
            "its sinks ask for {}",
            asked.into_iter().collect::<Vec<_>>().join(", ")
        ),
    };
    let message = format!(
        "nothing in the job asks for a folder `{name}`, which {} is granted as; {known}",
        folder.display()
    );
    Err(Error::new(code::BAD_OPTION, message))
}

fn from(args: &RunArgs) -> Option<String> {
    args.from
        .as_ref()
        .map(|from| from.to_string_lossy().into_owned())
}

/// Before the job has started there is nothing to finish: reading, compiling or looking for a
/// database may take long, and the program ends at once. That is what a crash would leave at that
/// moment.
fn interrupts(has_started: Arc<AtomicBool>) -> Result<Receiver<()>> {
    let (sender, receiver) = channel();
    let handler = move || {
        if !has_started.load(Ordering::SeqCst) {
            report::status("interrupted before the job had started");
            finish_saying();
            std::process::exit(INTERRUPTED);
        }
        // The receiver is gone only when the program ends anyway.
        sender.send(()).unwrap_or(());
    };
    ctrlc::set_handler(handler)
        .map_err(|e| Error::internal("the handler for Ctrl-C cannot be set").with_source(e))?;
    Ok(receiver)
}

fn is_job_file(file: &Path) -> bool {
    file.extension()
        .is_some_and(|extension| extension == "toml")
}

fn read_job(args: &RunArgs) -> Result<Job> {
    match is_job_file(&args.file) {
        true => read_job_file(args),
        false => read_component(args),
    }
}

/// What the job of a component is called.
fn name_of(args: &RunArgs) -> String {
    args.name.clone().unwrap_or_else(|| stem(&args.file))
}

/// The name of a file without its extension.
fn stem(file: &Path) -> String {
    file.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn read_component(args: &RunArgs) -> Result<Job> {
    let configuration = configured(Configuration::default(), args)?;
    let mut loader = Loader::new(&configuration)?;
    let loaded = loader.load_for_job(&args.file, &args.args)?;
    let (loaded, before) = upgraded(loaded, args, &mut loader, &configuration)?;
    let described = |loaded: LoadedPlugin| -> Result<(JobSpec, Vec<LoadedPlugin>)> {
        let plan = describe(&loaded.plugin, args)?;
        Ok((
            JobSpec::from_plan(name_of(args), Arc::new(plan)),
            vec![loaded],
        ))
    };
    let (spec, plugins) = described(loaded)?;
    Ok(Job {
        spec,
        plugins,
        before: before.map(described).transpose()?,
        configuration,
        grants: args.grants.clone(),
    })
}

/// The plan of a component, which names nothing that the user did not name.
fn describe(plugin: &Plugin, args: &RunArgs) -> Result<Plan> {
    let plan = plugin
        .describe(&args.args)
        .map_err(|e| e.at(args.file.display()))?;
    Named::new(&args.args, &args.allowed_paths, &args.allowed_hosts).check(&plan)?;
    Ok(plan)
}

/// The component itself, or the one that an upgrade has put in its place: a job goes on with the
/// version that it had come to. The second one is that before the upgrade, as long as that is in
/// its probation.
fn upgraded(
    named: LoadedPlugin,
    args: &RunArgs,
    loader: &mut Loader,
    configuration: &Configuration,
) -> Result<(LoadedPlugin, Option<LoadedPlugin>)> {
    let first = named.plugin.digest().to_owned();
    let trust = Trust {
        approvals: loader.approvals().map(|key| &**key),
        accepted: args.accept.as_deref(),
    };
    let Some(replacing) = replacement(configuration, from(args).as_deref(), &first, trust)? else {
        return Ok((named, None));
    };
    let mut load = |name: String, bytes: Vec<u8>| -> Result<LoadedPlugin> {
        let plugin = loader.load_bytes(&bytes)?;
        let replaces = Some(first.clone()).filter(|first| first != plugin.digest());
        Ok(LoadedPlugin {
            name,
            plugin,
            component: Arc::new(bytes),
            replaces,
            args: named.args.clone(),
            approvals: named.approvals.clone(),
        })
    };
    let loaded = load(replacing.name, replacing.component)?;
    report::status(&format!(
        "the job was upgraded: it goes on with the component {}",
        loaded.plugin.digest().get(..12).unwrap_or_default()
    ));
    let before = replacing
        .before
        .map(|(name, bytes)| load(name, bytes))
        .transpose()?;
    Ok((loaded, before))
}

/// How `streamrt upgrade` makes a new version of this job: of another component, with the same name
/// and arguments, or of another job file.
fn new_version(args: &RunArgs, job: &Job) -> remote::Load {
    let (args, name, configuration, grants) = (
        args.clone(),
        job.spec.name.clone(),
        job.configuration.clone(),
        job.grants.clone(),
    );
    Arc::new(move |file| {
        let new = RunArgs {
            file: file.to_owned(),
            ..args.clone()
        };
        let refuse = |what: &str| {
            Err(Error::new(
                code::BAD_OPTION,
                format!("{}: {what}", file.display()),
            ))
        };
        match (is_job_file(&args.file), is_job_file(file)) {
            (false, true) => {
                refuse("the job was started from a component, and is upgraded to another component")
            }
            (true, false) => refuse(
                "the job was started from a job file, and is upgraded to another job file, which names the components",
            ),
            (false, false) => new_component(&new, &name, &configuration),
            (true, true) => match read_job_file(&new)? {
                new if new.spec.name != name => refuse(&format!(
                    "it is the job `{}`, and the one that runs is `{name}`",
                    new.spec.name
                )),
                new if new.configuration != configuration || new.grants != grants => refuse(
                    "its configuration or its grants are others, and those of a running job stay: stop it, and start the new file",
                ),
                new => Ok((new.spec, new.plugins)),
            },
        }
    })
}

fn new_component(
    new: &RunArgs,
    name: &str,
    configuration: &Configuration,
) -> Result<(JobSpec, Vec<LoadedPlugin>)> {
    let loaded = Loader::new(configuration)?.load_for_job(&new.file, &new.args)?;
    let plan = describe(&loaded.plugin, new)?;
    Ok((JobSpec::from_plan(name, Arc::new(plan)), vec![loaded]))
}

fn read_job_file(args: &RunArgs) -> Result<Job> {
    let place = args.file.display();
    if !args.args.is_empty() {
        return Err(Error::new(
            code::BAD_OPTION,
            format!("{place}: a job file takes no arguments; they stand in the file"),
        ));
    }
    let text = read(&args.file, JOB_FILE_BYTES_MAX + 1)?;
    if text.len() > JOB_FILE_BYTES_MAX {
        return Err(Error::new(
            code::PLAN_LIMIT,
            format!("{place}: a job file has at most {JOB_FILE_BYTES_MAX} bytes"),
        ));
    }
    let text = String::from_utf8(text);
    let text = text.map_err(|e| {
        Error::new(code::INVALID_JOB, format!("{place}: the file is no text")).with_source(e)
    })?;
    let file = JobFile::parse(&text).map_err(|e| e.at(&place))?;
    let mut configuration = Configuration::default();
    let pairs: Vec<(&str, String)> = file.configuration().collect();
    configuration::set_all(
        &mut configuration,
        pairs.iter().map(|(key, value)| (*key, value.as_str())),
    )
    .map_err(|e| e.at(&place))?;
    let configuration = configured(configuration, args)?;
    let (plugins, plans) = load_plugins(
        &file,
        args.file.parent().unwrap_or(Path::new("")),
        &configuration,
    )?;
    let mut spec = file.spec(&plans).map_err(|e| e.at(&place))?;
    args.name
        .iter()
        .for_each(|name| name.clone_into(&mut spec.name));
    let granted = file
        .grants()
        .map(|(name, folder)| (name.to_owned(), PathBuf::from(folder)));
    let grants = granted.chain(args.grants.iter().cloned()).collect();
    Ok(Job {
        spec,
        plugins,
        before: None,
        configuration,
        grants,
    })
}

/// The components of a job file, whose paths are relative to its folder, and their plans.
fn load_plugins(
    file: &JobFile,
    folder: &Path,
    configuration: &Configuration,
) -> Result<(Vec<LoadedPlugin>, Vec<Arc<streamrt_wit::Plan>>)> {
    let mut loader = Loader::new(configuration)?;
    let (mut plugins, mut plans) = (Vec::new(), Vec::new());
    for used in file.plugins() {
        let path = folder.join(&used.component);
        let loaded = loader.load_for_job(&path, &used.args)?;
        plans.push(Arc::new(
            loaded
                .plugin
                .describe(&used.args)
                .map_err(|e| e.at(path.display()))?,
        ));
        plugins.push(loaded);
    }
    Ok((plugins, plans))
}

/// The command line comes after the job file.
fn configured(mut configuration: Configuration, args: &RunArgs) -> Result<Configuration> {
    configuration::set_all(
        &mut configuration,
        args.configuration
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str())),
    )?;
    let allowed = [
        (
            "restore.allow-changed-arguments",
            args.allow_changed_arguments,
        ),
        (
            "restore.allow-non-restored-state",
            args.allow_non_restored_state,
        ),
    ];
    allowed
        .iter()
        .filter(|(_, given)| *given)
        .try_for_each(|(key, _)| configuration.set(key, "true"))?;
    Ok(configuration)
}

/// A live line would be torn apart by results that go to the same terminal.
fn style(format: Format, spec: &JobSpec) -> Style {
    let prints = spec
        .nodes
        .iter()
        .any(|node| matches!(&node.body, Body::Sink { connector, .. } if connector == "print"));
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
    let mut checkpoints = Checkpoints::new(&handle, style);
    let mut stopped = false;
    while !handle.is_finished() {
        match interrupts.recv_timeout(LOOK) {
            // Whoever asks twice does not want to wait.
            Ok(()) if stopped => {
                finish_saying();
                std::process::exit(INTERRUPTED)
            }
            Ok(()) => {
                stopped = true;
                handle.stop();
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(LOOK),
        }
        checkpoints.show();
        if shown.0.elapsed() >= style.interval() {
            let now = handle.progress();
            show(&style.progress(&shown.1, &now));
            shown = (Instant::now(), now);
        }
    }
    let result = handle.wait();
    checkpoints.show_all();
    if result.is_err() && style == Style::Live {
        show("\n");
    }
    result.map(|ended| (ended, stopped))
}

/// Shows each checkpoint that counts, or has failed, as JSON.
struct Checkpoints {
    /// None: they are not shown.
    job: Option<JobRemote>,
    looked: Instant,
    /// By when they began; a number that has failed may come again.
    shown: BTreeSet<(i64, u64)>,
}

impl Checkpoints {
    fn new(handle: &JobHandle, style: Style) -> Checkpoints {
        Checkpoints {
            job: (style == Style::Json).then(|| handle.remote()),
            looked: Instant::now(),
            shown: BTreeSet::new(),
        }
    }

    fn show(&mut self) {
        if self.looked.elapsed() >= LOOK_AT_CHECKPOINTS {
            self.looked = Instant::now();
            self.show_all();
        }
    }

    fn show_all(&mut self) {
        let reports = self
            .job
            .as_ref()
            .map(|job| job.checkpoints(usize::MAX))
            .unwrap_or_default();
        let mut known = BTreeSet::new();
        for report in reports
            .iter()
            .filter(|report| report.status != CheckpointStatus::Pending)
        {
            let this = (report.triggered_ms, report.checkpoint);
            if !self.shown.contains(&this) {
                show(&progress::checkpoint(report));
            }
            known.insert(this);
        }
        self.shown = known;
    }
}

/// Puts onto stderr what holds nothing of others.
fn show(text: &str) {
    say_raw(text.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Command, CommandLine};
    use clap::Parser;

    fn check(line: &str, expected: &str) {
        let Command::Run(args) = CommandLine::parse_from(line.split(' ')).command else {
            panic!("{line}")
        };
        let error = read_job(&args).err().expect("it is refused");
        assert_eq!(format!("{} {}", error.code().id, error.message()), expected);
    }

    #[test]
    fn files_that_are_no_job_are_refused_by_name() {
        check(
            "streamrt run /no/such.wasm",
            "S3001 there is no file /no/such.wasm",
        );
        check(
            "streamrt run /no/such.toml",
            "S3001 there is no file /no/such.toml",
        );
        check(
            "streamrt run job.toml -- --input x",
            "S2007 job.toml: a job file takes no arguments; they stand in the file",
        );
        check(
            "streamrt run a.wasm -D batch.row=1",
            "S2007 there is no configuration key `batch.row`; did you mean batch.rows",
        );
        check(
            "streamrt run a.wasm -D batch.rows=0",
            "S2007 `batch.rows` is `0`, but it must be a number from 1 to 65536",
        );
    }
}
