//! Runs a keyed process function, and the stateless functions that are fused behind it: state, timers, one call a batch.
//!
//! 1. The distinct keys of the rows, and of the timers that the batch's last mark makes due, become slots.
//! 2. Value state is gathered into columns, and the function is called once.
//! 3. What it returns is checked as a whole and then applied: state, list and map writes, timers, output.
//!
//! Rows and timers are taken in the order of the events, so results do not depend on the batch size. A sweep of more than
//! [`SWEEP_TIMERS_MAX`] timers is cut into several calls; its watermark is sent on when all of them are done.
//!
//! # Source
//! Flink's `KeyedProcessOperator` and `InternalTimerServiceImpl`.

use crate::function::{Call, ClockIn, Failure, FunctionChain, Invocation, Outcome, RowsIn, SlotsIn, StateAccess, TimerIn, TimerOut};
use crate::isolate::{Isolation, Suspect, Work};
use crate::keyed::BatchKeys;
use crate::operator::{Operator, OperatorContext, Output, TaskMetrics};
use crate::ports::{Events, Ports};
use crate::second_input::{Lent, Part as SecondPart, SecondInput, parts};
use crate::slots::Slots;
use crate::states::{CallStates, States, Writes};
use crate::timers::{Domain, Timer, TimerService};
use crate::transform::{Piece, Projection, suspect_row};
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use std::sync::Arc;
use std::time::Duration;
use streamrt_state::{KeyKind, KeyedSnapshot, Keys, OperatorSnapshot, OperatorState};
use streamrt_types::state_types::{TIMERS, timer_types};
use streamrt_types::{Batch, Clock, Error, Mark, Result, WATERMARK_MIN, Watermark, code};
use streamrt_wit::codes::{action, domain};
use streamrt_wit::{Function, StateDescriptor};

/// Timers that one call fires at most: some 100 KiB of columns, and far less than a deadline.
const SWEEP_TIMERS_MAX: usize = 4096;

/// Entries of each state with a time to live that are looked at after a batch, so that expired ones leave although nobody reads them: two
/// for each row, because a row makes one entry of a value at most and cleaning must be faster, and some where there are no rows.
const SWEEP_ENTRIES_PER_ROW: usize = 2;
const SWEEP_ENTRIES_MIN: usize = 64;

/// The operator of a keyed process function.
pub struct KeyedProcessOperator {
    keys: BatchKeys,
    function: FunctionCalls,
    descriptors: Vec<StateDescriptor>,
    /// Whether a state has a time to live.
    expires: bool,
    /// Of a broadcast-process function.
    second: Option<SecondInput>,
    /// A batch without rows, for calls that have none.
    empty: Batch,
    opened: Option<Opened>,
}

/// What does not change from call to call, and what calls change.
struct FunctionCalls {
    chain: Box<dyn FunctionChain>,
    ports: Ports,
    projection: Projection,
    /// The key columns that the function wants to see, by their places in the key; `None` for none.
    key_columns: Option<Vec<usize>>,
    /// Whether it wants times and marks.
    timed: bool,
    registers_timers: bool,
    slots: Slots,
    watermark: Watermark,
}

/// What `open` makes.
struct Opened {
    isolation: Isolation,
    clock: Arc<dyn Clock>,
    metrics: Arc<TaskMetrics>,
    uid: Arc<str>,
    /// A [`CallStates`].
    access: Box<dyn StateAccess>,
    timers: TimerService,
}

