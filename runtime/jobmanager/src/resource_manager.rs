//! Slots: how many there are, who holds them, and who waits.
//!
//! A job needs as many as its widest vertex has subtasks, since a slot holds one subtask of each.
//!
//! 1. Those that have run before are served first, then who came first, so that many narrow jobs do
//!    not keep a wide one waiting for ever.
//! 2. A job that needs more slots than there are at all keeps nobody waiting.

use crate::{Failure, JobId};
use std::collections::BTreeMap;
use std::time::Duration;
use streamrt_types::{Error, code};

/// Who is served before whom: the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Turn {
    pub is_new: bool,
    pub number: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct ResourceManager {
    total: u32,
    held: BTreeMap<JobId, u32>,
    waiting: BTreeMap<Turn, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    id: JobId,
    /// None: this is not known yet, and nobody is served before it.
    n: Option<u32>,
    /// When it gives up, since the Dispatcher began.
    until: Option<Duration>,
}

impl ResourceManager {
    pub fn new(total: u32) -> ResourceManager {
        ResourceManager {
            total,
            held: BTreeMap::new(),
            waiting: BTreeMap::new(),
        }
    }

    pub fn total(&self) -> u32 {
        self.total
    }

    pub fn free(&self) -> u32 {
        self.total - self.held.values().sum::<u32>()
    }

    /// Keeps the place of a job of which it is not known yet how many slots it needs.
    pub fn reserve(&mut self, turn: Turn, id: JobId) {
        let waiting = Waiting {
            id,
            n: None,
            until: None,
        };
        self.waiting.insert(turn, waiting);
    }

    /// The job needs `n` slots, and waits for them until then.
    pub fn request(&mut self, turn: Turn, id: JobId, n: u32, until: Option<Duration>) {
        let n = Some(n);
        self.waiting.insert(turn, Waiting { id, n, until });
    }

    /// The job neither holds slots any more nor waits for them.
    pub fn release(&mut self, id: &JobId) {
        self.held.remove(id);
        self.waiting.retain(|_, waiting| waiting.id != *id);
    }

    /// Gives slots to those whose turn it is, and says who they are.
    pub fn serve(&mut self) -> Vec<JobId> {
        let (mut free, mut served) = (self.free(), Vec::new());
        for (turn, waiting) in &self.waiting {
            match waiting.n {
                Some(n) if n > self.total => {}
                Some(n) if n <= free => {
                    free -= n;
                    served.push((*turn, n));
                }
                _ => break,
            }
        }
        let mut take = |(turn, n)| {
            let id = self.waiting.remove(&turn)?.id;
            self.held.insert(id.clone(), n);
            Some(id)
        };
        served.into_iter().filter_map(&mut take).collect()
    }

    /// How many slots are not free of those that a job waits for; 0 if others, who come before it,
    /// wait for theirs.
    pub fn missing(&self, id: &JobId) -> u32 {
        let found = self.waiting.values().find(|waiting| waiting.id == *id);
        let n = found.and_then(|waiting| waiting.n).unwrap_or_default();
        n.saturating_sub(self.free())
    }

    /// When the next one gives up.
    pub fn next_timeout(&self) -> Option<Duration> {
        self.waiting
            .values()
            .filter_map(|waiting| waiting.until)
            .min()
    }

    /// Those who have waited too long, each with how many slots are missing (S8003).
    pub fn timed_out(&self, now: Duration) -> Vec<(JobId, Failure)> {
        let is_over = |waiting: &&Waiting| waiting.until.is_some_and(|until| until <= now);
        let over = self.waiting.values().filter(is_over);
        over.map(|waiting| {
            let n = waiting.n.unwrap_or_default();
            (waiting.id.clone(), Failure::from(&self.no_slots(n)))
        })
        .collect()
    }

    fn no_slots(&self, n: u32) -> Error {
        let (total, free) = (self.total, self.free());
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

    fn id(n: u64) -> JobId {
        JobId::parse(&format!("{n:032x}")).unwrap()
    }

    fn turn(number: u64) -> Turn {
        Turn {
            is_new: true,
            number,
        }
    }

    fn request(manager: &mut ResourceManager, number: u64, n: u32) {
        manager.request(turn(number), id(number), n, Some(Duration::ZERO));
    }

    #[test]
    fn slots_are_free_again_when_nobody_holds_them() {
        let mut manager = ResourceManager::new(4);
        request(&mut manager, 1, 3);
        assert_eq!(manager.serve(), [id(1)]);
        request(&mut manager, 2, 2);
        assert_eq!(manager.serve(), []);
        let (late, failure) = manager.timed_out(Duration::ZERO).remove(0);
        assert_eq!(
            (late, failure.message.as_str(), manager.missing(&id(2))),
            (
                id(2),
                "a slot is missing: the job needs 2, and 1 of 4 are free",
                1
            )
        );
        manager.release(&id(1));
        assert_eq!((manager.free(), manager.serve()), (4, vec![id(2)]));
        assert_eq!(manager.free(), 2);
    }

    #[test]
    fn who_came_first_is_served_first() {
        let mut manager = ResourceManager::new(2);
        request(&mut manager, 1, 1);
        assert_eq!(manager.serve(), [id(1)]);
        request(&mut manager, 2, 2);
        request(&mut manager, 3, 1);
        assert_eq!(manager.serve(), []);
        let failures = manager.timed_out(Duration::ZERO);
        let narrow = &failures[1].1;
        assert!(narrow.message.ends_with("wait for theirs"), "{narrow:?}");
        assert_eq!(manager.missing(&id(3)), 0);
        manager.release(&id(1));
        assert_eq!(manager.serve(), [id(2)]);
        manager.release(&id(2));
        assert_eq!(manager.serve(), [id(3)]);
    }

    #[test]
    fn a_job_that_can_never_be_served_keeps_nobody_waiting() {
        let mut manager = ResourceManager::new(2);
        request(&mut manager, 1, 4);
        request(&mut manager, 2, 2);
        assert_eq!(manager.serve(), [id(2)]);
        assert_eq!(manager.missing(&id(1)), 4);
    }

    #[test]
    fn those_that_have_run_are_served_first_even_if_they_are_read_last() {
        let mut manager = ResourceManager::new(1);
        let ran = Turn {
            is_new: false,
            number: 2,
        };
        manager.reserve(ran, id(2));
        request(&mut manager, 1, 1);
        assert_eq!(manager.serve(), [], "the place is kept");
        manager.request(ran, id(2), 1, None);
        assert_eq!(manager.serve(), [id(2)]);
        assert_eq!(manager.next_timeout(), Some(Duration::ZERO));
    }
}
