//! What a call returned, checked against what it was asked and against the plan.
//!
//! Steps: the timers that fired, because origins refer to them; then the rows, segment by segment;
//! then the state. An [`Outcome`] that leaves this file is consistent; anything else is
//! `BAD_OUTPUT` with the place.

mod order;
mod timers;

use self::order::Order;
use self::timers::timers;
use crate::abi::Section;
use crate::lift::{Reader, bad};
use crate::signature::{FunctionTypes, Signature};
use crate::trap::Stop;
use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use std::sync::Arc;
use streamrt_operator::{Call, Invocation, Outcome, RowsOut, StateOut};
use streamrt_types::{Error, Mark, Result, code};
use streamrt_wit::codes::{action, buffer, section};

/// What a call was asked, as far as its answer is checked against it.
pub(crate) struct Asked<'a> {
    call: Call,
    n_rows: usize,
    n_slots: usize,
    marks: &'a [Mark],
}

impl<'a> Asked<'a> {
    pub fn of(invocation: &Invocation<'a>) -> Asked<'a> {
        let (states, rows) = (invocation.states.first(), invocation.rows.as_ref());
        let n_accumulators = states.map_or(0, |state| state.present.len());
        let targets = states
            .and_then(|state| state.slots.as_ref())
            .and_then(|slots| slots.last());
        let n_slots = match invocation.call {
            Call::Process | Call::SecondInput | Call::Window => {
                invocation.slots.as_ref().map_or(0, |slots| slots.n_slots)
            }
            Call::Accumulate | Call::Result => n_accumulators,
            Call::Merge => targets.map_or(0, |last| *last as usize + 1),
        };
        Asked {
            call: invocation.call,
            n_rows: rows.map_or(0, |rows| rows.columns.num_rows()),
            n_slots,
            marks: rows.map_or(&[], |rows| rows.marks),
        }
    }

    pub fn n_slots(&self) -> usize {
        self.n_slots
    }

    fn is_process(&self) -> bool {
        matches!(self.call, Call::Process | Call::SecondInput)
    }

    /// What output rows come from: input rows, or for windows and results the slots.
    fn n_origins(&self) -> usize {
        if self.is_process() {
            self.n_rows
        } else {
            self.n_slots
        }
    }
}

/// The most segments of one call; each searches for those of the same port. Separate sections are
/// meant for a mebibyte each.
const SECTIONS_MAX: usize = 10_000;

/// Emitted and returned sections together may not be larger than the limit.
pub(crate) fn check_size(sections: &[Section], bytes_max: usize) -> Result<()> {
    if sections.len() > SECTIONS_MAX {
        return Err(bad(format!(
            "the plugin sends {} sections in one call, and may send {SECTIONS_MAX}",
            sections.len()
        )));
    }
    let n_bytes: usize = sections.iter().map(Section::cost).sum();
    if n_bytes > bytes_max {
        Err(Error::new(
            code::OUTPUT_LIMIT,
            Stop::Output { bytes_max }.to_string(),
        ))
    } else {
        Ok(())
    }
}

/// Takes out what the user's code has counted in the call.
///
/// # Errors
/// `UserCode` if the names or the numbers are not such.
pub(crate) fn take_counted(sections: &mut Vec<Section>) -> Result<Vec<(String, i64)>> {
    let mut counters = sections.extract_if(.., |section| section.role == section::COUNTERS);
    let Some(section) = counters.next() else {
        return Ok(Vec::new());
    };
    if counters.next().is_some() {
        return Err(bad("there are two sections of counters"));
    }
    let schema = Schema::new(vec![
        Field::new("name", DataType::Utf8, false),
        Field::new("n", DataType::Int64, false),
    ]);
    let mut reader = Reader::new(section);
    let columns = reader.columns(&Arc::new(schema), 0);
    let columns = columns.map_err(|e| e.at("counters"))?;
    reader.finish().map_err(|e| e.at("counters"))?;
    let names = columns.column(0).as_string::<i32>().iter();
    let numbers = columns.column(1).as_primitive::<Int64Type>().iter();
    let counted = names.zip(numbers).map(|(name, n)| {
        let name = name.unwrap_or_default();
        match (1..=COUNTER_NAME_BYTES_MAX).contains(&name.len()) {
            true => Ok((name.to_owned(), n.unwrap_or_default())),
            false => Err(bad(format!(
                "a counter has a name of {} bytes, and may have one of 1 to {COUNTER_NAME_BYTES_MAX}",
                name.len()
            ))),
        }
    });
    counted.collect()
}

const COUNTER_NAME_BYTES_MAX: usize = 100;

pub(crate) fn too_many_counters() -> Error {
    bad("the plugin counts under more than 100 names in one task")
}

/// # Errors
/// `UserCode` for the first inconsistency.
pub(crate) fn decode(
    signature: &Signature,
    asked: &Asked<'_>,
    sections: Vec<Section>,
) -> Result<Outcome> {
    let first = signature
        .first()
        .ok_or_else(|| Error::internal("a chain has at least one function"))?;
    let (mut rows, mut outcome) = (Vec::new(), Outcome::default());
    for section in sections {
        match section.role {
            section::ROWS => rows.push(section),
            section::STATE => outcome.states.push(state(first, asked, section)?),
            section::TIMERS if outcome.timers.is_empty() => {
                outcome.timers = timers(first, asked, section).map_err(|e| e.at("timers"))?
            }
            section::TIMERS => return Err(bad("there are two sections of timers")),
            other => {
                return Err(bad(format!(
                    "there is a section of role {other}, which does not come out of a plugin"
                )));
            }
        }
    }
    check_doubled(&outcome.states)?;
    let order = Order::new(asked, &outcome.timers);
    outcome.rows = ports(signature, &order, rows)?;
    Ok(outcome)
}

fn check_doubled(states: &[StateOut]) -> Result<()> {
    let doubled = states.iter().enumerate().find(|(i, state)| {
        states[..*i]
            .iter()
            .any(|earlier| earlier.number == state.number)
    });
    doubled.map_or(Ok(()), |(_, state)| {
        Err(bad(format!(
            "there are two sections of state {}",
            state.number
        )))
    })
}

/// One segment of a port, or several joined.
struct Segment {
    function: usize,
    port: u16,
    rows: RowsOut,
}

/// Reads the rows of all ports, and joins the segments of each.
fn ports(signature: &Signature, order: &Order<'_>, sections: Vec<Section>) -> Result<Vec<RowsOut>> {
    let mut joined: Vec<Vec<Segment>> = Vec::new();
    for section in sections {
        let segment = segment(signature, order, section)?;
        match joined
            .iter_mut()
            .find(|of| of[0].function == segment.function && of[0].port == segment.port)
        {
            Some(of) => of.push(segment),
            None => joined.push(vec![segment]),
        }
    }
    joined
        .into_iter()
        .map(|segments| join(signature, order, segments))
        .collect()
}

fn segment(signature: &Signature, order: &Order<'_>, section: Section) -> Result<Segment> {
    let (function, port) = (usize::from(section.port >> 8), section.port & 0xff);
    let types = signature.functions.get(function);
    let types = types.ok_or_else(|| {
        bad(format!(
            "there are rows of function {function}, but the chain has {}",
            signature.functions.len()
        ))
    })?;
    let place = |e: Error| {
        e.at(format_args!(
            "{} of `{}`",
            port_name(types, port),
            types.name
        ))
    };
    if port == 0 && function + 1 < signature.functions.len() {
        return Err(place(bad("rows came out between two functions of a chain")));
    }
    let columns = types
        .ports
        .get(usize::from(port))
        .ok_or_else(|| bad(format!("`{}` has no output {port}", types.name)))?;
    let rows = read_rows(columns.columns.as_ref(), order, section).map_err(place)?;
    Ok(Segment {
        function,
        port,
        rows: RowsOut {
            function,
            port,
            ..rows
        },
    })
}

fn port_name(types: &FunctionTypes, port: u16) -> String {
    match types.ports.get(usize::from(port)) {
        Some(side) if !side.name.is_empty() => format!("side output `{}`", side.name),
        _ => "output".into(),
    }
}

fn read_rows(schema: Option<&SchemaRef>, order: &Order<'_>, section: Section) -> Result<RowsOut> {
    let mut reader = Reader::new(section);
    let columns = schema.map(|schema| reader.columns(schema, 0)).transpose()?;
    let origin = reader.numbers::<u32>(buffer::ORIGIN, "origin")?;
    let n_rows = reader.rows();
    reader.finish()?;
    match &origin {
        Some(origin) => order.check(origin)?,
        None if n_rows != order.n_origins => {
            let of = if matches!(order.call, Call::Process | Call::SecondInput) {
                "input rows"
            } else {
                "slots"
            };
            return Err(bad(format!(
                "{n_rows} rows without origin, but there are {} {of}",
                order.n_origins
            )));
        }
        None => {}
    }
    Ok(RowsOut {
        function: 0,
        port: 0,
        n_rows,
        columns,
        origin: origin.map(|origin| origin.to_vec()),
    })
}

/// Joins the segments of one port. One segment, which is the rule, is passed on as it is.
fn join(signature: &Signature, order: &Order<'_>, mut segments: Vec<Segment>) -> Result<RowsOut> {
    if segments.len() == 1 {
        return segments
            .pop()
            .map(|segment| segment.rows)
            .ok_or_else(|| Error::internal("a segment is gone"));
    }
    let (function, port) = (segments[0].function, segments[0].port);
    let types = &signature.functions[function];
    let place = |e: Error| {
        e.at(format_args!(
            "{} of `{}`",
            port_name(types, port),
            types.name
        ))
    };
    let n_rows = segments.iter().map(|segment| segment.rows.n_rows).sum();
    let origins: Option<Vec<Vec<u32>>> = segments
        .iter_mut()
        .map(|segment| segment.rows.origin.take())
        .collect();
    let origin = origins
        .ok_or_else(|| place(bad("one of several segments has no origin")))?
        .concat();
    order.check(&origin).map_err(place)?;
    let columns = match &types.ports[usize::from(port)].columns {
        None => None,
        Some(schema) => {
            let parts: Vec<RecordBatch> = segments
                .iter_mut()
                .filter_map(|segment| segment.rows.columns.take())
                .collect();
            let joined = arrow_select::concat::concat_batches(schema, &parts);
            Some(joined.map_err(|e| {
                Error::new(
                    code::OUTPUT_LIMIT,
                    "the segments of an output cannot be joined",
                )
                .with_source(e)
            })?)
        }
    };
    Ok(RowsOut {
        function,
        port,
        n_rows,
        columns,
        origin: Some(origin),
    })
}

fn state(function: &FunctionTypes, asked: &Asked<'_>, section: Section) -> Result<StateOut> {
    let number = section.port;
    let (name, schema) = if asked.is_process() {
        let state = function.states.get(usize::from(number));
        let state = state.ok_or_else(|| {
            bad(format!(
                "there is state {number}, which `{}` does not declare",
                function.name
            ))
        })?;
        (state.name.as_str(), &state.value)
    } else {
        let accumulator = function.accumulator.as_ref().filter(|_| number == 0);
        (
            "accumulator",
            accumulator.ok_or_else(|| {
                bad(format!(
                    "there is state {number}, but `{}` has no such accumulator",
                    function.name
                ))
            })?,
        )
    };
    let mut reader = Reader::new(section);
    read_state(number, schema, asked, &mut reader)
        .and_then(|state| reader.finish().map(|()| state))
        .map_err(|e| e.at(format_args!("state `{name}`")))
}

fn read_state(
    number: u16,
    schema: &SchemaRef,
    asked: &Asked<'_>,
    reader: &mut Reader,
) -> Result<StateOut> {
    if reader.rows() != asked.n_slots {
        return Err(bad(format!(
            "{} rows came out for {} slots",
            reader.rows(),
            asked.n_slots
        )));
    }
    let values = reader.columns(schema, 0)?;
    let actions = reader
        .numbers::<u8>(buffer::ACTION, "action")?
        .map(|actions| actions.to_vec());
    match actions
        .iter()
        .flatten()
        .find(|action| !matches!(**action, action::KEEP..=action::CLEAR | action::READ))
    {
        Some(unknown) => Err(bad(format!("there is no action {unknown} on state"))),
        None => Ok(StateOut {
            number,
            values,
            actions,
        }),
    }
}
