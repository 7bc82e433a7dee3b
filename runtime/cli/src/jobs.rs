//! The commands to jobs, as users give them: list, info, savepoint, stop, cancel, upgrade.

use crate::args::{
    CancelArgs, Format, InfoArgs, JobArgs, ListArgs, LogsArgs, SavepointArgs, StopArgs, UpgradeArgs,
};
use crate::bundle::bundle;
use crate::control_socket::Registered;
use crate::deploy::awaited;
use crate::print;
use crate::progress::iso_time;
use crate::report;
use crate::targets::{GLANCE, Target, jobs, target};
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;
use streamrt_jobmanager::Outcome;
use streamrt_types::{Error, Result, code};
use streamrt_web::{
    Cancel, CheckpointDetails, Client, JobStatus, LogEntry, Place, Savepoint, State, Stop, Upgrade,
};

/// How a job is listed that does not answer.
const SILENT: &str = "no answer";

/// Digits of an id in a table.
const ID_DIGITS: usize = 8;

/// A job of the list.
struct Listed {
    id: String,
    name: String,
    /// What only JSON says of it.
    place: Value,
    /// None: it does not answer.
    status: Option<JobStatus>,
}

/// `streamrt list`. All jobs are asked at once, and none is waited for longer than a second.
///
/// # Errors
/// S3015 if the cluster that is named is not there; if stdout cannot be written.
pub fn list(args: &ListArgs) -> Result<()> {
    let all = jobs(&args.cluster)?;
    let asked: Vec<(Registered, Receiver<Result<JobStatus>>)> = all
        .runs
        .into_iter()
        .map(|run| (run.clone(), ask(&run)))
        .collect();
    let start = Instant::now();
    let mut listed: Vec<Listed> = asked
        .into_iter()
        .filter_map(|(run, answer)| {
            let answer = answer.recv_timeout(GLANCE.saturating_sub(start.elapsed()));
            of_run(run, answer.ok())
        })
        .collect();
    let is_alone = all.cluster.is_none();
    if let Some((place, statuses)) = all.cluster {
        let shown = statuses
            .into_iter()
            .filter(|job| args.all || !job.state.is_end() || job.state == State::Unreadable);
        listed.extend(shown.map(|status| of_cluster(status, &place)));
    }
    if is_alone && listed.is_empty() {
        report::status(
            "no job runs on this machine, and no JobManager listens; `streamrt jobmanager --embedded --dir DIR` starts one",
        );
    }
    match args.output {
        Format::Json => print(
            &listed
                .iter()
                .map(|job| format!("{}\n", object(job)))
                .collect::<String>(),
        ),
        Format::Text => print(&table(&listed)),
    }
}

/// Asks a job on a thread of its own: whatever hangs, nobody waits longer than they want to.
fn ask(run: &Registered) -> Receiver<Result<JobStatus>> {
    let (sender, answer) = channel();
    let (socket, id) = (run.socket.clone(), run.id.clone());
    let ask = move || {
        let answer = Client::connect(Place::Unix(socket), GLANCE).and_then(|mut run| run.job(&id));
        // Who asked may not wait any more.
        let _ = sender.send(answer);
    };
    // Without a thread there is no answer, which is told as such.
    let _ = std::thread::Builder::new().name("ask".into()).spawn(ask);
    answer
}

/// One that has ended meanwhile is none any more.
fn of_run(run: Registered, answer: Option<Result<JobStatus>>) -> Option<Listed> {
    let lost = |error: &Error| error.code() == code::CONNECTION_LOST;
    if matches!(&answer, Some(Err(error)) if lost(error) && !run.socket.exists()) {
        return None;
    }
    Some(Listed {
        id: run.id,
        name: run.entry.name,
        place: json!({"host": run.entry.host, "pid": run.entry.pid}),
        status: answer.and_then(Result::ok),
    })
}

fn of_cluster(status: JobStatus, place: &Place) -> Listed {
    Listed {
        id: status.id.clone(),
        name: status.name.clone(),
        place: json!({"cluster": place.shown()}),
        status: Some(status),
    }
}

