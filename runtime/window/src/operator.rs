//! The window operator: takes rows and marks, hands them to panes or to the windows of each key,
//! and sends what fires.
//!
//! Invariant: results come before the watermark that fired them. Processing-time windows go only by
//! the clock: to them, its time minus one is the watermark, and marks only pass through. A
//! watermark outside a batch, or after all of its rows, starts a sweep (see [`Operator`]); where a
//! sweep stops, the windows are as if a lower watermark had come.

use crate::ahead;
use crate::assigner::Assigner;
use crate::contents::{self, Contents};
use crate::emission::{Emission, PIECE_TIME, Ports};
use crate::group_watermarks::GroupWatermarks;
use crate::keyed_windows::KeyedWindows;
use crate::panes::PaneWindows;
use crate::result_columns::ResultColumns;
use crate::row_times::RowTimes;
use crate::timestamps::no_time;
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use serde_json::Value;
use std::time::{Duration, Instant};
use streamrt_operator::{
    Accumulators, BatchKeys, FunctionChain, Operator, OperatorContext, Output, SplitEvent,
    TaskMetrics,
};
use streamrt_state::{OperatorSnapshot, OperatorState};
use streamrt_types::state_types::{PANES, window_types};
use streamrt_types::{Batch, Error, Result, Status, WATERMARK_MAX, Watermark};
use streamrt_wit::{Function, WindowAssigner, WindowContents};

/// A chain of one function of a plugin, and what the plan says about it.
pub type WindowFunction = (Box<dyn FunctionChain>, Function);

/// The functions that the contents of a window call.
#[derive(Default)]
pub struct WindowFunctions {
    /// The aggregate or reduce function of `WindowContents::Aggregate`.
    pub aggregate: Option<WindowFunction>,
    /// The window-process function: of `WindowContents::Process`, or `then` of an aggregate.
    pub process: Option<WindowFunction>,
}

/// Everything that is known when the job is built.
struct Plan {
    assigner: Assigner,
    lateness_ms: i64,
    input: SchemaRef,
    key: Vec<usize>,
    output: SchemaRef,
    /// What the bytes of the state in a snapshot mean. Allowed lateness is not in it: it may
    /// change.
    types: Value,
}

enum Windows {
    Panes(Box<PaneWindows>),
    OfKeys(Box<KeyedWindows>),
}

struct Opened {
    context: OperatorContext,
    /// The latest time of the clock.
    now_ms: i64,
    keys: BatchKeys,
    windows: Windows,
    ports: Ports,
    /// An empty batch, as which a watermark without a batch is processed.
    nothing: Batch,
}

/// The operator of `Body::Window`. Port 0 has the results, port 1 the late rows.
pub struct WindowOperator {
    plan: Plan,
    processing_time: bool,
    /// Built by `new`, so that a wrong job never starts; taken by `open`.
    contents: Option<Prepared>,
    opened: Option<Opened>,
    /// The watermark that is not yet carried out completely.
    sweep: Option<Watermark>,
    /// How long a piece of a sweep takes.
    piece_time: Duration,
}

enum Prepared {
    Panes(crate::assigner::SlidingWindows, Accumulators, ResultColumns),
    OfKeys(Contents),
}

/// What the contents keep, before there is a place for it.
fn prepare(
    contents: &WindowContents,
    assigner: Assigner,
    functions: WindowFunctions,
    input: &SchemaRef,
    key: &SchemaRef,
    output: &SchemaRef,
) -> Result<Prepared> {
    match (contents, assigner) {
        (
            WindowContents::Builtin {
                aggregates,
                columns,
            },
            Assigner::Sliding(windows),
        ) => {
            let accumulators = Accumulators::new(aggregates, input)?;
            let columns = ResultColumns::new(columns, key, aggregates.len(), output.clone())?;
            Ok(Prepared::Panes(windows, accumulators, columns))
        }
        (_, assigner) => {
            if let Assigner::Sliding(windows) = assigner {
                windows.check_overlap(
                    contents::OVERLAP_MAX,
                    "for functions of a plugin the limit is",
                )?;
            }
            contents::build(contents, functions, input, key, output).map(Prepared::OfKeys)
        }
    }
}

