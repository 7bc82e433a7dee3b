//! Runs a keyed process function, and the stateless functions that are fused after it: state,
//! timers, one call for many rows.
//!
//! 1. The distinct keys of the rows, and of the timers that the batch's last mark makes due, become
//!    slots.
//! 2. Value state is gathered into columns, and the function is called once.
//! 3. What it returns is checked as a whole and then applied: state, list and map writes, timers,
//!    output.
//!
//! Rows and timers are taken in the order of the events, so results do not depend on how they are
//! cut into calls. The timers that the last watermark of a batch makes due are a sweep: it goes out
//! piece by piece, and the watermark when all of them have fired.
//!
//! At the end of the input the final watermark fires every timer once. A timer that such a firing
//! registers does not fire any more: it is counted and named.
//!
//! # Source
//! Flink's `KeyedProcessOperator` and `InternalTimerServiceImpl`.

mod calls;

use crate::function::{FunctionChain, StateAccess};
use crate::isolate::{Isolation, Suspect};
use crate::keyed::BatchKeys;
use crate::operator::{Operator, OperatorContext, Output, TaskMetrics};
use crate::ports::{CallLimits, Ports};
use crate::second_input::{Lent, Part as SecondPart, SecondInput, parts};
use crate::slots::Slots;
use crate::states::{CallStates, States};
use crate::timers::{Domain, Timer, TimerService};
use crate::transform::{Piece, Projection};
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use calls::{Dropped, Part, Process};
use std::sync::Arc;
use streamrt_state::{KeyKind, KeyedSnapshot, OperatorSnapshot, OperatorState};
use streamrt_types::state_types::{TIMERS, timer_types};
use streamrt_types::{
    Batch, Clock, Error, Mark, Result, WATERMARK_MAX, WATERMARK_MIN, Watermark, code,
};
use streamrt_wit::{Function, StateDescriptor};

/// If more timers than this are due under the last watermark of a batch, they are a sweep; fewer
/// fire in the call of the last rows.
const TIMERS_BESIDE_ROWS: usize = 1024;

/// The number of entries of each state with a time to live that are checked after a batch, so that
/// expired ones are removed although nobody reads them: two per row, because a row makes at most
/// one entry of a value and cleaning must be faster, and some if there are no rows.
const SWEEP_ENTRIES_PER_ROW: usize = 2;
const SWEEP_ENTRIES_MIN: usize = 64;

/// The operator of a keyed process function.
pub struct KeyedProcessOperator {
    keys: BatchKeys,
    function: FunctionCalls,
    descriptors: Vec<StateDescriptor>,
    /// Whether a state has a time to live.
    expires: bool,
    /// The second input of a broadcast-process function.
    second: Option<SecondInput>,
    /// A batch without rows, for calls that have none.
    empty: Batch,
    opened: Option<Opened>,
    /// The watermark whose timers are firing.
    sweep: Option<Watermark>,
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

/// What [`Operator::open`] makes.
struct Opened {
    isolation: Isolation,
    clock: Arc<dyn Clock>,
    metrics: Arc<TaskMetrics>,
    uid: Arc<str>,
    /// A [`CallStates`].
    access: Box<dyn StateAccess>,
    timers: TimerService,
    limits: CallLimits,
}

impl KeyedProcessOperator {
    /// Runs `chain`, which is made of `functions` in this order, the first of them keyed, over rows
    /// of the schema `input`. `key_columns` are the columns of the key in the input, in the order
    /// of the key.
    ///
    /// # Errors
    /// `Invalid` if a function reads a column that is not there, wants a key column that is not of
    /// the key, or adds one that clashes.
    pub fn new(
        chain: Box<dyn FunctionChain>,
        functions: &[Function],
        input: &SchemaRef,
        key_columns: Vec<usize>,
    ) -> Result<KeyedProcessOperator> {
        let first = functions
            .first()
            .ok_or_else(|| Error::internal("a chain has at least one function"))?;
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
        let expires = descriptors
            .iter()
            .any(|descriptor| descriptor.ttl_ms.is_some());
        Ok(KeyedProcessOperator {
            keys,
            function,
            descriptors,
            expires,
            second: None,
            empty,
            opened: None,
            sweep: None,
        })
    }

    /// Gives the operator of a broadcast-process function its second input, of the schema `input`.
    ///
    /// # Errors
    /// `Invalid` if the function reads a column that is not there, or forwards columns.
    pub fn with_second_input(
        mut self,
        functions: &[Function],
        input: &SchemaRef,
    ) -> Result<KeyedProcessOperator> {
        self.second = Some(SecondInput::new(functions, input)?);
        Ok(self)
    }

    /// The number for [`Output::batch`] and the schema of every output.
    pub fn ports(&self) -> impl Iterator<Item = (u16, &SchemaRef)> {
        self.function.ports.schemas()
    }