impl KeyedProcessOperator {
    /// Runs `chain`, which is made of `functions` in this order, the first of them keyed, over rows of the schema `input`.
    /// `key_columns` are the columns of the key in the input, in the order of the key.
    ///
    /// # Errors
    /// `Invalid` if a function reads a column that is not there, wants a key column that is not of the key, or adds one that clashes.
    pub fn new(
        chain: Box<dyn FunctionChain>,
        functions: &[Function],
        input: &SchemaRef,
        key_columns: Vec<usize>,
    ) -> Result<KeyedProcessOperator> {
        let first = functions.first().ok_or_else(|| Error::internal("a chain has at least one function"))?;
        let keys = BatchKeys::new(input, key_columns)?;
        let function = FunctionCalls {
            chain,
            ports: Ports::new(functions, input)?,
            projection: Projection::new(first, input)?,
            key_columns: wanted_key(first, keys.schema())?,
            timed: first.timers || functions.iter().any(|function| function.time),
            registers_timers: first.timers,
            slots: Slots::new(keys.kind()),
            watermark: WATERMARK_MIN,
        };
        let empty = Batch::new(RecordBatch::new_empty(input.clone()));
        let descriptors = first.states.clone();
        let expires = descriptors.iter().any(|descriptor| descriptor.ttl_ms.is_some());
        Ok(KeyedProcessOperator { keys, function, descriptors, expires, second: None, empty, opened: None })
    }

    /// Gives the operator of a broadcast-process function its second input, of the schema `input`.
    ///
    /// # Errors
    /// `Invalid` if the function reads a column that is not there, or forwards columns.
    pub fn with_second_input(mut self, functions: &[Function], input: &SchemaRef) -> Result<KeyedProcessOperator> {
        self.second = Some(SecondInput::new(functions, input)?);
        Ok(self)
    }

    /// The number for [`Output::batch`] and the schema of every output.
    pub fn ports(&self) -> impl Iterator<Item = (u16, &SchemaRef)> {
        self.function.ports.schemas()
    }

    /// Hands the work of one batch to `run`.
    fn work(
        &mut self,
        batch: &Batch,
        now_ms: i64,
        output: &mut dyn Output,
        run: impl FnOnce(&mut Process<'_>, &Isolation) -> Result<()>,
    ) -> Result<()> {
        let opened = self.opened.as_mut().ok_or_else(|| Error::internal("a process function was not opened"))?;
        self.keys.load(&batch.columns).map_err(|e| e.at(format_args!("operator `{}`", opened.uid)))?;
        let (hashes, keys) = self.keys.view(&batch.columns);
        if self.expires {
            CallStates::of(&mut opened.access).states.set_time(now_ms);
        }
        let mut process = Process {
            function: &mut self.function,
            access: &mut opened.access,
            timers: &mut opened.timers,
            batch,
            empty: &self.empty,
            hashes,
            keys,
            batch_keys: &self.keys,
            now_ms,
            pending: Vec::new(),
            output,
        };
        run(&mut process, &opened.isolation)?;
        if self.expires {
            CallStates::of(&mut opened.access).states.sweep(SWEEP_ENTRIES_MIN + batch.n_rows() * SWEEP_ENTRIES_PER_ROW);
        }
        Ok(())
    }

    /// Treats rows of the second input, which have no marks.
    fn broadcast_rows(&mut self, rows: &Batch, output: &mut dyn Output) -> Result<()> {
        let now_ms = self.now_ms();
        let (Some(second), Some(opened)) = (&self.second, &mut self.opened) else {
            return Err(Error::internal("a process function with one input was given rows of a second"));
        };
        let (chain, watermark) = (self.function.chain.as_mut(), self.function.watermark);
        let lent = Lent { chain, access: &mut opened.access, watermark, now_ms };
        second.run(rows, lent, &opened.isolation, output)
    }

    fn now_ms(&self) -> i64 {
        self.opened.as_ref().map_or(0, |opened| opened.clock.now_ms())
    }

    fn next(&self, domain: Domain) -> Option<i64> {
        self.opened.as_ref().and_then(|opened| opened.timers.next(domain))
    }
}

/// Where the key columns that `function` wants stand in the key.
fn wanted_key(function: &Function, key: &SchemaRef) -> Result<Option<Vec<usize>>> {
    let place = |field: &streamrt_wit::Field| {
        let found =
            key.column_with_name(&field.name).filter(|(_, found)| *found.data_type() == streamrt_types::arrow_type(field.data_type));
        let message = || format!("function `{}` wants key column `{}`, which is not in the key of its input", function.name, field.name);
        found.map(|(index, _)| index).ok_or_else(|| Error::new(code::SCHEMA_MISMATCH, message()))
    };
    let wanted = function.key.iter().flatten().map(place).collect::<Result<Vec<_>>>()?;
    Ok((!wanted.is_empty()).then_some(wanted))
}

/// The work of one batch.
struct Process<'a> {
    function: &'a mut FunctionCalls,
    access: &'a mut Box<dyn StateAccess>,
    timers: &'a mut TimerService,
    batch: &'a Batch,
    empty: &'a Batch,
    hashes: &'a [u32],
    keys: Keys<'a>,
    batch_keys: &'a BatchKeys,
    now_ms: i64,
    pending: Vec<(u16, Batch)>,
    output: &'a mut dyn Output,
}

