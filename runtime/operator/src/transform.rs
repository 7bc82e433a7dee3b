//! Runs a chain of map, filter, flat-map, key projection and non-keyed process functions over
//! batches, one call for many rows.
//!
//! The first function may have operator state, which a call reaches through [`StateAccess`], and a
//! second input.
//!
//! Only the columns that the first function reads go in, and only what the functions made comes
//! back; the rest is joined from the input by origin. Rows, their times and the marks between them
//! keep their order, so results do not depend on how they are cut into calls.

use crate::function::{
    Call, ClockIn, Failure, FunctionChain, Invocation, NoState, Outcome, RowsIn, StateAccess,
};
use crate::isolate::{Isolation, Suspect, Work};
use crate::json;
use crate::operator::{Operator, OperatorContext, Output};
use crate::ports::{CallLimits, Events, Ports};
use crate::second_input::{Lent, Part, SecondInput, parts};
use crate::states::{CallStates, States};
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use std::ops::Range;
use std::time::Duration;
use streamrt_state::{KeyBuffer, KeyKind, OperatorSnapshot, OperatorState};
use streamrt_types::{
    Batch, Clock, Error, Mark, Result, WATERMARK_MIN, Watermark, arrow_type, code, columns_bytes,
};
use streamrt_wit::{Function, StateDescriptor};

/// The operator of a fused chain of functions without a key.
pub struct TransformOperator {
    chain: Box<dyn FunctionChain>,
    ports: Ports,
    projection: Projection,
    /// Whether some function wants times and marks.
    timed: bool,
    /// Operator state of the first function.
    descriptors: Vec<StateDescriptor>,
    /// The second input of a broadcast-process function.
    second: Option<SecondInput>,
    watermark: Watermark,
    opened: Option<Opened>,
}

/// What `open` makes.
struct Opened {
    isolation: Isolation,
    clock: std::sync::Arc<dyn Clock>,
    /// A [`CallStates`] if the first function has state.
    access: Box<dyn StateAccess>,
    limits: CallLimits,
}

/// The columns that a function reads, by their places in the input.
pub struct Projection {
    columns: Vec<usize>,
    /// All columns in their order: nothing to do.
    is_whole: bool,
}

impl Projection {
    /// # Errors
    /// `Invalid` if a column is not there, or has another type.
    pub fn new(function: &Function, input: &SchemaRef) -> Result<Projection> {
        let mut columns = Vec::with_capacity(function.input.len());
        for field in &function.input {
            let wanted = arrow_type(field.data_type);
            let refuse = |found: String| {
                let message = format!(
                    "function `{}` reads column `{}` of type {wanted}, but {found}",
                    function.name, field.name
                );
                Error::new(code::SCHEMA_MISMATCH, message)
            };
            match input.column_with_name(&field.name) {
                None => return Err(refuse("its input has no such column".into())),
                Some((_, found)) if *found.data_type() != wanted => {
                    return Err(refuse(format!("it has type {}", found.data_type())));
                }
                Some((_, found)) if found.is_nullable() && !field.nullable => {
                    return Err(refuse("it may be null".into()));
                }
                Some((index, _)) => columns.push(index),
            }
        }
        let is_whole = columns.iter().copied().eq(0..input.fields().len());
        Ok(Projection { columns, is_whole })
    }

    pub fn apply(&self, columns: &RecordBatch) -> Result<RecordBatch> {
        if self.is_whole {
            return Ok(columns.clone());
        }
        columns
            .project(&self.columns)
            .map_err(|e| Error::internal("columns could not be projected").with_source(e))
    }
}

/// Rows of a batch, and the marks before and between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub rows: Range<usize>,
    /// Numbers of marks.
    pub marks: Range<usize>,
}

impl Piece {
    pub(crate) fn whole(batch: &Batch) -> Piece {
        Piece {
            rows: 0..batch.n_rows(),
            marks: 0..batch.marks.len(),
        }
    }

