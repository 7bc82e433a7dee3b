//! The log of a job: take-overs, entries that follow one another, summaries, what is torn or lies.

use super::*;
use crate::tests::faulty::{Fault, Faulty, Operation};
use crate::unique_token;
use object_store::memory::InMemory;
use std::sync::Arc;

fn published(checkpoint: u64) -> Entry {
    let manifest = Stored {
        path: format!("chk-{checkpoint}/manifest-1.json"),
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

fn numbers(published: &[Published]) -> Vec<u64> {
    published
        .iter()
        .map(|published| published.checkpoint)
        .collect()
}

fn log_of(entries: impl IntoIterator<Item = Entry>) -> (Store, JobLog) {
    let store = Store::in_memory().unwrap();
    let (mut log, _) = JobLog::take_over(&store, "first").unwrap();
    entries
        .into_iter()
        .for_each(|entry| log.append(entry).unwrap());
    (store, log)
}

fn check_code(result: Result<History>, expected: code::Code, part: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.code(), expected, "{error}");
    assert!(error.message().contains(part), "{error}");
}

#[test]
fn a_new_leader_reads_what_the_old_one_wrote() {
    let (store, _) = log_of([
        published(1),
        published(2),
        Entry::Retired { checkpoint: 1 },
        published(5),
    ]);
    let (log, history) = JobLog::take_over(&store, "second").unwrap();
    assert_eq!((history.generation, log.generation()), (1, 2));
    assert_eq!(numbers(&history.published), [2, 5]);
    assert_eq!(
        (history.next_checkpoint(), history.entries, history.end),
        (6, 5, None)
    );
    assert_eq!(History::read(&store).unwrap(), *log.history());
}

#[test]
fn an_old_leader_is_fenced_for_ever() {
    let (store, mut old) = log_of([published(1)]);
    let (mut new, _) = JobLog::take_over(&store, "second").unwrap();
    let error = old.append(published(2)).unwrap_err();
    assert_eq!(error.code(), code::FENCED);
    assert_eq!(
        error.message(),
        "another process leads the job: `second` wrote entry 3 of its log, TakeOver { generation: 2 }"
    );
    assert!(!old.leads());
    new.append(published(2)).unwrap();
    assert_eq!(old.append(published(3)).unwrap_err().code(), code::FENCED);
    assert_eq!(numbers(&History::read(&store).unwrap().published), [1, 2]);
}

#[test]
fn only_finished_is_for_ever() {
    for (state, expected) in [
        (EndState::Finished, Some(EndState::Finished)),
        (EndState::Canceled, None),
        (EndState::Failed, None),
        (EndState::Stopped, None),
    ] {
        let (store, _) = log_of([Entry::Ended { state }]);
        assert_eq!(History::read(&store).unwrap().end, Some(state));
        let (log, before) = JobLog::take_over(&store, "second").unwrap();
        assert_eq!((before.end, log.history().end), (Some(state), expected));
    }
}

#[test]
fn what_cannot_follow_is_not_written() {
    for entry in [
        published(1),
        Entry::Retired { checkpoint: 9 },
        Entry::TakeOver { generation: 7 },
    ] {
        let (store, mut log) = log_of([published(1)]);
        assert_eq!(log.append(entry).unwrap_err().code(), code::INTERNAL);
        assert!(log.leads());
        assert_eq!(History::read(&store).unwrap().entries, 2);
    }
}

#[test]
fn a_log_that_is_not_whole_is_never_an_empty_start() {
    let (store, _) = log_of([published(1), published(2)]);
    store.delete(&log_path(2)).unwrap();
    check_code(
        History::read(&store),
        code::SNAPSHOT_DAMAGED,
        "it lacks entry 2",
    );
    assert!(JobLog::take_over(&store, "second").is_err());

    let (store, _) = log_of([published(1)]);
    store.put("log/notes", b"x".to_vec()).unwrap();
    check_code(
        History::read(&store),
        code::SNAPSHOT_FOREIGN,
        "`log/notes` does not belong",
    );

    let (store, _) = log_of([]);
    store.put(&log_path(u64::MAX), b"x".to_vec()).unwrap();
    check_code(
        History::read(&store),
        code::SNAPSHOT_DAMAGED,
        "it lacks entry 2",
    );

    let (store, _) = log_of([published(1)]);
    let copy = store.read(&log_path(2)).unwrap().unwrap();
    store.put(&log_path(3), copy).unwrap();
    check_code(
        History::read(&store),
        code::SNAPSHOT_FOREIGN,
        "holds entry 2",
    );
}

#[test]
fn a_damaged_entry_is_never_read() {
    let (store, _) = log_of([published(1)]);
    let whole = store.read(&log_path(2)).unwrap().unwrap();
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1 << (at % 8);
        store.put(&log_path(2), changed).unwrap();
        check_code(
            History::read(&store),
            code::SNAPSHOT_DAMAGED,
            "torn or changed",
        );
        store.put(&log_path(2), whole[..at].to_vec()).unwrap();
        check_code(
            History::read(&store),
            code::SNAPSHOT_DAMAGED,
            "torn or changed",
        );
    }
    let newer = seal(&serde_json::json!({"version": VERSION + 1, "number": 2})).unwrap();
    store.put(&log_path(2), newer).unwrap();
    check_code(
        History::read(&store),
        code::SNAPSHOT_FOREIGN,
        &format!("of version {}", VERSION + 1),
    );
}

