//! The contract of an operator: it gets batches, watermarks and status in order, and puts its results into an [`Output`].

use crate::record_text::RecordEncoding;
use crate::source::{SplitEvent, SplitTime};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use streamrt_state::{Namespaces, OperatorSnapshot, OperatorState, StateDisk, Tier};
use streamrt_types::{Batch, Clock, Configuration, Error, KeyGroupRange, Result, Status, WATERMARK_MIN, Watermark};

/// Where an operator's results go: the next operator of the chain, or the exchange.
///
/// Calls keep their order. `port` 0 is the main output; watermarks and status go to all ports.
pub trait Output {
    /// Sends rows. The marks of the batch are watermarks: an operator that puts marks into its batches does not send the same
    /// watermarks by [`Output::watermark`] again.
    fn batch(&mut self, port: u16, batch: Batch) -> Result<()>;
    /// Sends a watermark that no batch carries.
    fn watermark(&mut self, watermark: Watermark) -> Result<()>;
    fn status(&mut self, status: Status) -> Result<()>;
    /// Tells the operators of the same chain about a split. Beyond the end of the chain only its end is told.
    fn split(&mut self, event: SplitEvent) -> Result<()>;
}

/// An operator instance of one subtask.
///
/// The order of calls is `open`, `restore` if there is a snapshot, then any of the others, then `end_of_input` if the input ended by
/// itself or was stopped, then `close`. Between `end_of_input` and `close` only `snapshot` and `checkpoint_complete` are called.
/// The caller has already combined the watermarks of all channels: they only rise.
pub trait Operator: Send {
    fn open(&mut self, _context: &OperatorContext) -> Result<()> {
        Ok(())
    }

    /// Treats the rows of `batch`, each under the marks before it. A job without event time has no marks.
    fn batch(&mut self, batch: Batch, output: &mut dyn Output) -> Result<()>;

    /// As [`Operator::batch`], for rows of the second input of an operator that has two. Watermarks are those of both inputs together.
    fn second_input(&mut self, _batch: Batch, _output: &mut dyn Output) -> Result<()> {
        Err(Error::internal("rows of a second input came to an operator that has one"))
    }

    /// A watermark outside of a batch. It is sent on after everything it has caused.
    fn watermark(&mut self, watermark: Watermark, output: &mut dyn Output) -> Result<()> {
        output.watermark(watermark)
    }

    fn status(&mut self, status: Status, output: &mut dyn Output) -> Result<()> {
        output.status(status)
    }

    fn split(&mut self, event: SplitEvent, output: &mut dyn Output) -> Result<()> {
        output.split(event)
    }

    /// How far a split has come here; `None` if this operator makes no watermarks. The reader of the same chain asks after each batch.
    fn split_time(&self, _number: u32) -> Option<SplitTime> {
        None
    }

    /// The time, in the clock's ms, at which [`Operator::processing_time`] wants to be called; `None` for never.
    fn next_processing_time(&self) -> Option<i64> {
        None
    }

    fn processing_time(&mut self, _now_ms: i64, _output: &mut dyn Output) -> Result<()> {
        Ok(())
    }

    /// No row will come any more: all inputs are at their end or drained, and the final watermark has passed. With `fires`, what waits for the
    /// clock fires, whatever its time is; what is left then is dropped, and counted in `TaskMetrics::dropped_at_end`. Called in front of
    /// `end_of_input`, but not where the job was stopped: then nothing fires early.
    fn end_of_time(&mut self, _fires: bool, _output: &mut dyn Output) -> Result<()> {
        Ok(())
    }

    /// Nothing more comes, because all inputs are at their end or the job was stopped. Last chance to emit.
    fn end_of_input(&mut self, _output: &mut dyn Output) -> Result<()> {
        Ok(())
    }

    /// Freezes the state as it is now, for a checkpoint. What this thread does is short: nothing large is copied or written here.
    fn snapshot(&mut self, _checkpoint: u64) -> Result<OperatorSnapshot> {
        Ok(OperatorSnapshot::default())
    }

    /// Takes back what `snapshot` gave. A state that is not taken is an error of the caller.
    ///
    /// # Errors
    /// `Invalid` if types have changed, `Data` if the bytes are damaged.
    fn restore(&mut self, _state: &mut OperatorState) -> Result<()> {
        Ok(())
    }

    /// A checkpoint is published: it will never be taken back.
    fn checkpoint_complete(&mut self, _checkpoint: u64) -> Result<()> {
        Ok(())
    }

    /// Whether results wait for a checkpoint, so that the task must not end before it.
    fn awaits_checkpoint(&self) -> bool {
        false
    }

