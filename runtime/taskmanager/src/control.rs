//! What the tasks of a region share: whether to stop, whether to give up, and the first error; and what is said to all regions of a job.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use streamrt_exchange::GateWaker;
use streamrt_types::{Error, code};

/// Commands to the tasks of one region. A command is set once and never taken back.
#[derive(Default)]
pub struct Control {
    stop: AtomicBool,
    drain: AtomicBool,
    cancel: Arc<AtomicBool>,
    wakers: Mutex<Vec<GateWaker>>,
    error: Mutex<Option<Error>>,
}

impl Control {
    pub fn watch(&self, waker: GateWaker) {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner).push(waker);
    }

    /// Lets the sources end; what is in flight is finished.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(GateWaker::wake);
    }

    /// Lets the sources end as if their input did: the final watermark follows, and everything fires.
    pub fn drain(&self) {
        self.drain.store(true, Ordering::SeqCst);
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(GateWaker::wake);
    }

    pub fn is_drained(&self) -> bool {
        self.drain.load(Ordering::Relaxed)
    }

    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Ends every task at once. The first error that is no consequence of another one is kept.
    pub fn fail(&self, error: Error) {
        let mut first = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        if first.as_ref().is_none_or(|known| known.code() == code::CANCELLED) {
            *first = Some(error);
        }
        drop(first);
        self.cancel.store(true, Ordering::SeqCst);
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(GateWaker::close);
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
        self.error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The controls of all regions of an attempt. What is said to the job is said to each of them, also to those that start again later.
#[derive(Default)]
pub struct Controls(Mutex<Said>);

#[derive(Default)]
struct Said {
    regions: Vec<Arc<Control>>,
    /// How often regions have started again.
    restarts: u64,
    stop: bool,
    drain: bool,
    /// Why all regions were ended.
    error: Option<Error>,
}

impl Said {
    fn tell(&self, control: &Control) {
        if self.stop {
            control.stop();
        }
        if self.drain {
            control.drain();
        }
        if self.error.is_some() {
            control.fail(Control::cancelled());
        }
    }
}

impl Controls {
    pub fn new(n_regions: usize) -> Controls {
        Controls(Mutex::new(Said { regions: (0..n_regions).map(|_| Arc::default()).collect(), ..Said::default() }))
    }

    fn lock(&self) -> MutexGuard<'_, Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, what: impl FnOnce(&mut Said)) {
        let mut said = self.lock();
        what(&mut said);
        said.regions.iter().for_each(|control| said.tell(control));
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
        let control = Arc::new(Control::default());
        said.tell(&control);
        said.restarts += 1;
        said.regions[number] = control.clone();
        control
    }

    /// As [`Control::stop`].
    pub fn stop(&self) {
        self.say(|said| said.stop = true);
    }

    /// As [`Control::drain`].
    pub fn drain(&self) {
        self.say(|said| said.drain = true);
    }

    /// Ends all regions at once. The first error that is no consequence of another one is kept.
    pub fn fail(&self, error: Error) {
        self.say(|said| {
            if said.error.as_ref().is_none_or(|known| known.code() == code::CANCELLED) {
                said.error = Some(error);
            }
        });
    }

    pub fn is_failed(&self) -> bool {
        self.lock().error.is_some()
    }

    pub fn take_error(&self) -> Option<Error> {
        self.lock().error.take()
    }
}
