//! The contract of user code, in columns: one [`Invocation`] in, one [`Outcome`] out, all or
//! nothing.
//!
//! It is the host's side of `invoke` in the WIT, with Arrow arrays instead of bytes; `plugin`
//! implements it with a component, tests and benchmarks natively. Codes and orders are those of the
//! WIT. The caller applies the outcome: an implementation changes nothing but through
//! [`StateAccess`], whose writes the caller holds back as well.

use arrow_array::RecordBatch;
use std::any::Any;
use std::time::Duration;
use streamrt_types::{Error, Mark, Result, columns_bytes};

/// One or more user functions that run one after the other in one call.
pub trait FunctionChain: Send {
    /// Does one piece of work within `deadline`.
    ///
    /// # Errors
    /// A [`Failure`]. Its effects are gone, and the chain is ready for the next call (a plugin has
    /// a new instance by then).
    fn invoke(
        &mut self,
        invocation: Invocation<'_>,
        deadline: Duration,
    ) -> std::result::Result<Outcome, Failure>;
}

/// User code failed, or something broke that would break for any record.
#[derive(Debug)]
pub struct Failure {
    /// `UserCode` kinds are subject to the poison policy; any other kind ends the task.
    pub error: Error,
    /// The guest's backtrace by function name, innermost first, one line per frame; or empty.
    pub backtrace: String,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure {
            error,
            backtrace: String::new(),
        }
    }
}

/// Work that a function can be asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Process,
    /// Like `Process`, with rows of the second input of a broadcast-process function.
    SecondInput,
    Accumulate,
    Merge,
    Result,
    Window,
}

impl Call {
    /// The number of kinds of call.
    pub(crate) const N: usize = Call::Window as usize + 1;
}

/// Everything that one call gets. Fields that the function does not declare are `None` or empty.
pub struct Invocation<'a> {
    pub call: Call,
    pub rows: Option<RowsIn<'a>>,
    pub slots: Option<SlotsIn<'a>>,
    /// Process: one for each value state, in the order of the descriptors (other kinds of state
    /// have no entry here, `number` says which it is). Accumulate, merge and result: the
    /// accumulators.
    pub states: Vec<StateIn>,
    pub timers: &'a [TimerIn],
    pub clock: Option<ClockIn>,
    /// List and map state of the slots. It is a box because a guest's store can only hold what it
    /// owns: an implementation may swap it out during the call, and has always swapped the same box
    /// back when `invoke` returns, even with an error. [`NoState::boxed`] if there is none.
    pub access: &'a mut Box<dyn StateAccess>,
}

/// Input rows.
pub struct RowsIn<'a> {
    /// The columns that the first function reads, in its order.
    pub columns: &'a RecordBatch,
    pub times: Option<&'a [i64]>,
    pub marks: &'a [Mark],
    /// The slot of each row.
    pub slots: Option<&'a [u32]>,
}

/// The distinct (key, namespace) pairs of the call.
pub struct SlotsIn<'a> {
    pub n_slots: usize,
    /// The key columns that the function declares, one row per slot; `None` if it declares none.
    pub keys: Option<RecordBatch>,
    /// Start and end (exclusive) of each slot's window, in In ms.
    pub windows: Option<(&'a [i64], &'a [i64])>,
    /// Rows `offsets[i]..offsets[i + 1]` belong to slot i.
    pub offsets: Option<&'a [u32]>,
}

/// Incoming state: one row per slot.
pub struct StateIn {
    /// Number of the descriptor.
    pub number: u16,
    /// Zero or empty where `present` is 0.
    pub values: RecordBatch,
    /// 1 where there is an entry.
    pub present: Vec<u8>,
    /// Only for the call merge: the accumulator into which each row goes.
    pub slots: Option<Vec<u32>>,
}

/// A timer that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerIn {
    pub slot: u32,
    /// In ms.
    pub time: i64,
    /// A code of `streamrt_wit::codes::domain`.
    pub domain: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockIn {
    /// The watermark on entry.
    pub watermark: i64,
    /// Event-time timers at or before it fire in this call.
    pub bound: i64,
    pub processing_time: i64,
}

