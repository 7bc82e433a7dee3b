//! A chain of functions inside one guest call: the first one's main output is the next one's input,
//! without a detour through the host.
//!
//! 1. The rows of the call become the first stage's input, with the columns in its order.
//! 2. Each stage gives its main output as origins (which input row each row comes from) and new
//!    columns; the next stage sees the columns by name, those of a forwarding stage through a
//!    selection, so that a filter copies nothing.
//! 3. What leaves the call is counted from the call's own rows: origins are composed, and columns
//!    that were made inside are sent.
//!
//! Invariant: outputs are in the order of the events that caused them. Called by `glue` and the
//! test harness.

use crate::bindings::streamrt::plugin::types::Section;
use crate::column::{
    OwnedColumn, RawColumn, Table, find, fixed, gather, in_blocks, plain, section, u32_bytes,
};
use crate::error::{Error, Result};
use crate::host::StateHost;
use crate::sink::RunningSink;
use std::rc::Rc;
use streamrt_wit::codes::{self, buffer};
use streamrt_wit::{Function, OutputColumns, Schema};

/// Makes the running form of a function, once.
pub(crate) enum Maker {
    Stage(Box<dyn Stage>),
    Whole(Box<dyn Whole>),
    Sink(Box<dyn RunningSink>),
}

impl Maker {
    pub(crate) fn stage(stage: impl Stage + 'static) -> Maker {
        Maker::Stage(Box::new(stage))
    }

    pub(crate) fn whole(whole: impl Whole + 'static) -> Maker {
        Maker::Whole(Box::new(whole))
    }
}

/// The port of the rows of a second input.
pub(crate) const SECOND_INPUT: u16 = 1;

/// A function that can stand in a chain: kinds 1 to 6, and in front of one 11.
pub(crate) trait Stage {
    /// Called once, before the first call.
    fn open(&mut self, _context: &StageContext) {}

    /// Processes the rows of one call.
    fn run(&mut self, input: &StageInput<'_>, out: &mut StageOutput) -> Result<()>;
}

/// A function that gets its calls as they are: kinds 7 to 9.
pub(crate) trait Whole {
    fn invoke(&mut self, call: u16, input: &[Section]) -> Result<Vec<Section>>;
}

/// What a stage learns when its chain is opened.
pub(crate) struct StageContext {
    /// Names of its output ports.
    pub(crate) ports: Vec<String>,
    pub(crate) host: Rc<dyn StateHost>,
}

/// A watermark, and the row that it stands before.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    pub(crate) row: u32,
    pub(crate) watermark: i64,
}

/// What a stage works on.
pub(crate) struct StageInput<'a> {
    /// The columns that the function reads, in its order.
    pub(crate) table: Table<'a>,
    /// Where row i stands in `table`; `None`: at i.
    pub(crate) selection: Option<&'a [u32]>,
    pub(crate) n_rows: usize,
    /// In ms.
    pub(crate) times: Option<&'a [[u8; 8]]>,
    pub(crate) marks: &'a [Mark],
    /// Everything that the host sent; for slots, state and timers.
    pub(crate) sections: &'a [Section],
    /// Whether it stands in front, so that slots, state and timers are meant for it.
    pub(crate) in_front: bool,
}

impl StageInput<'_> {
    /// Calls `each` with the number of each row and its place in the table.
    #[inline]
    pub(crate) fn try_each(&self, mut each: impl FnMut(usize, usize) -> Result<()>) -> Result<()> {
        match self.selection {
            None => in_blocks(self.n_rows, |row| each(row, row)),
            Some(places) => places
                .iter()
                .enumerate()
                .try_for_each(|(row, &place)| each(row, place as usize)),
        }
    }

    #[inline]
    pub(crate) fn place(&self, row: usize) -> usize {
        self.selection.map_or(row, |places| places[row] as usize)
    }
}

/// Rows of one output port.
#[derive(Default)]
pub(crate) struct PortRows {
    pub(crate) n_rows: usize,
    /// The columns that the port adds or replaces.
    pub(crate) columns: Vec<OwnedColumn>,
    /// Input rows and fired timers; `None`: row n comes from input row n.
    pub(crate) origin: Option<Vec<u32>>,
}