impl WindowOperator {
    /// `input` is the schema of the rows, `key` the places of the key columns in it, `output` the
    /// schema of port 0.
    ///
    /// # Errors
    /// `Invalid` if a size is out of range, windows overlap too often, a column is not there, or a
    /// function does not fit: for sessions it must be able to merge.
    pub fn new(
        assigner: &WindowAssigner,
        allowed_lateness_ms: u64,
        contents: &WindowContents,
        functions: WindowFunctions,
        input: SchemaRef,
        key: Vec<usize>,
        output: SchemaRef,
    ) -> Result<WindowOperator> {
        let keys = BatchKeys::new(&input, key.clone())?;
        let of_contents: Vec<&Function> = functions
            .aggregate
            .iter()
            .chain(&functions.process)
            .map(|(_, function)| function)
            .collect();
        let (_, types) = window_types(assigner, contents, &of_contents, &input, &keys.types())?;
        let (assigner, processing_time) = Assigner::new(assigner)?;
        // Lateness exists only in event time.
        let lateness_ms = if processing_time {
            0
        } else {
            i64::try_from(allowed_lateness_ms).unwrap_or(i64::MAX)
        };
        let prepared = prepare(
            contents,
            assigner,
            functions,
            &input,
            keys.schema(),
            &output,
        )?;
        let plan = Plan {
            assigner,
            lateness_ms,
            input,
            key,
            output,
            types,
        };
        Ok(WindowOperator {
            plan,
            processing_time,
            contents: Some(prepared),
            opened: None,
            sweep: None,
            piece_time: PIECE_TIME,
        })
    }

    /// Sends rows that are too far in the future to the late output. They were counted where they
    /// got their times.
    fn without_rows_ahead(&mut self, batch: Batch, output: &mut dyn Output) -> Result<Batch> {
        let latest = ahead::latest_time(&opened(&mut self.opened)?.context);
        if self.processing_time || latest == i64::MAX {
            return Ok(batch);
        }
        let (rest, ahead) = ahead::part(batch, latest)?;
        ahead.map_or(Ok(()), |ahead| output.batch(1, ahead))?;
        Ok(rest)
    }

    /// Fires what is due by now. Returns the time, which never goes back although the clock may.
    fn follow_clock(&mut self, output: &mut dyn Output) -> Result<i64> {
        let opened = opened(&mut self.opened)?;
        opened.now_ms = opened.now_ms.max(opened.context.clock.now_ms());
        let now_ms = opened.now_ms;
        self.advance(now_ms - 1, None, output)?;
        Ok(now_ms)
    }

    /// Fires what `watermark` makes due, and sends it. Returns whether that is done: with `until`,
    /// the sweep stops there.
    fn advance(
        &mut self,
        watermark: Watermark,
        until: Option<Instant>,
        output: &mut dyn Output,
    ) -> Result<bool> {
        let opened = opened(&mut self.opened)?;
        let mut emission = Emission::new(&opened.nothing, &opened.ports, output);
        emission.stop_at(until);
        let is_done = match &mut opened.windows {
            Windows::Panes(panes) => panes.advance(watermark, &mut emission)?,
            Windows::OfKeys(windows) => {
                windows.advance(watermark, &opened.nothing, &mut emission)?
            }
        };
        emission.send()?;
        Ok(is_done)
    }

    fn piece_end(&self) -> Option<Instant> {
        Some(Instant::now() + self.piece_time)
    }

    /// A sweep stops wherever it can.
    #[cfg(test)]
    pub(crate) fn in_least_pieces(self) -> WindowOperator {
        WindowOperator {
            piece_time: Duration::ZERO,
            ..self
        }
    }

