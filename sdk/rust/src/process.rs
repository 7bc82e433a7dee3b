//! Process functions: user code that sees rows, watermarks and timers in order, with keyed state.
//!
//! The stage walks the script of a call as the WIT describes it: processing-time timers that are
//! due, then rows and marks in order, and at each mark the event-time timers that it makes due. It
//! is generic over the function, so nothing in the loop is dispatched.

use crate::bindings::streamrt::plugin::types::Section;
use crate::chain::{Stage, StageContext, StageInput, StageOutput};
use crate::column::{Table, find, fixed};
use crate::error::{Error, Result};
use crate::key::Key;
use crate::record::Record;
pub use crate::side::OutputTag;
use crate::side::Sides;
pub use crate::state::Setup;
use crate::timers::Timers;
use crate::transform::{Collector, Output};
use std::cell::{Cell, OnceCell};
use streamrt_wit::codes::{self, NO_MARK, ORIGIN_TIMER, buffer, domain};

/// User code that processes a stream row by row, with state, timers and side outputs.
///
/// `&mut self` is a cache at most: an instance serves many keys and may be replaced at any time.
/// What must last is in state.
///
/// # Source
/// Flink's KeyedProcessFunction. A row is processed under the watermark that stood before it.
pub trait ProcessFunction: 'static {
    /// What comes in.
    type In: Record;
    /// The key, as the function wants to see it; `()` if it does not, which saves sending it.
    type Key: Key;
    /// What goes out: a record, or [`Forward`](crate::Forward).
    type Out: Output;

    /// Whether rows come with event time and watermarks. A function that needs neither saves
    /// sending them with `false`.
    const TIME: bool = true;
    /// Whether it registers timers, which needs a key.
    const TIMERS: bool = true;

    /// Declares state, once, before anything else.
    fn open(&mut self, _setup: &mut Setup) {}

    /// Processes one row.
    ///
    /// # Errors
    /// An error is a poison record: what this call did is rolled back, and the job's policy
    /// decides.
    fn on_element(
        &mut self,
        row: &Self::In,
        ctx: &mut Context<'_, Self::Key>,
        out: &mut Collector<Self::Out>,
    ) -> Result<()>;

    /// Handles a timer that has fired; `time` is the time for which it was registered, in ms.
    ///
    /// # Errors
    /// The same as for a row.
    fn on_timer(
        &mut self,
        _time: i64,
        _ctx: &mut Context<'_, Self::Key>,
        _out: &mut Collector<Self::Out>,
    ) -> Result<()> {
        Ok(())
    }
}

/// Time domain of a timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeDomain {
    /// Timers fire by watermarks.
    EventTime,
    /// Timers fire by the clock of the host.
    ProcessingTime,
}

/// The context of a process function: key, times, timers, side outputs.
pub struct Context<'a, K: Key> {
    keys: Option<K::Columns<'a>>,
    /// The key of the slot at work, once it was asked for.
    key: OnceCell<K>,
    /// The previous key, whose memory is reused.
    spare: Cell<Option<K>>,
    slot: u32,
    timestamp: Option<i64>,
    watermark: i64,
    processing_time: i64,
    time_domain: Option<TimeDomain>,
    event: u32,
    may_time: bool,
    timers: &'a mut Timers,
    sides: &'a mut Sides,
}

