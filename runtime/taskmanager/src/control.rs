//! What the tasks of a region share: what is wanted of the job, whether to give up, and the first
//! error; and what is said to all regions of a job.

use crate::wishes::Wishes;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use streamrt_exchange::GateWaker;
use streamrt_types::{Error, ProcessMemory, code};

/// What the tasks of one region look at.
#[derive(Default)]
pub struct Control {
    wishes: Arc<Wishes>,
    /// The job stops with one, so that a stop does not end its sources.
    has_checkpoints: bool,
    cancel: Arc<AtomicBool>,
    /// Of the process, for all regions of the attempt.
    pub memory: Arc<ProcessMemory>,
    wakers: Mutex<Vec<GateWaker>>,
    error: Mutex<Option<Error>>,
}

impl Control {
    fn new(
        wishes: &Arc<Wishes>,
        has_checkpoints: bool,
        memory: &Arc<ProcessMemory>,
    ) -> Arc<Control> {
        Arc::new(Control {
            wishes: wishes.clone(),
            has_checkpoints,
            memory: memory.clone(),
            ..Control::default()
        })
    }

    /// For what is done before tasks run: who waits for something outside gives up when a user
    /// wants the job to end.
    pub fn before_tasks(wishes: &Arc<Wishes>) -> Arc<Control> {
        Arc::new(Control {
            wishes: wishes.clone(),
            cancel: wishes.ends(),
            ..Control::default()
        })
    }

    pub fn watch(&self, waker: GateWaker) {
        self.wakers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(waker);
    }

    /// Lets tasks that wait look at what is wanted.
    fn wake(&self) {
        self.wakers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .for_each(GateWaker::wake);
    }

    /// Whether the sources are to end as if their input did: the final watermark follows, and
    /// everything fires.
    pub fn is_drained(&self) -> bool {
        self.wishes.wants_drain()
    }

    /// Whether the sources are to end; what is in flight is finished.
    pub fn is_stopped(&self) -> bool {
        !self.has_checkpoints && self.wishes.wants_stop()
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
        self.wakers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .for_each(GateWaker::close);
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

/// The controls of all regions of an attempt. What is said to the job is said to each of them, also
/// to those that start again later.
#[derive(Default)]
pub struct Controls {
    wishes: Arc<Wishes>,
    has_checkpoints: bool,
    memory: Arc<ProcessMemory>,
    said: Mutex<Said>,
}

#[derive(Default)]
struct Said {
    regions: Vec<Arc<Control>>,
    /// How often regions have started again.
    restarts: u64,
    /// Why all regions were ended.
    error: Option<Error>,
}

impl Controls {
    /// `wishes` are those that the job's users have, in whatever attempt; `memory` is what the
    /// process may hold.
    pub fn new(
        n_regions: usize,
        wishes: &Arc<Wishes>,
        has_checkpoints: bool,
        memory: ProcessMemory,
    ) -> Controls {
        let memory = Arc::new(memory);
        let regions = (0..n_regions)
            .map(|_| Control::new(wishes, has_checkpoints, &memory))
            .collect();
        Controls {
            wishes: wishes.clone(),
            has_checkpoints,
            memory,
            said: Mutex::new(Said {
                regions,
                ..Said::default()
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of the regions, by number, and how often regions have started again.
    pub fn regions(&self) -> (Vec<Arc<Control>>, u64) {
        let said = self.lock();
        (said.regions.clone(), said.restarts)
    }

    pub fn region(&self, number: usize) -> Arc<Control> {
        self.lock().regions[number].clone()
    }

    pub fn restarts(&self) -> u64 {
        self.lock().restarts
    }

    /// A new control for a region that starts again.
    pub fn restart(&self, number: usize) -> Arc<Control> {
        let mut said = self.lock();
        let control = Control::new(&self.wishes, self.has_checkpoints, &self.memory);
        if said.error.is_some() {
            control.fail(Control::cancelled());
        }
        said.restarts += 1;
        said.regions[number] = control.clone();
        control
    }

    /// Lets all tasks look at what is wanted.
    pub fn wake(&self) {
        self.lock()
            .regions
            .iter()
            .for_each(|control| control.wake());
    }

    /// Ends all regions at once. The first error that is no consequence of another one is kept.
    pub fn fail(&self, error: Error) {
        let mut said = self.lock();
        if said
            .error
            .as_ref()
            .is_none_or(|known| known.code() == code::CANCELLED)
        {
            said.error = Some(error);
        }
        said.regions
            .iter()
            .for_each(|control| control.fail(Control::cancelled()));
    }

    pub fn is_failed(&self) -> bool {
        self.lock().error.is_some()
    }

    pub fn take_error(&self) -> Option<Error> {
        self.lock().error.take()
    }
}
