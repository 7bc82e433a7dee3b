//! A task: one thread that owns a chain and its outputs, and measures where its time goes.

use crate::control::Control;
use crate::exits::TaskExits;
use crate::mailbox::{self, CheckpointLine, Command, Pause, Report, TaskSnapshot};
use crate::replaceable::Seats;
use std::sync::Arc;
use std::time::{Duration, Instant};
use streamrt_exchange::{GateEvent, InputGate};
use streamrt_operator::{Operator, OperatorChain, Output, SplitEvent, TaskMetrics};
use streamrt_state::{ListMode, ListSnapshot, OperatorSnapshot};
use streamrt_types::{
    Barrier, Batch, Clock, EndOfTime, Error, Result, Status, WATERMARK_MIN, Watermark, failpoint,
};

/// A snapshot keeps the watermark of a task's gate under the uid of its first operator with this
/// suffix.
pub const GATE_SUFFIX: &str = ":gate";
/// The name of that list.
pub const GATE_WATERMARK: &str = "watermark";

/// How long a task that waits for its last checkpoint sleeps if nobody wakes it.
const LONG: Duration = Duration::from_secs(3600);

/// What every kind of task has.
pub struct Task {
    pub chain: OperatorChain,
    pub seats: Seats,
    pub exits: TaskExits,
    pub clock: Arc<dyn Clock>,
    pub metrics: Arc<TaskMetrics>,
    pub control: Arc<Control>,
    /// `None`: the job has no checkpoints.
    pub checkpoints: Option<CheckpointLine>,
    /// The receivers have had their end of input.
    pub ended: bool,
    /// The newest checkpoint that was published since the head of the task looked.
    pub published: Option<u64>,
}

/// The state of a task's head, which is no operator of the chain.
pub type HeadSnapshot = (Arc<str>, OperatorSnapshot);

/// The watermark of a gate as the head of a task keeps it.
pub fn gate_snapshot(uid: &str, watermark: Watermark) -> HeadSnapshot {
    let items = if watermark > WATERMARK_MIN {
        vec![watermark.to_le_bytes().to_vec()]
    } else {
        Vec::new()
    };
    let lists = vec![ListSnapshot {
        name: GATE_WATERMARK.into(),
        mode: ListMode::Union,
        types: serde_json::Value::Null,
        items,
    }];
    (
        format!("{uid}{GATE_SUFFIX}").into(),
        OperatorSnapshot {
            lists,
            ..OperatorSnapshot::default()
        },
    )
}

impl Task {
    /// Calls the operator at the head of the chain.
    pub fn head(
        &mut self,
        mut call: impl FnMut(&mut dyn Operator, &mut dyn Output) -> Result<()>,
    ) -> Result<()> {
        self.chain.head(&mut self.exits, &mut call)
    }

    pub fn batch(&mut self, batch: Batch) -> Result<()> {
        self.count(&batch);
        let mut batch = Some(batch);
        self.head(|operator, output| {
            batch
                .take()
                .map_or(Ok(()), |batch| operator.batch(batch, output))
        })
    }

    pub fn second_input(&mut self, batch: Batch) -> Result<()> {
        self.count(&batch);
        let mut batch = Some(batch);
        self.head(|operator, output| {
            batch
                .take()
                .map_or(Ok(()), |batch| operator.second_input(batch, output))
        })
    }

    fn count(&self, batch: &Batch) {
        TaskMetrics::add(&self.metrics.records_in, batch.n_rows() as u64);
        if let Some(watermark) = batch.last_watermark() {
            self.metrics
                .watermark
                .store(watermark, std::sync::atomic::Ordering::Relaxed);
        }
    }

    pub fn watermark(&mut self, watermark: Watermark) -> Result<()> {
        self.metrics
            .watermark
            .store(watermark, std::sync::atomic::Ordering::Relaxed);
        self.head(|operator, output| operator.watermark(watermark, output))
    }

    pub fn status(&mut self, status: Status) -> Result<()> {
        self.head(|operator, output| operator.status(status, output))
    }

    pub fn split(&mut self, event: SplitEvent) -> Result<()> {
        self.head(|operator, output| operator.split(event, output))
    }

    /// Shows the clock to operators whose time has come, and returns how long the next one can
    /// wait.
    pub fn run_timers(&mut self) -> Result<Option<Duration>> {
        let Some(next) = self.chain.next_processing_time() else {
            return Ok(None);
        };
        let now = self.clock.now_ms();
        if next <= now {
            self.chain.processing_time(now, &mut self.exits)?;
            return Ok(Some(Duration::ZERO));
        }
        Ok(Some(Duration::from_millis(next.abs_diff(now))))
    }

