//! What the Dispatcher keeps of jobs, an entry after the other.
//!
//! Invariant: an entry that could not be written is tried again, under its number, before any other
//! of its job: whether a store that failed has written it is not known.

use super::Action;
use super::core::{Core, Known};
use crate::{End, Entry, Failure, JobId, Note, Outcome};
use std::sync::Arc;
use std::time::Duration;
use streamrt_checkpoint::EndState;
use streamrt_types::code;

/// How often a submission is tried before its user is told that it failed.
const SUBMISSION_TRIES: u32 = 3;

const BACKOFF: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// An entry to be written.
#[derive(Debug)]
pub(super) struct Pending {
    entry: Entry,
    /// Who is told when it is written, and what.
    tells: Option<(u64, Outcome)>,
    /// People know that it could not be written at first.
    is_reported: bool,
}

impl Known {
    /// What an entry says, as soon as it is written.
    fn apply(&mut self, entry: &Entry) {
        if let Ok(registered) = &mut self.registered {
            Arc::make_mut(registered).apply(entry);
        }
    }

    /// What its end comes to for who waits for it.
    pub(super) fn came_to(&self) -> Result<Outcome, Failure> {
        let end = self
            .registered
            .as_ref()
            .map_err(Failure::clone)?
            .end
            .as_ref();
        match end {
            Some((
                End {
                    state: EndState::Failed,
                    reason: Some(reason),
                    ..
                },
                _,
            )) => Err(reason.clone()),
            end => Ok(Outcome::Ended {
                checkpoint: end.and_then(|(end, _)| end.checkpoint),
            }),
        }
    }
}

impl Core {
    /// Writes what has become of a job, when everything before it is written; then somebody is told.
    pub(super) fn keep(&mut self, id: &JobId, note: Note, tells: Option<(u64, Outcome)>) {
        let now_ms = self.now.wall_ms;
        let Some(job) = self.jobs.get_mut(id) else {
            return;
        };
        let Ok(registered) = &job.registered else {
            return;
        };
        let number = registered.entries + 1 + job.pending.len() as u64;
        job.pending.push_back(Pending {
            entry: Entry::new(number, now_ms, note),
            tells,
            is_reported: false,
        });
        if job.pending.len() == 1 {
            self.write(id);
        }
    }

    fn write(&mut self, id: &JobId) {
        let Some(job) = self.jobs.get_mut(id) else {
            return;
        };
        job.retry_at = None;
        let first = job.pending.front();
        self.actions.extend(first.map(|first| Action::Keep {
            id: id.clone(),
            entry: first.entry.clone(),
        }));
    }

    /// Tries again what could not be written a while ago.
    pub(super) fn retry(&mut self) {
        let now = self.now.elapsed;
        let is_due = |job: &Known| job.retry_at.is_some_and(|at| at <= now);
        let due = self.jobs.iter().filter(|(_, job)| is_due(job));
        let due: Vec<JobId> = due.map(|(id, _)| id.clone()).collect();
        due.iter().for_each(|id| self.write(id));
    }

    /// An entry was written, or not.
    pub(super) fn kept(&mut self, id: &JobId, result: Result<(), Failure>) {
        if let Err(failure) = result {
            return self.not_kept(id, &failure);
        }
        let Some(job) = self.jobs.get_mut(id) else {
            return;
        };
        let Some(Pending { entry, tells, .. }) = job.pending.pop_front() else {
            return;
        };
        job.apply(&entry);
        job.tries = 0;
        self.write(id);
        let told = tells.map(|(request, outcome)| Action::Answer {
            request,
            result: Ok(outcome),
        });
        self.actions.extend(told);
        match entry.note() {
            Note::Submitted(_) => self.prepare(id),
            Note::Ended(_) => self.over(id),
            Note::Started | Note::Upgraded(_) | Note::Wanted(_) => {}
        }
        // One that had to wait until its end was written may be too many.
        self.forget();
    }

    fn not_kept(&mut self, id: &JobId, failure: &Failure) {
        let now = self.now.elapsed;
        let Some(job) = self.jobs.get_mut(id) else {
            return;
        };
        job.tries += 1;
        // Somebody else writes in this folder, and what they wrote stays.
        let is_fenced = failure.code == code::FENCED.id;
        if !job.is_accepted() && !is_fenced && job.tries < SUBMISSION_TRIES {
            job.retry_at = Some(now + backoff(job.tries));
            return;
        }
        self.report(id, failure);
        let Some(job) = self.jobs.get_mut(id) else {
            return;
        };
        match () {
            () if !job.is_accepted() => {
                self.jobs.remove(id);
                // Should it have been written all the same.
                let (id, entries) = (id.clone(), 1);
                self.actions.push(Action::Forget { id, entries });
            }
            () if is_fenced => job.pending.clear(),
            () => job.retry_at = Some(now + backoff(job.tries)),
        }
    }

    /// Says once of each entry that it could not be written; nobody waits for that any longer.
    fn report(&mut self, id: &JobId, failure: &Failure) {
        let Some(job) = self.jobs.get_mut(id) else {
            return;
        };
        let mut end = None;
        for pending in job.pending.iter_mut().filter(|one| !one.is_reported) {
            pending.is_reported = true;
            let consequence = consequence(pending.entry.note(), id);
            let why = failure.with_causes();
            let said = consequence.map(|lost| Action::Say {
                id: id.clone(),
                line: format!("streamrt: {lost}: {why}"),
            });
            self.actions.extend(said);
            let told = pending.tells.take().map(|(request, _)| Action::Answer {
                request,
                result: Err(failure.clone()),
            });
            self.actions.extend(told);
            if let Note::Ended(known) = pending.entry.note() {
                end = Some((known.clone(), pending.entry.at_ms()));
            }
        }
        if end.is_some() {
            if let Ok(registered) = &mut job.registered {
                Arc::make_mut(registered).end = end;
            }
            self.over(id);
        }
    }
}

fn backoff(tries: u32) -> Duration {
    let doubled = BACKOFF.saturating_mul(1 << tries.min(10));
    doubled.min(BACKOFF_MAX)
}

/// What it means that an entry is not there; None if its user is told.
fn consequence(note: &Note, id: &JobId) -> Option<String> {
    match note {
        Note::Submitted(_) | Note::Upgraded(_) => None,
        Note::Wanted(_) => Some(format!(
            "that the job {id} is to end could not be kept yet; until it is, another JobManager would not know"
        )),
        Note::Started => Some(format!("that the job {id} runs could not be kept yet")),
        Note::Ended(_) => Some(format!(
            "how the job {id} ended could not be kept yet; until it is, another JobManager would start it again"
        )),
    }
}