    /// Takes the last mark off a batch if it comes after all rows and makes something due.
    fn take_sweep(&self, batch: &mut Batch) -> Option<Watermark> {
        let opened = self.opened.as_ref().filter(|_| !self.processing_time)?;
        let mark = batch
            .marks
            .last()
            .filter(|mark| mark.row as usize == batch.n_rows())?
            .watermark;
        let is_due = match &opened.windows {
            Windows::Panes(panes) => panes.passes_an_end(mark),
            Windows::OfKeys(windows) => windows.next_due().is_some_and(|time| time <= mark),
        };
        is_due
            .then(|| batch.marks.pop())
            .flatten()
            .map(|mark| mark.watermark)
    }
}

fn opened(opened: &mut Option<Opened>) -> Result<&mut Opened> {
    opened
        .as_mut()
        .ok_or_else(|| Error::internal("a window operator was not opened"))
}

/// Counts the results of windows that are dropped: built-in aggregates call nobody.
struct Dropped(u64);

impl Output for Dropped {
    fn batch(&mut self, _: u16, batch: Batch) -> Result<()> {
        self.0 += batch.n_rows() as u64;
        Ok(())
    }

    fn watermark(&mut self, _: Watermark) -> Result<()> {
        Ok(())
    }

    fn status(&mut self, _: Status) -> Result<()> {
        Ok(())
    }

    fn split(&mut self, _: SplitEvent) -> Result<()> {
        Ok(())
    }
}

impl Operator for WindowOperator {
    fn open(&mut self, context: &OperatorContext) -> Result<()> {
        let plan = &self.plan;
        let reader = || BatchKeys::new(&plan.input, plan.key.clone());
        let windows = match self
            .contents
            .take()
            .ok_or_else(|| Error::internal("a window operator is opened once"))?
        {
            Prepared::Panes(windows, accumulators, columns) => {
                let namespaces = context.namespaces(PANES, &plan.types)?;
                Windows::Panes(Box::new(PaneWindows::new(
                    windows,
                    plan.lateness_ms,
                    accumulators,
                    columns,
                    reader()?,
                    context,
                    namespaces,
                )))
            }
            Prepared::OfKeys(contents) => Windows::OfKeys(Box::new(KeyedWindows::new(
                plan.assigner,
                plan.lateness_ms,
                self.processing_time,
                contents,
                reader()?,
                context,
            ))),
        };
        self.opened = Some(Opened {
            context: context.clone(),
            now_ms: context.clock.now_ms(),
            keys: reader()?,
            windows,
            ports: Ports::new(
                plan.output.clone(),
                plan.input.clone(),
                !self.processing_time,
                context,
            ),
            nothing: Batch::new(RecordBatch::new_empty(plan.input.clone())),
        });
        Ok(())
    }

    fn batch(&mut self, batch: Batch, output: &mut dyn Output) -> Result<()> {
        let mut batch = self.without_rows_ahead(batch, output)?;
        let sweep = self.take_sweep(&mut batch);
        let timed = self.plan.assigner.is_timed();
        let now_ms = if self.processing_time {
            self.follow_clock(output)?
        } else {
            0
        };
        let opened = opened(&mut self.opened)?;
        let times = match batch.times() {
            _ if self.processing_time => RowTimes::Now(now_ms),
            Some(times) => RowTimes::Each(times),
            None if batch.n_rows() == 0 => RowTimes::Each(&[]),
            None if timed => {
                return Err(
                    no_time(&batch, 0).at(format_args!("operator `{}`", opened.context.uid))
                );
            }
            None => RowTimes::Now(0),
        };
        let mut emission = Emission::new(&batch, &opened.ports, output);
        match &mut opened.windows {
            Windows::Panes(panes) => panes.batch(&batch, times, &mut opened.keys, &mut emission)?,
            Windows::OfKeys(windows) => {
                windows.batch(&batch, times, &mut opened.keys, &mut emission)?
            }
        }
        emission.marks_to(batch.marks.len());
        emission.send()?;
        sweep.map_or(Ok(()), |watermark| self.watermark(watermark, output))
    }

