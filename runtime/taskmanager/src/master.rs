//! Runs the attempts of a job one after the other, until it has ended: the thread of the job.
//!
//! What ends an attempt decides what comes next: the end of the input or a stop ends the job, a
//! failure is tried again as the strategy says, an upgrade goes on with other code. Whatever the
//! reason, the next attempt goes on from the newest checkpoint, with the version that it names.

use crate::checkpoints::{self, Ending};
use crate::durable::{self, Beginning};
use crate::factory::Definition;
use crate::job::Shared;
use crate::job_state::JobState;
use crate::regions::Attempt;
use crate::restart::RestartStrategy;
use crate::settle;
use crate::upgrade::{Replacement, Upgraded};
use crate::versions::Before;
use crate::wishes::answer;
use std::sync::Arc;
use std::time::Instant;
use streamrt_checkpoint::PluginEntry;
use streamrt_types::{Error, ErrorKind, Result, code, say};

/// Runs attempts until the job has ended.
pub(crate) struct Master {
    /// A snapshot that the user wants the job to start from; none any more when a checkpoint is
    /// published behind it.
    pub from: Option<String>,
    pub shared: Arc<Shared>,
    pub strategy: RestartStrategy,
    pub start: Instant,
    /// There is one that an attempt can go on from.
    pub has_checkpoint: bool,
    /// The version that runs was put back, and has published nothing since.
    pub goes_back: bool,
    /// A user has ended the job while it waited, before tasks ran, for a system outside.
    pub interrupted: bool,
}

impl Master {
    /// Returns the checkpoint at which the job was stopped, if it was. A first attempt that could
    /// not start is a failure like any other.
    pub fn run(mut self, first: Result<Attempt>) -> Result<Option<u64>> {
        let first = first
            .map(Some)
            .or_else(|error| self.again_or_withdraw(error))?;
        let Some(mut attempt) = first else {
            return Ok(None);
        };
        loop {
            let (result, ending) = self.join(attempt)?;
            let (error, ending) = match (result, ending) {
                (Ok(()), None) => return Ok(None),
                (Ok(()), Some(mut ending)) => {
                    return checkpoints::finish(&mut ending.durable).map(|()| None);
                }
                (Err(error), None) => (error, None),
                (Err(error), Some(ending)) => (error, Some(ending)),
            };
            if let Some(ending) = &ending {
                self.from.take_if(|_| ending.durable.has_published());
                self.has_checkpoint |= ending.durable.has_published();
                self.goes_back &= !ending.durable.has_published();
            }
            let replacement = self.shared.wishes.take_replacement();
            let next = match (ending, replacement) {
                (
                    Some(Ending {
                        mut durable,
                        stopped_at: Some(checkpoint),
                        ..
                    }),
                    replacement,
                ) if error.code() == code::CANCELLED => match replacement {
                    None => return checkpoints::stopped(&mut durable).map(|()| Some(checkpoint)),
                    Some(replacement) => {
                        Some(self.replace(replacement, checkpoint, durable.plugins())?)
                    }
                },
                (ending, replacement) => self.after_failure(error, ending, replacement)?,
            };
            match next {
                Some(next) => attempt = next,
                None => return Ok(None),
            }
        }
    }

    /// Waits for the end of an attempt. A region that fails is started again while others run, as
    /// the strategy says. The first value is what ended the tasks, the second what is left of the
    /// checkpoints.
    fn join(&mut self, mut attempt: Attempt) -> Result<(Result<()>, Option<Ending>)> {
        while let Some((region, result)) = attempt.next_end() {
            if let Err(error) =
                result.or_else(|error| self.start_region_again(&mut attempt, region, error))
            {
                attempt.fail(error);
            }
        }
        attempt.finish()
    }

    /// Starts a region again that failed, if others run.
    ///
    /// # Errors
    /// Why it is not started: then the whole job has failed.
    fn start_region_again(
        &mut self,
        attempt: &mut Attempt,
        region: usize,
        mut error: Error,
    ) -> Result<()> {
        while attempt.has_others() {
            // Before the pause, in which a checkpoint would wait for tasks that are gone.
            let Some(prepared) = attempt.suspend(region, &self.shared).transpose() else {
                break;
            };
            error = self.wait_after(error, "; its region starts again")?;
            match prepared.and_then(|next| attempt.restart(region, next, &self.shared)) {
                Ok(true) => return Ok(()),
                Ok(false) => break,
                Err(next) => error = next,
            }
        }
        Err(error)
    }

    /// Waits as the strategy says before something that failed is started again. The error is
    /// handed back.
    ///
    /// # Errors
    /// The same error, if nothing is to be started again.
    fn wait_after(&mut self, error: Error, what: &str) -> Result<Error> {
        let is_over = self.shared.wishes.forbid_restart(self.has_checkpoint);
        let delay = if is_over {
            None
        } else {
            self.strategy.after_failure(self.start.elapsed(), &error)
        };
        let Some(delay) = delay else {
            return Err(error);
        };
        say!(
            "streamrt: [{}] {}{what} in {:.1} s",
            error.code().id,
            error.with_causes(),
            delay.as_secs_f64()
        );
        self.shared.current().state = JobState::Restarting;
        self.shared.pause(delay, self.has_checkpoint);
        Ok(error)
    }

