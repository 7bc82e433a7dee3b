//! Deleting what nobody needs, in two phases: the log says first that a checkpoint is retired, then
//! its objects go.
//!
//! What may go is found by reachability: everything below `chk-*/` that no published and unretired
//! manifest refers to. Never by age, and never what a newer leader may have written: the generation
//! is in every name. So a leader that was superseded without knowing deletes nothing that counts,
//! however late its deletion arrives. Savepoints, components and the log are never touched.

use crate::names::{LOG_FOLDER, PLUGIN_FOLDER, SAVEPOINT_MANIFEST, checkpoint_of, origin_of};
use crate::store::Condition;
use crate::{Entry, History, JobLog, Manifest, Published, Snapshot, Store, Stored};
use std::collections::BTreeSet;
use streamrt_types::{Error, Result, code, failpoint};

/// Retires a published checkpoint: its log entry, then its objects and those of aborted checkpoints
/// before it. An object that a retained checkpoint shares stays.
///
/// # Errors
/// As [`JobLog::append`], and then the checkpoint is not retired. If the deletion fails (S7007),
/// the next one or the next take-over finishes it. `Data` if the manifest of a retained checkpoint
/// is missing or damaged: then nothing is deleted.
pub fn retire(log: &mut JobLog, checkpoint: u64) -> Result<()> {
    log.append(Entry::Retired { checkpoint })?;
    failpoint("retire.delete")?;
    let generation = log.generation();
    sweep(log.store(), log.history(), |number, by| {
        number <= checkpoint && by <= generation
    })
}

/// What a new leader does before its tasks write: finishes the deletions of retired checkpoints,
/// and removes what older leaders left behind and never published.
///
/// # Errors
/// S7007 if the store failed; `Data` if the manifest of a published checkpoint is missing or
/// damaged: then nothing is deleted.
pub fn clean_up(log: &JobLog) -> Result<()> {
    let store = log.store();
    sweep(store, log.history(), |_, by| by < log.generation())?;
    let folders = store.folders()?;
    let ours = folders.iter().filter(|folder| {
        checkpoint_of(folder).is_some() || [LOG_FOLDER, PLUGIN_FOLDER].contains(&folder.as_str())
    });
    ours.into_iter()
        .try_for_each(|folder| store.remove_unfinished(folder))
}

/// Deletes what is not referred to, if `may_go` says so of its checkpoint and generation. Manifests
/// go last: while one is there, fsck knows what the rest was.
fn sweep(store: &Store, history: &History, may_go: impl Fn(u64, u64) -> bool) -> Result<()> {
    let mut live = BTreeSet::new();
    for published in history
        .published
        .iter()
        .filter(|published| published.location.is_none())
    {
        live.insert(published.manifest.path.clone());
        live.extend(
            Snapshot::load(store, published)?
                .manifest()
                .objects()
                .map(|stored| stored.path.clone()),
        );
    }
    let mut garbage: Vec<String> = checkpoint_objects(store)?
        .into_iter()
        .map(|(path, _)| path)
        .collect();
    garbage.retain(|path| {
        !live.contains(path)
            && origin_of(path).is_some_and(|(checkpoint, by)| may_go(checkpoint, by))
    });
    garbage.sort_by_key(|path| path.ends_with(".json"));
    garbage.iter().try_for_each(|path| store.delete(path))
}

fn checkpoint_objects(store: &Store) -> Result<Vec<(String, u64)>> {
    let folders = store
        .folders()?
        .into_iter()
        .filter(|folder| checkpoint_of(folder).is_some());
    Ok(folders
        .map(|folder| store.list(&folder))
        .collect::<Result<Vec<_>>>()?
        .concat())
}

/// Says what is wrong with a manifest that lies at a path: S7001 for damage.
type CheckManifest<'a> = dyn Fn(&str, &Manifest) -> Result<()> + 'a;

