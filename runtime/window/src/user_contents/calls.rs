//! The calls of an aggregate or reduce function: rows into accumulators, accumulators into one, and
//! accumulators to results. Each is work that can be cut when an event fails.

use super::UserContents;
use crate::contents::{Additions, Cell, Firing, Place};
use arrow_array::RecordBatch;
use std::ops::Range;
use std::time::Duration;
use streamrt_operator::{BatchKeys, Call, Failure, Suspect, Work, split_range, suspect_row};
use streamrt_state::NO_ADDRESS;
use streamrt_types::{Batch, Result, columns_bytes};

/// Rows on their way into accumulators.
pub(super) struct Accumulation<'a> {
    pub(super) contents: &'a mut UserContents,
    pub(super) place: &'a BatchKeys,
    pub(super) batch: &'a Batch,
    pub(super) additions: &'a Additions,
}

impl Work for Accumulation<'_> {
    type Part = Range<usize>;

    fn call(&self) -> Call {
        Call::Accumulate
    }

    fn size(&self, part: &Range<usize>, _: usize) -> usize {
        part.len()
    }

    fn run(&mut self, part: &Range<usize>, deadline: Duration) -> Result<usize, Failure> {
        self.contents
            .accumulate(self.batch, self.additions, part, deadline)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    fn split(&self, part: &Range<usize>, n_events: usize) -> Option<(Range<usize>, Range<usize>)> {
        split_range(part, n_events)
    }

    fn suspect(&self, part: &Range<usize>) -> Suspect {
        let row = self.additions.rows[part.start] as usize;
        suspect_row(
            self.batch,
            row,
            self.place.describe(&self.batch.columns, row),
        )
    }

    fn give_up(&mut self, _: &Range<usize>) -> Result<()> {
        Ok(())
    }
}

/// A merge of the accumulators of one window; it is one event, and cannot be split.
pub(super) struct Merging<'a> {
    pub(super) contents: &'a mut UserContents,
    pub(super) place: &'a Place,
    pub(super) into: &'a Firing,
    pub(super) cells: Vec<Cell>,
}

impl Work for Merging<'_> {
    type Part = ();

    fn call(&self) -> Call {
        Call::Merge
    }

    fn size(&self, (): &(), _: usize) -> usize {
        1
    }

    fn run(&mut self, (): &(), deadline: Duration) -> Result<usize, Failure> {
        self.contents.merge_cells(&self.cells, deadline)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    fn split(&self, (): &(), _: usize) -> Option<((), ())> {
        None
    }

    fn suspect(&self, (): &()) -> Suspect {
        self.place.suspect(self.into)
    }

    /// The window continues with the accumulator that it had.
    fn give_up(&mut self, (): &()) -> Result<()> {
        Ok(())
    }
}

/// Windows that fire.
pub(super) struct Results<'a> {
    pub(super) contents: &'a mut UserContents,
    pub(super) place: &'a Place,
    pub(super) firings: &'a [Firing],
    pub(super) columns: Vec<RecordBatch>,
    /// The firings that returned a row.
    pub(super) fired: Vec<usize>,
}

impl Work for Results<'_> {
    type Part = Range<usize>;

    fn call(&self) -> Call {
        Call::Result
    }

    fn size(&self, part: &Range<usize>, _: usize) -> usize {
        part.len()
    }

    fn run(&mut self, part: &Range<usize>, deadline: Duration) -> Result<usize, Failure> {
        let holds =
            |firing: &usize| *self.contents.cells.get(self.firings[*firing].cell) != NO_ADDRESS;
        let fired: Vec<usize> = part.clone().filter(holds).collect();
        if fired.is_empty() {
            return Ok(0);
        }
        let cells: Vec<Cell> = fired
            .iter()
            .map(|&firing| self.firings[firing].cell)
            .collect();
        let results = self.contents.results(&cells, deadline)?;
        let n_bytes = columns_bytes(&results);
        self.columns.push(results);
        self.fired.extend(fired);
        Ok(n_bytes)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    fn split(&self, part: &Range<usize>, n_events: usize) -> Option<(Range<usize>, Range<usize>)> {
        split_range(part, n_events)
    }

    fn suspect(&self, part: &Range<usize>) -> Suspect {
        self.place.suspect(&self.firings[part.start])
    }

    fn give_up(&mut self, _: &Range<usize>) -> Result<()> {
        Ok(())
    }
}
