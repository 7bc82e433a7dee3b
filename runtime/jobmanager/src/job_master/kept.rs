//! What is kept of a job before it starts: its log, and the snapshot that it goes on from.

use std::sync::Arc;
use streamrt_checkpoint::{EndState, History, Manifest, Published, Snapshot, Store};
use streamrt_rpc::Restore;
use streamrt_types::{Error, Result, code, say};

/// A snapshot that a job goes on from.
#[derive(Debug, Clone, PartialEq)]
pub struct KeptSnapshot {
    pub restore: Restore,
    pub manifest: Arc<Manifest>,
    /// Its number in the log; 0 if it does not stand there.
    pub number: u64,
}

impl KeptSnapshot {
    fn of(snapshot: &Snapshot, history: &History) -> KeptSnapshot {
        KeptSnapshot {
            restore: Restore {
                location: snapshot.store().location().to_owned(),
                published: snapshot.published().clone(),
            },
            manifest: Arc::new(snapshot.manifest().clone()),
            number: number_in(history, snapshot.published()),
        }
    }

    /// Whether the log says that what it promises to commit is committed. A reader of the results
    /// may have moved it away since.
    pub fn is_committed(&self, history: &History) -> bool {
        (1..=history.committed).contains(&self.number)
    }
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Kept {
    /// The job's folder; None if it makes no checkpoints.
    pub location: Option<String>,
    pub history: History,
    pub snapshot: Option<KeptSnapshot>,
    /// The job has finished, with the snapshot: nothing runs.
    pub finished: bool,
}

/// Looks at the job's folder, and at the snapshot `from` that the user names.
///
/// # Errors
/// `Invalid` (S7005) if `from` is older than what the job has committed since, or of another job
/// than that of the folder, S7001 and S7002 if what stands there cannot be used, S7007 if the store
/// does not answer.
pub(crate) fn look_at(store: Option<&Store>, from: Option<&str>) -> Result<Kept> {
    let history = store.map(History::read).transpose()?.unwrap_or_default();
    let finished = history.end == Some(EndState::Finished);
    let snapshot = match (from, store.zip(history.newest())) {
        (None, None) => None,
        (None, Some((store, _))) if finished => last(store, &history)?,
        (None, Some((store, _))) => newest(store, &history)?,
        (Some(from), None) => Some(Snapshot::open(from)?),
        (Some(from), Some((store, newest))) => Some(named(from, store, newest, &history)?),
    };
    Ok(Kept {
        location: store.map(|store| store.location().to_owned()),
        snapshot: snapshot.map(|snapshot| KeptSnapshot::of(&snapshot, &history)),
        history,
        finished,
    })
}

/// What the newest checkpoint promises to commit; `None` if there is none, or that is known to be
/// done.
pub(crate) fn uncommitted(store: &Store, history: &History) -> Result<Option<Restore>> {
    let is_done = |newest: &Published| newest.checkpoint <= history.committed;
    // It may be gone, if it is a snapshot of another job.
    if history.newest().is_some_and(is_done) {
        return Ok(None);
    }
    let newest = newest(store, history)?.map(|newest| KeptSnapshot::of(&newest, history));
    let open = newest.filter(|newest| !newest.is_committed(history));
    Ok(open.map(|newest| newest.restore))
}

/// What tasks that fail while others run go on from.
pub(crate) fn newest_kept(store: &Store, history: &History) -> Result<Option<KeptSnapshot>> {
    let newest = newest(store, history)?;
    Ok(newest.map(|newest| KeptSnapshot::of(&newest, history)))
}

/// What a job goes on from whose user names the snapshot `from`, and whose newest one is `newest`.
fn named(from: &str, store: &Store, newest: &Published, history: &History) -> Result<Snapshot> {
    let named = Snapshot::open(from)?;
    let checksum = &named.published().manifest.checksum;
    let is_named = |published: &Published| published.manifest.checksum == *checksum;
    // It may have been moved since.
    if is_named(newest) {
        return Ok(named);
    }
    let is_ours = history.job.starts_with(&named.manifest().job_id);
    let folder = store.location();
    let (old, new) = (named.manifest().checkpoint, newest.checkpoint);
    let refuse = |message: String| Err(Error::new(code::OTHER_JOB, message));
    match history.published.iter().any(is_named) {
        _ if is_ours && new > old => refuse(format!(
            "{from} is checkpoint {old}, but the job has committed results up to checkpoint {new} since, which would be written twice; \
             without `--from` it goes on from there"
        )),
        // A job that was started from it once goes on from where it is.
        true => load(store, newest),
        false if is_ours && history.end != Some(EndState::Finished) => Ok(named),
        false => refuse(format!(
            "{folder} holds checkpoints of a job that was not started from {from}: one that is gets a `checkpoint.dir` of its own"
        )),
    }
}

/// What a job has finished with. A savepoint belongs to the user, who may have moved it: then
/// nothing says what the job was.
fn last(store: &Store, history: &History) -> Result<Option<Snapshot>> {
    let Some(newest) = history.newest() else {
        return Ok(None);
    };
    match load(store, newest) {
        Err(_) if newest.location.is_some() => Ok(None),
        loaded => loaded.map(Some),
    }
}

fn load(store: &Store, published: &Published) -> Result<Snapshot> {
    let moved = |e: Error| {
        match &published.location {
        Some(folder) => e.at(format_args!(
            "the job goes on from the savepoint in {folder}; if it was moved, `--from` says where it is"
        )),
        None => e,
    }
    };
    Snapshot::load(store, published).map_err(moved)
}

/// What the job goes on from. A savepoint with which nothing was committed belongs to the user
/// alone: if it cannot be read, what stands before it serves as well.
pub(crate) fn newest(store: &Store, history: &History) -> Result<Option<Snapshot>> {
    let mut candidates = history.restorable().peekable();
    while let Some(published) = candidates.next() {
        match (load(store, published), candidates.peek()) {
            (Err(error), Some(before)) => {
                let (number, before) = (published.checkpoint, before.checkpoint);
                say!(
                    "streamrt: savepoint {number} is passed over, since nothing was committed with it, for checkpoint {before}: {}",
                    error.message()
                );
            }
            (loaded, _) => return loaded.map(Some),
        }
    }
    Ok(None)
}

/// The number of a snapshot in the log; 0 if it does not stand there.
pub(crate) fn number_in(history: &History, snapshot: &Published) -> u64 {
    let checksum = &snapshot.manifest.checksum;
    let mut published = history.published.iter();
    let known = published.find(|known| known.manifest.checksum == *checksum);
    known.map_or(0, |known| known.checkpoint)
}
