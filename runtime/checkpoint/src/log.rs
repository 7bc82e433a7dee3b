//! The log of a job: `log/<20 digits>`, numbered from 1 without a gap, each entry written once and never changed or deleted.
//!
//! 1. A leader reads every entry, then takes the next number with its own take-over. From then on no older leader can write.
//! 2. Publishing a checkpoint is one entry: it is there or it is not, and nobody else can have taken its number.
//! 3. A leader whose number was taken by another one is fenced, and ends.
//!
//! Invariant: of two leaders at most one gets a number. It rests on the conditional create of the store alone, on no clock and no lease.

use crate::names::{LOG_FOLDER, log_number, log_path};
use crate::sealed::{seal, unseal};
use crate::{Creation, SnapshotKind, Store, Stored};
use serde::{Deserialize, Serialize};
use std::hash::{BuildHasher, RandomState};
use streamrt_types::{Error, Result, code};

/// The newest version of an entry that this code reads, and the one that it writes.
const VERSION: u32 = 1;

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndState {
    Finished,
    Canceled,
    Failed,
}

/// A checkpoint or savepoint that counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The numbers of one job rise.
    pub checkpoint: u64,
    pub kind: SnapshotKind,
    /// The manifest in the job's store, or in that of `location`.
    pub manifest: Stored,
    /// For a savepoint: what [`Store::open`] was given for its folder. None: the job's own store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// A savepoint of a job that ran on: nothing was committed with it. It belongs to the user, who may move or delete it; a restart may then
    /// go on from what stands before it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub uncommitted: bool,
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entry {
    /// A new leader; generations rise by one.
    TakeOver { generation: u64 },
    /// The commit point of a checkpoint.
    Published(Published),
    /// The checkpoint may be deleted, and nobody may start from it any more.
    Retired { checkpoint: u64 },
    /// The job has ended.
    Ended { state: EndState },
}

/// An entry as it stands in the store.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    version: u32,
    number: u64,
    /// Of the leader that wrote it, so that it knows its own entries again.
    token: String,
    entry: Entry,
}

/// What the entries of a log come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// The number of entries, which is also the number of the last one.
    pub entries: u64,
    /// The token of the first leader, by which the job is told from all others; empty if there was none.
    pub job: String,
    /// The last leader's; 0 if there was none.
    pub generation: u64,
    /// What counts and is not retired, by rising number. What else lies in the store may be deleted: see [`crate::clean_up`].
    pub published: Vec<Published>,
    /// The last number that was published, retired or not; 0 if there was none.
    pub last_checkpoint: u64,
    /// How the job ended. `Finished` is for ever; the others are over when a new leader takes the job.
    pub end: Option<EndState>,
}

impl History {
    /// Reads the log without taking the job over, for inspection. A job that never ran has an empty history.
    ///
    /// # Errors
    /// `Unavailable` (S7007) if the store does not answer, `Data` (S7001) if an entry is missing or damaged, `Invalid` (S7002) if one
    /// is of a newer version or not from here.
    pub fn read(store: &Store) -> Result<History> {
        let last = last_entry(&store.list(LOG_FOLDER)?)?;
        let paths: Vec<String> = (1..=last).map(log_path).collect();
        let mut history = History::default();
        for (number, bytes) in (1..).zip(store.read_all(&paths)?) {
            let Record { token, entry, .. } = record(number, &bytes.ok_or_else(|| gap(last, number))?)?;
            history.check(&entry).map_err(|error| error.at(log_path(number)))?;
            history.apply(&token, entry);
        }
        Ok(history)
    }

    /// What a restart goes on from: the checkpoint or savepoint that was published last.
    pub fn newest(&self) -> Option<&Published> {
        self.published.last()
    }

    /// All that a restart may go on from, the newest first: the last one, and where it is a savepoint that may be gone, those before it.
    pub fn restorable(&self) -> impl Iterator<Item = &Published> {
        let committed = self.published.iter().rposition(|published| !published.uncommitted).unwrap_or(0);
        self.published[committed.min(self.published.len())..].iter().rev()
    }

