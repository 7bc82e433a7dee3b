//! One function under test, with what the host keeps for it: keyed state, timers, the watermark, a clock, and what it has sent.

use super::frame::Frame;
use super::state::{FakeHost, KeyBytes, Undo};
use crate::bindings::streamrt::plugin::types::Section;
use crate::chain::{Chain, Maker, SECOND_INPUT};
use crate::column::{find, i64_bytes, plain, section, u32_bytes};
use crate::error::Result;
use crate::host::StateHost;
use crate::process::OutputTag;
use crate::record::Record;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use streamrt_wit::codes::{self, action, buffer, call, domain};
use streamrt_wit::{Function, OutputColumns};

/// What happens to a function, in order.
#[derive(Debug, Clone)]
pub enum Event<T> {
    /// A row, and its event time in ms.
    Row(T, i64),
    /// The watermark rises to so many ms.
    Watermark(i64),
}

/// A function under test. Its times are virtual: the watermark and the clock stand still until the test moves them.
pub struct Operator {
    function: Function,
    chain: Chain,
    projection: Option<(Function, Chain)>,
    /// Names of the key columns; `None` if it is not keyed.
    pub(super) key: Option<Vec<String>>,
    host: Rc<FakeHost>,
    keys: BTreeMap<KeyBytes, Frame>,
    /// Event time and processing time.
    timers: [BTreeSet<(i64, KeyBytes)>; 2],
    watermark: i64,
    now: i64,
    /// What each port has sent since it was last looked at.
    outputs: Vec<Vec<Frame>>,
}

/// A call in the making.
struct Call {
    rows: Frame,
    times: Vec<i64>,
    marks: Vec<(u32, i64)>,
    slots: Vec<KeyBytes>,
    row_slots: Vec<u32>,
    due: Vec<(u32, i64, u8)>,
    bound: i64,
}

impl Operator {
    pub(super) fn new(key: Option<Vec<String>>, (function, maker): (Function, Maker), projection: Option<(Function, Maker)>) -> Operator {
        let host = Rc::new(FakeHost::new(function.states.clone()));
        let open = |function: &Function, maker| {
            let host: Rc<dyn StateHost> = host.clone();
            Chain::new(vec![(function.clone(), maker)], &host).expect("one function is a chain")
        };
        Operator {
            chain: open(&function, maker),
            projection: projection.map(|(function, maker)| (function.clone(), open(&function, maker))),
            key: key.filter(|_| function.key.is_some()),
            host: host.clone(),
            keys: BTreeMap::new(),
            timers: Default::default(),
            watermark: i64::MIN,
            now: 0,
            outputs: function.outputs.iter().map(|_| Vec::new()).collect(),
            function,
        }
    }

    /// Sends a row with its event time in ms.
    ///
    /// # Panics
    /// If the function fails.
    pub fn push<T: Record>(&mut self, row: T, time: i64) {
        self.batch([Event::Row(row, time)]);
    }

    /// As [`Operator::push`], for rows that the function refuses. What a failed call has done is undone.
    ///
    /// # Errors
    /// That of the function.
    pub fn try_push<T: Record>(&mut self, row: T, time: i64) -> Result<()> {
        self.try_batch([Event::Row(row, time)])
    }

    /// Raises the watermark to so many ms, which fires event-time timers.
    ///
    /// # Panics
    /// If the function fails.
    pub fn watermark(&mut self, watermark: i64) {
        self.batch([Event::<()>::Watermark(watermark)]);
    }

    /// Moves the clock to so many ms, which fires processing-time timers, and which times to live go by.
    ///
    /// # Panics
    /// If the function fails.
    pub fn processing_time(&mut self, now: i64) {
        self.now = now;
        self.batch::<()>([]);
    }

    /// Sends rows and watermarks in one call, as a batch of the host does. The results are the same as one by one.
    ///
    /// # Panics
    /// If the function fails.
    pub fn batch<T: Record>(&mut self, events: impl IntoIterator<Item = Event<T>>) {
        if let Err(error) = self.try_batch(events) {
            panic!("{} failed: {error}", self.function.name);
        }
    }

    /// As [`Operator::batch`], for rows that the function refuses.
    ///
    /// # Errors
    /// That of the function.
    pub fn try_batch<T: Record>(&mut self, events: impl IntoIterator<Item = Event<T>>) -> Result<()> {
        let (mut rows, mut times, mut marks) = (Vec::new(), Vec::new(), Vec::new());
        for event in events {
            match event {
                Event::Row(row, time) => (rows.push(row), times.push(time)).1,
                Event::Watermark(watermark) => marks.push((rows.len() as u32, watermark)),
            }
        }
        let call = self.prepare(Frame::of(&rows), times, marks)?;
        let undo = self.host.begin(call.slots.clone(), self.now);
        let sections = self.sections(&call);
        self.invoke(&call, &sections, undo)
    }

    /// Sends a row of the broadcast stream, with its event time in ms.
    ///
    /// # Panics
    /// If the function fails.
    pub fn push_broadcast<T: Record>(&mut self, row: T, time: i64) {
        if let Err(error) = self.try_push_broadcast(row, time) {
            panic!("{} failed: {error}", self.function.name);
        }
    }

