//! The log of a job: `log/<20 digits>`, numbered from 1 without a gap, each entry written once and
//! never changed or deleted.
//!
//! 1. A leader reads every entry, then takes the next number with its own take-over. From then on
//!    no older leader can write.
//! 2. Publishing a checkpoint is one entry: it is there or it is not, and nobody else can have
//!    taken its number.
//! 3. A leader whose number was taken by another one is fenced, and ends.
//! 4. Every [`SUMMARY_EVERY`]th entry carries what those before it come to, so a reader needs the
//!    newest of these and what follows it.
//! 5. Every entry says up to which checkpoint all commits are done. It rides along with what is
//!    written anyway, so the last word may be missing after a crash: then commits are done again,
//!    which they bear.
//!
//! Invariant: of two leaders at most one gets a number. It rests on the conditional create of the
//! store alone, on no clock and no lease.

use crate::names::{LOG_FOLDER, is_plain, log_number, log_path};
use crate::sealed::{seal, unseal};
use crate::{Creation, Manifest, PluginEntry, SnapshotKind, Store, Stored};
use serde::{Deserialize, Serialize};
use streamrt_types::{Error, Result, code};

/// The newest version of an entry that this code reads, and the one that it writes. A job whose log
/// begins with version 1 is called by the first digits of its id alone, see [`History::id`].
const VERSION: u32 = 2;

/// Digits of an id that the names of transactions had until version 2.
const SHORT_ID: usize = 8;

/// Entries from one summary to the next: with a checkpoint a second some two minutes of them are
/// read one by one.
const SUMMARY_EVERY: u64 = 256;

/// Nobody counts so far. A number beyond it was made up, and reckoning with it would overflow.
pub(crate) const NUMBER_MAX: u64 = 1 << 62;

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
    /// A savepoint of a job that ran on: nothing was committed with it. It belongs to the user, who
    /// may move or delete it; a restart may then go on from what stands before it.
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
    /// The version that this checkpoint names, the newest one, has failed in its probation: the one
    /// before goes on from it.
    RolledBack { checkpoint: u64 },
    /// The job has ended.
    Ended { state: EndState },
}

/// An entry as it stands in the store.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    version: u32,
    number: u64,
    /// The name of the leader that wrote it, so that it knows its own entries again.
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

/// How much of the id of a job stands in the names of its transactions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Called {
    /// In logs that begin with version 1.
    #[default]
    Short,
    Whole,
}

fn is_short(called: &Called) -> bool {
    *called == Called::Short
}

/// What the entries of a log come to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The number of entries, which is also the number of the last one.
    pub entries: u64,
    /// The token of the first leader, by which the job is told from all others; empty if there was
    /// none.
    pub job: String,
    #[serde(default, skip_serializing_if = "is_short")]
    pub called: Called,
    /// The last leader's; 0 if there was none.
    pub generation: u64,
    /// What counts and is not retired, by rising number. What else lies in the store may be
    /// deleted: see [`crate::clean_up`].
    pub published: Vec<Published>,
    /// The last number that was published, retired or not; 0 if there was none.
    pub last_checkpoint: u64,
    /// How the job ended. `Finished` is for ever; the others are over when a new leader takes the
    /// job.
    pub end: Option<EndState>,
    /// The commits of all checkpoints up to this one are done, and are not done again. Those of
    /// later ones may be done as well.
    pub committed: u64,
    /// The checkpoint whose version was withdrawn last; 0 if none was. It matters as long as no
    /// newer one is published.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rolled_back: u64,
    /// The token of the last leader. Empty if there was none, or if a summary by a version that did
    /// not write it is all that is known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub leader: String,
}

