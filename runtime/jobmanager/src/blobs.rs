//! The components of the cluster, each under the digest of its bytes, written once.
//!
//! Invariant: what stands under a digest has it. A half upload is never seen: the store shows an
//! object when it is whole, and reads it back before it counts.

use crate::specification::check_digest;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use streamrt_checkpoint::{Store, Stored};
use streamrt_types::{Error, Result, code};

const FOLDER: &str = "components";

/// See the module.
pub struct Blobs {
    store: Store,
    bytes_max: usize,
    /// Their lengths by digest.
    known: Mutex<BTreeMap<String, u64>>,
}

fn path(digest: &str) -> String {
    format!("{FOLDER}/{digest}.wasm")
}

fn digest_of(path: &str) -> Option<&str> {
    let digest = path
        .strip_prefix(FOLDER)?
        .strip_prefix('/')?
        .strip_suffix(".wasm")?;
    check_digest(digest).is_ok().then_some(digest)
}

impl Blobs {
    /// Those that a store holds; none may have more than `bytes_max` bytes.
    ///
    /// # Errors
    /// `Unavailable` (S7007) if the store does not answer.
    pub fn open(store: Store, bytes_max: usize) -> Result<Blobs> {
        store.remove_unfinished(FOLDER)?;
        let listed = store.list(FOLDER)?;
        let known = listed
            .iter()
            .filter_map(|(path, bytes)| Some((digest_of(path)?.to_owned(), *bytes)))
            .collect();
        Ok(Blobs {
            store,
            bytes_max,
            known: Mutex::new(known),
        })
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a component may have.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Whether a component is there, and whole. One that is damaged is not there any more: it can be
    /// put again.
    pub fn contains(&self, digest: &str) -> bool {
        match self.get(digest) {
            Err(error) if error.code() == code::SNAPSHOT_DAMAGED => {
                self.known().remove(digest);
                false
            }
            Err(error) => error.code() != code::NO_COMPONENT,
            Ok(_) => true,
        }
    }

    /// Keeps a component; false if it was there.
    ///
    /// # Errors
    /// S6009 if the bytes have another digest, S1020 if there are too many of them, S7007 if the
    /// store failed.
    pub fn put(&self, digest: &str, bytes: Vec<u8>) -> Result<bool> {
        check_digest(digest)?;
        if bytes.len() > self.bytes_max {
            return Err(self.too_large());
        }
        let found = Stored::of("", &bytes).checksum;
        if found != digest {
            let message = format!(
                "the bytes have the digest {found}, and not {digest}: they were changed or cut on their way"
            );
            return Err(Error::new(code::BAD_REQUEST, message));
        }
        if self.contains(digest) {
            return Ok(false);
        }
        let n_bytes = bytes.len() as u64;
        self.store.put(&path(digest), bytes)?;
        self.known().insert(digest.to_owned(), n_bytes);
        Ok(true)
    }

    /// That a component has more bytes than it may.
    pub fn too_large(&self) -> Error {
        let message = format!(
            "a component has at most {} bytes here, as `plugin.size` says",
            self.bytes_max
        );
        Error::new(code::COMPONENT_LIMIT, message)
    }

    /// The bytes of a component.
    ///
    /// # Errors
    /// S6008 if it was not uploaded, S7001 if it is damaged.
    pub fn get(&self, digest: &str) -> Result<Vec<u8>> {
        let Some(bytes) = self.known().get(digest).copied() else {
            return Err(self.missing(digest));
        };
        let (path, checksum) = (path(digest), digest.to_owned());
        self.store.get(&Stored {
            path,
            bytes,
            checksum,
        })
    }

    /// That nobody has uploaded a component.
    pub fn missing(&self, digest: &str) -> Error {
        Error::new(
            code::NO_COMPONENT,
            format!("the component {digest} was not uploaded"),
        )
    }

    /// Deletes all but those that are `used`.
    ///
    /// # Errors
    /// S7007 if the store failed.
    pub fn retain(&self, used: impl Fn(&str) -> bool) -> Result<()> {
        let mut known = self.known();
        let unused: Vec<String> = known
            .keys()
            .filter(|digest| !used(digest))
            .cloned()
            .collect();
        for digest in unused {
            known.remove(&digest);
            self.store.delete(&path(&digest))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(bytes: &[u8]) -> String {
        Stored::of("", bytes).checksum
    }

    #[test]
    fn a_component_is_kept_once_under_its_digest() {
        let store = Store::in_memory().unwrap();
        let blobs = Blobs::open(store.clone(), 10).unwrap();
        let id = digest(b"component");
        assert_eq!(blobs.get(&id).unwrap_err().code(), code::NO_COMPONENT);
        assert!(blobs.put(&id, b"component".to_vec()).unwrap());
        assert!(!blobs.put(&id, b"component".to_vec()).unwrap());
        let again = Blobs::open(store, 10).unwrap();
        assert_eq!(again.get(&id).unwrap(), b"component");
        again.retain(|_| false).unwrap();
        assert!(!again.contains(&id));
    }

    #[test]
    fn a_component_that_is_damaged_can_be_put_again() {
        let store = Store::in_memory().unwrap();
        let blobs = Blobs::open(store.clone(), 10).unwrap();
        let id = digest(b"component");
        blobs.put(&id, b"component".to_vec()).unwrap();
        store.put(&path(&id), b"compoment".to_vec()).unwrap();
        assert!(!blobs.contains(&id));
        assert!(blobs.put(&id, b"component".to_vec()).unwrap());
        assert_eq!(blobs.get(&id).unwrap(), b"component");
    }

    #[test]
    fn what_is_cut_or_too_large_is_refused() {
        let blobs = Blobs::open(Store::in_memory().unwrap(), 10).unwrap();
        let cut = blobs.put(&digest(b"component"), b"comp".to_vec());
        assert_eq!(cut.unwrap_err().code(), code::BAD_REQUEST);
        let large = b"eleven byte";
        let refused = blobs.put(&digest(large), large.to_vec()).unwrap_err();
        assert_eq!(
            refused.message(),
            "a component has at most 10 bytes here, as `plugin.size` says"
        );
    }

    #[test]
    fn half_an_upload_is_never_seen() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        let blobs = Blobs::open(store.clone(), 100).unwrap();
        let id = digest(b"component");
        blobs.put(&id, b"component".to_vec()).unwrap();
        // As a process leaves it that is killed in the middle of an upload, or a disk that lost
        // the end of a file.
        let whole = folder.path().join(path(&id));
        std::fs::write(&whole, b"comp").unwrap();
        let damaged = Blobs::open(store, 100).unwrap();
        assert_eq!(damaged.get(&id).unwrap_err().code(), code::SNAPSHOT_DAMAGED);
    }
}