/// A part of the work.
#[derive(Debug, Clone)]
enum Part {
    /// Rows and marks, with all timers that the marks make due.
    Piece(Piece),
    /// The first `n` of the timers that are due at `bound`. The mark that makes event-time timers due follows as a piece.
    Sweep { domain: Domain, bound: i64, n: usize },
}

/// What one call gets.
struct CallIn<'a> {
    input: &'a Batch,
    /// What the function sees.
    marks: &'a [Mark],
    /// What is sent on.
    marks_out: &'a [Mark],
    rows: std::ops::Range<usize>,
    due: &'a [Timer],
    domain: Domain,
    /// Event-time timers at or before it fire.
    bound: i64,
}

fn domain_code(domain: Domain) -> u8 {
    match domain {
        Domain::EventTime => domain::EVENT_TIME,
        Domain::ProcessingTime => domain::PROCESSING_TIME,
    }
}

fn domain_of(code: u8) -> Option<Domain> {
    match code {
        domain::EVENT_TIME => Some(Domain::EventTime),
        domain::PROCESSING_TIME => Some(Domain::ProcessingTime),
        _ => None,
    }
}

impl Process<'_> {
    /// The watermark that a piece ends with, if it has one.
    fn last_mark(&self, piece: &Piece) -> Option<Watermark> {
        piece.marks.clone().next_back().map(|mark| self.batch.marks[mark].watermark)
    }

    fn n_due(&self, piece: &Piece) -> usize {
        let Some(bound) = self.last_mark(piece).filter(|_| self.function.registers_timers) else { return 0 };
        self.timers.n_due(Domain::EventTime, bound, SWEEP_TIMERS_MAX + 1)
    }

    /// Runs the whole batch, in as few calls as the limit on timers allows.
    fn run_all(&mut self, isolation: &Isolation) -> Result<()> {
        let mut pieces = vec![Piece::whole(self.batch)];
        while let Some(piece) = pieces.pop() {
            if self.n_due(&piece) > SWEEP_TIMERS_MAX {
                if let Some((first, second)) = piece.split(&self.batch.marks) {
                    pieces.extend([second, first]);
                    continue;
                }
                self.sweep(&piece, isolation)?;
            }
            isolation.run(self, Part::Piece(piece))?;
        }
        Ok(())
    }

    /// Fires the timers of a single mark, until few enough are left for the mark's own call.
    fn sweep(&mut self, mark: &Piece, isolation: &Isolation) -> Result<()> {
        while let Some(bound) = self.last_mark(mark).filter(|_| self.n_due(mark) > SWEEP_TIMERS_MAX) {
            isolation.run(self, Part::Sweep { domain: Domain::EventTime, bound, n: SWEEP_TIMERS_MAX })?;
        }
        Ok(())
    }

    /// Fires the timers of the clock up to `bound`. Those that are registered meanwhile wait for the next call.
    fn run_clock(&mut self, bound: i64, isolation: &Isolation) -> Result<()> {
        let domain = Domain::ProcessingTime;
        let mut left = self.timers.n_due(domain, bound, usize::MAX);
        while left > 0 {
            let n = left.min(SWEEP_TIMERS_MAX);
            isolation.run(self, Part::Sweep { domain, bound, n })?;
            left -= n;
        }
        Ok(())
    }

    fn run_piece(&mut self, piece: &Piece, deadline: Duration) -> Result<(), Failure> {
        let input = piece.cut(self.batch);
        let bound = self.last_mark(piece);
        let due = match bound {
            Some(bound) if self.function.registers_timers => self.timers.due(Domain::EventTime, bound, usize::MAX),
            _ => Vec::new(),
        };
        if input.n_rows() == 0 && due.is_empty() {
            self.pending = self.function.ports.marks_only(&input.marks);
        } else {
            let marks: &[Mark] = if self.function.timed { &input.marks } else { &[] };
            let bound = bound.unwrap_or(self.function.watermark);
            let rows = piece.rows.clone();
            let call = CallIn { input: &input, marks, marks_out: &input.marks, rows, due: &due, domain: Domain::EventTime, bound };
            self.call(&call, deadline)?;
        }
        self.function.watermark = bound.unwrap_or(self.function.watermark);
        Ok(())
    }

    fn run_sweep(&mut self, domain: Domain, bound: i64, n: usize, deadline: Duration) -> Result<(), Failure> {
        let due = self.timers.due(domain, bound, n);
        let Some(last) = due.last() else { return Ok(()) };
        // User code sees the watermark that fires them, but what falls due behind the last of them is for the next call.
        let mark = [Mark { row: 0, watermark: bound }];
        let (marks, bound) = match domain {
            Domain::EventTime => (&mark[..], last.time),
            Domain::ProcessingTime => (&[][..], self.function.watermark),
        };
        let call = CallIn { input: self.empty, marks, marks_out: &[], rows: 0..0, due: &due, domain, bound };
        self.call(&call, deadline)
    }

    /// One call: prepares it, makes it, checks what came back, and applies it.
    fn call(&mut self, call: &CallIn<'_>, deadline: Duration) -> Result<(), Failure> {
        let rows = call.rows.clone();
        let slots = &mut self.function.slots;
        slots.assign(&self.hashes[rows.clone()], self.keys.slice(rows.start, rows.end), call.due);
        if self.function.registers_timers && !(call.marks.is_empty() && call.due.is_empty()) {
            slots.sort();
        }
        let (outcome, writes) = self.invoke(call, deadline)?;
        let n_slots = self.function.slots.keys.len();
        let states = &mut CallStates::of(self.access).states;
        states.check(&outcome.states, n_slots)?;
        check_timers(&outcome.timers, n_slots)?;
        let events = Events { input: call.input, marks: call.marks_out, timers: &outcome.timers };
        self.pending = self.function.ports.assemble(outcome.rows, &events)?;
        states.apply(&outcome.states, writes, &self.function.slots.keys);
        self.apply_timers(call, &outcome.timers);
        Ok(())
    }

    fn invoke(&mut self, call: &CallIn<'_>, deadline: Duration) -> Result<(Outcome, Writes), Failure> {
        let function = &mut *self.function;
        let slots = &mut function.slots;
        let columns = function.projection.apply(&call.input.columns)?;
        let rows = RowsIn {
            columns: &columns,
            times: if function.timed { call.input.times() } else { None },
            marks: call.marks,
            slots: Some(&slots.of_rows),
        };
        let keys = match &function.key_columns {
            Some(wanted) => Some(self.batch_keys.columns(&slots.keys, wanted)?),
            None => None,
        };
        let timer = |(timer, &slot): (&Timer, &u32)| TimerIn { slot, time: timer.time, domain: domain_code(call.domain) };
        let timers: Vec<TimerIn> = call.due.iter().zip(&slots.of_timers).map(timer).collect();
        let clock = ClockIn { watermark: function.watermark, bound: call.bound, processing_time: self.now_ms };
        let n_slots = slots.keys.len();
        let held = CallStates::of(self.access);
        let states = held.states.values(&slots.keys)?;
        std::mem::swap(&mut held.keys, &mut slots.keys);
        let invocation = Invocation {
            call: Call::Process,
            rows: Some(rows),
            slots: Some(SlotsIn { n_slots, keys, windows: None, offsets: None }),
            states,
            timers: &timers,
            clock: function.timed.then_some(clock),
            access: self.access,
        };
        let outcome = function.chain.invoke(invocation, deadline);
        let held = CallStates::of(self.access);
        std::mem::swap(&mut held.keys, &mut slots.keys);
        // Taken after a failure as well: that is the rollback.
        let writes = std::mem::take(&mut held.writes);
        Ok((outcome?, writes))
    }

    /// The timers that were given are used up, whether they fired or were deleted on the way.
    fn apply_timers(&mut self, call: &CallIn<'_>, outs: &[TimerOut]) {
        let slots = &self.function.slots;
        if !call.due.is_empty() {
            self.timers.consume(call.domain, call.due);
        }
        for out in outs {
            let Some(domain) = domain_of(out.domain) else { continue };
            let timer = Timer { time: out.time, key: slots.timer_key(out.slot as usize) };
            let hash = slots.keys.hashes()[out.slot as usize];
            match out.action {
                action::REGISTER => self.timers.register(domain, hash, timer),
                _ => self.timers.delete(domain, hash, &timer),
            }
        }
    }
}

