//! Commands to a job that runs in another process of this machine.
//!
//! A running job listens on a Unix socket, in a folder that only its user can open; its id is the number of its process. A request is one
//! line of JSON, and so is the answer. A socket that nobody answers was left over by a crash, and is removed.

use crate::{cache, print};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use streamrt_graph::JobSpec;
use streamrt_taskmanager::{CheckpointReport, JobRemote, LoadedPlugin, Upgraded};
use streamrt_types::{CODES, Error, Result, code};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "command")]
enum Request {
    Describe,
    Savepoint { folder: String, stop: bool },
    Drain { folder: Option<String> },
    Upgrade { component: PathBuf },
    Checkpoints { last: usize },
    Stop,
    Cancel,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    Done,
    Savepoint {
        checkpoint: u64,
    },
    Upgraded {
        checkpoint: u64,
        in_place: bool,
        pause_us: u64,
    },
    Checkpoints {
        reports: Vec<CheckpointReport>,
    },
    Described {
        name: String,
        records_in: u64,
        records_out: u64,
        elapsed_ms: u64,
    },
    /// `code` is the id of a stable code.
    Failed {
        code: String,
        message: String,
    },
}

/// Makes the new version of the job out of a component.
pub type Load = Arc<dyn Fn(&Path) -> Result<(JobSpec, Vec<LoadedPlugin>)> + Send + Sync>;

/// The socket of this process's job; it is removed with this.
pub struct Listening {
    path: PathBuf,
    /// Commands that are being carried out.
    n_active: Arc<AtomicUsize>,
}

/// How long the process stays for the answers to the last commands; a job that was stopped has ended before its answer is written.
const FAREWELL: Duration = Duration::from_secs(2);

