//! The contract of an operator: it gets batches, watermarks and status in order, and puts its
//! results into an [`Output`].

use crate::isolate::Suspect;
use crate::record_text::RecordEncoding;
use crate::source::{SplitEvent, SplitTime};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use streamrt_state::{Namespaces, OperatorSnapshot, OperatorState, StateDisk, Tier};
use streamrt_types::{
    Batch, Clock, Configuration, Error, KeyGroupRange, ProcessMemory, Result, Status,
    WATERMARK_MIN, Watermark, code,
};

/// Where an operator's results go: the next operator of the chain, or the exchange.
///
/// Calls keep their order. `port` 0 is the main output; watermarks and status go to all ports.
pub trait Output {
    /// Sends rows. The marks of the batch are watermarks: an operator that puts marks into its
    /// batches does not send the same watermarks by [`Output::watermark`] again.
    fn batch(&mut self, port: u16, batch: Batch) -> Result<()>;
    /// Sends a watermark that no batch carries.
    fn watermark(&mut self, watermark: Watermark) -> Result<()>;
    fn status(&mut self, status: Status) -> Result<()>;
    /// Tells the operators of the same chain about a split. Beyond the end of the chain only the
    /// end of the split is passed on.
    fn split(&mut self, event: SplitEvent) -> Result<()>;
}

/// An operator instance of one subtask.
///
/// # Emitting in pieces
/// An operator that makes more than it gets sends it as it arises, in batches of at most
/// `batch.bytes` ([`Batch::each_piece`] cuts one): [`Output::batch`] waits while the receiver's
/// channel is full, so what one call makes is never held whole. A mark comes in or after the last
/// piece of what it has caused. Between two pieces the operator checks whether the job was
/// cancelled ([`OperatorContext::check_cancel`]; [`crate::Isolation`] does it before each call into
/// user code).
///
/// # Sweeps
/// A watermark that makes much due starts a sweep. `watermark` carries out a piece of it, some 100
/// ms, and holds the watermark back; then `is_sweeping` is true, and the chain calls `resume` until
/// it is not. The operator sends the watermark on with the last piece. Between two pieces the task
/// may be cancelled, or take a checkpoint if no row stands before its barrier: a snapshot then
/// holds what has not fired, as if the watermark had not come, and after a restore it comes again.
/// Nothing but `resume`, `snapshot`, `checkpoint_complete` and `close` is called in between, so an
/// operator needs no queue. `batch` finishes what its marks begin, except for the last one if it
/// comes after all rows: that one may begin a sweep as well. `processing_time` does a piece and
/// returns; the task calls again as long as `next_processing_time` has passed.
///
/// An operator that fires in the order of time may send watermarks of its own on the way, each once
/// all that it makes due has been sent: receivers then fire as well, and their state stays small.
/// Where such watermarks lie must depend only on times, not on pieces.
///
/// The order of calls is `open`, `restore` if there is a snapshot, then any of the others, then
/// `end_of_input` if the input ended by itself or was stopped, then `close`. Between `end_of_input`
/// and `close` only `snapshot` and `checkpoint_complete` are called. The caller has already
/// combined the watermarks of all channels: they only rise.
pub trait Operator: Send {
    fn open(&mut self, _context: &OperatorContext) -> Result<()> {
        Ok(())
    }

    /// Processes the rows of `batch`, each under the marks before it. A job without event time has
    /// no marks.
    fn batch(&mut self, batch: Batch, output: &mut dyn Output) -> Result<()>;

    /// Like [`Operator::batch`], for rows of the second input of an operator that has two.
    /// Watermarks are those of both inputs together.
    fn second_input(&mut self, _batch: Batch, _output: &mut dyn Output) -> Result<()> {
        Err(Error::internal(
            "rows of a second input came to an operator that has one",
        ))
    }

    /// A watermark outside a batch. It is sent on after everything that it has caused; see "Sweeps"
    /// above if that is much.
    fn watermark(&mut self, watermark: Watermark, output: &mut dyn Output) -> Result<()> {
        output.watermark(watermark)
    }