    /// Like [`History::newest`], but no savepoint: those belong to the user, who may have deleted or moved them.
    pub fn newest_checkpoint(&self) -> Option<&Published> {
        self.published.iter().rfind(|published| published.kind == SnapshotKind::Checkpoint)
    }

    /// The first number that no published checkpoint has had.
    pub fn next_checkpoint(&self) -> u64 {
        self.last_checkpoint + 1
    }

    /// # Errors
    /// `Data` if the entry cannot follow what stands before it.
    fn check(&self, entry: &Entry) -> Result<()> {
        let follows = match entry {
            Entry::TakeOver { generation } => *generation == self.generation + 1,
            Entry::Published(published) => self.generation > 0 && published.checkpoint > self.last_checkpoint,
            Entry::Retired { checkpoint } => self.published.iter().any(|published| published.checkpoint == *checkpoint),
            Entry::Ended { .. } => self.generation > 0,
        };
        let error = || Error::new(code::SNAPSHOT_DAMAGED, format!("the entry {entry:?} cannot follow those before it"));
        if follows { Ok(()) } else { Err(error()) }
    }

    fn apply(&mut self, token: &str, entry: Entry) {
        self.entries += 1;
        if self.job.is_empty() {
            token.clone_into(&mut self.job);
        }
        match entry {
            Entry::TakeOver { generation } => {
                self.generation = generation;
                self.end = self.end.filter(|end| *end == EndState::Finished);
            }
            Entry::Published(published) => {
                self.last_checkpoint = published.checkpoint;
                self.published.push(published);
            }
            Entry::Retired { checkpoint } => self.published.retain(|published| published.checkpoint != checkpoint),
            Entry::Ended { state } => self.end = Some(state),
        }
    }
}

/// So many entries that a listing did not show are looked for one by one: another leader may write while it is taken.
const GAPS_MAX: u64 = 1000;

/// The greatest number of a listing, by path.
fn last_entry(listed: &[(String, u64)]) -> Result<u64> {
    let (mut last, mut missing) = (0, 0);
    for (path, _) in listed {
        let foreign = || Error::new(code::SNAPSHOT_FOREIGN, format!("`{path}` does not belong into a job's log"));
        let number = log_number(path).filter(|number| *number > 0).ok_or_else(foreign)?;
        missing += number - last - 1;
        if missing > GAPS_MAX {
            return Err(gap(number, last + 1));
        }
        last = number;
    }
    Ok(last)
}

fn gap(last: u64, missing: u64) -> Error {
    let message = format!("the log ends with entry {last}, but it lacks entry {missing}: what it published is unknown");
    Error::new(code::SNAPSHOT_DAMAGED, message)
}

fn record(number: u64, bytes: &[u8]) -> Result<Record> {
    let path = log_path(number);
    let record: Record = unseal(&path, "the log entry", bytes, VERSION)?;
    if record.number == number {
        return Ok(record);
    }
    Err(Error::new(code::SNAPSHOT_FOREIGN, format!("`{path}` holds entry {}: it was copied or renamed", record.number)))
}

/// The right to write a job's log, until another leader takes it.
pub struct JobLog {
    store: Store,
    token: String,
    history: History,
    leads: bool,
}

