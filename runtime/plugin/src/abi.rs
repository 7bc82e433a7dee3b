//! The shapes of the WIT as Rust types, by which wasmtime copies them in and out of a guest's
//! memory.
//!
//! Inputs borrow: lowering `list<u8>` from a slice is one memcpy into the guest. Outputs are owned,
//! one memcpy out of it. Field names and order are those of the WIT; wasmtime compares them when a
//! function is looked up.

use wasmtime::component::{ComponentType, Lift, Lower};

/// What a section or a buffer costs in addition to its bytes.
pub(crate) const PIECE_BYTES: usize = 64;

/// An incoming buffer.
#[derive(ComponentType, Lower)]
#[component(record)]
pub(crate) struct BufferIn<'a> {
    pub role: u16,
    pub node: u16,
    pub part: u8,
    pub bytes: &'a [u8],
}

/// An incoming section.
#[derive(ComponentType, Lower)]
#[component(record)]
pub(crate) struct SectionIn<'a> {
    pub role: u16,
    pub port: u16,
    pub rows: u32,
    pub buffers: &'a [BufferIn<'a>],
}

/// A buffer that came out, or the answer of an import.
#[derive(ComponentType, Lift, Lower)]
#[component(record)]
pub(crate) struct Buffer {
    pub role: u16,
    pub node: u16,
    pub part: u8,
    pub bytes: Vec<u8>,
}

/// A section that came out, or the answer of an import.
#[derive(ComponentType, Lift, Lower)]
#[component(record)]
pub(crate) struct Section {
    pub role: u16,
    pub port: u16,
    pub rows: u32,
    pub buffers: Vec<Buffer>,
}

impl Section {
    /// What it takes in the host: the bytes of all buffers, and something per buffer and for the
    /// section itself, so that empty ones count too.
    pub fn cost(&self) -> usize {
        let n_bytes: usize = self.buffers.iter().map(|buffer| buffer.bytes.len()).sum();
        n_bytes + (self.buffers.len() + 1) * PIECE_BYTES
    }
}

/// The WIT's `files.entry`.
#[derive(ComponentType, Lift, Lower, Debug)]
#[component(record)]
pub(crate) struct Entry {
    pub name: String,
    pub kind: u8,
    pub size: u64,
}

/// The WIT's `error`.
#[derive(ComponentType, Lift, Lower, Debug)]
#[component(record)]
pub(crate) struct GuestError {
    pub code: u16,
    pub message: String,
}

pub(crate) type Answer<T> = Result<T, GuestError>;
