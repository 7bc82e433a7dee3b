//! What the windows of the keys hold: built-in accumulators, accumulators of a plugin, or rows.
//!
//! Invariant: a cell is the contents of one window of one key; it exists from `create` until
//! `remove`, or until it is merged into another. All requests are for a whole batch. The windows
//! themselves, and when they fire, are in [`crate::keyed_windows`].

use crate::assigner::TimeWindow;
use crate::builtin_contents::BuiltinContents;
use crate::operator::WindowFunctions;
use crate::row_contents::RowContents;
use crate::user_contents::{self, UserContents};
use crate::window_call::WindowCall;
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use std::sync::Arc;
use streamrt_operator::{BatchKeys, Isolation, OperatorContext, Projection, Suspect};
use streamrt_types::{Batch, Clock, Error, Result, Watermark, code};
use streamrt_wit::{FunctionKind, WindowContents};

/// The number of a cell.
pub(crate) type Cell = u32;

/// Rows waiting to be added: row `rows[i]` of the batch goes to the cells
/// `cells[offsets[i]..offsets[i + 1]]`.
#[derive(Debug)]
pub(crate) struct Additions {
    pub rows: Vec<u32>,
    pub offsets: Vec<u32>,
    pub cells: Vec<Cell>,
}

impl Default for Additions {
    fn default() -> Self {
        Additions {
            rows: Vec::new(),
            offsets: vec![0],
            cells: Vec::new(),
        }
    }
}

impl Additions {
    /// Ends a row whose cells have been pushed.
    pub(crate) fn end_row(&mut self, row: usize) {
        self.rows.push(row as u32);
        self.offsets.push(self.cells.len() as u32);
    }

    pub(crate) fn clear(&mut self) {
        self.rows.clear();
        self.offsets.truncate(1);
        self.cells.clear();
    }

    /// The row of every pair of rows `range`, and the range of their cells.
    pub(crate) fn pairs(
        &self,
        range: std::ops::Range<usize>,
    ) -> (Vec<u32>, std::ops::Range<usize>) {
        let cells = self.offsets[range.start] as usize..self.offsets[range.end] as usize;
        let mut rows = Vec::with_capacity(cells.len());
        for i in range {
            let n = self.offsets[i + 1] - self.offsets[i];
            rows.extend(std::iter::repeat_n(self.rows[i], n as usize));
        }
        (rows, cells)
    }
}

/// A window of a key that fires.
#[derive(Debug, Clone)]
pub(crate) struct Firing {
    pub cell: Cell,
    /// Canonical bytes.
    pub key: Vec<u8>,
    pub window: TimeWindow,
}

/// Results of firings: `counts[i]` rows for the i-th.
#[derive(Default)]
pub(crate) struct Fired {
    pub columns: Vec<RecordBatch>,
    pub counts: Vec<u32>,
}

/// The context in which contents run.
pub(crate) struct Place {
    pub uid: Arc<str>,
    pub isolation: Isolation,
    pub clock: Arc<dyn Clock>,
    /// Turns key bytes into columns and text.
    pub decoder: BatchKeys,
    pub watermark: Watermark,
}

impl Place {
    pub(crate) fn new(
        context: &OperatorContext,
        decoder: BatchKeys,
        watermark: Watermark,
    ) -> Place {
        Place {
            uid: context.uid.clone(),
            isolation: Isolation::new(context),
            clock: context.clock.clone(),
            decoder,
            watermark,
        }
    }

    /// A window has no record: it is reported by key, bounds and time.
    pub(crate) fn suspect(&self, firing: &Firing) -> Suspect {
        let TimeWindow { start, end } = firing.window;
        let what = if firing.window == TimeWindow::GLOBAL {
            "the global window".into()
        } else {
            format!("window [{start}, {end})")
        };
        let time_ms = Some(firing.window.max_timestamp());
        Suspect {
            record: what.clone(),
            what,
            key: self.decoder.describe_bytes(&firing.key),
            time_ms,
            ..Suspect::default()
        }
    }
}

