//! What is known of jobs beyond the life of a process: `jobs/<id>/<20 digits>`, numbered from 1,
//! each entry written once and never changed.
//!
//! 1. The first entry is the whole specification. A job of which there is one was accepted.
//! 2. Later ones say that it has run, that another version has taken its place, how a user wants it
//!    to end, or how it ended.
//! 3. A job without an end is started again by whoever opens the registry.
//! 4. A job that has ended may be forgotten: its entries are deleted from the first one on, so that
//!    its end is there as long as anything is.
//!
//! Invariant: an entry that cannot be read makes its own job unreadable, which is then named and
//! not started, and no other.

use crate::{Failure, JobId, Specification, Version};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use streamrt_checkpoint::{Creation, EndState, Store, seal, unseal};
use streamrt_types::{Error, Result, code};

const FOLDER: &str = "jobs";

/// The newest version of an entry that this code reads, and the one that it writes.
const VERSION: u32 = 1;

/// What a job had done when it ended, since it was started last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub records_in: u64,
    pub records_out: u64,
    pub late_records: u64,
    pub dead_letters: u64,
    pub elapsed_ms: u64,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    pub state: EndState,
    /// Why, if it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Failure>,
    /// The checkpoint at which it was stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<u64>,
    /// None if it never ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub totals: Option<Totals>,
}

impl End {
    /// Without anything more to say.
    pub fn of(state: EndState) -> End {
        End {
            state,
            reason: None,
            checkpoint: None,
            totals: None,
        }
    }

    pub fn failed(reason: Failure) -> End {
        End {
            reason: Some(reason),
            ..End::of(EndState::Failed)
        }
    }
}

/// What is kept of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Note {
    Submitted(Specification),
    /// It has run.
    Started,
    /// This version has taken the place of the one that ran.
    Upgraded(Version),
    /// A user wants it to end so, whoever carries that out.
    Wanted(EndState),
    /// It is not started again.
    Ended(End),
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    version: u32,
    number: u64,
    /// In ms since the epoch.
    at_ms: i64,
    event: Note,
}

impl Entry {
    pub(crate) fn new(number: u64, at_ms: i64, event: Note) -> Entry {
        Entry {
            version: VERSION,
            number,
            at_ms,
            event,
        }
    }

    pub fn note(&self) -> &Note {
        &self.event
    }

    /// When it came about, in ms since the epoch.
    pub fn at_ms(&self) -> i64 {
        self.at_ms
    }
}

/// What the entries of a job come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// As it was submitted.
    pub specification: Specification,
    /// Whether it has run: its checkpoints are somewhere.
    pub started: bool,
    /// The version that took the first one's place.
    pub upgraded: Option<Version>,
    /// When it was accepted, in ms since the epoch.
    pub submitted_ms: i64,
    /// How a user wants it to end.
    pub wanted: Option<EndState>,
    /// How it ended, and when.
    pub end: Option<(End, i64)>,
    /// The number of the last entry; 0 if there is none yet.
    pub(crate) entries: u64,
}

impl Registered {
    /// A job whose first entry is not written yet.
    pub(crate) fn not_yet(specification: Specification, now_ms: i64) -> Registered {
        Registered {
            specification,
            started: false,
            upgraded: None,
            submitted_ms: now_ms,
            wanted: None,
            end: None,
            entries: 0,
        }
    }

    /// What the next entry says.
    pub(crate) fn apply(&mut self, entry: &Entry) {
        match &entry.event {
            Note::Submitted(_) => {}
            Note::Started => self.started = true,
            Note::Upgraded(version) => self.upgraded = Some(version.clone()),
            Note::Wanted(end) => self.wanted = Some(*end),
            Note::Ended(end) => self.end = Some((end.clone(), entry.at_ms)),
        }
        self.entries = entry.number;
    }

    /// The version that runs, as far as users have said.
    pub fn version(&self) -> &Version {
        self.upgraded
            .as_ref()
            .unwrap_or(&self.specification.version)
    }

    /// What a start is given. That of a component is as it was submitted: its checkpoints say which
    /// component has taken its place, and whether that was withdrawn since. That of a job file is
    /// the newest one, which checkpoints do not keep.
    pub(crate) fn starting(&self) -> Specification {
        let version = match &self.upgraded {
            Some(newer) if newer.job_file.is_some() => newer,
            _ => &self.specification.version,
        };
        Specification {
            version: version.clone(),
            ..self.specification.clone()
        }
    }

    /// All components that it may be started from.
    pub(crate) fn digests(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.specification.version)
            .chain(&self.upgraded)
            .flat_map(|version| &version.components)
            .map(|component| component.digest.as_str())
    }
}

/// See the module.
pub struct Registry {
    store: Store,
}

fn path(id: &JobId, number: u64) -> String {
    format!("{FOLDER}/{id}/{number:020}")
}

