//! What the tasks of a region share: how users want the job to end, whether to give up, and the
//! first error.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use streamrt_exchange::GateWaker;
use streamrt_operator::UserCounters;
use streamrt_rpc::Wish;
use streamrt_types::{Error, ProcessMemory, code};

/// How users want a job to end. Set once, and never taken back, whatever attempt runs.
#[derive(Default)]
pub struct Ends {
    stop: AtomicBool,
    drain: AtomicBool,
    /// One of stop and cancel.
    any: Arc<AtomicBool>,
}

impl Ends {
    pub fn wish(&self, wish: Wish) {
        match wish {
            Wish::Stop => self.stop.store(true, Ordering::SeqCst),
            Wish::Drain => self.drain.store(true, Ordering::SeqCst),
            Wish::Cancel => {}
        }
        if wish != Wish::Drain {
            self.any.store(true, Ordering::SeqCst);
        }
    }
}

/// What the tasks of one region look at.
#[derive(Default)]
pub struct Control {
    ends: Arc<Ends>,
    /// The job stops with one, so that a stop does not end its sources.
    has_checkpoints: bool,
    cancel: Arc<AtomicBool>,
    /// The memory of the process, for all regions of the attempt.
    pub memory: Arc<ProcessMemory>,
    wakers: Mutex<Vec<GateWaker>>,
    error: Mutex<Option<Error>>,
    /// By vertex and subtask.
    user_counters: Mutex<BTreeMap<(usize, u32), Arc<UserCounters>>>,
}

impl Control {
    pub fn new(ends: &Arc<Ends>, has_checkpoints: bool, memory: &Arc<ProcessMemory>) -> Control {
        Control {
            ends: ends.clone(),
            has_checkpoints,
            memory: memory.clone(),
            ..Control::default()
        }
    }

    /// For what is done before tasks run: who waits for something outside gives up when a user
    /// wants the job to end.
    pub fn before_tasks(ends: &Arc<Ends>) -> Control {
        Control {
            ends: ends.clone(),
            cancel: ends.any.clone(),
            ..Control::default()
        }
    }

    /// What the user's code counts in a subtask of a vertex, whatever version of it runs.
    pub fn user_counters(&self, vertex: usize, subtask: u32) -> Arc<UserCounters> {
        let counters = self.user_counters.lock();
        let mut counters = counters.unwrap_or_else(PoisonError::into_inner);
        counters.entry((vertex, subtask)).or_default().clone()
    }

    pub fn watch(&self, waker: GateWaker) {
        self.wakers().push(waker);
    }

    fn wakers(&self) -> MutexGuard<'_, Vec<GateWaker>> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets tasks that wait look at what is wanted.
    pub fn wake(&self) {
        self.wakers().iter().for_each(GateWaker::wake);
    }

    /// Whether the sources are to end as if their input did: the final watermark follows, and
    /// everything fires.
    pub fn is_drained(&self) -> bool {
        self.ends.drain.load(Ordering::Relaxed)
    }

    /// Whether the sources are to end; what is in flight is finished.
    pub fn is_stopped(&self) -> bool {
        !self.has_checkpoints && self.ends.stop.load(Ordering::Relaxed)
    }

    /// Ends every task at once. The first error that is no consequence of another one is kept.
    pub fn fail(&self, error: Error) {
        let mut first = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        if first
            .as_ref()
            .is_none_or(|known| known.code() == code::CANCELLED)
        {
            *first = Some(error);
        }
        drop(first);
        self.cancel.store(true, Ordering::SeqCst);
        self.wakers().iter().for_each(GateWaker::close);
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    /// The flag that a running guest call looks at.
    pub fn cancel_flag(&self) -> Arc<AtomicBool> {
        self.cancel.clone()
    }

    /// What a task returns when it finds the job cancelled.
    pub fn cancelled() -> Error {
        Error::new(code::CANCELLED, "the job was cancelled")
    }

    pub fn take_error(&self) -> Option<Error> {
        self.error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}
