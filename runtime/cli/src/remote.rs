//! Commands to a job that runs in another process of this machine: what is asked, what is answered,
//! and how long each waits for the other.
//!
//! A request is one line of JSON, and so is the answer. As long as a command is being carried out,
//! a line says every second that it is; a job that says nothing for [`SILENCE_MAX`] does not
//! answer. Each command has a thread, on both sides, so one that hangs hinders no other.

use crate::cache;
use crate::control_socket::{ControlSocket, Registered, registered};
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use streamrt_graph::JobSpec;
use streamrt_jobmanager::job_master::{CheckpointReport, Upgraded};
use streamrt_minicluster::{JobRemote, LoadedPlugin};
use streamrt_types::{CODES, Error, Result, code};

/// How often a job says that it is at work on a command.
const BEAT: Duration = Duration::from_secs(1);

/// A job that is silent for so long does not answer.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// The same for what a job can say at once.
pub const GLANCE: Duration = Duration::from_secs(1);

/// A line of more bytes is none of ours.
const LINE_BYTES_MAX: u64 = 16 << 20;

/// What a job can be asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "command")]
pub enum Request {
    Describe,
    Savepoint { folder: String, stop: bool },
    Drain { folder: Option<String> },
    Upgrade { component: PathBuf },
    Checkpoints { last: usize },
    Stop,
    Cancel,
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The answer follows.
    Working,
    Done,
    Savepoint {
        checkpoint: u64,
    },
    Upgraded {
        checkpoint: u64,
        in_place: bool,
        pause_us: u64,
        probation_ms: u64,
    },
    Checkpoints {
        reports: Vec<CheckpointReport>,
    },
    Described(Description),
    /// `code` is the id of a stable code.
    Failed {
        code: String,
        message: String,
    },
}

/// A running job at a glance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Description {
    pub state: String,
    pub parallelism: u32,
    pub records_in: u64,
    pub records_out: u64,
    pub elapsed_ms: u64,
}

/// Makes the new version of the job out of a component.
pub type Load = Arc<dyn Fn(&Path) -> Result<(JobSpec, Vec<LoadedPlugin>)> + Send + Sync>;

/// This process's job takes commands until this is dropped.
pub struct Listening {
    /// Removed first, so that nobody asks any more.
    socket: Option<ControlSocket>,
    /// Commands that are being carried out.
    n_active: Arc<AtomicUsize>,
}

/// How long the process stays for the answers to the last commands; a job that was stopped has
/// ended before its answer is written.
const FAREWELL: Duration = Duration::from_secs(2);