    /// Cuts after `n_rows` rows. Marks at the cut go to the second part. `None` if the first part
    /// would be empty, or everything.
    pub(crate) fn split_rows(&self, all: &[Mark], n_rows: usize) -> Option<(Piece, Piece)> {
        let Piece { rows, marks } = self.clone();
        let row = rows.start + n_rows.min(rows.len().saturating_sub(1));
        let mark =
            marks.start + all[marks.clone()].partition_point(|mark| (mark.row as usize) < row);
        let first = Piece {
            rows: rows.start..row,
            marks: marks.start..mark,
        };
        (row > rows.start).then_some((
            first,
            Piece {
                rows: row..rows.end,
                marks: mark..marks.end,
            },
        ))
    }

    /// Cuts a piece without rows in the middle of its marks; `None` if it has one.
    pub(crate) fn split_marks(&self) -> Option<(Piece, Piece)> {
        let Piece { rows, marks } = self.clone();
        let middle = marks.start + marks.len() / 2;
        let second = Piece {
            rows: rows.clone(),
            marks: middle..marks.end,
        };
        (marks.len() > 1).then_some((
            Piece {
                rows,
                marks: marks.start..middle,
            },
            second,
        ))
    }

    /// The parts of a piece of one row: the marks before it, the row, the marks after it.
    pub(crate) fn around_row(&self, all: &[Mark]) -> (Piece, Piece, Piece) {
        let Piece { rows, marks } = self.clone();
        let mark = marks.start
            + all[marks.clone()].partition_point(|mark| mark.row as usize <= rows.start);
        let before = Piece {
            rows: rows.start..rows.start,
            marks: marks.start..mark,
        };
        let behind = Piece {
            rows: rows.end..rows.end,
            marks: mark..marks.end,
        };
        (
            before,
            Piece {
                rows,
                marks: mark..mark,
            },
            behind,
        )
    }

    /// The rows as a batch, with the marks counted from its first row.
    pub(crate) fn cut(&self, batch: &Batch) -> Batch {
        if self.rows.len() == batch.n_rows() && self.marks.len() == batch.marks.len() {
            return batch.clone();
        }
        let mut piece = batch.slice(self.rows.start, self.rows.len());
        let place = |mark: &Mark| Mark {
            row: mark.row - self.rows.start as u32,
            watermark: mark.watermark,
        };
        piece.marks = batch.marks[self.marks.clone()].iter().map(place).collect();
        piece
    }
}

/// Bytes of what a call returned, with the columns that were joined to it.
pub(crate) fn bytes_of(pending: &[(u16, Batch)]) -> usize {
    pending.iter().map(|(_, batch)| batch.n_bytes()).sum()
}

/// Sends what a call returned, in pieces of `bytes_max` bytes.
#[inline]
pub(crate) fn send_pieces(
    pending: &mut Vec<(u16, Batch)>,
    bytes_max: usize,
    output: &mut dyn Output,
) -> Result<()> {
    pending.drain(..).try_for_each(|(port, batch)| {
        batch.each_piece(usize::MAX, bytes_max, |piece| output.batch(port, piece))
    })
}

/// Describes row `row` of `batch`, the record on which user code failed.
pub fn suspect_row(batch: &Batch, row: usize, key: String) -> Suspect {
    let position = batch.origin.as_ref().map_or(String::new(), |origin| {
        format!("{} line {}", origin.split, origin.position(row))
    });
    let what = if position.is_empty() {
        format!("record {}", json::row(&batch.columns, row))
    } else {
        format!("record at {position}")
    };
    Suspect {
        what,
        position,
        key,
        record: json::row(&batch.columns, row),
        time_ms: batch.times().map(|times| times[row]),
    }
}

impl TransformOperator {
    /// Runs `chain`, which is made of `functions` in this order, over rows of the schema `input`.
    ///
    /// # Errors
    /// `Invalid` if the first function reads a column that the input does not have, or an added
    /// column clashes with an existing one.
    pub fn new(
        chain: Box<dyn FunctionChain>,
        functions: &[Function],
        input: &SchemaRef,
    ) -> Result<TransformOperator> {
        let first = functions
            .first()
            .ok_or_else(|| Error::internal("a chain has at least one function"))?;
        Ok(TransformOperator {
            chain,
            ports: Ports::new(functions, input)?,
            projection: Projection::new(first, input)?,
            timed: functions.iter().any(|function| function.time),
            descriptors: first.states.clone(),
            second: None,
            watermark: WATERMARK_MIN,
            opened: None,
        })
    }

