//! The loop of a source reader: takes splits from the enumerator, reads one after the other, and feeds the chain.
//!
//! 1. No split is read before the first listing is complete, so that every reader knows what holds its watermark. 2. The splits that
//! are known but not begun are told to the chain, whose watermark generators wait for them. 3. At the end of all splits comes the final
//! watermark; a reader that was stopped ends without it, since the windows that are open are not complete.

use crate::control::Control;
use crate::split_rows;
use crate::task::Task;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use streamrt_exchange::{GateEvent, InputGate};
use streamrt_operator::{DeadLetter, OperatorContext, PoisonLine, ReaderPoll, Source, Split, SplitEvent, SplitReader, TaskMetrics};
use streamrt_types::{Error, PoisonPolicy, Result, Status, WATERMARK_MAX, code};

/// One subtask's reader.
pub struct Reader {
    pub source: Arc<dyn Source>,
    pub context: OperatorContext,
    waiting: VecDeque<Split>,
    open: Option<(Split, Box<dyn SplitReader>)>,
    /// The first listing is complete.
    listed: bool,
    /// No split will follow.
    ended: bool,
    status: Option<Status>,
}

impl Reader {
    pub fn new(source: Arc<dyn Source>, context: OperatorContext) -> Reader {
        Reader { source, context, waiting: VecDeque::new(), open: None, listed: false, ended: false, status: None }
    }

    /// Runs until all splits are read, or the job is stopped.
    ///
    /// # Errors
    /// What the connector or an operator says, or that the job was cancelled.
    pub fn run(&mut self, task: &mut Task, gate: &mut InputGate) -> Result<()> {
        let mut timeout = None;
        loop {
            let start = Instant::now();
            let idle = self.take_splits(task, gate, timeout)?;
            if task.control.is_cancelled() {
                return Err(Control::cancelled());
            }
            if task.control.is_stopped() {
                return task.end_of_input();
            }
            let timers = task.run_timers()?;
            let pause = if self.listed { self.read(task)? } else { Pause::ForSplits };
            if pause == Pause::AtEnd {
                // A reader that never had a split holds nothing back. ACTIVE would, from there until the final watermark behind it, and
                // whether rows of other readers come in between is chance.
                if self.status.is_none() {
                    self.tell(task, Status::Idle)?;
                }
                task.watermark(WATERMARK_MAX)?;
                return task.end_of_input();
            }
            timeout = match (pause.duration(), timers) {
                (Some(pause), Some(timers)) => Some(pause.min(timers)),
                (one, other) => one.or(other),
            };
            task.account(start, idle);
        }
    }

    /// Waits at the gate for at most `timeout`, takes what is there, and returns how long it waited.
    fn take_splits(&mut self, task: &mut Task, gate: &mut InputGate, mut timeout: Option<Duration>) -> Result<Duration> {
        let start = Instant::now();
        if self.ended {
            if let Some(pause) = timeout.filter(|pause| !pause.is_zero()) {
                gate.wait(pause);
            }
            return Ok(start.elapsed());
        }
        loop {
            match gate.poll(timeout)? {
                GateEvent::Nothing => return Ok(start.elapsed()),
                GateEvent::Batch(batch) => {
                    for split in split_rows::from_batch(&batch) {
                        let known = SplitEvent::Known { number: split.number };
                        task.head(|operator, output| operator.split(known, output))?;
                        self.waiting.push_back(split);
                    }
                }
                GateEvent::Status(Status::Active) | GateEvent::Watermark(_) => {}
                GateEvent::Status(Status::Idle | Status::Finished) => self.listed = true,
                GateEvent::EndOfInput => {
                    (self.listed, self.ended) = (true, true);
                    return Ok(start.elapsed());
                }
            }
            timeout = Some(Duration::ZERO);
        }
    }

    /// Reads one batch, if there is one.
    fn read(&mut self, task: &mut Task) -> Result<Pause> {
        if self.open.is_none() {
            match self.waiting.pop_front() {
                Some(split) => {
                    let reader = self.source.open(&split)?;
                    self.open = Some((split, reader));
                }
                None if self.ended => return Ok(Pause::AtEnd),
                None => {
                    self.tell(task, Status::Idle)?;
                    return Ok(Pause::ForSplits);
                }
            }
        }
        self.tell(task, Status::Active)?;
        let Some((split, reader)) = &mut self.open else { return Ok(Pause::None) };
        let configuration = &self.context.configuration;
        let poll = reader.poll(configuration.batch_rows, Duration::from_millis(configuration.buffer_timeout_ms))?;
        let poison = reader.take_poison();
        let (split_name, number) = (split.name.clone(), split.number);
        for line in poison {
            self.poison(&split_name, line)?;
        }
        match poll {
            ReaderPoll::Batch(batch) => {
                task.batch(batch)?;
                Ok(Pause::None)
            }
            ReaderPoll::Pending { ms } => Ok(Pause::For(Duration::from_millis(ms))),
            ReaderPoll::Finished => {
                self.open = None;
                task.head(|operator, output| operator.split(SplitEvent::Finished { number }, output))?;
                Ok(Pause::None)
            }
        }
    }

    fn tell(&mut self, task: &mut Task, status: Status) -> Result<()> {
        if self.status == Some(status) {
            return Ok(());
        }
        self.status = Some(status);
        task.status(status)
    }

    /// A record that the format refused, by the job's policy; trying again would read the same bytes.
    fn poison(&self, split: &str, line: PoisonLine) -> Result<()> {
        let (uid, position) = (&self.context.uid, format!("{split} line {}", line.position));
        match self.context.configuration.poison_policy {
            PoisonPolicy::Fail | PoisonPolicy::Retry { .. } => {
                Err(Error::new(code::BAD_RECORD, format!("source `{uid}`: {position}: {}: `{}`", line.reason, line.line)))
            }
            PoisonPolicy::Skip => {
                TaskMetrics::add(&self.context.metrics.dead_letters, 1);
                (self.context.dead_letters)(DeadLetter {
                    uid: uid.to_string(),
                    code: code::BAD_RECORD.id,
                    message: line.reason,
                    backtrace: String::new(),
                    position,
                    key: String::new(),
                    record: line.line,
                    time_ms: None,
                })
            }
        }
    }
}

/// What the loop may wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pause {
    None,
    For(Duration),
    ForSplits,
    AtEnd,
}

impl Pause {
    /// How long to wait at the gate; `None` is for ever.
    fn duration(self) -> Option<Duration> {
        match self {
            Pause::None | Pause::AtEnd => Some(Duration::ZERO),
            Pause::For(duration) => Some(duration),
            Pause::ForSplits => None,
        }
    }
}
