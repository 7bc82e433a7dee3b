//! The loop of a source reader: takes splits from the enumerator, reads from the one whose turn it
//! is, and feeds the chain.
//!
//! 1. No split is read before the first listing is complete, so that every reader knows what holds
//!    its watermark. 2. All splits that are known are told to the chain, whose watermark generators
//!    wait for their first rows. 3. After each batch the chain says how far its split has come; the
//!    split that is furthest back is read next (`splits.rs`). Where the chain makes no watermarks,
//!    splits are read in order. 4. At the end of all splits comes the final watermark; a reader
//!    that was stopped ends without it, since the windows that are open are not complete.
//!
//! Invariant: a split whose turn has not come holds the watermark where its own rows have left it,
//! and counts as silent for no moment.

use crate::alignment::Alignment;
use crate::control::Control;
use crate::rate::RateLimiter;
use crate::split_rows;
use crate::splits::{Held, Splits};
use crate::task::{HeadSnapshot, Task};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use streamrt_exchange::{GateEvent, InputGate};
use streamrt_operator::{
    DeadLetter, OperatorContext, PoisonLine, ReaderPoll, Source, Split, SplitEvent, TaskMetrics,
    record_text,
};
use streamrt_state::{ListMode, ListSnapshot, OperatorSnapshot, OperatorState};
use streamrt_types::{
    Batch, Error, Pace, PoisonPolicy, Result, Status, WATERMARK_MAX, Watermark, code,
};

/// How often a reader looks whether the others have caught up.
const ALIGNMENT_PAUSE: Duration = Duration::from_millis(5);
/// How long a split that stays open and has nothing lets others go first, if it does not say
/// itself.
const DRY_PAUSE: Duration = Duration::from_millis(1);

/// How long a batch may take the chain and those after it, about: a barrier or a stop waits for so
/// long.
const BATCH_TIME: Duration = Duration::from_millis(100);

/// What the readers of a region share.
#[derive(Clone, Default)]
pub(crate) struct Shared {
    /// What the readers of the same source may read together.
    pub rate: Option<Arc<RateLimiter>>,
    /// With the number of this reader.
    pub alignment: Option<(Arc<Alignment>, usize)>,
}

/// One subtask's reader.
pub(crate) struct Reader {
    pub source: Arc<dyn Source>,
    pub context: OperatorContext,
    splits: Splits,
    /// What a snapshot kept, until the chain was told of it.
    restored: Vec<(Split, Option<String>)>,
    /// The split that was read last.
    current: Option<u64>,
    /// How often a split was read, where they are read in turn.
    n_turns: i64,
    /// For checkpoints that are under way: the positions of splits that stay open.
    promised: VecDeque<(u64, Vec<(u64, String)>)>,
    shared: Shared,
    /// The first listing is complete.
    listed: bool,
    /// No split will follow.
    ended: bool,
    status: Option<Status>,
    pace: Pace,
}

/// The list of a snapshot that has the splits of a reader.
const SPLITS: &str = "splits";

/// What a checkpoint keeps of a split.
#[derive(Serialize, Deserialize)]
struct KeptSplit {
    number: u64,
    name: String,
    detail: String,
    /// `None`: it was not begun.
    position: Option<String>,
}

fn kept(held: &Held) -> Vec<u8> {
    let Split {
        number,
        name,
        detail,
    } = &held.split;
    let kept = KeptSplit {
        number: *number,
        name: name.to_string(),
        detail: detail.clone(),
        position: held.position(),
    };
    serde_json::to_vec(&kept).unwrap_or_default()
}

impl Reader {
    pub fn new(source: Arc<dyn Source>, context: OperatorContext, shared: Shared) -> Reader {
        let pace = Pace::new(BATCH_TIME, context.configuration.batch_bytes);
        Reader {
            source,
            splits: Splits::new(context.parallelism),
            context,
            restored: Vec::new(),
            current: None,
            n_turns: 0,
            promised: VecDeque::new(),
            shared,
            listed: false,
            ended: false,
            status: None,
            pace,
        }
    }

    /// Takes back the splits that [`Reader::snapshot`] kept. Where the user says that the source
    /// goes on in what it read, whatever it is to read now, the snapshot says what that is.
    ///
    /// # Errors
    /// `Data` if one cannot be read, `Invalid` (S7013) if it lies outside of what the source may
    /// read.
    pub fn restore(&mut self, state: &mut OperatorState) -> Result<()> {
        let takes_any = self.context.configuration.allow_changed_arguments;
        for item in state.list(SPLITS) {
            let uid = &self.context.uid;
            let damaged = |e| {
                Error::new(
                    code::SNAPSHOT_DAMAGED,
                    format!("source `{uid}`: a split in the snapshot cannot be read"),
                )
                .with_source(e)
            };
            let KeptSplit {
                number,
                name,
                detail,
                position,
            } = serde_json::from_slice(&item).map_err(damaged)?;
            let split = Split {
                number,
                name: name.into(),
                detail,
            };
            if !takes_any {
                self.source
                    .admits(&split)
                    .map_err(|e| e.at(format_args!("source `{uid}`")))?;
            }
            self.restored.push((split, position));
        }
        Ok(())
    }

