//! The job of a `run` as a cluster of one job: at an address, where the user wants that, and at a
//! socket where it takes the commands of other processes of its user.

use crate::control_socket::ControlSocket;
use crate::running::Running;
use crate::{cache, report};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use streamrt_checkpoint::{Stored, unique_token};
use streamrt_jobmanager::{Operation, Outcome, Specification, Trigger, Triggers};
use streamrt_types::{Error, LogLine, LogRing, Result, SystemClock, code};
use streamrt_web::{
    Access, Bound, CheckpointDetails, ClusterApi, JobDetails, JobName, Server, Slots,
};

/// How long the process stays for those who ask what came of their commands: a job that was stopped
/// has ended before they know.
const FAREWELL: Duration = Duration::from_secs(2);

/// Components of versions to come that are held at the same time; older ones make room.
const UPLOADS_MAX: usize = 16;

struct OneJob {
    id: String,
    name: String,
    started_ms: i64,
    running: Arc<Running>,
    log: Arc<LogRing>,
    uploads: Mutex<BTreeMap<String, Arc<Vec<u8>>>>,
    triggers: Triggers,
}

/// The job is shown, and takes commands, until this is dropped.
pub struct Shown {
    /// Removed first, so that nobody asks any more.
    socket: Option<ControlSocket>,
    triggers: Triggers,
    servers: Vec<Server>,
}

impl Drop for Shown {
    fn drop(&mut self) {
        drop(self.socket.take());
        self.triggers.farewell(FAREWELL);
        self.servers.clear();
    }
}

/// Shows a job at its socket, and at an address to those who read. Without a socket the job runs as
/// well; it then takes no commands but Ctrl-C.
///
/// # Errors
/// As [`Bound::serve`], of the address.
pub fn show(
    name: &str,
    (running, log): (Running, Arc<LogRing>),
    address: Option<Bound>,
) -> Result<Shown> {
    let control = control_socket(name).map_err(|error| report::status(error.message()));
    let id = match &control {
        Ok((socket, _)) => socket.long_id.clone(),
        Err(()) => unique_token(),
    };
    let job = Arc::new(OneJob {
        id,
        name: name.to_owned(),
        started_ms: SystemClock::shared().now_ms(),
        running: Arc::new(running),
        log,
        uploads: Mutex::default(),
        triggers: Triggers::default(),
    });
    let mut shown = Shown {
        socket: None,
        triggers: job.triggers.clone(),
        servers: Vec::new(),
    };
    if let Ok((socket, bound)) = control {
        shown.socket = Some(socket);
        shown.servers.push(bound.serve(job.clone(), Access::Write)?);
    }
    if let Some(bound) = address {
        let server = bound.serve(job, Access::Read)?;
        let at = server.address().map(|at| at.to_string());
        report::status(&format!(
            "the job is shown at http://{}/jobs/overview, its metrics at /metrics",
            at.unwrap_or_default()
        ));
        shown.servers.push(server);
    }
    Ok(shown)
}

fn control_socket(name: &str) -> Result<(ControlSocket, Bound)> {
    let folder = cache::jobs().ok_or_else(|| {
        Error::new(
            code::FILE_IO,
            "there is no folder for the socket that takes commands",
        )
    })?;
    let fault = |e| {
        let message = format!(
            "no socket for commands could be made in {}",
            folder.display()
        );
        Error::new(code::FILE_IO, message).with_source(e)
    };
    let (socket, listener) = ControlSocket::make(&folder, name).map_err(fault)?;
    Ok((socket, Bound::unix(listener)))
}

impl OneJob {
    fn uploads(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Vec<u8>>>> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClusterApi for OneJob {
    fn jobs(&self) -> Vec<JobDetails> {
        let (id, name) = (self.id.clone(), self.name.clone());
        vec![self.running.details(id, name, self.started_ms)]
    }

    fn now_ms(&self) -> i64 {
        SystemClock::shared().now_ms()
    }

    fn names(&self) -> Vec<JobName> {
        vec![JobName {
            id: self.id.clone(),
            name: self.name.clone(),
            has_ended: false,
        }]
    }

    fn job(&self, id: &str) -> Option<JobDetails> {
        (id == self.id).then(|| self.jobs().pop())?
    }

    fn checkpoints(&self, job: &str, n: usize) -> Vec<CheckpointDetails> {
        match job == self.id {
            true => self.running.checkpoints(n),
            false => Vec::new(),
        }
    }

    fn logs(&self, job: &str, n: usize) -> Vec<LogLine> {
        match job == self.id {
            true => self.log.last(n),
            false => Vec::new(),
        }
    }

    /// A slot holds one subtask of each vertex.
    fn slots(&self) -> Slots {
        let vertices = self.running.remote.vertices();
        let widest = vertices.iter().map(|vertex| vertex.subtasks.len()).max();
        Slots {
            total: widest.unwrap_or(0) as u32,
            free: 0,
        }
    }

    fn configuration(&self) -> BTreeMap<String, String> {
        self.running.configuration.texts.clone()
    }

    fn component_bytes_max(&self) -> usize {
        self.running.configuration.plugin_size_bytes
    }

    fn has_component(&self, digest: &str) -> bool {
        self.uploads().contains_key(digest)
    }

    fn put_component(&self, digest: &str, bytes: Vec<u8>) -> Result<bool> {
        if Stored::of("", &bytes).checksum != digest {
            let message = format!("the bytes have another digest than {digest}");
            return Err(Error::new(code::BAD_REQUEST, message));
        }
        let mut uploads = self.uploads();
        if uploads.len() >= UPLOADS_MAX {
            uploads.pop_first();
        }
        Ok(uploads.insert(digest.to_owned(), Arc::new(bytes)).is_none())
    }

    fn submit(&self, _: Specification) -> Result<String> {
        Err(Error::new(
            code::WRONG_USE,
            "`streamrt run` runs one job; `streamrt jobmanager --embedded` takes further ones",
        ))
    }

    fn begin(&self, _: &str, operation: Operation) -> Result<String> {
        let uploads = self.uploads().clone();
        let running = self.running.clone();
        self.triggers
            .begin(move || carry_out(&running, operation, &uploads))
    }

    fn trigger(&self, _: &str, trigger: &str, wait: Duration) -> Result<Trigger> {
        self.triggers.look(trigger, wait).ok_or_else(|| {
            let message = format!("the job remembers no command {trigger}");
            Error::new(code::NO_JOB, message)
        })
    }
}

fn carry_out(
    running: &Running,
    operation: Operation,
    uploads: &BTreeMap<String, Arc<Vec<u8>>>,
) -> Result<Outcome> {
    let job = &running.remote;
    match operation {
        Operation::Stop { savepoint, drain } => match savepoint {
            folder if drain => drop(job.drain(folder.as_deref())?),
            Some(folder) => drop(job.savepoint(&folder, true)?),
            None => job.stop(),
        },
        Operation::Cancel => job.cancel(),
        Operation::Savepoint { folder } => {
            let checkpoint = job.savepoint(&folder, false)?;
            return Ok(Outcome::Savepoint { checkpoint, folder });
        }
        Operation::Upgrade { version } => {
            version.check()?;
            return running.upgrade(&version, |digest| {
                let bytes = uploads.get(digest).ok_or_else(|| {
                    let message = format!("the component {digest} was not uploaded");
                    Error::new(code::NO_COMPONENT, message)
                })?;
                Ok(bytes.to_vec())
            });
        }
    }
    Ok(Outcome::Done)
}
