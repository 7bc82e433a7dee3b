//! The commands to running jobs, as users give them: list, savepoint, stop, cancel, upgrade.

use crate::args::{Format, ListArgs};
use crate::control_socket::Registered;
use crate::print;
use crate::remote::{Answer, Asked, Description, GLANCE, Request, ask, command, jobs};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Instant;
use streamrt_jobmanager::job_master::CheckpointReport;
use streamrt_types::{Error, Result, code};

/// How a job is listed that does not answer.
const SILENT: &str = "no answer";

/// `streamrt list`. All jobs are asked at once, and none is waited for longer than a second.
///
/// # Errors
/// If stdout cannot be written.
pub fn list(args: &ListArgs) -> Result<()> {
    let asked: Vec<(Registered, Asked)> = jobs()
        .into_iter()
        .map(|job| (job.clone(), ask(&job, &Request::Describe)))
        .collect();
    let start = Instant::now();
    let answer = |(job, asked): (Registered, Asked)| match asked
        .answer(GLANCE.saturating_sub(start.elapsed()))
    {
        Ok(Answer::Described(description)) => Some((job, Some(description))),
        // One that has ended meanwhile is none any more.
        Err(error) if error.code() == code::CONNECTION_LOST && !job.socket.exists() => None,
        _ => Some((job, None)),
    };
    let listed: Vec<(Registered, Option<Description>)> =
        asked.into_iter().filter_map(answer).collect();
    match args.output {
        Format::Json => print(
            &listed
                .iter()
                .map(|(job, description)| format!("{}\n", object(job, description.as_ref())))
                .collect::<String>(),
        ),
        Format::Text => print(&table(&listed)),
    }
}

fn table(listed: &[(Registered, Option<Description>)]) -> String {
    let head = [
        "JOB",
        "NAME",
        "STATE",
        "PARALLELISM",
        "RECORDS IN",
        "RECORDS OUT",
        "SECONDS",
    ]
    .map(str::to_owned);
    let row = |(job, description): &(Registered, Option<Description>)| {
        let of = |value: fn(&Description) -> String| {
            description.as_ref().map_or_else(|| "-".to_owned(), value)
        };
        let state = description
            .as_ref()
            .map_or(SILENT, |description| description.state.as_str());
        let seconds = of(|description| format!("{:.1}", description.elapsed_ms as f64 / 1000.0));
        let parallelism = of(|description| description.parallelism.to_string());
        let (records_in, records_out) = (
            of(|d| d.records_in.to_string()),
            of(|d| d.records_out.to_string()),
        );
        [
            job.id.clone(),
            job.entry.name.clone(),
            state.to_owned(),
            parallelism,
            records_in,
            records_out,
            seconds,
        ]
    };
    let rows: Vec<_> = std::iter::once(head)
        .chain(listed.iter().map(row))
        .collect();
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: [usize; 7] = std::array::from_fn(width);
    let line = |row: &[String; 7]| {
        // Words to the left, numbers to the right.
        let cell = |(column, text): (usize, &String)| match column {
            0..3 => format!("{text:<width$}", width = widths[column]),
            _ => format!("{text:>width$}", width = widths[column]),
        };
        format!(
            "{}\n",
            row.iter()
                .enumerate()
                .map(cell)
                .collect::<Vec<_>>()
                .join("  ")
                .trim_end()
        )
    };
    rows.iter().map(line).collect()
}

fn object(job: &Registered, description: Option<&Description>) -> Value {
    let mut object = json!({"id": job.id, "name": job.entry.name, "host": job.entry.host, "pid": job.entry.pid, "state": SILENT});
    if let Some(Description {
        state,
        parallelism,
        records_in,
        records_out,
        elapsed_ms,
    }) = description
    {
        object["state"] = json!(state);
        object["parallelism"] = json!(parallelism);
        object["records_in"] = json!(records_in);
        object["records_out"] = json!(records_out);
        object["elapsed_ms"] = json!(elapsed_ms);
    }
    object
}