    /// Gives the operator of a broadcast-process function its second input, of the schema `input`.
    ///
    /// # Errors
    /// `Invalid` if the function reads a column that is not there, or forwards columns.
    pub fn with_second_input(
        mut self,
        functions: &[Function],
        input: &SchemaRef,
    ) -> Result<TransformOperator> {
        self.second = Some(SecondInput::new(functions, input)?);
        Ok(self)
    }

    /// Lends what `open` made to `work`, with the time.
    fn opened(
        &mut self,
        work: impl FnOnce(&mut TransformOperator, &mut Opened, i64) -> Result<()>,
    ) -> Result<()> {
        let mut opened = self
            .opened
            .take()
            .ok_or_else(|| Error::internal("a transform was not opened"))?;
        let now_ms = if self.timed { opened.clock.now_ms() } else { 0 };
        let done = work(self, &mut opened, now_ms);
        self.opened = Some(opened);
        done
    }

    /// Processes rows of the second input, which have no marks.
    fn broadcast_rows(&mut self, rows: &Batch, output: &mut dyn Output) -> Result<()> {
        self.opened(|operator, opened, now_ms| {
            let second = operator.second.as_ref();
            let second = second.ok_or_else(|| {
                Error::internal("a transform with one input was given rows of a second")
            })?;
            let (chain, watermark) = (operator.chain.as_mut(), operator.watermark);
            let lent = Lent {
                chain,
                access: &mut opened.access,
                watermark,
                now_ms,
                limits: opened.limits,
            };
            second.run(rows, lent, &opened.isolation, output)
        })
    }

    /// The number for [`Output::batch`] and the schema of every output.
    pub fn ports(&self) -> impl Iterator<Item = (u16, &SchemaRef)> {
        self.ports.schemas()
    }
}

/// The work of one batch.
struct Transform<'a> {
    operator: &'a mut TransformOperator,
    access: &'a mut Box<dyn StateAccess>,
    batch: &'a Batch,
    now_ms: i64,
    pending: Vec<(u16, Batch)>,
    limits: CallLimits,
    output: &'a mut dyn Output,
}

impl Work for Transform<'_> {
    type Part = Piece;

    fn call(&self) -> Call {
        Call::Process
    }

    fn size(&self, part: &Piece, _: usize) -> usize {
        part.rows.len()
    }

    fn run(&mut self, part: &Piece, deadline: Duration) -> Result<usize, Failure> {
        let input = part.cut(self.batch);
        let n_bytes = match input.n_rows() {
            0 => {
                self.pending = self.operator.ports.marks_only(&input.marks);
                0
            }
            _ => self.call(&input, deadline)?,
        };
        self.operator.watermark = input.last_watermark().unwrap_or(self.operator.watermark);
        Ok(n_bytes)
    }

    fn flush(&mut self) -> Result<()> {
        send_pieces(&mut self.pending, self.limits.batch_bytes, self.output)
    }

    fn split(&self, part: &Piece, n_events: usize) -> Option<(Piece, Piece)> {
        part.split_rows(&self.batch.marks, n_events)
    }

    fn suspect(&self, part: &Piece) -> Suspect {
        suspect_row(self.batch, part.rows.start, String::new())
    }

    /// The row is skipped; the marks around it pass.
    fn give_up(&mut self, part: &Piece) -> Result<()> {
        let marks = part.cut(self.batch).marks;
        self.operator.watermark = marks
            .last()
            .map_or(self.operator.watermark, |mark| mark.watermark);
        self.pending = self.operator.ports.marks_only(&marks);
        Ok(())
    }
}

