//! One function under test, with what the host keeps for it: keyed state, timers, the watermark, a
//! clock, and what it has sent.

use super::frame::Frame;
pub(super) use super::state::KeyBytes;
use super::state::{FakeHost, Undo};
use crate::bindings::streamrt::plugin::types::{Buffer, Section};
use crate::chain::{Chain, Maker, SECOND_INPUT};
use crate::column::{find, i64_bytes, plain, section, u32_bytes};
use crate::error::Result;
use crate::host::StateHost;
use crate::process::OutputTag;
use crate::record::Record;
use crate::stream::not_there;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use streamrt_wit::codes::{self, action, buffer, call, domain};
use streamrt_wit::{Field, Function, OutputColumns, Schema};

/// What happens to a function, in order.
#[derive(Debug, Clone)]
pub enum Event<T> {
    /// A row, and its event time in ms.
    Row(T, i64),
    /// The watermark rises to this time in ms.
    Watermark(i64),
}

/// A function under test. Its times are virtual: the watermark and the clock stand still until the
/// test moves them.
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
    outputs: Vec<Vec<Sent>>,
}

/// Rows that came out of one call, with the event time of each.
pub(super) struct Sent {
    pub(super) rows: Frame,
    pub(super) times: Vec<Option<i64>>,
}

/// A call in the making.
struct Call {
    rows: Frame,
    times: Vec<Option<i64>>,
    marks: Vec<(u32, i64)>,
    slots: Vec<KeyBytes>,
    row_slots: Vec<u32>,
    due: Vec<(u32, i64, u8)>,
    bound: i64,
}