    /// Carries out what the coordinator wants.
    pub fn commands(&mut self, gate: &mut InputGate) -> Result<()> {
        let Some(line) = &self.checkpoints else {
            return Ok(());
        };
        for command in line.mailbox.take() {
            match command {
                Command::Trigger(barrier) => gate.trigger(barrier),
                Command::Complete(checkpoint) => {
                    self.chain.checkpoint_complete(checkpoint)?;
                    self.published = Some(checkpoint);
                    line.report(Report::Committed {
                        task: line.task,
                        checkpoint,
                    });
                }
                Command::Abort(checkpoint) => gate.abandon(checkpoint),
            }
        }
        Ok(())
    }

    /// Takes part in a checkpoint: the barrier goes on first, so that the receivers do not wait for
    /// our snapshot. If the checkpoint is one of an upgrade, the new code runs from here on: what
    /// it does belongs to the next checkpoint, which is not published unless this one was.
    pub fn checkpoint(
        &mut self,
        barrier: Barrier,
        alignment: Duration,
        head: HeadSnapshot,
    ) -> Result<()> {
        failpoint("barrier.before")?;
        if !self.ended {
            self.exits.barrier(barrier)?;
        }
        let Some(line) = &self.checkpoints else {
            return Err(Error::internal("a barrier comes in a job with checkpoints"));
        };
        let start = Instant::now();
        let mut operators = self.chain.snapshot(barrier.checkpoint)?;
        failpoint("snapshot.sync")?;
        operators.push(head);
        operators.retain(|(_, snapshot)| !snapshot.is_empty());
        let (task, checkpoint) = (line.task, barrier.checkpoint);
        if let Some(code) = line.mailbox.take_code(checkpoint) {
            failpoint("upgrade.swap")?;
            self.seats.replace(code)?;
        }
        let pause = Pause {
            alignment,
            sync: start.elapsed(),
        };
        mailbox::account(&self.metrics, pause);
        let dead_letters = self.dead_letters();
        line.report(Report::Snapshot(TaskSnapshot {
            task,
            checkpoint,
            pause,
            operators,
            dead_letters,
        }));
        Ok(())
    }

    /// The end: every operator has its last word, then the receivers are told. Where results wait
    /// for a checkpoint, so does the task.
    pub fn end_of_input(
        &mut self,
        gate: &mut InputGate,
        head: impl Fn() -> HeadSnapshot,
    ) -> Result<()> {
        self.chain
            .end_of_input(self.end_of_time(), &mut self.exits)?;
        self.exits.end_of_input()?;
        self.ended = true;
        if let Some(line) = self
            .checkpoints
            .as_ref()
            .filter(|_| self.chain.awaits_checkpoint())
        {
            line.report(Report::Ended { task: line.task });
            self.await_commit(gate, head)?;
        }
        if let Some(line) = &self.checkpoints {
            line.report(Report::Finished {
                task: line.task,
                dead_letters: self.dead_letters(),
            });
        }
        Ok(())
    }

    /// What becomes of that which waits for the clock when the input has ended.
    fn end_of_time(&self) -> Option<EndOfTime> {
        let configured = self
            .chain
            .contexts()
            .next()
            .map_or(EndOfTime::Fire, |context| {
                context.configuration.end_of_processing_time
            });
        match () {
            () if self.control.is_stopped() => None,
            () if self.control.is_drained() => Some(EndOfTime::Fire),
            () => Some(configured),
        }
    }

    /// Records that were skipped so far.
    fn dead_letters(&self) -> u64 {
        self.metrics
            .dead_letters
            .load(std::sync::atomic::Ordering::Relaxed)
    }

    fn await_commit(
        &mut self,
        gate: &mut InputGate,
        head: impl Fn() -> HeadSnapshot,
    ) -> Result<()> {
        failpoint("end.before-last-checkpoint")?;
        loop {
            self.commands(gate)?;
            if self.control.is_cancelled() {
                return Err(Control::cancelled());
            }
            if !self.chain.awaits_checkpoint() {
                return Ok(());
            }
            match gate.poll(Some(Duration::ZERO))? {
                GateEvent::Barrier(barrier, alignment) => {
                    self.checkpoint(barrier, alignment, head())?
                }
                _ => gate.wait(LONG),
            }
        }
    }

    /// Adds one round of the loop to the metrics: it waited `idle` at the gate and began at
    /// `start`.
    pub fn account(&mut self, start: Instant, idle: Duration) {
        let blocked = self.exits.take_blocked();
        let busy = start.elapsed().saturating_sub(idle).saturating_sub(blocked);
        for (counter, time) in [
            (&self.metrics.idle_ns, idle),
            (&self.metrics.back_pressured_ns, blocked),
            (&self.metrics.busy_ns, busy),
        ] {
            TaskMetrics::add(counter, time.as_nanos() as u64);
        }
    }
}