/// What a stage gives.
#[derive(Default)]
pub(crate) struct StageOutput {
    pub(crate) main: PortRows,
    /// Rows by port number.
    pub(crate) sides: Vec<(u16, PortRows)>,
    /// State and timers.
    pub(crate) sections: Vec<Section>,
    /// Times of the fired timers, in order.
    pub(crate) fired: Vec<i64>,
    /// For a stage that fires timers: the output row that each mark stands before.
    pub(crate) mark_rows: Option<Vec<u32>>,
}

/// An opened chain.
pub(crate) enum Chain {
    /// Declarations, with one stage for each.
    Stages(Vec<Function>, Vec<Box<dyn Stage>>),
    Whole(Box<dyn Whole>),
}

impl Chain {
    /// Joins opened functions.
    ///
    /// # Errors
    /// If one of several cannot stand in a chain.
    pub(crate) fn new(
        functions: Vec<(Function, Maker)>,
        host: &Rc<dyn StateHost>,
    ) -> Result<Chain> {
        let alone = functions.len() == 1;
        let (mut declared, mut stages) = (Vec::new(), Vec::new());
        for (function, maker) in functions {
            match maker {
                Maker::Whole(whole) if alone => return Ok(Chain::Whole(whole)),
                Maker::Whole(_) | Maker::Sink(_) => {
                    return Err(Error::unknown(format!(
                        "{}: a function of this kind cannot be chained",
                        function.name
                    )));
                }
                Maker::Stage(mut stage) => {
                    let ports = function
                        .outputs
                        .iter()
                        .map(|port| port.name.clone())
                        .collect();
                    stage.open(&StageContext {
                        ports,
                        host: host.clone(),
                    });
                    declared.push(function);
                    stages.push(stage);
                }
            }
        }
        Ok(Chain::Stages(declared, stages))
    }

    /// Does one call.
    pub(crate) fn invoke(&mut self, call: u16, input: &[Section]) -> Result<Vec<Section>> {
        match self {
            Chain::Whole(whole) => whole.invoke(call, input),
            Chain::Stages(functions, stages) if call == codes::call::PROCESS => {
                run(functions, stages, input)
            }
            Chain::Stages(..) => Err(Error::unknown(format!(
                "this function does not know call {call}"
            ))),
        }
    }
}

/// The columns that are known between two stages.
struct Between<'a> {
    /// Columns that the call brought in or an earlier stage made, with where to read them.
    columns: Vec<Known<'a>>,
    /// Where row i stands in the columns; `None`: at i.
    selection: Option<Vec<u32>>,
    n_rows: usize,
    /// Rows of the call.
    n_call_rows: usize,
    /// For each row the row of the call, or the timer, that it comes from. `None`: the same number.
    origin: Option<Vec<u32>>,
    times: Option<std::borrow::Cow<'a, [[u8; 8]]>>,
    marks: Vec<Mark>,
}

struct Known<'a> {
    field: &'a streamrt_wit::Field,
    bytes: Bytes<'a>,
    /// Made inside the chain, so the host does not have it.
    inner: bool,
}

enum Bytes<'a> {
    Sent(RawColumn<'a>),
    Made(OwnedColumn),
}

impl Bytes<'_> {
    fn raw(&self) -> RawColumn<'_> {
        match self {
            Bytes::Sent(column) => *column,
            Bytes::Made(column) => column.raw(),
        }
    }
}

fn run(
    functions: &[Function],
    stages: &mut [Box<dyn Stage>],
    input: &[Section],
) -> Result<Vec<Section>> {
    let Some(front) = functions.first() else {
        return Ok(Vec::new());
    };
    let second = input
        .iter()
        .any(|section| section.role == codes::section::ROWS && section.port == SECOND_INPUT);
    let columns = if second {
        &front.second_input
    } else {
        &front.input
    };
    let mut between = entry(columns, input)?;
    let mut sections = Vec::new();
    for ((function, stage), position) in functions.iter().zip(stages).zip(0u16..) {
        let mut out = StageOutput::default();
        let columns = if position == 0 {
            columns
        } else {
            &function.input
        };
        let table = between.table(columns, &function.name)?;
        let stage_input = StageInput {
            table,
            selection: between.selection.as_deref(),
            n_rows: between.n_rows,
            times: between.times.as_deref(),
            marks: &between.marks,
            sections: input,
            in_front: position == 0,
        };
        stage.run(&stage_input, &mut out)?;
        sections.append(&mut out.sections);
        for (port, rows) in std::mem::take(&mut out.sides) {
            let columns = &function.outputs[usize::from(port)].columns;
            sections.extend(between.leave(position << 8 | port, rows, columns));
        }
        if usize::from(position) + 1 == functions.len() {
            let columns = &function.outputs[0].columns;
            sections.extend(between.leave(position << 8, out.main, columns));
            break;
        }
        between = between.follow(out, function)?;
    }
    Ok(sections)
}

