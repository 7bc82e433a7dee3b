//! What is known of jobs beyond the life of a process: `jobs/<id>/<20 digits>`, numbered from 1,
//! each entry written once and never changed.
//!
//! 1. The first entry is the whole specification. A job of which there is one was accepted.
//! 2. Later ones say that it has run, that another version has taken its place, or how it ended.
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

    pub fn failed(error: &Error) -> End {
        End {
            reason: Some(error.into()),
            ..End::of(EndState::Failed)
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Event {
    Submitted(Specification),
    Started,
    Upgraded(Version),
    Ended(End),
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    version: u32,
    number: u64,
    /// In ms since the epoch.
    at_ms: i64,
    event: Event,
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
    /// How it ended, and when.
    pub end: Option<(End, i64)>,
    /// The number of the last entry.
    entries: u64,
}

impl Registered {
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

    /// All jobs, the oldest first. Of one whose entries cannot be read, the reason (S7014).
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
            entry.is_ok_and(|entry| matches!(entry.event, Event::Ended(_)))
        };
        *first > 1 && ended()
    }

    fn delete(&self, id: &JobId, numbers: &[u64]) -> Result<()> {
        let mut paths = numbers.iter().map(|number| path(id, *number));
        paths.try_for_each(|path| self.store.delete(&path))
    }

    /// Deletes what is known of a job that has ended.
    ///
    /// # Errors
    /// `Internal` if it has not ended, S7007 if the store failed; the next one to open the registry
    /// deletes the rest.
    pub fn forget(&self, id: &JobId, job: &Registered) -> Result<()> {
        if job.end.is_none() {
            return Err(Error::internal("a job that has not ended is forgotten"));
        }
        let numbers: Vec<u64> = (1..=job.entries).collect();
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

    /// Accepts a job: from then on it is started again until it has ended.
    ///
    /// # Errors
    /// `Unavailable` (S7007) if the store failed.
    pub fn submit(
        &self,
        id: &JobId,
        specification: Specification,
        now_ms: i64,
    ) -> Result<Registered> {
        self.write(id, 1, now_ms, Event::Submitted(specification.clone()))?;
        Ok(Registered {
            specification,
            started: false,
            upgraded: None,
            submitted_ms: now_ms,
            end: None,
            entries: 1,
        })
    }

    /// The job runs for the first time.
    ///
    /// # Errors
    /// As [`Registry::submit`].
    pub fn started(&self, id: &JobId, job: &mut Registered, now_ms: i64) -> Result<()> {
        self.write(id, job.entries + 1, now_ms, Event::Started)?;
        job.entries += 1;
        job.started = true;
        Ok(())
    }

    /// Another version has taken the place of the one that ran.
    ///
    /// # Errors
    /// As [`Registry::submit`].
    pub fn upgraded(
        &self,
        id: &JobId,
        job: &mut Registered,
        version: Version,
        now_ms: i64,
    ) -> Result<()> {
        self.write(
            id,
            job.entries + 1,
            now_ms,
            Event::Upgraded(version.clone()),
        )?;
        job.entries += 1;
        job.upgraded = Some(version);
        Ok(())
    }

    /// The job has ended, and is not started again.
    ///
    /// # Errors
    /// As [`Registry::submit`].
    pub fn ended(&self, id: &JobId, job: &mut Registered, end: End, now_ms: i64) -> Result<()> {
        self.write(id, job.entries + 1, now_ms, Event::Ended(end.clone()))?;
        job.entries += 1;
        job.end = Some((end, now_ms));
        Ok(())
    }

    fn write(&self, id: &JobId, number: u64, at_ms: i64, event: Event) -> Result<()> {
        let path = path(id, number);
        let bytes = seal(&Entry {
            version: VERSION,
            number,
            at_ms,
            event,
        })?;
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
    let wrong = || Error::internal("it does not follow from the entries before it");
    match (job, entry.event) {
        (None, Event::Submitted(specification)) => Ok(Registered {
            specification,
            started: false,
            upgraded: None,
            submitted_ms: entry.at_ms,
            end: None,
            entries: 1,
        }),
        (Some(mut job), event) if job.end.is_none() => {
            match event {
                Event::Submitted(_) => return Err(wrong()),
                Event::Started => job.started = true,
                Event::Upgraded(version) => job.upgraded = Some(version),
                Event::Ended(end) => job.end = Some((end, entry.at_ms)),
            }
            job.entries = entry.number;
            Ok(job)
        }
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::specification::tests::specification;

    #[test]
    fn a_job_that_has_ended_is_forgotten_even_in_two_goes() {
        let store = Store::in_memory().unwrap();
        let registry = Registry::new(store.clone());
        let (one, two) = (JobId::random(), JobId::random());
        let mut first = registry.submit(&one, specification("one"), 5).unwrap();
        let second = registry.submit(&two, specification("two"), 6).unwrap();
        let running = registry.forget(&one, &first).unwrap_err();
        assert!(running.message().contains("has not ended"), "{running}");
        let end = End::of(EndState::Finished);
        registry.ended(&one, &mut first, end, 7).unwrap();
        store.delete(&path(&one, 1)).unwrap();
        let known = registry.jobs().unwrap();
        assert!(matches!(&known[..], [(id, Ok(job))] if (id, job) == (&two, &second)));
        assert_eq!(store.list(FOLDER).unwrap().len(), 1);
        // One that runs is not forgotten because an entry is gone.
        store.delete(&path(&two, 1)).unwrap();
        registry
            .write(&two, 2, 8, Event::Upgraded(specification("two").version))
            .unwrap();
        assert!(registry.jobs().unwrap()[0].1.is_err());
    }

    #[test]
    fn jobs_come_back_with_their_versions_and_ends() {
        let store = Store::in_memory().unwrap();
        let registry = Registry::new(store.clone());
        let (one, two) = (JobId::random(), JobId::random());
        let mut first = registry.submit(&one, specification("one"), 5).unwrap();
        let second = registry.submit(&two, specification("two"), 6).unwrap();
        let newer = Version {
            file: "b.wasm".into(),
            ..specification("one").version
        };
        registry
            .upgraded(&one, &mut first, newer.clone(), 7)
            .unwrap();
        let end = End::failed(&Error::new(code::TRAP, "it trapped"));
        registry.ended(&one, &mut first, end.clone(), 8).unwrap();
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
            registry.submit(id, specification("job"), 5).unwrap();
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
        let mut job = registry.submit(&id, specification("job"), 5).unwrap();
        let mut other = job.clone();
        registry
            .ended(&id, &mut job, End::of(EndState::Stopped), 6)
            .unwrap();
        let late = registry.ended(&id, &mut other, End::of(EndState::Canceled), 7);
        assert_eq!(late.unwrap_err().code(), code::FENCED);
        assert_eq!(other.end, None);
    }
}
