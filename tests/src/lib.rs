//! What the end-to-end tests share: the oracle, and how the `streamrt` binary is found and run.
//!
//! The tests themselves stand in `tests/tests`. They need what `cargo xtask build` makes, and say
//! so when it is missing.

pub mod binary;
pub mod data;
pub mod faulty_disk;
pub mod fixtures;
pub mod guests;
pub mod measured;
pub mod oracle;
pub mod random;
pub mod sealed;
pub mod server;
