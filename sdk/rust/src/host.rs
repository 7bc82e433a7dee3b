//! What functions ask of the host in the middle of a call. In a component it is the imports; in a
//! test it is the harness.

use crate::bindings::streamrt::plugin::types::Section;
use crate::error::{Error, Result};

/// List and map state of the slots of the running call; the WIT's interface `state`.
pub(crate) trait StateHost {
    fn get_many(&self, state: u32, keys: &Section) -> Result<Section>;
    fn put_many(&self, state: u32, entries: &Section) -> Result<()>;
    fn scan(&self, state: u32, slot: u32, after: &[u8], limit: u32) -> Result<Section>;
}

/// The imports.
pub(crate) struct Imports;

fn error(error: crate::bindings::streamrt::plugin::types::Error) -> Error {
    Error::coded(error.code, error.message)
}

impl StateHost for Imports {
    fn get_many(&self, state: u32, keys: &Section) -> Result<Section> {
        crate::bindings::streamrt::plugin::state::get_many(state, keys).map_err(error)
    }

    fn put_many(&self, state: u32, entries: &Section) -> Result<()> {
        crate::bindings::streamrt::plugin::state::put_many(state, entries).map_err(error)
    }

    fn scan(&self, state: u32, slot: u32, after: &[u8], limit: u32) -> Result<Section> {
        crate::bindings::streamrt::plugin::state::scan(state, slot, after, limit).map_err(error)
    }
}
