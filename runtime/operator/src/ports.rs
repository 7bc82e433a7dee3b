//! Output ports of a chain of functions: makes batches of what a call returned.
//!
//! A row of output names its origin, an input row or a fired timer. From the origin come the event
//! time, the position for reports, the columns that the guest did not send, and the place of the
//! marks. Invariant: every port gets every mark of the input, in the order of the events: after
//! what came before it and after the output of the timers that it fired.

use crate::function::{RowsOut, TimerOut};
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow_schema::SchemaRef;
use streamrt_types::{
    Batch, Configuration, Error, Mark, Result, Times, code, columns_bytes, port_schema,
};
use streamrt_wit::codes::{NO_MARK, ORIGIN_TIMER};
use streamrt_wit::{Function, OutputColumns};

/// The number under which [`crate::Output::batch`] knows port `port` of function `function` of a
/// chain.
pub fn port_number(function: usize, port: u16) -> u16 {
    (function as u16) << 8 | port
}

/// All ports that leave a chain: those of its last function, and the side outputs of the others.
pub(crate) struct Ports {
    ports: Vec<Port>,
}

struct Port {
    function: usize,
    port: u16,
    schema: SchemaRef,
    /// Whether the columns of the chain's input come first; then the guest sends only those after
    /// them. It may also send all.
    from_input: bool,
}

/// The rows and marks that a call got, and the timers that it fired.
pub(crate) struct Events<'a> {
    pub input: &'a Batch,
    pub marks: &'a [Mark],
    pub timers: &'a [TimerOut],
    /// Bytes of the input's columns that one port may repeat for the rows that came back.
    pub joined_bytes_max: usize,
}

/// The limits on the calls of an operator, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallLimits {
    /// A piece of output.
    pub batch_bytes: usize,
    /// Columns of the input in the output of one call.
    pub output_bytes: usize,
    /// Value state of the keys of one call, if there are several.
    pub state_bytes: usize,
}

/// The share of an instance's memory that value state may take in one call: a guest holds it twice,
/// incoming and outgoing.
const STATE_SHARE: usize = 8;

impl CallLimits {
    pub(crate) fn new(configuration: &Configuration) -> CallLimits {
        CallLimits {
            batch_bytes: configuration.batch_bytes,
            // Columns have 32-bit offsets.
            output_bytes: configuration.plugin_output_bytes.min(i32::MAX as usize),
            state_bytes: configuration.plugin_memory_bytes / STATE_SHARE,
        }
    }
}

impl Ports {
    /// # Errors
    /// `Invalid` if an added column has the name of one that is there.
    pub(crate) fn new(functions: &[Function], input: &SchemaRef) -> Result<Ports> {
        let mut ports = Vec::new();
        let mut schema = input.clone();
        // Whether the chain's input comes first in what the function gets. The guest then sends
        // what was added after it.
        let mut untouched = true;
        for (number, function) in functions.iter().enumerate() {
            let is_last = number + 1 == functions.len();
            let mut main = schema.clone();
            for (port, output) in function.outputs.iter().enumerate() {
                let full = port_schema(&schema, &output.columns)
                    .map_err(|e| e.at(format_args!("function `{}`", function.name)))?;
                if port == 0 {
                    main = full.clone();
                }
                if port > 0 || is_last {
                    let forwards =
                        untouched && !matches!(output.columns, OutputColumns::Replace { .. });
                    ports.push(Port {
                        function: number,
                        port: port as u16,
                        schema: full,
                        from_input: forwards,
                    });
                }
            }
            untouched &= !matches!(
                function.outputs.first().map(|output| &output.columns),
                Some(OutputColumns::Replace { .. })
            );
            schema = main;
        }
        Ok(Ports { ports })
    }

    /// Numbers and schemas of the ports.
    pub(crate) fn schemas(&self) -> impl Iterator<Item = (u16, &SchemaRef)> {
        self.ports
            .iter()
            .map(|port| (port_number(port.function, port.port), &port.schema))
    }

