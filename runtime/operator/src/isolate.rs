//! The poison policy, in one place: runs a piece of work on user code, and when it fails, finds the record that it fails on.
//!
//! 1. The work runs as a whole, as one transaction.
//! 2. On a failure of user code it is split in halves, which run in order; each success counts at once. The deadline shrinks with the
//!    size of the part, so that a function that hangs is found soon.
//! 3. A part that cannot be split is poison, and meets the policy: fail, skip to the dead letters, or retry.
//!
//! Invariant: every part has run with success or was given up under the policy, in order, when `run` returns without an error. Only
//! failures of kind `UserCode` are isolated; all others end the task.

use crate::function::Failure;
use crate::operator::{DeadLetter, OperatorContext, TaskMetrics};
use crate::transform::suspect_row;
use std::time::Duration;
use streamrt_types::{Batch, Error, ErrorKind, PoisonPolicy, Result, code};

/// Poison that is tolerated in one piece of work: more of it hides a fault.
const POISON_MAX: usize = 8;
/// How long isolation may go on.
const ISOLATION_MS_MAX: i64 = 5_000;
/// A part of several events has this share of the deadline at most: if it misses that, its halves are tried, and a function that hangs is
/// found long before isolation is given up.
const PART_SHARE: usize = 8;
/// A part never has less time than this, however small it is.
const DEADLINE_FLOOR_MS: u64 = 50;

/// Work that can be split. Parts are run in order, and a part that failed has changed nothing.
pub trait Work {
    type Part;

    /// Events in the part; for the deadline.
    fn size(&self, part: &Self::Part) -> usize;
    /// Prepares, invokes and applies one part, as a transaction; output waits for `flush`.
    fn run(&mut self, part: &Self::Part, deadline: Duration) -> Result<(), Failure>;
    /// Sends the output of the part that has just run. Apart from `run`, because a failure behind the output is not this work's.
    fn flush(&mut self) -> Result<()>;
    /// Two parts that do the same one after the other; `None` if there is one event only.
    fn split(&self, part: &Self::Part) -> Option<(Self::Part, Self::Part)>;
    /// Describes the one event of a part.
    fn suspect(&self, part: &Self::Part) -> Suspect;
    /// Goes on without the one event of a part.
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

/// Runs a part, and sends its output if it worked.
#[inline]
fn attempt<W: Work>(work: &mut W, part: &W::Part, deadline: Duration) -> Result<Option<Failure>> {
    match work.run(part, deadline) {
        Ok(()) => work.flush().map(|()| None),
        Err(failure) => Ok(Some(failure)),
    }
}

/// The policy of one operator.
pub struct Isolation {
    context: OperatorContext,
}

impl Isolation {
    pub fn new(context: &OperatorContext) -> Isolation {
        Isolation { context: context.clone() }
    }

    /// Runs `whole` to its end.
    ///
    /// # Errors
    /// `UserCode` if the policy does not allow to go on; whatever else broke.
    #[inline]
    pub fn run<W: Work>(&self, work: &mut W, whole: W::Part) -> Result<()> {
        match attempt(work, &whole, self.deadline(1, 1))? {
            None => Ok(()),
            Some(failure) => self.isolate(work, whole, failure),
        }
    }

    /// A row that the engine cannot treat, by the job's policy: the error, or a dead letter. There is nothing to try again.
    ///
    /// # Errors
    /// `error`, unless such rows are skipped.
    pub fn refuse_row(&self, batch: &Batch, row: usize, error: Error) -> Result<()> {
        if self.context.configuration.poison_policy != PoisonPolicy::Skip {
            return Err(error);
        }
        self.bury(suspect_row(batch, row, String::new()), Failure { error, backtrace: String::new() })
    }

    fn deadline(&self, size: usize, total: usize) -> Duration {
        let ceiling = self.context.configuration.plugin_deadline_ms;
        let share = ceiling.saturating_mul(size as u64) / total.max(1) as u64;
        Duration::from_millis(share.max(DEADLINE_FLOOR_MS).min(ceiling))
    }

