//! Slots: how many there are, who holds them, and who waits.
//!
//! A job needs as many as its widest vertex has subtasks, since a slot holds one subtask of each.
//! Who came first is served first, so that many narrow jobs do not keep a wide one waiting for
//! ever; a job that needs more slots than there are at all keeps nobody waiting.

use crate::shell::Deadline;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use streamrt_types::{Error, Result, code};

/// See the module. Clones are the same one.
#[derive(Clone)]
pub struct ResourceManager(Arc<Shared>);

struct Shared {
    total: u32,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    free: u32,
    /// By the numbers of those who wait and may be served one day, in their order.
    waiting: VecDeque<u64>,
    next: u64,
}

/// Slots that somebody holds; they are free again when it is dropped.
pub struct Lease {
    manager: ResourceManager,
    n: u32,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.manager.state().free += self.n;
        self.manager.0.changed.notify_all();
    }
}

impl ResourceManager {
    pub fn new(total: u32) -> ResourceManager {
        ResourceManager(Arc::new(Shared {
            total,
            state: Mutex::new(State {
                free: total,
                waiting: VecDeque::new(),
                next: 0,
            }),
            changed: Condvar::new(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn total(&self) -> u32 {
        self.0.total
    }

    pub fn free(&self) -> u32 {
        self.state().free
    }

    /// Those who wait look again whether they still want to.
    pub fn wake(&self) {
        // Under the lock, or one who is about to wait would not hear it.
        drop(self.state());
        self.0.changed.notify_all();
    }

    /// Waits for `n` slots. `missing` is told how many are not free whenever that changes (0 if
    /// others who came before wait for theirs); None as soon as nobody `wants` them any more.
    ///
    /// # Errors
    /// S8003 if they are not free within `timeout`, with how many are missing.
    pub fn acquire(
        &self,
        n: u32,
        timeout: Option<Duration>,
        wants: impl Fn() -> bool,
        missing: impl Fn(u32),
    ) -> Result<Option<Lease>> {
        let (mut state, until) = (self.state(), timeout.map(Deadline::after));
        let ticket = state.next;
        state.next += 1;
        if n <= self.0.total {
            state.waiting.push_back(ticket);
        }
        let outcome = loop {
            if !wants() {
                break Ok(None);
            }
            if state.waiting.front() == Some(&ticket) && state.free >= n {
                state.free -= n;
                break Ok(Some(Lease {
                    manager: self.clone(),
                    n,
                }));
            }
            missing(n.saturating_sub(state.free));
            let left = until.map(|until| until.left());
            if left.is_some_and(|left| left.is_zero()) {
                break Err(self.no_slots(n, state.free));
            }
            state = self.wait(state, left);
        };
        state.waiting.retain(|waiting| *waiting != ticket);
        drop(state);
        self.0.changed.notify_all();
        outcome
    }

    fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        left: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        let changed = &self.0.changed;
        match left {
            None => changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(left) => match changed.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            },
        }
    }

    fn no_slots(&self, n: u32, free: u32) -> Error {
        let total = self.0.total;
        let message = match n.saturating_sub(free) {
            0 => format!("the job needs {n} slots, and jobs that came before it wait for theirs"),
            missing => format!(
                "{}: the job needs {n}, and {free} of {total} are free",
                are_missing(missing)
            ),
        };
        Error::new(code::NO_SLOTS, message)
    }
}

fn are_missing(n: u32) -> String {
    match n {
        1 => "a slot is missing".into(),
        n => format!("{n} slots are missing"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn a_job_that_can_never_be_served_keeps_nobody_waiting() {
        let manager = ResourceManager::new(2);
        let (told, waits) = channel();
        let wide = {
            let manager = manager.clone();
            let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
            let wants = stop.clone();
            let thread = std::thread::spawn(move || {
                let wants = || !wants.load(std::sync::atomic::Ordering::SeqCst);
                let missing = |n| told.send(n).unwrap();
                manager.acquire(4, None, wants, missing).unwrap().is_none()
            });
            (thread, stop)
        };
        assert_eq!(waits.recv().unwrap(), 2);
        let all = take(&manager, 2).unwrap();
        drop(all);
        wide.1.store(true, std::sync::atomic::Ordering::SeqCst);
        manager.wake();
        assert!(wide.0.join().unwrap(), "nobody wants its slots any more");
    }

    const AT_ONCE: Option<Duration> = Some(Duration::ZERO);

    fn take(manager: &ResourceManager, n: u32) -> Result<Lease> {
        manager
            .acquire(n, AT_ONCE, || true, |_| ())
            .map(Option::unwrap)
    }

    #[test]
    fn slots_are_free_again_when_nobody_holds_them() {
        let manager = ResourceManager::new(4);
        let three = take(&manager, 3).unwrap();
        let error = take(&manager, 2).err().unwrap();
        assert_eq!(
            (error.code(), error.message()),
            (
                code::NO_SLOTS,
                "a slot is missing: the job needs 2, and 1 of 4 are free"
            )
        );
        drop(three);
        assert_eq!(manager.free(), 4);
        assert!(take(&manager, 4).is_ok() && take(&manager, 5).is_err());
    }

    #[test]
    fn who_came_first_is_served_first() {
        let manager = ResourceManager::new(2);
        let held = take(&manager, 1).unwrap();
        let (told, missing) = channel();
        let (other, got) = (manager.clone(), channel());
        let wide = std::thread::spawn(move || {
            let lease = other.acquire(2, None, || true, |n| told.send(n).unwrap());
            got.0.send(lease.unwrap().is_some()).unwrap();
            drop(got);
        });
        assert_eq!(missing.recv().unwrap(), 1);
        let narrow = take(&manager, 1).err().unwrap();
        assert!(
            narrow.message().ends_with("wait for theirs"),
            "{narrow}: the wide one is before it"
        );
        drop(held);
        wide.join().unwrap();
        assert!(take(&manager, 2).is_ok());
    }

    #[test]
    fn nobody_waits_for_what_is_not_wanted_any_more() {
        let manager = ResourceManager::new(1);
        let wanted = Arc::new(Mutex::new(true));
        let (told, missing) = channel();
        let (other, wants) = (manager.clone(), wanted.clone());
        let waiting = std::thread::spawn(move || {
            let lease = other.acquire(
                2,
                None,
                || *wants.lock().unwrap(),
                |n| told.send(n).unwrap_or(()),
            );
            lease.unwrap().is_none()
        });
        missing.recv().unwrap();
        *wanted.lock().unwrap() = false;
        manager.wake();
        assert!(waiting.join().unwrap());
    }
}
