//! A checkpoint or savepoint that is there: its manifest, checked, and the bytes that it refers to.

use crate::names::{SAVEPOINT_MANIFEST, checkpoint_of};
use crate::{
    Beginning, DiskFileEntry, History, Manifest, PluginEntry, Published, Store, Stored,
    SubtaskSnapshot,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use streamrt_types::{Error, Result, code};

/// See the module.
pub struct Snapshot {
    manifest: Manifest,
    /// The place of each (vertex, subtask) in the manifest.
    places: BTreeMap<(u32, u32), usize>,
    published: Published,
    store: Store,
    /// What was read, by path: an object holds all operators of a chain, and is read once.
    objects: Mutex<BTreeMap<String, Arc<Vec<u8>>>>,
}

impl Snapshot {
    /// Opens what the log of `store` names.
    ///
    /// # Errors
    /// `Data` (S7001) if the manifest is missing or damaged, `Invalid` (S7002) if it is of a newer
    /// version, S7007 if the store failed.
    pub fn load(store: &Store, published: &Published) -> Result<Snapshot> {
        let store = published
            .location
            .as_deref()
            .map_or_else(|| Ok(store.clone()), Store::existing)?;
        let bytes = store.get(&published.manifest)?;
        Snapshot::of(store, &published.manifest.path, &bytes)
    }

    /// Opens what a user names: the folder of a savepoint, the folder of all checkpoints of a job
    /// (then the newest one that was published), or one checkpoint in it, as in `DIR/chk-7`.
    ///
    /// # Errors
    /// As [`Snapshot::load`], and S7002 if there is none.
    pub fn open(location: &str) -> Result<Snapshot> {
        let location = location.trim_end_matches('/');
        let (folder, checkpoint) = match location.rsplit_once('/').unwrap_or((".", location)) {
            (folder, name) if checkpoint_of(name).is_some() => (folder, checkpoint_of(name)),
            _ => (location, None),
        };
        let store = Store::existing(folder)?;
        if checkpoint.is_none()
            && let Some(bytes) = store.read(SAVEPOINT_MANIFEST)?
        {
            return Snapshot::of(store, SAVEPOINT_MANIFEST, &bytes);
        }
        let history = History::read(&store)?;
        let wanted = |published: &&Published| {
            checkpoint.is_none_or(|checkpoint| published.checkpoint == checkpoint)
        };
        let none = || {
            Error::new(
                code::SNAPSHOT_FOREIGN,
                format!("`{location}` holds no savepoint and no published checkpoint"),
            )
        };
        Snapshot::load(
            &store,
            history.published.iter().rfind(wanted).ok_or_else(none)?,
        )
    }

    fn of(store: Store, path: &str, bytes: &[u8]) -> Result<Snapshot> {
        let manifest = Manifest::read(path, bytes)?;
        let location = Some(store.location().to_owned());
        let published = Published {
            checkpoint: manifest.checkpoint,
            kind: manifest.kind,
            manifest: Stored::of(path, bytes),
            location,
            uncommitted: false,
        };
        let places = manifest
            .subtasks
            .iter()
            .enumerate()
            .map(|(place, subtask)| ((subtask.vertex, subtask.subtask), place))
            .collect();
        Ok(Snapshot {
            manifest,
            places,
            published,
            store,
            objects: Mutex::default(),
        })
    }

    /// How any log can name it, whatever store the log is in.
    pub fn published(&self) -> &Published {
        &self.published
    }

    /// Its paths are those of [`Snapshot::store`].
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The component of a plugin.
    ///
    /// # Errors
    /// As [`Store::get`]; S7001 if it is another one than the manifest says.
    pub fn component(&self, plugin: &PluginEntry) -> Result<Vec<u8>> {
        if plugin.component.checksum != plugin.digest {
            let message = format!(
                "the manifest says that {} is the component {}",
                plugin.component.path, plugin.digest
            );
            return Err(Error::new(code::SNAPSHOT_DAMAGED, message));
        }
        self.store.get(&plugin.component)
    }

    fn subtask(&self, vertex: u32, subtask: u32) -> Option<&SubtaskSnapshot> {
        self.places
            .get(&(vertex, subtask))
            .map(|&place| &self.manifest.subtasks[place])
    }

    /// The bytes of a subtask's states, which the indexes of its operators are about; None for one
    /// that had finished or had none. They stay in memory as long as the snapshot does.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub fn states(&self, vertex: u32, subtask: u32) -> Result<Option<Arc<Vec<u8>>>> {
        let found = self.subtask(vertex, subtask);
        let Some((stored, found)) = found.and_then(|found| Some((found.object.as_ref()?, found)))
        else {
            return Ok(None);
        };
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(object) = objects.get(&stored.path) {
            return Ok(Some(object.clone()));
        }
        let object = Arc::new(self.whole(found, stored)?);
        objects.insert(stored.path.clone(), object.clone());
        Ok(Some(object))
    }

    /// The bytes of an object, after what stands in front of them.
    fn whole(&self, subtask: &SubtaskSnapshot, object: &Stored) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for Beginning { stored, used } in &subtask.begins {
            let begin = self.store.get(stored)?;
            bytes.extend(
                begin
                    .into_iter()
                    .take(usize::try_from(*used).unwrap_or(usize::MAX)),
            );
        }
        let object = self.store.get(object)?;
        Ok(if bytes.is_empty() {
            object
        } else {
            [bytes, object].concat()
        })
    }

    /// The files of an operator's state on disk, by old subtask; none where it had none.
    pub fn files(&self, uid: &str) -> Vec<Vec<DiskFileEntry>> {
        let Some(operator) = self
            .manifest
            .operators
            .iter()
            .find(|operator| operator.uid == uid)
        else {
            return Vec::new();
        };
        let of_subtask = |subtask: u32| {
            let found = self.subtask(operator.vertex, subtask);
            found
                .into_iter()
                .flat_map(|found| &found.files)
                .filter(|file| file.uid == uid)
                .cloned()
                .collect()
        };
        (0..operator.parallelism).map(of_subtask).collect()
    }
}
