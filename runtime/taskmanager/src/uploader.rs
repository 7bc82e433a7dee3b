//! Takes what the tasks of a job report, in order: writes frozen states as one object for each task
//! and checkpoint, and passes everything else on after what the same task reported before.

use crate::disk_uploads::{DiskUploads, Place};
use crate::disks::Disks;
use crate::enumerator::ENUMERATOR_SUFFIX;
use crate::grown::Grown;
use crate::mailbox::{Pause, Report, TaskSnapshot};
use crate::restored::Restored;
use crate::snapshot_states::entries;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use streamrt_checkpoint::{
    OperatorEntry, SnapshotKind, Store, Stored, SubtaskSnapshot, object_path,
};
use streamrt_rpc::{FromTaskManager, SubtaskReport};
use streamrt_types::{Result, Strand, failpoint};

/// The snapshots of a job that are being made, for the uploader and whoever hears from the
/// JobMaster.
#[derive(Default)]
pub(crate) struct Snapshots {
    /// The stores of savepoints, by the number of the snapshot.
    savepoints: Mutex<BTreeMap<u64, Store>>,
    /// Snapshots up to this number are not worth a write: they count already, or never will.
    over: AtomicU64,
}

impl Snapshots {
    fn savepoints(&self) -> MutexGuard<'_, BTreeMap<u64, Store>> {
        self.savepoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The snapshot is a savepoint, which goes into this store.
    pub fn begin_savepoint(&self, checkpoint: u64, store: Store) {
        self.savepoints().insert(checkpoint, store);
    }

    /// The snapshot, and all before it, are over.
    pub fn end(&self, checkpoint: u64) {
        self.savepoints().retain(|number, _| *number > checkpoint);
        self.over.fetch_max(checkpoint, Ordering::SeqCst);
    }

    fn is_over(&self, checkpoint: u64) -> bool {
        checkpoint <= self.over.load(Ordering::SeqCst)
    }
}

/// The way of reports to an uploader, from any thread. They are treated in order, by threads that
/// upload for other jobs too.
#[derive(Clone)]
pub(crate) struct Reports(Arc<(Strand, Arc<Mutex<Uploader>>)>);

impl Reports {
    pub fn new(strand: Strand, uploader: Uploader) -> Reports {
        Reports(Arc::new((strand, Arc::new(Mutex::new(uploader)))))
    }

    pub fn send(&self, report: Report) {
        let (strand, uploader) = &*self.0;
        let uploader = uploader.clone();
        strand.run(move || {
            let mut uploader = uploader.lock().unwrap_or_else(PoisonError::into_inner);
            uploader.report(report);
        });
    }
}

/// Tasks that start, or start again.
pub(crate) struct Begin {
    pub tasks: Vec<usize>,
    pub generation: u64,
    pub operators: Vec<OperatorEntry>,
    pub restored: Arc<Restored>,
}

/// What the uploader knows of a task.
struct TaskPlace {
    vertex: u32,
    subtask: u32,
    name: String,
    generation: u64,
}

/// See the module.
pub(crate) struct Uploader {
    store: Store,
    snapshots: Arc<Snapshots>,
    /// The generation of the attempt, in the names of its objects.
    generation: u64,
    max_parallelism: u32,
    disks: Option<Arc<Disks>>,
    files: DiskUploads,
    /// By task, the object that the store got last. A state that has not changed since is not
    /// written again.
    last: BTreeMap<usize, Stored>,
    /// The same of those that grow at their end: what an enumerator has found.
    grown: Grown,
    tasks: Vec<TaskPlace>,
    tell: Box<dyn Fn(FromTaskManager) + Send>,
}

impl Uploader {
    /// `names` are (vertex, subtask, name) of all tasks.
    pub fn new(
        store: Store,
        snapshots: Arc<Snapshots>,
        (max_parallelism, disks): (u32, Option<Arc<Disks>>),
        begin: &Begin,
        names: Vec<(u32, u32, String)>,
        tell: Box<dyn Fn(FromTaskManager) + Send>,
    ) -> Uploader {
        let generation = begin.generation;
        let place = |(vertex, subtask, name)| TaskPlace {
            vertex,
            subtask,
            name,
            generation,
        };
        Uploader {
            files: DiskUploads::new(store.clone(), generation, &begin.operators, &begin.restored),
            store,
            snapshots,
            generation,
            max_parallelism,
            disks,
            last: BTreeMap::new(),
            grown: Grown::default(),
            tasks: names.into_iter().map(place).collect(),
            tell,
        }
    }

    /// Treats a report.
    fn report(&mut self, report: Report) {
        let told = match report {
            Report::Snapshot(snapshot) => match self.snapshot(snapshot) {
                Some(told) => told,
                None => return,
            },
            Report::Committed { task, checkpoint } => FromTaskManager::Committed {
                task,
                generation: self.tasks[task].generation,
                checkpoint,
            },
            Report::Ended { task } => FromTaskManager::Ended {
                task,
                generation: self.tasks[task].generation,
            },
            Report::Finished { task, dead_letters } => FromTaskManager::Finished {
                task,
                generation: self.tasks[task].generation,
                dead_letters,
            },
            Report::RegionEnded {
                region,
                generation,
                error,
            } => FromTaskManager::RegionEnded {
                region,
                generation,
                error,
            },
            Report::Begin(begin) => return self.begin(&begin),
        };
        (self.tell)(told);
    }

