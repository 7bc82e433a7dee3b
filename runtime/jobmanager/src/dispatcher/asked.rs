//! What users want of jobs.

use super::Action;
use super::core::{Core, Known};
use crate::job::Phase;
use crate::{Failure, JobId, Note, Operation, Outcome};
use streamrt_checkpoint::EndState;
use streamrt_types::{Error, Result, code};

/// How a user who gives this command wants the job to end.
fn end_wish(operation: &Operation) -> Option<EndState> {
    match operation {
        Operation::Stop { .. } => Some(EndState::Stopped),
        Operation::Cancel => Some(EndState::Canceled),
        Operation::Savepoint { .. } | Operation::Upgrade { .. } => None,
    }
}

/// Whether nothing but a job that runs can do it.
fn needs_run(operation: &Operation) -> bool {
    match operation {
        Operation::Stop { savepoint, drain } => savepoint.is_some() || *drain,
        operation => end_wish(operation).is_none(),
    }
}

impl Known {
    /// That a command came too late.
    fn has_ended_already(&self, id: &JobId) -> Error {
        let registered = self.registered.as_ref().ok();
        let ended = registered.and_then(|job| job.end.as_ref());
        let how = match ended.map(|(end, _)| end.state) {
            Some(EndState::Finished) => "has finished",
            Some(EndState::Canceled) => "was cancelled",
            Some(EndState::Stopped) => "was stopped",
            Some(EndState::Failed) => "has failed",
            None => "has ended",
        };
        let name = registered.map_or("", |job| &job.specification.name);
        Error::new(
            code::JOB_ENDED,
            format!("the job `{name}` ({id}) {how} already"),
        )
    }

    /// Whether a job in this state can do it.
    fn check(&self, id: &JobId, operation: &Operation) -> Result<()> {
        if let Err(failure) = &self.registered {
            return Err(failure.clone().into());
        }
        match self.phase {
            Phase::Ended => Err(self.has_ended_already(id)),
            Phase::Running => Ok(()),
            _ if needs_run(operation) => {
                let message = "the job does not run yet; `streamrt info` says what it waits for";
                Err(Error::new(code::CHECKPOINT_FAILED, message))
            }
            _ => Ok(()),
        }
    }
}

impl Core {
    pub(super) fn asked(&mut self, request: u64, id: &JobId, operation: Operation) {
        let Some(job) = self.jobs.get_mut(id).filter(|job| job.is_accepted()) else {
            let message = format!("there is no job {id}");
            return self.refuse(request, &Error::new(code::NO_JOB, message));
        };
        if let Err(error) = job.check(id, &operation) {
            return self.refuse(request, &error);
        }
        job.end_wish = job.end_wish.or(end_wish(&operation));
        let ends_at_once = end_wish(&operation).is_some() && !needs_run(&operation);
        let (phase, is_ending, is_first) = (job.phase, job.is_ending, job.awaiting_end.is_empty());
        if ends_at_once {
            job.awaiting_end.push(request);
        }
        // The next JobManager does it if this one does not live to see it.
        if let (true, true, false, Some(end)) = (ends_at_once, is_first, is_ending, job.end_wish) {
            self.keep(id, Note::Wanted(end), None);
        }
        match (phase, operation) {
            (Phase::Running, Operation::Cancel) => self.actions.push(Action::Cancel(id.clone())),
            (Phase::Running, _) if ends_at_once => self.actions.push(Action::Stop(id.clone())),
            (Phase::Running, operation) => self.actions.push(Action::CarryOut {
                request,
                id: id.clone(),
                operation,
            }),
            (Phase::Waiting { .. }, _) => self.is_not_wanted(id),
            // What comes next sees that it is to end.
            _ => {}
        }
    }

    /// A running job did what a user wants, or could not.
    pub(super) fn carried_out(
        &mut self,
        request: u64,
        id: &JobId,
        operation: Operation,
        result: Result<Outcome, Failure>,
    ) {
        let ends = end_wish(&operation).is_some();
        let result = match (self.jobs.get_mut(id), result) {
            (Some(job), Ok(_)) if ends && !job.has_ended() => {
                return job.awaiting_end.push(request);
            }
            (Some(job), Ok(_)) if ends => job.came_to(),
            (Some(job), Err(failure)) => {
                // A job that could not be stopped runs on.
                if ends && !job.is_ending {
                    job.end_wish = None;
                }
                Err(failure)
            }
            (Some(job), Ok(outcome)) => match operation {
                // One that has ended meanwhile is not started again, so nothing follows its end.
                Operation::Upgrade { version } if !job.is_ending => {
                    let tells = Some((request, outcome));
                    return self.keep(id, Note::Upgraded(version), tells);
                }
                _ => Ok(outcome),
            },
            (None, result) => result,
        };
        self.actions.push(Action::Answer { request, result });
    }
}
