//! Calls into user code: how much each one gets, and what happens when one fails.
//!
//! 1. Work is cut into calls by what earlier calls of the same kind took (see [`Pace`]): some tens
//!    of ms, and some MiB of what goes in and comes out. The deadline is meant for one event; a
//!    call for many has the same one.
//! 2. A call that misses its deadline is repeated event by event: however many it had, the one that
//!    hangs is found with one more missed deadline. A call that met a limit on memory or output is
//!    repeated in halves, and so is one in which user code failed.
//! 3. An event that fails alone is poison, and subject to the policy: fail, skip to the dead
//!    letters, or retry.
//!
//! Between two calls a cancelled job ends. Invariants: when `run` returns without an error, every
//! part has succeeded or was given up under the policy, in order. Only failures of kind `UserCode`
//! are isolated; all others end the task. There are at most three calls per event, so isolation
//! ends; the number of events that may fail is not limited, because results would then depend on
//! how rows were batched.

use crate::function::{Call, Failure};
use crate::operator::{DeadLetter, OperatorContext, TaskMetrics};
use crate::transform::suspect_row;
use std::cell::Cell;
use std::ops::Range;
use std::time::{Duration, Instant};
use streamrt_types::{Batch, Error, ErrorKind, Pace, PoisonPolicy, Result, code};

/// How long a call should take: a thousand times what an empty call costs, and short compared with
/// how long a barrier or a cancel may wait.
const CALL_TIME: Duration = Duration::from_millis(20);

/// The size of a call in batches, by bytes, with state and output.
const CALL_BATCHES: usize = 4;

/// Events are not counted beyond this number.
const EVENTS_MAX: usize = 1 << 16;

/// Work that can be cut. Parts are run in order, and a part that failed has changed nothing.
pub trait Work {
    type Part;

    /// The kind of its calls: each has its own pace.
    fn call(&self) -> Call;
    /// Events in the part: rows, timers that are due, windows. They are not counted beyond `limit`
    /// + 1.
    fn size(&self, part: &Self::Part, limit: usize) -> usize;
    /// Prepares, invokes and applies one part, as a transaction; output waits for `flush`. Returns
    /// the bytes that went in and came out.
    fn run(&mut self, part: &Self::Part, deadline: Duration) -> Result<usize, Failure>;
    /// Sends the output of the part that has just run. It is separate from `run`, because a failure
    /// downstream is not this work's.
    fn flush(&mut self) -> Result<()>;
    /// Two parts that together do the same, the first with `n_events` (at least 1) if it can be cut
    /// there, and each smaller than the part; `None` if there is only one event.
    fn split(&self, part: &Self::Part, n_events: usize) -> Option<(Self::Part, Self::Part)>;
    /// Describes the one event of a part.
    fn suspect(&self, part: &Self::Part) -> Suspect;
    /// Continues without the one event of a part. `flush` sends what it leaves to send.
    fn give_up(&mut self, part: &Self::Part) -> Result<()>;
}

/// What user code failed on, for a report.
#[derive(Debug, Default)]
pub struct Suspect {
    /// For example `record at data/clicks.csv line 17`.
    pub what: String,
    pub position: String,
    pub key: String,
    pub record: String,
    pub time_ms: Option<i64>,
}

/// A part that waits in isolation.
struct Waiting<P> {
    part: P,
    /// The number of events with which it is tried at a time.
    n_events: usize,
    /// How it failed, if it was tried.
    failure: Option<Failure>,
}

/// The policy of one operator, and the pace of its calls.
pub struct Isolation {
    context: OperatorContext,
    deadline: Duration,
    paces: [Cell<Pace>; Call::N],
}

impl Isolation {
    pub fn new(context: &OperatorContext) -> Isolation {
        let configuration = &context.configuration;
        let deadline = Duration::from_millis(configuration.plugin_deadline_ms);
        let bytes = (configuration.batch_bytes * CALL_BATCHES)
            .min(configuration.plugin_output_bytes / 4)
            .min(configuration.plugin_memory_bytes / 16);
        let pace = || Cell::new(Pace::new(CALL_TIME.min(deadline / 4), bytes));
        Isolation {
            context: context.clone(),
            deadline,
            paces: std::array::from_fn(|_| pace()),
        }
    }

    /// The most events that the next call of this kind gets.
    pub fn n_events(&self, call: Call) -> usize {
        self.paces[call as usize].get().events()
    }

    /// Runs `whole` to its end, in as many calls as it takes.
    ///
    /// # Errors
    /// `UserCode` if the policy does not allow continuing; cancellation of the job; whatever else
    /// broke.
    #[inline]
    pub fn run<W: Work>(&self, work: &mut W, whole: W::Part) -> Result<()> {
        // Parts after the next one, the last one first; most work is one call.
        let mut rest = Vec::new();
        let mut next = Some(whole);
        while let Some(part) = next.take() {
            let limit = self.n_events(work.call());
            let n_events = work.size(&part, limit);
            let parts = if n_events > limit {
                work.split(&part, limit)
            } else {
                None
            };
            if let Some((first, second)) = parts {
                rest.push(second);
                next = Some(first);
                continue;
            }
            if let Some(failure) = self.attempt(work, &part, n_events)? {
                self.isolate(work, part, failure)?;
            }
            next = rest.pop();
        }
        Ok(())
    }

