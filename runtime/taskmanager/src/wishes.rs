//! What users want of a job, from the command to its answer: the one place that knows. It outlives
//! attempts, so that no wish is lost when the job fails and starts again.
//!
//! 1. How the job is to end (stop, drain, cancel) is set once and never taken back. Tasks, the
//!    coordinator and the job's master look here.
//! 2. What somebody waits for has a number, under which the coordinator knows it. Each attempt is
//!    asked for what is still open: a savepoint that an attempt began and did not finish is made
//!    anew.
//! 3. When the job is over, whoever still waits is told.
//!
//! An upgrade in place is for the tasks that run, whose instances were made for it: it does not
//! outlive them.

use crate::durable::Version;
use crate::replaceable::UserCode;
use crate::upgrade::Replacement;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use streamrt_checkpoint::{Request, Store};
use streamrt_types::{Error, Result, code};

/// A running job got new code behind the barrier of a checkpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Swapped {
    pub checkpoint: u64,
    /// The longest that a task stood still.
    pub pause: Duration,
}

/// Something that somebody waits for.
pub(crate) enum Wish {
    Savepoint(Savepoint),
    Upgrade(Swap),
}

/// A savepoint in a folder of its own.
pub(crate) struct Savepoint {
    pub store: Store,
    pub when: When,
    pub reply: Sender<Result<u64>>,
    /// An attempt has begun to write it.
    begun: bool,
}

/// When a savepoint is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    Now,
    /// Now, and the job stops with it.
    WithStop,
    /// When all tasks have ended.
    AtEnd,
}

impl Savepoint {
    pub fn new(store: Store, when: When, reply: Sender<Result<u64>>) -> Savepoint {
        Savepoint {
            store,
            when,
            reply,
            begun: false,
        }
    }
}

/// An upgrade in place.
pub(crate) struct Swap {
    pub version: Version,
    /// For each task.
    pub code: Vec<UserCode>,
    pub reply: Sender<Result<Swapped>>,
}

impl Wish {
    /// How the coordinator is asked for it.
    fn request(&self, request: u64) -> Request {
        match self {
            Wish::Savepoint(Savepoint {
                when: When::AtEnd, ..
            }) => Request::AtEnd { request },
            Wish::Savepoint(Savepoint { when, .. }) => Request::Savepoint {
                request,
                stops: *when == When::WithStop,
            },
            Wish::Upgrade(_) => Request::Upgrade { request },
        }
    }