    fn part_deadline(&self, size: usize, total: usize) -> Duration {
        let share = self.deadline(size, total);
        if size > 1 { share.min(self.deadline(1, PART_SHARE)) } else { share }
    }

    /// `whole` has failed with `failure`.
    fn isolate<W: Work>(&self, work: &mut W, whole: W::Part, failure: Failure) -> Result<()> {
        let started_ms = self.context.clock.monotonic_ms();
        let total = work.size(&whole);
        let mut n_poison = 0;
        // Parts that wait, the next one last; with it how it failed, if it was tried.
        let mut parts = vec![(whole, Some(failure))];
        while let Some((part, failed)) = parts.pop() {
            let deadline = self.part_deadline(work.size(&part), total);
            let failed = match failed {
                None => attempt(work, &part, deadline)?,
                tried => tried,
            };
            let Some(failure) = failed else { continue };
            if failure.error.kind() != ErrorKind::UserCode {
                return Err(self.place(failure.error));
            }
            self.check_limits(n_poison, started_ms, &failure)?;
            match work.split(&part) {
                Some((first, second)) => parts.extend([(second, None), (first, None)]),
                None => {
                    n_poison += 1;
                    self.meet_policy(work, &part, failure, deadline)?;
                }
            }
        }
        Ok(())
    }

    fn check_limits(&self, n_poison: usize, started_ms: i64, failure: &Failure) -> Result<()> {
        let spent_ms = self.context.clock.monotonic_ms() - started_ms;
        let reason = match () {
            () if n_poison >= POISON_MAX => format!("more than {POISON_MAX} records of one batch fail"),
            () if spent_ms > ISOLATION_MS_MAX => format!("the records that fail were not found within {ISOLATION_MS_MAX} ms"),
            () => return Ok(()),
        };
        let last = failure.error.message();
        Err(self.place(Error::new(code::TOO_MANY_POISON, format!("{reason}; the last failure was: {last}"))))
    }

