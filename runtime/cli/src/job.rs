//! A job as users give it, read and described: a component that builds its own graph, or a
//! `job.toml` that names components. Called by `run`, and by a JobManager for what was deployed.

use crate::args::RunArgs;
use crate::configuration;
use crate::named::{Named, needs, verb};
use crate::plugin_file::{Disk, Files, Loader};
use crate::{report, state_backend};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use streamrt_connector::Need;
use streamrt_graph::{JobFile, JobSpec};
use streamrt_jobmanager::check_whole;
use streamrt_jobmanager::job_master::{Trust, replacement};
use streamrt_minicluster::{JobToRun, LoadedPlugin};
use streamrt_plugin::{Engines, Grants, Origin, Plugin};
use streamrt_types::{Configuration, Error, Result, code};
use streamrt_wit::{Node, Plan};

/// How large a job.toml may be: as large as the plan of a component.
pub const JOB_FILE_BYTES_MAX: usize = 4 << 20;

/// A job that was read.
pub struct Job {
    pub spec: JobSpec,
    pub plugins: Vec<LoadedPlugin>,
    /// The version before, if the job was upgraded and that is in its probation.
    pub before: Option<(JobSpec, Vec<LoadedPlugin>)>,
    pub configuration: Configuration,
    /// Folders by name; a later one takes the place of an equal one.
    pub grants: Vec<(String, PathBuf)>,
}

impl Job {
    /// Where the code of each component has come from.
    pub fn origins(&self) -> Vec<String> {
        let origin = |loaded: &LoadedPlugin| {
            let how = match loaded.plugin.origin() {
                Origin::Compiled => "was compiled",
                Origin::Cache => "had been compiled before: its code was kept",
                Origin::Shared => "had been compiled before: another job has its code",
            };
            format!("`{}` {how}", loaded.name)
        };
        self.plugins.iter().map(origin).collect()
    }

    /// What is submitted; opens the folders that are granted.
    ///
    /// # Errors
    /// `Unavailable` if a folder cannot be used, `Invalid` if this program lacks the backend.
    pub fn to_run(self, args: &RunArgs) -> Result<JobToRun> {
        Ok(JobToRun {
            state: state_backend::of(&self.configuration)?,
            grants: Grants::open(self.grants)?,
            job: self.spec,
            plugins: self.plugins,
            configuration: self.configuration,
            parallelism: args.parallelism,
            from: from(args),
            before: self.before,
        })
    }
}

/// How a job is read.
#[derive(Clone)]
pub struct Reader {
    pub args: RunArgs,
    pub files: Arc<dyn Files>,
    /// What holds where neither the job file nor the command line says anything.
    pub defaults: Configuration,
    pub engines: Engines,
    /// The job is to run in another folder some day: paths are whole, which is said before they are
    /// compared with what the user allows.
    pub whole_paths: bool,
}

/// Makes the new version of a job out of a file and what it names.
pub type NewVersion =
    Arc<dyn Fn(&Path, Arc<dyn Files>) -> Result<(JobSpec, Vec<LoadedPlugin>)> + Send + Sync>;