impl JobLog {
    /// Makes the caller the leader: reads the whole log, then takes the next number. `token` is the caller's alone, as from
    /// [`unique_token`]. The history is what stood there before.
    ///
    /// # Errors
    /// As [`History::read`]: a log that cannot be read whole is never taken for an empty one. `Fenced` (S7006) if another one took the
    /// job at the same moment.
    pub fn take_over(store: &Store, token: &str) -> Result<(JobLog, History)> {
        let before = History::read(store)?;
        let mut log = JobLog { store: store.clone(), token: token.to_owned(), history: before.clone(), leads: true };
        log.append(Entry::TakeOver { generation: before.generation + 1 })?;
        Ok((log, before))
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Number of this leader; the first has 1.
    pub fn generation(&self) -> u64 {
        self.history.generation
    }

    /// With everything that this leader wrote.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// False once another leader was seen, or once it is unknown whether an entry was written. Then nothing more can be appended: the
    /// job has to end here, and may be taken over anew, which settles it.
    pub fn leads(&self) -> bool {
        self.leads
    }

    /// Writes the next entry; it is durable when this returns.
    ///
    /// # Errors
    /// S7006 if another leader took the number. S7007 if the store failed: if [`JobLog::leads`] still holds, nothing was written;
    /// otherwise nobody knows. `Internal` if the entry cannot follow the ones before it.
    pub fn append(&mut self, entry: Entry) -> Result<()> {
        if !self.leads {
            return Err(Error::new(code::FENCED, "this process does not lead the job any more"));
        }
        self.history.check(&entry).map_err(|error| Error::internal(error.message()))?;
        let record = Record { version: VERSION, number: self.history.entries + 1, token: self.token.clone(), entry };
        let created = self.store.create(&log_path(record.number), seal(&record)?);
        self.leads = matches!(created, Ok(Creation::Created | Creation::Failed(_)));
        match created? {
            Creation::Created => self.history.apply(&record.token, record.entry),
            Creation::Exists(bytes) => return Err(self.fenced(record.number, &bytes)),
            Creation::Failed(error) => return Err(error),
        }
        Ok(())
    }

    fn fenced(&self, number: u64, bytes: &[u8]) -> Error {
        match record(number, bytes) {
            Err(error) => error,
            Ok(Record { token, .. }) if token == self.token => {
                Error::internal(format!("entry {number} of the log was written twice by one leader, with different contents"))
            }
            Ok(Record { token, entry, .. }) => {
                let message = format!("another process leads the job: `{token}` wrote entry {number} of its log, {entry:?}");
                Error::new(code::FENCED, message)
            }
        }
    }
}

/// A name that no other leader has: 32 hexadecimal digits out of the seeds that the operating system gives to hash tables.
pub fn unique_token() -> String {
    let half = || RandomState::new().hash_one(std::process::id());
    format!("{:016x}{:016x}", half(), half())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::faulty::{Fault, Faulty, Operation};
    use object_store::memory::InMemory;
    use std::sync::Arc;

    fn published(checkpoint: u64) -> Entry {
        let manifest = Stored { path: format!("chk-{checkpoint}/manifest-1.json"), bytes: 1, checksum: "c".into() };
        Entry::Published(Published { checkpoint, kind: SnapshotKind::Checkpoint, manifest, location: None, uncommitted: false })
    }

    fn numbers(published: &[Published]) -> Vec<u64> {
        published.iter().map(|published| published.checkpoint).collect()
    }

    fn log_of(entries: impl IntoIterator<Item = Entry>) -> (Store, JobLog) {
        let store = Store::in_memory().unwrap();
        let (mut log, _) = JobLog::take_over(&store, "first").unwrap();
        entries.into_iter().for_each(|entry| log.append(entry).unwrap());
        (store, log)
    }

    fn check_code(result: Result<History>, expected: code::Code, part: &str) {
        let error = result.unwrap_err();
        assert_eq!(error.code(), expected, "{error}");
        assert!(error.message().contains(part), "{error}");
    }

    #[test]
    fn a_new_leader_reads_what_the_old_one_wrote() {
        let (store, _) = log_of([published(1), published(2), Entry::Retired { checkpoint: 1 }, published(5)]);
        let (log, history) = JobLog::take_over(&store, "second").unwrap();
        assert_eq!((history.generation, log.generation()), (1, 2));
        assert_eq!(numbers(&history.published), [2, 5]);
        assert_eq!((history.next_checkpoint(), history.entries, history.end), (6, 5, None));
        assert_eq!(History::read(&store).unwrap(), *log.history());
    }

    #[test]
    fn an_old_leader_is_fenced_for_ever() {
        let (store, mut old) = log_of([published(1)]);
        let (mut new, _) = JobLog::take_over(&store, "second").unwrap();
        let error = old.append(published(2)).unwrap_err();
        assert_eq!(error.code(), code::FENCED);
        assert_eq!(error.message(), "another process leads the job: `second` wrote entry 3 of its log, TakeOver { generation: 2 }");
        assert!(!old.leads());
        new.append(published(2)).unwrap();
        assert_eq!(old.append(published(3)).unwrap_err().code(), code::FENCED);
        assert_eq!(numbers(&History::read(&store).unwrap().published), [1, 2]);
    }

    #[test]
    fn only_finished_is_for_ever() {
        for (state, expected) in [(EndState::Finished, Some(EndState::Finished)), (EndState::Canceled, None), (EndState::Failed, None)] {
            let (store, _) = log_of([Entry::Ended { state }]);
            assert_eq!(History::read(&store).unwrap().end, Some(state));
            let (log, before) = JobLog::take_over(&store, "second").unwrap();
            assert_eq!((before.end, log.history().end), (Some(state), expected));
        }
    }

    #[test]
    fn what_cannot_follow_is_not_written() {
        for entry in [published(1), Entry::Retired { checkpoint: 9 }, Entry::TakeOver { generation: 7 }] {
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
        check_code(History::read(&store), code::SNAPSHOT_DAMAGED, "it lacks entry 2");
        assert!(JobLog::take_over(&store, "second").is_err());

        let (store, _) = log_of([published(1)]);
        store.put("log/notes", b"x".to_vec()).unwrap();
        check_code(History::read(&store), code::SNAPSHOT_FOREIGN, "`log/notes` does not belong");

        let (store, _) = log_of([]);
        store.put(&log_path(u64::MAX), b"x".to_vec()).unwrap();
        check_code(History::read(&store), code::SNAPSHOT_DAMAGED, "it lacks entry 2");

        let (store, _) = log_of([published(1)]);
        let copy = store.read(&log_path(2)).unwrap().unwrap();
        store.put(&log_path(3), copy).unwrap();
        check_code(History::read(&store), code::SNAPSHOT_FOREIGN, "holds entry 2");
    }

    #[test]
    fn a_damaged_entry_is_never_read() {
        let (store, _) = log_of([published(1)]);
        let whole = store.read(&log_path(2)).unwrap().unwrap();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1 << (at % 8);
            store.put(&log_path(2), changed).unwrap();
            check_code(History::read(&store), code::SNAPSHOT_DAMAGED, "torn or changed");
            store.put(&log_path(2), whole[..at].to_vec()).unwrap();
            check_code(History::read(&store), code::SNAPSHOT_DAMAGED, "torn or changed");
        }
        let newer = seal(&serde_json::json!({"version": 2, "number": 2})).unwrap();
        store.put(&log_path(2), newer).unwrap();
        check_code(History::read(&store), code::SNAPSHOT_FOREIGN, "of version 2");
    }

    #[test]
    fn a_leader_that_does_not_know_what_it_wrote_is_none() {
        let objects = Arc::new(InMemory::new());
        let fails = |operation, path: &str| match operation == Operation::Create && path.ends_with('2') {
            true => Fault::Refused,
            false => Fault::None,
        };
        let (mut log, _) = JobLog::take_over(&Store::impatient(Arc::new(Faulty::new(objects.clone(), fails))), "a").unwrap();
        assert_eq!(log.append(published(1)).unwrap_err().code(), code::STORE);
        assert!(!log.leads());
        assert_eq!(log.append(published(1)).unwrap_err().code(), code::FENCED);
        let (_, history) = JobLog::take_over(&Store::impatient(objects), "b").unwrap();
        assert_eq!((history.entries, history.generation), (1, 1));
    }

    #[test]
    fn a_listing_that_fails_is_no_empty_log() {
        let fails = |operation, _: &str| if operation == Operation::List { Fault::Refused } else { Fault::None };
        let store = Store::impatient(Arc::new(Faulty::new(Arc::new(InMemory::new()), fails)));
        assert_eq!(JobLog::take_over(&store, "a").err().unwrap().code(), code::STORE);
        assert_eq!(store.read(&log_path(1)).unwrap(), None);
    }

    #[test]
    fn tokens_differ() {
        let tokens: std::collections::BTreeSet<String> = (0..1000).map(|_| unique_token()).collect();
        assert_eq!(tokens.len(), 1000);
    }
}