    /// Makes batches of the rows of a call, with its marks for every port.
    ///
    /// # Errors
    /// `UserCode` if columns or origins do not fit; checked for all ports before any row is sent.
    pub(crate) fn assemble(
        &self,
        mut rows: Vec<RowsOut>,
        events: &Events<'_>,
    ) -> Result<Vec<(u16, Batch)>> {
        let mut batches = Vec::with_capacity(self.ports.len());
        for port in &self.ports {
            let found = rows
                .iter()
                .position(|out| (out.function, out.port) == (port.function, port.port));
            let out = found
                .map(|at| rows.swap_remove(at))
                .filter(|out| out.n_rows > 0);
            let batch = match out {
                Some(out) => port.batch(out, events)?,
                None if events.marks.is_empty() => continue,
                None => port.marks_only(events.marks),
            };
            batches.push((port_number(port.function, port.port), batch));
        }
        match rows.iter().find(|out| out.n_rows > 0) {
            Some(out) => Err(bad_output(format!(
                "rows came from function {} on port {}, which leads nowhere",
                out.function, out.port
            ))),
            None => Ok(batches),
        }
    }

    /// Marks for every port, without rows.
    pub(crate) fn marks_only(&self, marks: &[Mark]) -> Vec<(u16, Batch)> {
        let of_port = |port: &Port| {
            (
                port_number(port.function, port.port),
                port.marks_only(marks),
            )
        };
        if marks.is_empty() {
            Vec::new()
        } else {
            self.ports.iter().map(of_port).collect()
        }
    }
}

/// The times of a batch whose time column is not passed on.
pub(crate) fn detached_times(batch: &Batch) -> Times {
    match batch.times {
        Times::Column(index) => Times::Array(
            batch
                .columns
                .column(index)
                .as_primitive::<Int64Type>()
                .values()
                .clone(),
        ),
        ref times => times.clone(),
    }
}

fn bad_output(message: impl Into<String>) -> Error {
    Error::new(code::BAD_OUTPUT, message)
}

/// Whether row n comes from row n for all rows; then nothing needs to be selected.
fn is_identity(origin: &[u32], n_rows: usize) -> bool {
    origin.len() == n_rows && origin.iter().zip(0u32..).all(|(&o, i)| o == i)
}

impl Port {
    fn marks_only(&self, marks: &[Mark]) -> Batch {
        let marks = marks
            .iter()
            .map(|mark| Mark {
                row: 0,
                watermark: mark.watermark,
            })
            .collect();
        Batch {
            marks,
            ..Batch::new(RecordBatch::new_empty(self.schema.clone()))
        }
    }

    fn batch(&self, out: RowsOut, events: &Events<'_>) -> Result<Batch> {
        let n_input = events.input.n_rows();
        match out.origin {
            None if out.n_rows == n_input => self.same_rows(out.columns, events),
            None => Err(bad_output(format!(
                "{} rows came back for {n_input} without their origins",
                out.n_rows
            ))),
            Some(origin) if is_identity(&origin, n_input) => self.same_rows(out.columns, events),
            Some(origin) if origin.len() != out.n_rows => Err(bad_output(format!(
                "{} rows came with {} origins",
                out.n_rows,
                origin.len()
            ))),
            Some(origin) => self.selected_rows(out.columns, origin, events),
        }
    }

    /// Row n comes from input row n.
    fn same_rows(&self, sent: Option<RecordBatch>, events: &Events<'_>) -> Result<Batch> {
        let input = events.input;
        if sent.is_none()
            && self.from_input
            && self.schema.fields() == input.columns.schema_ref().fields()
        {
            return Ok(Batch {
                marks: events.marks.to_vec(),
                ..input.clone()
            });
        }
        let columns = self.columns(sent, input.n_rows(), || {
            Ok(input.columns.columns().to_vec())
        })?;
        let times = if self.from_input {
            input.times.clone()
        } else {
            detached_times(input)
        };
        Ok(Batch {
            columns,
            times,
            marks: events.marks.to_vec(),
            origin: input.origin.clone(),
        })
    }