/// What [`fsck`] found. Paths are those of the store; a savepoint's folder stands before its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Objects that were read and are what was written.
    pub whole: usize,
    /// Their lengths together.
    pub whole_bytes: u64,
    /// What a manifest or the log refers to, and is not there.
    pub missing: Vec<String>,
    /// What is there with other bytes.
    pub damaged: Vec<String>,
    /// What nothing refers to, with its length: a pending checkpoint's, or garbage.
    pub unreferenced: Vec<(String, u64)>,
}

impl Report {
    /// Nothing is missing or damaged.
    pub fn is_sound(&self) -> bool {
        self.missing.is_empty() && self.damaged.is_empty()
    }
}

/// Reads everything that the published checkpoints of a job, or the savepoint in a folder, refer
/// to. Changes nothing. A savepoint of a job is looked at only if a restart would go on from it:
/// the others may have been moved. `check` is told each manifest with its path, and says
/// whether what the manifest only carries holds together as well.
///
/// # Errors
/// S7007 if the store failed, S7001 if the log cannot be read whole, S7002 if a manifest is of a
/// newer version or there is nothing.
pub fn fsck(store: &Store, check: &CheckManifest<'_>) -> Result<Report> {
    let mut examination = Examination {
        check,
        seen: BTreeSet::new(),
        report: Report::default(),
    };
    if let Some(bytes) = store.read(SAVEPOINT_MANIFEST)? {
        examination.snapshot(store, &Stored::of(SAVEPOINT_MANIFEST, &bytes), "")?;
        return Ok(examination.report);
    }
    let history = History::read(store)?;
    if history.entries == 0 {
        let message = format!("{} holds no checkpoints and no savepoint", store.location());
        return Err(Error::new(code::SNAPSHOT_FOREIGN, message));
    }
    let newest = history
        .newest()
        .into_iter()
        .filter(|newest| newest.location.is_some());
    history
        .published
        .iter()
        .filter(|published| published.location.is_none())
        .chain(newest)
        .try_for_each(|published| examination.published(store, published))?;
    let objects = [checkpoint_objects(store)?, store.list(PLUGIN_FOLDER)?].concat();
    let Examination {
        seen, mut report, ..
    } = examination;
    report.unreferenced = objects
        .into_iter()
        .filter(|(path, _)| !seen.contains(path))
        .collect();
    Ok(report)
}

/// What [`fsck`] has looked at so far.
struct Examination<'a> {
    check: &'a CheckManifest<'a>,
    seen: BTreeSet<String>,
    report: Report,
}

