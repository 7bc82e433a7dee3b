//! The calls of a keyed process function: what each gets, and what becomes of what it returns.
//!
//! A part of the work is a piece of a batch, with the timers that its marks make due, or a number
//! of timers of a sweep.

use super::{FunctionCalls, suspect_timer};
use crate::function::{
    Call, ClockIn, Failure, Invocation, Outcome, RowsIn, SlotsIn, StateAccess, TimerIn, TimerOut,
};
use crate::isolate::{Isolation, Suspect, Work};
use crate::keyed::BatchKeys;
use crate::operator::Output;
use crate::ports::{CallLimits, Events};
use crate::states::{CallStates, Writes};
use crate::timers::{Domain, Timer, TimerService};
use crate::transform::{Piece, bytes_of, send_pieces, suspect_row};
use std::time::Duration;
use streamrt_state::Keys;
use streamrt_types::{Batch, Error, Mark, Result, WATERMARK_MIN, Watermark, code, columns_bytes};
use streamrt_wit::codes::{action, domain};

/// The number of calls of a sweep between which nothing else happens: some 100 ms.
const SWEEP_CALLS: usize = 4;

/// The work of one batch, or of a part of a sweep.
pub(super) struct Process<'a> {
    pub function: &'a mut FunctionCalls,
    pub access: &'a mut Box<dyn StateAccess>,
    pub timers: &'a mut TimerService,
    pub batch: &'a Batch,
    pub empty: &'a Batch,
    pub hashes: &'a [u32],
    pub keys: Keys<'a>,
    pub batch_keys: &'a BatchKeys,
    pub now_ms: i64,
    pub pending: Vec<(u16, Batch)>,
    pub limits: CallLimits,
    /// Timers that firings at the end registered. All timers of one piece of work are of one
    /// domain.
    pub dropped: Option<Dropped>,
    pub output: &'a mut dyn Output,
}

/// A part of the work.
#[derive(Debug, Clone)]
pub(super) enum Part {
    /// Rows and marks, with all timers that the marks make due.
    Piece(Piece),
    /// The first `n` of the timers that are due at `bound`. What makes event-time timers due, a
    /// mark or a watermark, follows from that.
    Sweep {
        domain: Domain,
        bound: i64,
        n: usize,
    },
}