impl History {
    /// Reads the log without taking the job over, for inspection. A job that never ran has an empty
    /// history.
    ///
    /// # Errors
    /// `Unavailable` (S7007) if the store does not answer, `Data` (S7001) if an entry is missing or
    /// damaged, `Invalid` (S7002) if one is of a newer version or not from here.
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
            history
                .check(&record.entry)
                .map_err(|error| error.at(log_path(number)))?;
            history.apply(&record);
        }
        Ok(history)
    }

    /// What the entries before `number` come to, if that one says so: an older version wrote none
    /// that does.
    fn summary(store: &Store, number: u64) -> Result<History> {
        let bytes = if number > 0 {
            store.read(&log_path(number))?
        } else {
            None
        };
        let record = bytes.map(|bytes| record(number, &bytes)).transpose()?;
        match record.and_then(|record| record.summary) {
            None => Ok(History::default()),
            Some(summary) if summary.entries == number - 1 && summary.holds_together() => {
                Ok(summary)
            }
            Some(summary) => {
                let message = format!(
                    "the summary in entry {number} of the log, of {} entries, is none of those before it",
                    summary.entries
                );
                Err(Error::new(code::SNAPSHOT_DAMAGED, message))
            }
        }
    }

    /// Whether the numbers are such as a leader writes.
    fn holds_together(&self) -> bool {
        let numbers = || self.published.iter().map(|published| published.checkpoint);
        numbers().is_sorted_by(|a, b| a < b)
            && numbers()
                .chain([self.committed])
                .all(|number| number <= self.last_checkpoint)
            && self.generation.max(self.last_checkpoint) <= NUMBER_MAX
            && is_token(&self.job)
            && (self.leader.is_empty() || is_token(&self.leader))
    }

    /// The components with which the job goes on from what was published last, whose manifest this
    /// is.
    pub fn components<'a>(&self, newest: &'a Manifest) -> &'a [PluginEntry] {
        let is_rolled_back = self.rolled_back > 0
            && self
                .newest()
                .is_some_and(|newest| newest.checkpoint == self.rolled_back);
        if is_rolled_back && !newest.before.is_empty() {
            &newest.before
        } else {
            &newest.plugins
        }
    }

    /// What the job is called in the names of its transactions; empty if it never ran.
    pub fn id(&self) -> &str {
        match self.called {
            Called::Short => &self.job[..self.job.floor_char_boundary(SHORT_ID)],
            Called::Whole => &self.job,
        }
    }

    /// What a restart goes on from: the checkpoint or savepoint that was published last.
    pub fn newest(&self) -> Option<&Published> {
        self.published.last()
    }

    /// All that a restart may go on from, the newest first: the last one, and where it is a
    /// savepoint that may be gone, those before it.
    pub fn restorable(&self) -> impl Iterator<Item = &Published> {
        let committed = self
            .published
            .iter()
            .rposition(|published| !published.uncommitted)
            .unwrap_or(0);
        self.published[committed.min(self.published.len())..]
            .iter()
            .rev()
    }

    /// Like [`History::newest`], but no savepoint: those belong to the user, who may have deleted
    /// or moved them.
    pub fn newest_checkpoint(&self) -> Option<&Published> {
        self.published
            .iter()
            .rfind(|published| published.kind == SnapshotKind::Checkpoint)
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
            Entry::Published(Published { checkpoint, .. }) => {
                self.generation > 0 && (self.last_checkpoint + 1..=NUMBER_MAX).contains(checkpoint)
            }
            Entry::Retired { checkpoint } => self
                .published
                .iter()
                .any(|published| published.checkpoint == *checkpoint),
            Entry::RolledBack { checkpoint } => self
                .newest()
                .is_some_and(|newest| newest.checkpoint == *checkpoint),
            Entry::Ended { .. } => self.generation > 0,
        };
        let error = || {
            Error::new(
                code::SNAPSHOT_DAMAGED,
                format!("the entry {entry:?} cannot follow those before it"),
            )
        };
        if follows { Ok(()) } else { Err(error()) }
    }

    fn apply(&mut self, record: &Record) {
        self.entries += 1;
        self.committed = self
            .committed
            .max(record.committed.min(self.last_checkpoint));
        if self.job.is_empty() {
            record.token.clone_into(&mut self.job);
            self.called = match record.version {
                1 => Called::Short,
                _ => Called::Whole,
            };
        }
        match &record.entry {
            Entry::TakeOver { generation } => {
                self.generation = *generation;
                record.token.clone_into(&mut self.leader);
                self.end = self.end.filter(|end| *end == EndState::Finished);
            }
            Entry::Published(published) => {
                self.last_checkpoint = published.checkpoint;
                self.published.push(published.clone());
            }
            Entry::Retired { checkpoint } => self
                .published
                .retain(|published| published.checkpoint != *checkpoint),
            Entry::RolledBack { checkpoint } => self.rolled_back = *checkpoint,
            Entry::Ended { state } => self.end = Some(*state),
        }
    }
}

/// How many entries that a listing did not show are looked for one by one: another leader may
/// write while it is taken.
const GAPS_MAX: u64 = 1000;

/// The greatest number of a listing, by path.
fn last_entry(listed: &[(String, u64)]) -> Result<u64> {
    let (mut last, mut missing) = (0, 0u64);
    for (path, _) in listed {
        let foreign = || {
            Error::new(
                code::SNAPSHOT_FOREIGN,
                format!("`{path}` does not belong into a job's log"),
            )
        };
        let number = log_number(path)
            .filter(|number| *number > 0)
            .ok_or_else(foreign)?;
        missing = (number - last - 1).saturating_add(missing);
        if missing > GAPS_MAX {
            return Err(gap(number, last + 1));
        }
        last = number;
    }
    Ok(last)
}