    /// Releases what `open` took. Called on every way out.
    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

/// What an operator instance knows about its place.
#[derive(Clone)]
pub struct OperatorContext {
    /// The job's id, by which its transactions are told from those of others.
    pub job: Arc<str>,
    /// The number of the take-over of the job: every start has a higher one.
    pub generation: u64,
    /// Set when the attempt is to end at once: who waits for something outside gives up.
    pub cancel: Arc<AtomicBool>,
    pub uid: Arc<str>,
    pub subtask: u32,
    pub parallelism: u32,
    pub max_parallelism: u32,
    /// The key groups of this subtask.
    pub key_groups: KeyGroupRange,
    pub clock: Arc<dyn Clock>,
    pub configuration: Arc<Configuration>,
    pub metrics: Arc<TaskMetrics>,
    /// Where its keyed state goes that memory does not hold. None: all of it is in memory.
    pub disk: Option<Arc<LazyDisk>>,
    /// Where the poison policy `skip` puts what failed.
    pub dead_letters: Arc<dyn Fn(DeadLetter) -> Result<()> + Send + Sync>,
}

impl OperatorContext {
    /// For those who do much in one go.
    ///
    /// # Errors
    /// `Unavailable` (S8001) if the attempt is to end at once.
    pub fn check_cancel(&self) -> Result<()> {
        match self.cancel.load(Ordering::Relaxed) {
            true => Err(Error::new(streamrt_types::code::CANCELLED, "the job was cancelled")),
            false => Ok(()),
        }
    }

    /// What stands behind the keyed state `name` on disk; `None` if the job keeps its state in memory.
    ///
    /// # Errors
    /// As [`StateDisk::tier`].
    pub fn tier(&self, name: &str, types: &serde_json::Value) -> Result<Option<Box<Tier>>> {
        self.disk.as_ref().map(|disk| disk.get()?.tier(name, types, self.clock.now_ms()).map(Box::new)).transpose()
    }

    /// As [`OperatorContext::tier`], for a state that has a table for each namespace.
    ///
    /// # Errors
    /// As [`StateDisk::namespaces`].
    pub fn namespaces(&self, name: &str, types: &serde_json::Value) -> Result<Option<Namespaces>> {
        self.disk.as_ref().map(|disk| disk.get()?.namespaces(name, types, self.key_groups)).transpose()
    }

    /// Deletes what the disk holds of a state that the operator does not have any more.
    ///
    /// # Errors
    /// As [`StateDisk::forget`].
    pub(crate) fn forget(&self, name: &str) -> Result<()> {
        self.disk.as_ref().map_or(Ok(()), |disk| disk.forget(name, self.key_groups))
    }
}

/// A disk that is opened when the first state asks for it: most operators have none.
pub struct LazyDisk {
    open: Box<dyn Fn() -> Result<StateDisk> + Send + Sync>,
    disk: Mutex<Option<Arc<StateDisk>>>,
}

impl LazyDisk {
    pub fn new(open: impl Fn() -> Result<StateDisk> + Send + Sync + 'static) -> LazyDisk {
        LazyDisk { open: Box::new(open), disk: Mutex::new(None) }
    }

    /// A disk that was never opened goes as a whole.
    fn forget(&self, name: &str, key_groups: KeyGroupRange) -> Result<()> {
        let disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner).clone();
        disk.map_or(Ok(()), |disk| disk.forget(name, key_groups))
    }

    fn get(&self) -> Result<Arc<StateDisk>> {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        match &*disk {
            Some(disk) => Ok(disk.clone()),
            None => Ok(disk.insert(Arc::new((self.open)()?)).clone()),
        }
    }
}

/// A record, timer or window that user code failed on, or a line that a format refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadLetter {
    pub uid: String,
    /// Stable code of the error.
    pub code: &'static str,
    pub message: String,
    /// The guest's backtrace by function name, a line a frame; empty if there is none.
    pub backtrace: String,
    /// For example `data/clicks.csv line 17`; empty where the source gives none.
    pub position: String,
    /// The key as JSON, if the operator is keyed.
    pub key: String,
    /// The record as JSON; one that a format refused as it stood in the input; for a timer or window, what it is.
    pub record: String,
    /// What `record` is where that is no text.
    pub record_encoding: RecordEncoding,
    /// Event time in ms, if there is one.
    pub time_ms: Option<i64>,
}

/// Counters of one task; written by its thread, read by anybody.
pub struct TaskMetrics {
    pub records_in: AtomicU64,
    pub records_out: AtomicU64,
    pub late_records: AtomicU64,
    pub dead_letters: AtomicU64,
    /// Windows and timers of processing time that were not due at the end.
    pub dropped_at_end: AtomicU64,
    pub watermark: AtomicI64,
    pub busy_ns: AtomicU64,
    pub idle_ns: AtomicU64,
    pub back_pressured_ns: AtomicU64,
    /// Snapshots taken.
    pub checkpoints: AtomicU64,
    /// Of the last snapshot: from the first barrier to the last, and the time on the task's thread.
    pub alignment_ns: AtomicU64,
    pub sync_ns: AtomicU64,
}

impl Default for TaskMetrics {
    fn default() -> Self {
        TaskMetrics {
            records_in: AtomicU64::new(0),
            records_out: AtomicU64::new(0),
            late_records: AtomicU64::new(0),
            dead_letters: AtomicU64::new(0),
            dropped_at_end: AtomicU64::new(0),
            watermark: AtomicI64::new(WATERMARK_MIN),
            busy_ns: AtomicU64::new(0),
            idle_ns: AtomicU64::new(0),
            back_pressured_ns: AtomicU64::new(0),
            checkpoints: AtomicU64::new(0),
            alignment_ns: AtomicU64::new(0),
            sync_ns: AtomicU64::new(0),
        }
    }
}

impl TaskMetrics {
    /// Adds to a counter; counters are statistics and order nothing.
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}