    /// Whether the last watermark is not yet carried out completely.
    fn is_sweeping(&self) -> bool {
        false
    }

    /// Carries out the next piece of the sweep. Does nothing if there is none.
    fn resume(&mut self, _output: &mut dyn Output) -> Result<()> {
        Ok(())
    }

    fn status(&mut self, status: Status, output: &mut dyn Output) -> Result<()> {
        output.status(status)
    }

    fn split(&mut self, event: SplitEvent, output: &mut dyn Output) -> Result<()> {
        output.split(event)
    }

    /// How far a split has come here; `None` if this operator makes no watermarks. The reader of
    /// the same chain asks after each batch.
    fn split_time(&self, _number: u64) -> Option<SplitTime> {
        None
    }

    /// The time, in the clock's ms, at which [`Operator::processing_time`] wants to be called;
    /// `None` for never.
    fn next_processing_time(&self) -> Option<i64> {
        None
    }

    fn processing_time(&mut self, _now_ms: i64, _output: &mut dyn Output) -> Result<()> {
        Ok(())
    }

    /// No row will come any more: all inputs are at their end or drained, and the final watermark
    /// has passed. With `fires`, what waits for the clock fires, whatever its time is; what is left
    /// then is dropped, and counted in `TaskMetrics::dropped_at_end`. Called before `end_of_input`,
    /// but not if the job was stopped: then nothing fires early.
    fn end_of_time(&mut self, _fires: bool, _output: &mut dyn Output) -> Result<()> {
        Ok(())
    }

    /// Nothing more comes, because all inputs are at their end or the job was stopped. This is the
    /// last chance to emit.
    fn end_of_input(&mut self, _output: &mut dyn Output) -> Result<()> {
        Ok(())
    }

    /// The approximate number of bytes of memory that its state takes, to say who holds them when
    /// memory is short. May look at all of it.
    fn state_bytes(&mut self) -> usize {
        0
    }

    /// Freezes the state as it is now, for a checkpoint. What this thread does is short: nothing
    /// large is copied or written here.
    fn snapshot(&mut self, _checkpoint: u64) -> Result<OperatorSnapshot> {
        Ok(OperatorSnapshot::default())
    }

    /// Takes back what `snapshot` returned. It is the caller's error if a state is not taken.
    ///
    /// # Errors
    /// `Invalid` if types have changed, `Data` if the bytes are damaged.
    fn restore(&mut self, _state: &mut OperatorState) -> Result<()> {
        Ok(())
    }

    /// A checkpoint is published: it will never be revoked.
    fn checkpoint_complete(&mut self, _checkpoint: u64) -> Result<()> {
        Ok(())
    }

    /// Whether results wait for a checkpoint, so that the task must not end before it.
    fn awaits_checkpoint(&self) -> bool {
        false
    }