fn table(listed: &[Listed]) -> String {
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
        let cells: Vec<String> = row.iter().enumerate().map(cell).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

fn row(job: &Listed) -> [String; 7] {
    let of = |value: fn(&JobStatus) -> String| job.status.as_ref().map_or("-".to_owned(), value);
    let state = match &job.status {
        Some(status) => status.state.name(),
        None => SILENT,
    };
    [
        job.id.chars().take(ID_DIGITS).collect(),
        job.name.clone(),
        state.to_owned(),
        of(|status| status.parallelism.to_string()),
        of(|status| status.records_in.to_string()),
        of(|status| status.records_out.to_string()),
        of(|status| format!("{:.1}", status.elapsed_ms as f64 / 1000.0)),
    ]
}

fn object(job: &Listed) -> Value {
    let mut object = match &job.status {
        Some(status) => json!(status),
        None => json!({"state": SILENT}),
    };
    // By which it is known here.
    object["id"] = json!(job.id);
    object["name"] = json!(job.name);
    for (key, value) in job.place.as_object().into_iter().flatten() {
        object[key] = value.clone();
    }
    object
}

/// `streamrt info`.
///
/// # Errors
/// If there is no such job.
pub fn info(args: &InfoArgs) -> Result<()> {
    let mut target = target(&args.job)?;
    let status = target.client.job(&target.id).map_err(|e| target.at(e))?;
    match args.output {
        Format::Json => print(&format!("{}\n", json!(status))),
        Format::Text => print(&described(&status)),
    }
}

fn described(status: &JobStatus) -> String {
    let mut lines = vec![
        ("id", status.id.clone()),
        ("name", status.name.clone()),
        ("state", status.state.name().to_owned()),
        ("parallelism", status.parallelism.to_string()),
    ];
    let numbers = [
        ("records in", status.records_in),
        ("records out", status.records_out),
        ("late records", status.late_records),
        ("dead letters", status.dead_letters),
    ];
    lines.extend(numbers.map(|(what, n)| (what, n.to_string())));
    let seconds = format!("{:.1} s", status.elapsed_ms as f64 / 1000.0);
    lines.push(("has run for", seconds));
    let missing = |n: &u32| ("waits for", awaited(*n));
    lines.extend(status.missing_slots.iter().map(missing));
    let place = |folder: &String| ("checkpoints in", folder.clone());
    lines.extend(status.checkpoint_dir.iter().map(place));
    let went_on = |n: &u64| ("went on from", format!("checkpoint {n}"));
    lines.extend(status.resumed_from.iter().map(went_on));
    let stopped = |n: &u64| ("stopped at", format!("checkpoint {n}"));
    lines.extend(status.stopped_at.iter().map(stopped));
    if let Some(reason) = &status.reason {
        let what = match status.state {
            State::Restarting => "restarts after",
            _ => "error",
        };
        lines.push((what, format!("[{}] {}", reason.code, reason.message)));
        lines.extend(reason.causes.iter().map(|cause| ("cause", cause.clone())));
        lines.push(("fix", reason.fix.clone()));
    }
    lines.extend(status.remarks.iter().map(|text| ("remark", text.clone())));
    lines
        .iter()
        .map(|(what, value)| format!("{what:<15} {value}\n"))
        .collect()
}

/// `streamrt logs`.
///
/// # Errors
/// If there is no such job.
pub fn logs(args: &LogsArgs) -> Result<()> {
    let mut target = target(&args.job)?;
    let said = target.client.logs(&target.id, args.last);
    let lines = said.map_err(|e| place(&target, e))?.lines;
    let line = |line: &LogEntry| match args.output {
        Format::Json => format!("{}\n", json!(line)),
        Format::Text => format!(
            "{} {} {}: {}\n",
            iso_time(line.at_ms),
            line.attempt,
            line.task,
            line.message.replace('\n', "\n  ")
        ),
    };
    print(&lines.iter().map(line).collect::<String>())
}

/// A path that means the same in another process; so does the URL of an object store as it is.
///
/// # Errors
/// S6004 if it is none.
pub fn absolute(folder: &Path) -> Result<String> {
    if let Some(url) = folder.to_str().filter(|text| text.contains("://")) {
        return Ok(url.to_owned());
    }
    let path = std::path::absolute(folder);
    let path = path.map_err(|e| {
        Error::new(code::WRONG_USE, format!("{} is no path", folder.display())).with_source(e)
    })?;
    Ok(path.to_string_lossy().into_owned())
}

/// Gives a command to the job that is meant, and waits until it is carried out.
fn command(args: &JobArgs, what: &str, body: &impl Serialize) -> Result<Outcome> {
    let mut target = target(args)?;
    let told = target.client.command(&target.id, what, body);
    told.map_err(|e| place(&target, e))
}

/// What a job says of itself needs no place; that it says nothing does.
fn place(target: &Target, error: Error) -> Error {
    match [code::NO_ANSWER, code::CONNECTION_LOST].contains(&error.code()) {
        true => target.at(error),
        false => error,
    }
}

/// Prints what came of a command: `text` for people, if there is any.
fn done(output: Format, outcome: &Outcome, text: Option<String>) -> Result<()> {
    match (output, text) {
        (Format::Json, _) => print(&match outcome {
            Outcome::Done => "{\"done\":{}}\n".to_owned(),
            outcome => format!("{}\n", json!(outcome)),
        }),
        (Format::Text, Some(text)) => print(&format!("{text}\n")),
        (Format::Text, None) => Ok(()),
    }
}

/// `streamrt savepoint`.
///
/// # Errors
/// If there is no such job, or the savepoint failed.
pub fn savepoint(job: &str, dir: &Path, args: &SavepointArgs) -> Result<()> {
    let folder = absolute(dir)?;
    let (job, cluster) = (job.to_owned(), args.cluster.clone());
    let body = Savepoint {
        folder: folder.clone(),
    };
    let outcome = command(&JobArgs { job, cluster }, "savepoints", &body)?;
    done(args.output, &outcome, Some(folder))
}

/// `streamrt stop`.
///
/// # Errors
/// If there is no such job, or the savepoint failed; the job then runs on.
pub fn stop(args: &StopArgs) -> Result<()> {
    let savepoint = args.savepoint.as_deref().map(absolute).transpose()?;
    let body = Stop {
        savepoint: savepoint.clone(),
        drain: args.drain,
    };
    let outcome = command(&args.job, "stop", &body)?;
    done(args.output, &outcome, savepoint)
}

/// `streamrt cancel`.
///
/// # Errors
/// If there is no such job.
pub fn cancel(args: &CancelArgs) -> Result<()> {
    let outcome = command(&args.job, "cancel", &Cancel {})?;
    done(args.output, &outcome, None)
}

/// `streamrt upgrade`.
///
/// # Errors
/// If there is no such job, or the new version was refused or could not take over; the old one then
/// runs on.
pub fn upgrade(args: &UpgradeArgs) -> Result<()> {
    let file = absolute(&args.component)?;
    let mut target = target(&args.job)?;
    let outcome = replace(&mut target, Path::new(&file)).map_err(|e| place(&target, e))?;
    let text = upgraded(&outcome)?;
    done(args.output, &outcome, Some(text))
}

fn replace(target: &mut Target, file: &Path) -> Result<Outcome> {
    let client = &mut target.client;
    let bundle = bundle(file, client.cluster()?.component_bytes_max)?;
    bundle.upload(client, true)?;
    let version = bundle.version;
    client.command(&target.id, "upgrade", &Upgrade { version })
}

fn upgraded(outcome: &Outcome) -> Result<String> {
    let Outcome::Upgraded {
        checkpoint,
        in_place,
        pause_us,
        probation_ms,
    } = outcome
    else {
        return Err(Error::internal(
            "an upgrade was answered with something else",
        ));
    };
    let pause_ms = *pause_us as f64 / 1000.0;
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
            *ms as f64 / 1000.0
        ),
    };
    Ok(format!(
        "upgraded at checkpoint {checkpoint}, {how}{probation}"
    ))
}