impl Drop for Listening {
    fn drop(&mut self) {
        // One that is left over is removed by whoever finds it.
        let _ = fs::remove_file(&self.path);
        let start = Instant::now();
        while self.n_active.load(Ordering::SeqCst) > 0 && start.elapsed() < FAREWELL {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Lets other processes command a job. `load` makes a new version of it.
///
/// # Errors
/// `Unavailable` if the socket cannot be made.
pub fn listen(name: &str, job: JobRemote, load: Load) -> Result<Listening> {
    let folder = cache::jobs().ok_or_else(|| Error::new(code::FILE_IO, "there is no folder for the socket that takes commands"))?;
    let fault = |e| Error::new(code::FILE_IO, format!("no socket for commands could be made in {}", folder.display())).with_source(e);
    let path = folder.join(format!("{}.sock", std::process::id()));
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).map_err(fault)?;
    let name = name.to_owned();
    let n_active = Arc::new(AtomicUsize::new(0));
    let active = n_active.clone();
    let serve = move || {
        for stream in listener.incoming().flatten() {
            let (job, name, load, active) = (job.clone(), name.clone(), load.clone(), active.clone());
            active.fetch_add(1, Ordering::SeqCst);
            std::thread::spawn(move || {
                // A peer that goes away in the middle gets no answer.
                let _ = serve(stream, &name, &job, &load);
                active.fetch_sub(1, Ordering::SeqCst);
            });
        }
    };
    std::thread::Builder::new().name("commands".into()).spawn(serve).map_err(fault)?;
    Ok(Listening { path, n_active })
}

fn serve(stream: UnixStream, name: &str, job: &JobRemote, load: &Load) -> std::io::Result<()> {
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    let answer = match serde_json::from_str(&line) {
        Ok(request) => carry_out(request, name, job, load),
        Err(e) => failed(&Error::internal(format!("the command cannot be read: {e}"))),
    };
    let mut stream = &stream;
    stream.write_all(format!("{}\n", serde_json::to_string(&answer)?).as_bytes())
}

fn carry_out(request: Request, name: &str, job: &JobRemote, load: &Load) -> Answer {
    match request {
        Request::Describe => {
            let progress = job.progress();
            Answer::Described {
                name: name.to_owned(),
                records_in: progress.records_in,
                records_out: progress.records_out,
                elapsed_ms: progress.elapsed.as_millis() as u64,
            }
        }
        Request::Savepoint { folder, stop } => match job.savepoint(&folder, stop) {
            Ok(checkpoint) => Answer::Savepoint { checkpoint },
            Err(error) => failed(&error),
        },
        Request::Upgrade { component } => match load(&component).and_then(|(spec, plugins)| job.upgrade(spec, plugins)) {
            Ok(Upgraded { checkpoint, in_place, pause }) => Answer::Upgraded { checkpoint, in_place, pause_us: pause.as_micros() as u64 },
            Err(error) => failed(&error),
        },
        Request::Checkpoints { last } => Answer::Checkpoints { reports: job.checkpoints(last) },
        Request::Drain { folder } => match job.drain(folder.as_deref()) {
            Ok(_) => Answer::Done,
            Err(error) => failed(&error),
        },
        Request::Stop => {
            job.stop();
            Answer::Done
        }
        Request::Cancel => {
            job.cancel();
            Answer::Done
        }
    }
}

fn failed(error: &Error) -> Answer {
    Answer::Failed { code: error.code().id.to_owned(), message: error.message().to_owned() }
}

/// A job that answered.
struct Found {
    id: String,
    path: PathBuf,
    name: String,
    records_in: u64,
    records_out: u64,
    elapsed_ms: u64,
}

fn ask(path: &Path, request: &Request) -> std::io::Result<Answer> {
    let mut stream = UnixStream::connect(path)?;
    stream.write_all(format!("{}\n", serde_json::to_string(request)?).as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

/// The jobs that run on this machine.
fn jobs() -> Vec<Found> {
    let listing = cache::jobs().and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten().flatten();
    let mut jobs: Vec<Found> = listing.filter_map(|entry| found(&entry.path())).collect();
    jobs.sort_by(|a, b| a.id.cmp(&b.id));
    jobs
}

fn found(path: &Path) -> Option<Found> {
    match ask(path, &Request::Describe) {
        Ok(Answer::Described { name, records_in, records_out, elapsed_ms }) => {
            let id = path.file_stem()?.to_string_lossy().into_owned();
            Some(Found { id, path: path.to_owned(), name, records_in, records_out, elapsed_ms })
        }
        Ok(_) => None,
        Err(e) => {
            // A socket is there for a moment before its process listens.
            let is_gone = path.file_stem().is_some_and(|id| !Path::new("/proc").join(id).exists());
            if e.kind() == std::io::ErrorKind::ConnectionRefused && is_gone {
                let _ = fs::remove_file(path);
            }
            None
        }
    }
}

/// `streamrt list`.
///
/// # Errors
/// If stdout cannot be written.
pub fn list() -> Result<()> {
    let line = |job: &Found| {
        let seconds = job.elapsed_ms as f64 / 1000.0;
        format!("{:<10} {:<24} {:>14} in {:>14} out {:>10.1} s\n", job.id, job.name, job.records_in, job.records_out, seconds)
    };
    print(&jobs().iter().map(line).collect::<String>())
}

/// Sends a request to the one job of this id or name.
fn command(job: &str, request: &Request) -> Result<Answer> {
    let all = jobs();
    let matching: Vec<&Found> = all.iter().filter(|found| found.id == job || found.name == job).collect();
    let found = match matching[..] {
        [found] => found,
        [] => return Err(Error::new(code::BAD_OPTION, format!("no job `{job}` runs here; `streamrt list` shows those that do"))),
        _ => {
            return Err(Error::new(
                code::BAD_OPTION,
                format!("{} jobs are called `{job}`; take the id that `streamrt list` shows", matching.len()),
            ));
        }
    };
    let lost = |e| Error::new(code::CONNECTION_LOST, format!("job `{job}` has ended before it answered")).with_source(e);
    match ask(&found.path, request).map_err(lost)? {
        Answer::Failed { code: id, message } => {
            let code = CODES.iter().find(|code| code.id == id).copied().unwrap_or(code::INTERNAL);
            Err(Error::new(code, message))
        }
        answer => Ok(answer),
    }
}

/// A path that means the same in another process; so does the URL of an object store as it is.
fn absolute(folder: &Path) -> Result<String> {
    if let Some(url) = folder.to_str().filter(|text| text.contains("://")) {
        return Ok(url.to_owned());
    }
    let path = std::path::absolute(folder);
    let path = path.map_err(|e| Error::new(code::BAD_OPTION, format!("{} is no path", folder.display())).with_source(e))?;
    Ok(path.to_string_lossy().into_owned())
}

/// `streamrt savepoint`.
///
/// # Errors
/// If there is no such job, or the savepoint failed.
pub fn savepoint(job: &str, folder: &Path) -> Result<()> {
    let folder = absolute(folder)?;
    command(job, &Request::Savepoint { folder: folder.clone(), stop: false })?;
    print(&format!("{folder}\n"))
}

/// `streamrt stop`.
///
/// # Errors
/// If there is no such job, or the savepoint failed; the job then runs on.
pub fn stop(job: &str, savepoint: Option<&Path>, drain: bool) -> Result<()> {
    let folder = savepoint.map(absolute).transpose()?;
    let request = match &folder {
        _ if drain => Request::Drain { folder: folder.clone() },
        Some(folder) => Request::Savepoint { folder: folder.clone(), stop: true },
        None => Request::Stop,
    };
    command(job, &request)?;
    folder.map_or(Ok(()), |folder| print(&format!("{folder}\n")))
}

/// `streamrt upgrade`.
///
/// # Errors
/// If there is no such job, or the new version was refused or could not take over; the old one then runs on.
pub fn upgrade(job: &str, component: &Path) -> Result<()> {
    match command(job, &Request::Upgrade { component: absolute(component)?.into() })? {
        Answer::Upgraded { checkpoint, in_place, pause_us } => {
            let pause_ms = pause_us as f64 / 1000.0;
            let how = match in_place {
                true => format!("in place; the longest pause of a task was {pause_ms:.1} ms"),
                false => {
                    format!("by a start from there, since the shape of its graph is another one; the job stood still for {pause_ms:.1} ms")
                }
            };
            print(&format!("upgraded at checkpoint {checkpoint}, {how}\n"))
        }
        _ => Err(Error::internal("an upgrade was answered with something else")),
    }
}

/// What the last checkpoints of a job cost.
///
/// # Errors
/// If there is no such job.
pub fn checkpoints(job: &str, last: usize) -> Result<Vec<CheckpointReport>> {
    match command(job, &Request::Checkpoints { last })? {
        Answer::Checkpoints { reports } => Ok(reports),
        _ => Err(Error::internal("a question for checkpoints was answered with something else")),
    }
}

/// `streamrt cancel`.
///
/// # Errors
/// If there is no such job.
pub fn cancel(job: &str) -> Result<()> {
    command(job, &Request::Cancel).map(drop)
}
