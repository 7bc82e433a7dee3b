//! The log of a job: `log/<20 digits>`, numbered from 1 without a gap, each entry written once and never changed or deleted.
//!
//! 1. A leader reads every entry, then takes the next number with its own take-over. From then on no older leader can write.
//! 2. Publishing a checkpoint is one entry: it is there or it is not, and nobody else can have taken its number.
//! 3. A leader whose number was taken by another one is fenced, and ends.
//! 4. Every [`SUMMARY_EVERY`]th entry carries what those before it come to, so a reader needs the newest of these and what follows it.
//! 5. Every entry says up to which checkpoint all commits are done. It rides along with what is written anyway, so the last word may be
//!    missing after a crash: then commits are done again, which they bear.
//!
//! Invariant: of two leaders at most one gets a number. It rests on the conditional create of the store alone, on no clock and no lease.

use crate::names::{LOG_FOLDER, log_number, log_path};
use crate::sealed::{seal, unseal};
use crate::{Creation, Manifest, PluginEntry, SnapshotKind, Store, Stored};
use serde::{Deserialize, Serialize};
use std::hash::{BuildHasher, RandomState};
use streamrt_types::{Error, Result, code};

/// The newest version of an entry that this code reads, and the one that it writes.
const VERSION: u32 = 1;

/// Entries from one summary to the next: with a checkpoint a second some two minutes of them are read one by one.
const SUMMARY_EVERY: u64 = 256;

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndState {
    Finished,
    Canceled,
    Failed,
    /// With a checkpoint from which it goes on when it is started again.
    Stopped,
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
    /// The version that this checkpoint names, the newest one, has failed in its probation: the one before goes on from it.
    RolledBack { checkpoint: u64 },
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
    /// The commits of all checkpoints up to this one are done; 0 if that is not known of any.
    #[serde(default, skip_serializing_if = "is_zero")]
    committed: u64,
    /// What the entries before this one come to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    summary: Option<History>,
    entry: Entry,
}

fn is_zero(checkpoint: &u64) -> bool {
    *checkpoint == 0
}

/// What the entries of a log come to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// The commits of all checkpoints up to this one are done, and are not done again. Those of later ones may be done as well.
    pub committed: u64,
    /// The checkpoint whose version was withdrawn last; 0 if none was. It matters as long as no newer one is published.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rolled_back: u64,
}

impl History {
    /// Reads the log without taking the job over, for inspection. A job that never ran has an empty history.
    ///
    /// # Errors
    /// `Unavailable` (S7007) if the store does not answer, `Data` (S7001) if an entry is missing or damaged, `Invalid` (S7002) if one
    /// is of a newer version or not from here.
    pub fn read(store: &Store) -> Result<History> {
        History::read_with(store, SUMMARY_EVERY)
    }

    /// As [`History::read`], of a log with a summary every so many entries.
    pub(crate) fn read_with(store: &Store, summary_every: u64) -> Result<History> {
        let last = last_entry(&store.list(LOG_FOLDER)?)?;
        let mut history = History::summary(store, last - last % summary_every)?;
        let first = history.entries + 1;
        let paths: Vec<String> = (first..=last).map(log_path).collect();
        for (number, bytes) in (first..).zip(store.read_all(&paths)?) {
            let record = record(number, &bytes.ok_or_else(|| gap(last, number))?)?;
            history.check(&record.entry).map_err(|error| error.at(log_path(number)))?;
            history.apply(&record);
        }
        Ok(history)
    }

    /// What the entries before `number` come to, if that one says so: an older version wrote none that does.
    fn summary(store: &Store, number: u64) -> Result<History> {
        let bytes = if number > 0 { store.read(&log_path(number))? } else { None };
        let record = bytes.map(|bytes| record(number, &bytes)).transpose()?;
        match record.and_then(|record| record.summary) {
            None => Ok(History::default()),
            Some(summary) if summary.entries + 1 == number => Ok(summary),
            Some(summary) => {
                let message = format!("the summary in entry {number} of the log ends with entry {}", summary.entries);
                Err(Error::new(code::SNAPSHOT_DAMAGED, message))
            }
        }
    }

