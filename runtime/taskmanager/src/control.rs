//! What all tasks of a job share: whether to stop, whether to give up, and the first error.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use streamrt_exchange::GateWaker;
use streamrt_types::{Error, code};

/// Commands to the tasks of one job. A command is set once and never taken back.
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
