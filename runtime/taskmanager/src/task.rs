//! A task: one thread that owns a chain and its outputs, and measures where its time goes.

use crate::control::Control;
use crate::exits::TaskExits;
use std::sync::Arc;
use std::time::{Duration, Instant};
use streamrt_operator::{Operator, OperatorChain, Output, TaskMetrics};
use streamrt_types::{Batch, Clock, Result, Status, Watermark};

/// What every kind of task has.
pub struct Task {
    pub chain: OperatorChain,
    pub exits: TaskExits,
    pub clock: Arc<dyn Clock>,
    pub metrics: Arc<TaskMetrics>,
    pub control: Arc<Control>,
}

impl Task {
    /// Calls the operator at the head of the chain.
    pub fn head(&mut self, mut call: impl FnMut(&mut dyn Operator, &mut dyn Output) -> Result<()>) -> Result<()> {
        self.chain.head(&mut self.exits, &mut call)
    }

    pub fn batch(&mut self, batch: Batch) -> Result<()> {
        TaskMetrics::add(&self.metrics.records_in, batch.n_rows() as u64);
        if let Some(watermark) = batch.last_watermark() {
            self.metrics.watermark.store(watermark, std::sync::atomic::Ordering::Relaxed);
        }
        let mut batch = Some(batch);
        self.head(|operator, output| batch.take().map_or(Ok(()), |batch| operator.batch(batch, output)))
    }

    pub fn watermark(&mut self, watermark: Watermark) -> Result<()> {
        self.metrics.watermark.store(watermark, std::sync::atomic::Ordering::Relaxed);
        self.head(|operator, output| operator.watermark(watermark, output))
    }

    pub fn status(&mut self, status: Status) -> Result<()> {
        self.head(|operator, output| operator.status(status, output))
    }

    /// Shows the clock to operators whose time has come, and returns how long the next one can wait.
    pub fn run_timers(&mut self) -> Result<Option<Duration>> {
        let Some(next) = self.chain.next_processing_time() else { return Ok(None) };
        let now = self.clock.now_ms();
        if next <= now {
            self.chain.processing_time(now, &mut self.exits)?;
            return Ok(Some(Duration::ZERO));
        }
        Ok(Some(Duration::from_millis(next.abs_diff(now))))
    }

    /// The end: every operator has its last word, then the receivers are told.
    pub fn end_of_input(&mut self) -> Result<()> {
        self.chain.end_of_input(&mut self.exits)?;
        self.exits.end_of_input()
    }

    /// Adds one round of the loop to the metrics: it waited `idle` at the gate and began at `start`.
    pub fn account(&mut self, start: Instant, idle: Duration) {
        let blocked = self.exits.take_blocked();
        let busy = start.elapsed().saturating_sub(idle).saturating_sub(blocked);
        for (counter, time) in [(&self.metrics.idle_ns, idle), (&self.metrics.back_pressured_ns, blocked), (&self.metrics.busy_ns, busy)] {
            TaskMetrics::add(counter, time.as_nanos() as u64);
        }
    }
}