    fn selected_rows(
        &self,
        sent: Option<RecordBatch>,
        origin: Vec<u32>,
        events: &Events<'_>,
    ) -> Result<Batch> {
        let input = events.input;
        let n_rows = origin.len();
        let has_timers = origin.iter().any(|&o| o >= ORIGIN_TIMER);
        let marks = place_marks(&origin, events);
        if has_timers {
            // A timer has no input row to forward, and its rows no position.
            let columns = self.columns(sent, n_rows, || {
                Err(bad_output(
                    "a row that came from a timer forwards columns of the input",
                ))
            })?;
            return Ok(Batch {
                columns,
                times: timed_by_timers(&origin, events)?,
                marks,
                origin: None,
            });
        }
        if origin.iter().any(|&o| o as usize >= input.n_rows()) {
            return Err(bad_output(
                "an output row names an input row that is not there",
            ));
        }
        let times = match (&input.times, input.times()) {
            (Times::Column(index), _) if self.from_input => Times::Column(*index),
            (_, Some(times)) => Times::Array(origin.iter().map(|&o| times[o as usize]).collect()),
            (_, None) => Times::None,
        };
        let positions = input
            .origin
            .as_ref()
            .map(|positions| positions.take(&origin));
        let indices = UInt32Array::from(origin);
        let columns = self.columns(sent, n_rows, || {
            let joined_bytes = (columns_bytes(&input.columns) as u128 * n_rows as u128 / input.n_rows().max(1) as u128) as usize;
            if joined_bytes > events.joined_bytes_max {
                let message = format!(
                    "{n_rows} rows came back, which with the columns of the input have more than {} bytes",
                    events.joined_bytes_max
                );
                return Err(Error::new(code::OUTPUT_LIMIT, message));
            }
            arrow_select::take::take_arrays(input.columns.columns(), &indices, None)
                .map_err(|e| Error::internal("rows could not be selected").with_source(e))
        })?;
        Ok(Batch {
            columns,
            times,
            marks,
            origin: positions,
        })
    }

    /// Joins the columns of the input, where they are needed, with those that were sent.
    fn columns(
        &self,
        sent: Option<RecordBatch>,
        n_rows: usize,
        base: impl FnOnce() -> Result<Vec<ArrayRef>>,
    ) -> Result<RecordBatch> {
        let sent = sent.map_or(Vec::new(), |sent| sent.columns().to_vec());
        let n_columns = self.schema.fields().len();
        let columns = if self.from_input && sent.len() < n_columns {
            base()?.into_iter().chain(sent).collect()
        } else {
            sent
        };
        if columns.len() != n_columns {
            return Err(bad_output(format!(
                "{} columns came where {n_columns} were declared",
                columns.len()
            )));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(n_rows));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options).map_err(|e| {
            bad_output("the columns that came are not those that were declared").with_source(e)
        })
    }
}

fn timed_by_timers(origin: &[u32], events: &Events<'_>) -> Result<Times> {
    let times = events.input.times();
    let time = |&o: &u32| match o.checked_sub(ORIGIN_TIMER) {
        Some(timer) => events.timers.get(timer as usize).map(|timer| timer.time),
        // Without event time only processing-time timers fire, and a row counts as being now as
        // well.
        None => times.map_or(events.timers.first().map(|timer| timer.time), |times| {
            times.get(o as usize).copied()
        }),
    };
    let times: Option<Vec<i64>> = origin.iter().map(time).collect();
    times
        .map(|times| Times::Array(times.into()))
        .ok_or_else(|| bad_output("an output row names an event that is not there"))
}

/// Where the marks are among output rows of these origins.
fn place_marks(origin: &[u32], events: &Events<'_>) -> Vec<Mark> {
    let mut row = 0;
    let mut placed = Vec::with_capacity(events.marks.len());
    for (number, mark) in events.marks.iter().enumerate() {
        while row < origin.len() && is_before(origin[row], number, mark, events.timers) {
            row += 1;
        }
        placed.push(Mark {
            row: row as u32,
            watermark: mark.watermark,
        });
    }
    placed
}

/// Whether an output row of this origin comes before mark `number`.
fn is_before(origin: u32, number: usize, mark: &Mark, timers: &[TimerOut]) -> bool {
    match origin.checked_sub(ORIGIN_TIMER) {
        None => origin < mark.row,
        Some(timer) => timers
            .get(timer as usize)
            .is_some_and(|timer| timer.mark == NO_MARK || timer.mark as usize <= number),
    }
}