/// The contents of all windows of a subtask.
pub(crate) trait WindowState: Send {
    /// A new, empty cell.
    fn create(&mut self) -> Cell;
    fn add(&mut self, place: &Place, batch: &Batch, additions: &Additions) -> Result<()>;
    /// Merges the cells `from`, which are then gone, into the cell of `into`.
    fn merge(&mut self, place: &Place, into: &Firing, from: &[Cell]) -> Result<()>;
    /// The results of windows, in order. Contents are kept. A window with empty contents gives
    /// nothing.
    fn fire(&mut self, place: &Place, firings: &[Firing]) -> Result<Fired>;
    fn remove(&mut self, cell: Cell);
    /// The approximate number of bytes that a cell takes when it fires.
    fn bytes(&self, cell: Cell) -> usize;
    /// Appends what a cell holds to `out`, in bytes that depend only on that.
    fn export(&self, cell: Cell, out: &mut Vec<u8>);
    /// A new cell, with what was exported.
    ///
    /// # Errors
    /// `Data` if `bytes` are not that.
    fn import(&mut self, bytes: &[u8]) -> Result<Cell>;
    /// Whether firings see the watermark, so that none may wait while it rises.
    fn sees_watermark(&self) -> bool {
        false
    }
    /// The most windows that should fire together: what one call takes.
    fn piece(&self, _place: &Place) -> usize {
        usize::MAX
    }
}

/// The most windows over one time whose contents are user code's. Each of them takes the row by
/// itself: a day that slides by a minute is 1,440. Built-in aggregates take a row once, whatever
/// the number of its windows.
pub(crate) const OVERLAP_MAX: i64 = 2_000;

/// Contents as they were built; opened with the windows.
pub(crate) type Contents = Box<dyn WindowState>;

fn missing(what: &str) -> Error {
    Error::internal(format!(
        "the {what} function of a window comes with its chain"
    ))
}

/// Builds what `contents` says.
///
/// # Errors
/// `Invalid` if a column is not there, or a function is of the wrong kind: one that cannot merge
/// never gets to a session window.
pub(crate) fn build(
    contents: &WindowContents,
    functions: WindowFunctions,
    input: &SchemaRef,
    key: &SchemaRef,
    output: &SchemaRef,
) -> Result<Contents> {
    match contents {
        WindowContents::Builtin {
            aggregates,
            columns,
        } => Ok(Box::new(BuiltinContents::new(
            aggregates, columns, input, key, output,
        )?)),
        WindowContents::Process { .. } => {
            let (chain, function) = functions.process.ok_or_else(|| missing("process"))?;
            demand(function.kind, &[FunctionKind::WindowProcess])?;
            Ok(Box::new(RowContents::new(
                WindowCall::new(chain, function, key, output)?,
                input,
            )?))
        }
        WindowContents::Aggregate { then, .. } => {
            let (chain, function) = functions.aggregate.ok_or_else(|| missing("aggregate"))?;
            demand(
                function.kind,
                &[FunctionKind::Aggregate, FunctionKind::Reduce],
            )?;
            if then.is_none() {
                return Ok(Box::new(UserContents::new(chain, function, input, output)?));
            }
            let (next_chain, next) = functions.process.ok_or_else(|| missing("process"))?;
            demand(next.kind, &[FunctionKind::WindowProcess])?;
            let between = user_contents::result_schema(&function, input)?;
            let projection = Projection::new(&next, &between)?;
            let then = WindowCall::new(next_chain, next, key, output)?;
            Ok(Box::new(
                UserContents::new(chain, function, input, &between)?.then(then, projection),
            ))
        }
    }
}

fn demand(kind: FunctionKind, kinds: &[FunctionKind]) -> Result<()> {
    if kinds.contains(&kind) {
        return Ok(());
    }
    Err(Error::new(
        code::INVALID_JOB,
        format!(
            "a {kind:?} function cannot be what a window computes: it can neither hold nor merge its contents"
        ),
    ))
}

/// Numbered cells, which are reused.
pub(crate) struct Cells<T> {
    cells: Vec<T>,
    free: Vec<Cell>,
}

impl<T: Default> Cells<T> {
    pub(crate) fn new() -> Cells<T> {
        Cells {
            cells: Vec::new(),
            free: Vec::new(),
        }
    }

    pub(crate) fn create(&mut self) -> Cell {
        self.free.pop().unwrap_or_else(|| {
            self.cells.push(T::default());
            self.cells.len() as Cell - 1
        })
    }

    pub(crate) fn get(&self, cell: Cell) -> &T {
        &self.cells[cell as usize]
    }

    pub(crate) fn get_mut(&mut self, cell: Cell) -> &mut T {
        &mut self.cells[cell as usize]
    }

    /// Takes the contents of a cell, whose number may be reused.
    pub(crate) fn remove(&mut self, cell: Cell) -> T {
        self.free.push(cell);
        std::mem::take(self.get_mut(cell))
    }
}