    /// As [`Operator::push_broadcast`], for rows that the function refuses. What a failed call has done is undone.
    ///
    /// # Errors
    /// That of the function.
    pub fn try_push_broadcast<T: Record>(&mut self, row: T, time: i64) -> Result<()> {
        let rows = Frame::of(&[row]);
        let sent = rows.select(self.function.second_input.iter().map(|field| field.name.clone()));
        let times = if self.function.time { vec![plain(buffer::TIME, i64_bytes(&[time]))] } else { Vec::new() };
        let clock = plain(buffer::CLOCK, i64_bytes(&[self.watermark, self.watermark, self.now]));
        let sections = [
            section(codes::section::ROWS, SECOND_INPUT, rows.n_rows, times, sent.columns),
            section(codes::section::CLOCK, 0, 1, vec![clock], Vec::new()),
        ];
        let call = Call {
            rows,
            times: vec![time],
            marks: Vec::new(),
            slots: Vec::new(),
            row_slots: Vec::new(),
            due: Vec::new(),
            bound: self.watermark,
        };
        let undo = self.host.begin(Vec::new(), self.now);
        self.invoke(&call, &sections, undo)
    }

    /// Makes a call that the host has begun.
    fn invoke(&mut self, call: &Call, sections: &[Section], undo: Undo) -> Result<()> {
        match self.chain.invoke(call::PROCESS, sections) {
            Ok(answer) => {
                self.watermark = call.marks.last().map_or(self.watermark, |mark| mark.1);
                answer.iter().for_each(|section| self.apply(section, call));
                Ok(())
            }
            Err(error) => {
                self.host.undo(undo);
                Err(error)
            }
        }
    }

    /// What the function has sent to its main output since the last look.
    ///
    /// # Panics
    /// If `O` is not the record of the output.
    pub fn output<O: Record>(&mut self) -> Vec<O> {
        self.take(0)
    }

    /// What the function has sent to a side output since the last look.
    ///
    /// # Panics
    /// If the job does not use that output, or `S` is not its record.
    pub fn side_output<S: Record>(&mut self, tag: &OutputTag<S>) -> Vec<S> {
        let port = self.function.outputs.iter().position(|port| port.name == tag.name());
        self.take(port.unwrap_or_else(|| panic!("the job does not use the side output {}", tag.name())))
    }

    /// The event-time timers that are registered, in ms, in order.
    pub fn event_timers(&self) -> Vec<i64> {
        self.timers[0].iter().map(|(time, _)| *time).collect()
    }

    /// The number of entries that the host keeps of the state `name`: values, elements of lists, entries of maps, expired ones too as long as
    /// nothing has cleaned them away.
    ///
    /// # Panics
    /// If the function declares no such state.
    pub fn state_entries(&self, name: &str) -> usize {
        let number = self.function.states.iter().position(|state| state.name == name);
        self.host.n_entries(number.unwrap_or_else(|| panic!("the function declares no state {name}")) as u32)
    }

    /// How often the function has called the host for list and map state.
    pub fn state_calls(&self) -> usize {
        self.host.n_calls()
    }

    fn take<O: Record>(&mut self, port: usize) -> Vec<O> {
        let frames = std::mem::take(&mut self.outputs[port]);
        let read = |frame: &Frame| {
            assert_eq!(frame.schema, O::schema(), "the output has another record");
            frame.records::<O>().expect("the columns have the record's types")
        };
        frames.iter().flat_map(read).collect()
    }

    fn prepare(&mut self, rows: Frame, times: Vec<i64>, marks: Vec<(u32, i64)>) -> Result<Call> {
        let bound = marks.last().map_or(self.watermark, |mark| mark.1);
        let call = Call { rows, times, marks, slots: Vec::new(), row_slots: Vec::new(), due: Vec::new(), bound };
        let Some(names) = self.key.clone().filter(|_| call.rows.n_rows > 0) else { return Ok(self.with_slots(call, &[])) };
        let wide = match &mut self.projection {
            None => call.rows.clone(),
            Some((function, chain)) => {
                let sent = call.rows.select(function.input.iter().map(|field| field.name.clone()));
                let answer = chain.invoke(call::PROCESS, &[section(codes::section::ROWS, 0, sent.n_rows, Vec::new(), sent.columns)])?;
                call.rows.clone().beside(Frame::received(&answer[0], added(&function.outputs[0].columns)))
            }
        };
        let keys = wide.select(names.into_iter());
        let mut row_keys = Vec::with_capacity(keys.n_rows);
        for row in 0..keys.n_rows {
            let key = keys.row(row);
            let bytes = key.bytes();
            self.keys.insert(bytes.clone(), key);
            row_keys.push(bytes);
        }
        Ok(self.with_slots(call, &row_keys))
    }

