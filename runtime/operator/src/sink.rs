//! The contract of a native sink, and the operator that drives one.
//!
//! What a sink writes between two checkpoints is a transaction: `begin`, `write`, `pre_commit` at
//! the barrier, `commit` when the checkpoint is published. A job without checkpoints has one
//! transaction, which is committed at its end.
//!
//! # Source
//! Flink's `TwoPhaseCommitSinkFunction`.

use crate::operator::{Operator, OperatorContext, Output, TaskMetrics};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use streamrt_state::{ListMode, ListSnapshot, OperatorSnapshot, OperatorState};
use streamrt_types::{Batch, Error, Result, Watermark, failpoint};

/// One subtask's writer. A sink whose system has no transactions writes at once, and returns
/// nothing to commit.
pub trait Sink: Send {
    fn open(&mut self, _context: &OperatorContext) -> Result<()> {
        Ok(())
    }

    /// Begins a transaction under a name that no other one ever has: made of letters, digits, `-`,
    /// `_`, `.` and `%`.
    fn begin(&mut self, _transaction: &str) -> Result<()> {
        Ok(())
    }

    fn write(&mut self, batch: &Batch) -> Result<()>;

    /// Ends the transaction: what was written is durable and can be committed by whoever has the
    /// returned bytes, even after a crash. `None` if there is nothing to commit.
    fn pre_commit(&mut self) -> Result<Option<Vec<u8>>>;

    /// Makes a transaction visible. Repeating it is not an error.
    ///
    /// # Errors
    /// `Data` if it cannot be committed any more; then data is lost, and the job must not continue.
    fn commit(&mut self, _committable: &[u8]) -> Result<()> {
        Ok(())
    }

    /// Withdraws the open transaction.
    fn abort(&mut self) -> Result<()> {
        Ok(())
    }

    /// Withdraws every transaction whose name begins with `prefix`, except those of `keep`.
    fn abort_unlisted(&mut self, _prefix: &str, _keep: &[Vec<u8>]) -> Result<()> {
        Ok(())
    }
}

/// The beginning of the names of all transactions of a sink.
pub fn transaction_prefix(job: &str, uid: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let encode = |c: char| {
        if plain(c) {
            c.to_string()
        } else {
            c.to_string()
                .bytes()
                .map(|byte| format!("%{byte:02x}"))
                .collect()
        }
    };
    format!("{}-{job}-", uid.chars().map(encode).collect::<String>())
}

/// The beginning of the names of one subtask's transactions that a leader of this generation began.
pub fn subtask_prefix(prefix: &str, generation: u64, subtask: u32) -> String {
    format!("{prefix}{generation}-{subtask}-")
}

/// The name of the list of transactions that wait for the commit.
pub const COMMITTABLES: &str = "committables";

/// Runs a [`Sink`] at the end of a chain.
pub struct SinkOperator {
    sink: Box<dyn Sink>,
    visible: Option<Vec<usize>>,
    metrics: Arc<TaskMetrics>,
    /// The uid, for reports.
    uid: Arc<str>,
    /// What precedes the number in a transaction's name: the prefix, the generation, the subtask.
    name: String,
    n_begun: u64,
    /// Whether a transaction is open.
    open: bool,
    /// Committables that wait for their checkpoint, by number.
    pending: BTreeMap<u64, Vec<u8>>,
    checkpointed: bool,
    /// Whether rows have come since the last snapshot.
    dirty: bool,
}

impl SinkOperator {
    /// `visible` are the columns that the sink gets; `None` means all.
    pub fn new(sink: Box<dyn Sink>, visible: Option<Vec<usize>>) -> SinkOperator {
        SinkOperator {
            sink,
            visible,
            metrics: Arc::default(),
            uid: Arc::from(""),
            name: String::new(),
            n_begun: 0,
            open: false,
            pending: BTreeMap::new(),
            checkpointed: false,
            dirty: false,
        }
    }

