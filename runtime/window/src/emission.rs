//! What one batch or watermark makes a window operator send: results on port 0, late rows on port
//! 1.
//!
//! Invariant: both ports carry all marks of the input, each after the results that it caused and
//! before those of later rows; and results are in the order of their causes. So the output does not
//! depend on how rows were batched. If one mark fires windows of several times, both ports have
//! marks between them as well.

use arrow_array::{RecordBatch, UInt32Array};
use arrow_schema::SchemaRef;
use std::time::{Duration, Instant};
use streamrt_operator::{OperatorContext, Output, TaskMetrics};
use streamrt_types::{Batch, Error, Mark, Result, Times, Watermark};

/// The most rows in an outgoing batch: a window that fires a million keys must not become one call
/// of a guest.
pub(crate) const PIECE_ROWS: usize = 8192;
/// The most bytes of its rows, give or take one row. Nothing that fires is held beyond a piece.
pub(crate) const PIECE_BYTES: usize = 1 << 20;

/// After this long, a sweep stops after a window or key group; it continues when the task has
/// looked for barriers and commands.
pub(crate) const PIECE_TIME: Duration = Duration::from_millis(100);

/// The empty batches of both ports, kept because most batches fire nothing.
pub(crate) struct Ports {
    results: RecordBatch,
    late: RecordBatch,
    in_event_time: bool,
    context: OperatorContext,
}

impl Ports {
    pub(crate) fn new(
        results: SchemaRef,
        late: SchemaRef,
        in_event_time: bool,
        context: &OperatorContext,
    ) -> Ports {
        let (results, late) = (
            RecordBatch::new_empty(results),
            RecordBatch::new_empty(late),
        );
        Ports {
            results,
            late,
            in_event_time,
            context: context.clone(),
        }
    }
}

/// The output of one input batch, as it grows. Many results go out before the batch ends.
pub(crate) struct Emission<'a> {
    input: &'a Batch,
    ports: &'a Ports,
    output: &'a mut dyn Output,
    /// When a sweep is to stop; `None` means not before its end.
    until: Option<Instant>,
    /// Marks of the input that have been placed.
    n_marks: usize,
    results: Vec<RecordBatch>,
    result_bytes: usize,
    times: Vec<i64>,
    result_marks: Vec<Mark>,
    late_rows: Vec<u32>,
    late_marks: Vec<Mark>,
}