    /// Numbers the keys of rows and due timers in the order of their bytes, so that timers of the same time fire in the same order
    /// whatever else is in the call.
    fn with_slots(&self, mut call: Call, row_keys: &[KeyBytes]) -> Call {
        let due_until = |domain: u8, until: i64| self.timers[usize::from(domain)].iter().take_while(move |(time, _)| *time <= until);
        let (clock, event) = (domain::PROCESSING_TIME, domain::EVENT_TIME);
        let due = due_until(clock, self.now).map(|timer| (clock, timer)).chain(due_until(event, call.bound).map(|timer| (event, timer)));
        let keys: BTreeSet<&KeyBytes> = row_keys.iter().chain(due.clone().map(|(_, (_, key))| key)).collect();
        let slot = |key: &KeyBytes| keys.range::<KeyBytes, _>(..key).count() as u32;
        call.row_slots = row_keys.iter().map(slot).collect();
        call.due = due.map(|(domain, (time, key))| (slot(key), *time, domain)).collect();
        call.slots = keys.into_iter().cloned().collect();
        call
    }

    fn sections(&self, call: &Call) -> Vec<Section> {
        let sent = if call.rows.n_rows == 0 {
            Frame::default()
        } else {
            call.rows.select(self.function.input.iter().map(|field| field.name.clone()))
        };
        let (mark_rows, watermarks): (Vec<u32>, Vec<i64>) = call.marks.iter().copied().unzip();
        let mut buffers = Vec::new();
        if self.function.time {
            buffers.push(plain(buffer::TIME, i64_bytes(&call.times)));
            buffers.push(plain(buffer::MARK_ROW, u32_bytes(&mark_rows)));
            buffers.push(plain(buffer::MARK_WATERMARK, i64_bytes(&watermarks)));
        }
        if self.key.is_some() {
            buffers.push(plain(buffer::SLOT, u32_bytes(&call.row_slots)));
        }
        let mut sections = vec![section(codes::section::ROWS, 0, call.rows.n_rows, buffers, sent.columns)];
        if let (Some(declared), Some(_)) = (&self.function.key, &self.key) {
            let keys: Vec<&Frame> = call.slots.iter().map(|key| &self.keys[key]).collect();
            sections.push(section(codes::section::SLOTS, 0, call.slots.len(), Vec::new(), Frame::concat(declared, &keys).columns));
        }
        sections.extend(self.host.value_sections());
        sections.push(timer_section(&call.due));
        let clock = plain(buffer::CLOCK, i64_bytes(&[self.watermark, call.bound, self.now]));
        sections.push(section(codes::section::CLOCK, 0, 1, vec![clock], Vec::new()));
        sections
    }

    fn apply(&mut self, answer: &Section, call: &Call) {
        match answer.role {
            codes::section::STATE => self.host.apply(answer),
            codes::section::TIMERS => self.apply_timers(answer, call),
            _ => {
                let columns = &self.function.outputs[usize::from(answer.port)].columns;
                let frame = output_frame(answer, columns, &call.rows);
                self.outputs[usize::from(answer.port)].push(frame);
            }
        }
    }

    fn apply_timers(&mut self, answer: &Section, call: &Call) {
        let bytes = |role| find(answer, role).expect("timers carry all their buffers");
        let (slots, times) = (bytes(buffer::SLOT).as_chunks::<4>().0, bytes(buffer::TIME).as_chunks::<8>().0);
        for i in 0..answer.rows as usize {
            let key = call.slots[u32::from_le_bytes(slots[i]) as usize].clone();
            let timer = (i64::from_le_bytes(times[i]), key);
            let timers = &mut self.timers[usize::from(bytes(buffer::DOMAIN)[i])];
            match bytes(buffer::ACTION)[i] {
                action::REGISTER => timers.insert(timer),
                _ => timers.remove(&timer),
            };
        }
    }
}

fn timer_section(due: &[(u32, i64, u8)]) -> Section {
    let buffers = vec![
        plain(buffer::SLOT, u32_bytes(&due.iter().map(|timer| timer.0).collect::<Vec<_>>())),
        plain(buffer::TIME, i64_bytes(&due.iter().map(|timer| timer.1).collect::<Vec<_>>())),
        plain(buffer::DOMAIN, due.iter().map(|timer| timer.2).collect()),
    ];
    section(codes::section::TIMERS, 0, due.len(), buffers, Vec::new())
}

fn added(columns: &OutputColumns) -> &streamrt_wit::Schema {
    const NONE: &streamrt_wit::Schema = &Vec::new();
    match columns {
        OutputColumns::Forward => NONE,
        OutputColumns::Extend { schema } | OutputColumns::Replace { schema } => schema,
    }
}

/// Output rows as the next operator would get them.
fn output_frame(answer: &Section, columns: &OutputColumns, input: &Frame) -> Frame {
    let sent = Frame::received(answer, added(columns));
    if matches!(columns, OutputColumns::Replace { .. }) {
        return sent;
    }
    let origin = match find(answer, buffer::ORIGIN) {
        Some(bytes) => bytes.as_chunks::<4>().0.iter().map(|row| u32::from_le_bytes(*row)).collect(),
        None => (0..answer.rows).collect::<Vec<u32>>(),
    };
    input.rows(&origin).beside(sent)
}
