//! The loop of a source reader: takes splits from the enumerator, reads one after the other, and feeds the chain.
//!
//! 1. No split is read before the first listing is complete, so that every reader knows what holds its watermark. 2. The splits that
//! are known but not begun are told to the chain, whose watermark generators wait for them. 3. At the end of all splits comes the final
//! watermark; a reader that was stopped ends without it, since the windows that are open are not complete.

use crate::control::Control;
use crate::rate::RateLimiter;
use crate::split_rows;
use crate::task::{HeadSnapshot, Task};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use streamrt_exchange::{GateEvent, InputGate};
use streamrt_operator::{DeadLetter, OperatorContext, PoisonLine, ReaderPoll, Source, Split, SplitEvent, SplitReader, TaskMetrics};
use streamrt_state::{ListMode, ListSnapshot, OperatorSnapshot, OperatorState};
use streamrt_types::{Error, Pace, PoisonPolicy, Result, Status, WATERMARK_MAX, code};

/// One subtask's reader.
pub struct Reader {
    pub source: Arc<dyn Source>,
    pub context: OperatorContext,
    /// Splits that are not open, with the place to go on at if they were.
    waiting: VecDeque<(Split, Option<String>)>,
    open: Option<(Split, Box<dyn SplitReader>)>,
    rate: Option<Arc<RateLimiter>>,
    /// The first listing is complete.
    listed: bool,
    /// No split will follow.
    ended: bool,
    status: Option<Status>,
    pace: Pace,
}

/// How long a batch may take the chain and those behind it, about: a barrier or a stop waits for so long.
const BATCH_TIME: Duration = Duration::from_millis(100);

/// The list of a snapshot that has the splits of a reader: the open one first, then those that wait.
const SPLITS: &str = "splits";

/// What a checkpoint keeps of a split.
#[derive(Serialize, Deserialize)]
struct KeptSplit {
    number: u32,
    name: String,
    detail: String,
    /// `None`: it was not begun.
    position: Option<String>,
}

impl Reader {
    /// `rate` is shared by all readers of the source.
    pub fn new(source: Arc<dyn Source>, context: OperatorContext, rate: Option<Arc<RateLimiter>>) -> Reader {
        let pace = Pace::new(BATCH_TIME, context.configuration.batch_bytes);
        Reader { source, context, waiting: VecDeque::new(), open: None, rate, listed: false, ended: false, status: None, pace }
    }

    /// Takes back the splits that [`Reader::snapshot`] kept.
    ///
    /// # Errors
    /// `Data` if one cannot be read.
    pub fn restore(&mut self, state: &mut OperatorState) -> Result<()> {
        for item in state.list(SPLITS) {
            let uid = &self.context.uid;
            let damaged =
                |e| Error::new(code::SNAPSHOT_DAMAGED, format!("source `{uid}`: a split in the snapshot cannot be read")).with_source(e);
            let KeptSplit { number, name, detail, position } = serde_json::from_slice(&item).map_err(damaged)?;
            self.waiting.push_back((Split { number, name: name.into(), detail }, position));
        }
        Ok(())
    }

    fn snapshot(&self) -> HeadSnapshot {
        let open = self.open.iter().map(|(split, reader)| (split, Some(reader.position())));
        let waiting = self.waiting.iter().map(|(split, position)| (split, position.clone()));
        let keep = |(split, position): (&Split, Option<String>)| {
            let kept = KeptSplit { number: split.number, name: split.name.to_string(), detail: split.detail.clone(), position };
            serde_json::to_vec(&kept).unwrap_or_default()
        };
        let lists = vec![ListSnapshot {
            name: SPLITS.into(),
            mode: ListMode::Split,
            types: serde_json::Value::Null,
            items: open.chain(waiting).map(keep).collect(),
        }];
        (self.context.uid.clone(), OperatorSnapshot { lists, ..OperatorSnapshot::default() })
    }