    /// The components with which the job goes on from what was published last, whose manifest this is.
    pub fn components<'a>(&self, newest: &'a Manifest) -> &'a [PluginEntry] {
        let is_rolled_back = self.rolled_back > 0 && self.newest().is_some_and(|newest| newest.checkpoint == self.rolled_back);
        if is_rolled_back && !newest.before.is_empty() { &newest.before } else { &newest.plugins }
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
            Entry::RolledBack { checkpoint } => self.newest().is_some_and(|newest| newest.checkpoint == *checkpoint),
            Entry::Ended { .. } => self.generation > 0,
        };
        let error = || Error::new(code::SNAPSHOT_DAMAGED, format!("the entry {entry:?} cannot follow those before it"));
        if follows { Ok(()) } else { Err(error()) }
    }

    fn apply(&mut self, record: &Record) {
        self.entries += 1;
        self.committed = self.committed.max(record.committed);
        if self.job.is_empty() {
            record.token.clone_into(&mut self.job);
        }
        match &record.entry {
            Entry::TakeOver { generation } => {
                self.generation = *generation;
                self.end = self.end.filter(|end| *end == EndState::Finished);
            }
            Entry::Published(published) => {
                self.last_checkpoint = published.checkpoint;
                self.published.push(published.clone());
            }
            Entry::Retired { checkpoint } => self.published.retain(|published| published.checkpoint != *checkpoint),
            Entry::RolledBack { checkpoint } => self.rolled_back = *checkpoint,
            Entry::Ended { state } => self.end = Some(*state),
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
    /// See [`JobLog::commits_done`].
    committed: u64,
    summary_every: u64,
}

impl JobLog {
    /// Makes the caller the leader: reads the whole log, then takes the next number. `token` is the caller's alone, as from
    /// [`unique_token`]. The history is what stood there before.
    ///
    /// # Errors
    /// As [`History::read`]: a log that cannot be read whole is never taken for an empty one. `Fenced` (S7006) if another one took the
    /// job at the same moment.
    pub fn take_over(store: &Store, token: &str) -> Result<(JobLog, History)> {
        JobLog::take_over_with(store, token, SUMMARY_EVERY)
    }

    /// As [`JobLog::take_over`], of a log with a summary every so many entries.
    pub(crate) fn take_over_with(store: &Store, token: &str, summary_every: u64) -> Result<(JobLog, History)> {
        let before = History::read_with(store, summary_every)?;
        Ok((JobLog::follow(store, token, before.clone(), summary_every)?, before))
    }

    /// As [`JobLog::take_over`], behind a history that the caller has read and decided by: if the log has grown since, what was decided may
    /// be wrong, and the caller has to read it again.
    ///
    /// # Errors
    /// As [`JobLog::append`]: `Fenced` (S7006) if the log has grown.
    pub fn take_over_after(store: &Store, token: &str, history: History) -> Result<JobLog> {
        JobLog::follow(store, token, history, SUMMARY_EVERY)
    }

    fn follow(store: &Store, token: &str, history: History, summary_every: u64) -> Result<JobLog> {
        let (generation, committed) = (history.generation + 1, history.committed);
        let mut log = JobLog { store: store.clone(), token: token.to_owned(), history, leads: true, committed, summary_every };
        log.append(Entry::TakeOver { generation })?;
        Ok(log)
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

    /// Notes that the commits of all checkpoints up to this one are done. The next entry says so; nothing is written for it alone. Numbers
    /// that were not published yet do not count.
    pub fn commits_done(&mut self, checkpoint: u64) {
        self.committed = self.committed.max(checkpoint.min(self.history.last_checkpoint));
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
        let number = self.history.entries + 1;
        let summary = number.is_multiple_of(self.summary_every).then(|| self.history.clone());
        let record = Record { version: VERSION, number, token: self.token.clone(), committed: self.committed, summary, entry };
        let created = self.store.create(&log_path(record.number), seal(&record)?);
        self.leads = matches!(created, Ok(Creation::Created | Creation::Failed(_)));
        match created? {
            Creation::Created => self.history.apply(&record),
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
    fn commits_that_are_done_are_told_by_the_next_entry() {
        let (store, mut log) = log_of([published(3)]);
        log.commits_done(3);
        assert_eq!(History::read(&store).unwrap().committed, 0);
        log.append(published(4)).unwrap();
        assert_eq!(History::read(&store).unwrap().committed, 3);
        log.commits_done(u64::MAX);
        log.commits_done(2);
        log.append(Entry::Ended { state: EndState::Finished }).unwrap();
        let (log, before) = JobLog::take_over(&store, "second").unwrap();
        assert_eq!((before.committed, log.history().committed, log.history().last_checkpoint), (4, 4, 4));
    }

    /// What a summary every `summary_every` entries reads; a number that no log reaches is a log without any.
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
                    log.append(Entry::Retired { checkpoint: checkpoint - 1 }).unwrap();
                }
                assert_eq!(read(&store, 4), read(&store, u64::MAX));
                assert_eq!(read(&store, 4), *log.history());
            }
        }
        assert_eq!((read(&store, 4).job, read(&store, 4).published.len()), ("leader 1".to_owned(), 1));
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
            store.put(&log_path(number), whole[..whole.len() - 1].to_vec()).unwrap();
            check_code(History::read_with(&store, 4), code::SNAPSHOT_DAMAGED, "torn or changed");
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
        let entry =
            Record { version: 1, number: 8, token: "b".into(), committed: 0, summary: Some(History::default()), entry: published(6) };
        store.put(&log_path(8), seal(&entry).unwrap()).unwrap();
        let error = History::read_with(&store, 8).unwrap_err();
        assert!(error.message().contains("ends with entry 0"), "{error}");
    }

    #[test]
    fn a_version_that_was_withdrawn_counts_until_another_checkpoint() {
        let (store, mut log) = log_of([published(1), published(2)]);
        let plain = crate::manifest::tests::manifest(&store, SnapshotKind::Checkpoint, 2, 1);
        let before = PluginEntry { digest: "d0".into(), ..plain.plugins[0].clone() };
        let newest = Manifest { before: vec![before], ..plain };
        let digest = |log: &JobLog| log.history().components(&newest)[0].digest.clone();
        assert_eq!(digest(&log), "d1");
        assert_eq!(log.append(Entry::RolledBack { checkpoint: 1 }).unwrap_err().code(), code::INTERNAL);
        log.append(Entry::RolledBack { checkpoint: 2 }).unwrap();
        assert_eq!((digest(&log), History::read(&store).unwrap().rolled_back), ("d0".to_owned(), 2));
        log.append(published(3)).unwrap();
        assert_eq!(digest(&log), "d1");
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
        log.append(Entry::Ended { state: EndState::Failed }).unwrap();
        assert_eq!(JobLog::take_over_after(&store, "b", looked_at).err().unwrap().code(), code::FENCED);
        let again = History::read(&store).unwrap();
        assert_eq!(JobLog::take_over_after(&store, "b", again).unwrap().generation(), 2);
        assert_eq!(log.append(Entry::Ended { state: EndState::Failed }).unwrap_err().code(), code::FENCED);
    }
}