#[test]
fn a_leader_that_does_not_know_what_it_wrote_is_none() {
    let objects = Arc::new(InMemory::new());
    let fails = |operation, path: &str| match operation == Operation::Create && path.ends_with('2')
    {
        true => Fault::Refused,
        false => Fault::None,
    };
    let (mut log, _) = JobLog::take_over(
        &Store::impatient(Arc::new(Faulty::new(objects.clone(), fails))),
        "a",
    )
    .unwrap();
    assert_eq!(log.append(published(1)).unwrap_err().code(), code::STORE);
    assert!(!log.leads());
    assert_eq!(log.append(published(1)).unwrap_err().code(), code::FENCED);
    let (_, history) = JobLog::take_over(&Store::impatient(objects), "b").unwrap();
    assert_eq!((history.entries, history.generation), (1, 1));
}

#[test]
fn a_listing_that_fails_is_no_empty_log() {
    let fails = |operation, _: &str| {
        if operation == Operation::List {
            Fault::Refused
        } else {
            Fault::None
        }
    };
    let store = Store::impatient(Arc::new(Faulty::new(Arc::new(InMemory::new()), fails)));
    assert_eq!(
        JobLog::take_over(&store, "a").err().unwrap().code(),
        code::STORE
    );
    assert_eq!(store.read(&log_path(1)).unwrap(), None);
}

#[test]
fn commits_that_are_done_are_told_by_the_next_entry() {
    let (store, mut log) = log_of([published(3)]);
    log.commits_done(3);
    assert_eq!(History::read(&store).unwrap().committed, 0);
    log.append(published(4)).unwrap();
    assert_eq!(History::read(&store).unwrap().committed, 3);
    log.commits_done(u64::MAX);
    log.commits_done(2);
    log.append(Entry::Ended {
        state: EndState::Finished,
    })
    .unwrap();
    let (log, before) = JobLog::take_over(&store, "second").unwrap();
    assert_eq!(
        (
            before.committed,
            log.history().committed,
            log.history().last_checkpoint
        ),
        (4, 4, 4)
    );
}

/// What a summary every `summary_every` entries reads; a number that no log reaches is a log
/// without any.
fn read(store: &Store, summary_every: u64) -> History {
    History::read_with(store, summary_every).unwrap()
}

#[test]
fn a_log_with_summaries_reads_as_one_without() {
    let store = Store::in_memory().unwrap();
    for leader in 1..=5 {
        let (mut log, _) = JobLog::take_over_with(&store, &format!("leader {leader}"), 4).unwrap();
        for _ in 0..leader {
            let checkpoint = log.history().next_checkpoint();
            log.append(published(checkpoint)).unwrap();
            log.commits_done(checkpoint);
            if checkpoint > 1 {
                log.append(Entry::Retired {
                    checkpoint: checkpoint - 1,
                })
                .unwrap();
            }
            assert_eq!(read(&store, 4), read(&store, u64::MAX));
            assert_eq!(read(&store, 4), *log.history());
        }
    }
    assert_eq!(
        (read(&store, 4).job, read(&store, 4).published.len()),
        ("leader 1".to_owned(), 1)
    );
}

#[test]
fn what_stands_before_a_summary_is_not_read() {
    let store = Store::in_memory().unwrap();
    let (mut log, _) = JobLog::take_over_with(&store, "a", 4).unwrap();
    (1..=9).for_each(|checkpoint| log.append(published(checkpoint)).unwrap());
    (1..=7).for_each(|number| drop(store.put(&log_path(number), b"torn".to_vec()).unwrap()));
    assert_eq!(read(&store, 4), *log.history());
    for number in [8, 9, 10] {
        let whole = store.read(&log_path(number)).unwrap().unwrap();
        store
            .put(&log_path(number), whole[..whole.len() - 1].to_vec())
            .unwrap();
        check_code(
            History::read_with(&store, 4),
            code::SNAPSHOT_DAMAGED,
            "torn or changed",
        );
        store.put(&log_path(number), whole).unwrap();
    }
}