impl Listening {
    /// 32 hex digits that begin with the job's id.
    pub fn long_id(&self) -> String {
        self.socket
            .as_ref()
            .map_or_else(String::new, |socket| socket.long_id.clone())
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        drop(self.socket.take());
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
    let folder = cache::jobs().ok_or_else(|| {
        Error::new(
            code::FILE_IO,
            "there is no folder for the socket that takes commands",
        )
    })?;
    let fault = |e| {
        Error::new(
            code::FILE_IO,
            format!(
                "no socket for commands could be made in {}",
                folder.display()
            ),
        )
        .with_source(e)
    };
    let (socket, listener) = ControlSocket::make(&folder, name).map_err(fault)?;
    let n_active = Arc::new(AtomicUsize::new(0));
    let active = n_active.clone();
    let accept = move || accept(&listener, &job, &load, &active);
    std::thread::Builder::new()
        .name("commands".into())
        .spawn(accept)
        .map_err(fault)?;
    Ok(Listening {
        socket: Some(socket),
        n_active,
    })
}

fn accept(listener: &UnixListener, job: &JobRemote, load: &Load, active: &Arc<AtomicUsize>) {
    for stream in listener.incoming().flatten() {
        let (job, load, n_active) = (job.clone(), load.clone(), active.clone());
        active.fetch_add(1, Ordering::SeqCst);
        let serve = move || {
            // A peer that goes away in the middle gets no answer.
            let _ = serve(&stream, &job, &load);
            n_active.fetch_sub(1, Ordering::SeqCst);
        };
        if std::thread::Builder::new()
            .name("command".into())
            .spawn(serve)
            .is_err()
        {
            active.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn serve(mut stream: &UnixStream, job: &JobRemote, load: &Load) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    let mut line = String::new();
    BufReader::new(stream.take(LINE_BYTES_MAX)).read_line(&mut line)?;
    let request = serde_json::from_str(&line)
        .map_err(|e| Error::internal(format!("the command cannot be read: {e}")));
    let (sender, answer) = channel();
    let (job, load) = (job.clone(), load.clone());
    // Whoever asked may go meanwhile; what was begun is done nevertheless.
    let work = move || {
        sender
            .send(request.map_or_else(
                |error| failed(&error),
                |request| carry_out(request, &job, &load),
            ))
            .unwrap_or_default()
    };
    std::thread::Builder::new()
        .name("command".into())
        .spawn(work)?;
    loop {
        let answer = match answer.recv_timeout(BEAT) {
            Err(RecvTimeoutError::Timeout) => Answer::Working,
            Ok(answer) => answer,
            Err(RecvTimeoutError::Disconnected) => {
                failed(&Error::internal("a command ended without an answer"))
            }
        };
        stream.write_all(format!("{}\n", serde_json::to_string(&answer)?).as_bytes())?;
        if !matches!(answer, Answer::Working) {
            return Ok(());
        }
    }
}

fn carry_out(request: Request, job: &JobRemote, load: &Load) -> Answer {
    let or_failed = |answer: Result<Answer>| answer.unwrap_or_else(|error| failed(&error));
    match request {
        Request::Describe => Answer::Described(describe(job)),
        Request::Savepoint { folder, stop } => or_failed(
            job.savepoint(&folder, stop)
                .map(|checkpoint| Answer::Savepoint { checkpoint }),
        ),
        Request::Upgrade { component } => or_failed(
            load(&component)
                .and_then(|(spec, plugins)| job.upgrade(spec, plugins))
                .map(upgraded),
        ),
        Request::Checkpoints { last } => Answer::Checkpoints {
            reports: job.checkpoints(last),
        },
        Request::Drain { folder } => or_failed(job.drain(folder.as_deref()).map(|_| Answer::Done)),
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

fn describe(job: &JobRemote) -> Description {
    let progress = job.progress();
    Description {
        state: job.state().name().to_owned(),
        parallelism: job.parallelism(),
        records_in: progress.records_in,
        records_out: progress.records_out,
        elapsed_ms: progress.elapsed.as_millis() as u64,
    }
}

fn upgraded(upgraded: Upgraded) -> Answer {
    let Upgraded {
        checkpoint,
        in_place,
        pause,
        probation,
    } = upgraded;
    Answer::Upgraded {
        checkpoint,
        in_place,
        pause_us: pause.as_micros() as u64,
        probation_ms: probation.as_millis() as u64,
    }
}

fn failed(error: &Error) -> Answer {
    Answer::Failed {
        code: error.code().id.to_owned(),
        message: error.message().to_owned(),
    }
}

/// The jobs of this user that live, as far as they can be known without asking them.
pub fn jobs() -> Vec<Registered> {
    cache::jobs()
        .map(|folder| registered(&folder))
        .unwrap_or_default()
}

/// An answer that comes on a thread of its own.
pub struct Asked(Receiver<io::Result<Answer>>);

/// Asks a job. Whatever hangs meanwhile, the caller waits for no longer than it wants to.
pub fn ask(job: &Registered, request: &Request) -> Asked {
    let (sender, answers) = channel();
    let (socket, request) = (job.socket.clone(), request.clone());
    let ask = move || {
        let talk = || -> io::Result<()> {
            let mut stream = UnixStream::connect(&socket)?;
            stream.write_all(format!("{}\n", serde_json::to_string(&request)?).as_bytes())?;
            for line in BufReader::new(stream.take(LINE_BYTES_MAX)).lines() {
                // Who asked does not wait any more.
                let _ = sender.send(Ok(serde_json::from_str(&line?)?));
            }
            Ok(())
        };
        let _ = talk().map_err(|error| sender.send(Err(error)));
    };
    // Without a thread there is no answer, which is told as such.
    let _ = std::thread::Builder::new().name("ask".into()).spawn(ask);
    Asked(answers)
}

impl Asked {
    /// Waits for the answer as long as the job says anything within `silence`.
    pub fn answer(&self, silence: Duration) -> Result<Answer> {
        loop {
            match self.0.recv_timeout(silence) {
                Ok(Ok(Answer::Working)) => {}
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(e)) => {
                    return Err(Error::new(
                        code::CONNECTION_LOST,
                        "the job has ended before it answered",
                    )
                    .with_source(e));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::new(
                        code::CONNECTION_LOST,
                        "the job has ended before it answered",
                    ));
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(Error::new(
                        code::NO_ANSWER,
                        format!(
                            "the job has not answered for {} s; what was asked may be done when it goes on",
                            silence.as_secs_f64()
                        ),
                    ));
                }
            }
        }
    }
}

/// Sends a request to the one job of this id or name, and waits for the answer.
///
/// # Errors
/// If there is no such job, or not one alone; S3014 if it does not answer; what the job answers.
pub fn command(job: &str, request: &Request) -> Result<Answer> {
    let all = jobs();
    let matching: Vec<&Registered> = all
        .iter()
        .filter(|found| found.id == job || found.entry.name == job)
        .collect();
    let refuse = |message: String| Err(Error::new(code::WRONG_USE, message));
    let found = match matching[..] {
        [found] => found,
        [] => {
            return refuse(format!(
                "no job `{job}` runs here; `streamrt list` shows those that do"
            ));
        }
        _ => {
            return refuse(format!(
                "{} jobs are called `{job}`; take the id that `streamrt list` shows",
                matching.len()
            ));
        }
    };
    let place = |e: Error| {
        e.at(format_args!(
            "job `{job}` (process {} on {})",
            found.entry.pid, found.entry.host
        ))
    };
    match ask(found, request).answer(SILENCE_MAX).map_err(place)? {
        Answer::Failed { code: id, message } => {
            let code = CODES
                .iter()
                .find(|code| code.id == id)
                .copied()
                .unwrap_or(code::INTERNAL);
            Err(Error::new(code, message))
        }
        answer => Ok(answer),
    }
}