/// Refuses a folder that nobody asks for: its name is misspelt, and the one that is meant would be
/// missing. If two on the command line, `given`, have one name, nobody knows which is meant.
pub fn check_grants(job: &Job, given: &[(String, PathBuf)]) -> Result<()> {
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

pub fn is_job_file(file: &Path) -> bool {
    file.extension()
        .is_some_and(|extension| extension == "toml")
}

impl Reader {
    /// Reads the job, and lets its components describe themselves.
    ///
    /// # Errors
    /// Whatever is wrong with it.
    pub fn read(&self) -> Result<Job> {
        match is_job_file(&self.args.file) {
            true => read_job_file(self),
            false => read_component(self),
        }
    }

    fn loader(&self, configuration: &Configuration) -> Result<Loader> {
        Loader::new(configuration, self.files.clone(), &self.engines)
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

fn read_component(reader: &Reader) -> Result<Job> {
    let args = &reader.args;
    let configuration = configured(reader.defaults.clone(), args)?;
    let mut loader = reader.loader(&configuration)?;
    let loaded = loader.load_for_job(&args.file, &args.args)?;
    let (loaded, before) = upgraded(loaded, args, &mut loader, &configuration)?;
    let described = |loaded: LoadedPlugin| -> Result<(JobSpec, Vec<LoadedPlugin>)> {
        let plan = describe(&loaded.plugin, reader)?;
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
fn describe(plugin: &Plugin, reader: &Reader) -> Result<Plan> {
    let args = &reader.args;
    let plan = plugin
        .describe(&args.args)
        .map_err(|e| e.at(args.file.display()))?;
    if reader.whole_paths {
        check_whole_paths(&plan.nodes)?;
    }
    Named::new(&args.args, &args.allowed_paths, &args.allowed_hosts).check(&plan)?;
    Ok(plan)
}

/// Refuses paths of nodes that another current folder would change the meaning of.
pub fn check_whole_paths(nodes: &[Node]) -> Result<()> {
    for node in nodes {
        let at = |e: Error| e.at(format_args!("node `{}`", node.uid));
        for need in needs(node).map_err(at)? {
            if let Need::Path(path) = need {
                check_whole(&path, verb(node)).map_err(at)?;
            }
        }
    }
    Ok(())
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
pub fn new_version(reader: &Reader, job: &Job) -> NewVersion {
    let mut template = reader.clone();
    // The version that runs is loaded, and its files are not kept in memory.
    template.files = Arc::new(Disk);
    let (reader, name, configuration, grants) = (
        template,
        job.spec.name.clone(),
        job.configuration.clone(),
        job.grants.clone(),
    );
    Arc::new(move |file, files| {
        let mut new = reader.clone();
        file.clone_into(&mut new.args.file);
        new.files = files;
        let refuse = |what: &str| {
            Err(Error::new(
                code::BAD_OPTION,
                format!("{}: {what}", file.display()),
            ))
        };
        match (is_job_file(&reader.args.file), is_job_file(file)) {
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
    new: &Reader,
    name: &str,
    configuration: &Configuration,
) -> Result<(JobSpec, Vec<LoadedPlugin>)> {
    let args = &new.args;
    let loaded = new
        .loader(configuration)?
        .load_for_job(&args.file, &args.args)?;
    let plan = describe(&loaded.plugin, new)?;
    Ok((JobSpec::from_plan(name, Arc::new(plan)), vec![loaded]))
}

fn read_job_file(reader: &Reader) -> Result<Job> {
    let args = &reader.args;
    let place = args.file.display();
    if !args.args.is_empty() {
        return Err(Error::new(
            code::BAD_OPTION,
            format!("{place}: a job file takes no arguments; they stand in the file"),
        ));
    }
    let text = reader.files.read(&args.file, JOB_FILE_BYTES_MAX + 1)?;
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
    let mut configuration = reader.defaults.clone();
    let pairs: Vec<(&str, String)> = file.configuration().collect();
    configuration::set_all(
        &mut configuration,
        pairs.iter().map(|(key, value)| (*key, value.as_str())),
    )
    .map_err(|e| e.at(&place))?;
    let configuration = configured(configuration, args)?;
    let folder = args.file.parent().unwrap_or(Path::new(""));
    let (plugins, plans) = load_plugins(&file, folder, reader.loader(&configuration)?)?;
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
    mut loader: Loader,
) -> Result<(Vec<LoadedPlugin>, Vec<Arc<Plan>>)> {
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
    configuration::allowances(args.allow_changed_arguments, args.allow_non_restored_state)
        .try_for_each(|key| configuration.set(key, "true"))?;
    Ok(configuration)
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
        let reader = Reader {
            args,
            files: Arc::new(Disk),
            defaults: Configuration::default(),
            engines: Engines::default(),
            whole_paths: false,
        };
        let error = reader.read().err().expect("it is refused");
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