fn check_timers(outs: &[TimerOut], n_slots: usize) -> Result<()> {
    let is_known = |out: &TimerOut| {
        (out.slot as usize) < n_slots && domain_of(out.domain).is_some() && (action::FIRED..=action::DELETE).contains(&out.action)
    };
    match outs.iter().find(|out| !is_known(out)) {
        None => Ok(()),
        Some(out) => Err(Error::new(code::BAD_OUTPUT, format!("a timer came back that makes no sense: {out:?}"))),
    }
}

impl Work for Process<'_> {
    type Part = Part;

    fn size(&self, part: &Part) -> usize {
        match part {
            Part::Piece(piece) => piece.rows.len() + self.n_due(piece),
            Part::Sweep { n, .. } => *n,
        }
    }

    fn run(&mut self, part: &Part, deadline: Duration) -> Result<(), Failure> {
        match part {
            Part::Piece(piece) => self.run_piece(piece, deadline),
            Part::Sweep { domain, bound, n } => self.run_sweep(*domain, *bound, *n, deadline),
        }
    }

    fn flush(&mut self) -> Result<()> {
        self.pending.drain(..).try_for_each(|(port, batch)| self.output.batch(port, batch))
    }

    fn split(&self, part: &Part) -> Option<(Part, Part)> {
        match part {
            Part::Piece(piece) => match piece.split(&self.batch.marks) {
                Some((first, second)) => Some((Part::Piece(first), Part::Piece(second))),
                // A mark alone: its timers, and then the mark.
                None if piece.rows.is_empty() => {
                    let sweep = Part::Sweep { domain: Domain::EventTime, bound: self.last_mark(piece)?, n: self.n_due(piece) };
                    Some((sweep, part.clone()))
                }
                None => None,
            },
            &Part::Sweep { domain, bound, n } => {
                (n > 1).then(|| (Part::Sweep { domain, bound, n: n / 2 }, Part::Sweep { domain, bound, n: n - n / 2 }))
            }
        }
    }

    fn suspect(&self, part: &Part) -> Suspect {
        match part {
            Part::Piece(piece) => {
                let row = piece.rows.start;
                suspect_row(self.batch, row, self.batch_keys.describe(&self.batch.columns, row))
            }
            Part::Sweep { domain, bound, .. } => match self.timers.due(*domain, *bound, 1).first() {
                None => Suspect::default(),
                Some(timer) => Suspect {
                    what: format!("timer at {} ms", timer.time),
                    position: String::new(),
                    key: timer.key.with_bytes(|key| self.batch_keys.describe_bytes(key)),
                    record: format!("{{\"timer\":{}}}", timer.time),
                    time_ms: Some(timer.time),
                },
            },
        }
    }

    fn give_up(&mut self, part: &Part) -> Result<()> {
        if let Part::Sweep { domain, bound, .. } = part {
            for timer in self.timers.due(*domain, *bound, 1) {
                self.timers.delete(*domain, timer.key.hash(), &timer);
            }
        }
        Ok(())
    }
}

