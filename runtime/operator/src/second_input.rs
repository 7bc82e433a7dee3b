//! The second input of a broadcast-process function: rows that every subtask gets, and that may
//! write broadcast state.
//!
//! 1. A batch is cut where its marks stand. 2. The rows between two marks go in calls without a
//!    key, timers or marks.
//! 3. Each mark is a watermark of the operator, which fires its timers like one of the first input.
//!
//! Invariant: timers and keyed state do not come back from such a call; a function that sends them
//! is refused.
//!
//! # Source
//! Flink's `CoBroadcastWithKeyedOperator` and `CoBroadcastWithNonKeyedOperator`.

use crate::function::{
    Call, ClockIn, Failure, FunctionChain, Invocation, Outcome, RowsIn, StateAccess,
};
use crate::isolate::{Isolation, Suspect, Work};
use crate::operator::Output;
use crate::ports::{CallLimits, Events, Ports};
use crate::states::CallStates;
use crate::transform::{Piece, Projection, bytes_of, send_pieces, suspect_row};
use arrow_schema::SchemaRef;
use std::time::Duration;
use streamrt_state::{KeyBuffer, KeyKind};
use streamrt_types::{Batch, Error, Result, Watermark, code};
use streamrt_wit::{Function, OutputColumns};

/// What does not change from call to call.
pub(crate) struct SecondInput {
    ports: Ports,
    projection: Projection,
    timed: bool,
}

/// What the operator lends for the rows of one batch.
pub(crate) struct Lent<'a> {
    pub chain: &'a mut dyn FunctionChain,
    /// A [`CallStates`].
    pub access: &'a mut Box<dyn StateAccess>,
    pub watermark: Watermark,
    pub now_ms: i64,
    pub limits: CallLimits,
}

/// A batch in parts: rows without marks, and watermarks.
pub(crate) enum Part {
    Rows(Batch),
    Watermark(Watermark),
}

impl SecondInput {
    /// # Errors
    /// `Invalid` if the function reads a column that is not there, or an output needs the columns
    /// of the first input.
    pub(crate) fn new(functions: &[Function], input: &SchemaRef) -> Result<SecondInput> {
        let first = functions
            .first()
            .ok_or_else(|| Error::internal("a chain has at least one function"))?;
        let replaces = |columns: &OutputColumns| matches!(columns, OutputColumns::Replace { .. });
        if !first.outputs.iter().all(|port| replaces(&port.columns)) {
            let message = format!(
                "function `{}` has two inputs, so its outputs must replace the columns",
                first.name
            );
            return Err(Error::new(code::INVALID_JOB, message));
        }
        let of_second = Function {
            input: first.second_input.clone(),
            ..first.clone()
        };
        Ok(SecondInput {
            ports: Ports::new(functions, input)?,
            projection: Projection::new(&of_second, input)?,
            timed: functions.iter().any(|function| function.time),
        })
    }

    /// Processes rows that have no marks.
    ///
    /// # Errors
    /// Failures that the poison policy does not absorb.
    pub(crate) fn run<'a>(
        &'a self,
        rows: &'a Batch,
        lent: Lent<'a>,
        isolation: &Isolation,
        output: &'a mut dyn Output,
    ) -> Result<()> {
        let mut work = Rows {
            side: self,
            lent,
            batch: rows,
            pending: Vec::new(),
            output,
        };
        isolation.run(&mut work, Piece::whole(rows))
    }
}

/// Cuts a batch of the second input.
pub(crate) fn parts(batch: &Batch) -> Vec<Part> {
    let mut parts = Vec::with_capacity(1 + 2 * batch.marks.len());
    let mut start = 0;
    let mut rows_until = |end: usize, parts: &mut Vec<Part>| {
        if end > start {
            parts.push(Part::Rows(batch.slice(start, end - start)));
        }
        start = end;
    };
    for mark in &batch.marks {
        rows_until(mark.row as usize, &mut parts);
        parts.push(Part::Watermark(mark.watermark));
    }
    rows_until(batch.n_rows(), &mut parts);
    parts
}

struct Rows<'a> {
    side: &'a SecondInput,
    lent: Lent<'a>,
    batch: &'a Batch,
    pending: Vec<(u16, Batch)>,
    output: &'a mut dyn Output,
}

impl Rows<'_> {
    fn invoke(&mut self, input: &Batch, deadline: Duration) -> Result<Outcome, Failure> {
        let (side, lent) = (self.side, &mut self.lent);
        let columns = side.projection.apply(&input.columns)?;
        let times = if side.timed { input.times() } else { None };
        let clock = ClockIn {
            watermark: lent.watermark,
            bound: lent.watermark,
            processing_time: lent.now_ms,
        };
        lent.chain.invoke(
            Invocation {
                call: Call::SecondInput,
                rows: Some(RowsIn {
                    columns: &columns,
                    times,
                    marks: &[],
                    slots: None,
                }),
                slots: None,
                states: Vec::new(),
                timers: &[],
                clock: side.timed.then_some(clock),
                access: lent.access,
            },
            deadline,
        )
    }
}

impl Work for Rows<'_> {
    type Part = Piece;

    fn call(&self) -> Call {
        Call::SecondInput
    }

    fn size(&self, part: &Piece, _: usize) -> usize {
        part.rows.len()
    }

    fn run(&mut self, part: &Piece, deadline: Duration) -> Result<usize, Failure> {
        let input = part.cut(self.batch);
        CallStates::of(self.lent.access).may_broadcast = true;
        let outcome = self.invoke(&input, deadline);
        let held = CallStates::of(self.lent.access);
        held.may_broadcast = false;
        // It is taken after a failure as well: that is the rollback.
        let writes = std::mem::take(&mut held.writes);
        let outcome = outcome?;
        if !outcome.timers.is_empty()
            || outcome
                .states
                .iter()
                .any(|state| state.values.num_rows() > 0)
        {
            return Err(Error::new(
                code::BAD_OUTPUT,
                "timers or state by key came back for broadcast rows, which have no key",
            )
            .into());
        }
        let joined_bytes_max = self.lent.limits.output_bytes;
        let events = Events {
            input: &input,
            marks: &[],
            timers: &[],
            joined_bytes_max,
        };
        self.pending = self.side.ports.assemble(outcome.rows, &events)?;
        held.states
            .apply(&[], writes, &KeyBuffer::new(KeyKind::Fixed));
        Ok(input.n_bytes() + bytes_of(&self.pending))
    }

    fn flush(&mut self) -> Result<()> {
        send_pieces(&mut self.pending, self.lent.limits.batch_bytes, self.output)
    }

    fn split(&self, part: &Piece, n_events: usize) -> Option<(Piece, Piece)> {
        part.split_rows(&[], n_events)
    }

    fn suspect(&self, part: &Piece) -> Suspect {
        suspect_row(self.batch, part.rows.start, String::new())
    }

    fn give_up(&mut self, _: &Piece) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