#[test]
fn a_log_of_an_older_version_goes_on_with_summaries() {
    let (store, mut old) = log_of((1..=5).map(published));
    assert_eq!(read(&store, 4), *old.history());
    let (mut log, _) = JobLog::take_over_with(&store, "b", 4).unwrap();
    assert_eq!(old.append(published(6)).unwrap_err().code(), code::FENCED);
    (6..=9).for_each(|checkpoint| log.append(published(checkpoint)).unwrap());
    assert_eq!(read(&store, 4), *log.history());
    let bytes = store.read(&log_path(8)).unwrap().unwrap();
    assert_eq!(record(8, &bytes).unwrap().summary.unwrap().entries, 7);
    let entry = Record {
        version: 1,
        number: 8,
        token: "b".into(),
        committed: 0,
        summary: Some(History::default()),
        entry: published(6),
    };
    store.put(&log_path(8), seal(&entry).unwrap()).unwrap();
    let error = History::read_with(&store, 8).unwrap_err();
    assert!(
        error
            .message()
            .contains("of 0 entries, is none of those before it"),
        "{error}"
    );
}

#[test]
fn a_version_that_was_withdrawn_counts_until_another_checkpoint() {
    let (store, mut log) = log_of([published(1), published(2)]);
    let plain = crate::manifest::tests::manifest(&store, SnapshotKind::Checkpoint, 2, 1);
    let before = PluginEntry {
        digest: "d0".into(),
        ..plain.plugins[0].clone()
    };
    let newest = Manifest {
        before: vec![before],
        ..plain
    };
    let now = newest.plugins[0].digest.clone();
    let digest = |log: &JobLog| log.history().components(&newest)[0].digest.clone();
    assert_eq!(digest(&log), now);
    assert_eq!(
        log.append(Entry::RolledBack { checkpoint: 1 })
            .unwrap_err()
            .code(),
        code::INTERNAL
    );
    log.append(Entry::RolledBack { checkpoint: 2 }).unwrap();
    assert_eq!(
        (digest(&log), History::read(&store).unwrap().rolled_back),
        ("d0".to_owned(), 2)
    );
    log.append(published(3)).unwrap();
    assert_eq!(digest(&log), now);
}

#[test]
fn tokens_differ() {
    let tokens: std::collections::BTreeSet<String> = (0..1000).map(|_| unique_token()).collect();
    assert_eq!(tokens.len(), 1000);
}

#[test]
fn a_take_over_behind_a_history_that_has_grown_is_refused() {
    let store = Store::in_memory().unwrap();
    let (mut log, _) = JobLog::take_over(&store, "a").unwrap();
    let looked_at = log.history().clone();
    log.append(Entry::Ended {
        state: EndState::Failed,
    })
    .unwrap();
    assert_eq!(
        JobLog::take_over_after(&store, "b", looked_at)
            .err()
            .unwrap()
            .code(),
        code::FENCED
    );
    let again = History::read(&store).unwrap();
    assert_eq!(
        JobLog::take_over_after(&store, "b", again)
            .unwrap()
            .generation(),
        2
    );
    assert_eq!(
        log.append(Entry::Ended {
            state: EndState::Failed
        })
        .unwrap_err()
        .code(),
        code::FENCED
    );
}

/// Its sinks have left transactions under that name.
#[test]
fn a_job_whose_log_began_with_version_1_is_called_by_the_first_digits_of_its_id() {
    let begun = |version: u32| {
        let (store, _) = log_of([]);
        let path = log_path(1);
        let mut first = record(1, &store.read(&path).unwrap().unwrap()).unwrap();
        first.version = version;
        first.token = "0123456789abcdef".into();
        store.put(&path, seal(&first).unwrap()).unwrap();
        let (mut log, _) = JobLog::take_over_with(&store, "second", 2).unwrap();
        log.append(published(1)).unwrap();
        read(&store, 2)
    };
    let [old, new] = [begun(1), begun(2)];
    assert_eq!((old.id(), new.id()), ("01234567", "0123456789abcdef"));
    assert!(old.called == Called::Short && new.called == Called::Whole);
}