    /// Hands the work of one batch to `run`.
    fn work<T>(
        &mut self,
        batch: &Batch,
        now_ms: i64,
        output: &mut dyn Output,
        run: impl FnOnce(&mut Process<'_>, &Isolation) -> Result<T>,
    ) -> Result<T> {
        let opened = self.opened.as_mut().ok_or_else(not_opened)?;
        self.keys
            .load(&batch.columns)
            .map_err(|e| e.at(format_args!("operator `{}`", opened.uid)))?;
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
            limits: opened.limits,
            dropped: None,
            output,
        };
        let done = run(&mut process, &opened.isolation)?;
        if let Some(Dropped { domain, n, first }) = process.dropped {
            match domain {
                Domain::EventTime => {
                    opened
                        .metrics
                        .drop_timers(&opened.uid, n, &suspect_timer(&first, &self.keys))
                }
                Domain::ProcessingTime => TaskMetrics::add(&opened.metrics.dropped_at_end, n),
            }
        }
        if self.expires {
            CallStates::of(&mut opened.access)
                .states
                .sweep(SWEEP_ENTRIES_MIN + batch.n_rows() * SWEEP_ENTRIES_PER_ROW);
        }
        Ok(done)
    }

    /// Takes the last mark off a batch, if it comes after all rows and makes many timers due, or is
    /// the final one.
    fn take_sweep(&self, batch: &mut Batch) -> Option<Watermark> {
        let timers = &self
            .opened
            .as_ref()
            .filter(|_| self.function.registers_timers)?
            .timers;
        let Mark { row, watermark } = *batch.marks.last()?;
        let n_due = || timers.n_due(Domain::EventTime, watermark, TIMERS_BESIDE_ROWS + 1);
        let sweeps = row as usize == batch.n_rows()
            && (watermark == WATERMARK_MAX || n_due() > TIMERS_BESIDE_ROWS);
        sweeps.then(|| {
            batch.marks.pop();
            watermark
        })
    }

    /// Processes rows of the second input, which have no marks.
    fn broadcast_rows(&mut self, rows: &Batch, output: &mut dyn Output) -> Result<()> {
        let now_ms = self.now_ms();
        let (Some(second), Some(opened)) = (&self.second, &mut self.opened) else {
            return Err(Error::internal(
                "a process function with one input was given rows of a second",
            ));
        };
        let (chain, watermark) = (self.function.chain.as_mut(), self.function.watermark);
        let lent = Lent {
            chain,
            access: &mut opened.access,
            watermark,
            now_ms,
            limits: opened.limits,
        };
        second.run(rows, lent, &opened.isolation, output)
    }

    fn now_ms(&self) -> i64 {
        self.opened
            .as_ref()
            .map_or(0, |opened| opened.clock.now_ms())
    }

    fn next(&self, domain: Domain) -> Option<i64> {
        self.opened
            .as_ref()
            .and_then(|opened| opened.timers.next(domain))
    }
}

fn not_opened() -> Error {
    Error::internal("a process function was not opened")
}

/// Describes a timer, for a report.
fn suspect_timer(timer: &Timer, keys: &BatchKeys) -> Suspect {
    Suspect {
        what: format!("timer at {} ms", timer.time),
        position: String::new(),
        key: timer.key.with_bytes(|key| keys.describe_bytes(key)),
        record: format!("{{\"timer\":{}}}", timer.time),
        time_ms: Some(timer.time),
    }
}

/// Where the key columns that `function` wants are in the key.
fn wanted_key(function: &Function, key: &SchemaRef) -> Result<Option<Vec<usize>>> {
    let place = |field: &streamrt_wit::Field| {
        let found = key
            .column_with_name(&field.name)
            .filter(|(_, found)| *found.data_type() == streamrt_types::arrow_type(field.data_type));
        let message = || {
            format!(
                "function `{}` wants key column `{}`, which is not in the key of its input",
                function.name, field.name
            )
        };
        found
            .map(|(index, _)| index)
            .ok_or_else(|| Error::new(code::SCHEMA_MISMATCH, message()))
    };
    let wanted = function
        .key
        .iter()
        .flatten()
        .map(place)
        .collect::<Result<Vec<_>>>()?;
    Ok((!wanted.is_empty()).then_some(wanted))
}

impl Operator for KeyedProcessOperator {
    fn open(&mut self, context: &OperatorContext) -> Result<()> {
        let kind = self.keys.kind();
        let mut states = States::new(
            &self.descriptors,
            kind,
            context.key_groups,
            context.max_parallelism,
        );
        states.attach(&self.descriptors, &self.keys.types(), context)?;
        self.opened = Some(Opened {
            isolation: Isolation::new(context),
            clock: context.clock.clone(),
            metrics: context.metrics.clone(),
            uid: context.uid.clone(),
            access: Box::new(CallStates {
                may_broadcast: self.second.is_none(),
                ..CallStates::new(states, kind)
            }),
            timers: TimerService::new(context.key_groups, context.max_parallelism),
            limits: CallLimits::new(&context.configuration),
        });
        Ok(())
    }

