//! What comes after an attempt: the end of the job, or the next attempt.
//!
//! Invariant: when the job has ended for good, nothing that is not committed is left behind its
//! sinks, unless that could not be withdrawn, which is said.

use super::core::{Core, Pending, Phase};
use super::launch::Why;
use super::upgrade::Replacement;
use super::versions::Before;
use super::{JobState, Outcome, StoreFailure, StoreReply, StoreRequest};
use std::time::Duration;
use streamrt_checkpoint::EndState;
use streamrt_rpc::{Answered, Scope, ToTaskManager, WireError};
use streamrt_types::{ErrorKind, code};

/// The last steps of a job, and what ends it when they are done.
#[derive(Debug)]
pub(crate) struct Closing {
    /// What the log is to say.
    state: EndState,
    result: Result<Outcome, WireError>,
    /// What was not committed is withdrawn first.
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Asked the store what is not committed.
    Looking,
    Withdrawing,
    Logging,
}

/// Whoever cancels a job does not mind why it might have failed.
fn cancelled() -> WireError {
    WireError::new(code::CANCELLED, "the job was cancelled")
}

impl Core {
    /// If the attempt is over, decides what follows.
    pub(super) fn conclude(&mut self) {
        let is_over = matches!(self.phase, Phase::Running | Phase::Failing)
            && self.attempt.running().is_empty()
            && self.attempt.restart.is_none()
            && self.attempt.failed.is_empty()
            && !self.awaits_attempt();
        if !is_over {
            return;
        }
        let has_published = self.history.last_checkpoint >= self.attempt.first_checkpoint;
        if self.is_durable && has_published {
            (self.from, self.has_checkpoint, self.goes_back) = (None, true, false);
        }
        let coordinator = self.attempt.coordinator.as_ref();
        let stopped_at = coordinator.and_then(|coordinator| coordinator.stopped_at());
        let replacement = self.upgrades.take_replacement();
        let Some(error) = self.attempt.failing.take() else {
            self.refuse_replacement(replacement, "its input has ended");
            return match self.is_durable {
                true => self.close(EndState::Finished, Ok(Outcome::Finished)),
                false => self.end(Ok(Outcome::Finished)),
            };
        };
        match (stopped_at, replacement) {
            (Some(checkpoint), None) if error.is(code::CANCELLED) => {
                self.close(EndState::Stopped, Ok(Outcome::Stopped { checkpoint }));
            }
            (Some(checkpoint), Some(replacement)) if error.is(code::CANCELLED) => {
                self.replace(replacement, checkpoint);
            }
            (_, replacement) => {
                self.refuse_replacement(replacement, &error.message);
                self.after_failure(error);
            }
        }
    }

    fn refuse_replacement(&mut self, replacement: Option<Replacement>, why: &str) {
        if let Some(replacement) = replacement {
            let message = format!("the job failed before it was replaced: {why}");
            let error = WireError::new(code::CHECKPOINT_FAILED, message);
            self.finish_upgrade(replacement.request, Err(error));
        }
    }

    /// Starts a new version from the checkpoint at which the old one stopped; if it cannot start,
    /// the old one goes on.
    fn replace(&mut self, replacement: Replacement, checkpoint: u64) {
        let (old, now) = (self.version().clone(), self.now.elapsed);
        let before = Before {
            version: old.clone(),
            plugins: self.plugins.clone(),
            newer_published: false,
        };
        // Before it publishes anything.
        self.versions.upgraded(replacement.version, before, now);
        self.launch(Why::Replacement {
            request: replacement.request,
            old,
            checkpoint,
            began: now,
        });
    }

    fn after_failure(&mut self, error: WireError) {
        if self.is_durable && self.wishes.cancel && error.kind() != ErrorKind::Fenced {
            // The attempt that was cancelled leads the job.
            let request = StoreRequest::Uncommitted;
            return self.withdraw(EndState::Canceled, Err(cancelled()), request);
        }
        let Some(swap) = self.attempt.upgrade.take() else {
            return self.try_again(error);
        };
        self.say(format!(
            "streamrt: [{}] the upgrade failed, and the version before goes on: {}",
            error.code, error.message
        ));
        let refused = WireError {
            message: format!(
                "the old version goes on, because the upgrade failed: {}",
                error.message
            ),
            causes: Vec::new(),
            ..error
        };
        self.finish_upgrade(swap.request, Err(refused));
        // The old version has not failed, so that no strategy is asked.
        self.launch(Why::Again);
    }

    /// Waits as the strategy says before the next attempt; if there is none, the job has failed.
    pub(super) fn try_again(&mut self, error: WireError) {
        match self.delay_after(&error, "; trying again") {
            Some(delay) => {
                let until = self.now.elapsed.saturating_add(delay);
                self.last_failure = Some(error);
                self.phase = Phase::Waiting { until };
                self.tick_waiting();
            }
            None => self.give_up(error),
        }
    }

    pub(super) fn tick_waiting(&mut self) {
        let Phase::Waiting { until } = &self.phase else {
            return;
        };
        if *until <= self.now.elapsed || self.wishes.forbid_restart(self.has_checkpoint) {
            self.launch(Why::Again);
        }
    }

    /// How long to wait before something that failed is started again; None if it is not.
    pub(super) fn delay_after(&mut self, error: &WireError, what: &str) -> Option<Duration> {
        if self.wishes.forbid_restart(self.has_checkpoint) {
            return None;
        }
        let delay = self.strategy.after_failure(self.now.elapsed, error)?;
        self.say(format!(
            "streamrt: [{}] {}{what} in {:.1} s",
            error.code,
            error.with_causes(),
            delay.as_secs_f64()
        ));
        self.state = JobState::Restarting;
        self.failures.restart(self.now.wall_ms, error.clone());
        Some(delay)
    }

