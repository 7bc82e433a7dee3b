//! `streamrt deploy`: gives a job to a JobManager, and shows how far it has come.
//!
//! 1. Read the file and what it names, and refuse what the cluster would refuse.
//! 2. Upload the components that are not there.
//! 3. Submit the job, and follow it until it runs, waits for slots, or has ended; with `--wait`
//!    until it has ended.

use crate::args::{DeployArgs, Format};
use crate::bundle::{Bundle, bundle};
use crate::jobs::absolute;
use crate::targets::cluster;
use crate::{configuration, print, report};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use streamrt_jobmanager::Specification;
use streamrt_types::{Configuration, Error, Result, code, say_as_json};
use streamrt_web::{Client, JobStatus, State};

/// Between two looks at a job that is about to run, and at one that runs.
const LOOK: Duration = Duration::from_millis(5);
const LOOK_AT_END: Duration = Duration::from_millis(100);

/// Keys whose values are folders.
const FOLDERS: [&str; 3] = ["checkpoint.dir", "poison.dead-letters", "state.dir"];

/// Deploys a job.
///
/// # Errors
/// S3015 if no cluster is there, whatever is wrong with the job, and with `--wait` how it failed.
pub fn deploy(args: &DeployArgs) -> Result<()> {
    let is_json = args.output == Format::Json;
    if is_json {
        say_as_json();
    }
    let mut client = cluster(&args.cluster)?;
    let bundle = bundle(&args.file, client.cluster()?.component_bytes_max)?;
    let specification = specification(args, &bundle)?;
    specification.check()?;
    bundle.upload(&mut client, false)?;
    let id = client.submit(&specification)?;
    let name = &specification.name;
    report::status(&format!("accepted `{name}` as {id}"));
    let status = follow(&mut client, &id, args.wait)?;
    outcome(&status)?;
    match args.output {
        Format::Json => print(&format!("{}\n", json!(status))),
        Format::Text => print(&format!("{id}\n")),
    }
}

fn specification(args: &DeployArgs, bundle: &Bundle) -> Result<Specification> {
    let mut checked = Configuration::default();
    let pairs = args.configuration.iter();
    configuration::set_all(&mut checked, pairs.map(|(key, value)| (&**key, &**value)))?;
    let value = |(key, value): &(String, String)| {
        let value = match FOLDERS.contains(&&**key) {
            true => absolute(Path::new(value))?,
            false => value.clone(),
        };
        Ok((key.clone(), value))
    };
    let grant = |(name, folder): &(String, PathBuf)| Ok((name.clone(), absolute(folder)?));
    let grants: BTreeMap<String, String> = args.grants.iter().map(grant).collect::<Result<_>>()?;
    if grants.len() < args.grants.len() {
        let message = "two of `--grant` have the same name";
        return Err(Error::new(code::WRONG_USE, message));
    }
    let allowed = args.allowed_paths.iter().map(|path| absolute(path));
    let given =
        configuration::allowances(args.allow_changed_arguments, args.allow_non_restored_state);
    let given = given.map(|key| Ok((key.to_owned(), "true".to_owned())));
    Ok(Specification {
        name: args.name.clone().unwrap_or_else(|| bundle.name.clone()),
        version: bundle.version.clone(),
        args: args.args.clone(),
        parallelism: args.parallelism,
        configuration: args
            .configuration
            .iter()
            .map(value)
            .chain(given)
            .collect::<Result<_>>()?,
        grants,
        allowed_paths: allowed.collect::<Result<_>>()?,
        allowed_hosts: args.allowed_hosts.clone(),
        from: args.from.as_deref().map(absolute).transpose()?,
    })
}

/// Says how far the job has come, until there is nothing more to wait for.
fn follow(client: &mut Client, id: &str, to_the_end: bool) -> Result<JobStatus> {
    let mut said = None;
    loop {
        let status = client.job(id).map_err(|error| gone(id, error))?;
        if said != Some(status.state) {
            said = Some(status.state);
            progress(&status, client)
                .iter()
                .for_each(|text| report::status(text));
        }
        let settled = match status.state {
            State::Preparing | State::Starting => false,
            state => state.is_end() || !to_the_end,
        };
        if settled {
            return Ok(status);
        }
        std::thread::sleep(match status.state {
            State::Preparing | State::Starting => LOOK,
            _ => LOOK_AT_END,
        });
    }
}

