//! The pace of calls, and the policy, with work that is numbers and a clock that they move.

use super::*;
use crate::harness::Harness;
use streamrt_types::Configuration;

/// Numbers; the failure that `fails` returns for a range ends its call. No number costs time, so
/// calls grow fourfold.
struct Numbers<F> {
    fails: F,
    /// The number of failures left; after them nothing fails any more.
    n_failures: usize,
    done: Vec<usize>,
    calls: Vec<Range<usize>>,
    deadlines_ms: Vec<u128>,
}

impl<F: Fn(&Range<usize>) -> Option<streamrt_types::Code>> Work for Numbers<F> {
    type Part = Range<usize>;
    fn call(&self) -> Call {
        Call::Process
    }
    fn size(&self, part: &Range<usize>, _: usize) -> usize {
        part.len()
    }
    fn run(&mut self, part: &Range<usize>, deadline: Duration) -> Result<usize, Failure> {
        self.deadlines_ms.push(deadline.as_millis());
        self.calls.push(part.clone());
        if let Some(code) = (self.fails)(part).filter(|_| self.n_failures > 0) {
            self.n_failures -= 1;
            return Err(Failure {
                error: Error::new(code, "boom"),
                backtrace: "at f".into(),
            });
        }
        self.done.extend(part.clone());
        Ok(0)
    }
    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
    fn split(&self, part: &Range<usize>, n_events: usize) -> Option<(Range<usize>, Range<usize>)> {
        split_range(part, n_events)
    }
    fn suspect(&self, part: &Range<usize>) -> Suspect {
        Suspect {
            what: format!("number {}", part.start),
            record: part.start.to_string(),
            ..Suspect::default()
        }
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

/// The outcome of 0..n, which is run after so many faultless numbers that calls have reached their
/// size.
struct Ran {
    outcome: Result<()>,
    done: Vec<usize>,
    letters: Vec<String>,
    calls: Vec<Range<usize>>,
}

fn check(
    policy: PoisonPolicy,
    n: usize,
    n_failures: usize,
    fails: impl Fn(&Range<usize>) -> Option<streamrt_types::Code>,
) -> Ran {
    let harness = Harness::with(
        Idle,
        Configuration {
            poison_policy: policy,
            ..Configuration::default()
        },
    )
    .unwrap();
    let isolation = Isolation::new(&harness.context);
    // The first calls of all are small.
    isolation
        .paces
        .iter()
        .for_each(|pace| pace.set(grown(pace.get())));
    let mut numbers = Numbers {
        fails,
        n_failures,
        done: Vec::new(),
        calls: Vec::new(),
        deadlines_ms: Vec::new(),
    };
    let outcome = isolation.run(&mut numbers, 0..n);
    assert!(
        numbers.deadlines_ms.iter().all(|&ms| ms == 5_000),
        "every call has the whole deadline"
    );
    let letters = harness
        .dead_letters
        .lock()
        .unwrap()
        .iter()
        .map(|letter| letter.record.clone())
        .collect();
    Ran {
        outcome,
        done: numbers.done,
        letters,
        calls: numbers.calls,
    }
}

fn grown(mut pace: Pace) -> Pace {
    (0..9).for_each(|_| pace.took(pace.events(), Duration::ZERO, 0));
    pace
}

/// A call with one of these fails with `code`.
fn poison(
    numbers: &[usize],
    code: streamrt_types::Code,
) -> impl Fn(&Range<usize>) -> Option<streamrt_types::Code> {
    move |part| numbers.iter().any(|n| part.contains(n)).then_some(code)
}

/// A call of more than `most` numbers fails with `code`.
fn at_most(
    most: usize,
    code: streamrt_types::Code,
) -> impl Fn(&Range<usize>) -> Option<streamrt_types::Code> {
    move |part| (part.len() > most).then_some(code)
}

fn without(n: usize, poison: &[usize]) -> Vec<usize> {
    (0..n).filter(|n| !poison.contains(n)).collect()
}

#[test]
fn skip_leaves_out_the_poison_and_nothing_else() {
    for code in [code::TRAP, code::DEADLINE, code::MEMORY_LIMIT] {
        let ran = check(
            PoisonPolicy::Skip,
            100,
            usize::MAX,
            poison(&[0, 17, 18, 99], code),
        );
        ran.outcome.unwrap();
        assert_eq!(
            (ran.done, ran.letters),
            (
                without(100, &[0, 17, 18, 99]),
                ["0", "17", "18", "99"].map(String::from).to_vec()
            )
        );
    }
}

#[test]
fn fail_names_the_first_record() {
    let ran = check(
        PoisonPolicy::Fail,
        100,
        usize::MAX,
        poison(&[17, 40], code::TRAP),
    );
    assert_eq!(
        ran.outcome.unwrap_err().message(),
        "operator `op`: boom (number 17)"
    );
    assert_eq!(
        (ran.done, ran.letters.len()),
        ((0..17).collect::<Vec<_>>(), 0)
    );
}

#[test]
fn retry_gives_it_another_chance() {
    let attempts = |n_failures| {
        check(
            PoisonPolicy::Retry { attempts: 3 },
            100,
            n_failures,
            poison(&[17], code::TRAP),
        )
    };
    let ran = attempts(10);
    ran.outcome.unwrap();
    assert_eq!(ran.done.len(), 100);
    assert_eq!(
        attempts(usize::MAX).outcome.unwrap_err().code().id,
        code::TRAP.id
    );
}

#[test]
fn any_number_of_records_may_fail_under_skip() {
    let odd: Vec<usize> = (0..1000).filter(|n| n % 2 == 1).collect();
    let ran = check(
        PoisonPolicy::Skip,
        1000,
        usize::MAX,
        poison(&odd, code::TRAP),
    );
    ran.outcome.unwrap();
    assert_eq!((ran.done, ran.letters.len()), (without(1000, &odd), 500));
    assert!(ran.calls.len() <= 3 * 1000, "{}", ran.calls.len());
}

#[test]
fn a_record_that_hangs_costs_two_deadlines_however_many_stand_beside_it() {
    let ran = check(
        PoisonPolicy::Skip,
        1024,
        usize::MAX,
        poison(&[700], code::DEADLINE),
    );
    ran.outcome.unwrap();
    let missed = ran.calls.iter().filter(|part| part.contains(&700));
    assert_eq!((missed.count(), ran.letters), (2, vec!["700".to_owned()]));
    // Alone it costs one.
    let ran = check(
        PoisonPolicy::Fail,
        1,
        usize::MAX,
        poison(&[0], code::DEADLINE),
    );
    assert_eq!(
        (ran.outcome.unwrap_err().code().id, ran.calls.len()),
        (code::DEADLINE.id, 1)
    );
}

#[test]
fn a_call_that_was_too_large_is_no_poison() {
    for code in [code::DEADLINE, code::MEMORY_LIMIT, code::OUTPUT_LIMIT] {
        let ran = check(PoisonPolicy::Fail, 1000, usize::MAX, at_most(3, code));
        ran.outcome.unwrap();
        assert_eq!(ran.done, without(1000, &[]));
    }
}

#[test]
fn calls_begin_small() {
    let harness = Harness::new(Idle);
    let isolation = Isolation::new(&harness.context);
    let mut numbers = Numbers {
        fails: |_: &Range<usize>| None,
        n_failures: 0,
        done: Vec::new(),
        calls: Vec::new(),
        deadlines_ms: Vec::new(),
    };
    isolation.run(&mut numbers, 0..5).unwrap();
    assert_eq!(
        (numbers.calls[0].clone(), numbers.done),
        (0..1, without(5, &[]))
    );
}

#[test]
fn a_cancelled_job_makes_no_other_call() {
    let harness = Harness::new(Idle);
    let isolation = Isolation::new(&harness.context);
    harness
        .context
        .cancel
        .store(true, std::sync::atomic::Ordering::Relaxed);
    let mut numbers = Numbers {
        fails: |_: &Range<usize>| None,
        n_failures: 0,
        done: Vec::new(),
        calls: Vec::new(),
        deadlines_ms: Vec::new(),
    };
    assert_eq!(
        isolation.run(&mut numbers, 0..5).unwrap_err().code().id,
        code::CANCELLED.id
    );
    assert!(numbers.calls.is_empty());
}

#[test]
fn what_is_not_the_users_fault_ends_the_task() {
    let ran = check(
        PoisonPolicy::Skip,
        100,
        usize::MAX,
        poison(&[17], code::INTERNAL),
    );
    assert_eq!(
        (ran.outcome.unwrap_err().message(), ran.done.len()),
        ("operator `op`: boom", 0)
    );
}
