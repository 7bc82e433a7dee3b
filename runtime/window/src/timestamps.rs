//! Gives rows their event time, and watermarks that follow from them.
//!
//! Invariant: the marks of a batch that leaves here are all its watermarks: those from upstream are
//! dropped, except for the final one. An idle status goes out after the watermark that it releases,
//! and an active one before any row. A restored operator sends the watermark that it had reached
//! right after its first status, before any row, so that no window that was gone comes back to
//! life.

use crate::ahead;
use crate::assigner::TIME_MAX;
use crate::generator::Generators;
use crate::generator_snapshot::{self, Restored};
use crate::user_times::UserTimes;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, UInt32Array};
use arrow_schema::{DataType, SchemaRef};
use streamrt_operator::{
    FunctionChain, Isolation, Operator, OperatorContext, Output, SplitEvent, SplitTime, TaskMetrics,
};
use streamrt_state::{OperatorSnapshot, OperatorState};
use streamrt_types::{
    Batch, Error, Mark, Result, Status, Times, WATERMARK_MAX, WATERMARK_MIN, Watermark, code,
};
use streamrt_wit::{Function, Generator, TimeSource, TimeUnit};

/// Where times come from.
enum Assigner {
    Column { index: usize, unit: TimeUnit },
    Function(UserTimes),
}

/// The operator of `Body::Timestamps`.
pub struct TimestampsOperator {
    assigner: Assigner,
    generator: Generator,
    idle_ms: Option<i64>,
    generators: Generators,
    /// Whether a reader is in the same chain.
    of_reader: bool,
    /// The status of the input, and what was sent.
    upstream: Status,
    sent: Status,
    /// Whether the first status has been sent.
    told: bool,
    /// The restored watermark, until it has been sent.
    resume: Option<Watermark>,
    context: Option<OperatorContext>,
}

impl TimestampsOperator {
    /// `input` is the schema of the rows. `function` is the chain of the one timestamps function,
    /// if `time` names one.
    ///
    /// # Errors
    /// `Invalid` if the time column is not there or not of type i64, or the function does not fit
    /// the rows.
    pub fn new(
        time: &TimeSource,
        generator: &Generator,
        idle_ms: Option<u64>,
        input: &SchemaRef,
        function: Option<(Box<dyn FunctionChain>, Function)>,
    ) -> Result<TimestampsOperator> {
        let assigner = match (time, function) {
            (TimeSource::Column { column, unit }, _) => Assigner::Column {
                index: time_column(input, column)?,
                unit: *unit,
            },
            (TimeSource::Function { .. }, Some((chain, function))) => Assigner::Function(
                UserTimes::new(chain, &function, input, *generator == Generator::Punctuated)?,
            ),
            (TimeSource::Function { .. }, None) => {
                return Err(Error::internal(
                    "a timestamps function comes with its chain",
                ));
            }
        };
        Ok(TimestampsOperator {
            assigner,
            generator: generator.clone(),
            idle_ms: idle_ms.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX)),
            generators: Generators::new(),
            of_reader: false,
            upstream: Status::Active,
            sent: Status::Active,
            told: false,
            resume: None,
            context: None,
        })
    }

    /// The clock by which silence is measured: it advances evenly, however the machine's time is
    /// set.
    fn clock_ms(&self) -> i64 {
        match &self.context {
            Some(context) if self.idle_ms.is_some() => context.clock.monotonic_ms(),
            _ => 0,
        }
    }

    fn combined_status(&self) -> Status {
        match self.upstream {
            Status::Active if self.generators.all_idle() => Status::Idle,
            upstream => upstream,
        }
    }

    /// Sends the status that follows from the input and the generators, if it is new.
    fn tell(&mut self, output: &mut dyn Output) -> Result<()> {
        let status = self.combined_status();
        match std::mem::replace(&mut self.sent, status) == status {
            true => Ok(()),
            false => output.status(status),
        }
    }

    /// Sends the restored watermark, once.
    fn resume(&mut self, output: &mut dyn Output) -> Result<()> {
        match self.resume.take() {
            None => Ok(()),
            Some(watermark) => output.watermark(watermark),
        }
    }

    fn context(&self) -> Result<&OperatorContext> {
        self.context
            .as_ref()
            .ok_or_else(|| Error::internal("a timestamps operator was not opened"))
    }

    /// Times, and for a punctuated generator the watermarks, of the rows that remain.
    fn assign(&mut self, batch: Batch) -> Result<(Batch, Vec<Option<Watermark>>)> {
        match &mut self.assigner {
            &mut Assigner::Column { index, unit } => {
                let context = self.context()?;
                let batch = without_null_times(batch, index, context)?;
                let mut batch = without_far_times(batch, index, unit, context)?;
                batch.times = column_times(&batch, index, unit);
                Ok((batch, Vec::new()))
            }
            Assigner::Function(user) => {
                let uid = self
                    .context
                    .as_ref()
                    .map_or("", |context| context.uid.as_ref());
                user.assign(batch, uid)
            }
        }
    }

    /// Rows that are too far in the future raise no watermark, so that they make no other row late.
    fn marks(
        &mut self,
        split: Option<u64>,
        times: &[i64],
        watermarks: &[Option<Watermark>],
    ) -> Vec<Mark> {
        let latest = self.context.as_ref().map_or(i64::MAX, ahead::latest_time);
        if let Some(context) = self.context.as_ref().filter(|_| latest < i64::MAX) {
            TaskMetrics::add(
                &context.metrics.late_records,
                times.iter().filter(|time| **time > latest).count() as u64,
            );
        }
        match self.generator {
            Generator::Bounded { bound_ms } => self.generators.bounded_marks(
                split,
                times,
                i64::try_from(bound_ms).unwrap_or(i64::MAX),
                latest,
            ),
            Generator::Punctuated => self.generators.punctuated_marks(split, watermarks, latest),
        }
    }
}