    /// Runs a part, and sends its output if it worked.
    #[inline]
    fn attempt<W: Work>(
        &self,
        work: &mut W,
        part: &W::Part,
        n_events: usize,
    ) -> Result<Option<Failure>> {
        self.context.check_cancel()?;
        let pace = &self.paces[work.call() as usize];
        let mut next = pace.get();
        let start = Instant::now();
        let ran = work.run(part, self.deadline);
        match ran {
            Ok(n_bytes) => {
                next.took(n_events, start.elapsed(), n_bytes);
                pace.set(next);
                work.flush().map(|()| None)
            }
            Err(failure) => {
                if is_too_much(&failure) {
                    next.failed(n_events);
                    pace.set(next);
                }
                Ok(Some(failure))
            }
        }
    }

    /// Applies the job's policy to a row that the engine cannot process: the error, or a dead
    /// letter. There is nothing to retry.
    ///
    /// # Errors
    /// `error`, unless such rows are skipped.
    pub fn refuse_row(&self, batch: &Batch, row: usize, error: Error) -> Result<()> {
        if self.context.configuration.poison_policy != PoisonPolicy::Skip {
            return Err(error);
        }
        self.bury(
            suspect_row(batch, row, String::new()),
            Failure {
                error,
                backtrace: String::new(),
            },
        )
    }

    /// Isolates what failed in `whole`, which has failed with `failure`.
    fn isolate<W: Work>(&self, work: &mut W, whole: W::Part, failure: Failure) -> Result<()> {
        let mut parts = vec![Waiting {
            part: whole,
            n_events: EVENTS_MAX,
            failure: Some(failure),
        }];
        while let Some(Waiting {
            part,
            n_events,
            failure,
        }) = parts.pop()
        {
            let size = work.size(&part, EVENTS_MAX);
            let waiting = |part| Waiting {
                part,
                n_events,
                failure: None,
            };
            if failure.is_none()
                && size > n_events
                && let Some((first, second)) = work.split(&part, n_events)
            {
                parts.extend([waiting(second), waiting(first)]);
                continue;
            }
            let failed = match failure {
                None => self.attempt(work, &part, size)?,
                tried => tried,
            };
            let Some(failure) = failed else { continue };
            if failure.error.kind() != ErrorKind::UserCode {
                return Err(self.place(failure.error));
            }
            // Event by event, an event that hangs costs one more deadline; in halves it would cost
            // one per halving.
            let n_events = if failure.error.code() == code::DEADLINE {
                1
            } else {
                size.div_ceil(2).max(1)
            };
            let waiting = |part| Waiting {
                part,
                n_events,
                failure: None,
            };
            match work.split(&part, n_events) {
                Some((first, second)) => parts.extend([waiting(second), waiting(first)]),
                None => self.meet_policy(work, &part, failure)?,
            }
        }
        Ok(())
    }

    fn meet_policy<W: Work>(
        &self,
        work: &mut W,
        part: &W::Part,
        mut failure: Failure,
    ) -> Result<()> {
        if let PoisonPolicy::Retry { attempts } = self.context.configuration.poison_policy {
            for _ in 0..attempts {
                match self.attempt(work, part, 1)? {
                    None => return Ok(()),
                    Some(again) => failure = again,
                }
            }
        }
        let suspect = work.suspect(part);
        if self.context.configuration.poison_policy != PoisonPolicy::Skip {
            return Err(self.report(suspect, failure));
        }
        self.bury(suspect, failure)?;
        work.give_up(part)?;
        work.flush()
    }

    /// The error that ends the task.
    fn report(&self, suspect: Suspect, failure: Failure) -> Error {
        let key = if suspect.key.is_empty() {
            String::new()
        } else {
            format!(", key {}", suspect.key)
        };
        let message = format!("{} ({}{key})", failure.error.message(), suspect.what);
        let error = Error::new(failure.error.code(), message)
            .at(format_args!("operator `{}`", self.context.uid));
        if failure.backtrace.is_empty() {
            error
        } else {
            error.with_source(failure.backtrace)
        }
    }

    /// Sends what failed to the dead letters.
    fn bury(&self, suspect: Suspect, failure: Failure) -> Result<()> {
        TaskMetrics::add(&self.context.metrics.dead_letters, 1);
        (self.context.dead_letters)(DeadLetter {
            uid: self.context.uid.to_string(),
            code: failure.error.code().id,
            message: failure.error.message().to_owned(),
            backtrace: failure.backtrace,
            position: suspect.position,
            key: suspect.key,
            record: suspect.record,
            time_ms: suspect.time_ms,
            ..DeadLetter::default()
        })
    }

    fn place(&self, error: Error) -> Error {
        error.at(format_args!("operator `{}`", self.context.uid))
    }
}

/// [`Work::split`] for numbered events.
pub fn split_range(part: &Range<usize>, n_events: usize) -> Option<(Range<usize>, Range<usize>)> {
    let middle = part.start + n_events;
    (part.len() > n_events).then_some((part.start..middle, middle..part.end))
}

/// Whether fewer events might have succeeded.
fn is_too_much(failure: &Failure) -> bool {
    [code::DEADLINE, code::MEMORY_LIMIT, code::OUTPUT_LIMIT].contains(&failure.error.code())
}

#[cfg(test)]
mod tests;