impl<K: Key> Context<'_, K> {
    /// The key of the row or timer at work.
    pub fn key(&self) -> &K {
        self.key.get_or_init(|| {
            let mut key = self.spare.take().unwrap_or_else(K::empty);
            if let Some(columns) = &self.keys {
                K::load(&mut key, columns, self.slot as usize);
            }
            key
        })
    }

    #[inline]
    fn at(&mut self, slot: u32) {
        if slot != self.slot
            && let Some(key) = self.key.take()
        {
            self.spare.set(Some(key));
        }
        self.slot = slot;
    }

    /// Event time of the row, or the time of the timer, in ms; `None` if the job has no event time.
    pub fn timestamp(&self) -> Option<i64> {
        self.timestamp
    }

    /// The watermark that stands before the row or has fired the timer, in ms; `i64::MIN` before
    /// the first.
    pub fn watermark(&self) -> i64 {
        self.watermark
    }

    /// The clock of the host when the call began, in ms.
    pub fn processing_time(&self) -> i64 {
        self.processing_time
    }

    /// In `on_timer`, what has fired the timer.
    pub fn time_domain(&self) -> Option<TimeDomain> {
        self.time_domain
    }

    /// Asks for `on_timer` once the watermark reaches `time` (ms). Registering the same time twice
    /// for one key makes one timer.
    pub fn register_event_timer(&mut self, time: i64) {
        self.change(|timers, slot| timers.register(slot, time, domain::EVENT_TIME));
    }

    /// Deletes an event-time timer of this key; does nothing if there is none.
    pub fn delete_event_timer(&mut self, time: i64) {
        self.change(|timers, slot| timers.delete(slot, time, domain::EVENT_TIME));
    }

    /// Asks for `on_timer` once the clock reaches `time` (ms).
    pub fn register_processing_timer(&mut self, time: i64) {
        self.change(|timers, slot| timers.register(slot, time, domain::PROCESSING_TIME));
    }

    /// Deletes a processing-time timer of this key; does nothing if there is none.
    pub fn delete_processing_timer(&mut self, time: i64) {
        self.change(|timers, slot| timers.delete(slot, time, domain::PROCESSING_TIME));
    }

    fn change(&mut self, change: impl FnOnce(&mut Timers, u32)) {
        match self.may_time {
            true => change(self.timers, self.slot),
            false => self.timers.refuse(Error::job(
                "timers need a key in front of the function, and TIMERS must not be false",
            )),
        }
    }

    /// Sends a record to a side output. If the job does not use that output, the record is dropped.
    pub fn side<S: Record>(&mut self, tag: &OutputTag<S>, record: impl std::borrow::Borrow<S>) {
        self.sides.collect(tag, record.borrow(), self.event);
    }
}

/// The running form of a process function.
pub(crate) struct ProcessStage<F: ProcessFunction> {
    pub(crate) function: F,
    pub(crate) setup: Setup,
    row: F::In,
    pub(crate) out: Collector<F::Out>,
    pub(crate) sides: Sides,
    timers: Timers,
    /// Whether the function is keyed.
    keyed: bool,
}

impl<F: ProcessFunction> ProcessStage<F> {
    pub(crate) fn new(function: F, setup: Setup, keyed: bool) -> Self {
        let (row, out) = (F::In::empty(), Collector::new());
        ProcessStage {
            function,
            setup,
            row,
            out,
            sides: Sides::default(),
            timers: Timers::default(),
            keyed,
        }
    }
}

/// The sections in addition to the rows.
pub(crate) struct Around<'a> {
    slots: Option<&'a Section>,
    n_slots: usize,
    pub(crate) watermark: i64,
    bound: i64,
    pub(crate) processing_time: i64,
}

impl<'a> Around<'a> {
    pub(crate) fn read(sections: &'a [Section]) -> Result<Around<'a>> {
        let find_section = |role| sections.iter().find(|section| section.role == role);
        let slots = find_section(codes::section::SLOTS);
        let n_slots = slots.map_or(0, |slots| slots.rows as usize);
        let clock = match find_section(codes::section::CLOCK)
            .and_then(|clock| find(clock, buffer::CLOCK))
        {
            None => [i64::MIN; 3],
            Some(bytes) => std::array::from_fn(|i| {
                fixed::<8>(bytes, 3).map_or(i64::MIN, |values| i64::from_le_bytes(values[i]))
            }),
        };
        Ok(Around {
            slots,
            n_slots,
            watermark: clock[0],
            bound: clock[1],
            processing_time: clock[2],
        })
    }
}

impl<F: ProcessFunction> Stage for ProcessStage<F> {
    fn open(&mut self, context: &StageContext) {
        self.sides = Sides::new(&context.ports);
        self.setup.connect(context.host.clone());
    }

    fn run(&mut self, input: &StageInput<'_>, out: &mut StageOutput) -> Result<()> {
        let around = Around::read(input.sections)?;
        self.out.reset();
        self.sides.reset();
        let n_timer_slots = if F::TIMERS { around.n_slots } else { 0 };
        self.timers.begin(
            if input.in_front { input.sections } else { &[] },
            n_timer_slots,
            around.bound,
            around.processing_time,
        )?;
        self.setup
            .begin(if self.keyed { around.n_slots } else { 0 }, input.sections)?;
        let walk = Walk::new(self, input, &around)?;
        out.mark_rows = Some(walk.run()?);
        out.fired = self.timers.fired_times();
        out.sections.extend(self.timers.finish()?);
        self.setup.finish(&mut out.sections)?;
        out.main = self.out.finish(input.n_rows);
        out.sides = self.sides.finish();
        Ok(())
    }
}

/// One call in progress.
struct Walk<'a, F: ProcessFunction> {
    function: &'a mut F,
    setup: &'a Setup,
    row: &'a mut F::In,
    out: &'a mut Collector<F::Out>,
    ctx: Context<'a, F::Key>,
    columns: <F::In as Record>::Columns<'a>,
    slots: Option<&'a [[u8; 4]]>,
    input: &'a StageInput<'a>,
}

