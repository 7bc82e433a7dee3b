//! What users want of a job, from the command to its answer. It outlives attempts, so that no wish
//! is lost when the job fails and starts again.
//!
//! 1. How the job is to end (stop, drain, cancel) is set once and never taken back.
//! 2. What somebody waits for has a number, under which the coordinator knows it. Each attempt is
//!    asked for what is still open: a savepoint that an attempt began and did not finish is made
//!    anew.
//!
//! An upgrade in place is for the tasks that run, whose instances were made for it: it does not
//! outlive them.

use std::collections::BTreeMap;
use streamrt_checkpoint::Request;

/// When a savepoint is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum When {
    Now,
    /// Now, and the job stops with it.
    WithStop,
    /// When all tasks have ended.
    AtEnd,
}

/// A savepoint in a folder of its own that somebody waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Savepoint {
    pub location: String,
    pub when: When,
    /// An attempt has begun to write it.
    pub begun: bool,
}

/// Something that somebody waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Awaited {
    Savepoint(Savepoint),
    /// In place; the coordinator serves it.
    Upgrade,
}

impl Awaited {
    fn request(&self, request: u64) -> Request {
        match self {
            Awaited::Savepoint(Savepoint { when, .. }) => match when {
                When::AtEnd => Request::AtEnd { request },
                When::Now | When::WithStop => Request::Savepoint {
                    request,
                    stops: *when == When::WithStop,
                },
            },
            Awaited::Upgrade => Request::Upgrade { request },
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    pub stop: bool,
    pub drain: bool,
    pub cancel: bool,
    /// By the number of the request.
    open: BTreeMap<u64, Awaited>,
}

impl Wishes {
    /// Whether a job that fails is not to start again. A drain goes on from a checkpoint; without
    /// one it would end with nothing.
    pub fn forbid_restart(&self, has_checkpoint: bool) -> bool {
        self.stop || self.cancel || self.drain && !has_checkpoint
    }

    /// Returns how the coordinator is asked for it.
    pub fn add(&mut self, number: u64, awaited: Awaited) -> Request {
        let request = awaited.request(number);
        self.open.insert(number, awaited);
        request
    }

    /// What a coordinator that begins is to be asked for.
    pub fn requests(&self) -> Vec<Request> {
        let open = self.open.iter();
        open.map(|(number, awaited)| awaited.request(*number))
            .chain(self.stop.then_some(Request::Stop))
            .collect()
    }

    /// Takes what an attempt that is over had begun: it has to be made anew, or refused.
    pub fn take_begun(&mut self) -> Vec<(u64, Awaited)> {
        let is_left = |_: &u64, awaited: &mut Awaited| match awaited {
            Awaited::Savepoint(savepoint) => savepoint.begun,
            Awaited::Upgrade => true,
        };
        self.open.extract_if(.., is_left).collect()
    }

    /// A savepoint begins: where it goes.
    pub fn begin_savepoint(&mut self, request: u64) -> Option<String> {
        match self.open.get_mut(&request)? {
            Awaited::Savepoint(savepoint) => {
                savepoint.begun = true;
                Some(savepoint.location.clone())
            }
            Awaited::Upgrade => None,
        }
    }

    /// Where the savepoint of a request goes.
    pub fn location(&self, request: u64) -> Option<String> {
        match self.open.get(&request)? {
            Awaited::Savepoint(savepoint) => Some(savepoint.location.clone()),
            Awaited::Upgrade => None,
        }
    }

    /// Takes what is served, or never will be.
    pub fn take(&mut self, request: u64) -> Option<Awaited> {
        self.open.remove(&request)
    }

    /// A savepoint counts. The job that stops with it stops, whatever fails after it.
    pub fn made(&mut self, savepoint: &Savepoint) {
        self.stop |= savepoint.when == When::WithStop;
    }

    /// The numbers of all that somebody waits for; nobody does any more.
    pub fn close(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.open).into_keys().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn savepoint(wishes: &mut Wishes, number: u64, when: When) -> Request {
        let location = format!("/sp/{number}");
        let begun = false;
        let savepoint = Savepoint {
            location,
            when,
            begun,
        };
        wishes.add(number, Awaited::Savepoint(savepoint))
    }

    #[test]
    fn what_is_open_is_asked_of_the_next_attempt() {
        let mut wishes = Wishes::default();
        let request = savepoint(&mut wishes, 1, When::AtEnd);
        assert_eq!(request, Request::AtEnd { request: 1 });
        savepoint(&mut wishes, 2, When::Now);
        wishes.add(3, Awaited::Upgrade);
        assert_eq!(wishes.begin_savepoint(1).as_deref(), Some("/sp/1"));
        let begun: Vec<u64> = wishes.take_begun().into_iter().map(|(n, _)| n).collect();
        assert_eq!(begun, [1, 3], "the upgrade was for tasks that are gone");
        savepoint(&mut wishes, 1, When::AtEnd);
        let again = [
            Request::AtEnd { request: 1 },
            Request::Savepoint {
                request: 2,
                stops: false,
            },
        ];
        assert_eq!(wishes.requests(), again);
        assert_eq!(wishes.close(), [1, 2]);
        assert!(wishes.requests().is_empty());
    }

    #[test]
    fn a_job_stops_with_its_savepoint_whatever_fails_after_it() {
        let mut wishes = Wishes::default();
        savepoint(&mut wishes, 1, When::WithStop);
        let Some(Awaited::Savepoint(made)) = wishes.take(1) else {
            panic!("it was asked for")
        };
        wishes.made(&made);
        assert_eq!(wishes.requests(), [Request::Stop]);
    }

    #[test]
    fn a_drain_starts_again_from_a_checkpoint_alone() {
        let mut wishes = Wishes::default();
        assert!(!wishes.forbid_restart(false));
        wishes.drain = true;
        let forbidden = (wishes.forbid_restart(true), wishes.forbid_restart(false));
        assert_eq!(forbidden, (false, true));
        wishes.stop = true;
        assert!(
            wishes.forbid_restart(true),
            "who stops is not started again"
        );
    }
}