/// Timers that were registered too late to fire, and the first of them.
pub(super) struct Dropped {
    pub domain: Domain,
    pub n: u64,
    pub first: Timer,
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
    /// The end of the input makes them due: what they register does not fire.
    ends: bool,
    now_ms: i64,
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
        piece
            .marks
            .clone()
            .next_back()
            .map(|mark| self.batch.marks[mark].watermark)
    }

    /// Timers that the last mark of a piece makes due, counted up to `limit`.
    fn n_due(&self, piece: &Piece, limit: usize) -> usize {
        self.last_mark(piece)
            .map_or(0, |bound| self.n_due_at(bound, limit))
    }

    fn n_due_at(&self, bound: Watermark, limit: usize) -> usize {
        if self.function.registers_timers {
            self.timers.n_due(Domain::EventTime, bound, limit)
        } else {
            0
        }
    }

    /// Fires timers that are due at `bound`, in [`SWEEP_CALLS`] calls at most. Returns whether none
    /// is left.
    pub fn sweep(&mut self, domain: Domain, bound: i64, isolation: &Isolation) -> Result<bool> {
        for _ in 0..SWEEP_CALLS {
            let n = self
                .timers
                .n_due(domain, bound, isolation.n_events(Call::Process));
            if n == 0 {
                return Ok(true);
            }
            isolation.run(self, Part::Sweep { domain, bound, n })?;
        }
        Ok(self.timers.n_due(domain, bound, 1) == 0)
    }

    fn run_piece(&mut self, piece: &Piece, deadline: Duration) -> Result<usize, Failure> {
        let input = piece.cut(self.batch);
        let bound = self.last_mark(piece);
        let due = match bound {
            Some(bound) if self.function.registers_timers => {
                self.timers.due(Domain::EventTime, bound, usize::MAX)
            }
            _ => Vec::new(),
        };
        let mut n_bytes = 0;
        if input.n_rows() == 0 && due.is_empty() {
            self.pending = self.function.ports.marks_only(&input.marks);
        } else {
            let marks: &[Mark] = if self.function.timed {
                &input.marks
            } else {
                &[]
            };
            let bound = bound.unwrap_or(self.function.watermark);
            let rows = piece.rows.clone();
            let domain = Domain::EventTime;
            let call = CallIn {
                input: &input,
                marks,
                marks_out: &input.marks,
                rows,
                due: &due,
                domain,
                bound,
                ends: false,
                now_ms: self.now_ms,
            };
            n_bytes = self.call(&call, deadline)?;
        }
        self.function.watermark = bound.unwrap_or(self.function.watermark);
        Ok(n_bytes)
    }

    fn run_sweep(
        &mut self,
        domain: Domain,
        bound: i64,
        n: usize,
        deadline: Duration,
    ) -> Result<usize, Failure> {
        let ends = bound == i64::MAX;
        let mut due = self.timers.due(domain, bound, n);
        let Some(first) = due.first().map(|timer| timer.time) else {
            return Ok(0);
        };
        if ends && domain == Domain::ProcessingTime {
            // For the guest it is exactly as late as they say: otherwise what they register would
            // fire with those after them.
            due.truncate(due.partition_point(|timer| timer.time == first));
        }
        let now_ms = if ends {
            self.now_ms.max(first)
        } else {
            self.now_ms
        };
        let Some(last) = due.last() else { return Ok(0) };
        // User code sees the watermark that fires them, but what falls due after the last of them
        // is for the next call.
        let mark = [Mark {
            row: 0,
            watermark: bound,
        }];
        let (marks, bound) = match domain {
            // Nothing that is registered on the way fires.
            Domain::EventTime if ends => (&mark[..], WATERMARK_MIN),
            Domain::EventTime => (&mark[..], last.time),
            Domain::ProcessingTime => (&[][..], self.function.watermark),
        };
        let call = CallIn {
            input: self.empty,
            marks,
            marks_out: &[],
            rows: 0..0,
            due: &due,
            domain,
            bound,
            ends,
            now_ms,
        };
        self.call(&call, deadline)
    }

    /// One call: prepares it, makes it, checks what came back, and applies it. Returns the bytes of
    /// both.
    fn call(&mut self, call: &CallIn<'_>, deadline: Duration) -> Result<usize, Failure> {
        let rows = call.rows.clone();
        let slots = &mut self.function.slots;
        slots.assign(
            &self.hashes[rows.clone()],
            self.keys.slice(rows.start, rows.end),
            call.due,
        );
        if self.function.registers_timers && !(call.marks.is_empty() && call.due.is_empty()) {
            slots.sort();
        }
        let (outcome, writes, n_bytes_in) = self.invoke(call, deadline)?;
        let n_slots = self.function.slots.keys.len();
        let states = &mut CallStates::of(self.access).states;
        states.check(&outcome.states, n_slots)?;
        check_timers(&outcome.timers, n_slots)?;
        let joined_bytes_max = self.limits.output_bytes;
        let events = Events {
            input: call.input,
            marks: call.marks_out,
            timers: &outcome.timers,
            joined_bytes_max,
        };
        self.pending = self.function.ports.assemble(outcome.rows, &events)?;
        states.apply(&outcome.states, writes, &self.function.slots.keys);
        self.apply_timers(call, &outcome.timers);
        Ok(n_bytes_in + bytes_of(&self.pending))
    }

    /// Returns the bytes that went in as well.
    fn invoke(
        &mut self,
        call: &CallIn<'_>,
        deadline: Duration,
    ) -> Result<(Outcome, Writes, usize), Failure> {
        let function = &mut *self.function;
        let slots = &mut function.slots;
        let columns = function.projection.apply(&call.input.columns)?;
        let rows = RowsIn {
            columns: &columns,
            times: if function.timed {
                call.input.times()
            } else {
                None
            },
            marks: call.marks,
            slots: Some(&slots.of_rows),
        };
        let keys = match &function.key_columns {
            Some(wanted) => Some(self.batch_keys.columns(&slots.keys, wanted)?),
            None => None,
        };
        let timer = |(timer, &slot): (&Timer, &u32)| TimerIn {
            slot,
            time: timer.time,
            domain: domain_code(call.domain),
        };
        let timers: Vec<TimerIn> = call.due.iter().zip(&slots.of_timers).map(timer).collect();
        let clock = ClockIn {
            watermark: function.watermark,
            bound: call.bound,
            processing_time: call.now_ms,
        };
        let n_slots = slots.keys.len();
        let held = CallStates::of(self.access);
        let states = held.states.values(&slots.keys, self.limits.state_bytes)?;
        let n_bytes = columns_bytes(&columns)
            + states
                .iter()
                .map(|state| columns_bytes(&state.values))
                .sum::<usize>();
        std::mem::swap(&mut held.keys, &mut slots.keys);
        let invocation = Invocation {
            call: Call::Process,
            rows: Some(rows),
            slots: Some(SlotsIn {
                n_slots,
                keys,
                windows: None,
                offsets: None,
            }),
            states,
            timers: &timers,
            clock: function.timed.then_some(clock),
            access: self.access,
        };
        let outcome = function.chain.invoke(invocation, deadline);
        let held = CallStates::of(self.access);
        std::mem::swap(&mut held.keys, &mut slots.keys);
        // It is taken after a failure as well: that is the rollback.
        let writes = std::mem::take(&mut held.writes);
        Ok((outcome?, writes, n_bytes))
    }

    /// The timers that were given are used up, whether they fired or were deleted on the way.
    fn apply_timers(&mut self, call: &CallIn<'_>, outs: &[TimerOut]) {
        let slots = &self.function.slots;
        if !call.due.is_empty() {
            self.timers.consume(call.domain, call.due);
        }
        for out in outs {
            let Some(domain) = domain_of(out.domain) else {
                continue;
            };
            let timer = Timer {
                time: out.time,
                key: slots.timer_key(out.slot as usize),
            };
            let hash = slots.keys.hashes()[out.slot as usize];
            match out.action {
                // A firing at the end of the input asked for another: this would never end.
                action::REGISTER
                    if call.ends && (domain == Domain::EventTime || domain == call.domain) =>
                {
                    self.dropped
                        .get_or_insert(Dropped {
                            domain: call.domain,
                            n: 0,
                            first: timer,
                        })
                        .n += 1;
                }
                action::REGISTER => self.timers.register(domain, hash, timer),
                _ => self.timers.delete(domain, hash, &timer),
            }
        }
    }
}

