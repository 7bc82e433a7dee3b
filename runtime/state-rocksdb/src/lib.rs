//! Keyed state on disk.