fn time_column(input: &SchemaRef, name: &str) -> Result<usize> {
    match input.column_with_name(name) {
        Some((index, field)) if field.data_type() == &DataType::Int64 => Ok(index),
        Some((_, field)) => {
            let message = format!(
                "the time column `{name}` has type {}, but it must be i64",
                field.data_type()
            );
            Err(Error::new(code::SCHEMA_MISMATCH, message))
        }
        None => Err(Error::new(
            code::SCHEMA_MISMATCH,
            format!("there is no time column `{name}`"),
        )),
    }
}

/// The times of a column without nulls.
fn column_times(batch: &Batch, index: usize, unit: TimeUnit) -> Times {
    let values = batch
        .columns
        .column(index)
        .as_primitive::<Int64Type>()
        .values();
    match unit {
        TimeUnit::Milliseconds => Times::Column(index),
        TimeUnit::Seconds => Times::Array(values.iter().map(|time| time * 1000).collect()),
        // Rounds down, also before 1970, so that a row never seems later than it is.
        TimeUnit::Microseconds => {
            Times::Array(values.iter().map(|time| time.div_euclid(1000)).collect())
        }
    }
}

/// Removes rows without a time, by the poison policy.
fn without_null_times(batch: Batch, index: usize, context: &OperatorContext) -> Result<Batch> {
    let column = batch.columns.column(index);
    if column.null_count() == 0 {
        return Ok(batch);
    }
    let isolation = Isolation::new(context);
    let mut rest = Vec::with_capacity(batch.n_rows());
    for row in 0..batch.n_rows() {
        match column.is_null(row) {
            true => isolation.refuse_row(
                &batch,
                row,
                no_time(&batch, row).at(format_args!("operator `{}`", context.uid)),
            )?,
            false => rest.push(row as u32),
        }
    }
    batch.take(&UInt32Array::from(rest))
}

/// Removes rows whose times no window reaches, by the poison policy: one of them would make all
/// others late.
fn without_far_times(
    batch: Batch,
    index: usize,
    unit: TimeUnit,
    context: &OperatorContext,
) -> Result<Batch> {
    let limit = match unit {
        TimeUnit::Seconds => TIME_MAX / 1000,
        TimeUnit::Milliseconds => TIME_MAX,
        TimeUnit::Microseconds => return Ok(batch),
    };
    let times = batch
        .columns
        .column(index)
        .as_primitive::<Int64Type>()
        .values();
    let is_far = |time: i64| time.unsigned_abs() > limit.unsigned_abs();
    if !times.iter().any(|&time| is_far(time)) {
        return Ok(batch);
    }
    let isolation = Isolation::new(context);
    for row in (0..times.len()).filter(|&row| is_far(times[row])) {
        isolation.refuse_row(
            &batch,
            row,
            far_time(&batch, row, times[row]).at(format_args!("operator `{}`", context.uid)),
        )?;
    }
    let rest = (0..times.len())
        .filter(|&row| !is_far(times[row]))
        .map(|row| row as u32);
    batch.take(&UInt32Array::from_iter_values(rest))
}

/// Whether no window reaches a time in ms.
pub(crate) fn is_far(time: i64) -> bool {
    time.unsigned_abs() > TIME_MAX.unsigned_abs()
}

pub(crate) fn far_time(batch: &Batch, row: usize, time: i64) -> Error {
    Error::new(
        code::TIME_RANGE,
        format!(
            "{}: the time {time} is too far from 1970",
            place(batch, row)
        ),
    )
}

pub(crate) fn no_time(batch: &Batch, row: usize) -> Error {
    Error::new(
        code::NO_EVENT_TIME,
        format!("{} has no event time", place(batch, row)),
    )
}

/// Names a record for a report.
pub(crate) fn place(batch: &Batch, row: usize) -> String {
    match &batch.origin {
        Some(origin) => format!("{} line {}", origin.split, origin.position(row)),
        None => format!(
            "record {}",
            streamrt_operator::json::row(&batch.columns, row)
        ),
    }
}