    fn snapshot(&self) -> HeadSnapshot {
        let items = self.splits.iter().map(kept).collect();
        let lists = vec![ListSnapshot {
            name: SPLITS.into(),
            mode: ListMode::Split,
            types: serde_json::Value::Null,
            items,
        }];
        (
            self.context.uid.clone(),
            OperatorSnapshot {
                lists,
                ..OperatorSnapshot::default()
            },
        )
    }

    /// Runs until all splits are read, or the job is stopped.
    ///
    /// # Errors
    /// What the connector or an operator says, or that the job was cancelled.
    pub fn run(&mut self, task: &mut Task, gate: &mut InputGate) -> Result<()> {
        task.split(SplitEvent::Reader)?;
        for (split, position) in std::mem::take(&mut self.restored) {
            self.take_split(task, split, position)?;
        }
        let mut timeout = None;
        loop {
            let start = Instant::now();
            self.commands(task, gate)?;
            let idle = self.take_splits(task, gate, timeout)?;
            if task.control.is_cancelled() {
                return Err(Control::cancelled());
            }
            if task.control.is_stopped() {
                return task.end_of_input(gate, || self.snapshot());
            }
            let timers = task.run_timers()?;
            let pause = match () {
                () if task.chain.is_sweeping() => {
                    task.chain.resume(&mut task.exits).map(|()| Pause::None)?
                }
                () if task.control.is_drained() => Pause::AtEnd,
                () if self.listed => self.read(task)?,
                () => Pause::ForSplits,
            };
            self.align(task, pause);
            if pause == Pause::AtEnd {
                // A reader that never had a split holds nothing back. ACTIVE would, from there
                // until the final watermark after it, and whether rows of other readers come in
                // between is chance.
                match self.status {
                    None => self.tell(task, Status::Idle)?,
                    Some(Status::Active) => self.tell(task, Status::Ending)?,
                    Some(_) => {}
                }
                task.watermark(WATERMARK_MAX)?;
                return task.end_of_input(gate, || self.snapshot());
            }
            timeout = match (pause.duration(), timers) {
                (Some(pause), Some(timers)) => Some(pause.min(timers)),
                (one, other) => one.or(other),
            };
            task.account(start, idle);
            task.control.memory.check()?;
        }
    }

    fn commands(&mut self, task: &mut Task, gate: &mut InputGate) -> Result<()> {
        task.commands(gate)?;
        match task.published.take() {
            Some(checkpoint) => self.checkpoint_complete(checkpoint),
            None => Ok(()),
        }
    }

    /// Tells splits that stay open what they need not keep any more.
    fn checkpoint_complete(&mut self, checkpoint: u64) -> Result<()> {
        while let Some((number, _)) = self.promised.front()
            && *number <= checkpoint
            && let Some((number, positions)) = self.promised.pop_front()
        {
            // One that was given up says nothing.
            for (split, position) in positions.iter().filter(|_| number == checkpoint) {
                if let Some(reader) = self
                    .splits
                    .get_mut(*split)
                    .and_then(|held| held.reader.as_mut())
                {
                    reader.checkpoint_complete(position)?;
                }
            }
        }
        Ok(())
    }