    /// Starts a new version from the checkpoint at which the old one stopped; if it cannot start,
    /// the old one goes on. `plugins` are the old one's.
    fn replace(
        &mut self,
        replacement: Replacement,
        checkpoint: u64,
        plugins: Vec<PluginEntry>,
    ) -> Result<Attempt> {
        let (old, began) = (self.shared.definition(), Instant::now());
        let start = |definition: &Arc<Definition>| {
            let ended = || Error::internal("a job that stopped has not finished");
            self.start_from_newest(definition, None)?.ok_or_else(ended)
        };
        // Before it publishes anything.
        self.shared.versions.upgraded(
            &replacement.definition,
            Before {
                definition: old.clone(),
                plugins,
                newer_published: false,
            },
        );
        match start(&replacement.definition) {
            Ok(attempt) => {
                let (pause, probation) = (began.elapsed(), old.probation());
                answer(
                    &replacement.reply,
                    Ok(Upgraded {
                        checkpoint,
                        in_place: false,
                        pause,
                        probation,
                    }),
                );
                Ok(attempt)
            }
            Err(error) => {
                self.shared.versions.not_upgraded(&old);
                let attempt = start(&old)?;
                answer(&replacement.reply, Err(error));
                Ok(attempt)
            }
        }
    }

    /// What comes behind a failure, or a cancellation: the next attempt, or `None` if the job turns
    /// out to have finished.
    fn after_failure(
        &mut self,
        error: Error,
        ending: Option<Ending>,
        replacement: Option<Replacement>,
    ) -> Result<Option<Attempt>> {
        let went = || {
            Error::new(
                code::CHECKPOINT_FAILED,
                format!("the job failed before it was replaced: {}", error.message()),
            )
        };
        if let Some(replacement) = replacement {
            answer(&replacement.reply, Err(went()));
        }
        let Some(Ending {
            mut durable,
            upgrade,
            ..
        }) = ending
        else {
            return self.again(error);
        };
        if self.shared.wishes.wants_cancel() {
            checkpoints::cancel(&mut durable)?;
            return Err(error);
        }
        let Some(reply) = upgrade else {
            return self.again_or_withdraw(error);
        };
        say!(
            "streamrt: [{}] the upgrade failed, and the version before goes on: {}",
            error.code().id,
            error.message()
        );
        // The old version has not failed, so that no strategy is asked.
        let next = self.resume();
        answer(
            &reply,
            Err(Error::new(
                error.code(),
                format!(
                    "the old version goes on, because the upgrade failed: {}",
                    error.message()
                ),
            )),
        );
        next.or_else(|error| self.again_or_withdraw(error))
    }

    /// As [`Master::again`], in a job with checkpoints: when it has failed for good, nothing that
    /// is not committed stays behind.
    fn again_or_withdraw(&mut self, error: Error) -> Result<Option<Attempt>> {
        let failed = match self.again(error) {
            Err(error) if error.kind() != ErrorKind::Fenced => error,
            other => return other,
        };
        if self.puts_version_back(&failed) {
            // The version before has not failed, so that no strategy is asked.
            return self.resume().or_else(|error| self.again_or_withdraw(error));
        }
        match self.interrupted {
            // It would wait for the same system.
            true => say!(
                "streamrt: what was not committed is left behind: the next start of the job commits or withdraws it"
            ),
            false => settle::give_up(&self.shared.definition()).unwrap_or_else(|left| {
                say!("streamrt: [{}] {}", left.code().id, left.with_causes())
            }),
        }
        let way_back = self
            .shared
            .versions
            .way_back()
            .filter(|_| failed.kind() != ErrorKind::Unavailable);
        Err(way_back.into_iter().fold(failed, Error::and))
    }

    /// Whether the version before an upgrade goes on, because this one has failed in its probation.
    fn puts_version_back(&mut self, failed: &Error) -> bool {
        // A reader that has gone is no fault of the new version.
        if failed.code() == code::STDOUT_CLOSED
            || self.shared.wishes.forbid_restart(self.has_checkpoint)
        {
            return false;
        }
        let what = format!(
            "streamrt: [{}] the upgrade failed in its probation",
            failed.code().id
        );
        match self.shared.versions.go_back() {
            None => return false,
            Some(Ok(())) => say!(
                "{what}, and the version before goes on: {}",
                failed.message()
            ),
            Some(Err(reason)) => {
                say!(
                    "{what}, but the version before cannot go on from the newest checkpoint, which this one has made: {reason}"
                );
                return false;
            }
        }
        self.goes_back = true;
        true
    }

    /// Waits as the strategy says, and starts the next attempt, until one starts; `None` if the job
    /// turns out to have finished.
    fn again(&mut self, mut error: Error) -> Result<Option<Attempt>> {
        loop {
            let before = self.wait_after(error, "; trying again")?;
            match self.resume() {
                Ok(next) => return Ok(next),
                Err(next) if next.code() == code::CANCELLED => {
                    self.interrupted = true;
                    // Whoever stops the job meanwhile did not make it fail.
                    return Err(if self.shared.wishes.wants_cancel() {
                        next
                    } else {
                        before
                    });
                }
                // What failed outside is often still away.
                Err(next) => error = next,
            }
        }
    }

    /// Starts an attempt from what is kept.
    fn resume(&self) -> Result<Option<Attempt>> {
        self.start_from_newest(&self.shared.definition(), self.from.as_deref())
    }

    fn start_from_newest(
        &self,
        definition: &Arc<Definition>,
        from: Option<&str>,
    ) -> Result<Option<Attempt>> {
        let kept = durable::look_again(&definition.configuration, from, self.goes_back)?;
        if kept.finished {
            return Ok(None);
        }
        let Beginning {
            durable,
            restored,
            resumed,
            drained,
        } = durable::open(definition, kept, &self.shared.wishes)?;
        self.shared.go_on_draining(drained);
        if let Some((checkpoint, _)) = resumed {
            say!("streamrt: the job goes on from checkpoint {checkpoint}");
        }
        Attempt::start(definition, durable, &restored, &self.shared).map(Some)
    }
}