impl Operator for TimestampsOperator {
    fn open(&mut self, context: &OperatorContext) -> Result<()> {
        self.context = Some(context.clone());
        if let Assigner::Function(user) = &mut self.assigner {
            user.open(context);
        }
        Ok(())
    }

    fn batch(&mut self, batch: Batch, output: &mut dyn Output) -> Result<()> {
        if batch.n_rows() == 0 {
            return Ok(());
        }
        let arrived_ms = self.clock_ms();
        let split = batch.origin.as_ref().map(|origin| origin.split_number);
        self.generators.begin(split, arrived_ms);
        self.tell(output)?;
        self.resume(output)?;
        let (mut batch, watermarks) = self.assign(batch)?;
        batch.marks = match batch.times() {
            Some(times) => self.marks(split, times, &watermarks),
            None => Vec::new(),
        };
        output.batch(0, batch)?;
        self.generators.pause(self.clock_ms() - arrived_ms);
        Ok(())
    }

    /// Watermarks other than the final one are generated anew here.
    fn watermark(&mut self, watermark: Watermark, output: &mut dyn Output) -> Result<()> {
        if watermark == WATERMARK_MAX {
            output.watermark(watermark)
        } else {
            Ok(())
        }
    }

    /// After an exchange an idle input means nothing, as in Flink: when it is active again, another
    /// subtask may have sent rows on, and raised the watermark, before this one hears of it; its
    /// own rows would be late.
    fn status(&mut self, status: Status, output: &mut dyn Output) -> Result<()> {
        self.upstream = if status == Status::Idle && !self.of_reader {
            Status::Active
        } else {
            status
        };
        // The first one goes out whatever it is: a gate lets no batch pass before it has the status
        // of every channel, and takes a batch that comes without one for that status, under
        // whatever the other channels still hold back.
        if !std::mem::replace(&mut self.told, true) {
            self.generators.settle(self.clock_ms());
            self.sent = self.combined_status();
            // No watermark of an idle channel counts, and other subtasks may go on from this one.
            if self.sent == Status::Idle && self.resume.is_some() {
                output.status(Status::Active)?;
                self.resume(output)?;
            }
            output.status(self.sent)?;
            return self.resume(output);
        }
        self.tell(output)
    }

    fn split(&mut self, event: SplitEvent, output: &mut dyn Output) -> Result<()> {
        let now_ms = self.clock_ms();
        match event {
            SplitEvent::Known { number } => self.generators.known(number),
            SplitEvent::Turn { number } if self.idle_ms.is_some() => {
                self.generators.turn(Some(number), now_ms)
            }
            SplitEvent::Waits { number } => self.generators.waits(Some(number)),
            SplitEvent::Reader => self.of_reader = true,
            SplitEvent::Turn { .. } | SplitEvent::Finished { .. } => {}
        }
        if let SplitEvent::Finished { number } = event
            && let Some(watermark) = self.generators.finished(number)
        {
            self.resume(output)?;
            output.watermark(watermark)?;
        }
        // Before the first status restored splits come back one by one: that those so far are idle
        // says nothing about the others.
        if self.told {
            self.tell(output)?;
        }
        output.split(event)
    }

    fn split_time(&self, number: u64) -> Option<SplitTime> {
        Some(self.generators.split_time(number))
    }

    /// In the wall clock's time, as callers want it, but measured by the other one: if it is set
    /// meanwhile, the call finds nothing due.
    fn next_processing_time(&self) -> Option<i64> {
        let due_ms = self.generators.next_idle_ms(self.idle_ms?)?;
        let clock = &self.context.as_ref()?.clock;
        Some(
            clock
                .now_ms()
                .saturating_add(due_ms.saturating_sub(clock.monotonic_ms())),
        )
    }

    fn processing_time(&mut self, _now_ms: i64, output: &mut dyn Output) -> Result<()> {
        let Some(idle_ms) = self.idle_ms else {
            return Ok(());
        };
        let now_ms = self.clock_ms();
        if let Some(watermark) = self.generators.expire(now_ms, idle_ms) {
            self.resume(output)?;
            output.watermark(watermark)?;
        }
        self.tell(output)
    }

    fn snapshot(&mut self, _checkpoint: u64) -> Result<OperatorSnapshot> {
        let generators = &self.generators;
        let lists = generator_snapshot::lists(
            self.context()?,
            generators.kept(),
            generators.watermark(),
            generators.has_splits(),
        );
        Ok(OperatorSnapshot {
            keyed: Vec::new(),
            lists,
        })
    }

    fn restore(&mut self, state: &mut OperatorState) -> Result<()> {
        let context = self.context()?;
        let watermark = generator_snapshot::combined_watermark(state, context)?;
        let restored = Restored::read(state, context)?;
        self.generators.restore(watermark, restored);
        self.resume = Some(watermark).filter(|watermark| *watermark > WATERMARK_MIN);
        Ok(())
    }
}