    /// Releases what `open` acquired. Called on every way out.
    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

/// What an operator instance knows about its place.
#[derive(Clone)]
pub struct OperatorContext {
    /// The job's id, which distinguishes its transactions from those of others.
    pub job: Arc<str>,
    /// The number of the takeover of the job: every start has a higher one.
    pub generation: u64,
    /// Set when the attempt is to end at once: whoever waits for something outside gives up.
    pub cancel: Arc<AtomicBool>,
    /// The memory of the process, which has a limit.
    pub memory: Arc<ProcessMemory>,
    pub uid: Arc<str>,
    pub subtask: u32,
    pub parallelism: u32,
    pub max_parallelism: u32,
    /// The key groups of this subtask.
    pub key_groups: KeyGroupRange,
    pub clock: Arc<dyn Clock>,
    pub configuration: Arc<Configuration>,
    pub metrics: Arc<TaskMetrics>,
    /// Where keyed state goes that memory does not hold. If `None`, all of it is in memory.
    pub disk: Option<Arc<LazyDisk>>,
    /// Where the poison policy `skip` puts what failed.
    pub dead_letters: Arc<dyn Fn(DeadLetter) -> Result<()> + Send + Sync>,
}

impl OperatorContext {
    /// A check for those who do much in one go.
    ///
    /// # Errors
    /// `CANCELLED` (S8001) if the attempt is to end at once, `PROCESS_MEMORY` (S5012) because the
    /// process holds too much.
    #[inline]
    pub fn check_cancel(&self) -> Result<()> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(Error::new(code::CANCELLED, "the job was cancelled"));
        }
        self.memory.check()
    }

    /// The disk tier of the keyed state `name`; `None` if the job keeps its state in memory.
    ///
    /// # Errors
    /// The same as for [`StateDisk::tier`].
    pub fn tier(&self, name: &str, types: &serde_json::Value) -> Result<Option<Box<Tier>>> {
        self.disk
            .as_ref()
            .map(|disk| {
                disk.get()?
                    .tier(name, types, self.clock.now_ms())
                    .map(Box::new)
            })
            .transpose()
    }

    /// Like [`OperatorContext::tier`], for a state that has one table per namespace.
    ///
    /// # Errors
    /// The same as for [`StateDisk::namespaces`].
    pub fn namespaces(&self, name: &str, types: &serde_json::Value) -> Result<Option<Namespaces>> {
        self.disk
            .as_ref()
            .map(|disk| disk.get()?.namespaces(name, types, self.key_groups))
            .transpose()
    }

    /// Deletes what the disk holds of a state that the operator no longer has.
    ///
    /// # Errors
    /// The same as for [`StateDisk::forget`].
    pub(crate) fn forget(&self, name: &str) -> Result<()> {
        self.disk
            .as_ref()
            .map_or(Ok(()), |disk| disk.forget(name, self.key_groups))
    }
}

/// A disk that is opened when the first state asks for it: most operators have none.
pub struct LazyDisk {
    open: Box<dyn Fn() -> Result<StateDisk> + Send + Sync>,
    disk: Mutex<Option<Arc<StateDisk>>>,
}

impl LazyDisk {
    pub fn new(open: impl Fn() -> Result<StateDisk> + Send + Sync + 'static) -> LazyDisk {
        LazyDisk {
            open: Box::new(open),
            disk: Mutex::new(None),
        }
    }

    /// A disk that was never opened is deleted as a whole.
    fn forget(&self, name: &str, key_groups: KeyGroupRange) -> Result<()> {
        let disk = self
            .disk
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
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

/// A record, timer or window on which user code failed, or a line that a format refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadLetter {
    pub uid: String,
    /// Stable code of the error.
    pub code: &'static str,
    pub message: String,
    /// The guest's backtrace by function name, one line per frame; empty if there is none.
    pub backtrace: String,
    /// For example `data/clicks.csv line 17`; empty if the source gives none.
    pub position: String,
    /// The key as JSON, if the operator is keyed.
    pub key: String,
    /// The record as JSON; one that a format refused, as it was in the input; for a timer or
    /// window, what it is.
    pub record: String,
    /// What `record` is if the bytes are not text.
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
    /// Timers that a firing at the end of the input registered, and that will never fire.
    pub dropped_timers: AtomicU64,
    /// The first of them, in words.
    pub first_dropped_timer: OnceLock<String>,
    /// Processing-time windows and timers that were not due at the end.
    pub dropped_at_end: AtomicU64,
    pub watermark: AtomicI64,
    pub busy_ns: AtomicU64,
    pub idle_ns: AtomicU64,
    pub back_pressured_ns: AtomicU64,
    /// Snapshots taken.
    pub checkpoints: AtomicU64,
    /// For the last snapshot: the time from the first barrier to the last, and the time on the
    /// task's thread.
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
            dropped_timers: AtomicU64::new(0),
            first_dropped_timer: OnceLock::new(),
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
    /// Adds to a counter; counters are statistics and impose no memory order.
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    /// Counts timers of operator `uid` that will never fire, and keeps the first of all for the
    /// report at the end.
    pub(crate) fn drop_timers(&self, uid: &str, n: u64, first: &Suspect) {
        TaskMetrics::add(&self.dropped_timers, n);
        self.first_dropped_timer
            .get_or_init(|| format!("operator `{uid}`: {}, key {}", first.what, first.key));
    }
}
