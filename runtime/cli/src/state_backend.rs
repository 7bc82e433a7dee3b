//! The backend that a job keeps its keyed state in.

use crate::cache;
use std::path::PathBuf;
use std::sync::Arc;
use streamrt_state::Backend;
use streamrt_taskmanager::StateBackend;
use streamrt_types::{BackendKind, Configuration, Error, Result, code};

/// `None`: memory.
///
/// # Errors
/// `Invalid` if this program was built without the backend, S7007 if there is no folder for it.
pub fn of(configuration: &Configuration) -> Result<Option<StateBackend>> {
    match configuration.state_backend {
        BackendKind::Memory => Ok(None),
        BackendKind::Rocksdb => Ok(Some(StateBackend {
            backend: rocksdb(configuration.state_disk_bytes())?,
            folder: folder(configuration)?,
        })),
    }
}

fn folder(configuration: &Configuration) -> Result<PathBuf> {
    let own = || {
        cache::state().ok_or_else(|| {
            Error::new(
                code::STORE,
                "there is no cache folder for state on disk; `-D state.dir=DIR` names one",
            )
        })
    };
    configuration
        .state_dir
        .as_ref()
        .map(PathBuf::from)
        .map_or_else(own, Ok)
}

#[cfg(feature = "rocksdb")]
fn rocksdb(memory_bytes: usize) -> Result<Arc<dyn Backend>> {
    Ok(Arc::new(streamrt_state_rocksdb::RocksBackend::new(
        memory_bytes,
    )?))
}

#[cfg(not(feature = "rocksdb"))]
fn rocksdb(_memory_bytes: usize) -> Result<Arc<dyn Backend>> {
    let message = "this streamrt was built without RocksDB: build it with `--features rocksdb`, or keep state in memory";
    Err(Error::new(code::BAD_OPTION, message))
}