impl Operator {
    pub(super) fn new(
        key: Option<Vec<String>>,
        (function, maker): (Function, Maker),
        projection: Option<(Function, Maker)>,
    ) -> Operator {
        let host = Rc::new(FakeHost::new(function.states.clone()));
        Operator {
            chain: open(&function, maker, &host),
            projection: projection
                .map(|(function, maker)| (function.clone(), open(&function, maker, &host))),
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

    /// Continues with new code, which knows only the state that is kept here.
    pub(super) fn replace_code(&mut self, maker: Maker) {
        self.chain = open(&self.function, maker, &self.host);
    }

    /// Processes one row of the first input.
    pub(super) fn row(&mut self, row: Frame, time: Option<i64>) -> Result<()> {
        self.call(row, vec![time], Vec::new())
    }

    /// Raises the watermark.
    pub(super) fn rise(&mut self, watermark: i64) -> Result<()> {
        self.call(Frame::default(), Vec::new(), vec![(0, watermark)])
    }

    /// Moves the clock.
    pub(super) fn tick(&mut self, now: i64) -> Result<()> {
        self.now = now;
        self.call(Frame::default(), Vec::new(), Vec::new())
    }

    /// What all ports have sent since the last look, with their numbers.
    pub(super) fn sent(&mut self) -> Vec<(u16, Sent)> {
        let all = self.outputs.iter_mut().zip(0u16..);
        all.flat_map(|(sent, port)| {
            std::mem::take(sent)
                .into_iter()
                .map(move |sent| (port, sent))
        })
        .collect()
    }

    /// Sends a row with its event time in ms.
    ///
    /// # Panics
    /// If the function fails.
    #[track_caller]
    pub fn push<T: Record>(&mut self, row: T, time: i64) {
        self.batch([Event::Row(row, time)]);
    }

    /// Like [`Operator::push`], for rows that the function refuses. What a failed call has done is
    /// undone.
    ///
    /// # Errors
    /// The function's own error.
    pub fn try_push<T: Record>(&mut self, row: T, time: i64) -> Result<()> {
        self.try_batch([Event::Row(row, time)])
    }

    /// Raises the watermark to the given time in ms, which fires event-time timers.
    ///
    /// # Panics
    /// If the function fails.
    #[track_caller]
    pub fn watermark(&mut self, watermark: i64) {
        self.batch([Event::<()>::Watermark(watermark)]);
    }

    /// Moves the clock, which times to live go by too, to the given time in ms. Processing-time
    /// timers fire.
    ///
    /// # Panics
    /// If the function fails.
    #[track_caller]
    pub fn processing_time(&mut self, now: i64) {
        self.now = now;
        self.batch::<()>([]);
    }

    /// Sends rows and watermarks in one call, as the host does with a batch. The results are the
    /// same as one by one.
    ///
    /// # Panics
    /// If the function fails.
    #[track_caller]
    pub fn batch<T: Record>(&mut self, events: impl IntoIterator<Item = Event<T>>) {
        if let Err(error) = self.try_batch(events) {
            panic!("{} failed: {error}", self.function.name);
        }
    }

    /// Like [`Operator::batch`], for rows that the function refuses.
    ///
    /// # Errors
    /// The function's own error.
    pub fn try_batch<T: Record>(
        &mut self,
        events: impl IntoIterator<Item = Event<T>>,
    ) -> Result<()> {
        let (mut rows, mut times, mut marks) = (Vec::new(), Vec::new(), Vec::new());
        for event in events {
            match event {
                Event::Row(row, time) => (rows.push(row), times.push(Some(time))).1,
                Event::Watermark(watermark) => marks.push((rows.len() as u32, watermark)),
            }
        }
        self.call(Frame::of(&rows), times, marks)
    }

    fn call(&mut self, rows: Frame, times: Vec<Option<i64>>, marks: Vec<(u32, i64)>) -> Result<()> {
        let projected = self
            .projection
            .iter()
            .flat_map(|(function, _)| &function.input);
        self.check_columns(&rows, self.function.input.iter().chain(projected))?;
        let call = self.prepare(rows, times, marks)?;
        let undo = self.host.begin(call.slots.clone(), self.now);
        let sections = self.sections(&call);
        self.invoke(&call, &sections, undo)
    }

    /// Sends a row of the broadcast stream, with its event time in ms.
    ///
    /// # Panics
    /// If the function fails.
    #[track_caller]
    pub fn push_broadcast<T: Record>(&mut self, row: T, time: i64) {
        if let Err(error) = self.try_push_broadcast(row, time) {
            panic!("{} failed: {error}", self.function.name);
        }
    }

    /// Like [`Operator::push_broadcast`], for rows that the function refuses. What a failed call
    /// has done is undone.
    ///
    /// # Errors
    /// The function's own error.
    pub fn try_push_broadcast<T: Record>(&mut self, row: T, time: i64) -> Result<()> {
        self.second_row(Frame::of(&[row]), Some(time))
    }

    /// Processes one row of the second input.
    pub(super) fn second_row(&mut self, rows: Frame, time: Option<i64>) -> Result<()> {
        self.check_columns(&rows, self.function.second_input.iter())?;
        let sent = rows.select(
            self.function
                .second_input
                .iter()
                .map(|field| field.name.clone()),
        );
        let times = self.time_buffer(&[time]).into_iter().collect();
        let clock = plain(
            buffer::CLOCK,
            i64_bytes(&[self.watermark, self.watermark, self.now]),
        );
        let sections = [
            section(
                codes::section::ROWS,
                SECOND_INPUT,
                rows.n_rows,
                times,
                sent.columns,
            ),
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

    /// Checks that rows have the columns that are read of them.
    fn check_columns<'a>(
        &self,
        rows: &Frame,
        mut read: impl Iterator<Item = &'a Field>,
    ) -> Result<()> {
        match read.find(|field| rows.n_rows > 0 && !rows.has(field)) {
            Some(field) => Err(not_there(&self.function.name, field, &rows.schema)),
            None => Ok(()),
        }
    }

    /// Carries out a call that the host has begun.
    fn invoke(&mut self, call: &Call, sections: &[Section], undo: Undo) -> Result<()> {
        match self.chain.invoke(call::PROCESS, sections) {
            Ok(answer) => {
                self.watermark = call.marks.last().map_or(self.watermark, |mark| mark.1);
                let fired = answer
                    .iter()
                    .find(|section| section.role == codes::section::TIMERS)
                    .map(fired_times)
                    .unwrap_or_default();
                answer
                    .iter()
                    .for_each(|section| self.apply(section, call, &fired));
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
    #[track_caller]
    pub fn output<O: Record>(&mut self) -> Vec<O> {
        self.take(0)
    }

    /// What the function has sent to a side output since the last look.
    ///
    /// # Panics
    /// If the job does not use that output, or `S` is not its record.
    #[track_caller]
    pub fn side_output<S: Record>(&mut self, tag: &OutputTag<S>) -> Vec<S> {
        match self
            .function
            .outputs
            .iter()
            .position(|port| port.name == tag.name())
        {
            Some(port) => self.take(port),
            None => panic!("the job does not use the side output {}", tag.name()),
        }
    }

    /// The event-time timers that are registered, in ms, in order.
    pub fn event_timers(&self) -> Vec<i64> {
        self.timers[0].iter().map(|(time, _)| *time).collect()
    }

    /// The number of entries that the host keeps of the state `name`: values, elements of lists,
    /// entries of maps, expired ones too as long as nothing has cleaned them away.
    ///
    /// # Panics
    /// If the function declares no such state.
    #[track_caller]
    pub fn state_entries(&self, name: &str) -> usize {
        match self
            .function
            .states
            .iter()
            .position(|state| state.name == name)
        {
            Some(number) => self.host.n_entries(number as u32),
            None => panic!("the function declares no state {name}"),
        }
    }

    /// How often the function has called the host for list and map state.
    pub fn state_calls(&self) -> usize {
        self.host.n_calls()
    }

    #[track_caller]
    fn take<O: Record>(&mut self, port: usize) -> Vec<O> {
        let mut records = Vec::new();
        for sent in std::mem::take(&mut self.outputs[port]) {
            records.extend(sent.rows.typed::<O>());
        }
        records
    }

    fn prepare(
        &mut self,
        rows: Frame,
        times: Vec<Option<i64>>,
        marks: Vec<(u32, i64)>,
    ) -> Result<Call> {
        let bound = marks.last().map_or(self.watermark, |mark| mark.1);
        let call = Call {
            rows,
            times,
            marks,
            slots: Vec::new(),
            row_slots: Vec::new(),
            due: Vec::new(),
            bound,
        };
        let Some(names) = self.key.clone().filter(|_| call.rows.n_rows > 0) else {
            return Ok(self.with_slots(call, &[]));
        };
        let wide = match &mut self.projection {
            None => call.rows.clone(),
            Some((function, chain)) => {
                let sent = call
                    .rows
                    .select(function.input.iter().map(|field| field.name.clone()));
                let answer = chain.invoke(
                    call::PROCESS,
                    &[section(
                        codes::section::ROWS,
                        0,
                        sent.n_rows,
                        Vec::new(),
                        sent.columns,
                    )],
                )?;
                call.rows.clone().beside(Frame::received(
                    &answer[0],
                    added(&function.outputs[0].columns),
                ))
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

    /// Numbers the keys of rows and due timers in the order of their bytes, so that timers of the
    /// same time fire in the same order whatever else is in the call.
    fn with_slots(&self, mut call: Call, row_keys: &[KeyBytes]) -> Call {
        let due_until = |domain: u8, until: i64| {
            self.timers[usize::from(domain)]
                .iter()
                .take_while(move |(time, _)| *time <= until)
        };
        let (clock, event) = (domain::PROCESSING_TIME, domain::EVENT_TIME);
        let due = due_until(clock, self.now)
            .map(|timer| (clock, timer))
            .chain(due_until(event, call.bound).map(|timer| (event, timer)));
        let keys: BTreeSet<&KeyBytes> = row_keys
            .iter()
            .chain(due.clone().map(|(_, (_, key))| key))
            .collect();
        let slot = |key: &KeyBytes| keys.range::<KeyBytes, _>(..key).count() as u32;
        call.row_slots = row_keys.iter().map(slot).collect();
        call.due = due
            .map(|(domain, (time, key))| (slot(key), *time, domain))
            .collect();
        call.slots = keys.into_iter().cloned().collect();
        call
    }

    fn sections(&self, call: &Call) -> Vec<Section> {
        let sent = if call.rows.n_rows == 0 {
            Frame::default()
        } else {
            call.rows
                .select(self.function.input.iter().map(|field| field.name.clone()))
        };
        let (mark_rows, watermarks): (Vec<u32>, Vec<i64>) = call.marks.iter().copied().unzip();
        let mut buffers = Vec::new();
        buffers.extend(self.time_buffer(&call.times));
        if self.function.time {
            buffers.push(plain(buffer::MARK_ROW, u32_bytes(&mark_rows)));
            buffers.push(plain(buffer::MARK_WATERMARK, i64_bytes(&watermarks)));
        }
        if self.key.is_some() {
            buffers.push(plain(buffer::SLOT, u32_bytes(&call.row_slots)));
        }
        let mut sections = vec![section(
            codes::section::ROWS,
            0,
            call.rows.n_rows,
            buffers,
            sent.columns,
        )];
        if let (Some(declared), Some(_)) = (&self.function.key, &self.key) {
            let keys: Vec<&Frame> = call.slots.iter().map(|key| &self.keys[key]).collect();
            sections.push(section(
                codes::section::SLOTS,
                0,
                call.slots.len(),
                Vec::new(),
                Frame::concat(declared, &keys).columns,
            ));
        }
        sections.extend(self.host.value_sections());
        sections.push(timer_section(&call.due));
        let clock = plain(
            buffer::CLOCK,
            i64_bytes(&[self.watermark, call.bound, self.now]),
        );
        sections.push(section(
            codes::section::CLOCK,
            0,
            1,
            vec![clock],
            Vec::new(),
        ));
        sections
    }

    /// Event times, as far as the function wants them and the rows have them.
    fn time_buffer(&self, times: &[Option<i64>]) -> Option<Buffer> {
        let times: Vec<i64> = times
            .iter()
            .copied()
            .collect::<Option<_>>()
            .filter(|_| self.function.time)?;
        Some(plain(buffer::TIME, i64_bytes(&times)))
    }

    fn apply(&mut self, answer: &Section, call: &Call, fired: &[i64]) {
        match answer.role {
            codes::section::STATE => self.host.apply(answer),
            codes::section::TIMERS => self.apply_timers(answer, call),
            _ => {
                let columns = &self.function.outputs[usize::from(answer.port)].columns;
                let sent = output_rows(answer, columns, call, fired);
                self.outputs[usize::from(answer.port)].push(sent);
            }
        }
    }

    fn apply_timers(&mut self, answer: &Section, call: &Call) {
        let bytes = |role| find(answer, role).expect("timers carry all their buffers");
        let (slots, times) = (
            bytes(buffer::SLOT).as_chunks::<4>().0,
            bytes(buffer::TIME).as_chunks::<8>().0,
        );
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
        plain(
            buffer::SLOT,
            u32_bytes(&due.iter().map(|timer| timer.0).collect::<Vec<_>>()),
        ),
        plain(
            buffer::TIME,
            i64_bytes(&due.iter().map(|timer| timer.1).collect::<Vec<_>>()),
        ),
        plain(buffer::DOMAIN, due.iter().map(|timer| timer.2).collect()),
    ];
    section(codes::section::TIMERS, 0, due.len(), buffers, Vec::new())
}

pub(super) fn added(columns: &OutputColumns) -> &Schema {
    const NONE: &Schema = &Vec::new();
    match columns {
        OutputColumns::Forward => NONE,
        OutputColumns::Extend { schema } | OutputColumns::Replace { schema } => schema,
    }
}

/// Times of the timers that fired, in order.
fn fired_times(timers: &Section) -> Vec<i64> {
    let actions = find(timers, buffer::ACTION).unwrap_or_default();
    let times = find(timers, buffer::TIME)
        .unwrap_or_default()
        .as_chunks::<8>()
        .0;
    let fired = times
        .iter()
        .zip(actions)
        .filter(|(_, action)| **action == action::FIRED);
    fired.map(|(time, _)| i64::from_le_bytes(*time)).collect()
}

/// Output rows as the next operator would get them.
fn output_rows(answer: &Section, columns: &OutputColumns, call: &Call, fired: &[i64]) -> Sent {
    let sent = Frame::received(answer, added(columns));
    let origin = match find(answer, buffer::ORIGIN) {
        Some(bytes) => bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|row| u32::from_le_bytes(*row))
            .collect(),
        None => (0..answer.rows).collect::<Vec<u32>>(),
    };
    let time = |&row: &u32| match row.checked_sub(codes::ORIGIN_TIMER) {
        Some(timer) => fired.get(timer as usize).copied(),
        None => call.times.get(row as usize).copied().flatten(),
    };
    let times = origin.iter().map(time).collect();
    let rows = if matches!(columns, OutputColumns::Replace { .. }) {
        sent
    } else {
        call.rows.rows(&origin).beside(sent)
    };
    Sent { rows, times }
}

fn open(function: &Function, maker: Maker, host: &Rc<FakeHost>) -> Chain {
    let host: Rc<dyn StateHost> = host.clone();
    Chain::new(vec![(function.clone(), maker)], &host).expect("one function is a chain")
}