impl Operator for KeyedProcessOperator {
    fn open(&mut self, context: &OperatorContext) -> Result<()> {
        let kind = self.keys.kind();
        let mut states = States::new(&self.descriptors, kind, context.key_groups, context.max_parallelism);
        states.attach(&self.descriptors, &self.keys.types(), context)?;
        self.opened = Some(Opened {
            isolation: Isolation::new(context),
            clock: context.clock.clone(),
            metrics: context.metrics.clone(),
            uid: context.uid.clone(),
            access: Box::new(CallStates { may_broadcast: self.second.is_none(), ..CallStates::new(states, kind) }),
            timers: TimerService::new(context.key_groups, context.max_parallelism),
        });
        Ok(())
    }

    fn batch(&mut self, batch: Batch, output: &mut dyn Output) -> Result<()> {
        let now_ms = if self.function.timed || self.expires { self.now_ms() } else { 0 };
        self.work(&batch, now_ms, output, |process, isolation| process.run_all(isolation))
    }

    fn second_input(&mut self, batch: Batch, output: &mut dyn Output) -> Result<()> {
        parts(&batch).into_iter().try_for_each(|part| match part {
            SecondPart::Rows(rows) => self.broadcast_rows(&rows, output),
            SecondPart::Watermark(watermark) => self.watermark(watermark, output),
        })
    }