/// What the host sent, as the input of the first stage.
fn entry<'a>(schema: &'a Schema, input: &'a [Section]) -> Result<Between<'a>> {
    let Some(rows) = input
        .iter()
        .find(|section| section.role == codes::section::ROWS)
    else {
        return Ok(Between {
            columns: known(schema, &Table::default()),
            selection: None,
            n_rows: 0,
            n_call_rows: 0,
            origin: None,
            times: None,
            marks: Vec::new(),
        });
    };
    let n_rows = rows.rows as usize;
    let times = find(rows, buffer::TIME)
        .map(|bytes| fixed::<8>(bytes, n_rows))
        .transpose()?;
    let columns = known(schema, &Table::of(rows, schema.len()));
    Ok(Between {
        columns,
        selection: None,
        n_rows,
        n_call_rows: n_rows,
        origin: None,
        times: times.map(Into::into),
        marks: marks(rows)?,
    })
}

fn known<'a>(schema: &'a Schema, table: &Table<'a>) -> Vec<Known<'a>> {
    let column = |(i, field): (usize, &'a streamrt_wit::Field)| Known {
        field,
        bytes: Bytes::Sent(table.column(i)),
        inner: false,
    };
    schema.iter().enumerate().map(column).collect()
}

fn marks(rows: &Section) -> Result<Vec<Mark>> {
    let Some(bytes) = find(rows, buffer::MARK_ROW) else {
        return Ok(Vec::new());
    };
    let n = bytes.len() / 4;
    let watermarks = fixed::<8>(find(rows, buffer::MARK_WATERMARK).unwrap_or_default(), n)?;
    let mark = |(row, watermark): (&[u8; 4], &[u8; 8])| Mark {
        row: u32::from_le_bytes(*row),
        watermark: i64::from_le_bytes(*watermark),
    };
    Ok(fixed::<4>(bytes, n)?
        .iter()
        .zip(watermarks)
        .map(mark)
        .collect())
}