    fn refuse(self, error: Error) {
        match self {
            Wish::Savepoint(Savepoint { reply, .. }) => answer(&reply, Err(error)),
            Wish::Upgrade(Swap { reply, .. }) => answer(&reply, Err(error)),
        }
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct Wishes {
    stop: AtomicBool,
    drain: AtomicBool,
    cancel: AtomicBool,
    /// One of stop and cancel.
    ends: Arc<AtomicBool>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    by_number: BTreeMap<u64, Wish>,
    n_asked: u64,
    /// A new version that waits for the attempt to stop.
    replacement: Option<Replacement>,
    /// Nobody serves wishes any more.
    over: bool,
}

impl Wishes {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The job is to end: with a checkpoint, where there are any; nothing fires that is not due.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.ends.store(true, Ordering::SeqCst);
    }

    /// The sources are to end as if their input had: everything fires.
    pub fn drain(&self) {
        self.drain.store(true, Ordering::SeqCst);
    }

    /// The job is to end at once, and what is not committed is withdrawn.
    pub fn cancel(&self) {
        self.cancel.store(true, Ordering::SeqCst);
        self.ends.store(true, Ordering::SeqCst);
    }

    /// The flag that who waits for something outside looks at before the job runs: it is set when
    /// the job is to end, in whatever way but a drain.
    pub fn ends(&self) -> Arc<AtomicBool> {
        self.ends.clone()
    }

    pub fn wants_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub fn wants_drain(&self) -> bool {
        self.drain.load(Ordering::Relaxed)
    }

    pub fn wants_cancel(&self) -> bool {
        self.cancel.load(Ordering::SeqCst)
    }

    /// Whether a job that fails is not to start again. A drain goes on from a checkpoint; without
    /// one it would end with nothing.
    pub fn forbid_restart(&self, has_checkpoint: bool) -> bool {
        self.wants_stop() || self.wants_cancel() || self.wants_drain() && !has_checkpoint
    }

    /// Returns how the coordinator is asked for it; `None` if the job is over, and the wish was
    /// refused.
    pub fn add(&self, wish: Wish) -> Option<Request> {
        let mut open = self.lock();
        if open.over {
            wish.refuse(over());
            return None;
        }
        open.n_asked += 1;
        let number = open.n_asked;
        let request = wish.request(number);
        open.by_number.insert(number, wish);
        Some(request)
    }

    /// What a coordinator that begins is to be asked for.
    pub fn requests(&self) -> Vec<Request> {
        let open = self.lock();
        let stop = self.wants_stop().then_some(Request::Stop);
        open.by_number
            .iter()
            .map(|(number, wish)| wish.request(*number))
            .chain(stop)
            .collect()
    }

    /// An attempt follows another one, of which nothing runs any more. `published` says which
    /// savepoint counts that lies in a store.
    pub fn next_attempt(&self, published: impl Fn(&Store) -> Option<u64>) {
        let begun = {
            let mut open = self.lock();
            let is_left = |_: &u64, wish: &mut Wish| {
                !matches!(wish, Wish::Savepoint(Savepoint { begun: false, .. }))
            };
            open.by_number.extract_if(.., is_left).collect::<Vec<_>>()
        };
        for (number, wish) in begun {
            match wish {
                Wish::Upgrade(_) => wish.refuse(Error::new(
                    code::CHECKPOINT_FAILED,
                    "the job failed before it was upgraded: ask for it once more",
                )),
                Wish::Savepoint(savepoint) => self.renew(number, savepoint, &published),
            }
        }
    }

    /// The folder was empty when the savepoint was asked for, so all that is there is of the
    /// attempt that failed.
    fn renew(&self, number: u64, savepoint: Savepoint, published: impl Fn(&Store) -> Option<u64>) {
        if let Some(checkpoint) = published(&savepoint.store) {
            self.made(&savepoint, checkpoint);
            return;
        }
        let store = &savepoint.store;
        let cleared = store
            .list("")
            .and_then(|objects| objects.iter().try_for_each(|(path, _)| store.delete(path)));
        match cleared {
            Ok(()) => drop(self.lock().by_number.insert(
                number,
                Wish::Savepoint(Savepoint {
                    begun: false,
                    ..savepoint
                }),
            )),
            Err(error) => answer(&savepoint.reply, Err(error)),
        }
    }

    /// A savepoint begins: where it goes.
    pub fn begin_savepoint(&self, request: u64) -> Option<Store> {
        match self.lock().by_number.get_mut(&request)? {
            Wish::Savepoint(savepoint) => {
                savepoint.begun = true;
                Some(savepoint.store.clone())
            }
            Wish::Upgrade(_) => None,
        }
    }

    /// An upgrade begins: from now on it is the coordinator's, which answers.
    pub fn begin_upgrade(&self, request: u64) -> Option<Swap> {
        let mut open = self.lock();
        open.by_number
            .get(&request)
            .filter(|wish| matches!(wish, Wish::Upgrade(_)))?;
        match open.by_number.remove(&request)? {
            Wish::Upgrade(swap) => Some(swap),
            Wish::Savepoint(_) => None,
        }
    }

    /// A savepoint counts.
    pub fn fulfil(&self, request: u64, checkpoint: u64) {
        let wish = self.lock().by_number.remove(&request);
        if let Some(Wish::Savepoint(savepoint)) = wish {
            self.made(&savepoint, checkpoint);
        }
    }

    fn made(&self, savepoint: &Savepoint, checkpoint: u64) {
        // Before the answer: a failure on the last steps does not start the job again.
        if savepoint.when == When::WithStop {
            self.stop();
        }
        answer(&savepoint.reply, Ok(checkpoint));
    }

    /// A wish will not be granted.
    pub fn refuse(&self, request: u64, error: Error) {
        let wish = self.lock().by_number.remove(&request);
        if let Some(wish) = wish {
            wish.refuse(error);
        }
    }

    /// The job is to stop, and the new version to start from there.
    pub fn replace(&self, replacement: Replacement) {
        let mut open = self.lock();
        match open.over {
            true => answer(&replacement.reply, Err(over())),
            false => open.replacement = Some(replacement),
        }
    }

    pub fn take_replacement(&self) -> Option<Replacement> {
        self.lock().replacement.take()
    }

    /// The job is over: whoever still waits is told.
    pub fn close(&self) {
        let mut open = self.lock();
        open.over = true;
        std::mem::take(&mut open.by_number)
            .into_values()
            .for_each(|wish| wish.refuse(over()));
        open.replacement
            .take()
            .into_iter()
            .for_each(|replacement| answer(&replacement.reply, Err(over())));
    }
}

fn over() -> Error {
    Error::new(
        code::CHECKPOINT_FAILED,
        "the job has ended before this was done",
    )
}

/// Whoever asked may have gone.
pub(crate) fn answer<T>(reply: &Sender<Result<T>>, answer: Result<T>) {
    let _ = reply.send(answer);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, channel};