impl Examination<'_> {
    fn published(&mut self, store: &Store, published: &Published) -> Result<()> {
        let Some(location) = &published.location else {
            return self.snapshot(store, &published.manifest, "");
        };
        match Store::existing(location) {
            Ok(savepoint) => {
                self.snapshot(&savepoint, &published.manifest, &format!("{location}/"))
            }
            Err(_) => {
                let path = format!("{location}/{}", published.manifest.path);
                self.report.missing.push(path);
                Ok(())
            }
        }
    }

    /// `place` stands before the paths of the store.
    fn snapshot(&mut self, store: &Store, manifest: &Stored, place: &str) -> Result<()> {
        let Some(bytes) = self.object(store, manifest, place)? else {
            return Ok(());
        };
        let read = Manifest::read(&manifest.path, &bytes)
            .and_then(|read| (self.check)(&manifest.path, &read).map(|()| read));
        match read {
            Ok(read) => read
                .objects()
                .try_for_each(|stored| self.object(store, stored, place).map(drop)),
            Err(error) if error.code() == code::SNAPSHOT_DAMAGED => {
                self.report
                    .damaged
                    .push(format!("{place}{}", manifest.path));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Reads an object once, and notes how it was; None if it was read before, or is not whole.
    fn object(&mut self, store: &Store, stored: &Stored, place: &str) -> Result<Option<Vec<u8>>> {
        let name = format!("{place}{}", stored.path);
        if !self.seen.insert(name.clone()) {
            return Ok(None);
        }
        match store.examine(stored)? {
            Condition::Missing => self.report.missing.push(name),
            Condition::Damaged(_) => self.report.damaged.push(name),
            Condition::Whole(bytes) => {
                self.report.whole += 1;
                self.report.whole_bytes = self.report.whole_bytes.saturating_add(stored.bytes);
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SnapshotKind;
    use crate::manifest::{publish, tests::manifest};
    use crate::tests::faulty::{Fault, Faulty, Operation};
    use object_store::memory::InMemory;
    use std::sync::Arc;

    fn paths(store: &Store, folder: &str) -> Vec<String> {
        store
            .list(folder)
            .unwrap()
            .into_iter()
            .map(|(path, _)| path)
            .collect()
    }

    /// A job with published checkpoints, of generation 1.
    fn job(store: &Store, checkpoints: impl IntoIterator<Item = u64>) -> JobLog {
        let (mut log, _) = JobLog::take_over(store, "a").unwrap();
        checkpoints
            .into_iter()
            .for_each(|number| drop(publish_at(store, &mut log, number)));
        log
    }

    fn publish_at(store: &Store, log: &mut JobLog, checkpoint: u64) -> Published {
        let manifest = manifest(
            store,
            SnapshotKind::Checkpoint,
            checkpoint,
            log.generation(),
        );
        publish(&manifest, store, log, true).unwrap()
    }

    /// A checkpoint whose only object is that of another one.
    fn publish_sharing(store: &Store, log: &mut JobLog, checkpoint: u64, shared: u64) {
        let mut sharing = manifest(store, SnapshotKind::Checkpoint, shared, 1);
        (sharing.checkpoint, sharing.generation) = (checkpoint, log.generation());
        publish(&sharing, store, log, true).unwrap();
    }

    #[test]
    fn a_retired_checkpoint_goes_and_what_is_shared_stays() {
        let store = Store::in_memory().unwrap();
        let mut log = job(&store, [1]);
        manifest(&store, SnapshotKind::Checkpoint, 2, 1);
        publish_sharing(&store, &mut log, 3, 1);
        manifest(&store, SnapshotKind::Checkpoint, 4, 1);
        retire(&mut log, 1).unwrap();
        assert_eq!(paths(&store, "chk-1"), ["chk-1/0-0-1"]);
        assert_eq!(
            paths(&store, "chk-2"),
            ["chk-2/0-0-1"],
            "an aborted one after the retired one waits for the next"
        );
        publish_at(&store, &mut log, 5);
        retire(&mut log, 3).unwrap();
        assert_eq!(
            store.folders().unwrap(),
            ["chk-4", "chk-5", "log", "plugins"]
        );
        assert!(fsck(&store, &|_, _| Ok(())).unwrap().is_sound());
        assert_eq!(retire(&mut log, 3).unwrap_err().code(), code::INTERNAL);
    }

    #[test]
    fn a_new_leader_finishes_deletions_and_removes_what_was_never_published() {
        let store = Store::in_memory().unwrap();
        let mut log = job(&store, [1, 2]);
        log.append(Entry::Retired { checkpoint: 1 }).unwrap();
        manifest(&store, SnapshotKind::Checkpoint, 3, 1)
            .write(&store)
            .unwrap();
        store
            .put("chk-2/notes.txt", b"of the user".to_vec())
            .unwrap();
        let (log, _) = JobLog::take_over(&store, "b").unwrap();
        manifest(&store, SnapshotKind::Checkpoint, 3, 2);
        clean_up(&log).unwrap();
        let left = [
            "chk-2/0-0-1",
            "chk-2/manifest-1.json",
            "chk-2/notes.txt",
            "chk-3/0-0-2",
        ];
        assert_eq!(
            [
                paths(&store, "chk-2"),
                paths(&store, "chk-3"),
                paths(&store, "chk-1")
            ]
            .concat(),
            left
        );
        assert_eq!(paths(&store, "plugins"), ["plugins/d1.wasm"]);
    }

    #[test]
    fn a_leader_that_was_superseded_deletes_nothing_that_counts() {
        let store = Store::in_memory().unwrap();
        let old = job(&store, [1]);
        let (mut new, _) = JobLog::take_over(&store, "b").unwrap();
        publish_sharing(&store, &mut new, 2, 1);
        publish_at(&store, &mut new, 3);
        new.append(Entry::Retired { checkpoint: 1 }).unwrap();
        clean_up(&old).unwrap();
        sweep(&store, old.history(), |number, by| {
            number <= 9 && by <= old.generation()
        })
        .unwrap();
        let report = fsck(&store, &|_, _| Ok(())).unwrap();
        assert!(report.is_sound() && report.whole == 5, "{report:?}");
    }

    #[test]
    fn nothing_is_deleted_while_a_manifest_cannot_be_read() {
        let store = Store::in_memory().unwrap();
        let mut log = job(&store, [1, 2]);
        store
            .put("chk-2/manifest-1.json", b"torn".to_vec())
            .unwrap();
        assert_eq!(
            retire(&mut log, 1).unwrap_err().code(),
            code::SNAPSHOT_DAMAGED
        );
        assert_eq!(paths(&store, "chk-1").len(), 2);
    }

    #[test]
    fn a_deletion_that_failed_is_finished_later() {
        let objects = Arc::new(InMemory::new());
        let fails = |operation, _: &str| {
            if operation == Operation::Delete {
                Fault::Forbidden
            } else {
                Fault::None
            }
        };
        let mut log = job(
            &Store::impatient(Arc::new(Faulty::new(objects.clone(), fails))),
            [1, 2],
        );
        assert_eq!(retire(&mut log, 1).unwrap_err().code(), code::STORE);
        assert!(log.leads());
        let store = Store::impatient(objects);
        assert_eq!(fsck(&store, &|_, _| Ok(())).unwrap().unreferenced.len(), 2);
        clean_up(&JobLog::take_over(&store, "b").unwrap().0).unwrap();
        assert_eq!(fsck(&store, &|_, _| Ok(())).unwrap().unreferenced, []);
    }

    #[test]
    fn fsck_finds_what_is_missing_damaged_and_left_over() {
        let store = Store::in_memory().unwrap();
        assert_eq!(
            fsck(&store, &|_, _| Ok(())).unwrap_err().code(),
            code::SNAPSHOT_FOREIGN
        );
        job(&store, [1, 2, 3]);
        manifest(&store, SnapshotKind::Checkpoint, 4, 1);
        store.put("chk-1/0-0-1", b"other".to_vec()).unwrap();
        store
            .put("chk-2/manifest-1.json", b"torn".to_vec())
            .unwrap();
        store.delete("chk-3/0-0-1").unwrap();
        let report = fsck(&store, &|_, _| Ok(())).unwrap();
        let others = |path: &str, _: &Manifest| match path {
            "chk-3/manifest-1.json" => Err(Error::new(code::SNAPSHOT_DAMAGED, "an index lies")),
            _ => Ok(()),
        };
        let stricter = fsck(&store, &others).unwrap();
        assert_eq!(stricter.damaged[2..], ["chk-3/manifest-1.json"]);
        assert_eq!(report.damaged, ["chk-1/0-0-1", "chk-2/manifest-1.json"]);
        assert_eq!(
            (report.missing.clone(), report.whole),
            (vec!["chk-3/0-0-1".to_owned()], 3)
        );
        let left: Vec<&str> = report
            .unreferenced
            .iter()
            .map(|(path, _)| path.as_str())
            .collect();
        assert_eq!(left, ["chk-2/0-0-1", "chk-4/0-0-1"]);
    }

    #[test]
    fn fsck_reads_the_folder_of_a_savepoint() {
        let store = Store::in_memory().unwrap();
        manifest(&store, SnapshotKind::Savepoint, 4, 1)
            .write(&store)
            .unwrap();
        assert_eq!(fsck(&store, &|_, _| Ok(())).unwrap().whole, 3);
        store.delete("0-0-1").unwrap();
        assert_eq!(fsck(&store, &|_, _| Ok(())).unwrap().missing, ["0-0-1"]);
    }
}