impl<'a, F: ProcessFunction> Walk<'a, F> {
    fn new(
        stage: &'a mut ProcessStage<F>,
        input: &'a StageInput<'a>,
        around: &Around<'a>,
    ) -> Result<Self> {
        let keys = match around.slots {
            Some(slots) if stage.keyed => {
                Some(F::Key::columns(&Table::of(slots, F::Key::schema().len()))?)
            }
            _ => None,
        };
        let ctx = Context {
            keys,
            key: OnceCell::new(),
            spare: Cell::new(None),
            slot: 0,
            timestamp: None,
            watermark: around.watermark,
            processing_time: around.processing_time,
            time_domain: None,
            event: 0,
            may_time: stage.keyed && F::TIMERS,
            timers: &mut stage.timers,
            sides: &mut stage.sides,
        };
        let columns = F::In::columns(&input.table)?;
        let slots = if stage.keyed { row_slots(input)? } else { None };
        Ok(Walk {
            function: &mut stage.function,
            setup: &stage.setup,
            row: &mut stage.row,
            out: &mut stage.out,
            ctx,
            columns,
            slots,
            input,
        })
    }

    /// Walks rows and marks; the result is the output row that each mark stands before.
    fn run(mut self) -> Result<Vec<u32>> {
        let now = self.ctx.processing_time;
        self.fire(domain::PROCESSING_TIME, now, NO_MARK)?;
        self.ctx.timers.end_clock();
        let mut mark_rows = Vec::with_capacity(self.input.marks.len());
        let mut row = 0;
        for (mark, number) in self.input.marks.iter().zip(0..) {
            self.elements(row..mark.row as usize)?;
            row = mark.row as usize;
            self.ctx.watermark = mark.watermark;
            self.fire(domain::EVENT_TIME, mark.watermark, number)?;
            mark_rows.push(self.out.n_rows() as u32);
        }
        self.elements(row..self.input.n_rows)?;
        Ok(mark_rows)
    }

    fn elements(&mut self, rows: std::ops::Range<usize>) -> Result<()> {
        self.ctx.time_domain = None;
        for row in rows {
            F::In::load(self.row, &self.columns, self.input.place(row));
            if let Some(slots) = self.slots {
                self.at(u32::from_le_bytes(slots[row]));
            }
            self.ctx.timestamp = self.input.times.map(|times| i64::from_le_bytes(times[row]));
            self.event(row as u32);
            self.function
                .on_element(self.row, &mut self.ctx, self.out)?;
        }
        Ok(())
    }

    fn fire(&mut self, domain: u8, until: i64, mark: u32) -> Result<()> {
        while let Some((slot, time, number)) = self.ctx.timers.fire(domain, until, mark) {
            self.at(slot);
            self.ctx.timestamp = Some(time);
            self.ctx.time_domain = Some(if domain == domain::EVENT_TIME {
                TimeDomain::EventTime
            } else {
                TimeDomain::ProcessingTime
            });
            self.event(ORIGIN_TIMER + number);
            self.function.on_timer(time, &mut self.ctx, self.out)?;
        }
        Ok(())
    }

    #[inline]
    fn at(&mut self, slot: u32) {
        self.ctx.at(slot);
        self.setup.at(slot);
    }

    #[inline]
    fn event(&mut self, event: u32) {
        self.ctx.event = event;
        self.out.begin(event);
    }
}

fn row_slots<'a>(input: &StageInput<'a>) -> Result<Option<&'a [[u8; 4]]>> {
    let Some(rows) = input
        .sections
        .iter()
        .find(|section| section.role == codes::section::ROWS)
    else {
        return Ok(None);
    };
    find(rows, buffer::SLOT)
        .map(|bytes| fixed::<4>(bytes, input.n_rows))
        .transpose()
}