/// The JobManager has ended before the job did.
fn gone(id: &str, error: Error) -> Error {
    if error.code() != code::CONNECTION_LOST {
        return error;
    }
    let message = format!(
        "the JobManager has ended; started again with the same `--dir`, it goes on with the job, and `streamrt info {id}` shows it"
    );
    Error::new(code::NO_CLUSTER, message).with_source(error)
}

fn progress(status: &JobStatus, client: &Client) -> Vec<String> {
    let (name, place) = (&status.name, client.place().shown());
    match status.state {
        State::Preparing => {
            vec!["its components are read; those that are new there are compiled".into()]
        }
        State::Waiting => vec![format!(
            "it waits for {}; `streamrt info {name}` says when it runs",
            awaited(status.missing_slots.unwrap_or_default())
        )],
        State::Starting => {
            vec!["it is scheduled, and what its checkpoints hold is restored".into()]
        }
        State::Running => {
            let from = status.resumed_from;
            let from = from.map_or(String::new(), |n| format!(" from checkpoint {n}"));
            let mut lines = status.components.clone();
            lines.extend(status.remarks.iter().cloned());
            lines.push(format!(
                "it runs{from}: `streamrt info {name}`, {place}/v1/jobs/{}",
                status.id
            ));
            lines
        }
        state if state.is_end() => summary(status).into_iter().collect(),
        state => {
            let reason = status.reason.as_ref();
            let why = reason.map_or(String::new(), |why| {
                format!(": [{}] {}", why.code, why.message)
            });
            vec![format!("it is {}{why}", state.name())]
        }
    }
}

/// What a job waits for that misses so many slots.
pub fn awaited(missing_slots: u32) -> String {
    match missing_slots {
        0 => "its turn: jobs that came before it wait for slots".into(),
        1 => "1 slot that is not free".into(),
        n => format!("{n} slots that are not free"),
    }
}

/// How it ended; nothing of one that failed, whose error says it.
fn summary(status: &JobStatus) -> Option<String> {
    if status.state == State::Failed {
        return None;
    }
    let JobStatus {
        records_in,
        records_out,
        late_records,
        dead_letters,
        ..
    } = status;
    let at = match (status.stopped_at, &status.checkpoint_dir) {
        (Some(n), Some(folder)) => format!(" at checkpoint {n} in {folder}"),
        _ => String::new(),
    };
    Some(format!(
        "{}{at}: {records_in} records in, {records_out} out, {late_records} late, {dead_letters} dead letters, {:.2} s",
        status.state.name(),
        status.elapsed_ms as f64 / 1000.0
    ))
}

fn outcome(status: &JobStatus) -> Result<()> {
    match (status.state, &status.reason) {
        (state, Some(reason)) if state.is_end() => Err(reason.clone().into()),
        (State::Cancelled, None) => Err(Error::new(code::JOB_CANCELLED, "the job was cancelled")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use streamrt_jobmanager::Failure;

    fn ended(state: State) -> JobStatus {
        JobStatus {
            state,
            records_in: 7,
            elapsed_ms: 1_500,
            checkpoint_dir: Some("/ck".into()),
            ..JobStatus::default()
        }
    }

    #[test]
    fn a_deployment_ends_as_its_job_did() {
        assert!(
            outcome(&ended(State::Finished)).is_ok() && outcome(&ended(State::Stopped)).is_ok()
        );
        let cancelled = outcome(&ended(State::Cancelled)).unwrap_err();
        assert_eq!(cancelled.code(), code::JOB_CANCELLED);
        let error = Error::new(code::TRAP, "it trapped");
        let failed = JobStatus {
            reason: Some(Failure::from(&error)),
            ..ended(State::Failed)
        };
        assert_eq!(outcome(&failed).unwrap_err().code(), code::TRAP);
    }

    #[test]
    fn summaries() {
        let stopped = JobStatus {
            stopped_at: Some(3),
            ..ended(State::Stopped)
        };
        assert_eq!(
            summary(&stopped).unwrap(),
            "stopped at checkpoint 3 in /ck: 7 records in, 0 out, 0 late, 0 dead letters, 1.50 s"
        );
        assert_eq!(summary(&ended(State::Failed)), None);
    }
}