fn gap(last: u64, missing: u64) -> Error {
    let message = format!(
        "the log ends with entry {last}, but it lacks entry {missing}: what it published is unknown"
    );
    Error::new(code::SNAPSHOT_DAMAGED, message)
}

fn record(number: u64, bytes: &[u8]) -> Result<Record> {
    let path = log_path(number);
    let record: Record = unseal(&path, "the log entry", bytes, VERSION)?;
    if !is_token(&record.token) {
        return Err(Error::new(
            code::SNAPSHOT_DAMAGED,
            format!("`{path}` names a leader that cannot be"),
        ));
    }
    if record.number == number {
        return Ok(record);
    }
    Err(Error::new(
        code::SNAPSHOT_FOREIGN,
        format!(
            "`{path}` holds entry {}: it was copied or renamed",
            record.number
        ),
    ))
}

/// The first leader's token becomes a part of file names, of names of transactions and of lines in
/// a log.
fn is_token(token: &str) -> bool {
    is_plain(token)
        && token
            .bytes()
            .all(|byte| byte.is_ascii_graphic() || byte == b' ')
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
    /// Makes the caller the leader: reads the whole log, then takes the next number. `token` is the
    /// caller's alone, as from [`crate::unique_token`]. The history is what stood there before.
    ///
    /// # Errors
    /// As [`History::read`]: a log that cannot be read whole is never taken for an empty one.
    /// `Fenced` (S7006) if another one took the job at the same moment.
    pub fn take_over(store: &Store, token: &str) -> Result<(JobLog, History)> {
        JobLog::take_over_with(store, token, SUMMARY_EVERY)
    }

    /// As [`JobLog::take_over`], of a log with a summary every so many entries.
    pub(crate) fn take_over_with(
        store: &Store,
        token: &str,
        summary_every: u64,
    ) -> Result<(JobLog, History)> {
        let before = History::read_with(store, summary_every)?;
        Ok((
            JobLog::follow(store, token, before.clone(), summary_every)?,
            before,
        ))
    }

    /// As [`JobLog::take_over`], after a history that the caller has read and decided by: if the
    /// log has grown since, what was decided may be wrong, and the caller has to read it again.
    ///
    /// # Errors
    /// As [`JobLog::append`]: `Fenced` (S7006) if the log has grown.
    pub fn take_over_after(store: &Store, token: &str, history: History) -> Result<JobLog> {
        JobLog::follow(store, token, history, SUMMARY_EVERY)
    }

    fn follow(store: &Store, token: &str, history: History, summary_every: u64) -> Result<JobLog> {
        let (generation, committed) = (history.generation + 1, history.committed);
        let mut log = JobLog {
            store: store.clone(),
            token: token.to_owned(),
            history,
            leads: true,
            committed,
            summary_every,
        };
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

    /// False once another leader was seen, or once it is unknown whether an entry was written. Then
    /// nothing more can be appended: the job has to end here, and may be taken over anew, which
    /// settles it.
    pub fn leads(&self) -> bool {
        self.leads
    }

    /// Notes that the commits of all checkpoints up to this one are done. The next entry says so;
    /// nothing is written for it alone. Numbers that were not published yet do not count.
    pub fn commits_done(&mut self, checkpoint: u64) {
        self.committed = self
            .committed
            .max(checkpoint.min(self.history.last_checkpoint));
    }

    /// The commits of all checkpoints up to this one are done, as the next entry says.
    pub fn committed(&self) -> u64 {
        self.committed.max(self.history.committed)
    }

    /// Writes the next entry; it is durable when this returns.
    ///
    /// # Errors
    /// S7006 if another leader took the number. S7007 if the store failed: if [`JobLog::leads`]
    /// still holds, nothing was written; otherwise nobody knows. `Internal` if the entry cannot
    /// follow the ones before it.
    pub fn append(&mut self, entry: Entry) -> Result<()> {
        if !self.leads {
            return Err(Error::new(
                code::FENCED,
                "this process does not lead the job any more",
            ));
        }
        self.history
            .check(&entry)
            .map_err(|error| Error::internal(error.message()))?;
        let number = self.history.entries + 1;
        let summary = number
            .is_multiple_of(self.summary_every)
            .then(|| self.history.clone());
        let record = Record {
            version: VERSION,
            number,
            token: self.token.clone(),
            committed: self.committed,
            summary,
            entry,
        };
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
            Ok(Record { token, .. }) if token == self.token => Error::internal(format!(
                "entry {number} of the log was written twice by one leader, with different contents"
            )),
            Ok(Record { token, entry, .. }) => {
                let message = format!(
                    "another process leads the job: `{token}` wrote entry {number} of its log, {entry:?}"
                );
                Error::new(code::FENCED, message)
            }
        }
    }
}

#[cfg(test)]
mod tests;