    /// Waits at the gate for at most `timeout`, takes what is there, and returns how long it
    /// waited.
    fn take_splits(
        &mut self,
        task: &mut Task,
        gate: &mut InputGate,
        mut timeout: Option<Duration>,
    ) -> Result<Duration> {
        let start = Instant::now();
        if self.ended {
            if let Some(pause) = timeout.filter(|pause| !pause.is_zero()) {
                gate.wait(pause);
                self.commands(task, gate)?;
            }
            timeout = Some(Duration::ZERO);
        }
        loop {
            match gate.poll(timeout)? {
                GateEvent::Nothing => return Ok(start.elapsed()),
                GateEvent::Batch(batch) | GateEvent::SecondInput(batch) => {
                    for split in split_rows::from_batch(&batch) {
                        self.take_split(task, split, None)?;
                    }
                }
                GateEvent::Status(Status::Active)
                | GateEvent::Watermark(_)
                | GateEvent::SplitFinished(_) => {}
                GateEvent::Status(_) => self.listed = true,
                GateEvent::Barrier(barrier, alignment) => {
                    self.tell_first(task)?;
                    self.promise(barrier.checkpoint);
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

    /// Notes the positions of splits that stay open, for the time when the checkpoint is published.
    fn promise(&mut self, checkpoint: u64) {
        if self.source.stays_open() {
            let position =
                |held: &Held| Some((held.split.number, held.reader.as_ref()?.position()));
            self.promised.push_back((
                checkpoint,
                self.splits.iter().filter_map(position).collect(),
            ));
        }
    }

    fn take_split(
        &mut self,
        task: &mut Task,
        split: Split,
        position: Option<String>,
    ) -> Result<()> {
        task.split(SplitEvent::Known {
            number: split.number,
        })?;
        let turn = self.turn(task, split.number);
        self.splits.insert(split, position, turn);
        Ok(())
    }

    /// The lower it is, the sooner the split is read.
    fn turn(&mut self, task: &Task, number: u64) -> i64 {
        match task.chain.split_time(number) {
            Some(time) => time.watermark,
            None if self.source.stays_open() => {
                self.n_turns += 1;
                self.n_turns
            }
            None => 0,
        }
    }

    /// Reads one batch, if there is one.
    fn read(&mut self, task: &mut Task) -> Result<Pause> {
        if self.splits.is_empty() {
            if self.ended {
                return Ok(Pause::AtEnd);
            }
            self.tell(task, Status::Idle)?;
            return Ok(Pause::ForSplits);
        }
        self.tell(task, Status::Active)?;
        if let Some(again) = self.splits.next_dry() {
            let now = Instant::now();
            for number in self.splits.wake(now) {
                self.waits(task, number)?;
            }
            if self.splits.next().is_none() {
                return Ok(Pause::For(again.saturating_duration_since(now)));
            }
        }
        let wait = self
            .shared
            .rate
            .as_ref()
            .map_or(Duration::ZERO, |rate| rate.wait());
        if !wait.is_zero() {
            return Ok(Pause::For(wait));
        }
        if self
            .splits
            .next()
            .is_some_and(|(turn, number)| self.is_ahead(task, number, turn))
        {
            self.splits.give_way();
        }
        let Some((turn, number)) = self.splits.next() else {
            return Ok(Pause::None);
        };
        if self.is_ahead(task, number, turn) {
            self.waits(task, number)?;
            return Ok(Pause::For(ALIGNMENT_PAUSE));
        }
        self.turn_to(task, number)?;
        self.read_split(task, number)
    }

    fn read_split(&mut self, task: &mut Task, number: u64) -> Result<Pause> {
        let rows = self.rows(task, number);
        let poll = self.poll(number, rows)?;
        let again = match poll {
            ReaderPoll::Finished => {
                self.splits.finish(number);
                self.current = None;
                task.split(SplitEvent::Finished { number })?;
                return Ok(Pause::None);
            }
            ReaderPoll::Batch(batch) => {
                self.batch(task, batch)?;
                None
            }
            // It is asked again at once, unless others wait for it.
            ReaderPoll::Pending { ms: 0 } if !self.source.stays_open() || self.splits.is_one() => {
                None
            }
            ReaderPoll::Pending { ms } => {
                Some(Instant::now() + Duration::from_millis(ms).max(DRY_PAUSE))
            }
        };
        let turn = self.turn(task, number);
        self.splits.asked(number, rows, turn, again);
        if !self.source.stays_open() {
            self.splits.close_too_many();
        }
        Ok(Pause::None)
    }

    fn batch(&mut self, task: &mut Task, batch: Batch) -> Result<()> {
        if let Some(rate) = &self.shared.rate {
            rate.took(batch.n_rows());
        }
        let (n_rows, n_bytes, start) = (batch.n_rows(), batch.n_bytes(), Instant::now());
        task.batch(batch)?;
        self.pace.took(n_rows, start.elapsed(), n_bytes);
        Ok(())
    }

    /// How many rows to ask a split for.
    fn rows(&self, task: &Task, number: u64) -> usize {
        let batch_rows = self
            .context
            .configuration
            .batch_rows
            .min(self.pace.events());
        let rows = match task.chain.split_time(number) {
            Some(_) => self.splits.rows(number, batch_rows),
            None => batch_rows,
        };
        self.shared
            .rate
            .as_ref()
            .map_or(rows, |rate| rows.min(rate.rows()))
    }

    /// Asks a split for rows, opening it if it is not open.
    fn poll(&mut self, number: u64, rows: usize) -> Result<ReaderPoll> {
        let missing = || Error::internal("the split whose turn it is is one of the reader's");
        let held = self.splits.get_mut(number).ok_or_else(missing)?;
        if held.reader.is_none() {
            let mut reader = self.source.open(&held.split, held.position.as_deref())?;
            reader.limit_bytes(self.context.configuration.batch_bytes);
            if self.context.configuration.poison_policy == PoisonPolicy::Skip {
                reader.skip_long_records();
            }
            self.splits.opened(number, reader);
        }
        let held = self.splits.get_mut(number).ok_or_else(missing)?;
        let name = held.split.name.clone();
        let reader = held.reader.as_mut().ok_or_else(missing)?;
        let uid = &self.context.uid;
        // Other errors name the file themselves.
        let place = |e: Error| {
            if e.code() == code::BAD_RECORD {
                e.at(format_args!("source `{uid}`: {name}"))
            } else {
                e
            }
        };
        let timeout = Duration::from_millis(self.context.configuration.buffer_timeout_ms);
        let poll = reader.poll(rows, timeout).map_err(place)?;
        let poison = reader.take_poison();
        poison
            .into_iter()
            .try_for_each(|line| self.poison(&name, line))?;
        Ok(poll)
    }

    /// Makes a split the one that is asked for rows.
    fn turn_to(&mut self, task: &mut Task, number: u64) -> Result<()> {
        if let Some(last) = self
            .current
            .filter(|last| *last != number && self.splits.is_ready(*last))
        {
            self.waits(task, last)?;
        }
        self.current = Some(number);
        match self.splits.get_mut(number) {
            Some(held) if !held.attended => {
                held.attended = true;
                task.split(SplitEvent::Turn { number })
            }
            _ => Ok(()),
        }
    }

    /// A split is not asked for rows although it may have some.
    fn waits(&mut self, task: &mut Task, number: u64) -> Result<()> {
        match self.splits.get_mut(number) {
            Some(held) if held.attended => {
                held.attended = false;
                task.split(SplitEvent::Waits { number })
            }
            _ => Ok(()),
        }
    }

    /// Whether a split has to wait for those of other readers.
    fn is_ahead(&self, task: &Task, number: u64, watermark: Watermark) -> bool {
        let alignment = self
            .shared
            .alignment
            .as_ref()
            .filter(|_| task.chain.split_time(number).is_some());
        alignment.is_some_and(|(alignment, _)| alignment.is_ahead(watermark))
    }

    /// Tells the other readers how far this one has come.
    fn align(&self, task: &Task, pause: Pause) {
        if let Some((alignment, reader)) = &self.shared.alignment
            && self.listed
        {
            let holds = |(_, number): &(Watermark, u64)| {
                task.chain
                    .split_time(*number)
                    .is_some_and(|time| !time.idle)
            };
            let turns = self.splits.first().into_iter().chain(self.splits.dry());
            let least = turns.filter(holds).map(|(watermark, _)| watermark).min();
            alignment.publish(*reader, least.filter(|_| pause != Pause::AtEnd));
        }
    }

    fn tell(&mut self, task: &mut Task, status: Status) -> Result<()> {
        if self.status == Some(status) {
            return Ok(());
        }
        self.status = Some(status);
        task.status(status)
    }

    /// A barrier may come between the end of the first listing and the first read, which would tell
    /// the same.
    fn tell_first(&mut self, task: &mut Task) -> Result<()> {
        match self.status {
            Some(_) => Ok(()),
            None if self.splits.is_empty() => self.tell(task, Status::Idle),
            None => self.tell(task, Status::Active),
        }
    }

    /// A record that the format refused, by the job's policy; trying again would read the same
    /// bytes. What is passed over meets none.
    fn poison(&self, split: &str, line: PoisonLine) -> Result<()> {
        let (uid, position) = (
            &self.context.uid,
            if line.position == 0 {
                split.to_owned()
            } else {
                format!("{split} line {}", line.position)
            },
        );
        if line.code != code::PASSED_OVER
            && self.context.configuration.poison_policy != PoisonPolicy::Skip
        {
            let shown = record_text::short(&line.record);
            return Err(Error::new(
                line.code,
                format!("source `{uid}`: {position}: {}: `{shown}`", line.reason),
            ));
        }
        TaskMetrics::add(&self.context.metrics.dead_letters, 1);
        let (record, record_encoding) = record_text::exact(line.record);
        (self.context.dead_letters)(DeadLetter {
            uid: uid.to_string(),
            code: line.code.id,
            message: line.reason,
            position,
            record,
            record_encoding,
            ..DeadLetter::default()
        })
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

#[cfg(test)]
mod tests;
