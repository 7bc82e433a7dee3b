//! What a call gave back, checked against what it was asked and against the plan.
//!
//! Steps: the timers that fired, because origins refer to them; then the rows, segment by segment;
//! then the state. An [`Outcome`] that leaves this file holds together; what does not is
//! `BAD_OUTPUT` with the place.

use crate::abi::Section;
use crate::lift::{Reader, bad};
use crate::signature::{FunctionTypes, Signature};
use crate::trap::Stop;
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use streamrt_operator::{Call, Invocation, Outcome, RowsOut, StateOut, TimerOut};
use streamrt_types::{Error, Mark, Result, code};
use streamrt_wit::codes::{NO_MARK, ORIGIN_TIMER, action, buffer, domain, section};

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

/// Of one call; each looks for those of the same port. What is worth a section of its own has a
/// mebibyte.
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

/// # Errors
/// `UserCode` for the first thing that does not hold together.
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

/// The events of a call that output rows come from.
struct Order<'a> {
    n_origins: usize,
    marks: &'a [Mark],
    /// The marks of the fired timers, in the order of firing.
    fired: Vec<u32>,
    call: Call,
}

impl<'a> Order<'a> {
    fn new(asked: &Asked<'a>, timers: &[TimerOut]) -> Order<'a> {
        let fired = timers
            .iter()
            .take_while(|timer| timer.action == action::FIRED)
            .map(|timer| timer.mark)
            .collect();
        Order {
            n_origins: asked.n_origins(),
            marks: asked.marks,
            fired,
            call: asked.call,
        }
    }

    /// Each origin exists, and they ascend in the order of events.
    fn check(&self, origins: &[u32]) -> Result<()> {
        let is_plain = origins
            .last()
            .is_none_or(|last| (*last as usize) < self.n_origins)
            && origins.is_sorted();
        if is_plain {
            return Ok(());
        }
        let mut before = (0, 0);
        for (row, &origin) in origins.iter().enumerate() {
            let place = self.place(origin).ok_or_else(|| {
                bad(format!(
                    "row {row} comes from {}, which is not there",
                    name_of(origin)
                ))
            })?;
            if place < before {
                return Err(bad(format!(
                    "row {row} comes from {}, which stands before the origin of the row in front of it",
                    name_of(origin)
                )));
            }
            before = place;
        }
        Ok(())
    }

    /// Where an event stands: timers of processing time first, then marks and rows in turn; timers
    /// of one mark in the order of firing.
    fn place(&self, origin: u32) -> Option<(u64, u32)> {
        let Some(timer) = origin.checked_sub(ORIGIN_TIMER) else {
            return ((origin as usize) < self.n_origins).then_some((2 * u64::from(origin) + 2, 0));
        };
        match *self.fired.get(timer as usize)? {
            NO_MARK => Some((0, timer)),
            mark => Some((2 * u64::from(self.marks.get(mark as usize)?.row) + 1, timer)),
        }
    }
}

fn name_of(origin: u32) -> String {
    match origin.checked_sub(ORIGIN_TIMER) {
        Some(timer) => format!("fired timer {timer}"),
        None => format!("row {origin}"),
    }
}

/// One segment of a port, or what segments were joined to.
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

fn timers(function: &FunctionTypes, asked: &Asked<'_>, section: Section) -> Result<Vec<TimerOut>> {
    if !function.timers {
        return Err(bad(format!(
            "`{}` does not declare that it has any",
            function.name
        )));
    }
    let mut reader = Reader::new(section);
    let missing = |name: &'static str| move || bad(format!("buffer `{name}` is missing"));
    let times = reader
        .numbers::<i64>(buffer::TIME, "time")?
        .ok_or_else(missing("time"))?;
    let slots = reader
        .numbers::<u32>(buffer::SLOT, "slot")?
        .ok_or_else(missing("slot"))?;
    let domains = reader
        .numbers::<u8>(buffer::DOMAIN, "domain")?
        .ok_or_else(missing("domain"))?;
    let actions = reader
        .numbers::<u8>(buffer::ACTION, "action")?
        .ok_or_else(missing("action"))?;
    let marks = reader.numbers::<u32>(buffer::MARK, "mark")?;
    let n_rows = reader.rows();
    reader.finish()?;
    let timer = |i: usize| TimerOut {
        slot: slots[i],
        time: times[i],
        domain: domains[i],
        action: actions[i],
        mark: marks.as_ref().map_or(NO_MARK, |marks| marks[i]),
    };
    let timers: Vec<TimerOut> = (0..n_rows).map(timer).collect();
    timers.iter().enumerate().try_for_each(|(i, timer)| {
        check_timer(timer, asked).map_err(|fault| bad(format!("timer {i} {fault}")))
    })?;
    check_firing(&timers)?;
    Ok(timers)
}

fn check_timer(timer: &TimerOut, asked: &Asked<'_>) -> std::result::Result<(), String> {
    if timer.slot as usize >= asked.n_slots {
        return Err(format!(
            "has slot {}, but the call has {}",
            timer.slot, asked.n_slots
        ));
    }
    if timer.domain > domain::PROCESSING_TIME {
        return Err(format!("has the unknown time domain {}", timer.domain));
    }
    match (timer.action, timer.domain) {
        (action::FIRED, domain::EVENT_TIME) if timer.mark as usize >= asked.marks.len() => {
            Err(format!(
                "fired at mark {}, but the call has {}",
                timer.mark,
                asked.marks.len()
            ))
        }
        (action::FIRED, domain::PROCESSING_TIME) if timer.mark != NO_MARK => {
            Err("of processing time fired at a mark".into())
        }
        (action::FIRED..=action::DELETE, _) => Ok(()),
        (unknown, _) => Err(format!("has the unknown action {unknown}")),
    }
}

/// The fired ones come first, those of processing time before all, then mark by mark.
fn check_firing(timers: &[TimerOut]) -> Result<()> {
    let n_fired = timers
        .iter()
        .take_while(|timer| timer.action == action::FIRED)
        .count();
    if timers[n_fired..]
        .iter()
        .any(|timer| timer.action == action::FIRED)
    {
        return Err(bad("a timer that fired stands behind one that did not"));
    }
    // NO_MARK is the largest number, so that adding one makes it the first.
    let is_ordered = timers[..n_fired].is_sorted_by_key(|timer| timer.mark.wrapping_add(1));
    if is_ordered {
        Ok(())
    } else {
        Err(bad(
            "the timers that fired are not in the order of their marks",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(origins: &[u32], expected: Option<&str>) {
        let marks = [
            Mark {
                row: 1,
                watermark: 5,
            },
            Mark {
                row: 3,
                watermark: 6,
            },
        ];
        let order = Order {
            n_origins: 3,
            marks: &marks,
            fired: vec![NO_MARK, 0, 0, 1],
            call: Call::Process,
        };
        let found = order.check(origins).err().map(|e| e.message().to_owned());
        assert_eq!(found.as_deref(), expected, "{origins:?}");
    }

    #[test]
    fn origins_ascend_in_the_order_of_events() {
        const T: u32 = ORIGIN_TIMER;
        check(&[], None);
        check(&[0, 0, 1, 2, 2], None);
        check(&[T, 0, T + 1, T + 2, T + 2, 1, 2, T + 3], None);
        check(&[0, 3], Some("row 1 comes from row 3, which is not there"));
        check(
            &[1, 0],
            Some(
                "row 1 comes from row 0, which stands before the origin of the row in front of it",
            ),
        );
        check(
            &[1, T + 1],
            Some(
                "row 1 comes from fired timer 1, which stands before the origin of the row in front of it",
            ),
        );
        check(
            &[T + 3, 2],
            Some(
                "row 1 comes from row 2, which stands before the origin of the row in front of it",
            ),
        );
        check(
            &[T + 2, T + 1],
            Some(
                "row 1 comes from fired timer 1, which stands before the origin of the row in front of it",
            ),
        );
        check(
            &[0, T + 4],
            Some("row 1 comes from fired timer 4, which is not there"),
        );
        check(
            &[0, T],
            Some(
                "row 1 comes from fired timer 0, which stands before the origin of the row in front of it",
            ),
        );
    }

    fn timer(action: u8, domain: u8, mark: u32) -> TimerOut {
        TimerOut {
            slot: 0,
            time: 7,
            domain,
            action,
            mark,
        }
    }

    #[test]
    fn fired_timers_stand_in_order() {
        let (fired, set) = (action::FIRED, action::REGISTER);
        assert!(
            check_firing(&[
                timer(fired, 1, NO_MARK),
                timer(fired, 0, 0),
                timer(fired, 0, 2),
                timer(set, 0, NO_MARK)
            ])
            .is_ok()
        );
        assert!(check_firing(&[timer(fired, 0, 0), timer(fired, 1, NO_MARK)]).is_err());
        assert!(check_firing(&[timer(fired, 0, 1), timer(fired, 0, 0)]).is_err());
        assert!(check_firing(&[timer(set, 0, 0), timer(fired, 0, 0)]).is_err());
    }

    #[test]
    fn timers_are_checked_one_by_one() {
        let marks = [Mark {
            row: 0,
            watermark: 1,
        }];
        let asked = Asked {
            call: Call::Process,
            n_rows: 0,
            n_slots: 1,
            marks: &marks,
        };
        for (timer, fault) in [
            (timer(action::FIRED, 0, 0), None),
            (timer(action::REGISTER, 1, NO_MARK), None),
            (
                timer(action::FIRED, 0, 1),
                Some("fired at mark 1, but the call has 1"),
            ),
            (
                timer(action::FIRED, 1, 0),
                Some("of processing time fired at a mark"),
            ),
            (timer(0, 0, 0), Some("has the unknown action 0")),
            (
                timer(action::DELETE, 2, 0),
                Some("has the unknown time domain 2"),
            ),
            (
                TimerOut {
                    slot: 1,
                    ..timer(action::DELETE, 0, 0)
                },
                Some("has slot 1, but the call has 1"),
            ),
        ] {
            assert_eq!(
                check_timer(&timer, &asked).err().as_deref(),
                fault,
                "{timer:?}"
            );
        }
    }
}