    fn watermark(&mut self, watermark: Watermark, output: &mut dyn Output) -> Result<()> {
        if self.next(Domain::EventTime).is_some_and(|time| time <= watermark) {
            let batch = Batch { marks: vec![Mark { row: 0, watermark }], ..self.empty.clone() };
            return self.batch(batch, output);
        }
        self.function.watermark = watermark;
        output.watermark(watermark)
    }

    fn next_processing_time(&self) -> Option<i64> {
        self.next(Domain::ProcessingTime)
    }

    fn snapshot(&mut self, _checkpoint: u64) -> Result<OperatorSnapshot> {
        let key = self.keys.types();
        let opened = self.opened.as_mut().ok_or_else(|| Error::internal("a process function was not opened"))?;
        let states = &mut CallStates::of(&mut opened.access).states;
        if self.expires {
            states.set_time(opened.clock.now_ms());
        }
        let mut keyed = states.freeze(&self.descriptors, &key);
        if self.function.registers_timers {
            keyed.push(KeyedSnapshot { name: TIMERS.into(), types: timer_types(&key), entries: Box::new(opened.timers.freeze()) });
        }
        Ok(OperatorSnapshot { keyed, lists: states.freeze_lists(&self.descriptors) })
    }

    fn restore(&mut self, state: &mut OperatorState) -> Result<()> {
        let key = self.keys.types();
        let opened = self.opened.as_mut().ok_or_else(|| Error::internal("a process function was not opened"))?;
        let states = &mut CallStates::of(&mut opened.access).states;
        states.set_time(opened.clock.now_ms());
        states.restore(&self.descriptors, &key, opened.clock.now_ms(), state)?;
        if !self.function.registers_timers {
            // Those of a version that had some are left, and found.
            return Ok(());
        }
        let fixed = self.keys.kind() == KeyKind::Fixed;
        state.keyed(TIMERS, &timer_types(&key), |hash, key, sub, _| opened.timers.restore(hash, key, sub, fixed))
    }

    fn processing_time(&mut self, now_ms: i64, output: &mut dyn Output) -> Result<()> {
        let empty = self.empty.clone();
        self.work(&empty, now_ms, output, |process, isolation| process.run_clock(now_ms, isolation))
    }

    /// A timer that a firing registers has no time to come any more, and is dropped like those that may not fire.
    fn end_of_time(&mut self, fires: bool, output: &mut dyn Output) -> Result<()> {
        if fires && self.next(Domain::ProcessingTime).is_some() {
            let (empty, now_ms) = (self.empty.clone(), self.now_ms());
            self.work(&empty, now_ms, output, |process, isolation| process.run_clock(i64::MAX, isolation))?;
        }
        let Some(opened) = &self.opened else { return Ok(()) };
        TaskMetrics::add(&opened.metrics.dropped_at_end, opened.timers.len(Domain::ProcessingTime) as u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