    fn begin(&mut self) -> Result<()> {
        let name = format!("{}{}", self.name, self.n_begun);
        self.n_begun += 1;
        self.open = true;
        self.sink.begin(&name).map_err(at(&self.uid))
    }

    fn pre_commit(&mut self) -> Result<Option<Vec<u8>>> {
        let committable = self.sink.pre_commit().map_err(at(&self.uid))?;
        failpoint("sink.pre-commit")?;
        (self.open, self.dirty) = (false, false);
        Ok(committable)
    }
}

impl Operator for SinkOperator {
    fn open(&mut self, context: &OperatorContext) -> Result<()> {
        (self.metrics, self.uid) = (context.metrics.clone(), context.uid.clone());
        self.checkpointed = context.configuration.checkpoint_interval_ms.is_some();
        self.name = subtask_prefix(
            &transaction_prefix(&context.job, &context.uid),
            context.generation,
            context.subtask,
        );
        self.sink.open(context).map_err(at(&self.uid))?;
        self.begin()
    }

    fn batch(&mut self, batch: Batch, _output: &mut dyn Output) -> Result<()> {
        if batch.n_rows() > 0 {
            let written = match &self.visible {
                None => self.sink.write(&batch),
                Some(visible) => self.sink.write(&project(&batch, visible)?),
            };
            written.map_err(at(&self.uid))?;
            self.dirty = true;
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

    /// Without checkpoints the end is the commit. With them, the last one is.
    fn end_of_input(&mut self, _output: &mut dyn Output) -> Result<()> {
        if self.checkpointed {
            return Ok(());
        }
        match self.pre_commit()? {
            Some(committable) => commit(self.sink.as_mut(), &committable).map_err(at(&self.uid)),
            None => Ok(()),
        }
    }

    fn snapshot(&mut self, checkpoint: u64) -> Result<OperatorSnapshot> {
        let committable = self.pre_commit()?;
        self.pending
            .extend(committable.map(|committable| (checkpoint, committable)));
        self.begin()?;
        let items = self.pending.values().cloned().collect();
        Ok(OperatorSnapshot {
            lists: vec![ListSnapshot {
                name: COMMITTABLES.into(),
                mode: ListMode::Union,
                types: serde_json::Value::Null,
                items,
            }],
            ..Default::default()
        })
    }

    /// What was pending has been committed before any task began.
    fn restore(&mut self, state: &mut OperatorState) -> Result<()> {
        state.list(COMMITTABLES);
        Ok(())
    }

    /// Commits in the order of checkpoints, continues after an error, and reports the first.
    fn checkpoint_complete(&mut self, checkpoint: u64) -> Result<()> {
        let later = self.pending.split_off(&(checkpoint + 1));
        let due = std::mem::replace(&mut self.pending, later);
        due.values()
            .map(|committable| commit(self.sink.as_mut(), committable))
            .fold(Ok(()), Result::and)
            .map_err(at(&self.uid))
    }

    fn awaits_checkpoint(&self) -> bool {
        self.checkpointed && (self.dirty || !self.pending.is_empty())
    }

    fn close(&mut self) -> Result<()> {
        if std::mem::take(&mut self.open) {
            self.sink.abort().map_err(at(&self.uid))
        } else {
            Ok(())
        }
    }
}

/// Names the sink in an error.
fn at(uid: &str) -> impl Fn(Error) -> Error + '_ {
    move |error| error.at(format_args!("sink `{uid}`"))
}

fn commit(sink: &mut dyn Sink, committable: &[u8]) -> Result<()> {
    failpoint("commit.before")?;
    sink.commit(committable)?;
    failpoint("commit.after")
}

/// Some columns of a batch, with where they come from, for reports. A sink does not look at times.
fn project(batch: &Batch, columns: &[usize]) -> Result<Batch> {
    let projected = batch
        .columns
        .project(columns)
        .map_err(|e| Error::internal("the columns of a sink are there").with_source(e))?;
    Ok(Batch {
        origin: batch.origin.clone(),
        ..Batch::new(projected)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::{Harness, batch_of};
    use arrow_array::{ArrayRef, Int64Array};
    use std::sync::Mutex;

    /// Keeps the names of the columns of each batch, and what became of transactions.
    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<String>>>);

    impl Seen {
        fn log(&self, what: impl Into<String>) {
            self.0.lock().unwrap().push(what.into());
        }
    }

    impl Sink for Seen {
        fn begin(&mut self, transaction: &str) -> Result<()> {
            self.log(format!("begin {transaction}"));
            Ok(())
        }

        fn write(&mut self, batch: &Batch) -> Result<()> {
            let names: Vec<&str> = batch
                .columns
                .schema_ref()
                .fields()
                .iter()
                .map(|f| f.name().as_str())
                .collect();
            self.log(names.join(","));
            Ok(())
        }

        fn pre_commit(&mut self) -> Result<Option<Vec<u8>>> {
            self.log("pre-commit");
            Ok(Some(self.0.lock().unwrap().len().to_string().into_bytes()))
        }

        fn commit(&mut self, committable: &[u8]) -> Result<()> {
            self.log(format!("commit {}", String::from_utf8_lossy(committable)));
            Ok(())
        }

        fn abort(&mut self) -> Result<()> {
            self.log("abort");
            Ok(())
        }
    }

    fn rows() -> Batch {
        let column = || Arc::new(Int64Array::from(vec![1])) as ArrayRef;
        batch_of([("a", column()), ("key", column())])
    }

    fn check(visible: Option<Vec<usize>>, ends: bool, expected: &[&str]) {
        let seen = Seen::default();
        let mut harness = Harness::new(SinkOperator::new(Box::new(seen.clone()), visible));
        harness.batches(&rows(), 1).unwrap();
        if ends {
            harness.end_of_input().unwrap();
        }
        harness.operator.close().unwrap();
        assert_eq!(*seen.0.lock().unwrap(), expected);
        assert_eq!(
            harness.context.metrics.records_in.load(Ordering::Relaxed),
            1
        );
    }

    #[test]
    fn a_sink_gets_the_visible_columns_and_is_committed_or_withdrawn() {
        check(
            None,
            true,
            &["begin op-job-1-0-0", "a,key", "pre-commit", "commit 3"],
        );
        check(
            Some(vec![0]),
            true,
            &["begin op-job-1-0-0", "a", "pre-commit", "commit 3"],
        );
        check(None, false, &["begin op-job-1-0-0", "a,key", "abort"]);
    }

    #[test]
    fn a_transaction_is_committed_with_its_checkpoint_or_a_later_one() {
        let seen = Seen::default();
        let mut harness = Harness::new(SinkOperator::new(Box::new(seen.clone()), None));
        harness.operator.checkpointed = true;
        let pending = |harness: &mut Harness<SinkOperator>, checkpoint| {
            let snapshot = harness.operator.snapshot(checkpoint).unwrap();
            snapshot.lists[0].items.len()
        };
        assert_eq!(pending(&mut harness, 3), 1);
        assert_eq!(pending(&mut harness, 4), 2);
        harness.operator.checkpoint_complete(3).unwrap();
        assert_eq!(pending(&mut harness, 5), 2);
        harness.operator.checkpoint_complete(5).unwrap();
        assert!(!harness.operator.awaits_checkpoint());
        harness.batches(&rows(), 1).unwrap();
        harness.end_of_input().unwrap();
        assert!(harness.operator.awaits_checkpoint());
        let commits: Vec<String> = seen
            .0
            .lock()
            .unwrap()
            .iter()
            .filter(|line| line.starts_with("commit"))
            .cloned()
            .collect();
        assert_eq!(commits, ["commit 2", "commit 4", "commit 7"]);
    }

    #[test]
    fn a_uid_never_leaves_its_place_in_a_name() {
        assert_eq!(transaction_prefix("j", "a/b-c_1"), "a%2fb%2dc_1-j-");
    }
}
