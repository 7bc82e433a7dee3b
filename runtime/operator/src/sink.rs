//! The contract of a native sink, and the operator that drives one.

use crate::operator::{Operator, OperatorContext, Output, TaskMetrics};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use streamrt_types::{Batch, Result, Watermark};

/// One subtask's writer. Results become visible in `finish`; without checkpoints that is once, at the end.
pub trait Sink: Send {
    fn open(&mut self, _context: &OperatorContext) -> Result<()> {
        Ok(())
    }

    fn write(&mut self, batch: &Batch) -> Result<()>;

    /// Makes everything written so far visible. Called at the end of the input, and when a running job is ended by its user.
    fn finish(&mut self) -> Result<()>;

    /// Withdraws what is not visible yet. Called instead of `finish` when the job fails.
    fn abort(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Runs a [`Sink`] at the end of a chain.
pub struct SinkOperator {
    sink: Box<dyn Sink>,
    metrics: Arc<TaskMetrics>,
    finished: bool,
}

impl SinkOperator {
    pub fn new(sink: Box<dyn Sink>) -> SinkOperator {
        SinkOperator { sink, metrics: Arc::default(), finished: false }
    }
}

impl Operator for SinkOperator {
    fn open(&mut self, context: &OperatorContext) -> Result<()> {
        self.metrics = context.metrics.clone();
        self.sink.open(context)
    }

    fn batch(&mut self, batch: Batch, _output: &mut dyn Output) -> Result<()> {
        if batch.n_rows() > 0 {
            self.sink.write(&batch)?;
            TaskMetrics::add(&self.metrics.records_in, batch.n_rows() as u64);
        }
        if let Some(watermark) = batch.last_watermark() {
            self.metrics.watermark.store(watermark, Ordering::Relaxed);
        }
        Ok(())
    }

    fn watermark(&mut self, watermark: Watermark, _output: &mut dyn Output) -> Result<()> {
        self.metrics.watermark.store(watermark, Ordering::Relaxed);
        Ok(())
    }

    fn end_of_input(&mut self, _output: &mut dyn Output) -> Result<()> {
        self.sink.finish()?;
        self.finished = true;
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        if self.finished { Ok(()) } else { self.sink.abort() }
    }
}