fn check_timers(outs: &[TimerOut], n_slots: usize) -> Result<()> {
    let is_known = |out: &TimerOut| {
        (out.slot as usize) < n_slots
            && domain_of(out.domain).is_some()
            && (action::FIRED..=action::DELETE).contains(&out.action)
    };
    match outs.iter().find(|out| !is_known(out)) {
        None => Ok(()),
        Some(out) => Err(Error::new(
            code::BAD_OUTPUT,
            format!("a timer came back that makes no sense: {out:?}"),
        )),
    }
}

impl Process<'_> {
    /// Cuts between rows, then between the marks before a row, the row, and the marks after it, and
    /// then between marks; last of all come the timers of one mark, and the mark. A row whose marks
    /// fire only what it registers itself stays with those before it.
    fn split_piece(&self, piece: &Piece, n_events: usize) -> Option<(Part, Part)> {
        let all = &self.batch.marks;
        let parts = match piece.rows.len() {
            0 => match piece.split_marks() {
                Some(parts) => parts,
                // A mark by itself.
                None => {
                    let bound = self.last_mark(piece)?;
                    let n = self.n_due_at(bound, n_events);
                    return (n > 0).then(|| {
                        (
                            Part::Sweep {
                                domain: Domain::EventTime,
                                bound,
                                n,
                            },
                            Part::Piece(piece.clone()),
                        )
                    });
                }
            },
            1 if !self.function.registers_timers => return None,
            1 => {
                let (before, row, behind) = piece.around_row(all);
                let row_and_behind = Piece {
                    marks: row.marks.end..behind.marks.end,
                    ..row.clone()
                };
                match () {
                    () if self.n_due(&before, 1) > 0 => (before, row_and_behind),
                    () if !behind.marks.is_empty() => (
                        Piece {
                            marks: before.marks.start..behind.marks.start,
                            ..row
                        },
                        behind,
                    ),
                    () => return None,
                }
            }
            _ => piece.split_rows(all, n_events)?,
        };
        Some((Part::Piece(parts.0), Part::Piece(parts.1)))
    }
}

impl Work for Process<'_> {
    type Part = Part;

    fn call(&self) -> Call {
        Call::Process
    }

    fn size(&self, part: &Part, limit: usize) -> usize {
        match part {
            Part::Piece(piece) => piece.rows.len() + self.n_due(piece, limit + 1),
            Part::Sweep { n, .. } => *n,
        }
    }

    fn run(&mut self, part: &Part, deadline: Duration) -> Result<usize, Failure> {
        match part {
            Part::Piece(piece) => self.run_piece(piece, deadline),
            Part::Sweep { domain, bound, n } => self.run_sweep(*domain, *bound, *n, deadline),
        }
    }

    fn flush(&mut self) -> Result<()> {
        send_pieces(&mut self.pending, self.limits.batch_bytes, self.output)
    }

    fn split(&self, part: &Part, n_events: usize) -> Option<(Part, Part)> {
        match part {
            Part::Piece(piece) => self.split_piece(piece, n_events),
            &Part::Sweep { domain, bound, n } => (n > n_events).then(|| {
                (
                    Part::Sweep {
                        domain,
                        bound,
                        n: n_events,
                    },
                    Part::Sweep {
                        domain,
                        bound,
                        n: n - n_events,
                    },
                )
            }),
        }
    }

    fn suspect(&self, part: &Part) -> Suspect {
        let timer_at = |domain, bound| {
            let due = self.timers.due(domain, bound, 1);
            due.first().map_or(Suspect::default(), |timer| {
                suspect_timer(timer, self.batch_keys)
            })
        };
        match part {
            Part::Piece(Piece { rows, .. }) if !rows.is_empty() => suspect_row(
                self.batch,
                rows.start,
                self.batch_keys.describe(&self.batch.columns, rows.start),
            ),
            Part::Piece(piece) => self.last_mark(piece).map_or(Suspect::default(), |bound| {
                timer_at(Domain::EventTime, bound)
            }),
            Part::Sweep { domain, bound, .. } => timer_at(*domain, *bound),
        }
    }

    fn give_up(&mut self, part: &Part) -> Result<()> {
        match part {
            // The row is skipped; the marks around it pass.
            Part::Piece(piece) => {
                self.pending = self.function.ports.marks_only(&piece.cut(self.batch).marks);
                self.function.watermark = self.last_mark(piece).unwrap_or(self.function.watermark);
            }
            Part::Sweep { domain, bound, .. } => {
                for timer in self.timers.due(*domain, *bound, 1) {
                    self.timers.delete(*domain, timer.key.hash(), &timer);
                }
            }
        }
        Ok(())
    }
}