    /// Tasks of a region that failed start again, with states that may be others.
    fn begin(&mut self, begin: &Begin) {
        for task in &begin.tasks {
            self.tasks[*task].generation = begin.generation;
        }
        self.files.restart(&begin.operators, &begin.restored);
        self.last.clear();
        self.grown.clear();
    }

    fn snapshot(&mut self, snapshot: TaskSnapshot) -> Option<FromTaskManager> {
        let (task, checkpoint, began) = (snapshot.task, snapshot.checkpoint, Instant::now());
        let Pause { alignment, sync } = snapshot.pause;
        let generation = self.tasks[task].generation;
        let snapshot = match self.upload(snapshot) {
            Ok(snapshot) => snapshot?,
            Err(error) => {
                return Some(FromTaskManager::Declined {
                    task,
                    generation,
                    checkpoint,
                    reason: error.with_causes(),
                });
            }
        };
        let micros = |duration: Duration| duration.as_micros() as u64;
        let full_bytes = snapshot.objects().map(|object| object.bytes).sum();
        let report = SubtaskReport {
            name: self.tasks[task].name.clone(),
            alignment_us: micros(alignment),
            sync_us: micros(sync),
            async_us: micros(began.elapsed()),
            bytes: full_bytes - snapshot.shared_bytes(checkpoint),
            full_bytes,
        };
        Some(FromTaskManager::Acknowledged {
            task,
            generation,
            checkpoint,
            snapshot,
            report,
        })
    }

    /// None if the checkpoint was given up meanwhile.
    fn upload(&mut self, snapshot: TaskSnapshot) -> Result<Option<SubtaskSnapshot>> {
        let (vertex, subtask) = {
            let place = &self.tasks[snapshot.task];
            (place.vertex, place.subtask)
        };
        let (checkpoint, dead_letters) = (snapshot.checkpoint, snapshot.dead_letters);
        let savepoint = self.snapshots.savepoints().get(&checkpoint).cloned();
        let disks = self.disks.as_ref().filter(|_| savepoint.is_none());
        let (mut bytes, mut operators, mut disk_files) = (Vec::new(), Vec::new(), Vec::new());
        // What is on disk has to be written, whatever becomes of the checkpoint: the next one holds
        // only what changes from here on.
        for (number, (uid, operator)) in snapshot.operators.into_iter().enumerate() {
            let folder = disks.map(|disks| disks.new_folder());
            let (index, files) = operator.write_with_disk(
                &uid,
                self.max_parallelism,
                &mut bytes,
                folder.as_deref(),
            )?;
            operators.push(index);
            disk_files.extend(files.map(|files| (number, uid, files)));
        }
        if self.snapshots.is_over(checkpoint) {
            return Ok(None);
        }
        failpoint("snapshot.upload")?;
        let (mut files, place) = (Vec::new(), Place { vertex, subtask });
        for (number, uid, on_disk) in disk_files {
            let uploaded = self.files.upload(checkpoint, place, number, &uid, &on_disk);
            files.extend(uploaded?);
        }
        let operators = entries(&operators, self.max_parallelism, &bytes)?;
        let kind = match savepoint {
            Some(_) => SnapshotKind::Savepoint,
            None => SnapshotKind::Checkpoint,
        };
        let path = object_path(kind, checkpoint, self.generation, vertex, subtask);
        let grows = operators
            .iter()
            .all(|index| index.uid.ends_with(ENUMERATOR_SUFFIX));
        let (begins, object) = match &savepoint {
            _ if operators.is_empty() => (Vec::new(), None),
            Some(store) => (Vec::new(), Some(store.put(&path, bytes)?)),
            None if grows => {
                let put = |bytes| self.store.put(&path, bytes);
                let (begins, object) = self.grown.put(snapshot.task, &bytes, put)?;
                (begins, Some(object))
            }
            None => {
                let stored = self.put_if_new(snapshot.task, &path, bytes)?;
                (Vec::new(), Some(stored))
            }
        };
        Ok(Some(SubtaskSnapshot {
            vertex,
            subtask,
            finished: false,
            object,
            begins,
            operators,
            files,
            dead_letters,
        }))
    }

    /// Puts an object into the job's store, unless that has the same bytes from the checkpoint
    /// before: then this one shares them. An object that is shared has been so by every checkpoint
    /// since it was written, so as long as one of them may be published, deletion finds it named.
    fn put_if_new(&mut self, task: usize, path: &str, bytes: Vec<u8>) -> Result<Stored> {
        let last = self.last.get(&task);
        let same_length = last.filter(|last| last.bytes == bytes.len() as u64);
        if let Some(last) = same_length.filter(|last| Stored::of(&last.path, &bytes) == **last) {
            return Ok(last.clone());
        }
        let stored = self.store.put(path, bytes)?;
        self.last.insert(task, stored.clone());
        Ok(stored)
    }
}