    fn watermark(&mut self, watermark: Watermark, output: &mut dyn Output) -> Result<()> {
        if self.processing_time {
            return output.watermark(watermark);
        }
        self.sweep = Some(watermark);
        self.resume(output)
    }

    fn is_sweeping(&self) -> bool {
        self.sweep.is_some()
    }

    fn resume(&mut self, output: &mut dyn Output) -> Result<()> {
        let Some(watermark) = self.sweep else {
            return Ok(());
        };
        if self.advance(watermark, self.piece_end(), output)? {
            self.sweep = None;
            output.watermark(watermark)?;
        }
        Ok(())
    }

    fn next_processing_time(&self) -> Option<i64> {
        match &self
            .opened
            .as_ref()
            .filter(|_| self.processing_time)?
            .windows
        {
            Windows::Panes(panes) => panes.next_due(),
            Windows::OfKeys(windows) => windows.next_due().map(|time| time.saturating_add(1)),
        }
    }

    fn processing_time(&mut self, now_ms: i64, output: &mut dyn Output) -> Result<()> {
        if self.processing_time {
            let opened = opened(&mut self.opened)?;
            opened.now_ms = opened.now_ms.max(now_ms);
            self.advance(now_ms - 1, self.piece_end(), output)?;
        }
        Ok(())
    }

    fn state_bytes(&mut self) -> usize {
        self.opened
            .as_ref()
            .map_or(0, |opened| match &opened.windows {
                Windows::Panes(panes) => panes.used_bytes(),
                Windows::OfKeys(windows) => windows.used_bytes(),
            })
    }

    fn snapshot(&mut self, _checkpoint: u64) -> Result<OperatorSnapshot> {
        let types = self.plan.types.clone();
        let (windows, watermarks) = match &mut opened(&mut self.opened)?.windows {
            Windows::Panes(panes) => (panes.snapshot(types), panes.watermarks()),
            Windows::OfKeys(windows) => (windows.snapshot(types), windows.watermarks()),
        };
        Ok(OperatorSnapshot {
            keyed: vec![windows],
            lists: vec![watermarks.list()],
        })
    }

    /// Windows that had fired do not fire again, whatever watermark comes first: the snapshot
    /// contains the one under which it was taken.
    fn restore(&mut self, state: &mut OperatorState) -> Result<()> {
        let (types, opened) = (&self.plan.types, opened(&mut self.opened)?);
        let watermarks = GroupWatermarks::restore(state, &opened.context)?;
        if let Some(watermarks) = watermarks.as_ref().filter(|_| self.processing_time) {
            opened.now_ms = opened.now_ms.max(watermarks.greatest().saturating_add(1));
        }
        match &mut opened.windows {
            Windows::Panes(panes) => panes.restore(state, types, watermarks),
            Windows::OfKeys(windows) => windows.restore(state, types, watermarks),
        }
    }

    /// Global windows fire, even in a job without event time. Open processing-time windows fire as
    /// they are, or are dropped.
    fn end_of_time(&mut self, fires: bool, output: &mut dyn Output) -> Result<()> {
        if self.plan.assigner == Assigner::Global || self.processing_time && fires {
            return self.advance(WATERMARK_MAX, None, output).map(drop);
        }
        if !self.processing_time {
            return Ok(());
        }
        let mut dropped = Dropped(0);
        match &opened(&mut self.opened)?.windows {
            Windows::OfKeys(windows) => dropped.0 = windows.n_open(),
            Windows::Panes(_) => drop(self.advance(WATERMARK_MAX, None, &mut dropped)?),
        }
        TaskMetrics::add(
            &opened(&mut self.opened)?.context.metrics.dropped_at_end,
            dropped.0,
        );
        Ok(())
    }
}