    /// Runs until all splits are read, or the job is stopped.
    ///
    /// # Errors
    /// What the connector or an operator says, or that the job was cancelled.
    pub fn run(&mut self, task: &mut Task, gate: &mut InputGate) -> Result<()> {
        let restored: Vec<u32> = self.waiting.iter().map(|(split, _)| split.number).collect();
        for number in restored {
            task.head(|operator, output| operator.split(SplitEvent::Known { number }, output))?;
        }
        let mut timeout = None;
        loop {
            let start = Instant::now();
            task.commands(gate)?;
            let idle = self.take_splits(task, gate, timeout)?;
            if task.control.is_cancelled() {
                return Err(Control::cancelled());
            }
            if task.control.is_stopped() {
                return task.end_of_input(gate, || self.snapshot());
            }
            let timers = task.run_timers()?;
            let pause = match () {
                () if task.chain.is_sweeping() => task.chain.resume(&mut task.exits).map(|()| Pause::None)?,
                () if task.control.is_drained() => Pause::AtEnd,
                () if self.listed => self.read(task)?,
                () => Pause::ForSplits,
            };
            if pause == Pause::AtEnd {
                // A reader that never had a split holds nothing back. ACTIVE would, from there until the final watermark behind it, and
                // whether rows of other readers come in between is chance.
                if self.status.is_none() {
                    self.tell(task, Status::Idle)?;
                }
                task.watermark(WATERMARK_MAX)?;
                return task.end_of_input(gate, || self.snapshot());
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
                task.commands(gate)?;
            }
            timeout = Some(Duration::ZERO);
        }
        loop {
            match gate.poll(timeout)? {
                GateEvent::Nothing => return Ok(start.elapsed()),
                GateEvent::Batch(batch) | GateEvent::SecondInput(batch) => {
                    for split in split_rows::from_batch(&batch) {
                        let known = SplitEvent::Known { number: split.number };
                        task.head(|operator, output| operator.split(known, output))?;
                        self.waiting.push_back((split, None));
                    }
                }
                GateEvent::Status(Status::Active) | GateEvent::Watermark(_) => {}
                GateEvent::Status(Status::Idle | Status::Finished) => self.listed = true,
                GateEvent::Barrier(barrier, alignment) => {
                    self.tell_first(task)?;
                    task.checkpoint(barrier, alignment, self.snapshot())?;
                }
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
                Some((split, position)) => {
                    let mut reader = self.source.open(&split, position.as_deref())?;
                    reader.limit_bytes(self.context.configuration.batch_bytes);
                    if self.context.configuration.poison_policy == PoisonPolicy::Skip {
                        reader.skip_long_records();
                    }
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
        let wait = self.rate.as_ref().map_or(Duration::ZERO, |rate| rate.wait());
        if !wait.is_zero() {
            return Ok(Pause::For(wait));
        }
        let Some((split, reader)) = &mut self.open else { return Ok(Pause::None) };
        let configuration = &self.context.configuration;
        let batch_rows = configuration.batch_rows.min(self.pace.events());
        let rows = self.rate.as_ref().map_or(batch_rows, |rate| batch_rows.min(rate.rows()));
        let uid = &self.context.uid;
        // Other errors name the file themselves.
        let place = |e: Error| if e.code() == code::BAD_RECORD { e.at(format_args!("source `{uid}`: {}", split.name)) } else { e };
        let poll = reader.poll(rows, Duration::from_millis(configuration.buffer_timeout_ms)).map_err(place)?;
        let poison = reader.take_poison();
        let (split_name, number) = (split.name.clone(), split.number);
        for line in poison {
            self.poison(&split_name, line)?;
        }
        match poll {
            ReaderPoll::Batch(batch) => {
                if let Some(rate) = &self.rate {
                    rate.took(batch.n_rows());
                }
                let (n_rows, n_bytes, start) = (batch.n_rows(), batch.n_bytes(), Instant::now());
                task.batch(batch)?;
                self.pace.took(n_rows, start.elapsed(), n_bytes);
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

    /// A barrier may come between the end of the first listing and the first read, which would tell the same.
    fn tell_first(&mut self, task: &mut Task) -> Result<()> {
        match self.status {
            Some(_) => Ok(()),
            None if self.open.is_none() && self.waiting.is_empty() => self.tell(task, Status::Idle),
            None => self.tell(task, Status::Active),
        }
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