impl<'a> Between<'a> {
    /// The columns that a function reads, in its order.
    fn table(&self, columns: &Schema, function: &str) -> Result<Table<'_>> {
        let column = |wanted: &streamrt_wit::Field| match self
            .columns
            .iter()
            .find(|known| known.field.name == wanted.name)
        {
            Some(known) => Ok(known.bytes.raw()),
            None => Err(Error::host(format!(
                "{function}: the column {} does not reach it inside the chain",
                wanted.name
            ))),
        };
        Ok(Table {
            n_rows: self.n_rows_stored(),
            columns: columns.iter().map(column).collect::<Result<_>>()?,
        })
    }

    /// Rows of the columns; more than the rows of the stage where a selection stands in between.
    fn n_rows_stored(&self) -> usize {
        match &self.selection {
            Some(places) => places.iter().max().map_or(0, |&last| last as usize + 1),
            None => self.n_rows,
        }
    }

    /// Makes the section of an output port, counted from the rows of the call.
    fn leave(&self, port: u16, rows: PortRows, columns: &OutputColumns) -> Option<Section> {
        if rows.n_rows == 0 {
            return None;
        }
        let mut sent = match columns {
            OutputColumns::Replace { .. } => Vec::new(),
            OutputColumns::Forward | OutputColumns::Extend { .. } => {
                self.inner_columns(rows.origin.as_deref())
            }
        };
        sent.extend(rows.columns);
        let origin = compose(self.origin.as_deref(), rows.origin)
            .filter(|origin| !is_identity(origin, self.n_call_rows));
        let buffers = origin
            .map(|origin| plain(buffer::ORIGIN, u32_bytes(&origin)))
            .into_iter()
            .collect();
        Some(section(
            codes::section::ROWS,
            port,
            rows.n_rows,
            buffers,
            sent,
        ))
    }

    /// The columns that only the guest knows, at the rows that an output took.
    fn inner_columns(&self, origin: Option<&[u32]>) -> Vec<OwnedColumn> {
        let places = compose(self.selection.as_deref(), origin.map(<[u32]>::to_vec));
        let inner = self.columns.iter().filter(|known| known.inner);
        inner
            .map(|known| known.at(places.as_deref(), self.n_rows))
            .collect()
    }

    /// The input of the next stage.
    fn follow(self, out: StageOutput, function: &'a Function) -> Result<Between<'a>> {
        let main = out.main;
        let times = self
            .times
            .as_deref()
            .map(|times| times_of(times, main.origin.as_deref(), &out.fired).into());
        let marks = match out.mark_rows {
            Some(rows) => rows
                .iter()
                .zip(&self.marks)
                .map(|(&row, mark)| Mark { row, ..*mark })
                .collect(),
            None => moved(&self.marks, main.origin.as_deref()),
        };
        let origin = compose(self.origin.as_deref(), main.origin.clone());
        let places = compose(self.selection.as_deref(), main.origin);
        let made = |schema: &'a Schema, columns: Vec<OwnedColumn>| -> Vec<Known<'a>> {
            let known = |(field, column): (&'a streamrt_wit::Field, _)| Known {
                field,
                bytes: Bytes::Made(column),
                inner: true,
            };
            schema.iter().zip(columns).map(known).collect()
        };
        let (columns, selection) = match &function.outputs[0].columns {
            OutputColumns::Forward => (self.columns, places),
            OutputColumns::Replace { schema } => (made(schema, main.columns), None),
            OutputColumns::Extend { schema } => {
                let old = self
                    .columns
                    .into_iter()
                    .map(|known| known.dense(places.as_deref()));
                (old.chain(made(schema, main.columns)).collect(), None)
            }
        };
        Ok(Between {
            columns,
            selection,
            n_rows: main.n_rows,
            n_call_rows: self.n_call_rows,
            origin,
            times,
            marks,
        })
    }
}

impl<'a> Known<'a> {
    fn at(&self, places: Option<&[u32]>, n_rows: usize) -> OwnedColumn {
        let all: Vec<u32>;
        let places = match places {
            Some(places) => places,
            None => {
                all = (0..n_rows as u32).collect();
                &all
            }
        };
        gather(self.bytes.raw(), self.field.data_type, places)
    }

    fn dense(self, places: Option<&[u32]>) -> Known<'a> {
        match places {
            None => self,
            Some(places) => Known {
                bytes: Bytes::Made(self.at(Some(places), 0)),
                ..self
            },
        }
    }
}

/// `first`, then `second`: where a row of the second numbering stands in what the first one counts
/// from. `None` is the identity. A timer's number, which only a stage in front gives, passes
/// unchanged.
fn compose(first: Option<&[u32]>, second: Option<Vec<u32>>) -> Option<Vec<u32>> {
    match (first, second) {
        (None, second) => second,
        (Some(first), None) => Some(first.to_vec()),
        (Some(first), Some(mut second)) => {
            second
                .iter_mut()
                .for_each(|row| *row = first[*row as usize]);
            Some(second)
        }
    }
}

/// Whether each row of the call has one output row, in order; then the host needs no gather.
fn is_identity(origin: &[u32], n_rows: usize) -> bool {
    origin.len() == n_rows && origin.iter().zip(0u32..).all(|(&from, row)| from == row)
}

fn times_of(times: &[[u8; 8]], origin: Option<&[u32]>, fired: &[i64]) -> Vec<[u8; 8]> {
    let time = |&row: &u32| match row.checked_sub(codes::ORIGIN_TIMER) {
        None => times[row as usize],
        Some(timer) => fired[timer as usize].to_le_bytes(),
    };
    origin.map_or_else(
        || times.to_vec(),
        |origin| origin.iter().map(time).collect(),
    )
}

/// Moves marks to the first output row that comes from a row after them.
fn moved(marks: &[Mark], origin: Option<&[u32]>) -> Vec<Mark> {
    let Some(origin) = origin else {
        return marks.to_vec();
    };
    let row = |mark: &Mark| origin.partition_point(|&row| row < mark.row) as u32;
    marks
        .iter()
        .map(|mark| Mark {
            row: row(mark),
            ..*mark
        })
        .collect()
}

#[cfg(test)]
mod tests;