    fn batch(&mut self, mut batch: Batch, output: &mut dyn Output) -> Result<()> {
        let sweep = self.take_sweep(&mut batch);
        if batch.n_rows() > 0 || !batch.marks.is_empty() {
            let now_ms = if self.function.timed || self.expires {
                self.now_ms()
            } else {
                0
            };
            self.work(&batch, now_ms, output, |process, isolation| {
                isolation.run(process, Part::Piece(Piece::whole(&batch)))
            })?;
        }
        sweep.map_or(Ok(()), |watermark| self.watermark(watermark, output))
    }

    fn second_input(&mut self, batch: Batch, output: &mut dyn Output) -> Result<()> {
        for part in parts(&batch) {
            // What follows a watermark in the batch comes after all that the watermark fires.
            while self.is_sweeping() {
                self.resume(output)?;
            }
            match part {
                SecondPart::Rows(rows) => self.broadcast_rows(&rows, output)?,
                SecondPart::Watermark(watermark) => self.watermark(watermark, output)?,
            }
        }
        Ok(())
    }

    fn watermark(&mut self, watermark: Watermark, output: &mut dyn Output) -> Result<()> {
        self.sweep = Some(watermark);
        self.resume(output)
    }

    fn is_sweeping(&self) -> bool {
        self.sweep.is_some()
    }

    fn resume(&mut self, output: &mut dyn Output) -> Result<()> {
        let Some(watermark) = self.sweep else {
            return Ok(());
        };
        if self
            .next(Domain::EventTime)
            .is_some_and(|time| time <= watermark)
        {
            let (empty, now_ms) = (self.empty.clone(), self.now_ms());
            let sweep = |process: &mut Process<'_>, isolation: &Isolation| {
                process.sweep(Domain::EventTime, watermark, isolation)
            };
            if !self.work(&empty, now_ms, output, sweep)? {
                return Ok(());
            }
        }
        (self.sweep, self.function.watermark) = (None, watermark);
        output.watermark(watermark)
    }

    fn next_processing_time(&self) -> Option<i64> {
        self.next(Domain::ProcessingTime)
    }

    fn state_bytes(&mut self) -> usize {
        let of_opened = |opened: &mut Opened| {
            CallStates::of(&mut opened.access).states.used_bytes() + opened.timers.used_bytes()
        };
        self.opened.as_mut().map_or(0, of_opened)
    }

    fn snapshot(&mut self, _checkpoint: u64) -> Result<OperatorSnapshot> {
        let key = self.keys.types();
        let opened = self.opened.as_mut().ok_or_else(not_opened)?;
        let states = &mut CallStates::of(&mut opened.access).states;
        if self.expires {
            states.set_time(opened.clock.now_ms());
        }
        let mut keyed = states.freeze(&self.descriptors, &key);
        if self.function.registers_timers {
            keyed.push(KeyedSnapshot {
                name: TIMERS.into(),
                types: timer_types(&key),
                entries: Box::new(opened.timers.freeze()),
            });
        }
        Ok(OperatorSnapshot {
            keyed,
            lists: states.freeze_lists(&self.descriptors),
        })
    }

    fn restore(&mut self, state: &mut OperatorState) -> Result<()> {
        let key = self.keys.types();
        let opened = self.opened.as_mut().ok_or_else(not_opened)?;
        let states = &mut CallStates::of(&mut opened.access).states;
        states.set_time(opened.clock.now_ms());
        states.restore(&self.descriptors, &key, opened.clock.now_ms(), state)?;
        if !self.function.registers_timers {
            // States that an earlier version had are left there, and found.
            return Ok(());
        }
        let fixed = self.keys.kind() == KeyKind::Fixed;
        state.keyed(TIMERS, &timer_types(&key), |hash, key, sub, _| {
            opened.timers.restore(hash, key, sub, fixed)
        })
    }

    fn processing_time(&mut self, now_ms: i64, output: &mut dyn Output) -> Result<()> {
        let empty = self.empty.clone();
        // What is left, or was registered meanwhile, is due at once: the task calls again.
        self.work(&empty, now_ms, output, |process, isolation| {
            process.sweep(Domain::ProcessingTime, now_ms, isolation)
        })
        .map(drop)
    }

    /// A timer that a firing registers can no longer come due, and is dropped like those that may
    /// not fire.
    fn end_of_time(&mut self, fires: bool, output: &mut dyn Output) -> Result<()> {
        if fires && self.next(Domain::ProcessingTime).is_some() {
            let (empty, now_ms) = (self.empty.clone(), self.now_ms());
            while !self.work(&empty, now_ms, output, |process, isolation| {
                process.sweep(Domain::ProcessingTime, i64::MAX, isolation)
            })? {}
        }
        let Some(opened) = &self.opened else {
            return Ok(());
        };
        TaskMetrics::add(
            &opened.metrics.dropped_at_end,
            opened.timers.len(Domain::ProcessingTime) as u64,
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests;
