//! Calls a window-process function: for many windows at once, each with its rows.
//!
//! Invariant: every window either returned its results or was given up under the poison policy, in
//! order.

use crate::contents::{Fired, Firing, Place};
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use std::ops::Range;
use std::time::Duration;
use streamrt_operator::{
    Call, ClockIn, Failure, FunctionChain, Invocation, NoState, RowsIn, RowsOut, SlotsIn, Suspect,
    Work, split_range,
};
use streamrt_types::{Error, Result, code, columns_bytes};
use streamrt_wit::Function;

/// A window-process function and the schema of what it returns.
pub(crate) struct WindowCall {
    chain: Box<dyn FunctionChain>,
    function: Function,
    /// The key columns that it wants to see, by their places in the key.
    key: Vec<usize>,
    output: SchemaRef,
}

/// The rows of some windows: rows `offsets[i]..offsets[i + 1]` belong to the i-th.
pub(crate) struct WindowRows<'a> {
    pub columns: &'a RecordBatch,
    pub times: Option<&'a [i64]>,
    pub offsets: &'a [u32],
}

impl WindowCall {
    /// # Errors
    /// `Invalid` if the function wants to see columns that are not in the key.
    pub(crate) fn new(
        chain: Box<dyn FunctionChain>,
        function: Function,
        key: &SchemaRef,
        output: &SchemaRef,
    ) -> Result<WindowCall> {
        let place = |field: &streamrt_wit::Field| {
            let message = || {
                format!(
                    "function `{}`: column `{}` is not in the key of the stream",
                    function.name, field.name
                )
            };
            key.index_of(&field.name)
                .map_err(|_| Error::new(code::SCHEMA_MISMATCH, message()))
        };
        let places = function
            .key
            .iter()
            .flatten()
            .map(place)
            .collect::<Result<Vec<_>>>()?;
        Ok(WindowCall {
            chain,
            function,
            key: places,
            output: output.clone(),
        })
    }

    pub(crate) fn function(&self) -> &Function {
        &self.function
    }

    /// Calls the function for `firings`, whose rows are `rows`, with the columns that it reads.
    ///
    /// # Errors
    /// `UserCode` under the policy.
    pub(crate) fn fire(
        &mut self,
        place: &Place,
        firings: &[Firing],
        rows: &WindowRows<'_>,
    ) -> Result<Fired> {
        let mut work = Firings {
            call: self,
            place,
            firings,
            rows,
            fired: Fired::default(),
        };
        if !firings.is_empty() {
            place.isolation.run(&mut work, 0..firings.len())?;
        }
        Ok(work.fired)
    }

    fn invoke(
        &mut self,
        place: &Place,
        firings: &[Firing],
        rows: RowsIn<'_>,
        offsets: &[u32],
        deadline: Duration,
    ) -> Result<Option<RowsOut>, Failure> {
        let starts: Vec<i64> = firings.iter().map(|firing| firing.window.start).collect();
        let ends: Vec<i64> = firings.iter().map(|firing| firing.window.end).collect();
        let slots = SlotsIn {
            n_slots: firings.len(),
            keys: self.keys(place, firings)?,
            windows: Some((&starts, &ends)),
            offsets: Some(offsets),
        };
        let clock = ClockIn {
            watermark: place.watermark,
            bound: place.watermark,
            processing_time: place.clock.now_ms(),
        };
        let invocation = Invocation {
            call: Call::Window,
            rows: Some(rows),
            slots: Some(slots),
            states: Vec::new(),
            timers: &[],
            clock: Some(clock),
            access: &mut NoState::boxed(),
        };
        Ok(self
            .chain
            .invoke(invocation, deadline)?
            .rows
            .into_iter()
            .find(|sent| sent.port == 0))
    }

    fn keys(&self, place: &Place, firings: &[Firing]) -> Result<Option<RecordBatch>> {
        if self.function.key.is_none() {
            return Ok(None);
        }
        let keys: Vec<&[u8]> = firings.iter().map(|firing| &firing.key[..]).collect();
        let columns = place.decoder.decode(&keys)?.project(&self.key);
        columns
            .map(Some)
            .map_err(|e| Error::internal("key columns could not be projected").with_source(e))
    }

    /// How many of the rows that were sent belong to each window, and the rows in the declared
    /// schema.
    fn accept(&self, sent: RowsOut, n_windows: usize) -> Result<(RecordBatch, Vec<u32>)> {
        let bad = |what: &str| {
            Error::new(
                code::BAD_OUTPUT,
                format!("a window function returned {what}"),
            )
        };
        let mut counts = vec![0; n_windows];
        let origin = sent
            .origin
            .unwrap_or_else(|| (0..sent.n_rows as u32).collect());
        for window in origin {
            *counts
                .get_mut(window as usize)
                .ok_or_else(|| bad("rows of a window that did not fire"))? += 1;
        }
        let columns = sent.columns.ok_or_else(|| bad("no columns"))?;
        let columns = columns
            .with_schema(self.output.clone())
            .map_err(|e| bad("other columns than it declares").with_source(e))?;
        Ok((columns, counts))
    }
}

/// The work of one set of firings.
struct Firings<'a> {
    call: &'a mut WindowCall,
    place: &'a Place,
    firings: &'a [Firing],
    rows: &'a WindowRows<'a>,
    fired: Fired,
}

impl Work for Firings<'_> {
    type Part = Range<usize>;

    fn call(&self) -> Call {
        Call::Window
    }

    fn size(&self, part: &Range<usize>, _: usize) -> usize {
        part.len()
    }

    fn run(&mut self, part: &Range<usize>, deadline: Duration) -> Result<usize, Failure> {
        let (start, end) = (
            self.rows.offsets[part.start] as usize,
            self.rows.offsets[part.end] as usize,
        );
        let offsets: Vec<u32> = self.rows.offsets[part.start..=part.end]
            .iter()
            .map(|offset| offset - start as u32)
            .collect();
        let columns = self.rows.columns.slice(start, end - start);
        let times = if self.call.function.time {
            self.rows.times.map(|times| &times[start..end])
        } else {
            None
        };
        let rows = RowsIn {
            columns: &columns,
            times,
            marks: &[],
            slots: None,
        };
        match self.call.invoke(
            self.place,
            &self.firings[part.clone()],
            rows,
            &offsets,
            deadline,
        )? {
            None => {
                self.fired.counts.resize(part.end, 0);
                Ok(columns_bytes(&columns))
            }
            Some(sent) => {
                let (sent, counts) = self.call.accept(sent, part.len())?;
                let n_bytes = columns_bytes(&columns) + columns_bytes(&sent);
                self.fired.columns.push(sent);
                self.fired.counts.extend(counts);
                Ok(n_bytes)
            }
        }
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

    fn give_up(&mut self, part: &Range<usize>) -> Result<()> {
        self.fired.counts.resize(part.end, 0);
        Ok(())
    }
}