/// The job and the number of an entry; none of what is not ours.
fn parse(path: &str) -> Option<(JobId, u64)> {
    let (id, number) = path
        .strip_prefix(FOLDER)?
        .strip_prefix('/')?
        .split_once('/')?;
    let is_number = number.len() == 20 && number.bytes().all(|byte| byte.is_ascii_digit());
    Some((
        JobId::parse(id)?,
        is_number.then(|| number.parse().ok()).flatten()?,
    ))
}

impl Registry {
    pub fn new(store: Store) -> Registry {
        Registry { store }
    }

    /// All jobs, the oldest first; for one whose entries cannot be read, the reason (S7014).
    ///
    /// # Errors
    /// `Unavailable` (S7007) if the store does not answer.
    pub fn jobs(&self) -> Result<Vec<(JobId, Result<Registered>)>> {
        let mut numbers: BTreeMap<JobId, Vec<u64>> = BTreeMap::new();
        for (path, _) in self.store.list(FOLDER)? {
            if let Some((id, number)) = parse(&path) {
                numbers.entry(id).or_default().push(number);
            }
        }
        let mut jobs = Vec::new();
        for (id, numbers) in numbers {
            match self.is_half_forgotten(&id, &numbers) {
                true => self.delete(&id, &numbers)?,
                false => {
                    let registered = self.read(&id, &numbers);
                    jobs.push((id, registered));
                }
            }
        }
        jobs.sort_by_key(|(_, job)| job.as_ref().map_or(0, |job| job.submitted_ms));
        Ok(jobs)
    }

    /// Whether the first entries are gone of a job that has ended.
    fn is_half_forgotten(&self, id: &JobId, numbers: &[u64]) -> bool {
        let (Some(first), Some(last)) = (numbers.first(), numbers.last()) else {
            return false;
        };
        let ended = || {
            let entry = self.entry(&path(id, *last), *last);
            entry.is_ok_and(|entry| matches!(entry.event, Note::Ended(_)))
        };
        *first > 1 && ended()
    }

    fn delete(&self, id: &JobId, numbers: &[u64]) -> Result<()> {
        let mut paths = numbers.iter().map(|number| path(id, *number));
        paths.try_for_each(|path| self.store.delete(&path))
    }

    /// Deletes the first entries of a job that is not known any more.
    ///
    /// # Errors
    /// S7007 if the store failed; of one that has ended, the next one to open the registry deletes
    /// the rest.
    pub fn forget(&self, id: &JobId, entries: u64) -> Result<()> {
        let numbers: Vec<u64> = (1..=entries).collect();
        self.delete(id, &numbers)
    }

    fn read(&self, id: &JobId, numbers: &[u64]) -> Result<Registered> {
        let mut job = None;
        for (&found, expected) in numbers.iter().zip(1..) {
            let path = path(id, expected);
            let unreadable = |why: Error| {
                Error::new(
                    code::REGISTRY_DAMAGED,
                    format!(
                        "the entry `{path}` of {} cannot be read",
                        self.store.location()
                    ),
                )
                .with_source(why)
            };
            if found != expected {
                return Err(unreadable(Error::internal("it is missing")));
            }
            let entry = self.entry(&path, expected).map_err(unreadable)?;
            job = Some(apply(job, entry).map_err(unreadable)?);
        }
        job.ok_or_else(|| Error::internal("a job without an entry was read"))
    }

    fn entry(&self, path: &str, number: u64) -> Result<Entry> {
        let bytes = self
            .store
            .read(path)?
            .ok_or_else(|| Error::internal("it is missing"))?;
        let entry: Entry = unseal(path, "the entry", &bytes, VERSION)?;
        if entry.number == number {
            Ok(entry)
        } else {
            Err(Error::internal(format!(
                "it is the entry {} of some job",
                entry.number
            )))
        }
    }

    /// Writes the next entry of a job. One that was written before, when nobody heard of it, is not
    /// written again.
    ///
    /// # Errors
    /// `Unavailable` (S7007) if the store failed, which may have written it all the same; S7006 if
    /// there is another entry of this number.
    pub fn keep(&self, id: &JobId, entry: &Entry) -> Result<()> {
        let path = path(id, entry.number);
        let bytes = seal(entry)?;
        match self.store.create(&path, bytes)? {
            Creation::Created => Ok(()),
            Creation::Exists(_) => Err(Error::new(
                code::FENCED,
                format!("somebody else has written the entry `{path}`"),
            )),
            Creation::Failed(error) => Err(error),
        }
    }
}

