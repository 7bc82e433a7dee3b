//! Drives one operator in a test: batches cut to any size go in, and what comes out is kept as
//! lines of text.
//!
//! Lines make results comparable whatever the batches were: `time {row}`, `mark w`, `status S`, in
//! order, for each port.

use crate::function::{Failure, FunctionChain, Invocation, Outcome};
use crate::json;
use crate::operator::{DeadLetter, Operator, OperatorContext, Output, TaskMetrics};
use crate::source::SplitEvent;
use arrow_array::{ArrayRef, RecordBatch};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use streamrt_types::{
    Batch, Configuration, KeyGroupRange, ManualClock, Mark, Result, Status, Watermark,
};

/// Max parallelism of the operator under test.
const KEY_GROUPS: u32 = 16;

/// An operator, opened, and what it has put out.
pub struct Harness<O> {
    pub operator: O,
    pub context: OperatorContext,
    pub clock: Arc<ManualClock>,
    pub dead_letters: Arc<Mutex<Vec<DeadLetter>>>,
    output: Lines,
}

#[derive(Default)]
struct Lines {
    ports: BTreeMap<u16, Vec<String>>,
    /// Watermarks and status, which go to all ports.
    common: Vec<String>,
}

/// A chain of functions that is a closure.
pub struct NativeChain<F>(pub F);

impl<F: FnMut(Invocation<'_>) -> Result<Outcome, Failure> + Send> FunctionChain for NativeChain<F> {
    fn invoke(&mut self, invocation: Invocation<'_>, _: Duration) -> Result<Outcome, Failure> {
        (self.0)(invocation)
    }
}

/// A batch of these columns, without times and marks.
pub fn batch_of<'a>(columns: impl IntoIterator<Item = (&'a str, ArrayRef)>) -> Batch {
    Batch::new(RecordBatch::try_from_iter(columns).expect("columns of a test have one length"))
}

impl<O: Operator> Harness<O> {
    /// Opens `operator` as subtask 0 of 1 under the uid `op`, with the default configuration.
    pub fn new(operator: O) -> Harness<O> {
        Harness::with(operator, Configuration::default()).expect("an operator under test opens")
    }

    /// Like [`Harness::new`], with a configuration.
    ///
    /// # Errors
    /// The error that `open` returns.
    pub fn with(mut operator: O, configuration: Configuration) -> Result<Harness<O>> {
        let clock = Arc::new(ManualClock::default());
        let dead_letters = Arc::new(Mutex::new(Vec::new()));
        let letters = dead_letters.clone();
        let context = OperatorContext {
            job: "job".into(),
            generation: 1,
            cancel: Arc::default(),
            memory: Arc::default(),
            uid: "op".into(),
            subtask: 0,
            parallelism: 1,
            max_parallelism: KEY_GROUPS,
            key_groups: KeyGroupRange::all(KEY_GROUPS),
            clock: clock.clone(),
            configuration: Arc::new(configuration),
            metrics: Arc::new(TaskMetrics::default()),
            disk: None,
            dead_letters: Arc::new(move |letter| {
                letters
                    .lock()
                    .expect("no test panics with the lock")
                    .push(letter);
                Ok(())
            }),
        };
        operator.open(&context)?;
        Ok(Harness {
            operator,
            context,
            clock,
            dead_letters,
            output: Lines::default(),
        })
    }

    /// Sends `batch`, cut into pieces of `rows` rows. A mark at a cut goes to the piece before it.
    ///
    /// # Errors
    /// The operator's own error.
    pub fn batches(&mut self, batch: &Batch, rows: usize) -> Result<()> {
        let mut marks = batch.marks.iter().peekable();
        for start in (0..batch.n_rows().max(1)).step_by(rows) {
            let length = rows.min(batch.n_rows() - start);
            let mut piece = batch.slice(start, length);
            while let Some(mark) = marks.next_if(|mark| mark.row as usize <= start + length) {
                piece.marks.push(Mark {
                    row: mark.row - start as u32,
                    watermark: mark.watermark,
                });
            }
            self.operator.batch(piece, &mut self.output)?;
            self.end_sweep()?;
        }
        Ok(())
    }

    /// Sends a batch to the second input, in one piece.
    ///
    /// # Errors
    /// The operator's own error.
    pub fn second_input(&mut self, batch: Batch) -> Result<()> {
        self.operator.second_input(batch, &mut self.output)?;
        self.end_sweep()
    }

    /// # Errors
    /// The operator's own error.
    pub fn watermark(&mut self, watermark: Watermark) -> Result<()> {
        self.begin_watermark(watermark)?;
        self.end_sweep()
    }

    /// Like [`Harness::watermark`], but a sweep that it begins is suspended after its first piece.
    ///
    /// # Errors
    /// The operator's own error.
    pub fn begin_watermark(&mut self, watermark: Watermark) -> Result<()> {
        self.operator.watermark(watermark, &mut self.output)
    }

    /// Carries out the rest of a sweep.
    fn end_sweep(&mut self) -> Result<()> {
        while self.operator.is_sweeping() {
            self.operator.resume(&mut self.output)?;
        }
        Ok(())
    }

    /// # Errors
    /// The operator's own error.
    pub fn end_of_time(&mut self, fires: bool) -> Result<()> {
        self.operator.end_of_time(fires, &mut self.output)
    }

    /// # Errors
    /// The operator's own error.
    pub fn end_of_input(&mut self) -> Result<()> {
        self.operator.end_of_input(&mut self.output)
    }

    /// Sets the clock, and shows it to the operator if it waits for it.
    ///
    /// # Errors
    /// The operator's own error.
    pub fn processing_time(&mut self, now_ms: i64) -> Result<()> {
        self.clock.set_ms(now_ms);
        while self
            .operator
            .next_processing_time()
            .is_some_and(|time| time <= now_ms)
        {
            self.operator.processing_time(now_ms, &mut self.output)?;
        }
        Ok(())
    }

    /// What came out of a port so far, without watermarks that no batch carried.
    pub fn lines(&self, port: u16) -> Vec<&str> {
        self.output
            .ports
            .get(&port)
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect()
    }

    /// Watermarks that no batch carried, and status.
    pub fn common(&self) -> &[String] {
        &self.output.common
    }
}

impl Output for Lines {
    fn batch(&mut self, port: u16, batch: Batch) -> Result<()> {
        batch.check()?;
        let lines = self.ports.entry(port).or_default();
        let mut marks = batch.marks.iter().peekable();
        for row in 0..=batch.n_rows() {
            while let Some(mark) = marks.next_if(|mark| mark.row as usize <= row) {
                lines.push(format!("mark {}", mark.watermark));
            }
            if row < batch.n_rows() {
                let time = batch
                    .times()
                    .map_or("-".to_owned(), |times| times[row].to_string());
                lines.push(format!("{time} {}", json::row(&batch.columns, row)));
            }
        }
        Ok(())
    }

    fn watermark(&mut self, watermark: Watermark) -> Result<()> {
        self.common.push(format!("watermark {watermark}"));
        Ok(())
    }

    fn status(&mut self, status: Status) -> Result<()> {
        self.common.push(format!("status {status:?}"));
        Ok(())
    }

    fn split(&mut self, _: SplitEvent) -> Result<()> {
        Ok(())
    }
}
