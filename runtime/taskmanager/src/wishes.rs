//! What users wait for, by the number under which the coordinator knows it: savepoints, and upgrades in place.

use crate::durable::Version;
use crate::replaceable::UserCode;
use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use streamrt_checkpoint::{Purpose, Store};
use streamrt_types::{Error, Result, code};

/// The stores of savepoints that are being made, by the number of the snapshot: coordinator and uploader share it.
pub(crate) type SavepointStores = Arc<Mutex<BTreeMap<u64, Store>>>;

/// A running job got new code behind the barrier of a checkpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Swapped {
    pub checkpoint: u64,
    /// The longest that a task stood still.
    pub pause: Duration,
}

/// Something that somebody waits for.
pub(crate) enum Wish {
    Savepoint { store: Store, reply: Sender<Result<u64>> },
    Upgrade(Swap),
}

/// An upgrade in place.
pub(crate) struct Swap {
    pub version: Version,
    /// For each task, until they have it.
    pub code: Vec<UserCode>,
    pub reply: Sender<Result<Swapped>>,
}

/// All wishes that are not answered.
#[derive(Default)]
pub(crate) struct Wishes {
    by_number: HashMap<u64, Wish>,
    n_asked: u64,
    pub stores: SavepointStores,
}

impl Wishes {
    /// Returns the number of the wish.
    pub fn add(&mut self, wish: Wish) -> u64 {
        self.n_asked += 1;
        self.by_number.insert(self.n_asked, wish);
        self.n_asked
    }

    /// The store of the savepoint that a snapshot is made for.
    pub fn store(&self, purpose: Purpose) -> Option<&Store> {
        match self.by_number.get(&purpose.request()?)? {
            Wish::Savepoint { store, .. } => Some(store),
            Wish::Upgrade(_) => None,
        }
    }

    /// The upgrade that a checkpoint is made for.
    pub fn swap(&mut self, purpose: Purpose) -> Option<&mut Swap> {
        match self.by_number.get_mut(&purpose.request()?)? {
            Wish::Savepoint { .. } => None,
            Wish::Upgrade(swap) => Some(swap),
        }
    }

    /// A snapshot begins: the uploader has to know where it goes.
    pub fn begin(&mut self, checkpoint: u64, purpose: Purpose) {
        if let Some(store) = self.store(purpose).cloned() {
            self.stores.lock().unwrap_or_else(PoisonError::into_inner).insert(checkpoint, store);
        }
    }

    /// The snapshot that a wish was for counts.
    pub fn fulfil(&mut self, checkpoint: u64, purpose: Purpose, pause: Duration) {
        match self.end(checkpoint, purpose) {
            Some(Wish::Savepoint { reply, .. }) => answer(&reply, Ok(checkpoint)),
            Some(Wish::Upgrade(swap)) => answer(&swap.reply, Ok(Swapped { checkpoint, pause })),
            None => {}
        }
    }

    /// The snapshot that a wish was for never will. Whoever waits for an upgrade hears of it when the job runs again: see
    /// [`Wishes::take_begun_upgrade`].
    pub fn abort(&mut self, checkpoint: u64, purpose: Purpose, reason: &str) {
        if let Purpose::Savepoint { .. } = purpose
            && let Some(Wish::Savepoint { reply, .. }) = self.end(checkpoint, purpose)
        {
            answer(&reply, Err(Error::new(code::CHECKPOINT_FAILED, reason)));
        }
    }

    /// A wish will not be granted.
    pub fn refuse(&mut self, request: u64, error: Error) {
        match self.by_number.remove(&request) {
            Some(Wish::Savepoint { reply, .. }) => answer(&reply, Err(error)),
            Some(Wish::Upgrade(swap)) => answer(&swap.reply, Err(error)),
            None => {}
        }
    }

    /// Who waits for an upgrade whose code tasks may run already, although its checkpoint never counted. Such code has left the swap.
    pub fn take_begun_upgrade(&mut self) -> Option<Sender<Result<Swapped>>> {
        let begun = |wish: &Wish| matches!(wish, Wish::Upgrade(swap) if swap.code.is_empty());
        let number = self.by_number.iter().find(|(_, wish)| begun(wish)).map(|(number, _)| *number)?;
        match self.by_number.remove(&number)? {
            Wish::Upgrade(swap) => Some(swap.reply),
            Wish::Savepoint { .. } => None,
        }
    }

    fn end(&mut self, checkpoint: u64, purpose: Purpose) -> Option<Wish> {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner).remove(&checkpoint);
        self.by_number.remove(&purpose.request()?)
    }
}

/// Whoever asked may have gone.
pub(crate) fn answer<T>(reply: &Sender<Result<T>>, answer: Result<T>) {
    let _ = reply.send(answer);
}
