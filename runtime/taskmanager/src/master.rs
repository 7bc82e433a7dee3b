//! Runs the attempts of a job one after the other, until it has ended: the thread of the job.
//!
//! What ends an attempt decides what comes next: the end of the input or a stop ends the job, a failure is tried again as the strategy says, an
//! upgrade goes on with other code. Whatever the reason, the next attempt goes on from the newest checkpoint, with the version that it names.

use crate::attempt;
use crate::checkpoints::{self, Checkpoints, Ending};
use crate::control::Control;
use crate::durable::{self, Beginning, Durable};
use crate::factory::{Definition, Factory};
use crate::job::{Current, JobMetrics, Shared};
use crate::restart::RestartStrategy;
use crate::restored::Restored;
use crate::upgrade::{Replacement, Upgraded};
use crate::wishes::answer;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Instant;
use streamrt_checkpoint::unique_token;
use streamrt_types::{Error, ErrorKind, Result, code};

/// The threads of one attempt.
pub(crate) struct Attempt {
    control: Arc<Control>,
    threads: Vec<JoinHandle<()>>,
    checkpoints: Option<Checkpoints>,
}

impl Attempt {
    pub fn start(definition: &Arc<Definition>, durable: Option<Durable>, restored: &Arc<Restored>, shared: &Shared) -> Result<Attempt> {
        let control = Arc::new(Control::default());
        let (job, generation) = match &durable {
            Some(durable) => (durable.job(), durable.generation()),
            None => (durable::job_id(&unique_token()), 1),
        };
        let factory = Factory { definition, control: control.clone(), job, generation, restored: restored.clone() };
        let (reports, reported) = channel();
        let mut metrics = JobMetrics { dead_letters_before: restored.dead_letters(), ..JobMetrics::default() };
        let (tasks, mailboxes) = attempt::build(&factory, restored, durable.as_ref().map(|_| &reports), &mut metrics)?;
        drop(reports);
        let start = |durable| checkpoints::start(durable, restored, mailboxes, reported, control.clone(), shared.statistics.clone());
        let checkpoints = durable.map(start).transpose()?;
        let messages = checkpoints.as_ref().map(|checkpoints| checkpoints.messages.clone());
        *shared.current() = Current { control: control.clone(), metrics, messages };
        shared.remind();
        let threads = tasks.into_iter().map(|task| attempt::start(task, control.clone())).collect::<Result<_>>()?;
        Ok(Attempt { control, threads, checkpoints })
    }

    /// Waits for the end. The first value is what ended the tasks, the second what is left of the checkpoints.
    fn join(self) -> Result<(Result<()>, Option<Ending>)> {
        for thread in self.threads {
            if thread.join().is_err() {
                self.control.fail(Error::internal("a task thread could not be joined"));
            }
        }
        let ending = self.checkpoints.map(Checkpoints::join).transpose()?;
        Ok((self.control.take_error().map_or(Ok(()), Err), ending))
    }
}

/// Runs attempts until the job has ended.
pub(crate) struct Master {
    /// A snapshot that the user wants the job to start from.
    pub from: Option<String>,
    pub shared: Arc<Shared>,
    pub strategy: RestartStrategy,
    pub start: Instant,
}

impl Master {
    /// Returns the checkpoint at which the job was stopped, if it was. A first attempt that could not start is a failure like any other.
    pub fn run(mut self, first: Result<Attempt>) -> Result<Option<u64>> {
        let first = first.map(Some).or_else(|error| self.again_or_withdraw(error))?;
        let Some(mut attempt) = first else { return Ok(None) };
        loop {
            let (result, ending) = attempt.join()?;
            let (error, ending) = match (result, ending) {
                (Ok(()), None) => return Ok(None),
                (Ok(()), Some(mut ending)) => return checkpoints::finish(&mut ending.durable).map(|()| None),
                (Err(error), None) => (error, None),
                (Err(error), Some(ending)) => (error, Some(ending)),
            };
            if let Some(ending) = &ending {
                self.shared.set_definition(ending.durable.definition().clone());
            }
            let replacement = self.shared.take_replacement();
            let next = match (ending, replacement) {
                (Some(Ending { mut durable, stopped_at: Some(checkpoint), .. }), replacement) if error.code() == code::CANCELLED => {
                    match replacement {
                        None => return checkpoints::stopped(&mut durable).map(|()| Some(checkpoint)),
                        Some(replacement) => Some(self.replace(replacement, checkpoint)?),
                    }
                }
                (ending, replacement) => self.after_failure(error, ending, replacement)?,
            };
            match next {
                Some(next) => attempt = next,
                None => return Ok(None),
            }
        }
    }