impl<'a> Emission<'a> {
    pub(crate) fn new(
        input: &'a Batch,
        ports: &'a Ports,
        output: &'a mut dyn Output,
    ) -> Emission<'a> {
        let (results, times, late_rows) = (Vec::new(), Vec::new(), Vec::new());
        let n_marks = input.marks.len();
        let (result_marks, late_marks) = (Vec::with_capacity(n_marks), Vec::with_capacity(n_marks));
        Emission {
            input,
            ports,
            output,
            until: None,
            n_marks: 0,
            results,
            result_bytes: 0,
            times,
            result_marks,
            late_rows,
            late_marks,
        }
    }

    /// Lets a sweep stop.
    pub(crate) fn stop_at(&mut self, until: Option<Instant>) {
        self.until = until;
    }

    /// Whether the sweep is to stop at the next place where it can.
    pub(crate) fn is_over(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// Places a mark between the windows of a sweep: all results up to `time` are there. Downstream
    /// operators then process one window to its end before the results of the next come, as when
    /// time advances in small steps, and need not hold those of all.
    pub(crate) fn passed(&mut self, time: Watermark) {
        if self.ports.in_event_time {
            self.place(Mark {
                row: 0,
                watermark: time,
            });
        }
    }

    /// Places the next mark of the input after what was sent so far.
    fn place(&mut self, mark: Mark) {
        self.result_marks.push(Mark {
            row: self.times.len() as u32,
            ..mark
        });
        self.late_marks.push(Mark {
            row: self.late_rows.len() as u32,
            ..mark
        });
    }

    /// Places marks up to number `end`, and returns the last watermark among them.
    pub(crate) fn marks_to(&mut self, end: usize) -> Option<Watermark> {
        let input = self.input;
        let marks = &input.marks[self.n_marks.min(end)..end];
        marks.iter().for_each(|mark| self.place(*mark));
        self.n_marks = self.n_marks.max(end);
        marks.last().map(|mark| mark.watermark)
    }

    /// Places the marks before row `row`.
    pub(crate) fn marks_before(&mut self, row: usize) -> Option<Watermark> {
        let rest = &self.input.marks[self.n_marks..];
        let n = rest.partition_point(|mark| mark.row as usize <= row);
        self.marks_to(self.n_marks + n)
    }

    /// Adds results of one time, and sends what has accumulated if it is much.
    ///
    /// # Errors
    /// The output's own errors.
    pub(crate) fn results(&mut self, columns: RecordBatch, time: i64) -> Result<()> {
        self.result_times(columns.num_rows(), time);
        self.result_columns(columns);
        self.send_piece()
    }

    /// Sends results if they are much. All of them have their times.
    ///
    /// # Errors
    /// The output's own errors, or that the job was cancelled: a long sweep learns of it here.
    pub(crate) fn send_piece(&mut self) -> Result<()> {
        self.ports.context.check_cancel()?;
        if self.times.len() >= PIECE_ROWS || self.result_bytes >= PIECE_BYTES {
            self.send_results()
        } else {
            Ok(())
        }
    }

    /// Adds columns whose rows get their times, and so their places among the marks, by
    /// [`Emission::result_times`].
    pub(crate) fn result_columns(&mut self, columns: RecordBatch) {
        if columns.num_rows() > 0 {
            self.result_bytes += columns.get_array_memory_size();
            self.results.push(columns);
        }
    }

    /// Gives the next rows of the results their time.
    pub(crate) fn result_times(&mut self, n_rows: usize, time: i64) {
        self.times.resize(self.times.len() + n_rows, time);
    }

    /// Sends row `row` of the input to the late side output.
    pub(crate) fn late(&mut self, row: usize) {
        self.late_rows.push(row as u32);
    }

    fn send_results(&mut self) -> Result<()> {
        let columns = join(std::mem::take(&mut self.results), &self.ports.results)?;
        let (times, marks) = (
            std::mem::take(&mut self.times),
            std::mem::take(&mut self.result_marks),
        );
        let batch = Batch {
            columns,
            times: Times::Array(times.into()),
            marks,
            origin: None,
        };
        send(
            0,
            batch,
            std::mem::take(&mut self.result_bytes),
            self.output,
        )
    }

    /// Sends everything. All marks have been placed.
    pub(crate) fn send(mut self) -> Result<()> {
        if !self.times.is_empty() || !self.result_marks.is_empty() {
            self.send_results()?;
        }
        TaskMetrics::add(
            &self.ports.context.metrics.late_records,
            self.late_rows.len() as u64,
        );
        let late = match self.late_rows.is_empty() {
            true if self.late_marks.is_empty() => return Ok(()),
            true => Batch {
                times: Times::Array(Vec::new().into()),
                ..Batch::new(self.ports.late.clone())
            },
            false => self.input.take(&UInt32Array::from(self.late_rows))?,
        };
        self.output.batch(
            1,
            Batch {
                marks: self.late_marks,
                ..late
            },
        )
    }
}

fn join(mut parts: Vec<RecordBatch>, empty: &RecordBatch) -> Result<RecordBatch> {
    match parts.len() {
        0 => Ok(empty.clone()),
        1 => Ok(parts.remove(0)),
        _ => arrow_select::concat::concat_batches(empty.schema_ref(), &parts)
            .map_err(|e| Error::internal("results of windows could not be joined").with_source(e)),
    }
}

/// Sends a batch of `bytes` bytes in pieces of bounded size; a mark between two of them goes with
/// the first.
fn send(port: u16, batch: Batch, bytes: usize, output: &mut dyn Output) -> Result<()> {
    let piece_rows = (batch.n_rows() / bytes.div_ceil(PIECE_BYTES).max(1)).clamp(1, PIECE_ROWS);
    if batch.n_rows() <= piece_rows {
        return output.batch(port, batch);
    }
    let mut marks = batch.marks.iter().peekable();
    for start in (0..batch.n_rows()).step_by(piece_rows) {
        let mut piece = batch.slice(start, piece_rows.min(batch.n_rows() - start));
        while let Some(mark) = marks.next_if(|mark| mark.row as usize <= start + piece.n_rows()) {
            piece.marks.push(Mark {
                row: mark.row - start as u32,
                ..*mark
            });
        }
        output.batch(port, piece)?;
    }
    Ok(())
}