    fn meet_policy<W: Work>(&self, work: &mut W, part: &W::Part, mut failure: Failure, deadline: Duration) -> Result<()> {
        if let PoisonPolicy::Retry { attempts } = self.context.configuration.poison_policy {
            for _ in 0..attempts {
                match attempt(work, part, deadline)? {
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
        work.give_up(part)
    }

    /// The error that ends the task.
    fn report(&self, suspect: Suspect, failure: Failure) -> Error {
        let key = if suspect.key.is_empty() { String::new() } else { format!(", key {}", suspect.key) };
        let message = format!("{} ({}{key})", failure.error.message(), suspect.what);
        let error = Error::new(failure.error.code(), message).at(format_args!("operator `{}`", self.context.uid));
        if failure.backtrace.is_empty() { error } else { error.with_source(failure.backtrace) }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::Harness;
    use std::ops::Range;
    use streamrt_types::Configuration;

    /// Numbers; those in `poison` fail, and every attempt takes `cost_ms` of the clock.
    struct Numbers {
        poison: Vec<usize>,
        /// A poison number works after so many failures.
        heals_after: usize,
        done: Vec<usize>,
        deadlines_ms: Vec<u128>,
        cost_ms: i64,
        clock: std::sync::Arc<streamrt_types::ManualClock>,
        code: streamrt_types::Code,
    }

    impl Work for Numbers {
        type Part = Range<usize>;
        fn size(&self, part: &Range<usize>) -> usize {
            part.len()
        }
        fn run(&mut self, part: &Range<usize>, deadline: Duration) -> Result<(), Failure> {
            self.deadlines_ms.push(deadline.as_millis());
            self.clock.set_ms(streamrt_types::Clock::now_ms(self.clock.as_ref()) + self.cost_ms);
            if self.heals_after > 0 && self.poison.iter().any(|n| part.contains(n)) {
                self.heals_after -= 1;
                return Err(Failure { error: Error::new(self.code, "boom"), backtrace: "at f".into() });
            }
            self.done.extend(part.clone());
            Ok(())
        }
        fn flush(&mut self) -> Result<()> {
            Ok(())
        }
        fn split(&self, part: &Range<usize>) -> Option<(Range<usize>, Range<usize>)> {
            let middle = part.start + part.len() / 2;
            (part.len() > 1).then(|| (part.start..middle, middle..part.end))
        }
        fn suspect(&self, part: &Range<usize>) -> Suspect {
            Suspect { what: format!("number {}", part.start), record: part.start.to_string(), ..Suspect::default() }
        }
        fn give_up(&mut self, _: &Range<usize>) -> Result<()> {
            Ok(())
        }
    }

    struct Idle;
    impl crate::Operator for Idle {
        fn batch(&mut self, _: streamrt_types::Batch, _: &mut dyn crate::Output) -> Result<()> {
            Ok(())
        }
    }

    struct Case {
        policy: PoisonPolicy,
        poison: Vec<usize>,
        heals_after: usize,
        cost_ms: i64,
        code: streamrt_types::Code,
    }

    /// Runs 0..100, and gives the outcome, what was done, the dead letters, and the shortest deadline.
    fn check(case: Case) -> (Result<()>, Vec<usize>, Vec<String>, u128) {
        let harness = Harness::with(Idle, Configuration { poison_policy: case.policy, ..Configuration::default() }).unwrap();
        let mut numbers = Numbers {
            poison: case.poison,
            heals_after: case.heals_after,
            done: Vec::new(),
            deadlines_ms: Vec::new(),
            cost_ms: case.cost_ms,
            clock: harness.clock.clone(),
            code: case.code,
        };
        let outcome = Isolation::new(&harness.context).run(&mut numbers, 0..100);
        let letters = harness.dead_letters.lock().unwrap().iter().map(|letter| letter.record.clone()).collect();
        (outcome, numbers.done, letters, numbers.deadlines_ms.into_iter().min().unwrap())
    }

    fn case(policy: PoisonPolicy, poison: &[usize]) -> Case {
        Case { policy, poison: poison.to_vec(), heals_after: usize::MAX, cost_ms: 0, code: code::TRAP }
    }

    #[test]
    fn skip_leaves_out_the_poison_and_nothing_else() {
        let (outcome, done, letters, shortest) = check(case(PoisonPolicy::Skip, &[0, 17, 18, 99]));
        outcome.unwrap();
        assert_eq!(done, (0..100).filter(|n| ![0, 17, 18, 99].contains(n)).collect::<Vec<_>>());
        assert_eq!((letters, shortest), (vec!["0".to_owned(), "17".into(), "18".into(), "99".into()], 50));
    }

    #[test]
    fn fail_names_the_first_record() {
        let (outcome, done, letters, _) = check(case(PoisonPolicy::Fail, &[17, 40]));
        assert_eq!(outcome.unwrap_err().message(), "operator `op`: boom (number 17)");
        assert_eq!((done, letters.len()), ((0..17).collect::<Vec<_>>(), 0));
    }

    #[test]
    fn retry_gives_it_another_chance() {
        let attempts = |heals_after| Case { heals_after, ..case(PoisonPolicy::Retry { attempts: 3 }, &[17]) };
        let (outcome, done, ..) = check(attempts(10));
        outcome.unwrap();
        assert_eq!(done.len(), 100);
        assert_eq!(check(attempts(usize::MAX)).0.unwrap_err().code().id, code::TRAP.id);
    }

    #[test]
    fn too_much_poison_ends_the_task() {
        let nine: Vec<usize> = (0..9).map(|n| n * 10).collect();
        let (outcome, _, letters, _) = check(case(PoisonPolicy::Skip, &nine));
        assert_eq!((outcome.unwrap_err().code().id, letters.len()), (code::TOO_MANY_POISON.id, 8));
        let (outcome, ..) = check(Case { cost_ms: 2_000, ..case(PoisonPolicy::Skip, &[17]) });
        assert_eq!(outcome.unwrap_err().code().id, code::TOO_MANY_POISON.id);
    }

    #[test]
    fn what_is_not_the_users_fault_ends_the_task() {
        let (outcome, done, ..) = check(Case { code: code::INTERNAL, ..case(PoisonPolicy::Skip, &[17]) });
        assert_eq!((outcome.unwrap_err().message(), done.len()), ("operator `op`: boom", 0));
    }
}