impl Transform<'_> {
    /// One call. What it has written to operator state counts if everything that came back is
    /// consistent. Returns the bytes that went in and came out.
    fn call(&mut self, input: &Batch, deadline: Duration) -> Result<usize, Failure> {
        let columns = self.operator.projection.apply(&input.columns)?;
        let outcome = self.invoke(input, &columns, deadline);
        let held = (!self.operator.descriptors.is_empty()).then(|| CallStates::of(self.access));
        // It is taken after a failure as well: that is the rollback.
        let held = held.map(|held| (std::mem::take(&mut held.writes), held));
        let outcome = outcome?;
        let events = Events {
            input,
            marks: &input.marks,
            timers: &[],
            joined_bytes_max: self.limits.output_bytes,
        };
        self.pending = self.operator.ports.assemble(outcome.rows, &events)?;
        if let Some((writes, held)) = held {
            held.states
                .apply(&[], writes, &KeyBuffer::new(KeyKind::Fixed));
        }
        Ok(columns_bytes(&columns) + bytes_of(&self.pending))
    }

    fn invoke(
        &mut self,
        input: &Batch,
        columns: &RecordBatch,
        deadline: Duration,
    ) -> Result<Outcome, Failure> {
        let operator = &mut *self.operator;
        let rows = RowsIn {
            columns,
            times: if operator.timed { input.times() } else { None },
            marks: if operator.timed { &input.marks } else { &[] },
            slots: None,
        };
        let bound = input.last_watermark().unwrap_or(operator.watermark);
        let clock = operator.timed.then_some(ClockIn {
            watermark: operator.watermark,
            bound,
            processing_time: self.now_ms,
        });
        let invocation = Invocation {
            call: Call::Process,
            rows: Some(rows),
            slots: None,
            states: Vec::new(),
            timers: &[],
            clock,
            access: self.access,
        };
        operator.chain.invoke(invocation, deadline)
    }
}

impl Operator for TransformOperator {
    fn open(&mut self, context: &OperatorContext) -> Result<()> {
        let kind = KeyKind::Fixed;
        let states = || {
            States::new(
                &self.descriptors,
                kind,
                context.key_groups,
                context.max_parallelism,
            )
        };
        let access: Box<dyn StateAccess> =
            match self.descriptors.is_empty() && self.second.is_none() {
                true => NoState::boxed(),
                false => Box::new(CallStates {
                    may_broadcast: self.second.is_none(),
                    ..CallStates::new(states(), kind)
                }),
            };
        let limits = CallLimits::new(&context.configuration);
        self.opened = Some(Opened {
            isolation: Isolation::new(context),
            clock: context.clock.clone(),
            access,
            limits,
        });
        Ok(())
    }

    fn batch(&mut self, batch: Batch, output: &mut dyn Output) -> Result<()> {
        self.opened(|operator, opened, now_ms| {
            let access = &mut opened.access;
            let limits = opened.limits;
            let mut work = Transform {
                operator,
                access,
                batch: &batch,
                now_ms,
                pending: Vec::new(),
                limits,
                output,
            };
            opened.isolation.run(&mut work, Piece::whole(&batch))
        })
    }

    fn second_input(&mut self, batch: Batch, output: &mut dyn Output) -> Result<()> {
        parts(&batch).into_iter().try_for_each(|part| match part {
            Part::Rows(rows) => self.broadcast_rows(&rows, output),
            Part::Watermark(watermark) => self.watermark(watermark, output),
        })
    }

    fn watermark(&mut self, watermark: Watermark, output: &mut dyn Output) -> Result<()> {
        self.watermark = watermark;
        output.watermark(watermark)
    }

    fn state_bytes(&mut self) -> usize {
        let opened = self
            .opened
            .as_mut()
            .filter(|_| !self.descriptors.is_empty());
        opened.map_or(0, |opened| {
            CallStates::of(&mut opened.access).states.used_bytes()
        })
    }

    fn snapshot(&mut self, _checkpoint: u64) -> Result<OperatorSnapshot> {
        let Some(opened) = self
            .opened
            .as_mut()
            .filter(|_| !self.descriptors.is_empty())
        else {
            return Ok(OperatorSnapshot::default());
        };
        let lists = CallStates::of(&mut opened.access)
            .states
            .freeze_lists(&self.descriptors);
        Ok(OperatorSnapshot {
            lists,
            ..OperatorSnapshot::default()
        })
    }

    fn restore(&mut self, state: &mut OperatorState) -> Result<()> {
        let Some(opened) = self
            .opened
            .as_mut()
            .filter(|_| !self.descriptors.is_empty())
        else {
            return Ok(());
        };
        CallStates::of(&mut opened.access).states.restore(
            &self.descriptors,
            &serde_json::Value::Null,
            opened.clock.now_ms(),
            state,
        )
    }
}

#[cfg(test)]
mod tests;
