//! The contract of a native sink, and the operator that drives one.

use crate::operator::{Operator, OperatorContext, Output, TaskMetrics};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use streamrt_types::{Batch, Error, Result, Watermark};

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
    visible: Option<Vec<usize>>,
    metrics: Arc<TaskMetrics>,
    finished: bool,
}

impl SinkOperator {
    /// `visible` are the columns that the sink gets; `None`: all.
    pub fn new(sink: Box<dyn Sink>, visible: Option<Vec<usize>>) -> SinkOperator {
        SinkOperator { sink, visible, metrics: Arc::default(), finished: false }
    }
}

impl Operator for SinkOperator {
    fn open(&mut self, context: &OperatorContext) -> Result<()> {
        self.metrics = context.metrics.clone();
        self.sink.open(context)
    }

    fn batch(&mut self, batch: Batch, _output: &mut dyn Output) -> Result<()> {
        if batch.n_rows() > 0 {
            match &self.visible {
                None => self.sink.write(&batch)?,
                Some(visible) => self.sink.write(&project(&batch, visible)?)?,
            }
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

/// Some columns of a batch; a sink looks at neither times nor origins.
fn project(batch: &Batch, columns: &[usize]) -> Result<Batch> {
    let projected = batch.columns.project(columns).map_err(|e| Error::internal("the columns of a sink are there").with_source(e))?;
    Ok(Batch::new(projected))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::{Harness, batch_of};
    use arrow_array::{ArrayRef, Int64Array};
    use std::sync::Mutex;

    /// Keeps the names of the columns of each batch, and whether it was finished or withdrawn.
    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<String>>>);

    impl Sink for Seen {
        fn write(&mut self, batch: &Batch) -> Result<()> {
            let names: Vec<&str> = batch.columns.schema_ref().fields().iter().map(|f| f.name().as_str()).collect();
            self.0.lock().unwrap().push(names.join(","));
            Ok(())
        }

        fn finish(&mut self) -> Result<()> {
            self.0.lock().unwrap().push("finish".to_owned());
            Ok(())
        }

        fn abort(&mut self) -> Result<()> {
            self.0.lock().unwrap().push("abort".to_owned());
            Ok(())
        }
    }

    fn check(visible: Option<Vec<usize>>, ends: bool, expected: &[&str]) {
        let seen = Seen::default();
        let mut harness = Harness::new(SinkOperator::new(Box::new(seen.clone()), visible));
        let column = || Arc::new(Int64Array::from(vec![1])) as ArrayRef;
        harness.batches(&batch_of([("a", column()), ("key", column())]), 1).unwrap();
        if ends {
            harness.end_of_input().unwrap();
        }
        harness.operator.close().unwrap();
        assert_eq!(*seen.0.lock().unwrap(), expected);
        assert_eq!(harness.context.metrics.records_in.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_sink_gets_the_visible_columns_and_is_finished_or_withdrawn() {
        check(None, true, &["a,key", "finish"]);
        check(Some(vec![0]), true, &["a", "finish"]);
        check(None, false, &["a,key", "abort"]);
    }
}