/// A path that means the same in another process; so does the URL of an object store as it is.
fn absolute(folder: &Path) -> Result<String> {
    if let Some(url) = folder.to_str().filter(|text| text.contains("://")) {
        return Ok(url.to_owned());
    }
    let path = std::path::absolute(folder);
    let path = path.map_err(|e| {
        Error::new(code::WRONG_USE, format!("{} is no path", folder.display())).with_source(e)
    })?;
    Ok(path.to_string_lossy().into_owned())
}

/// `streamrt savepoint`.
///
/// # Errors
/// If there is no such job, or the savepoint failed.
pub fn savepoint(job: &str, folder: &Path) -> Result<()> {
    let folder = absolute(folder)?;
    command(
        job,
        &Request::Savepoint {
            folder: folder.clone(),
            stop: false,
        },
    )?;
    print(&format!("{folder}\n"))
}

/// `streamrt stop`.
///
/// # Errors
/// If there is no such job, or the savepoint failed; the job then runs on.
pub fn stop(job: &str, savepoint: Option<&Path>, drain: bool) -> Result<()> {
    let folder = savepoint.map(absolute).transpose()?;
    let request = match &folder {
        _ if drain => Request::Drain {
            folder: folder.clone(),
        },
        Some(folder) => Request::Savepoint {
            folder: folder.clone(),
            stop: true,
        },
        None => Request::Stop,
    };
    command(job, &request)?;
    folder.map_or(Ok(()), |folder| print(&format!("{folder}\n")))
}

/// `streamrt upgrade`.
///
/// # Errors
/// If there is no such job, or the new version was refused or could not take over; the old one then
/// runs on.
pub fn upgrade(job: &str, component: &Path) -> Result<()> {
    let Answer::Upgraded {
        checkpoint,
        in_place,
        pause_us,
        probation_ms,
    } = command(
        job,
        &Request::Upgrade {
            component: absolute(component)?.into(),
        },
    )?
    else {
        return Err(Error::internal(
            "an upgrade was answered with something else",
        ));
    };
    let pause_ms = pause_us as f64 / 1000.0;
    let how = match in_place {
        true => format!("in place; the longest pause of a task was {pause_ms:.1} ms"),
        false => format!(
            "by a start from there, since the shape of its graph is another one; the job stood still for {pause_ms:.1} ms"
        ),
    };
    let probation = match probation_ms {
        0 => String::new(),
        ms => format!(
            "; if it fails within {} s, the version before goes on",
            ms as f64 / 1000.0
        ),
    };
    print(&format!(
        "upgraded at checkpoint {checkpoint}, {how}{probation}\n"
    ))
}

/// What the last checkpoints of a job cost.
///
/// # Errors
/// If there is no such job.
pub fn checkpoints(job: &str, last: usize) -> Result<Vec<CheckpointReport>> {
    match command(job, &Request::Checkpoints { last })? {
        Answer::Checkpoints { reports } => Ok(reports),
        _ => Err(Error::internal(
            "a question for checkpoints was answered with something else",
        )),
    }
}

/// `streamrt cancel`.
///
/// # Errors
/// If there is no such job.
pub fn cancel(job: &str) -> Result<()> {
    command(job, &Request::Cancel).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control_socket::Entry;

    fn job(id: &str, name: &str) -> Registered {
        Registered {
            id: id.into(),
            socket: "x".into(),
            entry: Entry {
                name: name.into(),
                host: "h".into(),
                pid: 7,
            },
        }
    }

    #[test]
    fn a_job_that_does_not_answer_is_listed_as_such() {
        let description = Description {
            state: "running".into(),
            parallelism: 2,
            records_in: 12345,
            records_out: 6,
            elapsed_ms: 1500,
        };
        let listed = [
            (job("a1", "hot-items"), Some(description.clone())),
            (job("b2", "x"), None),
        ];
        let expected = "\
JOB  NAME       STATE      PARALLELISM  RECORDS IN  RECORDS OUT  SECONDS
a1   hot-items  running              2       12345            6      1.5
b2   x          no answer            -           -            -        -
";
        assert_eq!(table(&listed), expected);
        assert_eq!(object(&listed[0].0, listed[0].1.as_ref())["parallelism"], 2);
        assert_eq!(
            object(&listed[1].0, None),
            json!({"id": "b2", "name": "x", "host": "h", "pid": 7, "state": "no answer"})
        );
    }
}