fn apply(job: Option<Registered>, entry: Entry) -> Result<Registered> {
    match (job, &entry.event) {
        (None, Note::Submitted(specification)) => {
            let mut job = Registered::not_yet(specification.clone(), entry.at_ms);
            job.apply(&entry);
            Ok(job)
        }
        (Some(mut job), note) if job.end.is_none() && !matches!(note, Note::Submitted(_)) => {
            job.apply(&entry);
            Ok(job)
        }
        _ => Err(Error::internal(
            "it does not follow from the entries before it",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::specification::tests::specification;

    /// Keeps the next entry, and what it comes to.
    fn keep(registry: &Registry, id: &JobId, job: &mut Registered, at_ms: i64, note: Note) {
        let entry = Entry::new(job.entries + 1, at_ms, note);
        registry.keep(id, &entry).unwrap();
        job.apply(&entry);
    }

    fn submit(registry: &Registry, id: &JobId, job: Specification, at_ms: i64) -> Registered {
        let mut registered = Registered::not_yet(job.clone(), at_ms);
        keep(registry, id, &mut registered, at_ms, Note::Submitted(job));
        registered
    }

    #[test]
    fn a_job_that_has_ended_is_forgotten_even_in_two_goes() {
        let store = Store::in_memory().unwrap();
        let registry = Registry::new(store.clone());
        let (one, two) = (JobId::random(), JobId::random());
        let mut first = submit(&registry, &one, specification("one"), 5);
        let second = submit(&registry, &two, specification("two"), 6);
        let end = Note::Ended(End::of(EndState::Finished));
        keep(&registry, &one, &mut first, 7, end);
        store.delete(&path(&one, 1)).unwrap();
        let known = registry.jobs().unwrap();
        assert!(matches!(&known[..], [(id, Ok(job))] if (id, job) == (&two, &second)));
        assert_eq!(store.list(FOLDER).unwrap().len(), 1);
        // One that runs is not forgotten because an entry is gone.
        store.delete(&path(&two, 1)).unwrap();
        let upgraded = Note::Upgraded(specification("two").version);
        registry.keep(&two, &Entry::new(2, 8, upgraded)).unwrap();
        assert!(registry.jobs().unwrap()[0].1.is_err());
    }

    #[test]
    fn jobs_come_back_with_their_versions_and_ends() {
        let store = Store::in_memory().unwrap();
        let registry = Registry::new(store.clone());
        let (one, two) = (JobId::random(), JobId::random());
        let mut first = submit(&registry, &one, specification("one"), 5);
        let second = submit(&registry, &two, specification("two"), 6);
        let newer = Version {
            file: "b.wasm".into(),
            ..specification("one").version
        };
        let upgraded = Note::Upgraded(newer.clone());
        keep(&registry, &one, &mut first, 7, upgraded);
        let end = End::failed(Failure::from(&Error::new(code::TRAP, "it trapped")));
        keep(&registry, &one, &mut first, 8, Note::Ended(end.clone()));
        let jobs = Registry::new(store).jobs().unwrap();
        let found: Vec<(&JobId, &Registered)> = jobs
            .iter()
            .map(|(id, job)| (id, job.as_ref().unwrap()))
            .collect();
        assert_eq!(found, [(&one, &first), (&two, &second)]);
        assert_eq!(first.version(), &newer);
        assert_eq!(
            first.starting(),
            specification("one"),
            "checkpoints know better"
        );
        assert_eq!(first.end, Some((end, 8)));
    }

    #[test]
    fn an_entry_that_cannot_be_read_concerns_its_job_alone() {
        let store = Store::in_memory().unwrap();
        let registry = Registry::new(store.clone());
        let ids = [JobId::random(), JobId::random(), JobId::random()];
        for id in &ids {
            submit(&registry, id, specification("job"), 5);
        }
        // One is changed by a byte, one begins with its second entry, and one is as it was.
        let mut bytes = store.read(&path(&ids[0], 1)).unwrap().unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        store.put(&path(&ids[0], 1), bytes).unwrap();
        let moved = store.read(&path(&ids[1], 1)).unwrap().unwrap();
        store.delete(&path(&ids[1], 1)).unwrap();
        store.put(&path(&ids[1], 2), moved).unwrap();
        store.put("jobs/notes", b"not ours".to_vec()).unwrap();
        let jobs: BTreeMap<JobId, Result<Registered>> =
            registry.jobs().unwrap().into_iter().collect();
        for id in &ids[..2] {
            let error = jobs[id].as_ref().unwrap_err();
            assert_eq!(error.code(), code::REGISTRY_DAMAGED);
            assert!(error.message().contains(&path(id, 1)), "{error}");
        }
        assert!(jobs.len() == 3 && jobs[&ids[2]].is_ok());
    }

    #[test]
    fn an_entry_is_written_once() {
        let registry = Registry::new(Store::in_memory().unwrap());
        let id = JobId::random();
        submit(&registry, &id, specification("job"), 5);
        let end = |state, at_ms| Entry::new(2, at_ms, Note::Ended(End::of(state)));
        registry.keep(&id, &end(EndState::Stopped, 6)).unwrap();
        registry.keep(&id, &end(EndState::Stopped, 6)).unwrap();
        let late = registry.keep(&id, &end(EndState::Canceled, 7));
        assert_eq!(late.unwrap_err().code(), code::FENCED);
    }
}
