//! Commands that take longer than a request: each has an id, by which one asks what came of it.
//!
//! The last ones are remembered.

use crate::shell::{Deadline, spawn};
use crate::{Failure, Outcome};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use streamrt_checkpoint::unique_token;
use streamrt_types::{Error, Result, code};
use utoipa::ToSchema;

/// Commands to one job at the same time.
const ACTIVE_MAX: usize = 32;
/// How many that are done are remembered.
const DONE_MAX: usize = 100;

/// How far a command has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Trigger {
    InProgress,
    Completed(Outcome),
    Failed(Failure),
}

#[derive(Debug)]
struct Told {
    id: String,
    trigger: Trigger,
    /// Somebody knows what came of it.
    is_seen: bool,
}

/// The commands to one job. Clones are the same ones.
#[derive(Clone, Default)]
pub struct Triggers(Arc<Shared>);

#[derive(Default)]
struct Shared {
    all: Mutex<VecDeque<Told>>,
    changed: Condvar,
}

fn is_active(told: &Told) -> bool {
    told.trigger == Trigger::InProgress
}

impl Triggers {
    fn all(&self) -> MutexGuard<'_, VecDeque<Told>> {
        self.0.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a command that somebody carries out, who says with [`Triggers::told`] what came of it;
    /// returns its id.
    ///
    /// # Errors
    /// S3014 if too many are being carried out.
    pub fn open(&self) -> Result<String> {
        let id = unique_token();
        let mut all = self.all();
        if all.iter().filter(|told| is_active(told)).count() >= ACTIVE_MAX {
            let message = format!("{ACTIVE_MAX} commands to the job are being carried out already");
            return Err(Error::new(code::NO_ANSWER, message));
        }
        all.push_back(Told {
            id: id.clone(),
            trigger: Trigger::InProgress,
            is_seen: false,
        });
        forget(&mut all);
        Ok(id)
    }

    /// Begins a command, on a thread of its own, and returns its id.
    ///
    /// # Errors
    /// S3014 if too many are being carried out, `Internal` if there is no thread for it.
    pub fn begin(&self, work: impl FnOnce() -> Result<Outcome> + Send + 'static) -> Result<String> {
        let id = self.open()?;
        let (triggers, own) = (self.clone(), id.clone());
        let run = move || {
            let result = work().map_err(|error| Failure::from(&error));
            triggers.told(&own, result);
        };
        spawn("command", run).inspect_err(|_| self.withdraw(&id))?;
        Ok(id)
    }

    /// Says what came of a command.
    pub fn told(&self, id: &str, result: Result<Outcome, Failure>) {
        let trigger = result.map_or_else(Trigger::Failed, Trigger::Completed);
        let mut all = self.all();
        all.iter_mut()
            .filter(|told| told.id == id)
            .for_each(|told| told.trigger = trigger.clone());
        drop(all);
        self.0.changed.notify_all();
    }

    /// Takes a command back that was never begun.
    pub fn withdraw(&self, id: &str) {
        self.all().retain(|told| told.id != id);
    }

    /// How far a command has come, if it is known; one that is being carried out is waited for, but
    /// not longer than `wait`.
    pub fn look(&self, id: &str, wait: Duration) -> Option<Trigger> {
        let (mut all, until) = (self.all(), Deadline::after(wait));
        loop {
            let told = all.iter_mut().find(|told| told.id == id)?;
            let left = until.left();
            if !is_active(told) || left.is_zero() {
                told.is_seen |= !is_active(told);
                let trigger = told.trigger.clone();
                drop(all);
                self.0.changed.notify_all();
                return Some(trigger);
            }
            all = self.wait(all, left);
        }
    }

    fn wait<'a>(
        &self,
        all: MutexGuard<'a, VecDeque<Told>>,
        left: Duration,
    ) -> MutexGuard<'a, VecDeque<Told>> {
        match self.0.changed.wait_timeout(all, left) {
            Ok((all, _)) => all,
            Err(poisoned) => poisoned.into_inner().0,
        }
    }

    /// Waits until everybody knows what came of their commands, but not longer than `limit`.
    pub fn farewell(&self, limit: Duration) {
        let (mut all, until) = (self.all(), Deadline::after(limit));
        while all.iter().any(|told| !told.is_seen) && !until.left().is_zero() {
            all = self.wait(all, until.left());
        }
    }
}

/// The oldest that are done make room.
fn forget(all: &mut VecDeque<Told>) {
    let n_done = all.iter().filter(|told| !is_active(told)).count();
    let mut surplus = n_done.saturating_sub(DONE_MAX);
    all.retain(|told| {
        let goes = surplus > 0 && !is_active(told);
        surplus -= usize::from(goes);
        !goes
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn what_came_of_a_command_is_known_by_its_id() {
        let triggers = Triggers::default();
        let (go, gone) = channel::<()>();
        let id = triggers
            .begin(move || {
                gone.recv().unwrap();
                Ok(Outcome::Done)
            })
            .unwrap();
        assert_eq!(
            triggers.look(&id, Duration::ZERO),
            Some(Trigger::InProgress)
        );
        go.send(()).unwrap();
        assert_eq!(
            triggers.look(&id, LONG),
            Some(Trigger::Completed(Outcome::Done))
        );
        triggers.farewell(LONG);
        assert_eq!(triggers.look("other", LONG), None);
        let failed = triggers
            .begin(|| Err(Error::new(code::STORE, "the disk is full")))
            .unwrap();
        let Some(Trigger::Failed(failure)) = triggers.look(&failed, LONG) else {
            panic!("it failed");
        };
        assert_eq!(failure.message, "the disk is full");
    }

    #[test]
    fn commands_have_a_limit_and_those_that_are_done_are_forgotten() {
        let triggers = Triggers::default();
        let (go, gone) = channel::<()>();
        let gone = Arc::new(Mutex::new(gone));
        let slow = || {
            let gone = gone.clone();
            triggers.begin(move || {
                gone.lock().unwrap().recv().unwrap_or(());
                Ok(Outcome::Done)
            })
        };
        let ids: Vec<String> = (0..ACTIVE_MAX).map(|_| slow().unwrap()).collect();
        assert_eq!(slow().unwrap_err().code(), code::NO_ANSWER);
        drop(go);
        for id in &ids {
            assert!(triggers.look(id, LONG).is_some());
        }
        for _ in 0..=DONE_MAX {
            let id = triggers.begin(|| Ok(Outcome::Done)).unwrap();
            assert!(triggers.look(&id, LONG).is_some());
        }
        assert!(triggers.all().len() <= DONE_MAX + 1);
        assert_eq!(triggers.look(&ids[0], LONG), None);
    }
}
