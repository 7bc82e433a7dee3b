//! Two leaders on one log, in every order of their store operations, with and without faults.
//!
//! Each leader runs on a thread of its own and stops before every operation until the explorer lets
//! it go on, so that one operation runs at a time. Each decision (who is next, which fault) is a
//! digit of a number that the explorer counts up until all were tried.

use crate::names::log_path;
use crate::tests::faulty::{Fault, Faulty, Operation};
use crate::{Entry, History, JobLog, Published, SnapshotKind, Store, Stored};
use object_store::memory::InMemory;
use std::sync::{Arc, Condvar, Mutex};

/// The decisions of one run; those beyond the prefix are the first that is possible.
#[derive(Default)]
struct Choices {
    prefix: Vec<usize>,
    taken: Vec<(usize, usize)>,
}

impl Choices {
    fn choose(&mut self, n: usize) -> usize {
        let choice = self.prefix.get(self.taken.len()).copied().unwrap_or(0);
        self.taken.push((choice, n));
        choice
    }

    /// The next run, or None after the last.
    fn next(mut self) -> Option<Choices> {
        while let Some((choice, n)) = self.taken.pop() {
            if choice + 1 < n {
                let prefix = self
                    .taken
                    .iter()
                    .map(|(choice, _)| *choice)
                    .chain([choice + 1])
                    .collect();
                return Some(Choices {
                    prefix,
                    taken: Vec::new(),
                });
            }
        }
        None
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Leader {
    Thinks,
    Asks(Operation),
    MayGo(Fault),
    IsDone,
}

#[derive(Default)]
struct Gate {
    leaders: Mutex<Vec<Leader>>,
    changed: Condvar,
}

impl Gate {
    fn set(&self, leader: usize, to: Leader) {
        self.leaders.lock().unwrap()[leader] = to;
        self.changed.notify_all();
    }

    fn pass(&self, leader: usize, operation: Operation) -> Fault {
        self.set(leader, Leader::Asks(operation));
        let mut leaders = self.leaders.lock().unwrap();
        loop {
            if let Leader::MayGo(fault) = leaders[leader] {
                leaders[leader] = Leader::Thinks;
                return fault;
            }
            leaders = self.changed.wait(leaders).unwrap();
        }
    }

    /// Waits until nobody runs; those who ask, with their operations.
    fn askers(&self) -> Vec<(usize, Operation)> {
        let mut leaders = self.leaders.lock().unwrap();
        while leaders
            .iter()
            .any(|leader| matches!(leader, Leader::Thinks | Leader::MayGo(_)))
        {
            leaders = self.changed.wait(leaders).unwrap();
        }
        let asks = |(leader, state): (usize, &Leader)| {
            if let Leader::Asks(operation) = state {
                Some((leader, *operation))
            } else {
                None
            }
        };
        leaders.iter().enumerate().filter_map(asks).collect()
    }
}

/// What one leader believes at its end.
struct Outcome {
    token: String,
    /// Entries that were written, as it was told.
    written: Vec<Entry>,
    /// Entries that were not, as it was told.
    not_written: Vec<Entry>,
    leads: bool,
    /// What it found when it took over.
    read: Option<History>,
}

fn published(checkpoint: u64) -> Entry {
    let manifest = Stored {
        path: format!("chk-{checkpoint}/m"),
        bytes: 1,
        checksum: "c".into(),
    };
    Entry::Published(Published {
        checkpoint,
        kind: SnapshotKind::Checkpoint,
        manifest,
        location: None,
        uncommitted: false,
    })
}

/// How many entries lie from one summary to the next.
const SUMMARY_EVERY: u64 = 2;

/// Takes the job over and publishes checkpoints, each of which is committed before the next entry
/// is written.
fn lead(store: &Store, token: String, n_entries: u64) -> Outcome {
    let mut outcome = Outcome {
        token,
        written: Vec::new(),
        not_written: Vec::new(),
        leads: false,
        read: None,
    };
    let Ok((mut log, read)) = JobLog::take_over_with(store, &outcome.token, SUMMARY_EVERY) else {
        return outcome;
    };
    outcome.read = Some(read);
    outcome.written.push(Entry::TakeOver {
        generation: log.generation(),
    });
    for _ in 0..n_entries {
        let entry = published(log.history().next_checkpoint() + outcome.not_written.len() as u64);
        match log.append(entry.clone()) {
            Ok(()) => {
                log.commits_done(log.history().last_checkpoint);
                outcome.written.push(entry);
            }
            Err(_) if log.leads() => outcome.not_written.push(entry),
            Err(_) => break,
        }
    }
    outcome.leads = log.leads();
    outcome
}

const FAULTS: &[Fault] = &[Fault::None, Fault::Refused, Fault::Lost, Fault::Forbidden];

/// One run: two leaders on a store that has `n_before` leaderships behind it, with at most
/// `n_faults` faults.
fn run(choices: &mut Choices, n_before: u64, n_entries: u64, mut n_faults: usize) {
    let objects = Arc::new(InMemory::new());
    let plain = Store::impatient(objects.clone());
    for _ in 0..n_before {
        lead(&plain, "before".to_owned(), 1);
    }
    let gate = Arc::new(Gate {
        leaders: Mutex::new(vec![Leader::Thinks; 2]),
        ..Gate::default()
    });
    let start = |leader: usize| {
        let (gate, objects) = (gate.clone(), objects.clone());
        std::thread::spawn(move || {
            let pass = gate.clone();
            let store = Store::impatient(Arc::new(Faulty::new(objects, move |operation, _| {
                pass.pass(leader, operation)
            })));
            let outcome = lead(&store, format!("leader {leader}"), n_entries);
            gate.set(leader, Leader::IsDone);
            outcome
        })
    };
    let threads = [start(0), start(1)];
    let faultless = n_faults == 0;
    loop {
        let askers = gate.askers();
        let Some(&(leader, _)) =
            (!askers.is_empty()).then(|| &askers[choices.choose(askers.len())])
        else {
            break;
        };
        let fault = if n_faults == 0 {
            Fault::None
        } else {
            FAULTS[choices.choose(FAULTS.len())]
        };
        n_faults -= usize::from(fault != Fault::None);
        gate.set(leader, Leader::MayGo(fault));
    }
    check(
        &plain,
        &threads.map(|thread| thread.join().unwrap()),
        faultless,
    );
}

/// The entries as they stand, with the tokens of their writers.
fn entries(store: &Store) -> Vec<(String, Entry)> {
    let read = |number| store.read(&log_path(number)).unwrap();
    let entry = |bytes: Vec<u8>| {
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        (
            json["token"].as_str().unwrap().to_owned(),
            serde_json::from_value(json["entry"].clone()).unwrap(),
        )
    };
    (1..).map_while(read).map(entry).collect()
}

fn check(store: &Store, outcomes: &[Outcome], faultless: bool) {
    let entries = entries(store);
    let history = History::read_with(store, SUMMARY_EVERY).unwrap();
    assert_eq!(history.entries, entries.len() as u64, "the log is whole");
    assert_eq!(
        history,
        History::read_with(store, u64::MAX).unwrap(),
        "summaries say what the entries say"
    );
    for read in outcomes.iter().filter_map(|outcome| outcome.read.as_ref()) {
        assert_eq!(
            *read,
            folded(store, read.entries),
            "who leads has read what stands there"
        );
    }
    check_committed(&entries, &history);
    for outcome in outcomes {
        let own: Vec<&Entry> = entries
            .iter()
            .filter(|(token, _)| *token == outcome.token)
            .map(|(_, entry)| entry)
            .collect();
        assert!(
            own.len() <= outcome.written.len() + 1,
            "at most one entry's fate is unknown"
        );
        assert!(
            own.iter()
                .zip(&outcome.written)
                .all(|(there, written)| *there == written)
                && own.len() >= outcome.written.len()
        );
        assert!(
            outcome
                .not_written
                .iter()
                .all(|entry| !own.contains(&entry)),
            "what failed for certain is not there"
        );
        assert!(
            !outcome.leads || own.len() == outcome.written.len(),
            "who leads knows what stands there"
        );
    }
    let mut leader = None;
    for (token, entry) in &entries {
        match entry {
            Entry::TakeOver { .. } => leader = Some(token),
            _ => assert_eq!(Some(token), leader, "nobody writes after a newer leader"),
        }
    }
    let newest = outcomes
        .iter()
        .find(|outcome| Some(&outcome.token) == leader);
    assert!(
        !faultless || newest.is_some_and(|newest| newest.leads),
        "somebody leads"
    );
}

/// The history of the first entries of a log.
fn folded(store: &Store, n_entries: u64) -> History {
    let first = Store::in_memory().unwrap();
    for number in 1..=n_entries {
        first
            .put(
                &log_path(number),
                store.read(&log_path(number)).unwrap().unwrap(),
            )
            .unwrap();
    }
    History::read_with(&first, u64::MAX).unwrap()
}

/// The log says of no checkpoint that it is committed before it is published, and of each after
/// which the same leader has published another one.
fn check_committed(entries: &[(String, Entry)], history: &History) {
    assert!(history.committed <= history.last_checkpoint);
    for (published, next) in entries.iter().zip(entries.iter().skip(1)) {
        if let (Entry::Published(checkpoint), Entry::Published(_), true) =
            (&published.1, &next.1, published.0 == next.0)
        {
            assert!(
                history.committed >= checkpoint.checkpoint,
                "{} is committed",
                checkpoint.checkpoint
            );
        }
    }
}

fn explore(n_before: u64, n_entries: u64, n_faults: usize) -> usize {
    let (mut next, mut runs) = (Some(Choices::default()), 0);
    while let Some(mut choices) = next {
        run(&mut choices, n_before, n_entries, n_faults);
        next = choices.next();
        runs += 1;
    }
    runs
}

#[test]
fn of_two_leaders_one_gets_each_number() {
    let runs = [explore(0, 3, 0), explore(1, 2, 0)];
    assert!(runs.iter().all(|runs| *runs > 100), "{runs:?}");
}

#[test]
fn a_store_that_loses_answers_does_not_make_two_leaders() {
    let runs = [explore(0, 1, 1), explore(1, 0, 1)];
    assert!(runs.iter().all(|runs| *runs > 500), "{runs:?}");
}