    /// The job has failed for good, unless the version before an upgrade goes on.
    pub(super) fn give_up(&mut self, failed: WireError) {
        if failed.kind() == ErrorKind::Fenced {
            return self.end(Err(failed));
        }
        if self.puts_version_back(&failed) {
            // The version before has not failed, so that no strategy is asked.
            return self.launch(Why::Again);
        }
        let way_back = self.versions.way_back();
        let way_back = way_back.filter(|_| failed.kind() != ErrorKind::Unavailable);
        let failed = match way_back {
            Some(way_back) => WireError {
                message: format!("{}; {way_back}", failed.message),
                ..failed
            },
            None => failed,
        };
        let (state, failed) = match self.wishes.cancel {
            true => (EndState::Canceled, cancelled()),
            false => (EndState::Failed, failed),
        };
        match (self.is_durable, self.interrupted) {
            (false, false) => self.end(Err(failed)),
            (true, false) => {
                let request = StoreRequest::GiveUp {
                    token: self.leader.clone(),
                    has_led: self.has_led,
                };
                self.withdraw(state, Err(failed), request);
            }
            // It would wait for the same system.
            (_, true) => {
                self.say("streamrt: what was not committed is left behind: the next start of the job commits or withdraws it".into());
                self.end(Err(failed));
            }
        }
    }

    /// Whether the version before an upgrade goes on, because this one has failed in its probation.
    fn puts_version_back(&mut self, failed: &WireError) -> bool {
        // A reader that has gone is no fault of the new version.
        let is_over = self.wishes.forbid_restart(self.has_checkpoint);
        if failed.is(code::STDOUT_CLOSED) || is_over {
            return false;
        }
        let what = format!(
            "streamrt: [{}] the upgrade failed in its probation",
            failed.code
        );
        match self.versions.go_back(self.now.elapsed) {
            None => return false,
            Some(Ok(())) => self.say(format!(
                "{what}, and the version before goes on: {}",
                failed.message
            )),
            Some(Err(reason)) => {
                self.say(format!(
                    "{what}, but the version before cannot go on from the newest checkpoint, which this one has made: {reason}"
                ));
                return false;
            }
        }
        self.goes_back = true;
        true
    }

    /// Withdraws what no checkpoint names, and ends the job.
    fn withdraw(
        &mut self,
        state: EndState,
        result: Result<Outcome, WireError>,
        request: StoreRequest,
    ) {
        self.store(request, Pending::Closing);
        let stage = Stage::Looking;
        self.phase = Phase::Closing(Closing {
            state,
            result,
            stage,
        });
    }

    /// Ends the job, of which nothing is left to be withdrawn.
    fn close(&mut self, state: EndState, result: Result<Outcome, WireError>) {
        self.store(StoreRequest::End { state }, Pending::Closing);
        let stage = Stage::Logging;
        self.phase = Phase::Closing(Closing {
            state,
            result,
            stage,
        });
    }

    pub(super) fn closing_stored(&mut self, result: Result<StoreReply, StoreFailure>) {
        let Phase::Closing(closing) = &mut self.phase else {
            return;
        };
        match (closing.stage, result) {
            (Stage::Looking, Ok(StoreReply::Uncommitted { history, restore })) => {
                closing.stage = Stage::Withdrawing;
                self.history = history;
                let job = self.history.id().to_owned();
                let (step, version) = (self.await_answer(Pending::Closing), self.version().clone());
                self.send(ToTaskManager::Settle {
                    step,
                    scope: Scope::Job,
                    version: version.number,
                    plan: version.plan.clone(),
                    job,
                    generation: self.history.generation,
                    promised: restore,
                    interruptible: false,
                });
            }
            (_, Ok(_)) => self.closed(),
            (_, Err(failure)) => self.not_closed(failure.error),
        }
    }

    pub(super) fn closing_settled(&mut self, result: Result<Answered, WireError>) {
        let Phase::Closing(closing) = &mut self.phase else {
            return;
        };
        let state = closing.state;
        match result {
            Ok(_) => {
                closing.stage = Stage::Logging;
                self.store(StoreRequest::End { state }, Pending::Closing);
            }
            Err(error) => {
                let job = self.history.id().to_owned();
                let place = format!(
                    "what was not committed is left behind, under names with `{job}`, until the next start withdraws it"
                );
                let message = match state {
                    EndState::Failed => format!("{place}: {}", error.message),
                    _ => error.message.clone(),
                };
                self.not_closed(WireError { message, ..error });
            }
        }
    }

    fn closed(&mut self) {
        let phase = std::mem::replace(&mut self.phase, Phase::Over);
        if let Phase::Closing(closing) = phase {
            self.end(closing.result);
        }
    }

    /// The last steps failed. A job that has failed ends for its own reason.
    fn not_closed(&mut self, left: WireError) {
        let phase = std::mem::replace(&mut self.phase, Phase::Over);
        let Phase::Closing(closing) = phase else {
            return;
        };
        match closing.state {
            EndState::Failed => {
                let (code, text) = (left.code.clone(), left.with_causes());
                self.say(format!("streamrt: [{code}] {text}"));
                self.end(closing.result);
            }
            _ => self.end(Err(left)),
        }
    }
}
