//! Replacing a running job by a new version of itself.
//!
//! 1. What cannot keep its state is refused, and so is code that cannot be started: every instance
//!    of it is made and opened before anything happens to the job. 2. If only code has changed, the
//!    tasks take it behind the barrier of one checkpoint, which names the new component. Sources,
//!    queues and state stay where they are. 3. Else the job stops with a checkpoint, and the new
//!    version starts from it.
//!
//! Invariant: a checkpoint is all of one version, the one that its manifest names. What new code
//! does behind the barrier belongs to the next checkpoint, which is never published unless this one
//! was; a failure before that starts the old version from the checkpoint before.

use crate::attempt;
use crate::checkpoints::Message;
use crate::durable;
use crate::factory::{Definition, Factory, LoadedPlugin};
use crate::job::{Shared, define};
use crate::replaceable::UserCode;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use streamrt_checkpoint::Request;
use streamrt_graph::{JobSpec, Verdict, compare};
use streamrt_types::{Error, Result, code};

/// How a running job was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upgraded {
    /// The checkpoint that the new version goes on from.
    pub checkpoint: u64,
    /// Whether the tasks ran on.
    pub in_place: bool,
    /// The longest that a task stood still; if the job was started anew, from its stop until all
    /// tasks ran.
    pub pause: Duration,
    /// So long a failure that would end the job puts the version before back.
    pub probation: Duration,
}

/// A new version that starts when the job has stopped, and whoever waits for it.
pub(crate) struct Replacement {
    pub definition: Arc<Definition>,
    pub reply: Sender<Result<Upgraded>>,
}

fn gone() -> Error {
    Error::new(
        code::CHECKPOINT_FAILED,
        "the job has ended before it could be replaced",
    )
}

impl Shared {
    /// Replaces the job by a new version, and waits until that runs.
    pub fn upgrade(&self, job: JobSpec, plugins: Vec<LoadedPlugin>) -> Result<Upgraded> {
        let _one_at_a_time = self
            .upgrading
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let old = self.definition();
        let same_shape = check_compatible(&old.spec, &job)?;
        let messages = self.messages()?;
        let plugins = instead_of(&old.plugins, plugins);
        let (configuration, disks) = (old.configuration.clone(), old.disks.clone());
        let new = Arc::new(define(
            job,
            plugins,
            old.grants.clone(),
            configuration,
            old.parallelism,
            Some(old.max_parallelism),
            disks,
        )?);
        match same_shape && old.graph.vertices == new.graph.vertices {
            true => self.swap(&new, &messages),
            false => self.stop_and_start(new, &messages),
        }
    }

    fn swap(&self, new: &Arc<Definition>, messages: &Sender<Message>) -> Result<Upgraded> {
        let (controls, restarts) = self.current().controls.regions();
        let mut code: Vec<UserCode> = new
            .execution
            .subtasks
            .iter()
            .map(|_| UserCode::new())
            .collect();
        for (vertices, control) in new.graph.regions().iter().zip(controls) {
            let factory = Factory {
                definition: new,
                control,
                job: durable::job_id(""),
                generation: 0,
                restored: Arc::default(),
            };
            for (task, subtask) in new.tasks_of(vertices) {
                code[task] = factory.user_code(subtask)?;
            }
        }
        let (reply, answer) = channel();
        messages
            .send(Message::Upgrade {
                definition: new.clone(),
                code,
                restarts,
                reply,
            })
            .map_err(|_| gone())?;
        let swapped = answer.recv().map_err(|_| gone())??;
        Ok(Upgraded {
            checkpoint: swapped.checkpoint,
            in_place: true,
            pause: swapped.pause,
            probation: new.probation(),
        })
    }

    fn stop_and_start(
        &self,
        definition: Arc<Definition>,
        messages: &Sender<Message>,
    ) -> Result<Upgraded> {
        // Everything is built once in vain: what cannot be made is refused while the old version
        // runs on.
        let control = Arc::default();
        let factory = Factory {
            definition: &definition,
            control,
            job: durable::job_id(""),
            generation: 0,
            restored: Arc::default(),
        };
        for vertices in definition.graph.regions() {
            attempt::build(&factory, &vertices, None)?;
        }
        let (reply, answer) = channel();
        self.wishes.replace(Replacement { definition, reply });
        messages
            .send(Message::Asked(Request::Stop))
            .map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }
}

/// Whether only code has changed.
fn check_compatible(old: &JobSpec, new: &JobSpec) -> Result<bool> {
    let compatibility = compare(old, new)?;
    match compatibility
        .operators
        .iter()
        .find(|operator| operator.verdict == Verdict::Refused)
    {
        None => Ok(compatibility.same_shape),
        Some(operator) => {
            let message = format!(
                "operator `{}` cannot keep its state: {}",
                operator.uid,
                operator.changes.join("; ")
            );
            Err(Error::new(code::INCOMPATIBLE, message))
        }
    }
}

/// The new components know which ones the job was started with.
fn instead_of(old: &[LoadedPlugin], new: Vec<LoadedPlugin>) -> Vec<LoadedPlugin> {
    let first = |old: &LoadedPlugin| {
        old.replaces
            .clone()
            .unwrap_or_else(|| old.plugin.digest().to_owned())
    };
    let replace = |(at, new): (usize, LoadedPlugin)| {
        let replaces = old
            .get(at)
            .map(first)
            .filter(|first| first != new.plugin.digest());
        LoadedPlugin { replaces, ..new }
    };
    new.into_iter().enumerate().map(replace).collect()
}
