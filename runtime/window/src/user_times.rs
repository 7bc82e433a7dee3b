//! Event times by a function of the plugin: one call per batch, under the poison policy.
//!
//! Invariant: the rows that remain are those to which the function gave a time; a record on which
//! it fails leaves the batch only by the policy.

use crate::timestamps::{far_time, is_far, no_time};
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, Int64Array, RecordBatch, UInt32Array};
use arrow_schema::SchemaRef;
use std::ops::Range;
use std::time::Duration;
use streamrt_operator::{
    Call, Failure, FunctionChain, Invocation, Isolation, NoState, OperatorContext, Projection,
    RowsIn, Suspect, Work, split_range, suspect_row,
};
use streamrt_types::{Batch, Error, Result, Times, Watermark, code, columns_bytes};
use streamrt_wit::Function;

/// The timestamps function of one operator.
pub(crate) struct UserTimes {
    chain: Box<dyn FunctionChain>,
    projection: Projection,
    punctuated: bool,
    opened: Option<Isolation>,
}

impl UserTimes {
    /// # Errors
    /// `Invalid` if the function reads a column that is not there.
    pub(crate) fn new(
        chain: Box<dyn FunctionChain>,
        function: &Function,
        input: &SchemaRef,
        punctuated: bool,
    ) -> Result<UserTimes> {
        Ok(UserTimes {
            chain,
            projection: Projection::new(function, input)?,
            punctuated,
            opened: None,
        })
    }

    pub(crate) fn open(&mut self, context: &OperatorContext) {
        self.opened = Some(Isolation::new(context));
    }

    /// Gives the rows their times. Returns the rows that remain, and for each the watermark after
    /// it, if it is punctuated.
    ///
    /// # Errors
    /// Under the policy, `UserCode`, or `Data` for a time that is null or too far from 1970.
    pub(crate) fn assign(
        &mut self,
        mut batch: Batch,
        uid: &str,
    ) -> Result<(Batch, Vec<Option<Watermark>>)> {
        let opened = self
            .opened
            .take()
            .ok_or_else(|| Error::internal("a timestamps operator was not opened"))?;
        let (kept, times, watermarks, untimed) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut work = Assignment {
            user: self,
            batch: &batch,
            kept,
            times,
            watermarks,
            untimed,
        };
        let done = opened.run(&mut work, 0..batch.n_rows());
        let Assignment {
            kept,
            times,
            watermarks,
            untimed,
            ..
        } = work;
        let refuse = |(row, time): (usize, Option<i64>)| {
            let error =
                time.map_or_else(|| no_time(&batch, row), |time| far_time(&batch, row, time));
            opened.refuse_row(&batch, row, error.at(format_args!("operator `{uid}`")))
        };
        let done = done.and_then(|()| untimed.into_iter().try_for_each(refuse));
        self.opened = Some(opened);
        done?;
        if kept.len() < batch.n_rows() {
            batch = batch.take(&UInt32Array::from(kept))?;
        }
        batch.times = Times::Array(times.into());
        Ok((batch, watermarks))
    }

    fn call(
        &mut self,
        batch: &Batch,
        rows: &Range<usize>,
        deadline: Duration,
    ) -> Result<RecordBatch, Failure> {
        let columns = self
            .projection
            .apply(&batch.columns.slice(rows.start, rows.len()))?;
        let rows_in = RowsIn {
            columns: &columns,
            times: None,
            marks: &[],
            slots: None,
        };
        let access = &mut NoState::boxed();
        let invocation = Invocation {
            call: Call::Process,
            rows: Some(rows_in),
            slots: None,
            states: Vec::new(),
            timers: &[],
            clock: None,
            access,
        };
        let outcome = self.chain.invoke(invocation, deadline)?;
        let sent = outcome
            .rows
            .into_iter()
            .find(|sent| sent.port == 0)
            .and_then(|sent| sent.columns);
        let sent = sent.filter(|sent| {
            sent.num_rows() == rows.len() && sent.num_columns() > usize::from(self.punctuated)
        });
        sent.ok_or_else(|| {
            Error::new(
                code::BAD_OUTPUT,
                "the timestamps function returned no time for some record",
            )
            .into()
        })
    }
}

/// The work of one batch.
struct Assignment<'a> {
    user: &'a mut UserTimes,
    batch: &'a Batch,
    kept: Vec<u32>,
    times: Vec<i64>,
    watermarks: Vec<Option<Watermark>>,
    /// Rows to which the function gave no time, or one that no window reaches.
    untimed: Vec<(usize, Option<i64>)>,
}

fn column(sent: &RecordBatch, index: usize) -> Result<&Int64Array> {
    let column = sent.column(index).as_primitive_opt::<Int64Type>();
    column.ok_or_else(|| {
        Error::new(
            code::BAD_OUTPUT,
            "the timestamps function returned times that are not of type i64",
        )
    })
}

fn watermark_at(watermarks: &Int64Array, row: usize) -> Option<Watermark> {
    watermarks.is_valid(row).then(|| watermarks.value(row))
}

impl Work for Assignment<'_> {
    type Part = Range<usize>;

    fn call(&self) -> Call {
        Call::Process
    }

    fn size(&self, part: &Range<usize>, _: usize) -> usize {
        part.len()
    }

    fn run(&mut self, part: &Range<usize>, deadline: Duration) -> Result<usize, Failure> {
        let sent = self.user.call(self.batch, part, deadline)?;
        let times = column(&sent, 0)?;
        let watermarks = self.user.punctuated.then(|| column(&sent, 1)).transpose()?;
        if times.null_count() == 0 && times.values().iter().all(|time| !is_far(*time)) {
            self.watermarks.extend(watermarks.into_iter().flatten());
            self.times.extend(times.values());
            self.kept.extend(part.start as u32..part.end as u32);
            return Ok(columns_bytes(&sent));
        }
        for (row, time) in part.clone().zip(times) {
            match time.filter(|time| !is_far(*time)) {
                None => self.untimed.push((row, time)),
                Some(time) => {
                    self.times.push(time);
                    self.kept.push(row as u32);
                    self.watermarks.extend(
                        watermarks.map(|watermarks| watermark_at(watermarks, row - part.start)),
                    );
                }
            }
        }
        Ok(columns_bytes(&sent))
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    fn split(&self, part: &Range<usize>, n_events: usize) -> Option<(Range<usize>, Range<usize>)> {
        split_range(part, n_events)
    }

    fn suspect(&self, part: &Range<usize>) -> Suspect {
        suspect_row(self.batch, part.start, String::new())
    }

    fn give_up(&mut self, _: &Range<usize>) -> Result<()> {
        Ok(())
    }
}
