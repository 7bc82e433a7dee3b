//! Threads that many jobs share, for work that waits for disks and networks.
//!
//! Invariant: the work of one strand is done in the order in which it was given, and never two of
//! it at once; strands do not wait for one another as long as a thread is free.

use crate::log_ring::inheriting;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;
use std::time::Duration;

/// How long a thread waits for more before it ends.
const IDLE: Duration = Duration::from_secs(5);

type Work = Box<dyn FnOnce() + Send>;

/// See the module. Clones are the same threads.
#[derive(Clone)]
pub struct Workers(Arc<Pool>);

struct Pool {
    name: &'static str,
    threads_max: usize,
    state: Mutex<State>,
    more: Condvar,
}

#[derive(Default)]
struct State {
    /// Strands with work that nobody does.
    ready: VecDeque<Arc<Line>>,
    n_threads: usize,
    /// Those of them that wait.
    n_idle: usize,
}

/// Work that is done in order.
pub struct Strand {
    pool: Workers,
    line: Arc<Line>,
}

#[derive(Default)]
struct Line(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    work: VecDeque<Work>,
    /// A thread has it, or it is among those that are ready.
    is_taken: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Workers {
    /// At most so many threads with this name; they are started when there is work for them.
    pub fn new(name: &'static str, threads_max: usize) -> Workers {
        Workers(Arc::new(Pool {
            name,
            threads_max: threads_max.max(1),
            state: Mutex::default(),
            more: Condvar::new(),
        }))
    }

    pub fn strand(&self) -> Strand {
        Strand {
            pool: self.clone(),
            line: Arc::default(),
        }
    }

    fn add(&self, line: Arc<Line>) {
        let mut state = lock(&self.0.state);
        state.ready.push_back(line);
        if state.n_idle >= state.ready.len() {
            return self.0.more.notify_one();
        }
        if state.n_threads >= self.0.threads_max {
            return;
        }
        state.n_threads += 1;
        drop(state);
        let pool = self.0.clone();
        let started = Builder::new()
            .name(self.0.name.into())
            .spawn(move || pool.serve());
        if started.is_ok() {
            return;
        }
        // The machine has no thread left: others do it when they have time, or else this one.
        let mut state = lock(&self.0.state);
        state.n_threads -= 1;
        let line = match state.n_threads {
            0 => state.ready.pop_back(),
            _ => None,
        };
        drop(state);
        line.into_iter().for_each(|line| while line.next() {});
    }
}

impl Pool {
    fn serve(&self) {
        while let Some(line) = self.take() {
            if line.next() {
                lock(&self.state).ready.push_back(line);
            }
        }
    }

    /// None when nothing has come for a while.
    fn take(&self) -> Option<Arc<Line>> {
        let mut state = lock(&self.state);
        loop {
            if let Some(line) = state.ready.pop_front() {
                return Some(line);
            }
            state.n_idle += 1;
            let waited = self.more.wait_timeout(state, IDLE);
            let (guard, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = guard;
            state.n_idle -= 1;
            if timeout.timed_out() && state.ready.is_empty() {
                state.n_threads -= 1;
                return None;
            }
        }
    }
}

impl Line {
    /// Does the first piece of work, and says whether there is more.
    fn next(&self) -> bool {
        let work = lock(&self.0).work.pop_front();
        if let Some(work) = work {
            // Whoever waits for its result sees that there is none.
            let _ = catch_unwind(AssertUnwindSafe(work));
        }
        let mut waiting = lock(&self.0);
        waiting.is_taken = !waiting.work.is_empty();
        waiting.is_taken
    }
}

impl Strand {
    /// Does something after everything that was given before, for the job of this thread.
    pub fn run(&self, work: impl FnOnce() + Send + 'static) {
        let mut waiting = lock(&self.line.0);
        waiting.work.push_back(Box::new(inheriting(work)));
        if !std::mem::replace(&mut waiting.is_taken, true) {
            drop(waiting);
            self.pool.add(self.line.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_strand_keeps_its_order_whatever_others_do() {
        let workers = Workers::new("test", 3);
        let (sender, done) = channel();
        let strands: Vec<Strand> = (0..8).map(|_| workers.strand()).collect();
        for number in 0..1000 {
            for (strand, of) in strands.iter().enumerate() {
                let sender = sender.clone();
                of.run(move || sender.send((strand, number)).unwrap());
            }
        }
        let mut next = [0; 8];
        for _ in 0..8000 {
            let (strand, number) = done.recv_timeout(LONG).unwrap();
            assert_eq!(number, next[strand]);
            next[strand] += 1;
        }
    }

    #[test]
    fn what_hangs_or_panics_does_not_hold_others_up() {
        let workers = Workers::new("test", 2);
        let (hanging, fine) = (workers.strand(), workers.strand());
        let (release, released) = channel::<()>();
        hanging.run(move || released.recv().unwrap_or(()));
        fine.run(|| std::panic::resume_unwind(Box::new("as the test wants")));
        let (sender, done) = channel();
        fine.run(move || sender.send(()).unwrap());
        done.recv_timeout(LONG).unwrap();
        drop(release);
    }
}