    fn savepoint(wishes: &Wishes, when: When) -> (Store, Receiver<Result<u64>>, Option<Request>) {
        let (store, (reply, answer)) = (Store::in_memory().unwrap(), channel());
        let request = wishes.add(Wish::Savepoint(Savepoint::new(store.clone(), when, reply)));
        (store, answer, request)
    }

    #[test]
    fn what_is_open_is_asked_of_the_next_attempt() {
        let wishes = Wishes::default();
        let (store, made, request) = savepoint(&wishes, When::AtEnd);
        assert_eq!(request, Some(Request::AtEnd { request: 1 }));
        let (_, other, _) = savepoint(&wishes, When::Now);
        wishes
            .begin_savepoint(1)
            .unwrap()
            .put("0-0-1", b"half".to_vec())
            .unwrap();
        wishes.next_attempt(|_| None);
        assert_eq!(
            store.list("").unwrap(),
            [],
            "what the attempt before has left is gone"
        );
        let again = [
            Request::AtEnd { request: 1 },
            Request::Savepoint {
                request: 2,
                stops: false,
            },
        ];
        assert_eq!(wishes.requests(), again);
        wishes.fulfil(1, 7);
        assert_eq!(made.recv().unwrap().unwrap(), 7);
        wishes.close();
        assert_eq!(
            other.recv().unwrap().unwrap_err().code(),
            code::CHECKPOINT_FAILED
        );
        let (_, late, request) = savepoint(&wishes, When::Now);
        assert!(
            request.is_none() && late.recv().unwrap().is_err(),
            "a job that is over makes none"
        );
    }

    #[test]
    fn a_savepoint_that_counts_already_is_not_made_again() {
        let wishes = Wishes::default();
        let (_, made, _) = savepoint(&wishes, When::WithStop);
        wishes.begin_savepoint(1).unwrap();
        wishes.next_attempt(|_| Some(9));
        assert_eq!(made.recv().unwrap().unwrap(), 9);
        assert_eq!(
            wishes.requests(),
            [Request::Stop],
            "the job stops with it, whatever failed behind it"
        );
    }

    #[test]
    fn a_drain_starts_again_from_a_checkpoint_alone() {
        let wishes = Wishes::default();
        assert!(!wishes.forbid_restart(false));
        wishes.drain();
        assert_eq!(
            (wishes.forbid_restart(true), wishes.forbid_restart(false)),
            (false, true)
        );
        wishes.stop();
        assert!(
            wishes.forbid_restart(true),
            "who stops is not started again"
        );
    }
}