/// What the last checkpoints of a job cost.
///
/// # Errors
/// If there is no such job.
pub fn checkpoints(args: &JobArgs, last: usize) -> Result<Vec<CheckpointDetails>> {
    let mut target = target(args)?;
    let found = target.client.checkpoints(&target.id, last);
    Ok(found.map_err(|e| place(&target, e))?.checkpoints)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(id: &str, name: &str, status: Option<JobStatus>) -> Listed {
        Listed {
            id: id.into(),
            name: name.into(),
            place: json!({"host": "h", "pid": 7}),
            status,
        }
    }

    #[test]
    fn a_job_that_does_not_answer_is_listed_as_such() {
        let status = JobStatus {
            id: "a1b2c3".into(),
            state: State::Running,
            parallelism: 2,
            records_in: 12345,
            records_out: 6,
            elapsed_ms: 1500,
            ..JobStatus::default()
        };
        let listed = [job("a1", "hot-items", Some(status)), job("b2", "x", None)];
        let expected = "\
JOB  NAME       STATE      PARALLELISM  RECORDS IN  RECORDS OUT  SECONDS
a1   hot-items  running              2       12345            6      1.5
b2   x          no answer            -           -            -        -
";
        assert_eq!(table(&listed), expected);
        let object_of = object(&listed[0]);
        assert_eq!(
            (
                &object_of["parallelism"],
                &object_of["id"],
                &object_of["state"]
            ),
            (&json!(2), &json!("a1"), &json!("running"))
        );
        assert_eq!(
            object(&listed[1]),
            json!({"id": "b2", "name": "x", "host": "h", "pid": 7, "state": "no answer"})
        );
    }

    #[test]
    fn what_is_known_of_a_job_is_a_line_each() {
        let status = JobStatus {
            id: "a1".into(),
            name: "words".into(),
            state: State::Waiting,
            missing_slots: Some(3),
            ..JobStatus::default()
        };
        let text = described(&status);
        assert!(
            text.starts_with(
                "id              a1\nname            words\nstate           waiting\n"
            ) && text.ends_with("waits for       3 slots that are not free\n"),
            "{text}"
        );
    }
}
