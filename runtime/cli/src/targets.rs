//! Where commands go: to the JobManager that the user means, to each `run` of this machine, and of
//! their jobs to the one that is meant.

use crate::args::{ClusterArgs, JobArgs};
use crate::cache;
use crate::control_socket::{Registered, registered};
use std::time::Duration;
use streamrt_types::{Error, Result, code};
use streamrt_web::{Client, JobStatus, Place, Resolved, resolve};

/// Where a JobManager listens unless it is told otherwise.
const DEFAULT_CLUSTER: &str = "127.0.0.1:8081";

const VARIABLE: &str = "STREAMRT_CLUSTER";

/// A job that is silent for so long does not answer.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// The same for what can be said at once.
pub const GLANCE: Duration = Duration::from_secs(1);

/// The cluster that the user names; None: none.
fn named(args: &ClusterArgs) -> Option<String> {
    let variable = || std::env::var(VARIABLE).ok();
    args.cluster
        .clone()
        .or_else(variable)
        .filter(|url| !url.is_empty())
}

/// The cluster to deploy to.
///
/// # Errors
/// S3015 if none is there, with the command that starts one.
pub fn cluster(args: &ClusterArgs) -> Result<Client> {
    let url = named(args).unwrap_or_else(|| DEFAULT_CLUSTER.to_owned());
    Client::connect(Place::parse(&url)?, SILENCE_MAX)
}

/// The jobs of this machine.
pub struct Jobs {
    /// Each `run`, as far as it can be known without asking it.
    pub runs: Vec<Registered>,
    /// The cluster's jobs, and where it is.
    pub cluster: Option<(Place, Vec<JobStatus>)>,
}

/// All jobs: those of the cluster that the user names, or else each `run` of this user, and the
/// cluster at the usual address if one answers.
///
/// # Errors
/// S3015 if the cluster that is named is not there.
pub fn jobs(args: &ClusterArgs) -> Result<Jobs> {
    let listed = |place: Place, silence| -> Result<(Place, Vec<JobStatus>)> {
        let mut client = Client::connect(place.clone(), silence)?;
        Ok((place, client.jobs()?.jobs))
    };
    if let Some(url) = named(args) {
        let cluster = Some(listed(Place::parse(&url)?, SILENCE_MAX)?);
        let runs = Vec::new();
        return Ok(Jobs { runs, cluster });
    }
    let folder = cache::jobs();
    Ok(Jobs {
        runs: folder.map(|folder| registered(&folder)).unwrap_or_default(),
        // Whatever else listens there is not meant.
        cluster: listed(Place::Tcp(DEFAULT_CLUSTER.to_owned()), GLANCE).ok(),
    })
}

/// A job that is meant, and a connection to who has it.
pub struct Target {
    pub client: Client,
    pub id: String,
    /// For messages.
    place: String,
}

impl Target {
    /// Says of an error which job it is about.
    pub fn at(&self, error: Error) -> Error {
        error.at(&self.place)
    }
}

/// The one job that is meant.
///
/// # Errors
/// S6004 if there is none, or not one alone; S3015 if the cluster that is named is not there.
pub fn target(args: &JobArgs) -> Result<Target> {
    let all = jobs(&args.cluster)?;
    let runs = all
        .runs
        .iter()
        .map(|run| (&*run.id, &*run.entry.name, false));
    let (place, statuses) = match &all.cluster {
        Some((place, statuses)) => (Some(place), &statuses[..]),
        None => (None, &[][..]),
    };
    let of_cluster = statuses
        .iter()
        .map(|job| (&*job.id, &*job.name, job.state.is_end()));
    let known: Vec<(&str, &str, bool)> = runs.chain(of_cluster).collect();
    let at = match resolve(&known, &args.job) {
        Resolved::One(at) => at,
        unresolved => return Err(refusal(&args.job, unresolved, place)),
    };
    let id = known[at].0.to_owned();
    let (place, shown) = match (all.runs.get(at), place) {
        (Some(Registered { socket, entry, .. }), _) => (
            Place::Unix(socket.clone()),
            format!(
                "job `{}` (process {} on {})",
                args.job, entry.pid, entry.host
            ),
        ),
        (None, Some(place)) => (
            place.clone(),
            format!("job `{}` at {}", args.job, place.shown()),
        ),
        (None, None) => return Err(Error::internal("a job was found nowhere")),
    };
    let client = Client::connect(place, SILENCE_MAX).map_err(|e| e.at(&shown))?;
    Ok(Target {
        client,
        id,
        place: shown,
    })
}

fn refusal(job: &str, unresolved: Resolved, cluster: Option<&Place>) -> Error {
    let message = match unresolved {
        Resolved::Several(ids) => format!(
            "`{job}` fits {} jobs: {}; take more of the id",
            ids.len(),
            ids.join(", ")
        ),
        _ => {
            let place = cluster.map_or_else(
                || "on this machine, and no JobManager listens; `streamrt jobmanager --embedded --dir DIR` starts one".into(),
                |at| format!("at {}; `streamrt list` shows those that are there", at.shown()),
            );
            format!("there is no job `{job}` {place}")
        }
    };
    Error::new(code::WRONG_USE, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_job_or_not_one_alone_is_refused() {
        let none = refusal("x", Resolved::None, None);
        assert_eq!(
            none.message(),
            "there is no job `x` on this machine, and no JobManager listens; `streamrt jobmanager --embedded --dir DIR` starts one"
        );
        let place = Place::Tcp("h:1".into());
        let none = refusal("x", Resolved::None, Some(&place));
        assert!(
            none.message()
                .starts_with("there is no job `x` at http://h:1;")
        );
        let ids = vec!["ab1".to_owned(), "ab2".to_owned()];
        let several = refusal("ab", Resolved::Several(ids), None);
        assert_eq!(
            several.message(),
            "`ab` fits 2 jobs: ab1, ab2; take more of the id"
        );
    }
}