    /// Starts a new version from the checkpoint at which the old one stopped; if it cannot start, the old one goes on.
    fn replace(&mut self, replacement: Replacement, checkpoint: u64) -> Result<Attempt> {
        let (old, began) = (self.shared.definition(), Instant::now());
        let start = |definition: &Arc<Definition>| {
            let ended = || Error::internal("a job that stopped has not finished");
            self.start_from_newest(definition, None)?.ok_or_else(ended)
        };
        match start(&replacement.definition) {
            Ok(attempt) => {
                self.shared.set_definition(replacement.definition);
                answer(&replacement.reply, Ok(Upgraded { checkpoint, in_place: false, pause: began.elapsed() }));
                Ok(attempt)
            }
            Err(error) => {
                let attempt = start(&old)?;
                answer(&replacement.reply, Err(error));
                Ok(attempt)
            }
        }
    }

    /// What comes behind a failure, or a cancellation: the next attempt, or `None` if the job turns out to have finished.
    fn after_failure(&mut self, error: Error, ending: Option<Ending>, replacement: Option<Replacement>) -> Result<Option<Attempt>> {
        let went = || Error::new(code::CHECKPOINT_FAILED, format!("the job failed before it was replaced: {}", error.message()));
        if let Some(replacement) = replacement {
            answer(&replacement.reply, Err(went()));
        }
        let Some(Ending { mut durable, upgrade, .. }) = ending else { return self.again(error) };
        if self.shared.cancelled.load(Ordering::SeqCst) {
            checkpoints::cancel(&mut durable)?;
            return Err(error);
        }
        let Some(reply) = upgrade else { return self.again_or_withdraw(error) };
        eprintln!("streamrt: [{}] the upgrade failed, and the version before goes on: {}", error.code().id, error.message());
        // The old version has not failed, so that no strategy is asked.
        let next = self.resume();
        answer(&reply, Err(Error::new(error.code(), format!("the old version goes on, because the upgrade failed: {}", error.message()))));
        next.or_else(|error| self.again_or_withdraw(error))
    }

    /// As [`Master::again`], in a job with checkpoints: when it has failed for good, nothing that is not committed stays behind.
    fn again_or_withdraw(&mut self, error: Error) -> Result<Option<Attempt>> {
        let failed = match self.again(error) {
            Err(error) if error.kind() != ErrorKind::Fenced => error,
            other => return other,
        };
        if let Err(left) = durable::give_up(&self.shared.definition()) {
            eprintln!("streamrt: [{}] {}", left.code().id, left.with_causes());
        }
        Err(failed)
    }

    /// Waits as the strategy says, and starts the next attempt, until one starts; `None` if the job turns out to have finished.
    fn again(&mut self, mut error: Error) -> Result<Option<Attempt>> {
        loop {
            let is_over = self.shared.stopped.load(Ordering::SeqCst) || self.shared.cancelled.load(Ordering::SeqCst);
            let delay = if is_over { None } else { self.strategy.after_failure(self.start.elapsed(), &error) };
            let Some(delay) = delay else { return Err(error) };
            eprintln!("streamrt: [{}] {}; trying again in {:.1} s", error.code().id, error.with_causes(), delay.as_secs_f64());
            self.shared.pause(delay);
            match self.resume() {
                Ok(next) => return Ok(next),
                // What failed outside is often still away.
                Err(next) => error = next,
            }
        }
    }

    /// Starts an attempt from what is kept.
    fn resume(&self) -> Result<Option<Attempt>> {
        self.start_from_newest(&self.shared.definition(), self.from.as_deref())
    }

    fn start_from_newest(&self, definition: &Arc<Definition>, from: Option<&str>) -> Result<Option<Attempt>> {
        let Some(kept) = durable::look_again(&definition.configuration, from)? else { return Ok(None) };
        let Beginning { durable, restored, resumed } = durable::open(definition, kept)?;
        if let Some(checkpoint) = resumed {
            eprintln!("streamrt: the job goes on from checkpoint {checkpoint}");
        }
        Attempt::start(definition, durable, &restored, &self.shared).map(Some)
    }
}