/// What a call returns.
#[derive(Debug, Default)]
pub struct Outcome {
    /// At most one for each port of the last function, and for each side output of the others; in
    /// no particular order.
    pub rows: Vec<RowsOut>,
    pub states: Vec<StateOut>,
    /// The fired ones first, in the order of firing.
    pub timers: Vec<TimerOut>,
}

impl Outcome {
    /// Bytes of the rows and the state that were sent.
    pub fn n_bytes(&self) -> usize {
        let rows = self
            .rows
            .iter()
            .flat_map(|out| &out.columns)
            .chain(self.states.iter().map(|out| &out.values));
        rows.map(columns_bytes).sum()
    }
}

/// Output rows of a port, in order.
#[derive(Debug)]
pub struct RowsOut {
    /// Position of the function in the chain whose port it is.
    pub function: usize,
    pub port: u16,
    pub n_rows: usize,
    /// The columns that were sent, typed as the plan says; `None` for a port that forwards.
    pub columns: Option<RecordBatch>,
    /// Checked to be within the input rows and the fired timers, ascending in the order of events.
    /// `None` means that row n is input row n.
    pub origin: Option<Vec<u32>>,
}

/// Outgoing state.
#[derive(Debug)]
pub struct StateOut {
    pub number: u16,
    pub values: RecordBatch,
    /// Codes of `streamrt_wit::codes::action`; `None` means that all are set.
    pub actions: Option<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerOut {
    pub slot: u32,
    pub time: i64,
    pub domain: u8,
    /// A code of `streamrt_wit::codes::action`.
    pub action: u8,
    /// For a fired timer, the mark that made it due.
    pub mark: u32,
}

/// List and map state during one call; the other side of the WIT's interface `state`.
///
/// Columns are those of the descriptor: the map's key first, then the value. `number` is the
/// descriptor's. It is `Any` so that its owner gets the concrete type back: `(access as Box<dyn
/// Any>).downcast()`, or `downcast_mut` on `&mut *access as &mut dyn Any`.
pub trait StateAccess: Any + Send {
    /// Elements of list state: for each of `slots` the rows `offsets[i]..offsets[i + 1]` of the
    /// answer.
    fn list(&mut self, number: u32, slots: &[u32]) -> Result<(RecordBatch, Vec<u32>)>;

    /// Values of map state under `keys`, a row for each; absent ones are zero or empty, with 0 in
    /// the answer's bytes.
    fn map(
        &mut self,
        number: u32,
        slots: &[u32],
        keys: &RecordBatch,
    ) -> Result<(RecordBatch, Vec<u8>)>;

    /// Writes in row order. `columns` holds the map's key columns and the value columns.
    fn put(
        &mut self,
        number: u32,
        slots: &[u32],
        actions: &[u8],
        columns: &RecordBatch,
    ) -> Result<()>;

    /// Up to `limit` entries of map state of one slot, in the order of their encoded keys,
    /// following `after`; and the next cursor, or `None` at the end.
    fn scan(
        &mut self,
        number: u32,
        slot: u32,
        after: &[u8],
        limit: usize,
    ) -> Result<(RecordBatch, Option<Vec<u8>>)>;
}

/// For functions without list and map state.
pub struct NoState;

impl NoState {
    /// Allocates nothing: a box of a type without size.
    pub fn boxed() -> Box<dyn StateAccess> {
        Box::new(NoState)
    }

    fn refuse<T>() -> Result<T> {
        Err(Error::new(
            streamrt_types::code::BAD_OUTPUT,
            "the plugin reaches for state that its function does not declare",
        ))
    }
}

impl StateAccess for NoState {
    fn list(&mut self, _: u32, _: &[u32]) -> Result<(RecordBatch, Vec<u32>)> {
        NoState::refuse()
    }
    fn map(&mut self, _: u32, _: &[u32], _: &RecordBatch) -> Result<(RecordBatch, Vec<u8>)> {
        NoState::refuse()
    }
    fn put(&mut self, _: u32, _: &[u32], _: &[u8], _: &RecordBatch) -> Result<()> {
        NoState::refuse()
    }
    fn scan(
        &mut self,
        _: u32,
        _: u32,
        _: &[u8],
        _: usize,
    ) -> Result<(RecordBatch, Option<Vec<u8>>)> {
        NoState::refuse()
    }
}
